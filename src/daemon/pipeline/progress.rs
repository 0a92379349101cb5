//! Whether a pipeline makes progress: whether its source gives samples, and whether its infer thread answers.
//!
//! Owns what counts as silent and as hanging, and that it is said; time is passed in. A silent source is a state that
//! the pipeline comes out of by itself. An infer thread that hangs is not: what is done about that is `service`'s
//! business. Runs on the async thread.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Afterwards, Running};
use crate::config::{Source, SourceKind, Speed};
use crate::energy::{EnergyEstimate, Status};
use crate::publish::publisher::NodePublisher;
use crate::units::{Joules, MonoTime};

/// A source is silent after this time, or after as many periods of its samples where that is longer.
const SILENCE_MIN: Duration = Duration::from_secs(10);
const SILENCE_PERIODS: f64 = 10.0;
/// What the daemon may take to end a process that is past its deadline.
const AFTER_DEADLINE: Duration = Duration::from_secs(2);

/// What was seen of a pipeline so far.
#[derive(Debug)]
pub(crate) struct Watch {
    /// `None`: nobody knows how often samples should come.
    silence: Option<Duration>,
    samples: u64,
    moved: MonoTime,
    /// Since when the infer thread owes an answer.
    owes: Option<MonoTime>,
}

impl Watch {
    /// Of a source that begins at that time.
    pub(crate) fn new(source: &Source, begin: MonoTime) -> Self {
        let pace = match &source.kind {
            SourceKind::Replay(replay) => match replay.speed {
                Speed::Times(factor) => factor,
                Speed::Max => 1.0,
            },
            SourceKind::Lines(_) => 1.0,
        };
        Self { silence: source.records.rate_hz.map(|rate| silence(rate * pace)), samples: 0, moved: begin, owes: None }
    }

    /// Takes what is seen now: the samples so far, and whether the source has a reason to give none. For how long it
    /// has been silent at least, where that is too long.
    fn samples(&mut self, samples: u64, excused: bool, now: MonoTime) -> Option<Duration> {
        if excused || samples != self.samples {
            self.samples = samples;
            self.moved = self.moved.max(now);
        }
        self.silence.filter(|silence| now.since(self.moved) > *silence)
    }

    /// How long the infer thread has owed an answer, where it does.
    fn answer(&mut self, answered: bool, now: MonoTime) -> Duration {
        if answered {
            self.owes = None;
            return Duration::ZERO;
        }
        now.since(*self.owes.get_or_insert(now))
    }
}

fn silence(rate_hz: f64) -> Duration {
    Duration::try_from_secs_f64(SILENCE_PERIODS / rate_hz).unwrap_or(Duration::MAX).max(SILENCE_MIN)
}

impl Running {
    /// Looks whether the pipeline makes progress, and says so when that has changed. What hangs for longer than
    /// `limit`, or than its delegate's process may, and does not come back by itself.
    pub(crate) fn look_after(
        &mut self,
        node_publisher: &NodePublisher,
        now: MonoTime,
        limit: Duration,
    ) -> Option<String> {
        if self.infer_ended {
            return None;
        }
        let limit = self.deadline().map_or(limit, |deadline| limit.max(deadline + AFTER_DEADLINE));
        let answered = self.exchange.is_served();
        let owed = self.watch.answer(answered, now);
        // An answer that is owed is not asked for again.
        if answered {
            self.exchange.ask(|| self.wake.reader());
        }
        let hung = (owed > limit).then(|| {
            let (name, active) = (&self.publisher.name, &self.publisher.delegate.active);
            format!("pipeline {name}: an inference by {active} has not come back for {:.0} s", limit.as_secs_f64())
        });
        // An inference may hang in a pipeline that is to end, too, which then never does; its state is told already.
        if self.error.is_some() || !matches!(self.afterwards, Afterwards::Nothing) {
            return hung;
        }
        let stats = &self.publisher.source_stats;
        let samples = stats.samples.load(Ordering::Relaxed) + stats.overflow.load(Ordering::Relaxed);
        let excused = self.acquire_ended || stats.paused.load(Ordering::Relaxed) || self.wake.writer_waits();
        let silent = self.watch.samples(samples, excused, now).map(|silence| {
            format!("source: no sample has come for {:.0} s; look at what feeds it", silence.as_secs_f64())
        });
        self.trouble(node_publisher, hung.clone().or(silent));
        hung
    }

