//! What a key's type says of itself: its name in the reference, how a value is written in TOML, what may be left out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Children, Form};

/// The type of a key.
pub trait Value: Sized {
    /// Returns the type's name in the reference.
    fn type_name() -> String;

    /// Returns what the value can be.
    fn form() -> Form;

    /// Returns the value as TOML text; empty if it has no short form.
    fn to_toml(&self) -> String {
        String::new()
    }

    /// Returns the words that may be written, as TOML.
    fn choices() -> Vec<String> {
        Vec::new()
    }

    /// Returns the value of a key that is not written; `None` if the key must be written.
    fn missing() -> Option<Self> {
        None
    }

    /// Returns what stands below the key.
    fn children() -> Children {
        Children::None
    }
}

macro_rules! integer {
    ($($type:ty: $high:expr),+) => { $(
        impl Value for $type {
            fn type_name() -> String {
                "integer".to_owned()
            }
            fn form() -> Form {
                Form::Integer { low: 0, high: $high }
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}

// TOML has integers of 64 bits with a sign. A `usize` is the same on every machine, and so is the schema.
integer!(u8: 0xff, u16: 0xffff, u32: 0xffff_ffff, u64: i64::MAX, usize: i64::MAX);

impl Value for f64 {
    fn type_name() -> String {
        "number".to_owned()
    }
    fn form() -> Form {
        Form::Number
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for f32 {
    fn type_name() -> String {
        "number".to_owned()
    }
    fn form() -> Form {
        Form::Number
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for bool {
    fn type_name() -> String {
        "boolean".to_owned()
    }
    fn form() -> Form {
        Form::Boolean
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
    fn choices() -> Vec<String> {
        vec!["true".to_owned(), "false".to_owned()]
    }
}

impl Value for String {
    fn type_name() -> String {
        "string".to_owned()
    }
    fn form() -> Form {
        Form::Text
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for PathBuf {
    fn type_name() -> String {
        "path".to_owned()
    }
    fn form() -> Form {
        Form::Text
    }
    fn to_toml(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl<T: Value> Value for Option<T> {
    fn type_name() -> String {
        T::type_name()
    }
    fn form() -> Form {
        T::form()
    }
    fn to_toml(&self) -> String {
        self.as_ref().map(Value::to_toml).unwrap_or_default()
    }
    fn choices() -> Vec<String> {
        T::choices()
    }
    fn missing() -> Option<Self> {
        Some(None)
    }
    fn children() -> Children {
        T::children()
    }
}

impl<T: Value> Value for Vec<T> {
    fn type_name() -> String {
        format!("list of {}s", T::type_name())
    }
    fn form() -> Form {
        Form::List { of: Box::new(T::form()), length: None }
    }
    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(Value::to_toml).collect();
        format!("[{}]", items.join(", "))
    }
    fn choices() -> Vec<String> {
        T::choices()
    }
    fn children() -> Children {
        match T::children() {
            Children::None => Children::None,
            other => Children::List(Box::new(other)),
        }
    }
}

impl<T: Value, const N: usize> Value for [T; N] {
    fn type_name() -> String {
        format!("list of {N} {}s", T::type_name())
    }
    fn form() -> Form {
        Form::List { of: Box::new(T::form()), length: Some(N) }
    }
    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(Value::to_toml).collect();
        format!("[{}]", items.join(", "))
    }
}

/// A table whose keys are names that the user chooses.
impl<T: Value> Value for BTreeMap<String, T> {
    fn type_name() -> String {
        "table".to_owned()
    }
    fn form() -> Form {
        Form::Map(Box::new(T::form()))
    }
    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(|(name, value)| format!("{name} = {}", value.to_toml())).collect();
        if items.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", items.join(", ")) }
    }
    fn children() -> Children {
        match T::children() {
            Children::None => Children::None,
            other => Children::Named(Box::new(other)),
        }
    }
}
