//! Empties retained topics that this daemon once made and no longer makes: of pipelines and meters that are gone, of a
//! node that has another name now, of discovery that was turned off.
//!
//! Owns the file in the state directory with the topics that were made; there is one for each configuration file. Topics
//! of another name are emptied only if the node of that name is offline, and its `info` is from a run of this daemon: a
//! machine that was made from this one's image may have that name now. Runs on the async thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::load::state_dir;
use crate::publish::discovery;
use crate::publish::mqtt::{Handle, OFFLINE};
use crate::publish::publisher::NodePublisher;
use crate::publish::topic::NodeTopics;
use crate::text;

const VERSION: u32 = 1;
/// Runs of a node that are remembered; the broker may not have been reached in the last ones.
const MAX_BOOTS: usize = 16;

/// The file's content.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    v: u32,
    /// The topics of each node, by the topic of its status.
    nodes: BTreeMap<String, BTreeSet<String>>,
    /// The latest runs under each name, by the topic of its status.
    #[serde(default)]
    boots: BTreeMap<String, VecDeque<String>>,
}

/// What the broker has of a name that this node once had.
#[derive(Debug, Default)]
struct Seen {
    is_offline: bool,
    is_of_this_daemon: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct RetainedTopics {
    folder: PathBuf,
    file_name: String,
    /// The topic of this node's status.
    status: String,
    record: Record,
    /// Topics that were emptied; the broker has not confirmed it yet.
    emptied: BTreeSet<String>,
    /// By the topic of the status.
    seen: BTreeMap<String, Seen>,
}

impl RetainedTopics {
    /// Reads what daemons of that configuration file have made before.
    pub(crate) fn read(folder: &Path, config_file: &Path, topics: &NodeTopics) -> Self {
        let config_file = config_file.canonicalize().unwrap_or_else(|_| config_file.to_owned());
        let file_name = format!("retained-{}.json", text::short_hash(&config_file.to_string_lossy()));
        let path = folder.join(&file_name);
        let record = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!("{}: {error}; old retained topics stay at the broker", path.display());
                Record::default()
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Record::default(),
            Err(error) => {
                tracing::warn!("{}: {error}; old retained topics stay at the broker", path.display());
                Record::default()
            }
        };
        Self {
            folder: folder.to_owned(),
            file_name,
            status: topics.status.to_string(),
            record,
            emptied: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Returns the topics to subscribe to: status and info of each name that this node once had.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.old_names().flat_map(|status| [status.clone(), NodeTopics::info_beside(status)]).collect()
    }

    fn old_names(&self) -> impl Iterator<Item = &String> {
        self.record.nodes.keys().filter(|status| **status != self.status)
    }

    /// Empties what this node once made and `now` does not have.
    pub(crate) fn update(&mut self, node_publisher: &NodePublisher, now: BTreeSet<String>) {
        self.emptied.retain(|topic| !now.contains(topic));
        let before = self.record.nodes.get(&self.status).cloned().unwrap_or_default();
        let gone: Vec<String> =
            before.difference(&now).filter(|topic| !self.emptied.contains(*topic)).cloned().collect();
        self.empty(node_publisher, gone);
        let own_emptied = before.into_iter().filter(|topic| self.emptied.contains(topic));
        let topics: BTreeSet<String> = own_emptied.chain(now).collect();
        let boots = self.record.boots.entry(self.status.clone()).or_default();
        let is_known = boots.back().is_some_and(|boot| **boot == *node_publisher.boot);
        if !is_known {
            boots.push_back(node_publisher.boot.to_string());
            boots.drain(..boots.len().saturating_sub(MAX_BOOTS));
        }
        if !is_known || self.record.nodes.get(&self.status) != Some(&topics) {
            self.record.nodes.insert(self.status.clone(), topics);
            self.save();
        }
    }

