//! Net energy per inference from calibration runs: inferences back to back, with idle intervals before and after.
//!
//! If inferences are too short or too rare for a meter, only a higher duty cycle can tell their energy. Pure: the readings
//! and the times of the runs are passed in; `measure` does the runs. The method and its reasons: docs/energy.md.

mod rest;

use std::time::Duration;

use rest::Rest;

use super::sums::rounding_w;
use crate::meter::{MeterError, Reading, Resolution};
use crate::units::{Joules, MonoTime, duration_ns};

/// Fewer runs say too little about their own scatter.
pub const RUNS_MIN: usize = 5;
/// Clocks, voltages and fans follow a change of load within this time.
const SETTLE: Duration = Duration::from_millis(100);
/// What a run must contain so that a counter is fine enough, or that snapshots can show their own scatter.
const UPDATES_MIN: u32 = 200;
const READINGS_MIN: u32 = 4;
const SNAPSHOTS_MIN: u32 = 30;
/// What is enough of an idle interval at rest, if a tail takes a part of it.
const SNAPSHOTS_AT_REST_MIN: usize = 5;
/// Ratio of the standard deviation of a median to that of a mean, both of many normally distributed values.
const MEDIAN: f64 = 1.2533;
/// Difference of two rounded values: 95 % of a triangular distribution, relative to the root of the squared sum of two
/// uniform ones.
const TWO_ROUNDED: f64 = 1.155;

/// One calibration run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    pub start: MonoTime,
    pub end: MonoTime,
    /// Time inside `invoke`.
    pub busy: Duration,
    pub inferences: u64,
}

/// The readings and losses of one meter during all runs.
#[derive(Debug, Default)]
pub struct Trace {
    readings: Vec<Reading>,
    losses: Vec<(MonoTime, String)>,
}

/// Energy from one run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct RunNet {
    net_j: f64,
    /// Standard uncertainty from the meter's resolution and from the drift of idle power between before and after.
    u_j: f64,
    gross_j: f64,
    /// Standard uncertainty from the meter's resolution.
    gross_u_j: f64,
    /// Uncertainty that may be the same in every run: a sensor's rounding, and what it covers of the ends of a run.
    common_j: f64,
    gross_w: f64,
    idle_w: f64,
}

/// Energy from all runs: medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetEnergy {
    /// Joules per inference above idle.
    pub net_j: f64,
    /// Standard uncertainty, such that k = 2 covers 95 %.
    pub u_j: f64,
    /// Joules per inference, idle power included, and their standard uncertainty.
    pub gross_j: f64,
    pub gross_u_j: f64,
    /// Mean power in the runs, and between them.
    pub gross_w: f64,
    pub idle_w: f64,
    /// How long power stays up after a run, and by how much shortly after it; zero if it does not.
    pub tail: Duration,
    pub tail_w: f64,
    /// Number of runs that could be used.
    pub runs: usize,
}

/// Why a run cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Lost(String),
    #[error(
        "{0} readings of the meter are too few for a run or an idle interval: read it more often, or make runs and idle intervals \
         longer"
    )]
    TooFew(usize),
    #[error("the meter estimates and does not measure")]
    Modelled,
}

/// Why there is no net energy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetError {
    #[error("{good} of {all} runs can be used, but {RUNS_MIN} are needed{}", because(.first))]
    TooFewRuns { good: usize, all: usize, first: Option<RunError> },
    #[error(
        "power is still above idle power {for_s:.1} s after a run: idle intervals must be longer (--quiet-s of edgewatt calibrate)"
    )]
    NotAtRest { for_s: f64 },
    #[error(
        "net energy is {} mJ per inference, less than its expanded uncertainty of {} mJ: longer or more runs may help, unless \
         the model adds nothing to what this meter measures",
        Joules(*.net_j).in_mj(),
        Joules(*.expanded_j).in_mj()
    )]
    Uncertain { net_j: f64, expanded_j: f64 },
}

fn because(first: &Option<RunError>) -> String {
    first.as_ref().map_or(String::new(), |error| format!(": {error}"))
}

