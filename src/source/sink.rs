//! Passes frames from a source to its pipeline: the two ends of a ring, and the rules for bad records and a full ring.
//!
//! Owns the rejection of bad records, the counts of accepted and lost frames, and the waking of the pipeline. The writing
//! end lives on the acquire thread, the reading end on the infer thread. Allocates nothing after it is built.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::{Record, RecordParser, RecordReader, Reject, SourceError, WhenFull};
use crate::ring::{BlockRx, BlockTx, block_ring};
use crate::stop::{Stop, Waited};
use crate::stream::{SampleType, StreamSpec};
use crate::units::MonoTime;

/// Why frames do not follow each other. A window that spans a gap is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The stream's time jumped ahead by more than the longest allowed gap.
    TimeJump,
    /// The stream's time stood still or went back.
    TimeBack,
    /// Frames were dropped because the pipeline could not keep up.
    Overflow,
    /// The stream was cut: a writer left, a recording started over, or several records in a row were rejected.
    Interrupted,
    /// The device or the kernel dropped frames before edgewatt read them.
    Overrun,
    /// The device, program or connection was away.
    Reconnect,
    /// One source of a join had no sample near enough to those of the other.
    Unmatched,
}

impl Gap {
    pub const ALL: [Self; 7] = [
        Self::TimeJump,
        Self::TimeBack,
        Self::Overflow,
        Self::Interrupted,
        Self::Overrun,
        Self::Reconnect,
        Self::Unmatched,
    ];

    /// Returns the gap that is counted under this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|gap| gap.name().as_bytes() == name)
    }

    /// Returns the name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::TimeJump => "time_jump",
            Self::TimeBack => "time_back",
            Self::Overflow => "overflow",
            Self::Interrupted => "interrupted",
            Self::Overrun => "overrun",
            Self::Reconnect => "reconnect",
            Self::Unmatched => "unmatched",
        }
    }
}

/// The times, the truth and the gap of a block of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// When the block arrived.
    pub arrival: MonoTime,
    /// The stream's own time of the first frame.
    pub stream_ns: Option<i64>,
    /// Index of the true class among the model's labels.
    pub truth: Option<u16>,
    /// The stream was broken just before the block.
    pub gap: Option<Gap>,
}

impl FrameHeader {
    /// Returns the stream's own time, or when the frame arrived if the stream has none, in nanoseconds. Only differences
    /// count: the two have different origins.
    pub fn time_ns(&self) -> i64 {
        self.stream_ns.unwrap_or_else(|| i64::try_from(self.arrival.0).unwrap_or(i64::MAX))
    }
}

/// Frames that follow each other without a gap.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// The times, the truth and the gap of the first of these frames.
    pub first: FrameHeader,
    /// The times and the truth of the last one.
    pub last: FrameHeader,
    pub count: usize,
    /// `[count, frame]`, row-major.
    pub values: Pieces<'a>,
}

/// Values in the type of the stream; in two pieces if they wrap around the end of the ring.
#[derive(Debug, Clone, Copy)]
pub enum Pieces<'a> {
    F32(&'a [f32], &'a [f32]),
    I16(&'a [i16], &'a [i16]),
    U8(&'a [u8], &'a [u8]),
}

/// The type of a frame's values.
pub trait Sample: Copy + Default {
    /// Returns the ring if it holds values of this type.
    fn ring(ring: &mut RingTx) -> Option<&mut BlockTx<FrameHeader, Self>>;
}

/// The writing end of a ring of frames.
pub enum RingTx {
    F32(BlockTx<FrameHeader, f32>),
    I16(BlockTx<FrameHeader, i16>),
    U8(BlockTx<FrameHeader, u8>),
}

enum RingRx {
    F32(BlockRx<FrameHeader, f32>),
    I16(BlockRx<FrameHeader, i16>),
    U8(BlockRx<FrameHeader, u8>),
}

macro_rules! samples {
    ($($type:ty => $variant:ident),+) => { $(
        impl Sample for $type {
            fn ring(ring: &mut RingTx) -> Option<&mut BlockTx<FrameHeader, Self>> {
                if let RingTx::$variant(ring) = ring { Some(ring) } else { None }
            }
        }
    )+ };
}

