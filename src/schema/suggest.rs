//! What is wanted at a key, in words, and what to write there instead of a value that does not fit.

use toml::de::{DeInteger, DeValue};

use super::{Children, Form, Key, KeyDoc, TableDoc};
use crate::text::{command_list, listed, nearest};

/// Longer values are not repeated in a message.
const MOST_SHOWN: usize = 60;

/// Units that are written behind numbers, in small letters.
const UNITS: [&str; 28] = [
    "ns", "us", "\u{b5}s", "ms", "s", "sec", "min", "m", "h", "d", "hz", "khz", "%", "w", "mw", "a", "ma", "v", "mv",
    "j", "mj", "ohm", "b", "kib", "mib", "gib", "kb", "mb",
];

/// What is wanted at a key.
pub(crate) struct Wanted<'d> {
    /// The last part of the key.
    pub key: &'d str,
    pub form: &'d Form,
    /// The key as it is declared; `None` for an element of a list.
    pub doc: Option<&'d KeyDoc>,
}

impl Wanted<'_> {
    /// Returns `Ok(None)` if a value fits, and a message if it can be read but is out of the key's range.
    ///
    /// # Errors
    /// The value cannot be read; the text says what it is, what is wanted, and what to write if that can be known.
    pub(crate) fn fits(&self, value: &DeValue<'_>) -> Result<Option<String>, String> {
        if is_of(value, self.form) {
            return Ok(self.out_of_range(value));
        }
        if let (Form::Integer { .. }, DeValue::Integer(integer)) = (self.form, value) {
            let (low, high) = self.integer_range();
            let range = if high.is_empty() { format!("at least {low}") } else { format!("from {low} to {high}") };
            return Err(format!("{integer} is out of range; it must be {range}"));
        }
        let write = match self.suggestion(value) {
            Some(write) if !is_secret(self.key) && write.chars().count() <= MOST_SHOWN => {
                format!("; write {} = {write}", self.key)
            }
            _ => String::new(),
        };
        // An element of a list has a number as its key.
        let write = if self.doc.is_none() { write.replacen(&format!("{} = ", self.key), "", 1) } else { write };
        Err(format!("this is {}, expected {}{write}", shown(value, self.form), self.words()))
    }

    /// Returns what to write instead of a value. A number with another unit than the key's is not the number to write.
    fn suggestion(&self, value: &DeValue<'_>) -> Option<String> {
        if let DeValue::String(text) = value
            && let Some(number) = leading_number(text)
        {
            let unit = text.trim()[number.len()..].trim();
            if !unit.is_empty() && self.doc.and_then(|doc| doc.unit) != Some(unit) {
                return None;
            }
        }
        if let (Form::List { .. }, "command", DeValue::String(line)) = (self.form, self.key, value) {
            return Some(command_list(line));
        }
        suggestion(value, self.form)
    }

    fn out_of_range(&self, value: &DeValue<'_>) -> Option<String> {
        let (low, high) = self.doc?.range.as_ref()?;
        let written = number(value)?;
        let inside = |low: f64, high: f64| written >= low && written <= high;
        let is_inside = inside(low.parse().ok()?, high.parse().ok()?);
        (!is_inside).then(|| format!("{written} is out of range; it must be from {low} to {high}"))
    }

    /// Lowest and highest value; the highest is empty if there is none to speak of.
    fn integer_range(&self) -> (String, String) {
        match (self.doc.and_then(|doc| doc.range.clone()), self.form) {
            (Some(range), _) => range,
            (None, Form::Integer { low, high }) if *high < i64::MAX => (low.to_string(), high.to_string()),
            (None, _) => ("0".to_owned(), String::new()),
        }
    }

    fn words(&self) -> String {
        let unit = self.doc.and_then(|doc| doc.unit).map_or_else(String::new, |unit| format!(" of {unit}"));
        match self.form {
            Form::Integer { .. } => match self.integer_range() {
                (low, high) if high.is_empty() => format!("a whole number{unit}, at least {low}"),
                (low, high) => format!("a whole number{unit} from {low} to {high}"),
            },
            Form::Number => match self.doc.and_then(|doc| doc.range.as_ref()) {
                Some((low, high)) => format!("a number{unit} from {low} to {high}"),
                None => format!("a number{unit}"),
            },
            form => words(form),
        }
    }
}

