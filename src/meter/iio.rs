//! The IIO meter: an INA219, INA226 or similar chip through the kernel's driver `ina2xx-adc`, as Debian's kernels have it.
//!
//! Owns the choice of the device and its scales. Power is voltage times current, computed here, so that neither the
//! driver's shunt value matters, nor an overflow in the chip's arithmetic (OVF), which the driver does not show. Files stay
//! open and a read does not allocate. Sources: `drivers/iio/adc/ina2xx-adc.c` (channel 0 is the shunt, 1 the bus),
//! `Documentation/ABI/testing/sysfs-bus-iio` (raw times scale is mV).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::integral::{Counted, Integral};
use super::snapshots::Snapshots;
use super::survey::{BETWEEN, Machine, Surveyed};
use super::sysfs::{self, Attribute};
use super::{
    Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scope, Surroundings, check_scope, midpoint,
    shunt,
};
use crate::schema::{Checker, Key, table};
use crate::sys::iio::Device;
use crate::units::MonoTime;

const READ_FIX: &str = "IIO values are normally readable for all users; run chmod a+r on this file";

/// The shunt register's range at PGA /8 for an INA219; an INA226 ends at 32767.
const INA219_RANGE: f64 = 32_000.0;
const INA226_RANGE: f64 = 32_767.0;

table! {
    /// An INA219, INA226 or a similar chip that the kernel reads with its driver ina2xx-adc.
    pub struct IioKeys {
        /// The name that the kernel gives the chip.
        pub chip: String, example("\"ina219\"");
        /// The device behind the chip, such as "1-0040" for address 0x40 on I2C bus 1, if several chips have that name.
        pub device: Option<String>, otherwise("the only one"), example("\"1-0040\"");
        /// The shunt resistor on the board. A resistor of 0.1 Ohm is marked R100.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.1");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl MeterKind for IioKeys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        Box::new(Iio::new(name, &surroundings.sysfs, self.clone(), surroundings.period))
    }
}

/// Returns the power sensors that IIO shows.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    let surveyed = |keys: IioKeys| {
        let IioKeys { chip, device, shunt_ohms, .. } = &keys;
        let at = |before: &str, after: &str| device.as_ref().map(|d| format!("{before}{d}{after}")).unwrap_or_default();
        let what = format!("iio {chip}{}", at(" ", ""));
        let config = format!(
            "iio = {{ chip = \"{chip}\"{}, shunt_ohms = {shunt_ohms} }}   # as set in the driver; check it on the board",
            at(", device = \"", "\"")
        );
        let meter = Iio::new("iio", machine.sysfs, keys, BETWEEN);
        Surveyed::meter(what, config, meter)
    };
    candidates(machine.sysfs).into_iter().map(surveyed).collect()
}

/// Returns the power sensors under the sysfs root `root`, each with the shunt that its driver assumes.
fn candidates(root: &Path) -> Vec<IioKeys> {
    let devices = root.join("bus/iio/devices");
    let mut names = sysfs::names(&devices).unwrap_or_default();
    names.sort();
    let folders = names.iter().map(|name| devices.join(name));
    let candidate = |folder: PathBuf| {
        let shunt = sysfs::text(&folder.join("in_shunt_resistor"))?;
        // Older kernels show microohms.
        let unit = if shunt.contains('.') { 1.0 } else { 1e-6 };
        let shunt_ohms = shunt.parse::<f64>().ok()? * unit;
        let found = Device::at(&folder)?;
        let (device, chip) = (parent(&found), found.name);
        Some(IioKeys { chip, device, shunt_ohms, shunt_tolerance: 0.0, scope: Scope::Board })
    };
    folders.filter_map(candidate).collect()
}

/// Energy of what flows through the shunt.
#[derive(Debug)]
pub struct Iio {
    info: MeterInfo,
    /// The kernel's buses; the devices are in `iio` and `i2c` below it.
    buses: PathBuf,
    selector: IioKeys,
    channels: Option<Channels>,
    /// Between two reads.
    period: Duration,
    power: Integral,
}

#[derive(Debug)]
struct Channels {
    shunt: Attribute,
    bus: Attribute,
    shunt_volts_a_step: f64,
    bus_volts_a_step: f64,
    /// The largest raw value of the shunt's channel.
    range: f64,
    snapshots: Snapshots,
    last: Option<Reading>,
}

