//! The mean over the last windows.

/// A moving average of vectors; the first few are averaged over as many as there are.
#[derive(Debug)]
pub(crate) struct Smoother {
    width: usize,
    depth: usize,
    /// The last `depth` vectors, one after the other, oldest overwritten first.
    history: Vec<f32>,
    held: usize,
    next: usize,
}

impl Smoother {
    /// Averages vectors of `width` over `depth` windows; a depth of 1 changes nothing.
    pub(crate) fn new(width: usize, depth: usize) -> Self {
        Self { width, depth, history: vec![0.0; width * depth], held: 0, next: 0 }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn reset(&mut self) {
        self.held = 0;
        self.next = 0;
    }

    /// Replaces `values` by the mean of them and those before.
    pub(crate) fn smooth(&mut self, values: &mut [f32]) {
        if self.depth == 1 {
            return;
        }
        self.remember(values);
        // Summed anew each time: a running sum would drift.
        values.fill(0.0);
        for vector in self.history[..self.held * self.width].chunks_exact(self.width) {
            for (value, past) in values.iter_mut().zip(vector) {
                *value += past;
            }
        }
        let share = 1.0 / self.held as f32;
        values.iter_mut().for_each(|value| *value *= share);
    }

    /// As [`Smoother::smooth`], but each value alone: one that is not a number becomes NaN, and is left out of later means.
    pub(crate) fn smooth_each(&mut self, values: &mut [f32]) {
        if self.depth > 1 {
            self.remember(values);
        }
        for (column, value) in values.iter_mut().enumerate() {
            if !value.is_finite() {
                *value = f32::NAN;
            } else if self.depth > 1 {
                let past = self.history[..self.held * self.width].iter().skip(column).step_by(self.width);
                let (sum, count) =
                    past.filter(|past| past.is_finite()).fold((0.0, 0u16), |(sum, n), past| (sum + past, n + 1));
                *value = sum / f32::from(count);
            }
        }
    }

    fn remember(&mut self, values: &[f32]) {
        let at = self.next * self.width;
        self.history[at..at + self.width].copy_from_slice(values);
        self.next = (self.next + 1) % self.depth;
        self.held = (self.held + 1).min(self.depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_the_last_windows_only() {
        let mut smoother = Smoother::new(2, 3);
        let mut means = Vec::new();
        for x in [3.0, 6.0, 9.0, 12.0] {
            let mut values = [x, -x];
            smoother.smooth(&mut values);
            means.push(values);
        }
        assert_eq!(means, [[3.0, -3.0], [4.5, -4.5], [6.0, -6.0], [9.0, -9.0]]);
        smoother.reset();
        let mut values = [1.0, 1.0];
        smoother.smooth(&mut values);
        assert_eq!(values, [1.0, 1.0]);
    }
}
