//! Which values of a sensor are cut off at the end of a range that no one has told: the largest one comes again and again, while
//! others scatter.
//!
//! Pure: values and times are passed in.

use std::time::Duration;

use crate::units::MonoTime;

/// The largest share of equal neighbours of a sensor that has noise, over about so many changes. With a larger one, noise can
/// be so small that one level scatters and another does not, because it is between two steps.
pub(crate) const EQUAL_MAX: f64 = 0.42;
/// The share of the latest value in a mean over values with noise.
pub(crate) const NOISE_SHARE: f64 = 1.0 / 64.0;
/// Noise with that share of equal neighbours has its most frequent value up to so many times as often.
pub(crate) const MOST_FREQUENT: f64 = 1.5;
/// The largest value is the end of the range if it was shown so many times as often as the next smaller one, and so often that
/// this is as rare as that, if its noise is that of smaller values.
const CLIPPED_TIMES: u32 = 4;
const CLIPPED: f64 = 1e-5;
/// For so long after it was shown, it is waited for what it turns out to be.
const CLIPPED_DOUBT: Duration = Duration::from_secs(10);
const BELOW_MIN: u32 = 30;

/// What was expected instead of a value that is cut off.
pub(crate) const NOT_CLIPPED: &str =
    "other values: its largest value comes again and again while others scatter, so it is the end of its range";

/// How often the largest values were shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clipping {
    largest: Option<Largest>,
    next: Option<(i64, u32)>,
    /// Values below the largest: the last one, their number, and the share of equal neighbours.
    below: Option<i64>,
    below_count: u32,
    below_equal: f64,
    /// The smallest difference of two neighbours.
    step: Option<u64>,
}

/// The largest value, and how often and when it was shown.
#[derive(Debug, Clone, Copy)]
struct Largest {
    value: i64,
    hits: u32,
    first: MonoTime,
    last: MonoTime,
}

impl Clipping {
    /// Notes a new value, and returns since when values are cut off if this one is.
    pub(crate) fn note(&mut self, now: MonoTime, value: i64) -> Option<MonoTime> {
        let new = Largest { value, hits: 1, first: now, last: now };
        let largest = self.largest.get_or_insert(Largest { hits: 0, ..new });
        if value > largest.value {
            self.next = Some((largest.value, largest.hits));
            *largest = new;
            return None;
        }
        if value == largest.value {
            (largest.hits, largest.last) = (largest.hits.saturating_add(1), now);
            return self.chance().filter(|chance| *chance < CLIPPED).and(self.largest).map(|largest| largest.first);
        }
        self.next = match self.next {
            Some((next, hits)) if value == next => Some((next, hits.saturating_add(1))),
            Some((next, hits)) if value < next => Some((next, hits)),
            _ => Some((value, 1)),
        };
        let difference = self.below.replace(value).map_or(0, |before| value.abs_diff(before));
        if difference > 0 {
            self.step = Some(self.step.map_or(difference, |step| step.min(difference)));
        }
        let is_equal = difference == 0 && self.below_count > 0;
        self.below_count = self.below_count.saturating_add(1);
        self.below_equal +=
            (f64::from(u8::from(is_equal)) - self.below_equal) * NOISE_SHARE.max(1.0 / f64::from(self.below_count));
        None
    }

    /// Returns how rare it is that the largest value is shown as often as it was, if it is nothing but the largest value of
    /// noise; `None` if nothing tells that it is more.
    fn chance(&self) -> Option<f64> {
        let Largest { value, hits, .. } = self.largest?;
        let noise = self.noise();
        let next = self.next.filter(|(next, _)| (value.abs_diff(*next) as f64) < noise).map_or(0, |(_, hits)| hits);
        let scatters = self.below_count >= BELOW_MIN && self.below_equal < EQUAL_MAX;
        let is_frequent = hits >= CLIPPED_TIMES * next.max(1);
        (scatters && is_frequent).then(|| (MOST_FREQUENT * self.below_equal).powf(f64::from(hits)))
    }

    /// Returns how far apart two values of the same power can be: six standard deviations, if noise is normal. It has then an
    /// equal neighbour in 0.28 steps of each.
    fn noise(&self) -> f64 {
        let equal = self.below_equal.max(1.0 / f64::from(self.below_count.max(1)));
        6.0 * 0.28 * self.step.unwrap_or(0) as f64 / equal
    }

    /// Whether the largest value may be cut off, and was shown a short time ago.
    pub(crate) fn is_doubtful(&self, now: MonoTime) -> bool {
        let is_recent = self.largest.is_some_and(|largest| now.since(largest.last) < CLIPPED_DOUBT);
        is_recent && self.chance().is_some_and(|chance| chance >= CLIPPED)
    }
}
