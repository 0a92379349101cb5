//! One chip on an SPI bus, read and written through `/dev/spidevB.C`.
//!
//! Source: `include/uapi/linux/spi/spidev.h` of the kernel.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The most that one transfer has: a page, which is what the kernel's driver takes by default.
const MOST_BYTES: usize = 4096;
const BITS: u8 = 8;

/// The kernel's `struct spi_ioc_transfer`.
#[repr(C)]
#[derive(Default)]
struct Transfer {
    tx_buf: u64,
    rx_buf: u64,
    len: u32,
    speed_hz: u32,
    delay_usecs: u16,
    bits_per_word: u8,
    cs_change: u8,
    tx_nbits: u8,
    rx_nbits: u8,
    word_delay_usecs: u8,
    pad: u8,
}

mod ioctl {
    use super::Transfer;

    /// `SPI_IOC_MAGIC`.
    const MAGIC: u8 = b'k';
    nix::ioctl_write_buf!(transfer, MAGIC, 0, Transfer);
    nix::ioctl_write_ptr!(write_mode, MAGIC, 1, u8);
    nix::ioctl_write_ptr!(write_bits, MAGIC, 3, u8);
    nix::ioctl_write_ptr!(write_speed, MAGIC, 4, u32);
}

/// A chip on a bus.
pub struct Spi {
    device: File,
    speed_hz: u32,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Spi {
    /// Opens the chip at `path`, with one of the four modes and a clock of at most `speed_hz`. Transfers have up to
    /// `most_bytes` bytes.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(path: &Path, mode: u8, speed_hz: u32, most_bytes: usize) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open(path)?;
        let (fd, bits) = (device.as_raw_fd(), BITS);
        // SAFETY: the kernel reads one byte or one u32 at each address, which is that of a value that lives until the calls
        // return.
        unsafe {
            ioctl::write_mode(fd, &raw const mode)?;
            ioctl::write_bits(fd, &raw const bits)?;
            ioctl::write_speed(fd, &raw const speed_hz)?;
        }
        let size = most_bytes.clamp(1, MOST_BYTES);
        Ok(Self { device, speed_hz, sent: vec![0; size], received: vec![0; size] })
    }

    /// Sends `first`, then zeros, and puts what comes back after it into `bytes`.
    ///
    /// # Errors
    /// Those of the kernel. A chip that is absent is not among them: its line reads as all ones or all zeros.
    pub fn read(&mut self, first: u8, bytes: &mut [u8]) -> io::Result<()> {
        self.exchange(&[first], bytes.len())?;
        bytes.copy_from_slice(&self.received[1..=bytes.len()]);
        Ok(())
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.exchange(bytes, 0)
    }

    /// Sends `bytes` and then `more` zeros, in one transfer.
    fn exchange(&mut self, bytes: &[u8], more: usize) -> io::Result<()> {
        let length = bytes.len() + more;
        if length > self.sent.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many bytes for one transfer"));
        }
        self.sent[..length].fill(0);
        self.sent[..bytes.len()].copy_from_slice(bytes);
        let transfer = Transfer {
            tx_buf: self.sent.as_ptr().expose_provenance() as u64,
            rx_buf: self.received.as_mut_ptr().expose_provenance() as u64,
            len: length as u32,
            speed_hz: self.speed_hz,
            bits_per_word: BITS,
            ..Transfer::default()
        };
        // SAFETY: the kernel reads and writes `length` bytes at the two addresses; both buffers are at least that long, and
        // live until the call returns.
        unsafe { ioctl::transfer(self.device.as_raw_fd(), &[transfer]) }?;
        Ok(())
    }
}

const _: () = assert!(size_of::<Transfer>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_bus_keeps_the_kernels_error() {
        let open = |path: &str| Spi::open(Path::new(path), 0, 1_000_000, 16).map(drop).unwrap_err();
        assert_eq!(open("/dev/spidev-none").kind(), io::ErrorKind::NotFound);
        assert_eq!(open("/dev/null").raw_os_error(), Some(nix::libc::ENOTTY));
    }
}