    /// Takes a message: status or info of a name that this node once had. Empties the topics of that name unless another
    /// machine has it.
    pub(crate) fn message_received(&mut self, node_publisher: &NodePublisher, topic: &str, payload: &[u8]) {
        let has_topic = |status: &&String| **status == topic || NodeTopics::info_beside(status) == topic;
        let Some(status) = self.old_names().find(has_topic).cloned() else { return };
        if payload.is_empty() {
            return;
        }
        let is_ours = if topic == status {
            payload == OFFLINE.as_bytes()
        } else {
            let info: Value = serde_json::from_slice(payload).unwrap_or_default();
            let boots = self.record.boots.get(&status);
            boots.is_some_and(|boots| boots.iter().any(|boot| info["boot"] == boot.as_str()))
        };
        if !is_ours {
            tracing::info!("{topic}: another machine has this node's old name, whose topics stay");
            self.forget(&status);
            return;
        }
        let seen = self.seen.entry(status.clone()).or_default();
        if topic == status {
            seen.is_offline = true;
        } else {
            seen.is_of_this_daemon = true;
        }
        if seen.is_offline && seen.is_of_this_daemon {
            let [topics, own] = [&status, &self.status].map(|status| self.record.nodes.get(status));
            let is_gone =
                |topic: &&String| !self.emptied.contains(*topic) && own.is_none_or(|own| !own.contains(*topic));
            let gone = topics.into_iter().flatten().filter(is_gone).cloned().collect();
            self.empty(node_publisher, gone);
        }
    }

    /// Leaves the topics of a name to whoever has it now.
    fn forget(&mut self, status: &str) {
        self.seen.remove(status);
        self.record.nodes.remove(status);
        self.record.boots.remove(status);
        self.save();
    }

    /// Forgets the emptied topics for which the broker has confirmed it.
    pub(crate) fn confirm(&mut self, mqtt: &Handle) {
        let confirmed: Vec<String> = self.emptied.iter().filter(|topic| mqtt.has_retained(topic)).cloned().collect();
        if confirmed.is_empty() {
            return;
        }
        for topic in confirmed {
            self.emptied.remove(&topic);
            self.record.nodes.values_mut().for_each(|topics| _ = topics.remove(&topic));
        }
        let Record { nodes, boots, .. } = &mut self.record;
        nodes.retain(|_, topics| !topics.is_empty());
        boots.retain(|status, _| nodes.contains_key(status));
        self.save();
    }

    fn empty(&mut self, node_publisher: &NodePublisher, topics: Vec<String>) {
        for topic in topics {
            tracing::info!("{topic}: no longer made by this node; its retained message is removed from the broker");
            node_publisher.clear(&topic.as_str().into());
            self.emptied.insert(topic);
        }
    }

