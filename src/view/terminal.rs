//! The terminal: raw mode, the alternate screen, keys; and everything as it was before, on every way out.
//!
//! A panic on any thread restores the terminal before its message is written. What ends the process at once, such as
//! SIGKILL, leaves the terminal as it is.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, Once};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui_core::terminal;

use super::backend::Screen;
use super::keys::{self, Key};
use super::logs;
use super::screen::{Scene, draw};
use crate::sys::tty;

/// Alternate screen, no cursor, no wrapping.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[2J\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What restores the terminal; a panic may need it on any thread.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);
static HOOK: Once = Once::new();

struct Saved {
    terminal: File,
    settings: Termios,
}

/// The terminal while the view is shown. Dropping it restores everything.
pub(crate) struct Terminal {
    screen: terminal::Terminal<Screen>,
    input: File,
    size: (u16, u16),
}

/// Returns whether the full-screen view can be shown: there is a terminal for the picture and the keys, and it is ours.
pub(crate) fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_ours = || open().is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()));
    io::stdout().is_terminal() && !is_dumb && is_ours()
}

/// Returns the columns of the terminal that standard output is; `None` if it is not a terminal.
pub(crate) fn output_columns() -> Option<usize> {
    io::stdout().is_terminal().then(|| tty::size(&io::stdout()).map_or(80, |(columns, _)| usize::from(columns).max(40)))
}

/// Returns whether colours are wanted: NO_COLOR is not set, or empty.
pub(crate) fn has_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Opens the terminal from which this program was started, wherever standard input comes from.
fn open() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// Returns whether standard error goes to the same terminal as standard output.
fn shares_stderr() -> bool {
    let (Ok(out), Ok(err)) = (fstat(io::stdout()), fstat(io::stderr())) else { return false };
    io::stderr().is_terminal() && out.st_rdev == err.st_rdev
}

impl Terminal {
    /// Takes the terminal over.
    pub(crate) fn take() -> io::Result<Self> {
        let input = open()?;
        let settings = tcgetattr(&input)?;
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(Saved { terminal: input.try_clone()?, settings });
        }
        tcsetattr(&input, SetArg::TCSADRAIN, &raw)?;
        (&input).write_all(ENTER)?;
        if shares_stderr() {
            logs::hold()?;
        }
        let size = tty::size(&input)?;
        let screen = terminal::Terminal::new(Screen::new(input.try_clone()?))?;
        Ok(Self { screen, input, size })
    }

    /// Returns whether the size has changed since the last picture.
    pub(crate) fn is_resized(&self) -> bool {
        tty::size(&self.input).is_ok_and(|size| size != self.size)
    }

    pub(crate) fn draw(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        self.size = tty::size(&self.input)?;
        self.screen.draw(|frame| draw(frame.buffer_mut(), scene))?;
        Ok(())
    }

    /// Waits for keys, but not longer than `wait`.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn keys(&mut self, wait: Duration) -> io::Result<Vec<Key>> {
        let mut fds = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 256];
        match self.input.read(&mut bytes) {
            Ok(0) => Err(io::Error::other("the terminal is closed")),
            Ok(count) => Ok(keys::parse(bytes.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was, and then what was held back for it. Does nothing the second time.
fn restore() {
    // A panic while the lock is held comes from a thread that restores already.
    let Ok(mut saved) = SAVED.try_lock() else { return };
    if let Some(Saved { mut terminal, settings }) = saved.take() {
        // The terminal may be gone; then there is nothing to restore.
        let _ = terminal.write_all(LEAVE);
        let _ = tcsetattr(&terminal, SetArg::TCSADRAIN, &settings);
    }
    logs::release();
}
