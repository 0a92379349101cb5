//! The trained values in a model: how many, in how many bytes, and how many of them are zero.
//!
//! A *kernel* is a constant that an operator multiplies with activations or looks up row by row, directly or through
//! DEQUANTIZE or DENSIFY; its values are the weights. Biases are counted separately; shapes, axes and other constants are
//! not counted. A buffer that several tensors share counts once. A weight is zero if it is stored as the zero point, or left
//! out by TFLite's sparse format. Weights in the options of a custom operator cannot be seen.

use std::collections::HashSet;

use serde::Serialize;

use super::ModelError;
use super::buffers::Buffers;
use super::flatbuffer::Table;
use super::operator::Operand;
use super::schema::tensor;
use super::tensor::{ElementType, TensorSummary};

/// One kernel tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kernel {
    pub subgraph: usize,
    /// Name of the operator that uses it.
    pub operator: String,
    #[serde(flatten)]
    pub tensor: TensorSummary,
    /// Elements of the tensor's shape.
    pub weights: u64,
    /// `None` if they cannot be counted: data in another file, or a type or zero point without a single zero.
    pub zero_weights: Option<u64>,
    /// The share of zero weights in this kernel, 0 to 1.
    pub sparsity: Option<f64>,
    /// `None` if the data is in another file.
    pub bytes: Option<u64>,
}

/// All kernels and biases of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Weights {
    pub kernels: Vec<Kernel>,
    pub kernel_weights: u64,
    /// `None` if there is a kernel whose zeros cannot be counted.
    pub kernel_zero_weights: Option<u64>,
    /// The share of zero weights, 0 to 1; `None` if there are no kernels or their zeros cannot be counted.
    pub sparsity: Option<f64>,
    pub kernel_bytes: u64,
    pub biases: usize,
    pub bias_bytes: u64,
}

/// Gathers weights while the subgraphs are read.
pub(crate) struct Collector<'s, 'a> {
    buffers: &'s Buffers<'s, 'a>,
    seen: HashSet<u32>,
    weights: Weights,
}

/// A constant, and where it was found.
pub(crate) struct Use<'t> {
    pub subgraph: usize,
    pub tensor_index: usize,
    pub operator: &'t str,
    pub operand: Operand,
}

impl<'s, 'a> Collector<'s, 'a> {
    pub(crate) fn buffers(&self) -> &'s Buffers<'s, 'a> {
        self.buffers
    }

    pub(crate) fn new(buffers: &'s Buffers<'s, 'a>) -> Self {
        Self { buffers, seen: HashSet::new(), weights: Weights::default() }
    }

    /// Counts `table`'s tensor if it is a constant that was not counted before.
    pub(crate) fn add(&mut self, table: Table<'s, 'a>, used: &Use) -> Result<(), ModelError> {
        let elsewhere = table.u32(tensor::EXTERNAL_BUFFER)?.unwrap_or(0) != 0;
        let buffer = table.u32(tensor::BUFFER)?.unwrap_or(0);
        if !elsewhere && (buffer == 0 || !self.seen.insert(buffer)) {
            return Ok(());
        }
        let data = match elsewhere {
            true => None,
            false => match self.buffers.data(buffer, (table.at, tensor::BUFFER.name))? {
                [] => return Ok(()),
                data => Some(data),
            },
        };
        if used.operand == Operand::Bias {
            self.weights.biases += 1;
            self.weights.bias_bytes += data.map_or(0, |data| data.len() as u64);
            return Ok(());
        }
        self.add_kernel(table, data, used)
    }

    fn add_kernel(&mut self, table: Table, data: Option<&[u8]>, used: &Use) -> Result<(), ModelError> {
        let summary = TensorSummary::read(table, used.tensor_index)?;
        let weights = element_count(&summary, table.at)?;
        if let Some(data) = data.filter(|_| !summary.sparse_format) {
            check_size(&summary, weights, data.len() as u64, table.at)?;
        }
        let zero_weights = data.and_then(|data| count_zeros(&summary, weights, data));
        let bytes = data.map(|data| data.len() as u64);
        let total = &mut self.weights;
        total.kernel_weights = total.kernel_weights.saturating_add(weights);
        total.kernel_bytes += bytes.unwrap_or(0);
        total.kernels.push(Kernel {
            subgraph: used.subgraph,
            operator: used.operator.to_owned(),
            tensor: summary,
            weights,
            zero_weights,
            sparsity: zero_weights.and_then(|zeros| fraction(zeros, weights)),
            bytes,
        });
        Ok(())
    }

    pub(crate) fn finish(self) -> Weights {
        let mut weights = self.weights;
        let zeros = weights.kernels.iter().map(|kernel| kernel.zero_weights);
        // In sparse format a shape can claim any size, so the sum may overflow.
        weights.kernel_zero_weights = zeros.reduce(|sum, zeros| Some(sum?.saturating_add(zeros?))).unwrap_or(Some(0));
        weights.sparsity = weights.kernel_zero_weights.and_then(|zeros| fraction(zeros, weights.kernel_weights));
        weights
    }
}

