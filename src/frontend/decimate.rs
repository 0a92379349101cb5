//! A lower rate: one sample of every few, after a filter.

use super::{FrontendKind, Stage, channels_only};
use crate::dsp::Decimator;
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

/// Far above any real use.
const MAX_FACTOR: usize = 1 << 16;

choice! {
    /// How the samples that become one are put together.
    pub enum Method { Mean = "mean", Chebyshev = "chebyshev" }
}

table! {
    /// Lowers the rate of the stream: of each `factor` samples one is left.
    pub struct Decimate {
        /// The number of samples that become one.
        pub factor: usize, range(1, MAX_FACTOR), example("4");
        /// "mean": the mean of the samples. It is a plain low-pass filter, which weakens what the lower rate cannot hold, and does
        /// not remove all of it. "chebyshev": one sample after a filter that removes it, of order 8, as
        /// scipy.signal.decimate and the blocks of Edge Impulse have it.
        pub method: Method = Method::Mean;
    }
}

impl FrontendKind for Decimate {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.method == Method::Chebyshev && self.factor == 1 {
            checker.problem(&key.child("factor"), "a factor of 1 leaves the rate as it is; to filter only, use filter");
        }
    }

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        if self.method == Method::Chebyshev {
            channels_only(input)?;
        }
        let rate_hz = input.rate_hz.map(|rate| rate / self.factor as f64);
        Ok(StreamSpec { rate_hz, sample: SampleType::F32, ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        let (factor, values) = (self.factor.max(1), input.frame.values());
        match self.method {
            Method::Mean => Box::new(Mean { factor, sum: vec![0.0; values], taken: 0 }),
            Method::Chebyshev => Box::new(Filtered { factor, channels: vec![Decimator::new(factor); values] }),
        }
    }
}

/// The sum of the frames since the last one that came out.
struct Mean {
    factor: usize,
    sum: Vec<f32>,
    taken: usize,
}

impl Stage for Mean {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for frame in frames.chunks_exact(self.sum.len().max(1)) {
            self.sum.iter_mut().zip(frame).for_each(|(sum, value)| *sum += value);
            self.taken += 1;
            if self.taken == self.factor {
                let share = 1.0 / self.factor as f32;
                out.extend(self.sum.iter().map(|sum| sum * share));
                self.reset();
            }
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames.saturating_mul(self.factor).saturating_sub(self.taken)
    }

    fn most_frames(&self, frames: usize) -> usize {
        frames.div_ceil(self.factor)
    }

    fn reset(&mut self) {
        self.sum.fill(0.0);
        self.taken = 0;
    }
}

/// A decimator for each channel; all keep the same samples.
struct Filtered {
    factor: usize,
    channels: Vec<Decimator>,
}

impl Stage for Filtered {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for frame in frames.chunks_exact(self.channels.len().max(1)) {
            let kept = self.channels.iter_mut().zip(frame).filter_map(|(channel, value)| channel.step((*value).into()));
            out.extend(kept.map(|value| value as f32));
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        let first = self.channels.first().map_or(1, Decimator::samples_wanted);
        frames.saturating_sub(1).saturating_mul(self.factor).saturating_add(first)
    }

    fn most_frames(&self, frames: usize) -> usize {
        frames.div_ceil(self.factor)
    }

    fn reset(&mut self) {
        self.channels.iter_mut().for_each(Decimator::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chain, Frontend};
    use super::*;
    use crate::stream::Shape;

    fn spec() -> StreamSpec {
        StreamSpec::new(Shape::new([2]), SampleType::I16, Some(120.0))
    }

    #[test]
    fn every_few_frames_become_their_mean_however_they_come() {
        let decimate = |factor| Frontend::Decimate(Decimate { factor, method: Method::Mean });
        let (mut chain, output) = Chain::new(&[decimate(3), decimate(2)], &spec(), |_, _| ()).unwrap();
        assert_eq!((output.rate_hz, &output.frame), (Some(20.0), &Shape::new([2])));
        assert_eq!(chain.frames_wanted(5), 30);
        let frames: Vec<f32> = (0..24).map(|i| i as f32).collect();
        for piece in [1, 2, 5, 12] {
            chain.reset();
            let mut out = Vec::new();
            for part in frames.chunks(piece * 2) {
                out.extend_from_slice(chain.process(|block| block.extend_from_slice(part)));
            }
            // Frames [0, 1] to [10, 11], then [12, 13] to [22, 23].
            assert_eq!(out, [5.0, 6.0, 17.0, 18.0], "{piece} frames at a time");
        }
        chain.process(|block| block.extend_from_slice(&frames[..8]));
        assert_eq!(chain.frames_wanted(1), 2, "4 of 6 frames are in");
    }

    #[test]
    fn a_gap_forgets_what_was_begun() {
        let mut stage = Decimate { factor: 2, method: Method::Mean }.build(&spec());
        let mut out = Vec::new();
        stage.process(&[100.0, 100.0], &mut out);
        stage.reset();
        stage.process(&[1.0, 2.0, 3.0, 4.0], &mut out);
        assert_eq!(out, [2.0, 3.0]);
    }

    #[test]
    fn the_first_of_every_few_is_left_and_each_is_foretold() {
        let decimate = Decimate { factor: 5, method: Method::Chebyshev };
        let mut stage = decimate.build(&spec());
        let frames: Vec<f32> = (0..200).map(|i| (i % 23) as f32).collect();
        let mut whole = Vec::new();
        stage.process(&frames, &mut whole);
        assert_eq!(whole.len(), 2 * 20);
        stage.reset();
        assert_eq!((stage.frames_wanted(1), stage.frames_wanted(3)), (1, 11));
        let mut out = Vec::new();
        for frame in frames.chunks(2) {
            let comes = stage.frames_wanted(1) == 1;
            let before = out.len();
            stage.process(frame, &mut out);
            assert_eq!(out.len() - before, if comes { 2 } else { 0 });
        }
        assert_eq!(out, whole);
    }
}
