//! Why a pipeline makes no progress, or has made no prediction, in words. Pure.

use std::time::Duration;

use crate::gate::GateKind;
use crate::infer::GateStats;
use crate::source::silence::silent_in_words;
use crate::source::sink::Remarks;
use crate::text::{counted, figure};

/// Counts of a pipeline so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub samples: u64,
    pub rejected: u64,
    /// Samples of the leader of a join that were not joined.
    pub unmatched: u64,
    /// Samples that were thrown away while the pipeline was paused.
    pub while_paused: u64,
    pub windows: u64,
    pub gaps: u64,
    /// Samples that had the time of the sample before.
    pub time_still: u64,
    /// Gaps because time jumped ahead, and because it went back or stood still.
    pub time_jumps: u64,
    pub time_back: u64,
}

impl Counts {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            samples: self.samples.saturating_sub(before.samples),
            rejected: self.rejected.saturating_sub(before.rejected),
            unmatched: self.unmatched.saturating_sub(before.unmatched),
            while_paused: self.while_paused.saturating_sub(before.while_paused),
            windows: self.windows.saturating_sub(before.windows),
            gaps: self.gaps.saturating_sub(before.gaps),
            time_still: self.time_still.saturating_sub(before.time_still),
            time_jumps: self.time_jumps.saturating_sub(before.time_jumps),
            time_back: self.time_back.saturating_sub(before.time_back),
        }
    }

    pub(super) fn records(self) -> u64 {
        self.samples.saturating_add(self.rejected).saturating_add(self.unmatched)
    }
}

/// Why a pipeline makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stall {
    /// What hangs.
    Hung(String),
    /// The source says itself why it gives no samples, or none to be trusted.
    Source(String),
    /// Nothing has come for this long.
    Silent(Duration),
    /// Most records are rejected.
    Rejected { rejected: u64, records: u64 },
    /// Samples come, and no window was filled.
    NoWindow { duration: Duration, counts: Counts },
}

impl Stall {
    /// Returns whether both have the same cause; the counts may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Source(ours), Self::Source(theirs)) => ours == theirs,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Says it in words, with what was said of the source.
    pub(crate) fn in_words(&self, remarks: &Remarks) -> String {
        match self {
            Self::Hung(what) => what.clone(),
            Self::Source(reason) => format!("source: {reason}"),
            Self::Silent(silence) => format!("source: {}", silent_in_words(*silence)),
            Self::Rejected { rejected, records } => {
                format!("source: {rejected} of {records} records were rejected{}", then(&remarks.reject))
            }
            Self::NoWindow { duration, counts } => {
                let (samples, gaps) = (counted(counts.samples, "sample"), counted(counts.gaps, "gap"));
                let seconds = duration.as_secs_f64();
                format!(
                    "source: no window was filled in {seconds:.0} s, in which {samples} came with {gaps}; each \
                     gap starts a new window{}",
                    causes(*counts, remarks)
                )
            }
        }
    }
}

/// Says why a stream has ended without a prediction.
pub(crate) fn without_prediction(counts: Counts, remarks: &Remarks, window_samples: usize) -> String {
    let Counts { samples, rejected, unmatched, while_paused, windows, gaps, .. } = counts;
    if windows > 0 {
        return format!("no prediction was made of {}", counted(windows, "window"));
    }
    if samples == 0 {
        return match rejected {
            _ if unmatched > 0 => {
                let why = then(&remarks.unmatched);
                format!(
                    "{} of the leader came, and none was joined{why}{}",
                    counted(unmatched, "sample"),
                    rejected_in_words(rejected, remarks)
                )
            }
            0 if while_paused > 0 => format!("all {while_paused} samples came while the pipeline was paused"),
            0 => "no record has come".to_owned(),
            1 => format!("the only record was rejected{}", then(&remarks.reject)),
            _ => format!("all {rejected} records were rejected{}", then(&remarks.reject)),
        };
    }
    let causes = causes(counts, remarks);
    let (window, samples) = (counted(window_samples, "sample"), counted(samples, "sample"));
    format!("no window of {window} was filled by {samples} with {}{causes}", counted(gaps, "gap"))
}

/// Says that a gate has let none of the windows of a stream pass. `key` is that of the gate's kind.
pub(crate) fn never_opened(key: &str, gate: &dyn GateKind, stats: &GateStats, windows: u64) -> String {
    let windows = counted(windows, "window");
    let seen = match (stats.highest(), stats.openings()) {
        (Some(highest), 0) => {
            let (highest, threshold) = (figure(highest), figure(gate.threshold()));
            format!("the highest level was {highest}, and {key}.threshold is {threshold}")
        }
        (Some(_), openings) => format!(
            "it opened {}, and was closed again before a window was full; write a longer {key}.hold_s",
            times(openings)
        ),
        (None, _) => "no block of its level has ended; write a shorter block".to_owned(),
    };
    format!("the gate was closed for all of {windows}: {seen}")
}

/// Says what keeps samples from filling a window.
fn causes(counts: Counts, remarks: &Remarks) -> String {
    let Counts { rejected, unmatched, time_still, time_jumps, time_back, .. } = counts;
    let mut text = String::new();
    if time_jumps > 0 {
        text += &format!("; time jumped ahead by more than window.max_gap_ms {}", times(time_jumps));
    }
    let back = time_back.saturating_sub(time_still);
    if back > 0 {
        text += &format!("; time went back {}", times(back));
    }
    if time_still > 0 {
        text +=
            &format!("; {} had the time of the sample before: see records.equal_times", counted(time_still, "sample"));
    }
    if unmatched > 0 {
        let samples = counted(unmatched, "sample");
        text += &format!("; {samples} of the leader not joined{}", then(&remarks.unmatched));
    }
    text += &then(&remarks.contradiction);
    text + &rejected_in_words(rejected, remarks)
}

fn rejected_in_words(rejected: u64, remarks: &Remarks) -> String {
    if rejected == 0 {
        return String::new();
    }
    format!("; {} rejected{}", counted(rejected, "record"), then(&remarks.reject))
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn then(remark: &Option<String>) -> String {
    remark.as_ref().map_or(String::new(), |remark| format!("; {remark}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_a_sample_says_what_became_of_what_came() {
        let remarks = Remarks {
            unmatched: Some("temp has no sample within 20 ms of those of imu".into()),
            reject: Some("temp: in:2: column `t`".into()),
            ..Remarks::default()
        };
        let said = |counts: Counts| without_prediction(counts, &remarks, 8);
        assert_eq!(said(Counts::default()), "no record has come");
        assert_eq!(
            said(Counts { unmatched: 100, ..Counts::default() }),
            "100 samples of the leader came, and none was joined; temp has no sample within 20 ms of those of imu"
        );
        let both = said(Counts { unmatched: 100, rejected: 7, ..Counts::default() });
        assert!(both.ends_with("; 7 records rejected; temp: in:2: column `t`"), "{both}");
        let paused = said(Counts { while_paused: 9, ..Counts::default() });
        assert_eq!(paused, "all 9 samples came while the pipeline was paused");
        let some = said(Counts { unmatched: 100, samples: 3, ..Counts::default() });
        assert!(some.contains("; 100 samples of the leader not joined; temp has no sample"), "{some}");
    }
}
