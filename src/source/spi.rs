//! A chip on an SPI bus, read by its registers through `/dev/spidevB.C`.
//!
//! Owns the bits that a chip wants before the number of a register, and what errors mean. Leaves to `registers` how the chip
//! is set up and read, and to `sys::spi` the calls of the kernel.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::registers::chip::Chip;
use super::registers::{Bus, Connect, RegisterSource, registers_table};
use super::{Buffer, Exclusive, FrameProducer, OpenOptions, SourceError, SourceKind, Survey, WhenFull};
use crate::schema::{Checker, Key, table};
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::sys::permission::permit;

const MAX_SPEED_HZ: u32 = 50_000_000;
/// The longest transfer: all registers, and the number of the first.
const MOST_BYTES: usize = 257;
const BITS_PER_BYTE: usize = 8;
const FIX: &str = "on a Raspberry Pi: sudo raspi-config nonint do_spi 0, or dtparam=spi=on in /boot/firmware/config.txt; on other \
                   boards, the device tree must name a spidev";
const RULE: &str = "SUBSYSTEM==\"spidev\", MODE=\"0660\", GROUP=\"spi\"; run first: sudo groupadd --system spi";

registers_table! {
    /// Reads a chip on an SPI bus by its registers: it is set up by what `init` writes, and then read at a steady rate. SPI is
    /// faster than I2C, and needs a wire more.
    pub struct Spi {
        /// The device file: bus and chip select.
        pub device: PathBuf = PathBuf::from("/dev/spidev0.0");
        /// The SPI mode, which the chip's datasheet names: polarity and phase of the clock.
        pub mode: u8 = 0, range(0, 3);
        /// The highest clock of the bus.
        pub speed_hz: u32 = 1_000_000, range(1_000, MAX_SPEED_HZ), unit("Hz");
        /// The bit that is added to the number of a register to read it.
        pub read_bit: u8 = 0x80, shown("0x80");
    }
}

impl Spi {
    fn chip(&self) -> SpiChip {
        let Self { device, mode, speed_hz, read_bit, .. } = self;
        SpiChip { device: device.clone(), mode: *mode, speed_hz: *speed_hz, read_bit: *read_bit }
    }
}

impl SourceKind for Spi {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if !self.device.is_absolute() {
            let message = format!(
                "`{}` is not the whole path of a device; write it as \"/dev/spidev0.0\"",
                self.device.display()
            );
            checker.problem(&key.child("device"), message);
        }
        self.registers().check(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
        let (bytes, transfers) = self.registers().read_for_frame();
        let most_hz = f64::from(self.speed_hz) / ((bytes + transfers) * BITS_PER_BYTE) as f64;
        if self.rate_hz > most_hz {
            let message = format!("with speed_hz = {} it is at most {most_hz:.0}; raise speed_hz", self.speed_hz);
            checker.problem(&key.child("rate_hz"), message);
        }
    }

    fn spec(&self) -> StreamSpec {
        self.registers().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, _options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        Ok(Box::new(RegisterSource::new(Box::new(self.chip()), self.registers())?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        // Whatever is wrong, the source waits until it is right.
        Ok(())
    }

    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        let (chip, registers, says) = (self.chip(), self.registers(), self.device.display());
        let mut bus = match chip.connect() {
            Ok(bus) => bus,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound => Survey::absent(format!("{says}: no such device")).fix(FIX),
                    ErrorKind::PermissionDenied => {
                        Survey::broken(format!("{says}: permission denied")).fix(permit(&self.device, RULE))
                    }
                    _ => Survey::broken(format!("{says}: {error}")),
                };
            }
        };
        // It is one transfer that changes nothing, so it disturbs neither the chip nor a daemon that reads it.
        match (Chip::new(&chip, &mut bus, &registers).compare_identity(), &registers.check) {
            (Err(error), _) => Survey::broken(error.to_string()),
            (Ok(()), Some(check)) => {
                Survey::ready(format!("the chip answers on {says}, register {:#04x} is right", check.register))
                    .node(&self.device, RULE)
            }
            (Ok(()), None) => Survey::ready(format!("{says} is there; without `check`, the chip was not asked"))
                .node(&self.device, RULE),
        }
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![Exclusive::new(format!("SPI {}", self.device.display()), "device")]
    }

    fn has_time(&self) -> bool {
        true
    }

    fn endless(&self) -> Option<&'static str> {
        Some("reads a chip, which has no end; start it without --once, or use the source lines or replay")
    }
}

/// The way to a chip on an SPI bus.
struct SpiChip {
    device: PathBuf,
    mode: u8,
    speed_hz: u32,
    read_bit: u8,
}

impl SpiChip {
    fn connect(&self) -> io::Result<SpiBus<crate::sys::spi::Spi>> {
        let wires = crate::sys::spi::Spi::open(&self.device, self.mode, self.speed_hz, MOST_BYTES)?;
        Ok(SpiBus::new(wires, self.read_bit))
    }
}

impl Connect for SpiChip {
    fn name(&self) -> String {
        self.device.display().to_string()
    }

    fn open(&self) -> Result<Box<dyn Bus>, SourceError> {
        let bus = self.connect().map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::NotFound => format!("no such device; {FIX}"),
                ErrorKind::PermissionDenied => format!("permission denied; {}", permit(&self.device, RULE)),
                _ => error.to_string(),
            };
            SourceError::Device { name: self.name(), reason }
        })?;
        Ok(Box::new(bus))
    }

    fn explain(&self, error: &io::Error) -> String {
        error.to_string()
    }
}

/// The wires of a bus: sends bytes, and receives as many.
trait Wires: Send {
    /// Sends `first`, then zeros, and puts what comes back after it into `bytes`.
    fn read(&mut self, first: u8, bytes: &mut [u8]) -> io::Result<()>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Wires for crate::sys::spi::Spi {
    fn read(&mut self, first: u8, bytes: &mut [u8]) -> io::Result<()> {
        Self::read(self, first, bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        Self::write(self, bytes)
    }
}

/// An open chip.
struct SpiBus<W> {
    wires: W,
    read_bit: u8,
    sent: Vec<u8>,
}

impl<W: Wires> SpiBus<W> {
    fn new(wires: W, read_bit: u8) -> Self {
        Self { wires, read_bit, sent: Vec::with_capacity(MOST_BYTES) }
    }
}

impl<W: Wires> Bus for SpiBus<W> {
    fn read(&mut self, register: u8, bytes: &mut [u8]) -> io::Result<()> {
        self.wires.read(register | self.read_bit, bytes)
    }

    fn write(&mut self, register: u8, bytes: &[u8]) -> io::Result<()> {
        self.sent.clear();
        self.sent.push(register & !self.read_bit);
        self.sent.extend_from_slice(bytes);
        self.wires.write(&self.sent)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::registers::tests::Virtual;

    /// An emulated chip by its wires: the first bit of the first byte says whether it is read.
    struct Emulated(Virtual);

    impl Wires for Emulated {
        fn read(&mut self, first: u8, bytes: &mut [u8]) -> io::Result<()> {
            assert_ne!(first & 0x80, 0, "this writes");
            self.0.spi(first, bytes)
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            assert_eq!(bytes[0] & 0x80, 0, "this reads");
            self.0.spi(bytes[0], &mut bytes[1..].to_vec())
        }
    }

    /// Returns an emulated chip on the bus that the source describes.
    pub(crate) fn emulated(spi: &Spi, chip: Virtual) -> Box<dyn Bus> {
        Box::new(SpiBus::new(Emulated(chip), spi.read_bit))
    }
}
