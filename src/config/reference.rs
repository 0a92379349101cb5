//! The reference of keys, made from the tables and kinds as they are declared: docs/config.md and config/edgewatt.toml.
//!
//! Owns the layout of the two files, and the values of the example pipeline in the second. Whatever a table or a kind says
//! of itself appears in both; there is no other text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Root;
use crate::schema::expanded::Table;
use crate::schema::{Children, FamilyDoc, KeyDoc, TableDoc};

/// The name that stands for the user's own, by the table that it is below of.
const NAMES: [(&str, &str); 3] = [("power.meters", "board"), ("delegates", "tpu"), ("pipelines", "shoulder")];
/// What is written in config/edgewatt.toml; every other key is shown behind a `#`.
const WRITTEN: [(&str, &str); 17] = [
    ("mqtt.broker", "\"mqtt://127.0.0.1:1883\""),
    ("pipelines.shoulder.source.replay.path", "\"../models/shoulder_recording.csv\""),
    ("pipelines.shoulder.source.replay.records.channels", "[\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"]"),
    ("pipelines.shoulder.source.replay.records.rate_hz", "50.0"),
    ("pipelines.shoulder.source.replay.records.time", "\"time_s\""),
    ("pipelines.shoulder.source.replay.records.truth", "\"exercise\""),
    ("pipelines.shoulder.window.samples", "200"),
    ("pipelines.shoulder.window.hop", "50"),
    (
        "pipelines.shoulder.features.standardize.mean",
        "[-0.0103730215, 0.37591997, -0.14229234, 0.024128303, -0.0027944343, 0.012355718]",
    ),
    (
        "pipelines.shoulder.features.standardize.std",
        "[0.919476, 0.4962763, 0.54464763, 1.0056895, 2.530207, 1.0788015]",
    ),
    ("pipelines.shoulder.model.path", "\"../models/shoulder_int8.tflite\""),
    ("pipelines.shoulder.model.labels", "\"../models/labels.txt\""),
    ("pipelines.shoulder.delegate", "\"xnnpack\""),
    ("pipelines.shoulder.decision.classify.smooth", "3"),
    ("pipelines.shoulder.source.replay", ""),
    ("pipelines.shoulder.features.standardize", ""),
    ("pipelines.shoulder.decision.classify", ""),
];
const WIDTH: usize = 118;

/// Returns docs/config.md.
pub fn markdown() -> String {
    let mut page = Page { text: String::new(), form: Form::Markdown, seen: BTreeMap::new() };
    page.text.push_str(concat!(
        "<!-- Made from the program's own declarations: EDGEWATT_BLESS=1 cargo test --test docs -->\n\n# Configuration\n\n",
        "edgewatt reads one TOML file. This page lists every key. [config/edgewatt.toml](../config/edgewatt.toml) is the same\n",
        "as a file to edit. Relative paths count from the folder of the file. `edgewatt check -c FILE` finds what is wrong,\n",
        "with line and column, without running.\n",
    ));
    page.table(&[], &Root::doc());
    page.text
}

/// Returns config/edgewatt.toml.
pub fn example() -> String {
    let mut page = Page { text: String::new(), form: Form::Toml, seen: BTreeMap::new() };
    page.text.push_str(concat!(
        "# edgewatt.toml: every key, with its default and unit.\n#\n",
        "# A line that begins with `#key = ` shows a key that can be left out: at its default or, if the default is not one\n",
        "# value, at an example. A header that begins with `#[` shows a table that can be left out. Relative paths count from\n",
        "# the folder of this file. `edgewatt check -c FILE` finds what is wrong, with line and column, without running.\n",
    ));
    page.table(&[], &Root::doc());
    page.text
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Markdown,
    Toml,
}

struct Page {
    text: String,
    form: Form,
    /// Where each table was shown first.
    seen: BTreeMap<&'static str, String>,
}

