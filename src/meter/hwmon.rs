//! The hwmon meter: any chip whose power or energy the kernel shows, such as the INA219 family.
//!
//! Owns the choice of chip and channel; `integral` integrates power. Files stay open and a read does not allocate.
//! Units: `Documentation/hwmon/sysfs-interface.rst` (uW, uJ, mV, mA); the shunt: `Documentation/hwmon/ina2xx.rst`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::counter::{Counter, Step};
use super::integral::Integral;
use super::survey::{BETWEEN, Machine, Surveyed};
use super::sysfs::{self, Attribute};
use super::{
    Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings, check_scope,
    midpoint,
};
use crate::schema::{Checker, Key, table};
use crate::sys::hwmon::Chip;
use crate::units::{Joules, MonoTime, Watts};

/// Drivers do not show these, so they are those of the most common chip: an INA219 converts for 532 us and shows power in
/// steps of 2 mW at 0.1 Ohm; energy counters such as those of `amd_energy` or `ltc2947` update about every millisecond.
const CONVERSION: Duration = Duration::from_micros(532);
const POWER_QUANTUM_W_OHM: f64 = 2e-4;
const COMMON_SHUNT_OHMS: f64 = 0.1;
/// Two steps of a current, which hwmon shows in milliamperes.
const NOISE_AMPERES: f64 = 0.002;
const ENERGY_UPDATE: Duration = Duration::from_millis(1);

/// The file in a chip's folder with the shunt resistance that its driver assumes.
const SHUNT: &str = "shunt_resistor";
/// The shunt that the kernel's `ina2xx` assumes by default.
const DEFAULT_SHUNT_UOHM: u64 = 10_000;

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

/// Returns every channel under the sysfs root `root` that can measure energy, each with what is needed to select it.
fn candidates(root: &Path) -> Vec<HwmonKeys> {
    let class = root.join("class/hwmon");
    let folders = sysfs::names(&class).unwrap_or_default().into_iter().map(|chip| class.join(chip));
    let mut chips: Vec<(String, Option<String>, Vec<Channel>)> = folders
        .filter_map(|folder| {
            let Chip { name: chip, device, .. } = Chip::at(&folder)?;
            let mut channels = channels(&folder).ok()?;
            if channels.iter().any(Channel::measures_power) {
                channels.retain(Channel::measures_power);
            }
            Some((chip, device, channels))
        })
        .filter(|(_, _, channels)| !channels.is_empty())
        .collect();
    chips.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let name = |(chip, device, channels): &(String, Option<String>, Vec<Channel>)| {
        let alone = chips.iter().filter(|(other, ..)| other == chip).count() == 1;
        let device = device.clone().filter(|_| !alone);
        let numbers = channels.iter().map(|channel| (channels.len() > 1).then_some(channel.number));
        numbers
            .map(|channel| HwmonKeys {
                chip: chip.clone(),
                device: device.clone(),
                channel,
                label: None,
                scope: Scope::Board,
            })
            .collect()
    };
    chips.iter().flat_map(|chip| -> Vec<HwmonKeys> { name(chip) }).collect()
}

/// Energy of what one hwmon channel measures.
#[derive(Debug)]
pub struct Hwmon {
    info: MeterInfo,
    class: PathBuf,
    selector: HwmonKeys,
    source: Option<Source>,
    power: Integral,
    /// The sum of an energy counter.
    joules: Joules,
    /// The shunt that the driver assumes, if it shows one.
    shunt_ohms: Option<f64>,
    /// Whether the log has the warning about a doubtful shunt.
    shunt_warned: bool,
}

/// An open channel.
#[derive(Debug)]
enum Source {
    Energy { file: Attribute, counter: Counter, last: Option<MonoTime> },
    Power { file: Attribute, volts: Option<Attribute>, amperes: Option<Attribute> },
    VoltsTimesAmperes { volts: Attribute, amperes: Attribute },
}

/// The values of the files.
struct Sample {
    value: Value,
    volts: Option<f64>,
    amperes: Option<f64>,
}

