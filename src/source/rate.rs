//! When samples are read at a steady rate, and whether they come at the rate of the configuration. Pure: time is passed in.

use std::time::Duration;

use crate::units::{MonoTime, duration_ns};

/// A rate is measured over this time at least, and over so many samples.
const RATE_TIME: Duration = Duration::from_secs(5);
const RATE_FRAMES: u64 = 20;

/// Times at equal distances, without drift. A frame that is late does not move those after it.
#[derive(Debug)]
pub struct Clock {
    start: MonoTime,
    period_ns: f64,
    next: u64,
}

impl Clock {
    pub fn new(start: MonoTime, rate_hz: f64) -> Self {
        Self { start, period_ns: 1e9 / rate_hz, next: 0 }
    }

    /// Returns when the next frame is to be read.
    pub fn due(&self) -> MonoTime {
        MonoTime(self.start.0.saturating_add((self.next as f64 * self.period_ns) as u64))
    }

    /// The next frame is read now, on time or late. Returns how many before it were missed.
    pub fn read(&mut self, now: MonoTime) -> u64 {
        let missed = (duration_ns(now.since(self.due())) as f64 / self.period_ns) as u64;
        self.next += 1 + missed;
        missed
    }
}

/// Compares the rate at which samples come with the one that the configuration says.
#[derive(Debug)]
pub struct RateWatch {
    nominal_hz: f64,
    /// The rates that are as good as the nominal one, as parts of it.
    low: f64,
    high: f64,
    begin: Option<MonoTime>,
    frames: u64,
    is_wrong: bool,
}

impl RateWatch {
    pub fn new(nominal_hz: f64, low: f64, high: f64) -> Self {
        Self { nominal_hz, low, high, begin: None, frames: 0, is_wrong: false }
    }

    /// Takes note of frames that came at `now`. Returns the measured rate if it is not the nominal one any more, and `None`
    /// inside if it is again.
    pub fn add(&mut self, frames: u64, now: MonoTime) -> Option<Option<f64>> {
        let Some(begin) = self.begin else {
            self.begin = Some(now);
            return None;
        };
        self.frames += frames;
        let time = now.since(begin);
        if time < RATE_TIME || self.frames < RATE_FRAMES {
            return None;
        }
        let rate = self.frames as f64 / time.as_secs_f64();
        self.begin = Some(now);
        self.frames = 0;
        let is_wrong = !(self.low..=self.high).contains(&(rate / self.nominal_hz));
        let was_wrong = std::mem::replace(&mut self.is_wrong, is_wrong);
        match (was_wrong, is_wrong) {
            (_, true) => Some(Some(rate)),
            (true, false) => Some(None),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn times_do_not_drift_and_what_is_late_is_counted() {
        let mut clock = Clock::new(at(1000), 100.0);
        for (now, missed, next) in
            [(1000, 0, 1010), (1013, 0, 1020), (1029, 0, 1030), (1040, 1, 1050), (1199, 14, 1200)]
        {
            assert_eq!((clock.read(at(now)), clock.due()), (missed, at(next)), "{now}");
        }
        let mut clock = Clock::new(MonoTime(0), 3.0);
        (0..30_000_000).for_each(|_| _ = clock.read(clock.due()));
        assert_eq!(clock.due(), at(10_000_000_000), "3 Hz for 10 million seconds");
    }

    #[test]
    fn a_rate_is_wrong_until_it_is_right_again() {
        let mut watch = RateWatch::new(100.0, 0.95, 1.1);
        let mut now = MonoTime(0);
        let mut run = |hz: u64| {
            let verdicts: Vec<_> = (0..hz * 6)
                .filter_map(|_| {
                    now = now + Duration::from_secs(1) / u32::try_from(hz).unwrap();
                    watch.add(1, now)
                })
                .collect();
            verdicts.last().map(|verdict| verdict.map(f64::round))
        };
        assert_eq!(run(100), None);
        assert_eq!(run(80), Some(Some(84.0)), "the first second was faster");
        assert_eq!(run(80), Some(Some(80.0)));
        assert_eq!(run(100), Some(Some(88.0)), "the first three seconds were slower");
        assert_eq!(run(100), Some(None), "it is right again");
        assert_eq!(run(130), Some(Some(130.0)));
    }
}
