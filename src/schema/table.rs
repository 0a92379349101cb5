//! `table!`: the keys of one table, declared once for reading, checking and the reference.

use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, Visitor};

use super::{Checker, Key, TableDoc};

/// A table that [`table!`] has declared.
pub trait Table: DeserializeOwned {
    fn doc() -> TableDoc;

    /// Checks every key that has a range.
    fn check_ranges(&self, key: &Key, checker: &mut Checker);
}

/// Declares a table of the configuration as a struct.
///
/// ```text
/// table! {
///     /// Text for the reference.
///     pub struct Estimate {
///         /// Power of the idle machine.
///         pub idle_watts: f64, range(0.0, 10_000.0), unit("W"), example("2.5");
///         /// What the key does.
///         pub repeat as "loop": bool = false;
///     }
/// }
/// ```
///
/// A key without a default must be written, unless its type is an `Option` or a table that may be left out. `family kind: F;`
/// as the last line puts the kinds of the family `F` among the table's own keys; with `Option<F>`, all may be left out.
macro_rules! table {
    (
        $(#[doc = $text:literal])+
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $field_vis:vis $field:ident $(as $key:literal)? : $type:ty
                    $(= $default:expr)? $(, $option:ident($($argument:expr),*))* ;
            )*
            $(family $kind_vis:vis $kind:ident : $family:ty ;)?
        }
    ) => {
        $(#[doc = $text])+
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $doc])+ $field_vis $field: $type, )*
            $( $kind_vis $kind: $family, )?
        }

        impl $crate::schema::expanded::Table for $name {
            fn doc() -> $crate::schema::TableDoc {
                $crate::schema::TableDoc {
                    name: concat!(module_path!(), "::", stringify!($name)),
                    text: $crate::schema::expanded::joined(&[$($text),+]),
                    keys: vec![$(
                        $crate::schema::KeyDoc::new::<$type>(
                            $crate::schema::key_name!($field $($key)?), &[$($doc),+],
                        )
                        $(.default($crate::schema::expanded::typed_default::<$type>($default)))?
                        $(.$option($($argument),*))*
                    ),*],
                    kinds: [$(<$family as $crate::schema::expanded::Family>::doc())?].into_iter().next(),
                }
            }

            #[allow(unused_variables)]
            fn check_ranges(&self, key: &$crate::schema::Key, checker: &mut $crate::schema::Checker) {
                $({
                    let at = || key.child($crate::schema::key_name!($field $($key)?));
                    $( $crate::schema::check_option!($option, &self.$field, at(), checker, $($argument),*); )*
                })*
            }
        }

        impl $crate::schema::Value for $name {
            fn type_name() -> String {
                "table".to_owned()
            }
            fn form() -> $crate::schema::Form {
                $crate::schema::Form::Table
            }
            fn to_toml(&self) -> String {
                $crate::schema::expanded::table_toml(&[
                    $((
                        $crate::schema::key_name!($field $($key)?),
                        $crate::schema::Value::to_toml(&self.$field),
                        None::<String>$(.or(Some($crate::schema::expanded::typed_default::<$type>($default))))?,
                    ),)*
                    $(("", $crate::schema::Value::to_toml(&self.$kind), None::<String>),)?
                ])
            }
            fn missing() -> Option<Self> {
                $crate::schema::expanded::from_nothing()
            }
            fn children() -> $crate::schema::Children {
                $crate::schema::Children::Table(<Self as $crate::schema::expanded::Table>::doc())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const KEYS: &[&str] = &[$($crate::schema::key_name!($field $($key)?)),*];
                struct TableVisitor;
                impl<'de> serde::de::Visitor<'de> for TableVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a table")
                    }
                    #[allow(unused_mut, unused_variables)]
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        $( let mut $field: Option<$type> = None; )*
                        $( let mut $kind: Option<$family> = None; )?
                        let kinds: &[&str] = [$(<$family as $crate::schema::expanded::Family>::NAMES)?].into_iter().next().unwrap_or(&[]);
                        while let Some(key) = map.next_key_seed($crate::schema::expanded::KeySeed { keys: KEYS, kinds })? {
                            $(
                                if key == $crate::schema::key_name!($field $($key)?) {
                                    $field = Some(map.next_value()?);
                                    continue;
                                }
                            )*
                            $(
                                if $kind.is_some() {
                                    return Err($crate::schema::expanded::expected_one(kinds));
                                }
                                $kind = Some(map.next_value_seed(
                                    $crate::schema::expanded::KindDeserializer::<$family>::new(key),
                                )?);
                            )?
                        }
                        Ok($name {
                            $( $field: match $field {
                                Some(value) => value,
                                None => table!(@missing A, $type, $crate::schema::key_name!($field $($key)?) $(, $default)?),
                            }, )*
                            $( $kind: $kind.or_else(<$family as $crate::schema::expanded::Family>::missing).ok_or_else(|| $crate::schema::expanded::expected_one(kinds))?, )?
                        })
                    }
                }
                deserializer.deserialize_map(TableVisitor)
            }
        }
    };
    (@missing $access:ident, $type:ty, $key:expr, $default:expr) => { $default };
    (@missing $access:ident, $type:ty, $key:expr) => {
        <$type as $crate::schema::Value>::missing()
            .ok_or_else(|| <$access::Error as serde::de::Error>::missing_field($key))?
    };
}

