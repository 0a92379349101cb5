use super::*;
use crate::stream::{SampleType, Shape};

fn ring(sample: SampleType, frames: usize) -> (FrameSink, FrameReader) {
    let spec = StreamSpec::new(Shape::new([2]), sample, Some(100.0));
    let settings = SinkSettings { spec, frames, frames_per_block: 1, when_full: WhenFull::Drop };
    frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default())
}

fn all(reader: &mut FrameReader, most: usize) -> Vec<(FrameHeader, FrameHeader, Vec<i16>)> {
    let mut read = Vec::new();
    while let Some(part) = reader.pop(
        most,
        |_, _| true,
        |frames| {
            let Pieces::I16(first, second) = frames.values else { panic!("{frames:?}") };
            (frames.first, frames.last, [first, second].concat())
        },
    ) {
        read.push(part);
    }
    read
}

#[test]
fn a_block_keeps_the_time_of_each_frame_however_it_is_read() {
    let (mut sink, mut reader) = ring(SampleType::I16, 64);
    let values: Vec<i16> = (0..20).collect();
    sink.cut(Gap::Interrupted);
    assert!(sink.frames(&values, MonoTime(5), Some(1_000)).is_continue());
    assert_eq!((reader.len(), sink.accepted()), (10, 10));
    let parts = all(&mut reader, 3);
    let ns = |n: i64| Some(1_000 + n * 10_000_000);
    let times: Vec<_> = parts.iter().map(|(first, last, _)| (first.stream_ns, last.stream_ns)).collect();
    assert_eq!(times, [(ns(0), ns(2)), (ns(3), ns(5)), (ns(6), ns(8)), (ns(9), ns(9))]);
    let gaps: Vec<_> = parts.iter().map(|(first, _, _)| first.gap).collect();
    assert_eq!(gaps, [Some(Gap::Interrupted), None, None, None], "a gap is before the block alone");
    let read: Vec<i16> = parts.into_iter().flat_map(|(_, _, values)| values).collect();
    assert_eq!(read, values);
    // The next block starts with its own time.
    assert!(sink.frames(&[7i16, 8], MonoTime(6), Some(77)).is_continue());
    assert_eq!(all(&mut reader, 3)[0].0.stream_ns, Some(77));
}

#[test]
fn a_block_longer_than_the_ring_goes_over_in_parts_and_what_does_not_fit_is_counted() {
    let (mut sink, mut reader) = ring(SampleType::I16, 16);
    assert!(sink.frames(&[1i16; 2 * 40], MonoTime(0), Some(0)).is_continue());
    assert_eq!(sink.accepted(), 16);
    assert_eq!(reader.stats.overflow.load(Ordering::Relaxed), 24);
    assert_eq!(all(&mut reader, 100).iter().map(|(_, _, values)| values.len()).sum::<usize>(), 32);
    assert!(sink.frames(&[1i16; 2], MonoTime(0), Some(1)).is_continue());
    assert_eq!(all(&mut reader, 1)[0].0.gap, Some(Gap::Overflow));
}

#[test]
fn each_part_of_what_arrived_together_says_how_much_of_it_follows() {
    let (mut sink, mut reader) = ring(SampleType::I16, 16);
    // The ring takes blocks of 8 frames.
    assert!(sink.frames(&[1i16; 2 * 14], MonoTime(0), None).is_continue());
    let mut follow = Vec::new();
    while let Some(part) = reader.pop(3, |_, _| false, |frames| (frames.count, frames.follow)) {
        follow.push(part);
    }
    assert_eq!(follow, [(3, 11), (3, 8), (2, 6), (3, 3), (3, 0)]);
}

#[test]
fn a_reader_is_woken_for_what_it_waits_for() {
    let (mut sink, mut reader) = ring(SampleType::I16, 16);
    reader.wake.reader_is_this_thread();
    let is_woken = || {
        let begun = std::time::Instant::now();
        std::thread::park_timeout(Duration::from_millis(20));
        begun.elapsed() < Duration::from_millis(15)
    };
    assert!(!reader.want(3));
    for (frames, expected) in [(1, false), (2, false), (3, true)] {
        assert!(sink.frames(&[1i16; 2], MonoTime(0), None).is_continue());
        sink.wake_reader();
        assert_eq!(is_woken(), expected, "{frames} frames wait");
    }
    assert!(reader.want(3), "they are there");
    all(&mut reader, 100);
    // A ring that is too small for what is wanted is read when it is half full.
    assert!(!reader.want(1000));
    assert!(sink.frames(&[1i16; 2 * 7], MonoTime(0), None).is_continue());
    sink.wake_reader();
    assert!(!is_woken());
    assert!(sink.frames(&[1i16; 2], MonoTime(0), None).is_continue());
    sink.wake_reader();
    assert!(is_woken());
}

#[test]
fn a_source_rests_while_nothing_can_happen() {
    let (mut sink, reader) = ring(SampleType::I16, 64);
    let rest = |sink: &mut FrameSink| {
        let begun = std::time::Instant::now();
        assert_eq!(sink.rest(None).unwrap(), Waited::Ready);
        begun.elapsed()
    };
    assert!(rest(&mut sink) < Duration::from_millis(9), "nothing is known of the reader yet");
    reader.want(8);
    assert!(rest(&mut sink) >= Duration::from_millis(40), "half of 8 frames at 100 Hz");
    assert!(sink.frames(&[1i16; 2 * 5], MonoTime(0), None).is_continue());
    assert!(rest(&mut sink) < Duration::from_millis(9), "few are missing");
    sink.stop().request();
    reader.want(32);
    assert_eq!(sink.rest(None).unwrap(), Waited::Stopped);
}

#[test]
fn a_source_that_is_away_says_so_until_its_next_frame() {
    let (mut sink, mut reader) = ring(SampleType::I16, 16);
    sink.absent("mic", "no such device".into(), MonoTime(0));
    sink.cut(Gap::Reconnect);
    assert_eq!(reader.stats.remarks().trouble.as_deref(), Some("no such device"));
    sink.opened("mic");
    assert_eq!(
        reader.stats.remarks().trouble.as_deref(),
        Some("mic is open, but has given no sample yet; before that: no such device")
    );
    assert!(sink.frames(&[1i16; 2], MonoTime(5), None).is_continue());
    assert_eq!(reader.stats.remarks().trouble, None);
    sink.opened("mic");
    assert_eq!(reader.stats.remarks().trouble, None, "it was not away");
    assert_eq!(all(&mut reader, 1)[0].0.gap, Some(Gap::Reconnect));
    sink.lost(7);
    assert!(sink.frames(&[1i16; 2], MonoTime(5), None).is_continue());
    assert_eq!((all(&mut reader, 1)[0].0.gap, reader.stats.lost.load(Ordering::Relaxed)), (Some(Gap::Overrun), 7));
}

#[test]
fn values_that_were_not_announced_are_refused_and_counted() {
    let (mut sink, mut reader) = ring(SampleType::U8, 16);
    assert!(sink.frames(&[1.0f32, 2.0], MonoTime(0), None).is_continue());
    assert!(sink.frames(&[1u8, 2, 3], MonoTime(0), None).is_continue());
    assert_eq!(reader.stats.rejects(Reject::Malformed), 2);
    assert!(reader.pop(1, |_, _| true, |_| ()).is_none() && reader.is_empty());
}
