//! Explains a syntax error: what stands there, and what to write.
//!
//! The parser says what its grammar expects. Most mistakes are the habits of another format (YAML, JSON, INI, Python, a shell),
//! and are known by the text at the place. A value is not repeated in a message: it may be a secret, and logs keep messages.

use std::ops::Range;

use toml::de::Error;

use super::suggest::{is_null, leading_number, truth};

/// Longer names are cut.
const MOST_SHOWN: usize = 60;
/// Most mistakes of one text that are shown.
const MOST_ERRORS: usize = 20;
/// Most that are looked at: many can be in one line.
const MOST_READ: usize = 1000;

/// A mistake, with its place in the text.
pub(crate) type Mistake = (Option<Range<usize>>, String);

/// Explains the parser's errors, in the order of the text: one per line, up to the first one that makes all after it
/// doubtful, such as a list without an end.
pub(crate) fn explain(text: &str, errors: &[Error]) -> Vec<Mistake> {
    if errors.is_empty() {
        return Vec::new();
    }
    if let Some(other) = other_format(text, errors) {
        return vec![other];
    }
    let mut mistakes: Vec<Mistake> = Vec::new();
    let mut last_line = None;
    for error in errors.iter().take(MOST_READ) {
        let span = error.span().filter(|span| text.is_char_boundary(span.start) && span.start <= text.len());
        let line = span.as_ref().map(|span| text[..span.start].matches('\n').count());
        if line.is_some() && line <= last_line {
            continue;
        }
        last_line = line;
        let (span, message) = explain_one(text, span, error.message());
        let unsure =
            ["unclosed", "array", "inline table", "multi-line"].iter().any(|word| error.message().contains(word));
        mistakes.push((span, message));
        if unsure || mistakes.len() == MOST_ERRORS {
            break;
        }
    }
    mistakes
}

/// A whole file in another format.
fn other_format(text: &str, errors: &[Error]) -> Option<Mistake> {
    let start = text.find(|c: char| !c.is_whitespace() && c != '\u{feff}')?;
    let body = &text[start..];
    let after = body.strip_prefix(['[']).unwrap_or("").trim_start();
    let place = Some(start..start + 1);
    if body.starts_with('{') || after.starts_with('{') {
        return Some((place, "this is JSON; edgewatt reads TOML: [table], then key = value, one a line".to_owned()));
    }
    if body.starts_with('<') {
        let message = "this is XML or HTML; edgewatt reads TOML: [table], then key = value, one a line";
        return Some((place, message.to_owned()));
    }
    if body.starts_with("\u{7f}ELF") || body.starts_with("PK\u{3}") {
        return Some((None, "this is not a text file; edgewatt reads TOML".to_owned()));
    }
    let is_yaml_line = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("- ")
            || line.trim_end() == "---"
            || yaml_key(line).is_some_and(|(_, value)| !value.contains('='))
    };
    let is_written = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let (yaml, lines) = text
        .lines()
        .filter(is_written)
        .fold((0, 0), |(yaml, lines), line| (yaml + usize::from(is_yaml_line(&line)), lines + 1));
    let has_table = text.lines().any(|line| line.starts_with('['));
    if yaml >= 2 && yaml * 2 > lines && !has_table {
        let message = "this is YAML; edgewatt reads TOML: `mqtt:` is written [mqtt], and `key: value` is key = value";
        return Some((errors.first().and_then(Error::span), message.to_owned()));
    }
    None
}

/// The key and value of a line such as `key: value`.
fn yaml_key(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'');
    (!key.trim().is_empty() && key.trim().chars().all(is_key)).then_some((key.trim(), value))
}

/// The line around a place.
struct Line<'t> {
    /// What is before the place.
    before: &'t str,
    /// What is from the place on.
    rest: &'t str,
    whole: &'t str,
    /// Where the place is in the text.
    at: usize,
}

impl<'t> Line<'t> {
    fn of(text: &'t str, at: usize) -> Self {
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        let end = if text[start..end].ends_with('\r') && end > at { end - 1 } else { end };
        Self { before: &text[start..at], rest: &text[at..end], whole: &text[start..end], at }
    }

    /// What is written at the place, up to what ends a value.
    fn word(&self) -> &'t str {
        let end = self.rest.find([',', ']', '}', '#']).unwrap_or(self.rest.len());
        self.rest[..end].trim_end()
    }

    fn is_value(&self) -> bool {
        self.before.trim_end().ends_with(['=', '[', ',', '{'])
    }
}

