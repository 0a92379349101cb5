//! The classic TensorFlow Lite interpreter: reference kernels, XNNPACK, or a vendor's delegate.

#![allow(unsafe_code)]

use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::interpreter::{Interpreter, Model};
use super::plan::{find_signature, open_input};
use super::profile::{Delegation, OperatorTime, Profiler};
use super::runtime::Runtime;
use super::{DelegateKind, Element, Engine, EngineError, ModelPlan, TensorInfo, checks};
use crate::model::{ModelSummary, Signature};

/// A model in the interpreter.
pub struct TfliteEngine {
    /// `None` only after it could not be rebuilt. Declared before the recipe, so that it is dropped before the model that it
    /// points into.
    interpreter: Option<Interpreter>,
    /// After the first invocation it ignores all reports, except in a profile. The interpreter calls it as long as it exists.
    profiler: Option<Profiler>,
    recipe: Recipe,
    /// Keeps tensors from one invocation to the next.
    stateful: bool,
    input_info: Vec<TensorInfo>,
    output_info: Vec<TensorInfo>,
}

/// What an interpreter is built from, also when it is rebuilt.
struct Recipe {
    model: Model,
    /// Of what is run.
    summary: Option<ModelSummary>,
    runtime: Runtime,
    path: PathBuf,
    delegate: DelegateKind,
    plan: ModelPlan,
    /// What the plan names, if it names one.
    signature: Option<Signature>,
}

impl TfliteEngine {
    /// Loads `bytes` (those of `path`) and allocates its tensors as `plan` has them.
    pub fn new(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        plan: &ModelPlan,
    ) -> Result<Self, EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, plan)?;
        Ok(Self::assemble(recipe, None)?.0)
    }

    /// Like [`TfliteEngine::new`]. Also returns what ran where in an invocation on zeros; `None` if this runtime does not
    /// report it.
    pub fn proven(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        plan: &ModelPlan,
    ) -> Result<(Self, Option<Delegation>), EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, plan)?;
        if !Profiler::is_supported(runtime.library()?) {
            return Self::assemble(recipe, None);
        }
        let mut profiler = Profiler::new(recipe.signature.as_ref().map_or(0, |signature| signature.subgraph));
        // A device is slow to open and may let itself be opened once only, so its interpreter is watched and kept; the
        // runtime's own kernels are slower when they are watched.
        if !recipe.delegate.kind().is_built_in() && !recipe.is_stateful() {
            return Self::assemble(recipe, Some(profiler));
        }
        // SAFETY: the recipe and the profiler are declared before the interpreter, so they are dropped after it.
        let mut interpreter = unsafe { recipe.interpreter(Some(&mut profiler))? };
        recipe.warm_up(&mut interpreter)?;
        drop(interpreter);
        let delegation = profiler.delegation(recipe.node_count());
        Ok((Self::assemble(recipe, None)?.0, Some(delegation)))
    }

    /// Like [`TfliteEngine::new`], with the times of operators. Each inference takes longer for that.
    ///
    /// # Errors
    /// As for `new`, or this runtime does not report them.
    pub fn profiled(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        plan: &ModelPlan,
    ) -> Result<Self, EngineError> {
        let recipe = Recipe::new(runtime, path, bytes, delegate, plan)?;
        if !Profiler::is_supported(runtime.library()?) {
            return Err(EngineError::Mismatch("this runtime does not report the times of operators".into()));
        }
        let profiler = Profiler::of_times(recipe.signature.as_ref().map_or(0, |signature| signature.subgraph));
        let (mut engine, _) = Self::assemble(recipe, Some(profiler))?;
        engine.profiler.iter_mut().for_each(Profiler::forget_times);
        Ok(engine)
    }

    /// Returns the times of operators since it was built; none unless it was built for that. All invocations together took
    /// `invoked_ns` nanoseconds.
    pub fn operator_times(&self, invoked_ns: f64) -> Vec<OperatorTime> {
        let times = |profiler: &Profiler| profiler.operator_times(self.recipe.node_count(), invoked_ns);
        self.profiler.as_ref().map_or_else(Vec::new, times)
    }

    fn assemble(recipe: Recipe, mut profiler: Option<Profiler>) -> Result<(Self, Option<Delegation>), EngineError> {
        let stateful = recipe.is_stateful();
        // SAFETY: the recipe's model and the profiler are in the same struct as the interpreter and outlive it.
        let mut interpreter = unsafe { recipe.interpreter(profiler.as_mut())? };
        let dynamic = dynamic_outputs(&interpreter)?;
        if !stateful {
            recipe.warm_up(&mut interpreter)?;
        }
        let delegation = profiler.as_mut().map(|profiler| profiler.delegation(recipe.node_count()));
        let feeds = recipe.plan.feeds().map(|(input, _)| interpreter.input_info(input)?.fillable());
        let input_info = feeds.collect::<Result<Vec<_>, _>>()?;
        let output_info = recipe.describe_outputs(&mut interpreter, &dynamic)?;
        if stateful && !dynamic.is_empty() {
            // It was invoked to find their sizes, which has changed its state.
            drop(interpreter);
            // SAFETY: as above.
            interpreter = unsafe { recipe.interpreter(None)? };
        }
        if recipe.plan.batch != 1 {
            checks::check_batch(&output_info, recipe.plan.batch)?;
        }
        let interpreter = Some(interpreter);
        Ok((Self { interpreter, profiler, recipe, stateful, input_info, output_info }, delegation))
    }

    fn interpreter(&mut self) -> Result<&mut Interpreter, EngineError> {
        self.interpreter.as_mut().ok_or_else(not_rebuilt)
    }
}

