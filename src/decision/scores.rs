//! What a model's scores mean: probabilities, logits, or logits of independent labels; and how they become probabilities.
//!
//! The configuration says it, or the model's operators do; if neither does, they are taken for logits, and that is said.

use serde::Serialize;

use super::{Fault, ModelOutputs};
use crate::engine::TensorInfo;
use crate::model::{OutputValues, ValueMeaning};
use crate::schema::choice;

choice! {
    /// What an output of scores holds.
    pub enum Scores {
        Probabilities = "probabilities",
        Logits = "logits",
        Sigmoid = "sigmoid",
    }
}

impl Scores {
    /// Returns the score at which a class is as likely as not.
    pub fn boundary(self) -> f32 {
        match self {
            Self::Probabilities => 0.5,
            Self::Logits | Self::Sigmoid => 0.0,
        }
    }
}

choice! {
    /// Who says what scores are.
    pub enum Origin {
        /// The configuration.
        Config = "config",
        /// The model's operators.
        Model = "model",
        /// Neither says it.
        Assumed = "assumed",
    }
}

/// What the scores of an output are taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScoreMeaning {
    pub output: usize,
    pub meaning: Scores,
    pub from: Origin,
    /// The operators that the scores come from.
    pub operators: String,
    /// What these tell of them.
    #[serde(skip)]
    told: Option<ValueMeaning>,
    /// Values of the output.
    #[serde(skip)]
    pub values: usize,
    #[serde(skip)]
    pub name: String,
    /// The kind of decision, whose key `scores` it is.
    #[serde(skip)]
    decision: &'static str,
}

impl ScoreMeaning {
    /// Finds what the scores of output `index` are; `config` is what the configuration says in `decision`.
    pub(super) fn new(
        decision: &'static str,
        config: Option<Scores>,
        index: usize,
        output: &TensorInfo,
        model: &ModelOutputs<'_>,
    ) -> Self {
        let told = model.values.get(index);
        let (meaning, from) = Self::found(config, told);
        let unknown = || OutputValues { meaning: None, reason: "no operator".into() };
        let told = told.cloned().unwrap_or_else(unknown);
        Self {
            output: index,
            meaning,
            from,
            operators: told.reason,
            told: told.meaning,
            values: output.len(),
            name: output.name.clone(),
            decision,
        }
    }

    /// Returns the same for labels of which several can hold at once: logits are independent of each other.
    pub(super) fn independent(mut self) -> Self {
        if self.meaning == Scores::Logits {
            self.meaning = Scores::Sigmoid;
        }
        self
    }

    /// Finds what scores are from the configuration and from what the operators tell, and which of the two it is from.
    pub(super) fn found(config: Option<Scores>, told: Option<&OutputValues>) -> (Scores, Origin) {
        match (config, told.and_then(|told| told.meaning)) {
            (Some(meaning), _) => (meaning, Origin::Config),
            (None, Some(ValueMeaning::Probabilities)) => (Scores::Probabilities, Origin::Model),
            (None, Some(ValueMeaning::Logits)) => (Scores::Logits, Origin::Model),
            (None, None) => (Scores::Logits, Origin::Assumed),
        }
    }

    /// Returns what is done to the scores.
    fn treatment(&self) -> &'static str {
        match (self.meaning, self.values) {
            (Scores::Probabilities, _) => "taken as they are",
            (Scores::Logits, 1) | (Scores::Sigmoid, 1) => "a sigmoid makes a probability of it",
            (Scores::Logits, _) => "a softmax makes probabilities of them that sum to 1",
            (Scores::Sigmoid, _) => "a sigmoid makes a probability of each",
        }
    }

    /// Returns what may be written for it.
    fn choices(&self) -> &'static str {
        match self.meaning {
            Scores::Sigmoid => "\"probabilities\" or \"sigmoid\"",
            _ => "\"probabilities\", \"logits\" or \"sigmoid\"",
        }
    }

    /// Returns what may be wrong with it, and what to write.
    pub fn warnings(&self, threshold: f32, labels: usize) -> Vec<String> {
        let (name, reason, decision) = (&self.name, &self.operators, self.decision);
        let mut warnings = Vec::new();
        match (self.from, self.meaning, self.told) {
            (Origin::Assumed, ..) => warnings.push(format!(
                "the model does not tell what the scores of its output `{name}` are (they come from {reason}): they are \
                 taken for logits, and {}; write scores = {} in decision.{decision}",
                self.treatment(),
                self.choices()
            )),
            (Origin::Config, Scores::Logits | Scores::Sigmoid, Some(ValueMeaning::Probabilities)) => {
                warnings.push(format!(
                    "scores = \"{}\", but the values of the model's output `{name}` can only be 0 to 1 (they come from \
                     {reason}), so they are probabilities already: leave scores out, or write \"probabilities\"",
                    self.meaning.name()
                ));
            }
            (Origin::Config, Scores::Probabilities, Some(ValueMeaning::Logits)) => warnings.push(format!(
                "scores = \"probabilities\", but the values of the model's output `{name}` can be any number (they come \
                 from {reason}): if they are logits, write \"logits\", or \"sigmoid\" if several labels can hold at once",
            )),
            _ => {}
        }
        if labels == 1 && threshold <= 0.0 {
            warnings.push(
                "there is one label and no threshold, so every window has that label: write threshold = 0.5, or give two \
                 labels, the first for its absence"
                    .into(),
            );
        }
        warnings
    }

    /// Returns why running windows contradict it, and what to write.
    pub fn contradiction(&self, fault: Fault) -> String {
        let (name, meaning, decision) = (&self.name, self.meaning.name(), self.decision);
        let by = match self.from {
            Origin::Config => "the configuration says",
            Origin::Model => "the model's operators tell",
            Origin::Assumed => "it was assumed",
        };
        match fault {
            Fault::NotProbability => format!(
                "values of output `{name}` are not 0 to 1, but {by} that they are probabilities: write scores = \"logits\" \
                 in decision.{decision}, or \"sigmoid\" if several labels can hold at once"
            ),
            _ => format!(
                "all values of output `{name}` have been 0 to 1 and have summed to 1, so they seem to be probabilities, but \
                 {by} that they are {meaning}: write scores = \"probabilities\" in decision.{decision}"
            ),
        }
    }
}