impl Page {
    /// A table: its keys, then the tables below it.
    fn table(&mut self, path: &[String], table: &TableDoc) {
        let name = path.join(".");
        let below: Vec<&KeyDoc> = table.keys.iter().filter(|key| key.children != Children::None).collect();
        let keys: Vec<&KeyDoc> = table.keys.iter().filter(|key| key.children == Children::None).collect();
        if !path.is_empty() {
            if let Some(first) = self.seen.get(table.name) {
                let first = first.clone();
                return self.same_as(&name, &first);
            }
            self.seen.insert(table.name, name.clone());
            self.header(&name, &table.text, keys.is_empty() && table.kinds.is_none());
        }
        self.keys(&name, &keys);
        for key in below {
            let mut path = path.to_vec();
            path.push(key.key.to_owned());
            self.children(&path, key, &key.children);
        }
        if let Some(kinds) = &table.kinds {
            self.family(path, kinds);
        }
    }

    fn children(&mut self, path: &[String], key: &KeyDoc, children: &Children) {
        match children {
            Children::None => {}
            Children::Table(table) => self.table(path, table),
            Children::Family(family) => self.family(path, family),
            Children::Named(below) => {
                self.paragraph(&key.text);
                let place = path.join(".");
                let name = NAMES.iter().find(|(table, _)| *table == place).map_or("name", |(_, name)| name);
                let shown = if self.form == Form::Markdown { "NAME" } else { name };
                self.children(&[path, &[shown.to_owned()]].concat(), key, below);
            }
            Children::List(below) => self.children(path, key, below),
        }
    }

    fn family(&mut self, path: &[String], family: &FamilyDoc) {
        self.paragraph(&family.text);
        for kind in &family.kinds {
            self.table(&[path, &[kind.name.to_owned()]].concat(), &kind.table);
        }
    }

    fn paragraph(&mut self, text: &str) {
        match self.form {
            Form::Markdown => _ = write!(self.text, "\n{}\n", wrapped(text, "", WIDTH)),
            Form::Toml => _ = write!(self.text, "\n{}\n", wrapped(text, "# ", WIDTH)),
        }
    }

    fn same_as(&mut self, name: &str, first: &str) {
        match self.form {
            Form::Markdown => {
                _ = write!(self.text, "\n## {name}\n\nThe same keys as under [{first}](#{}).\n", anchor(first))
            }
            Form::Toml => _ = write!(self.text, "\n# [{name}] takes the same keys as [{first}].\n"),
        }
    }

    fn header(&mut self, name: &str, text: &str, is_empty: bool) {
        match self.form {
            Form::Markdown => _ = write!(self.text, "\n## {name}\n\n{}\n", wrapped(text, "", WIDTH)),
            Form::Toml => {
                let is_active = WRITTEN.iter().any(|(key, _)| key.starts_with(&format!("{name}.")) || *key == name);
                // A list of kinds is written as one element of an array.
                let list = name.contains(".features.") || name.contains(".frontend.");
                let header = match list {
                    true => {
                        let (array, kind) = name.rsplit_once('.').unwrap_or((name, ""));
                        format!("[[{array}]]\n{kind}")
                    }
                    false => format!("[{name}]"),
                };
                let _ = write!(self.text, "\n{}\n", wrapped(text, "# ", WIDTH));
                if list || (is_empty && !is_active) {
                    // Shown in one line below, or not at all.
                } else {
                    let _ = writeln!(self.text, "{}{header}", if is_active { "" } else { "#" });
                }
            }
        }
    }