enum Value {
    Energy { uj: u64 },
    Power(Watts),
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
            },
            class: root.join("class/hwmon"),
            selector,
            source: None,
            power: Integral::new(period),
            joules: Joules(0.0),
            shunt_ohms: None,
            shunt_warned: false,
        }
    }

    fn read_with(&mut self, clock: impl FnMut() -> MonoTime) -> Result<Reading, MeterError> {
        let mut source = match self.source.take() {
            Some(source) => source,
            None => {
                self.power.interrupt();
                self.discover()?
            }
        };
        // A sensor whose files fail is dropped here and looked for again: a device that comes back has other files.
        let (sample, time) = source.sample(clock)?;
        let resolution = source.resolution(&sample, self.shunt_ohms);
        let step = self.step(&mut source, &sample.value, time);
        self.source = Some(source);
        let (joules, power) = step?;
        let Sample { volts, amperes, .. } = sample;
        let accuracy = Accuracy { resolution, scale: Scale::UNKNOWN };
        Ok(Reading { time, joules, power, volts, amperes, scope: self.info.scope, accuracy })
    }

    /// Returns the joules so far and the power now.
    fn step(
        &mut self,
        source: &mut Source,
        value: &Value,
        now: MonoTime,
    ) -> Result<(Joules, Option<Watts>), MeterError> {
        match (value, source) {
            (Value::Power(watts), _) => Ok((self.power.add(now, *watts)?, Some(*watts))),
            (Value::Energy { uj }, Source::Energy { counter, last, .. }) => {
                let gap = last.replace(now).map(|then| now.since(then));
                match counter.step(now, *uj) {
                    Step::First => Ok((self.joules, None)),
                    Step::Normal { uj } | Step::Wrapped { uj } => {
                        let joules = Joules(uj as f64 / 1e6);
                        self.joules = self.joules + joules;
                        Ok((self.joules, gap.and_then(|gap| joules.per(gap))))
                    }
                    Step::Lost(reason) => Err(MeterError::Rebaselined { reason: reason.to_string() }),
                }
            }
            (Value::Energy { .. }, _) => {
                Err(MeterError::Rebaselined { reason: "the sensor's source changed".to_owned() })
            }
        }
    }

    fn discover(&mut self) -> Result<Source, MeterError> {
        let folder = find_chip(&self.class, &self.selector)?;
        let channel = find_channel(&folder, &self.selector)?;
        let open = |file: &str| Attribute::open(folder.join(file), READ_FIX);
        let open_some = |file: &Option<String>| file.as_deref().map(open).transpose();
        let (source, what) = match channel {
            Channel { energy: Some(energy), .. } => {
                (Source::Energy { file: open(&energy)?, counter: Counter::hwmon(), last: None }, energy)
            }
            Channel { power: Some(power), volts, amperes, .. } => {
                let (volts, amperes) = (open_some(&volts)?, open_some(&amperes)?);
                (Source::Power { file: open(&power)?, volts, amperes }, power)
            }
            Channel { volts: Some(volts), amperes: Some(amperes), .. } => {
                let what = format!("{volts} x {amperes}");
                (Source::VoltsTimesAmperes { volts: open(&volts)?, amperes: open(&amperes)? }, what)
            }
            _ => return Err(measures_nothing(&folder)),
        };
        let device = Chip::at(&folder).and_then(|chip| chip.device).unwrap_or_default();
        self.info.detail = vec![format!("{} {device} {}: {what}", self.selector.chip, folder.display())];
        let micro_ohms = shunt_micro_ohms(&folder);
        if let Some(micro_ohms) = micro_ohms {
            let shunt = shunt(&folder, micro_ohms);
            self.warn_of(micro_ohms, &shunt);
            self.info.detail.push(shunt);
        }
        self.shunt_ohms = micro_ohms.filter(|micro_ohms| *micro_ohms > 0).map(|micro_ohms| micro_ohms as f64 / 1e6);
        Ok(source)
    }

    /// Boards with an INA226 may really have the default shunt; with an INA219, somebody probably forgot to set it.
    fn warn_of(&mut self, micro_ohms: u64, shunt: &str) {
        let is_doubtful =
            micro_ohms == DEFAULT_SHUNT_UOHM && matches!(self.selector.chip.as_str(), "ina219" | "ina220");
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
}

impl Source {
    fn resolution(&self, sample: &Sample, shunt_ohms: Option<f64>) -> Resolution {
        let quantum = match (self, sample.volts, sample.amperes) {
            (Self::Energy { .. }, ..) => {
                return Resolution::Counter { update: ENERGY_UPDATE, quantum: Joules(1e-6) };
            }
            (Self::Power { .. }, ..) => Watts(POWER_QUANTUM_W_OHM / shunt_ohms.unwrap_or(COMMON_SHUNT_OHMS)),
            // Both come in thousandths.
            (_, volts, amperes) => Watts((volts.unwrap_or(0.0) * 1e-3).hypot(amperes.unwrap_or(0.0) * 1e-3)),
        };
        Resolution::Sampled { conversion: CONVERSION, quantum }
    }

