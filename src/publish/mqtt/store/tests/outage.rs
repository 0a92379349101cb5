//! The broker is away for hours, then back.

use tokio::time::Instant;

use super::*;
use crate::publish::mqtt::pace::Pace;
use crate::sys::rss_mib;

const PER_S: u32 = 1_000;

/// Ten predictions a second for so long, on a file of so many bytes; then all that is left is sent at a pace.
fn away(hours: u32, max_bytes: u64) {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let mut rig = Rig::new(path.clone(), limits(max_bytes), max_bytes);
    let (mut largest, mut settled_mib) = (0, None);
    for minute in 0..hours * 60 {
        rig.outage(60);
        let s = rig.stats();
        assert_eq!(s.produced, s.queued + s.drops.get(Class::Prediction, Reason::Full), "{s:?}");
        assert!(s.stored_bytes <= payload_bytes(max_bytes) && s.bytes < 1 << 20, "{s:?}");
        let bytes = bytes_of(&path);
        assert!(bytes <= max_bytes, "{bytes} bytes after {minute} minutes");
        largest = largest.max(bytes);
        if minute == hours * 30 {
            settled_mib = rss_mib();
        }
    }
    let grown_mib = rss_mib().zip(settled_mib).map(|(now, before)| now - before);
    let s = rig.stats();
    println!(
        "{hours} h: {} produced, {} dropped, {} on disk alone or in memory ({} B); the files had {largest} B; memory grew by \
         {grown_mib:?} MiB in the second half",
        s.produced,
        s.drops.total(),
        s.queued,
        s.bytes
    );
    assert!(s.drops.total() > 0, "the bound was never reached: {s:?}");
    assert!(largest > max_bytes / 4 * 3, "the bound is {max_bytes}, {largest} were used");

    // The broker is back, and predictions go on.
    let (mut pace, begun, first_ms) = (Pace::new(Some(PER_S)), Instant::now(), rig.now_ms);
    let (queued, mut seconds) = (s.queued as usize, 0);
    while rig.stats().queued > 0 {
        let before = rig.acked.len();
        for _ in 0..10 {
            rig.produce();
            let now = begun + Duration::from_millis(rig.now_ms - first_ms);
            while pace.take(now) && rig.take(1) == 1 {}
            rig.round();
        }
        seconds += 1;
        let taken = rig.acked.len() - before;
        assert!(taken <= PER_S as usize + 1, "{taken} in a second");
        assert!(seconds < 10 + 2 * queued / PER_S as usize, "{taken} in the last second, {:?}", rig.stats());
    }
    let oldest = rig.produced as usize - rig.acked.len();
    assert!(rig.acked.iter().copied().eq(oldest as u32..rig.produced), "the newest, each once, in order");
    rig.now_ms += 10_000;
    rig.round();
    let (s, bytes) = (rig.stats(), bytes_of(&path));
    assert_eq!((s.stored, s.bytes), (0, 0), "{s:?}");
    assert!(bytes < 200_000, "the disk has its space back, but for {bytes} B");
}

#[test]
fn an_hour_without_a_broker_is_kept_within_the_bound_and_sent_at_the_pace() {
    away(1, 4 << 20);
}

/// `make outage`: 864,000 messages on the default bound.
#[test]
#[ignore = "takes minutes"]
fn a_day_without_a_broker() {
    away(24, 64 << 20);
}

#[test]
fn what_the_broker_takes_in_time_is_never_written() {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let mut rig = Rig::in_folder(&folder);
    let before = fs::metadata(folder.path().join("outbox.db-wal")).map_or(0, |wal| wal.len());
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let then = modified(&path);
    for _ in 0..3_000 {
        rig.produce();
        assert_eq!(rig.take(1), 1);
        rig.round();
    }
    assert_eq!(fs::metadata(folder.path().join("outbox.db-wal")).map_or(0, |wal| wal.len()), before);
    assert_eq!(modified(&path), then);
}

#[test]
fn what_an_earlier_run_left_is_sent_first_and_in_order() {
    let folder = folder();
    let mut rig = Rig::in_folder(&folder);
    rig.outage(60);
    rig.keeper.round(rig.now_ms, true);
    let (now_ms, produced) = (rig.now_ms, rig.produced);
    drop(rig);
    let mut rig = Rig::in_folder(&folder);
    (rig.now_ms, rig.produced) = (now_ms, produced);
    assert_eq!(rig.stats().recovered, 600);
    rig.outage(5);
    assert_eq!(rig.take(usize::MAX), 650);
    assert!(rig.acked.iter().copied().eq(0..650));
}

#[test]
fn what_waited_too_long_is_not_sent_by_the_next_run() {
    let folder = folder();
    let mut rig = Rig::in_folder(&folder);
    rig.outage(60);
    let mqtt = client(limits(1 << 20));
    mqtt.outbox(|outbox| outbox.await_store());
    drop(rig);
    let mut rig = Rig::in_folder(&folder);
    rig.now_ms += 73 * 3_600_000;
    assert_eq!(rig.take(usize::MAX), 0);
    assert_eq!(rig.stats().drops.get(Class::Prediction, Reason::Expired), rig.stats().recovered);
}
