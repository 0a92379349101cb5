//! Reads the buffer of an IIO device: whole records from its character device.
//!
//! Owns the reading loop, the times of the samples, and the finding of losses. After the device was removed, `poll` never
//! wakes and tells nothing, so each wait has a limit and a read follows it. Allocates nothing after it is built.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags};

use super::plan::Plan;
use super::scan::{ElementType, ScanLayout};
use super::setup::TIME;
use crate::source::rate::RateWatch;
use crate::source::sink::period_ns;
use crate::source::{FrameSink, Reject, SourceError};
use crate::stop::Waited;
use crate::sys::holder::who;
use crate::units::MonoTime;

/// So many bytes are read at once, at least.
const READ_BYTES: usize = 16 * 1024;
/// A device that was removed is noticed within this time.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// A buffer that is on and gives nothing for so long is opened again.
const SILENCE: Duration = Duration::from_secs(5);
/// Clocks of sensors are this wrong, and more is a wrong configuration.
const RATE_TOLERANCE: f64 = 0.1;

/// An open buffer.
pub(super) struct BufferReader {
    file: File,
    name: String,
    rate_hz: f64,
    /// The samples that the kernel keeps: if it held so many, it has dropped others.
    length: usize,
    /// The longest time for which it may give nothing.
    silence: Duration,
    record: Record,
    times: Times,
    bytes: Vec<u8>,
}

/// How a record becomes a frame.
struct Record {
    bytes: usize,
    /// For each input of the plan: its type, and the byte at which it begins.
    places: Vec<(ElementType, usize)>,
    time: Option<(ElementType, usize)>,
    plan: Plan,
    inputs: Vec<f64>,
    frame: Vec<f32>,
}

/// What a reader must know of the buffer.
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) rate_hz: f64,
    pub(super) width: usize,
    pub(super) watermark: usize,
    pub(super) length: usize,
}

/// Opens the character device. Only one program can have it.
///
/// # Errors
/// It cannot be opened; says who has it, or what gives permission.
pub(super) fn open(path: &Path) -> Result<File, String> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    file.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => format!("another program reads {}; {}", path.display(), who(path)),
        _ => format!("cannot open {}: {error}", path.display()),
    })
}

impl BufferReader {
    /// Creates a reader of the open character device `file`, whose records have this layout.
    ///
    /// # Errors
    /// The records do not hold what the plan needs; says what.
    pub(super) fn new(file: File, layout: &ScanLayout, plan: Plan, settings: Settings) -> Result<Self, String> {
        let record = Record::new(layout, plan, settings.width)?;
        let watermark = settings.watermark.min(settings.length).max(1);
        let records = (READ_BYTES / record.bytes.max(1)).max(watermark);
        let period = Duration::try_from_secs_f64(1.0 / settings.rate_hz).unwrap_or(Duration::MAX);
        let per_wake = period.saturating_mul(u32::try_from(watermark).unwrap_or(u32::MAX));
        Ok(Self {
            file,
            name: settings.name,
            rate_hz: settings.rate_hz,
            length: settings.length.max(1),
            silence: per_wake.saturating_mul(10).max(SILENCE),
            bytes: vec![0; records * record.bytes],
            record,
            times: Times::new(settings.rate_hz),
        })
    }

    /// Reads until a stop or a failure.
    ///
    /// # Errors
    /// The device is gone, or gives nothing any more.
    pub(super) fn read(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        self.empty()?;
        let mut watch = RateWatch::new(self.rate_hz, 1.0 - RATE_TOLERANCE, 1.0 + RATE_TOLERANCE);
        let mut last = MonoTime::now();
        loop {
            sink.wake_reader();
            let rested = sink.rest(None);
            let stop = sink.stop();
            let limit = MonoTime::now() + LONGEST_WAIT;
            let waited = rested.and_then(|rested| match rested {
                Waited::Stopped => Ok(rested),
                _ => stop.wait(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], Some(limit)),
            });
            if waited.map_err(|error| SourceError::io("wait for", Path::new(&self.name), error))? == Waited::Stopped {
                return Ok(ControlFlow::Break(()));
            }
            let (flow, records) = self.drain(sink)?;
            if flow.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let now = MonoTime::now();
            if records > 0 {
                last = now;
                self.say_rate(watch.add(records as u64, now), sink);
            } else if now.since(last) > self.silence {
                let reason = format!(
                    "its buffer has given nothing for {:.0} s; if that stays so, run: sudo edgewatt setup-sensors --restart",
                    self.silence.as_secs_f64()
                );
                return Err(self.failed(reason));
            }
        }
    }

    /// Throws away what was recorded before this program read it.
    fn empty(&mut self) -> Result<(), SourceError> {
        let most = self.length.saturating_mul(2 * self.record.bytes);
        let mut read = 0;
        while read < most {
            match self.fill()? {
                0 => break,
                bytes => read += bytes,
            }
        }
        Ok(())
    }

    /// Feeds all records that are there. Returns how many.
    fn drain(&mut self, sink: &mut FrameSink) -> Result<(ControlFlow<()>, usize), SourceError> {
        let mut records = 0;
        loop {
            let length = self.fill()?;
            let arrival = MonoTime::now();
            for bytes in self.bytes[..length].chunks_exact(self.record.bytes) {
                let raw_time = self.record.decode(bytes);
                // A buffer that was full has dropped samples until it was read.
                let may_have_lost = records >= self.length;
                let (time, lost) = raw_time.map_or((None, 0), |raw| self.times.next(raw, may_have_lost));
                if lost > 0 {
                    sink.lost(lost);
                }
                let frame = &self.record.frame;
                let flow = match frame.iter().all(|value| value.is_finite()) {
                    true => sink.frames(frame, arrival, time),
                    false => sink.reject(Reject::NotFinite, arrival, || format!("a sample has the values {frame:?}")),
                };
                if flow.is_break() {
                    return Ok((ControlFlow::Break(()), records));
                }
                records += 1;
            }
            if length < self.bytes.len() {
                self.times.was_full |= records >= self.length;
                return Ok((ControlFlow::Continue(()), records));
            }
        }
    }

    /// Reads whole records; 0 bytes if there are none now.
    fn fill(&mut self) -> Result<usize, SourceError> {
        loop {
            match self.file.read(&mut self.bytes) {
                Ok(0) => return Err(self.failed("its buffer was switched off".into())),
                Ok(length) if length.is_multiple_of(self.record.bytes) => return Ok(length),
                Ok(length) => {
                    let record = self.record.bytes;
                    let reason = format!("{length} bytes are not whole records of {record}: its channels were changed");
                    return Err(self.failed(reason));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(self.failed(gone(error))),
            }
        }
    }

    fn say_rate(&self, change: Option<Option<f64>>, sink: &FrameSink) {
        let Some(change) = change else { return };
        sink.trouble(change.map(|rate| {
            format!(
                "{rate:.1} samples come in a second, and rate_hz is {}; set rate_hz to what the device gives",
                self.rate_hz
            )
        }));
    }

    fn failed(&self, reason: String) -> SourceError {
        SourceError::Device { name: self.name.clone(), reason }
    }
}

