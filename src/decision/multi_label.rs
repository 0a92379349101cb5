//! Several labels at once: a probability and a threshold for each, confirmed by several windows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::classify::{ClassPresentation, class_entities, distinct};
use super::scores::{Probabilities, ScoreMeaning, Scores};
use super::{
    Decider, DecisionKind, Entity, Fault, Fields, ModelOutputs, NUMBER_BYTES, Named, Outputs, Presentation, Verdict,
    labels, text_bytes,
};
use crate::engine::EngineError;
use crate::model::OutputValues;
use crate::schema::{Checker, Key, choice, table};
use crate::text;

const MAX_WINDOWS: usize = 100;
const MAX_PUBLISHED: usize = 100;
/// The values that stand for a published label: its class, and 1 if it holds since this window.
const VALUES_PER_LABEL: usize = 2;

choice! {
    /// What an output of independent scores holds.
    pub enum LabelScores {
        Probabilities = "probabilities",
        Sigmoid = "sigmoid",
    }
}

table! {
    /// Decides which labels hold; several can hold at once, such as sounds or species. Each has its own probability.
    pub struct MultiLabel {
        /// The index of the model's output that holds the scores, one for each label.
        pub output: usize = 0;
        /// What the scores are: "probabilities"; or "sigmoid": logits, each turned by a sigmoid.
        pub scores: Option<LabelScores>, otherwise("told from the model's operators"), example("\"sigmoid\"");
        /// A factor of logits before the sigmoid. Above 1, fewer probabilities are near 0.5; BirdNET allows 0.5 to 1.5.
        pub sensitivity: f32 = 1.0, range(0.1, 10.0);
        /// The lowest probability that counts for a label.
        pub threshold: f32 = 0.5, range(0.0, 1.0);
        /// The thresholds of labels that need another one.
        pub thresholds: BTreeMap<String, f32> = BTreeMap::new(), example("{ \"Bark\" = 0.8 }");
        /// The only labels that are decided on.
        pub allow: Option<Vec<String>>, otherwise("all"), example("[\"Bark\", \"Siren\"]");
        /// Labels that are never decided on.
        pub deny: Vec<String> = Vec::new(), otherwise("none"), example("[\"Silence\"]");
        /// A label holds while it counts in so many of the last `windows` windows.
        pub confirm: usize = 1, range(1, MAX_WINDOWS);
        /// The number of windows among which `confirm` are needed.
        pub windows: usize = 1, range(1, MAX_WINDOWS);
        /// The most labels that are published, those with the highest scores.
        pub most: usize = 10, range(1, MAX_PUBLISHED);
    }
}

impl From<LabelScores> for Scores {
    fn from(scores: LabelScores) -> Self {
        match scores {
            LabelScores::Probabilities => Self::Probabilities,
            LabelScores::Sigmoid => Self::Sigmoid,
        }
    }
}

