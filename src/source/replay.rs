//! Plays a recording: at its own pace, at a multiple of it, or as fast as the pipeline takes it.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error, Visitor};

use super::{
    Buffer, FrameProducer, FrameSink, Gap, Next, OpenOptions, RecordParser, RecordReader, Records, SourceError,
    SourceKind, WhenFull,
};
use crate::schema::expanded::Table;
use crate::schema::{Checker, Form, Key, Value, table};
use crate::stop::Waited;
use crate::stream::StreamSpec;
use crate::units::MonoTime;

table! {
    /// Plays a recording: a file of lines, as `records` describes them.
    pub struct Replay {
        /// The file with the recording.
        pub path: PathBuf, example("\"recording.csv\"");
        /// How fast the recording is played: a factor of real time above 0, or "max" for as fast as the pipeline takes it.
        pub speed: Speed = Speed::Times(1.0), limits("above 0, or `\"max\"`");
        /// Where to start, after the first sample of the recording. What is before is skipped.
        pub start_s: f64 = 0.0, range(0.0, 1e9), unit("s");
        /// Whether the recording starts over at its end.
        pub repeat as "loop": bool = false;
        /// What one line holds.
        pub records: Records;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

/// A factor of real time, or as fast as possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    Times(f64),
    Max,
}

impl Value for Speed {
    fn type_name() -> String {
        "number or string".to_owned()
    }
    fn form() -> Form {
        Form::Any(vec![Form::Positive, Form::Words(vec!["max".to_owned()])])
    }
    fn to_toml(&self) -> String {
        match self {
            Self::Times(factor) => factor.to_toml(),
            Self::Max => "\"max\"".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpeedVisitor;
        impl Visitor<'_> for SpeedVisitor {
            type Value = Speed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a factor of real time above 0, such as 1.0, or \"max\"")
            }
            fn visit_f64<E: Error>(self, factor: f64) -> Result<Speed, E> {
                if factor > 0.0 && factor.is_finite() {
                    Ok(Speed::Times(factor))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(factor), &self))
                }
            }
            fn visit_i64<E: Error>(self, factor: i64) -> Result<Speed, E> {
                self.visit_f64(factor as f64)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Speed, E> {
                if text == "max" {
                    Ok(Speed::Max)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
        }
        deserializer.deserialize_any(SpeedVisitor)
    }
}

