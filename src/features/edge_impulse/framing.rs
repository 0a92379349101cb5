//! How the audio blocks cut a window into frames, and the power spectra of these.

use realfft::num_traits::Float;

use crate::dsp::{RealFft, at_least};

/// The studio refuses more.
const MAX_FRAMES: usize = 500;

/// Where the frames are in a window, in samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Framing {
    pub frames: usize,
    length: usize,
    stride: usize,
}

impl Framing {
    /// Returns the frames of `samples` samples, each `length_s` long, one every `stride_s`, as version `version` of the
    /// blocks has them.
    ///
    /// # Errors
    /// The keys do not fit the window; the message names both.
    pub(super) fn new(version: u8, samples: usize, rate_hz: f64, length_s: f64, stride_s: f64) -> Result<Self, String> {
        let length = match version {
            1 => (rate_hz * length_s).round_ties_even(),
            _ => ceil_unless_just_above(rate_hz * length_s),
        };
        let stride = ceil_unless_just_above(rate_hz * stride_s);
        // The first version loses the last frame.
        let first = if version == 1 { length } else { length - stride };
        let frames = ((samples as f64 - first) / stride).floor();
        let window = format!("in a window of {samples} samples at {rate_hz} Hz");
        if length < 1.0 || stride < 1.0 {
            return Err(format!(
                "frame_length = {length_s} or frame_stride = {stride_s} is less than a sample {window}"
            ));
        }
        if frames < 1.0 {
            return Err(format!("frame_length = {length_s} s leaves no frame {window}; make the window longer"));
        }
        if frames > MAX_FRAMES as f64 {
            let limit = format!("the limit is {MAX_FRAMES}, as in the studio");
            return Err(format!("frame_stride = {stride_s} s gives {frames} frames {window}; {limit}"));
        }
        Ok(Self { frames: frames as usize, length: length as usize, stride: stride as usize })
    }
}

/// A frame's length in samples may come out as 288.0000001.
fn ceil_unless_just_above(value: f64) -> f64 {
    let floor = value.floor();
    if value > floor && value - floor < 0.001 { floor } else { value.ceil() }
}

/// The power spectra of the frames of a window.
pub(super) struct PowerSpectra {
    framing: Framing,
    fft: RealFft<f64>,
    fft_length: usize,
    /// That of the frame at hand.
    power: Vec<f64>,
}

impl PowerSpectra {
    pub(super) fn new(framing: Framing, fft_length: usize) -> Self {
        Self { framing, fft: RealFft::new(fft_length), fft_length, power: vec![0.0; RealFft::bins(fft_length)] }
    }

    pub(super) fn frames(&self) -> usize {
        self.framing.frames
    }

    pub(super) fn bins(&self) -> usize {
        self.power.len()
    }

    /// Returns the power spectrum of a frame of `signal`, `[bins]`. A frame that is longer than the transform is cut, a
    /// shorter one is padded with zeros.
    pub(super) fn frame(&mut self, signal: &[f64], index: usize) -> &[f64] {
        let start = index * self.framing.stride;
        let frame = &signal[start..start + self.framing.length.min(self.fft_length)];
        let (used, padding) = self.fft.input().split_at_mut(frame.len());
        used.copy_from_slice(frame);
        padding.fill(0.0);
        let share = 1.0 / self.fft_length as f64;
        self.power.iter_mut().zip(self.fft.powers()).for_each(|(to, power)| *to = power * share);
        &self.power
    }
}

/// Replaces each value by where it is between the lowest and the highest of them, from 0 to 1. Those that are all the same
/// become 0.
pub(super) fn stretch<T: Float>(values: &mut [T]) {
    let lowest = values.iter().copied().fold(T::infinity(), T::min);
    let highest = values.iter().copied().fold(T::neg_infinity(), T::max);
    let is_flat = highest == lowest;
    values
        .iter_mut()
        .for_each(|value| *value = if is_flat { T::zero() } else { (*value - lowest) / (highest - lowest) });
}

/// Returns where the decibels of a power are between a noise floor, 0, and 12 dB, 1. It can be less or more.
pub(super) fn above_noise_floor(power: f64, noise_floor_db: f64) -> f64 {
    (10.0 * at_least(power, 1e-30).log10() - noise_floor_db) / (12.0 - noise_floor_db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_frames_differently() {
        let frames =
            |version, samples| Framing::new(version, samples, 16_000.0, 0.02, 0.01).map(|framing| framing.frames);
        assert_eq!((frames(1, 16_000), frames(2, 16_000)), (Ok(98), Ok(99)));
        assert_eq!((frames(2, 320), frames(2, 319).is_err()), (Ok(1), true));
        let refused = frames(2, 100_000).unwrap_err();
        assert!(refused.contains("gives 624 frames in a window of 100000 samples at 16000 Hz"), "{refused}");
    }

    #[test]
    fn lengths_are_rounded_up_unless_they_are_just_above() {
        // 0.018 as a float of C.
        let framing = Framing::new(4, 16_000, 16_000.0, f64::from(0.018f32), 0.01).unwrap();
        assert_eq!((framing.length, framing.stride), (288, 160));
        let rounded = |version| Framing::new(version, 1260, 1260.0, 0.025, 0.01).unwrap();
        assert_eq!((rounded(1).length, rounded(4).length, rounded(4).stride), (32, 32, 13));
        let rounded = |version| Framing::new(version, 1250, 1250.0, 0.0252, 0.01).unwrap().length;
        assert_eq!((rounded(1), rounded(4)), (32, 32));
        let rounded = |version| Framing::new(version, 1000, 1000.0, 0.0252, 0.01).unwrap().length;
        assert_eq!((rounded(1), rounded(4)), (25, 26));
    }
}
