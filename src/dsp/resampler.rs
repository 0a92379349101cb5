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
    /// Returns the ratio of whole numbers up to `most` near `output / input`, by its continued fraction.
    pub fn nearest(output: f64, input: f64, most: usize) -> Self {
        let (mut before, mut ratio) = (Self { output: 0, input: 1 }, Self { output: 1, input: 0 });
        let mut rest = output / input;
        loop {
            let whole = rest.floor();
            let next = |now: usize, before: usize| (whole <= most as f64).then(|| whole as usize * now + before);
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

    /// Returns whether it equals the ratio of the two rates, up to rounding.
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

    /// Moves the frames that are still needed to the front if the buffer is full.
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

#[cfg(test)]
mod tests {
    use std::f64::consts::{PI, TAU};

    use proptest::prelude::*;

    use super::*;

    const TAPS: usize = 128;

    /// Returns the gain of a tone at `frequency`, where 1 is half of the lower rate, and the level of all else that comes out,
    /// as parts of the tone that goes in.
    fn of_tone(ratio: Ratio, taps: usize, frequency: f64) -> (f64, f64) {
        let lower = ratio.output.min(ratio.input) as f64;
        let (step_in, step_out) =
            (PI * frequency * lower / ratio.input as f64, PI * frequency * lower / ratio.output as f64);
        let count = 12 * taps * ratio.input.div_ceil(ratio.output);
        let samples: Vec<f32> = (0..count).map(|n| (step_in * n as f64).sin() as f32).collect();
        let mut out = Vec::new();
        Resampler::new(ratio, taps, 1).process(&samples, &mut out);
        let late = out.len() / 3..out.len() * 2 / 3;
        // Least squares, for a tone that is not a whole number of times in the part that is looked at.
        let mut sums = [0.0f64; 6];
        for n in late.clone() {
            let (value, (sin, cos)) = (f64::from(out[n]), (step_out * n as f64).sin_cos());
            let products = [sin * sin, sin * cos, cos * cos, value * sin, value * cos, value * value];
            sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        }
        let [ss, sc, cc, vs, vc, vv] = sums;
        let determinant = ss * cc - sc * sc;
        let (a, b) = ((vs * cc - vc * sc) / determinant, (vc * ss - vs * sc) / determinant);
        let rest = (vv - a * vs - b * vc).max(0.0) / late.len() as f64;
        (a.hypot(b), (2.0 * rest).sqrt())
    }

    fn db(level: f64) -> f64 {
        20.0 * level.max(1e-12).log10()
    }

    const RATIOS: [Ratio; 5] = [
        Ratio { output: 160, input: 441 },
        Ratio { output: 1, input: 3 },
        Ratio { output: 441, input: 160 },
        Ratio { output: 25, input: 52 },
        Ratio { output: 3, input: 1 },
    ];

    #[test]
    fn a_tone_below_the_limit_stays_as_it_is_and_nothing_is_added() {
        for ratio in RATIOS {
            for frequency in [0.05, 0.3, 0.6, 0.8, 0.85] {
                let (gain, rest) = of_tone(ratio, TAPS, frequency);
                assert!(db(gain).abs() < 0.1, "{ratio:?}, {frequency}: {} dB", db(gain));
                assert!(db(rest) < -85.0, "{ratio:?}, {frequency}: {} dB", db(rest));
            }
        }
    }

    #[test]
    fn a_tone_that_the_lower_rate_cannot_hold_is_removed() {
        for ratio in RATIOS.into_iter().filter(|ratio| ratio.output < ratio.input) {
            let highest = ratio.input as f64 / ratio.output as f64;
            for frequency in [1.01, 1.1, 1.3, 1.7, 1.9, 2.2, 2.6].into_iter().filter(|frequency| *frequency < highest) {
                let samples = (0..TAPS * 40).map(|n| (PI * frequency / highest * n as f64).sin() as f32);
                let mut out = Vec::new();
                Resampler::new(ratio, TAPS, 1).process(&samples.collect::<Vec<_>>(), &mut out);
                let left = out[out.len() / 3..].iter().fold(0.0f32, |left, value| left.max(value.abs()));
                assert!(db(left.into()) < -80.0, "{ratio:?}, {frequency}: {} dB", db(left.into()));
            }
        }
    }

    #[test]
    fn more_taps_leave_more_of_the_highest_frequencies() {
        let gain = |taps, frequency| db(of_tone(RATIOS[1], taps, frequency).0);
        assert!(gain(32, 0.55).abs() < 0.1 && gain(32, 0.85) < -1.0, "{} {}", gain(32, 0.55), gain(32, 0.85));
        assert!(gain(512, 0.95).abs() < 0.1, "{}", gain(512, 0.95));
    }

    #[test]
    fn a_constant_makes_no_step_also_after_a_gap() {
        let mut resampler = Resampler::new(RATIOS[0], TAPS, 2);
        for constant in [[9.81, -1.0], [-3.0, 1000.0]] {
            let mut out = Vec::new();
            resampler.process(&constant.repeat(2000), &mut out);
            assert!(out.len() > 1000);
            for (value, wanted) in out.iter().zip(constant.iter().cycle()) {
                assert!((value / wanted - 1.0).abs() < 1e-4, "{value} for {wanted}");
            }
            resampler.reset();
        }
    }

    #[test]
    fn no_frame_is_lost_or_added_in_a_long_stream() {
        for ratio in [RATIOS[0], RATIOS[3], RATIOS[4]] {
            let mut resampler = Resampler::new(ratio, 32, 1);
            let block: Vec<f32> = (0..997).map(|n| (TAU * n as f64 / 97.0).sin() as f32).collect();
            let (mut taken, mut given, mut out) = (0, 0, Vec::new());
            for _ in 0..100 {
                assert!(resampler.frames_wanted(1) <= block.len());
                resampler.process(&block, &mut out);
                (taken, given) = (taken + block.len(), given + out.len());
                out.clear();
                // The last one is at a place of which half the sinc is there, and half of the first one was before it.
                let wanted = (taken - resampler.half) * ratio.output / ratio.input + 1;
                assert_eq!(given, wanted, "{ratio:?} after {taken}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames_when_they_were_foretold(
            output in 1usize..40,
            input in 1usize..40,
            pieces in prop::collection::vec(1usize..500, 1..8),
        ) {
            let ratio = Ratio::nearest(output as f64, input as f64, 40);
            prop_assert!(ratio.is(output as f64, input as f64));
            let samples: Vec<f32> = (0..2 * pieces.iter().sum::<usize>()).map(|n| ((n * n) % 97) as f32).collect();
            let mut resampler = Resampler::new(ratio, 32, 2);
            let mut wanted = Vec::new();
            resampler.process(&samples, &mut wanted);
            resampler.reset();
            let (mut out, mut rest) = (Vec::new(), &samples[..]);
            for piece in pieces {
                let (now, later) = rest.split_at(2 * piece);
                rest = later;
                let before = out.len() / 2;
                let foretold = (0..).take_while(|n| resampler.frames_wanted(n + 1) <= piece).count();
                prop_assert!(foretold <= resampler.most_frames(piece));
                resampler.process(now, &mut out);
                prop_assert_eq!(out.len() / 2 - before, foretold);
            }
            prop_assert!(out == wanted);
        }
    }

    #[test]
    fn the_ratio_of_two_rates_is_found_in_whole_numbers() {
        let of = |output: f64, input: f64| {
            let ratio = Ratio::nearest(output, input, 1024);
            (ratio.output, ratio.input, ratio.is(output, input))
        };
        assert_eq!(of(16_000.0, 44_100.0), (160, 441, true));
        assert_eq!(of(48_000.0, 11_025.0), (640, 147, true));
        assert_eq!(of(100.0, 1000.0 / 3.0), (3, 10, true));
        assert_eq!(of(50.0, 50.0), (1, 1, true));
        assert!(!of(16_001.0, 44_100.0).2 && !of(1.0, 1e6).2 && !of(1e6, 1.0).2);
    }
}
