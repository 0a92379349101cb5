//! Reads one sample after the other from files that hold the newest value, such as those of sysfs.
//!
//! Owns the times at which samples are read, the counting of those that were missed, and the check that the rate is what
//! the configuration says. Leaves to each source what is read. Runs on the acquire thread.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nix::libc;

use super::{FrameSink, Reject, SourceError};
use crate::stop::Waited;
use crate::sys::attribute::ReadError;
use crate::units::{MonoTime, duration_ns};

/// So many samples in a row that cannot be read mean that the device does not work.
const MOST_FAILURES: u32 = 5;
/// A rate is measured over this time at least, and over so many samples.
const RATE_TIME: Duration = Duration::from_secs(5);
const RATE_FRAMES: u64 = 20;

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

/// The times at which samples are due. Pure.
#[derive(Debug)]
struct Ticks {
    due: MonoTime,
    period: Duration,
}

impl Ticks {
    /// Goes on to the next time after `now`. Returns how many were missed.
    fn next(&mut self, now: MonoTime) -> u64 {
        let period = duration_ns(self.period).max(1);
        let missed = now.0.saturating_sub(self.due.0) / period;
        self.due = MonoTime(self.due.0.saturating_add(missed.saturating_add(1).saturating_mul(period)));
        missed
    }
}

/// Compares the rate at which samples come with the one that the configuration says. Pure: time is passed in.
#[derive(Debug)]
pub struct RateWatch {
    nominal_hz: f64,
    /// The rates that are as good as the nominal one, as parts of it.
    low: f64,
    high: f64,
    begin: Option<MonoTime>,
    frames: u64,
    is_wrong: bool,
}

impl RateWatch {
    pub fn new(nominal_hz: f64, low: f64, high: f64) -> Self {
        Self { nominal_hz, low, high, begin: None, frames: 0, is_wrong: false }
    }

    /// Takes note of frames that came at `now`. Returns the measured rate if it is not the nominal one any more, and `None`
    /// inside if it is again.
    pub fn add(&mut self, frames: u64, now: MonoTime) -> Option<Option<f64>> {
        let Some(begin) = self.begin else {
            self.begin = Some(now);
            return None;
        };
        self.frames += frames;
        let time = now.since(begin);
        if time < RATE_TIME || self.frames < RATE_FRAMES {
            return None;
        }
        let rate = self.frames as f64 / time.as_secs_f64();
        self.begin = Some(now);
        self.frames = 0;
        let is_wrong = !(self.low..=self.high).contains(&(rate / self.nominal_hz));
        let was_wrong = std::mem::replace(&mut self.is_wrong, is_wrong);
        match (was_wrong, is_wrong) {
            (_, true) => Some(Some(rate)),
            (true, false) => Some(None),
            (false, false) => None,
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
    let period = Duration::try_from_secs_f64(1.0 / rate_hz).unwrap_or(Duration::MAX);
    let mut ticks = Ticks { due: MonoTime::now(), period };
    let mut watch = RateWatch::new(rate_hz, 0.95, f64::INFINITY);
    let mut checked = ticks.due;
    let mut failures = 0;
    let mut frame = vec![0.0f32; width];
    let failed = |reason: String| SourceError::Device { name: name.to_owned(), reason };
    loop {
        sink.wake_reader();
        let waited = sink.stop().sleep_until(ticks.due);
        if waited.map_err(|error| SourceError::io("wait for", Path::new(name), error))? == Waited::Stopped {
            return Ok(ControlFlow::Break(()));
        }
        let before = MonoTime::now();
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
        match ticks.next(after) {
            0 => {}
            missed => sink.missed(missed),
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
    fn a_tick_that_was_missed_is_counted_and_the_next_is_on_time() {
        let mut ticks = Ticks { due: MonoTime(1000), period: Duration::from_nanos(100) };
        let mut next = |now| (ticks.next(MonoTime(now)), ticks.due.0);
        assert_eq!(next(1000), (0, 1100));
        assert_eq!(next(1199), (0, 1200), "late, but before the next one");
        assert_eq!(next(1300), (1, 1400));
        assert_eq!(next(2050), (6, 2100));
        assert_eq!(next(2050), (0, 2200), "early");
    }

    #[test]
    fn a_rate_is_wrong_until_it_is_right_again() {
        let mut watch = RateWatch::new(100.0, 0.95, 1.1);
        let mut now = MonoTime(0);
        let mut run = |hz: u64| {
            let verdicts: Vec<_> = (0..hz * 6)
                .filter_map(|_| {
                    now = now + Duration::from_secs(1) / u32::try_from(hz).unwrap();
                    watch.add(1, now)
                })
                .collect();
            verdicts.last().map(|verdict| verdict.map(f64::round))
        };
        assert_eq!(run(100), None);
        assert_eq!(run(80), Some(Some(84.0)), "the first second was faster");
        assert_eq!(run(80), Some(Some(80.0)));
        assert_eq!(run(100), Some(Some(88.0)), "the first three seconds were slower");
        assert_eq!(run(100), Some(None), "it is right again");
        assert_eq!(run(130), Some(Some(130.0)));
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
