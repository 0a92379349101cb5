//! All outputs as they are.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{Decider, DecisionKind, Fields, ModelOutputs, Outputs, Presentation, Verdict};
use crate::engine::{EngineError, TensorInfo};
use crate::schema::{Checker, Key, table};

table! {
    /// Publishes all outputs as they are. It has no keys.
    pub struct Raw {}
}

impl DecisionKind for Raw {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        Ok(Box::new(RawOutputs { lengths: lengths(model) }))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, _: bool) -> Arc<dyn Presentation> {
        Arc::new(OutputsPresentation { lengths: lengths(model) })
    }
}

/// Returns the length of each output.
fn lengths(model: &ModelOutputs<'_>) -> Vec<usize> {
    model.outputs.iter().map(TensorInfo::len).collect()
}

#[derive(Debug)]
struct OutputsPresentation {
    lengths: Vec<usize>,
}

impl Presentation for OutputsPresentation {
    fn fields(
        &self,
        _: &Verdict,
        values: &[f32],
        _: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), serde_json::Error> {
        fields.add("outputs", &Cut { lengths: &self.lengths, values })
    }
}

/// Values cut into lists of these lengths.
struct Cut<'a> {
    lengths: &'a [usize],
    values: &'a [f32],
}

impl Serialize for Cut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rest = self.values;
        serializer.collect_seq(self.lengths.iter().map(|length| {
            let (own, behind) = rest.split_at((*length).min(rest.len()));
            rest = behind;
            own
        }))
    }
}

struct RawOutputs {
    lengths: Vec<usize>,
}

impl Decider for RawOutputs {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.most_values(), 0.0);
        let mut rest = &mut values[..];
        for (output, length) in self.lengths.iter().enumerate() {
            let (own, behind) = rest.split_at_mut(*length);
            outputs.read(output, own)?;
            rest = behind;
        }
        Ok(Verdict::VALUES)
    }

    fn most_values(&self) -> usize {
        self.lengths.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, outputs};
    use super::*;

    #[test]
    fn every_output_is_published_in_order() {
        let outputs = outputs(&[2, 1]);
        let model = ModelOutputs { outputs: &outputs, classes: &[], ends_in_probabilities: &[] };
        let mut decider = Raw {}.build(&model).unwrap();
        let mut values = Vec::new();
        let mut read = |output: usize, values: &mut [f32]| {
            values.fill(output as f32 + 1.0);
            Ok(())
        };
        let verdict = decider.decide(&mut read, &mut values).unwrap();
        assert_eq!(values, [1.0, 1.0, 2.0]);
        let shown = json(&*Raw {}.presentation(&model, false), &verdict, &values, None);
        assert_eq!(shown, r#"{"outputs":[[1.0,1.0],[2.0]]}"#);
    }
}
