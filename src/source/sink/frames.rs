//! What a source hands to its pipeline: blocks of frames, each with its times and the gap before it.

use crate::units::MonoTime;

/// Why frames do not follow each other. A window that spans a gap is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The stream's time jumped ahead by more than the longest allowed gap.
    TimeJump,
    /// The stream's time stood still or went back.
    TimeBack,
    /// Frames were dropped because the pipeline could not keep up.
    Overflow,
    /// The stream was cut: a writer left, a recording started over, or several records in a row were rejected.
    Interrupted,
    /// The device or the kernel dropped frames before edgewatt read them.
    Overrun,
    /// The device, program or connection was away.
    Reconnect,
    /// One source of a join had no sample near enough to those of the other.
    Unmatched,
}

impl Gap {
    pub const ALL: [Self; 7] = [
        Self::TimeJump,
        Self::TimeBack,
        Self::Overflow,
        Self::Interrupted,
        Self::Overrun,
        Self::Reconnect,
        Self::Unmatched,
    ];

    /// Returns the gap that is counted under this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|gap| gap.name().as_bytes() == name)
    }

    /// Returns the name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::TimeJump => "time_jump",
            Self::TimeBack => "time_back",
            Self::Overflow => "overflow",
            Self::Interrupted => "interrupted",
            Self::Overrun => "overrun",
            Self::Reconnect => "reconnect",
            Self::Unmatched => "unmatched",
        }
    }
}

/// The times, the truth and the gap of a block of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// When the block arrived.
    pub arrival: MonoTime,
    /// The stream's own time of the first frame.
    pub stream_ns: Option<i64>,
    /// Index of the true class among the model's labels.
    pub truth: Option<u16>,
    /// The stream was broken just before the block.
    pub gap: Option<Gap>,
    /// Frames that arrived together with the block and come after it, in other blocks.
    pub follow: u32,
}

impl FrameHeader {
    /// Returns the stream's own time, or when the frame arrived if the stream has none, in nanoseconds. Only differences
    /// count: the two have different origins.
    pub fn time_ns(&self) -> i64 {
        self.stream_ns.unwrap_or_else(|| i64::try_from(self.arrival.0).unwrap_or(i64::MAX))
    }
}

/// Frames that follow each other without a gap.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// The times, the truth and the gap of the first of these frames.
    pub first: FrameHeader,
    /// The times and the truth of the last one.
    pub last: FrameHeader,
    pub count: usize,
    /// Frames that arrived together with these and come after them.
    pub follow: usize,
    /// `[count, frame]`, row-major.
    pub values: Pieces<'a>,
}

/// Values in the type of the stream; in two pieces if they wrap around the end of the ring.
#[derive(Debug, Clone, Copy)]
pub enum Pieces<'a> {
    F32(&'a [f32], &'a [f32]),
    I16(&'a [i16], &'a [i16]),
    U8(&'a [u8], &'a [u8]),
}

/// Returns the time from one frame to the next; 0 if the rate is not known.
pub fn period_ns(rate_hz: Option<f64>) -> i64 {
    rate_hz.map_or(0, |rate| (1e9 / rate).round() as i64)
}

/// Returns the time of the frame that comes `frames` frames after one at `ns`.
pub(super) fn later(ns: i64, frames: usize, period_ns: i64) -> i64 {
    ns.saturating_add(i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(period_ns))
}
