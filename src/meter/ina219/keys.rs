//! What the configuration says of an INA219 that edgewatt reads itself, and what this machine has for it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::survey::{Finding, Machine, State, Surveyed};
use super::super::{Device, Meter, MeterKind, Scope, Surroundings, check_scope, sysfs};
use super::{AVERAGES, Chip, Ina219, Setup};
use crate::schema::{Checker, Key, table};
use crate::sys::i2c::{BUS_FIX, RULE};
use crate::sys::permission::permit;

/// The largest shunt voltage that the chip measures (datasheet SBOS448G, table 4).
const SHUNT_VOLTS: f64 = 0.32;
/// The highest bus voltage that it withstands.
const BUS_VOLTS: f64 = 26.0;
/// The lowest and the highest address that its two pins can set.
const ADDRESSES: [u16; 2] = [0x40, 0x4f];

table! {
    /// An INA219 that no kernel driver uses, read directly over /dev/i2c-N.
    pub struct Ina219Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's two address pins set.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x4f");
        /// The shunt resistor on the board. A resistor of 0.1 Ohm is marked R100.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.1");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// The highest current, which chooses the chip's range.
        pub max_amperes: Option<f64>, unit("A"), otherwise("the widest range, 0.32 V across the shunt"), example("2.0");
        /// The highest bus voltage, which chooses the range of 16 V or 32 V. The chip withstands 26 V.
        pub max_volts: f64 = 16.0, range(0.1, BUS_VOLTS), unit("V");
        /// The number of conversions that are averaged in one reading.
        pub averages: Option<u16>, otherwise("as many as fit between two readings"),
            limits("1, 2, 4, 8, 16, 32, 64 or 128"), example("64");
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl Ina219Keys {
    fn chip(&self, period: Duration) -> Chip {
        let averages = self.averages.unwrap_or_else(|| Setup::averages_within(period));
        let shunt_volts = self.max_amperes.unwrap_or(f64::INFINITY) * self.shunt_ohms;
        let setup = Setup::new(shunt_volts, self.max_volts, averages);
        let (bus, address) = (self.bus, self.address);
        Chip { bus, address, shunt_ohms: self.shunt_ohms, shunt_tolerance: self.shunt_tolerance, setup }
    }
}

impl MeterKind for Ina219Keys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
        let [lowest, highest] = ADDRESSES;
        if !(lowest..=highest).contains(&self.address) {
            let message = format!(
                "{:#04x} is not an address of an INA219; they are {lowest:#04x} to {highest:#04x}",
                self.address
            );
            checker.problem(&key.child("address"), message);
        }
        // In whole microamperes, as 0.32 / 0.1 is a little less than 3.2.
        let most_amperes = (SHUNT_VOLTS / self.shunt_ohms * 1e6).round() / 1e6;
        if let Some(amperes) = self.max_amperes.filter(|amperes| !(1e-6..=most_amperes).contains(amperes)) {
            let message = format!(
                "{amperes} is out of range; the chip measures {SHUNT_VOLTS} V across the shunt, here {most_amperes} A"
            );
            checker.problem(&key.child("max_amperes"), message);
        }
        if let Some(averages) = self.averages.filter(|averages| !AVERAGES.contains(averages)) {
            let message = format!("{averages} is not offered; use 1, 2, 4, 8, 16, 32, 64 or 128");
            checker.problem(&key.child("averages"), message);
        }
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        let period = surroundings.period;
        Box::new(Ina219::new(name, &surroundings.sysfs, self.chip(period), self.scope, period))
    }

    fn device(&self, dev: &Path) -> Option<Device> {
        Some(Device {
            path: dev.join(format!("i2c-{}", self.bus)),
            says: "its bus exists; the chips on it were not probed",
            says_absent: "no such bus",
            fix_absent: BUS_FIX,
            rule: RULE,
        })
    }
}

/// Returns the I2C buses on which an INA219 can be read directly, with the chips on them that the kernel knows.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    let Machine { sysfs: root, dev } = *machine;
    let files = sysfs::names(dev).unwrap_or_default();
    let mut numbers: Vec<u32> = files.iter().filter_map(|file| file.strip_prefix("i2c-")?.parse().ok()).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        let reason = format!("{}/i2c-*: no such bus", dev.display());
        let absent = Finding::new("ina219", State::Absent { reason });
        return vec![Surveyed::Finding(Finding { fix: Some(BUS_FIX.to_owned()), ..absent })];
    }
    numbers.into_iter().map(|number| Surveyed::Finding(bus(root, dev, number))).collect()
}

fn bus(root: &Path, dev: &Path, number: u32) -> Finding {
    let path = dev.join(format!("i2c-{number}"));
    let of = |state| Finding::new(format!("ina219 on i2c-{number}"), state);
    let broken = |reason: &str| State::Broken { reason: format!("{}: {reason}", path.display()) };
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => {
            let config = format!("ina219 = {{ bus = {number}, address = 0x40, shunt_ohms = 0.1 }}");
            let is_taken = root.join(format!("bus/i2c/devices/{number}-0040/driver")).is_symlink();
            let mut detail = named(root, number);
            detail.push(format!("i2cdetect -y {number} lists the chips that respond; a 0.1 Ohm shunt is marked R100"));
            let usable = of(State::Usable { says: "can be used" });
            Finding { config: (!is_taken).then_some(config), detail, ..usable }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding { fix: Some(permit(&path, RULE)), ..of(broken("permission denied")) }
        }
        Err(error) => of(broken(&error.to_string())),
    }
}

/// Returns the chips of an I2C bus that the kernel knows, each with its driver.
fn named(root: &Path, bus: u32) -> Vec<String> {
    let devices = root.join("bus/i2c/devices");
    let mut names = sysfs::names(&devices).unwrap_or_default();
    names.sort();
    let chip = |device: &String| {
        let folder = devices.join(device.strip_prefix(&format!("{bus}-")).map(|_| device)?);
        let name = sysfs::text(&folder.join("name"))?;
        let driver = std::fs::read_link(folder.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).map(|driver| driver.to_string_lossy().into_owned());
        Some(match driver {
            Some(driver) => {
                format!("{name} at {device} is used by the kernel's driver {driver}: do not read it directly")
            }
            None => format!("{name} at {device} has no driver: it can be read directly"),
        })
    };
    names.iter().filter_map(chip).collect()
}
