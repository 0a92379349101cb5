//! Scenarios: a machine, a meter with its faults, a way of reading it, and the estimates that follow.

use std::time::Duration;

use edgewatt::energy::{Attribution, EnergyEstimate, Settings};
use edgewatt::engine::span::BusySpan;
use edgewatt::meter::counter::{Counter, Step};
use edgewatt::meter::{Accuracy, MeterError, MeterInfo, Reading, Resolution, Scale, Scope};
use edgewatt::units::{Joules, MonoTime, Watts};

use super::machine::{Burst, Drift, Load, Machine, Rng};

/// What distinguishes a class of scenarios; what is not here is drawn again in each.
#[derive(Debug)]
pub(crate) struct Class {
    pub name: &'static str,
    pub meter: Meter,
    /// The length of an inference, shortest and longest.
    pub inference_s: (f64, f64),
    pub duty: (f64, f64),
    pub trouble: Trouble,
    pub pipelines: usize,
    /// Figures are to be `measured`, and their uncertainty is to be true; elsewhere they are to be `attributed`.
    pub measures: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Meter {
    /// RAPL: a counter with a period of 1 ms and jitter, in units of 61 uJ.
    Counter,
    /// An INA219 in its usual setting, as the kernel's drivers show it: 532 us of every 1064 are seen.
    Snapshots { hz: f64 },
    /// `ina219`, which tells whether a conversion is new; the current is seen for so long in each.
    Ina219 { hz: f64, seen_s: f64 },
    /// 68 ms conversions by `iio`, which does not tell whether one is new.
    LongConversions,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    None,
    /// Idle power drifts by per cents.
    Drift,
    /// The counter wraps again and again, and its range is known.
    Wraps,
    /// Readings are missing for a while, sometimes for so long that the energy is unknown.
    Gaps,
    /// The machine sleeps now and then.
    Suspends,
    /// Other programs are busy half of the time.
    Others,
}

impl Trouble {
    /// What goes wrong with the meter and its readings, not with the machine.
    pub(crate) fn is_of_the_meter(self) -> bool {
        matches!(self, Self::Wraps | Self::Gaps | Self::Suspends)
    }
}

impl Class {
    /// A counter goes on counting while nobody reads it, and its wraps are understood.
    pub(crate) fn loses_nothing(&self) -> bool {
        self.meter == Meter::Counter
    }
}

const PLAIN: Class = Class {
    name: "",
    meter: Meter::Counter,
    inference_s: (1e-3, 20e-3),
    duty: (1e-3, 1.0),
    trouble: Trouble::None,
    pipelines: 1,
    measures: true,
};
const SHORT: (f64, f64) = (3e-6, 100e-6);
const MIDDLE: (f64, f64) = (0.3e-3, 20e-3);
const LONG: (f64, f64) = (20e-3, 200e-3);
const ANY: (f64, f64) = (3e-6, 200e-3);
/// The default: 128 averages fit between two readings.
const DEFAULT: Meter = Meter::Ina219 { hz: 10.0, seen_s: AVERAGED_S };
const FAST: Meter = Meter::Ina219 { hz: 230.0, seen_s: 2.13e-3 };

pub(crate) const CLASSES: [Class; 25] = [
    Class { name: "counter, 3-100 us", inference_s: SHORT, ..PLAIN },
    Class { name: "counter, 0.3-20 ms", inference_s: MIDDLE, ..PLAIN },
    Class { name: "counter, 20-200 ms", inference_s: LONG, ..PLAIN },
    Class { name: "counter, always busy", inference_s: ANY, duty: (1.0, 1.0), ..PLAIN },
    Class { name: "100 Hz, 3-100 us", meter: Meter::Snapshots { hz: 100.0 }, inference_s: SHORT, ..PLAIN },
    Class { name: "100 Hz, 0.3-20 ms", meter: Meter::Snapshots { hz: 100.0 }, inference_s: MIDDLE, ..PLAIN },
    Class { name: "100 Hz, 20-200 ms", meter: Meter::Snapshots { hz: 100.0 }, inference_s: LONG, ..PLAIN },
    Class {
        name: "100 Hz, always busy",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        duty: (1.0, 1.0),
        ..PLAIN
    },
    Class { name: "230 Hz, 3-100 us", meter: FAST, inference_s: SHORT, ..PLAIN },
    Class { name: "230 Hz, 0.3-20 ms", meter: FAST, inference_s: MIDDLE, ..PLAIN },
    Class { name: "230 Hz, 20-200 ms", meter: FAST, inference_s: LONG, ..PLAIN },
    Class { name: "10 Hz snapshots, any length", meter: Meter::Snapshots { hz: 10.0 }, inference_s: ANY, ..PLAIN },
    Class { name: "default ina219, 3-100 us", meter: DEFAULT, inference_s: SHORT, ..PLAIN },
    Class { name: "default ina219, 0.3-20 ms", meter: DEFAULT, inference_s: MIDDLE, ..PLAIN },
    Class { name: "default ina219, 20-200 ms", meter: DEFAULT, inference_s: LONG, ..PLAIN },
    Class { name: "iio, 68 ms conversions", meter: Meter::LongConversions, inference_s: ANY, ..PLAIN },
    Class { name: "counter, idle drifts", inference_s: ANY, trouble: Trouble::Drift, ..PLAIN },
    Class {
        name: "100 Hz, idle drifts",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Drift,
        ..PLAIN
    },
    Class { name: "counter wraps", inference_s: ANY, trouble: Trouble::Wraps, ..PLAIN },
    Class { name: "counter, gaps", inference_s: ANY, trouble: Trouble::Gaps, ..PLAIN },
    Class {
        name: "100 Hz, gaps",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Gaps,
        ..PLAIN
    },
    Class {
        name: "100 Hz, suspends",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Suspends,
        ..PLAIN
    },
    Class { name: "default ina219, gaps", meter: DEFAULT, inference_s: ANY, trouble: Trouble::Gaps, ..PLAIN },
    Class {
        name: "counter, two pipelines",
        inference_s: MIDDLE,
        duty: (1e-2, 0.4),
        pipelines: 2,
        measures: false,
        ..PLAIN
    },
    Class { name: "counter, other programs", inference_s: MIDDLE, trouble: Trouble::Others, measures: false, ..PLAIN },
];

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
    rng: Rng,
}