samples!(f32 => F32, i16 => I16, u8 => U8);

/// Runs the same expression with the ring of whichever type it is.
macro_rules! each {
    ($enum:ident, $ring:expr, $name:ident => $do:expr) => {
        match $ring {
            $enum::F32($name) => $do,
            $enum::I16($name) => $do,
            $enum::U8($name) => $do,
        }
    };
}

/// Counts of one source, since the start.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Frames handed to the pipeline; neither rejected nor dropped.
    pub samples: AtomicU64,
    pub overflow: AtomicU64,
    /// Frames that the device or the kernel lost before edgewatt read them, if they say how many.
    pub lost: AtomicU64,
    /// Frames of the leader of a join to which another source had none near enough.
    pub unmatched: AtomicU64,
    /// While it is set, frames are thrown away.
    pub paused: AtomicBool,
    /// Frames thrown away while paused.
    pub while_paused: AtomicU64,
    /// Records whose true class is not a label.
    pub unknown_truth: AtomicU64,
    /// Samples that had the time of the sample before.
    pub time_still: AtomicU64,
    rejects: [AtomicU64; Reject::ALL.len()],
    remarks: Mutex<Remarks>,
}

/// What was said of a source, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Why the record that was logged last was rejected.
    pub reject: Option<String>,
    /// How the stream's time and its nominal rate contradict each other.
    pub contradiction: Option<String>,
    /// Why the source gives no frames, or none to be trusted, at present.
    pub trouble: Option<String>,
}

