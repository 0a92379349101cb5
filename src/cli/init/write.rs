//! The files of `edgewatt init`: none is ever overwritten, each appears whole, and what a failed run has written goes again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

/// Refuses a file that exists.
pub(super) fn check_free(path: &Path) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("{} exists, and nothing is overwritten; name another file with --output", path.display());
    }
    Ok(())
}

/// Returns the folder of a file that is to be written.
pub(super) fn folder(output: &Path) -> anyhow::Result<PathBuf> {
    let parent = output.parent().unwrap_or(Path::new(""));
    if !here(parent).is_dir() {
        bail!("{} is not a folder; create it first: mkdir -p {}", parent.display(), parent.display());
    }
    Ok(parent.to_owned())
}

/// Returns a folder as the kernel takes it: an empty path is the current one.
fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns `path` as a file in `folder` names it: relative if it is below, else whole.
pub(super) fn relative(path: &Path, folder: &Path) -> String {
    // Symbolic links stay, because the name of a model often is one to its newest version.
    let whole = |path: &Path| match path.components().any(|part| part == Component::ParentDir) {
        true => {
            let parent = here(path.parent().unwrap_or(path)).canonicalize();
            parent.map(|parent| parent.join(path.file_name().unwrap_or_default()))
        }
        false => std::path::absolute(path),
    };
    let (Ok(path), Ok(folder)) = (whole(path), whole(&here(folder).join("file"))) else {
        return path.display().to_string();
    };
    path.strip_prefix(folder.parent().unwrap_or(&folder)).unwrap_or(&path).display().to_string()
}

/// Returns where a source reads, as the configuration names it: paths of files count from its folder.
pub(super) fn as_named(kind: &str, place: &str, output: &Path) -> String {
    let is_file = matches!(kind, "replay" | "lines" | "raw") && place != "stdin";
    match folder(output) {
        Ok(folder) if is_file => relative(Path::new(place), &folder),
        _ => place.to_owned(),
    }
}

/// The files that were written. They are removed when this is dropped, unless they are kept.
#[derive(Debug, Default)]
pub(super) struct Written {
    new: Vec<PathBuf>,
    /// They were there already, with the same content.
    same: Vec<PathBuf>,
}

impl Written {
    /// Writes a file. One that exists must have the same content.
    pub(super) fn add(&mut self, path: &Path, content: &[u8]) -> anyhow::Result<()> {
        match create(path, content) {
            Ok(()) => self.new.push(path.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::read(path).is_ok_and(|found| found == content) {
                    self.same.push(path.to_owned());
                    return Ok(());
                }
                bail!("{} exists, and nothing is overwritten; write into another folder with --output", path.display());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
        Ok(())
    }

    /// Keeps the files; returns those that are new.
    pub(super) fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.new)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in &self.new {
            // It is useless without the others. If it cannot be removed, the error that is reported says what failed.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file that does not exist yet: whole, or not at all.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_file_name(format!(".{}.{}", file_name(path), std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).open(&unfinished).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    // A link, unlike a rename, does not replace a file that has come up meanwhile.
    let linked = written.and_then(|()| fs::hard_link(&unfinished, path));
    let _ = fs::remove_file(&unfinished);
    linked?;
    File::open(here(path.parent().unwrap_or(Path::new(""))))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_overwritten_and_a_failed_run_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let (first, taken) = (dir.path().join("a.txt"), dir.path().join("b.txt"));
        fs::write(&taken, "theirs").unwrap();
        let mut written = Written::default();
        written.add(&first, b"ours").unwrap();
        written.add(&taken, b"theirs").unwrap();
        let why = written.add(&taken, b"ours").unwrap_err().to_string();
        assert!(why.contains("b.txt exists, and nothing is overwritten"), "{why}");
        drop(written);
        assert!(!first.exists());
        assert_eq!(fs::read_to_string(&taken).unwrap(), "theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no unfinished file is left");
        let mut written = Written::default();
        written.add(&first, b"ours").unwrap();
        assert_eq!(written.keep(), std::slice::from_ref(&first));
        assert_eq!(fs::read_to_string(&first).unwrap(), "ours");
        assert!(check_free(&first).is_err() && check_free(&dir.path().join("c")).is_ok());
    }

    #[test]
    fn a_path_below_the_folder_is_relative_and_another_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("a")).unwrap();
        assert_eq!(relative(&root.join("a/m.tflite"), &root), "a/m.tflite");
        assert_eq!(relative(&root.join("m.tflite"), &root.join("a")), root.join("m.tflite").display().to_string());
    }
}
