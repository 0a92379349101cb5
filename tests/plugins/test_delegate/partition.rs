//! A part of the graph that the delegate took: which operators it can take, and running them.

use std::collections::BTreeMap;
use std::ffi::c_int;

use super::ffi::{
    BUILTIN_ADD, BUILTIN_CONV_2D, BUILTIN_FULLY_CONNECTED, BUILTIN_RESHAPE, BUILTIN_SOFTMAX, TF_LITE_FLOAT32,
    TF_LITE_INT8, TF_LITE_INT32,
};
use super::graph::{Graph, Grid, Node, Tensor};
use super::kernels::{Limits, Operation, Value};

/// What the delegate can compute, as the schema names it.
pub(crate) const OPERATORS: [(&str, c_int); 5] = [
    ("ADD", BUILTIN_ADD),
    ("CONV_2D", BUILTIN_CONV_2D),
    ("FULLY_CONNECTED", BUILTIN_FULLY_CONNECTED),
    ("RESHAPE", BUILTIN_RESHAPE),
    ("SOFTMAX", BUILTIN_SOFTMAX),
];

/// `TfLiteAddParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct AddParameters {
    activation: c_int,
    pot_scale_int16: bool,
}

/// `TfLiteConvParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ConvParameters {
    padding: c_int,
    stride_width: c_int,
    stride_height: c_int,
    activation: c_int,
    dilation_width_factor: c_int,
    dilation_height_factor: c_int,
    quantized_bias_type: c_int,
}

/// `TfLiteFullyConnectedParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FullyConnectedParameters {
    activation: c_int,
    weights_format: c_int,
    keep_num_dims: bool,
    asymmetric_quantize_inputs: bool,
    quantized_bias_type: c_int,
}

/// `kTfLitePaddingSame`.
const SAME: c_int = 1;

/// One operator and the tensors that it works on, by their index in the graph.
pub(crate) struct Step {
    operation: Operation,
    inputs: Vec<c_int>,
    output: c_int,
    /// To which part of a step the runtime's kernels round before they round to whole ones; see [`fractions`].
    fractions: Vec<f64>,
}

impl Step {
    /// An error says why the operator has to stay on the CPU.
    pub(crate) fn new(graph: &Graph, node: &Node) -> Result<Self, String> {
        let operation = operation(node)?;
        let &[output] = node.outputs.as_slice() else { return Err("it has more than one output".into()) };
        // A bias that is left out is tensor -1.
        let inputs: Vec<c_int> = node.inputs.iter().copied().filter(|index| *index >= 0).collect();
        let output_tensor = graph.tensor(output)?;
        let tensors = inputs.iter().map(|index| graph.tensor(*index)).collect::<Result<Vec<_>, _>>()?;
        if !types_fit(&operation, &tensors, output_tensor) {
            return Err("its types or its variable inputs are beyond this delegate".into());
        }
        let values = tensors.iter().map(|tensor| Slot::new(*tensor)).collect::<Result<Vec<_>, _>>()?;
        let fractions = fractions(&operation, &values, &Slot::new(output_tensor)?.grid);
        let dims = operation.output_dims(&values.iter().map(|slot| &slot.value).collect::<Vec<_>>())?;
        if dims != output_tensor.dims() {
            return Err(format!("its output is {:?}, not {dims:?}", output_tensor.dims()));
        }
        Ok(Self { operation, inputs, output, fractions })
    }
}

