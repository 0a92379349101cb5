//! The busy span: when an engine worked and on how much. The energy join learns nothing else of it but since when it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Engine;
use crate::units::{MonoTime, duration_ns};

/// A stretch of time in which one pipeline's engine completed `inferences` inferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusySpan {
    pub start: MonoTime,
    pub end: MonoTime,
    /// Time inside invoke, in nanoseconds; at most `end - start`, less where spans were merged.
    pub busy_ns: u64,
    pub inferences: u32,
}

impl BusySpan {
    /// Returns the span of the last invocation of `engine`, whose caller saw it start and end at these times. The caller of an
    /// engine in another process also waited for that process.
    pub fn of(engine: &dyn Engine, [start, end]: [MonoTime; 2], inferences: u32) -> Self {
        let seen = |run: &[MonoTime; 2]| start <= run[0] && run[0] <= run[1] && run[1] <= end;
        let [start, end] = engine.last_run().filter(seen).unwrap_or([start, end]);
        Self { start, end, busy_ns: duration_ns(end.since(start)), inferences }
    }

    /// Widens this span by a later one of the same pipeline.
    pub fn merge(&mut self, later: Self) {
        self.end = later.end;
        self.busy_ns += later.busy_ns;
        self.inferences += later.inferences;
    }
}

/// Sends busy spans to the energy join, and merges them when it lags behind: no inference goes uncounted.
pub struct SpanSender {
    ring: rtrb::Producer<BusySpan>,
    pending: Option<BusySpan>,
    /// The start in nanoseconds of what runs, or of what found no room in the ring; 0 if there is neither.
    unreported: Arc<AtomicU64>,
}

/// Receives busy spans.
pub struct SpanReceiver {
    ring: rtrb::Consumer<BusySpan>,
    unreported: Arc<AtomicU64>,
}

/// Makes the way from one engine to the energy join.
pub fn span_ring(capacity: usize) -> (SpanSender, SpanReceiver) {
    let (ring, consumer) = rtrb::RingBuffer::new(capacity);
    let unreported = Arc::new(AtomicU64::new(0));
    (SpanSender { ring, pending: None, unreported: unreported.clone() }, SpanReceiver { ring: consumer, unreported })
}

impl SpanSender {
    /// Tells the receiver that an engine works from `start` on, until [`Self::ended`].
    pub fn started(&self, start: MonoTime) {
        if self.pending.is_none() {
            self.unreported.store(start.0, Ordering::Release);
        }
    }

    pub fn send(&mut self, span: BusySpan) {
        let span = match self.pending.take() {
            Some(mut earlier) => {
                earlier.merge(span);
                earlier
            }
            None => span,
        };
        if let Err(rtrb::PushError::Full(span)) = self.ring.push(span) {
            self.pending = Some(span);
        }
    }

    /// Tells the receiver that the engine works no more, after its span was sent.
    pub fn ended(&self) {
        self.unreported.store(self.pending.map_or(0, |span| span.start.0), Ordering::Release);
    }
}

impl Drop for SpanSender {
    fn drop(&mut self) {
        self.unreported.store(0, Ordering::Release);
    }
}

impl SpanReceiver {
    /// Returns the time until which all work is known once the ring has been emptied after this call, at `now`.
    pub fn known_until(&self, now: MonoTime) -> MonoTime {
        match self.unreported.load(Ordering::Acquire) {
            0 => now,
            start => MonoTime(start.min(now.0)),
        }
    }

    /// Returns the next span, if there is one.
    pub fn pop(&mut self) -> Option<BusySpan> {
        self.ring.pop().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_find_no_room_are_merged_into_the_next() {
        let span = |at: u64| BusySpan { start: MonoTime(at), end: MonoTime(at + 5), busy_ns: 5, inferences: 1 };
        let (mut tx, mut rx) = span_ring(1);
        tx.send(span(0));
        tx.send(span(10));
        tx.send(span(20));
        assert_eq!(rx.pop().unwrap(), span(0));
        tx.send(span(30));
        let merged = BusySpan { start: MonoTime(10), end: MonoTime(35), busy_ns: 15, inferences: 3 };
        assert_eq!((rx.pop(), rx.pop()), (Some(merged), None));
    }

    #[test]
    fn work_is_known_until_what_runs_and_what_found_no_room() {
        let span = |at: u64| BusySpan { start: MonoTime(at), end: MonoTime(at + 5), busy_ns: 5, inferences: 1 };
        let (mut tx, mut rx) = span_ring(1);
        let mut run = |at: u64, rx: &SpanReceiver| {
            tx.started(MonoTime(at));
            let meanwhile = rx.known_until(MonoTime(at + 3));
            tx.send(span(at));
            tx.ended();
            (meanwhile.0, rx.known_until(MonoTime(at + 8)).0)
        };
        assert_eq!(rx.known_until(MonoTime(7)), MonoTime(7));
        assert_eq!(run(10, &rx), (10, 18));
        assert_eq!(run(20, &rx), (20, 20), "the ring is full");
        assert_eq!(rx.pop().unwrap(), span(10));
        assert_eq!(run(30, &rx), (20, 38));
        tx.started(MonoTime(40));
        drop(tx);
        assert_eq!(rx.known_until(MonoTime(48)), MonoTime(48), "its thread has ended");
    }
}
