//! How often a counter is refreshed, and in what steps: learned from when its values change.
//!
//! Pure: times and changes are passed in. Owns the pace of the readings while it learns, the refresh period that follows from
//! how long values stand still, and the watch over both afterwards. Leaves what a value means to `counter`.

use std::time::Duration;

use super::steps::{Step, Steps};
use crate::units::MonoTime;

/// Time between two readings while a fast counter is learned. RAPL is refreshed about each millisecond.
const FASTEST: Duration = Duration::from_micros(250);
/// The pace slows down to this part of the time for which the value has stood still, so that a slow counter costs few readings.
const PACE: u32 = 16;
const SLOWEST: Duration = Duration::from_millis(100);
/// Learning ends after so many refreshes, or after fewer if they take longer than `ENOUGH`.
const REFRESHES: u32 = 32;
const REFRESHES_MIN: u32 = 3;
const ENOUGH: Duration = Duration::from_secs(1);
/// Learning ends after this time, whatever was seen.
pub(crate) const LEARNING_MAX: Duration = Duration::from_secs(4);

/// The period is shortened if so many refreshes in succession came faster.
const BLOCK: u32 = 32;
/// A value that stands still for so many periods is not only late.
const STILL_PERIODS: u32 = 20;
/// A counter is never called still before this time, because a busy machine may delay any refresh.
const STILL_MIN: Duration = Duration::from_millis(20);
/// Hardware refreshes with some jitter: the age of a value spreads as if all periods were longer than their mean by this factor,
/// if they differ from it by up to a fifth.
const JITTER: f64 = 1.04;
/// A refresh that takes longer than so many periods is more than jitter.
const SLOWER: f64 = 1.5;

/// How often one counter is refreshed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refresh {
    begun: Option<MonoTime>,
    polled: MonoTime,
    /// The reading that first had the present value, and the time since the reading before that.
    since: MonoTime,
    late: Duration,
    /// The number of changes; the first value may have been there for long.
    changes: u32,
    /// The longest and the second longest time for which a value stood still, while it is learned.
    longest: [Duration; 2],
    first_change: MonoTime,
    period: Option<Duration>,
    is_learned: bool,
    /// Changes in this block, and the longest time that one of them can have taken.
    block: (u32, Duration),
    /// Whether the value before this one stood still for too long.
    was_still: bool,
    pub(crate) steps: Steps,
}

impl Refresh {
    /// Notes a reading at `now`, and by how much the value has changed since the one before.
    pub(crate) fn poll(&mut self, now: MonoTime, change: Option<u64>) {
        let Some(begun) = self.begun else {
            *self = Self { begun: Some(now), polled: now, since: now, ..Self::default() };
            return;
        };
        if let Some(change) = change {
            self.steps.add(change);
            if self.changes > 0 {
                self.end_of_run(now);
            } else {
                self.first_change = now;
            }
            self.changes = self.changes.saturating_add(1);
            (self.since, self.late) = (now, now.since(self.polled));
        }
        self.polled = now;
        let learned_for = now.since(begun);
        let is_enough = self.changes > REFRESHES || (self.changes > REFRESHES_MIN && learned_for >= ENOUGH);
        if !self.is_learned && (is_enough || learned_for >= LEARNING_MAX) {
            self.is_learned = true;
            self.period = self.learned();
            self.steps.learn();
        }
    }

    /// Returns the period: the mean time between two changes. If the counter stood still once, that is left out.
    fn learned(&self) -> Option<Duration> {
        let periods = self.changes.checked_sub(1).filter(|periods| *periods > 0)?;
        let time = self.since.since(self.first_change);
        let [longest, second] = self.longest;
        let is_outlier = self.changes > REFRESHES / 2 && longest > second * STILL_PERIODS && !second.is_zero();
        Some(if is_outlier { time.saturating_sub(longest) / (periods - 1) } else { time / periods })
    }

    /// Notes that another counting has begun: the value at `now` has nothing to do with the one before.
    pub(crate) fn jump(&mut self, now: MonoTime) {
        (self.since, self.late, self.polled) = (now, now.since(self.polled), now);
    }

