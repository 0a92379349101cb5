//! Decisions on several labels, on agreement and on anomalies, and the learning of a threshold, by the real binary.
//!
//! The model `fixed_batch` gives its four values as they are; `autoencoder` knows 0 to 6 only.

use std::fmt::Write;

use edgewatt_support::daemon::{Daemon, Ended, Setup};
use edgewatt_support::wire::Wire;
use serde_json::{Value, json};

use crate::scores::{run, setup};

fn fields(wire: &Wire, names: &[&str]) -> Vec<Value> {
    let of = |message: &Value| names.iter().map(|name| message[name].clone()).collect::<Value>();
    wire.json("/p/p/prediction").iter().map(of).collect()
}

/// As [`setup`], with a time in the recording: a sample each 0.1 s, so a window each 0.2 s.
fn timed(port: u16, model: &str, decision: &str, windows: &[[f32; 4]]) -> Setup {
    let mut recording = "t,x,y\n".to_owned();
    for (place, [a, b, c, d]) in windows.iter().enumerate() {
        let (first, second) = (place as f64 * 0.2, place as f64 * 0.2 + 0.1);
        writeln!(recording, "{first:.1},{a},{b}\n{second:.1},{c},{d}").unwrap();
    }
    let setup = setup(port, model, decision, windows).with("records = { ", "records = { time = \"t\", ");
    setup.write("recording.csv", recording.as_bytes());
    setup
}

#[test]
fn several_labels_are_published_with_those_that_are_new() {
    let windows = [[0.75, 0.5, 0.25, 1.0], [0.25, 0.625, 0.75, 1.0], [0.0; 4]];
    let decision = "model.labels = \"labels.txt\"\ndecision.multi_label = { scores = \"probabilities\", deny = [\"d\"], \
                    thresholds = { b = 0.6 } }";
    let (_, wire) = run(|port| setup(port, "fixed_batch.tflite", decision, &windows));
    assert_eq!(
        fields(&wire, &["label", "score", "raw_label", "labels", "started", "changed"]),
        [
            json!(["a", 0.75, "a", { "a": 0.75 }, ["a"], true]),
            json!(["c", 0.75, "c", { "c": 0.75, "b": 0.625 }, ["c", "b"], true]),
            json!([null, 0.0, "a", {}, null, true]),
        ]
    );
    let wrong = decision.replace("\"d\"", "\"D\"");
    let refused = setup(1, "fixed_batch.tflite", &wrong, &windows).check().expect(78);
    refused.says(&["deny: `D` is not one of the model's 4 labels; did you mean `d`?"]);
}

#[test]
fn a_consensus_is_told_when_enough_windows_agree() {
    let (a, b) = ([0.9, 0.1, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0]);
    let windows = [a, b, a, a, a, b];
    let decision =
        "model.labels = \"labels.txt\"\ndecision.consensus = { scores = \"probabilities\", windows = 3, same = 2 }";
    let (_, wire) = run(|port| setup(port, "fixed_batch.tflite", decision, &windows));
    let told = fields(&wire, &["label", "changed"]);
    let (quiet, a) = (json!(["uncertain", null]), json!(["a", null]));
    assert_eq!(told, [quiet.clone(), quiet, json!(["a", true]), a.clone(), a.clone(), a]);
    let decision = decision.replace("windows = 3, same = 2", "windows = 1, same = 1, suppress_s = 0.5");
    let (_, wire) = run(|port| timed(port, "fixed_batch.tflite", &decision, &windows));
    let labels: Vec<Value> = fields(&wire, &["label"]).into_iter().map(|fields| fields[0].clone()).collect();
    assert_eq!(labels, ["a", "uncertain", "uncertain", "a", "uncertain", "uncertain"]);
}

const LEARNT: &str = "decision.anomaly = { threshold = { learnt = \"threshold.json\" }, min_above_s = 0.2 }";

fn pump(port: u16, decision: &str, windows: &[[f32; 4]]) -> Setup {
    timed(port, "autoencoder.tflite", decision, windows)
}

fn learn(setup: &Setup, recording: &str, args: &[&str]) -> Ended {
    let recording = setup.dir.path().join(recording);
    Daemon::start(setup.command("learn", &[&["--recording", recording.to_str().unwrap()], args].concat())).wait()
}

