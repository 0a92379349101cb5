//! Replaces a file that a user wrote: the old one is kept under another name; mode, owner and symbolic links stay.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};

/// What became of a file.
#[derive(Debug)]
pub enum Rewritten {
    /// It has the new text; the old one is in this file.
    Done(PathBuf),
    /// Nothing was changed, because this user may not change the file, or could not keep its owner.
    ReadOnly(String),
}

/// Gives the file at `path` the text `new` instead of `old`. Even after a crash, the file is whole.
///
/// # Errors
/// The file does not contain `old`, or cannot be written for another reason than permissions. It is as it was then.
pub fn rewrite(path: &Path, old: &str, new: &str) -> io::Result<Rewritten> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(Rewritten::ReadOnly("it is not a regular file".to_owned()));
    }
    let target = fs::canonicalize(path)?;
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it has no folder"));
    };
    if let Err(error) = eaccess(&target, AccessFlags::W_OK) {
        return read_only(error.into());
    }
    let mut unfinished = OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = folder.join(unfinished);
    match create(&unfinished, new, &metadata) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return read_only(error),
        created => created?,
    }
    let finished = finish(&target, &unfinished, old, &metadata);
    if finished.is_err() {
        // It is useless. If it cannot be removed either, the first error still says why.
        let _ = fs::remove_file(&unfinished);
    }
    let backup = finished?;
    File::open(folder)?.sync_all()?;
    Ok(Rewritten::Done(backup))
}

/// Returns [`Rewritten::ReadOnly`] for an error that says so.
fn read_only(error: io::Error) -> io::Result<Rewritten> {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Ok(Rewritten::ReadOnly(error.to_string())),
        _ => Err(error),
    }
}

/// Keeps the old text in a new file, and puts `unfinished` in its place.
fn finish(target: &Path, unfinished: &Path, old: &str, metadata: &Metadata) -> io::Result<PathBuf> {
    if fs::read(target)? != old.as_bytes() {
        return Err(io::Error::other("it has changed while it was read; try again"));
    }
    let backup = keep(target, old, metadata)?;
    fs::rename(unfinished, target)?;
    Ok(backup)
}

/// Writes the old text into `FILE.bak-N`, with the first number that is free.
fn keep(target: &Path, old: &str, metadata: &Metadata) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".bak-{number}"));
        let backup = PathBuf::from(name);
        match create(&backup, old, metadata) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            created => return created.map(|()| backup),
        }
    }
}

/// Makes a file that there is not yet, with the owner and the mode of another one.
fn create(path: &Path, text: &str, like: &Metadata) -> io::Result<()> {
    // Nobody else may read it before it has its owner: it can contain what only that one may know.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let made = file
        .write_all(text.as_bytes())
        .and_then(|()| {
            let made = file.metadata()?;
            let same = (made.uid(), made.gid()) == (like.uid(), like.gid());
            if same { Ok(()) } else { fchown(&file, Some(like.uid()), Some(like.gid())) }
        })
        .and_then(|()| file.set_permissions(Permissions::from_mode(like.mode() & 0o7777)))
        .and_then(|()| file.sync_all());
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn backup(rewritten: Rewritten) -> PathBuf {
        match rewritten {
            Rewritten::Done(backup) => backup,
            Rewritten::ReadOnly(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn the_old_text_is_kept_and_no_backup_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edgewatt.toml");
        fs::write(&file, "old").unwrap();
        fs::write(dir.path().join("edgewatt.toml.bak-1"), "mine").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let kept = backup(rewrite(&file, "old", "new").unwrap());
        assert!(kept.ends_with("edgewatt.toml.bak-2"));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "old");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_to_string(dir.path().join("edgewatt.toml.bak-1")).unwrap(), "mine");
        for path in [&file, &kept] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
        }
        assert_eq!(names(dir.path()), ["edgewatt.toml", "edgewatt.toml.bak-1", "edgewatt.toml.bak-2"]);
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("site")).unwrap();
        fs::write(dir.path().join("site/a.toml"), "old").unwrap();
        let link = dir.path().join("edgewatt.toml");
        symlink("site/a.toml", &link).unwrap();
        backup(rewrite(&link, "old", "new").unwrap());
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("site/a.toml"));
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(names(&dir.path().join("site")), ["a.toml", "a.toml.bak-1"]);
    }

    #[test]
    fn what_has_changed_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "edited").unwrap();
        let error = rewrite(&file, "old", "new").unwrap_err();
        assert!(error.to_string().contains("has changed"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "edited");
        assert_eq!(names(dir.path()), ["a.toml"]);
    }

    #[test]
    fn what_is_no_regular_file_is_read_only() {
        assert!(matches!(rewrite(Path::new("/dev/null"), "", "new").unwrap(), Rewritten::ReadOnly(_)));
    }
}
