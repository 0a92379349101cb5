//! The runtime's graph as the delegate sees it: all reading and writing through the runtime's pointers.

use std::ffi::{CString, c_int, c_void};
use std::slice::{from_raw_parts, from_raw_parts_mut};

use super::ffi::{
    AFFINE_QUANTIZATION, DYNAMIC, MMAP_RO, TF_LITE_FLOAT32, TF_LITE_INT8, TF_LITE_INT32, TF_LITE_OK,
    TfLiteAffineQuantization, TfLiteContext, TfLiteDelegate, TfLiteIntArray, TfLiteRegistration, TfLiteStatus,
    TfLiteTensor, TfLiteType,
};

/// A graph for as long as the runtime is inside a call of ours.
pub(crate) struct Graph {
    context: *mut TfLiteContext,
}

/// One operator as the graph holds it.
pub(crate) struct Node {
    pub inputs: Vec<c_int>,
    pub outputs: Vec<c_int>,
    pub builtin: c_int,
    parameters: *const c_void,
}

impl Graph {
    /// # Safety
    /// The runtime passed `context` to the call that uses this, and has not returned from it.
    pub(crate) unsafe fn new(context: *mut TfLiteContext) -> Self {
        Self { context }
    }

    fn context(&self) -> &TfLiteContext {
        // SAFETY: valid during the call, by `new`'s promise; nothing writes to it but the runtime, which waits for us.
        unsafe { &*self.context }
    }

    /// The operators to run, in order.
    pub(crate) fn plan(&self) -> Result<Vec<c_int>, String> {
        let get = self.context().get_execution_plan.ok_or("the runtime has no GetExecutionPlan")?;
        let mut plan = std::ptr::null_mut();
        // SAFETY: the runtime's own function on its own context; the array stays valid until it is asked for again.
        unsafe {
            succeeded("GetExecutionPlan", get(self.context, &raw mut plan))?;
            Ok(integers(plan).to_vec())
        }
    }

    pub(crate) fn node(&self, index: c_int) -> Result<Node, String> {
        let get = self.context().get_node_and_registration.ok_or("the runtime has no GetNodeAndRegistration")?;
        let (mut node, mut registration) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the runtime's own function; both pointers are valid for the call when it succeeds.
        unsafe {
            succeeded("GetNodeAndRegistration", get(self.context, index, &raw mut node, &raw mut registration))?;
            Ok(Node {
                inputs: integers((*node).inputs).to_vec(),
                outputs: integers((*node).outputs).to_vec(),
                builtin: (*registration).builtin_code,
                parameters: (*node).builtin_data,
            })
        }
    }

    pub(crate) fn tensor(&self, index: c_int) -> Result<Tensor<'_>, String> {
        // SAFETY: a tensor of the graph; only `resize` and `bytes_mut` have it written, and they let no Tensor live.
        Ok(Tensor(unsafe { &*self.pointer(index)? }))
    }

    fn pointer(&self, index: c_int) -> Result<*mut TfLiteTensor, String> {
        let count = self.context().tensors_size;
        match usize::try_from(index) {
            // SAFETY: `tensors` has `tensors_size` elements.
            Ok(at) if at < count => Ok(unsafe { self.context().tensors.add(at) }),
            _ => Err(format!("tensor {index} of {count}")),
        }
    }

    /// The bytes of a tensor that the runtime allocated for us to write.
    pub(crate) fn bytes_mut(&mut self, index: c_int) -> Result<&mut [u8], String> {
        let tensor = self.tensor(index)?.0;
        let data = tensor.data;
        if data.is_null() {
            return Err(format!("tensor {index} is not allocated"));
        }
        // SAFETY: the runtime allocated `bytes` there, and `&mut self` lets no other view of ours exist.
        Ok(unsafe { from_raw_parts_mut(data.cast(), tensor.bytes) })
    }

    pub(crate) fn resize(&mut self, index: c_int, dims: &[usize]) -> Result<(), String> {
        if self.tensor(index)?.dims() == dims {
            return Ok(());
        }
        let resize = self.context().resize_tensor_explicit.ok_or("the runtime has no ResizeTensorExplicit")?;
        let shape: Vec<c_int> = dims.iter().map(|size| *size as c_int).collect();
        let tensor = self.pointer(index)?;
        // SAFETY: a tensor of the graph; the runtime copies the shape.
        succeeded("ResizeTensorExplicit", unsafe { resize(self.context, tensor, shape.len() as c_int, shape.as_ptr()) })
    }

    /// Has the runtime put `kernel` in the place of `nodes`, once for each part that hangs together.
    pub(crate) fn delegate(
        &self,
        nodes: &[c_int],
        kernel: TfLiteRegistration,
        delegate: *mut TfLiteDelegate,
    ) -> Result<(), String> {
        let replace = self.context().replace_node_subsets_with_delegate_kernels;
        let replace = replace.ok_or("the runtime has no ReplaceNodeSubsetsWithDelegateKernels")?;
        let array = [&[nodes.len() as c_int], nodes].concat();
        // SAFETY: a TfLiteIntArray is its size and then its elements; the runtime only reads it.
        let status = unsafe { replace(self.context, kernel, array.as_ptr().cast(), delegate) };
        succeeded("ReplaceNodeSubsetsWithDelegateKernels", status)
    }

    pub(crate) fn report(&self, reason: &str) {
        let (Some(report), Ok(reason)) = (self.context().report_error, CString::new(reason)) else { return };
        // SAFETY: a format as for printf, and its one argument.
        unsafe { report(self.context, c"test delegate: %s".as_ptr(), reason.as_ptr()) };
    }
}

