//! The INA219 meter: the chip itself over `/dev/i2c-N`, for boards whose kernel has no driver for it.
//!
//! Owns its set-up, which is written, read back and watched, and retries of the bus; power is voltage times current,
//! computed here. A chip that a kernel driver has is left to it. Words go by SMBus, which sends the low byte first where
//! the chip sends the high one. Sources: `registers`; `Documentation/i2c/dev-interface.rst`.

mod i2c;
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
use crate::units::{MonoTime, duration_ns};
use i2c::I2c;
use registers::{BUS_STEP_VOLTS, Bus, Register, SHUNT_STEP_VOLTS, bus, shunt_volts};

pub use registers::{AVERAGES, Setup};

/// Other traffic on a bus disturbs a transfer now and then; a chip that is gone fails each time.
const TRIES: u32 = 3;

/// How often it is looked whether the chip still has its set-up, which a drop of its supply clears.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// Without a new conversion for this long, and this many cycles, the chip is not measuring.
const STUCK_AFTER: Duration = Duration::from_secs(1);
const STUCK_CYCLES: u32 = 3;

/// Which chip, and what it may meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chip {
    /// The N of `/dev/i2c-N`.
    pub bus: u8,
    pub address: u16,
    pub shunt_ohms: f64,
    /// By how much it may be off, as a part of it.
    pub shunt_tolerance: f64,
    pub setup: Setup,
}

impl Chip {
    /// As sysfs names the device, such as `1-0040`.
    pub fn device(&self) -> String {
        format!("{}-{:04x}", self.bus, self.address)
    }
}

/// The registers of one chip; the real ones are words on an I2C bus.
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
    /// Where the kernel shows what driver has the chip.
    driver: PathBuf,
    path: PathBuf,
    open: Option<Open>,
    power: Integral,
    /// Transfers that were done again, since the start.
    retries: u64,
}

struct Open {
    registers: Box<dyn Registers>,
    verified: MonoTime,
    /// When the last conversion was seen to have ended, or the chip was set up.
    converted: MonoTime,
    /// A conversion has ended since the chip was set up: what the registers hold was measured so.
    is_measuring: bool,
    /// When it was last looked for a new conversion, and what the newest gave.
    looked: MonoTime,
    last: Option<Reading>,
}

impl fmt::Debug for Ina219 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ina219").field("info", &self.info).field("chip", &self.chip).finish_non_exhaustive()
    }
}

