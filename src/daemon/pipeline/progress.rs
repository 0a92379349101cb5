//! Does a pipeline make progress: does its source give samples, do they fill windows, does its infer thread answer?
//!
//! Owns what counts as rejected, as without a window, and as overdue; `stall` says it. Pure: time is passed in. A source can
//! recover by itself; an infer thread that hangs cannot, and the watchdog (see `systemd`) acts on it.

use std::time::Duration;

use super::stall::{Counts, Stall};
use crate::config::Pipeline;
use crate::source::silence::{SILENCE_MIN, silence_max};
use crate::text::figure;
use crate::units::MonoTime;

/// Fewer records say nothing of the others.
const LEAST_RECORDS: u64 = 3;
/// One window should have been filled in the time, or by the samples, of so many.
const WINDOWS: u32 = 3;
/// A stream counts as going on for this long after a sample.
const GOES_ON: Duration = Duration::from_secs(2);
/// The arrival of samples contradicts the nominal rate by this factor.
const CONTRADICTION: f64 = 2.0;
const ARRIVAL_PERIODS: f64 = 20.0;

/// The progress of a pipeline so far.
#[derive(Debug)]
pub(crate) struct ProgressWatch {
    /// The longest time without a sample; `None` if the rate of the samples is unknown.
    silence_max: Option<Duration>,
    /// Samples for a window and the step to the next one, and the time in which some windows should be filled.
    window_samples: u64,
    window_max: Option<Duration>,
    /// The rate at which samples should arrive, if only their arrival tells.
    arrival: Option<ArrivalRate>,
    last: Counts,
    last_check: MonoTime,
    last_record: MonoTime,
    /// The beginning of the interval over which rejected records are counted.
    interval: (MonoTime, Counts),
    rejected: Option<Stall>,
    /// The counts at the last window, and how long the stream has gone on since.
    last_window: Counts,
    without_window: Duration,
    /// Since when an answer of the infer thread is missing.
    unanswered_since: Option<MonoTime>,
}

impl ProgressWatch {
    /// Watches a pipeline whose source begins at that time.
    pub(crate) fn new(pipeline: &Pipeline, counts: Counts, begin: MonoTime) -> Self {
        let source = pipeline.source.kind();
        let rate_hz = source.spec().rate_hz.map(|rate| rate * source.speed());
        let is_live = source.recording().is_none() && !source.has_time();
        Self {
            arrival: rate_hz.filter(|_| is_live).map(ArrivalRate::new),
            ..Self::of_rate(rate_hz, pipeline.frames_of_window(), counts, begin)
        }
    }

    fn of_rate(rate_hz: Option<f64>, window_samples: usize, counts: Counts, begin: MonoTime) -> Self {
        Self {
            silence_max: rate_hz.map(silence_max),
            window_samples: window_samples as u64,
            window_max: rate_hz.map(|rate| window_max(rate, window_samples)),
            arrival: None,
            last: counts,
            last_check: begin,
            last_record: begin,
            interval: (begin, counts),
            rejected: None,
            last_window: counts,
            without_window: Duration::ZERO,
            unanswered_since: None,
        }
    }

    /// The windows of the pipeline have changed.
    pub(crate) fn set_window(&mut self, pipeline: &Pipeline) {
        let source = pipeline.source.kind();
        let samples = pipeline.frames_of_window();
        self.window_samples = samples as u64;
        self.window_max = source.spec().rate_hz.map(|rate| window_max(rate * source.speed(), samples));
        self.excuse_windows();
    }

    /// The pipeline has no engine at present, so that it takes no windows.
    pub(crate) fn excuse_windows(&mut self) {
        (self.last_window, self.without_window) = (self.last, Duration::ZERO);
    }

