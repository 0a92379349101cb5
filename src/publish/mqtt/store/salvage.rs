//! Salvage: finds the messages in a damaged database that SQLite refuses, and writes them into a new one.
//!
//! Each page is read by itself, in the database and in SQLite's log, so that damage to one page costs that page. The
//! checksum of a row says whether it is a message, and of which table. The layout of pages, cells and log frames is
//! that of <https://www.sqlite.org/fileformat2.html>. Runs on the caller's thread, and blocks.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::count::Count;
use super::files::{FileError, create, failed, put_aside, remove, with_suffix};
use super::row::Columns;
use super::schema::{CACHE_KIB, connect, insert, set_up};
use crate::publish::mqtt::outbox::{PAGE_BYTES, QueueId};

const PAGE: usize = PAGE_BYTES as usize;
const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// The type of a page that holds rows.
const LEAF: u8 = 13;
/// A cell with a larger record keeps only a part of it in its page.
const MOST_LOCAL: usize = PAGE - 35;
const LEAST_LOCAL: usize = (PAGE - 12) * 32 / 255 - 23;
/// No message is larger than this.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// Replaces the damaged database at `path` by one with all messages found in it. The damaged one is kept, in place of
/// the one kept before. Returns its new name.
///
/// # Errors
/// `Failed` if a disk is full, for example: to be tried again.
pub(super) fn salvage(path: &Path, now_s: u64) -> Result<PathBuf, FileError> {
    let unfinished = with_suffix(path, "-salvaged");
    remove(&unfinished)?;
    let count = Count::read(path);
    let pages = Pages::open(path)?;
    let mut new = NewFile::create(&unfinished, count.map(|count| count.token))?;
    for place in 0..pages.places() {
        if let Some(page) = pages.at(place) {
            rows_of(&page, &pages, &mut |columns| {
                // Those below were deleted; their pages may still have them.
                if count.is_none_or(|count| columns.id >= count.of(columns.queue).first) {
                    return new.insert(columns);
                }
                Ok(())
            })?;
        }
    }
    new.finish()?;
    let aside = put_aside(path, now_s)?;
    finish(path)?;
    Ok(aside)
}

/// Finishes a salvage that was cut off: one that found everything has put the damaged database aside.
pub(super) fn finish(path: &Path) -> Result<(), FileError> {
    let salvaged = with_suffix(path, "-salvaged");
    if !salvaged.exists() {
        return Ok(());
    }
    if path.exists() {
        return remove(&salvaged);
    }
    // SQLite would take the log of the damaged database for this one's.
    remove(path)?;
    fs::rename(&salvaged, path).map_err(failed("cannot rename", &salvaged))
}

/// A database that is being filled; it is of no use before [`NewFile::finish`].
struct NewFile {
    path: PathBuf,
    db: Connection,
}

impl NewFile {
    /// Creates the file; without a `token` one is drawn.
    fn create(path: &Path, token: Option<i64>) -> Result<Self, FileError> {
        create(path)?;
        let mut db = connect(path)?;
        // What a crash leaves of it is deleted.
        db.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; \
             PRAGMA cache_size = -{CACHE_KIB};"
        ))?;
        set_up(&mut db, token)?;
        db.execute_batch("BEGIN")?;
        Ok(Self { path: path.to_owned(), db })
    }

    /// Adds a row, unless it is there.
    fn insert(&mut self, columns: Columns) -> Result<(), FileError> {
        insert(&self.db, columns)
    }

    /// Returns when the file is on the disk.
    fn finish(self) -> Result<(), FileError> {
        self.db.execute_batch("COMMIT")?;
        drop(self.db);
        let file = fs::File::open(&self.path).map_err(failed("cannot open", &self.path))?;
        file.sync_all().map_err(failed("cannot write", &self.path))
    }
}

/// The pages of a database and of its log, old versions included.
struct Pages {
    db: fs::File,
    db_pages: u64,
    log: Option<fs::File>,
    frames: u64,
    /// Page number -> frame that was written last.
    newest: HashMap<u32, u64>,
}

impl Pages {
    fn open(path: &Path) -> Result<Self, FileError> {
        let db = fs::File::open(path).map_err(failed("cannot open", path))?;
        let bytes = |file: &fs::File| file.metadata().map_or(0, |found| found.len());
        let log = fs::File::open(with_suffix(path, "-wal")).ok();
        let log_bytes = log.as_ref().map_or(0, bytes).saturating_sub(LOG_HEADER_BYTES);
        let mut pages = Self {
            db_pages: bytes(&db).div_ceil(PAGE_BYTES),
            db,
            log,
            frames: log_bytes / (FRAME_HEADER_BYTES + PAGE_BYTES),
            newest: HashMap::new(),
        };
        pages.newest = pages.newest();
        Ok(pages)
    }

    fn newest(&self) -> HashMap<u32, u64> {
        let Some(log) = &self.log else { return HashMap::new() };
        let mut header = [0; 32];
        let salt = log.read_exact_at(&mut header, 0).map(|()| header[16..24].to_vec());
        let frame = |frame: &u64| {
            let mut header = [0; 24];
            log.read_exact_at(&mut header, frame_place(*frame)).ok()?;
            // Another salt: it is left from before the last checkpoint.
            let is_new = salt.as_ref().is_ok_and(|salt| header[8..16] == **salt);
            is_new.then_some((u32_at(&header, 0)?, *frame))
        };
        (0..self.frames).filter_map(|number| frame(&number)).collect()
    }

