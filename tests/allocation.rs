//! The per-window path allocates nothing, from the sample's arrival to the decision's hand-over; nor does a meter's reading.
//!
//! A binary of its own, since it replaces the global allocator.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use edgewatt::decision::Verdict;
use edgewatt::decision::classify::ClassPresentation;
use edgewatt::engine::Proof;
use edgewatt::ids::PipelineId;
use edgewatt::infer::{Decision, DecisionTx};
use edgewatt::publish::bus::{Bus, RetainedLimits};
use edgewatt::publish::message::Qos;
use edgewatt::publish::mqtt::MqttClient;
use edgewatt::publish::payload::{DelegateProof, DelegateState};
use edgewatt::publish::publisher::{
    DecisionRoute, Drained, NodePublisher, PipelinePublisher, Progress, PublishLatency,
};
use edgewatt::publish::topic::NodeTopics;
use edgewatt::ring::block_ring;
use edgewatt::units::MonoTime;

use edgewatt_support::{demo, root};

/// Counts the allocations of the thread that asks; the runtime's own C++ heap is not ours to count.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// For 32-bit Arm there is no LiteRT.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn litert_invokes_without_an_allocation_of_ours() {
    use edgewatt::engine::delegate::litert::Accelerator;
    use edgewatt::engine::{Engine, LitertEngine, ModelPlan};

    let library = root().join("runtime").join(std::env::consts::ARCH).join("libLiteRt.so");
    let path = root().join("models/shoulder_int8.tflite");
    let bytes = std::fs::read(&path).unwrap();
    let mut engine = LitertEngine::new(&library, &path, &bytes, &[Accelerator::Cpu], &ModelPlan::of_batch(1)).unwrap();
    let features = vec![0.5; engine.inputs()[0].len()];
    let mut scores = vec![0.0; engine.outputs()[0].len()];
    let count = allocations(|| {
        for _ in 0..100 {
            engine.set_input(0, &features).unwrap();
            engine.invoke().unwrap();
            engine.output(0, 0, &mut scores).unwrap();
        }
    });
    assert_eq!(count, 0, "allocations in 100 invocations");
}

/// Passes the demo's recording through the pipeline; returns the decisions and the allocations.
fn of_recording(config: &edgewatt::config::Config) -> (usize, u64) {
    let mut rig = demo::pipeline(config);
    let samples = demo::recording(config, &rig.labels);
    let mut decisions = 0;
    let count = allocations(|| {
        for chunk in samples.chunks(50) {
            rig.feed(chunk);
            rig.infer.drain();
            while rig.decisions.pop(|_, _, _| ()).is_some() {
                decisions += 1;
            }
        }
    });
    (decisions, count)
}

#[test]
fn the_whole_recording_passes_without_an_allocation() {
    assert_eq!(allocations(|| drop(Box::new(1))), 1, "the counter counts");

    let config = demo::config(&[("speed = 1.0", "speed = \"max\"")]);
    let (decisions, count) = of_recording(&config);
    assert_eq!(decisions, 491);
    assert_eq!(count, 0, "allocations in {decisions} windows");
}

/// Windows are skipped, kept, and given to the model at each opening.
#[test]
fn a_gate_skips_and_keeps_windows_without_an_allocation() {
    let gate = "[pipelines.shoulder]\ngate.level = { threshold = 0.9, block_s = 0.2, hold_s = 1.0, preroll_s = 3.0 }";
    let config = demo::config(&[("speed = 1.0", "speed = \"max\""), ("[pipelines.shoulder]", gate)]);
    let (decisions, count) = of_recording(&config);
    assert!((50..450).contains(&decisions), "some of 491 windows are skipped: {decisions}");
    assert_eq!(count, 0, "allocations in {decisions} windows");
}

