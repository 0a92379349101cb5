//! What a meter shows of the machine's energy, with the faults that meters have.
//!
//! Each model is a pure function of the time, apart from a driver that keeps a value for a while. Times of faults count
//! from the start of the load.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::power::Ledger;

/// How a meter comes to what it shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Meter {
    Counter(Counter),
    Sensor(Sensor),
}

/// A counter of energy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counter {
    /// The time between two updates, up to a tenth more or less.
    pub refresh_s: f64,
    pub step_j: f64,
    pub start_j: f64,
    /// It is at 0 again instead of here.
    pub range_j: f64,
    pub gain: f64,
    /// While it stalls, it shows what it showed before; then it has counted on.
    pub stalls_s: Vec<(f64, f64)>,
    /// It starts again at 0.
    pub reset_s: Option<f64>,
}

impl Default for Counter {
    /// The RAPL counter of a processor with units of 61 uJ (`rapl_check_unit_core` in `intel_rapl_common.c`).
    fn default() -> Self {
        Self {
            refresh_s: 1e-3,
            step_j: 61.035e-6,
            start_j: 1234.5,
            range_j: 262_143.328_85,
            gain: 1.0,
            stalls_s: Vec::new(),
            reset_s: None,
        }
    }
}

/// A sensor of power.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sensor {
    /// The length of a conversion: a value is the mean over this time, which has just ended.
    pub mean_s: f64,
    /// The time from one conversion to the next.
    pub cycle_s: f64,
    /// The driver asks the chip at most so often, and only when it is read.
    pub held_s: f64,
    pub noise_w: f64,
    pub step_w: f64,
    pub gain: f64,
    /// It shows no more than this.
    pub most_w: Option<f64>,
    /// It shows this, whatever the power.
    pub fixed_w: Option<f64>,
    /// It shows the same value from the first to the second time.
    pub frozen_s: Option<(f64, f64)>,
    /// For the current.
    pub volts: f64,
}

impl Default for Sensor {
    /// An INA219 with 0.1 Ohm at 12 bits: 532 us for the shunt, 532 us for the bus, power in steps of 2 mW (datasheet
    /// SBOS448G, table 5 and section 8.6.3).
    fn default() -> Self {
        Self {
            mean_s: 532e-6,
            cycle_s: 1.0653e-3,
            held_s: 0.0,
            noise_w: 0.004,
            step_w: 0.002,
            gain: 1.0,
            most_w: None,
            fixed_w: None,
            frozen_s: None,
            volts: 5.0,
        }
    }
}

/// What a driver keeps between two reads.
#[derive(Debug, Default)]
pub struct Held(Option<(u64, f64)>);

impl Counter {
    /// Returns the microjoules that it shows at `now`.
    pub fn shown_uj(&self, ledger: &Ledger, now: u64) -> u64 {
        let load_s = ledger.load_s(now);
        let stall = self.stalls_s.iter().find(|(from, to)| load_s.is_some_and(|s| (*from..*to).contains(&s)));
        let at = stall.map_or(now, |(from, _)| before(now, load_s.unwrap_or(0.0) - from));
        let mut counted_j = self.gain * ledger.joules(self.updated(at));
        match (self.reset_s, load_s) {
            (Some(reset_s), Some(load_s)) if load_s >= reset_s => {
                counted_j -= self.gain * ledger.joules(before(now, load_s - reset_s));
            }
            _ => counted_j += self.start_j,
        }
        let whole_j = (counted_j.max(0.0) / self.step_j).floor() * self.step_j;
        ((whole_j % self.range_j) * 1e6) as u64
    }

    /// Returns the last time up to `now` at which it was updated.
    fn updated(&self, now: u64) -> u64 {
        let period_ns = self.refresh_s * 1e9;
        let at = |index: u64| (index as f64 * period_ns + 0.1 * period_ns * uniform(index)) as u64;
        let index = (now as f64 / period_ns) as u64;
        if at(index) <= now { at(index) } else { at(index.saturating_sub(1)) }
    }
}

impl Sensor {
    /// Returns the watts that it shows at `now`.
    pub fn shown_w(&self, ledger: &Ledger, now: u64, held: &mut Held) -> f64 {
        if let Some(watts) = self.fixed_w {
            return watts;
        }
        let load_s = ledger.load_s(now);
        let frozen = self.frozen_s.zip(load_s).filter(|((from, to), load_s)| (*from..*to).contains(load_s));
        let now = frozen.map_or(now, |((from, _), load_s)| before(now, load_s - from));
        if let Some((since, watts)) = held.0
            && ((now.saturating_sub(since)) as f64) < self.held_s * 1e9
        {
            return watts;
        }
        let watts = self.converted_w(ledger, now);
        held.0 = Some((now, watts));
        watts
    }

    /// Returns the result of the last conversion that has ended at `now`.
    fn converted_w(&self, ledger: &Ledger, now: u64) -> f64 {
        let cycle_ns = self.cycle_s * 1e9;
        let index = (now as f64 / cycle_ns) as u64;
        let end = (index as f64 * cycle_ns) as u64;
        let mean_w = ledger.mean_w(before(end, self.mean_s), end);
        let noisy_w = self.gain * mean_w + self.noise_w * normal(index);
        let rounded_w = (noisy_w / self.step_w).round() * self.step_w;
        rounded_w.min(self.most_w.unwrap_or(f64::INFINITY)).max(0.0)
    }
}

fn before(time: u64, seconds: f64) -> u64 {
    time.saturating_sub((seconds * 1e9) as u64)
}

/// Returns a number from 0 to 1 that looks random, always the same for one seed (splitmix64).
pub fn uniform(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Returns the same of a standard normal distribution (Box and Muller).
fn normal(seed: u64) -> f64 {
    let (a, b) = (uniform(2 * seed), uniform(2 * seed + 1));
    (-2.0 * (1.0 - a).ln()).sqrt() * (TAU * b).cos()
}
