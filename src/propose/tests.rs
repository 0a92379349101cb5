//! What is proposed for which shapes, and that every text that is written can be read.

use std::path::Path;

use super::file::{Surroundings, render};
use super::source::{Origin, kinds, stand_in, write};
use super::*;
use crate::config::Document;
use crate::model::{OutputValues, ValueMeaning};
use crate::schema::parts;

/// A model of one input and one output.
struct Shape {
    input: &'static [i32],
    element: ElementType,
    /// The scale and zero point of the input.
    scale: Option<(f32, i64)>,
    state: bool,
    output: &'static [i32],
    /// The operator that gives the output, and what its values are.
    by: (&'static str, Option<ValueMeaning>),
}

const SOFTMAX: (&str, Option<ValueMeaning>) = ("SOFTMAX", Some(ValueMeaning::Probabilities));
const SIGMOID: (&str, Option<ValueMeaning>) = ("LOGISTIC", Some(ValueMeaning::Probabilities));
const LINEAR: (&str, Option<ValueMeaning>) = ("FULLY_CONNECTED", Some(ValueMeaning::Logits));

fn float(input: &'static [i32], output: &'static [i32], by: (&'static str, Option<ValueMeaning>)) -> Shape {
    Shape { input, element: ElementType::FLOAT32, scale: None, state: false, output, by }
}

fn int8(
    input: &'static [i32],
    scale: (f32, i64),
    output: &'static [i32],
    by: (&'static str, Option<ValueMeaning>),
) -> Shape {
    Shape { element: ElementType::INT8, scale: Some(scale), ..float(input, output, by) }
}

fn demo() -> ModelSummary {
    ModelSummary::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shoulder_fp32.tflite")).unwrap()
}

impl Shape {
    fn summary(&self) -> ModelSummary {
        let mut summary = demo();
        summary.stateful = self.state;
        let input = &mut summary.main.inputs[0];
        (input.shape, input.shape_signature, input.element) = (self.input.to_vec(), self.input.to_vec(), self.element);
        input.quantization = self.scale.map(|(scale, zero_point)| Quantization::PerTensor { scale, zero_point });
        let output = &mut summary.main.outputs[0];
        (output.tensor.shape, output.tensor.shape_signature) = (self.output.to_vec(), self.output.to_vec());
        output.values = OutputValues { meaning: self.by.1, reason: self.by.0.to_owned() };
        summary
    }
}

fn facts<'a>(summary: &'a ModelSummary, labels: &'a dyn Fn(usize, usize) -> Option<Labels>) -> Facts<'a> {
    Facts {
        summary,
        stem: "a model.v2",
        labels,
        wake_word: None,
        project: None,
        channels: None,
        rate_hz: None,
        window: None,
    }
}

fn proposed(shape: &Shape) -> Proposal {
    propose(&facts(&shape.summary(), &|_, _| None)).unwrap()
}

/// The text for a proposal and a source, and what is wrong with it as `check` says it.
fn text(proposal: &Proposal, source: &source::SourceText) -> (String, Vec<crate::schema::Part>) {
    let text = render(
        proposal,
        &Surroundings {
            model: "m.tflite".into(),
            model_path: "m.tflite".into(),
            labels_path: proposal.labels.as_ref().map(|_| "labels.txt".into()),
            source,
            broker: Part::new("broker", "mqtt://127.0.0.1", Confidence::Known, "as you said"),
            meters: vec![("rapl".into(), "rapl = {}".into())],
            other_meters: vec!["pmic: a line\nand a line that must not end the comment".into()],
        },
    );
    let problems = Document::new("m.toml", text.clone()).parse(Some("node")).err().map(|error| error.to_string());
    (text, problems.map(|problems| parts(&problems)).unwrap_or_default())
}

#[test]
fn each_known_shape_gets_its_stream_its_window_and_its_decision() {
    let quantised = (0.101_960_79, -128);
    let cases = [
        (
            Shape { state: true, ..int8(&[1, 3, 40], quantised, &[1, 1], SIGMOID) },
            "sound at 16000 Hz",
            (3, 3),
            "micro_frontend",
            "",
            "wake_word",
        ),
        (
            Shape { state: true, ..int8(&[1, 1, 40], quantised, &[1, 1], SIGMOID) },
            "sound at 16000 Hz",
            (1, 1),
            "micro_frontend",
            "",
            "wake_word",
        ),
        (
            int8(&[1, 49, 40, 1], quantised, &[1, 4], SOFTMAX),
            "sound at 16000 Hz",
            (49, 12),
            "hop_ms = 20",
            "",
            "classify",
        ),
        (int8(&[1, 1960], quantised, &[1, 4], SOFTMAX), "sound at 16000 Hz", (49, 12), "hop_ms = 20", "", "classify"),
        (float(&[-1, 49, 10, 1], &[-1, 12], SOFTMAX), "sound at 16000 Hz", (49, 12), "n_mfcc = 10", "", "classify"),
        (
            float(&[1, 124, 129, 1], &[1, 8], LINEAR),
            "sound at 16000 Hz",
            (124, 31),
            "frame_length = 255",
            "",
            "classify",
        ),
        (float(&[-1, 640], &[-1, 640], LINEAR), "sound at 16000 Hz", (5, 1), "log_mel", "", "anomaly"),
        (float(&[15600], &[1, 521], SIGMOID), "sound at 16000 Hz", (15600, 7800), "", "3.0517578125e-5", "multi_label"),
        (float(&[1, 16000], &[1, 3], SOFTMAX), "sound at 16000 Hz", (16000, 8000), "", "3.0517578125e-5", "classify"),
        (int8(&[1, 16000], (256.0, 0), &[1, 3], SOFTMAX), "sound at 16000 Hz", (16000, 8000), "", "", "classify"),
        (float(&[1, 44032], &[1, 3], SOFTMAX), "sound at 44100 Hz", (44032, 22016), "", "3.0517578125e-5", "classify"),
        (
            float(&[1, 144_000], &[1, 6522], LINEAR),
            "sound at 48000 Hz",
            (144_000, 72_000),
            "",
            "3.0517578125e-5",
            "multi_label",
        ),
        (
            int8(&[1, 96, 96, 3], (1.0 / 255.0, -128), &[1, 2], SOFTMAX),
            "pictures of 96 x 96 x 3",
            (1, 1),
            "",
            "",
            "classify",
        ),
        (
            float(&[1, 96, 96, 3], &[1, 2], SOFTMAX),
            "pictures of 96 x 96 x 3",
            (1, 1),
            "",
            "0.00392156862745098",
            "classify",
        ),
        (int8(&[1, 32, 32, 1], (1.0, -128), &[1, 10], SOFTMAX), "pictures of 32 x 32 x 1", (1, 1), "", "", "classify"),
        (float(&[1, 128, 3, 1], &[1, 4], SOFTMAX), "3 channels", (128, 64), "", "", "classify"),
        (float(&[1, 6, 200], &[1, 7], SOFTMAX), "6 channels", (200, 100), "", "", "classify"),
        (float(&[1, 600], &[1, 5], SOFTMAX), "3 channels", (200, 100), "", "", "classify"),
        (float(&[1, 24, 32, 1], &[1, 3], SOFTMAX), "32 channels", (24, 12), "", "", "classify"),
        (float(&[1, 4], &[1, 1], LINEAR), "4 channels", (1, 1), "", "", "regress"),
        (float(&[1, 4], &[1, 1], SIGMOID), "4 channels", (1, 1), "", "", "threshold"),
        (float(&[1, 4], &[1, 3], ("NEG", None)), "4 channels", (1, 1), "", "", "raw"),
        (float(&[1, 4], &[1, 3], SIGMOID), "4 channels", (1, 1), "", "", "multi_label"),
        (
            float(&[1, 4], &[1, 3], ("edgetpu-custom-op", Some(ValueMeaning::Probabilities))),
            "4 channels",
            (1, 1),
            "",
            "",
            "classify",
        ),
        (
            float(&[1, 320, 320, 3], &[1, 2100, 84], LINEAR),
            "pictures of 320 x 320 x 3",
            (1, 1),
            "",
            "0.00392156862745098",
            "raw",
        ),
    ];
    for (shape, stream, window, frontend, features, decision) in cases {
        let proposal = proposed(&shape);
        let what = format!("{:?} {:?}: {proposal:#?}", shape.input, shape.output);
        assert_eq!(proposal.stream.in_words(), stream, "{what}");
        assert_eq!((proposal.samples, proposal.hop), window, "{what}");
        let joined = [proposal.frontend.join(","), proposal.features.join(",")];
        for (expected, found) in [(frontend, &joined[0]), (features, &joined[1])] {
            assert_eq!(expected.is_empty(), found.is_empty(), "{what}");
            assert!(found.contains(expected), "{what}");
        }
        assert_eq!(proposal.decision.0, decision, "{what}");
        assert_eq!(proposal.name, "a_model_v2");
        let (text, problems) = text(&proposal, &stand_in(&proposal.stream).unwrap());
        assert!(problems.is_empty(), "{problems:?}\n{text}");
        assert_eq!(proposal.open.len(), usize::from(decision == "anomaly"), "{what}");
    }
}

#[test]
fn each_source_for_each_stream_is_read_or_open_at_the_keys_that_are_named() {
    let streams = [
        float(&[1, 200, 6], &[1, 7], SOFTMAX),
        float(&[1, 16000], &[1, 3], SOFTMAX),
        int8(&[1, 96, 96, 3], (1.0 / 255.0, -128), &[1, 2], SOFTMAX),
        int8(&[1, 32, 32, 1], (1.0, -128), &[1, 10], SOFTMAX),
    ];
    for shape in &streams {
        let proposal = proposed(shape);
        for kind in kinds() {
            let origin = Origin { given: Some((kind, None)), ..Origin::default() };
            let source = match write(&proposal.stream, &origin) {
                Ok(source) => source,
                Err(why) => {
                    assert!(kind == "lines" && why.contains("hold no pictures"), "{kind}: {why}");
                    continue;
                }
            };
            let (text, problems) = text(&proposal, &source);
            let missing = problems.iter().filter(|problem| problem.message.starts_with("this key is missing"));
            let missing: Vec<&str> = missing.filter_map(|problem| problem.key.as_deref()?.rsplit('.').next()).collect();
            let open: Vec<&str> = source.open.iter().map(|open| open.key.rsplit('.').next().unwrap()).collect();
            assert_eq!(missing, open, "{problems:?}\n{text}");
            for open in &source.open {
                assert!(text.contains(&format!("# {}", open.example)), "{text}");
            }
        }
        let nothing = write(&proposal.stream, &Origin::default()).unwrap();
        let (text, problems) = text(&proposal, &nothing);
        assert!(
            problems.len() == 1 && problems[0].key.as_deref().is_some_and(|key| key.ends_with(".source")),
            "{problems:?}\n{text}"
        );
    }
}

#[test]
fn what_the_user_says_of_the_source_is_what_the_file_has() {
    let proposal = proposed(&float(&[1, 200, 6], &[1, 7], SOFTMAX));
    let lines = |given: (&str, Option<&str>)| {
        let origin = Origin { given: Some(given), ..Origin::default() };
        write(&proposal.stream, &origin).map(|source| source.lines.join("\n"))
    };
    assert!(lines(("serial", Some("/dev/ttyUSB0"))).unwrap().starts_with("port = \"/dev/ttyUSB0\"\n"));
    assert!(lines(("lines", Some("/run/a.sock"))).unwrap().starts_with("from = { socket = \"/run/a.sock\" }\n"));
    assert!(lines(("lines", Some("fifo"))).unwrap().starts_with("from = { fifo = \"fifo\" }\n"));
    assert!(lines(("exec", Some("python3 a.py"))).unwrap().starts_with("command = [\"python3\", \"a.py\"]\n"));
    assert_eq!(lines(("replay", Some("walk.json"))).unwrap(), "path = \"walk.json\"\nspeed = \"max\"");
    assert!(lines(("join", None)).unwrap_err().contains("by hand"));
    assert!(lines(("tape", None)).unwrap_err().contains("there is no source tape; there are lines, raw"));
    let found = source::Found {
        kind: "iio".into(),
        keys: toml::from_str::<toml::Table>(
            "device = 'mpu6050'\nchannels = ['a', 'b', 'c', 'd', 'e', 'f', 'g']\nrate_hz = 50.0",
        )
        .unwrap()
        .into_iter()
        .collect(),
        what: "iio:device0".into(),
    };
    let written = write(&proposal.stream, &Origin { found: Some(&found), ..Origin::default() }).unwrap();
    let expected = ["device = \"mpu6050\"", "channels = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\"]", "rate_hz = 50.0"];
    assert_eq!(written.lines, expected);
    assert!(written.open.is_empty());
}

#[test]
fn labels_a_json_file_and_given_channels_are_used() {
    let shape = float(&[1, 200, 6], &[1, 3], ("NEG", None));
    let summary = shape.summary();
    let file = |_, scores| (scores == 3).then(|| Labels::File { path: "labels.txt".into(), why: "three".into() });
    let channels = ["a", "b", "c", "d", "e", "f"].map(str::to_owned);
    let with = Facts { channels: Some(&channels), rate_hz: Some(50.0), ..facts(&summary, &file) };
    let proposal = propose(&with).unwrap();
    assert_eq!(proposal.decision, ("classify", "scores = \"probabilities\"".to_owned()));
    assert!(matches!(&proposal.labels, Some(Some(Labels::File { path, .. })) if path == "labels.txt"));
    assert_eq!(proposal.stream, Stream::Numbers { channels: channels.to_vec(), rate_hz: Some(50.0) });
    let few = Facts { channels: Some(&channels[..2]), ..with };
    assert_eq!(propose(&few).unwrap_err(), "the model takes 6 channels, and --channels names 2: a, b");

    let word = Shape { state: true, ..int8(&[1, 3, 40], (0.1, -128), &[1, 1], SIGMOID) }.summary();
    let json =
        WakeWord { file: "a.json".into(), word: "hey you".into(), cutoff: 0.7, window: Some(3), step_ms: Some(20) };
    let none = |_: usize, _: usize| None;
    let proposal = propose(&Facts { wake_word: Some(&json), ..facts(&word, &none) }).unwrap();
    assert_eq!(proposal.decision.1, "word = \"hey you\", cutoff = 0.7, window = 3");
    assert_eq!(proposal.frontend, ["{ micro_frontend = { hop_ms = 20 } }"]);
    let named = propose(&Facts { stem: "hey_jarvis", ..facts(&word, &none) }).unwrap();
    assert_eq!(named.decision.1, "word = \"hey jarvis\", cutoff = 0.97");
    let other = propose(&Facts { stem: "computer", ..facts(&word, &none) }).unwrap();
    assert_eq!(other.part("decision").unwrap().confidence, Confidence::Unknown);
}

#[test]
fn what_nothing_can_be_proposed_for_is_said_with_what_would_help() {
    let none = |_: usize, _: usize| None;
    let refused = |shape: Shape| propose(&facts(&shape.summary(), &none)).unwrap_err();
    assert!(refused(float(&[1, -1], &[1, 3], SOFTMAX)).contains("say it with --window SAMPLES"));
    assert!(refused(float(&[1, 8, 9, 10, 11], &[1, 3], SOFTMAX)).contains("a shape that no source of edgewatt gives"));
    let open = float(&[1, -1], &[1, 3], SOFTMAX).summary();
    let said = propose(&Facts { window: Some(16000), ..facts(&open, &none) }).unwrap();
    assert_eq!((said.samples, said.stream.in_words().as_str()), (16000, "sound at 16000 Hz"));
    let mut several = demo();
    several.main.inputs.push(several.main.inputs[0].clone());
    assert!(propose(&facts(&several, &none)).unwrap_err().contains("the model has 2 inputs"));
    let mut without = demo();
    without.main.outputs.clear();
    assert!(propose(&facts(&without, &none)).unwrap_err().contains("has no outputs"));
}
