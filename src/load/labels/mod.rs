//! The labels of a model's classes: from a file in one of the forms that people have, or from the model itself.
//!
//! Owns which form a file has, the order of the classes, and what is said of it. A form is only used if it fits the whole
//! file, so that no class gets the label of another one silently.

mod json;
mod order;
mod pbtxt;
mod source_code;
mod table;
mod text;

use std::collections::HashMap;
use std::path::Path;

use self::order::{Entries, in_order};
use crate::config::Pipeline;
use crate::load::engines::ModelFile;
use crate::model::{self, ModelSummary};
use crate::sys::file;
use crate::text::counted;

/// Far above any real file: 65,535 labels of 256 bytes.
const MAX_BYTES: usize = 16 << 20;

/// The labels of a model's classes, in the order of the classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Labels {
    pub names: Vec<String>,
    /// How many there are, where they are from, and how they were read.
    pub read: String,
    /// About files that can be read in another way than was meant.
    pub warnings: Vec<String>,
}

/// Returns the labels for a decision that needs them.
///
/// # Errors
/// There are none, or they cannot be read; the message says where and what would be right.
pub(crate) fn of(pipeline: &Pipeline, model: &ModelFile) -> Result<Labels, String> {
    let scores = scores(model, pipeline.decision.kind().output());
    if let Some(path) = &pipeline.labels {
        return from_file(path, scores);
    }
    let decision = pipeline.decision.name();
    let none = |why: &str| Err(format!("{decision} needs labels = \"FILE\", one label a line; {why}"));
    if !pipeline.model_metadata {
        return none("those in the model are not used, because metadata = false");
    }
    match carried(&model.summary, pipeline.decision.kind().output())? {
        Some(name) => {
            let content = model::attached_file(&model.bytes, &name, MAX_BYTES)
                .map_err(|e| format!("the labels in {}: {e}; set labels = \"FILE\"", model.path.display()))?;
            read(&format!("`{}` in the model", name.escape_debug()), &content, scores)
        }
        None if model.summary.model_metadata.files.is_empty() => none("the model carries none"),
        None => none(&format!("the model carries {}, which it does not name as labels", files(&model.summary))),
    }
}

/// Reads the labels in a file, for a model with so many `scores`.
///
/// # Errors
/// They cannot be read; the message says where and what would be right.
pub(crate) fn from_file(path: &Path, scores: Option<usize>) -> Result<Labels, String> {
    let bytes = file::read(path, MAX_BYTES as u64).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    read(&path.display().to_string(), &bytes, scores)
}

/// Returns the name of the file with labels that the model carries for `output`.
///
/// # Errors
/// It carries several that may be meant.
pub(crate) fn carried(summary: &ModelSummary, output: usize) -> Result<Option<String>, String> {
    let metadata = &summary.model_metadata;
    if let Some(name) = metadata.outputs.get(output).and_then(|output| output.label_files.first()) {
        return Ok(Some(name.clone()));
    }
    let looks_right = |name: &&String| {
        let name = name.to_lowercase();
        ["label", "class"].iter().any(|word| name.contains(word)) && !name.ends_with(".tflite")
    };
    let mut names = metadata.files.iter().map(|file| &file.name).filter(looks_right);
    match (names.next(), names.next()) {
        (Some(_), Some(_)) => Err(format!(
            "the model carries {}; unpack the right one (unzip), and set labels = \"FILE\"",
            files(summary)
        )),
        (name, _) => Ok(name.cloned()),
    }
}

fn files(summary: &ModelSummary) -> String {
    let names = summary.model_metadata.files.iter().map(|file| format!("`{}`", file.name.escape_debug()));
    names.take(5).collect::<Vec<_>>().join(", ")
}

/// Returns how many scores an output has, if the file says it.
fn scores(model: &ModelFile, output: usize) -> Option<usize> {
    let shape = &model.summary.main.outputs.get(output)?.tensor.shape_signature;
    let of_one_window = if shape.len() > 1 { shape.get(1..)? } else { shape };
    of_one_window.iter().try_fold(1usize, |all, &dim| usize::try_from(dim).ok()?.checked_mul(all))
}

/// Reads `bytes`, the content of the file `name`, for a model with so many `scores`.
fn read(name: &str, bytes: &[u8], scores: Option<usize>) -> Result<Labels, String> {
    let (text, encoding) = decode(bytes).map_err(|problem| format!("{name}: {problem}"))?;
    let entries = entries(name, text.trim(), &text, scores).map_err(|problem| match problem.line {
        Some(line) => format!("{name}:{line}: {}", problem.message),
        None => format!("{name}: {}", problem.message),
    })?;
    let Entries { list, form, background, mut warnings } = entries;
    let (names, counted) = in_order(&list, scores, background).map_err(|e| format!("{name}: {e}"))?;
    if names.len() > usize::from(u16::MAX) {
        return Err(format!("{name}: {} labels; the limit is {}", names.len(), u16::MAX));
    }
    if let Some(class) = names.iter().position(|name| name.trim().is_empty()) {
        return Err(format!("{name}: the label of class {class} is empty; each class needs one"));
    }
    if let Some(bad) = names.iter().find(|name| name.chars().any(char::is_control)) {
        let message = "has a control character; write labels as plain text";
        return Err(format!("{name}: the label `{}` {message}", bad.escape_debug()));
    }
    warnings.extend(word_net(&names));
    let (repeated, extra) = (repeated(&names), extra(&names, scores));
    let read = format!("{} from {name}{encoding}{form}{counted}{repeated}{extra}", names.len());
    Ok(Labels { names, read, warnings })
}

