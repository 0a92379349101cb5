//! The classic TensorFlow Lite interpreter: reference kernels, XNNPACK, or a vendor's delegate.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::interpreter::{Delegate, Failure, Interpreter, Model};
use super::profile::{Delegation, Profiler};
use super::runtime::Runtime;
use super::{Engine, EngineError, TensorInfo, edge_tpu};
use crate::config::DelegateKind;
use crate::model::{ModelSummary, OperatorCount};

/// A model in the interpreter.
pub struct TfliteEngine {
    /// Only absent when building it anew has failed. Ahead of the recipe, whose model it points into.
    interpreter: Option<Interpreter>,
    recipe: Recipe,
    /// Keeps tensors from one invocation to the next.
    stateful: bool,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
}

/// What an interpreter is built from, as often as is needed.
struct Recipe {
    model: Model,
    summary: Option<ModelSummary>,
    runtime: Runtime,
    path: PathBuf,
    delegate: DelegateKind,
    batch: usize,
}

impl TfliteEngine {
    /// Loads `bytes` (those of `path`) and allocates its tensors for `batch` windows at a time.
    pub fn new(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<Self, EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, batch)?;
        // What cannot be read counts as stateful, which is the safer of the two.
        let stateful = recipe.summary.as_ref().is_none_or(|summary| summary.stateful);
        // SAFETY: the recipe's model is kept beside the interpreter and outlives it.
        let mut interpreter = unsafe { recipe.interpreter(None)? };
        if !stateful {
            warm_up(&mut interpreter)?;
        }
        let input_info = vec![interpreter.input_info()?];
        let outputs = 0..interpreter.output_count();
        let output_info = outputs.map(|index| interpreter.output_info(index)).collect::<Result<Vec<_>, _>>()?;
        if batch != 1 {
            check_batch(&output_info, batch)?;
        }
        Ok(Self { interpreter: Some(interpreter), recipe, stateful, input_info, output_info })
    }

    /// Builds the model as [`TfliteEngine::new`] does, invokes it once on zeros, and tells what ran where.
    pub fn delegation(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<Delegation, EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, batch)?;
        let mut profiler = Profiler::new();
        // SAFETY: the recipe and the profiler are declared before the interpreter, so they are dropped after it.
        let mut interpreter = unsafe { recipe.interpreter(Some(&mut profiler))? };
        warm_up(&mut interpreter)?;
        drop(interpreter);
        Ok(profiler.delegation(recipe.summary.as_ref().map_or(0, |summary| summary.main.operator_count)))
    }

    fn interpreter(&mut self) -> Result<&mut Interpreter, EngineError> {
        self.interpreter.as_mut().ok_or_else(|| EngineError::runtime("invoke", "it could not be built anew"))
    }
}

