//! Whether this user may use a device file.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::{Finding, Part, State};
use crate::sys::permission::permit;

/// Returns the finding for a device file: ok if it may be read and written. `rule` is the udev rule for a file that
/// belongs to no group. The file is not opened: opening a serial port resets the device at its other end, and some devices
/// drop another program.
pub(crate) fn finding(part: Part, what: String, says: &str, path: &Path, rule: &str) -> Finding {
    let shown = format!("{says}, {}", path.display());
    match eaccess(path, AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => Finding::new(part, State::Ok, what, shown),
        Err(Errno::EACCES) => {
            let denied = Finding::new(part, State::Broken, what, format!("{shown}: permission denied"));
            denied.fix(permit(path, rule))
        }
        Err(Errno::ENOENT) => Finding::new(part, State::Broken, what, format!("{shown}: no such file"))
            .fix("start udev; in a container, pass the device in with --device"),
        Err(errno) => Finding::new(part, State::Broken, what, format!("{shown}: {}", io::Error::from(errno))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_can_be_used_and_one_that_is_missing_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        std::fs::write(&path, "").unwrap();
        let missing = finding(Part::Sensors, "x".into(), "there", &dir.path().join("no"), "");
        assert_eq!((missing.state, missing.fix.is_some()), (State::Broken, true));
        assert_eq!(finding(Part::Sensors, "x".into(), "there", &path, "").state, State::Ok);
    }
}
