//! Describes a model's input or output, and converts between floats and its bytes.
//!
//! Owns the checks that make later indexing safe, and the cutting of a batch into rows.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::EngineError;
use super::quantize::{Stored, dequantize, quantize};

/// The type of a tensor's elements. All but the last two can be read; windows can be written to the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    Float32,
    Int8,
    Uint8,
    Int16,
    Int32,
    Int64,
    Bool,
    /// Any other type.
    Other,
    /// Of any type, in an output whose size depends on the data.
    Open,
}

impl Element {
    /// Returns the bytes of one element; 0 if it is not read.
    pub fn bytes(self) -> usize {
        match self {
            Self::Int64 => 8,
            Self::Float32 | Self::Int32 => 4,
            Self::Int16 => 2,
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
            Self::Other | Self::Open => 0,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
            Self::Other => "of another type",
            Self::Open => "of open size",
        })
    }
}

/// One input or output of a model as it was allocated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorInfo {
    pub name: String,
    pub element: Element,
    /// The batch first.
    pub shape: Vec<usize>,
    /// `real = scale * (stored - zero_point)`; not used for float32.
    pub scale: f32,
    pub zero_point: i32,
}

impl TensorInfo {
    /// Returns the number of elements, including the batch.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tensor if windows can be written to it.
    ///
    /// # Errors
    /// Its type is not one of those, or a scale is missing.
    pub fn fillable(self) -> Result<Self, EngineError> {
        let Self { name, element, .. } = &self;
        match element {
            Element::Float32 => Ok(self),
            Element::Int8 | Element::Uint8 | Element::Int16 if self.scale.is_normal() => Ok(self),
            Element::Int8 | Element::Uint8 | Element::Int16 => {
                Err(EngineError::Mismatch(format!("tensor `{name}` is {element} but carries no quantisation scale")))
            }
            _ => Err(EngineError::Mismatch(format!(
                "the model's input `{name}` is {element}; edgewatt fills inputs of float32, int8, uint8 and int16"
            ))),
        }
    }

    /// # Errors
    /// The values cannot be read, and why.
    pub fn readable(&self) -> Result<(), EngineError> {
        let why = match self.element {
            Element::Other => {
                "is of a type that edgewatt does not read; it reads float32, int8, uint8, int16, int32, int64 and bool"
            }
            Element::Open => "has a size that is known only after an inference, which edgewatt does not read",
            _ => return Ok(()),
        };
        Err(EngineError::Mismatch(format!("the model's output `{}` {why}", self.name)))
    }

    /// Returns an error if the shape does not fit the `bytes` allocated.
    pub fn checked(self, bytes: usize) -> Result<Self, EngineError> {
        let Self { name, element, shape, .. } = &self;
        if element.bytes() == 0 {
            return Ok(self);
        }
        // A damaged file can claim any shape, so the allocated size is checked.
        let claimed = shape.iter().try_fold(element.bytes(), |bytes, dim| bytes.checked_mul(*dim));
        if claimed != Some(bytes) {
            return Err(EngineError::Mismatch(format!("tensor `{name}` of {shape:?} {element} has {bytes} bytes")));
        }
        Ok(self)
    }

    /// Returns the lowest and the highest number that it can hold; `None` if it is not quantised.
    pub fn range(&self) -> Option<(f32, f32)> {
        let (lowest, highest) = match self.element {
            Element::Int8 | Element::Uint8 | Element::Int16 if !self.scale.is_normal() => return None,
            Element::Int8 => (f32::from(i8::MIN), f32::from(i8::MAX)),
            Element::Uint8 => (f32::from(u8::MIN), f32::from(u8::MAX)),
            Element::Int16 => (f32::from(i16::MIN), f32::from(i16::MAX)),
            _ => return None,
        };
        let real = |stored: f32| self.scale * (stored - self.zero_point as f32);
        Some((real(lowest), real(highest)))
    }

