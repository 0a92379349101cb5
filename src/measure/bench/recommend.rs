//! Which cell to use at a given rate: the one that meets the limits with the least power.
//!
//! Pure. At a rate, power is that of the idle machine with the engine loaded, and the net energy of each window times the rate:
//! the machine works as fast as it can and rests in between (race to idle). Without energy, processor time decides.

use serde::Serialize;

use super::report::{CellReport, Report};
use super::statistics::{Dice, Estimate};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Windows per second.
    pub rate: f64,
    /// The longest time from a full window to its result, in 99 of 100 cases.
    pub p99_ms: Option<f64>,
    /// By how many hundredths of the windows accuracy may be below the best cell's; without labels, by how many the largest
    /// output may differ from the reference's.
    pub accuracy_loss: Option<f64>,
}

/// One cell at the rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub cell: String,
    /// Why it does not meet the limits; empty if it does.
    pub fails: Vec<String>,
    /// From the first window of a batch to its result, in 99 of 100 cases.
    pub p99_ms: f64,
    /// The part of the time in which it works.
    pub busy: f64,
    /// Power that it adds to the idle machine with nothing loaded; with its standard uncertainty.
    pub added_w: Option<f64>,
    pub u_w: Option<f64>,
    /// Energy per window that this is.
    pub mj_per_window: Option<f64>,
    /// Processor time per window.
    pub cpu_ms: f64,
}

/// The rate at which two cells need the same power: below it the first is better, above it the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BreakEven {
    pub below: String,
    pub above: String,
    pub rate: Estimate,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    pub rate: f64,
    /// By what it was chosen: "the power that METER shows", or "processor time".
    pub by: String,
    /// The cell to use; `None`: none meets the limits.
    pub best: Option<String>,
    /// Cells that are as good within their uncertainty.
    pub as_good: Vec<String>,
    /// All cells, the best first.
    pub choices: Vec<Choice>,
    pub break_even: Vec<BreakEven>,
}

/// The part of its rate at which a cell is not asked to work for ever.
const BUSY_MAX: f64 = 0.9;
/// Draws for the interval of a break-even rate.
const DRAWS: usize = 2000;

/// Returns what to use, by the report's first meter.
pub fn recommend(report: &Report, wanted: &Wanted) -> Recommendation {
    let meter = report.meter();
    let best_accuracy =
        report.ran().filter_map(|cell| cell.accuracy).map(|accuracy| accuracy.right.value).reduce(f64::max);
    let mut choices: Vec<Choice> = report.ran().filter_map(|cell| choice(cell, meter, wanted, best_accuracy)).collect();
    let has_power = choices.iter().filter(|choice| choice.fails.is_empty()).any(|choice| choice.added_w.is_some());
    let cost = |choice: &Choice| if has_power { choice.added_w.unwrap_or(f64::INFINITY) } else { choice.cpu_ms };
    choices.sort_by(|a, b| (!a.fails.is_empty()).cmp(&!b.fails.is_empty()).then(cost(a).total_cmp(&cost(b))));
    let best = choices.first().filter(|best| best.fails.is_empty()).cloned();
    let is_as_good = |best: &Choice, other: &&Choice| {
        let apart = best.added_w.zip(other.added_w).zip(best.u_w.zip(other.u_w));
        other.fails.is_empty()
            && other.cell != best.cell
            && apart.is_some_and(|((one, two), (u_one, u_two))| (two - one).abs() < 2.0 * u_one.hypot(u_two))
    };
    let as_good = best.iter().flat_map(|best| choices.iter().filter(|other| is_as_good(best, other)));
    let as_good = as_good.map(|choice| choice.cell.clone()).collect();
    let break_even = match (&best, meter) {
        (Some(best), Some(meter)) => break_evens(report, meter, &best.cell),
        _ => Vec::new(),
    };
    Recommendation {
        rate: wanted.rate,
        by: meter
            .filter(|_| has_power)
            .map_or("processor time".to_owned(), |meter| format!("the power that {meter} shows")),
        best: best.map(|best| best.cell),
        as_good,
        choices,
        break_even,
    }
}

fn choice(cell: &CellReport, meter: Option<&str>, wanted: &Wanted, best_accuracy: Option<f64>) -> Option<Choice> {
    let speed = cell.speed.as_ref()?;
    let mut fails = Vec::new();
    let p99_ms = speed.p99_ms.value + 1e3 * (cell.batch - 1) as f64 / wanted.rate;
    if let Some(limit) = wanted.p99_ms.filter(|limit| p99_ms > *limit) {
        let why = if cell.batch > 1 { ", of which the batch is waited for most" } else { "" };
        let why = if p99_ms > 2.0 * speed.p99_ms.value { why } else { "" };
        fails.push(format!("its p99 is {p99_ms:.3} ms{why}; {limit} ms is wanted"));
    }
    let busy = wanted.rate / speed.windows_per_s.value;
    if busy > BUSY_MAX {
        fails.push(format!("it would work for {:.0} % of the time", 100.0 * busy));
    }
    if let Some(allowed) = wanted.accuracy_loss {
        let loss = match (cell.accuracy, best_accuracy, cell.agreement.top1) {
            (Some(accuracy), Some(best), _) => {
                Some((100.0 * (best - accuracy.right.value), "of the windows less are right"))
            }
            (_, _, Some(top1)) => Some((100.0 * (1.0 - top1), "of the windows differ from the reference")),
            _ => None,
        };
        match loss {
            Some((loss, what)) if loss > allowed => fails.push(format!("{loss:.1} % {what}; {allowed} % are allowed")),
            None => fails.push("nothing is known of its accuracy".to_owned()),
            _ => {}
        }
    }
    let line = meter.and_then(|meter| PowerLine::of(cell, meter));
    let added_w = line.map(|line| line.at(wanted.rate));
    Some(Choice {
        cell: cell.name.clone(),
        fails,
        p99_ms,
        busy,
        added_w,
        u_w: line.and_then(|line| line.u_at(wanted.rate)),
        mj_per_window: added_w.map(|watts| 1e3 * watts / wanted.rate),
        cpu_ms: speed.cpu_ms.value,
    })
}