impl Ina219 {
    /// A meter on `chip`, which is looked for at the first read; `root` is sysfs, normally `/sys`, `period` the time
    /// between reads, `scope` what the supply with the shunt feeds.
    pub fn new(name: &str, root: &Path, chip: Chip, scope: Scope, period: Duration) -> Self {
        Self {
            info: MeterInfo { name: name.to_owned(), kind: "ina219", scope, estimated: false, detail: Vec::new() },
            driver: root.join("bus/i2c/devices").join(chip.device()).join("driver"),
            path: PathBuf::from(format!("/dev/i2c-{}", chip.bus)),
            chip,
            open: None,
            // Readings are dated back by a cycle, which must not look like a gap.
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
        // A chip that fails is dropped here and set up anew: one that lost its supply has forgotten its set-up.
        self.verify(&mut chip, clock())?;
        let before = clock();
        let bus = bus(self.transfer(&mut chip, |r| r.read(Register::BusVoltage), Register::BusVoltage)?);
        let shunt = self.transfer(&mut chip, |r| r.read(Register::ShuntVoltage), Register::ShuntVoltage)?;
        let time = midpoint(before, clock());
        self.note_conversion(&mut chip, bus, time)?;
        let since = time.since(std::mem::replace(&mut chip.looked, time));
        let flow = self.measured(&chip, time).and_then(|()| self.judge(shunt_volts(shunt), bus));
        // The same conversion again is no second snapshot.
        if let (Some(last), false, Ok(_)) = (chip.last, bus.ready, &flow) {
            self.open = Some(chip);
            return Ok(last);
        }
        chip.last = None;
        // One that gives no measurement stays open: set up anew, a chip that stands still would look like a good one.
        let chip = self.open.insert(chip);
        let flow = flow.inspect_err(|_| self.power.interrupt())?;
        // What the register holds is the mean of a conversion that ended within the last cycle, and since the last look.
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
                systematic_rel: Some(shunt::GAIN_ERROR_REL + self.chip.shunt_tolerance),
            },
        };
        chip.last = Some(reading);
        Ok(reading)
    }

    /// Opens the chip and sets it up.
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
        // Without a calibration the chip computes nothing itself, so an overflow tells of another master.
        for (register, word) in [(Register::Calibration, 0), (Register::Configuration, word)] {
            self.transfer(&mut chip, |r| r.write(register, word), register)?;
        }
        self.verify_now(&mut chip, "what was written: another chip is at this address, or its lines are disturbed")?;
        // A conversion that ended under an earlier set-up is none under this one.
        self.transfer(&mut chip, |r| r.read(Register::Power), Register::Power)?;
        let Chip { address, shunt_ohms, setup, .. } = self.chip;
        self.info.detail = vec![
            format!("INA219 at {address:#04x} on {}, configuration {word:#06x}", self.path.display()),
            format!(
                "shunt {shunt_ohms} Ohm, up to {:.3} A; {} averages, sees {:.0} % of the time at up to {:.0} Hz",
                setup.shunt_range_volts() / shunt_ohms,
                setup.averages(),
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
            "what was written: the chip was reset, or another program writes to it; it is set up again",
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

    /// Clears the conversion-ready flag where it is set.
    fn note_conversion(&mut self, chip: &mut Open, bus: Bus, now: MonoTime) -> Result<(), MeterError> {
        if bus.ready {
            chip.converted = now;
            chip.is_measuring = true;
            self.transfer(chip, |r| r.read(Register::Power), Register::Power)?;
        }
        Ok(())
    }

    /// Whether the registers hold a measurement under this set-up, and not one from too long ago.
    fn measured(&self, chip: &Open, now: MonoTime) -> Result<(), MeterError> {
        let still = now.since(chip.converted);
        if still >= STUCK_AFTER.max(self.chip.setup.cycle() * STUCK_CYCLES) {
            return Err(MeterError::Stuck {
                path: self.place(Register::BusVoltage),
                seconds: still.as_secs_f64(),
                mend: "the chip ends no conversion (CNVR): is its supply steady, does another program use it?"
                    .to_owned(),
            });
        }
        if !chip.is_measuring {
            return Err(MeterError::Rebaselined {
                reason: "the chip was set up and has not measured since".to_owned(),
            });
        }
        Ok(())
    }

    /// What flows, unless the registers hold no measurement of it.
    fn judge(&self, shunt_volts: f64, bus: Bus) -> Result<shunt::Flow, MeterError> {
        let invalid =
            |register, text: String, expected| Err(MeterError::Invalid { path: self.place(register), text, expected });
        if bus.overflow {
            let expected = "no overflow (OVF): another program has calibrated the chip, let only one use it";
            return invalid(Register::BusVoltage, "OVF".to_owned(), expected);
        }
        let text = format!("{:.2} mV across the shunt at {:.3} V", shunt_volts * 1e3, bus.volts);
        if self.chip.setup.is_over_range(shunt_volts, bus) {
            return invalid(
                Register::ShuntVoltage,
                text,
                "less than the end of the range: raise max_amperes or max_volts",
            );
        }
        match shunt::flow(shunt_volts, self.chip.shunt_ohms, bus.volts) {
            Some(flow) => Ok(flow),
            None => invalid(Register::ShuntVoltage, text, "no less than 0: is the shunt wired the wrong way round?"),
        }
    }

    /// Does a transfer, again where the bus was disturbed.
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
            reason: format!("no answer in {TRIES} tries: {error} ({} tries again since the start)", self.retries),
            mend: format!("check wiring, supply and address; i2cdetect -y {} lists who answers", self.chip.bus),
        }
    }

    fn not_opened(&self, error: io::Error) -> MeterError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => {
                MeterError::Absent { path, reason: "no such bus".to_owned(), mend: BUS_MEND.to_owned() }
            }
            io::ErrorKind::PermissionDenied => MeterError::Denied { path, mend: GROUP_MEND.to_owned() },
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
            reason: format!("{by} has the chip"),
            mend: format!("read it through the kernel: {meter}"),
        }
    }

    /// The chip and one of its registers, for an error.
    fn place(&self, register: Register) -> PathBuf {
        let Chip { address, .. } = self.chip;
        PathBuf::from(format!("{} {address:#04x} register {:#04x} ({register:?})", self.path.display(), register as u8))
    }
}

/// What makes an I2C bus appear.
pub const BUS_MEND: &str = "load the bus's user interface: modprobe i2c-dev, at every boot by: echo i2c-dev > \
                            /etc/modules-load.d/i2c-dev.conf; on a Raspberry Pi switch the bus on first: \
                            dtparam=i2c_arm=on in /boot/firmware/config.txt";

/// What gives the right to use an I2C bus.
pub const GROUP_MEND: &str = "run: usermod -aG i2c edgewatt, and start the daemon again; where there is no group i2c, \
                              first: groupadd --system i2c, and in /etc/udev/rules.d/70-edgewatt-i2c.rules: \
                              SUBSYSTEM==\"i2c-dev\", GROUP=\"i2c\", MODE=\"0660\"";

/// A transfer that another try may do: nobody answered, or the bus was lost to somebody else.
fn is_disturbance(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EIO | ENXIO | EREMOTEIO | ETIMEDOUT))
}

/// The last part of a link's target.
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
