//! What a pipeline did in the last metrics interval, in a few words.

use std::fmt;

use crate::energy::{EnergyEstimate, Status};
use crate::units::Joules;

/// What a pipeline did in the last metrics interval, for `systemctl status`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntervalFigures {
    predictions_per_s: f64,
    /// Joules an inference and how they were obtained; `None` if energy is unavailable.
    energy: Option<(Joules, Status)>,
}

impl IntervalFigures {
    /// `energy` is the first meter's estimate.
    pub(crate) fn new(predictions_per_s: f64, energy: Option<&EnergyEstimate>) -> Self {
        let energy = energy.and_then(|estimate| Some((Joules(estimate.gross_j?), estimate.status)));
        Self { predictions_per_s, energy }
    }

    /// Writes them in a few words; `active` is the delegate that runs.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, active: &str) -> fmt::Result {
        write!(f, "{:.1}/s by {active}, ", self.predictions_per_s)?;
        match self.energy {
            Some((joules, status)) => write!(f, "{} mJ an inference ({})", joules.in_mj(), status.name()),
            None => write!(f, "energy unavailable"),
        }
    }
}
