//! The busy span: when an engine worked and on how much, the only thing that the energy join learns of it.

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
}

/// Receives busy spans.
pub type SpanReceiver = rtrb::Consumer<BusySpan>;

/// Makes the way from one engine to the energy join.
pub fn span_ring(capacity: usize) -> (SpanSender, SpanReceiver) {
    let (ring, consumer) = rtrb::RingBuffer::new(capacity);
    (SpanSender { ring, pending: None }, consumer)
}

impl SpanSender {
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
        assert_eq!(rx.pop().unwrap(), merged);
    }
}
