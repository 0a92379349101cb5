//! A meter of the simulation: what its hardware shows at a time, and the readings that the program's own layer of meters makes
//! of that, as `rapl`, `hwmon`, `iio` and `ina219` do.

use std::time::Duration;

use edgewatt::meter::counter::Counter;
use edgewatt::meter::integral::Integral;
use edgewatt::meter::snapshots::{Seen, Snapshots};
use edgewatt::meter::total::Total;
use edgewatt::meter::{Accuracy, MeterError, Reading, Resolution, Scale, Scope};
use edgewatt::units::{MonoTime, Watts};

use super::classes::{AVERAGED_S, Meter};
use super::machine::{Machine, Rng};

/// What an INA219 takes for 12 bits of bus voltage.
const CONVERSION_S: f64 = 532e-6;
/// The step of power that `hwmon` assumes until it is learned, with the usual shunt.
const ASSUMED_QUANTUM_W: f64 = 2e-3;

/// How a meter behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    pub kind: Meter,
    /// Between two readings.
    pub period_s: f64,
    pub noise_w: f64,
    pub quantum_w: f64,
    /// What it shows is so many times what is true.
    pub gain: f64,
    /// What is stated of the errors of scale.
    pub scale: Scale,
    pub counter: CounterBehaviour,
}

/// How a counter behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CounterBehaviour {
    pub period_s: f64,
    /// By which part a period may be longer or shorter.
    pub jitter: f64,
    pub unit_j: f64,
    pub start_units: u64,
}

/// A meter as the daemon reads it.
pub(crate) struct SimulatedMeter {
    behaviour: Behaviour,
    device: Device,
    /// Joules that were drawn while the machine slept.
    asleep_j: f64,
}

enum Device {
    Counter { register: CounterRegister, counter: Box<Counter>, total: Total },
    Sensor { register: PowerRegister, freshness: Freshness, sampled: Sampled },
}

/// A counter of RAPL: a register that is refreshed at its own pace.
struct CounterRegister {
    behaviour: CounterBehaviour,
    update_s: f64,
    next_s: f64,
    jitter: Rng,
}

/// The power register of a chip that converts all the time.
struct PowerRegister {
    /// The part of a cycle in which the current is seen, and the chip's cycle, which may differ from the nominal one.
    seen_s: f64,
    cycle_s: f64,
    /// When a cycle ended.
    phase_s: f64,
    /// A conversion has the same noise whenever it is read.
    noise: u64,
}

/// How it is known whether a value is new.
enum Freshness {
    /// By how values change.
    Values(Box<Snapshots>),
    /// By a flag of the chip, whose conversion takes nominally so long.
    Flag { cycle: Duration, seen_until_s: f64, looked_s: f64 },
}

/// What a look at a sensor tells of its value.
struct Look {
    seen: Seen,
    conversion: Duration,
    /// The step of power, if it was learned.
    step_w: Option<f64>,
}

/// The readings of a sensor of power.
struct Sampled {
    /// The step of power, if the driver shows it.
    quantum_w: Option<f64>,
    integral: Integral,
    last: Option<Reading>,
}

pub(crate) fn mono(t: f64) -> MonoTime {
    MonoTime((t * 1e9).round() as u64)
}

impl SimulatedMeter {
    pub(crate) fn new(behaviour: Behaviour, rng: &mut Rng) -> Self {
        // The chip's clock is not ours.
        let pace = rng.between(0.95, 1.05);
        let (phase, noise) = (rng.unit(), rng.next());
        let is_told = rng.one_of(&[false, true]);
        let sensor = |seen_s: f64, cycle_s: f64, quantum_w: Option<f64>, freshness: Freshness| {
            let register =
                PowerRegister { seen_s: pace * seen_s, cycle_s: pace * cycle_s, phase_s: cycle_s * phase, noise };
            let cycle = match &freshness {
                Freshness::Values(snapshots) => snapshots.conversion(),
                Freshness::Flag { cycle, .. } => *cycle,
            };
            let integral = Integral::new(cycle.max(Duration::from_secs_f64(behaviour.period_s)));
            Device::Sensor { register, freshness, sampled: Sampled { quantum_w, integral, last: None } }
        };
        let told = |told_s: f64| by_values(Some(told_s), 0.0);
        let (shown_w, cycle) = (Some(behaviour.quantum_w), Duration::from_secs_f64);
        let device = match behaviour.kind {
            Meter::Counter | Meter::SlowCounter { .. } | Meter::CoarseCounter { .. } => {
                let max_uj = (f64::from(u32::MAX) * behaviour.counter.unit_j * 1e6) as u64;
                let jitter = Rng(rng.next());
                let next_s = behaviour.counter.period_s;
                let register = CounterRegister { behaviour: behaviour.counter, update_s: 0.0, next_s, jitter };
                Device::Counter { register, counter: Box::new(Counter::rapl(Some(max_uj))), total: Total::default() }
            }
            Meter::Snapshots { .. } => sensor(CONVERSION_S, 2.0 * CONVERSION_S, None, told(CONVERSION_S)),
            Meter::Ina219 { seen_s, .. } => {
                let cycle_s = seen_s + CONVERSION_S;
                let flag = Freshness::Flag { cycle: cycle(cycle_s), seen_until_s: 0.0, looked_s: 0.0 };
                sensor(seen_s, cycle_s, shown_w, flag)
            }
            Meter::LongConversions => {
                let cycle_s = AVERAGED_S + CONVERSION_S;
                sensor(AVERAGED_S, cycle_s, shown_w, told(cycle_s))
            }
            // A driver that does not show the length of a moving average may have one of a second.
            Meter::Average { seen_s, refresh_s } if refresh_s < seen_s && !is_told => {
                sensor(seen_s, refresh_s, None, by_values(None, 1.0))
            }
            Meter::Average { seen_s, refresh_s } => sensor(seen_s, refresh_s, None, told(seen_s)),
            Meter::Cached { refresh_s } => sensor(CONVERSION_S, refresh_s, None, by_values(None, 0.0)),
        };
        Self { behaviour, device, asleep_j: 0.0 }
    }

