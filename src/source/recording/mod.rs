//! Recordings: files of text, of raw samples or of sound, and what `edgewatt record` writes.
//!
//! Owns what a file says about the stream in it, and the reading of frames from it with their times, gaps and true classes.
//! Leaves to `replay` when each frame is due, and to the check of a configuration what it makes of them.

pub mod blocks;
mod file;
pub mod manifest;
#[cfg(test)]
mod tests;
pub mod wav;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use self::manifest::Manifest;
use self::wav::WavError;
use super::bytes::{Bytes, Encoding, Layout};
use super::{Records, SourceError};
use crate::stream::{Content, SampleType, Shape, StreamSpec};
use crate::sys::file as regular;
use crate::text::{counted, figure};

pub use file::{Found, RecordingFile};

/// So much of a file is looked at to find what it is.
const START_BYTES: u64 = 512;
/// Frames that are played together last so long, if their rate is known.
const BLOCK_S: f64 = 0.02;
/// The columns of a recording as CSV that are not channels. If a channel has such a name, the column has more underscores.
pub const COLUMNS: [&str; 4] = ["arrived_ns", "time_ns", "truth", "gap"];

/// What is in a recording, known before it is played.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStream {
    /// The file with the frames.
    pub data: PathBuf,
    pub spec: StreamSpec,
    /// The frames have a time of their own.
    pub has_time: bool,
    /// The number of frames in a second at which it is played, if frames have no time.
    pub pace_hz: Option<f64>,
    pub content: RecordedContent,
    /// What is in it, in words; empty for what the configuration says.
    pub says: String,
    /// What may not be as it should be.
    pub warnings: Vec<String>,
}

/// How the frames of a recording are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedContent {
    Text(Box<Records>),
    Samples(Samples),
}

/// Samples one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    pub layout: Layout,
    /// Where they begin in the file, in bytes.
    pub start: u64,
    /// Their bytes; `None`: to the end of the file.
    pub bytes: Option<u64>,
    pub times: Times,
    /// Frames that are played together at most.
    pub block_frames: usize,
}

/// Where the times of frames come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Times {
    /// They have none.
    None,
    /// The number of the frame, and the rate.
    Rate(f64),
    /// The list of blocks at this path.
    Blocks(PathBuf),
}