/// Spectra of the stream, and of each window.
#[test]
fn spectra_are_computed_without_an_allocation() {
    use edgewatt::features::{self, Feature};
    use edgewatt::frontend::{BLOCK_FRAMES, Chain, Frontend};
    use edgewatt::stream::{SampleType, Shape, StreamSpec};

    let spec = StreamSpec::new(Shape::new([1]), SampleType::I16, Some(16000.0));
    let stft = "{ convention = \"librosa\", frame_length = 512, hop_length = 160 }";
    let frontends = [format!("stft = {stft}"), "log_mel = {}".to_owned(), "mfcc = {}".to_owned()];
    let frontends = frontends.map(|toml| toml::from_str::<Frontend>(&toml).unwrap());
    let (mut chain, _) = Chain::new(&frontends, &spec, |_, _| ()).unwrap();
    let clip = format!("clip = {{ frontend = [{{ stft = {stft} }}, {{ log_mel = {{ log = \"none\" }} }}] }}");
    let features = [&clip, "power_to_db = {}", "mfcc = {}", "normalize = {}"];
    let features = features.map(|toml| toml::from_str::<Feature>(toml).unwrap());
    let window = Shape::new([16000, 1]);
    let mut features = features::Chain::new(&features, &window, &spec, |_, _| ()).unwrap();
    let samples: Vec<f32> = (0..16000).map(|i| (i % 1000) as f32).collect();
    let mut values = 0;
    let count = allocations(|| {
        for _ in 0..3 {
            for block in samples.chunks(BLOCK_FRAMES) {
                values += chain.process(|buffer| buffer.extend_from_slice(block)).len();
            }
            chain.reset();
            values += features.apply(&samples).len();
        }
    });
    assert_eq!(values, 3 * 20 * (97 + 101));
    assert_eq!(count, 0, "allocations in {values} coefficients");
}

/// Filters and rates of the stream.
#[test]
fn samples_are_filtered_and_resampled_without_an_allocation() {
    use edgewatt::frontend::{BLOCK_FRAMES, Chain, Frontend};
    use edgewatt::stream::{SampleType, Shape, StreamSpec};

    let spec = StreamSpec::new(Shape::new([2]), SampleType::I16, Some(44_100.0));
    let frontends = [
        "dc_block = {}",
        "gain = { db = 6.0 }",
        "filter = { low_hz = 100.0, high_hz = 7000.0 }",
        "resample = { rate_hz = 48000.0 }",
        "decimate = { factor = 3, method = 'chebyshev' }",
        "decimate = { factor = 2 }",
    ];
    let frontends = frontends.map(|toml| toml::from_str::<Frontend>(toml).unwrap());
    let (mut chain, output) = Chain::new(&frontends, &spec, |_, _| ()).unwrap();
    assert_eq!(output.rate_hz, Some(8000.0));
    let samples: Vec<f32> = (0..88_200).map(|i| (i % 1000) as f32).collect();
    let mut values = 0;
    let count = allocations(|| {
        for _ in 0..2 {
            for block in samples.chunks(2 * BLOCK_FRAMES).chain(samples.chunks(2).take(5000)) {
                values += chain.process(|buffer| buffer.extend_from_slice(block)).len();
            }
            chain.reset();
        }
    });
    assert!(values > 2 * 2 * 8000, "{values}");
    assert_eq!(count, 0, "allocations in {values} values");
}

