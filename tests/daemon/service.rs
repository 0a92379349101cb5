//! What the daemon tells systemd, heard on a socket of the test's; and how far the unit shuts it in. The unit itself,
//! with the package, is tested in tests/vm/service.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::rig::{XNNPACK, delegate, from_stdin, paced, with_plugin};
use edgewatt_support::root;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Long enough for a busy machine to come round in half of it.
const WATCHDOG: Duration = Duration::from_secs(10);
const FED: &str = "WATCHDOG=1";

/// In the place of systemd.
struct Manager {
    _dir: TempDir,
    _setup: Setup,
    heard: Arc<Mutex<Vec<String>>>,
    daemon: Daemon,
}

impl Manager {
    fn start(setup: Setup) -> Self {
        let command = setup.command("run", &[]);
        Self::run(setup, command)
    }

    fn run(setup: Setup, mut command: Command) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let ours = heard.clone();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(bytes) = socket.recv(&mut message) {
                ours.lock().unwrap().push(String::from_utf8_lossy(&message[..bytes]).trim_end().to_owned());
            }
        });
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command.env_remove("WATCHDOG_PID");
        Self { _dir: dir, _setup: setup, heard, daemon: Daemon::start(command) }
    }

    /// The place behind the first message at or after `from` that `holds`.
    fn hears(&self, what: &str, from: usize, holds: impl Fn(&str) -> bool) -> usize {
        let mut found = None;
        let heard = || format!("{what} in {:?}; the log:\n{}", self.heard.lock().unwrap(), self.daemon.log());
        wait_until(heard, || {
            found = self.heard.lock().unwrap().iter().skip(from).position(|message| holds(message));
            found.is_some()
        });
        from + found.unwrap() + 1
    }

    fn heard_so_far(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// From now on, two times at least.
    fn is_fed(&self) {
        let fed = |message: &str| message == FED;
        let once = self.hears(FED, self.heard_so_far(), fed);
        self.hears(FED, once, fed);
    }
}

#[test]
fn systemd_hears_of_the_start_the_work_a_reload_and_the_stop() {
    let broker = Mosquitto::running();
    let manager = Manager::start(paced(Setup::demo(broker.port)));
    let ready = manager.hears("READY", 0, |message| message == "READY=1");
    let status = |message: &str| {
        message.starts_with("STATUS=shoulder: ")
            && message.contains("/s by xnnpack, ")
            && message.ends_with(" mJ an inference (estimated)")
    };
    manager.hears("the status", ready, status);
    manager.is_fed();
    manager.daemon.signal(Signal::SIGHUP);
    let reloading = |message: &str| message.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    let reloading = manager.hears("RELOADING", ready, reloading);
    let again = manager.hears("READY", reloading, |message| message == "READY=1");
    manager.daemon.signal(Signal::SIGTERM);
    let stopping = manager.hears("STOPPING", again, |message| message == "STOPPING=1");
    // mqtt.stop_timeout_s, and a margin.
    manager.hears("the time", stopping, |message| message == "EXTEND_TIMEOUT_USEC=10000000");
    manager.daemon.wait().expect(0);
}

/// A delegate inside the daemon whose thirtieth inference does not come back.
fn hanging(port: u16) -> Setup {
    with_plugin(paced(Setup::demo(port)), "npu", &[("mode", "hang"), ("every", "30")])
        .with_keys("[delegates.npu]", "isolation = \"thread\"")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }")
        .with(XNNPACK, &delegate("npu"))
}

#[test]
fn an_inference_that_hangs_in_the_daemon_withholds_the_watchdog_and_the_log_says_why() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/demo/p/shoulder/status");
    let mut manager = Manager::start(hanging(broker.port));
    manager.hears("READY", 0, |message| message == "READY=1");
    let said = "pipeline shoulder: an inference by npu has not come back for 5 s; the watchdog is not fed";
    manager.daemon.in_log(said, |log| log.contains(said).then_some(()));
    let before = manager.heard_so_far();
    std::thread::sleep(WATCHDOG / 4);
    let after = manager.heard.lock().unwrap()[before..].to_vec();
    assert!(!after.iter().any(|message| message == FED), "{after:?}");
    subscriber.until(|line| line.contains("\"degraded\"") && line.contains("has not come back"));
}

