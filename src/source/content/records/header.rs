//! The line that names the columns: where each column in use is, and what is wrong with a line that does not say so.

use super::fields::{ColumnError, Delimiter, Fields, column};
use super::reject::shown;
use super::{Decimal, Records, Role, time};
use crate::text;
use crate::text::counted;

/// Why the beginning of a file or stream cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("the header has no column {missing}; it has {found}{hint}")]
    Missing { missing: String, found: String, hint: String },
    #[error(
        "the header has the column `{name}` twice, as column {first} and as column {second}; give them different names"
    )]
    Twice { name: String, first: usize, second: usize },
    #[error("the text is UTF-16; save it as UTF-8")]
    Utf16,
    #[error("there is no header: the text is empty, or has only comments")]
    Absent,
    #[error("the first line is longer than 64 KiB, so it is not a header")]
    TooLong,
}

impl HeaderError {
    /// Adds that the line with this number is a header.
    pub(super) fn with_header_at(self, number: u64) -> Self {
        match self {
            Self::Missing { missing, found, .. } => {
                let hint = format!("; line {number} has them: set records.skip_lines = {}", number - 1);
                Self::Missing { missing, found, hint }
            }
            other => other,
        }
    }
}

/// Returns the use of each column that a header names. Columns without a name at its end are left out.
///
/// # Errors
/// A column in use is missing, or is there twice.
pub(super) fn roles(records: &Records, line: &[u8]) -> Result<Vec<Role>, HeaderError> {
    let names = names(records.delimiter, line);
    let (mut roles, mut missing) = (vec![Role::Unused; names.len()], Vec::new());
    for (name, role) in records.used_roles() {
        match column(&names, name) {
            Ok(place) => roles[place] = role,
            Err(ColumnError::Missing) => missing.push(format!("`{name}`")),
            Err(ColumnError::Twice(first, second)) => {
                return Err(HeaderError::Twice { name: name.to_owned(), first, second });
            }
        }
    }
    if missing.is_empty() {
        return Ok(roles);
    }
    let found = if names.is_empty() { "none".to_owned() } else { found(&names) };
    Err(HeaderError::Missing { missing: missing.join(", "), found, hint: hint(records, line, &names) })
}

/// Returns the names in a header, without those at its end that are empty.
fn names(delimiter: Delimiter, line: &[u8]) -> Vec<String> {
    let mut fields = Fields::new(delimiter);
    let count = fields.split(line);
    let mut names: Vec<String> = (0..count).map(|index| fields.text(line, index).into_owned()).collect();
    while names.last().is_some_and(String::is_empty) {
        names.pop();
    }
    names
}

/// Returns the names as they are shown, each cut.
fn found(names: &[String]) -> String {
    const MOST: usize = 40;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| shown(name.as_bytes()).replace('`', "")).collect();
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Says what would be right, as far as that can be guessed.
fn hint(records: &Records, line: &[u8], found: &[String]) -> String {
    let has_all = |names: &[String]| records.used().all(|name| column(names, name).is_ok());
    let other = Delimiter::ALL.into_iter().filter(|other| *other != records.delimiter);
    if let Some(right) = other.into_iter().find(|other| has_all(&names(*other, line))) {
        let (shown, quoted) = (right.shown(), right.quoted());
        return format!("; the columns are separated by {shown}: set records.delimiter = {quoted}");
    }
    let is_number = |name: &String| time(name.as_bytes(), records.time_unit, records.decimal).is_ok();
    if !found.is_empty() && found.iter().all(is_number) {
        return "; the first line is numbers: for lines without a header set records.header = false and \
                records.columns = [\"...\"], all columns in order"
            .to_owned();
    }
    let lower: Vec<String> = found.iter().map(|name| name.to_lowercase()).collect();
    if records.used().all(|name| column(&lower, &name.to_lowercase()).is_ok()) {
        return "; upper and lower case differ".to_owned();
    }
    if matches!(line.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return "; the text is JSON: set records.format = \"ndjson\", or \"json\" if an object takes several lines"
            .to_owned();
    }
    if let Some(what) = not_csv(line) {
        return format!("; {what}");
    }
    if !records.used().any(|name| found.contains(name)) {
        return "; if other lines stand before the header, set records.skip_lines or records.comment".to_owned();
    }
    String::new()
}

/// Says what a file is whose first line is not a line of CSV.
fn not_csv(line: &[u8]) -> Option<&'static str> {
    if text::is_lfs_pointer(line) {
        return Some("it is a pointer of Git LFS, not the file itself; run: git lfs pull");
    }
    if line.trim_ascii_start().starts_with(b"<") {
        return Some("it is a web page or XML, not CSV");
    }
    if line.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
        return Some("it is not text; unpack it, or save it as CSV");
    }
    str::from_utf8(line).is_err().then_some("it is not UTF-8; save it as UTF-8")
}

/// Says why a line of CSV has another number of fields than there are columns, and what would be right.
pub(super) fn explain_count(records: &Records, line: &[u8], found: usize, columns: usize) -> String {
    let named = if records.has_header() { "the header" } else { "records.columns" };
    let others = Delimiter::ALL.into_iter().filter(|other| *other != records.delimiter);
    let right = others.into_iter().find(|other| columns > 1 && Fields::new(*other).split(line) == columns);
    let hint = match right {
        Some(right) => {
            format!("; they are separated by {}: set records.delimiter = {}", right.shown(), right.quoted())
        }
        None if records.delimiter == Delimiter::Comma && records.decimal == Decimal::Point && found > columns => {
            "; if numbers have a decimal comma, set records.delimiter and records.decimal = \",\"".to_owned()
        }
        None => String::new(),
    };
    format!("the line has {}, {named} has {columns}{hint}: {}", counted(found, "field"), shown(line.trim_ascii()))
}
