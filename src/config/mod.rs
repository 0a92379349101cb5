//! The configuration as a whole: node, MQTT, power, delegates, pipelines.
//!
//! Owns the tables that belong to no kind, and the checks between tables; a kind's keys and checks are in its own file.
//! If the files parse, all unknown keys, missing keys and wrong types are reported together; if there are none, all
//! invalid values, each with file, line, column and what would be right. Relative paths count from the folder of the configuration file. Its
//! only I/O is to read the files and, for a user without a password file, to look for the password's credential.

mod chain;
mod delegates;
mod document;
mod json_schema;
mod mqtt;
mod node;
mod pipeline;
mod power;
pub mod reference;
mod steps;
pub mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::mqtt::{Subscription, filter};
use crate::publish::discovery::{self, Clash, Owner};
use crate::publish::topic::NodeTopics;
use crate::schema::expanded::Table;
use crate::schema::{Checker, seconds, table};
use crate::source::{Exclusive, SourceSubscription};
use crate::text::escaped;

pub use crate::mqtt::{Broker, parse_broker};
pub use crate::schema::{Key, Problem};
pub use chain::{ChainedModel, ChainedShapes};
pub use delegates::Delegate;
pub use document::Document;
pub(crate) use document::fragments;
pub use json_schema::json_schema;
pub(crate) use mqtt::CREDENTIAL_FILE;
pub use mqtt::{Mqtt, Store};
pub use pipeline::{BuiltGate, Parity, Pipeline, Realtime, Shapes};
pub use power::{Meter, Power};

use delegates::DelegateKeys;
use mqtt::MqttKeys;
use node::{Metrics, Node, Runtime};
use pipeline::{Common, PipelineKeys};
use power::PowerKeys;

