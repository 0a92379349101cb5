//! Files damaged at random: what is good is sent, and what is lost is counted.

use edgewatt_support::dice::Dice;
use rusqlite::{Connection, params};

use super::count::Count;
use super::files::with_suffix;
use super::row::Columns;
use super::*;
use crate::publish::mqtt::outbox::QueueId;

/// The file, SQLite's log and the count.
#[derive(Clone)]
struct Files([Option<Vec<u8>>; 3]);

const DB: usize = 0;
const WAL: usize = 1;
const COUNT: usize = 2;

impl Files {
    const SUFFIXES: [&str; 3] = ["", "-wal", "-count"];

    fn read(path: &Path) -> Self {
        Self(Self::SUFFIXES.map(|suffix| fs::read(with_suffix(path, suffix)).ok()))
    }

    /// Writes them to a folder of their own, and starts a store there.
    fn start(&self) -> (TempDir, Rig) {
        let folder = folder();
        let path = folder.path().join("outbox.db");
        for (suffix, content) in Self::SUFFIXES.iter().zip(&self.0) {
            content.iter().for_each(|content| fs::write(with_suffix(&path, suffix), content).unwrap());
        }
        let rig = Rig::in_folder(&folder);
        (folder, rig)
    }

    fn part(&mut self, part: usize) -> &mut Vec<u8> {
        self.0[part].as_mut().unwrap()
    }
}

/// Sends everything. Returns how many were lost of `stored`.
#[track_caller]
fn lost(rig: &mut Rig, stored: u64, what: &str) -> u64 {
    for _ in 0..10 {
        rig.now_ms += RETRY_MAX_MS + 1;
        rig.round();
        rig.take(usize::MAX);
    }
    assert_eq!(rig.state(), State::Working, "{what}");
    let s = rig.stats();
    let lost = s.drops.get(Class::Prediction, Reason::Store);
    assert_eq!((s.recovered, s.acked + lost, s.queued), (stored, stored, 0), "{what}: {s:?}");
    assert!(rig.acked.is_sorted_by(|before, after| before < after), "{what}: out of order");
    lost
}

/// A file with this many messages, closed.
fn stored(count: u32) -> Files {
    let folder = folder();
    let mut rig = Rig::in_folder(&folder);
    for _ in 0..count {
        rig.produce();
    }
    rig.keeper.round(rig.now_ms, true);
    drop(rig);
    Files::read(&folder.path().join("outbox.db"))
}

#[test]
fn random_bytes_cost_the_messages_that_they_hit_and_those_are_counted() {
    let whole = stored(1_039);
    let mut total = 0;
    for seed in 1..=60 {
        let (mut dice, mut files) = (Dice(seed), whole.clone());
        for _ in 0..50 {
            let bytes = files.part(DB);
            let place = dice.roll(bytes.len());
            bytes[place] = dice.roll(256) as u8;
        }
        let (_folder, mut rig) = files.start();
        total += lost(&mut rig, 1_039, &format!("seed {seed}"));
    }
    println!("{total} lost of {}, by 3,000 bytes", 60 * 1_039);
    assert!((1_000..6_000).contains(&total), "{total}");
}

#[test]
fn whatever_happens_to_the_first_page_costs_nothing() {
    let whole = stored(200);
    for seed in 1..=150 {
        let (mut dice, mut files) = (Dice(seed), whole.clone());
        for _ in 0..=dice.roll(8) {
            files.part(DB)[dice.roll(100)] = dice.roll(256) as u8;
        }
        let (_folder, mut rig) = files.start();
        assert_eq!(lost(&mut rig, 200, &format!("seed {seed}")), 0, "seed {seed}");
    }
    let mut files = whole;
    files.part(DB)[..4096].fill(0x5A);
    assert_eq!(lost(&mut files.start().1, 200, "the whole page"), 0);
}

#[test]
fn large_messages_are_saved_as_well() {
    let folder = folder();
    let mut rig = Rig::in_folder(&folder);
    let sizes: Vec<usize> = (0..40).map(|number| 3_900 + number * 217).collect();
    for size in &sizes {
        let payload = vec![b'p'; *size].into();
        let (topic, class, qos) = ("large".into(), Class::Event, Qos::AtLeastOnce);
        let message = Message { topic, payload, qos, retain: false, class, marks: None };
        rig.keeper.mqtt.outbox(|outbox| outbox.push(message, rig.now_ms));
    }
    rig.keeper.round(rig.now_ms, true);
    drop(rig);
    let mut files = Files::read(&folder.path().join("outbox.db"));
    files.part(DB)[..4096].fill(0);
    let (_folder, mut rig) = files.start();
    rig.round();
    assert_eq!(rig.state(), State::Working);
    let s = rig.stats();
    assert_eq!((s.recovered, s.queued), (40, 40), "{s:?}");
    let bytes: usize = sizes.iter().map(|size| size + "large".len()).sum();
    while rig.keeper.mqtt.outbox(|outbox| outbox.wanted_page()).is_some() {
        rig.round();
    }
    assert!(rig.stats().bytes <= bytes as u64 && rig.stats().drops.total() == 0);
}

