//! What gives a user permission to use a device file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, User, geteuid};

const GROUP_MAY: u32 = 0o060;

/// Returns the command or rule that gives this user permission; `rule` is the udev rule for a file that belongs to no group.
pub fn permit(path: &Path, rule: &str) -> String {
    match group_of(path) {
        Some(group) => format!(
            "run: sudo usermod -aG {group} {user}, then log in again; for the service, run sudo systemctl edit edgewatt and add: \
             SupplementaryGroups={group}",
            user = user(),
        ),
        None => format!(
            "in /etc/udev/rules.d/70-edgewatt.rules: {rule}; then run: sudo udevadm control --reload && sudo udevadm trigger"
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
pub fn user() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_group_needs_the_group_and_roots_own_needs_a_rule() {
        // For any user who runs this test: only root's group is 0.
        assert_eq!(group_of(Path::new("/dev/null")), None, "root's own");
        assert!(permit(Path::new("/dev/null"), "RULE").contains("rules.d/70-edgewatt.rules: RULE; "));
    }
}
