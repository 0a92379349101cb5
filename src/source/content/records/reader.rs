//! Finds the records in the bytes of one file, writer or datagram: passes over lines that are none, and learns the header.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

use super::header::HeaderError;
use super::line_reader::{Line, LineReader};
use super::parser::{Record, RecordParser};
use super::reject::Reject;
use super::{Format, Records};
use crate::source::SourceError;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Below a header, so many rows may be text, such as units.
pub(crate) const MOST_TEXT_ROWS: u8 = 3;
/// So far below the first line a header is looked for, to say where it is.
const MOST_ABOVE_HEADER: usize = 200;

/// Tells the lines that hold records from blank lines, comments and lines to skip.
#[derive(Debug)]
pub(crate) struct Skipper {
    comment: Vec<u8>,
    lines_to_skip: usize,
    /// The first line was not seen yet.
    is_start: bool,
}

/// What a line is.
pub(crate) enum Kind<'a> {
    Skipped,
    /// A comment, without its mark.
    Comment(&'a [u8]),
    /// A line that is to be read.
    Content(&'a [u8]),
}

impl Skipper {
    pub(crate) fn new(comment: &str, lines_to_skip: usize) -> Self {
        Self { comment: comment.as_bytes().to_owned(), lines_to_skip, is_start: true }
    }

    /// Returns what the next line is.
    pub(crate) fn kind<'a>(&mut self, mut line: &'a [u8]) -> Kind<'a> {
        let is_first = std::mem::take(&mut self.is_start);
        if is_first {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if self.lines_to_skip > 0 {
            self.lines_to_skip -= 1;
            return Kind::Skipped;
        }
        let text = line.trim_ascii_start();
        if text.is_empty() || is_first && names_delimiter(text) {
            return Kind::Skipped;
        }
        match text.strip_prefix(&self.comment[..]) {
            Some(comment) if !self.comment.is_empty() => Kind::Comment(comment),
            _ => Kind::Content(line),
        }
    }
}

/// Returns whether a line is `sep=;` or the like, which spreadsheets write and read as the first line.
fn names_delimiter(line: &[u8]) -> bool {
    let text = line.trim_ascii();
    let inner = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    inner.len() <= 5 && inner.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"sep="))
}

/// Returns whether text begins as UTF-16 does.
pub(crate) fn is_utf16(text: &[u8]) -> bool {
    let every_other_is_zero =
        |from: usize| text.len() >= 4 && text.iter().skip(from).step_by(2).take(8).all(|b| *b == 0);
    text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") || every_other_is_zero(0) || every_other_is_zero(1)
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A record; the parser has its values.
    Record(Record),
    Rejected(Reject),
    /// No whole record is left: read more.
    More,
}

/// Reads the records of one file or one writer, or of datagrams.
pub struct RecordReader {
    lines: LineReader,
    skipper: Skipper,
    wants_header: bool,
    /// So many rows may still be text.
    text_rows: u8,
    is_start: bool,
    /// The first line is perhaps the end of one whose beginning was not read.
    is_midway: bool,
    skipped: Skipped,
    skipped_is_said: bool,
}

/// Lines that were passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    comments: u64,
    text_rows: u64,
    /// Headers after the first one.
    headers: u64,
}

impl RecordReader {
    /// The parser starts over, as another stream begins.
    pub fn new(parser: &mut RecordParser) -> Self {
        let is_json = parser.records().format == Format::Json;
        let lines = if is_json { LineReader::of_objects() } else { LineReader::new() };
        Self::over(lines, parser)
    }

    fn over(lines: LineReader, parser: &mut RecordParser) -> Self {
        parser.restart();
        let Records { comment, skip_lines, .. } = parser.records();
        Self {
            lines,
            skipper: Skipper::new(comment, *skip_lines),
            wants_header: parser.wants_header(),
            text_rows: 0,
            is_start: true,
            is_midway: false,
            skipped: Skipped::default(),
            skipped_is_said: false,
        }
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.lines.fill(from)
    }

    /// Returns the next record.
    ///
    /// # Errors
    /// The beginning does not say where the columns are.
    pub fn next(&mut self, parser: &mut RecordParser) -> Result<Next, HeaderError> {
        self.next_of(parser, LineReader::next_line)
    }

    /// Like [`Self::next`] once the text has ended: what follows the last newline is a line too.
    ///
    /// # Errors
    /// As those of [`Self::next`]; or there was no header.
    pub fn next_at_end(&mut self, parser: &mut RecordParser) -> Result<Next, HeaderError> {
        let next = self.next_of(parser, |lines| match lines.next_line() {
            Line::More => lines.rest(),
            // Returning what was found would borrow the reader for the other arm, too.
            Line::TooLong => Line::TooLong,
            Line::Complete(_) => Line::Complete(lines.found()),
        })?;
        if next == Next::More && self.wants_header {
            return Err(HeaderError::Absent);
        }
        Ok(next)
    }

