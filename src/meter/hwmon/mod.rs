//! The hwmon meter: any chip whose power or energy the kernel shows, such as the INA219 family.
//!
//! Owns the reading of one channel. Leaves the choice of chip and channel to `channels`, what the driver tells to `driver`,
//! which values are new to `snapshots`, what they can be to `plausible`, and their integral to `integral`. Files stay open and a
//! read does not allocate. Units: `Documentation/hwmon/sysfs-interface.rst` (uW, uJ, mV, mA); the shunt: `Documentation/hwmon/ina2xx.rst`.

mod channels;
mod driver;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::counter::Counter;
use super::integral::{Counted, Integral};
use super::plausible::{Limits, Quantity, Shown};
use super::refresh::time as shown_time;
use super::shunt;
use super::snapshots::{Known, Snapshots};
use super::survey::{BETWEEN, Machine, Surveyed};
use super::sysfs::Attribute;
use super::total::{RefreshLine, Total};
use super::{
    Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings, check_scope,
    midpoint,
};
use crate::schema::{Checker, Key, table};
use crate::sys::hwmon::Chip;
use crate::units::{MonoTime, Watts};
use channels::{Channel, candidates, find_channel, find_chip, measures_nothing};

/// Drivers do not show the step of power, so it is that of the most common chip until it is learned: an INA219 shows power in
/// steps of 2 mW at 0.1 Ohm.
const POWER_QUANTUM_W_OHM: f64 = 2e-4;
const COMMON_SHUNT_OHMS: f64 = 0.1;

/// How often the settings of the driver are read again.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How often the status of a battery is read again.
const BATTERY_EVERY: Duration = Duration::from_secs(1);

const READ_FIX: &str = "hwmon values are normally readable for all users; run chmod a+r on this file";

table! {
    /// Any power sensor that the kernel shows in hwmon, by the name of its chip.
    pub struct HwmonKeys {
        /// The name that the kernel gives the chip.
        pub chip: String, example("\"ina219\"");
        /// The device behind the chip, such as "1-0040" for address 0x40 on I2C bus 1, if several chips have that name.
        pub device: Option<String>, otherwise("the only one"), example("\"1-0040\"");
        /// The number of the channel, such as 1 for `power1_input`, if the chip has several.
        pub channel: Option<u32>, otherwise("the only one"), limits("from 0"), example("1");
        /// The channel by its label.
        pub label: Option<String>, otherwise("the only one"), example("\"VDD\"");
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl MeterKind for HwmonKeys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        Box::new(Hwmon::new(name, &surroundings.sysfs, self.clone(), surroundings.period))
    }
}

/// Returns the power sensors that hwmon shows.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    let surveyed = |keys: HwmonKeys| {
        let HwmonKeys { chip, device, channel, .. } = &keys;
        let (mut what, mut config) = (format!("hwmon {chip}"), format!("hwmon = {{ chip = \"{chip}\""));
        if let Some(device) = device {
            what += &format!(" {device}");
            config += &format!(", device = \"{device}\"");
        }
        if let Some(channel) = channel {
            what += &format!(" channel {channel}");
            config += &format!(", channel = {channel}");
        }
        let meter = Hwmon::new("hwmon", machine.sysfs, keys, BETWEEN);
        Surveyed::meter(what, config + " }", meter)
    };
    candidates(machine.sysfs).into_iter().map(surveyed).collect()
}

/// Energy of what one hwmon channel measures.
#[derive(Debug)]
pub struct Hwmon {
    info: MeterInfo,
    class: PathBuf,
    selector: HwmonKeys,
    /// Between two reads.
    period: Duration,
    open: Option<Open>,
    power: Integral,
    /// The sum of an energy counter.
    total: Total,
    /// Whether the log has the warning about a doubtful shunt.
    shunt_warned: bool,
}

/// An open channel.
#[derive(Debug)]
enum Open {
    Energy(Box<Energy>),
    Power(Box<Sensor>),
}

#[derive(Debug)]
struct Energy {
    file: Attribute,
    counter: Counter,
    refresh_line: RefreshLine,
}

