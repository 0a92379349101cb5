//! One value of an output against a threshold: low or high.

use std::sync::Arc;

use super::classify::{ClassPresentation, class_entities};
use super::smooth::Smoother;
use super::{Decider, DecisionKind, Entity, Fault, MAX_SMOOTH, ModelOutputs, Outputs, Presentation, Verdict};
use crate::engine::EngineError;
use crate::model::OutputValues;
use crate::schema::{Checker, Key, table};
use crate::text::counted;

const LOW: u16 = 0;
const HIGH: u16 = 1;

table! {
    /// Decides whether one value of an output is high or low. The value itself is published as the score.
    pub struct Threshold {
        /// The index of the model's output.
        pub output: usize = 0;
        /// The index of the value in the output.
        pub value: usize = 0;
        /// The value at which low becomes high.
        pub above: f32, example("0.5");
        /// How far below `above` the value must fall before high becomes low again.
        pub hysteresis: f32 = 0.0, range(0.0, 1e9);
        /// The number of windows in a moving average of the value.
        pub smooth: usize = 1, range(1, MAX_SMOOTH);
        /// What low and high are called.
        pub names: [String; 2] = ["low", "high"].map(str::to_owned);
    }
}

impl DecisionKind for Threshold {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if !self.above.is_finite() {
            checker.problem(&key.child("above"), format!("{} is not a number to compare with", self.above));
        }
        if self.names[0] == self.names[1] || self.names.iter().any(String::is_empty) {
            checker.problem(&key.child("names"), "write two different names, such as [\"low\", \"high\"]");
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn boundary(&self, _: &[OutputValues]) -> Option<f32> {
        Some(self.above)
    }

    fn has_classes(&self) -> bool {
        true
    }

    fn classes(&self, _: Vec<String>) -> Vec<String> {
        self.names.to_vec()
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let output = model.output(self.output)?;
        let (values, name) = (output.len(), &output.name);
        if self.value >= values {
            let message =
                format!("value = {}, but the model's output `{name}` has {}", self.value, counted(values, "value"));
            return Err(EngineError::Mismatch(message));
        }
        let smoother = Smoother::new(1, self.smooth);
        Ok(Box::new(Level { config: self.clone(), values, smoother, is_high: false }))
    }

    fn presentation(&self, _: &ModelOutputs<'_>, _: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(ClassPresentation::new(self.names.to_vec(), None))
    }

    fn entities(&self) -> Vec<Entity> {
        class_entities()
    }
}

/// Decides on one window after the other.
struct Level {
    config: Threshold,
    /// Values of the output.
    values: usize,
    smoother: Smoother,
    is_high: bool,
}

fn level(is_high: bool) -> u16 {
    if is_high { HIGH } else { LOW }
}

impl Decider for Level {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.values, 0.0);
        outputs.read(self.config.output, values)?;
        values.swap(0, self.config.value);
        values.truncate(1);
        // The average and the level stay as they are.
        if let Some(fault) = Fault::of(values) {
            values[0] = f32::NAN;
            return Ok(Verdict { fault: Some(fault), ..Verdict::VALUES });
        }
        let raw_class = level(values[0] >= self.config.above);
        self.smoother.smooth(values);
        let margin = if self.is_high { self.config.hysteresis } else { 0.0 };
        self.is_high = values[0] >= self.config.above - margin;
        Ok(Verdict {
            class: Some(level(self.is_high)),
            raw_class: Some(raw_class),
            score: values[0],
            ..Verdict::VALUES
        })
    }

    fn most_values(&self) -> usize {
        self.values
    }

    fn reset(&mut self) {
        self.smoother.reset();
        self.is_high = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, model, outputs, refusal};
    use super::*;

    fn threshold() -> Threshold {
        let names = ["still", "moving"].map(str::to_owned);
        Threshold { output: 0, value: 1, above: 0.5, hysteresis: 0.2, smooth: 1, names }
    }

    #[test]
    fn high_holds_until_the_value_has_fallen_by_the_hysteresis() {
        let outputs = outputs(&[2]);
        let model = model(&outputs, &[]);
        let mut level = threshold().build(&model).unwrap();
        let mut values = Vec::with_capacity(level.most_values());
        let mut decide = |value: f32| {
            let mut read = |_: usize, values: &mut [f32]| {
                values.copy_from_slice(&[9.0, value]);
                Ok(())
            };
            let verdict = level.decide(&mut read, &mut values).unwrap();
            assert_eq!((verdict.score, values.as_slice()), (value, &[value][..]));
            (verdict.class.unwrap(), verdict.raw_class.unwrap())
        };
        let decided = [0.4, 0.5, 0.4, 0.31, 0.29, 0.4].map(&mut decide);
        assert_eq!(decided, [(LOW, LOW), (HIGH, HIGH), (HIGH, LOW), (HIGH, LOW), (LOW, LOW), (LOW, LOW)]);
    }

    #[test]
    fn a_value_that_is_no_number_decides_nothing_and_leaves_no_trace() {
        let outputs = outputs(&[2]);
        let model = model(&outputs, &[]);
        let mut level = Threshold { smooth: 2, ..threshold() }.build(&model).unwrap();
        let mut values = Vec::with_capacity(level.most_values());
        let mut decide = |value: f32| {
            let mut read = |_: usize, values: &mut [f32]| {
                values.copy_from_slice(&[f32::NAN, value]);
                Ok(())
            };
            level.decide(&mut read, &mut values).unwrap()
        };
        assert_eq!(decide(1.0).class, Some(HIGH), "the other value of the output does not matter");
        for value in [f32::NAN, f32::INFINITY] {
            let verdict = decide(value);
            assert_eq!((verdict.class, verdict.raw_class, verdict.score.is_nan()), (None, None, true));
        }
        assert_eq!((decide(0.0).class, decide(0.0).score), (Some(HIGH), 0.0), "the mean of 1 and 0 is 0.5");
    }

    #[test]
    fn the_value_is_published_as_the_score_with_the_name_of_its_level() {
        let outputs = outputs(&[2]);
        let model = model(&outputs, &[]);
        let verdict = Verdict { class: Some(HIGH), raw_class: Some(LOW), score: 0.75, ..Verdict::VALUES };
        let shown = json(&*threshold().presentation(&model, None), &verdict, &[0.75], Some(HIGH));
        assert_eq!(shown, r#"{"label":"moving","score":0.75,"raw_label":"still","truth":"moving"}"#);
    }

    #[test]
    fn a_value_that_the_output_does_not_have_is_refused_with_both_numbers() {
        let refused = refusal(&threshold(), &[1], &[]);
        assert!(refused.contains("value = 1, but the model's output `out0` has 1 value"), "{refused}");
    }
}