impl DecisionKind for MultiLabel {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        for (label, threshold) in &self.thresholds {
            checker.within(&key.child("thresholds").child(label), *threshold, 0.0, 1.0);
        }
        labels::check_allowed(&key.child("allow"), self.allow.as_deref(), checker);
        labels::check(&key.child("deny"), &self.deny, checker);
        if self.confirm > self.windows {
            let message =
                format!("{} of the last {} windows can never be; raise `windows`", self.confirm, self.windows);
            checker.problem(&key.child("confirm"), message);
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn boundary(&self, values: &[OutputValues]) -> Option<f32> {
        Some(ScoreMeaning::found(self.scores.map(Scores::from), values.get(self.output)).0.boundary())
    }

    fn has_classes(&self) -> bool {
        true
    }

    fn needs_labels(&self) -> bool {
        true
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let (output, labels) = (model.scores_of_classes(self.output, false)?, model.classes.len());
        let meaning = self.meaning(model)?;
        if meaning.meaning == Scores::Probabilities && self.sensitivity != 1.0 {
            return Err(EngineError::Mismatch(format!(
                "sensitivity = {} is a factor of logits, but the model's output `{}` has probabilities; remove the key, or \
                 write scores = \"sigmoid\" if they are logits",
                self.sensitivity, output.name
            )));
        }
        let probabilities = Probabilities::new(&meaning, output, labels).with_sensitivity(self.sensitivity);
        Ok(Box::new(Labeller::new(self, self.limits(model.classes)?, probabilities)))
    }

    fn scores(&self, model: &ModelOutputs<'_>) -> Option<ScoreMeaning> {
        self.meaning(model).ok()
    }

    fn warnings(&self, model: &ModelOutputs<'_>) -> Vec<String> {
        let scores = self.scores(model);
        scores.map_or(Vec::new(), |scores| scores.warnings(self.threshold, model.classes.len()))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, scores: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(LabelsPresentation {
            class: ClassPresentation::new(model.classes.to_vec(), scores),
            names: distinct(model.classes),
            most: self.most,
        })
    }

    fn entities(&self) -> Vec<Entity> {
        let attributes = ["started", "labels", "time_ms"];
        let is_detected = "value_json.started | default(false)";
        let detected = Entity::event(&["detected".to_owned()], "detected", "'detected'", &attributes, is_detected);
        let label = |name: &String| Entity {
            id: format!("label_{}", text::id(name)),
            name: Some(name.clone()),
            template: format!(
                "{{% set held = value_json.labels | default(none) %}}{{{{ none if held is none else ('ON' if {} in held else \
                 'OFF') }}}}",
                json!(name)
            ),
            is_binary: true,
            ..Entity::default()
        };
        // A label that holds and is not among the published ones must not be shown as off.
        let allowed = self.allow.iter().flatten().filter(|_| self.allow.as_ref().is_some_and(|a| a.len() <= self.most));
        let mut entities = class_entities();
        entities.push(detected);
        entities.extend(allowed.map(label));
        entities
    }
}

impl MultiLabel {
    fn meaning(&self, model: &ModelOutputs<'_>) -> Result<ScoreMeaning, EngineError> {
        let (output, scores) = (model.output(self.output)?, self.scores.map(Scores::from));
        Ok(ScoreMeaning::new("multi_label", scores, self.output, output, model).independent())
    }

    /// Returns the threshold of each class; infinite for those that are not decided on.
    fn limits(&self, classes: &[String]) -> Result<Vec<f32>, EngineError> {
        let mut limits = vec![self.threshold; classes.len()];
        for (label, threshold) in &self.thresholds {
            labels::known(classes, "thresholds", label)?;
            limits
                .iter_mut()
                .zip(classes)
                .filter(|(_, class)| *class == label)
                .for_each(|(limit, _)| *limit = *threshold);
        }
        let denied = labels::among(classes, "deny", &self.deny)?;
        let allowed = self.allow.as_ref().map(|allow| labels::among(classes, "allow", allow)).transpose()?;
        for (place, limit) in limits.iter_mut().enumerate() {
            if denied[place] || allowed.as_ref().is_some_and(|allowed| !allowed[place]) {
                *limit = f32::INFINITY;
            }
        }
        if limits.iter().all(|limit| limit.is_infinite()) {
            return Err(EngineError::Mismatch("allow and deny leave no label to decide on".to_owned()));
        }
        Ok(limits)
    }
}

/// Decides on one window after the other.
#[derive(Debug)]
struct Labeller {
    output: usize,
    probabilities: Probabilities,
    /// For each class its threshold; infinite if it is not decided on.
    limits: Vec<f32>,
    /// `[windows, classes]`: where the threshold was reached in the last windows; the oldest is overwritten first.
    reached: Vec<bool>,
    next: usize,
    /// For each class, in how many of these windows.
    counts: Vec<u8>,
    confirm: u8,
    /// The classes that hold.
    held: Vec<bool>,
    /// Those that are published, the highest scores first, and room for one more.
    best: Vec<u16>,
    most: usize,
}

impl Labeller {
    fn new(config: &MultiLabel, limits: Vec<f32>, probabilities: Probabilities) -> Self {
        let classes = limits.len();
        let most = config.most.min(classes);
        Self {
            output: config.output,
            probabilities,
            limits,
            reached: vec![false; config.windows * classes],
            next: 0,
            counts: vec![0; classes],
            confirm: u8::try_from(config.confirm).unwrap_or(u8::MAX),
            held: vec![false; classes],
            best: Vec::with_capacity(most + 1),
            most,
        }
    }