impl Trace {
    /// Adds what reading the meter returned at `now`.
    pub fn add(&mut self, now: MonoTime, reading: Result<Reading, MeterError>) {
        match reading {
            Ok(reading) if self.readings.last().is_some_and(|last| reading.time <= last.time) => {}
            Ok(reading) => self.readings.push(reading),
            Err(error) => self.losses.push((now, error.to_string())),
        }
    }

    /// Returns the time between the last two readings; `None` before the third, because the first one may have waited.
    pub fn spacing(&self) -> Option<Duration> {
        match self.readings.as_slice() {
            [_, .., before, last] => Some(last.time.since(before.time)),
            _ => None,
        }
    }

    /// Returns how the joules are obtained; the age of a counter's value is the root of the mean square over all readings.
    pub fn resolution(&self) -> Option<Resolution> {
        let resolution = self.readings.last()?.accuracy.resolution;
        let Resolution::Counter { quantum, .. } = resolution else { return Some(resolution) };
        let squares = self.readings.iter().map(|reading| reading.accuracy.resolution.look_back().as_secs_f64().powi(2));
        let mean = squares.sum::<f64>() / self.readings.len() as f64;
        Some(Resolution::Counter { update: Duration::from_secs_f64(mean.sqrt()), quantum })
    }

    pub fn last(&self) -> Option<&Reading> {
        self.readings.last()
    }

    /// Returns the reason of the last loss.
    pub fn last_loss(&self) -> Option<&str> {
        self.losses.last().map(|(_, reason)| reason.as_str())
    }

    /// Returns the readings between two times.
    ///
    /// # Errors
    /// [`RunError::Lost`] if a reading was lost in between.
    fn between(&self, from: MonoTime, to: MonoTime) -> Result<&[Reading], RunError> {
        if let Some((_, reason)) = self.losses.iter().find(|(time, _)| *time >= from && *time <= to) {
            return Err(RunError::Lost(reason.clone()));
        }
        let after = self.readings.partition_point(|reading| reading.time < from);
        let until = self.readings.partition_point(|reading| reading.time <= to);
        Ok(self.readings.get(after..until).unwrap_or_default())
    }

    /// Returns the readings around two times: from the last one at or before `from` to the first one at or after `to`.
    fn around(&self, from: MonoTime, to: MonoTime) -> Result<&[Reading], RunError> {
        let after = self.readings.partition_point(|reading| reading.time <= from);
        let until = self.readings.partition_point(|reading| reading.time < to);
        let edges = self.readings.get(after.wrapping_sub(1)).zip(self.readings.get(until));
        edges.map_or(Ok(&[]), |(first, last)| self.between(first.time, last.time))
    }
}

/// A mean power with its standard uncertainty, and the uncertainty that rounding adds.
#[derive(Debug, Clone, Copy)]
struct Power {
    watts: f64,
    u_w: f64,
    rounding_w: f64,
}

/// Returns the joules of a counter, refreshed each `update`, from the first reading to the last, and the seconds.
fn counted(readings: &[Reading], update: Duration) -> Result<(f64, f64), RunError> {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return Err(RunError::TooFew(0)) };
    let time_s = last.time.since(first.time).as_secs_f64();
    let update_s = update.as_secs_f64();
    // What the edges leave open is in the uncertainty, so a few updates are enough to be true.
    let fine = time_s > 0.0 && time_s >= update_s * f64::from(READINGS_MIN);
    if fine { Ok(((last.joules - first.joules).0, time_s)) } else { Err(RunError::TooFew(readings.len())) }
}

/// Returns the uncertainty of a pair of edges at a power of `watts`: a counter shows its value at its last update, in
/// quanta.
fn edges_j(watts: f64, update: Duration, quantum: Joules) -> f64 {
    (((update.as_secs_f64() * watts).powi(2) + quantum.0.powi(2)) / 6.0).sqrt()
}

