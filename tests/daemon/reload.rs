//! Editing the configuration of a daemon that runs: what changes, what stays, and that no window is lost over it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;

use edgewatt_support::rig::{
    BY_CPU, BY_XNNPACK, REPLAY, Rig, XNNPACK, assert_nothing_lost, assert_undisturbed, delegate, even_recording, of,
    open_fifo, paced, replay, second, windows, with_plugin,
};
use edgewatt_support::wire::json_file;
use edgewatt_support::{root, runtime_library};
use nix::sys::stat::Mode;
use serde_json::Value;

#[test]
fn one_line_switches_the_delegate_and_no_window_is_lost() {
    let mut rig = Rig::start(|setup| with_plugin(paced(setup), "npu", &[]));
    rig.more_predictions("shoulder", 20);
    let mut rig = rig.edit(XNNPACK, &delegate("npu"));
    rig.reloaded(": shoulder changed");
    let info = rig.info(&["\"active\":\"npu\""]);
    let told = |delegate: &Value| {
        assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"npu".into()));
        assert_eq!((&delegate["nodes_total"], &delegate["nodes_delegated"]), (&9.into(), &2.into()), "{delegate}");
        assert_eq!((&delegate["partitions"], &delegate["on_cpu"]["CONV_2D"]), (&1.into(), &5.into()), "{delegate}");
        assert_eq!(delegate["parity"]["windows"], 32, "{delegate}");
    };
    told(&info["pipelines"]["shoulder"]["delegate"]);
    rig.more_predictions("shoulder", 100);
    let retained = rig.retained();
    told(&retained.json("/info")[0]["pipelines"]["shoulder"]["delegate"]);
    let status = &retained.json("shoulder/status")[0];
    assert_eq!(status["state"], "running");
    told(&status["delegate"]);
    let (_, wire) = rig.stop();
    told(&wire.metrics()["delegate"]);
    assert_nothing_lost(&wire, "shoulder");
    // The plugin rounds as the reference kernels do: one place where the answers turn from XNNPACK's to the CPU's.
    let all = windows(&wire);
    let is = |run: &[(Value, Value)], index: usize| all[index] == run[index % run.len()];
    let turn = (0..all.len()).find(|index| !is(&BY_XNNPACK, *index)).unwrap_or(all.len());
    let back = (0..all.len()).rev().find(|index| !is(&BY_CPU, *index)).map_or(0, |last| last + 1);
    assert!(back <= turn, "from {turn} on they are not XNNPACK's and up to {back} not the CPU's");
    assert!(all.len() > 120);
}

#[test]
fn a_delegate_that_does_not_work_leaves_the_old_one_at_work_and_says_where() {
    let mut rig = Rig::start(|setup| {
        let setup = with_plugin(paced(setup), "refuses", &[("mode", "refuse")]);
        let setup = with_plugin(setup, "aborts", &[("mode", "abort"), ("at", "create")]);
        let setup = with_plugin(setup, "lies", &[("mode", "wrong")]);
        setup.with(
            "[delegates.lies]",
            "[delegates.absent]\nexternal = { library = \"/nowhere/libnpu.so\" }\n\n[delegates.lies]",
        )
    });
    rig.more_predictions("shoulder", 5);
    let mut old = XNNPACK.to_owned();
    for (name, reasons) in [
        ("refuses", &["declines to start"][..]),
        ("aborts", &["SIGABRT"]),
        ("absent", &["/nowhere/libnpu.so"]),
        ("lies", &["outputs differ from the reference's: over 32 windows", "(0.1 is allowed)", "(95.0 % is wanted)"]),
        ("misspelt", &["misspelt"]),
    ] {
        let new = delegate(name);
        rig = rig.edit(&old, &new);
        let position = format!("edgewatt.toml:{}:", rig.line_of(new.trim()));
        let parts: Vec<&str> =
            [position.as_str(), "pipelines.shoulder.delegate"].iter().chain(reasons).copied().collect();
        rig.refused(&parts);
        rig.more_predictions("shoulder", 20);
        let retained = rig.retained();
        assert_eq!(retained.json("/info")[0]["pipelines"]["shoulder"]["delegate"]["active"], "xnnpack", "{name}");
        assert_eq!(retained.json("shoulder/status")[0]["state"], "running", "{name}");
        old = new;
    }
    // Mended, it is as before.
    let mut rig = rig.edit(&old, XNNPACK);
    rig.reloaded(": nothing has changed");
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
    assert!(wire.json("shoulder/status").iter().all(|status| status["state"] != "degraded"));
}

