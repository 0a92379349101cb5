//! Packets as boards send them: any split of the bytes gives the same samples, and damage never gives a wrong one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::source::sink::frame_ring;
use crate::source::{FrameReader, FrameSink, Gap, Pieces, Reject, SinkSettings, SourceStats, WhenFull};
use crate::stop::Stop;
use crate::units::MonoTime;

const IMU: &str = "header = ['sequence: u16le', 'time: u32le']\nsample = ['ax: i16le', 'ay: i16le']\ncrc = 'crc32'\n\
                   time = 'time'\ntime_unit = 'us'\nsequence = 'sequence'\nrate_hz = 100.0";

fn checked(text: &str) -> Result<Packets, String> {
    let mut packets: Packets = toml::from_str(text).unwrap();
    let mut checker = Checker::new(Path::new(""));
    packets.check(&Key::new(&["packets"]), &mut checker);
    let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(packets)).map_err(|problems| problems.into_iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// The frame of a packet, with its byte 0.
fn frame(packets: &Packets, content: &[u8]) -> Vec<u8> {
    let sum = packets.crc.algorithm().of(content).unwrap_or_default().to_le_bytes();
    let mut frame = cobs::encode_vec(&[content, &sum[..packets.crc.bytes()]].concat());
    frame.push(0);
    frame
}

/// A packet of [`IMU`].
fn imu(number: u16, time: u32, values: [i16; 2]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &time.to_le_bytes(), &values[0].to_le_bytes(), &values[1].to_le_bytes()].concat()
}

/// A sample as it arrives: its time, its values, and the gap before it.
type Sample = (Option<i64>, Vec<f32>, Option<Gap>);

struct Rig {
    decoder: Decoder,
    sink: FrameSink,
    reader: FrameReader,
}

impl Rig {
    fn new(packets: &Packets) -> Self {
        let settings =
            SinkSettings { spec: packets.spec(), frames: 8192, frames_per_block: 1, when_full: WhenFull::Drop };
        let (sink, reader) = frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default());
        Self { decoder: packets.decoder(TruthLabels::default()), sink, reader }
    }

    fn feed(&mut self, bytes: &[u8]) -> &mut Self {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.decoder.fill(&mut rest).unwrap();
            assert!(self.decoder.feed(&"port", false, MonoTime(0), &mut self.sink).unwrap().is_continue());
        }
        self
    }

    fn samples(&mut self) -> Vec<Sample> {
        let mut samples = Vec::new();
        while let Some(sample) = self.reader.pop(
            1,
            |_, _| false,
            |frames| match frames.values {
                Pieces::F32(a, b) => (frames.first.stream_ns, [a, b].concat(), frames.first.gap),
                other => panic!("{other:?}"),
            },
        ) {
            samples.push(sample);
        }
        samples
    }

    fn stats(&self) -> &SourceStats {
        &self.reader.stats
    }

    fn lost(&self) -> u64 {
        self.stats().lost.load(Ordering::Relaxed)
    }

    fn reason(&self) -> String {
        self.stats().remarks().reject.unwrap_or_default()
    }
}

/// All samples of these bytes, cut into such pieces, with the counts.
fn decoded(
    packets: &Packets,
    bytes: &[u8],
    pieces: impl Iterator<Item = usize>,
) -> (Vec<Sample>, [u64; Reject::ALL.len()], u64) {
    let mut rig = Rig::new(packets);
    let mut rest = bytes;
    for piece in pieces.chain([bytes.len()]) {
        let (part, after) = rest.split_at(piece.min(rest.len()));
        rig.feed(part);
        rest = after;
    }
    rig.decoder.end(Path::new("port"), MonoTime(0), &mut rig.sink);
    let samples = rig.samples();
    (samples, Reject::ALL.map(|reason| rig.stats().rejects(reason)), rig.lost())
}

fn values(samples: &[Sample]) -> Vec<Vec<f32>> {
    samples.iter().map(|(_, values, _)| values.clone()).collect()
}

