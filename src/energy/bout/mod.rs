//! Energy per inference from bouts: a model that runs back to back, with quiet stretches before and after.
//!
//! Where inferences are too short or too rare for a meter, only a higher duty tells their energy. Pure: what a meter gave
//! and when the bouts were is passed in; who runs them is not known here. The method and its reasons: docs/energy.md.

use std::time::Duration;

use super::sums::rounding_w;
use crate::meter::{MeterError, Reading, Resolution};
use crate::units::{Joules, MonoTime, WallTime, duration_ns};

/// Fewer bouts say too little of their own scatter.
pub const BOUTS_MIN: usize = 5;
/// Clocks, voltages and fans follow a change of load within this time.
const SETTLE: Duration = Duration::from_millis(100);
/// What a bout must hold for a counter to be fine enough, or for snapshots to tell their own scatter.
const UPDATES_MIN: u32 = 200;
const READINGS_MIN: u32 = 4;
const SNAPSHOTS_MIN: u32 = 30;
/// The standard deviation of a median by that of a mean, both of many values with a normal distribution.
const MEDIAN: f64 = 1.2533;
/// The difference of two rounded values: 95 % of a triangular distribution by the root of the sum of two even ones.
const TWO_ROUNDED: f64 = 1.155;

/// Busy time of an inference, in parts of that of the calibration, that is about the same.
const SAME: std::ops::RangeInclusive<f64> = 0.8..=1.25;

/// Energy above idle of one inference as bouts have shown it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    pub net_j: f64,
    /// Standard uncertainty; k = 2 expands it.
    pub u_j: f64,
    /// Seconds that an inference took.
    pub busy_s: f64,
    pub time: WallTime,
}

/// One bout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bout {
    pub start: MonoTime,
    pub end: MonoTime,
    /// Inside invoke.
    pub busy: Duration,
    pub inferences: u64,
}

/// What one meter gave in the time of all bouts.
#[derive(Debug, Default)]
pub struct Trace {
    readings: Vec<Reading>,
    losses: Vec<(MonoTime, String)>,
}

/// What one bout has shown.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    net_j: f64,
    /// Standard uncertainty from the meter's resolution and from idle power before and after, which differ by the drift.
    u_j: f64,
    /// Uncertainty from what may be the same in every bout: a sensor's rounding, and what it sees of a bout's ends.
    common_j: f64,
    gross_w: f64,
    idle_w: f64,
}

/// What all bouts together have shown: medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Net {
    /// Joules per inference above idle.
    pub net_j: f64,
    /// Standard uncertainty, such that k = 2 covers 95 %.
    pub u_j: f64,
    /// Mean power in a bout, and between bouts.
    pub gross_w: f64,
    pub idle_w: f64,
    /// The bouts that could be used.
    pub bouts: usize,
}

/// Why a bout says nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Void {
    #[error("{0}")]
    Lost(String),
    #[error(
        "{0} readings of the meter in a stretch are too few: read it more often, or make bouts and quiet stretches longer"
    )]
    TooFew(usize),
    #[error("the meter does not measure")]
    Modelled,
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("{good} of {all} bouts can be used, and {BOUTS_MIN} are needed{}", because(.first))]
    TooFewBouts { good: usize, all: usize, first: Option<Void> },
    #[error(
        "net is {} mJ an inference, less than its expanded uncertainty of {} mJ: longer or more bouts may mend that, unless \
         the model adds nothing to what this meter sees",
        Joules(*.net_j).in_mj(),
        Joules(*.expanded_j).in_mj()
    )]
    Uncertain { net_j: f64, expanded_j: f64 },
}

fn because(first: &Option<Void>) -> String {
    first.as_ref().map_or(String::new(), |void| format!(": {void}"))
}

impl Calibrated {
    /// What to say of a figure with this net, where the window itself could not tell it for the reason `lack`.
    pub fn reason(&self, lack: &str, busy_s: f64) -> String {
        let ratio = busy_s / self.busy_s;
        let ran = if SAME.contains(&ratio) {
            String::new()
        } else {
            format!("; an inference took {ratio:.1} times as long as then, which its uncertainty takes in")
        };
        format!("net from the calibration of {}: {lack}{ran}", self.time)
    }

    /// Standard uncertainty where an inference takes `busy_s`: the power may be the same, or the energy.
    pub fn u_at_j(&self, busy_s: f64) -> f64 {
        self.u_j.hypot(self.net_j * (busy_s / self.busy_s - 1.0) / 3f64.sqrt())
    }
}

impl Trace {
    /// Takes what a meter gave at `now`.
    pub fn take(&mut self, now: MonoTime, reading: Result<Reading, MeterError>) {
        match reading {
            Ok(reading) if self.readings.last().is_some_and(|last| reading.time <= last.time) => {}
            Ok(reading) => self.readings.push(reading),
            Err(error) => self.losses.push((now, error.to_string())),
        }
    }

