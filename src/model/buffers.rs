//! The model's data buffers, inside the flatbuffer or after it in the same file.

use super::ModelError;
use super::flatbuffer::{Source, Table, Tables};
use super::schema::{buffer, model};

pub(crate) struct Buffers<'s, 'a> {
    source: &'s Source<'a>,
    tables: Tables<'s, 'a>,
    /// Number of buffers that hold data.
    pub filled: usize,
    pub bytes: u64,
    /// Number of buffers that `offset` and `size` place outside the flatbuffer.
    pub outside: usize,
}

impl<'s, 'a> Buffers<'s, 'a> {
    /// Finds all buffers of `root`.
    ///
    /// # Errors
    /// `Truncated` if one does not end within the file.
    pub(crate) fn read(source: &'s Source<'a>, root: Table<'s, 'a>) -> Result<Self, ModelError> {
        let tables = root.tables(model::BUFFERS)?;
        let mut buffers = Self { source, tables, filled: 0, bytes: 0, outside: 0 };
        for table in tables.iter() {
            let table = table?;
            let data = buffers.contents(table)?;
            buffers.filled += usize::from(!data.is_empty());
            buffers.bytes += data.len() as u64;
            buffers.outside += usize::from(placed_outside(table)?.is_some());
        }
        Ok(buffers)
    }

    /// Returns the bytes of buffer `index`; `from` is the position and the field that name it.
    pub(crate) fn data(&self, index: u32, from: (usize, &'static str)) -> Result<&'a [u8], ModelError> {
        self.contents(self.tables.get(i64::from(index), from)?)
    }

    fn contents(&self, table: Table<'s, 'a>) -> Result<&'a [u8], ModelError> {
        match placed_outside(table)? {
            None => table.bytes(buffer::DATA),
            Some((offset, size)) => {
                let inside = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
                let too_far = || ModelError::malformed(table.at, buffer::OFFSET.name, "an offset inside the file");
                let (offset, size) = inside.ok_or_else(too_far)?;
                self.source.slice(offset, size, buffer::OFFSET.name)
            }
        }
    }
}

/// Returns the offset from the start of the file and the size of data outside the flatbuffer. By the schema, offsets up to 1
/// mean none.
fn placed_outside(table: Table) -> Result<Option<(u64, u64)>, ModelError> {
    let offset = table.u64(buffer::OFFSET)?.filter(|&offset| offset > 1);
    let size = table.u64(buffer::SIZE)?.unwrap_or(0);
    Ok(offset.map(|offset| (offset, size)))
}
