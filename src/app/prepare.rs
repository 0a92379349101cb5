//! Everything that can be known before running: files, the runtime, models, shapes, labels.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::{Config, Decision as DecisionConfig, DelegateKind, Feature, Key, Pipeline, Problem};
use crate::decision::Decider;
use crate::engine::{self, Engine, EngineError, Runtime, TfliteEngine, probe};
use crate::features::{Affine, Chain, Detrend, Transform};
use crate::model::{self, ModelSummary};
use crate::pipeline::Stages;
use crate::publish::payload::DelegateState;
use crate::publish::publisher::Vocabulary;
use crate::source;
use crate::window::Windower;

/// Windows in one invocation.
const BATCH: usize = 1;

/// A configuration with everything loaded that it names.
pub struct Prepared {
    pub runtime: Runtime,
    pub pipelines: Vec<PreparedPipeline>,
}

pub struct PreparedPipeline {
    pub stages: Stages,
    /// The classes, where the decision is one.
    pub labels: Vec<String>,
    pub model_sha256: String,
    pub delegate: DelegateState,
}

impl PreparedPipeline {
    /// What its verdicts are called.
    pub fn vocabulary(&self, config: &Pipeline) -> Vocabulary {
        match &config.decision {
            DecisionConfig::Classify(_) => Vocabulary::Labels(self.labels.clone()),
            DecisionConfig::Regress(regress) => Vocabulary::Values(regress.names.clone()),
            DecisionConfig::Raw => Vocabulary::Outputs(self.stages.engine.outputs().iter().map(|o| o.len()).collect()),
        }
    }
}

