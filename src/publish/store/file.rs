//! The store's file: an SQLite database with a table a queue, opened, checked, written and read.
//!
//! WAL with `synchronous = FULL`: a transaction that has returned is on the disk, whatever happens to the power; with
//! NORMAL only a crash of the process would leave it whole. The lock is exclusive: two daemons on one file would each
//! send what the other has, and no shared memory beside the file is needed. Runs where the caller does, and blocks.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use crate::publish::outbox::{Inventory, PAGE_BYTES, PageRequest, QueueId, Row, Work};

/// `EWOB`, so that `file` and we know our own.
const APPLICATION_ID: i32 = 0x4557_4f42;
const SCHEMA: i32 = 1;
/// Of SQLite's own cache; what we read and write we do not read again.
const CACHE_KIB: i64 = 256;
/// A file that is empty again is cut down where it is larger.
const WORTH_SHRINKING: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It is damaged or no database: put it aside, and begin anew.
    #[error("{0}")]
    Corrupt(String),
    /// It may work later: the disk is full or read-only, the folder has gone, somebody else has it.
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
            // A table or column that should be there is not, or what is in it is of another type.
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

/// An open file, ours alone.
pub(crate) struct File {
    path: PathBuf,
    db: Connection,
    /// Device and inode: what is at the path may be another one by now.
    place: (u64, u64),
    /// DaemonEvent at the file's creation: which one it is.
    pub token: i64,
}

impl File {
    /// Opens the file, or makes it, and its folder; it grows to `max_bytes` at most, what SQLite logs beside it included.
    pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Self, FileError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("cannot make the folder", folder))?;
        }
        // Messages are nobody else's business. SQLite gives its log the same mode.
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
        // Before anything is written: the path may be that of something else.
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

    /// Whether there is nothing in it; an error when there is, and not of ours.
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

    /// Whether the file is still where it was; SQLite would go on writing into one that was deleted.
    pub(crate) fn check_place(&self) -> Result<(), FileError> {
        match place(&self.path) {
            Ok(found) if found == self.place => Ok(()),
            Ok(_) => Err(FileError::Failed("another file was put in its place".into())),
            Err(error) => Err(FileError::Failed(format!("it has gone: {error}"))),
        }
    }

    /// Tells everything that the file holds, and finds most of what can be wrong with it by that.
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

    /// Does all of it or nothing; on the disk when it returns.
    pub(crate) fn commit(&mut self, work: &Work) -> Result<(), FileError> {
        let all = self.db.transaction()?;
        for (queue, range) in work.reset.iter().flatten() {
            let (first, last) = range.unwrap_or((1, 0));
            let delete = format!("DELETE FROM {} WHERE id NOT BETWEEN ?1 AND ?2", table(*queue));
            all.execute(&delete, params![number(first), number(last)])?;
        }
        for row in &work.inserts {
            // What failed before may be there in part.
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

    /// Reads what is asked for, in order.
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

    /// Gives the space of a file that holds nothing back to the disk, where it is worth it.
    pub(crate) fn shrink(&mut self) -> Result<(), FileError> {
        let pages: i64 = self.db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if pages.unsigned_abs() * PAGE_BYTES > WORTH_SHRINKING {
            self.db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?;
        }
        Ok(())
    }
}

/// As SQLite has it; no id and no time comes near its limit.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn table(queue: QueueId) -> &'static str {
    match queue {
        QueueId::Event => "event",
        QueueId::Prediction | QueueId::Fleeting => "prediction",
        QueueId::Metrics => "metrics",
    }
}

fn place(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The files that belong together: the database and what SQLite writes beside it.
fn family(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// Puts a damaged file aside as `NAME.corrupt-TIME`, and deletes the one put aside before; where it is now.
pub(crate) fn put_aside(path: &Path, now_s: u64) -> Result<PathBuf, FileError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".corrupt-");
    let prefix = PathBuf::from(&aside);
    for old in fs::read_dir(path.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten() {
        if old.path().as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()) {
            // One too many is no reason to go without a store.
            let _ = fs::remove_file(old.path());
        }
    }
    aside.push(now_s.to_string());
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside).map_err(failed("cannot put aside the damaged", path))?;
    for (from, to) in family(path).iter().zip(family(&aside)).skip(1) {
        // Usually there is none. One that stayed would be taken for the new file's.
        if from.exists() && fs::rename(from, to).is_err() {
            fs::remove_file(from).map_err(failed("cannot delete", from))?;
        }
    }
    Ok(aside)
}
