//! All outputs as they are.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    Decider, DecisionKind, Fault, Fields, ModelOutputs, NUMBER_BYTES, Outputs, Presentation, Verdict, text_bytes,
};
use crate::engine::{EngineError, TensorInfo};
use crate::schema::{Checker, Key, table};

table! {
    /// Publishes outputs as they are.
    pub struct Raw {
        /// The indices of the outputs to publish, in this order.
        pub outputs: Option<Vec<usize>>, otherwise("all"), example("[0]");
    }
}

impl DecisionKind for Raw {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.outputs.as_ref().is_some_and(Vec::is_empty) {
            checker.problem(&key.child("outputs"), "name at least one output, or leave the key out");
        }
    }

    fn output(&self) -> usize {
        self.outputs.as_ref().and_then(|outputs| outputs.first()).copied().unwrap_or(0)
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let outputs = self.chosen(model);
        outputs.iter().try_for_each(|output| model.output(output.index).map(drop))?;
        Ok(Box::new(RawOutputs { outputs }))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, _: Option<usize>) -> Arc<dyn Presentation> {
        let lengths = self.chosen(model).iter().map(|output| output.length).collect();
        Arc::new(OutputsPresentation { lengths })
    }
}

impl Raw {
    fn chosen(&self, model: &ModelOutputs<'_>) -> Vec<Chosen> {
        let all = || (0..model.outputs.len()).collect();
        let indices: Vec<usize> = self.outputs.clone().unwrap_or_else(all);
        let length = |index: usize| model.outputs.get(index).map_or(0, TensorInfo::len);
        indices.into_iter().map(|index| Chosen { index, length: length(index) }).collect()
    }
}

/// An output that is published.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    index: usize,
    length: usize,
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

    fn most_bytes(&self) -> usize {
        let brackets = 3 * (self.lengths.len() + 1);
        self.lengths.iter().sum::<usize>() * NUMBER_BYTES + brackets + text_bytes("outputs") + 2
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
    outputs: Vec<Chosen>,
}

impl Decider for RawOutputs {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.resize(self.most_values(), 0.0);
        let mut rest = &mut values[..];
        for output in &self.outputs {
            let (own, behind) = rest.split_at_mut(output.length);
            outputs.read(output.index, own)?;
            rest = behind;
        }
        Ok(Verdict { fault: Fault::of(values), ..Verdict::VALUES })
    }

    fn most_values(&self) -> usize {
        self.outputs.iter().map(|output| output.length).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{json, model, outputs};
    use super::*;

    #[test]
    fn every_output_is_published_in_order() {
        let outputs = outputs(&[2, 1]);
        let model = model(&outputs, &[]);
        let mut decider = Raw { outputs: None }.build(&model).unwrap();
        let mut values = Vec::new();
        let mut read = |output: usize, values: &mut [f32]| {
            values.fill(output as f32 + 1.0);
            Ok(())
        };
        let verdict = decider.decide(&mut read, &mut values).unwrap();
        assert_eq!(values, [1.0, 1.0, 2.0]);
        let shown = json(&*Raw { outputs: None }.presentation(&model, None), &verdict, &values, None);
        assert_eq!(shown, r#"{"outputs":[[1.0,1.0],[2.0]]}"#);
    }

    #[test]
    fn what_is_no_number_is_null_and_counted() {
        let outputs = outputs(&[2]);
        let model = model(&outputs, &[]);
        let mut values = Vec::new();
        let mut read = |_: usize, values: &mut [f32]| {
            values.copy_from_slice(&[f32::NEG_INFINITY, 0.5]);
            Ok(())
        };
        let verdict = Raw { outputs: None }.build(&model).unwrap().decide(&mut read, &mut values).unwrap();
        assert_eq!(verdict.fault, Some(Fault::Infinite));
        let shown = json(&*Raw { outputs: None }.presentation(&model, None), &verdict, &values, None);
        assert_eq!(shown, r#"{"outputs":[[null,0.5]]}"#);
    }
}
