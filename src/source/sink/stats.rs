//! The counts of a source, and what was said of it in words. Written by the acquire thread, read by others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::source::Reject;

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
    pub(super) rejects: [AtomicU64; Reject::ALL.len()],
    remarks: Mutex<Remarks>,
}

/// What was said of a source, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Why the record that was logged last was rejected.
    pub reject: Option<String>,
    /// How the stream's time and its nominal rate contradict each other.
    pub contradiction: Option<String>,
    /// Why a source of a join had no sample near enough to one of the leader, the last time.
    pub unmatched: Option<String>,
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

    /// Says why samples of the leader of a join were not joined.
    pub fn unmatched_because(&self, reason: String) {
        self.remarks_guard().unmatched = Some(reason);
    }

    /// The lock is taken only to say something, not for each record.
    pub(super) fn remarks_guard(&self) -> MutexGuard<'_, Remarks> {
        // What is under the lock is replaced as a whole.
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
