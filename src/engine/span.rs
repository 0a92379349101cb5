//! The busy span: when an engine worked and on how much, the only thing that the energy join learns of it.

use crate::units::MonoTime;

/// A stretch of time in which one pipeline's engine completed `inferences` inferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusySpan {
    pub start: MonoTime,
    pub end: MonoTime,
    /// Time inside invoke, in nanoseconds; at most `end - start`, less where spans were merged.
    pub busy_ns: u64,
    pub inferences: u32,
}

impl BusySpan {
    /// Widens this span by a later one of the same pipeline.
    pub fn merge(&mut self, later: Self) {
        self.end = later.end;
        self.busy_ns += later.busy_ns;
        self.inferences += later.inferences;
    }
}
