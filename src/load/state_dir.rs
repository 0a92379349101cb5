//! The state directory: where it is, and how to replace a file in it as a whole.

use std::fs::{File, OpenOptions, Permissions, create_dir_all, rename};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::text::hex;

const DEFAULT: &str = "/var/lib/edgewatt";
/// The name of the store of messages in the state directory.
const STORE_FILE: &str = "outbox.db";

/// Returns the configured folder; else the first one from systemd (`StateDirectory=`); else the one in `/var/lib`.
pub fn folder(configured: Option<&Path>) -> PathBuf {
    from(configured, std::env::var_os("STATE_DIRECTORY").and_then(|value| value.into_string().ok()).as_deref())
}

/// Returns the file of the store of messages: the configured one, else the one in the state directory `folder`.
pub fn store_file(configured: Option<&Path>, folder: &Path) -> PathBuf {
    configured.map_or_else(|| folder.join(STORE_FILE), Path::to_owned)
}

fn from(configured: Option<&Path>, systemd: Option<&str>) -> PathBuf {
    let systemd = systemd.and_then(|list| list.split(':').next()).filter(|first| !first.is_empty());
    configured.or(systemd.map(Path::new)).unwrap_or(Path::new(DEFAULT)).to_owned()
}

/// Writes a file that all may read. Even after a crash, either the whole old file or the whole new one is there. An empty
/// `folder`, such as that of a path of one word, is the current one.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    replace(folder, name, |unfinished| write(unfinished, bytes))
}

/// Replaces a file by the one that `write` makes under another name.
fn replace(folder: &Path, name: &str, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    create_dir_all(folder)?;
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}.{}", std::process::id())));
    let written = write(&unfinished).and_then(|()| rename(&unfinished, &path));
    if written.is_err() {
        // The unfinished file is useless. If it cannot be removed either, the first error still says why.
        let _ = std::fs::remove_file(&unfinished);
    }
    written?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()?;
    Ok(path)
}

/// Returns a file with a random secret of 32 hexadecimal digits, which only this user can read. Creates it if it does not
/// exist.
pub fn secret(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let _lock = lock(folder)?;
    let path = folder.join(name);
    if path.symlink_metadata().is_ok() {
        return Ok(path);
    }
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    replace(folder, name, |unfinished| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
        file.write_all(hex(&random).as_bytes())?;
        file.sync_all()
    })
}

/// Waits for the folder's lock. Hold the lock while you read a file, change it and [`put`] it.
pub fn lock(folder: &Path) -> io::Result<Flock<File>> {
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

    #[test]
    fn a_secret_is_made_once_and_only_its_user_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let path = secret(&folder, "x").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(secret(&folder, "x").unwrap()).unwrap(), text);
        assert_ne!(std::fs::read_to_string(secret(&folder, "y").unwrap()).unwrap(), text);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
    }
}
