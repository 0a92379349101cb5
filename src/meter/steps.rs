//! In which steps a value comes: the largest number of which all changes seen so far are multiples.
//!
//! Pure: whole numbers are passed in, in the unit of the file, which rounds each value to a whole number.

/// Different changes that are kept, the smallest ones seen: they tell fine steps best.
const KEPT: usize = 16;

/// A change between two values that are both rounded is off by less than one.
const ROUNDING: f64 = 1.01;

/// A step is believed if chance finds one as good in fewer than so many cases.
const CHANCE_MAX: f64 = 0.01;

/// Steps that are smaller are lost in the rounding.
const SMALLEST: f64 = 4.0;

/// Most numbers of steps in the smallest change that are tried.
const NUMBERS: u64 = 2_000;

/// In what steps a value comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Step {
    /// Exactly these, in the unit of the values.
    Exactly(f64),
    /// Smaller ones than that, because larger ones would have been recognized.
    Below(f64),
}

impl Step {
    /// Returns the largest step that it can be.
    pub(crate) fn largest(self) -> f64 {
        let (Self::Exactly(step) | Self::Below(step)) = self;
        step
    }
}

/// The changes of a value, and the step that they have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    /// Different changes, sorted; the first `count` are in use.
    changes: [u64; KEPT],
    count: usize,
    known: Option<Step>,
}

impl Steps {
    /// Adds a change of the value by `change`, which is not 0; computes the common step again if this change does not have it.
    pub(crate) fn add(&mut self, change: u64) {
        if let Some(place) = self.place(change) {
            self.count = (self.count + 1).min(KEPT);
            if let Some(moved) = self.changes.get_mut(place..self.count) {
                moved.rotate_right(1);
                if let Some(first) = moved.first_mut() {
                    *first = change;
                }
            }
        }
        if self.known.is_some_and(|known| matches!(known, Step::Exactly(step) if !is_multiple(change, step))) {
            self.learn();
        }
    }

    /// Returns where a change belongs among those that are kept; `None` if it is among them or larger than all of them.
    fn place(&self, change: u64) -> Option<usize> {
        let kept = self.changes.get(..self.count).unwrap_or_default();
        kept.binary_search(&change).err().filter(|place| *place < KEPT)
    }

    /// Computes the common step from the changes so far.
    pub(crate) fn learn(&mut self) {
        self.known = common(self.changes.get(..self.count).unwrap_or_default());
    }

    pub(crate) fn known(&self) -> Option<Step> {
        self.known
    }

    /// Returns the smallest change so far; no step is larger.
    pub(crate) fn smallest(&self) -> Option<f64> {
        self.changes.first().filter(|_| self.count > 0).map(|change| *change as f64)
    }