impl Recipe {
    fn new(
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        plan: &ModelPlan,
    ) -> Result<Self, EngineError> {
        let model = Model::new(runtime.library()?, bytes).map_err(|e| EngineError::Model {
            path: path.to_owned(),
            reason: format!("the runtime refuses it: {e}"),
        })?;
        let summary = ModelSummary::from_bytes(bytes).ok();
        let signature = match &plan.signature {
            Some(name) => Some(find_signature(summary.as_ref(), name)?.clone()),
            None => None,
        };
        let summary = summary.map(|summary| plan.entered(summary)).transpose()?;
        let (runtime, path, delegate, plan) = (runtime.clone(), path.to_owned(), delegate.clone(), plan.clone());
        Ok(Self { model, summary, runtime, path, delegate, plan, signature })
    }

    /// A model that cannot be read counts as stateful, which is the safer choice.
    fn is_stateful(&self) -> bool {
        self.summary.as_ref().is_none_or(|summary| self.plan.is_stateful(summary))
    }

    /// Of the graph that is run.
    fn node_count(&self) -> usize {
        self.summary.as_ref().map_or(0, |summary| summary.main.operator_count)
    }

    /// # Safety
    /// The recipe and the profiler outlive the interpreter.
    unsafe fn interpreter(&self, profiler: Option<&mut Profiler>) -> Result<Interpreter, EngineError> {
        let kind = self.delegate.kind();
        let (threads, delegate) = (kind.threads(), kind.attach(&self.runtime)?);
        let not_built = |e| {
            let open = self.summary.as_ref().and_then(|summary| open_input(summary, &self.plan));
            let reason = open.unwrap_or_else(|| checks::not_built(self.summary.as_ref(), kind.library(), e));
            EngineError::Model { path: self.path.clone(), reason }
        };
        // SAFETY: the caller's promise.
        let interpreter =
            unsafe { Interpreter::new(self.runtime.library()?, &self.model, threads, delegate, profiler) };
        let mut interpreter = interpreter.map_err(not_built)?;
        if let (Some(signature), Some(summary)) = (&self.signature, &self.summary) {
            interpreter.enter(self.runtime.library()?, signature, &summary.main)?;
        }
        checks::counts(&self.plan, interpreter.input_count(), interpreter.output_count())?;
        let batch = self.plan.batch;
        let mut resized = None;
        for (input, dims) in self.plan.feeds() {
            let Some(dims) = checks::planned_dims(batch, dims, &interpreter.input_dims(input)?)? else { continue };
            interpreter.resize_input(input, &dims).map_err(|e| checks::dims_refused(batch, &dims, e))?;
            resized = Some(dims);
        }
        interpreter.allocate().map_err(|e| match &resized {
            // With an operator missing nothing can be allocated, whatever the shape.
            Some(dims) if e != Failure::UNRESOLVED_OPERATORS => checks::dims_refused(batch, dims, e),
            _ => not_built(e),
        })?;
        self.clear_states(&mut interpreter)?;
        Ok(interpreter)
    }

