//! Calibration runs on a simulated machine whose power is known: is the uncertainty of their median true?
//!
//! A virtual clock; 200 seeded scenarios a class, or `EDGEWATT_SCENARIOS`. `EDGEWATT_SHOW=1 cargo test --test energy
//! calibration_simulation:: -- --nocapture` prints the table.

use std::time::Duration;

use crate::machine::Rng;
use edgewatt::energy::runs::{NetEnergy, NetError, Run, Trace, length_min, net_energy};
use edgewatt::meter::{Accuracy, Reading, Resolution, Scale, Scope};
use edgewatt::units::{Joules, MonoTime, Watts};

/// The machine's power is constant over one of these.
const STEP_S: f64 = 1e-3;

struct Class {
    name: &'static str,
    meter: Meter,
    /// Idle power wanders by this part in a minute, and goes by this part in one direction.
    walk: f64,
    trend: f64,
    /// Others add up to a watt, for so many half seconds in a minute.
    disturbances: f64,
    /// A fifth of the added power lasts for so many seconds after a run, or falls with them as its time constant.
    tail: Option<(f64, Falls)>,
    /// Milliseconds of an inference, within which the power differs by half; 0: too short to tell.
    inference_ms: (u64, u64),
}

#[derive(Clone, Copy, PartialEq)]
enum Falls {
    AtOnce,
    Slowly,
}

#[derive(Clone, Copy)]
enum Meter {
    Counter,
    Sensor { period_s: f64, conversion_s: f64, noise_rel: f64 },
}

const PLAIN: Class = Class {
    name: "",
    meter: Meter::Counter,
    walk: 0.0,
    trend: 0.0,
    disturbances: 0.0,
    tail: None,
    inference_ms: (0, 0),
};
const FAST: Meter = Meter::Sensor { period_s: 5e-3, conversion_s: 4e-3, noise_rel: 0.02 };
const SLOW: Meter = Meter::Sensor { period_s: 0.1, conversion_s: 0.0005, noise_rel: 0.02 };

const CLASSES: [Class; 15] = [
    Class { name: "counter", ..PLAIN },
    Class { name: "counter, inferences of 20 to 200 ms", inference_ms: (20, 200), ..PLAIN },
    Class { name: "counter, idle power wanders 1 % a minute", walk: 0.01, ..PLAIN },
    Class { name: "counter, idle power rises 2 % a minute", trend: 0.02, ..PLAIN },
    Class { name: "counter, other programs at times", disturbances: 4.0, ..PLAIN },
    Class { name: "sensor at 200 Hz", meter: FAST, ..PLAIN },
    Class { name: "sensor at 200 Hz, idle power wanders 1 % a minute", meter: FAST, walk: 0.01, ..PLAIN },
    Class { name: "sensor at 200 Hz, inferences of 20 to 200 ms", meter: FAST, inference_ms: (20, 200), ..PLAIN },
    Class { name: "sensor at 10 Hz", meter: SLOW, ..PLAIN },
    Class { name: "sensor at 10 Hz, inferences of 20 to 200 ms", meter: SLOW, inference_ms: (20, 200), ..PLAIN },
    Class {
        name: "sensor without noise, coarse steps",
        meter: Meter::Sensor { period_s: 0.02, conversion_s: 0.0005, noise_rel: 0.0 },
        ..PLAIN
    },
    Class { name: "counter, tail of 1 s", tail: Some((1.0, Falls::AtOnce)), ..PLAIN },
    Class { name: "counter, tail that falls by half in 0.1 s", tail: Some((0.15, Falls::Slowly)), ..PLAIN },
    Class { name: "sensor at 200 Hz, tail of 1 s", meter: FAST, tail: Some((1.0, Falls::AtOnce)), ..PLAIN },
    Class { name: "sensor at 10 Hz, tail of 1 s", meter: SLOW, tail: Some((1.0, Falls::AtOnce)), ..PLAIN },
];

/// Cumulative joules at each step, the runs, and the truth.
struct Machine {
    joules: Vec<f64>,
    runs: Vec<Run>,
    idle: Duration,
    net_j: f64,
}

impl Machine {
    fn new(class: &Class, resolution: Resolution, period_s: f64, rng: &mut Rng) -> Self {
        let period = Duration::from_secs_f64(period_s);
        let length_s = length_min(resolution, period).as_secs_f64().max(2.0);
        let steps = (length_s / STEP_S) as usize;
        let inference_steps = match class.inference_ms {
            (0, _) => 0,
            (low, high) => (rng.between(low as f64, high as f64) / 1000.0 / STEP_S) as usize,
        };
        // Whole inferences make a run.
        let run_steps = if inference_steps == 0 { steps } else { steps.div_ceil(inference_steps) * inference_steps };
        let (idle_w, added_w) = (rng.between(2.0, 10.0), rng.log_between(0.3, 5.0));
        let inferences = run_steps.checked_div(inference_steps).unwrap_or(1000) as u64;
        let (mut joules, mut sum, mut now_w) = (Vec::new(), 0.0, idle_w);
        let mut runs = Vec::new();
        let mut disturbed = 0;
        for part in 0..11 {
            let is_run = part % 2 == 1;
            let length = if is_run { run_steps } else { steps };
            if is_run {
                let time = |steps: usize| MonoTime((steps as f64 * STEP_S * 1e9) as u64);
                let (start, end) = (time(joules.len()), time(joules.len() + length));
                runs.push(Run { start, end, busy: end.since(start), inferences });
            }
            for step in 0..length {
                now_w += idle_w * STEP_S * (class.trend / 60.0);
                if class.walk > 0.0 {
                    now_w += idle_w * class.walk * (STEP_S / 60.0).sqrt() * rng.normal();
                }
                if rng.unit() < class.disturbances * STEP_S / 60.0 {
                    disturbed = (0.5 / STEP_S) as usize;
                }
                disturbed = disturbed.saturating_sub(1);
                let lump = match inference_steps {
                    0 => 1.0,
                    steps if step % steps < steps / 2 => 1.0 + 0.5 * (steps - steps / 2) as f64 / steps as f64 * 2.0,
                    steps => 1.0 - 0.5 * (steps / 2) as f64 / steps as f64 * 2.0,
                };
                let others_w = if disturbed > 0 { 0.5 } else { 0.0 };
                let after_s = step as f64 * STEP_S;
                let tail_w = match class.tail {
                    Some((length_s, Falls::AtOnce)) if after_s < length_s => 0.2 * added_w,
                    Some((tau_s, Falls::Slowly)) => 0.2 * added_w * (-after_s / tau_s).exp(),
                    _ => 0.0,
                };
                let ours_w = match (is_run, part) {
                    (true, _) => added_w * lump,
                    (false, 0) => 0.0,
                    (false, _) => tail_w,
                };
                sum += STEP_S * (now_w + others_w + ours_w);
                joules.push(sum);
            }
        }
        let net_j = added_w * run_steps as f64 * STEP_S / inferences as f64;
        Self { joules, runs, idle: Duration::from_secs_f64(length_s), net_j }
    }

