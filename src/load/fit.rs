//! Fits a model to the stream of its pipeline: how it is run, and what is added to the features for it.

use std::borrow::Cow;

use super::engines::ModelFile;
use crate::config::{Pipeline, Problem, Shapes};
use crate::engine::plan::{self, PlanKeys, Unfit};
use crate::features::Feature;
use crate::features::transpose::Transpose;
use crate::stream::{Shape, ShapePath};

/// A model with the stages that give it what it takes.
pub(super) struct Fitted {
    /// Those of the pipeline, with features added where the model needs them.
    pub shapes: Shapes,
    pub model: ModelFile,
    /// Why the normalisation is left out.
    pub warning: Option<String>,
}

/// Fits the pipeline's model, whose metadata asks for the feature `normalization`. It is left out with a warning where it
/// does not fit.
///
/// # Errors
/// The model does not take what the pipeline gives it.
pub(super) fn model(pipeline: &Pipeline, normalization: Option<Feature>, model: ModelFile) -> Result<Fitted, Problem> {
    let key = pipeline.key();
    let name = &pipeline.name;
    let (mut pipeline, warning) = normalized(pipeline, normalization);
    let Shapes { path, stream, .. } = shapes(&pipeline)?;
    let fitted = plan::plan(&model.summary, model.signature.as_ref(), &keys(&pipeline, &stream.names), &path);
    let fitted = fitted.map_err(|unfit| match unfit {
        Unfit::State(message) => Problem::new(key.child("model").child("state"), message),
        Unfit::Inputs(message) => Problem::new(key.child("model").child("inputs"), message),
        Unfit::Window(message) => Problem::new(key.child("window"), message),
        Unfit::Batch(message) => Problem::new(key.child("batch").child("max"), message),
    })?;
    let (samples, hop) = (pipeline.window.samples, pipeline.window.hop);
    if hop != samples && fitted.plan.is_stateful(&model.summary) {
        let why = format!(
            "hop = {hop}, and a window has {samples} samples; the model keeps a state from one window to the next, so each \
             sample must go through it once: set hop = {samples}"
        );
        return Err(Problem::new(key.child("window").child("hop"), why));
    }
    if let Some(signature) = &fitted.plan.signature {
        tracing::info!(pipeline = name, "the model's signature `{}` is run", signature.escape_debug());
    }
    if fitted.transposed {
        tracing::info!(pipeline = name, "the model wants the channels first: windows are transposed");
        pipeline.to_mut().features.push(Feature::Transpose(Transpose {}));
    }
    let mut shapes = shapes(&pipeline)?;
    if let Some(places) = fitted.places {
        let (values, window) = (places.len(), shapes.path.last().clone());
        shapes.features.pick(places, &window);
        shapes.path.then("model.inputs", Shape::new([values]));
    }
    Ok(Fitted { shapes, model: model.planned(fitted.plan), warning })
}

/// Returns the index of the input that gets the windows, if it is clear which one that is.
pub(super) fn fed(pipeline: &Pipeline, model: &ModelFile) -> Option<usize> {
    plan::fed_input(&model.summary, model.signature.as_ref(), &keys(pipeline, &[]))
}

/// Fits the model that the reference runs, which gets what the pipeline's model gets: what comes along `path`.
///
/// # Errors
/// It does not take that.
pub(super) fn reference(pipeline: &Pipeline, model: ModelFile, path: &ShapePath) -> Result<ModelFile, String> {
    // A compiler for a device may leave only one of the signatures.
    let signatures = &model.summary.signatures;
    if !pipeline.inputs.is_empty() {
        return Err("a model with several inputs is compared with itself only; leave reference_model out".into());
    }
    let wanted = pipeline.signature.as_deref().filter(|name| signatures.iter().any(|own| own.name == *name));
    let model = model.entered(wanted)?;
    let fitted = plan::plan(&model.summary, model.signature.as_ref(), &keys(pipeline, &[]), path);
    let fitted = fitted.map_err(Unfit::into_message)?;
    if fitted.transposed {
        return Err(format!("{} wants its channels in another place than the pipeline's model", model.path.display()));
    }
    Ok(model.planned(fitted.plan))
}

/// Returns the pipeline with `feature`, and why it is left out if it does not fit.
fn normalized(pipeline: &Pipeline, feature: Option<Feature>) -> (Cow<'_, Pipeline>, Option<String>) {
    let Some(feature) = feature else { return (Cow::Borrowed(pipeline), None) };
    let mut with = pipeline.clone();
    with.features.push(feature);
    match with.shapes() {
        Ok(_) => (Cow::Owned(with), None),
        Err((_, message)) => {
            let warning = format!("the normalisation of the model's metadata is not done: {message}");
            (Cow::Borrowed(pipeline), Some(warning))
        }
    }
}

pub(super) fn shapes(pipeline: &Pipeline) -> Result<Shapes, Problem> {
    pipeline.shapes().map_err(|(key, message)| Problem::new(key, message))
}

fn keys<'a>(pipeline: &'a Pipeline, channels: &'a [String]) -> PlanKeys<'a> {
    PlanKeys { states: &pipeline.states, inputs: &pipeline.inputs, channels, batch: pipeline.batch.max }
}
