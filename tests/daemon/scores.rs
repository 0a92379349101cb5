//! What scores are taken for, and what is said of outputs and inputs that are not as they should be.
//!
//! The model `fixed_batch` gives its four values as they are, so that what stands in the recording is what it gives.

use std::fmt::Write;

use edgewatt_support::daemon::{Ended, Setup};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use serde_json::{Value, json};
use tempfile::TempDir;

const LABELS: &str = "a\nb\nc\nd\n";

/// A pipeline that takes each row of four values as a window of two samples.
pub(crate) fn setup(port: u16, model: &str, decision: &str, windows: &[[f32; 4]]) -> Setup {
    let text = format!(
        "node.id = \"demo\"\nmqtt.broker = \"mqtt://127.0.0.1:{port}\"\nmqtt.store.enabled = false\n\n[pipelines.p]\n\
         window = {{ samples = 2, hop = 2 }}\n{decision}\nmodel.path = \"{}\"\n\n[pipelines.p.source.replay]\n\
         path = \"recording.csv\"\nspeed = \"max\"\nrecords = {{ channels = [\"x\", \"y\"], rate_hz = 10.0 }}\n",
        root().join("tests/models").join(model).display()
    );
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("template.toml"), text).unwrap();
    let setup = Setup::of(&folder.path().join("template.toml"));
    let mut recording = "x,y\n".to_owned();
    for [a, b, c, d] in windows {
        writeln!(recording, "{a},{b}\n{c},{d}").unwrap();
    }
    setup.write("recording.csv", recording.as_bytes());
    setup.write("labels.txt", LABELS.as_bytes());
    setup
}

fn classify(scores: &str) -> String {
    format!("model.labels = \"labels.txt\"\ndecision.classify = {{ threshold = 0.5{scores} }}\npublish.scores = true")
}

/// Runs it to the end. Returns how it ended, and what a subscriber received.
pub(crate) fn run(setup: impl Fn(u16) -> Setup) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = setup(broker.port).run_once().expect(0);
    (ended, Wire::new(subscriber.until(|line| line == "edgewatt/demo/status offline")))
}

fn last_counts(wire: &Wire) -> Value {
    wire.json("/p/p/metrics").last().unwrap()["counts"].clone()
}

#[test]
fn scores_that_the_operators_do_not_tell_are_asked_for_and_checked_against_the_recording() {
    let odd = [[0.94, 0.02, 0.03, 0.01]; 4];
    let model = |scores: &'static str| move |port| setup(port, "fixed_batch.tflite", &classify(scores), &odd);
    let checked = model("")(1).check().expect(0).stdout;
    for part in [
        "output 0 `y`: taken for logits, as its operators (RESHAPE) do not tell; a softmax makes probabilities",
        "write scores = \"probabilities\", \"logits\" or \"sigmoid\" in decision.classify",
        "warning: on windows of the recording: all values of output `y` have been 0 to 1 and have summed to 1",
    ] {
        assert!(checked.contains(part), "`{part}` is missing in:\n{checked}");
    }
    let (ended, wire) = run(model(""));
    ended.says(&["WARN", "degraded: all values of output `y` have been 0 to 1 and have summed to 1"]);
    assert!(ended.stdout.contains("windows with doubtful outputs: looks_normalised 2"), "{}", ended.stdout);
    let scores = wire.json("edgewatt/demo/info")[0]["pipelines"]["p"]["scores"].clone();
    assert_eq!(scores, json!({"output": 0, "meaning": "logits", "from": "assumed", "operators": "RESHAPE"}));
    assert_eq!(wire.json("/p/p/event").len() + wire.json("demo/event").len(), 1);

    let (ended, wire) = run(model(", scores = \"probabilities\""));
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    let prediction = &wire.json("/p/p/prediction")[0];
    assert_eq!((&prediction["label"], prediction["scores"]["a"].as_f64()), (&json!("a"), Some(0.94)));
}

