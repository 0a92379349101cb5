//! The store's file: an SQLite database with a table for each queue, and the count beside it.
//!
//! WAL with `synchronous = FULL`: a transaction that has returned survives a power cut; with NORMAL it would survive
//! only a crash of the process. The lock is exclusive: two daemons on one file would send each other's messages, and no
//! shared memory file is needed. Runs on the caller's thread, and blocks.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::count::{Count, TableCount};
use super::files::{FileError, create, failed, remove};
use super::row::{Columns, table};
use super::salvage;
use super::schema::{
    APPLICATION_ID, CACHE_KIB, COLUMNS, SCHEMA, UNCHECKED, connect, connect_for_reading, insert, migrate, number,
    set_up,
};
use crate::publish::mqtt::outbox::{Inventory, PAGE_BYTES, PageRequest, QueueId, Row, Work};

/// An empty file that is larger than this is shrunk.
const WORTH_SHRINKING: u64 = 1 << 20;

/// An open file, locked for this process.
pub(crate) struct File {
    path: PathBuf,
    db: Connection,
    /// Device and inode: by now another file may be at the path.
    place: (u64, u64),
    /// Drawn when the file was made: tells one file from another.
    pub token: i64,
    /// What the file should have, from before it was opened; `None`: unknown.
    expected: Option<Count>,
    count: Count,
    /// Why it could not be written when it was opened; it is to be opened again when it can.
    unwritable: Option<FileError>,
}

