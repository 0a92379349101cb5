//! Reads the frames of a recording, one step after the other, without a clock.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::blocks::BlockReader;
use super::{RecordedContent, RecordedStream, Samples, Times, open_file};
use crate::source::bytes::ByteDecoder;
use crate::source::content::bytes::unfinished;
use crate::source::sink::period_ns;
use crate::source::{
    FrameSink, Gap, HeaderError, Next, Record, RecordParser, RecordReader, Reject, SourceError, TruthLabels,
};
use crate::units::MonoTime;

/// An open recording.
pub struct RecordingFile {
    path: PathBuf,
    file: File,
    is_at_end: bool,
    reader: Reader,
}

enum Reader {
    Text { parser: Box<RecordParser>, lines: Box<RecordReader>, found: Option<Result<Record, Reject>> },
    Samples(Box<SampleReader>),
}

/// What comes next in a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Frames, with the times of the first and of the last.
    Frames { count: usize, first_ns: Option<i64>, last_ns: Option<i64> },
    /// A record that is not a frame.
    Rejected(Reject),
    /// Nothing more was read so far.
    More,
    /// The recording has ended.
    End,
}

impl RecordingFile {
    /// Opens a recording; `labels` are the classes that a truth column may name.
    ///
    /// # Errors
    /// It cannot be read, or its beginning is not as it must be.
    pub fn open(stream: &RecordedStream, labels: TruthLabels) -> Result<Self, SourceError> {
        let mut file = open_file(&stream.data)?;
        let path = stream.data.clone();
        let reader = match &stream.content {
            RecordedContent::Text(records) => {
                // By a parser of its own: what this one has seen will be seen again.
                let mut first = Self::text(path.clone(), file, RecordParser::new((**records).clone(), Vec::new()));
                first.read_to_first_record()?;
                file = first.file;
                let mut parser = Box::new(RecordParser::new((**records).clone(), labels));
                Reader::Text { lines: Box::new(RecordReader::new(&mut parser)), parser, found: None }
            }
            RecordedContent::Samples(samples) => {
                Reader::Samples(Box::new(SampleReader::open(samples, stream.spec.rate_hz)?))
            }
        };
        let mut recording = Self { path, file, is_at_end: false, reader };
        recording.restart(0.0)?;
        Ok(recording)
    }

    fn text(path: PathBuf, file: File, mut parser: RecordParser) -> Self {
        let lines = Box::new(RecordReader::new(&mut parser));
        Self { path, file, is_at_end: false, reader: Reader::Text { lines, parser: Box::new(parser), found: None } }
    }

    /// Reads until the columns are known.
    fn read_to_first_record(&mut self) -> Result<(), SourceError> {
        while self.find()? == Found::More {
            self.fill()?;
        }
        Ok(())
    }

    /// Looks at the pace of more steps than it does while it plays.
    pub(crate) fn with_pace(mut self, steps: usize) -> Self {
        self.reader = match self.reader {
            Reader::Text { parser, lines, found } => {
                Reader::Text { parser: Box::new(parser.with_pace(steps)), lines, found }
            }
            samples => samples,
        };
        self
    }

    /// Starts over. Samples at a known rate begin with the frame at `start_s`; otherwise what is before is to be passed over.
    /// Returns the number of frames before.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn restart(&mut self, start_s: f64) -> Result<u64, SourceError> {
        self.is_at_end = false;
        let (at, skipped) = match &mut self.reader {
            Reader::Text { parser, lines, found } => {
                *found = None;
                lines.restart(parser);
                (0, 0)
            }
            Reader::Samples(samples) => samples.restart(start_s)?,
        };
        self.file
            .seek(SeekFrom::Start(at))
            .map_err(|error| SourceError::io("read the recording", &self.path, error))?;
        Ok(skipped)
    }

    /// Finds what comes next. After [`Found::More`], call [`RecordingFile::fill`]. What was found before and was not given
    /// to a pipeline by [`RecordingFile::give`] is passed over.
    ///
    /// # Errors
    /// The recording is not as it must be.
    pub fn find(&mut self) -> Result<Found, SourceError> {
        let Self { path, is_at_end, .. } = self;
        match &mut self.reader {
            Reader::Text { parser, lines, found } => {
                let next = if *is_at_end { lines.next_at_end(parser) } else { lines.next(parser) };
                let refused = |error: HeaderError| lines.refused(path, error);
                let next = next.map_err(refused)?;
                *found = match next {
                    Next::Record(record) => Some(Ok(record)),
                    Next::Rejected(reason) => Some(Err(reason)),
                    Next::More => None,
                };
                Ok(match next {
                    Next::Record(Record { stream_ns: ns, .. }) => Found::Frames { count: 1, first_ns: ns, last_ns: ns },
                    Next::Rejected(reason) => Found::Rejected(reason),
                    Next::More if *is_at_end => Found::End,
                    Next::More => Found::More,
                })
            }
            Reader::Samples(samples) => samples.next(*is_at_end),
        }
    }

    /// Gives to the pipeline what was found last.
    pub fn give(&mut self, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        match &mut self.reader {
            Reader::Text { parser, lines, found } => match found.take() {
                Some(Ok(record)) => parser.give(record, arrival, sink),
                Some(Err(reason)) => {
                    sink.reject(reason, arrival, || lines.explain(parser, self.path.display(), reason))
                }
                None => ControlFlow::Continue(()),
            },
            Reader::Samples(samples) => samples.give(&self.path, arrival, sink),
        }
    }

    /// Reads more of the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn fill(&mut self) -> Result<(), SourceError> {
        let io_error = |error| SourceError::io("read the recording", &self.path, error);
        let count = match &mut self.reader {
            Reader::Text { lines, .. } => lines.fill(&mut self.file),
            Reader::Samples(samples) => samples.fill(&mut self.file),
        };
        self.is_at_end = count.map_err(io_error)? == 0;
        Ok(())
    }

    /// Logs what was found out about the stream since the last call: once for each thing.
    pub fn note(&mut self, sink: &mut FrameSink) {
        if let Reader::Text { parser, lines, .. } = &mut self.reader {
            sink.note(lines, parser);
        }
    }

    /// Says in words why the last record was rejected.
    pub fn explain(&mut self, reason: Reject) -> String {
        match &mut self.reader {
            Reader::Text { parser, lines, .. } => lines.explain(parser, self.path.display(), reason),
            Reader::Samples(samples) => unfinished(&self.path, samples.left, samples.decoder.frame_bytes()),
        }
    }

    /// Returns the parser and the reader of the lines, if the recording is text.
    pub(crate) fn lines(&self) -> Option<(&RecordParser, &RecordReader)> {
        match &self.reader {
            Reader::Text { parser, lines, .. } => Some((parser, lines)),
            Reader::Samples(_) => None,
        }
    }
}

