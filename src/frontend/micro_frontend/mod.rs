//! The audio front end of TensorFlow Lite Micro, in whole numbers: 16 kHz sound to 40 channels, as micro-wake-word and
//! micro_speech were trained with.
//!
//! Gives the same numbers, bit for bit, as the C code in tensorflow/lite/experimental/microfrontend/lib with the
//! parameters of pymicro-features 2.0.2. The steps: window, FFT, energies in mel bands, square root, noise reduction,
//! gain control per channel (PCAN), logarithm.

mod fft;
mod steps;
mod tables;

use self::fft::Fft;
use self::steps::{Logarithm, NoiseEstimate};
use self::tables::{CHANNELS, STARTS, WEIGHTS, WINDOW, WINDOW_SAMPLES};
use super::{FrontendKind, Stage, known_rate};
use crate::dsp::Convention;
use crate::schema::{Checker, Key, table};
use crate::stream::{Content, Mismatch, SampleType, Shape, StreamSpec};

const RATE_HZ: f64 = 16_000.0;
const SAMPLES_PER_MS: usize = 16;
const MAX_HOP_MS: usize = WINDOW_SAMPLES / SAMPLES_PER_MS;

table! {
    /// The audio front end of TensorFlow Lite Micro: what micro-wake-word, micro_speech and other models for
    /// microcontrollers take. It makes frames of 40 channels, 125 Hz to 7500 Hz, of windows of 30 ms, with noise reduction
    /// and gain control. It takes one channel of 16-bit sound at 16 kHz. The values are those of pymicro-features, bit for
    /// bit.
    pub struct MicroFrontend {
        /// The time from the start of one frame to the start of the next: 10 for micro-wake-word, 20 for micro_speech.
        pub hop_ms: usize = 10, range(1, MAX_HOP_MS), unit("ms");
        /// What the whole numbers of the front end, 0 to about 670, are multiplied by. The default gives what models of
        /// micro-wake-word and micro_speech take; 1.0 gives the numbers themselves.
        pub scale: f32 = 0.0390625, range(1e-6, 1e6);
    }
}

impl FrontendKind for MicroFrontend {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        if input.frame.values() != 1 {
            let message = format!(
                "it takes one channel of sound, and gets frames of {}; choose a channel in the source, such as select = [0]",
                input.frame
            );
            return Err(Mismatch::new(message));
        }
        if input.sample == SampleType::U8 {
            return Err(Mismatch::new("it takes samples of 16 bits, -32768 to 32767, and gets bytes"));
        }
        let rate_hz = known_rate(input)?;
        if rate_hz != RATE_HZ {
            return Err(Mismatch::new(format!(
                "it takes sound at 16000 Hz, and gets {rate_hz} Hz; record at rate_hz = 16000, or put the front end \
                 resample = {{ rate_hz = 16000.0 }} before it"
            )));
        }
        let content = Content::Mel { convention: Convention::TensorFlow, log: true };
        let frames = StreamSpec::new(Shape::new([CHANNELS]), SampleType::F32, Some(1000.0 / self.hop_ms as f64));
        Ok(StreamSpec { content, ..frames })
    }

    fn build(&self, _: &StreamSpec) -> Box<dyn Stage> {
        Box::new(Work {
            hop: self.hop_ms.clamp(1, MAX_HOP_MS) * SAMPLES_PER_MS,
            scale: self.scale,
            held: [0; WINDOW_SAMPLES],
            count: 0,
            fft: Fft::new(),
            padded: [0; fft::SAMPLES],
            noise: NoiseEstimate::default(),
            logarithm: Logarithm::new(),
        })
    }
}

/// The front end at work. Its state is the samples of the window that is not full, and the noise estimate.
struct Work {
    /// Samples from one window to the next; at most a window.
    hop: usize,
    scale: f32,
    held: [i16; WINDOW_SAMPLES],
    count: usize,
    fft: Fft,
    padded: [i16; fft::SAMPLES],
    noise: NoiseEstimate,
    logarithm: Logarithm,
}

impl Stage for Work {
    fn process(&mut self, mut frames: &[f32], out: &mut Vec<f32>) {
        while !frames.is_empty() {
            let taken = frames.len().min(WINDOW_SAMPLES - self.count);
            let (now, later) = frames.split_at(taken);
            let room = &mut self.held[self.count..self.count + taken];
            room.iter_mut().zip(now).for_each(|(room, value)| *room = nearest(*value));
            self.count += taken;
            frames = later;
            if self.count == WINDOW_SAMPLES {
                self.frame(out);
                self.held.copy_within(self.hop.., 0);
                self.count -= self.hop;
            }
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames.saturating_sub(1).saturating_mul(self.hop).saturating_add(WINDOW_SAMPLES - self.count)
    }

    fn most_frames(&self, frames: usize) -> usize {
        frames.div_ceil(self.hop)
    }

    fn reset(&mut self) {
        self.count = 0;
        self.noise = NoiseEstimate::default();
    }
}

impl Work {
    /// Appends the frame of the full window.
    fn frame(&mut self, out: &mut Vec<f32>) {
        let shift = self.windowed();
        self.fft.run(&self.padded);
        for (channel, energy) in bands(&self.fft).into_iter().enumerate() {
            let magnitude = steps::root(energy) >> shift;
            let (signal, noise) = self.noise.reduce(channel, magnitude);
            let value = self.logarithm.of(steps::controlled(signal, noise));
            out.push(f32::from(value) * self.scale);
        }
    }

