//! Turns a source's frames into full windows: gaps, gate, front ends, the models before the last one, windows.
//!
//! Owns the order of the stages before the features. Runs on the infer thread; all memory is allocated when it is built.

use std::time::Duration;

use super::chained::ModelStage;
pub use super::gated::GateSeen;
use super::gated::{Gated, Kept};
use super::window::{GapDetector, Windower};
use crate::engine::EngineError;
use crate::engine::span::BusySpan;
use crate::frontend::{self, BLOCK_FRAMES};
use crate::gate;
use crate::source::{FrameHeader, FrameReader, Frames, Gap, Pieces};
use crate::stream::{SampleType, StreamSpec};

/// The stages before the features.
pub struct InputStage {
    gaps: GapDetector,
    gate: Option<Gated>,
    frontends: frontend::Chain,
    models: Vec<ModelStage>,
    /// When the models ran, since that was last asked.
    runs: Vec<BusySpan>,
    /// Number of values in a frame after the models.
    frame_values: usize,
    windower: Windows,
    /// What goes into a model while `pending` is what comes out of it.
    before: Vec<f32>,
    /// Frames after the front ends and models; those from `taken` on are not in a window yet.
    pending: Vec<f32>,
    taken: usize,
    /// The times and truth of the last frame of the window that is full, or that went into the front ends.
    last: Option<FrameHeader>,
}

/// Windows in the type that the features or the model take.
enum Windows {
    F32(Windower<f32>, Kept<f32>),
    /// Images go to the model as bytes.
    U8(Windower<u8>, Kept<u8>),
}

/// Which full window is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichWindow {
    /// The one that was filled last.
    Current,
    /// One that a closed gate has skipped, 0 being the oldest.
    Kept(usize),
}

/// A full window, `[samples, frame]` row-major.
#[derive(Debug, Clone, Copy)]
pub enum Window<'a> {
    F32(&'a [f32]),
    U8(&'a [u8]),
}

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputEvent {
    /// There was a gap before the frames that were taken.
    pub gap: Option<Gap>,
    /// What the gate has seen in them.
    pub gate: Option<GateSeen>,
    /// The window is full.
    pub full: bool,
}

/// How windows are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowSettings {
    /// Frames in a window.
    pub samples: usize,
    /// Frames from the start of one window to the start of the next.
    pub hop: usize,
    /// Longest step of the stream's time within a window; `None` if the stream has no time.
    pub max_gap: Option<Duration>,
}

impl InputStage {
    /// Builds the stages; `output` is the stream that `frontends` and `models` give. With `bytes`, frames of bytes become
    /// windows of bytes, for a model that takes them without features.
    pub fn new(
        frontends: frontend::Chain,
        models: Vec<ModelStage>,
        output: &StreamSpec,
        window: &WindowSettings,
        bytes: bool,
    ) -> Self {
        let frame_values = output.frame.values();
        let (mut frames, mut room) = match models.first() {
            Some(model) if frontends.is_empty() => model.most_at_once(),
            Some(model) => (frontends.most_values() / model.frame_values(), frontends.most_values()),
            None => (0, frontends.most_values()),
        };
        let mut runs = 0;
        for model in &models {
            runs += model.most_runs(frames);
            let (most_frames, most_values) = model.most(frames);
            frames = most_frames;
            room = room.max(most_values);
        }
        let bytes = bytes && output.sample == SampleType::U8 && frontends.is_empty() && models.is_empty();
        Self {
            gaps: GapDetector::new(window.max_gap),
            gate: None,
            windower: if bytes {
                Windows::U8(Windower::new(window.samples, window.hop, frame_values), Kept::default())
            } else {
                Windows::F32(Windower::new(window.samples, window.hop, frame_values), Kept::default())
            },
            before: Vec::with_capacity(if models.is_empty() { 0 } else { room }),
            pending: Vec::with_capacity(room),
            runs: Vec::with_capacity(runs),
            frontends,
            models,
            frame_values,
            taken: 0,
            last: None,
        }
    }

