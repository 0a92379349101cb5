//! Gates with the real program: which windows go to the model, what a model with a state gets, and what is said of it.

use std::fmt::Write as _;

use edgewatt_support::daemon::{Ended, Setup};
use edgewatt_support::demo;
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::rig::{Rig, paced};
use edgewatt_support::root;
use edgewatt_support::sound::wav;
use edgewatt_support::wire::Wire;
use serde_json::Value;

use crate::stateful::{SLICES, header, on_wake_word, outputs, samples};

/// Samples of the demo's recordings here: 40 s, in 37 windows of 200 that begin 50 apart.
const SAMPLES: usize = 2000;

/// Still but for four seconds from the tenth on, in which `ax` has the level 5, around an offset of 9.81.
fn loud_for_four_seconds() -> String {
    let mut text = "time_s,ax,ay,az,wx,wy,wz,exercise\n".to_owned();
    for index in 0..SAMPLES {
        let swing = [5.0, -5.0][index % 2];
        let ax = if (500..700).contains(&index) { 9.81 + swing } else { 9.81 };
        writeln!(text, "{:.2},{ax},0,0,0,0,0,PEN", 0.02 * index as f64).unwrap();
    }
    text
}

fn with_gate(setup: Setup, keys: &str) -> Setup {
    setup.with_keys("[pipelines.shoulder]", &format!("gate.level = {{ {keys} }}"))
}

/// What a run on the recording has published, and how it has ended.
fn play(recording: &str, gate: &str) -> (Ended, Wire) {
    let setup = |setup: Setup| with_gate(setup, gate).at_speed("\"max\"").recording(recording.as_bytes());
    Rig::with_args(setup, &["--once"]).end(0)
}

fn count(metrics: &Value, name: &str) -> u64 {
    metrics["counts"][name].as_u64().unwrap()
}

#[test]
fn windows_pass_while_the_gate_is_open_and_all_others_are_counted() {
    let (ended, wire) = play(&loud_for_four_seconds(), "threshold = 4.9, block_s = 0.2, hold_s = 2.0");
    // Open from the end of the first loud block, sample 510, until 2 s after the last one, sample 800. Windows that are full
    // after 550, 600, 650, 700 and 750 samples.
    let times: Vec<f64> = wire.predictions().iter().map(|p| p["stream_s"].as_f64().unwrap()).collect();
    assert_eq!(times, [10.98, 11.98, 12.98, 13.98, 14.98]);
    let metrics = wire.metrics();
    assert_eq!(["windows", "gated", "predictions"].map(|name| count(&metrics, name)), [37, 32, 5]);
    let gate = &metrics["gate"];
    assert_eq!((&gate["kind"], &gate["open"], &gate["openings"]), (&"level".into(), &false.into(), &1.into()));
    assert_eq!((gate["threshold"].as_f64(), gate["level"].as_f64()), (Some(4.9), Some(0.0)));
    assert!((gate["release"].as_f64().unwrap() - 3.92).abs() < 1e-12, "{gate}");
    // The estimate has no uncertainty, and what was saved is a part of the windows or unknown.
    let saved = &gate["saved"][0];
    assert_eq!(saved["inferences"].as_u64().unwrap() + saved["unknown"].as_u64().unwrap(), 32, "{saved}");
    let status = wire.json("/p/shoulder/status").pop().unwrap();
    assert_eq!(status["gate"]["open"], false);
    // The share is that of the windows that went to the model: 675 of 6000 values.
    assert!(status["reason"].as_str().unwrap().contains("input: 11 % of the values do not fit"), "{status}");
    assert!(
        ended.stdout.contains("skipped 32 of 37 windows; it opened once; the highest level was 5,"),
        "{}",
        ended.stdout
    );
}

#[test]
fn the_same_windows_pass_in_sound_of_16_bits() {
    // As above, at another rate: blocks of 10 samples, open for 100 after the last loud one; and an offset of 1000.
    let swing = |index: usize| if (500..700).contains(&index) { [2000, -2000][index % 2] } else { 0 };
    let sound: Vec<i16> = (0..SAMPLES).map(|index| 1000 + swing(index)).collect();
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let model = root().join("tests/models/open_input.tflite");
    let setup = Setup::of(&root().join("examples/wake-word/recording.toml"))
        .with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port))
        .with(
            "frontend = [\"micro_frontend\"]",
            "gate.level = { threshold = 1900.0, block_s = 0.000625, hold_s = 0.00625 }",
        )
        .with("samples = 3, hop = 3", "samples = 200, hop = 50")
        .with("../../runtime/models/okay_nabu.tflite", model.to_str().unwrap())
        .with("model.sha256", "#")
        .with("wake_word = { word = \"okay nabu\", cutoff = 0.85 }", "raw = {}");
    setup.write("recording.wav", &wav(&sound));
    setup.run_once().expect(0);
    let wire = Wire::new(subscriber.until(|line| line.ends_with("/status offline")));
    assert_eq!(count(&wire.metrics(), "gated"), 32);
    // The model gives its input with the other sign: the first value of each window that passes.
    let first: Vec<f64> = wire.predictions().iter().map(|p| p["outputs"][0][0].as_f64().unwrap()).collect();
    let wanted: Vec<f64> = [550, 600, 650, 700, 750].map(|full: usize| -f64::from(sound[full - 200])).to_vec();
    assert_eq!(first, wanted);
}

