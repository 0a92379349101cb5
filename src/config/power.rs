//! The `[power]` table: how energy is measured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::meter::corrected::{Comparison, Corrections};
use crate::meter::{MeterConfig, Surroundings};
use crate::schema::expanded::Table;
use crate::schema::{Checker, Key, seconds, table};
use crate::source::survey::Survey;
use crate::sys::Machine;
use crate::text::listed;
use crate::units::Watts;

/// The time without inference at the start in which idle power is measured, if a meter has a sensor.
const IDLE_TIME: Duration = Duration::from_secs(12);

table! {
    /// How energy is measured. Without meters, energy is published as unavailable.
    pub struct PowerKeys {
        /// The folder in which powercap, hwmon and thermal zones are looked for.
        pub sysfs: PathBuf = PathBuf::from("/sys");
        /// The time between two readings of the meters.
        pub sample_ms: u64 = 100, range(1, 60_000), unit("ms");
        /// The time between two messages of what each meter shows, on `power/<meter>`; 0 for no such messages.
        pub interval_s: f64 = 1.0, limits("0, or 0.001 to 86400"), unit("s");
        /// The time before any source starts, in which idle power is measured with everything loaded.
        pub idle_s: Option<f64>, range(0.0, 3600.0), unit("s"), example("12.0"),
            otherwise("12 if a meter has a sensor; 0 with estimate and replay only, or with idle_watts");
        /// Idle power, for net figures.
        pub idle_watts: Option<f64>, range(0.0, 10_000.0), unit("W"), example("2.5"),
            otherwise("measured, also whenever nothing runs");
        /// By how much idle_watts may be off, as a fraction of it.
        pub idle_watts_error: f64 = 0.02, range(0.0, 1.0);
        /// A window of energy grows until its expanded uncertainty, without the meter's errors of scale, is this part of the
        /// value.
        pub target_rel: f64 = 0.05, range(0.001, 1.0);
        /// The longest window of energy.
        pub window_max_s: f64 = 60.0, range(0.1, 3600.0), unit("s");
        /// Whether each model runs back to back before any source starts, for net figures of models that are too short or too
        /// rare to measure, unless `edgewatt calibrate` has done so. It takes 20 to 40 s a pipeline.
        pub calibrate_at_start: bool = false;
        /// Meters, under names that you choose. `edgewatt doctor` lists what this machine has; docs/energy.md says what each
        /// kind is good for.
        pub meters: BTreeMap<String, MeterKeys> = BTreeMap::new();
    }
}

table! {
    /// One meter. Its kind is one of those below.
    pub struct MeterKeys {
        /// By how much the meter's gain may be off, as a fraction: 0.01 for 1 %. It becomes part of every uncertainty.
        pub gain_error: Option<f64>, range(0.0, 1.0), example("0.01"),
            otherwise("what the data sheet of the chip says, and the tolerance of its shunt; else unknown");
        /// By how many watts every power may be off, whatever its value. For a `reader`, a current that flows backwards counts
        /// as none up to this power.
        pub offset_error_w: Option<f64>, range(0.0, 1000.0), unit("W"), example("0.005"),
            otherwise("what the data sheet of the chip says; else 0");
        /// What a comparison with a better meter has found. Every power is corrected by it.
        pub reference: Option<Reference>, otherwise("none");
        family kind: MeterConfig;
    }
}

table! {
    /// A comparison of the meter with a better one: the true power is gain times what the meter shows, plus offset_w.
    /// `gain_error` must then say what is left uncertain.
    pub struct Reference {
        /// True power divided by the meter's, without the offset.
        pub gain: f64, range(0.1, 10.0), example("1.012");
        /// What is added after that.
        pub offset_w: f64 = 0.0, range(-1000.0, 1000.0), unit("W");
        /// When it was compared.
        pub date: String, example("\"2026-11-30\"");
        /// What it was compared with.
        pub what: String, example("\"bench supply, 0.1 %\"");
    }
}

/// A meter under the name that the user chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Meter {
    pub name: String,
    pub kind: MeterConfig,
    pub corrections: Corrections,
}

impl Meter {
    /// Returns the key of the meter's own table, that of its kind.
    pub fn key(&self) -> Key {
        Key::new(&["power", "meters", &self.name]).child(self.kind.name())
    }
}

