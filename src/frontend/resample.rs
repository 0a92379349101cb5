//! Another rate: from 44.1 kHz to 16 kHz, or from that of a sensor to that of the model.

use super::{FrontendKind, Stage, channels_only, known_rate};
use crate::dsp::{Ratio, Resampler};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

/// The table of sincs then has 512 KiB at most, with the default of `taps`.
const MAX_RATIO: usize = 1024;
const MIN_TAPS: usize = 32;
const MAX_TAPS: usize = 1024;

table! {
    /// Changes the rate of the stream, up or down. What the lower rate cannot hold is removed. It needs the rate of the
    /// stream, and the ratio of both rates must be one of whole numbers up to 1024, such as 160 to 441 for 44100 Hz to
    /// 16000 Hz.
    pub struct Resample {
        /// The number of samples in a second after it.
        pub rate_hz: f64, range(1e-6, 1e9), unit("Hz"), example("16000.0");
        /// From how many samples of the lower rate each sample is made. Half of them must be there before it comes out, so they
        /// are the delay: 64 samples, which are 4 ms at 16 kHz, and 0.64 s at 100 Hz. With more, more of the highest
        /// frequencies is left.
        pub taps: usize = 128, range(MIN_TAPS, MAX_TAPS);
    }
}

impl Resample {
    /// Returns the ratio of both rates.
    ///
    /// # Errors
    /// The rate is not known, or their ratio is not one of small whole numbers.
    fn ratio(&self, input: &StreamSpec) -> Result<Ratio, Mismatch> {
        let (from_hz, to_hz) = (known_rate(input)?, self.rate_hz);
        let ratio = Ratio::nearest(to_hz, from_hz, MAX_RATIO);
        if ratio.output == 0 || ratio.input == 0 {
            let message = format!("{from_hz} Hz cannot become {to_hz} Hz; the most is {MAX_RATIO} times more or fewer");
            return Err(Mismatch::at("rate_hz", message));
        }
        if ratio.output == ratio.input {
            return Err(Mismatch::at("rate_hz", format!("the stream has {from_hz} Hz already; remove resample")));
        }
        if !ratio.is(to_hz, from_hz) {
            let near_hz = from_hz * ratio.output as f64 / ratio.input as f64;
            let message = format!(
                "{from_hz} Hz to {to_hz} Hz is not a ratio of whole numbers up to {MAX_RATIO}; a rate_hz near it that is one \
                 is {near_hz}"
            );
            return Err(Mismatch::at("rate_hz", message));
        }
        Ok(ratio)
    }
}

impl FrontendKind for Resample {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        channels_only(input)?;
        self.ratio(input)?;
        Ok(StreamSpec { rate_hz: Some(self.rate_hz), sample: SampleType::F32, ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        // `output` has accepted the stream.
        let ratio = self.ratio(input).unwrap_or(Ratio { output: 1, input: 1 });
        Box::new(Resampler::new(ratio, self.taps, input.frame.values()))
    }
}

impl Stage for Resampler {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        self.process(frames, out);
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        self.frames_wanted(frames)
    }

    fn most_frames(&self, frames: usize) -> usize {
        self.most_frames(frames)
    }

    fn reset(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chain, Frontend};
    use super::*;
    use crate::stream::{Content, Shape};

    fn spec(rate_hz: Option<f64>) -> StreamSpec {
        StreamSpec::new(Shape::new([1]), SampleType::I16, rate_hz)
    }

    #[test]
    fn sound_of_a_card_becomes_that_of_a_wake_word() {
        let resample: Frontend = toml::from_str("resample = { rate_hz = 16000.0 }").unwrap();
        let (chain, output) = Chain::new(&[resample], &spec(Some(44_100.0)), |_, _| ()).unwrap();
        assert_eq!((output.rate_hz, output.content), (Some(16_000.0), Content::Pcm16));
        // The first one needs half of 352.8 samples, rounded up to 360; the one 1440 frames later, 1440 * 441 / 160 more.
        assert_eq!((chain.frames_wanted(1), chain.frames_wanted(1441)), (180, 180 + 3969));
        let frontends = ["resample = { rate_hz = 16000.0 }", "micro_frontend = {}"];
        let frontends = frontends.map(|toml| toml::from_str::<Frontend>(toml).unwrap());
        assert!(Chain::new(&frontends, &spec(Some(48_000.0)), |_, _| ()).is_ok());
    }

    #[test]
    fn rates_that_cannot_be_are_refused_with_one_that_can() {
        let refused = |rate_hz, from_hz| Resample { rate_hz, taps: 128 }.output(&spec(from_hz)).unwrap_err().message;
        assert!(refused(16_000.0, None).contains("records, bytes or packets"));
        assert!(refused(16_000.0, Some(16_000.0)).contains("has 16000 Hz already; remove resample"));
        assert!(refused(1.0, Some(16_000.0)).contains("the most is 1024 times"));
        let near = refused(16_001.0, Some(48_000.0));
        assert!(near.starts_with("48000 Hz to 16001 Hz is not a ratio") && near.contains("one is 1600"), "{near}");
    }
}
