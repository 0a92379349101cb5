//! How long power takes to come to rest after a run: clocks, fans and drivers may keep it up for a while.
//!
//! Pure. All runs are looked at together: the power in parts of the idle intervals after them, above a straight line from idle
//! power before the run to that at the end of the interval. So a steady drift of idle power is not taken for a tail.

use std::time::Duration;

use super::{Run, SETTLE, Trace, before};
use crate::meter::{Reading, Resolution};
use crate::units::MonoTime;

/// An idle interval has so many parts; power after the first ones is taken for that at rest.
const PARTS: u32 = 8;
const WATCHED: u32 = 6;
/// Power may be above rest if its mean over all runs is so many times its standard deviation, and is certainly.
const MAYBE_ABOVE: f64 = 1.5;
const ABOVE: f64 = 4.0;
/// A smaller part of the power of a run does not matter.
const NOTICEABLE: f64 = 2e-3;
/// Fewer runs say too little.
const RUNS_MIN: usize = 3;

/// How power comes to rest after a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rest {
    /// From this time after a run on.
    pub after: Duration,
    /// Power above rest shortly after a run.
    pub tail_w: f64,
    /// Standard uncertainty of power at rest, because a faint tail may go on unseen.
    pub unseen_w: f64,
}

/// Mean power above rest over all runs; its standard uncertainty by their scatter, and by the resolution of the meter.
#[derive(Debug, Clone, Copy)]
struct Above {
    watts: f64,
    u_w: f64,
    resolution_w: f64,
}

/// Returns how power comes to rest in idle intervals of length `idle`; `None` if it does not.
pub(super) fn after(trace: &Trace, runs: &[Run], idle: Duration, resolution: Resolution) -> Option<Rest> {
    let part = idle / PARTS;
    let lines: Vec<Line> = runs.iter().filter_map(|run| Line::new(trace, run, idle, resolution)).collect();
    let run_w = mean(runs.iter().filter_map(|run| watts(trace, run.start, run.end)));
    let rest_w = mean(lines.iter().map(|line| line.start_w)).unwrap_or(0.0);
    let least_w = NOTICEABLE * run_w.map_or(0.0, |run_w| run_w - rest_w).max(0.0);
    // From a part on to the last one, so that a faint tail is seen, too.
    let from = |first: u32| {
        let seen: Vec<f64> = lines.iter().filter_map(|line| line.above(trace, first, WATCHED)).collect();
        let watts = mean(seen.iter().copied()).filter(|_| seen.len() >= RUNS_MIN)?;
        let count = seen.len() as f64;
        let scatter = seen.iter().map(|seen| (seen - watts).powi(2)).sum::<f64>() / (count - 1.0) / count;
        Some(Above {
            watts,
            u_w: scatter.sqrt(),
            resolution_w: resolution_w(resolution, part * (WATCHED - first), rest_w),
        })
    };
    let is_above = |first: u32, times: f64| {
        from(first).is_some_and(|above| above.watts > least_w.max(times * above.u_w.hypot(above.resolution_w)))
    };
    if is_above(WATCHED - 1, ABOVE) {
        return None;
    }
    // Tails fall slowly: leave out one part more than those that may be seen.
    let last = (0..WATCHED).rev().find(|first| is_above(*first, MAYBE_ABOVE));
    let at_rest = last.map_or(0, |last| (last + 2).min(WATCHED - 1));
    let shortly_w = mean(lines.iter().filter_map(|line| line.above(trace, 0, 1)));
    Some(Rest {
        after: part * at_rest,
        tail_w: last.and(shortly_w).unwrap_or(0.0),
        unseen_w: from(at_rest).map_or(0.0, |above| above.u_w),
    })
}

/// Power at rest from before a run to the end of the idle interval after it, as a straight line.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// From when on the readings do not look back on the run.
    from: MonoTime,
    part: Duration,
    start_w: f64,
    watts_per_part: f64,
    /// Parts from the middle of the first power to the end of the run.
    before: f64,
}

impl Line {
    /// Returns the line around `run`, if there are enough readings.
    fn new(trace: &Trace, run: &Run, idle: Duration, resolution: Resolution) -> Option<Self> {
        let part = idle / PARTS;
        let from = run.end + resolution.look_back();
        let start_w = watts(trace, before(run.start, 2 * part), before(run.start, SETTLE))?;
        let end_w = watts(trace, from + part * WATCHED, before(run.end + idle, SETTLE))?;
        let before = run.end.since(run.start).as_secs_f64() / part.as_secs_f64() + 1.0;
        let length = before + f64::from(PARTS + WATCHED) / 2.0;
        Some(Self { from, part, start_w, watts_per_part: (end_w - start_w) / length, before })
    }

    /// Returns the watts above it from one part of the idle interval to another.
    fn above(&self, trace: &Trace, first: u32, end: u32) -> Option<f64> {
        let middle = self.before + f64::from(first + end) / 2.0;
        let watts = watts(trace, self.from + self.part * first, self.from + self.part * end)?;
        Some(watts - self.start_w - middle * self.watts_per_part)
    }
}

/// Returns the mean power between two times, if there are readings enough and none was lost.
fn watts(trace: &Trace, from: MonoTime, to: MonoTime) -> Option<f64> {
    let readings = trace.between(from, to).ok()?;
    let (first, last) = (readings.first()?, readings.last()?);
    match first.accuracy.resolution {
        Resolution::Counter { .. } => {
            (last.joules - first.joules).per(last.time.since(first.time)).map(|power| power.0)
        }
        _ => mean(readings.iter().filter_map(|Reading { power, .. }| power.map(|power| power.0))),
    }
}

/// Returns what the resolution leaves open of a mean power of about `watts` over `time`.
fn resolution_w(resolution: Resolution, time: Duration, watts: f64) -> f64 {
    match resolution {
        Resolution::Counter { update, quantum } => {
            super::edges_j(watts, update, quantum) / time.as_secs_f64() / (RUNS_MIN as f64).sqrt()
        }
        Resolution::Sampled { quantum, .. } => quantum.0 / 12f64.sqrt(),
        Resolution::Model { .. } => 0.0,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    (count > 0.0).then(|| sum / count)
}
