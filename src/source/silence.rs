//! When a source counts as silent. Pure.

use std::time::Duration;

/// A source is silent after this time, or after so many periods of its samples if that is longer. It is also the shortest
/// time in which other faults of a stream, such as rejected records, mean something.
pub(crate) const SILENCE_MIN: Duration = Duration::from_secs(10);
const SILENCE_PERIODS: f64 = 10.0;

/// Returns the longest time without a sample of a source with this rate that is not silent.
pub(crate) fn silence_max(rate_hz: f64) -> Duration {
    Duration::try_from_secs_f64(SILENCE_PERIODS / rate_hz).unwrap_or(Duration::MAX).max(SILENCE_MIN)
}

/// Says that nothing has come for so long.
pub(crate) fn silent_in_words(silence: Duration) -> String {
    format!("no sample has come for {:.0} s; check what feeds it", silence.as_secs_f64())
}