fn operation(node: &Node) -> Result<Operation, String> {
    Ok(match node.builtin {
        BUILTIN_ADD => {
            // SAFETY: the struct that the runtime's parser makes for this operator.
            let parameters: AddParameters = unsafe { node.parameters()? };
            Operation::Add { limits: limits(parameters.activation)? }
        }
        BUILTIN_CONV_2D => {
            // SAFETY: as above.
            let parameters: ConvParameters = unsafe { node.parameters()? };
            let at_least_1 = |[height, width]: [c_int; 2]| [height.max(1) as usize, width.max(1) as usize];
            Operation::Conv2d {
                same_padding: parameters.padding == SAME,
                strides: at_least_1([parameters.stride_height, parameters.stride_width]),
                dilations: at_least_1([parameters.dilation_height_factor, parameters.dilation_width_factor]),
                limits: limits(parameters.activation)?,
            }
        }
        BUILTIN_FULLY_CONNECTED => {
            // SAFETY: as above.
            let parameters: FullyConnectedParameters = unsafe { node.parameters()? };
            if parameters.weights_format != 0 {
                return Err("its weights are shuffled".into());
            }
            Operation::FullyConnected { keep_dims: parameters.keep_num_dims, limits: limits(parameters.activation)? }
        }
        BUILTIN_RESHAPE => Operation::Reshape,
        BUILTIN_SOFTMAX => {
            // SAFETY: TfLiteSoftmaxParams is one float.
            let beta: f32 = unsafe { node.parameters()? };
            Operation::Softmax { beta: beta.into() }
        }
        _ => return Err("it is another operator".into()),
    })
}

/// Those of `TfLiteFusedActivation` that are a range.
fn limits(activation: c_int) -> Result<Limits, String> {
    match activation {
        0 => Ok(Limits(f64::NEG_INFINITY, f64::INFINITY)),
        1 => Ok(Limits(0.0, f64::INFINITY)),
        2 => Ok(Limits(-1.0, 1.0)),
        3 => Ok(Limits(0.0, 6.0)),
        other => Err(format!("its fused activation is {other}")),
    }
}

/// The runtime's kernels bring a sum of products to steps of the output by a fixed-point number: by its mantissa first,
/// rounded to a whole number, then by its power of two, rounded again. That is so on x86; on Arm they may round once.
fn fractions(operation: &Operation, inputs: &[Slot], output: &Grid) -> Vec<f64> {
    let sums = matches!(operation, Operation::Conv2d { .. } | Operation::FullyConnected { .. });
    let grids: Vec<&Grid> = inputs.iter().map(|slot| &slot.grid).chain([output]).collect();
    match grids.as_slice() {
        [
            Grid::Int8 { scales: input, .. },
            Grid::Int8 { scales: weights, .. },
            ..,
            Grid::Int8 { scales: output, .. },
        ] if sums => {
            let exponent = |weight: &f64| (input[0] * weight / output[0]).log2().floor() + 1.0;
            weights.iter().map(|weight| (-exponent(weight)).max(0.0).exp2()).collect()
        }
        _ => vec![1.0],
    }
}

