//! The store's file: an SQLite database with a table for each queue.
//!
//! WAL with `synchronous = FULL`: a transaction that has returned survives a power cut; with NORMAL it would survive
//! only a crash of the process. The lock is exclusive: two daemons on one file would send each other's messages, and no
//! shared memory file is needed. Runs on the caller's thread, and blocks.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use crate::publish::mqtt::outbox::{Inventory, PAGE_BYTES, PageRequest, QueueId, Row, Work};

/// `EWOB`, by which `file` and the store recognise the file.
const APPLICATION_ID: i32 = 0x4557_4f42;
const SCHEMA: i32 = 1;
/// Size of SQLite's cache; rows are not read twice.
const CACHE_KIB: i64 = 256;
/// An empty file that is larger than this is shrunk.
const WORTH_SHRINKING: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It is damaged or not a database: put it aside and make a new one.
    #[error("{0}")]
    Corrupt(String),
    /// It may work later: the disk is full or read-only, the folder is missing, another process has it.
    #[error("{0}")]
    Failed(String),
}

impl From<rusqlite::Error> for FileError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Failed("another process has it open; each edgewatt needs a file of its own".into())
            }
            // A table or column is missing, or has another type.
            Some(ErrorCode::Unknown) => Self::Corrupt(error.to_string()),
            None => Self::Corrupt(error.to_string()),
            Some(_) => Self::Failed(error.to_string()),
        }
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let what = format!("{what} {}", path.display());
    move |error| FileError::Failed(format!("{what}: {error}"))
}

/// An open file, locked for this process.
pub(crate) struct File {
    path: PathBuf,
    db: Connection,
    /// Device and inode: by now another file may be at the path.
    place: (u64, u64),
    /// Drawn when the file was made: tells one file from another.
    pub token: i64,
}

