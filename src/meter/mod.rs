//! Meters: they read cumulative energy from the machine, each behind one small trait.
//!
//! Owns how a reading is taken, how wraps and gaps are handled, and how a meter that was absent is found again. Leaves the
//! meaning of the joules to `energy`. The meter thread (`sampler`) reads the meters
//! again and again, with their files kept open; who builds them reads them once before. Doctor reads them on the main
//! thread.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::mqtt::{NodeConnection, Subscription};
use crate::schema::{Checker, Key, choice, family};
use crate::source::Exclusive;
use crate::source::survey::Survey;
use crate::sys::cpu::Children;
use crate::units::{Joules, MonoTime, Watts};
use corrected::{Corrected, Corrections};
use efficiency::Efficiency;
use shared::SharedMeters;
use survey::{Machine, Surveyed};

mod clipping;
pub mod corrected;
pub mod counter;
mod domains;
mod efficiency;
mod ina;
pub mod integral;
pub mod perf;
mod plausible;
pub mod powercap;
mod refresh;
pub mod sampler;
pub mod shared;
mod shunt;
pub mod snapshots;
mod steps;
pub mod survey;
mod sysfs;
pub mod total;
#[cfg(test)]
// The tests' own crate takes the same file as its own.
#[allow(unreachable_pub)]
pub(crate) mod tree;

family! {
    /// Each meter is one of these kinds.
    pub enum MeterConfig: MeterKind {
        mod rapl: RaplKeys;
        mod hwmon: HwmonKeys;
        mod iio: IioKeys;
        mod ina219: Ina219Keys;
        mod ina226: Ina226Keys;
        mod ina228: Ina228Keys;
        mod ina260: Ina260Keys;
        mod ina3221: Ina3221Keys;
        mod pmic: PmicKeys;
        mod reader: ReaderKeys;
        mod sum: SumKeys;
        mod replay: ReplayKeys;
        mod estimate: EstimateKeys;
        each pub(crate) const SURVEYS: fn(&Machine<'_>) -> Vec<Surveyed> = survey;
    }
}

/// What each kind of meter is.
pub trait MeterKind {
    /// Checks the keys of the kind, whose table is at `key`, and completes them.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Builds the meter called `name`, without reading it.
    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter>;

    /// Returns whether the meter has a sensor, and of this machine as it is now.
    fn is_sensed(&self) -> bool {
        true
    }

    /// Returns whether the meter is good enough to calibrate with.
    fn can_calibrate(&self) -> bool {
        self.is_sensed()
    }

    /// Returns the device file that doctor examines instead of reading the meter, if a reading would configure a chip.
    fn device(&self, _dev: &Path) -> Option<Device> {
        None
    }

    /// Returns what doctor and check say of the meter instead of reading it, if a reading would start a program, open a port
    /// or connect to a broker.
    fn examine(&self, _machine: &Machine<'_>) -> Option<Survey> {
        None
    }

    /// Returns what the meter asks an MQTT broker for.
    fn subscription(&self) -> Option<Subscription> {
        None
    }

    /// Returns the resources that only one meter or pipeline can read.
    fn exclusive(&self) -> Vec<Exclusive> {
        Vec::new()
    }

    /// Returns the efficiency of a supply between the meter and the load, of which [`corrected`] makes its readings.
    fn efficiency(&self) -> Option<Efficiency> {
        None
    }

    /// Returns the names of the meters that this one reads.
    fn parts(&self) -> &[String] {
        &[]
    }
}

impl MeterConfig {
    /// Looks up the meters that this one reads, and checks them; `find` returns a meter of the configuration by its name.
    pub fn resolve(
        &mut self,
        key: &Key,
        find: impl Fn(&str) -> Option<Self>,
        surroundings: &Surroundings,
        checker: &mut Checker,
    ) {
        if let Self::SumKeys(sum) = self {
            sum.resolve(&key.child("sum"), find, surroundings, checker);
        }
    }
}

/// What meters are built with.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Normally `/sys`.
    pub sysfs: PathBuf,
    /// Between two readings.
    pub period: Duration,
    /// Processes whose processor time is our own.
    pub children: Children,
    /// How the node connects to its broker, for meters that subscribe.
    pub node: Option<NodeConnection>,
    /// The meters that others read, too.
    pub shared: SharedMeters,
    /// What the configuration says of the accuracy of each meter, by its name.
    pub corrections: BTreeMap<String, Corrections>,
}

impl Surroundings {
    /// Returns what meters are built with that are not read: to know what they are.
    pub fn without_node(sysfs: &Path, period: Duration) -> Self {
        let (children, shared, corrections) = (Children::default(), SharedMeters::default(), BTreeMap::new());
        Self { sysfs: sysfs.to_owned(), period, children, node: None, shared, corrections }
    }

    pub(crate) fn corrections_of(&self, meter: &str) -> Corrections {
        self.corrections.get(meter).cloned().unwrap_or_default()
    }

    /// Returns the meter called `name`, with its corrections, without reading it.
    pub fn build(&self, name: &str, meter: &MeterConfig) -> Box<dyn Meter> {
        Corrected::of(meter.kind().build(name, self), self.corrections_of(name))
    }
}

