//! Bytes to lines, and the sources that are streams of lines from outside: standard input, a FIFO, a unix socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::record::{Record, RecordParser, Reject};
use super::{FrameSink, Source, SourceError};
use crate::config::From;
use crate::stop::Waited;
use crate::units::MonoTime;

/// A longer line is rejected, and passed over without being kept.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// After a writer's fault, how long the next one waits: a writer that tries for ever must not take a core.
const AFTER_FAULT: Duration = Duration::from_millis(100);

/// Cuts what it reads into lines; holds at most one that is not complete.
pub(crate) struct LineReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Inside a line that was too long.
    skipping: bool,
}

/// What the bytes read so far hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line, with its newline.
    Complete(&'a [u8]),
    /// The end of a line that was too long to keep.
    TooLong,
    /// No complete line: read more.
    More,
}

impl LineReader {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; 2 * MAX_LINE_BYTES], start: 0, end: 0, skipping: false }
    }

    /// Reads once; the number of bytes, 0 at the end of the stream.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = loop {
            match from.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count)
    }

    pub(crate) fn next_line(&mut self) -> Line<'_> {
        let held = &self.buffer[self.start..self.end];
        match memchr::memchr(b'\n', held) {
            Some(at) => {
                let line = self.start..self.start + at + 1;
                self.start = line.end;
                if std::mem::take(&mut self.skipping) || line.len() > MAX_LINE_BYTES {
                    Line::TooLong
                } else {
                    Line::Complete(&self.buffer[line])
                }
            }
            None => {
                if held.len() > MAX_LINE_BYTES {
                    self.skipping = true;
                    self.start = self.end;
                }
                Line::More
            }
        }
    }

    /// What is left behind the last newline, once the stream has ended.
    pub(crate) fn rest(&mut self) -> Line<'_> {
        let rest = self.start..self.end;
        self.start = self.end;
        if std::mem::take(&mut self.skipping) {
            Line::TooLong
        } else if rest.is_empty() {
            Line::More
        } else {
            Line::Complete(&self.buffer[rest])
        }
    }
}

/// Lines from standard input, a FIFO or a socket.
pub(crate) struct LinesSource {
    from: Opened,
    parser: RecordParser,
    /// End with the first writer instead of waiting for the next.
    once: bool,
}

enum Opened {
    Stdin,
    Fifo { fifo: File, path: PathBuf },
    Socket { listener: UnixListener, path: PathBuf, _lock: Flock<File> },
}

impl LinesSource {
    pub(crate) fn open(from: &From, parser: RecordParser, once: bool) -> Result<Self, SourceError> {
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
        Ok(Self { from, parser, once })
    }
}

impl Source for LinesSource {
    fn run(mut self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError> {
        loop {
            let streamed = match &mut self.from {
                Opened::Stdin => {
                    let mut stdin = io::stdin().lock();
                    return stream(&mut stdin, Path::new("standard input"), &mut self.parser, feed).map(drop);
                }
                Opened::Fifo { fifo, path } => {
                    let streamed = stream(fifo, path, &mut self.parser, feed);
                    // Opened anew for each writer, since an old descriptor reports the last one's end for ever; and
                    // before the old one is closed, so that a writer in between finds a reader.
                    *fifo = open_fifo(path)?;
                    streamed
                }
                Opened::Socket { listener, path, .. } => {
                    let io_error = |e| SourceError::io("wait on", path, e);
                    if feed.stop().wait_readable(listener.as_fd()).map_err(io_error)? == Waited::Stopped {
                        return Ok(());
                    }
                    match listener.accept() {
                        Ok((mut connection, _)) => stream(&mut connection, path, &mut self.parser, feed),
                        Err(error) => Err(SourceError::io("accept a connection on", path, error)),
                    }
                }
            };
            match streamed {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) if self.once => return Ok(()),
                Err(error) if self.once => return Err(error),
                Ok(ControlFlow::Continue(())) => {}
                // One writer's fault is not the next one's.
                Err(error) => {
                    feed.writer_refused(&error, MonoTime::now());
                    if feed
                        .stop()
                        .sleep_until(MonoTime::now() + AFTER_FAULT)
                        .map_err(|e| SourceError::io("wait for", Path::new("the next writer"), e))?
                        == Waited::Stopped
                    {
                        return Ok(());
                    }
                }
            }
            feed.interrupted();
        }
    }
}

