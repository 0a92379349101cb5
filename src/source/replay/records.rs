//! A recording that is a file of text.

use std::path::Path;

use super::FileContentKind;
use crate::schema::{Checker, Key};
use crate::source::SourceError;
use crate::source::recording::RecordedStream;

pub use crate::source::records::Records;

impl FileContentKind for Records {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        Self::check(self, key, checker);
    }

    fn describe(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        Ok(RecordedStream::text(path, self))
    }
}
