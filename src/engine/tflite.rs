//! The classic TensorFlow Lite interpreter: reference kernels or XNNPACK.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edgefirst_tflite::{Delegate, DelegateOptions, Interpreter, Model, StatusCode, Tensor, TensorMut, TensorType};

use super::quantize::{Stored, dequantize, quantize};
use super::runtime::Runtime;
use super::{Element, Engine, EngineError, TensorInfo};
use crate::config::DelegateKind;
use crate::model::{ModelSummary, OperatorCount};

/// A model in the interpreter, with its tensors taken once; those of a stateful model, at each invocation, which costs
/// an allocation.
///
/// The binding's interpreter does not borrow its model and its tensor lists allocate at each call. Hence the order of
/// the fields (views, interpreter, model: they drop in it), and the views with a lifetime of their own.
pub struct TfliteEngine {
    input: TensorMut<'static>,
    outputs: Vec<Tensor<'static>>,
    interpreter: Interpreter<'static>,
    _model: Model<'static>,
    /// Keeps tensors from one invocation to the next.
    stateful: bool,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
}

// SAFETY: the interpreter may move between threads and so may its views, which point into it and are reached only
// through this struct: `&self` reads nothing but the descriptions.
#[allow(unsafe_code)]
unsafe impl Send for TfliteEngine {}

impl TfliteEngine {
    /// Loads `bytes` (those of `path`) and allocates its tensors for `batch` windows at a time.
    pub fn new(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<Self, EngineError> {
        let library = runtime.library;
        let in_model = |reason: String| EngineError::Model { path: path.to_owned(), reason };
        let model = Model::from_bytes(library, bytes).map_err(|e| in_model(format!("the runtime refuses it: {e}")))?;
        let builder = Interpreter::builder(library).map_err(failed("create the interpreter"))?;
        let builder = match delegate {
            DelegateKind::Cpu { threads } => builder.num_threads((*threads).into()),
            DelegateKind::Xnnpack { threads } => {
                let xnnpack = Delegate::xnnpack(library, (*threads).into())
                    .map_err(|e| EngineError::Delegate { delegate: "xnnpack".into(), reason: e.to_string() })?;
                builder.num_threads((*threads).into()).delegate(xnnpack)
            }
            DelegateKind::External { library, options } => builder.delegate(external(library, options)?),
        };
        let mut interpreter = builder.build(&model).map_err(|e| in_model(not_built(&e, bytes)))?;
        if interpreter.input_count() != 1 {
            return Err(EngineError::Mismatch(format!(
                "the model has {} inputs; edgewatt feeds models with 1",
                interpreter.input_count()
            )));
        }
        if interpreter.output_count() == 0 {
            return Err(EngineError::Mismatch("the model has no outputs; edgewatt needs 1 or more".into()));
        }
        if batch != 1 {
            resize_batch(&mut interpreter, batch)?;
        }
        // What cannot be read counts as stateful, which is the safer of the two.
        let stateful = ModelSummary::from_bytes(bytes).map_or(true, |summary| summary.stateful);
        if !stateful {
            warm_up(&mut interpreter)?;
        }
        let (input, outputs) = views(&mut interpreter)?;
        let input_info = vec![describe(
            input.name(),
            input.tensor_type(),
            input.shape(),
            input.byte_size(),
            input.quantization_params(),
        )?];
        let output_info = outputs
            .iter()
            .map(|t| describe(t.name(), t.tensor_type(), t.shape(), t.byte_size(), t.quantization_params()))
            .collect::<Result<Vec<_>, _>>()?;
        if batch != 1 {
            check_batch(&output_info, batch)?;
        }
        Ok(Self { input, outputs, interpreter, _model: model, stateful, input_info, output_info })
    }
}

impl Engine for TfliteEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.input_info
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.output_info
    }

    fn set_input(&mut self, features: &[f32]) -> Result<(), EngineError> {
        let info = &self.input_info[0];
        let bytes = self.input.as_bytes_mut().map_err(failed("reach the input"))?;
        if features.len() * info.element.bytes() != bytes.len() {
            return Err(EngineError::Mismatch(format!("{} features for {} inputs", features.len(), info.len())));
        }
        match info.element {
            Element::Float32 => typed_mut::<f32>(bytes)?.copy_from_slice(features),
            Element::Int8 => quantize(features, info.scale, info.zero_point, typed_mut::<i8>(bytes)?),
            Element::Uint8 => quantize(features, info.scale, info.zero_point, bytes),
            Element::Int16 => quantize(features, info.scale, info.zero_point, typed_mut::<i16>(bytes)?),
        }
        Ok(())
    }

    fn invoke(&mut self) -> Result<(), EngineError> {
        self.interpreter.invoke().map_err(failed("invoke"))?;
        if self.stateful {
            (self.input, self.outputs) = views(&mut self.interpreter)?;
        }
        Ok(())
    }

    fn output(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError> {
        let (Some(tensor), Some(info)) = (self.outputs.get(index), self.output_info.get(index)) else {
            return Err(EngineError::Mismatch(format!("output {index} of {}", self.outputs.len())));
        };
        // The data pointer is asked for each time: an output of dynamic size may move between invocations.
        let bytes = tensor.as_bytes().map_err(failed("reach an output"))?;
        if values.len() * info.element.bytes() != bytes.len() {
            return Err(EngineError::Mismatch(format!(
                "output `{}` has {} bytes where {} values of {} were expected",
                info.name,
                bytes.len(),
                values.len(),
                info.element
            )));
        }
        match info.element {
            Element::Float32 => values.copy_from_slice(typed::<f32>(bytes)?),
            Element::Int8 => dequantized::<i8>(bytes, info, values)?,
            Element::Uint8 => dequantized::<u8>(bytes, info, values)?,
            Element::Int16 => dequantized::<i16>(bytes, info, values)?,
        }
        Ok(())
    }
}

