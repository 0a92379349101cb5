//! What a source asks a broker for, and how it connects: as the node does, or to another broker.

use std::path::PathBuf;
use std::time::Duration;

use super::codec::{Qos, Session, Subscribe, Version};
use super::connection::ConnectOptions;
use super::transport::Endpoint;

/// How the node connects to its broker.
#[derive(Debug, Clone)]
pub struct NodeConnection {
    /// `None`: it has no broker.
    pub broker: Option<ConnectOptions>,
    pub client_id: String,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    /// The shortest and the longest pause before it connects again.
    pub retry: (Duration, Duration),
}

/// A broker that is not the node's.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherBroker {
    pub endpoint: Endpoint,
    pub version: Version,
    /// User, and the file with the password.
    pub login: Option<(String, PathBuf)>,
}

/// A subscription of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub topic: String,
    pub qos: Qos,
    /// `None`: at the node's broker.
    pub other: Option<OtherBroker>,
    /// `None`: made of the node's and of the name of the pipeline.
    pub client_id: Option<String>,
    pub session: Session,
}

/// The keys of a source that names its broker. Errors name those of `[mqtt]`.
const OWN_KEYS: [&str; 6] = ["broker", "version", "user", "password_file", "ca_file", "client_id"];

impl Subscription {
    /// Returns how to connect for the pipeline `name`; `None`: the node has no broker.
    pub fn connect_options(&self, node: &NodeConnection, name: &str) -> Option<ConnectOptions> {
        let client_id = self.client_id.clone().unwrap_or_else(|| format!("{}-{name}", node.client_id));
        let session = self.session;
        let Some(OtherBroker { endpoint, version, login }) = self.other.clone() else {
            return node.broker.clone().map(|options| ConnectOptions { client_id, session, ..options });
        };
        Some(ConnectOptions {
            endpoint,
            version,
            login,
            client_id,
            keep_alive: node.keep_alive,
            connect_timeout: node.connect_timeout,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session,
        })
    }

    /// Returns the packet that subscribes.
    pub fn packet(&self) -> Subscribe<'_> {
        Subscribe { filter: &self.topic, qos: self.qos, preserve_retain: false }
    }

    /// Returns why the broker sends nothing if it refuses the subscription.
    pub fn refusal(&self) -> String {
        format!(
            "it refuses the subscription to {}; allow this user to subscribe to it in the broker's ACL, or change the topic",
            self.topic
        )
    }

    /// Returns the reason for a loss, in which keys of `[mqtt]` have the names that they have in this source.
    pub fn in_its_words(&self, reason: String) -> String {
        let is_renamed = |key: &&str| self.other.is_some() || *key == "client_id";
        OWN_KEYS
            .into_iter()
            .filter(is_renamed)
            .fold(reason, |reason, key| reason.replace(&format!("mqtt.{key}"), &format!("source.mqtt.{key}")))
    }
}
