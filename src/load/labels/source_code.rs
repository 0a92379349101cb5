//! Labels as a list in source code, such as the C header that comes with a model for a microcontroller.

use super::Problem;
use super::order::{Entries, Entry};

/// Reads the only list of texts that the code gives a name; `None` if the text has no such list.
pub(super) fn entries(text: &str) -> Option<Result<Entries, Problem>> {
    let mut lists = text.match_indices(['{', '[']).filter_map(|(start, bracket)| {
        let is_value = text[..start].trim_end().ends_with('=');
        let closing = if bracket == "{" { '}' } else { ']' };
        is_value.then(|| texts(&text[start + 1..], closing)).flatten()
    });
    let list = lists.next()?;
    if lists.next().is_some() {
        let message = "there are several lists of texts in this source code; write the labels alone, one a line";
        return Some(Err(Problem::new(message)));
    }
    let list = list.into_iter().map(|name| Entry { number: None, name }).collect();
    Some(Ok(Entries { list, form: ", a list in source code".into(), ..Entries::default() }))
}

/// Returns the texts of a list such as `"idle", "run" }`, if it has nothing else.
fn texts(after_bracket: &str, closing: char) -> Option<Vec<String>> {
    let (mut rest, mut list) = (after_bracket.trim_start(), Vec::new());
    loop {
        if rest.starts_with(closing) {
            return (!list.is_empty()).then_some(list);
        }
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (name, after) = rest[1..].split_once(quote)?;
        // A backslash begins a special character, which is not worked out.
        if name.contains(['\\', '\n']) {
            return None;
        }
        list.push(name.to_owned());
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with(closing) => {}
            None => return None,
        }
    }
}
