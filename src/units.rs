//! Physical quantities and the clocks as types, so that a watt is never added to a joule.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

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
    /// Returns the mean power over `duration`, or `None` if that is zero.
    pub fn per(self, duration: Duration) -> Option<Watts> {
        (!duration.is_zero()).then(|| Watts(self.0 / duration.as_secs_f64()))
    }

    /// Returns the value in millijoules with three significant digits.
    pub fn in_mj(self) -> String {
        let mj = self.0 * 1e3;
        let whole_digits = if mj == 0.0 { 1.0 } else { mj.abs().log10().floor() + 1.0 };
        format!("{mj:.*}", (3.0 - whole_digits).clamp(0.0, 9.0) as usize)
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

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
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

/// A moment on the wall clock, in milliseconds since 1970; for people and files, never for durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// A clock before 1970 was never set; it reads as 1970.
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for WallTime {
    /// Shows the time to the minute, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let minutes = self.0 / 60_000 % 1440;
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
    }
}

impl WallTime {
    /// Returns the time to the second in UTC, for the name of a file: `20260102T030405Z`.
    pub fn compact(self) -> String {
        let ((year, month, day), seconds) = (self.date(), self.0 / 1000 % 86_400);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{year:04}{month:02}{day:02}T{hours:02}{minutes:02}{seconds:02}Z")
    }

    /// Returns year, month and day in UTC. Years begin in March here, so that a leap day is the last of its year and five
    /// months have 153 days (H. Hinnant, chrono-Compatible Low-Level Date Algorithms).
    fn date(self) -> (u64, u64, u64) {
        let days = self.0 / 86_400_000;
        let since_march_0000 = days + 719_468;
        let (cycle, day_of_cycle) = (since_march_0000 / 146_097, since_march_0000 % 146_097);
        let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let months = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * months + 2) / 5 + 1;
        let month = (months + 2) % 12 + 1;
        (400 * cycle + year_of_cycle + u64::from(month <= 2), month, day)
    }
}

/// Returns what the clock of 1970 shows when the monotonic one shows 0, in nanoseconds.
pub fn wall_offset_ns() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ns = |ns: u128| i64::try_from(ns).unwrap_or(i64::MAX);
    ns(since_1970.as_nanos()).saturating_sub(ns(MonoTime::now().0.into()))
}

/// Returns the processor time that all threads of this process have used.
pub fn process_cpu_time() -> Duration {
    Duration::from_nanos(clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID))
}

/// Returns `duration` in whole nanoseconds; saturates after 584 years.
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads a clock. The clocks used here exist on every Linux; on a kernel without them the time is zero.
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
    fn millijoules_have_three_digits() {
        let shown = [0.0, 1.0, -0.012_345, 0.001_234_5, 12.345e-6, 1e-12].map(|joules| Joules(joules).in_mj());
        assert_eq!(shown, ["0.00", "1000", "-12.3", "1.23", "0.0123", "0.000000001"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS`.
        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(WallTime(seconds * 1000).to_string(), date);
        }
        assert!(WallTime::now() > WallTime(1_700_000_000_000));
        assert!(WallTime(u64::MAX).to_string().ends_with("UTC"));
    }

    #[test]
    fn the_clock_moves_forward_only() {
        let a = MonoTime::now();
        let b = MonoTime::now();
        assert!(b >= a);
        assert_eq!(a.since(a + Duration::from_secs(1)), Duration::ZERO);
    }
}
