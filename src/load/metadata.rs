//! What a pipeline takes from the metadata of its model where the configuration has none: the normalisation of the input.

use super::engines::ModelFile;
use super::fit;
use crate::config::{ChainedModel, Pipeline};
use crate::features::Feature;
use crate::model::Normalization;
use crate::text::counted;

/// Most values of a mean that are shown.
const SHOWN: usize = 8;

/// What the metadata of a model means for its pipeline.
#[derive(Debug, Default)]
pub(crate) struct FromMetadata {
    /// The feature that normalises the model's input.
    pub feature: Option<Feature>,
    /// What is said of it if it fits.
    pub done: Option<String>,
    /// What is used, or not, and why; for `check` and the log.
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

/// Returns what the metadata of `model` means for `pipeline`.
pub(crate) fn of(pipeline: &Pipeline, model: &ModelFile) -> FromMetadata {
    let metadata = &model.summary.model_metadata;
    let mut result = FromMetadata { warnings: metadata.problems.clone(), ..FromMetadata::default() };
    // The configuration tells which inputs hold a state; if it is wrong, the plan says so.
    let fed = fit::fed(pipeline, model).and_then(|fed| metadata.inputs.get(fed));
    let wanted = fed.and_then(|input| input.normalization.as_ref()).filter(|wanted| !wanted.is_identity());
    if let Some(wanted @ Normalization { mean, std }) = wanted {
        let asks = asks(mean, std);
        if !pipeline.model_metadata {
            result.notes.push(format!("{asks}, which is not done, because model.metadata = false"));
        } else if let Some(own) = pipeline.features.iter().find(|feature| feature.sets_range()) {
            result.notes.push(format!("{asks}, which is not done, because there is features.{}", own.name()));
        } else if !wanted.is_usable() {
            result.warnings.push(format!("{asks}, which cannot be done; set features"));
        } else {
            result.done = Some(format!("{asks}: done as features.standardize; model.metadata = false turns it off"));
            result.feature = Some(Feature::standardize(mean.clone(), std.clone()));
        }
    }
    let output = metadata.outputs.get(pipeline.decision.kind().output());
    if let Some(threshold) = output.and_then(|output| output.score_threshold) {
        result
            .notes
            .push(format!("the model's metadata suggests a threshold of {threshold}, which is not used by itself"));
    }
    result
}

/// Returns a warning if the metadata of a model of a chain asks for a normalisation, which is not done by itself there.
pub(super) fn of_chained(index: usize, chained: &ChainedModel, model: &ModelFile) -> Option<String> {
    let input = model.summary.model_metadata.inputs.first()?;
    let Normalization { mean, std } = input.normalization.as_ref().filter(|wanted| !wanted.is_identity())?;
    (!chained.features.iter().any(Feature::sets_range)).then(|| {
        let asks = asks(mean, std);
        format!(
            "models.{index}: {asks}, which is not done by itself in a chain; write it into its features, as standardize"
        )
    })
}

fn asks(mean: &[f32], std: &[f32]) -> String {
    format!("the model's metadata asks for (x - mean) / std with mean {} and std {}", few(mean), few(std))
}

/// Returns the first few values in words.
fn few(values: &[f32]) -> String {
    match values.get(..SHOWN) {
        Some(first) if values.len() > SHOWN => format!("{first:?} and {}", counted(values.len() - SHOWN, "other")),
        _ => format!("{values:?}"),
    }
}
