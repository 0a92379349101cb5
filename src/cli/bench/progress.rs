//! The progress of a bench on standard error: a bar in a terminal, else a line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::measure::bench::Progress;

/// Between two lines, if standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
const WIDTH: usize = 30;

pub(super) struct Bar {
    is_terminal: bool,
    said: Option<Instant>,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), said: None }
    }

    /// Shows how far it is. A failure to show it changes nothing.
    pub(super) fn show(&mut self, progress: Progress<'_>) {
        let line = match progress {
            Progress::Trying(cell) => format!("trying {cell}"),
            Progress::Running { done, all, left } => {
                let full = WIDTH * done / all.max(1);
                let seconds = left.as_secs();
                format!(
                    "[{}{}] {done} of {all} turns, {}:{:02} left",
                    "#".repeat(full),
                    " ".repeat(WIDTH - full),
                    seconds / 60,
                    seconds % 60
                )
            }
        };
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        } else if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            self.said = Some(Instant::now());
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