    /// Counts the window with these probabilities. Returns the class with the highest one that is decided on.
    fn count(&mut self, scores: &[f32]) -> u16 {
        let classes = self.limits.len();
        let oldest = &mut self.reached[self.next * classes..(self.next + 1) * classes];
        let mut raw = (0, f32::NEG_INFINITY);
        for (class, score) in scores.iter().enumerate() {
            let is_reached = *score >= self.limits[class];
            let before = std::mem::replace(&mut oldest[class], is_reached);
            self.counts[class] = self.counts[class] + u8::from(is_reached) - u8::from(before);
            if self.limits[class].is_finite() && *score > raw.1 {
                raw = (class, *score);
            }
        }
        self.next = (self.next + 1) % (self.reached.len() / classes.max(1)).max(1);
        u16::try_from(raw.0).unwrap_or(u16::MAX)
    }

    /// Keeps the best of the classes that hold, and appends them to the scores in `values`. Returns whether one holds since
    /// this window, or no longer does.
    fn hold(&mut self, values: &mut Vec<f32>) -> bool {
        let mut changed = false;
        self.best.clear();
        for class in 0..self.limits.len() {
            let holds = self.counts[class] >= self.confirm;
            changed |= holds != self.held[class];
            if holds {
                let place = self.best.partition_point(|other| values[usize::from(*other)] >= values[class]);
                if place < self.most {
                    self.best.insert(place, u16::try_from(class).unwrap_or(u16::MAX));
                    self.best.truncate(self.most);
                }
            }
        }
        for class in &self.best {
            let is_new = !self.held[usize::from(*class)];
            values.extend([f32::from(*class), f32::from(u8::from(is_new))]);
        }
        for (held, count) in self.held.iter_mut().zip(&self.counts) {
            *held = *count >= self.confirm;
        }
        changed
    }
}

impl Decider for Labeller {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.limits.len(), 0.0);
        outputs.read(self.output, values)?;
        let fault = self.probabilities.convert(values);
        // What holds stays as it is.
        if fault.is_some_and(Fault::decides_nothing) {
            return Ok(Verdict { fault, ..Verdict::VALUES });
        }
        let raw_class = self.count(values);
        let changed = self.hold(values);
        let class = self.best.first().copied();
        let score = values[usize::from(class.unwrap_or(raw_class))];
        Ok(Verdict { class, raw_class: Some(raw_class), score, fault, changed })
    }

    fn most_values(&self) -> usize {
        self.limits.len() + VALUES_PER_LABEL * self.most
    }

    fn reset(&mut self) {
        self.reached.fill(false);
        self.counts.fill(0);
        self.held.fill(false);
        self.next = 0;
    }
}

/// Publishes the labels that hold; the one with the highest score is the verdict's class.
#[derive(Debug)]
struct LabelsPresentation {
    class: ClassPresentation,
    /// The labels, each made distinct.
    names: Vec<String>,
    most: usize,
}

impl Presentation for LabelsPresentation {
    fn fields(
        &self,
        verdict: &Verdict,
        values: &[f32],
        truth: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), serde_json::Error> {
        let (scores, published) = values.split_at_checked(self.names.len()).unwrap_or((values, &[]));
        self.class.fields(verdict, scores, truth, fields)?;
        if verdict.fault.is_some_and(Fault::decides_nothing) {
            return fields.add("labels", &());
        }
        let (mut names, mut held, mut started) = (Vec::new(), Vec::new(), Vec::new());
        for label in published.chunks_exact(VALUES_PER_LABEL) {
            let class = label[0] as usize;
            if let (Some(name), Some(score)) = (self.names.get(class), scores.get(class)) {
                names.push(name.clone());
                held.push(*score);
                started.extend((label[1] > 0.0).then_some(name));
            }
        }
        fields.add("labels", &Named { names: &names, values: &held })?;
        if started.is_empty() { Ok(()) } else { fields.add("started", &started) }
    }

