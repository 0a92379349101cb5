//! The processing blocks of Edge Impulse, as per-window features: a model that its studio exports gets what it was trained
//! with.
//!
//! Owns the blocks and puts what they make one after the other. The Python that models are trained with is the reference
//! (github.com/edgeimpulse/processing-blocks); a block's version says which of its algorithms, with its mistakes. What
//! Python computes in f64 is f64 here: a logarithm of a small number shows any other rounding.

mod filterbank;
mod framing;
mod local_norm;
#[cfg(test)]
mod tests;

use super::{FeatureKind, Step, Transform};
use crate::schema::{Checker, Key, family, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

/// How far, in parts of it, a stream's rate may be from the rate of the training data.
const RATE_TOLERANCE: f64 = 0.01;

/// Far above any real use: a minute at 48 kHz, decimated by 1000.
const MAX_FFT_LENGTH: usize = 1 << 16;

table! {
    /// Computes what the processing blocks of an Edge Impulse project make of a window. The blocks' features follow each
    /// other in one row, as the studio's model takes them. docs/edge-impulse.md shows where the values are in the studio.
    pub struct EdgeImpulse {
        /// The blocks, in the order of the project. Their keys are named as in the project's
        /// model-parameters/model_variables.h.
        pub blocks: Vec<Block>, example("[{ spectral_analysis = { version = 4 } }]");
        /// The frequency of the project's data. If the stream has another rate, by more than 1 %, it is refused.
        pub rate_hz: Option<f64>, range(0.001, 1_000_000.0), unit("Hz"), otherwise("the stream's rate"), example("62.5");
    }
}

table! {
    /// One block of the list: its axes, and its kind with its keys.
    pub struct Block {
        /// The indexes of the channels that the block takes, in the order in which it takes them.
        pub axes: Option<Vec<usize>>, otherwise("all channels"), example("[0, 1, 2]");
        family kind: Processing;
    }
}

family! {
    /// A block is one of these kinds.
    pub enum Processing: ProcessingKind {
        mod spectral_analysis: SpectralAnalysis;
        mod mfe: Mfe;
        mod mfcc: Mfcc;
        mod spectrogram: Spectrogram;
        mod flatten: Flatten;
        mod raw: Raw;
    }
}

/// What each kind of block is.
pub trait ProcessingKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Builds the block.
    ///
    /// # Errors
    /// Why the block does not take such input.
    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String>;
}

/// What a block gets of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockInput {
    pub samples: usize,
    pub axes: usize,
    pub rate_hz: f64,
}

/// A block at work.
pub trait Extract: Send {
    /// Returns the number of features.
    fn features(&self) -> usize;

    /// Writes the features of `input`, `[axes, samples]`, into `out`, of that length.
    fn extract(&mut self, input: &[f32], out: &mut [f32]);
}

impl FeatureKind for EdgeImpulse {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let at = key.child("blocks");
        if self.blocks.is_empty() {
            checker.problem(&at, "name at least one block".to_owned());
        }
        for (index, block) in self.blocks.iter_mut().enumerate() {
            if block.axes.as_ref().is_some_and(Vec::is_empty) {
                let message = "name at least one channel, or leave the key out for all of them".to_owned();
                checker.problem(&at.child(index).child("axes"), message);
            }
            block.kind.check(&at.child(index), checker);
        }
    }

    fn output(&self, input: &Shape, stream: &StreamSpec) -> Result<Shape, Mismatch> {
        Ok(Shape::new([self.blocks(input, stream)?.iter().map(|block| block.extract.features()).sum::<usize>()]))
    }

    fn build(&self, input: &Shape, stream: &StreamSpec) -> Step {
        let blocks = self.blocks(input, stream).unwrap_or_default();
        Step::Transform(Box::new(Blocks { channels: input.channels().max(1), blocks }))
    }
}

impl EdgeImpulse {
    fn blocks(&self, input: &Shape, stream: &StreamSpec) -> Result<Vec<BuiltBlock>, Mismatch> {
        let (samples, channels) = match *input.dims() {
            [samples, channels] if input.values() > 0 => (samples, channels),
            _ => return Err(Mismatch::new(format!("a window of {input} is not samples of channels"))),
        };
        let rate_hz = self.rate(stream)?;
        let build = |(index, block): (usize, &Block)| {
            let name = block.kind.name();
            let mismatch = |why: String| Mismatch::at("blocks", format!("block {index}, {name}: {why}"));
            let axes = block.axes.clone().unwrap_or_else(|| (0..channels).collect());
            if let Some(axis) = axes.iter().find(|axis| **axis >= channels) {
                return Err(mismatch(format!("there is no channel {axis} in a window of {input}; the first one is 0")));
            }
            let input = BlockInput { samples, axes: axes.len(), rate_hz };
            let extract = block.kind.kind().build(&input).map_err(mismatch)?;
            Ok(BuiltBlock { input: vec![0.0; axes.len() * samples], axes, extract })
        };
        self.blocks.iter().enumerate().map(build).collect()
    }

    /// Returns the rate that the features are computed for.
    fn rate(&self, stream: &StreamSpec) -> Result<f64, Mismatch> {
        match (self.rate_hz, stream.rate_hz) {
            (Some(own), Some(rate)) if (rate - own).abs() > own * RATE_TOLERANCE => {
                let message = format!(
                    "the stream has {rate} Hz and the project's data {own} Hz; set the sensor to that rate, or write the front \
                     end resample = {{ rate_hz = {own:?} }}"
                );
                Err(Mismatch::at("rate_hz", message))
            }
            (Some(own), _) => Ok(own),
            (None, Some(rate)) => Ok(rate),
            (None, None) => {
                let message = "the stream's rate is not known; set rate_hz to the frequency of the project's data";
                Err(Mismatch::new(message))
            }
        }
    }
}

/// A block, and its input, `[axes, samples]`.
struct BuiltBlock {
    axes: Vec<usize>,
    input: Vec<f32>,
    extract: Box<dyn Extract>,
}

struct Blocks {
    channels: usize,
    blocks: Vec<BuiltBlock>,
}

impl Transform for Blocks {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let samples = window.len() / self.channels;
        let mut rest = out;
        for BuiltBlock { axes, input, extract } in &mut self.blocks {
            for (row, axis) in input.chunks_exact_mut(samples.max(1)).zip(axes) {
                let channel = window[*axis..].iter().step_by(self.channels);
                row.iter_mut().zip(channel).for_each(|(to, from)| *to = *from);
            }
            let (features, others) = rest.split_at_mut(extract.features());
            extract.extract(input, features);
            rest = others;
        }
    }
}

/// Reports a length of a Fourier transform that no block takes.
fn check_fft_length(key: &Key, length: usize, checker: &mut Checker) {
    if !length.is_power_of_two() {
        checker.problem(&key.child("fft_length"), format!("{length} is not a power of 2"));
    }
}
