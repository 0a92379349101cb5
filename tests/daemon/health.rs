//! `edgewatt health` of the real binary, on daemons that work, stand still, fail, and have died.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, wait_until};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::rig::{Rig, XNNPACK, delegate, paced, replay, second, with_plugin};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};
use nix::unistd::Pid;
use serde_json::Value;

/// Asks the daemon of this setup. The file is not written anew: the daemon may be reading it.
fn health(setup: &Setup, args: &[&str]) -> Ended {
    ask(setup, "edgewatt.toml", args)
}

/// Asks the daemon of that file in the setup's folder.
fn ask(setup: &Setup, file: &str, args: &[&str]) -> Ended {
    let mut command = edgewatt(&["health", "--config"]);
    command.arg(setup.dir.path().join(file)).args(args);
    command.env("RUNTIME_DIRECTORY", setup.dir.path().join("run"));
    Daemon::start(command).wait()
}

fn json(setup: &Setup, args: &[&str]) -> Value {
    let ended = health(setup, &[args, &["--json"]].concat());
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr));
    ended.expect(i32::from(!report["healthy"].as_bool().unwrap()));
    report
}

/// Waits for a report that `holds`, and returns it.
#[track_caller]
fn becomes(setup: &Setup, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let last = RefCell::new(Value::Null);
    wait_until(
        || format!("health: {what}; the last: {:#}", last.borrow()),
        || {
            last.replace(json(setup, &[]));
            holds(&last.borrow())
        },
    );
    last.into_inner()
}

fn works(report: &Value) -> bool {
    report["healthy"] == true
        && report["warnings"] == Value::Array(Vec::new())
        && report["daemon"]["node"]["pipelines"][0]["predictions"].as_u64() > Some(0)
        && report["daemon"]["node"]["meters"][0]["state"] == "working"
}

fn has(report: &Value, list: &str, part: &str) -> bool {
    report[list].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(part))
}

fn socket(setup: &Setup) -> PathBuf {
    let mut files = std::fs::read_dir(setup.dir.path().join("run")).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|e| e == "sock")).unwrap()
}

#[test]
fn a_daemon_that_works_is_healthy_until_it_is_paused_stopped_or_killed() {
    let rig = Rig::start(|setup| paced(setup).with_keys("[mqtt]", "commands = true"));
    let report = becomes(&rig.setup, "it works", works);
    assert_eq!(report["daemon"]["pid"], rig.daemon.pid());
    let node = &report["daemon"]["node"];
    assert_eq!((&node["id"], &node["broker"]["state"]), (&"demo".into(), &"connected".into()), "{report:#}");
    assert_eq!(node["store"]["state"], "off");
    assert_eq!(node["pipelines"][0]["delegate"], "xnnpack");
    let text = health(&rig.setup, &["--strict"]).expect(0).stdout;
    assert!(
        text.starts_with("healthy: running, process ") && text.contains("\n  pipeline shoulder: running by xnnpack")
    );

    // The user and the group may ask, nobody else.
    let metadata = std::fs::metadata(socket(&rig.setup)).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o660);

    rig.broker.publish("edgewatt/demo/cmd/pause", r#"{"pipeline":"shoulder"}"#);
    becomes(&rig.setup, "a warning that it is paused", |report| has(report, "warnings", "shoulder is paused"));
    health(&rig.setup, &["--strict"]).expect(1);

    // It accepts connections and does not answer.
    rig.daemon.signal(Signal::SIGSTOP);
    let hung = json(&rig.setup, &["--timeout", "0.3"]);
    assert_eq!(hung["state"], "hung");
    assert!(has(&hung, "problems", &format!("process {} does not answer within 0.3 s", rig.daemon.pid())), "{hung:#}");
    // As many as can wait for it.
    let address = UnixAddr::new(&socket(&rig.setup)).unwrap();
    let waiting: Vec<OwnedFd> = (0..512)
        .map_while(|_| {
            let client = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None);
            let client = client.unwrap();
            connect(client.as_raw_fd(), &address).is_ok().then_some(client)
        })
        .collect();
    assert!((1..32).contains(&waiting.len()), "{}", waiting.len());
    let hung = json(&rig.setup, &["--timeout", "0.3"]);
    assert!(hung["state"] == "hung" && has(&hung, "problems", "it does not answer"), "{hung:#}");
    drop(waiting);
    rig.daemon.signal(Signal::SIGCONT);
    becomes(&rig.setup, "it runs again", |report| report["state"] == "running");

    let path = socket(&rig.setup);
    rig.daemon.signal(Signal::SIGKILL);
    wait_until(|| "its death".into(), || UnixStream::connect(&path).is_err());
    let dead = json(&rig.setup, &[]);
    assert!(dead["state"] == "not_running" && has(&dead, "problems", "killed or has crashed"), "{dead:#}");

    // The next one takes the stale socket's place, and leaves none behind.
    let daemon = rig.setup.start(&[]);
    becomes(&rig.setup, "it works again", works);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let gone = json(&rig.setup, &[]);
    assert!(gone["state"] == "not_running" && has(&gone, "problems", "no daemon with "), "{gone:#}");
    assert!(!path.exists());
}

