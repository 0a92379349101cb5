//! The results of a bench as they are written and read: a JSON document with a version of its own.
//!
//! Owns the form, which docs/bench.md describes. Times are in milliseconds, energy in millijoules per window, power in watts.
//! What is not known is null, with a reason beside it, and never 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::statistics::{Difference, Estimate};
use crate::text::counted;
use crate::units::WallTime;

/// The version of the form. A reader refuses others; new fields alone do not change it.
pub const VERSION: u32 = 1;

/// One bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub v: u32,
    pub edgewatt: String,
    pub time_ms: WallTime,
    pub machine: Machine,
    pub runtime: String,
    pub plan: PlanReport,
    /// What the windows are: "windows of shoulder_recording.csv", or "random".
    pub windows: String,
    /// What was seen that may have changed the results.
    pub warnings: Vec<String>,
    /// Which other programs used processor time.
    pub other_programs: Option<String>,
    /// Why there is no energy, if no cell has any.
    pub no_energy: Option<String>,
    /// The cell that the others are compared with: the first that ran.
    pub baseline: Option<String>,
    pub cells: Vec<CellReport>,
}

/// The machine that it ran on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The board or computer, if it names itself.
    pub model: Option<String>,
    pub processor: Option<String>,
    pub processors: usize,
    pub memory_mib: Option<u64>,
    pub kernel: String,
    pub architecture: String,
}

impl Machine {
    /// Returns what to call it: the board or computer, else the processor.
    pub fn name(&self) -> &str {
        self.model.as_deref().or(self.processor.as_deref()).unwrap_or(&self.architecture)
    }

    /// Returns its processor, memory and kernel in words.
    pub fn in_words(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or(&self.architecture);
        let memory = self.memory_mib.map_or(String::new(), |mib| format!(", {mib} MiB of memory"));
        format!("{processor}, {}{memory}, kernel {}", counted(self.processors, "processor"), self.kernel)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    pub rounds: usize,
    /// The rounds that were done; fewer after a stop.
    pub rounds_done: usize,
    pub run_s: f64,
    pub idle_s: f64,
    pub is_quick: bool,
}

/// What one cell gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    /// The cell's name, which is the same in every bench: model, delegate, threads, batch.
    pub name: String,
    pub model: ModelReport,
    pub delegate: DelegateReport,
    pub threads: Option<u16>,
    pub batch: usize,
    /// Why it did not run, or not to the end.
    pub failure: Option<String>,
    /// `None`: it never ran.
    pub speed: Option<Speed>,
    /// By meter.
    pub energy: BTreeMap<String, Energy>,
    /// The peak memory of a process that runs only this engine.
    pub memory_mib: Option<f64>,
    pub agreement: Agreement,
    /// The part of the labelled windows whose class is right; `None` if the data has no labels.
    pub accuracy: Option<Accuracy>,
    /// `None` for the baseline, and without it.
    pub against_baseline: Option<AgainstBaseline>,
    pub rounds: Vec<Round>,
    /// The times of operators, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    pub name: String,
    pub sha256: String,
    pub bytes: u64,
}

/// The delegate, and what it was seen to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegateReport {
    pub name: String,
    pub kind: String,
    pub isolation: String,
    pub library_version: Option<String>,
    /// The proof, as `info` publishes it.
    pub proof: serde_json::Value,
}

/// How fast it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// From the file to an engine that can run.
    pub load_ms: Estimate,
    /// The first inference.
    pub first_ms: Estimate,
    /// Of one inference, inside of invoke, by quantile.
    pub p50_ms: Estimate,
    pub p90_ms: Estimate,
    pub p99_ms: Estimate,
    /// The longest of all; another bench may give any other.
    pub max_ms: f64,
    pub inferences: u64,
    /// Windows per second, back to back, input and output included.
    pub windows_per_s: Estimate,
    /// Processor time per window.
    pub cpu_ms: Estimate,
    /// The times of inferences: the upper bound of each class in milliseconds, and how many fell into it.
    pub histogram: Vec<(f64, u64)>,
}

