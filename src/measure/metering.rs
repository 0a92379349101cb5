//! The meters of a calibration or a bench, read by a thread of their own at the usual pace while engines run.
//!
//! Owns that thread and the readings. Leaves what they mean to `energy`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::back_to_back::CalibrateError;
use super::calibrations::MeterIdentity;
use crate::config::Power;
use crate::energy::runs::{Trace, length_min};
use crate::load::meters::{self, MeterContext};
use crate::meter::{Meter, learn, sampler};
use crate::stop::Stop;
use crate::units::MonoTime;

/// How long to wait for readings before the runs, to know how far apart they are.
const SPACING_MAX: Duration = Duration::from_secs(4);

/// The meters, while a thread reads them.
pub(super) struct Metering {
    traces: Arc<Mutex<Vec<(MeterIdentity, Trace)>>>,
    stop: Arc<Stop>,
    thread: JoinHandle<io::Result<()>>,
}

impl Metering {
    /// Waits until the meters know how they behave, and starts the thread.
    pub(super) fn start(power: &Power, context: &MeterContext, stop: &Stop) -> Result<Self, CalibrateError> {
        let mut meters = meters::build(power, context);
        let mut failed = None;
        let mut pause = |time: Duration| {
            if let Err(error) = stop.sleep_until(MonoTime::now() + time) {
                failed = Some(error);
            }
        };
        let mut learning: Vec<&mut dyn Meter> = Vec::new();
        for meter in &mut meters {
            learning.push(meter.as_mut());
        }
        let mut traces: Vec<Trace> = learning.iter().map(|_| Trace::default()).collect();
        for (trace, reading) in traces.iter_mut().zip(learn(&mut learning, &mut pause)) {
            trace.add(MonoTime::now(), reading);
        }
        // Two more readings of each tell how far apart they are: a slow sensor gives fewer than it is read.
        let patience = MonoTime::now() + SPACING_MAX;
        while traces.iter().any(|trace| trace.last().is_some() && trace.spacing().is_none())
            && MonoTime::now() < patience
        {
            pause(power.sample_period);
            for (trace, meter) in traces.iter_mut().zip(&mut learning) {
                trace.add(MonoTime::now(), meter.read());
            }
            if stop.is_requested() {
                return Err(CalibrateError::Stopped);
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let identities = meters.iter().map(|meter| MeterIdentity::new(meter.info()));
        let traces: Vec<(MeterIdentity, Trace)> = identities.zip(traces).collect();
        let (traces, stop, period) = (Arc::new(Mutex::new(traces)), Arc::new(Stop::new()?), power.sample_period);
        let (shared, until) = (traces.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            sampler::run(&mut meters, period, &until, |meter, info, reading| {
                let mut traces = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((identity, trace)) = traces.get_mut(meter) {
                    let now = MeterIdentity::new(info);
                    if *identity != now {
                        // What was read before covers something else.
                        (*identity, *trace) = (now, Trace::default());
                    }
                    trace.add(MonoTime::now(), reading);
                }
            })
        })?;
        Ok(Self { traces, stop, thread })
    }

    pub(super) fn meters(&self) -> Vec<MeterIdentity> {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(|(identity, _)| identity.clone()).collect()
    }

    /// Returns the least length that a run and an idle interval must have for all meters, which are read each `period`.
    pub(super) fn length_min(&self, period: Duration) -> Duration {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        let length = |(_, trace): &(MeterIdentity, Trace)| {
            let apart = period.max(trace.spacing().unwrap_or_default());
            trace.resolution().map(|resolution| length_min(resolution, apart))
        };
        traces.iter().filter_map(length).max().unwrap_or_default()
    }

    /// Returns whether a meter measures, so that runs are needed that show its scatter.
    pub(super) fn measures(&self) -> bool {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().any(|(_, trace)| trace.resolution().is_none_or(|resolution| !resolution.is_model()))
    }

    /// Ends the thread. Returns the meters and the readings of each.
    pub(super) fn finish(self) -> Vec<(MeterIdentity, Trace)> {
        self.stop.request();
        // Even after an error the readings are valid; too few of them are refused later.
        match self.thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the meter thread failed"),
            Err(_) => tracing::error!("the meter thread panicked"),
        }
        std::mem::take(&mut *self.traces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