    fn sample(&self, mut clock: impl FnMut() -> MonoTime) -> Result<(Sample, MonoTime), MeterError> {
        let milli = |file: &Attribute, expected| file.read::<i64>(expected).map(|value| value as f64 / 1e3);
        let before = clock();
        let sample = match self {
            Source::Energy { file, .. } => {
                let uj = file.read("cumulative microjoules")?;
                Sample { value: Value::Energy { uj }, volts: None, amperes: None }
            }
            Source::Power { file, volts, amperes } => {
                let watts = Watts(file.read::<i64>("microwatts")? as f64 / 1e6);
                let volts = volts.as_ref().map(|file| milli(file, "millivolts")).transpose()?;
                let current = amperes.as_ref().map(|file| milli(file, "milliamperes")).transpose()?;
                // A chip's power can be without a sign; its current has one.
                let flows = match (current, amperes) {
                    (Some(current), Some(file)) => forwards(current, "A", file)?,
                    _ => true,
                };
                let watts = if flows { forwards(watts.0, "W", file).map(|_| watts)? } else { Watts(0.0) };
                Sample { value: Value::Power(watts), volts, amperes: current }
            }
            Source::VoltsTimesAmperes { volts, amperes: file } => {
                let (volts, amperes) = (milli(volts, "millivolts")?, milli(file, "milliamperes")?);
                let flows = forwards(amperes, "A", file)?;
                let watts = Watts(if flows { volts.max(0.0) * amperes } else { 0.0 });
                Sample { value: Value::Power(watts), volts: Some(volts), amperes: Some(amperes) }
            }
        };
        Ok((sample, midpoint(before, clock())))
    }
}

/// Returns whether something flows; a current of two steps backwards is noise, and counts as none.
///
/// # Errors
/// It flows backwards, which would make the cumulative energy decrease, or count what is fed in as consumption.
fn forwards(value: f64, unit: &str, file: &Attribute) -> Result<bool, MeterError> {
    let noise = if unit == "A" { NOISE_AMPERES } else { 0.0 };
    if value < -noise {
        return Err(MeterError::Invalid {
            path: file.path().to_owned(),
            text: format!("{value} {unit}"),
            expected: "0 or more; check whether the shunt is wired backwards, or a battery is being charged",
        });
    }
    Ok(value >= 0.0)
}

fn measures_nothing(folder: &Path) -> MeterError {
    MeterError::Absent {
        path: folder.to_owned(),
        reason: "the chip does not measure energy, power, or voltage and current of one channel".to_owned(),
        fix: "name another chip".to_owned(),
    }
}

/// Returns the folder of the only chip that matches.
fn find_chip(class: &Path, selector: &HwmonKeys) -> Result<PathBuf, MeterError> {
    let chips = sysfs::sorted_names(class)?;
    let mut seen = Vec::new();
    let mut fitting = Vec::new();
    for chip in chips {
        let Some(chip) = Chip::at(&class.join(&chip)) else { continue };
        let line = chip.describe();
        let fits = selector.device.as_ref().is_none_or(|wanted| chip.device.as_ref() == Some(wanted));
        if chip.name == selector.chip && fits {
            fitting.push((chip.folder, line.clone()));
        }
        seen.push(line);
    }
    let there = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    let wanted = match &selector.device {
        Some(device) => format!("{:?} at {device}", selector.chip),
        None => format!("{:?}", selector.chip),
    };
    let path = class.to_owned();
    match fitting.as_slice() {
        [(folder, _)] => Ok(folder.clone()),
        [] => Err(MeterError::Absent {
            path,
            reason: format!("no chip {wanted}; found: {there}"),
            fix: "load its driver, or name one of these as chip".to_owned(),
        }),
        several => {
            let several: Vec<&str> = several.iter().map(|(_, line)| line.as_str()).collect();
            Err(MeterError::Ambiguous {
                path,
                reason: format!("several chips {wanted}: {}", several.join(", ")),
                fix: "name one by device".to_owned(),
            })
        }
    }
}

/// The files of one channel: those of a chip with the same number.
#[derive(Debug, Default, Clone, PartialEq)]
struct Channel {
    number: u32,
    /// Labels as the driver gives them.
    labels: Vec<String>,
    energy: Option<String>,
    power: Option<String>,
    volts: Option<String>,
    amperes: Option<String>,
}

