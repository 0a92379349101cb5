//! Where samples come from. A source blocks in a thread of its own, `acquire`, and feeds one pipeline's ring.
//!
//! Owns the rejection of bad records, the counting of what was taken and lost, and the waking of the pipeline.
//! What a window is, and what a gap does to it, is `window`'s business.

pub(crate) mod fields;
mod lines;
mod record;
mod replay;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use crate::config::{From, Source as SourceConfig, SourceKind, WhenBufferFull};
use crate::ring::{FrameRx, FrameTx, frame_ring};
use crate::stop::Stop;
use crate::units::MonoTime;

use lines::LinesSource;
pub use lines::MAX_LINE_BYTES;
use replay::ReplaySource;

pub use record::{HeaderError, Record, RecordParser, Reject};

/// Something that yields samples until it ends or the program is to stop.
pub trait Source: Send {
    /// Blocks. An error ends the stream; what was fed before it stays good.
    fn run(self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError>;
}

/// All of these end the stream; before the start they refuse the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot {action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Header { path: PathBuf, error: HeaderError },
    #[error("{0} is not a FIFO; remove it and run `mkfifo {0}`", path.display())]
    NotAFifo { path: PathBuf },
    #[error("{} is in use: another edgewatt listens there", path.display())]
    SocketInUse { path: PathBuf },
    #[error("{} is no regular file, as a recording must be", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} holds no record that can be used; see the rejects in the log", path.display())]
    NothingAccepted { path: PathBuf },
}

impl SourceError {
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), error }
    }
}

/// Opens what the configuration names. `labels` are the classes that a truth column may name; with `once` a stream
/// from outside ends with its first writer.
pub fn open(config: &SourceConfig, labels: Vec<String>, once: bool) -> Result<Box<dyn Source>, SourceError> {
    let parser = RecordParser::new(config.records.clone(), labels);
    Ok(match &config.kind {
        SourceKind::Replay(replay) => Box::new(ReplaySource::open(replay, config.records.rate_hz, parser)?),
        SourceKind::Lines(from) => Box::new(LinesSource::open(from, parser, once)?),
    })
}

/// Finds what would make [`open`] fail, without taking the source's place.
pub fn check(config: &SourceConfig) -> Result<(), SourceError> {
    match &config.kind {
        SourceKind::Replay(_) => open(config, Vec::new(), true).map(drop),
        SourceKind::Lines(From::Stdin) => Ok(()),
        SourceKind::Lines(From::Fifo(path)) => lines::check_fifo(path),
        SourceKind::Lines(From::Socket(path)) => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::read_dir(folder).map(drop).map_err(|e| SourceError::io("open the folder of the socket", path, e))
        }
    }
}

/// Why the samples before do not belong with those after: a window that spans it is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The stream's time jumped ahead by more than the longest allowed gap.
    TimeJump,
    /// The stream's time stood still or went back.
    TimeBack,
    /// Samples were dropped because the pipeline could not keep up.
    Overflow,
    /// The stream was cut: a writer left, a recording started over, or a row of records was rejected.
    Interrupted,
}

impl Gap {
    pub const ALL: [Self; 4] = [Self::TimeJump, Self::TimeBack, Self::Overflow, Self::Interrupted];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::TimeJump => "time_jump",
            Self::TimeBack => "time_back",
            Self::Overflow => "overflow",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What goes through the ring with each sample's values.
#[derive(Debug, Clone, Copy)]
pub struct SampleHeader {
    pub arrival: MonoTime,
    pub stream_ns: Option<i64>,
    /// Index of the true class among the model's labels.
    pub truth: Option<u16>,
    /// The stream was broken just before this sample.
    pub gap: Option<Gap>,
}

/// Counts of one source, since the start.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Handed to the pipeline; neither rejected nor dropped.
    pub samples: AtomicU64,
    pub overflow: AtomicU64,
    /// Samples are thrown away until it is taken back.
    pub paused: AtomicBool,
    /// Samples thrown away while paused.
    pub while_paused: AtomicU64,
    rejects: [AtomicU64; Reject::ALL.len()],
}

impl SourceStats {
    pub fn rejects(&self, reason: Reject) -> u64 {
        self.rejects[reason as usize].load(Ordering::Relaxed)
    }
}

/// How the two ends of a ring wake each other.
#[derive(Debug, Default)]
pub struct Wake {
    reader: OnceLock<Thread>,
    writer: OnceLock<Thread>,
    writer_waits: AtomicBool,
}

impl Wake {
    /// Called once by the thread that reads.
    pub fn reader_is_this_thread(&self) {
        let _ = self.reader.set(std::thread::current());
    }

    /// The source is held back: the pipeline has no room for more.
    pub fn writer_waits(&self) -> bool {
        self.writer_waits.load(Ordering::Relaxed)
    }

    /// Ends the reader's `park`.
    pub fn reader(&self) {
        if let Some(thread) = self.reader.get() {
            thread.unpark();
        }
    }
}

/// Wakes the reader when the writing end goes away.
struct WakeAtEnd(Arc<Wake>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.reader();
    }
}

/// The reading end of a source's ring.
pub struct FrameReader {
    pub ring: FrameRx<SampleHeader>,
    pub stats: Arc<SourceStats>,
    pub wake: Arc<Wake>,
    capacity: usize,
}

impl FrameReader {
    /// Lets a writer go on that waits for room; cheap when there is none. Call after reading.
    pub fn room_made(&self) {
        if self.wake.writer_waits.load(Ordering::Relaxed)
            && self.ring.len() * 2 <= self.capacity
            && self.wake.writer_waits.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.wake.writer.get()
        {
            thread.unpark();
        }
    }
}

