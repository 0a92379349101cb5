//! Running a model: from a window of features to output values.
//!
//! An engine owns the model, the runtime's interpreter and the tensors between them, and turns floats into the
//! model's own types and back. It knows nothing of samples, classes or meters. Built on the main thread, used on
//! the infer thread.

mod buffer;
mod checks;
pub mod delegate;
pub mod edge_tpu;
mod elf;
mod failure;
#[doc(hidden)]
pub mod ffi;
mod interpreter;
mod litert;
pub mod parity;
pub mod plan;
pub mod process;
mod profile;
pub mod quantize;
mod rows;
pub mod runtime;
pub mod span;
mod tensor;
mod tflite;
#[cfg(feature = "tflitec")]
mod tflitec;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::stream::ShapePath;
use crate::sys::trouble::Trouble;
use crate::units::MonoTime;

pub(crate) use checks::custom_operator;
pub use checks::foreign_operators;
pub use delegate::DelegateKind;
pub use litert::{LitertEngine, LitertFacts};
pub use plan::ModelPlan;
pub use profile::{Delegation, OperatorTime};
pub use runtime::Runtime;
pub use tensor::{Coding, Element, TensorInfo};
pub use tflite::TfliteEngine;
#[cfg(feature = "tflitec")]
pub use tflitec::TflitecEngine;

/// Runs one model on a batch of windows. Nothing here allocates after the engine was built, but for `reset`.
pub trait Engine: Send {
    /// The inputs that get the windows, mostly one; the first dimension of a shape is the batch, if it has one. Of several
    /// each gets a part of the window's features, one after the other.
    fn inputs(&self) -> &[TensorInfo];

    fn outputs(&self) -> &[TensorInfo];

    /// How many windows go through at a time.
    fn batch(&self) -> usize;

    /// Input `index` as the model stores it, the whole batch.
    fn input_bytes(&mut self, index: usize) -> Result<&mut [u8], EngineError>;

    fn invoke(&mut self) -> Result<(), EngineError>;

    /// Returns when the model started and ended in the last `invoke`; `None` if the caller of `invoke` knows that as well.
    fn last_run(&self) -> Option<[MonoTime; 2]> {
        None
    }

    /// Output `index` as the model stores it, the whole batch.
    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError>;

    /// Forgets what a stateful model keeps from one invocation to the next; nothing to do for others.
    fn reset(&mut self) -> Result<(), EngineError>;

    /// Fills row `row` of the batch with one window's `features`, quantised if the model needs it. Returns how many of them
    /// are outside of what the input can hold.
    fn set_input(&mut self, row: usize, features: &[f32]) -> Result<usize, EngineError> {
        let rows = self.batch();
        let (mut rest, mut outside) = (features, 0);
        for index in 0..self.inputs().len() {
            let part = take_part(self.inputs(), index, rows, &mut rest)?;
            let coding = self.inputs()[index].coding();
            outside += coding.write(part, (row, rows), self.input_bytes(index)?)?;
        }
        Ok(outside)
    }

    /// Fills row `row` of the batch with one window of bytes, each of which stands for its number; for a model that takes
    /// such bytes they are copied.
    fn set_input_bytes(&mut self, row: usize, window: &[u8]) -> Result<usize, EngineError> {
        let rows = self.batch();
        let (mut rest, mut outside) = (window, 0);
        for index in 0..self.inputs().len() {
            let part = take_part(self.inputs(), index, rows, &mut rest)?;
            let coding = self.inputs()[index].coding();
            outside += coding.write_bytes(part, (row, rows), self.input_bytes(index)?)?;
        }
        Ok(outside)
    }

    /// Writes row `row` of output `index` into `values`, dequantised; as many as a row has elements.
    fn output(&mut self, index: usize, row: usize, values: &mut [f32]) -> Result<(), EngineError> {
        let known = self.outputs().get(index).map(TensorInfo::coding);
        let coding =
            known.ok_or_else(|| EngineError::Mismatch(format!("output {index} of {}", self.outputs().len())))?;
        let rows = self.batch();
        coding.read(self.output_bytes(index)?, (row, rows), values)
    }
}