#[test]
fn a_packet_becomes_a_sample_with_its_time_and_scale() {
    let packets = checked(&format!("{IMU}\nchannels = ['ay', 'ax']\nscale = 0.5\nscales = {{ ax = -2.0 }}")).unwrap();
    let spec = packets.spec();
    assert_eq!((spec.names, spec.rate_hz, packets.has_time()), (vec!["ay".into(), "ax".into()], Some(100.0), true));
    let mut rig = Rig::new(&packets);
    rig.feed(&frame(&packets, &imu(0, 1000, [3, -4]))).feed(&[0, 0]).feed(&frame(&packets, &imu(1, 11_000, [0, 256])));
    assert_eq!(rig.samples(), [(Some(1_000_000), vec![-2.0, -6.0], None), (Some(11_000_000), vec![128.0, -0.0], None)]);
    assert_eq!(rig.stats().rejected(), 0);
}

#[test]
fn a_packet_of_several_samples_gives_each_its_time() {
    let packets = checked(
        "header = ['t: u16be']\nsample = ['a: i8', 'skip: 1', 'b: f32be']\nsamples_per_packet = 2\ncrc = 'crc16-xmodem'\n\
         crc_order = 'be'\ntime = 't'\ntime_unit = 'ms'\nrate_hz = 50.0",
    )
    .unwrap();
    assert_eq!(packets.frames_per_block(), 2);
    let sample = |a: i8, b: f32| [&[a.cast_unsigned(), 0xee][..], &b.to_be_bytes()].concat();
    let packet = |time: u16, first: &[u8], second: &[u8]| {
        let content = [&time.to_be_bytes(), first, second].concat();
        let sum = Checksum::Crc16Xmodem.algorithm().of(&content).unwrap() as u16;
        [cobs::encode_vec(&[&content[..], &sum.to_be_bytes()].concat()), vec![0]].concat()
    };
    let mut rig = Rig::new(&packets);
    rig.feed(&packet(65_530, &sample(-1, 0.5), &sample(2, 1.5)));
    rig.feed(&packet(34, &sample(3, f32::NAN), &sample(4, 2.5)));
    rig.feed(&packet(74, &sample(5, 3.5), &sample(6, 4.5)));
    let ms = |ms: i64| Some(ms * 1_000_000);
    // 65,610 ms is 74 ms of a counter that has started again after 65,536.
    let expected = [
        (ms(65_530), vec![-1.0, 0.5], None),
        (ms(65_550), vec![2.0, 1.5], None),
        (ms(65_610), vec![5.0, 3.5], None),
        (ms(65_630), vec![6.0, 4.5], None),
    ];
    assert_eq!(rig.samples(), expected);
    assert_eq!(rig.stats().rejects(Reject::NotFinite), 1);
    assert!(rig.reason().contains("port: the value of `b` is not a finite number"), "{}", rig.reason());

    // Without a time, only a cut shows that two samples are missing.
    let packets = checked("sample = ['a: i8']\nsamples_per_packet = 2\ncrc = 'crc16-modbus'").unwrap();
    let mut rig = Rig::new(&packets);
    let good = |a: u8| frame(&packets, &[a, a + 1]);
    let mut bad = good(3);
    bad[2] ^= 0x10;
    rig.feed(&[good(1), bad, good(5)].concat());
    let gaps: Vec<Option<Gap>> = rig.samples().into_iter().map(|(_, _, gap)| gap).collect();
    assert_eq!(gaps, [None, None, Some(Gap::Interrupted), None]);
}

