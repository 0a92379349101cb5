//! Does a pipeline make progress: does its source give samples, and does its infer thread answer?
//!
//! Owns what counts as silent and as overdue. Pure: time is passed in. A silent source can recover by itself; an infer
//! thread that hangs cannot, and the watchdog (see `systemd`) acts on it.

use std::fmt;
use std::time::Duration;

use crate::energy::{EnergyEstimate, Status};
use crate::source::Source;
use crate::units::{Joules, MonoTime};

/// A source is silent after this time, or after so many periods of its samples if that is longer.
const SILENCE_MIN: Duration = Duration::from_secs(10);
const SILENCE_PERIODS: f64 = 10.0;

/// The progress of a pipeline so far.
#[derive(Debug)]
pub(crate) struct ProgressWatch {
    /// The longest time without a sample; `None` if the rate of the samples is unknown.
    silence_max: Option<Duration>,
    samples: u64,
    last_progress: MonoTime,
    /// Since when an answer of the infer thread is missing.
    unanswered_since: Option<MonoTime>,
}

impl ProgressWatch {
    /// Watches a source that begins at that time.
    pub(crate) fn new(source: &Source, begin: MonoTime) -> Self {
        let source = source.kind();
        Self {
            silence_max: source.spec().rate_hz.map(|rate| silence_max(rate * source.speed())),
            samples: 0,
            last_progress: begin,
            unanswered_since: None,
        }
    }

    /// Notes the count of samples so far. `excused`: the source has a reason to give none. Returns the longest time that the
    /// source may be silent, if it has been silent for longer.
    pub(crate) fn note_samples(&mut self, samples: u64, excused: bool, now: MonoTime) -> Option<Duration> {
        if excused || samples != self.samples {
            self.samples = samples;
            self.last_progress = self.last_progress.max(now);
        }
        self.silence_max.filter(|silence| now.since(self.last_progress) > *silence)
    }

    /// Notes whether the infer thread has answered. Returns how long its answer has been missing.
    pub(crate) fn note_answer(&mut self, answered: bool, now: MonoTime) -> Duration {
        if answered {
            self.unanswered_since = None;
            return Duration::ZERO;
        }
        now.since(*self.unanswered_since.get_or_insert(now))
    }
}

fn silence_max(rate_hz: f64) -> Duration {
    Duration::try_from_secs_f64(SILENCE_PERIODS / rate_hz).unwrap_or(Duration::MAX).max(SILENCE_MIN)
}

/// What a pipeline did in the last metrics interval, for `systemctl status`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntervalFigures {
    predictions_per_s: f64,
    /// Joules an inference and how they were obtained; `None` if energy is unavailable.
    energy: Option<(Joules, Status)>,
}

impl IntervalFigures {
    /// `energy` is the first meter's estimate.
    pub(crate) fn new(predictions_per_s: f64, energy: Option<&EnergyEstimate>) -> Self {
        let energy = energy.and_then(|estimate| Some((Joules(estimate.gross_j?), estimate.status)));
        Self { predictions_per_s, energy }
    }

    /// Writes them in a few words; `active` is the delegate that runs.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, active: &str) -> fmt::Result {
        write!(f, "{:.1}/s by {active}, ", self.predictions_per_s)?;
        match self.energy {
            Some((joules, status)) => write!(f, "{} mJ an inference ({})", joules.in_mj(), status.name()),
            None => write!(f, "energy unavailable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> MonoTime {
        MonoTime(0) + Duration::from_secs_f64(seconds)
    }

    fn watch(rate_hz: Option<f64>) -> ProgressWatch {
        ProgressWatch {
            silence_max: rate_hz.map(silence_max),
            samples: 0,
            last_progress: at(100.0),
            unanswered_since: None,
        }
    }

    #[test]
    fn a_source_is_silent_by_the_rate_that_it_should_have() {
        let mut fast = watch(Some(50.0));
        assert_eq!(fast.note_samples(0, false, at(110.0)), None);
        assert_eq!(fast.note_samples(0, false, at(110.1)), Some(SILENCE_MIN));
        assert_eq!(fast.note_samples(1, false, at(110.2)), None, "one sample is progress");
        assert_eq!(fast.note_samples(1, true, at(200.0)), None, "it has a reason");
        assert_eq!(fast.note_samples(1, false, at(210.0)), None);
        assert_eq!(fast.note_samples(1, false, at(210.1)), Some(SILENCE_MIN));

        let mut slow = watch(Some(0.01));
        assert_eq!(slow.note_samples(0, false, at(1100.0)), None);
        assert_eq!(slow.note_samples(0, false, at(1100.1)), Some(Duration::from_secs(1000)));
        assert_eq!(watch(None).note_samples(0, false, at(1e6)), None);
        assert_eq!(silence_max(1e-300), Duration::MAX);
    }

    #[test]
    fn before_a_source_begins_it_is_not_silent() {
        let mut watch = watch(Some(50.0));
        assert_eq!(watch.note_samples(0, true, at(1.0)), None);
        assert_eq!(watch.note_samples(0, false, at(110.0)), None, "it begins at 100 s");
        assert!(watch.note_samples(0, false, at(110.1)).is_some());
    }

    #[test]
    fn an_answer_is_missing_from_the_first_check_without_one() {
        let mut watch = watch(None);
        assert_eq!(watch.note_answer(false, at(1.0)), Duration::ZERO);
        assert_eq!(watch.note_answer(false, at(3.0)), Duration::from_secs(2));
        assert_eq!(watch.note_answer(true, at(4.0)), Duration::ZERO);
        assert_eq!(watch.note_answer(false, at(9.0)), Duration::ZERO);
    }
}
