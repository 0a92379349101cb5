//! The reference of keys, made from the tables and kinds as they are declared: docs/config.md and config/edgewatt.toml.
//!
//! Owns the layout of the two files, what docs/config.md says about files, and the values of the example pipeline in the
//! second. Whatever a table or a kind says of itself appears in both.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Root;
use crate::schema::expanded::Table;
use crate::schema::{Children, FamilyDoc, KeyDoc, TableDoc};

/// The name that stands for the user's own, by the table that it is below of.
const NAMES: [(&str, &str); 3] = [("power.meters", "board"), ("delegates", "tpu"), ("pipelines", "shoulder")];
/// Names that stand for the user's own below that of [`NAMES`], by the kind that they are shown with: one delegate has one
/// kind.
const KIND_NAMES: [(&str, &str); 3] = [
    ("delegates.tpu.cpu", "delegates.reference.cpu"),
    ("delegates.tpu.xnnpack", "delegates.fast.xnnpack"),
    ("delegates.tpu.litert", "delegates.lite.litert"),
];
/// What is written in config/edgewatt.toml; every other key is shown behind a `#`.
const WRITTEN: [(&str, &str); 18] = [
    ("version", "1"),
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
/// What docs/config.md says about the files, before the keys.
const FILES: &str = "
## Fragments

A configuration file that is named `edgewatt.toml` may have a folder `conf.d` next to it. Every file in it whose name ends
in `.toml` is a fragment, except hidden files. Fragments are merged over the file in the order of their names' bytes, so
`10-broker.toml` comes before `20-meters.toml`, and `9-x.toml` comes last:

- Tables are merged key by key. A value in a later file replaces the value before it; an array is replaced as a whole.
- Where one kind stands (a source, a decision, a meter, a delegate's kind), another kind in a later file replaces it.
- Nothing can be taken away: a table that a file has written stays.
- Relative paths count from the folder of the configuration file, in fragments too. A line means the same wherever it
  stands.
- An error names the file, line and column where the value was written; if it is about a whole table that is in several
  files, where the table begins first. A fragment that cannot be read is an error.

A file with another name, such as `demo.toml`, is read alone. So a copy can be tried out under another name.

## Versions

`version` is the version of the file's format. If a later edgewatt calls a key by another name, the version gets higher,
and `edgewatt migrate` brings the file and its fragments to it: comments and layout stay, and the old file is kept as
`FILE.bak-1`, or the next number that is free. `--dry-run` shows the difference and changes nothing. If a file or its
folder is read-only, the new text is printed instead. A file of a newer version is refused.

## Editors

`edgewatt schema` prints a JSON Schema of the configuration. It is also in `docs/edgewatt.schema.json`, and in the package
as `/usr/share/edgewatt/edgewatt.schema.json`. Editors with a TOML language server (taplo, or Even Better TOML for VS Code)
complete keys and mark mistakes if the file's first line is:

    #:schema /usr/share/edgewatt/edgewatt.schema.json

In a fragment no key is required: `edgewatt schema --fragment` prints the schema for it. JSON does not tell `1.0` from
`1`, and has no dates; that, and what depends on several keys, only `edgewatt check` finds.

## Keys
";

/// Returns docs/config.md.
pub fn markdown() -> String {
    let mut page = Page { text: String::new(), form: Form::Markdown, seen: BTreeMap::new() };
    page.text.push_str(concat!(
        "<!-- Made from the program's own declarations: EDGEWATT_BLESS=1 cargo test --lib config::reference -->\n\n# Configuration\n\n",
        "edgewatt reads a TOML file, `/etc/edgewatt/edgewatt.toml` if `-c` names no other, and its [fragments](#fragments).\n",
        "This page lists every key. [config/edgewatt.toml](../config/edgewatt.toml) is the same as a file to edit, and\n",
        "`config/template.toml` is a short file to start from. `edgewatt check -c FILE` lists the files that it reads, and finds\n",
        "what is wrong, with file, line and column, without running.\n",
    ));
    page.text.push_str(FILES);
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
        "# the folder of this file. `edgewatt check -c FILE` finds what is wrong, with line and column, without running.\n\n",
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
        // A list that has an example is shown as a whole, and then what can be in it.
        let is_shown = |key: &&KeyDoc| match key.children {
            Children::None => true,
            Children::List(_) => key.example.is_some(),
            _ => false,
        };
        let keys: Vec<&KeyDoc> = table.keys.iter().filter(is_shown).collect();
        if !path.is_empty() {
            if let Some(first) = self.seen.get(table.name) {
                let first = first.clone();
                return self.same_as(&name, &first);
            }
            self.seen.insert(table.name, name.clone());
            self.header(&name, &table.text, keys.is_empty() && table.kinds.is_none());
        }
        self.keys(&name, &keys, table.kinds.is_none());
        if let Some(kinds) = &table.kinds {
            self.paragraph(&kinds.text);
            self.kinds(path, kinds);
        }
        for key in below {
            let mut path = path.to_vec();
            path.push(key.key.to_owned());
            self.children(&path, key, &key.children);
        }
    }

    fn children(&mut self, path: &[String], key: &KeyDoc, children: &Children) {
        match children {
            Children::None => {}
            Children::Table(table) => self.table(path, table),
            Children::Family(family) => self.family(path, &family.text, family),
            Children::Named(below) => {
                let place = path.join(".");
                let name = NAMES.iter().find(|(table, _)| *table == place).map_or("name", |(_, name)| name);
                let shown = if self.form == Form::Markdown { "NAME" } else { name };
                let path = [path, &[shown.to_owned()]].concat();
                match &**below {
                    Children::Family(family) => self.family(&path, &format!("{} {}", key.text, family.text), family),
                    // The table says in its own text what its name is.
                    below => self.children(&path, key, below),
                }
            }
            Children::List(below) => self.children(path, key, below),
        }
    }

    /// A key that takes one kind, or several.
    fn family(&mut self, path: &[String], text: &str, family: &FamilyDoc) {
        self.title(&path.join("."), text);
        match self.shown_before(family) {
            Some(first) => self.same_kinds(family, &first),
            None => self.kinds(path, family),
        }
    }

    /// Returns the place where the family was shown, if all its kinds were shown. Of a kind that two families have, that
    /// place says where its keys are.
    fn shown_before(&self, family: &FamilyDoc) -> Option<String> {
        let mut shown = family.kinds.iter().map(|kind| self.seen.get(kind.table.name));
        let (first, _) = shown.next()??.rsplit_once('.')?;
        shown.all(|place| place.is_some()).then(|| first.to_owned())
    }

    fn same_kinds(&mut self, family: &FamilyDoc, first: &str) {
        let names: Vec<String> = family.kinds.iter().map(|kind| format!("`{}`", kind.name)).collect();
        let (kinds, form) = (crate::text::listed(&names), self.form);
        let link = match form {
            Form::Markdown => format!("[{first}](#{})", anchor(first)),
            Form::Toml => format!("[{first}]"),
        };
        self.paragraph(&format!("The kinds are {kinds}, with the same keys as under {link}."));
    }

    /// The name, which TOML writes with the keys, and the text below it.
    fn title(&mut self, name: &str, text: &str) {
        if self.form == Form::Markdown {
            let _ = write!(self.text, "\n## {name}\n");
        }
        self.paragraph(text);
    }

    fn kinds(&mut self, path: &[String], family: &FamilyDoc) {
        for kind in &family.kinds {
            let path = [path, &[kind.name.to_owned()]].concat();
            let own = KIND_NAMES.iter().find(|(shared, _)| *shared == path.join("."));
            self.table(&own.map_or(path, |(_, own)| own.split('.').map(str::to_owned).collect()), &kind.table);
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
        self.title(name, text);
        if self.form == Form::Markdown {
            return;
        }
        // A table of the file itself may stand empty, so that a key below it can be written by itself.
        let is_active =
            !name.contains('.') || WRITTEN.iter().any(|(key, _)| key.starts_with(&format!("{name}.")) || *key == name);
        let hidden = if is_active { "" } else { "#" };
        match (is_element(name), is_empty) {
            // Written with its keys.
            (true, false) => {}
            (true, true) => {
                let (array, kind) = name.rsplit_once('.').unwrap_or((name, ""));
                let _ = writeln!(self.text, "{hidden}[[{array}]]\n{hidden}{kind} = {{}}");
            }
            (false, _) if is_list(name) => _ = writeln!(self.text, "{hidden}[[{name}]]"),
            (false, _) => _ = writeln!(self.text, "{hidden}[{name}]"),
        }
    }

    fn keys(&mut self, table: &str, keys: &[&KeyDoc], is_kind: bool) {
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
            Form::Toml if is_element(table) => self.element(table, keys, is_kind),
            Form::Toml => {
                for key in keys {
                    let name = if table.is_empty() { key.key.to_owned() } else { format!("{table}.{}", key.key) };
                    let written = written(&name);
                    let value = written.unwrap_or_else(|| shown(key));
                    let _ = writeln!(self.text, "{}", wrapped(&comment(key), "# ", WIDTH));
                    let hidden = if written.is_some() { "" } else { "#" };
                    let _ = writeln!(self.text, "{hidden}{} = {value}", key.key);
                }
            }
        }
    }

    /// One element of a list, in one line: a kind, or else the keys that stand beside the kind.
    fn element(&mut self, table: &str, keys: &[&KeyDoc], is_kind: bool) {
        let (array, kind) = table.rsplit_once('.').unwrap_or((table, ""));
        let mut is_active = false;
        let mut values = Vec::new();
        for key in keys {
            let name = format!("{table}.{}", key.key);
            let written = written(&name);
            is_active |= written.is_some();
            let value = written.unwrap_or_else(|| shown(key));
            values.push(format!("{} = {value}", key.key));
            let _ = writeln!(self.text, "{}", wrapped(&format!("{}: {}", key.key, comment(key)), "# ", WIDTH));
        }
        let hidden = if is_active { "" } else { "#" };
        let _ = match is_kind {
            true => writeln!(self.text, "{hidden}[[{array}]]\n{hidden}{kind} = {{ {} }}", values.join(", ")),
            false => writeln!(self.text, "{hidden}[[{table}]]\n{hidden}{}", values.join(&format!("\n{hidden}"))),
        };
    }
}

/// Whether the table is a kind in a list, which is written as one element of an array.
fn is_element(table: &str) -> bool {
    table.contains(".features.") || table.contains(".frontend.")
}

/// Whether the table is one of a list of tables without kinds.
fn is_list(table: &str) -> bool {
    table.ends_with(".models")
}

/// The value that the example has for a key, if the key is not commented out there.
fn written(name: &str) -> Option<&'static str> {
    WRITTEN.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
}

