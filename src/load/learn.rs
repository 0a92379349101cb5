//! Runs a recording of normal data through a pipeline, for `edgewatt learn`: what scores does its decision give?

use std::path::Path;

use super::PreparedPipeline;
use super::recording::{self, PlayedStages, PlayedWindow};
use crate::config::Pipeline;
use crate::decision::EngineOutputs;

/// The scores of a recording.
#[derive(Debug, Default)]
pub struct RecordedScores {
    /// The scores, from the lowest to the highest.
    pub sorted: Vec<f32>,
    /// Windows without a score, because the model gave no numbers.
    pub faults: usize,
    /// What the recording has, and what is wrong with it.
    pub says: String,
    pub warnings: Vec<String>,
}

/// Runs the recording at `path` through the pipeline's stages, window by window.
///
/// # Errors
/// The recording cannot be read, has no window with a score, or the engine fails.
pub fn scores(path: &Path, pipeline: &Pipeline, prepared: &mut PreparedPipeline) -> Result<RecordedScores, String> {
    let Some(built) = &mut prepared.built else { return Err("the pipeline has no engine".to_owned()) };
    let (engine, decider) = (&mut built.engine, &mut prepared.stages.decider);
    let models = prepared.stages.input.take_models();
    let features = &mut prepared.stages.features;
    let mut values = Vec::with_capacity(decider.most_values());
    let mut found = RecordedScores::default();
    let survey = recording::play(path, pipeline, &[], PlayedStages::ModelsAndGate(models), usize::MAX, |window| {
        let PlayedWindow { values: window, last, after_gap } = window;
        let failed = |error: crate::engine::EngineError| error.to_string();
        if after_gap {
            engine.reset().map_err(failed)?;
            decider.reset();
        }
        let features = features.apply(window);
        // With a batch, the other rows stay as they are; the engine was checked not to mix them.
        engine.set_input(0, features).map_err(failed)?;
        engine.invoke().map_err(failed)?;
        let mut outputs = EngineOutputs { engine: engine.as_mut(), row: 0, features, time_ns: last.time_ns() };
        let verdict = decider.decide(&mut outputs, &mut values).map_err(failed)?;
        if verdict.score.is_finite() {
            found.sorted.push(verdict.score);
        } else {
            found.faults += 1;
        }
        Ok(())
    })?;
    if let Some(reason) = survey.without_window() {
        return Err(format!("{} has no whole window: {reason}", path.display()));
    }
    let (gated, windows) = (survey.gated, survey.windows);
    if gated > 0 && gated == windows {
        let path = path.display();
        return Err(format!("{path}: the gate skips all of its {windows} windows, so no score can be learnt from it"));
    }
    if found.sorted.is_empty() {
        let (path, windows) = (path.display(), found.faults);
        return Err(format!("{path}: none of its {windows} windows has a score: the model's outputs are not numbers"));
    }
    found.sorted.sort_by(f32::total_cmp);
    (found.says, found.warnings) = (survey.in_words(), survey.warnings());
    if gated > 0 {
        found.says.push_str(&format!("; the gate skips {gated} of {windows} windows, which are not learnt from"));
    }
    Ok(found)
}

impl RecordedScores {
    /// Returns the score that this part of the windows does not exceed, between two scores on the line between them, as
    /// NumPy's `quantile` does.
    pub fn quantile(&self, part: f64) -> f32 {
        let last = self.sorted.len().saturating_sub(1);
        let place = part * last as f64;
        let low = (place as usize).min(last);
        let (below, above) = (f64::from(self.sorted[low]), f64::from(self.sorted[(low + 1).min(last)]));
        (below + (above - below) * (place - low as f64)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        let scores = RecordedScores { sorted: vec![1.0, 2.0, 4.0, 8.0], ..RecordedScores::default() };
        // numpy.quantile([1, 2, 4, 8], [0, 0.25, 0.5, 0.9, 1])
        let found = [0.0, 0.25, 0.5, 0.9, 1.0].map(|part| scores.quantile(part));
        assert_eq!(found, [1.0, 1.75, 3.0, 6.8, 8.0]);
    }
}
