//! The batch that is being filled: windows whose features are in the engine's input. Pure; memory is taken once.

use std::time::Duration;

use crate::source::FrameHeader;
use crate::units::MonoTime;

/// How many windows go through the model together at most, and how long the first waits for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub max: usize,
    pub wait: Duration,
}

/// A window that waits for its batch to run.
#[derive(Clone, Copy)]
pub(crate) struct PendingWindow {
    /// Its last sample.
    pub last: FrameHeader,
    /// When it was full, and when its features were in the engine's input.
    pub taken: MonoTime,
    pub filled: MonoTime,
}

/// The windows of the next invoke, in order.
pub(crate) struct PendingBatch {
    windows: Vec<PendingWindow>,
    /// `[windows, features]`, for a decision that looks at them.
    features: Vec<f32>,
    limits: Batch,
}

impl PendingBatch {
    /// `features` is the number of features of each window that the decision wants.
    pub(crate) fn new(limits: Batch, features: usize) -> Self {
        Self { windows: Vec::with_capacity(limits.max), features: vec![0.0; limits.max * features], limits }
    }

    /// Keeps the features of the window that is pushed next, if they are wanted.
    pub(crate) fn keep(&mut self, features: impl Iterator<Item = f32>) {
        let width = self.features.len() / self.limits.max.max(1);
        let kept = self.features.iter_mut().skip(self.windows.len() * width).take(width);
        kept.zip(features).for_each(|(kept, value)| *kept = value);
    }

    /// Returns the features of the window in that row; none if they are not wanted.
    pub(crate) fn features(&self, row: usize) -> &[f32] {
        let width = self.features.len() / self.limits.max.max(1);
        self.features.get(row * width..(row + 1) * width).unwrap_or(&[])
    }

    pub(crate) fn push(&mut self, window: PendingWindow) {
        self.windows.push(window);
    }

    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.windows.len() == self.limits.max
    }

    /// Returns when the batch must run at the latest, however few windows it has; `None` if it has none.
    pub(crate) fn due(&self) -> Option<MonoTime> {
        self.windows.first().map(|first| first.taken + self.limits.wait)
    }

    /// Returns the window in that row, which is below [`len`](Self::len).
    pub(crate) fn window(&self, row: usize) -> PendingWindow {
        self.windows[row]
    }

    /// Removes the first windows, which are decided.
    pub(crate) fn remove_first(&mut self, count: usize) {
        self.windows.drain(..count);
    }

    pub(crate) fn clear(&mut self) {
        self.windows.clear();
    }
}