#[test]
fn a_clock_that_starts_again_after_its_highest_value_goes_on() {
    for (kind, bytes, step) in
        [("u32le", 4, 1 << 29), ("i32be", 4, 1 << 30), ("u16be", 2, 1 << 14), ("u24le", 3, 1 << 22)]
    {
        let packets = checked(&format!(
            "header = ['t: {kind}']\nsample = ['a: u8']\ncrc = 'crc8-smbus'\ntime = 't'\ntime_unit = 'us'"
        ));
        let packets = packets.unwrap();
        let mut rig = Rig::new(&packets);
        for count in 0..40i64 {
            let time = count * step;
            let time = if kind.ends_with("le") {
                time.to_le_bytes()[..bytes].to_vec()
            } else {
                time.to_be_bytes()[8 - bytes..].to_vec()
            };
            rig.feed(&frame(&packets, &[&time[..], &[count as u8]].concat()));
        }
        let times: Vec<i64> = rig.samples().into_iter().map(|(time, _, _)| time.unwrap()).collect();
        assert_eq!(times, (0..40).map(|count| count * step * 1000).collect::<Vec<_>>(), "{kind}");
    }
}

#[test]
fn a_time_that_cannot_be_is_rejected() {
    let packets =
        checked("header = ['t: u64le']\nsample = ['a: u8']\ncrc = 'none'\ntime = 't'\ntime_unit = 's'").unwrap();
    let mut rig = Rig::new(&packets);
    let at = |time: u64| frame(&packets, &[&time.to_le_bytes()[..], &[1]].concat());
    rig.feed(&[at(u64::MAX), at(1 << 40), at(7)].concat());
    assert_eq!(rig.samples(), [(Some(7_000_000_000), vec![1.0], None)]);
    assert_eq!(rig.stats().rejects(Reject::TimeRange), 2);
}

#[test]
fn missing_packets_are_counted_and_repeated_ones_dropped() {
    let packets =
        checked("header = ['n: u8']\nsample = ['a: u8']\nsamples_per_packet = 3\ncrc = 'crc16-kermit'\nsequence = 'n'");
    let packets = packets.unwrap();
    let mut rig = Rig::new(&packets);
    let mut send = |numbers: &[u8]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| frame(&packets, &[*n, *n, 0, 0])).collect();
        let before = (rig.lost(), rig.stats().rejects(Reject::Duplicate));
        rig.feed(&bytes);
        let first = |(_, values, gap): Sample| (values[0], gap);
        let samples: Vec<_> = rig.samples().into_iter().step_by(3).map(first).collect();
        (samples, rig.lost() - before.0, rig.stats().rejects(Reject::Duplicate) - before.1)
    };
    assert_eq!(send(&[254, 255, 0, 1]), (vec![(254.0, None), (255.0, None), (0.0, None), (1.0, None)], 0, 0));
    assert_eq!(send(&[2, 2, 3]), (vec![(2.0, None), (3.0, None)], 0, 1), "one came twice");
    assert_eq!(send(&[6]), (vec![(6.0, Some(Gap::Overrun))], 6, 0), "two are missing");
    assert_eq!(send(&[5, 7]), (vec![(7.0, None)], 0, 1), "one came late: its gap was counted");
    assert_eq!(send(&[100]), (vec![(100.0, Some(Gap::Overrun))], 276, 0));
    assert_eq!(send(&[0, 1]), (vec![(0.0, Some(Gap::Interrupted)), (1.0, None)], 0, 0), "the board has started again");
}

#[test]
fn a_board_that_starts_again_soon_loses_nothing_and_its_clock_begins_again() {
    let packets = checked(IMU).unwrap();
    let mut rig = Rig::new(&packets);
    let run = |count: u16, value: i16| -> Vec<u8> {
        (0..count).flat_map(|n| frame(&packets, &imu(n, 10_000 * u32::from(n), [value, 0]))).collect()
    };
    rig.feed(&run(11, 1)).feed(&run(14, 2));
    let samples = rig.samples();
    assert_eq!((samples.len(), rig.lost(), rig.stats().rejected()), (25, 0, 0));
    assert_eq!(samples[11], (Some(0), vec![2.0, 0.0], Some(Gap::Interrupted)));
    assert_eq!(samples.iter().filter(|(.., gap)| gap.is_some()).count(), 1);
    // With the same bytes, only the order tells it.
    rig.feed(&run(10, 3)).feed(&run(10, 3));
    let gaps: Vec<Option<Gap>> = rig.samples().into_iter().map(|(.., gap)| gap).collect();
    assert_eq!((gaps.len(), rig.stats().rejects(Reject::Duplicate)), (18, 2));
    assert_eq!((gaps[0], gaps[10]), (Some(Gap::Interrupted), Some(Gap::Interrupted)));
}

