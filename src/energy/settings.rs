//! The settings of the energy estimates, from `[power]` of the configuration.

use std::time::Duration;

use crate::units::Watts;

/// How long a window grows, and where idle power comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// A window ends when the expanded uncertainty of net energy is at most this fraction of the value; of gross energy
    /// if there is no net energy. Checked each time estimates are asked for.
    pub target_rel: f64,
    /// A window of at least this length ends whatever its uncertainty.
    pub window_max: Duration,
    /// Idle power from the configuration; if `None`, it is learned from idle intervals.
    pub idle: Option<Watts>,
    /// By how much `idle` may be off, as a fraction: half the width of a rectangular distribution.
    pub idle_error: f64,
}

impl Settings {
    /// Returns idle power from the configuration in watts, with its standard uncertainty.
    pub(super) fn idle_w(&self) -> Option<(f64, f64)> {
        self.idle.map(|idle| (idle.0, idle.0 * self.idle_error / 3f64.sqrt()))
    }
}