/// Returns the mean power of snapshots, of which `least` are enough; their scatter gives its uncertainty.
fn sampled(readings: &[Reading], resolution: Resolution, least: usize) -> Result<Power, RunError> {
    let watts = || readings.iter().filter_map(|reading| reading.power).map(|power| power.0);
    let count = watts().count();
    if count < least {
        return Err(RunError::TooFew(count));
    }
    let mean = watts().sum::<f64>() / count as f64;
    let variance = watts().map(|w| (w - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    let rounding_w = rounding_w(resolution, variance);
    Ok(Power { watts: mean, u_w: (variance / count as f64).sqrt(), rounding_w })
}

/// Mean power of an idle interval.
fn idle_power(readings: &[Reading], resolution: Resolution) -> Result<Power, RunError> {
    match resolution {
        Resolution::Counter { update, quantum } => {
            let (joules, time_s) = counted(readings, update)?;
            let watts = joules / time_s;
            Ok(Power { watts, u_w: edges_j(watts, update, quantum) / time_s, rounding_w: 0.0 })
        }
        Resolution::Sampled { .. } => sampled(readings, resolution, SNAPSHOTS_AT_REST_MIN),
        Resolution::Model { .. } => Err(RunError::Modelled),
    }
}

/// Returns the shortest useful length of a run and of an idle interval, for a meter that is read once in `period`.
pub fn length_min(resolution: Resolution, period: Duration) -> Duration {
    let useful = match resolution {
        Resolution::Counter { update, .. } => (update * UPDATES_MIN).max(period * READINGS_MIN),
        // A tenth more, because readings are spread over their periods.
        Resolution::Sampled { conversion, .. } => conversion.max(period) * (SNAPSHOTS_MIN + SNAPSHOTS_MIN / 10),
        Resolution::Model { .. } => Duration::ZERO,
    };
    useful + 2 * resolution.look_back() + 4 * SETTLE
}

/// Returns the time `by` before a moment.
fn before(moment: MonoTime, by: Duration) -> MonoTime {
    MonoTime(moment.0.saturating_sub(duration_ns(by)))
}

/// Idle power before and after a run, and during it by a straight line between them.
#[derive(Debug, Clone, Copy)]
struct Idle {
    before: Power,
    after: Power,
    watts: f64,
    /// Squared standard uncertainty of `watts`.
    variance: f64,
}

impl Idle {
    /// Uses half of what is at rest of the idle intervals of length `idle` on each side of the run.
    fn around(
        trace: &Trace,
        run: &Run,
        idle: Duration,
        rest: Duration,
        resolution: Resolution,
    ) -> Result<Self, RunError> {
        let half = idle.saturating_sub(rest) / 2;
        let guard = rest.max(SETTLE) + resolution.look_back();
        let idle_power = |from, to| idle_power(trace.between(from, to)?, resolution);
        let power_before = idle_power(before(run.start, half), before(run.start, SETTLE))?;
        let power_after = idle_power(run.end + guard, run.end + rest + half)?;
        // From the middle of the run to the middle of either.
        let run_s = run.end.since(run.start).as_secs_f64();
        let before_s = (run_s + (half + SETTLE).as_secs_f64()) / 2.0;
        let after_s = (run_s + (guard + rest + half).as_secs_f64()) / 2.0;
        let part = before_s / (before_s + after_s);
        Ok(Self {
            before: power_before,
            after: power_after,
            watts: power_before.watts + part * (power_after.watts - power_before.watts),
            variance: ((1.0 - part) * power_before.u_w).powi(2) + (part * power_after.u_w).powi(2),
        })
    }
}

/// Returns the net energy of one run. Idle intervals are `idle` long.
fn evaluate(trace: &Trace, run: &Run, idle: Duration, rest: Rest) -> Result<RunNet, RunError> {
    let resolution = trace.resolution().ok_or(RunError::TooFew(0))?;
    let look_back = resolution.look_back();
    let Idle { before: idle_before, after: idle_after, watts: idle_w, variance: idle_variance } =
        Idle::around(trace, run, idle, rest.after, resolution)?;
    let run_s = run.end.since(run.start).as_secs_f64();
    // Mean power over the run. It includes what each inference adds, and the time until the clocks are up.
    let (during, lumps_w) = match resolution {
        Resolution::Counter { update, quantum } => {
            // From idle to idle, so that every inference is included as a whole, and some of a tail.
            let readings = trace.around(run.start, run.end + look_back)?;
            let (joules, time_s) = counted(readings, update)?;
            let tail_j = rest.tail_w * readings.last().map_or(0.0, |last| last.time.since(run.end).as_secs_f64());
            let watts = (joules - tail_j - idle_w * (time_s - run_s)) / run_s;
            (
                Power { watts, u_w: edges_j(idle_w, update, quantum) / run_s, rounding_w: 0.0 },
                tail_j / 3f64.sqrt() / run_s,
            )
        }
        _ => {
            let least = (SNAPSHOTS_MIN / 2) as usize;
            let during = sampled(trace.between(run.start + look_back, run.end)?, resolution, least)?;
            // The ends of the run weigh less, and may cut an inference at the same point in every run.
            let inference_s = run_s / run.inferences.max(1) as f64;
            let part = look_back.as_secs_f64().min(inference_s) / run_s;
            (during, (during.watts - idle_w) * part / 3f64.sqrt())
        }
    };
    let noise_squared = idle_before.u_w.powi(2) + idle_after.u_w.powi(2);
    // Idle power during the run was somewhere between the two.
    let drift_squared = ((idle_after.watts - idle_before.watts).powi(2) - noise_squared).max(0.0) / 12.0;
    let idle_rounding_w = idle_before.rounding_w.max(idle_after.rounding_w);
    let rounding_w = match (during.rounding_w, idle_rounding_w) {
        (one, 0.0) | (0.0, one) => one,
        (one, other) => TWO_ROUNDED * one.hypot(other),
    };
    let per_inference_s = run_s / run.inferences.max(1) as f64;
    Ok(RunNet {
        net_j: (during.watts - idle_w) * per_inference_s,
        u_j: (during.u_w.powi(2) + idle_variance + drift_squared).sqrt() * per_inference_s,
        gross_j: during.watts * per_inference_s,
        gross_u_j: during.u_w.hypot(during.rounding_w) * per_inference_s,
        common_j: rounding_w.hypot(lumps_w).hypot(rest.unseen_w / 2.0) * per_inference_s,
        gross_w: during.watts,
        idle_w,
    })
}

/// Returns the net energy from all `runs` as one meter's `trace` shows it; before, between and after them are idle
/// intervals of length `idle`.
///
/// # Errors
/// [`NetError`] if too few runs can be used, if power does not come to rest between them, or if net energy is below its expanded
/// uncertainty.
pub fn net_energy(trace: &Trace, runs: &[Run], idle: Duration) -> Result<NetEnergy, NetError> {
    let (all, _) = energy(trace, runs, idle)?;
    let (net_j, expanded_j) = (all.net_j, 2.0 * all.u_j);
    if expanded_j > net_j { Err(NetError::Uncertain { net_j, expanded_j }) } else { Ok(all) }
}

/// As [`net_energy`], but net energy may be below its uncertainty; with the net joules per inference of each run that could
/// be used.
///
/// # Errors
/// [`NetError`] if too few runs can be used, or if power does not come to rest between them.
pub fn energy(trace: &Trace, runs: &[Run], idle: Duration) -> Result<(NetEnergy, Vec<Option<f64>>), NetError> {
    let rest = match trace.resolution() {
        Some(resolution) => rest::after(trace, runs, idle, resolution),
        None => Some(Rest::default()),
    };
    let Some(rest) = rest else { return Err(NetError::NotAtRest { for_s: idle.as_secs_f64() }) };
    let mut first = None;
    let mut of_each = Vec::with_capacity(runs.len());
    for run in runs {
        let net = evaluate(trace, run, idle, rest);
        first = first.or(net.as_ref().err().cloned());
        of_each.push(net.ok());
    }
    let good: Vec<RunNet> = of_each.iter().copied().flatten().collect();
    if good.len() < RUNS_MIN {
        return Err(NetError::TooFewRuns { good: good.len(), all: runs.len(), first });
    }
    Ok((medians(&good, rest), of_each.into_iter().map(|run| run.map(|run| run.net_j)).collect()))
}

/// Returns the mean power between two times, in which nothing ran.
///
/// # Errors
/// A reading was lost, or there are too few.
pub fn power_at_rest(trace: &Trace, from: MonoTime, to: MonoTime) -> Result<f64, RunError> {
    let resolution = trace.resolution().ok_or(RunError::TooFew(0))?;
    let from = from + SETTLE + resolution.look_back();
    idle_power(trace.between(from, to)?, resolution).map(|power| power.watts)
}

/// Returns the mean power of a meter that does not measure, from the first reading to the last one between two times.
///
/// # Errors
/// A reading was lost, or there are too few.
pub fn mean_power(trace: &Trace, from: MonoTime, to: MonoTime) -> Result<f64, RunError> {
    let readings = trace.between(from, to)?;
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return Err(RunError::TooFew(0)) };
    let power = (last.joules - first.joules).per(last.time.since(first.time));
    power.map(|power| power.0).ok_or(RunError::TooFew(readings.len()))
}

fn medians(runs: &[RunNet], rest: Rest) -> NetEnergy {
    let common_j = runs.iter().map(|run| run.common_j).sum::<f64>() / runs.len() as f64;
    let (net_j, u_j) = median_with_u(runs, &|run| (run.net_j, run.u_j));
    let (gross_j, gross_u_j) = median_with_u(runs, &|run| (run.gross_j, run.gross_u_j));
    let all = |of: &dyn Fn(&RunNet) -> f64| median(runs.iter().map(of).collect());
    NetEnergy {
        net_j,
        u_j: u_j.hypot(common_j),
        gross_j,
        gross_u_j,
        gross_w: all(&|run| run.gross_w),
        idle_w: all(&|run| run.idle_w),
        tail: if rest.tail_w == 0.0 { Duration::ZERO } else { rest.after },
        tail_w: rest.tail_w,
        runs: runs.len(),
    }
}

/// Returns the median of a value that each run has with its standard uncertainty, and the standard uncertainty of the median:
/// one disturbed run moves it little, but its scatter shows in the uncertainty.
fn median_with_u(runs: &[RunNet], of: &dyn Fn(&RunNet) -> (f64, f64)) -> (f64, f64) {
    let count = runs.len() as f64;
    let mean = runs.iter().map(|run| of(run).0).sum::<f64>() / count;
    let scatter = runs.iter().map(|run| (of(run).0 - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let known = runs.iter().map(|run| of(run).1.powi(2)).sum::<f64>() / count;
    // Scatter beyond that is known from the runs alone, so that k = 2 covers 95 % of Student's distribution.
    let variance = known + (scatter - known).max(0.0) * (student(count - 1.0) / 2.0).powi(2);
    (median(runs.iter().map(|run| of(run).0).collect()), MEDIAN * (variance / count).sqrt())
}

/// Returns the factor of a standard deviation that holds 95 % of Student's distribution (its expansion from the normal one,
/// Abramowitz and Stegun, 26.7.5, which is exact to 1 % from three degrees of freedom on; below, the table's values).
pub fn student(freedom: f64) -> f64 {
    let z: f64 = 1.959_964;
    match freedom {
        f if f < 1.5 => 12.706,
        f if f < 2.5 => 4.303,
        f => {
            let first = (z.powi(3) + z) / 4.0;
            let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
            let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
            z + first / f + second / f.powi(2) + third / f.powi(3)
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, at) = (values.len() / 2, |index: usize| values.get(index).copied().unwrap_or(f64::NAN));
    if values.len().is_multiple_of(2) { (at(half.wrapping_sub(1)) + at(half)) / 2.0 } else { at(half) }
}

#[cfg(test)]
mod tests;
