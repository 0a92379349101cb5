//! The files of a store: their names, and the errors that they give.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FileError {
    /// It is damaged or not a database: salvage what is in it.
    #[error("{0}")]
    Corrupt(String),
    /// The disk is full, or the file has its largest size.
    #[error("{0}")]
    Full(String),
    /// It may work later: the disk is read-only, the folder is missing, another process has it.
    #[error("{0}")]
    Failed(String),
}

impl From<rusqlite::Error> for FileError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Failed("another process has it open; give each edgewatt its own file".into())
            }
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            // A table or column is missing, or has another type.
            Some(ErrorCode::Unknown) => Self::Corrupt(error.to_string()),
            None => Self::Corrupt(error.to_string()),
            Some(_) => Self::Failed(error.to_string()),
        }
    }
}

pub(super) fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let what = format!("{what} {}", path.display());
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::Full(format!("{what}: {error}")),
        _ => FileError::Failed(format!("{what}: {error}")),
    }
}

/// Creates an empty file, unless there is one.
pub(super) fn create(path: &Path) -> Result<(), FileError> {
    // Messages are private. SQLite gives its log the same mode.
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map(drop).map_err(failed("cannot open", path))
}

/// Returns the path with something added to its last part.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the files that belong together: the database and those that SQLite adds.
pub(super) fn family(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| with_suffix(path, suffix))
}

/// Deletes a database and what SQLite adds, where they exist.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    let existing = family(path).into_iter().filter(|file| file.exists());
    existing.into_iter().try_for_each(|file| fs::remove_file(&file).map_err(failed("cannot delete", &file)))
}

/// Moves a damaged file to `NAME.corrupt-TIME`, and deletes the one moved before. Returns the new path.
pub(super) fn put_aside(path: &Path, now_s: u64) -> Result<PathBuf, FileError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".corrupt-");
    let prefix = PathBuf::from(&aside);
    for old in fs::read_dir(path.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten() {
        if old.path().as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()) {
            // One file too many does no harm.
            let _ = fs::remove_file(old.path());
        }
    }
    aside.push(now_s.to_string());
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside).map_err(failed("cannot move the damaged", path))?;
    for (from, to) in family(path).iter().zip(family(&aside)).skip(1) {
        // They seldom exist. SQLite would take one that stays for a part of the new database.
        if from.exists() && fs::rename(from, to).is_err() {
            fs::remove_file(from).map_err(failed("cannot delete", from))?;
        }
    }
    Ok(aside)
}
