//! The sum meter: the energy of other meters of the configuration, added up.
//!
//! For boards on which each rail has a sensor but the input has none, such as a Jetson. The parts are ordinary meters and are
//! published, too; `shared` reads each of them once for both. Apart from reading its parts, it is pure.

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::efficiency::Efficiency;
use super::shared::SharedMeter;
use super::survey::{Machine, Surveyed};
use super::{
    Accuracy, Meter, MeterConfig, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings,
    check_scope,
};
use crate::schema::{Checker, Form, Key, Value, table};
use crate::text::listed;
use crate::units::{Joules, MonoTime, Watts};

table! {
    /// Adds up other meters, for a board whose rails have sensors but whose input has none. Each part must cover something
    /// else than the others.
    pub struct SumKeys {
        /// The names of the meters below `[power.meters]` that are added up. Each has `scope` "device" or "package".
        pub of: Parts, example("[\"cpu\", \"gpu\", \"soc\"]");
        /// What part of the metered power the load gets, if a supply stands between them.
        pub efficiency: Option<f64>, range(0.01, 1.0), otherwise("1, there is no supply between them"), example("0.9");
        /// The largest error of `efficiency`, as a part of its value. It is added to `gain_error`, or to that of the
        /// parts.
        pub efficiency_error: Option<f64>, range(0.0, 1.0), otherwise("not known"), example("0.05");
        /// What the parts cover together: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

/// The meters that are added up: their names, and what these stand for once the configuration was checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Parts {
    pub names: Vec<String>,
    /// In the order of the names.
    pub meters: Vec<MeterConfig>,
}

impl From<Vec<String>> for Parts {
    fn from(names: Vec<String>) -> Self {
        Self { names, meters: Vec::new() }
    }
}

impl Value for Parts {
    fn type_name() -> String {
        Vec::<String>::type_name()
    }
    fn form() -> Form {
        Vec::<String>::form()
    }
    fn to_toml(&self) -> String {
        self.names.to_toml()
    }
}

impl SumKeys {
    /// Looks up the parts, and checks them.
    pub(super) fn resolve(
        &mut self,
        key: &Key,
        find: impl Fn(&str) -> Option<MeterConfig>,
        surroundings: &Surroundings,
        checker: &mut Checker,
    ) {
        let of = key.child("of");
        let mut is_known = true;
        for (index, name) in self.of.names.iter().enumerate() {
            match find(name) {
                Some(MeterConfig::SumKeys(_)) => {
                    checker
                        .problem(&of.child(index), format!("{name} is a sum itself; name the meters that it adds up"));
                }
                Some(meter) => {
                    self.of.meters.push(meter);
                    continue;
                }
                None => checker.problem(&of.child(index), format!("there is no power.meters.{name}")),
            }
            is_known = false;
        }
        if is_known {
            self.check_overlap(&of, surroundings, checker);
        }
    }

    /// Checks that no two parts cover the same.
    fn check_overlap(&self, key: &Key, surroundings: &Surroundings, checker: &mut Checker) {
        let parts: Vec<(&String, &MeterConfig)> = self.of.names.iter().zip(&self.of.meters).collect();
        for (index, (name, meter)) in parts.iter().enumerate() {
            // A meter says what it is expected to cover before it is read.
            let scope = meter.kind().build(name, surroundings).info().scope;
            if !matches!(scope, Scope::Device | Scope::Package) {
                let message = format!(
                    "{name} covers the {}, which includes what other meters cover; for a rail or a device, write scope = \
                     \"device\" there",
                    scope.name()
                );
                checker.problem(&key.child(index), message);
            }
            let same = parts.iter().take(index).find(|(_, other)| {
                other == meter || matches!((other, meter), (MeterConfig::RaplKeys(_), MeterConfig::RaplKeys(_)))
            });
            if let Some((other, _)) = same {
                checker.problem(
                    &key.child(index),
                    format!("{name} and {other} measure the same, which would count twice"),
                );
            }
        }
    }
}

impl MeterKind for SumKeys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
        let of = key.child("of");
        if self.of.names.len() < 2 {
            checker.problem(&of, "name two meters or more; their sum is that of one otherwise");
        }
        for (index, name) in self.of.names.iter().enumerate() {
            if self.of.names.iter().take(index).any(|other| other == name) {
                checker.problem(&of.child(index), format!("{name} is named twice, and would count twice"));
            }
        }
        if self.efficiency_error.is_some() && self.efficiency.is_none() {
            checker.problem(&key.child("efficiency_error"), "it is the error of efficiency, which is not written");
        }
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        let parts = self.of.names.iter().zip(&self.of.meters);
        let parts = parts.map(|(name, meter)| surroundings.shared.reader(name, meter, surroundings)).collect();
        Box::new(Sum::new(name, self.scope, parts))
    }

    fn efficiency(&self) -> Option<Efficiency> {
        Efficiency::of(self.efficiency, self.efficiency_error)
    }

    fn is_sensed(&self) -> bool {
        self.of.meters.iter().all(|meter| meter.kind().is_sensed())
    }

    fn can_calibrate(&self) -> bool {
        self.of.meters.iter().all(|meter| meter.kind().can_calibrate())
    }

    fn parts(&self) -> &[String] {
        &self.of.names
    }
}

