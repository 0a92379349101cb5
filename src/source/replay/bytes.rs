//! A recording that is a file of raw samples.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::FileContentKind;
use crate::schema::{Checker, Key};
use crate::source::recording::RecordedStream;
use crate::source::{ContentKind, SourceError};

pub use crate::source::bytes::Bytes;

impl FileContentKind for Bytes {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        ContentKind::check(self, key, checker);
    }

    fn describe(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        let mut start = [0; 12];
        // To open a FIFO would wait for a writer.
        let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
        let is_read = is_file && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
        if is_read && start.starts_with(b"RIFF") && start.ends_with(b"WAVE") {
            let reason = "it is a WAV file, whose header would be read as samples; leave bytes out";
            return Err(SourceError::device(path, reason.to_owned()));
        }
        Ok(RecordedStream::bytes(path, self, ContentKind::spec(self)))
    }
}
