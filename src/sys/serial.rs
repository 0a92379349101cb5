//! Serial ports: how a port is set up for bytes as they come, and who else has it open.
//!
//! Source: `include/uapi/asm-generic/termbits.h` and `ioctls.h`, `include/uapi/linux/serial.h` of the kernel.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// The speeds that have names, which older programs need to understand a port that this one has set up.
const NAMED_SPEEDS: [(u32, libc::speed_t); 22] = [
    (300, libc::B300),
    (600, libc::B600),
    (1200, libc::B1200),
    (2400, libc::B2400),
    (4800, libc::B4800),
    (9600, libc::B9600),
    (19_200, libc::B19200),
    (38_400, libc::B38400),
    (57_600, libc::B57600),
    (115_200, libc::B115200),
    (230_400, libc::B230400),
    (460_800, libc::B460800),
    (500_000, libc::B500000),
    (576_000, libc::B576000),
    (921_600, libc::B921600),
    (1_000_000, libc::B1000000),
    (1_500_000, libc::B1500000),
    (2_000_000, libc::B2000000),
    (2_500_000, libc::B2500000),
    (3_000_000, libc::B3000000),
    (3_500_000, libc::B3500000),
    (4_000_000, libc::B4000000),
];
/// `ASYNC_LOW_LATENCY`.
const LOW_LATENCY: libc::c_int = 1 << 13;
/// A port that runs at another speed than it was asked for is refused from this difference on: a receiver samples the last
/// of ten bits less than half a bit off.
const MOST_OFF: f64 = 0.03;

/// How bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineSettings {
    pub baud: u32,
    /// 7 or 8.
    pub data_bits: u8,
    /// `Some(true)`: odd.
    pub odd_parity: Option<bool>,
    pub two_stop_bits: bool,
    pub flow: Flow,
    /// Closing the port lowers DTR.
    pub hang_up: bool,
    /// DTR and RTS are raised while the port is open.
    pub dtr: bool,
    /// An adapter passes each byte on at once.
    pub low_latency: bool,
}

/// How a sender is told to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    None,
    Hardware,
    Software,
}

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{0}")]
    Open(io::Error),
    /// Another program has it.
    #[error("it is in use")]
    InUse,
    #[error("it is not a serial port")]
    NotAPort,
    #[error("cannot {0}: {1}")]
    SetUp(&'static str, io::Error),
    #[error("the port cannot run at {wanted} baud; it would run at {would}")]
    Speed { wanted: u32, would: u32 },
    #[error("the port does not support {0}")]
    Unsupported(&'static str),
}

/// The kernel's `struct serial_struct`.
#[repr(C)]
struct SerialInfo {
    kind: libc::c_int,
    line: libc::c_int,
    port: libc::c_uint,
    irq: libc::c_int,
    flags: libc::c_int,
    xmit_fifo_size: libc::c_int,
    custom_divisor: libc::c_int,
    baud_base: libc::c_int,
    close_delay: libc::c_ushort,
    io_type: libc::c_char,
    reserved_char: [libc::c_char; 1],
    hub6: libc::c_int,
    closing_wait: libc::c_ushort,
    closing_wait2: libc::c_ushort,
    iomem_base: *mut libc::c_uchar,
    iomem_reg_shift: libc::c_ushort,
    port_high: libc::c_uint,
    iomap_base: libc::c_ulong,
}

mod ioctl {
    use nix::libc;

    use super::SerialInfo;

    nix::ioctl_read_bad!(get, libc::TCGETS2, libc::termios2);
    nix::ioctl_write_ptr_bad!(set, libc::TCSETS2, libc::termios2);
    nix::ioctl_none_bad!(exclusive, libc::TIOCEXCL);
    nix::ioctl_write_int_bad!(flush, libc::TCFLSH);
    nix::ioctl_write_ptr_bad!(lower, libc::TIOCMBIC, libc::c_int);
    nix::ioctl_read_bad!(get_info, libc::TIOCGSERIAL, SerialInfo);
    nix::ioctl_write_ptr_bad!(set_info, libc::TIOCSSERIAL, SerialInfo);
}

/// Opens the port at `path` for this process alone, sets it up, and throws away what has arrived before.
///
/// Does not wait for the port's driver, nor for a carrier, and does not make the port this process's terminal.
///
/// # Errors
/// The port is not there, is in use, or cannot be set up.
pub fn open(path: &Path, settings: &LineSettings) -> Result<File, PortError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let port = File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EBUSY) => PortError::InUse,
            // The driver of a folder, or of a file that has none.
            Some(libc::EISDIR) => PortError::NotAPort,
            _ => PortError::Open(error),
        }
    })?;
    let mut termios = read(&port)?;
    take(&port)?;
    set_up(&mut termios, settings);
    let fd = port.as_raw_fd();
    // SAFETY: the kernel reads one termios2 at the address, which is that of `termios` and lives until the call returns.
    unsafe { ioctl::set(fd, &raw const termios) }.map_err(|errno| PortError::SetUp("set it up", errno.into()))?;
    verify(&read(&port)?, &termios, settings)?;
    if !settings.dtr {
        let lines = libc::TIOCM_DTR | libc::TIOCM_RTS;
        // SAFETY: the kernel reads one int at the address, which is that of `lines` and lives until the call returns.
        unsafe { ioctl::lower(fd, &raw const lines) }.map_err(|errno| PortError::SetUp("lower DTR", errno.into()))?;
    }
    if settings.low_latency {
        lower_latency(&port).map_err(|error| PortError::SetUp("lower its latency (low_latency)", error))?;
    }
    // SAFETY: the argument is a number.
    unsafe { ioctl::flush(fd, libc::TCIFLUSH) }.map_err(|errno| PortError::SetUp("empty its buffer", errno.into()))?;
    Ok(port)
}

