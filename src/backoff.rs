//! How long to wait before the next attempt: doubling delays, spread so that a fleet does not reconnect at once.
//!
//! Pure: the random number is passed in.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Delays that double from `min` to `max` until [`Backoff::reset`].
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Returns delays that start at `min`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// Returns the next delay: half of it is fixed, the other half is scaled by `random`, whose whole range is used.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts again at `min`.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Returns a random number, good enough to spread attempts in time; the standard library seeds its hash maps with it.
pub(crate) fn random() -> u32 {
    (RandomState::new().build_hasher().finish() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_limit_and_spread_over_half() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(2), seconds(10));
        assert_eq!([0; 4].map(|r| backoff.next(r)), [1, 2, 4, 5].map(seconds));
        assert_eq!(backoff.next(u32::MAX), seconds(10));
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), seconds(2));
    }

    #[test]
    fn random_numbers_differ() {
        assert!((0..8).map(|_| random()).collect::<std::collections::HashSet<_>>().len() > 1);
    }
}