#[derive(Debug, Clone, Copy)]
struct CounterKind {
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
            Meter::Snapshots { hz } => 1.0 / hz,
            Meter::Ina219 { hz, .. } => 1.0 / hz,
            Meter::LongConversions => 0.1,
        };
        let period_s = match class.meter {
            Meter::Counter => fastest_s.max(length_s / READINGS_MAX),
            _ => fastest_s,
        };
        let idle_w = rng.log_between(0.3, 20.0);
        let drifts = match class.trouble {
            Trouble::Drift => 1.0,
            Trouble::None | Trouble::Others => rng.log_between(0.03, 1.0),
            // What goes wrong there is not to hide behind drift.
            Trouble::Wraps | Trouble::Gaps | Trouble::Suspends => rng.log_between(0.03, 0.3),
        };
        let drift = Drift {
            walk_rel: drifts * rng.log_between(1e-3, 2e-2),
            wave_rel: drifts * rng.log_between(1e-3, 1e-2),
            wave_period_s: rng.between(60.0, 900.0),
        };
        let unit_j = 61.035e-6;
        // It wraps somewhere in the scenario.
        let wrap_s = if class.trouble == Trouble::Wraps { rng.between(0.0, length_s) } else { 1e3 };
        Self {
            meter: class.meter,
            trouble: class.trouble,
            idle_s,
            length_s,
            period_s,
            inference_s,
            duty,
            idle_w,
            added_w: idle_w * rng.log_between(0.1, 3.0),
            drift,
            noise_w: idle_w * rng.log_between(1e-3, 2e-2),
            quantum_w: rng.one_of(&[0.5e-3, 2e-3, 10e-3]),
            gain: 1.0 + 0.01 * rng.normal(),
            counter: CounterKind {
                period_s: 1e-3 * rng.between(0.95, 1.05),
                jitter: rng.between(0.02, 0.2),
                unit_j,
                start_units: (1 << 32) - (wrap_s * idle_w / unit_j) as u64,
            },
            pipelines: class.pipelines,
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
            let busy_s = busy_s * varied;
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

    pub(crate) fn run(&self) -> Outcome {
        let mut rng = self.rng.clone();
        let loads: Vec<Load> = (0..self.pipelines)
            .map(|index| Load::new(self.added_w * (1.0 + index as f64), self.bursts(&mut rng)))
            .collect();
        let others = match self.trouble {
            Trouble::Others => {
                let slots = ((self.length_s - self.idle_s) / 4.0) as usize;
                let slot = |index: usize| self.idle_s + 4.0 * index as f64;
                let bursts =
                    (0..slots).map(|i| Burst { start_s: slot(i), end_s: slot(i) + 2.0, busy_s: 2.0, inferences: 0 });
                Load::new(self.idle_w, bursts.collect())
            }
            _ => Load::default(),
        };
        let machine = Machine::new(self.idle_w, self.drift, self.length_s + 1.0, loads, others, &mut rng);
        let troubles = Rng(rng.next());
        Run { scenario: self, machine: &machine, sensor: Sensor::new(self, &mut rng), rng, troubles }.run()
    }
}

