//! Tries a pipeline on windows of its recording before it runs, for `edgewatt check`: are its inputs and outputs as they
//! should be?

use std::sync::atomic::Ordering;

use super::{PreparedPipeline, windows};
use crate::config::Pipeline;
use crate::decision::EngineOutputs;
use crate::engine::EngineError;
use crate::infer::doubts::{DoubtCounts, Doubts};
use crate::infer::stage_times::PipelineStats;
use crate::units::MonoTime;

/// Windows of the recording, spread evenly over it.
const WINDOWS: usize = 32;

/// Returns why the decisions would not be to be trusted, if there is a recording that shows it.
///
/// # Errors
/// The engine fails.
pub fn doubts(pipeline: &Pipeline, prepared: &mut PreparedPipeline) -> Result<Option<String>, EngineError> {
    let recording = pipeline.source.kind().recording().or(pipeline.parity.recording.as_deref());
    // A recording without a whole window is not for this to report.
    let models = prepared.stages.input.take_models();
    let (features, width) = (&mut prepared.stages.features, prepared.builder.path.last().values());
    let windows =
        recording.and_then(|path| windows::recorded(path, pipeline, &[], models, features, width, WINDOWS).ok());
    let (Some(windows), Some(built)) = (windows.map(|windows| windows.values), &mut prepared.built) else {
        return Ok(None);
    };
    let (engine, decider) = (&mut *built.engine, &mut prepared.stages.decider);
    let inputs = prepared.tensors.inputs.clone();
    let (batch, stats) = (engine.batch().max(1), PipelineStats::default());
    let mut doubts = Doubts::new(prepared.scores.clone(), inputs, batch, DoubtCounts::default());
    let mut values = Vec::with_capacity(decider.most_values());
    engine.reset()?;
    for rows in windows.chunks(width.max(1) * batch) {
        for (row, window) in rows.chunks(width.max(1)).enumerate() {
            stats.filled.fetch_add(1, Ordering::Relaxed);
            let outside = engine.set_input(row, window)?;
            if outside > 0 {
                stats.saturation.add(outside, window.iter().copied());
            }
        }
        engine.invoke()?;
        for (row, features) in rows.chunks(width.max(1)).enumerate() {
            // The windows do not follow each other, so they have no time.
            let mut outputs = EngineOutputs { engine: &mut *engine, row, features, time_ns: 0 };
            if let Some(fault) = decider.decide(&mut outputs, &mut values)?.fault {
                stats.count_fault(fault);
            }
        }
    }
    engine.reset()?;
    decider.reset();
    doubts.note(DoubtCounts::of(&stats), true, MonoTime(0));
    Ok(doubts.reason())
}
