//! Physical quantities and the monotonic clock as types, so that a watt is never added to a joule.

use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
    };
}

quantity!(
    /// Energy in joules.
    Joules
);
quantity!(
    /// Power in watts.
    Watts
);

impl Watts {
    /// Energy that this constant power delivers over `duration`.
    pub fn over(self, duration: Duration) -> Joules {
        Joules(self.0 * duration.as_secs_f64())
    }
}

impl Joules {
    /// Mean power over `duration`, or `None` when no time has passed.
    pub fn per(self, duration: Duration) -> Option<Watts> {
        (!duration.is_zero()).then(|| Watts(self.0 / duration.as_secs_f64()))
    }
}

/// A moment on `CLOCK_MONOTONIC`, in nanoseconds since boot (suspend excluded).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// Reads the clock; through the vDSO this is no system call.
    pub fn now() -> Self {
        Self(clock_ns(ClockId::CLOCK_MONOTONIC))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonoTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration_ns(duration)))
    }
}

/// Processor time that all threads of this process have used.
pub fn process_cpu_time() -> Duration {
    Duration::from_nanos(clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID))
}

/// `duration` in whole nanoseconds, saturating after 584 years.
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Both clocks asked for exist on every Linux, so a failure can only be a kernel without them: time stands at zero then.
fn clock_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_and_energy_convert_both_ways() {
        let e = Watts(2.5).over(Duration::from_secs(4));
        assert_eq!(e, Joules(10.0));
        assert_eq!(e.per(Duration::from_secs(4)), Some(Watts(2.5)));
        assert_eq!(e.per(Duration::ZERO), None);
    }

    #[test]
    fn the_clock_moves_forward_only() {
        let a = MonoTime::now();
        let b = MonoTime::now();
        assert!(b >= a);
        assert_eq!(a.since(a + Duration::from_secs(1)), Duration::ZERO);
    }
}
