//! What a machine has to measure energy with, and what makes the rest of it work.
//!
//! Reads only: no chip is probed or set up. Owns the list of what is looked for; the meters themselves say why they
//! cannot be read and what to do.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::hwmon::{self, Hwmon};
use super::iio::{self, Iio};
use super::ina219::{BUS_MEND, GROUP_MEND};
use super::pmic::Pmic;
use super::rapl::Rapl;
use super::{Meter, Scope, sysfs};

/// One way to measure, or one that could be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    /// Such as `rapl` or `hwmon ina219 1-0040`.
    pub what: String,
    pub state: State,
    /// What it covers and what to know about it, one thing a line.
    pub detail: Vec<String>,
    /// What makes it work, where it does not.
    pub mend: Option<String>,
    /// The line under `[power.meters.NAME]` that uses it, where it can be used.
    pub config: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// It was read; the watts, where two readings gave them.
    Readable { watts: Option<f64> },
    /// It is there, and the daemon can use it once it is configured.
    Usable,
    /// It is not there, for that reason.
    Absent { reason: String },
    /// It is there and cannot be used, for that reason.
    Broken { reason: String },
}

/// Two readings of a meter stand this far apart, longer than a counter that works stands still.
const BETWEEN: Duration = Duration::from_millis(1_100);

/// Everything under the sysfs root `root` and in `dev`, normally `/sys` and `/dev`; `pause` waits for so long.
pub(crate) fn survey(root: &Path, dev: &Path, pause: impl FnOnce(Duration)) -> Vec<Finding> {
    let mut candidates: Vec<Candidate> = vec![Candidate {
        what: "rapl".to_owned(),
        config: "rapl = {}".to_owned(),
        meter: Box::new(Rapl::new("rapl", root, None)),
    }];
    candidates.extend(hwmon::candidates(root).into_iter().map(|selector| Candidate::hwmon(root, selector)));
    candidates.extend(iio::candidates(root).into_iter().map(|selector| Candidate::iio(root, selector)));
    let first: Vec<_> = candidates.iter_mut().map(|candidate| candidate.meter.read()).collect();
    if first.iter().any(Result::is_ok) {
        pause(BETWEEN);
    }
    let mut findings: Vec<Finding> =
        candidates.into_iter().zip(first).map(|(candidate, first)| candidate.finding(first.map(|_| ()))).collect();
    if !findings.iter().any(|finding| finding.what.starts_with("hwmon") || finding.what.starts_with("iio")) {
        findings.push(Finding {
            what: "hwmon, iio".to_owned(),
            state: State::Absent { reason: "the kernel knows no power sensor".to_owned() },
            detail: Vec::new(),
            mend: Some(
                "if an INA219 or its kin is wired to I2C bus 1 at 0x40, let the kernel's driver have it: modprobe \
                 ina2xx || modprobe ina2xx-adc; echo ina219 0x40 > /sys/bus/i2c/devices/i2c-1/new_device; or read it \
                 directly, see ina219"
                    .to_owned(),
            ),
            config: None,
        });
    }
    findings.extend(buses(root, dev));
    findings.extend(pmic(dev));
    findings
}

struct Candidate {
    what: String,
    config: String,
    meter: Box<dyn Meter>,
}

impl Candidate {
    fn hwmon(root: &Path, selector: hwmon::Selector) -> Self {
        let hwmon::Selector { chip, device, channel, .. } = &selector;
        let (mut what, mut config) = (format!("hwmon {chip}"), format!("hwmon = {{ chip = \"{chip}\""));
        if let Some(device) = device {
            what += &format!(" {device}");
            config += &format!(", device = \"{device}\"");
        }
        if let Some(channel) = channel {
            what += &format!(" channel {channel}");
            config += &format!(", channel = {channel}");
        }
        let meter = Hwmon::new("hwmon", root, selector.clone(), Scope::Board, BETWEEN);
        Self { what, config: config + " }", meter: Box::new(meter) }
    }

    fn iio(root: &Path, selector: iio::Selector) -> Self {
        let iio::Selector { chip, device, shunt_ohms, .. } = &selector;
        let at = |before: &str, after: &str| device.as_ref().map(|d| format!("{before}{d}{after}")).unwrap_or_default();
        let what = format!("iio {chip}{}", at(" ", ""));
        let config = format!(
            "iio = {{ chip = \"{chip}\"{}, shunt_ohms = {shunt_ohms} }}   # the driver's; check it on the board",
            at(", device = \"", "\"")
        );
        let meter = Iio::new("iio", root, selector.clone(), Scope::Board, BETWEEN);
        Self { what, config, meter: Box::new(meter) }
    }

