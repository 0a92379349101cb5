//! The files of a recording that grow: data as CSV, WAV or raw samples, and the list of blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::RecordError;
use crate::source::Frames;
use crate::source::Pieces;
use crate::source::recording::blocks::Block;
use crate::source::recording::manifest::Stream;
use crate::source::recording::{csv_columns, wav};
use crate::stream::{SampleType, StreamSpec};
use crate::text::hex;

/// So much is kept before it is written.
const BUFFER_BYTES: usize = 256 * 1024;
/// Channels of a WAV file.
const MOST_WAV_CHANNELS: usize = 4096;
/// Channels of a line of CSV; one is 64 KiB long at most.
const MOST_CSV_CHANNELS: usize = 2048;

/// How the data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line for each frame, with its times, its true class and the gap before it.
    Csv,
    /// Sound of 16 bits, and a list of blocks with the times and gaps.
    Wav,
    /// The samples as they are, and a list of blocks with the times and gaps.
    Raw,
}

/// Why a stream cannot be written in a format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

impl Format {
    /// Returns the name, which is also the ending of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Wav => "wav",
            Self::Raw => "raw",
        }
    }

    /// Returns the format for a stream: the one that was asked for, or else the one that most programs read.
    ///
    /// # Errors
    /// The stream cannot be written in the format that was asked for.
    pub fn choose(wanted: Option<Self>, spec: &StreamSpec, has_truth: bool) -> Result<Self, FormatError> {
        let fits = |format: Self| format.fits(spec, has_truth);
        match wanted {
            Some(format) => fits(format).map(|()| format),
            None => Ok([Self::Wav, Self::Csv].into_iter().find(|format| fits(*format).is_ok()).unwrap_or(Self::Raw)),
        }
    }

    fn fits(self, spec: &StreamSpec, has_truth: bool) -> Result<(), FormatError> {
        let refuse = |why: String| Err(FormatError(why));
        let values = spec.frame.values();
        let is_flat = spec.frame.dims().len() == 1;
        let whole_rate = spec.rate_hz.is_some_and(|rate| rate.fract() == 0.0 && (1.0..=4e9).contains(&rate));
        match self {
            Self::Csv if spec.sample != SampleType::F32 || !is_flat || values > MOST_CSV_CHANNELS => refuse(format!(
                "CSV is for up to {MOST_CSV_CHANNELS} channels of f32, and the stream has {} {}; use --format raw",
                spec.frame, spec.sample
            )),
            Self::Csv if spec.names.iter().any(|name| name.contains(['\n', '\r'])) => {
                refuse("the name of a channel has a line break, which CSV cannot have; use --format raw".to_owned())
            }
            Self::Wav if spec.sample != SampleType::I16 || !is_flat || values > MOST_WAV_CHANNELS => refuse(format!(
                "WAV is for sound of 16 bits, and the stream has {} {}; use --format raw",
                spec.frame, spec.sample
            )),
            Self::Wav if !whole_rate => refuse(
                "a WAV file needs a rate that is a whole number, and the stream has none; use --format raw".to_owned(),
            ),
            Self::Wav | Self::Raw if has_truth => {
                refuse("the stream has true classes, which only CSV can have; use --format csv".to_owned())
            }
            Self::Csv | Self::Wav | Self::Raw => Ok(()),
        }
    }
}

/// A file that grows by whole pieces.
pub(super) struct Growing {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    hash: Sha256,
}

