//! Plays a recording: at its own pace, at a multiple of it, or as fast as the pipeline takes it.
//!
//! Owns the keys, and when each frame is due. Leaves to `recording` what is in the file.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error, Visitor};

use super::recording::{Found, RecordedStream, RecordingFile};
use super::{Buffer, FrameProducer, FrameSink, Gap, OpenOptions, Records, SourceError, SourceKind, Survey, WhenFull};
use crate::schema::{Checker, Form, Key, Value, family, table};
use crate::stop::Waited;
use crate::stream::{SampleType, Shape, StreamSpec};
use crate::sys::Machine;
use crate::units::MonoTime;

family! {
    /// What the file holds. A WAV file, and the manifest of a recording that `edgewatt record` has made, say it themselves.
    pub enum FileContent: FileContentKind {
        mod records: Records;
        mod bytes: Bytes;
        mod wav: Wav;
    }
}

/// What each kind of content is.
pub trait FileContentKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the stream in the file at `path`.
    ///
    /// # Errors
    /// The file, which the kind has to look into, cannot be read or does not hold it.
    fn describe(&self, path: &Path) -> Result<RecordedStream, SourceError>;
}

table! {
    /// Plays a recording: a WAV file, a recording that `edgewatt record` has made, lines of text, or raw samples.
    pub struct Replay {
        /// The file with the recording: a WAV file, or the manifest (.json) of a recording that `edgewatt record` has made;
        /// or a file that `records` or `bytes` describes.
        pub path: RecordingPath, example("\"recording.csv\"");
        /// How fast the recording is played: a factor of real time above 0, or "max" for as fast as the pipeline takes it.
        pub speed: Speed = Speed::Times(1.0), limits("above 0, or `\"max\"`");
        /// Where to start, after the first sample of the recording. What is before is skipped.
        pub start_s: f64 = 0.0, range(0.0, 1e9), unit("s");
        /// Whether the recording starts over at its end.
        pub repeat as "loop": bool = false;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
        family pub content: Option<FileContent>;
    }
}

/// The path of a recording, and after the check of the configuration what was found there.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingPath {
    pub path: PathBuf,
    found: Option<Box<RecordedStream>>,
}

impl Value for RecordingPath {
    fn type_name() -> String {
        PathBuf::type_name()
    }
    fn form() -> Form {
        PathBuf::form()
    }
    fn to_toml(&self) -> String {
        self.path.to_toml()
    }
}

impl<'de> Deserialize<'de> for RecordingPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { path: PathBuf::deserialize(deserializer)?, found: None })
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

impl Replay {
    /// Returns what is in the file.
    fn describe(&self) -> Result<RecordedStream, SourceError> {
        let path = &self.path.path;
        if let Some(content) = &self.content {
            return content.kind().describe(path);
        }
        RecordedStream::find(path)?.ok_or_else(|| {
            let reason = "it is not a WAV file, nor the manifest of a recording; write records = { ... } for lines of text, or \
                          bytes = { ... } for raw samples";
            SourceError::device(path, reason.to_owned())
        })
    }

    fn check_pace(&self, key: &Key, stream: &RecordedStream, checker: &mut Checker) {
        if stream.has_time || stream.pace_hz.is_some() {
            return;
        }
        let keys = match &self.content {
            Some(FileContent::Bytes(_)) => "bytes.rate_hz",
            _ => "records.time or records.rate_hz",
        };
        if matches!(self.speed, Speed::Times(_)) {
            let message = format!("the recording's pace is unknown: add {keys}, or speed = \"max\"");
            checker.problem(key, message);
        }
        if self.start_s > 0.0 {
            let message = format!("the times of the samples are unknown: add {keys}");
            checker.problem(&key.child("start_s"), message);
        }
    }
}

