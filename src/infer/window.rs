//! Cuts frames into overlapping windows. Pure: time is passed in.
//!
//! Owns the frames of the window that is being filled, and the rule for gaps: a gap empties the window, so no window spans
//! one. Runs on the infer thread; all memory is allocated in [`Windower::new`].

use std::time::Duration;

use crate::source::{FrameHeader, Gap};
use crate::units::duration_ns;

/// What a gap is.
#[derive(Debug, Clone, Copy)]
pub struct GapRule {
    max_gap_ns: Option<i64>,
}

impl GapRule {
    /// Returns the gap between a frame at that time of the stream and the next frame, if there is one.
    pub fn between(self, stream_ns: Option<i64>, next: &FrameHeader) -> Option<Gap> {
        if next.gap.is_some() {
            return next.gap;
        }
        let step = next.stream_ns?.checked_sub(stream_ns?)?;
        if step <= 0 {
            Some(Gap::TimeBack)
        } else if self.max_gap_ns.is_some_and(|max| step > max) {
            Some(Gap::TimeJump)
        } else {
            None
        }
    }
}

/// Finds the gaps in a stream.
#[derive(Debug)]
pub struct GapDetector {
    pub rule: GapRule,
    last_stream_ns: Option<i64>,
}

impl GapDetector {
    /// A step in time of more than `max_gap` is a gap; `None`: the stream has no time.
    pub fn new(max_gap: Option<Duration>) -> Self {
        let ns = |gap| i64::try_from(duration_ns(gap)).unwrap_or(i64::MAX);
        Self { rule: GapRule { max_gap_ns: max_gap.map(ns) }, last_stream_ns: None }
    }

    /// Returns the gap before frames that follow each other, if there is one. `last_stream_ns` is the time of the last
    /// frame.
    pub fn before(&mut self, first: &FrameHeader, last_stream_ns: Option<i64>) -> Option<Gap> {
        let gap = self.rule.between(self.last_stream_ns, first);
        self.last_stream_ns = last_stream_ns;
        gap
    }

    /// Continues where `other` was.
    pub fn continue_from(&mut self, other: &Self) {
        self.last_stream_ns = other.last_stream_ns;
    }
}

/// Fills windows of `samples` frames, each starting `hop` frames after the one before.
#[derive(Debug)]
pub struct Windower<T> {
    window_values: usize,
    hop_values: usize,
    frame_values: usize,
    /// Room for two windows and a frame, so that the tail moves to the front at most once a window.
    buffer: Vec<T>,
    start: usize,
    end: usize,
    /// Values still to skip, if the hop is longer than the window.
    skip: usize,
}

impl<T: Copy + Default> Windower<T> {
    /// `samples`, `hop` and `frame_values` must be at least 1, which the check of the configuration ensures.
    pub fn new(samples: usize, hop: usize, frame_values: usize) -> Self {
        let window_values = samples * frame_values;
        Self {
            window_values,
            hop_values: hop * frame_values,
            frame_values,
            buffer: vec![T::default(); 2 * window_values + frame_values],
            start: 0,
            end: 0,
            skip: 0,
        }
    }

    /// Returns the number of values in a window.
    pub fn window_values(&self) -> usize {
        self.window_values
    }

    /// Takes over those frames of the unfinished window of `other` that can be part of a window here.
    pub fn continue_from(&mut self, other: &Self) {
        if self.frame_values != other.frame_values {
            return;
        }
        let held = &other.buffer[other.start..other.end];
        let kept = held.len().min(self.window_values - self.frame_values);
        self.buffer[..kept].copy_from_slice(&held[held.len() - kept..]);
        self.end = kept;
        self.skip = other.skip;
    }

    /// Returns the number of frames that complete the window, or that are to be skipped before it begins; at least 1.
    pub fn frames_wanted(&self) -> usize {
        let values = if self.skip > 0 { self.skip } else { self.window_values.saturating_sub(self.end - self.start) };
        (values / self.frame_values).max(1)
    }

    /// Returns the number of frames that can be taken together, whether or not the window is emptied before: if there is a
    /// gap before frames that would have been skipped, they belong to the next window.
    pub fn frames_at_once(&self) -> usize {
        self.frames_wanted().min(self.window_values / self.frame_values)
    }