/// The pipeline is to end then, and never does.
#[test]
fn an_inference_that_hangs_is_not_forgotten_by_a_reload() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = hanging(broker.port);
    let config = setup.config();
    let mut manager = Manager::start(setup);
    subscriber.until(|line| line.contains("/prediction "));
    subscriber.until(|line| line.contains("/metrics ") && line.contains("\"predictions_per_s\":0.0"));
    let text = std::fs::read_to_string(&config).unwrap();
    let edited = text.replace("speed = 100.0 ", "speed = 50.0 ").replace(&delegate("npu"), XNNPACK);
    assert_ne!(edited, text);
    std::fs::write(&config, edited).unwrap();
    manager.daemon.signal(Signal::SIGHUP);
    subscriber.until(|line| line.contains("\"event\":\"reload\""));
    let said = "has not come back for 5 s; the watchdog is not fed";
    manager.daemon.in_log(said, |log| log.contains(said).then_some(()));
}

/// It fails at each start after the first.
#[test]
fn that_a_delegate_is_started_again_and_again_is_in_the_status_line() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = paced(Setup::demo(broker.port));
    let lives = setup.dir.path().join("lives").display().to_string();
    let options = [("mode", "exit"), ("at", "create"), ("lives", lives.as_str()), ("from_life", "2")];
    let setup = with_plugin(setup, "npu", &options)
        .with_keys("[delegates.npu]", "restarts = { max = 8, per_s = 600.0 }")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }\nfallback = [\"cpu\"]")
        .with(XNNPACK, &delegate("npu"));
    let manager = Manager::start(setup);
    subscriber.until(|line| line.contains("/prediction "));
    let pid = manager.daemon.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.flat_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let child =
        children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).next().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL).unwrap();
    manager.hears("the state", 0, |message| message.contains("degraded: npu: ") && message.contains("started again"));
    manager.hears("the state", 0, |message| message.contains(" by cpu, ") && message.contains("degraded: npu: "));
}

#[test]
fn an_inference_that_hangs_in_a_process_is_a_state_and_the_watchdog_is_fed() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/demo/p/shoulder/#");
    let setup = with_plugin(paced(Setup::demo(broker.port)), "npu", &[("mode", "hang"), ("every", "30")])
        .with_keys("[delegates.npu]", "deadline_ms = 1000\nrestarts = { max = 0, per_s = 60.0 }")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }\nfallback = [\"cpu\"]")
        .with(XNNPACK, &delegate("npu"));
    let manager = Manager::start(setup);
    subscriber.until(|line| line.contains("/status ") && line.contains("\"degraded\"") && line.contains("\"cpu\""));
    subscriber.until(|line| line.contains("/prediction "));
    manager.is_fed();
    manager.hears("the state", 0, |message| message.contains(" by cpu, ") && message.contains(", degraded: npu: "));
}

#[test]
fn a_silent_source_is_a_state_until_it_gives_samples_again() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/demo/#", 1);
    let setup = from_stdin(Setup::demo(broker.port));
    let mut command = setup.command("run", &[]);
    let (read, mut writer) = std::io::pipe().unwrap();
    command.stdin(read);
    let manager = Manager::run(setup, command);
    let reason = "source: no sample has come for 10 s";
    subscriber.until(|line| line.contains("/status ") && line.contains("\"degraded\"") && line.contains(reason));
    manager.hears("the state", 0, |message| message.starts_with("STATUS=") && message.contains(reason));
    manager.is_fed();
    writer.write_all(b"time_s,ax,ay,az,wx,wy,wz,exercise\n0.0,0,0,0,0,0,0,\n").unwrap();
    subscriber.until(|line| line.contains("/status ") && line.contains("\"running\""));
}

