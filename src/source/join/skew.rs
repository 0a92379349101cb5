//! Measures how the clocks of two sources move apart. Pure: time is passed in.
//!
//! The time from a sample's stamp to its arrival has a smallest value, which only a clock that runs too fast or too slow
//! changes. Each source is compared with the monotonic clock in this way, and so with each other source.

use std::time::Duration;

use crate::units::MonoTime;

/// The smallest delay is taken over this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Less is not enough to tell a rate.
const LEAST: Duration = Duration::from_secs(60);
/// Quartz is off by less than 0.05 %. Beyond this, a stream does not come in real time.
const MOST_RATE: f64 = 0.005;

/// The delays of one source.
#[derive(Debug, Default)]
pub(super) struct Skew {
    first: Option<Floor>,
    last: Option<Floor>,
    /// The smallest delay since the beginning of the interval.
    current: Option<Floor>,
}

/// The smallest delay of an interval that began at this time.
#[derive(Debug, Clone, Copy)]
struct Floor {
    begun: MonoTime,
    delay_ns: i64,
}

/// How far the clocks of two sources have moved apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drift {
    /// Positive if the follower's clock has fallen behind that of the leader.
    pub(super) apart_ns: i64,
    pub(super) within: Duration,
}

impl Drift {
    /// Returns the rate in parts per million, without its sign.
    pub(super) fn ppm(&self) -> f64 {
        (self.apart_ns as f64 / self.within.as_nanos().max(1) as f64).abs() * 1e6
    }
}

impl Skew {
    /// Takes a sample's stamp and the time of its arrival.
    pub(super) fn add(&mut self, stamp_ns: i64, arrival: MonoTime) {
        let delay_ns = i64::try_from(arrival.0).unwrap_or(i64::MAX).saturating_sub(stamp_ns);
        let current = self.current.get_or_insert(Floor { begun: arrival, delay_ns });
        if arrival.since(current.begun) < INTERVAL {
            current.delay_ns = current.delay_ns.min(delay_ns);
            return;
        }
        self.first.get_or_insert(*current);
        self.last = Some(*current);
        self.current = Some(Floor { begun: arrival, delay_ns });
    }

    /// Starts over: the clock was set.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Returns how much the delay has grown, and in what time.
    fn grown(&self) -> Option<(i64, Duration)> {
        let (first, last) = self.first.zip(self.last)?;
        let within = last.begun.since(first.begun);
        let grown = last.delay_ns.saturating_sub(first.delay_ns);
        let is_clock = grown.unsigned_abs() as f64 <= MOST_RATE * within.as_nanos() as f64;
        (within >= LEAST && is_clock).then_some((grown, within))
    }

    /// Returns how far the clock of `follower` has moved away from this one; `None` while that is not known.
    pub(super) fn drift(&self, follower: &Self) -> Option<Drift> {
        let (ours, within) = self.grown()?;
        let (theirs, theirs_within) = follower.grown()?;
        Some(Drift { apart_ns: theirs.saturating_sub(ours), within: within.min(theirs_within) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is off by `ppm`, at 50 Hz for `seconds`, with samples that arrive up to 30 ms late.
    fn clock(ppm: f64, seconds: u64, epoch_ns: i64) -> Skew {
        let mut skew = Skew::default();
        for sample in 0..seconds * 50 {
            let true_ns = sample * 20_000_000;
            let stamp = epoch_ns + (true_ns as f64 * (1.0 + ppm / 1e6)) as i64;
            let late = sample * 7919 % 30_000_000;
            skew.add(stamp, MonoTime(1_000_000_000 + true_ns + late));
        }
        skew
    }

    #[test]
    fn fifty_ppm_are_found_below_the_jitter() {
        let (leader, follower) = (clock(0.0, 3600, 0), clock(-50.0, 3600, 1_700_000_000_000_000_000));
        let drift = leader.drift(&follower).unwrap();
        assert!((drift.ppm() - 50.0).abs() < 2.0, "{drift:?}");
        assert!(drift.apart_ns > 170_000_000, "it falls behind: {drift:?}");
        let same = clock(20.0, 3600, 0).drift(&clock(20.0, 3600, 5)).unwrap();
        assert!(same.ppm() < 2.0, "{same:?}");
    }

    #[test]
    fn what_is_not_in_real_time_has_no_drift() {
        assert_eq!(clock(0.0, 60, 0).drift(&clock(50.0, 60, 0)), None, "it is too short");
        assert_eq!(clock(0.0, 3600, 0).drift(&clock(900_000.0, 3600, 0)), None, "a recording is played faster");
        let mut set = clock(0.0, 3600, 0);
        set.restart();
        assert_eq!(set.drift(&clock(0.0, 3600, 0)), None);
    }
}
