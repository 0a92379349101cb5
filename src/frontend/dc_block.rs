//! Removes the constant part of samples.

use super::{FrontendKind, Stage, channels_only, half_rate_above, is_pcm16};
use crate::dsp::DcBlock as HighPass;
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

/// The lowest tone that is heard. Of 125 Hz, where the models' lowest bands are, 1 % is lost; the constant part of an I2S
/// microphone is gone after some 50 ms.
const SOUND_CUTOFF_HZ: f64 = 20.0;

table! {
    /// Removes the constant part of the samples, such as that of an I2S microphone: a high pass of first order. The first
    /// sample, and the first one after a gap, counts as if it had always been there, so there is no step.
    pub struct DcBlock {
        /// The frequency whose power is halved. Lower ones are removed, slow changes too.
        pub cutoff_hz: Option<f64>, range(1e-6, 1e6), unit("Hz"),
            otherwise("20 for sound of 16 bits; else it must be written"), example("20.0");
    }
}

impl DcBlock {
    fn cutoff_hz(&self, input: &StreamSpec) -> Result<f64, Mismatch> {
        self.cutoff_hz.or(is_pcm16(input).then_some(SOUND_CUTOFF_HZ)).ok_or_else(|| {
            let message = "write cutoff_hz; only for sound of 16 bits there is a default. A movement's slowest part must stay \
                           above it, such as 0.1 Hz to take gravity away";
            Mismatch::new(message)
        })
    }
}

impl FrontendKind for DcBlock {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        channels_only(input)?;
        half_rate_above(input, "cutoff_hz", self.cutoff_hz(input)?)?;
        Ok(StreamSpec { sample: SampleType::F32, ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        // `output` has accepted both.
        let (cutoff_hz, rate_hz) = (self.cutoff_hz(input).unwrap_or(SOUND_CUTOFF_HZ), input.rate_hz.unwrap_or(1.0));
        Box::new(Blocks { channels: vec![HighPass::new(cutoff_hz, rate_hz); input.frame.values()] })
    }
}

struct Blocks {
    channels: Vec<HighPass>,
}

impl Stage for Blocks {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for frame in frames.chunks_exact(self.channels.len().max(1)) {
            out.extend(
                self.channels.iter_mut().zip(frame).map(|(channel, value)| channel.step((*value).into()) as f32),
            );
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames
    }

    fn reset(&mut self) {
        self.channels.iter_mut().for_each(HighPass::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Shape;

    fn spec(sample: SampleType, rate_hz: Option<f64>) -> StreamSpec {
        StreamSpec::new(Shape::new([2]), sample, rate_hz)
    }

    #[test]
    fn a_constant_part_goes_from_the_first_sample_on_also_after_a_gap() {
        let mut stage = DcBlock { cutoff_hz: None }.build(&spec(SampleType::I16, Some(16_000.0)));
        for constant in [[1000.0, -20_000.0], [-30_000.0, 5.0]] {
            let tone = |n: usize| (std::f32::consts::TAU * 1000.0 * n as f32 / 16_000.0).sin() * 3000.0;
            let frames: Vec<f32> = (0..4000).flat_map(|n| constant.map(|constant| constant + tone(n))).collect();
            let mut out = Vec::new();
            frames.chunks(14).for_each(|part| stage.process(part, &mut out));
            assert_eq!((out.len(), &out[..2]), (8000, &[0.0; 2][..]));
            for late in [0, 1].map(|channel| out[4000..].iter().skip(channel).step_by(2)) {
                let mean = late.clone().sum::<f32>() / 2000.0;
                let peak = late.fold(0.0f32, |peak, value| peak.max(value.abs()));
                assert!(mean.abs() < 1.0 && (2990.0..3002.0).contains(&peak), "{mean} {peak}");
            }
            stage.reset();
        }
    }

    #[test]
    fn only_sound_has_a_default_and_the_rate_must_be_known_and_fit() {
        let refused = |cutoff_hz, spec: &StreamSpec| DcBlock { cutoff_hz }.output(spec).unwrap_err();
        let moved = refused(None, &spec(SampleType::F32, Some(50.0)));
        assert!(moved.message.starts_with("write cutoff_hz"), "{moved}");
        let unknown = refused(Some(1.0), &spec(SampleType::F32, None));
        assert!(unknown.message.contains("records, bytes or packets"), "{unknown}");
        let high = refused(Some(25.0), &spec(SampleType::F32, Some(50.0)));
        assert_eq!(high.message, "25 Hz is not below 25 Hz, half the rate of the stream, 50 Hz");
    }
}
