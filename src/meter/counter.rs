//! A cumulative energy counter that may wrap, stand still or be reset: what each new value means.
//!
//! Pure: values and times are passed in. `refresh` learns how often the counter is refreshed; `total` adds up the counters of a
//! meter.

use std::time::Duration;

use super::refresh::Refresh;
use super::steps::Step as Quantum;
use crate::units::MonoTime;

/// More than any RAPL zone draws; a larger jump can only be a reset.
const RAPL_MAX_WATTS: f64 = 1_000.0;

/// The smallest range of RAPL counters in the field, (2^32 - 1) units of 15.3 uJ, for zones that do not show theirs.
const RAPL_SMALLEST_RANGE_UJ: u64 = 65_532_610_987;

/// The unit of RAPL's counters on most processors (Intel SDM 3B, 16.10.1), until another is seen.
const RAPL_QUANTUM_UJ: f64 = 61.0;

/// A counter that has not changed for so long, and for so many periods, does not count.
const STUCK_AFTER: Duration = Duration::from_secs(5);
const STUCK_PERIODS: u32 = 20;

const HWMON_MAX_WATTS: f64 = 10_000.0;

/// How late energy may show up, because a counter is refreshed at its own pace.
const UPDATE_SLACK: Duration = Duration::from_millis(20);

/// The time over which mean power is taken.
const MEAN_S: f64 = 10.0;

/// Energy up to a wrap and beyond it may be so many times the largest power seen; more is a reset near the end of the range.
const WRAP_POWERS: f64 = 3.0;
/// Power is taken over at least this time, and the largest one is believed after so many of them.
const POWER_OVER: Duration = Duration::from_millis(50);
const POWERS_MIN: u32 = 10;

/// What a value of the counter means, with the microjoules since the previous value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Counting starts here.
    First,
    /// The value was read before.
    Same,
    Normal {
        uj: u64,
    },
    Wrapped {
        uj: u64,
    },
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
    #[error(
        "the counter went back to {to_uj} uJ; as a wrap that would be {watts:.0} W, but {max_watts:.0} W is the most that was \
         seen, so it was probably reset"
    )]
    ImplausibleWrap { to_uj: u64, watts: f64, max_watts: f64 },
    #[error("the counter stood still for {for_s:.2} s, but it was refreshed every {period_s:.3} s before")]
    StoodStill { for_s: f64, period_s: f64 },
    #[error("the counter has not changed for {for_s:.1} s")]
    Stuck { for_s: f64 },
}

/// The period of a counter's refreshes and its step, as far as they are known.
pub(crate) type Learned = (Option<Duration>, Option<Quantum>);

/// The state of one counter in microjoules.
#[derive(Debug)]
pub struct Counter {
    max_uj: Option<u64>,
    max_gap: Duration,
    max_watts: f64,
    /// Whether a counter that stands still is a fault. A device may sleep and draw nothing, a processor draws something.
    can_be_stuck: bool,
    /// The unit, until it is learned.
    quantum_uj: f64,
    previous: Option<(MonoTime, u64)>,
    moved: MonoTime,
    /// Whether it was reported that the counter stands still.
    is_still: bool,
    refresh: Refresh,
    power: MeanPower,
}

/// What the counter showed so far.
#[derive(Debug, Default)]
struct MeanPower {
    watts: f64,
    max_watts: f64,
    /// How often power was taken for `max_watts`, and what has been counted since the last time.
    taken: u32,
    from: Option<MonoTime>,
    uj: u64,
    changed: Option<MonoTime>,
}

impl MeanPower {
    fn add(&mut self, now: MonoTime, uj: u64, period: Duration) {
        if let Some(changed) = self.changed.replace(now) {
            let time_s = now.since(changed).as_secs_f64();
            let share = if self.watts > 0.0 { (time_s / MEAN_S).min(1.0) } else { 1.0 };
            self.watts += (uj as f64 / 1e6 / time_s.max(1e-9) - self.watts) * share;
        }
        let Some(from) = self.from else {
            self.from = Some(now);
            return;
        };
        self.uj += uj;
        let time = now.since(from);
        if time >= POWER_OVER.max(period * 10) {
            self.max_watts = self.max_watts.max(self.uj as f64 / 1e6 / time.as_secs_f64());
            (self.taken, self.from, self.uj) = (self.taken.saturating_add(1), Some(now), 0);
        }
    }

