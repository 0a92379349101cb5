//! Standard input, a FIFO or a unix socket, into which another program writes.
//!
//! Owns how one writer follows the other. What the bytes hold is the decoder's affair.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use super::content::Rival;
use super::{Decoder, Exclusive, FrameProducer, FrameSink, Gap, STANDARD_INPUT, SourceError};
use crate::schema::{Checker, Form, Value};
use crate::stop::Waited;
use crate::sys::file;
use crate::units::MonoTime;

/// The pause after a writer's fault, so that a writer that keeps reconnecting does not use a whole core.
const AFTER_FAULT: Duration = Duration::from_millis(100);
/// The same if another writer waits: all that fit into the queue of the socket together cost less than a second.
const BEFORE_RIVAL: Duration = Duration::from_millis(2);

/// Where the bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum From {
    Stdin,
    Fifo(PathBuf),
    Socket(PathBuf),
}

impl From {
    pub fn check(&mut self, checker: &mut Checker) {
        if let Self::Fifo(path) | Self::Socket(path) = self {
            *path = checker.path(path);
        }
    }

    /// Finds what would make [`PipeSource::open`] fail, without opening anything.
    ///
    /// # Errors
    /// The same.
    pub fn check_access(&self) -> Result<(), SourceError> {
        match self {
            Self::Stdin => Ok(()),
            Self::Fifo(path) => check_fifo(path),
            Self::Socket(path) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let unreadable = |e| SourceError::io("open the folder of the socket", path, e);
                std::fs::read_dir(folder).map(drop).map_err(unreadable)
            }
        }
    }

    /// Returns what only one source can read; the key is `from`.
    pub fn exclusive(&self) -> Exclusive {
        let resource = match self {
            Self::Stdin => STANDARD_INPUT.to_owned(),
            Self::Fifo(path) | Self::Socket(path) => path.display().to_string(),
        };
        Exclusive::new(resource, "from")
    }
}

impl Value for From {
    fn type_name() -> String {
        "string or table".to_owned()
    }
    fn form() -> Form {
        let path = |key| Form::Keyed(key, Box::new(Form::Text));
        Form::Any(vec![Form::Words(vec!["stdin".to_owned()]), path("fifo"), path("socket")])
    }
    fn choices() -> Vec<String> {
        ["\"stdin\"", "{ fifo = \"PATH\" }", "{ socket = \"PATH\" }"].map(str::to_owned).to_vec()
    }
}

/// What other programs write to standard input, a FIFO or a socket.
pub struct PipeSource {
    from: Opened,
    decoder: Decoder,
    /// End after the first writer instead of waiting for the next one.
    once: bool,
}

enum Opened {
    Stdin,
    Fifo { fifo: File, path: PathBuf },
    Socket { listener: UnixListener, path: PathBuf, _lock: Flock<File> },
}

