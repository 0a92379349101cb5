//! Intervals from rounds: what a value would be in other rounds, and whether two cells differ.
//!
//! Pure. A round is what is repeated: within a round, durations depend on each other, because the machine was as it was then.
//! So rounds are resampled, never single durations (cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their
//! Application, 3.8). Differences use ranks (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3.1 and 4.1),
//! which a few disturbed rounds do not move.

use serde::{Deserialize, Serialize};

use crate::energy::runs::student;

/// The probability that an interval leaves out.
pub const OUTSIDE: f64 = 0.05;
/// The number of resamples of a bootstrap.
const RESAMPLES: usize = 1000;
const SEED: u64 = 0x65_64_67_65;

/// A value with the interval that holds it in 95 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    /// `None` after a single round: it does not show how far rounds differ.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Estimate {
    /// Returns the same estimate in another unit, `factor` of which are one of the old.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            low: self.low.map(|low| low * factor),
            high: self.high.map(|high| high * factor),
        }
    }
}

/// splitmix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators): the same numbers each time.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        ((u128::from(bits) * end as u128) >> 64) as usize
    }

    /// Returns a number of the normal distribution with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.part().ln()).sqrt() * (std::f64::consts::TAU * self.part()).cos()
    }

    /// Returns a number between 0 and 1.
    pub fn part(&mut self) -> f64 {
        (self.below(1 << 32) as f64 + 0.5) / (1u64 << 32) as f64
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Returns the value over all rounds, with its interval. `value` gets how often each round counts.
///
/// The bootstrap's interval is too narrow for few rounds; it is widened as Student's distribution is wider than the normal one.
pub fn bootstrap(rounds: usize, value: impl Fn(&[u64]) -> Option<f64>) -> Option<Estimate> {
    let all = value(&vec![1; rounds])?;
    if rounds < 2 {
        return Some(Estimate { value: all, low: None, high: None });
    }
    let mut dice = Dice::new(SEED);
    let mut drawn: Vec<f64> = Vec::with_capacity(RESAMPLES);
    let mut times = vec![0; rounds];
    for _ in 0..RESAMPLES {
        times.fill(0);
        for _ in 0..rounds {
            times[dice.below(rounds)] += 1;
        }
        drawn.extend(value(&times));
    }
    drawn.sort_by(f64::total_cmp);
    let at = |part: f64| drawn.get((part * drawn.len() as f64) as usize).copied();
    let (low, high) = (at(OUTSIDE / 2.0)?, at(1.0 - OUTSIDE / 2.0)?);
    let count = rounds as f64;
    let wider = student(count - 1.0) / student(f64::INFINITY) * (count / (count - 1.0)).sqrt();
    // By factors, because times and rates are above 0 and have longer tails upwards.
    let bound = |drawn: f64| if all > 0.0 && drawn > 0.0 { all * (drawn / all).powf(wider) } else { drawn };
    Some(Estimate { value: all, low: Some(bound(low.min(all))), high: Some(bound(high.max(all))) })
}

/// Returns the mean with the interval of Student's distribution; `None` without values.
pub fn mean(values: &[f64]) -> Option<Estimate> {
    let count = values.len() as f64;
    let value = (count > 0.0).then(|| values.iter().sum::<f64>() / count)?;
    if values.len() < 2 {
        return Some(Estimate { value, low: None, high: None });
    }
    let variance = values.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (count - 1.0);
    let half = student(count - 1.0) * (variance / count).sqrt();
    Some(Estimate { value, low: Some(value - half), high: Some(value + half) })
}

/// What two cells differ by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The value of the one, divided by that of the other.
    pub ratio: f64,
    /// What the ratio lies between in 95 of 100 cases, and over all comparisons made together.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Difference {
    /// Returns whether the interval says that the two differ. Without an interval nothing is said.
    pub fn is_real(self) -> bool {
        self.low.is_some_and(|low| low > 1.0) || self.high.is_some_and(|high| high < 1.0)
    }
}

/// Returns the ratio of two cells that ran in the same rounds: `pairs` has what each round gave for the one and the other.
/// `comparisons` are made together, and all of them are to be right in 95 of 100 cases.
pub fn paired(pairs: &[(f64, f64)], comparisons: usize) -> Option<Difference> {
    let logs: Vec<f64> = pairs.iter().filter_map(|(one, other)| log_ratio(*one, *other)).collect();
    let count = logs.len();
    // The means of all pairs of rounds, each with itself, too.
    let mut means: Vec<f64> =
        (0..count).flat_map(|a| (a..count).map(move |b| (a, b))).map(|(a, b)| (logs[a] + logs[b]) / 2.0).collect();
    means.sort_by(f64::total_cmp);
    let below = signed_rank_counts(count);
    difference(&means, &below, comparisons)
}

