//! Holds back what is written to standard error while the screen is shown, and writes it when the terminal is restored.
//!
//! The log gives its lines through [`LogOutput`]. What libraries in C write goes through a pipe in the place of standard
//! error. Both are bounded, and neither ever waits.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use nix::unistd::{dup, dup2_stderr, pipe2};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::sys::stderr;

/// Lines that are kept; the oldest are dropped first, and counted.
const MAX_LINES: usize = 500;
const MAX_LINE_BYTES: usize = 4096;

static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// What was written while the screen was shown.
struct Held {
    lines: VecDeque<Vec<u8>>,
    dropped: u64,
    /// Warnings that the view has not shown yet: whether it is an error, and the text.
    warnings: VecDeque<(bool, String)>,
    /// Standard error as it was.
    stderr: OwnedFd,
    /// What libraries write.
    others: File,
}

fn held() -> MutexGuard<'static, Option<Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on keeps what is written to standard error.
pub(crate) fn hold() -> io::Result<()> {
    let _replacing = stderr::replacing();
    let stderr = dup(io::stderr())?;
    let (others, ours) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    dup2_stderr(&ours)?;
    let (lines, warnings) = (VecDeque::new(), VecDeque::new());
    *held() = Some(Held { lines, dropped: 0, warnings, stderr, others: others.into() });
    Ok(())
}

/// Takes what libraries have written, and returns the warnings since the last call: whether it is an error, and the text.
pub(crate) fn take_warnings() -> Vec<(bool, String)> {
    let mut held = held();
    let Some(held) = held.as_mut() else { return Vec::new() };
    held.read_others();
    held.warnings.drain(..).collect()
}

/// Gives standard error back, and writes what was kept. Does nothing if nothing is held.
pub(crate) fn release() {
    let Some(mut held) = held().take() else { return };
    held.read_others();
    stderr::give_back(&held.stderr);
    let mut stderr = File::from(held.stderr);
    if held.dropped > 0 {
        let _ = writeln!(stderr, "({} earlier lines of the log were left out)", held.dropped);
    }
    for line in held.lines {
        let _ = stderr.write_all(&line);
    }
}

impl Held {
    fn keep(&mut self, line: &[u8]) {
        if self.lines.len() >= MAX_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line.get(..MAX_LINE_BYTES).unwrap_or(line).to_vec());
    }

    fn warn(&mut self, is_error: bool, line: &[u8]) {
        if self.warnings.len() >= MAX_LINES {
            self.warnings.pop_front();
        }
        self.warnings.push_back((is_error, message(&String::from_utf8_lossy(line))));
    }

    fn read_others(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.others.read(&mut bytes) {
            let text = bytes.get(..count).unwrap_or_default().to_vec();
            self.keep(&text);
        }
    }
}

/// Returns a line of the log without colours, time and level.
fn message(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.trim_end();
    while let Some((before, sequence)) = rest.split_once('\x1b') {
        text.push_str(before);
        rest = sequence.split_once('m').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let words: Vec<&str> = text.split_whitespace().skip(2).collect();
    words.join(" ")
}

/// Where the log is written: standard error, or kept while the screen is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOutput;

/// One line of the log.
#[derive(Debug)]
pub(crate) struct LogLine(Level);

impl<'a> MakeWriter<'a> for LogOutput {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LogLine {
        LogLine(*metadata.level())
    }
}

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match held().as_mut() {
            Some(held) => {
                held.keep(line);
                if self.0 <= Level::WARN {
                    held.warn(self.0 == Level::ERROR, line);
                }
                Ok(line.len())
            }
            None => stderr::write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_shown_without_colours_time_and_level() {
        let line = "\u{1b}[2m2026-11-29T04:44:00.1Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m \u{1b}[2medgewatt::x\u{1b}[0m: a thing\n";
        assert_eq!(message(line), "edgewatt::x: a thing");
        assert_eq!(message("\u{1b}"), "");
    }

    #[test]
    fn the_oldest_lines_are_dropped_and_counted() {
        let (read, _write) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let stderr = dup(io::stderr()).unwrap();
        let (lines, warnings) = (VecDeque::new(), VecDeque::new());
        let mut held = Held { lines, dropped: 0, warnings, stderr, others: read.into() };
        for n in 0..MAX_LINES + 3 {
            held.keep(format!("{n}").as_bytes());
        }
        held.keep(&[b'x'; 2 * MAX_LINE_BYTES]);
        assert_eq!((held.lines.len(), held.dropped), (MAX_LINES, 4));
        assert_eq!(held.lines[0], b"4");
        assert_eq!(held.lines[MAX_LINES - 1].len(), MAX_LINE_BYTES);
    }
}