/// A device file that a meter needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    pub says: &'static str,
    pub says_absent: &'static str,
    pub fix_absent: &'static str,
    /// The udev rule for a file that belongs to no group.
    pub rule: &'static str,
}

/// Returns the name by which a broker knows a meter, so that it is not that of a pipeline.
pub(crate) fn meter_client(meter: &str) -> String {
    format!("meter-{meter}")
}

/// Checks what a sensor's supply feeds.
pub(crate) fn check_scope(key: &Key, scope: Scope, checker: &mut Checker) {
    if matches!(scope, Scope::Platform | Scope::Process) {
        let message = format!("a sensor cannot cover the {}; write \"board\", \"device\" or \"package\"", scope.name());
        checker.problem(&key.child("scope"), message);
    }
}

/// A source of cumulative energy.
pub trait Meter: Send {
    /// Returns what this meter is; until the first successful read, `detail` is empty and `scope` is what is expected.
    fn info(&self) -> &MeterInfo;

    /// Reads the meter, and first looks for it if it is not open.
    ///
    /// # Errors
    /// Any [`MeterError`]. The next successful reading is a new baseline: the difference to the last one before the error
    /// means nothing.
    fn read(&mut self) -> Result<Reading, MeterError>;

    /// Returns how soon the meter must be read again because it is still learning how it behaves; `None` if the usual pace
    /// will do.
    fn learning_pace(&self) -> Option<Duration> {
        None
    }
}

/// What a meter is and what it covers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeterInfo {
    /// The meter's name in the configuration.
    pub name: String,
    /// `rapl`, `hwmon`, `iio`, `ina219`, `ina226`, `ina228`, `ina260`, `ina3221`, `pmic`, `reader`, `sum`, `replay` or `estimate`.
    pub kind: &'static str,
    pub scope: Scope,
    /// Whether the joules are computed from a model of the machine instead of measured.
    pub estimated: bool,
    /// The zones, or the chip and its files, and what was learned of how often they are refreshed, one item a line.
    pub detail: Vec<String>,
    /// What else its joules depend on: shunt, comparison, efficiency, the parts of a sum. Joules of two meters that differ in
    /// it cannot be compared.
    #[serde(skip)]
    pub basis: Vec<String>,
}

choice! {
    /// The part of the machine whose energy a meter covers.
    #[derive(Default)]
    pub enum Scope {
        /// Processor packages, with their memory if the processor counts it.
        Package = "package",
        /// Everything that the processor's platform counter (psys) covers.
        Platform = "platform",
        /// The supply of the whole board.
        #[default]
        Board = "board",
        /// One device or rail, such as an accelerator's supply.
        Device = "device",
        /// This process alone on an otherwise idle machine.
        Process = "process",
    }
}

/// One reading of a meter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Halfway between before and after the read, because an I2C read takes time.
    pub time: MonoTime,
    /// Energy since the meter was opened; never decreases.
    pub joules: Joules,
    /// The sensor's power, or a counter's mean power since its last reading; `None` if there is no last reading.
    pub power: Option<Watts>,
    pub volts: Option<f64>,
    pub amperes: Option<f64>,
    /// What the joules cover; known once the meter is found, so it can differ from what was expected.
    pub scope: Scope,
    /// How accurate the joules are; like the scope, known once the meter is found.
    pub accuracy: Accuracy,
}

/// How accurate a meter's joules are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    pub resolution: Resolution,
    pub scale: Scale,
}

/// The errors that are the same in every reading, so that averaging does not reduce them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// By how much the gain may be off, as a fraction of the value: half the width of a rectangular distribution. `None` if
    /// nothing is known of it.
    pub gain_error: Option<f64>,
    /// By how many watts every power may be off, whatever its value: half the width of a rectangular distribution.
    pub offset_w: f64,
}

impl Scale {
    /// Of a meter whose errors no data sheet states.
    pub const UNKNOWN: Self = Self { gain_error: None, offset_w: 0.0 };

    /// Returns the standard uncertainty of `joules` that the gain leaves; `None` if nothing is known of it.
    pub fn u_of_gain(self, joules: f64) -> Option<f64> {
        self.gain_error.map(|error| error * joules.abs() / 3f64.sqrt())
    }

    /// Returns the standard uncertainty of `joules` over `time_s`, of which the offset is a part; `None` if nothing is known of
    /// the gain.
    pub fn u_j(self, joules: f64, time_s: f64) -> Option<f64> {
        self.u_of_gain(joules).map(|u_j| u_j.hypot(self.offset_w * time_s / 3f64.sqrt()))
    }
}

/// How a meter obtains its joules, which determines how far off they can be at a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Resolution {
    /// A counter that the hardware updates every `update`, in whole steps of `quantum`.
    Counter { update: Duration, quantum: Joules },
    /// Power in steps of `quantum`, averaged over the `conversion` that ends at about the time of each reading; integrated
    /// by trapezoids.
    Sampled { conversion: Duration, quantum: Watts },
    /// Computed from a model, or measured in an unknown way: the error is unknown. `idle` is the idle power of the model.
    Model { idle: Option<Watts> },
}