    /// A value has ended that was first read at `since` and last at `polled`.
    fn end_of_run(&mut self, now: MonoTime) {
        let gap = now.since(self.polled);
        let still = self.polled.since(self.since);
        // The refreshes were up to one gap before the reading that showed each of them.
        let most = now.since(self.since) + self.late;
        let stood = if still.is_zero() { still } else { still + self.late.min(gap) };
        if !self.is_learned {
            let [longest, second] = self.longest;
            self.longest = if stood > longest { [stood, longest] } else { [longest, second.max(stood)] };
            return;
        }
        let Some(period) = self.period else {
            self.period = Some(if still.is_zero() { most } else { stood });
            return;
        };
        let too_long = stood >= Self::still_limit(period);
        // Once it was an accident; twice in succession, it has become slower.
        if stood > period.mul_f64(SLOWER) && (!too_long || self.was_still) {
            self.period = Some(stood);
        }
        self.was_still = too_long;
        if matches!(self.steps.known(), Some(Step::Below(_))) && self.changes.is_power_of_two() {
            self.steps.learn();
        }
        self.block = (self.block.0 + 1, self.block.1.max(most));
        if self.block.0 >= BLOCK {
            let (_, most) = std::mem::take(&mut self.block);
            self.period = self.period.map(|period| period.min(most));
        }
    }

    fn still_limit(period: Duration) -> Duration {
        (period * STILL_PERIODS).max(STILL_MIN)
    }

    /// Whether the period is not yet known.
    pub(crate) fn is_learning(&self) -> bool {
        !self.is_learned
    }

    /// Whether the value has changed since the counter was opened.
    pub(crate) fn has_changed(&self) -> bool {
        self.changes > 0
    }

    /// Returns for how long the counter has been learned.
    pub(crate) fn learned_for(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| self.polled.since(begun))
    }

    /// Returns how soon to read the counter again, as long as it is learned.
    pub(crate) fn pace(&self) -> Option<Duration> {
        self.is_learning().then(|| pace_after(self.polled.since(self.since)))
    }

    /// Returns the period between two refreshes, if it is known.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.period
    }

    /// Returns the largest age that the value of the latest reading can have, apart from jitter.
    pub(crate) fn age_max(&self) -> Duration {
        let seen = self.polled.since(self.since) + self.late;
        self.period.map_or(seen, |period| seen.min(period.mul_f64(JITTER)))
    }

    /// Returns for how long the value has stood still at least, if that is much longer than a period.
    pub(crate) fn stands_still(&self, now: MonoTime) -> Option<Duration> {
        let still = now.since(self.since);
        self.period
            .filter(|_| self.changes > 0 && !self.is_learning())
            .and_then(|period| (still >= Self::still_limit(period)).then_some(still))
    }

    /// Returns what was learned, such as `every 1.0 ms in steps of 61 uJ`, of a counter of microjoules.
    pub(crate) fn describe(&self) -> Option<String> {
        let period = self.period.filter(|_| !self.is_learning())?;
        let steps = match self.steps.known() {
            Some(Step::Exactly(uj)) => format!(" in steps of {}", microjoules(uj)),
            Some(Step::Below(uj)) => format!(" in steps below {}", microjoules(uj)),
            None => String::new(),
        };
        Some(format!("every {}{steps}", time(period)))
    }
}

/// Returns how soon to read a value again that is learned and has stood still for that long.
pub(crate) fn pace_after(still: Duration) -> Duration {
    (still / PACE).clamp(FASTEST, SLOWEST)
}

/// Returns a time with two or three digits and its unit.
pub(crate) fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