#[test]
fn a_probability_outside_0_to_1_decides_nothing_and_is_said() {
    let windows = [[0.9, 0.0, 0.1, 0.0], [3.5, -1.0, 0.2, 0.1]];
    let scores = classify(", scores = \"probabilities\"");
    let (ended, wire) = run(|port| setup(port, "fixed_batch.tflite", &scores, &windows));
    ended.says(&["values of output `y` are not 0 to 1, but the configuration says that they are probabilities"]);
    let predictions = wire.json("/p/p/prediction");
    assert_eq!((&predictions[0]["label"], &predictions[1]["label"]), (&json!("a"), &Value::Null));
    assert_eq!((&predictions[1]["score"], &predictions[1]["raw_label"]), (&Value::Null, &Value::Null));
    assert_eq!(last_counts(&wire)["output_faults"]["not_a_probability"], 1);
    let reasons: Vec<Value> = wire.json("/p/p/status").iter().map(|status| status["reason"].clone()).collect();
    assert!(reasons.iter().any(|reason| reason.as_str().is_some_and(|r| r.contains("write scores"))), "{reasons:?}");
}

#[test]
fn what_is_no_number_is_null_in_every_kind_of_decision() {
    // The feature, 2^60, makes infinity of the large one.
    let small = (-60f32).exp2();
    let windows = [[small, 2.0 * small, 3.0 * small, 4.0 * small], [1e30, 0.0, 0.0, 0.0]];
    let features = "\nfeatures = [{ scale = { factor = [1152921504606846976.0] } }]";
    for (decision, field, first, second) in [
        (classify(", scores = \"logits\""), "raw_label", json!("d"), Value::Null),
        ("decision.threshold.above = 0.5".into(), "raw_label", json!("high"), Value::Null),
        (
            "decision.regress.names = [\"a\", \"b\", \"c\", \"d\"]".into(),
            "values",
            json!({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}),
            json!({"a": null, "b": 0.0, "c": 0.0, "d": 0.0}),
        ),
        ("decision.raw = {}".into(), "outputs", json!([[1.0, 2.0, 3.0, 4.0]]), json!([[null, 0.0, 0.0, 0.0]])),
    ] {
        let (ended, wire) = run(|port| setup(port, "fixed_batch.tflite", &(decision.clone() + features), &windows));
        ended.says(&["degraded: model: some windows give infinity instead of a number"]);
        let predictions = wire.json("/p/p/prediction");
        assert_eq!((&predictions[0][field], &predictions[1][field]), (&first, &second), "{decision}");
        assert_eq!(last_counts(&wire)["output_faults"]["infinite"], 1, "{decision}");
    }
}

#[test]
fn values_that_do_not_fit_into_a_quantised_input_are_counted_and_said() {
    // The input takes -64 to 63.5.
    let windows = [[981.0, 1.0, -981.0, 2.0], [0.0, 63.5, -64.0, 70.0]];
    let model = |port| setup(port, "uint8_input.tflite", "decision.raw = {}", &windows);
    let said = "input: 38 % of the values do not fit into the model's input `x`, which holds -64.0000 to 63.5000 as uint8; \
                they are -981.0000 to 981.0000";
    let checked = model(1).check().expect(0).stdout;
    assert!(checked.contains(&format!("warning: on windows of the recording: {said}")), "{checked}");
    let (ended, wire) = run(model);
    ended.says(&[said]);
    assert_eq!(last_counts(&wire)["input_saturated"], 3);
    let few = [[1.0, 2.0, 3.0, 4.0]; 2];
    let (ended, wire) = run(|port| setup(port, "uint8_input.tflite", "decision.raw = {}", &few));
    assert!(!ended.stderr.contains("WARN") && !ended.stdout.contains("did not fit"), "{}", ended.stderr);
    assert_eq!(last_counts(&wire)["input_saturated"], 0);
}

#[test]
fn check_gives_the_model_what_a_run_gives_it() {
    // The metadata asks for (x - 1000) / 2, and the input takes -64 to 63.5.
    let windows = [[1000.0, 1002.0, 1004.0, 1006.0]; 2];
    let decision = "decision.raw = { outputs = [0] }\nmodel.state = { state_in = \"state_out\" }";
    let model = |port| setup(port, "normalised_state.tflite", decision, &windows);
    let checked = model(1).check().expect(0).stdout;
    assert!(checked.contains("features.standardize") && !checked.contains("do not fit"), "{checked}");
    let (_, wire) = run(model);
    assert_eq!(wire.json("/p/p/prediction")[0]["outputs"], json!([[0.0, 1.0, 2.0, 3.0]]));
}
