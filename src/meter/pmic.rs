//! The rails of a Raspberry Pi 5's power chip: an estimate, because the chip does not measure the supply's own current.
//!
//! Owns the sum of voltage times current over the rails that have both; `sys::vcio` asks the firmware. Loads on 5 V, such
//! as USB devices, and losses of the converters are not included, so the energy is `estimated`.
//! Source: the answer of `vcgencmd pmic_read_adc`, as in the firmware of 2024.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::integral::Integral;
use super::plausible::{Limits, Shown};
use super::survey::{BETWEEN, Machine, Surveyed};
use super::{
    Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings, midpoint, sysfs,
};
use crate::schema::{Checker, Key, table};
use crate::sys::vcio::Firmware;
use crate::units::MonoTime;

const COMMAND: &str = "pmic_read_adc";

/// The file behind which the firmware answers.
const DEVICE: &str = "vcio";

table! {
    /// The rails of a Raspberry Pi 5's power chip: an estimate, without 5 V and USB. It has no keys.
    pub struct PmicKeys {}
}

impl MeterKind for PmicKeys {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        Box::new(Pmic::new(name, &Path::new("/dev").join(DEVICE), surroundings.period))
    }

    fn can_calibrate(&self) -> bool {
        false
    }
}

/// Returns the power chip of a Raspberry Pi 5; nothing on other machines.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    let path = machine.dev.join(DEVICE);
    let pmic = || Surveyed::meter("pmic".to_owned(), "pmic = {}".to_owned(), Pmic::new("pmic", &path, BETWEEN));
    path.exists().then(pmic).into_iter().collect()
}

/// Power of all rails, integrated.
#[derive(Debug)]
pub struct Pmic {
    info: MeterInfo,
    path: PathBuf,
    firmware: Option<Firmware>,
    power: Integral,
}

impl Pmic {
    /// Creates a meter on the firmware behind `path`, normally `/dev/vcio`; `period` is the time between reads.
    pub fn new(name: &str, path: &Path, period: Duration) -> Self {
        let (name, detail) = (name.to_owned(), Vec::new());
        Self {
            info: MeterInfo { name, kind: "pmic", scope: Scope::Board, estimated: true, detail, basis: Vec::new() },
            path: path.to_owned(),
            firmware: None,
            power: Integral::new(period),
        }
    }

    fn take(
        &mut self,
        ask: impl FnOnce() -> io::Result<String>,
        mut clock: impl FnMut() -> MonoTime,
    ) -> Result<Reading, MeterError> {
        let before = clock();
        let text = ask().map_err(|error| self.failed(error))?;
        let time = midpoint(before, clock());
        let rails = rails(&text).map_err(|line| MeterError::Invalid {
            path: self.path.clone(),
            text: line,
            expected: "rails such as VDD_CORE_A current(7)=1.2A and VDD_CORE_V volt(15)=0.75V, each with both",
        })?;
        if self.info.detail.is_empty() {
            let names: Vec<&str> = rails.iter().map(|(name, _)| name.as_str()).collect();
            self.info.detail = vec![format!("rails {}; without 5 V and USB", names.join(", "))];
        }
        let watts = rails.iter().map(|(_, watts)| watts).sum();
        let shown = Shown { watts, volts: None, amperes: None };
        let watts = Limits::default().judge(&shown).map_err(|fault| MeterError::Invalid {
            path: self.path.clone(),
            text: fault.quantity.show(&shown),
            expected: fault.expected,
        })?;
        let joules = self.power.add(time, watts)?;
        // Neither the conversion time nor the accuracy of the chip is documented.
        let accuracy = Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN };
        Ok(Reading { time, joules, power: Some(watts), volts: None, amperes: None, scope: self.info.scope, accuracy })
    }

    fn failed(&self, error: io::Error) -> MeterError {
        match error.kind() {
            io::ErrorKind::Unsupported => MeterError::Absent {
                path: self.path.clone(),
                reason: format!("{COMMAND}: {error}"),
                fix: "only a Raspberry Pi 5 has this; on other boards use an INA219".to_owned(),
            },
            io::ErrorKind::NotFound => MeterError::Absent {
                path: self.path.clone(),
                reason: "no such device".to_owned(),
                fix: "only a Raspberry Pi with the kernel of Raspberry Pi OS has it".to_owned(),
            },
            _ => sysfs::classify(&self.path, error, "run: sudo usermod -aG video edgewatt, then restart the daemon"),
        }
    }
}

