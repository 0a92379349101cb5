//! Measures the infer thread of the demo's pipeline: each stage alone, all stages, and all without the invoke.
//!
//! `cargo bench --bench infer`; one prediction is 50 new samples and one window of 200.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use edgewatt::decision::EngineOutputs;
use edgewatt::infer::window::Windower;
use edgewatt::source::RecordParser;
use edgewatt_support::demo;
use edgewatt_support::root;

const HOP: usize = 50;

fn stages(c: &mut Criterion) {
    let config = demo::config(&[]);
    let prepared = demo::prepare(&config);
    let (mut stages, mut engine) = (prepared.stages, prepared.built.unwrap().engine);
    let samples = demo::recording(&config, &prepared.labels);
    let window: Vec<f32> = samples.iter().take(200).flat_map(|(_, values)| values.iter().copied()).collect();
    let text = std::fs::read(root().join("models/shoulder_recording.csv")).unwrap();
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let mut parser =
        RecordParser::new(config.pipelines[0].source.kind().records().unwrap().clone(), prepared.labels.clone());
    parser.header(lines.next().unwrap()).unwrap();
    let lines: Vec<&[u8]> = lines.take(HOP).collect();
    // The time and six channels; the true class is looked up, too.
    let mut parse = c.benchmark_group("parse");
    parse.throughput(Throughput::Elements(7 * HOP as u64));
    parse.bench_function("50 CSV records, by number", |b| {
        b.iter(|| lines.iter().for_each(|line| _ = black_box(parser.parse(line))));
    });
    // What has a quote goes the general way.
    let quoted: Vec<Vec<u8>> = lines.iter().map(|line| [&b"\"0.00\""[..], &line[4..]].concat()).collect();
    parse.bench_function("50 CSV records with quotes, by number", |b| {
        b.iter(|| quoted.iter().for_each(|line| _ = black_box(parser.parse(line))));
    });
    parse.finish();

    let mut group = c.benchmark_group("stage");
    let mut windower = Windower::<f32>::new(200, HOP, 6);
    group.bench_function("window of 50 new samples", |b| {
        b.iter(|| {
            for (_, values) in &samples[..HOP] {
                windower.push(values, &[], |value| value);
            }
            if black_box(windower.ready()).is_some() {
                windower.advance();
            }
        });
    });

    group.bench_function("standardize", |b| b.iter(|| _ = black_box(stages.features.apply(black_box(&window)))));
    let features = stages.features.apply(&window).to_vec();
    group.bench_function("set input (quantise)", |b| {
        b.iter(|| engine.set_input(0, black_box(&features)).unwrap());
    });
    group.bench_function("invoke", |b| b.iter(|| engine.invoke().unwrap()));
    let mut values = Vec::with_capacity(stages.decider.most_values());
    group.bench_function("decide (dequantise, smooth)", |b| {
        b.iter(|| {
            let mut outputs = EngineOutputs { engine: engine.as_mut(), row: 0, features: &features, time_ns: 0 };
            stages.decider.decide(&mut outputs, &mut values).unwrap()
        });
    });
    group.finish();
}

/// Returns the time in `drain` for one prediction, with or without its invoke.
fn whole(c: &mut Criterion) {
    let config = demo::config(&[("speed = 1.0", "speed = \"max\"")]);
    let mut rig = demo::pipeline(&config);
    let samples = demo::recording(&config, &rig.labels);
    // A stream without gaps and without an end.
    let mut stretch = samples[..HOP].to_vec();
    let period_ns = 20_000_000;
    let mut next_ns = 0;
    let mut predict = |without_invoke: bool| {
        for (record, values) in &mut stretch {
            record.stream_ns = Some(next_ns);
            next_ns += period_ns;
            black_box(&values);
        }
        rig.feed(&stretch);
        let start = Instant::now();
        rig.infer.drain();
        let all = start.elapsed();
        let mut invoke = Duration::ZERO;
        while let Some(decision) = rig.decisions.pop(|decision, _, _| decision) {
            invoke += decision.invoke_end.since(decision.invoke_start);
        }
        if without_invoke { all.saturating_sub(invoke) } else { all }
    };
    let mut group = c.benchmark_group("infer thread");
    group.bench_function("one prediction", |b| {
        b.iter_custom(|n| (0..n).map(|_| predict(false)).sum());
    });
    group.bench_function("one prediction less its invoke", |b| {
        b.iter_custom(|n| (0..n).map(|_| predict(true)).sum());
    });
    group.finish();
}

/// Measures from decision to JSON, which is the async thread's work and not part of the other measurements.
fn encode(c: &mut Criterion) {
    use edgewatt::decision::classify::ClassPresentation;
    use edgewatt::decision::{Presentation, Verdict};
    use edgewatt::publish::payload::{Clocks, Envelope, Prediction, SCHEMA_VERSION, encode_prediction};
    use edgewatt::units::MonoTime;
    let clocks = Clocks::now();
    let presentation = ClassPresentation::new(vec!["ROW".to_owned()], None);
    let verdict = Verdict { class: Some(0), raw_class: Some(0), score: 0.925, ..Verdict::VALUES };
    c.bench_function("encode a prediction", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(512),
            |json| {
                let payload = Prediction {
                    envelope: Envelope {
                        v: SCHEMA_VERSION,
                        boot: "01234567",
                        time_ms: clocks.wall_ms(MonoTime::now()),
                    },
                    seq: 123,
                    stream_s: Some(123.46),
                    latency_us: 45.6,
                    invoke_us: 8.2,
                    batch: 1,
                };
                encode_prediction(json, &payload, |fields| presentation.fields(&verdict, &[], Some(0), fields))
                    .unwrap();
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, stages, whole, encode);
criterion_main!(benches);
