//! Louder or quieter samples.

use super::{FrontendKind, Stage, channels_only, is_pcm16};
use crate::dsp::amplitude;
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

const PCM16_LOWEST: f32 = -32768.0;
const PCM16_HIGHEST: f32 = 32767.0;

table! {
    /// Multiplies the samples. The units of the channels are not known after it.
    pub struct Gain {
        /// What the samples are multiplied by, in decibels: 20 dB is 10 times.
        pub db: Option<f64>, range(-200.0, 200.0), unit("dB"), otherwise("write linear"), example("20.0");
        /// What the samples are multiplied by.
        pub linear: Option<f64>, range(-1e9, 1e9), otherwise("write db"), example("0.5");
        /// Whether what is beyond the range of integers of 16 bits is cut off. Other numbers have no full scale.
        pub clip: Option<bool>, otherwise("true for sound of 16 bits, else false"), example("false");
    }
}

impl FrontendKind for Gain {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        match (self.db, self.linear) {
            (None, None) => checker.problem(key, "write the gain: db or linear"),
            (Some(_), Some(_)) => checker.problem(&key.child("linear"), "db sets the gain too; remove one of them"),
            (None, Some(0.0)) => checker.problem(&key.child("linear"), "a gain of 0 leaves nothing of the samples"),
            _ => {}
        }
    }

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        channels_only(input)?;
        if self.clip == Some(true) && !is_pcm16(input) {
            let message = "only sound of 16 bits has a full scale to cut at; remove it";
            return Err(Mismatch::at("clip", message));
        }
        Ok(StreamSpec { sample: SampleType::F32, units: Vec::new(), ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        let factor = self.db.map(amplitude).or(self.linear).unwrap_or(1.0);
        Box::new(Multiply { factor: factor as f32, clip: self.clip.unwrap_or(is_pcm16(input)) })
    }
}

struct Multiply {
    factor: f32,
    clip: bool,
}

impl Stage for Multiply {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        let products = frames.iter().map(|value| value * self.factor);
        if self.clip {
            out.extend(products.map(|value| value.clamp(PCM16_LOWEST, PCM16_HIGHEST)));
        } else {
            out.extend(products);
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::super::{Chain, Frontend};
    use super::*;
    use crate::stream::{Content, Shape};

    fn spec(sample: SampleType) -> StreamSpec {
        StreamSpec { units: vec!["g".into()], ..StreamSpec::new(Shape::new([1]), sample, Some(50.0)) }
    }

    #[test]
    fn sound_is_cut_at_full_scale_and_stays_sound_and_other_numbers_are_not() {
        let of = |keys: &str, sample| {
            let gain: Frontend = toml::from_str(&format!("gain = {{ {keys} }}")).unwrap();
            let (mut chain, output) = Chain::new(&[gain], &spec(sample), |_, _| ()).unwrap();
            let values = chain.process(|block| block.extend_from_slice(&[1.0, -4000.0, 20_000.0])).to_vec();
            (values, output.content)
        };
        assert_eq!(of("linear = 10.0", SampleType::I16), (vec![10.0, -32_768.0, 32_767.0], Content::Pcm16));
        assert_eq!(of("db = 20.0, clip = false", SampleType::I16), (vec![10.0, -4e4, 2e5], Content::Pcm16));
        assert_eq!(of("linear = -0.5", SampleType::F32), (vec![-0.5, 2000.0, -10_000.0], Content::Samples));
    }

    #[test]
    fn the_output_has_no_unit_that_is_wrong_and_a_cut_needs_a_full_scale() {
        let gain: Gain = toml::from_str("linear = 9.81\nclip = true").unwrap();
        assert_eq!(gain.output(&spec(SampleType::I16)).unwrap().units, [""; 0]);
        assert_eq!(gain.output(&spec(SampleType::F32)).unwrap_err().key, Some("clip"));
    }
}
