//! Compares a delegate with the reference before it takes over: both run the same windows.
//!
//! Pure, apart from the engines that are passed in. Leaves to the caller where the windows come from, and what happens to a
//! delegate that is refused.

use serde::Serialize;

use super::{Engine, EngineError, TensorInfo, width};
use crate::text::counted;

/// Windows, and the reference's outputs for them.
#[derive(Debug)]
pub struct Reference {
    /// `[windows, features]`, row-major.
    windows: Vec<f32>,
    /// Number of features in a window.
    width: usize,
    /// For each output, its values for one window after the other.
    answers: Vec<Vec<f32>>,
    decided: DecidedOn,
}

/// The difference between a number and one that is NaN or infinite.
const NOT_COMPARABLE: f32 = f32::MAX;

/// What a decision looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DecidedOn {
    /// The index of the output.
    pub output: usize,
    /// If the output has one value only: where the decision changes from one class to the other.
    pub boundary: Option<f32>,
}

/// What an engine must reach to agree with the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParityLimits {
    /// The number of windows to compare.
    pub windows: usize,
    /// Largest difference of an output from the reference, as a part of the reference's largest output.
    pub tolerance: f32,
    /// Smallest part of windows with the same largest value in the output that is decided on.
    pub top1: Option<f32>,
}

/// How well an engine agrees with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    pub windows: usize,
    /// Largest difference of an output from the reference, as a share of that output's largest reference value.
    pub difference: f32,
    pub tolerance: f32,
    /// Share of windows in which the largest value of the output that is decided on is the same one.
    pub top1: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_least: Option<f32>,
}

impl Reference {
    /// Runs `windows`, `[n, features]`, through the reference.
    pub fn record(engine: &mut dyn Engine, windows: Vec<f32>, decided: DecidedOn) -> Result<Self, EngineError> {
        let width = width(engine.inputs(), engine.batch());
        if width == 0 || !windows.len().is_multiple_of(width) {
            let count = windows.len();
            return Err(EngineError::Mismatch(format!(
                "{count} features for windows of {:?}",
                shapes(engine.inputs())
            )));
        }
        let answers = answers(engine, &windows, width)?;
        Ok(Self { windows, width, answers, decided })
    }

    /// Runs the same windows through `engine`, and resets it afterwards.
    pub fn compare(&self, engine: &mut dyn Engine, limits: &ParityLimits) -> Result<Agreement, EngineError> {
        if width(engine.inputs(), 1) != self.width * engine.batch() || engine.outputs().len() != self.answers.len() {
            return Err(EngineError::Mismatch(format!(
                "the reference has inputs of {} values and {} outputs, the delegate's model has {:?} and {}",
                self.width,
                self.answers.len(),
                shapes(engine.inputs()),
                engine.outputs().len()
            )));
        }
        let answers = answers(engine, &self.windows, self.width)?;
        let windows = self.windows.len() / self.width;
        let (difference, top1) = agreement(&answers, &self.answers, windows, self.decided)?;
        Ok(Agreement { windows, difference, tolerance: limits.tolerance, top1, top1_least: limits.top1 })
    }
}

/// Returns the largest difference of `ours` from the reference's answers for so many windows, as a part of the reference's
/// largest value of that output, and the part of the windows in which the decision is the same.
///
/// # Errors
/// An output has another number of values.
pub fn agreement(
    ours: &[Vec<f32>],
    reference: &[Vec<f32>],
    windows: usize,
    decided: DecidedOn,
) -> Result<(f32, f32), EngineError> {
    let mut difference = 0f32;
    for (index, (ours, reference)) in ours.iter().zip(reference).enumerate() {
        if ours.len() != reference.len() {
            let (ours, reference) = (ours.len() / windows.max(1), reference.len() / windows.max(1));
            return Err(EngineError::Mismatch(format!(
                "output {index} has {ours} values where the reference has {reference}"
            )));
        }
        difference = difference.max(largest_difference(ours, reference));
    }
    let same = match (ours.get(decided.output), reference.get(decided.output)) {
        (Some(ours), Some(reference)) => match decided.boundary {
            Some(boundary) if reference.len() == windows => same_side(ours, reference, boundary),
            _ => same_largest(ours, reference, windows),
        },
        _ => windows,
    };
    Ok((difference, same as f32 / windows.max(1) as f32))
}

