//! The example "machine anomaly": its threshold is learnt, the alarm comes with the fault, and its pages say so.

use std::process::Command;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::wire::{Wire, json_file};
use serde_json::Value;

/// Numbers of the page and of the card may differ by this much: another processor sums in another order.
const TOLERANCE: f64 = 0.02;

/// A configuration of the example with its recordings next to it.
fn setup(name: &str) -> Setup {
    let folder = root().join("examples/machine-anomaly");
    let setup = Setup::of(&folder.join(name));
    for recording in ["normal.wav", "recording.csv"] {
        std::fs::copy(folder.join(recording), setup.dir.path().join(recording)).unwrap();
    }
    setup
}

/// The configuration for the recording; messages go to that port.
fn recording(port: u16) -> Setup {
    let models = format!("{}/", root().join("models").display());
    setup("recording.toml").with("../../models/", &models).with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{port}"))
}

/// Learns the threshold as the page does: in the folder of the configuration.
fn learn(setup: &Setup) -> Ended {
    let config = setup.config();
    let mut command = edgewatt(&["learn", "-c"]);
    command.arg(config.file_name().unwrap()).args(["--recording", "normal.wav", "--quantile", "1"]);
    command.current_dir(setup.dir.path());
    Daemon::start(command).wait().expect(0)
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/examples/machine-anomaly.md")).unwrap()
}

fn metrics() -> Value {
    json_file(&root().join("models/machine/metrics.json"))
}

/// Whether two lines are the same but for small differences of numbers.
fn is_like(line: &str, other: &str) -> bool {
    let (words, others): (Vec<_>, Vec<_>) = (line.split_whitespace().collect(), other.split_whitespace().collect());
    let number = |word: &str| word.trim_end_matches([',', ';', ':']).parse::<f64>().ok();
    let is_near = |(word, other): (&&str, &&str)| {
        word == other || number(word).zip(number(other)).is_some_and(|(a, b)| (a - b).abs() <= TOLERANCE)
    };
    words.len() == others.len() && words.iter().zip(&others).all(is_near)
}

#[track_caller]
fn page_has(line: &str) {
    let page = page();
    assert!(page.lines().any(|other| is_like(line, other)), "the page does not have `{line}`");
}

#[test]
fn the_alarm_of_the_machine_comes_with_the_fault_and_not_before() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = recording(broker.port);
    setup.check().expect(78).says(&["`edgewatt learn` makes this file"]);
    let learnt = learn(&setup);
    learnt.stdout.lines().for_each(page_has);
    let golden = json_file(&root().join("models/machine/golden.json"));
    let sha256 = &json_file(&setup.dir.path().join("threshold.json"))["model_sha256"];
    assert_eq!(golden["models"]["machine_ae_int8.tflite"]["sha256"], *sha256, "golden.json is of another model");
    let ended = setup.run_once().expect(0);
    page_has(ended.stdout.lines().find(|line| line.contains("agrees with")).unwrap());
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/pump-room/status offline"));

    let example = &metrics()["example"];
    let predictions = wire.predictions();
    assert_eq!(example["windows"], predictions.len());
    let end_s = |place: usize| (place * 512 + 1024) as f64 / 800.0;
    let onset_s = example["onset_s"].as_f64().unwrap();
    let first = predictions.iter().position(|p| p["label"] == "anomaly").unwrap();
    assert!(end_s(first) > onset_s, "an alarm in window {first}, before the fault");
    assert!(end_s(first) <= onset_s + 3.0, "no alarm before window {first}");
    assert_eq!(example["first_alarm_window"], first);
    // It goes on to the end, and is told once.
    for (place, prediction) in predictions.iter().enumerate() {
        let label = if place < first { "normal" } else { "anomaly" };
        assert_eq!(prediction["label"], label, "window {place}");
        assert_eq!(prediction["changed"] == true, place == first, "window {place}");
    }
    let highest = |part: &[Value]| part.iter().map(|p| p["score"].as_f64().unwrap()).fold(0.0, f64::max);
    let before: Vec<Value> =
        predictions.iter().enumerate().filter(|(place, _)| end_s(*place) <= onset_s).map(|(_, p)| p.clone()).collect();
    for (found, key) in [(highest(&before), "highest_before"), (highest(&predictions), "highest")] {
        let expected = example[key].as_f64().unwrap();
        assert!((found - expected).abs() <= TOLERANCE * expected, "{key}: {found}, and {expected} in metrics.json");
    }
}

#[test]
fn the_recording_changes_where_its_truth_says() {
    let text = std::fs::read_to_string(root().join("examples/machine-anomaly/recording.csv")).unwrap();
    assert!(text.len() < 500_000);
    let onset_s = metrics()["example"]["onset_s"].as_f64().unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    for row in &rows {
        let is_fault = row[0].parse::<f64>().unwrap() >= onset_s;
        assert_eq!(row[4], if is_fault { "anomaly" } else { "normal" });
    }
    // The rms of the vertical axis, in counts, without gravity.
    let rms = |state: &str| {
        let values = rows.iter().filter(|row| row[4] == state).map(|row| row[2].parse::<f64>().unwrap());
        let values: Vec<f64> = values.collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!(rms("anomaly") > 1.1 * rms("normal"), "{} and {}", rms("anomaly"), rms("normal"));
}

#[test]
fn the_device_learns_and_checks() {
    let model = root().join("models/machine/machine_ae_int8.tflite").display().to_string();
    let setup = setup("device.toml").with("own/machine_ae_int8.tflite", &model);
    learn(&setup);
    let ended = setup.check().expect(0);
    assert!(ended.stdout.contains("source.spi [3] -> window [1024, 3]"), "{}", ended.stdout);
    // The threshold of the recording counts for the device: both have the same features.
    let recording = recording(1);
    std::fs::copy(setup.dir.path().join("threshold.json"), recording.dir.path().join("threshold.json")).unwrap();
    recording.check().expect(0);
}

#[test]
fn the_model_card_is_what_its_numbers_give() {
    let folder = root().join("models/machine");
    let printed = Command::new("python3").arg(folder.join("report.py")).arg("--print").output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card == String::from_utf8(printed.stdout).unwrap(), "run models/machine/report.py");
    let metrics = metrics();
    for model in ["fp32", "int8"] {
        let of = |name: String| metrics["auc"][model][name].as_f64().unwrap();
        for kind in ["outer_race", "imbalance", "misalignment", "looseness"] {
            let by_severity: Vec<f64> = (1..=4).map(|number| of(format!("{kind}_{number}"))).collect();
            assert!(by_severity.is_sorted() && by_severity[2] > 0.99, "{model}, {kind}: {by_severity:?}");
        }
    }
    // The page shows where it is poor, with the figures of the card.
    let weakest = metrics["auc"]["int8"]["imbalance_1"].as_f64().unwrap();
    assert!(page().contains(&format!("AUC of {weakest:.2}")), "{weakest}");
}
