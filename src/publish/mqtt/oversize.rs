//! Messages that are too large to be published: the last one for the report, and the first of each class for the log.
//!
//! Pure. Guarded by the lock in `handle`.

use std::fmt;
use std::sync::Arc;

use crate::publish::message::Class;

/// A message that was too large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversize {
    pub class: Class,
    pub topic: Arc<str>,
    pub payload_bytes: usize,
    /// The most bytes that a payload on this topic may have.
    pub limit: usize,
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, topic, payload_bytes, limit } = self;
        write!(f, "a message of class {} on {topic} has {payload_bytes} bytes; the limit is {limit}", class.name())
    }
}

/// What has to be said of messages that were too large.
#[derive(Debug, Default)]
pub(crate) struct OversizeNotes {
    last: Option<Oversize>,
    /// First of their class, and not yet logged.
    first: Vec<Oversize>,
    seen: [bool; Class::ALL.len()],
}

impl OversizeNotes {
    pub(crate) fn note(&mut self, oversize: Oversize) {
        if !std::mem::replace(&mut self.seen[oversize.class as usize], true) {
            self.first.push(oversize.clone());
        }
        self.last = Some(oversize);
    }

    /// Returns one that is the first of its class, and is to be logged.
    pub(crate) fn take_first(&mut self) -> Option<Oversize> {
        self.first.pop()
    }

    /// Returns the last one since the last call.
    pub(crate) fn take_last(&mut self) -> Option<Oversize> {
        self.last.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_class_is_logged_and_the_last_one_is_reported() {
        let oversize = |class, payload_bytes| Oversize { class, topic: "t".into(), payload_bytes, limit: 10 };
        let mut notes = OversizeNotes::default();
        assert_eq!((notes.take_first(), notes.take_last()), (None, None));
        for (class, bytes) in [(Class::Prediction, 11), (Class::Prediction, 12), (Class::State, 13)] {
            notes.note(oversize(class, bytes));
        }
        let logged: Vec<usize> = std::iter::from_fn(|| notes.take_first()).map(|first| first.payload_bytes).collect();
        assert_eq!(logged, [13, 11]);
        let last = notes.take_last().unwrap();
        assert_eq!(last.to_string(), "a message of class state on t has 13 bytes; the limit is 10");
        notes.note(oversize(Class::State, 14));
        assert_eq!((notes.take_first(), notes.take_last().map(|last| last.payload_bytes)), (None, Some(14)));
    }
}
