//! How a pipeline gets its engine: each delegate in turn is tried, proven, and compared with the reference.
//!
//! Owns the order of delegates and the result of each attempt. Leaves to `daemon::pipeline` when to try again. Building
//! blocks for seconds, so it happens on the main thread before the start and on blocking threads after it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Delegate, Parity};
use crate::engine::delegate::check_loadable;
use crate::engine::delegate::cpu::Cpu;
use crate::engine::parity::{Agreement, DecidedOn, Reference};
use crate::engine::plan;
use crate::engine::process::{Launcher, ProcessLimits, Ready};
use crate::engine::{
    DelegateKind, Engine, EngineError, ModelPlan, Runtime, TensorInfo, TfliteEngine, build, check_input,
    foreign_operators,
};
use crate::model::{ModelSummary, Signature};
use crate::publish::payload::{DelegateProof, DelegateState};
use crate::stream::ShapePath;
use crate::sys::stderr;
use crate::text::counted;

/// What all engines of a daemon are built with.
#[derive(Clone)]
pub struct EngineContext {
    pub runtime: Runtime,
    pub launcher: Arc<Launcher>,
}

/// A model file as it was read.
#[derive(Debug, PartialEq)]
pub struct ModelFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub sha256: String,
    /// The description of what is run.
    pub summary: ModelSummary,
    /// The signature that is run, if the file has any.
    pub signature: Option<Signature>,
    /// How it is run.
    pub plan: ModelPlan,
}

impl ModelFile {
    /// Describes the file; it is run as it is, until a signature and a plan are chosen.
    ///
    /// # Errors
    /// It is not a model.
    pub fn new(path: &Path, bytes: Vec<u8>, sha256: String) -> Result<Self, String> {
        let summary = ModelSummary::from_bytes(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes, sha256, summary, signature: None, plan: ModelPlan::of_batch(1) })
    }

    /// Chooses the signature that is run, by name or as [`plan::signature`] does.
    ///
    /// # Errors
    /// There is no such signature, or several could be meant.
    pub fn entered(self, name: Option<&str>) -> Result<Self, String> {
        let Some(signature) = plan::signature(&self.summary, name)?.cloned() else { return Ok(self) };
        // Without a signature every runtime runs the first subgraph.
        let summary = match signature.subgraph {
            0 => self.summary,
            index => self.summary.entered(&signature).ok_or_else(|| format!("the file has no subgraph {index}"))?,
        };
        Ok(Self { summary, signature: Some(signature), ..self })
    }

    /// Runs it by `plan`.
    pub fn planned(self, plan: ModelPlan) -> Self {
        Self { plan, ..self }
    }

    /// Returns the shape of the input for one window, if it is not the one that the file starts with; of several inputs,
    /// the shapes one after the other.
    pub fn chosen_shape(&self) -> Option<Vec<i32>> {
        let single = self.plan.single();
        let chosen = single.feeds().filter_map(|(input, dims)| {
            let input = self.summary.main.inputs.get(input)?;
            dims.filter(|dims| **dims != input.shape)
        });
        let chosen: Vec<i32> = chosen.flatten().copied().collect();
        (!chosen.is_empty()).then_some(chosen)
    }
}

/// Builds the engines of one pipeline.
pub struct EngineBuilder {
    pub context: EngineContext,
    pub model: ModelFile,
    /// The model that the reference runs, if it is not `model`.
    pub reference_model: Option<ModelFile>,
    /// The requested one, then those to fall back to, in order.
    pub delegates: Vec<Delegate>,
    /// The stream's shape after each step up to the model's input.
    pub path: ShapePath,
    pub parity: Parity,
    /// What the decision looks at.
    pub decided: DecidedOn,
    /// Windows of a recording to compare delegates on, if there is a recording.
    pub recorded: Option<Vec<f32>>,
    /// The SHA-256 of the models that run before this one, in order.
    pub chain: Vec<String>,
    /// Recorded when a delegate is first compared, and kept for the restarts of that delegate.
    pub reference: Mutex<Option<Arc<Reference>>>,
}