/// Reads samples that lie one after the other.
struct SampleReader {
    decoder: ByteDecoder,
    samples: Samples,
    rate_hz: Option<f64>,
    period_ns: i64,
    blocks: Option<BlockReader>,
    /// Bytes that are not read yet.
    unread: u64,
    /// The number of the next frame in the file.
    frame: u64,
    /// Bytes of a frame that the file has no more of.
    left: usize,
    found: Option<Step>,
}

/// Frames that are given together, or what is left of one.
#[derive(Debug, Clone, Copy)]
struct Step {
    count: usize,
    first_ns: Option<i64>,
    gap: Option<Gap>,
}

impl SampleReader {
    fn open(samples: &Samples, rate_hz: Option<f64>) -> Result<Self, SourceError> {
        let blocks = match &samples.times {
            Times::Blocks(path) => Some(BlockReader::open(path)?),
            Times::None | Times::Rate(_) => None,
        };
        Ok(Self {
            decoder: ByteDecoder::of(samples.layout.clone(), samples.block_frames),
            samples: samples.clone(),
            rate_hz,
            period_ns: period_ns(rate_hz),
            blocks,
            unread: 0,
            frame: 0,
            left: 0,
            found: None,
        })
    }

    /// Returns where to read on, and the number of frames before.
    fn restart(&mut self, start_s: f64) -> Result<(u64, u64), SourceError> {
        self.decoder.restart();
        (self.left, self.found) = (0, None);
        if let Some(blocks) = &mut self.blocks {
            blocks.restart()?;
        }
        // The blocks may have another pace.
        let rate_hz = self.rate_hz.filter(|_| self.blocks.is_none());
        self.frame = rate_hz.map_or(0, |rate| (start_s * rate).ceil() as u64);
        let passed = self.frame.saturating_mul(self.samples.layout.frame_bytes() as u64);
        self.unread = self.samples.bytes.unwrap_or(u64::MAX).saturating_sub(passed);
        Ok((self.samples.start.saturating_add(passed), self.frame))
    }

    fn fill(&mut self, file: &mut File) -> std::io::Result<usize> {
        let count = self.decoder.fill(&mut file.take(self.unread))?;
        self.unread -= count as u64;
        Ok(count)
    }

    fn next(&mut self, is_at_end: bool) -> Result<Found, SourceError> {
        if let Some(passed) = self.found.take() {
            self.pass(passed.count);
        }
        let there = self.decoder.frames();
        if there == 0 && is_at_end {
            self.left = self.decoder.restart();
            return Ok(if self.left > 0 { Found::Rejected(Reject::Unterminated) } else { Found::End });
        }
        let (block, end) = match &mut self.blocks {
            Some(blocks) => blocks.of_frame(self.frame)?,
            None => (None, u64::MAX),
        };
        let to_end = usize::try_from(end.saturating_sub(self.frame)).unwrap_or(usize::MAX);
        let wanted = self.samples.block_frames.min(to_end);
        // All steps but the last are whole, so that any way of reading gives the same.
        if there < wanted && !is_at_end {
            return Ok(Found::More);
        }
        let count = there.min(wanted);
        let first_ns = match &self.samples.times {
            Times::None => None,
            Times::Rate(rate) => Some((self.frame as f64 / rate * 1e9).round() as i64),
            Times::Blocks(_) => block.and_then(|block| self.later(block.stream_ns, self.frame - block.frame)),
        };
        let gap = block.filter(|block| block.frame == self.frame).and_then(|block| block.gap);
        self.found = Some(Step { count, first_ns, gap });
        let last_ns = self.later(first_ns, count.saturating_sub(1) as u64);
        Ok(Found::Frames { count, first_ns, last_ns })
    }

    fn later(&self, ns: Option<i64>, frames: u64) -> Option<i64> {
        let passed = i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(self.period_ns);
        ns.map(|ns| ns.saturating_add(passed))
    }

    fn pass(&mut self, frames: usize) {
        self.decoder.discard(frames);
        self.frame += frames as u64;
    }

    fn give(&mut self, path: &std::path::Path, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        let Some(Step { count, first_ns, gap }) = self.found.take() else {
            let (left, frame) = (std::mem::take(&mut self.left), self.decoder.frame_bytes());
            return match left {
                0 => ControlFlow::Continue(()),
                _ => sink.reject(Reject::Unterminated, arrival, || unfinished(path, left, frame)),
            };
        };
        if let Some(gap) = gap {
            sink.cut(gap);
        }
        self.frame += count as u64;
        self.decoder.feed(count, arrival, first_ns, sink)
    }
}
