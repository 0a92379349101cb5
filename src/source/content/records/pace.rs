//! The pace of a stream by its own time: records with equal times, and whether the time and the nominal rate agree. Pure.
//!
//! Owns what is done with equal times, and the steps of the first records. Allocates nothing after it is built.

use super::time::TimeUnit;
use crate::schema::choice;
use crate::text::figure;

choice! {
    /// What is done with a record that has the time of the record before.
    #[derive(Default)]
    pub enum EqualTimes {
        /// There is a gap before it, so that no window has both.
        #[default]
        Gap = "gap",
        /// It comes one period of `rate_hz` later, as do those after it.
        Spread = "spread",
        /// It is rejected.
        Refuse = "refuse",
    }
}

/// The times of a stream, after the rule for equal ones.
#[derive(Debug)]
pub(super) struct Times {
    rule: EqualTimes,
    period_ns: i64,
    /// The last time as it was written, and as it was passed on.
    last: Option<(i64, i64)>,
    /// Records with that time.
    run: i64,
}

impl Times {
    pub(super) fn new(rule: EqualTimes, rate_hz: Option<f64>) -> Self {
        Self { rule, period_ns: rate_hz.map_or(1, |rate| (1e9 / rate).round() as i64), last: None, run: 0 }
    }

    /// Starts over, for another stream.
    pub(super) fn restart(&mut self) {
        self.last = None;
    }

    /// Returns the time of a record as it is passed on; `None` if the record is refused.
    pub(super) fn next(&mut self, ns: i64) -> Option<i64> {
        if self.rule == EqualTimes::Gap {
            return Some(ns);
        }
        let Some((before, passed)) = self.last else {
            self.last = Some((ns, ns));
            self.run = 0;
            return Some(ns);
        };
        if ns == before && self.rule == EqualTimes::Refuse {
            return None;
        }
        self.run = if ns == before { self.run + 1 } else { 0 };
        let spread = ns.saturating_add(self.run.saturating_mul(self.period_ns));
        // The records of one time may reach past the next time: time still goes on then.
        let next = if ns < before { ns } else { spread.max(passed.saturating_add(1)) };
        self.last = Some((ns, next));
        Some(next)
    }
}

/// The steps between the times of the first records, as they are written.
#[derive(Debug)]
pub(crate) struct Pace {
    steps: Vec<i64>,
    most: usize,
    last: Option<i64>,
}

/// Steps this many times longer or shorter than they should be contradict the rate.
const CONTRADICTION: f64 = 1.5;
/// Fewer steps tell nothing.
const LEAST_STEPS: usize = 3;

impl Pace {
    /// Keeps at most that many steps.
    pub(crate) fn new(most: usize) -> Self {
        Self { steps: Vec::with_capacity(most), most, last: None }
    }

    /// Starts over, for another stream: there is no step between the two.
    pub(crate) fn restart(&mut self) {
        self.last = None;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.steps.len() == self.most
    }

    /// Notes the time of a record.
    pub(crate) fn note(&mut self, ns: i64) {
        if self.is_full() {
            return;
        }
        if let Some(step) = self.last.replace(ns).and_then(|last| ns.checked_sub(last)) {
            self.steps.push(step);
        }
    }

    /// Returns how many steps there were.
    pub(crate) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Returns in how many steps time stood still, and in how many it went back.
    pub(crate) fn still_and_back(&self) -> (usize, usize) {
        let still = self.steps.iter().filter(|step| **step == 0).count();
        (still, self.steps.iter().filter(|step| **step < 0).count())
    }

    /// Returns the median of the steps in which time went on, and their mean with those in which it stood still, both in
    /// nanoseconds.
    fn median_and_mean(&self) -> Option<(f64, f64)> {
        let mut ahead: Vec<i64> = self.steps.iter().copied().filter(|step| *step > 0).collect();
        let (still, _) = self.still_and_back();
        if ahead.is_empty() || ahead.len() + still < LEAST_STEPS {
            return None;
        }
        let mean = ahead.iter().map(|step| *step as f64).sum::<f64>() / (ahead.len() + still) as f64;
        let middle = ahead.len() / 2;
        let (_, median, _) = ahead.select_nth_unstable(middle);
        Some((*median as f64, mean))
    }

    /// Returns the rate by the median step; by the mean one if times come in runs.
    pub(crate) fn rate_hz(&self) -> Option<f64> {
        let (median, mean) = self.median_and_mean()?;
        Some(1e9 / if self.still_and_back().0 > 0 { mean } else { median })
    }

