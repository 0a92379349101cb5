//! Labels in JSON: an array, or an object with the index as name or as value, as Keras, COCO and Hugging Face write them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::Problem;
use super::order::{Entries, Entry};

/// Members of an object around the labels.
const MEMBERS: [&str; 7] = ["id2label", "labels", "names", "classes", "categories", "label_names", "class_names"];
/// Members of an object that describes one class.
const NAMES: [&str; 5] = ["display_name", "name", "label", "class", "title"];
const INDICES: [&str; 4] = ["id", "index", "class_id", "class_index"];
const EXPECTED: &str =
    "write an array of strings, such as [\"idle\", \"run\"], or an object, such as {\"0\": \"idle\"}";

/// A JSON value. An object keeps the order of its members, and those that are there twice.
enum Node {
    Text(String),
    Number(u64),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    Other,
}

/// Returns whether the text is meant as JSON; `[idle]` in each line is not.
pub(super) fn looks_like(text: &str) -> bool {
    let between = |start, end| text.starts_with(start) && text.ends_with(end);
    let in_brackets = |line: &str| line.trim().starts_with('[') && line.trim().ends_with(']');
    let lines_of_brackets = text.lines().count() > 1 && text.lines().all(in_brackets);
    between('{', '}') || between('[', ']') && !lines_of_brackets
}

pub(super) fn entries(text: &str) -> Result<Entries, Problem> {
    let values: Result<Vec<Node>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    let mut values = values.map_err(|error| {
        let python =
            if text.contains('\'') { "; Python writes JSON with json.dump, which uses double quotes" } else { "" };
        Problem::at(error.line(), format!("it looks like JSON, but: {error}{python}"))
    })?;
    // An object a line.
    let node = if values.len() == 1 { values.remove(0) } else { Node::List(values) };
    node_entries(node).ok_or_else(|| Problem::new(format!("there are no labels in this JSON; {EXPECTED}")))
}

fn node_entries(node: Node) -> Option<Entries> {
    match node {
        Node::List(list) => {
            let list = list.into_iter().map(described).collect::<Option<_>>()?;
            Some(Entries { list, form: ", a JSON array".into(), ..Entries::default() })
        }
        Node::Object(members) => {
            let inner = MEMBERS.iter().find_map(|name| members.iter().position(|(key, _)| key == name));
            if let Some(inner) = inner.filter(|at| matches!(members[*at].1, Node::List(_) | Node::Object(_))) {
                let (name, node) = members.into_iter().nth(inner)?;
                let inner = node_entries(node)?;
                return Some(Entries { form: format!(", `{name}` in a JSON object"), ..inner });
            }
            let list = members.into_iter().map(member).collect::<Option<_>>()?;
            Some(Entries { list, form: ", a JSON object".into(), ..Entries::default() })
        }
        _ => None,
    }
}

/// Returns the entry of a member such as `"0": "idle"`, `"idle": 0` or `"0": ["n0123", "idle"]`.
fn member((key, value): (String, Node)) -> Option<Entry> {
    match value {
        Node::Number(number) => Some(Entry { number: Some(number), name: key }),
        Node::Text(name) => Some(Entry { number: Some(key.trim().parse().ok()?), name }),
        Node::List(list) => {
            let Node::Text(name) = list.into_iter().next_back()? else { return None };
            Some(Entry { number: Some(key.trim().parse().ok()?), name })
        }
        node @ Node::Object(_) => Some(Entry { number: Some(key.trim().parse().ok()?), ..described(node)? }),
        Node::Other => None,
    }
}

/// Returns the entry of a string, or of an object such as `{"id": 1, "name": "person"}`.
fn described(node: Node) -> Option<Entry> {
    match node {
        Node::Text(name) => Some(Entry { number: None, name }),
        Node::Object(members) => {
            let find = |known: &[&str]| known.iter().find_map(|name| members.iter().find(|(key, _)| key == name));
            let Some((_, Node::Text(name))) = find(&NAMES) else { return None };
            let number = match find(&INDICES) {
                Some((_, Node::Number(number))) => Some(*number),
                _ => None,
            };
            Some(Entry { number, name: name.clone() })
        }
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.trim().to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}
