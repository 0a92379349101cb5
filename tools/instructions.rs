//! What `make instructions` counts: each stage of a prediction, and the infer thread without the invoke, in one program.
//!
//! benches/system/instructions runs it under callgrind, which counts only inside the functions whose names begin with
//! `count_`, and takes the mean of their calls.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use edgewatt::decision::classify::ClassPresentation;
use edgewatt::decision::{Decider, EngineOutputs, Presentation, Verdict};
use edgewatt::engine::{Engine, EngineError, TensorInfo};
use edgewatt::features;
use edgewatt::infer::window::Windower;
use edgewatt::mqtt::codec::{Outgoing, Version};
use edgewatt::publish::message::{Bytes, Class, Message, Qos};
use edgewatt::publish::mqtt::outbox::{Limits, Outbox, WhenFull};
use edgewatt::publish::payload::{Envelope, Prediction, SCHEMA_VERSION, encode_prediction};
use edgewatt::source::sink::frame_ring;
use edgewatt::source::{Record, RecordParser};
use edgewatt::stop::Stop;
use edgewatt_support::demo::{self, Rig};
use edgewatt_support::root;

const TOPIC: &str = "edgewatt/demo/p/shoulder/prediction";
/// How often each is counted.
const CALLS: usize = 10;
/// New samples of a window.
const HOP: usize = 50;
/// Windows of the infer thread in one call.
const WINDOWS: usize = 10;

fn main() {
    let config = demo::config(&[("speed = 1.0", "speed = \"max\"")]);
    let mut prepared = demo::prepare(&config);
    let samples = demo::recording(&config, &prepared.labels);
    let mut engine = prepared.built.take().unwrap().engine;

    let text = std::fs::read(root().join("models/shoulder_recording.csv")).unwrap();
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let records = config.pipelines[0].source.kind().records().unwrap().clone();
    let mut parser = RecordParser::new(records, prepared.labels.clone());
    parser.header(lines.next().unwrap()).unwrap();
    let lines: Vec<&[u8]> = lines.take(HOP).collect();
    let window: Vec<f32> = samples[..200].iter().flat_map(|(_, values)| values.iter().copied()).collect();
    let features = prepared.stages.features.apply(&window).to_vec();
    let mut windower = Windower::new(200, HOP, 6);
    let mut values = Vec::with_capacity(prepared.stages.decider.most_values());
    let mut json = Vec::with_capacity(1024);
    let presentation = ClassPresentation::new(vec!["ROW".to_owned()], None);
    let mut packets = BytesMut::with_capacity(64 * 1024);
    let mut outbox = outbox();
    engine.invoke().unwrap();
    for _ in 0..CALLS {
        count_parse_50_records(&mut parser, &lines);
        count_window(&mut windower, &samples[..HOP]);
        count_standardize(&mut prepared.stages.features, &window);
        count_fill_input(engine.as_mut(), &features);
        count_decide(prepared.stages.decider.as_mut(), engine.as_mut(), &features, &mut values);
        count_encode_json(&mut json, &presentation);
        let payload = Bytes::copy_from_slice(&json);
        count_encode_publish(&payload, &mut packets);
        count_outbox(&mut outbox, message(&payload));
    }

    let (feed, reader) = frame_ring(&prepared.sink, "demo", Arc::new(Stop::new().unwrap()), Arc::default());
    let mut rig = demo::rig(feed, reader, prepared, Box::new(WithoutInvoke(engine)));
    let in_time = |((record, values), n): (&(Record, Vec<f32>), i64)| {
        // A stream without gaps.
        (Record { stream_ns: Some(n * 20_000_000), ..*record }, values.clone())
    };
    let stream: Vec<_> = samples.iter().zip(0..).map(in_time).collect();
    for part in stream.chunks_exact(WINDOWS * HOP).take(CALLS) {
        rig.feed(part);
        count_infer_10_windows_without_invoke(&mut rig);
        while rig.decisions.pop(|_, _, _| ()).is_some() {}
    }
}

