//! config/edgewatt.toml, read with its comments.

use toml::{Table, Value};

/// A paragraph for itself, or a table with its keys.
pub enum Item {
    Paragraph(String),
    Section(Section),
}

pub struct Section {
    pub path: Vec<String>,
    /// It is not commented out.
    pub active: bool,
    pub text: String,
    pub entries: Vec<Entry>,
}

pub struct Entry {
    pub key: String,
    pub shown: Value,
    /// As it stands in the file, such as `0x40`.
    pub written: String,
    text: String,
}

impl Section {
    pub fn name(&self) -> String {
        self.path.join(".")
    }
}

impl Entry {
    /// Where the comment's word on the default begins and ends.
    fn told(&self) -> Option<(usize, usize)> {
        let start = self.text.to_lowercase().find("default: ")?;
        let end = self.text[start..].find(". ").map_or(self.text.len(), |end| start + end);
        Some((start, end))
    }

    /// What the comment says of the default, where it is not the value shown.
    pub fn default(&self) -> Option<String> {
        self.told().map(|(start, end)| self.text[start + "default: ".len()..end].trim_end_matches('.').to_owned())
    }

    /// The comment without that.
    pub fn meaning(&self) -> String {
        let Some((start, end)) = self.told() else { return self.text.clone() };
        let before = self.text[..start].trim_end().trim_end_matches([';', '.', ',']);
        let behind = self.text[end..].trim_start_matches(". ").trim_start_matches('.');
        [before, behind].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(". ")
    }
}

/// The path with NAME where the user chooses one, and KIND where all kinds of source have the same below.
pub fn user_named(path: &[String]) -> Vec<String> {
    let named = |(i, name): (usize, &String)| {
        let before: Vec<&str> = path[..i].iter().map(String::as_str).collect();
        match before[..] {
            ["delegates"] | ["pipelines"] | ["power", "meters"] => "NAME".to_owned(),
            ["pipelines", _, "source"] if path.len() > i + 1 => "KIND".to_owned(),
            _ => name.clone(),
        }
    };
    path.iter().enumerate().map(named).collect()
}

/// What the file holds, in its order. A comment belongs to what follows without an empty line, one far to the right to
/// the key before it.
pub fn items(text: &str) -> Vec<Item> {
    let (mut items, mut pending): (Vec<Item>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut last_section = None;
    for line in text.lines() {
        let section = last_section.and_then(|at: usize| match items.get_mut(at) {
            Some(Item::Section(section)) => Some(section),
            _ => None,
        });
        let code = line.strip_prefix('#').filter(|code| code.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        let (code, active) = code.map_or((line, true), |code| (code, false));
        let (code, comment) = split(code);
        if line.is_empty() {
            if !pending.is_empty() {
                items.push(Item::Paragraph(pending.join("\n").trim().to_owned()));
                pending.clear();
            }
        } else if let Some(comment) = line.trim_start().strip_prefix('#').filter(|_| line.starts_with("        ")) {
            let entry = section.and_then(|section| section.entries.last_mut()).expect("a comment follows no key");
            entry.text = format!("{} {}", entry.text, comment.trim());
        } else if let Some(comment) = line.strip_prefix("# ").or((line == "#").then_some("")) {
            pending.push(comment.trim());
        } else if code.starts_with("[[") {
            assert!(comment.is_empty(), "{line}");
        } else if let Some(path) = code.strip_prefix('[').and_then(|code| code.strip_suffix(']')) {
            let path = path.split('.').map(str::to_owned).collect();
            pending.extend(Some(comment).filter(|comment| !comment.is_empty()));
            let text = std::mem::take(&mut pending).join("\n");
            last_section = Some(items.len());
            items.push(Item::Section(Section { path, active, text, entries: Vec::new() }));
        } else {
            let table: Table = code.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            let (key, shown) = table.into_iter().next().unwrap_or_else(|| panic!("no key in {line}"));
            pending.extend(Some(comment).filter(|comment| !comment.is_empty()));
            let text = std::mem::take(&mut pending).join(" ");
            let section = section.unwrap_or_else(|| panic!("{line} is in no table"));
            let written = code.split_once(" = ").map_or("", |(_, written)| written).to_owned();
            section.entries.push(Entry { key, shown, written, text });
        }
    }
    items
}

/// Code and the comment behind it.
fn split(line: &str) -> (&str, &str) {
    let (code, comment) = line.split_once("  #").or(line.split_once(" # ")).unwrap_or((line, ""));
    (code.trim_end(), comment.trim())
}