/// The files of power, and what is known of them.
#[derive(Debug)]
struct Sensor {
    folder: PathBuf,
    channel: Channel,
    /// `None` if power is voltage times current.
    watts: Option<Attribute>,
    volts: Option<Attribute>,
    amperes: Option<Attribute>,
    limits: Limits,
    shunt_ohms: Option<f64>,
    scale: Scale,
    snapshots: Snapshots,
    told_by: &'static str,
    /// When the driver's settings were last read.
    told_at: MonoTime,
    /// What was said of the refresh in `info.detail`, in its last line.
    said: (Known, Duration),
    lines: usize,
    is_battery: bool,
    /// When a battery's status was last read, and what it was if its power is not the machine's.
    battery: (MonoTime, Option<String>),
    last: Option<Reading>,
}

impl Hwmon {
    /// Creates a meter on the chip that `selector` names under the sysfs root `root`, normally `/sys`; the first read looks
    /// for it. `period` is the time between reads, `scope` what the sensor's supply feeds.
    pub fn new(name: &str, root: &Path, selector: HwmonKeys, period: Duration) -> Self {
        Self {
            info: MeterInfo {
                name: name.to_owned(),
                kind: "hwmon",
                scope: selector.scope,
                estimated: false,
                detail: Vec::new(),
                basis: Vec::new(),
            },
            class: root.join("class/hwmon"),
            selector,
            period,
            open: None,
            power: Integral::new(period),
            total: Total::default(),
            shunt_warned: false,
        }
    }

