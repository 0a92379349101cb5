//! Reads files of which nothing is known but the name: they may be FIFOs, devices without an end, or larger than memory.

use std::fs::{File, Metadata, OpenOptions, metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// Opens a regular file for reading. Never waits for the other end of a FIFO, and opens no device.
///
/// # Errors
/// It cannot be opened, or is something else; then the error says what.
pub fn open(path: &Path) -> io::Result<File> {
    // First, because to open a device may do something.
    check(&metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    // It may have been replaced in between.
    check(&file.metadata()?)?;
    Ok(file)
}

/// Reads a whole regular file of at most `most` bytes.
///
/// # Errors
/// As for [`open`]; or it is larger, which is known before it is read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_large = |bytes: u64| {
        let unit = if most.is_multiple_of(1 << 20) { (most >> 20, "MiB") } else { (most, "bytes") };
        io::Error::other(format!("it has {bytes} bytes; the most that edgewatt reads is {} {}", unit.0, unit.1))
    };
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    // It may grow; and files of /proc have no length.
    file.take(most + 1).read_to_end(&mut bytes)?;
    let count = bytes.len() as u64;
    if count > most { Err(too_large(count)) } else { Ok(bytes) }
}

/// Opens the file of a lock, or creates it. Its folder may belong to others: a link is not followed, nothing is emptied, and
/// other users cannot open it, so that they cannot hold the lock.
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn lock(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is not a regular file; remove it", path.display()))),
    }
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!("it is {what}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// What [`read`] gives, in words, if it comes back at all.
    fn refusal(path: &Path, most: u64) -> String {
        let (sender, receiver) = channel();
        let path = path.to_owned();
        std::thread::spawn(move || sender.send(read(&path, most).map_err(|error| error.to_string())));
        receiver.recv_timeout(Duration::from_secs(20)).expect("it waits").unwrap_err()
    }

    #[test]
    fn only_regular_files_are_read_and_their_size_is_looked_at_first() {
        let folder = tempfile::tempdir().unwrap();
        let [fifo, sparse, small] = ["fifo", "sparse", "small"].map(|name| folder.path().join(name));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(&fifo, 10), "it is a FIFO, not a regular file");
        assert_eq!(refusal(Path::new("/dev/zero"), 10), "it is a device, not a regular file");
        assert_eq!(refusal(folder.path(), 10), "it is a folder, not a regular file");
        // To read it would need this much memory.
        File::create(&sparse).unwrap().set_len(1 << 42).unwrap();
        let limit = "the most that edgewatt reads is 2048 MiB";
        assert_eq!(refusal(&sparse, 2 << 30), format!("it has {} bytes; {limit}", 1_u64 << 42));
        std::fs::write(&small, "12345").unwrap();
        assert_eq!(read(&small, 5).unwrap(), b"12345");
        assert_eq!(refusal(&small, 4), "it has 5 bytes; the most that edgewatt reads is 4 bytes");
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert!(refusal(&folder.path().join("none"), 5).starts_with("No such file"));
    }
}
