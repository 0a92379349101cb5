//! What reaches the model does not depend on how frames come: one at a time or in blocks, through a front end or not, as
//! bytes or as floats.

use std::sync::Arc;

use edgewatt::config::Document;
use edgewatt::frontend;
use edgewatt::infer::input::InputStage;
use edgewatt::source::sink::frame_ring;
use edgewatt::source::{Gap, Record};
use edgewatt::stop::Stop;
use edgewatt::stream::{SampleType, Shape, StreamSpec};
use edgewatt::units::MonoTime;
use edgewatt_support::demo::{self, Rig};
use edgewatt_support::{root, runtime_library};

const PERIOD_NS: i64 = 20_000_000;

/// Samples of the recording without a gap, at an even pace.
fn samples() -> Vec<(Record, Vec<f32>)> {
    let config = demo::config(&[]);
    let mut samples = demo::recording(&config, &[]);
    samples.truncate(3000);
    for (n, (record, _)) in (0..).zip(&mut samples) {
        *record = Record { stream_ns: Some(n * PERIOD_NS), truth: None };
    }
    samples
}

fn rig(with: &str) -> Rig {
    let keys = format!("speed = \"max\"\n{with}");
    demo::pipeline(&demo::config(&[
        ("speed = 1.0", &keys),
        ("decision.classify = { smooth = 3 }", "decision.classify = {}"),
    ]))
}

/// The demo's pipeline with keys of its own table.
fn rig_with_keys(keys: &str) -> Rig {
    let window = format!("{keys}\nwindow = {{ samples = 200, hop = 50 }}");
    demo::pipeline(&demo::config(&[
        ("speed = 1.0", "speed = \"max\""),
        ("window = { samples = 200, hop = 50 }", &window),
        ("decision.classify = { smooth = 3 }", "decision.classify = {}"),
    ]))
}

/// The scores of every window, after `feed` has fed a part and the thread has worked on it.
fn scores(
    mut rig: Rig,
    samples: &[(Record, Vec<f32>)],
    feed: impl Fn(&mut Rig, &[(Record, Vec<f32>)]),
) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for part in samples.chunks(100) {
        feed(&mut rig, part);
        rig.infer.drain();
        while let Some(scores) = rig.decisions.pop(|_, first, second| [first, second].concat()) {
            all.push(scores);
        }
    }
    all
}

fn one_by_one(rig: &mut Rig, samples: &[(Record, Vec<f32>)]) {
    rig.feed(samples);
}

#[test]
fn blocks_of_frames_give_what_single_frames_give() {
    let samples = samples();
    let single = scores(rig(""), &samples, one_by_one);
    assert_eq!(single.len(), (3000 - 200) / 50 + 1);
    for block in [1, 37, 64] {
        let in_blocks = scores(rig(""), &samples, |rig, part| {
            for frames in part.chunks(block) {
                let values: Vec<f32> = frames.iter().flat_map(|(_, values)| values.iter().copied()).collect();
                assert!(rig.feed.frames(&values, MonoTime::now(), frames[0].0.stream_ns).is_continue());
            }
        });
        assert_eq!(in_blocks, single, "blocks of {block}");
    }
}

/// A gap ends the skipping of frames between windows, and the block behind it is longer than a window.
#[test]
fn a_gap_between_distant_windows_begins_a_window() {
    let samples = samples();
    let config = demo::config(&[
        ("speed = 1.0", "speed = \"max\""),
        ("window = { samples = 200, hop = 50 }", "window = { samples = 200, hop = 3000 }"),
        ("decision.classify = { smooth = 3 }", "decision.classify = {}"),
    ]);
    let mut rig = demo::pipeline(&config);
    let mut windows = 0;
    for part in samples[..2000].chunks(1000) {
        let values: Vec<f32> = part.iter().flat_map(|(_, values)| values.iter().copied()).collect();
        rig.feed.cut(Gap::Interrupted);
        assert!(rig.feed.frames(&values, MonoTime::now(), part[0].0.stream_ns).is_continue());
        rig.infer.drain();
        while rig.decisions.pop(|_, _, _| ()).is_some() {
            windows += 1;
        }
    }
    assert_eq!(windows, 2, "one at the beginning of each part");
}

