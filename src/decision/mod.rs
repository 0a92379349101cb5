//! From a model's outputs to a decision: a class, named values, or the outputs as they are.
//!
//! Owns the family of decisions: each kind decides on windows and says how its verdicts are published and shown. Pure;
//! state is only what smoothing and hysteresis need, and a gap in the stream clears it. Deciding runs on the infer thread
//! and allocates nothing; presenting runs on the async thread.

mod fault;
mod hold;
mod present;
mod scores;
mod smooth;

use std::sync::Arc;

use crate::engine::{EngineError, TensorInfo};
use crate::model::OutputValues;
use crate::schema::{Checker, Key, family};

pub use fault::Fault;
pub(crate) use present::NUMBER_BYTES;
pub use present::{Entity, Fields, Named, Presentation, text_bytes, write_object};
pub use scores::{Origin, ScoreMeaning, Scores};

/// Windows in an average at most.
pub(crate) const MAX_SMOOTH: usize = 1000;

family! {
    /// The decision is one of these kinds.
    pub enum Decision: DecisionKind {
        mod classify: Classify;
        mod regress: Regress;
        mod raw: Raw;
        mod threshold: Threshold;
        mod wake_word: WakeWord;
    }
}

/// What each kind of decision is.
pub trait DecisionKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the model's output that is decided on; a delegate is compared with the reference on it.
    fn output(&self) -> usize {
        0
    }

    /// Returns where a decision on a single value changes; `values` is what the model's operators tell of each output.
    fn boundary(&self, _values: &[OutputValues]) -> Option<f32> {
        None
    }

    /// Returns whether only windows with a class are published: events, which are rarer than windows.
    fn events_only(&self) -> bool {
        false
    }

    /// Returns whether verdicts name a class, so that they can be compared with the stream's true class.
    fn has_classes(&self) -> bool {
        false
    }

    /// Returns whether the classes are those of the model's labels file, which must then be named.
    fn needs_labels(&self) -> bool {
        false
    }

    /// Returns the classes that verdicts name, from those of the labels file.
    fn classes(&self, labels: Vec<String>) -> Vec<String> {
        labels
    }

    /// Returns the smallest part of windows in which a delegate must decide as the reference does, unless the
    /// configuration says otherwise.
    fn least_agreement(&self) -> Option<f32> {
        None
    }

    /// Builds what decides.
    ///
    /// # Errors
    /// The configuration does not fit the model's outputs; the message has the numbers of both sides.
    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError>;

    /// Builds what publishes the verdicts. `scores` is the number of classes whose scores are published at most; `None`: no
    /// scores are published.
    fn presentation(&self, model: &ModelOutputs<'_>, scores: Option<usize>) -> Arc<dyn Presentation>;

    /// Returns what the scores are taken for, if it decides on scores of classes.
    fn scores(&self, _model: &ModelOutputs<'_>) -> Option<ScoreMeaning> {
        None
    }

    /// Returns what may not be meant so, though it fits the model.
    fn warnings(&self, _model: &ModelOutputs<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Returns what Home Assistant shows of the decision.
    fn entities(&self) -> Vec<Entity> {
        Vec::new()
    }
}

/// What a decision must know of the model.
#[derive(Debug, Clone, Copy)]
pub struct ModelOutputs<'a> {
    /// The outputs as they are for one window.
    pub outputs: &'a [TensorInfo],
    /// The classes, as [`DecisionKind::classes`] has them.
    pub classes: &'a [String],
    /// For each output, what its values are as scores.
    pub values: &'a [OutputValues],
}

impl ModelOutputs<'_> {
    /// Returns output `index`.
    ///
    /// # Errors
    /// The model does not have it, or its values cannot be read.
    pub fn output(&self, index: usize) -> Result<&TensorInfo, EngineError> {
        let output = self.outputs.get(index).ok_or_else(|| {
            EngineError::Mismatch(match self.outputs.len() {
                1 => format!("output = {index}, but the model has one output, which is 0"),
                count => format!("output = {index}, but the model's outputs are 0 to {}", count.saturating_sub(1)),
            })
        })?;
        output.readable()?;
        Ok(output)
    }
}

/// What was decided on one window, but for the values that go with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The class; `None` if the kind has no classes or none was decided.
    pub class: Option<u16>,
    /// The class of this window alone, before smoothing.
    pub raw_class: Option<u16>,
    /// How sure it is, or the value that was decided on; NaN if nothing was decided.
    pub score: f32,
    /// What is wrong with the window's outputs.
    pub fault: Option<Fault>,
}

impl Verdict {
    /// A verdict that is all in its values.
    pub const VALUES: Self = Self { class: None, raw_class: None, score: f32::NAN, fault: None };
}

/// The outputs of one window.
pub trait Outputs {
    /// Fills `values` with output `index`, which has as many.
    ///
    /// # Errors
    /// The engine cannot give them.
    fn read(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError>;
}

impl<F: FnMut(usize, &mut [f32]) -> Result<(), EngineError>> Outputs for F {
    fn read(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError> {
        self(index, values)
    }
}

/// Decides on windows, one after the other.
pub trait Decider: Send {
    /// Decides on one window; leaves the values that go with the verdict in `values`, which has room for
    /// [`Decider::most_values`] of them.
    ///
    /// # Errors
    /// The engine cannot give its outputs.
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError>;

    /// Returns how many values go with a verdict at most.
    fn most_values(&self) -> usize;

    /// Forgets earlier windows: the stream had a gap.
    fn reset(&mut self) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::Element;

    /// Outputs of so many values each.
    pub(crate) fn outputs(lengths: &[usize]) -> Vec<TensorInfo> {
        let info = |(i, n): (usize, &usize)| TensorInfo {
            name: format!("out{i}"),
            element: Element::Float32,
            shape: vec![1, *n],
            scale: 0.0,
            zero_point: 0,
        };
        lengths.iter().enumerate().map(info).collect()
    }

    /// What the kind says against a model.
    pub(crate) fn refusal(kind: &dyn DecisionKind, lengths: &[usize], classes: &[&str]) -> String {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        let outputs = outputs(lengths);
        let model = ModelOutputs { outputs: &outputs, classes: &classes, values: &[] };
        kind.build(&model).err().unwrap().to_string()
    }

    /// The JSON of a verdict.
    pub(crate) fn json(
        presentation: &dyn Presentation,
        verdict: &Verdict,
        values: &[f32],
        truth: Option<u16>,
    ) -> String {
        let mut json = Vec::new();
        write_object(&mut json, |fields| presentation.fields(verdict, values, truth, fields)).unwrap();
        assert!(json.len() <= presentation.most_bytes() + 2, "{} bytes were said", presentation.most_bytes());
        String::from_utf8(json).unwrap()
    }
}
