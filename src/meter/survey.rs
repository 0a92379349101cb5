//! Finds what a machine can measure energy with, and what makes the rest work.
//!
//! Only reads: it does not probe or configure any chip. Each kind of meter says in its own file what to look for; the
//! meters themselves say why they cannot be read and what to do.

use std::time::Duration;

use super::{Meter, MeterConfig, MeterError, Reading, learn};
pub use crate::sys::Machine;

/// What a kind of meter has found.
pub enum Surveyed {
    /// A meter to be read.
    Meter(Candidate),
    Finding(Finding),
}

/// A meter that may be usable: what it is called, the line of configuration that uses it.
pub struct Candidate {
    what: String,
    config: String,
    meter: Box<dyn Meter>,
}

/// One meter that the machine has, or could have.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Such as `rapl` or `hwmon ina219 1-0040`.
    pub what: String,
    pub state: State,
    /// What it covers and what to know about it, one item a line.
    pub detail: Vec<String>,
    /// What makes it work, if it does not.
    pub fix: Option<String>,
    /// The line under `[power.meters.NAME]` that uses it, if it can be used.
    pub config: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It was read; with the watts, if two readings show them.
    Readable { watts: Option<f64> },
    /// It exists, and the daemon can use it once it is configured.
    Usable { says: &'static str },
    /// It does not exist, for that reason.
    Absent { reason: String },
    /// It exists but cannot be used, for that reason.
    Broken { reason: String },
}

impl Finding {
    pub fn new(what: impl Into<String>, state: State) -> Self {
        Self { what: what.into(), state, detail: Vec::new(), fix: None, config: None }
    }
}

/// Time between two readings of a meter that has nothing to learn.
pub const BETWEEN: Duration = Duration::from_millis(1_100);

/// Returns everything that is found; `pause` must wait for the time that it is given.
pub fn survey(machine: &Machine<'_>, mut pause: impl FnMut(Duration)) -> Vec<Finding> {
    let surveyed: Vec<Surveyed> = MeterConfig::SURVEYS.iter().flat_map(|survey| survey(machine)).collect();
    let (mut candidates, mut findings) = (Vec::new(), Vec::new());
    for (place, surveyed) in surveyed.into_iter().enumerate() {
        match surveyed {
            Surveyed::Meter(candidate) => candidates.push((place, candidate)),
            Surveyed::Finding(finding) => findings.push((place, finding)),
        }
    }
    let mut meters: Vec<&mut dyn Meter> = Vec::new();
    for (_, candidate) in &mut candidates {
        meters.push(candidate.meter.as_mut());
    }
    let first = learn(&mut meters, &mut pause);
    if first.iter().any(works) {
        pause(BETWEEN);
    }
    let both = candidates.into_iter().zip(first);
    findings.extend(both.map(|((place, candidate), first)| (place, candidate.finding(first))));
    findings.sort_by_key(|(place, _)| *place);
    let mut findings: Vec<Finding> = findings.into_iter().map(|(_, finding)| finding).collect();
    let is_sensor = |finding: &Finding| finding.what.starts_with("hwmon") || finding.what.starts_with("iio");
    if !findings.iter().any(is_sensor) {
        let behind_rapl = 1.min(findings.len());
        findings.insert(behind_rapl, no_sensor());
    }
    findings
}

/// Whether a meter gave a reading, or may give one later.
fn works(result: &Result<Reading, MeterError>) -> bool {
    matches!(result, Ok(_) | Err(MeterError::NotYet { .. }))
}

/// Returns what to do on a machine for which the kernel shows no power sensor of any kind.
fn no_sensor() -> Finding {
    let reason = "the kernel shows no power sensor".to_owned();
    let fix = "if an INA219 or a similar chip is wired to I2C bus 1 at 0x40, attach the kernel's driver: sudo modprobe \
               ina2xx || sudo modprobe ina2xx-adc; echo ina219 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device; or read it \
               directly, see ina219 and ina226";
    Finding { fix: Some(fix.to_owned()), ..Finding::new("hwmon, iio", State::Absent { reason }) }
}

impl Surveyed {
    /// Takes a meter that is to be read; `config` is the line that uses it.
    pub fn meter(what: String, config: String, meter: impl Meter + 'static) -> Self {
        Self::Meter(Candidate { what, config, meter: Box::new(meter) })
    }
}

