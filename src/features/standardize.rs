//! `(x - mean) / std` for each channel.

use super::{Affine, FeatureKind, Step, check_per_channel, per_channel};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

table! {
    /// Standardizes each channel: (x - mean) / std. Give one value a channel, or one for all.
    pub struct Standardize {
        /// The means of the training data.
        pub mean: Vec<f32>, example("[0.0]");
        /// The standard deviations of the training data; none of them 0.
        pub std: Vec<f32>, example("[1.0]");
    }
}

impl FeatureKind for Standardize {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_per_channel(&key.child("mean"), &self.mean, false, checker);
        check_per_channel(&key.child("std"), &self.std, true, checker);
    }

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        per_channel("mean", &self.mean, input.channels())?;
        per_channel("std", &self.std, input.channels())?;
        Ok(input.clone())
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        let (channels, rows) = (input.channels(), input.values() / input.channels().max(1));
        let values = |values: &[f32]| per_channel("", values, channels).unwrap_or_default();
        Step::Affine(Affine::standardize(rows, &values(&self.mean), &values(&self.std)))
    }
}
