//! Two benches of the same cells, before and after a change: which cells became slower or take more energy?
//!
//! Pure. The two ran at different times, so what the machine was like in the one and the other is a part of the difference; what
//! lies within the scatter of the rounds is not called a difference.

use serde::Serialize;

use super::report::{CellReport, Report, Round};
use super::statistics::{Difference, unpaired};

/// What became of one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellComparison {
    pub name: String,
    /// After divided by before: the median time of a window, and net energy by the first meter that both have.
    pub time: Option<Difference>,
    pub net: Option<Difference>,
    /// The model file, the runtime or the proof of the delegate differs, as text.
    pub changed: Vec<String>,
}

/// Two benches beside each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub cells: Vec<CellComparison>,
    /// Cells that only one of the two has, or in which they did not run.
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
    /// Why the two may not be comparable.
    pub warnings: Vec<String>,
    /// The smallest change that counts as a regression, as a factor.
    pub least: f64,
}

impl CellComparison {
    /// Returns whether the cell became slower or takes more energy, beyond the noise and by more than `least`.
    pub fn is_regression(&self, least: f64) -> bool {
        let is_worse =
            |of: &Option<Difference>| of.is_some_and(|of| of.low.is_some_and(|low| low > 1.0) && of.ratio > least);
        is_worse(&self.time) || is_worse(&self.net)
    }
}

impl Comparison {
    /// Returns the cells that are worse.
    pub fn regressions(&self) -> impl Iterator<Item = &CellComparison> {
        self.cells.iter().filter(|cell| cell.is_regression(self.least))
    }
}

/// Compares the cells that both have; a change by less than the factor `least` is no regression.
pub fn compare(before: &Report, after: &Report, least: f64) -> Comparison {
    let both: Vec<(&CellReport, &CellReport)> =
        before.ran().filter_map(|cell| Some((cell, after.ran().find(|other| other.name == cell.name)?))).collect();
    let meter = before.meter().filter(|meter| after.cells.iter().any(|cell| cell.energy.contains_key(*meter)));
    // Time and energy of each cell are looked at.
    let comparisons = both.len() * if meter.is_some() { 2 } else { 1 };
    let cells = both.iter().map(|(before_cell, after_cell)| {
        let of = |value: &dyn Fn(&Round) -> Option<f64>| {
            let values = |cell: &CellReport| cell.rounds.iter().filter_map(value).collect::<Vec<f64>>();
            unpaired(&values(after_cell), &values(before_cell), comparisons)
        };
        let net = meter.and_then(|meter| of(&|round: &Round| round.net_mj.get(meter).copied()));
        CellComparison {
            name: before_cell.name.clone(),
            time: of(&|round: &Round| Some(round.p50_ms)),
            net,
            changed: changed(before_cell, after_cell),
        }
    });
    let only = |one: &Report, other: &Report| {
        let is_missing = |cell: &&CellReport| !other.ran().any(|other| other.name == cell.name);
        one.ran().filter(is_missing).map(|cell| cell.name.clone()).collect()
    };
    Comparison {
        cells: cells.collect(),
        only_before: only(before, after),
        only_after: only(after, before),
        warnings: warnings(before, after),
        least,
    }
}

fn changed(before: &CellReport, after: &CellReport) -> Vec<String> {
    let mut changed = Vec::new();
    if before.model.sha256 != after.model.sha256 {
        changed.push("the model file".to_owned());
    }
    if before.delegate.proof != after.delegate.proof {
        changed.push("what the delegate runs".to_owned());
    }
    if before.delegate.library_version != after.delegate.library_version {
        changed.push("the delegate's library".to_owned());
    }
    changed
}

fn warnings(before: &Report, after: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    if before.machine != after.machine {
        warnings.push("the two ran on different machines or kernels".to_owned());
    }
    if before.runtime != after.runtime {
        warnings.push(format!("the runtime was {} before and is {} after", before.runtime, after.runtime));
    }
    if before.windows != after.windows {
        warnings.push(format!("the windows were {} before and are {} after", before.windows, after.windows));
    }
    for (when, report) in [("before", before), ("after", after)] {
        warnings.extend(report.warnings.iter().map(|warning| format!("{when}: {warning}")));
    }
    warnings
}
