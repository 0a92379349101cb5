//! The features of the latest windows, for comparing a delegate with the reference.

/// The features of the latest windows, as many as fit.
pub struct RecentWindows {
    values: Vec<f32>,
    width: usize,
    /// Windows seen so far.
    seen: usize,
}

impl RecentWindows {
    /// Makes room for `windows` windows of `width` values.
    pub fn new(windows: usize, width: usize) -> Self {
        Self { values: vec![0.0; windows * width], width, seen: 0 }
    }

    pub(super) fn push(&mut self, features: impl Iterator<Item = f32>) {
        let windows = self.values.len() / self.width;
        let start = self.seen % windows * self.width;
        self.values[start..start + self.width].iter_mut().zip(features).for_each(|(kept, value)| *kept = value);
        self.seen += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.seen * self.width >= self.values.len()
    }

    /// Returns the features of all windows, one window after the other, not in the order of their time.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }
}
