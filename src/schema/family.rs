//! `family!`: the kinds of a family, one file each.

use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Error};

use super::FamilyDoc;

/// A family that [`family!`] has declared.
pub trait Family: Sized {
    /// The kinds, as they are named in TOML.
    const NAMES: &'static [&'static str];

    fn doc() -> FamilyDoc {
        Self::doc_without("")
    }

    /// Returns the description without the kind called `name`, inside of which the family stands once more.
    fn doc_without(name: &str) -> FamilyDoc;

    /// Reads the keys of the kind called `name`, which is one of [`Family::NAMES`].
    fn read<'de, D: serde::Deserializer<'de>>(name: &str, deserializer: D) -> Result<Self, D::Error>;

    /// Returns the kind called `name` with the defaults of all its keys; `None` if a key of it must be written.
    fn from_name(name: &str) -> Option<Self>;

    /// Returns what is there if no kind is written; `None` if one must be.
    fn missing() -> Option<Self> {
        None
    }
}

/// A kind that may be left out.
impl<F: Family> Family for Option<F> {
    const NAMES: &'static [&'static str] = F::NAMES;

    fn doc_without(name: &str) -> FamilyDoc {
        FamilyDoc { optional: true, ..F::doc_without(name) }
    }

    fn read<'de, D: serde::Deserializer<'de>>(name: &str, deserializer: D) -> Result<Self, D::Error> {
        F::read(name, deserializer).map(Some)
    }

    fn from_name(name: &str) -> Option<Self> {
        F::from_name(name).map(Some)
    }

    fn missing() -> Option<Self> {
        Some(None)
    }
}

/// Declares a family: an enum of kinds, each in a file of its own.
///
/// ```text
/// family! {
///     /// Text for the reference.
///     pub enum Source: SourceKind {
///         mod replay: Replay;
///         mod lines: Lines;
///     }
/// }
/// ```
///
/// As the last line, `each pub const SURVEYS: fn(&Machine) -> Vec<Finding> = survey;` collects a function that every kind's
/// file has. `mod replay: Replay;` takes `replay.rs` in, whose struct `Replay` was declared by `table!` and implements the trait
/// `SourceKind`; in TOML the kind is called `replay`. The trait must have `fn check(&mut self, &Key, &mut Checker)`.
macro_rules! family {
    (
        $(#[doc = $text:literal])+
        $vis:vis enum $name:ident : $kind_trait:ident {
            $( mod $module:ident : $kind:ident ; )+
            $( each $each_vis:vis const $each:ident : $each_type:ty = $function:ident ; )?
        }
    ) => {
        $( pub mod $module; )+

        $(#[doc = $text])+
        #[derive(Debug, Clone, PartialEq)]
        // A configuration has few of them, and none in a path that counts.
        #[allow(clippy::large_enum_variant)]
        $vis enum $name { $( $kind($module::$kind) ),+ }

        impl $name {
            /// Returns what this kind does.
            pub fn kind(&self) -> &dyn $kind_trait {
                match self { $( Self::$kind(kind) => kind ),+ }
            }

            /// Returns the kind's name in TOML.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$kind(_) => stringify!($module) ),+ }
            }

            /// Checks the kind that stands at `key`, the key of the family.
            pub fn check(&mut self, key: &$crate::schema::Key, checker: &mut $crate::schema::Checker) {
                let key = key.child(self.name());
                match self { $( Self::$kind(kind) => {
                    $crate::schema::expanded::Table::check_ranges(kind, &key, checker);
                    $kind_trait::check(kind, &key, checker);
                } ),+ }
            }
        }

        family!(@each $name [$($module)+] $( $each_vis $each $each_type, $function )?);

        impl $crate::schema::expanded::Family for $name {
            const NAMES: &'static [&'static str] = &[$( stringify!($module) ),+];

            fn doc_without(name: &str) -> $crate::schema::FamilyDoc {
                // Described one by one, because the one that is left out may have this description in its own.
                type Described = (&'static str, fn() -> $crate::schema::TableDoc);
                let kinds: &[Described] =
                    &[$( (stringify!($module), <$module::$kind as $crate::schema::expanded::Table>::doc) ),+];
                let wanted = kinds.iter().filter(|(kind, _)| *kind != name);
                let kind = |(name, doc): &Described| $crate::schema::KindDoc { name: *name, table: doc() };
                $crate::schema::FamilyDoc {
                    optional: false,
                    text: $crate::schema::expanded::joined(&[$($text),+]),
                    kinds: wanted.map(kind).collect(),
                }
            }

            fn read<'de, D: serde::Deserializer<'de>>(name: &str, deserializer: D) -> Result<Self, D::Error> {
                $(
                    if name == stringify!($module) {
                        return serde::Deserialize::deserialize(deserializer).map(Self::$kind);
                    }
                )+
                Err($crate::schema::expanded::expected_one(Self::NAMES))
            }

            fn from_name(name: &str) -> Option<Self> {
                $(
                    if name == stringify!($module) {
                        return $crate::schema::expanded::from_nothing().map(Self::$kind);
                    }
                )+
                None
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
                let keys = match self { $( Self::$kind(kind) => $crate::schema::Value::to_toml(kind) ),+ };
                format!("{{ {} = {keys} }}", self.name())
            }
            fn children() -> $crate::schema::Children {
                $crate::schema::Children::Family(<Self as $crate::schema::expanded::Family>::doc())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use $crate::schema::expanded::{Family, KeySeed, KindDeserializer, expected_one};
                struct FamilyVisitor;
                impl<'de> serde::de::Visitor<'de> for FamilyVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(f, "a table with one of {}", $name::NAMES.join(", "))
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$name, E> {
                        if !$name::NAMES.contains(&name) {
                            return Err(E::unknown_variant(name, $name::NAMES));
                        }
                        $name::from_name(name).ok_or_else(|| {
                            E::custom(format_args!("`{name}` has keys that must be written: {name} = {{ ... }}"))
                        })
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let next = |map: &mut A| map.next_key_seed(KeySeed { keys: &[], kinds: $name::NAMES });
                        let Some(name) = next(&mut map)? else { return Err(expected_one($name::NAMES)) };
                        let kind = map.next_value_seed(KindDeserializer::<$name>::new(name))?;
                        match next(&mut map)? {
                            None => Ok(kind),
                            Some(_) => Err(expected_one($name::NAMES)),
                        }
                    }
                }
                deserializer.deserialize_any(FamilyVisitor)
            }
        }
    };
    (@each $name:ident [$($module:ident)+]) => {};
    (@each $name:ident [$($module:ident)+] $vis:vis $each:ident $type:ty, $function:ident) => {
        impl $name {
            /// The function of that name in each kind's file.
            $vis const $each: &[$type] = &[$( $module::$function ),+];
        }
    };
}

pub(crate) use family;

/// Reads the keys of one kind.
pub struct KindDeserializer<F> {
    name: &'static str,
    family: PhantomData<F>,
}

impl<F> KindDeserializer<F> {
    pub fn new(name: &'static str) -> Self {
        Self { name, family: PhantomData }
    }
}

impl<'de, F: Family> DeserializeSeed<'de> for KindDeserializer<F> {
    type Value = F;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<F, D::Error> {
        F::read(self.name, deserializer)
    }
}

/// The error for none or several kinds where one belongs.
pub fn expected_one<E: Error>(names: &[&str]) -> E {
    E::custom(format_args!("write exactly one of {}", crate::text::listed(names)))
}
