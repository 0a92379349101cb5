//! Keeps the description of this node for Home Assistant up to date: publishes it when it changes and when Home Assistant
//! has started again, and removes what an earlier configuration had. Runs on the async thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::config::Config;
use crate::publish::discovery::{self, Node};
use crate::publish::publisher::NodePublisher;

/// The payload that Home Assistant publishes when it has started.
const BIRTH: &[u8] = b"online";

/// See the module's doc.
pub(crate) struct Discovery {
    topic: Arc<str>,
    birth_topic: String,
    /// Entities that the broker keeps a description of, each with its kind.
    known: BTreeMap<String, String>,
    published: Option<Value>,
}

impl Discovery {
    pub(crate) fn new(prefix: &str, node: &str) -> Self {
        Self {
            topic: discovery::topic(prefix, node).into(),
            birth_topic: discovery::birth_topic(prefix),
            known: BTreeMap::new(),
            published: None,
        }
    }

    /// Returns the topics to subscribe to.
    pub(crate) fn filters(&self) -> [String; 2] {
        [self.topic.to_string(), self.birth_topic.clone()]
    }

    /// Publishes the description of the node that `config` makes, if it has changed or if `again` is set.
    pub(crate) fn publish(&mut self, node_publisher: &NodePublisher, config: &Config, again: bool) {
        let node = Node {
            id: &config.node_id,
            topics: &node_publisher.topics,
            pipelines: config.pipelines.iter().map(|p| (p.name.as_str(), p.decision.kind().entities())).collect(),
            meters: config.power.meters.iter().map(|meter| meter.name.as_str()).collect(),
            metrics_s: config.metrics_interval.as_secs_f64(),
        };
        let now = discovery::payload(&node, &[]);
        let gone = discovery::gone(&self.known, &now);
        let payload = discovery::payload(&node, &gone);
        if again || self.published.as_ref() != Some(&payload) {
            node_publisher.retain(&self.topic, &payload);
            // A reload may remove them.
            self.known.extend(discovery::components(&payload));
            self.published = Some(payload);
        }
    }

    /// Takes a message. Returns whether the description has to be published again.
    pub(crate) fn message_received(&mut self, topic: &str, payload: &[u8]) -> bool {
        if topic == self.birth_topic {
            return payload == BIRTH;
        }
        if *topic != *self.topic {
            return false;
        }
        let ours = self.published.as_ref().and_then(|published| published["cmps"].as_object());
        let mut listed = discovery::components(&serde_json::from_slice(payload).unwrap_or_default());
        listed.retain(|key, _| ours.is_none_or(|ours| !ours.contains_key(key)));
        let news = !listed.is_empty();
        self.known.extend(listed);
        news
    }
}
