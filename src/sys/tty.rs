//! The size of a terminal.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Returns columns and rows; 80 and 24 if the terminal does not know them.
pub fn size(terminal: &impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize to the address, which is that of `size` and lives until the call returns.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let known = size.ws_col > 0 && size.ws_row > 0;
    Ok(if known { (size.ws_col, size.ws_row) } else { (80, 24) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_is_no_terminal_and_a_pseudo_terminal_has_a_size() {
        assert!(size(&File::open("/dev/null").unwrap()).is_err());
        let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        assert_eq!(size(&master).unwrap(), (80, 24), "a new one does not know its size");
    }
}
