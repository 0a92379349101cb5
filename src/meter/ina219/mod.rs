//! The INA219 meter: reads the chip directly over `/dev/i2c-N`, for boards whose kernel has no driver for it.
//!
//! Owns the configuration of the chip, which is written, read back and verified regularly, and retries on the bus. Power is
//! voltage times current, computed here. A chip that a kernel driver uses is left alone. Words are transferred by SMBus,
//! which sends the low byte first, while the chip sends the high byte first. Sources: `registers`; `Documentation/i2c/dev-interface.rst`.

mod keys;
mod registers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{EAGAIN, EBUSY, EINTR, EIO, ENXIO, EREMOTEIO, ETIMEDOUT};

use super::integral::Integral;
use super::{Accuracy, Meter, MeterError, MeterInfo, Reading, Resolution, Scope, midpoint, shunt};
use crate::sys::i2c::{BUS_FIX, I2c, RULE};
use crate::sys::permission::permit;
use crate::text::counted;
use crate::units::{MonoTime, duration_ns};
use registers::{BUS_STEP_VOLTS, Bus, Register, SHUNT_STEP_VOLTS, bus, shunt_volts};

pub use keys::{Ina219Keys, survey};
pub use registers::{AVERAGES, Setup};

/// Other traffic on the bus sometimes disturbs a transfer; a chip that is gone fails every time.
const TRIES: u32 = 3;

/// How often to verify the configuration register, which a drop of the supply voltage resets.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// The chip is stuck if it completes no conversion for this long and for this many cycles.
const STUCK_AFTER: Duration = Duration::from_secs(1);
const STUCK_CYCLES: u32 = 3;

/// Which chip to read, its shunt and its ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chip {
    /// The N of `/dev/i2c-N`.
    pub bus: u8,
    pub address: u16,
    pub shunt_ohms: f64,
    /// By how much the shunt may be off, as a fraction.
    pub shunt_tolerance: f64,
    pub setup: Setup,
}

impl Chip {
    /// Returns the device's name in sysfs, such as `1-0040`.
    pub fn device(&self) -> String {
        format!("{}-{:04x}", self.bus, self.address)
    }
}

/// The registers of one chip: on an I2C bus, or fake ones in tests.
trait Registers: Send {
    fn read(&mut self, register: Register) -> io::Result<u16>;
    fn write(&mut self, register: Register, word: u16) -> io::Result<()>;
}

impl Registers for I2c {
    fn read(&mut self, register: Register) -> io::Result<u16> {
        Ok(self.read_word(register as u8)?.swap_bytes())
    }

    fn write(&mut self, register: Register, word: u16) -> io::Result<()> {
        self.write_word(register as u8, word.swap_bytes())
    }
}

/// Energy of what flows through the shunt.
pub struct Ina219 {
    info: MeterInfo,
    chip: Chip,
    /// The link in sysfs to the driver that uses the chip.
    driver: PathBuf,
    path: PathBuf,
    open: Option<Open>,
    power: Integral,
    /// Number of retried transfers since the start.
    retries: u64,
}

struct Open {
    registers: Box<dyn Registers>,
    verified: MonoTime,
    /// When a completed conversion was last found, or when the chip was configured.
    converted: MonoTime,
    /// Whether a conversion was completed since the chip was configured, so that the registers hold its result.
    is_measuring: bool,
    /// When the registers were last read, and the reading of the newest conversion.
    looked: MonoTime,
    last: Option<Reading>,
}

impl fmt::Debug for Ina219 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ina219").field("info", &self.info).field("chip", &self.chip).finish_non_exhaustive()
    }
}

impl Ina219 {
    /// Creates a meter on `chip`, which the first read looks for; `root` is sysfs, normally `/sys`, `period` the time between
    /// reads, `scope` what the supply with the shunt feeds.
    pub fn new(name: &str, root: &Path, chip: Chip, scope: Scope, period: Duration) -> Self {
        Self {
            info: MeterInfo {
                name: name.to_owned(),
                kind: "ina219",
                scope,
                estimated: false,
                detail: Vec::new(),
                basis: shunt::basis(chip.shunt_ohms),
            },
            driver: root.join("bus/i2c/devices").join(chip.device()).join("driver"),
            path: PathBuf::from(format!("/dev/i2c-{}", chip.bus)),
            chip,
            open: None,
            // Reading times are moved back by up to a cycle, which must not look like a gap.
            power: Integral::new(period.max(chip.setup.cycle())),
            retries: 0,
        }
    }

