//! The net energy of an inference as a calibration found it.

use crate::units::WallTime;

/// A busy time within these fractions of the calibration's counts as about the same.
const SAME_BUSY_TIME: std::ops::RangeInclusive<f64> = 0.8..=1.25;

/// Energy above idle of one inference, from calibration runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    pub net_j: f64,
    /// Standard uncertainty; k = 2 expands it.
    pub u_j: f64,
    /// Seconds that an inference took.
    pub busy_s: f64,
    pub time: WallTime,
}

impl Calibrated {
    /// Returns the reason to publish with an estimate that uses this net energy; `lack` says why the window itself could
    /// not tell it.
    pub fn reason(&self, lack: &str, busy_s: f64) -> String {
        let ratio = busy_s / self.busy_s;
        let slower = if SAME_BUSY_TIME.contains(&ratio) {
            String::new()
        } else {
            format!(
                "; an inference took {ratio:.1} times as long as in the calibration, which the uncertainty includes"
            )
        };
        format!("net from the calibration of {}: {lack}{slower}", self.time)
    }

    /// Returns the standard uncertainty if an inference takes `busy_s` now: either the power or the energy may have stayed
    /// the same.
    pub fn u_at_j(&self, busy_s: f64) -> f64 {
        self.u_j.hypot(self.net_j * (busy_s / self.busy_s - 1.0) / 3f64.sqrt())
    }
}