#[test]
fn a_file_with_a_mistake_changes_nothing_and_the_mistake_is_shown() {
    let mut rig = Rig::start(paced);
    rig.more_predictions("shoulder", 5);
    for (old, new, at, parts) in [
        ("smooth = 3 }", "smooth = }", "decision.classify", &["smooth = }"][..]),
        ("smooth = 3 }", "smoth = 3 }", "decision.classify", &["unknown key `smoth`"]),
        ("smooth = 3 }", "smooth = 0 }", "decision.classify", &["pipelines.shoulder.decision.classify.smooth"]),
        ("r_int8.tflite", "r_int9.tflite", "r_int9.tflite", &["pipelines.shoulder.model.path", "cannot read"]),
        ("labels.txt", "nowhere.txt", "nowhere.txt", &["pipelines.shoulder.model.labels", "cannot read"]),
        ("r_recording.csv", "r_nowhere.csv", REPLAY, &["pipelines.shoulder.source", "r_nowhere.csv", "No such file"]),
        ("samples = 200,", "samples = 199,", "samples = 199,", &["shoulder.window", "[1, 200, 1, 6]", "1194"]),
    ] {
        rig = rig.edit(old, new);
        let position = format!("edgewatt.toml:{}:", rig.line_of(at));
        rig.refused(&[&[&*position], parts].concat());
        rig = rig.edit(new, old);
    }
    // No file at all.
    let path = rig.setup.dir.path().join("edgewatt.toml");
    fs::remove_file(&path).unwrap();
    rig.refused(&["edgewatt.toml", "No such file"]);
    rig.setup.config();
    rig.reloaded(": nothing has changed");
    rig.more_predictions("shoulder", 20);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
}

#[test]
fn what_cannot_change_while_it_runs_is_named_and_stays() {
    let library = runtime_library();
    let mut rig = Rig::start(|setup| paced(setup).with_keys("[mqtt]", "retry_min_ms = 400"));
    rig.more_predictions("shoulder", 5);
    let broker = format!("mqtt://127.0.0.1:{}", rig.broker.port);
    let queue = "[mqtt.queue]\nmessages = 9000\n\n[metrics]";
    let runtime = format!("[runtime]\nlibrary = \"{}\"\n\n[metrics]", library.display());
    for (old, new, key, at) in [
        (broker.as_str(), "mqtt://127.0.0.1:1", "mqtt.broker", "broker = "),
        ("id = \"demo\"", "id = \"other\"", "node.id", "id = \"other\""),
        ("[metrics]", queue, "mqtt.queue.messages", "messages = 9000"),
        ("[metrics]", "[power]\nidle_s = 3.0\n\n[metrics]", "power.idle_s", "idle_s = 3.0"),
        (
            "[metrics]",
            "[power]\ncalibrate_at_start = true\n\n[metrics]",
            "power.calibrate_at_start",
            "calibrate_at_start = true",
        ),
        ("[metrics]", runtime.as_str(), "runtime.library", "library = "),
        ("retry_min_ms = 400", "retry_min_ms = 401", "mqtt.retry_min_ms", "retry_min_ms"),
        // The key is gone, its table is still there.
        ("retry_min_ms = 400", "# as it comes", "mqtt.retry_min_ms", "[mqtt]"),
    ] {
        rig = rig.edit(old, new).edit("smooth = 3 }", "smooth = 5 }");
        let position = format!("edgewatt.toml:{}:", rig.line_of(at));
        rig.refused(&[&position, key, "only a restart can change this"]);
        rig = rig.edit("smooth = 5 }", "smooth = 3 }").edit(new, old);
    }
    // What could have changed has not either.
    assert_eq!(rig.retained().json("/info")[0]["node"], "demo");
    rig.reloaded(": nothing has changed");
    rig.more_predictions("shoulder", 5);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
}

