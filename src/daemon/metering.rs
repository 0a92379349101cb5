//! The meters of the configuration, and the thread that joins their readings with the busy spans.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rtrb::Consumer;

use super::power::Latest;
use crate::config::Power;
use crate::energy::bout::Calibrated;
use crate::energy::{Attribution, EnergyEstimate, Settings};
use crate::engine::span::{BusySpan, SpanSender, span_ring};
use crate::load::meters;
use crate::meter::{MeterInfo, sampler};
use crate::stop::Stop;
use crate::sys::cpu::{Children, Others};
use crate::units::{MonoTime, Watts};

/// Spans between two readings of the meters; more are merged.
const SPANS: usize = 16 * 1024;

/// Between two looks at the processor time of other programs, which is in ticks of 10 ms.
const OTHERS_PERIOD: Duration = Duration::from_millis(100);

/// The energy side of a running daemon.
pub(crate) struct Metering {
    /// The pipelines that are metered, in the join's order.
    pipelines: Vec<usize>,
    power: Power,
    join: Arc<Mutex<Attribution>>,
    /// The meters' own: they are read until the last inference is done.
    stop: Arc<Stop>,
    thread: Option<JoinHandle<io::Result<()>>>,
    pub infos: Vec<MeterInfo>,
    pub latest: Latest,
}

impl Metering {
    /// Starts the meter thread, if there is a meter; one sender a pipeline then. The time of `children` is our own. What
    /// is known of idle power goes over from the metering `before`.
    pub(crate) fn start(
        power: &Power,
        pipelines: Vec<usize>,
        children: Children,
        before: Option<&Self>,
    ) -> io::Result<(Self, Vec<Option<SpanSender>>)> {
        let pipeline_count = pipelines.len();
        let mut meters = meters::build(power, &children);
        for meter in &mut meters {
            // A meter knows what it covers once it was read; why it cannot be, the meter thread will say.
            let _ = meter.read();
        }
        let infos: Vec<MeterInfo> = meters.iter().map(|meter| meter.info().clone()).collect();
        let latest = Latest::new(infos.len());
        let stop = Arc::new(Stop::new()?);
        let mut join = Attribution::new(pipeline_count, infos.clone(), settings(power));
        if let Some(before) = before {
            let same = |name: &str| {
                let of = |power: &Power| power.meters.iter().find(|meter| meter.name == name).cloned();
                power.sysfs == before.power.sysfs && of(power) == of(&before.power)
            };
            join.inherit(&before.join.lock().unwrap_or_else(PoisonError::into_inner), same);
        }
        let (join, power_now) = (Arc::new(Mutex::new(join)), power.clone());
        if meters.is_empty() {
            let none = (0..pipeline_count).map(|_| None).collect();
            return Ok((Self { pipelines, power: power_now, join, stop, thread: None, infos, latest }, none));
        }
        let (senders, mut spans): (Vec<_>, Vec<_>) = (0..pipeline_count).map(|_| span_ring(SPANS)).unzip();
        let (period, shared, until) = (power.sample_period, join.clone(), stop.clone());
        let noted = latest.clone();
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            let (others, mut asked) = (Others::new(children), None);
            sampler::run(&mut meters, period, &until, |meter, reading| {
                noted.note(meter, &reading);
                let mut join = shared.lock().unwrap_or_else(PoisonError::into_inner);
                absorb(&mut join, &mut spans);
                let now = MonoTime::now();
                if asked.is_none_or(|asked| now.since(asked) >= OTHERS_PERIOD) {
                    asked = Some(now);
                    join.others(others.cpu_time());
                }
                join.reading(meter, reading);
            })
        })?;
        Ok((
            Self { pipelines, power: power_now, join, stop, thread: Some(thread), infos, latest },
            senders.into_iter().map(Some).collect(),
        ))
    }

    /// Takes over settings of the same meters.
    pub(crate) fn set(&mut self, power: &Power) {
        self.join.lock().unwrap_or_else(PoisonError::into_inner).set(settings(power));
        self.power = power.clone();
    }

    /// Whether `power` has the same meters, read alike.
    pub(crate) fn has_meters_of(&self, power: &Power) -> bool {
        let of = |power: &Power| (power.meters.clone(), power.sysfs.clone(), power.sample_period);
        of(power) == of(&self.power)
    }

    /// Tells which delegates are loaded: idle power differs with them.
    pub(crate) fn delegates(&self, active: &str) {
        self.join.lock().unwrap_or_else(PoisonError::into_inner).delegates(active);
    }

    /// Tells what bouts have shown of a pipeline, as `find` has it for each meter.
    pub(crate) fn calibrated(&self, pipeline: usize, find: impl Fn(&MeterInfo) -> Option<Calibrated>) {
        let Some(place) = self.pipelines.iter().position(|metered| *metered == pipeline) else { return };
        let mut join = self.join.lock().unwrap_or_else(PoisonError::into_inner);
        for (meter, info) in self.infos.iter().enumerate() {
            join.calibrated(place, meter, find(info));
        }
    }

    /// The figures since the last call, by pipeline.
    pub(crate) fn figures(&self) -> BTreeMap<usize, Vec<EnergyEstimate>> {
        let figures = self.join.lock().unwrap_or_else(PoisonError::into_inner).figures();
        self.pipelines.iter().copied().zip(figures).collect()
    }

    /// Has every meter read a last time; a meter that hangs is not waited for longer than `patience`.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        self.stop.request();
        let Some(thread) = self.thread.take() else { return };
        let joined = tokio::task::spawn_blocking(|| thread.join());
        match tokio::time::timeout(patience, joined).await {
            Ok(Ok(Ok(Ok(())))) => self.join.lock().unwrap_or_else(PoisonError::into_inner).finish(),
            Ok(Ok(Ok(Err(error)))) => tracing::error!(%error, "the meter thread failed"),
            Ok(_) => tracing::error!("the meter thread panicked"),
            Err(_) => tracing::warn!("a meter does not answer; its last reading is missing"),
        }
    }
}

fn settings(power: &Power) -> Settings {
    Settings { target_rel: power.target_rel, window_max: power.window_max, idle: power.idle.map(Watts) }
}

/// Spans before readings: what ended before a reading counts in the window that it closes.
fn absorb(join: &mut Attribution, spans: &mut [Consumer<BusySpan>]) {
    for (pipeline, ring) in spans.iter_mut().enumerate() {
        while let Ok(span) = ring.pop() {
            join.absorb(pipeline, span);
        }
    }
}
