//! Recording what a source delivers, for `edgewatt record`: data, a list of blocks where the data has no times, a manifest.
//!
//! Owns the files and their order on the disk. What was written stays usable, whatever happens: the manifest is there from
//! the beginning, data and list grow by whole frames, and a piece that the disk did not take is cut off. Leaves the source
//! and the clock to `session`, and the reading to `source::recording`.

mod data;
pub mod session;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::source::recording::blocks::{self, Block};
use crate::source::recording::manifest::{DataFile, FrameTimes, GapAt, Gaps, MOST_GAPS, Manifest, Stream, VERSION};
use crate::source::sink::period_ns;
use crate::source::{FrameHeader, Frames};
use crate::stream::StreamSpec;
use crate::units::MonoTime;

pub use data::{Format, FormatError};
pub use target::Target;

use data::{DataWriter, Growing};
use target::Reserve;

/// A line of the list is written at least so often, so that it says when frames came.
const LINE_EACH: Duration = Duration::from_secs(1);

/// Why nothing more can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{0}")]
    Stream(String),
    #[error("a WAV file holds 4 GiB at most, and is full; record with --format raw, or for a shorter time")]
    WavIsFull,
    #[error("{} exists; name another file, or give --force to replace it", path.display())]
    Exists { path: PathBuf },
    #[error("another program writes {} now: {who}; wait for its end, or name another file", path.display())]
    InUse { path: PathBuf, who: String },
    #[error("there is no folder {0}; make it first: mkdir -p {0}", folder.display())]
    NoFolder { folder: PathBuf },
}

impl RecordError {
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), error }
    }
}

/// What is known of a recording before it begins.
#[derive(Debug, Clone)]
pub struct About {
    pub pipeline: String,
    pub source: String,
    pub config: PathBuf,
    pub config_hash: String,
    pub spec: StreamSpec,
    pub has_time: bool,
    pub has_truth: bool,
    /// No block of frames is longer.
    pub most_block_frames: usize,
}

