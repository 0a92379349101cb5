//! One chip on an I2C bus, read and written through `/dev/i2c-N`.
//!
//! A bus that can do plain I2C reads a register and all that follow in one transaction: nothing comes between. One that only
//! knows SMBus does it in blocks of 32 bytes, or byte by byte.
//! Source: `include/uapi/linux/i2c.h` and `i2c-dev.h` of the kernel.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

/// What makes an I2C bus appear.
pub const BUS_FIX: &str = "load the I2C user interface: sudo modprobe i2c-dev; at every boot: echo i2c-dev | sudo tee \
                           /etc/modules-load.d/i2c-dev.conf; on a Raspberry Pi, first enable the bus: sudo raspi-config nonint \
                           do_i2c 0, or dtparam=i2c_arm=on in /boot/firmware/config.txt";

/// The udev rule that gives a bus a group.
pub const RULE: &str = "SUBSYSTEM==\"i2c-dev\", MODE=\"0660\", GROUP=\"i2c\"; run first: sudo groupadd --system i2c";

/// `I2C_SMBUS_BLOCK_MAX`.
const BLOCK_BYTES: usize = 32;
/// `I2C_M_RD`: a message that is read.
const READ_MESSAGE: u16 = 1;
/// The most that one message has, far below the kernel's limit of 8192.
const MOST_BYTES: usize = 4096;

/// `I2C_FUNC_...`: what a bus can do.
mod function {
    pub(super) const I2C: u64 = 0x0000_0001;
    pub(super) const READ_BLOCK: u64 = 0x0400_0000;
    pub(super) const WRITE_BLOCK: u64 = 0x0800_0000;
}

/// The kernel's `union i2c_smbus_data`: the length of a block is its first byte, and there may be a checksum at its end.
#[repr(C)]
union Data {
    byte: u8,
    word: u16,
    block: [u8; 1 + BLOCK_BYTES + 1],
}

/// The kernel's `struct i2c_smbus_ioctl_data`.
#[repr(C)]
struct Transfer {
    /// A [`Direction`].
    read_write: u8,
    /// The register.
    command: u8,
    /// The kind of transfer, which says what of `data` is used: a [`Size`].
    size: u32,
    data: *mut Data,
}

/// The kernel's `struct i2c_msg`.
#[repr(C)]
struct Message {
    address: u16,
    flags: u16,
    length: u16,
    bytes: *mut u8,
}

/// The kernel's `struct i2c_rdwr_ioctl_data`.
#[repr(C)]
struct Messages {
    first: *mut Message,
    count: u32,
}

/// `I2C_SMBUS_WRITE` and `I2C_SMBUS_READ`.
#[derive(Clone, Copy)]
enum Direction {
    Write = 0,
    Read = 1,
}

/// `I2C_SMBUS_BYTE_DATA`, `I2C_SMBUS_WORD_DATA` and `I2C_SMBUS_I2C_BLOCK_DATA`.
#[derive(Clone, Copy)]
enum Size {
    Byte = 2,
    Word = 3,
    Block = 8,
}

mod ioctl {
    use super::{Messages, Transfer};

    nix::ioctl_write_int_bad!(i2c_slave, 0x0703);
    nix::ioctl_read_bad!(i2c_funcs, 0x0705, nix::libc::c_ulong);
    nix::ioctl_write_ptr_bad!(i2c_rdwr, 0x0707, Messages);
    nix::ioctl_write_ptr_bad!(i2c_smbus, 0x0720, Transfer);
}

/// How a bus reads several registers that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BurstBy {
    /// All in one transaction.
    Transaction,
    /// SMBus blocks of 32 bytes.
    Blocks,
    /// One transaction a byte.
    Bytes,
}

/// A chip on a bus, under the address that was taken when it was opened.
pub struct I2c {
    bus: File,
    address: u16,
    functions: u64,
}

