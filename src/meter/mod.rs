//! Meters: what reads joules from the machine, each behind one small trait.
//!
//! Owns how a reading is taken, wraps and gaps, and how an absent meter comes back. Leaves the meaning of the joules to
//! `energy`. Everything here runs on the meter thread (`sampler`), with its files kept open.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Joules, MonoTime, Watts};

pub mod counter;
pub(crate) mod estimate;
pub mod hwmon;
pub(crate) mod iio;
pub(crate) mod ina219;
mod integral;
pub(crate) mod perf;
pub(crate) mod pmic;
pub(crate) mod powercap;
pub mod rapl;
pub(crate) mod replay;
pub mod sampler;
mod shunt;
pub(crate) mod survey;
mod sysfs;
#[cfg(test)]
#[allow(unreachable_pub, reason = "the support crate of the tests compiles it, too")]
mod tree;

/// A source of cumulative energy.
pub trait Meter: Send {
    /// What this meter is; `detail` is empty and `scope` the expected one until the first successful read.
    fn info(&self) -> &MeterInfo;

    /// Reads the meter, looking for it first when it is not open.
    ///
    /// After an error the next success is a new baseline: the joules between the successes around it mean nothing.
    fn read(&mut self) -> Result<Reading, MeterError>;
}

/// What a meter is and what it covers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeterInfo {
    /// The meter's name in the configuration.
    pub name: String,
    /// `rapl`, `hwmon`, `iio`, `ina219`, `pmic`, `replay` or `estimate`.
    pub kind: &'static str,
    pub scope: Scope,
    /// True when the joules are computed from a model of the machine, not measured.
    pub estimated: bool,
    /// The zones, or the chip and its files, one thing a line.
    pub detail: Vec<String>,
}

/// The part of the machine whose energy a meter covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Processor packages, with their memory where the processor counts it.
    Package,
    /// All that the processor's platform counter (psys) covers.
    Platform,
    /// The supply of the whole board.
    Board,
    /// One device or rail, such as an accelerator's supply.
    Device,
    /// This process alone on an otherwise idle machine.
    Process,
}

impl Scope {
    /// As it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Platform => "platform",
            Self::Board => "board",
            Self::Device => "device",
            Self::Process => "process",
        }
    }
}

/// One reading of a meter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When it was read: halfway between before and after, as an I2C read takes time.
    pub time: MonoTime,
    /// Energy since the meter was opened; never decreases.
    pub joules: Joules,
    /// The sensor's power, or a counter's mean since its last reading; none where there is no last reading.
    pub power: Option<Watts>,
    pub volts: Option<f64>,
    pub amperes: Option<f64>,
    /// What the joules cover; found with the meter, so it can differ from what was expected.
    pub scope: Scope,
    /// How well the joules follow the truth; like the scope found with the meter.
    pub accuracy: Accuracy,
}

/// How well a meter's joules follow the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    pub resolution: Resolution,
    /// The error of the scale, which no averaging takes away, as a part of the value; none where nobody states it.
    pub systematic_rel: Option<f64>,
}

/// How a meter's joules come about, which says how far off they can be at a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Resolution {
    /// A counter that the hardware updates once in `update`, in whole steps of `quantum`.
    Counter { update: Duration, quantum: Joules },
    /// Power, the mean of `conversion` until about the time of each reading, in steps of `quantum`; integrated by
    /// trapezoids.
    Sampled { conversion: Duration, quantum: Watts },
    /// Computed from a model, or measured nobody says how: the error is not known. `idle` where a model has an idle power.
    Model { idle: Option<Watts> },
}

impl Resolution {
    pub fn is_model(self) -> bool {
        matches!(self, Self::Model { .. })
    }

    /// The time before a reading that its value tells of.
    pub fn look_back(self) -> Duration {
        match self {
            Self::Counter { update, .. } => update,
            Self::Sampled { conversion, .. } => conversion,
            Self::Model { .. } => Duration::ZERO,
        }
    }
}

/// Why there is no reading; the variants say what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// No such meter now: try again later, hardware and drivers may come.
    #[error("{}: {reason}; {mend}", path.display())]
    Absent { path: PathBuf, reason: String, mend: String },
    /// Several things fit: the configuration must name one.
    #[error("{}: {reason}; {mend}", path.display())]
    Ambiguous { path: PathBuf, reason: String, mend: String },
    /// Another program or driver has it: the mend says how to read it through that one.
    #[error("{}: {reason}; {mend}", path.display())]
    Taken { path: PathBuf, reason: String, mend: String },
    /// The meter is there and may not be read: show the mend.
    #[error("{}: permission denied; {mend}", path.display())]
    Denied { path: PathBuf, mend: String },
    /// The meter gave something that is no reading of it.
    #[error("{}: read {text:?}, expected {expected}", path.display())]
    Invalid { path: PathBuf, text: String, expected: &'static str },
    /// The read failed: try again.
    #[error("{}: {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
    /// The counter stands still although the machine runs: what it gives is no measurement.
    #[error("{}: stuck, no change in {seconds:.1} s on a running processor; {mend}", path.display())]
    Stuck { path: PathBuf, seconds: f64, mend: String },
    /// The meter works, but the energy since its last reading is unknown: go on from the next.
    #[error("energy since the last reading is unknown: {reason}")]
    Rebaselined { reason: String },
}

impl MeterError {
    /// Whether there is nothing there, rather than something that does not work.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// What to do about it, where that is known; the message ends with it.
    pub fn mend(&self) -> Option<&str> {
        match self {
            Self::Absent { mend, .. }
            | Self::Ambiguous { mend, .. }
            | Self::Taken { mend, .. }
            | Self::Denied { mend, .. }
            | Self::Stuck { mend, .. } => Some(mend),
            Self::Invalid { .. } | Self::Failed { .. } | Self::Rebaselined { .. } => None,
        }
    }

    /// The message without what to do.
    pub fn reason(&self) -> String {
        let message = self.to_string();
        let cut = self.mend().and_then(|mend| message.strip_suffix(mend)?.strip_suffix("; "));
        cut.map_or(message.clone(), str::to_owned)
    }
}

/// The moment halfway between two.
fn midpoint(before: MonoTime, after: MonoTime) -> MonoTime {
    before + after.since(before) / 2
}
