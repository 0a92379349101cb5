//! Compares parsed files with the declared tables, and says in plain words what does not fit: every unknown key, wrong type,
//! missing key and number out of range in one pass.
//!
//! The values are read by serde after that. Its messages speak of types of the program, and no user sees them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::suggest::{self, Wanted};
use super::{Children, FamilyDoc, Form, Key, KeyDoc, TableDoc};
use crate::text::{listed, nearest};

/// More names than these are not listed where one of them is meant.
const MOST_LISTED: usize = 12;
/// A key that stands in more tables than these could be meant anywhere.
const MOST_PLACES: usize = 2;

/// A value that does not fit, or a table in which something is missing.
#[derive(Debug, PartialEq)]
pub(crate) struct Misfit {
    pub span: Range<usize>,
    pub message: String,
}

/// A key that there was in an older edgewatt.
#[derive(Debug)]
pub(crate) struct Removed {
    /// The path of the key; a `*` in it is a name that the user chose.
    pub path: &'static str,
    /// What to write instead.
    pub advice: &'static str,
}

/// Returns all that does not fit into the tables below `doc`, in the order of the text. Numbers out of range are among it
/// only if something else is, because they can be read.
pub(crate) fn misfits(root: &Spanned<DeTable<'_>>, doc: &TableDoc, removed: &[Removed]) -> Vec<Misfit> {
    let mut walk = Walk { root: doc, removed, misfits: Vec::new(), out_of_range: Vec::new() };
    walk.table(&Key::new(&[]), &root.span(), root.get_ref(), doc);
    let Walk { mut misfits, out_of_range, .. } = walk;
    if !misfits.is_empty() {
        misfits.extend(out_of_range);
        misfits.sort_by_key(|misfit| misfit.span.start);
    }
    misfits
}

struct Walk<'d> {
    root: &'d TableDoc,
    removed: &'d [Removed],
    misfits: Vec<Misfit>,
    out_of_range: Vec<Misfit>,
}

/// What may stand at a key.
#[derive(Clone, Copy)]
struct Slot<'d> {
    /// The key as it is declared; `None` in lists and under names that the user chooses.
    doc: Option<&'d KeyDoc>,
    form: &'d Form,
    children: &'d Children,
}

