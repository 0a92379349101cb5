//! Where a recording goes: the names of its files, and the manifest's own way onto the disk.

use std::fs::{File, OpenOptions, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;

use super::{Format, RecordError};
use crate::source::recording::manifest::Manifest;
use crate::units::WallTime;

/// Larger than any manifest: taken at the beginning, so that there is room for it when the disk is full.
const RESERVE_BYTES: u64 = 128 * 1024;

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

    /// Returns the format that the name of `output` asks for.
    pub fn format(output: &Path) -> Option<Format> {
        let ending = output.extension()?.to_str()?;
        [Format::Csv, Format::Wav, Format::Raw].into_iter().find(|format| format.name() == ending)
    }

    fn all(&self) -> [&PathBuf; 4] {
        // The manifest first: without it, what is left of the others belongs to nothing.
        [&self.manifest, &self.data, &self.blocks, &self.part]
    }

    pub(super) fn make_way(&self, replace: bool) -> Result<(), RecordError> {
        for path in self.all() {
            if !replace && path.symlink_metadata().is_ok() {
                return Err(RecordError::Exists { path: path.clone() });
            }
        }
        for path in self.all() {
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
        self.all().into_iter().for_each(|path| _ = remove_file(path));
    }
}

/// Writes a manifest into a new file.
pub(super) fn write(path: &Path, manifest: &Manifest) -> Result<(), RecordError> {
    let failed = |error| RecordError::io("write", path, error);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(&text(manifest)).map_err(failed)
}

/// Room on the disk for the manifest at the end.
pub(super) struct Reserve(File);

impl Reserve {
    pub(super) fn take(target: &Target) -> Result<Self, RecordError> {
        let path = &target.part;
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| RecordError::io("make", path, error))?;
        posix_fallocate(&file, 0, RESERVE_BYTES as nix::libc::off_t).map_err(|error| {
            target.remove();
            RecordError::io("take room for", path, io::Error::from(error))
        })?;
        Ok(Self(file))
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