impl Candidate {
    /// Reads it a last time, and returns the finding; `first` is what the reading before gave.
    fn finding(mut self, first: Result<Reading, MeterError>) -> Finding {
        let read = if works(&first) { self.meter.read() } else { first };
        let Self { what, config, meter } = self;
        let detail = meter.info().detail.clone();
        match read {
            Ok(reading) => {
                let state = State::Readable { watts: reading.power.map(|power| power.0) };
                Finding { detail, config: Some(config), ..Finding::new(what, state) }
            }
            Err(error) => {
                let reason = error.reason();
                let state = if error.is_absence() { State::Absent { reason } } else { State::Broken { reason } };
                Finding { detail, fix: error.fix().map(str::to_owned), ..Finding::new(what, state) }
            }
        }
    }
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
                format!("{reason}; {}", finding.fix.as_deref().unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_without_anything_is_told_how_to_get_each() {
        let tree = Tree::new(&[("class/thermal/x", "")]);
        let findings =
            survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, |_| panic!("there is nothing to wait for"));
        assert_eq!(findings.len(), 4);
        assert_eq!(findings[3].what, "estimate");
        assert!(findings[..3].iter().all(|finding| matches!(finding.state, State::Absent { .. })), "{findings:#?}");
        assert!(reason(find(&findings, "rapl")).contains("run: sudo modprobe intel_rapl_msr"));
        assert!(
            reason(find(&findings, "hwmon, iio"))
                .contains("echo ina219 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device")
        );
        let ina219 = reason(find(&findings, "ina219"));
        assert!(ina219.contains("modprobe i2c-dev") && ina219.contains("dtparam=i2c_arm=on"), "{ina219}");
    }

    #[test]
    fn rapl_gives_its_power_and_a_constant_one_is_no_meter() {
        let tree = Tree::new(&[]);
        tree.zone("intel-rapl:0", "package-0", 1_000_000);
        let mut uj = 1_000_000;
        let findings = survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, |_| {
            std::thread::sleep(Duration::from_millis(2));
            uj += 10_000;
            tree.energy("intel-rapl:0", uj);
        });
        let rapl = find(&findings, "rapl");
        assert!(matches!(rapl.state, State::Readable { watts: Some(watts) } if watts > 0.0), "{rapl:?}");
        assert_eq!((rapl.config.as_deref(), rapl.detail.len()), (Some("rapl = {}"), 3), "{rapl:?}");
        assert_eq!(rapl.detail[0], "package-0 (intel-rapl:0)");
        assert!(rapl.detail[2].starts_with("refreshed every ") && rapl.detail[2].ends_with(" in steps of 10 mJ"));
        let findings = survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, std::thread::sleep);
        let rapl = find(&findings, "rapl");
        assert!(reason(rapl).contains("stuck, no change in 5.") && rapl.config.is_none(), "{rapl:?}");
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
        let findings = survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, |_| ());
        let line = |what| find(&findings, what).config.clone().unwrap();
        assert_eq!(line("hwmon ina219"), "hwmon = { chip = \"ina219\" }");
        assert!(find(&findings, "hwmon ina219").detail.join("; ").contains("echo 100000 | sudo tee "), "{findings:#?}");
        assert_eq!(line("hwmon ina3221 channel 1"), "hwmon = { chip = \"ina3221\", channel = 1 }");
        assert!(reason(find(&findings, "hwmon ina3221 channel 2")).contains("curr2_input: read \"garbage\""));
        assert!(
            line("iio ina219 1-0041")
                .starts_with("iio = { chip = \"ina219\", device = \"1-0041\", shunt_ohms = 0.01 }")
        );
        assert_eq!(find(&findings, "iio ina219 1-0041").state, State::Readable { watts: Some(50.0) });
        assert_eq!(findings.len(), 7, "{findings:#?}");
    }

    #[test]
    fn a_bus_tells_which_of_its_chips_belong_to_the_kernel() {
        let tree = Tree::new(&[
            ("dev/i2c-1", ""),
            ("dev/vcio", ""),
            ("bus/i2c/devices/1-0040/name", "ina219\n"),
            ("bus/i2c/devices/1-0041/name", "ina226\n"),
            ("bus/i2c/devices/11-0041/name", "other\n"),
            ("bus/i2c/devices/1-0043/name", "ina3221\n"),
            ("bus/i2c/devices/i2c-1/name", "bcm2835\n"),
        ]);
        tree.link("bus/i2c/devices/1-0041/driver", "../../drivers/ina2xx");
        let findings = survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, |_| ());
        let bus = find(&findings, "ina219 on i2c-1");
        assert_eq!((&bus.state, bus.detail.len()), (&State::Usable { says: "can be used" }, 5));
        assert_eq!(bus.detail[0], "ina219 at 1-0040 has no driver: it can be read directly");
        assert!(bus.detail[1].starts_with("ina226 at 1-0041 is used by the kernel's driver ina2xx"), "{bus:?}");
        assert!(reason(find(&findings, "pmic")).contains("dev/vcio: Inappropriate ioctl"), "{findings:#?}");
        assert_eq!(bus.config.as_deref(), Some("ina219 = { bus = 1, address = 0x40, shunt_ohms = 0.1 }"));
        let ina3221 = find(&findings, "ina3221 on i2c-1 at 0x43");
        let line = "ina3221 = { bus = 1, address = 0x43, channel = 1, shunt_ohms = 0.1 }";
        assert_eq!((&ina3221.state, ina3221.config.as_deref()), (&State::Usable { says: "can be used" }, Some(line)));
        assert!(!findings.iter().any(|finding| finding.what.starts_with("ina226")), "the kernel has that one");
        tree.link("bus/i2c/devices/1-0040/driver", "../../drivers/ina2xx_adc");
        let findings = survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") }, |_| ());
        assert_eq!(find(&findings, "ina219 on i2c-1").config, None, "that address is not to be read directly");
    }
}
