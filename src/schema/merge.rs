//! Several TOML texts as one table: each is merged over those before it, and every value keeps its place.
//!
//! Spans count through all texts as if they stood one behind the other, so that one number says which text, and where in it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::syntax::{Mistake, explain};
use super::{Children, FamilyDoc, TableDoc};

/// Where the texts begin when they are counted as one.
#[derive(Debug)]
pub struct Offsets(Vec<usize>);

impl Offsets {
    pub fn new<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let next = |start: &mut usize, text: &str| {
            let at = *start;
            // One more, so that the end of a text is not the start of the next.
            *start += text.len() + 1;
            Some(at)
        };
        Self(texts.into_iter().scan(0, next).collect())
    }

    /// Returns the index of the text in which a span lies, and the span there.
    pub fn place(&self, span: Range<usize>) -> (usize, Range<usize>) {
        let index = self.0.partition_point(|start| *start <= span.start).saturating_sub(1);
        let start = self.0.get(index).copied().unwrap_or(0);
        (index, span.start - start..span.end.saturating_sub(start))
    }
}

/// Parses each text by itself.
///
/// # Errors
/// The syntax errors, with the index of the text and spans in it.
pub fn parse<'t>(texts: &[&'t str]) -> Result<Vec<Spanned<DeTable<'t>>>, Vec<(usize, Mistake)>> {
    let mut tables = Vec::new();
    let mut mistakes = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let (table, errors) = DeTable::parse_recoverable(text);
        tables.push(table);
        mistakes.extend(explain(text, &errors).into_iter().map(|mistake| (index, mistake)));
    }
    if mistakes.is_empty() { Ok(tables) } else { Err(mistakes) }
}

/// Merges the tables of texts, each over those before it: tables key by key, every other value as a whole. Where one kind
/// of a family stands, another kind in a later text replaces it. `root` says where the families are.
pub fn merge<'t>(tables: Vec<Spanned<DeTable<'t>>>, offsets: &Offsets, root: &TableDoc) -> Spanned<DeTable<'t>> {
    let mut merged: Option<Spanned<DeTable<'t>>> = None;
    for (table, start) in tables.into_iter().zip(&offsets.0) {
        match &mut merged {
            None => merged = Some(table),
            Some(merged) => overlay(merged.get_mut(), moved_table(table.into_inner(), *start), Place::Table(root)),
        }
    }
    merged.unwrap_or_else(|| Spanned::new(0..0, DeTable::new()))
}

/// What stands below a key, as far as a merge needs it.
#[derive(Clone, Copy)]
enum Place<'d> {
    Table(&'d TableDoc),
    OneKind(&'d FamilyDoc),
    Named(&'d Children),
    Other,
}

impl<'d> Place<'d> {
    fn of(children: &'d Children) -> Self {
        match children {
            Children::Table(table) => Self::Table(table),
            Children::Family(family) => Self::OneKind(family),
            Children::Named(children) => Self::Named(children),
            Children::None | Children::List(_) => Self::Other,
        }
    }

    /// The family of which one kind stands here, alone or among other keys.
    fn family(self) -> Option<&'d FamilyDoc> {
        match self {
            Self::Table(table) => table.kinds.as_ref(),
            Self::OneKind(family) => Some(family),
            Self::Named(_) | Self::Other => None,
        }
    }

    /// Whether a table names a kind here that the table below it does not: what is wrong with kinds is its fault then.
    fn brings_kind(self, above: &DeTable<'_>, below: &DeTable<'_>) -> bool {
        let kinds = self.family().into_iter().flat_map(|family| &family.kinds);
        kinds.into_iter().any(|kind| above.contains_key(kind.name) && !below.contains_key(kind.name))
    }

    fn child(self, key: &str) -> Self {
        let kind = || self.family().and_then(|family| family.kinds.iter().find(|kind| kind.name == key));
        match self {
            Self::Named(children) => Self::of(children),
            Self::Table(table) if let Some(doc) = table.keys.iter().find(|doc| doc.key == key) => {
                Self::of(&doc.children)
            }
            Self::Table(_) | Self::OneKind(_) => kind().map_or(Self::Other, |kind| Self::Table(&kind.table)),
            Self::Other => Self::Other,
        }
    }
}

fn overlay<'t>(below: &mut DeTable<'t>, above: DeTable<'t>, place: Place<'_>) {
    if let Some(family) = place.family() {
        let is_kind = |key: &str| family.kinds.iter().any(|kind| kind.name == key);
        if above.keys().any(|key| is_kind(key.get_ref())) {
            let replaced = |key: &&str| above.get(*key).is_none();
            family.kinds.iter().map(|kind| kind.name).filter(replaced).for_each(|kind| _ = below.remove(kind));
        }
    }
    for (key, value) in above {
        let (span, place) = (value.span(), place.child(key.get_ref()));
        // Removed first, because a map keeps the key that it has, and with it the place of the replaced value.
        let replaced = below.remove_entry(key.get_ref().as_ref());
        match (replaced, value.into_inner()) {
            (Some((old_key, old)), DeValue::Table(above)) if old.get_ref().is_table() => {
                let old_span = old.span();
                let DeValue::Table(mut merged) = old.into_inner() else { continue };
                let (key, span) = if place.brings_kind(&above, &merged) { (key, span) } else { (old_key, old_span) };
                overlay(&mut merged, above, place);
                below.insert(key, Spanned::new(span, DeValue::Table(merged)));
            }
            (_, value) => _ = below.insert(key, Spanned::new(span, value)),
        }
    }
}