impl Walk<'_> {
    fn report(&mut self, span: Range<usize>, message: String) {
        self.misfits.push(Misfit { span, message });
    }

    fn table(&mut self, key: &Key, span: &Range<usize>, table: &DeTable<'_>, doc: &TableDoc) {
        let kinds = doc.kinds.as_ref().map_or(&[][..], |family| &family.kinds);
        let mut kinds_written = 0;
        let names: Vec<&str> = doc.keys.iter().map(|doc| doc.key).chain(kinds.iter().map(|kind| kind.name)).collect();
        let mut unknown = Vec::new();
        for (name, value) in table {
            let at = key.child(name.get_ref());
            if let Some(doc) = doc.keys.iter().find(|doc| doc.key == name.get_ref()) {
                self.value(&at, value, Slot { doc: Some(doc), form: &doc.form, children: &doc.children });
            } else if let Some(kind) = kinds.iter().find(|kind| kind.name == name.get_ref()) {
                kinds_written += 1;
                self.kind(&at, value, &kind.table);
            } else {
                unknown.push(name.get_ref().as_ref());
                self.unknown_key(key, name, doc, &names);
            }
        }
        // What is missing is not said again if it is written with a slip of the pen.
        let is_optional = doc.kinds.as_ref().is_none_or(|family| family.optional);
        let is_one_missing = kinds_written == 0 && !is_optional && unknown.is_empty();
        if kinds_written > 1 || is_one_missing {
            self.report(span.clone(), format!("{}write exactly one of {}", prefix(key), names_of(kinds)));
        }
        let is_meant = |key: &str| unknown.iter().any(|name| nearest(name, &names) == Some(key));
        let is_missing = |doc: &&KeyDoc| doc.required && !table.contains_key(doc.key) && !is_meant(doc.key);
        for doc in doc.keys.iter().filter(is_missing) {
            let message = format!("{}: this key is missing; {}", key.child(doc.key), suggest::missing(key, doc));
            self.report(span.clone(), message);
        }
    }

    fn unknown_key(&mut self, key: &Key, name: &Spanned<std::borrow::Cow<'_, str>>, doc: &TableDoc, known: &[&str]) {
        let written = name.get_ref();
        let at = key.child(written);
        if let Some(Removed { advice, .. }) = self.removed.iter().find(|removed| at.is_at(removed.path)) {
            self.report(name.span(), format!("{}`{written}` is no longer a key here; {advice}", prefix(key)));
            return;
        }
        let advice = if let Some(meant) = nearest(written, known) {
            format!("; did you mean `{meant}`?")
        } else if let Some(places) = self.places_of(written, doc) {
            format!("; it belongs to {places}")
        } else {
            String::new()
        };
        let is_list_of_use = advice.is_empty() || known.len() <= MOST_LISTED;
        let list = if is_list_of_use { format!("; the keys here are {}", ticked(known)) } else { String::new() };
        self.report(name.span(), format!("{}unknown key `{written}`{advice}{list}", prefix(key)));
    }

    /// The tables that have a key of that name: those below `doc`, or else anywhere.
    fn places_of(&self, name: &str, doc: &TableDoc) -> Option<String> {
        let mut near = Vec::new();
        let mut anywhere = Vec::new();
        suggest::places(name, doc, "", &mut near);
        suggest::places(name, self.root, "", &mut anywhere);
        let mut places = if near.is_empty() { anywhere } else { near };
        if places.len() > MOST_PLACES {
            // Of many, those nearest to the root are meant.
            let depth = |place: &String| place.matches('.').count();
            let least = places.iter().map(depth).min();
            places.retain(|place| Some(depth(place)) == least);
        }
        (1..=MOST_PLACES).contains(&places.len()).then(|| places.join(" or "))
    }

    fn kind(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, doc: &TableDoc) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(key, &value.span(), table, doc),
            other => {
                let message = format!(
                    "{key}: this is {}, expected a table; write {}",
                    suggest::name_of(other),
                    suggest::sketch(key.last(), doc)
                );
                self.report(value.span(), message);
            }
        }
    }

    fn family(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, family: &FamilyDoc) {
        let names: Vec<&str> = family.kinds.iter().map(|kind| kind.name).collect();
        let kind_called = |name: &str| family.kinds.iter().find(|kind| kind.name == name);
        match value.get_ref() {
            DeValue::Table(table) => {
                let mut known = 0;
                for (name, value) in table {
                    match kind_called(name.get_ref()) {
                        Some(kind) => {
                            known += 1;
                            self.kind(&key.child(name.get_ref()), value, &kind.table);
                        }
                        None => self.report(name.span(), unknown_kind(key, name.get_ref(), &names)),
                    }
                }
                if known > 1 || table.is_empty() {
                    let message = format!("{key}: write exactly one of {}", names_of(&family.kinds));
                    self.report(value.span(), message);
                }
            }
            DeValue::String(name) => match kind_called(name) {
                Some(kind) if suggest::needs_keys(&kind.table) => {
                    let sketch = suggest::sketch(&format!("{}.{name}", key.last()), &kind.table);
                    self.report(value.span(), format!("{key}: `{name}` has keys that must be written; write {sketch}"));
                }
                Some(_) => {}
                None => self.report(value.span(), unknown_kind(key, name, &names)),
            },
            other => {
                let what = suggest::name_of(other);
                let message = format!("{key}: this is {what}, expected a table with one of {}", ticked(&names));
                self.report(value.span(), message);
            }
        }
    }

    fn value(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, slot: Slot<'_>) {
        let of = match slot.form {
            Form::Map(of) | Form::List { of, .. } => of,
            form => form,
        };
        let below = |children| Slot { doc: None, form: of, children };
        match (slot.children, value.get_ref()) {
            (Children::Family(family), _) => self.family(key, value, family),
            (Children::Table(doc), DeValue::Table(table)) => self.table(key, &value.span(), table, doc),
            (Children::Named(children), DeValue::Table(table)) => {
                table.iter().for_each(|(name, value)| self.value(&key.child(name.get_ref()), value, below(children)));
            }
            (Children::List(children), DeValue::Array(array)) => {
                array.iter().enumerate().for_each(|(i, value)| self.value(&key.child(i), value, below(children)));
            }
            (Children::None, _) => self.plain(key, value, slot),
            (children, other) => {
                let wanted = suggest::wanted_children(key.last(), children);
                self.report(value.span(), format!("{key}: this is {}, expected {wanted}", suggest::name_of(other)));
            }
        }
    }

    /// A value without tables of its own below it.
    fn plain(&mut self, key: &Key, value: &Spanned<DeValue<'_>>, slot: Slot<'_>) {
        match (slot.form, value.get_ref()) {
            // Each element that does not fit is shown where it stands.
            (Form::List { of, length }, DeValue::Array(array)) if length.is_none_or(|length| length == array.len()) => {
                let element = Slot { doc: None, form: of, children: &Children::None };
                array.iter().enumerate().for_each(|(i, value)| self.plain(&key.child(i), value, element));
            }
            (Form::Map(of), DeValue::Table(table)) => {
                let element = Slot { doc: None, form: of, children: &Children::None };
                table.iter().for_each(|(name, value)| self.plain(&key.child(name.get_ref()), value, element));
            }
            // Of several forms, that which has the shape of the value says what does not fit inside.
            (Form::Any(forms), written) if let Some(form) = suggest::of_shape(written, forms) => {
                self.plain(key, value, Slot { form, ..slot });
            }
            (Form::Keyed(name, of), DeValue::Table(table)) if table.len() == 1 && table.contains_key(*name) => {
                let element = Slot { doc: None, form: of, children: &Children::None };
                table.iter().for_each(|(name, value)| self.plain(&key.child(name.get_ref()), value, element));
            }
            (form, written) => {
                let wanted = Wanted { key: key.last(), form, doc: slot.doc };
                match wanted.fits(written) {
                    Ok(None) => {}
                    Ok(Some(out_of_range)) => {
                        self.out_of_range
                            .push(Misfit { span: value.span(), message: format!("{key}: {out_of_range}") });
                    }
                    Err(why) => self.report(value.span(), format!("{key}: {why}")),
                }
            }
        }
    }
}

fn unknown_kind(key: &Key, name: &str, names: &[&str]) -> String {
    let meant = nearest(name, names).map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
    format!("{key}: unknown kind `{name}`{meant}; the kinds are {}", ticked(names))
}

/// `KEY: `, or nothing for the root.
fn prefix(key: &Key) -> String {
    let key = key.to_string();
    if key.is_empty() { key } else { format!("{key}: ") }
}

fn names_of(kinds: &[super::KindDoc]) -> String {
    listed(&kinds.iter().map(|kind| kind.name).collect::<Vec<_>>())
}

fn ticked(names: &[&str]) -> String {
    listed(&names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>())
}