fn explain_one(text: &str, span: Option<Range<usize>>, message: &str) -> Mistake {
    let Some(at) = span.as_ref().map(|span| span.start) else {
        return (span, other_words(message));
    };
    let line = Line::of(text, at);
    let explained = strange_character(&line)
        .or_else(|| structure(text, &line, message))
        .or_else(|| string(&line, message))
        .or_else(|| key(&line, message))
        .or_else(|| after_value(&line, message))
        .or_else(|| value(&line));
    let message = explained.unwrap_or_else(|| other_words(message));
    (span, message)
}

/// A character that looks like one of TOML, or that no editor shows.
fn strange_character(line: &Line<'_>) -> Option<String> {
    let first = line.rest.chars().next()?;
    let number = format!("U+{:04X}", u32::from(first));
    match first {
        '\u{201c}'..='\u{201f}' | '\u{2018}'..='\u{201b}' | '\u{ab}' | '\u{bb}' | '`' | '\u{b4}' => {
            Some(format!("`{first}` is not a quotation mark in TOML; write \" ({number} comes from a word processor)"))
        }
        '\u{a0}' | '\u{2000}'..='\u{200f}' | '\u{202f}' | '\u{3000}' | '\u{feff}' | '\u{ad}' => {
            Some(format!("there is an invisible character here ({number}); remove it, and write a space"))
        }
        '\u{ff1d}' => Some("this is a wide `=`; write the ASCII character =".to_owned()),
        '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}' => {
            Some(format!("there is a control character here ({number}); remove it"))
        }
        _ => None,
    }
}

/// Tables, lists, and what stands twice.
fn structure(text: &str, line: &Line<'_>, message: &str) -> Option<String> {
    let starts = |start: &str| message.starts_with(start);
    if starts("duplicate key") {
        return Some(twice(text, line));
    }
    if starts("cannot extend") {
        let name = bare(line.rest);
        return Some(format!("`{name}` has a value already, so no key can stand below it; write it in one place"));
    }
    if starts("unclosed array table") {
        return Some("`]]` is missing at the end of the table's name".to_owned());
    }
    if starts("unclosed table") {
        return Some("`]` is missing at the end of the table's name".to_owned());
    }
    if starts("unclosed inline table") {
        return Some(format!("`}}` is missing at the end of the table{}", opened(text, line.at, '{', '}')));
    }
    if starts("unclosed array") {
        return Some(format!("`]` is missing at the end of the list{}", opened(text, line.at, '[', ']')));
    }
    if starts("missing comma between array elements") || starts("unexpected `=` in array") {
        let opened = opened(text, line.at, '[', ']');
        let on_its_own = line.before.trim().is_empty();
        let what = if on_its_own {
            "`]` or a comma is missing before this, in the list"
        } else {
            "a comma is missing here, in the list"
        };
        return Some(format!("{what}{opened}"));
    }
    if starts("missing comma between key-value pairs") {
        return Some("a comma is missing here: { a = 1, b = 2 }".to_owned());
    }
    if starts("missing assignment between key-value pairs") || starts("missing key for inline table") {
        return Some("in { } every value has a key: { key = value }; a list of values is written [ ]".to_owned());
    }
    if starts("extra comma") {
        return Some("there is one comma too many; remove it".to_owned());
    }
    if starts("extra assignment") || starts("extra `=`") {
        return Some("there is one `=` too many; write key = value".to_owned());
    }
    if starts("carriage return must") {
        return Some("the lines end with a carriage return alone; save the file with the line ends of Unix".to_owned());
    }
    if starts("cannot recurse") || starts("recursion limit") {
        return Some("lists or tables are nested too deeply here".to_owned());
    }
    if starts("missing array opening") || starts("missing inline table opening") || starts("missing table open") {
        let closing = line.rest.chars().next().unwrap_or(']');
        return Some(format!("nothing is open that `{closing}` could close; remove it"));
    }
    None
}

