//! How the tables of the configuration are declared, read, checked, located and documented.
//!
//! Owns the mechanism and no table: [`table!`] declares the keys of one table with defaults, ranges and reference text;
//! [`choice!`] declares a key that takes one of several words; [`family!`] lists the kinds of a family, one file each.
//! Pure: nothing here touches a file or a device.

mod checker;
mod choice;
mod conform;
mod doc;
mod family;
mod locate;
mod merge;
mod suggest;
mod syntax;
mod table;
mod value;

pub use checker::{Checker, Problem, milliseconds, seconds};
pub(crate) use conform::{Misfit, Removed, misfits};
pub use doc::{Children, FamilyDoc, Form, KeyDoc, KindDoc, TableDoc};
pub use locate::{Key, Part, parts, show, span_of};
pub use merge::{Offsets, merge, parse};
pub(crate) use syntax::explain;
pub use value::Value;

pub(crate) use choice::choice;
pub(crate) use family::family;
pub(crate) use table::{check_option, key_name, table};

/// What the macros expand to.
pub mod expanded {
    pub use super::doc::{joined, typed_default};
    pub use super::family::{Family, KindDeserializer, expected_one};
    pub use super::table::{KeySeed, Ranged, Table, from_nothing, table_toml};
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::expanded::{Family, Table};
    use super::*;

    table! {
        /// A table for tests.
        struct Plain {
            /// A key that must be written.
            size: u8, range(1, 9), example("3");
            /// A key under another name.
            name as "type": String = "a".to_owned();
            /// A key that may be left out.
            limit: Option<f64>, range(0.0, 1.0), otherwise("none"), example("0.5");
            /// A table that may be left out.
            inner: Inner;
        }
    }

    table! {
        /// A table below it.
        struct Inner {
            /// A key with a default.
            on: bool = true;
        }
    }

    fn read(text: &str) -> Result<Plain, String> {
        toml::from_str(text).map_err(|error| {
            let place = error.span().map_or("nowhere", |span| &text[span]);
            format!("{} at `{}`", error.message(), place.trim())
        })
    }

    #[test]
    fn a_table_is_read_by_its_keys_with_their_defaults() {
        let plain = read("size = 3").unwrap();
        assert_eq!((plain.size, plain.name.as_str(), plain.limit, plain.inner.on), (3, "a", None, true));
        let plain = read("size = 3\ntype = 'b'\nlimit = 0.5\n[inner]\non = false").unwrap();
        assert_eq!((plain.name.as_str(), plain.limit, plain.inner.on), ("b", Some(0.5), false));
    }

    #[test]
    fn a_mistake_is_shown_where_it_stands() {
        assert_eq!(read("type = 'b'").unwrap_err(), "missing field `size` at ``");
        assert_eq!(
            read("size = 3\nnam = 1").unwrap_err(),
            "unknown field `nam`, expected one of `size`, `type`, `limit`, `inner` at `nam`"
        );
        assert_eq!(read("size = 3\n[inner]\noff = 1").unwrap_err(), "unknown field `off`, expected `on` at `off`");
        assert!(read("size = 300").unwrap_err().ends_with("at `300`"));
        assert!(read("size = 3\ninner = 3").unwrap_err().contains("expected a table at `3`"));
    }

    #[test]
    fn every_value_out_of_its_range_is_reported() {
        let plain = read("size = 10\nlimit = 1.5").unwrap();
        let mut checker = Checker::new(Path::new(""));
        plain.check_ranges(&Key::new(&["t"]), &mut checker);
        let problems = checker.finish(Some(())).unwrap_err();
        let shown: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
        assert_eq!(
            shown,
            [
                "t.size: 10 is out of range; it must be from 1 to 9",
                "t.limit: 1.5 is out of range; it must be from 0 to 1"
            ]
        );
    }

    #[test]
    fn a_table_as_toml_has_what_is_not_the_default() {
        assert_eq!(read("size = 3\ntype = 'a'\n[inner]\non = true").unwrap().to_toml(), "{ size = 3, inner = {} }");
        let text = "{ size = 4, type = \"b\", limit = 0.5, inner = { on = false } }";
        let plain: std::collections::BTreeMap<String, Plain> = toml::from_str(&format!("t = {text}")).unwrap();
        assert_eq!(plain["t"].to_toml(), text);
        let raw = crate::decision::Decision::from_name("raw").unwrap();
        assert_eq!(raw.to_toml(), "{ raw = {} }");
    }

    #[test]
    fn a_table_tells_the_reference_what_it_is() {
        let TableDoc { text, keys, .. } = Plain::doc();
        assert_eq!(text, "A table for tests.");
        let [size, name, limit, inner] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!((size.key, size.required, size.example), ("size", true, Some("3")));
        assert_eq!(size.range, Some(("1".to_owned(), "9".to_owned())));
        assert_eq!((name.key, name.required, name.default.as_deref()), ("type", false, Some("\"a\"")));
        assert_eq!((limit.required, limit.type_name.as_str()), (false, "number"));
        assert!(!inner.required && matches!(inner.children, Children::Table(_)));
    }

    #[test]
    fn a_family_takes_exactly_one_of_its_kinds() {
        use crate::decision::Decision;
        let read = |text: &str| {
            toml::from_str::<std::collections::BTreeMap<String, Decision>>(text).map_err(|e| e.message().to_owned())
        };
        assert_eq!(read("d = 'raw'").unwrap()["d"], Decision::from_name("raw").unwrap());
        assert_eq!(read("d = { raw = {} }").unwrap()["d"].name(), "raw");
        for (text, expected) in [
            ("d = { raw = {}, classify = {} }", "write exactly one of classify, regress and raw"),
            ("d = {}", "write exactly one of classify, regress and raw"),
            ("d = { draw = {} }", "unknown kind `draw`, expected one of `classify`, `regress`, `raw`"),
            ("d = 'draw'", "unknown variant `draw`"),
            ("d = 'regress'", "`regress` has keys that must be written"),
            ("d = 3", "expected a table with one of classify, regress, raw"),
        ] {
            let message = read(text).unwrap_err();
            // More kinds may come.
            let words: Vec<&str> = expected.split([',', ' ']).filter(|word| word.len() > 3).collect();
            assert!(words.iter().all(|word| message.contains(word)), "{text}: {message}");
        }
    }
}
