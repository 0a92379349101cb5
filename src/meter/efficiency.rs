//! The efficiency of a supply that stands between a meter and the load.
//!
//! Pure. A meter at the wall socket includes the losses of the supply: the load gets the efficiency times what it shows.

use super::{Accuracy, Reading, Resolution, Scale};
use crate::units::{Joules, Watts};

/// What part of the metered power the load gets, with the largest error of that part as a fraction of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Efficiency {
    pub factor: f64,
    /// `None`: it is not known.
    pub error: Option<f64>,
}

impl Efficiency {
    /// Returns what `factor` and `error` of a configuration say; `None` if there is no factor.
    pub(crate) fn of(factor: Option<f64>, error: Option<f64>) -> Option<Self> {
        factor.map(|factor| Self { factor, error })
    }

    /// Returns the reading at the load's side. Voltage and current stay as the meter shows them.
    ///
    /// The error of the efficiency is added to that of the gain: both are the same in every reading. If one is not known,
    /// the sum is not.
    pub(crate) fn at_load(self, reading: Reading) -> Reading {
        let Self { factor, error } = self;
        let resolution = match reading.accuracy.resolution {
            Resolution::Counter { update, quantum } => {
                Resolution::Counter { update, quantum: Joules(quantum.0 * factor) }
            }
            Resolution::Sampled { conversion, quantum } => {
                Resolution::Sampled { conversion, quantum: Watts(quantum.0 * factor) }
            }
            Resolution::Model { idle } => Resolution::Model { idle: idle.map(|idle| Watts(idle.0 * factor)) },
        };
        let Scale { gain_error, offset_w } = reading.accuracy.scale;
        let gain_error = gain_error.zip(error).map(|(gain, error)| gain + error);
        Reading {
            joules: Joules(reading.joules.0 * factor),
            power: reading.power.map(|power| Watts(power.0 * factor)),
            accuracy: Accuracy { resolution, scale: Scale { gain_error, offset_w: offset_w * factor } },
            ..reading
        }
    }

    /// Returns a line about it for `info`.
    pub(crate) fn describe(self) -> String {
        let error =
            self.error.map_or("an unknown error".to_owned(), |error| format!("an error of up to {error} of it"));
        format!("times the supply's efficiency, {} with {error}", self.factor)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Scope;
    use super::*;
    use crate::units::MonoTime;

    fn reading(gain_error: Option<f64>) -> Reading {
        Reading {
            time: MonoTime(7),
            joules: Joules(200.0),
            power: Some(Watts(10.0)),
            volts: Some(230.0),
            amperes: None,
            scope: Scope::Board,
            accuracy: Accuracy {
                resolution: Resolution::Sampled { conversion: Duration::from_secs(1), quantum: Watts(0.1) },
                scale: Scale { gain_error, offset_w: 0.5 },
            },
        }
    }

    #[test]
    fn the_load_gets_a_part_and_the_errors_add_up() {
        let efficiency = Efficiency { factor: 0.8, error: Some(0.05) };
        let at_load = efficiency.at_load(reading(Some(0.01)));
        assert_eq!((at_load.joules, at_load.power, at_load.volts), (Joules(160.0), Some(Watts(8.0)), Some(230.0)));
        let Accuracy { resolution, scale } = at_load.accuracy;
        let Resolution::Sampled { conversion, quantum } = resolution else { panic!("{resolution:?}") };
        assert_eq!(conversion, Duration::from_secs(1));
        assert!((quantum.0 - 0.08).abs() < 1e-12 && (scale.offset_w - 0.4).abs() < 1e-12);
        assert!((scale.gain_error.unwrap() - 0.06).abs() < 1e-12, "{scale:?}");
    }

    #[test]
    fn an_error_that_is_not_known_makes_the_sum_unknown() {
        let gain = |error, gain| Efficiency { factor: 0.8, error }.at_load(reading(gain)).accuracy.scale.gain_error;
        assert_eq!(gain(None, Some(0.01)), None);
        assert_eq!(gain(Some(0.05), None), None);
    }
}
