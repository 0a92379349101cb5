//! The meters of the configuration, and the thread that joins their readings with the busy spans.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rtrb::Consumer;

use crate::config::{self, MeterKind, Power};
use crate::energy::{Figure, Join};
use crate::engine::span::{BusySpan, SpanSender, span_ring};
use crate::meter::estimate::Estimate;
use crate::meter::hwmon::{Hwmon, Selector};
use crate::meter::powercap::Powercap;
use crate::meter::{Meter, MeterInfo, Scope, sampler};
use crate::stop::Stop;
use crate::units::Watts;

/// Spans between two readings of the meters; more are merged.
const SPANS: usize = 16 * 1024;

/// The energy side of a running daemon.
pub struct Metering {
    join: Arc<Mutex<Join>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    pub infos: Vec<MeterInfo>,
}

impl Metering {
    /// Starts the meter thread, if there is a meter; one sender a pipeline then.
    pub fn start(power: &Power, pipeline_count: usize, stop: Arc<Stop>) -> io::Result<(Self, Vec<Option<SpanSender>>)> {
        let mut meters: Vec<Box<dyn Meter>> = power.meters.iter().map(|meter| build(power, meter)).collect();
        for meter in &mut meters {
            // A meter knows what it covers once it was read; why it cannot be, the meter thread will say.
            let _ = meter.read();
        }
        let infos: Vec<MeterInfo> = meters.iter().map(|meter| meter.info().clone()).collect();
        let join = Arc::new(Mutex::new(Join::new(pipeline_count, infos.clone())));
        if meters.is_empty() {
            let none = (0..pipeline_count).map(|_| None).collect();
            return Ok((Self { join, thread: None, infos }, none));
        }
        let (senders, mut spans): (Vec<_>, Vec<_>) = (0..pipeline_count).map(|_| span_ring(SPANS)).unzip();
        let (period, shared) = (power.sample_period, join.clone());
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            sampler::run(&mut meters, period, &stop, |meter, reading| {
                let mut join = shared.lock().unwrap_or_else(PoisonError::into_inner);
                absorb(&mut join, &mut spans);
                join.reading(meter, reading);
            })
        })?;
        Ok((Self { join, thread: Some(thread), infos }, senders.into_iter().map(Some).collect()))
    }

    /// The figures since the last call, by pipeline.
    pub fn figures(&self) -> Vec<Vec<Figure>> {
        self.join.lock().unwrap_or_else(PoisonError::into_inner).figures()
    }

    /// Waits for the meter thread, whose stop was requested.
    pub fn finish(&mut self) {
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => tracing::error!(%error, "the meter thread failed"),
            Some(Err(_)) => tracing::error!("the meter thread panicked"),
        }
    }
}

/// Spans before readings: what ended before a reading counts in the window that it closes.
fn absorb(join: &mut Join, spans: &mut [Consumer<BusySpan>]) {
    for (pipeline, ring) in spans.iter_mut().enumerate() {
        while let Ok(span) = ring.pop() {
            join.absorb(pipeline, span);
        }
    }
}

fn build(power: &Power, meter: &config::Meter) -> Box<dyn Meter> {
    match &meter.kind {
        MeterKind::Rapl => Box::new(Powercap::new(&meter.name, &power.sysfs)),
        MeterKind::Hwmon(hwmon) => {
            let selector = Selector {
                chip: hwmon.chip.clone(),
                device: hwmon.device.clone(),
                channel: hwmon.channel,
                label: hwmon.label.clone(),
            };
            let scope = match hwmon.scope {
                config::Scope::Board => Scope::Board,
                config::Scope::Device => Scope::Device,
                config::Scope::Package => Scope::Package,
            };
            Box::new(Hwmon::new(&meter.name, &power.sysfs, selector, scope, power.sample_period))
        }
        MeterKind::Estimate { watts_per_core, idle_watts } => {
            Box::new(Estimate::new(&meter.name, Watts(*watts_per_core), Watts(*idle_watts)))
        }
    }
}
