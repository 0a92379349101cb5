//! A machine for a bench, whose latencies and power are known. Its clock moves only when something takes time.

use std::f64::consts::TAU;
use std::time::Duration;

use edgewatt::energy::runs::Trace;
use edgewatt::measure::bench::Metered;
use edgewatt::measure::bench::rounds::Lab;
use edgewatt::measure::bench::statistics::Dice;
use edgewatt::meter::{Accuracy, Reading, Resolution, Scale, Scope};
use edgewatt::sys::processor::Conditions;
use edgewatt::units::{Joules, MonoTime};

/// What a cell truly costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truth {
    /// The median time of a step.
    pub step_s: f64,
    /// Power above idle while a step runs, and while the engine is loaded.
    pub added_w: f64,
    pub draw_w: f64,
}

/// How the machine disturbs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    /// Standard deviation of the logarithm of a step's time, from step to step and from turn to turn.
    pub step: f64,
    pub turn: f64,
    /// By which part everything becomes slower and faster, and idle power higher and lower, in three waves over `lasts_s`.
    pub drift: f64,
    pub lasts_s: f64,
    /// The part of the turns that something else makes slower by half.
    pub disturbed: f64,
}

pub(crate) struct SimulatedLab {
    cells: Vec<Truth>,
    noise: Noise,
    phase: f64,
    idle_w: f64,
    dice: Dice,
    now_s: f64,
    loaded: Option<usize>,
    turn_factor: f64,
    /// The end of each stretch of constant power, and the joules until then.
    energy: Vec<(f64, f64)>,
}

const LOAD_S: f64 = 0.01;
const UPDATE_S: f64 = 1e-3;
const QUANTUM_J: f64 = 61e-6;
const READING_EVERY_S: f64 = 0.1;

impl SimulatedLab {
    pub(crate) fn new(cells: Vec<Truth>, noise: Noise, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (phase, idle_w) = (dice.part(), 2.0 + 6.0 * dice.part());
        // Before the first moment, too, so that no interval begins at the start of the record.
        let energy = vec![(0.0, 0.0)];
        Self { cells, noise, phase, idle_w, dice, now_s: 1.0, loaded: None, turn_factor: 1.0, energy }
    }

    /// From -1/2 to 1/2.
    fn wave(&self) -> f64 {
        (TAU * (3.0 * self.now_s / self.noise.lasts_s + self.phase)).sin() / 2.0
    }

    fn pass(&mut self, seconds: f64, added_w: f64) {
        let draw_w = self.loaded.map_or(0.0, |cell| self.cells[cell].draw_w);
        let watts = self.idle_w * (1.0 + self.noise.drift * self.wave()) + draw_w + added_w;
        let joules = self.energy.last().unwrap().1;
        let start = self.energy.last().unwrap().0;
        // What came before the first call is idle, too.
        self.now_s += seconds;
        self.energy.push((self.now_s, joules + watts * (self.now_s - start)));
    }

    /// Returns what a counter of energy showed.
    pub(crate) fn metered(&self) -> Metered {
        let mut trace = Trace::default();
        let mut reading_s = READING_EVERY_S;
        let mut at = 0;
        while reading_s < self.now_s {
            let update_s = (reading_s / UPDATE_S).floor() * UPDATE_S;
            while self.energy[at + 1].0 < update_s {
                at += 1;
            }
            let [(from_s, from_j), (to_s, to_j)] = [self.energy[at], self.energy[at + 1]];
            let joules = from_j + (to_j - from_j) * (update_s - from_s) / (to_s - from_s);
            let joules = (joules / QUANTUM_J).floor() * QUANTUM_J;
            let resolution =
                Resolution::Counter { update: Duration::from_secs_f64(UPDATE_S), quantum: Joules(QUANTUM_J) };
            let accuracy = Accuracy { resolution, scale: Scale { gain_error: Some(0.0), offset_w: 0.0 } };
            let time = MonoTime((reading_s * 1e9) as u64);
            trace.add(
                time,
                Ok(Reading {
                    time,
                    joules: Joules(joules),
                    power: None,
                    volts: None,
                    amperes: None,
                    scope: Scope::Package,
                    accuracy,
                }),
            );
            reading_s += READING_EVERY_S;
        }
        Metered { name: "package".to_owned(), kind: "rapl".to_owned(), scope: "package".to_owned(), trace }
    }
}

impl Lab for SimulatedLab {
    fn now(&self) -> MonoTime {
        MonoTime((self.now_s * 1e9) as u64)
    }

    fn wait(&mut self, until: MonoTime) {
        let seconds = until.since(self.now()).as_secs_f64();
        self.pass(seconds, 0.0);
    }

    fn is_stopped(&self) -> bool {
        false
    }

    fn load(&mut self, cell: usize) -> Result<(), String> {
        self.loaded = Some(cell);
        let slow = if self.dice.part() < self.noise.disturbed { 1.5 } else { 1.0 };
        self.turn_factor = slow * (self.noise.turn * self.dice.normal()).exp();
        self.pass(LOAD_S, self.cells[cell].added_w);
        Ok(())
    }

    fn step(&mut self) -> Result<Duration, String> {
        let Truth { step_s, added_w, .. } = self.cells[self.loaded.ok_or("nothing is loaded")?];
        let noise = (self.noise.step * self.dice.normal()).exp();
        let seconds = step_s * noise * self.turn_factor * (1.0 + self.noise.drift * self.wave());
        self.pass(seconds, added_w);
        Ok(Duration::from_secs_f64(seconds))
    }

    fn unload(&mut self) {
        self.loaded = None;
    }

    fn processor_time(&self) -> (Duration, Option<Duration>) {
        (Duration::from_secs_f64(self.now_s), Some(Duration::ZERO))
    }

    fn conditions(&mut self) -> (Conditions, Option<f64>) {
        (Conditions::default(), None)
    }
}
