//! The end of the ring from which the infer thread reads frames.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::frames::{FrameHeader, Frames, Pieces, later};
use super::ring::{RingRx, Wake, each};
use super::stats::SourceStats;

/// The reading end of a source's ring.
pub struct FrameReader {
    pub(super) ring: RingRx,
    pub(super) frame_values: usize,
    pub(super) period_ns: i64,
    /// Frames of the current block that were read before.
    pub(super) within: usize,
    pub stats: Arc<SourceStats>,
    pub wake: Arc<Wake>,
    pub(super) capacity: usize,
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
        let frames = |first: &FrameHeader, last: &FrameHeader, (length, left): (usize, usize), values: Pieces<'_>| {
            let count = length / frame_values;
            let follow = last.follow as usize + left / frame_values;
            let after = |header: &FrameHeader, frames: usize| FrameHeader {
                stream_ns: header.stream_ns.map(|ns| later(ns, frames, period_ns)),
                ..*header
            };
            let last = if std::ptr::eq(first, last) { after(first, within + count.saturating_sub(1)) } else { *last };
            let first = FrameHeader { gap: first.gap.filter(|_| within == 0), ..after(first, within) };
            (read(Frames { first, last, count, follow, values }), count)
        };
        let (result, count) = match &mut self.ring {
            RingRx::F32(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, (run.count(), run.left), Pieces::F32(run.values.0, run.values.1))
            }),
            RingRx::I16(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, (run.count(), run.left), Pieces::I16(run.values.0, run.values.1))
            }),
            RingRx::U8(ring) => ring.pop_run(values, joins, |run| {
                frames(run.first, run.last, (run.count(), run.left), Pieces::U8(run.values.0, run.values.1))
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
        self.wake.asked.fetch_add(1, Ordering::Release);
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
