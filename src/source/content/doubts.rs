//! Notices that nothing of what a port gives can be used: all is rejected, or no line and no packet ends.

use std::path::Path;

use crate::source::FrameSink;

/// After so many rejected records or packets without a good one, the stream as a whole is wrong.
const ALL_REJECTED: u64 = 20;
/// So many bytes without an end are longer than what boards send as one line or packet.
const ENDLESS_BYTES: usize = 4096;

/// What has come since the port was opened.
pub(super) struct Doubts<'a> {
    /// What to ask the user; `None`: nothing is noticed.
    question: Option<&'a str>,
    delivered: u64,
    rejected: u64,
    /// Records and packets so far, good or bad.
    ended: u64,
    /// Bytes since the last end.
    open_bytes: usize,
    is_asked: bool,
    is_endless: bool,
}

impl<'a> Doubts<'a> {
    pub(super) fn new(question: Option<&'a str>, sink: &FrameSink) -> Self {
        let (delivered, rejected) = (sink.delivered(), sink.stats().rejected());
        let ended = delivered + rejected;
        Self { question, delivered, rejected, ended, open_bytes: 0, is_asked: false, is_endless: false }
    }

    /// So many bytes were read, and what ended in them was given to `sink`.
    pub(super) fn taken(&mut self, bytes: usize, name: &Path, sink: &FrameSink) {
        let Some(question) = self.question else { return };
        let (delivered, rejected) = (sink.delivered(), sink.stats().rejected());
        if delivered + rejected > self.ended {
            self.ended = delivered + rejected;
            self.open_bytes = 0;
            if std::mem::take(&mut self.is_endless) {
                sink.trouble(None);
            }
        } else {
            self.open_bytes = self.open_bytes.saturating_add(bytes);
        }
        let name = name.display();
        if self.open_bytes >= ENDLESS_BYTES && !self.is_endless {
            self.is_endless = true;
            let reason =
                format!("{name}: {ENDLESS_BYTES} bytes have come without the end of a line or packet; {question}");
            tracing::warn!(pipeline = sink.pipeline(), "{reason}");
            sink.trouble(Some(reason));
        }
        if delivered == self.delivered && rejected >= self.rejected + ALL_REJECTED && !self.is_asked {
            self.is_asked = true;
            tracing::warn!(
                pipeline = sink.pipeline(),
                "{name}: the first {ALL_REJECTED} records could not be used; if they look like garbage: {question}"
            );
        }
    }
}
