//! The JSON Schema of the configuration as an editor uses it: taplo and the program agree on what is a configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgewatt::config::{Document, Root, json_schema};
use edgewatt::schema::expanded::Table as _;
use edgewatt::schema::{Children, FamilyDoc, Form, KeyDoc, TableDoc};
use edgewatt_support::{program, root};
use tempfile::TempDir;
use toml::{Table, Value};

/// taplo with the schema, as `make test` installs it.
struct Taplo {
    program: PathBuf,
    folder: TempDir,
    schema: String,
}

impl Taplo {
    /// Returns `None`, and says so, if it is not installed.
    fn with(schema: &str) -> Option<Self> {
        let taplo = program().ancestors().nth(2).unwrap().join("venv/bin/taplo");
        if !taplo.exists() {
            eprintln!("skipped: taplo is not installed; `make test` installs it");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("schema.json");
        fs::write(&path, schema).unwrap();
        Some(Self { program: taplo, folder, schema: format!("file://{}", path.display()) })
    }

    /// Returns the files that it refuses, with all that it says.
    fn refused(&self, files: &[PathBuf]) -> (BTreeSet<PathBuf>, String) {
        // One that must be refused shows that the files are compared with the schema at all.
        let wrong = self.folder.path().join("wrong.toml");
        fs::write(&wrong, "no_such_key = 1\n").unwrap();
        let mut command = Command::new(&self.program);
        command.args(["check", "--no-auto-config", "--colors", "never", "--schema", &self.schema]).args(files);
        let output = command.arg(&wrong).current_dir(self.folder.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // Its log says which files are invalid too, but loses its last lines at times.
        let place = |line: &str| line.split_once("┌─ ")?.1.rsplitn(3, ':').nth(2).map(PathBuf::from);
        let mut refused: BTreeSet<PathBuf> = said.lines().filter_map(place).collect();
        assert!(refused.remove(&wrong) && !output.status.success(), "{said}");
        (refused, said)
    }

    /// Returns whether each text is accepted.
    fn accepts(&self, texts: &[String]) -> Vec<bool> {
        let path = |index: usize| self.folder.path().join(format!("{index}.toml"));
        texts.iter().enumerate().for_each(|(index, text)| fs::write(path(index), text).unwrap());
        let files: Vec<PathBuf> = (0..texts.len()).map(path).collect();
        let (refused, _) = self.refused(&files);
        files.iter().map(|file| !refused.contains(file)).collect()
    }
}

fn configurations(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configurations(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

#[test]
fn every_configuration_of_the_repository_follows_the_schema() {
    let Some(taplo) = Taplo::with(&fs::read_to_string(root().join("docs/edgewatt.schema.json")).unwrap()) else {
        return;
    };
    let mut files = Vec::new();
    ["config", "examples"].iter().for_each(|folder| configurations(&root().join(folder), &mut files));
    assert!(files.len() >= 7, "{files:?}");
    let (refused, said) = taplo.refused(&files);
    assert!(refused.is_empty(), "{said}");
}

#[test]
fn the_template_begins_with_its_schema_and_is_short() {
    let template = fs::read_to_string(root().join("config/template.toml")).unwrap();
    assert!(template.starts_with("#:schema /usr/share/edgewatt/edgewatt.schema.json\n"));
    assert!(template.contains("\nversion = 1\n") && template.lines().count() <= 40);
}

#[test]
fn the_program_prints_the_schema() {
    let printed = |args: &[&str]| {
        let output = Command::new(program()).arg("schema").args(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed(&[]), fs::read_to_string(root().join("docs/edgewatt.schema.json")).unwrap());
    let fragment = printed(&["--fragment"]);
    assert_eq!(fragment, json_schema(true));
    let Some(taplo) = Taplo::with(&fragment) else { return };
    let accepted = taplo.accepts(&[
        String::new(),
        "[pipelines.p.window]\nhop = 5".to_owned(),
        "[delegates.d]\ndeadline_ms = 5.0".to_owned(),
        "[delegates.d]\ncpu = {}\nxnnpack = {}".to_owned(),
        "[pipelines.p.window]\nhops = 5".to_owned(),
        "[pipelines.p.window]\nhop = '5'".to_owned(),
    ]);
    assert_eq!(accepted, [true, true, true, false, false, false]);
}

/// Values of every type of TOML that JSON has too; a number of each sign, and one that is too large for a small integer.
const VALUES: [&str; 11] =
    ["'x'", "''", "1", "-1", "70000", "1.5", "true", "[]", "['x']", "[1, 'x']", "{ no_such_key = 1 }"];

fn value(toml: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {toml}")).unwrap_or_else(|e| panic!("{toml}: {e}"))["value"].clone()
}

/// Returns the numbers just outside a range, without those that the type does not have.
fn outside(key: &KeyDoc) -> Vec<Value> {
    // A wrong version is refused before anything else is read.
    let range = key.range.iter().filter(|_| key.key != "version");
    let bounds = range.flat_map(|(low, high)| [(low, -1_i8), (high, 1)]);
    let is_integer = matches!(key.form, Form::Integer { .. });
    let beyond = |(bound, sign): (&String, i8)| {
        if is_integer {
            let bound: i64 = bound.parse().unwrap();
            (bound > 0 || sign > 0).then(|| Value::Integer(bound + i64::from(sign)))
        } else {
            let bound: f64 = bound.parse().unwrap();
            Some(Value::Float(bound + f64::from(sign) * (bound.abs() / 2.0 + 1e-9)))
        }
    };
    bounds.filter_map(beyond).collect()
}

/// Returns the least that must be written in a table.
fn least(table: &TableDoc) -> Table {
    // Without its rate a recording has no pace.
    let required = table.keys.iter().filter(|key| key.required || key.key == "rate_hz");
    let mut least: Table =
        required.map(|key| (key.key.to_owned(), least_of(&key.children, key.example.unwrap_or("1")))).collect();
    least.extend(table.kinds.iter().map(least_kind));
    least
}

fn least_kind(family: &FamilyDoc) -> (String, Value) {
    (family.kinds[0].name.to_owned(), least(&family.kinds[0].table).into())
}

fn least_of(children: &Children, example: &str) -> Value {
    match children {
        Children::None => value(example),
        Children::Table(table) => least(table).into(),
        Children::Family(family) => Table::from_iter([least_kind(family)]).into(),
        Children::Named(below) => Table::from_iter([("n".to_owned(), least_of(below, example))]).into(),
        Children::List(below) => vec![least_of(below, example)].into(),
    }
}

/// Configurations with each key of each table at all the values, right and wrong ones.
#[derive(Default)]
struct Cases {
    any: Vec<Table>,
    /// Those with a value just outside the range of its key.
    out_of_range: Vec<Table>,
}

impl Cases {
    /// `around` puts a table to its place in a configuration.
    fn table(&mut self, table: &TableDoc, around: &dyn Fn(Table) -> Table) {
        let with = |key: &str, value: Value| {
            let mut table = least(table);
            table.insert(key.to_owned(), value);
            around(table)
        };
        self.any.push(with("no_such_key", Value::Integer(1)));
        for key in &table.keys {
            let examples = key.default.iter().map(String::as_str).chain(key.example).filter(|text| !text.is_empty());
            let examples =
                examples.chain(key.choices.iter().map(String::as_str).filter(|choice| !choice.contains("PATH")));
            self.any.extend(examples.chain(VALUES).map(|toml| with(key.key, value(toml))));
            self.out_of_range.extend(outside(key).into_iter().map(|value| with(key.key, value)));
            let mut without = least(table);
            without.remove(key.key);
            self.any.push(around(without));
            self.children(&key.children, &|value| with(key.key, value));
        }
        if let Some(family) = &table.kinds {
            let kinds = |kinds: Table| {
                let mut table = least(table);
                table.retain(|key, _| family.kinds.iter().all(|kind| kind.name != key));
                table.extend(kinds);
                around(table)
            };
            self.family(family, &kinds);
        }
    }

    fn family(&mut self, family: &FamilyDoc, around: &dyn Fn(Table) -> Table) {
        for kind in &family.kinds {
            self.table(&kind.table, &|table| around(Table::from_iter([(kind.name.to_owned(), table.into())])));
            let mut two = Table::from_iter([(kind.name.to_owned(), least(&kind.table).into())]);
            two.extend([least_kind(family)]);
            self.any.push(around(two));
        }
        self.any.push(around(Table::new()));
    }

    fn children(&mut self, children: &Children, around: &dyn Fn(Value) -> Table) {
        match children {
            Children::None => {}
            Children::Table(table) => self.table(table, &|table| around(table.into())),
            Children::Family(family) => {
                self.family(family, &|kind| around(kind.into()));
                self.any.extend(family.kinds.iter().map(|kind| around(kind.name.into())));
            }
            Children::Named(below) => {
                self.any.push(around(Table::new().into()));
                self.children(below, &|value| around(Table::from_iter([("n".to_owned(), value)]).into()));
            }
            Children::List(below) => self.children(below, &|value| around(vec![value].into())),
        }
    }
}

fn cases() -> Cases {
    let mut cases = Cases::default();
    cases.table(&Root::doc(), &|table| table);
    cases
}

#[test]
fn every_range_is_checked() {
    let outside = cases().out_of_range;
    assert!(outside.len() > 100, "only {} configurations", outside.len());
    for case in outside {
        let text = toml::to_string(&case).unwrap();
        let refusal = Document::new("edgewatt.toml", text.clone()).parse(Some("host")).unwrap_err().to_string();
        let is_read = toml::from_str::<Root>(&text).is_ok();
        assert!(!is_read || refusal.contains("is out of range; it must be from "), "{refusal}\n{text}");
    }
}

#[test]
fn what_the_program_refuses_to_read_the_schema_refuses_and_what_it_takes_the_schema_takes() {
    let Some(taplo) = Taplo::with(&json_schema(false)) else { return };
    let cases = cases();
    let texts: Vec<String> =
        cases.any.iter().chain(&cases.out_of_range).map(|case| toml::to_string(case).unwrap()).collect();
    assert!(texts.len() > 2000, "only {} configurations", texts.len());
    let (mut read, mut valid, mut differ) = (0, 0, Vec::new());
    for (text, accepted) in texts.iter().zip(taplo.accepts(&texts)) {
        let refusal = toml::from_str::<Root>(text).err();
        let is_valid = Document::new("edgewatt.toml", text.clone()).parse(Some("host")).is_ok();
        if let (true, Some(refusal)) = (accepted, &refusal) {
            differ.push(format!("the schema takes, the program refuses:\n{refusal}\n{text}"));
        } else if !accepted && is_valid {
            differ.push(format!("the schema refuses, the program takes:\n{text}"));
        }
        read += usize::from(refusal.is_none());
        valid += usize::from(is_valid);
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n----\n"));
    assert!(read > 500 && valid > 300 && read < texts.len() / 2, "{read} and {valid} of {}", texts.len());
}