impl SourceStats {
    pub fn rejects(&self, reason: Reject) -> u64 {
        self.rejects[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns how many records were rejected for any reason.
    pub fn rejected(&self) -> u64 {
        Reject::ALL.iter().map(|reason| self.rejects(*reason)).sum()
    }

    pub fn remarks(&self) -> Remarks {
        self.remarks_guard().clone()
    }

    /// Moves to these counts what the source `name`, which is a part of this one, has lost or rejected, and what was said of
    /// it. Its samples are counted as those of the whole.
    pub fn absorb(&self, name: &str, part: &Self) {
        let moved = |from: &AtomicU64, to: &AtomicU64| {
            if from.load(Ordering::Relaxed) > 0 {
                to.fetch_add(from.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
        };
        moved(&part.overflow, &self.overflow);
        moved(&part.lost, &self.lost);
        part.rejects.iter().zip(&self.rejects).for_each(|(from, to)| moved(from, to));
        let (reject, contradiction) = {
            let mut said = part.remarks_guard();
            (said.reject.take(), said.contradiction.take())
        };
        let mut remarks = self.remarks_guard();
        let of_part = |said: String| format!("{name}: {said}");
        remarks.reject = reject.map(of_part).or(remarks.reject.take());
        remarks.contradiction = contradiction.map(of_part).or(remarks.contradiction.take());
    }

    /// The lock is taken only to say something, not for each record.
    fn remarks_guard(&self) -> MutexGuard<'_, Remarks> {
        // What is under the lock is replaced as a whole.
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state with which the two ends of a ring wake each other.
#[derive(Debug, Default)]
pub struct Wake {
    reader: OnceLock<Thread>,
    writer: OnceLock<Thread>,
    writer_waits: AtomicBool,
    /// The reader has nothing to do until so many frames wait for it.
    wanted: AtomicUsize,
}

impl Wake {
    /// Called once by the thread that reads.
    pub fn reader_is_this_thread(&self) {
        let _ = self.reader.set(std::thread::current());
    }

    /// Returns whether the source is waiting because the ring is full.
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

/// The size and type of the ring between a source and its pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkSettings {
    pub spec: StreamSpec,
    /// Frames that the ring holds.
    pub frames: usize,
    pub frames_per_block: usize,
    pub when_full: WhenFull,
}

/// Makes the two ends of a source's ring; the counts in `stats` continue.
pub fn frame_ring(
    settings: &SinkSettings,
    pipeline: &str,
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
) -> (FrameSink, FrameReader) {
    let frame_values = settings.spec.frame.values();
    let blocks = settings.frames.div_ceil(settings.frames_per_block.max(1));
    let values = settings.frames.saturating_mul(frame_values);
    let (ring_tx, ring_rx) = match settings.spec.sample {
        SampleType::F32 => both(block_ring(blocks, values), RingTx::F32, RingRx::F32),
        SampleType::I16 => both(block_ring(blocks, values), RingTx::I16, RingRx::I16),
        SampleType::U8 => both(block_ring(blocks, values), RingTx::U8, RingRx::U8),
    };
    let wake = Arc::<Wake>::default();
    *stats.remarks_guard() = Remarks::default();
    let sink = FrameSink {
        ring: ring_tx,
        frame_values,
        period_ns: period_ns(settings.spec.rate_hz),
        // Half the ring, because the reader can be inside a block while the next one is written.
        block_frames: (settings.frames / 2).max(1),
        stats: stats.clone(),
        wake: WakeAtEnd(wake.clone()),
        when_full: settings.when_full,
        stop,
        pipeline: pipeline.to_owned(),
        gap: None,
        delivered: 0,
        away_since: None,
        last_stream_ns: None,
        rejected_in_a_row: 0,
        reject_log: Default::default(),
        overflow_log: LogLimit::default(),
        away_log: LogLimit::default(),
    };
    let reader = FrameReader {
        ring: ring_rx,
        frame_values,
        period_ns: sink.period_ns,
        within: 0,
        stats,
        wake,
        capacity: settings.frames,
    };
    (sink, reader)
}

fn both<T, R, A, B>((tx, rx): (T, R), wrap_tx: impl Fn(T) -> A, wrap_rx: impl Fn(R) -> B) -> (A, B) {
    (wrap_tx(tx), wrap_rx(rx))
}

/// Returns the time from one frame to the next; 0 if the rate is not known.
pub fn period_ns(rate_hz: Option<f64>) -> i64 {
    rate_hz.map_or(0, |rate| (1e9 / rate).round() as i64)
}

/// Returns the time of the frame that comes `frames` frames after one at `ns`.
fn later(ns: i64, frames: usize, period_ns: i64) -> i64 {
    ns.saturating_add(i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(period_ns))
}

/// The reading end of a source's ring.
pub struct FrameReader {
    ring: RingRx,
    frame_values: usize,
    period_ns: i64,
    /// Frames of the current block that were read before.
    within: usize,
    pub stats: Arc<SourceStats>,
    pub wake: Arc<Wake>,
    capacity: usize,
}

impl FrameReader {
    /// Passes the oldest frames to `read`, at most `most`: from one block, or from blocks of one frame as long as `joins`
    /// says that a frame goes with the next.
    pub fn pop<R>(
        &mut self,
        most: usize,
        joins: impl Fn(&FrameHeader, &FrameHeader) -> bool,
        read: impl FnOnce(Frames<'_>) -> R,
    ) -> Option<R> {
        let (frame_values, period_ns) = (self.frame_values.max(1), self.period_ns);
        let within = if each!(RingRx, &self.ring, ring => ring.is_within_block()) { self.within } else { 0 };
        let values = most.saturating_mul(frame_values);
        let joins = |last: &(FrameHeader, usize), next: &(FrameHeader, usize)| {
            last.1 == frame_values && next.1 == frame_values && joins(&last.0, &next.0)
        };
        let frames = |first: &FrameHeader, last: &FrameHeader, length: usize, values: Pieces<'_>| {
            let count = length / frame_values;
            let after = |header: &FrameHeader, frames: usize| FrameHeader {
                stream_ns: header.stream_ns.map(|ns| later(ns, frames, period_ns)),
                ..*header
            };
            let last = if std::ptr::eq(first, last) { after(first, within + count.saturating_sub(1)) } else { *last };
            let first = FrameHeader { gap: first.gap.filter(|_| within == 0), ..after(first, within) };
            (read(Frames { first, last, count, values }), count)
        };
        let (result, count) = match &mut self.ring {
            RingRx::F32(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, run.count(), Pieces::F32(run.values.0, run.values.1))
            }),
            RingRx::I16(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, run.count(), Pieces::I16(run.values.0, run.values.1))
            }),
            RingRx::U8(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, run.count(), Pieces::U8(run.values.0, run.values.1))
            }),
        }?;
        self.within = within + count;
        Some(result)
    }

    /// Tells the source that there is nothing to do until `frames` wait to be read. Returns whether they do already.
    pub fn want(&self, frames: usize) -> bool {
        // A ring that is half full is always read.
        let wanted = frames.min(self.capacity / 2).max(1);
        self.wake.wanted.store(wanted, Ordering::Relaxed);
        // Pairs with the fence in `wake_reader`: either this thread sees the frames, or the source sees what is wanted.
        fence(Ordering::SeqCst);
        self.len() >= wanted
    }

    /// Returns the number of frames that wait to be read.
    pub fn len(&self) -> usize {
        each!(RingRx, &self.ring, ring => ring.values()) / self.frame_values.max(1)
    }

    pub fn is_empty(&self) -> bool {
        each!(RingRx, &self.ring, ring => ring.is_empty())
    }

    /// Returns whether the source has ended. If the ring is empty too, the stream has ended.
    pub fn is_abandoned(&self) -> bool {
        each!(RingRx, &self.ring, ring => ring.is_abandoned())
    }

    /// Wakes a writer that waits for room; cheap if none does. Call it after reading.
    pub fn room_made(&self) {
        if self.wake.writer_waits.load(Ordering::Relaxed)
            && self.len() * 2 <= self.capacity
            && self.wake.writer_waits.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.wake.writer.get()
        {
            thread.unpark();
        }
    }
}

