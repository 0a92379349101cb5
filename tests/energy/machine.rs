//! A machine whose power is known: idle power that drifts, inferences on top, and energy between any two moments.

/// splitmix64; the same numbers on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Each factor as likely as the other.
    pub(crate) fn log_between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit())
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }

    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Work of one pipeline: inferences one after the other, or a group of many short ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    pub start_s: f64,
    pub end_s: f64,
    pub busy_s: f64,
    pub inferences: u32,
}

/// Power that lasts after each burst, until the next one begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    pub watts: f64,
    /// Its length, or the time constant with which it falls.
    pub length_s: f64,
    pub falls: bool,
}

impl Tail {
    /// Joules within `t` after a burst.
    fn energy_j(self, t: f64) -> f64 {
        let lasted_s =
            if self.falls { self.length_s * (1.0 - (-t / self.length_s).exp()) } else { self.length_s.min(t) };
        self.watts * lasted_s
    }
}

/// One pipeline's bursts and what each busy second adds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load {
    pub added_w: f64,
    pub bursts: Vec<Burst>,
    /// Busy seconds and inferences before each burst.
    before: Vec<(f64, f64)>,
    pub tail: Option<Tail>,
    /// Joules of the tails before each burst.
    tails_j: Vec<f64>,
    /// Part of a burst's energy that its first half takes; a half if its power is even.
    pub first_half: f64,
}

impl Load {
    pub(crate) fn new(added_w: f64, bursts: Vec<Burst>) -> Self {
        let mut sum = (0.0, 0.0);
        let before = bursts
            .iter()
            .map(|burst| {
                let before = sum;
                sum = (sum.0 + burst.busy_s, sum.1 + f64::from(burst.inferences));
                before
            })
            .collect();
        Self { added_w, bursts, before, tail: None, tails_j: Vec::new(), first_half: 0.5 }
    }

    pub(crate) fn with_tail(mut self, tail: Tail) -> Self {
        let mut sum = 0.0;
        self.tails_j = vec![0.0];
        for pair in self.bursts.windows(2) {
            sum += tail.energy_j(pair[1].start_s - pair[0].end_s);
            self.tails_j.push(sum);
        }
        self.tail = Some(tail);
        self
    }

    /// Joules of the tails until `t`.
    pub(crate) fn tails_until(&self, t: f64) -> f64 {
        let last = self.bursts.partition_point(|burst| burst.start_s < t).checked_sub(1);
        let Some((last, tail)) = last.zip(self.tail) else { return 0.0 };
        self.tails_j[last] + tail.energy_j((t - self.bursts[last].end_s).max(0.0))
    }

    /// Joules until `t` beyond those of an even power, tails left out.
    fn uneven_until(&self, t: f64) -> f64 {
        let last = self.bursts.partition_point(|burst| burst.start_s < t).checked_sub(1);
        let Some(burst) = last.map(|last| self.bursts[last]).filter(|_| self.first_half != 0.5) else { return 0.0 };
        let part = ((t - burst.start_s) / (burst.end_s - burst.start_s)).min(1.0);
        let ahead = (2.0 * self.first_half - 1.0) * part.min(1.0 - part);
        self.added_w * burst.busy_s * ahead
    }

    /// Busy seconds and inferences until `t`.
    pub(crate) fn until(&self, t: f64) -> (f64, f64) {
        let next = self.bursts.partition_point(|burst| burst.start_s < t);
        let Some(last) = next.checked_sub(1) else { return (0.0, 0.0) };
        let (burst, before) = (self.bursts[last], self.before[last]);
        let part = ((t - burst.start_s) / (burst.end_s - burst.start_s)).min(1.0);
        (before.0 + part * burst.busy_s, before.1 + part * f64::from(burst.inferences))
    }
}

/// Everything that draws power.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Idle power on a grid of `STEP_S`, straight in between, and the energy until each point.
    idle_w: Vec<f64>,
    idle_j: Vec<f64>,
    pub loads: Vec<Load>,
    /// Other programs: not an inference, but power.
    pub others: Load,
    /// Idle power from a time on, beyond what it was.
    pub step: Option<(f64, f64)>,
    /// Joules until each point of the grid that a chip draws because it became warm.
    leaks_j: Vec<f64>,
}

