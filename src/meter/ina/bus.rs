//! Transfers to and from the registers of one chip, which are repeated if the bus was disturbed.
//!
//! A chip sends the high byte of a register first. SMBus transfers words with the low byte first, so they are swapped.
//! Source: `Documentation/i2c/dev-interface.rst`.

use std::io;
use std::path::PathBuf;

use nix::libc::{EAGAIN, EINTR, EIO, ENXIO, EREMOTEIO, ETIMEDOUT};

use crate::meter::MeterError;
use crate::sys::i2c::{BurstBy, I2c};

/// Other traffic on the bus sometimes disturbs a transfer; a chip that is gone fails every time.
const TRIES: u32 = 3;

/// Where a chip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The N of `/dev/i2c-N`.
    pub bus: u8,
    pub address: u16,
}

impl Place {
    /// Returns the device's name in sysfs, such as `1-0040`.
    pub(crate) fn device(self) -> String {
        format!("{}-{:04x}", self.bus, self.address)
    }

    pub(crate) fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/i2c-{}", self.bus))
    }

    /// Returns the chip and one of its registers, for an error.
    pub(crate) fn register(self, register: Register) -> PathBuf {
        let Register { address, name } = register;
        PathBuf::from(format!("{} {:#04x} register {address:#04x} ({name})", self.path().display(), self.address))
    }
}

/// A register, with the name that errors show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register {
    pub address: u8,
    pub name: &'static str,
}

impl Register {
    pub(crate) const fn new(address: u8, name: &'static str) -> Self {
        Self { address, name }
    }
}

/// The registers of one chip: on an I2C bus, or fake ones in tests. Bytes are in the order of the chip.
pub(crate) trait Registers: Send {
    fn read(&mut self, address: u8, bytes: &mut [u8]) -> io::Result<()>;
    fn write(&mut self, address: u8, word: u16) -> io::Result<()>;
}

impl Registers for I2c {
    fn read(&mut self, address: u8, bytes: &mut [u8]) -> io::Result<()> {
        if let [high, low] = bytes {
            [*high, *low] = self.read_word(address)?.to_le_bytes();
            return Ok(());
        }
        if self.burst_by() == BurstBy::Bytes {
            let reason = "the bus cannot read a register of more than two bytes; connect the chip to another bus";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        I2c::read(self, address, bytes)
    }

    fn write(&mut self, address: u8, word: u16) -> io::Result<()> {
        self.write_word(address, word.swap_bytes())
    }
}

/// The way to the registers of a chip.
pub(crate) struct Bus<'a> {
    pub registers: &'a mut dyn Registers,
    pub place: Place,
    /// Number of retried transfers since the start.
    pub retries: &'a mut u64,
}

impl Bus<'_> {
    /// Reads a register of two bytes.
    pub(crate) fn word(&mut self, register: Register) -> Result<u16, MeterError> {
        self.bytes(register).map(u16::from_be_bytes)
    }

    /// Reads a register of `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self, register: Register) -> Result<[u8; N], MeterError> {
        let mut bytes = [0; N];
        self.transfer(register, |registers| registers.read(register.address, &mut bytes))?;
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, register: Register, word: u16) -> Result<(), MeterError> {
        self.transfer(register, |registers| registers.write(register.address, word))
    }

    fn transfer(
        &mut self,
        register: Register,
        mut transfer: impl FnMut(&mut dyn Registers) -> io::Result<()>,
    ) -> Result<(), MeterError> {
        let mut tries = 1;
        loop {
            match transfer(self.registers) {
                Ok(()) => return Ok(()),
                Err(error) if tries < TRIES && is_disturbance(&error) => {
                    tries += 1;
                    *self.retries += 1;
                }
                Err(error) => return Err(self.not_transferred(register, error)),
            }
        }
    }

    fn not_transferred(&self, register: Register, error: io::Error) -> MeterError {
        let path = self.place.register(register);
        if !is_disturbance(&error) {
            return MeterError::Failed { path, source: error };
        }
        MeterError::Absent {
            path,
            reason: format!("no response in {TRIES} tries: {error} (retries since the start: {})", self.retries),
            fix: format!(
                "check wiring, supply and address; i2cdetect -y {} lists the chips that respond",
                self.place.bus
            ),
        }
    }
}

/// Whether a retry may help: no chip responded, or another bus master was faster.
fn is_disturbance(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EIO | ENXIO | EREMOTEIO | ETIMEDOUT))
}
