//! Reads secrets from files that other users cannot read. Secrets never appear in a log.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// Larger than any password or key.
const MAX_BYTES: u64 = 64 * 1024;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: all users may read it (mode {mode:04o}); run: chmod o= {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{}: {reason}", path.display())]
    Unfit { path: PathBuf, reason: &'static str },
}

impl SecretError {
    /// Returns whether this user may not read the file, as it should be for all but one.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// A password. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Reads a file of one line, without the end of the line.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let unfit = |reason| SecretError::Unfit { path: path.to_owned(), reason };
        let text = String::from_utf8(read(path)?).map_err(|_| unfit("the password is not UTF-8"))?;
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        match line {
            "" => Err(unfit("the file is empty; write the password into it")),
            line if line.contains(['\n', '\0']) => Err(unfit("the file has several lines; write the password only")),
            line => Ok(Self(line.to_owned())),
        }
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Reads a whole file.
///
/// # Errors
/// The file cannot be read, all users may read it, or it is not a regular file of reasonable size.
pub fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    // Opening a FIFO must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::Unfit { path: path.to_owned(), reason: "it is not a regular file" });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SecretError::Unfit { path: path.to_owned(), reason: "it is too large for a secret" });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn password(text: &str, mode: u32) -> Result<Password, String> {
        Password::read(file(text, mode).path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_password_is_a_line_that_is_not_shown() {
        for text in ["s3 cret", "s3 cret\n", "s3 cret\r\n"] {
            let password = password(text, 0o640).unwrap();
            assert_eq!(password.expose(), "s3 cret");
            assert_eq!(format!("{password:?}"), "Password(..)");
        }
        assert!(password("", 0o600).unwrap_err().contains("empty"));
        assert!(password("a\nb\n", 0o600).unwrap_err().contains("several lines"));
    }

    /// Opening a FIFO normally waits for a writer.
    #[test]
    fn a_pipe_is_no_secret_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(read(&pipe).map_err(|error| error.to_string())));
        let refused = receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits").unwrap_err();
        assert!(refused.contains("not a regular file"), "{refused}");
    }

    #[test]
    fn what_everybody_can_read_is_no_secret() {
        let error = password("x", 0o644).unwrap_err();
        assert!(error.contains("mode 0644") && error.contains("chmod o= "), "{error}");
        assert!(read(Path::new("/nowhere/x")).unwrap_err().to_string().starts_with("/nowhere/x: "));
        assert!(read(Path::new("/tmp")).is_err());
    }
}