    fn joules_at(&self, seconds: f64) -> f64 {
        let place = (seconds / STEP_S).clamp(0.0, (self.joules.len() - 1) as f64);
        let (index, part) = (place as usize, place.fract());
        let at = |index: usize| if index == 0 { 0.0 } else { self.joules[(index - 1).min(self.joules.len() - 1)] };
        at(index) + part * (at(index + 1) - at(index))
    }
}

fn run(class: &Class, seed: u64) -> (Result<NetEnergy, NetError>, f64) {
    let mut rng = Rng(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let quantum_w = rng.one_of(&[0.002, 0.02, 0.1]);
    let (resolution, period_s) = match class.meter {
        Meter::Counter => {
            let update = Duration::from_millis(1);
            (Resolution::Counter { update, quantum: Joules(61e-6) }, rng.one_of(&[0.005, 0.02, 0.1]))
        }
        Meter::Sensor { period_s, conversion_s, .. } => {
            let conversion = Duration::from_secs_f64(conversion_s);
            (Resolution::Sampled { conversion, quantum: Watts(quantum_w) }, period_s)
        }
    };
    let machine = Machine::new(class, resolution, period_s, &mut rng);
    let mut trace = Trace::default();
    let mut tick = 0.0;
    while tick < machine.joules.len() as f64 * STEP_S - period_s {
        let seconds = tick + period_s * rng.unit();
        tick += period_s;
        let (joules, watts) = match class.meter {
            Meter::Counter => {
                let shown = machine.joules_at((seconds - 1e-3 * rng.unit()).max(0.0));
                ((shown / 61e-6).floor() * 61e-6, 0.0)
            }
            Meter::Sensor { conversion_s, noise_rel, .. } => {
                let from = (seconds - conversion_s).max(0.0);
                let watts = (machine.joules_at(seconds) - machine.joules_at(from)) / (seconds - from).max(1e-9);
                let noisy = watts * (1.0 + noise_rel * rng.normal());
                (0.0, (noisy / quantum_w).round() * quantum_w)
            }
        };
        let reading = Reading {
            time: MonoTime((seconds * 1e9) as u64),
            joules: Joules(joules),
            power: Some(Watts(watts)),
            volts: None,
            amperes: None,
            scope: Scope::Board,
            accuracy: Accuracy { resolution, scale: Scale::UNKNOWN },
        };
        trace.add(reading.time, Ok(reading));
    }
    (net_energy(&trace, &machine.runs, machine.idle), machine.net_j)
}

#[test]
fn the_truth_lies_in_the_interval() {
    let show = std::env::var_os("EDGEWATT_SHOW").is_some();
    let scenarios: u64 = std::env::var("EDGEWATT_SCENARIOS").map_or(200, |count| count.parse().unwrap());
    let mut wrong = Vec::new();
    if show {
        println!("| class | % inside | bias/U | median U % | refused of {scenarios} |\n|---|---|---|---|---|");
    }
    for class in &CLASSES {
        let (mut inside, mut bias, mut parts) = (0, 0.0, Vec::new());
        for seed in 0..scenarios {
            let (Ok(net), truth_j) = run(class, seed) else { continue };
            let error = (net.net_j - truth_j) / (2.0 * net.u_j);
            inside += u32::from(error.abs() <= 1.0);
            bias += error;
            parts.push(2.0 * net.u_j / truth_j);
        }
        parts.sort_by(f64::total_cmp);
        let count = parts.len() as f64;
        let (coverage, bias) = (100.0 * f64::from(inside) / count, bias / count);
        let refused = scenarios as usize - parts.len();
        if show {
            let median = 100.0 * parts[parts.len() / 2];
            println!("| {} | {coverage:.1} | {bias:+.3} | {median:.2} | {refused} |", class.name);
        }
        // What is not seen of a tail has one sign, and is in U.
        let bias_max = if class.tail.is_some() { 0.2 } else { 0.1 };
        if coverage < 93.0 || bias.abs() > bias_max || refused > scenarios as usize / 4 {
            wrong.push(format!("{}: {coverage:.1} % inside, bias {bias:+.3} U, {refused} refused", class.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
