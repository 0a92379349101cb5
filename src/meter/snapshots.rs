//! Which values of a sensor are new: from when they change.
//!
//! Pure: times and values are passed in. Owns how long one conversion takes, told by the driver or learned, and which values
//! look frozen. Leaves those that look cut off to `clipping`.

use std::time::Duration;

use super::clipping::{Clipping, EQUAL_MAX, MOST_FREQUENT, NOISE_SHARE};
use super::refresh::{LEARNING_MAX, pace_after};
use super::steps::{Step, Steps};
use crate::units::{MonoTime, duration_ns};

/// Learning ends after so many changes, or after fewer if they take longer than `ENOUGH`.
const CHANGES: u32 = 32;
const CHANGES_MIN: u32 = 4;
const ENOUGH: Duration = Duration::from_secs(1);
/// Learning ends after this time if the value has never changed.
const LEARNING_CONSTANT: Duration = Duration::from_secs(2);
/// The conversion of a sensor of which nothing is known: slow ones are refreshed once a second.
const CONSERVATIVE: Duration = Duration::from_secs(1);

/// A value is new if it has changed after this part of a conversion, or after that many conversions.
const CHANGED_AFTER: f64 = 0.8;
const SAME_AFTER: f64 = 1.5;

/// A slower refresh is believed after so many changes in succession that came at a steady pace.
const STEADY: u32 = 6;
const STEADY_SPREAD: f64 = 1.5;

/// Whether a sensor has noise is known after so many changes.
const NOISE_CHANGES: u32 = 50;
/// Equal values do not count until the run of them ends, if so long a run is as rare as this.
const DOUBTFUL: f64 = 0.01;
/// A longer run counts as one of that length: if the value was frozen, it tells nothing of the noise.
const REPEATS_MAX: f64 = 64.0;
/// A value is frozen if a run of equal values is as rare as this, after this time and so many conversions, and so many times
/// the longest run before.
const FROZEN: f64 = 1e-9;
const FROZEN_MIN: Duration = Duration::from_secs(2);
const FROZEN_CONVERSIONS: u32 = 10;
const FROZEN_RUNS: u32 = 5;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Seen {
    /// A new one, from a conversion that ended at most `late` before it was read.
    New { late: Duration },
    /// The conversion was counted before, or the value may be frozen.
    Repeat,
    /// The value that might have been frozen was shown until then; the one that has just come counts the next time.
    Held { until: MonoTime },
    /// It may be cut off.
    Doubtful,
    /// It is not known yet how long a conversion takes.
    Learning,
    /// It has not changed for so long, though values changed with each conversion before.
    Frozen { since: Duration },
    /// The largest one, which was shown again and again since `since` while others scatter.
    Clipped { since: MonoTime },
}

/// How the length of a conversion is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Told,
    Learned,
    /// The value never changed.
    Assumed,
}

/// The values of one sensor.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    told: Option<Duration>,
    /// The least that a conversion can take, whatever is learned.
    least: Duration,
    learned: Option<Duration>,
    begun: Option<MonoTime>,
    is_learned: bool,
    /// The last reading, and the time since the one before.
    polled: MonoTime,
    gap: Duration,
    value: i64,
    /// The reading that first had this value, and the time since the reading before that.
    since: MonoTime,
    late: Duration,
    /// The reading of the last new value.
    counted: Option<MonoTime>,
    changes: u32,
    /// The shortest time in which the value changed twice, while it is learned.
    shortest: Option<Duration>,
    /// Changes in succession with equal readings between them: their number, the shortest time, and the sum.
    steady: (u32, Duration, Duration),
    /// How many conversions gave the same value again in this run; the mean of that over runs; the longest run.
    repeats: f64,
    mean_repeats: f64,
    longest_run: Duration,
    clipping: Clipping,
    steps: Steps,
}

impl Snapshots {
    /// Creates the state of a sensor; `told` is the length of a conversion if it is known, `least` the shortest possible.
    pub fn new(told: Option<Duration>, least: Duration) -> Self {
        Self { told, least, is_learned: told.is_some(), ..Self::default() }
    }

    /// Takes over the length of a conversion that the driver shows now.
    pub(crate) fn tell(&mut self, told: Option<Duration>) {
        if told.is_some() {
            (self.told, self.is_learned) = (told, true);
        }
    }

