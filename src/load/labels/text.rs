//! One label a line, with or without an index before or after it.

use std::collections::HashSet;

use super::Problem;
use super::order::{Entries, Entry, Numbers};

/// The lines of a text, without blank ones at the end and without comments.
pub(super) struct Lines<'a> {
    /// Each with its number in the file.
    pub list: Vec<(usize, &'a str)>,
    /// Lines that start with `# `.
    comments: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        // Lines end with LF, CRLF, or CR as on old systems.
        let end = if text.contains('\n') { '\n' } else { '\r' };
        let mut list: Vec<(usize, &str)> =
            text.trim_end().split(end).enumerate().map(|(i, line)| (i + 1, line.trim())).collect();
        let is_comment = |line: &str| line == "#" || line.starts_with("# ");
        let comments = list.iter().filter(|(_, line)| is_comment(line)).count();
        if comments == list.len() {
            return Self { list, comments: 0 };
        }
        list.retain(|(_, line)| !is_comment(line));
        Self { list, comments }
    }
}

/// What stands between an index and its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Separator {
    /// A sign such as `:`, which no label has by chance in every line.
    Sign,
    /// A blank, as in `2 doors`, which may be a label.
    Blank,
}

pub(super) fn entries(lines: Lines<'_>, scores: Option<usize>) -> Result<Entries, Problem> {
    if let [(_, line)] = lines.list.as_slice() {
        let parts: Vec<&str> = line.split([',', ';', '\t']).map(str::trim).collect();
        if parts.len() > 1 && scores.is_none_or(|scores| scores == parts.len()) && !parts.contains(&"") {
            let list = parts.iter().map(|part| entry(None, unquoted(part))).collect();
            return Ok(Entries { list, form: ", one line with separators".into(), ..Entries::default() });
        }
    }
    let mut form = match lines.comments {
        0 => String::new(),
        1 => ", without 1 comment line".into(),
        count => format!(", without {count} comment lines"),
    };
    if let Some((number, _)) = lines.list.iter().find(|(_, line)| line.is_empty()) {
        let message =
            "the line is empty, and each line is the label of a class; remove it, or write a name such as `unused`";
        return Err(Problem::at(*number, message));
    }
    let mut lines = lines.list;
    for Wrapping { strip, last_may_lack, said } in &WRAPPINGS {
        if let Some(stripped) = stripped(&lines, *strip, *last_may_lack) {
            lines = stripped;
            form += said;
        }
    }
    let (list, warning) = numbered(&lines).unwrap_or_else(|warning| {
        let quoted = lines.iter().all(|(_, line)| unquoted(line) != *line);
        let name = |line| if quoted { unquoted(line) } else { line };
        (lines.iter().map(|(_, line)| entry(None, name(line))).collect(), warning)
    });
    Ok(Entries { list, form, warnings: warning.into_iter().collect(), ..Entries::default() })
}

type Strip = fn(&str) -> Option<&str>;

/// What a list that was copied from another text has around each label.
struct Wrapping {
    strip: Strip,
    last_may_lack: bool,
    said: &'static str,
}

const WRAPPINGS: [Wrapping; 2] = [
    Wrapping {
        strip: |line| line.strip_suffix(',').map(str::trim_end),
        last_may_lack: true,
        said: ", without the commas after them",
    },
    Wrapping {
        strip: |line| line.strip_prefix("- ").map(str::trim_start),
        last_may_lack: false,
        said: ", without the `-` before them",
    },
];

