//! The socket on which the daemon answers how it is, for `edgewatt health` and `edgewatt support`.
//!
//! Owns where the socket is, its lock, and the thread `health` that answers. Who connects gets one line of JSON and is
//! disconnected; nothing is read from them. So nothing can be asked of the daemon here, and a client that hangs costs one
//! second at most. The other side is `cli::health`.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as listen_on, socket};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::health::HealthBoard;
use crate::sys::file;
use crate::text::hex;
use crate::units::MonoTime;

/// The service's folder, from its `RuntimeDirectory=`.
const SERVICE: &str = "/run/edgewatt";
/// Clients that can wait for their answer; more have to try again.
const WAITING: i32 = 16;
/// How long one client may take to receive its answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a fault of the system, such as too many open files.
const AFTER_FAULT: Duration = Duration::from_millis(100);
/// The thread's stack: with `node.lock_memory` all of it is kept in RAM.
const STACK_BYTES: usize = 256 * 1024;

/// Returns the folders in which the socket of a daemon of this user can be. The daemon takes the first that it can use.
pub fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| value.starts_with('/'));
    // systemd separates several folders by colons.
    let given = variable("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
    let session = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| is_ours(folder));
    let own = format!("/tmp/edgewatt-{}", geteuid());
    given.into_iter().chain(session.map(|folder| folder.join("edgewatt"))).chain([PathBuf::from(own)]).collect()
}

/// Returns where a daemon with that configuration file can answer: [`folders`], and the folder of the service.
pub fn places(config: &Path) -> Vec<PathBuf> {
    let name = file_name(config);
    let mut folders = folders();
    if !folders.iter().any(|folder| folder == Path::new(SERVICE)) {
        folders.insert(0, SERVICE.into());
    }
    folders.into_iter().filter(|folder| is_trusted(folder)).map(|folder| folder.join(&name)).collect()
}

/// Returns the name of the socket. It names the configuration file by its path: the content may change while the daemon
/// runs, and the file may be a link that is switched.
fn file_name(config: &Path) -> String {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let folder = config.parent().and_then(|folder| folder.canonicalize().ok());
    let path = folder.zip(config.file_name()).map_or_else(|| config.clone(), |(folder, name)| folder.join(name));
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("health-{}.sock", hex(&digest[..6]))
}

/// A folder below /tmp could have been made by another user, who would then answer for the daemon.
fn is_trusted(folder: &Path) -> bool {
    !folder.starts_with("/tmp/") || is_ours(folder)
}

fn is_ours(folder: &Path) -> bool {
    let ours = |metadata: std::fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
    std::fs::symlink_metadata(folder).is_ok_and(ours)
}

/// The daemon's end. Dropped, it removes the socket.
#[derive(Debug)]
pub struct HealthSocket {
    path: PathBuf,
    _lock: Flock<File>,
}

impl HealthSocket {
    /// Answers from the board from now on, for the daemon with that configuration file. `hung` returns what hangs.
    ///
    /// # Errors
    /// Why there can be no socket; the daemon works without it, and `edgewatt health` cannot see it.
    pub fn start(
        config: &Path,
        board: HealthBoard,
        hung: impl Fn() -> Option<String> + Send + 'static,
    ) -> Result<Self, String> {
        let (name, mut refused) = (file_name(config), Vec::new());
        for folder in folders() {
            let path = folder.join(&name);
            match listen(&folder, &path) {
                Ok((listener, lock)) => {
                    let thread = std::thread::Builder::new().name("health".into()).stack_size(STACK_BYTES);
                    let served = thread.spawn(move || serve(&listener, &board, hung));
                    let socket = Self { path, _lock: lock };
                    return served.map(|_| socket).map_err(|error| format!("cannot start its thread: {error}"));
                }
                Err(Refused::InUse) => {
                    return Err("another daemon runs with this configuration file, and answers for both".to_owned());
                }
                Err(Refused::Io(error)) => refused.push(format!("{}: {error}", path.display())),
            }
        }
        Err(format!("{}; set RUNTIME_DIRECTORY to a folder that this user may write to", refused.join(", ")))
    }
}

impl Drop for HealthSocket {
    fn drop(&mut self) {
        // A failure is harmless: the next daemon replaces a stale socket.
        let _ = std::fs::remove_file(&self.path);
    }
}

enum Refused {
    /// Another daemon listens there.
    InUse,
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// Listens on a socket that the user and the group may connect to. Replaces one that a killed daemon has left.
fn listen(folder: &Path, path: &Path) -> Result<(UnixListener, Flock<File>), Refused> {
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(folder)?;
    }
    if !is_trusted(folder) {
        return Err(Refused::Io(io::Error::other("the folder belongs to another user")));
    }
    // Who has the lock is the only one that listens, so a socket that is left is stale. The kernel frees the lock when the
    // process ends.
    let lock = Flock::lock(file::lock(&path.with_extension("lock"))?, FlockArg::LockExclusiveNonblock)
        .map_err(|_| Refused::InUse)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path).map_err(|errno| io::Error::other(format!("the path is too long: {errno}")))?;
    bind(socket.as_raw_fd(), &address)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    listen_on(&socket, Backlog::new(WAITING)?)?;
    Ok((UnixListener::from(socket), lock))
}

/// Answers one client after the other, until the process ends.
fn serve(listener: &UnixListener, board: &HealthBoard, hung: impl Fn() -> Option<String>) {
    loop {
        match listener.accept() {
            // Who leaves before the answer does not need it.
            Ok((client, _)) => _ = answer(client, board, hung()),
            Err(_) => std::thread::sleep(AFTER_FAULT),
        }
    }
}

fn answer(mut client: UnixStream, board: &HealthBoard, hung: Option<String>) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&board.answer(MonoTime::now(), hung))?;
    line.push(b'\n');
    // One call: a second one would have a time limit of its own.
    client.write(&line).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_file_however_its_path_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("etc");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, dir.path().join("link")).unwrap();
        let name = file_name(&folder.join("a.toml"));
        assert_eq!(name, file_name(&dir.path().join("link/a.toml")));
        assert_eq!(name, file_name(&dir.path().join("link/../etc/a.toml")));
        assert_ne!(name, file_name(&folder.join("b.toml")));
        // A file that is a link keeps its name when the link is switched.
        std::os::unix::fs::symlink("..data/a.toml", folder.join("a.toml")).unwrap();
        assert_eq!(name, file_name(&folder.join("a.toml")));
        assert!(name.starts_with("health-") && name.ends_with(".sock") && name.len() == 24, "{name}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health-0.sock");
        drop(UnixListener::bind(&path).unwrap());
        let first = listen(dir.path(), &path).ok().expect("it is stale");
        assert!(matches!(listen(dir.path(), &path), Err(Refused::InUse)));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop(first);
        assert!(listen(dir.path(), &path).is_ok());
        assert!(matches!(listen(&dir.path().join("not/yet"), &path), Err(Refused::Io(_))));
    }

    #[test]
    fn a_client_that_never_reads_holds_up_nobody() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health-0.sock");
        let (listener, _lock) = listen(dir.path(), &path).ok().unwrap();
        let board = HealthBoard::new(MonoTime::now());
        // Far more than the socket holds.
        board.set_info("x".repeat(8 << 20).into());
        let shared = board.clone();
        std::thread::spawn(move || serve(&listener, &shared, || None));
        let silent = UnixStream::connect(&path).unwrap();
        let mut answer = String::new();
        board.set_info("short".into());
        UnixStream::connect(&path).unwrap().read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\"info\":\"short\"}\n"), "{answer}");
        drop(silent);
    }
}