/// An engine, with the results of building it.
pub struct BuiltEngine {
    pub engine: Box<dyn Engine>,
    pub state: DelegateState,
    /// Index of its delegate in the pipeline's list. `None`: the reference, which runs until there are windows on which the
    /// delegate at `waiting` can be compared.
    pub place: Option<usize>,
    pub waiting: usize,
    /// The delegates before it in the list, and why they are not used.
    pub refusals: Vec<Refusal>,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    /// Time of one invocation, measured when the engine was tried or compared.
    pub invoke: Option<Duration>,
}

/// Why a delegate is not used.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub delegate: String,
    pub reason: String,
}

/// Why an engine could not be built.
pub enum BuildError {
    /// The delegate or its process failed. A later attempt may succeed.
    Failed(EngineError),
    /// It runs, but its outputs differ too much from the reference's.
    Disagrees(Agreement),
    /// There are no windows yet on which it can be compared.
    NoWindows,
}

impl BuildError {
    pub fn reason(&self) -> String {
        match self {
            Self::Failed(error) => error.to_string(),
            Self::Disagrees(agreement) => format!("its outputs differ from the reference's: {agreement}"),
            Self::NoWindows => "it cannot be compared with the reference yet, because there are no windows".into(),
        }
    }
}

impl From<EngineError> for BuildError {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// The limits of the process that runs the reference.
const REFERENCE_LIMITS: ProcessLimits = ProcessLimits {
    start: Duration::from_secs(60),
    deadline: Duration::from_secs(60),
    memory_bytes: 4 << 30,
    writable: Vec::new(),
};
pub const REFERENCE: DelegateKind = DelegateKind::Cpu(Cpu { threads: 1 });

impl EngineBuilder {
    /// Returns whether all its delegates come with the runtime.
    pub fn is_built_in(&self) -> bool {
        self.delegates.iter().all(|delegate| delegate.kind.kind().is_built_in())
    }

    /// Builds an engine with the first delegate that works.
    pub fn build_first(&self) -> Result<BuiltEngine, EngineError> {
        let (mut refusals, mut lacks) = (Vec::new(), false);
        for place in 0..self.delegates.len() {
            match self.build(place, None, &refusals) {
                Ok(built) => return Ok(built),
                Err(BuildError::NoWindows) => return self.build_reference(place, &refusals),
                // It would fail with every delegate.
                Err(BuildError::Failed(error @ EngineError::Window(_))) => return Err(error),
                Err(error) => {
                    lacks |= matches!(error, BuildError::Failed(EngineError::Machine(_)));
                    let delegate = self.delegates[place].name.clone();
                    refusals.push(Refusal { delegate, reason: error.reason() });
                }
            }
        }
        let reason = match refusals.as_slice() {
            [only] if self.is_built_in() => only.reason.clone(),
            _ => reasons(&refusals).unwrap_or_default(),
        };
        Err(if lacks { EngineError::Machine(reason) } else { EngineError::Refused(reason) })
    }

    /// Builds an engine with the delegate at `place`. It is compared with the reference on `windows`, if it has to be.
    pub fn build(
        &self,
        place: usize,
        windows: Option<Vec<f32>>,
        refusals: &[Refusal],
    ) -> Result<BuiltEngine, BuildError> {
        let delegate = &self.delegates[place];
        // Before windows are waited for: a library that cannot be loaded is known at once.
        // A linked runtime loads none, and says so.
        if !self.context.runtime.is_linked() {
            check_loadable(&delegate.name, delegate.kind.kind())?;
        }
        let reference = match self.is_compared(&delegate.kind) {
            true => Some(self.reference(windows)?),
            false => None,
        };
        let plan = &self.model.plan;
        let (mut engine, ready) = self.tried(place)?;
        let mut invoke = ready.invoke;
        let parity = match (reference, &self.parity.limits) {
            (Some(reference), Some(limits)) => {
                let start = Instant::now();
                let agreement = reference.compare(&mut *engine, limits)?;
                let batches = agreement.windows.div_ceil(plan.batch.max(1)).max(1);
                invoke = Some(start.elapsed() / u32::try_from(batches).unwrap_or(u32::MAX));
                if !agreement.is_enough() {
                    return Err(BuildError::Disagrees(agreement));
                }
                Some(agreement)
            }
            _ => None,
        };
        let warning = delegate.kind.kind().warning(&self.model.summary, &ready.proof);
        let mut warnings: Vec<String> = warning.into_iter().map(str::to_owned).collect();
        if parity.is_none() && !delegate.kind.kind().is_built_in() && self.parity.limits.is_some() {
            warnings.push(NOT_COMPARED.into());
        }
        let state = DelegateState {
            requested: self.requested(),
            active: delegate.name.clone(),
            reason: reasons(refusals),
            warnings,
            proof: DelegateProof {
                isolation: if delegate.process.is_some() { "process" } else { "thread" },
                library: ready.hello.delegate_library,
                library_version: ready.hello.delegate_version,
                engine: ready.proof,
                parity,
            },
        };
        let (inputs, outputs) = (ready.inputs, ready.outputs);
        let refusals = refusals.to_vec();
        Ok(BuiltEngine { engine, state, place: Some(place), waiting: place, refusals, inputs, outputs, invoke })
    }