#[test]
fn a_broker_that_is_not_there_is_a_state() {
    let broker = Mosquitto::absent();
    let manager = Manager::start(paced(Setup::demo(broker.port)));
    manager.hears("READY", 0, |message| message == "READY=1");
    manager
        .hears("the state", 0, |message| message.starts_with("STATUS=shoulder: ") && message.contains("; no broker: "));
    manager.is_fed();
}

/// What `systemd-analyze security` says of a unit that is exposed by two at most: 0 is shut in, 10 is open.
fn security(unit: &Path) -> String {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(unit);
    let output = command.output().expect("systemd-analyze is missing: install systemd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Overall exposure level"), "{said}");
    // systemd before 254 does not know the growing pauses of restarts.
    let newer = ["'RestartSteps'", "'RestartMaxDelaySec'"];
    let ignored = said.lines().filter(|line| line.contains("ignoring") && !newer.iter().any(|key| line.contains(key)));
    assert_eq!(ignored.count(), 0, "{said}");
    said
}

#[test]
fn the_unit_is_exposed_by_two_at_most() {
    security(&root().join("systemd/edgewatt.service"));
}

/// Each line of the unit's section `Service` or `Unit` that sets that key.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn a_device_without_an_attendant_is_started_again_for_ever_with_growing_pauses_unless_the_configuration_is_wrong() {
    let unit = std::fs::read_to_string(root().join("systemd/edgewatt.service")).unwrap();
    assert_eq!(values(&unit, "StartLimitIntervalSec"), ["0"]);
    assert_eq!(values(&unit, "Restart"), ["on-failure"]);
    assert_eq!(values(&unit, "RestartPreventExitStatus"), ["78"]);
    assert_eq!((values(&unit, "RestartSteps").len(), values(&unit, "RestartMaxDelaySec")), (1, vec!["5min"]));
}

#[test]
fn the_unit_bounds_processes_memory_and_core_dumps() {
    let unit = std::fs::read_to_string(root().join("systemd/edgewatt.service")).unwrap();
    for (key, value) in [("TasksMax", "512"), ("MemoryMax", "75%"), ("LimitCORE", "0")] {
        assert_eq!(values(&unit, key), [value], "{key}");
    }
}

#[test]
fn priorities_and_processors_need_the_drop_in_for_real_time() {
    let folder = tempfile::tempdir().unwrap();
    let (unit, drop_ins) = (folder.path().join("edgewatt.service"), folder.path().join("edgewatt.service.d"));
    std::fs::copy(root().join("systemd/edgewatt.service"), &unit).unwrap();
    let permits = "@resources is included (e.g. ";
    let before = security(&unit);
    assert!(!before.contains(permits), "{before}");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::copy(root().join("systemd/examples/realtime.conf"), drop_ins.join("realtime.conf")).unwrap();
    let with = security(&unit);
    assert!(with.contains(permits), "{with}");
}

#[test]
fn perf_events_need_their_drop_in_and_it_exposes_the_unit_by_two_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let (unit, drop_ins) = (folder.path().join("edgewatt.service"), folder.path().join("edgewatt.service.d"));
    std::fs::copy(root().join("systemd/edgewatt.service"), &unit).unwrap();
    let permits =
        ["@debug is included (e.g. perf_event_open is allowed)", "Service process receives ambient capabilities"];
    let before = security(&unit);
    assert!(permits.iter().all(|words| !before.contains(words)), "{before}");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::copy(root().join("systemd/examples/perf.conf"), drop_ins.join("perf.conf")).unwrap();
    let with = security(&unit);
    assert!(permits.iter().all(|words| with.contains(words)), "{with}");
    // A capability that is not in the bounding set cannot be an ambient one: the service would not start.
    let text = std::fs::read_to_string(drop_ins.join("perf.conf")).unwrap();
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert!(text.lines().any(|line| line == format!("{key}=CAP_PERFMON")), "{text}");
    }
}
