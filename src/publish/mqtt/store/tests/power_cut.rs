//! The power goes at any moment of a write: what is on the disk then is made up from what was there before and after.
//!
//! A transaction that has returned was synced. Of one that has not, any part of the sectors that it writes may be there.
//! What a checkpoint writes into the database may be there in part as long as the log still has it.

use std::collections::BTreeSet;

use edgewatt_support::dice::Dice;

use super::files::with_suffix;
use super::*;
use crate::publish::message::Bytes;
use crate::publish::mqtt::outbox::{PageRequest, QueueId, Row, Work};

const MAX_BYTES: u64 = 1 << 20;
const SECTOR: usize = 512;

/// The files at one moment.
#[derive(Clone, PartialEq)]
struct Image {
    db: Vec<u8>,
    wal: Vec<u8>,
    count: Vec<u8>,
}

impl Image {
    fn of(path: &Path) -> Self {
        let read = |suffix| fs::read(with_suffix(path, suffix)).unwrap_or_default();
        Self { db: read(""), wal: read("-wal"), count: read("-count") }
    }

    /// What a daemon that starts on it finds: it must open, whole.
    fn ids(&self, folder: &Path) -> BTreeSet<u64> {
        let path = folder.join("image.db");
        fs::write(&path, &self.db).unwrap();
        fs::write(with_suffix(&path, "-wal"), &self.wal).unwrap();
        fs::write(with_suffix(&path, "-count"), &self.count).unwrap();
        let mut file = File::open(&path, MAX_BYTES).unwrap_or_else(|e| panic!("it does not open: {e}"));
        let mut inventory: Inventory = client(limits(MAX_BYTES)).outbox(|outbox| outbox.inventory(NOW_MS));
        file.take_stock(&mut inventory).unwrap();
        assert_eq!(inventory.lost(), 0);
        let rows = file.read(PageRequest { queue: QueueId::Prediction, first: 0, last: 1 << 40 }).unwrap();
        assert!(rows.iter().all(|row| row.payload == payload(row.id)), "a message is damaged");
        drop(file);
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_file(with_suffix(&path, "-wal"));
        rows.iter().map(|row| row.id).collect()
    }
}

fn payload(id: u64) -> Bytes {
    format!("{id}").repeat(20 + id as usize % 90).into_bytes().into()
}

/// The count as it is before the transaction returns: the slot that is written last has what it had.
fn count_before(before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut count = after.to_vec();
    let generation = |slot: usize| after.get(slot * SECTOR + 8..).and_then(|rest| rest.first_chunk().copied());
    let newest = (0..2).max_by_key(|slot| generation(*slot).map(u64::from_le_bytes)).unwrap() * SECTOR;
    let end = (newest + SECTOR).min(count.len());
    count[newest..end].fill(0);
    let old = before.get(newest..end.min(before.len())).unwrap_or_default();
    count[newest..newest + old.len()].copy_from_slice(old);
    count
}

/// `before`, with any of the sectors in which `after` differs.
fn torn(before: &[u8], after: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut torn = before.to_vec();
    torn.resize(before.len().max(after.len()), 0);
    let length =
        if after.len() > before.len() { before.len() + dice.roll(after.len() - before.len() + 1) } else { torn.len() };
    let in_order = dice.roll(2) == 0;
    let up_to = dice.roll(after.len().div_ceil(SECTOR) + 1) * SECTOR;
    for start in (0..after.len()).step_by(SECTOR) {
        let there = if in_order { start < up_to } else { dice.roll(2) == 0 };
        if there {
            let end = (start + SECTOR).min(after.len());
            torn[start..end].copy_from_slice(&after[start..end]);
        }
    }
    torn.truncate(length);
    torn
}

#[test]
fn whenever_the_power_goes_all_that_was_committed_is_there() {
    let (folder, mut dice) = (folder(), Dice(0x9e37_79b9_7f4a_7c15));
    let path = folder.path().join("outbox.db");
    let mut file = File::open(&path, MAX_BYTES).unwrap();
    file.take_stock(&mut client(limits(MAX_BYTES)).outbox(|outbox| outbox.inventory(NOW_MS))).unwrap();
    let (mut ids, mut next, mut checkpoints, mut images) = (BTreeSet::new(), 1, 0, 0);
    let mut before = Image::of(&path);
    for _ in 0..400 {
        let mut work = Work::default();
        let mut expected: BTreeSet<u64> = ids.clone();
        for _ in 0..dice.roll(12) + 1 {
            work.inserts.push(Row {
                queue: QueueId::Prediction,
                id: next,
                time_ms: NOW_MS,
                topic: "t".into(),
                payload: payload(next),
            });
            expected.insert(next);
            next += 1;
        }
        while expected.len() > 300 || dice.roll(3) == 0 {
            let Some(id) = expected.pop_first() else { break };
            work.deletes.push((QueueId::Prediction, id));
        }
        work.inserts.retain(|row| expected.contains(&row.id));
        file.commit(&work).unwrap();
        let after = Image::of(&path);
        checkpoints += usize::from(after.db != before.db);
        let mut check = |image: Image, whole: bool| {
            let found = image.ids(folder.path());
            // What the transaction would have deleted may be gone without it.
            let some = (&ids & &expected).is_subset(&found) && found.is_subset(&(&ids | &expected));
            assert!(found == expected || !whole && some, "neither before nor after the transaction");
            images += 1;
        };
        check(after.clone(), true);
        for _ in 0..3 {
            // Cut while the log is written; nothing of the database is then.
            let count = count_before(&before.count, &after.count);
            let wal = torn(&before.wal, &after.wal, &mut dice);
            check(Image { db: before.db.clone(), wal, count: count.clone() }, false);
            // Cut while the database is: the log has all of it.
            if after.db != before.db {
                let db = torn(&before.db, &after.db, &mut dice);
                check(Image { db, wal: after.wal.clone(), count }, true);
            }
        }
        (before, ids) = (after, expected);
    }
    println!("{images} images, {checkpoints} checkpoints");
    assert!(checkpoints > 20, "{checkpoints}");
}