#[test]
fn a_damaged_packet_is_counted_once() {
    let packets = checked(IMU).unwrap();
    let mut rig = Rig::new(&packets);
    let at = |n: u16| frame(&packets, &imu(n, 10_000 * u32::from(n), [1, 0]));
    let mut bad = at(1);
    bad[9] ^= 0x40;
    rig.feed(&at(0)).feed(&bad).feed(&at(2));
    let gaps: Vec<Option<Gap>> = rig.samples().into_iter().map(|(.., gap)| gap).collect();
    assert_eq!(gaps, [None, Some(Gap::Interrupted)]);
    assert_eq!((rig.stats().rejected(), rig.lost()), (1, 0));
    // Of two that are missing, one was damaged. Text that is no packet explains nothing later.
    rig.feed(&bad).feed(&at(5)).feed(b"hello\0").feed(&at(6)).feed(&at(8));
    assert_eq!((rig.stats().rejected(), rig.lost()), (3, 2));
}

#[test]
fn three_late_packets_in_a_row_do_not_cut_a_stream_without_time() {
    let packets = checked("header = ['n: u8']\nsample = ['a: u8']\ncrc = 'crc16-kermit'\nsequence = 'n'").unwrap();
    let mut rig = Rig::new(&packets);
    rig.feed(&[1, 5, 2, 3, 4, 6].map(|n| frame(&packets, &[n, n])).concat());
    let samples: Vec<_> = rig.samples().into_iter().map(|(_, values, gap)| (values[0], gap)).collect();
    assert_eq!(samples, [(1.0, None), (5.0, Some(Gap::Overrun)), (6.0, None)]);
    assert_eq!((rig.lost(), rig.stats().rejects(Reject::Duplicate)), (3, 3));
    assert!(rig.reason().contains("the packet 2 came late, after the packet 5"), "{}", rig.reason());
    rig.feed(&frame(&packets, &[6, 9])).feed(&frame(&packets, &[7, 9]));
    assert_eq!(rig.samples(), [(None, vec![9.0], Some(Gap::Interrupted))]);
}

#[test]
fn what_is_not_a_packet_is_rejected_with_what_would_be_right() {
    let packets = checked(IMU).unwrap();
    let rejects = |bytes: &[u8], reason: Reject, parts: &[&str]| {
        let mut rig = Rig::new(&packets);
        rig.feed(bytes).feed(&[0]).feed(&frame(&packets, &imu(1, 2, [3, 4])));
        assert_eq!(
            (rig.stats().rejects(reason), rig.stats().rejected()),
            (1, 1),
            "{}: {}",
            reason.name(),
            rig.reason()
        );
        assert_eq!(values(&rig.samples()), [[3.0, 4.0]]);
        parts.iter().for_each(|part| assert!(rig.reason().contains(part), "{part}: {}", rig.reason()));
    };
    rejects(b"ready\r\n", Reject::Malformed, &["port: not framed by COBS: `ready??`"]);
    rejects(&[1; 20], Reject::TooLong, &["more than 15 bytes without a byte 0; a packet has 14 bytes"]);
    rejects(&[1; 200_000], Reject::TooLong, &[]);
    let short = frame(&packets, &[1, 2, 3]);
    rejects(
        &short[..short.len() - 1],
        Reject::Malformed,
        &["has 7 bytes, not the 14 of", "its checksum is right, so header"],
    );
    rejects(&[2, 65], Reject::Malformed, &["a packet has 1 bytes, not the 14", "`A`"]);
    let content = imu(1, 2, [3, 4]);
    let with = |sum: [u8; 4]| cobs::encode_vec(&[&content[..], &sum].concat());
    rejects(&with([1, 2, 3, 4]), Reject::Checksum, &["the checksum is 0x04030201, but that of the bytes is 0x"]);
    let castagnoli = Checksum::Crc32Iscsi.algorithm().of(&content).unwrap();
    let hint = "it would be right with packets.crc = \"crc32-iscsi\" and crc_order = \"be\"";
    rejects(&with(castagnoli.to_be_bytes()), Reject::Checksum, &[hint]);
}