    /// Makes the next value a new start.
    fn interrupt(&mut self) {
        (self.from, self.uj, self.changed) = (None, 0, None);
    }
}

impl Counter {
    /// Creates the counter of a RAPL zone; `max_energy_range_uj` is its highest value, `None` or 0 if unknown.
    pub fn rapl(max_energy_range_uj: Option<u64>) -> Self {
        let max_uj = max_energy_range_uj.filter(|&max_uj| max_uj > 0);
        let wrap_s = max_uj.unwrap_or(RAPL_SMALLEST_RANGE_UJ) as f64 / 1e6 / RAPL_MAX_WATTS;
        let max_gap = Duration::from_secs_f64(wrap_s);
        Self {
            max_uj,
            max_gap,
            max_watts: RAPL_MAX_WATTS,
            can_be_stuck: true,
            quantum_uj: RAPL_QUANTUM_UJ,
            ..Self::hwmon()
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
            can_be_stuck: false,
            quantum_uj: 1.0,
            previous: None,
            moved: MonoTime::default(),
            is_still: false,
            refresh: Refresh::default(),
            power: MeanPower::default(),
        }
    }

    /// Whether a wrap can be distinguished from a reset.
    pub fn has_range(&self) -> bool {
        self.max_uj.is_some()
    }

    /// Returns how often it is refreshed, such as `every 1.0 ms in steps of 61 uJ`; `None` until it is learned.
    pub(crate) fn describe(&self) -> Option<String> {
        self.refresh.describe()
    }

    /// Returns how soon to read it again while it is learned.
    pub(crate) fn pace(&self) -> Option<Duration> {
        self.refresh.pace()
    }

    /// Returns the period of its refreshes and its step, as far as they are learned.
    pub(crate) fn learned(&self) -> Learned {
        (self.refresh.period(), self.refresh.steps.known())
    }

    /// Returns the joules that one step of the counter has at most.
    pub(crate) fn quantum(&self) -> f64 {
        self.refresh.steps.known().map_or(self.quantum_uj, Quantum::largest) / 1e6
    }

    /// Returns its mean power; 0 until it has changed twice.
    pub(crate) fn mean_watts(&self) -> f64 {
        self.power.watts
    }

    pub(crate) fn refresh(&self) -> &Refresh {
        &self.refresh
    }

    /// Evaluates the value `raw_uj` read at `now`, which becomes the base of the next step whatever the result.
    pub fn step(&mut self, now: MonoTime, raw_uj: u64) -> Step {
        let Some((then, previous_uj)) = self.previous.replace((now, raw_uj)) else {
            self.moved = now;
            self.refresh.poll(now, None);
            return Step::First;
        };
        if raw_uj == previous_uj {
            self.refresh.poll(now, None);
            return self.still(now);
        }
        self.moved = now;
        let was_still = std::mem::take(&mut self.is_still);
        let step = self.changed(now, now.since(then), previous_uj, raw_uj);
        let (Step::Normal { uj } | Step::Wrapped { uj }) = step else {
            self.refresh.jump(now);
            self.power.interrupt();
            return step;
        };
        self.refresh.poll(now, Some(uj));
        if was_still {
            // That it stood still was reported meanwhile.
            self.power.interrupt();
            return Step::First;
        }
        self.power.add(now, uj, self.refresh.period().unwrap_or_default());
        step
    }

    /// Evaluates a value that was read before.
    fn still(&mut self, now: MonoTime) -> Step {
        let for_s = now.since(self.moved).as_secs_f64();
        let period_s = self.refresh.period().unwrap_or_default().as_secs_f64();
        if self.can_be_stuck && for_s >= STUCK_AFTER.as_secs_f64().max(f64::from(STUCK_PERIODS) * period_s) {
            self.is_still = true;
            return Step::Lost(Lost::Stuck { for_s });
        }
        // With coarse steps, little power takes long to show.
        let step_s = self.quantum() / (0.1 * self.power.watts).max(1e-9);
        if self.refresh.stands_still(now).is_some_and(|_| for_s > step_s) {
            self.is_still = true;
            return Step::Lost(Lost::StoodStill { for_s, period_s });
        }
        Step::Same
    }