/// Takes the port, so that no other program reads a part of what comes. The kernel's exclusive mode does not bind root, and
/// not all programs honour the lock.
fn take(port: &File) -> Result<(), PortError> {
    // SAFETY: the call has no argument.
    unsafe { ioctl::exclusive(port.as_raw_fd()) }.map_err(|errno| PortError::SetUp("take it", errno.into()))?;
    match port.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(PortError::InUse),
        Err(std::fs::TryLockError::Error(error)) => Err(PortError::SetUp("lock it", error)),
    }
}

fn read(port: &File) -> Result<libc::termios2, PortError> {
    // SAFETY: all bits 0 are a valid termios2, which has only numbers.
    let mut termios: libc::termios2 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one termios2 to the address, which is that of `termios` and lives until the call returns.
    match unsafe { ioctl::get(port.as_raw_fd(), &raw mut termios) } {
        Ok(_) => Ok(termios),
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EINVAL) => Err(PortError::NotAPort),
        Err(errno) => Err(PortError::Open(errno.into())),
    }
}

/// Sets all that changes the bytes on their way to what leaves them as they are.
fn set_up(termios: &mut libc::termios2, settings: &LineSettings) {
    let when = |is: bool, flag: libc::tcflag_t| if is { flag } else { 0 };
    // A break is not a byte, nor is what came with a wrong parity.
    termios.c_iflag = libc::IGNBRK
        | when(settings.odd_parity.is_some(), libc::INPCK | libc::IGNPAR)
        | when(settings.flow == Flow::Software, libc::IXON | libc::IXOFF);
    termios.c_oflag = 0;
    termios.c_lflag = 0;
    // The speed of the input is the same.
    let named = NAMED_SPEEDS.into_iter().find(|(baud, _)| *baud == settings.baud);
    termios.c_cflag = named.map_or(libc::BOTHER, |(_, name)| name)
        | libc::CREAD
        | libc::CLOCAL
        | if settings.data_bits == 7 { libc::CS7 } else { libc::CS8 }
        | when(settings.odd_parity.is_some(), libc::PARENB)
        | when(settings.odd_parity == Some(true), libc::PARODD)
        | when(settings.two_stop_bits, libc::CSTOPB)
        | when(settings.flow == Flow::Hardware, libc::CRTSCTS)
        | when(settings.hang_up, libc::HUPCL);
    (termios.c_ispeed, termios.c_ospeed) = (settings.baud, settings.baud);
    // Without a byte, a read then fails with EAGAIN: 0 bytes are the end.
    termios.c_cc[libc::VMIN] = 1;
    termios.c_cc[libc::VTIME] = 0;
}

