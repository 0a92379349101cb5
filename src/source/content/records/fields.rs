//! Cuts a line of separated values into its fields. Allocates nothing for a line once the buffer has grown to the longest
//! one.

use std::borrow::Cow;

use crate::schema::choice;

choice! {
    /// What separates the fields of a line.
    #[derive(Default)]
    pub enum Delimiter {
        #[default]
        Comma = ",",
        Semicolon = ";",
        Tab = "\t",
        Bar = "|",
        /// Any number of spaces and tabs.
        Blank = " ",
    }
}

impl Delimiter {
    pub(crate) const ALL: [Self; 5] = [Self::Comma, Self::Semicolon, Self::Tab, Self::Bar, Self::Blank];

    /// Returns it for a sentence.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Tab => "tabs".to_owned(),
            Self::Blank => "blanks".to_owned(),
            _ => format!("`{}`", self.name()),
        }
    }

    /// Returns it as it is written in the configuration.
    pub(crate) fn quoted(self) -> String {
        format!("{:?}", self.name())
    }
}

/// The places of the fields of the line that was cut last.
#[derive(Debug, Default)]
pub struct Fields {
    delimiter: Delimiter,
    /// Start and end of each field in the line, without its blanks and quotes.
    places: Vec<(usize, usize)>,
}

impl Fields {
    pub fn new(delimiter: Delimiter) -> Self {
        Self { delimiter, places: Vec::new() }
    }

    /// Cuts a line, with or without its newline, into fields; returns how many. A delimiter between quotes separates
    /// nothing.
    pub fn split(&mut self, line: &[u8]) -> usize {
        self.places.clear();
        match self.delimiter {
            Delimiter::Comma => self.split_at(b',', line),
            Delimiter::Semicolon => self.split_at(b';', line),
            Delimiter::Tab => self.split_at(b'\t', line),
            Delimiter::Bar => self.split_at(b'|', line),
            Delimiter::Blank => self.split_at_blanks(line),
        }
        self.places.len()
    }

    fn split_at(&mut self, delimiter: u8, line: &[u8]) {
        let mut line = &line[..line.len() - line.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count()];
        if delimiter != b';' {
            // Some data sets end each line with it.
            line = line.trim_ascii_end().strip_suffix(b";").unwrap_or(line);
        }
        let (mut start, mut quoted_to) = (0, 0);
        for at in memchr::memchr2_iter(delimiter, b'"', line) {
            if at < quoted_to {
                continue;
            }
            if line[at] == delimiter {
                self.push(line, start, at);
                start = at + 1;
            } else if line[start..at].iter().all(u8::is_ascii_whitespace) {
                quoted_to = after_quotes(line, at);
            }
        }
        self.push(line, start, line.len());
    }

    fn split_at_blanks(&mut self, line: &[u8]) {
        let mut start = 0;
        while let Some(blanks) = line[start..].iter().position(|byte| !byte.is_ascii_whitespace()) {
            start += blanks;
            let from = if line[start] == b'"' { after_quotes(line, start) } else { start };
            let end = line[from..].iter().position(u8::is_ascii_whitespace).map_or(line.len(), |length| from + length);
            self.push(line, start, end);
            start = end;
        }
    }

    /// Adds a field without the blanks around it and without its quotes.
    fn push(&mut self, line: &[u8], mut start: usize, mut end: usize) {
        let trim = |start: &mut usize, end: &mut usize| {
            while *start < *end && line[*start].is_ascii_whitespace() {
                *start += 1;
            }
            while *start < *end && line[*end - 1].is_ascii_whitespace() {
                *end -= 1;
            }
        };
        trim(&mut start, &mut end);
        if end - start >= 2 && line[start] == b'"' && line[end - 1] == b'"' {
            start += 1;
            end -= 1;
            trim(&mut start, &mut end);
        }
        self.places.push((start, end));
    }

    /// Returns field `index` of the line that was cut, as it stands between its quotes; empty if there is none.
    pub fn get<'a>(&self, line: &'a [u8], index: usize) -> &'a [u8] {
        self.places.get(index).and_then(|(start, end)| line.get(*start..*end)).unwrap_or_default()
    }

    /// Returns field `index` as text, in which a quote is a single one.
    pub fn text<'a>(&self, line: &'a [u8], index: usize) -> Cow<'a, str> {
        let text = String::from_utf8_lossy(self.get(line, index));
        if text.contains("\"\"") { Cow::Owned(text.replace("\"\"", "\"")) } else { text }
    }
}

/// Returns the place after the quotes that begin at `start`; the end of the line if they are not closed.
fn after_quotes(line: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(length) = memchr::memchr(b'"', &line[at.min(line.len())..]) {
        at += length + 1;
        if line.get(at) != Some(&b'"') {
            return at;
        }
        at += 1;
    }
    line.len()
}

/// Why the names in a header do not say where a column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ColumnError {
    Missing,
    /// The places, counted from 1.
    Twice(usize, usize),
}

/// Returns the place of a column, counted from 0, in the names of a header.
pub(crate) fn column(names: &[String], wanted: &str) -> Result<usize, ColumnError> {
    let mut places = names.iter().enumerate().filter(|(_, name)| *name == wanted).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(first), Some(second)) => Err(ColumnError::Twice(first + 1, second + 1)),
        (Some(place), None) => Ok(place),
        (None, _) => Err(ColumnError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(delimiter: Delimiter, line: &str) -> Vec<String> {
        let mut fields = Fields::new(delimiter);
        let count = fields.split(line.as_bytes());
        (0..count).map(|index| fields.text(line.as_bytes(), index).into_owned()).collect()
    }

    #[test]
    fn fields_are_cut_at_the_delimiter_without_blanks_and_quotes() {
        use Delimiter::{Bar, Blank, Comma, Semicolon, Tab};
        for (delimiter, line, expected) in [
            (Comma, "1,2\n", &["1", "2"][..]),
            (Comma, " 1 , \"2\" ,\" 3 \"\r\n", &["1", "2", "3"]),
            (Comma, "1,\"a,\"\"b\"\"\",2", &["1", "a,\"b\"", "2"]),
            (Comma, "1,,\n", &["1", "", ""]),
            (Comma, "1,2.5;\r\n", &["1", "2.5"]),
            (Comma, "", &[""]),
            (Comma, "\"1,2", &["\"1,2"]),
            (Comma, "\"a\"b,2\"x\",3", &["\"a\"b", "2\"x\"", "3"]),
            (Semicolon, "0,5;\"1;5\";", &["0,5", "1;5", ""]),
            (Tab, "1\t\t 2\t\n", &["1", "", "2", ""]),
            (Bar, "1|2", &["1", "2"]),
            (Blank, "   1 \t 2    \"a b\"  3 \r\n", &["1", "2", "a b", "3"]),
            (Blank, " \n", &[]),
        ] {
            assert_eq!(split(delimiter, line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_column_is_found_if_it_is_there_once() {
        let names = ["t", "x", "x"].map(str::to_owned);
        assert_eq!(column(&names, "t"), Ok(0));
        assert_eq!(column(&names, "x"), Err(ColumnError::Twice(2, 3)));
        assert_eq!(column(&names, "y"), Err(ColumnError::Missing));
    }
}