    fn read_with(
        &mut self,
        open: impl FnOnce(&Path, u16) -> io::Result<Box<dyn Registers>>,
        mut clock: impl FnMut() -> MonoTime,
    ) -> Result<Reading, MeterError> {
        let mut chip = match self.open.take() {
            Some(chip) => chip,
            None => {
                self.power.interrupt();
                self.configure(open, clock())?
            }
        };
        // A chip that fails is dropped here and configured again: one that lost its supply has lost its configuration.
        self.verify(&mut chip, clock())?;
        let before = clock();
        let bus = bus(self.transfer(&mut chip, |r| r.read(Register::BusVoltage), Register::BusVoltage)?);
        let shunt = self.transfer(&mut chip, |r| r.read(Register::ShuntVoltage), Register::ShuntVoltage)?;
        let time = midpoint(before, clock());
        self.note_conversion(&mut chip, bus, time)?;
        let since = time.since(std::mem::replace(&mut chip.looked, time));
        let flow = self.measured(&chip, time).and_then(|()| self.judge(shunt_volts(shunt), bus));
        // The same conversion must not count as a second snapshot.
        if let (Some(last), false, Ok(_)) = (chip.last, bus.ready, &flow) {
            self.open = Some(chip);
            return Ok(last);
        }
        chip.last = None;
        // A chip without a measurement stays open: configured again, a stuck chip would look like a good one.
        let chip = self.open.insert(chip);
        let flow = flow.inspect_err(|_| self.power.interrupt())?;
        // The register holds the mean of a conversion that ended within the last cycle and since the last read.
        let cycle = self.chip.setup.cycle();
        let time = MonoTime(time.0.saturating_sub(duration_ns(cycle.min(since)) / 2));
        let joules = self.power.add(time, flow.watts)?;
        let reading = Reading {
            time,
            joules,
            power: Some(flow.watts),
            volts: Some(flow.volts),
            amperes: Some(flow.amperes),
            scope: self.info.scope,
            accuracy: Accuracy {
                resolution: Resolution::Sampled {
                    conversion: cycle,
                    quantum: flow.quantum(SHUNT_STEP_VOLTS / self.chip.shunt_ohms, BUS_STEP_VOLTS),
                },
                scale: shunt::scale(self.chip.shunt_tolerance),
            },
        };
        chip.last = Some(reading);
        Ok(reading)
    }

    /// Opens the chip and configures it.
    fn configure(
        &mut self,
        open: impl FnOnce(&Path, u16) -> io::Result<Box<dyn Registers>>,
        now: MonoTime,
    ) -> Result<Open, MeterError> {
        if let Ok(driver) = std::fs::read_link(&self.driver) {
            return Err(self.taken(Some(&name_of(&driver))));
        }
        let registers = open(&self.path, self.chip.address).map_err(|error| self.not_opened(error))?;
        let mut chip = Open {
            registers,
            verified: now,
            converted: now,
            is_measuring: false,
            looked: MonoTime::default(),
            last: None,
        };
        let word = self.chip.setup.word();
        // Without a calibration the chip computes nothing itself, so an overflow shows that another program uses it.
        for (register, word) in [(Register::Calibration, 0), (Register::Configuration, word)] {
            self.transfer(&mut chip, |r| r.write(register, word), register)?;
        }
        self.verify_now(
            &mut chip,
            "what was written; another chip is at this address, or the bus lines are disturbed",
        )?;
        // Discard a conversion that ended under an earlier configuration.
        self.transfer(&mut chip, |r| r.read(Register::Power), Register::Power)?;
        let Chip { address, shunt_ohms, setup, .. } = self.chip;
        self.info.detail = vec![
            format!("INA219 at {address:#04x} on {}, configuration {word:#06x}", self.path.display()),
            format!(
                "shunt {shunt_ohms} Ohm, up to {:.3} A; {}, measures {:.0} % of the time at up to {:.0} Hz",
                setup.shunt_range_volts() / shunt_ohms,
                counted(setup.averages(), "average"),
                setup.seen() * 100.0,
                1.0 / setup.cycle().as_secs_f64()
            ),
        ];
        Ok(chip)
    }

    fn verify(&mut self, chip: &mut Open, now: MonoTime) -> Result<(), MeterError> {
        if now.since(chip.verified) < VERIFY_EVERY {
            return Ok(());
        }
        chip.verified = now;
        self.verify_now(
            chip,
            "what was written; the chip was reset, or another program writes to it; it will be configured again",
        )
    }

    fn verify_now(&mut self, chip: &mut Open, expected: &'static str) -> Result<(), MeterError> {
        let found = self.transfer(chip, |r| r.read(Register::Configuration), Register::Configuration)?;
        if found == self.chip.setup.word() {
            return Ok(());
        }
        let text = format!("{found:#06x}, not {:#06x}", self.chip.setup.word());
        Err(MeterError::Invalid { path: self.place(Register::Configuration), text, expected })
    }

    /// Notes a completed conversion, and clears its flag.
    fn note_conversion(&mut self, chip: &mut Open, bus: Bus, now: MonoTime) -> Result<(), MeterError> {
        if bus.ready {
            chip.converted = now;
            chip.is_measuring = true;
            self.transfer(chip, |r| r.read(Register::Power), Register::Power)?;
        }
        Ok(())
    }

