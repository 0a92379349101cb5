//! How a pipeline gets its engine: each delegate in turn is tried, proven, and compared with the reference.
//!
//! Owns the order of delegates and what is known of each attempt. When to try again is `running`'s business. Building
//! blocks for seconds, so it happens on the main thread before the start and on blocking threads after it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Delegate, Parity};
use crate::engine::delegate::cpu::Cpu;
use crate::engine::parity::{Agreement, Reference};
use crate::engine::process::{Launcher, ProcessLimits, Ready};
use crate::engine::{DelegateKind, Engine, EngineError, Runtime, TensorInfo, build, check_input, foreign_operators};
use crate::model::ModelSummary;
use crate::publish::payload::{DelegateProof, DelegateState};
use crate::stream::ShapePath;

/// What every engine of a daemon is made with.
#[derive(Clone)]
pub struct Tools {
    pub runtime: Runtime,
    pub launcher: Arc<Launcher>,
}

/// A model file as it was read.
#[derive(Debug, PartialEq)]
pub struct ModelFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub sha256: String,
    pub summary: ModelSummary,
}

impl ModelFile {
    pub fn new(path: &Path, bytes: Vec<u8>, sha256: String) -> Result<Self, String> {
        let summary = ModelSummary::from_bytes(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes, sha256, summary })
    }
}

/// Makes the engines of one pipeline.
pub struct EngineBuilder {
    pub tools: Tools,
    pub model: ModelFile,
    /// What the reference runs, where it is not the same.
    pub reference_model: Option<ModelFile>,
    /// The one that was asked for, then those to fall back to.
    pub delegates: Vec<Delegate>,
    pub batch: usize,
    /// The way of the stream's shape to the model's input.
    pub path: ShapePath,
    pub parity: Parity,
    /// The output that is decided on.
    pub decided: usize,
    /// Windows of a recording to compare on, where there is one.
    pub recorded: Option<Vec<f32>>,
    /// BuiltEngine when a delegate is first compared, and kept for its restarts.
    pub reference: Mutex<Option<Arc<Reference>>>,
}

/// An engine, and all that is known of how it came to be.
pub struct BuiltEngine {
    pub engine: Box<dyn Engine>,
    pub state: DelegateState,
    /// Its delegate among the pipeline's; `None` is the reference, which runs until there are windows to compare
    /// the first of `waiting` on.
    pub place: Option<usize>,
    pub waiting: usize,
    /// Why the delegates before it are not used.
    pub refusals: Vec<Refusal>,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    /// How long one invocation took when it was tried out or compared.
    pub invoke: Option<Duration>,
}

/// Why a delegate is not used.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub delegate: String,
    pub reason: String,
}

/// An attempt that led to no engine.
pub enum BuildError {
    /// Starting it again may help.
    Failed(EngineError),
    /// It works, and it answers wrongly.
    Disagrees(Agreement),
    /// There are no windows to compare it on yet.
    NoWindows,
}

impl BuildError {
    pub fn reason(&self) -> String {
        match self {
            Self::Failed(error) => error.to_string(),
            Self::Disagrees(agreement) => format!("it does not answer as the reference does: {agreement}"),
            Self::NoWindows => "there are no windows yet to compare it on".into(),
        }
    }
}

impl From<EngineError> for BuildError {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// What the reference's own process may take.
const REFERENCE_LIMITS: ProcessLimits = ProcessLimits {
    start: Duration::from_secs(60),
    deadline: Duration::from_secs(60),
    memory_bytes: 4 << 30,
    writable: Vec::new(),
};
pub const REFERENCE: DelegateKind = DelegateKind::Cpu(Cpu { threads: 1 });

impl EngineBuilder {
    /// The first delegate that works.
    pub fn build_first(&self) -> Result<BuiltEngine, EngineError> {
        let mut refusals = Vec::new();
        for place in 0..self.delegates.len() {
            match self.build(place, None, &refusals) {
                Ok(built) => return Ok(built),
                Err(BuildError::NoWindows) => return self.build_reference(place, &refusals),
                // No delegate will change that.
                Err(BuildError::Failed(error @ EngineError::Window(_))) => return Err(error),
                Err(unmade) => {
                    let delegate = self.delegates[place].name.clone();
                    refusals.push(Refusal { delegate, reason: unmade.reason() });
                }
            }
        }
        let built_in = self.delegates.iter().all(|delegate| delegate.kind.kind().is_built_in());
        Err(EngineError::Refused(match refusals.as_slice() {
            [only] if built_in => only.reason.clone(),
            _ => reasons(&refusals).unwrap_or_default(),
        }))
    }