/// Such as "output 0 `scores`: probabilities, from SOFTMAX through RESHAPE; taken as they are".
impl std::fmt::Display for ScoreMeaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "output {} `{}`: ", self.output, self.name)?;
        let (meaning, reason) = (self.meaning.name(), &self.operators);
        match self.from {
            Origin::Config => write!(f, "{meaning} by the configuration, from {reason}")?,
            Origin::Model => write!(f, "{meaning}, from {reason}")?,
            Origin::Assumed => write!(f, "taken for {meaning}, as its operators ({reason}) do not tell")?,
        }
        write!(f, "; {}", self.treatment())?;
        if (self.meaning, self.from) == (Scores::Logits, Origin::Model) && self.values > 1 {
            write!(f, " (if several labels can hold at once, write scores = \"sigmoid\")")?;
        }
        Ok(())
    }
}

/// Values up to this far outside 0 to 1 are rounding; they are cut to 0 or 1.
const ROUNDING: f32 = 0.01;
/// Windows whose logits look like probabilities before it is said.
const SUSPICIOUS_WINDOWS: u32 = 3;

/// Turns the values of an output into the probabilities of classes, and checks them.
#[derive(Debug)]
pub(super) struct Probabilities {
    meaning: Scores,
    /// Values of the output. With one value and two classes, the classes are its absence and its presence.
    values: usize,
    classes: usize,
    /// A factor of each logit before its sigmoid.
    sensitivity: f32,
    /// How far the sum of probabilities may be from 1.
    sum_tolerance: f32,
    /// Windows so far, all of whose logits looked like probabilities; `None` once one did not.
    suspicious: Option<u32>,
}

impl Probabilities {
    pub(super) fn new(scores: &ScoreMeaning, output: &TensorInfo, classes: usize) -> Self {
        let step = if output.scale.is_normal() { output.scale } else { 0.0 };
        Self {
            meaning: scores.meaning,
            values: scores.values,
            classes,
            sensitivity: 1.0,
            sum_tolerance: (step * scores.values as f32 / 2.0).clamp(1e-3, 0.02),
            suspicious: (scores.meaning == Scores::Logits && scores.values > 1).then_some(0),
        }
    }

    /// Sets the factor of each logit before its sigmoid.
    pub(super) fn with_sensitivity(self, sensitivity: f32) -> Self {
        Self { sensitivity, ..self }
    }

    pub(super) fn values(&self) -> usize {
        self.values
    }

    /// Replaces the model's values by the probabilities of the classes. Returns what is wrong with the values; the
    /// probabilities are NaN then, unless the values only look like something else.
    pub(super) fn convert(&mut self, values: &mut Vec<f32>) -> Option<Fault> {
        let mut fault = Fault::of(values);
        if fault.is_none() {
            match self.meaning {
                Scores::Probabilities => fault = bounded(values),
                Scores::Logits if self.values > 1 => {
                    fault = self.suspicion(values);
                    softmax(values);
                }
                Scores::Logits | Scores::Sigmoid => {
                    values.iter_mut().for_each(|value| *value = sigmoid(self.sensitivity * *value));
                }
            }
        }
        if fault.is_some_and(Fault::decides_nothing) {
            values.fill(f32::NAN);
        }
        if let (1, 2, &[present]) = (self.values, self.classes, values.as_slice()) {
            values.clear();
            values.extend([1.0 - present, present]);
        }
        fault
    }

    /// Returns whether these logits, and all before them, look like probabilities.
    fn suspicion(&mut self, values: &[f32]) -> Option<Fault> {
        let seen = self.suspicious?;
        let sum: f32 = values.iter().sum();
        let looks = (sum - 1.0).abs() <= self.sum_tolerance && values.iter().all(|value| (0.0..=1.0).contains(value));
        self.suspicious = looks.then_some(seen.saturating_add(1));
        (looks && seen + 1 >= SUSPICIOUS_WINDOWS).then_some(Fault::LooksNormalised)
    }
}

/// Cuts probabilities to 0 to 1; returns if one is further outside than rounding explains.
fn bounded(values: &mut [f32]) -> Option<Fault> {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for value in values {
        (low, high) = (low.min(*value), high.max(*value));
        *value = value.clamp(0.0, 1.0);
    }
    (low < -ROUNDING || high > 1.0 + ROUNDING).then_some(Fault::NotProbability)
}

/// Without an overflow, however large the number is.
fn sigmoid(logit: f32) -> f32 {
    let small = (-logit.abs()).exp();
    if logit >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

fn softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}