impl Drop for LinesSource {
    fn drop(&mut self) {
        if let Opened::Socket { path, .. } = &self.from {
            // The next daemon replaces a stale one too.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Reads one writer's lines until it leaves or the program is to stop.
fn stream(
    from: &mut (impl Read + AsFd),
    name: &Path,
    parser: &mut RecordParser,
    feed: &mut FrameSink,
) -> Result<ControlFlow<()>, SourceError> {
    let mut reader = LineReader::new();
    let mut header = parser.wants_header();
    let io_error = |e| SourceError::io("read", name, e);
    loop {
        if feed.stop().wait_readable(from.as_fd()).map_err(io_error)? == Waited::Stopped {
            return Ok(ControlFlow::Break(()));
        }
        let count = match reader.fill(from) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            result => result.map_err(io_error)?,
        };
        let arrival = MonoTime::now();
        loop {
            let parsed: Result<Record, Reject> = match reader.next_line() {
                Line::More => break,
                Line::TooLong => Err(Reject::TooLong),
                Line::Complete(line) if header => {
                    parser.header(line).map_err(|e| SourceError::Header { path: name.to_owned(), error: e })?;
                    header = false;
                    continue;
                }
                Line::Complete(line) => parser.parse(line),
            };
            if feed.take(parsed, parser.values(), arrival) == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
        }
        feed.wake_reader();
        if count == 0 {
            if reader.rest() != Line::More {
                let _ = feed.take(Err(Reject::Unterminated), &[], arrival);
            }
            return Ok(ControlFlow::Continue(()));
        }
    }
}

/// Errors where `path` is not a FIFO.
pub(crate) fn check_fifo(path: &Path) -> Result<(), SourceError> {
    let metadata = std::fs::metadata(path).map_err(|e| SourceError::io("open", path, e))?;
    if metadata.file_type().is_fifo() { Ok(()) } else { Err(SourceError::NotAFifo { path: path.to_owned() }) }
}

fn open_fifo(path: &Path) -> Result<File, SourceError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|e| SourceError::io("open", path, e))
}

/// Listens on a socket file of its own; one that nobody listens on any more is replaced.
///
/// A lock beside it tells a second daemon that the first one lives, without a connection to it, which the first would
/// take for a writer.
fn listen(path: &Path) -> Result<(UnixListener, Flock<File>), SourceError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_file = File::create(&lock_path).map_err(|e| SourceError::io("make the lock of", path, e))?;
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
    use proptest::prelude::*;

    fn lines(bytes: &[u8], piece: usize) -> Vec<Result<Vec<u8>, ()>> {
        let mut reader = LineReader::new();
        let mut found = Vec::new();
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() {
                reader.fill(&mut part).unwrap();
                loop {
                    match reader.next_line() {
                        Line::Complete(line) => found.push(Ok(line.to_vec())),
                        Line::TooLong => found.push(Err(())),
                        Line::More => break,
                    }
                }
            }
        }
        match reader.rest() {
            Line::Complete(line) => found.push(Ok(line.to_vec())),
            Line::TooLong => found.push(Err(())),
            Line::More => {}
        }
        found
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut bytes = b"first\n".to_vec();
        bytes.extend(vec![b'x'; 5 * MAX_LINE_BYTES]);
        bytes.extend(b"\nlast");
        for piece in [1000, 70_000, 1 << 20] {
            let expected = vec![Ok(b"first\n".to_vec()), Err(()), Ok(b"last".to_vec())];
            assert_eq!(lines(&bytes, piece), expected, "read by {piece}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_arrive(text in "[a-c\n]{0,300}", piece in 1usize..40) {
            let expected: Vec<_> = text.split_inclusive('\n').map(|l| Ok(l.as_bytes().to_vec())).collect();
            prop_assert_eq!(lines(text.as_bytes(), piece), expected);
        }
    }
}
