//! Named values: an output as it is, smoothed.

use std::sync::Arc;

use serde_json::json;

use super::smooth::Smoother;
use super::{
    Decider, DecisionKind, Entity, Fault, Fields, MAX_SMOOTH, ModelOutputs, NUMBER_BYTES, Named, Outputs, Presentation,
    Verdict, text_bytes,
};
use crate::engine::EngineError;
use crate::schema::{Checker, Key, table};
use crate::text;
use crate::text::counted;

table! {
    /// Publishes the values of one output under names.
    pub struct Regress {
        /// The index of the model's output.
        pub output: usize = 0;
        /// The name of each value of the output.
        pub names: Vec<String>, example("[\"temperature_c\"]");
        /// The number of windows in a moving average of the values.
        pub smooth: usize = 1, range(1, MAX_SMOOTH);
    }
}

impl DecisionKind for Regress {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let mut names = self.names.clone();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            checker.problem(&key.child("names"), format!("`{}` is there twice", twice[0]));
        }
        if self.names.is_empty() {
            checker.problem(&key.child("names"), "name each value of the output, such as [\"temperature_c\"]");
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let output = model.output(self.output)?;
        let (values, names) = (output.len(), self.names.len());
        if values != names {
            let name = &output.name;
            let message =
                format!("the model's output `{name}` has {}; regress.names has {names}", counted(values, "value"));
            return Err(EngineError::Mismatch(message));
        }
        Ok(Box::new(Regressor { output: self.output, smoother: Smoother::new(values, self.smooth) }))
    }

    fn presentation(&self, _: &ModelOutputs<'_>, _: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(ValuesPresentation { names: self.names.clone() })
    }

    fn entities(&self) -> Vec<Entity> {
        let entity = |name: &String| Entity {
            // A value may be called as one of the pipeline's figures is, such as latency.
            id: format!("value_{}", text::id(name)),
            name: Some(name.clone()),
            template: format!("{{{{ (value_json.get('values') or {{}}).get({}) | default(none) }}}}", json!(name)),
            is_measurement: true,
            ..Entity::default()
        };
        self.names.iter().map(entity).collect()
    }
}

#[derive(Debug)]
struct ValuesPresentation {
    names: Vec<String>,
}

impl Presentation for ValuesPresentation {
    fn fields(
        &self,
        _: &Verdict,
        values: &[f32],
        _: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), serde_json::Error> {
        fields.add("values", &Named { names: &self.names, values })
    }

    fn most_bytes(&self) -> usize {
        let named = self.names.iter().map(|name| text_bytes(name) + 1 + NUMBER_BYTES);
        named.sum::<usize>() + text_bytes("values") + 4
    }
}

struct Regressor {
    output: usize,
    smoother: Smoother,
}

impl Decider for Regressor {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.smoother.width(), 0.0);
        outputs.read(self.output, values)?;
        let fault = Fault::of(values);
        self.smoother.smooth_each(values);
        Ok(Verdict { fault, ..Verdict::VALUES })
    }

    fn most_values(&self) -> usize {
        self.smoother.width()
    }

    fn reset(&mut self) {
        self.smoother.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, model, outputs, refusal};
    use super::*;

    #[test]
    fn a_value_that_is_no_number_is_null_in_its_window_only() {
        let outputs = outputs(&[2]);
        let model = model(&outputs, &[]);
        let regress = Regress { output: 0, names: vec!["x".into(), "y".into()], smooth: 2 };
        let mut regressor = regress.build(&model).unwrap();
        let mut values = Vec::new();
        let mut decide = |window: [f32; 2]| {
            let mut read = |_: usize, values: &mut [f32]| {
                values.copy_from_slice(&window);
                Ok(())
            };
            let verdict = regressor.decide(&mut read, &mut values).unwrap();
            (json(&*regress.presentation(&model, None), &verdict, &values, None), verdict.fault)
        };
        assert_eq!(decide([1.0, 2.0]), (r#"{"values":{"x":1.0,"y":2.0}}"#.into(), None));
        assert_eq!(decide([f32::NAN, 4.0]), (r#"{"values":{"x":null,"y":3.0}}"#.into(), Some(Fault::Nan)));
        assert_eq!(decide([3.0, 6.0]), (r#"{"values":{"x":3.0,"y":5.0}}"#.into(), None));
        assert_eq!(decide([f32::INFINITY, 0.0]).1, Some(Fault::Infinite));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let regress = Regress { output: 1, names: vec!["x".into()], smooth: 1 };
        assert!(refusal(&regress, &[2, 4], &[]).contains("has 4 values; regress.names has 1"));
    }

    #[test]
    fn a_nan_is_null_and_never_breaks_the_json() {
        let presentation = ValuesPresentation { names: vec!["x".into(), "y".into()] };
        let shown = json(&presentation, &Verdict::VALUES, &[f32::NAN, 0.5], None);
        assert_eq!(shown, r#"{"values":{"x":null,"y":0.5}}"#);
    }
}