/// A model that cannot be built, or an invocation that failed. Trying again helps only for [`EngineError::Lost`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no TensorFlow Lite runtime was found; looked at\n  {}\nFetch it with `make runtime`, or name one in runtime.library", list(.looked))]
    RuntimeNotFound { looked: Vec<PathBuf> },
    #[error("{} is not a usable TensorFlow Lite runtime: {reason}\nFetch one with `make runtime`", path.display())]
    RuntimeUnusable { path: PathBuf, reason: String },
    #[error("{}: {reason}", path.display())]
    Model { path: PathBuf, reason: String },
    #[error(
        "\"linked\" needs an edgewatt that was built with the cargo feature `tflitec`; name a library's file, or leave it out"
    )]
    NotLinked,
    #[error("the delegate {delegate} cannot be used: {reason}")]
    Delegate { delegate: String, reason: String },
    /// The process that tried the model refused it, with this reason.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Mismatch(String),
    /// The windows are not what the model wants.
    #[error("{0}")]
    Window(String),
    #[error("the runtime failed at {step}: {reason}")]
    Runtime { step: &'static str, reason: String },
    /// The machine lacked something to try it, such as memory. It says nothing about model and delegate.
    #[error("{0}")]
    Machine(String),
    /// The engine's process has ended; the engine must be built again.
    #[error("the delegate's process is gone: {reason}")]
    Lost { reason: String },
}

impl EngineError {
    /// The runtime failed at `step`.
    pub fn runtime(step: &'static str, reason: impl ToString) -> Self {
        Self::Runtime { step, reason: reason.to_string() }
    }

    /// Returns whether another attempt may succeed.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Machine(_) => Trouble::Machine,
            Self::RuntimeNotFound { .. } => Trouble::Absent,
            other => Trouble::of_message(&other.to_string()),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join("\n  ")
}

/// The engine that runs such a delegate on the calling thread.
pub fn build(
    runtime: &Runtime,
    path: &Path,
    bytes: &[u8],
    delegate: &DelegateKind,
    plan: &ModelPlan,
) -> Result<Box<dyn Engine>, EngineError> {
    if let Some(built) = delegate.kind().build_own(path, bytes, plan) {
        return built.map(|(engine, _)| engine);
    }
    #[cfg(feature = "tflitec")]
    if runtime.is_linked() {
        return Ok(Box::new(TflitecEngine::new(path, bytes, delegate, plan)?));
    }
    Ok(Box::new(TfliteEngine::new(runtime, path, bytes, delegate, plan)?))
}

/// Evidence of which hardware an engine uses; a part is absent if the runtime does not report it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    #[serde(flatten)]
    pub delegation: Option<Delegation>,
    #[serde(flatten)]
    pub litert: Option<LitertFacts>,
}

impl Proof {
    /// Returns whether the delegate is known to run no node of the model.
    pub fn takes_no_node(&self) -> bool {
        self.delegation.as_ref().is_some_and(|delegation| delegation.partitions == 0)
    }
}

/// As [`build`], with the proof of what the delegate takes; costs an invocation, for built-in delegates a second build.
pub fn build_proven(
    runtime: &Runtime,
    path: &Path,
    bytes: &[u8],
    delegate: &DelegateKind,
    plan: &ModelPlan,
) -> Result<(Box<dyn Engine>, Proof), EngineError> {
    if let Some(built) = delegate.kind().build_own(path, bytes, plan) {
        return built;
    }
    if runtime.is_linked() {
        return Ok((build(runtime, path, bytes, delegate, plan)?, Proof::default()));
    }
    let (engine, delegation) = TfliteEngine::proven(runtime, path, bytes, delegate, plan)?;
    Ok((Box::new(engine), Proof { delegation, litert: None }))
}

/// Takes the part of a window that input `index` gets; the last one gets what is left.
fn take_part<'a, T>(
    inputs: &[TensorInfo],
    index: usize,
    rows: usize,
    rest: &mut &'a [T],
) -> Result<&'a [T], EngineError> {
    let is_last = index + 1 == inputs.len();
    let width = if is_last { rest.len() } else { inputs[index].len() / rows.max(1) };
    let (part, left) = rest.split_at_checked(width).ok_or_else(|| {
        let name = &inputs[index].name;
        EngineError::Mismatch(format!("the input `{name}` takes {width} values, and {} are left for it", rest.len()))
    })?;
    *rest = left;
    Ok(part)
}

/// Returns the number of values of a window that inputs for `rows` windows take.
pub fn width(inputs: &[TensorInfo], rows: usize) -> usize {
    inputs.iter().map(TensorInfo::len).sum::<usize>() / rows.max(1)
}

/// Checks that an engine takes what the plan promised: `batch` times what comes along `path`.
///
/// # Errors
/// It takes another number of values; the message names both sides and every step.
pub fn check_input(inputs: &[TensorInfo], batch: usize, path: &ShapePath) -> Result<(), EngineError> {
    let features = path.last();
    let values = features.values().saturating_mul(batch);
    let takes = width(inputs, 1);
    if takes == values && !inputs.is_empty() {
        return Ok(());
    }
    let named = |input: &TensorInfo| format!("`{}` is {:?}", input.name, input.shape);
    let inputs: Vec<String> = inputs.iter().map(named).collect();
    Err(EngineError::Window(format!(
        "the model's input {}, which is {takes} values; it gets {}, which is {values} ({path})",
        inputs.join(", "),
        features.repeated(batch),
    )))
}