#[test]
fn a_model_with_a_state_starts_over_at_each_opening_and_gets_the_preroll_first() {
    // 300 quiet windows, and 100 of which each has a burst.
    let (quiet, loud) = (300, 100);
    let all = samples(0..2 * quiet, 0.0);
    let rows: Vec<&str> = all.lines().collect();
    let is_quiet = |line: &str| format!("{}{}", line.split_once(',').unwrap().0, ",0".repeat(40));
    let stream: String = rows.iter().enumerate().take((quiet + loud) * SLICES).fold(header(), |text, (index, line)| {
        text + &(if index < quiet * SLICES { is_quiet(line) } else { (*line).to_owned() }) + "\n"
    });
    let play = |recording: &str, gate: &str| {
        let setup = |setup: Setup| with_gate(on_wake_word(setup, "cpu"), gate).recording(recording.as_bytes());
        let (_, wire) = Rig::with_args(setup, &["--once"]).end(0);
        (outputs(&wire), count(&wire.metrics(), "gated"), wire)
    };
    // A block of a window's length, so that the window that is full with the block passes.
    let gate = "threshold = 0.5, block_s = 0.06, hold_s = 60.0";
    let (passed, gated, _) = play(&stream, gate);
    let fresh = |from: usize| {
        let lines: Vec<&str> = stream.lines().collect();
        let part = header() + &lines[1 + from * SLICES..].join("\n") + "\n";
        let setup = |setup: Setup| on_wake_word(setup, "cpu").recording(part.as_bytes());
        outputs(&Rig::with_args(setup, &["--once"]).end(0).1)
    };
    assert_eq!((passed.len(), gated), (loud, quiet as u64));
    assert_eq!(passed, fresh(quiet), "the model's state is that of the stream from the opening on");
    // 0.3 s are five windows of 0.06 s.
    let (with_preroll, gated, wire) = play(&stream, &format!("{gate}, preroll_s = 0.3"));
    assert_eq!((with_preroll.len(), gated), (loud + 5, quiet as u64 - 5), "windows of the preroll were not skipped");
    assert_eq!(with_preroll, fresh(quiet - 5), "it gets them first, in their order");
    let times: Vec<u64> =
        wire.predictions().iter().map(|p| (p["stream_s"].as_f64().unwrap() * 100.0).round() as u64).collect();
    assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 6), "{times:?}");
}

#[test]
fn a_gap_forgets_the_windows_that_were_kept() {
    // The last quiet windows are before a gap of 10 s, and the loud ones behind it.
    let recording = loud_for_four_seconds();
    let moved = |(index, line): (usize, &str)| match line.split_once(',').unwrap() {
        (time_s, rest) if index > 500 => format!("{:.2},{rest}\n", time_s.parse::<f64>().unwrap() + 10.0),
        _ => format!("{line}\n"),
    };
    let moved: String = recording.lines().enumerate().map(moved).collect();
    let (_, wire) = play(&moved, "threshold = 4.9, block_s = 0.2, hold_s = 2.0, preroll_s = 3.0");
    let metrics = wire.metrics();
    assert_eq!(metrics["counts"]["gaps"]["time_jump"], 1);
    // From sample 500 on, windows are full after 700, 750 and 800; the gate has closed with the block that ends at 800.
    let times: Vec<f64> = wire.predictions().iter().map(|p| p["stream_s"].as_f64().unwrap()).collect();
    assert_eq!(times, [23.98, 24.98]);
    let [windows, gated, predictions] = ["windows", "gated", "predictions"].map(|name| count(&metrics, name));
    assert_eq!((windows, predictions), (gated + predictions, 2));
}