impl Channel {
    fn measures_power(&self) -> bool {
        self.energy.is_some() || self.power.is_some()
    }

    /// Such as `power1 (label VDD_CPU)`.
    fn describe(&self) -> String {
        let file = self.energy.as_ref().or(self.power.as_ref()).or(self.amperes.as_ref());
        let name = file.and_then(|file| file.split_once('_')).map_or("", |(name, _)| name);
        if self.labels.is_empty() { name.to_owned() } else { format!("{name} (label {})", self.labels.join(", ")) }
    }
}

/// Returns the only channel that matches; voltage times current is used if the chip does not show power itself.
fn find_channel(folder: &Path, selector: &HwmonKeys) -> Result<Channel, MeterError> {
    let all = channels(folder)?;
    let list = |channels: &[Channel]| channels.iter().map(Channel::describe).collect::<Vec<_>>().join(", ");
    let there = list(&all);
    let chosen = selector.channel.is_some() || selector.label.is_some();
    let own_power = all.iter().any(Channel::measures_power);
    let mut fitting = all;
    fitting.retain(|channel| {
        let by_number = selector.channel.is_none_or(|number| number == channel.number);
        let by_label = selector.label.as_ref().is_none_or(|label| channel.labels.contains(label));
        by_number && by_label && (chosen || channel.measures_power() || !own_power)
    });
    let path = folder.to_owned();
    match (fitting.len(), there.is_empty()) {
        (1, _) => fitting.pop().ok_or_else(|| measures_nothing(folder)),
        (0, true) => Err(measures_nothing(folder)),
        (0, false) => Err(MeterError::Absent {
            path,
            reason: match selector.channel {
                Some(number @ 4..) if selector.chip == "ina3221" => {
                    format!(
                        "there is no channel {number}: in4 to in7 are voltages across the shunts, and curr4 is the sum of the currents; found: {there}"
                    )
                }
                _ => format!("no such channel; found: {there}"),
            },
            fix: "name one of these by channel or label".to_owned(),
        }),
        _ => Err(MeterError::Ambiguous {
            path,
            reason: format!("several channels: {}", list(&fitting)),
            fix: "name one by channel or label".to_owned(),
        }),
    }
}

/// Returns all channels of a chip that can measure energy, by number.
fn channels(folder: &Path) -> Result<Vec<Channel>, MeterError> {
    let mut names = sysfs::names(folder).map_err(|error| sysfs::classify(folder, error, READ_FIX))?;
    // `average` sorts before `input` and is preferred: a mean misses nothing between two reads.
    names.sort();
    let chip = sysfs::text(&folder.join("name")).unwrap_or_default();
    let mut files = [const { BTreeMap::new() }; 4];
    for file in names {
        let Some((name, item)) = file.split_once('_') else { continue };
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(number) = name.get(kind.len()..).and_then(|digits| digits.parse().ok()) else { continue };
        let Some(place) = KINDS.iter().position(|known| *known == kind) else { continue };
        if item == "input" || (kind == "power" && item == "average") {
            let label = sysfs::text(&folder.join(format!("{name}_label"))).filter(|label| !label.is_empty());
            if !is_no_supply(&chip, kind, number, label.as_deref()) {
                files[place].entry(number).or_insert(ValueFile { file, label });
            }
        }
    }
    let [energy, power, amperes, volts] = files;
    let numbers: BTreeSet<u32> = energy.keys().chain(power.keys()).chain(amperes.keys()).copied().collect();
    // What a channel is called: the label of the first of its files.
    let name = |number: &u32| {
        [&energy, &power, &amperes].iter().find_map(|files| files.get(number)).and_then(|file| file.label.as_deref())
    };
    let rails: Vec<String> = numbers.iter().filter_map(|number| name(number).map(rail)).collect();
    let channel = |number: u32| {
        let of_rail = |files: &BTreeMap<u32, ValueFile>| {
            let own = name(&number).map(rail);
            let has_rail = |file: &&ValueFile| file.label.as_deref().map(rail) == own && own.is_some();
            let other = |file: &&ValueFile| {
                let label = file.label.as_deref().map(rail);
                label != own && label.is_some_and(|label| rails.contains(&label) || (own.is_some() && is_pmbus(&label)))
            };
            files.values().find(has_rail).or(files.get(&number).filter(|file| !other(file))).cloned()
        };
        let found = [energy.get(&number).cloned(), power.get(&number).cloned(), of_rail(&amperes), of_rail(&volts)];
        let labels = found.iter().flatten().filter_map(|file| file.label.clone()).collect();
        let [energy, power, amperes, volts] = found.map(|file| file.map(|file| file.file));
        Channel { number, labels, energy, power, volts, amperes }
    };
    let usable = |channel: &Channel| channel.measures_power() || (channel.volts.is_some() && channel.amperes.is_some());
    Ok(numbers.into_iter().map(channel).filter(usable).collect())
}