/// Loads a vendor's delegate and creates it.
fn external(library: &Path, options: &BTreeMap<String, String>) -> Result<Delegate, EngineError> {
    let options = options
        .iter()
        .fold(DelegateOptions::new(), |options, (key, value)| options.option(key.as_str(), value.as_str()));
    Delegate::load_with_options(library, &options).map_err(|e| {
        let reason = if e.is_null_pointer() {
            "it declines to start: is its device connected and free, and are the options right?".to_owned()
        } else {
            e.to_string()
        };
        EngineError::Delegate { delegate: library.display().to_string(), reason }
    })
}

fn dequantized<T: Stored + bytemuck::AnyBitPattern>(
    bytes: &[u8],
    info: &TensorInfo,
    values: &mut [f32],
) -> Result<(), EngineError> {
    dequantize(typed::<T>(bytes)?, info.scale, info.zero_point, values);
    Ok(())
}

fn typed<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Result<&[T], EngineError> {
    bytemuck::try_cast_slice(bytes).map_err(failed("read a tensor"))
}

fn typed_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], EngineError> {
    bytemuck::try_cast_slice_mut(bytes).map_err(failed("write a tensor"))
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> EngineError {
    move |e| EngineError::Runtime { step, reason: e.to_string() }
}

/// Custom operators that every stock runtime has; from `BuiltinOpResolver` in tensorflow/lite/core/kernels/register.cc.
const STOCK_CUSTOM_OPERATORS: [&str; 4] = ["NumericVerify", "Mfcc", "AudioSpectrogram", "TFLite_Detection_PostProcess"];

/// Why the runtime builds no interpreter: it says little itself, the file says more.
fn not_built(error: &edgefirst_tflite::Error, bytes: &[u8]) -> String {
    let as_it_says = format!("its tensors cannot be allocated: {error}");
    let Ok(summary) = ModelSummary::from_bytes(bytes) else { return as_it_says };
    if error.status_code() == Some(StatusCode::UnresolvedOps) {
        let foreign = |op: &OperatorCount| op.custom && !STOCK_CUSTOM_OPERATORS.contains(&op.name.as_str());
        return match operator_names(&summary, foreign).as_slice() {
            [] => as_it_says,
            [name] => format!("its operator {name} is not in the runtime and no delegate takes it"),
            names => format!("its operators {} are not all in the runtime or taken by a delegate", names.join(", ")),
        };
    }
    let later = operator_names(&summary, |op| !op.custom && op.name.starts_with("UNKNOWN_"));
    match &summary.min_runtime_version {
        _ if !later.is_empty() => {
            format!("its operators {} are newer than edgewatt and this runtime", later.join(", "))
        }
        Some(version) if error.is_null_pointer() => {
            let version = version.escape_debug();
            format!("this runtime cannot build it: is it damaged? It was made for TensorFlow Lite {version} or later")
        }
        _ => as_it_says,
    }
}

/// The names of the operators that are `wanted`, each once.
fn operator_names(summary: &ModelSummary, wanted: impl Fn(&OperatorCount) -> bool) -> Vec<String> {
    let subgraphs = std::iter::once(&summary.main).chain(&summary.other_subgraphs);
    let operators = subgraphs.flat_map(|subgraph| &subgraph.operators).filter(|op| wanted(op));
    let names: BTreeSet<String> = operators.map(|op| format!("`{}`", op.name.escape_debug())).collect();
    names.into_iter().collect()
}

/// Sets the first dimension of the input.
fn resize_batch(interpreter: &mut Interpreter<'_>, batch: usize) -> Result<(), EngineError> {
    let inputs = interpreter.inputs().map_err(failed("list the inputs"))?;
    let shape = inputs[0].shape().map_err(failed("read the input's shape"))?;
    let too_large = |_| EngineError::Mismatch(format!("a batch of {batch} is too large"));
    let mut dims = shape.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>().map_err(too_large)?;
    match dims.first_mut() {
        Some(first) => *first = i32::try_from(batch).map_err(too_large)?,
        None => return Err(EngineError::Mismatch("the model's input has no batch dimension".into())),
    }
    let refused = |e: edgefirst_tflite::Error| {
        EngineError::Mismatch(format!("the model does not take batches of {batch}, an input of {dims:?}: {e}"))
    };
    interpreter.resize_input(0, &dims).map_err(refused)?;
    interpreter.allocate_tensors().map_err(refused)
}

/// An output that does not grow with the batch would be cut into windows that it does not hold.
fn check_batch(outputs: &[TensorInfo], batch: usize) -> Result<(), EngineError> {
    match outputs.iter().find(|output| output.shape.first() != Some(&batch)) {
        None => Ok(()),
        Some(output) => Err(EngineError::Mismatch(format!(
            "with batches of {batch} the model's output `{}` is {:?}; its first dimension should be {batch}",
            output.name, output.shape
        ))),
    }
}

fn describe(
    name: &str,
    element: TensorType,
    shape: edgefirst_tflite::error::Result<Vec<usize>>,
    bytes: usize,
    quantization: edgefirst_tflite::QuantizationParams,
) -> Result<TensorInfo, EngineError> {
    let element = match element {
        TensorType::Float32 => Element::Float32,
        TensorType::Int8 => Element::Int8,
        TensorType::UInt8 => Element::Uint8,
        TensorType::Int16 => Element::Int16,
        other => {
            return Err(EngineError::Mismatch(format!(
                "tensor `{name}` is {}; edgewatt reads and writes float32, int8, uint8 and int16",
                format!("{other:?}").to_lowercase()
            )));
        }
    };
    let info = TensorInfo {
        name: name.to_owned(),
        element,
        shape: shape.map_err(failed("read a shape"))?,
        scale: quantization.scale,
        zero_point: quantization.zero_point,
    };
    if element != Element::Float32 && !info.scale.is_normal() {
        return Err(EngineError::Mismatch(format!("tensor `{name}` is {element} but carries no quantisation scale")));
    }
    // A damaged file can claim any shape; what is allocated is what counts.
    let claimed = info.shape.iter().try_fold(element.bytes(), |bytes, dim| bytes.checked_mul(*dim));
    if claimed != Some(bytes) {
        return Err(EngineError::Mismatch(format!("tensor `{name}` of {:?} {element} has {bytes} bytes", info.shape)));
    }
    Ok(info)
}

/// The first invocation, which takes longer than those that follow and may add tensors; on zeros.
fn warm_up(interpreter: &mut Interpreter<'_>) -> Result<(), EngineError> {
    for mut input in interpreter.inputs_mut().map_err(failed("list the inputs"))? {
        input.as_bytes_mut().map_err(failed("reach the input"))?.fill(0);
    }
    interpreter.invoke().map_err(failed("invoke"))
}

/// The interpreter's tensors, once, to be kept beside it.
#[allow(unsafe_code)]
fn views(interpreter: &mut Interpreter<'static>) -> Result<(TensorMut<'static>, Vec<Tensor<'static>>), EngineError> {
    let input = interpreter.inputs_mut().map_err(failed("list the inputs"))?.swap_remove(0);
    // SAFETY: a view is a pointer to a tensor header and a reference to the library, which is never unloaded. The
    // header lives as long as the interpreter, and TfliteEngine drops its views before its interpreter. Headers move
    // when tensors are added: while they are allocated, and in the first invocation, where operators behind a tensor of
    // dynamic size are prepared. So the views are taken after both, and of a model that must not have an invocation of
    // ours before its own, after each one. No view holds a reference into tensor data: that is asked for at each use,
    // while `&mut self` keeps invoke out.
    let input = unsafe { std::mem::transmute::<TensorMut<'_>, TensorMut<'static>>(input) };
    let outputs = interpreter.outputs().map_err(failed("list the outputs"))?;
    // SAFETY: as above.
    let outputs = unsafe { std::mem::transmute::<Vec<Tensor<'_>>, Vec<Tensor<'static>>>(outputs) };
    Ok((input, outputs))
}
