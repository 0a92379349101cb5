//! Removes a constant part.

use std::f64::consts::TAU;

/// A high pass of first order of one channel: `y[n] = (1 + pole) / 2 * (x[n] - x[n-1]) + pole * y[n-1]`. High tones stay as
/// they are.
#[derive(Debug, Clone, Copy)]
pub struct DcBlock {
    pole: f64,
    last: Option<f64>,
    held: f64,
}

impl DcBlock {
    /// `cutoff_hz` is above 0 and below half of `rate_hz`.
    pub fn new(cutoff_hz: f64, rate_hz: f64) -> Self {
        Self { pole: (-TAU * cutoff_hz / rate_hz).exp(), last: None, held: 0.0 }
    }

    /// Returns what comes out when `sample` goes in. The first one counts as if it had always been there, and so does
    /// the first one after what is not finite.
    pub fn step(&mut self, sample: f64) -> f64 {
        let last = self.last.replace(sample).unwrap_or(sample);
        let output = 0.5 * (1.0 + self.pole) * (sample - last) + self.pole * self.held;
        self.held = output;
        // A value that is not finite would stay in the state.
        if !output.is_finite() {
            self.reset();
        }
        output
    }

    /// Forgets what came before.
    pub fn reset(&mut self) {
        (self.last, self.held) = (None, 0.0);
    }
}
