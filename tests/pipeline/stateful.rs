//! Models that keep a state, through the daemon: it lasts while the stream does, and no longer.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::ops::Range;

use edgewatt_support::daemon::Setup;
use edgewatt_support::rig::{REPLAY, Rig, assert_nothing_lost, open_fifo};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::stat::Mode;
use serde_json::Value;

const CHANNELS: usize = 40;
/// Samples in a window, of the wake-word models.
pub(crate) const SLICES: usize = 3;
/// Windows before the cut and behind it.
const HALF: usize = 300;

/// The demo's pipeline on a wake-word model, each output as it is.
pub(crate) fn on_wake_word(setup: Setup, delegate: &str) -> Setup {
    let names: Vec<String> = (0..CHANNELS).map(|channel| format!("\"c{channel}\"")).collect();
    let models = root().join("models");
    let text = fs::read_to_string(root().join("config/demo.toml")).unwrap();
    let standardize = text.lines().find(|line| line.starts_with("standardize")).unwrap().to_owned();
    let model = root().join("runtime/models/alexa.tflite");
    setup
        .at_speed("\"max\"")
        .with(models.join("shoulder_int8.tflite").to_str().unwrap(), model.to_str().unwrap())
        .with(&format!("labels = \"{}\"", models.join("labels.txt").display()), "")
        .with("decision.classify = { smooth = 3 }", "decision.raw = {}")
        .with("samples = 200, hop = 50", &format!("samples = {SLICES}, hop = {SLICES}"))
        .with(&format!("[[pipelines.shoulder.features]]\n{standardize}"), "")
        .with("truth = \"exercise\"", "")
        .with("\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"", &names.join(", "))
        .with("delegate = \"xnnpack\" ", &format!("delegate = \"{delegate}\" "))
}

pub(crate) fn header() -> String {
    let names: Vec<String> = (0..CHANNELS).map(|channel| format!("c{channel}")).collect();
    format!("time_s,{}\n", names.join(","))
}

/// Windows of a stream that never stands still for long, the same at each call; `pause_s` is between the halves.
pub(crate) fn samples(windows: Range<usize>, pause_s: f64) -> String {
    let mut state = 2_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut levels = [0.0_f32; CHANNELS];
    let mut text = String::new();
    for index in 0..windows.end * SLICES {
        for level in &mut levels {
            let burst = if random() < 0.05 { 25.5 * random() } else { 0.0 };
            *level = (0.9 * *level + burst).min(25.5);
        }
        if index >= windows.start * SLICES {
            let pause_s = if index >= HALF * SLICES { pause_s } else { 0.0 };
            write!(text, "{:.2}", 0.02 * index as f64 + pause_s).unwrap();
            levels.iter().for_each(|level| write!(text, ",{level:.3}").unwrap());
            text.push('\n');
        }
    }
    text
}

pub(crate) fn outputs(wire: &Wire) -> Vec<Value> {
    wire.predictions().iter().map(|p| p["outputs"].clone()).collect()
}

fn play(delegate: &str, windows: Range<usize>, pause_s: f64) -> Vec<Value> {
    let recording = header() + &samples(windows, pause_s);
    let rig = Rig::with_args(|setup| on_wake_word(setup, delegate).recording(recording.as_bytes()), &["--once"]);
    let (_, wire) = rig.end(0);
    assert_nothing_lost(&wire, "shoulder");
    assert_eq!(wire.metrics()["counts"]["gaps"]["time_jump"], u64::from(pause_s > 0.0));
    outputs(&wire)
}

#[test]
fn after_a_gap_the_model_has_forgotten_what_was_before() {
    for delegate in ["cpu", "xnnpack"] {
        let fresh = play(delegate, HALF..2 * HALF, 0.0);
        let after_gap = play(delegate, 0..2 * HALF, 10.0);
        let without = play(delegate, 0..2 * HALF, 0.0);
        assert_eq!((fresh.len(), after_gap.len(), without.len()), (HALF, 2 * HALF, 2 * HALF));
        assert_eq!(after_gap[..HALF], without[..HALF], "{delegate}");
        assert_eq!(after_gap[HALF..], fresh, "{delegate}: its state outlived the gap");
        assert!(without[HALF..] != fresh, "{delegate}: there is no state to be seen");
    }
}

/// Half of the stream, an edit of the file, and the other half.
fn play_with_edit(old: &str, new: &str) -> Vec<Value> {
    let fifo = |setup: &Setup| setup.dir.path().join("samples");
    let mut rig = Rig::start(|setup| {
        let demo = root().join("models/shoulder_recording.csv");
        nix::unistd::mkfifo(&fifo(&setup), Mode::S_IRWXU).unwrap();
        let lines = format!("[pipelines.shoulder.source.lines]\nfrom = {{ fifo = \"{}\" }} ", fifo(&setup).display());
        on_wake_word(setup, "xnnpack")
            .with(&format!("{REPLAY}\npath = \"{}\"\nspeed = \"max\" ", demo.display()), &lines)
            .with("source.replay.", "source.lines.")
    });
    let mut writer = open_fifo(&fifo(&rig.setup));
    writer.write_all((header() + &samples(0..HALF, 0.0)).as_bytes()).unwrap();
    rig.more_predictions("shoulder", HALF);
    let mut rig = rig.edit(old, new);
    rig.reloaded(": shoulder changed");
    writer.write_all(samples(HALF..2 * HALF, 0.0).as_bytes()).unwrap();
    rig.more_predictions("shoulder", HALF);
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    outputs(&wire)
}

#[test]
fn a_reload_that_changes_the_pipeline_begins_without_a_state() {
    let changed = play_with_edit("delegate = \"xnnpack\" ", "delegate = \"cpu\" ");
    assert_eq!(changed[HALF..], play("cpu", HALF..2 * HALF, 0.0));
    let kept = play_with_edit("\n[pipelines.shoulder]\n", "\n[pipelines.shoulder]\npublish = { qos = 0 }\n");
    assert_eq!(kept[HALF..], play("xnnpack", HALF..2 * HALF, 0.0), "also where the engine goes on");
}
