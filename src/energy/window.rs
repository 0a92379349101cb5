//! The window of one meter: everything that was metered since the last window ended.

use super::fit::PowerFit;
use super::idle::Step;
use super::spans::Work;
use super::sums::{Interval, Sums};
use crate::units::MonoTime;

/// An interval of the fit that shares energy is at least this long, and lasts this many updates of the counter.
const FIT_INTERVAL_S: f64 = 0.1;
const FIT_INTERVAL_UPDATES: f64 = 20.0;

/// The sums over a window.
#[derive(Debug)]
pub(crate) struct Window {
    /// First and last reading of each segment; the meter was lost between segments.
    pub segments: Vec<(MonoTime, MonoTime)>,
    pub all: Sums,
    pub active: Sums,
    /// From the start of the first active interval to the end of the last.
    pub active_bounds: Option<(MonoTime, MonoTime)>,
    /// By pipeline.
    pub works: Vec<Work>,
    /// Seconds in which power was seen at rest.
    pub rested_s: f64,
    /// Pauses between inferences that ended in the window.
    pub pauses: f64,
    /// The last step of idle power that was noticed in the window.
    pub step: Option<Step>,
    pub fit: PowerFit,
    fit_interval: FitInterval,
}

/// Intervals that are collected until they are long enough for the fit.
#[derive(Debug)]
struct FitInterval {
    time_s: f64,
    joules: f64,
    /// By pipeline.
    busy_s: Vec<f64>,
}

impl Window {
    pub(crate) fn new(pipeline_count: usize) -> Self {
        Self {
            segments: Vec::new(),
            all: Sums::default(),
            active: Sums::default(),
            active_bounds: None,
            works: vec![Work::default(); pipeline_count],
            rested_s: 0.0,
            pauses: 0.0,
            step: None,
            fit: PowerFit::new(pipeline_count),
            fit_interval: FitInterval { time_s: 0.0, joules: 0.0, busy_s: vec![0.0; pipeline_count] },
        }
    }

    /// Adds an interval with the work of each pipeline in it.
    pub(crate) fn add(&mut self, interval: &Interval, works: &[Work]) {
        match self.segments.last_mut() {
            Some((_, end)) if *end == interval.start => *end = interval.end,
            _ => self.segments.push((interval.start, interval.end)),
        }
        self.all.add(interval);
        for (sum, work) in self.works.iter_mut().zip(works) {
            sum.add(*work);
        }
        self.add_to_fit(interval, works);
    }

    /// Counts an interval, already added, among the active ones.
    pub(crate) fn add_active(&mut self, interval: &Interval) {
        let from = self.active_bounds.map_or(interval.start, |(from, _)| from);
        self.active_bounds = Some((from, interval.end));
        self.active.add(interval);
    }

    /// Returns the seconds within the window that were not metered.
    pub(crate) fn unmetered_s(&self) -> f64 {
        let next = self.segments.iter().skip(1);
        self.segments.iter().zip(next).map(|(segment, next)| next.0.since(segment.1).as_secs_f64()).sum()
    }

    fn add_to_fit(&mut self, interval: &Interval, works: &[Work]) {
        let FitInterval { time_s, joules, busy_s } = &mut self.fit_interval;
        *time_s += interval.time_s();
        *joules += interval.joules;
        for (sum, work) in busy_s.iter_mut().zip(works) {
            *sum += work.busy_s;
        }
        if *time_s >= FIT_INTERVAL_S.max(FIT_INTERVAL_UPDATES * interval.to.span_s) {
            self.fit.add(*time_s, *joules, busy_s);
            (*time_s, *joules) = (0.0, 0.0);
            busy_s.fill(0.0);
        }
    }
}
