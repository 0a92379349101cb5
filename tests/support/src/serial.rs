//! A board on a serial port: a pseudo-terminal under a name that stays the same, as udev gives one by serial number.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use tempfile::TempDir;

pub struct Board {
    folder: TempDir,
    master: Option<File>,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board that is plugged in.
    pub fn new() -> Self {
        let mut board = Self::unplugged();
        board.plug();
        board
    }

    pub fn unplugged() -> Self {
        Self { folder: TempDir::new().unwrap(), master: None }
    }

    /// The name that stays the same.
    pub fn port(&self) -> PathBuf {
        self.folder.path().join("usb-Test_Board-if00")
    }

    /// As after each plugging in, the device behind the name is another one.
    pub fn plug(&mut self) {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        symlink(ptsname_r(&master).unwrap(), self.port()).unwrap();
        self.master = Some(File::from(OwnedFd::from(master)));
    }

    /// Who has the port open finds it gone.
    pub fn unplug(&mut self) {
        self.master = None;
        std::fs::remove_file(self.port()).unwrap();
    }

    /// The port's own device.
    pub fn device(&self) -> PathBuf {
        Path::new(&self.port()).canonicalize().unwrap()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.master.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Sends `bytes` again and again until `is_read`: what comes before the port is open is lost.
    pub fn send_until(&mut self, bytes: &[u8], is_read: impl FnMut() -> bool) {
        self.send_until_each(|| bytes.to_vec(), is_read);
    }

    /// The same with other bytes each time.
    pub fn send_until_each(&mut self, mut bytes: impl FnMut() -> Vec<u8>, mut is_read: impl FnMut() -> bool) {
        let next = || {
            self.send(&bytes());
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_read()
        };
        crate::daemon::wait_until(|| "the port to be read".to_owned(), next);
    }

    pub fn master(&self) -> impl AsFd + '_ {
        self.master.as_ref().unwrap()
    }
}
