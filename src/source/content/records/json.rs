//! Reads a JSON object straight into the parser's buffers, by the names or pointers of its fields.
//!
//! Each level is read once and nothing is kept of fields that are not used. Allocates only for a bad record, and for a
//! string with escapes.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Role;
use super::number::{Decimal, number};
use super::reject::shown;

/// The fields in use, as a tree of the levels on which they are.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// The key, or the place in an array.
    name: String,
    place: Option<usize>,
    role: Option<Role>,
    children: Vec<usize>,
}

impl Tree {
    /// Each field is named by its key; a name that begins with `/` also is a JSON pointer (RFC 6901).
    pub(super) fn new<'a>(fields: impl Iterator<Item = (&'a str, Role)>) -> Self {
        let mut tree = Self { nodes: vec![Node::default()] };
        for (name, role) in fields {
            tree.add(std::iter::once(name.to_owned()), role);
            if let Some(pointer) = name.strip_prefix('/') {
                tree.add(pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")), role);
            }
        }
        tree
    }

    fn add(&mut self, path: impl Iterator<Item = String>, role: Role) {
        let mut at = 0;
        for name in path {
            let known = self.nodes[at].children.iter().copied().find(|child| self.nodes[*child].name == name);
            at = known.unwrap_or_else(|| {
                let child = self.nodes.len();
                self.nodes.push(Node { place: name.parse().ok(), name, ..Node::default() });
                self.nodes[at].children.push(child);
                child
            });
        }
        self.nodes[at].role.get_or_insert(role);
    }

    /// Returns the child of a node that `is` accepts. Looks at the one after `hint` first, because records mostly have the
    /// same order.
    fn child(&self, node: usize, hint: &mut usize, is: impl Fn(&Node) -> bool) -> Option<usize> {
        let children = &self.nodes[node].children;
        if children.get(*hint).is_none_or(|child| !is(&self.nodes[*child])) {
            *hint = children.iter().position(|child| is(&self.nodes[*child]))?;
        }
        let child = children.get(*hint).copied();
        *hint += 1;
        child
    }

    /// Returns how many levels and fields there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// The time of a record, as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum JsonTime<'de> {
    Whole(i64),
    Number(f64),
    Text(&'de str),
}

/// What is read of one object.
pub(super) struct JsonRecord<'a, 'de> {
    pub tree: &'a Tree,
    pub channels: &'a [String],
    pub decimal: Decimal,
    /// NaN marks channels that were not there; a JSON number is never NaN.
    pub values: &'a mut [f32],
    /// Which fields of the tree were there.
    pub seen: &'a mut [bool],
    pub time: Option<JsonTime<'de>>,
    /// A text of a time that has escapes.
    pub escaped_time: Option<String>,
    pub truth: Option<Cow<'de, str>>,
}

/// One level of the object.
struct Level<'r, 'a, 'de> {
    record: &'r mut JsonRecord<'a, 'de>,
    node: usize,
}

