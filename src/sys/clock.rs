//! Finds out whether the wall clock follows a time server or another reference.
#![allow(unsafe_code)]

use std::io;

use nix::libc::{self, STA_UNSYNC, TIME_ERROR};

/// Returns whether the kernel considers the clock set (`adjtimex(2)`): a time daemon clears the flag once it has set it.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: `timex` is integers alone, for which zero is a value; no mode is set, so the kernel only writes to it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state != TIME_ERROR && timex.status & STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        is_synchronised().unwrap();
    }
}