    fn next_of(
        &mut self,
        parser: &mut RecordParser,
        next_line: impl Fn(&mut LineReader) -> Line<'_>,
    ) -> Result<Next, HeaderError> {
        loop {
            let line = match next_line(&mut self.lines) {
                Line::More => return Ok(Next::More),
                Line::Complete(_) | Line::TooLong if std::mem::take(&mut self.is_midway) => {
                    return Ok(Next::Rejected(Reject::Partial));
                }
                Line::TooLong if self.wants_header => return Err(HeaderError::TooLong),
                Line::TooLong => return Ok(Next::Rejected(Reject::TooLong)),
                Line::Complete(line) => line,
            };
            if std::mem::take(&mut self.is_start) && is_utf16(line) {
                return Err(HeaderError::Utf16);
            }
            let line = match self.skipper.kind(line) {
                Kind::Skipped => continue,
                Kind::Comment(comment) => {
                    if self.wants_header && parser.header(comment).is_ok() {
                        (self.wants_header, self.text_rows) = (false, MOST_TEXT_ROWS);
                    } else {
                        self.skipped.comments += 1;
                    }
                    continue;
                }
                Kind::Content(line) => line,
            };
            if self.wants_header {
                if let Err(error) = parser.header(line) {
                    return Err(match self.header_below(parser) {
                        Some(number) => error.with_header_at(number),
                        None => error,
                    });
                }
                (self.wants_header, self.text_rows) = (false, MOST_TEXT_ROWS);
                continue;
            }
            if self.text_rows > 0 {
                self.text_rows -= 1;
                if parser.is_row_of_text(line) {
                    self.skipped.text_rows += 1;
                    continue;
                }
                self.text_rows = 0;
            }
            match parser.parse(line) {
                Ok(record) => return Ok(Next::Record(record)),
                // Files that were joined, or a device that starts again: the columns may be in another order.
                Err(_) if parser.takes_header_again(line) => {
                    self.skipped.headers += 1;
                    self.text_rows = MOST_TEXT_ROWS;
                }
                Err(reason) => return Ok(Next::Rejected(reason)),
            }
        }
    }

    /// Returns the number of the next line that names all columns in use, as far as the text was read.
    fn header_below(&self, parser: &RecordParser) -> Option<u64> {
        let lines = self.lines.ahead().split(|byte| *byte == b'\n');
        let below = (self.lines.number() + 1..).zip(lines).take(MOST_ABOVE_HEADER);
        below.into_iter().find(|(_, line)| parser.is_header(line)).map(|(number, _)| number)
    }

    /// Another file or writer begins.
    pub(crate) fn restart(&mut self, parser: &mut RecordParser) {
        // The lines keep their buffers, which are large.
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        *self = Self::over(lines, parser);
    }

    /// A datagram begins; nothing is left of the one before.
    pub(crate) fn begin_datagram(&mut self) {
        self.lines.clear();
        self.is_start = true;
    }

    /// The stream perhaps begins inside a line. Its first line is not read, since the end of a number is a number, too.
    pub(crate) fn begin_midway(&mut self) {
        (self.is_midway, self.is_start) = (true, false);
    }

    pub(crate) fn is_midway(&self) -> bool {
        self.is_midway
    }

    /// Returns whether anything follows the last newline, after the stream has ended.
    pub(crate) fn has_rest(&mut self) -> bool {
        match self.lines.rest() {
            Line::Complete(line) => !line.trim_ascii().is_empty(),
            Line::TooLong => true,
            Line::More => false,
        }
    }

    /// Says in words why the last record was rejected, and where it stands.
    pub(crate) fn explain(&self, parser: &mut RecordParser, name: impl Display, reason: Reject) -> String {
        let why = parser.explain(self.lines.found(), reason);
        format!("{name}:{}: {why}", self.lines.number())
    }

    /// Returns the error for the file or writer `name`.
    pub(crate) fn refused(&self, name: &Path, error: HeaderError) -> SourceError {
        SourceError::Header { path: name.to_owned(), line: self.lines.number().max(1), error }
    }

    /// Returns in words what was passed over at the beginning and is worth a word.
    pub(crate) fn skipped(&self) -> Option<String> {
        let count = |count: u64, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {more}")),
        };
        let Skipped { comments, text_rows, headers } = self.skipped;
        let parts = [
            count(comments, "comment line", "comment lines"),
            count(text_rows, "row of text below the header", "rows of text below the header"),
            count(headers, "more header", "more headers"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("skipped: {}", parts.join(", ")))
    }

    /// Returns [`Self::skipped`] once, when rows below the header were skipped.
    pub(crate) fn take_skipped(&mut self) -> Option<String> {
        let is_due = self.skipped.text_rows > 0 && !std::mem::replace(&mut self.skipped_is_said, true);
        is_due.then(|| self.skipped()).flatten()
    }
}
