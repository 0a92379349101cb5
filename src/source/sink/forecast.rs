//! Foretells when so many frames will have come, so that a source can sleep until shortly before. Pure: time is passed in.
//!
//! It learns from the ends of waits: how many frames had come when the reader had what it wanted. So it needs no nominal
//! rate, and is as good as the stream is regular. A writer that stalls and then catches up hardly shifts it: an end that
//! comes late counts little, one that comes early counts in full.

use std::time::Duration;

use crate::units::MonoTime;

/// Steps from end to end that are kept, for their median; with fewer than the least, nothing is foretold.
const STEPS: usize = 5;
const LEAST_STEPS: usize = 3;
/// An end that comes earlier by this part of its step belongs to a faster stream.
const FASTER: f64 = 0.5;
/// An end that comes late shifts what is foretold by this part of a period at most.
const MOST_SHIFT: f64 = 0.25;
/// What is left of how early frames came, after each end.
const DECAY: f64 = 0.6;
/// Frames are expected so many times earlier than they came early before.
const CAUTION: f64 = 3.0;
/// A sleep may end so much later than it should.
const TIMER_SLACK: Duration = Duration::from_micros(200);

#[derive(Debug, Default)]
pub(super) struct Forecast {
    last: Option<End>,
    /// The time from frame to frame in the last steps, in nanoseconds; a ring.
    periods: [f64; STEPS],
    steps: usize,
    /// How much earlier than foretold frames come.
    early_ns: f64,
    /// Ends in a row that were not as foretold: late by more than a period, or very early.
    wrong: usize,
}

/// The end of a wait.
#[derive(Debug, Clone, Copy)]
struct End {
    /// That had come in all.
    frames: u64,
    at: MonoTime,
    /// When it should have been by those before.
    due: MonoTime,
}

impl Forecast {
    /// Notes that `frames` have come in all, the last ones at `at`; with `overslept` at an unknown time before it.
    pub(super) fn ended(&mut self, frames: u64, at: MonoTime, overslept: bool) {
        let start = Self { last: Some(End { frames, at, due: at }), ..Self::default() };
        let Some(last) = self.last else { return *self = start };
        let count = frames.saturating_sub(last.frames).max(1) as f64;
        let measured_ns = at.since(last.at).as_nanos() as f64 / count;
        let period_ns = self.period_ns().unwrap_or(measured_ns);
        let foretold = last.due + nanoseconds(count * period_ns);
        let (early_ns, late_ns) = (foretold.since(at).as_nanos() as f64, at.since(foretold).as_nanos() as f64);
        let is_wrong = late_ns > period_ns || early_ns > FASTER * count * period_ns;
        self.wrong = if is_wrong { self.wrong + 1 } else { 0 };
        if self.wrong == LEAST_STEPS {
            return *self = start;
        }
        if overslept {
            self.early_ns = self.early_ns.max(early_ns + period_ns);
        } else {
            self.early_ns = early_ns.max(DECAY * self.early_ns);
            self.periods[self.steps % STEPS] = measured_ns;
            self.steps += 1;
        }
        let due = at.min(foretold + nanoseconds(MOST_SHIFT * period_ns));
        self.last = Some(End { frames, at, due });
    }

    /// Returns the median time from frame to frame; `None` before the first step.
    fn period_ns(&self) -> Option<f64> {
        let mut known = self.periods;
        let known = known.get_mut(..self.steps.min(STEPS))?;
        known.sort_unstable_by(f64::total_cmp);
        known.get(known.len() / 2).copied()
    }

    /// Returns until when `frames` in all will surely not have come; `None` if that is not known yet.
    pub(super) fn not_before(&self, frames: u64) -> Option<MonoTime> {
        let last = self.last.filter(|_| self.steps >= LEAST_STEPS)?;
        let period_ns = self.period_ns()?;
        let ahead_ns = frames.saturating_sub(last.frames) as f64 * period_ns;
        // In the middle between the last frame and the one before: then only the last one is left to be waited for.
        let margin_ns = (period_ns / 2.0).max(CAUTION * self.early_ns).max(TIMER_SLACK.as_nanos() as f64);
        Some(last.due + nanoseconds(ahead_ns - margin_ns))
    }
}

/// Returns zero for a negative number.
fn nanoseconds(ns: f64) -> Duration {
    Duration::from_nanos(ns as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A forecast after windows of 100 frames at 1 kHz; `late_us` says how late the end of each comes.
    fn after(late_us: &[u64]) -> Forecast {
        let mut forecast = Forecast::default();
        for (window, late_us) in (1..).zip(late_us) {
            forecast.ended(window * 100, MonoTime(window * 100 * MS + late_us * 1000), false);
        }
        forecast
    }

    /// Returns how many frames at 1 kHz are still to come when the sleep for the frame `frames` ends.
    fn left(forecast: &Forecast, frames: u64) -> Option<f64> {
        Some(frames as f64 - forecast.not_before(frames)?.0 as f64 / MS as f64)
    }

    #[test]
    fn the_last_frame_of_a_regular_stream_is_left() {
        assert_eq!(left(&after(&[0; 3]), 400), None, "two steps tell too little");
        assert_eq!(left(&after(&[0; 4]), 500), Some(0.5));
        let left = left(&after(&[50, 0, 80, 20, 60, 10, 90, 40]), 900).unwrap();
        assert!((0.2..1.0).contains(&left), "{left}");
    }

    #[test]
    fn a_writer_that_stalls_and_catches_up_does_not_make_the_next_window_late() {
        let mut forecast = after(&[0; 8]);
        forecast.ended(900, MonoTime(920 * MS), false);
        assert!((0.2..1.0).contains(&left(&forecast, 1000).unwrap()));
        forecast.ended(1000, MonoTime(1000 * MS), false);
        assert!((0.5..2.0).contains(&left(&forecast, 1100).unwrap()));
    }

    #[test]
    fn a_stream_that_is_later_for_good_is_followed() {
        let mut forecast = after(&[0; 8]);
        for window in 9..16 {
            forecast.ended(window * 100, MonoTime((window * 100 + 20) * MS), false);
        }
        assert_eq!(left(&forecast, 1600), Some(-19.5));
    }

    #[test]
    fn a_sleep_that_was_too_long_makes_the_next_one_shorter() {
        let mut forecast = after(&[0; 8]);
        forecast.ended(900, MonoTime(900 * MS - MS / 2), true);
        assert!(left(&forecast, 1000).unwrap() > 1.5);
    }

    #[test]
    fn another_rate_is_learned_anew() {
        let mut forecast = after(&[0; 8]);
        let end = |window: u64| MonoTime((800 + window * 20) * MS);
        for window in 1..=6 {
            forecast.ended(800 + window * 100, end(window), false);
            let next = forecast.not_before(900 + window * 100);
            assert!(next.is_none_or(|moment| moment < end(window + 1)), "no window but the first is late: {next:?}");
        }
        assert_eq!(forecast.not_before(1500), Some(MonoTime(end(7).0 - 200_000)));
    }
}
