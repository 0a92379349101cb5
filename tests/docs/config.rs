//! docs/config.md is config/edgewatt.toml as tables, with what the program itself says of each key.
//!
//! The texts are the comments of config/edgewatt.toml, and nowhere else. Which keys there are, what is required, what the
//! default is and what may be written is asked of the program: by leaving keys out, by wrong names, by wrong values. So a
//! key that is not in the file, a default that is stale and a page that is not current all fail here.
//!
//! `EDGEWATT_BLESS=1 cargo test --test docs config::` writes the page.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use edgewatt::config::Document;
use edgewatt_support::reference::{Entry, Item, Section, items, user_named};
use edgewatt_support::root;
use toml::{Table, Value};

/// What is written beside a key, so that it has an effect or is allowed.
const TOGETHER: [(&str, &str); 9] = [
    ("mqtt.user", "mqtt.password_file = 'p'"),
    ("mqtt.password_file", "mqtt.user = 'u'"),
    ("mqtt.ca_file", "mqtt.broker = 'mqtts://h'"),
    ("mqtt.cert_file", "mqtt.broker = 'mqtts://h'\nmqtt.key_file = 'k'"),
    ("mqtt.key_file", "mqtt.broker = 'mqtts://h'\nmqtt.cert_file = 'c'"),
    ("mqtt.alpn", "mqtt.broker = 'mqtts://h'"),
    ("pipelines.shoulder.source.replay.records.columns", "pipelines.shoulder.source.replay.records.header = false"),
    ("mqtt.discovery_prefix", "mqtt.discovery = true"),
    ("pipelines.shoulder.batch.wait_ms", "pipelines.shoulder.batch.max = 2"),
];
/// What makes a default show, where it does nothing by itself.
const EFFECTS: [(&str, &str); 1] =
    [("mqtt.allow_plaintext_password", "mqtt.broker = 'mqtt://far'\nmqtt.user = 'u'\nmqtt.password_file = 'p'")];
/// Keys that are exclusive; their table stands with the first one.
const EXCLUSIVE: [(&str, &str); 1] = [("power.meters.trace.replay.joules", "watts")];
/// Ends of names, and what they stand for.
const UNITS: [(&str, &str); 13] = [
    ("_per_s", "1/s"),
    ("_ms", "ms"),
    ("_s", "s"),
    ("_h", "h"),
    ("_mib", "MiB"),
    ("mib", "MiB"),
    ("kib", "KiB"),
    ("_hz", "Hz"),
    ("_ohms", "Ohm"),
    ("watts", "W"),
    ("_per_core", "W"),
    ("_volts", "V"),
    ("_amperes", "A"),
];

/// Tables that every kind of source has, written down for one.
const OF_ALL_SOURCES: [&str; 2] = ["records", "buffer"];

fn reference() -> String {
    std::fs::read_to_string(root().join("config/edgewatt.toml")).unwrap()
}

/// What the program makes of it, or says against it.
fn parse(table: &Table) -> Result<String, String> {
    let document = Document { path: "edgewatt.toml".into(), text: toml::to_string(table).unwrap() };
    let config = document.parse(Some("host")).map_err(|error| error.to_string())?;
    let shown = format!("{config:?}");
    Ok(shown.replace(&config.hash, ""))
}

/// The table at `path`, made where it is missing; of an array of tables the last.
fn at<'a>(table: &'a mut Table, path: &[String]) -> &'a mut Table {
    path.iter().fold(table, |table, name| match table.entry(name).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(table) => table,
        Value::Array(array) => array.last_mut().and_then(Value::as_table_mut).unwrap(),
        other => panic!("{name} is no table but {other}"),
    })
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => _ = into.insert(key, value),
        }
    }
}