impl Recipe {
    fn new(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<Self, EngineError> {
        let model = Model::new(runtime.library, bytes).map_err(|e| EngineError::Model {
            path: path.to_owned(),
            reason: format!("the runtime refuses it: {e}"),
        })?;
        let summary = ModelSummary::from_bytes(bytes).ok();
        let (runtime, path, delegate) = (runtime.clone(), path.to_owned(), delegate.clone());
        Ok(Self { model, summary, runtime, path, delegate, batch })
    }

    /// # Safety
    /// The recipe and the profiler outlive the interpreter.
    unsafe fn interpreter(&self, profiler: Option<&mut Profiler>) -> Result<Interpreter, EngineError> {
        let threads = match self.delegate {
            DelegateKind::Cpu { threads } | DelegateKind::Xnnpack { threads, .. } => threads,
            DelegateKind::External { .. } | DelegateKind::Litert { .. } => 1,
        };
        let delegate = self.delegate()?;
        let not_built = |e| EngineError::Model { path: self.path.clone(), reason: self.not_built(e) };
        // SAFETY: the caller's promise.
        let interpreter = unsafe { Interpreter::new(self.runtime.library, &self.model, threads, delegate, profiler) };
        let mut interpreter = interpreter.map_err(not_built)?;
        if interpreter.input_count() != 1 {
            return Err(EngineError::Mismatch(format!(
                "the model has {} inputs; edgewatt feeds models with 1",
                interpreter.input_count()
            )));
        }
        if interpreter.output_count() == 0 {
            return Err(EngineError::Mismatch("the model has no outputs; edgewatt needs 1 or more".into()));
        }
        interpreter.allocate().map_err(not_built)?;
        if self.batch != 1 {
            resize_batch(&mut interpreter, self.batch)?;
        }
        Ok(interpreter)
    }

    fn delegate(&self) -> Result<Option<Delegate>, EngineError> {
        let (name, made) = match &self.delegate {
            DelegateKind::Cpu { .. } => return Ok(None),
            DelegateKind::Xnnpack { threads, flags } => {
                let flags = flags.iter().fold(0, |bits, flag| bits | flag.bit());
                ("xnnpack".into(), Delegate::xnnpack(self.runtime.library, *threads, flags))
            }
            DelegateKind::External { library, options } => {
                let made = Delegate::external(library, options).map_err(|reason| edge_tpu::declined(library, reason));
                (library.display().to_string(), made)
            }
            DelegateKind::Litert { library, .. } => (
                library.display().to_string(),
                Err("LiteRT is a runtime of its own, not a delegate of this one".into()),
            ),
        };
        made.map(Some).map_err(|reason| EngineError::Delegate { delegate: name, reason })
    }

    /// Why the runtime builds no interpreter: it says little itself, the file says more.
    fn not_built(&self, failure: Failure) -> String {
        let as_it_says = format!("its tensors cannot be allocated: {failure}");
        let Some(summary) = &self.summary else { return as_it_says };
        let foreign = foreign_operators(summary);
        if !foreign.is_empty() && matches!(failure, Failure::UNRESOLVED_OPERATORS | Failure::Null) {
            let by_tpu = self.delegate.library().is_some_and(edge_tpu::is_library);
            return match foreign.as_slice() {
                _ if edge_tpu::is_compiled(summary) && !by_tpu => edge_tpu::COMPILED_WITHOUT_DELEGATE.into(),
                [name] => format!("its operator {name} is not in the runtime and no delegate takes it"),
                names => {
                    format!("its operators {} are not all in the runtime or taken by a delegate", names.join(", "))
                }
            };
        }
        if let Some(library) = self.delegate.library() {
            return format!("the runtime cannot build it with the delegate {}: {failure}", library.display());
        }
        let later = operator_names(summary, |op| !op.custom && op.name.starts_with("UNKNOWN_"));
        match &summary.min_runtime_version {
            _ if !later.is_empty() => {
                format!("its operators {} are newer than edgewatt and this runtime", later.join(", "))
            }
            Some(version) if failure == Failure::Null => {
                let version = version.escape_debug();
                format!(
                    "this runtime cannot build it: is it damaged? It was made for TensorFlow Lite {version} or later"
                )
            }
            _ => as_it_says,
        }
    }
}

impl Engine for TfliteEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.input_info
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.output_info
    }

    fn batch(&self) -> usize {
        self.recipe.batch
    }

    fn input_bytes(&mut self) -> Result<&mut [u8], EngineError> {
        self.interpreter()?.input_bytes()
    }

    fn invoke(&mut self) -> Result<(), EngineError> {
        self.interpreter()?.invoke().map_err(|e| EngineError::runtime("invoke", e))
    }

    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        self.interpreter()?.output_bytes(index)
    }

    /// Builds the interpreter anew: the only way to clear resource variables, which run their initialiser once.
    fn reset(&mut self) -> Result<(), EngineError> {
        if self.stateful {
            // A device may not let itself be opened twice.
            self.interpreter = None;
            // SAFETY: the recipe's model is kept beside the interpreter and outlives it.
            self.interpreter = Some(unsafe { self.recipe.interpreter(None)? });
        }
        Ok(())
    }
}

/// Custom operators that every stock runtime has; from `BuiltinOpResolver` in tensorflow/lite/core/kernels/register.cc.
const STOCK_CUSTOM_OPERATORS: [&str; 4] = ["NumericVerify", "Mfcc", "AudioSpectrogram", "TFLite_Detection_PostProcess"];

/// Custom operators that no stock runtime has: only the delegate that the model was compiled for runs them.
pub fn foreign_operators(summary: &ModelSummary) -> Vec<String> {
    operator_names(summary, |op| op.custom && !STOCK_CUSTOM_OPERATORS.contains(&op.name.as_str()))
}

/// The names of the operators that are `wanted`, each once.
fn operator_names(summary: &ModelSummary, wanted: impl Fn(&OperatorCount) -> bool) -> Vec<String> {
    let subgraphs = std::iter::once(&summary.main).chain(&summary.other_subgraphs);
    let operators = subgraphs.flat_map(|subgraph| &subgraph.operators).filter(|op| wanted(op));
    let names: BTreeSet<String> = operators.map(|op| format!("`{}`", op.name.escape_debug())).collect();
    names.into_iter().collect()
}

/// Sets the first dimension of the input.
fn resize_batch(interpreter: &mut Interpreter, batch: usize) -> Result<(), EngineError> {
    let shape = interpreter.input_info()?.shape;
    let too_large = |_| EngineError::Mismatch(format!("a batch of {batch} is too large"));
    let mut dims = shape.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>().map_err(too_large)?;
    match dims.first_mut() {
        Some(first) => *first = i32::try_from(batch).map_err(too_large)?,
        None => return Err(EngineError::Mismatch("the model's input has no batch dimension".into())),
    }
    let refused = |e: Failure| {
        EngineError::Mismatch(format!("the model does not take batches of {batch}, an input of {dims:?}: {e}"))
    };
    interpreter.resize_input(&dims).map_err(refused)?;
    interpreter.allocate().map_err(refused)
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

/// The first invocation, which takes longer than those that follow and may add tensors; on zeros.
fn warm_up(interpreter: &mut Interpreter) -> Result<(), EngineError> {
    interpreter.input_bytes()?.fill(0);
    interpreter.invoke().map_err(|e| EngineError::runtime("invoke", e))
}