/// Returns the ratio of two cells that ran at different times: what their rounds gave.
pub fn unpaired(one: &[f64], other: &[f64], comparisons: usize) -> Option<Difference> {
    let mut ratios: Vec<f64> =
        one.iter().flat_map(|one| other.iter().filter_map(move |other| log_ratio(*one, *other))).collect();
    ratios.sort_by(f64::total_cmp);
    let below = rank_sum_counts(one.len(), other.len());
    difference(&ratios, &below, comparisons)
}

fn log_ratio(one: f64, other: f64) -> Option<f64> {
    (one > 0.0 && other > 0.0).then(|| (one / other).ln())
}

/// Returns the median of `sorted` logarithms, and the interval that leaves out as few as the distribution `counts` of the
/// number of logarithms below the truth allows.
fn difference(sorted: &[f64], counts: &[f64], comparisons: usize) -> Option<Difference> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    let median = if sorted.len().is_multiple_of(2) { (sorted[middle.checked_sub(1)?] + upper) / 2.0 } else { *upper };
    let total: f64 = counts.iter().sum();
    let allowed = OUTSIDE / comparisons.max(1) as f64 / 2.0;
    let mut sum = 0.0;
    let out = counts
        .iter()
        .take_while(|count| {
            sum += **count;
            sum / total <= allowed
        })
        .count();
    let bound = |place: usize| sorted.get(place).map(|log| log.exp());
    let (low, high) = match out.checked_sub(1) {
        Some(place) => (bound(place), bound(sorted.len() - 1 - place)),
        None => (None, None),
    };
    Some(Difference { ratio: median.exp(), low, high })
}

/// Returns in how many of the cases each value of the signed-rank statistic comes, for so many pairs.
fn signed_rank_counts(pairs: usize) -> Vec<f64> {
    let mut counts = vec![0.0; pairs * (pairs + 1) / 2 + 1];
    counts[0] = 1.0;
    for rank in 1..=pairs {
        for sum in (rank..counts.len()).rev() {
            counts[sum] += counts[sum - rank];
        }
    }
    counts
}

/// Returns in how many of the cases each value of the rank-sum statistic comes: the coefficients of the Gaussian binomial.
fn rank_sum_counts(one: usize, other: usize) -> Vec<f64> {
    let mut counts = vec![0.0; one * other + 1];
    counts[0] = 1.0;
    for k in 1..=one {
        // Multiply by 1 - q^(other + k), then divide by 1 - q^k.
        for sum in (other + k..counts.len()).rev() {
            counts[sum] -= counts[sum - other - k];
        }
        for sum in k..counts.len() {
            counts[sum] += counts[sum - k];
        }
    }
    counts
}

/// Returns the part of `count` cases in which something held, with Wilson's interval (Brown, Cai and DasGupta, Interval
/// Estimation for a Binomial Proportion); `None` without cases.
pub fn proportion(held: usize, count: usize) -> Option<Estimate> {
    let n = (count > 0).then_some(count as f64)?;
    let (p, z) = (held as f64 / n, student(f64::INFINITY));
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Some(Estimate { value: p, low: Some((middle - half).max(0.0)), high: Some((middle + half).min(1.0)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_statistics_have_the_distributions_of_tables() {
        // All 8 signs of three ranks; all 6 ways to choose two of four.
        assert_eq!(signed_rank_counts(3), [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(rank_sum_counts(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(rank_sum_counts(5, 7).iter().sum::<f64>(), 792.0);
    }

    #[test]
    fn a_difference_needs_rounds_enough_and_more_of_them_for_more_comparisons() {
        let pairs = |count: usize| (0..count).map(|i| (1.1 + 0.001 * i as f64, 1.0)).collect::<Vec<_>>();
        assert!(!paired(&pairs(5), 1).unwrap().is_real(), "2 of 32 cases are as extreme");
        assert!(paired(&pairs(6), 1).unwrap().is_real());
        assert!(!paired(&pairs(6), 10).unwrap().is_real());
        assert_eq!(paired(&[], 1), None);
        let one: Vec<f64> = pairs(6).iter().map(|pair| pair.0).collect();
        assert!(unpaired(&one, &[1.0; 6], 1).unwrap().is_real());
        assert!(!unpaired(&one[..3], &[1.0; 3], 1).unwrap().is_real());
    }

    #[test]
    fn one_disturbed_round_hides_no_difference() {
        let mut pairs: Vec<(f64, f64)> = (0..12).map(|i| (1.05 + 0.002 * f64::from(i % 3), 1.0)).collect();
        pairs[4] = (1.05, 7.0);
        let found = paired(&pairs, 1).unwrap();
        assert!(found.is_real() && (1.03..1.07).contains(&found.ratio), "{found:?}");
    }

    #[test]
    fn wilsons_interval_is_that_of_the_paper() {
        let of = proportion(0, 10).unwrap();
        assert!(of.low == Some(0.0) && (of.high.unwrap() - 0.2775).abs() < 1e-3, "{of:?}");
    }
}