/// The `[power]` table, checked and ready to use.
#[derive(Debug, Clone, PartialEq)]
pub struct Power {
    pub sysfs: PathBuf,
    pub sample_period: Duration,
    /// The time between two messages on `power/METER`; `None`: there are no such messages.
    pub interval: Option<Duration>,
    /// Idle power in watts; `None`: it is measured.
    pub idle: Option<f64>,
    /// By how much `idle` may be off, as a fraction.
    pub idle_error: f64,
    /// No source starts before this time after the daemon's start; idle power is measured in it.
    pub quiet: Duration,
    /// That time if the file sets it; `None`: it is the default.
    pub configured_quiet: Option<Duration>,
    /// Relative expanded uncertainty at which a window is long enough.
    pub target_rel: f64,
    pub window_max: Duration,
    /// Whether models without a saved calibration are calibrated before any source starts.
    pub calibrate_at_start: bool,
    pub meters: Vec<Meter>,
}

impl MeterKeys {
    /// Checks the keys that all kinds have; the table is at `key`.
    fn corrections(&self, key: &Key, checker: &mut Checker) -> Corrections {
        self.check_ranges(key, checker);
        if let Some(reference) = &self.reference {
            let key = key.child("reference");
            reference.check_ranges(&key, checker);
            for (name, text) in [("date", &reference.date), ("what", &reference.what)] {
                if text.trim().is_empty() {
                    checker.problem(&key.child(name), "it is empty; say when, and with what the meter was compared");
                }
            }
            if self.gain_error.is_none() {
                checker
                    .problem(&key, "gain_error is missing: write what the comparison leaves uncertain, such as 0.002");
            }
        }
        Corrections {
            efficiency: self.kind.kind().efficiency(),
            gain_error: self.gain_error,
            offset_error_w: self.offset_error_w,
            reference: self.reference.as_ref().map(|reference| Comparison {
                gain: reference.gain,
                offset: Watts(reference.offset_w),
                note: format!("{}, {}", reference.what.trim(), reference.date.trim()),
            }),
        }
    }
}

impl PowerKeys {
    /// Checks the table, which is at `key`.
    pub fn checked(self, key: &Key, checker: &mut Checker) -> Power {
        self.check_ranges(key, checker);
        if self.interval_s != 0.0 {
            checker.within(&key.child("interval_s"), self.interval_s, 0.001, 86_400.0);
        }
        let meters_key = key.child("meters");
        let sample_period = Duration::from_millis(self.sample_ms);
        let sysfs = checker.path(&self.sysfs);
        let mut meters: Vec<Meter> = self
            .meters
            .into_iter()
            .map(|(name, mut keys)| {
                let key = meters_key.child(&name);
                checker.topic_level(&key, &name);
                keys.kind.check(&key, checker);
                let corrections = keys.corrections(&key, checker);
                Meter { name, kind: keys.kind, corrections }
            })
            .collect();
        resolve(&mut meters, &meters_key, &Surroundings::without_node(&sysfs, sample_period), checker);
        let quiet = match self.idle_s {
            Some(idle_s) => seconds(idle_s),
            None if self.idle_watts.is_none() && meters.iter().any(|meter| meter.kind.kind().is_sensed()) => IDLE_TIME,
            None => Duration::ZERO,
        };
        Power {
            sysfs,
            sample_period,
            interval: (self.interval_s != 0.0).then(|| seconds(self.interval_s)),
            idle: self.idle_watts,
            idle_error: self.idle_watts_error,
            quiet,
            configured_quiet: self.idle_s.map(|_| quiet),
            target_rel: self.target_rel,
            window_max: seconds(self.window_max_s),
            calibrate_at_start: self.calibrate_at_start,
            meters,
        }
    }
}

impl Power {
    /// Returns what is known of a meter without reading it, if that would start a program, open a port or connect to a broker;
    /// also if it reads such a meter.
    pub fn examine(&self, meter: &Meter, machine: &Machine<'_>) -> Option<Survey> {
        let kind = meter.kind.kind();
        let parts = || self.meters.iter().filter(|other| kind.parts().contains(&other.name));
        let of_parts = || {
            let surveys: Vec<Survey> = parts().filter_map(|part| part.kind.kind().examine(machine)).collect();
            let is_read = surveys.is_empty() && parts().all(|part| part.kind.kind().device(machine.dev).is_none());
            let says = || Survey::ready(format!("adds up {}, which are examined by themselves", listed(kind.parts())));
            (!is_read).then(says)
        };
        kind.examine(machine).or_else(|| if kind.parts().is_empty() { None } else { of_parts() })
    }
}

/// Looks up the meters that other meters read.
fn resolve(meters: &mut [Meter], meters_key: &Key, surroundings: &Surroundings, checker: &mut Checker) {
    let all = meters.to_vec();
    let find = |name: &str| all.iter().find(|meter| meter.name == name).map(|meter| meter.kind.clone());
    for Meter { name, kind, .. } in meters {
        kind.resolve(&meters_key.child(name.as_str()), find, surroundings, checker);
    }
}
