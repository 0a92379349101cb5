//! One chip: identifies it, sets it up, reads it, and notices that it was reset.
//!
//! Owns the order of transfers and the retries of those that were disturbed. Allocates nothing for a frame.

use std::io;
use std::time::Duration;

use nix::libc::{EAGAIN, EINTR, EIO, ENXIO, EREMOTEIO, ETIMEDOUT};

use super::{Registers, Step};
use crate::source::SourceError;

/// Other traffic on a bus sometimes disturbs a transfer; a chip that is gone fails every time.
const TRIES: u32 = 3;

/// The registers of one chip, behind whatever bus.
pub trait Bus: Send {
    /// Reads `register` and those that follow it.
    ///
    /// # Errors
    /// Those of the kernel.
    fn read(&mut self, register: u8, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` to `register` and those that follow it.
    ///
    /// # Errors
    /// Those of the kernel.
    fn write(&mut self, register: u8, bytes: &[u8]) -> io::Result<()>;
}

/// The way to a chip.
pub trait Connect: Send + Sync {
    /// Returns the bus and the chip's place on it, such as `/dev/i2c-1 0x68`.
    fn name(&self) -> String;

    /// Opens the bus.
    ///
    /// # Errors
    /// The bus is absent or may not be used, or a kernel driver has the chip; the text says what to do.
    fn open(&self) -> Result<Box<dyn Bus>, SourceError>;

    /// Returns what a failed transfer means, and what to do.
    fn explain(&self, error: &io::Error) -> String;
}

/// A chip on an open bus.
pub struct Chip<'a> {
    connect: &'a dyn Connect,
    bus: &'a mut dyn Bus,
    registers: &'a Registers,
    /// What was read of the registers that are compared.
    compared: Vec<u8>,
}

impl<'a> Chip<'a> {
    pub fn new(connect: &'a dyn Connect, bus: &'a mut dyn Bus, registers: &'a Registers) -> Self {
        let compared = vec![0; registers.verified().map_or(0, |(_, values)| values.len())];
        Self { connect, bus, registers, compared }
    }

    /// Checks that it is the right chip.
    ///
    /// # Errors
    /// It does not answer, or is another one; the text says what it is.
    pub fn identify(&mut self) -> Result<(), SourceError> {
        if let Some([register, value]) = self.registers.check.as_ref().and_then(|check| check.bank.as_deref()) {
            self.write(*register, &[*value])?;
        }
        self.compare_identity()
    }

    /// Does the same without a write, so that another program that uses the chip is not disturbed.
    ///
    /// # Errors
    /// As those of [`Chip::identify`].
    pub fn compare_identity(&mut self) -> Result<(), SourceError> {
        let Some(identity) = &self.registers.check else { return Ok(()) };
        let mut found = [0];
        self.read(identity.register, &mut found)?;
        if identity.values.contains(&found[0]) {
            return Ok(());
        }
        let expected: Vec<String> = identity.values.iter().map(|value| hex(&[*value])).collect();
        let advice = match found[0] {
            0x00 | 0xff => "nothing seems to be connected, or the chip has no supply",
            _ => "another chip is there; if its registers are the same, add this value to check.values",
        };
        let (register, found) = (identity.register, found[0]);
        Err(self.error(format!("register {register:#04x} has {found:#04x}, not {}: {advice}", either(&expected))))
    }

    /// Writes what the configuration says, and reads it back. `pause` waits, and returns whether to go on.
    ///
    /// # Errors
    /// A transfer has failed, or the chip does not keep what was written.
    pub fn set_up(
        &mut self,
        mut pause: impl FnMut(Duration) -> Result<bool, SourceError>,
    ) -> Result<bool, SourceError> {
        for step in &self.registers.init {
            match step {
                Step::Write(bytes) => {
                    if let Some((register, values)) = bytes.split_first() {
                        self.write(*register, values)?;
                    }
                }
                Step::Pause(ms) => {
                    if !pause(crate::schema::milliseconds(*ms))? {
                        return Ok(false);
                    }
                }
            }
        }
        self.compare("the chip does not keep it; name a register in verify that it keeps")?;
        Ok(true)
    }

    /// Checks that the chip still is as it was set up.
    ///
    /// # Errors
    /// It was reset, or does not answer any more.
    pub fn verify(&mut self) -> Result<(), SourceError> {
        self.compare("the chip was reset, or another program writes to it; it is set up again")
    }

    fn compare(&mut self, advice: &str) -> Result<(), SourceError> {
        let Some((register, values)) = self.registers.verified() else { return Ok(()) };
        let mut compared = std::mem::take(&mut self.compared);
        let read = self.read(register, &mut compared);
        self.compared = compared;
        read?;
        if self.compared == values {
            return Ok(());
        }
        let (found, values) = (hex(&self.compared), hex(values));
        Err(self.error(format!("register {register:#04x} has {found}, not {values}: {advice}")))
    }

    /// Returns whether a new frame is there.
    ///
    /// # Errors
    /// The transfer has failed.
    pub fn is_ready(&mut self, ready: &super::Ready) -> Result<bool, SourceError> {
        let mut status = [0];
        self.read(ready.register, &mut status)?;
        Ok(status[0] & ready.mask == ready.mask)
    }

    /// Reads the bytes of a frame.
    ///
    /// # Errors
    /// The transfer has failed.
    pub fn read_frame(&mut self, bytes: &mut [u8]) -> Result<(), SourceError> {
        self.read(self.registers.burst.register, bytes)
    }

    /// Returns an error of this chip.
    pub fn error(&self, reason: String) -> SourceError {
        SourceError::Device { name: self.connect.name(), reason }
    }

    fn read(&mut self, register: u8, bytes: &mut [u8]) -> Result<(), SourceError> {
        let number = self.number(register, bytes.len());
        self.transfer(register, |bus| bus.read(number, bytes))
    }

    fn write(&mut self, register: u8, bytes: &[u8]) -> Result<(), SourceError> {
        let number = self.number(register, bytes.len());
        self.transfer(register, |bus| bus.write(number, bytes))
    }

    /// Returns what is sent for a register.
    fn number(&self, register: u8, bytes: usize) -> u8 {
        if bytes > 1 { register | self.registers.multi_bit } else { register }
    }

    /// Does a transfer, and repeats it if the bus was disturbed.
    fn transfer(
        &mut self,
        register: u8,
        mut transfer: impl FnMut(&mut dyn Bus) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        let mut tries = 1;
        loop {
            match transfer(self.bus) {
                Ok(()) => return Ok(()),
                Err(error) if tries < TRIES && is_disturbance(&error) => tries += 1,
                Err(error) => {
                    let what = self.connect.explain(&error);
                    return Err(self.error(format!("register {register:#04x}: {what}")));
                }
            }
        }
    }
}

/// Returns whether a retry may help: no chip answered, or another master was faster. After a time-out, which is long, it
/// does not.
fn is_disturbance(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EIO | ENXIO | EREMOTEIO))
}

/// Returns whether the error means that no chip answered.
pub fn is_no_answer(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EIO | ENXIO | EREMOTEIO))
}

/// Returns whether the error means that the bus hangs.
pub fn is_hanging(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ETIMEDOUT)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:#04x}")).collect::<Vec<_>>().join(" ")
}

/// Returns the values as words.
fn either(values: &[String]) -> String {
    match values {
        [value] => value.clone(),
        values => format!("one of {}", values.join(", ")),
    }
}
