//! Short-time Fourier transform: the spectrum of a frame of samples every hop.

use super::{FrontendKind, Stage, is_pcm16, samples_only};
use crate::dsp::{Convention, RealFft, WindowFunction};
use crate::schema::{Checker, Key, table};
use crate::stream::{Content, Mismatch, SampleType, Shape, StreamSpec};

/// Far above any real use.
const MAX_LENGTH: usize = 1 << 20;
const PCM16_FULL_SCALE: f32 = 32768.0;

table! {
    /// The spectrum of the last samples, every `hop_length` samples: short-time Fourier transform. Each spectrum has
    /// fft_length / 2 + 1 bins. Lengths are in samples; 25 ms at 16 kHz are 400. docs/frontends.md has the lines of Python
    /// that it stands for.
    pub struct Stft {
        /// Whose code the model was trained with: librosa, or tf.signal. It sets defaults here and in the front ends after
        /// this one, where the window stands in the transform, and how mel filters are made.
        pub convention: Convention, example("\"librosa\"");
        /// The number of samples that the window function covers: win_length of librosa, frame_length of tf.signal.
        pub frame_length: usize, range(1, MAX_LENGTH), example("400");
        /// The number of samples from one spectrum to the next: hop_length of librosa, frame_step of tf.signal.
        pub hop_length: usize, range(1, MAX_LENGTH), example("160");
        /// The number of samples that are transformed, at least `frame_length`: n_fft of librosa. Zeros fill it up.
        pub fft_length: Option<usize>, range(1, MAX_LENGTH),
            otherwise("librosa: frame_length; tensorflow: the next power of two"), example("512");
        /// The window function.
        pub window: WindowFunction = WindowFunction::Hann;
        /// 1 for the magnitude of each bin, 2 for its power.
        pub power: Option<u8>, range(1, 2), otherwise("librosa: 2; tensorflow: 1"), example("2");
        /// Whether sound in the range of integers of 16 bits is divided by 32768, as librosa.load and tf.audio.decode_wav do. A
        /// stream of other numbers is taken as it is.
        pub normalize: bool = true;
        /// The channel to transform, numbered from 0.
        pub channel: Option<usize>, otherwise("the only one"), example("0");
    }
}

impl Stft {
    /// Returns the number of samples that are transformed.
    pub fn fft_length(&self) -> usize {
        self.fft_length.unwrap_or(match self.convention {
            Convention::Librosa => self.frame_length,
            Convention::TensorFlow => self.frame_length.next_power_of_two(),
        })
    }

    /// Returns the window function at each sample of a frame. librosa's frames have `fft_length` samples, with the window
    /// in their middle; those of TensorFlow have `frame_length`, and zeros follow.
    fn window(&self) -> Vec<f32> {
        let length = self.frame_length;
        match self.convention {
            Convention::Librosa => {
                let mut window = vec![0.0; self.fft_length()];
                let before = (self.fft_length() - length) / 2;
                window[before..before + length].copy_from_slice(&self.window.values(length, length));
                window
            }
            // Of an odd length, TensorFlow's periodic window is symmetric (window_ops.py, _raised_cosine_window).
            Convention::TensorFlow => self.window.values(length, length - length % 2),
        }
    }
}

impl FrontendKind for Stft {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let (fft, frame) = (self.fft_length(), self.frame_length);
        if fft < frame {
            let message = format!("{fft} is less than frame_length, {frame}; the samples beyond it would be left out");
            checker.problem(&key.child("fft_length"), message);
        }
        if self.window == WindowFunction::Blackman && self.convention == Convention::TensorFlow {
            checker.problem(&key.child("window"), "tf.signal has no blackman window; use hann, hamming or rectangular");
        }
    }

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        samples_only(input)?;
        let (channels, frame) = (input.frame.values(), &input.frame);
        match self.channel {
            Some(channel) if channel >= channels => {
                let message = format!("there is no channel {channel}; the last one is {}", channels - 1);
                return Err(Mismatch::at("channel", message));
            }
            None if channels != 1 => {
                let message = format!("a frame of {frame} has {channels} channels; choose one with the key channel");
                return Err(Mismatch::new(message));
            }
            _ => {}
        }
        let fft_length = self.fft_length();
        Ok(StreamSpec {
            content: Content::Spectrum { convention: self.convention, fft_length, rate_hz: input.rate_hz },
            ..StreamSpec::new(
                Shape::new([RealFft::bins(fft_length)]),
                SampleType::F32,
                input.rate_hz.map(|rate| rate / self.hop_length as f64),
            )
        })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        let full_scale = if is_pcm16(input) && self.normalize { PCM16_FULL_SCALE } else { 1.0 };
        // A power of two, so the products are those of the divided samples.
        let window: Vec<f32> = self.window().iter().map(|value| value / full_scale).collect();
        let power = self.power.unwrap_or(match self.convention {
            Convention::Librosa => 2,
            Convention::TensorFlow => 1,
        });
        Box::new(Spectra {
            channels: input.frame.values().max(1),
            channel: self.channel.unwrap_or(0),
            hop: self.hop_length,
            fft: RealFft::new(self.fft_length()),
            is_magnitude: power == 1,
            held: Vec::with_capacity(window.len()),
            window,
            skip: 0,
        })
    }
}

/// The samples since the beginning of the next frame.
struct Spectra {
    channels: usize,
    channel: usize,
    window: Vec<f32>,
    hop: usize,
    fft: RealFft,
    is_magnitude: bool,
    held: Vec<f32>,
    /// Samples to pass over before the next frame begins, if the hop is longer than a frame.
    skip: usize,
}

