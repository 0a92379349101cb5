//! The manifest of a recording: what `edgewatt record` knows of the data next to it, as JSON.
//!
//! Untrusted when it is read: it names files of its own folder only, and every number in it is checked.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::stream::{Content, SampleType, Shape, StreamSpec};
use crate::sys::file;

/// The version of the manifest. A change that readers must know about increases it.
pub const VERSION: u32 = 1;
/// The key that makes a JSON file a manifest, and has its version.
const MARK: &str = "\"edgewatt_recording\"";
const MOST_BYTES: u64 = 4 << 20;
/// A frame of more values is not recorded by anything.
const MOST_VALUES: usize = 1 << 28;
/// So many gaps are listed; all are counted, and stand in the data or in the list of blocks.
pub const MOST_GAPS: usize = 1_000;

/// What is known of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub edgewatt_recording: u32,
    /// The recording was ended in order; otherwise numbers and hashes are those of its beginning.
    pub complete: bool,
    /// Why it has ended.
    pub ended: Option<String>,
    /// The version of edgewatt that made it.
    pub edgewatt: String,
    pub pipeline: String,
    /// The kind of source.
    pub source: String,
    /// The configuration file, and the short hash of all its files.
    pub config: PathBuf,
    pub config_hash: String,
    pub stream: Stream,
    pub data: DataFile,
    /// The list of blocks, unless the data has the times itself.
    pub blocks: Option<DataFile>,
    pub frames: u64,
    /// Frames of the longest block.
    pub longest_block: u64,
    pub first: Option<FrameTimes>,
    pub last: Option<FrameTimes>,
    pub gaps: Gaps,
    /// Records that became no frame, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Frames that were lost, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The true classes that the frames have.
    pub labels: Vec<String>,
}

/// The stream that was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub shape: Vec<usize>,
    /// "f32", "i16" or "u8".
    pub sample: String,
    pub rate_hz: Option<f64>,
    pub names: Vec<String>,
    pub units: Vec<String>,
    /// The frames have a time of their own.
    pub has_time: bool,
    /// The frames can have a true class.
    pub has_truth: bool,
}

/// A file next to the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    pub file: String,
    /// "csv", "wav" or "raw".
    pub format: String,
    pub bytes: u64,
    /// Of the whole file; `None`: the recording is not complete.
    pub sha256: Option<String>,
}

/// The times of one frame, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameTimes {
    /// Its own time.
    pub stream_ns: Option<i64>,
    /// When it arrived, since 1970.
    pub arrived_ns: i64,
}

/// The gaps before frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gaps {
    /// How many, by reason.
    pub counts: BTreeMap<String, u64>,
    /// The first of them.
    pub first: Vec<GapAt>,
}

/// A gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapAt {
    /// The frame after it, counted from 0.
    pub frame: u64,
    pub reason: String,
}

impl Stream {
    /// Describes a stream.
    pub fn of(spec: &StreamSpec, has_time: bool, has_truth: bool) -> Self {
        Self {
            shape: spec.frame.dims().to_vec(),
            sample: spec.sample.to_string(),
            rate_hz: spec.rate_hz,
            names: spec.names.clone(),
            units: spec.units.clone(),
            has_time,
            has_truth,
        }
    }

    fn spec(&self) -> Result<StreamSpec, String> {
        let sample =
            [SampleType::F32, SampleType::I16, SampleType::U8].into_iter().find(|s| s.to_string() == self.sample);
        let sample = sample.ok_or_else(|| format!("there is no sample type {:?}", self.sample))?;
        let frame = Shape::new(self.shape.clone());
        if self.shape.is_empty() || self.shape.contains(&0) || frame.values() > MOST_VALUES {
            return Err(format!("a frame cannot have the shape {frame}"));
        }
        if self.rate_hz.is_some_and(|rate| !(1e-6..=1e9).contains(&rate)) {
            return Err("the rate must be from 1e-6 to 1e9 Hz".to_owned());
        }
        if !self.names.is_empty() && self.names.len() != frame.channels() {
            return Err(format!("it has {} names for {} channels", self.names.len(), frame.channels()));
        }
        let (names, units) = (self.names.clone(), self.units.clone());
        Ok(StreamSpec { frame, sample, rate_hz: self.rate_hz, names, units, content: Content::Samples })
    }
}

impl Manifest {
    /// Returns whether a file that begins so is a manifest.
    pub fn is_manifest(start: &[u8]) -> bool {
        let start = start.trim_ascii_start();
        start.first() == Some(&b'{') && memchr::memmem::find(start, MARK.as_bytes()).is_some()
    }

    /// Reads a manifest, and what its stream is.
    ///
    /// # Errors
    /// It cannot be read, is of another version, or contradicts itself.
    pub fn read(path: &Path) -> Result<(Self, StreamSpec), SourceError> {
        let mut text = Vec::new();
        let io_error = |error| SourceError::io("read the recording", path, error);
        file::open(path).map_err(io_error)?.take(MOST_BYTES).read_to_end(&mut text).map_err(io_error)?;
        Self::of_text(&text).map_err(|reason| SourceError::device(path, reason))
    }

    fn of_text(text: &[u8]) -> Result<(Self, StreamSpec), String> {
        #[derive(Deserialize)]
        struct Versioned {
            edgewatt_recording: u32,
        }
        let wrong = |error: serde_json::Error| format!("it is not the manifest of a recording: {error}");
        let Versioned { edgewatt_recording: version } = serde_json::from_slice(text).map_err(wrong)?;
        if version != VERSION {
            return Err(format!("it has version {version}; this edgewatt reads version {VERSION}"));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(wrong)?;
        let spec = manifest.stream.spec()?;
        for file in std::iter::once(&manifest.data).chain(&manifest.blocks) {
            let name = Path::new(&file.file);
            if name.file_name() != Some(name.as_os_str()) {
                return Err(format!("{:?} is not the name of a file in the folder of the manifest", file.file));
            }
        }
        Ok((manifest, spec))
    }

    /// Returns the mean number of frames in a second, by their own times, or by their arrival if they have none.
    pub fn mean_rate_hz(&self) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        let ns = match (first.stream_ns, last.stream_ns) {
            (Some(first), Some(last)) => last.checked_sub(first)?,
            _ => last.arrived_ns.checked_sub(first.arrived_ns)?,
        };
        let seconds = ns as f64 / 1e9;
        let rate = self.frames.checked_sub(1)? as f64 / seconds;
        (1e-6..=1e9).contains(&rate).then_some(rate)
    }
}