impl File {
    /// Opens the file, or creates it and its folder; it grows to `max_bytes` at most, SQLite's log included. On a disk that
    /// is read-only it can only be read. To be followed by [`File::take_stock`].
    pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Self, FileError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("cannot create the folder", folder))?;
        }
        salvage::finish(path)?;
        let unwritable = match create(path) {
            Err(error) if !is_on_read_only_disk(path) => return Err(error),
            created => created.err(),
        };
        let expected = Count::read(path);
        let mut db = if unwritable.is_none() { connect(path)? } else { connect_for_reading(path)? };
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE;")?;
        // Before anything is written: the file may belong to another program.
        let content = Self::content(&db, path, expected.is_some())?;
        let log_pages = max_bytes / 32 / PAGE_BYTES;
        db.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL; \
             PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {}; PRAGMA journal_size_limit = {}; \
             PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY;",
            log_pages.max(16),
            max_bytes / 16,
        ))?;
        match content {
            Content::Nothing => set_up(&mut db, expected.map(|count| count.token))?,
            Content::Unchecked => migrate(&mut db)?,
            Content::Ours => {}
        }
        // The migration may need more.
        let most_pages = max_bytes / PAGE_BYTES - max_bytes / 16 / PAGE_BYTES;
        db.execute_batch(&format!("PRAGMA max_page_count = {most_pages};"))?;
        let token = db.query_row("SELECT token FROM store", [], |row| row.get(0))?;
        let expected = expected.filter(|count| count.token == token);
        let place = place(path).map_err(failed("cannot look at", path))?;
        Ok(Self { path: path.to_owned(), db, place, token, expected, count: Count::new(token), unwritable })
    }

    /// Returns what is in the file; `is_ours`: there is a count beside it.
    ///
    /// # Errors
    /// Also if it belongs to another program or a later version.
    fn content(db: &Connection, path: &Path, is_ours: bool) -> Result<Content, FileError> {
        let number = |query: &str| db.query_row(query, [], |row| row.get::<_, i32>(0));
        let numbers = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
        // SQLite knows this once it has read the header.
        if is_ours && db.is_readonly("main")? && !is_on_read_only_disk(path) {
            return Err(FileError::Corrupt("its header asks for a later SQLite".into()));
        }
        match numbers {
            (APPLICATION_ID, SCHEMA) => Ok(Content::Ours),
            (APPLICATION_ID, UNCHECKED) => Ok(Content::Unchecked),
            (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(Content::Nothing),
            (id, version) if is_ours => {
                Err(FileError::Corrupt(format!("its header has the application id {id} and the version {version}")))
            }
            (APPLICATION_ID, later) => Err(FileError::Failed(format!(
                "it was written by a later edgewatt (schema {later}, here {SCHEMA}); move it away, or update"
            ))),
            // Not ours to put aside.
            _ => Err(FileError::Failed("it is the database of another program; set mqtt.store.path".into())),
        }
    }

    /// Checks that the file is still in its place; SQLite would go on writing into a deleted one.
    pub(crate) fn check_place(&self) -> Result<(), FileError> {
        match place(&self.path) {
            Ok(found) if found == self.place => Ok(()),
            Ok(_) => Err(FileError::Failed("another file was put in its place".into())),
            Err(error) => Err(FileError::Failed(format!("it is missing: {error}"))),
        }
    }

    /// Reads and checks everything that the file holds, and lists it.
    ///
    /// # Errors
    /// `Corrupt` at the first row that is damaged.
    pub(crate) fn take_stock(&mut self, inventory: &mut Inventory) -> Result<(), FileError> {
        let expected = self.expected.unwrap_or_default();
        for (queue, table_count) in QueueId::STORED.into_iter().zip(&mut self.count.tables) {
            let TableCount { rows: expected_rows, first } = expected.of(queue);
            // Those below are what a commit that was cut off would have deleted, or what an older log brings back.
            if self.unwritable.is_none() {
                let delete = format!("DELETE FROM {} WHERE id < ?1", table(queue));
                self.unwritable = passed_on(self.db.execute(&delete, params![number(first)]).map_err(FileError::from))?;
            }
            let query = format!("SELECT {COLUMNS} FROM {} WHERE id >= ?1 ORDER BY id", table(queue));
            let mut statement = self.db.prepare(&query)?;
            let mut rows = statement.query(params![number(first)])?;
            *table_count = TableCount { rows: 0, first };
            let mut next_id = first;
            while let Some(row) = rows.next()? {
                let columns = Columns::read(queue, row)?;
                if columns.id < next_id {
                    return Err(FileError::Corrupt(format!("rows of {} are not in order", table(queue))));
                }
                next_id = columns.id + 1;
                table_count.rows += 1;
                inventory.add(queue, columns.id, columns.time_ms, columns.topic.len() + columns.payload.len());
            }
            inventory.lose(queue, expected_rows.saturating_sub(table_count.rows));
            self.count.next_id = self.count.next_id.max(next_id);
        }
        self.count.next_id = self.count.next_id.max(expected.next_id);
        inventory.reserve(self.count.next_id);
        self.count = self.count.after(Count::read(&self.path));
        if self.unwritable.is_none() {
            self.unwritable = passed_on(self.write_count(true))?;
        }
        Ok(())
    }

    /// Returns whether it could not be written when it was opened, and perhaps can be now.
    pub(crate) fn is_to_be_reopened(&self) -> bool {
        self.unwritable.is_some() && !is_on_read_only_disk(&self.path)
    }

    /// Deletes the file, of which nothing is needed any more; so a disk that it has filled has room again.
    pub(crate) fn delete(self) -> Result<(), FileError> {
        let Self { path, db, .. } = self;
        drop(db);
        // The count first: it must not say that an empty file has lost messages.
        Count::delete(&path).map_err(failed("cannot delete the count beside", &path))?;
        remove(&path)
    }

    /// Returns whether it was known at the start how many messages the file should have.
    pub(crate) fn knows_its_count(&self) -> bool {
        self.expected.is_some()
    }

    fn write_count(&mut self, sync: bool) -> Result<(), FileError> {
        self.count.write(&self.path, sync).map_err(failed("cannot write the count beside", &self.path))
    }

    /// Does all of the work or nothing; it is on the disk when this returns.
    ///
    /// # Errors
    /// Without work, too, if the file could not be written when it was opened.
    pub(crate) fn commit(&mut self, work: &Work) -> Result<(), FileError> {
        if let Some(error) = &self.unwritable {
            return Err(error.clone());
        }
        if work.is_empty() {
            return Ok(());
        }
        let all = self.db.transaction()?;
        let mut count = self.count;
        for (queue, range) in work.reset.iter().flatten() {
            let (first, last) = range.unwrap_or((1, 0));
            let delete = format!("DELETE FROM {} WHERE id NOT BETWEEN ?1 AND ?2", table(*queue));
            count.remove(*queue, all.execute(&delete, params![number(first), number(last)])?);
        }
        for row in &work.inserts {
            let columns = Columns::of(row);
            // After a failure some rows may be there already.
            let delete = format!("DELETE FROM {} WHERE id = ?1", table(row.queue));
            if work.reset.is_some() {
                count.remove(row.queue, all.prepare_cached(&delete)?.execute(params![number(row.id)])?);
            }
            insert(&all, columns)?;
            count.next_id = count.next_id.max(row.id + 1);
        }
        for (queue, id) in &work.deletes {
            let delete = format!("DELETE FROM {} WHERE id = ?1", table(*queue));
            count.remove(*queue, all.prepare_cached(&delete)?.execute(params![number(*id)])?);
        }
        for (queue, first, last) in &work.cuts {
            let delete = format!("DELETE FROM {} WHERE id BETWEEN ?1 AND ?2", table(*queue));
            count.remove(*queue, all.prepare_cached(&delete)?.execute(params![number(*first), number(*last)])?);
        }
        for (queue, table_count) in QueueId::STORED.into_iter().zip(&mut count.tables) {
            let query = format!("SELECT min(id) FROM {}", table(queue));
            let first = all.prepare_cached(&query)?.query_row([], |row| row.get::<_, Option<i64>>(0))?;
            table_count.first = first.map_or(count.next_id, i64::unsigned_abs);
        }
        let deletes = work.reset.is_some() || !work.deletes.is_empty() || !work.cuts.is_empty();
        if deletes || work.inserts.iter().any(|row| row.id < self.count.of(row.queue).first) {
            // Whenever the power goes, what is deleted must not count as lost, and what is new not as deleted.
            count.write(&self.path, true).map_err(failed("cannot write the count beside", &self.path))?;
        }
        all.commit()?;
        for row in &work.inserts {
            count.add(row.queue);
        }
        self.count = count;
        // A power cut may cost this one: then less is counted than was lost, if the log is lost too.
        self.write_count(false)
    }

    /// Returns the rows asked for, in order.
    ///
    /// # Errors
    /// `Corrupt` at the first row that is damaged.
    pub(crate) fn read(&self, request: PageRequest) -> Result<Vec<Row>, FileError> {
        let PageRequest { queue, first, last } = request;
        let query = format!("SELECT {COLUMNS} FROM {} WHERE id BETWEEN ?1 AND ?2 ORDER BY id", table(queue));
        let mut statement = self.db.prepare_cached(&query)?;
        let mut found = statement.query(params![number(first), number(last)])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            rows.push(Columns::read(queue, row)?.to_row());
        }
        Ok(rows)
    }

    /// Gives the space of an empty file back to the disk, if it is large.
    pub(crate) fn shrink(&mut self) -> Result<(), FileError> {
        let pages: i64 = self.db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if pages.unsigned_abs() * PAGE_BYTES > WORTH_SHRINKING {
            self.db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
        }
        Ok(())
    }
}

/// What a file has when it is opened.
enum Content {
    Nothing,
    Ours,
    /// Rows without checksums.
    Unchecked,
}

/// Returns the error with which a file cannot be written, though perhaps read.
fn passed_on<T>(written: Result<T, FileError>) -> Result<Option<FileError>, FileError> {
    match written {
        Ok(_) => Ok(None),
        Err(error @ FileError::Corrupt(_)) => Err(error),
        Err(error) => Ok(Some(error)),
    }
}

fn is_on_read_only_disk(path: &Path) -> bool {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

fn place(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