/// Energy per window by one meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    pub kind: String,
    pub scope: String,
    /// "measured", "attributed", "estimated", "replayed" or "unavailable", as in the daemon's messages.
    pub status: String,
    pub reason: Option<String>,
    pub gross_mj: Option<Expanded>,
    pub net_mj: Option<Expanded>,
    /// Power while the engine was loaded and nothing ran.
    pub idle_w: Option<f64>,
    /// By how much that is above the power with nothing loaded.
    pub idle_draw_w: Option<Estimate>,
    /// How long power stays up after a run, and by how much shortly after it; null if it does not show.
    pub tail_s: Option<f64>,
    pub tail_w: Option<f64>,
}

/// A value with its expanded uncertainty (k = 2), and its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Expanded {
    pub value: f64,
    /// `None`: nothing is known of it, as of a model of power.
    pub expanded: Option<f64>,
    /// Standard uncertainties: what scatters, and what is the same in all cells: the meter's errors of scale.
    pub statistical: Option<f64>,
    pub systematic: Option<f64>,
}

/// Agreement with the reference: the first model on the runtime's own kernels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    pub windows: usize,
    /// The part of windows with the same largest output.
    pub top1: Option<f64>,
    /// The largest difference of an output, as a part of the reference's largest output.
    pub largest_difference: Option<f64>,
    /// Why it is not known.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    pub windows: usize,
    pub right: Estimate,
}

/// The time of each operator, the longest first. The profiler makes an inference longer than it is without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub inferences: u64,
    pub operators: Vec<Operator>,
    /// How energy was told apart: by "time"; `None` without energy.
    pub energy_by: Option<String>,
    /// Why there is no profile.
    pub reason: Option<String>,
}

/// One operator of the model, or of a delegate's partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    pub name: String,
    /// The index of its node in the model, or of its step in the partition.
    pub place: usize,
    pub is_delegated: bool,
    /// Of one inference.
    pub ms: f64,
    /// The part of the time of all operators.
    pub part: f64,
    /// Net energy per window.
    pub net_mj: Option<f64>,
}

/// The cell's values divided by those of the baseline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgainstBaseline {
    /// Of the median time of a window.
    pub time: Option<Difference>,
    /// Of net energy per window, by meter.
    pub net: BTreeMap<String, Difference>,
}

/// What one round gave; bench compare reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub windows_per_s: f64,
    /// Net energy per window, by meter.
    pub net_mj: BTreeMap<String, f64>,
    pub clock_mhz: Option<f64>,
    pub temperature_c: Option<f64>,
    /// What slowed the processor down.
    pub throttled: Vec<String>,
    /// Processor cores that other programs used.
    pub other_cores: Option<f64>,
}

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it is not a report of edgewatt bench: {0}")]
    Form(#[from] serde_json::Error),
    #[error("it has version {0}, and this edgewatt reads version {VERSION}; use the edgewatt that wrote it")]
    Version(u32),
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// It is none, or one of another version.
    pub fn read(json: &[u8]) -> Result<Self, ReadError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        match serde_json::from_slice(json)? {
            Version { v: VERSION } => Ok(serde_json::from_slice(json)?),
            Version { v } => Err(ReadError::Version(v)),
        }
    }

    /// Returns the cells that ran.
    pub fn ran(&self) -> impl Iterator<Item = &CellReport> {
        self.cells.iter().filter(|cell| cell.speed.is_some())
    }

    /// Returns the report without what may be private or is long: the names of programs and of the recording, and the rounds.
    #[must_use]
    pub fn to_share(&self) -> Self {
        let mut shared = self.clone();
        shared.other_programs = None;
        shared.windows = match self.windows.split_once(" of ") {
            Some((count, _)) => format!("{count} of a recording"),
            None => shared.windows,
        };
        for cell in &mut shared.cells {
            // Their words may name files.
            cell.failure.iter_mut().for_each(|failure| *failure = "it did not run to the end".to_owned());
            cell.agreement.reason.iter_mut().for_each(|reason| *reason = "it is not known".to_owned());
            cell.rounds.clear();
            cell.profile = None;
            cell.speed.iter_mut().for_each(|speed| speed.histogram.clear());
        }
        shared
    }

    /// Returns the name of the meter that cells are compared by: the first in the order of names that gave energy.
    pub fn meter(&self) -> Option<&str> {
        let has_energy = |(_, energy): &(&String, &Energy)| energy.net_mj.is_some() || energy.gross_mj.is_some();
        self.cells.iter().flat_map(|cell| &cell.energy).find(has_energy).map(|(name, _)| name.as_str())
    }
}
