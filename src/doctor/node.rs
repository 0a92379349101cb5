//! Whether this user may use a device file, and what gives permission.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Group, User, eaccess, geteuid};

use super::{Finding, Part, State};

const GROUP_MAY: u32 = 0o060;

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

/// Returns the command or rule that gives this user permission.
fn permit(path: &Path, rule: &str) -> String {
    match group_of(path) {
        Some(group) => format!(
            "run: usermod -aG {group} {user}, then log in again; for the service, run systemctl edit edgewatt and add: \
             SupplementaryGroups={group}",
            user = user(),
        ),
        None => format!(
            "in /etc/udev/rules.d/70-edgewatt.rules: {rule}; then run: udevadm control --reload && udevadm trigger"
        ),
    }
}

/// Returns the group that may use the file, unless it is root's.
fn group_of(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    let open = metadata.mode() & GROUP_MAY == GROUP_MAY && metadata.gid() != 0;
    let group = Group::from_gid(Gid::from_raw(metadata.gid())).ok().flatten();
    group.filter(|_| open).map(|group| group.name)
}

/// Returns the name of the user who runs this process.
pub(crate) fn user() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_group_needs_the_group_and_roots_own_needs_a_rule() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        std::fs::write(&path, "").unwrap();
        // For any user who runs this test: only root's group is 0.
        let own = group_of(Path::new("/dev/null"));
        assert_eq!(own, None, "root's own");
        assert!(permit(Path::new("/dev/null"), "RULE").contains("rules.d/70-edgewatt.rules: RULE; "));
        let missing = finding(Part::Sensors, "x".into(), "there", &dir.path().join("no"), "");
        assert_eq!((missing.state, missing.fix.is_some()), (State::Broken, true));
        assert_eq!(finding(Part::Sensors, "x".into(), "there", &path, "").state, State::Ok);
    }
}