/// What only the end of a recording knows.
#[derive(Debug, Default)]
pub struct AtEnd {
    pub ended: String,
    pub rejected: Vec<(&'static str, u64)>,
    pub dropped: Vec<(&'static str, u64)>,
    pub labels: Vec<String>,
}

/// Writes a recording.
pub struct Recording {
    target: Target,
    manifest: Manifest,
    reserve: Reserve,
    data: DataWriter,
    blocks: Option<Growing>,
    period_ns: i64,
    /// The time that the next frame has at the nominal rate.
    expected_ns: Option<i64>,
    /// When the frame of the last line of the list arrived.
    last_line: Option<MonoTime>,
    /// What was added, and what of it the kernel has.
    added: Added,
    written: Added,
}

/// What a recording has so far.
#[derive(Debug, Clone, Default)]
struct Added {
    frames: u64,
    longest_block: u64,
    first: Option<FrameTimes>,
    last: Option<FrameTimes>,
    gaps: Gaps,
}

impl Recording {
    /// Begins a recording: makes its files.
    ///
    /// # Errors
    /// A file is there already and is not to be replaced, or cannot be made, or another program writes it.
    pub fn begin(target: Target, format: Format, about: About, replace: bool) -> Result<Self, RecordError> {
        let spec = about.spec.clone();
        let manifest = manifest(&target, format, about);
        let reserve = Reserve::take(&target, replace)?;
        Self::make(target.clone(), format, spec, manifest, reserve).inspect_err(|_| target.remove())
    }

    fn make(
        target: Target,
        format: Format,
        spec: StreamSpec,
        manifest: Manifest,
        reserve: Reserve,
    ) -> Result<Self, RecordError> {
        reserve.fill(&target, &manifest)?;
        target::write(&target.manifest, &manifest)?;
        let data = DataWriter::new(format, &target.data, &spec, &manifest.stream)?;
        let blocks = match format {
            Format::Csv => None,
            Format::Wav | Format::Raw => Some(Growing::new(&target.blocks, blocks::HEADER.as_bytes())?),
        };
        Ok(Self {
            target,
            manifest,
            reserve,
            data,
            blocks,
            period_ns: period_ns(spec.rate_hz),
            expected_ns: None,
            last_line: None,
            added: Added::default(),
            written: Added::default(),
        })
    }

    /// Returns the number of frames and of bytes of data so far.
    pub fn size(&self) -> (u64, u64) {
        (self.added.frames, self.data.bytes())
    }

    /// Returns where the recording is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Adds frames that follow each other, the first `count` of a block; `wall_ns` is what the clock of 1970 shows when the
    /// monotonic one shows 0. `class` names a true class.
    ///
    /// # Errors
    /// The disk is full or fails; the frames may be missing then. Or the stream does not fit into the format.
    pub fn add(
        &mut self,
        frames: &Frames<'_>,
        count: usize,
        wall_ns: i64,
        class: impl Fn(u16) -> Option<String>,
    ) -> Result<(), RecordError> {
        let FrameHeader { arrival, stream_ns, truth, gap, .. } = frames.first;
        let arrived_ns = wall_ns.saturating_add(i64::try_from(arrival.0).unwrap_or(i64::MAX));
        let frame = self.added.frames;
        if !self.data.has_room(count) {
            return Err(RecordError::WavIsFull);
        }
        let block = Block { frame, arrived_ns, stream_ns, gap };
        if let Some(list) = &mut self.blocks {
            let is_old = self.last_line.is_none_or(|last| arrival.since(last) >= LINE_EACH);
            // Frames of one time stay together.
            let is_alone = self.period_ns == 0 && stream_ns.is_some();
            if gap.is_some() || is_old || is_alone || stream_ns != self.expected_ns {
                list.add(|line| block.write(line));
                self.last_line = Some(arrival);
            }
            self.expected_ns = later(stream_ns, count, self.period_ns);
            self.data.samples(frames.values, count);
        } else {
            let class = truth.and_then(class);
            self.data.rows(frames, count, block, self.period_ns, class.as_deref())?;
        }
        if let Some(gap) = gap {
            self.added.note_gap(frame, gap.name());
        }
        let last_ns = later(stream_ns, count.saturating_sub(1), self.period_ns);
        self.added.first.get_or_insert(FrameTimes { stream_ns, arrived_ns });
        self.added.last = Some(FrameTimes { stream_ns: last_ns, arrived_ns });
        self.added.frames += count as u64;
        self.added.longest_block = self.added.longest_block.max(count as u64);
        if self.data.is_due() { self.flush() } else { Ok(()) }
    }

    /// Returns how many more frames fit below so many bytes of data; `None`: that is not known before they are written.
    pub fn frames_below(&self, bytes: u64) -> Option<u64> {
        self.data.frames_below(bytes)
    }

    /// Gives all that was added to the kernel, which keeps it when this program ends.
    ///
    /// # Errors
    /// The disk is full or fails; what was written before is good.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        // The list goes first: it may know of more than the data has.
        let flushed = self.blocks.as_mut().map_or(Ok(()), Growing::flush).and_then(|()| self.data.flush());
        match &flushed {
            Ok(()) => self.written.clone_from(&self.added),
            Err(_) => {
                self.data.forget();
                self.added.clone_from(&self.written);
            }
        }
        flushed
    }

    /// Ends the recording: completes the files, and replaces the manifest by the complete one.
    ///
    /// # Errors
    /// A file cannot be completed; the recording can be played all the same.
    pub fn finish(mut self, at_end: AtEnd) -> Result<Manifest, RecordError> {
        // After an error of the disk, the buffers are empty.
        self.flush()?;
        let AtEnd { ended, rejected, dropped, labels } = at_end;
        let counts = |counts: Vec<(&str, u64)>| counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        let Added { frames, longest_block, first, last, gaps } = self.written;
        let mut manifest = Manifest {
            complete: true,
            ended: Some(ended),
            frames,
            longest_block,
            first,
            last,
            gaps,
            rejected: counts(rejected),
            dropped: counts(dropped),
            labels,
            ..self.manifest
        };
        let (bytes, sha256) = self.data.finish()?;
        (manifest.data.bytes, manifest.data.sha256) = (bytes, Some(sha256));
        if let (Some(list), Some(of)) = (self.blocks, &mut manifest.blocks) {
            let (bytes, sha256) = list.finish()?;
            (of.bytes, of.sha256) = (bytes, Some(sha256));
        }
        self.reserve.become_manifest(&self.target, &manifest)?;
        Ok(manifest)
    }

    /// Removes the files of a recording that has nothing.
    pub fn discard(self) {
        let Self { target, data, blocks, reserve, .. } = self;
        drop((data, blocks, reserve));
        target.remove();
    }
}

impl Added {
    fn note_gap(&mut self, frame: u64, reason: &str) {
        *self.gaps.counts.entry(reason.to_owned()).or_default() += 1;
        if self.gaps.first.len() < MOST_GAPS {
            self.gaps.first.push(GapAt { frame, reason: reason.to_owned() });
        }
    }
}

fn later(ns: Option<i64>, frames: usize, period_ns: i64) -> Option<i64> {
    let passed = i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(period_ns);
    ns.map(|ns| ns.saturating_add(passed))
}

fn manifest(target: &Target, format: Format, about: About) -> Manifest {
    let file = |path: &Path, format: &str| DataFile {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        format: format.to_owned(),
        bytes: 0,
        sha256: None,
    };
    Manifest {
        edgewatt_recording: VERSION,
        complete: false,
        ended: None,
        edgewatt: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: about.pipeline,
        source: about.source,
        config: about.config,
        config_hash: about.config_hash,
        stream: Stream::of(&about.spec, about.has_time, about.has_truth),
        data: file(&target.data, format.name()),
        blocks: (format != Format::Csv).then(|| file(&target.blocks, "csv")),
        frames: 0,
        longest_block: about.most_block_frames as u64,
        first: None,
        last: None,
        gaps: Gaps::default(),
        rejected: Default::default(),
        dropped: Default::default(),
        labels: Vec::new(),
    }
}
