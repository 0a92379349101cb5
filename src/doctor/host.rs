//! The machine around the daemon: the clock, the state folder, the service.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::{Finding, Part, Roots, State};
use crate::config::Config;
use crate::load::state_dir;
use crate::sys::clock;
use crate::sys::folder::text;
use crate::sys::permission::user;

const MIB: u64 = 1 << 20;
const UNIT: &str = "edgewatt.service";

/// Examines whether the wall clock is synchronised.
pub(crate) fn clock() -> Finding {
    const WHAT: &str = "wall clock";
    match clock::is_synchronised() {
        Ok(true) => Finding::new(Part::Clock, State::Ok, WHAT, "synchronised"),
        Ok(false) => Finding::new(Part::Clock, State::Broken, WHAT, "not synchronised: times in messages may be wrong")
            .fix(
                "run: sudo timedatectl set-ntp true; if that fails: sudo apt-get install systemd-timesyncd, or chrony",
            ),
        Err(error) => Finding::new(Part::Clock, State::Absent, WHAT, format!("the kernel does not report it: {error}")),
    }
}

/// Examines the state folder, and the free space for the store in it.
pub(crate) fn state(roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    let folder = state_dir::folder(config.and_then(|config| config.state_dir.as_deref()));
    let store = config.and_then(|config| config.mqtt.store.as_ref());
    let file = store.map(|store| state_dir::store_file(store.path.as_deref(), &folder));
    let mut findings = vec![writable(&folder, config.is_some())];
    findings.extend(store.zip(file).map(|(store, file)| room(roots, &file, store.max_bytes)));
    findings
}

/// Examines whether the folder can be written, or created if it does not exist yet.
fn writable(folder: &Path, asked_for: bool) -> Finding {
    let (what, user) = (folder.display().to_string(), user());
    let of = |state, says: String| Finding::new(Part::State, state, what.clone(), says);
    let there = existing(folder);
    match (eaccess(&there, AccessFlags::W_OK | AccessFlags::X_OK), there == folder) {
        (Ok(()), true) => of(State::Ok, format!("{user} may write to it")),
        (Ok(()), false) => of(State::Ok, format!("does not exist yet, {user} may create it")),
        (Err(_), false) if !asked_for => of(State::Absent, "does not exist yet; the service creates it".into()),
        (Err(errno), is_there) => {
            let reason = if errno == Errno::EACCES { format!("{user} may not write to it") } else { errno.to_string() };
            let reason =
                if is_there { reason } else { format!("does not exist, and for {}: {reason}", there.display()) };
            of(State::Broken, reason).fix(format!(
                "run: install -d -o {user} {what}; or name another folder in node.state_dir; the service has its own, from \
                 StateDirectory=; to check that one, run: sudo -u edgewatt edgewatt doctor"
            ))
        }
    }
}

/// Returns the path, or the nearest parent folder that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new(".")).to_owned()
}

fn room(roots: &Roots, file: &Path, max_bytes: u64) -> Finding {
    let what = "room for mqtt.store";
    let folder = existing(file.parent().unwrap_or(file));
    #[allow(clippy::useless_conversion, reason = "they are 32 bits wide on some machines")]
    let free = match statvfs(&folder) {
        Ok(stat) => u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())),
        Err(errno) => {
            return Finding::new(Part::State, State::Broken, what, format!("{}: {errno}", folder.display()));
        }
    };
    // The file needs only the space that it does not have yet.
    let taken = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let needed = max_bytes.saturating_sub(taken);
    let (free_mib, max_mib) = (free / MIB, max_bytes / MIB);
    let says = format!("{free_mib} MiB free at {}, mqtt.store.mib is {max_mib}", folder.display());
    let finding = match free >= needed {
        true => Finding::new(Part::State, State::Ok, what, says),
        false => Finding::new(Part::State, State::Broken, what, says).fix(format!(
            "free some space, or set mqtt.store.mib below {free_mib}, or set mqtt.store.path to another disk"
        )),
    };
    finding.detail(disk(roots, &folder).into_iter().collect())
}

/// Returns what to know about the disk of a folder: whether it is a memory card, which wears.
fn disk(roots: &Roots, folder: &Path) -> Option<String> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let link = std::fs::canonicalize(roots.sysfs.join(format!("dev/block/{major}:{minor}"))).ok()?;
    let disk = link.ancestors().find(|path| path.file_name().is_some_and(|name| is_card(&name.to_string_lossy())))?;
    let name = disk.file_name()?.to_string_lossy().into_owned();
    let kind = text(&disk.join("device/type")).unwrap_or_else(|| "SD or eMMC".into());
    Some(format!("{name} is a card ({kind}), which every write wears; docs/delivery.md says how much is written"))
}

