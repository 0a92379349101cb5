//! Files that a configuration names and that are not what they should be: refused at once, and never read without an end.

use std::fs::{self, File, Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, limited};
use edgewatt_support::rig::from_stdin;
use edgewatt_support::root;

const WRONG: i32 = 78;

/// Less than the large file of [`unfit`].
const MEMORY: &str = "--as=2000000000";

/// A FIFO that nobody writes to, a device without an end, and a file larger than memory; and how each is refused.
fn unfit(setup: &Setup) -> [(PathBuf, &'static str); 3] {
    let [fifo, large] = ["a.fifo", "large"].map(|name| setup.dir.path().join(name));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    File::create(&large).unwrap().set_len(3 << 30).unwrap();
    let regular = "regular file";
    [(fifo, regular), (PathBuf::from("/dev/zero"), regular), (large, "has 3221225472 bytes")]
}

fn check(setup: &Setup) -> Ended {
    Daemon::start(limited(setup.command("check", &[]), MEMORY)).wait()
}

#[test]
fn a_configuration_that_is_not_a_regular_file_of_its_size_is_refused_at_once() {
    for (path, words) in unfit(&Setup::demo(1)) {
        let mut command = edgewatt(&["check", "-c"]);
        command.arg(&path);
        let shown = path.display().to_string();
        Daemon::start(limited(command, MEMORY)).wait().expect(WRONG).says(&[
            &shown,
            "cannot read the configuration",
            words,
        ]);
    }
}

#[test]
fn models_and_labels_that_are_not_regular_files_of_their_size_are_refused_at_once() {
    for name in ["shoulder_int8.tflite", "labels.txt"] {
        let setup = Setup::demo(1);
        let right = format!("{}/models/{name}", root().display());
        for (path, words) in unfit(&setup) {
            let shown = path.display().to_string();
            check(&Setup::demo(1).with(&right, &shown)).expect(WRONG).says(&[
                "pipelines.shoulder.model",
                &shown,
                words,
            ]);
        }
    }
}

#[test]
fn recordings_that_are_not_regular_files_are_refused_at_once() {
    for (path, words) in &unfit(&Setup::demo(1))[..2] {
        check(&Setup::demo(1).plays(path)).expect(WRONG).says(&["pipelines.shoulder.source", words]);
    }
}

/// With a login and a certificate, both in files.
fn secured(password: &str, ca: &str) -> Setup {
    let keys = format!("user = \"porch\"\npassword_file = \"{password}\"\nca_file = \"{ca}\"");
    Setup::demo(1).with("mqtt://127.0.0.1:1", "mqtts://127.0.0.1:1").with_keys("[mqtt]", &keys)
}

#[test]
fn check_tells_of_files_for_the_broker_that_are_missing_or_that_everybody_can_read() {
    let folder = Setup::demo(1);
    let says = |password: &str, ca: &str, parts: &[&str]| {
        let ended = check(&secured(password, ca)).expect(WRONG);
        parts.iter().for_each(|part| assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout));
    };
    let password = folder.write("password", b"secret\n").display().to_string();
    set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    says(
        "/nowhere/p",
        "/nowhere/ca",
        &["broker: login: /nowhere/p: No such file", "broker: TLS: /nowhere/ca: ", "No such file"],
    );
    for (path, words) in unfit(&folder) {
        let shown = path.display().to_string();
        says(&password, &shown, &["broker: TLS: ", &shown, words]);
        let words = if path.ends_with("large") { "chmod o=" } else { "not a regular file" };
        says(&shown, "/nowhere/ca", &["broker: login: ", &shown, words]);
    }
    set_permissions(&password, Permissions::from_mode(0o644)).unwrap();
    says(&password, "/nowhere/ca", &["broker: login: ", "all users may read it (mode 0644)", "chmod o="]);

    // The same for the broker of a source.
    let text = "mqtt = { topic = \"a\", broker = \"mqtt://127.0.0.1:1\", user = \"u\", password_file = \"/nowhere/q\"";
    let setup = Setup::demo(1);
    let config = fs::read_to_string(setup.config()).unwrap();
    let start = config.find("[pipelines.shoulder.source.replay]").unwrap();
    let end = config.find("[[pipelines.shoulder.features]]").unwrap();
    let source = format!(
        "[pipelines.shoulder.source]\n{text}, records = {{ channels = [\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"], \
         format = \"ndjson\", rate_hz = 50.0 }} }}\n\n"
    );
    let ended = check(&setup.with(&config[start..end], &source)).expect(WRONG);
    assert!(ended.stdout.contains("source of pipeline shoulder: /nowhere/q: No such file"), "{}", ended.stdout);
}

#[test]
fn the_lock_of_a_socket_is_no_way_to_another_file() {
    let setup = from_stdin(Setup::demo(1));
    let mine = setup.write("mine", b"precious");
    symlink(&mine, setup.dir.path().join("in.lock")).unwrap();
    let setup = setup.with("\"stdin\"", "{ socket = \"in\" }");
    setup.run_once().expect(1).says(&["cannot make the lock of ", "/in: Too many levels of symbolic links"]);
    assert_eq!(fs::read(mine).unwrap(), b"precious");
}
