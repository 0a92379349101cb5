//! The list of blocks next to the samples of a recording: when frames came, their own time, and what was missing before
//! them.
//!
//! A line is `frame,arrived_ns,time_ns,gap`: from this frame on, each frame is one period of the rate later, until the frame
//! of the next line. A line that was not written to its end is the last one, and is left out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::source::{Gap, SourceError};

/// The first line.
pub const HEADER: &str = "frame,arrived_ns,time_ns,gap\n";
/// Longer than any line.
const MOST_LINE_BYTES: u64 = 200;

/// Frames that follow each other at the nominal rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The first frame, counted from 0.
    pub frame: u64,
    /// When it arrived, in nanoseconds since 1970.
    pub arrived_ns: i64,
    /// Its own time.
    pub stream_ns: Option<i64>,
    /// The stream was broken just before it.
    pub gap: Option<Gap>,
}

impl Block {
    /// Writes the line.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let Self { frame, arrived_ns, stream_ns, gap } = self;
        write!(to, "{frame},{arrived_ns},")?;
        if let Some(ns) = stream_ns {
            write!(to, "{ns}")?;
        }
        writeln!(to, ",{}", gap.map_or("", Gap::name))
    }

    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let mut next = || fields.next();
        let (frame, arrived_ns) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let stream_ns = Some(next()?).filter(|text| !text.is_empty()).map(str::parse).transpose().ok()?;
        let gap = match next()? {
            "" => None,
            name => Some(Gap::named(name.as_bytes())?),
        };
        fields.next().is_none().then_some(Self { frame, arrived_ns, stream_ns, gap })
    }
}

/// Reads the list from its beginning, one block ahead.
pub struct BlockReader {
    path: PathBuf,
    lines: BufReader<File>,
    line: String,
    number: u64,
    current: Option<Block>,
    next: Option<Block>,
}

impl BlockReader {
    /// Opens the list.
    ///
    /// # Errors
    /// It cannot be read, or is not such a list.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let file = super::open_file(path)?;
        let (line, path) = (String::with_capacity(MOST_LINE_BYTES as usize), path.to_owned());
        let mut reader = Self { path, lines: BufReader::new(file), line, number: 0, current: None, next: None };
        reader.restart()?;
        Ok(reader)
    }

    /// Starts over at frame 0.
    ///
    /// # Errors
    /// Those of [`BlockReader::open`].
    pub fn restart(&mut self) -> Result<(), SourceError> {
        self.lines.seek(SeekFrom::Start(0)).map_err(|error| SourceError::io("read", &self.path, error))?;
        (self.number, self.current, self.next) = (0, None, None);
        if self.line()? && self.line != HEADER.trim_ascii_end() {
            return Err(self.wrong(&format!("the first line must be {}", HEADER.trim_ascii_end())));
        }
        self.next = self.read_block()?;
        Ok(())
    }

    /// Returns the block that `frame` is in, and the frame with which the next one begins. Frames must be asked for in
    /// order.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn of_frame(&mut self, frame: u64) -> Result<(Option<Block>, u64), SourceError> {
        while let Some(block) = self.next.filter(|block| block.frame <= frame) {
            self.current = Some(block);
            self.next = self.read_block()?;
            if self.next.is_some_and(|next| next.frame <= block.frame) {
                return Err(self.wrong("the frames must be in order"));
            }
        }
        Ok((self.current, self.next.map_or(u64::MAX, |next| next.frame)))
    }

    fn read_block(&mut self) -> Result<Option<Block>, SourceError> {
        if !self.line()? {
            return Ok(None);
        }
        match Block::read(&self.line) {
            Some(block) => Ok(Some(block)),
            None => Err(self.wrong("it must be FRAME,ARRIVED,TIME,GAP")),
        }
    }

    /// Reads a line that ends with a newline; returns whether there is one.
    fn line(&mut self) -> Result<bool, SourceError> {
        self.line.clear();
        self.number += 1;
        let read = self.lines.by_ref().take(MOST_LINE_BYTES).read_line(&mut self.line);
        match read {
            Err(error) => return Err(SourceError::io("read", &self.path, error)),
            Ok(count) if count as u64 == MOST_LINE_BYTES && !self.line.ends_with('\n') => {
                return Err(self.wrong("it is too long"));
            }
            Ok(_) => {}
        }
        let is_whole = self.line.ends_with('\n');
        self.line.truncate(self.line.trim_ascii_end().len());
        Ok(is_whole)
    }

    fn wrong(&self, what: &str) -> SourceError {
        SourceError::device(&self.path, format!("line {}: {what}", self.number))
    }
}