    /// An engine with the delegate at `place`, if it can be had.
    pub fn build(
        &self,
        place: usize,
        windows: Option<Vec<f32>>,
        refusals: &[Refusal],
    ) -> Result<BuiltEngine, BuildError> {
        let delegate = &self.delegates[place];
        let reference = match self.is_compared(&delegate.kind) {
            true => Some(self.reference(windows)?),
            false => None,
        };
        let ModelFile { path, bytes, .. } = &self.model;
        let (mut engine, ready): (Box<dyn Engine>, Ready) = match &delegate.process {
            Some(limits) => {
                let (engine, ready) = self.tools.launcher.start(path, bytes, &delegate.kind, limits, self.batch)?;
                (Box::new(engine), ready)
            }
            None => {
                let ready = self.tools.launcher.probe(path, bytes, &delegate.kind, self.batch)?;
                (build(&self.tools.runtime, path, bytes, &delegate.kind, self.batch)?, ready)
            }
        };
        check_input(&ready.inputs[0], self.batch, &self.path)?;
        let mut invoke = ready.invoke;
        let parity = match (reference, &self.parity.limits) {
            (Some(reference), Some(limits)) => {
                let start = Instant::now();
                let agreement = reference.compare(&mut *engine, limits)?;
                let batches = agreement.windows.div_ceil(self.batch.max(1)).max(1);
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

    /// The reference itself, which runs until there are windows to compare the delegate at `waiting` on.
    pub fn build_reference(&self, waiting: usize, refusals: &[Refusal]) -> Result<BuiltEngine, EngineError> {
        let ModelFile { path, bytes, .. } = self.reference_file();
        let ready = self.tools.launcher.probe(path, bytes, &REFERENCE, self.batch)?;
        let engine = build(&self.tools.runtime, path, bytes, &REFERENCE, self.batch)?;
        let windows = self.parity.limits.map_or(0, |limits| limits.windows);
        let name = &self.delegates[waiting].name;
        let wait =
            format!("{name}: is compared with the reference first, as soon as the stream has given {windows} windows");
        let told = reasons(refusals).map_or(wait.clone(), |reasons| format!("{reasons}; {wait}"));
        let state = DelegateState {
            requested: self.requested(),
            active: "cpu".into(),
            reason: Some(told),
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

    /// Whether an engine that this one has made can go on for `other`, which would make the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let file = |model: &ModelFile| (model.path.clone(), model.sha256.clone());
        file(&self.model) == file(&other.model)
            && self.reference_model.as_ref().map(file) == other.reference_model.as_ref().map(file)
            && (&self.delegates, self.batch, &self.parity, self.decided)
                == (&other.delegates, other.batch, &other.parity, other.decided)
    }

    /// Whether the two would want the same device at the same time, which most let only one process open.
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

    /// Whether a delegate of that kind has to agree with the reference.
    pub fn is_compared(&self, kind: &DelegateKind) -> bool {
        self.parity.limits.is_some() && (self.parity.demanded || !kind.kind().is_built_in() && self.has_reference())
    }

    /// What the reference runs.
    pub fn reference_file(&self) -> &ModelFile {
        self.reference_model.as_ref().unwrap_or(&self.model)
    }

    /// Whether the runtime's own kernels can run the model, or one in its place is named.
    pub fn has_reference(&self) -> bool {
        self.reference_model.is_some() || foreign_operators(&self.model.summary).is_empty()
    }

    fn reference(&self, windows: Option<Vec<f32>>) -> Result<Arc<Reference>, BuildError> {
        let mut kept = self.reference.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reference) = &*kept {
            return Ok(reference.clone());
        }
        let windows = windows.or_else(|| self.recorded.clone()).ok_or(BuildError::NoWindows)?;
        let ModelFile { path, bytes, .. } = self.reference_file();
        let (mut engine, _) = self.tools.launcher.start(path, bytes, &REFERENCE, &REFERENCE_LIMITS, 1)?;
        check_input(&engine.inputs()[0], 1, &self.path)?;
        let reference = Arc::new(Reference::record(&mut engine, windows, self.decided)?);
        *kept = Some(reference.clone());
        Ok(reference)
    }
}

const NOT_COMPARED: &str = "its answers were not compared with the reference's: the runtime's own kernels cannot run \
     this model; name the one that it was made from in parity.reference_model";

/// Why each delegate that was tried is not used.
pub fn reasons(refusals: &[Refusal]) -> Option<String> {
    let told: Vec<String> = refusals.iter().map(|r| format!("{}: {}", r.delegate, r.reason)).collect();
    (!told.is_empty()).then(|| told.join("; "))
}