    pub fn last(&self) -> Option<&Reading> {
        self.readings.last()
    }

    /// Why there is no reading.
    pub fn last_loss(&self) -> Option<&str> {
        self.losses.last().map(|(_, reason)| reason.as_str())
    }

    /// The readings between two moments, unless one was lost.
    fn between(&self, from: MonoTime, to: MonoTime) -> Result<&[Reading], Void> {
        if let Some((_, reason)) = self.losses.iter().find(|(time, _)| *time >= from && *time <= to) {
            return Err(Void::Lost(reason.clone()));
        }
        let after = self.readings.partition_point(|reading| reading.time < from);
        let until = self.readings.partition_point(|reading| reading.time <= to);
        Ok(self.readings.get(after..until).unwrap_or_default())
    }

    /// The readings around two moments: from the last until `from` to the first from `to` on.
    fn around(&self, from: MonoTime, to: MonoTime) -> Result<&[Reading], Void> {
        let after = self.readings.partition_point(|reading| reading.time <= from);
        let until = self.readings.partition_point(|reading| reading.time < to);
        let edges = self.readings.get(after.wrapping_sub(1)).zip(self.readings.get(until));
        edges.map_or(Ok(&[]), |(first, last)| self.between(first.time, last.time))
    }
}

/// A mean power, with the standard uncertainty of it and what rounding adds.
#[derive(Debug, Clone, Copy)]
struct Power {
    watts: f64,
    u_w: f64,
    rounding_w: f64,
}

/// A counter's energy from the first reading to the last, and the time.
fn counted(readings: &[Reading]) -> Result<(f64, f64), Void> {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return Err(Void::TooFew(0)) };
    let time_s = last.time.since(first.time).as_secs_f64();
    let update_s = last.accuracy.resolution.look_back().as_secs_f64();
    // Half of a quiet stretch is the least.
    let fine = time_s > 0.0 && time_s >= update_s * f64::from(UPDATES_MIN / 2);
    if fine { Ok(((last.joules - first.joules).0, time_s)) } else { Err(Void::TooFew(readings.len())) }
}

/// What a pair of edges leaves open where the power is `watts`: a counter shows what it was at its last update, in quanta.
fn edges_j(watts: f64, update: Duration, quantum: Joules) -> f64 {
    (((update.as_secs_f64() * watts).powi(2) + quantum.0.powi(2)) / 6.0).sqrt()
}