/// A whole configuration in which this section's table is in use, with no key but what it needs.
fn context(base: &Table, section: &Section) -> Table {
    let mut whole = base.clone();
    let path: Vec<&str> = section.path.iter().map(String::as_str).collect();
    let empty = |table: &mut Table, kind: &str| {
        table.clear();
        table.insert(kind.to_owned(), Value::Table(Table::new()));
    };
    // One kind of each at a time.
    match path[..] {
        _ if section.active => return whole,
        ["pipelines", name, "source", kind] => {
            let source = at(&mut whole, &["pipelines", name, "source"].map(str::to_owned));
            let records = source.values().find_map(|source| source.get("records")).unwrap().clone();
            empty(source, kind);
            source[kind].as_table_mut().unwrap().insert("records".into(), records);
        }
        ["pipelines", name, "decision", kind] => {
            let pipeline = at(&mut whole, &["pipelines", name].map(str::to_owned));
            empty(at(pipeline, &["decision".into()]), kind);
            // Only a classification has classes.
            at(pipeline, &["model".into()]).remove("labels");
            at(pipeline, &["source", "replay", "records"].map(str::to_owned)).remove("truth");
        }
        ["pipelines", name, "features", kind] => {
            let pipeline = at(&mut whole, &["pipelines", name].map(str::to_owned));
            let mut feature = Table::new();
            empty(&mut feature, kind);
            pipeline.insert("features".into(), Value::Array(vec![Value::Table(feature)]));
        }
        ["delegates", name, ..] => {
            let external: Table = toml::from_str("external.library = 'x.so'").unwrap();
            *at(&mut whole, &["delegates", name].map(str::to_owned)) = external;
            if let Some(kind) = path.get(2).filter(|kind| **kind != "restarts") {
                empty(at(&mut whole, &["delegates", name].map(str::to_owned)), kind);
            }
            let pipeline = at(&mut whole, &["pipelines", "shoulder"].map(str::to_owned));
            pipeline.insert("delegate".into(), Value::String(name.to_owned()));
        }
        _ => {}
    }
    at(&mut whole, &section.path);
    loop {
        let Err(said) = parse(&whole) else { return whole };
        let missing = |entry: &&Entry| said.contains(&format!("missing field `{}`", entry.key));
        let either = said.contains("either watts or joules").then(|| section.entries.iter().find(|e| e.key == "watts"));
        let Some(entry) = section.entries.iter().find(missing).or(either.flatten()) else {
            panic!("{} cannot be used: {said}\n{}", section.name(), toml::to_string(&whole).unwrap());
        };
        at(&mut whole, &section.path).insert(entry.key.clone(), entry.shown.clone());
    }
}

/// What is known of one key.
struct Row {
    key: String,
    kind: String,
    unit: &'static str,
    default: String,
    may_be: String,
    meaning: String,
}