impl File {
    /// Opens the file, or creates it and its folder; it grows to `max_bytes` at most, SQLite's log included.
    pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Self, FileError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("cannot create the folder", folder))?;
        }
        // Messages are private. SQLite gives its log the same mode.
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("cannot open", path))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags)?;
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE;")?;
        // Before anything is written: the file may belong to another program.
        let is_new = Self::is_new(&db)?;
        let log_pages = max_bytes / 32 / PAGE_BYTES;
        db.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL; \
             PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {}; PRAGMA journal_size_limit = {}; \
             PRAGMA max_page_count = {}; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY;",
            log_pages.max(16),
            max_bytes / 16,
            max_bytes / PAGE_BYTES - max_bytes / 16 / PAGE_BYTES,
        ))?;
        if is_new {
            Self::set_up(&mut db)?;
        }
        let token = db.query_row("SELECT token FROM store", [], |row| row.get(0))?;
        let place = place(path).map_err(failed("cannot look at", path))?;
        Ok(Self { path: path.to_owned(), db, place, token })
    }

    /// Returns whether the file is empty.
    ///
    /// # Errors
    /// Also if it belongs to another program or a later version.
    fn is_new(db: &Connection) -> Result<bool, FileError> {
        let number = |query: &str| db.query_row(query, [], |row| row.get::<_, i32>(0));
        match (number("PRAGMA application_id")?, number("PRAGMA user_version")?) {
            (APPLICATION_ID, SCHEMA) => Ok(false),
            (APPLICATION_ID, later) => Err(FileError::Failed(format!(
                "it was written by a later edgewatt (schema {later}, here {SCHEMA}); move it away, or update"
            ))),
            (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(true),
            // Not ours to put aside.
            _ => Err(FileError::Failed("it is the database of another program; set mqtt.store.path".into())),
        }
    }

    fn set_up(db: &mut Connection) -> Result<(), FileError> {
        let all = db.transaction()?;
        for queue in QueueId::STORED {
            all.execute_batch(&format!(
                "CREATE TABLE {} (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, topic TEXT NOT NULL, \
                 payload BLOB NOT NULL)",
                table(queue)
            ))?;
        }
        all.execute_batch(&format!(
            "CREATE TABLE store (token INTEGER NOT NULL); INSERT INTO store VALUES (random()); \
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};"
        ))?;
        Ok(all.commit()?)
    }

    /// Checks that the file is still in its place; SQLite would go on writing into a deleted one.
    pub(crate) fn check_place(&self) -> Result<(), FileError> {
        match place(&self.path) {
            Ok(found) if found == self.place => Ok(()),
            Ok(_) => Err(FileError::Failed("another file was put in its place".into())),
            Err(error) => Err(FileError::Failed(format!("it is missing: {error}"))),
        }
    }

    /// Lists everything that the file holds; that also finds most kinds of damage.
    pub(crate) fn take_stock(&self, inventory: &mut Inventory) -> Result<(), FileError> {
        for queue in QueueId::STORED {
            let query =
                format!("SELECT id, time_ms, octet_length(topic) + length(payload) FROM {} ORDER BY id", table(queue));
            let mut statement = self.db.prepare(&query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let [id, time_ms, size] = [row.get(0)?, row.get(1)?, row.get(2)?].map(i64::unsigned_abs);
                inventory.add(queue, id, time_ms, usize::try_from(size).unwrap_or(usize::MAX));
            }
        }
        Ok(())
    }

    /// Does all of the work or nothing; it is on the disk when this returns.
    pub(crate) fn commit(&mut self, work: &Work) -> Result<(), FileError> {
        let all = self.db.transaction()?;
        for (queue, range) in work.reset.iter().flatten() {
            let (first, last) = range.unwrap_or((1, 0));
            let delete = format!("DELETE FROM {} WHERE id NOT BETWEEN ?1 AND ?2", table(*queue));
            all.execute(&delete, params![number(first), number(last)])?;
        }
        for row in &work.inserts {
            // After a failure some rows may be there already.
            let insert = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2, ?3, ?4)", table(row.queue));
            all.prepare_cached(&insert)?.execute(params![
                number(row.id),
                number(row.time_ms),
                &*row.topic,
                &row.payload[..]
            ])?;
        }
        for (queue, id) in &work.deletes {
            all.prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", table(*queue)))?
                .execute(params![number(*id)])?;
        }
        for (queue, first, last) in &work.cuts {
            let delete = format!("DELETE FROM {} WHERE id BETWEEN ?1 AND ?2", table(*queue));
            all.prepare_cached(&delete)?.execute(params![number(*first), number(*last)])?;
        }
        Ok(all.commit()?)
    }

    /// Returns the rows asked for, in order.
    pub(crate) fn read(&self, request: PageRequest) -> Result<Vec<Row>, FileError> {
        let PageRequest { queue, first, last } = request;
        let query =
            format!("SELECT id, time_ms, topic, payload FROM {} WHERE id BETWEEN ?1 AND ?2 ORDER BY id", table(queue));
        let mut statement = self.db.prepare_cached(&query)?;
        let rows = statement.query_map(params![number(first), number(last)], |row| {
            Ok(Row {
                queue,
                id: row.get::<_, i64>(0)?.unsigned_abs(),
                time_ms: row.get::<_, i64>(1)?.unsigned_abs(),
                topic: row.get::<_, String>(2)?.into(),
                payload: row.get::<_, Vec<u8>>(3)?.into(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
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

/// Converts to SQLite's integer; no id and no time comes near its limit.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn table(queue: QueueId) -> &'static str {
    match queue {
        QueueId::Event => "event",
        QueueId::Prediction | QueueId::Qos0 => "prediction",
        QueueId::Metrics => "metrics",
    }
}

fn place(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Returns the files that belong together: the database and those that SQLite adds.
fn family(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// Moves a damaged file to `NAME.corrupt-TIME`, and deletes the one moved before. Returns the new path.
pub(crate) fn put_aside(path: &Path, now_s: u64) -> Result<PathBuf, FileError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".corrupt-");
    let prefix = PathBuf::from(&aside);
    for old in fs::read_dir(path.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten() {
        if old.path().as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()) {
            // One file too many does no harm.
            let _ = fs::remove_file(old.path());
        }
    }
    aside.push(now_s.to_string());
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside).map_err(failed("cannot move the damaged", path))?;
    for (from, to) in family(path).iter().zip(family(&aside)).skip(1) {
        // Usually there is none. If one stayed, SQLite would take it for the new file's.
        if from.exists() && fs::rename(from, to).is_err() {
            fs::remove_file(from).map_err(failed("cannot delete", from))?;
        }
    }
    Ok(aside)
}
