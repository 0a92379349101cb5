//! What a gate does to the windows of its pipeline, and what of it other threads can see.
//!
//! A closed gate skips windows. The last ones can be kept, and go to the model first when the gate opens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::gate::Stage;
use crate::source::{FrameHeader, Pieces};
use crate::units::MonoTime;

/// A gate at the input of a pipeline.
pub(super) struct Gated {
    stage: Box<dyn Stage>,
    /// Windows were skipped since the gate was last open, so that the next window does not follow the last one.
    has_skipped: bool,
}

/// The levels of the blocks that have ended in a step, and what the gate makes of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateSeen {
    /// The level of the last block, and the highest of all of them.
    pub level: f64,
    pub highest: f64,
    pub open: bool,
    /// When the last frame of the step arrived.
    pub at: MonoTime,
}

impl Gated {
    pub(super) fn new(stage: Box<dyn Stage>) -> Self {
        Self { stage, has_skipped: false }
    }

    /// Takes frames. Returns what is to be told of it, if a block has ended.
    pub(super) fn take(&mut self, values: Pieces<'_>, at: MonoTime) -> Option<GateSeen> {
        let mut levels: Option<(f64, f64)> = None;
        self.stage.take(values, &mut |level| {
            let highest = levels.map_or(level, |(_, highest)| highest.max(level));
            levels = Some((level, highest));
        });
        levels.map(|(level, highest)| GateSeen { level, highest, open: self.stage.is_open(), at })
    }

    pub(super) fn reset(&mut self) {
        self.stage.reset();
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage.is_open()
    }

    /// Stays open or closed as `other` is.
    pub(super) fn continue_from(&mut self, other: &Self) {
        self.stage.set_open(other.is_open());
    }

    pub(super) fn skipped(&mut self) {
        self.has_skipped = true;
    }

    /// Returns whether windows were skipped since this was last asked.
    pub(super) fn take_skipped(&mut self) -> bool {
        std::mem::take(&mut self.has_skipped)
    }
}

/// The last windows that were skipped, as many as fit.
#[derive(Debug, Default)]
pub(super) struct Kept<T> {
    values: Vec<T>,
    window_values: usize,
    headers: Vec<Option<FrameHeader>>,
    /// The place of the oldest, and how many there are.
    oldest: usize,
    count: usize,
}

impl<T: Copy + Default> Kept<T> {
    /// Makes room for `windows` windows of `window_values` values.
    pub(super) fn new(windows: usize, window_values: usize) -> Self {
        let values = vec![T::default(); windows * window_values];
        Self { values, window_values, headers: vec![None; windows], oldest: 0, count: 0 }
    }

    /// Keeps a window, with the times of its last frame. Returns whether a window is forgotten for it.
    pub(super) fn push(&mut self, window: &[T], last: FrameHeader) -> bool {
        let room = self.headers.len();
        if room == 0 {
            return true;
        }
        let is_full = self.count == room;
        let place = (self.oldest + self.count) % room;
        let start = place * self.window_values;
        self.values[start..start + self.window_values].copy_from_slice(window);
        self.headers[place] = Some(last);
        if is_full {
            self.oldest = (self.oldest + 1) % room;
        } else {
            self.count += 1;
        }
        is_full
    }

    /// Returns a window, 0 being the oldest, and the times of its last frame.
    pub(super) fn get(&self, index: usize) -> Option<(&[T], FrameHeader)> {
        if index >= self.count {
            return None;
        }
        let place = (self.oldest + index) % self.headers.len();
        let start = place * self.window_values;
        Some((&self.values[start..start + self.window_values], self.headers[place]?))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Forgets all of them. Returns how many there were.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.count)
    }
}

/// What a gate has done, since the start of the daemon. The infer thread writes, others read.
#[derive(Debug, Default)]
pub struct GateStats {
    open: AtomicBool,
    /// When it opened or closed, in nanoseconds of the monotonic clock; 0: no block has ended yet.
    since_ns: AtomicU64,
    openings: AtomicU64,
    /// Windows that were not given to the model.
    skipped: AtomicU64,
    /// The level of the last block, and the highest since it was last taken, and of all.
    level: LevelCell,
    highest: LevelCell,
    highest_of_all: LevelCell,
}

/// Whether a gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateState {
    pub open: bool,
    /// Since when; `None`: no block has ended yet.
    pub since: Option<MonoTime>,
}

/// A level, or none. The bits of numbers that are not negative are in the order of the numbers.
#[derive(Debug, Default)]
struct LevelCell(AtomicU64);