    fn read_with(&mut self, clock: impl FnMut() -> MonoTime) -> Result<Reading, MeterError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                self.power.interrupt();
                self.discover()?
            }
        };
        let result = match &mut open {
            Open::Energy(energy) => self.read_energy(energy, clock),
            Open::Power(sensor) => self.read_power(sensor, clock),
        };
        // A sensor whose files fail is dropped here and looked for again: a device that comes back has other files.
        match result {
            Ok(reading) => {
                self.open = Some(open);
                reading
            }
            Err(error) => {
                self.total.interrupted();
                Err(error)
            }
        }
    }

    /// Reads an energy counter: the outer error if its file fails, the inner one if it only gives no reading.
    fn read_energy(
        &mut self,
        energy: &mut Energy,
        mut clock: impl FnMut() -> MonoTime,
    ) -> Result<Result<Reading, MeterError>, MeterError> {
        let before = clock();
        let uj = energy.file.read::<u64>("cumulative microjoules")?;
        let now = midpoint(before, clock());
        let reading = self.total.read(now, self.info.scope, std::iter::once((&mut energy.counter, uj)));
        energy.refresh_line.renew(now, &mut self.info.detail, 1, std::iter::once(("", &energy.counter)));
        Ok(reading.map_err(|reason| reason.error(|_| String::new())))
    }

    /// Reads a sensor of power: the outer error if its files fail, the inner one if they only give no reading.
    fn read_power(
        &mut self,
        sensor: &mut Sensor,
        clock: impl FnMut() -> MonoTime,
    ) -> Result<Result<Reading, MeterError>, MeterError> {
        let (raw, shown, now) = sensor.sample(clock)?;
        self.renew(sensor, now);
        let watts = match sensor.judge(&shown, now) {
            Ok(watts) => watts,
            Err(error) => {
                // The power until the next value is unknown.
                self.power.refuse(now, &error);
                sensor.last = None;
                return Ok(Err(error));
            }
        };
        let (seen, conversion) = (sensor.snapshots.poll(now, raw), sensor.snapshots.conversion());
        let quantity = if shown.amperes.is_some() { Quantity::Current } else { Quantity::Power };
        let file = sensor.amperes.as_ref().or(sensor.watts.as_ref()).map_or(sensor.folder.as_path(), Attribute::path);
        let place = || (file.display().to_string(), quantity.show(&shown));
        let Counted { time, joules, power } =
            match self.power.count((now, watts), (seen, conversion), self.period, place) {
                Ok(Some(counted)) => counted,
                Ok(None) => {
                    let waiting = MeterError::NotYet { reason: "the sensor has not been refreshed yet" };
                    return Ok(sensor.last.ok_or(waiting));
                }
                Err(error) => {
                    sensor.last = None;
                    return Ok(Err(error));
                }
            };
        let quantum = sensor.quantum(&shown);
        let accuracy = Accuracy { resolution: Resolution::Sampled { conversion, quantum }, scale: sensor.scale };
        let Shown { volts, amperes, .. } = shown;
        let reading = Reading { time, joules, power: Some(power), volts, amperes, scope: self.info.scope, accuracy };
        sensor.last = Some(reading);
        Ok(Ok(reading))
    }

    /// Reads the driver's settings again now and then, and says what is known of the refresh if that has changed.
    fn renew(&mut self, sensor: &mut Sensor, now: MonoTime) {
        if now.since(sensor.told_at) >= TOLD_EVERY {
            sensor.told_at = now;
            sensor.snapshots.tell(driver::conversion(&sensor.folder, &self.selector.chip, &sensor.channel).told);
        }
        if sensor.snapshots.pace().is_some() {
            return;
        }
        let (known, conversion) = (sensor.snapshots.known(), sensor.snapshots.conversion());
        let (said, before) = sensor.said;
        let is_said = known == said && conversion < before.mul_f64(1.2) && before < conversion.mul_f64(1.2);
        if !is_said {
            sensor.said = (known, conversion);
            self.info.detail.truncate(sensor.lines);
            self.info.detail.push(sensor.describe());
        }
    }

    fn discover(&mut self) -> Result<Open, MeterError> {
        let folder = find_chip(&self.class, &self.selector)?;
        let channel = find_channel(&folder, &self.selector)?;
        let open = |file: &str| Attribute::open(folder.join(file), READ_FIX);
        let open_some = |file: &Option<String>| file.as_deref().map(open).transpose();
        let device = Chip::at(&folder).and_then(|chip| chip.device).unwrap_or_default();
        let begin = |what: &str| vec![format!("{} {device} {}: {what}", self.selector.chip, folder.display())];
        if let Some(energy) = &channel.energy {
            let file = open(energy)?;
            self.info.detail = begin(energy);
            return Ok(Open::Energy(Box::new(Energy {
                file,
                counter: Counter::hwmon(),
                refresh_line: RefreshLine::default(),
            })));
        }
        let (watts, volts, amperes) =
            (open_some(&channel.power)?, open_some(&channel.volts)?, open_some(&channel.amperes)?);
        let what = match (&channel.power, &channel.volts, &channel.amperes) {
            (Some(power), ..) => power.clone(),
            (None, Some(volts), Some(amperes)) => format!("{volts} x {amperes}"),
            _ => return Err(measures_nothing(&folder)),
        };
        self.info.detail = begin(&what);
        let micro_ohms = driver::shunt_micro_ohms(&folder, channel.number);
        if let Some(micro_ohms) = micro_ohms {
            let shunt = driver::shunt(&folder, micro_ohms);
            self.warn_of(micro_ohms, &shunt);
            self.info.detail.push(shunt);
        }
        let shunt_ohms = micro_ohms.map(|micro_ohms| micro_ohms as f64 / 1e6);
        self.info.basis = shunt_ohms.map(shunt::basis).unwrap_or_default();
        let conversion = driver::conversion(&folder, &self.selector.chip, &channel);
        let gain_error = driver::gain_error(&folder, &self.selector.chip, &channel);
        if let Some((error, source)) = gain_error {
            self.info.detail.push(format!("gain within {:.1} %, {source}; gain_error replaces that", 100.0 * error));
        }
        let sensor = Sensor {
            limits: driver::limits(&self.selector.chip, shunt_ohms),
            scale: Scale { gain_error: gain_error.map(|(error, _)| error), ..Scale::UNKNOWN },
            snapshots: Snapshots::new(conversion.told, conversion.least),
            told_by: conversion.by,
            told_at: MonoTime::default(),
            said: (Known::Assumed, Duration::ZERO),
            lines: self.info.detail.len(),
            is_battery: driver::is_battery(&folder),
            battery: (MonoTime::default(), None),
            last: None,
            folder,
            channel,
            watts,
            volts,
            amperes,
            shunt_ohms,
        };
        Ok(Open::Power(Box::new(sensor)))
    }

    /// Boards with an INA226 may really have the default shunt; with an INA219, somebody probably forgot to set it.
    fn warn_of(&mut self, micro_ohms: u64, shunt: &str) {
        let is_doubtful =
            micro_ohms == driver::DEFAULT_SHUNT_UOHM && matches!(self.selector.chip.as_str(), "ina219" | "ina220");
        if is_doubtful && !std::mem::replace(&mut self.shunt_warned, true) {
            tracing::warn!(meter = self.info.name, "power may be ten times too high: {shunt}");
        }
    }
}

