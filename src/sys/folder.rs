//! Folders and small files of the kernel, such as those below `/sys`: what cannot be read is left out.

use std::fs;
use std::path::Path;

/// Returns the names in a folder, sorted; empty if there is no such folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // By number if they end in one: video10 after video2.
    names
        .sort_by_key(|name| (name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(), name.len(), name.clone()));
    names
}

/// Returns the text of a file without its line end, unless it is empty or cannot be read.
pub fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned()).filter(|text| !text.is_empty())
}