impl Iio {
    /// Creates a meter on the device that `selector` names under the sysfs root `root`, normally `/sys`; the first read
    /// looks for it. `period` is the time between reads, `scope` what the supply with the shunt feeds.
    pub fn new(name: &str, root: &Path, selector: IioKeys, period: Duration) -> Self {
        Self {
            info: MeterInfo {
                name: name.to_owned(),
                kind: "iio",
                scope: selector.scope,
                estimated: false,
                detail: Vec::new(),
                basis: shunt::basis(selector.shunt_ohms),
            },
            buses: root.join("bus"),
            selector,
            channels: None,
            period,
            power: Integral::new(period),
        }
    }

    fn read_with(&mut self, mut clock: impl FnMut() -> MonoTime) -> Result<Reading, MeterError> {
        let channels = match self.channels.take() {
            Some(channels) => channels,
            None => {
                self.power.interrupt();
                self.discover()?
            }
        };
        // A device whose files fail is dropped here and looked for again: one that comes back has other files.
        let before = clock();
        let (flow, raw) = match channels.flow(self.selector.shunt_ohms, before) {
            Ok(flow) => flow,
            Err(error @ MeterError::Overrange { .. }) => {
                self.power.refuse(before, &error);
                self.channels.insert(channels).last = None;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let now = midpoint(before, clock());
        let channels = self.channels.insert(channels);
        let place = || (channels.shunt.path().display().to_string(), format!("{} A", flow.amperes));
        let (seen, conversion) = (channels.snapshots.poll(now, raw), channels.snapshots.conversion());
        let counted = self.power.count((now, flow.watts), (seen, conversion), self.period, place);
        let Some(Counted { time, joules, power }) = counted.inspect_err(|_| channels.last = None)? else {
            let waiting = MeterError::NotYet { reason: "the sensor has not converted yet" };
            return channels.last.ok_or(waiting);
        };
        let accuracy = channels.accuracy(&flow, &self.selector);
        let reading = Reading {
            time,
            joules,
            power: Some(power),
            volts: Some(flow.volts),
            amperes: Some(flow.amperes),
            scope: self.info.scope,
            accuracy,
        };
        channels.last = Some(reading);
        Ok(reading)
    }

    fn discover(&mut self) -> Result<Channels, MeterError> {
        let folder = find(&self.buses, &self.selector)?;
        let open = |file: &str| Attribute::open(folder.join(file), READ_FIX);
        let number = |file: &str| open(file)?.read::<f64>("a number");
        let seconds = |file: &str| number(file).ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let times = [seconds("in_voltage0_integration_time"), seconds("in_voltage1_integration_time")];
        let averages = number("in_oversampling_ratio").unwrap_or(1.0).clamp(1.0, 1024.0);
        let cycle = times.into_iter().flatten().sum::<Duration>().mul_f64(averages);
        // Newer kernels set the PGA by its gain, 1/8 to 1 (`ina219_set_vshunt_pga_gain`); older leave it at 1/8.
        let gain = number("in_voltage0_hardwaregain").ok().filter(|gain| *gain > 0.0).unwrap_or(0.125);
        let is_ina219 = matches!(self.selector.chip.as_str(), "ina219" | "ina220");
        let channels = Channels {
            shunt: open("in_voltage0_raw")?,
            bus: open("in_voltage1_raw")?,
            shunt_volts_a_step: number("in_voltage0_scale")? / 1e3,
            bus_volts_a_step: number("in_voltage1_scale")? / 1e3,
            range: if is_ina219 { INA219_RANGE * 0.125 / gain } else { INA226_RANGE },
            // One conversion of both voltages with all averages.
            snapshots: Snapshots::new(Some(cycle), Duration::ZERO),
            last: None,
        };
        let range_amperes = channels.range * channels.shunt_volts_a_step / self.selector.shunt_ohms;
        self.info.detail = vec![
            format!("{} {}: in_voltage0 across {} Ohm", self.selector.chip, folder.display(), self.selector.shunt_ohms),
            format!("up to {range_amperes:.3} A; one conversion takes {:.2} ms", cycle.as_secs_f64() * 1e3),
        ];
        Ok(channels)
    }
}

impl Channels {
    fn accuracy(&self, flow: &shunt::Flow, selector: &IioKeys) -> Accuracy {
        let quantum = flow.quantum(self.shunt_volts_a_step / selector.shunt_ohms, self.bus_volts_a_step);
        let resolution = Resolution::Sampled { conversion: self.snapshots.conversion(), quantum };
        Accuracy { resolution, scale: shunt::scale(selector.shunt_tolerance) }
    }

    /// Returns the flow, and the raw shunt voltage, as read at `now`.
    fn flow(&self, shunt_ohms: f64, now: MonoTime) -> Result<(shunt::Flow, i64), MeterError> {
        let bus: f64 = self.bus.read("a raw bus voltage")?;
        let shunt: f64 = self.shunt.read("a raw shunt voltage")?;
        let (shunt_volts, bus_volts) = (shunt * self.shunt_volts_a_step, bus * self.bus_volts_a_step);
        let path = self.shunt.path();
        let text = || format!("{:.2} mV across the shunt at {bus_volts:.3} V", shunt_volts * 1e3);
        let invalid = |expected| MeterError::Invalid { path: path.to_owned(), text: text(), expected };
        if shunt.abs() >= self.range {
            let expected = "less than the end of the range; the shunt is too large for this current";
            return Err(MeterError::overrange(path.display(), &text(), expected, now));
        }
        let flow = shunt::flow(shunt_volts, shunt_ohms, bus_volts).map_err(invalid)?;
        Ok((flow, shunt as i64))
    }
}

impl Meter for Iio {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_with(MonoTime::now)
    }
}

/// Returns the folder of the only device that matches.
fn find(buses: &Path, selector: &IioKeys) -> Result<PathBuf, MeterError> {
    let devices = buses.join("iio/devices");
    let names = sysfs::sorted_names(&devices)?;
    let mut seen = Vec::new();
    let mut fitting = Vec::new();
    for folder in names.iter().filter(|name| name.starts_with("iio:device")).map(|name| devices.join(name)) {
        let Some(found) = Device::at(&folder) else { continue };
        let (name, device) = (&found.name, parent(&found));
        let line = format!("{name} ({})", device.as_deref().unwrap_or("no device"));
        if *name == selector.chip && selector.device.as_ref().is_none_or(|wanted| device.as_ref() == Some(wanted)) {
            fitting.push((folder, line.clone()));
        }
        seen.push(line);
    }
    let path = devices;
    let at = selector.device.as_ref().map(|device| format!(" at {device}")).unwrap_or_default();
    match fitting.as_slice() {
        [(folder, _)] => Ok(folder.clone()),
        [] => Err(MeterError::Absent {
            path,
            reason: format!(
                "no device {:?}{at}; found: {}",
                selector.chip,
                if seen.is_empty() { "none".to_owned() } else { seen.join(", ") }
            ),
            fix: bind_fix(&buses.join("i2c"), selector),
        }),
        several => {
            let several: Vec<&str> = several.iter().map(|(_, line)| line.as_str()).collect();
            Err(MeterError::Ambiguous {
                path,
                reason: format!("several devices {:?}: {}", selector.chip, several.join(", ")),
                fix: "name one by device".to_owned(),
            })
        }
    }
}

/// Returns the I2C device that an IIO device belongs to.
fn parent(device: &Device) -> Option<String> {
    device.parent().filter(|parent| parent.contains('-'))
}

/// Returns how to attach the kernel's driver to the chip (`Documentation/i2c/instantiating-devices.rst`). `new_device`
/// refuses an address that already has a device; then only the driver is missing. Its name is the module's, with an
/// underscore.
fn bind_fix(i2c: &Path, selector: &IioKeys) -> String {
    let chip = &selector.chip;
    let wanted = selector.device.as_deref().unwrap_or("1-0040");
    let device = i2c.join("devices").join(wanted);
    if let Ok(driver) = std::fs::read_link(device.join("driver")) {
        let driver = driver.file_name().unwrap_or_default().to_string_lossy();
        return match driver.as_ref() {
            "ina2xx" => {
                format!(
                    "the kernel's driver ina2xx uses it; configure hwmon = {{ chip = \"{chip}\", device = \"{wanted}\" }}"
                )
            }
            other => format!("the kernel's driver {other} uses the device there; check the name"),
        };
    }
    if !device.exists() {
        let (bus, address) = wanted.split_once('-').unwrap_or(("1", "0040"));
        let address = address.trim_start_matches('0');
        return format!(
            "run: sudo modprobe ina2xx-adc && echo {chip} 0x{address} | sudo tee /sys/bus/i2c/devices/i2c-{bus}/new_device"
        );
    }
    if i2c.join("drivers/ina2xx_adc").exists() {
        return format!("run: echo {wanted} | sudo tee /sys/bus/i2c/drivers/ina2xx_adc/bind");
    }
    "run: sudo modprobe ina2xx-adc".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use crate::units::Joules;

    const PERIOD: Duration = Duration::from_millis(100);
    const DEVICE: &str = "devices/i2c-1/1-0040/iio:device0";

    /// As Debian 12's kernel shows an INA219: 5.000 V, and 60 mV across the shunt.
    fn tree() -> Tree {
        let tree = Tree::new(&[("bus/iio/devices/trigger0/name", "timer\n")]);
        for (file, text) in [
            ("name", "ina219\n"),
            ("in_voltage0_raw", "6000\n"),
            ("in_voltage0_scale", "0.010000000\n"),
            ("in_voltage0_integration_time", "0.000532\n"),
            ("in_voltage1_raw", "1250\n"),
            ("in_voltage1_scale", "4.000000000\n"),
            ("in_voltage1_integration_time", "0.000532\n"),
            ("in_shunt_resistor", "0.010000\n"),
        ] {
            tree.write(&format!("{DEVICE}/{file}"), text);
        }
        tree.link("bus/iio/devices/iio:device0", "../../../devices/i2c-1/1-0040/iio:device0");
        tree
    }

    fn selector() -> IioKeys {
        IioKeys { chip: "ina219".to_owned(), device: None, shunt_ohms: 0.1, shunt_tolerance: 0.01, scope: Scope::Board }
    }

    fn meter(tree: &Tree, selector: IioKeys) -> Iio {
        Iio::new("board", tree.root(), selector, PERIOD)
    }

    fn read(meter: &mut Iio, ms: u64) -> Result<Reading, MeterError> {
        meter.read_with(|| MonoTime(ms * 1_000_000))
    }

    fn close_to(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_configured_shunt_counts_not_the_drivers() {
        let tree = tree();
        let mut meter = meter(&tree, selector());
        let first = read(&mut meter, 1000).unwrap();
        assert!(close_to(first.power.unwrap().0, 3.0) && close_to(first.amperes.unwrap(), 0.6));
        assert_eq!((first.joules, first.volts, first.time), (Joules(0.0), Some(5.0), MonoTime(999_468_000)));
        tree.write(&format!("{DEVICE}/in_voltage0_raw"), "10000\n");
        assert!(close_to(read(&mut meter, 1100).unwrap().joules.0, 0.4));
        let detail = meter.info().detail.join("; ");
        assert!(detail.contains("across 0.1 Ohm; up to 3.200 A; one conversion takes 1.06 ms"), "{detail}");
    }

    /// Older kernels show the register unshifted, with the scale to match, and no gain.
    #[test]
    fn scales_are_the_drivers() {
        let tree = tree();
        tree.write(&format!("{DEVICE}/in_voltage1_raw"), "10002\n");
        tree.write(&format!("{DEVICE}/in_voltage1_scale"), "0.500000000\n");
        assert!(close_to(read(&mut meter(&tree, selector()), 0).unwrap().volts.unwrap(), 5.001));
        tree.write(&format!("{DEVICE}/in_voltage0_hardwaregain"), "1\n");
        tree.write(&format!("{DEVICE}/in_voltage0_raw"), "4000\n");
        let error = read(&mut meter(&tree, selector()), 0).unwrap_err().to_string();
        assert!(error.contains("in_voltage0_raw: read \"40.00 mV") && error.contains("end of the range"), "{error}");
    }

    #[test]
    fn current_backwards_and_garbage_are_errors_with_the_path() {
        let tree = tree();
        for (text, part) in [("-700\n", "\"-7.00 mV across the shunt"), ("N/A\n", "read \"N/A\", expected a raw shunt")]
        {
            tree.write(&format!("{DEVICE}/in_voltage0_raw"), text);
            let error = read(&mut meter(&tree, selector()), 0).unwrap_err();
            assert!(matches!(error, MeterError::Invalid { .. }) && error.to_string().contains(part), "{error}");
            assert!(error.to_string().contains("iio:device0/in_voltage0_raw: "), "{error}");
        }
        tree.remove(&format!("{DEVICE}/in_voltage0_scale"));
        let error = read(&mut meter(&tree, selector()), 0).unwrap_err();
        assert!(error.to_string().contains("in_voltage0_scale: no such file"), "{error}");
    }

    #[test]
    fn absent_lists_what_there_is_and_says_how_to_bind_the_driver() {
        let tree = tree();
        let other = IioKeys { chip: "ina226".to_owned(), device: Some("0-0041".to_owned()), ..selector() };
        let error = read(&mut meter(&tree, other), 0).unwrap_err();
        assert!(matches!(error, MeterError::Absent { .. }));
        assert!(
            error.to_string().ends_with(
                "no device \"ina226\" at 0-0041; found: ina219 (1-0040); run: sudo modprobe ina2xx-adc && echo ina226 0x41 | sudo tee \
                 /sys/bus/i2c/devices/i2c-0/new_device"
            ),
            "{error}"
        );
        let error = read(&mut meter(&Tree::new(&[]), selector()), 0).unwrap_err();
        assert!(error.to_string().contains("found: none"), "{error}");
    }

    #[test]
    fn a_chip_without_its_driver_gets_it() {
        let device = "bus/i2c/devices/1-0040";
        let tree = Tree::new(&[(&format!("{device}/name"), "ina219\n")]);
        let fix = || read(&mut meter(&tree, selector()), 0).unwrap_err().to_string();
        assert!(fix().ends_with("found: none; run: sudo modprobe ina2xx-adc"), "{}", fix());
        tree.write("bus/i2c/drivers/ina2xx_adc/bind", "");
        assert!(fix().ends_with("; run: echo 1-0040 | sudo tee /sys/bus/i2c/drivers/ina2xx_adc/bind"), "{}", fix());
        for (driver, end) in [
            ("ina2xx", "driver ina2xx uses it; configure hwmon = { chip = \"ina219\", device = \"1-0040\" }"),
            ("at24", "driver at24 uses the device there; check the name"),
        ] {
            tree.link(&format!("{device}/driver"), &format!("../../drivers/{driver}"));
            assert!(fix().ends_with(end), "{}", fix());
            tree.remove(&format!("{device}/driver"));
        }
    }

    #[test]
    fn two_of_a_kind_need_the_device() {
        let tree = tree();
        tree.write("devices/i2c-1/1-0041/iio:device1/name", "ina219\n");
        tree.link("bus/iio/devices/iio:device1", "../../../devices/i2c-1/1-0041/iio:device1");
        let error = read(&mut meter(&tree, selector()), 0).unwrap_err();
        assert!(matches!(error, MeterError::Ambiguous { .. }));
        assert!(error.to_string().contains("ina219 (1-0040), ina219 (1-0041)"), "{error}");
        let first = IioKeys { device: Some("1-0040".to_owned()), ..selector() };
        assert!(read(&mut meter(&tree, first), 0).is_ok());
    }

    /// A file that was removed stays readable here where the kernel says ENODEV, so the loss is shown by an empty one.
    #[test]
    fn unplugged_and_back_under_another_number() {
        let tree = tree();
        let mut meter = meter(&tree, selector());
        read(&mut meter, 1000).unwrap();
        assert!(close_to(read(&mut meter, 1100).unwrap().joules.0, 0.3));
        tree.write(&format!("{DEVICE}/in_voltage1_raw"), "");
        assert!(matches!(read(&mut meter, 1200), Err(MeterError::Invalid { .. })));
        tree.write(&format!("{DEVICE}/in_voltage1_raw"), "1250\n");
        std::fs::rename(tree.path(DEVICE), tree.path("devices/i2c-1/1-0040/iio:device9")).unwrap();
        assert!(matches!(read(&mut meter, 1300), Err(MeterError::Absent { .. })));
        tree.remove("bus/iio/devices/iio:device0");
        tree.link("bus/iio/devices/iio:device9", "../../../devices/i2c-1/1-0040/iio:device9");
        assert!(close_to(read(&mut meter, 60_000).unwrap().joules.0, 0.3), "what was not seen is not made up");
        assert!(close_to(read(&mut meter, 60_100).unwrap().joules.0, 0.6));
    }
}