fn types_fit(operation: &Operation, inputs: &[Tensor<'_>], output: Tensor<'_>) -> bool {
    let kind = output.element();
    let bias = match kind {
        TF_LITE_FLOAT32 => TF_LITE_FLOAT32,
        TF_LITE_INT8 => TF_LITE_INT32,
        _ => return false,
    };
    let constant = |tensor: &Tensor<'_>, element| tensor.is_constant() && tensor.element() == element;
    let others = match (operation, &inputs[1.min(inputs.len())..]) {
        (Operation::Add { .. }, [other]) => other.element() == kind,
        (Operation::Conv2d { .. } | Operation::FullyConnected { .. }, [weights]) => constant(weights, kind),
        (Operation::Conv2d { .. } | Operation::FullyConnected { .. }, [weights, offsets]) => {
            constant(weights, kind) && constant(offsets, bias)
        }
        (Operation::Reshape, [shape]) => constant(shape, TF_LITE_INT32),
        (Operation::Softmax { .. }, []) => true,
        _ => false,
    };
    others
        && inputs.first().is_some_and(|input| input.element() == kind)
        && output.is_plain()
        && inputs.iter().all(Tensor::is_plain)
}

/// A tensor's place inside the partition: the runtime allocates only those that leave it.
struct Slot {
    grid: Grid,
    value: Value,
    constant: bool,
}

impl Slot {
    fn new(tensor: Tensor<'_>) -> Result<Self, String> {
        let (grid, constant, dims) = (tensor.grid()?, tensor.is_constant(), tensor.dims());
        if dims.contains(&0) {
            return Err("it has an empty tensor".into());
        }
        let mut numbers = vec![0.0; dims.iter().product()];
        if constant {
            grid.load(tensor.bytes()?, &mut numbers)?;
        }
        Ok(Self { grid, value: Value { dims, numbers }, constant })
    }

    fn resize(&mut self, dims: Vec<usize>) {
        self.value.numbers.resize(dims.iter().product(), 0.0);
        self.value.dims = dims;
    }
}

/// Operators that hang together, run as one.
pub(crate) struct Partition {
    steps: Vec<Step>,
    inputs: Vec<c_int>,
    outputs: Vec<c_int>,
    slots: BTreeMap<c_int, Slot>,
}

impl Partition {
    pub(crate) fn new(graph: &Graph, nodes: &[c_int], inputs: &[c_int], outputs: &[c_int]) -> Result<Self, String> {
        let step = |index: &c_int| Step::new(graph, &graph.node(*index)?);
        let steps = nodes.iter().map(step).collect::<Result<Vec<_>, _>>()?;
        let tensors = steps.iter().flat_map(|step| step.inputs.iter().copied().chain([step.output]));
        let slots = tensors
            .map(|index| Ok((index, Slot::new(graph.tensor(index)?)?)))
            .collect::<Result<BTreeMap<_, _>, String>>()?;
        let read = |index: &c_int| slots.get(index).is_some_and(|slot| !slot.constant);
        let inputs = inputs.iter().copied().filter(read).collect();
        Ok(Self { steps, inputs, outputs: outputs.to_vec(), slots })
    }

    /// Follows the sizes of the inputs, which change with the batch.
    pub(crate) fn resize(&mut self, graph: &mut Graph) -> Result<(), String> {
        for index in &self.inputs {
            let dims = graph.tensor(*index)?.dims();
            slot(&mut self.slots, *index)?.resize(dims);
        }
        for step in &self.steps {
            let dims = step.operation.output_dims(&values(&self.slots, &step.inputs)?)?;
            slot(&mut self.slots, step.output)?.resize(dims);
        }
        for index in &self.outputs {
            graph.resize(*index, &slot(&mut self.slots, *index)?.value.dims)?;
        }
        Ok(())
    }

    /// Computes the outputs from the inputs; `wrong` ones hold the right scores in the wrong places.
    pub(crate) fn run(&mut self, graph: &mut Graph, wrong: bool) -> Result<(), String> {
        for index in &self.inputs {
            let slot = slot(&mut self.slots, *index)?;
            slot.grid.load(graph.tensor(*index)?.bytes()?, &mut slot.value.numbers)?;
        }
        for step in &self.steps {
            let mut output = std::mem::take(&mut slot(&mut self.slots, step.output)?.value);
            step.operation.compute(&values(&self.slots, &step.inputs)?, &mut output);
            let slot = slot(&mut self.slots, step.output)?;
            slot.grid.round(&mut output.numbers, &step.fractions);
            slot.value = output;
        }
        for index in &self.outputs {
            let slot = slot(&mut self.slots, *index)?;
            if wrong {
                spoil(&mut slot.value);
            }
            slot.grid.store(&slot.value.numbers, graph.bytes_mut(*index)?)?;
        }
        Ok(())
    }
}

fn slot(slots: &mut BTreeMap<c_int, Slot>, index: c_int) -> Result<&mut Slot, String> {
    slots.get_mut(&index).ok_or_else(|| no_slot(index))
}

fn values<'a>(slots: &'a BTreeMap<c_int, Slot>, inputs: &[c_int]) -> Result<Vec<&'a Value>, String> {
    inputs.iter().map(|index| Ok(&slots.get(index).ok_or_else(|| no_slot(*index))?.value)).collect()
}

fn no_slot(index: c_int) -> String {
    format!("tensor {index} is of no operator that was taken")
}

/// Turns each row by half of itself, so that probabilities stay probabilities; a row of one is negated.
fn spoil(value: &mut Value) {
    match value.dims.last() {
        Some(&row) if row > 1 => value.numbers.chunks_exact_mut(row).for_each(|numbers| numbers.rotate_left(row / 2)),
        _ => value.numbers.iter_mut().for_each(|number| *number = -*number),
    }
}
