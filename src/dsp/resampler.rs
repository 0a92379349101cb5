//! Another rate, by a ratio of whole numbers: a windowed sinc at the exact place of each sample.
//!
//! rubato makes the sinc and multiplies. It counts places in floating point, so they are counted here, in whole numbers: no
//! frame is lost or added in a stream of any length.

use rubato::WindowFunction;
use rubato::sinc_interpolator::{AnyInterpolator, SincInterpolator, make_interpolator};

/// The length of the sinc must be a multiple of it.
const LENGTH_STEP: usize = 8;
/// Frames that are taken together, at least.
const LEAST_ROOM: usize = 1024;
/// How far a ratio of rates may be from that of whole numbers, as a part of it: rounding of f64.
const RATIO_TOLERANCE: f64 = 1e-12;

/// Samples out for samples in, without a common divisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    pub output: usize,
    pub input: usize,
}

impl Ratio {
    /// Returns the ratio of whole numbers up to `most` that is next to `output / input`, by its continued fraction.
    pub fn nearest(output: f64, input: f64, most: usize) -> Self {
        let (mut before, mut ratio) = (Self { output: 0, input: 1 }, Self { output: 1, input: 0 });
        let mut rest = output / input;
        loop {
            let whole = rest.floor();
            let next = |now: usize, before: usize| (whole < most as f64).then(|| whole as usize * now + before);
            let (Some(output), Some(input)) = (next(ratio.output, before.output), next(ratio.input, before.input))
            else {
                return ratio;
            };
            if output.max(input) > most {
                return ratio;
            }
            (before, ratio) = (ratio, Self { output, input });
            rest = 1.0 / (rest - whole);
        }
    }

    /// Returns whether it is that of two rates, but for rounding.
    pub fn is(self, output: f64, input: f64) -> bool {
        (output * self.input as f64 / (input * self.output as f64) - 1.0).abs() < RATIO_TOLERANCE
    }
}

/// A resampler of frames of several channels.
pub struct Resampler {
    ratio: Ratio,
    sinc: AnyInterpolator<f32>,
    /// Half the length of the sinc, in frames of the input.
    half: usize,
    /// The frames that are still needed, and room for more, of each channel.
    held: Vec<Vec<f32>>,
    /// Frames that are held.
    end: usize,
    /// The place of the next frame of the output: a frame that is held or comes later, and parts of a frame, each
    /// `1 / ratio.output`.
    place: usize,
    part: usize,
    is_first: bool,
}

impl Resampler {
    /// Makes each sample of about `taps` samples of the lower one of both rates.
    pub fn new(ratio: Ratio, taps: usize, channels: usize) -> Self {
        let slower = ratio.input as f64 / ratio.output.min(ratio.input) as f64;
        let length = ((taps as f64 * slower).ceil() as usize).next_multiple_of(LENGTH_STEP);
        let window = WindowFunction::BlackmanHarris;
        // Of so many samples of the lower rate: what rubato takes for the length would be that of a longer filter.
        let cutoff = rubato::calculate_cutoff(taps, window);
        let share = ratio.output as f64 / ratio.input as f64;
        let half = length / 2;
        Self {
            sinc: make_interpolator(length, share, Some(cutoff), ratio.output, window),
            half,
            held: vec![vec![0.0; length + length.max(LEAST_ROOM)]; channels],
            end: half,
            place: half,
            part: 0,
            is_first: true,
            ratio,
        }
    }

    /// Takes `frames`, `[n, channels]` row-major, and appends the frames that are complete.
    pub fn process(&mut self, mut frames: &[f32], out: &mut Vec<f32>) {
        let channels = self.held.len();
        if channels == 0 || frames.is_empty() {
            return;
        }
        if std::mem::take(&mut self.is_first) {
            // As if the first sample had always been there.
            self.held.iter_mut().zip(frames).for_each(|(held, value)| held[..self.half].fill(*value));
        }
        while !frames.is_empty() {
            self.make_room();
            let room = self.held[0].len() - self.end;
            let (now, later) = frames.split_at(frames.len().min(room * channels));
            for (channel, held) in self.held.iter_mut().enumerate() {
                let values = now.iter().skip(channel).step_by(channels);
                held[self.end..].iter_mut().zip(values).for_each(|(held, value)| *held = *value);
            }
            self.end += now.len() / channels;
            frames = later;
            self.output(out);
        }
    }

    /// Appends the frames of the output for which all is held.
    fn output(&mut self, out: &mut Vec<f32>) {
        while self.needed(self.place, self.part) <= self.end {
            // rubato's last sinc is the one without a part; that of each part begins a frame later.
            let (first, sinc) = match self.part {
                0 => (self.place - self.half, self.ratio.output - 1),
                part => (self.place - self.half + 1, part - 1),
            };
            let sinc = &self.sinc.get_sincs()[sinc];
            out.extend(self.held.iter().map(|held| self.sinc.get_sinc_dot_product(held, first, sinc)));
            (self.place, self.part) = self.place_after(1);
        }
    }

    /// Moves what is still needed to the front if there is no room for a frame.
    fn make_room(&mut self) {
        if self.end < self.held.first().map_or(0, Vec::len) {
            return;
        }
        let first = self.place - self.half;
        self.held.iter_mut().for_each(|held| held.copy_within(first..self.end, 0));
        self.end -= first;
        self.place -= first;
    }

    /// Returns how many frames must be held for the frame at a place.
    fn needed(&self, place: usize, part: usize) -> usize {
        place.saturating_add(self.half).saturating_add(usize::from(part > 0))
    }

    /// Returns the place that is `frames` frames of the output after the next one.
    fn place_after(&self, frames: usize) -> (usize, usize) {
        let parts = frames.saturating_mul(self.ratio.input).saturating_add(self.part);
        (self.place.saturating_add(parts / self.ratio.output), parts % self.ratio.output)
    }

    /// Returns how many frames must go in before `frames` more have come out.
    pub fn frames_wanted(&self, frames: usize) -> usize {
        let (place, part) = self.place_after(frames.saturating_sub(1));
        self.needed(place, part).saturating_sub(self.end)
    }

    /// Returns how many frames come out at most when `frames` go in.
    pub fn most_frames(&self, frames: usize) -> usize {
        frames.saturating_mul(self.ratio.output).div_ceil(self.ratio.input)
    }

    /// Forgets what came before. The next frame that goes in is at the place of the next one that comes out.
    pub fn reset(&mut self) {
        (self.end, self.place, self.part, self.is_first) = (self.half, self.half, 0, true);
    }
}
