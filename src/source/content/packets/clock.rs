//! The clock of a board, whose integers start again after the highest one. Pure.

use std::time::Duration;

use super::TimeUnit;
use super::layout::Number;
use crate::source::Reject;
use crate::source::field::{Meaning, sign_extended};
use crate::source::records::{time_of_number, time_of_whole};

/// The times of one stream.
#[derive(Debug)]
pub(super) struct DeviceClock {
    pub(super) unit: TimeUnit,
    /// The last reading, and how many units it is after those before it were added up.
    last: Option<(u64, i64)>,
}

impl DeviceClock {
    pub(super) fn new(unit: TimeUnit) -> Self {
        Self { unit, last: None }
    }

    /// The board has started again, or another one sends: the next reading does not follow the last one.
    pub(super) fn restart(&mut self) {
        self.last = None;
    }

    /// Returns the time that `time` reads in a part of a packet, in nanoseconds.
    ///
    /// # Errors
    /// Why it is not a time.
    pub(super) fn read(&mut self, time: &Number, part: &[u8]) -> Result<i64, Reject> {
        let bits = time.bits(part).ok_or(Reject::Malformed)?;
        if time.kind.meaning == Meaning::Float {
            return time_of_number(time.kind.number(bits), self.unit);
        }
        let width = time.kind.width();
        let units = match self.last {
            // The way to the next reading is the shorter one, ahead or back.
            Some((last, units)) => units.checked_add(sign_extended(bits.wrapping_sub(last), width)),
            None if time.kind.meaning == Meaning::Signed => Some(sign_extended(bits, width)),
            None => i64::try_from(bits).ok(),
        };
        let units = units.ok_or(Reject::TimeRange)?;
        let ns = time_of_whole(units, self.unit)?;
        self.last = Some((bits, units));
        Ok(ns)
    }
}

/// Returns the longest step that such a clock shows: one of more than half of its range looks like a step back. `None` if it
/// does not start again.
pub(super) fn longest_step(time: &Number, unit: TimeUnit) -> Option<Duration> {
    let units = 2f64.powi(i32::try_from(time.kind.width()).ok()? - 1);
    let is_counter = time.kind.meaning != Meaning::Float;
    is_counter.then(|| Duration::try_from_secs_f64(units * unit.ns() / 1e9).unwrap_or(Duration::MAX))
}
