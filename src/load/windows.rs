//! Takes windows from a recording, on which delegates are compared with the reference, and which a bench runs.

use std::path::Path;

use super::recording::{self, PlayedStages};
use crate::config::Pipeline;
use crate::features::Chain;
use crate::infer::chained::ModelStage;

/// The features of windows, row by row, and the true class of each, if it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows {
    /// `[windows, features]`.
    pub values: Vec<f32>,
    /// By window.
    pub truth: Vec<Option<u16>>,
}

/// Returns the features of `count` windows of the recording at `path`, spread evenly over it; fewer if it is shorter.
///
/// Its lines are records as the pipeline's source has them, and pass through the pipeline's own stages, with `models` for its
/// chain, and `features`, which
/// give `width` values and may be more than the configured ones. Records that cannot be used are skipped, as the source does.
/// Memory is bounded, however long the recording is.
///
/// # Errors
/// The recording cannot be read, or has no whole window.
pub fn recorded(
    path: &Path,
    pipeline: &Pipeline,
    labels: &[String],
    models: Vec<ModelStage>,
    features: &mut Chain,
    width: usize,
    count: usize,
) -> Result<Windows, String> {
    let mut spread = Spread { held: Windows::default(), width, count, step: 1, seen: 0 };
    let survey = recording::play(path, pipeline, labels, PlayedStages::Models(models), usize::MAX, |window| {
        spread.take(window.last.truth, |place| place.copy_from_slice(features.apply(window.values)));
        Ok(())
    })?;
    if let Some(reason) = survey.without_window() {
        return Err(format!("{} has no whole window: {reason}", path.display()));
    }
    Ok(spread.chosen())
}

/// Keeps every `step`th window; `step` doubles whenever there are twice as many windows as wanted.
struct Spread {
    held: Windows,
    width: usize,
    count: usize,
    step: usize,
    seen: usize,
}

impl Spread {
    fn take(&mut self, truth: Option<u16>, write: impl FnOnce(&mut [f32])) {
        if self.seen.is_multiple_of(self.step) {
            let Windows { values, truth: truths } = &mut self.held;
            let start = values.len();
            values.resize(start + self.width, 0.0);
            write(&mut values[start..]);
            truths.push(truth);
            if truths.len() == 2 * self.count {
                self.held = self.held.thinned(self.width, self.count);
                self.step *= 2;
            }
        }
        self.seen += 1;
    }

    fn chosen(self) -> Windows {
        self.held.thinned(self.width, self.count)
    }
}

impl Windows {
    /// Returns `count` of the windows, evenly spaced; all if there are not more. Each has `width` values.
    fn thinned(&self, width: usize, count: usize) -> Self {
        let held = self.truth.len();
        let wanted = count.min(held);
        let places = || (0..wanted).map(|i| i * held / wanted);
        Self {
            values: places().flat_map(|place| &self.values[place * width..][..width]).copied().collect(),
            truth: places().map(|place| self.truth[place]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_as_wanted_from_beginning_to_end(count in 1usize..20, total in 1usize..500) {
            let mut spread = Spread { held: Windows::default(), width: 2, count, step: 1, seen: 0 };
            for window in 0..total {
                spread.take(Some(window as u16), |place| place.fill(window as f32));
                prop_assert!(spread.held.values.len() < 4 * count);
            }
            let Windows { values: chosen, truth } = spread.chosen();
            prop_assert!(truth.iter().zip(chosen.chunks(2)).all(|(truth, window)| truth.map(f32::from) == Some(window[0])));
            prop_assert_eq!(chosen.len(), 2 * count.min(total));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] <= pair[1]) && chosen[0] == 0.0);
            // The last quarter is not left out.
            prop_assert!(count < 8 || total < 8 || *chosen.last().unwrap() >= 0.7 * (total - 1) as f32);
        }
    }
}
