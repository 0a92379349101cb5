//! The version of the configuration's format, and how a text of an older version becomes one of the current version.
//!
//! Pure: [`migrated`] takes a text and gives a text, in which comments and layout are as they were. A key that gets another
//! name is one entry in [`MIGRATIONS`].

use std::ops::Range;

use toml::Table;
use toml::de::{DeTable, DeValue};

use crate::schema::{Removed, explain};

/// The version that this program reads. A file without the key `version` has version 1.
pub const CURRENT: u32 = 1;
const KEY: &str = "version";

/// What a version has changed.
struct Migration {
    /// The version that it makes a newer one of, which is one higher.
    from: u32,
    /// Keys that have another name: the path of the old one, and the last part of the new one. A `*` in the path is a name
    /// that the user chose, or any element of a list.
    renamed: &'static [(&'static str, &'static str)],
}

/// All changes, the oldest first. The next version is one more entry, and [`CURRENT`].
const MIGRATIONS: &[Migration] = &[];

/// Keys that have gone without one that has the same meaning at the same place.
pub(super) const REMOVED: &[Removed] = &[Removed {
    path: "power.meters.*.reader.accuracy",
    advice: "write gain_error and offset_error_w into the table of the meter, above reader",
}];

/// What is wrong with a text, and where.
pub type Refused = (Range<usize>, String);

/// Checks that a file has the version that this program reads.
///
/// # Errors
/// It has another one; the message says what to do.
pub fn check(root: &DeTable<'_>) -> Result<(), Refused> {
    let (span, version) = of(root, CURRENT)?;
    if version < CURRENT {
        let message = format!("this edgewatt reads version {CURRENT}; run `edgewatt migrate` to bring this file to it");
        return Err((span, message));
    }
    Ok(())
}

/// Returns the version of a file and where it stands, if it is `current` or older.
fn of(root: &DeTable<'_>, current: u32) -> Result<(Range<usize>, u32), Refused> {
    let Some(value) = root.get(KEY) else { return Ok((0..0, 1)) };
    let DeValue::Integer(integer) = value.get_ref() else {
        return Err((value.span(), format!("version: this is not a whole number; write {KEY} = {current}")));
    };
    let message = match i128::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(written) => match u32::try_from(written) {
            Ok(version) if (1..=current).contains(&version) => return Ok((value.span(), version)),
            _ if written > i128::from(current) => {
                "a newer edgewatt wrote this file: update edgewatt, or go back to the file's backup"
            }
            _ => "there was never such a version",
        },
        Err(_) => "there was never such a version",
    };
    Err((value.span(), format!("version: this edgewatt reads version {current}; {message}")))
}

/// Returns the text in the current version; `None` if it is in it already.
///
/// # Errors
/// It is not TOML, is of a newer version, or has a key under its old and its new name.
pub fn migrated(text: &str) -> Result<Option<String>, Refused> {
    migrated_by(text, CURRENT, MIGRATIONS)
}

fn migrated_by(text: &str, current: u32, migrations: &[Migration]) -> Result<Option<String>, Refused> {
    let root = parsed(text)?;
    let (_, version) = of(&root, current)?;
    if root.contains_key(KEY) && version == current {
        return Ok(None);
    }
    let mut new = text.to_owned();
    let renamed = migrations.iter().filter(|migration| migration.from >= version).flat_map(|m| m.renamed);
    for (old, name) in renamed {
        rename(&mut new, old, name)?;
    }
    set_version(&mut new, current)?;
    let unchanged = |text: &str| {
        toml::from_str::<Table>(text).ok().map(|mut table| {
            table.remove(KEY);
            table
        })
    };
    let is_plain = migrations.iter().all(|migration| migration.from < version);
    if is_plain && unchanged(&new) != unchanged(text) {
        return Err((0..0, format!("cannot find a place for `{KEY} = {current}`; write it at the top of the file")));
    }
    Ok(Some(new))
}

fn parsed(text: &str) -> Result<DeTable<'_>, Refused> {
    let (table, errors) = DeTable::parse_recoverable(text);
    match explain(text, &errors).into_iter().next() {
        Some((span, message)) => Err((span.unwrap_or(0..0), message)),
        None => Ok(table.into_inner()),
    }
}

