//! From what a bench saw to the results of its cells.
//!
//! Pure. Quantiles are those of all rounds together, with intervals by resampling rounds; differences are ratios of the same
//! round. Energy is that of [`crate::energy::runs`], as in a calibration.

use std::collections::BTreeMap;
use std::time::Duration;

use super::distribution::{Distribution, pooled_quantile};
use super::report::{AgainstBaseline, CellReport, Energy, Expanded, Round, Speed};
use super::rounds::{Plan, Seen, Turn};
use super::statistics::{Difference, bootstrap, mean, paired};
use crate::energy::OTHER_CORES_MAX;
use crate::energy::Status;
use crate::energy::runs::{self, NetEnergy, Run, Trace};
use crate::meter::{Resolution, Scale};
use crate::units::{MonoTime, duration_ns};

/// What one meter read during all rounds.
pub struct Metered {
    pub name: String,
    pub kind: String,
    pub scope: String,
    pub trace: Trace,
}

/// Classes of the histogram in a factor of ten.
const CLASSES: f64 = 20.0;
const NS_PER_MS: f64 = 1e6;
const MJ: f64 = 1e3;

/// Fills in what the rounds gave. `cells` are in the order of the matrix, and the first that ran is the baseline. Returns its
/// name.
pub fn fill(cells: &mut [CellReport], seen: &Seen, plan: &Plan, meters: &[Metered]) -> Option<String> {
    for (index, cell) in cells.iter_mut().enumerate() {
        let turns: Vec<&Turn> = seen.turns.iter().filter(|turn| turn.cell == index).collect();
        cell.failure = cell.failure.take().or_else(|| seen.failures.get(index).cloned().flatten());
        cell.speed = speed(&turns, cell.batch);
        cell.rounds = turns.iter().map(|turn| round(turn)).collect();
        for meter in meters {
            let (energy, net_j) = energy(&turns, seen, plan, meter);
            for (round, net_j) in cell.rounds.iter_mut().zip(net_j) {
                round.net_mj.extend(net_j.map(|net_j| (meter.name.clone(), net_j * MJ)));
            }
            cell.energy.insert(meter.name.clone(), energy);
        }
    }
    let baseline = cells.iter().position(|cell| cell.speed.is_some())?;
    let comparisons = cells.iter().filter(|cell| cell.speed.is_some()).count().saturating_sub(1);
    for index in 0..cells.len() {
        if index != baseline && cells[index].speed.is_some() {
            cells[index].against_baseline = Some(against(&cells[index], &cells[baseline], comparisons));
        }
    }
    Some(cells[baseline].name.clone())
}

fn speed(turns: &[&Turn], batch: usize) -> Option<Speed> {
    let steps: Vec<&Distribution> = turns.iter().map(|turn| &turn.steps).collect();
    let once = |of: &dyn Fn(&Turn) -> Duration| -> Vec<Distribution> {
        turns.iter().map(|turn| Distribution::of(&mut [duration_ns(of(turn))])).collect()
    };
    let (load, first) = (once(&|turn| turn.load), once(&|turn| turn.first));
    let quantile = |of: &[&Distribution], part: f64| {
        let at = |times: &[u64]| {
            let weighted: Vec<(&Distribution, u64)> = of.iter().copied().zip(times.iter().copied()).collect();
            pooled_quantile(&weighted, part)
        };
        bootstrap(of.len(), at).map(|ns| ns.scaled(1.0 / NS_PER_MS))
    };
    // A sum over the rounds, divided by another one.
    let ratio = |over: &dyn Fn(&Turn) -> f64, under: &dyn Fn(&Turn) -> f64| {
        bootstrap(turns.len(), |times| {
            let sum = |of: &dyn Fn(&Turn) -> f64| -> f64 {
                turns.iter().zip(times).map(|(turn, times)| of(turn) * *times as f64).sum()
            };
            (sum(under) > 0.0).then(|| sum(over) / sum(under))
        })
    };
    let windows = |turn: &Turn| turn.run.inferences as f64;
    let all: Vec<(&Distribution, u64)> = steps.iter().map(|steps| (*steps, 1)).collect();
    Some(Speed {
        load_ms: quantile(&load.iter().collect::<Vec<_>>(), 0.5)?,
        first_ms: quantile(&first.iter().collect::<Vec<_>>(), 0.5)?,
        p50_ms: quantile(&steps, 0.5)?,
        p90_ms: quantile(&steps, 0.9)?,
        p99_ms: quantile(&steps, 0.99)?,
        max_ms: pooled_quantile(&all, 1.0)? / NS_PER_MS,
        inferences: turns.iter().map(|turn| turn.run.inferences / batch.max(1) as u64).sum(),
        windows_per_s: ratio(&windows, &|turn| seconds(&turn.run))?,
        cpu_ms: ratio(&|turn| 1e3 * turn.processor_time.as_secs_f64(), &windows)?,
        histogram: histogram(&steps),
    })
}

