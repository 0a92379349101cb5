//! The files of a configuration with the real program: fragments in `conf.d`, their reload, and `edgewatt migrate`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, without_root_s_rights};
use edgewatt_support::rig::{Rig, paced};
use edgewatt_support::root;
use tempfile::TempDir;

/// Writes a fragment beside the configuration in `dir`.
fn fragment(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join("conf.d").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn check_lists_the_files_and_shows_mistakes_in_fragments() {
    let setup = Setup::demo(1);
    let dir = setup.dir.path();
    let first = fragment(dir, "10-cpu.toml", "[pipelines.shoulder]\ndelegate = \"cpu\"\n");
    let second = fragment(dir, "9-meter.toml", "[power.meters.guess]\nestimate.idle_watts = 3.0\n");
    fragment(dir, "10-cpu.toml.bak", "not read");
    let config = setup.config();
    let ended = setup.check().expect(0);
    let list = [&config, &first, &second].map(|file| format!("  read {}\n", file.display())).concat();
    assert!(ended.stdout.starts_with(&format!("{}: ok\n{list}  runtime ", config.display())), "{}", ended.stdout);
    assert!(ended.stdout.contains("by cpu in a thread; ") && ended.stdout.contains("3 W"), "{}", ended.stdout);

    fs::write(&first, "[pipelines.shoulder.model]\npath = \"none.tflite\"\n").unwrap();
    // What is found when files are loaded is shown in the fragment too, and a path counts from the file's folder.
    let none = dir.join("none.tflite");
    let model = format!("{}:2:8: pipelines.shoulder.model.path: cannot read {}", first.display(), none.display());
    setup.check().expect(78).says(&[&model]);
    for command in ["run", "calibrate", "doctor"] {
        fs::write(&first, "[mqtt]\nqso = 1\n").unwrap();
        let ended = Daemon::start(setup.command(command, &[])).wait();
        let place = format!("{}:2:1: mqtt: unknown key `qso`", first.display());
        assert!(ended.stderr.contains(&place) || ended.stdout.contains(&place), "{command}: {}", ended.stderr);
    }
    fs::write(&first, "").unwrap();
    let doctor = Daemon::start(setup.command("doctor", &["configuration"])).wait().expect(0);
    let with = format!("with the fragment {}\n", second.display());
    assert!(doctor.stdout.contains(&with), "{}", doctor.stdout);
}

#[test]
fn a_delegate_can_stand_in_a_fragment() {
    let setup = Setup::demo(1);
    fragment(setup.dir.path(), "npu.toml", "[delegates.two]\nxnnpack = { threads = 2 }\n");
    let mut command = edgewatt(&["inspect", "--delegate", "two", "-c"]);
    command.arg(setup.config()).arg(root().join("models/shoulder_int8.tflite"));
    let ended = Daemon::start(command).wait().expect(0);
    assert!(ended.stdout.contains("delegate two\n"), "{}", ended.stdout);
}

#[test]
fn a_fragment_that_may_not_be_read_is_an_error() {
    let setup = Setup::demo(1);
    let secret = fragment(setup.dir.path(), "a.toml", "");
    fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    let ended = Daemon::start(without_root_s_rights(setup.command("check", &[]))).wait().expect(78);
    ended.says(&[&format!("{}: cannot read the fragment: Permission denied", secret.display())]);
}

#[test]
fn a_reload_reads_the_fragments() {
    let mut rig = Rig::start(paced);
    rig.more_predictions("shoulder", 5);
    let before = rig.info(&[])["config_sha256"].clone();
    let fragment = fragment(rig.setup.dir.path(), "a.toml", "[pipelines.shoulder]\ndelegate = \"cpu\"\n");
    rig.reloaded(": shoulder changed");
    let after = rig.info(&["\"active\":\"cpu\""]);
    assert_ne!(after["config_sha256"], before);
    fs::write(&fragment, "[pipelines.shoulder]\ndelegate = 5\n").unwrap();
    rig.refused(&[&format!("{}:2:12: ", fragment.display())]);
    fs::remove_file(&fragment).unwrap();
    rig.reloaded(": shoulder changed");
    assert_eq!(rig.info(&["\"active\":\"xnnpack\""])["config_sha256"], before);
    rig.stop();
}

#[test]
fn a_configuration_of_another_version_is_refused_at_its_place() {
    let setup = Setup::demo(1).with("\n[node]\n", "\nversion = 2\n\n[node]\n");
    let ended = setup.check().expect(78);
    let text = fs::read_to_string(setup.config()).unwrap();
    let line = text.lines().position(|line| line == "version = 2").unwrap() + 1;
    let place = format!("{}:{line}:11: version: this edgewatt reads version 1; a newer", setup.config().display());
    ended.says(&[&place]);
    let setup = setup.with("version = 2", "version = 1");
    setup.check().expect(0);
}

/// A configuration that needs a migration, alone in a folder.
struct Old(TempDir);

const OLD: &str = "# Ours.\n\n[mqtt]\nbroker = \"mqtt://127.0.0.1\" # here\n";
const NEW: &str = "# Ours.\n\nversion = 1\n\n[mqtt]\nbroker = \"mqtt://127.0.0.1\" # here\n";

impl Old {
    fn new() -> Self {
        let old = Self(TempDir::new().unwrap());
        fs::write(old.file(), OLD).unwrap();
        old
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("edgewatt.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn migrate(&self, args: &[&str]) -> Ended {
        let mut command = edgewatt(&["migrate", "-c"]);
        command.arg(self.file()).args(args);
        Daemon::start(without_root_s_rights(command)).wait()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn migrate_adds_the_version_once_and_keeps_the_old_file() {
    let old = Old::new();
    fs::set_permissions(old.file(), Permissions::from_mode(0o600)).unwrap();
    let part = fragment(old.0.path(), "a.toml", "[mqtt]\r\nqos = 0\r\n");
    let done = fragment(old.0.path(), "b.toml", "version = 1\n");
    let ended = old.migrate(&[]).expect(0);
    ended.says(&[
        "edgewatt.toml: has version 1 now",
        "edgewatt.toml.bak-1",
        "a.toml.bak-1",
        "b.toml: has version 1 already",
    ]);
    assert_eq!((ended.stdout.as_str(), old.text().as_str()), ("", NEW));
    assert_eq!(fs::read_to_string(&part).unwrap(), "version = 1\r\n\r\n[mqtt]\r\nqos = 0\r\n");
    assert_eq!(fs::read_to_string(&done).unwrap(), "version = 1\n");
    assert_eq!(fs::read_to_string(old.0.path().join("edgewatt.toml.bak-1")).unwrap(), OLD);
    assert_eq!(fs::metadata(old.file()).unwrap().mode() & 0o7777, 0o600);
    let names = ["conf.d", "edgewatt.toml", "edgewatt.toml.bak-1"];
    assert_eq!(old.names(), names);
    // Again, there is nothing to do.
    let again = old.migrate(&[]).expect(0);
    assert_eq!(again.stderr.matches("has version 1 already; nothing to do\n").count(), 3, "{}", again.stderr);
    assert_eq!(old.names(), names);
    // The old one is not overwritten by that of another migration.
    fs::write(old.file(), OLD).unwrap();
    old.migrate(&[]).expect(0).says(&["edgewatt.toml.bak-2"]);
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let old = Old::new();
    let ended = old.migrate(&["--dry-run"]).expect(0);
    let name = old.file().display().to_string();
    let hunk = "@@ -1,4 +1,6 @@\n # Ours.\n \n+version = 1\n+\n [mqtt]\n broker = \"mqtt://127.0.0.1\" # here\n";
    assert_eq!(ended.stdout, format!("--- {name}\n+++ {name}\n{hunk}"));
    assert_eq!((old.text().as_str(), old.names()), (OLD, vec!["edgewatt.toml".to_owned()]));
}

#[test]
fn what_is_read_only_is_printed_instead() {
    let old = Old::new();
    let printed = |mode_of: &Path, mode: u32, back: u32| {
        fs::set_permissions(mode_of, Permissions::from_mode(mode)).unwrap();
        let ended = old.migrate(&[]);
        fs::set_permissions(mode_of, Permissions::from_mode(back)).unwrap();
        let ended = ended.expect(0);
        ended.says(&["edgewatt.toml: not changed (", "its new text is on standard output"]);
        assert_eq!((ended.stdout.as_str(), old.text().as_str()), (NEW, OLD));
        assert_eq!(old.names(), ["edgewatt.toml"]);
    };
    printed(&old.file(), 0o444, 0o644);
    printed(old.0.path(), 0o555, 0o755);
    // A text from a pipe has no place to be written to.
    let mut command = edgewatt(&["migrate", "-c", "/dev/stdin"]);
    let mut cat = Command::new("cat").arg(old.file()).stdout(Stdio::piped()).spawn().unwrap();
    command.stdin(cat.stdout.take().unwrap());
    let ended = Daemon::start(command).wait().expect(0);
    cat.wait().unwrap();
    assert_eq!(ended.stdout, NEW);
}

#[test]
fn a_symbolic_link_stays_one_and_its_target_is_migrated() {
    let old = Old::new();
    fs::rename(old.file(), old.0.path().join("site.toml")).unwrap();
    symlink("site.toml", old.file()).unwrap();
    fragment(old.0.path(), "x", "");
    symlink("../site.toml", old.0.path().join("conf.d/again.toml")).unwrap();
    old.migrate(&[]).expect(0);
    assert_eq!(fs::read_link(old.file()).unwrap(), Path::new("site.toml"));
    assert_eq!(old.text(), NEW);
    // Once, though two names lead to it.
    assert_eq!(old.names(), ["conf.d", "edgewatt.toml", "site.toml", "site.toml.bak-1"]);
}

#[test]
fn nothing_is_migrated_if_one_file_cannot_be() {
    let old = Old::new();
    for (text, place) in [("version = 7\n", "a.toml:1:11: "), ("[mqtt\n", "a.toml:1:6: ")] {
        fragment(old.0.path(), "a.toml", text);
        old.migrate(&[]).expect(78).says(&[place, "nothing was changed"]);
        assert_eq!((old.text().as_str(), old.names().len()), (OLD, 2));
    }
    fs::remove_file(old.file()).unwrap();
    old.migrate(&[]).expect(78).says(&["edgewatt.toml: cannot read the configuration: No such file"]);
}

#[test]
fn the_migrated_reference_is_the_same_configuration() {
    let reference = fs::read_to_string(root().join("config/edgewatt.toml")).unwrap();
    let old = Old::new();
    fs::write(old.file(), reference.replacen("version = 1\n", "", 1)).unwrap();
    old.migrate(&[]).expect(0);
    assert_eq!(written(&old.text()), written(&reference));
}

/// The lines that are no comment and not empty.
fn written(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}
