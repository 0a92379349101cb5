//! Where a key stands in a TOML text, and how a problem with it is shown.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::text::width;

/// The most characters of a line that are shown.
const LINE_CHARS: usize = 110;
/// Those before the place that is meant, in a longer line.
const CHARS_BEFORE: usize = 40;

/// The way from the root of the document to a value; an index into an array is a segment too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(Vec<String>);

impl Key {
    pub fn new(segments: &[&str]) -> Self {
        Self(segments.iter().map(|s| (*s).to_owned()).collect())
    }

    pub fn child(&self, segment: impl fmt::Display) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment.to_string());
        Self(segments)
    }

    /// Returns whether the key is at `path`, of which a `*` is any one part.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        let parts = path.split('.');
        parts.clone().count() == self.0.len() && parts.zip(&self.0).all(|(part, name)| part == "*" || part == name)
    }

    /// Returns the last part of the key; empty for the root.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// The span of `key` in a document, or of the nearest table around it when the key is not written there.
pub fn span_of(root: &DeTable<'_>, key: &Key) -> Option<Range<usize>> {
    let mut span = None;
    let mut value: Option<&DeValue<'_>> = None;
    for segment in &key.0 {
        let found = match value {
            None => root.get(segment.as_str()),
            Some(DeValue::Table(table)) => table.get(segment.as_str()),
            Some(DeValue::Array(array)) => segment.parse::<usize>().ok().and_then(|i| array.get(i)),
            Some(_) => None,
        };
        let Some(found) = found else { break };
        span = Some(found.span());
        value = Some(found.get_ref());
    }
    span
}

/// Shows `message` with file, line, column and the line of text that it is about.
pub fn show(file: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let Some(span) = span.filter(|s| s.start <= text.len() && text.is_char_boundary(s.start)) else {
        return format!("{}: {message}", file.display());
    };
    let before = &text[..span.start];
    let line_number = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let column = text[line_start..span.start].chars().count() + 1;
    let line = text[line_start..].lines().next().unwrap_or("");
    let in_line = span.end.min(line_start + line.len()).max(span.start);
    let marked = text.get(span.start..in_line).map_or(1, |s| s.chars().count().max(1));
    let gutter = " ".repeat(line_number.to_string().len());
    // The byte order mark is not a character of the line.
    let bom = usize::from(line.starts_with('\u{feff}'));
    let column = column.saturating_sub(bom).max(1);
    let (shown, place) = excerpt(without_credentials(line).trim_start_matches('\u{feff}'), column - 1);
    let marked = marked.min(width(&shown).saturating_sub(place)).max(1);
    format!(
        "{}:{line_number}:{column}: {message}\n {line_number} | {shown}\n {gutter} | {}{}",
        file.display(),
        " ".repeat(place),
        "^".repeat(marked),
    )
}

/// A problem as [`show`] has shown it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub file: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    /// The key that the problem is about, if it is about one.
    pub key: Option<String>,
    pub message: String,
}

/// Takes shown problems apart again, for programs; the lines of the file are left out.
pub fn parts(shown: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in shown.lines() {
        let is_of_file = line
            .strip_prefix(' ')
            .is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with("| "));
        match (is_of_file, placed(line), parts.last_mut()) {
            (true, ..) => {}
            (false, Some(part), _) => parts.push(part),
            (false, None, Some(last)) => {
                last.message.push('\n');
                last.message.push_str(line);
            }
            (false, None, None) => parts.push(Part { message: line.to_owned(), ..Part::default() }),
        }
    }
    parts
}

/// Reads `FILE:LINE:COLUMN: MESSAGE` or `FILE: MESSAGE`.
fn placed(line: &str) -> Option<Part> {
    let (before, message) = line.split_once(": ")?;
    let mut fields = before.rsplitn(3, ':');
    let numbers = (fields.next().and_then(|n| n.parse().ok()), fields.next().and_then(|n| n.parse().ok()));
    let (file, line, column) = match (numbers, fields.next()) {
        ((Some(column), Some(line)), Some(file)) => (file, Some(line), Some(column)),
        _ => (before, None, None),
    };
    // Only what is in the place of a file begins a problem: other lines belong to the one before.
    if line.is_none() && !file.contains(['/', '.']) {
        return None;
    }
    let key = message.split_once(": ").filter(|(key, _)| is_key(key));
    let (key, message) = key.map_or((None, message), |(key, message)| (Some(key.to_owned()), message));
    Some(Part { file: Some(file.to_owned()), line, column, key, message: message.to_owned() })
}

fn is_key(text: &str) -> bool {
    const TABLES: [&str; 8] = ["node", "runtime", "mqtt", "metrics", "power", "delegates", "pipelines", "version"];
    !text.contains(' ') && TABLES.contains(&text.split('.').next().unwrap_or_default())
}