/// Returns nothing: what a sum adds up is found by itself.
pub fn survey(_: &Machine<'_>) -> Vec<Surveyed> {
    Vec::new()
}

/// Meters that are added up.
#[derive(Debug)]
struct Sum {
    info: MeterInfo,
    parts: Vec<Part>,
    /// The sum, and the largest one so far: energy never falls.
    joules: Joules,
    shown: Joules,
    last: Option<Reading>,
}

/// A meter, and its reading that was counted last.
#[derive(Debug)]
struct Part {
    meter: SharedMeter,
    now: Option<Reading>,
    counted: Option<Counted>,
}

/// What was counted of a part.
#[derive(Debug, Clone, Copy)]
struct Counted {
    /// The time of its reading.
    time: MonoTime,
    /// Its energy at the time of the sum's reading.
    joules: Joules,
}

impl Sum {
    fn new(name: &str, scope: Scope, parts: Vec<SharedMeter>) -> Self {
        let estimated = parts.iter().any(|part| part.info().estimated);
        let names: Vec<&str> = parts.iter().map(|part| part.info().name.as_str()).collect();
        let detail = vec![format!("the sum of {}", listed(&names))];
        let info = MeterInfo { name: name.to_owned(), kind: "sum", scope, estimated, detail, basis: Vec::new() };
        let parts = parts.into_iter().map(|meter| Part { meter, now: None, counted: None }).collect();
        let mut sum = Self { info, parts, joules: Joules(0.0), shown: Joules(0.0), last: None };
        sum.info.basis = sum.basis();
        sum
    }