    /// Puts a gate before the windows, which keeps the last `kept` windows that it skips.
    #[must_use]
    pub fn with_gate(self, gate: Box<dyn gate::Stage>, kept: usize) -> Self {
        let windower = match self.windower {
            Windows::F32(windower, _) => {
                let kept = Kept::new(kept, windower.window_values());
                Windows::F32(windower, kept)
            }
            Windows::U8(windower, _) => {
                let kept = Kept::new(kept, windower.window_values());
                Windows::U8(windower, kept)
            }
        };
        Self { gate: Some(Gated::new(gate)), windower, ..self }
    }

    /// Takes over those frames of the unfinished window of `other` that can be part of a window here.
    pub fn continue_from(&mut self, other: &Self) {
        self.gaps.continue_from(&other.gaps);
        if let (Some(ours), Some(theirs)) = (&mut self.gate, &other.gate) {
            ours.continue_from(theirs);
        }
        // Frames inside the front ends and models cannot be taken over.
        if self.has_steps() || other.has_steps() {
            return;
        }
        match (&mut self.windower, &other.windower) {
            (Windows::F32(ours, _), Windows::F32(theirs, _)) => ours.continue_from(theirs),
            (Windows::U8(ours, _), Windows::U8(theirs, _)) => ours.continue_from(theirs),
            _ => {}
        }
    }

    /// Returns whether no frames wait inside the stages; those of the window that is being filled do not count.
    pub fn is_empty(&self) -> bool {
        self.taken == self.pending.len()
    }

    /// Returns whether there are steps between the source and the windows.
    fn has_steps(&self) -> bool {
        !self.frontends.is_empty() || !self.models.is_empty()
    }

    /// Returns the number of frames of the source that make something happen; at least 1.
    pub fn frames_wanted(&self) -> usize {
        self.frames_for(self.windower.frames_wanted())
    }

    /// Returns how many frames of the source make `frames` more come to the window.
    fn frames_for(&self, frames: usize) -> usize {
        let frames = self.models.iter().rev().fold(frames, |frames, model| model.frames_wanted(frames));
        self.frontends.frames_wanted(frames)
    }

    /// Whether models run before the pipeline's own.
    pub fn has_chain(&self) -> bool {
        !self.models.is_empty()
    }

    /// Returns when the models before the last one ran, since this was last called.
    pub fn runs(&mut self) -> impl Iterator<Item = BusySpan> {
        self.runs.drain(..)
    }

    /// Returns how many values did not fit into the inputs of these models, since this was last called.
    pub fn take_saturated(&mut self) -> usize {
        self.models.iter_mut().map(ModelStage::take_saturated).sum()
    }

    /// Takes the models out, for other stages than these.
    pub fn take_models(&mut self) -> Vec<ModelStage> {
        std::mem::take(&mut self.models)
    }

    /// Takes frames out of the ring until a gap, a full window, or the end of what can be read at once. `None`: there are
    /// no more frames.
    ///
    /// # Errors
    /// One of the models has failed; the stages are of no use any more.
    pub fn step(&mut self, reader: &mut FrameReader) -> Result<Option<InputEvent>, EngineError> {
        if self.taken < self.pending.len() {
            return Ok(Some(InputEvent { gap: None, gate: None, full: self.fill_from_pending() }));
        }
        let rule = self.gaps.rule;
        // No more than complete the window, so that it has the times of the last frame that went in.
        let most = self.frames_for(self.windower.frames_at_once());
        let most = match self.models.first() {
            Some(model) if self.frontends.is_empty() => most.min(model.most_at_once().0),
            None if self.frontends.is_empty() => most,
            _ => most.min(BLOCK_FRAMES),
        };
        let joins = |last: &FrameHeader, next: &FrameHeader| rule.between(last.stream_ns, next).is_none();
        reader.pop(most, joins, |frames| self.take(&frames)).transpose()
    }