/// What a file of a chip's value is called before its number.
const KINDS: [&str; 4] = ["energy", "power", "curr", "in"];

/// A file with a value, and its label.
#[derive(Debug, Clone)]
struct ValueFile {
    file: String,
    label: Option<String>,
}

/// Whether a value is not the voltage or current of a supply: the voltage across a shunt, or a sum.
///
/// The INA3221 has such values from number 4 on (`Documentation/hwmon/ina3221.rst`); the voltages of the LTC2992 are
/// numbered from 0, its currents from 1 (`drivers/hwmon/ltc2992.c`).
fn is_no_supply(chip: &str, kind: &str, number: u32, label: Option<&str>) -> bool {
    let is_other = |label: &str| label.contains("shunt") || label.starts_with("sum ");
    match (chip, kind) {
        ("ina3221", "in" | "curr") if number > 3 => true,
        ("ltc2992", "in") => true,
        (_, "in" | "curr") => label.is_some_and(|label| is_other(&label.to_lowercase())),
        _ => false,
    }
}

/// Returns the part of a label that names the supply: `out1` for `vout1` and `iout1`, `+12v` for `curr +12v`.
fn rail(label: &str) -> String {
    const QUANTITIES: [&str; 8] = ["v", "volt", "voltage", "i", "curr", "current", "power", "energy"];
    let label = label.to_lowercase();
    let words: Vec<&str> =
        label.split([' ', '_']).filter(|word| !word.is_empty() && !QUANTITIES.contains(word)).collect();
    let words = if words.len() > 1 && words[0] == "out" { &words[1..] } else { &words[..] };
    match words {
        [word] if word.get(1..).is_some_and(is_pmbus) && word.starts_with(['v', 'i', 'p']) => {
            word.get(1..).unwrap_or(word).to_owned()
        }
        words => words.join(" "),
    }
}

/// Whether a supply is called as drivers of PMBus chips call it (`drivers/hwmon/pmbus/pmbus_core.c`).
fn is_pmbus(rail: &str) -> bool {
    ["in", "out", "cap"].contains(&rail.trim_end_matches(|c: char| c.is_ascii_digit()))
}

/// Returns the shunt that the driver assumes, in microohms.
fn shunt_micro_ohms(folder: &Path) -> Option<u64> {
    sysfs::text(&folder.join(SHUNT))?.parse().ok()
}

