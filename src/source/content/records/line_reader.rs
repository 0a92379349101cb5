//! Cuts bytes into lines, or into JSON objects.

use std::io::{self, Read};
use std::ops::Range;

/// A longer line is rejected and skipped; it is not stored.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Cuts what it reads into lines, or into JSON objects; holds at most one that is incomplete.
pub struct LineReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Inside a line that was too long.
    skipping: bool,
    /// A line feed that comes next belongs to the line before.
    after_return: bool,
    /// The place in the buffer of what was found last.
    found: Range<usize>,
    /// The number of the line on which it begins, from 1.
    number: u64,
    /// `None`: what it reads is cut at the ends of lines.
    objects: Option<ObjectScan>,
}

/// How far JSON objects were looked for.
#[derive(Debug, Default)]
struct ObjectScan {
    at: usize,
    /// Braces that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Ends of lines before `at`.
    lines: u64,
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
    /// A reader of lines, which end with a line feed, a carriage return, or both.
    pub fn new() -> Self {
        let buffer = vec![0; 2 * MAX_LINE_BYTES];
        let (start, end, skipping, after_return) = (0, 0, false, false);
        Self { buffer, start, end, skipping, after_return, found: 0..0, number: 0, objects: None }
    }

    /// A reader of JSON objects, one after the other or in an array, on any number of lines. What else is there comes as
    /// lines, which are not objects.
    pub fn of_objects() -> Self {
        Self { objects: Some(ObjectScan::default()), ..Self::new() }
    }

    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        (self.start, self.end, self.found) = (0, 0, 0..0);
        (self.skipping, self.after_return, self.number) = (false, false, 0);
        self.objects = self.objects.is_some().then(ObjectScan::default);
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        if let Some(scan) = &mut self.objects {
            scan.at -= self.start;
        }
        self.start = 0;
        self.found = 0..0;
        let count = loop {
            match from.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count)
    }

    /// Returns the next line, or the next object.
    pub fn next_line(&mut self) -> Line<'_> {
        if self.objects.is_some() {
            return self.next_object();
        }
        if self.after_return && self.start < self.end {
            self.after_return = false;
            self.start += usize::from(self.buffer[self.start] == b'\n');
        }
        let held = &self.buffer[self.start..self.end];
        match memchr::memchr2(b'\n', b'\r', held) {
            Some(at) => {
                let follows = held.get(at + 1).copied();
                self.after_return = held[at] == b'\r' && follows.is_none();
                let length = at + 1 + usize::from(held[at] == b'\r' && follows == Some(b'\n'));
                self.number += 1;
                self.take(length)
            }
            None => self.more(),
        }
    }

    fn next_object(&mut self) -> Line<'_> {
        let Some(scan) = &mut self.objects else { return Line::More };
        while scan.at < self.end {
            let byte = self.buffer[scan.at];
            let is_object = scan.depth > 0;
            if scan.in_string {
                scan.in_string = byte != b'"' || scan.escaped;
                scan.escaped = byte == b'\\' && !scan.escaped;
            } else {
                match byte {
                    b'"' => scan.in_string = is_object,
                    b'{' if is_object => scan.depth += 1,
                    b'}' if is_object => scan.depth -= 1,
                    b'{' | b'\n' if !is_object => {
                        let length = scan.at - self.start;
                        let is_other = self.buffer[self.start..scan.at].iter().any(|byte| !is_between_objects(*byte));
                        if is_other && length > 0 {
                            self.number = scan.lines + 1;
                            return self.take(length);
                        }
                        self.start = scan.at;
                        self.number = scan.lines + 1;
                        scan.depth = usize::from(byte == b'{');
                    }
                    _ => {}
                }
            }
            scan.lines += u64::from(byte == b'\n');
            scan.at += 1;
            if is_object && scan.depth == 0 {
                let length = scan.at - self.start;
                return self.take(length);
            }
        }
        self.more()
    }

    /// Takes so many bytes out.
    fn take(&mut self, length: usize) -> Line<'_> {
        self.found = self.start..self.start + length;
        self.start += length;
        if std::mem::take(&mut self.skipping) || length > MAX_LINE_BYTES {
            Line::TooLong
        } else {
            Line::Complete(&self.buffer[self.found.clone()])
        }
    }

    fn more(&mut self) -> Line<'_> {
        if self.end - self.start > MAX_LINE_BYTES {
            self.skipping = true;
            self.start = self.end;
        }
        Line::More
    }

    /// Returns what follows the last newline, after the stream has ended.
    pub fn rest(&mut self) -> Line<'_> {
        let length = self.end - self.start;
        let is_other =
            self.objects.is_none() || self.buffer[self.start..self.end].iter().any(|byte| !is_between_objects(*byte));
        match &mut self.objects {
            Some(scan) => {
                self.number = self.number.max(1);
                *scan = ObjectScan { at: self.end, lines: scan.lines, ..ObjectScan::default() };
            }
            None => self.number += u64::from(length > 0),
        }
        if length == 0 && std::mem::take(&mut self.skipping) {
            Line::TooLong
        } else if length == 0 || !is_other {
            self.start = self.end;
            Line::More
        } else {
            self.take(length)
        }
    }

    /// Returns what was found last, until the next call of [`Self::fill`].
    pub fn found(&self) -> &[u8] {
        &self.buffer[self.found.clone()]
    }

    /// Returns what was read and not yet returned.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Returns the number of the line on which it begins, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Returns whether a byte may stand between JSON objects: blanks, a byte order mark, and what an array or a sequence of texts
/// has there.
fn is_between_objects(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b',' | b'[' | b']' | 0x1e | 0xef | 0xbb | 0xbf)
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
