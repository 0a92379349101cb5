//! Mel-frequency cepstral coefficients: the cosine transform of the logarithms of mel bands.

use super::{FrontendKind, Stage};
use crate::dsp::{Convention, Dct, DctNorm};
use crate::schema::{Checker, Key, table};
use crate::stream::{Content, Mismatch, SampleType, Shape, StreamSpec};

table! {
    /// Mel-frequency cepstral coefficients. It stands after `log_mel`; or among the features, after `power_to_db`.
    pub struct Mfcc {
        /// The number of coefficients, from coefficient 0 on.
        pub n_mfcc: Option<usize>, range(1, 4096), otherwise("librosa: 20; tensorflow: as many as there are bands"),
            example("13");
        /// How the cosine transform is scaled: "ortho" and "none" as `norm` of librosa, "tensorflow" as
        /// tf.signal.mfccs_from_log_mel_spectrograms.
        pub norm: Option<DctNorm>, otherwise("librosa: \"ortho\"; tensorflow: \"tensorflow\""), example("\"ortho\"");
        /// Raises the higher coefficients, as `lifter` of librosa does; 0 leaves them.
        pub lifter: f64 = 0.0, range(0.0, 1e6);
    }
}

impl Mfcc {
    /// Returns the number of coefficients of `bands` bands.
    ///
    /// # Errors
    /// There are more coefficients than bands.
    pub fn coefficients(&self, convention: Convention, bands: usize) -> Result<usize, Mismatch> {
        match (self.n_mfcc, convention) {
            (Some(count), _) if count > bands => {
                Err(Mismatch::at("n_mfcc", format!("{count} coefficients need as many mel bands; there are {bands}")))
            }
            (Some(count), _) => Ok(count),
            (None, Convention::Librosa) => Ok(bands.min(20)),
            (None, Convention::TensorFlow) => Ok(bands),
        }
    }

    /// Builds the transform of `bands` bands.
    pub fn transform(&self, convention: Convention, bands: usize) -> Dct {
        let norm = self.norm.unwrap_or(match convention {
            Convention::Librosa => DctNorm::Ortho,
            Convention::TensorFlow => DctNorm::TensorFlow,
        });
        // librosa.feature.mfcc: coefficient k is multiplied with 1 + lifter / 2 * sin(pi * (k + 1) / lifter).
        let lift = |k: usize| match self.lifter {
            0.0 => 1.0,
            lifter => 1.0 + lifter / 2.0 * (std::f64::consts::PI * (k + 1) as f64 / lifter).sin(),
        };
        let count = self.coefficients(convention, bands).unwrap_or(bands);
        Dct::new(bands, count, |k| norm.gain(bands, k) * lift(k))
    }
}

impl FrontendKind for Mfcc {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        match input.content {
            Content::Mel { convention, log: true } => Ok(StreamSpec {
                frame: Shape::new([self.coefficients(convention, input.frame.values())?]),
                sample: SampleType::F32,
                content: Content::Samples,
                ..input.clone()
            }),
            Content::Mel { .. } => Err(Mismatch::new(
                "it takes logarithms, and log_mel has log = \"none\"; use mfcc as a feature after power_to_db",
            )),
            _ => Err(Mismatch::new("it takes mel bands; put the front end log_mel right before it")),
        }
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        let convention = match input.content {
            Content::Mel { convention, .. } => convention,
            // Unreachable: `output` has refused it.
            _ => Convention::Librosa,
        };
        let bands = input.frame.values();
        Box::new(Coefficients { bands, dct: self.transform(convention, bands) })
    }
}

struct Coefficients {
    bands: usize,
    dct: Dct,
}

impl Stage for Coefficients {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for bands in frames.chunks_exact(self.bands) {
            out.extend(self.dct.apply(bands));
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames
    }

    fn reset(&mut self) {}
}
