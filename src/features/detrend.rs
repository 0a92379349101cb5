//! Takes the least-squares straight line out of each channel of a window.

use super::{FeatureKind, Step, Transform};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

table! {
    /// Removes the straight line that fits each channel best. It has no keys.
    pub struct Detrend {}
}

impl FeatureKind for Detrend {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        Ok(input.clone())
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        let samples = input.dims().first().copied().unwrap_or(1);
        Step::Transform(Box::new(Line::new(samples, input.values() / samples.max(1))))
    }
}

/// Removes offset and slope from each channel of `[samples, channels]`.
struct Line {
    channels: usize,
    /// Sample positions, centred on zero.
    position: Vec<f32>,
    /// Sum of the squared positions; 1 for a window of one sample, which then only loses its mean.
    spread: f32,
}

impl Line {
    fn new(samples: usize, channels: usize) -> Self {
        let middle = (samples as f32 - 1.0) / 2.0;
        let position: Vec<f32> = (0..samples).map(|i| i as f32 - middle).collect();
        let spread = if samples > 1 { position.iter().map(|p| p * p).sum() } else { 1.0 };
        Self { channels, position, spread }
    }

    /// Detrends `values`, `[samples, channels]`, in place.
    fn detrend(&self, values: &mut [f32]) {
        for channel in 0..self.channels {
            let (mut sum, mut moment) = (0.0f64, 0.0f64);
            for (sample, position) in values.chunks_exact(self.channels).zip(&self.position) {
                sum += f64::from(sample[channel]);
                moment += f64::from(sample[channel]) * f64::from(*position);
            }
            let mean = (sum / self.position.len() as f64) as f32;
            let slope = (moment / f64::from(self.spread)) as f32;
            for (sample, position) in values.chunks_exact_mut(self.channels).zip(&self.position) {
                sample[channel] -= mean + slope * position;
            }
        }
    }
}

impl Transform for Line {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        out.copy_from_slice(window);
        self.detrend(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_left_has_no_mean_and_no_slope(values in prop::collection::vec(-100f32..100.0, 2..60)) {
            let samples = values.len();
            let mut left = values;
            Line::new(samples, 1).detrend(&mut left);
            let mean: f32 = left.iter().sum::<f32>() / samples as f32;
            let middle = (samples as f32 - 1.0) / 2.0;
            let moment: f32 = left.iter().enumerate().map(|(i, v)| v * (i as f32 - middle)).sum();
            prop_assert!(mean.abs() < 1e-3, "mean {mean}");
            prop_assert!(moment.abs() / (samples * samples) as f32 <= 1e-2, "moment {moment}");
        }
    }

    #[test]
    fn channels_are_detrended_apart() {
        let mut values = [0.0, 5.0, 1.0, 5.0, 2.0, 5.0, 3.0, 9.0];
        Line::new(4, 2).detrend(&mut values);
        assert!(values.iter().step_by(2).all(|v| v.abs() < 1e-6), "a line is gone: {values:?}");
        assert!((values[7] - 1.2).abs() < 1e-5, "{values:?}");
    }
}