#[test]
fn what_cannot_be_is_refused_with_what_would_be_right() {
    for (text, expected) in [
        ("sample = []\ncrc = 'none'", "packets.sample: a sample needs a field for the model"),
        ("sample = ['ax i16']\ncrc = 'none'", "packets.sample: `ax i16` is not a field; write \"NAME: TYPE\""),
        ("sample = ['a: u8', 'a: u8']\ncrc = 'none'", "packets.sample: two fields are called `a`"),
        ("header = ['a: u8']\nsample = ['a: u8']\ncrc = 'none'", "packets.header: two fields are called `a`"),
        (
            "sample = ['a: u8']\nchannels = ['b']\ncrc = 'none'",
            "packets.channels: there is no field `b`; the fields are a",
        ),
        ("sample = ['a: u8']\nchannels = ['a', 'a']\ncrc = 'none'", "packets.channels: `a` is named twice"),
        ("header = ['b: u8']\nsample = ['a: u8']\nchannels = ['b']\ncrc = 'none'", "move it to sample"),
        (
            "sample = ['a: u8', 't: f32le']\ncrc = 'none'\ntime = 't'\ntime_unit = 's'",
            "packets.time: a number of 32 bits",
        ),
        ("sample = ['a: u8', 't: u32le']\ncrc = 'none'\ntime = 't'", "packets.time: say in which unit"),
        ("sample = ['a: u8']\ncrc = 'none'\ntime_unit = 'us'", "packets.time_unit: no field has the time"),
        (
            "sample = ['a: u8', 'n: i8']\ncrc = 'none'\nsequence = 'n'",
            "packets.sequence: packets are counted with integers",
        ),
        (
            "sample = ['a: u8', 'n: u8']\ncrc = 'none'\nsequence = 'n'\nsamples_per_packet = 2",
            "packets.sequence: it counts packets, not samples",
        ),
        (
            "header = ['t: u32le']\nsample = ['a: u8']\ncrc = 'none'\ntime = 't'\ntime_unit = 'us'\nsamples_per_packet = 2",
            "packets.rate_hz: the packet has one time",
        ),
        (
            "sample = ['a: f64le', 'skip: 4096']\nsamples_per_packet = 5\ncrc = 'none'",
            "would have 20520 bytes; the limit",
        ),
        (
            "header = ['t: u16le']\nsample = ['a: u8']\ncrc = 'none'\ntime = 't'\ntime_unit = 'us'\nrate_hz = 10.0",
            "packets.time: a number of 16 bits in us starts again after 0.06554 s, so it shows no step of 0.03277 s or more; \
             by rate_hz the step is 0.1 s: send a number with more bits, or another time_unit",
        ),
        (
            "header = ['t: u8']\nsample = ['a: u8']\ncrc = 'none'\ntime = 't'\ntime_unit = 'ms'\nrate_hz = 1000.0\n\
             samples_per_packet = 128",
            "packets.time: a number of 8 bits in ms",
        ),
        (
            "sample = ['a: u8', 't: u32le >> 4']\ncrc = 'none'\ntime = 't'\ntime_unit = 'us'",
            "packets.time: it is read with all its bits",
        ),
        (
            "sample = ['a: u8', 't: u32le']\ncrc = 'none'\ntime = 't'\ntime_unit = 'us'\nsequence = 't'",
            "packets.sequence: it names the field of the time",
        ),
        (
            "sample = ['a: u8']\ncrc = 'crc8-maxim'\ncrc_order = 'be'",
            "packets.crc_order: crc = \"crc8-maxim\" has no two bytes to put in order; leave it out",
        ),
        ("sample = ['a: u8']\ncrc = 'none'\ncrc_order = 'be'", "packets.crc_order: crc = \"none\""),
        ("sample = ['a: u8']\ncrc = 'none'\nscale = 0.0", "packets.scale: 0 is not a scale"),
        (
            "sample = ['a: u8']\ncrc = 'none'\nscales = { b = 1.0 }",
            "packets.scales.b: there is no channel of that name",
        ),
        ("sample = ['a: u8']\ncrc = 'none'\nscales = { a = nan }", "packets.scales.a: NaN is not a scale"),
    ] {
        let refusal = checked(text).unwrap_err();
        assert!(refusal.contains(expected), "{text}\n{refusal}");
    }
}

