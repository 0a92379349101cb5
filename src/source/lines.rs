//! Lines of text from another program: on standard input, through a FIFO, or over a unix socket.

use super::pipe::{From, PipeSource};
use super::{Buffer, ContentKind, Exclusive, FrameProducer, OpenOptions, Records, SourceError, SourceKind, WhenFull};
use crate::schema::{Checker, Key, table};
use crate::stream::StreamSpec;

table! {
    /// Reads lines of text that another program writes.
    pub struct Lines {
        /// Where the lines come from: "stdin", { fifo = "PATH" }, or { socket = "PATH" } for a unix socket that edgewatt
        /// listens on. One writer at a time is read.
        pub from: From, example("\"stdin\"");
        /// What one line holds.
        pub records: Records;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

impl SourceKind for Lines {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.from.check(checker);
        self.records.check(&key.child("records"), checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.records.spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Wait)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let decoder = self.records.decoder(options.labels);
        Ok(Box::new(PipeSource::open(&self.from, decoder, options.once)?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.from.check_access()
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![self.from.exclusive()]
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(&self.records)
    }
}