impl<'de> JsonRecord<'_, 'de> {
    /// Reads the object.
    ///
    /// # Errors
    /// It is not an object, or a value of a field in use is not what it should be; in words.
    pub(super) fn read(&mut self, line: &'de [u8]) -> Result<(), serde_json::Error> {
        self.values.fill(f32::NAN);
        self.seen.fill(false);
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        deserializer.deserialize_any(Level { record: self, node: 0 })?;
        deserializer.end()
    }

    fn field<A: MapAccess<'de>>(&mut self, child: usize, map: &mut A) -> Result<(), A::Error> {
        self.mark(child).map_err(A::Error::custom)?;
        match self.tree.nodes[child].role {
            Some(role) => {
                let value = map.next_value_seed(Scalar)?;
                self.set(role, value).map_err(A::Error::custom)
            }
            None => map.next_value_seed(Level { record: self, node: child }),
        }
    }

    fn mark(&mut self, child: usize) -> Result<(), String> {
        if std::mem::replace(&mut self.seen[child], true) {
            return Err(format!("the key `{}` is there twice", self.tree.nodes[child].name));
        }
        Ok(())
    }

    fn set(&mut self, role: Role, value: JsonScalar<'de>) -> Result<(), String> {
        match role {
            Role::Channel(channel) => {
                let name = &self.channels[channel];
                let parsed = match &value {
                    JsonScalar::Whole(whole) => Ok(*whole as f32),
                    JsonScalar::Number(number) => Ok(*number as f32),
                    JsonScalar::Text(text) => number(text.trim_ascii().as_bytes(), self.decimal).map_err(|_| {
                        format!("column `{name}`: {value} {}", super::number::explain(text, self.decimal))
                    }),
                    _ => Err(format!("column `{name}`: {value} is not a number")),
                };
                if !self.values[channel].is_nan() {
                    return Err(format!("column `{name}` is there twice"));
                }
                // A text such as `NaN`: as it would not be there otherwise.
                self.values[channel] = Some(parsed?).filter(|value| !value.is_nan()).unwrap_or(f32::INFINITY);
            }
            Role::Time => {
                if self.time.is_some() || self.escaped_time.is_some() {
                    return Err("the time is there twice".to_owned());
                }
                match value {
                    JsonScalar::Whole(whole) => self.time = Some(JsonTime::Whole(whole)),
                    JsonScalar::Number(number) => self.time = Some(JsonTime::Number(number)),
                    JsonScalar::Text(Cow::Borrowed(text)) => self.time = Some(JsonTime::Text(text)),
                    JsonScalar::Text(Cow::Owned(text)) => self.escaped_time = Some(text),
                    other => return Err(format!("the time: {other} is not a time")),
                }
            }
            Role::Truth => {
                self.truth = match value {
                    JsonScalar::Text(text) => Some(text),
                    JsonScalar::Bool(value) => Some(value.to_string().into()),
                    JsonScalar::Whole(value) => Some(value.to_string().into()),
                    JsonScalar::Number(value) => Some(value.to_string().into()),
                    JsonScalar::Null | JsonScalar::Object | JsonScalar::Array => None,
                }
            }
            Role::Gap | Role::Unused => {}
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with a field for each channel")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut hint = 0;
        while let Some(name) = map.next_key_seed(Key)? {
            match self.record.tree.child(self.node, &mut hint, |node| node.name == name) {
                Some(child) => self.record.field(child, &mut map)?,
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut hint = 0;
        for place in 0.. {
            let child = self.record.tree.child(self.node, &mut hint, |node| node.place == Some(place));
            let more = match child {
                Some(child) => seq.next_element_seed(Element { record: self.record, child })?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    // Something else stands where a level should be: the fields below are missing, which is found later.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// An element of an array.
struct Element<'r, 'a, 'de> {
    record: &'r mut JsonRecord<'a, 'de>,
    child: usize,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { record, child } = self;
        match record.tree.nodes[child].role {
            Some(role) => {
                let value = Scalar.deserialize(deserializer)?;
                record.set(role, value).map_err(D::Error::custom)
            }
            None => Level { record, node: child }.deserialize(deserializer),
        }
    }
}

/// A key; borrowed from the line if it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(text.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.to_owned().into())
    }
}

/// A value of a field in use.
enum JsonScalar<'de> {
    Null,
    Bool(bool),
    Whole(i64),
    Number(f64),
    Text(Cow<'de, str>),
    Object,
    Array,
}

impl fmt::Display for JsonScalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("`null`"),
            Self::Bool(value) => write!(f, "`{value}`"),
            Self::Whole(value) => write!(f, "`{value}`"),
            Self::Number(value) => write!(f, "`{value}`"),
            Self::Text(text) => write!(f, "the string {}", shown(text.as_bytes())),
            Self::Object => f.write_str("an object"),
            Self::Array => f.write_str("an array"),
        }
    }
}

struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = JsonScalar<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = JsonScalar<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(JsonScalar::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(JsonScalar::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(JsonScalar::Whole(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(JsonScalar::Number(value as f64), JsonScalar::Whole))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(JsonScalar::Number(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(JsonScalar::Text(text.into()))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(JsonScalar::Text(text.to_owned().into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(JsonScalar::Object)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(JsonScalar::Array)
    }
}
