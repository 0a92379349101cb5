//! How often the same thing is logged. Pure: time is passed in.

use std::time::Duration;

use crate::units::MonoTime;

/// Allows one log line every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    last: Option<MonoTime>,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);

    /// Returns whether a line may be written now, which then counts as written.
    pub(crate) fn allows(&mut self, now: MonoTime) -> bool {
        self.allows_each(Self::PERIOD, now)
    }

    /// Allows one log line in each `period` instead.
    pub(crate) fn allows_each(&mut self, period: Duration, now: MonoTime) -> bool {
        let allowed = self.last.is_none_or(|last| now.since(last) >= period);
        if allowed {
            self.last = Some(now);
        }
        allowed
    }
}