/// The value to show: the default, or an example if the default is not one value.
fn shown(key: &KeyDoc) -> &str {
    let default = key.default.as_deref().filter(|_| key.otherwise.is_none() || key.example.is_none());
    default.or(key.example).unwrap_or("\"...\"")
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
pub(super) fn comment(key: &KeyDoc) -> String {
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
    let text = text.replace('|', "\\|").replace("\n\n", " ");
    // Between backticks a `<` is itself.
    let escape =
        |(index, part): (usize, &str)| if index % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() };
    text.split('`').enumerate().map(escape).collect::<Vec<_>>().join("`")
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Document, json_schema};
    use super::*;
    use crate::engine::delegate::DelegateKind;
    use crate::meter::MeterConfig;
    use crate::schema::expanded::Family;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    /// Compares a file with what it should be; writes it when asked to.
    fn assert_current(path: &str, text: &str) {
        let path = root().join(path);
        if std::env::var_os("EDGEWATT_BLESS").is_some_and(|bless| bless == "1") {
            std::fs::write(&path, text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = there.lines().zip(text.lines()).find(|(there, made)| there != made);
        assert!(
            there == text,
            "{} is not current ({differs:?}): EDGEWATT_BLESS=1 cargo test --lib config::reference",
            path.display()
        );
    }

    #[test]
    fn the_reference_is_current() {
        assert_current("docs/config.md", &markdown());
        assert_current("config/edgewatt.toml", &example());
        assert_current("docs/edgewatt.schema.json", &json_schema(false));
    }

    /// What the program makes of a text, but for the hash of it.
    fn parse(text: &str) -> Result<String, String> {
        let document = Document::new("edgewatt.toml", text);
        let mut config = document.parse(Some("host")).map_err(|error| error.to_string())?;
        config.hash.clear();
        Ok(format!("{config:?}"))
    }

    /// The lines of the example, each with the table that it is in; a table that is not written has a `#`.
    fn lines(text: &str) -> Vec<(usize, String, &str)> {
        let mut table = String::new();
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let bare = line.strip_prefix('#').unwrap_or(line);
            if bare.starts_with('[') && bare.trim_end().ends_with(']') {
                table = line.to_owned();
            } else {
                lines.push((index, table.clone(), line));
            }
        }
        lines
    }

    /// Keys that are refused alone, with what they need, and keys whose line is an example of one of several forms.
    const NEED: [(&str, &str); 9] = [
        ("user", "the password is missing"),
        ("password_file", "password_file needs mqtt.user"),
        ("ca_file", "it is for TLS"),
        ("cert_file", "cert_file needs key_file"),
        ("key_file", "key_file needs cert_file"),
        ("alpn", "it is for TLS"),
        ("columns", "not among the columns"),
        ("samples", "write either samples or seconds"),
        ("sha256", ""),
    ];

    /// A delegate without a kind is none.
    const OF_SOME_KIND: &str = "[delegates.tpu.external]\nlibrary = \"a\"";
    /// Neither is a meter.
    const METER_OF_SOME_KIND: &str = "[power.meters.board.rapl]";

    #[test]
    fn the_example_is_valid_and_every_default_in_it_is_the_programs() {
        let text = example();
        let all: Vec<&str> = text.lines().collect();
        let keys = table_of_keys();
        let mut tried = 0;
        for (index, table, line) in lines(&text) {
            let Some(written) = line.strip_prefix('#').filter(|line| !line.starts_with([' ', '['])) else { continue };
            let Some((key, value)) = written.split_once(" = ") else { continue };
            let (header, is_active) = table.strip_prefix('#').map_or((table.as_str(), true), |header| (header, false));
            let name = format!("{}.{key}", header.trim_start_matches('[').trim_end_matches(']'));
            let doc = keys.iter().find(|declared| declared.path == name.trim_start_matches('.'));
            // A model of a chain stands with all its keys only, and changes what comes after it. A comparison of a meter stands with all its keys only, too.
            if name.contains(".models.") || name.contains(".reference.") {
                continue;
            }
            // Kinds that are not in use are tried as a whole elsewhere.
            if !is_active && doc.is_none_or(|doc| doc.is_of_kind) {
                continue;
            }
            let mut with: Vec<&str> = all.clone();
            if let Some(place) = all.iter().position(|line| *line == table) {
                with[place] = header;
            }
            if header.starts_with("[delegates.tpu") {
                with.push(OF_SOME_KIND);
            }
            if header.starts_with("[power.meters.board") {
                with.push(METER_OF_SOME_KIND);
            }
            // That a table is written can mean something too.
            let plain = parse(&with.join("\n"));
            with[index] = written;
            let made = parse(&with.join("\n"));
            let is_default =
                doc.is_some_and(|key| key.doc.default.as_deref() == Some(value) && key.doc.otherwise.is_none());
            match &made {
                Ok(_) if is_default => assert_eq!(made, plain, "{table} {written}: it is not the default"),
                Ok(_) => {}
                Err(refusal) => {
                    let need = NEED.iter().find(|(known, _)| *known == key);
                    assert!(need.is_some_and(|(_, words)| refusal.contains(words)), "{table} {written}: {refusal}");
                }
            }
            tried += 1;
        }
        assert!(tried > 30, "only {tried} keys were tried");
    }

    #[test]
    fn every_kind_in_the_example_can_be_written_as_it_is_shown() {
        let text = example();
        // Delegates and meters have two tables each that are common to all kinds.
        for (header, kinds) in
            [("[power.meters.board", MeterConfig::NAMES.len() + 2), ("[delegates.", DelegateKind::NAMES.len() + 2)]
        {
            let mut seen = 0;
            // The tables of a reader are for one of several places that its values come from.
            let is_of_kind = |line: &str| {
                line.starts_with(&format!("#{header}")) && !line.starts_with("#[power.meters.board.reader.")
            };
            for block in text.split("\n\n").filter(|block| block.lines().any(is_of_kind)) {
                let uncommented: Vec<&str> = block
                    .lines()
                    .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(line))
                    .collect();
                let mut uncommented = uncommented.join("\n");
                if uncommented.contains("joules = ") {
                    // Either of the two.
                    uncommented =
                        uncommented.lines().filter(|l| !l.starts_with("joules")).collect::<Vec<_>>().join("\n");
                }
                if uncommented.contains("[power.meters.board.reader]") {
                    // One of these places, and where in a line the values are.
                    let is_kept = |line: &&str| !line.starts_with("path") && !line.starts_with("query");
                    uncommented = uncommented.lines().filter(is_kept).collect::<Vec<_>>().join("\n");
                    uncommented.push_str("\ncolumn.power = 1");
                }
                if uncommented.contains("[power.meters.board.sum]") {
                    for part in ["cpu", "gpu", "soc"] {
                        let rail = format!("hwmon = {{ chip = \"ina3221\", label = \"{part}\", scope = \"device\" }}");
                        uncommented.push_str(&format!("\n[power.meters.{part}]\n{rail}"));
                    }
                }
                if uncommented.contains("[delegates.tpu]") || uncommented.contains(".restarts]") {
                    uncommented.push('\n');
                    uncommented.push_str(OF_SOME_KIND);
                }
                if uncommented.contains("[power.meters.board]") {
                    uncommented.push('\n');
                    uncommented.push_str(METER_OF_SOME_KIND);
                }
                if uncommented.contains(".reference]") {
                    uncommented =
                        format!("[power.meters.board]\ngain_error = 0.01\n{METER_OF_SOME_KIND}\n{uncommented}");
                }
                parse(&format!("{text}\n{uncommented}\n")).unwrap_or_else(|refusal| panic!("{uncommented}: {refusal}"));
                seen += 1;
            }
            assert_eq!(seen, kinds, "{header}");
        }
    }

    /// A key with the names that the example has.
    struct Declared {
        path: String,
        /// It is a key of a kind.
        is_of_kind: bool,
        doc: KeyDoc,
    }

    /// Every key of every table.
    fn table_of_keys() -> Vec<Declared> {
        fn below(path: &str, is_of_kind: bool, children: &Children, keys: &mut Vec<Declared>) {
            match children {
                Children::None => {}
                Children::Table(table) => of(path, is_of_kind, table, keys),
                Children::Family(family) => kinds(path, family, keys),
                Children::Named(children) => {
                    let name = NAMES.iter().find(|(table, _)| *table == path).map_or("name", |(_, name)| name);
                    below(&format!("{path}.{name}"), is_of_kind, children, keys);
                }
                Children::List(children) => below(path, is_of_kind, children, keys),
            }
        }
        fn kinds(path: &str, family: &FamilyDoc, keys: &mut Vec<Declared>) {
            family.kinds.iter().for_each(|kind| of(&format!("{path}.{}", kind.name), true, &kind.table, keys));
        }
        fn of(path: &str, is_of_kind: bool, table: &TableDoc, keys: &mut Vec<Declared>) {
            for doc in &table.keys {
                let path = if path.is_empty() { doc.key.to_owned() } else { format!("{path}.{}", doc.key) };
                keys.push(Declared { path: path.clone(), is_of_kind, doc: doc.clone() });
                below(&path, is_of_kind, &doc.children, keys);
            }
            table.kinds.iter().for_each(|family| kinds(path, family, keys));
        }
        let mut keys = Vec::new();
        of("", false, &Root::doc(), &mut keys);
        keys
    }

    #[test]
    fn every_key_and_every_choice_is_in_the_example() {
        let text = example();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words: Vec<&str> = text.split(|c| !is_word(c)).collect();
        for Declared { path, doc, .. } in table_of_keys() {
            // Where `limits` says what may be written, it may leave out a word that only the program uses.
            let choices = doc.choices.iter().filter(|_| doc.limits.is_none());
            let choices = choices.flat_map(|choice| choice.split(|c| !is_word(c)));
            let names = path.rsplit('.').take(1).chain(choices).filter(|name| !name.is_empty());
            for name in names {
                assert!(words.contains(&name), "{path}: {name} is not in the example");
            }
        }
    }

    #[test]
    fn every_key_says_what_it_does_in_a_sentence() {
        let keys = table_of_keys();
        assert!(keys.len() > 130, "only {} keys", keys.len());
        for Declared { path: key, doc: KeyDoc { text, example, default, children, .. }, .. } in keys {
            assert!(text.ends_with('.'), "{key}: {text}");
            let is_scalar = children == Children::None;
            assert!(example.is_some() || default.is_some() || !is_scalar, "{key} has nothing to show");
        }
    }
}