    /// Returns how many pages there are, those of the log included.
    fn places(&self) -> u64 {
        self.db_pages + self.frames
    }

    /// Reads a page of the database, or behind those one of the log; `None` if the disk does not give it.
    fn at(&self, place: u64) -> Option<[u8; PAGE]> {
        let mut page = [0; PAGE];
        match place.checked_sub(self.db_pages) {
            // The last one may be cut off.
            None => {
                let end = self.db.metadata().ok()?.len().min((place + 1) * PAGE_BYTES);
                let there = usize::try_from(end.checked_sub(place * PAGE_BYTES)?).ok()?;
                self.db.read_exact_at(&mut page[..there], place * PAGE_BYTES).ok()?;
            }
            Some(frame) => {
                self.log.as_ref()?.read_exact_at(&mut page, frame_place(frame) + FRAME_HEADER_BYTES).ok()?;
            }
        }
        Some(page)
    }

    /// Reads the last version of a page.
    fn numbered(&self, number: u32) -> Option<[u8; PAGE]> {
        match self.newest.get(&number) {
            Some(frame) => self.at(self.db_pages + frame),
            None => self.at(u64::from(number).checked_sub(1).filter(|place| *place < self.db_pages)?),
        }
    }
}

fn frame_place(frame: u64) -> u64 {
    LOG_HEADER_BYTES + frame * (FRAME_HEADER_BYTES + PAGE_BYTES)
}

/// Gives all messages of a page to `found`.
fn rows_of(
    page: &[u8; PAGE],
    pages: &Pages,
    found: &mut impl FnMut(Columns) -> Result<(), FileError>,
) -> Result<(), FileError> {
    if page[0] != LEAF {
        return Ok(());
    }
    let cells = usize::from(u16::from_be_bytes([page[3], page[4]]));
    for pointer in page[8..].as_chunks::<2>().0.iter().take(cells) {
        let cell = page.get(usize::from(u16::from_be_bytes(*pointer))..).unwrap_or_default();
        let Some((id, record)) = record(cell, pages) else { continue };
        let of_queue = |queue: &QueueId| columns(*queue, id, &record);
        // The checksum includes the name of the table.
        if let Some(columns) = QueueId::STORED.iter().find_map(of_queue) {
            found(columns)?;
        }
    }
    Ok(())
}

/// Returns the id and the record of a cell.
fn record(cell: &[u8], pages: &Pages) -> Option<(u64, Vec<u8>)> {
    let mut rest = cell;
    let bytes = usize::try_from(varint(&mut rest)?).ok().filter(|bytes| *bytes <= MAX_RECORD_BYTES)?;
    let id = varint(&mut rest)?;
    if bytes <= MOST_LOCAL {
        return Some((id, rest.get(..bytes)?.to_vec()));
    }
    let local = LEAST_LOCAL + (bytes - LEAST_LOCAL) % (PAGE - 4);
    let local = if local <= MOST_LOCAL { local } else { LEAST_LOCAL };
    let mut record = rest.get(..local)?.to_vec();
    let mut next = u32_at(rest, local)?;
    while record.len() < bytes {
        let page = pages.numbered(next)?;
        let count = (bytes - record.len()).min(PAGE - 4);
        record.extend_from_slice(&page[4..4 + count]);
        next = u32_at(&page, 0)?;
    }
    Some((id, record))
}

/// Returns the message that a record is, if it is one of that queue.
fn columns(queue: QueueId, id: u64, record: &[u8]) -> Option<Columns<'_>> {
    let mut kinds = record;
    let header_bytes = usize::try_from(varint(&mut kinds)?).ok()?;
    let mut body = record.get(header_bytes..)?;
    let mut kind = || varint(&mut kinds);
    // The id is not in the record.
    let [_, time_kind, topic_kind, payload_kind, sum_kind] = [kind()?, kind()?, kind()?, kind()?, kind()?];
    let time_ms = integer(time_kind, &mut body)?;
    let topic = body.split_off(..length(topic_kind, 13)?)?;
    let payload = body.split_off(..length(payload_kind, 12)?)?;
    let columns = Columns { queue, id, time_ms, topic: std::str::from_utf8(topic).ok()?, payload };
    (integer(sum_kind, &mut body)? == u64::from(columns.checksum())).then_some(columns)
}

/// Returns the bytes of a text (`first` is 13) or a blob (12) of that kind.
fn length(kind: u64, first: u64) -> Option<usize> {
    let twice = kind.checked_sub(first).filter(|twice| twice % 2 == 0)?;
    usize::try_from(twice / 2).ok()
}

/// Takes an integer that is not negative.
fn integer(kind: u64, body: &mut &[u8]) -> Option<u64> {
    let bytes = match kind {
        1..=4 => kind as usize,
        5 => 6,
        6 => 8,
        8 => return Some(0),
        9 => return Some(1),
        _ => return None,
    };
    Some(body.split_off(..bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Takes an integer of one to nine bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..9 {
        let byte = *rest.split_off_first()?;
        if place == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(place..)?.first_chunk()?))
}
