//! The files of examples/ as they are, but for ports and paths: the configurations check, the sensor feeds a daemon, and
//! the subscribers print what a real broker carried.

use std::os::unix::process::CommandExt;
use std::process::Command;

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::wire::Wire;
use edgewatt_support::{program, root};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A program of examples/ in a process group of its own, which ends with the test.
struct Program(Daemon);

impl Program {
    fn start(mut command: Command) -> Self {
        command.process_group(0);
        Self(Daemon::start(command))
    }

    /// Waits for a line that the program prints and `find` accepts.
    fn line(&self, what: &str, find: impl Fn(&str) -> bool) -> String {
        let found = || self.0.stdout().lines().find(|line| find(line)).map(str::to_owned);
        wait_until(|| format!("{what} in:\n{}\n{}", self.0.stdout(), self.0.log()), || found().is_some());
        found().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.pid().cast_signed()), Signal::SIGTERM);
    }
}

/// The Python that `make test` gives paho-mqtt, or else the machine's.
fn python() -> Command {
    let venv = program().ancestors().nth(2).unwrap().join("venv/bin/python");
    if venv.exists() { Command::new(venv) } else { Command::new("python3") }
}

/// A configuration of examples/ with absolute paths to the models.
fn setup(path: &str) -> Setup {
    let models = root().join("models");
    Setup::of(&root().join("examples").join(path)).with("../../models/", &format!("{}/", models.display()))
}

#[test]
fn every_configuration_checks() {
    let ok = |setup: Setup| {
        let ended = setup.check().expect(0);
        assert!(ended.stdout.starts_with(&format!("{}: ok\n", setup.config().display())), "{}", ended.stdout);
        assert!(ended.stdout.contains("[1, 200, 1, 6] int8 -> [1, 7] int8\n"), "{}", ended.stdout);
    };
    ok(setup("sensor/edgewatt.toml"));
    let devices = std::fs::read_dir(root().join("examples/devices")).unwrap();
    let devices: Vec<String> = devices.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(devices.len(), 3, "{devices:?}");
    for device in devices {
        // The service's own folder need not be here.
        ok(setup(&format!("devices/{device}")).with("/run/edgewatt/", ""));
    }
}

#[test]
fn the_sensor_feeds_a_daemon() {
    const SAMPLES: u64 = 700;
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup =
        setup("sensor/edgewatt.toml").with("mqtt://127.0.0.1:1883", &format!("mqtt://127.0.0.1:{}", broker.port));
    let daemon = setup.start(&["--once"]);

    let mut sensor = python();
    sensor.arg(root().join("examples/sensor/sensor.py")).arg(setup.dir.path().join("sensor.sock"));
    sensor.args(["--rate", "1000", "--samples", &SAMPLES.to_string()]);
    let sensor = Program::start(sensor);
    let ended = daemon.wait().expect(0);
    assert_eq!(ended.summary(" samples, "), SAMPLES, "{}\n{}", ended.stdout, sensor.0.log());
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/porch/status offline"));
    assert_eq!(wire.seqs(), Vec::from_iter(0..(SAMPLES - 200) / 50 + 1));
    assert!(wire.predictions().iter().all(|prediction| prediction["label"].is_string()));
}

/// Starts the demo and a subscriber of examples/, and checks that what it prints is what was published.
fn subscriber_prints(start: impl Fn(u16) -> Command, label: fn(&str) -> Option<&str>, has_energy: fn(&str) -> bool) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let printed = Program::start(start(broker.port));
    let setup = Setup::demo(broker.port)
        .at_speed("40.0")
        .with_keys("[pipelines.shoulder.source.replay]", "loop = true")
        .with("interval_s = 10.0", "interval_s = 0.5");
    let daemon = setup.start(&[]);
    let first = printed.line("a label", |line| label(line).is_some());
    printed.line("energy", has_energy);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/demo/status offline"));
    let published: Vec<_> = wire.predictions().iter().map(|p| p["label"].as_str().unwrap().to_owned()).collect();
    let label = label(&first).unwrap();
    assert!(first.starts_with("demo/shoulder") && published.iter().any(|known| known == label), "{first}");
}

#[test]
fn the_shell_subscriber_prints_label_score_and_energy() {
    let start = |port: u16| {
        let mut command = Command::new(root().join("examples/subscriber/subscriber.sh"));
        command.args(["127.0.0.1", &port.to_string()]);
        command
    };
    fn label(line: &str) -> Option<&str> {
        line.split_once(" label=")?.1.split_once(" score=0.").map(|(label, _)| label)
    }
    subscriber_prints(start, label, |line| line.contains(" energy_j=0.") && line.ends_with("(estimated)"));
}

#[test]
fn the_python_subscriber_prints_label_score_and_energy() {
    let imports = python().args(["-c", "import paho.mqtt"]).output().unwrap();
    if !imports.status.success() {
        eprintln!("skipped: paho-mqtt is not installed; `make test` installs it");
        return;
    }
    let start = |port: u16| {
        let mut command = python();
        command.arg(root().join("examples/subscriber/subscriber.py")).args(["127.0.0.1", &port.to_string()]);
        command
    };
    fn label(line: &str) -> Option<&str> {
        line.split_once("demo/shoulder: ")?.1.split_once(" 0.").map(|(label, _)| label)
    }
    subscriber_prints(start, label, |line| line.contains(" mJ (estimated by guess)"));
}