impl Opened {
    /// Returns whether another writer waits for its turn.
    fn is_awaited(&self) -> bool {
        let Self::Socket { listener, .. } = self else { return false };
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl PipeSource {
    pub fn open(from: &From, decoder: Decoder, once: bool) -> Result<Self, SourceError> {
        let from = match from {
            From::Stdin => Opened::Stdin,
            From::Fifo(path) => {
                check_fifo(path)?;
                Opened::Fifo { fifo: open_fifo(path)?, path: path.clone() }
            }
            From::Socket(path) => {
                let (listener, lock) = listen(path)?;
                Opened::Socket { listener, path: path.clone(), _lock: lock }
            }
        };
        Ok(Self { from, decoder, once })
    }
}

impl FrameProducer for PipeSource {
    fn run(mut self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError> {
        loop {
            let streamed = match &mut self.from {
                Opened::Stdin => {
                    let mut stdin = io::stdin().lock();
                    return self.decoder.stream(&mut stdin, Path::new(STANDARD_INPUT), feed).map(drop);
                }
                Opened::Fifo { fifo, path } => {
                    let streamed = self.decoder.stream(fifo, path, feed);
                    // Opened again for each writer, because the old descriptor keeps reporting the last writer's end.
                    // Opened before the old one is closed, so that a writer in between finds a reader.
                    *fifo = open_fifo(path)?;
                    streamed
                }
                Opened::Socket { listener, path, .. } => {
                    let io_error = |e| SourceError::io("wait on", path, e);
                    if feed.stop().wait_readable(listener.as_fd()).map_err(io_error)? == Waited::Stopped {
                        return Ok(());
                    }
                    let mut rival = (!self.once).then(|| Rival::new(listener.as_fd(), feed));
                    match listener.accept() {
                        Ok((mut connection, _)) => {
                            self.decoder.stream_beside(&mut connection, path, feed, rival.as_mut())
                        }
                        Err(error) => Err(SourceError::io("accept a connection on", path, error)),
                    }
                }
            };
            match streamed {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) if self.once => return Ok(()),
                Err(error) if self.once => return Err(error),
                Ok(ControlFlow::Continue(())) => {}
                // After one writer's fault, the next one may do better.
                Err(error) => {
                    feed.writer_refused(&error, MonoTime::now());
                    let pause = if self.from.is_awaited() { BEFORE_RIVAL } else { AFTER_FAULT };
                    if feed
                        .stop()
                        .sleep_until(MonoTime::now() + pause)
                        .map_err(|e| SourceError::io("wait for", Path::new("the next writer"), e))?
                        == Waited::Stopped
                    {
                        return Ok(());
                    }
                }
            }
            feed.cut(Gap::Interrupted);
        }
    }
}

impl Drop for PipeSource {
    fn drop(&mut self) {
        if let Opened::Socket { path, .. } = &self.from {
            // A failure is harmless: the next daemon replaces a stale socket.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Checks that `path` is a FIFO.
pub fn check_fifo(path: &Path) -> Result<(), SourceError> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if std::fs::symlink_metadata(path).is_err() => {
            // The service and systemd run in other folders than this program.
            SourceError::NoFifo { path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) }
        }
        _ => SourceError::io("open", path, error),
    })?;
    if metadata.file_type().is_fifo() { Ok(()) } else { Err(SourceError::NotAFifo { path: path.to_owned() }) }
}

/// Opens a FIFO for reading, without waiting for a writer.
pub(crate) fn open_fifo(path: &Path) -> Result<File, SourceError> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|e| SourceError::io("open", path, e))
}

/// Creates a socket file and listens on it. Replaces a stale one, on which no process listens any more.
///
/// A lock file next to it shows a second daemon that the first one runs. A connection would show it too, but the first
/// daemon would take that for a writer.
fn listen(path: &Path) -> Result<(UnixListener, Flock<File>), SourceError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_file = file::lock(Path::new(&lock_path)).map_err(|e| SourceError::io("make the lock of", path, e))?;
    let lock = Flock::lock(lock_file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| SourceError::SocketInUse { path: path.to_owned() })?;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path).map_err(|e| SourceError::io("remove the stale socket", path, e))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| SourceError::io("listen on", path, e))?;
    Ok((listener, lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_that_is_missing_says_how_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let refusal = check_fifo(&path).unwrap_err().to_string();
        for part in [format!("run: mkfifo {}", path.display()), "tmpfiles.d".to_owned(), "ExecStartPre=".to_owned()] {
            assert!(refusal.contains(&part), "{refusal}");
        }
        // As seen from the folder of this test.
        let relative = check_fifo(Path::new("no-such-pipe")).unwrap_err().to_string();
        let whole = std::env::current_dir().unwrap().join("no-such-pipe");
        assert!(relative.contains(&format!("mkfifo -m 0660 {} into its unit", whole.display())), "{relative}");
        std::fs::write(&path, "").unwrap();
        assert!(check_fifo(&path).unwrap_err().to_string().contains("is not a FIFO"));
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(check_fifo(&path).is_ok());
    }
}
