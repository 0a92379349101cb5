//! Cuts bytes into lines, and feeds the lines of one writer as frames.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;

use super::records::{Record, RecordParser, Reject};
use super::{FrameSink, SourceError};
use crate::stop::Waited;
use crate::units::MonoTime;

/// A longer line is rejected and skipped; it is not stored.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Cuts what it reads into lines; holds at most one incomplete line.
pub struct LineReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Inside a line that was too long.
    skipping: bool,
}

/// What was found in the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, with its newline.
    Complete(&'a [u8]),
    /// The end of a line that was too long to keep.
    TooLong,
    /// No complete line: read more.
    More,
}

impl Default for LineReader {
    fn default() -> Self {
        Self::new()
    }
}

impl LineReader {
    pub fn new() -> Self {
        Self { buffer: vec![0; 2 * MAX_LINE_BYTES], start: 0, end: 0, skipping: false }
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = loop {
            match from.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count)
    }

    pub fn next_line(&mut self) -> Line<'_> {
        let held = &self.buffer[self.start..self.end];
        match memchr::memchr(b'\n', held) {
            Some(at) => {
                let line = self.start..self.start + at + 1;
                self.start = line.end;
                if std::mem::take(&mut self.skipping) || line.len() > MAX_LINE_BYTES {
                    Line::TooLong
                } else {
                    Line::Complete(&self.buffer[line])
                }
            }
            None => {
                if held.len() > MAX_LINE_BYTES {
                    self.skipping = true;
                    self.start = self.end;
                }
                Line::More
            }
        }
    }

    /// Returns what follows the last newline, after the stream has ended.
    pub fn rest(&mut self) -> Line<'_> {
        let rest = self.start..self.end;
        self.start = self.end;
        if std::mem::take(&mut self.skipping) {
            Line::TooLong
        } else if rest.is_empty() {
            Line::More
        } else {
            Line::Complete(&self.buffer[rest])
        }
    }
}

/// Reads one writer's lines until it closes the stream or a stop is requested.
pub fn stream(
    from: &mut (impl Read + AsFd),
    name: &Path,
    parser: &mut RecordParser,
    feed: &mut FrameSink,
) -> Result<ControlFlow<()>, SourceError> {
    let mut reader = LineReader::new();
    let mut header = parser.wants_header();
    let io_error = |e| SourceError::io("read", name, e);
    loop {
        if feed.stop().wait_readable(from.as_fd()).map_err(io_error)? == Waited::Stopped {
            return Ok(ControlFlow::Break(()));
        }
        let count = match reader.fill(from) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            result => result.map_err(io_error)?,
        };
        let arrival = MonoTime::now();
        loop {
            let parsed: Result<Record, Reject> = match reader.next_line() {
                Line::More => break,
                Line::TooLong => Err(Reject::TooLong),
                Line::Complete(line) if header => {
                    parser.header(line).map_err(|e| SourceError::Header { path: name.to_owned(), error: e })?;
                    header = false;
                    continue;
                }
                Line::Complete(line) => parser.parse(line),
            };
            if feed.take(parsed, parser.values(), arrival) == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
        }
        feed.wake_reader();
        if count == 0 {
            if reader.rest() != Line::More {
                let _ = feed.take(Err(Reject::Unterminated), &[], arrival);
            }
            return Ok(ControlFlow::Continue(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8], piece: usize) -> Vec<Result<Vec<u8>, ()>> {
        let mut reader = LineReader::new();
        let mut found = Vec::new();
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() {
                reader.fill(&mut part).unwrap();
                loop {
                    match reader.next_line() {
                        Line::Complete(line) => found.push(Ok(line.to_vec())),
                        Line::TooLong => found.push(Err(())),
                        Line::More => break,
                    }
                }
            }
        }
        match reader.rest() {
            Line::Complete(line) => found.push(Ok(line.to_vec())),
            Line::TooLong => found.push(Err(())),
            Line::More => {}
        }
        found
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut bytes = b"first\n".to_vec();
        bytes.extend(vec![b'x'; 5 * MAX_LINE_BYTES]);
        bytes.extend(b"\nlast");
        for piece in [1000, 70_000, 1 << 20] {
            let expected = vec![Ok(b"first\n".to_vec()), Err(()), Ok(b"last".to_vec())];
            assert_eq!(lines(&bytes, piece), expected, "read by {piece}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_arrive(text in "[a-c\n]{0,300}", piece in 1usize..40) {
            let expected: Vec<_> = text.split_inclusive('\n').map(|l| Ok(l.as_bytes().to_vec())).collect();
            prop_assert_eq!(lines(text.as_bytes(), piece), expected);
        }
    }
}
