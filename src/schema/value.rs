//! What a key's type says of itself: its name in the reference, how a value is written in TOML, what may be left out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Children;

/// The type of a key.
pub trait Value: Sized {
    /// Returns the type's name in the reference.
    fn type_name() -> String;

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

macro_rules! scalar {
    ($name:literal: $($type:ty),+) => { $(
        impl Value for $type {
            fn type_name() -> String {
                $name.to_owned()
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}

scalar!("integer": u8, u16, u32, u64, usize);

impl Value for f64 {
    fn type_name() -> String {
        "number".to_owned()
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for f32 {
    fn type_name() -> String {
        "number".to_owned()
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for bool {
    fn type_name() -> String {
        "boolean".to_owned()
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
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for PathBuf {
    fn type_name() -> String {
        "path".to_owned()
    }
    fn to_toml(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl<T: Value> Value for Option<T> {
    fn type_name() -> String {
        T::type_name()
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
