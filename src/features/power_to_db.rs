//! Decibels relative to the window: nothing is much quieter than its loudest value.

use super::{FeatureKind, Step, Transform};
use crate::dsp::{Decibel, at_least};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

choice! {
    /// What is 0 dB.
    pub enum Reference { One = "one", Max = "max" }
}

table! {
    /// Turns the energies of a window into decibels, 10 * log10, as librosa.power_to_db does with a whole clip. The front end
    /// before it is `log_mel` with log = "none", or `stft`.
    pub struct PowerToDb {
        /// What is 0 dB: an energy of 1, or the largest energy in the window (ref=np.max).
        pub reference as "ref": Reference = Reference::One;
        /// The least energy.
        pub amin: f32 = 1e-10, range(1e-20, 1e9);
        /// How far below the largest value of the window a value can be; what is lower is raised to that. 1000 raises nothing
        /// (top_db=None).
        pub top_db: f32 = 80.0, range(0.0, 1000.0), unit("dB");
    }
}

impl FeatureKind for PowerToDb {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        Ok(input.clone())
    }

    fn build(&self, _: &Shape, _: &StreamSpec) -> Step {
        Step::Transform(Box::new(self.clone()))
    }
}

impl Transform for PowerToDb {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let largest = window.iter().copied().fold(0.0f32, f32::max);
        let decibel = Decibel::new(
            self.amin,
            match self.reference {
                Reference::One => 1.0,
                Reference::Max => largest,
            },
        );
        let least = decibel.of(largest) - self.top_db;
        for (to, energy) in out.iter_mut().zip(window) {
            *to = at_least(decibel.of(*energy), least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loudest_value_decides_what_is_silent() {
        let decibels = |toml: &str, window: [f32; 4]| {
            let mut out = [0.0; 4];
            toml::from_str::<PowerToDb>(toml).unwrap().apply(&window, &mut out);
            out.map(|value| (value * 1e3).round() / 1e3)
        };
        assert_eq!(decibels("", [100.0, 1.0, 1e-5, 0.0]), [20.0, 0.0, -50.0, -60.0]);
        assert_eq!(decibels("ref = \"max\"", [100.0, 1.0, 1e-5, 0.0]), [0.0, -20.0, -70.0, -80.0]);
        assert_eq!(decibels("top_db = 1000.0", [100.0, 1.0, 1e-5, 0.0]), [20.0, 0.0, -50.0, -100.0]);
        assert_eq!(decibels("ref = \"max\"", [0.0; 4]), [0.0; 4], "silence is as loud as its loudest value");
    }
}
