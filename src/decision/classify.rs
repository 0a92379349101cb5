//! Scores to a class: probabilities, smoothing, the highest score, threshold, hysteresis.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::hold::{Held, highest};
use super::scores::{Probabilities, ScoreMeaning, Scores};
use super::smooth::Smoother;
use super::{
    Decider, DecisionKind, Entity, Fault, Fields, MAX_SMOOTH, ModelOutputs, NUMBER_BYTES, Named, Outputs, Presentation,
    Verdict, text_bytes,
};
use crate::engine::EngineError;
use crate::model::OutputValues;
use crate::schema::{Checker, Key, table};

/// The smallest part of windows in which a class must stay what it is by another delegate.
const LEAST_AGREEMENT: f32 = 0.95;

table! {
    /// Decides on one class: the label with the highest score.
    pub struct Classify {
        /// The index of the model's output that holds the scores.
        pub output: usize = 0;
        /// What the scores are: "probabilities"; "logits", which a softmax turns into probabilities, or a sigmoid if it is one
        /// score; or "sigmoid": logits of labels of which several can hold at once, each turned by a sigmoid.
        pub scores: Option<Scores>, otherwise("told from the model's operators"), example("\"probabilities\"");
        /// The lowest score that decides. Below it the label is null.
        pub threshold: f32 = 0.0, range(0.0, 1.0);
        /// The number of windows in a moving average of the scores.
        pub smooth: usize = 1, range(1, MAX_SMOOTH);
        /// How much higher the score of another class must be before it replaces the present one.
        pub hysteresis: f32 = 0.0, range(0.0, 1.0);
    }
}

impl DecisionKind for Classify {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

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

    fn least_agreement(&self) -> Option<f32> {
        Some(LEAST_AGREEMENT)
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let (output, labels) = (model.scores_of_classes(self.output, true)?, model.classes.len());
        let meaning = ScoreMeaning::new("classify", self.scores, self.output, output, model);
        Ok(Box::new(Classifier::new(self, labels, Probabilities::new(&meaning, output, labels))))
    }

    fn scores(&self, model: &ModelOutputs<'_>) -> Option<ScoreMeaning> {
        let output = model.output(self.output).ok()?;
        Some(ScoreMeaning::new("classify", self.scores, self.output, output, model))
    }

    fn warnings(&self, model: &ModelOutputs<'_>) -> Vec<String> {
        let scores = self.scores(model);
        scores.map_or(Vec::new(), |scores| scores.warnings(self.threshold, model.classes.len()))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, scores: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(ClassPresentation::new(model.classes.to_vec(), scores))
    }

    fn entities(&self) -> Vec<Entity> {
        class_entities()
    }
}

/// Returns what Home Assistant shows of a decision on a class.
pub fn class_entities() -> Vec<Entity> {
    let prediction = Entity {
        id: "prediction".into(),
        template: "{{ value_json.label | default(none) }}".into(),
        ..Entity::default()
    };
    let score = Entity {
        id: "score".into(),
        template: "{{ value_json.score | default(none) }}".into(),
        is_measurement: true,
        precision: Some(2),
        ..Entity::default()
    };
    vec![prediction, score]
}

/// Publishes verdicts that name a class.
#[derive(Debug)]
pub struct ClassPresentation {
    classes: Vec<String>,
    /// The names of the scores: the classes, each made distinct.
    names: Vec<String>,
    /// The number of scores that are published: the highest ones; `None`: the values are not scores, or none are published.
    scores: Option<usize>,
    /// What is published as the label of a window that could be decided on and has no class; `None`: null.
    undecided: Option<String>,
}

impl ClassPresentation {
    /// `scores`: the values are the scores of the classes, and so many of them are published at most.
    pub fn new(classes: Vec<String>, scores: Option<usize>) -> Self {
        let names = if scores.is_some() { distinct(&classes) } else { Vec::new() };
        Self { classes, names, scores, undecided: None }
    }

    /// Publishes `undecided` as the label of a window that has no class.
    pub(super) fn with_undecided(self, undecided: String) -> Self {
        Self { undecided: Some(undecided), ..self }
    }

    fn label(&self, class: Option<u16>) -> Option<&String> {
        class.and_then(|class| self.classes.get(usize::from(class)))
    }
}

/// Returns the names with a number after those that were there before, as in `crane`, `crane (2)`.
pub(super) fn distinct(names: &[String]) -> Vec<String> {
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut counts = HashMap::<&str, usize>::new();
    let mut distinct = Vec::with_capacity(names.len());
    for name in names {
        let count = counts.entry(name).or_insert(0);
        *count += 1;
        let mut own = name.clone();
        while *count > 1 {
            own = format!("{name} ({count})");
            if taken.insert(own.clone()) {
                break;
            }
            *count += 1;
        }
        distinct.push(own);
    }
    distinct
}

