//! Windows that go through the model together: the same answers in the same order, and every figure a window's own.

use std::fs;
use std::io::Write;

use edgewatt_support::daemon::Setup;
use edgewatt_support::rig::{REPLAY, Rig, assert_nothing_lost, even_recording, open_fifo, paced};
use edgewatt_support::root;
use edgewatt_support::wire::{Wire, json_file};
use nix::sys::stat::Mode;
use serde_json::Value;

fn with_batch(setup: Setup, batch: &str) -> Setup {
    setup.with_keys("[pipelines.shoulder]", &format!("batch = {{ {batch} }}"))
}

/// The whole recording, gaps and all, with that batch or none.
fn run_once(batch: Option<&str>) -> Wire {
    let rig = Rig::with_args(
        |setup| {
            let setup = setup
                .at_speed("\"max\"")
                .with_keys("[power.meters.guess]", "")
                .with("[power.meters.guess]", "[power]\nsample_ms = 10\n\n[power.meters.guess]");
            let setup = setup.with("[pipelines.shoulder]\n", "[pipelines.shoulder]\npublish = { scores = true }\n");
            match batch {
                Some(batch) => with_batch(setup, batch),
                None => setup,
            }
        },
        &["--once"],
    );
    rig.end(0).1
}

/// How many predictions in a row each invocation gave, told by the time that it took.
fn batches(predictions: &[Value]) -> Vec<usize> {
    predictions.chunk_by(|a, b| a["invoke_us"] == b["invoke_us"]).map(<[Value]>::len).collect()
}

#[test]
fn a_batch_decides_as_its_windows_would_one_at_a_time() {
    let card = json_file(&root().join("models/metrics.json"));
    let windows = card["recording"]["windows"].as_u64().unwrap();
    let single = run_once(None).predictions();
    assert_eq!(single.len() as u64, windows);
    // A label of the smoothed scores, and every score of every class.
    let told = |p: &Value| ["seq", "label", "raw_label", "truth", "stream_s"].map(|key| p[key].clone());
    let scores =
        |p: &Value| -> Vec<f64> { p["scores"].as_object().unwrap().values().map(|s| s.as_f64().unwrap()).collect() };
    for batch in ["max = 8", "max = 8, wait_ms = 200.0", "max = 7, wait_ms = 5.0", "max = 100, wait_ms = 1000.0"] {
        let wire = run_once(Some(batch));
        assert_nothing_lost(&wire, "shoulder");
        let predictions = wire.predictions();
        assert_eq!(predictions.len(), single.len(), "{batch}");
        for (ours, alone) in predictions.iter().zip(&single) {
            assert_eq!(told(ours), told(alone), "{batch}");
            let off = scores(ours).iter().zip(scores(alone)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-5, "{batch}: {ours} {alone}");
        }
        let counts = &wire.metrics()["counts"];
        assert_eq!((&counts["windows"], &counts["predictions"]), (&windows.into(), &windows.into()));
        let gaps = counts["gaps"].as_object().unwrap().values().map(|gaps| gaps.as_u64().unwrap()).sum::<u64>();
        assert!(gaps > 10, "{counts}");
        let invokes: Vec<Value> = wire.json("/metrics").iter().map(|m| m["latency_us"]["invoke"].clone()).collect();
        assert!(invokes.iter().any(|invoke| invoke["p50"].as_f64().is_some_and(|us| us > 0.0)), "{invokes:?}");
        let batches = batches(&predictions);
        let max: usize = batch.split([' ', ',']).nth(2).unwrap().parse().unwrap();
        // Two in a row may take as long as each other, to the nanosecond, and then look like one.
        let too_large = batches.iter().filter(|windows| **windows > max).count();
        assert!(10 * too_large <= batches.len() && batches.iter().any(|n| *n > 1), "{batch}: {batches:?}");
    }
}

/// Not of an invocation, which gave many.
#[test]
fn energy_is_that_of_a_window() {
    let (mut rig, feeder) = Rig::fed(|setup| with_batch(setup, "max = 8, wait_ms = 150.0"));
    rig.more_predictions("shoulder", 200);
    feeder.finish();
    let (_, wire) = rig.end(0);
    assert_nothing_lost(&wire, "shoulder");
    let invocations = batches(&wire.predictions());
    let windows: usize = invocations.iter().sum();
    assert!(invocations.len() * 2 < windows, "{invocations:?}");
    let figures: Vec<Value> = wire.json("/metrics").iter().map(|m| m["energy"][0].clone()).collect();
    let closed = figures.iter().filter(|figure| figure["closed"] == true);
    let counted = closed.filter_map(|figure| figure["inferences"].as_f64()).sum::<f64>().round();
    // The last windows are not in a figure yet.
    assert!(counted as usize > windows / 2 && counted as usize <= windows, "{counted} of {windows}: {figures:?}");
}