    /// Returns how the elements are stored.
    pub fn coding(&self) -> Coding {
        // Integers without a scale are the numbers themselves.
        let (scale, zero_point) = if self.scale.is_normal() { (self.scale, self.zero_point) } else { (1.0, 0) };
        Coding { element: self.element, scale, zero_point }
    }

    /// Returns the bytes that it is stored in; 0 if it is not read.
    pub fn stored_bytes(&self) -> usize {
        self.len() * self.element.bytes()
    }
}

/// How a tensor's elements are stored: a copy of that part of [`TensorInfo`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coding {
    element: Element,
    scale: f32,
    zero_point: i32,
}

impl Coding {
    /// Writes `values` over row `row` of `stored`, which holds `rows` of them. Returns how many of them are outside of what
    /// can be stored.
    pub fn write(self, values: &[f32], (row, rows): (usize, usize), stored: &mut [u8]) -> Result<usize, EngineError> {
        let place = self.place(values.len(), (row, rows), stored.len())?;
        let stored = &mut stored[place];
        Ok(match self.element {
            Element::Float32 => {
                typed_mut::<f32>(stored)?.copy_from_slice(values);
                0
            }
            Element::Int8 => quantize(values, self.scale, self.zero_point, typed_mut::<i8>(stored)?),
            Element::Uint8 => quantize(values, self.scale, self.zero_point, stored),
            Element::Int16 => quantize(values, self.scale, self.zero_point, typed_mut::<i16>(stored)?),
            other => return Err(not_written(other)),
        })
    }

    /// Writes bytes, each of which stands for its number, as [`Coding::write`] does.
    pub fn write_bytes(
        self,
        bytes: &[u8],
        (row, rows): (usize, usize),
        stored: &mut [u8],
    ) -> Result<usize, EngineError> {
        let place = self.place(bytes.len(), (row, rows), stored.len())?;
        let stored = &mut stored[place];
        let (scale, zero_point) = (self.scale, self.zero_point);
        Ok(match self.element {
            Element::Float32 => {
                let floats = typed_mut::<f32>(stored)?;
                floats.iter_mut().zip(bytes).for_each(|(float, byte)| *float = f32::from(*byte));
                0
            }
            Element::Uint8 if scale == 1.0 && zero_point == 0 => {
                stored.copy_from_slice(bytes);
                0
            }
            Element::Int8 if scale == 1.0 && zero_point == -128 => {
                stored.iter_mut().zip(bytes).for_each(|(stored, byte)| *stored = byte ^ 0x80);
                0
            }
            Element::Int8 => quantize(bytes, scale, zero_point, typed_mut::<i8>(stored)?),
            Element::Uint8 => quantize(bytes, scale, zero_point, stored),
            Element::Int16 => quantize(bytes, scale, zero_point, typed_mut::<i16>(stored)?),
            other => return Err(not_written(other)),
        })
    }

    /// Reads row `row` of `stored`, which holds `rows` of them, into `values`.
    pub fn read(self, stored: &[u8], (row, rows): (usize, usize), values: &mut [f32]) -> Result<(), EngineError> {
        let stored = &stored[self.place(values.len(), (row, rows), stored.len())?];
        match self.element {
            Element::Float32 => values.copy_from_slice(typed::<f32>(stored)?),
            Element::Int8 => self.dequantized::<i8>(stored, values)?,
            Element::Uint8 => self.dequantized::<u8>(stored, values)?,
            Element::Int16 => self.dequantized::<i16>(stored, values)?,
            Element::Int32 => self.converted(typed::<i32>(stored)?, f64::from, values),
            Element::Int64 => self.converted(typed::<i64>(stored)?, |stored| stored as f64, values),
            Element::Bool => self.converted(stored, |stored| f64::from(u8::from(stored != 0)), values),
            Element::Other | Element::Open => {
                return Err(EngineError::Mismatch(format!("values {} cannot be read", self.element)));
            }
        }
        Ok(())
    }

