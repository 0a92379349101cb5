//! The sources of frames. A source blocks on its own thread, `acquire`, and feeds one pipeline's ring.
//!
//! Owns the family of sources, and what each must describe before the start. Leaves to `sink` how frames reach the
//! pipeline, and to `infer` what a window is and what a gap does to it.

pub mod buffer;
pub mod content;
pub mod field;
pub mod layout;
pub(crate) mod log_limit;
pub mod pipe;
pub mod polling;
pub mod rate;
pub mod recording;
pub mod registers;
pub mod sample_clock;
pub mod session;
pub(crate) mod silence;
pub mod sink;
pub mod survey;
pub mod truth;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::{NodeConnection, Subscription};
use crate::schema::{Checker, Key, family};
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::sys::cpu::Children;
use crate::sys::trouble::Trouble;

pub use self::bytes::Bytes;
pub use buffer::{Buffer, WhenFull};
pub use content::{Content, ContentKind, Decoder, bytes, packets, records};
pub use recording::RecordedStream;
pub use records::{HeaderError, Next, Record, RecordParser, RecordReader, Records, Reject};
pub use sink::{FrameHeader, FrameReader, FrameSink, Frames, Gap, Pieces, SinkSettings, SourceStats, Wake};
pub use survey::{DeviceNode, Presence, Survey};
pub use truth::{FoundNames, TruthLabels};

/// What a source that reads standard input takes for itself.
pub const STANDARD_INPUT: &str = "standard input";

family! {
    /// The source is one of these kinds.
    pub enum Source: SourceKind {
        mod replay: Replay;
        mod lines: Lines;
        mod raw: Raw;
        mod udp: Udp;
        mod exec: Exec;
        mod alsa: Alsa;
        mod serial: Serial;
        mod i2c: I2c;
        mod spi: Spi;
        mod mqtt: Mqtt;
        mod iio: Iio;
        mod hwmon: Hwmon;
        mod join: Join;
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

    /// Returns what the source asks MQTT brokers for.
    fn subscriptions(&self) -> Vec<SourceSubscription> {
        Vec::new()
    }

    /// Sets up in the kernel what reading the device needs, for which only root has the rights; `restart`: also if that was
    /// done before. Says in words what was done; `None` if this kind needs nothing.
    ///
    /// # Errors
    /// It cannot be set up. An absent device is not an error.
    fn set_up(&self, _machine: &Machine<'_>, _restart: bool) -> Option<Result<String, SourceError>> {
        None
    }

    /// Returns the resources that only one pipeline can read.
    fn exclusive(&self) -> Vec<Exclusive> {
        Vec::new()
    }

    /// Returns what the bytes hold, if the source reads bytes.
    fn content(&self) -> Option<&dyn ContentKind> {
        None
    }

    /// Returns whether the stream has its own time; otherwise no gap in time can be seen.
    fn has_time(&self) -> bool {
        self.content().is_some_and(ContentKind::has_time)
    }

    /// Returns the longest step from frame to frame that the stream's own clock shows; `None` if it has none that starts
    /// again.
    fn longest_step(&self) -> Option<Duration> {
        self.content()?.longest_step()
    }

    /// Returns how raw bytes become frames, if the source reads raw bytes.
    fn bytes(&self) -> Option<&Bytes> {
        self.content()?.bytes()
    }

    /// Returns how a line of text becomes a frame, if the source reads lines.
    fn records(&self) -> Option<&Records> {
        self.content()?.records()
    }

    /// Returns the keys below the source's own that name the column of the true class, if the stream has it.
    fn truth(&self) -> Option<Vec<String>> {
        self.records()?.truth.as_ref().map(|_| ["records", "truth"].map(str::to_owned).to_vec())
    }

    /// Returns the recording that the source plays, if it does; windows can be taken from it before the start.
    fn recording(&self) -> Option<&Path> {
        None
    }

    /// Returns the stream in the file at `path`, which must be one that this source could have given.
    ///
    /// # Errors
    /// The file cannot be read, or holds another stream.
    fn recorded(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        self.recorded_elsewhere(path)
    }

    /// Does so for a file that is not the source's own.
    ///
    /// # Errors
    /// Those of [`SourceKind::recorded`].
    fn recorded_elsewhere(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        let ours = self.spec();
        let Some(found) = RecordedStream::find(path)? else {
            return match (self.records(), self.bytes()) {
                (Some(records), _) => Ok(RecordedStream::text(path, records)),
                (None, Some(bytes)) => Ok(RecordedStream::bytes(path, bytes, ours)),
                (None, None) => {
                    let reason =
                        "it is not a WAV file, nor the manifest of a recording that `edgewatt record` has made";
                    Err(SourceError::device(path, reason.to_owned()))
                }
            };
        };
        if found.spec.frame != ours.frame {
            let reason = format!("it has frames of {}, and the source has {}", found.spec.frame, ours.frame);
            return Err(SourceError::device(path, reason));
        }
        match (found.spec.rate_hz, ours.rate_hz) {
            (Some(theirs), Some(ours)) if (theirs / ours - 1.0).abs() > 0.01 => {
                Err(SourceError::device(path, format!("it has {theirs} Hz, and the source has {ours} Hz")))
            }
            _ => Ok(found),
        }
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
        self.content().map_or(1, ContentKind::frames_per_block)
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
        self.kind().exclusive().iter().any(|ours| theirs.iter().any(|theirs| theirs.overlaps(ours)))
    }

    /// Returns whether the stream names the true class of its frames.
    pub fn has_truth(&self) -> bool {
        self.kind().truth().is_some()
    }
}

/// A subscription of a source, or of a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSubscription {
    /// The keys from the source's own table to that of the subscription.
    pub key: Vec<String>,
    /// The name of the part, if it is one of several sources.
    pub part: Option<String>,
    pub subscription: Subscription,
}