    /// Evaluates a value read at `now`.
    pub fn poll(&mut self, now: MonoTime, value: i64) -> Seen {
        let Some(begun) = self.begun else {
            (self.begun, self.polled, self.since, self.value) = (Some(now), now, now, value);
            self.late = self.conversion();
            if !self.is_learned {
                return Seen::Learning;
            }
            self.counted = Some(now);
            self.clipping.note(now, value);
            return Seen::New { late: self.late };
        };
        let gap = now.since(self.polled);
        let is_changed = value != self.value;
        let held = self.held_until().filter(|_| is_changed);
        if is_changed {
            self.change(now, gap, value);
        }
        self.polled = now;
        if !self.is_learned {
            self.is_learned = self.has_learned(now.since(begun));
            if !self.is_learned {
                return Seen::Learning;
            }
            self.learned = self.shortest;
            self.steps.learn();
        }
        self.gap = gap;
        if let Some(until) = held {
            self.counted = Some(until);
            return Seen::Held { until };
        }
        self.judge(now, gap, is_changed)
    }

    /// Evaluates the value of a conversion that ended since the last one, as the sensor tells.
    pub(crate) fn converted(&mut self, now: MonoTime, value: i64) -> Seen {
        let gap = now.since(self.polled);
        let (late, held) = (gap.min(self.conversion()), self.held_until());
        if self.begun.is_none() {
            (self.begun, self.since, self.value, self.polled) = (Some(now), now, value, now);
            return self.count(now, late);
        }
        if value == self.value {
            (self.polled, self.gap, self.repeats) = (now, gap, self.repeats + 1.0);
            return self.repeated(now, late);
        }
        self.change(now, gap, value);
        (self.polled, self.gap) = (now, gap);
        held.map_or_else(|| self.count(now, late), |until| Seen::Held { until })
    }

    /// Notes that the value has changed.
    fn change(&mut self, now: MonoTime, gap: Duration, value: i64) {
        let still = self.polled.since(self.since);
        // The conversions ended up to one gap before the reading that showed each of them.
        let most = now.since(self.since) + self.late;
        self.steps.add(value.abs_diff(self.value));
        if self.changes >= CHANGES && self.changes.is_power_of_two() {
            self.steps.learn();
        }
        if self.changes > 0 {
            self.shortest = Some(self.shortest.map_or(most, |shortest| shortest.min(most)));
            let repeats = std::mem::take(&mut self.repeats).min(REPEATS_MAX);
            self.mean_repeats += (repeats - self.mean_repeats) * NOISE_SHARE.max(1.0 / f64::from(self.changes));
            self.longest_run = self.longest_run.mul_f64(0.99).max(still);
            self.watch_pace(still, most);
        }
        self.changes = self.changes.saturating_add(1);
        (self.value, self.since, self.late) = (value, now, gap);
    }

    /// Adopts a faster refresh at once, and a slower one if the value changes at a steady pace.
    fn watch_pace(&mut self, still: Duration, most: Duration) {
        if self.is_learned && self.learned.is_some_and(|learned| most < learned) {
            self.learned = if self.told.is_some() { None } else { Some(most) };
        }
        if still.is_zero() {
            self.steady = (0, Duration::ZERO, Duration::ZERO);
            return;
        }
        let (count, shortest, sum) = self.steady;
        let shortest = if count == 0 { most } else { shortest.min(most) };
        self.steady = (count + 1, shortest, sum + most);
        let (count, shortest, sum) = self.steady;
        if count >= STEADY {
            let is_steady = sum < (shortest * count).mul_f64(STEADY_SPREAD);
            if self.is_learned && is_steady && shortest > self.conversion().mul_f64(SAME_AFTER) {
                self.learned = Some(shortest);
            }
            self.steady = (0, Duration::ZERO, Duration::ZERO);
        }
    }

    fn has_learned(&self, learned_for: Duration) -> bool {
        self.changes >= CHANGES
            || (self.changes >= CHANGES_MIN && learned_for >= ENOUGH)
            || learned_for >= LEARNING_MAX
            || (self.changes == 0 && learned_for >= LEARNING_CONSTANT)
    }

    fn judge(&mut self, now: MonoTime, gap: Duration, is_changed: bool) -> Seen {
        let conversion = self.conversion();
        let age = self.counted.map_or(Duration::MAX, |counted| now.since(counted));
        let late = gap.min(conversion);
        if !is_changed && now.since(self.since) >= conversion {
            self.repeats += (gap.as_secs_f64() / conversion.as_secs_f64()).min(1.0);
        }
        let is_due = age >= conversion.mul_f64(CHANGED_AFTER);
        // In a moving average, the change may have been seen before it was due.
        let is_new = is_due && (is_changed || self.counted.is_some_and(|counted| self.since > counted));
        if is_new {
            return self.count(now, late);
        }
        if age < conversion.mul_f64(SAME_AFTER) {
            return Seen::Repeat;
        }
        self.repeated(now, late)
    }