    fn trouble(&mut self, node_publisher: &NodePublisher, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        let name = &self.publisher.name;
        match &trouble {
            Some(reason) => {
                tracing::warn!(pipeline = name, "degraded: {reason}");
                node_publisher.event("degraded", Some(name), reason.clone());
            }
            None => {
                tracing::info!(pipeline = name, "it makes progress again");
                node_publisher.event("recovered", Some(name), "it makes progress again".into());
            }
        }
        self.trouble = trouble;
        self.say_state(node_publisher);
    }

    /// Of an inference in a process, which the daemon ends then.
    fn deadline(&self) -> Option<Duration> {
        self.builder.delegates.get(self.place()?)?.process.as_ref().map(|guard| guard.deadline)
    }
}

/// What a pipeline has done in the last interval.
pub(crate) struct Figures {
    per_s: f64,
    /// Joules an inference, and what they are worth; or why there are none.
    energy: Option<(Joules, Status)>,
}

impl Figures {
    /// `energy` is by the first meter.
    pub(crate) fn new(per_s: f64, energy: Option<&EnergyEstimate>) -> Self {
        let energy = energy.and_then(|figure| Some((Joules(figure.gross_j?), figure.status)));
        Self { per_s, energy }
    }
}

/// In a few words, for `systemctl status`.
impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.publisher.name)?;
        if let Some(error) = &self.error {
            return write!(f, "failed: {error}");
        }
        if self.infer_ended {
            return write!(f, "ended");
        }
        if self.publisher.source_stats.paused.load(Ordering::Relaxed) {
            write!(f, "paused, ")?;
        }
        match &self.figures {
            Some(Figures { per_s, energy }) => {
                write!(f, "{per_s:.1}/s by {}, ", self.publisher.delegate.active)?;
                match energy {
                    Some((joules, status)) => write!(f, "{} mJ an inference ({})", joules.in_mj(), status.name())?,
                    None => write!(f, "energy unavailable")?,
                }
            }
            None => write!(f, "by {}", self.publisher.delegate.active)?,
        }
        self.reason().map_or(Ok(()), |reason| write!(f, ", degraded: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> MonoTime {
        MonoTime(0) + Duration::from_secs_f64(seconds)
    }

    fn watch(rate_hz: Option<f64>) -> Watch {
        Watch { silence: rate_hz.map(silence), samples: 0, moved: at(100.0), owes: None }
    }

    #[test]
    fn a_source_is_silent_by_the_rate_that_it_should_have() {
        let mut fast = watch(Some(50.0));
        assert_eq!(fast.samples(0, false, at(110.0)), None);
        assert_eq!(fast.samples(0, false, at(110.1)), Some(SILENCE_MIN));
        assert_eq!(fast.samples(1, false, at(110.2)), None, "one sample is progress");
        assert_eq!(fast.samples(1, true, at(200.0)), None, "it has a reason");
        assert_eq!(fast.samples(1, false, at(210.0)), None);
        assert_eq!(fast.samples(1, false, at(210.1)), Some(SILENCE_MIN));

        let mut slow = watch(Some(0.01));
        assert_eq!(slow.samples(0, false, at(1100.0)), None);
        assert_eq!(slow.samples(0, false, at(1100.1)), Some(Duration::from_secs(1000)));
        assert_eq!(watch(None).samples(0, false, at(1e6)), None);
        assert_eq!(silence(1e-300), Duration::MAX);
    }

    #[test]
    fn before_a_source_begins_it_is_not_silent() {
        let mut watch = watch(Some(50.0));
        assert_eq!(watch.samples(0, true, at(1.0)), None);
        assert_eq!(watch.samples(0, false, at(110.0)), None, "it begins at 100 s");
        assert!(watch.samples(0, false, at(110.1)).is_some());
    }

    #[test]
    fn an_answer_is_owed_from_the_first_look_without_one() {
        let mut watch = watch(None);
        assert_eq!(watch.answer(false, at(1.0)), Duration::ZERO);
        assert_eq!(watch.answer(false, at(3.0)), Duration::from_secs(2));
        assert_eq!(watch.answer(true, at(4.0)), Duration::ZERO);
        assert_eq!(watch.answer(false, at(9.0)), Duration::ZERO);
    }
}
