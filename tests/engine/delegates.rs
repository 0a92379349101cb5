//! External delegates and falling back, with the real binary and a plugin of our own.

use std::collections::BTreeMap;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::plugin::test_delegate;
use edgewatt_support::root;
use edgewatt_support::wire::{Wire, correct, json_file};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The demo by the plugin with these options, falling back to those named; `keys` go into the delegate's table.
fn npu(port: u16, options: &str, keys: &str, fallback: &str) -> Setup {
    let table = format!(
        "[delegates.npu]\nexternal = {{ library = \"{}\", options = {{ {options} }} }}\n{keys}\n\n\
         [pipelines.shoulder]\nfallback = [{fallback}]",
        test_delegate().display()
    );
    Setup::demo(port)
        .at_speed("\"max\"")
        .with("\n[pipelines.shoulder]", &format!("\n{table}"))
        .with("delegate = \"xnnpack\" ", "delegate = \"npu\" ")
}

fn setup(port: u16, mode: &str, fallback: &str) -> Setup {
    npu(port, &format!("mode = \"{mode}\", at = \"create\""), "", fallback)
}

/// Takes what the plugin computes fastest in a debug build.
const FAST: &str = "operators = \"FULLY_CONNECTED,SOFTMAX\"";

/// Runs the recording once; what was published.
fn once(make: impl Fn(u16) -> Setup) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = make(broker.port).run_once();
    let lines = subscriber.until(|line| line == "edgewatt/demo/status offline");
    (ended, Wire::new(lines))
}

fn run(mode: &str, fallback: &str) -> (Ended, Wire) {
    let (ended, wire) = once(|port| setup(port, mode, fallback));
    (ended.expect(0), wire)
}

/// Score and label of each prediction, by the time of its window.
fn answers(wire: &Wire) -> BTreeMap<String, String> {
    let answer = |p: &Value| (p["stream_s"].to_string(), format!("{} {}", p["raw_label"], p["score"]));
    wire.predictions().iter().map(answer).collect()
}

fn events(wire: &Wire, kind: &str) -> Vec<String> {
    let events = wire.json("/event").into_iter().filter(|event| event["event"] == kind);
    events.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_delegate_that_claims_nothing_leaves_all_to_the_cpu() {
    let (_, wire) = run("nothing", "");
    let card = json_file(&root().join("models/metrics.json"));
    let expected = &card["recording"]["int8"]["builtin_kernels"]["correct"];
    assert_eq!(correct(&wire.predictions(), "raw_label"), *expected);
    let metrics = wire.metrics();
    let delegate = &metrics["delegate"];
    assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"npu".into()));
    assert_eq!((&delegate["nodes_total"], &delegate["nodes_delegated"]), (&9.into(), &0.into()));
    assert!(delegate["warnings"][0].as_str().is_some_and(|w| w.contains("runs no node")), "{delegate}");
}

#[test]
fn the_first_fallback_that_works_runs_and_everybody_is_told_why() {
    for (mode, reason) in [("refuse", "declines to start"), ("abort", "SIGABRT")] {
        let (ended, wire) = run(mode, "\"xnnpack\", \"cpu\"");
        let told = |delegate: &Value| {
            assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"xnnpack".into()), "{mode}");
            assert!(delegate["reason"].as_str().is_some_and(|r| r.contains(reason)), "{mode}: {delegate}");
        };
        told(&wire.metrics()["delegate"]);
        told(&wire.json("shoulder/status")[0]["delegate"]);
        told(&wire.json("/info")[0]["pipelines"]["shoulder"]["delegate"]);
        let event = &wire.json("/event")[0];
        assert_eq!(event["event"], "fallback");
        ended.says(&["another delegate runs than was asked for", reason]);
        assert_eq!(wire.predictions().len(), 491);
    }
}

#[test]
fn without_a_fallback_a_delegate_that_fails_is_refused() {
    for (mode, reason) in [("refuse", "declines to start"), ("abort", "SIGABRT")] {
        setup(1, mode, "").check().expect(78).says(&["pipelines.shoulder", reason]);
        // Its device may come late: systemd starts the daemon again, unlike one that is configured wrongly.
        setup(1, mode, "").run_once().expect(75).says(&["pipelines.shoulder", reason]);
    }
    setup(1, "refuse", "").with("hop = 50", "hop = 0").run_once().expect(78);
    // Every delegate that was tried has its reason.
    let twice = setup(1, "refuse", "\"other\"").with(
        "[delegates.npu]",
        "[delegates.other]\nexternal = { library = \"/nowhere/libnpu.so\" }\n\n[delegates.npu]",
    );
    twice.check().expect(78).says(&["npu: ", "declines to start", "other: ", "/nowhere/libnpu.so"]);
}

