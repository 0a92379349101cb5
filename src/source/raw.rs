//! Raw samples from another program: on standard input, through a FIFO, or over a unix socket.

use super::bytes::Bytes;
use super::pipe::{From, PipeSource};
use super::{Buffer, ContentKind, Exclusive, FrameProducer, OpenOptions, SourceError, SourceKind, WhenFull};
use crate::schema::{Checker, Key, table};
use crate::stream::StreamSpec;

table! {
    /// Reads raw samples that another program writes: sound, images, or numbers.
    pub struct Raw {
        /// Where the bytes come from: "stdin", { fifo = "PATH" }, or { socket = "PATH" } for a unix socket that edgewatt
        /// listens on. One writer at a time is read.
        pub from: From, example("\"stdin\"");
        /// What the bytes hold.
        pub bytes: Bytes;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

impl SourceKind for Raw {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.from.check(checker);
        self.bytes.check_all(&key.child("bytes"), checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.bytes.spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Wait)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let decoder = self.bytes.decoder(options.labels);
        Ok(Box::new(PipeSource::open(&self.from, decoder, options.once)?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.from.check_access()
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![self.from.exclusive()]
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(&self.bytes)
    }
}