    /// Takes at most [`Windower::frames_at_once`] frames, which may come in two pieces.
    ///
    /// Ask [`Windower::ready`] after each call.
    pub fn push<S: Copy>(&mut self, first: &[S], second: &[S], convert: impl Fn(S) -> T) {
        let values = first.len() + second.len();
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(values);
            return;
        }
        if self.end + values > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = &mut self.buffer[self.end..self.end + values];
        let (room_first, room_second) = room.split_at_mut(first.len());
        room_first.iter_mut().zip(first).for_each(|(room, value)| *room = convert(*value));
        room_second.iter_mut().zip(second).for_each(|(room, value)| *room = convert(*value));
        self.end += values;
    }

    /// Empties the window: the stream had a gap.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.skip = 0;
    }

    /// Returns the full window, `[samples, frame]` row-major, if there is one. Call [`Windower::advance`] when done with it.
    pub fn ready(&self) -> Option<&[T]> {
        (self.end - self.start >= self.window_values).then(|| &self.buffer[self.start..self.start + self.window_values])
    }

    /// Moves on to the next window.
    pub fn advance(&mut self) {
        let held = self.end - self.start;
        let step = self.hop_values.min(held);
        self.start += step;
        self.skip = self.hop_values - step;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MonoTime;
    use proptest::prelude::*;

    fn header(stream_ns: Option<i64>, gap: Option<Gap>) -> FrameHeader {
        FrameHeader { arrival: MonoTime(0), stream_ns, truth: None, gap, follow: 0 }
    }

    /// The windows of a gapless stream in which the value of frame `i` is `i`, fed by up to `block` frames.
    fn starts(samples: usize, hop: usize, stream: usize, block: usize) -> Vec<usize> {
        let mut w = Windower::<f32>::new(samples, hop, 1);
        let mut starts = Vec::new();
        let mut next = 0;
        while next < stream {
            let count = w.frames_wanted().min(block).min(stream - next);
            let frames: Vec<u16> = (next..next + count).map(|i| i as u16).collect();
            w.push(&frames[..count / 2], &frames[count / 2..], f32::from);
            next += count;
            if let Some(window) = w.ready() {
                let first = window[0] as usize;
                let expected: Vec<f32> = (first..first + samples).map(|v| v as f32).collect();
                assert_eq!(window, expected);
                assert_eq!(first + samples, next, "a window is ready with its last frame");
                starts.push(first);
                w.advance();
            }
        }
        starts
    }

    #[test]
    fn a_step_in_time_that_is_too_long_or_goes_back_is_a_gap() {
        let ms = 1_000_000;
        let mut gaps = GapDetector::new(Some(Duration::from_millis(60)));
        let mut at = |t: i64| {
            let header = header(Some(t * ms), None);
            gaps.before(&header, header.stream_ns)
        };
        assert_eq!([at(0), at(60), at(121)], [None, None, Some(Gap::TimeJump)]);
        assert_eq!([at(121), at(141), at(100)], [Some(Gap::TimeBack), None, Some(Gap::TimeBack)]);
        let lost = header(Some(161 * ms), Some(Gap::Overflow));
        assert_eq!(gaps.before(&lost, Some(400 * ms)), Some(Gap::Overflow));
        let next = header(Some(420 * ms), None);
        assert_eq!(gaps.before(&next, next.stream_ns), None, "counted from the last frame of the block");
        let mut without_time = GapDetector::new(None);
        let header = header(None, None);
        assert_eq!(without_time.before(&header, header.stream_ns), None);
    }

    #[test]
    fn frames_that_are_skipped_fit_into_the_window_if_a_gap_comes_before_them() {
        let mut w = Windower::<f32>::new(2, 9, 1);
        w.push(&[1.0, 2.0], &[], |v| v);
        w.advance();
        assert_eq!((w.frames_wanted(), w.frames_at_once()), (7, 2));
        w.clear();
        w.push(&[3.0, 4.0], &[], |v| v);
        assert_eq!(w.ready(), Some(&[3.0, 4.0][..]));
    }

    #[test]
    fn a_gap_empties_the_window() {
        let mut w = Windower::<f32>::new(2, 1, 3);
        w.push(&[1.0], &[2.0, 3.0], |v| v);
        w.clear();
        w.push(&[4.0, 5.0, 6.0], &[], |v| v);
        assert_eq!(w.ready(), None);
        w.push(&[7.0, 8.0, 9.0], &[], |v| v);
        assert_eq!(w.ready(), Some(&[4.0, 5.0, 6.0, 7.0, 8.0, 9.0][..]));
    }

    proptest! {
        #[test]
        fn windows_start_a_hop_apart_and_none_is_missed(
            samples in 1usize..40, hop in 1usize..90, stream in 0usize..400, block in 1usize..50,
        ) {
            let expected: Vec<usize> = (0..).map(|k| k * hop).take_while(|s| s + samples <= stream).collect();
            prop_assert_eq!(starts(samples, hop, stream, block), expected);
        }
    }
}
