//! Reads the ZIP archive at the end of a model file, which contains the files that belong to the model.
//!
//! The bytes are untrusted: every place is checked, the list of files costs no more than the bytes that hold it, and a file
//! is unpacked up to the caller's limit only. Archives over 4 GiB (ZIP64), in several parts or with a password are refused.

use std::io::Read as _;

use flate2::Crc;
use flate2::read::DeflateDecoder;
use serde::Serialize;

const END: &[u8; 4] = b"PK\x05\x06";
const END_BYTES: usize = 22;
/// The longest comment after the end record.
const MAX_COMMENT: usize = u16::MAX as usize;
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const ENCRYPTED: u16 = 1;

/// A file in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedFile {
    pub name: String,
    /// Its size when it is unpacked, as the archive says.
    pub bytes: u32,
}

/// An archive whose list of files was read.
pub(crate) struct Archive<'a> {
    bytes: &'a [u8],
    entries: Vec<Entry>,
}

struct Entry {
    file: AttachedFile,
    flags: u16,
    method: u16,
    crc: u32,
    packed_bytes: usize,
    /// Where its local header starts in `bytes`.
    at: usize,
}

impl<'a> Archive<'a> {
    /// Returns the archive at the end of `bytes`; `None` if there is none.
    ///
    /// # Errors
    /// Why an archive that is there cannot be read.
    pub(crate) fn at_end(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let Some(end) = end_record(bytes) else { return Ok(None) };
        let damaged = || "the archive at its end is damaged".to_owned();
        let number = |at, width| number(bytes, at, width).ok_or_else(damaged);
        let (count, list_bytes, list_offset) = (number(end + 10, 2)?, number(end + 12, 4)?, number(end + 16, 4)?);
        let list = end.checked_sub(list_bytes).ok_or_else(damaged)?;
        // Offsets count from the start of the archive or of the file, as the writer chose.
        let start = list.checked_sub(list_offset).ok_or_else(damaged)?;
        let mut entries = Vec::new();
        let mut at = list;
        for _ in 0..count {
            let entry = bytes.get(at..end).filter(|entry| entry.starts_with(ENTRY)).ok_or_else(damaged)?;
            let name_bytes = number(at + 28, 2)?;
            let name = entry.get(ENTRY_BYTES..ENTRY_BYTES + name_bytes).ok_or_else(damaged)?;
            let size = u32::try_from(number(at + 24, 4)?).map_err(|_| damaged())?;
            entries.push(Entry {
                file: AttachedFile { name: String::from_utf8_lossy(name).into_owned(), bytes: size },
                flags: number(at + 8, 2)? as u16,
                method: number(at + 10, 2)? as u16,
                crc: number(at + 16, 4)? as u32,
                packed_bytes: number(at + 20, 4)?,
                at: start.saturating_add(number(at + 42, 4)?),
            });
            at += ENTRY_BYTES + name_bytes + number(at + 30, 2)? + number(at + 32, 2)?;
        }
        Ok(Some(Self { bytes, entries }))
    }

    /// Returns the names of its files and folders.
    pub(crate) fn names(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.file.name.clone()).collect()
    }

    /// Returns its files, without folders.
    pub(crate) fn files(self) -> Vec<AttachedFile> {
        self.entries.into_iter().map(|entry| entry.file).filter(|file| !file.name.ends_with('/')).collect()
    }

    /// Returns the content of the file `name`; `None` if there is no such file.
    ///
    /// # Errors
    /// It is damaged, packed in a way that is not read, or larger than `most` bytes.
    pub(crate) fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, String> {
        // Of two files with one name, the later one replaced the other.
        let Some(entry) = self.entries.iter().rev().find(|entry| entry.file.name == name) else { return Ok(None) };
        let damaged = || format!("the file {} in it is damaged", name.escape_debug());
        if entry.flags & ENCRYPTED != 0 {
            return Err(format!("the file {} in it has a password", name.escape_debug()));
        }
        if entry.file.bytes as usize > most {
            let bytes = entry.file.bytes;
            return Err(format!("the file {} in it has {bytes} bytes; the limit is {most}", name.escape_debug()));
        }
        let header = self.bytes.get(entry.at..).filter(|header| header.starts_with(LOCAL)).ok_or_else(damaged)?;
        let names = number(header, 26, 2).zip(number(header, 28, 2)).ok_or_else(damaged)?;
        let start = LOCAL_BYTES + names.0 + names.1;
        let packed = header.get(start..start.saturating_add(entry.packed_bytes)).ok_or_else(damaged)?;
        let mut content = Vec::new();
        match entry.method {
            STORED => content.extend_from_slice(packed.get(..packed.len().min(most)).unwrap_or_default()),
            DEFLATED => {
                DeflateDecoder::new(packed).take(most as u64).read_to_end(&mut content).map_err(|_| damaged())?;
            }
            method => {
                let name = name.escape_debug();
                return Err(format!("the file {name} in it is packed by method {method}; store or deflate it"));
            }
        }
        let mut crc = Crc::new();
        crc.update(&content);
        if content.len() != entry.file.bytes as usize || crc.sum() != entry.crc {
            return Err(damaged());
        }
        Ok(Some(content))
    }
}

