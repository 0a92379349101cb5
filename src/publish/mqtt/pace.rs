//! How fast a backlog is sent, so that a fleet does not flood its broker after an outage. Pure: the time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How much may be sent at once, as a fraction of what may be sent in a second.
const BURST: f64 = 0.1;

/// A token bucket, one token for each message; it never runs dry if no pace is set.
#[derive(Debug)]
pub(crate) struct Pace {
    per_s: Option<f64>,
    tokens: f64,
    filled: Option<Instant>,
    /// When the missing token will be there.
    next: Option<Instant>,
}

impl Pace {
    /// Returns a pace of `per_s` messages in a second, or of any number.
    pub(crate) fn new(per_s: Option<u32>) -> Self {
        Self { per_s: per_s.map(f64::from), tokens: 0.0, filled: None, next: None }
    }

    /// Takes a token at `now`; returns whether a message may be sent.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let Some(per_s) = self.per_s else { return true };
        let most = (per_s * BURST).max(1.0);
        let passed = self.filled.replace(now).map(|then| now.duration_since(then).as_secs_f64());
        self.tokens = passed.map_or(most, |passed| (self.tokens + passed * per_s).min(most));
        self.next = None;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return true;
        }
        self.next = Some(now + Duration::from_secs_f64((1.0 - self.tokens) / per_s));
        false
    }

    /// Returns when to ask again, if the last answer was no. Only once: by then there may be nothing to send.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        self.next.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_out_at_the_pace_after_a_small_burst() {
        let (mut pace, begun) = (Pace::new(Some(50)), Instant::now());
        let mut sent = 0;
        for ms in 0..10_000 {
            sent += u32::from(pace.take(begun + Duration::from_millis(ms)));
        }
        assert!((500..=506).contains(&sent), "{sent}");
        assert!(pace.next().is_some() && pace.next().is_none());
        let mut free = Pace::new(None);
        assert!((0..10_000).all(|_| free.take(begun)) && free.next().is_none());
    }
}