fn fraction(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn element_count(summary: &TensorSummary, at: usize) -> Result<u64, ModelError> {
    let product = summary.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?));
    product.ok_or_else(|| {
        let expected = format!("a constant's dimensions, found {:?}", summary.shape);
        ModelError::malformed(at, tensor::SHAPE.name, expected)
    })
}

/// Returns an error if the data does not have the size of the shape. The runtime refuses such a model too.
fn check_size(summary: &TensorSummary, weights: u64, found: u64, at: usize) -> Result<(), ModelError> {
    let Some(bits) = summary.element.bits() else { return Ok(()) };
    let needed = weights.checked_mul(u64::from(bits)).map(|bits| bits.div_ceil(8));
    if needed == Some(found) {
        return Ok(());
    }
    let expected = format!("a buffer that fits {} {:?}, found {found} bytes", summary.element, summary.shape);
    Err(ModelError::malformed(at, tensor::BUFFER.name, expected))
}

/// Returns the number of weights that are zero: those stored as zero, and those that a sparse format leaves out.
fn count_zeros(summary: &TensorSummary, weights: u64, data: &[u8]) -> Option<u64> {
    let zero_point = match &summary.quantization {
        Some(quantization) => quantization.zero_point()?,
        None => 0,
    };
    let bits = u64::from(summary.element.bits()?);
    let stored = (data.len() as u64).saturating_mul(8) / bits;
    let zeros = match summary.element {
        ElementType::FLOAT32 => count(data, |word| f32::from_le_bytes(word) == 0.0),
        ElementType::FLOAT64 => count(data, |word| f64::from_le_bytes(word) == 0.0),
        // Both 16-bit formats have a sign bit on top and zero in all others.
        ElementType::FLOAT16 | ElementType::BFLOAT16 => count(data, |word| u16::from_le_bytes(word) & 0x7fff == 0),
        ElementType::INT8 => count(data, |[byte]: [u8; 1]| i64::from(byte.cast_signed()) == zero_point),
        ElementType::UINT8 => count(data, |[byte]: [u8; 1]| i64::from(byte) == zero_point),
        ElementType::INT16 => count(data, |word| i64::from(i16::from_le_bytes(word)) == zero_point),
        ElementType::INT32 => count(data, |word| i64::from(i32::from_le_bytes(word)) == zero_point),
        ElementType::INT4 => count_int4(data, weights.min(stored), zero_point),
        _ => return None,
    };
    Some(weights.min(zeros + weights.saturating_sub(stored)))
}

fn count<const N: usize>(data: &[u8], is_zero: impl Fn([u8; N]) -> bool) -> u64 {
    data.as_chunks().0.iter().filter(|&&word| is_zero(word)).count() as u64
}

/// Unpacks two elements from each byte, the first from the low half.
fn count_int4(data: &[u8], elements: u64, zero_point: i64) -> u64 {
    let halves = data.iter().flat_map(|&byte| [(byte << 4).cast_signed() >> 4, byte.cast_signed() >> 4]);
    let elements = usize::try_from(elements).unwrap_or(usize::MAX);
    halves.take(elements).filter(|&half| i64::from(half) == zero_point).count() as u64
}