/// What is wrong with a file of labels, and in which line.
#[derive(Debug, PartialEq)]
struct Problem {
    line: Option<usize>,
    message: String,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }

    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into() }
    }
}

/// Finds the form of the file, and reads its entries. `trimmed` is the text without the blanks around it.
fn entries(name: &str, trimmed: &str, text: &str, scores: Option<usize>) -> Result<Entries, Problem> {
    if trimmed.is_empty() {
        return Err(Problem::new("it is empty; write one label a line"));
    }
    let extension = Path::new(name.trim_matches('`').split('`').next().unwrap_or(name)).extension();
    let extension = extension.map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if matches!(extension.as_str(), "yaml" | "yml") {
        return Err(Problem::new("YAML is not read; write one label a line, or a JSON array of strings"));
    }
    if let Some(what) = text::not_labels(trimmed) {
        return Err(Problem::new(format!("it is {what}; write one label a line, as plain text")));
    }
    if json::looks_like(trimmed) {
        return json::entries(trimmed);
    }
    if pbtxt::looks_like(trimmed) {
        return pbtxt::entries(trimmed);
    }
    if let Some(entries) = source_code::entries(trimmed) {
        return entries;
    }
    let lines = text::Lines::of(text);
    match table::entries(&lines, &extension, scores)? {
        Some(entries) => Ok(entries),
        None => text::entries(lines, scores),
    }
}

/// Returns the text, and what to say of its encoding.
fn decode(bytes: &[u8]) -> Result<(String, &'static str), String> {
    if model::is_tflite(bytes) {
        return Err("it is a TFLite model; labels needs a text file, one label a line".into());
    }
    if let Some(what) = model::stand_in(bytes) {
        return Err(format!("it is {what}"));
    }
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| "it is damaged UTF-16; save it as UTF-8".to_owned())
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return Ok((utf16(rest, u16::from_le_bytes)?, ", which is UTF-16")),
        [0xfe, 0xff, rest @ ..] => return Ok((utf16(rest, u16::from_be_bytes)?, ", which is UTF-16")),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.contains(&0) {
        return Err("it has NUL bytes: it is UTF-16 without a mark, or not text; save it as UTF-8 text".into());
    }
    match str::from_utf8(bytes) {
        Ok(text) => Ok((text.to_owned(), "")),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let (line, byte) = (1 + before.iter().filter(|byte| **byte == b'\n').count(), bytes.get(before.len()));
            let byte = byte.map_or(String::new(), |byte| format!(" (byte 0x{byte:02x})"));
            Err(format!("line {line} is not UTF-8 text{byte}; save the file as UTF-8"))
        }
    }
}

/// Returns what to say of labels that several classes share.
fn repeated(names: &[String]) -> String {
    let mut counts = HashMap::<&str, usize>::new();
    names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    let Some(first) = names.iter().find(|name| counts.get(name.as_str()).is_some_and(|count| *count > 1)) else {
        return String::new();
    };
    let others = counts.values().filter(|count| **count > 1).count() - 1;
    let others = if others > 0 { format!(" (and {})", counted(others, "other")) } else { String::new() };
    format!("; several classes are called `{first}`{others}, so publish.scores adds a number: `{first} (2)`")
}

/// Returns what may be wrong with a label that is one too many.
fn extra(names: &[String], scores: Option<usize>) -> String {
    let is_background = |name: &String| {
        matches!(name.to_lowercase().as_str(), "background" | "__background__" | "unlabeled" | "???" | "none" | "dummy")
    };
    match names.first().filter(|name| is_background(name) && scores.is_some_and(|scores| scores + 1 == names.len())) {
        Some(first) => format!("; the model may lack the class of the first one, `{first}`: remove that line then"),
        None => String::new(),
    }
}

/// Returns a warning if every label starts with an id of WordNet, which belongs to the label as it stands.
fn word_net(names: &[String]) -> Option<String> {
    let has_id = |name: &String| {
        let rest = name.strip_prefix('n').filter(|rest| rest.bytes().take(8).all(|byte| byte.is_ascii_digit()));
        rest.and_then(|rest| rest.get(8..)).is_some_and(|rest| rest.starts_with([' ', '\t']))
    };
    let first = names.first().filter(|_| names.iter().all(has_id))?;
    Some(format!(
        "each label starts with an id of WordNet, such as `{first}`; remove the ids if only the name is wanted"
    ))
}

#[cfg(test)]
mod tests;
