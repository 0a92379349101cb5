//! A cumulative energy counter that may wrap, get stuck or be reset: what each new value means.
//!
//! Pure: values and times are passed in.

use std::time::Duration;

use super::{Accuracy, Reading, Resolution, Scale, Scope};
use crate::units::{Joules, MonoTime};

/// More than any RAPL zone draws; a larger jump can only be a reset.
const RAPL_MAX_WATTS: f64 = 1_000.0;

/// The smallest range of RAPL counters in the field, (2^32 - 1) units of 15.3 uJ, for zones that do not show theirs.
const RAPL_SMALLEST_RANGE_UJ: u64 = 65_532_610_987;

/// RAPL counts about every millisecond while the processor runs, so a counter that is still for this long is stuck.
const RAPL_STUCK_AFTER: Duration = Duration::from_secs(1);

const HWMON_MAX_WATTS: f64 = 10_000.0;

/// How late energy may show up, because a counter updates at its own pace.
const UPDATE_SLACK: Duration = Duration::from_millis(20);

/// What a value of the counter means, with the microjoules since the previous value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    First,
    Normal { uj: u64 },
    Wrapped { uj: u64 },
    Lost(Lost),
}

/// Why the energy since the previous value is unknown; counting continues from this value.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Lost {
    #[error("{gap_s:.1} s passed between readings and the counter may wrap after {max_gap_s:.1} s; read it more often")]
    GapTooLong { gap_s: f64, max_gap_s: f64 },
    #[error("the counter went back from {from_uj} uJ to {to_uj} uJ and its range is unknown")]
    RangeUnknown { from_uj: u64, to_uj: u64 },
    #[error("the counter jumped by {watts:.0} W, so it was probably reset")]
    Implausible { watts: f64 },
    #[error("the counter has not changed for {for_s:.1} s")]
    Stuck { for_s: f64 },
}

/// The state of one counter in microjoules.
#[derive(Debug)]
pub struct Counter {
    max_uj: Option<u64>,
    max_gap: Duration,
    max_watts: f64,
    stuck_after: Option<Duration>,
    previous: Option<(MonoTime, u64)>,
    moved: MonoTime,
}

impl Counter {
    /// Creates the counter of a RAPL zone; `max_energy_range_uj` is its highest value, `None` or 0 if unknown.
    pub fn rapl(max_energy_range_uj: Option<u64>) -> Self {
        let max_uj = max_energy_range_uj.filter(|&max_uj| max_uj > 0);
        let wrap_s = max_uj.unwrap_or(RAPL_SMALLEST_RANGE_UJ) as f64 / 1e6 / RAPL_MAX_WATTS;
        Self {
            max_uj,
            max_gap: Duration::from_secs_f64(wrap_s),
            max_watts: RAPL_MAX_WATTS,
            stuck_after: Some(RAPL_STUCK_AFTER),
            previous: None,
            moved: MonoTime::default(),
        }
    }

    /// Creates the counter of a RAPL event of perf, which the kernel widens to 64 bits (`arch/x86/events/rapl.c`), so that no
    /// gap is too long.
    pub fn perf() -> Self {
        Self { max_gap: Duration::MAX, ..Self::rapl(None) }
    }

    /// Creates the counter of an `energyN_input` of hwmon: its width depends on the driver, and a sleeping device may draw
    /// nothing.
    pub fn hwmon() -> Self {
        Self {
            max_uj: None,
            max_gap: Duration::MAX,
            max_watts: HWMON_MAX_WATTS,
            stuck_after: None,
            previous: None,
            moved: MonoTime::default(),
        }
    }

    /// Whether a wrap can be distinguished from a reset.
    pub fn has_range(&self) -> bool {
        self.max_uj.is_some()
    }