/// Power above that of the idle machine with nothing loaded, as a line over the rate.
#[derive(Debug, Clone, Copy)]
pub struct PowerLine {
    idle_w: f64,
    u_idle_w: Option<f64>,
    net_j: f64,
    u_net_j: Option<f64>,
}

impl PowerLine {
    /// Returns the line of a cell by one meter; `None` if its net energy is not known.
    pub fn of(cell: &CellReport, meter: &str) -> Option<Self> {
        let energy = cell.energy.get(meter)?;
        let net = energy.net_mj?;
        let half = energy.idle_draw_w.and_then(|draw| Some((draw.high? - draw.low?) / 4.0));
        Some(Self {
            idle_w: energy.idle_draw_w.map_or(0.0, |draw| draw.value),
            u_idle_w: half,
            net_j: net.value / 1e3,
            u_net_j: net.statistical.map(|u| u / 1e3),
        })
    }

    /// Returns the watts at a rate in windows per second.
    pub fn at(&self, rate: f64) -> f64 {
        self.idle_w + rate * self.net_j
    }

    fn u_at(&self, rate: f64) -> Option<f64> {
        Some(self.u_idle_w?.hypot(rate * self.u_net_j?))
    }
}

/// Returns the rates at which another cell needs the same power as `best`, where the uncertainty leaves one.
fn break_evens(report: &Report, meter: &str, best: &str) -> Vec<BreakEven> {
    let line = |cell: &CellReport| Some((cell.name.clone(), PowerLine::of(cell, meter)?));
    let lines: Vec<(String, PowerLine)> = report.ran().filter_map(line).collect();
    let Some((_, ours)) = lines.iter().find(|(name, _)| name == best) else { return Vec::new() };
    let of = |(name, theirs): &(String, PowerLine)| {
        let rate = break_even(ours, theirs)?;
        // The one with less idle power is better at low rates.
        let (below, above) = if ours.idle_w < theirs.idle_w { (best, name.as_str()) } else { (name.as_str(), best) };
        Some(BreakEven { below: below.to_owned(), above: above.to_owned(), rate })
    };
    lines.iter().filter(|(name, _)| name != best).filter_map(of).collect()
}

/// Returns the rate at which both need the same power; `None` if they have none above 0, or if the uncertainty leaves it open
/// whether they have.
fn break_even(one: &PowerLine, other: &PowerLine) -> Option<Estimate> {
    let (idle_w, net_j) = (one.idle_w - other.idle_w, other.net_j - one.net_j);
    let (u_w, u_j) = (one.u_idle_w?.hypot(other.u_idle_w?), one.u_net_j?.hypot(other.u_net_j?));
    if idle_w.abs() < 2.0 * u_w || net_j.abs() < 2.0 * u_j || (idle_w > 0.0) != (net_j > 0.0) {
        return None;
    }
    let mut dice = Dice::new(3);
    let mut rates: Vec<f64> = (0..DRAWS)
        .map(|_| (idle_w + u_w * dice.normal()) / (net_j + u_j * dice.normal()))
        .filter(|rate| *rate > 0.0)
        .collect();
    rates.sort_by(f64::total_cmp);
    let at = |part: f64| rates.get((part * rates.len() as f64) as usize).copied();
    Some(Estimate { value: idle_w / net_j, low: at(0.025), high: at(0.975) })
}

/// Returns the lines of TOML that use a cell in the pipeline of that name.
pub fn toml(cell: &CellReport, pipeline: &str, model: &str, rate: f64) -> String {
    let mut lines = String::new();
    let delegate = match cell.threads.filter(|threads| *threads > 1) {
        Some(threads) => {
            let name = format!("{}_{threads}", cell.delegate.kind);
            lines.push_str(&format!("[delegates.{name}]\n{} = {{ threads = {threads} }}\n\n", cell.delegate.kind));
            name
        }
        None => cell.delegate.name.clone(),
    };
    lines.push_str(&format!("[pipelines.{pipeline}]\nmodel.path = {model:?}\ndelegate = {delegate:?}\n"));
    if cell.batch > 1 {
        let wait_ms = (1e3 * (cell.batch - 1) as f64 / rate).ceil();
        lines.push_str(&format!("batch = {{ max = {}, wait_ms = {wait_ms:.1} }}\n", cell.batch));
    }
    lines
}
