//! Runs of work back to back, with idle intervals before, between and after them.
//!
//! Owns the schedule of runs and idle intervals, and the processor time of other programs meanwhile. Leaves the meters to
//! `calibrate`. Blocks until it is done; a stop ends it soon.

use std::io;
use std::time::Duration;

use crate::energy::runs::{RUNS_MIN, Run};
use crate::engine::EngineError;
use crate::stop::{Stop, Waited};
use crate::sys::cpu::{Children, Others};
use crate::units::MonoTime;

/// The warm-up: after this time caches are warm, buffers exist and a device is awake.
const WARM_UP: Duration = Duration::from_millis(200);
/// Two more than are needed, because a meter may lose a reading.
const RUNS: usize = RUNS_MIN + 2;
/// The least number of steps in a run, however long they take.
const STEPS_MIN: u64 = 10;

/// The number and length of the runs. Both are longer if a meter needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    pub runs: usize,
    /// The length of a run.
    pub run: Duration,
    /// The length of the idle intervals before, between and after the runs.
    pub idle: Duration,
}

impl Plan {
    /// Returns how long all of it takes.
    pub(super) fn total(self) -> Duration {
        (self.run + self.idle) * u32::try_from(self.runs).unwrap_or(u32::MAX) + self.idle + WARM_UP
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self { runs: RUNS, run: Duration::from_secs(2), idle: Duration::from_secs(2) }
    }
}

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    #[error("stopped before it was done")]
    Stopped,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    NoEngine(String),
    #[error("cannot start the meter thread: {0}")]
    Io(#[from] io::Error),
}

/// All runs, after they are done.
pub(super) struct Done {
    pub runs: Vec<Run>,
    /// Processor cores that other programs used during the runs, less those that they used between the runs.
    pub other_cores: Option<f64>,
}

/// How fast the work was, over all runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub inferences_per_s: f64,
    /// Time of the work for one window: of an inference, that inside invoke.
    pub busy_ns: f64,
}

impl Rates {
    pub(super) fn of(runs: &[Run]) -> Self {
        let inferences = runs.iter().map(|run| run.inferences).sum::<u64>() as f64;
        let total_s = |of: &dyn Fn(&Run) -> Duration| runs.iter().map(|run| of(run).as_secs_f64()).sum::<f64>();
        Self {
            inferences_per_s: inferences / total_s(&|run| run.end.since(run.start)),
            busy_ns: 1e9 * total_s(&|run| run.busy) / inferences,
        }
    }
}

/// What runs back to back.
pub(super) struct Work<'a> {
    /// Works once, and returns for how long.
    pub step: &'a mut dyn FnMut() -> Result<Duration, EngineError>,
    /// How many windows a step is for.
    pub windows: u64,
}

/// Carries out the plan: idle intervals and runs in turn.
pub(super) fn run_back_to_back(
    mut work: Work<'_>,
    plan: Plan,
    stop: &Stop,
    children: &Children,
) -> Result<Done, CalibrateError> {
    let others = Others::new(children.clone());
    // Processor time of other programs, and elapsed time: in idle intervals, and in runs.
    let mut used = [(Some(Duration::ZERO), Duration::ZERO); 2];
    let mut runs = Vec::with_capacity(plan.runs);
    run_for(&mut work, WARM_UP, 1, stop)?;
    for index in 0..=2 * plan.runs {
        let (begun, before) = (MonoTime::now(), others.cpu_time());
        if index % 2 == 1 {
            runs.push(run_for(&mut work, plan.run, STEPS_MIN, stop)?);
        } else if stop.sleep_until(begun + plan.idle)? == Waited::Stopped {
            return Err(CalibrateError::Stopped);
        }
        let (cpu, time) = &mut used[index % 2];
        let now = others.cpu_time();
        *cpu = cpu.zip(now.zip(before)).map(|(sum, (now, before))| sum + now.saturating_sub(before));
        *time += MonoTime::now().since(begun);
    }
    let [idle, busy] = used.map(|(cpu, time)| cpu.map(|cpu| cpu.as_secs_f64() / time.as_secs_f64()));
    Ok(Done { runs, other_cores: busy.zip(idle).map(|(busy, idle)| busy - idle) })
}

/// Works back to back for at least that time and that number of steps.
fn run_for(work: &mut Work<'_>, length: Duration, steps_min: u64, stop: &Stop) -> Result<Run, CalibrateError> {
    let start = MonoTime::now();
    let until = start + length;
    let (mut busy, mut steps) = (Duration::ZERO, 0);
    loop {
        if stop.is_requested() {
            return Err(CalibrateError::Stopped);
        }
        busy += (work.step)()?;
        steps += 1;
        let end = MonoTime::now();
        if end >= until && steps >= steps_min {
            return Ok(Run { start, end, busy, inferences: steps * work.windows });
        }
    }
}