    fn most_bytes(&self) -> usize {
        let mut names: Vec<usize> = self.names.iter().map(|name| text_bytes(name) + 1).collect();
        names.sort_unstable_by_key(|bytes| Reverse(*bytes));
        let published: usize = names.iter().take(self.most).map(|bytes| 2 * bytes + NUMBER_BYTES).sum();
        let keys: usize = ["labels", "started"].map(|key| text_bytes(key) + 4).iter().sum();
        self.class.most_bytes() + published + keys
    }

    fn is_right(&self, class: Option<u16>, truth: u16) -> bool {
        self.class.is_right(class, truth)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Fed, json, model, names, outputs, refusal};
    use super::*;

    fn labels(text: &str) -> MultiLabel {
        toml::from_str(text).unwrap()
    }

    /// What is published of each window, one after the other, without `label`, `score` and `raw_label`.
    fn published(text: &str, windows: &[&[f32]]) -> Vec<String> {
        let (kind, outputs, classes) = (labels(text), outputs(&[3]), names(&["a", "b", "c"]));
        let model = model(&outputs, &classes);
        let (shown, mut fed) = (kind.presentation(&model, None), Fed::new(&kind, &model));
        let publish = |scores: &&[f32]| {
            let verdict = fed.decide(0.0, scores);
            let object = json(&*shown, &verdict, &fed.values, None);
            let rest = object.split_once("\"labels\":").unwrap().1;
            rest.trim_end_matches('}').to_owned() + if rest.contains("started") || rest == "null}" { "" } else { "}" }
        };
        windows.iter().map(publish).collect()
    }

