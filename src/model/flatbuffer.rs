//! Reads a flatbuffer in place: tables, vectors and strings in unverified bytes.
//!
//! Every offset is checked against the file. Every table and vector is also charged to a budget of a few times the file's
//! length: a file written by an encoder reaches each of its bytes about once, so only a file whose vectors point again
//! and again at the same tables runs out, before it can make the reader slow or large. Scalars are little-endian; no
//! alignment is required. Format: <https://flatbuffers.dev/internals/>.

use std::cell::Cell;

use super::ModelError;

/// One field of a table: its vtable slot and the name that errors show.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub slot: usize,
    pub name: &'static str,
}

/// The bytes of a flatbuffer, and the budget that is left for reading them.
pub(crate) struct Source<'a> {
    bytes: &'a [u8],
    budget: Cell<usize>,
}

/// The least charge for a table. An empty table takes 8 bytes of the file with its entry in a vector, so a file of only
/// such tables stays within the budget.
const TABLE_COST: usize = 16;
const BUDGET_PER_BYTE: usize = 4;
/// Added to the budget for tiny files, which cost more than their own bytes.
const BUDGET_FLOOR: usize = 64 << 10;

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let budget = Cell::new(bytes.len().saturating_mul(BUDGET_PER_BYTE).saturating_add(BUDGET_FLOOR));
        Self { bytes, budget }
    }

    /// Returns the table that the file's first four bytes point at.
    pub(crate) fn root<'s>(&'s self, name: &'static str) -> Result<Table<'s, 'a>, ModelError> {
        self.follow(0, name).and_then(|at| self.table(at, name))
    }

    /// Returns `len` bytes at `at`, and charges them to the budget.
    pub(crate) fn slice(&self, at: usize, len: usize, field: &'static str) -> Result<&'a [u8], ModelError> {
        let slice = self.peek(at, len, field)?;
        self.charge(at, len, field)?;
        Ok(slice)
    }

    fn charge(&self, at: usize, bytes: usize, field: &'static str) -> Result<(), ModelError> {
        let left = self.budget.get().checked_sub(bytes);
        let left = left.ok_or_else(|| {
            ModelError::malformed(at, field, "bytes used once, but the file refers to the same ones over and over")
        })?;
        self.budget.set(left);
        Ok(())
    }

    fn peek(&self, at: usize, len: usize, field: &'static str) -> Result<&'a [u8], ModelError> {
        let end = at.checked_add(len);
        let file_bytes = self.bytes.len();
        let slice = end.and_then(|end| self.bytes.get(at..end));
        slice.ok_or(ModelError::Truncated { at, field, needed: len, file_bytes })
    }

    fn array<const N: usize>(&self, at: usize, field: &'static str) -> Result<[u8; N], ModelError> {
        let slice = self.peek(at, N, field)?;
        slice.try_into().map_err(|_| ModelError::malformed(at, field, format!("{N} bytes")))
    }

    /// Returns the position that the unsigned offset stored at `at` points to.
    fn follow(&self, at: usize, field: &'static str) -> Result<usize, ModelError> {
        let offset = u32::from_le_bytes(self.array(at, field)?) as usize;
        if offset == 0 {
            return Err(ModelError::malformed(at, field, "a forward offset, found 0"));
        }
        at.checked_add(offset).ok_or_else(|| ModelError::malformed(at, field, "an offset inside the file"))
    }

    fn table<'s>(&'s self, at: usize, name: &'static str) -> Result<Table<'s, 'a>, ModelError> {
        let back = i64::from(i32::from_le_bytes(self.array(at, name)?));
        let vtable = i64::try_from(at).ok().and_then(|at| usize::try_from(at - back).ok());
        let vtable = vtable.ok_or_else(|| ModelError::malformed(at, name, "its vtable inside the file"))?;
        let slots_bytes = usize::from(u16::from_le_bytes(self.array(vtable, name)?));
        let slots = self.peek(vtable, slots_bytes, name)?;
        let table_bytes = match slots {
            [_, _, low, high, ..] => usize::from(u16::from_le_bytes([*low, *high])),
            _ => return Err(ModelError::malformed(vtable, name, "a vtable of at least 4 bytes")),
        };
        self.peek(at, table_bytes, name)?;
        self.charge(at, table_bytes.max(TABLE_COST), name)?;
        Ok(Table { source: self, at, slots })
    }

    /// Returns the position and the bytes of a vector's entries, each of `width` bytes.
    fn vector(&self, at: usize, width: usize, field: &'static str) -> Result<(usize, &'a [u8]), ModelError> {
        let count = u32::from_le_bytes(self.array(at, field)?) as usize;
        let len = count.checked_mul(width);
        let len = len.ok_or_else(|| ModelError::malformed(at, field, "a vector that fits in memory"))?;
        Ok((at + 4, self.slice(at + 4, len, field)?))
    }
}

/// A table; absent fields read as `None` or empty.
#[derive(Clone, Copy)]
pub(crate) struct Table<'s, 'a> {
    source: &'s Source<'a>,
    /// Where the table starts, in bytes from the start of the file.
    pub at: usize,
    slots: &'a [u8],
}

