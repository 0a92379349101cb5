//! A row of the file: one message, with a checksum by which a damaged one is found. Pure.

use std::sync::Arc;

use crc::{CRC_32_ISO_HDLC, Crc};

use super::files::FileError;
use crate::publish::mqtt::outbox::{QueueId, Row};

/// The checksum of zip and zlib.
static CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The columns of a row; borrowed from where it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'a> {
    pub queue: QueueId,
    pub id: u64,
    pub time_ms: u64,
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl<'a> Columns<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        Self { queue: row.queue, id: row.id, time_ms: row.time_ms, topic: &row.topic, payload: &row.payload }
    }

    /// Reads `id, time_ms, topic, payload`, which are not checked.
    pub(super) fn unchecked(queue: QueueId, row: &'a rusqlite::Row) -> Result<Self, FileError> {
        let [id, time_ms] = [row.get::<_, i64>(0)?, row.get(1)?];
        let damaged = || FileError::Corrupt(format!("row {id} of {} is not a message", table(queue)));
        Ok(Self {
            queue,
            id: u64::try_from(id).map_err(|_| damaged())?,
            time_ms: u64::try_from(time_ms).map_err(|_| damaged())?,
            topic: row.get_ref(2)?.as_str().map_err(|_| damaged())?,
            payload: row.get_ref(3)?.as_blob().map_err(|_| damaged())?,
        })
    }

    /// Reads `id, time_ms, topic, payload, checksum`.
    pub(super) fn read(queue: QueueId, row: &'a rusqlite::Row) -> Result<Self, FileError> {
        let columns = Self::unchecked(queue, row)?;
        if row.get::<_, Option<i64>>(4)? == Some(columns.checksum().into()) {
            return Ok(columns);
        }
        Err(FileError::Corrupt(format!("row {} of {} has a wrong checksum", columns.id, table(queue))))
    }

    /// Returns the checksum of all other columns and the table's name.
    pub(super) fn checksum(&self) -> u32 {
        let mut digest = CHECKSUM.digest();
        digest.update(table(self.queue).as_bytes());
        digest.update(&self.id.to_le_bytes());
        digest.update(&self.time_ms.to_le_bytes());
        digest.update(self.topic.as_bytes());
        digest.update(&[0]);
        digest.update(self.payload);
        digest.finalize()
    }

    pub(super) fn to_row(self) -> Row {
        Row {
            queue: self.queue,
            id: self.id,
            time_ms: self.time_ms,
            topic: Arc::from(self.topic),
            payload: self.payload.to_vec().into(),
        }
    }
}

/// Returns the name of a queue's table.
pub(super) fn table(queue: QueueId) -> &'static str {
    match queue {
        QueueId::Event => "event",
        QueueId::Prediction | QueueId::Qos0 => "prediction",
        QueueId::Metrics => "metrics",
    }
}

/// Returns the checksum of a record that is not a row.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    CHECKSUM.checksum(bytes)
}