    /// After a first reading, which failed or not, the second tells.
    fn finding(mut self, first: Result<(), super::MeterError>) -> Finding {
        let read = first.and_then(|()| self.meter.read());
        let (what, detail) = (self.what, self.meter.info().detail.clone());
        match read {
            Ok(reading) => {
                let state = State::Readable { watts: reading.power.map(|power| power.0) };
                Finding { what, state, detail, mend: None, config: Some(self.config) }
            }
            Err(error) => {
                let reason = error.reason();
                let state = if error.is_absence() { State::Absent { reason } } else { State::Broken { reason } };
                Finding { what, state, detail, mend: error.mend().map(str::to_owned), config: None }
            }
        }
    }
}

/// The I2C buses that an INA219 can be read on directly, and the chips on them that the kernel has named.
fn buses(root: &Path, dev: &Path) -> Vec<Finding> {
    let files = sysfs::names(dev).unwrap_or_default();
    let mut numbers: Vec<u32> = files.iter().filter_map(|file| file.strip_prefix("i2c-")?.parse().ok()).collect();
    numbers.sort_unstable();
    let finding = |what: String, state, mend: Option<&str>| {
        let mend = mend.map(str::to_owned);
        Finding { what, state, detail: Vec::new(), mend, config: None }
    };
    if numbers.is_empty() {
        let reason = format!("{}/i2c-*: there is no such bus", dev.display());
        return vec![finding("ina219".to_owned(), State::Absent { reason }, Some(BUS_MEND))];
    }
    let bus = |number: u32| {
        let what = format!("ina219 on i2c-{number}");
        let path = dev.join(format!("i2c-{number}"));
        let broken = |reason: &str| State::Broken { reason: format!("{}: {reason}", path.display()) };
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(_) => {
                let config = format!("ina219 = {{ bus = {number}, address = 0x40, shunt_ohms = 0.1 }}");
                let is_taken = root.join(format!("bus/i2c/devices/{number}-0040/driver")).is_symlink();
                let mut finding =
                    Finding { config: (!is_taken).then_some(config), ..finding(what, State::Usable, None) };
                finding.detail = named(root, number);
                finding
                    .detail
                    .push(format!("i2cdetect -y {number} lists the chips that answer; 0.1 Ohm is marked R100"));
                finding
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                finding(what, broken("permission denied"), Some(GROUP_MEND))
            }
            Err(error) => finding(what, broken(&error.to_string()), None),
        }
    };
    numbers.into_iter().map(bus).collect()
}

/// The power chip of a Raspberry Pi 5; nothing on machines that are no Raspberry Pi.
fn pmic(dev: &Path) -> Option<Finding> {
    let path = dev.join("vcio");
    path.exists().then(|| {
        let meter = Box::new(Pmic::new("pmic", &path, BETWEEN));
        let mut candidate = Candidate { what: "pmic".to_owned(), config: "pmic = {}".to_owned(), meter };
        let first = candidate.meter.read().map(|_| ());
        candidate.finding(first)
    })
}

