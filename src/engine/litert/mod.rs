//! LiteRT's compiled model: the CPU by XNNPACK, a GPU or an NPU, through `libLiteRt.so`.
//!
//! Owns the fitting of a model to that runtime; the calls are in its two modules. LiteRT says little of a
//! tensor, so names, types and quantisation come from the file, shapes and sizes from LiteRT. Nothing here allocates
//! when invoked; what the runtime's C++ does is its own. Built on the main thread, used on the infer thread.

mod compiled_model;
mod library;

use std::ffi::c_int;
use std::path::Path;

use compiled_model::{CompiledModel, Model};
use library::{Environment, Failure, Litert, Registered};
use serde::{Deserialize, Serialize};

use super::checks::{check_batch, counts, dims_refused, foreign_operators, planned_dims};
use super::{Element, Engine, EngineError, ModelPlan, TensorInfo, edge_tpu};
use crate::engine::delegate::litert::Accelerator;
use crate::model::{ElementType, ModelSummary, Quantization, Signature, TensorSummary};

/// A model compiled by LiteRT.
pub struct LitertEngine {
    compiled: CompiledModel,
    batch: usize,
    stateful: bool,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
    facts: LitertFacts,
}

/// What LiteRT reports about itself; it does not report its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitertFacts {
    /// Each operator runs on an accelerator that was asked for; the CPU is one.
    pub fully_accelerated: bool,
    /// None of it runs on the CPU; `None` if this LiteRT does not report it. With the CPU among the accelerators asked for
    /// LiteRT falls back to it without an error, for some operators or for all.
    pub fully_off_cpu: Option<bool>,
    /// What the library's log says of a GPU that is a program on the CPU, such as llvmpipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software_gpu: Option<String>,
    /// Those of the accelerators asked for that LiteRT has here, and the CPU, each with its name: `cpu (CpuAccelerator)`.
    pub accelerators: Vec<String>,
}

impl LitertFacts {
    /// Takes back that none of it runs on the CPU, if the library's log names a GPU that is a program on the CPU.
    pub fn deny(&mut self, software_gpu: Option<String>) {
        if software_gpu.is_some() {
            self.fully_off_cpu = Some(false);
            self.software_gpu = software_gpu;
        }
    }
}

impl std::fmt::Display for LitertFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let accelerated = if self.fully_accelerated { "all of it" } else { "not all of it" };
        let off_cpu = if self.fully_off_cpu == Some(true) { "; none of it on the CPU" } else { "" };
        write!(f, "LiteRT runs {accelerated} on {}{off_cpu}", self.accelerators.join(", "))
    }
}

impl LitertEngine {
    /// Loads `bytes` (those of `model_path`) and compiles them as `plan` has it.
    ///
    /// Vendors' accelerators are looked for in the folder of `library`. Errors: `Delegate` when the library or an
    /// accelerator is missing, `Model` when LiteRT refuses the model, `Mismatch` when edgewatt cannot feed or read it.
    pub fn new(
        library: &Path,
        model_path: &Path,
        bytes: &[u8],
        accelerators: &[Accelerator],
        plan: &ModelPlan,
    ) -> Result<Self, EngineError> {
        let unusable = |reason| EngineError::Delegate { delegate: library.display().to_string(), reason };
        let litert = Litert::load(library).map_err(unusable)?;
        let folder = library.parent().unwrap_or(Path::new(""));
        let environment = Environment::new(litert, folder, accelerators).map_err(|e| unusable(e.to_string()))?;
        let registered = environment.accelerators().map_err(|e| unusable(e.to_string()))?;
        check_accelerators(accelerators, &registered).map_err(unusable)?;

        let refused = |reason: String| EngineError::Model { path: model_path.to_owned(), reason };
        let summary = ModelSummary::from_bytes(bytes).map_err(|e| refused(e.to_string()))?;
        if !plan.states.is_empty() {
            let why = "a state that goes from an output to an input is not run by LiteRT; use another delegate";
            return Err(EngineError::Mismatch(why.into()));
        }
        if !plan.more.is_empty() {
            let why = "a model of which several inputs get the windows is not run by LiteRT; use another delegate";
            return Err(EngineError::Mismatch(why.into()));
        }
        let signature = signature(&summary, plan)?;
        let summary = plan.entered(summary)?;
        let (input, outputs) = ends(plan, &summary)?;
        let model =
            Model::new(environment, bytes, signature).map_err(|e| refused(format!("LiteRT refuses it: {e}")))?;
        check_order(&model, input, &outputs)?;
        let not_built = |e: Failure| refused(not_built(&summary, e));
        let mut compiled = CompiledModel::new(model, accelerators).map_err(not_built)?;
        let batch = plan.batch;
        let dims = planned_dims(batch, plan.dims.as_ref(), &input.shape)?.unwrap_or_else(|| input.shape.clone());
        let shapes = resized(&mut compiled, input, &dims, outputs.len()).map_err(|e| {
            // With an operator missing nothing can be allocated, whatever the batch.
            if dims == input.shape || !foreign_operators(&summary).is_empty() {
                return not_built(e);
            }
            dims_refused(batch, &dims, e)
        })?;
        let bytes = compiled.allocate(&dims, &shapes).map_err(|e| EngineError::runtime("make the buffers", e))?;
        let mut bytes = bytes.into_iter();
        let input_info = vec![info(input, &dims, bytes.next())?.fillable()?];
        let described = outputs.iter().zip(&shapes).map(|(output, dims)| info(output, dims, bytes.next()));
        let output_info = described.collect::<Result<Vec<_>, _>>()?;
        if batch != 1 {
            check_batch(&output_info, batch)?;
        }
        if !summary.stateful {
            warm_up(&mut compiled).map_err(|e| EngineError::runtime("invoke", e))?;
        }
        let facts = facts(&compiled, &registered).map_err(|e| EngineError::runtime("ask what is accelerated", e))?;
        Ok(Self { compiled, batch, stateful: summary.stateful, input_info, output_info, facts })
    }