fn row(base: &Table, section: &Section, entry: &Entry) -> Row {
    let name = format!("{}.{}", section.name(), entry.key);
    let whole = context(base, section);
    let of = |all: &[(&str, &'static str)]| all.iter().find(|(key, _)| *key == name).map(|(_, lines)| *lines);
    let with = |value: Option<&Value>, beside: Option<&str>| {
        let mut whole = whole.clone();
        if let Some(lines) = beside {
            merge(&mut whole, toml::from_str(lines).unwrap());
        }
        let table = at(&mut whole, &section.path);
        match value {
            Some(value) => _ = table.insert(entry.key.clone(), value.clone()),
            None => _ = table.remove(&entry.key),
        }
        if let Some((_, other)) = EXCLUSIVE.iter().find(|(key, _)| value.is_some() && *key == name) {
            table.remove(*other);
        }
        parse(&whole)
    };
    let together = of(&TOGETHER);
    let shown = with(Some(&entry.shown), together).unwrap_or_else(|said| panic!("{name} as it is shown: {said}"));
    // What goes with a key that has no default may not stand alone.
    let left_out = with(None, together.filter(|_| entry.default().is_none()));
    let required = left_out.as_ref().is_err_and(|said| said.contains(&format!("missing field `{}`", entry.key)));
    // A table that need not be there has a default as a whole.
    let mut without_table = whole.clone();
    at(&mut without_table, &section.path[..section.path.len() - 1]).remove(section.path.last().unwrap());
    let told = entry.default();
    let is_default = left_out.as_ref() == Ok(&shown) || (required && parse(&without_table).as_ref() == Ok(&shown));
    let default = match (&told, is_default) {
        // It may be the default here and not everywhere.
        (Some(told), _) if !required => told.clone(),
        (Some(told), _) => panic!("{name}: the comment says that the default is {told}, but it is required"),
        (None, true) => format!("`{}`", entry.written),
        (None, false) if required => "required".to_owned(),
        (None, false) => panic!("{name}: {} is not the default, and the comment says no other", entry.shown),
    };
    // A key that changes nothing, whatever it says, would have any default.
    if is_default && told.is_none() {
        let (others, effect) = (others(&entry.shown), of(&EFFECTS).or(together));
        let plainly = with(Some(&entry.shown), effect);
        let differs = |value: &Value| with(Some(value), effect) != plainly;
        assert!(others.iter().any(differs), "{name}: no value of {others:?} changes anything");
    }
    let meaning = entry.meaning();
    let (unit, meaning) = unit(entry, &meaning);
    let refused = |value: &Value| with(Some(value), together).err();
    Row {
        key: entry.key.clone(),
        kind: kind(&entry.shown),
        unit,
        default,
        may_be: may_be(&name, entry, refused),
        meaning,
    }
}

fn others(shown: &Value) -> Vec<Value> {
    match shown {
        Value::Integer(n) => vec![Value::Integer(n + 1), Value::Integer(n * 2)],
        Value::Float(n) => vec![Value::Float(n + 0.25), Value::Float(n * 0.5)],
        Value::Boolean(b) => vec![Value::Boolean(!b)],
        Value::Array(_) => vec![Value::Array(vec![Value::String("?".into())]), Value::Array(vec![Value::Float(7.0)])],
        _ => vec![Value::String("x".into())],
    }
}

fn kind(shown: &Value) -> String {
    match shown {
        Value::String(_) => "string".into(),
        Value::Integer(_) => "integer".into(),
        Value::Float(_) => "number".into(),
        Value::Boolean(_) => "boolean".into(),
        Value::Array(items) => {
            items.first().map_or("list of strings".into(), |item| format!("list of {}s", kind(item)))
        }
        Value::Table(_) => "table".into(),
        Value::Datetime(_) => panic!("no key is a time"),
    }
}

/// The unit, which ends the key's name; a comment that begins with it alone need not say it twice.
fn unit(entry: &Entry, meaning: &str) -> (&'static str, String) {
    let found = UNITS.iter().find(|(end, _)| entry.key.ends_with(end) && !entry.shown.is_str());
    let Some((_, unit)) = found else { return ("", meaning.to_owned()) };
    let rest = meaning.strip_prefix(unit).and_then(|rest| rest.strip_prefix("; "));
    (unit, rest.unwrap_or(meaning).to_owned())
}

/// The range or the choices, in the words in which the program refuses others.
fn may_be(name: &str, entry: &Entry, refused: impl Fn(&Value) -> Option<String>) -> String {
    let wrong: Vec<Value> = match &entry.shown {
        Value::Integer(_) => [i64::MAX, i64::from(u32::MAX), 65_535, 255, 0, -1].map(Value::Integer).to_vec(),
        Value::Float(_) => [1e300, -1e300, 0.0].map(Value::Float).to_vec(),
        Value::String(_) => vec![Value::String("?".into())],
        Value::Array(_) => vec![Value::Array(vec![Value::String("?".into())])],
        Value::Boolean(_) => return "`true`, `false`".into(),
        _ => Vec::new(),
    };
    let refusals: Vec<String> = wrong.iter().filter_map(refused).collect();
    let own = format!(": {name}: ");
    for refusal in &refusals {
        for line in refusal.lines() {
            if let Some((_, range)) = line.split_once(&own).and_then(|(_, said)| said.split_once("it must be from ")) {
                return range.to_owned();
            }
            if let Some((_, offered)) =
                line.split_once(&own).and_then(|(_, said)| said.split_once("is not offered; use "))
            {
                return offered.to_owned();
            }
            if let Some((_, all)) = line.split_once(&own).and_then(|(_, said)| said.split_once("; they are ")) {
                return all.to_owned();
            }
            if let Some((_, known)) = line.split_once("unknown variant `?`, expected ") {
                return names(known).iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ");
            }
        }
    }
    let type_of = |kind: &str| refusals.iter().any(|refusal| refusal.contains(&format!("expected {kind}")));
    match &entry.shown {
        Value::Integer(_) if type_of("u8") => "0 to 255".into(),
        Value::Integer(_) if type_of("u16") => "0 to 65535".into(),
        Value::Integer(_) => "from 0".into(),
        _ => String::new(),
    }
}

/// What Markdown would take for HTML or for the next cell.
fn escaped(text: &str) -> String {
    text.replace('<', "&lt;").replace('|', "\\|")
}

/// The names in backticks.
fn names(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys and tables that the program knows at a place, as it lists them to one that it does not know.
fn known(base: &Table, path: &[String], list: bool) -> BTreeSet<String> {
    let mut whole = base.clone();
    let unknown: Table = toml::from_str("'?' = {}").unwrap();
    if list {
        let (last, before) = path.split_last().unwrap();
        at(&mut whole, before).insert(last.clone(), Value::Array(vec![Value::Table(unknown)]));
    } else {
        let table = at(&mut whole, path);
        // Where one kind must be written, another one must not stand beside the wrong one.
        if matches!(path.last().map(String::as_str), Some("source" | "decision"))
            || path.len() == 3 && path[0] == "power"
        {
            table.clear();
        }
        table.insert("?".into(), Value::Table(Table::new()));
    }
    let said = parse(&whole).expect_err("something unknown is taken");
    let line = said.lines().next().unwrap();
    if line.contains("there are no fields") {
        return BTreeSet::new();
    }
    let (_, expected) = line.split_once("expected").unwrap_or_else(|| panic!("{path:?}: {said}"));
    names(expected)
}

fn sections(items: &[Item]) -> Vec<&Section> {
    items.iter().filter_map(|item| if let Item::Section(section) = item { Some(section) } else { None }).collect()
}

#[test]
fn every_key_that_the_program_knows_is_in_the_reference_and_no_other() {
    let text = reference();
    let (base, items) = (text.parse::<Table>().unwrap(), items(&text));
    let sections = sections(&items);
    let mut places: Vec<(Vec<String>, Table)> = vec![(Vec::new(), base.clone())];
    for section in &sections {
        let whole = context(&base, section);
        for length in 1..=section.path.len() {
            let path = section.path[..length].to_vec();
            if !places.iter().any(|(known, _)| *known == path) {
                places.push((path, whole.clone()));
            }
        }
    }
    let mut count = 0;
    for (path, whole) in &places {
        // What is below is named by the user.
        if matches!(
            path.iter().map(String::as_str).collect::<Vec<_>>()[..],
            ["delegates"] | ["pipelines"] | ["power", "meters"]
        ) {
            continue;
        }
        let keys = sections.iter().filter(|s| s.path == *path).flat_map(|s| s.entries.iter().map(|e| e.key.clone()));
        let below = |s: &&Section| s.path.starts_with(path).then(|| s.path.get(path.len()).cloned()).flatten();
        let mut written: BTreeSet<String> = keys.chain(sections.iter().filter_map(below)).collect();
        let generic = |path: &[String]| user_named(path);
        // One name of the user's shows some of what may be, another the rest.
        for (other, _) in places.iter().filter(|(other, _)| other != path && generic(other) == generic(path)) {
            written.extend(
                sections.iter().filter(|s| s.path == *other).flat_map(|s| s.entries.iter().map(|e| e.key.clone())),
            );
            written.extend(
                sections.iter().filter(|s| s.path.starts_with(other)).filter_map(|s| s.path.get(other.len()).cloned()),
            );
        }
        let list = path.last().is_some_and(|name| name == "features");
        if list {
            // It needs no table.
            written.insert("detrend".into());
        }
        if path.len() == 4 && path[2] == "source" {
            written.extend(OF_ALL_SOURCES.map(str::to_owned));
        }
        assert_eq!(known(whole, path, list), written, "at {path:?}: what the program knows, and what is written");
        count += written.len();
    }
    assert!(count > 130, "only {count} keys were compared");
}

#[test]
fn the_page_is_current() {
    let text = reference();
    let base: Table = text.parse().unwrap();
    let mut page =
        "<!-- From config/edgewatt.toml, by: EDGEWATT_BLESS=1 cargo test --test docs config:: -->\n\n# Configuration\n"
            .to_owned();
    let mut rows = 0;
    for item in items(&text) {
        match item {
            Item::Paragraph(text) => writeln!(page, "\n{text}").unwrap(),
            Item::Section(section) => {
                let header = user_named(&section.path).join(".").replace(".features.", ".features[].");
                writeln!(page, "\n## {header}").unwrap();
                if !section.text.is_empty() {
                    writeln!(page, "\n{}", section.text).unwrap();
                }
                if !section.entries.is_empty() {
                    page +=
                        "\n| key | type | unit | default | may be | meaning |\n| --- | --- | --- | --- | --- | --- |\n";
                }
                for entry in &section.entries {
                    let Row { key, kind, unit, default, may_be, meaning } = row(&base, &section, entry);
                    assert!(!meaning.is_empty(), "{}.{key} has no meaning in config/edgewatt.toml", section.name());
                    let [default, meaning] = [default, meaning].map(|text| escaped(&text));
                    writeln!(page, "| `{key}` | {kind} | {unit} | {default} | {may_be} | {meaning} |").unwrap();
                    rows += 1;
                }
            }
        }
    }
    assert!(rows > 110, "only {rows} keys were found");
    let path = root().join("docs/config.md");
    if std::env::var_os("EDGEWATT_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(
        there == page,
        "docs/config.md is not current ({differs:?}): EDGEWATT_BLESS=1 cargo test --test docs config::"
    );
}