#[test]
fn a_failed_pipeline_is_not_healthy_and_the_others_run() {
    let broker = Mosquitto::running();
    let setup = with_plugin(paced(Setup::demo(broker.port)), "npu", &[("mode", "exit"), ("every", "30")])
        .with_keys("[delegates.npu]", "restarts = { max = 0, per_s = 60.0 }")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }")
        .with(XNNPACK, &delegate("npu"))
        .with("\n[pipelines.shoulder]\n", &second("arm", &replay("arm", "loop = true")));
    let daemon = setup.start(&[]);
    let report =
        becomes(&setup, "a failed pipeline", |report| has(report, "problems", "pipeline shoulder has failed: "));
    assert_eq!(report["state"], "running");
    let node = &report["daemon"]["node"]["pipelines"];
    assert_eq!((&node[0]["state"], &node[1]["state"]), (&"running".into(), &"failed".into()), "{report:#}");
    drop(daemon);
}

#[test]
fn a_fallback_and_a_broker_that_is_not_there_are_warnings() {
    let broker = Mosquitto::absent();
    let setup = with_plugin(paced(Setup::demo(broker.port)), "npu", &[("mode", "exit"), ("at", "create")])
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }\nfallback = [\"cpu\"]")
        .with(XNNPACK, &delegate("npu"));
    let _daemon = setup.start(&[]);
    let address = format!("broker 127.0.0.1:{} cannot be reached: ", broker.port);
    let report = becomes(&setup, "both warnings", |report| {
        has(report, "warnings", &address) && has(report, "warnings", "pipeline shoulder is degraded: npu: ")
    });
    assert_eq!((&report["healthy"], &report["state"]), (&true.into(), &"running".into()), "{report:#}");
    health(&setup, &["--strict"]).expect(1);
}

#[test]
fn two_daemons_are_told_apart_and_a_second_of_the_same_file_is_warned() {
    let broker = Mosquitto::running();
    let setup = paced(Setup::demo(broker.port));
    setup.write("other.toml", std::fs::read(setup.config()).unwrap().as_slice());
    let first = setup.start(&[]);
    becomes(&setup, "the first works", works);
    ask(&setup, "other.toml", &[]).expect(1);

    let mut again = setup.start(&[]);
    again.in_log("the warning", |log| log.contains("another daemon runs with this configuration file").then_some(()));
    assert_eq!(json(&setup, &[])["daemon"]["pid"], first.pid());
}

#[test]
fn a_hanging_inference_is_answered_with_its_reason() {
    let broker = Mosquitto::running();
    let setup = with_plugin(paced(Setup::demo(broker.port)), "npu", &[("mode", "hang"), ("every", "30")])
        .with_keys("[delegates.npu]", "isolation = \"thread\"")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }")
        .with(XNNPACK, &delegate("npu"));
    let mut command = setup.command("run", &[]);
    // Hanging is what the watchdog calls so: half of its period.
    command.env("WATCHDOG_USEC", "4000000").env_remove("WATCHDOG_PID");
    let _daemon = Daemon::start(command);
    let report = becomes(&setup, "it hangs", |report| report["state"] == "hung");
    assert!(has(&report, "problems", "an inference by npu has not come back for 2 s"), "{report:#}");
}

#[test]
fn a_file_that_cannot_be_used_any_more_does_not_matter_to_the_answer() {
    let broker = Mosquitto::running();
    let setup = paced(Setup::demo(broker.port));
    let _daemon = setup.start(&[]);
    becomes(&setup, "it works", works);
    setup.write("edgewatt.toml", b"this is no TOML");
    health(&setup, &[]).expect(0);
    std::fs::remove_file(setup.dir.path().join("edgewatt.toml")).unwrap();
    health(&setup, &[]).expect(0);
    health(&setup, &["--timeout", "soon"]).expect(2).says(&["write a number of seconds"]);
}

/// No timing is tested: each state lasts until the next step, or long enough to be seen.
#[test]
fn a_daemon_that_starts_reloads_or_stops_says_so() {
    let broker = Mosquitto::running();
    let slow = [("mode", "slow"), ("at", "create"), ("slow_ms", "2000")];
    let setup = with_plugin(paced(Setup::demo(broker.port)), "npu", &slow)
        .with_keys("[delegates.npu]", "isolation = \"thread\"")
        .with_keys("[pipelines.shoulder]", "parity = { windows = 0 }")
        .with_keys("[mqtt]", "stop_timeout_s = 60.0")
        .with(XNNPACK, &delegate("npu"));
    let daemon = setup.start(&[]);
    let starting = becomes(&setup, "it starts", |report| report["state"] == "starting");
    assert!(has(&starting, "problems", "it is starting: loading the configuration"), "{starting:#}");
    becomes(&setup, "it works", works);

    let setup = setup.with(&delegate("npu"), XNNPACK);
    setup.config();
    daemon.signal(Signal::SIGHUP);
    let by = |report: &Value, delegate: &str| report["daemon"]["node"]["pipelines"][0]["delegate"] == delegate;
    becomes(&setup, "it runs by xnnpack", |report| by(report, "xnnpack") && report["state"] == "running");
    let setup = setup.with(XNNPACK, &delegate("npu"));
    setup.config();
    daemon.signal(Signal::SIGHUP);
    let reloading = becomes(&setup, "it reloads", |report| report["state"] == "reloading");
    assert!(reloading["healthy"] == true && by(&reloading, "xnnpack"), "{reloading:#}");
    becomes(&setup, "it runs by npu", |report| by(report, "npu") && report["state"] == "running");

    // Nothing is delivered, so it waits for the broker.
    let pid = Pid::from_raw(broker.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    daemon.signal(Signal::SIGTERM);
    let stopping = becomes(&setup, "it stops", |report| report["state"] == "stopping");
    assert!(has(&stopping, "problems", "it is stopping"), "{stopping:#}");
    kill(pid, Signal::SIGCONT).unwrap();
    daemon.wait().expect(0);
}