impl I2c {
    /// Opens the bus at `path` and takes the chip's 7-bit `address`.
    ///
    /// # Errors
    /// Those of the kernel; `EBUSY` means that a kernel driver has the chip.
    pub fn open(path: &Path, address: u16) -> io::Result<Self> {
        let bus = File::options().read(true).write(true).open(path)?;
        // SAFETY: the argument is a number.
        unsafe { ioctl::i2c_slave(bus.as_raw_fd(), i32::from(address)) }?;
        let mut functions: libc::c_ulong = 0;
        // SAFETY: the kernel writes one unsigned long to the address, which is that of `functions`.
        unsafe { ioctl::i2c_funcs(bus.as_raw_fd(), &raw mut functions) }?;
        // An unsigned long has 32 bits on some machines; all bits in use are among them.
        #[allow(clippy::useless_conversion)]
        Ok(Self { bus, address, functions: u64::from(functions) })
    }

    /// Returns how [`I2c::read`] reads several registers.
    pub fn burst_by(&self) -> BurstBy {
        let can = |function| self.functions & function != 0;
        match () {
            () if can(function::I2C) => BurstBy::Transaction,
            () if can(function::READ_BLOCK) => BurstBy::Blocks,
            () => BurstBy::Bytes,
        }
    }

    /// Reads `register` and those that follow it.
    ///
    /// # Errors
    /// Those of the kernel: `ENXIO` or `EREMOTEIO` if no chip answers.
    pub fn read(&self, register: u8, bytes: &mut [u8]) -> io::Result<()> {
        match self.burst_by() {
            BurstBy::Transaction => self.read_at_once(register, bytes),
            // The kernel's adapters know a byte better than a block of one.
            BurstBy::Blocks if bytes.len() > 1 => parts(register, bytes).try_for_each(|(register, part)| {
                let mut block = [0; 1 + BLOCK_BYTES + 1];
                block[0] = part.len() as u8;
                let data = self.transfer(Direction::Read, Size::Block, register, Data { block })?;
                // SAFETY: all bytes of the union were written, here or by the kernel, and any bits are bytes.
                let block = unsafe { data.block };
                if usize::from(block[0]) < part.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the bus gave fewer bytes than it was asked for",
                    ));
                }
                part.copy_from_slice(&block[1..=part.len()]);
                Ok(())
            }),
            BurstBy::Blocks | BurstBy::Bytes => {
                for (byte, register) in bytes.iter_mut().zip((0..).map(|after: u8| register.wrapping_add(after))) {
                    let data = self.transfer(Direction::Read, Size::Byte, register, empty())?;
                    // SAFETY: all bytes of the union were written, and any bits are a byte.
                    *byte = unsafe { data.byte };
                }
                Ok(())
            }
        }
    }

    /// Writes `bytes` to `register` and those that follow it.
    ///
    /// # Errors
    /// Those of the kernel, as for [`I2c::read`].
    pub fn write(&self, register: u8, bytes: &[u8]) -> io::Result<()> {
        let can = |function| self.functions & function != 0;
        if can(function::I2C) && bytes.len() != 1 {
            return self.write_at_once(register, bytes);
        }
        if can(function::WRITE_BLOCK) && (2..=BLOCK_BYTES).contains(&bytes.len()) {
            let mut block = [0; 1 + BLOCK_BYTES + 1];
            block[0] = bytes.len() as u8;
            block[1..=bytes.len()].copy_from_slice(bytes);
            return self.transfer(Direction::Write, Size::Block, register, Data { block }).map(drop);
        }
        bytes.iter().zip((0..).map(|after: u8| register.wrapping_add(after))).try_for_each(|(byte, register)| {
            let mut data = empty();
            data.byte = *byte;
            self.transfer(Direction::Write, Size::Byte, register, data).map(drop)
        })
    }

    /// Reads the word in `register`; SMBus sends its low byte first.
    pub(crate) fn read_word(&self, register: u8) -> io::Result<u16> {
        let data = self.transfer(Direction::Read, Size::Word, register, empty())?;
        // SAFETY: all bytes of the union were written, and any bits are a word.
        Ok(unsafe { data.word })
    }

    /// Writes `word` to `register`, low byte first.
    pub(crate) fn write_word(&self, register: u8, word: u16) -> io::Result<()> {
        let mut data = empty();
        data.word = word;
        self.transfer(Direction::Write, Size::Word, register, data).map(drop)
    }

    fn transfer(&self, direction: Direction, size: Size, register: u8, mut data: Data) -> io::Result<Data> {
        let transfer =
            Transfer { read_write: direction as u8, command: register, size: size as u32, data: &raw mut data };
        // SAFETY: both live until the call returns; the kernel reads or writes at most all of `data`.
        unsafe { ioctl::i2c_smbus(self.bus.as_raw_fd(), &raw const transfer) }?;
        Ok(data)
    }

    fn read_at_once(&self, mut register: u8, bytes: &mut [u8]) -> io::Result<()> {
        let length = length(bytes.len())?;
        let mut messages = [
            Message { address: self.address, flags: 0, length: 1, bytes: &raw mut register },
            Message { address: self.address, flags: READ_MESSAGE, length, bytes: bytes.as_mut_ptr() },
        ];
        self.transact(&mut messages)
    }

    fn write_at_once(&self, register: u8, bytes: &[u8]) -> io::Result<()> {
        let mut all = [&[register], bytes].concat();
        let length = length(all.len())?;
        self.transact(&mut [Message { address: self.address, flags: 0, length, bytes: all.as_mut_ptr() }])
    }

    /// Does all messages in one transaction. Each has the address and length of bytes that live until this returns, and
    /// that nothing else borrows.
    fn transact(&self, messages: &mut [Message]) -> io::Result<()> {
        let all = Messages { first: messages.as_mut_ptr(), count: messages.len() as u32 };
        // SAFETY: `all` has the address and number of `messages`; the kernel reads or writes at most `length` bytes of each,
        // which the callers have, and all of it lives until the call returns.
        unsafe { ioctl::i2c_rdwr(self.bus.as_raw_fd(), &raw const all) }?;
        Ok(())
    }
}

