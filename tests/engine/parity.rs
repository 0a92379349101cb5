//! A delegate that nobody has compared yet: it has to agree with the reference on windows of the stream first.

use edgewatt_support::daemon::Setup;
use edgewatt_support::rig::{Rig, XNNPACK, assert_nothing_lost, delegate, of, with_plugin};
use edgewatt_support::root;
use edgewatt_support::wire::{Wire, correct, json_file};

/// The demo by the plugin, in that mode.
fn by_plugin(setup: Setup, mode: &str, keys: &str) -> Setup {
    let setup = with_plugin(setup, "npu", &[("mode", mode)]).with(XNNPACK, &delegate("npu"));
    setup.with_keys("[pipelines.shoulder]", keys)
}

/// Which delegates the statuses name, and the states, each once in the order in which it was first said.
fn course(wire: &Wire) -> Vec<(String, String)> {
    let mut course = Vec::new();
    for status in of(wire, "shoulder").json("/status") {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let step = (text(&status["delegate"]["active"]), text(&status["state"]));
        if !course.contains(&step) {
            course.push(step);
        }
    }
    course
}

fn steps(steps: &[(&str, &str)]) -> Vec<(String, String)> {
    steps.iter().map(|(active, state)| (String::from(*active), String::from(*state))).collect()
}

#[test]
fn a_delegate_takes_over_when_it_agrees_on_windows_of_the_stream() {
    let (mut rig, feeder) = Rig::fed(|setup| by_plugin(setup, "ok", ""));
    let first = rig.info(&["\"active\":\"cpu\""]);
    let delegate = &first["pipelines"]["shoulder"]["delegate"];
    assert_eq!(delegate["requested"], "npu");
    assert_eq!(delegate["reason"], "npu: waits for 32 windows of the stream, to be compared with the reference first");
    let then = rig.info(&["\"active\":\"npu\""]);
    let delegate = &then["pipelines"]["shoulder"]["delegate"];
    assert_eq!((&delegate["reason"], &delegate["nodes_delegated"]), (&serde_json::Value::Null, &2.into()));
    assert_eq!((&delegate["parity"]["windows"], &delegate["parity"]["top1"]), (&32.into(), &1.0.into()));
    assert!(delegate["parity"]["difference"].as_f64().unwrap() <= 0.1, "{delegate}");
    let so_far = of(&rig.wire(), "shoulder").predictions().len();
    assert!(so_far >= 31, "after {so_far} predictions");
    rig.more_predictions("shoulder", 50);
    feeder.finish();
    let (_, wire) = rig.end(0);
    assert_nothing_lost(&wire, "shoulder");
    assert_eq!(course(&wire), steps(&[("cpu", "degraded"), ("npu", "running"), ("npu", "ended")]));
}

#[test]
fn one_that_answers_otherwise_is_refused_and_the_next_one_runs() {
    let (mut rig, feeder) = Rig::fed(|setup| by_plugin(setup, "wrong", "fallback = [\"xnnpack\"]"));
    let event = rig.event("parity_refused");
    let message = event["message"].as_str().unwrap();
    for part in ["npu: ", "over 32 windows", "(0.1 is allowed)", "(95.0 % is wanted)"] {
        assert!(message.contains(part), "`{part}` is not in {message}");
    }
    let info = rig.info(&["\"active\":\"xnnpack\""]);
    let reason = info["pipelines"]["shoulder"]["delegate"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("npu: its outputs differ from the reference's: over 32 windows"), "{reason}");
    rig.more_predictions("shoulder", 50);
    feeder.finish();
    let (_, wire) = rig.end(0);
    assert_nothing_lost(&wire, "shoulder");
    assert_eq!(course(&wire), steps(&[("cpu", "degraded"), ("xnnpack", "degraded"), ("xnnpack", "ended")]));
}

#[test]
fn without_another_one_the_pipeline_fails_and_says_why() {
    let (mut rig, feeder) = Rig::fed(|setup| by_plugin(setup, "wrong", ""));
    rig.event("parity_refused");
    let status = rig.state("p/shoulder/status", &["\"failed\""]);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("its outputs differ from the reference's: over 32 windows"), "{reason}");
    drop(feeder);
    let (ended, wire) = rig.end(1);
    ended.says(&["its outputs differ from the reference's"]);
    // Until then the reference has answered, window by window.
    let seqs = wire.seqs();
    assert_eq!(seqs, Vec::from_iter(0..seqs.len() as u64));
    assert!(seqs.len() >= 31);
}

#[test]
fn a_recording_is_compared_on_before_the_first_window_is_decided() {
    let card = json_file(&root().join("models/metrics.json"));
    let at_max = |setup: Setup, keys: &str| by_plugin(setup, "wrong", keys).at_speed("\"max\"");
    let rig = Rig::with_args(|setup| at_max(setup, "fallback = [\"xnnpack\"]"), &["--once"]);
    let (_, wire) = rig.end(0);
    assert_nothing_lost(&wire, "shoulder");
    assert_eq!(correct(&wire.predictions(), "raw_label"), card["recording"]["int8"]["correct"]);
    let ended = at_max(Setup::demo(1), "").check().expect(78);
    ended.says(&["pipelines.shoulder.delegate: ", "over 32 windows", "(0.1 is allowed)"]);
}
