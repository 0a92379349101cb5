//! The sources of frames. A source blocks on its own thread, `acquire`, and feeds one pipeline's ring.
//!
//! Owns the family of sources, and what each must describe before the start. Leaves to `sink` how frames reach the
//! pipeline, and to `infer` what a window is and what a gap does to it.

pub mod buffer;
pub mod content;
pub mod pipe;
pub mod session;
pub mod sink;
pub mod survey;
pub mod truth;

use std::io;
use std::path::{Path, PathBuf};

use crate::schema::{Checker, Key, family};
use crate::stream::StreamSpec;
use crate::sys::Machine;

pub use buffer::{Buffer, WhenFull};
pub use content::{Content, ContentKind, Decoder, bytes, records};
pub use records::{HeaderError, Next, Record, RecordParser, RecordReader, Records, Reject};
pub use sink::{FrameHeader, FrameReader, FrameSink, Frames, Gap, Pieces, SinkSettings, SourceStats, Wake};
pub use survey::{DeviceNode, Presence, Survey};
pub use truth::TruthLabels;

/// What a source that reads standard input takes for itself.
pub const STANDARD_INPUT: &str = "standard input";

family! {
    /// The source is one of these kinds.
    pub enum Source: SourceKind {
        mod replay: Replay;
        mod lines: Lines;
        mod raw: Raw;
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

    /// Examines the device, program or network that the source reads, without disturbing it.
    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        match self.check_access() {
            Ok(()) => Survey::ready("it can be opened"),
            Err(error) => Survey::broken(error.to_string()),
        }
    }

    /// Returns the resources that only one pipeline can read.
    fn exclusive(&self) -> Vec<Exclusive> {
        Vec::new()
    }

    /// Returns whether the stream has its own time; otherwise no gap in time can be seen.
    fn has_time(&self) -> bool {
        self.records().is_some_and(|records| records.time.is_some())
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

    /// Returns whether the two sources exclude each other: they read the same resource.
    pub fn shares_with(&self, other: &Self) -> bool {
        let theirs = other.kind().exclusive();
        self.kind().exclusive().iter().any(|ours| theirs.iter().any(|theirs| theirs.resource == ours.resource))
    }

    /// Returns whether the stream names the true class of its frames.
    pub fn has_truth(&self) -> bool {
        self.kind().records().is_some_and(|records| records.truth.is_some())
    }
}

/// A resource that only one source can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusive {
    /// Its name; the same for every source that would read it.
    pub resource: String,
    /// The keys below the source's own that name it, such as `["from"]`.
    pub key: Vec<String>,
}

impl Exclusive {
    /// Returns the resource that the key `key` of a source names.
    pub fn new(resource: impl Into<String>, key: &str) -> Self {
        Self { resource: resource.into(), key: vec![key.to_owned()] }
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