    fn keys(&mut self, table: &str, keys: &[&KeyDoc]) {
        if keys.is_empty() {
            return;
        }
        match self.form {
            Form::Markdown => {
                self.text.push_str(
                    "\n| key | type | unit | default | allowed | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
                );
                for key in keys {
                    let [default, allowed, meaning] =
                        [&default(key), &allowed(key), &key.text].map(|text| escaped(text));
                    let (name, type_name, unit) = (key.key, &key.type_name, key.unit.unwrap_or(""));
                    let _ =
                        writeln!(self.text, "| `{name}` | {type_name} | {unit} | {default} | {allowed} | {meaning} |");
                }
            }
            Form::Toml if table.contains(".features.") || table.contains(".frontend.") => self.element(table, keys),
            Form::Toml => {
                for key in keys {
                    let name = format!("{table}.{}", key.key);
                    let written = WRITTEN.iter().find(|(written, _)| *written == name).map(|(_, value)| *value);
                    let value = written.or(key.default.as_deref()).or(key.example).unwrap_or("\"...\"");
                    let _ = writeln!(self.text, "{}", wrapped(&comment(key), "# ", WIDTH));
                    let hidden = if written.is_some() { "" } else { "#" };
                    let _ = writeln!(self.text, "{hidden}{} = {value}", key.key);
                }
            }
        }
    }

    /// One element of a list of kinds, in one line.
    fn element(&mut self, table: &str, keys: &[&KeyDoc]) {
        let (array, kind) = table.rsplit_once('.').unwrap_or((table, ""));
        let mut is_active = false;
        let mut values = Vec::new();
        for key in keys {
            let name = format!("{table}.{}", key.key);
            let written = WRITTEN.iter().find(|(written, _)| *written == name).map(|(_, value)| *value);
            is_active |= written.is_some();
            let value = written.or(key.default.as_deref()).or(key.example).unwrap_or("\"...\"");
            values.push(format!("{} = {value}", key.key));
            let _ = writeln!(self.text, "{}", wrapped(&format!("{}: {}", key.key, comment(key)), "# ", WIDTH));
        }
        let hidden = if is_active { "" } else { "#" };
        let _ = writeln!(self.text, "{hidden}[[{array}]]\n{hidden}{kind} = {{ {} }}", values.join(", "));
    }
}

/// The default, in words or as TOML.
fn default(key: &KeyDoc) -> String {
    match (key.otherwise, &key.default) {
        (Some(words), _) => words.to_owned(),
        (None, Some(value)) => format!("`{value}`"),
        (None, None) if key.required => "required".to_owned(),
        (None, None) => "none".to_owned(),
    }
}

/// What may be written, in words.
fn allowed(key: &KeyDoc) -> String {
    match (key.limits, &key.range) {
        (Some(words), _) => words.to_owned(),
        (None, Some((low, high))) => format!("{low} to {high}"),
        (None, None) => key.choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
    }
}

/// The sentences above a key in edgewatt.toml.
fn comment(key: &KeyDoc) -> String {
    let mut text = key.text.clone();
    let allowed = allowed(key).replace('`', "");
    let is_bool = key.type_name == "boolean";
    if let Some(unit) = key.unit {
        let _ = write!(text, " Unit: {unit}.");
    }
    if !allowed.is_empty() && !is_bool {
        let _ = write!(text, " Allowed: {allowed}.");
    }
    if let Some(words) = key.otherwise {
        let _ = write!(text, " Default: {words}.");
    } else if key.required {
        text.push_str(" Required.");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('<', "&lt;").replace('|', "\\|").replace("\n\n", " ")
}

/// The anchor that Markdown makes from a header.
fn anchor(header: &str) -> String {
    header.to_lowercase().chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// Text in lines of at most `width`, each of which begins with `prefix`.
fn wrapped(text: &str, prefix: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split("\n\n") {
        if !lines.is_empty() {
            lines.push(prefix.trim_end().to_owned());
        }
        let mut line = prefix.to_owned();
        for word in paragraph.split_whitespace() {
            if line.len() > prefix.len() && line.len() + 1 + word.len() > width {
                lines.push(std::mem::replace(&mut line, prefix.to_owned()));
            }
            if line.len() > prefix.len() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines.join("\n")
}