    /// Returns in words how the time and the nominal rate contradict each other, with what would be right. `table` is that of
    /// their keys, and `unit` that of the times, if they are numbers.
    pub(crate) fn contradiction(&self, table: &str, rate_hz: Option<f64>, unit: Option<TimeUnit>) -> Option<String> {
        let (rate_hz, (median, mean)) = (rate_hz?, self.median_and_mean()?);
        let period = 1e9 / rate_hz;
        let (too_long, too_short) = (median.min(mean) / period, median.max(mean) / period);
        // A pause makes the mean long, and records in pairs make the median long: what is wrong shows in both.
        if too_long < CONTRADICTION && too_short > 1.0 / CONTRADICTION {
            return None;
        }
        let seen_hz = self.rate_hz()?;
        let hint = if let Some(right) = unit.and_then(|unit| unit.that_fits(1e9 / seen_hz, period)) {
            format!("is {table}.time_unit = \"{}\" right?", right.name())
        } else if let Some(unit) = unit.and_then(|unit| unit.longer_that_fits(1e9 / seen_hz, period)) {
            format!("the times seem to be {unit}: write them in seconds")
        } else {
            format!("write {table}.rate_hz = {}, or check the times", figure(seen_hz))
        };
        let (seen, rate, step) = (figure(seen_hz), figure(rate_hz), duration(median));
        Some(format!(
            "by its time the stream runs at {seen} Hz (its median step is {step}), but {table}.rate_hz is {rate}; {hint}"
        ))
    }
}

/// Writes nanoseconds in the unit that gives a short number.
fn duration(ns: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")];
    let (size, unit) = units.into_iter().find(|(size, _)| ns >= *size).unwrap_or((1.0, "ns"));
    format!("{} {unit}", figure(ns / size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: i64 = 1_000_000;

    fn passed(rule: EqualTimes, rate_hz: f64, times_ms: &[i64]) -> Vec<Option<i64>> {
        let mut times = Times::new(rule, Some(rate_hz));
        times_ms.iter().map(|ms| times.next(ms * MS).map(|ns| ns / MS)).collect()
    }

    #[test]
    fn equal_times_are_a_gap_or_spread_or_refused() {
        let seconds = [0, 0, 0, 1000, 1000, 2000];
        assert_eq!(passed(EqualTimes::Gap, 10.0, &seconds), seconds.map(Some));
        assert_eq!(passed(EqualTimes::Spread, 10.0, &seconds), [0, 100, 200, 1000, 1100, 2000].map(Some));
        let refused = [Some(0), None, None, Some(1000), None, Some(2000)];
        assert_eq!(passed(EqualTimes::Refuse, 10.0, &seconds), refused);
        assert_eq!(passed(EqualTimes::Spread, 10.0, &[5000, 5000, 1000, 1000]), [5000, 5100, 1000, 1100].map(Some));
    }

    proptest! {
        #[test]
        fn spread_times_go_on_as_long_as_the_written_ones_do_not_go_back(
            steps in prop::collection::vec(prop_oneof![3 => Just(0i64), 1 => 1i64..30], 1..100), rate_hz in 1.0..1000.0,
        ) {
            let mut times = Times::new(EqualTimes::Spread, Some(rate_hz));
            let (mut now, mut last) = (0, None);
            for step in steps {
                now += step * MS;
                let next = times.next(now).unwrap();
                prop_assert!(next >= now && last.is_none_or(|last| last < next));
                last = Some(next);
            }
        }
    }

    fn pace(times_ns: impl IntoIterator<Item = i64>) -> Pace {
        let mut pace = Pace::new(1000);
        times_ns.into_iter().for_each(|ns| pace.note(ns));
        pace
    }

    #[test]
    fn a_wrong_unit_or_rate_is_named_with_both_numbers() {
        let fast = pace((0..40).map(|i| i * 100_000));
        let said = fast.contradiction("records", Some(10.0), Some(TimeUnit::Ms)).unwrap();
        assert_eq!(
            said,
            "by its time the stream runs at 10000 Hz (its median step is 100 us), but records.rate_hz is 10; is \
             records.time_unit = \"s\" right?"
        );
        let double = pace((0..40).map(|i| i * 10 * MS));
        let said = double.contradiction("records", Some(50.0), Some(TimeUnit::S)).unwrap();
        assert!(said.contains("at 100 Hz (its median step is 10 ms)") && said.contains("rate_hz = 100, or"), "{said}");
        assert_eq!(double.contradiction("records", Some(100.0), None), None);
        let days = pace((0..40).map(|i| (f64::from(i) * 0.1 / 86_400.0 * 1e9).round() as i64));
        let said = days.contradiction("records", Some(10.0), Some(TimeUnit::S)).unwrap();
        assert!(
            said.ends_with("the times seem to be days, as dates in a spreadsheet are: write them in seconds"),
            "{said}"
        );
        let dates = pace((0..40).map(|i| i * 100_000 * MS));
        let said = dates.contradiction("records", Some(10.0), None).unwrap();
        assert!(said.ends_with("write records.rate_hz = 0.01, or check the times"), "dates have no unit: {said}");
        assert_eq!(double.contradiction("records", None, None), None);
    }

    #[test]
    fn jitter_pauses_pairs_and_whole_seconds_contradict_nothing() {
        let jitter = pace((0..100).map(|i| i * 100 * MS + (i % 3) * 20 * MS));
        let pauses = pace((0..100).map(|i| i * 100 * MS + i / 10 * 60_000 * MS));
        let pairs = pace((0..100).map(|i| i / 2 * 200 * MS));
        let seconds = pace((0..100).map(|i| i / 10 * 1000 * MS));
        for pace in [jitter, pauses, pairs, seconds] {
            assert_eq!(pace.contradiction("records", Some(10.0), Some(TimeUnit::S)), None);
        }
        let (still, back) = pace((0..40).map(|i| i / 10)).still_and_back();
        assert_eq!((still, back), (36, 0));
    }
}