/// Returns where the record at the end of an archive starts.
fn end_record(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(MAX_COMMENT);
    (first..=last).rev().find(|&at| {
        let ends = || number(bytes, at + 20, 2) == Some(bytes.len() - at - END_BYTES);
        bytes.get(at..).is_some_and(|end| end.starts_with(END)) && ends()
    })
}

/// Returns the number of `width` bytes at `at`, lowest byte first.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let digits = bytes.get(at..at.checked_add(width)?)?;
    digits.iter().rev().try_fold(0usize, |number, &digit| Some(number.checked_mul(256)? + usize::from(digit)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;
    use std::io::Write as _;

    const MOST: usize = 1 << 16;

    /// Appends an archive of `files` to `bytes`; offsets count from the start of the archive, or of the whole.
    pub(crate) fn append(bytes: &mut Vec<u8>, files: &[(&str, &[u8])], deflate: bool, from_archive: bool) {
        let start = if from_archive { bytes.len() } else { 0 };
        let mut list = Vec::new();
        for (name, content) in files {
            let at = bytes.len() - start;
            let packed = if deflate {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            } else {
                content.to_vec()
            };
            let mut crc = Crc::new();
            crc.update(content);
            let mut common = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
            for word in [crc.sum() as usize, packed.len(), content.len()] {
                common.extend((word as u32).to_le_bytes());
            }
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0, 0]);
            bytes.extend(LOCAL.iter().chain(&common).chain(name.as_bytes()).chain(&packed));
            list.extend(ENTRY.iter().chain(&[20, 0]).chain(&common).chain(&[0; 10]));
            list.extend((at as u32).to_le_bytes());
            list.extend(name.as_bytes());
        }
        let list_offset = (bytes.len() - start) as u32;
        bytes.extend(&list);
        bytes.extend(END.iter().chain(&[0; 4]));
        (0..2).for_each(|_| bytes.extend((files.len() as u16).to_le_bytes()));
        bytes.extend((list.len() as u32).to_le_bytes().iter().chain(&list_offset.to_le_bytes()).chain(&[0, 0]));
    }

    #[test]
    fn files_are_found_whatever_their_offsets_count_from() {
        for (deflate, from_archive) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bytes = vec![7; 100];
            let long = b"up\ndown\n".repeat(100);
            append(&mut bytes, &[("a.txt", b"old"), ("l.txt", &long), ("a.txt", b"new")], deflate, from_archive);
            let archive = Archive::at_end(&bytes).unwrap().unwrap();
            assert_eq!(archive.read("l.txt", MOST).unwrap().unwrap(), long);
            assert_eq!(archive.read("a.txt", MOST).unwrap().unwrap(), b"new", "the last of one name");
            assert_eq!(archive.read("b.txt", MOST).unwrap(), None);
            assert!(archive.read("l.txt", 100).unwrap_err().contains("800 bytes; the limit is 100"));
            assert_eq!(archive.files().len(), 3);
        }
        assert!(Archive::at_end(&[7; 100]).unwrap().is_none());
        assert!(Archive::at_end(b"").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic_or_another_content(
            deflate: bool, from_archive: bool, changes in prop::collection::vec((0usize..500, any::<u8>()), 0..8), cut in 0usize..500,
        ) {
            let mut bytes = vec![7; 30];
            let content = b"one\ntwo\nthree\n".repeat(10);
            append(&mut bytes, &[("labels.txt", &content), ("b", b"b")], deflate, from_archive);
            bytes.truncate(bytes.len().max(cut + 1) - cut.min(20));
            for (place, byte) in changes {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            if let Ok(Some(archive)) = Archive::at_end(&bytes) {
                if let Ok(Some(read)) = archive.read("labels.txt", MOST) {
                    prop_assert!(read == content || read.len() <= MOST);
                }
                let _ = archive.files();
            }
        }
    }
}