/// More than 2,000 windows, decided on one by one.
fn two_thousand(setup: Setup) -> Setup {
    setup.with("hop = 50", "hop = 12").with("smooth = 3", "smooth = 1")
}

#[test]
fn a_delegate_that_dies_or_hangs_again_and_again_costs_its_windows_and_gives_way() {
    let (reference, wire) =
        once(|port| two_thousand(Setup::demo(port).at_speed("\"max\"")).with("\"xnnpack\" ", "\"cpu\" "));
    let windows = reference.expect(0).summary(" windows");
    assert!(windows > 2000, "{windows}");
    let expected = answers(&wire);

    for (mode, reason) in [
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("hang", "did not answer"),
        ("exit", "code 7"),
        ("slow", "did not answer"),
    ] {
        let options = format!("{FAST}, mode = \"{mode}\", every = \"50\", slow_ms = \"500\"");
        let keys = "deadline_ms = 200\nrestarts = { max = 3, per_s = 600 }";
        let (ended, wire) = once(|port| two_thousand(npu(port, &options, keys, "\"cpu\"")));
        // Lost windows are drops, and a run with drops is not complete.
        let ended = ended.expect(1);
        let found = answers(&wire);
        assert!(found.iter().all(|(time, answer)| expected[time] == *answer), "{mode}: a wrong answer was published");
        let lost = wire.metrics()["counts"]["drops"]["inference_failed"].as_u64().unwrap();
        assert_eq!(lost, 4, "{mode}: one window for each failure, three restarts and the end of patience");
        assert_eq!(found.len() as u64 + lost, windows, "{mode}");
        assert_eq!(wire.seqs(), Vec::from_iter(0..windows - lost), "{mode}");

        let failures = events(&wire, "engine_failed");
        assert!(failures.len() == 4 && failures.iter().all(|f| f.contains(reason)), "{mode}: {failures:?}");
        let recovered = events(&wire, "recovered");
        assert_eq!(recovered.len(), 4, "{mode}");
        // The first is without a pause.
        println!("{mode}: {}", recovered[0]);
        let delegate = wire.metrics()["delegate"].clone();
        assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"cpu".into()), "{mode}");
        assert!(delegate["reason"].as_str().is_some_and(|r| r.contains("failed 4 times")), "{mode}: {delegate}");
        assert_eq!(wire.json("/info").pop().unwrap()["pipelines"]["shoulder"]["delegate"]["active"], "cpu", "{mode}");
        ended.says(&[reason, "another delegate runs than was asked for"]);
    }
}

#[test]
fn without_a_fallback_the_pipeline_fails_when_its_delegate_has_failed_too_often() {
    let options = format!("{FAST}, mode = \"abort\", every = \"50\"");
    let (ended, wire) = once(|port| npu(port, &options, "restarts = { max = 1, per_s = 600 }", ""));
    ended.expect(1).says(&["npu: ", "SIGABRT", "failed 2 times"]);
    let status = wire.json("shoulder/status").pop().unwrap();
    assert_eq!(status["state"], "failed", "{status}");
}

#[test]
fn a_delegate_that_eats_its_memory_is_ended_by_its_own_limit() {
    let options = format!("{FAST}, mode = \"leak\", leak_mib = \"64\"");
    let keys = "memory_mib = 1024\nrestarts = { max = 0, per_s = 600 }";
    let (ended, wire) = once(|port| npu(port, &options, keys, "\"xnnpack\""));
    ended.says(&["memory"]);
    assert_eq!(wire.metrics()["delegate"]["active"], "xnnpack");
}

