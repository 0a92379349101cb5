//! Scenarios of a class: a machine, a meter with its faults, a way of reading it, and the estimates that follow.

use std::time::Duration;

use edgewatt::energy::{Attribution, EnergyEstimate, Settings};
use edgewatt::engine::span::BusySpan;
use edgewatt::meter::{MeterInfo, Scale, Scope};
use edgewatt::units::MonoTime;

use super::classes::{Class, Meter, Trouble};
use super::machine::{Burst, Drift, Load, Machine, Rng, Tail};
use super::simulated_meter::{Behaviour, CounterBehaviour, SimulatedMeter, mono};

const READINGS_MAX: f64 = 12_000.0;
const METRICS_S: f64 = 10.0;

#[derive(Debug)]
pub(crate) struct Scenario {
    meter: Behaviour,
    trouble: Trouble,
    idle_s: f64,
    length_s: f64,
    inference_s: f64,
    duty: f64,
    idle_w: f64,
    added_w: f64,
    drift: Drift,
    pipelines: usize,
    /// What a core of another program draws.
    core_w: f64,
    /// Processor time of a producer before each sample.
    producer_s: f64,
    tail: Option<Tail>,
    step: Option<(f64, f64)>,
    leak: Option<(f64, f64)>,
    first_half: f64,
    rng: Rng,
}

/// What is true of a estimate's window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truth {
    pub gross_j: f64,
    pub net_j: f64,
}

#[derive(Default)]
pub(crate) struct Outcome {
    pub estimates: Vec<(EnergyEstimate, Truth)>,
    /// From the last good reading to the next one, where the meter lost what was between.
    pub losses: Vec<(MonoTime, MonoTime)>,
}