impl Resolution {
    pub fn is_model(self) -> bool {
        matches!(self, Self::Model { .. })
    }

    /// Returns how far before its time a reading looks back.
    pub fn look_back(self) -> Duration {
        match self {
            Self::Counter { update, .. } => update,
            Self::Sampled { conversion, .. } => conversion,
            Self::Model { .. } => Duration::ZERO,
        }
    }
}

/// Why there is no reading; each variant says what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// There is no such meter now: try again later, hardware may be plugged in and drivers loaded.
    #[error("{}: {reason}; {fix}", path.display())]
    Absent { path: PathBuf, reason: String, fix: String },
    /// Several candidates match: the configuration must name one.
    #[error("{}: {reason}; {fix}", path.display())]
    Ambiguous { path: PathBuf, reason: String, fix: String },
    /// Another program or driver uses it: the fix says how to read it through that one.
    #[error("{}: {reason}; {fix}", path.display())]
    Taken { path: PathBuf, reason: String, fix: String },
    /// The meter exists but this user may not read it: show the fix.
    #[error("{}: permission denied; {fix}", path.display())]
    Denied { path: PathBuf, fix: String },
    /// The meter returned something that is not a valid reading.
    #[error("{}: read {text:?}, expected {expected}", path.display())]
    Invalid { path: PathBuf, text: String, expected: &'static str },
    /// The read failed: try again.
    #[error("{}: {source}", path.display())]
    Failed { path: PathBuf, source: io::Error },
    /// The counter does not change although the machine runs: its value is not a measurement.
    #[error("{}: stuck, no change in {seconds:.1} s on a running processor; {fix}", path.display())]
    Stuck { path: PathBuf, seconds: f64, fix: String },
    /// The meter works and will give a reading soon: it is still learning how the meter behaves, or no new value was there
    /// yet. Continue from the next reading.
    #[error("no reading yet: {reason}")]
    NotYet { reason: &'static str },
    /// The sensor has been at the end of its range since `since`, so that its values since then are too low: do not use them,
    /// and continue from the next.
    #[error("{reason}")]
    Overrange { reason: String, since: MonoTime },
    /// The meter works, but the energy since its last reading is unknown: continue from the next.
    #[error("energy since the last reading is unknown: {reason}")]
    Rebaselined { reason: String },
}

impl MeterError {
    /// Returns the error for the value `text`, read at `place`, that has been the end of the sensor's range since `since`.
    fn overrange(place: impl fmt::Display, text: &str, expected: &str, since: MonoTime) -> Self {
        Self::Overrange { reason: format!("{place}: read {text:?}, expected {expected}"), since }
    }

    /// Whether the meter is absent, rather than present but not working.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Returns what to do about it, if known; the message ends with it.
    pub fn fix(&self) -> Option<&str> {
        match self {
            Self::Absent { fix, .. }
            | Self::Ambiguous { fix, .. }
            | Self::Taken { fix, .. }
            | Self::Denied { fix, .. }
            | Self::Stuck { fix, .. } => Some(fix),
            Self::Invalid { .. }
            | Self::Failed { .. }
            | Self::NotYet { .. }
            | Self::Overrange { .. }
            | Self::Rebaselined { .. } => None,
        }
    }

    /// Returns the message without the fix.
    pub fn reason(&self) -> String {
        let message = self.to_string();
        let cut = self.fix().and_then(|fix| message.strip_suffix(fix)?.strip_suffix("; "));
        cut.map_or(message.clone(), str::to_owned)
    }
}

/// A meter that is still learning after this time is not waited for.
const LEARNING_MAX: Duration = Duration::from_secs(6);

/// Reads meters until they know how they behave, which takes some seconds at most, and returns the latest result of each;
/// `pause` must wait for the time that it is given.
pub fn learn(meters: &mut [&mut dyn Meter], mut pause: impl FnMut(Duration)) -> Vec<Result<Reading, MeterError>> {
    let mut results: Vec<_> = meters.iter_mut().map(|meter| meter.read()).collect();
    let begun = MonoTime::now();
    // `pause` may return at once.
    let mut paused = Duration::ZERO;
    loop {
        let learning = |result: &Result<Reading, MeterError>| matches!(result, Ok(_) | Err(MeterError::NotYet { .. }));
        let of = |(meter, result): (&&mut dyn Meter, _)| meter.learning_pace().filter(|_| learning(result));
        let Some(pace) = meters.iter().zip(&results).filter_map(of).min() else { return results };
        if paused.max(MonoTime::now().since(begun)) >= LEARNING_MAX {
            return results;
        }
        pause(pace);
        paused += pace;
        for (meter, result) in meters.iter_mut().zip(&mut results) {
            if meter.learning_pace().is_some() && learning(result) {
                *result = meter.read();
            }
        }
    }
}

/// Returns the time halfway between two.
fn midpoint(before: MonoTime, after: MonoTime) -> MonoTime {
    before + after.since(before) / 2
}