/// The writing end of a source's ring, with the rules for bad records and a full ring.
pub struct FrameSink {
    ring: RingTx,
    frame_values: usize,
    period_ns: i64,
    /// Frames of the longest block.
    block_frames: usize,
    stats: Arc<SourceStats>,
    /// Declared after the ring, so dropped after it: the reader that it wakes then finds the writer gone.
    wake: WakeAtEnd,
    when_full: WhenFull,
    stop: Arc<Stop>,
    pipeline: String,
    gap: Option<Gap>,
    /// Frames that the source gave, whatever became of them.
    delivered: u64,
    /// Since when the source is away.
    away_since: Option<MonoTime>,
    /// The time of the last record.
    last_stream_ns: Option<i64>,
    rejected_in_a_row: u32,
    reject_log: [LogLimit; Reject::ALL.len()],
    overflow_log: LogLimit,
    away_log: LogLimit,
}

/// This many rejected records in a row make a gap, if the stream has no time that shows it.
const REJECTS_PER_GAP: u32 = 3;
/// How often a writer that waits for room checks again, in case it missed a wake-up.
const ROOM_CHECK: Duration = Duration::from_millis(20);
/// A rest is worth its system call from so many frames, and from such a time on.
const LEAST_FRAMES_OF_REST: usize = 4;
const LEAST_REST: Duration = Duration::from_millis(1);
/// What arrives in this time fits into a pipe or a socket.
const LONGEST_REST: Duration = Duration::from_millis(50);

impl FrameSink {
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns the same request to stop, to share it with other threads.
    pub fn shared_stop(&self) -> Arc<Stop> {
        self.stop.clone()
    }

    /// Returns the name of the pipeline, for the log.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Returns the counts of this source.
    pub fn stats(&self) -> &SourceStats {
        &self.stats
    }

    /// Returns the number of frames accepted so far.
    pub fn accepted(&self) -> u64 {
        self.stats.samples.load(Ordering::Relaxed)
    }

    /// Returns the number of frames that the source gave so far, whatever became of them.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Notes that the stream was cut here, for this reason: no window may span this point.
    pub fn cut(&mut self, gap: Gap) {
        self.gap = Some(gap);
    }

    /// Counts frames that the device or the kernel lost before they were read; the stream is cut here.
    pub fn lost(&mut self, frames: u64) {
        self.stats.lost.fetch_add(frames, Ordering::Relaxed);
        self.cut(Gap::Overrun);
    }

    /// Counts frames that the source came too late to read. The stream is not cut: its own time shows whether that is a gap.
    pub fn missed(&self, frames: u64) {
        self.stats.lost.fetch_add(frames, Ordering::Relaxed);
    }

