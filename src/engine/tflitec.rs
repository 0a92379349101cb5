//! The runtime that the binary is linked with, by the `tflitec` crate: for builds that must not load a library later.
//!
//! The crate runs the runtime's own kernels and XNNPACK; it attaches no other delegate, keeps statuses to itself and
//! tells nothing of what ran where. It copies a tensor's name and shape at each look, so an invocation costs two small
//! allocations an output. What it hands out must not be kept across an invocation, though nothing says so: values are
//! copied to and from buffers of ours around each one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self_cell::self_cell;
use tflitec::interpreter::{Interpreter, Options};
use tflitec::model::Model;
use tflitec::tensor::{DataType, Shape, Tensor};

use super::buffer::{self, TensorBuffer};
use super::failure::Failure;
use super::{DelegateKind, Element, Engine, EngineError, ModelPlan, TensorInfo, checks};
use crate::model::{ModelSummary, Quantization, TensorSummary};

self_cell! {
    /// A model and the bytes that it points into.
    struct OwnedModel {
        owner: Vec<u8>,
        #[covariant]
        dependent: Model,
    }
}

self_cell! {
    /// An interpreter and its model, which outlives it when it is rebuilt.
    struct OwnedInterpreter {
        owner: Arc<OwnedModel>,
        #[covariant]
        dependent: Interpreter,
    }
}

/// The error for what the crate does not reach.
const LINKED_PLAN: &str = "the linked runtime (runtime.library = \"linked\") runs a model's first subgraph with one input; name a \
     library in runtime.library to run another signature or a model with a state";

/// A model in the linked runtime's interpreter.
pub struct TflitecEngine {
    interpreter: OwnedInterpreter,
    recipe: Recipe,
    input: TensorBuffer,
    outputs: Vec<TensorBuffer>,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
}

/// What an interpreter is built from, as often as is needed.
struct Recipe {
    model: Arc<OwnedModel>,
    summary: ModelSummary,
    path: PathBuf,
    options: Options,
    plan: ModelPlan,
}

impl TflitecEngine {
    /// Loads `bytes` (those of `path`) and allocates its tensors as `plan` has them; `delegate` is `cpu` or
    /// `xnnpack` without flags.
    pub fn new(path: &Path, bytes: &[u8], delegate: &DelegateKind, plan: &ModelPlan) -> Result<Self, EngineError> {
        let options = delegate.kind().linked_options()?;
        if plan.signature.is_some() || !plan.states.is_empty() || !plan.more.is_empty() {
            return Err(EngineError::Mismatch(LINKED_PLAN.into()));
        }
        let recipe = Recipe::new(path, bytes, options, plan)?;
        let owned = recipe.interpreter()?;
        let interpreter = owned.borrow_dependent();
        let input_info = recipe.input_info(interpreter)?;
        let input = TensorBuffer::new(&input_info);
        if !recipe.summary.stateful {
            // The first invocation takes longer than those that follow, and gives outputs of dynamic size their shape.
            invoke(interpreter, input.bytes())?;
        }
        let outputs = 0..interpreter.output_tensor_count();
        let output_info = outputs.map(|index| recipe.output_info(interpreter, index)).collect::<Result<Vec<_>, _>>()?;
        if plan.batch != 1 {
            checks::check_batch(&output_info, plan.batch)?;
        }
        let outputs = output_info.iter().map(TensorBuffer::new).collect();
        Ok(Self { interpreter: owned, recipe, input, outputs, input_info: vec![input_info], output_info })
    }
}

impl Recipe {
    fn new(path: &Path, bytes: &[u8], options: Options, plan: &ModelPlan) -> Result<Self, EngineError> {
        let in_model = |reason: String| EngineError::Model { path: path.to_owned(), reason };
        let model = OwnedModel::try_new(bytes.to_vec(), |bytes| Model::from_bytes(bytes))
            .map_err(|_| in_model(format!("the runtime refuses it: {}", Failure::Null)))?;
        let summary = ModelSummary::from_bytes(bytes).map_err(|e| in_model(e.to_string()))?;
        // The crate panics on such a name when it looks at the tensor. Our reader puts U+FFFD for what is not UTF-8.
        let tensors = summary.main.inputs.iter().chain(summary.main.outputs.iter().map(|output| &output.tensor));
        if let Some(tensor) = tensors.into_iter().find(|tensor| tensor.name.contains(char::REPLACEMENT_CHARACTER)) {
            return Err(in_model(format!("the name of its tensor `{}` is not UTF-8", tensor.name.escape_debug())));
        }
        Ok(Self { model: Arc::new(model), summary, path: path.to_owned(), options, plan: plan.clone() })
    }

