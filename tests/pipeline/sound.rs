//! Sound: the front end against pymicro-features, and the wake word of examples/ against pymicro-wakeword, both on the
//! sound of tests/golden/audio.

use edgewatt::frontend::FrontendKind;
use edgewatt::frontend::micro_frontend::MicroFrontend;
use edgewatt::stream::{SampleType, Shape, StreamSpec};
use edgewatt_support::daemon::Setup;
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::sound::{RATE_HZ, golden, numbers, sound, wav};
use edgewatt_support::wire::Wire;
use serde_json::Value;

const CHANNELS: usize = 40;
/// Samples in the front end's window, and from one to the next.
const WINDOW: usize = 480;
const HOP: usize = 160;

fn microphone() -> StreamSpec {
    StreamSpec {
        frame: Shape::new([1]),
        sample: SampleType::I16,
        rate_hz: Some(RATE_HZ as f64),
        names: Vec::new(),
        units: Vec::new(),
    }
}

/// FNV-1a over the bytes of the values, for the frames that end in each second.
fn sums(frames: &[f32]) -> Vec<u32> {
    let mut sums = Vec::new();
    for (index, frame) in frames.chunks_exact(CHANNELS).enumerate() {
        let second = (WINDOW + index * HOP - 1) / RATE_HZ;
        sums.resize(sums.len().max(second + 1), 0x811c_9dc5_u32);
        for byte in frame.iter().flat_map(|value| (*value as u16).to_le_bytes()) {
            sums[second] = (sums[second] ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    sums
}

#[test]
fn ten_minutes_give_the_numbers_of_pymicro_features() {
    let mut stage = MicroFrontend { hop_ms: 10, scale: 1.0 }.build(&microphone());
    let samples: Vec<f32> = sound("front_end").into_iter().map(f32::from).collect();
    let mut frames = Vec::new();
    for (index, block) in samples.chunks(256).enumerate() {
        // Pieces of other lengths too.
        let (first, second) = block.split_at(index % block.len());
        stage.process(first, &mut frames);
        stage.process(second, &mut frames);
    }
    assert_eq!(frames.len() / CHANNELS, (samples.len() - WINDOW) / HOP + 1);
    for line in std::fs::read_to_string(golden("front_end.frames")).unwrap().lines() {
        let mut expected = line.split_whitespace().map(|word| word.parse::<f32>().unwrap());
        let index = expected.next().unwrap() as usize;
        assert_eq!(frames[index * CHANNELS..][..CHANNELS], expected.collect::<Vec<_>>(), "frame {index}");
    }
    let expected = std::fs::read_to_string(golden("front_end.sums")).unwrap();
    let expected: Vec<u32> = expected.lines().map(|sum| u32::from_str_radix(sum, 16).unwrap()).collect();
    let sums = sums(&frames);
    assert_eq!(sums.len(), expected.len());
    let differ: Vec<usize> = (0..sums.len()).filter(|second| sums[*second] != expected[*second]).collect();
    assert!(differ.is_empty(), "these seconds differ: {differ:?}");
}

/// What examples/wake-word/recording.toml says of the sound of wake_word.plan.
fn listen(pipeline: &str, decision: &str) -> Wire {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::of(&root().join("examples/wake-word/recording.toml"))
        .with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port))
        .with("../../runtime", &root().join("runtime").display().to_string())
        .with("decision.wake_word = { ", &format!("{pipeline}decision.wake_word = {{ {decision}"));
    setup.write("recording.wav", &wav(&sound("wake_word")));
    setup.run_once().expect(0);
    Wire::new(subscriber.until(|line| line.contains("/kitchen/status offline")))
}

fn field(message: &Value, name: &str) -> f64 {
    message[name].as_f64().unwrap_or_else(|| panic!("no {name} in {message}"))
}

#[test]
fn a_wake_word_is_heard_where_pymicro_wakeword_hears_it_and_only_then_published() {
    let heard = numbers("wake_word.heard");
    // It says so in each window while the mean is high; we do once.
    let mut expected: Vec<usize> = Vec::new();
    for window in heard {
        if expected.last().is_none_or(|last| window > last + 33) {
            expected.push(window);
        }
    }
    let wire = listen("", "");
    let last_sample = |window: &usize| WINDOW + (3 * window + 2) * HOP - 1;
    let expected: Vec<usize> = expected.iter().map(last_sample).collect();
    let predictions = wire.predictions();
    let samples = |message: &Value| (field(message, "stream_s") * RATE_HZ as f64).round() as usize;
    assert_eq!(predictions.iter().map(samples).collect::<Vec<_>>(), expected);
    assert_eq!(wire.seqs(), (0..expected.len() as u64).collect::<Vec<_>>(), "no number is missing");
    for prediction in &predictions {
        assert_eq!(prediction["label"], "okay nabu");
        assert!(field(prediction, "score") > 0.85);
    }
    // Each inference counts, also those that nobody hears of.
    let windows = numbers("wake_word.probabilities").len();
    assert_eq!(wire.metrics()["counts"]["predictions"], windows);
}

#[test]
fn the_probabilities_of_the_runtime_s_own_kernels_are_those_of_pymicro_wakeword_within_a_step() {
    let wire = listen("delegate = \"cpu\"\n", "every_window = true, ");
    let expected = numbers("wake_word.probabilities");
    let predictions = wire.predictions();
    assert_eq!(predictions.len(), expected.len());
    for (window, (prediction, expected)) in predictions.iter().zip(expected).enumerate() {
        let steps = 256.0 * field(prediction, "probability");
        assert!((steps - expected as f64).abs() <= 1.0, "window {window}: {steps}, not {expected}");
    }
}
