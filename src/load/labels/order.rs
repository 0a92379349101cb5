//! From entries with or without a number to labels in the order of the classes.

/// The entries of a file of labels, in the order of the file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Entries {
    pub list: Vec<Entry>,
    /// What to say of the form, such as `, a JSON array`.
    pub form: String,
    /// By the custom of the form, class 0 is the background if the numbers start at 1.
    pub background: bool,
    pub warnings: Vec<String>,
}

/// One label, and the number that the file gives it.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub number: Option<u64>,
    pub name: String,
}

/// What a set of numbers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// 0 to n - 1, each once.
    FromZero,
    /// 1 to n, each once.
    FromOne,
    Twice(u64),
    /// One between the lowest and the highest is missing, or the lowest is above 1.
    Missing {
        first: u64,
        highest: u64,
    },
}

impl Numbers {
    pub(super) fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = numbers.collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Self::Twice(pair[0]);
        }
        let from = sorted.first().copied().unwrap_or(0).min(1);
        match sorted.iter().zip(from..).find(|(number, wanted)| *number != wanted) {
            Some((_, first)) => Self::Missing { first, highest: sorted.last().copied().unwrap_or(0) },
            None if from == 0 => Self::FromZero,
            None => Self::FromOne,
        }
    }
}

/// Returns the labels in the order of the classes, and what to say of the numbers.
///
/// # Errors
/// The numbers are not those of classes.
pub(super) fn in_order(
    entries: &[Entry],
    scores: Option<usize>,
    background: bool,
) -> Result<(Vec<String>, &'static str), String> {
    let numbers: Vec<u64> = entries.iter().filter_map(|entry| entry.number).collect();
    let names = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(|entry| entry.name.clone()).collect::<Vec<_>>();
    if numbers.is_empty() {
        return Ok((names(&mut entries.iter()), ""));
    }
    if numbers.len() < entries.len() {
        let (missing, all) = (entries.len() - numbers.len(), entries.len());
        return Err(format!("{missing} of {all} labels have no number; number all of them from 0, or none"));
    }
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.number);
    let count = entries.len();
    match Numbers::of(numbers.into_iter()) {
        Numbers::FromZero => Ok((names(&mut sorted.into_iter()), ", which has indices")),
        Numbers::FromOne if scores == Some(count) || (count, scores) == (2, Some(1)) => {
            Ok((names(&mut sorted.into_iter()), ", whose indices start at 1: index 1 is class 0"))
        }
        Numbers::FromOne if background && scores == Some(count + 1) => {
            let names = std::iter::once("background".to_owned()).chain(names(&mut sorted.into_iter())).collect();
            Ok((names, ", whose indices start at 1: class 0 is `background`"))
        }
        Numbers::FromOne => Err(format!(
            "the indices go from 1 to {count}, but classes count from 0; write 0 to {}, or a label for index 0",
            count - 1
        )),
        Numbers::Twice(number) => Err(format!("index {number} is there twice; each class has one label")),
        Numbers::Missing { first, highest } => Err(format!(
            "no label has index {first}, although there is index {highest}; each class needs a label, such as `{first} \
             unused`. If the numbers belong to the labels, write a JSON array of strings"
        )),
    }
}
