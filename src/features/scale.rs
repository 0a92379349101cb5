//! `x * factor + offset` for each channel.

use super::{Affine, FeatureKind, Step, check_per_channel, per_channel};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

table! {
    /// Scales each channel: x * factor + offset. Give one value a channel, or one for all.
    pub struct Scale {
        /// The factors, for example from g to m/s2; none of them 0.
        pub factor: Vec<f32>, example("[9.81]");
        /// What is added after the multiplication.
        pub offset: Vec<f32> = vec![0.0];
    }
}

impl FeatureKind for Scale {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_per_channel(&key.child("factor"), &self.factor, true, checker);
        check_per_channel(&key.child("offset"), &self.offset, false, checker);
    }

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        per_channel("factor", &self.factor, input.channels())?;
        per_channel("offset", &self.offset, input.channels())?;
        Ok(input.clone())
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        let (channels, rows) = (input.channels(), input.values() / input.channels().max(1));
        let values = |values: &[f32]| per_channel("", values, channels).unwrap_or_default();
        Step::Affine(Affine::scale(rows, &values(&self.factor), &values(&self.offset)))
    }
}