#[test]
fn every_source_of_packets_knows_their_time_and_their_number_of_samples() {
    let packets = "packets = { header = ['t: u32le'], sample = ['a: u8'], samples_per_packet = 4, crc = 'none', time = 't', \
                   time_unit = 'us', rate_hz = 100.0 }";
    for keys in [
        "serial = { port = '/dev/ttyUSB0', ",
        "udp = { listen = '127.0.0.1:5005', ",
        "exec = { command = ['x'], ",
        "mqtt = { topic = 'x', ",
    ] {
        let source: crate::source::Source = toml::from_str(&format!("{keys}{packets} }}")).unwrap();
        let kind = source.kind();
        assert_eq!((kind.has_time(), kind.frames_per_block()), (true, 4), "{keys}");
        let longest_s = kind.longest_step().unwrap().as_secs_f64();
        // Half of 2^32 us, without the three samples between two times.
        assert!((longest_s - (2_147.483_648 - 0.03)).abs() < 1e-6, "{keys}: {longest_s}");
    }
}

#[test]
fn a_stream_that_is_joined_inside_a_packet_begins_with_the_next_one() {
    // Without a checksum, the rest of this packet would be one, too.
    let packets = checked("sample = ['a: u16le']\ncrc = 'none'").unwrap();
    let bytes = frame(&packets, &[7, 8]);
    let mut rig = Rig::new(&packets);
    rig.decoder.begin(true);
    rig.feed(&[&bytes[..], &bytes].concat());
    assert_eq!(values(&rig.samples()), [[2055.0]]);
    assert_eq!((rig.stats().rejects(Reject::Partial), rig.stats().rejected()), (1, 1));
    assert_eq!(rig.stats().remarks().reject, None, "that is expected");
}

#[test]
fn packets_come_in_datagrams_too() {
    let packets = checked(IMU).unwrap();
    let mut rig = Rig::new(&packets);
    let all: Vec<Vec<u8>> = (0..4).map(|n| frame(&packets, &imu(n, 0, [n.cast_signed(), 0]))).collect();
    let without_zero = &all[1][..all[1].len() - 1];
    for datagram in [&[&all[0][..], without_zero].concat()[..], &all[2][..5], &all[3]] {
        let flow = rig.decoder.datagram(&"a datagram", datagram, MonoTime(0), &mut rig.sink).unwrap();
        assert!(flow.is_continue());
    }
    assert_eq!(values(&rig.samples()), [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]);
    assert_eq!((rig.stats().rejected(), rig.lost()), (1, 0), "the damaged one is counted once");
    assert!(rig.reason().starts_with("a datagram: "), "{}", rig.reason());
}