impl Agreement {
    /// Returns whether the delegate is good enough to take over.
    pub fn is_enough(&self) -> bool {
        // A difference that is NaN must not pass.
        self.difference <= self.tolerance && self.top1_least.is_none_or(|least| self.top1 >= least)
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { windows, difference, tolerance, top1, top1_least } = self;
        write!(f, "over {} ", counted(*windows, "window"))?;
        match *difference {
            NOT_COMPARABLE => write!(f, "one of the two gives numbers where the other gives NaN or infinity")?,
            _ => write!(
                f,
                "the largest difference is {difference:.4} of the reference's largest output ({tolerance} is allowed)"
            )?,
        }
        write!(f, ", and the highest score is the same one in {:.1} %", 100.0 * top1)?;
        top1_least.map_or(Ok(()), |least| write!(f, " ({:.1} % is wanted)", 100.0 * least))
    }
}

fn shapes(inputs: &[TensorInfo]) -> Vec<&[usize]> {
    inputs.iter().map(|input| &*input.shape).collect()
}

/// Returns for each output of `engine` its values for one window of `width` values after the other; the engine is reset before
/// and after.
///
/// # Errors
/// The engine fails.
pub fn answers(engine: &mut dyn Engine, windows: &[f32], width: usize) -> Result<Vec<Vec<f32>>, EngineError> {
    let batch = engine.batch();
    // Outputs that cannot be read are not compared.
    let width_of = |output: &TensorInfo| if output.readable().is_ok() { output.len() / batch } else { 0 };
    let widths: Vec<usize> = engine.outputs().iter().map(width_of).collect();
    let mut answers: Vec<Vec<f32>> = widths.iter().map(|_| Vec::new()).collect();
    engine.reset()?;
    for rows in windows.chunks(width * batch) {
        for (row, window) in rows.chunks(width).enumerate() {
            engine.set_input(row, window)?;
        }
        engine.invoke()?;
        for row in 0..rows.len() / width {
            let outputs = answers.iter_mut().zip(&widths).enumerate().filter(|(_, (_, width))| **width > 0);
            for (output, (answers, width)) in outputs {
                let start = answers.len();
                answers.resize(start + width, 0.0);
                engine.output(output, row, &mut answers[start..])?;
            }
        }
    }
    engine.reset()?;
    Ok(answers)
}

/// Returns the largest difference, as a share of the largest reference value; the largest number if only one of two values
/// is NaN or infinite.
fn largest_difference(ours: &[f32], reference: &[f32]) -> f32 {
    let finite = reference.iter().filter(|value| value.is_finite());
    let largest = finite.fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let difference = |(ours, reference): (&f32, &f32)| match (ours - reference).abs() {
        _ if is_same(*ours, *reference) => 0.0,
        difference if difference.is_finite() => difference / largest,
        _ => NOT_COMPARABLE,
    };
    ours.iter().zip(reference).map(difference).fold(0.0, f32::max).min(NOT_COMPARABLE)
}

/// Returns whether two values are equal, where NaN equals NaN: the reference gives it too.
fn is_same(ours: f32, reference: f32) -> bool {
    ours == reference || ours.is_nan() && reference.is_nan()
}

/// Returns in how many windows both single values are on the same side of `boundary`.
fn same_side(ours: &[f32], reference: &[f32], boundary: f32) -> usize {
    // What is not a number is on neither side.
    let side = |value: &f32| value.is_finite().then_some(*value >= boundary);
    ours.iter().zip(reference).filter(|(ours, reference)| side(ours) == side(reference)).count()
}

