//! How many commands are accepted over MQTT: each is answered, and a flood of answers would delay what matters.

use std::time::{Duration, Instant};

/// More than people and their scripts ask for.
const MAX_PER_S: u32 = 20;

/// Counts the commands of the present second.
#[derive(Debug, Default)]
pub(crate) struct CommandLimit {
    since: Option<Instant>,
    accepted: u32,
}

impl CommandLimit {
    /// Returns whether one more command is accepted at `now`. The first refusal in a second is logged.
    pub(crate) fn accept(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), accepted: 0 };
        }
        self.accepted = self.accepted.saturating_add(1);
        if self.accepted == MAX_PER_S + 1 {
            tracing::warn!("more than {MAX_PER_S} commands in a second over MQTT: the rest is ignored");
        }
        self.accepted <= MAX_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_are_accepted_in_each_second() {
        let (mut limit, begun) = (CommandLimit::default(), Instant::now());
        for second in 0..3 {
            let accepted = (0..100).filter(|n| limit.accept(begun + Duration::from_millis(second * 1000 + n)));
            assert_eq!(accepted.count(), 20);
        }
    }
}
