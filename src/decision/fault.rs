//! What can be wrong with a model's output.

/// Why a window's outputs cannot be decided on, or are doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nan,
    Infinite,
    /// A probability that is not 0 to 1.
    NotProbability,
    /// Logits that look like probabilities. They are decided on.
    LooksNormalised,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Nan, Self::Infinite, Self::NotProbability, Self::LooksNormalised];

    /// Returns the name as it stands in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nan => "nan",
            Self::Infinite => "infinite",
            Self::NotProbability => "not_a_probability",
            Self::LooksNormalised => "looks_normalised",
        }
    }

    /// Returns whether a window with it has no decision.
    pub fn decides_nothing(self) -> bool {
        self != Self::LooksNormalised
    }

    /// Returns what is wrong with values of which not all are numbers.
    pub fn of(values: &[f32]) -> Option<Self> {
        // Without a branch for each value, so that it vectorises.
        let odd = values.iter().fold(0, |odd, value| odd | u32::from(!value.is_finite()));
        match odd {
            0 => None,
            _ if values.iter().any(|value| value.is_nan()) => Some(Self::Nan),
            _ => Some(Self::Infinite),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_number_is_a_fault() {
        assert_eq!(Fault::of(&[]), None);
        assert_eq!(Fault::of(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE]), None);
        assert_eq!(Fault::of(&[1.0, f32::NAN, f32::INFINITY]), Some(Fault::Nan));
        assert_eq!(Fault::of(&[1.0, f32::NEG_INFINITY]), Some(Fault::Infinite));
    }
}