    /// Evaluates a conversion that gave the value of the one before.
    fn repeated(&mut self, now: MonoTime, late: Duration) -> Seen {
        let still = now.since(self.since);
        let limit = FROZEN_MIN.max(self.conversion() * FROZEN_CONVERSIONS).max(self.longest_run * FROZEN_RUNS);
        if still >= limit && self.chance_of_run() < FROZEN {
            return Seen::Frozen { since: still };
        }
        if self.is_doubtful() { Seen::Repeat } else { self.count(now, late) }
    }

    /// Counts a new value, unless it is cut off.
    fn count(&mut self, now: MonoTime, late: Duration) -> Seen {
        self.counted = Some(now);
        match self.clipping.note(now, self.value) {
            Some(since) => Seen::Clipped { since },
            None if self.clipping.is_doubtful(now) => Seen::Doubtful,
            None => Seen::New { late },
        }
    }

    fn is_doubtful(&self) -> bool {
        self.chance_of_run() < DOUBTFUL
    }

    /// Returns when the last conversion ended that gave the value which is held back.
    fn held_until(&self) -> Option<MonoTime> {
        let late = self.gap.min(self.conversion());
        self.is_doubtful().then(|| MonoTime(self.polled.0.saturating_sub(duration_ns(late) / 2)))
    }

    /// Returns how rare a run of equal values as long as this one is; 1 if the sensor has no noise.
    fn chance_of_run(&self) -> f64 {
        let equal = self.mean_repeats / (1.0 + self.mean_repeats);
        let has_noise = self.changes >= NOISE_CHANGES && equal < EQUAL_MAX;
        if has_noise { (MOST_FREQUENT * equal).powf(self.repeats) } else { 1.0 }
    }

    /// Returns how long a conversion takes: the time over which a value is the mean, and after which there is a new one.
    pub fn conversion(&self) -> Duration {
        let known = match (self.told, self.learned) {
            (None, None) => CONSERVATIVE,
            (told, learned) => told.max(learned).unwrap_or(CONSERVATIVE),
        };
        known.max(self.least)
    }

    /// Returns how that is known.
    pub(crate) fn known(&self) -> Known {
        match (self.told, self.learned) {
            (told, Some(learned)) if told.is_none_or(|told| learned > told) => Known::Learned,
            (Some(_), _) => Known::Told,
            _ => Known::Assumed,
        }
    }

    /// Returns how soon to read the sensor again, as long as it is learned.
    pub fn pace(&self) -> Option<Duration> {
        (!self.is_learned).then(|| pace_after(self.polled.since(self.since)))
    }