    /// Tries the delegate at `place` in a separate process, and builds an engine with it.
    ///
    /// # Errors
    /// It cannot be built, or does not take what comes to the model.
    pub fn tried(&self, place: usize) -> Result<(Box<dyn Engine>, Ready), EngineError> {
        let ModelFile { path, bytes, plan, .. } = &self.model;
        let delegate = &self.delegates[place];
        let (engine, ready): (Box<dyn Engine>, Ready) = match &delegate.process {
            Some(limits) => {
                let (engine, ready) = self.context.launcher.start(path, bytes, &delegate.kind, limits, plan)?;
                (Box::new(engine), ready)
            }
            None => {
                let ready = self.context.launcher.probe(path, bytes, &delegate.kind, plan)?;
                (self.again(place)?, ready)
            }
        };
        check_input(&ready.inputs, plan.batch, &self.path)?;
        Ok((engine, ready))
    }

    /// Builds an engine with the delegate at `place`, which was tried before.
    ///
    /// # Errors
    /// It cannot be built this time.
    pub fn again(&self, place: usize) -> Result<Box<dyn Engine>, EngineError> {
        let ModelFile { path, bytes, plan, .. } = &self.model;
        let delegate = &self.delegates[place];
        match &delegate.process {
            Some(limits) => {
                let (engine, _) = self.context.launcher.start(path, bytes, &delegate.kind, limits, plan)?;
                Ok(Box::new(engine))
            }
            None => build_here(&self.context.runtime, path, bytes, &delegate.kind, plan),
        }
    }

    /// Builds an engine on this thread that tells the times of operators.
    ///
    /// # Errors
    /// It is not the runtime's interpreter that runs the model, or runtime and delegate cannot do it.
    pub fn profiled(&self, place: usize) -> Result<TfliteEngine, EngineError> {
        let ModelFile { path, bytes, plan, .. } = &self.model;
        let kind = &self.delegates[place].kind;
        if kind.kind().has_own_engine() {
            return Err(EngineError::Mismatch(
                "only TensorFlow Lite's interpreter reports the times of operators".into(),
            ));
        }
        TfliteEngine::profiled(&self.context.runtime, path, bytes, kind, plan)
    }

    /// Builds the reference, which runs until there are windows on which the delegate at `waiting` can be compared.
    pub fn build_reference(&self, waiting: usize, refusals: &[Refusal]) -> Result<BuiltEngine, EngineError> {
        let ModelFile { path, bytes, plan, .. } = self.reference_file();
        let ready = self.context.launcher.probe(path, bytes, &REFERENCE, plan)?;
        let engine = build_here(&self.context.runtime, path, bytes, &REFERENCE, plan)?;
        let windows = counted(self.parity.limits.map_or(0, |limits| limits.windows), "window");
        let name = &self.delegates[waiting].name;
        let wait = format!("{name}: waits for {windows} of the stream, to be compared with the reference first");
        let reason = reasons(refusals).map_or(wait.clone(), |reasons| format!("{reasons}; {wait}"));
        let state = DelegateState {
            requested: self.requested(),
            active: "cpu".into(),
            reason: Some(reason),
            warnings: Vec::new(),
            proof: DelegateProof {
                isolation: "thread",
                library: None,
                library_version: None,
                engine: ready.proof,
                parity: None,
            },
        };
        let (inputs, outputs, invoke) = (ready.inputs, ready.outputs, ready.invoke);
        Ok(BuiltEngine { engine, state, place: None, waiting, refusals: refusals.to_vec(), inputs, outputs, invoke })
    }

