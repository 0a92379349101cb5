//! A lower rate: the mean of every few frames.

use super::{FrontendKind, Stage};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

/// Far above any real use.
const MAX_FACTOR: usize = 1 << 16;

table! {
    /// Lowers the rate of the stream: each `factor` samples become one, their mean. The mean is a plain low-pass filter; it
    /// weakens what the lower rate cannot hold, and does not remove all of it.
    pub struct Decimate {
        /// The number of samples that become one.
        pub factor: usize, range(1, MAX_FACTOR), example("4");
    }
}

impl FrontendKind for Decimate {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        let rate_hz = input.rate_hz.map(|rate| rate / self.factor as f64);
        Ok(StreamSpec { rate_hz, sample: SampleType::F32, ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        Box::new(Mean { factor: self.factor.max(1), sum: vec![0.0; input.frame.values()], taken: 0 })
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

    fn reset(&mut self) {
        self.sum.fill(0.0);
        self.taken = 0;
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
        let decimate = |factor| Frontend::Decimate(Decimate { factor });
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
        let mut stage = Decimate { factor: 2 }.build(&spec());
        let mut out = Vec::new();
        stage.process(&[100.0, 100.0], &mut out);
        stage.reset();
        stage.process(&[1.0, 2.0, 3.0, 4.0], &mut out);
        assert_eq!(out, [2.0, 3.0]);
    }
}
