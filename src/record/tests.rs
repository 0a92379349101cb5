//! A recording that is played gives the same windows, bit for bit, with the same times, gaps and true classes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::frontend::Chain;
use crate::infer::input::{InputStage, Window, WindowSettings};
use crate::source::recording::{Found, RecordedStream, RecordingFile};
use crate::source::sink::frame_ring;
use crate::source::{FrameReader, FrameSink, Gap, Record, SinkSettings, TruthLabels, WhenFull};
use crate::stop::Stop;
use crate::stream::{Content, SampleType, Shape};

const LABELS: [&str; 3] = ["up", "down, fast", "\"still\""];
const RING_FRAMES: usize = 1 << 15;

/// Frames that a source gives together.
#[derive(Debug, Clone)]
struct Given {
    frames: usize,
    /// From the time that the rate gives to that of these frames.
    jitter_ns: i64,
    gap: Option<Gap>,
    class: Option<u16>,
    /// Since the block before.
    pause: Duration,
}

#[derive(Debug, Clone)]
struct Case {
    spec: StreamSpec,
    has_time: bool,
    has_truth: bool,
    format: Format,
    given: Vec<Given>,
    seed: u64,
    window: usize,
    hop: usize,
}

fn given() -> impl Strategy<Value = Given> {
    let gap = prop::option::weighted(
        0.1,
        prop::sample::select(vec![Gap::Overflow, Gap::Interrupted, Gap::Overrun, Gap::Reconnect]),
    );
    let jitter =
        prop_oneof![4 => Just(0i64), 2 => -900_000i64..900_000, 1 => any::<i64>().prop_map(|ns| ns / 1_000_000)];
    (1usize..40, jitter, gap, prop::option::of(0u16..3), 0u64..2_000).prop_map(
        |(frames, jitter_ns, gap, class, pause)| Given {
            frames,
            jitter_ns,
            gap,
            class,
            pause: Duration::from_millis(pause),
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let kinds = prop::sample::select(vec![
        (Format::Csv, SampleType::F32, vec![1]),
        (Format::Csv, SampleType::F32, vec![6]),
        (Format::Raw, SampleType::F32, vec![3]),
        (Format::Wav, SampleType::I16, vec![1]),
        (Format::Wav, SampleType::I16, vec![2]),
        (Format::Raw, SampleType::I16, vec![3]),
        (Format::Raw, SampleType::U8, vec![4, 3, 3]),
        (Format::Raw, SampleType::U8, vec![2]),
    ]);
    let rate = prop_oneof![Just(Some(50.0)), Just(Some(16_000.0)), Just(Some(44_100.0)), Just(None)];
    let given = prop::collection::vec(given(), 1..60);
    (kinds, rate, any::<bool>(), any::<bool>(), given, any::<u64>(), 1usize..30, 1usize..30).prop_map(
        |((format, sample, shape), rate, has_time, truth, mut given, seed, window, hop)| {
            let rate_hz = if format == Format::Wav { rate.or(Some(8000.0)) } else { rate };
            let has_truth = truth && format == Format::Csv;
            // Frames with a true class come one by one; so do lines of text, whose rate may not be known.
            let alone = has_truth || format == Format::Csv && rate_hz.is_none();
            given.iter_mut().for_each(|block| {
                block.frames = if alone { 1 } else { block.frames };
                block.class = block.class.filter(|_| has_truth);
            });
            let names = ["ax", "a,y", "\"az\"", "gap", "time_ns", "#t"].map(str::to_owned);
            let names = if shape.len() == 1 && seed % 2 == 0 { names[..shape[0]].to_vec() } else { Vec::new() };
            let spec = StreamSpec {
                frame: Shape::new(shape),
                sample,
                rate_hz,
                names,
                units: Vec::new(),
                content: Content::Samples,
            };
            Case { spec, has_time, has_truth, format, given, seed, window, hop }
        },
    )
}

/// Numbers that look like chance, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    /// Any finite number of 32 bits.
    fn float(&mut self) -> f32 {
        let value = f32::from_bits(self.next() as u32);
        if value.is_finite() { value } else { -0.0 }
    }
}

impl Case {
    /// Gives all blocks to a sink.
    fn feed(&self, sink: &mut FrameSink) {
        let (mut numbers, mut frame, mut arrival) = (Numbers(self.seed), 0i64, MonoTime(1_000_000_000));
        let period = self.spec.rate_hz.map_or(1e6, |rate| 1e9 / rate);
        for block in &self.given {
            arrival = arrival + block.pause;
            let time = (frame as f64 * period) as i64;
            let stream_ns = self.has_time.then(|| time.saturating_add(block.jitter_ns));
            frame += block.frames as i64;
            if let Some(gap) = block.gap {
                sink.cut(gap);
            }
            let count = block.frames * self.spec.frame.values();
            let flow = match self.spec.sample {
                SampleType::F32 => {
                    let values: Vec<f32> = (0..count).map(|_| numbers.float()).collect();
                    match block.class {
                        Some(_) => sink.take(Record { stream_ns, truth: block.class }, &values, arrival),
                        None => sink.frames(&values, arrival, stream_ns),
                    }
                }
                SampleType::I16 => {
                    let values: Vec<i16> = (0..count).map(|_| numbers.next() as i16).collect();
                    sink.frames(&values, arrival, stream_ns)
                }
                SampleType::U8 => {
                    let values: Vec<u8> = (0..count).map(|_| numbers.next() as u8).collect();
                    sink.frames(&values, arrival, stream_ns)
                }
            };
            assert!(flow.is_continue());
        }
    }

    fn ring(&self) -> (FrameSink, FrameReader) {
        let frames_per_block = 1;
        let settings =
            SinkSettings { spec: self.spec.clone(), frames: RING_FRAMES, frames_per_block, when_full: WhenFull::Drop };
        frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default())
    }

    /// Returns what the infer thread sees: gaps, and windows with the time and class of their last frame.
    fn seen(&self, reader: &mut FrameReader) -> Vec<String> {
        let max_gap = self.has_time.then(|| Duration::from_secs_f64(3.0 / self.spec.rate_hz.unwrap_or(1000.0)));
        let window = WindowSettings { samples: self.window, hop: self.hop, max_gap };
        let frontends = Chain::new(&[], &self.spec, |_, _| ()).unwrap().0;
        let mut input = InputStage::new(frontends, Vec::new(), &self.spec, &window, true);
        let mut seen = Vec::new();
        while let Some(event) = input.step(reader).unwrap() {
            seen.extend(event.gap.map(|gap| format!("gap {}", gap.name())));
            if event.full {
                let last = input.last().unwrap();
                let bits = match input.window().unwrap() {
                    Window::F32(values) => values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>(),
                    Window::U8(values) => values.iter().map(|value| u32::from(*value)).collect(),
                };
                seen.push(format!("{:?} {:?} {bits:x?}", last.stream_ns, last.truth));
                input.advance();
            }
        }
        seen
    }

    fn about(&self) -> About {
        About {
            pipeline: "test".into(),
            source: "lines".into(),
            config: "test.toml".into(),
            config_hash: "1".into(),
            spec: self.spec.clone(),
            has_time: self.has_time,
            has_truth: self.has_truth,
            most_block_frames: RING_FRAMES,
        }
    }

    /// Records all blocks; with `ends`, the recording is ended in order.
    fn record(&self, folder: &Path, ends: bool) -> Target {
        let target = Target::new(&folder.join("r"), "test", self.format, crate::units::WallTime(0));
        let mut recording = Recording::begin(target.clone(), self.format, self.about(), true).unwrap();
        let (mut sink, mut reader) = self.ring();
        self.feed(&mut sink);
        let class = |class: u16| LABELS.get(usize::from(class)).map(|name| (*name).to_owned());
        let mut add = |frames: Frames<'_>| recording.add(&frames, frames.count, 1_700_000_000_000_000_000, class);
        while let Some(added) = reader.pop(usize::MAX, |_, _| false, &mut add) {
            added.unwrap();
        }
        if ends {
            recording.finish(AtEnd::default()).unwrap();
        } else {
            recording.flush().unwrap();
        }
        target
    }

    /// Plays a recording without a clock.
    fn played(&self, stream: &RecordedStream) -> Vec<String> {
        let labels = TruthLabels::from(LABELS.map(str::to_owned).to_vec());
        let mut file = RecordingFile::open(stream, labels).unwrap();
        let (mut sink, mut reader) = self.ring();
        loop {
            match file.find().unwrap() {
                Found::End => break,
                Found::More => file.fill().unwrap(),
                Found::Frames { .. } => assert!(file.give(MonoTime(0), &mut sink).is_continue()),
                Found::Rejected(reason) => panic!("{reason:?}: {}", file.explain(reason)),
            }
        }
        self.seen(&mut reader)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_recording_that_is_played_gives_the_same_windows(case in case(), ends in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let (mut sink, mut reader) = case.ring();
        case.feed(&mut sink);
        let original = case.seen(&mut reader);
        let target = case.record(folder.path(), ends);
        let stream = RecordedStream::find(&target.manifest).unwrap().unwrap();
        prop_assert_eq!(&stream.spec.frame, &case.spec.frame);
        prop_assert_eq!(stream.spec.rate_hz, case.spec.rate_hz);
        prop_assert_eq!((stream.has_time, stream.spec.sample), (case.has_time, case.spec.sample));
        prop_assert_eq!(stream.warnings.is_empty(), ends, "{:?}", stream.warnings);
        prop_assert_eq!(case.played(&stream), original);
    }
}
