//! The busy spans of one pipeline that no reading has covered yet.
//!
//! Pure. A reading splits a span in proportion to time: an inference across the edge of a window counts in both windows,
//! by the fraction of its time that lies in each.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::span::BusySpan;
use crate::units::MonoTime;

/// Most spans that wait for a reading, for each pair of pipeline and meter: at most 160 KiB, at any rate.
pub(crate) const PENDING_MAX: usize = 4096;

/// A reading waits no longer than this for a running inference to end.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// What a pipeline did during some time.
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

/// Work that no reading has covered yet, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    pending: VecDeque<Pending>,
    /// All work before this time is known.
    known: MonoTime,
    last_taken: MonoTime,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    start: MonoTime,
    end: MonoTime,
    work: Work,
    /// All inferences of the span, of which `work` has those to come.
    inferences: f64,
}

impl Spans {
    /// Adds a span; the part of it before `from` was not metered and is left out.
    pub(crate) fn push(&mut self, span: BusySpan, from: MonoTime) {
        self.known = self.known.max(span.end);
        if span.end <= from {
            return;
        }
        let work = Work { inferences: f64::from(span.inferences), busy_s: span.busy_ns as f64 / 1e9 };
        let mut pending = Pending { start: span.start, end: span.end, work, inferences: work.inferences };
        pending.take_before(from);
        if self.pending.len() >= PENDING_MAX {
            self.merge_neighbours();
        }
        self.pending.push_back(pending);
    }

    /// Notes that all work before `time` was added.
    pub(crate) fn set_known_until(&mut self, time: MonoTime) {
        self.known = self.known.max(time);
    }

    /// Whether all work before `time` is known, or was waited for long enough at `now`.
    pub(crate) fn is_settled(&self, time: MonoTime, now: MonoTime) -> bool {
        self.known >= time || now.since(time) >= HOLD_MAX
    }

    /// Whether an inference runs at `time`, which is after the work that was removed.
    pub(crate) fn runs_at(&self, time: MonoTime) -> bool {
        let next = self.pending.partition_point(|pending| pending.start < time);
        next.checked_sub(1).and_then(|last| self.pending.get(last)).is_some_and(|last| last.end > time)
    }

    /// Removes and returns the work done until `time`.
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

    /// Returns the part done times the part to do of the inference that runs where work was last removed, or 0.
    pub(crate) fn cut(&self) -> f64 {
        let Some(first) = self.pending.front() else { return 0.0 };
        let to_do = first.work.inferences;
        match first.inferences - to_do {
            0.0 => 0.0,
            done if first.inferences <= 1.0 => done * to_do,
            // It is one of many, of which the span tells no more.
            _ => 0.25,
        }
    }

    /// Returns when the last removed work ended.
    pub(crate) fn last_taken(&self) -> MonoTime {
        self.last_taken
    }

    /// Merges the pending spans in pairs; their number is [`PENDING_MAX`], which is even.
    fn merge_neighbours(&mut self) {
        let half = self.pending.len() / 2;
        for index in 0..half {
            let (first, second) = (self.pending.get(2 * index).copied(), self.pending.get(2 * index + 1).copied());
            if let (Some(mut first), Some(second), Some(slot)) = (first, second, self.pending.get_mut(index)) {
                first.end = second.end;
                first.work.add(second.work);
                first.inferences += second.inferences;
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
    /// Removes and returns the work before `time`, which is before the end of the span.
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