    fn take(&mut self, frames: &Frames<'_>) -> Result<InputEvent, EngineError> {
        let gap = self.gaps.before(&frames.first, frames.last.stream_ns);
        if gap.is_some() {
            self.frontends.reset();
            self.models.iter_mut().try_for_each(ModelStage::reset)?;
            self.windower.clear();
            self.gate.iter_mut().for_each(Gated::reset);
        }
        // Before the windows: whether a window passes depends on its own frames too.
        let gate = self.gate.as_mut().and_then(|gate| gate.take(frames.values, frames.last.arrival));
        if !self.has_steps() {
            self.windower.push(frames.values);
            let full = self.window().is_some();
            if full {
                self.last = Some(frames.last);
            }
            return Ok(InputEvent { gap, gate, full });
        }
        self.last = Some(frames.last);
        self.pending.clear();
        self.taken = 0;
        if self.frontends.is_empty() {
            append(&mut self.pending, frames.values);
        } else {
            self.pending.extend_from_slice(self.frontends.process(|block| append(block, frames.values)));
        }
        for model in &mut self.models {
            std::mem::swap(&mut self.before, &mut self.pending);
            self.pending.clear();
            model.process(&self.before, &mut self.pending, &mut self.runs)?;
        }
        Ok(InputEvent { gap, gate, full: self.fill_from_pending() })
    }

    /// Returns whether the window is full.
    fn fill_from_pending(&mut self) -> bool {
        while self.taken < self.pending.len() {
            let values = self.windower.frames_wanted() * self.frame_values;
            let end = (self.taken + values).min(self.pending.len());
            self.windower.push(Pieces::F32(&self.pending[self.taken..end], &[]));
            self.taken = end;
            if self.window().is_some() {
                return true;
            }
        }
        false
    }

    /// Returns the times and truth of the last frame of the full window.
    pub fn last(&self) -> Option<FrameHeader> {
        self.window().and(self.last)
    }

    /// Returns a full window, with the times and truth of its last frame.
    pub fn chosen(&self, which: WhichWindow) -> Option<(Window<'_>, FrameHeader)> {
        match (which, &self.windower) {
            (WhichWindow::Current, _) => self.window().zip(self.last),
            (WhichWindow::Kept(index), Windows::F32(_, kept)) => {
                kept.get(index).map(|(window, last)| (Window::F32(window), last))
            }
            (WhichWindow::Kept(index), Windows::U8(_, kept)) => {
                kept.get(index).map(|(window, last)| (Window::U8(window), last))
            }
        }
    }

    /// Returns whether windows go to the model.
    pub fn is_open(&self) -> bool {
        self.gate.as_ref().is_none_or(Gated::is_open)
    }

    /// Returns whether windows were skipped since this was last asked.
    pub fn take_skipped(&mut self) -> bool {
        self.gate.as_mut().is_some_and(Gated::take_skipped)
    }

    /// Skips the full window, and moves on to the next. It is kept if there is room for any. Returns whether a window is
    /// forgotten.
    pub fn skip(&mut self) -> bool {
        self.gate.iter_mut().for_each(Gated::skipped);
        let Some(last) = self.last() else { return false };
        let is_forgotten = match &mut self.windower {
            Windows::F32(windower, kept) => windower.ready().is_some_and(|window| kept.push(window, last)),
            Windows::U8(windower, kept) => windower.ready().is_some_and(|window| kept.push(window, last)),
        };
        self.advance();
        is_forgotten
    }

    /// Returns how many skipped windows are kept.
    pub fn kept(&self) -> usize {
        match &self.windower {
            Windows::F32(_, kept) => kept.len(),
            Windows::U8(_, kept) => kept.len(),
        }
    }

    /// Forgets the windows that are kept. Returns how many there were.
    pub fn forget_kept(&mut self) -> usize {
        match &mut self.windower {
            Windows::F32(_, kept) => kept.clear(),
            Windows::U8(_, kept) => kept.clear(),
        }
    }