/// As a kill leaves it: SQLite's log has a part of the messages.
#[test]
fn what_a_log_had_that_is_gone_or_damaged_is_counted() {
    let folder = folder();
    let mut rig = Rig::in_folder(&folder);
    rig.outage(60);
    rig.take(200);
    rig.now_ms += 1_000;
    rig.round();
    rig.outage(7);
    let (stored, acked) = (rig.stats().stored, rig.acked.len() as u32);
    let files = Files::read(&folder.path().join("outbox.db"));
    drop(rig);
    let (_folder, mut rig) = files.start();
    assert_eq!(lost(&mut rig, stored, "nothing is damaged"), 0);
    let mut counts = Vec::new();
    for seed in 1..=60 {
        let (mut dice, mut files) = (Dice(seed), files.clone());
        let wal = files.part(WAL);
        match seed % 3 {
            0 => files.0[WAL] = None,
            1 => wal.truncate(dice.roll(wal.len())),
            _ => {
                let place = dice.roll(wal.len());
                wal[place] ^= 1 << dice.roll(8);
            }
        }
        let (_folder, mut rig) = files.start();
        counts.push(lost(&mut rig, stored, &format!("seed {seed}")));
        assert!(rig.acked.iter().all(|number| *number >= acked), "seed {seed}: delivered ones are sent again");
    }
    println!("{counts:?} of {stored}");
    assert!(counts.iter().all(|lost| *lost < stored) && counts.iter().any(|lost| *lost > 0), "{counts:?}");
}

#[test]
fn a_file_that_is_gone_is_counted_too() {
    let mut files = stored(300);
    files.0[DB] = None;
    assert_eq!(lost(&mut files.start().1, 300, "gone"), 300);
}

#[test]
fn a_salvage_that_is_killed_goes_on() {
    let mut files = stored(300);
    files.part(DB)[20 * 4096 + 3_000] ^= 1;
    // In the middle: the new file is worth nothing yet.
    let killed = folder();
    let path = killed.path().join("outbox.db");
    for (suffix, content) in Files::SUFFIXES.iter().zip(&files.0) {
        content.iter().for_each(|content| fs::write(with_suffix(&path, suffix), content).unwrap());
    }
    fs::write(with_suffix(&path, "-salvaged"), "unfinished").unwrap();
    let mut rig = Rig::in_folder(&killed);
    assert_eq!(lost(&mut rig, 300, "killed in the middle"), 1);
    assert!(!with_suffix(&path, "-salvaged").exists());
    drop(rig);
    // At the end: the damaged file was put aside, its log not yet.
    let files = stored(300);
    for (suffix, content) in Files::SUFFIXES.iter().zip(&files.0) {
        content.iter().for_each(|content| fs::write(with_suffix(&path, suffix), content).unwrap());
    }
    fs::rename(&path, with_suffix(&path, "-salvaged")).unwrap();
    fs::write(with_suffix(&path, "-wal"), vec![7; 50_000]).unwrap();
    assert_eq!(lost(&mut Rig::in_folder(&killed), 300, "killed at the end"), 0);
}

#[test]
fn a_count_that_is_torn_leaves_the_one_before() {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let mut first = Count::new(-7);
    first.next_id = 41;
    first.write(&path, true).unwrap();
    let mut second = first;
    second.next_id = 42;
    second.add(QueueId::Metrics);
    second.write(&path, false).unwrap();
    assert_eq!(Count::read(&path), Some(second));
    let whole = fs::read(with_suffix(&path, "-count")).unwrap();
    let (mut older, mut newer) = (0, 0);
    for place in 0..whole.len() * 8 {
        let mut torn = whole.clone();
        torn[place / 8] ^= 1 << (place % 8);
        fs::write(with_suffix(&path, "-count"), torn).unwrap();
        let read = Count::read(&path);
        older += usize::from(read == Some(first));
        newer += usize::from(read == Some(second));
    }
    assert!(older > 600 && older + newer == whole.len() * 8, "{older}, {newer}");
    fs::write(with_suffix(&path, "-count"), "short").unwrap();
    assert_eq!(Count::read(&path), None);
}