/// Normal windows with errors up to 0.25^2: one of four values is below 0, which the model does not know.
fn normal() -> Vec<[f32; 4]> {
    (0..=10).map(|i| [1.0, 2.03, 6.0, -0.05 * i as f32]).collect()
}

#[test]
fn a_threshold_is_learnt_from_a_recording_and_counts_for_the_same_features_only() {
    let at_first = pump(1, LEARNT, &normal());
    at_first
        .check()
        .expect(78)
        .says(&["threshold.json: No such file or directory", "`edgewatt learn` makes this file"]);
    let ended = learn(&at_first, "recording.csv", &["--quantile", "1"]).expect(0);
    for part in
        ["11 windows have a score", "  lowest   0\n", "  highest  0.0625", "threshold 0.0625, the quantile 1: 2 of"]
    {
        assert!(ended.stdout.contains(part), "`{part}` is missing in:\n{}", ended.stdout);
    }
    let text = std::fs::read(at_first.dir.path().join("threshold.json")).unwrap();
    let learnt: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&learnt["v"], &learnt["threshold"], &learnt["windows"]), (&json!(1), &json!(0.0625), &json!(11)));
    at_first.check().expect(0);
    let gated = pump(1, &format!("{LEARNT}\ngate.level = {{ threshold = 1e6, block_s = 0.2 }}"), &normal());
    learn(&gated, "recording.csv", &[]).expect(1).says(&["the gate skips all of its 11 windows"]);

    // The error of -2 is 1: after 0.2 s there is an alarm, and it ends with the first normal window.
    let (good, bad) = ([1.0, 2.03, 6.0, 0.0], [1.0, 2.03, 6.0, -2.0]);
    let windows = [good, bad, good, bad, bad, bad, good];
    for batch in ["", "\nbatch = { max = 4, wait_ms = 1000.0 }"] {
        let (_, wire) = run(|port| {
            let setup = pump(port, &(LEARNT.to_owned() + batch), &windows);
            setup.write("threshold.json", &text);
            setup
        });
        let told = fields(&wire, &["label", "raw_label", "score", "changed", "threshold"]);
        let [normal, above, alarm, alarm_goes_on, end] = [
            json!(["normal", "normal", 0.0, null, 0.0625]),
            json!(["normal", "anomaly", 1.0, null, 0.0625]),
            json!(["anomaly", "anomaly", 1.0, true, 0.0625]),
            json!(["anomaly", "anomaly", 1.0, null, 0.0625]),
            json!(["normal", "normal", 0.0, true, 0.0625]),
        ];
        assert_eq!(told, [normal.clone(), above.clone(), normal, above, alarm, alarm_goes_on, end], "{batch}");
    }

    let other = pump(1, &format!("{LEARNT}\nfeatures = [{{ scale = {{ factor = [2.0] }} }}]"), &windows);
    other.write("threshold.json", &text);
    other
        .check()
        .expect(78)
        .says(&["it was learnt with other channels, front ends, features or windows; run `edgewatt learn`"]);
    let other = pump(1, &LEARNT.replace("min_above_s = 0.2", "smooth = 2"), &windows);
    other.write("threshold.json", &text);
    other.check().expect(78).says(&["it was learnt with other keys of the decision"]);
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    let fixed = pump(1, "decision.anomaly = { threshold = 0.5 }", &normal());
    learn(&fixed, "recording.csv", &[])
        .expect(1)
        .says(&["pipelines.p.decision: nothing is learnt; write threshold = { learnt ="]);
    let setup = pump(1, LEARNT, &normal());
    learn(&setup, "recording.csv", &["--pipeline", "q"])
        .expect(2)
        .says(&["there is no pipeline q; the pipelines are p"]);
    learn(&setup, "recording.csv", &["--quantile", "0.2"]).expect(2).says(&["it must be from 0.5 to 1"]);
    let few = learn(&setup, "recording.csv", &[]).expect(0).stdout;
    assert!(
        few.contains("warning: 11 windows are few for the quantile 0.999") && few.contains("at least 10000"),
        "{few}"
    );
    setup.write("short.csv", b"t,x,y\n0,1,2\n");
    learn(&setup, "short.csv", &[]).expect(1).says(&["has no whole window"]);
}
