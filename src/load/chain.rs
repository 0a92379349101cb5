//! Loads the models that run before a pipeline's own, and builds their stages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::engines::{EngineBuilder, EngineContext, ModelFile};
use super::{fit, metadata, read_pinned};
use crate::config::{ChainedModel, ChainedShapes, Key, Parity, Pipeline, Problem};
use crate::engine::TensorInfo;
use crate::engine::parity::DecidedOn;
use crate::engine::plan::{self, PlanKeys};
use crate::infer::chained::ModelStage;
use crate::publish::payload::DelegateState;
use crate::stream::Shape;
use crate::text::hex;

/// The models before the last one, ready to run.
#[derive(Default)]
pub(super) struct Chained {
    pub stages: Vec<ModelStage>,
    /// What runs them, a text for each.
    pub notes: Vec<String>,
    /// What the user may not want.
    pub warnings: Vec<String>,
    /// Their SHA-256.
    pub sha256: Vec<String>,
}

/// Builds the stages of the models that run before the pipeline's own.
///
/// # Errors
/// A model cannot be read or run, or does not give what the configuration says.
pub(super) fn build(context: &EngineContext, pipeline: &Pipeline) -> Result<Chained, Problem> {
    let mut chained = Chained::default();
    if pipeline.models.is_empty() {
        return Ok(chained);
    }
    let shapes = fit::shapes(pipeline)?.models;
    for (index, (model, shapes)) in pipeline.models.iter().zip(shapes).enumerate() {
        let key = pipeline.key().child("models").child(index);
        let (bytes, sha256) = read_pinned(&model.path, model.sha256.as_deref(), &key)?;
        let file = ModelFile::new(&model.path, bytes, sha256).and_then(|file| file.entered(None));
        let file = file.map_err(|error| Problem::new(key.child("path"), error))?;
        chained.sha256.push(file.sha256.clone());
        chained.warnings.extend(metadata::of_chained(index, model, &file));
        let (stage, state) = build_one(context, model, file, shapes, &key)?;
        chained.notes.push(format!("models.{index}: {}: {state}", model.path.display()));
        chained.stages.push(stage);
    }
    Ok(chained)
}

/// Returns the stages without their engines: they give as many frames, each of them 0.
pub(super) fn without_engines(pipeline: &Pipeline, shapes: Vec<ChainedShapes>) -> Vec<ModelStage> {
    let stage = |(model, shapes): (&ChainedModel, ChainedShapes)| {
        ModelStage::new(model.cut, shapes.frame_values, shapes.features, model.output.values(), None)
    };
    pipeline.models.iter().zip(shapes).map(stage).collect()
}

fn build_one(
    context: &EngineContext,
    model: &ChainedModel,
    file: ModelFile,
    shapes: ChainedShapes,
    key: &Key,
) -> Result<(ModelStage, DelegateState), Problem> {
    let at = |name: &str| key.child(name);
    let count = file.summary.main.inputs.len();
    if count != 1 {
        let why = format!("{} has {count} inputs; a model before the last one must have one", model.path.display());
        return Err(Problem::new(at("path"), why));
    }
    let (states, inputs) = (BTreeMap::new(), BTreeMap::new());
    let keys = PlanKeys { states: &states, inputs: &inputs, channels: &[], batch: 1 };
    let fitted = plan::plan(&file.summary, file.signature.as_ref(), &keys, &shapes.path);
    let fitted = fitted.map_err(|unfit| Problem::new(at("window"), unfit.into_message()))?;
    if fitted.transposed {
        let why = "the model wants the channels first; add the feature transpose";
        return Err(Problem::new(at("features"), why));
    }
    if model.cut.hop != model.cut.samples && fitted.plan.is_stateful(&file.summary) {
        let why =
            format!("the model keeps a state, so each frame must go through it once: set hop = {}", model.cut.samples);
        return Err(Problem::new(at("window").child("hop"), why));
    }
    let builder = EngineBuilder {
        context: context.clone(),
        model: file.planned(fitted.plan),
        reference_model: None,
        delegates: vec![model.delegate.clone()],
        path: shapes.path,
        parity: Parity { limits: None, demanded: false, recording: None, reference_model: None },
        decided: DecidedOn { output: 0, boundary: None },
        recorded: None,
        chain: Vec::new(),
        reference: Mutex::default(),
    };
    let built = builder.build_first().map_err(|error| super::of_engine(at("path"), &error))?;
    check_output(&model.output, &model.path, &built.outputs).map_err(|why| Problem::new(at("output"), why))?;
    let values = model.output.values();
    let stage = ModelStage::new(model.cut, shapes.frame_values, shapes.features, values, Some(built.engine));
    Ok((stage, built.state))
}

/// Checks that the model gives frames of the declared shape.
fn check_output(declared: &Shape, path: &Path, outputs: &[TensorInfo]) -> Result<(), String> {
    let Some(output) = outputs.first() else { return Err(format!("{} has no output", path.display())) };
    let dims: Vec<usize> = output.shape.iter().copied().filter(|dim| *dim != 1).collect();
    let is_same = match (declared.dims(), dims.as_slice()) {
        // Frames of one value, and one frame of several.
        ([frames, 1], [only]) | ([1, frames], [only]) | ([frames], [only]) => frames == only,
        ([1] | [1, 1], []) => true,
        (declared, dims) => declared == dims,
    };
    if is_same {
        return Ok(());
    }
    let whole = Shape::new(output.shape.clone());
    Err(match dims.len() {
        0..=2 => {
            let right = if dims.is_empty() { vec![1] } else { dims };
            format!("{} gives {whole} for a window; write output = {right:?}", path.display())
        }
        _ => format!("{} gives {whole} for a window; a chain takes frames of one dimension", path.display()),
    })
}

/// Returns the digest of what the features of the last model depend on: the configuration's keys, and the models of the
/// chain, whose digests are `chain`.
pub(super) fn features_digest(pipeline: &Pipeline, chain: &[String]) -> String {
    let mut digest = Sha256::new();
    digest.update(pipeline.feature_keys());
    chain.iter().for_each(|sha256| digest.update(sha256));
    hex(&digest.finalize())
}