impl SourceKind for Replay {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.path = checker.path(&self.path);
        self.check_ranges(key, checker);
        if self.records.rate_hz.is_none() && self.records.time.is_none() {
            if matches!(self.speed, Speed::Times(_)) {
                let message =
                    "the recording's pace is unknown: add records.time or records.rate_hz, or speed = \"max\"";
                checker.problem(key, message);
            }
            if self.start_s > 0.0 {
                let message = "the times of the samples are unknown: add records.time or records.rate_hz";
                checker.problem(&key.child("start_s"), message);
            }
        }
        self.records.check(&key.child("records"), checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.records.spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // A recording at its own pace takes the part of a live sensor, which cannot be held back.
        let when_full = match self.speed {
            Speed::Times(_) => WhenFull::Drop,
            Speed::Max => WhenFull::Wait,
        };
        (&self.buffer, when_full)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let parser = RecordParser::new(self.records.clone(), options.labels);
        Ok(Box::new(ReplaySource::open(self, parser)?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.open(OpenOptions::default()).map(drop)
    }

    fn records(&self) -> Option<&Records> {
        Some(&self.records)
    }

    fn recording(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn speed(&self) -> f64 {
        match self.speed {
            Speed::Times(factor) => factor,
            Speed::Max => 1.0,
        }
    }

    fn endless(&self) -> Option<&'static str> {
        self.repeat.then_some("plays its recording in a loop; set loop = false")
    }
}

pub struct ReplaySource {
    file: File,
    path: PathBuf,
    parser: RecordParser,
    clock: ReplayClock,
    repeat: bool,
}

impl ReplaySource {
    /// Opens the recording and reads its header, so that a wrong file is refused before anything runs.
    pub fn open(replay: &Replay, parser: RecordParser) -> Result<Self, SourceError> {
        let path = replay.path.clone();
        let io_error = |e| SourceError::io("open the recording", &path, e);
        // Checked before it is opened, because opening a FIFO would wait for a writer.
        if !std::fs::metadata(&path).map_err(io_error)?.is_file() {
            return Err(SourceError::NotAFile { path });
        }
        let mut file = File::open(&path).map_err(io_error)?;
        // By a parser of its own: what this one has seen will be seen again.
        read_to_first_record(&mut file, &mut RecordParser::new(replay.records.clone(), Vec::new()), &path)?;
        file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        // A stream with its own time needs no nominal rate.
        let rate_hz = replay.records.rate_hz.filter(|_| replay.records.time.is_none());
        let clock = ReplayClock::new(replay.speed, replay.start_s, rate_hz);
        Ok(Self { file, path, parser, clock, repeat: replay.repeat })
    }

    /// Plays the recording once.
    fn play(&mut self, feed: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let path = self.path.clone();
        let io_error = |e: io::Error| SourceError::io("read the recording", &path, e);
        let Self { file, parser, clock, .. } = self;
        file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        let mut reader = RecordReader::new(parser);
        clock.restart(MonoTime::now());
        let (mut arrival, mut is_at_end) = (MonoTime::now(), false);
        loop {
            let next = if is_at_end { reader.next_at_end(parser) } else { reader.next(parser) };
            let parsed = match next.map_err(|error| reader.refused(&path, error))? {
                Next::Record(record) => Ok(record),
                Next::Rejected(reason) => Err(reason),
                Next::More if is_at_end => return self.end(),
                Next::More => {
                    feed.note(&mut reader, parser);
                    feed.wake_reader();
                    is_at_end = reader.fill(file).map_err(io_error)? == 0;
                    arrival = MonoTime::now();
                    continue;
                }
            };
            match clock.due(parsed.ok().and_then(|record| record.stream_ns)) {
                Due::Skipped => continue,
                Due::Now => {}
                Due::At(due) => {
                    feed.wake_reader();
                    if feed.stop().sleep_until(due).map_err(io_error)? == Waited::Stopped {
                        return Ok(ControlFlow::Break(()));
                    }
                    arrival = MonoTime::now();
                }
            }
            let taken = match parsed {
                Ok(record) => feed.take(record, parser.values(), arrival),
                Err(reason) => feed.reject(reason, arrival, || reader.explain(parser, path.display(), reason)),
            };
            if taken.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// The recording has been played to its end.
    fn end(&self) -> Result<ControlFlow<()>, SourceError> {
        if self.clock.skipping {
            return Err(SourceError::StartsTooLate { path: self.path.clone(), start_s: self.clock.start_s });
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl FrameProducer for ReplaySource {
    fn run(mut self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError> {
        loop {
            if self.play(feed)? == ControlFlow::Break(()) || !self.repeat {
                return Ok(());
            }
            if feed.accepted() == 0 {
                return Err(SourceError::NothingAccepted { path: self.path.clone() });
            }
            feed.cut(Gap::Interrupted);
        }
    }
}

/// Reads until the columns are known.
fn read_to_first_record(file: &mut File, parser: &mut RecordParser, path: &Path) -> Result<(), SourceError> {
    let mut reader = RecordReader::new(parser);
    loop {
        let is_at_end = reader.fill(file).map_err(|e| SourceError::io("read the recording", path, e))? == 0;
        let next = if is_at_end { reader.next_at_end(parser) } else { reader.next(parser) };
        let next = next.map_err(|error| reader.refused(path, error))?;
        if is_at_end || next != Next::More {
            return Ok(());
        }
    }
}

/// When a sample is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It is before the start.
    Skipped,
    Now,
    At(MonoTime),
}

/// The time at which each sample is due, for one pass through the recording.
struct ReplayClock {
    speed: Speed,
    start_s: f64,
    /// The nominal rate, if the stream has no time.
    rate_hz: Option<f64>,
    begun: MonoTime,
    first_ns: Option<i64>,
    count: u64,
    /// No sample at or after the start has come yet.
    skipping: bool,
}

impl ReplayClock {
    fn new(speed: Speed, start_s: f64, rate_hz: Option<f64>) -> Self {
        Self { speed, start_s, rate_hz, begun: MonoTime(0), first_ns: None, count: 0, skipping: start_s > 0.0 }
    }

    fn restart(&mut self, now: MonoTime) {
        *self = Self { begun: now, ..Self::new(self.speed, self.start_s, self.rate_hz) };
    }

    /// Returns when the next sample is due, by its own time, else by the nominal rate; a line that was rejected has no time.
    fn due(&mut self, stream_ns: Option<i64>) -> Due {
        let elapsed_s = match (stream_ns, self.rate_hz) {
            (Some(now), _) => Some(now.saturating_sub(*self.first_ns.get_or_insert(now)) as f64 / 1e9),
            (None, Some(rate)) => Some(self.count as f64 / rate),
            (None, None) => None,
        };
        self.count += 1;
        self.skipping &= elapsed_s.is_none_or(|elapsed_s| elapsed_s < self.start_s);
        match (self.speed, elapsed_s) {
            _ if self.skipping => Due::Skipped,
            (Speed::Times(factor), Some(elapsed_s)) => {
                let wait_s = (elapsed_s - self.start_s).max(0.0) / factor;
                Due::At(self.begun + Duration::try_from_secs_f64(wait_s).unwrap_or(Duration::MAX))
            }
            _ => Due::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(speed: Speed, start_s: f64, rate_hz: Option<f64>) -> ReplayClock {
        ReplayClock::new(speed, start_s, rate_hz)
    }

    #[test]
    fn the_pace_follows_the_recordings_time_or_the_rate() {
        let second = Duration::from_secs(1);
        let mut by_time = clock(Speed::Times(2.0), 0.0, None);
        assert_eq!(by_time.due(Some(5_000_000_000)), Due::At(by_time.begun));
        assert_eq!(by_time.due(Some(9_000_000_000)), Due::At(by_time.begun + 2 * second));
        assert_eq!(by_time.due(None), Due::Now, "a rejected line waits for nothing");
        assert_eq!(by_time.due(Some(0)), Due::At(by_time.begun), "time that goes back is not waited for");

        let mut by_rate = clock(Speed::Times(1.0), 0.0, Some(0.5));
        assert_eq!(by_rate.due(None), Due::At(by_rate.begun));
        assert_eq!(by_rate.due(None), Due::At(by_rate.begun + 2 * second));
        assert_eq!(clock(Speed::Max, 0.0, None).due(Some(1)), Due::Now);
    }

    #[test]
    fn what_is_before_the_start_is_skipped() {
        let second = Duration::from_secs(1);
        let mut by_time = clock(Speed::Times(2.0), 3.0, None);
        let due: Vec<Due> = [Some(10), None, Some(12), Some(13), None, Some(17)]
            .map(|s: Option<i64>| by_time.due(s.map(|s| s * 1_000_000_000)))
            .into();
        let begun = by_time.begun;
        let (skipped, later) = (Due::Skipped, Due::At(begun + 2 * second));
        assert_eq!(due, [skipped, skipped, skipped, Due::At(begun), Due::Now, later]);

        let mut by_rate = clock(Speed::Max, 1.0, Some(2.0));
        assert_eq!([(); 3].map(|()| by_rate.due(None)), [skipped, skipped, Due::Now]);
        by_rate.restart(begun);
        assert_eq!(by_rate.due(None), skipped, "each pass starts there");
    }
}
