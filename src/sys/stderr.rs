//! Standard error while a library may write to it by itself: what it writes is collected, so that it can go into the log.
//!
//! Owns where the log is written meanwhile. One piece of work at a time is captured; it must be short.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{dup, dup2_stderr, pipe2};

/// Most bytes that are collected: as many as a pipe holds.
const MAX_BYTES: u64 = 64 * 1024;

/// Held while standard error is replaced.
static REPLACING: Mutex<()> = Mutex::new(());
/// Standard error as it was, while what a library writes is captured.
static REAL: Mutex<Option<File>> = Mutex::new(None);

/// Waits until nothing is captured, and keeps it so: for whoever replaces standard error for longer.
pub fn replacing() -> MutexGuard<'static, ()> {
    REPLACING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`replacing`], but waits for a second at most: a thread that panics while it is captured holds the lock itself.
pub fn replacing_soon() -> Option<MutexGuard<'static, ()>> {
    for _ in 0..100 {
        match REPLACING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

/// Writes to standard error, past a capture.
pub fn write(bytes: &[u8]) -> io::Result<usize> {
    match REAL.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(real) => real.write(bytes),
        None => io::stderr().write(bytes),
    }
}

/// Does work in which a library may write to standard error. Returns what it wrote, as lines. If standard error cannot be
/// replaced, nothing is captured.
pub fn captured<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let _replacing = replacing();
    let Ok(capture) = Capture::start() else { return (work(), Vec::new()) };
    let done = work();
    (done, capture.lines())
}

struct Capture {
    real: OwnedFd,
    pipe: File,
}

impl Capture {
    fn start() -> io::Result<Self> {
        let real = dup(io::stderr())?;
        // A library that writes more than the pipe holds must not wait.
        let (pipe, ours) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        *REAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(real.try_clone()?.into());
        let capture = Self { real, pipe: pipe.into() };
        dup2_stderr(&ours)?;
        Ok(capture)
    }

    fn lines(mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        // It ends with "would block", when all is read.
        let _ = (&mut self.pipe).take(MAX_BYTES).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // If it cannot be given back, there is no other place for the log.
        let _ = dup2_stderr(&self.real);
        *REAL.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_writes_is_collected_and_the_log_goes_past_it() {
        let (done, lines) = captured(|| {
            let mut stderr = File::from(dup(io::stderr()).unwrap());
            stderr.write_all(b"INFO: Created a delegate.\n\nsecond").unwrap();
            write(b"").unwrap();
            7
        });
        assert_eq!(done, 7);
        // Other tests may write at the same time.
        assert!(lines.iter().any(|line| line == "INFO: Created a delegate."), "{lines:?}");
        let (_, nothing) = captured(|| ());
        assert!(!nothing.iter().any(|line| line.contains("Created")));
    }
}
