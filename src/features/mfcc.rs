//! Mel-frequency cepstral coefficients of a window, where what comes before them depends on the whole window.

use super::{FeatureKind, Step, Transform};
use crate::dsp::{Convention, Dct};
pub use crate::frontend::mfcc::Mfcc;
use crate::schema::{Checker, Key};
use crate::stream::{Content, Mismatch, Shape, StreamSpec};

impl FeatureKind for Mfcc {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, stream: &StreamSpec) -> Result<Shape, Mismatch> {
        let [frames, bands] = input.dims() else {
            let message = format!("it takes windows [frames, mel bands]; this one is {input}");
            return Err(Mismatch::new(message));
        };
        Ok(Shape::new([*frames, self.coefficients(convention(stream), *bands)?]))
    }

    fn build(&self, input: &Shape, stream: &StreamSpec) -> Step {
        let bands = input.channels();
        Step::Transform(Box::new(Coefficients { bands, dct: self.transform(convention(stream), bands) }))
    }
}

/// Returns the convention of the bands in the stream, or that of librosa, whose coefficients need the whole window.
fn convention(stream: &StreamSpec) -> Convention {
    match stream.content {
        Content::Mel { convention, .. } => convention,
        _ => Convention::Librosa,
    }
}

struct Coefficients {
    bands: usize,
    dct: Dct,
}

impl Transform for Coefficients {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let coefficients = window.chunks_exact(self.bands).flat_map(|bands| self.dct.apply(bands));
        out.iter_mut().zip(coefficients).for_each(|(to, value)| *to = value);
    }
}
