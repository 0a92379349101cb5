//! The schedule of a bench: in each round every cell has its turn, in another order each time.
//!
//! Owns what a turn is: load, first inference, warm-up, idle interval, run, idle interval, unload. So the machine drifts for all
//! cells alike, each engine is loaded as often as there are rounds, and no two need the same device at once. Leaves engines,
//! clocks and meters to the [`Lab`], which in a test is a simulated one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::distribution::Distribution;
use super::statistics::Dice;
use crate::energy::runs::Run;
use crate::sys::processor::Conditions;
use crate::units::MonoTime;

/// The machine, with at most one engine loaded.
pub trait Lab {
    fn now(&self) -> MonoTime;

    /// Waits until a time, or until a stop is requested.
    fn wait(&mut self, until: MonoTime);

    fn is_stopped(&self) -> bool;

    /// Loads the engine of a cell.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    fn load(&mut self, cell: usize) -> Result<(), String>;

    /// Runs the next windows through the loaded engine, as many as a batch has. Returns the time inside of invoke.
    ///
    /// # Errors
    /// Why it failed.
    fn step(&mut self) -> Result<Duration, String>;

    /// Frees the engine, and its device.
    fn unload(&mut self);

    /// Returns processor time: of this program with its engines, and of all others, if the kernel tells it.
    fn processor_time(&self) -> (Duration, Option<Duration>);

    /// Returns how the processor ran since the last call, and its temperature in degrees Celsius.
    fn conditions(&mut self) -> (Conditions, Option<f64>);
}

/// How long everything takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    pub rounds: usize,
    /// The length of a run, at least.
    pub run: Duration,
    /// The length of idle intervals; zero without a meter.
    pub idle: Duration,
    /// Before a run: until caches are warm and clocks are up.
    pub warm_up: Duration,
}

/// The fewest steps in a run, however long they take.
const STEPS_MIN: usize = 5;
/// More steps are run but not kept, to bound memory.
const STEPS_KEPT: usize = 1 << 20;

impl Plan {
    /// Returns how long all of it takes, for so many cells, if steps and loading take no time.
    pub fn total(&self, cells: usize) -> Duration {
        let turn = self.run + self.warm_up + 2 * self.idle;
        let round = turn * u32::try_from(cells).unwrap_or(u32::MAX) + self.idle;
        round * u32::try_from(self.rounds).unwrap_or(u32::MAX)
    }
}

/// What one turn of a cell gave.
#[derive(Debug, Clone)]
pub struct Turn {
    pub cell: usize,
    pub round: usize,
    /// Until the engine was loaded.
    pub load: Duration,
    /// The first inference after that.
    pub first: Duration,
    /// The times of the steps of the run.
    pub steps: Distribution,
    pub run: Run,
    /// Processor time of this program during the run.
    pub processor_time: Duration,
    /// Processor cores that other programs kept busy: during the run, and in the idle intervals around it.
    pub others: Option<f64>,
    pub others_idle: Option<f64>,
    pub conditions: Conditions,
    pub temperature_c: Option<f64>,
}

/// All that a bench saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub turns: Vec<Turn>,
    /// Idle intervals in which nothing was loaded: before each round, and after the last one.
    pub empty: Vec<(MonoTime, MonoTime)>,
    /// By cell: why it failed, if it did. A cell that failed has no more turns.
    pub failures: Vec<Option<String>>,
    /// A stop ended it early.
    pub is_stopped: bool,
}

impl Seen {
    fn wait_empty(&mut self, lab: &mut dyn Lab, idle: Duration) {
        if !idle.is_zero() {
            let start = lab.now();
            lab.wait(start + idle);
            self.empty.push((start, lab.now()));
        }
    }

    /// Returns the rounds in which every cell had its turn, apart from those that failed.
    pub fn rounds_done(&self) -> usize {
        let mut counts = BTreeMap::<usize, usize>::new();
        self.turns.iter().for_each(|turn| *counts.entry(turn.cell).or_insert(0) += 1);
        let lasting = counts.iter().filter(|(cell, _)| self.failures.get(**cell).is_none_or(Option::is_none));
        lasting.map(|(_, count)| *count).min().unwrap_or(0)
    }
}

