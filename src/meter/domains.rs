//! Watches whether the counters of a processor's platform (psys) and of its memory can be right, by those of its packages.
//!
//! Pure. On some machines psys exists and stands still, or counts only a part: its supply is not wired to the sensor. The
//! packages are inside of the platform, so a platform that takes less than they do is wrong. Some processors count memory in
//! another unit than the kernel assumes. Both interfaces of RAPL judge by these rules.

use std::time::Duration;

use super::counter::Counter;
use crate::units::MonoTime;

/// Memory that shows more power than this, and than its package, is wrong: twelve modules under full load take about 100 W,
/// and load them only with a busy processor. It is judged after this time.
const MEMORY_WATTS: f64 = 120.0;
const MEMORY_OVER: Duration = Duration::from_secs(10);

/// Both are compared over this time again and again.
const OVER: Duration = Duration::from_secs(10);
/// They are not compared before this time, because the platform's counter may be refreshed once a second.
const EARLIEST: Duration = Duration::from_millis(1500);
/// Two steps of the coarsest counter, that of Sapphire Rapids.
const STEPS_UJ: f64 = 2e6;
/// By how much the scales of both may differ.
const SCALE: f64 = 1.02;

/// What the platform and its packages have counted since the start of the comparison.
#[derive(Debug, Default)]
pub(crate) struct PlatformCheck {
    start: Option<Counts>,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    time: MonoTime,
    platform_uj: u64,
    packages_uj: u64,
}

/// The platform counted less than its packages.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("it counted {platform_j:.1} J in {for_s:.1} s, less than the {packages_j:.1} J of the packages in it")]
pub(crate) struct TooLittle {
    platform_j: f64,
    packages_j: f64,
    for_s: f64,
}

/// Memory took more than it can: more than its package, and a lot.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("it shows {watts:.0} W, more than its package, which memory does not take")]
pub(crate) struct TooMuch {
    watts: f64,
}

/// Judges the counter of memory by that of its package.
///
/// # Errors
/// [`TooMuch`]: do not use the memory's counter.
pub(crate) fn judge_memory(memory: &Counter, package: Option<&Counter>) -> Result<(), TooMuch> {
    let watts = memory.mean_watts();
    let most = package.map_or(0.0, Counter::mean_watts).max(MEMORY_WATTS);
    if memory.refresh().learned_for() >= MEMORY_OVER && watts > most { Err(TooMuch { watts }) } else { Ok(()) }
}

impl PlatformCheck {
    /// Compares the counters' values at `now`; the platform's is refreshed every `period`, as far as that is known.
    ///
    /// # Errors
    /// [`TooLittle`]: do not use the platform's counter.
    pub(crate) fn compare(
        &mut self,
        now: MonoTime,
        platform_uj: u64,
        packages_uj: u64,
        period: Option<Duration>,
    ) -> Result<(), TooLittle> {
        let counts = Counts { time: now, platform_uj, packages_uj };
        let start = *self.start.get_or_insert(counts);
        let (platform, packages) =
            (platform_uj.checked_sub(start.platform_uj), packages_uj.checked_sub(start.packages_uj));
        // A counter has wrapped or was reset.
        let (Some(platform), Some(packages)) = (platform, packages) else {
            self.start = Some(counts);
            return Ok(());
        };
        let time = now.since(start.time);
        let (platform, packages, for_s) = (platform as f64, packages as f64, time.as_secs_f64());
        let late_uj = packages / for_s.max(1e-9) * 2.0 * period.unwrap_or_default().as_secs_f64();
        if time >= EARLIEST && packages > SCALE * platform + STEPS_UJ + late_uj {
            return Err(TooLittle { platform_j: platform / 1e6, packages_j: packages / 1e6, for_s });
        }
        if time >= OVER {
            self.start = Some(counts);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares every 0.1 s for a minute, and returns the first complaint.
    fn compared(platform_w: f64, packages_w: f64, step_uj: u64) -> Option<String> {
        let mut check = PlatformCheck::default();
        (0..600u64).find_map(|tenth| {
            let uj = |watts: f64| (watts * tenth as f64 * 1e5) as u64;
            let platform = 7_000_000 + uj(platform_w) / step_uj * step_uj;
            let now = MonoTime(tenth * 100_000_000);
            check.compare(now, platform, uj(packages_w), Some(Duration::from_millis(1))).err().map(|e| e.to_string())
        })
    }

    #[test]
    fn a_platform_that_counts_less_than_its_packages_is_found() {
        assert_eq!(
            compared(0.0, 5.0, 61).unwrap(),
            "it counted 0.0 J in 1.5 s, less than the 7.5 J of the packages in it"
        );
        assert!(compared(9.0, 10.0, 61).is_some());
        assert_eq!(compared(10.0, 10.0, 61), None);
        assert_eq!(compared(3.0, 2.9, 1_000_000), None, "steps of 1 J");
        assert_eq!(compared(0.0, 0.0, 61), None);
    }

    #[test]
    fn a_wrap_starts_the_comparison_again() {
        let mut check = PlatformCheck::default();
        let at = |s: u64| MonoTime(s * 1_000_000_000);
        check.compare(at(0), 900_000_000, 0, None).unwrap();
        check.compare(at(2), 5, 50_000_000, None).unwrap();
        check.compare(at(4), 60_000_005, 100_000_000, None).unwrap();
        check.compare(at(6), 60_000_005, 170_000_000, None).unwrap_err();
    }
}