    /// Reads all parts.
    ///
    /// # Errors
    /// That of the first part that has no reading.
    fn read_parts(&mut self) -> Result<(), MeterError> {
        let mut failed = None;
        for part in &mut self.parts {
            match part.meter.read() {
                Ok(reading) => part.now = Some(reading),
                Err(error) => _ = failed.get_or_insert_with(|| of_part(&part.meter.info().name, error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Adds the energy since the readings that were counted last, if every part has a new one.
    fn add(&mut self) -> Option<Reading> {
        let is_new = |part: &Part| match (&part.now, &part.counted) {
            (Some(now), Some(counted)) => now.time > counted.time,
            (now, None) => now.is_some(),
            (None, Some(_)) => false,
        };
        // A part that was not refreshed would lack the energy that the others have already.
        if !self.parts.iter().all(is_new) {
            return None;
        }
        let mut sum = PartsSum::default();
        self.parts.iter().filter_map(|part| part.now).for_each(|now| sum.add(&now));
        let time = sum.middle();
        for part in &mut self.parts {
            let now = part.now?;
            let counted = Counted { time: now.time, joules: joules_at(&now, time) };
            if let Some(before) = part.counted.replace(counted) {
                self.joules = self.joules + (counted.joules - before.joules);
                sum.interval = sum.interval.max(now.time.since(before.time));
            }
        }
        // Where the power of a part falls, what was expected of it is a little too much.
        self.shown = Joules(self.shown.0.max(self.joules.0));
        let (power, volts, amperes) = (sum.power.map(Watts), None, None);
        let (joules, scope) = (self.shown, self.info.scope);
        Some(Reading { time, joules, power, volts, amperes, scope, accuracy: sum.accuracy() })
    }

    /// Forgets the readings that were counted: the next ones are a new start.
    fn interrupt(&mut self) {
        self.last = None;
        self.parts.iter_mut().for_each(|part| part.counted = None);
    }

    /// Returns what each part is, and what its joules depend on.
    fn basis(&self) -> Vec<String> {
        let of = |part: &Part| {
            let MeterInfo { name, kind, scope, basis, .. } = part.meter.info();
            [&[format!("{name}: {kind} of the {}", scope.name())], basis.as_slice()].concat().join(", ")
        };
        self.parts.iter().map(of).collect()
    }
}

impl Meter for Sum {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_parts().inspect_err(|_| self.interrupt())?;
        if let Some(part) = self.parts.iter().find(|part| is_too_wide(part)) {
            let error = MeterError::Invalid {
                path: PathBuf::from(&part.meter.info().name),
                text: part.now.map_or(String::new(), |now| now.scope.name().to_owned()),
                expected: "a meter of a device or of the processor's package; it includes what the other parts cover",
            };
            self.interrupt();
            return Err(error);
        }
        // After an error, a part can be another chip.
        if self.last.is_none() {
            self.info.basis = self.basis();
        }
        if let Some(reading) = self.add() {
            self.last = Some(reading);
        }
        let waiting = || MeterError::Rebaselined { reason: "not all parts have a new reading yet".to_owned() };
        self.last.ok_or_else(waiting)
    }

    fn learning_pace(&self) -> Option<Duration> {
        self.parts.iter().filter_map(|part| part.meter.learning_pace()).min()
    }
}

/// Returns the energy of a part at `time`, near that of its reading: at the power of that reading.
fn joules_at(reading: &Reading, time: MonoTime) -> Joules {
    let Some(power) = reading.power else { return reading.joules };
    let later = power.over(time.since(reading.time));
    let earlier = power.over(reading.time.since(time));
    Joules(reading.joules.0 + later.0 - earlier.0)
}

/// Returns whether the part covers more than a device or the package, which shows with its first reading only.
fn is_too_wide(part: &Part) -> bool {
    part.now.is_some_and(|now| !matches!(now.scope, Scope::Device | Scope::Package))
}

/// Returns the error of a part as that of the sum.
fn of_part(name: &str, error: MeterError) -> MeterError {
    match error {
        MeterError::Rebaselined { reason } => MeterError::Rebaselined { reason: format!("{name}: {reason}") },
        MeterError::Overrange { reason, since } => MeterError::Overrange { reason: format!("{name}: {reason}"), since },
        MeterError::NotYet { reason } => MeterError::NotYet { reason },
        error => MeterError::Failed { path: PathBuf::from(name), source: io::Error::other(error.to_string()) },
    }
}

/// What the parts' readings add up to.
#[derive(Debug, Default)]
struct PartsSum {
    power: Option<f64>,
    has_parts: bool,
    earliest: Option<MonoTime>,
    latest: Option<MonoTime>,
    /// The longest time since the readings that were counted last.
    interval: Duration,
    /// The longest time that a part looks back.
    look_back: Duration,
    /// Squared steps of counters, in joules, and of sensors, in watts.
    counter_steps: f64,
    sensor_steps: f64,
    has_sensor: bool,
    model: Option<Option<f64>>,
    gain_error: Option<f64>,
    offset_w: f64,
}

impl PartsSum {
    fn add(&mut self, reading: &Reading) {
        let watts = reading.power.map(|power| power.0);
        let Scale { gain_error, offset_w } = reading.accuracy.scale;
        if std::mem::replace(&mut self.has_parts, true) {
            self.power = self.power.zip(watts).map(|(sum, watts)| sum + watts);
            // What an inference adds may be in one part alone, so that a mean by shares would be too small.
            self.gain_error = self.gain_error.zip(gain_error).map(|(largest, gain)| f64::max(largest, gain));
        } else {
            (self.power, self.gain_error) = (watts, gain_error);
        }
        self.offset_w += offset_w;
        self.earliest = Some(self.earliest.map_or(reading.time, |earliest| earliest.min(reading.time)));
        self.latest = Some(self.latest.map_or(reading.time, |latest| latest.max(reading.time)));
        self.look_back = self.look_back.max(reading.accuracy.resolution.look_back());
        match reading.accuracy.resolution {
            Resolution::Counter { quantum, .. } => self.counter_steps += quantum.0.powi(2),
            Resolution::Sampled { quantum, .. } => {
                self.has_sensor = true;
                self.sensor_steps += quantum.0.powi(2);
            }
            Resolution::Model { idle } => {
                let idle = idle.map(|idle| idle.0);
                self.model = Some(self.model.map_or(idle, |sum| sum.zip(idle).map(|(sum, idle)| sum + idle)));
            }
        }
    }

    /// How far the parts' readings are from each other.
    fn spread(&self) -> Duration {
        self.latest.zip(self.earliest).map_or(Duration::ZERO, |(latest, earliest)| latest.since(earliest))
    }

    fn middle(&self) -> MonoTime {
        self.earliest.unwrap_or_default() + self.spread() / 2
    }

    /// Returns the coarsest resolution, and the errors of scale together.
    fn accuracy(&self) -> Accuracy {
        let span = self.look_back + self.spread();
        let resolution = match self.model {
            // If other parts are measured, the idle power of a model is not that of the sum.
            Some(idle) => {
                Resolution::Model { idle: idle.filter(|_| !self.has_sensor && self.counter_steps == 0.0).map(Watts) }
            }
            None if self.has_sensor => {
                // A counter's step is a step of the mean power since its reading before.
                let interval_s = self.interval.as_secs_f64();
                let counters = if interval_s > 0.0 { self.counter_steps / interval_s.powi(2) } else { 0.0 };
                Resolution::Sampled { conversion: span, quantum: Watts((self.sensor_steps + counters).sqrt()) }
            }
            None => Resolution::Counter { update: span, quantum: Joules(self.counter_steps.sqrt()) },
        };
        Accuracy { resolution, scale: Scale { gain_error: self.gain_error, offset_w: self.offset_w } }
    }
}