/// A key or a table that is written twice.
fn twice(text: &str, line: &Line<'_>) -> String {
    let is_header = line.before.trim_start().starts_with('[');
    let before = &text[..line.at - line.before.len()];
    let header = |line: &str| line.trim().split('#').next().unwrap_or("").trim().to_owned();
    if is_header {
        let written = header(line.whole);
        let first = before.lines().position(|other| header(other) == written);
        let place = first.map_or_else(String::new, |index| format!("; the first is in line {}", index + 1));
        let merge = if written.starts_with("[[") { "" } else { "; put the keys under one of them" };
        return format!("the table {} is written twice{place}{merge}", short(&written));
    }
    let name = bare(line.rest);
    // The lines since the last header, or the same line for a table in braces.
    let table_start = before.lines().enumerate().filter(|(_, line)| line.starts_with('[')).map(|(i, _)| i + 1).last();
    let is_same = |other: &str| {
        let other = other.trim_start();
        bare(other) == name && other[name.len().min(other.len())..].trim_start().starts_with(['=', '.'])
    };
    let mut lines = before.lines().enumerate().skip(table_start.unwrap_or(0));
    let first = lines.find(|(_, other)| is_same(other)).map(|(index, _)| index + 1);
    let place = first.map_or_else(String::new, |number| format!("; the first is in line {number}"));
    format!("the key `{}` is written twice{place}; remove one of them", short(name))
}

/// Says in which line the bracket before `at` stands that is not closed.
fn opened(text: &str, at: usize, open: char, close: char) -> String {
    let mut depth = 0_i32;
    for (index, c) in text[..at].char_indices().rev() {
        if c == close {
            depth += 1;
        } else if c == open {
            depth -= 1;
            if depth < 0 {
                return format!(" that begins in line {}", text[..index].matches('\n').count() + 1);
            }
        }
    }
    String::new()
}

/// Texts in quotes.
fn string(line: &Line<'_>, message: &str) -> Option<String> {
    let is_string = message.starts_with("invalid basic string")
        || message.starts_with("invalid literal string")
        || message.starts_with("invalid multi-line")
        || message.starts_with("missing escaped value")
        || message.starts_with("too few unicode")
        || (message.starts_with("invalid value") && message.contains("unicode"));
    if message.starts_with("invalid multi-line") {
        let quotes = if message.contains("literal") { "'''" } else { "\"\"\"" };
        return Some(format!("a text that begins with {quotes} has no end; write {quotes} behind it"));
    }
    if is_string && line.rest.trim().is_empty() {
        let quote = if message.contains("literal") { "'" } else { "\"" };
        return Some(format!("the closing {quote} is missing"));
    }
    if is_string {
        let backslash = "in \"...\" a backslash begins a special character";
        return Some(format!("{backslash}; write '...' for a text as it is, or \\\\ for a backslash"));
    }
    None
}

/// The left side of `=`.
fn key(line: &Line<'_>, message: &str) -> Option<String> {
    if message.starts_with("unquoted keys cannot be empty") || message.starts_with("keys cannot be multi-line") {
        return Some("the name of the key is missing here".to_owned());
    }
    let no_value = message.starts_with("key with no value");
    let no_key = message.starts_with("invalid unquoted key") || message.starts_with("invalid key-value pair");
    if !(no_value || no_key || message.starts_with("missing value for key")) {
        return None;
    }
    let whole = line.whole.trim_start();
    if whole.starts_with("//") || whole.starts_with(';') || whole.starts_with("/*") || whole.starts_with("--") {
        return Some("a comment begins with #".to_owned());
    }
    if let Some(name) = whole.strip_prefix("export ") {
        return Some(format!("this is a line of a shell; write {} = ...", short(bare(name))));
    }
    if let Some((name, value)) = yaml_key(whole) {
        let write = match value.trim() {
            "" => format!("[{name}] for a table, or {name} = VALUE"),
            _ => format!("{name} = VALUE"),
        };
        return Some(format!("between key and value there is `=`, not `:`; write {write}"));
    }
    if line.rest.starts_with(']') {
        return Some("`[` is missing before the table's name".to_owned());
    }
    if line.whole.contains('=') && no_value && line.rest.trim_start().starts_with(char::is_alphanumeric) {
        return Some("a key with a space is written in quotes; the keys of edgewatt have no spaces".to_owned());
    }
    if no_key {
        return Some("here a key must stand, of letters, digits, `_` and `-`, as in key = value".to_owned());
    }
    // What stands here may be anything, a password too, so it is not repeated.
    Some("this line has no `=`; write [table], or key = VALUE".to_owned())
}

