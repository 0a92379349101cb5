//! Keeps the description of this node for Home Assistant up to date: publishes it when it changes and when Home Assistant
//! has started again, and removes what an earlier configuration had. Runs on the async thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::config::Config;
use crate::publish::discovery;
use crate::publish::publisher::NodePublisher;

/// The payload that Home Assistant publishes when it has started.
const BIRTH: &[u8] = b"online";

/// See the module's doc.
pub(crate) struct Discovery {
    node: String,
    topic: Arc<str>,
    /// Where an earlier version described the node.
    old_topic: Option<String>,
    birth_topic: String,
    /// Entities that the broker keeps a description of, each with its kind.
    known: BTreeMap<String, String>,
    published: Option<Value>,
}

impl Discovery {
    pub(crate) fn new(prefix: &str, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            topic: discovery::topic(prefix, node).into(),
            old_topic: discovery::old_topic(prefix, node),
            birth_topic: discovery::birth_topic(prefix),
            known: BTreeMap::new(),
            published: None,
        }
    }

    /// Returns the topics to subscribe to.
    pub(crate) fn filters(&self) -> Vec<String> {
        [self.topic.to_string(), self.birth_topic.clone()].into_iter().chain(self.old_topic.clone()).collect()
    }

    /// Publishes the description of the node that `config` makes, if it has changed or if `again` is set.
    pub(crate) fn publish(&mut self, node_publisher: &NodePublisher, config: &Config, again: bool) {
        let node = config.described(&node_publisher.topics);
        let now = discovery::payload(&node, &[]);
        let gone = discovery::gone(&self.known, &now);
        let payload = discovery::payload(&node, &gone);
        if again || self.published.as_ref() != Some(&payload) {
            node_publisher.retain(&self.topic, &payload);
            // A reload may remove them.
            self.known.extend(discovery::described(&payload));
            self.published = Some(payload);
        }
    }

    /// Takes a message. Returns whether the description has to be published again.
    pub(crate) fn message_received(&mut self, node_publisher: &NodePublisher, topic: &str, payload: &[u8]) -> bool {
        if topic == self.birth_topic {
            return payload == BIRTH;
        }
        if self.old_topic.as_deref() == Some(topic) {
            let old = serde_json::from_slice(payload).unwrap_or_default();
            // It may be the topic of another node, which has just that name.
            if discovery::is_of(&old, &self.node, &node_publisher.topics) {
                tracing::info!("{topic}: an earlier version described this node here; that description is removed");
                node_publisher.clear(&topic.into());
            }
            return false;
        }
        if *topic != *self.topic {
            return false;
        }
        let ours = self.published.as_ref().and_then(|published| published["cmps"].as_object());
        let mut listed = discovery::described(&serde_json::from_slice(payload).unwrap_or_default());
        listed.retain(|key, _| ours.is_none_or(|ours| !ours.contains_key(key)));
        let news = !listed.is_empty();
        self.known.extend(listed);
        news
    }
}