/// The chips of an I2C bus that the kernel has a name for, each with its driver.
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
                format!("{name} at {device} belongs to the kernel's driver {driver}: not to be read directly")
            }
            None => format!("{name} at {device} has no driver: it can be read directly"),
        })
    };
    names.iter().filter_map(chip).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    fn find<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("no {what} in {findings:#?}"))
    }

    /// Why it cannot be used, and what to do.
    fn reason(finding: &Finding) -> String {
        match &finding.state {
            State::Absent { reason } | State::Broken { reason } => {
                format!("{reason}; {}", finding.mend.as_deref().unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_without_anything_is_told_how_to_get_each() {
        let tree = Tree::new(&[]);
        let findings = survey(tree.root(), &tree.path("dev"), |_| panic!("there is nothing to wait for"));
        assert_eq!(findings.len(), 3);
        assert!(findings.iter().all(|finding| matches!(finding.state, State::Absent { .. })), "{findings:#?}");
        assert!(reason(find(&findings, "rapl")).contains("run: modprobe intel_rapl_msr"));
        assert!(
            reason(find(&findings, "hwmon, iio")).contains("echo ina219 0x40 > /sys/bus/i2c/devices/i2c-1/new_device")
        );
        let ina219 = reason(find(&findings, "ina219"));
        assert!(ina219.contains("modprobe i2c-dev") && ina219.contains("dtparam=i2c_arm=on"), "{ina219}");
    }

    #[test]
    fn rapl_gives_its_power_and_a_constant_one_is_no_meter() {
        let tree = Tree::new(&[]);
        tree.zone("intel-rapl:0", "package-0", 1_000_000);
        let findings = survey(tree.root(), &tree.path("dev"), |_| {
            std::thread::sleep(Duration::from_millis(20));
            tree.energy("intel-rapl:0", 1_100_000);
        });
        let rapl = find(&findings, "rapl");
        assert!(matches!(rapl.state, State::Readable { watts: Some(watts) } if watts > 0.0), "{rapl:?}");
        assert_eq!(
            (rapl.config.as_deref(), &rapl.detail[..]),
            (Some("rapl = {}"), &["package-0 (intel-rapl:0)".to_owned()][..])
        );
        let findings = survey(tree.root(), &tree.path("dev"), std::thread::sleep);
        let rapl = find(&findings, "rapl");
        assert!(reason(rapl).contains("stuck, no change in 1.") && rapl.config.is_none(), "{rapl:?}");
        assert!(matches!(rapl.state, State::Broken { .. }), "it is there");
    }

    #[test]
    fn each_sensor_gets_the_line_that_names_it() {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon0/name", "ina219\n"),
            ("class/hwmon/hwmon0/power1_input", "2000000\n"),
            ("class/hwmon/hwmon0/shunt_resistor", "10000\n"),
            ("class/hwmon/hwmon1/name", "cpu_thermal\n"),
            ("class/hwmon/hwmon1/temp1_input", "40000\n"),
            ("class/hwmon/hwmon2/name", "ina3221\n"),
            ("class/hwmon/hwmon2/in1_input", "5000\n"),
            ("class/hwmon/hwmon2/curr1_input", "100\n"),
            ("class/hwmon/hwmon2/in2_input", "5000\n"),
            ("class/hwmon/hwmon2/curr2_input", "garbage\n"),
            ("devices/1-0041/iio:device0/name", "ina219\n"),
            ("devices/1-0041/iio:device0/in_shunt_resistor", "10000\n"),
            ("devices/1-0041/iio:device0/in_voltage0_raw", "10000\n"),
            ("devices/1-0041/iio:device0/in_voltage0_scale", "0.01\n"),
            ("devices/1-0041/iio:device0/in_voltage1_raw", "1250\n"),
            ("devices/1-0041/iio:device0/in_voltage1_scale", "4\n"),
            ("bus/iio/devices/x", ""),
        ]);
        tree.link("bus/iio/devices/iio:device0", "../../../devices/1-0041/iio:device0");
        let findings = survey(tree.root(), &tree.path("dev"), |_| ());
        let line = |what| find(&findings, what).config.clone().unwrap();
        assert_eq!(line("hwmon ina219"), "hwmon = { chip = \"ina219\" }");
        assert!(find(&findings, "hwmon ina219").detail.join("; ").contains("echo 100000 > "), "{findings:#?}");
        assert_eq!(line("hwmon ina3221 channel 1"), "hwmon = { chip = \"ina3221\", channel = 1 }");
        assert!(reason(find(&findings, "hwmon ina3221 channel 2")).contains("curr2_input: read \"garbage\""));
        assert!(
            line("iio ina219 1-0041")
                .starts_with("iio = { chip = \"ina219\", device = \"1-0041\", shunt_ohms = 0.01 }")
        );
        assert_eq!(find(&findings, "iio ina219 1-0041").state, State::Readable { watts: Some(50.0) });
        assert_eq!(findings.len(), 6, "{findings:#?}");
    }

    #[test]
    fn a_bus_tells_which_of_its_chips_belong_to_the_kernel() {
        let tree = Tree::new(&[
            ("dev/i2c-1", ""),
            ("dev/vcio", ""),
            ("bus/i2c/devices/1-0040/name", "ina219\n"),
            ("bus/i2c/devices/1-0041/name", "ina226\n"),
            ("bus/i2c/devices/11-0041/name", "other\n"),
            ("bus/i2c/devices/i2c-1/name", "bcm2835\n"),
        ]);
        tree.link("bus/i2c/devices/1-0041/driver", "../../drivers/ina2xx");
        let findings = survey(tree.root(), &tree.path("dev"), |_| ());
        let bus = find(&findings, "ina219 on i2c-1");
        assert_eq!((&bus.state, bus.detail.len()), (&State::Usable, 3));
        assert_eq!(bus.detail[0], "ina219 at 1-0040 has no driver: it can be read directly");
        assert!(bus.detail[1].starts_with("ina226 at 1-0041 belongs to the kernel's driver ina2xx"), "{bus:?}");
        assert!(reason(find(&findings, "pmic")).contains("dev/vcio: Inappropriate ioctl"), "{findings:#?}");
        assert_eq!(bus.config.as_deref(), Some("ina219 = { bus = 1, address = 0x40, shunt_ohms = 0.1 }"));
        tree.link("bus/i2c/devices/1-0040/driver", "../../drivers/ina2xx_adc");
        let findings = survey(tree.root(), &tree.path("dev"), |_| ());
        assert_eq!(find(&findings, "ina219 on i2c-1").config, None, "that address is not to be read directly");
    }
}
