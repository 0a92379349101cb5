//! A model that runs before the pipeline's own: it takes windows of frames, and gives frames.
//!
//! Owns the window that is being filled and the run of the engine. Each window goes through the model once, however much
//! windows of later models overlap. Runs on the infer thread; all memory is taken when it is built.

use super::window::Windower;
use crate::engine::span::BusySpan;
use crate::engine::{Engine, EngineError};
use crate::features;
use crate::frontend::BLOCK_FRAMES;
use crate::units::MonoTime;

/// How windows are cut for a model of the chain, and how many frames it makes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainCut {
    /// Frames in a window.
    pub samples: usize,
    /// Frames from the start of one window to the start of the next.
    pub hop: usize,
    /// Frames that the model gives for a window.
    pub frames: usize,
}

impl ChainCut {
    /// Returns how many frames make `frames` come out, if the next window needs `first` more.
    pub fn frames_wanted(&self, frames: usize, first: usize) -> usize {
        let windows = frames.div_ceil(self.frames);
        windows.saturating_sub(1).saturating_mul(self.hop).saturating_add(first)
    }

    /// Returns how many frames come out at most when `frames` go in.
    fn most_frames(&self, frames: usize) -> usize {
        (frames / self.hop).saturating_add(1).saturating_mul(self.frames)
    }
}

/// A model of the chain at work.
pub struct ModelStage {
    cut: ChainCut,
    /// Values of a frame that it takes.
    frame_values: usize,
    windower: Windower<f32>,
    features: features::Chain,
    /// `None`: only the number of frames is wanted, and their values are 0.
    engine: Option<Box<dyn Engine>>,
    /// What it gives for one window, `[frames, values]` row-major.
    output: Vec<f32>,
    /// Values that did not fit into its input, since that was last asked.
    saturated: usize,
}

impl ModelStage {
    /// Builds the stage for frames of `frame_values` values; `output_values` is the number that the model gives for a window.
    pub fn new(
        cut: ChainCut,
        frame_values: usize,
        features: features::Chain,
        output_values: usize,
        engine: Option<Box<dyn Engine>>,
    ) -> Self {
        let windower = Windower::new(cut.samples, cut.hop, frame_values);
        Self { cut, frame_values, windower, features, engine, output: vec![0.0; output_values], saturated: 0 }
    }

    /// Returns how many frames must go in before `frames` more have come out.
    pub fn frames_wanted(&self, frames: usize) -> usize {
        self.cut.frames_wanted(frames, self.windower.frames_wanted())
    }

    /// Returns the number of values of a frame that it takes.
    pub fn frame_values(&self) -> usize {
        self.frame_values
    }

    /// Returns how many frames, and so many values, go into it together at most if they come straight from the source.
    pub fn most_at_once(&self) -> (usize, usize) {
        let frames = self.cut.samples.min(BLOCK_FRAMES);
        (frames, frames * self.frame_values)
    }

    /// Returns how many frames and values come out at most when `frames` go in.
    pub fn most(&self, frames: usize) -> (usize, usize) {
        let most = self.cut.most_frames(frames);
        (most, most.saturating_mul(self.output.len() / self.cut.frames))
    }

    /// Returns how often the model runs at most when `frames` go in.
    pub fn most_runs(&self, frames: usize) -> usize {
        frames / self.cut.hop + 1
    }

    /// Takes `frames`, `[n, frame]` row-major, and appends what the model makes of them to `out`; when the model ran goes
    /// into `runs`.
    ///
    /// # Errors
    /// The model has failed.
    pub fn process(&mut self, frames: &[f32], out: &mut Vec<f32>, runs: &mut Vec<BusySpan>) -> Result<(), EngineError> {
        let mut rest = frames;
        while !rest.is_empty() {
            let (next, after) = rest.split_at(rest.len().min(self.windower.frames_at_once() * self.frame_values));
            self.windower.push(next, &[], |value| value);
            rest = after;
            if let Some(window) = self.windower.ready() {
                if let Some(engine) = &mut self.engine {
                    self.saturated += engine.set_input(0, self.features.apply(window))?;
                    let start = MonoTime::now();
                    engine.invoke()?;
                    // An inference is a run of the last model; these runs are a part of its cost.
                    runs.push(BusySpan::of(engine.as_ref(), [start, MonoTime::now()], 0));
                    engine.output(0, 0, &mut self.output)?;
                }
                out.extend_from_slice(&self.output);
                self.windower.advance();
            }
        }
        Ok(())
    }

    /// Returns how many values did not fit into the model's input since this was last called.
    pub fn take_saturated(&mut self) -> usize {
        std::mem::take(&mut self.saturated)
    }

    /// Forgets what came before: the stream had a gap.
    ///
    /// # Errors
    /// The model has failed.
    pub fn reset(&mut self) -> Result<(), EngineError> {
        self.windower.clear();
        self.engine.as_mut().map_or(Ok(()), |engine| engine.reset())
    }
}