#[test]
fn a_gate_that_never_opens_is_said_with_the_highest_level_and_is_no_failure() {
    let (ended, wire) = play(&loud_for_four_seconds(), "threshold = 100.0, block_s = 0.2");
    let reason = "the gate was closed for all of 37 windows: the highest level was 5, and gate.level.threshold is 100";
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&ended.stdout).contains(reason) && ended.stderr.contains(reason), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(wire.predictions().len(), 0);
    let status = wire.json("/p/shoulder/status").pop().unwrap();
    assert_eq!((&status["state"], &status["reason"]), (&"ended".into(), &reason.into()));
    // Loud from sample 510 to 700, which is between the ends of two windows of a long hop.
    let (ended, _) = Rig::with_args(
        |setup| {
            with_gate(setup, "threshold = 4.9, block_s = 0.2, hold_s = 0.0")
                .with("hop = 50", "hop = 600")
                .at_speed("\"max\"")
                .recording(loud_for_four_seconds().as_bytes())
        },
        &["--once"],
    )
    .end(0);
    ended.says(&["it opened once, and was closed again before a window was full; write a longer gate.level.hold_s"]);
}

#[test]
fn a_reload_changes_the_threshold_and_a_closed_gate_is_no_stall() {
    let mut rig = Rig::start(|setup| with_gate(paced(setup), "threshold = 1000.0, block_s = 0.2"));
    let closed = rig.until(|line| line.contains("/p/shoulder/status ") && line.contains("\"open\":false"));
    assert!(closed.contains("\"state\":\"running\",\"predicting\":true"), "{closed}");
    let metrics = rig.until(|line| line.contains("/p/shoulder/metrics ") && !line.contains("\"gated\":0"));
    assert!(metrics.contains("\"predictions\":0,") && metrics.contains("\"state\":\"running\""), "{metrics}");
    let state = rig.lines.iter().find(|line| line.contains("/p/shoulder/state ")).unwrap();
    assert!(state.ends_with("\"gate\":\"closed\"}"), "{state}");
    let mut rig = rig.edit("threshold = 1000.0", "threshold = 0.001, release = 0.001");
    rig.reloaded(": shoulder changed");
    rig.state("p/shoulder/status", &["\"open\":true"]);
    rig.more_predictions("shoulder", 50);
    let state = rig.until(|line| line.contains("/p/shoulder/state "));
    assert!(state.contains("\"label\":"), "{state}");
    // Without the gate, nothing is said of it.
    let mut rig = rig.edit("gate.level = { threshold = 0.001, release = 0.001, block_s = 0.2 }", "");
    rig.reloaded(": shoulder changed");
    rig.state("p/shoulder/status", &["\"reason\":null,\"delegate\""]);
    let (ended, wire) = rig.stop();
    assert!(!ended.stderr.contains("degraded"), "{}", ended.stderr);
    assert!(wire.metrics().get("gate").is_none());
}

#[test]
fn check_shows_the_gate_and_refuses_what_makes_no_sense() {
    let checked = |keys: &str| with_gate(Setup::demo(1), keys).check();
    let shown = checked("threshold = 5.0, block_s = 0.5, preroll_s = 1.5").expect(0).stdout;
    for part in [
        "source.replay [6] -> gate.level [6] -> window [200, 6]",
        "gate.level: the RMS over 0.5 s (25 samples), without the mean; it opens at 5, and closes 2 s after the level was last at \
         least 4; then the last 2 windows that it has skipped go to the model first",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    for (keys, at, why) in [
        ("threshold = 5.0, release = 6.0", "gate.level.release", "6 is above the threshold, 5"),
        ("threshold = 5.0, block_s = 0.01", "gate.level.block_s", "less than 2 samples"),
        ("threshold = 5.0, channels = [\"mx\"]", "gate.level.channels", "no channel `mx`"),
        ("threshold = 5.0, preroll_s = 3600.0", "gate.level.preroll_s", "write a shorter time"),
    ] {
        let refused = checked(keys).expect(78).stderr;
        assert!(refused.contains(&format!("pipelines.shoulder.{at}")) && refused.contains(why), "{refused}");
    }
}

#[test]
fn a_gate_that_closes_between_the_ends_of_two_windows_is_a_warning() {
    let warnings = |hold_s: &str| {
        let table = format!("[pipelines.shoulder]\ngate.level = {{ threshold = 1.0, hold_s = {hold_s} }}");
        demo::prepare(&demo::config(&[("[pipelines.shoulder]", &table)])).warnings
    };
    let said = warnings("0.5");
    assert!(said.iter().any(|warning| warning.starts_with("gate.level: a window ends every 1 s")), "{said:?}");
    assert!(said.iter().any(|warning| warning.ends_with("set hold_s to at least 1")), "{said:?}");
    assert!(!warnings("1.0").iter().any(|warning| warning.starts_with("gate")));
}
