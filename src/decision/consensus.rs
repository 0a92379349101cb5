//! A class on which enough of the last windows agree, and quiet for a time after it.

use std::sync::Arc;

use serde_json::json;

use super::classify::{ClassPresentation, class_entities};
use super::scores::{Probabilities, ScoreMeaning, Scores};
use super::smooth::Smoother;
use super::{Decider, DecisionKind, Entity, Fault, MAX_SMOOTH, ModelOutputs, Outputs, Presentation, Verdict, labels};
use crate::engine::EngineError;
use crate::model::OutputValues;
use crate::schema::{Checker, Key, table};

const MAX_SUPPRESS_S: f64 = 86_400.0;

table! {
    /// Decides on a class if so many of the last windows agree on it; else the label is "uncertain". This is Edge Impulse's
    /// `ei_classifier_smooth`, and, with `windows = 1` and `same = 1`, its performance calibration.
    pub struct Consensus {
        /// The index of the model's output that holds the scores.
        pub output: usize = 0;
        /// What the scores are, as in `classify`.
        pub scores: Option<Scores>, otherwise("told from the model's operators"), example("\"probabilities\"");
        /// The lowest score with which a window counts for its class. Below it the window is uncertain.
        pub threshold: f32 = 0.8, range(0.0, 1.0);
        /// The number of windows in a moving average of the scores, before the threshold.
        pub smooth: usize = 1, range(1, MAX_SMOOTH);
        /// The number of windows that are looked at.
        pub windows: usize = 10, range(1, MAX_SMOOTH);
        /// How many of these must be of the same class.
        pub same: usize = 7, range(1, MAX_SMOOTH);
        /// The only labels that are decided; others, such as that of noise, leave the decision uncertain.
        pub allow: Option<Vec<String>>, otherwise("all"), example("[\"yes\", \"no\"]");
        /// The time after a decision in which nothing is decided. With it, each decision is one window long.
        pub suppress_s: f64 = 0.0, range(0.0, MAX_SUPPRESS_S), unit("s");
        /// The label while nothing is decided.
        pub uncertain: String = "uncertain".to_owned();
    }
}

impl DecisionKind for Consensus {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        labels::check_allowed(&key.child("allow"), self.allow.as_deref(), checker);
        if self.same > self.windows {
            let message = format!("{} of the last {} windows can never be; raise `windows`", self.same, self.windows);
            checker.problem(&key.child("same"), message);
        }
        if self.uncertain.is_empty() {
            checker.problem(&key.child("uncertain"), "write a label, such as \"uncertain\"");
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn boundary(&self, values: &[OutputValues]) -> Option<f32> {
        Some(ScoreMeaning::found(self.scores, values.get(self.output)).0.boundary())
    }

    fn has_classes(&self) -> bool {
        true
    }

    fn needs_labels(&self) -> bool {
        true
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let (output, labels) = (model.scores_of_classes(self.output, true)?, model.classes.len());
        if model.classes.contains(&self.uncertain) {
            return Err(EngineError::Mismatch(format!(
                "`{0}` is a label of the model, and would also be published if nothing is decided; write another word for \
                 that, such as uncertain = \"no {0}\"",
                self.uncertain
            )));
        }
        let allowed = match &self.allow {
            Some(allow) => labels::among(model.classes, "allow", allow)?,
            None => vec![true; labels],
        };
        let meaning = ScoreMeaning::new("consensus", self.scores, self.output, output, model);
        Ok(Box::new(Voter::new(self, allowed, Probabilities::new(&meaning, output, labels))))
    }

    fn scores(&self, model: &ModelOutputs<'_>) -> Option<ScoreMeaning> {
        let output = model.output(self.output).ok()?;
        Some(ScoreMeaning::new("consensus", self.scores, self.output, output, model))
    }

    fn warnings(&self, model: &ModelOutputs<'_>) -> Vec<String> {
        let scores = self.scores(model);
        scores.map_or(Vec::new(), |scores| scores.warnings(self.threshold, model.classes.len()))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, scores: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(ClassPresentation::new(model.classes.to_vec(), scores).with_undecided(self.uncertain.clone()))
    }

    fn entities(&self) -> Vec<Entity> {
        let is_decided = format!(
            "value_json.changed | default(false) and value_json.label | default(none) not in [none, {}]",
            json!(self.uncertain)
        );
        let attributes = ["label", "score", "time_ms"];
        let decided = Entity::event(&["decided".to_owned()], "decided", "'decided'", &attributes, &is_decided);
        let mut entities = class_entities();
        entities.push(decided);
        entities
    }
}

/// Decides on one window after the other.
#[derive(Debug)]
struct Voter {
    output: usize,
    probabilities: Probabilities,
    smoother: Smoother,
    threshold: f32,
    allowed: Vec<bool>,
    /// The classes of the last windows; `None`: uncertain. The oldest is overwritten first.
    votes: Vec<Option<u16>>,
    next: usize,
    /// For each class, how many of the votes it has.
    counts: Vec<usize>,
    same: usize,
    suppress_ns: i64,
    /// When the last decision was made, if others are suppressed after it.
    decided_ns: Option<i64>,
    /// The last class that was told.
    told: Option<u16>,
}

impl Voter {
    fn new(config: &Consensus, allowed: Vec<bool>, probabilities: Probabilities) -> Self {
        Self {
            output: config.output,
            probabilities,
            smoother: Smoother::new(allowed.len(), config.smooth),
            threshold: config.threshold,
            counts: vec![0; allowed.len()],
            allowed,
            votes: vec![None; config.windows],
            next: 0,
            same: config.same,
            suppress_ns: (config.suppress_s * 1e9) as i64,
            decided_ns: None,
            told: None,
        }
    }

