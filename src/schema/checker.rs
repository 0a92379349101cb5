//! Collects what is wrong with a configuration, each problem at its key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Key;
use crate::sys::trouble::Trouble;
use crate::text::placeholder;

/// Something wrong with the value at a key, and what would be right.
#[derive(Debug)]
pub struct Problem {
    pub key: Key,
    pub message: String,
    /// Whether the same configuration may be usable later.
    pub trouble: Trouble,
}

impl Problem {
    pub fn new(key: Key, message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Self { key, trouble: Trouble::of_message(&message), message }
    }

    /// Returns it as a trouble that passes at least as soon as `trouble`.
    pub fn that_may_pass(self, trouble: Trouble) -> Self {
        Self { trouble: self.trouble.min(trouble), ..self }
    }
}

/// Checks values and collects all problems, so that they are reported together.
pub struct Checker {
    problems: Vec<Problem>,
    folder: PathBuf,
}

impl Checker {
    /// Relative paths of the configuration count from `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { problems: Vec::new(), folder: folder.to_owned() }
    }

    /// Adds a problem with the value at `key`; once, if two checks find the same.
    pub fn problem(&mut self, key: &Key, message: impl Into<String>) {
        let problem = Problem::new(key.clone(), message.into());
        if !self.problems.iter().any(|known| known.key == problem.key && known.message == problem.message) {
            self.problems.push(problem);
        }
    }

    pub fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Returns `value`, or the problems if there are any.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.problems),
        }
    }

    /// Returns `value` after checking that it lies from `low` to `high`.
    pub fn within<T: PartialOrd + std::fmt::Display + Copy>(&mut self, key: &Key, value: T, low: T, high: T) -> T {
        if !(value >= low && value <= high) {
            self.problem(key, format!("{value} is out of range; it must be from {low} to {high}"));
        }
        value
    }

    /// Returns whether a name has a placeholder in it, which is a problem then: nothing is put in its place.
    pub fn is_placeholder(&mut self, key: &Key, name: &str) -> bool {
        let Some(found) = placeholder(name) else { return false };
        let advice = match key.to_string().as_str() {
            "node.id" => "leave node.id out, and the host's name is used; or write the name itself",
            _ => "write the name itself; a script that writes this file can fill it in",
        };
        let message = format!(
            "`{found}` is taken as it is written: environment variables and placeholders are not expanded; {advice}"
        );
        self.problem(key, message);
        true
    }

    /// Checks a name that becomes one level of an MQTT topic.
    pub fn topic_level(&mut self, key: &Key, name: &str) {
        if self.is_placeholder(key, name) {
            return;
        }
        let bad = |c: char| matches!(c, '/' | '+' | '#' | '$') || c.is_control() || c.is_whitespace();
        if name.is_empty() || name.len() > 64 || name.contains(bad) {
            self.problem(
                key,
                format!("`{name}` becomes part of a topic: use 1 to 64 bytes without spaces, `/`, `+`, `#` and `$`"),
            );
        }
    }

    /// Returns the path as seen from the folder of the configuration file.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Returns the library's path; a bare name stays as it is, because the dynamic linker looks it up.
    pub fn library(&self, library: &Path) -> PathBuf {
        match library.components().count() {
            1 => library.to_owned(),
            _ => self.folder.join(library),
        }
    }
}

/// Returns the time, or zero for what no time can be; the range of the key refuses that.
pub fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Like [`seconds`], from milliseconds.
pub fn milliseconds(ms: f64) -> Duration {
    seconds(ms / 1e3)
}