    /// Returns the byte range of a row of `count` values in `total` bytes that hold `rows` of them.
    fn place(self, count: usize, (row, rows): (usize, usize), total: usize) -> Result<Range<usize>, EngineError> {
        let bytes = count * self.element.bytes();
        if row < rows && bytes * rows == total {
            return Ok(row * bytes..(row + 1) * bytes);
        }
        Err(EngineError::Mismatch(format!(
            "{count} values of {} as row {row} of {rows} in a tensor of {total} bytes",
            self.element
        )))
    }

    /// Reads integers that `f32` cannot hold.
    fn converted<T: Copy>(self, stored: &[T], number: impl Fn(T) -> f64, values: &mut [f32]) {
        let (scale, zero_point) = (f64::from(self.scale), f64::from(self.zero_point));
        for (value, stored) in values.iter_mut().zip(stored) {
            *value = (scale * (number(*stored) - zero_point)) as f32;
        }
    }

    fn dequantized<T: Stored + bytemuck::AnyBitPattern>(
        self,
        stored: &[u8],
        values: &mut [f32],
    ) -> Result<(), EngineError> {
        dequantize(typed::<T>(stored)?, self.scale, self.zero_point, values);
        Ok(())
    }
}

fn not_written(element: Element) -> EngineError {
    EngineError::Mismatch(format!("windows are not written to values {element}"))
}

fn typed<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Result<&[T], EngineError> {
    bytemuck::try_cast_slice(bytes).map_err(|e| EngineError::runtime("read a tensor", e))
}

fn typed_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], EngineError> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|e| EngineError::runtime("write a tensor", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT16: Coding = Coding { element: Element::Int16, scale: 0.5, zero_point: 1 };

    #[test]
    fn a_row_is_written_and_read_where_it_belongs() {
        let mut stored = vec![0u16; 6];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut stored);
        INT16.write(&[1.0, -1.5], (1, 3), bytes).unwrap();
        let mut values = [0.0; 2];
        INT16.read(bytes, (1, 3), &mut values).unwrap();
        assert_eq!(values, [1.0, -1.5]);
        INT16.read(bytes, (0, 3), &mut values).unwrap();
        assert_eq!(values, [-0.5, -0.5]);
        assert_eq!(stored, [0, 0, 3, (-2i16) as u16, 0, 0]);
    }

    #[test]
    fn bytes_are_stored_as_the_same_numbers_in_f32_would_be() {
        let bytes: Vec<u8> = (0..=255).collect();
        let floats: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte)).collect();
        let codings = [
            (Element::Uint8, 1.0, 0),
            (Element::Int8, 1.0, -128),
            (Element::Uint8, 0.5, 3),
            (Element::Int8, 2.0, -7),
            (Element::Int16, 0.25, 0),
            (Element::Float32, 0.0, 0),
        ];
        for (element, scale, zero_point) in codings {
            let coding = Coding { element, scale, zero_point };
            let (mut by_bytes, mut by_floats) = (vec![0f32; 256], vec![0f32; 256]);
            let room = 256 * element.bytes();
            let stored = |room: usize, floats: &mut Vec<f32>, write: &dyn Fn(&mut [u8]) -> usize| {
                let stored: &mut [u8] = &mut bytemuck::cast_slice_mut(floats)[..room];
                (write(stored), stored.to_vec())
            };
            let ours = stored(room, &mut by_bytes, &|stored| coding.write_bytes(&bytes, (0, 1), stored).unwrap());
            let theirs = stored(room, &mut by_floats, &|stored| coding.write(&floats, (0, 1), stored).unwrap());
            assert_eq!(ours, theirs, "{coding:?}");
        }
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let mut stored = vec![0u8; 12];
        let error = INT16.write(&[0.0; 2], (3, 3), &mut stored).unwrap_err().to_string();
        assert_eq!(error, "2 values of int16 as row 3 of 3 in a tensor of 12 bytes");
        for length in [0, 1, 4, 7] {
            assert!(INT16.read(&stored, (0, 3), &mut vec![0.0; length]).is_err(), "{length}");
        }
    }
}
