//! Samples to overlapping windows. Pure: time is passed in with each sample.
//!
//! Owns the samples of the window that is being filled and the rule when a stream has a gap. A gap empties the
//! window, so no window ever spans one. Runs on the infer thread; all memory is taken in [`Windower::new`].

use std::time::Duration;

use crate::source::Gap;
use crate::units::duration_ns;

/// What the window needs to know of a sample besides its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleTime {
    /// The stream's own time in nanoseconds, where the stream has one.
    pub stream_ns: Option<i64>,
    /// The source knows that the stream was broken just before this sample.
    pub gap: Option<Gap>,
}

/// Fills windows of `samples` samples, each starting `hop` samples after the one before.
#[derive(Debug)]
pub struct Windower {
    window_values: usize,
    hop_values: usize,
    channels: usize,
    max_gap_ns: Option<i64>,
    /// Room for two windows and a hop, so that the tail moves to the front at most once a window.
    buffer: Vec<f32>,
    start: usize,
    end: usize,
    /// Values still to pass over, where the hop is longer than the window.
    skip: usize,
    last_stream_ns: Option<i64>,
}

impl Windower {
    /// `samples`, `hop` and `channels` are at least 1 (the checked configuration sees to it).
    pub fn new(samples: usize, hop: usize, channels: usize, max_gap: Option<Duration>) -> Self {
        let window_values = samples * channels;
        Self {
            window_values,
            hop_values: hop * channels,
            channels,
            max_gap_ns: max_gap.map(|d| i64::try_from(duration_ns(d)).unwrap_or(i64::MAX)),
            buffer: vec![0.0; 2 * window_values + channels],
            start: 0,
            end: 0,
            skip: 0,
            last_stream_ns: None,
        }
    }

    /// Takes over the samples of the window that `other` was filling, as far as they can be part of one here.
    pub fn go_on_from(&mut self, other: &Self) {
        self.last_stream_ns = other.last_stream_ns;
        if self.channels != other.channels {
            return;
        }
        let held = &other.buffer[other.start..other.end];
        let kept = held.len().min(self.window_values - self.channels);
        self.buffer[..kept].copy_from_slice(&held[held.len() - kept..]);
        self.end = kept;
        self.skip = other.skip;
    }

    /// Values in a window: samples times channels.
    pub fn window_values(&self) -> usize {
        self.window_values
    }

    /// Takes one sample of `channels` values, which may come in two pieces.
    ///
    /// Returns the gap before it, if there was one. Ask [`Windower::ready`] after each sample.
    pub fn push(&mut self, first: &[f32], second: &[f32], time: SampleTime) -> Option<Gap> {
        let gap = self.gap_before(time);
        if gap.is_some() {
            self.start = 0;
            self.end = 0;
            self.skip = 0;
        }
        self.last_stream_ns = time.stream_ns;
        if self.skip > 0 {
            self.skip -= self.channels;
            return gap;
        }
        if self.end + self.channels > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let split = self.end + first.len();
        self.buffer[self.end..split].copy_from_slice(first);
        self.buffer[split..split + second.len()].copy_from_slice(second);
        self.end += self.channels;
        gap
    }

    /// The full window, `[samples, channels]` row-major, if there is one. Call [`Windower::advance`] when done with it.
    pub fn ready(&self) -> Option<&[f32]> {
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

    fn gap_before(&self, time: SampleTime) -> Option<Gap> {
        if time.gap.is_some() {
            return time.gap;
        }
        let step = time.stream_ns?.checked_sub(self.last_stream_ns?)?;
        if step <= 0 {
            Some(Gap::TimeBack)
        } else if self.max_gap_ns.is_some_and(|max| step > max) {
            Some(Gap::TimeJump)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NO_TIME: SampleTime = SampleTime { stream_ns: None, gap: None };

    /// The windows of a gapless stream in which the value of sample `i` is `i`.
    fn starts(samples: usize, hop: usize, stream: usize) -> Vec<usize> {
        let mut w = Windower::new(samples, hop, 1, None);
        let mut starts = Vec::new();
        for i in 0..stream {
            assert_eq!(w.push(&[i as f32], &[], NO_TIME), None);
            if let Some(window) = w.ready() {
                let first = window[0] as usize;
                let expected: Vec<f32> = (first..first + samples).map(|v| v as f32).collect();
                assert_eq!(window, expected);
                assert_eq!(first + samples - 1, i, "a window is ready with its last sample");
                starts.push(first);
                w.advance();
            }
        }
        starts
    }

    #[test]
    fn time_gaps_empty_the_window() {
        let ms = 1_000_000;
        let mut w = Windower::new(2, 1, 1, Some(Duration::from_millis(60)));
        let at = |t: i64| SampleTime { stream_ns: Some(t * ms), gap: None };
        assert_eq!(w.push(&[0.0], &[], at(0)), None);
        assert_eq!(w.push(&[1.0], &[], at(60)), None);
        assert_eq!(w.ready(), Some(&[0.0, 1.0][..]));
        w.advance();
        assert_eq!(w.push(&[2.0], &[], at(121)), Some(Gap::TimeJump));
        assert_eq!(w.ready(), None);
        assert_eq!(w.push(&[3.0], &[], at(121)), Some(Gap::TimeBack));
        assert_eq!(w.push(&[4.0], &[], at(141)), None);
        assert_eq!(w.ready(), Some(&[3.0, 4.0][..]));
        w.advance();
        let lost = SampleTime { stream_ns: Some(161 * ms), gap: Some(Gap::Overflow) };
        assert_eq!(w.push(&[5.0], &[], lost), Some(Gap::Overflow));
        assert_eq!(w.ready(), None);
    }

    #[test]
    fn a_sample_in_two_pieces_is_one_sample() {
        let mut w = Windower::new(1, 1, 3, None);
        w.push(&[1.0], &[2.0, 3.0], NO_TIME);
        assert_eq!(w.ready(), Some(&[1.0, 2.0, 3.0][..]));
    }

    proptest! {
        #[test]
        fn windows_start_a_hop_apart_and_none_is_missed(samples in 1usize..40, hop in 1usize..90, stream in 0usize..400) {
            let expected: Vec<usize> = (0..).map(|k| k * hop).take_while(|s| s + samples <= stream).collect();
            prop_assert_eq!(starts(samples, hop, stream), expected);
        }
    }
}