    /// Evaluates the value `raw_uj` read at `now`, which becomes the base of the next step whatever the result.
    pub fn step(&mut self, now: MonoTime, raw_uj: u64) -> Step {
        let Some((then, previous_uj)) = self.previous.replace((now, raw_uj)) else {
            self.moved = now;
            return Step::First;
        };
        let gap = now.since(then);
        if raw_uj == previous_uj {
            let still = now.since(self.moved);
            return match self.stuck_after {
                Some(limit) if still >= limit => Step::Lost(Lost::Stuck { for_s: still.as_secs_f64() }),
                _ => Step::Normal { uj: 0 },
            };
        }
        self.moved = now;
        if gap > self.max_gap {
            return Step::Lost(Lost::GapTooLong { gap_s: gap.as_secs_f64(), max_gap_s: self.max_gap.as_secs_f64() });
        }
        let (step, uj) = match raw_uj.checked_sub(previous_uj) {
            Some(uj) => (Step::Normal { uj }, uj),
            None => match self.max_uj.and_then(|max_uj| wrapped(max_uj, previous_uj, raw_uj)) {
                Some(uj) => (Step::Wrapped { uj }, uj),
                None => return Step::Lost(Lost::RangeUnknown { from_uj: previous_uj, to_uj: raw_uj }),
            },
        };
        let joules = uj as f64 / 1e6;
        if joules > self.max_watts * (gap + UPDATE_SLACK).as_secs_f64() {
            return Step::Lost(Lost::Implausible { watts: joules / gap.as_secs_f64().max(1e-9) });
        }
        step
    }
}

/// Returns the joules that several counters gained with the values read at `now`.
///
/// Every counter is stepped, also after a loss, so that the next values have a fresh base in each.
///
/// # Errors
/// The index of the first counter whose energy is unknown, and why.
pub fn sum<'a>(now: MonoTime, counters: impl Iterator<Item = (&'a mut Counter, u64)>) -> Result<Joules, (usize, Lost)> {
    let mut total_uj = 0;
    let mut lost: Option<(usize, Lost)> = None;
    for (index, (counter, raw_uj)) in counters.enumerate() {
        match counter.step(now, raw_uj) {
            Step::First => {}
            Step::Normal { uj } | Step::Wrapped { uj } => total_uj += uj,
            Step::Lost(reason) => lost = lost.or(Some((index, reason))),
        }
    }
    lost.map_or(Ok(Joules(total_uj as f64 / 1e6)), Err)
}

/// RAPL's counters update about once a millisecond, in units of 61 uJ on most processors (Intel SDM 3B, 16.10.1 and
/// 16.10.3); no vendor states the scale error.
const ACCURACY: Accuracy = Accuracy {
    resolution: Resolution::Counter { update: Duration::from_millis(1), quantum: Joules(61e-6) },
    scale: Scale::UNKNOWN,
};

/// The energy that the counters of one meter have shown since it was opened.
#[derive(Debug)]
pub struct Total {
    joules: Joules,
    /// When they were last read since they were found.
    last: Option<MonoTime>,
}

impl Default for Total {
    fn default() -> Self {
        Self { joules: Joules(0.0), last: None }
    }
}

impl Total {
    /// Returns the reading at `now` that follows from `sum`.
    pub fn reading(
        &mut self,
        now: MonoTime,
        sum: Result<Joules, (usize, Lost)>,
        scope: Scope,
    ) -> Result<Reading, (usize, Lost)> {
        let last = self.last.replace(now);
        let joules = sum?;
        self.joules = self.joules + joules;
        let power = last.and_then(|last| joules.per(now.since(last)));
        let accuracy = ACCURACY;
        Ok(Reading { time: now, joules: self.joules, power, volts: None, amperes: None, scope, accuracy })
    }

    /// Notes that the counters are gone: the next reading is the first one of the counters that are found then.
    pub fn interrupted(&mut self) {
        self.last = None;
    }
}

