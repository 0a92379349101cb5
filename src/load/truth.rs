//! Looks into a recording before the start: whether the true classes that it names are labels.

use std::io::Read;
use std::path::Path;

use crate::source::truth::some_of;
use crate::source::{Next, RecordParser, RecordReader, Records};
use crate::sys::file;

/// How much of a recording is read: some 100,000 lines.
const LOOKED_AT: u64 = 8 << 20;

/// Returns a warning if true classes in the recording at `path` are not among `labels`.
///
/// A recording that cannot be read gives none: its source says so.
pub(crate) fn check(path: &Path, records: &Records, labels: &[String]) -> Option<String> {
    let column = records.truth.as_ref()?;
    let mut file = file::open(path).ok()?.take(LOOKED_AT);
    let mut parser = RecordParser::new(records.clone(), labels.to_vec());
    let mut reader = RecordReader::new(&mut parser);
    let mut is_at_end = false;
    loop {
        let next = if is_at_end { reader.next_at_end(&mut parser) } else { reader.next(&mut parser) };
        match next.ok()? {
            Next::More if is_at_end => break,
            Next::More => is_at_end = reader.fill(&mut file).ok()? == 0,
            // Why a record is rejected is said when it is played.
            Next::Record(_) | Next::Rejected(_) => {}
        }
    }
    let seen = parser.truth_seen();
    if seen.unknown == 0 {
        return None;
    }
    let (all, unknown) = (seen.known + seen.unknown, some_of(&seen.examples));
    let labels_shown = some_of(labels);
    let close: Vec<String> = seen.examples.iter().filter_map(|name| close_label(name, labels)).collect();
    let advice = if !close.is_empty() {
        format!("; case and blanks count: {}", close.join(", "))
    } else if seen.examples.iter().all(|name| name.parse::<u64>().is_ok()) {
        "; the column has numbers: write the labels in it, or a file of labels that has these numbers as names"
            .to_owned()
    } else {
        String::new()
    };
    let column = column.escape_debug();
    Some(match seen.known {
        0 => format!(
            "none of the {all} values of `{column}` ({unknown}) is a label ({labels_shown}), so no prediction has a truth{advice}"
        ),
        _ => format!(
            "{} of the {all} values of `{column}` are not labels ({unknown}); labels are {labels_shown}{advice}",
            seen.unknown
        ),
    })
}

/// Returns in words the label that differs from `name` only in case, blanks and punctuation.
fn close_label(name: &str, labels: &[String]) -> Option<String> {
    let plain =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let label = labels.iter().find(|label| plain(label) == plain(name))?;
    Some(format!("`{}` is not `{}`", name.escape_debug(), label.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn warning(lines: &str, labels: &[&str]) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        let toml = "channels = [\"x\"]\ntruth = \"what\"\nrate_hz = 10.0";
        let records: Records = toml::from_str(toml).unwrap();
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        check(file.path(), &records, &labels)
    }

    #[test]
    fn true_classes_that_are_no_labels_are_counted_and_the_close_ones_named() {
        let none = warning("x,what\n1,sit\n2,sit\n3,Walk \n", &["Sit", "walk"]).unwrap();
        assert!(none.starts_with("none of the 3 values of `what` (sit, Walk) is a label (Sit, walk)"), "{none}");
        assert!(none.ends_with("case and blanks count: `sit` is not `Sit`, `Walk` is not `walk`"), "{none}");
        let some = warning("x,what\n1,Sit\n2,jump\n3,\n4,walk\n", &["Sit", "walk"]).unwrap();
        assert_eq!(some, "1 of the 3 values of `what` are not labels (jump); labels are Sit, walk");
        assert!(warning("x,what\n1,0\n", &["Sit"]).unwrap().contains("the column has numbers"));
        assert_eq!(warning("x,what\n1,Sit\n2,\n", &["Sit"]), None);
        assert_eq!(warning("x,who\n1,Sit\n", &["Sit"]), None, "the source says that");
    }
}