const STEP_S: f64 = 0.25;

/// How idle power wanders: a walk and a slow wave, both in parts of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drift {
    /// Standard deviation after a minute.
    pub walk_rel: f64,
    pub wave_rel: f64,
    pub wave_period_s: f64,
}

impl Machine {
    pub(crate) fn new(idle_w: f64, drift: Drift, length_s: f64, loads: Vec<Load>, others: Load, rng: &mut Rng) -> Self {
        let (mut level, phase) = (0.0, rng.between(0.0, std::f64::consts::TAU));
        let step_rel = drift.walk_rel * (STEP_S / 60.0).sqrt();
        let points = (length_s / STEP_S) as usize + 3;
        let idle_w: Vec<f64> = (0..points)
            .map(|point| {
                level += step_rel * rng.normal();
                let turn = std::f64::consts::TAU * point as f64 * STEP_S / drift.wave_period_s;
                idle_w * (1.0 + level + drift.wave_rel * (turn + phase).sin())
            })
            .collect();
        let mut sum = 0.0;
        let mut idle_j = vec![0.0];
        for pair in idle_w.windows(2) {
            sum += (pair[0] + pair[1]) / 2.0 * STEP_S;
            idle_j.push(sum);
        }
        Self { idle_w, idle_j, loads, others, step: None, leaks_j: Vec::new() }
    }

    /// Adds `watts` that follow the load with a time constant.
    pub(crate) fn with_leak(mut self, watts: f64, tau_s: f64) -> Self {
        let (mut leak_w, mut sum, mut busy_s) = (0.0, 0.0, 0.0);
        for point in 0..self.idle_w.len() {
            self.leaks_j.push(sum);
            let now_s = self.loads.iter().map(|load| load.until((point + 1) as f64 * STEP_S).0).sum::<f64>();
            let target_w = watts * (now_s - busy_s) / STEP_S;
            busy_s = now_s;
            leak_w += (target_w - leak_w) * (1.0 - (-STEP_S / tau_s).exp());
            sum += leak_w * STEP_S;
        }
        self
    }

    /// Joules until `t` that the inferences cause after they ended, or by warming the chip.
    pub(crate) fn caused_j(&self, t: f64) -> f64 {
        let point = ((t / STEP_S) as usize).min(self.idle_w.len() - 2);
        let leak_j = match (self.leaks_j.get(point), self.leaks_j.get(point + 1)) {
            (Some(left), Some(right)) => left + (right - left) * (t / STEP_S - point as f64),
            _ => 0.0,
        };
        leak_j + self.loads.iter().map(|load| load.tails_until(t)).sum::<f64>()
    }

    /// Joules until `t` beyond those of inferences of even power.
    pub(crate) fn uneven_j(&self, t: f64) -> f64 {
        self.loads.iter().map(|load| load.uneven_until(t)).sum()
    }

    /// Joules since the start.
    pub(crate) fn energy_j(&self, t: f64) -> f64 {
        let point = ((t / STEP_S) as usize).min(self.idle_w.len() - 2);
        let into = t - point as f64 * STEP_S;
        let (left, right) = (self.idle_w[point], self.idle_w[point + 1]);
        let idle_j = self.idle_j[point] + into * (left + (right - left) * into / STEP_S / 2.0);
        let loads: f64 = self.loads.iter().map(|load| load.added_w * load.until(t).0).sum();
        let step_j = self.step.map_or(0.0, |(from, watts)| watts * (t - from).max(0.0));
        let more_j = step_j + self.caused_j(t) + self.uneven_j(t);
        idle_j + loads + self.others.added_w * self.others.until(t).0 + more_j
    }

    /// Mean power over the `length_s` that ends at `t`.
    pub(crate) fn power_w(&self, t: f64, length_s: f64) -> f64 {
        (self.energy_j(t) - self.energy_j(t - length_s)) / length_s
    }
}