#[test]
fn the_first_window_of_a_batch_waits_no_longer_than_it_may() {
    const WAIT_MS: u64 = 300;
    let fifo = |setup: &Setup| setup.dir.path().join("samples");
    let mut rig = Rig::start(|setup| {
        let demo = root().join("models/shoulder_recording.csv");
        nix::unistd::mkfifo(&fifo(&setup), Mode::S_IRWXU).unwrap();
        let lines = format!("[pipelines.shoulder.source.lines]\nfrom = {{ fifo = \"{}\" }} ", fifo(&setup).display());
        with_batch(setup, &format!("max = 8, wait_ms = {WAIT_MS}.0"))
            .with(&format!("{REPLAY}\npath = \"{}\"\nspeed = 1.0 ", demo.display()), &lines)
            .with("source.replay.", "source.lines.")
    });
    // Held open: what waits is not woken by the end of the stream.
    let mut writer = open_fifo(&fifo(&rig.setup));
    writer.write_all(even_recording(350, 0.0).as_bytes()).unwrap();
    rig.more_predictions("shoulder", 4);
    let predictions = rig.wire().predictions();
    assert_eq!(batches(&predictions), [4]);
    for prediction in &predictions {
        assert!(prediction["latency_us"].as_f64().unwrap() >= WAIT_MS as f64 * 1e3, "{prediction}");
    }
    // A stop does not wait, nor lose what waits.
    let more: String = even_recording(450, 0.0).lines().skip(351).map(|line| format!("{line}\n")).collect();
    writer.write_all(more.as_bytes()).unwrap();
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
}

#[test]
fn a_running_pipeline_takes_to_batches_and_back() {
    let mut rig = Rig::start(paced);
    rig.more_predictions("shoulder", 20);
    let (one, eight) = ("\n[pipelines.shoulder]\n", "\n[pipelines.shoulder]\nbatch = { max = 8, wait_ms = 100.0 }\n");
    let mut rig = rig.edit(one, eight);
    rig.reloaded(": shoulder changed");
    assert_eq!(rig.info(&["[8,200,1,6]"])["pipelines"]["shoulder"]["outputs"][0]["shape"], serde_json::json!([8, 7]));
    rig.more_predictions("shoulder", 50);
    let mut rig = rig.edit(eight, one);
    rig.reloaded(": shoulder changed");
    rig.more_predictions("shoulder", 20);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    let batches = batches(&wire.predictions());
    // Two invocations may take the same time by chance.
    assert!(batches.contains(&8) && batches[..20].iter().all(|windows| *windows <= 2), "{batches:?}");
}

/// A pipeline on another model, whose windows are all of a sample's `channels` that often.
fn on_model(model: &str, samples: usize, channels: usize, batch: &str) -> Setup {
    let names: Vec<String> = (0..channels).map(|channel| format!("\"c{channel}\"")).collect();
    let columns = names.join(",").replace('"', "");
    let setup = Setup::demo(1);
    let rows: String = (0..samples).map(|i| format!("{}{}\n", i as f64 / 50.0, ",0".repeat(channels))).collect();
    let setup = setup.recording(format!("time_s,{columns}\n{rows}").as_bytes());
    let standardize = fs::read_to_string(root().join("config/demo.toml")).unwrap();
    let standardize = standardize.lines().find(|line| line.starts_with("standardize")).unwrap().to_owned();
    let demo = root().join("models/shoulder_int8.tflite");
    let labels = root().join("models/labels.txt");
    with_batch(setup, batch)
        .with(demo.to_str().unwrap(), root().join(model).to_str().unwrap())
        .with(&format!("labels = \"{}\"", labels.display()), "")
        .with("decision.classify = { smooth = 3 }", "decision.raw = {}")
        .with("samples = 200, hop = 50", &format!("samples = {samples}, hop = {samples}"))
        .with(&format!("[[pipelines.shoulder.features]]\n{standardize}"), "")
        .with("truth = \"exercise\"", "")
        .with("\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"", &names.join(", "))
}

#[test]
fn a_model_that_takes_no_batch_is_refused_with_the_reason() {
    let fixed = |batch| on_model("tests/models/fixed_batch.tflite", 2, 2, batch).check();
    fixed("max = 1").expect(0);
    fixed("max = 8").expect(78).says(&["edgewatt.toml:", "does not take batches of 8, an input of [8, 2, 2]"]);
    for name in ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"] {
        let stateful = |batch| on_model(&format!("runtime/models/{name}.tflite"), 3, 40, batch).check();
        stateful("max = 1").expect(0);
        stateful("max = 2").expect(78).says(&[
            "edgewatt.toml:",
            "pipelines.shoulder.batch: ",
            "keeps state from one window to the next",
        ]);
    }
}