    /// Sets the inputs that hold a state to 0.
    fn clear_states(&self, interpreter: &mut Interpreter) -> Result<(), EngineError> {
        for state in &self.plan.states {
            let info = interpreter.input_info(state.input)?;
            let bytes = interpreter.input_bytes(state.input)?;
            if info.scale.is_normal() {
                info.coding().write(&vec![0.0; info.len()], (0, 1), bytes)?;
            } else {
                bytes.fill(0);
            }
        }
        Ok(())
    }

    /// Does the first invocation, on zeros. It takes longer than later ones, and may add tensors.
    fn warm_up(&self, interpreter: &mut Interpreter) -> Result<(), EngineError> {
        for (input, _) in self.plan.feeds() {
            interpreter.input_bytes(input)?.fill(0);
        }
        interpreter.invoke().map_err(|e| EngineError::runtime("invoke", e))
    }

    /// Describes the outputs. Those in `dynamic` have a size only after an invocation: they are invoked on zeros and on other
    /// numbers, and are read if their shape is the same both times.
    fn describe_outputs(
        &self,
        interpreter: &mut Interpreter,
        dynamic: &[usize],
    ) -> Result<Vec<TensorInfo>, EngineError> {
        let mut moved = Vec::new();
        if !dynamic.is_empty() {
            let shapes = |interpreter: &Interpreter| {
                dynamic.iter().map(|index| interpreter.output_dims(*index)).collect::<Result<Vec<_>, _>>()
            };
            self.warm_up(interpreter)?;
            let before = shapes(interpreter)?;
            for (index, _) in self.plan.feeds() {
                let input = interpreter.input_info(index)?;
                let numbers: Vec<f32> = (0..input.len()).map(|index| if index % 3 == 1 { -1.0 } else { 1.0 }).collect();
                input.coding().write(&numbers, (0, 1), interpreter.input_bytes(index)?)?;
            }
            interpreter.invoke().map_err(|e| EngineError::runtime("invoke", e))?;
            let after = shapes(interpreter)?;
            for ((index, before), after) in dynamic.iter().zip(before).zip(after) {
                if before != after || after.contains(&0) || interpreter.is_dynamic(*index)? {
                    moved.push(*index);
                }
            }
        }
        let describe = |index| {
            let info = interpreter.output_info(index)?;
            Ok(if moved.contains(&index) { TensorInfo { element: Element::Open, ..info } } else { info })
        };
        (0..interpreter.output_count()).map(describe).collect()
    }
}

/// Returns the outputs that have no size before an invocation.
fn dynamic_outputs(interpreter: &Interpreter) -> Result<Vec<usize>, EngineError> {
    let outputs = (0..interpreter.output_count()).map(|index| Ok(interpreter.is_dynamic(index)?.then_some(index)));
    outputs.filter_map(Result::transpose).collect()
}

impl Engine for TfliteEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.input_info
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.output_info
    }

    fn batch(&self) -> usize {
        self.recipe.plan.batch
    }

    fn input_bytes(&mut self, index: usize) -> Result<&mut [u8], EngineError> {
        let fed = self.recipe.plan.feeds().nth(index).map(|(input, _)| input);
        let fed = fed.ok_or_else(|| EngineError::Mismatch(format!("input {index} of {}", self.input_info.len())))?;
        self.interpreter()?.input_bytes(fed)
    }

    fn invoke(&mut self) -> Result<(), EngineError> {
        let interpreter = self.interpreter.as_mut().ok_or_else(not_rebuilt)?;
        interpreter.invoke().map_err(|e| EngineError::runtime("invoke", e))?;
        self.recipe.plan.states.iter().try_for_each(|state| interpreter.carry(*state))
    }

    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        self.interpreter()?.output_bytes(index)
    }

    /// Rebuilds the interpreter: the only way to clear resource variables, which run their initialiser once. A state that is
    /// an input is set to 0.
    fn reset(&mut self) -> Result<(), EngineError> {
        if !self.stateful {
            return Ok(());
        }
        if self.recipe.summary.as_ref().is_some_and(|summary| !summary.stateful)
            && let Some(interpreter) = &mut self.interpreter
        {
            return self.recipe.clear_states(interpreter);
        }
        // The old one first, because a device may not be opened twice.
        self.interpreter = None;
        // SAFETY: the recipe's model is in the same struct as the interpreter and outlives it.
        self.interpreter = Some(unsafe { self.recipe.interpreter(None)? });
        Ok(())
    }
}

fn not_rebuilt() -> EngineError {
    EngineError::runtime("invoke", "it could not be rebuilt")
}