    fn interpreter(&self) -> Result<OwnedInterpreter, EngineError> {
        let owned = OwnedInterpreter::try_new(self.model.clone(), |model| {
            Interpreter::new(model.borrow_dependent(), Some(self.options))
        });
        let owned = owned.map_err(|_| self.not_built())?;
        let interpreter = owned.borrow_dependent();
        checks::counts(&self.plan, interpreter.input_tensor_count(), interpreter.output_tensor_count())?;
        let shape = self.summary.main.inputs.first().map_or(&[][..], |input| &input.shape);
        let dims = checks::planned_dims(self.plan.batch, self.plan.dims.as_ref(), shape)?;
        let refused = |dims: &[i32]| checks::dims_refused(self.plan.batch, dims, Failure::Null);
        if let Some(dims) = &dims {
            let shape = Shape::new(dims.iter().map(|dim| dim.unsigned_abs() as usize).collect());
            interpreter.resize_input(0, shape).map_err(|_| refused(dims))?;
        }
        let foreign = !checks::foreign_operators(&self.summary).is_empty();
        interpreter.allocate_tensors().map_err(|_| match &dims {
            Some(dims) if !foreign => refused(dims),
            _ => self.not_built(),
        })?;
        Ok(owned)
    }

    /// The crate does not say which status it was.
    fn not_built(&self) -> EngineError {
        let reason = checks::not_built(Some(&self.summary), None, Failure::Null);
        EngineError::Model { path: self.path.clone(), reason }
    }

    fn input_info(&self, interpreter: &Interpreter) -> Result<TensorInfo, EngineError> {
        let tensor = interpreter.input(0).map_err(|e| EngineError::runtime("reach the input", e))?;
        describe(&tensor, self.summary.main.inputs.first())?.fillable()
    }

    fn output_info(&self, interpreter: &Interpreter, index: usize) -> Result<TensorInfo, EngineError> {
        let tensor = interpreter.output(index).map_err(|e| EngineError::runtime("reach an output", e))?;
        describe(&tensor, self.summary.main.outputs.get(index).map(|output| &output.tensor))
    }
}

/// What the crate tells of `tensor`, and the scale of int16, which it does not, from the file.
fn describe(tensor: &Tensor, in_file: Option<&TensorSummary>) -> Result<TensorInfo, EngineError> {
    let name = tensor.name().to_owned();
    let element = match tensor.data_type() {
        DataType::Float32 => Element::Float32,
        DataType::Int8 => Element::Int8,
        DataType::UInt8 => Element::Uint8,
        DataType::Int16 => Element::Int16,
        DataType::Int32 => Element::Int32,
        DataType::Int64 => Element::Int64,
        DataType::Bool => Element::Bool,
        _ => Element::Other,
    };
    let (scale, zero_point) = match (tensor.quantization_parameters(), in_file.and_then(|t| t.quantization.as_ref())) {
        (Some(given), _) => (given.scale, given.zero_point),
        (None, Some(Quantization::PerTensor { scale, zero_point })) => {
            let zero_point = i32::try_from(*zero_point);
            (*scale, zero_point.map_err(|e| EngineError::Mismatch(format!("tensor `{name}`: its zero point: {e}")))?)
        }
        (None, _) => (0.0, 0),
    };
    let shape = tensor.shape().dimensions().clone();
    TensorInfo { name, element, shape, scale, zero_point }.checked(tensor.data::<u8>().len())
}

fn invoke(interpreter: &Interpreter, input: &[u8]) -> Result<(), EngineError> {
    interpreter.copy(input, 0).map_err(|e| EngineError::runtime("fill the input", e))?;
    // The crate's own words on a failed invocation name another cause.
    interpreter.invoke().map_err(|_| EngineError::runtime("invoke", Failure::Null))
}

impl Engine for TflitecEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.input_info
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.output_info
    }

    fn batch(&self) -> usize {
        self.recipe.plan.batch
    }

    fn input_bytes(&mut self, _index: usize) -> Result<&mut [u8], EngineError> {
        Ok(self.input.bytes_mut())
    }

    fn invoke(&mut self) -> Result<(), EngineError> {
        let interpreter = self.interpreter.borrow_dependent();
        invoke(interpreter, self.input.bytes())?;
        for (index, output) in self.outputs.iter_mut().enumerate().filter(|(_, output)| !output.bytes().is_empty()) {
            let tensor = interpreter.output(index).map_err(|e| EngineError::runtime("reach an output", e))?;
            fill(output, tensor.data(), tensor.name())?;
        }
        Ok(())
    }

    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        buffer::at(self.outputs.iter(), index, "output").map(TensorBuffer::bytes)
    }

    /// Rebuilds the interpreter: the crate has no other way.
    fn reset(&mut self) -> Result<(), EngineError> {
        if self.recipe.summary.stateful {
            self.interpreter = self.recipe.interpreter()?;
        }
        Ok(())
    }
}

/// Takes over the bytes of the output `name`, whose size may be dynamic.
fn fill(output: &mut TensorBuffer, data: &[u8], name: &str) -> Result<(), EngineError> {
    let before = output.bytes().len();
    if data.len() != before {
        let now = data.len();
        return Err(EngineError::Mismatch(format!("output `{name}` has {now} bytes, and had {before}")));
    }
    output.bytes_mut().copy_from_slice(data);
    Ok(())
}
