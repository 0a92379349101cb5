//! Running a model: from a window of features to output values.
//!
//! An engine owns the model, the runtime's interpreter and the tensors between them, and turns floats into the
//! model's own types and back. It knows nothing of samples, classes or meters. Built on the main thread, used on
//! the infer thread.

pub mod probe;
pub mod quantize;
pub mod runtime;
pub mod span;
mod tflite;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

pub use runtime::Runtime;
pub use tflite::TfliteEngine;

/// Runs one model. Nothing here allocates after the engine was built.
pub trait Engine: Send {
    fn inputs(&self) -> &[TensorInfo];

    fn outputs(&self) -> &[TensorInfo];

    /// Fills the input from `features`, `[batch, ...]` row-major, quantised where the model wants it.
    fn set_input(&mut self, features: &[f32]) -> Result<(), EngineError>;

    fn invoke(&mut self) -> Result<(), EngineError>;

    /// Writes output `index` into `values`, dequantised; as many as the output has elements.
    fn output(&mut self, index: usize, values: &mut [f32]) -> Result<(), EngineError>;
}

/// A model that cannot be built, or an invocation that failed. None of them goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no TensorFlow Lite runtime was found; looked at\n  {}\nFetch it with `make runtime`, or name one in runtime.library", list(.looked))]
    RuntimeNotFound { looked: Vec<PathBuf> },
    #[error("{} is no usable TensorFlow Lite runtime: {reason}\nFetch one with `make runtime`", path.display())]
    RuntimeUnusable { path: PathBuf, reason: String },
    #[error("{}: {reason}", path.display())]
    Model { path: PathBuf, reason: String },
    #[error("the delegate {delegate} cannot be used: {reason}")]
    Delegate { delegate: String, reason: String },
    /// The process that tried the model says so.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Mismatch(String),
    #[error("the runtime failed at {step}: {reason}")]
    Runtime { step: &'static str, reason: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join("\n  ")
}

/// The element types that edgewatt can read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    Float32,
    Int8,
    Uint8,
    Int16,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Int16 => 2,
            Self::Int8 | Self::Uint8 => 1,
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
        })
    }
}

/// One input or output of a model as it was allocated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorInfo {
    pub name: String,
    pub element: Element,
    pub shape: Vec<usize>,
    /// `real = scale * (stored - zero_point)`; not used for float32.
    pub scale: f32,
    pub zero_point: i32,
}

impl TensorInfo {
    /// Number of elements, the batch included.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Checks that windows of `[samples, channels]` are what `input` takes, `batch` of them at a time.
///
/// The model's dimensions after the batch must be the window's, with ones anywhere, or all of it in one row.
pub fn check_window(input: &TensorInfo, batch: usize, samples: usize, channels: usize) -> Result<(), EngineError> {
    let without_ones = |dims: &[usize]| dims.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    let wanted = without_ones(input.shape.get(1..).unwrap_or(&[]));
    let batch_fits = input.shape.first() == Some(&batch);
    if batch_fits && (wanted == without_ones(&[samples, channels]) || wanted == without_ones(&[samples * channels])) {
        return Ok(());
    }
    Err(EngineError::Mismatch(format!(
        "the model's input `{}` is {:?}, which is {} values; windows of {samples} samples of {channels} channels are \
         [{batch}, {samples}, {channels}], which is {}",
        input.name,
        input.shape,
        input.len(),
        batch * samples * channels,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fits_by_shape_not_only_by_size() {
        let input = |shape: &[usize]| TensorInfo {
            name: "x".into(),
            element: Element::Float32,
            shape: shape.to_vec(),
            scale: 0.0,
            zero_point: 0,
        };
        for good in [&[1, 200, 6][..], &[1, 200, 1, 6], &[1, 1, 200, 6], &[1, 1200], &[1, 1200, 1]] {
            assert!(check_window(&input(good), 1, 200, 6).is_ok(), "{good:?}");
        }
        for bad in [&[1, 6, 200][..], &[200, 6], &[1, 199, 6], &[2, 200, 6], &[1200], &[]] {
            let error = check_window(&input(bad), 1, 200, 6).unwrap_err().to_string();
            assert!(error.contains("[1, 200, 6]") && error.contains("1200"), "{error}");
        }
        assert!(check_window(&input(&[8, 200, 6]), 8, 200, 6).is_ok());
        assert!(check_window(&input(&[1, 640]), 1, 640, 1).is_ok());
    }
}