#[test]
fn the_wake_word_hears_without_an_allocation() {
    use edgewatt::config::Document;
    use edgewatt_support::runtime_library;
    use edgewatt_support::sound::{golden, sound};

    let path = root().join("examples/wake-word/recording.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("recording.wav", golden("speech.wav").to_str().unwrap());
    let mut config = Document::new(path, text).parse(Some("test")).unwrap_or_else(|e| panic!("{e}"));
    config.runtime_library.get_or_insert_with(runtime_library);
    let mut rig = demo::pipeline(&config);
    let samples = sound("wake_word");
    let mut heard = 0;
    let count = allocations(|| {
        for block in samples.chunks(320) {
            assert!(rig.feed.frames(block, MonoTime::now(), None).is_continue());
            rig.infer.drain();
            while rig.decisions.pop(|_, _, _| ()).is_some() {
                heard += 1;
            }
        }
    });
    assert_eq!(heard, 10);
    assert_eq!(count, 0, "allocations in {} samples", samples.len());
}

#[test]
fn edge_impulse_s_blocks_work_without_an_allocation() {
    use edgewatt::features::{Chain, Feature};
    use edgewatt::stream::{SampleType, Shape, StreamSpec};

    let filter = "filter_type = 'low', filter_cutoff = 100.0, input_decimation_ratio = 10, extra_low_freq = true";
    let axis = |block: &str| format!("{{ axes = [0], {block} }}");
    let blocks = [
        format!("{{ spectral_analysis = {{ version = 4, {filter} }} }}"),
        axis("mfe = { version = 1 }"),
        axis("mfe = { version = 4 }"),
        axis("mfcc = { version = 4 }"),
        axis("spectrogram = { version = 4 }"),
        "{ flatten = {} }, { raw = {} }".to_owned(),
    ];
    let block = format!("edge_impulse = {{ blocks = [{}] }}", blocks.join(", "));
    let features = [block.as_str(), "stats = { of = ['mean'] }"].map(|toml| toml::from_str::<Feature>(toml).unwrap());
    let spec = StreamSpec::new(Shape::new([2]), SampleType::F32, Some(4000.0));
    let window = Shape::new([4000, 2]);
    let samples: Vec<f32> = (0..8000).map(|i| (i % 1000) as f32).collect();
    for feature in features {
        let mut chain = Chain::new(&[feature], &window, &spec, |_, _| ()).unwrap();
        let count = allocations(|| (0..3).for_each(|_| _ = std::hint::black_box(chain.apply(&samples))));
        assert_eq!(count, 0, "allocations in 3 windows");
    }
}

#[test]
fn decisions_on_features_and_labels_and_of_a_chain_are_made_without_an_allocation() {
    use edgewatt::config::Document;
    use edgewatt_support::runtime_library;

    let labels = root().join("models/labels.txt");
    let labels = format!("model.labels = {labels:?}\n");
    let shoulder = "models/shoulder_int8.tflite";
    let first = root().join("tests/models/open_input.tflite");
    let chain =
        format!("raw = {{}}\nmodels = [{{ path = {first:?}, window = {{ samples = 1, hop = 1 }}, output = [4] }}]");
    for (model, [samples, channels], decision) in [
        ("tests/models/autoencoder.tflite", [1, 4], "anomaly = { threshold = 0.5, smooth = 3, min_above_s = 1.0 }"),
        ("tests/models/autoencoder.tflite", [1, 4], chain.as_str()),
        (shoulder, [200, 6], "multi_label = { confirm = 2, windows = 3 }"),
        (shoulder, [200, 6], "consensus = { smooth = 2, suppress_s = 1.0 }"),
    ] {
        let labels = if model == shoulder { labels.as_str() } else { "" };
        let names: Vec<String> = (0..channels).map(|channel| format!("c{channel}")).collect();
        let text = format!(
            "[mqtt]\nbroker = \"none\"\n[pipelines.p]\nwindow = {{ samples = {samples}, hop = 1 }}\n{labels}\
             model.path = {:?}\ndecision.{decision}\n\
             source.replay = {{ path = \"r.csv\", records = {{ channels = {names:?}, rate_hz = 10.0 }} }}\n",
            root().join(model)
        );
        let folder = tempfile::tempdir().unwrap();
        let record = vec!["0"; channels].join(",") + "\n";
        std::fs::write(folder.path().join("r.csv"), names.join(",") + "\n" + &record.repeat(samples + 1)).unwrap();
        let mut config =
            Document::new(folder.path().join("c.toml"), text).parse(Some("test")).unwrap_or_else(|e| panic!("{e}"));
        config.runtime_library.get_or_insert_with(runtime_library);
        let mut rig = demo::pipeline(&config);
        let mut decisions = 0;
        let count = allocations(|| {
            for frame in 1..samples + 50 {
                let values = [frame as f32 % 9.0; 8];
                assert!(rig.feed.frames(&values[..channels], MonoTime::now(), None).is_continue());
                rig.infer.drain();
                while rig.decisions.pop(|_, _, _| ()).is_some() {
                    decisions += 1;
                }
            }
        });
        assert_eq!((decisions, count), (50, 0), "{decision}");
    }
}

#[test]
fn a_meter_that_works_is_read_without_an_allocation() {
    use std::time::Duration;

    use edgewatt::meter::hwmon::HwmonKeys;
    use edgewatt::meter::rapl::RaplKeys;
    use edgewatt::meter::{Meter, MeterKind, Scope, Surroundings, sampler};
    use edgewatt::stop::Stop;
    use edgewatt_support::counters::{Counter, Mover, Tree};

    let tree = Tree::new(&[
        ("class/hwmon/hwmon0/name", "ina219\n"),
        ("class/hwmon/hwmon0/power1_input", "2500000\n"),
        ("class/hwmon/hwmon0/in1_input", "5000\n"),
        ("class/hwmon/hwmon0/curr1_input", "500\n"),
    ]);
    tree.zone("intel-rapl:0", "package-0", 0);
    tree.zone("intel-rapl:0:0", "dram", 0);
    let counter = |id: &str| Counter::new(&tree.path(&format!("class/powercap/{id}/energy_uj")), 5.0, 0, None);
    let _mover = Mover::start(vec![counter("intel-rapl:0"), counter("intel-rapl:0:0")]);
    let period = Duration::from_millis(1);
    let surroundings = Surroundings::without_node(tree.root(), period);
    let chip = "ina219".to_owned();
    let hwmon = HwmonKeys { chip, device: None, channel: None, label: None, scope: Scope::Board };
    let mut meters: Vec<Box<dyn Meter>> =
        vec![RaplKeys { interface: None }.build("package", &surroundings), hwmon.build("board", &surroundings)];
    let stop = Stop::new().unwrap();
    let (mut readings, mut before, mut allocated, mut works) = (0, 0, 0, [false; 2]);
    sampler::run(&mut meters, period, &stop, |meter, _, reading| {
        let now = ALLOCATIONS.get();
        // The first reading of each opens its files, and a busy machine may halt the counter: that error has a text.
        if reading.is_ok() && works[meter] {
            allocated += now - before;
            readings += 1;
        }
        works[meter] = reading.is_ok();
        if readings == 200 {
            stop.request();
        }
        before = ALLOCATIONS.get();
    })
    .unwrap();
    assert_eq!(allocated, 0, "allocations in {readings} readings");
}

/// A publisher of a pipeline with seven labels, and where its decisions come from.
fn publisher() -> (DecisionTx, PipelinePublisher) {
    let (sender, decisions) = block_ring(16, 16 * 7);
    let classes = (0..7).map(|label| format!("label {label}")).collect();
    let presentation = Arc::new(ClassPresentation::new(classes, Some(usize::MAX)));
    let proof = DelegateProof {
        isolation: "thread",
        library: None,
        library_version: None,
        engine: Proof::default(),
        parity: None,
    };
    let cpu = || "cpu".to_owned();
    let publisher = PipelinePublisher {
        id: PipelineId(0),
        name: "arm".into(),
        topics: NodeTopics::new("edgewatt", "test").pipeline("arm"),
        route: DecisionRoute { decisions, presentation, qos: Qos::AtLeastOnce },
        next: VecDeque::new(),
        hold: false,
        delegate: DelegateState { requested: cpu(), active: cpu(), reason: None, warnings: Vec::new(), proof },
        stats: Arc::default(),
        source_stats: Arc::default(),
        publish_latency: PublishLatency::default(),
        progress: Progress::default(),
    };
    (sender, publisher)
}

fn decision(seq: u64) -> Decision {
    let now = MonoTime::now();
    Decision {
        seq,
        verdict: Verdict { class: Some(3), score: 0.75, raw_class: Some(3), ..Verdict::VALUES },
        truth: None,
        stream_ns: None,
        arrival: now,
        invoke_start: now,
        invoke_end: now,
        batch: 1,
    }
}

/// The buffer of a payload is shared by all who hold it: the bus and its sinks copy nothing.
#[test]
fn a_prediction_costs_one_buffer_however_many_sinks_there_are() {
    const PREDICTIONS: u64 = 500;
    let mut settings = edgewatt_support::link::settings(1);
    settings.outbox.max_messages = 64;
    let bus = Bus::new(RetainedLimits { topics: 4, payload_bytes: 1000 });
    bus.add(MqttClient::new(settings, |_, _| {}).unwrap().handle());
    let (mut decisions, mut publisher) = publisher();
    let topics = NodeTopics::new("edgewatt", "test");
    let node_publisher = NodePublisher { bus, boot: "b007".into(), topics };
    let mut publish = |count: u64| {
        for seq in 0..count {
            assert!(decisions.push(decision(seq), &[0.25; 7]));
            assert_ne!(publisher.drain(&node_publisher, false), Drained::More);
        }
    };
    // The queue of the outbox grows to its size first.
    publish(PREDICTIONS);
    let one_sink = allocations(|| publish(PREDICTIONS));
    assert_eq!(one_sink, 2 * PREDICTIONS, "the payload, and the count of those who hold it, for each prediction");

    let mut subscription = node_publisher.bus.subscribe(2 * PREDICTIONS as usize);
    let two_sinks = allocations(|| publish(PREDICTIONS));
    assert!(two_sinks < one_sink + PREDICTIONS / 8, "{two_sinks}: the queue of the second sink grows by blocks");
    let received = std::iter::from_fn(|| subscription.try_next()).filter(|message| message.marks.is_some()).count();
    assert_eq!((received as u64, subscription.dropped()), (PREDICTIONS, 0));
}
