//! The phases of a daemon that has started, and the changes between them. Pure: time is passed in.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

/// How long an inference that is under way may still take after the time for draining is over.
const STUCK: Duration = Duration::from_secs(1);

/// Why the daemon drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainFor {
    Stop,
    /// It starts again afterwards, and calibrates first.
    Calibrate,
}

/// What the daemon does at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The configuration is being read; `again`: it has to be read once more after that.
    Reloading {
        again: bool,
    },
    /// Sources have stopped; samples that have arrived are decided until the deadline.
    Draining {
        reason: DrainFor,
        deadline: Instant,
    },
    /// The time for draining is over; only inferences that are under way are waited for.
    Overdue {
        reason: DrainFor,
        deadline: Instant,
    },
}

/// What follows the end of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterReload {
    Serve,
    ReadAgain,
    /// The daemon is stopping: the new configuration is not used.
    Stop,
}

impl Phase {
    /// Returns why the daemon is stopping, if it is.
    pub(crate) fn stops_for(self) -> Option<DrainFor> {
        match self {
            Self::Draining { reason, .. } | Self::Overdue { reason, .. } => Some(reason),
            Self::Running | Self::Reloading { .. } => None,
        }
    }

    pub(crate) fn is_stopping(self) -> bool {
        self.stops_for().is_some()
    }

    pub(crate) fn is_overdue(self) -> bool {
        matches!(self, Self::Overdue { .. })
    }

    /// Returns when the phase has to end.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Draining { deadline, .. } | Self::Overdue { deadline, .. } => Some(deadline),
            Self::Running | Self::Reloading { .. } => None,
        }
    }

    /// Asks for a reload. Returns whether the configuration has to be read now.
    pub(crate) fn request_reload(&mut self) -> bool {
        match self {
            Self::Running => {
                *self = Self::Reloading { again: false };
                true
            }
            Self::Reloading { again } => {
                *again = true;
                false
            }
            Self::Draining { .. } | Self::Overdue { .. } => false,
        }
    }

    /// Ends a reload. `incomplete`: it could not be carried out as it was read, and has to be read again.
    pub(crate) fn end_reload(&mut self, incomplete: bool) -> AfterReload {
        match *self {
            Self::Reloading { again } => {
                *self = Self::Running;
                if again || incomplete { AfterReload::ReadAgain } else { AfterReload::Serve }
            }
            Self::Running => AfterReload::Serve,
            Self::Draining { .. } | Self::Overdue { .. } => AfterReload::Stop,
        }
    }

    /// Starts to drain until `deadline`. A drain that has begun keeps its deadline and gets the new reason. Returns whether
    /// the sources have to be stopped now.
    pub(crate) fn drain(&mut self, new_reason: DrainFor, new_deadline: Instant) -> bool {
        match self {
            Self::Draining { reason, .. } | Self::Overdue { reason, .. } => {
                *reason = new_reason;
                false
            }
            Self::Running | Self::Reloading { .. } => {
                *self = Self::Draining { reason: new_reason, deadline: new_deadline };
                true
            }
        }
    }

    /// The deadline has passed. Breaks if there is nothing more to wait for.
    pub(crate) fn pass_deadline(&mut self, now: Instant) -> ControlFlow<()> {
        match *self {
            Self::Draining { reason, .. } => {
                *self = Self::Overdue { reason, deadline: now + STUCK };
                ControlFlow::Continue(())
            }
            Self::Overdue { .. } => ControlFlow::Break(()),
            Self::Running | Self::Reloading { .. } => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_that_is_asked_for_during_a_reload_follows_it() {
        let mut phase = Phase::Running;
        assert!(phase.request_reload());
        assert!(!phase.request_reload(), "it is being read already");
        assert_eq!(phase.end_reload(false), AfterReload::ReadAgain);
        assert!(phase.request_reload());
        assert_eq!(phase.end_reload(true), AfterReload::ReadAgain);
        assert!(phase.request_reload());
        assert_eq!(phase.end_reload(false), AfterReload::Serve);
        assert_eq!(phase, Phase::Running);
    }

    #[test]
    fn a_stop_ends_reloads_and_keeps_its_deadline() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut phase = Phase::Reloading { again: true };
        assert!(phase.drain(DrainFor::Calibrate, begun + second));
        assert!(!phase.request_reload());
        assert_eq!(phase.end_reload(false), AfterReload::Stop);
        // A signal turns a calibration into a stop.
        assert!(!phase.drain(DrainFor::Stop, begun + 9 * second));
        assert_eq!((phase.stops_for(), phase.deadline()), (Some(DrainFor::Stop), Some(begun + second)));
        assert!(phase.pass_deadline(begun + second).is_continue());
        assert_eq!((phase.is_overdue(), phase.deadline()), (true, Some(begun + 2 * second)));
        assert!(phase.pass_deadline(begun + 2 * second).is_break());
    }
}
