//! The tables of the database: how they are made, brought up to this version, and written to.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::files::{FileError, with_suffix};
use super::row::{Columns, table};
use crate::publish::mqtt::outbox::QueueId;

/// `EWOB`, by which `file` and the store recognise the file.
pub(super) const APPLICATION_ID: i32 = 0x4557_4f42;
pub(super) const SCHEMA: i32 = 2;
/// The schema whose rows have no checksum.
pub(super) const UNCHECKED: i32 = 1;
/// Size of SQLite's cache; rows are not read twice.
pub(super) const CACHE_KIB: i64 = 256;
/// Rows that get a checksum in one transaction.
const MIGRATED_AT_ONCE: i64 = 500;

/// The columns that [`Columns::read`] takes.
pub(super) const COLUMNS: &str = "id, time_ms, topic, payload, checksum";

pub(super) fn connect(path: &Path) -> Result<Connection, FileError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

/// Opens a database on a disk that is read-only: no lock can be had, and no log created.
pub(super) fn connect_for_reading(path: &Path) -> Result<Connection, FileError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if with_suffix(path, "-wal").exists() {
        return Ok(Connection::open_with_flags_and_vfs(path, flags, "unix-none")?);
    }
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(*byte)),
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    Ok(Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?)
}

pub(super) fn set_up(db: &mut Connection, token: Option<i64>) -> Result<(), FileError> {
    let all = db.transaction()?;
    for queue in QueueId::STORED {
        all.execute_batch(&format!(
            "CREATE TABLE {} (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, topic TEXT NOT NULL, \
             payload BLOB NOT NULL, checksum INTEGER)",
            table(queue)
        ))?;
    }
    all.execute_batch("CREATE TABLE store (token INTEGER NOT NULL)")?;
    all.execute("INSERT INTO store VALUES (coalesce(?1, random()))", params![token])?;
    all.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};"))?;
    Ok(all.commit()?)
}

/// Gives each row a checksum, in transactions that SQLite's log has room for. If it is cut off, the next start does it
/// again.
pub(super) fn migrate(db: &mut Connection) -> Result<(), FileError> {
    for queue in QueueId::STORED {
        let table = table(queue);
        let query = format!("SELECT count(*) FROM pragma_table_info('{table}') WHERE name = 'checksum'");
        if db.query_row(&query, [], |row| row.get::<_, i64>(0))? == 0 {
            db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN checksum INTEGER"))?;
        }
        let mut after = Some(-1);
        while let Some(id) = after {
            let all = db.transaction()?;
            after = add_checksums(&all, queue, id)?;
            all.commit()?;
        }
    }
    Ok(db.execute_batch(&format!("PRAGMA user_version = {SCHEMA};"))?)
}

/// Gives some rows after that id a checksum; returns the last of them.
fn add_checksums(all: &Connection, queue: QueueId, after: i64) -> Result<Option<i64>, FileError> {
    let table = table(queue);
    let query = format!("SELECT id, time_ms, topic, payload FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = all.prepare_cached(&query)?;
    let mut rows = statement.query(params![after, MIGRATED_AT_ONCE])?;
    let mut sums = Vec::new();
    while let Some(row) = rows.next()? {
        // A row that is not a message gets none, so that it is found to be damaged.
        sums.push((row.get::<_, i64>(0)?, Columns::unchecked(queue, row).ok().map(|columns| columns.checksum())));
    }
    let mut update = all.prepare_cached(&format!("UPDATE {table} SET checksum = ?2 WHERE id = ?1"))?;
    for (id, sum) in &sums {
        update.execute(params![id, sum])?;
    }
    Ok(sums.last().map(|(id, _)| *id))
}

/// Writes a row, unless it is there.
pub(super) fn insert(db: &Connection, columns: Columns) -> Result<(), FileError> {
    let Columns { queue, id, time_ms, topic, payload } = columns;
    let insert = format!("INSERT OR IGNORE INTO {} VALUES (?1, ?2, ?3, ?4, ?5)", table(queue));
    db.prepare_cached(&insert)?.execute(params![number(id), number(time_ms), topic, payload, columns.checksum()])?;
    Ok(())
}

/// Converts to SQLite's integer; no id and no time comes near its limit.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