    /// Returns whether `other` would build the same engine, so that one which runs can stay.
    pub fn is_same(&self, other: &Self) -> bool {
        let file = |model: &ModelFile| (model.path.clone(), model.sha256.clone());
        file(&self.model) == file(&other.model)
            && self.model.plan == other.model.plan
            && self.chain == other.chain
            && self.reference_model.as_ref().map(file) == other.reference_model.as_ref().map(file)
            && (&self.delegates, &self.parity, self.decided) == (&other.delegates, &other.parity, other.decided)
    }

    /// Returns whether the two may need the same device. Most devices can be opened by one process only.
    pub fn shares_device_with(&self, other: &Self) -> bool {
        let libraries = |builder: &Self| -> Vec<PathBuf> {
            let libraries = builder.delegates.iter().filter_map(|delegate| delegate.kind.kind().library());
            libraries.map(Path::to_owned).collect()
        };
        let theirs = libraries(other);
        libraries(self).iter().any(|ours| theirs.contains(ours))
    }

    pub fn requested(&self) -> String {
        self.delegates.first().map_or_else(String::new, |delegate| delegate.name.clone())
    }

    /// Returns whether a delegate of that kind must be compared with the reference.
    pub fn is_compared(&self, kind: &DelegateKind) -> bool {
        self.parity.limits.is_some() && (self.parity.demanded || !kind.kind().is_built_in() && self.has_reference())
    }

    /// Returns the model that the reference runs.
    pub fn reference_file(&self) -> &ModelFile {
        self.reference_model.as_ref().unwrap_or(&self.model)
    }

    /// Returns whether there is a model that the runtime's own kernels can run.
    pub fn has_reference(&self) -> bool {
        self.reference_model.is_some() || foreign_operators(&self.model.summary).is_empty()
    }

    fn reference(&self, windows: Option<Vec<f32>>) -> Result<Arc<Reference>, BuildError> {
        let mut kept = self.reference.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reference) = &*kept {
            return Ok(reference.clone());
        }
        let windows = windows.or_else(|| self.recorded.clone()).ok_or(BuildError::NoWindows)?;
        let ModelFile { path, bytes, plan, .. } = self.reference_file();
        let (mut engine, _) =
            self.context.launcher.start(path, bytes, &REFERENCE, &REFERENCE_LIMITS, &plan.single())?;
        check_input(engine.inputs(), 1, &self.path)?;
        let reference = Arc::new(Reference::record(&mut engine, windows, self.decided)?);
        *kept = Some(reference.clone());
        Ok(reference)
    }
}

const NOT_COMPARED: &str = "its outputs were not compared with the reference's, because the runtime's own kernels cannot \
     run this model; set parity.reference_model to the model that it was compiled from";

/// Returns one text with the reasons of all refusals; `None` if there are none.
pub fn reasons(refusals: &[Refusal]) -> Option<String> {
    let reasons: Vec<String> = refusals.iter().map(|r| format!("{}: {}", r.delegate, r.reason)).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
/// Builds an engine in this process. The runtime writes to standard error by itself; that goes into the log.
fn build_here(
    runtime: &Runtime,
    path: &Path,
    bytes: &[u8],
    kind: &DelegateKind,
    plan: &ModelPlan,
) -> Result<Box<dyn Engine>, EngineError> {
    let work = || build(runtime, path, bytes, kind, plan);
    // A vendor's delegate may take minutes.
    if !kind.kind().is_built_in() {
        return work();
    }
    let (engine, lines) = stderr::captured(work);
    lines.iter().for_each(|line| tracing::info!("the runtime says: {line}"));
    // The same was just done in another process.
    let lacks = |error| EngineError::Machine(format!("{error}; another process could do it: is memory short?"));
    engine.map_err(lacks)
}
