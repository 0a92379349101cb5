//! The distribution of durations, kept small however many there are, and its quantiles.
//!
//! Pure. A duration is kept with three digits, so a quantile is off by less than half a hundredth of a thousand.

/// Durations in nanoseconds, from the shortest to the longest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Each duration once, with the number of those that do not exceed it.
    up_to: Vec<(u64, u64)>,
}

impl Distribution {
    /// Makes the distribution of `durations` in nanoseconds, and sorts them for that.
    pub fn of(durations: &mut [u64]) -> Self {
        durations.sort_unstable();
        let mut up_to: Vec<(u64, u64)> = Vec::new();
        for (ns, count) in durations.iter().map(|ns| three_digits(*ns)).zip(1..) {
            match up_to.last_mut() {
                Some(last) if last.0 == ns => last.1 = count,
                _ => up_to.push((ns, count)),
            }
        }
        Self { up_to }
    }

    /// Returns how many durations there are.
    pub fn count(&self) -> u64 {
        self.up_to.last().map_or(0, |(_, count)| *count)
    }

    /// Returns the shortest duration that at least this part of all does not exceed; `None` if there is none.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        pooled_quantile(&[(self, 1)], part)
    }

    /// Returns each duration in nanoseconds with how often it came.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let before = std::iter::once(0).chain(self.up_to.iter().map(|(_, count)| *count));
        self.up_to.iter().zip(before).map(|((ns, count), before)| (*ns, count - before))
    }

    /// Returns how many durations do not exceed `ns`.
    fn count_up_to(&self, ns: u64) -> u64 {
        let above = self.up_to.partition_point(|(duration, _)| *duration <= ns);
        above.checked_sub(1).and_then(|last| self.up_to.get(last)).map_or(0, |(_, count)| *count)
    }
}

/// Returns the quantile of several distributions taken together, each so many times.
pub(super) fn pooled_quantile(distributions: &[(&Distribution, u64)], part: f64) -> Option<f64> {
    let total: u64 = distributions.iter().map(|(of, times)| of.count() * times).sum();
    let wanted = ((part * total as f64).ceil() as u64).clamp(1, total.max(1));
    let count_up_to = |ns: u64| distributions.iter().map(|(of, times)| of.count_up_to(ns) * times).sum::<u64>();
    let (mut low, mut high) = (0, distributions.iter().filter_map(|(of, _)| of.up_to.last()).map(|last| last.0).max()?);
    while low < high {
        let middle = low + (high - low) / 2;
        if count_up_to(middle) >= wanted { high = middle } else { low = middle + 1 }
    }
    Some(low as f64)
}

/// Rounds to the nearest number of three digits.
fn three_digits(ns: u64) -> u64 {
    let unit = 10u64.pow(ns.checked_ilog10().unwrap_or(0).saturating_sub(2));
    (ns.saturating_add(unit / 2)) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_digits() {
        let exact = [0, 7, 42, 999, 1000, 1234, 1235, 12_345, u64::MAX];
        let kept = [0, 7, 42, 999, 1000, 1230, 1240, 12_300, 18_400_000_000_000_000_000];
        assert_eq!(exact.map(three_digits), kept);
    }

    #[test]
    fn quantiles_are_durations_that_came() {
        let mut durations: Vec<u64> = (1..=100).rev().collect();
        let of = Distribution::of(&mut durations);
        assert_eq!([0.0, 0.5, 0.9, 0.99, 1.0].map(|part| of.quantile(part).unwrap()), [1.0, 50.0, 90.0, 99.0, 100.0]);
        assert_eq!((of.count(), of.counts().map(|(_, count)| count).sum::<u64>()), (100, 100));
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn several_taken_together_are_as_one() {
        let (mut few, mut many) = (vec![5, 5, 5], (10..20).collect::<Vec<u64>>());
        let mut all: Vec<u64> = few.iter().chain(&few).chain(&many).copied().collect();
        let (few, many, all) = (Distribution::of(&mut few), Distribution::of(&mut many), Distribution::of(&mut all));
        for part in [0.1, 0.3, 0.375, 0.4, 0.5, 0.99] {
            assert_eq!(pooled_quantile(&[(&few, 2), (&many, 1)], part), all.quantile(part), "{part}");
        }
    }
}
