//! The normalization of a spectrogram over the frames around each frame.

/// Subtracts from each value the mean over the frames around it.
pub(super) struct LocalNorm {
    window: usize,
    columns: usize,
    /// Divide by the standard deviation, too.
    variance: bool,
    /// What the first pass has made, `[frames, columns]`.
    centred: Vec<f32>,
    /// Sums over the window, one a column.
    mean: Vec<f64>,
    spread: Vec<f64>,
}

impl LocalNorm {
    /// `window` frames, an odd number, are around a frame. Beyond the first and the last frame, the frames are mirrored.
    pub(super) fn new(window: usize, frames: usize, columns: usize, variance: bool) -> Self {
        let centred = vec![0.0; frames * columns];
        Self { window, columns, variance, centred, mean: vec![0.0; columns], spread: vec![0.0; columns] }
    }

    /// Normalizes `values`, `[frames, columns]`, into `out`. As in Python, what is between the passes is f32.
    pub(super) fn apply(&mut self, values: &[f64], out: &mut [f32]) {
        let frames = values.len() / self.columns;
        let around = |frame: usize, offset: usize| mirrored(frame, offset, self.window, frames) * self.columns;
        let share = 1.0 / self.window as f64;
        for frame in 0..frames {
            self.mean.fill(0.0);
            for offset in 0..self.window {
                let row = &values[around(frame, offset)..];
                self.mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
            }
            let row = frame * self.columns;
            for (column, mean) in self.mean.iter().enumerate() {
                self.centred[row + column] = (values[row + column] - mean / self.window as f64) as f32;
            }
        }
        if !self.variance {
            out.copy_from_slice(&self.centred);
            return;
        }
        for frame in 0..frames {
            self.mean.fill(0.0);
            self.spread.fill(0.0);
            for offset in 0..self.window {
                let row = &self.centred[around(frame, offset)..];
                self.mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) * share);
            }
            for offset in 0..self.window {
                let row = &self.centred[around(frame, offset)..];
                for ((spread, mean), value) in self.spread.iter_mut().zip(&self.mean).zip(row) {
                    *spread += (f64::from(*value) - mean).powi(2) * share;
                }
            }
            let row = frame * self.columns;
            for (column, spread) in self.spread.iter().enumerate() {
                out[row + column] = self.centred[row + column] / (spread.sqrt() as f32 + 1e-10);
            }
        }
    }
}

/// Returns the frame at `offset` of the window around `frame`. Mirrored frames begin with the outermost one itself, and are
/// mirrored again if the window is longer than that.
fn mirrored(frame: usize, offset: usize, window: usize, frames: usize) -> usize {
    let period = 2 * frames;
    // From `period` on, so that it is not below 0.
    let place = (frame + offset + period * window - window / 2) % period;
    if place < frames { place } else { period - 1 - place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_mirrored_beyond_both_ends() {
        // numpy.pad([0, 1, 2], 4, "symmetric").
        let padded: Vec<usize> = (0..9).map(|offset| mirrored(0, offset, 9, 3)).collect();
        assert_eq!(padded, [2, 2, 1, 0, 0, 1, 2, 2, 1]);
        let padded: Vec<usize> = (0..9).map(|offset| mirrored(2, offset, 9, 3)).collect();
        assert_eq!(padded, [1, 0, 0, 1, 2, 2, 1, 0, 0]);
    }
}