/// Returns what to know about the shunt: a wrong value makes all power wrong by the same factor.
fn shunt(folder: &Path, micro_ohms: u64) -> String {
    let path = folder.join(SHUNT);
    let hint = match micro_ohms {
        DEFAULT_SHUNT_UOHM => format!(
            "; that is the kernel's default, but most INA219 boards have 100000; if yours does: echo 100000 | sudo tee {}",
            path.display()
        ),
        _ => String::new(),
    };
    format!("shunt {micro_ohms} uOhm{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    fn ina219() -> Tree {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("class/hwmon/hwmon0/temp1_input", "48000\n"),
            ("class/hwmon/hwmon3/name", "ina219\n"),
            ("class/hwmon/hwmon3/in0_input", "6\n"),
            ("class/hwmon/hwmon3/in1_input", "5000\n"),
            ("class/hwmon/hwmon3/curr1_input", "600\n"),
            ("class/hwmon/hwmon3/power1_input", "3000000\n"),
            ("class/hwmon/hwmon3/power1_crit", "1\n"),
            ("class/hwmon/hwmon3/shunt_resistor", "10000\n"),
        ]);
        tree.link("class/hwmon/hwmon3/device", "../../../1-0040");
        tree
    }

    fn chip(chip: &str) -> HwmonKeys {
        HwmonKeys { chip: chip.to_owned(), device: None, channel: None, label: None, scope: Scope::Board }
    }

    fn meter(tree: &Tree, selector: HwmonKeys) -> Hwmon {
        Hwmon::new("board", tree.root(), selector, PERIOD)
    }

    fn read(meter: &mut Hwmon, ms: u64) -> Result<Reading, MeterError> {
        meter.read_with(|| MonoTime(ms * 1_000_000))
    }

    fn close_to(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn power_is_integrated_between_the_readings() {
        let tree = ina219();
        let mut meter = meter(&tree, chip("ina219"));
        let first = read(&mut meter, 1000).unwrap();
        assert_eq!((first.joules, first.power), (Joules(0.0), Some(Watts(3.0))));
        assert_eq!((first.volts, first.amperes, first.scope), (Some(5.0), Some(0.6), Scope::Board));
        tree.write("class/hwmon/hwmon3/power1_input", "5000000\n");
        assert!(close_to(read(&mut meter, 1100).unwrap().joules.0, 0.4));
        tree.write("class/hwmon/hwmon3/power1_input", "1000000\n");
        assert!(close_to(read(&mut meter, 1300).unwrap().joules.0, 1.0));
    }

    #[test]
    fn the_shunt_and_its_default_are_told() {
        let tree = ina219();
        let mut meter = meter(&tree, chip("ina219"));
        read(&mut meter, 0).unwrap();
        let detail = meter.info().detail.join("; ");
        assert!(detail.contains("ina219 1-0040") && detail.contains("hwmon3: power1_input"), "{detail}");
        assert!(detail.contains("shunt 10000 uOhm; that is the kernel's default"), "{detail}");
        tree.write("class/hwmon/hwmon3/shunt_resistor", "100000\n");
        let folder = tree.path("class/hwmon/hwmon3");
        assert_eq!(shunt_micro_ohms(&folder), Some(100_000));
        assert_eq!(shunt(&folder, 100_000), "shunt 100000 uOhm");
    }

    #[test]
    fn without_power_it_is_voltage_times_current() {
        let tree = ina219();
        tree.remove("class/hwmon/hwmon3/power1_input");
        let mut meter = meter(&tree, HwmonKeys { device: Some("1-0040".to_owned()), ..chip("ina219") });
        read(&mut meter, 0).unwrap();
        let second = read(&mut meter, 100).unwrap();
        assert!(close_to(second.joules.0, 0.3) && close_to(second.power.unwrap().0, 3.0));
    }

    #[test]
    fn a_long_gap_re_baselines_and_says_so() {
        let tree = ina219();
        let mut meter = meter(&tree, chip("ina219"));
        read(&mut meter, 0).unwrap();
        assert!(close_to(read(&mut meter, 500).unwrap().joules.0, 1.5));
        let error = read(&mut meter, 1001).unwrap_err();
        assert!(
            matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("0.5 s passed"),
            "{error}"
        );
        assert!(close_to(read(&mut meter, 1101).unwrap().joules.0, 1.8));
    }

    #[test]
    fn current_that_flows_backwards_is_no_power() {
        let tree = ina219();
        tree.remove("class/hwmon/hwmon3/power1_input");
        tree.write("class/hwmon/hwmon3/curr1_input", "-7\n");
        let mut meter = meter(&tree, chip("ina219"));
        let error = read(&mut meter, 0).unwrap_err().to_string();
        assert!(error.contains("curr1_input") && error.contains("-0.007 A") && error.contains("shunt"), "{error}");
    }

    #[test]
    fn an_absent_chip_lists_what_there_is() {
        let tree = ina219();
        let error = read(&mut meter(&tree, chip("ina226")), 0).unwrap_err();
        assert!(matches!(error, MeterError::Absent { .. }));
        let message = error.to_string();
        assert!(
            message.contains("no chip \"ina226\"; found: cpu_thermal (no device, hwmon0), ina219 (1-0040, hwmon3)"),
            "{message}"
        );
        let error =
            read(&mut meter(&tree, HwmonKeys { device: Some("1-0041".to_owned()), ..chip("ina219") }), 0).unwrap_err();
        assert!(error.to_string().contains("no chip \"ina219\" at 1-0041"), "{error}");
        let error = read(&mut meter(&tree, chip("cpu_thermal")), 0).unwrap_err();
        assert!(error.to_string().contains("does not measure energy"), "{error}");
        let error = read(&mut meter(&Tree::new(&[]), chip("ina219")), 0).unwrap_err();
        assert!(error.to_string().contains("found: none"), "{error}");
    }

    #[test]
    fn two_chips_of_one_name_need_the_device() {
        let tree = ina219();
        tree.write("class/hwmon/hwmon4/name", "ina219\n");
        tree.write("class/hwmon/hwmon4/power1_input", "8000000\n");
        tree.link("class/hwmon/hwmon4/device", "../../../1-0041");
        let error = read(&mut meter(&tree, chip("ina219")), 0).unwrap_err();
        assert!(matches!(error, MeterError::Ambiguous { .. }));
        assert!(error.to_string().contains("ina219 (1-0040, hwmon3), ina219 (1-0041, hwmon4)"), "{error}");
        let mut second = meter(&tree, HwmonKeys { device: Some("1-0041".to_owned()), ..chip("ina219") });
        assert_eq!(read(&mut second, 0).unwrap().power, Some(Watts(8.0)));
    }

    #[test]
    fn a_current_backwards_is_no_consumption() {
        let tree = ina219();
        tree.write("class/hwmon/hwmon3/shunt_resistor", "100000\n");
        let mut meter = meter(&tree, chip("ina219"));
        // The power register has no sign.
        tree.write("class/hwmon/hwmon3/curr1_input", "-600\n");
        let error = meter.read().unwrap_err().to_string();
        assert!(
            error.contains("curr1_input") && error.contains("-0.6 A") && error.contains("wired backwards"),
            "{error}"
        );
        // What the last digits do is noise.
        tree.write("class/hwmon/hwmon3/curr1_input", "-2\n");
        assert_eq!(meter.read().unwrap().power, Some(Watts(0.0)));
        tree.write("class/hwmon/hwmon3/curr1_input", "600\n");
        assert_eq!(meter.read().unwrap().power, Some(Watts(3.0)));
    }

    #[test]
    fn shunt_voltages_and_sums_are_no_channels() {
        let folder = "class/hwmon/hwmon1/";
        let tree = Tree::new(&[]);
        let values = [
            ("name", "ina3221"),
            ("in1_input", "5000"),
            ("in1_label", "VDD_IN"),
            ("in2_input", "5000"),
            ("in3_input", "5000"),
            ("in4_input", "25"),
            ("in7_input", "50"),
            ("in7_label", "sum of shunt voltages"),
            ("curr1_input", "500"),
            ("curr2_input", "400"),
            ("curr3_input", "100"),
            ("curr4_input", "1000"),
        ];
        values.iter().for_each(|(file, value)| tree.write(&format!("{folder}{file}"), value));
        let of = |channel| HwmonKeys { channel: Some(channel), ..chip("ina3221") };
        assert_eq!(meter(&tree, of(2)).read().unwrap().power, Some(Watts(2.0)));
        let error = meter(&tree, of(4)).read().unwrap_err().to_string();
        assert!(error.contains("no channel 4") && error.contains("voltages across the shunts"), "{error}");
        assert_eq!(
            candidates(tree.root()).iter().map(|keys| keys.channel).collect::<Vec<_>>(),
            [Some(1), Some(2), Some(3)]
        );
    }

    #[test]
    fn voltage_and_current_of_one_supply_belong_together() {
        let found = |values: &[(&str, &str)]| {
            let tree = Tree::new(&[]);
            values.iter().for_each(|(file, value)| tree.write(file, value));
            let of = |channel: Channel| {
                let value = channel.power.or(channel.amperes).unwrap();
                format!("{value} {}", channel.volts.unwrap_or_default())
            };
            channels(tree.root()).unwrap().into_iter().map(of).collect::<Vec<_>>()
        };
        // A PMBus chip without a sensor of the input current.
        let pmbus = [
            ("in1_input", "12000"),
            ("in1_label", "vin"),
            ("in2_input", "1000"),
            ("in2_label", "vout1"),
            ("curr1_input", "5000"),
            ("curr1_label", "iout1"),
        ];
        assert_eq!(found(&pmbus), ["curr1_input in2_input"]);
        assert_eq!(found(&pmbus[..2]), Vec::<String>::new());
        assert_eq!(found(&[pmbus[0], pmbus[1], pmbus[4], pmbus[5]]), Vec::<String>::new());
        // A power supply whose numbers are shifted.
        let supply = [
            ("in1_input", "12000"),
            ("in1_label", "v_out +12v"),
            ("in2_input", "5000"),
            ("in2_label", "v_out +5v"),
            ("power1_input", "9"),
            ("power1_label", "power total"),
            ("power2_input", "5"),
            ("power2_label", "power +12v"),
            ("power3_input", "4"),
            ("power3_label", "power +5v"),
        ];
        assert_eq!(found(&supply), ["power1_input ", "power2_input in1_input", "power3_input in2_input"]);
        // Labels of one side only, or of one's own: the number decides.
        let own = [
            ("in1_input", "5"),
            ("in1_label", "VDD_IN"),
            ("curr1_input", "5"),
            ("in2_input", "5"),
            ("in2_label", "Core"),
            ("curr2_input", "5"),
            ("curr2_label", "CPU"),
        ];
        assert_eq!(found(&own), ["curr1_input in1_input", "curr2_input in2_input"]);
    }

    #[test]
    fn several_channels_need_the_label() {
        let tree = Tree::new(&[("class/hwmon/hwmon0/name", "ina3221\n")]);
        for (number, label, ma) in [(1, "VDD_IN", "1000"), (2, "VDD_CPU", "200"), (3, "VDD_SOC", "300")] {
            tree.write(&format!("class/hwmon/hwmon0/in{number}_input"), "5000\n");
            tree.write(&format!("class/hwmon/hwmon0/in{number}_label"), label);
            tree.write(&format!("class/hwmon/hwmon0/curr{number}_input"), ma);
        }
        tree.write("class/hwmon/hwmon0/in4_input", "10\n");
        let error = read(&mut meter(&tree, chip("ina3221")), 0).unwrap_err();
        assert!(matches!(error, MeterError::Ambiguous { .. }));
        assert!(error.to_string().contains("curr1 (label VDD_IN), curr2 (label VDD_CPU)"), "{error}");
        let cpu = HwmonKeys { label: Some("VDD_CPU".to_owned()), ..chip("ina3221") };
        assert!(close_to(read(&mut meter(&tree, cpu), 0).unwrap().power.unwrap().0, 1.0));
        let soc = HwmonKeys { channel: Some(3), ..chip("ina3221") };
        assert!(close_to(read(&mut meter(&tree, soc), 0).unwrap().power.unwrap().0, 1.5));
        let gpu = HwmonKeys { label: Some("GPU".to_owned()), ..chip("ina3221") };
        let error = read(&mut meter(&tree, gpu), 0).unwrap_err();
        assert!(error.to_string().contains("no such channel; found: curr1 (label VDD_IN)"), "{error}");
    }

    #[test]
    fn a_cumulative_counter_and_a_mean_come_before_a_snapshot() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon0/name", "gpu\n"),
            ("class/hwmon/hwmon0/power1_input", "9000000\n"),
            ("class/hwmon/hwmon0/power1_average", "4000000\n"),
        ]);
        tree.write("class/hwmon/hwmon0/in2_input", "900\n");
        tree.write("class/hwmon/hwmon0/curr2_input", "100\n");
        assert_eq!(read(&mut meter(&tree, chip("gpu")), 0).unwrap().power, Some(Watts(4.0)));
        tree.write("class/hwmon/hwmon0/energy1_input", "5000000\n");
        let mut meter = meter(&tree, chip("gpu"));
        assert_eq!(read(&mut meter, 0).unwrap().power, None);
        tree.write("class/hwmon/hwmon0/energy1_input", "7000000\n");
        let second = read(&mut meter, 10_000).unwrap();
        assert_eq!((second.joules, second.power), (Joules(2.0), Some(Watts(0.2))));
        tree.write("class/hwmon/hwmon0/energy1_input", "100\n");
        assert!(matches!(read(&mut meter, 20_000), Err(MeterError::Rebaselined { .. })));
        tree.write("class/hwmon/hwmon0/energy1_input", "1000100\n");
        assert_eq!(read(&mut meter, 30_000).unwrap().joules, Joules(3.0));
    }

    /// A file that was removed stays readable here where the kernel says ENODEV, so the loss is shown by an empty one.
    #[test]
    fn unplugged_and_back_under_another_number() {
        let tree = ina219();
        let mut meter = meter(&tree, chip("ina219"));
        read(&mut meter, 0).unwrap();
        read(&mut meter, 100).unwrap();
        tree.write("class/hwmon/hwmon3/power1_input", "");
        tree.remove("class/hwmon/hwmon3");
        assert!(matches!(read(&mut meter, 200), Err(MeterError::Invalid { .. })));
        let error = read(&mut meter, 300).unwrap_err();
        assert!(error.to_string().contains("found: cpu_thermal"), "{error}");
        tree.write("class/hwmon/hwmon7/name", "ina219\n");
        tree.write("class/hwmon/hwmon7/power1_input", "2000000\n");
        assert!(close_to(read(&mut meter, 60_000).unwrap().joules.0, 0.3), "what was not seen is not made up");
        assert!(close_to(read(&mut meter, 60_100).unwrap().joules.0, 0.5));
    }
}