/// The meter as the daemon reads it.
enum Sensor {
    Counter { counter: Counter, update_s: f64, next_s: f64, joules: f64, jitter: Rng },
    Power(Power),
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
    polled_s: f64,
    seen_until_s: f64,
    last: Option<(f64, f64)>,
    joules: f64,
}

/// What an INA219 takes for 12 bits of bus voltage, and for 128 averages of the shunt's.
const CONVERSION_S: f64 = 532e-6;
const AVERAGED_S: f64 = 68.1e-3;

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
            polled_s: 0.0,
            seen_until_s: 0.0,
            last: None,
            joules: 0.0,
        };
        match scenario.meter {
            Meter::Counter => Self::Counter {
                counter: Counter::rapl(Some(max_uj)),
                update_s: 0.0,
                next_s: scenario.counter.period_s,
                joules: 0.0,
                jitter: Rng(rng.next()),
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
            MeterInfo { name: "m".into(), kind: "rapl", scope: Scope::Package, estimated: false, detail: Vec::new() },
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
            attribution.set_other_cpu_time(Some(Duration::from_secs_f64(self.machine.others.until(t).0)));
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

    fn score(&self, attribution: &mut Attribution, outcome: &mut Outcome) {
        let gain = if self.scenario.meter == Meter::Counter { 1.0 } else { self.scenario.gain };
        for (index, estimate) in attribution.estimates().into_iter().enumerate() {
            let estimate = estimate.into_iter().next().unwrap();
            let load = &self.machine.loads[index];
            let (mut busy_s, mut inferences, mut energy_j) = (0.0, 0.0, 0.0);
            for (from, to) in &estimate.window {
                let spans_it = |loss: &&(MonoTime, MonoTime)| loss.0 < *to && loss.1 > *from;
                assert_eq!(outcome.losses.iter().find(spans_it), None, "a loss within {from:?} to {to:?}");
                let (from, to) = (from.0 as f64 / 1e9, to.0 as f64 / 1e9);
                let (before, after) = (load.until(from), load.until(to));
                busy_s += after.0 - before.0;
                inferences += after.1 - before.1;
                energy_j += self.machine.energy_j(to) - self.machine.energy_j(from);
            }
            let truth =
                Truth { gross_j: gain * energy_j / inferences, net_j: gain * load.added_w * busy_s / inferences };
            outcome.estimates.push((estimate, truth));
        }
    }

    fn read(&mut self, t: f64) -> Result<Reading, MeterError> {
        let s = self.scenario;
        let lost = |reason: String| Err(MeterError::Rebaselined { reason });
        let slept = s.trouble == Trouble::Suspends && self.troubles.unit() < s.period_s / 15.0;
        let (time, joules, power, resolution) = match &mut self.sensor {
            Sensor::Counter { counter, update_s, next_s, joules, jitter } => {
                while *next_s <= t {
                    *update_s = *next_s;
                    *next_s += s.counter.period_s * (1.0 + s.counter.jitter * (2.0 * jitter.unit() - 1.0));
                }
                let units = s.counter.start_units + (self.machine.energy_j(*update_s) / s.counter.unit_j) as u64;
                let shown = units % (1 << 32);
                let uj = (shown as f64 * s.counter.unit_j * 1e6) as u64;
                match counter.step(mono(t), uj) {
                    Step::First => {}
                    Step::Normal { uj } | Step::Wrapped { uj } => *joules += uj as f64 / 1e6,
                    Step::Lost(reason) => return lost(reason.to_string()),
                }
                let (update, quantum) = (Duration::from_millis(1), Joules(61e-6));
                (t, *joules, None, Resolution::Counter { update, quantum })
            }
            Sensor::Power(power) => {
                let (time, watts) = power.look(t, s, self.machine);
                let before = power.last.replace((time, watts));
                if slept {
                    // What is drawn asleep never comes into the books; the sensor's files are good at once.
                    power.joules += 1000.0;
                    return lost("suspended".into());
                }
                if before.is_some_and(|(then, _)| time - then > 5.0 * s.period_s) {
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
        let accuracy = Accuracy { resolution, scale: Scale::UNKNOWN };
        Ok(Reading {
            time: mono(time),
            joules: Joules(joules),
            power,
            volts: None,
            amperes: None,
            scope: Scope::Package,
            accuracy,
        })
    }
}

impl Power {
    /// The time and power of a reading at `t`; of the reading before where the register holds nothing new.
    fn look(&mut self, t: f64, s: &Scenario, machine: &Machine) -> (f64, f64) {
        let cycle_s = self.cycle_s;
        let ended_s = t - (t - self.phase_s).rem_euclid(cycle_s);
        let since_s = t - std::mem::replace(&mut self.polled_s, t);
        let back_s = if self.knows_new { self.dated_back_s.min(since_s / 2.0) } else { self.dated_back_s };
        let is_new = ended_s > self.seen_until_s;
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
