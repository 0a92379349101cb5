//! A word that is heard: the mean of the last probabilities above a cut-off, once for each time that it is said.

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::{Error, json};

use super::{
    Decider, DecisionKind, Entity, Fault, Fields, MAX_SMOOTH, ModelOutputs, NUMBER_BYTES, Outputs, Presentation,
    Verdict, text_bytes,
};
use crate::engine::EngineError;
use crate::model::OutputValues;
use crate::schema::{Checker, Key, table};

/// An hour of windows that are 10 ms apart.
const MAX_IGNORED: usize = 360_000;

table! {
    /// Tells when a word is heard, from one probability that a model gives for each window, as the models of micro-wake-word
    /// do.
    pub struct WakeWord {
        /// The index of the model's output, which is one probability.
        pub output: usize = 0;
        /// The word that the model was trained for. It is the label of a detection.
        pub word: String, example("\"okay nabu\"");
        /// The mean probability above which the word is heard. The model's makers give it: 0.85 for okay_nabu, 0.9 for alexa,
        /// 0.95 for hey_mycroft, 0.97 for hey_jarvis.
        pub cutoff: f32, range(0.0, 1.0), example("0.85");
        /// The number of windows whose probabilities are averaged. There is no mean before there are so many.
        pub window: usize = 5, range(1, MAX_SMOOTH);
        /// The number of windows in which nothing is detected: after the start, after a gap, and after a detection, so that a
        /// word that is said once is detected once. 33 windows of 30 ms are about a second.
        pub ignore_windows: usize = 33, range(0, MAX_IGNORED);
        /// Whether every window is published, and not only detections.
        pub every_window: bool = false;
    }
}

impl DecisionKind for WakeWord {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.word.trim().is_empty() {
            checker.problem(&key.child("word"), "write the word that the model was trained for, such as \"okay nabu\"");
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn boundary(&self, _: &[OutputValues]) -> Option<f32> {
        Some(self.cutoff)
    }

    fn events_only(&self) -> bool {
        !self.every_window
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let output = model.output(self.output)?;
        if output.len() != 1 {
            let (name, values) = (&output.name, output.len());
            let message = format!(
                "the model's output `{name}` has {values} values; wake_word takes one probability. For scores of several \
                 words, use decision.classify"
            );
            return Err(EngineError::Mismatch(message));
        }
        Ok(Box::new(Listener::new(self)))
    }

    fn presentation(&self, _: &ModelOutputs<'_>, _: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(WordPresentation { word: self.word.clone() })
    }

    fn entities(&self) -> Vec<Entity> {
        let template = format!(
            "{{{{ {{'event_type': {}, 'score': value_json.score | default(none), 'time_ms': value_json.time_ms | default(none)}} | tojson \
             if value_json.label | default(none) else none }}}}",
            json!(self.word)
        );
        let heard = Entity { id: "heard".into(), template, events: vec![self.word.clone()], ..Entity::default() };
        vec![heard]
    }
}

/// Publishes detections, and windows without one if they are asked for.
#[derive(Debug)]
struct WordPresentation {
    word: String,
}

impl Presentation for WordPresentation {
    fn fields(
        &self,
        verdict: &Verdict,
        values: &[f32],
        _: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), Error> {
        fields.add("label", &verdict.class.map(|_| &self.word))?;
        fields.add("score", &verdict.score)?;
        fields.add("probability", &values.first())
    }

    fn most_bytes(&self) -> usize {
        let keys: usize = ["label", "score", "probability"].map(|key| text_bytes(key) + 2).iter().sum();
        keys + text_bytes(&self.word).max("null".len()) + 2 * NUMBER_BYTES
    }
}

/// Decides on one window after the other.
#[derive(Debug)]
struct Listener {
    output: usize,
    cutoff: f32,
    /// The last probabilities, in no order once there are as many as are averaged.
    last: Vec<f32>,
    averaged: usize,
    /// Where the next one goes.
    next: usize,
    ignore_windows: usize,
    /// Windows that are still to be ignored.
    ignored: usize,
}

impl Listener {
    fn new(config: &WakeWord) -> Self {
        Self {
            output: config.output,
            cutoff: config.cutoff,
            last: Vec::with_capacity(config.window),
            averaged: config.window,
            next: 0,
            ignore_windows: config.ignore_windows,
            ignored: config.ignore_windows,
        }
    }

