//! Keeps Home Assistant's picture of this node up to date: says it when it changes, again when Home Assistant is there
//! anew, and takes off what an earlier configuration had. Runs on the async thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{Config, Decision};
use crate::publish::discovery::{self, Kind, Node};
use crate::publish::publisher::NodePublisher;

/// What Home Assistant says when it has started.
const BIRTH: &[u8] = b"online";

/// See the module's doc.
pub(crate) struct Discovery {
    topic: Arc<str>,
    birth_topic: String,
    /// Entities that the broker keeps a description of, each with its kind.
    known: BTreeMap<String, String>,
    said: Option<Value>,
}

impl Discovery {
    pub(crate) fn new(prefix: &str, node: &str) -> Self {
        Self {
            topic: discovery::topic(prefix, node).into(),
            birth_topic: discovery::birth_topic(prefix),
            known: BTreeMap::new(),
            said: None,
        }
    }

    /// What must be subscribed to.
    pub(crate) fn filters(&self) -> [String; 2] {
        [self.topic.to_string(), self.birth_topic.clone()]
    }

    /// Describes the node that `config` makes, where that has changed or is asked for `anew`.
    pub(crate) fn say(&mut self, node_publisher: &NodePublisher, config: &Config, anew: bool) {
        let kind = |decision: &Decision| match decision {
            Decision::Classify(_) => Kind::Class,
            Decision::Regress(regress) => Kind::Values(regress.names.clone()),
            Decision::Raw => Kind::Outputs,
        };
        let node = Node {
            id: &config.node_id,
            topics: &node_publisher.topics,
            pipelines: config.pipelines.iter().map(|p| (p.name.as_str(), kind(&p.decision))).collect(),
            meters: config.power.meters.iter().map(|meter| meter.name.as_str()).collect(),
            metrics_s: config.metrics_interval.as_secs_f64(),
        };
        let now = discovery::payload(&node, &[]);
        let gone = discovery::gone(&self.known, &now);
        let payload = discovery::payload(&node, &gone);
        if anew || self.said.as_ref() != Some(&payload) {
            node_publisher.retain(&self.topic, &payload);
            // A reload may take them away.
            self.known.extend(discovery::components(&payload));
            self.said = Some(payload);
        }
    }

    /// Takes a message; whether the description is to be said again.
    pub(crate) fn hear(&mut self, topic: &str, payload: &[u8]) -> bool {
        if topic == self.birth_topic {
            return payload == BIRTH;
        }
        if *topic != *self.topic {
            return false;
        }
        let ours = self.said.as_ref().and_then(|said| said["cmps"].as_object());
        let mut listed = discovery::components(&serde_json::from_slice(payload).unwrap_or_default());
        listed.retain(|key, _| ours.is_none_or(|ours| !ours.contains_key(key)));
        let news = !listed.is_empty();
        self.known.extend(listed);
        news
    }
}