impl Node {
    /// The operator's parameters.
    ///
    /// # Safety
    /// `T` is the C struct of this operator.
    pub(crate) unsafe fn parameters<T: Copy>(&self) -> Result<T, String> {
        if self.parameters.is_null() {
            return Err("it has no parameters".into());
        }
        // SAFETY: the caller's promise; the node outlives the call that it was got in.
        Ok(unsafe { self.parameters.cast::<T>().read() })
    }
}

/// A tensor of the graph.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a>(&'a TfLiteTensor);

impl Tensor<'_> {
    pub(crate) fn dims(&self) -> Vec<usize> {
        // SAFETY: a tensor's own dimensions.
        unsafe { integers(self.0.dims) }.iter().map(|size| *size as usize).collect()
    }

    pub(crate) fn is_constant(&self) -> bool {
        self.0.allocation_type == MMAP_RO
    }

    /// Of a size that is known before the graph runs, dense, and kept by nobody from one run to the next.
    pub(crate) fn is_plain(&self) -> bool {
        let dynamic = self.0.allocation_type == DYNAMIC;
        !dynamic && !self.0.is_variable && self.0.sparsity.is_null()
    }

    pub(crate) fn element(&self) -> TfLiteType {
        self.0.kind
    }

    pub(crate) fn bytes(&self) -> Result<&[u8], String> {
        let data = self.0.data;
        if data.is_null() {
            return Err("a tensor that it reads is not allocated".into());
        }
        // SAFETY: the runtime keeps `bytes` there, and nobody writes to them while we are called.
        Ok(unsafe { from_raw_parts(data.cast(), self.0.bytes) })
    }

    pub(crate) fn grid(&self) -> Result<Grid, String> {
        match self.0.kind {
            TF_LITE_FLOAT32 => Ok(Grid::Float32),
            TF_LITE_INT8 => match self.steps()? {
                Some((scales, zero_point)) => Ok(Grid::Int8 { scales, zero_point }),
                None => Err("it has an int8 tensor without a scale".into()),
            },
            TF_LITE_INT32 => match self.steps()? {
                Some((scales, 0.0)) => Ok(Grid::Int32 { scales }),
                Some(_) => Err("it has an int32 tensor with a zero point".into()),
                None => Ok(Grid::Int32 { scales: vec![1.0] }),
            },
            other => Err(format!("it has a tensor of type {other}")),
        }
    }

    /// The scales, one or one for each of the first dimension, and the zero point.
    fn steps(&self) -> Result<Option<(Vec<f64>, f64)>, String> {
        let quantization = &self.0.quantization;
        if quantization.kind != AFFINE_QUANTIZATION || quantization.params.is_null() {
            return Ok(None);
        }
        // SAFETY: of this type are the parameters of an affine quantisation.
        let affine = unsafe { &*quantization.params.cast::<TfLiteAffineQuantization>() };
        if affine.scale.is_null() {
            return Ok(None);
        }
        // SAFETY: as an int array, a float array is its size and then its elements.
        let (scales, zero_points) = unsafe {
            let scales = from_raw_parts(affine.scale.cast::<f32>().add(1), (*affine.scale).size.max(0) as usize);
            (scales, integers(affine.zero_point))
        };
        let zero_point = zero_points.first().copied().unwrap_or(0);
        if zero_points.iter().any(|other| *other != zero_point) {
            return Err("it has a zero point for each channel".into());
        }
        let channels = self.dims().get(affine.quantized_dimension as usize).copied();
        match scales.len() {
            0 => Ok(None),
            1 => Ok(Some((vec![scales[0].into()], zero_point.into()))),
            many if affine.quantized_dimension == 0 && channels == Some(many) => {
                Ok(Some((scales.iter().map(|scale| f64::from(*scale)).collect(), zero_point.into())))
            }
            _ => Err("its channels are not along the first dimension".into()),
        }
    }
}