    /// Returns the full window, if there is one. Call [`InputStage::advance`] when done with it.
    pub fn window(&self) -> Option<Window<'_>> {
        match &self.windower {
            Windows::F32(windower, _) => windower.ready().map(Window::F32),
            Windows::U8(windower, _) => windower.ready().map(Window::U8),
        }
    }

    /// Moves on to the next window.
    pub fn advance(&mut self) {
        match &mut self.windower {
            Windows::F32(windower, _) => windower.advance(),
            Windows::U8(windower, _) => windower.advance(),
        }
    }
}

impl Windows {
    fn frames_wanted(&self) -> usize {
        match self {
            Self::F32(windower, _) => windower.frames_wanted(),
            Self::U8(windower, _) => windower.frames_wanted(),
        }
    }

    fn frames_at_once(&self) -> usize {
        match self {
            Self::F32(windower, _) => windower.frames_at_once(),
            Self::U8(windower, _) => windower.frames_at_once(),
        }
    }

    fn push(&mut self, values: Pieces<'_>) {
        match (self, values) {
            (Self::F32(windower, _), Pieces::F32(first, second)) => windower.push(first, second, |value| value),
            (Self::F32(windower, _), Pieces::I16(first, second)) => windower.push(first, second, f32::from),
            (Self::F32(windower, _), Pieces::U8(first, second)) => windower.push(first, second, f32::from),
            (Self::U8(windower, _), Pieces::U8(first, second)) => windower.push(first, second, |value| value),
            // Unreachable: the ring has the type that the stages were built for.
            (Self::U8(..), _) => {}
        }
    }

    fn clear(&mut self) {
        match self {
            Self::F32(windower, _) => windower.clear(),
            Self::U8(windower, _) => windower.clear(),
        }
    }
}

/// Appends values as f32.
fn append(block: &mut Vec<f32>, values: Pieces<'_>) {
    match values {
        Pieces::F32(first, second) => {
            block.extend_from_slice(first);
            block.extend_from_slice(second);
        }
        Pieces::I16(first, second) => block.extend(first.iter().chain(second).map(|value| f32::from(*value))),
        Pieces::U8(first, second) => block.extend(first.iter().chain(second).map(|value| f32::from(*value))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frontend::{Chain, Frontend};
    use crate::source::sink::frame_ring;
    use crate::source::{SinkSettings, WhenFull};
    use crate::stop::Stop;
    use crate::stream::Shape;
    use crate::units::MonoTime;

    #[test]
    fn a_window_has_the_time_of_the_last_frame_that_went_into_it() {
        let spec = StreamSpec::new(Shape::new([1]), SampleType::F32, Some(1000.0));
        let settings =
            SinkSettings { spec: spec.clone(), frames: 1024, frames_per_block: 100, when_full: WhenFull::Drop };
        let (mut sink, mut reader) = frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default());
        let decimate: Frontend = toml::from_str("decimate = { factor = 3 }").unwrap();
        let (chain, output) = Chain::new(&[decimate], &spec, |_, _| ()).unwrap();
        let window = WindowSettings { samples: 4, hop: 2, max_gap: None };
        let mut input = InputStage::new(chain, Vec::new(), &output, &window, false);
        assert_eq!(input.frames_wanted(), 12);
        let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert!(sink.frames(&values, MonoTime(0), Some(0)).is_continue());
        let mut times_ms = Vec::new();
        while let Some(event) = input.step(&mut reader).unwrap() {
            if event.full {
                times_ms.extend(input.last().unwrap().stream_ns.map(|ns| ns / 1_000_000));
                input.advance();
            }
        }
        let wanted: Vec<i64> = (11..100).step_by(6).collect();
        assert_eq!(times_ms, wanted, "windows of 12 frames, 6 apart");
        assert_eq!(input.frames_wanted(), 2, "4 of 6 frames are in");
    }
}
