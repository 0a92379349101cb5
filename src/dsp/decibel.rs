//! Decibels of a power, and what they are of an amplitude.

/// `10 * log10(max(amin, power) / reference)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decibel {
    amin: f32,
    reference_db: f32,
}

impl Decibel {
    /// `amin` is the smallest power that is told from silence; `reference` is the power of 0 dB.
    pub fn new(amin: f32, reference: f32) -> Self {
        Self { amin, reference_db: 10.0 * reference.max(amin).log10() }
    }

    /// Returns the decibels of a power.
    pub fn of(self, power: f32) -> f32 {
        10.0 * at_least(power, self.amin).log10() - self.reference_db
    }
}

/// Returns what an amplitude is multiplied by, for a gain in decibels.
pub fn amplitude(gain_db: f64) -> f64 {
    10f64.powf(gain_db / 20.0)
}

/// Returns the larger one. What is not a number stays so, unlike with [`f32::max`], and is seen by who comes later.
pub fn at_least<T: PartialOrd>(value: T, least: T) -> T {
    if value < least { least } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_the_reference_have_a_floor() {
        let absolute = Decibel::new(1e-10, 1.0);
        assert!((absolute.of(0.0) + 100.0).abs() < 1e-4);
        assert!((absolute.of(100.0) - 20.0).abs() < 1e-5);
        assert!((Decibel::new(1e-5, 0.0).of(1.0) - 50.0).abs() < 1e-4, "the reference is not below amin");
        assert!(absolute.of(f32::NAN).is_nan());
    }
}
