//! `edgewatt support` of the real binary: what its archive holds, and what it never holds.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgewatt_support::daemon::{Daemon, Ended, Setup};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::rig::paced;
use edgewatt_support::root;
use serde_json::Value;

/// The names in the archive, in their order.
const FILES: [&str; 15] = [
    "README.txt",
    "versions.txt",
    "doctor.txt",
    "doctor.json",
    "health.json",
    "info.json",
    "configuration/edgewatt.toml",
    "models.txt",
    "log.txt",
    "service/status.txt",
    "service/unit.txt",
    "service/properties.txt",
    "machine/cpu.txt",
    "machine/memory.txt",
    "machine/disk.txt",
];

/// Runs it with `bin` of the setup's folder before the system's programs.
fn support(setup: &Setup, args: &[&str]) -> Ended {
    let mut command = setup.command("support", args);
    command.current_dir(setup.dir.path());
    command.env("PATH", format!("{}:/usr/bin:/bin", setup.dir.path().join("bin").display()));
    Daemon::start(command).wait()
}

/// A program that is found before the system's.
fn program(setup: &Setup, name: &str, script: &str) {
    fs::create_dir_all(setup.dir.path().join("bin")).unwrap();
    let path = setup.write(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// The archive's files as Python unpacks them, with their names in order.
fn unpack(archive: &Path) -> (Vec<String>, BTreeMap<String, String>) {
    let script = "import json, sys, tarfile\n\
                  with tarfile.open(sys.argv[1], 'r:gz') as tar:\n    \
                  members = tar.getmembers()\n    \
                  assert all(m.isfile() and m.mode == 0o600 and m.uid == 0 for m in members)\n    \
                  print(json.dumps([[m.name, tar.extractfile(m).read().decode()] for m in members]))\n";
    let output = Command::new("python3").args(["-c", script]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Vec<(String, String)> = serde_json::from_slice(&output.stdout).unwrap();
    let files =
        files.into_iter().map(|(name, text)| (name.strip_prefix("edgewatt-support/").unwrap().to_owned(), text));
    let files: Vec<_> = files.collect();
    (files.iter().map(|(name, _)| name.clone()).collect(), files.into_iter().collect())
}

fn archive(setup: &Setup) -> PathBuf {
    setup.dir.path().join("edgewatt-support.tar.gz")
}

#[test]
fn the_archive_of_a_daemon_that_runs_has_all_of_it() {
    let broker = Mosquitto::running();
    let setup = paced(Setup::demo(broker.port));
    let model = root().join("models/shoulder_int8.tflite");
    program(&setup, "journalctl", "echo \"asked: $*\"");
    program(&setup, "systemctl", "echo \"asked: $*\"; exit 3");
    let daemon = setup.start(&[]);
    let mut subscriber = broker.subscribe("edgewatt/demo/p/shoulder/prediction");
    subscriber.until(|line| line.contains("/prediction "));
    let ended = support(&setup, &[]).expect(0);
    let (names, files) = unpack(&archive(&setup));
    assert_eq!(names, FILES);
    assert_eq!(fs::metadata(archive(&setup)).unwrap().permissions().mode() & 0o777, 0o600);

    // All of it is listed, with its size, before what to do with it.
    let mut listing = ended.stdout.lines();
    assert_eq!(listing.next(), Some("15 files for edgewatt-support.tar.gz:"));
    for (name, text) in names.iter().map(|name| (name, &files[name])) {
        assert_eq!(listing.next(), Some(format!("  {:>8} bytes  edgewatt-support/{name}", text.len()).as_str()));
    }
    assert!(listing.next().unwrap().contains("Look through it before you send it"), "{}", ended.stdout);

    let json = |name: &str| -> Value { serde_json::from_str(&files[name]).unwrap() };
    assert_eq!(json("health.json")["daemon"]["pid"], daemon.pid());
    assert_eq!(json("info.json")["node"], "demo");
    assert!(json("doctor.json")["findings"].as_array().unwrap().len() > 5);
    assert!(files["doctor.txt"].contains("\n  ok      TensorFlow Lite: 2.17.1"), "{}", files["doctor.txt"]);
    for part in ["edgewatt 0", "kernel: ", "TensorFlow Lite: 2.17.1", "C library: glibc"] {
        assert!(files["versions.txt"].contains(part), "{}", files["versions.txt"]);
    }
    let bytes = fs::metadata(&model).unwrap().len();
    let line = format!(
        "shoulder: {}: {bytes} bytes, sha256 {}\n",
        model.display(),
        json("info.json")["pipelines"]["shoulder"]["model_sha256"].as_str().unwrap()
    );
    assert_eq!(files["models.txt"], line);
    assert!(files["log.txt"].starts_with("asked: --unit edgewatt --lines=500 "), "{}", files["log.txt"]);
    assert!(files["service/unit.txt"].starts_with("asked: cat edgewatt "));
    assert!(files["service/status.txt"].contains("[exit status: 3]"));
    assert!(files["configuration/edgewatt.toml"].contains("\nid = \"demo\"\n"));
    assert!(files["machine/memory.txt"].starts_with("MemTotal:"));
    assert!(files["machine/disk.txt"].contains("MiB free"));

    // Nothing is overwritten unless that is asked for.
    let before = fs::read(archive(&setup)).unwrap();
    support(&setup, &[]).expect(1).says(&["edgewatt-support.tar.gz exists", "--force"]);
    assert_eq!(fs::read(archive(&setup)).unwrap(), before);
    support(&setup, &["--force"]).expect(0);
    let output = {
        let mut command = setup.command("support", &["-o", "-"]);
        command.env("PATH", "/usr/bin:/bin").output().unwrap()
    };
    let piped = setup.write("piped.tar.gz", &output.stdout);
    assert_eq!(unpack(&piped).0, FILES);
    assert!(String::from_utf8_lossy(&output.stderr).contains("15 files for standard output:"));
}

#[test]
fn what_cannot_be_had_is_a_file_that_says_why() {
    let setup = Setup::demo(1);
    let config = setup.config();
    let mut command = setup.command("support", &[]);
    command.current_dir(setup.dir.path()).env("PATH", "/nowhere");
    fs::write(&config, "[mqtt\nuser = hunter2\n").unwrap();
    let ended = Daemon::start(command).wait().expect(0);
    assert!(ended.stdout.contains("15 files for"), "{}", ended.stdout);
    let (names, files) = unpack(&archive(&setup));
    assert_eq!(names, FILES);
    for (name, part) in [
        ("models.txt", "not available: the configuration cannot be used: "),
        ("log.txt", "not available: journalctl could not be started: No such file"),
        ("service/unit.txt", "not available: systemctl could not be started"),
        ("versions.txt", "C library: not available: getconf could not be started"),
        ("configuration/edgewatt.toml", "# not valid TOML"),
        ("info.json", "not available: no daemon answers"),
        ("health.json", "not_running"),
    ] {
        assert!(files[name].contains(part), "{name}: {}", files[name]);
    }
    assert!(files.values().all(|text| !text.contains("hunter2")), "{files:#?}");

    fs::remove_file(&config).unwrap();
    let mut command = Command::new(edgewatt_support::program());
    command.args(["support", "--force", "-c"]).arg(&config).current_dir(setup.dir.path());
    Daemon::start(command).wait().expect(0);
    let (_, files) = unpack(&archive(&setup));
    assert!(files["configuration/edgewatt.toml"].contains("No such file"), "{files:#?}");
    // A folder that is not there.
    let mut command = setup.command("support", &["-o", "/nowhere/a.tar.gz"]);
    command.current_dir(setup.dir.path());
    Daemon::start(command).wait().expect(1).says(&["cannot write /nowhere/a.tar.gz", "No such file"]);
}

/// Secrets everywhere that a user or a program may put one.
#[test]
fn no_secret_gets_into_the_archive() {
    let broker = Mosquitto::running();
    let setup = Setup::demo(broker.port);
    fs::create_dir_all(setup.dir.path().join("conf.d")).unwrap();
    let password = setup.write("mqtt-password", b"hunter0 = 1");
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let login = format!(
        "user = \"alice-customer\" # the password is hunter1\nclient_id = \"gate-customer\"\npassword_file = \"{}\"",
        password.display()
    );
    let setup = setup.with_keys("[mqtt]", &login).with_keys("[metrics]", "# token: hunter2");
    setup.write(
        "conf.d/10-secrets.toml",
        b"# hunter3\n[mqtt]\npassword = \"hunter4 with spaces\"\nuser = \"carol-customer\"\n",
    );
    setup.write("conf.d/20-broken.toml", b"hunter5\npassword = hunter6\n");
    std::os::unix::fs::symlink(&password, setup.dir.path().join("conf.d/30-link.toml")).unwrap();
    program(
        &setup,
        "journalctl",
        "cat <<'END'\n\
         2026-01-01T00:00:00 edgewatt[7]: no connection as alice-customer to mqtts://bob:hunter7@hub:1\n\
         2026-01-01T00:00:00 edgewatt[7]: x.toml:3:1: unknown field `password`\n\
         \x20 3 | password = \"hunter8\"\n\
         2026-01-01T00:00:00 edgewatt[7]: broker said: bad password hunter4 with spaces\n\
         2026-01-01T00:00:00 edgewatt[7]: session_token=hunter9 for carol-customer\n\
         END",
    );
    program(
        &setup,
        "systemctl",
        "cat <<'END'\n\
         Environment=\"MQTT_PASSWORD=hunter10 11\" EDGEWATT_LOG=debug\n\
         SetCredential=mqtt-password:hunter11\n\
         Environment=API_KEY=hunter12 \\\n\
         \x20 MORE=hunter13\n\
         ExecStart=/usr/bin/edgewatt run --token hunter14\n\
         END",
    );
    support(&setup, &[]).expect(0);
    let (names, files) = unpack(&archive(&setup));
    for name in ["10-secrets.toml", "20-broken.toml", "30-link.toml"] {
        assert!(names.contains(&format!("configuration/conf.d/{name}")), "{names:?}");
    }
    for (name, text) in &files {
        for secret in ["hunter", "alice", "carol", "gate-customer", "bob:"] {
            assert!(!text.contains(secret), "{secret} is in {name}: {text}");
        }
    }
    // As TOML it would be valid.
    let link = &files["configuration/conf.d/30-link.toml"];
    assert!(link.contains("not available: it is a file that the configuration names"), "{link}");
    assert!(
        files["log.txt"].contains("no connection as <mqtt.user> to mqtts://<hidden>@hub:1"),
        "{}",
        files["log.txt"]
    );
    assert!(files["configuration/edgewatt.toml"].contains(&format!("password_file = \"{}\"", password.display())));
}
