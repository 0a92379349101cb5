//! What the kinds of these chips do with their keys in the same way, and what this machine has for them.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::super::survey::{Finding, Machine, State, Surveyed};
use super::super::{Device, Meter, MeterKind, Scope, Surroundings, check_scope, sysfs};
use super::{Chip, Ina, Model, Place};
use crate::schema::{Checker, Key};
use crate::source::Exclusive;
use crate::sys::i2c::{BUS_FIX, RULE};
use crate::sys::permission::permit;

/// The keys of one kind of chip.
pub(crate) trait ChipKeys {
    const MODEL: &Model;

    fn place(&self) -> Place;

    /// Returns the channel that is read; `None` if the chip has one only.
    fn channel(&self) -> Option<u8> {
        None
    }

    fn scope(&self) -> Scope;

    /// Checks the keys that other chips do not have.
    fn check_own(&self, _key: &Key, _checker: &mut Checker) {}

    fn chip(&self, surroundings: &Surroundings) -> Box<dyn Chip>;
}

impl<T: ChipKeys> MeterKind for T {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope(), checker);
        check_address(T::MODEL, self.place().address, key, checker);
        self.check_own(key, checker);
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        let meter = Ina::new(name, self.chip(surroundings), self.place(), self.scope(), surroundings);
        Box::new(meter.channel(self.channel()))
    }

    fn device(&self, dev: &Path) -> Option<Device> {
        Some(bus_of(self.place(), dev))
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![chip_of(self.place(), self.channel())]
    }
}

fn check_address(model: &Model, address: u16, key: &Key, checker: &mut Checker) {
    let Model { name, addresses: [lowest, highest], .. } = model;
    if !(*lowest..=*highest).contains(&address) {
        let message =
            format!("{address:#04x} is not an address of an {name}; they are {lowest:#04x} to {highest:#04x}");
        checker.problem(&key.child("address"), message);
    }
}

/// Checks the highest current, if the chip measures up to `end_volts` across its shunt.
pub(in crate::meter) fn check_amperes(
    amperes: Option<f64>,
    shunt_ohms: f64,
    end_volts: f64,
    key: &Key,
    checker: &mut Checker,
) {
    // In whole microamperes, as 0.32 / 0.1 is a little less than 3.2.
    let most_amperes = (end_volts / shunt_ohms * 1e6).round() / 1e6;
    if let Some(amperes) = amperes.filter(|amperes| !(1e-6..=most_amperes).contains(amperes)) {
        let message = format!(
            "{amperes} is out of range; the chip measures {end_volts} V across the shunt, here {most_amperes} A"
        );
        checker.problem(&key.child("max_amperes"), message);
    }
}

/// Returns the bus of a chip.
fn bus_of(place: Place, dev: &Path) -> Device {
    Device {
        path: dev.join(format!("i2c-{}", place.bus)),
        says: "its bus exists; the chips on it were not probed",
        says_absent: "no such bus",
        fix_absent: BUS_FIX,
        rule: RULE,
    }
}

/// Returns the chip, or one of its channels, as what only one meter can read: reading clears the chip's flags. The name is that of
/// the source `i2c`.
fn chip_of(place: Place, channel: Option<u8>) -> Exclusive {
    let (name, key) = (format!("I2C {} {:#04x}", place.path().display(), place.address), "address");
    Exclusive { which: channel.map(|channel| channel.to_string()), ..Exclusive::new(name, key) }
}

/// Returns the I2C buses on which a chip can be read directly, with the chips on them that the kernel knows.
pub(in crate::meter) fn buses(machine: &Machine<'_>) -> Vec<Surveyed> {
    let numbers = numbers(machine.dev);
    if numbers.is_empty() {
        let reason = format!("{}/i2c-*: no such bus", machine.dev.display());
        let absent = Finding::new("ina219", State::Absent { reason });
        return vec![Surveyed::Finding(Finding { fix: Some(BUS_FIX.to_owned()), ..absent })];
    }
    numbers.into_iter().map(|number| Surveyed::Finding(bus(machine, number))).collect()
}

/// Returns the chips of a model that the kernel knows and has no driver for, on buses that can be used; `config` are the
/// kind's keys behind `bus` and `address`.
pub(in crate::meter) fn known(machine: &Machine<'_>, model: &Model, config: &str) -> Vec<Surveyed> {
    let mut found = Vec::new();
    for number in numbers(machine.dev) {
        let is_free = |chip: &Known| chip.name == model.kind && chip.driver.is_none();
        for chip in chips(machine.sysfs, number).into_iter().filter(is_free) {
            let (kind, address) = (model.kind, chip.address);
            let usable = State::Usable { says: "can be used" };
            let what = format!("{kind} on i2c-{number} at {address:#04x}");
            let line = format!("{kind} = {{ bus = {number}, address = {address:#04x}{config} }}");
            found.push(Surveyed::Finding(Finding { config: Some(line), ..Finding::new(what, usable) }));
        }
    }
    found
}

/// Returns the numbers of the I2C buses.
fn numbers(dev: &Path) -> Vec<u32> {
    let files = sysfs::names(dev).unwrap_or_default();
    let mut numbers: Vec<u32> = files.iter().filter_map(|file| file.strip_prefix("i2c-")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn bus(machine: &Machine<'_>, number: u32) -> Finding {
    let Machine { sysfs: root, dev } = *machine;
    let path = dev.join(format!("i2c-{number}"));
    let of = |state| Finding::new(format!("ina219 on i2c-{number}"), state);
    let broken = |reason: &str| State::Broken { reason: format!("{}: {reason}", path.display()) };
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => {
            let config = format!("ina219 = {{ bus = {number}, address = 0x40, shunt_ohms = 0.1 }}");
            let is_taken = root.join(format!("bus/i2c/devices/{number}-0040/driver")).is_symlink();
            let mut detail: Vec<String> = chips(root, number).iter().map(|chip| chip.describe(number)).collect();
            detail.push(format!("i2cdetect -y {number} lists the chips that respond; a 0.1 Ohm shunt is marked R100"));
            detail.push("an INA226, INA228, INA260 or INA3221 has its own kind of meter, such as ina226".to_owned());
            let usable = of(State::Usable { says: "can be used" });
            Finding { config: (!is_taken).then_some(config), detail, ..usable }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding { fix: Some(permit(&path, RULE)), ..of(broken("permission denied")) }
        }
        Err(error) => of(broken(&error.to_string())),
    }
}

/// A chip that the kernel knows.
struct Known {
    address: u16,
    name: String,
    driver: Option<String>,
}

impl Known {
    fn describe(&self, bus: u32) -> String {
        let Self { address, name, driver } = self;
        match driver {
            Some(driver) => {
                format!(
                    "{name} at {bus}-{address:04x} is used by the kernel's driver {driver}: do not read it directly"
                )
            }
            None => format!("{name} at {bus}-{address:04x} has no driver: it can be read directly"),
        }
    }
}

/// Returns the chips of an I2C bus that the kernel knows, each with its driver.
fn chips(root: &Path, bus: u32) -> Vec<Known> {
    let devices = root.join("bus/i2c/devices");
    let mut names = sysfs::names(&devices).unwrap_or_default();
    names.sort();
    let chip = |device: &String| {
        let address = u16::from_str_radix(device.strip_prefix(&format!("{bus}-"))?, 16).ok()?;
        let folder = devices.join(device);
        let name = sysfs::text(&folder.join("name"))?;
        let driver = std::fs::read_link(folder.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).map(|driver| driver.to_string_lossy().into_owned());
        Some(Known { address, name, driver })
    };
    names.iter().filter_map(chip).collect()
}