impl SourceKind for Replay {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.path.path = checker.path(&self.path.path);
        if let Some(content) = &mut self.content {
            content.check(key, checker);
        }
        self.buffer.check(&key.child("buffer"), checker);
        match self.describe() {
            Ok(stream) => {
                self.check_pace(key, &stream, checker);
                self.path.found = Some(Box::new(stream));
            }
            Err(error) => checker.problem(&key.child("path"), error.to_string()),
        }
    }

    fn spec(&self) -> StreamSpec {
        let unknown = || StreamSpec::new(Shape::new([1]), SampleType::F32, None);
        self.path.found.as_ref().map_or_else(unknown, |stream| stream.spec.clone())
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
        Ok(Box::new(ReplaySource::open(self, options)?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.open(OpenOptions::default()).map(drop)
    }

    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        match self.check_access() {
            Ok(()) => {
                let says = self.path.found.as_ref().map(|stream| stream.says.clone()).filter(|says| !says.is_empty());
                Survey::ready(says.unwrap_or_else(|| "it can be opened".to_owned()))
            }
            Err(error) => Survey::broken(error.to_string()),
        }
    }

    fn has_time(&self) -> bool {
        self.path.found.as_ref().is_some_and(|stream| stream.has_time)
    }

    fn records(&self) -> Option<&Records> {
        match (&self.path.found, &self.content) {
            (Some(stream), _) => stream.records(),
            (None, Some(FileContent::Records(records))) => Some(records),
            (None, _) => None,
        }
    }

    fn recording(&self) -> Option<&Path> {
        Some(self.path.found.as_ref().map_or(&self.path.path, |stream| &stream.data))
    }

    fn recorded(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        if self.recording() == Some(path) {
            return self.describe();
        }
        self.recorded_elsewhere(path)
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

    fn frames_per_block(&self) -> usize {
        self.path.found.as_ref().map_or(1, |stream| stream.frames_per_block())
    }
}

pub struct ReplaySource {
    file: RecordingFile,
    path: PathBuf,
    clock: ReplayClock,
    repeat: bool,
}

impl ReplaySource {
    /// Opens the recording and reads its header, so that a wrong file is refused before anything runs.
    ///
    /// # Errors
    /// It cannot be read, is not what it should be, or has become another one since the configuration was checked.
    pub fn open(replay: &Replay, options: OpenOptions) -> Result<Self, SourceError> {
        let stream = replay.describe()?;
        if replay.path.found.as_ref().is_some_and(|checked| checked.spec != stream.spec) {
            let reason = "its channels or its rate have changed since the configuration was read; read it again";
            return Err(SourceError::device(&replay.path.path, reason.to_owned()));
        }
        let file = RecordingFile::open(&stream, options.labels)?;
        // A stream with its own time needs no nominal rate.
        let pace_hz = stream.pace_hz.filter(|_| !stream.has_time);
        let clock = ReplayClock::new(replay.speed, replay.start_s, pace_hz);
        Ok(Self { file, path: stream.data, clock, repeat: replay.repeat })
    }

    /// Plays the recording once.
    fn play(&mut self, feed: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let Self { file, clock, path, .. } = self;
        let skipped = file.restart(clock.start_s)?;
        clock.restart(MonoTime::now(), skipped);
        let mut arrival = MonoTime::now();
        loop {
            let due = match file.find()? {
                Found::End => return self.end(),
                Found::More => {
                    file.note(feed);
                    feed.wake_reader();
                    file.fill()?;
                    arrival = MonoTime::now();
                    continue;
                }
                Found::Frames { count, first_ns, last_ns } => clock.due(count, first_ns, last_ns),
                Found::Rejected(_) => clock.due(1, None, None),
            };
            match due {
                Due::Skipped => continue,
                Due::Now => {}
                Due::At(due) => {
                    feed.wake_reader();
                    let slept = feed.stop().sleep_until(due);
                    if slept.map_err(|error| SourceError::io("wait to play", path, error))? == Waited::Stopped {
                        return Ok(ControlFlow::Break(()));
                    }
                    arrival = MonoTime::now();
                }
            }
            if file.give(arrival, feed).is_break() {
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
            let before = feed.delivered();
            if self.play(feed)? == ControlFlow::Break(()) || !self.repeat {
                return Ok(());
            }
            // A pass that gave nothing would be repeated without a pause.
            if feed.delivered() == before {
                return Err(SourceError::NothingAccepted { path: self.path.clone() });
            }
            feed.cut(Gap::Interrupted);
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
    /// The pace, if the stream has no time.
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

    /// A pass begins; so many frames were passed over.
    fn restart(&mut self, now: MonoTime, skipped: u64) {
        let new = Self::new(self.speed, self.start_s, self.rate_hz);
        // The times of such frames count from the beginning of the recording.
        *self = Self { begun: now, count: skipped, first_ns: (skipped > 0).then_some(0), ..new };
    }

    /// Returns when frames are due that come together, by the time of the last one, else by the pace; a line that was
    /// rejected has no time.
    fn due(&mut self, count: usize, first_ns: Option<i64>, last_ns: Option<i64>) -> Due {
        self.count += count as u64;
        let elapsed_s = match (last_ns, self.rate_hz) {
            (Some(last), _) => {
                let first = *self.first_ns.get_or_insert(first_ns.unwrap_or(last));
                Some(last.saturating_sub(first) as f64 / 1e9)
            }
            (None, Some(rate)) => Some(self.count.saturating_sub(1) as f64 / rate),
            (None, None) => None,
        };
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

    impl ReplayClock {
        fn at(&mut self, stream_ns: Option<i64>) -> Due {
            self.due(1, stream_ns, stream_ns)
        }
    }

    fn clock(speed: Speed, start_s: f64, rate_hz: Option<f64>) -> ReplayClock {
        ReplayClock::new(speed, start_s, rate_hz)
    }

    #[test]
    fn the_pace_follows_the_recordings_time_or_the_rate() {
        let second = Duration::from_secs(1);
        let mut by_time = clock(Speed::Times(2.0), 0.0, None);
        assert_eq!(by_time.at(Some(5_000_000_000)), Due::At(by_time.begun));
        assert_eq!(by_time.at(Some(9_000_000_000)), Due::At(by_time.begun + 2 * second));
        assert_eq!(by_time.at(None), Due::Now, "a rejected line waits for nothing");
        assert_eq!(by_time.at(Some(0)), Due::At(by_time.begun), "time that goes back is not waited for");

        let mut by_rate = clock(Speed::Times(1.0), 0.0, Some(0.5));
        assert_eq!(by_rate.at(None), Due::At(by_rate.begun));
        assert_eq!(by_rate.at(None), Due::At(by_rate.begun + 2 * second));
        assert_eq!(clock(Speed::Max, 0.0, None).at(Some(1)), Due::Now);
    }

    #[test]
    fn what_is_before_the_start_is_skipped() {
        let second = Duration::from_secs(1);
        let mut by_time = clock(Speed::Times(2.0), 3.0, None);
        let due: Vec<Due> = [Some(10), None, Some(12), Some(13), None, Some(17)]
            .map(|s: Option<i64>| by_time.at(s.map(|s| s * 1_000_000_000)))
            .into();
        let begun = by_time.begun;
        let (skipped, later) = (Due::Skipped, Due::At(begun + 2 * second));
        assert_eq!(due, [skipped, skipped, skipped, Due::At(begun), Due::Now, later]);

        let mut by_rate = clock(Speed::Max, 1.0, Some(2.0));
        assert_eq!([(); 3].map(|()| by_rate.at(None)), [skipped, skipped, Due::Now]);
        by_rate.restart(begun, 0);
        assert_eq!(by_rate.at(None), skipped, "each pass starts there");
    }

    #[test]
    fn a_recording_in_a_loop_that_is_emptied_ends_with_an_error() {
        use std::sync::Arc;

        use super::super::sink::frame_ring;
        use super::super::{SinkSettings, Source};
        use crate::stop::Stop;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.csv");
        std::fs::write(&path, "t,x\n0,1\n1,2\n").unwrap();
        let text = "[replay]\npath = 'r.csv'\nloop = true\nspeed = 'max'\nrecords = { channels = ['x'], time = 't' }";
        let mut source: Source = toml::from_str(text).unwrap();
        let mut checker = Checker::new(folder.path());
        source.check(&Key::new(&["source"]), &mut checker);
        checker.finish(Some(())).unwrap();
        let (spec, producer) = (source.kind().spec(), source.kind().open(OpenOptions::default()).unwrap());
        let settings = SinkSettings { spec, frames: 16, frames_per_block: 1, when_full: WhenFull::Drop };
        let stop = Arc::new(Stop::new().unwrap());
        let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), Arc::default());
        let thread = std::thread::spawn(move || producer.run(&mut sink).map_err(|error| error.to_string()));
        while reader.len() < 4 {
            std::thread::yield_now();
        }
        // Only the header is left.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(4).unwrap();
        let error = thread.join().unwrap().unwrap_err();
        assert!(error.contains("has no usable record"), "{error}");
    }
}