/// Returns what a value is.
pub(crate) fn name_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Returns what a value is, for a word that is not among those that may be written with the word itself.
fn shown(value: &DeValue<'_>, form: &Form) -> String {
    match (value, form) {
        (DeValue::String(text), Form::Words(_) | Form::Any(_)) if text.chars().count() <= MOST_SHOWN => {
            format!("{text:?}")
        }
        (DeValue::Integer(integer), Form::Positive | Form::Any(_)) => integer.to_string(),
        (DeValue::Float(float), Form::Positive | Form::Any(_)) => float.to_string(),
        (DeValue::Array(array), Form::List { length: Some(_), .. }) => format!("a list of {}", array.len()),
        (other, _) => name_of(other).to_owned(),
    }
}

fn words(form: &Form) -> String {
    match form {
        Form::Integer { .. } => "a whole number".to_owned(),
        Form::Number => "a number".to_owned(),
        Form::Positive => "a number above 0".to_owned(),
        Form::Boolean => "true or false".to_owned(),
        Form::Text => "a text in quotes".to_owned(),
        Form::Words(words) => match words.as_slice() {
            [word] => format!("{word:?}"),
            words => format!("one of {}", listed(&words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>())),
        },
        Form::List { of, length } => {
            let count = length.map_or_else(String::new, |length| format!("{length} "));
            let range = match **of {
                Form::Integer { low, high } if high < i64::MAX => format!(" from {low} to {high}"),
                _ => String::new(),
            };
            format!("a list of {count}{}{range}", plural(of))
        }
        Form::Map(of) => format!("a table of {}", plural(of)),
        Form::Keyed(key, of) => format!("{{ {key} = {} }}", example(of)),
        Form::Any(forms) => forms.iter().map(words).collect::<Vec<_>>().join(" or "),
        Form::Table => "a table".to_owned(),
    }
}

fn plural(form: &Form) -> &'static str {
    match form {
        Form::Integer { .. } => "whole numbers",
        Form::Number | Form::Positive => "numbers",
        Form::Boolean => "true or false",
        Form::Text | Form::Words(_) => "texts in quotes",
        Form::List { .. } => "lists",
        Form::Map(_) | Form::Keyed(..) | Form::Table => "tables",
        Form::Any(_) => "values",
    }
}

fn example(form: &Form) -> String {
    match form {
        Form::Integer { .. } => "1".to_owned(),
        Form::Number | Form::Positive => "1.0".to_owned(),
        Form::Boolean => "true".to_owned(),
        Form::Words(words) => words.first().map_or_else(String::new, |word| format!("{word:?}")),
        Form::List { .. } => "[...]".to_owned(),
        Form::Any(forms) => forms.first().map_or_else(String::new, example),
        Form::Keyed(key, of) => format!("{{ {key} = {} }}", example(of)),
        Form::Map(_) | Form::Table => "{ ... }".to_owned(),
        Form::Text => "\"...\"".to_owned(),
    }
}

/// Whether serde can read a value for a key of this form.
fn is_of(value: &DeValue<'_>, form: &Form) -> bool {
    match (form, value) {
        (Form::Integer { low, high }, DeValue::Integer(integer)) => {
            as_i128(integer).is_some_and(|integer| (i128::from(*low)..=i128::from(*high)).contains(&integer))
        }
        (Form::Number, DeValue::Integer(integer)) => {
            as_i128(integer).is_some_and(|integer| i64::try_from(integer).is_ok())
        }
        (Form::Number, DeValue::Float(_)) => number(value).is_some(),
        (Form::Positive, _) => number(value).is_some_and(|number| number > 0.0 && number.is_finite()),
        (Form::Boolean, DeValue::Boolean(_))
        | (Form::Text, DeValue::String(_))
        | (Form::Table, DeValue::Table(_) | DeValue::String(_)) => true,
        (Form::Words(words), DeValue::String(word)) => words.iter().any(|known| known == word.as_ref()),
        (Form::List { of, length }, DeValue::Array(array)) => {
            length.is_none_or(|length| length == array.len()) && array.iter().all(|value| is_of(value.get_ref(), of))
        }
        (Form::Map(of), DeValue::Table(table)) => table.values().all(|value| is_of(value.get_ref(), of)),
        (Form::Keyed(key, of), DeValue::Table(table)) => {
            table.len() == 1 && table.get(*key).is_some_and(|value| is_of(value.get_ref(), of))
        }
        (Form::Any(forms), value) => forms.iter().any(|form| is_of(value, form)),
        _ => false,
    }
}

