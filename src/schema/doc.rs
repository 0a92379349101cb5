//! What the reference of keys is made from: the tables, keys and kinds as they are declared.

use super::Value;

/// One table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableDoc {
    /// The name of the Rust type: the same table can stand in several places.
    pub name: &'static str,
    pub text: String,
    pub keys: Vec<KeyDoc>,
    /// Kinds of which one stands among the keys.
    pub kinds: Option<FamilyDoc>,
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyDoc {
    pub key: &'static str,
    pub text: String,
    pub type_name: String,
    pub form: Form,
    /// The key must be written.
    pub required: bool,
    /// The default as TOML.
    pub default: Option<String>,
    /// The default in words, where it is no single value.
    pub otherwise: Option<&'static str>,
    /// A value to show where there is no default to show, as TOML.
    pub example: Option<&'static str>,
    pub unit: Option<&'static str>,
    /// Lowest and highest value.
    pub range: Option<(String, String)>,
    /// What may be written, in words, where types, choices and ranges do not say it.
    pub limits: Option<&'static str>,
    pub choices: Vec<String>,
    pub children: Children,
}

/// What a value can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    Integer {
        low: i64,
        high: i64,
    },
    Number,
    /// A number above 0.
    Positive,
    Boolean,
    Text,
    /// One of several words.
    Words(Vec<String>),
    List {
        of: Box<Form>,
        /// The number of elements; `None`: any.
        length: Option<usize>,
    },
    /// Values under names that the user chooses.
    Map(Box<Form>),
    /// A table with this one key.
    Keyed(&'static str, Box<Form>),
    Any(Vec<Form>),
    /// A table or a kind: see [`Children`].
    Table,
}

/// What stands below a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Children {
    None,
    Table(TableDoc),
    /// One kind of the family.
    Family(FamilyDoc),
    /// Tables under names that the user chooses.
    Named(Box<Children>),
    List(Box<Children>),
}

/// A family and its kinds.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyDoc {
    /// Among the keys of a table, none of the kinds may be written, too.
    pub optional: bool,
    pub text: String,
    pub kinds: Vec<KindDoc>,
}

/// One kind of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct KindDoc {
    pub name: &'static str,
    pub table: TableDoc,
}

impl KeyDoc {
    pub fn new<T: Value>(key: &'static str, text: &[&str]) -> Self {
        Self {
            key,
            text: joined(text),
            type_name: T::type_name(),
            form: T::form(),
            required: T::missing().is_none(),
            default: None,
            otherwise: None,
            example: None,
            unit: None,
            range: None,
            limits: None,
            choices: T::choices(),
            children: T::children(),
        }
    }

    /// Sets the default, as TOML.
    pub fn default(self, toml: String) -> Self {
        Self { required: false, default: Some(toml), ..self }
    }

    /// Sets how the default is written, where the usual form would read badly.
    pub fn shown(self, toml: &'static str) -> Self {
        Self { default: self.default.map(|_| toml.to_owned()), ..self }
    }

    /// Sets the words for what happens without the key.
    pub fn otherwise(self, words: &'static str) -> Self {
        Self { otherwise: Some(words), ..self }
    }

    /// Sets a value to show, as TOML.
    pub fn example(self, toml: &'static str) -> Self {
        Self { example: Some(toml), ..self }
    }

    pub fn unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Sets the range that the key's check enforces.
    pub fn range(self, low: impl std::fmt::Display, high: impl std::fmt::Display) -> Self {
        Self { range: Some((low.to_string(), high.to_string())), ..self }
    }

    /// Sets what may be written, in words.
    pub fn limits(self, words: &'static str) -> Self {
        Self { limits: Some(words), ..self }
    }
}

/// Returns the lines of a doc comment as one text; an empty line separates paragraphs.
pub fn joined(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines.iter().map(|line| line.trim()) {
        let separator = match (text.is_empty() || text.ends_with('\n'), line.is_empty()) {
            (true, _) => "",
            (false, true) => "\n\n",
            (false, false) => " ",
        };
        text.push_str(separator);
        text.push_str(line);
    }
    text
}

/// Returns a default as TOML; its type is the key's.
pub fn typed_default<T: Value>(default: T) -> String {
    default.to_toml()
}
