//! Standard error while a library may write to it by itself: what it writes is collected, so that it can go into the log.
//!
//! Owns where the log is written meanwhile. One piece of work at a time is captured; it must be short.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Makes `real` standard error, as it was before it was replaced for longer; while something is captured, from its end on.
/// Never waits, so that a thread that panics while it is captured can call it.
pub fn give_back(real: &OwnedFd) {
    let mut captured_from = REAL.lock().unwrap_or_else(PoisonError::into_inner);
    // If it cannot be given back, there is no other place for the log.
    let _ = match captured_from.as_mut() {
        Some(before) => real.try_clone().map(|real| *before = real.into()),
        None => dup2_stderr(real).map_err(io::Error::from),
    };
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
    pipe: File,
}

impl Capture {
    fn start() -> io::Result<Self> {
        // A library that writes more than the pipe holds must not wait.
        let (pipe, ours) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut captured_from = REAL.lock().unwrap_or_else(PoisonError::into_inner);
        let real = dup(io::stderr())?;
        dup2_stderr(&ours)?;
        *captured_from = Some(real.into());
        Ok(Self { pipe: pipe.into() })
    }

    fn lines(mut self) -> Vec<String> {
        let bytes = self.read();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Takes what was written so far.
    fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // It ends with "would block", when all is read.
        let _ = (&mut self.pipe).take(MAX_BYTES).read_to_end(&mut bytes);
        bytes
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let Some(mut real) = REAL.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // If it cannot be given back, there is no other place for the log.
        let _ = dup2_stderr(&real);
        // Nobody has taken it if the work has panicked, and then it says why.
        let _ = real.write_all(&self.read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_writes_is_collected_and_the_log_goes_past_it() {
        let _one_at_a_time = AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// What arrives at standard error while work is done; other tests may write at the same time.
    fn arrives(work: impl FnOnce()) -> String {
        let (mut read, write) = io::pipe().unwrap();
        let before = {
            let _replacing = replacing();
            let before = dup(io::stderr()).unwrap();
            dup2_stderr(&write).unwrap();
            before
        };
        drop(write);
        work();
        give_back(&before);
        let mut arrived = String::new();
        read.read_to_string(&mut arrived).unwrap();
        arrived
    }

    fn say(text: &str) {
        File::from(dup(io::stderr()).unwrap()).write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nothing_is_lost_by_a_panic_or_by_giving_standard_error_back_too_early() {
        let one_at_a_time = AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = arrives(|| {
            let fails = || {
                _ = captured(|| -> () {
                    say("the reason\n");
                    std::panic::resume_unwind(Box::new(()))
                })
            };
            std::panic::catch_unwind(fails).unwrap_err();
        });
        assert!(arrived.contains("the reason"), "{arrived}");
        let (mut read, write) = io::pipe().unwrap();
        let real = dup(io::stderr()).unwrap();
        captured(|| {
            // As the view does when it ends.
            give_back(&OwnedFd::from(write));
            say("from a library\n");
            write_all("from the log\n");
        });
        say("afterwards\n");
        give_back(&real);
        let mut arrived = String::new();
        read.read_to_string(&mut arrived).unwrap();
        drop(one_at_a_time);
        assert!(arrived.contains("from the log") && arrived.contains("afterwards"), "{arrived}");
        assert!(!arrived.contains("from a library"), "{arrived}");
    }

    fn write_all(text: &str) {
        assert_eq!(write(text.as_bytes()).unwrap(), text.len());
    }

    /// Held by tests that replace standard error for longer.
    static AT_A_TIME: Mutex<()> = Mutex::new(());
}