/// Returns the only one of several forms that has the shape of a list or table: the rest of it may not fit.
pub(crate) fn of_shape<'f>(value: &DeValue<'_>, forms: &'f [Form]) -> Option<&'f Form> {
    let mut fitting = forms.iter().filter(|form| match (form, value) {
        (Form::List { length, .. }, DeValue::Array(array)) => length.is_none_or(|length| length == array.len()),
        (Form::Keyed(key, _), DeValue::Table(table)) => table.len() == 1 && table.contains_key(*key),
        _ => false,
    });
    fitting.next().filter(|_| fitting.next().is_none())
}

/// Returns what to write instead of a value, if it can be known what is meant.
fn suggestion(value: &DeValue<'_>, form: &Form) -> Option<String> {
    match (form, value) {
        (Form::Integer { .. }, DeValue::String(text)) => {
            leading_number(text)?.parse::<u64>().ok().map(|n| n.to_string())
        }
        (Form::Integer { .. }, DeValue::Float(_)) => {
            let written = number(value).filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
            Some(format!("{written}"))
        }
        (Form::Number | Form::Positive, DeValue::String(text)) => {
            let number = leading_number(text)?.replace(',', ".");
            number.parse::<f64>().ok().map(|_| number)
        }
        (Form::Boolean, DeValue::String(text)) => truth(text).map(str::to_owned),
        (Form::Boolean, DeValue::Integer(integer)) => truth(integer.as_str()).map(str::to_owned),
        (Form::Text, DeValue::Integer(integer)) => Some(format!("\"{integer}\"")),
        (Form::Text, DeValue::Float(float)) => Some(format!("\"{float}\"")),
        (Form::Text, DeValue::Boolean(boolean)) => Some(format!("\"{boolean}\"")),
        (Form::Text, DeValue::Datetime(datetime)) => Some(format!("\"{datetime}\"")),
        (Form::Words(words), DeValue::String(word)) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            nearest(word, &words).map(|word| format!("{word:?}"))
        }
        (Form::Words(words), DeValue::Integer(integer)) => {
            words.iter().find(|word| *word == integer.as_str()).map(|word| format!("{word:?}"))
        }
        (Form::Any(forms), value) => {
            // A number alone is not the whole list.
            let is_part = |form: &&Form| matches!((form, value), (Form::List { .. }, DeValue::Integer(_)));
            forms.iter().filter(|form| !is_part(form)).find_map(|form| suggestion(value, form))
        }
        (Form::List { of, .. }, DeValue::String(text)) if matches!(**of, Form::Text) => {
            let items: Vec<String> = text.split(',').map(|item| format!("{:?}", item.trim())).collect();
            Some(format!("[{}]", items.join(", ")))
        }
        (Form::List { of, length: None }, DeValue::Integer(integer)) if is_of(value, of) => {
            Some(format!("[{integer}]"))
        }
        (Form::List { of, length: None }, DeValue::Float(float)) if is_of(value, of) => Some(format!("[{float}]")),
        (form, DeValue::Array(array)) => match array.as_ref() {
            [only] if is_of(only.get_ref(), form) => scalar(only.get_ref()),
            _ => None,
        },
        _ => None,
    }
}

/// A value as TOML, if it is a single one.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(format!("{text:?}")),
        DeValue::Integer(integer) => Some(integer.to_string()),
        DeValue::Float(float) => Some(float.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        _ => None,
    }
}

/// `true` or `false` for the words that other formats have for them.
pub(crate) fn truth(word: &str) -> Option<&'static str> {
    let is_one_of = |words: &[&str]| words.iter().any(|known| word.trim().eq_ignore_ascii_case(known));
    if is_one_of(&["true", "yes", "on", "y", "1", "enabled"]) {
        Some("true")
    } else if is_one_of(&["false", "no", "off", "n", "0", "disabled"]) {
        Some("false")
    } else {
        None
    }
}