#[inline(never)]
fn count_parse_50_records(parser: &mut RecordParser, lines: &[&[u8]]) {
    lines.iter().for_each(|line| _ = black_box(parser.parse(black_box(line))));
}

#[inline(never)]
fn count_window(windower: &mut Windower<f32>, samples: &[(Record, Vec<f32>)]) {
    for (_, values) in samples {
        windower.push(black_box(values), &[], |value| value);
    }
    if black_box(windower.ready()).is_some() {
        windower.advance();
    }
}

#[inline(never)]
fn count_standardize(features: &mut features::Chain, window: &[f32]) {
    black_box(features.apply(black_box(window)));
}

#[inline(never)]
fn count_fill_input(engine: &mut dyn Engine, features: &[f32]) {
    black_box(engine.set_input(0, black_box(features)).unwrap());
}

#[inline(never)]
fn count_decide(decider: &mut dyn Decider, engine: &mut dyn Engine, features: &[f32], values: &mut Vec<f32>) {
    black_box(decider.decide(&mut EngineOutputs { engine, row: 0, features, time_ns: 0 }, values).unwrap());
}

#[inline(never)]
fn count_encode_json(json: &mut Vec<u8>, presentation: &ClassPresentation) {
    let verdict = Verdict { class: Some(0), raw_class: Some(0), score: 0.925, ..Verdict::VALUES };
    let prediction = Prediction {
        envelope: Envelope { v: SCHEMA_VERSION, boot: "01234567", time_ms: 1_790_000_000_000 },
        seq: 123,
        stream_s: Some(123.46),
        latency_us: 45.6,
        invoke_us: 8.2,
        batch: 1,
    };
    json.clear();
    encode_prediction(json, &prediction, |fields| presentation.fields(&verdict, &[], Some(0), fields)).unwrap();
}

#[inline(never)]
fn count_encode_publish(payload: &Bytes, packets: &mut BytesMut) {
    let packet = Outgoing {
        topic: TOPIC,
        payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        packet_id: 7,
        expiry_s: Some(259_200),
        waited_ms: None,
    };
    packets.clear();
    Version::Five.publish(&packet, packets).unwrap();
}

/// In, out, written and acknowledged.
#[inline(never)]
fn count_outbox(outbox: &mut Outbox, message: Message) {
    outbox.push(message, 0);
    let packet_id = outbox.next_to_send(0).map_or(0, |(packet_id, _)| packet_id);
    outbox.on_written(&mut Vec::new());
    assert!(outbox.on_puback(packet_id, false));
}

#[inline(never)]
fn count_infer_10_windows_without_invoke(rig: &mut Rig) {
    rig.infer.drain();
}

fn outbox() -> Outbox {
    Outbox::new(Limits {
        max_messages: 10_000,
        max_bytes: 8 << 20,
        max_stored_bytes: 0,
        max_age_ms: u64::MAX,
        max_payload_bytes: 256 * 1024,
        inflight: 256,
        when_full: WhenFull::DropOldest,
    })
}

fn message(payload: &Bytes) -> Message {
    Message {
        topic: TOPIC.into(),
        payload: payload.clone(),
        qos: Qos::AtLeastOnce,
        retain: false,
        class: Class::Prediction,
        marks: None,
    }
}

/// An engine whose outputs are those of its last invocation before it was wrapped.
struct WithoutInvoke(Box<dyn Engine>);

impl Engine for WithoutInvoke {
    fn inputs(&self) -> &[TensorInfo] {
        self.0.inputs()
    }
    fn outputs(&self) -> &[TensorInfo] {
        self.0.outputs()
    }
    fn batch(&self) -> usize {
        self.0.batch()
    }
    fn input_bytes(&mut self, index: usize) -> Result<&mut [u8], EngineError> {
        self.0.input_bytes(index)
    }
    fn invoke(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        self.0.output_bytes(index)
    }
    fn reset(&mut self) -> Result<(), EngineError> {
        self.0.reset()
    }
}
