//! The join: busy spans of the engines and readings of the meters become energy per inference, with its uncertainty.
//!
//! Owns the window, idle power and the status of every figure. Pure: spans, readings and their times are passed in; it
//! reads no clock and no file, and takes its input on the meter thread. Each tick gives it the spans first, then the
//! reading made; a reading counts as soon as it is known what ran at its time. The method: docs/energy.md.

use std::time::Duration;

use crate::engine::span::BusySpan;
use crate::meter::{MeterError, MeterInfo, Reading};
use crate::units::{MonoTime, Watts};

pub mod bout;
mod figure;
mod idle;
mod share;
mod spans;
mod sums;
mod track;

use bout::Calibrated;
pub use figure::{EnergyEstimate, Status};
use track::MeterState;
pub use track::OTHER_CORES_MAX;

/// How long a window grows, and where idle power comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// A window ends at the first call for figures when the expanded uncertainty of net (of gross where there is no
    /// net) is at most this part of the value.
    pub target_rel: f64,
    /// A window of at least this length ends whatever the uncertainty.
    pub window_max: Duration,
    /// Idle power from the configuration, taken as exact; learned from quiet stretches where none.
    pub idle: Option<Watts>,
}

/// Joins the busy spans of several pipelines with the readings of several meters.
#[derive(Debug)]
pub struct Attribution {
    pipeline_count: usize,
    settings: Settings,
    tracks: Vec<MeterState>,
    other_s: Option<f64>,
}

impl Attribution {
    /// A join for `pipeline_count` pipelines and the meters `meters`, both known by their index from here on.
    pub fn new(pipeline_count: usize, meters: Vec<MeterInfo>, settings: Settings) -> Self {
        let tracks = meters.into_iter().map(|info| MeterState::new(info, pipeline_count)).collect();
        Self { pipeline_count, settings, tracks, other_s: None }
    }

    /// Takes a busy span; those of one pipeline come in the order of time.
    pub fn absorb(&mut self, pipeline: usize, span: BusySpan) {
        for track in &mut self.tracks {
            track.absorb(pipeline, span);
        }
    }

    /// Tells, before a reading, how much processor time all other programs have used since boot; none if unknown.
    pub fn others(&mut self, cpu: Option<Duration>) {
        self.other_s = cpu.map(|cpu| cpu.as_secs_f64());
    }

    /// Tells which delegates are loaded, in words of the caller's: idle power is kept apart for each set of them.
    pub fn delegates(&mut self, active: &str) {
        for track in &mut self.tracks {
            track.delegates(active);
        }
    }

    /// Tells what bouts of the pipeline's model have shown under that meter, for where its figures cannot tell net energy.
    pub fn calibrated(&mut self, pipeline: usize, meter: usize, calibrated: Option<Calibrated>) {
        if let Some(slot) = self.tracks.get_mut(meter).and_then(|track| track.calibrated.get_mut(pipeline)) {
            *slot = calibrated;
        }
    }

    /// Takes a reading of a meter, or why there was none.
    pub fn reading(&mut self, meter: usize, reading: Result<Reading, MeterError>) {
        if let Some(track) = self.tracks.get_mut(meter) {
            track.reading(reading, self.other_s);
        }
    }

    /// Takes over what `other` has learned of idle power under the meters that `same` holds for, by their names.
    pub fn inherit(&mut self, other: &Self, same: impl Fn(&str) -> bool) {
        for track in self.tracks.iter_mut().filter(|track| same(&track.info.name)) {
            if let Some(before) = other.tracks.iter().find(|before| before.info.name == track.info.name) {
                track.inherit(before);
            }
        }
    }

    /// Sets how long windows grow from here on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes what is there as all that was done until now: nothing runs any more.
    pub fn finish(&mut self) {
        for track in &mut self.tracks {
            track.settle(MonoTime::default(), true);
        }
    }

    /// The figures by pipeline, then by meter; windows that are good enough or long enough end here.
    pub fn figures(&mut self) -> Vec<Vec<EnergyEstimate>> {
        if self.tracks.is_empty() {
            return vec![vec![EnergyEstimate::no_meter()]; self.pipeline_count];
        }
        let mut figures: Vec<Vec<EnergyEstimate>> =
            (0..self.pipeline_count).map(|_| Vec::with_capacity(self.tracks.len())).collect();
        for track in &mut self.tracks {
            for (of_pipeline, figure) in figures.iter_mut().zip(track.figures(&self.settings)) {
                of_pipeline.push(figure);
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests;
