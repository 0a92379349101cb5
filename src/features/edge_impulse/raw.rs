//! The samples themselves.

use super::{BlockInput, Extract, ProcessingKind};
use crate::schema::{Checker, Key, table};

table! {
    /// Raw data: the samples as they are, sample by sample, as a model with its own feature extraction takes them.
    pub struct Raw {
        /// The block's implementation version.
        pub version: u8 = 1, range(1, 1);
        /// Multiplies the samples.
        pub scale_axes: f64 = 1.0, range(-1e9, 1e9);
    }
}

impl ProcessingKind for Raw {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        Ok(Box::new(Samples { input: *input, scale: self.scale_axes }))
    }
}

struct Samples {
    input: BlockInput,
    scale: f64,
}

impl Extract for Samples {
    fn features(&self) -> usize {
        self.input.samples * self.input.axes
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        for (axis, samples) in input.chunks_exact(self.input.samples).enumerate() {
            for (to, from) in out[axis..].iter_mut().step_by(self.input.axes).zip(samples) {
                *to = (f64::from(*from) * self.scale) as f32;
            }
        }
    }
}
