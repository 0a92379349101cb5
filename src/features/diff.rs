//! The difference from one sample to the next.

use super::{FeatureKind, Step, Transform};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

table! {
    /// Takes the difference from each sample to the next, of each channel. The window has one sample fewer then. It has no
    /// keys.
    pub struct Diff {}
}

impl FeatureKind for Diff {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        match input.dims() {
            [samples, frame @ ..] if *samples > 1 => Ok(Shape::new(frame).repeated(samples - 1)),
            _ => Err(Mismatch::new(format!("a window of {input} has no two samples to take the difference of"))),
        }
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        let samples = input.dims().first().copied().unwrap_or(1);
        Step::Transform(Box::new(Difference { frame_values: input.values() / samples.max(1) }))
    }
}

struct Difference {
    frame_values: usize,
}

impl Transform for Difference {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let later = &window[self.frame_values..];
        for ((difference, before), after) in out.iter_mut().zip(window).zip(later) {
            *difference = after - before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stream;
    use super::super::{Chain, Feature, detrend::Detrend};
    use super::*;

    #[test]
    fn a_window_loses_a_sample_and_keeps_its_differences() {
        let mut shapes = Vec::new();
        let features = [Feature::Diff(Diff {}), Feature::Diff(Diff {})];
        let mut chain =
            Chain::new(&features, &Shape::new([4, 2]), &stream(2), |_, shape| shapes.push(shape.clone())).unwrap();
        assert_eq!(shapes, [Shape::new([3, 2]), Shape::new([2, 2])]);
        let window = [0.0, 5.0, 1.0, 5.0, 4.0, 7.0, 9.0, 5.0];
        assert_eq!(chain.apply(&window), [2.0, 2.0, 2.0, -4.0]);
    }

    #[test]
    fn it_works_between_features_that_keep_the_shape() {
        let features = [Feature::Detrend(Detrend {}), Feature::Diff(Diff {})];
        let mut chain = Chain::new(&features, &Shape::new([3, 1]), &stream(1), |_, _| ()).unwrap();
        let differences = chain.apply(&[1.0, 2.0, 3.0]).to_vec();
        assert_eq!(differences.len(), 2);
        assert!(differences.iter().all(|value| value.abs() < 1e-6), "{differences:?}");
    }

    #[test]
    fn a_window_of_one_sample_is_refused() {
        let mismatch = Diff {}.output(&Shape::new([1, 6]), &stream(6)).unwrap_err();
        assert!(mismatch.to_string().contains("[1, 6]"), "{mismatch}");
    }
}
