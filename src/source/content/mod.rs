//! What a stream of bytes holds: records of text, raw samples, or packets. One piece for all sources that read bytes.
//!
//! Owns the choice between `records`, `bytes` and `packets`, and the reading of one writer. Leaves to each source where its bytes come
//! from.

mod doubts;
mod rival;
mod yuv;

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use self::bytes::{ByteDecoder, Bytes, unfinished};
use self::doubts::Doubts;
use self::packets::PacketDecoder;
use self::records::{Next, RecordParser, RecordReader, Records, Reject};
pub(super) use self::rival::Rival;
use super::{FrameSink, SourceError, TruthLabels};
use crate::schema::{Checker, Key, family};
use crate::stop::Waited;
use crate::stream::StreamSpec;
use crate::text::counted;
use crate::units::MonoTime;

/// A writer that gave fewer bytes at once leaves room in its pipe while the source rests.
const MOST_BYTES_OF_SLOW: usize = 16 * 1024;

family! {
    /// What the bytes hold: records of text, raw samples, or packets.
    pub enum Content: ContentKind {
        mod records: Records;
        mod bytes: Bytes;
        mod packets: Packets;
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

    /// Returns whether the stream has its own time; otherwise no gap in time can be seen.
    fn has_time(&self) -> bool {
        self.records().is_some_and(|records| records.time.is_some())
    }

    /// Returns how the bytes become frames, if they are raw.
    fn bytes(&self) -> Option<&Bytes> {
        None
    }

    /// Returns the least number of frames that mostly arrive together.
    fn frames_per_block(&self) -> usize {
        1
    }

    /// Returns the longest step from frame to frame that the stream's own clock shows; `None` if it has none that starts
    /// again.
    fn longest_step(&self) -> Option<Duration> {
        None
    }

    /// Returns how many bytes come in a second at the nominal rate, at least.
    fn least_bytes_per_second(&self) -> Option<f64>;
}

/// Checks the content at `key` of datagrams or messages, which are `called` so: they have no header.
pub fn check_messages(content: &Content, key: &Key, checker: &mut Checker, called: &str) {
    let Content::Records(records) = content else { return };
    let key = key.child("records");
    if records.has_header() {
        let message =
            format!("{called} have no header; name all columns with columns = [\"...\"], or use format = \"ndjson\"");
        checker.problem(&key, message);
    }
    if records.skip_lines > 0 {
        let message = format!("{called} have no beginning at which lines could be skipped; leave it out");
        checker.problem(&key.child("skip_lines"), message);
    }
}

/// Turns the bytes of one writer after the other into frames.
pub enum Decoder {
    Text { parser: Box<RecordParser>, reader: Box<RecordReader> },
    Bytes(Box<ByteDecoder>),
    Packets(Box<PacketDecoder>),
}

impl Decoder {
    /// Returns a decoder of lines of text, or of JSON.
    pub fn text(mut parser: RecordParser) -> Self {
        let reader = RecordReader::new(&mut parser);
        Self::Text { parser: Box::new(parser), reader: Box::new(reader) }
    }

    /// Another writer begins; `is_midway`: perhaps inside a line or packet, whose rest is then not read as a whole one.
    fn begin(&mut self, is_midway: bool) {
        match self {
            Self::Text { parser, reader } => {
                reader.restart(parser);
                if is_midway {
                    reader.begin_midway();
                }
            }
            Self::Bytes(decoder) => _ = decoder.restart(),
            Self::Packets(decoder) => _ = decoder.restart(is_midway),
        }
    }

    fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        match self {
            Self::Text { reader, .. } => reader.fill(from),
            Self::Bytes(decoder) => decoder.fill(from),
            Self::Packets(decoder) => decoder.fill(from),
        }
    }

    /// Feeds all whole frames that were read; `is_last`: also the line that the message ends without a newline.
    fn feed(
        &mut self,
        name: &dyn fmt::Display,
        is_last: bool,
        arrival: MonoTime,
        sink: &mut FrameSink,
    ) -> Result<ControlFlow<()>, SourceError> {
        let (parser, reader) = match self {
            Self::Text { parser, reader } => (parser, reader),
            Self::Bytes(decoder) => return Ok(decoder.feed(usize::MAX, arrival, None, sink)),
            Self::Packets(decoder) => return Ok(decoder.feed(name, arrival, sink)),
        };
        loop {
            let next = if is_last { reader.next_at_end(parser) } else { reader.next(parser) };
            let read = match next.map_err(|error| reader.refused(Path::new(&name.to_string()), error))? {
                Next::Record(record) => parser.give(record, arrival, sink),
                Next::Rejected(Reject::Partial) => {
                    sink.joined_midway();
                    continue;
                }
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

    /// The writer is gone: what is left is not a whole frame.
    fn end(&mut self, name: &Path, arrival: MonoTime, sink: &mut FrameSink) {
        let _ = match self {
            Self::Text { parser, reader } => {
                if !reader.has_rest() {
                    return;
                }
                if reader.is_midway() {
                    return sink.joined_midway();
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
            Self::Packets(decoder) => {
                let is_midway = decoder.is_midway();
                let left = decoder.restart(false);
                if left == 0 {
                    return;
                }
                if is_midway {
                    return sink.joined_midway();
                }
                let unterminated =
                    || format!("{}: the stream ended after {} of a packet", name.display(), counted(left, "byte"));
                sink.reject(Reject::Unterminated, arrival, unterminated)
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
        let content = if let Self::Text { .. } = self { datagram.trim_ascii() } else { datagram };
        if content.is_empty() {
            sink.pass_over(Reject::Empty, arrival, || format!("{name} is empty"));
            return Ok(ControlFlow::Continue(()));
        }
        match self {
            Self::Text { reader, .. } => reader.begin_datagram(),
            Self::Bytes(decoder) => _ = decoder.restart(),
            Self::Packets(decoder) => _ = decoder.begin_message(),
        }
        let mut rest = datagram;
        loop {
            let filled = self.fill(&mut rest);
            filled.map_err(|error| SourceError::io("read", Path::new(&name.to_string()), error))?;
            let is_last = rest.is_empty();
            if self.feed(name, is_last, arrival, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if is_last {
                break;
            }
        }
        Ok(match self {
            Self::Text { .. } => ControlFlow::Continue(()),
            Self::Bytes(decoder) => match (decoder.restart(), decoder.frame_bytes()) {
                (0, _) => ControlFlow::Continue(()),
                (_, frame) => sink.reject(Reject::Unterminated, arrival, || {
                    let length = datagram.len();
                    format!("{name}: it has {}, not a whole number of frames of {frame}", counted(length, "byte"))
                }),
            },
            // The last packet may do without its byte 0.
            Self::Packets(decoder) => decoder.feed_last(name, arrival, sink),
        })
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
        self.stream_beside(from, name, sink, None)
    }

    /// Like [`Self::stream`]; a writer that gives nothing makes way for the `rival` that waits.
    ///
    /// # Errors
    /// The same; or it makes way.
    pub fn stream_beside(
        &mut self,
        from: &mut (impl Read + AsFd),
        name: &Path,
        sink: &mut FrameSink,
        rival: Option<&mut Rival<'_>>,
    ) -> Result<ControlFlow<()>, SourceError> {
        self.begin(false);
        self.read(from, name, sink, MOST_BYTES_OF_SLOW, None, rival)
    }

    /// Like [`Self::stream`] for what was written before it was read: it may begin inside a line or packet. A read
    /// of less than `most_of_slow` bytes shows that there is time to rest before the next one. `question` is asked if
    /// nothing of what comes can be used.
    ///
    /// # Errors
    /// The same.
    pub fn stream_midway(
        &mut self,
        from: &mut (impl Read + AsFd),
        name: &Path,
        sink: &mut FrameSink,
        most_of_slow: usize,
        question: &str,
    ) -> Result<ControlFlow<()>, SourceError> {
        self.begin(true);
        self.read(from, name, sink, most_of_slow, Some(question), None)
    }

    fn read(
        &mut self,
        from: &mut (impl Read + AsFd),
        name: &Path,
        sink: &mut FrameSink,
        most_of_slow: usize,
        question: Option<&str>,
        mut rival: Option<&mut Rival<'_>>,
    ) -> Result<ControlFlow<()>, SourceError> {
        let mut doubts = Doubts::new(question, sink);
        let io_error = |e| SourceError::io("read", name, e);
        let (mut is_slow, mut bytes, before) = (true, 0, sink.delivered());
        loop {
            // So many frames are fewer bytes than those that show that there is time to rest.
            let room = (sink.delivered() - before) * (most_of_slow as u64 / 4 * 3) / bytes.max(1);
            let rested = if is_slow { sink.rest(usize::try_from(room).ok()) } else { Ok(Waited::Ready) };
            let waited = rested.and_then(|_| match &mut rival {
                Some(rival) => rival.wait(from.as_fd(), sink),
                None => sink.stop().wait_readable(from.as_fd()),
            });
            match waited.map_err(io_error)? {
                Waited::Ready => {}
                Waited::Stopped => return Ok(ControlFlow::Break(())),
                Waited::TimedOut => return Err(SourceError::device(name, rival::MAKES_WAY.into())),
            }
            let count = match self.fill(from) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                result => result.map_err(io_error)?,
            };
            let arrival = MonoTime::now();
            is_slow = count < most_of_slow;
            bytes += count as u64;
            if self.feed(&name.display(), false, arrival, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            sink.wake_reader();
            doubts.taken(count, name, sink);
            if count == 0 {
                self.end(name, arrival, sink);
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}
