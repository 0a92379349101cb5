//! Reads one sample after the other from files that hold the newest value, such as those of sysfs.
//!
//! Owns what becomes of samples that cannot be read. Leaves to `rate` when they are read, and to each source what is read.
//! Runs on the acquire thread.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nix::libc;

use super::rate::{Clock, RateWatch};
use super::{FrameSink, Reject, SourceError};
use crate::stop::Waited;
use crate::sys::attribute::ReadError;
use crate::units::MonoTime;

/// So many samples in a row that cannot be read mean that the device does not work.
const MOST_FAILURES: u32 = 5;

/// Why there is no sample.
#[derive(Debug)]
pub enum Missed {
    /// The device did not answer; it may do so next time.
    Failed(String),
    /// It gave something that is not a number.
    Garbage(String),
    /// The device is gone.
    Gone(String),
}

impl Missed {
    /// Returns what the failed reading of the attribute `path` means.
    pub fn of(path: &Path, error: ReadError) -> Self {
        let why = format!("{}: {error}", path.display());
        match error {
            ReadError::Text(_) => Self::Garbage(why),
            ReadError::Io(error) => match error.raw_os_error() {
                Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => Self::Gone(why),
                _ if error.kind() == io::ErrorKind::PermissionDenied => Self::Gone(why),
                _ => Self::Failed(why),
            },
        }
    }

    /// Returns why, in words.
    pub fn reason(self) -> String {
        match self {
            Self::Failed(why) | Self::Garbage(why) | Self::Gone(why) => why,
        }
    }
}

/// Reads samples of `width` values at `rate_hz` until a stop or a failure. `read` fills a sample. `check` is called about
/// once in a second; its error ends the reading.
///
/// # Errors
/// The device is gone, gives nothing to be used several times in a row, or `check` has failed.
pub fn poll(
    sink: &mut FrameSink,
    name: &str,
    (rate_hz, width): (f64, usize),
    mut read: impl FnMut(&mut [f32]) -> Result<(), Missed>,
    mut check: impl FnMut() -> Result<(), SourceError>,
) -> Result<ControlFlow<()>, SourceError> {
    let mut checked = MonoTime::now();
    let mut clock = Clock::new(checked, rate_hz);
    let mut watch = RateWatch::new(rate_hz, 0.95, f64::INFINITY);
    let mut failures = 0;
    let mut frame = vec![0.0f32; width];
    let failed = |reason: String| SourceError::Device { name: name.to_owned(), reason };
    loop {
        sink.wake_reader();
        let waited = sink.stop().sleep_until(clock.due());
        if waited.map_err(|error| SourceError::io("wait for", Path::new(name), error))? == Waited::Stopped {
            return Ok(ControlFlow::Break(()));
        }
        let before = MonoTime::now();
        sink.missed(clock.read(before));
        let sample = read(&mut frame);
        let after = MonoTime::now();
        failures = if sample.is_ok() { 0 } else { failures + 1 };
        let flow = match sample {
            Ok(()) if frame.iter().all(|value| value.is_finite()) => {
                let middle = before.0.midpoint(after.0);
                say_rate(watch.add(1, after), rate_hz, sink);
                sink.frames(&frame, after, i64::try_from(middle).ok())
            }
            Ok(()) => sink.reject(Reject::NotFinite, after, || format!("{name}: a sample has the values {frame:?}")),
            Err(Missed::Gone(reason)) => return Err(failed(reason)),
            Err(missed) if failures >= MOST_FAILURES => return Err(failed(missed.reason())),
            Err(Missed::Garbage(reason)) => sink.reject(Reject::Malformed, after, || reason),
            Err(Missed::Failed(_)) => {
                sink.missed(1);
                ControlFlow::Continue(())
            }
        };
        if flow.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if after.since(checked) >= Duration::from_secs(1) {
            checked = after;
            check()?;
        }
    }
}

fn say_rate(change: Option<Option<f64>>, rate_hz: f64, sink: &FrameSink) {
    let Some(change) = change else { return };
    sink.trouble(change.map(|rate| {
        format!(
            "only {rate:.1} samples can be read in a second, and rate_hz is {rate_hz}; set rate_hz to what it gives, name \
             fewer channels, or make its bus faster"
        )
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::super::sink::frame_ring;
    use super::super::{FrameReader, SinkSettings, WhenFull};
    use super::*;
    use crate::stop::Stop;
    use crate::stream::{SampleType, Shape, StreamSpec};

    fn ring() -> (FrameSink, FrameReader) {
        let spec = StreamSpec::new(Shape::new([1]), SampleType::F32, Some(1000.0));
        let settings = SinkSettings { spec, frames: 64, frames_per_block: 1, when_full: WhenFull::Drop };
        frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default())
    }

    #[test]
    fn what_fails_once_is_counted_and_what_fails_always_ends_it() {
        let (mut sink, reader) = ring();
        let mut turn = 0;
        let read = |frame: &mut [f32]| {
            turn += 1;
            frame[0] = turn as f32;
            match turn {
                2 => Err(Missed::Failed("EIO".into())),
                3 => Err(Missed::Garbage("N/A".into())),
                5 => {
                    frame[0] = f32::NAN;
                    Ok(())
                }
                7.. => Err(Missed::Failed("EIO again".into())),
                _ => Ok(()),
            }
        };
        let error = poll(&mut sink, "chip", (1000.0, 1), read, || Ok(())).unwrap_err();
        assert_eq!((error.to_string().as_str(), turn), ("chip: EIO again", 11));
        let stats = reader.stats;
        assert_eq!(stats.samples.load(Ordering::Relaxed), 3, "1, 4 and 6");
        assert_eq!((stats.rejects(Reject::Malformed), stats.rejects(Reject::NotFinite)), (1, 1));
        // The machine may have missed more.
        assert!(stats.lost.load(Ordering::Relaxed) >= 5);
    }

    #[test]
    fn a_device_that_is_gone_ends_it_at_once_and_so_does_a_stop() {
        let (mut sink, reader) = ring();
        let gone =
            |_: &mut [f32]| Err(Missed::of(Path::new("/sys/x"), io::Error::from_raw_os_error(libc::ENODEV).into()));
        let error = poll(&mut sink, "chip", (1000.0, 1), gone, || Ok(())).unwrap_err().to_string();
        assert!(error.contains("/sys/x: No such device"), "{error}");
        sink.stop().request();
        assert!(poll(&mut sink, "chip", (1000.0, 1), |_| Ok(()), || Ok(())).unwrap().is_break());
        assert_eq!(reader.stats.samples.load(Ordering::Relaxed), 0);
    }
}