fn same_largest(ours: &[f32], reference: &[f32], windows: usize) -> usize {
    let width = (reference.len() / windows.max(1)).max(1);
    ours.chunks(width).zip(reference.chunks(width)).filter(|(ours, reference)| is_largest(ours, reference)).count()
}

/// Returns whether the reference's largest value is also the largest in `ours`, or one of them on a tie. Values that are no
/// numbers decide nothing, so both must have some.
fn is_largest(ours: &[f32], reference: &[f32]) -> bool {
    let decides_nothing = |values: &[f32]| values.iter().any(|value| !value.is_finite());
    if decides_nothing(reference) {
        return decides_nothing(ours);
    }
    let place = reference.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(place, _)| place);
    let highest = ours.iter().fold(f32::NEG_INFINITY, |highest, value| highest.max(*value));
    place.and_then(|place| ours.get(place)).is_some_and(|value| *value >= highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Agreement = Agreement { windows: 4, difference: 0.1, tolerance: 0.1, top1: 0.75, top1_least: None };

    #[test]
    fn a_number_where_the_other_has_none_is_said_in_words() {
        let of = |difference| Agreement { difference, ..LIMITS }.to_string();
        let difference = largest_difference(&[1.0, 2.0], &[1.0, f32::INFINITY]);
        assert!(of(difference).starts_with("over 4 windows one of the two gives numbers where the other gives NaN"));
        assert!(of(0.5).starts_with("over 4 windows the largest difference is 0.5000 of the reference's largest"));
    }

    #[test]
    fn a_difference_is_a_share_of_the_largest_value() {
        assert_eq!(largest_difference(&[1.0, -2.0, 3.0], &[1.0, -4.0, 3.0]), 0.5);
        assert_eq!(largest_difference(&[0.0], &[0.0]), 0.0);
        assert_eq!(largest_difference(&[f32::NAN, 1.0], &[1.0, 1.0]), f32::MAX);
        assert!(largest_difference(&[0.5], &[0.0]) > 1e6, "anything is far from nothing");
    }

    #[test]
    fn a_single_score_is_on_the_same_side_of_the_boundary() {
        assert_eq!(same_side(&[0.4, 0.6, 0.5, f32::NAN], &[0.1, 0.4, 0.9, f32::INFINITY], 0.5), 3);
        assert_eq!(same_side(&[f32::NAN], &[0.4], 0.5), 0);
    }

    #[test]
    fn what_is_no_number_must_be_none_in_both() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(largest_difference(&[nan, infinite, 1.5], &[nan, infinite, 2.0]), 0.25);
        for (ours, reference) in [(nan, 1.0), (1.0, nan), (1.0, infinite), (infinite, 1.0), (-infinite, infinite)] {
            assert_eq!(largest_difference(&[ours, 1.0], &[reference, 1.0]), f32::MAX, "{ours} for {reference}");
        }
        assert_eq!(same_largest(&[nan, 0.1, nan, 0.1], &[nan, 0.2, 0.5, 0.2], 2), 1);
    }

    #[test]
    fn the_class_is_the_same_or_tied() {
        let reference = [0.1, 0.9, 0.6, 0.4, 0.5, 0.5];
        assert_eq!(same_largest(&[0.2, 0.8, 0.5, 0.5, 0.9, 0.1], &reference, 3), 2);
        assert_eq!(same_largest(&[f32::NAN; 6], &reference, 3), 0);
    }

    #[test]
    fn both_limits_count() {
        assert!(LIMITS.is_enough());
        assert!(Agreement { top1_least: Some(0.75), ..LIMITS }.is_enough());
        assert!(!Agreement { top1_least: Some(0.8), ..LIMITS }.is_enough());
        assert!(!Agreement { difference: 0.11, ..LIMITS }.is_enough());
        assert!(!Agreement { difference: f32::NAN, ..LIMITS }.is_enough());
    }
}
