//! Energy per inference, with its uncertainty, from the busy times of the engines and the readings of the meters.
//!
//! Pure: spans, readings and their times are passed in. Nothing here reads a clock or a file, or starts a thread; the
//! daemon calls it on the meter thread. The method: docs/energy.md. Files import downwards only:
//!
//! - `attribution` keeps the state of every meter and returns the estimates of all pipelines
//! - `metered` turns the window of one meter into estimates (`estimate`)
//! - `meter_state` turns readings into intervals, fills the `window`, and learns idle power (`idle`)
//! - `saved` adds up what skipped inferences would have taken
//! - `runs` computes net energy from the runs of a calibration
//! - `others` learns what a core of other programs takes, `tail` how long power lasts after an inference
//! - `sums` (uncertainty), `fit` (sharing among pipelines), `spans` (busy times), `calibrated` (what a calibration found) and
//!   `settings` depend on nothing else here

mod attribution;
mod calibrated;
mod estimate;
mod fit;
mod idle;
mod meter_state;
mod metered;
mod others;
pub mod runs;
mod saved;
mod settings;
mod spans;
mod sums;
mod tail;
#[cfg(test)]
mod tests;
mod window;

pub use attribution::Attribution;
pub use calibrated::Calibrated;
pub use estimate::{EnergyEstimate, Includes, Status};
pub use meter_state::OTHER_CORES_MAX;
pub use saved::{SavedEnergy, Savings};
pub use settings::Settings;