/// Checks what the driver has made of the settings: it takes what it can, and does not say so.
fn verify(is: &libc::termios2, wanted: &libc::termios2, settings: &LineSettings) -> Result<(), PortError> {
    let off = (f64::from(is.c_ospeed) - f64::from(settings.baud)).abs() / f64::from(settings.baud);
    if off > MOST_OFF {
        return Err(PortError::Speed { wanted: settings.baud, would: is.c_ospeed });
    }
    let differs = |flags: libc::tcflag_t| (is.c_cflag ^ wanted.c_cflag) & flags != 0;
    if differs(libc::CSIZE) {
        return Err(PortError::Unsupported("this number of data bits"));
    }
    if differs(libc::PARENB | libc::PARODD) {
        return Err(PortError::Unsupported("this parity"));
    }
    if differs(libc::CSTOPB) {
        return Err(PortError::Unsupported("this number of stop bits"));
    }
    if differs(libc::CRTSCTS) {
        return Err(PortError::Unsupported("flow control by hardware"));
    }
    Ok(())
}

fn lower_latency(port: &File) -> io::Result<()> {
    // SAFETY: all bits 0 are a valid SerialInfo, which has only numbers and a pointer that is not followed here.
    let mut info: SerialInfo = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one serial_struct to the address, which is that of `info` and lives until the call returns.
    unsafe { ioctl::get_info(port.as_raw_fd(), &raw mut info) }?;
    info.flags |= LOW_LATENCY;
    // SAFETY: the kernel reads one serial_struct at the address, which is that of `info` and lives until the call returns.
    unsafe { ioctl::set_info(port.as_raw_fd(), &raw const info) }?;
    Ok(())
}