    /// Weights the window and raises it to the full range of 16 bits; returns by how many bits.
    fn windowed(&mut self) -> u32 {
        let mut highest = 0_i16;
        for ((weighted, sample), weight) in self.padded.iter_mut().zip(&self.held).zip(&WINDOW) {
            *weighted = ((i32::from(*sample) * i32::from(*weight)) >> 12) as i16;
            // The lowest number has no opposite, and the original leaves it out too.
            highest = highest.max(weighted.wrapping_abs());
        }
        let shift = 15 - steps::bits(highest.unsigned_abs().into());
        self.padded[..WINDOW_SAMPLES].iter_mut().for_each(|value| *value <<= shift);
        shift
    }
}

/// Returns the sum of energies in each channel, weighted by triangles that overlap by half. The first half triangle is
/// below the first channel's peak and gives what it shares with it.
fn bands(fft: &Fft) -> [u64; CHANNELS] {
    let mut bands = [0; CHANNELS];
    let mut carried = 0;
    for (half, bins) in STARTS.windows(2).enumerate() {
        let (mut own, mut next) = (carried, 0);
        for bin in usize::from(bins[0])..usize::from(bins[1]) {
            let (energy, weight) = (u64::from(fft.energy(bin)), u64::from(WEIGHTS[bin - usize::from(STARTS[0])]));
            own += energy * weight;
            next += energy * (4096 - weight);
        }
        if half > 0 {
            bands[half - 1] = own;
        }
        carried = next;
    }
    bands
}

/// Returns the nearest number of 16 bits. A source of sound gives whole ones; a front end before this one may not.
fn nearest(value: f32) -> i16 {
    (value + 0.5_f32.copysign(value)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(channels: usize, rate_hz: Option<f64>) -> StreamSpec {
        StreamSpec::new(Shape::new([channels]), SampleType::I16, rate_hz)
    }

    fn micro_frontend(hop_ms: usize) -> MicroFrontend {
        MicroFrontend { hop_ms, scale: 0.039_062_5 }
    }

    #[test]
    fn it_takes_one_channel_at_16_khz_and_says_what_to_do_with_others() {
        let output = micro_frontend(20).output(&sound(1, Some(RATE_HZ))).unwrap();
        assert_eq!((output.frame, output.rate_hz), (Shape::new([CHANNELS]), Some(50.0)));
        let refused = |spec: &StreamSpec| micro_frontend(10).output(spec).unwrap_err().message;
        let two = refused(&sound(2, Some(RATE_HZ)));
        assert!(two.contains("frames of [2]") && two.contains("select = [0]"), "{two}");
        let fast = refused(&sound(1, Some(44_100.0)));
        assert!(fast.contains("gets 44100 Hz") && fast.contains("resample = { rate_hz = 16000.0 }"), "{fast}");
        let unknown = refused(&sound(1, None));
        assert!(unknown.contains("set rate_hz in the source"), "{unknown}");
        let bytes = refused(&StreamSpec { sample: SampleType::U8, ..sound(1, Some(RATE_HZ)) });
        assert!(bytes.contains("gets bytes"), "{bytes}");
    }

    #[test]
    fn a_frame_comes_with_the_sample_that_was_asked_for() {
        let samples: Vec<f32> = (0..16_000).map(|i| ((i * 7_919) % 20_011 - 10_000) as f32).collect();
        for hop_ms in [1, 10, 20, 30] {
            let mut stage = micro_frontend(hop_ms).build(&sound(1, Some(RATE_HZ)));
            let mut whole = Vec::new();
            stage.process(&samples, &mut whole);
            stage.reset();
            let (mut out, mut begin, mut wanted) = (Vec::new(), 0, 0);
            while begin + stage.frames_wanted(wanted % 3 + 1) <= samples.len() {
                let frames = wanted % 3 + 1;
                wanted += frames;
                let end = begin + stage.frames_wanted(frames);
                assert!(stage.most_frames(end - begin) >= frames);
                stage.process(&samples[begin..end - 1], &mut out);
                assert_eq!(out.len(), (wanted - 1) * CHANNELS, "all but the last");
                stage.process(&samples[end - 1..end], &mut out);
                assert_eq!(out.len(), wanted * CHANNELS, "and the last with the last sample");
                begin = end;
            }
            assert_eq!(out, whole[..out.len()], "as after the start, however the samples come");
        }
    }

    #[test]
    fn values_between_the_numbers_of_16_bits_become_the_nearest() {
        let values = [0.4, -0.4, 0.6, -0.6, 40_000.0, -40_000.0, f32::NAN];
        assert_eq!(values.map(nearest), [0, 0, 1, -1, i16::MAX, i16::MIN, 0]);
    }
}