#[test]
fn stages_change_around_an_engine_that_goes_on() {
    let labels = fs::read_to_string(root().join("models/labels.txt")).unwrap();
    let mut lives = Default::default();
    let (mut rig, feeder) = Rig::fed(|setup| {
        lives = setup.write("lives", b"");
        setup.write("other.txt", labels.to_lowercase().as_bytes());
        with_plugin(setup, "npu", &[("lives", lives.to_str().unwrap())])
            .with(XNNPACK, &delegate("npu"))
            .with("truth = \"exercise\"", "# no truth, whose names would be the old ones")
    });
    let info = rig.info(&["\"active\":\"npu\""]);
    rig.more_predictions("shoulder", 5);
    let made = fs::read(&lives).unwrap().len();
    assert!(made > 0);
    let other = rig.setup.dir.path().join("other.txt");
    let labels = root().join("models/labels.txt");
    for (old, new) in [
        ("smooth = 3 }", "smooth = 1, threshold = 1.0 }"),
        ("hop = 50 }", "hop = 25 }"),
        (labels.to_str().unwrap(), other.to_str().unwrap()),
        (
            "features]]\nstandardize",
            "features]]\nscale = { factor = [1e-30] }\n\n[[pipelines.shoulder.features]]\nstandardize",
        ),
        ("smooth = 1, threshold = 1.0 }", "smooth = 2 }\npublish = { scores = true }"),
    ] {
        rig = rig.edit(old, new);
        rig.reloaded(": shoulder changed");
        rig.more_predictions("shoulder", 20);
    }
    assert_eq!(fs::read(&lives).unwrap().len(), made, "another engine was made");
    let samples = feeder.finish();
    let (_, wire) = rig.end(0);
    let infos = wire.json("/info");
    let last = infos.last().unwrap();
    assert_eq!(last["pipelines"]["shoulder"]["delegate"], info["pipelines"]["shoulder"]["delegate"]);
    assert_ne!(last["config_sha256"], info["config_sha256"]);

    assert_nothing_lost(&wire, "shoulder");
    let counts = wire.metrics()["counts"].clone();
    assert_eq!((&counts["samples"], &counts["gaps"]["time_jump"]), (&samples.into(), &0.into()));
    // Every sample was in its window: the steps are the hops.
    let predictions = wire.predictions();
    let ends: Vec<i64> = predictions.iter().map(|p| (p["stream_s"].as_f64().unwrap() * 50.0).round() as i64).collect();
    assert_eq!(ends[0], 199);
    let steps: Vec<i64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let turn = steps.iter().position(|step| *step == 25).unwrap();
    assert!(
        turn >= 24 && steps.iter().enumerate().all(|(at, step)| *step == if at < turn { 50 } else { 25 }),
        "{steps:?}"
    );
    // Each change is to be seen, in its order. It takes effect a few predictions after its event.
    let first = |holds: fn(&Value) -> bool| predictions.iter().position(holds).unwrap();
    let unsure = first(|p| p["label"].is_null());
    let lower = first(|p| p["raw_label"].as_str().is_some_and(|label| label == label.to_lowercase()));
    let scored = first(|p| p["scores"].is_object());
    assert!(
        5 <= unsure && unsure + 10 <= turn && turn + 10 <= lower && lower + 30 <= scored,
        "{unsure} {turn} {lower} {scored}"
    );
    // Next to nothing before the standardization is one answer for ever.
    let flat: BTreeSet<String> = predictions[scored..].iter().map(|p| p["raw_label"].to_string()).collect();
    assert_eq!(flat.len(), 1);
}