impl Meter for Pmic {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let firmware = match self.firmware.take() {
            Some(firmware) => firmware,
            None => {
                self.power.interrupt();
                Firmware::open(&self.path).map_err(|error| self.failed(error))?
            }
        };
        let reading = self.take(|| firmware.ask(COMMAND), MonoTime::now)?;
        self.firmware = Some(firmware);
        Ok(reading)
    }
}

/// Returns the watts of each rail; voltages without a current, such as that of the 5 V input, are left out.
///
/// # Errors
/// The line that is not a rail.
fn rails(text: &str) -> Result<Vec<(String, f64)>, String> {
    let (mut volts, mut amperes) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let value = |name: &str, end: char| -> Option<(String, f64)> {
            let (rail, rest) = line.trim().split_once(' ')?;
            let (kind, number) = rest.trim().split_once('=')?;
            let number: f64 = kind.starts_with(name).then(|| number.strip_suffix(end)?.parse().ok())??;
            let rail = rail.strip_suffix(end)?.strip_suffix('_')?;
            (number >= 0.0 && number.is_finite()).then(|| (rail.to_owned(), number))
        };
        match (value("current(", 'A'), value("volt(", 'V')) {
            (Some((rail, number)), _) => amperes.insert(rail, number),
            (_, Some((rail, number))) => volts.insert(rail, number),
            (None, None) => return Err(line.trim().to_owned()),
        };
    }
    if amperes.is_empty() {
        return Err(text.to_owned());
    }
    let watts = |(rail, amperes): (String, f64)| match volts.get(&rail) {
        Some(volts) => Ok((rail, volts * amperes)),
        None => Err(format!("{rail}_A")),
    };
    amperes.into_iter().map(watts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Joules;

    const ANSWER: &str = "  3V3_SYS_A current(1)=0.50000000A\n VDD_CORE_A current(7)=2.00000000A\n\
                          3V3_SYS_V volt(9)=3.30000000V\n VDD_CORE_V volt(15)=0.75000000V\n EXT5V_V volt(24)=5.10000000V\n";

    fn meter() -> Pmic {
        Pmic::new("board", Path::new("/dev/vcio"), Duration::from_millis(100))
    }

    fn read(meter: &mut Pmic, answer: &str, ms: u64) -> Result<Reading, MeterError> {
        meter.take(|| Ok(answer.to_owned()), || MonoTime(ms * 1_000_000))
    }

    #[test]
    fn rails_with_voltage_and_current_are_summed_as_an_estimate() {
        let mut meter = meter();
        assert!((read(&mut meter, ANSWER, 0).unwrap().power.unwrap().0 - 3.15).abs() < 1e-9);
        assert!((read(&mut meter, ANSWER, 200).unwrap().joules.0 - 0.63).abs() < 1e-9);
        assert!(meter.info().estimated);
        assert_eq!(meter.info().detail, ["rails 3V3_SYS, VDD_CORE; without 5 V and USB"]);
    }

    #[test]
    fn what_is_no_list_of_rails_is_shown() {
        for (answer, shown) in [
            ("", "read \"\""),
            ("EXT5V_V volt(24)=5.1V", "read \"EXT5V_V volt(24)=5.1V\""),
            ("A_A current(0)=1.0A\nB_V volt(1)=1.0V", "read \"A_A\""),
            ("A_A current(0)=-1.0A\nA_V volt(1)=1.0V", "read \"A_A current(0)=-1.0A\""),
            ("A_A current(0)=xA\nA_V volt(1)=1.0V", "read \"A_A current(0)=xA\""),
        ] {
            let error = read(&mut meter(), answer, 0).unwrap_err();
            assert!(matches!(error, MeterError::Invalid { .. }) && error.to_string().contains(shown), "{error}");
        }
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (kind, part) in [
            (io::ErrorKind::Unsupported, "/dev/vcio: pmic_read_adc: "),
            (io::ErrorKind::NotFound, "only a Raspberry Pi with the kernel of Raspberry Pi OS"),
            (io::ErrorKind::PermissionDenied, "permission denied; run: sudo usermod -aG video edgewatt"),
        ] {
            let error = meter().take(|| Err(kind.into()), MonoTime::default).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(read(&mut meter(), ANSWER, 5).unwrap().joules, Joules(0.0));
        let absent = Pmic::new("board", Path::new("/nowhere/vcio"), Duration::from_millis(100)).read().unwrap_err();
        assert!(matches!(absent, MeterError::Absent { .. }), "{absent}");
    }
}