/// Loads and checks it all; every problem is found, not only the first.
///
/// With `program`, this very binary, each model is tried in a process of its own first, so that one which makes the
/// runtime crash is a problem like any other.
pub fn prepare(config: &Config, program: Option<&Path>) -> Result<Prepared, Vec<Problem>> {
    let runtime = Runtime::load(config.runtime_library.as_deref())
        .map_err(|e| vec![Problem::new(Key::new(&["runtime", "library"]), e)])?;
    let mut problems = Vec::new();
    let mut pipelines = Vec::new();
    for pipeline in &config.pipelines {
        if let Err(error) = source::check(&pipeline.source) {
            problems.push(Problem::new(pipeline.key().child("source"), error));
        }
        match prepare_pipeline(&runtime, program, pipeline) {
            Ok(prepared) => pipelines.push(prepared),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(Prepared { runtime, pipelines }) } else { Err(problems) }
}

fn prepare_pipeline(
    runtime: &Runtime,
    program: Option<&Path>,
    pipeline: &Pipeline,
) -> Result<PreparedPipeline, Problem> {
    let key = pipeline.key();
    let path_key = key.child("model").child("path");
    let at_path = |e: EngineError| Problem::new(path_key.clone(), e);

    let bytes = model::read_file(&pipeline.model)
        .map_err(|e| Problem::new(path_key.clone(), format!("cannot read {}: {e}", pipeline.model.display())))?;
    let model_sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(pinned) = pipeline.model_sha256.as_ref().filter(|pinned| **pinned != model_sha256) {
        let message = format!("{} has the SHA-256 {model_sha256}, not {pinned}", pipeline.model.display());
        return Err(Problem::new(key.child("model").child("sha256"), message));
    }
    let summary = ModelSummary::from_bytes(&bytes)
        .map_err(|e| Problem::new(path_key.clone(), format!("{}: {e}", pipeline.model.display())))?;
    let (engine, delegate) = first_engine(runtime, program, pipeline, &bytes).map_err(at_path)?;
    let channels = pipeline.source.records.channels.len();
    let window = pipeline.window;
    engine::check_window(&engine.inputs()[0], BATCH, window.samples, channels)
        .map_err(|e| Problem::new(key.child("window"), e))?;
    let labels = match (&pipeline.labels, &pipeline.decision) {
        (Some(path), _) => read_labels(path).map_err(|e| Problem::new(key.child("model").child("labels"), e))?,
        (None, DecisionConfig::Classify(_)) => {
            return Err(Problem::new(key.child("model"), "classify needs labels = \"FILE\", one label a line"));
        }
        (None, _) => Vec::new(),
    };
    let decider = Decider::new(&pipeline.decision, engine.outputs(), &labels, &ends_in_probabilities(&summary))
        .map_err(|e| Problem::new(key.child("decision"), e))?;
    let transforms = pipeline.features.iter().map(|feature| transform(feature, window.samples, channels));
    let stages = Stages {
        windower: Windower::new(window.samples, window.hop, channels, window.max_gap),
        features: Chain::new(transforms),
        engine: Box::new(engine),
        decider,
    };
    Ok(PreparedPipeline { stages, labels, model_sha256, delegate })
}

/// The engine with the first delegate that works, of the one asked for and those to fall back to.
fn first_engine(
    runtime: &Runtime,
    program: Option<&Path>,
    pipeline: &Pipeline,
    bytes: &[u8],
) -> Result<(TfliteEngine, DelegateState), EngineError> {
    let requested = pipeline.delegates.first().map_or_else(String::new, |delegate| delegate.name.clone());
    let mut refusals: Vec<(&str, EngineError)> = Vec::new();
    for delegate in &pipeline.delegates {
        match engine_with(runtime, program, &pipeline.model, bytes, &delegate.kind) {
            Ok(engine) => {
                let reason = reasons(&refusals);
                let state = DelegateState { requested, active: delegate.name.clone(), reason };
                return Ok((engine, state));
            }
            Err(error) => refusals.push((&delegate.name, error)),
        }
    }
    match refusals.len() {
        1 => Err(refusals.remove(0).1),
        _ => Err(EngineError::Refused(reasons(&refusals).unwrap_or_default())),
    }
}

/// Why each delegate that was tried is not used.
fn reasons(refusals: &[(&str, EngineError)]) -> Option<String> {
    let told: Vec<String> = refusals.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn engine_with(
    runtime: &Runtime,
    program: Option<&Path>,
    model: &Path,
    bytes: &[u8],
    delegate: &DelegateKind,
) -> Result<TfliteEngine, EngineError> {
    if let Some(program) = program {
        let (library, model) = (runtime.path.clone(), model.to_owned());
        probe::probe(program, &probe::Task { library, model, delegate: delegate.clone(), batch: BATCH }, bytes)?;
    }
    TfliteEngine::new(runtime, model, bytes, delegate, BATCH)
}

/// For each output, whether the model's own last operator makes probabilities of its scores.
fn ends_in_probabilities(summary: &ModelSummary) -> Vec<bool> {
    let operators = summary.main.outputs.iter().map(|output| output.computed_by.as_deref());
    operators.map(|operator| matches!(operator, Some("SOFTMAX" | "LOGISTIC"))).collect()
}

fn transform(feature: &Feature, samples: usize, channels: usize) -> Transform {
    match feature {
        Feature::Standardize { mean, std } => Transform::Affine(Affine::standardize(samples, mean, std)),
        Feature::Scale { factor, offset } => Transform::Affine(Affine::scale(samples, factor, offset)),
        Feature::Detrend => Transform::Detrend(Detrend::new(samples, channels)),
    }
}

/// One label a line; empty lines at the end do not count.
fn read_labels(path: &Path) -> Result<Vec<String>, String> {
    let bytes = model::read_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|e| format!("{}: not UTF-8 text: {e}", path.display()))?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    match labels.iter().position(String::is_empty) {
        Some(line) => Err(format!("{}:{}: a label is empty", path.display(), line + 1)),
        None if labels.len() > usize::from(u16::MAX) => Err(format!("{} labels are too many", labels.len())),
        None => match labels.iter().enumerate().find(|(line, label)| labels[..*line].contains(label)) {
            Some((line, label)) => Err(format!("{}:{}: `{label}` is there twice", path.display(), line + 1)),
            None => Ok(labels),
        },
    }
}
