//! The bench: what each choice of a model, a delegate, threads and a batch buys, measured cell by cell.
//!
//! Owns the order: every cell is tried and its answers are compared, then all cells run in rounds under the meters, then the
//! results are worked out. Leaves the schedule of a round to `rounds`, results to `analysis`, their form to `report`, and
//! loading to `load::cells`. Blocks until it is done; a stop ends it soon, and what was done counts.

mod analysis;
mod answers;
pub mod compare;
mod distribution;
mod lab;
pub mod machine;
pub mod matrix;
mod profile;
pub mod recommend;
pub mod report;
pub mod rounds;
pub mod statistics;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use analysis::{Metered, fill};
pub use distribution::Distribution;

use answers::{Answers, Known};
use lab::{RealLab, Runnable};
use matrix::{Cell, Matrix};
use report::{CellReport, DelegateReport, ModelReport, PlanReport, Report, VERSION};
use rounds::{Plan, Seen};

use super::back_to_back::CalibrateError;
use super::calibrations::MeterIdentity;
use super::metering::Metering;
use crate::config::{Delegate, Pipeline, Power};
use crate::energy::runs::{RUNS_MIN, Trace};
use crate::load::cells;
use crate::load::engines::{EngineBuilder, EngineContext};
use crate::load::meters::MeterContext;
use crate::stop::Stop;
use crate::sys::cpu::programs;
use crate::units::WallTime;

/// What a bench runs.
pub struct Subject<'a> {
    pub context: &'a EngineContext,
    /// The pipeline in which the models run; `None`: by themselves.
    pub pipeline: Option<&'a Pipeline>,
    /// The files of the matrix's models, in its order.
    pub files: Vec<PathBuf>,
    pub windows: WindowsFrom,
    /// The model whose answers others are compared with; `None`: the first of the matrix.
    pub reference: Option<PathBuf>,
}

/// Where the windows are from.
#[derive(Debug, Clone)]
pub enum WindowsFrom {
    /// A recording, played through the pipeline.
    Recording(PathBuf),
    /// A text file with a window a line.
    Text(PathBuf),
    Random,
}

/// How it is measured.
pub struct Means<'a> {
    pub power: Option<(&'a Power, &'a MeterContext)>,
    /// Why there is no meter, if there is none.
    pub no_meter: Option<String>,
    pub plan: Plan,
    pub is_quick: bool,
    /// Whether operators are timed, too.
    pub profile: bool,
    pub stop: &'a Arc<Stop>,
}

/// What a bench tells while it works.
pub enum Progress<'a> {
    /// A cell is tried.
    Trying(&'a str),
    /// So many turns of all are done, and what is left takes about so long.
    Running { done: usize, all: usize, left: Duration },
}

/// Why a bench gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Windows(String),
    #[error("none of the cells can run; {0}")]
    NoCell(String),
    #[error("stopped before a cell had its turn")]
    Stopped,
    #[error(transparent)]
    Meters(#[from] CalibrateError),
}

/// Other programs that used more than this part of one core are named.
const BUSY_PROGRAM: f64 = 0.02;
/// A warning says so if the clock differed by more than this part between turns.
const CLOCK_SPREAD: f64 = 0.05;
/// And if the temperature differed by more degrees.
const WARMER: f64 = 10.0;