impl<'s, 'a> Table<'s, 'a> {
    /// Returns the position of `field`, if it is present.
    fn place(&self, field: Field) -> Option<usize> {
        let entry = 4 + 2 * field.slot;
        match self.slots.get(entry..entry + 2) {
            Some(&[low, high]) if [low, high] != [0, 0] => Some(self.at + usize::from(u16::from_le_bytes([low, high]))),
            _ => None,
        }
    }

    fn scalar<const N: usize>(&self, field: Field) -> Result<Option<[u8; N]>, ModelError> {
        self.place(field).map(|at| self.source.array(at, field.name)).transpose()
    }

    pub(crate) fn i8(&self, field: Field) -> Result<Option<i8>, ModelError> {
        Ok(self.scalar(field)?.map(i8::from_le_bytes))
    }

    pub(crate) fn bool(&self, field: Field) -> Result<bool, ModelError> {
        Ok(self.i8(field)?.is_some_and(|byte| byte != 0))
    }

    pub(crate) fn i32(&self, field: Field) -> Result<Option<i32>, ModelError> {
        Ok(self.scalar(field)?.map(i32::from_le_bytes))
    }

    pub(crate) fn u32(&self, field: Field) -> Result<Option<u32>, ModelError> {
        Ok(self.scalar(field)?.map(u32::from_le_bytes))
    }

    pub(crate) fn f32(&self, field: Field) -> Result<Option<f32>, ModelError> {
        Ok(self.scalar(field)?.map(f32::from_le_bytes))
    }

    pub(crate) fn u64(&self, field: Field) -> Result<Option<u64>, ModelError> {
        Ok(self.scalar(field)?.map(u64::from_le_bytes))
    }

    /// Charges `bytes` of memory that the caller is about to use on this table's behalf.
    pub(crate) fn charge(&self, bytes: usize, field: &'static str) -> Result<(), ModelError> {
        self.source.charge(self.at, bytes, field)
    }

    /// Returns whether the table, vector or string `field` is present.
    pub(crate) fn has(&self, field: Field) -> bool {
        self.place(field).is_some()
    }

    fn vector(&self, field: Field, width: usize) -> Result<Option<(usize, &'a [u8])>, ModelError> {
        let Some(at) = self.place(field) else { return Ok(None) };
        let at = self.source.follow(at, field.name)?;
        self.source.vector(at, width, field.name).map(Some)
    }

    /// Returns the bytes of a vector of bytes; empty if it is absent.
    pub(crate) fn bytes(&self, field: Field) -> Result<&'a [u8], ModelError> {
        Ok(self.vector(field, 1)?.map_or(&[], |(_, bytes)| bytes))
    }

    /// Returns a string, in which invalid UTF-8 is replaced.
    pub(crate) fn string(&self, field: Field) -> Result<Option<String>, ModelError> {
        let bytes = self.vector(field, 1)?;
        Ok(bytes.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()))
    }

    fn scalars<const N: usize, T>(&self, field: Field, decode: fn([u8; N]) -> T) -> Result<Vec<T>, ModelError> {
        let bytes = self.vector(field, N)?.map_or(&[][..], |(_, bytes)| bytes);
        Ok(bytes.as_chunks().0.iter().copied().map(decode).collect())
    }

    pub(crate) fn i32s(&self, field: Field) -> Result<Vec<i32>, ModelError> {
        self.scalars(field, i32::from_le_bytes)
    }

    pub(crate) fn i64s(&self, field: Field) -> Result<Vec<i64>, ModelError> {
        self.scalars(field, i64::from_le_bytes)
    }

    pub(crate) fn f32s(&self, field: Field) -> Result<Vec<f32>, ModelError> {
        self.scalars(field, f32::from_le_bytes)
    }

    /// Returns a vector of tables; empty if it is absent.
    pub(crate) fn tables(&self, field: Field) -> Result<Tables<'s, 'a>, ModelError> {
        let (at, entries) = self.vector(field, 4)?.unwrap_or((self.at, &[]));
        Ok(Tables { source: self.source, at, count: entries.len() / 4, name: field.name })
    }

    pub(crate) fn table(&self, field: Field) -> Result<Option<Table<'s, 'a>>, ModelError> {
        let Some(at) = self.place(field) else { return Ok(None) };
        let at = self.source.follow(at, field.name)?;
        self.source.table(at, field.name).map(Some)
    }
}

/// A vector of tables, each of which is read on access.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'s, 'a> {
    source: &'s Source<'a>,
    at: usize,
    pub count: usize,
    name: &'static str,
}

impl<'s, 'a> Tables<'s, 'a> {
    /// Returns entry `index`. An error names `from`, the position and field that hold the index.
    pub(crate) fn get(&self, index: i64, from: (usize, &'static str)) -> Result<Table<'s, 'a>, ModelError> {
        let inside = usize::try_from(index).ok().filter(|&index| index < self.count);
        let Some(inside) = inside else {
            let (at, field) = from;
            return Err(ModelError::Index { at, field, index, count: self.count });
        };
        let at = self.source.follow(self.at + 4 * inside, self.name)?;
        self.source.table(at, self.name)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Result<Table<'s, 'a>, ModelError>> {
        (0..self.count).map(move |index| {
            let at = self.source.follow(self.at + 4 * index, self.name)?;
            self.source.table(at, self.name)
        })
    }
}