/// No flip of one bit, and no other value of one byte, gives a wrong sample.
#[test]
fn each_change_of_a_byte_costs_at_most_two_packets() {
    let packets = checked(&IMU.replace("crc32", "crc16-modbus")).unwrap();
    let sent: Vec<Vec<f32>> = (0..3).map(|n| vec![n as f32 * 257.0, -(n as f32)]).collect();
    let frames: Vec<Vec<u8>> =
        (0..3).map(|n| frame(&packets, &imu(n, 10_000 * u32::from(n), [n as i16 * 257, -(n as i16)]))).collect();
    let whole = frames.concat();
    for at in 0..whole.len() {
        for other in 1..=255 {
            let mut bytes = whole.clone();
            bytes[at] ^= other;
            let (samples, rejects, _) = decoded(&packets, &bytes, std::iter::empty());
            let got = values(&samples);
            let mut of_sent = sent.iter();
            assert!(got.iter().all(|sample| of_sent.any(|sent| sent == sample)), "{at} ^ {other}: {got:?}");
            assert!(!got.is_empty() && got.len() < 3, "{at} ^ {other}: {got:?}");
            assert!((1..=2).contains(&rejects.iter().sum::<u64>()), "{at} ^ {other}: {rejects:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_split_of_any_bytes_gives_the_same(
        packets_sent in prop::collection::vec((any::<u16>(), any::<u32>(), any::<[i16; 2]>()), 0..30),
        garbage in prop::collection::vec((0usize..2000, any::<u8>()), 0..20),
        pieces in prop::collection::vec(1usize..40, 0..200),
    ) {
        let packets = checked(IMU).unwrap();
        let of = |(number, time, values): &(u16, u32, [i16; 2])| frame(&packets, &imu(*number, *time, *values));
        let mut bytes: Vec<u8> = packets_sent.iter().flat_map(of).collect();
        for (at, byte) in garbage {
            bytes.insert(at.min(bytes.len()), byte);
        }
        let whole = decoded(&packets, &bytes, std::iter::empty());
        prop_assert_eq!(&decoded(&packets, &bytes, pieces.into_iter()), &whole);
        prop_assert_eq!(&decoded(&packets, &bytes, std::iter::repeat_n(1, bytes.len())), &whole);
    }

    /// Each packet has its own value, so that a sample that was not sent, or that comes twice, shows.
    #[test]
    fn damage_loses_packets_and_makes_no_sample(
        damage in prop::collection::vec((0usize..700, any::<u8>(), 0u8..3), 1..6),
    ) {
        let packets = checked(IMU).unwrap();
        let sent: Vec<Vec<f32>> = (0..40u16).map(|n| vec![f32::from(n), -1.0]).collect();
        let mut bytes: Vec<u8> =
            (0..40u16).flat_map(|n| frame(&packets, &imu(n, 10_000 * u32::from(n), [n.cast_signed(), -1]))).collect();
        for (at, byte, how) in &damage {
            let at = at % bytes.len();
            match how {
                0 => bytes[at] = *byte,
                1 => bytes.insert(at, *byte),
                _ => _ = bytes.remove(at),
            }
        }
        let (samples, rejects, lost) = decoded(&packets, &bytes, std::iter::empty());
        let got = values(&samples);
        let mut of_sent = sent.iter();
        prop_assert!(got.iter().all(|sample| of_sent.any(|sent| sent == sample)), "{got:?}");
        prop_assert!(got.len() + 2 * damage.len() >= sent.len(), "{} of 40 for {damage:?}", got.len());
        // What is missing between two packets that came is counted, as lost or as damaged.
        let first = got[0][0];
        let last = got[got.len() - 1][0];
        let (missing, rejected) = ((last - first) as u64 + 1 - got.len() as u64, rejects.iter().sum::<u64>());
        prop_assert!(lost <= missing && missing <= lost + rejected, "{lost} of {missing}, {rejects:?}");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        for text in ["sample = ['a: u8']\ncrc = 'none'", IMU] {
            decoded(&checked(text).unwrap(), &bytes, std::iter::empty());
        }
    }
}
