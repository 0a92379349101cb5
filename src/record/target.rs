//! Where a recording goes: the names of its files, and the manifest's own way onto the disk.

use std::fs::{File, OpenOptions, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag, posix_fallocate};

use super::{Format, RecordError};
use crate::source::FoundNames;
use crate::source::recording::manifest::Manifest;
use crate::sys::holder::who;
use crate::units::WallTime;

/// More than a manifest grows by while it is recorded, without the names of true classes: its list of gaps.
const GROWTH_BYTES: usize = 128 * 1024;
/// More than the name of a true class takes: JSON writes some bytes as six, and a line around them.
const CLASS_BYTES: usize = 6 * FoundNames::MOST_BYTES + 16;

/// The files of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub manifest: PathBuf,
    pub data: PathBuf,
    pub blocks: PathBuf,
    /// The manifest while it is written.
    part: PathBuf,
}

impl Target {
    /// Returns the files for `output`, which is a folder, or the name of one of the files with or without its ending.
    pub fn new(output: &Path, pipeline: &str, format: Format, now: WallTime) -> Self {
        let is_folder = output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/");
        let base = if is_folder {
            let name: String =
                pipeline.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
            output.join(format!("{}-{}", name.trim_start_matches('.'), now.compact()))
        } else {
            match output.extension().and_then(|ending| ending.to_str()) {
                Some("json" | "csv" | "wav" | "raw") => output.with_extension(""),
                _ => output.to_owned(),
            }
        };
        let with = |ending: &str| {
            let mut name = base.clone().into_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        Self {
            manifest: with(".json"),
            data: with(&format!(".{}", format.name())),
            blocks: with(".blocks.csv"),
            part: with(".json.part"),
        }
    }

    /// Returns what to tell about the name of `output` if it seems to ask for another format than that of the data.
    pub fn remark(&self, output: &Path, format: Format) -> Option<String> {
        let ending = output.extension()?.to_str()?;
        let is_format = ending.starts_with(|c: char| c.is_ascii_alphabetic()) && !output.is_dir();
        (is_format && ![format.name(), "json"].contains(&ending)).then(|| {
            let (name, data) = (format.name(), self.data.display());
            format!("the data is written as {name} into {data}, not as {ending}; the formats are csv, wav and raw")
        })
    }

    /// Returns the format that the name of `output` asks for.
    pub fn format(output: &Path) -> Option<Format> {
        let ending = output.extension()?.to_str()?;
        [Format::Csv, Format::Wav, Format::Raw].into_iter().find(|format| format.name() == ending)
    }

    fn lasting(&self) -> [&PathBuf; 3] {
        // The manifest first: without it, what is left of the others belongs to nothing.
        [&self.manifest, &self.data, &self.blocks]
    }

    fn make_way(&self, replace: bool) -> Result<(), RecordError> {
        for path in self.lasting() {
            if !replace && path.symlink_metadata().is_ok() {
                return Err(RecordError::Exists { path: path.clone() });
            }
        }
        for path in self.lasting() {
            match remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(RecordError::io("replace", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self) {
        // What cannot be removed says itself that it is not complete.
        self.lasting().into_iter().chain([&self.part]).for_each(|path| _ = remove_file(path));
    }
}

/// Writes a manifest into a new file.
pub(super) fn write(path: &Path, manifest: &Manifest) -> Result<(), RecordError> {
    let failed = |error| RecordError::io("write", path, error);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(&text(manifest)).map_err(failed)
}

/// Room on the disk for the manifest at the end. Its lock keeps other programs from writing the same recording.
pub(super) struct Reserve(Flock<File>);

impl Reserve {
    /// Takes the files of the recording for this program, and removes old ones if they are to be replaced.
    pub(super) fn take(target: &Target, replace: bool) -> Result<Self, RecordError> {
        let path = &target.part;
        let is_old = path.symlink_metadata().is_ok();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(path).map_err(|error| match path.parent() {
            Some(folder) if error.kind() == ErrorKind::NotFound => RecordError::NoFolder { folder: folder.to_owned() },
            _ => RecordError::io("make", path, error),
        })?;
        let in_use = || RecordError::InUse { path: target.manifest.clone(), who: who(path) };
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| in_use())?;
        // The recording that had it may have ended meanwhile, and this file is its manifest then.
        let inode = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
        if inode(path.metadata()) != inode(file.metadata()) {
            return Err(in_use());
        }
        if is_old && !replace {
            return Err(RecordError::Exists { path: path.clone() });
        }
        target.make_way(replace).inspect_err(|_| _ = remove_file(path))?;
        Ok(Self(file))
    }

    /// Takes so much room that the manifest fits when the disk is full.
    pub(super) fn fill(&self, target: &Target, manifest: &Manifest) -> Result<(), RecordError> {
        let classes = if manifest.stream.has_truth { FoundNames::MOST * CLASS_BYTES } else { 0 };
        let bytes = text(manifest).len() + GROWTH_BYTES + classes;
        let failed = |error| RecordError::io("take room for", &target.part, error);
        self.0.set_len(0).map_err(failed)?;
        posix_fallocate(&*self.0, 0, bytes as nix::libc::off_t).map_err(|error| failed(error.into()))
    }

    /// Writes the manifest there, and puts it into its place as a whole.
    pub(super) fn become_manifest(mut self, target: &Target, manifest: &Manifest) -> Result<(), RecordError> {
        let failed = |error| RecordError::io("write", &target.part, error);
        let text = text(manifest);
        self.0.write_all(&text).map_err(failed)?;
        self.0.set_len(text.len() as u64).map_err(failed)?;
        self.0.sync_all().map_err(failed)?;
        rename(&target.part, &target.manifest).map_err(|error| RecordError::io("write", &target.manifest, error))
    }
}

fn text(manifest: &Manifest) -> Vec<u8> {
    // Numbers and strings only: this cannot fail.
    let mut text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    text.push(b'\n');
    text
}
