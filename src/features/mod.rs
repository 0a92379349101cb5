//! What is done to a window before the model sees it: pure maths, one file a kind.
//!
//! Owns the family of features and the chain of them. A chain is built once; applying it to a window allocates nothing. A
//! feature may change the window's shape. Runs on the infer thread.

mod affine;

use crate::schema::{Checker, Key, family};
use crate::stream::{Mismatch, Shape, StreamSpec};
use crate::text::counted;

pub use affine::Affine;

family! {
    /// Transforms of a window, applied in the order in which they are written. A transform without keys can be written as
    /// its name alone, as in `features = ["detrend", { scale = { factor = [2.0] } }]`.
    pub enum Feature: FeatureKind {
        mod standardize: Standardize;
        mod scale: Scale;
        mod detrend: Detrend;
        mod diff: Diff;
        mod transpose: Transpose;
        mod clip: Clip;
        mod power_to_db: PowerToDb;
        mod mfcc: Mfcc;
        mod normalize: Normalize;
        mod stats: Stats;
        mod edge_impulse: EdgeImpulse;
    }
}

impl Feature {
    /// Returns the feature that does `(x - mean) / std`.
    pub fn standardize(mean: Vec<f32>, std: Vec<f32>) -> Self {
        Self::Standardize(standardize::Standardize { mean, std })
    }

    /// Returns whether the feature brings values into a range that is written in its keys.
    pub fn sets_range(&self) -> bool {
        matches!(self, Self::Standardize(_) | Self::Scale(_))
    }
}

/// What each kind of feature is.
pub trait FeatureKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the shape of what the feature makes of a window of shape `input`. `stream` is what the windows are cut from.
    ///
    /// # Errors
    /// The feature does not take such windows.
    fn output(&self, input: &Shape, stream: &StreamSpec) -> Result<Shape, Mismatch>;

    /// Builds the feature for what [`FeatureKind::output`] has accepted.
    fn build(&self, input: &Shape, stream: &StreamSpec) -> Step;
}

/// One step of a chain.
pub enum Step {
    /// Several of these in a row become one.
    Affine(Affine),
    Transform(Box<dyn Transform>),
}

/// A transform of whole windows.
pub trait Transform: Send {
    /// Writes what it makes of `window` into `out`; both have the lengths of the shapes that it was built for.
    fn apply(&mut self, window: &[f32], out: &mut [f32]);
}

/// The features of one pipeline, in order.
pub struct Chain {
    steps: Vec<(Step, usize)>,
    /// Each step reads from one and writes to the other.
    buffers: [Vec<f32>; 2],
}

impl Chain {
    /// Builds the chain for windows of shape `window`, cut from `stream`. Calls `seen` with each step's index and what it
    /// gives.
    ///
    /// # Errors
    /// The index of the feature that does not take what the one before gives.
    pub fn new(
        features: &[Feature],
        window: &Shape,
        stream: &StreamSpec,
        mut seen: impl FnMut(usize, &Shape),
    ) -> Result<Self, (usize, Mismatch)> {
        let mut shape = window.clone();
        let mut longest = shape.values();
        let mut steps: Vec<(Step, usize)> = Vec::new();
        for (index, feature) in features.iter().enumerate() {
            let output = feature.kind().output(&shape, stream).map_err(|mismatch| (index, mismatch))?;
            let step = feature.kind().build(&shape, stream);
            longest = longest.max(output.values());
            match (steps.last_mut(), step) {
                (Some((Step::Affine(before), _)), Step::Affine(after)) => *before = before.then(&after),
                (_, step) => steps.push((step, output.values())),
            }
            seen(index, &output);
            shape = output;
        }
        let longest = if steps.is_empty() { 0 } else { longest };
        Ok(Self { steps, buffers: [vec![0.0; longest], vec![0.0; longest]] })
    }

    /// Adds the step that takes the values at these places of what the chain gives.
    pub fn pick(&mut self, places: Vec<usize>, window: &Shape) {
        let longest = places.len().max(window.values());
        for buffer in &mut self.buffers {
            buffer.resize(buffer.len().max(longest), 0.0);
        }
        self.steps.push((Step::Transform(Box::new(Places(places.clone()))), places.len()));
    }

