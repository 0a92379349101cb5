//! Sound through the real libasound: its `file` plugin plays a recording as a sound card would, at any speed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use edgewatt_support::daemon::{Daemon, Setup};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::plugin::test_delegate;
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::Value;

const WINDOW: u64 = 1000;

/// A sample for each frame and channel. A channel's value tells its frame: 30,000 frames pass before one comes again.
fn sample(frame: u64, channel: u64) -> i64 {
    (frame % 30_000) as i64 - 15_000 + channel as i64 * 7
}

/// A card of ALSA's that records `bytes` and nothing after them, and a pipeline that publishes each window as it is.
fn setup(port: u16, keys: &str, bytes: &[u8]) -> Setup {
    let model = root().join("tests/models/open_input.tflite");
    let text = format!(
        "node.id = \"mic\"\nmqtt.broker = \"mqtt://127.0.0.1:{port}\"\n[pipelines.p]\nmodel.path = {model:?}\n\
         decision.raw = {{}}\nwindow = {{ samples = {WINDOW}, hop = {WINDOW} }}\n[pipelines.p.source.alsa]\n\
         card = \"plug:recording\"\nrate_hz = 48000\nbuffer.when_full = \"wait\"\n{keys}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("edgewatt.toml");
    std::fs::write(&config, text).unwrap();
    let setup = Setup::of(&config);
    let recording = setup.write("recording.raw", bytes);
    setup.write(
        "asound.conf",
        format!(
            "</usr/share/alsa/alsa.conf>\npcm.recording {{\n type file\n slave.pcm \"null\"\n file /dev/null\n \
             infile {recording:?}\n format raw\n}}\n"
        )
        .as_bytes(),
    );
    setup
}

fn command(setup: &Setup, subcommand: &str) -> Command {
    let mut command = setup.command(subcommand, &[]);
    command.env("ALSA_CONFIG_PATH", setup.dir.path().join("asound.conf"));
    command
}

/// Runs until `windows` windows of the recording have passed. Returns those that came, with their number, and the log.
fn windows(setup: impl FnOnce(u16) -> Setup, windows: u64) -> (Vec<(u64, Vec<i64>)>, String) {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let setup = setup(broker.port);
    let daemon = Daemon::start(command(&setup, "run"));
    let seq = |line: &str| -> Option<u64> {
        let (topic, payload) = line.split_once(' ')?;
        let payload: Value = topic.ends_with("/prediction").then(|| serde_json::from_str(payload).ok())??;
        payload["seq"].as_u64()
    };
    let lines = subscriber.until(|line| seq(line).is_some_and(|seq| seq >= windows));
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait().expect(0);
    let of = |prediction: &Value| {
        // The model negates what it gets.
        let values = prediction["outputs"][0].as_array().unwrap().iter().map(|value| -value.as_f64().unwrap() as i64);
        (prediction["seq"].as_u64().unwrap(), values.collect())
    };
    let all: Vec<_> = Wire::new(lines).predictions().iter().map(of).collect();
    (all.into_iter().filter(|(seq, _)| *seq < windows).collect(), ended.stderr)
}

/// Far longer than the card's buffer, and the pipeline's.
const WINDOWS: u64 = 400;

#[test]
fn what_the_card_records_reaches_the_subscriber_unchanged() {
    let bytes: Vec<u8> = (0..WINDOWS * WINDOW).flat_map(|frame| (sample(frame, 0) as i16).to_le_bytes()).collect();
    let (windows, log) = windows(|port| setup(port, "", &bytes), WINDOWS);
    // The queue to the broker may drop messages, since no card is that fast; none of those that come is wrong.
    assert!(windows.len() > 20, "{}", windows.len());
    for (seq, values) in &windows {
        let expected = Vec::from_iter((seq * WINDOW..(seq + 1) * WINDOW).map(|frame| sample(frame, 0)));
        assert_eq!(values, &expected, "window {seq}");
    }
    assert!(windows.is_sorted_by(|(a, _), (b, _)| a < b), "none comes twice");
    assert!(log.contains("the sound card records") && log.contains("format=\"s16le\""), "{log}");
    assert!(log.contains("does not keep its rate"), "the plugin is faster than any card: {log}");
}

#[test]
fn channels_of_long_samples_are_chosen_and_amplified() {
    let frame = |frame| (0..2).flat_map(move |channel| ((sample(frame, channel) as i32) << 12).to_le_bytes());
    let bytes: Vec<u8> = (0..WINDOWS * WINDOW).flat_map(frame).collect();
    // 24.082 dB is a factor of 16.
    let keys = "channels = 2\nselect = [1]\nformat = \"s32le\"\ngain_db = 24.08239965311849";
    let (windows, log) = windows(|port| setup(port, keys, &bytes), WINDOWS);
    assert!(windows.len() > 20, "{}", windows.len());
    for (seq, values) in &windows {
        let expected = Vec::from_iter((seq * WINDOW..(seq + 1) * WINDOW).map(|frame| sample(frame, 1)));
        assert_eq!(values, &expected, "window {seq}");
    }
    assert!(log.contains("format=\"s32le\""), "{log}");
}

/// Six channels at 48,000 Hz, in real time at most, and a model that takes a second for each window: the buffer that a live
/// stream has by default holds what comes meanwhile. The bytes come from a pipe, since ALSA's plugins keep no rate.
#[test]
fn nothing_is_lost_next_to_an_inference_of_a_second() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let slow = "options = { mode = \"slow\", at = \"invoke\", slow_ms = \"1000\", operators = \"SOFTMAX\" }";
    let pipeline = format!(
        "metrics.interval_s = 0.5\n[delegates.slow.external]\nlibrary = {:?}\n{slow}\n[pipelines.p]\ndelegate = \
         \"slow\"\nparity.windows = 0",
        test_delegate()
    );
    let setup = setup(broker.port, "bytes = { format = \"s16le\", channels = 6, rate_hz = 48000 }", &[])
        .with(&format!("{:?}", root().join("tests/models/open_input.tflite")), "\"shoulder.tflite\"")
        .with("samples = 1000, hop = 1000", "samples = 200, hop = 72000")
        .with("source.alsa]\ncard = \"plug:recording\"\nrate_hz = 48000", "source.raw]\nfrom = \"stdin\"")
        .with("when_full = \"wait\"", "when_full = \"drop\"")
        .with("[pipelines.p]", &pipeline);
    std::fs::copy(root().join("models/shoulder_int8.tflite"), setup.dir.path().join("shoulder.tflite")).unwrap();
    let mut child =
        command(&setup, "run").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut sound = child.stdin.take().unwrap();
    let daemon = Daemon::adopt(child);
    let writer = std::thread::spawn(move || {
        // 20 ms.
        let block = vec![1; 960 * 6 * 2];
        while sound.write_all(&block).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut predictions = 0;
    let lines = subscriber.until(|line| {
        predictions += usize::from(line.contains("/prediction {"));
        predictions >= 4 && line.contains("/p/p/metrics {")
    });
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    writer.join().unwrap();
    let wire = Wire::new(lines);
    assert!(wire.predictions().iter().all(|prediction| prediction["invoke_us"].as_f64().unwrap() >= 1e6));
    let counts = &wire.json("/p/p/metrics").pop().unwrap()["counts"];
    assert!(counts["samples"].as_u64().unwrap() > 3 * 72_000, "{counts}");
    for count in [&counts["drops"]["source_overflow"], &counts["gaps"]["overflow"]] {
        assert_eq!(count.as_u64(), Some(0), "{counts}");
    }
}

#[test]
fn a_card_that_is_not_there_is_waited_for_and_said() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let setup = setup(broker.port, "", &[]).with("plug:recording", "NoSuchMic");
    let checked = Daemon::start(command(&setup, "check")).wait().expect(0);
    assert_says(&checked.stdout, &["warning: source: there is no sound card \"NoSuchMic\"", "the source waits for it"]);
    let daemon = Daemon::start(command(&setup, "run"));
    let is_degraded = |line: &str| line.contains("p/p/status {") && line.contains("there is no sound card");
    let lines = subscriber.until(is_degraded);
    assert!(lines.last().is_some_and(|line| line.contains("\"state\":\"degraded\"")), "{lines:?}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn what_alsa_does_not_know_is_said() {
    let setup = setup(1, "", &[]).with("plug:recording", "plug:other");
    let checked = Daemon::start(command(&setup, "check")).wait().expect(0);
    assert_says(
        &checked.stdout,
        &["warning: source: cannot open the sound card plug:other: libasound knows no PCM of that name"],
    );
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}
