//! Empties retained topics that this daemon once made and no longer makes: of pipelines and meters that are gone, of a
//! node that has another name now, of discovery that was turned off.
//!
//! Owns the file in the state directory with the topics that were made; there is one for each configuration file. Topics
//! of another node are emptied only if that node's `status` is `offline`: a machine that was made from this one's image
//! may run under that name. Runs on the async thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::load::state_dir;
use crate::publish::discovery;
use crate::publish::mqtt::{Handle, OFFLINE};
use crate::publish::publisher::NodePublisher;
use crate::publish::topic::NodeTopics;
use crate::text;

const VERSION: u32 = 1;

/// The file's content.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    v: u32,
    /// The topics of each node, by the topic of its status.
    nodes: BTreeMap<String, BTreeSet<String>>,
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
        }
    }

    /// Returns the topics to subscribe to: the status of each other node that this daemon once was.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.record.nodes.keys().filter(|status| **status != self.status).cloned().collect()
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
        if self.record.nodes.get(&self.status) != Some(&topics) {
            self.record.nodes.insert(self.status.clone(), topics);
            self.save();
        }
    }

    /// Takes a message: the status of a node that this daemon once was. Empties its topics if it is offline.
    pub(crate) fn message_received(&mut self, node_publisher: &NodePublisher, topic: &str, payload: &[u8]) {
        if topic == self.status {
            return;
        }
        let Some(topics) = self.record.nodes.get(topic) else { return };
        if payload != OFFLINE.as_bytes() {
            if !payload.is_empty() {
                tracing::info!("{topic} is online: another machine has this node's old name, whose topics stay");
            }
            return;
        }
        let own = self.record.nodes.get(&self.status);
        let is_gone = |topic: &&String| !self.emptied.contains(*topic) && own.is_none_or(|own| !own.contains(*topic));
        let gone = topics.iter().filter(is_gone).cloned().collect();
        self.empty(node_publisher, gone);
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
        self.record.nodes.retain(|_, topics| !topics.is_empty());
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

    #[test]
    fn topics_of_an_old_name_are_emptied_only_if_nobody_runs_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let (before, _) = publisher("a");
        let mut topics = RetainedTopics::read(dir.path(), Path::new("c.toml"), &before.topics);
        topics.update(&before, set(&["edgewatt/a/status", "edgewatt/a/p/x/state"]));
        let (now, mut messages) = publisher("b");
        let mut topics = RetainedTopics::read(dir.path(), Path::new("c.toml"), &now.topics);
        topics.update(&now, set(&["edgewatt/b/status"]));
        assert_eq!(topics.filters(), ["edgewatt/a/status"]);
        topics.message_received(&now, "edgewatt/a/status", b"online");
        topics.message_received(&now, "edgewatt/b/status", b"offline");
        assert!(emptied(&mut messages).is_empty());
        topics.message_received(&now, "edgewatt/a/status", b"offline");
        assert_eq!(emptied(&mut messages), ["edgewatt/a/p/x/state", "edgewatt/a/status"]);
        topics.message_received(&now, "edgewatt/a/status", b"offline");
        assert!(emptied(&mut messages).is_empty(), "once");
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