/// Returns the name by which a broker knows the source of a pipeline, or a part of it.
pub fn part_name(pipeline: &str, part: Option<&str>) -> String {
    part.map_or_else(|| pipeline.to_owned(), |part| format!("{pipeline}-{part}"))
}

/// A resource that only one source can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusive {
    /// Its name; the same for every source that would read it.
    pub resource: String,
    /// Which one of several that have this name; `None`: the only one.
    pub which: Option<String>,
    /// The keys below the source's own that name it, such as `["from"]`.
    pub key: Vec<String>,
}

impl Exclusive {
    /// Returns the resource that the key `key` of a source names.
    pub fn new(resource: impl Into<String>, key: &str) -> Self {
        Self { resource: resource.into(), which: None, key: vec![key.to_owned()] }
    }

    /// Returns whether the two are the same, as far as their names tell: the only one of a name is also the one that is
    /// named more closely.
    pub fn overlaps(&self, other: &Self) -> bool {
        let both = self.which.as_ref().zip(other.which.as_ref());
        self.resource == other.resource && both.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

/// The settings with which a source is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The classes that a truth column may name.
    pub labels: TruthLabels,
    /// A stream from another program ends with its first writer.
    pub once: bool,
    /// The processes whose processor time is our own.
    pub children: Children,
    /// The name of the pipeline.
    pub pipeline: String,
    /// How the node connects to its broker.
    pub node: Option<NodeConnection>,
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
    #[error("the node has no MQTT broker (mqtt.broker); write the address of one in source.mqtt.broker")]
    NoBroker,
    #[error("{} is in use: another edgewatt listens on it", path.display())]
    SocketInUse { path: PathBuf },
    #[error("{} is not a regular file, as a recording must be", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: the recording ends before start_s = {start_s}", path.display())]
    StartsTooLate { path: PathBuf, start_s: f64 },
    #[error(transparent)]
    Program(#[from] exec::ProgramError),
    #[error("{program} {how}")]
    ProgramEnded { program: String, how: String },
    #[error(transparent)]
    Alsa(#[from] alsa::AlsaError),
    #[error("{name}: {reason}")]
    Device { name: String, reason: String },
    #[error("{} has no usable record; the log says why records were rejected", path.display())]
    NothingAccepted { path: PathBuf },
    #[error("the source {name} of the join: {reason}")]
    Joined { name: String, reason: String },
}

impl SourceError {
    pub fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), error }
    }

    /// Returns whether another attempt may succeed.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NoFifo { .. } | Self::SocketInUse { .. } => Trouble::Absent,
            Self::Program(exec::ProgramError::NoFile { .. } | exec::ProgramError::NotInPath { .. }) => Trouble::Absent,
            other => Trouble::of_message(&other.to_string()),
        }
    }

    /// Returns why the device or file at `path` cannot be used, in words.
    pub fn device(path: &Path, reason: String) -> Self {
        Self::Device { name: path.display().to_string(), reason }
    }
}