#[test]
fn a_front_end_gives_windows_what_it_makes_of_the_stream() {
    let samples = samples();
    let plain = scores(rig(""), &samples, one_by_one);
    let through = scores(rig_with_keys("frontend = [{ decimate = { factor = 1 } }]"), &samples, one_by_one);
    assert_eq!(through, plain, "the mean of one sample is the sample");

    let mean = |pair: &[(Record, Vec<f32>)]| {
        let values = pair[0].1.iter().zip(&pair[1].1).map(|(a, b)| (a + b) * 0.5).collect();
        (pair[1].0, values)
    };
    let halved: Vec<_> = samples.chunks_exact(2).map(mean).collect();
    let expected = scores(rig(""), &halved, one_by_one);
    let decimated = scores(rig_with_keys("frontend = [{ decimate = { factor = 2 } }]"), &samples, one_by_one);
    assert_eq!(decimated.len(), (1500 - 200) / 50 + 1);
    assert_eq!(decimated, expected);
}

#[test]
fn a_gap_goes_through_the_front_end_too() {
    let mut samples = samples();
    // One sample is missing in the middle of a pair, and the time jumps.
    for (record, _) in &mut samples[1001..] {
        record.stream_ns = record.stream_ns.map(|ns| ns + 1_000_000_000);
    }
    let decimated = scores(rig_with_keys("frontend = [{ decimate = { factor = 2 } }]"), &samples, one_by_one);
    // 500 frames before the gap, 999 behind it; no window has some of both.
    assert_eq!(decimated.len(), ((500 - 200) / 50 + 1) + ((999 - 200) / 50 + 1));
    let behind = scores(rig_with_keys("frontend = [{ decimate = { factor = 2 } }]"), &samples[1001..], one_by_one);
    assert_eq!(decimated[7..], behind);
}

/// A model with a uint8 input, fed with frames of four values.
fn uint8_rig(sample: SampleType) -> Rig {
    let text = format!(
        "runtime.library = {:?}\nmqtt.broker = 'mqtt://127.0.0.1'\n[pipelines.p]\nwindow = {{ samples = 1, hop = 1 }}\n\
         model.path = 'tests/models/uint8_input.tflite'\ndecision.raw = {{}}\n[pipelines.p.source.lines]\nfrom = 'stdin'\n\
         records = {{ channels = ['a', 'b', 'c', 'd'] }}\n",
        runtime_library()
    );
    let config = Document::new(root().join("test.toml"), text).parse(Some("test")).unwrap();
    let mut prepared = demo::prepare(&config);
    let built = prepared.built.take().unwrap();
    let spec = StreamSpec { frame: Shape::new([4]), sample, ..prepared.sink.spec.clone() };
    let (frontends, stream) = frontend::Chain::new(&[], &spec, |_, _| ()).unwrap();
    prepared.stages.input = InputStage::new(frontends, Vec::new(), &stream, &config.pipelines[0].window, true);
    prepared.sink.spec = spec;
    let (feed, samples) = frame_ring(&prepared.sink, "p", Arc::new(Stop::new().unwrap()), Arc::default());
    demo::rig(feed, samples, prepared, built.engine)
}

#[test]
fn bytes_give_the_model_what_the_same_numbers_as_floats_give() {
    let frames: Vec<u8> = (0..200).collect();
    let floats: Vec<f32> = frames.iter().map(|byte| f32::from(*byte)).collect();
    let integers: Vec<i16> = frames.iter().map(|byte| i16::from(*byte)).collect();
    let outputs = |mut rig: Rig, feed: &dyn Fn(&mut Rig)| {
        feed(&mut rig);
        rig.infer.drain();
        let mut all = Vec::new();
        while let Some(values) = rig.decisions.pop(|_, first, second| [first, second].concat()) {
            all.push(values);
        }
        all
    };
    let now = MonoTime::now();
    let by_floats =
        outputs(uint8_rig(SampleType::F32), &|rig| assert!(rig.feed.frames(&floats, now, None).is_continue()));
    let by_bytes =
        outputs(uint8_rig(SampleType::U8), &|rig| assert!(rig.feed.frames(&frames, now, None).is_continue()));
    let by_audio =
        outputs(uint8_rig(SampleType::I16), &|rig| assert!(rig.feed.frames(&integers, now, None).is_continue()));
    assert_eq!(by_floats.len(), 50);
    assert!(by_floats.windows(2).any(|pair| pair[0] != pair[1]), "the model's answer depends on its input");
    assert_eq!(by_bytes, by_floats);
    assert_eq!(by_audio, by_floats);
}