/// What stands behind a value where the line should end.
fn after_value(line: &Line<'_>, message: &str) -> Option<String> {
    if !(message.starts_with("unexpected key or value") || message.starts_with("unexpected content")) {
        return None;
    }
    let rest = line.rest.trim_start();
    let before = line.before.trim_end();
    let header = line.whole.trim_start().starts_with('[');
    let decimal = rest.starts_with(',') && before.ends_with(|c: char| c.is_ascii_digit());
    if decimal && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let whole = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        return Some(format!("a number has a point, not a comma; write {whole}.{}", digits(&rest[1..])));
    }
    Some(if rest.starts_with("//") || (rest.starts_with(';') && rest.len() > 1) {
        "a comment begins with #".to_owned()
    } else if before.contains("= (") || before.contains("=(") {
        "a list is written in [ ], not in ( )".to_owned()
    } else if rest.starts_with([',', ';']) {
        format!("a line has no `{}` at its end; remove it", rest.chars().next().unwrap_or(','))
    } else if header {
        "a table's name stands alone on its line; write the key on the next line".to_owned()
    } else if rest.contains('=') {
        "one key a line; write this one on a line of its own".to_owned()
    } else if before.ends_with(['"', '\'']) && rest.starts_with(['"', '\'']) {
        "there are two texts here; for a list write [\"...\", \"...\"]".to_owned()
    } else {
        "here the line must end; what follows does not belong to the value".to_owned()
    })
}

/// The right side of `=`, or an element of a list.
fn value(line: &Line<'_>) -> Option<String> {
    // The parser may point behind the start of the value.
    let begins = line.before.rfind(['=', '[', ',', '{']).map_or(0, |index| index + 1);
    let moved = line.before.len() - begins;
    let start = line.before[begins..].len() - line.before[begins..].trim_start().len();
    let whole = Line {
        before: &line.before[..begins],
        rest: &line.whole[begins + start.min(moved)..],
        whole: line.whole,
        at: line.at,
    };
    if !whole.is_value() {
        return None;
    }
    let rest = whole.rest.split(" #").next().unwrap_or("").trim_end();
    let word = whole.word();
    let without = word.trim_end_matches(';').trim_end();
    Some(if rest.is_empty() || rest.starts_with('#') {
        "a value is missing behind `=`".to_owned()
    } else if let Some(strange) = strange_character(&whole) {
        strange
    } else if let Some(boolean) = truth(without).filter(|_| without.parse::<f64>().is_err()) {
        format!("`{}` is not a value in TOML; write {boolean}", short(without))
    } else if is_null(without) {
        format!("`{without}` is not a value in TOML; leave the key out, or write \"{without}\" if this word is meant")
    } else if let Some((value, _)) = rest.split_once("//").filter(|(value, _)| is_number(value.trim())) {
        format!("a comment begins with #; write {} # ...", value.trim())
    } else if word.len() > without.len() {
        "a line has no `;` at its end; remove it".to_owned()
    } else if rest.starts_with('(') {
        "a list is written in [ ], not in ( )".to_owned()
    } else if rest.starts_with('$') || rest.starts_with('%') {
        "variables of the environment are not expanded; write the value itself, in quotes if it is a text".to_owned()
    } else {
        number(without).unwrap_or_else(|| "a text stands in quotes; write \"...\" around it".to_owned())
    })
}

/// A number that is written in another way than in TOML.
fn number(word: &str) -> Option<String> {
    let lower = word.to_ascii_lowercase();
    if ["nan", "inf", "+inf", "-inf", "infinity"].contains(&lower.as_str()) {
        return Some(format!("`{word}` is not a number here; write a finite number"));
    }
    if lower.starts_with("0x") || lower.starts_with("0o") || lower.starts_with("0b") || lower.starts_with("+0x") {
        return Some("a hexadecimal number is written 0x1f, without a sign".to_owned());
    }
    let is_date = |word: &str| word.len() >= 8 && word.chars().filter(|c| matches!(c, '-' | ':' | '/')).count() >= 2;
    if is_date(word) && word.starts_with(|c: char| c.is_ascii_digit()) {
        return Some("this is not a valid date; write it in quotes if it is a text".to_owned());
    }
    if is_number(word) {
        let number: f64 = word.replace('_', "").parse().ok()?;
        let is_whole = !word.contains(['.', 'e', 'E']);
        return Some(format!(
            "this number is written {}",
            if is_whole { format!("{number}") } else { format!("{number:?}") }
        ));
    }
    let number = leading_number(word)?;
    if number.len() == word.trim().len() {
        return None;
    }
    number.parse::<f64>().ok()?;
    Some(format!("a number stands without its unit; write {number}"))
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))
        && word.replace('_', "").parse::<f64>().is_ok()
}

/// The name of a key at the start of a text.
fn bare(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(text.len());
    &text[..end]
}

fn short(text: &str) -> &str {
    text.char_indices().nth(MOST_SHOWN).map_or(text, |(end, _)| &text[..end])
}

/// The parser's own words, for what is not explained above.
fn other_words(message: &str) -> String {
    format!("this is not valid TOML: {}", message.replace(", expected nothing", ""))
}