    /// Returns whether windows go to the model as they are.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns the features of `window`.
    pub fn apply<'a>(&'a mut self, window: &'a [f32]) -> &'a [f32] {
        let mut length = window.len();
        let [ours, other] = &mut self.buffers;
        let (mut from, mut to) = (ours, other);
        for (index, (step, out_length)) in self.steps.iter_mut().enumerate() {
            match step {
                Step::Affine(affine) if index == 0 => affine.apply_to(window, &mut to[..length]),
                Step::Affine(affine) => {
                    affine.apply(&mut from[..length]);
                    continue;
                }
                Step::Transform(transform) => {
                    let input = if index == 0 { window } else { &from[..length] };
                    transform.apply(input, &mut to[..*out_length]);
                    length = *out_length;
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        if self.steps.is_empty() { window } else { &from[..length] }
    }
}

/// Takes the values at these places of the window.
struct Places(Vec<usize>);

impl Transform for Places {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        for (to, place) in out.iter_mut().zip(&self.0) {
            *to = window.get(*place).copied().unwrap_or(f32::NAN);
        }
    }
}

/// Checks values of which there is one a channel, or one for all.
pub(crate) fn check_per_channel(key: &Key, values: &[f32], divides: bool, checker: &mut Checker) {
    if let Some(bad) = values.iter().find(|v| !v.is_finite() || (divides && !v.is_normal())) {
        let and_not_0 = if divides { " and not 0" } else { "" };
        checker.problem(key, format!("{bad} cannot be used; every value must be finite{and_not_0}"));
    }
}

/// Returns one value a channel; a single value serves all.
///
/// # Errors
/// The number of values is neither 1 nor that of the channels.
pub(crate) fn per_channel(key: &'static str, values: &[f32], channels: usize) -> Result<Vec<f32>, Mismatch> {
    match values.len() {
        1 => Ok(values.repeat(channels)),
        n if n == channels => Ok(values.to_vec()),
        n => {
            let message = format!(
                "{} for {}; give one for each, or a single one for all",
                counted(n, "value"),
                counted(channels, "channel")
            );
            Err(Mismatch::at(key, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::SampleType;

    /// Returns a stream of so many channels.
    pub(super) fn stream(channels: usize) -> StreamSpec {
        StreamSpec::new(Shape::new([channels]), SampleType::F32, Some(100.0))
    }

    fn chain(features: &[Feature], window: &Shape) -> Chain {
        Chain::new(features, window, &stream(2), |_, _| ()).unwrap()
    }

    #[test]
    fn a_chain_does_its_steps_in_order() {
        let window = [1.0, 10.0, 3.0, 14.0, 5.0, 18.0];
        let shape = Shape::new([3, 2]);
        let standardize =
            || Feature::Standardize(standardize::Standardize { mean: vec![1.0, 10.0], std: vec![2.0, 4.0] });
        let scale = || Feature::Scale(scale::Scale { factor: vec![10.0], offset: vec![1.0] });
        let detrend = Feature::Detrend(detrend::Detrend {});

        let mut affine = chain(&[standardize(), scale()], &shape);
        assert_eq!(affine.steps.len(), 1, "two affine steps are one");
        for (value, expected) in affine.apply(&window).iter().zip([1.0, 1.0, 11.0, 11.0, 21.0, 21.0]) {
            assert!((value - expected).abs() < 1e-5);
        }

        let mut mixed = chain(&[standardize(), detrend, scale()], &shape);
        for value in mixed.apply(&window) {
            assert!((value - 1.0).abs() < 1e-5, "a straight line leaves only the offset: {value}");
        }

        assert_eq!(chain(&[], &shape).apply(&window), window);

        for (features, factor) in [(&[][..], 1.0), (&[scale()][..], 10.0)] {
            let mut picked = chain(features, &shape);
            picked.pick(vec![5, 0, 0, 3, 1, 2, 4, 5], &shape);
            let wanted = [18.0, 1.0, 1.0, 14.0, 10.0, 3.0, 5.0, 18.0];
            for (value, wanted) in picked.apply(&window).iter().zip(wanted) {
                let wanted = if factor == 1.0 { wanted } else { factor * wanted + 1.0 };
                assert!((value - wanted).abs() < 1e-4, "{value} for {wanted}");
            }
        }
    }

    #[test]
    fn a_step_that_does_not_take_the_shape_is_named() {
        let features = [Feature::Scale(scale::Scale { factor: vec![1.0, 2.0, 3.0], offset: vec![0.0] })];
        let (index, mismatch) = Chain::new(&features, &Shape::new([5, 2]), &stream(2), |_, _| ()).err().unwrap();
        assert_eq!((index, mismatch.key), (0, Some("factor")));
        assert!(mismatch.message.contains("3 values for 2 channels"), "{mismatch}");
    }
}