impl LevelCell {
    fn bits(level: f64) -> u64 {
        level.max(0.0).to_bits() + 1
    }

    fn set(&self, level: f64) {
        self.0.store(Self::bits(level), Ordering::Relaxed);
    }

    fn raise(&self, level: f64) {
        self.0.fetch_max(Self::bits(level), Ordering::Relaxed);
    }

    fn of(bits: u64) -> Option<f64> {
        bits.checked_sub(1).map(f64::from_bits)
    }

    fn get(&self) -> Option<f64> {
        Self::of(self.0.load(Ordering::Relaxed))
    }

    fn take(&self) -> Option<f64> {
        Self::of(self.0.swap(0, Ordering::Relaxed))
    }
}

impl GateStats {
    /// Notes what a gate has seen. What was decided before is in the ring of decisions by now.
    pub(super) fn note(&self, seen: GateSeen) {
        self.level.set(seen.level);
        self.highest.raise(seen.highest);
        self.highest_of_all.raise(seen.highest);
        let is_first = self.since_ns.load(Ordering::Relaxed) == 0;
        let was_open = self.open.load(Ordering::Relaxed);
        if seen.open && (is_first || !was_open) {
            self.openings.fetch_add(1, Ordering::Relaxed);
        }
        if is_first || was_open != seen.open {
            self.since_ns.store(seen.at.0.max(1), Ordering::Relaxed);
            self.open.store(seen.open, Ordering::Release);
        }
    }

    /// Another gate takes its place, which is open or not.
    pub(super) fn restart(&self, open: bool) {
        self.level.take();
        if self.open.load(Ordering::Relaxed) != open {
            self.since_ns.store(0, Ordering::Relaxed);
            self.open.store(open, Ordering::Release);
        }
    }

    pub(super) fn count_skipped(&self, windows: usize) {
        self.skipped.fetch_add(windows as u64, Ordering::Relaxed);
    }

    pub fn state(&self) -> GateState {
        let open = self.open.load(Ordering::Acquire);
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        GateState { open, since: (since_ns > 0).then_some(MonoTime(since_ns)) }
    }

    /// Returns how many windows were not given to the model.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Returns how often the gate has opened.
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Returns the level of the last block.
    pub fn level(&self) -> Option<f64> {
        self.level.get()
    }

    /// Returns the highest level since the last call.
    pub fn take_highest(&self) -> Option<f64> {
        self.highest.take()
    }

    /// Returns the highest level since the start.
    pub fn highest(&self) -> Option<f64> {
        self.highest_of_all.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ns: i64) -> FrameHeader {
        FrameHeader { arrival: MonoTime(0), stream_ns: Some(ns), truth: None, gap: None, follow: 0 }
    }

    #[test]
    fn the_last_windows_are_kept_in_their_order() {
        let mut kept = Kept::<f32>::new(2, 3);
        let forgotten: Vec<bool> = (0..5).map(|n| kept.push(&[n as f32; 3], header(n))).collect();
        assert_eq!(forgotten, [false, false, true, true, true]);
        let held: Vec<(f32, Option<i64>)> =
            (0..kept.len()).filter_map(|i| kept.get(i)).map(|(window, last)| (window[0], last.stream_ns)).collect();
        assert_eq!(held, [(3.0, Some(3)), (4.0, Some(4))]);
        assert_eq!((kept.clear(), kept.len(), kept.get(0).is_none()), (2, 0, true));
        assert!(Kept::<f32>::new(0, 3).push(&[0.0; 3], header(0)), "without room it is skipped at once");
    }

    #[test]
    fn levels_and_changes_are_told() {
        let stats = GateStats::default();
        assert_eq!((stats.state(), stats.level()), (GateState { open: false, since: None }, None));
        let seen = |level, highest, open, at| GateSeen { level, highest, open, at: MonoTime(at) };
        stats.note(seen(0.0, 2.0, false, 5));
        assert_eq!(stats.state(), GateState { open: false, since: Some(MonoTime(5)) });
        assert_eq!((stats.level(), stats.take_highest(), stats.take_highest()), (Some(0.0), Some(2.0), None));
        stats.note(seen(9.0, 9.0, true, 7));
        stats.note(seen(8.0, 8.5, true, 8));
        assert_eq!(stats.state(), GateState { open: true, since: Some(MonoTime(7)) });
        assert_eq!((stats.openings(), stats.level(), stats.highest()), (1, Some(8.0), Some(9.0)));
    }
}
