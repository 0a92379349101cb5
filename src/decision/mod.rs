//! From a model's outputs to a decision: a class, named values, or the outputs as they are.
//!
//! Owns the family of decisions: each kind decides on windows and says how its verdicts are published and shown. Pure;
//! state is only what smoothing and hysteresis need, and a gap in the stream clears it. Deciding runs on the infer thread
//! and allocates nothing; presenting runs on the async thread.

mod fault;
mod hold;
mod labels;
mod learnt;
mod present;
mod scores;
mod smooth;

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{Engine, EngineError, TensorInfo};
use crate::model::OutputValues;
use crate::schema::{Checker, Key, family};
use crate::text::counted;

pub use fault::Fault;
pub use learnt::{Learnt, Origins};
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
        mod multi_label: MultiLabel;
        mod consensus: Consensus;
        mod anomaly: Anomaly;
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

    /// Returns what `edgewatt learn` needs, if a threshold of the decision is learnt from its scores.
    fn learning(&self) -> Option<Learning> {
        None
    }
}

/// How a threshold is learnt.
#[derive(Debug, Clone)]
pub struct Learning {
    /// The same decision without the threshold.
    pub decision: Decision,
    /// The file that gets it.
    pub file: PathBuf,
    /// The keys that its scores depend on, as TOML.
    pub score_keys: String,
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
    /// The inputs that get the features, as they are for one window.
    pub inputs: &'a [TensorInfo],
    /// Values of a window's features.
    pub features: usize,
    /// What a threshold must have been learnt with.
    pub origins: &'a Origins,
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

    /// Returns output `index`, which has a score for each class. With `one_for_two`, one score serves two classes: the usual
    /// classifier of two classes gives that of the second one.
    ///
    /// # Errors
    /// The model does not have the output, or it has another number of scores; the message has the numbers of both sides.
    pub fn scores_of_classes(&self, index: usize, one_for_two: bool) -> Result<&TensorInfo, EngineError> {
        let output = self.output(index)?;
        let (scores, labels) = (output.len(), self.classes.len());
        if scores == labels || one_for_two && (scores, labels) == (1, 2) {
            return Ok(output);
        }
        Err(EngineError::Mismatch(format!(
            "the model's output `{}` has {}; the labels file has {}",
            output.name,
            counted(scores, "score"),
            counted(labels, "label")
        )))
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
    /// What the decision tells of has begun or ended with this window.
    pub changed: bool,
}

impl Verdict {
    /// A verdict that is all in its values.
    pub const VALUES: Self = Self { class: None, raw_class: None, score: f32::NAN, fault: None, changed: false };
}

/// What is known of one window.
pub trait Outputs {
    /// Fills `values` with output `index`, which has as many.
    ///
    /// # Errors
    /// The engine cannot give them.
    fn read(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError>;

    /// Returns the window's features; empty unless [`Decider::features_wanted`] asks for them.
    fn features(&self) -> &[f32] {
        &[]
    }

    /// Returns the time of the window's last sample in nanoseconds: the stream's own, or when it arrived if the stream has
    /// none. Only differences count.
    fn time_ns(&self) -> i64 {
        0
    }
}

/// One window of an engine's batch.
pub struct EngineOutputs<'a> {
    pub engine: &'a mut dyn Engine,
    pub row: usize,
    pub features: &'a [f32],
    pub time_ns: i64,
}

impl Outputs for EngineOutputs<'_> {
    fn read(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError> {
        self.engine.output(index, self.row, values)
    }

    fn features(&self) -> &[f32] {
        self.features
    }

    fn time_ns(&self) -> i64 {
        self.time_ns
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

    /// Returns how many features of each window it needs: all or none.
    fn features_wanted(&self) -> usize {
        0
    }

    /// Forgets earlier windows: the stream had a gap.
    fn reset(&mut self) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::Element;

    impl<F: FnMut(usize, &mut [f32]) -> Result<(), EngineError>> Outputs for F {
        fn read(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError> {
            self(index, values)
        }
    }

    /// A window with these values in every output.
    pub(crate) struct At<'a> {
        pub values: &'a [f32],
        pub features: &'a [f32],
        pub seconds: f64,
    }

    impl Outputs for At<'_> {
        fn read(&mut self, _: usize, values: &mut [f32]) -> Result<(), EngineError> {
            values.copy_from_slice(self.values);
            Ok(())
        }
        fn features(&self) -> &[f32] {
            self.features
        }
        fn time_ns(&self) -> i64 {
            (self.seconds * 1e9) as i64
        }
    }

    /// A decider, fed by hand.
    pub(crate) struct Fed {
        pub decider: Box<dyn Decider>,
        pub values: Vec<f32>,
    }

    impl Fed {
        pub(crate) fn new(kind: &dyn DecisionKind, model: &ModelOutputs<'_>) -> Self {
            let decider = kind.build(model).unwrap();
            Self { values: Vec::with_capacity(decider.most_values()), decider }
        }

        pub(crate) fn decide(&mut self, seconds: f64, values: &[f32]) -> Verdict {
            let room = self.values.capacity();
            let verdict = self.decider.decide(&mut At { values, features: &[], seconds }, &mut self.values).unwrap();
            assert!(self.values.len() <= room && self.values.capacity() == room, "more values than were announced");
            verdict
        }
    }

    /// A model with these outputs and classes, of which nothing else is known.
    pub(crate) fn model<'a>(outputs: &'a [TensorInfo], classes: &'a [String]) -> ModelOutputs<'a> {
        static ORIGINS: Origins = Origins { model_sha256: String::new(), features_sha256: String::new() };
        ModelOutputs { outputs, classes, values: &[], inputs: &[], features: 0, origins: &ORIGINS }
    }

    pub(crate) fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

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
        kind.build(&model(&outputs(lengths), &names(classes))).err().unwrap().to_string()
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