/// The highest of scores under their names, as a JSON object.
struct Best<'a> {
    names: &'a [String],
    values: &'a [f32],
    count: usize,
}

impl Serialize for Best<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut best: Vec<(&String, f32)> = Vec::with_capacity(self.count + 1);
        for (name, value) in self.names.iter().zip(self.values) {
            let is_better = best.len() < self.count || best.last().is_some_and(|(_, lowest)| value > lowest);
            if is_better && !value.is_nan() {
                let place = best.partition_point(|(_, other)| other >= value);
                best.insert(place, (name, *value));
                best.truncate(self.count);
            }
        }
        serializer.collect_map(best)
    }
}

impl Presentation for ClassPresentation {
    fn fields(
        &self,
        verdict: &Verdict,
        values: &[f32],
        truth: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), serde_json::Error> {
        let has_fault = verdict.fault.is_some_and(Fault::decides_nothing);
        let undecided = self.undecided.as_ref().filter(|_| !has_fault);
        fields.add("label", &self.label(verdict.class).or(undecided))?;
        fields.add("score", &verdict.score)?;
        fields.add("raw_label", &self.label(verdict.raw_class))?;
        if let Some(truth) = self.label(truth) {
            fields.add("truth", truth)?;
        }
        if verdict.changed {
            fields.add("changed", &true)?;
        }
        match self.scores {
            Some(count) if count < values.len() => fields.add("scores", &Best { names: &self.names, values, count }),
            Some(_) => fields.add("scores", &Named { names: &self.names, values }),
            None => Ok(()),
        }
    }

    fn most_bytes(&self) -> usize {
        let mut names: Vec<usize> = self.names.iter().map(|name| text_bytes(name) + 1 + NUMBER_BYTES).collect();
        names.sort_unstable_by_key(|bytes| Reverse(*bytes));
        let scores: usize = names.iter().take(self.scores.unwrap_or(0)).sum();
        let longest = self.classes.iter().chain(&self.undecided).map(|class| text_bytes(class)).max().unwrap_or(0);
        let keys = ["label", "score", "raw_label", "truth", "changed", "scores"].map(|key| text_bytes(key) + 2);
        scores + 3 * longest.max("null".len()) + NUMBER_BYTES + "true".len() + keys.iter().sum::<usize>() + 2
    }

    /// Several classes may have one name.
    fn is_right(&self, class: Option<u16>, truth: u16) -> bool {
        class == Some(truth) || class.is_some() && self.label(class) == self.label(Some(truth))
    }
}

/// Decides on a class, window by window.
#[derive(Debug)]
struct Classifier {
    output: usize,
    probabilities: Probabilities,
    smoother: Smoother,
    held: Held,
}

impl Classifier {
    fn new(config: &Classify, classes: usize, probabilities: Probabilities) -> Self {
        Self {
            output: config.output,
            probabilities,
            smoother: Smoother::new(classes, config.smooth),
            held: Held::new(config.threshold, config.hysteresis),
        }
    }

    /// Decides on `values`, those of the output, and leaves the smoothed probabilities of the classes in it.
    fn classify(&mut self, values: &mut Vec<f32>) -> Verdict {
        let fault = self.probabilities.convert(values);
        // Averages and the class that holds stay as they are.
        if fault.is_some_and(Fault::decides_nothing) {
            return Verdict { fault, ..Verdict::VALUES };
        }
        let (raw_class, _) = highest(values);
        self.smoother.smooth(values);
        let (class, score) = self.held.decide(values);
        Verdict { class, score, raw_class: Some(raw_class), fault, changed: false }
    }
}

