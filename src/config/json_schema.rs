//! The JSON Schema of the configuration, for editors: made from the tables and kinds as they are declared.
//!
//! It refuses unknown keys, wrong types and values out of range. The checks between keys are the program's alone, and two
//! types are one in JSON: it takes 1.0 for an integer, and a date for a string.

use serde_json::{Map, Value, json};

use super::Root;
use super::reference::comment;
use crate::schema::expanded::Table;
use crate::schema::{Children, FamilyDoc, Form, KeyDoc, TableDoc};

/// Returns the schema, of draft 7, as text. In a `fragment`, which is merged over a configuration, no key must be written.
pub fn json_schema(fragment: bool) -> String {
    let mut schema = Writer { fragment }.table(&Root::doc());
    let title = if fragment { "A fragment of an edgewatt configuration" } else { "edgewatt configuration" };
    set(&mut schema, "$schema", "http://json-schema.org/draft-07/schema#");
    set(&mut schema, "title", title);
    format!("{schema:#}\n")
}

struct Writer {
    fragment: bool,
}

impl Writer {
    fn table(&self, table: &TableDoc) -> Value {
        let mut properties: Map<String, Value> =
            table.keys.iter().map(|key| (key.key.to_owned(), self.key(key))).collect();
        let required: Vec<&str> = table.keys.iter().filter(|key| key.required).map(|key| key.key).collect();
        let mut schema = json!({ "type": "object", "description": plain(&table.text), "additionalProperties": false });
        if let Some(family) = &table.kinds {
            properties.extend(self.kinds(family));
            let one: Vec<Value> = family.kinds.iter().map(|kind| json!({ "required": [kind.name] })).collect();
            if self.fragment || family.optional {
                let two = json!({ "anyOf": pairs(&one) });
                set(&mut schema, "not", two);
            } else {
                set(&mut schema, "oneOf", one);
            }
        }
        set(&mut schema, "properties", properties);
        if !required.is_empty() && !self.fragment {
            set(&mut schema, "required", required);
        }
        schema
    }

    fn kinds(&self, family: &FamilyDoc) -> impl Iterator<Item = (String, Value)> {
        family.kinds.iter().map(|kind| (kind.name.to_owned(), self.table(&kind.table)))
    }

    /// One kind: its name alone if none of its keys must be written, or a table with one key.
    fn family(&self, family: &FamilyDoc) -> Value {
        let kinds: Map<String, Value> = self.kinds(family).collect();
        let table = json!({
            "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1, "properties": kinds,
        });
        let needs_no_key = |table: &TableDoc| {
            table.kinds.as_ref().is_none_or(|kinds| kinds.optional) && !table.keys.iter().any(|key| key.required)
        };
        let names: Vec<&str> =
            family.kinds.iter().filter(|kind| needs_no_key(&kind.table)).map(|kind| kind.name).collect();
        if names.is_empty() { table } else { json!({ "anyOf": [table, { "type": "string", "enum": names }] }) }
    }

    fn children(&self, children: &Children, form: &Form) -> Value {
        match children {
            Children::None => of_form(form),
            Children::Table(table) => self.table(table),
            Children::Family(family) => self.family(family),
            Children::Named(below) => json!({ "type": "object", "additionalProperties": self.children(below, form) }),
            Children::List(below) => json!({ "type": "array", "items": self.children(below, form) }),
        }
    }

    fn key(&self, key: &KeyDoc) -> Value {
        let mut schema = self.children(&key.children, &key.form);
        set(&mut schema, "description", plain(&comment(key)));
        if let Some((low, high)) = &key.range {
            for (name, bound) in [("minimum", low), ("maximum", high)] {
                if let Ok(bound) = serde_json::from_str::<Value>(bound) {
                    set(&mut schema, name, bound);
                }
            }
        }
        // A default that has words for it is not one value.
        let default = key.default.as_ref().filter(|_| key.otherwise.is_none() && key.children == Children::None);
        if let Some(default) = default.and_then(|toml| value(toml)) {
            set(&mut schema, "default", default);
        }
        schema
    }
}

fn of_form(form: &Form) -> Value {
    match form {
        Form::Integer { low, high: i64::MAX } => json!({ "type": "integer", "minimum": low }),
        Form::Integer { low, high } => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Form::Number => json!({ "type": "number" }),
        Form::Positive => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Form::Boolean => json!({ "type": "boolean" }),
        Form::Text => json!({ "type": "string" }),
        Form::Words(words) => json!({ "type": "string", "enum": words }),
        Form::List { of, length: None } => json!({ "type": "array", "items": of_form(of) }),
        Form::List { of, length: Some(length) } => {
            json!({ "type": "array", "items": of_form(of), "minItems": length, "maxItems": length })
        }
        Form::Map(of) => json!({ "type": "object", "additionalProperties": of_form(of) }),
        Form::Keyed(key, of) => {
            let properties = Map::from_iter([((*key).to_owned(), of_form(of))]);
            json!({ "type": "object", "properties": properties, "required": [key], "additionalProperties": false })
        }
        Form::Any(forms) => json!({ "anyOf": forms.iter().map(of_form).collect::<Vec<_>>() }),
        Form::Table => json!({ "type": "object" }),
    }
}

/// Every two of the schemas.
fn pairs(schemas: &[Value]) -> Vec<Value> {
    let with_later = |(index, one): (usize, &Value)| -> Vec<Value> {
        schemas.iter().skip(index + 1).map(|other| json!({ "allOf": [one, other] })).collect()
    };
    schemas.iter().enumerate().flat_map(with_later).collect()
}

fn set(schema: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(key.to_owned(), value.into());
    }
}

/// Returns a default, which is written as TOML.
fn value(toml: &str) -> Option<Value> {
    let mut table: Map<String, Value> = toml::from_str(&format!("value = {toml}")).ok()?;
    table.remove("value")
}

/// Returns a text as one paragraph.
fn plain(text: &str) -> String {
    text.replace("\n\n", " ")
}