impl Growing {
    pub(super) fn new(path: &Path, start: &[u8]) -> Result<Self, RecordError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|error| RecordError::io("make", path, error))?;
        let buffer = Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 4);
        let mut growing = Self { path: path.to_owned(), file, buffer, written: 0, hash: Sha256::new() };
        growing.buffer.extend_from_slice(start);
        growing.flush()?;
        Ok(growing)
    }

    /// Adds what `write` writes.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
        // Memory takes everything.
        let _ = write(&mut self.buffer);
    }

    fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes the buffer. If that fails, what was written of it is cut off.
    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        let written = self.file.write_all(&self.buffer);
        if let Err(error) = written {
            self.buffer.clear();
            // The next two fail only if the file is gone; then so is the recording.
            let _ = self.file.set_len(self.written);
            let _ = self.file.seek(SeekFrom::Start(self.written));
            return Err(RecordError::io("write", &self.path, error));
        }
        self.hash.update(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Returns the bytes of the file and their SHA-256, when all is on the disk.
    pub(super) fn finish(self) -> Result<(u64, String), RecordError> {
        self.file.sync_all().map_err(|error| RecordError::io("write", &self.path, error))?;
        Ok((self.written, hex(&self.hash.finalize())))
    }

    /// Does so after the beginning was written again.
    fn finish_with_start(mut self, start: &[u8]) -> Result<(u64, String), RecordError> {
        let path = self.path.clone();
        let failed = |error| RecordError::io("write", &path, error);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.file.write_all(start).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.hash = Sha256::new();
        self.buffer.resize(BUFFER_BYTES, 0);
        loop {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return self.finish(),
                Ok(count) => self.hash.update(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Writes the data.
pub(super) struct DataWriter {
    format: Format,
    file: Growing,
    spec: StreamSpec,
    has_time: bool,
    has_truth: bool,
    frame_bytes: u64,
    header_bytes: u64,
}

impl DataWriter {
    pub(super) fn new(format: Format, path: &Path, spec: &StreamSpec, stream: &Stream) -> Result<Self, RecordError> {
        let start = match format {
            Format::Csv => csv_header(spec, stream),
            Format::Wav => wav::header(channels(spec), rate(spec), None).to_vec(),
            Format::Raw => Vec::new(),
        };
        Ok(Self {
            format,
            file: Growing::new(path, &start)?,
            spec: spec.clone(),
            has_time: stream.has_time,
            has_truth: stream.has_truth,
            frame_bytes: spec.frame.values().saturating_mul(spec.sample.bytes()).max(1) as u64,
            header_bytes: start.len() as u64,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Drops what is not written.
    pub(super) fn forget(&mut self) {
        self.file.buffer.clear();
    }

    /// Returns whether it is time to write the buffer.
    pub(super) fn is_due(&self) -> bool {
        self.file.buffer.len() >= BUFFER_BYTES
    }

    pub(super) fn frames_below(&self, bytes: u64) -> Option<u64> {
        (self.format != Format::Csv).then(|| bytes.saturating_sub(self.bytes()) / self.frame_bytes)
    }

    /// Returns whether so many more frames have room in the file.
    pub(super) fn has_room(&self, frames: usize) -> bool {
        let more = self.frame_bytes.saturating_mul(frames as u64);
        self.format != Format::Wav || self.bytes().saturating_add(more) <= wav::MOST_BYTES
    }

    /// Adds frames as they are.
    pub(super) fn samples(&mut self, values: Pieces<'_>, count: usize) {
        let values_wanted = count.saturating_mul(self.spec.frame.values());
        let buffer = &mut self.file.buffer;
        match values {
            Pieces::F32(first, second) => {
                let values = first.iter().chain(second).take(values_wanted);
                buffer.extend(values.flat_map(|value| value.to_le_bytes()));
            }
            Pieces::I16(first, second) => {
                let values = first.iter().chain(second).take(values_wanted);
                buffer.extend(values.flat_map(|value| value.to_le_bytes()));
            }
            Pieces::U8(first, second) => {
                let from_first = first.len().min(values_wanted);
                buffer.extend_from_slice(&first[..from_first]);
                buffer.extend_from_slice(&second[..second.len().min(values_wanted - from_first)]);
            }
        }
    }

    /// Adds frames as lines; `block` is the first of them.
    pub(super) fn rows(
        &mut self,
        frames: &Frames<'_>,
        count: usize,
        block: Block,
        period_ns: i64,
        class: Option<&str>,
    ) -> Result<(), RecordError> {
        let Pieces::F32(first, second) = frames.values else {
            return Err(RecordError::Stream("the source gave samples of another type than it announced".to_owned()));
        };
        if count > 1 && block.stream_ns.is_some() && period_ns == 0 {
            let why = "the source gives several frames with one time, which CSV cannot have; use --format raw";
            return Err(RecordError::Stream(why.to_owned()));
        }
        if self.has_time && block.stream_ns.is_none() {
            return Err(RecordError::Stream("the source gave a frame without a time; use --format raw".to_owned()));
        }
        let width = self.spec.frame.values().max(1);
        let mut values = first.iter().chain(second);
        let Self { file, has_time, has_truth, .. } = self;
        for index in 0..count {
            let is_first = index == 0;
            file.add(|line| {
                write!(line, "{}", block.arrived_ns)?;
                if let Some(ns) = super::later(block.stream_ns, index, period_ns).filter(|_| *has_time) {
                    write!(line, ",{ns}")?;
                }
                for value in values.by_ref().take(width) {
                    write_number(line, *value)?;
                }
                if *has_truth {
                    line.push(b',');
                    quote(line, class.unwrap_or_default());
                }
                writeln!(line, ",{}", block.gap.filter(|_| is_first).map_or("", |gap| gap.name()))
            });
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), RecordError> {
        self.file.flush()
    }

    /// Returns the bytes of the file and their SHA-256, when all is on the disk.
    pub(super) fn finish(self) -> Result<(u64, String), RecordError> {
        if self.format != Format::Wav {
            return self.file.finish();
        }
        let bytes = u32::try_from(self.file.written.saturating_sub(self.header_bytes)).unwrap_or(u32::MAX);
        self.file.finish_with_start(&wav::header(channels(&self.spec), rate(&self.spec), Some(bytes)))
    }
}

fn channels(spec: &StreamSpec) -> u16 {
    u16::try_from(spec.frame.values()).unwrap_or(u16::MAX)
}

fn rate(spec: &StreamSpec) -> u32 {
    // The format was chosen for a rate that is a whole number.
    spec.rate_hz.unwrap_or(0.0) as u32
}

fn csv_header(spec: &StreamSpec, stream: &Stream) -> Vec<u8> {
    let ([arrived, time, truth, gap], channels) = csv_columns(spec);
    let before = [Some(arrived), Some(time).filter(|_| stream.has_time)];
    let after = [Some(truth).filter(|_| stream.has_truth), Some(gap)];
    let names = before.into_iter().flatten().chain(channels).chain(after.into_iter().flatten());
    let mut line = Vec::new();
    for (index, name) in names.enumerate() {
        if index > 0 {
            line.push(b',');
        }
        quote(&mut line, &name);
    }
    line.push(b'\n');
    line
}

/// Writes a comma and a number with as many digits as it takes to read the same number again.
fn write_number(line: &mut Vec<u8>, value: f32) -> io::Result<()> {
    let size = value.abs();
    if size == 0.0 || (1e-5..1e16).contains(&size) { write!(line, ",{value}") } else { write!(line, ",{value:e}") }
}

/// Writes a text as a field of CSV.
fn quote(line: &mut Vec<u8>, text: &str) {
    let is_plain = !text.contains([',', '"', '\n', '\r']) && text.trim() == text;
    if is_plain {
        return line.extend_from_slice(text.as_bytes());
    }
    let text = text.replace('"', "\"\"").replace(['\n', '\r'], " ");
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}
