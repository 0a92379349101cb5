//! The busy spans of one pipeline that no reading has covered yet, and how they are cut at a reading.
//!
//! Pure. A span is cut by time: the part of it before a reading brings that part of its inferences and busy time, so
//! that an inference across the edge of a window counts in both, by the part of its time that lies in each.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::span::BusySpan;
use crate::units::MonoTime;

/// Spans that wait for a reading, for each pair of pipeline and meter: 160 KiB at most, whatever the rate.
pub(crate) const PENDING_MAX: usize = 4096;

/// An inference that takes longer than this is not waited for: its time before the reading counts after it.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// How long the first inference is waited for, when none has told how long they take.
const HOLD_FIRST: Duration = Duration::from_secs(2);

/// What a pipeline did in a stretch of time.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Work {
    pub inferences: f64,
    pub busy_s: f64,
}

impl Work {
    pub(crate) fn add(&mut self, other: Self) {
        self.inferences += other.inferences;
        self.busy_s += other.busy_s;
    }
}

/// Work that no reading has covered yet, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    pending: VecDeque<Pending>,
    /// Everything that ended until then is known.
    known: MonoTime,
    longest_ns: u64,
    last_taken: MonoTime,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    start: MonoTime,
    end: MonoTime,
    work: Work,
}

impl Spans {
    /// Takes a span; what it did before `from` was not metered and is left out.
    pub(crate) fn push(&mut self, span: BusySpan, from: MonoTime) {
        self.known = self.known.max(span.end);
        self.longest_ns = self.longest_ns.max(span.busy_ns);
        if span.end <= from {
            return;
        }
        let work = Work { inferences: f64::from(span.inferences), busy_s: span.busy_ns as f64 / 1e9 };
        let mut pending = Pending { start: span.start, end: span.end, work };
        pending.take_before(from);
        if self.pending.len() >= PENDING_MAX {
            self.merge_neighbours();
        }
        self.pending.push_back(pending);
    }

    /// Whether nothing more can come that was done before `time`, when it is `now`.
    ///
    /// An inference tells of itself when it ends. So one that runs at `time` is waited for as long as the longest one
    /// so far took, and half as long again.
    pub(crate) fn is_settled(&self, time: MonoTime, now: MonoTime) -> bool {
        let hold = match self.longest_ns {
            0 => HOLD_FIRST,
            longest_ns => Duration::from_nanos(longest_ns.saturating_mul(3) / 2).min(HOLD_MAX),
        };
        self.known >= time || now.since(time) >= hold
    }

    /// Takes off what was done until `time`.
    pub(crate) fn take_until(&mut self, time: MonoTime) -> Work {
        let mut work = Work::default();
        while let Some(first) = self.pending.front_mut() {
            if first.end > time {
                let part = first.take_before(time);
                if part.busy_s > 0.0 {
                    self.last_taken = time;
                }
                work.add(part);
                break;
            }
            work.add(first.work);
            self.last_taken = first.end;
            self.pending.pop_front();
        }
        work
    }

    /// When the last of the work was done that was taken off.
    pub(crate) fn last_taken(&self) -> MonoTime {
        self.last_taken
    }

    /// Halves the pending spans, whose number is [`PENDING_MAX`] and so even.
    fn merge_neighbours(&mut self) {
        let half = self.pending.len() / 2;
        for index in 0..half {
            let (first, second) = (self.pending.get(2 * index).copied(), self.pending.get(2 * index + 1).copied());
            if let (Some(mut first), Some(second), Some(slot)) = (first, second, self.pending.get_mut(index)) {
                first.end = second.end;
                first.work.add(second.work);
                *slot = first;
            }
        }
        self.pending.truncate(half);
    }

    #[cfg(test)]
    pub(crate) fn pending_bytes(&self) -> (usize, usize) {
        (self.pending.len(), self.pending.capacity() * size_of::<Pending>())
    }
}

impl Pending {
    /// Cuts off what lies before `time`, which is before the end.
    fn take_before(&mut self, time: MonoTime) -> Work {
        let length_ns = self.end.0.saturating_sub(self.start.0);
        let part_ns = time.0.saturating_sub(self.start.0).min(length_ns);
        if part_ns == 0 {
            return Work::default();
        }
        let part = part_ns as f64 / length_ns as f64;
        let taken = Work { inferences: self.work.inferences * part, busy_s: self.work.busy_s * part };
        self.start = time;
        self.work.inferences -= taken.inferences;
        self.work.busy_s -= taken.busy_s;
        taken
    }
}