    /// Notes the counts so far. `excused`: the source has a reason to give none. Returns why there is no progress.
    pub(crate) fn note(&mut self, counts: Counts, excused: bool, now: MonoTime) -> Option<Stall> {
        // Before the source begins, the time does not count.
        let now = now.max(self.last_check);
        let passed = now.since(self.last_check);
        let new = counts.since(self.last);
        (self.last, self.last_check) = (counts, now);
        if excused {
            self.last_record = now;
            self.interval = (now, counts);
            (self.last_window, self.without_window, self.rejected) = (counts, Duration::ZERO, None);
            return None;
        }
        if new.records() > 0 {
            self.last_record = now;
        }
        self.note_window(new, counts, passed);
        self.note_rejected(counts, now);
        if let Some(silence) = self.silence_max.filter(|silence| now.since(self.last_record) > *silence) {
            return Some(Stall::Silent(silence));
        }
        self.rejected.clone().or_else(|| self.no_window(counts))
    }

    fn note_window(&mut self, new: Counts, counts: Counts, passed: Duration) {
        if new.windows > 0 {
            (self.last_window, self.without_window) = (counts, Duration::ZERO);
        } else if new.records() > 0 {
            // A stream that pauses does not owe windows for its pauses.
            let longest = self.silence_max.map_or(GOES_ON, |silence| GOES_ON.max(silence / 2));
            self.without_window += passed.min(longest);
        }
    }

    fn no_window(&self, counts: Counts) -> Option<Stall> {
        let counts = counts.since(self.last_window);
        let duration = self.without_window;
        let is_broken = counts.gaps > 0 || counts.rejected > 0;
        let by_time = is_broken && self.window_max.is_some_and(|most| duration >= most);
        let by_samples =
            duration >= SILENCE_MIN && counts.samples >= self.window_samples.saturating_mul(u64::from(WINDOWS));
        (counts.samples > 0 && (by_time || by_samples)).then_some(Stall::NoWindow { duration, counts })
    }

    /// Judges the records of an interval when it is over.
    fn note_rejected(&mut self, counts: Counts, now: MonoTime) {
        let (begin, before) = self.interval;
        let new = counts.since(before);
        if now.since(begin) < SILENCE_MIN || new.records() < LEAST_RECORDS {
            return;
        }
        let (rejected, records) = (new.rejected, new.records());
        self.rejected = (rejected.saturating_mul(2) >= records).then_some(Stall::Rejected { rejected, records });
        self.interval = (now, counts);
    }

    /// Notes how many samples have arrived. Returns once, in words, how their rate contradicts the nominal one.
    pub(crate) fn note_arrivals(&mut self, counts: Counts, excused: bool, now: MonoTime) -> Option<String> {
        let said = self.arrival.as_mut()?.note(counts.records(), excused, now)?;
        self.arrival = None;
        said
    }

