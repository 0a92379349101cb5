//! Runs a source as the daemon does, and records what it delivers until the time or the bytes are over, the source ends, or
//! a stop is requested.
//!
//! The source blocks on a thread of its own, `acquire`; the recording is written on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{AtEnd, RecordError, Recording};
use crate::source::sink::frame_ring;
use crate::source::{
    FoundNames, FrameProducer, FrameReader, FrameSink, Frames, Reject, SinkSettings, SourceError, SourceStats,
};
use crate::stop::Stop;
use crate::units::{MonoTime, wall_offset_ns};

/// How long the recording waits for frames before it looks at the clock.
const NAP: Duration = Duration::from_millis(100);
/// What was recorded is with the kernel after this time.
const FLUSH_EACH: Duration = Duration::from_secs(1);
/// A source that does not end in this time is left behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// When a recording ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Counted from the arrival of the first frame.
    pub time: Option<Duration>,
    /// Bytes of data.
    pub bytes: Option<u64>,
}

/// Why a recording has ended.
#[derive(Debug)]
pub enum Ended {
    Time,
    Bytes,
    /// A stop was requested.
    Stopped,
    /// The source has no more.
    SourceEnded,
    SourceFailed(String),
    /// Nothing more can be written.
    Failed(RecordError),
}

impl Ended {
    /// Returns the word that the manifest has.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Time => "seconds",
            Self::Bytes => "bytes",
            Self::Stopped => "stopped",
            Self::SourceEnded => "source_ended",
            Self::SourceFailed(_) => "source_failed",
            Self::Failed(_) => "write_failed",
        }
    }
}

/// How far a recording is.
#[derive(Debug, Clone)]
pub struct Progress {
    pub frames: u64,
    pub bytes: u64,
    /// Since the first frame.
    pub time: Duration,
    pub time_left: Option<Duration>,
    /// Why no frames come at present.
    pub trouble: Option<String>,
}

/// A source, opened with these labels and these counts, and the size of its ring.
pub struct Input {
    pub source: Box<dyn FrameProducer>,
    pub settings: SinkSettings,
    pub names: Arc<FoundNames>,
    pub stats: Arc<SourceStats>,
}

/// Records until the end, which `stop` can bring, and tells `progress` how far it is several times in a second.
///
/// # Errors
/// No thread can be started.
pub fn record(
    recording: &mut Recording,
    input: Input,
    limits: Limits,
    stop: &Arc<Stop>,
    pipeline: &str,
    mut progress: impl FnMut(&Progress),
) -> std::io::Result<(Ended, AtEnd)> {
    let Input { source, settings, names, stats } = input;
    let (sink, reader) = frame_ring(&settings, pipeline, stop.clone(), stats.clone());
    reader.wake.reader_is_this_thread();
    let acquire = spawn(source, sink, pipeline)?;
    let mut session =
        Session { recording, reader, limits, names: names.clone(), begun: None, flushed: MonoTime::now() };
    let mut ended = session.run(stop, &mut progress);
    stop.request();
    drop(session);
    if let Some(failure) = failure(acquire)
        && matches!(ended, Ended::SourceEnded)
    {
        ended = Ended::SourceFailed(failure);
    }
    let rejected = Reject::ALL.map(|reason| (reason.name(), stats.rejects(reason)));
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let dropped = [("overflow", count(&stats.overflow)), ("lost", count(&stats.lost))];
    let some = |counts: &[(&'static str, u64)]| counts.iter().filter(|(_, count)| *count > 0).copied().collect();
    let word = ended.word().to_owned();
    let at_end = AtEnd { ended: word, rejected: some(&rejected), dropped: some(&dropped), labels: names.all() };
    Ok((ended, at_end))
}

fn spawn(
    source: Box<dyn FrameProducer>,
    mut sink: FrameSink,
    pipeline: &str,
) -> std::io::Result<JoinHandle<Result<(), SourceError>>> {
    let name: String = format!("acq-{pipeline}").chars().filter(char::is_ascii).take(15).collect();
    std::thread::Builder::new().name(name).spawn(move || source.run(&mut sink))
}

/// Waits for the source, and returns why it has failed, if it has.
fn failure(acquire: JoinHandle<Result<(), SourceError>>) -> Option<String> {
    let deadline = MonoTime::now() + PATIENCE;
    while !acquire.is_finished() {
        if MonoTime::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match acquire.join() {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the source panicked; this is a bug in edgewatt, please report it with the log".to_owned()),
    }
}

struct Session<'a> {
    recording: &'a mut Recording,
    reader: FrameReader,
    limits: Limits,
    names: Arc<FoundNames>,
    /// When the first frame arrived.
    begun: Option<MonoTime>,
    flushed: MonoTime,
}

impl Session<'_> {
    fn run(&mut self, stop: &Stop, progress: &mut impl FnMut(&Progress)) -> Ended {
        loop {
            // Before the ring is read: what came before the end is then still in it.
            let is_last = self.reader.is_abandoned();
            let is_stopped = stop.is_requested();
            if let Err(ended) = self.take_all() {
                return ended;
            }
            let now = MonoTime::now();
            progress(&self.progress(now));
            match (self.begun, self.limits.time) {
                _ if is_stopped => return Ended::Stopped,
                (Some(begun), Some(time)) if now.since(begun) >= time => return Ended::Time,
                _ if is_last => return Ended::SourceEnded,
                _ => {}
            }
            if now.since(self.flushed) >= FLUSH_EACH {
                self.flushed = now;
                if let Err(error) = self.recording.flush() {
                    return Ended::Failed(error);
                }
            }
            if !self.reader.want(usize::MAX) && !self.reader.is_abandoned() {
                std::thread::park_timeout(NAP);
            }
        }
    }

    fn take_all(&mut self) -> Result<(), Ended> {
        let wall_ns = wall_offset_ns();
        let Self { recording, reader, limits, names, begun, .. } = self;
        loop {
            let taken =
                reader.pop(usize::MAX, |_, _| false, |frames| take(recording, &frames, limits, begun, names, wall_ns));
            match taken {
                None => return Ok(()),
                Some(Ok(())) => reader.room_made(),
                Some(Err(ended)) => return Err(ended),
            }
        }
    }

    fn progress(&self, now: MonoTime) -> Progress {
        let (frames, bytes) = self.recording.size();
        let time = self.begun.map_or(Duration::ZERO, |begun| now.since(begun));
        let time_left = self.limits.time.map(|limit| limit.saturating_sub(time));
        Progress { frames, bytes, time, time_left, trouble: self.reader.stats.remarks().trouble }
    }
}

/// Records those frames that are within the limits.
fn take(
    recording: &mut Recording,
    frames: &Frames<'_>,
    limits: &Limits,
    begun: &mut Option<MonoTime>,
    names: &FoundNames,
    wall_ns: i64,
) -> Result<(), Ended> {
    let begun = *begun.get_or_insert(frames.first.arrival);
    if limits.time.is_some_and(|time| frames.first.arrival.since(begun) >= time) {
        return Err(Ended::Time);
    }
    let room = limits.bytes.and_then(|bytes| recording.frames_below(bytes));
    let count = room.map_or(frames.count, |room| usize::try_from(room).unwrap_or(usize::MAX).min(frames.count));
    if count > 0 {
        recording.add(frames, count, wall_ns, |class| names.name(class)).map_err(Ended::Failed)?;
    }
    let is_full = limits.bytes.is_some_and(|bytes| recording.size().1 >= bytes);
    if count < frames.count || is_full { Err(Ended::Bytes) } else { Ok(()) }
}