    /// Returns the mean of the last probabilities; `None` before there are enough of them.
    fn mean(&mut self, probability: f32) -> Option<f32> {
        if self.last.len() < self.averaged {
            self.last.push(probability);
        } else {
            self.last[self.next] = probability;
        }
        self.next = (self.next + 1) % self.averaged;
        (self.last.len() == self.averaged).then(|| self.last.iter().sum::<f32>() / self.averaged as f32)
    }
}

impl Decider for Listener {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(1, 0.0);
        outputs.read(self.output, values)?;
        let is_probability = (0.0..=1.0).contains(&values[0]);
        let fault = Fault::of(values).or((!is_probability).then_some(Fault::NotProbability));
        // The mean stays as it is.
        if fault.is_some() {
            values[0] = f32::NAN;
            return Ok(Verdict { fault, ..Verdict::VALUES });
        }
        let mean = self.mean(values[0]);
        let ignores = self.ignored > 0;
        self.ignored = self.ignored.saturating_sub(1);
        let is_heard = !ignores && mean.is_some_and(|mean| mean > self.cutoff);
        if is_heard {
            self.reset();
        }
        Ok(Verdict { class: is_heard.then_some(0), score: mean.unwrap_or(f32::NAN), ..Verdict::VALUES })
    }

    fn most_values(&self) -> usize {
        1
    }

    fn reset(&mut self) {
        self.last.clear();
        self.next = 0;
        self.ignored = self.ignore_windows;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, model, outputs, refusal};
    use super::*;

    fn wake_word(ignore_windows: usize) -> WakeWord {
        WakeWord { output: 0, word: "okay nabu".into(), cutoff: 0.85, window: 3, ignore_windows, every_window: false }
    }

    fn decide(listener: &mut Listener, value: f32) -> Verdict {
        let mut read = |_: usize, values: &mut [f32]| {
            values[0] = value;
            Ok(())
        };
        listener.decide(&mut read, &mut Vec::with_capacity(1)).unwrap()
    }

    fn heard(listener: &mut Listener, values: &[f32]) -> Vec<bool> {
        values.iter().map(|value| decide(listener, *value).class.is_some()).collect()
    }

    #[test]
    fn a_word_is_heard_once_when_the_mean_is_above_the_cutoff() {
        let mut listener = Listener::new(&wake_word(0));
        let scores = [1.0, 0.5, 0.75, 1.0].map(|value| decide(&mut listener, value).score);
        assert!(scores[0].is_nan() && scores[1].is_nan(), "there are not three yet");
        assert_eq!(scores[2..], [0.75, 0.75]);
        assert_eq!(heard(&mut listener, &[0.8, 0.75]), [false, false], "a mean of 0.85 is not above it");
        assert_eq!(heard(&mut listener, &[1.0, 1.0, 1.0]), [false, true, false], "and then the mean begins again");
        assert_eq!(heard(&mut listener, &[1.0, 1.0]), [false, true]);
    }

    #[test]
    fn after_a_start_a_gap_and_a_detection_windows_are_ignored() {
        let mut listener = Listener::new(&wake_word(4));
        let once = [false, false, false, false, true];
        assert_eq!(heard(&mut listener, &[1.0; 5]), once);
        assert_eq!(heard(&mut listener, &[1.0; 5]), once, "after a detection");
        heard(&mut listener, &[1.0; 3]);
        listener.reset();
        assert_eq!(heard(&mut listener, &[1.0; 5]), once, "after a gap");
    }

    #[test]
    fn what_is_no_probability_leaves_no_trace() {
        let mut listener = Listener::new(&wake_word(0));
        heard(&mut listener, &[1.0, 1.0]);
        for (value, fault) in [(f32::NAN, Fault::Nan), (f32::INFINITY, Fault::Infinite), (1.5, Fault::NotProbability)] {
            let verdict = decide(&mut listener, value);
            assert_eq!((verdict.class, verdict.fault, verdict.score.is_nan()), (None, Some(fault), true));
        }
        assert_eq!(heard(&mut listener, &[1.0]), [true]);
    }

    #[test]
    fn a_detection_is_published_with_its_word() {
        let outputs = outputs(&[1]);
        let model = model(&outputs, &[]);
        let shown = wake_word(0).presentation(&model, None);
        let verdict = Verdict { class: Some(0), score: 0.875, ..Verdict::VALUES };
        assert_eq!(json(&*shown, &verdict, &[0.5], None), r#"{"label":"okay nabu","score":0.875,"probability":0.5}"#);
        assert_eq!(json(&*shown, &Verdict::VALUES, &[0.5], None), r#"{"label":null,"score":null,"probability":0.5}"#);
    }

    #[test]
    fn an_output_of_several_values_is_refused_with_their_number() {
        let refused = refusal(&wake_word(0), &[4], &[]);
        assert!(refused.contains("`out0` has 4 values; wake_word takes one probability"), "{refused}");
    }
}
