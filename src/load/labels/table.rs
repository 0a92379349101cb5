//! Labels in a table: CSV or TSV with a column of names, as the class map of YAMNet.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::Problem;
use super::order::{Entries, Entry, Numbers};
use super::text::Lines;

/// What the column with the names is called, the best first; lower case, without blanks and signs.
const NAMES: [&str; 11] = [
    "displayname",
    "label",
    "name",
    "labelname",
    "classname",
    "signname",
    "class",
    "category",
    "labels",
    "names",
    "title",
];
/// What the column with the index is called. Pandas writes none.
const INDICES: [&str; 8] = ["index", "classindex", "id", "classid", "labelid", "idx", "number", ""];

/// Reads a table; `None` if the lines are not one.
pub(super) fn entries(lines: &Lines<'_>, extension: &str, scores: Option<usize>) -> Result<Option<Entries>, Problem> {
    let Some((_, first)) = lines.list.first() else { return Ok(None) };
    let delimiter = [b'\t', b';', b','].into_iter().find(|sign| first.as_bytes().contains(sign)).unwrap_or(b',');
    let header = fields(first, delimiter);
    let is_named = extension == "csv" || extension == "tsv";
    let words: Vec<String> = header.iter().map(|field| plain(field)).collect();
    let has = |known: &[&str]| words.iter().any(|word| known.contains(&word.as_str()));
    if header.len() == 1 {
        let is_header = is_named && has(&NAMES) && scores.is_none_or(|scores| scores + 1 == lines.list.len());
        return Ok(is_header.then(|| column_alone(lines, &header[0])));
    }
    let is_table = is_named || has(&NAMES) && has(&INDICES);
    if lines.list.len() < 2 || !is_table {
        return Ok(None);
    }
    let rows: Vec<(usize, Vec<String>)> =
        lines.list.iter().map(|(line, text)| (*line, fields(text, delimiter))).collect();
    if let Some((line, row)) = rows.iter().find(|(_, row)| row.len() != header.len()) {
        // Labels with commas of their own, one a line.
        if !has(&NAMES) {
            return Ok(None);
        }
        let message = format!("{} columns, where the first line has {}", row.len(), header.len());
        return Err(Problem::at(*line, message));
    }
    let is_number = |row: &[String], column: usize| row.get(column).is_some_and(|field| field.parse::<u64>().is_ok());
    let numbers: Vec<usize> =
        (0..header.len()).filter(|column| rows.iter().skip(1).all(|(_, row)| is_number(row, *column))).collect();
    let has_header = has(&NAMES) || numbers.iter().any(|column| !is_number(&header, *column));
    let rows = if has_header { rows.get(1..).unwrap_or_default() } else { &rows };
    let values = |column: usize| rows.iter().filter_map(move |(_, row)| row.get(column)?.parse::<u64>().ok());
    let is_sound = |column: &usize| matches!(Numbers::of(values(*column)), Numbers::FromZero | Numbers::FromOne);
    let called = |column: &usize| words.get(*column).is_some_and(|word| INDICES.contains(&word.as_str()));
    let index = numbers.iter().find(|column| has_header && called(column)).or(numbers.iter().find(|c| is_sound(c)));
    let others: Vec<usize> = (0..header.len()).filter(|column| !numbers.contains(column)).collect();
    let by_word = NAMES.iter().find_map(|word| others.iter().find(|column| words[**column] == *word));
    let name = match (by_word.filter(|_| has_header), others.as_slice()) {
        (Some(name), _) | (None, [name]) => *name,
        _ => {
            let message = "it is not known which column has the labels; write one label a line, or a first line that calls \
                           the column `label`";
            return Err(Problem::new(message));
        }
    };
    let mut list = Vec::new();
    for (line, row) in rows {
        let text = row.get(name).cloned().unwrap_or_default();
        if text.is_empty() {
            return Err(Problem::at(*line, "the label is empty; each class needs one"));
        }
        let number = index.and_then(|index| row.get(*index)?.parse().ok());
        list.push(Entry { number, name: text });
    }
    let form = if has_header { format!(", column `{}`", header[name]) } else { format!(", column {}", name + 1) };
    Ok(Some(Entries { list, form, ..Entries::default() }))
}

fn column_alone(lines: &Lines<'_>, header: &str) -> Entries {
    let list = lines.list.iter().skip(1).map(|(_, line)| Entry { number: None, name: (*line).to_owned() });
    Entries { list: list.collect(), form: format!(", column `{header}`"), ..Entries::default() }
}

fn plain(field: &str) -> String {
    field.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Returns the fields of a line, without their quotes.
fn fields(line: &str, delimiter: u8) -> Vec<String> {
    let mut reader: Reader = ReaderBuilder::new().delimiter(delimiter).build();
    let (mut output, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 2]);
    let (mut read, mut written, mut count) = (0, 0, 0);
    loop {
        let (result, r, w, n) =
            reader.read_record(&line.as_bytes()[read..], &mut output[written..], &mut ends[count..]);
        (read, written, count) = (read + r, written + w, count + n);
        // Without more input, the reader closes the last field.
        if result != ReadRecordResult::InputEmpty {
            break;
        }
    }
    let mut start = 0;
    let mut fields = Vec::new();
    for end in ends.iter().take(count) {
        let field = output.get(start..*end).unwrap_or_default();
        fields.push(String::from_utf8_lossy(field).trim().to_owned());
        start = *end;
    }
    fields
}