    /// Notes that the source `name` is away, and why. The pipeline is degraded until the next frame comes.
    pub fn absent(&mut self, name: &str, reason: String, now: MonoTime) {
        let is_new = self.stats.remarks_guard().trouble.as_ref() != Some(&reason);
        // The end of a stream that works again and again is said once in a while.
        if (self.away_since.is_none() || is_new) && self.away_log.allows(now) {
            tracing::warn!(pipeline = self.pipeline, source = name, "the source is away: {reason}; waiting for it");
        }
        self.away_since.get_or_insert(now);
        self.trouble(Some(reason));
    }

    /// Notes that the source `name` is there. If it was away, the pipeline stays degraded until the next frame comes.
    pub fn opened(&self, name: &str) {
        if self.away_since.is_some() {
            self.trouble(Some(format!("{name} is open, but has given no sample yet")));
        }
    }

    /// Says why the frames that come are not to be trusted; `None`: they are again. The pipeline is degraded meanwhile.
    pub fn trouble(&self, reason: Option<String>) {
        self.stats.remarks_guard().trouble = reason;
    }

    /// The source that was away gives frames again.
    fn back(&mut self, since: MonoTime, now: MonoTime) {
        let away_s = now.since(since).as_secs_f64();
        tracing::info!(pipeline = self.pipeline, "the source is back after {away_s:.1} s");
        self.trouble(None);
    }

    /// Wakes the reader for the frames fed so far, if they are what it waits for. Call it before anything that may wait.
    /// It is not done for each frame, because a wake-up costs more than a frame.
    pub fn wake_reader(&self) {
        fence(Ordering::SeqCst);
        // Small blocks can fill the ring before there are enough frames.
        let is_half_full = || each!(RingTx, &self.ring, ring => ring.is_half_full());
        if self.waiting() >= self.wake.0.wanted.load(Ordering::Relaxed) || is_half_full() {
            self.wake.0.reader();
        }
    }

    /// Returns the number of frames that wait to be read.
    fn waiting(&self) -> usize {
        each!(RingTx, &self.ring, ring => ring.values()) / self.frame_values.max(1)
    }

    /// Returns how many frames the reader still waits for, as far as is known.
    pub fn missing(&self) -> usize {
        self.wake.0.wanted.load(Ordering::Relaxed).saturating_sub(self.waiting())
    }

    /// Sleeps for half of the time until the reader can have what it waits for, if the stream's rate is known. A source
    /// that wakes for each of many small frames calls it before it waits, and then wakes for many of them.
    ///
    /// # Errors
    /// This thread cannot wait.
    pub fn rest(&self) -> std::io::Result<Waited> {
        let missing = self.missing();
        let half = Duration::from_nanos(self.period_ns.unsigned_abs().saturating_mul(missing as u64) / 2);
        if missing < LEAST_FRAMES_OF_REST || half < LEAST_REST {
            return Ok(Waited::Ready);
        }
        self.stop.sleep_until(MonoTime::now() + half.min(LONGEST_REST))
    }

    /// Takes a block of frames, `[n, frame]` row-major; `stream_ns` is the stream's own time of the first one.
    ///
    /// If the type or number of values is not that of the stream's description, which is a fault in the source, they are
    /// dropped and counted as malformed.
    pub fn frames<T: Sample>(&mut self, values: &[T], arrival: MonoTime, stream_ns: Option<i64>) -> ControlFlow<()> {
        if T::ring(&mut self.ring).is_none() || !values.len().is_multiple_of(self.frame_values.max(1)) {
            return self
                .reject(Reject::Malformed, arrival, || "the source gave values that it had not announced".into());
        }
        let mut header = FrameHeader { arrival, stream_ns, truth: None, gap: None };
        for block in values.chunks(self.block_frames.saturating_mul(self.frame_values).max(1)) {
            self.accept(header, block)?;
            header.stream_ns = self.time_after(header.stream_ns, block.len() / self.frame_values.max(1));
        }
        self.flow()
    }

    /// Returns the time of the frame that comes `frames` frames after one at `stream_ns`, at the nominal rate.
    pub fn time_after(&self, stream_ns: Option<i64>, frames: usize) -> Option<i64> {
        stream_ns.map(|ns| later(ns, frames, self.period_ns))
    }