impl Scenario {
    pub(crate) fn new(class: &Class, seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
            ^ class.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(b)));
        for _ in 0..4 {
            rng.next();
        }
        let inference_s = rng.log_between(class.inference_s.0, class.inference_s.1);
        let duty = rng.log_between(class.duty.0, class.duty.1);
        let idle_s = rng.between(5.0, 20.0);
        let length_s = idle_s + (25.0 * inference_s / duty).clamp(30.0, 300.0);
        let fastest_s = match class.meter {
            Meter::Counter => rng.one_of(&[2e-3, 10e-3, 100e-3]),
            Meter::SlowCounter { .. } => rng.one_of(&[10e-3, 100e-3]),
            Meter::CoarseCounter { .. } => 10e-3,
            Meter::Average { .. } | Meter::Cached { .. } => rng.one_of(&[10e-3, 100e-3]),
            Meter::Snapshots { hz } => 1.0 / hz,
            Meter::Ina219 { hz, .. } => 1.0 / hz,
            Meter::LongConversions => 0.1,
        };
        let period_s = match class.meter {
            Meter::Snapshots { .. } | Meter::Ina219 { .. } | Meter::LongConversions => fastest_s,
            _ => fastest_s.max(length_s / READINGS_MAX),
        };
        let idle_w = rng.log_between(0.3, 20.0);
        let drifts = match class.trouble {
            Trouble::Drift => 1.0,
            Trouble::None | Trouble::Others => rng.log_between(0.03, 1.0),
            // What goes wrong there is not to hide behind drift.
            _ => rng.log_between(0.03, 0.3),
        };
        let drift = Drift {
            walk_rel: drifts * rng.log_between(1e-3, 2e-2),
            wave_rel: drifts * rng.log_between(1e-3, 1e-2),
            wave_period_s: rng.between(60.0, 900.0),
        };
        let unit_j = match class.meter {
            Meter::CoarseCounter { step_j } => step_j,
            _ => 61.035e-6,
        };
        let refresh_s = match class.meter {
            Meter::SlowCounter { refresh_s } => refresh_s,
            _ => 1e-3,
        };
        // It wraps somewhere in the scenario.
        let wrap_s = if class.trouble == Trouble::Wraps { rng.between(0.0, length_s) } else { 1e3 };
        let added_w = idle_w * rng.log_between(0.1, 3.0);
        // Of its own, so that no other scenario changes.
        let mut more = Rng(rng.0 ^ 0x5bd1_e995);
        let (tail, step, leak, first_half) = match class.trouble {
            Trouble::Tail { length_s } => {
                let falls = more.one_of(&[false, true]);
                (Some(Tail { watts: 0.2 * added_w, length_s, falls }), None, None, 0.5)
            }
            Trouble::StepWithLoad => (None, Some((idle_s, idle_w * more.between(0.05, 0.3))), None, 0.5),
            Trouble::StepAnyTime => (None, Some((more.between(idle_s, length_s), 0.1 * idle_w)), None, 0.5),
            Trouble::Leak => (None, None, Some((more.between(0.02, 0.1) * added_w, more.log_between(1.0, 60.0))), 0.5),
            Trouble::Phases => (None, None, None, more.one_of(&[0.2, 0.35, 0.65, 0.8])),
            _ => (None, None, None, 0.5),
        };
        let core_w = match class.trouble {
            Trouble::Producer | Trouble::OnceASecond => idle_w * more.log_between(1.0, 10.0),
            _ => idle_w,
        };
        let producer_s = more.between(0.01, 0.05);
        let counter = CounterBehaviour {
            period_s: refresh_s * rng.between(0.95, 1.05),
            jitter: rng.between(0.02, 0.2),
            unit_j,
            start_units: (1 << 32) - (wrap_s * idle_w / unit_j) as u64,
        };
        let (gain, scale) = match class.gain_error {
            None => (1.0 + 0.01 * rng.normal(), Scale::UNKNOWN),
            Some(error) => (1.0 + error * rng.between(-1.0, 1.0), Scale { gain_error: Some(error), ..Scale::UNKNOWN }),
        };
        let meter = Behaviour {
            kind: class.meter,
            period_s,
            noise_w: idle_w * rng.log_between(1e-3, 2e-2),
            quantum_w: rng.one_of(&[0.5e-3, 2e-3, 10e-3]),
            gain,
            scale,
            counter,
        };
        Self {
            meter,
            trouble: class.trouble,
            idle_s,
            length_s,
            inference_s,
            duty,
            idle_w,
            added_w,
            drift,
            pipelines: class.pipelines,
            core_w,
            producer_s,
            tail,
            step,
            leak,
            first_half,
            rng,
        }
    }

    /// The same without wraps, gaps and suspends.
    pub(crate) fn without_trouble(mut self) -> Self {
        self.meter.counter.start_units = 0;
        self.trouble = Trouble::None;
        self
    }

    /// Inferences from the end of the idle time on: in step, with jitter, or at random.
    fn bursts(&self, rng: &mut Rng) -> Vec<Burst> {
        let rhythm = rng.one_of(&[0.0, 0.1, 1.0]);
        // Many short ones come as one merged span, as they do from a full ring.
        let group = (0.4e-3 / (self.inference_s / self.duty)).floor().max(1.0);
        let (busy_s, mean_s) = (self.inference_s * group, self.inference_s * group / self.duty);
        let mut bursts = Vec::new();
        let mut t = self.idle_s + mean_s * rng.unit();
        while t < self.length_s {
            let varied = if group > 1.0 { 1.0 } else { 1.0 + 0.05 * rng.normal().clamp(-3.0, 3.0) };
            let is_slow = self.trouble == Trouble::SlowOnes && rng.unit() < (0.3 * mean_s).min(0.02);
            let busy_s = busy_s * varied * if is_slow { 20.0 } else { 1.0 };
            let length_s = if group > 1.0 { mean_s.min(busy_s / self.duty) } else { busy_s };
            // The daemon ends when its last inference has.
            if t + length_s > self.length_s - 2.0 * self.meter.period_s {
                break;
            }
            bursts.push(Burst { start_s: t, end_s: t + length_s, busy_s, inferences: group as u32 });
            let pause_s = (mean_s - length_s).max(0.0);
            t += length_s
                + match rhythm {
                    1.0 => -pause_s * (1.0 - rng.unit()).ln(),
                    jitter => pause_s * (1.0 + jitter * (2.0 * rng.unit() - 1.0)),
                };
        }
        bursts
    }

    /// What other programs do.
    fn others(&self, loads: &[Load]) -> Vec<Burst> {
        let each = |from: f64, step_s: f64, busy_s: f64| {
            let count = ((self.length_s - from) / step_s) as usize;
            let burst = move |index: usize| {
                let start_s = from + step_s * index as f64;
                Burst { start_s, end_s: start_s + busy_s, busy_s, inferences: 0 }
            };
            (0..count).map(burst).collect()
        };
        match self.trouble {
            Trouble::Others => each(self.idle_s, 4.0, 2.0),
            Trouble::OnceASecond => each(0.3, 1.0, 0.01),
            Trouble::Producer => {
                let starts = || loads[0].bursts.iter().map(|burst| burst.start_s);
                let mean_s = self.inference_s / self.duty;
                let early = (1..).map(|index| self.idle_s - mean_s * f64::from(index)).take_while(|start| *start > 1.0);
                let mut early: Vec<f64> = early.collect();
                early.reverse();
                let mut ended = 0.0;
                let burst = |start: f64| {
                    let start_s = (start - self.producer_s).max(ended);
                    ended = start;
                    (start > start_s).then_some(Burst { start_s, end_s: start, busy_s: start - start_s, inferences: 0 })
                };
                early.into_iter().chain(starts()).filter_map(burst).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn run(&self) -> Outcome {
        let mut rng = self.rng.clone();
        let load = |index: usize, rng: &mut Rng| {
            let mut load = Load::new(self.added_w * (1.0 + index as f64), self.bursts(rng));
            load.first_half = self.first_half;
            self.tail.map_or(load.clone(), |tail| load.with_tail(tail))
        };
        let loads: Vec<Load> = (0..self.pipelines).map(|index| load(index, &mut rng)).collect();
        let others = Load::new(self.core_w, self.others(&loads));
        let mut machine = Machine::new(self.idle_w, self.drift, self.length_s + 1.0, loads, others, &mut rng);
        machine.step = self.step;
        if let (Trouble::StepWithLoad, Some(step), Some(first)) =
            (self.trouble, machine.step.as_mut(), machine.loads[0].bursts.first())
        {
            step.0 = first.start_s;
        }
        let machine = self.leak.map_or(machine.clone(), |(watts, tau_s)| machine.with_leak(watts, tau_s));
        let troubles = Rng(rng.next());
        let meter = SimulatedMeter::new(self.meter, &mut rng);
        let window_max = Duration::from_secs_f64(rng.one_of(&[10.0, 30.0, 60.0]));
        let settings = Settings { target_rel: 0.05, window_max, idle: None, idle_error: 0.0 };
        let info = MeterInfo {
            name: "m".into(),
            kind: "rapl",
            scope: Scope::Package,
            estimated: false,
            detail: Vec::new(),
            basis: Vec::new(),
        };
        let run = Run {
            scenario: self,
            machine: &machine,
            rng,
            troubles,
            meter,
            attribution: Attribution::new(self.pipelines, vec![info], settings),
            sent: vec![0; self.pipelines],
            good_until: None,
            is_lost: false,
            outcome: Outcome::default(),
        };
        run.run()
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    machine: &'a Machine,
    /// Of the readings: each tick draws from a copy of its own, so that a reading less changes no other.
    rng: Rng,
    troubles: Rng,
    meter: SimulatedMeter,
    attribution: Attribution,
    /// Bursts of each pipeline that were reported.
    sent: Vec<usize>,
    /// The last good reading, and whether one was lost since.
    good_until: Option<MonoTime>,
    is_lost: bool,
    outcome: Outcome,
}

impl Run<'_> {
    fn run(mut self) -> Outcome {
        let s = self.scenario;
        let period_s = s.meter.period_s;
        let (mut tick, mut metrics, mut read_s, mut blind_until) = (1.0, METRICS_S, 0.0, 0.0);
        loop {
            // Anywhere in its period, as the sampler reads, so that it never falls in step with the inferences.
            let t = (tick + Rng(self.rng.0 ^ (tick as u64) << 20).unit()) * period_s;
            tick += 1.0;
            if t >= s.length_s {
                break;
            }
            if t < blind_until {
                continue;
            }
            // As often as it must be read while it is learned.
            while let Some(pace) = self.meter.learning_pace()
                && read_s + pace.as_secs_f64() < t
            {
                read_s += pace.as_secs_f64();
                self.read(read_s, true);
            }
            if s.trouble == Trouble::Gaps && self.troubles.unit() < period_s / 16.0 {
                blind_until = t + self.troubles.log_between(0.05, 20.0);
            }
            let is_awake = s.trouble != Trouble::Suspends || self.troubles.unit() >= period_s / 15.0;
            read_s = t;
            self.read(t, is_awake);
            if t >= metrics {
                metrics += METRICS_S;
                self.score();
            }
        }
        self.send(s.length_s);
        self.attribution.finish();
        self.score();
        self.outcome
    }

    fn read(&mut self, t: f64, is_awake: bool) {
        self.send(t);
        self.attribution.set_other_cpu_time(Some(self.other_cpu_time(t)));
        let reading = self.meter.read(t, self.machine, is_awake);
        match &reading {
            Ok(reading) => {
                // A conversion that was read before the loss may come once more: nothing is lost then.
                let before =
                    self.good_until.replace(reading.time).filter(|before| self.is_lost && *before < reading.time);
                self.outcome.losses.extend(before.map(|from| (from, reading.time)));
                self.is_lost = false;
            }
            Err(_) => self.is_lost = true,
        }
        self.attribution.add_reading(0, reading);
    }

    /// The spans that ended until `t`, and from when on it is not known what runs.
    fn send(&mut self, t: f64) {
        for (index, (load, sent)) in self.machine.loads.iter().zip(&mut self.sent).enumerate() {
            let ended = load.bursts[*sent..].iter().take_while(|burst| burst.end_s <= t);
            for burst in ended {
                self.attribution.add_span(index, span(burst));
                *sent += 1;
            }
            let runs = load.bursts.get(*sent).filter(|next| next.start_s < t);
            self.attribution.set_known_until(index, mono(runs.map_or(t, |burst| burst.start_s)));
        }
    }

    /// The processor time of others as the kernel counts it: in ticks of 10 ms if others are in step with something.
    fn other_cpu_time(&self, t: f64) -> Duration {
        let used_s = self.machine.others.until(t).0;
        let has_ticks = matches!(self.scenario.trouble, Trouble::Producer | Trouble::OnceASecond);
        Duration::from_secs_f64(if has_ticks { (used_s * 100.0).floor() / 100.0 } else { used_s })
    }

    fn score(&mut self) {
        // What is said of the gain covers it; what is not known of it is left out of the comparison.
        let Behaviour { gain, scale, .. } = self.scenario.meter;
        let gain = if scale.gain_error.is_some() { 1.0 } else { gain };
        for (index, estimate) in self.attribution.estimates().into_iter().enumerate() {
            let estimate = estimate.into_iter().next().unwrap();
            let load = &self.machine.loads[index];
            let (mut busy_s, mut inferences, mut energy_j, mut caused_j) = (0.0, 0.0, 0.0, 0.0);
            for (from, to) in &estimate.window {
                let spans_it = |loss: &&(MonoTime, MonoTime)| loss.0 < *to && loss.1 > *from;
                assert_eq!(self.outcome.losses.iter().find(spans_it), None, "a loss within {from:?} to {to:?}");
                let (from, to) = (from.0 as f64 / 1e9, to.0 as f64 / 1e9);
                let (before, after) = (load.until(from), load.until(to));
                busy_s += after.0 - before.0;
                inferences += after.1 - before.1;
                let uneven_j = self.machine.uneven_j(to) - self.machine.uneven_j(from);
                energy_j += self.machine.energy_j(to) - self.machine.energy_j(from) - uneven_j;
                caused_j += self.machine.caused_j(to) - self.machine.caused_j(from);
            }
            let net_j = load.added_w * busy_s + caused_j;
            let truth = Truth { gross_j: gain * energy_j / inferences, net_j: gain * net_j / inferences };
            self.outcome.estimates.push((estimate, truth));
        }
    }
}

fn span(burst: &Burst) -> BusySpan {
    let (start, end) = (mono(burst.start_s), mono(burst.end_s));
    let busy_ns = ((burst.busy_s * 1e9).round() as u64).min(end.0 - start.0);
    BusySpan { start, end, busy_ns, inferences: burst.inferences }
}