#[test]
fn without_a_count_all_that_is_good_is_saved() {
    let mut files = stored(300);
    files.0[COUNT] = None;
    files.part(DB)[20 * 4096..21 * 4096].fill(0);
    let (_folder, mut rig) = files.start();
    rig.round();
    let s = rig.stats();
    assert!((280..300).contains(&s.recovered) && s.drops.total() == 0, "{s:?}");
    assert_eq!(lost(&mut rig, s.recovered, "no count"), 0);
}

#[test]
fn rows_of_the_version_before_get_checksums_and_are_kept() {
    for cut_off in [false, true] {
        let folder = folder();
        let path = folder.path().join("outbox.db");
        let db = Connection::open(&path).unwrap();
        for table in ["event", "prediction", "metrics"] {
            db.execute_batch(&format!(
                "CREATE TABLE {table} (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, topic TEXT NOT NULL, \
                 payload BLOB NOT NULL)"
            ))
            .unwrap();
        }
        db.execute_batch(&format!(
            "CREATE TABLE store (token INTEGER NOT NULL); INSERT INTO store VALUES (5); \
             PRAGMA application_id = {}; PRAGMA user_version = 1;",
            0x4557_4f42
        ))
        .unwrap();
        db.execute_batch("BEGIN").unwrap();
        for id in 0..1_800 {
            let payload = format!("{id:010}{}", "x".repeat(240)).into_bytes();
            db.execute("INSERT INTO prediction VALUES (?1, ?2, ?3, ?4)", params![id, NOW_MS as i64, TOPIC, payload])
                .unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        if cut_off {
            // A migration that was cut off.
            db.execute_batch("ALTER TABLE prediction ADD COLUMN checksum INTEGER").unwrap();
        }
        drop(db);
        let mut rig = Rig::in_folder(&folder);
        assert_eq!(rig.state(), State::Working);
        assert_eq!(rig.stats().recovered, 1_800);
        assert_eq!(lost(&mut rig, 1_800, "migrated"), 0);
        drop(rig);
        let db = Connection::open(&path).unwrap();
        let version: i32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 2);
    }
}

/// A bit of a payload, and a byte of a topic that becomes a wildcard: SQLite sees neither.
#[test]
fn a_message_that_is_damaged_is_not_sent() {
    let whole = stored(300);
    let text = b"0000000123xxx";
    let place = whole.0[DB].as_ref().unwrap().windows(text.len()).position(|part| part == text).unwrap();
    for (place, byte) in [(place + 30, b'y'), (place - 3, b'#'), (place - 5, 0), (place - 2, 0xff)] {
        let mut files = whole.clone();
        files.part(DB)[place] = byte;
        let (_folder, mut rig) = files.start();
        assert_eq!(lost(&mut rig, 300, "a byte"), 1);
        assert!(!rig.acked.contains(&123) && rig.acked.len() == 299);
    }
}

/// A row with a good checksum, from another program: it is checked as a message of ours.
#[test]
fn a_row_that_no_broker_would_take_is_dropped_as_at_its_creation() {
    let mut files = stored(300);
    let folder = folder();
    let path = folder.path().join("outbox.db");
    fs::write(&path, files.part(DB)).unwrap();
    let large = vec![0; 300 * 1024];
    let db = Connection::open(&path).unwrap();
    for (id, topic, payload) in [(300, "a/#", &b"x"[..]), (301, "", b"x"), (302, "a\0", b"x"), (303, "a", &large)] {
        let row = Columns { queue: QueueId::Prediction, id, time_ms: NOW_MS, topic, payload };
        db.execute(
            "INSERT INTO prediction VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id as i64, NOW_MS as i64, topic, payload, row.checksum()],
        )
        .unwrap();
    }
    drop(db);
    let mut rig = Rig::in_folder(&folder);
    rig.take(usize::MAX);
    let s = rig.stats();
    let drops = [Reason::Topic, Reason::Oversize].map(|reason| s.drops.get(Class::Prediction, reason));
    assert_eq!((s.recovered, s.acked, drops), (304, 300, [3, 1]), "{s:?}");
    rig.now_ms += 10_000;
    rig.round();
    assert_eq!((rig.stats().stored, rig.state()), (0, State::Working));
    drop(rig);
    assert_eq!(Rig::in_folder(&folder).stats().recovered, 0, "they are deleted");
}
