//! Counts the values that do not fit into a model's quantised input.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Values outside of what the input can hold, since the start. The infer thread writes, others read.
#[derive(Debug)]
pub struct Saturation {
    values: AtomicU64,
    /// The range of all values of the windows with such values, as the bits of `f32`.
    low: AtomicU32,
    high: AtomicU32,
}

impl Default for Saturation {
    fn default() -> Self {
        let (low, high) = (f32::INFINITY.to_bits().into(), f32::NEG_INFINITY.to_bits().into());
        Self { values: AtomicU64::new(0), low, high }
    }
}

impl Saturation {
    /// Counts `outside` values of a window; `window` are all of them.
    pub fn add(&self, outside: usize, window: impl Iterator<Item = f32>) {
        self.values.fetch_add(outside as u64, Ordering::Relaxed);
        let (low, high) = window.fold(self.range(), |(low, high), value| (low.min(value), high.max(value)));
        self.low.store(low.to_bits(), Ordering::Relaxed);
        self.high.store(high.to_bits(), Ordering::Relaxed);
    }

    /// Returns the number of values that did not fit.
    pub fn values(&self) -> u64 {
        self.values.load(Ordering::Relaxed)
    }

    /// Returns the lowest and the highest value of the windows in which a value did not fit.
    pub fn range(&self) -> (f32, f32) {
        (f32::from_bits(self.low.load(Ordering::Relaxed)), f32::from_bits(self.high.load(Ordering::Relaxed)))
    }
}