/// Returns the lines stripped, if each can be.
fn stripped<'a>(lines: &[(usize, &'a str)], strip: Strip, last_may_lack: bool) -> Option<Vec<(usize, &'a str)>> {
    let (last, before) = lines.split_last()?;
    let strip_one = |(number, line): &(usize, &'a str)| Some((*number, strip(line).filter(|line| !line.is_empty())?));
    let mut stripped: Vec<(usize, &str)> = before.iter().map(strip_one).collect::<Option<_>>()?;
    match strip_one(last) {
        Some(last) => stripped.push(last),
        None if last_may_lack && !before.is_empty() => stripped.push(*last),
        None => return None,
    }
    Some(stripped)
}

/// Returns what a text is that has its labels inside something that is not read.
pub(super) fn not_labels(text: &str) -> Option<&'static str> {
    if text.starts_with("{\\rtf") {
        return Some("rich text (RTF)");
    }
    if text.starts_with("<?xml") || text.starts_with('<') && text.ends_with('>') && text.contains("</") {
        return Some("XML");
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_key = |line: &str| line.ends_with(':') && !line.contains(' ');
    let is_item = |line: &str| line.starts_with("- ") || before(line).is_some_and(|_| line.contains(": "));
    (lines.next().is_some_and(is_key) && lines.clone().next().is_some() && lines.all(is_item)).then_some("YAML")
}

fn entry(number: Option<u64>, name: &str) -> Entry {
    // A tab between the parts of a label is a blank.
    Entry { number, name: name.split('\t').map(str::trim).collect::<Vec<_>>().join(" ") }
}

type Numbered = (Vec<Entry>, Option<String>);

/// Takes the index off each line, if every line has one and they can be indices of classes. Otherwise the labels are whole
/// lines; returns a warning then if that may not be what was meant.
fn numbered(lines: &[(usize, &str)]) -> Result<Numbered, Option<String>> {
    let before: Vec<_> = lines.iter().map(|(_, line)| before(line)).collect();
    let count = before.iter().flatten().count();
    if count < lines.len() {
        let signs = before.iter().flatten().filter(|(_, separator, _)| *separator == Separator::Sign).count();
        let odd = lines.iter().zip(&before).find(|(_, before)| before.is_none());
        return match odd {
            Some(((number, _), _)) if 2 * signs > lines.len() => Err(Some(format!(
                "{count} of {} lines start with an index, but line {number} does not, so the labels are whole lines",
                lines.len()
            ))),
            _ => after_all(lines),
        };
    }
    let before: Vec<_> = before.into_iter().flatten().collect();
    let by_sign = before.iter().all(|(_, separator, _)| *separator == Separator::Sign);
    let numbers = || before.iter().map(|(number, _, _)| *number);
    let mut seen = HashSet::new();
    let distinct = before.iter().all(|(_, _, name)| seen.insert(*name));
    let in_order = numbers().is_sorted();
    // `1 person`, `2 persons`, `2 doors`: numbers that belong to the labels.
    let part_of_label = !by_sign && (in_order && !distinct || matches!(Numbers::of(numbers()), Numbers::Twice(_)));
    if part_of_label {
        return Err(Some("every line starts with a number, which is taken as part of the label".into()));
    }
    Ok((before.into_iter().map(|(number, _, name)| entry(Some(number), unquoted(name))).collect(), None))
}

/// Like [`numbered`], for an index at the end of each line, after a sign.
fn after_all(lines: &[(usize, &str)]) -> Result<Numbered, Option<String>> {
    let Some(after) = lines.iter().map(|(_, line)| after(line)).collect::<Option<Vec<_>>>() else { return Err(None) };
    let numbers = || after.iter().map(|(number, _, _)| *number);
    let sound = matches!(Numbers::of(numbers()), Numbers::FromZero | Numbers::FromOne);
    if sound && after.iter().all(|(_, separator, _)| *separator == Separator::Sign) {
        return Ok((after.into_iter().map(|(number, _, name)| entry(Some(number), unquoted(name))).collect(), None));
    }
    if sound && !numbers().is_sorted() {
        let message = "every line ends with a number, and they are not in order; the labels are whole lines, in the order of \
                       the lines. Write the index first if the numbers are indices";
        return Err(Some(message.into()));
    }
    let mut seen = HashSet::new();
    let distinct = after.iter().all(|(_, _, name)| seen.insert(*name));
    let message = "every line ends with a number, which is taken as part of the label";
    Err((sound && distinct && after.len() > 1).then(|| message.into()))
}

/// Returns index, separator and label of a line such as `0: idle`, `0,idle`, `0 - idle`, `0 -> idle`, `[0] idle` or
/// `0 idle`.
fn before(line: &str) -> Option<(u64, Separator, &str)> {
    if let Some((number, name)) = in_brackets(line) {
        return Some((number, Separator::Sign, name));
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = line.split_at_checked(digits)?;
    let number = number.parse().ok()?;
    let name = rest.trim_start();
    let sign = name.strip_prefix([':', ',', ';', '=', ')']).or_else(|| name.strip_prefix(". "));
    let sign = sign.or_else(|| name.strip_prefix("- ").filter(|_| name != rest));
    let sign = name.strip_prefix("->").or_else(|| name.strip_prefix("=>")).or(sign);
    let (separator, name) = match sign {
        Some(name) => (Separator::Sign, name.trim()),
        None if rest.starts_with('\t') => (Separator::Sign, name),
        None if name.len() < rest.len() => (Separator::Blank, name),
        None => return None,
    };
    (!name.is_empty()).then_some((number, separator, name))
}

/// Returns index and label of a line such as `[0] idle` or `(0) idle`.
fn in_brackets(line: &str) -> Option<(u64, &str)> {
    let (number, name) = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => line.strip_prefix('(')?.split_once(')')?,
    };
    let name = name.trim_start_matches([':', ' ', '\t']);
    let number = number.trim();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok()?, name)).filter(|_| is_number && !name.is_empty())
}

/// Returns index, separator and label of a line such as `idle,0` or `idle 0`.
fn after(line: &str) -> Option<(u64, Separator, &str)> {
    let digits = line.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (rest, number) = line.split_at_checked(line.len() - digits)?;
    let number = number.parse().ok()?;
    let name = rest.trim_end();
    let (separator, name) = match name.strip_suffix([':', ',', ';', '=']) {
        Some(name) => (Separator::Sign, name.trim_end()),
        None if rest.ends_with('\t') => (Separator::Sign, name),
        None if name.len() < rest.len() => (Separator::Blank, name),
        None => return None,
    };
    (!name.is_empty()).then_some((number, separator, name))
}

/// Returns a label without the quotes around it, and without a comma after them.
pub(super) fn unquoted(label: &str) -> &str {
    let text = label.strip_suffix(',').map_or(label, str::trim_end);
    let inner = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).filter(|inner| !inner.is_empty()).unwrap_or(label)
}
