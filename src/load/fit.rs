//! Fits a model to the stream of its pipeline: how it is run, and what is added to the features for it.

use std::borrow::Cow;

use super::File;
use super::engines::ModelFile;
use crate::config::{Pipeline, Problem, Shapes};
use crate::engine::ModelPlan;
use crate::engine::plan::{self, PlanKeys, Unfit};
use crate::features::Feature;
use crate::features::transpose::Transpose;
use crate::model::ModelSummary;
use crate::stream::ShapePath;

/// A model with a pipeline that gives it what it takes.
pub(super) struct Fitted<'a> {
    /// The configured pipeline, with features added where the model needs them.
    pub pipeline: Cow<'a, Pipeline>,
    pub model: ModelFile,
}

impl Fitted<'_> {
    /// Follows the stream's shape from the source to the model's input.
    pub(super) fn shapes(&self) -> Result<Shapes, Problem> {
        shapes(&self.pipeline)
    }
}

fn shapes(pipeline: &Pipeline) -> Result<Shapes, Problem> {
    pipeline.shapes().map_err(|(key, message)| Problem::new(key, message))
}

/// Fits the pipeline's model.
///
/// # Errors
/// The model cannot be read, or does not take what the pipeline gives it.
pub(super) fn model(pipeline: &Pipeline, file: File) -> Result<Fitted<'_>, Problem> {
    let key = pipeline.key();
    let at_path = |e| Problem::new(key.child("model").child("path"), e);
    let summary = summary(&file).map_err(at_path)?;
    let path = shapes(pipeline)?.path;
    let fitted = plan::plan(&summary, &keys(pipeline, pipeline.batch.max), &path).map_err(|unfit| match unfit {
        Unfit::Signature(message) => Problem::new(key.child("model").child("signature"), message),
        Unfit::State(message) => Problem::new(key.child("model").child("state"), message),
        Unfit::Window(message) => Problem::new(key.child("window"), message),
        Unfit::Batch(message) => Problem::new(key.child("batch").child("max"), message),
    })?;
    let mut pipeline = Cow::Borrowed(pipeline);
    if let Some(signature) = &fitted.plan.signature {
        tracing::info!(pipeline = pipeline.name, "the model's signature `{}` is run", signature.escape_debug());
    }
    if fitted.transposed {
        tracing::info!(pipeline = pipeline.name, "the model wants the channels first: windows are transposed");
        pipeline.to_mut().features.push(Feature::Transpose(Transpose {}));
    }
    let model = planned(file, summary, fitted.plan).map_err(at_path)?;
    Ok(Fitted { pipeline, model })
}

/// Fits the model that the reference runs, which gets what the pipeline's model gets: what comes along `path`.
///
/// # Errors
/// It does not take that, or cannot be read.
pub(super) fn reference(pipeline: &Pipeline, file: File, path: &ShapePath) -> Result<ModelFile, String> {
    let summary = summary(&file)?;
    let mut keys = keys(pipeline, pipeline.batch.max);
    // A compiler for a device may leave only one of the signatures.
    keys.signature = keys.signature.filter(|name| summary.signatures.iter().any(|signature| signature.name == *name));
    let fitted = plan::plan(&summary, &keys, path).map_err(Unfit::into_message)?;
    if fitted.transposed {
        return Err(format!("{} wants its channels in another place than the pipeline's model", file.path.display()));
    }
    planned(file, summary, fitted.plan)
}

fn keys(pipeline: &Pipeline, batch: usize) -> PlanKeys<'_> {
    PlanKeys { signature: pipeline.signature.as_deref(), states: &pipeline.states, batch }
}

fn summary(file: &File) -> Result<ModelSummary, String> {
    ModelSummary::from_bytes(&file.bytes).map_err(|e| format!("{}: {e}", file.path.display()))
}

fn planned(file: File, summary: ModelSummary, plan: ModelPlan) -> Result<ModelFile, String> {
    let File { path, bytes, sha256 } = file;
    let summary = plan.entered(summary).map_err(|e| e.to_string())?;
    let single = plan.single();
    Ok(ModelFile { path, bytes, sha256, summary, plan, single })
}
