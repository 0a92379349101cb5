//! Describes one tensor as in the file: name, element type, shape and quantisation.

use std::fmt;

use serde::{Serialize, Serializer};

use super::ModelError;
use super::flatbuffer::Table;
use super::schema::{quantization, tensor};

/// The type of a tensor's elements, by its code in the schema (enum TensorType).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ElementType(pub i8);

/// Name and bits of each type code; strings, resources and variants have no fixed size.
#[rustfmt::skip]
const ELEMENT_TYPES: [(&str, Option<u8>); 23] = [
    ("float32", Some(32)), ("float16", Some(16)), ("int32", Some(32)), ("uint8", Some(8)), ("int64", Some(64)),
    ("string", None), ("bool", Some(8)), ("int16", Some(16)), ("complex64", Some(64)), ("int8", Some(8)),
    ("float64", Some(64)), ("complex128", Some(128)), ("uint64", Some(64)), ("resource", None), ("variant", None),
    ("uint32", Some(32)), ("uint16", Some(16)), ("int4", Some(4)), ("bfloat16", Some(16)), ("int2", Some(2)),
    ("uint4", Some(4)), ("float8_e4m3fn", Some(8)), ("float8_e5m2", Some(8)),
];

impl ElementType {
    pub const FLOAT32: Self = Self(0);
    pub const FLOAT16: Self = Self(1);
    pub const INT32: Self = Self(2);
    pub const UINT8: Self = Self(3);
    pub const INT64: Self = Self(4);
    pub const BOOL: Self = Self(6);
    pub const INT16: Self = Self(7);
    pub const INT8: Self = Self(9);
    pub const FLOAT64: Self = Self(10);
    pub const INT4: Self = Self(17);
    pub const BFLOAT16: Self = Self(18);

    fn facts(self) -> Option<(&'static str, Option<u8>)> {
        usize::try_from(self.0).ok().and_then(|code| ELEMENT_TYPES.get(code)).copied()
    }

    /// Returns the bits of one element; `None` if they are not fixed or the type is unknown.
    pub fn bits(self) -> Option<u8> {
        self.facts().and_then(|(_, bits)| bits)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.facts() {
            Some((name, _)) => f.pad(name),
            None => f.pad(&format!("unknown_{}", self.0)),
        }
    }
}

impl Serialize for ElementType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How stored integers represent real values: `real = scale * (stored - zero_point)`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    PerTensor {
        scale: f32,
        zero_point: i64,
    },
    /// One scale and zero point for each index along dimension `axis`.
    PerChannel {
        axis: i32,
        scales: Vec<f32>,
        zero_points: Vec<i64>,
    },
    /// Blockwise or custom; not described by scale and zero point.
    Other,
}

impl Quantization {
    /// Returns the stored value of the real number 0, if all channels share one.
    pub fn zero_point(&self) -> Option<i64> {
        match self {
            Self::PerTensor { zero_point, .. } => Some(*zero_point),
            Self::PerChannel { zero_points, .. } => {
                let first = *zero_points.first()?;
                zero_points.iter().all(|&zero_point| zero_point == first).then_some(first)
            }
            Self::Other => None,
        }
    }

    /// # Errors
    /// `Malformed` if scales and zero points differ in number, which the runtime refuses too.
    fn read(table: Table) -> Result<Option<Self>, ModelError> {
        if table.has(quantization::DETAILS) {
            return Ok(Some(Self::Other));
        }
        let scales = table.f32s(quantization::SCALE)?;
        let zero_points = table.i64s(quantization::ZERO_POINT)?;
        Ok(match (scales.as_slice(), zero_points.as_slice()) {
            ([], _) => None,
            (&[scale], &[zero_point]) => Some(Self::PerTensor { scale, zero_point }),
            (scales_in, zero_points_in) if scales_in.len() != zero_points_in.len() => {
                let expected = format!("{} zero points, one a scale, found {}", scales.len(), zero_points.len());
                return Err(ModelError::malformed(table.at, quantization::ZERO_POINT.name, expected));
            }
            _ => {
                let axis = table.i32(quantization::QUANTIZED_DIMENSION)?.unwrap_or(0);
                Some(Self::PerChannel { axis, scales, zero_points })
            }
        })
    }
}

/// The description of a tensor, without its data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Position in its subgraph's tensor list.
    pub index: usize,
    pub name: String,
    pub element: ElementType,
    /// The dimensions that the runtime starts with.
    pub shape: Vec<i32>,
    /// The dimensions with -1 where the caller may choose; equal to `shape` when the file marks none.
    pub shape_signature: Vec<i32>,
    pub quantization: Option<Quantization>,
    /// The tensor keeps its value from one invoke to the next.
    pub variable: bool,
    /// Stored in TFLite's sparse format: only the non-zero blocks are in the file.
    pub sparse_format: bool,
}

impl TensorSummary {
    pub(super) fn read(table: Table, index: usize) -> Result<Self, ModelError> {
        table.charge(size_of::<Self>(), tensor::NAME.name)?;
        let shape = table.i32s(tensor::SHAPE)?;
        let signature = table.i32s(tensor::SHAPE_SIGNATURE)?;
        Ok(Self {
            index,
            name: table.string(tensor::NAME)?.unwrap_or_default(),
            element: ElementType(table.i8(tensor::TYPE)?.unwrap_or(0)),
            shape_signature: if signature.is_empty() { shape.clone() } else { signature },
            shape,
            quantization: table.table(tensor::QUANTIZATION)?.map(Quantization::read).transpose()?.flatten(),
            variable: table.bool(tensor::IS_VARIABLE)?,
            sparse_format: table.has(tensor::SPARSITY),
        })
    }
}
