//! Starts that come to nothing: the exit code that tells systemd whether to try again, and the cause in words.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, limited, started_by, without_root_s_rights};
use edgewatt_support::rig::from_stdin;
use edgewatt_support::root;

/// The start may succeed later: systemd tries again.
const LATER: i32 = 75;
/// The configuration is wrong: systemd does not try again.
const WRONG: i32 = 78;

fn model() -> String {
    format!("{}/models/shoulder_int8.tflite", root().display())
}

fn ended(command: Command) -> Ended {
    Daemon::start(command).wait()
}

#[test]
fn without_processes_the_start_is_tried_again() {
    let setup = Setup::demo(1);
    // The limit does not bind root.
    set_permissions(setup.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let bound = |subcommand: &str| {
        let command = started_by("prlimit", &["--nproc=1"], &setup.command(subcommand, &[]));
        match nix::unistd::geteuid().is_root() {
            true => started_by("setpriv", &["--reuid=61183", "--clear-groups"], &command),
            false => command,
        }
    };
    for subcommand in ["run", "check"] {
        let says = ["pipelines.shoulder.model.path: ", "cannot start ", "Resource temporarily unavailable"];
        ended(bound(subcommand)).expect(LATER).says(&says);
    }
}

#[test]
fn with_few_file_descriptors_the_start_is_tried_again() {
    let setup = Setup::demo(1);
    let mut later = 0;
    for files in 3..16 {
        let ended = ended(limited(setup.command("check", &[]), &format!("--nofile={files}:{files}")));
        match ended.status.code() {
            Some(LATER) => {
                later += 1;
                ended.says(&["oo many open files"]);
            }
            // The loader of programs, and what is needed before the configuration is read, fail in their own ways.
            code => assert_ne!(code, Some(WRONG), "{files} files: {}", ended.stderr),
        }
    }
    assert!(later > 2, "{later}");
    ended(limited(setup.command("check", &[]), "--nofile=64:64")).expect(0);
}

#[test]
fn with_little_memory_the_start_is_tried_again_and_with_some_it_succeeds() {
    let setup = Setup::demo(1);
    let mut later = 0;
    for mib in (48_u64..=128).step_by(2) {
        let limit = format!("--as={}", mib << 20);
        let ended = ended(limited(setup.command("check", &[]), &limit));
        later += i32::from(ended.status.code() == Some(LATER));
        assert_ne!(ended.status.code(), Some(WRONG), "{mib} MiB: {}", ended.stderr);
    }
    assert!(later > 0);
    // Less than what the process that tries the model sets as its own limit.
    ended(limited(setup.command("check", &[]), &format!("--as={}", 2_u64 << 30))).expect(0);
}

#[test]
fn what_is_missing_may_come_and_what_is_malformed_stays() {
    let missing = |setup: Setup, says: &[&str]| {
        setup.run_once().expect(LATER).says(says);
        setup.check().expect(WRONG).says(says);
    };
    let no_file = "No such file or directory";
    missing(Setup::demo(1).with(&model(), "/mnt/late/m.tflite"), &["model.path", "/mnt/late/m.tflite", no_file]);
    let labels = format!("{}/models/labels.txt", root().display());
    missing(Setup::demo(1).with(&labels, "/mnt/late/labels.txt"), &["model.labels", "/mnt/late/labels.txt", no_file]);
    let library = Setup::demo(1).with("[metrics]", "[runtime]\nlibrary = \"/mnt/late/lib.so\"\n[metrics]");
    missing(library, &["runtime.library", "/mnt/late/lib.so"]);
    // If a part is malformed, the wait for the rest is in vain.
    let both = Setup::demo(1).with(&model(), "/mnt/late/m.tflite").with("hop = 50", "hop = 0");
    both.run_once().expect(WRONG).says(&["hop"]);
    let setup = Setup::demo(1);
    let text = setup.write("text.tflite", b"no model").display().to_string();
    setup.with(&model(), &text).run_once().expect(WRONG).says(&[&text]);
    // A configuration may be on such a disk, too.
    let mut command = edgewatt(&["run", "-c", "/mnt/late/edgewatt.toml"]);
    command.env("RUNTIME_DIRECTORY", Setup::demo(1).dir.path());
    ended(command).expect(LATER).says(&["/mnt/late/edgewatt.toml: cannot read the configuration: ", no_file]);
}

#[test]
fn a_file_that_may_not_be_read_is_a_wrong_configuration() {
    let setup = Setup::demo(1);
    let secret = setup.write("secret.tflite", b"x");
    set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    let setup = setup.with(&model(), &secret.display().to_string());
    let run = without_root_s_rights(setup.command("run", &["--once"]));
    ended(run).expect(WRONG).says(&["secret.tflite: Permission denied"]);
}

#[test]
fn a_socket_that_is_in_use_is_waited_for() {
    let setup = from_stdin(Setup::demo(1));
    let socket = setup.dir.path().join("in.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let setup = setup.with("\"stdin\"", &format!("{{ socket = \"{}\" }}", socket.display()));
    setup.run_once().expect(1).says(&["cannot listen on ", "in.sock", "Address already in use"]);
}
