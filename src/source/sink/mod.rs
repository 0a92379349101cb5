//! Passes frames from a source to its pipeline: the writing end of the ring, and the rules for bad records and a full ring.
//!
//! Owns the rejection of bad records, the counts of accepted and lost frames, and the waking of the pipeline. `frames` is what
//! is passed, `ring` the ring, `reader` its other end, `stats` the counts; `forecast` says how long a source may sleep. The
//! writing end lives on the acquire thread, the reading end on the infer thread. Allocates nothing after it is built.

mod forecast;
mod frames;
mod reader;
mod ring;
mod stats;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use self::forecast::Forecast;
use self::frames::later;
pub use self::frames::{FrameHeader, Frames, Gap, Pieces, period_ns};
pub use self::reader::FrameReader;
use self::ring::{RingTx, WakeAtEnd, each, frame_rings};
pub use self::ring::{Sample, Wake};
pub use self::stats::{Remarks, SourceStats};
use super::log_limit::LogLimit;
use super::silence::{SILENCE_MIN, silence_max};
use super::{Record, RecordParser, RecordReader, Reject, SourceError, WhenFull};
use crate::stop::{Stop, Waited};
use crate::stream::StreamSpec;
use crate::units::MonoTime;

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
    let (ring_tx, ring_rx) = frame_rings(settings.spec.sample, blocks, values);
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
        arrival: MonoTime(0),
        rested: MonoTime(0),
        answered: 0,
        wanted_before: [0; 2],
        forecast: Forecast::default(),
        away: None,
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
    /// When the last frame arrived.
    arrival: MonoTime,
    /// When the last rest ended.
    rested: MonoTime,
    /// How often the reader had said what it wants when that was there for the last time.
    answered: usize,
    /// What it wanted then, and the time before.
    wanted_before: [usize; 2],
    forecast: Forecast,
    /// Since when the source is away, and why.
    away: Option<(MonoTime, String)>,
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
/// What arrives in this time fits into a socket or a device's buffer.
const LONGEST_REST: Duration = Duration::from_millis(50);
/// The same if it is known how many frames fit. A burst that completes a window early is read so much later at most.
const LONGEST_REST_IN_ROOM: Duration = Duration::from_millis(100);
/// What is read within this time after a rest was there before its end.
const WAS_THERE: Duration = Duration::from_micros(100);

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

    /// Returns the longest time without a frame of a source that is not silent; the shortest such time if its rate is not
    /// known.
    pub(crate) fn silence(&self) -> Duration {
        if self.period_ns > 0 { silence_max(1e9 / self.period_ns as f64) } else { SILENCE_MIN }
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
        let is_new = self.away.as_ref().is_none_or(|(_, before)| *before != reason);
        // The end of a stream that works again and again is said once in a while.
        if is_new && self.away_log.allows(now) {
            tracing::warn!(pipeline = self.pipeline, source = name, "the source is away: {reason}; waiting for it");
        }
        let since = self.away.take().map_or(now, |(since, _)| since);
        self.away = Some((since, reason.clone()));
        self.trouble(Some(reason));
    }

    /// Notes that the source `name` is there. If it was away, the pipeline stays degraded until the next frame comes, and
    /// still says why it was away: it may be about to fail again.
    pub fn opened(&self, name: &str) {
        if let Some((_, reason)) = &self.away {
            self.trouble(Some(format!("{name} is open, but has given no sample yet; before that: {reason}")));
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
    pub fn wake_reader(&mut self) {
        fence(Ordering::SeqCst);
        let (asked, wanted) = self.wanted();
        if self.waiting() >= wanted {
            if asked != self.answered {
                let overslept = self.arrival.since(self.rested) < WAS_THERE;
                self.forecast.ended(self.delivered, self.arrival, overslept);
                (self.answered, self.wanted_before) = (asked, [wanted, self.wanted_before[0]]);
            }
            self.wake.0.reader();
        } else if each!(RingTx, &self.ring, ring => ring.is_half_full()) {
            // Small blocks can fill the ring before there are enough frames.
            self.wake.0.reader();
        }
    }

    /// Returns how often the reader has said what it wants, and how many frames that is.
    fn wanted(&self) -> (usize, usize) {
        (self.wake.0.asked.load(Ordering::Acquire), self.wake.0.wanted.load(Ordering::Relaxed))
    }

    /// Returns the number of frames that wait to be read.
    fn waiting(&self) -> usize {
        each!(RingTx, &self.ring, ring => ring.values()) / self.frame_values.max(1)
    }

    /// Returns how many frames the reader still waits for, as far as is known.
    pub fn missing(&self) -> usize {
        let ((asked, wanted), waiting) = (self.wanted(), self.waiting());
        // It was woken and has not said what it wants next: that will be as much as twice before.
        let is_foreseen = asked == self.answered && self.wanted_before == [wanted; 2];
        let next = if is_foreseen && waiting >= wanted { 2 * wanted } else { wanted };
        if asked == self.answered && !is_foreseen { 0 } else { next.saturating_sub(waiting) }
    }

    /// Sleeps while the reader cannot have what it waits for, as far as the stream is regular. A source that wakes for each
    /// of many small frames calls it before it waits, and then wakes for many of them. What comes meanwhile needs room: for
    /// `room` frames, if that is known.
    ///
    /// # Errors
    /// This thread cannot wait.
    pub fn rest(&mut self, room: Option<usize>) -> std::io::Result<Waited> {
        let missing = self.missing();
        let (now, frames) = (MonoTime::now(), missing.min(room.unwrap_or(usize::MAX)) as u64);
        let longest = if room.is_some() { LONGEST_REST_IN_ROOM } else { LONGEST_REST };
        // Half of the time if the nominal rate is all that is known.
        let half = Duration::from_nanos(self.period_ns.unsigned_abs().saturating_mul(frames) / 2);
        let until = self.forecast.not_before(self.delivered + frames).unwrap_or(now + half).min(now + longest);
        if missing < LEAST_FRAMES_OF_REST || until.since(now) < LEAST_REST {
            return Ok(Waited::Ready);
        }
        let waited = self.stop.sleep_until(until);
        self.rested = MonoTime::now();
        waited
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
        let frame_values = self.frame_values.max(1);
        let (mut stream_ns, mut left) = (stream_ns, values.len() / frame_values);
        for block in values.chunks(self.block_frames.saturating_mul(frame_values)) {
            let frames = block.len() / frame_values;
            left -= frames;
            let follow = u32::try_from(left).unwrap_or(u32::MAX);
            self.accept(FrameHeader { arrival, stream_ns, truth: None, gap: None, follow }, block)?;
            stream_ns = self.time_after(stream_ns, frames);
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
        let header = FrameHeader { arrival, stream_ns: record.stream_ns, truth: record.truth, gap: None, follow: 0 };
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
        self.arrival = header.arrival;
        if let Some((since, _)) = self.away.take() {
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
        // No other thread writes it, and an atomic addition would cost as much as all else here.
        self.stats.samples.store(self.accepted() + frames, Ordering::Relaxed);
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