table! {
    /// The configuration file.
    pub struct Root {
        /// The version of the configuration's format. A file without it has version 1.
        pub version: u32 = version::CURRENT, range(version::CURRENT, version::CURRENT), limits("1");
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

/// A configuration that was checked, except for what it names: files, models and devices are not loaded yet.
#[derive(Debug, Clone)]
pub struct Config {
    /// SHA-256 of the text of all files, shortened.
    pub hash: String,
    /// The files that were read, in order: each replaces values of those before it.
    pub files: Vec<PathBuf>,
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
        f.write_str(&escaped(&self.problems.join("\n")))
    }
}

impl std::error::Error for ConfigError {}

impl Document {
    /// Parses and checks; `hostname` names the node if the file does not.
    ///
    /// # Errors
    /// The syntax errors, or all that is unknown, missing or of a wrong type, or all invalid values.
    pub fn parse(&self, hostname: Option<&str>) -> Result<Config, ConfigError> {
        let mut checker = self.checker();
        let config = check(self.root()?, hostname, self, &mut checker);
        checker.finish(config).map_err(|problems| self.refusal(&problems))
    }

    /// Returns the delegate of that name, and the runtime library if one is named; nothing else is checked.
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
}

/// Checks the whole configuration. `None` if it cannot be used; the problems say why.
fn check(root: Root, hostname: Option<&str>, document: &Document, checker: &mut Checker) -> Option<Config> {
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
    check_exclusive(&pipelines, &power.meters, checker);
    let mqtt = mqtt?;
    let config = Config {
        hash: document.hash(),
        files: document.files().map(|(path, _)| path.to_owned()).collect(),
        node_id,
        state_dir: root.node.state_dir.map(|dir| checker.path(&dir)),
        lock_memory: root.node.lock_memory,
        runtime_library: root.runtime.checked_library(checker),
        mqtt,
        metrics_interval: seconds(root.metrics.interval_s),
        power,
        delegates,
        pipelines,
    };
    config.check_entities(checker);
    config.check_subscriptions(checker);
    Some(config)
}

impl Config {
    /// Returns the node as Home Assistant is told of it.
    pub fn described<'a>(&'a self, topics: &'a NodeTopics) -> discovery::Node<'a> {
        discovery::Node {
            id: &self.node_id,
            topics,
            pipelines: self.pipelines.iter().map(|p| (p.name.as_str(), p.decision.kind().entities())).collect(),
            gated: self.pipelines.iter().filter(|p| p.gate.is_some()).map(|p| p.name.as_str()).collect(),
            meters: self.power.meters.iter().map(|meter| meter.name.as_str()).collect(),
            metrics_s: self.metrics_interval.as_secs_f64(),
        }
    }

    /// Names that join to one id would take each other's place in Home Assistant.
    fn check_entities(&self, checker: &mut Checker) {
        if self.mqtt.discovery.is_none() {
            return;
        }
        let topics = NodeTopics::new(&self.mqtt.base_topic, &self.node_id);
        let Some(Clash { key, first, second }) = discovery::clash(&self.described(&topics)) else { return };
        let at = match second {
            Owner::Pipeline(name) => Key::new(&["pipelines", name]),
            Owner::Meter(name) => Key::new(&["power", "meters", name]),
        };
        let message = format!(
            "{first} and {second} have an entity with the same id for Home Assistant, `{key}`: rename a pipeline, meter \
             or value, or write mqtt.discovery = false"
        );
        checker.problem(&at, message);
    }

    /// A source that reads what its own pipeline publishes would go round for ever.
    fn check_subscriptions(&self, checker: &mut Checker) {
        let topics = NodeTopics::new(&self.mqtt.base_topic, &self.node_id);
        let described = self.mqtt.discovery.as_ref().map(|prefix| discovery::topic(prefix, &self.node_id));
        let own = [Some(topics.filter()), described];
        for pipeline in &self.pipelines {
            let source = pipeline.key().child("source").child(pipeline.source.name());
            for SourceSubscription { key, subscription, .. } in pipeline.source.kind().subscriptions() {
                let key = key.iter().fold(source.clone(), |key, name| key.child(name));
                self.check_subscription(&key, &subscription, &own, checker);
            }
        }
        for meter in &self.power.meters {
            if let Some(subscription) = meter.kind.kind().subscription() {
                self.check_subscription(&meter.key().child("mqtt"), &subscription, &own, checker);
            }
        }
    }

    fn check_subscription(
        &self,
        key: &Key,
        subscription: &Subscription,
        own: &[Option<String>],
        checker: &mut Checker,
    ) {
        let mqtt = &self.mqtt;
        if let Some(own) = own.iter().flatten().find(|own| filter::overlap(own, &subscription.topic)) {
            let message = format!(
                "`{}` matches topics that this node itself publishes ({own}), so it would receive its own messages; \
                 write a topic that only sensors publish",
                subscription.topic
            );
            checker.problem(&key.child("topic"), message);
        }
        if subscription.other.is_none() && mqtt.broker == Broker::None {
            let message = "mqtt.broker is \"none\", so there is no broker to subscribe to; write its address in broker";
            checker.problem(&key.child("broker"), message);
        }
        if subscription.client_id.as_ref() == Some(&mqtt.client_id) {
            let message =
                "the node itself connects with this client id, and a broker takes each id once; write another";
            checker.problem(&key.child("client_id"), message);
        }
    }
}

/// Two readers of one stream would each get a part of it.
fn check_exclusive(pipelines: &[Pipeline], meters: &[Meter], checker: &mut Checker) {
    let of_pipelines = pipelines.iter().flat_map(|pipeline| {
        let key = pipeline.key().child("source").child(pipeline.source.name());
        let user = format!("pipeline {}", pipeline.name);
        pipeline.source.kind().exclusive().into_iter().map(move |wanted| (key.clone(), user.clone(), wanted))
    });
    let of_meters = meters.iter().flat_map(|meter| {
        let (key, user) = (meter.key(), format!("meter {}", meter.name));
        meter.kind.kind().exclusive().into_iter().map(move |wanted| (key.clone(), user.clone(), wanted))
    });
    let mut all: Vec<(Exclusive, String)> = Vec::new();
    for (key, user, wanted) in of_pipelines.chain(of_meters) {
        if let Some((_, other)) = all.iter().find(|(taken, _)| taken.overlaps(&wanted)) {
            let key = wanted.key.iter().fold(key, |key, name| key.child(name));
            let message = format!("{other} reads from there already; each stream feeds one pipeline");
            checker.problem(&key, message);
        }
        all.push((wanted, user));
    }
}

#[cfg(test)]
mod tests;
