//! Scenarios of a class: a machine, a meter with its faults, a way of reading it, and the estimates that follow.

use std::time::Duration;

use edgewatt::energy::{Attribution, EnergyEstimate, Settings};
use edgewatt::engine::span::BusySpan;
use edgewatt::meter::counter::{Counter, Step};
use edgewatt::meter::{Accuracy, MeterError, MeterInfo, Reading, Resolution, Scale, Scope};
use edgewatt::units::{Joules, MonoTime, Watts};

use super::classes::{AVERAGED_S, Class, Meter, Trouble};
use super::machine::{Burst, Drift, Load, Machine, Rng, Tail};

const READINGS_MAX: f64 = 12_000.0;
const METRICS_S: f64 = 10.0;

#[derive(Debug)]
pub(crate) struct Scenario {
    meter: Meter,
    trouble: Trouble,
    idle_s: f64,
    length_s: f64,
    period_s: f64,
    inference_s: f64,
    duty: f64,
    idle_w: f64,
    added_w: f64,
    drift: Drift,
    noise_w: f64,
    quantum_w: f64,
    gain: f64,
    counter: CounterKind,
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

#[derive(Debug, Clone, Copy)]
struct CounterKind {
    /// Whether the meter gives a reading only if the value has changed, with the time since the poll before as its age.
    at_changes: bool,
    period_s: f64,
    jitter: f64,
    unit_j: f64,
    start_units: u64,
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
        Self {
            meter: class.meter,
            trouble: class.trouble,
            idle_s,
            length_s,
            period_s,
            inference_s,
            duty,
            idle_w,
            added_w,
            drift,
            noise_w: idle_w * rng.log_between(1e-3, 2e-2),
            quantum_w: rng.one_of(&[0.5e-3, 2e-3, 10e-3]),
            gain: 1.0 + 0.01 * rng.normal(),
            counter: CounterKind {
                at_changes: matches!(class.meter, Meter::SlowCounter { .. } | Meter::CoarseCounter { .. }),
                period_s: refresh_s * rng.between(0.95, 1.05),
                jitter: rng.between(0.02, 0.2),
                unit_j,
                start_units: (1 << 32) - (wrap_s * idle_w / unit_j) as u64,
            },
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
        self.counter.start_units = 0;
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
            if t + length_s > self.length_s - 2.0 * self.period_s {
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
        Run { scenario: self, machine: &machine, sensor: Sensor::new(self, &mut rng), rng, troubles }.run()
    }
}

/// The meter as the daemon reads it.
enum Sensor {
    Counter { counter: Box<Counter>, update_s: f64, next_s: f64, joules: f64, jitter: Rng, shown: Option<Shown> },
    Power(Power),
}

/// What a counter that is refreshed slowly showed last: its value, the time of the poll, and the reading.
#[derive(Clone, Copy)]
struct Shown {
    units: u64,
    polled_s: f64,
    reading: Reading,
}

/// A sensor of power that converts all the time, and what the daemon's meter makes of its register.
struct Power {
    /// The part of a cycle in which the current is seen, and the chip's cycle, which may differ from the nominal one.
    seen_s: f64,
    cycle_s: f64,
    /// When a cycle ended.
    phase_s: f64,
    /// What the daemon takes for the conversion's length, and by how much it dates a reading back.
    conversion_s: f64,
    dated_back_s: f64,
    /// A conversion has the same noise whenever it is read.
    noise: u64,
    /// A conversion that was read before is no new reading.
    knows_new: bool,
    /// A moving average gives a new reading once in this time.
    hold_s: f64,
    polled_s: f64,
    seen_until_s: f64,
    last: Option<(f64, f64)>,
    joules: f64,
}

/// What an INA219 takes for 12 bits of bus voltage.
const CONVERSION_S: f64 = 532e-6;

impl Sensor {
    fn new(scenario: &Scenario, rng: &mut Rng) -> Self {
        let max_uj = (f64::from(u32::MAX) * scenario.counter.unit_j * 1e6) as u64;
        // The chip's clock is not ours.
        let pace = rng.between(0.95, 1.05);
        let (phase, noise) = (rng.unit(), rng.next());
        let power = |seen_s: f64, cycle_s: f64, conversion_s: f64, dated_back_s: f64| Power {
            seen_s: pace * seen_s,
            cycle_s: pace * cycle_s,
            phase_s: cycle_s * phase,
            noise,
            conversion_s,
            dated_back_s,
            knows_new: false,
            hold_s: 0.0,
            polled_s: 0.0,
            seen_until_s: 0.0,
            last: None,
            joules: 0.0,
        };
        match scenario.meter {
            Meter::Counter | Meter::SlowCounter { .. } | Meter::CoarseCounter { .. } => Self::Counter {
                counter: Box::new(Counter::rapl(Some(max_uj))),
                update_s: 0.0,
                next_s: scenario.counter.period_s,
                joules: 0.0,
                jitter: Rng(rng.next()),
                shown: None,
            },
            Meter::Snapshots { .. } => Self::Power(power(CONVERSION_S, 2.0 * CONVERSION_S, CONVERSION_S, 0.0)),
            Meter::Ina219 { seen_s, .. } => {
                let cycle_s = seen_s + CONVERSION_S;
                Self::Power(Power { knows_new: true, ..power(seen_s, cycle_s, cycle_s, cycle_s / 2.0) })
            }
            Meter::LongConversions => {
                let cycle_s = AVERAGED_S + CONVERSION_S;
                Self::Power(power(AVERAGED_S, cycle_s, cycle_s, cycle_s / 2.0))
            }
            Meter::Average { seen_s, refresh_s } => {
                let hold_s = if refresh_s < seen_s { seen_s } else { 0.0 };
                let back_s = refresh_s / 2.0;
                Self::Power(Power { knows_new: true, hold_s, ..power(seen_s, refresh_s, seen_s, back_s) })
            }
            Meter::Cached { refresh_s } => {
                Self::Power(Power { knows_new: true, ..power(CONVERSION_S, refresh_s, refresh_s, refresh_s / 2.0) })
            }
        }
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    machine: &'a Machine,
    /// Of the readings: each tick draws from a copy of its own, so that a reading less changes no other.
    rng: Rng,
    troubles: Rng,
    sensor: Sensor,
}

fn mono(t: f64) -> MonoTime {
    MonoTime((t * 1e9).round() as u64)
}

impl Run<'_> {
    fn run(mut self) -> Outcome {
        let (s, info) = (
            self.scenario,
            MeterInfo {
                name: "m".into(),
                kind: "rapl",
                scope: Scope::Package,
                estimated: false,
                detail: Vec::new(),
                basis: Vec::new(),
            },
        );
        let window_max = Duration::from_secs_f64(self.rng.one_of(&[10.0, 30.0, 60.0]));
        let mut attribution = Attribution::new(
            s.pipelines,
            vec![info],
            Settings { target_rel: 0.05, window_max, idle: None, idle_error: 0.0 },
        );
        let mut sent = vec![0; s.pipelines];
        let mut outcome = Outcome::default();
        let (mut tick, mut metrics) = (1.0, METRICS_S);
        let (mut blind_until, mut good_until, mut lost) = (0.0, None, false);
        loop {
            // Anywhere in its period, as the sampler reads, so that it never falls in step with the inferences.
            let t = (tick + Rng(self.rng.0 ^ (tick as u64) << 20).unit()) * s.period_s;
            tick += 1.0;
            if t >= s.length_s {
                break;
            }
            if t < blind_until {
                continue;
            }
            if s.trouble == Trouble::Gaps && self.troubles.unit() < s.period_s / 16.0 {
                blind_until = t + self.troubles.log_between(0.05, 20.0);
            }
            self.send(&mut attribution, &mut sent, t);
            attribution.set_other_cpu_time(Some(self.other_cpu_time(t)));
            let reading = self.read(t);
            match &reading {
                Ok(reading) => {
                    let before = good_until.replace(reading.time).filter(|_| lost);
                    outcome.losses.extend(before.map(|from| (from, reading.time)));
                    lost = false;
                }
                Err(_) => lost = true,
            }
            attribution.add_reading(0, reading);
            if t >= metrics {
                metrics += METRICS_S;
                self.score(&mut attribution, &mut outcome);
            }
        }
        self.send(&mut attribution, &mut sent, s.length_s);
        attribution.finish();
        self.score(&mut attribution, &mut outcome);
        outcome
    }

