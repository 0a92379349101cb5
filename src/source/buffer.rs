//! The buffer between a source and its pipeline: its keys, and how many frames it holds.

use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, choice, table};
use crate::stream::StreamSpec;

/// Far above any real use, and still fits into memory.
const MAX_FRAMES: usize = 1 << 22;
const DEFAULT_SECONDS: f64 = 2.0;
/// The least size of a buffer that is sized by time. It costs little and saves wake-ups.
const MIN_BYTES: usize = 128 * 1024;

choice! {
    /// What happens when the pipeline cannot keep up and the buffer is full.
    pub enum WhenFull {
        /// The source waits for room.
        Wait = "wait",
        /// Frames are dropped and counted.
        Drop = "drop",
    }
}

table! {
    /// The buffer between the source and the pipeline.
    pub struct Buffer {
        /// The time of the stream that the buffer holds.
        pub seconds: Option<f64>, range(0.01, 3600.0), unit("s"), example("2.0"),
            otherwise("2 s, but at least one window and 128 KiB");
        /// The number of samples that the buffer holds, instead of `seconds`.
        pub samples: Option<usize>, range(16, MAX_FRAMES), otherwise("as many as `seconds` says"), example("4096");
        /// What happens when the buffer is full: "drop" drops samples and counts them, "wait" holds the source back.
        pub when_full: Option<WhenFull>, example("\"drop\""),
            otherwise("\"drop\" for a stream that cannot be held back, such as a sensor or a recording at its own pace; else \"wait\"");
    }
}

impl Buffer {
    pub fn check(&self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        if self.samples.is_some() && self.seconds.is_some() {
            checker.problem(&key.child("samples"), "write either samples or seconds");
        }
    }

    /// Returns how many frames of the stream the buffer holds; `window` is the number that one window needs.
    pub fn frames(&self, spec: &StreamSpec, window: usize) -> usize {
        if let Some(samples) = self.samples {
            return samples;
        }
        let bytes = spec.frame.values().saturating_mul(spec.sample.bytes()).max(1);
        let by_time = |seconds: f64| spec.rate_hz.map_or(0, |rate| (seconds * rate).ceil() as usize);
        let frames = match self.seconds {
            Some(seconds) => by_time(seconds),
            None => by_time(DEFAULT_SECONDS).max(MIN_BYTES / bytes).max(window),
        };
        frames.clamp(16, MAX_FRAMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{SampleType, Shape};

    #[test]
    fn a_buffer_holds_its_time_and_never_too_little() {
        let spec =
            |channels: usize, rate_hz: Option<f64>| StreamSpec::new(Shape::new([channels]), SampleType::I16, rate_hz);
        let buffer = Buffer { seconds: None, samples: None, when_full: None };
        assert_eq!(buffer.frames(&spec(1, Some(48_000.0)), 0), 96_000);
        assert_eq!(buffer.frames(&spec(1, Some(10.0)), 0), MIN_BYTES / 2, "a slow stream has the least size");
        assert_eq!(buffer.frames(&spec(64, None), 5_000), 5_000, "a window fits");
        let seconds = Buffer { seconds: Some(0.5), ..buffer.clone() };
        assert_eq!(seconds.frames(&spec(1, Some(100.0)), 500), 50, "what is written counts");
        assert_eq!(seconds.frames(&spec(1, None), 0), 16);
        assert_eq!(Buffer { samples: Some(33), ..buffer }.frames(&spec(1, Some(1e6)), 500), 33);
    }
}
