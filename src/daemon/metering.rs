//! The meters of the configuration, and the thread that attributes their readings to the busy spans.
//!
//! Owns the meter thread: its start, its settings and its end. Leaves the arithmetic to `energy`. The meter thread reads and
//! attributes; the async thread takes the estimates.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::meter_readings::MeterReadings;
use crate::config::Power;
use crate::energy::Calibrated;
use crate::energy::{Attribution, EnergyEstimate, Settings};
use crate::engine::span::{SpanReceiver, SpanSender, span_ring};
use crate::ids::PipelineId;
use crate::load::meters::{self, MeterContext};
use crate::meter::{Meter, MeterInfo, sampler};
use crate::stop::Stop;
use crate::sys::cpu::Others;
use crate::units::{MonoTime, Watts};

/// Spans between two readings of the meters; more are merged.
const SPANS: usize = 16 * 1024;

/// How long the last reading of a meter is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// How long the programs of meters may take to end.
const END: Duration = Duration::from_secs(2);

/// How often the processor time of other programs is read, which is in ticks of 10 ms.
const OTHERS_PERIOD: Duration = Duration::from_millis(100);

/// How the meter thread ended, and its meters.
type Ended = (io::Result<()>, Vec<Box<dyn Meter>>);

/// The energy side of a running daemon.
pub(crate) struct Metering {
    /// The pipelines that are metered, in the order of the attribution.
    pipelines: Vec<PipelineId>,
    power: Power,
    attribution: Arc<Mutex<Attribution>>,
    /// Stops the meter thread alone: meters are read until the last inference is done.
    stop: Arc<Stop>,
    thread: Option<JoinHandle<Ended>>,
    pub infos: Vec<MeterInfo>,
    pub readings: MeterReadings,
}

impl Metering {
    /// Starts the meter thread if there is a meter, and returns a sender for the busy spans of each pipeline. The processor
    /// time of the context's processes counts as ours. What is known of idle power is carried over from the metering `before`.
    pub(crate) fn start(
        power: &Power,
        pipelines: Vec<PipelineId>,
        context: MeterContext,
        before: Option<&Self>,
    ) -> io::Result<(Self, Vec<Option<SpanSender>>)> {
        let pipeline_count = pipelines.len();
        let mut meters = meters::build(power, &context);
        for meter in &mut meters {
            // A meter knows its scope only after a reading; the meter thread will report why it cannot be read.
            let _ = meter.read();
        }
        let infos: Vec<MeterInfo> = meters.iter().map(|meter| meter.info().clone()).collect();
        let readings = MeterReadings::new(&infos);
        let stop = Arc::new(Stop::new()?);
        let mut attribution = Attribution::new(pipeline_count, infos.clone(), settings(power));
        if let Some(before) = before {
            let same = |name: &str| {
                let of = |power: &Power| power.meters.iter().find(|meter| meter.name == name).cloned();
                power.sysfs == before.power.sysfs && of(power) == of(&before.power)
            };
            attribution.inherit_idle_power(&before.attribution.lock().unwrap_or_else(PoisonError::into_inner), same);
        }
        let (attribution, power_now) = (Arc::new(Mutex::new(attribution)), power.clone());
        if meters.is_empty() {
            let none = (0..pipeline_count).map(|_| None).collect();
            return Ok((Self { pipelines, power: power_now, attribution, stop, thread: None, infos, readings }, none));
        }
        let (senders, mut spans): (Vec<_>, Vec<_>) = (0..pipeline_count).map(|_| span_ring(SPANS)).unzip();
        let (period, shared, until) = (power.sample_period, attribution.clone(), stop.clone());
        let latest = readings.clone();
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            let (others, mut others_read_at) = (Others::new(context.children), None);
            let ended = sampler::run(&mut meters, period, &until, |meter, info, reading| {
                latest.note(meter, info, &reading);
                let mut attribution = shared.lock().unwrap_or_else(PoisonError::into_inner);
                absorb(&mut attribution, &mut spans);
                let now = MonoTime::now();
                if others_read_at.is_none_or(|at| now.since(at) >= OTHERS_PERIOD) {
                    others_read_at = Some(now);
                    attribution.set_other_cpu_time(others.cpu_time());
                }
                attribution.add_reading(meter, reading);
            });
            (ended, meters)
        })?;
        Ok((
            Self { pipelines, power: power_now, attribution, stop, thread: Some(thread), infos, readings },
            senders.into_iter().map(Some).collect(),
        ))
    }

    /// Takes over new settings for the same meters.
    pub(crate) fn set_power(&mut self, power: &Power) {
        self.attribution.lock().unwrap_or_else(PoisonError::into_inner).set_settings(settings(power));
        self.power = power.clone();
    }

    /// Sets which delegates are loaded, because idle power differs with them.
    pub(crate) fn set_delegates(&self, active: &str) {
        self.attribution.lock().unwrap_or_else(PoisonError::into_inner).set_delegates(active);
    }

    /// Sets the calibrations of a pipeline; `find` returns the one of each meter.
    pub(crate) fn set_calibrations(&self, pipeline: PipelineId, find: impl Fn(&MeterInfo) -> Option<Calibrated>) {
        let Some(place) = self.pipelines.iter().position(|metered| *metered == pipeline) else { return };
        let mut attribution = self.attribution.lock().unwrap_or_else(PoisonError::into_inner);
        for (meter, info) in self.infos.iter().enumerate() {
            attribution.set_calibrated(place, meter, find(info));
        }
    }

    /// Returns the estimates since the last call, by pipeline.
    pub(crate) fn figures(&self) -> BTreeMap<PipelineId, Vec<EnergyEstimate>> {
        let figures = self.attribution.lock().unwrap_or_else(PoisonError::into_inner).estimates();
        self.pipelines.iter().copied().zip(figures).collect()
    }

    /// Reads every meter a last time and ends the thread; waits at most `patience` for a meter that hangs.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        self.stop.request();
        let Some(thread) = self.thread.take() else { return };
        let joined = tokio::task::spawn_blocking(|| thread.join());
        match tokio::time::timeout(patience, joined).await {
            Ok(Ok(Ok((Ok(()), meters)))) => {
                self.attribution.lock().unwrap_or_else(PoisonError::into_inner).end();
                end(meters).await;
            }
            Ok(Ok(Ok((Err(error), meters)))) => {
                tracing::error!(%error, "the meter thread failed");
                end(meters).await;
            }
            Ok(_) => tracing::error!("the meter thread panicked"),
            Err(_) => tracing::warn!("a meter does not respond; its last reading is missing"),
        }
    }
}

/// Ends the meters, of which some have a program or a connection.
async fn end(meters: Vec<Box<dyn Meter>>) {
    let ended = tokio::task::spawn_blocking(move || drop(meters));
    if tokio::time::timeout(END, ended).await.is_err() {
        tracing::warn!("the program of a meter does not end");
    }
}

fn settings(power: &Power) -> Settings {
    Settings {
        target_rel: power.target_rel,
        window_max: power.window_max,
        idle: power.idle.map(Watts),
        idle_error: power.idle_error,
    }
}

/// Takes the spans before a reading: what has ended before the reading counts in the window that it closes.
fn absorb(attribution: &mut Attribution, spans: &mut [SpanReceiver]) {
    for (pipeline, ring) in spans.iter_mut().enumerate() {
        let known_until = ring.known_until(MonoTime::now());
        while let Some(span) = ring.pop() {
            attribution.add_span(pipeline, span);
        }
        attribution.set_known_until(pipeline, known_until);
    }
}
