//! A lower rate: a low-pass filter, then one sample of every few.

use super::SosFilter;
use super::sos::chebyshev1;

const ORDER: usize = 8;
const RIPPLE_DB: f64 = 0.05;
/// The cutoff, as a part of half the lower rate.
const USED_BAND: f64 = 0.8;

/// Keeps one sample of `factor` of one channel, the first one and so on, after a Chebyshev filter:
/// `scipy.signal.decimate(x, factor, zero_phase=False)`, but settled at the first sample. As there, a constant becomes
/// 0.6 % smaller.
#[derive(Debug, Clone)]
pub struct Decimator {
    factor: usize,
    filter: SosFilter<f64>,
    /// Samples since the one that was kept; `None` before the first one.
    since: Option<usize>,
}

impl Decimator {
    /// `factor` is at least 1.
    pub fn new(factor: usize) -> Self {
        let sections = chebyshev1(ORDER, RIPPLE_DB, USED_BAND / factor as f64);
        Self { factor, filter: SosFilter::new(&sections), since: None }
    }

    /// Takes a sample; returns what is kept, once in `factor` samples.
    pub fn step(&mut self, value: f64) -> Option<f64> {
        if self.since.is_none() {
            self.filter.settle(value);
        }
        let filtered = self.filter.step(value);
        let since = self.since.map_or(0, |since| (since + 1) % self.factor);
        self.since = Some(since);
        (since == 0).then_some(filtered)
    }

    /// Returns how many samples go in until the next one is kept; at least 1.
    pub fn samples_wanted(&self) -> usize {
        self.since.map_or(1, |since| self.factor - since)
    }

    /// Forgets what came before.
    pub fn reset(&mut self) {
        self.since = None;
    }
}
