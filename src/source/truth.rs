//! The true classes that a stream names: finds each among the labels, and counts those that are none.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::SourceStats;

/// How many of the unknown names are kept, each once.
const EXAMPLES: usize = 5;

/// The labels that a truth column may name, and where unknown ones are counted.
#[derive(Debug, Clone, Default)]
pub struct TruthLabels {
    pub labels: Vec<String>,
    /// The name in the log; empty: nothing is logged.
    pub pipeline: String,
    pub stats: Arc<SourceStats>,
    /// Every name becomes a label, and is kept here: for a recording, whose model is not known.
    pub found: Option<Arc<FoundNames>>,
}

/// The names that a truth column has, each once.
#[derive(Debug, Default)]
pub struct FoundNames {
    names: Mutex<Vec<String>>,
}

impl FoundNames {
    /// Names of classes, not of what changes with each record.
    pub const MOST: usize = 1_000;
    pub const MOST_BYTES: usize = 256;

    fn add(&self, name: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= Self::MOST_BYTES)?;
        // What is under the lock is only added to.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        (names.len() < Self::MOST).then(|| names.push(name.to_owned())).map(|()| name.to_owned())
    }

    /// Returns the name of a class.
    pub fn name(&self, class: u16) -> Option<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(usize::from(class)).cloned()
    }

    /// Returns all of them.
    pub fn all(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Vec<String>> for TruthLabels {
    fn from(labels: Vec<String>) -> Self {
        Self { labels, ..Self::default() }
    }
}

/// What a truth column has named.
#[derive(Debug, Default)]
pub struct TruthSeen {
    pub known: u64,
    pub unknown: u64,
    /// Some of the names that are no labels, each once.
    pub examples: Vec<String>,
}

/// Finds true classes among the labels.
pub(crate) struct TruthReader {
    of: TruthLabels,
    last: usize,
    pub seen: TruthSeen,
}

impl TruthReader {
    pub(crate) fn new(of: TruthLabels) -> Self {
        Self { of, last: 0, seen: TruthSeen::default() }
    }

    /// Returns the index of the label `name`; `None` if it is empty or no label.
    pub(crate) fn class(&mut self, name: &[u8]) -> Option<u16> {
        let name = name.trim_ascii();
        if name.is_empty() {
            return None;
        }
        // The last one first, because neighbouring records mostly have the same.
        let labels = &self.of.labels;
        if labels.get(self.last).is_none_or(|label| label.as_bytes() != name) {
            match labels.iter().position(|label| label.as_bytes() == name) {
                Some(class) => self.last = class,
                None => {
                    let Some(added) = self.of.found.as_ref().and_then(|found| found.add(name)) else {
                        self.unknown(name);
                        return None;
                    };
                    self.last = labels.len();
                    self.of.labels.push(added);
                }
            }
        }
        self.seen.known += 1;
        u16::try_from(self.last).ok()
    }

    fn unknown(&mut self, name: &[u8]) {
        self.seen.unknown += 1;
        if self.seen.examples.len() < EXAMPLES && !self.seen.examples.iter().any(|seen| seen.as_bytes() == name) {
            self.seen.examples.push(String::from_utf8_lossy(name).into_owned());
        }
        let count = self.of.stats.unknown_truth.fetch_add(1, Ordering::Relaxed);
        if count == 0 && !self.of.pipeline.is_empty() {
            let (pipeline, truth) = (&self.of.pipeline, String::from_utf8_lossy(name));
            let labels = some_of(&self.of.labels);
            tracing::warn!(
                pipeline,
                "the true class `{}` is not a label ({labels}); predictions have no truth then; more are only counted",
                truth.escape_debug()
            );
        }
    }
}

/// Returns the first few names in words.
pub fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(EXAMPLES).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        count if count > EXAMPLES => format!("{shown}, ... {count} in all"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_a_label_where_none_is_known() {
        let found = Arc::<FoundNames>::default();
        let mut reader = TruthReader::new(TruthLabels { found: Some(found.clone()), ..TruthLabels::default() });
        let classes = ["up", " down", "up", "", "down"].map(|name| reader.class(name.as_bytes()));
        assert_eq!(classes, [Some(0), Some(1), Some(0), None, Some(1)]);
        assert_eq!((found.name(1).as_deref(), found.name(2), found.all().len()), (Some("down"), None, 2));
        assert_eq!((reader.class(&[b'x'; 257]), reader.class(b"\xff")), (None, None), "not the name of a class");
        (0..2_000).for_each(|i| _ = reader.class(format!("{i}").as_bytes()));
        assert_eq!((found.all().len(), reader.seen.unknown), (1_000, 1_004));
    }

    #[test]
    fn names_that_are_no_labels_are_counted_and_a_few_are_kept() {
        let stats = Arc::<SourceStats>::default();
        let labels = ["up", "down"].map(str::to_owned).to_vec();
        let mut reader =
            TruthReader::new(TruthLabels { labels, pipeline: "p".into(), stats: stats.clone(), found: None });
        let classes = [" down ", "up", "", "Up", "Up", "7"].map(|name| reader.class(name.as_bytes()));
        assert_eq!(classes, [Some(1), Some(0), None, None, None, None]);
        for other in 0..100 {
            reader.class(format!("other {other}").as_bytes());
        }
        let TruthSeen { known, unknown, examples } = &reader.seen;
        assert_eq!((*known, *unknown, stats.unknown_truth.load(Ordering::Relaxed)), (2, 103, 103), "none is no name");
        assert_eq!(examples, &["Up", "7", "other 0", "other 1", "other 2"]);
        assert_eq!(some_of(&[]), "none");
        assert_eq!(some_of(&["a".to_owned(), "\u{1b}".to_owned()]), "a, \\u{1b}");
    }
}