    #[test]
    fn several_labels_hold_at_once_the_highest_first() {
        let text = "scores = 'probabilities'\nthresholds = { c = 0.25 }";
        assert_eq!(
            published(text, &[&[0.5, 0.75, 0.25], &[0.5, 0.25, 0.75], &[0.0, 0.0, 0.0]]),
            [r#"{"b":0.75,"a":0.5,"c":0.25},"started":["b","a","c"]"#, r#"{"c":0.75,"a":0.5}"#, "{}",]
        );
        let text = "scores = 'probabilities'\nmost = 1\ndeny = ['b']";
        assert_eq!(published(text, &[&[0.5, 0.9, 0.75]]), [r#"{"c":0.75},"started":["c"]"#]);
        let text = "scores = 'probabilities'\nallow = ['a']";
        assert_eq!(published(text, &[&[0.5, 0.9, 0.75]]), [r#"{"a":0.5},"started":["a"]"#]);
    }

    #[test]
    fn a_label_is_confirmed_by_several_windows() {
        let text = "scores = 'probabilities'\nconfirm = 2\nwindows = 3";
        let (on, off): (&[f32], &[f32]) = (&[1.0, 0.0, 0.0], &[0.25, 0.0, 0.0]);
        assert_eq!(
            published(text, &[on, off, on, off, off, on, on]),
            ["{}", "{}", r#"{"a":1.0},"started":["a"]"#, "{}", "{}", "{}", r#"{"a":1.0},"started":["a"]"#]
        );
    }

    #[test]
    fn a_verdict_has_the_best_label_and_that_of_the_window_alone() {
        let (outputs, classes) = (outputs(&[3]), names(&["a", "b", "c"]));
        let kind = labels("scores = 'probabilities'\ndeny = ['c']");
        let mut fed = Fed::new(&kind, &model(&outputs, &classes));
        let verdict = fed.decide(0.0, &[0.25, 0.125, 0.75]);
        assert_eq!((verdict.class, verdict.raw_class, verdict.score), (None, Some(0), 0.25));
        let verdict = fed.decide(0.0, &[0.5, 0.75, 1.0]);
        assert_eq!((verdict.class, verdict.raw_class, verdict.score), (Some(1), Some(1), 0.75));
        assert!(verdict.changed && !fed.decide(0.0, &[0.5, 0.75, 1.0]).changed);
        fed.decider.reset();
        assert!(fed.decide(0.0, &[0.5, 0.0, 0.0]).changed, "after a gap it begins again");
        let shown = json(&*kind.presentation(&model(&outputs, &classes), Some(2)), &verdict, &fed.values, Some(0));
        assert!(
            shown.contains(r#""truth":"a","changed":true,"scores":{"a":0.5,"b":0.0},"labels":{"a":0.5}"#),
            "{shown}"
        );
    }

    #[test]
    fn logits_get_a_sigmoid_each_with_the_sensitivity() {
        for (text, wanted) in [("", 0.880_797), ("sensitivity = 0.5", 0.731_059), ("sensitivity = 1.5", 0.952_574)] {
            let (outputs, classes) = (outputs(&[2]), names(&["a", "b"]));
            let mut fed = Fed::new(&labels(text), &model(&outputs, &classes));
            let verdict = fed.decide(0.0, &[2.0, -2.0]);
            assert!((verdict.score - wanted).abs() < 1e-5, "{text}: {}", verdict.score);
            assert!((fed.values[1] - (1.0 - wanted)).abs() < 1e-5);
        }
    }

    #[test]
    fn what_is_no_number_decides_nothing_and_leaves_no_trace() {
        let text = "confirm = 2\nwindows = 2\nscores = 'probabilities'";
        let (on, none): (&[f32], &[f32]) = (&[1.0, 0.0, 0.0], &[f32::NAN, 0.0, 0.0]);
        assert_eq!(published(text, &[on, none, on]), ["{}", "null", r#"{"a":1.0},"started":["a"]"#]);
        assert_eq!(published(text, &[&[1.5, 0.0, 0.0]]), ["null"], "no probability");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |text: &str| refusal(&labels(text), &[2], &["Bark", "Speech"]);
        assert!(refusal(&labels(""), &[3], &["a"]).contains("has 3 scores; the labels file has 1 label"));
        assert!(
            refused("allow = ['bark']")
                .contains("allow: `bark` is not one of the model's 2 labels; did you mean `Bark`?")
        );
        assert!(refused("deny = ['Speach']").contains("deny: `Speach`"));
        assert!(refused("thresholds = { Sperch = 0.1 }").contains("thresholds: `Sperch`"));
        assert!(refused("allow = ['Bark']\ndeny = ['Bark']").contains("leave no label"));
        assert!(refused("scores = 'probabilities'\nsensitivity = 1.5").contains("is a factor of logits"));
    }

    #[test]
    fn home_assistant_shows_each_allowed_label_that_is_always_published() {
        let ids = |text: &str| labels(text).entities().into_iter().map(|entity| entity.id).collect::<Vec<_>>();
        assert_eq!(ids(""), ["prediction", "score", "detected"]);
        assert_eq!(ids("allow = ['Bark', 'a b']").len(), 5);
        assert_eq!(ids("allow = ['Bark', 'a b']\nmost = 1").len(), 3);
    }

    proptest! {
        /// The same by counting anew at each window.
        #[test]
        fn n_of_m_is_what_counting_gives(
            windows in proptest::collection::vec(proptest::array::uniform3(0u8..4), 1..30),
            size in 1usize..5, most in 1usize..4, confirm in 1usize..5,
        ) {
            let confirm = confirm.min(size);
            let text = format!("scores = 'probabilities'\nconfirm = {confirm}\nwindows = {size}\nmost = {most}");
            let scores: Vec<[f32; 3]> = windows.iter().map(|window| window.map(|score| f32::from(score) / 4.0)).collect();
            let slices: Vec<&[f32]> = scores.iter().map(|scores| scores.as_slice()).collect();
            for (now, shown) in published(&text, &slices).iter().enumerate() {
                let last = &scores[(now + 1).saturating_sub(size)..=now];
                let holds = |class: &usize| last.iter().filter(|scores| scores[*class] >= 0.5).count() >= confirm;
                let mut wanted: Vec<usize> = (0..3).filter(holds).collect();
                wanted.sort_by(|a, b| scores[now][*b].total_cmp(&scores[now][*a]));
                let found: Vec<usize> = shown.split(",\"started\"").next().unwrap().split('"').skip(1).step_by(2)
                    .map(|name| ["a", "b", "c"].iter().position(|label| *label == name).unwrap()).collect();
                wanted.truncate(most);
                prop_assert_eq!(found, wanted, "{}", shown);
            }
        }
    }
}
