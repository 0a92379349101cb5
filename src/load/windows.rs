//! Takes windows from a recording, on which delegates are compared with the reference.

use std::path::Path;

use super::recording::{self, PlayedStages};
use crate::config::Pipeline;
use crate::features::Chain;
use crate::infer::chained::ModelStage;

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
    models: Vec<ModelStage>,
    features: &mut Chain,
    width: usize,
    count: usize,
) -> Result<Vec<f32>, String> {
    let mut spread = Spread { values: Vec::new(), width, count, step: 1, seen: 0 };
    let survey = recording::play(path, pipeline, PlayedStages::Models(models), usize::MAX, |window| {
        spread.take(|place| place.copy_from_slice(features.apply(window.values)));
        Ok(())
    })?;
    if let Some(reason) = survey.without_window() {
        return Err(format!("{} has no whole window: {reason}", path.display()));
    }
    Ok(spread.chosen())
}

/// Keeps every `step`th window; `step` doubles whenever there are twice as many windows as wanted.
struct Spread {
    values: Vec<f32>,
    width: usize,
    count: usize,
    step: usize,
    seen: usize,
}

impl Spread {
    fn take(&mut self, write: impl FnOnce(&mut [f32])) {
        if self.seen.is_multiple_of(self.step) {
            let start = self.values.len();
            self.values.resize(start + self.width, 0.0);
            write(&mut self.values[start..]);
            if self.values.len() == 2 * self.count * self.width {
                self.values = thinned(&self.values, self.width, self.count);
                self.step *= 2;
            }
        }
        self.seen += 1;
    }

    fn chosen(self) -> Vec<f32> {
        thinned(&self.values, self.width, self.count)
    }
}

/// Returns `count` of the windows, evenly spaced; all if there are not more.
fn thinned(values: &[f32], width: usize, count: usize) -> Vec<f32> {
    let held = values.len() / width;
    let wanted = count.min(held);
    (0..wanted).flat_map(|i| &values[i * held / wanted * width..][..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_as_wanted_from_beginning_to_end(count in 1usize..20, total in 1usize..500) {
            let mut spread = Spread { values: Vec::new(), width: 2, count, step: 1, seen: 0 };
            for window in 0..total {
                spread.take(|place| place.fill(window as f32));
                prop_assert!(spread.values.len() < 4 * count);
            }
            let chosen = spread.chosen();
            prop_assert_eq!(chosen.len(), 2 * count.min(total));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] <= pair[1]) && chosen[0] == 0.0);
            // The last quarter is not left out.
            prop_assert!(count < 8 || total < 8 || *chosen.last().unwrap() >= 0.7 * (total - 1) as f32);
        }
    }
}