/// Why a turn gave nothing.
enum NoTurn {
    Stopped,
    Failed(String),
}

impl From<String> for NoTurn {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Carries out the plan for cells that each run so many windows in a step; `None` for one that cannot run. Calls `progress` before each turn with the number
/// of turns that are done, and at the end.
pub fn run(lab: &mut dyn Lab, batches: &[Option<usize>], plan: &Plan, mut progress: impl FnMut(usize)) -> Seen {
    let mut seen = Seen { failures: vec![None; batches.len()], ..Seen::default() };
    let (mut dice, mut steps, mut done) = (Dice::new(1), Vec::new(), 0);
    'rounds: for round in 0..plan.rounds {
        let mut order: Vec<usize> =
            (0..batches.len()).filter(|cell| batches[*cell].is_some() && seen.failures[*cell].is_none()).collect();
        dice.shuffle(&mut order);
        if order.is_empty() {
            break;
        }
        seen.wait_empty(lab, plan.idle);
        for cell in order {
            progress(done);
            let turn = turn(lab, (cell, round), batches[cell].unwrap_or(1), plan, &mut steps);
            lab.unload();
            match turn {
                Ok(turn) => seen.turns.push(turn),
                Err(NoTurn::Failed(reason)) => seen.failures[cell] = Some(reason),
                Err(NoTurn::Stopped) => {
                    seen.is_stopped = true;
                    break 'rounds;
                }
            }
            done += 1;
        }
    }
    seen.wait_empty(lab, plan.idle);
    progress(done);
    seen
}

fn turn(
    lab: &mut dyn Lab,
    (cell, round): (usize, usize),
    batch: usize,
    plan: &Plan,
    steps: &mut Vec<u64>,
) -> Result<Turn, NoTurn> {
    let begun = lab.now();
    lab.load(cell)?;
    let load = lab.now().since(begun);
    let first = lab.step()?;
    work(lab, plan.warm_up, 1, steps)?;
    let idle_before = idle(lab, plan.idle);
    lab.conditions();
    let (start, before) = (lab.now(), lab.processor_time());
    let (busy, count) = work(lab, plan.run, STEPS_MIN, steps)?;
    let (end, after) = (lab.now(), lab.processor_time());
    let (conditions, temperature_c) = lab.conditions();
    let idle_after = idle(lab, plan.idle);
    if lab.is_stopped() {
        return Err(NoTurn::Stopped);
    }
    let others_idle = idle_before.zip(idle_after).map(|(before, after)| (before + after) / 2.0);
    Ok(Turn {
        cell,
        round,
        load,
        first,
        steps: Distribution::of(steps),
        run: Run { start, end, busy, inferences: count * batch as u64 },
        processor_time: after.0.saturating_sub(before.0),
        others: cores(before.1, after.1, end.since(start)),
        others_idle,
        conditions,
        temperature_c,
    })
}

/// Works for at least that time and that number of steps, and keeps their times in `steps`. Returns the time inside of invoke,
/// and the number of steps.
fn work(
    lab: &mut dyn Lab,
    length: Duration,
    steps_min: usize,
    steps: &mut Vec<u64>,
) -> Result<(Duration, u64), NoTurn> {
    let until = lab.now() + length;
    let (mut busy, mut count) = (Duration::ZERO, 0);
    steps.clear();
    loop {
        if lab.is_stopped() {
            return Err(NoTurn::Stopped);
        }
        let step = lab.step()?;
        busy += step;
        count += 1;
        if steps.len() < STEPS_KEPT {
            steps.push(crate::units::duration_ns(step));
        }
        if count >= steps_min as u64 && lab.now() >= until {
            return Ok((busy, count));
        }
    }
}

/// Waits for that time. Returns the processor cores that other programs kept busy meanwhile.
fn idle(lab: &mut dyn Lab, length: Duration) -> Option<f64> {
    let (start, (_, before)) = (lab.now(), lab.processor_time());
    lab.wait(start + length);
    cores(before, lab.processor_time().1, lab.now().since(start))
}

fn cores(before: Option<Duration>, after: Option<Duration>, time: Duration) -> Option<f64> {
    let used = after?.saturating_sub(before?);
    (!time.is_zero()).then(|| used.as_secs_f64() / time.as_secs_f64())
}