/// Whether a word stands for no value in other formats.
pub(crate) fn is_null(word: &str) -> bool {
    ["null", "none", "nil", "undefined", "~"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// The number at the start of a text such as `50 ms`, if nothing but a unit follows.
pub(crate) fn leading_number(text: &str) -> Option<&str> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_lowercase();
    let is_unit = unit.is_empty() || UNITS.contains(&unit.as_str());
    (number.contains(|c: char| c.is_ascii_digit()) && is_unit).then_some(number)
}

fn as_i128(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(integer) => as_i128(integer).map(|integer| integer as f64),
        DeValue::Float(float) => {
            let number: f64 = float.as_str().parse().ok()?;
            // A number too large for the type is read as infinite; only a written `inf` means that.
            (number.is_finite() || float.as_str().contains(['i', 'n'])).then_some(number)
        }
        _ => None,
    }
}

/// Whether a value at this key may be a secret that was written into the wrong place.
fn is_secret(key: &str) -> bool {
    key.contains("password") || key.contains("key_file")
}

/// Returns what to write for a key that is missing below `table`.
pub(crate) fn missing(table: &Key, doc: &KeyDoc) -> String {
    match &doc.children {
        Children::Named(_) => format!("write a table such as [{}]", table.child(doc.key).child("NAME")),
        Children::Family(family) => {
            let kinds: Vec<String> = family.kinds.iter().map(|kind| format!("{}.{}", doc.key, kind.name)).collect();
            format!("write one of {}", listed(&kinds))
        }
        Children::Table(below) => format!("write {}", sketch(doc.key, below)),
        Children::None | Children::List(_) => {
            let value = doc.example.map_or_else(|| example(&doc.form), str::to_owned);
            format!("write {} = {value}", doc.key)
        }
    }
}

/// Returns a table with the keys that must be written in it, such as `window = { samples = 200, hop = 50 }`.
pub(crate) fn sketch(key: &str, table: &TableDoc) -> String {
    let value = |doc: &KeyDoc| match (&doc.children, doc.example) {
        (Children::Table(below), _) => sketch(doc.key, below),
        (_, Some(example)) => format!("{} = {example}", doc.key),
        _ => format!("{} = {}", doc.key, example(&doc.form)),
    };
    let keys: Vec<String> = table.keys.iter().filter(|doc| doc.required).map(value).collect();
    match (keys.is_empty(), needs_kind(table)) {
        (true, false) => format!("{key} = {{}}"),
        (true, true) => format!("{key} = {{ ... }}"),
        (false, _) => format!("{key} = {{ {} }}", keys.join(", ")),
    }
}

/// Returns whether something must be written in a table.
pub(crate) fn needs_keys(table: &TableDoc) -> bool {
    needs_kind(table) || table.keys.iter().any(|doc| doc.required)
}

fn needs_kind(table: &TableDoc) -> bool {
    table.kinds.as_ref().is_some_and(|family| !family.optional)
}

/// Returns what is wanted at a key with tables below it.
pub(crate) fn wanted_children(key: &str, children: &Children) -> String {
    match children {
        Children::Table(table) => format!("a table; write {}", sketch(key, table)),
        Children::List(_) => "a list of tables, such as [{ ... }, { ... }]".to_owned(),
        Children::Named(_) => format!("tables under names of your own, such as [{key}.NAME]"),
        Children::Family(_) | Children::None => "a table".to_owned(),
    }
}

/// Adds the tables below `doc` that have a key called `name`, each as a path with `NAME` for names that the user chooses.
pub(crate) fn places(name: &str, doc: &TableDoc, path: &str, found: &mut Vec<String>) {
    let join = |path: &str, name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for key in &doc.keys {
        if key.key == name && !path.is_empty() {
            found.push(format!("`{path}`"));
        }
        places_below(name, &key.children, &join(path, key.key), found);
    }
    for kind in doc.kinds.iter().flat_map(|family| &family.kinds) {
        places(name, &kind.table, &join(path, kind.name), found);
    }
}

fn places_below(name: &str, children: &Children, path: &str, found: &mut Vec<String>) {
    match children {
        Children::None => {}
        Children::Table(table) => places(name, table, path, found),
        Children::Named(below) => places_below(name, below, &format!("{path}.NAME"), found),
        Children::List(below) => places_below(name, below, path, found),
        Children::Family(family) => {
            family.kinds.iter().for_each(|kind| places(name, &kind.table, &format!("{path}.{}", kind.name), found));
        }
    }
}