    fn save(&mut self) {
        self.record.v = VERSION;
        let written = serde_json::to_vec(&self.record)
            .map_err(std::io::Error::from)
            .and_then(|json| state_dir::put(&self.folder, &self.file_name, &json));
        if let Err(error) = written {
            tracing::info!(
                "{}: {error}; retained topics that a later configuration no longer has will stay at the broker",
                self.folder.join(&self.file_name).display()
            );
        }
    }
}

/// Returns the retained topics that a node with this configuration makes; `also` are pipelines that have yet to end.
pub(crate) fn made_by<'a>(
    config: &'a Config,
    topics: &NodeTopics,
    also: impl Iterator<Item = &'a str>,
) -> BTreeSet<String> {
    let pipelines = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).chain(also).flat_map(|name| {
        let topics = topics.pipeline(name);
        [topics.status, topics.state]
    });
    let meters = config.power.interval.is_some().then_some(&config.power.meters).into_iter().flatten();
    let of_node = [topics.status.clone(), topics.info.clone()].into_iter().chain(pipelines);
    let all = of_node.chain(meters.map(|meter| topics.power(&meter.name))).map(|topic| topic.to_string());
    all.chain(config.mqtt.discovery.as_ref().map(|prefix| discovery::topic(prefix, &config.node_id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::bus::{Bus, RetainedLimits, Subscription};

    fn publisher(node: &str) -> (NodePublisher, Subscription) {
        let bus = Bus::new(RetainedLimits { topics: 100, payload_bytes: 100 });
        let subscription = bus.subscribe(100);
        (NodePublisher { bus, boot: "b007".into(), topics: NodeTopics::new("edgewatt", node) }, subscription)
    }

    fn emptied(subscription: &mut Subscription) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(message) = subscription.try_next() {
            assert!(message.payload.is_empty() && message.retain);
            topics.push(message.topic.to_string());
        }
        topics
    }

    fn set(topics: &[&str]) -> BTreeSet<String> {
        topics.iter().map(|topic| (*topic).to_owned()).collect()
    }

    #[test]
    fn what_is_gone_is_emptied_in_this_run_and_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let (publisher, mut messages) = publisher("a");
        let read = || RetainedTopics::read(dir.path(), Path::new("c.toml"), &publisher.topics);
        let mut topics = read();
        topics.update(&publisher, set(&["edgewatt/a/status", "edgewatt/a/p/x/state", "edgewatt/a/p/y/state"]));
        assert!(emptied(&mut messages).is_empty() && topics.filters().is_empty());
        topics.update(&publisher, set(&["edgewatt/a/status", "edgewatt/a/p/y/state"]));
        assert_eq!(emptied(&mut messages), ["edgewatt/a/p/x/state"]);
        // The broker has not confirmed it, so the next run does it again.
        let mut topics = read();
        topics.update(&publisher, set(&["edgewatt/a/status"]));
        assert_eq!(emptied(&mut messages), ["edgewatt/a/p/x/state", "edgewatt/a/p/y/state"]);
        let mut other = RetainedTopics::read(dir.path(), Path::new("d.toml"), &publisher.topics);
        other.update(&publisher, set(&[]));
        assert!(emptied(&mut messages).is_empty(), "another configuration file's");
    }

    /// A node that was `a`, is `b`, and has these topics.
    fn renamed(dir: &Path) -> (RetainedTopics, NodePublisher, Subscription) {
        let (before, _) = publisher("a");
        let mut topics = RetainedTopics::read(dir, Path::new("c.toml"), &before.topics);
        topics.update(&before, set(&["edgewatt/a/status", "edgewatt/a/p/x/state"]));
        let (mut now, messages) = publisher("b");
        now.boot = "b008".into();
        let mut topics = RetainedTopics::read(dir, Path::new("c.toml"), &now.topics);
        topics.update(&now, set(&["edgewatt/b/status"]));
        assert_eq!(topics.filters(), ["edgewatt/a/status", "edgewatt/a/info"]);
        (topics, now, messages)
    }

    const STATUS: &str = "edgewatt/a/status";
    const INFO: &str = "edgewatt/a/info";

    #[test]
    fn topics_of_an_old_name_are_emptied_if_its_last_run_was_this_node_s() {
        for order in
            [[(STATUS, "offline"), (INFO, "{\"boot\":\"b007\"}")], [(INFO, "{\"boot\":\"b007\"}"), (STATUS, "offline")]]
        {
            let dir = tempfile::tempdir().unwrap();
            let (mut topics, now, mut messages) = renamed(dir.path());
            topics.message_received(&now, "edgewatt/b/status", b"offline");
            topics.message_received(&now, order[0].0, order[0].1.as_bytes());
            assert!(emptied(&mut messages).is_empty());
            topics.message_received(&now, order[1].0, order[1].1.as_bytes());
            assert_eq!(emptied(&mut messages), ["edgewatt/a/p/x/state", "edgewatt/a/status"]);
            for (topic, payload) in [(STATUS, ""), (INFO, ""), (STATUS, "offline")] {
                topics.message_received(&now, topic, payload.as_bytes());
            }
            assert!(emptied(&mut messages).is_empty(), "once");
        }
    }

    #[test]
    fn topics_of_an_old_name_stay_if_another_machine_has_it_even_while_that_is_off() {
        for (topic, payload) in [(STATUS, "online"), (INFO, "{\"boot\":\"0ther\"}"), (INFO, "no JSON")] {
            let dir = tempfile::tempdir().unwrap();
            let (mut topics, now, mut messages) = renamed(dir.path());
            topics.message_received(&now, topic, payload.as_bytes());
            for (topic, payload) in [(STATUS, "offline"), (INFO, "{\"boot\":\"b007\"}")] {
                topics.message_received(&now, topic, payload.as_bytes());
            }
            assert!(emptied(&mut messages).is_empty(), "{topic} {payload}");
            let next = RetainedTopics::read(dir.path(), Path::new("c.toml"), &now.topics);
            assert!(next.filters().is_empty());
        }
    }

    #[test]
    fn a_damaged_file_is_no_reason_not_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let (publisher, mut messages) = publisher("a");
        let read = || RetainedTopics::read(dir.path(), Path::new("c.toml"), &publisher.topics);
        read().update(&publisher, set(&["edgewatt/a/status"]));
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        std::fs::write(file, "{\"nodes\":3").unwrap();
        read().update(&publisher, set(&["edgewatt/a/status"]));
        assert!(emptied(&mut messages).is_empty());
    }
}