/// Carries out a bench.
///
/// # Errors
/// There are no windows, no cell runs, or a meter's thread cannot be started.
pub fn run(
    subject: &Subject<'_>,
    matrix: &Matrix,
    means: &Means<'_>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Report, BenchError> {
    let cells = matrix.cells();
    let known = Known::new(subject)?;
    let (mut reports, mut runnable) = (Vec::new(), Vec::new());
    for cell in &cells {
        if means.stop.is_requested() {
            return Err(BenchError::Stopped);
        }
        let name = cell.name(&matrix.models);
        progress(Progress::Trying(&name));
        let (report, ready) = tried(subject, matrix, cell, name, &known);
        reports.push(report);
        runnable.push(ready);
    }
    if runnable.iter().all(Option::is_none) {
        let reason = reports.iter().find_map(|cell| Some(format!("{}: {}", cell.name, cell.failure.as_ref()?)));
        return Err(BenchError::NoCell(reason.unwrap_or_default()));
    }
    let metering = match means.power {
        Some((power, context)) => Some((Metering::start(power, context, means.stop)?, power.sample_period)),
        None => None,
    };
    let plan = lengthened(means.plan, metering.as_ref());
    let sysfs = means.power.map_or_else(|| PathBuf::from("/sys"), |(power, _)| power.sysfs.clone());
    let children = subject.context.launcher.children.clone();
    let batches: Vec<Option<usize>> =
        cells.iter().zip(&runnable).map(|(cell, runnable)| runnable.as_ref().map(|_| cell.batch)).collect();
    let mut lab = RealLab::new(runnable, means.stop.clone(), children, &sysfs);
    let all = plan.rounds * batches.iter().flatten().count();
    let (before, begun) = (programs(), Instant::now());
    let seen = rounds::run(&mut lab, &batches, &plan, |done| {
        let per_turn = begun.elapsed().checked_div(u32::try_from(done).unwrap_or(u32::MAX));
        let per_turn = per_turn.unwrap_or_else(|| plan.total(1) / u32::try_from(plan.rounds.max(1)).unwrap_or(1));
        let left = per_turn * u32::try_from(all.saturating_sub(done)).unwrap_or(u32::MAX);
        progress(Progress::Running { done, all, left });
    });
    let elapsed = begun.elapsed();
    let meters: Vec<Metered> =
        metering.map_or_else(Vec::new, |(metering, _)| metering.finish()).into_iter().map(metered).collect();
    if seen.turns.is_empty() {
        let reason = seen.failures.iter().flatten().next().cloned();
        return Err(reason.map_or(BenchError::Stopped, BenchError::NoCell));
    }
    let baseline = fill(&mut reports, &seen, &plan, &meters);
    if means.profile {
        for (report, runnable) in reports.iter_mut().zip(lab.cells()) {
            report.profile = runnable.as_ref().map(|cell| profile::profile(&cell.builder, &cell.windows));
            let net_mj = report.energy.values().find_map(|energy| energy.net_mj);
            report.profile.iter_mut().zip(net_mj).for_each(|(profile, net)| profile.share(net.value));
        }
    }
    Ok(Report {
        v: VERSION,
        edgewatt: env!("CARGO_PKG_VERSION").to_owned(),
        time_ms: WallTime::now(),
        machine: machine::this(),
        runtime: subject.context.runtime.version.clone(),
        plan: PlanReport {
            rounds: plan.rounds,
            rounds_done: seen.rounds_done(),
            run_s: plan.run.as_secs_f64(),
            idle_s: plan.idle.as_secs_f64(),
            is_quick: means.is_quick,
        },
        windows: known.says,
        no_energy: means.no_meter.clone(),
        warnings: conditions(&seen),
        other_programs: busy_programs(&before, &programs(), elapsed),
        baseline,
        cells: reports,
    })
}

fn metered((identity, trace): (MeterIdentity, Trace)) -> Metered {
    Metered { name: identity.name, kind: identity.kind, scope: identity.scope, trace }
}

/// Returns the plan with runs and idle intervals as long as the meters need them, and without idle intervals if there is no
/// meter.
fn lengthened(plan: Plan, metering: Option<&(Metering, Duration)>) -> Plan {
    let Some((metering, period)) = metering else { return Plan { idle: Duration::ZERO, ..plan } };
    let least = metering.length_min(*period);
    let rounds = if metering.measures() { plan.rounds.max(RUNS_MIN + 2) } else { plan.rounds };
    Plan { rounds, run: plan.run.max(least), idle: plan.idle.max(least), ..plan }
}

