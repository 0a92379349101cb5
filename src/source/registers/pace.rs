//! When the registers of a chip are read that says that it has something new. Pure: time is passed in.

use std::time::Duration;

use crate::units::{MonoTime, duration_ns};

/// A chip that has something new is looked at so often in one period.
const LOOKS_PER_PERIOD: u64 = 8;

/// A frame that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When the chip measured it, as far as that can be known.
    pub time: MonoTime,
    /// How many frames before it were missed.
    pub missed: u64,
}

/// Follows a chip that says when it has a new frame: looks a little before it is due, then more often.
#[derive(Debug)]
pub struct Follower {
    period_ns: u64,
    due: MonoTime,
    /// When the last frame was found.
    found: Option<MonoTime>,
    /// The last look after that which found nothing.
    nothing: Option<MonoTime>,
    /// Since when the next frame is waited for.
    since: MonoTime,
}

impl Follower {
    pub fn new(start: MonoTime, period: Duration) -> Self {
        Self { period_ns: duration_ns(period).max(1), due: start, found: None, nothing: None, since: start }
    }

    /// Returns when to look again.
    pub fn due(&self) -> MonoTime {
        self.due
    }

    /// Returns for how long nothing new was there.
    pub fn silent(&self, now: MonoTime) -> Duration {
        now.since(self.since)
    }

    /// Takes the result of a look. Returns the frame if it is there.
    pub fn look(&mut self, now: MonoTime, is_there: bool) -> Option<Due> {
        let step = self.period_ns / LOOKS_PER_PERIOD;
        if !is_there {
            self.nothing = Some(now);
            self.due = now + Duration::from_nanos(step);
            return None;
        }
        let periods = |since: MonoTime| duration_ns(now.since(since)) / self.period_ns;
        // What was there before the last look would have been found by it.
        let possible = self.nothing.map_or(u64::MAX, periods);
        let missed = self.found.map_or(0, |found| periods(found).saturating_sub(1)).min(possible);
        let (time, early) = match self.nothing {
            Some(nothing) => (MonoTime(nothing.0.midpoint(now.0)), step),
            // It came before the first look, which is therefore earlier the next time.
            None => (now, 2 * step),
        };
        self.due = now + Duration::from_nanos(self.period_ns - early);
        self.found = Some(time);
        self.since = now;
        self.nothing = None;
        Some(Due { time, missed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> MonoTime {
        MonoTime(ms * MS)
    }

    /// A chip with a clock of its own, and a reader that is sometimes late: returns the samples that were read, how many were
    /// counted as missed, the largest error of their times, and the looks.
    fn follow(period_ns: u64, phase_ns: u64, delays: &[u64], samples: u64) -> (Vec<u64>, u64, u64, u64) {
        let nominal = Duration::from_millis(10);
        let (mut follower, mut delays) = (Follower::new(at(1000), nominal), delays.iter().cycle());
        let made = |sample: u64| at(1000).0 + phase_ns + sample * period_ns;
        let (mut read, mut missed, mut error, mut looks, mut now) = (Vec::new(), 0, 0, 0, at(1000));
        while read.last().is_none_or(|last| *last + 1 < samples) {
            now = now.max(follower.due()) + Duration::from_nanos(*delays.next().unwrap());
            let newest = now.0.checked_sub(made(0)).map(|since| since / period_ns);
            let is_new = newest.is_some_and(|newest| read.last().is_none_or(|last| newest > *last));
            looks += 1;
            if let Some(due) = follower.look(now, is_new) {
                read.push(newest.unwrap());
                missed += due.missed;
                error = error.max(due.time.0.abs_diff(made(newest.unwrap())));
            }
        }
        (read, missed, error, looks)
    }

    #[test]
    fn a_chip_with_a_clock_of_its_own_is_followed_with_two_looks_a_frame() {
        for period_us in [9_000, 9_700, 10_000, 10_300, 11_000, 12_000] {
            let (read, missed, error, looks) = follow(period_us * 1000, 3_300_000, &[50_000], 1000);
            assert_eq!((read, missed), (Vec::from_iter(0..1000), 0), "{period_us}");
            assert!(error <= 11 * MS / 8 && looks <= 4_200, "{period_us}: {error} ns, {looks} looks");
        }
        let (.., looks) = follow(10_000_000, 0, &[50_000], 1000);
        assert!(looks <= 2_100, "{looks}");
        // Half the rate that was written is not taken for missed frames.
        let (read, missed, ..) = follow(20_000_000, 0, &[50_000], 100);
        assert_eq!((read.len(), missed), (100, 0));
    }

    #[test]
    fn frames_that_a_late_reader_missed_are_counted() {
        let mut delays = vec![50_000; 100];
        delays[50] = 55 * MS;
        let (read, missed, ..) = follow(10_000_000, 3_300_000, &delays, 40);
        let skipped = 40 - read.len() as u64;
        assert!((4..=6).contains(&skipped) && missed.abs_diff(skipped) <= 1, "{skipped}, counted {missed}: {read:?}");
        let mut follower = Follower::new(at(0), Duration::from_millis(10));
        assert_eq!(follower.silent(at(700)), Duration::from_millis(700));
        follower.look(at(700), true);
        follower.look(at(720), false);
        assert_eq!(follower.silent(at(725)), Duration::from_millis(25));
    }

    proptest! {
        #[test]
        fn a_frame_is_never_read_twice_nor_out_of_order(
            period_us in 7_600u64..30_000,
            phase_us in 0u64..10_000,
            delays in prop::collection::vec(0u64..40 * MS, 1..50),
        ) {
            let (read, ..) = follow(period_us * 1000, phase_us * 1000, &delays, 100);
            prop_assert!(read.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn a_reader_that_is_on_time_misses_nothing(period_us in 7_600u64..30_000, phase_us in 0u64..10_000) {
            let (read, missed, ..) = follow(period_us * 1000, phase_us * 1000, &[20_000], 200);
            prop_assert_eq!((read, missed), (Vec::from_iter(0..200), 0));
        }
    }
}
