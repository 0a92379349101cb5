//! What a driver shows of its chip: how long a conversion takes, how accurate it is, its shunt, its ranges.
//!
//! Owns the table of chips. Sources: `Documentation/hwmon/sysfs-interface.rst`, `Documentation/ABI/testing/sysfs-class-hwmon`;
//! the drivers named below; the data sheets SBOS448 (INA219), SBOS547 (INA226), SBOS576 (INA3221), SBOS854 (INA228).

use std::path::Path;
use std::time::Duration;

use super::super::plausible::Limits;
use super::super::sysfs;
use super::channels::Channel;

/// The file in a chip's folder with the shunt resistance that its driver assumes.
const SHUNT: &str = "shunt_resistor";
/// The shunt that the kernel's `ina2xx` assumes by default.
pub(super) const DEFAULT_SHUNT_UOHM: u64 = 10_000;

/// The largest offset of these chips' shunt voltage: 200 uV of an INA219 at its widest range (SBOS448G, 7.5).
const OFFSET_VOLTS: f64 = 200e-6;
/// The offset of a chip whose shunt is not known: two steps of a current, which hwmon shows in milliamperes.
const OFFSET_AMPERES: f64 = 0.002;

/// Shunts on boards with these chips have a tolerance of 1 %. Solder and traces in series with them add about as much: 1 mOhm at
/// 0.1 Ohm.
const SHUNT_ERROR: f64 = 0.02;

/// A mean whose length the driver does not show may be over so long a time.
const UNKNOWN_AVERAGE: Duration = Duration::from_secs(1);

/// How long a value of a channel is the mean over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Conversion {
    /// `None` if neither the driver shows it nor the chip is known.
    pub told: Option<Duration>,
    /// The file or the chip that tells it.
    pub by: &'static str,
    /// The least, whatever is seen.
    pub least: Duration,
}

/// Returns what the driver tells of the conversions of a channel.
///
/// `powerN_average_interval` is the time of a mean (`drivers/hwmon/acpi_power_meter.c`). `update_interval` is the time of all
/// conversions and averages of a chip: both voltages in `drivers/hwmon/ina2xx.c`, those of all channels in
/// `drivers/hwmon/ina3221.c`, times `samples`. An INA219 has none; it converts with 12 bit, for 532 us, as the driver sets it.
pub(super) fn conversion(folder: &Path, chip: &str, channel: &Channel) -> Conversion {
    let ms = |file: &str| {
        let ms: f64 = sysfs::text(&folder.join(file))?.parse().ok()?;
        // 0 is less than half a millisecond.
        (ms >= 0.0).then(|| Duration::try_from_secs_f64(ms.max(0.5) / 1e3).ok())?
    };
    let none = Duration::ZERO;
    if let Some(power) = channel.power.as_deref().filter(|power| power.ends_with("_average")) {
        let told = ms(&format!("{power}_interval")).filter(|time| *time > Duration::from_millis(1));
        let least = if told.is_some() { none } else { UNKNOWN_AVERAGE };
        return Conversion { told, by: "power_average_interval", least };
    }
    if let Some(told) = ms("update_interval") {
        return Conversion { told: Some(told), by: "update_interval", least: none };
    }
    let told = match chip {
        "ina219" | "ina220" => Some(Duration::from_micros(532)),
        // 16 averages of two conversions of 1.1 ms: the driver's setting (INA226_CONFIG_DEFAULT).
        "ina226" | "ina230" | "ina231" => Some(Duration::from_micros(35_200)),
        // Six conversions of 1.1 ms: the chip's setting after a reset.
        "ina3221" => Some(Duration::from_micros(6_600)),
        _ => None,
    };
    Conversion { told, by: "as known of this chip", least: none }
}

/// Returns by how much the gain may be off, as a fraction, with its source: the driver, else the chip's data sheet.
///
/// `power1_accuracy` is such as `95.0%`. ACPI gives the accuracy (`_PMC` in the ACPI specification, 10.4.1): 95 % may be off by
/// 5 %. 100 % tells nothing.
///
/// Of a known chip it is the sum of the errors of its current, its voltage and its shunt.
pub(super) fn gain_error(folder: &Path, chip: &str, channel: &Channel) -> Option<(f64, &'static str)> {
    let shown = || {
        let text = sysfs::text(&folder.join(format!("power{}_accuracy", channel.number)))?;
        let percent: f64 = text.trim_end_matches('%').parse().ok()?;
        let error = if percent > 50.0 { 100.0 - percent } else { percent };
        (0.0 < error && error <= 50.0).then_some((error / 100.0, "as the driver says"))
    };
    let of_chip = match chip {
        // 0.5 % of the current and 0.5 % of the voltage (SBOS448G, 7.5).
        "ina219" | "ina220" => Some(0.01),
        // 0.1 % of each (SBOS547A, 7.5).
        "ina226" | "ina230" | "ina231" => Some(0.002),
        _ => None,
    };
    shown().or_else(|| of_chip.map(|error| (error + SHUNT_ERROR, "that of the chip, and 2 % for its shunt")))
}

/// Returns the ranges and the offset of a channel with that shunt.
pub(super) fn limits(chip: &str, shunt_ohms: Option<f64>) -> Limits {
    // The ends of the shunt's voltage and of the bus voltage.
    let (shunt_volts, end_volts) = match chip {
        "ina209" | "ina219" | "ina220" => (Some(0.32), Some(32.0)),
        "ina226" | "ina230" | "ina231" => (Some(0.08192), Some(36.0)),
        "ina228" | "ina229" | "ina237" | "ina238" => (Some(0.16384), Some(85.0)),
        "ina3221" => (Some(0.1638), Some(32.0)),
        _ => (None, None),
    };
    let amperes = |volts: f64| shunt_ohms.map(|ohms| volts / ohms);
    Limits {
        offset_amperes: amperes(OFFSET_VOLTS).unwrap_or(0.0).max(OFFSET_AMPERES),
        end_amperes: shunt_volts.and_then(amperes),
        end_volts,
    }
}

/// Why a battery's power is not what the machine takes, if the chip belongs to a battery that is not discharged.
///
/// `drivers/power/supply/power_supply_hwmon.c` makes a chip of each battery.
pub(super) fn charging(folder: &Path) -> Option<String> {
    let device = folder.join("device");
    if !is_battery(folder) {
        return None;
    }
    let status = sysfs::text(&device.join("status")).unwrap_or_else(|| "Unknown".to_owned());
    (status != "Discharging").then_some(status)
}

pub(super) fn is_battery(folder: &Path) -> bool {
    sysfs::text(&folder.join("device/type")).is_some_and(|kind| kind == "Battery")
}

/// Returns the shunt that the driver assumes for a channel, in microohms: an INA3221 has one for each.
pub(super) fn shunt_micro_ohms(folder: &Path, number: u32) -> Option<u64> {
    let read = |file: String| sysfs::text(&folder.join(file))?.parse().ok();
    read(SHUNT.to_owned()).or_else(|| read(format!("shunt{number}_resistor"))).filter(|micro_ohms| *micro_ohms > 0)
}

/// Returns what to know about the shunt: a wrong value makes all power wrong by the same factor.
pub(super) fn shunt(folder: &Path, micro_ohms: u64) -> String {
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