/// How a tensor stores real numbers.
#[derive(Debug)]
pub(crate) enum Grid {
    Float32,
    Int8 { scales: Vec<f64>, zero_point: f64 },
    Int32 { scales: Vec<f64> },
}

impl Grid {
    pub(crate) fn load(&self, bytes: &[u8], numbers: &mut [f64]) -> Result<(), String> {
        let width = if matches!(self, Self::Int8 { .. }) { 1 } else { 4 };
        if bytes.len() != numbers.len() * width {
            return Err(format!("a tensor has {} bytes where {} numbers were expected", bytes.len(), numbers.len()));
        }
        let (words, _) = bytes.as_chunks::<4>();
        match self {
            Self::Float32 => {
                for (number, word) in numbers.iter_mut().zip(words) {
                    *number = f32::from_ne_bytes(*word).into();
                }
            }
            Self::Int8 { scales, zero_point } => {
                let each = (numbers.len() / scales.len()).max(1);
                for (index, (number, byte)) in numbers.iter_mut().zip(bytes).enumerate() {
                    *number = scales[index / each] * (f64::from(byte.cast_signed()) - zero_point);
                }
            }
            Self::Int32 { scales } => {
                let each = (numbers.len() / scales.len()).max(1);
                for (index, (number, word)) in numbers.iter_mut().zip(words).enumerate() {
                    *number = scales[index / each] * f64::from(i32::from_ne_bytes(*word));
                }
            }
        }
        Ok(())
    }

    /// Brings numbers to those that the tensor can hold; of an integer tensor first to `fractions` of a step, one for
    /// each channel or one for all.
    pub(crate) fn round(&self, numbers: &mut [f64], fractions: &[f64]) {
        match self {
            Self::Float32 => numbers.iter_mut().for_each(|number| *number = f64::from(*number as f32)),
            Self::Int8 { scales, zero_point } => {
                for (index, number) in numbers.iter_mut().enumerate() {
                    let fraction = fractions[index % fractions.len()];
                    let steps = (*number / scales[0] * fraction).round() / fraction;
                    *number = scales[0] * (stored(steps, *zero_point) - zero_point);
                }
            }
            Self::Int32 { .. } => {}
        }
    }

    pub(crate) fn store(&self, numbers: &[f64], bytes: &mut [u8]) -> Result<(), String> {
        let (words, _) = bytes.as_chunks_mut::<4>();
        match self {
            Self::Float32 if words.len() == numbers.len() => {
                for (word, number) in words.iter_mut().zip(numbers) {
                    *word = (*number as f32).to_ne_bytes();
                }
            }
            Self::Int8 { scales, zero_point } if bytes.len() == numbers.len() => {
                for (byte, number) in bytes.iter_mut().zip(numbers) {
                    *byte = (stored(*number / scales[0], *zero_point) as i8).cast_unsigned();
                }
            }
            _ => return Err(format!("{} numbers do not go into {} bytes", numbers.len(), bytes.len())),
        }
        Ok(())
    }
}

/// The int8 that stands for so many steps from zero. Halves go up, as in the runtime's kernels for x86.
fn stored(steps: f64, zero_point: f64) -> f64 {
    ((steps + 0.5).floor() + zero_point).clamp(i8::MIN.into(), i8::MAX.into())
}

/// The elements of the runtime's integer array; none for null.
///
/// # Safety
/// The array is valid for as long as the result is used.
pub(crate) unsafe fn integers<'a>(array: *const TfLiteIntArray) -> &'a [c_int] {
    if array.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise; an array is its size and then its elements.
    unsafe { from_raw_parts(array.cast::<c_int>().add(1), (*array).size.max(0) as usize) }
}

fn succeeded(step: &str, status: TfLiteStatus) -> Result<(), String> {
    if status == TF_LITE_OK { Ok(()) } else { Err(format!("{step} gave status {status}")) }
}