#[test]
fn pipelines_come_and_go_beside_one_that_goes_on() {
    let mut rig = Rig::start(paced);
    rig.more_predictions("shoulder", 5);
    let other = second("other", &replay("other", "speed = 100.0\nloop = true"));
    let mut rig = rig.edit("\n[pipelines.shoulder]\n", &other);
    rig.reloaded(": other added");
    rig.info(&["\"other\"", "\"shoulder\""]);
    rig.more_predictions("other", 20);
    let mut rig = rig.edit(&other, "\n[pipelines.shoulder]\n");
    rig.reloaded(": other removed");
    let status = rig.state("p/other/status", &["\"stopped\""]);
    assert_eq!(status["reason"], "it is no longer in the configuration");
    // What it still had to say came before.
    rig.more_predictions("shoulder", 20);
    assert_nothing_lost(&rig.wire(), "other");
    let gone = rig.lines.len();
    rig.more_predictions("shoulder", 50);
    assert!(rig.wire().0[gone..].iter().all(|(topic, _)| !topic.contains("/p/other/")), "it still publishes");
    let retained = rig.retained();
    assert!(retained.json("/info")[0]["pipelines"]["other"].is_null());
    assert!(retained.texts("other/status").is_empty() && retained.texts("other/state").is_empty(), "they stay");
    let seqs = of(&rig.wire(), "other").seqs();
    assert_eq!(seqs, Vec::from_iter(0..seqs.len() as u64));

    // It comes back as a pipeline that there never was.
    let mut rig = rig.edit("\n[pipelines.shoulder]\n", &other);
    rig.reloaded(": other added");
    rig.more_predictions("other", 5);
    let (_, wire) = rig.stop();
    assert_eq!(of(&wire, "other").seqs()[seqs.len()], 0);
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&of(&wire, "shoulder"));
}

#[test]
fn another_source_is_counted_on_from_the_one_before() {
    let mut rig = Rig::start(paced);
    let demo = root().join("models/shoulder_recording.csv");
    let other = rig.setup.write("other.csv", even_recording(20_000, 1e6).as_bytes());
    let fifo = rig.setup.dir.path().join("samples");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    rig.more_predictions("shoulder", 20);
    let mut rig = rig.edit(demo.to_str().unwrap(), other.to_str().unwrap());
    rig.reloaded(": shoulder changed");
    rig.until(|line| line.contains("\"stream_s\":1000"));
    rig.more_predictions("shoulder", 20);

    let replayed = format!("{REPLAY}\nloop = true\npath = \"{}\"\nspeed = 100.0 ", other.display());
    let piped = format!("[pipelines.shoulder.source.lines]\nfrom = {{ fifo = \"{}\" }} ", fifo.display());
    let mut rig = rig.edit(&replayed, &piped).edit("source.replay.", "source.lines.");
    rig.reloaded(": shoulder changed");
    let mut writer = open_fifo(&fifo);
    writer.write_all(even_recording(600, 5e6).as_bytes()).unwrap();
    rig.until(|line| line.contains("\"stream_s\":5000011.98"));

    let mut rig = rig.edit("source.lines.", "source.replay.").edit(&piped, &replayed);
    rig.reloaded(": shoulder changed");
    rig.until(|line| line.contains("\"stream_s\":1000"));
    rig.more_predictions("shoulder", 20);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    let from_fifo = wire.predictions().iter().filter(|p| p["stream_s"].as_f64().unwrap() > 4e6).count();
    assert_eq!(from_fifo, (600 - 200) / 50 + 1);
    // None of these changes was a stop.
    let states: BTreeSet<String> = wire.json("shoulder/status").iter().map(|s| s["state"].to_string()).collect();
    assert_eq!(states, ["\"running\"", "\"stopped\""].map(str::to_owned).into());
}

