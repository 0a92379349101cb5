//! The keys and the checks of the meters.

use std::path::PathBuf;

use serde::Deserialize;

use crate::schema::{Checker, Children, Key, Value};
use crate::source::records::TimeUnit;

/// What an INA219 can be told to average (datasheet SBOS448G, table 5).
const INA219_AVERAGES: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// The largest shunt voltage that it can measure.
const INA219_SHUNT_VOLTS: f64 = 0.32;
/// What it withstands.
const INA219_BUS_VOLTS: f64 = 26.0;
/// What its two address pins can set.
const INA219_ADDRESSES: [u16; 2] = [0x40, 0x4f];

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RawMeter {
    Rapl(RawRapl),
    Hwmon(Hwmon),
    Ina219(RawIna219),
    Iio(Iio),
    Pmic(RawPmic),
    Replay(RawTrace),
    Estimate(RawEstimate),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRapl {
    pub interface: Option<RaplInterface>,
}

/// How the processor's counters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaplInterface {
    Perf,
    Powercap,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hwmon {
    pub chip: String,
    pub device: Option<String>,
    pub channel: Option<u32>,
    pub label: Option<String>,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIna219 {
    pub bus: u8,
    #[serde(default = "ina219_address")]
    pub address: u16,
    pub shunt_ohms: f64,
    pub max_amperes: Option<f64>,
    #[serde(default = "max_volts")]
    pub max_volts: f64,
    pub averages: Option<u16>,
    #[serde(default = "shunt_tolerance")]
    pub shunt_tolerance: f64,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iio {
    pub chip: String,
    pub device: Option<String>,
    pub shunt_ohms: f64,
    #[serde(default = "shunt_tolerance")]
    pub shunt_tolerance: f64,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPmic {}

/// A recording of power, with one of `watts` and `joules`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTrace {
    pub path: PathBuf,
    pub time: String,
    #[serde(default)]
    pub time_unit: TimeUnit,
    pub watts: Option<String>,
    pub joules: Option<String>,
    #[serde(default)]
    pub scope: Scope,
}

/// What a power sensor's supply feeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Board,
    Device,
    Package,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEstimate {
    pub watts_per_core: f64,
    pub idle_watts: f64,
}

impl Value for RawMeter {
    fn type_name() -> String {
        "table".to_owned()
    }
    fn children() -> Children {
        Children::None
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Meter {
    pub name: String,
    pub kind: MeterKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MeterKind {
    /// `None`: perf events where they are permitted, else powercap.
    Rapl(Option<RaplInterface>),
    Hwmon(Hwmon),
    Ina219(Ina219),
    Iio(Iio),
    /// The power chip of a Raspberry Pi 5.
    Pmic,
    Replay(Trace),
    Estimate {
        watts_per_core: f64,
        idle_watts: f64,
    },
}

/// An INA219 that edgewatt itself drives.
#[derive(Debug, Clone, PartialEq)]
pub struct Ina219 {
    pub bus: u8,
    pub address: u16,
    pub shunt_ohms: f64,
    /// `None`: as much as the chip can measure across that shunt.
    pub max_amperes: Option<f64>,
    pub max_volts: f64,
    /// `None`: as many as fit between two readings.
    pub averages: Option<u16>,
    pub shunt_tolerance: f64,
    pub scope: Scope,
}

/// A recording of power.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub path: PathBuf,
    /// The column of the time.
    pub time: String,
    /// Nanoseconds in one unit of the time column.
    pub time_unit_ns: f64,
    pub value: TraceValue,
    pub scope: Scope,
}

/// The column with what was metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceValue {
    Watts(String),
    Joules(String),
}

impl Meter {
    /// Whether it has a sensor, and of this machine as it is now.
    pub fn is_sensed(&self) -> bool {
        !matches!(self.kind, MeterKind::Estimate { .. } | MeterKind::Replay(_))
    }
}

impl Meter {
    /// Checks a meter of the name `name`.
    pub fn check(name: String, raw: RawMeter, key: &Key, checker: &mut Checker) -> Option<Self> {
        checker.topic_level(key, &name);
        Checks(checker).meter(key, raw).map(|kind| Self { name, kind })
    }
}

struct Checks<'a>(&'a mut Checker);

impl Checks<'_> {
    fn meter(&mut self, key: &Key, meter: RawMeter) -> Option<MeterKind> {
        Some(match meter {
            RawMeter::Rapl(RawRapl { interface }) => MeterKind::Rapl(interface),
            RawMeter::Hwmon(hwmon) => MeterKind::Hwmon(hwmon),
            RawMeter::Ina219(raw) => MeterKind::Ina219(self.ina219(&key.child("ina219"), &raw)),
            RawMeter::Iio(iio) => {
                let key = key.child("iio");
                self.0.within(&key.child("shunt_ohms"), iio.shunt_ohms, 1e-5, 100.0);
                self.tolerance(&key, iio.shunt_tolerance);
                MeterKind::Iio(iio)
            }
            RawMeter::Pmic(RawPmic {}) => MeterKind::Pmic,
            RawMeter::Replay(trace) => MeterKind::Replay(self.trace(&key.child("replay"), trace)?),
            RawMeter::Estimate(estimate) => {
                let key = key.child("estimate");
                self.0.within(&key.child("watts_per_core"), estimate.watts_per_core, 0.0, 1000.0);
                self.0.within(&key.child("idle_watts"), estimate.idle_watts, 0.0, 10_000.0);
                MeterKind::Estimate { watts_per_core: estimate.watts_per_core, idle_watts: estimate.idle_watts }
            }
        })
    }

    fn ina219(&mut self, key: &Key, raw: &RawIna219) -> Ina219 {
        let [lowest, highest] = INA219_ADDRESSES;
        if !(lowest..=highest).contains(&raw.address) {
            let message =
                format!("{:#04x} is no address of an INA219; they are {lowest:#04x} to {highest:#04x}", raw.address);
            self.0.problem(&key.child("address"), message);
        }
        let shunt_ohms = self.0.within(&key.child("shunt_ohms"), raw.shunt_ohms, 1e-5, 100.0);
        self.0.within(&key.child("max_volts"), raw.max_volts, 0.1, INA219_BUS_VOLTS);
        // In whole microamperes, as 0.32 / 0.1 is a little less than 3.2.
        let most_amperes = (INA219_SHUNT_VOLTS / shunt_ohms * 1e6).round() / 1e6;
        if let Some(amperes) = raw.max_amperes.filter(|amperes| !(1e-6..=most_amperes).contains(amperes)) {
            let message = format!(
                "{amperes} is out of range; the chip measures {INA219_SHUNT_VOLTS} V across the shunt, here {most_amperes} A"
            );
            self.0.problem(&key.child("max_amperes"), message);
        }
        if let Some(averages) = raw.averages.filter(|averages| !INA219_AVERAGES.contains(averages)) {
            self.0.problem(
                &key.child("averages"),
                format!("{averages} is not offered; use 1, 2, 4, 8, 16, 32, 64 or 128"),
            );
        }
        Ina219 {
            bus: raw.bus,
            address: raw.address,
            shunt_ohms,
            max_amperes: raw.max_amperes,
            max_volts: raw.max_volts,
            averages: raw.averages,
            shunt_tolerance: self.tolerance(key, raw.shunt_tolerance),
            scope: raw.scope,
        }
    }

    fn tolerance(&mut self, key: &Key, part: f64) -> f64 {
        self.0.within(&key.child("shunt_tolerance"), part, 0.0, 0.5)
    }

    fn trace(&mut self, key: &Key, raw: RawTrace) -> Option<Trace> {
        let value = match (raw.watts, raw.joules) {
            (Some(watts), None) => TraceValue::Watts(watts),
            (None, Some(joules)) => TraceValue::Joules(joules),
            _ => {
                self.0.problem(key, "name the column with what was metered: either watts or joules");
                return None;
            }
        };
        let (path, time_unit_ns) = (self.0.path(&raw.path), raw.time_unit.ns());
        Some(Trace { path, time: raw.time, time_unit_ns, value, scope: raw.scope })
    }
}

fn ina219_address() -> u16 {
    0x40
}
fn shunt_tolerance() -> f64 {
    0.01
}
fn max_volts() -> f64 {
    16.0
}
