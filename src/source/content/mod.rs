//! What a stream of bytes holds: records of text, or raw samples. One piece for all sources that read bytes.
//!
//! Owns the choice between `records` and `bytes`, and the reading of one writer. Leaves to each source where its bytes come
//! from.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;

use self::bytes::{ByteDecoder, unfinished};
use self::records::{Next, RecordParser, RecordReader, Records, Reject};
use super::{FrameSink, SourceError, TruthLabels};
use crate::schema::{Checker, Key, family};
use crate::stop::Waited;
use crate::stream::StreamSpec;
use crate::units::MonoTime;

/// A writer that gave fewer bytes at once leaves room in its pipe while the source rests.
const MOST_BYTES_OF_SLOW: usize = 16 * 1024;

family! {
    /// What the bytes hold: records of text, or raw samples.
    pub enum Content: ContentKind {
        mod records: Records;
        mod bytes: Bytes;
    }
}

/// What each kind of content is.
pub trait ContentKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the stream that is made of it.
    fn spec(&self) -> StreamSpec;

    /// Returns what turns the bytes into frames; `labels` are the classes that a truth column may name.
    fn decoder(&self, labels: TruthLabels) -> Decoder;

    /// Returns how a line of text becomes a frame, if the bytes are text.
    fn records(&self) -> Option<&Records> {
        None
    }

    /// Returns the least number of frames that mostly arrive together.
    fn frames_per_block(&self) -> usize {
        1
    }
}

/// Turns the bytes of one writer after the other into frames.
pub enum Decoder {
    Text { parser: Box<RecordParser>, reader: Box<RecordReader> },
    Bytes(Box<ByteDecoder>),
}

impl Decoder {
    /// Returns a decoder of lines of text, or of JSON.
    pub fn text(mut parser: RecordParser) -> Self {
        let reader = RecordReader::new(&mut parser);
        Self::Text { parser: Box::new(parser), reader: Box::new(reader) }
    }

    /// Another writer begins.
    fn begin(&mut self) {
        match self {
            Self::Text { parser, reader } => reader.restart(parser),
            Self::Bytes(decoder) => _ = decoder.restart(),
        }
    }

    fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        match self {
            Self::Text { reader, .. } => reader.fill(from),
            Self::Bytes(decoder) => decoder.fill(from),
        }
    }

    /// Feeds all whole frames that were read.
    fn feed(&mut self, name: &Path, arrival: MonoTime, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let (parser, reader) = match self {
            Self::Text { parser, reader } => (parser, reader),
            Self::Bytes(decoder) => return Ok(decoder.feed(usize::MAX, arrival, None, sink)),
        };
        loop {
            let read = match reader.next(parser).map_err(|error| reader.refused(name, error))? {
                Next::Record(record) => sink.take(record, parser.values(), arrival),
                Next::Rejected(reason) => {
                    sink.reject(reason, arrival, || reader.explain(parser, name.display(), reason))
                }
                Next::More => break,
            };
            if read.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        sink.note(reader, parser);
        Ok(ControlFlow::Continue(()))
    }

    /// The writer is gone: what is left is not a whole frame.
    fn end(&mut self, name: &Path, arrival: MonoTime, sink: &mut FrameSink) {
        let _ = match self {
            Self::Text { parser, reader } => {
                if !reader.has_rest() {
                    return;
                }
                let unterminated = || reader.explain(parser, name.display(), Reject::Unterminated);
                sink.reject(Reject::Unterminated, arrival, unterminated)
            }
            Self::Bytes(decoder) => {
                let (left, frame) = (decoder.restart(), decoder.frame_bytes());
                if left == 0 {
                    return;
                }
                sink.reject(Reject::Unterminated, arrival, || unfinished(name, left, frame))
            }
        };
    }

    /// Feeds the frames of a datagram, or of a message, which has only whole ones.
    ///
    /// # Errors
    /// The datagram cannot be read as records; the next one may do better.
    pub fn datagram(
        &mut self,
        name: &dyn fmt::Display,
        datagram: &[u8],
        arrival: MonoTime,
        sink: &mut FrameSink,
    ) -> Result<ControlFlow<()>, SourceError> {
        let failed = |error| SourceError::io("read", Path::new(&name.to_string()), error);
        let (parser, reader) = match self {
            Self::Text { parser, reader } => (parser, reader),
            Self::Bytes(decoder) => {
                let mut rest = datagram;
                decoder.restart();
                while !rest.is_empty() {
                    decoder.fill(&mut rest).map_err(failed)?;
                    if decoder.feed(usize::MAX, arrival, None, sink).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                let (left, frame) = (decoder.restart(), decoder.frame_bytes());
                return Ok(match left {
                    0 => ControlFlow::Continue(()),
                    _ => sink.reject(Reject::Unterminated, arrival, || {
                        let length = datagram.len();
                        format!("{name}: {length} bytes are not a whole number of frames of {frame} bytes")
                    }),
                });
            }
        };
        reader.begin_datagram();
        reader.fill(&mut &datagram[..]).map_err(failed)?;
        loop {
            let refused = |error| SourceError::Header { path: name.to_string().into(), line: 1, error };
            let read = match reader.next_at_end(parser).map_err(refused)? {
                Next::Record(record) => sink.take(record, parser.values(), arrival),
                Next::Rejected(reason) => sink.reject(reason, arrival, || reader.explain(parser, name, reason)),
                Next::More => break,
            };
            if read.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        sink.note(reader, parser);
        Ok(ControlFlow::Continue(()))
    }

    /// Reads one writer until it closes the stream or a stop is requested.
    ///
    /// # Errors
    /// The stream cannot be read, or does not begin as it must.
    pub fn stream(
        &mut self,
        from: &mut (impl Read + AsFd),
        name: &Path,
        sink: &mut FrameSink,
    ) -> Result<ControlFlow<()>, SourceError> {
        let io_error = |e| SourceError::io("read", name, e);
        self.begin();
        let mut is_slow = true;
        loop {
            let rested = if is_slow { sink.rest() } else { Ok(Waited::Ready) };
            let stop = sink.stop();
            if rested.and_then(|_| stop.wait_readable(from.as_fd())).map_err(io_error)? == Waited::Stopped {
                return Ok(ControlFlow::Break(()));
            }
            let count = match self.fill(from) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                result => result.map_err(io_error)?,
            };
            let arrival = MonoTime::now();
            is_slow = count < MOST_BYTES_OF_SLOW;
            if self.feed(name, arrival, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            sink.wake_reader();
            if count == 0 {
                self.end(name, arrival, sink);
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}
