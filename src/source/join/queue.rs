//! The samples of one source that wait to be joined. All memory is taken once.

use std::collections::VecDeque;

use crate::source::{FrameHeader, Gap, Pieces};

/// A sample, without its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// The time by which it is joined, in nanoseconds.
    pub(super) time: i64,
    pub(super) header: FrameHeader,
    /// Counts up when the time goes back: only times of the same epoch can be compared.
    pub(super) epoch: u32,
    /// Counts up with each gap.
    pub(super) segment: u32,
    /// The gap with which its segment began.
    pub(super) began: Option<Gap>,
}

/// Samples in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue {
    samples: VecDeque<Sample>,
    /// The values of each, in a ring.
    values: Vec<f32>,
    width: usize,
    capacity: usize,
    first: usize,
}

impl Queue {
    /// Makes room for `capacity` samples of `width` values.
    pub(super) fn new(capacity: usize, width: usize) -> Self {
        let capacity = capacity.max(2);
        let values = vec![0.0; capacity.saturating_mul(width)];
        Self { samples: VecDeque::with_capacity(capacity), values, width, capacity, first: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns for how many more samples there is room.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.samples.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Sample> {
        self.samples.get(index)
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Appends a sample, whose values are those of frame `frame` of `values`. Without room, it is left out.
    pub(super) fn push(&mut self, sample: Sample, values: Pieces<'_>, frame: usize) {
        if self.room() == 0 {
            return;
        }
        let slot = (self.first + self.samples.len()) % self.capacity * self.width;
        copy(values, frame * self.width, &mut self.values[slot..slot + self.width]);
        self.samples.push_back(sample);
    }

    /// Removes the oldest sample.
    pub(super) fn pop(&mut self) {
        if self.samples.pop_front().is_some() {
            self.first = (self.first + 1) % self.capacity;
        }
    }

    /// Returns the values of the sample `index`, which is there.
    pub(super) fn values(&self, index: usize) -> &[f32] {
        let slot = (self.first + index) % self.capacity * self.width;
        &self.values[slot..slot + self.width]
    }
}

/// Copies values from `start` on, as numbers.
fn copy(values: Pieces<'_>, start: usize, to: &mut [f32]) {
    fn of<T: Copy + Into<f32>>(first: &[T], second: &[T], start: usize, to: &mut [f32]) {
        let from = first.iter().chain(second).skip(start);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = (*from).into());
    }
    match values {
        Pieces::F32(first, second) => of(first, second, start, to),
        Pieces::I16(first, second) => of(first, second, start, to),
        Pieces::U8(first, second) => of(first, second, start, to),
    }
}
