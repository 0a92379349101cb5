//! The classic TensorFlow Lite interpreter: reference kernels, XNNPACK, or a vendor's delegate.

#![allow(unsafe_code)]

use std::path::{Path, PathBuf};

use super::interpreter::{Interpreter, Model};
use super::profile::{Delegation, Profiler};
use super::runtime::Runtime;
use super::{DelegateKind, Engine, EngineError, TensorInfo, checks};
use crate::model::ModelSummary;

/// A model in the interpreter.
pub struct TfliteEngine {
    /// `None` only after it could not be rebuilt. Declared before the recipe, so that it is dropped before the model that it
    /// points into.
    interpreter: Option<Interpreter>,
    /// Ignores all reports after the first invocation, but the interpreter still calls it.
    _profiler: Option<Profiler>,
    recipe: Recipe,
    /// Keeps tensors from one invocation to the next.
    stateful: bool,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
}

/// What an interpreter is built from, also when it is rebuilt.
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
        Ok(Self::assemble(recipe, None)?.0)
    }

    /// Like [`TfliteEngine::new`]. Also returns what ran where in an invocation on zeros; `None` if this runtime does not
    /// report it.
    pub fn proven(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<(Self, Option<Delegation>), EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, batch)?;
        if !Profiler::is_supported(runtime.library()?) {
            return Self::assemble(recipe, None);
        }
        let mut profiler = Profiler::new();
        // A device is slow to open and may let itself be opened once only, so its interpreter is watched and kept; the
        // runtime's own kernels are slower when they are watched.
        if !recipe.delegate.kind().is_built_in() && !recipe.is_stateful() {
            return Self::assemble(recipe, Some(profiler));
        }
        // SAFETY: the recipe and the profiler are declared before the interpreter, so they are dropped after it.
        let mut interpreter = unsafe { recipe.interpreter(Some(&mut profiler))? };
        warm_up(&mut interpreter)?;
        drop(interpreter);
        let delegation = profiler.delegation(recipe.node_count());
        Ok((Self::assemble(recipe, None)?.0, Some(delegation)))
    }

    fn assemble(recipe: Recipe, mut profiler: Option<Profiler>) -> Result<(Self, Option<Delegation>), EngineError> {
        let stateful = recipe.is_stateful();
        // SAFETY: the recipe's model and the profiler are in the same struct as the interpreter and outlive it.
        let mut interpreter = unsafe { recipe.interpreter(profiler.as_mut())? };
        if !stateful {
            warm_up(&mut interpreter)?;
        }
        let delegation = profiler.as_mut().map(|profiler| profiler.delegation(recipe.node_count()));
        let input_info = vec![interpreter.input_info()?];
        let outputs = 0..interpreter.output_count();
        let output_info = outputs.map(|index| interpreter.output_info(index)).collect::<Result<Vec<_>, _>>()?;
        if recipe.batch != 1 {
            checks::check_batch(&output_info, recipe.batch)?;
        }
        let interpreter = Some(interpreter);
        Ok((Self { interpreter, _profiler: profiler, recipe, stateful, input_info, output_info }, delegation))
    }

    fn interpreter(&mut self) -> Result<&mut Interpreter, EngineError> {
        self.interpreter.as_mut().ok_or_else(|| EngineError::runtime("invoke", "it could not be rebuilt"))
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
        let model = Model::new(runtime.library()?, bytes).map_err(|e| EngineError::Model {
            path: path.to_owned(),
            reason: format!("the runtime refuses it: {e}"),
        })?;
        let summary = ModelSummary::from_bytes(bytes).ok();
        let (runtime, path, delegate) = (runtime.clone(), path.to_owned(), delegate.clone());
        Ok(Self { model, summary, runtime, path, delegate, batch })
    }

    /// A model that cannot be read counts as stateful, which is the safer choice.
    fn is_stateful(&self) -> bool {
        self.summary.as_ref().is_none_or(|summary| summary.stateful)
    }

    /// Of the main graph.
    fn node_count(&self) -> usize {
        self.summary.as_ref().map_or(0, |summary| summary.main.operator_count)
    }

    /// # Safety
    /// The recipe and the profiler outlive the interpreter.
    unsafe fn interpreter(&self, profiler: Option<&mut Profiler>) -> Result<Interpreter, EngineError> {
        let kind = self.delegate.kind();
        let (threads, delegate) = (kind.threads(), kind.attach(&self.runtime)?);
        let not_built = |e| EngineError::Model {
            path: self.path.clone(),
            reason: checks::not_built(self.summary.as_ref(), kind.library(), e),
        };
        // SAFETY: the caller's promise.
        let interpreter =
            unsafe { Interpreter::new(self.runtime.library()?, &self.model, threads, delegate, profiler) };
        let mut interpreter = interpreter.map_err(not_built)?;
        checks::counts(interpreter.input_count(), interpreter.output_count())?;
        interpreter.allocate().map_err(not_built)?;
        if self.batch != 1 {
            resize_batch(&mut interpreter, self.batch)?;
        }
        Ok(interpreter)
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

    /// Rebuilds the interpreter: the only way to clear resource variables, which run their initialiser once.
    fn reset(&mut self) -> Result<(), EngineError> {
        if self.stateful {
            // The old one first, because a device may not be opened twice.
            self.interpreter = None;
            // SAFETY: the recipe's model is in the same struct as the interpreter and outlives it.
            self.interpreter = Some(unsafe { self.recipe.interpreter(None)? });
        }
        Ok(())
    }
}

/// Sets the first dimension of the input.
fn resize_batch(interpreter: &mut Interpreter, batch: usize) -> Result<(), EngineError> {
    let dims = checks::batch_dims(&interpreter.input_info()?, batch)?;
    let refused = |e| checks::batch_refused(batch, &dims, e);
    interpreter.resize_input(&dims).map_err(refused)?;
    interpreter.allocate().map_err(refused)
}

/// Does the first invocation, on zeros. It takes longer than later ones, and may add tensors.
fn warm_up(interpreter: &mut Interpreter) -> Result<(), EngineError> {
    interpreter.input_bytes()?.fill(0);
    interpreter.invoke().map_err(|e| EngineError::runtime("invoke", e))
}