/// Returns the part of a line around its character `at`, with nothing in it that could control a terminal, and the columns
/// before that character.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    let clean = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let chars: Vec<char> = line.chars().map(clean).collect();
    let start =
        if chars.len() > LINE_CHARS { at.saturating_sub(CHARS_BEFORE).min(chars.len() - LINE_CHARS) } else { 0 };
    let end = chars.len().min(start + LINE_CHARS);
    let before: String = chars[start..at.clamp(start, end)].iter().collect();
    let mut shown: String = chars[start..end].iter().collect();
    if end < chars.len() {
        shown.push_str("...");
    }
    if start > 0 {
        return (format!("...{shown}"), width(&before) + 3);
    }
    (shown, width(&before))
}

/// The line with what stands between `://` and `@`, or behind `password =`, blotted out: logs and terminals are no place
/// for a password.
fn without_credentials(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    for word in ["password", "passwd"] {
        let begins = |place: &usize| !lower[..*place].ends_with('_');
        let behind = lower.find(word).filter(begins).map(|place| place + word.len());
        let given = behind.filter(|behind| lower[*behind..].trim_start_matches(['"', '\'', ' ']).starts_with('='));
        if let Some(behind) = given {
            let hidden = "*".repeat(line[behind..].chars().count().saturating_sub(3));
            return format!("{} = {hidden}", &line[..behind]);
        }
    }
    let credentials = line.find("://").zip(line.rfind('@')).filter(|(scheme, at)| scheme + 3 < *at);
    credentials.map_or_else(
        || line.to_owned(),
        |(scheme, at)| {
            let hidden = "*".repeat(line[scheme + 3..at].chars().count());
            format!("{}{hidden}{}", &line[..scheme + 3], &line[at..])
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_taken_apart_again() {
        let text = "[a]
b = 1
";
        let file = Path::new("/etc/x:1/edgewatt.toml");
        let shown = [
            show(file, text, Some(8..9), "pipelines.a.b: 1 is too small: write 2"),
            show(
                file,
                text,
                Some(4..5),
                "unknown field `b`, expected one of `c`
second line",
            ),
            show(file, text, None, "cannot read the configuration: No such file"),
        ]
        .join(
            "
",
        );
        let part = |at: Option<(usize, usize)>, key: Option<&str>, message: &str| Part {
            file: Some(file.display().to_string()),
            line: at.map(|at| at.0),
            column: at.map(|at| at.1),
            key: key.map(str::to_owned),
            message: message.to_owned(),
        };
        assert_eq!(
            parts(&shown),
            [
                part(Some((2, 5)), Some("pipelines.a.b"), "1 is too small: write 2"),
                part(
                    Some((2, 1)),
                    None,
                    "unknown field `b`, expected one of `c`
second line"
                ),
                part(None, None, "cannot read the configuration: No such file"),
            ]
        );
        assert_eq!(parts("no place"), [Part { message: "no place".into(), ..Part::default() }]);
    }

    fn span_in(text: &str, segments: &[&str]) -> Option<Range<usize>> {
        span_of(DeTable::parse(text).unwrap().get_ref(), &Key::new(segments))
    }

    const TEXT: &str = "[a]\nb = { c = [1, 20] }\n\n[a.x.y]\nz = 'é'\n";

    #[test]
    fn a_key_is_found_where_it_stands() {
        let at = |segments: &[&str]| span_in(TEXT, segments).map(|s| TEXT[s].to_owned());
        assert_eq!(at(&["a", "b", "c", "1"]).as_deref(), Some("20"));
        assert_eq!(at(&["a", "x", "y", "z"]).as_deref(), Some("'é'"));
        assert_eq!(at(&["a", "b", "missing"]).as_deref(), Some("{ c = [1, 20] }"));
        assert_eq!(at(&["nothing"]), None);
    }

    #[test]
    fn a_password_is_never_shown() {
        let text = "broker = \"mqtt://bob:s3cret@h\"";
        let shown = show(Path::new("f.toml"), text, span_in(text, &["broker"]), "no");
        assert!(shown.contains("mqtt://**********@h") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn nor_is_one_under_a_key_that_there_is_not() {
        for line in ["password = 's3cret' # x", "  passwd=\"s3cret\"", "mqtt = { broker = 'h', Password = 's3cret' }"] {
            let shown = show(Path::new("f.toml"), line, Some(0..2), "unknown field `password`");
            assert!(shown.contains("unknown field") && !shown.contains("s3cret"), "{shown}");
        }
        for line in ["password_file = '/etc/p'", "allow_plaintext_password = true"] {
            assert!(show(Path::new("f.toml"), line, Some(0..2), "no").contains(line));
        }
    }

    #[test]
    fn a_problem_shows_line_and_column() {
        let span = span_in(TEXT, &["a", "b", "c", "1"]);
        let shown = show(Path::new("f.toml"), TEXT, span, "too much");
        assert_eq!(shown, "f.toml:2:15: too much\n 2 | b = { c = [1, 20] }\n   |               ^^");
    }
}