/// Moves every span of a table by `offset`.
fn moved_table(table: DeTable<'_>, offset: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| (moved(key, offset, |key, _| key), moved(value, offset, moved_value)))
        .collect()
}

fn moved_value(value: DeValue<'_>, offset: usize) -> DeValue<'_> {
    match value {
        DeValue::Table(table) => DeValue::Table(moved_table(table, offset)),
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|value| moved(value, offset, moved_value)).collect::<DeArray<'_>>())
        }
        scalar => scalar,
    }
}

fn moved<T>(value: Spanned<T>, offset: usize, within: fn(T, usize) -> T) -> Spanned<T> {
    let span = value.span();
    Spanned::new(span.start + offset..span.end + offset, within(value.into_inner(), offset))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use toml::Table;

    use super::super::expanded::Table as _;
    use super::super::{Key, span_of};
    use super::*;
    use crate::config::Root;

    fn merge_texts<'t>(texts: &[&'t str]) -> Spanned<DeTable<'t>> {
        merge(parse(texts).unwrap(), &Offsets::new(texts.iter().copied()), &Root::doc())
    }

    fn merged(texts: &[&str]) -> Table {
        Table::deserialize(toml::Deserializer::from(merge_texts(texts))).unwrap()
    }

    fn assert_merged(texts: &[&str], expected: &str) {
        assert_eq!(merged(texts), toml::from_str::<Table>(expected).unwrap(), "{texts:?}");
    }

    #[test]
    fn tables_are_merged_and_all_else_is_replaced() {
        assert_merged(&["a = 1\n[t]\nb = 2\nc = 3", "[t]\nc = 4\nd = 5"], "a = 1\nt = { b = 2, c = 4, d = 5 }");
        assert_merged(&["a = [1, 2]", "a = [3]", ""], "a = [3]");
        assert_merged(&["[[a]]\nb = 1\n[[a]]\nb = 2", "[[a]]\nb = 3"], "a = [{ b = 3 }]");
        assert_merged(&["a = 1", "[a]\nb = 2"], "a = { b = 2 }");
        assert_merged(&["a.b.c = 1", "[a.b]\nd = 2", "a = 'x'"], "a = 'x'");
        assert_merged(&[], "");
    }

    #[test]
    fn another_kind_replaces_the_kind_before_it() {
        let base = "[pipelines.p]\nsource.replay = { path = 'a' }\ndecision.raw = {}";
        assert_merged(
            &[base, "[pipelines.p.source.lines]\nfrom = 'stdin'"],
            "[pipelines.p]\nsource.lines = { from = 'stdin' }\ndecision.raw = {}",
        );
        assert_merged(
            &[base, "[pipelines.p]\nsource.replay = { speed = 2 }"],
            "[pipelines.p]\nsource.replay = { path = 'a', speed = 2 }\ndecision.raw = {}",
        );
        assert_merged(
            &["[delegates.d]\ndeadline_ms = 5\ncpu = {}", "[delegates.d]\nxnnpack = { threads = 2 }"],
            "[delegates.d]\ndeadline_ms = 5\nxnnpack = { threads = 2 }",
        );
        // Two kinds in one text are a mistake, and stay one.
        assert_merged(
            &[base, "[pipelines.p.source]\nlines = {}\nudp = {}"],
            "[pipelines.p]\nsource = { lines = {}, udp = {} }\ndecision.raw = {}",
        );
        // A pipeline that has the name of a kind is none.
        assert_merged(&["[pipelines.replay]", "[pipelines.lines]"], "pipelines = { replay = {}, lines = {} }");
    }

    #[test]
    fn every_value_knows_its_text() {
        let texts = ["[t]\nb = 2\nc = 30\n", "", "# x\n[t]\nc = [4, 50]\n"];
        let table = merge_texts(&texts);
        let offsets = Offsets::new(texts);
        let at = |segments: &[&str]| {
            let (index, span) = offsets.place(span_of(table.get_ref(), &Key::new(segments)).unwrap());
            (index, &texts[index][span])
        };
        assert_eq!(at(&["t", "b"]), (0, "2"));
        assert_eq!(at(&["t", "c"]), (2, "[4, 50]"));
        assert_eq!(at(&["t", "c", "1"]), (2, "50"));
        // A table stands where it is written first.
        assert_eq!(at(&["t"]), (0, "[t]"));
    }

    #[test]
    fn each_text_shows_its_mistakes() {
        let errors = parse(&["a = \nb = ", "a = 1", "[t\nb = yes"]).unwrap_err();
        let places: Vec<(usize, usize)> =
            errors.iter().map(|(i, (span, _))| (*i, span.clone().unwrap().start)).collect();
        // After a table without an end, all is doubtful.
        assert_eq!(places, [(0, 4), (0, 9), (2, 2)], "{errors:?}");
    }
}