/// Snapshots say by their scatter how well their mean is known.
fn sampled(readings: &[Reading], resolution: Resolution) -> Result<Power, Void> {
    let watts = || readings.iter().filter_map(|reading| reading.power).map(|power| power.0);
    let count = watts().count();
    if count < (SNAPSHOTS_MIN / 2) as usize {
        return Err(Void::TooFew(count));
    }
    let mean = watts().sum::<f64>() / count as f64;
    let variance = watts().map(|w| (w - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    let rounding_w = rounding_w(resolution, variance);
    Ok(Power { watts: mean, u_w: (variance / count as f64).sqrt(), rounding_w })
}

/// Mean power of a quiet stretch.
fn quiet_power(readings: &[Reading], resolution: Resolution) -> Result<Power, Void> {
    match resolution {
        Resolution::Counter { update, quantum } => {
            let (joules, time_s) = counted(readings)?;
            let watts = joules / time_s;
            Ok(Power { watts, u_w: edges_j(watts, update, quantum) / time_s, rounding_w: 0.0 })
        }
        Resolution::Sampled { .. } => sampled(readings, resolution),
        Resolution::Model { .. } => Err(Void::Modelled),
    }
}

/// How long a bout has to be at least, and each quiet stretch, for a meter that is read once in `period`.
pub fn length_min(resolution: Resolution, period: Duration) -> Duration {
    let seen = match resolution {
        Resolution::Counter { update, .. } => (update * UPDATES_MIN).max(period * READINGS_MIN),
        // A tenth more, as readings are spread over their periods.
        Resolution::Sampled { conversion, .. } => conversion.max(period) * (SNAPSHOTS_MIN + SNAPSHOTS_MIN / 10),
        Resolution::Model { .. } => Duration::ZERO,
    };
    seen + 2 * resolution.look_back() + 4 * SETTLE
}

/// What one bout shows, with half of the quiet stretch on each side, which are `quiet` long.
fn shown(trace: &Trace, bout: &Bout, quiet: Duration) -> Result<Shown, Void> {
    let resolution = trace.last().ok_or(Void::TooFew(0))?.accuracy.resolution;
    let look_back = resolution.look_back();
    let before = |moment: MonoTime, by: Duration| MonoTime(moment.0.saturating_sub(duration_ns(by)));
    let quiet_power = |from, to| quiet_power(trace.between(from, to)?, resolution);
    let idle_before = quiet_power(before(bout.start, quiet / 2), before(bout.start, SETTLE))?;
    let idle_after = quiet_power(bout.end + SETTLE + look_back, bout.end + quiet / 2)?;
    let idle_w = (idle_before.watts + idle_after.watts) / 2.0;
    let bout_s = bout.end.since(bout.start).as_secs_f64();
    // A mean power over the bout, whatever comes with each inference or before the clocks are up.
    let (during, lumps_w) = match resolution {
        Resolution::Counter { update, quantum } => {
            // From quiet to quiet, so that every inference is in it as a whole.
            let (joules, time_s) = counted(trace.around(bout.start, bout.end + look_back)?)?;
            let watts = (joules - idle_w * (time_s - bout_s)) / bout_s;
            (Power { watts, u_w: edges_j(idle_w, update, quantum) / bout_s, rounding_w: 0.0 }, 0.0)
        }
        _ => {
            let during = sampled(trace.between(bout.start + look_back, bout.end)?, resolution)?;
            // The ends of the bout weigh less, and may be the same part of an inference in every bout.
            let inference_s = bout_s / bout.inferences.max(1) as f64;
            let part = look_back.as_secs_f64().min(inference_s) / bout_s;
            (during, (during.watts - idle_w) * part / 3f64.sqrt())
        }
    };
    let noise_squared = idle_before.u_w.powi(2) + idle_after.u_w.powi(2);
    // Idle power meanwhile lay somewhere between the two.
    let drift_squared = ((idle_after.watts - idle_before.watts).powi(2) - noise_squared).max(0.0) / 12.0;
    let idle_rounding_w = idle_before.rounding_w.max(idle_after.rounding_w);
    let rounding_w = match (during.rounding_w, idle_rounding_w) {
        (one, 0.0) | (0.0, one) => one,
        (one, other) => TWO_ROUNDED * one.hypot(other),
    };
    let per_inference_s = bout_s / bout.inferences.max(1) as f64;
    Ok(Shown {
        net_j: (during.watts - idle_w) * per_inference_s,
        u_j: (during.u_w.powi(2) + noise_squared / 4.0 + drift_squared).sqrt() * per_inference_s,
        common_j: rounding_w.hypot(lumps_w) * per_inference_s,
        gross_w: during.watts,
        idle_w,
    })
}

/// What a meter's `trace` says of all `bouts`, with quiet stretches of that length before, between and after them.
pub fn net(trace: &Trace, bouts: &[Bout], quiet: Duration) -> Result<Net, Refusal> {
    let mut first = None;
    let mut good = Vec::with_capacity(bouts.len());
    for bout in bouts {
        match shown(trace, bout, quiet) {
            Ok(shown) => good.push(shown),
            Err(void) => first = first.or(Some(void)),
        }
    }
    if good.len() < BOUTS_MIN {
        return Err(Refusal::TooFewBouts { good: good.len(), all: bouts.len(), first });
    }
    of_bouts(&good)
}

/// The median: one bout that something disturbed does not move it far, and its scatter shows it.
fn of_bouts(bouts: &[Shown]) -> Result<Net, Refusal> {
    let count = bouts.len() as f64;
    let all = |of: &dyn Fn(&Shown) -> f64| bouts.iter().map(of).collect::<Vec<f64>>();
    let mean_of = |of: &dyn Fn(&Shown) -> f64| bouts.iter().map(of).sum::<f64>() / count;
    let mean_j = mean_of(&|shown| shown.net_j);
    let scatter = mean_of(&|shown| (shown.net_j - mean_j).powi(2)) * count / (count - 1.0);
    let known = mean_of(&|shown| shown.u_j.powi(2));
    // What the bouts scatter beyond that is known by them alone.
    let variance = known + (scatter - known).max(0.0) * few(count - 1.0).powi(2);
    let u_j = (MEDIAN * (variance / count).sqrt()).hypot(mean_of(&|shown| shown.common_j));
    let net_j = median(all(&|shown| shown.net_j));
    let net = Net {
        net_j,
        u_j,
        gross_w: median(all(&|shown| shown.gross_w)),
        idle_w: median(all(&|shown| shown.idle_w)),
        bouts: bouts.len(),
    };
    if 2.0 * u_j > net_j { Err(Refusal::Uncertain { net_j, expanded_j: 2.0 * u_j }) } else { Ok(net) }
}

/// By how much longer the tails are where a deviation has so many degrees of freedom, so that k = 2 covers 95 % of
/// Student's distribution (its expansion by the normal one: Abramowitz and Stegun, 26.7.5).
fn few(freedom: f64) -> f64 {
    let z: f64 = 1.96;
    let first = (z.powi(3) + z) / (4.0 * freedom);
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * freedom.powi(2));
    (z + first + second) / 2.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, at) = (values.len() / 2, |index: usize| values.get(index).copied().unwrap_or(f64::NAN));
    if values.len().is_multiple_of(2) { (at(half.wrapping_sub(1)) + at(half)) / 2.0 } else { at(half) }
}

#[cfg(test)]
mod tests;
