//! The sources of frames. A source blocks on its own thread, `acquire`, and feeds one pipeline's ring.
//!
//! Owns the family of sources, and what each must describe before the start. Leaves to `sink` how frames reach the
//! pipeline, and to `infer` what a window is and what a gap does to it.

pub mod buffer;
pub mod fields;
pub mod line_reader;
pub mod records;
pub mod sink;
pub mod truth;

use std::io;
use std::path::{Path, PathBuf};

use crate::schema::{Checker, Key, family};
use crate::stream::StreamSpec;

pub use buffer::{Buffer, WhenFull};
pub use records::{HeaderError, Next, Record, RecordParser, RecordReader, Records, Reject};
pub use sink::{FrameHeader, FrameReader, FrameSink, Frames, Gap, Pieces, SinkSettings, SourceStats, Wake};
pub use truth::TruthLabels;

/// What a source that reads standard input takes for itself.
pub const STANDARD_INPUT: &str = "standard input";

family! {
    /// The source is one of these kinds.
    pub enum Source: SourceKind {
        mod replay: Replay;
        mod lines: Lines;
        mod udp: Udp;
    }
}

/// What each kind of source is.
pub trait SourceKind {
    /// Checks the keys of the kind, whose table is at `key`, and completes them.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns what the stream is, before it starts.
    fn spec(&self) -> StreamSpec;

    /// Returns the buffer's keys, and what happens when it is full unless they say otherwise.
    fn buffer(&self) -> (&Buffer, WhenFull);

    /// Opens the source: its file, its socket.
    ///
    /// # Errors
    /// The source cannot be opened; the configuration is refused.
    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError>;

    /// Finds what would make [`SourceKind::open`] fail, without opening the source.
    ///
    /// # Errors
    /// The same as those of [`SourceKind::open`].
    fn check_access(&self) -> Result<(), SourceError>;

    /// Returns the resource that only one pipeline can read, and the key that names it.
    fn exclusive(&self) -> Option<(String, &'static str)> {
        None
    }

    /// Returns how a line of text becomes a frame, if the source reads lines.
    fn records(&self) -> Option<&Records> {
        None
    }

    /// Returns the recording that the source plays, if it does; windows can be taken from it before the start.
    fn recording(&self) -> Option<&Path> {
        None
    }

    /// Returns how much faster than in real time the stream runs.
    fn speed(&self) -> f64 {
        1.0
    }

    /// Returns why the stream never ends, and what to do for one that ends; None if it can end.
    fn endless(&self) -> Option<&'static str> {
        None
    }

    /// Returns the smallest number of frames that arrive together.
    fn frames_per_block(&self) -> usize {
        1
    }
}

impl Source {
    /// Returns what happens when the buffer is full.
    pub fn when_full(&self) -> WhenFull {
        let (buffer, otherwise) = self.kind().buffer();
        buffer.when_full.unwrap_or(otherwise)
    }

    /// Returns whether the stream has its own time.
    pub fn has_time(&self) -> bool {
        self.kind().records().is_none_or(|records| records.time.is_some())
    }

    /// Returns whether the two sources exclude each other: they read the same resource.
    pub fn shares_with(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.kind().exclusive(), other.kind().exclusive());
        matches!((ours, theirs), (Some((ours, _)), Some((theirs, _))) if ours == theirs)
    }

    /// Returns whether the stream names the true class of its frames.
    pub fn has_truth(&self) -> bool {
        self.kind().records().is_some_and(|records| records.truth.is_some())
    }
}

/// The settings with which a source is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The classes that a truth column may name.
    pub labels: TruthLabels,
    /// A stream from another program ends with its first writer.
    pub once: bool,
}

/// An open source: produces frames until it ends or the program is to stop.
pub trait FrameProducer: Send {
    /// Blocks until the stream has ended.
    ///
    /// # Errors
    /// The stream has failed; frames that were fed before are good.
    fn run(self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError>;
}

/// Why a source cannot be opened, or its stream has failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot {action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{}:{line}: {error}", path.display())]
    Header { path: PathBuf, line: u64, error: HeaderError },
    #[error("{0} is not a FIFO; remove it and run `mkfifo {0}`", path.display())]
    NotAFifo { path: PathBuf },
    #[error(
        "there is no FIFO {0}; run: mkfifo {0}; for the service, write `p {0} 0660 edgewatt edgewatt` into \
         /etc/tmpfiles.d/edgewatt.conf, or ExecStartPre=+/usr/bin/mkfifo -m 0660 {0} into its unit",
        path.display()
    )]
    NoFifo { path: PathBuf },
    #[error("{} is in use: another edgewatt listens on it", path.display())]
    SocketInUse { path: PathBuf },
    #[error("{} is not a regular file, as a recording must be", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: the recording ends before start_s = {start_s}", path.display())]
    StartsTooLate { path: PathBuf, start_s: f64 },
    #[error("{} has no usable record; the log says why records were rejected", path.display())]
    NothingAccepted { path: PathBuf },
}

impl SourceError {
    pub fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), error }
    }
}