impl RecordedStream {
    /// Returns the stream in a file of text.
    pub fn text(path: &Path, records: &Records) -> Self {
        Self {
            data: path.to_owned(),
            spec: records.spec(),
            has_time: records.time.is_some(),
            pace_hz: records.rate_hz,
            content: RecordedContent::Text(Box::new(records.clone())),
            says: String::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns the stream in a file of raw samples.
    pub fn bytes(path: &Path, bytes: &Bytes, spec: StreamSpec) -> Self {
        let samples = Samples {
            layout: bytes.layout(),
            start: 0,
            bytes: None,
            times: spec.rate_hz.map_or(Times::None, Times::Rate),
            block_frames: block_frames(spec.rate_hz),
        };
        let (has_time, pace_hz, content) = (spec.rate_hz.is_some(), spec.rate_hz, RecordedContent::Samples(samples));
        Self { data: path.to_owned(), spec, has_time, pace_hz, content, says: String::new(), warnings: Vec::new() }
    }

    /// Returns the stream in a WAV file; `select` are the channels that are used, all if there are none.
    ///
    /// # Errors
    /// It cannot be read, or is not a WAV file that can be played.
    pub fn wav(path: &Path, select: Option<&[usize]>) -> Result<Self, SourceError> {
        let mut file = open_file(path)?;
        let io_error = |error| SourceError::io("read the recording", path, error);
        let bytes = file.metadata().map_err(io_error)?.len();
        let header = wav::read(&mut file, bytes).map_err(|error| match error {
            WavError::Io(error) => io_error(error),
            other => SourceError::device(path, other.to_string()),
        })?;
        if let Some(wrong) = select.into_iter().flatten().find(|channel| **channel >= header.channels) {
            let (count, last) = (header.channels, header.channels - 1);
            let reason = format!("there is no channel {wrong} to select; it has {count}, counted from 0 to {last}");
            return Err(SourceError::device(path, reason));
        }
        let rate = f64::from(header.rate_hz);
        let layout = Layout::of(header.encoding, header.channels, select.map(<[_]>::to_vec));
        let seconds = |bytes: u64| bytes as f64 / layout.frame_bytes().max(1) as f64 / rate;
        let mut warnings = Vec::new();
        if let Some(promised) = header.promised {
            let (has, promised) = (seconds(header.bytes), seconds(promised));
            warnings.push(format!(
                "it is cut off: its header says {} s of sound, and {} s are there",
                figure(promised),
                figure(has)
            ));
        }
        let kind = if header.encoding.sample().0 == SampleType::I16 { "" } else { ", in the range of 16 bits" };
        let says = format!(
            "{} s of sound, {} Hz, {} of {} bits{kind}",
            figure(seconds(header.bytes)),
            header.rate_hz,
            counted(header.channels, "channel"),
            header.bits
        );
        let spec = StreamSpec {
            frame: Shape::new([select.map_or(header.channels, <[_]>::len)]),
            sample: header.encoding.sample().0,
            rate_hz: Some(rate),
            names: Vec::new(),
            units: Vec::new(),
            content: Content::Pcm16,
        };
        let samples = Samples {
            layout,
            start: header.start,
            bytes: Some(header.bytes),
            times: Times::Rate(rate),
            block_frames: block_frames(Some(rate)),
        };
        let content = RecordedContent::Samples(samples);
        Ok(Self { data: path.to_owned(), spec, has_time: true, pace_hz: Some(rate), content, says, warnings })
    }

    /// Returns the stream in a file that says itself what it holds: a WAV file, or the manifest of a recording; `None` for
    /// another file.
    ///
    /// # Errors
    /// The file cannot be read, or what it says is wrong.
    pub fn find(path: &Path) -> Result<Option<Self>, SourceError> {
        let mut start = Vec::new();
        let read = open_file(path)?.take(START_BYTES).read_to_end(&mut start);
        read.map_err(|error| SourceError::io("read the recording", path, error))?;
        if wav::is_wav(&start) {
            return Self::wav(path, None).map(Some);
        }
        if Manifest::is_manifest(&start) {
            return Self::recorded(path).map(Some);
        }
        Ok(None)
    }

    /// Returns the stream of a recording, by its manifest.
    fn recorded(path: &Path) -> Result<Self, SourceError> {
        let unusable = |reason: String| SourceError::device(path, reason);
        let (manifest, spec) = Manifest::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let data = folder.join(&manifest.data.file);
        let content = match manifest.data.format.as_str() {
            "csv" => RecordedContent::Text(Box::new(csv_records(&manifest, &spec).map_err(unusable)?)),
            "wav" | "raw" => RecordedContent::Samples(recorded_samples(&manifest, &spec, &data, folder)?),
            other => return Err(unusable(format!("this edgewatt does not read the format {other:?}"))),
        };
        let size = open_file(&data)?.metadata().map_err(|error| SourceError::io("read", &data, error))?.len();
        let mut warnings = Vec::new();
        if !manifest.complete {
            warnings.push("the recording was not ended in order; what was written by then is played".to_owned());
        } else if size != manifest.data.bytes {
            let (name, bytes) = (&manifest.data.file, manifest.data.bytes);
            warnings.push(format!("{name} has {}, and had {bytes} when it was recorded", counted(size, "byte")));
        }
        let Manifest { pipeline, source, edgewatt, frames, .. } = &manifest;
        let says = format!(
            "recorded by edgewatt {edgewatt} from source.{source} of {pipeline}, {}",
            counted(*frames, "frame")
        );
        let pace_hz = spec.rate_hz.or_else(|| manifest.mean_rate_hz());
        Ok(Self { data, spec, has_time: manifest.stream.has_time, pace_hz, content, says, warnings })
    }

    /// Returns the records, if the recording is text.
    pub fn records(&self) -> Option<&Records> {
        match &self.content {
            RecordedContent::Text(records) => Some(records),
            RecordedContent::Samples(_) => None,
        }
    }

    /// Returns the least number of frames that come together.
    pub fn frames_per_block(&self) -> usize {
        match &self.content {
            RecordedContent::Samples(Samples { times: Times::Rate(_) | Times::None, block_frames, .. }) => {
                *block_frames
            }
            _ => 1,
        }
    }
}

impl RecordedStream {
    /// Returns the most frames that come together.
    pub fn most_frames_together(&self) -> usize {
        match &self.content {
            RecordedContent::Samples(samples) => samples.block_frames,
            RecordedContent::Text(_) => 1,
        }
    }
}

/// Returns how many frames of that rate are played together.
fn block_frames(rate_hz: Option<f64>) -> usize {
    rate_hz.map_or(1, |rate| (rate * BLOCK_S) as usize).max(1)
}

/// Returns how raw samples of a stream are recorded.
pub fn encoding(sample: SampleType) -> Encoding {
    match sample {
        SampleType::F32 => Encoding::F32,
        SampleType::I16 => Encoding::S16,
        SampleType::U8 => Encoding::U8,
    }
}

/// Returns the names of the columns of [`COLUMNS`] and of the channels, as a recording as CSV has them.
pub fn csv_columns(spec: &StreamSpec) -> ([String; 4], Vec<String>) {
    let channels: Vec<String> = match spec.names.is_empty() {
        true => (0..spec.frame.values()).map(|channel| format!("c{channel}")).collect(),
        false => spec.names.clone(),
    };
    let free = |name: &str| {
        let mut name = name.to_owned();
        while channels.contains(&name) {
            name.push('_');
        }
        name
    };
    (COLUMNS.map(free), channels)
}

/// Returns what a line of a recording as CSV holds.
fn csv_records(manifest: &Manifest, spec: &StreamSpec) -> Result<Records, String> {
    if spec.sample != SampleType::F32 || spec.frame.dims().len() != 1 {
        return Err(format!("frames of {} {} are not stored as CSV", spec.frame, spec.sample));
    }
    let ([_, time, truth, gap], channels) = csv_columns(spec);
    let stream = &manifest.stream;
    let keys = json!({
        "channels": channels, "comment": "", "time": stream.has_time.then_some(time), "time_unit": "ns", "gap": gap,
        "truth": stream.has_truth.then_some(truth), "rate_hz": spec.rate_hz,
    });
    let written = keys.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let written: serde_json::Map<_, _> = written.map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(written.into()).map_err(|error| error.to_string())
}

fn recorded_samples(
    manifest: &Manifest,
    spec: &StreamSpec,
    data: &Path,
    folder: &Path,
) -> Result<Samples, SourceError> {
    /// No buffer holds longer blocks.
    const MOST_BLOCK_FRAMES: usize = 1 << 22;
    let (mut start, mut bytes) = (0, None);
    if manifest.data.format == "wav" {
        let Place { start: at, bytes: length } = wav_place(data, spec)?;
        (start, bytes) = (at, Some(length));
    }
    let layout = Layout::of(encoding(spec.sample), spec.frame.values(), None);
    let longest = usize::try_from(manifest.longest_block).unwrap_or(usize::MAX).min(MOST_BLOCK_FRAMES);
    // Without a rate, the frames of a block have one time, and a block must stay whole.
    let block_frames = if spec.rate_hz.is_some() { block_frames(spec.rate_hz) } else { longest.max(1) };
    if block_frames.saturating_mul(layout.frame_bytes()) > 1 << 30 {
        return Err(SourceError::device(data, "a block of it is longer than 1 GiB".to_owned()));
    }
    let times = match &manifest.blocks {
        Some(blocks) => Times::Blocks(folder.join(&blocks.file)),
        None => Times::None,
    };
    Ok(Samples { layout, start, bytes, times, block_frames })
}

/// Where the sound of a WAV file lies.
struct Place {
    start: u64,
    bytes: u64,
}

fn wav_place(data: &Path, spec: &StreamSpec) -> Result<Place, SourceError> {
    let found = RecordedStream::wav(data, None)?;
    let is_same = found.spec.frame.values() == spec.frame.values() && found.spec.sample == spec.sample;
    match found.content {
        RecordedContent::Samples(Samples { start, bytes: Some(bytes), .. }) if is_same => Ok(Place { start, bytes }),
        _ => Err(SourceError::device(data, format!("it does not have the {} channels of its manifest", spec.frame))),
    }
}

/// Opens a regular file. A FIFO is not opened, because that would wait for a writer.
pub(crate) fn open_file(path: &Path) -> Result<File, SourceError> {
    let io_error = |error| SourceError::io("open the recording", path, error);
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    regular::open(path).map_err(io_error)
}