    /// Returns whether there was a window since the last check.
    pub(crate) fn has_new_windows(&self, counts: &Counts) -> bool {
        counts.windows > self.last.windows
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

/// Compares how fast records arrive with the nominal rate, until that is known.
#[derive(Debug)]
struct ArrivalRate {
    rate_hz: f64,
    /// The last check, and the records so far; `None` before the first record.
    last: Option<(MonoTime, u64)>,
    counted: (Duration, u64),
}

impl ArrivalRate {
    fn new(rate_hz: f64) -> Self {
        Self { rate_hz, last: None, counted: (Duration::ZERO, 0) }
    }

    /// Returns `None` until it is known, then the contradiction if there is one.
    fn note(&mut self, records: u64, excused: bool, now: MonoTime) -> Option<Option<String>> {
        let Some((before, last)) = self.last.replace((now, records)) else {
            if records == 0 || excused {
                self.last = None;
            }
            return None;
        };
        let new = records.saturating_sub(last);
        // A fast stream without records pauses; of a slow one, none may be due.
        if excused || (new == 0 && self.rate_hz > 2.0) {
            self.last = None;
            return None;
        }
        self.counted.0 += now.since(before);
        self.counted.1 += new;
        let (time, records) = self.counted;
        if time < SILENCE_MIN || time.as_secs_f64() * self.rate_hz < ARRIVAL_PERIODS {
            return None;
        }
        let seen_hz = records as f64 / time.as_secs_f64();
        let ratio = seen_hz / self.rate_hz;
        let contradicts = !(1.0 / CONTRADICTION..=CONTRADICTION).contains(&ratio);
        Some(contradicts.then(|| {
            let (seen, rate) = (figure(seen_hz), figure(self.rate_hz));
            format!(
                "{seen} records arrive in a second, but rate_hz is {rate}; write the rate at which they come, or let what \
                 feeds the source keep it"
            )
        }))
    }
}

/// Returns the time in which some windows of so many samples should be filled.
fn window_max(rate_hz: f64, samples: usize) -> Duration {
    let one = Duration::try_from_secs_f64(samples as f64 / rate_hz).unwrap_or(Duration::MAX);
    one.saturating_mul(WINDOWS).max(SILENCE_MIN)
}

#[cfg(test)]
mod tests {
    use super::super::stall::without_prediction;
    use super::*;
    use crate::source::sink::Remarks;

    fn at(seconds: f64) -> MonoTime {
        MonoTime(0) + Duration::from_secs_f64(seconds)
    }

    fn watch(rate_hz: Option<f64>) -> ProgressWatch {
        ProgressWatch::of_rate(rate_hz, 8, Counts::default(), at(100.0))
    }

    fn samples(samples: u64) -> Counts {
        Counts { samples, windows: samples / 8, ..Counts::default() }
    }

    #[test]
    fn a_source_is_silent_by_the_rate_that_it_should_have() {
        let silent = Some(Stall::Silent(SILENCE_MIN));
        let mut fast = watch(Some(50.0));
        assert_eq!(fast.note(samples(0), false, at(110.0)), None);
        assert_eq!(fast.note(samples(0), false, at(110.1)), silent);
        assert_eq!(fast.note(samples(1), false, at(110.2)), None, "one sample is progress");
        assert_eq!(fast.note(samples(1), true, at(200.0)), None, "it has a reason");
        assert_eq!(fast.note(samples(1), false, at(210.0)), None);
        assert_eq!(fast.note(samples(1), false, at(210.1)), silent);

        let mut slow = watch(Some(0.01));
        assert_eq!(slow.note(samples(0), false, at(1100.0)), None);
        assert_eq!(slow.note(samples(0), false, at(1100.1)), Some(Stall::Silent(Duration::from_secs(1000))));
        assert_eq!(watch(None).note(samples(0), false, at(1e6)), None);
        assert_eq!(silence_max(1e-300), Duration::MAX);
    }

    #[test]
    fn before_a_source_begins_it_is_not_silent() {
        let mut watch = watch(Some(50.0));
        assert_eq!(watch.note(samples(0), true, at(1.0)), None);
        assert_eq!(watch.note(samples(0), false, at(110.0)), None, "it begins at 100 s");
        assert!(watch.note(samples(0), false, at(110.1)).is_some());
    }

    /// The states of a stream that is checked each second, by its counts after each.
    fn states(rate_hz: Option<f64>, seconds: u64, counts: impl Fn(u64) -> Counts) -> Vec<Option<Stall>> {
        let mut watch = watch(rate_hz);
        (1..=seconds).map(|second| watch.note(counts(second), false, at(100.0 + second as f64))).collect()
    }

    #[test]
    fn records_of_which_most_are_rejected_are_said_also_without_a_rate() {
        for rate_hz in [Some(10.0), None] {
            let states = states(rate_hz, 40, |second| match second {
                0..=20 => Counts { rejected: 10 * second, ..Counts::default() },
                _ => Counts { rejected: 200, ..samples(10 * (second - 20)) },
            });
            assert!(states[..9].iter().all(Option::is_none), "{states:?}");
            assert_eq!(states[9], Some(Stall::Rejected { rejected: 100, records: 100 }));
            assert!(states[19].is_some() && states[30..].iter().all(Option::is_none), "{states:?}");
        }
        let few = states(Some(10.0), 40, |s| Counts { rejected: 4 * s, ..samples(6 * s) });
        assert!(few.iter().all(Option::is_none), "{few:?}");
        let words = Stall::Rejected { rejected: 130, records: 130 }
            .in_words(&Remarks { reject: Some("in:2: column `t`".into()), ..Remarks::default() });
        assert_eq!(words, "source: 130 of 130 records were rejected; in:2: column `t`");
    }

    #[test]
    fn samples_that_fill_no_window_are_said_and_a_window_ends_it() {
        let stalled =
            |second: u64| Counts { gaps: 9 * second, time_still: 9 * second, windows: 0, ..samples(10 * second) };
        for rate_hz in [Some(10.0), None] {
            let states = states(rate_hz, 30, |second| match second {
                0..=20 => stalled(second),
                _ => Counts { windows: second - 20, ..stalled(20) },
            });
            assert!(states[..9].iter().all(Option::is_none), "{states:?}");
            let Some(stall @ Stall::NoWindow { counts, .. }) = &states[9] else { panic!("{states:?}") };
            assert_eq!((counts.samples, counts.time_still), (100, 90));
            assert!(stall.in_words(&Remarks::default()).contains("90 samples had the time of the sample before"));
            assert!(states[19].is_some() && states[20..].iter().all(Option::is_none), "{states:?}");
        }
        let jumps = Counts { gaps: 10, time_jumps: 9, time_back: 1, ..samples(10) };
        let said = without_prediction(Counts { windows: 0, ..jumps }, &Remarks::default(), 8);
        assert!(
            said.ends_with("; time jumped ahead by more than window.max_gap_ms 9 times; time went back once"),
            "{said}"
        );
    }

    #[test]
    fn samples_that_are_not_joined_are_no_silence() {
        let mut watch = watch(Some(50.0));
        assert_eq!(watch.note(Counts { unmatched: 9, ..Counts::default() }, false, at(110.0)), None);
        assert_eq!(watch.note(Counts { unmatched: 10, ..Counts::default() }, false, at(119.9)), None);
    }

    #[test]
    fn a_slow_stream_and_one_that_pauses_owe_no_window() {
        // One sample a minute, in windows of four with a hop of four.
        let slow = states(Some(1.0 / 60.0), 3600, |second| samples(second / 60));
        assert!(slow.iter().all(Option::is_none), "{:?}", slow.iter().flatten().next());
        // Each minute, ten samples and a gap before them.
        let paused = states(Some(100.0), 600, |second| {
            let bursts = second / 60;
            Counts { samples: 10 * bursts, windows: bursts, gaps: bursts, ..Counts::default() }
        });
        assert!(paused.iter().flatten().all(|stall| matches!(stall, Stall::Silent(_))), "{paused:?}");
        // A wrong rate makes each step a gap, though few samples have come.
        let wrong = states(Some(50.0), 20, |second| Counts { gaps: second, windows: 0, ..samples(second) });
        assert!(matches!(wrong[9], Some(Stall::NoWindow { .. })), "{wrong:?}");
    }

    #[test]
    fn arrival_far_from_the_nominal_rate_is_said_once() {
        let said = |rate_hz: f64, per_s: u64| {
            let mut watch = watch(None);
            watch.arrival = Some(ArrivalRate::new(rate_hz));
            let notes = (0..60).filter_map(|s| watch.note_arrivals(samples(s * per_s), false, at(100.0 + s as f64)));
            notes.collect::<Vec<_>>()
        };
        assert_eq!(said(50.0, 50), Vec::<String>::new());
        let said = said(50.0, 10);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("10 records arrive in a second, but rate_hz is 50"), "{said:?}");
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