/// Gives every key at `path` another name.
fn rename(text: &mut String, path: &str, name: &str) -> Result<(), Refused> {
    let path: Vec<&str> = path.split('.').collect();
    // One place at a time, because a table's name can stand in several headers, and a parsed text has the first of them.
    loop {
        let root = parsed(text)?;
        let Some((span, has_new_name)) = find(&root, &path, name) else { return Ok(()) };
        let mut new = text.clone();
        new.replace_range(span.clone(), name);
        if parsed(&new).is_err() {
            let old = path.last().copied().unwrap_or_default();
            let why =
                if has_new_name { "which is written too; remove one of them" } else { "and cannot be renamed here" };
            return Err((span, format!("`{old}` is called `{name}` now, {why}")));
        }
        *text = new;
    }
}

/// Returns where the key at `path` stands, and whether there is one called `name` beside it.
fn find(table: &DeTable<'_>, path: &[&str], name: &str) -> Option<(Range<usize>, bool)> {
    let (first, rest) = path.split_first()?;
    let named = table.iter().filter(|(key, _)| *first == "*" || key.get_ref() == first);
    for (key, value) in named {
        if rest.is_empty() {
            return Some((key.span(), table.contains_key(name)));
        }
        if let Some(found) = find_below(value.get_ref(), rest, name) {
            return Some(found);
        }
    }
    None
}

fn find_below(value: &DeValue<'_>, path: &[&str], name: &str) -> Option<(Range<usize>, bool)> {
    match (value, path) {
        (DeValue::Table(table), _) => find(table, path, name),
        (DeValue::Array(array), ["*", rest @ ..]) => {
            array.iter().find_map(|element| find_below(element.get_ref(), rest, name))
        }
        _ => None,
    }
}

/// Writes the version into the text: where it stands, or at the top, below the comments that are about the whole file.
fn set_version(text: &mut String, version: u32) -> Result<(), Refused> {
    let written = parsed(text)?.get(KEY).map(toml::Spanned::span);
    if let Some(span) = written {
        text.replace_range(span, &version.to_string());
        return Ok(());
    }
    let newline =
        if text.split_inclusive('\n').next().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
    let place = top(text);
    let next_line = text[place..].lines().next().unwrap_or("");
    let before = if place == 0 || text[..place].ends_with(['\n', '\u{feff}']) { "" } else { newline };
    let after = if next_line.trim().is_empty() { "" } else { newline };
    text.insert_str(place, &format!("{before}{KEY} = {version}{newline}{after}"));
    Ok(())
}

