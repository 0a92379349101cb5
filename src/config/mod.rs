//! The configuration file as a whole: node, MQTT, power, delegates, pipelines.
//!
//! Owns the tables that belong to no kind, and the checks between tables; a kind's keys and checks are in its own file.
//! Syntax errors stop at the first one; if the file parses, all invalid values are reported together, each with file,
//! line, column and what would be right. Relative paths count from the folder of the configuration file. Its only I/O is
//! to read the file and, for a user without a password file, to look for the password's credential.

mod address;
mod delegates;
mod mqtt;
mod node;
mod pipeline;
mod power;
pub mod reference;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::schema::expanded::Table;
use crate::schema::{Checker, seconds, show, span_of, table};

pub use crate::schema::{Key, Problem};
pub use address::{Broker, parse_broker};
pub use delegates::Delegate;
pub(crate) use mqtt::CREDENTIAL_FILE;
pub use mqtt::{Mqtt, Store};
pub use pipeline::{Parity, Pipeline, Realtime, Shapes};
pub use power::{Meter, Power};

use delegates::DelegateKeys;
use mqtt::MqttKeys;
use node::{Metrics, Node, Runtime};
use pipeline::{Common, PipelineKeys};
use power::PowerKeys;

table! {
    /// The configuration file.
    pub struct Root {
        /// The device that edgewatt runs on.
        pub node: Node;
        /// The TensorFlow Lite runtime.
        pub runtime: Runtime;
        /// The broker, and how edgewatt connects to it.
        pub mqtt: MqttKeys;
        /// The metrics messages.
        pub metrics: Metrics;
        /// How energy is measured.
        pub power: PowerKeys;
        /// Delegates, under names that you choose, besides the built-in "cpu" and "xnnpack" with one thread each.
        pub delegates: BTreeMap<String, DelegateKeys> = BTreeMap::new();
        /// Pipelines, under names that you choose.
        pub pipelines: BTreeMap<String, PipelineKeys>;
    }
}

/// A configuration that can be run, as far as can be told without loading what it names.
#[derive(Debug, Clone)]
pub struct Config {
    /// SHA-256 of the file's text, shortened.
    pub hash: String,
    pub node_id: String,
    /// Where the daemon keeps what must survive a restart; `None`: where systemd says, else in `/var/lib`.
    pub state_dir: Option<PathBuf>,
    /// The daemon's memory is to stay in RAM.
    pub lock_memory: bool,
    /// A path, or [`LINKED_RUNTIME`](crate::engine::runtime::LINKED_RUNTIME).
    pub runtime_library: Option<PathBuf>,
    pub mqtt: Mqtt,
    pub metrics_interval: Duration,
    pub power: Power,
    /// The delegates of the file, by name; besides them there are the built-in ones.
    pub delegates: BTreeMap<String, Delegate>,
    pub pipelines: Vec<Pipeline>,
}

impl Config {
    /// Returns the names of all delegates that a pipeline may ask for: the built-in ones first.
    pub fn delegate_names(&self) -> impl Iterator<Item = &str> {
        delegates::names(&self.delegates)
    }