/// Returns the name of a key in TOML: that of the field, unless another one is given.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// Checks one option of a key: of the options only `range` has a check.
macro_rules! check_option {
    (range, $value:expr, $key:expr, $checker:expr, $low:expr, $high:expr) => {
        $crate::schema::expanded::Ranged::check_range($value, &$key, $low, $high, $checker);
    };
    ($option:ident, $value:expr, $key:expr, $checker:expr, $($argument:expr),*) => {};
}

pub(crate) use {check_option, key_name, table};

/// A value, or an optional one, that must lie in a range.
pub trait Ranged<T> {
    fn check_range(&self, key: &Key, low: T, high: T, checker: &mut Checker);
}

impl<T: PartialOrd + fmt::Display + Copy> Ranged<T> for T {
    fn check_range(&self, key: &Key, low: T, high: T, checker: &mut Checker) {
        checker.within(key, *self, low, high);
    }
}

impl<T: PartialOrd + fmt::Display + Copy> Ranged<T> for Option<T> {
    fn check_range(&self, key: &Key, low: T, high: T, checker: &mut Checker) {
        if let Some(value) = self {
            checker.within(key, *value, low, high);
        }
    }
}

/// Returns the table as it is when nothing is written; `None` if a key of it must be written.
pub fn from_nothing<T: DeserializeOwned>() -> Option<T> {
    let nothing = std::iter::empty::<(&str, &str)>();
    T::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(nothing)).ok()
}

/// Returns a table in one line, from its keys, their values, and their defaults, all as TOML. Keys that have their default, or
/// that may be left out and are, are not in it; the kind of a family has no key, and stands among the others.
pub fn table_toml(keys: &[(&str, String, Option<String>)]) -> String {
    let written = keys.iter().filter(|(_, value, default)| !value.is_empty() && default.as_ref() != Some(value));
    let items: Vec<String> = written
        .map(|(key, value, _)| match key {
            &"" => value.strip_prefix("{ ").and_then(|rest| rest.strip_suffix(" }")).unwrap_or(value).to_owned(),
            key => format!("{key} = {value}"),
        })
        .collect();
    if items.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", items.join(", ")) }
}

/// Reads a key that must be one of those declared.
pub struct KeySeed {
    pub keys: &'static [&'static str],
    pub kinds: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = &'static str;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = &'static str;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a key")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<&'static str, E> {
        let mut known = self.keys.iter().chain(self.kinds).copied();
        known.clone().find(|key| *key == text).ok_or_else(|| {
            let names: Vec<String> = known.by_ref().map(|key| format!("`{key}`")).collect();
            let offered = match names.as_slice() {
                [] => "there are no keys here".to_owned(),
                [only] => format!("expected {only}"),
                _ => format!("expected one of {}", names.join(", ")),
            };
            let what = if self.keys.is_empty() && !self.kinds.is_empty() { "kind" } else { "field" };
            E::custom(format_args!("unknown {what} `{text}`, {offered}"))
        })
    }
}
