//! The count: a small file beside the database that says how many messages the database has. So a loss can be counted
//! even if the database does not show it, as when its log is gone.
//!
//! It has two slots, which are written in turn: a write that is cut off leaves the other slot.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::files::with_suffix;
use super::row::checksum;
use crate::publish::mqtt::outbox::QueueId;

/// The last byte is the version of this format.
const MAGIC: u64 = u64::from_le_bytes(*b"EWcount\x01");
/// A disk writes a sector whole, or not at all.
const SLOT_BYTES: usize = 512;
const NUMBERS: usize = 4 + 2 * QueueId::STORED.len();

/// What one table has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TableCount {
    pub rows: u64,
    /// The lowest id; what is below it was deleted.
    pub first: u64,
}

/// What the database has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// The token of the database.
    pub token: i64,
    /// No row has had an id from here on.
    pub next_id: u64,
    /// In the order of `QueueId::STORED`.
    pub tables: [TableCount; QueueId::STORED.len()],
    generation: u64,
}

impl Count {
    /// Returns the count of an empty database.
    pub(super) fn new(token: i64) -> Self {
        Self { token, ..Self::default() }
    }

    /// Reads the newest count beside the database at `path`; `None` if neither slot is valid.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(place(path)).ok()?;
        let slots = bytes.chunks_exact(SLOT_BYTES).take(2);
        slots.filter_map(Self::decode).max_by_key(|count| count.generation)
    }

    /// Writes the count; with `sync` it is on the disk when this returns.
    pub(super) fn write(&mut self, path: &Path, sync: bool) -> io::Result<()> {
        self.generation += 1;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(place(path))?;
        let slot = self.generation % 2;
        file.write_all_at(&self.encode(), slot * SLOT_BYTES as u64)?;
        if sync { file.sync_data() } else { Ok(()) }
    }

    /// Deletes the count beside the database at `path`; it then says nothing about the next one.
    pub(super) fn delete(path: &Path) -> io::Result<()> {
        let place = place(path);
        if place.exists() { fs::remove_file(place) } else { Ok(()) }
    }

    /// Returns the same content as the successor of `before`, so that it is written over the older slot.
    pub(super) fn after(self, before: Option<Self>) -> Self {
        Self { generation: before.map_or(0, |count| count.generation), ..self }
    }

    /// Returns the count of a queue's table.
    pub(super) fn of(&self, queue: QueueId) -> TableCount {
        place_of(queue).map_or_else(TableCount::default, |place| self.tables[place])
    }

    /// Counts a row more.
    pub(super) fn add(&mut self, queue: QueueId) {
        if let Some(place) = place_of(queue) {
            self.tables[place].rows += 1;
        }
    }

    /// Counts this many rows fewer.
    pub(super) fn remove(&mut self, queue: QueueId, rows: usize) {
        if let Some(place) = place_of(queue) {
            self.tables[place].rows = self.tables[place].rows.saturating_sub(rows as u64);
        }
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let tables = self.tables.iter().flat_map(|table| [table.rows, table.first]);
        let numbers = [MAGIC, self.generation, self.token.cast_unsigned(), self.next_id].into_iter().chain(tables);
        let mut slot = [0; SLOT_BYTES];
        for (to, number) in slot.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(&slot[..NUMBERS * 8]);
        slot[NUMBERS * 8..][..4].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let (content, rest) = slot.split_at_checked(NUMBERS * 8)?;
        if rest.first_chunk() != Some(&checksum(content).to_le_bytes()) {
            return None;
        }
        let mut numbers = content.as_chunks().0.iter().copied().map(u64::from_le_bytes);
        if numbers.next()? != MAGIC {
            return None;
        }
        let (generation, token, next_id) = (numbers.next()?, numbers.next()?.cast_signed(), numbers.next()?);
        let mut tables = [TableCount::default(); QueueId::STORED.len()];
        for table in &mut tables {
            *table = TableCount { rows: numbers.next()?, first: numbers.next()? };
        }
        Some(Self { token, next_id, tables, generation })
    }
}

fn place_of(queue: QueueId) -> Option<usize> {
    QueueId::STORED.iter().position(|stored| *stored == queue)
}

fn place(path: &Path) -> PathBuf {
    with_suffix(path, "-count")
}
