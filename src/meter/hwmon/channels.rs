//! The chips of hwmon and their channels: which files belong to one supply.
//!
//! Owns the choice of chip and channel, and the errors that list what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::{MeterError, Scope, sysfs};
use super::{HwmonKeys, READ_FIX};
use crate::sys::hwmon::Chip;

/// Returns every channel under the sysfs root `root` that can measure energy, each with what is needed to select it.
pub(super) fn candidates(root: &Path) -> Vec<HwmonKeys> {
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

pub(super) fn measures_nothing(folder: &Path) -> MeterError {
    MeterError::Absent {
        path: folder.to_owned(),
        reason: "the chip does not measure energy, power, or voltage and current of one channel".to_owned(),
        fix: "name another chip".to_owned(),
    }
}

/// Returns the folder of the only chip that matches.
pub(super) fn find_chip(class: &Path, selector: &HwmonKeys) -> Result<PathBuf, MeterError> {
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
pub(super) struct Channel {
    pub(super) number: u32,
    /// Labels as the driver gives them.
    pub(super) labels: Vec<String>,
    pub(super) energy: Option<String>,
    pub(super) power: Option<String>,
    pub(super) volts: Option<String>,
    pub(super) amperes: Option<String>,
}

impl Channel {
    pub(super) fn measures_power(&self) -> bool {
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
pub(super) fn find_channel(folder: &Path, selector: &HwmonKeys) -> Result<Channel, MeterError> {
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
pub(super) fn channels(folder: &Path) -> Result<Vec<Channel>, MeterError> {
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