impl Spectra {
    fn transform(&mut self, out: &mut Vec<f32>) {
        let input = self.fft.input();
        let (framed, zeros) = input.split_at_mut(self.window.len());
        zeros.fill(0.0);
        for ((to, sample), weight) in framed.iter_mut().zip(&self.held).zip(&self.window) {
            *to = sample * weight;
        }
        if self.is_magnitude {
            out.extend(self.fft.powers().map(f32::sqrt));
        } else {
            out.extend(self.fft.powers());
        }
    }
}

impl Stage for Spectra {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        let mut rest = frames;
        while rest.len() >= self.channels {
            let most = rest.len() / self.channels;
            let taken = if self.skip > 0 { self.skip } else { self.window.len() - self.held.len() }.min(most);
            let (ours, others) = rest.split_at(taken * self.channels);
            rest = others;
            if self.skip > 0 {
                self.skip -= taken;
                continue;
            }
            self.held.extend(ours.iter().skip(self.channel).step_by(self.channels));
            if self.held.len() == self.window.len() {
                self.transform(out);
                self.skip = self.hop.saturating_sub(self.held.len());
                self.held.drain(..self.hop.min(self.held.len()));
            }
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        let first = self.skip + self.window.len() - self.held.len();
        frames.saturating_sub(1).saturating_mul(self.hop).saturating_add(first)
    }

    fn most_frames(&self, frames: usize) -> usize {
        frames.div_ceil(self.hop)
    }

    fn reset(&mut self) {
        self.held.clear();
        self.skip = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chain, Frontend};
    use super::*;
    use crate::frontend::BLOCK_FRAMES;
    use proptest::prelude::*;

    fn stft(keys: &str) -> Stft {
        toml::from_str(&format!("convention = \"librosa\"\n{keys}")).unwrap()
    }

    fn sound(channels: usize) -> StreamSpec {
        StreamSpec::new(Shape::new([channels]), SampleType::I16, Some(16000.0))
    }

    proptest! {
        #[test]
        fn any_split_of_the_samples_gives_the_same_spectra_when_they_were_foretold(
            frame in 1usize..40,
            hop in 1usize..60,
            pieces in prop::collection::vec(1usize..BLOCK_FRAMES, 1..12),
        ) {
            let kind = stft(&format!("frame_length = {frame}\nhop_length = {hop}\nchannel = 1"));
            let samples: Vec<f32> = (0..2 * pieces.iter().sum::<usize>()).map(|i| ((i * i) % 97) as f32).collect();
            let mut whole = kind.build(&sound(2));
            let mut wanted = Vec::new();
            whole.process(&samples, &mut wanted);
            let bins = RealFft::bins(frame);
            let count = (samples.len() / 2).checked_sub(frame).map_or(0, |rest| 1 + rest / hop);
            prop_assert_eq!(wanted.len(), count * bins);

            let mut stage = kind.build(&sound(2));
            stage.process(&samples[..samples.len().min(10)], &mut Vec::new());
            stage.reset();
            let (mut out, mut rest) = (Vec::new(), &samples[..]);
            for piece in pieces {
                let (ours, others) = rest.split_at(2 * piece);
                rest = others;
                let before = out.len() / bins;
                let foretold = (0..).take_while(|n| stage.frames_wanted(n + 1) <= piece).count();
                prop_assert!(foretold <= stage.most_frames(piece));
                stage.process(ours, &mut out);
                prop_assert_eq!(out.len() / bins - before, foretold);
            }
            prop_assert_eq!(out, wanted);
        }
    }

    #[test]
    fn a_tone_of_full_scale_is_in_its_bin() {
        let samples: Vec<f32> = (0..8).map(|i| [0.0, 32768.0, 0.0, -32768.0][i % 4]).collect();
        let spectrum = |keys: &str, spec: &StreamSpec| {
            let mut out = Vec::new();
            stft(&format!("frame_length = 8\nhop_length = 8\nwindow = \"rectangular\"\n{keys}"))
                .build(spec)
                .process(&samples, &mut out);
            out[2]
        };
        assert_eq!(spectrum("", &sound(1)), 16.0);
        assert_eq!(spectrum("power = 1", &sound(1)), 4.0);
        assert_eq!(spectrum("power = 1\nnormalize = false", &sound(1)), 4.0 * 32768.0);
        let floats = StreamSpec { sample: SampleType::F32, ..sound(1) };
        assert_eq!(spectrum("power = 1", &floats), 4.0 * 32768.0, "their scale is their own");
        // A front end before it has made f32 of the integers.
        let frontends: Vec<Frontend> = [
            "decimate = { factor = 1 }",
            "stft = { convention = \"librosa\", frame_length = 8, hop_length = 8, window = \"rectangular\" }",
        ]
        .map(|toml| toml::from_str(toml).unwrap())
        .into();
        let (mut chain, output) = Chain::new(&frontends, &sound(1), |_, _| ()).unwrap();
        assert_eq!(output.rate_hz, Some(2000.0));
        assert_eq!(chain.process(|block| block.extend_from_slice(&samples))[2], 16.0);
    }

    #[test]
    fn a_stream_of_several_channels_needs_a_choice() {
        let mismatch = |keys: &str| stft(&format!("frame_length = 8\nhop_length = 8\n{keys}")).output(&sound(2));
        assert!(mismatch("").unwrap_err().message.contains("has 2 channels; choose one"));
        assert!(mismatch("channel = 2").unwrap_err().message.contains("the last one is 1"));
        assert!(mismatch("channel = 1").is_ok());
    }
}
