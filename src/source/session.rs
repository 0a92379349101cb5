//! Opens a device or program again and again: what comes and goes is waited for, with growing pauses.
//!
//! Owns when the next attempt is made. Leaves to `sink` how an absent source is counted and shown.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::{FrameSink, Gap, SourceError};
use crate::backoff::{Backoff, random};
use crate::stop::Waited;
use crate::units::MonoTime;

/// The pauses between attempts to open a device: short, because people plug it in and look.
pub const DEVICE_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// What gives frames and then ends sooner than this does not work well enough for short pauses.
const SETTLED: Duration = Duration::from_secs(1);

/// Opens a source with `open` and reads it with `read`, again and again until a stop is requested. After an attempt that
/// gave no frame, or ended at once, the pause before the next one is longer; `retry` has the shortest and the longest.
///
/// `read` returns `Break` at a stop, and `Continue` when the stream has ended. With `once`, the first end is the last.
///
/// # Errors
/// With `once`, the first error of `open` or `read`; else only that this thread cannot wait.
pub fn keep_open<S>(
    sink: &mut FrameSink,
    name: &str,
    (shortest, longest): (Duration, Duration),
    once: bool,
    mut open: impl FnMut() -> Result<S, SourceError>,
    mut read: impl FnMut(&mut S, &mut FrameSink) -> Result<ControlFlow<()>, SourceError>,
) -> Result<(), SourceError> {
    let mut backoff = Backoff::new(shortest, longest);
    loop {
        let (before, opened) = (sink.delivered(), MonoTime::now());
        let session = open().and_then(|mut session| {
            sink.opened(name);
            read(&mut session, sink)
        });
        let reason = match session {
            Ok(ControlFlow::Break(())) => return Ok(()),
            Ok(ControlFlow::Continue(())) if once => return Ok(()),
            Err(error) if once => return Err(error),
            Ok(ControlFlow::Continue(())) => "its stream has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        if sink.delivered() > before && MonoTime::now().since(opened) >= SETTLED {
            backoff.reset();
        }
        sink.absent(name, reason, MonoTime::now());
        sink.cut(Gap::Reconnect);
        sink.wake_reader();
        let due = MonoTime::now() + backoff.next(random());
        let failed = |error| SourceError::io("wait for", Path::new(name), error);
        if sink.stop().sleep_until(due).map_err(failed)? == Waited::Stopped {
            return Ok(());
        }
    }
}