    /// Returns the largest step, in their unit, in which values can come; `None` if none has changed. It is known if changes
    /// differ, or if many are equal; until then it is at most the smallest change.
    pub fn step(&self) -> Option<f64> {
        let is_enough = self.steps.count() > 1 || self.changes >= CHANGES;
        self.steps.known().filter(|_| is_enough).map(Step::largest).or_else(|| self.steps.smallest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Noise that is the same in each run (splitmix64).
    fn noise(index: u64) -> i64 {
        let mut mixed = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as i64 % 100_000
    }

    /// Polls every 100 ms from `from` on, with the value that `of` gives for each poll; returns what each one was.
    fn run(sensor: &mut Snapshots, from: u64, polls: u64, of: impl Fn(u64) -> i64) -> Vec<Seen> {
        (0..polls).map(|poll| sensor.poll(MonoTime((from + poll * 100) * MS), of(poll))).collect()
    }

    fn count(seen: &[Seen], what: impl Fn(&Seen) -> bool) -> usize {
        seen.iter().filter(|seen| what(seen)).count()
    }

    fn is_new(seen: &Seen) -> bool {
        matches!(seen, Seen::New { .. })
    }

    /// Learns at the pace that is asked for a sensor whose value changes each `period_ms`.
    fn learn(period_ms: u64) -> (Snapshots, u64) {
        let (mut sensor, mut now) = (Snapshots::new(None, Duration::ZERO), 5_003 * MS);
        let of = |now: u64| noise(now / (period_ms * MS));
        assert_eq!(sensor.poll(MonoTime(now), of(now)), Seen::Learning);
        while let Some(pace) = sensor.pace() {
            now += u64::try_from(pace.as_nanos()).unwrap() + 50_000;
            sensor.poll(MonoTime(now), of(now));
        }
        (sensor, now)
    }

    #[test]
    fn each_poll_of_a_fast_sensor_is_new_also_if_it_is_constant() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        assert!(run(&mut sensor, 0, 300, |_| 3_000_000).iter().all(is_new), "it never showed noise");
        assert_eq!((sensor.known(), sensor.step()), (Known::Told, None));
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        assert!(run(&mut sensor, 0, 300, noise).iter().all(is_new));
        assert_eq!(sensor.poll(MonoTime(29_950 * MS), 1), Seen::New { late: Duration::from_micros(532) });
    }

    #[test]
    fn a_refresh_is_learned() {
        for period_ms in [10, 100, 1000] {
            let (sensor, now) = learn(period_ms);
            let learned = sensor.conversion().as_secs_f64() * 1e3 / period_ms as f64;
            assert!((0.9..1.2).contains(&learned), "{learned} of {period_ms} ms");
            assert!(now < 9_300 * MS && sensor.known() == Known::Learned, "{now}");
        }
    }

    #[test]
    fn a_snapshot_that_is_cached_for_a_second_counts_once() {
        let (mut sensor, now) = learn(1000);
        let from = now / MS + 100;
        let seen = run(&mut sensor, from, 200, |poll| noise((from + poll * 100) / 1000));
        assert!((19..=21).contains(&count(&seen, is_new)), "{seen:?}");
        let late = Seen::New { late: ms(100) };
        assert!(count(&seen, |seen| *seen == late) >= 18, "it was converted between two polls: {seen:?}");
    }

    #[test]
    fn a_driver_that_caches_although_the_chip_is_fast_is_noticed() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 100, |poll| noise(poll / 10));
        assert_eq!(sensor.known(), Known::Learned);
        assert!((1000..1200).contains(&sensor.conversion().as_millis()), "{:?}", sensor.conversion());
        let seen = run(&mut sensor, 10_000, 100, |poll| noise(100 + poll / 10));
        assert!((9..=11).contains(&count(&seen, is_new)), "{seen:?}");
        // It caches no longer.
        run(&mut sensor, 20_000, 3, |poll| noise(1000 + poll));
        assert_eq!(sensor.known(), Known::Told);
    }

    #[test]
    fn a_moving_average_is_thinned_to_one_reading_a_length() {
        let mut sensor = Snapshots::new(Some(ms(1000)), Duration::ZERO);
        let seen = run(&mut sensor, 0, 400, |poll| poll as i64);
        assert!((40..=50).contains(&count(&seen, is_new)), "{}", count(&seen, is_new));
    }

    #[test]
    fn one_value_for_a_long_time_is_frozen_if_there_was_noise() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 100, noise);
        let seen = run(&mut sensor, 10_000, 200, |_| 7);
        assert_eq!(count(&seen, is_new), 1, "what it shows while it is frozen is not counted before this is known");
        assert!(matches!(seen[20], Seen::Frozen { .. }) && matches!(seen[199], Seen::Frozen { .. }), "{seen:?}");
        assert!(run(&mut sensor, 30_000, 5, noise)[1..].iter().all(is_new));
        let mut coarse = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut coarse, 0, 300, |poll| noise(poll) / 50_000);
        assert!(run(&mut coarse, 30_000, 300, |_| 1).iter().all(is_new), "its steps are larger than its noise");
    }

    /// A chip that tells of each conversion: how long it takes does not matter.
    #[test]
    fn what_a_chip_tells_to_be_new_is_new_unless_it_is_frozen_or_cut_off() {
        let told = |from: u64, sensor: &mut Snapshots, of: &dyn Fn(u64) -> i64| -> Vec<Seen> {
            (0..200).map(|poll| sensor.converted(MonoTime((from + poll * 30) * MS), of(poll))).collect()
        };
        let new = || Snapshots::new(Some(ms(69)), Duration::ZERO);
        assert!(told(0, &mut new(), &|_| 6_000).iter().all(is_new), "it never showed noise");
        let mut sensor = new();
        assert!(told(0, &mut sensor, &noise).iter().all(is_new));
        let seen = told(6_000, &mut sensor, &|_| 7);
        assert_eq!(count(&seen, is_new), 1, "{seen:?}");
        assert!(matches!(seen[199], Seen::Frozen { .. }));
        let clipped = |poll: u64| if poll.is_multiple_of(4) { 3_200_000 } else { noise(poll) };
        let seen = told(0, &mut new(), &clipped);
        assert!(count(&seen, |seen| matches!(seen, Seen::Clipped { .. })) > 30, "{seen:?}");
    }

    #[test]
    fn values_that_are_cut_off_are_refused() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        let clipped = |poll: u64| if poll.is_multiple_of(4) { 3_200_000 } else { noise(poll) };
        let seen = run(&mut sensor, 0, 200, clipped);
        let refused = count(&seen, |seen| matches!(seen, Seen::Clipped { .. }));
        assert!((35..=46).contains(&refused), "{refused}");
        assert!(seen.iter().enumerate().all(|(poll, seen)| !matches!(seen, Seen::Clipped { .. }) || poll % 4 == 0));
        // Without noise elsewhere, two levels are two loads.
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        let levels = run(&mut sensor, 0, 400, |poll| if poll % 4 == 0 { 5 } else { 2 });
        assert!(levels.iter().all(is_new));
        // Noise of a few steps has its largest value again and again, but the next smaller one more often.
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        let few = run(&mut sensor, 0, 1000, |poll| (noise(poll) + noise(poll + 5000)) / 10_000);
        assert_eq!(count(&few, |seen| matches!(seen, Seen::Clipped { .. })), 0);
    }

    /// Noise of about one step: a third of the values are equal to the one before.
    #[test]
    fn values_that_are_cut_off_are_found_among_coarse_ones() {
        let coarse = |poll: u64| 600 + (0..4).map(|part| noise(4 * poll + part)).sum::<i64>() / 70_000;
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        let is_load = |poll: u64| poll % 8 < 2;
        let seen = run(&mut sensor, 0, 400, |poll| if poll >= 200 && is_load(poll) { 800 } else { coarse(poll) });
        assert!(seen[..200].iter().all(|seen| is_new(seen) || matches!(seen, Seen::Repeat | Seen::Held { .. })));
        let first = seen.iter().position(|seen| matches!(seen, Seen::Clipped { .. })).unwrap();
        assert_eq!(seen[first], Seen::Clipped { since: MonoTime(20_000 * MS) });
        let doubted = seen.iter().position(|seen| *seen == Seen::Doubtful).unwrap();
        let believed = (200..doubted).filter(|poll| is_load(*poll as u64)).count();
        assert!(believed < 5 && first < 280, "{believed} {first}");
        assert!(!seen[doubted..first].iter().any(is_new), "nothing counts until it is known");
        // A load that scatters like the rest is a load.
        let load = |poll: u64| if is_load(poll) { 200 } else { 0 } + coarse(poll);
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        let loaded = run(&mut sensor, 0, 2000, load);
        assert_eq!(count(&loaded, |seen| matches!(seen, Seen::Clipped { .. })), 0);
        assert!(count(&loaded, is_new) > 1900, "{}", count(&loaded, is_new));
    }

    #[test]
    fn a_value_that_is_frozen_among_coarse_ones_is_not_counted() {
        let coarse = |poll: u64| 600 + (0..4).map(|part| noise(4 * poll + part)).sum::<i64>() / 70_000;
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 200, coarse);
        let seen = run(&mut sensor, 20_000, 100, |_| 603);
        assert!(count(&seen, is_new) < 15 && matches!(seen[99], Seen::Frozen { .. }), "{seen:?}");
        // A run that ends in time was no fault: its power was shown until the reading before its end.
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 200, coarse);
        run(&mut sensor, 20_000, 18, |_| 603);
        let held = Seen::Held { until: MonoTime(21_700 * MS - 266_000) };
        assert_eq!(sensor.poll(MonoTime(21_800 * MS), 601), held);
        assert!(is_new(&sensor.poll(MonoTime(21_900 * MS), 601)), "the value that ended the run counts, too");
    }

    #[test]
    fn until_its_step_is_known_it_is_at_most_the_smallest_change() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 20, |poll| if poll < 10 { 480_000 } else { 490_000 });
        assert_eq!(sensor.step(), Some(10_000.0));
    }

    #[test]
    fn the_step_of_values_is_learned() {
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 200, |poll| noise(poll) / 500 * 500);
        assert_eq!(sensor.step().map(f64::round), Some(500.0));
        // Little noise between coarse steps: each change is one step.
        let mut sensor = Snapshots::new(Some(Duration::from_micros(532)), Duration::ZERO);
        run(&mut sensor, 0, 200, |poll| if poll.is_multiple_of(3) { 3_000_500 } else { 3_000_000 });
        assert!(sensor.step().is_some_and(|step| (step - 500.0).abs() < 2.0), "{:?}", sensor.step());
    }

    #[test]
    fn a_sensor_that_never_changes_is_assumed_to_be_slow() {
        let mut sensor = Snapshots::new(None, Duration::ZERO);
        let seen = run(&mut sensor, 0, 100, |_| 4_000_000);
        assert_eq!(count(&seen, |seen| *seen == Seen::Learning), 20);
        assert_eq!((sensor.known(), sensor.conversion()), (Known::Assumed, ms(1000)));
        assert!(count(&seen, is_new) >= 5, "{seen:?}");
    }
}