/// The writing end of a source's ring, with the rules for bad records and a full ring.
pub struct FrameSink {
    ring: FrameTx<SampleHeader>,
    stats: Arc<SourceStats>,
    /// Behind the ring: dropped after it, it lets the reader find the ring abandoned.
    wake: WakeAtEnd,
    when_full: WhenBufferFull,
    stop: Arc<Stop>,
    pipeline: String,
    gap: Option<Gap>,
    rejected_in_a_row: u32,
    reject_log: [LogLimit; Reject::ALL.len()],
    overflow_log: LogLimit,
}

/// Rejected records in a row that make a gap where the stream has no time of its own to show it.
const REJECTS_PER_GAP: u32 = 3;
/// A writer that waits for room looks again after this long, should a wake-up have been missed.
const ROOM_CHECK: Duration = Duration::from_millis(20);

/// Makes a source's ring; `stats` go on where they are.
pub fn feed(
    config: &SourceConfig,
    pipeline: &str,
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
) -> (FrameSink, FrameReader) {
    let (ring_tx, ring_rx) = frame_ring(config.buffer_samples, config.records.channels.len());
    let wake = Arc::<Wake>::default();
    let feed = FrameSink {
        ring: ring_tx,
        stats: stats.clone(),
        wake: WakeAtEnd(wake.clone()),
        when_full: config.when_full,
        stop,
        pipeline: pipeline.to_owned(),
        gap: None,
        rejected_in_a_row: 0,
        reject_log: Default::default(),
        overflow_log: LogLimit::default(),
    };
    (feed, FrameReader { ring: ring_rx, stats, wake, capacity: config.buffer_samples })
}

impl FrameSink {
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Samples accepted so far.
    pub fn accepted(&self) -> u64 {
        self.stats.samples.load(Ordering::Relaxed)
    }

    /// The stream was cut here: no window may span this point.
    pub fn interrupted(&mut self) {
        self.gap = Some(Gap::Interrupted);
    }

    /// Tells the reader of what was taken. Call before anything that may wait: a wake-up for each sample costs more
    /// than the sample does.
    pub fn wake_reader(&self) {
        self.wake.0.reader();
    }

    /// Takes a parsed record and its values, or counts why it was none.
    pub fn take(&mut self, parsed: Result<Record, Reject>, values: &[f32], arrival: MonoTime) -> ControlFlow<()> {
        let record = match parsed {
            Ok(record) => record,
            Err(reason) => {
                self.reject(reason, arrival);
                return if self.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
        };
        if record.stream_ns.is_none() && self.rejected_in_a_row >= REJECTS_PER_GAP {
            self.interrupted();
        }
        self.rejected_in_a_row = 0;
        if self.stats.paused.load(Ordering::Relaxed) {
            self.stats.while_paused.fetch_add(1, Ordering::Relaxed);
            self.interrupted();
            return if self.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        let header = SampleHeader { arrival, stream_ns: record.stream_ns, truth: record.truth, gap: self.gap };
        self.push(header, values)
    }

    fn push(&mut self, header: SampleHeader, values: &[f32]) -> ControlFlow<()> {
        while !self.ring.push(header, values) {
            if self.stop.is_requested() || self.ring.is_abandoned() {
                return ControlFlow::Break(());
            }
            if self.when_full == WhenBufferFull::Drop {
                self.overflow(header.arrival);
                return ControlFlow::Continue(());
            }
            self.wait_for_room();
        }
        self.stats.samples.fetch_add(1, Ordering::Relaxed);
        self.gap = None;
        if self.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn wait_for_room(&self) {
        self.wake_reader();
        self.wake.0.writer.get_or_init(std::thread::current);
        self.wake.0.writer_waits.store(true, Ordering::Release);
        if self.ring.is_full() {
            std::thread::park_timeout(ROOM_CHECK);
        }
        self.wake.0.writer_waits.store(false, Ordering::Release);
    }

    fn overflow(&mut self, now: MonoTime) {
        self.gap = Some(Gap::Overflow);
        let count = self.stats.overflow.fetch_add(1, Ordering::Relaxed) + 1;
        if self.overflow_log.allows(now) {
            tracing::warn!(
                pipeline = self.pipeline,
                dropped_samples = count,
                "the pipeline cannot keep up; samples are dropped"
            );
        }
    }

    /// Counts a writer whose stream could not be read; the next one may do better.
    fn writer_refused(&mut self, error: &SourceError, now: MonoTime) {
        self.stats.rejects[Reject::Header as usize].fetch_add(1, Ordering::Relaxed);
        if self.reject_log[Reject::Header as usize].allows(now) {
            tracing::warn!(pipeline = self.pipeline, %error, "a writer is refused");
        }
    }

    fn reject(&mut self, reason: Reject, now: MonoTime) {
        self.rejected_in_a_row = self.rejected_in_a_row.saturating_add(1);
        let count = self.stats.rejects[reason as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if self.reject_log[reason as usize].allows(now) {
            let record = self.accepted() + Reject::ALL.iter().map(|r| self.stats.rejects(*r)).sum::<u64>();
            tracing::warn!(pipeline = self.pipeline, record, reason = reason.name(), count, "record rejected");
        }
    }
}

/// One line of log in ten seconds.
#[derive(Debug, Default)]
struct LogLimit {
    last: Option<MonoTime>,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);

    fn allows(&mut self, now: MonoTime) -> bool {
        let allowed = self.last.is_none_or(|last| now.since(last) >= Self::PERIOD);
        if allowed {
            self.last = Some(now);
        }
        allowed
    }
}
