//! A recording played back: at its own pace, at a multiple of it, or as fast as the pipeline takes it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lines::{Line, LineReader};
use super::record::{RecordParser, Reject};
use super::{FrameSink, Source, SourceError};
use crate::config::{Replay, Speed};
use crate::stop::Waited;
use crate::units::MonoTime;

pub(crate) struct ReplaySource {
    file: File,
    path: PathBuf,
    parser: RecordParser,
    pace: Pace,
    repeat: bool,
}

impl ReplaySource {
    /// Opens the recording and reads its header, so that a wrong file is refused before anything runs.
    pub(crate) fn open(replay: &Replay, rate_hz: Option<f64>, mut parser: RecordParser) -> Result<Self, SourceError> {
        let path = replay.path.clone();
        let io_error = |e| SourceError::io("open the recording", &path, e);
        // Asked before it is opened: opening a FIFO would wait for a writer.
        if !std::fs::metadata(&path).map_err(io_error)?.is_file() {
            return Err(SourceError::NotAFile { path });
        }
        let mut file = File::open(&path).map_err(io_error)?;
        let mut reader = LineReader::new();
        read_header(&mut file, &mut reader, &mut parser, &path)?;
        file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        let pace = match replay.speed {
            Speed::Max => Pace::Max,
            // A stream with a time of its own needs no nominal rate for its pace.
            Speed::Times(factor) => Pace::Times { factor, rate_hz: rate_hz.filter(|_| !parser.has_time()) },
        };
        Ok(Self { file, path, parser, pace, repeat: replay.repeat })
    }

    /// Plays the recording once.
    fn play(&mut self, feed: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let io_error = |e: io::Error| SourceError::io("read the recording", &self.path, e);
        let mut reader = LineReader::new();
        self.file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        read_header(&mut self.file, &mut reader, &mut self.parser, &self.path)?;
        let mut clock = PaceClock::new(self.pace);
        let mut arrival = MonoTime::now();
        loop {
            let complete = match reader.next_line() {
                Line::Complete(line) => Some(self.parser.parse(line)),
                Line::TooLong => Some(Err(Reject::TooLong)),
                Line::More => None,
            };
            let (parsed, ended) = match complete {
                Some(parsed) => (parsed, false),
                None => {
                    feed.wake_reader();
                    if reader.fill(&mut self.file).map_err(io_error)? > 0 {
                        arrival = MonoTime::now();
                        continue;
                    }
                    match reader.rest() {
                        // A file's last line may lack its newline.
                        Line::Complete(line) => (self.parser.parse(line), true),
                        Line::TooLong => (Err(Reject::TooLong), true),
                        Line::More => return Ok(ControlFlow::Continue(())),
                    }
                }
            };
            if let Some(due) = clock.due(parsed.ok().and_then(|r| r.stream_ns)) {
                feed.wake_reader();
                if feed.stop().sleep_until(due).map_err(io_error)? == Waited::Stopped {
                    return Ok(ControlFlow::Break(()));
                }
                arrival = MonoTime::now();
            }
            if feed.take(parsed, self.parser.values(), arrival) == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
            if ended {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}

impl Source for ReplaySource {
    fn run(mut self: Box<Self>, feed: &mut FrameSink) -> Result<(), SourceError> {
        loop {
            if self.play(feed)? == ControlFlow::Break(()) || !self.repeat {
                return Ok(());
            }
            if feed.accepted() == 0 {
                return Err(SourceError::NothingAccepted { path: self.path.clone() });
            }
            feed.interrupted();
        }
    }
}

/// Reads up to the end of the first line and takes it as the header, where one is expected.
fn read_header(
    file: &mut File,
    reader: &mut LineReader,
    parser: &mut RecordParser,
    path: &Path,
) -> Result<(), SourceError> {
    if !parser.wants_header() {
        return Ok(());
    }
    let header = |line: &[u8], parser: &mut RecordParser| {
        parser.header(line).map_err(|error| SourceError::Header { path: path.to_owned(), error })
    };
    loop {
        match reader.next_line() {
            Line::Complete(line) => return header(line, parser),
            Line::TooLong => return header(&[], parser),
            Line::More => {}
        }
        if reader.fill(file).map_err(|e| SourceError::io("read the recording", path, e))? == 0 {
            return match reader.rest() {
                Line::Complete(line) => header(line, parser),
                Line::TooLong | Line::More => header(&[], parser),
            };
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Pace {
    Max,
    Times { factor: f64, rate_hz: Option<f64> },
}

/// When each sample of one playing is due.
struct PaceClock {
    pace: Pace,
    start: MonoTime,
    first_ns: Option<i64>,
    count: u64,
}

impl PaceClock {
    fn new(pace: Pace) -> Self {
        Self { pace, start: MonoTime::now(), first_ns: None, count: 0 }
    }

    /// By the sample's own time, else by the nominal rate.
    fn due(&mut self, stream_ns: Option<i64>) -> Option<MonoTime> {
        let Pace::Times { factor, rate_hz } = self.pace else { return None };
        let elapsed_s = match (stream_ns, rate_hz) {
            (Some(now), _) => {
                let first = *self.first_ns.get_or_insert(now);
                now.saturating_sub(first) as f64 / 1e9
            }
            (None, Some(rate)) => self.count as f64 / rate,
            (None, None) => return None,
        };
        self.count += 1;
        let elapsed = Duration::try_from_secs_f64(elapsed_s.max(0.0) / factor).unwrap_or(Duration::MAX);
        Some(self.start + elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_recordings_time_or_the_rate() {
        let second = Duration::from_secs(1);
        let mut by_time = PaceClock::new(Pace::Times { factor: 2.0, rate_hz: None });
        assert_eq!(by_time.due(Some(5_000_000_000)), Some(by_time.start));
        assert_eq!(by_time.due(Some(9_000_000_000)), Some(by_time.start + 2 * second));
        assert_eq!(by_time.due(None), None, "a rejected line waits for nothing");
        assert_eq!(by_time.due(Some(0)), Some(by_time.start), "time that goes back is not waited for");

        let mut by_rate = PaceClock::new(Pace::Times { factor: 1.0, rate_hz: Some(0.5) });
        assert_eq!(by_rate.due(None), Some(by_rate.start));
        assert_eq!(by_rate.due(None), Some(by_rate.start + 2 * second));
        assert_eq!(PaceClock::new(Pace::Max).due(Some(1)), None);
    }
}