    /// Returns how soon it must be read again because it is learned.
    pub(crate) fn learning_pace(&self) -> Option<Duration> {
        match &self.device {
            Device::Counter { counter, total, .. } => total.pace(std::iter::once(&**counter)),
            Device::Sensor { freshness: Freshness::Values(snapshots), .. } => snapshots.pace(),
            Device::Sensor { .. } => None,
        }
    }

    /// Reads it at `t`; `is_awake` is false for the first reading after the machine slept.
    pub(crate) fn read(&mut self, t: f64, machine: &Machine, is_awake: bool) -> Result<Reading, MeterError> {
        let behaviour = &self.behaviour;
        let result = match &mut self.device {
            Device::Counter { register, counter, total } => {
                let uj = register.show(t, machine, behaviour.gain);
                let counters = std::iter::once((&mut **counter, uj));
                total.read(mono(t), Scope::Package, counters).map_err(|reason| reason.error(|_| String::new()))
            }
            Device::Sensor { register, freshness, sampled } => {
                let (ended_s, watts) = register.show(t, machine, behaviour);
                sampled.add(mono(t), watts, freshness.look(t, ended_s, watts), behaviour.period_s)
            }
        };
        if !is_awake {
            self.asleep_j += 1000.0;
            return Err(MeterError::Rebaselined { reason: "suspended".to_owned() });
        }
        result.map(|mut reading| {
            reading.joules.0 += self.asleep_j;
            reading.accuracy.scale = behaviour.scale;
            reading
        })
    }
}

fn by_values(told_s: Option<f64>, least_s: f64) -> Freshness {
    let told = told_s.map(Duration::from_secs_f64);
    Freshness::Values(Box::new(Snapshots::new(told, Duration::from_secs_f64(least_s))))
}

impl CounterRegister {
    /// Returns the microjoules that it shows at `t`.
    fn show(&mut self, t: f64, machine: &Machine, gain: f64) -> u64 {
        let CounterBehaviour { period_s, jitter, unit_j, start_units } = self.behaviour;
        while self.next_s <= t {
            self.update_s = self.next_s;
            self.next_s += period_s * (1.0 + jitter * (2.0 * self.jitter.unit() - 1.0));
        }
        let units = start_units + (gain * machine.energy_j(self.update_s) / unit_j) as u64;
        ((units % (1 << 32)) as f64 * unit_j * 1e6) as u64
    }
}

impl PowerRegister {
    /// Returns the watts that it shows at `t`, and when their conversion ended.
    fn show(&self, t: f64, machine: &Machine, behaviour: &Behaviour) -> (f64, f64) {
        let Behaviour { noise_w, quantum_w, gain, .. } = behaviour;
        let ended_s = t - (t - self.phase_s).rem_euclid(self.cycle_s);
        let noise_w = noise_w * Rng(self.noise ^ mono(ended_s).0).normal();
        let watts = gain * machine.power_w(ended_s, self.seen_s) + noise_w;
        (ended_s, ((watts / quantum_w).round() * quantum_w).max(0.0))
    }
}

impl Freshness {
    fn look(&mut self, t: f64, ended_s: f64, watts: f64) -> Look {
        match self {
            Self::Values(snapshots) => {
                let seen = snapshots.poll(mono(t), (watts * 1e6).round() as i64);
                Look { seen, conversion: snapshots.conversion(), step_w: snapshots.step().map(|step| step / 1e6) }
            }
            Self::Flag { cycle, seen_until_s, looked_s } => {
                let since = Duration::from_secs_f64(t - std::mem::replace(looked_s, t));
                let is_new = ended_s > std::mem::replace(seen_until_s, ended_s);
                let seen = if is_new { Seen::New { late: since.min(*cycle) } } else { Seen::Repeat };
                Look { seen, conversion: *cycle, step_w: None }
            }
        }
    }
}

impl Sampled {
    /// Makes a reading of what was seen at `now`.
    fn add(&mut self, now: MonoTime, watts: f64, look: Look, period_s: f64) -> Result<Reading, MeterError> {
        let Look { seen, conversion, step_w } = look;
        let error = match seen {
            Seen::New { late } => {
                self.integral.expect_every(conversion.max(Duration::from_secs_f64(period_s)));
                let time = MonoTime(now.0.saturating_sub((late / 2).as_nanos() as u64));
                let joules = self.integral.add(time, Watts(watts)).inspect_err(|_| self.last = None)?;
                let quantum = Watts(self.quantum_w.unwrap_or(ASSUMED_QUANTUM_W.max(step_w.unwrap_or(0.0))));
                let resolution = Resolution::Sampled { conversion, quantum };
                let reading = Reading {
                    time,
                    joules,
                    power: Some(Watts(watts)),
                    volts: None,
                    amperes: None,
                    scope: Scope::Package,
                    accuracy: Accuracy { resolution, scale: Scale::UNKNOWN },
                };
                self.last = Some(reading);
                return Ok(reading);
            }
            Seen::Repeat => return self.last.ok_or(MeterError::NotYet { reason: "not refreshed yet" }),
            Seen::Learning => MeterError::NotYet { reason: "learning" },
            Seen::Frozen { .. } | Seen::Clipped => MeterError::Rebaselined { reason: format!("{seen:?}") },
        };
        self.integral.interrupt();
        self.last = None;
        Err(error)
    }
}