#[test]
fn meters_and_the_metrics_interval_change() {
    let meter = "[power.meters.guess]\nestimate = { watts_per_core = 2.0, idle_watts = 2.5 }\n";
    let mut rig = Rig::start(|setup| paced(setup).with(meter, "# no meter\n"));
    let metrics = |rig: &mut Rig, holds: &dyn Fn(&Value) -> bool| {
        rig.until(|line| {
            let json = line.contains("/metrics ").then(|| line.split_once(' ').unwrap().1);
            json.is_some_and(|json| holds(&serde_json::from_str(json).unwrap()))
        });
        rig.wire().metrics()
    };
    let before = metrics(&mut rig, &|_| true);
    assert_eq!((&before["energy"][0]["status"], &before["energy"][0]["meter"]), (&"unavailable".into(), &Value::Null));
    let mut rig = rig.edit("# no meter\n", meter);
    rig.reloaded(": meters changed");
    let after = metrics(&mut rig, &|m| m["energy"][0]["status"] == "estimated");
    assert!(after["energy"][0]["gross_j"].as_f64().unwrap() > 0.0, "{after}");
    assert_eq!(rig.info(&["\"guess\""])["meters"][0]["kind"], "estimate");

    let mut rig = rig.edit("interval_s = 0.3", "interval_s = 0.1");
    rig.reloaded(": metrics interval changed");
    metrics(&mut rig, &|m| m["interval_s"].as_f64().unwrap() < 0.2);

    // Another meter, together with a setting that alone would leave the meters as they are.
    let other = "[power.meters.second]\nestimate = { watts_per_core = 1.0, idle_watts = 1.0 }\n";
    let mut rig = rig.edit(meter, &format!("{other}[power]\ntarget_rel = 0.1\n"));
    rig.reloaded(": meters changed, power settings changed");
    metrics(&mut rig, &|m| m["energy"][0]["meter"] == "second");

    let mut rig = rig.edit(other, "# no meter\n");
    rig.reloaded(": meters changed");
    metrics(&mut rig, &|m| m["energy"][0]["meter"].is_null());
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
}

#[test]
fn another_model_under_the_same_name_is_noticed() {
    let [int8, pruned] =
        ["int8", "pruned_int8"].map(|name| fs::read(root().join(format!("models/shoulder_{name}.tflite"))).unwrap());
    let card = json_file(&root().join("models/metrics.json"));
    let path = root().join("models/shoulder_int8.tflite");
    let mut rig = Rig::start(|setup| {
        let model = setup.write("model.tflite", &int8);
        paced(setup).with(path.to_str().unwrap(), model.to_str().unwrap())
    });
    let sha256 = |info: &Value| info["pipelines"]["shoulder"]["model_sha256"].clone();
    assert_eq!(sha256(&rig.info(&[])), card["recording"]["int8"]["sha256"]);
    rig.more_predictions("shoulder", 10);
    rig.setup.write("model.tflite", &pruned);
    rig.reloaded(": shoulder changed");
    let new = card["recording"]["pruned_int8"]["sha256"].as_str().unwrap();
    assert_eq!(sha256(&rig.info(&[new])), new);
    rig.more_predictions("shoulder", 10);

    // A damaged one is no reason to stop.
    let model = rig.setup.write("model.tflite", &int8[..int8.len() / 2]);
    let position = format!("edgewatt.toml:{}:", rig.line_of(&format!("path = \"{}\"", model.display())));
    rig.refused(&[&position, "pipelines.shoulder.model.path", "model.tflite"]);
    rig.more_predictions("shoulder", 10);
    assert_eq!(sha256(&rig.retained().json("/info")[0]), new);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
}

#[test]
fn a_file_that_has_not_changed_changes_nothing() {
    let mut rig = Rig::start(paced);
    rig.more_predictions("shoulder", 5);
    rig.reloaded(": nothing has changed");
    rig.more_predictions("shoulder", 20);
    let (_, wire) = rig.stop();
    let infos = wire.json("/info");
    assert!(infos.iter().all(|info| info["config_sha256"] == infos[0]["config_sha256"]));
    assert_eq!(wire.json("shoulder/status").len(), 2, "running and stopped");
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
}