    /// What LiteRT reported when the engine was built.
    pub fn facts(&self) -> &LitertFacts {
        &self.facts
    }
}

impl Engine for LitertEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.input_info
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.output_info
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn input_bytes(&mut self, _index: usize) -> Result<&mut [u8], EngineError> {
        let bytes = self.compiled.input_bytes().map_err(|e| EngineError::runtime("reach the input", e))?;
        Ok(&mut bytes[..self.input_info[0].stored_bytes()])
    }

    fn invoke(&mut self) -> Result<(), EngineError> {
        self.compiled.run().map_err(|e| EngineError::runtime("invoke", e))
    }

    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        let info = self.output_info.get(index);
        let info =
            info.ok_or_else(|| EngineError::Mismatch(format!("output {index} of {}", self.output_info.len())))?;
        let bytes = self.compiled.output_bytes(index).map_err(|e| EngineError::runtime("reach an output", e))?;
        Ok(&bytes[..info.stored_bytes()])
    }

    /// Compiles the model again: LiteRT has no other way to clear its variables.
    fn reset(&mut self) -> Result<(), EngineError> {
        if !self.stateful {
            return Ok(());
        }
        self.compiled.renew().map_err(|e| EngineError::runtime("compile the model again", e))
    }
}

/// Refuses accelerators that are missing: LiteRT itself ignores them without an error.
fn check_accelerators(wanted: &[Accelerator], registered: &[Registered]) -> Result<(), String> {
    if wanted.is_empty() {
        return Err("no accelerator is named; name at least one of cpu, gpu and npu".into());
    }
    let has = |kind: &Accelerator| registered.iter().any(|accelerator| accelerator.kinds.contains(kind));
    let Some(missing) = wanted.iter().find(|kind| !has(kind)) else { return Ok(()) };
    let there: Vec<String> = registered.iter().map(describe).collect();
    let there = if there.is_empty() { "none at all".into() } else { there.join(", ") };
    Err(format!(
        "LiteRT finds no accelerator for `{}` here; it has {there}. Is the vendor's accelerator library in the same folder?",
        missing.name()
    ))
}

fn facts(compiled: &CompiledModel, registered: &[Registered]) -> Result<LitertFacts, Failure> {
    Ok(LitertFacts {
        fully_accelerated: compiled.fully_accelerated()?,
        fully_off_cpu: compiled.fully_off_cpu()?,
        software_gpu: None,
        accelerators: registered.iter().map(describe).collect(),
    })
}

fn describe(accelerator: &Registered) -> String {
    let kinds: Vec<&str> = accelerator.kinds.iter().copied().map(Accelerator::name).collect();
    format!("{} ({})", kinds.join("+"), accelerator.name)
}

