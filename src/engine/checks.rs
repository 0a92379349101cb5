//! Checks that edgewatt can run a model, and explains why a runtime refuses one; shared by all bindings of the interpreter.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use super::failure::Failure;
use super::plan::ModelPlan;
use super::{EngineError, TensorInfo, edge_tpu};
use crate::model::{ModelSummary, OperatorCount};

/// Custom operators that every stock runtime has; from `BuiltinOpResolver` in tensorflow/lite/core/kernels/register.cc. A
/// model of one operator is resolved by the C library 2.17.1 for these names alone.
const STOCK_CUSTOM_OPERATORS: [&str; 4] = ["NumericVerify", "Mfcc", "AudioSpectrogram", "TFLite_Detection_PostProcess"];

/// Custom operators that LiteRT's runtime 2.3.0 has in addition, found in the same way.
const LITERT_CUSTOM_OPERATORS: [&str; 4] =
    ["Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "odml.scaled_dot_product_attention"];
/// How the converter names operators of TensorFlow itself.
const TENSORFLOW_PREFIX: &str = "Flex";

/// Returns what can run the custom operator `name`, in words for the user.
pub(crate) fn custom_operator(name: &str) -> &'static str {
    if STOCK_CUSTOM_OPERATORS.contains(&name) {
        "custom: in the runtime"
    } else if LITERT_CUSTOM_OPERATORS.contains(&name) {
        "custom: in LiteRT's runtime only"
    } else if name.starts_with(TENSORFLOW_PREFIX) {
        "of TensorFlow itself: needs the Flex delegate; convert without SELECT_TF_OPS"
    } else {
        "custom: needs its delegate"
    }
}

/// Returns an error's message followed by those of its causes; the last one is the loader's own.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Refuses a model that edgewatt cannot feed by `plan` or that has no outputs.
pub(crate) fn counts(plan: &ModelPlan, inputs: usize, outputs: usize) -> Result<(), EngineError> {
    let fed = 1 + plan.more.len() + plan.states.len();
    let exist = plan.feeds().all(|(input, _)| input < inputs)
        && plan.states.iter().all(|state| state.input < inputs && state.output < outputs);
    match (inputs, outputs) {
        (_, 0) => Err(EngineError::Mismatch("the model has no outputs; edgewatt needs 1 or more".into())),
        _ if inputs == fed && exist => Ok(()),
        _ => Err(EngineError::Mismatch(format!(
            "the model has {inputs} inputs, and {fed} of them would be fed; a pipeline names the others in model.inputs or \
             model.state"
        ))),
    }
}

/// Returns the shape that an input of `shape` must be given before the tensors are allocated, if the plan gives it `dims`;
/// `None`: it has it already.
pub(crate) fn planned_dims(
    batch: usize,
    dims: Option<&Vec<i32>>,
    shape: &[i32],
) -> Result<Option<Vec<i32>>, EngineError> {
    if dims.is_some() || batch == 1 {
        return Ok(dims.cloned());
    }
    let mut dims = shape.to_vec();
    let first =
        dims.first_mut().ok_or_else(|| EngineError::Mismatch("the model's input has no batch dimension".into()))?;
    *first = i32::try_from(batch).map_err(|_| EngineError::Mismatch(format!("a batch of {batch} is too large")))?;
    Ok(Some(dims))
}

/// Returns the error if the runtime does not allocate the model for an input of `dims`.
pub(crate) fn dims_refused(batch: usize, dims: &[i32], reason: impl Display) -> EngineError {
    let batches = if batch > 1 { format!("batches of {batch}, ") } else { String::new() };
    EngineError::Mismatch(format!("the model does not take {batches}an input of {dims:?}: {reason}"))
}

/// Checks that the first dimension of each output is the batch, so that it can be cut into windows.
pub(crate) fn check_batch(outputs: &[TensorInfo], batch: usize) -> Result<(), EngineError> {
    match outputs.iter().find(|output| output.shape.first() != Some(&batch)) {
        None => Ok(()),
        Some(output) => Err(EngineError::Mismatch(format!(
            "with batches of {batch} the model's output `{}` is {:?}; its first dimension should be {batch}",
            output.name, output.shape
        ))),
    }
}

/// Returns why the runtime does not build an interpreter, with the delegate in `library` or a built-in one. The runtime
/// gives little reason; the file shows more.
pub(crate) fn not_built(summary: Option<&ModelSummary>, library: Option<&Path>, failure: Failure) -> String {
    let as_it_says = format!("its tensors cannot be allocated: {failure}");
    let Some(summary) = summary else { return as_it_says };
    let foreign = foreign_operators(summary);
    if !foreign.is_empty() && matches!(failure, Failure::UNRESOLVED_OPERATORS | Failure::Null) {
        let by_tpu = library.is_some_and(edge_tpu::is_library);
        return match foreign.as_slice() {
            _ if edge_tpu::is_compiled(summary) && !by_tpu => edge_tpu::COMPILED_WITHOUT_DELEGATE.into(),
            [name] => format!("its operator {name} is not in the runtime and no delegate takes it"),
            names => format!("its operators {} are not all in the runtime or taken by a delegate", names.join(", ")),
        };
    }
    if let Some(library) = library {
        return format!("the runtime cannot build it with the delegate {}: {failure}", library.display());
    }
    let later = operator_names(summary, |op| !op.custom && op.name.starts_with("UNKNOWN_"));
    match &summary.min_runtime_version {
        _ if !later.is_empty() => {
            format!("its operators {} are newer than edgewatt and this runtime", later.join(", "))
        }
        Some(version) if failure == Failure::Null => {
            let version = version.escape_debug();
            format!("this runtime cannot build it: is it damaged? It was made for TensorFlow Lite {version} or later")
        }
        _ => as_it_says,
    }
}

/// Returns the custom operators that no stock runtime has: only the delegate that the model was compiled for runs them.
pub fn foreign_operators(summary: &ModelSummary) -> Vec<String> {
    operator_names(summary, |op| op.custom && !STOCK_CUSTOM_OPERATORS.contains(&op.name.as_str()))
}

/// Returns the names of the operators that are `wanted`, each once.
fn operator_names(summary: &ModelSummary, wanted: impl Fn(&OperatorCount) -> bool) -> Vec<String> {
    let subgraphs = std::iter::once(&summary.main).chain(&summary.other_subgraphs);
    let operators = subgraphs.flat_map(|subgraph| &subgraph.operators).filter(|op| wanted(op));
    let names: BTreeSet<String> = operators.map(|op| format!("`{}`", op.name.escape_debug())).collect();
    names.into_iter().collect()
}