fn microjoules(uj: f64) -> String {
    match uj {
        ..100.0 => format!("{} uJ", (uj * 10.0).round() / 10.0),
        ..1e3 => format!("{uj:.0} uJ"),
        ..1e6 => format!("{} mJ", (uj / 100.0).round() / 10.0),
        _ => format!("{} J", (uj / 1e5).round() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A counter of `watts` that is refreshed each `period` in steps of `quantum_uj`, from `offset_ns` on.
    struct Simulated {
        period_ns: u64,
        quantum_uj: u64,
        watts: f64,
        shown: Option<u64>,
        readings: u32,
    }

    impl Simulated {
        fn new(period: Duration, quantum_uj: u64, watts: f64) -> Self {
            let period_ns = u64::try_from(period.as_nanos()).unwrap();
            Self { period_ns, quantum_uj, watts, shown: None, readings: 0 }
        }

        fn poll(&mut self, refresh: &mut Refresh, ns: u64) {
            let refreshed_s = (ns / self.period_ns * self.period_ns) as f64 / 1e9;
            let uj = (self.watts * refreshed_s * 1e6) as u64 / self.quantum_uj * self.quantum_uj;
            let uj = uj.max(self.shown.unwrap_or(0));
            let change = self.shown.replace(uj).map(|before| uj - before).filter(|change| *change > 0);
            refresh.poll(MonoTime(ns), change);
            self.readings += 1;
        }

        /// Learns at the pace that is asked for, each reading a little late, and returns when it is done.
        fn learn(&mut self, refresh: &mut Refresh) -> u64 {
            let mut now = 7_123_456_789;
            self.poll(refresh, now);
            while let Some(pace) = refresh.pace() {
                now += u64::try_from(pace.as_nanos()).unwrap() + 60_000;
                self.poll(refresh, now);
            }
            now
        }
    }

    fn learned(period_ms: f64, quantum_uj: u64, watts: f64) -> (Refresh, Simulated, u64) {
        let mut counter = Simulated::new(Duration::from_secs_f64(period_ms / 1e3), quantum_uj, watts);
        let mut refresh = Refresh::default();
        let end = counter.learn(&mut refresh);
        (refresh, counter, end)
    }

    #[test]
    fn the_period_is_learned_from_few_readings() {
        for (period_ms, most_s, most_readings) in
            [(1.0, 0.1, 200), (10.0, 0.5, 1400), (100.0, 1.2, 800), (1000.0, 4.2, 450)]
        {
            let (refresh, counter, end) = learned(period_ms, 61, 5.0);
            let learned_ms = refresh.period().unwrap().as_secs_f64() * 1e3;
            assert!((0.85..1.35).contains(&(learned_ms / period_ms)), "{learned_ms} ms, truly {period_ms}");
            assert!((end as f64 - 7.1e9) / 1e9 < most_s, "{period_ms} ms took until {end}");
            assert!(counter.readings < most_readings, "{period_ms} ms took {} readings", counter.readings);
        }
    }

    #[test]
    fn what_was_learned_is_told() {
        // Changes of 81 and 82 steps: they tell no more.
        assert_eq!(learned(1.0, 61, 5.0).0.describe().unwrap(), "every 1.0 ms in steps below 62.5 uJ");
        // 1 J at 10 W shows every 100 ms, however often it is refreshed.
        let told = learned(1.0, 1_000_000, 10.0).0.describe().unwrap();
        assert!(told.starts_with("every 10") && told.ends_with(" in steps of 1 J"), "{told}");
    }

    #[test]
    fn the_age_is_the_period_or_the_time_between_two_readings() {
        let (mut refresh, mut counter, end) = learned(1.0, 61, 5.0);
        for step in 1..5 {
            counter.poll(&mut refresh, end + step * 100 * MS);
        }
        let age = refresh.age_max();
        assert!(age < Duration::from_micros(1600) && age > Duration::from_micros(900), "{age:?}");
        let (mut refresh, mut counter, end) = learned(1000.0, 61, 5.0);
        for step in 1..40 {
            counter.poll(&mut refresh, end + step * 100 * MS);
            if refresh.since == refresh.polled {
                assert_eq!(refresh.age_max(), Duration::from_millis(100));
            }
        }
    }

    #[test]
    fn a_slower_counter_is_noticed_at_once_and_a_faster_one_after_a_while() {
        let (mut refresh, mut counter, mut now) = learned(1.0, 61, 5.0);
        counter.period_ns = 10 * MS;
        for _ in 0..30 {
            now += MS;
            counter.poll(&mut refresh, now);
        }
        assert!(refresh.period().unwrap() > Duration::from_millis(8), "{:?}", refresh.period());
        counter.period_ns = 2 * MS;
        for _ in 0..300 {
            now += MS;
            counter.poll(&mut refresh, now);
        }
        assert!(refresh.period().unwrap() < Duration::from_millis(5), "{:?}", refresh.period());
    }

    #[test]
    fn one_stall_is_no_period_and_two_are() {
        let (mut refresh, mut counter, mut now) = learned(1.0, 61, 5.0);
        let mut stall = |refresh: &mut Refresh| {
            for _ in 0..40 {
                now += 10 * MS;
                refresh.poll(MonoTime(now), None);
            }
            assert!(refresh.stands_still(MonoTime(now)).is_some_and(|still| still >= Duration::from_millis(390)));
            now += MS;
            counter.poll(refresh, now);
            assert_eq!(refresh.stands_still(MonoTime(now)), None);
        };
        stall(&mut refresh);
        assert!(refresh.period().unwrap() < Duration::from_millis(2));
        stall(&mut refresh);
        assert!(refresh.period().unwrap() > Duration::from_millis(390));
    }

    #[test]
    fn a_value_that_never_changes_ends_the_learning_without_a_period() {
        let (refresh, counter, end) = learned(1.0, 61, 0.0);
        assert!(!refresh.has_changed() && refresh.period().is_none() && refresh.describe().is_none());
        assert!(end > 11_100 * MS && counter.readings < 200, "{end} ns, {} readings", counter.readings);
    }
}