fn empty() -> Data {
    Data { block: [0; 1 + BLOCK_BYTES + 1] }
}

fn length(bytes: usize) -> io::Result<u16> {
    let few = u16::try_from(bytes).ok().filter(|_| bytes <= MOST_BYTES);
    few.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many bytes for one transaction"))
}

/// Returns the parts of `bytes` that each fit into a block, with the register that each begins at.
fn parts(register: u8, bytes: &mut [u8]) -> impl Iterator<Item = (u8, &mut [u8])> {
    let registers = (0..).map(move |part: usize| register.wrapping_add((part * BLOCK_BYTES) as u8));
    registers.zip(bytes.chunks_mut(BLOCK_BYTES))
}

const _: () = {
    assert!(size_of::<Data>() == 34 && align_of::<Data>() == 2);
    assert!(size_of::<Transfer>() == 8 + size_of::<usize>());
    assert!(size_of::<Message>() == 8 + size_of::<usize>());
    assert!(size_of::<Messages>() == 2 * size_of::<usize>());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_bus_keeps_the_kernels_error() {
        let open = |path: &str| I2c::open(Path::new(path), 0x40).map(drop).unwrap_err();
        assert_eq!(open("/dev/i2c-none").kind(), io::ErrorKind::NotFound);
        assert_eq!(open("/dev/null").raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn a_long_read_is_cut_into_blocks_that_follow_each_other() {
        let mut bytes = [0; 70];
        let parts: Vec<(u8, usize)> = parts(0x3b, &mut bytes).map(|(register, part)| (register, part.len())).collect();
        assert_eq!(parts, [(0x3b, 32), (0x5b, 32), (0x7b, 6)]);
        assert!(length(MOST_BYTES).is_ok() && length(MOST_BYTES + 1).is_err());
    }
}
