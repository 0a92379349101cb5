//! What other programs take: the power of a core, learned while no inference runs.
//!
//! Pure. The kernel counts processor time in ticks, so differences of it have an error that is known: a regression that
//! ignores it would find too little power a core (Fuller, Measurement Error Models, 1.2). Only sums are kept.

use super::sums::Interval;
use crate::units::MonoTime;

/// The kernel shows processor time in ticks of this length.
const TICK_S: f64 = 0.01;
/// Idle intervals that follow each other make a block of at least this length.
const BLOCK_S: f64 = 0.1;
/// Blocks that are remembered.
const MEMORY: f64 = 1000.0;
/// Fewer differences of blocks than this say too little.
const DIFFERENCES_MIN: f64 = 16.0;
/// The spread of the processor time of others must be this many times what ticks alone make of it.
const SPREAD_MIN: f64 = 4.0;
/// A core that works next to an inference may take more or less than alone, by this fraction as a standard uncertainty.
const SAME_POWER: f64 = 0.15;
/// A core takes at most this many times the mean power of what the meter covers, if nothing else is known.
const CORE_MAX: f64 = 10.0;

/// The power of a core that other programs keep busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CorePower {
    pub watts: f64,
    pub u_w: f64,
}

/// Regression of power on the cores of others, over differences between blocks that follow each other, so that a drift of
/// idle power does not matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct CoreFit {
    block: Block,
    last: Option<Level>,
    count: f64,
    cores_squared: f64,
    both: f64,
    watts_squared: f64,
    /// What ticks add to `cores_squared`.
    ticks: f64,
}

#[derive(Debug, Clone, Default)]
struct Block {
    time_s: f64,
    joules: f64,
    other_s: f64,
    end: Option<MonoTime>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    time_s: f64,
    cores: f64,
    watts: f64,
}

impl CoreFit {
    /// Adds an interval in which no inference ran.
    pub(crate) fn add(&mut self, interval: &Interval) {
        let Some(other_s) = interval.other_s else { return };
        if self.block.end.is_some_and(|end| end != interval.start) {
            (self.block, self.last) = (Block::default(), None);
        }
        let Block { time_s, joules, other_s: sum_s, end } = &mut self.block;
        *time_s += interval.time_s();
        *joules += interval.joules;
        *sum_s += other_s;
        *end = Some(interval.end);
        if *time_s < BLOCK_S {
            return;
        }
        let now = Level { time_s: *time_s, cores: *sum_s / *time_s, watts: *joules / *time_s };
        (*time_s, *joules, *sum_s) = (0.0, 0.0, 0.0);
        if let Some(before) = self.last.replace(now) {
            self.add_difference(before, now);
        }
    }

    fn add_difference(&mut self, before: Level, now: Level) {
        let (cores, watts) = (now.cores - before.cores, now.watts - before.watts);
        let keep = 1.0 - 1.0 / MEMORY;
        let added = [1.0, cores.powi(2), cores * watts, watts.powi(2), tick_variance(before.time_s, now.time_s)];
        let sums = [&mut self.count, &mut self.cores_squared, &mut self.both, &mut self.watts_squared, &mut self.ticks];
        for (sum, added) in sums.into_iter().zip(added) {
            *sum = keep * *sum + added;
        }
    }

    /// Returns the power of a core, if others worked unevenly enough to show it.
    pub(crate) fn power(&self) -> Option<CorePower> {
        if self.count < DIFFERENCES_MIN || self.cores_squared < (1.0 + SPREAD_MIN) * self.ticks {
            return None;
        }
        let spread = self.cores_squared - self.ticks;
        if spread <= 0.0 {
            return None;
        }
        let watts = self.both / spread;
        let rest = (self.watts_squared - watts * self.both).max(0.0) / (self.count - 2.0);
        // Neighbouring differences have a block in common.
        let scatter_w = (3.0 * rest / spread).sqrt();
        let ticks_w = watts * self.ticks / spread / 3f64.sqrt();
        Some(CorePower { watts, u_w: scatter_w.hypot(ticks_w).hypot(SAME_POWER * watts) })
    }
}

/// Returns the variance that ticks add to the difference of the cores of two neighbouring blocks.
fn tick_variance(before_s: f64, now_s: f64) -> f64 {
    let (before, now) = (1.0 / before_s, 1.0 / now_s);
    TICK_S.powi(2) / 12.0 * (before.powi(2) + (before + now).powi(2) + now.powi(2))
}

/// Returns the standard uncertainty of processor seconds that were counted between `edges` pairwise readings.
pub(crate) fn ticks_u_s(edges: f64) -> f64 {
    TICK_S * (edges / 12.0).sqrt()
}

/// Other programs' processor time beside the inferences, beyond what they used while idle power was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Excess {
    pub(super) cores: f64,
    /// By how much `cores` may be off because the kernel counts in ticks, as an expanded uncertainty.
    pub(super) ticks_cores: f64,
    /// Their joules, as well as they are known, and the standard uncertainty.
    pub(super) joules: f64,
    pub(super) u_j: f64,
    /// The most that they can have taken, ticks left out.
    pub(super) most_j: f64,
    /// The power of a core that `joules` is computed with; `None` if only the bound is known.
    pub(super) core_w: Option<f64>,
}

impl Excess {
    /// Of `other_s` in `time_s`, counted between `edges` readings, at the mean power `mean_w`; `is_used` says whether others
    /// did anything at all.
    pub(crate) fn new(
        other_s: f64,
        time_s: f64,
        edges: f64,
        is_used: bool,
        mean_w: f64,
        core: Option<CorePower>,
    ) -> Self {
        let ticks_s = 2.0 * ticks_u_s(edges);
        let most_w = Self::core_max_w(mean_w, core);
        let (joules, u_j) = match core {
            Some(core) => (other_s * core.watts, other_s.abs() * core.u_w),
            None => (0.0, other_s.abs() * most_w / 3f64.sqrt()),
        };
        let u_j = if is_used { u_j.hypot(ticks_u_s(edges) * most_w / 3f64.sqrt()) } else { u_j };
        Self {
            cores: other_s / time_s,
            ticks_cores: ticks_s / time_s,
            joules,
            u_j,
            most_j: (other_s.abs() - ticks_s).max(0.0) * most_w,
            core_w: core.map(|core| core.watts),
        }
    }

    /// Returns the most watts that a core takes.
    pub(crate) fn core_max_w(mean_w: f64, core: Option<CorePower>) -> f64 {
        core.map_or(CORE_MAX * mean_w, |core| core.watts.abs() + 2.0 * core.u_w)
    }
}