impl Decider for Classifier {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.probabilities.values(), 0.0);
        outputs.read(self.output, values)?;
        Ok(self.classify(values))
    }

    fn most_values(&self) -> usize {
        self.smoother.width()
    }

    fn reset(&mut self) {
        self.smoother.reset();
        self.held.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, model, outputs, refusal};
    use super::*;

    fn classifier(threshold: f32, smooth: usize, hysteresis: f32, scores: Scores) -> Classifier {
        built(&Classify { output: 0, scores: Some(scores), threshold, smooth, hysteresis }, 3, 3)
    }

    fn built(config: &Classify, scores: usize, classes: usize) -> Classifier {
        let outputs = outputs(&[scores]);
        let classes = vec![String::new(); classes];
        let model = model(&outputs, &classes);
        let meaning = config.scores(&model).unwrap();
        Classifier::new(config, classes.len(), Probabilities::new(&meaning, &outputs[0], classes.len()))
    }

    fn decide(c: &mut Classifier, scores: [f32; 3]) -> (Option<u16>, u16) {
        let verdict = c.classify(&mut scores.to_vec());
        (verdict.class, verdict.raw_class.unwrap())
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let classify = |output| Classify { output, scores: None, threshold: 0.0, smooth: 1, hysteresis: 0.0 };
        let labels = ["a", "b", "c"];
        assert!(refusal(&classify(0), &[2, 4], &labels).contains("has 2 scores; the labels file has 3"));
        assert!(refusal(&classify(2), &[2, 4], &labels).contains("outputs are 0 to 1"));
        assert!(refusal(&classify(1), &[3], &labels).contains("the model has one output, which is 0"));
    }

    #[test]
    fn a_verdict_is_published_with_the_names_of_its_classes() {
        let classes = ["up", "down"].map(str::to_owned).to_vec();
        let verdict = Verdict { class: None, raw_class: Some(1), score: 0.25, ..Verdict::VALUES };
        let presentation = |scores| ClassPresentation::new(classes.clone(), scores);
        assert_eq!(
            json(&presentation(Some(usize::MAX)), &verdict, &[0.25, 0.75], None),
            r#"{"label":null,"score":0.25,"raw_label":"down","scores":{"up":0.25,"down":0.75}}"#
        );
        assert_eq!(
            json(&presentation(None), &Verdict { class: Some(0), ..verdict }, &[0.25, 0.75], Some(1)),
            r#"{"label":"up","score":0.25,"raw_label":"down","truth":"down"}"#
        );
    }

    #[test]
    fn the_best_scores_are_published_and_classes_of_one_name_stay_apart() {
        let classes = ["crane", "dog", "crane", "crane (2)", "crane"].map(str::to_owned).to_vec();
        let verdict = Verdict { class: Some(2), raw_class: Some(2), score: 0.5, ..Verdict::VALUES };
        let values = [0.125, 0.25, 0.5, 0.0625, 0.0625];
        let scores = |count| {
            let presentation = ClassPresentation::new(classes.clone(), Some(count));
            assert!(presentation.is_right(Some(2), 0) && !presentation.is_right(Some(1), 0));
            assert!(!presentation.is_right(None, 0));
            let json = json(&presentation, &verdict, &values, None);
            json.split_once(r#""scores":"#).unwrap().1.to_owned()
        };
        assert_eq!(scores(2), r#"{"crane (3)":0.5,"dog":0.25}}"#);
        assert_eq!(scores(3), r#"{"crane (3)":0.5,"dog":0.25,"crane":0.125}}"#);
        let all = r#"{"crane":0.125,"dog":0.25,"crane (3)":0.5,"crane (2)":0.0625,"crane (4)":0.0625}}"#;
        assert_eq!(scores(5), all);
        let best = Best { names: &classes, values: &[f32::NAN, 0.25, 0.5, f32::NAN, 0.75], count: 4 };
        let shown = serde_json::to_string(&best).unwrap();
        assert_eq!(shown, r#"{"crane":0.75,"crane":0.5,"dog":0.25}"#, "what is not a number is not among the best");
        assert_eq!(scores(usize::MAX), all);
    }

    #[test]
    fn the_highest_score_wins_if_it_reaches_the_threshold() {
        let mut c = classifier(0.6, 1, 0.0, Scores::Probabilities);
        assert_eq!(decide(&mut c, [0.1, 0.7, 0.2]), (Some(1), 1));
        assert_eq!(decide(&mut c, [0.5, 0.4, 0.1]), (None, 0));
        assert_eq!(decide(&mut c, [0.5, 0.5, 0.0]), (None, 0), "the first of equals");
    }

    #[test]
    fn smoothing_outvotes_one_odd_window() {
        let mut c = classifier(0.0, 3, 0.0, Scores::Probabilities);
        assert_eq!(decide(&mut c, [0.9, 0.1, 0.0]), (Some(0), 0));
        assert_eq!(decide(&mut c, [0.3, 0.7, 0.0]), (Some(0), 1));
        c.reset();
        assert_eq!(decide(&mut c, [0.3, 0.7, 0.0]), (Some(1), 1));
    }

    #[test]
    fn hysteresis_holds_the_class_until_another_is_clearly_better() {
        let mut c = classifier(0.3, 1, 0.2, Scores::Probabilities);
        assert_eq!(decide(&mut c, [0.6, 0.4, 0.0]), (Some(0), 0));
        assert_eq!(decide(&mut c, [0.45, 0.55, 0.0]), (Some(0), 1));
        assert_eq!(decide(&mut c, [0.35, 0.65, 0.0]), (Some(1), 1));
        assert_eq!(decide(&mut c, [0.0, 0.28, 0.41]), (None, 2), "held, but under the threshold: nothing is decided");
        assert_eq!(decide(&mut c, [0.0, 0.28, 0.41]), (Some(2), 2), "nothing is held any more");
    }

    /// The probabilities of the classes and the verdict, for one window of `values`.
    fn once(scores: Scores, values: &[f32], classes: usize) -> (Vec<f32>, Verdict) {
        let config = Classify { output: 0, scores: Some(scores), threshold: 0.5, smooth: 1, hysteresis: 0.0 };
        let mut values = values.to_vec();
        let verdict = built(&config, values.len(), classes).classify(&mut values);
        (values, verdict)
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn logits_become_probabilities_that_sum_to_1() {
        let (scores, verdict) = once(Scores::Logits, &[1000.0, 1001.0, 999.0], 3);
        assert!(close(&scores, &[0.244_728, 0.665_241, 0.090_031]), "{scores:?}");
        assert_eq!((verdict.class, verdict.score), (Some(1), scores[1]));
    }

    #[test]
    fn one_score_is_that_of_the_only_or_of_the_second_class() {
        for meaning in [Scores::Logits, Scores::Sigmoid] {
            let (scores, verdict) = once(meaning, &[0.625], 1);
            assert!(close(&scores, &[0.651_355]) && verdict.class == Some(0), "{scores:?}");
            assert_eq!(once(meaning, &[-0.625], 1).1.class, None, "below the threshold");
            let (scores, verdict) = once(meaning, &[-1000.0], 2);
            assert!(close(&scores, &[1.0, 0.0]) && verdict.class == Some(0), "{scores:?}");
        }
        let (scores, verdict) = once(Scores::Probabilities, &[0.75], 2);
        assert_eq!((scores.as_slice(), verdict.class, verdict.score), (&[0.25, 0.75][..], Some(1), 0.75));
    }

    #[test]
    fn independent_labels_get_a_sigmoid_each() {
        let (scores, verdict) = once(Scores::Sigmoid, &[2.0, 1.0, -1.0], 3);
        assert!(close(&scores, &[0.880_797, 0.731_059, 0.268_941]), "{scores:?}");
        assert_eq!(verdict.raw_class, Some(0));
    }

    #[test]
    fn what_is_no_number_decides_nothing_and_leaves_no_trace() {
        let mut c = classifier(0.0, 2, 0.0, Scores::Logits);
        assert_eq!(decide(&mut c, [2.0, 0.0, 0.0]), (Some(0), 0));
        for (value, fault) in [(f32::NAN, Fault::Nan), (f32::INFINITY, Fault::Infinite)] {
            let mut values = vec![0.0, value, 9.0];
            let verdict = c.classify(&mut values);
            assert_eq!((verdict.class, verdict.raw_class, verdict.fault), (None, None, Some(fault)));
            assert!(verdict.score.is_nan() && values.iter().all(|score| score.is_nan()), "{values:?}");
        }
        let mut values = vec![0.0, 0.0, 0.0];
        assert_eq!(c.classify(&mut values).class, Some(0));
        assert!((values[0] - 0.56).abs() < 0.01, "the mean of the two windows that are numbers: {values:?}");
    }

    #[test]
    fn a_probability_is_0_to_1_but_for_rounding() {
        let (scores, verdict) = once(Scores::Probabilities, &[1.004, -0.004], 2);
        assert_eq!((scores.as_slice(), verdict.class, verdict.fault), (&[1.0, 0.0][..], Some(0), None));
        for value in [1.1, -0.1] {
            let verdict = once(Scores::Probabilities, &[value, 0.5], 2).1;
            assert_eq!((verdict.class, verdict.raw_class, verdict.fault), (None, None, Some(Fault::NotProbability)));
        }
    }

    #[test]
    fn logits_that_look_like_probabilities_in_every_window_are_doubtful() {
        let faults = |windows: &[[f32; 3]]| {
            let mut c = classifier(0.0, 1, 0.0, Scores::Logits);
            let verdicts = windows.iter().map(|window| c.classify(&mut window.to_vec()));
            verdicts.map(|verdict| (verdict.class.is_some(), verdict.fault)).collect::<Vec<_>>()
        };
        let (odd, normal) = ([0.94, 0.05, 0.01], [1.5, -0.4, -0.1]);
        assert_eq!(faults(&[odd; 3]), [(true, None), (true, None), (true, Some(Fault::LooksNormalised))]);
        assert_eq!(faults(&[odd, normal, odd, odd, odd])[4], (true, None), "one window was none");
        assert_eq!(faults(&[[0.5, 0.2, 0.1]; 4])[3], (true, None), "they do not sum to 1");
    }
}