/// Returns where a first key can be written: below the first comments if they stand apart from the first key or table, else
/// above them. A line `#:schema` stays above it.
fn top(text: &str) -> usize {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut place = start;
    for line in text[start..].split_inclusive('\n') {
        place += line.len();
        match line.trim() {
            "" if place == start + line.len() => return start,
            "" => return place,
            line if line.starts_with('#') => {}
            _ => {
                let first = text[start..].split_inclusive('\n').next().filter(|line| line.starts_with("#:schema"));
                return start + first.map_or(0, str::len);
            }
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENAMED: &[Migration] = &[
        Migration { from: 1, renamed: &[("mqtt.queue.kib", "size_kib"), ("pipelines.*.window", "frames")] },
        Migration { from: 2, renamed: &[("pipelines.*.features.*.scale.factor", "by"), ("mqtt.queue", "memory")] },
    ];

    fn at_version_1(text: &str) -> String {
        migrated(text).unwrap().unwrap()
    }

    #[test]
    fn a_text_without_a_version_gets_it_where_a_reader_expects_it() {
        let cases = [
            ("", "version = 1\n"),
            ("[node]\nid = 'a'", "version = 1\n\n[node]\nid = 'a'"),
            ("mqtt.broker = 'x'\n", "version = 1\n\nmqtt.broker = 'x'\n"),
            // A comment on the whole file stays above, one on the first table stays with it.
            ("# Ours.\n# All.\n\n# The node.\n[node]\n", "# Ours.\n# All.\n\nversion = 1\n\n# The node.\n[node]\n"),
            ("# The node.\n[node]\n", "version = 1\n\n# The node.\n[node]\n"),
            ("#:schema a.json\n# The node.\n[node]\n", "#:schema a.json\nversion = 1\n\n# The node.\n[node]\n"),
            ("\n[node]\n", "version = 1\n\n[node]\n"),
            ("# Nothing yet.", "# Nothing yet.\nversion = 1\n"),
            ("# Ours.\r\n\r\n[node]\r\n", "# Ours.\r\n\r\nversion = 1\r\n\r\n[node]\r\n"),
            ("\u{feff}[node]\n", "\u{feff}version = 1\n\n[node]\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(at_version_1(text), expected, "{text:?}");
            assert_eq!(migrated(expected), Ok(None), "{expected:?}");
        }
    }

    #[test]
    fn a_key_that_is_called_version_elsewhere_is_another_one() {
        assert_eq!(at_version_1("[mqtt]\nversion = '5'\n"), "version = 1\n\n[mqtt]\nversion = '5'\n");
    }

    #[test]
    fn other_versions_are_refused_with_what_to_do() {
        let refused = |text: &str| {
            let root = DeTable::parse(text).unwrap();
            let (span, message) = check(root.get_ref()).unwrap_err();
            (text[span].to_owned(), message)
        };
        let newer = "this edgewatt reads version 1; a newer edgewatt wrote this file";
        for text in ["version = 2", "version = 0xff", "version = 9_223_372_036_854_775_807"] {
            let (at, message) = refused(text);
            assert!(text.ends_with(&at) && message.contains(newer), "{at}: {message}");
            assert_eq!(migrated(text).unwrap_err().1, message);
        }
        for text in ["version = 0", "version = -1"] {
            assert!(refused(text).1.contains("there was never such a version"), "{text}");
        }
        for text in ["version = '1'", "version = 1.0", "version = [1]", "[version]", "version = true"] {
            assert!(refused(text).1.contains("write version = 1"), "{text}");
        }
        for text in ["", "version = 1", "version = 0b1", "version = +1"] {
            assert_eq!(check(DeTable::parse(text).unwrap().get_ref()), Ok(()), "{text}");
        }
    }

    #[test]
    fn renamed_keys_are_renamed_wherever_they_stand_and_all_else_stays() {
        let old = "# Ours.\n\n[mqtt]\nqueue = { kib = 5 } # small\n\n[pipelines.a.window]\nsamples = 1\n\n[pipelines.a]\n\
                   features = [{ diff = {} }, { scale = { factor = [1.0] } }]\n[pipelines.\"b c\"]\nwindow.hop = 1\nwindow.samples = 2\n";
        let new = "# Ours.\n\nversion = 3\n\n[mqtt]\nmemory = { size_kib = 5 } # small\n\n[pipelines.a.frames]\nsamples = 1\n\n\
                   [pipelines.a]\nfeatures = [{ diff = {} }, { scale = { by = [1.0] } }]\n[pipelines.\"b c\"]\nframes.hop = 1\n\
                   frames.samples = 2\n";
        assert_eq!(migrated_by(old, 3, RENAMED).unwrap().unwrap(), new);
        assert_eq!(migrated_by(new, 3, RENAMED), Ok(None));
        // A file of version 2 takes the second step only.
        let text = "version = 2\n[mqtt.queue]\nkib = 5\n[mqtt]\n";
        assert_eq!(migrated_by(text, 3, RENAMED).unwrap().unwrap(), "version = 3\n[mqtt.memory]\nkib = 5\n[mqtt]\n");
        let several = "version = 2\n[mqtt.queue.x]\n[mqtt.queue.y]\n";
        assert_eq!(
            migrated_by(several, 3, RENAMED).unwrap().unwrap(),
            "version = 3\n[mqtt.memory.x]\n[mqtt.memory.y]\n"
        );
    }

    #[test]
    fn a_key_under_both_names_is_refused_and_so_is_what_is_not_toml() {
        let text = "version = 1\n[mqtt.queue]\nkib = 5\nsize_kib = 6\n";
        let (span, message) = migrated_by(text, 3, RENAMED).unwrap_err();
        assert_eq!(
            (&text[span], message.as_str()),
            ("kib", "`kib` is called `size_kib` now, which is written too; remove one of them")
        );
        let (span, _) = migrated("a = 1\nb = ").unwrap_err();
        assert!(span.start >= 10, "{span:?}");
    }

    #[test]
    fn there_is_a_migration_from_every_version() {
        let from: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.from).collect();
        assert_eq!(from, Vec::from_iter(1..CURRENT));
    }
}