/// Returns whether the path leads to a character device, as a serial port is one; an error if it leads nowhere.
///
/// # Errors
/// Those of the kernel.
pub fn is_character_device(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_char_device())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::holder::holders;
    use super::*;
    use nix::pty::openpty;

    const PLAIN: LineSettings = LineSettings {
        baud: 115_200,
        data_bits: 8,
        odd_parity: None,
        two_stop_bits: false,
        flow: Flow::None,
        hang_up: false,
        dtr: true,
        low_latency: false,
    };

    /// The path of a pseudo-terminal, with what keeps it open.
    fn terminal() -> (PathBuf, nix::pty::OpenptyResult) {
        let pair = openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pair.slave).unwrap();
        (path, pair)
    }

    #[test]
    fn a_port_is_set_up_for_bytes_as_they_come() {
        let (path, pair) = terminal();
        let port = open(&path, &LineSettings { baud: 921_600, hang_up: true, ..PLAIN }).unwrap();
        // The slave's other descriptor has the same settings.
        let termios = nix::sys::termios::tcgetattr(&pair.slave).unwrap();
        use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, SpecialCharacterIndices};
        assert_eq!(termios.input_flags, InputFlags::IGNBRK);
        assert_eq!(termios.output_flags, OutputFlags::empty());
        assert_eq!(termios.local_flags, LocalFlags::empty());
        assert!(
            termios
                .control_flags
                .contains(ControlFlags::CS8 | ControlFlags::CREAD | ControlFlags::CLOCAL | ControlFlags::HUPCL)
        );
        assert!(!termios.control_flags.intersects(ControlFlags::CSTOPB | ControlFlags::PARENB | ControlFlags::CRTSCTS));
        let cc = |at: SpecialCharacterIndices| termios.control_chars[at as usize];
        assert_eq!((cc(SpecialCharacterIndices::VMIN), cc(SpecialCharacterIndices::VTIME)), (1, 0));
        assert_eq!(nix::sys::termios::cfgetospeed(&termios), nix::sys::termios::BaudRate::B921600);
        drop(port);

        let settings = LineSettings { baud: 250_000, two_stop_bits: true, flow: Flow::Software, ..PLAIN };
        let port = open(&path, &settings).unwrap();
        let termios = read(&port).unwrap();
        assert_eq!(termios.c_ospeed, 250_000, "any speed can be asked for");
        assert_eq!(termios.c_iflag, libc::IGNBRK | libc::IXON | libc::IXOFF);
        assert_eq!(termios.c_cflag & (libc::CSTOPB | libc::HUPCL), libc::CSTOPB);
    }

    #[test]
    fn what_arrived_before_is_thrown_away() {
        use std::io::{Read, Write};
        let (path, pair) = terminal();
        let mut board = File::from(pair.master);
        board.write_all(b"stale\n").unwrap();
        let mut port = open(&path, &PLAIN).unwrap();
        let mut text = [0; 16];
        assert_eq!(port.read(&mut text).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        board.write_all(b"a\r\n\0\x03\x1a\x11").unwrap();
        assert_eq!(port.read(&mut text).unwrap(), 7);
        assert_eq!(&text[..7], b"a\r\n\0\x03\x1a\x11", "no byte means anything to the kernel");
    }

    #[test]
    fn a_port_in_use_and_what_is_not_a_port_are_refused() {
        let (path, pair) = terminal();
        let first = open(&path, &PLAIN).unwrap();
        assert!(matches!(open(&path, &PLAIN).unwrap_err(), PortError::InUse));
        let holders: Vec<u32> = holders(Path::new("/proc"), &path).iter().map(|holder| holder.pid).collect();
        assert_eq!(holders, [std::process::id()]);
        drop((first, pair));
        assert!(matches!(open(Path::new("/dev/null"), &PLAIN).unwrap_err(), PortError::NotAPort));
        assert!(matches!(open(Path::new("/tmp"), &PLAIN).unwrap_err(), PortError::NotAPort));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(open(&file, &PLAIN).unwrap_err(), PortError::NotAPort));
        assert!(matches!(open(&folder.path().join("no"), &PLAIN).unwrap_err(), PortError::Open(_)));
        assert!(!is_character_device(&file).unwrap() && is_character_device(Path::new("/dev/null")).unwrap());
    }

    #[test]
    fn what_a_pseudo_terminal_cannot_do_is_said() {
        let (path, _pair) = terminal();
        let refusal = |settings: LineSettings| open(&path, &settings).unwrap_err().to_string();
        assert!(refusal(LineSettings { dtr: false, ..PLAIN }).starts_with("cannot lower DTR: "));
        assert!(refusal(LineSettings { low_latency: true, ..PLAIN }).starts_with("cannot lower its latency"));
        // It has 8 bits, and no parity.
        assert_eq!(
            refusal(LineSettings { data_bits: 7, ..PLAIN }),
            "the port does not support this number of data bits"
        );
        assert_eq!(refusal(LineSettings { odd_parity: Some(true), ..PLAIN }), "the port does not support this parity");
    }

    #[test]
    fn a_port_that_runs_at_another_speed_is_refused() {
        let mut wanted = read(&open(&terminal().0, &PLAIN).unwrap()).unwrap();
        set_up(&mut wanted, &PLAIN);
        let at = |baud: u32| libc::termios2 { c_ospeed: baud, ..wanted };
        assert!(verify(&at(117_647), &wanted, &PLAIN).is_ok(), "the nearest that a divisor gives");
        let refusal = verify(&at(9600), &wanted, &PLAIN).unwrap_err();
        assert_eq!(refusal.to_string(), "the port cannot run at 115200 baud; it would run at 9600");
    }
}