/// Returns the microjoules counted across a wrap, or `None` if the values do not lie in the range.
///
/// The kernel shows the highest value, (2^32 - 1) units (`drivers/powercap/intel_rapl_common.c`); the wrap itself is one
/// unit more.
fn wrapped(max_uj: u64, previous_uj: u64, raw_uj: u64) -> Option<u64> {
    let unit_uj = (max_uj as f64 / f64::from(u32::MAX)).round() as u64;
    max_uj.checked_sub(previous_uj)?.checked_add(raw_uj)?.checked_add(unit_uj)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_UJ: u64 = 262_143_328_850;

    fn at(seconds: f64) -> MonoTime {
        MonoTime((seconds * 1e9) as u64)
    }

    #[test]
    fn first_normal_and_wrapped() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        assert_eq!(counter.step(at(0.0), MAX_UJ - 1_000_000), Step::First);
        assert_eq!(counter.step(at(1.0), MAX_UJ - 400_000), Step::Normal { uj: 600_000 });
        assert_eq!(counter.step(at(2.0), 599_939), Step::Wrapped { uj: 1_000_000 });
        assert_eq!(counter.step(at(3.0), 700_000), Step::Normal { uj: 100_061 });
    }

    #[test]
    fn without_a_range_a_step_back_is_lost_and_counting_goes_on() {
        for max in [None, Some(0)] {
            let mut counter = Counter::rapl(max);
            counter.step(at(0.0), 5_000_000);
            assert_eq!(counter.step(at(1.0), 6_000_000), Step::Normal { uj: 1_000_000 });
            assert!(matches!(counter.step(at(2.0), 10), Step::Lost(Lost::RangeUnknown { .. })));
            assert_eq!(counter.step(at(3.0), 1_010), Step::Normal { uj: 1_000 });
        }
    }

    #[test]
    fn a_value_above_the_range_makes_no_wrap() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        counter.step(at(0.0), MAX_UJ + 1);
        assert!(matches!(counter.step(at(1.0), 1), Step::Lost(Lost::RangeUnknown { .. })));
    }

    #[test]
    fn a_gap_in_which_it_may_have_wrapped_is_lost() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        counter.step(at(0.0), 0);
        assert_eq!(counter.step(at(262.0), 1), Step::Normal { uj: 1 });
        assert!(matches!(counter.step(at(525.0), 2), Step::Lost(Lost::GapTooLong { .. })));
        assert_eq!(counter.step(at(526.0), 3), Step::Normal { uj: 1 });
    }

    #[test]
    fn a_reset_is_not_taken_for_a_wrap() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        counter.step(at(0.0), MAX_UJ / 2);
        assert!(matches!(counter.step(at(1.0), 40), Step::Lost(Lost::Implausible { .. })));
        assert_eq!(counter.step(at(2.0), 10_000_040), Step::Normal { uj: 10_000_000 });
    }

    #[test]
    fn a_counter_that_stands_still_is_stuck_until_it_moves() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        counter.step(at(0.0), 0);
        assert_eq!(counter.step(at(0.4), 0), Step::Normal { uj: 0 });
        assert_eq!(counter.step(at(0.8), 0), Step::Normal { uj: 0 });
        assert_eq!(counter.step(at(1.2), 0), Step::Lost(Lost::Stuck { for_s: 1.2 }));
        assert!(matches!(counter.step(at(300.0), 0), Step::Lost(Lost::Stuck { .. })));
        assert_eq!(counter.step(at(300.5), 7), Step::Normal { uj: 7 });
        assert_eq!(counter.step(at(301.4), 7), Step::Normal { uj: 0 }, "it stands still from its last move on");
        let mut sleeping = Counter::hwmon();
        sleeping.step(at(0.0), 0);
        assert_eq!(sleeping.step(at(1000.0), 0), Step::Normal { uj: 0 });
    }

    proptest! {
        /// A 32-bit register read through the kernel's rounding to whole microjoules against a counter that never wraps.
        #[test]
        fn a_wrapped_counter_equals_the_wide_model(
            start in any::<u32>(),
            unit_nj in prop::sample::select(vec![15_258u128, 61_035, 1_000_000]),
            steps in prop::collection::vec((0.001f64..60.0, 0.0f64..1.0), 1..200),
        ) {
            let shown = |units: u128| u64::try_from((units & 0xffff_ffff) * unit_nj / 1000).unwrap();
            let mut counter = Counter::rapl(Some(shown(0xffff_ffff)));
            let (mut wide, mut now_s, mut total_uj, mut wraps) = (u128::from(start), 0.0, 0u64, 0u64);
            prop_assert_eq!(counter.step(at(now_s), shown(wide)), Step::First);
            for (gap_s, load) in steps {
                let units = 1 + (gap_s * load * RAPL_MAX_WATTS * 1e9 / unit_nj as f64) as u128;
                wide += units;
                now_s += gap_s;
                match counter.step(at(now_s), shown(wide)) {
                    Step::Normal { uj } => total_uj += uj,
                    Step::Wrapped { uj } => { total_uj += uj; wraps += 1 }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let true_uj = u64::try_from((wide - u128::from(start)) * unit_nj / 1000).unwrap();
            prop_assert!(total_uj.abs_diff(true_uj) <= 2 + wraps, "{total_uj} uJ, truly {true_uj}, {wraps} wraps");
        }
    }
}