    /// Returns this configuration with another delegate for a pipeline. The one that it had is the first fallback then.
    ///
    /// # Errors
    /// There is no such pipeline, or no such delegate.
    pub fn with_delegate(&self, pipeline: &str, delegate: &str) -> Result<Self, String> {
        let mut config = self.clone();
        let Some(pipeline) = config.pipelines.iter_mut().find(|candidate| candidate.name == pipeline) else {
            return Err(format!("there is no pipeline {pipeline:?}"));
        };
        let delegate = delegates::named(delegate, &self.delegates)?;
        pipeline.delegates.retain(|present| present.name != delegate.name);
        pipeline.delegates.insert(0, delegate);
        Ok(config)
    }
}

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
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            problems: vec![format!("{}: cannot read the configuration: {e}", path.display())],
        })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// Parses and checks; `hostname` names the node if the file does not.
    ///
    /// # Errors
    /// The first syntax error, or all invalid values.
    pub fn parse(&self, hostname: Option<&str>) -> Result<Config, ConfigError> {
        let mut checker = self.checker();
        let config = check(self.root()?, hostname, self.hash(), &mut checker);
        checker.finish(config).map_err(|problems| self.refusal(&problems))
    }

    /// Returns the delegate of that name, and the runtime library if one is named; nothing else of the file is checked.
    ///
    /// # Errors
    /// As [`Document::parse`], for the delegate.
    pub fn delegate(&self, name: &str) -> Result<(Delegate, Option<PathBuf>), ConfigError> {
        let (root, mut checker, mut others) = (self.root()?, self.checker(), self.checker());
        let checked = |(entry, keys): (String, DelegateKeys)| {
            let checker = if entry == name { &mut checker } else { &mut others };
            (entry.clone(), keys.checked(entry, checker))
        };
        let delegates = root.delegates.into_iter().map(checked).collect();
        let delegate = delegates::find(&Key::new(&["delegates", name]), name, &delegates, &mut checker);
        let library = root.runtime.checked_library(&checker);
        checker.finish(delegate.map(|delegate| (delegate, library))).map_err(|problems| self.refusal(&problems))
    }

    fn checker(&self) -> Checker {
        Checker::new(self.path.parent().unwrap_or(Path::new("")))
    }

    fn root(&self) -> Result<Root, ConfigError> {
        toml::from_str(&self.text).map_err(|e| {
            let message = format!("{}{}", e.message(), hint(e.message()));
            ConfigError { problems: vec![show(&self.path, &self.text, e.span(), &message)] }
        })
    }

    /// Shows each problem with the value at its key.
    pub(crate) fn refusal(&self, problems: &[Problem]) -> ConfigError {
        ConfigError { problems: problems.iter().map(|p| self.show(&p.key, &p.message)).collect() }
    }

    fn show(&self, key: &Key, message: &str) -> String {
        show(&self.path, &self.text, span_of(&self.text, key), &format!("{key}: {message}"))
    }

    /// Returns the SHA-256 of the text, the first 12 hex digits.
    fn hash(&self) -> String {
        Sha256::digest(self.text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Checks the whole file. `None` if it cannot be used; the problems say why.
fn check(root: Root, hostname: Option<&str>, hash: String, checker: &mut Checker) -> Option<Config> {
    let node_id = root.node.checked_id(&Key::new(&["node"]), hostname, checker);
    let mqtt = root.mqtt.checked(&Key::new(&["mqtt"]), &node_id, checker);
    root.metrics.check_ranges(&Key::new(&["metrics"]), checker);
    let power = root.power.checked(&Key::new(&["power"]), checker);
    let checked = |(name, keys): (String, DelegateKeys)| (name.clone(), keys.checked(name, checker));
    let delegates: BTreeMap<String, Delegate> = root.delegates.into_iter().map(checked).collect();
    if root.pipelines.is_empty() {
        checker.problem(&Key::new(&["pipelines"]), "there is none; add a table such as [pipelines.shoulder]");
    }
    let common = Common { delegates: &delegates, qos: mqtt.as_ref().map_or(1, |mqtt| mqtt.qos) };
    let pipelines: Vec<Pipeline> =
        root.pipelines.into_iter().map(|(name, pipeline)| pipeline.checked(name, &common, checker)).collect();
    check_exclusive(&pipelines, checker);
    Some(Config {
        hash,
        node_id,
        state_dir: root.node.state_dir.map(|dir| checker.path(&dir)),
        lock_memory: root.node.lock_memory,
        runtime_library: root.runtime.checked_library(checker),
        mqtt: mqtt?,
        metrics_interval: seconds(root.metrics.interval_s),
        power,
        delegates,
        pipelines,
    })
}

/// Two pipelines that read one stream would each get a part of it.
fn check_exclusive(pipelines: &[Pipeline], checker: &mut Checker) {
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for pipeline in pipelines {
        let Some((resource, key)) = pipeline.source.kind().exclusive() else { continue };
        let key = pipeline.key().child("source").child(pipeline.source.name()).child(key);
        match taken.get(&resource) {
            Some(other) => {
                let message = format!("pipeline {other} reads from there already; each stream feeds one pipeline");
                checker.problem(&key, message);
            }
            None => _ = taken.insert(resource, &pipeline.name),
        }
    }
}

/// Returns what to write, which the parser's message does not say.
fn hint(message: &str) -> &'static str {
    let hints = [
        ("missing field `mqtt`", "; write [mqtt] with broker = \"mqtt://host:1883\" or \"none\""),
        ("missing field `broker`", "; write broker = \"mqtt://host:1883\" or \"none\""),
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
