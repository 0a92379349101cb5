//! What is done to the stream before windows are cut: stateful, each frame once, however much windows overlap.
//!
//! Owns the family of front ends and the chain of them. Frames go in, frames come out, usually fewer. A gap in the
//! stream resets the state. Runs on the infer thread; all memory is taken when the chain is built.

use crate::schema::{Checker, Key, family};
use crate::stream::{Content, Mismatch, SampleType, StreamSpec};

family! {
    /// Transforms of the stream before windows are cut, applied in the order in which they are written. Each sample passes
    /// through them once, however much windows overlap.
    pub enum Frontend: FrontendKind {
        mod gain: Gain;
        mod dc_block: DcBlock;
        mod filter: Filter;
        mod decimate: Decimate;
        mod resample: Resample;
        mod stft: Stft;
        mod log_mel: LogMel;
        mod mfcc: Mfcc;
        mod micro_frontend: MicroFrontend;
    }
}

/// What each kind of front end is.
pub trait FrontendKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the stream that the front end makes of `input`.
    ///
    /// # Errors
    /// The front end does not take such a stream.
    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch>;

    /// Builds the front end for a stream that [`FrontendKind::output`] has accepted.
    fn build(&self, input: &StreamSpec) -> Box<dyn Stage>;
}

/// A front end at work.
pub trait Stage: Send {
    /// Takes `frames`, `[n, frame]` row-major, and appends the frames that are complete to `out`, which has room for
    /// [`Stage::most_frames`] of them.
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>);

    /// Returns how many frames must go in before `frames` more have come out, for at least 1. The last of them has the
    /// time of the last that came out.
    fn frames_wanted(&self, frames: usize) -> usize;

    /// Returns how many frames come out at most when `frames` go in.
    fn most_frames(&self, frames: usize) -> usize {
        frames
    }

    /// Forgets what came before: the stream had a gap.
    fn reset(&mut self);
}

/// Checks that a stream holds samples.
///
/// # Errors
/// It holds spectra.
fn samples_only(input: &StreamSpec) -> Result<(), Mismatch> {
    match input.content {
        Content::Samples | Content::Pcm16 => Ok(()),
        _ => {
            Err(Mismatch::new("it takes samples, and gets a spectrum; put it before the front end that makes spectra"))
        }
    }
}

/// Checks that a stream holds samples of channels.
///
/// # Errors
/// It holds spectra or images.
fn channels_only(input: &StreamSpec) -> Result<(), Mismatch> {
    if input.frame.dims().len() > 1 {
        return Err(Mismatch::new(format!("it takes channels of samples, and gets images of {}", input.frame)));
    }
    samples_only(input)
}

/// Says how a rate becomes known that a front end needs.
const UNKNOWN_RATE: &str =
    "the rate of the samples is not known; set rate_hz in the source's table records, bytes or packets";

/// Returns the frames of a stream of samples in a second.
fn known_rate(input: &StreamSpec) -> Result<f64, Mismatch> {
    input.rate_hz.ok_or_else(|| Mismatch::new(UNKNOWN_RATE))
}

/// Returns half the rate of a stream of samples.
///
/// # Errors
/// The rate is not known, or `cutoff_hz`, which is written as `key`, is not below half of it.
fn half_rate_above(input: &StreamSpec, key: &'static str, cutoff_hz: f64) -> Result<f64, Mismatch> {
    let rate_hz = known_rate(input)?;
    let half = rate_hz / 2.0;
    if cutoff_hz >= half {
        let message = format!("{cutoff_hz} Hz is not below {half} Hz, half the rate of the stream, {rate_hz} Hz");
        return Err(Mismatch::at(key, message));
    }
    Ok(half)
}

/// Returns whether the integers of a stream have the full scale of 16 bits, also after a front end has made f32 of them.
fn is_pcm16(input: &StreamSpec) -> bool {
    input.content == Content::Pcm16 || input.sample == SampleType::I16 && input.content == Content::Samples
}

/// Frames that go through the chain together.
pub const BLOCK_FRAMES: usize = 256;

/// The front ends of one pipeline, in order.
pub struct Chain {
    stages: Vec<Box<dyn Stage>>,
    buffers: [Vec<f32>; 2],
}

impl Chain {
    /// Builds the chain for a stream. Returns it with the stream that it makes; calls `seen` with each step's index and
    /// what it gives.
    ///
    /// # Errors
    /// The index of the front end that does not take what the one before gives.
    pub fn new(
        frontends: &[Frontend],
        input: &StreamSpec,
        mut seen: impl FnMut(usize, &StreamSpec),
    ) -> Result<(Self, StreamSpec), (usize, Mismatch)> {
        let mut spec = input.clone();
        let mut frames = BLOCK_FRAMES;
        let mut room = frames.saturating_mul(spec.frame.values());
        let mut stages: Vec<Box<dyn Stage>> = Vec::new();
        for (index, frontend) in frontends.iter().enumerate() {
            let output = frontend.kind().output(&spec).map_err(|mismatch| (index, mismatch))?;
            let stage = frontend.kind().build(&spec);
            frames = stage.most_frames(frames);
            room = room.max(frames.saturating_mul(output.frame.values()));
            stages.push(stage);
            seen(index, &output);
            // What it made is f32 from here on; that it was made of integers still matters.
            let is_pcm = is_pcm16(&spec) && output.content == Content::Samples;
            let content = if is_pcm { Content::Pcm16 } else { output.content };
            spec = StreamSpec { sample: SampleType::F32, content, ..output };
        }
        let room = if stages.is_empty() { 0 } else { room };
        Ok((Self { stages, buffers: [Vec::with_capacity(room), Vec::with_capacity(room)] }, spec))
    }

    /// Returns whether the stream goes to the windows as it is.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Returns how many frames must go in before `frames` more have come out.
    pub fn frames_wanted(&self, frames: usize) -> usize {
        self.stages.iter().rev().fold(frames, |frames, stage| stage.frames_wanted(frames))
    }

    /// Returns how many values come out at most when [`BLOCK_FRAMES`] frames go in; no more are in a step of the chain.
    pub fn most_values(&self) -> usize {
        self.buffers[0].capacity()
    }

    /// Returns what the chain makes of at most [`BLOCK_FRAMES`] frames, which `fill` puts in.
    pub fn process(&mut self, fill: impl FnOnce(&mut Vec<f32>)) -> &[f32] {
        let [ours, other] = &mut self.buffers;
        let (mut from, mut to) = (ours, other);
        from.clear();
        fill(from);
        for stage in &mut self.stages {
            to.clear();
            stage.process(from, to);
            std::mem::swap(&mut from, &mut to);
        }
        from
    }

    /// Forgets what came before: the stream had a gap.
    pub fn reset(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.reset());
    }
}