    /// Takes a record and its values, one frame.
    pub fn take(&mut self, record: Record, values: &[f32], arrival: MonoTime) -> ControlFlow<()> {
        if record.stream_ns.is_some() && record.stream_ns == self.last_stream_ns {
            self.stats.time_still.fetch_add(1, Ordering::Relaxed);
        }
        self.last_stream_ns = record.stream_ns;
        let header = FrameHeader { arrival, stream_ns: record.stream_ns, truth: record.truth, gap: None };
        self.accept(header, values)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn accept<T: Sample>(&mut self, header: FrameHeader, values: &[T]) -> ControlFlow<()> {
        let frames = (values.len() / self.frame_values.max(1)) as u64;
        if header.stream_ns.is_none() && self.rejected_in_a_row >= REJECTS_PER_GAP {
            self.cut(Gap::Interrupted);
        }
        self.rejected_in_a_row = 0;
        self.delivered += frames;
        if let Some(since) = self.away_since.take() {
            self.back(since, header.arrival);
        }
        if self.stats.paused.load(Ordering::Relaxed) {
            self.stats.while_paused.fetch_add(frames, Ordering::Relaxed);
            self.cut(Gap::Interrupted);
            return self.flow();
        }
        let header = FrameHeader { gap: self.gap, ..header };
        while !T::ring(&mut self.ring).is_some_and(|ring| ring.push(header, values)) {
            if self.stop.is_requested() || each!(RingTx, &self.ring, ring => ring.is_abandoned()) {
                return ControlFlow::Break(());
            }
            if self.when_full == WhenFull::Drop {
                self.overflow(frames, header.arrival);
                return ControlFlow::Continue(());
            }
            self.wait_for_room(values.len());
        }
        self.stats.samples.fetch_add(frames, Ordering::Relaxed);
        self.gap = None;
        self.flow()
    }

    fn wait_for_room(&self, values: usize) {
        self.wake.0.reader();
        self.wake.0.writer.get_or_init(std::thread::current);
        self.wake.0.writer_waits.store(true, Ordering::Release);
        if each!(RingTx, &self.ring, ring => ring.is_full(values)) {
            std::thread::park_timeout(ROOM_CHECK);
        }
        self.wake.0.writer_waits.store(false, Ordering::Release);
    }

    fn overflow(&mut self, frames: u64, now: MonoTime) {
        self.cut(Gap::Overflow);
        // The ring may be full of fewer frames than the reader waits for.
        self.wake.0.reader();
        let count = self.stats.overflow.fetch_add(frames, Ordering::Relaxed) + frames;
        if self.overflow_log.allows(now) {
            tracing::warn!(
                pipeline = self.pipeline,
                dropped_samples = count,
                "the pipeline cannot keep up; samples are dropped"
            );
        }
    }

    /// Counts and logs a writer whose stream could not be read.
    pub fn writer_refused(&mut self, error: &SourceError, now: MonoTime) {
        self.stats.rejects[Reject::Header as usize].fetch_add(1, Ordering::Relaxed);
        if self.reject_log[Reject::Header as usize].allows(now) {
            tracing::warn!(pipeline = self.pipeline, %error, "a writer is refused");
            self.stats.remarks_guard().reject = Some(error.to_string());
        }
    }

    /// Counts a record that is not wanted. It says nothing of those before and after it.
    pub fn pass_over(&mut self, reason: Reject, now: MonoTime, explain: impl FnOnce() -> String) {
        let in_a_row = self.rejected_in_a_row;
        let _ = self.reject(reason, now, explain);
        self.rejected_in_a_row = in_a_row;
    }

    /// Counts a record that is not a sample. `explain` says why, and where it stands; it is asked only if that is logged.
    pub fn reject(&mut self, reason: Reject, now: MonoTime, explain: impl FnOnce() -> String) -> ControlFlow<()> {
        self.rejected_in_a_row = self.rejected_in_a_row.saturating_add(1);
        let count = self.stats.rejects[reason as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if self.reject_log[reason as usize].allows(now) {
            let record = self.accepted() + self.stats.rejected();
            let why = explain();
            tracing::warn!(pipeline = self.pipeline, record, reason = reason.name(), count, "record rejected: {why}");
            self.stats.remarks_guard().reject = Some(why);
        }
        self.flow()
    }

    /// Logs what the reader has found out about the stream since the last call: once for each thing.
    pub(crate) fn note(&mut self, reader: &mut RecordReader, parser: &mut RecordParser) {
        if let Some(skipped) = reader.take_skipped() {
            tracing::info!(pipeline = self.pipeline, "{skipped}");
        }
        if let Some(contradiction) = parser.take_contradiction() {
            self.contradicts_itself(contradiction);
        }
    }

    /// Logs and keeps in which way the stream's time and its nominal rate contradict each other.
    pub(crate) fn contradicts_itself(&self, contradiction: String) {
        tracing::warn!(pipeline = self.pipeline, "{contradiction}");
        self.stats.remarks_guard().contradiction = Some(contradiction);
    }

    /// Counts the rest of what a device was sending while its port was opened; that is expected, and not logged.
    pub(crate) fn joined_midway(&self) {
        self.stats.rejects[Reject::Partial as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Allows one log line every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Option<MonoTime>,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);

    /// Returns whether a line may be written now, which then counts as written.
    pub(crate) fn allows(&mut self, now: MonoTime) -> bool {
        self.allows_each(Self::PERIOD, now)
    }

    /// Allows one log line in each `period` instead.
    pub(crate) fn allows_each(&mut self, period: Duration, now: MonoTime) -> bool {
        let allowed = self.last.is_none_or(|last| now.since(last) >= period);
        if allowed {
            self.last = Some(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Shape;

    fn ring(sample: SampleType, frames: usize) -> (FrameSink, FrameReader) {
        let spec =
            StreamSpec { frame: Shape::new([2]), sample, rate_hz: Some(100.0), names: Vec::new(), units: Vec::new() };
        let settings = SinkSettings { spec, frames, frames_per_block: 1, when_full: WhenFull::Drop };
        frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default())
    }

    fn all(reader: &mut FrameReader, most: usize) -> Vec<(FrameHeader, FrameHeader, Vec<i16>)> {
        let mut read = Vec::new();
        while let Some(part) = reader.pop(
            most,
            |_, _| true,
            |frames| {
                let Pieces::I16(first, second) = frames.values else { panic!("{frames:?}") };
                (frames.first, frames.last, [first, second].concat())
            },
        ) {
            read.push(part);
        }
        read
    }

    #[test]
    fn a_block_keeps_the_time_of_each_frame_however_it_is_read() {
        let (mut sink, mut reader) = ring(SampleType::I16, 64);
        let values: Vec<i16> = (0..20).collect();
        sink.cut(Gap::Interrupted);
        assert!(sink.frames(&values, MonoTime(5), Some(1_000)).is_continue());
        assert_eq!((reader.len(), sink.accepted()), (10, 10));
        let parts = all(&mut reader, 3);
        let ns = |n: i64| Some(1_000 + n * 10_000_000);
        let times: Vec<_> = parts.iter().map(|(first, last, _)| (first.stream_ns, last.stream_ns)).collect();
        assert_eq!(times, [(ns(0), ns(2)), (ns(3), ns(5)), (ns(6), ns(8)), (ns(9), ns(9))]);
        let gaps: Vec<_> = parts.iter().map(|(first, _, _)| first.gap).collect();
        assert_eq!(gaps, [Some(Gap::Interrupted), None, None, None], "a gap is before the block alone");
        let read: Vec<i16> = parts.into_iter().flat_map(|(_, _, values)| values).collect();
        assert_eq!(read, values);
        // The next block starts with its own time.
        assert!(sink.frames(&[7i16, 8], MonoTime(6), Some(77)).is_continue());
        assert_eq!(all(&mut reader, 3)[0].0.stream_ns, Some(77));
    }

    #[test]
    fn a_block_longer_than_the_ring_goes_over_in_parts_and_what_does_not_fit_is_counted() {
        let (mut sink, mut reader) = ring(SampleType::I16, 16);
        assert!(sink.frames(&[1i16; 2 * 40], MonoTime(0), Some(0)).is_continue());
        assert_eq!(sink.accepted(), 16);
        assert_eq!(reader.stats.overflow.load(Ordering::Relaxed), 24);
        assert_eq!(all(&mut reader, 100).iter().map(|(_, _, values)| values.len()).sum::<usize>(), 32);
        assert!(sink.frames(&[1i16; 2], MonoTime(0), Some(1)).is_continue());
        assert_eq!(all(&mut reader, 1)[0].0.gap, Some(Gap::Overflow));
    }

    #[test]
    fn a_reader_is_woken_for_what_it_waits_for() {
        let (mut sink, mut reader) = ring(SampleType::I16, 16);
        reader.wake.reader_is_this_thread();
        let is_woken = || {
            let begun = std::time::Instant::now();
            std::thread::park_timeout(Duration::from_millis(20));
            begun.elapsed() < Duration::from_millis(15)
        };
        assert!(!reader.want(3));
        for (frames, expected) in [(1, false), (2, false), (3, true)] {
            assert!(sink.frames(&[1i16; 2], MonoTime(0), None).is_continue());
            sink.wake_reader();
            assert_eq!(is_woken(), expected, "{frames} frames wait");
        }
        assert!(reader.want(3), "they are there");
        all(&mut reader, 100);
        // A ring that is too small for what is wanted is read when it is half full.
        assert!(!reader.want(1000));
        assert!(sink.frames(&[1i16; 2 * 7], MonoTime(0), None).is_continue());
        sink.wake_reader();
        assert!(!is_woken());
        assert!(sink.frames(&[1i16; 2], MonoTime(0), None).is_continue());
        sink.wake_reader();
        assert!(is_woken());
    }

    #[test]
    fn a_source_rests_while_nothing_can_happen() {
        let (mut sink, reader) = ring(SampleType::I16, 64);
        let rest = |sink: &FrameSink| {
            let begun = std::time::Instant::now();
            assert_eq!(sink.rest().unwrap(), Waited::Ready);
            begun.elapsed()
        };
        assert!(rest(&sink) < Duration::from_millis(9), "nothing is known of the reader yet");
        reader.want(8);
        assert!(rest(&sink) >= Duration::from_millis(40), "half of 8 frames at 100 Hz");
        assert!(sink.frames(&[1i16; 2 * 5], MonoTime(0), None).is_continue());
        assert!(rest(&sink) < Duration::from_millis(9), "few are missing");
        sink.stop().request();
        reader.want(32);
        assert_eq!(sink.rest().unwrap(), Waited::Stopped);
    }

    #[test]
    fn a_source_that_is_away_says_so_until_its_next_frame() {
        let (mut sink, mut reader) = ring(SampleType::I16, 16);
        sink.absent("mic", "no such device".into(), MonoTime(0));
        sink.cut(Gap::Reconnect);
        assert_eq!(reader.stats.remarks().trouble.as_deref(), Some("no such device"));
        sink.opened("mic");
        assert_eq!(reader.stats.remarks().trouble.as_deref(), Some("mic is open, but has given no sample yet"));
        assert!(sink.frames(&[1i16; 2], MonoTime(5), None).is_continue());
        assert_eq!(reader.stats.remarks().trouble, None);
        sink.opened("mic");
        assert_eq!(reader.stats.remarks().trouble, None, "it was not away");
        assert_eq!(all(&mut reader, 1)[0].0.gap, Some(Gap::Reconnect));
        sink.lost(7);
        assert!(sink.frames(&[1i16; 2], MonoTime(5), None).is_continue());
        assert_eq!((all(&mut reader, 1)[0].0.gap, reader.stats.lost.load(Ordering::Relaxed)), (Some(Gap::Overrun), 7));
    }

    #[test]
    fn values_that_were_not_announced_are_refused_and_counted() {
        let (mut sink, mut reader) = ring(SampleType::U8, 16);
        assert!(sink.frames(&[1.0f32, 2.0], MonoTime(0), None).is_continue());
        assert!(sink.frames(&[1u8, 2, 3], MonoTime(0), None).is_continue());
        assert_eq!(reader.stats.rejects(Reject::Malformed), 2);
        assert!(reader.pop(1, |_, _| true, |_| ()).is_none() && reader.is_empty());
    }
}
