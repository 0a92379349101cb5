//! The configuration: what the user wrote ([`raw`]), then what is checked and ready to use ([`checked`]).
//!
//! A text that is no configuration is reported at its first fault; of one that is, every wrong value is found before
//! the first is reported. Each with file, line, column and what would be right.
//! Relative paths count from the folder of the configuration file.

mod address;
mod check;
mod checked;
mod locate;
pub(crate) mod raw;

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use address::parse_broker;
pub use checked::{
    Accelerator, Address, Batch, Broker, Classify, Config, Decision, Delegate, DelegateKind, Feature, Format, From,
    Ina219, Isolation, LINKED_RUNTIME, Meter, MeterKind, Mqtt, MqttVersion, Parity, ParityLimits, Pipeline, Power,
    Problem, ProcessLimits, RaplInterface, Realtime, Records, Regress, Replay, Restarts, Scope, Scores, Source,
    SourceKind, Speed, Store, Trace, TraceValue, WhenBufferFull, WhenFull, Window, XnnpackFlag,
};
pub use locate::Key;

/// A configuration that cannot be used; `Display` shows each problem at its place.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration file, kept so that later stages can point into it.
#[derive(Debug)]
pub struct Document {
    pub path: PathBuf,
    pub text: String,
}

impl Document {
    /// Reads the file; it must be UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            problems: vec![format!("{}: cannot read the configuration: {e}", path.display())],
        })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Parses and checks; `hostname` names the node when the file does not.
    pub fn parse(&self, hostname: Option<&str>) -> Result<Config, ConfigError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        check::check(self.root()?, folder, hostname, self.hash()).map_err(|problems| self.refusal(&problems))
    }

    /// The delegate of that name, and the runtime library where one is named.
    pub fn delegate(&self, name: &str) -> Result<(Delegate, Option<PathBuf>), ConfigError> {
        let root = self.root()?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        check::delegate(root, folder, name).map_err(|problems| self.refusal(&problems))
    }

    fn root(&self) -> Result<raw::Root, ConfigError> {
        toml::from_str(&self.text).map_err(|e| {
            let message = format!("{}{}", e.message(), hint(e.message()));
            ConfigError { problems: vec![locate::show(&self.path, &self.text, e.span(), &message)] }
        })
    }

    fn refusal(&self, problems: &[Problem]) -> ConfigError {
        ConfigError { problems: problems.iter().map(|p| self.show(&p.key, &p.message)).collect() }
    }

    /// Shows a problem with the value at its key.
    pub fn show(&self, key: &Key, message: &str) -> String {
        locate::show(&self.path, &self.text, locate::span_of(&self.text, key), &format!("{key}: {message}"))
    }

    /// SHA-256 of the text, the first 12 hex digits.
    fn hash(&self) -> String {
        Sha256::digest(self.text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What the parser's word for a mistake does not say: what to write.
fn hint(message: &str) -> &'static str {
    let hints = [
        ("missing field `mqtt`", "; write [mqtt] with broker = \"mqtt://host:1883\" or \"embedded\""),
        ("missing field `broker`", "; write broker = \"mqtt://host:1883\" or \"embedded\""),
        ("missing field `pipelines`", "; write a table such as [pipelines.shoulder]"),
        ("missing field `source`", "; write source.replay = { path = \"...\" } or source.lines = { from = \"stdin\" }"),
        ("missing field `records`", "; write what a line holds, at least records = { channels = [\"...\"] }"),
        ("missing field `window`", "; write window = { samples = 200, hop = 50 }"),
        ("missing field `model`", "; write model = { path = \"FILE.tflite\", labels = \"FILE.txt\" }"),
        ("missing field `decision`", "; write one of decision.classify, decision.regress and decision.raw = {}"),
        ("wanted exactly 1 element", ": exactly one kind must be written here"),
        ("expected usize", ", a whole number that is not negative"),
    ];
    hints.iter().find(|(start, _)| message.contains(start)).map_or("", |(_, hint)| hint)
}