    /// Checks that the registers hold a measurement under this configuration, and not too old a one.
    fn measured(&self, chip: &Open, now: MonoTime) -> Result<(), MeterError> {
        let still = now.since(chip.converted);
        if still >= STUCK_AFTER.max(self.chip.setup.cycle() * STUCK_CYCLES) {
            return Err(MeterError::Stuck {
                path: self.place(Register::BusVoltage),
                seconds: still.as_secs_f64(),
                fix: "the chip completes no conversion (CNVR); check its supply, and that no other program uses it"
                    .to_owned(),
            });
        }
        if !chip.is_measuring {
            return Err(MeterError::Rebaselined {
                reason: "the chip was just configured and has not measured since".to_owned(),
            });
        }
        Ok(())
    }

    /// Returns the flow, or an error if the registers do not hold a valid measurement.
    fn judge(&self, shunt_volts: f64, bus: Bus) -> Result<shunt::Flow, MeterError> {
        let invalid =
            |register, text: String, expected| Err(MeterError::Invalid { path: self.place(register), text, expected });
        if bus.overflow {
            let expected = "no overflow (OVF); another program has calibrated the chip, only one may use it";
            return invalid(Register::BusVoltage, "OVF".to_owned(), expected);
        }
        let text = format!("{:.2} mV across the shunt at {:.3} V", shunt_volts * 1e3, bus.volts);
        if self.chip.setup.is_over_range(shunt_volts, bus) {
            return invalid(
                Register::ShuntVoltage,
                text,
                "less than the end of the range; raise max_amperes or max_volts",
            );
        }
        shunt::flow(shunt_volts, self.chip.shunt_ohms, bus.volts)
            .or_else(|expected| invalid(Register::ShuntVoltage, text, expected))
    }

    /// Does a transfer, and repeats it if the bus was disturbed.
    fn transfer<T>(
        &mut self,
        chip: &mut Open,
        mut transfer: impl FnMut(&mut dyn Registers) -> io::Result<T>,
        register: Register,
    ) -> Result<T, MeterError> {
        let mut tries = 1;
        loop {
            match transfer(chip.registers.as_mut()) {
                Ok(word) => return Ok(word),
                Err(error) if tries < TRIES && is_disturbance(&error) => {
                    tries += 1;
                    self.retries += 1;
                }
                Err(error) => return Err(self.not_transferred(register, error)),
            }
        }
    }

    fn not_transferred(&self, register: Register, error: io::Error) -> MeterError {
        let path = self.place(register);
        if !is_disturbance(&error) {
            return MeterError::Failed { path, source: error };
        }
        MeterError::Absent {
            path,
            reason: format!("no response in {TRIES} tries: {error} (retries since the start: {})", self.retries),
            fix: format!(
                "check wiring, supply and address; i2cdetect -y {} lists the chips that respond",
                self.chip.bus
            ),
        }
    }

    fn not_opened(&self, error: io::Error) -> MeterError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => {
                MeterError::Absent { path, reason: "no such bus".to_owned(), fix: BUS_FIX.to_owned() }
            }
            io::ErrorKind::PermissionDenied => {
                let fix = permit(&path, RULE);
                MeterError::Denied { path, fix }
            }
            _ if error.raw_os_error() == Some(EBUSY) => self.taken(None),
            _ => MeterError::Failed { path, source: error },
        }
    }

    fn taken(&self, by: Option<&str>) -> MeterError {
        let device = self.chip.device();
        let hwmon = format!("hwmon = {{ chip = \"ina219\", device = \"{device}\" }}");
        let shunt_ohms = self.chip.shunt_ohms;
        let iio = format!("iio = {{ chip = \"ina219\", device = \"{device}\", shunt_ohms = {shunt_ohms} }}");
        let meter = match by {
            Some("ina2xx") => hwmon,
            Some("ina2xx_adc") => iio,
            _ => format!("{hwmon}, or with the driver ina2xx_adc: {iio}"),
        };
        let by = by.map_or_else(|| "a kernel driver".to_owned(), |name| format!("the kernel's driver {name}"));
        MeterError::Taken {
            path: self.driver.clone(),
            reason: format!("{by} uses the chip"),
            fix: format!("read it through the kernel: {meter}"),
        }
    }

    /// Returns the chip and one of its registers, for an error.
    fn place(&self, register: Register) -> PathBuf {
        let Chip { address, .. } = self.chip;
        PathBuf::from(format!("{} {address:#04x} register {:#04x} ({register:?})", self.path.display(), register as u8))
    }
}

/// Whether a retry may help: no chip responded, or another bus master was faster.
fn is_disturbance(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EIO | ENXIO | EREMOTEIO | ETIMEDOUT))
}

/// Returns the last part of a link's target.
fn name_of(target: &Path) -> String {
    target.file_name().map_or_else(|| target.display().to_string(), |name| name.to_string_lossy().into_owned())
}

impl Meter for Ina219 {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let open = |path: &Path, address| Ok(Box::new(I2c::open(path, address)?) as Box<dyn Registers>);
        self.read_with(open, MonoTime::now)
    }
}