fn seconds(run: &Run) -> f64 {
    run.end.since(run.start).as_secs_f64()
}

fn histogram(steps: &[&Distribution]) -> Vec<(f64, u64)> {
    let mut classes = BTreeMap::<i32, u64>::new();
    for (ns, count) in steps.iter().flat_map(|steps| steps.counts()) {
        let class = (CLASSES * (ns.max(1) as f64 / NS_PER_MS).log10()).ceil() as i32;
        *classes.entry(class).or_insert(0) += count;
    }
    classes.into_iter().map(|(class, count)| (10f64.powf(f64::from(class) / CLASSES), count)).collect()
}

fn round(turn: &Turn) -> Round {
    let quantile = |part: f64| turn.steps.quantile(part).unwrap_or(f64::NAN) / NS_PER_MS;
    Round {
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        windows_per_s: turn.run.inferences as f64 / seconds(&turn.run),
        net_mj: BTreeMap::new(),
        clock_mhz: turn.conditions.clock_mhz,
        temperature_c: turn.temperature_c,
        throttled: turn.conditions.throttled.iter().flatten().map(|what| (*what).to_owned()).collect(),
        other_cores: turn.others,
    }
}

/// Returns the cell's energy by one meter, and net joules per window of each turn that could be used.
fn energy(turns: &[&Turn], seen: &Seen, plan: &Plan, meter: &Metered) -> (Energy, Vec<Option<f64>>) {
    let none = Energy {
        kind: meter.kind.clone(),
        scope: meter.scope.clone(),
        status: Status::Unavailable.name().to_owned(),
        reason: None,
        gross_mj: None,
        net_mj: None,
        idle_w: None,
        idle_draw_w: None,
        tail_s: None,
        tail_w: None,
    };
    let refused = |reason: String| (Energy { reason: Some(reason), ..none.clone() }, vec![None; turns.len()]);
    if meter.trace.resolution().is_some_and(Resolution::is_model) {
        return modelled(turns, plan, meter, none);
    }
    let runs: Vec<Run> = turns.iter().map(|turn| turn.run).collect();
    let (all, net_j) = match runs::energy(&meter.trace, &runs, plan.idle) {
        Ok(found) => found,
        Err(error) => {
            let lost = meter.trace.last_loss().filter(|_| meter.trace.last().is_none());
            return refused(lost.map_or(error.to_string(), str::to_owned));
        }
    };
    let scale = meter.trace.last().map_or(Scale::UNKNOWN, |reading| reading.accuracy.scale);
    let others = others(turns);
    let reason = others.map(|cores| {
        let what = if cores > 0.0 { "more" } else { "less" };
        format!("other programs used {:.2} cores {what} during the runs than between them", cores.abs())
    });
    let is_below = 2.0 * all.u_j > all.net_j.abs();
    let reason =
        reason.or_else(|| is_below.then(|| "net energy is below its uncertainty: longer runs may help".to_owned()));
    let status = if others.is_some() { Status::Attributed } else { Status::Measured };
    let has_tail = !all.tail.is_zero();
    let found = Energy {
        status: status.name().to_owned(),
        reason,
        gross_mj: Some(gross(&all, scale)),
        net_mj: Some(expanded(all.net_j, all.u_j, scale.u_of_gain(all.net_j))),
        idle_w: Some(all.idle_w),
        idle_draw_w: mean(&idle_draws(turns, seen, plan, &meter.trace)),
        tail_s: has_tail.then_some(all.tail.as_secs_f64()),
        tail_w: has_tail.then_some(all.tail_w),
        ..none
    };
    (found, net_j)
}

