//! Why a record is rejected, and what of untrusted text is shown.

use crate::text::{cut, plain};

/// More of a text is not shown.
const MAX_COLUMNS: usize = 48;

/// Why a line is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Not CSV with the right number of columns, not a JSON object, or a value that is not a number.
    Malformed,
    /// A channel or the time is missing.
    Missing,
    /// NaN or infinite.
    NotFinite,
    /// Outside the channel's limits.
    OutOfRange,
    /// A time that no clock can have: the unit is another one.
    TimeRange,
    /// The time is that of the record before, and such records are refused.
    EqualTime,
    /// Longer than [`MAX_LINE_BYTES`](super::line_reader::MAX_LINE_BYTES), or a message above its limit.
    TooLong,
    /// The stream ended inside the line.
    Unterminated,
    /// A writer's first line does not name the columns in use.
    Header,
    /// The packet's checksum is not that of its bytes.
    Checksum,
    /// The packet came before.
    Duplicate,
    /// What a device was sending while its port was opened.
    Partial,
    /// A broker had kept it from before.
    Retained,
    /// A datagram or message without content.
    Empty,
}

impl Reject {
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::Missing,
        Self::NotFinite,
        Self::OutOfRange,
        Self::TimeRange,
        Self::EqualTime,
        Self::TooLong,
        Self::Unterminated,
        Self::Header,
        Self::Checksum,
        Self::Duplicate,
        Self::Partial,
        Self::Retained,
        Self::Empty,
    ];

    /// Returns the name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::NotFinite => "not_finite",
            Self::OutOfRange => "out_of_range",
            Self::TimeRange => "time_range",
            Self::EqualTime => "equal_time",
            Self::TooLong => "too_long",
            Self::Unterminated => "unterminated",
            Self::Header => "header",
            Self::Checksum => "checksum",
            Self::Duplicate => "duplicate",
            Self::Partial => "partial",
            Self::Retained => "retained",
            Self::Empty => "empty",
        }
    }
}

/// Returns text from outside as it is shown: on one line, cut, between backticks.
pub(crate) fn shown(text: &[u8]) -> String {
    let start = &text[..text.len().min(4 * MAX_COLUMNS)];
    format!("`{}`", cut(&plain(&String::from_utf8_lossy(start)), MAX_COLUMNS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_cut_and_cannot_control_a_terminal() {
        assert_eq!(shown(b"0,5\x1b[2J\r\n"), "`0,5?[2J??`");
        assert_eq!(shown(&[b'1'; 100_000]).chars().count(), MAX_COLUMNS + 2);
        assert_eq!(shown(b"\xff"), "`\u{fffd}`");
    }

    #[test]
    fn each_reason_is_counted_at_its_own_place() {
        for (place, reason) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.name());
        }
    }
}