#[test]
fn wrong_answers_reach_no_topic() {
    // At the start.
    let wrong = format!("{FAST}, mode = \"wrong\"");
    npu(1, &wrong, "", "")
        .check()
        .expect(78)
        .says(&["pipelines.shoulder.delegate", "outputs differ from the reference"]);
    let (ended, wire) = once(|port| npu(port, &wrong, "", "\"cpu\""));
    ended.expect(0);
    assert_eq!(wire.metrics()["delegate"]["active"], "cpu");
    let card = json_file(&root().join("models/metrics.json"));
    assert_eq!(correct(&wire.predictions(), "raw_label"), card["recording"]["int8"]["builtin_kernels"]["correct"]);
}

#[test]
fn a_delegate_that_answers_wrongly_after_a_restart_does_not_take_over() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let lives = tempfile::tempdir().unwrap();
    let path = lives.path().join("lives");
    // The first process answers rightly, those after it do not.
    let options = format!("{FAST}, mode = \"wrong\", lives = \"{}\", from_process = \"2\"", path.display());
    let setup = npu(broker.port, &options, "", "\"cpu\"").with("speed = \"max\" ", "speed = 20.0 ");
    let mut daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("\"seq\":20,"));
    let processes = std::fs::read_to_string(path.with_extension("processes")).unwrap();
    let pid = processes.lines().last().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let lines = subscriber.until(|line| line.contains("\"event\":\"recovered\""));
    daemon.in_log("the refusal", |log| log.contains("outputs differ from the reference").then_some(()));
    subscriber.until(|line| line.contains("/prediction "));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let wire = Wire::new(lines);
    assert!(events(&wire, "engine_failed")[0].contains("SIGKILL"));
    let refused = events(&wire, "parity_refused");
    assert!(refused[0].contains("is allowed") && refused[0].contains("% is wanted"), "{refused:?}");
    assert!(events(&wire, "recovered")[0].starts_with("cpu runs"));
}

/// The three mistakes that users of an Edge TPU make, each with its mend; the library is a stand-in by its name.
#[test]
fn an_edge_tpu_that_cannot_work_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libedgetpu.so.1");
    std::fs::copy(test_delegate(), &library).unwrap();
    let tpu = |mode: &str| {
        let plugin = test_delegate().display().to_string();
        npu(1, &format!("mode = \"{mode}\""), "", "").with(&plugin, &library.display().to_string())
    };
    let compiled = root().join("tests/models/edge_tpu.tflite");
    for delegate in ["cpu", "xnnpack"] {
        let command = edgewatt(&["inspect", &compiled.display().to_string(), "--delegate", delegate]);
        Daemon::start(command).wait().expect(1).says(&["it was compiled for the Edge TPU", "libedgetpu.so.1"]);
    }
    tpu("refuse").check().expect(78).says(&["it finds no Edge TPU that it may open", "lsusb", "docs/delegates.md"]);
    let plain = tpu("nothing").check().expect(0);
    assert!(plain.stdout.contains("warning: this model was not compiled for the Edge TPU"), "{}", plain.stdout);
    assert!(plain.stdout.contains("edgetpu_compiler"), "{}", plain.stdout);
    std::fs::remove_file(&library).unwrap();
    tpu("nothing").check().expect(78).says(&["libedgetpu.so.1", "there is no such library", "libedgetpu1-std"]);
}

/// A stream whose first windows come later must not hide it until then.
#[test]
fn a_library_that_cannot_be_loaded_is_refused_at_once_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libnpu.so");
    let live = || {
        let recording = root().join("models/shoulder_recording.csv");
        let replay =
            format!("[pipelines.shoulder.source.replay]\npath = \"{}\"\nspeed = \"max\" ", recording.display());
        setup(1, "nothing", "")
            .with(&test_delegate().display().to_string(), &library.display().to_string())
            .with(&replay, "[pipelines.shoulder.source.lines]\nfrom = \"stdin\" ")
            .with("source.replay.records]", "source.lines.records]")
    };
    live().check().expect(78).says(&["libnpu.so", "there is no such library", "docs/delegates.md"]);
    std::fs::write(&library, "a text").unwrap();
    live().check().expect(78).says(&["libnpu.so cannot be used: it is a text file, not a library"]);
    let mut cut = std::fs::read(test_delegate()).unwrap();
    cut.truncate(cut.len() / 2);
    std::fs::write(&library, &cut).unwrap();
    live().check().expect(78).says(&["the file is cut off"]);
    std::fs::copy(test_delegate(), &library).unwrap();
    live().check().expect(0);
}