/// Tries a cell in a separate process, and compares its answers. Returns what is known of it, and what runs.
fn tried(
    subject: &Subject<'_>,
    matrix: &Matrix,
    cell: &Cell,
    name: String,
    known: &Known,
) -> (CellReport, Option<Runnable>) {
    let model = matrix.models.get(cell.model).cloned().unwrap_or_default();
    let mut report = CellReport {
        name,
        model: ModelReport { name: model, sha256: String::new(), bytes: 0 },
        delegate: DelegateReport {
            name: cell.delegate.name.clone(),
            kind: cell.delegate.kind.name().to_owned(),
            isolation: if cell.delegate.process.is_some() { "process" } else { "thread" }.to_owned(),
            library_version: None,
            proof: serde_json::Value::Null,
        },
        threads: cell.threads,
        batch: cell.batch,
        failure: None,
        speed: None,
        energy: BTreeMap::new(),
        memory_mib: None,
        agreement: report::Agreement::unknown("the cell does not run"),
        accuracy: None,
        against_baseline: None,
        rounds: Vec::new(),
        profile: None,
    };
    let attempt = || -> Result<_, String> {
        let builder = subject.builder(cell.model, &cell.delegate, cell.batch)?;
        let windows = known.windows(cell.model)?;
        let (mut engine, ready) = builder.tried(0).map_err(|error| error.to_string())?;
        let answers = Answers::of(&mut *engine, &windows, builder.decided).map_err(|error| error.to_string())?;
        Ok((builder, windows, ready, answers))
    };
    let (builder, windows, ready, answers) = match attempt() {
        Ok(found) => found,
        Err(reason) => {
            report.failure = Some(reason);
            return (report, None);
        }
    };
    report.model.sha256.clone_from(&builder.model.sha256);
    report.model.bytes = builder.model.bytes.len() as u64;
    report.delegate.library_version = ready.hello.delegate_version;
    report.delegate.proof = serde_json::to_value(&ready.proof).unwrap_or_default();
    report.memory_mib = ready.memory_mib;
    report.agreement = known.agreement(&answers);
    report.accuracy = answers.accuracy(&windows.truth);
    (report, Some(Runnable { builder, windows }))
}

impl Subject<'_> {
    /// Returns what builds the engine of a model with a delegate and a batch.
    fn builder(&self, model: usize, delegate: &Delegate, batch: usize) -> Result<EngineBuilder, String> {
        let file = self.files.get(model).ok_or("there is no such model")?;
        self.builder_of(file, delegate, batch)
    }

    fn builder_of(&self, file: &Path, delegate: &Delegate, batch: usize) -> Result<EngineBuilder, String> {
        match self.pipeline {
            Some(pipeline) => cells::of_pipeline(self.context, pipeline, Some(file), delegate, batch),
            None => cells::bare(self.context, file, delegate, batch),
        }
    }
}

/// Returns what the processor did that may have changed the results.
fn conditions(seen: &Seen) -> Vec<String> {
    let mut warnings = Vec::new();
    let throttled: BTreeSet<&str> =
        seen.turns.iter().flat_map(|turn| turn.conditions.throttled.iter().flatten().copied()).collect();
    for what in throttled {
        let turns = seen.turns.iter().filter(|turn| turn.conditions.throttled.iter().flatten().any(|one| *one == what));
        warnings.push(format!("{what} in {} of {} turns", turns.count(), seen.turns.len()));
    }
    let clocks = range(seen.turns.iter().filter_map(|turn| turn.conditions.clock_mhz));
    if let Some((low, high)) = clocks.filter(|(low, high)| *high > low * (1.0 + CLOCK_SPREAD)) {
        warnings.push(format!("the processor's clock was between {low:.0} and {high:.0} MHz"));
    }
    let temperatures = range(seen.turns.iter().filter_map(|turn| turn.temperature_c));
    if let Some((low, high)) = temperatures.filter(|(low, high)| *high > low + WARMER) {
        warnings.push(format!("the processor's temperature was between {low:.0} and {high:.0} degrees Celsius"));
    }
    warnings
}

/// Returns the smallest and the largest of the values, if there are any.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// Returns which other programs used processor time.
fn busy_programs(
    before: &BTreeMap<u32, (String, Duration)>,
    after: &BTreeMap<u32, (String, Duration)>,
    elapsed: Duration,
) -> Option<String> {
    let mut used = BTreeMap::<&str, f64>::new();
    for (pid, (name, time)) in after {
        let earlier = before.get(pid).filter(|(earlier, _)| earlier == name).map_or(Duration::ZERO, |(_, time)| *time);
        *used.entry(name).or_insert(0.0) += time.saturating_sub(earlier).as_secs_f64() / elapsed.as_secs_f64();
    }
    let mut busy: Vec<(&str, f64)> = used.into_iter().filter(|(_, cores)| *cores > BUSY_PROGRAM).collect();
    busy.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named: Vec<String> = busy.iter().take(3).map(|(name, cores)| format!("{name} {cores:.2}")).collect();
    (!named.is_empty()).then(|| format!("other programs used processor cores: {}", named.join(", ")))
}
