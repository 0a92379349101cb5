//! A recording that is a WAV file. The file says what is in it; the keys choose from that.

use std::path::Path;

use super::FileContentKind;
use crate::schema::{Checker, Key, table};
use crate::source::SourceError;
use crate::source::recording::RecordedStream;

table! {
    /// A WAV file, which says its channels, rate and type of samples itself. Samples of 8 and 16 bits become integers from
    /// -32768 to 32767, and all others floating-point numbers of the same range.
    pub struct Wav {
        /// The channels that the model gets, counted from 0, in the order in which it wants them.
        pub select: Option<Vec<usize>>, otherwise("all"), example("[0]");
        /// The rate that the model needs. A file of another rate is refused.
        pub rate_hz: Option<f64>, range(1.0, 1e9), unit("Hz"), otherwise("any"), example("16000.0");
    }
}

impl FileContentKind for Wav {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.select.as_ref().is_some_and(Vec::is_empty) {
            checker.problem(&key.child("select"), "name one or more channels; or leave it out for all");
        }
    }

    fn describe(&self, path: &Path) -> Result<RecordedStream, SourceError> {
        let stream = RecordedStream::wav(path, self.select.as_deref())?;
        match (self.rate_hz, stream.spec.rate_hz) {
            (Some(wanted), Some(rate)) if wanted != rate => {
                let reason = format!(
                    "the file has {rate} Hz, the configuration says {wanted}; write {rate:?}, and the front end resample = {{ rate_hz \
                     = {wanted:?} }}"
                );
                Err(SourceError::device(path, reason))
            }
            _ => Ok(stream),
        }
    }
}
