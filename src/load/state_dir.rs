//! Where the daemon keeps what outlives it, and how a whole file is put there.

use std::fs::{File, OpenOptions, Permissions, create_dir_all, rename};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

const DEFAULT: &str = "/var/lib/edgewatt";
/// In the state directory.
pub(crate) const STORE_FILE: &str = "outbox.db";

/// The folder: the configured one, else systemd's (`StateDirectory=`; the first where it names several), else `/var/lib`'s.
pub(crate) fn folder(configured: Option<&Path>) -> PathBuf {
    from(configured, std::env::var_os("STATE_DIRECTORY").and_then(|value| value.into_string().ok()).as_deref())
}

fn from(configured: Option<&Path>, systemd: Option<&str>) -> PathBuf {
    let systemd = systemd.and_then(|list| list.split(':').next()).filter(|first| !first.is_empty());
    configured.or(systemd.map(Path::new)).unwrap_or(Path::new(DEFAULT)).to_owned()
}

/// Puts a file there as a whole: whatever happens, the old one or the new one is there. All may read it.
pub(crate) fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    create_dir_all(folder)?;
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}.{}", std::process::id())));
    let written = write(&unfinished, bytes).and_then(|()| rename(&unfinished, &path));
    if written.is_err() {
        // What is left of it helps nobody; that it cannot be taken away is no worse than the error itself.
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    File::open(folder)?.sync_all()?;
    Ok(path)
}

/// Waits until nobody else has the folder's lock, and keeps it until it is dropped; for reading, changing and [`put`].
pub(crate) fn lock(folder: &Path) -> io::Result<Flock<File>> {
    create_dir_all(folder)?;
    Flock::lock(File::open(folder)?, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_folder_comes_before_systemds() {
        let some = Some(Path::new("/a"));
        assert_eq!(from(some, Some("/b:/c")), Path::new("/a"));
        assert_eq!(from(None, Some("/b:/c")), Path::new("/b"));
        assert_eq!(from(None, Some("")), Path::new(DEFAULT));
        assert_eq!(from(None, None), Path::new(DEFAULT));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/yet");
        for text in ["first", "second"] {
            let path = put(&folder, "x.json", text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
        std::fs::create_dir(folder.join("taken")).unwrap();
        assert!(put(&folder, "taken", b"x").is_err());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "x.json and the folder in the way");
    }
}