    /// Returns how many different changes there were, up to those that are kept.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// Returns whether a change is a multiple of a step that is known to a thousandth: larger multiples are not judged.
fn is_multiple(change: u64, step: f64) -> bool {
    let change = change as f64;
    let multiple = (change / step).round();
    multiple * step * 1e-3 > step / 4.0 || (change - multiple * step).abs() <= ROUNDING + multiple * step * 1e-3
}

/// Returns the largest number of which all `changes`, sorted, are multiples within their rounding.
///
/// The smallest change is some number of steps. Each number is tried, with the bounds of the step that follow from the changes
/// so far. What chance would accept as well adds up over the numbers tried.
fn common(changes: &[u64]) -> Option<Step> {
    let smallest = *changes.first()? as f64;
    // The difference of two changes is a multiple, too.
    let differences = changes.iter().zip(changes.iter().skip(1)).map(|(a, b)| b.abs_diff(*a) as f64 + 2.0 * ROUNDING);
    let most_step = differences.filter(|step| *step > 4.0 * ROUNDING).fold(smallest + ROUNDING, f64::min);
    let fewest = (smallest / most_step).ceil().max(1.0) as u64;
    let most = ((smallest / SMALLEST).floor() as u64).clamp(fewest, fewest + NUMBERS);
    let mut chance = 0.0;
    for number in fewest..=most {
        let step = smallest / number as f64;
        let bounds = [(smallest - ROUNDING) / number as f64, (smallest + ROUNDING) / number as f64];
        chance += by_chance(changes, bounds);
        // With a single change, or equal ones, the step is that change or a part of it.
        if changes.len() > 1 && chance > CHANCE_MAX {
            return Some(Step::Below(step.min(most_step)));
        }
        if let Some([low, high]) = fit(changes, bounds) {
            return Some(Step::Exactly((low + high) / 2.0));
        }
    }
    Some(Step::Below((smallest / most as f64).max(SMALLEST)))
}

/// Returns the share of all values that would be multiples of a step within these bounds, if they had no step.
fn by_chance(changes: &[u64], [low, high]: [f64; 2]) -> f64 {
    let mut share = 1.0;
    for &change in changes.iter().skip(1) {
        let change = change as f64;
        share *= ((change + ROUNDING) / low - (change - ROUNDING) / high).clamp(0.0, 1.0);
        // The rest makes no difference.
        if share < 1e-9 {
            break;
        }
    }
    share
}

/// Returns the bounds of the step if all changes are multiples of it.
fn fit(changes: &[u64], [mut low, mut high]: [f64; 2]) -> Option<[f64; 2]> {
    for &change in changes.iter().skip(1) {
        let change = change as f64;
        let (fewest, most) = (((change - ROUNDING) / high).ceil(), ((change + ROUNDING) / low).floor());
        if fewest > most {
            return None;
        }
        if fewest == most {
            low = low.max((change - ROUNDING) / fewest);
            high = high.min((change + ROUNDING) / fewest);
        }
        if low > high {
            return None;
        }
    }
    Some([low, high])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(changes: &[u64]) -> Step {
        let mut steps = Steps::default();
        changes.iter().for_each(|change| steps.add(*change));
        steps.learn();
        steps.known().unwrap()
    }

    #[test]
    fn equal_changes_are_the_step() {
        assert_eq!(of(&[10_000; 5]), Step::Exactly(10_000.0));
        assert_eq!(of(&[2_000_000, 1_000_000, 3_000_000]), Step::Exactly(1_000_000.0));
        assert_eq!(Steps::default().known(), None);
    }

    #[test]
    fn few_large_changes_bound_the_step() {
        let Step::Below(step) = of(&[5_012_345, 5_134_017, 5_071_113]) else { panic!("three changes cannot tell") };
        assert!((100.0..5_000.0).contains(&step), "{step}");
        let Step::Exactly(step) = of(&[5_010_000, 5_130_000, 5_070_000, 5_240_000]) else { panic!("10 mJ is plain") };
        assert!((step - 10_000.0).abs() < 1.0 || (step - 30_000.0).abs() < 1.0, "{step}");
    }

    #[test]
    fn a_finer_step_is_noticed_later() {
        let mut steps = Steps::default();
        [3_000, 6_000, 9_000].iter().for_each(|change| steps.add(*change));
        steps.learn();
        assert_eq!(steps.known(), Some(Step::Exactly(3_000.0)));
        steps.add(4_000);
        let step = steps.known().unwrap().largest();
        assert!((step - 1_000.0).abs() < 1.0, "{step}");
    }

    proptest! {
        /// Counters of the units in the field, whose values the kernel rounds down to whole microjoules.
        #[test]
        fn the_unit_is_found_through_the_rounding(
            unit_nj in prop::sample::select(vec![15_258u64, 30_517, 61_035, 122_070, 976_562, 10_000_000, 1_000_000_000]),
            start in 0u64..1_000_000,
            mean in 1u64..400,
            spread in prop::collection::vec(0u64..50, 40),
        ) {
            let (mut units, mut shown) = (start, start * unit_nj / 1000);
            let mut steps = Steps::default();
            let mut greatest = 0;
            for more in spread {
                units += mean + more;
                greatest = gcd(greatest, mean + more);
                let now = units * unit_nj / 1000;
                steps.add(now - shown);
                shown = now;
            }
            steps.learn();
            // If all changes are multiples of several units, they tell no more.
            let expected = (unit_nj * greatest) as f64 / 1e3;
            match steps.known().unwrap() {
                Step::Exactly(step) => prop_assert!((step - expected).abs() < 0.02 * expected.min(60.0), "{step}, {expected}"),
                // Within the rounding to microjoules.
                Step::Below(step) => prop_assert!(step >= expected - 0.5 && expected < 70.0, "below {step}, {expected}"),
            }
        }
    }

    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
}