/// Returns the energy by a meter that does not measure: its joules as they are, without an uncertainty.
fn modelled(turns: &[&Turn], plan: &Plan, meter: &Metered, none: Energy) -> (Energy, Vec<Option<f64>>) {
    let power = |from: MonoTime, to: MonoTime| runs::mean_power(&meter.trace, from, to).ok();
    let before = |run: &Run| MonoTime(run.start.0.saturating_sub(duration_ns(plan.idle)));
    let of_turn = |turn: &&Turn| {
        let per_window_s = seconds(&turn.run) / turn.run.inferences.max(1) as f64;
        let idle_w = power(before(&turn.run), turn.run.start)?;
        let run_w = power(turn.run.start, turn.run.end)?;
        Some((run_w * per_window_s, (run_w - idle_w) * per_window_s, idle_w))
    };
    let each: Vec<Option<(f64, f64, f64)>> = turns.iter().map(of_turn).collect();
    let mean_of = |of: &dyn Fn(&(f64, f64, f64)) -> f64| {
        mean(&each.iter().flatten().map(of).collect::<Vec<_>>()).map(|mean| mean.value)
    };
    let unknown = |value: f64| Expanded { value: value * MJ, expanded: None, statistical: None, systematic: None };
    let status = if meter.kind == "replay" { Status::Replayed } else { Status::Estimated };
    let Some(idle_w) = mean_of(&|turn| turn.2) else {
        let reason = "the meter gave too few readings in the runs: longer runs may help".to_owned();
        return (Energy { reason: Some(reason), ..none }, vec![None; turns.len()]);
    };
    let energy = Energy {
        status: status.name().to_owned(),
        gross_mj: mean_of(&|turn| turn.0).map(unknown),
        net_mj: mean_of(&|turn| turn.1).map(unknown),
        idle_w: Some(idle_w),
        ..none
    };
    (energy, each.into_iter().map(|turn| turn.map(|turn| turn.1)).collect())
}

fn gross(all: &NetEnergy, scale: Scale) -> Expanded {
    expanded(all.gross_j, all.gross_u_j, scale.u_j(all.gross_j, all.gross_j / all.gross_w))
}

/// Returns joules and their standard uncertainties in millijoules, the expanded one too.
fn expanded(joules: f64, u_j: f64, systematic_j: Option<f64>) -> Expanded {
    Expanded {
        value: joules * MJ,
        expanded: Some(2.0 * u_j.hypot(systematic_j.unwrap_or(0.0)) * MJ),
        statistical: Some(u_j * MJ),
        systematic: systematic_j.map(|systematic_j| systematic_j * MJ),
    }
}

/// Returns by how many cores other programs were busier in the runs than between them, if that matters.
fn others(turns: &[&Turn]) -> Option<f64> {
    let each = turns.iter().filter_map(|turn| Some(turn.others? - turn.others_idle?));
    let mean = mean(&each.collect::<Vec<f64>>())?;
    // The kernel counts in ticks; what the rounds' scatter explains is not said to differ.
    let scatter = mean.high.map_or(f64::INFINITY, |high| high - mean.value);
    (mean.value.abs() > OTHER_CORES_MAX + scatter).then_some(mean.value)
}

/// Returns for each round by how many watts power with the engine loaded is above that with nothing loaded, which is taken from
/// a straight line between the empty intervals before and after the round.
fn idle_draws(turns: &[&Turn], seen: &Seen, plan: &Plan, trace: &Trace) -> Vec<f64> {
    let half = duration_ns(plan.idle / 2);
    let before = |moment: MonoTime, ns: u64| MonoTime(moment.0.saturating_sub(ns));
    let middle_s = |from: MonoTime, to: MonoTime| (from.0 as f64 + to.0 as f64) / 2e9;
    // The second half of an interval: in the first one, what came before may still show.
    let at_rest = |end: MonoTime| {
        let from = before(end, half);
        runs::power_at_rest(trace, from, end).ok().map(|watts| (middle_s(from, end), watts))
    };
    let draw = |turn: &&Turn| {
        let [(_, first), (_, last)] = seen.empty.get(turn.round..turn.round + 2)?.try_into().ok()?;
        let ((first_s, first_w), (last_s, last_w)) = (at_rest(first)?, at_rest(last)?);
        let (loaded_s, loaded_w) = at_rest(turn.run.start)?;
        Some(loaded_w - first_w - (last_w - first_w) * (loaded_s - first_s) / (last_s - first_s))
    };
    turns.iter().filter_map(draw).collect()
}

fn against(cell: &CellReport, baseline: &CellReport, comparisons: usize) -> AgainstBaseline {
    // Rounds of both, in their order. Of a cell that failed the last ones are missing.
    let pairs = |of: &dyn Fn(&CellReport, &Round) -> Option<f64>| -> Option<Difference> {
        let rounds = cell.rounds.iter().zip(&baseline.rounds);
        let both = rounds.filter_map(|(one, other)| Some((of(cell, one)?, of(baseline, other)?)));
        paired(&both.collect::<Vec<_>>(), comparisons)
    };
    let time = pairs(&|cell, round| Some(round.p50_ms / cell.batch as f64));
    let of_meter = |meter: &String| Some((meter.clone(), pairs(&|_, round| round.net_mj.get(meter).copied())?));
    AgainstBaseline { time, net: cell.energy.keys().filter_map(of_meter).collect() }
}
