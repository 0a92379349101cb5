//! One chip on an I2C bus, read and written by SMBus words through `/dev/i2c-N`.
//!
//! Source: `include/uapi/linux/i2c.h` and `i2c-dev.h` of the kernel.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `I2C_SMBUS_WORD_DATA`.
const WORD_DATA: u32 = 3;
/// `I2C_SMBUS_BLOCK_MAX`, with a byte for the length and one for a checksum.
const BLOCK_BYTES: usize = 32 + 2;

/// The kernel's `union i2c_smbus_data`.
#[repr(C)]
union Data {
    word: u16,
    _block: [u8; BLOCK_BYTES],
}

/// The kernel's `struct i2c_smbus_ioctl_data`.
#[repr(C)]
struct Transfer {
    /// A [`Direction`].
    read_write: u8,
    /// The register.
    command: u8,
    /// The kind of transfer, which says what of `data` is used.
    size: u32,
    data: *mut Data,
}

/// `I2C_SMBUS_WRITE` and `I2C_SMBUS_READ`.
#[derive(Clone, Copy)]
enum Direction {
    Write = 0,
    Read = 1,
}

mod ioctl {
    use super::Transfer;

    nix::ioctl_write_int_bad!(i2c_slave, 0x0703);
    nix::ioctl_write_ptr_bad!(i2c_smbus, 0x0720, Transfer);
}

/// A chip on a bus, under the address that was taken when it was opened.
pub(crate) struct I2c(File);

impl I2c {
    /// Opens the bus at `path` and takes the chip's 7-bit `address`.
    ///
    /// # Errors
    /// Those of the kernel; `EBUSY` means that a kernel driver has the chip.
    pub(crate) fn open(path: &Path, address: u16) -> io::Result<Self> {
        let bus = File::options().read(true).write(true).open(path)?;
        // SAFETY: the argument is a number.
        unsafe { ioctl::i2c_slave(bus.as_raw_fd(), i32::from(address)) }?;
        Ok(Self(bus))
    }

    /// Reads the word in `register`; SMBus sends its low byte first.
    pub(crate) fn read_word(&self, register: u8) -> io::Result<u16> {
        self.transfer(Direction::Read, register, 0)
    }

    /// Writes `word` to `register`, low byte first.
    pub(crate) fn write_word(&self, register: u8, word: u16) -> io::Result<()> {
        self.transfer(Direction::Write, register, word).map(drop)
    }

    fn transfer(&self, direction: Direction, register: u8, word: u16) -> io::Result<u16> {
        let mut data = Data { _block: [0; BLOCK_BYTES] };
        data.word = word;
        let transfer =
            Transfer { read_write: direction as u8, command: register, size: WORD_DATA, data: &raw mut data };
        // SAFETY: both live until the call returns; the kernel reads or writes at most all of `data`.
        unsafe { ioctl::i2c_smbus(self.0.as_raw_fd(), &raw const transfer) }?;
        // SAFETY: every byte of `data` was written above, and any bits are a word.
        Ok(unsafe { data.word })
    }
}

const _: () = {
    assert!(size_of::<Data>() == 34 && align_of::<Data>() == 2);
    assert!(size_of::<Transfer>() == 8 + size_of::<usize>());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_bus_keeps_the_kernels_error() {
        let open = |path: &str| I2c::open(Path::new(path), 0x40).map(drop).unwrap_err();
        assert_eq!(open("/dev/i2c-none").kind(), io::ErrorKind::NotFound);
        assert_eq!(open("/dev/null").raw_os_error(), Some(nix::libc::ENOTTY));
    }
}