    /// The spans that ended until `t`.
    fn send(&self, attribution: &mut Attribution, sent: &mut [usize], t: f64) {
        for (index, load) in self.machine.loads.iter().enumerate() {
            let ended = load.bursts[sent[index]..].iter().take_while(|burst| burst.end_s <= t);
            for burst in ended {
                attribution.add_span(index, span(burst));
                sent[index] += 1;
            }
        }
    }

    /// The processor time of others as the kernel counts it: in ticks of 10 ms if others are in step with something.
    fn other_cpu_time(&self, t: f64) -> Duration {
        let used_s = self.machine.others.until(t).0;
        let has_ticks = matches!(self.scenario.trouble, Trouble::Producer | Trouble::OnceASecond);
        Duration::from_secs_f64(if has_ticks { (used_s * 100.0).floor() / 100.0 } else { used_s })
    }

    fn score(&self, attribution: &mut Attribution, outcome: &mut Outcome) {
        let gain = if self.scenario.meter.counts() { 1.0 } else { self.scenario.gain };
        for (index, estimate) in attribution.estimates().into_iter().enumerate() {
            let estimate = estimate.into_iter().next().unwrap();
            let load = &self.machine.loads[index];
            let (mut busy_s, mut inferences, mut energy_j, mut caused_j) = (0.0, 0.0, 0.0, 0.0);
            for (from, to) in &estimate.window {
                let spans_it = |loss: &&(MonoTime, MonoTime)| loss.0 < *to && loss.1 > *from;
                assert_eq!(outcome.losses.iter().find(spans_it), None, "a loss within {from:?} to {to:?}");
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
            outcome.estimates.push((estimate, truth));
        }
    }

    fn read(&mut self, t: f64) -> Result<Reading, MeterError> {
        let s = self.scenario;
        let lost = |reason: String| Err(MeterError::Rebaselined { reason });
        let slept = s.trouble == Trouble::Suspends && self.troubles.unit() < s.period_s / 15.0;
        let (time, joules, power, resolution) = match &mut self.sensor {
            Sensor::Counter { counter, update_s, next_s, joules, jitter, shown } => {
                while *next_s <= t {
                    *update_s = *next_s;
                    *next_s += s.counter.period_s * (1.0 + s.counter.jitter * (2.0 * jitter.unit() - 1.0));
                }
                let units = s.counter.start_units + (self.machine.energy_j(*update_s) / s.counter.unit_j) as u64;
                let units = units % (1 << 32);
                if let Some(shown) = shown.as_mut().filter(|shown| shown.units == units) {
                    shown.polled_s = t;
                    return Ok(shown.reading);
                }
                let uj = (units as f64 * s.counter.unit_j * 1e6) as u64;
                match counter.step(mono(t), uj) {
                    Step::First | Step::Same => {}
                    Step::Normal { uj } | Step::Wrapped { uj } => *joules += uj as f64 / 1e6,
                    Step::Lost(reason) => return lost(reason.to_string()),
                }
                let resolution = s.counter.resolution(t - shown.map_or(0.0, |shown| shown.polled_s), s.idle_w);
                let reading = given(t, *joules, None, resolution);
                *shown = s.counter.at_changes.then_some(Shown { units, polled_s: t, reading });
                return Ok(reading);
            }
            Sensor::Power(power) => {
                let (time, watts) = power.look(t, s, self.machine);
                let before = power.last.replace((time, watts));
                if slept {
                    // What is drawn asleep never comes into the books; the sensor's files are good at once.
                    power.joules += 1000.0;
                    return lost("suspended".into());
                }
                if before.is_some_and(|(then, _)| time - then > 5.0 * s.period_s.max(power.conversion_s)) {
                    return lost("gap".into());
                }
                if let Some((then, before)) = before {
                    power.joules += (before + watts) / 2.0 * (time - then);
                }
                let conversion = Duration::from_secs_f64(power.conversion_s);
                (
                    time,
                    power.joules,
                    Some(Watts(watts)),
                    Resolution::Sampled { conversion, quantum: Watts(s.quantum_w) },
                )
            }
        };
        Ok(given(time, joules, power, resolution))
    }
}

fn given(t: f64, joules: f64, power: Option<Watts>, resolution: Resolution) -> Reading {
    Reading {
        time: mono(t),
        joules: Joules(joules),
        power,
        volts: None,
        amperes: None,
        scope: Scope::Package,
        accuracy: Accuracy { resolution, scale: Scale::UNKNOWN },
    }
}

impl CounterKind {
    /// How far off a value is that was polled `gap_s` after the one before.
    fn resolution(&self, gap_s: f64, idle_w: f64) -> Resolution {
        let update_s = (1.1 * self.period_s).min(gap_s);
        let (update_s, quantum_j) = match self.at_changes {
            false => (1e-3, 61e-6),
            // The value has just changed, which takes longer than a refresh.
            true if self.unit_j > idle_w * gap_s => (gap_s, 0.0),
            true => (update_s, self.unit_j),
        };
        Resolution::Counter { update: Duration::from_secs_f64(update_s), quantum: Joules(quantum_j) }
    }
}

impl Power {
    /// The time and power of a reading at `t`; of the reading before where the register holds nothing new.
    fn look(&mut self, t: f64, s: &Scenario, machine: &Machine) -> (f64, f64) {
        let cycle_s = self.cycle_s;
        let ended_s = t - (t - self.phase_s).rem_euclid(cycle_s);
        let since_s = t - std::mem::replace(&mut self.polled_s, t);
        let back_s = if self.knows_new { self.dated_back_s.min(since_s / 2.0) } else { self.dated_back_s };
        let is_new = ended_s > self.seen_until_s + 0.999 * self.hold_s;
        if let (Some(last), true, false) = (self.last, self.knows_new, is_new) {
            return last;
        }
        self.seen_until_s = ended_s;
        let noise_w = s.noise_w * Rng(self.noise ^ mono(ended_s).0).normal();
        let watts = s.gain * machine.power_w(ended_s, self.seen_s) + noise_w;
        let watts = ((watts / s.quantum_w).round() * s.quantum_w).max(0.0);
        (t - back_s, watts)
    }
}

fn span(burst: &Burst) -> BusySpan {
    let (start, end) = (mono(burst.start_s), mono(burst.end_s));
    let busy_ns = ((burst.busy_s * 1e9).round() as u64).min(end.0 - start.0);
    BusySpan { start, end, busy_ns, inferences: burst.inferences }
}