/// Whether this is a card such as `mmcblk0`, and not one of its partitions.
fn is_card(name: &str) -> bool {
    name.strip_prefix("mmcblk").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Examines the unit, if there is systemd.
pub(crate) fn service() -> Finding {
    let of = |state, says: String| Finding::new(Part::Service, state, UNIT, says);
    let asked = Command::new("systemctl")
        .args(["show", UNIT, "--property=LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts"])
        .output();
    let output = match asked {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            return of(State::Absent, format!("systemd does not answer: {}", said.lines().next().unwrap_or_default()));
        }
        Err(_) => return of(State::Absent, "no systemd here; edgewatt run works without it".into()),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let property =
        |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let finding = judge(
        property("LoadState"),
        property("UnitFileState"),
        property("ActiveState"),
        property("SubState"),
        property("Result"),
        property("NRestarts"),
    );
    let hint = "root has all permissions; to check those of the service, run: sudo -u edgewatt edgewatt doctor";
    finding.detail(geteuid().is_root().then(|| hint.to_owned()).into_iter().collect())
}

fn judge(load: &str, file: &str, active: &str, sub: &str, result: &str, restarts: &str) -> Finding {
    const LOG: &str = "its last log lines: journalctl -u edgewatt -n 50";
    let restarts = if restarts == "1" { "1 restart".to_owned() } else { format!("{restarts} restarts") };
    let of = |state, says: String| Finding::new(Part::Service, state, UNIT, says);
    match (load, active) {
        ("not-found", _) => of(State::Absent, "not installed".into()).fix("run: sudo apt-get install ./edgewatt_*.deb"),
        ("loaded", "active") if file == "enabled" => of(State::Ok, format!("enabled, {active} ({sub}), {restarts}")),
        ("loaded", "active") => of(State::Ok, format!("{file}, {active} ({sub}), {restarts}"))
            .fix("it does not start at boot; run: sudo systemctl enable edgewatt"),
        ("loaded", "inactive") if file != "enabled" => of(State::Absent, format!("installed, {file}, not started"))
            .fix("run: sudo systemctl enable --now edgewatt"),
        ("loaded", "inactive") => of(State::Broken, "enabled but not started".into())
            .fix(format!("run: sudo systemctl start edgewatt; {LOG}")),
        ("loaded", "failed") => of(State::Broken, format!("{file}, failed: {result}, {restarts}"))
            .fix(format!("{LOG}; when the cause is fixed, run: sudo systemctl restart edgewatt")),
        ("loaded", _) if sub == "auto-restart" => {
            of(State::Broken, format!("{file}, it keeps ending and restarting: {result}, {restarts}")).fix(LOG)
        }
        ("loaded", _) => of(State::Ok, format!("{file}, {active} ({sub})")),
        (load, _) => of(State::Broken, format!("systemd cannot load it: {load}"))
            .fix("run: systemctl status edgewatt; if it is masked: sudo systemctl unmask edgewatt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_the_unit_is_distinguished() {
        let of = |load, file, active, sub, result| {
            let finding = judge(load, file, active, sub, result, "3");
            (finding.state, finding.fix.is_some())
        };
        assert_eq!(of("loaded", "enabled", "active", "running", "success"), (State::Ok, false));
        assert_eq!(of("loaded", "disabled", "active", "running", "success"), (State::Ok, true));
        assert_eq!(of("loaded", "disabled", "inactive", "dead", "success"), (State::Absent, true));
        assert_eq!(of("loaded", "enabled", "inactive", "dead", "success"), (State::Broken, true));
        assert_eq!(of("loaded", "enabled", "failed", "failed", "exit-code"), (State::Broken, true));
        assert_eq!(of("loaded", "enabled", "activating", "auto-restart", "watchdog"), (State::Broken, true));
        assert_eq!(of("loaded", "enabled", "activating", "start", "success"), (State::Ok, false));
        assert_eq!(of("masked", "masked", "inactive", "dead", "success"), (State::Broken, true));
        assert_eq!(of("not-found", "", "inactive", "dead", "success"), (State::Absent, true));
    }

    #[test]
    fn a_store_that_is_larger_than_the_disk_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { sysfs: dir.path().join("sys"), dev: dir.path().join("dev") };
        assert_eq!(room(&roots, &dir.path().join("not/yet/outbox.db"), MIB).state, State::Ok);
        let too_much = room(&roots, &dir.path().join("outbox.db"), 1 << 60);
        assert_eq!(too_much.state, State::Broken);
        assert!(too_much.fix.is_some_and(|fix| fix.contains("mqtt.store.mib below ")));
    }

    #[test]
    fn a_card_is_distinguished_from_its_partitions_and_other_disks() {
        assert!(is_card("mmcblk0") && !is_card("mmcblk0p2") && !is_card("sda") && !is_card("mmcblk"));
    }
}
