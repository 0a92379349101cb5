//! Mean 0 and deviation 1 within each window.

use super::{FeatureKind, Step, Transform};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

choice! {
    /// What a mean is taken over.
    pub enum Over { Channel = "channel", Window = "window" }
}

table! {
    /// Subtracts the mean and divides by the standard deviation, both of the window itself: (x - mean) / (std + epsilon).
    /// After `mfcc` it is the mean and variance normalisation of the coefficients. For a mean and deviation of the training
    /// data use standardize.
    pub struct Normalize {
        /// What a mean and a deviation are computed over: each channel of a window, such as a mel band or a coefficient; or the
        /// whole window.
        pub over: Over = Over::Channel;
        /// What is added to the deviation, so that a channel that does not change becomes 0.
        pub epsilon: f32 = 1e-8, range(1e-12, 1e9);
    }
}

impl FeatureKind for Normalize {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        Ok(input.clone())
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        let channels = match self.over {
            Over::Channel => input.channels(),
            Over::Window => 1,
        };
        Step::Transform(Box::new(Normalizer { channels: channels.max(1), epsilon: self.epsilon }))
    }
}

struct Normalizer {
    channels: usize,
    epsilon: f32,
}

impl Transform for Normalizer {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let count = (window.len() / self.channels) as f64;
        for channel in 0..self.channels {
            let values = || window.iter().skip(channel).step_by(self.channels).map(|value| f64::from(*value));
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            let divisor = variance.sqrt() + f64::from(self.epsilon);
            let normalized = values().map(|value| ((value - mean) / divisor) as f32);
            out.iter_mut().skip(channel).step_by(self.channels).zip(normalized).for_each(|(to, value)| *to = value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stream;
    use super::*;

    #[test]
    fn each_channel_or_the_window_gets_mean_0_and_deviation_1() {
        let normalized = |toml: &str| {
            let Step::Transform(mut transform) =
                toml::from_str::<Normalize>(toml).unwrap().build(&Shape::new([2, 2]), &stream(2))
            else {
                panic!()
            };
            let mut out = [0.0; 4];
            transform.apply(&[1.0, 7.0, 3.0, 7.0], &mut out);
            out
        };
        assert_eq!(normalized(""), [-1.0, 0.0, 1.0, 0.0]);
        let whole = normalized("over = \"window\"");
        // The mean is 4.5, the variance 6.75.
        for (value, wanted) in whole.iter().zip([-3.5, 2.5, -1.5, 2.5]) {
            assert!((value - wanted / 6.75f32.sqrt()).abs() < 1e-6, "{whole:?}");
        }
    }
}