    /// Evaluates a value that is another than the one before.
    fn changed(&self, now: MonoTime, gap: Duration, previous_uj: u64, raw_uj: u64) -> Step {
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
        // A slow counter shows the energy of a whole period at once.
        let shown = self.power.changed.map_or(gap, |changed| gap.max(now.since(changed))) + UPDATE_SLACK;
        let watts = joules / shown.as_secs_f64();
        if watts > self.max_watts {
            return Step::Lost(Lost::Implausible { watts: joules / gap.as_secs_f64().max(1e-9) });
        }
        let MeanPower { max_watts, taken, .. } = self.power;
        if matches!(step, Step::Wrapped { .. }) && taken >= POWERS_MIN && watts > WRAP_POWERS * max_watts {
            return Step::Lost(Lost::ImplausibleWrap { to_uj: raw_uj, watts, max_watts });
        }
        step
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
        assert_eq!(counter.step(at(2.4), 0), Step::Same);
        assert_eq!(counter.step(at(4.8), 0), Step::Same);
        assert_eq!(counter.step(at(5.2), 0), Step::Lost(Lost::Stuck { for_s: 5.2 }));
        assert!(matches!(counter.step(at(300.0), 0), Step::Lost(Lost::Stuck { .. })));
        assert_eq!(counter.step(at(300.5), 7), Step::First, "what was counted meanwhile is unknown");
        assert_eq!(counter.step(at(301.0), 9), Step::Normal { uj: 2 });
        assert_eq!(counter.step(at(305.4), 9), Step::Same, "it stands still from its last move on");
        let mut sleeping = Counter::hwmon();
        sleeping.step(at(0.0), 0);
        assert_eq!(sleeping.step(at(1000.0), 0), Step::Same);
    }

    /// A counter of 10 W that was learned: refreshed each millisecond, read every 100 ms in the last seconds.
    fn learned(from_uj: u64) -> (Counter, f64, u64) {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        let shown = |ms: f64| from_uj + 10_000 * ms as u64;
        let begin = (0..200).map(|quarter| f64::from(quarter) / 4.0);
        let end = (1..30).map(|tenth| 50.0 + 100.0 * f64::from(tenth));
        for ms in begin.chain(end) {
            counter.step(at(ms / 1e3), shown(ms));
        }
        assert_eq!(counter.describe().unwrap(), "every 1.0 ms in steps of 10 mJ");
        (counter, 2.95, shown(2950.0))
    }

    #[test]
    fn energy_of_a_stall_is_lost() {
        let (mut counter, now, uj) = learned(0);
        let Step::Lost(lost) = counter.step(at(now + 0.1), uj) else { panic!("100 periods without a change") };
        assert!(lost.to_string().contains("stood still for 0.10 s, but it was refreshed every 0.001 s"), "{lost}");
        assert_eq!(counter.step(at(now + 0.2), uj + 2_000_000), Step::First, "not two joules in a moment");
        assert_eq!(counter.step(at(now + 0.3), uj + 3_000_000), Step::Normal { uj: 1_000_000 });
    }

    #[test]
    fn coarse_steps_at_little_power_are_no_stall() {
        let mut counter = Counter::rapl(Some(MAX_UJ));
        // 1 J each 0.5 s, read every 20 ms.
        for tick in 0..500u32 {
            let step = counter.step(at(f64::from(tick) * 0.02), u64::from(tick / 25) * 1_000_000);
            assert!(!matches!(step, Step::Lost(_)), "{step:?} at {tick}");
        }
        // At a fifth of the power.
        for tick in 500..900u32 {
            let step = counter.step(at(f64::from(tick) * 0.02), 20_000_000 + u64::from((tick - 500) / 125) * 1_000_000);
            assert!(!matches!(step, Step::Lost(_)), "{step:?} at {tick}");
        }
    }

    #[test]
    fn a_reset_near_the_end_of_the_range_is_not_taken_for_a_wrap() {
        let near = MAX_UJ - 60_000_000;
        let (mut counter, now, uj) = learned(near);
        assert!(uj < MAX_UJ);
        let Step::Lost(lost) = counter.step(at(now + 0.1), 5) else { panic!("30 J in 0.1 s were no wrap") };
        assert!(matches!(lost, Lost::ImplausibleWrap { .. }) && lost.to_string().contains("probably reset"), "{lost}");
        assert_eq!(counter.step(at(now + 0.2), 1_000_005), Step::Normal { uj: 1_000_000 });
        let (mut counter, now, uj) = learned(MAX_UJ - 30_000_000);
        let over = uj + 1_000_000 - MAX_UJ;
        assert!(matches!(counter.step(at(now + 0.1), over), Step::Wrapped { .. }), "a real wrap");
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