/// The one input, and the outputs in the file's order.
fn ends<'a>(
    plan: &ModelPlan,
    summary: &'a ModelSummary,
) -> Result<(&'a TensorSummary, Vec<&'a TensorSummary>), EngineError> {
    let (inputs, outputs) = (&summary.main.inputs, &summary.main.outputs);
    counts(plan, inputs.len(), outputs.len())?;
    Ok((&inputs[plan.fed], outputs.iter().map(|output| &output.tensor).collect()))
}

/// Why LiteRT builds nothing of a model: it says little itself, the file says more.
fn not_built(summary: &ModelSummary, failure: Failure) -> String {
    if edge_tpu::is_compiled(summary) {
        return edge_tpu::COMPILED_WITHOUT_DELEGATE.into();
    }
    match foreign_operators(summary).as_slice() {
        [] => format!("LiteRT cannot build it: {failure}"),
        [name] => format!("its operator {name} is not in LiteRT and no accelerator takes it"),
        names => format!("its operators {} are not all in LiteRT or taken by an accelerator", names.join(", ")),
    }
}

/// The index of the signature that is planned, or of the one that runs the first subgraph, as the classic interpreter does;
/// LiteRT creates one if the file has none.
fn signature(summary: &ModelSummary, plan: &ModelPlan) -> Result<usize, EngineError> {
    let is_wanted = |signature: &Signature| match &plan.signature {
        Some(name) => signature.name == *name,
        None => signature.subgraph == 0,
    };
    let found = summary.signatures.iter().position(is_wanted);
    found.or(summary.signatures.is_empty().then_some(0)).ok_or_else(|| {
        EngineError::Mismatch(
            "none of the model's signatures is that of its main subgraph; LiteRT runs no other".into(),
        )
    })
}

/// LiteRT gives a signature's outputs in the file's order, whatever the signature's own; nothing says that it must.
fn check_order(model: &Model, input: &TensorSummary, outputs: &[&TensorSummary]) -> Result<(), EngineError> {
    let (inputs_found, outputs_found) =
        model.tensor_indices().map_err(|e| EngineError::runtime("read the signature", e))?;
    if inputs_found == [input.index] && outputs_found.iter().eq(outputs.iter().map(|output| &output.index)) {
        return Ok(());
    }
    Err(EngineError::Mismatch(
        "the inputs and outputs of the model's signature are not those of its main subgraph".into(),
    ))
}

/// Fixes what the file leaves open, without which LiteRT makes no buffers, and gives the outputs' shapes.
fn resized(
    compiled: &mut CompiledModel,
    input: &TensorSummary,
    dims: &[c_int],
    outputs: usize,
) -> Result<Vec<Vec<c_int>>, Failure> {
    if input.shape_signature != dims {
        compiled.resize_input(dims)?;
    }
    compiled.output_shapes(outputs)
}

fn info(tensor: &TensorSummary, dims: &[c_int], bytes: Option<usize>) -> Result<TensorInfo, EngineError> {
    let name = tensor.name.clone();
    let element = match tensor.element {
        ElementType::FLOAT32 => Element::Float32,
        ElementType::INT8 => Element::Int8,
        ElementType::UINT8 => Element::Uint8,
        ElementType::INT16 => Element::Int16,
        ElementType::INT32 => Element::Int32,
        ElementType::INT64 => Element::Int64,
        ElementType::BOOL => Element::Bool,
        _ => Element::Other,
    };
    let shape: Result<Vec<usize>, _> = dims.iter().copied().map(usize::try_from).collect();
    let shape = shape.map_err(|_| EngineError::Mismatch(format!("tensor `{name}` has a dimension below 0")))?;
    let (scale, zero_point) = match tensor.quantization {
        Some(Quantization::PerTensor { scale, zero_point }) => (scale, i32::try_from(zero_point).ok()),
        _ => (0.0, Some(0)),
    };
    let zero_point = zero_point
        .ok_or_else(|| EngineError::Mismatch(format!("tensor `{name}` has a zero point that its type cannot hold")))?;
    let claimed = shape.iter().try_fold(element.bytes(), |bytes, dim| bytes.checked_mul(*dim));
    // An accelerator may want a buffer longer than the tensor, never a shorter one.
    let bytes = bytes.unwrap_or(0).min(claimed.unwrap_or(usize::MAX));
    TensorInfo { name, element, shape, scale, zero_point }.checked(bytes)
}

/// The first invocation, which takes longer than those that follow; on zeros.
fn warm_up(compiled: &mut CompiledModel) -> Result<(), Failure> {
    compiled.input_bytes()?.fill(0);
    compiled.run()
}