    /// Returns the highest of the scores that are decided on.
    fn highest(&self, scores: &[f32]) -> (u16, f32) {
        let scores = (0u16..).zip(scores).zip(&self.allowed).filter(|(_, allowed)| **allowed);
        scores.fold(
            (0, f32::NEG_INFINITY),
            |best, ((class, score), _)| if *score > best.1 { (class, *score) } else { best },
        )
    }

    /// Counts the vote of a window. Returns the class that has enough of them.
    fn vote(&mut self, vote: Option<u16>) -> Option<u16> {
        let oldest = std::mem::replace(&mut self.votes[self.next], vote);
        self.next = (self.next + 1) % self.votes.len();
        if let Some(class) = oldest {
            self.counts[usize::from(class)] -= 1;
        }
        if let Some(class) = vote {
            self.counts[usize::from(class)] += 1;
        }
        let mut best = (0, 0);
        for (class, count) in (0u16..).zip(&self.counts) {
            if *count > best.1 {
                best = (class, *count);
            }
        }
        let uncertain = self.votes.len() - self.counts.iter().sum::<usize>();
        (best.1 >= self.same && best.1 >= uncertain).then_some(best.0)
    }

    /// Returns the class, unless another decision was made shortly before.
    fn unless_suppressed(&mut self, class: Option<u16>, now_ns: i64) -> Option<u16> {
        if self.suppress_ns == 0 {
            return class;
        }
        if self.decided_ns.is_some_and(|decided| now_ns.saturating_sub(decided) <= self.suppress_ns) {
            return None;
        }
        self.decided_ns = class.map(|_| now_ns);
        class
    }
}

impl Decider for Voter {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.probabilities.values(), 0.0);
        outputs.read(self.output, values)?;
        let fault = self.probabilities.convert(values);
        // Averages and votes stay as they are.
        if fault.is_some_and(Fault::decides_nothing) {
            return Ok(Verdict { fault, ..Verdict::VALUES });
        }
        let (raw_class, _) = self.highest(values);
        self.smoother.smooth(values);
        let (best, best_score) = self.highest(values);
        let agreed = self.vote((best_score >= self.threshold).then_some(best));
        let class = self.unless_suppressed(agreed, outputs.time_ns());
        let score = class.map_or(best_score, |class| values[usize::from(class)]);
        let changed = class != std::mem::replace(&mut self.told, class);
        Ok(Verdict { class, raw_class: Some(raw_class), score, fault, changed })
    }

    fn most_values(&self) -> usize {
        self.smoother.width()
    }

    fn reset(&mut self) {
        self.smoother.reset();
        self.votes.fill(None);
        self.counts.fill(0);
        self.next = 0;
        self.decided_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Fed, json, model, names, outputs, refusal};
    use super::*;

    fn consensus(text: &str) -> Consensus {
        toml::from_str(&format!("scores = 'probabilities'\n{text}")).unwrap()
    }

    /// Decides on windows that are a second apart, each with one sure class of three, or none: `-`. Gives the class of each
    /// decision, `?` for none, in capitals if it is told as a change.
    fn decided(text: &str, windows: &str) -> String {
        let (outputs, classes) = (outputs(&[3]), names(&["a", "b", "c"]));
        let mut fed = Fed::new(&consensus(text), &model(&outputs, &classes));
        let mut decide = |(second, window): (usize, char)| {
            let scores = ['a', 'b', 'c'].map(|class| if class == window { 1.0 } else { 0.0 });
            let verdict = fed.decide(second as f64, &scores);
            let letter = verdict.class.map_or('?', |class| ['a', 'b', 'c'][usize::from(class)]);
            if verdict.changed && verdict.class.is_some() { letter.to_ascii_uppercase() } else { letter }
        };
        windows.chars().enumerate().map(&mut decide).collect()
    }

    #[test]
    fn enough_windows_must_agree() {
        for (text, windows, wanted) in [
            ("windows = 3\nsame = 2", "aa-bbca-a", "?Aa?Bb??A"),
            ("windows = 1\nsame = 1", "ab-b", "AB?B"),
            // As many uncertain windows as sure ones are not in the way, more are.
            ("windows = 4\nsame = 2", "aa---", "?Aaa?"),
            ("windows = 5\nsame = 2", "aa-", "???"),
            ("windows = 1\nsame = 1\nallow = ['b', 'c']", "abac", "?B?C"),
        ] {
            assert_eq!(decided(text, windows), wanted, "{text}");
        }
    }

    #[test]
    fn after_a_decision_others_are_suppressed() {
        for (text, windows, wanted) in [
            ("windows = 1\nsame = 1\nsuppress_s = 2.0", "aaaaaab", "A??A??B"),
            ("windows = 2\nsame = 2\nsuppress_s = 1.5", "aaabbb", "?A??B?"),
            ("windows = 1\nsame = 1\nsuppress_s = 0.5", "aab", "AaB"),
        ] {
            assert_eq!(decided(text, windows), wanted, "{text}");
        }
    }

    #[test]
    fn a_moving_average_comes_before_the_threshold() {
        assert_eq!(decided("windows = 1\nsame = 1\nsmooth = 4\nthreshold = 0.7", "aaabbbb"), "Aaaa?Bb");
    }

    #[test]
    fn a_gap_forgets_votes_averages_and_suppression() {
        let (outputs, classes) = (outputs(&[2]), names(&["a", "b"]));
        let kind = consensus("windows = 2\nsame = 2\nsuppress_s = 100.0");
        let mut fed = Fed::new(&kind, &model(&outputs, &classes));
        let mut classes = [0.0, 1.0].map(|second| fed.decide(second, &[1.0, 0.0]).class);
        assert_eq!(classes, [None, Some(0)]);
        fed.decider.reset();
        classes = [2.0, 3.0].map(|second| fed.decide(second, &[1.0, 0.0]).class);
        assert_eq!(classes, [None, Some(0)]);
        for (value, fault) in [(f32::NAN, Fault::Nan), (f32::INFINITY, Fault::Infinite), (1.5, Fault::NotProbability)] {
            let verdict = fed.decide(4.0, &[value, 0.0]);
            assert_eq!((verdict.class, verdict.fault, verdict.score.is_nan()), (None, Some(fault), true));
        }
    }

    #[test]
    fn no_decision_is_published_as_uncertain_and_a_fault_as_null() {
        let (outputs, classes) = (outputs(&[2]), names(&["yes", "no"]));
        let shown = consensus("").presentation(&model(&outputs, &classes), None);
        let verdict = Verdict { raw_class: Some(1), score: 0.5, ..Verdict::VALUES };
        assert_eq!(json(&*shown, &verdict, &[0.5, 0.5], None), r#"{"label":"uncertain","score":0.5,"raw_label":"no"}"#);
        let verdict = Verdict { fault: Some(Fault::Nan), ..Verdict::VALUES };
        assert_eq!(json(&*shown, &verdict, &[], None), r#"{"label":null,"score":null,"raw_label":null}"#);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |text: &str| refusal(&consensus(text), &[2], &["uncertain", "yes"]);
        assert!(refused("").contains("`uncertain` is a label of the model"));
        assert!(
            refused("uncertain = '?'\nallow = ['yas']").contains("allow: `yas` is not one of the model's 2 labels")
        );
        assert!(refusal(&consensus(""), &[2], &["a", "b", "c"]).contains("has 2 scores; the labels file has 3 labels"));
    }

    proptest! {
        /// The rule as ei_classifier_smooth.h writes it: a list of the last readings, counted again at each window.
        #[test]
        fn it_is_what_edge_impulse_s_rule_gives(windows in "[abc-]{1,40}", size in 1usize..8, same in 1usize..8) {
            let same = same.min(size);
            let got = decided(&format!("windows = {size}\nsame = {same}"), &windows);
            let mut readings = vec!['-'; size];
            for (window, got) in windows.chars().zip(got.to_lowercase().chars()) {
                readings.remove(0);
                readings.push(window);
                let counts = ['a', 'b', 'c', '-'].map(|class| readings.iter().filter(|other| **other == class).count());
                let (mut top, mut top_count, mut is_met) = ('-', 0, false);
                for (class, count) in ['a', 'b', 'c', '-'].into_iter().zip(counts) {
                    if count > top_count {
                        (top, top_count) = (class, count);
                    }
                    is_met |= count >= same;
                }
                let wanted = if is_met && top != '-' { top } else { '?' };
                prop_assert_eq!(got, wanted, "{:?}", readings);
            }
        }

        /// Edge Impulse's performance calibration counts windows; a second is one window here.
        #[test]
        fn suppression_is_that_of_performance_calibration(windows in "[ab-]{1,40}", suppressed in 0usize..5) {
            let text = format!("windows = 1\nsame = 1\nallow = ['a', 'b']\nsuppress_s = {suppressed}.0");
            let got = decided(&text, &windows).to_lowercase();
            let mut count = suppressed;
            for (window, got) in windows.chars().zip(got.chars()) {
                let mut wanted = '?';
                if suppressed > 0 && count < suppressed {
                    count += 1;
                } else if window != '-' {
                    wanted = window;
                    count = 0;
                }
                prop_assert_eq!(got, wanted);
            }
        }
    }
}