impl Meter for Hwmon {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_with(MonoTime::now)
    }

    fn learning_pace(&self) -> Option<Duration> {
        match self.open.as_ref()? {
            Open::Energy(energy) => self.total.pace(std::iter::once(&energy.counter)),
            Open::Power(sensor) => sensor.snapshots.pace(),
        }
    }
}

impl Sensor {
    /// Returns the value that shows whether there is a new conversion, what the files show, and when.
    ///
    /// That value is the current if there is one: the power of some chips follows the noise of the voltage even if the current
    /// is at the end of its range.
    fn sample(&self, mut clock: impl FnMut() -> MonoTime) -> Result<(i64, Shown, MonoTime), MeterError> {
        let read =
            |file: &Option<Attribute>, expected| file.as_ref().map(|file| file.read::<i64>(expected)).transpose();
        let before = clock();
        let micro_watts = read(&self.watts, "microwatts")?;
        let (milli_volts, milli_amperes) = (read(&self.volts, "millivolts")?, read(&self.amperes, "milliamperes")?);
        let now = midpoint(before, clock());
        let milli = |value: Option<i64>| value.map(|value| value as f64 / 1e3);
        let (volts, amperes) = (milli(milli_volts), milli(milli_amperes));
        let product = volts.unwrap_or(0.0) * amperes.unwrap_or(0.0);
        let watts = micro_watts.map_or(product, |micro_watts| micro_watts as f64 / 1e6);
        let raw = milli_amperes.or(micro_watts).unwrap_or(0);
        Ok((raw, Shown { watts, volts, amperes }, now))
    }

    /// Returns the power that flows to the load.
    fn judge(&mut self, shown: &Shown, now: MonoTime) -> Result<Watts, MeterError> {
        if self.is_battery {
            let (read_at, _) = self.battery;
            if read_at == MonoTime::default() || now.since(read_at) >= BATTERY_EVERY {
                self.battery = (now, driver::charging(&self.folder));
            }
            if let (_, Some(status)) = &self.battery {
                return Err(MeterError::Invalid {
                    path: self.folder.join("device/status"),
                    text: status.clone(),
                    expected: "Discharging; otherwise this is what flows into the battery, not what the machine takes",
                });
            }
        }
        self.limits.judge(shown).map_err(|fault| {
            let (path, text, expected) = (self.path(fault.quantity), fault.quantity.show(shown), fault.expected);
            if fault.is_overrange {
                return MeterError::overrange(path.display(), &text, expected, now);
            }
            MeterError::Invalid { path: path.to_owned(), text, expected }
        })
    }

    /// Returns the file of a quantity, or the folder if it is in none.
    fn path(&self, quantity: Quantity) -> &Path {
        let file = match quantity {
            Quantity::Power => self.watts.as_ref().or(self.amperes.as_ref()),
            Quantity::Voltage => self.volts.as_ref(),
            Quantity::Current => self.amperes.as_ref(),
        };
        file.map_or(self.folder.as_path(), Attribute::path)
    }

    /// Returns the step of power: the one that was learned, or the one of the chip if that is larger.
    fn quantum(&self, shown: &Shown) -> Watts {
        let learned = self.snapshots.step().unwrap_or(0.0);
        let (volts, amperes) = (shown.volts.unwrap_or(0.0), shown.amperes.unwrap_or(0.0));
        // What was learned is in milliamperes if there is a current.
        let learned_w = if self.amperes.is_some() { volts * learned / 1e3 } else { learned / 1e6 };
        match self.watts {
            Some(_) => Watts((POWER_QUANTUM_W_OHM / self.shunt_ohms.unwrap_or(COMMON_SHUNT_OHMS)).max(learned_w)),
            // Voltages come in thousandths, currents in those or in larger steps.
            None => Watts((volts * (learned.max(1.0) * 1e-3)).hypot(amperes * 1e-3)),
        }
    }

    /// Returns what is known of the refresh.
    fn describe(&self) -> String {
        let time = shown_time(self.snapshots.conversion());
        match self.snapshots.known() {
            Known::Told => format!("one conversion takes {time} ({})", self.told_by),
            Known::Learned => format!("refreshed every {time}, as its values show"),
            Known::Assumed => {
                format!("its value never changed so far, so how often it is refreshed is unknown; {time} is assumed")
            }
        }
    }
}
