//! Joins the busy spans of several pipelines with the readings of several meters.
//!
//! Owns one [`MeterState`] a meter. Each tick of the meter thread passes in the new spans first, then the new reading; a
//! reading counts as soon as it is known which inferences were running at its time.

use std::time::Duration;

use super::calibrated::Calibrated;
use super::estimate::EnergyEstimate;
use super::meter_state::MeterState;
use super::metered;
use super::settings::Settings;
use crate::engine::span::BusySpan;
use crate::meter::{MeterError, MeterInfo, Reading};
use crate::units::MonoTime;

/// Attributes the energy of every meter to the pipelines.
#[derive(Debug)]
pub struct Attribution {
    pipeline_count: usize,
    settings: Settings,
    pub(super) meters: Vec<MeterState>,
    /// Processor seconds of all other programs since boot, as set last.
    other_s: Option<f64>,
}

impl Attribution {
    /// Creates the attribution for `pipeline_count` pipelines and for `meters`; the other methods take their indices.
    pub fn new(pipeline_count: usize, meters: Vec<MeterInfo>, settings: Settings) -> Self {
        let meters = meters.into_iter().map(|info| MeterState::new(info, pipeline_count)).collect();
        let mut attribution = Self { pipeline_count, settings, meters, other_s: None };
        attribution.set_settings(settings);
        attribution
    }

    /// Adds a busy span; the spans of one pipeline must come in order of time.
    pub fn add_span(&mut self, pipeline: usize, span: BusySpan) {
        for meter in &mut self.meters {
            meter.add_span(pipeline, span);
        }
    }

    /// Sets the time until which all work of a pipeline was passed in. A reading after it waits for the work that runs then.
    pub fn set_known_until(&mut self, pipeline: usize, until: MonoTime) {
        for meter in &mut self.meters {
            meter.set_known_until(pipeline, until);
        }
    }

    /// Sets how much processor time all other programs have used since boot, `None` if unknown; call it before
    /// `add_reading`.
    pub fn set_other_cpu_time(&mut self, cpu: Option<Duration>) {
        self.other_s = cpu.map(|cpu| cpu.as_secs_f64());
    }

    /// Sets which delegates are loaded, in the caller's words: idle power is learned separately for each set of them.
    pub fn set_delegates(&mut self, active: &str) {
        for meter in &mut self.meters {
            meter.set_delegates(active);
        }
    }

    /// Sets the net energy that a calibration found for the pipeline's model under this meter. It is used only if the
    /// window cannot tell net energy.
    pub fn set_calibrated(&mut self, pipeline: usize, meter: usize, calibrated: Option<Calibrated>) {
        if let Some(slot) = self.meters.get_mut(meter).and_then(|meter| meter.calibrated.get_mut(pipeline)) {
            *slot = calibrated;
        }
    }

    /// Adds a reading of a meter, or the reason why there is none.
    pub fn add_reading(&mut self, meter: usize, reading: Result<Reading, MeterError>) {
        if let Some(meter) = self.meters.get_mut(meter) {
            meter.add_reading(reading, self.other_s);
        }
    }

    /// Copies what `other` has learned of idle power, for each meter whose name `is_same` accepts.
    pub fn inherit_idle_power(&mut self, other: &Self, is_same: impl Fn(&str) -> bool) {
        for meter in self.meters.iter_mut().filter(|meter| is_same(&meter.info.name)) {
            if let Some(before) = other.meters.iter().find(|before| before.info.name == meter.info.name) {
                meter.inherit_idle_power(before);
            }
        }
    }

    /// Changes the settings from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        for meter in &mut self.meters {
            meter.given_idle_w = settings.idle_w();
        }
    }

    /// Counts all waiting readings: no inference is running any more, so none has to be waited for.
    pub fn finish(&mut self) {
        for meter in &mut self.meters {
            meter.settle(MonoTime::default(), true);
        }
    }

    /// Like [`Self::finish`], and the windows end at the next estimates, however uncertain they are: no reading will follow.
    pub fn end(&mut self) {
        self.finish();
        self.settings.window_max = Duration::ZERO;
    }

    /// Returns the estimates by pipeline, then by meter. Windows that are good enough or long enough end here.
    pub fn estimates(&mut self) -> Vec<Vec<EnergyEstimate>> {
        if self.meters.is_empty() {
            return vec![vec![EnergyEstimate::no_meter()]; self.pipeline_count];
        }
        let mut estimates: Vec<Vec<EnergyEstimate>> =
            (0..self.pipeline_count).map(|_| Vec::with_capacity(self.meters.len())).collect();
        for meter in &mut self.meters {
            for (of_pipeline, estimate) in estimates.iter_mut().zip(metered::estimates(meter, &self.settings)) {
                of_pipeline.push(estimate);
            }
        }
        estimates
    }
}