/// Returns why a read has failed.
fn gone(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => "the device was removed".into(),
        _ => format!("cannot read it: {error}"),
    }
}

impl Record {
    fn new(layout: &ScanLayout, plan: Plan, width: usize) -> Result<Self, String> {
        let mut places = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let channel = &input.channel;
            let (kind, begin) = layout.find(channel).ok_or_else(|| format!("its buffer is on without {channel}"))?;
            let part = match input.part {
                None if kind.repeat > 1 => {
                    let last = kind.repeat - 1;
                    return Err(format!(
                        "{channel} has {} numbers: write {channel}[0] to {channel}[{last}]",
                        kind.repeat
                    ));
                }
                Some(part) if part >= kind.repeat => {
                    return Err(format!("{channel}[{part}] does not exist: {channel} has {} numbers", kind.repeat));
                }
                part => part.unwrap_or(0),
            };
            places.push((kind, begin + part * kind.number_bytes()));
        }
        let inputs = vec![0.0; places.len()];
        let bytes = layout.record_bytes.max(1);
        Ok(Self { bytes, places, time: layout.find(TIME), plan, inputs, frame: vec![0.0; width] })
    }

    /// Makes a frame of a record. Returns its time, if it has one.
    fn decode(&mut self, record: &[u8]) -> Option<i64> {
        let places = self.places.iter().zip(&self.plan.inputs);
        for (value, ((kind, begin), input)) in self.inputs.iter_mut().zip(places) {
            *value = input.value(kind.decode(record.get(*begin..).unwrap_or_default()));
        }
        self.plan.mix(&self.inputs, &mut self.frame);
        self.time.map(|(kind, begin)| kind.decode_integer(record.get(begin..).unwrap_or_default()))
    }
}

/// Makes times that go forward of those that a driver gives. Pure.
///
/// Some drivers give a whole batch of samples one time: those after the first are a period apart. A time that goes back is
/// left, because a clock was set.
#[derive(Debug)]
struct Times {
    period_ns: i64,
    last_raw: Option<i64>,
    last: i64,
    /// The kernel's buffer was full at the last reading.
    was_full: bool,
}

impl Times {
    fn new(rate_hz: f64) -> Self {
        Self { period_ns: period_ns(Some(rate_hz)).max(1), last_raw: None, last: 0, was_full: false }
    }

    /// Returns the time of the next sample, and how many samples were lost before it: none unless the buffer was full.
    fn next(&mut self, raw: i64, may_have_lost: bool) -> (Option<i64>, u64) {
        let was_full = std::mem::take(&mut self.was_full) || may_have_lost;
        let Some(last_raw) = self.last_raw.replace(raw) else {
            self.last = raw;
            return (Some(raw), 0);
        };
        let step = raw.saturating_sub(self.last);
        let lost = if was_full && step > self.period_ns.saturating_mul(3) / 2 {
            u64::try_from(step.saturating_add(self.period_ns / 2) / self.period_ns - 1).unwrap_or(0)
        } else {
            0
        };
        self.last = match raw.cmp(&last_raw) {
            std::cmp::Ordering::Less => raw,
            std::cmp::Ordering::Equal => self.last.saturating_add(self.period_ns),
            std::cmp::Ordering::Greater => raw.max(self.last.saturating_add(1)),
        };
        (Some(self.last), lost)
    }
}

#[cfg(test)]
mod tests;
