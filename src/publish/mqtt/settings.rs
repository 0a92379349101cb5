//! What the link needs to know, checked before it is built. Pure.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{LastWill, MqttOptions, QoS};

use super::{OFFLINE, status_message};
use crate::publish::outbox::Limits;

/// Nothing large is ever sent to us.
const MAX_INCOMING_BYTES: usize = 256 * 1024;
/// Largest MQTT packet, less room for topic and header.
const MAX_PAYLOAD_BYTES: usize = 268_435_455 - 70_000;

/// Everything the link needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host name or address of the broker.
    pub host: String,
    /// TCP port of the broker.
    pub port: u16,
    /// Unique at the broker: a second client with the same id throws the first one out.
    pub client_id: String,
    /// Topic of `online` and `offline`, retained, QoS 1, last will.
    pub status_topic: Arc<str>,
    /// Time between pings, in whole seconds; a dead link is noticed within two of them.
    pub keep_alive: Duration,
    /// Longest wait for a connection, and for the socket to take what is written.
    pub connect_timeout: Duration,
    /// First delay before a reconnect; it doubles from there.
    pub retry_min: Duration,
    /// Longest delay before a reconnect.
    pub retry_max: Duration,
    /// Bounds of the outbox.
    pub outbox: Limits,
    /// Retained topics, `status` included.
    pub max_retained_topics: u16,
}

/// Settings that cannot work; correct them.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value is out of its range.
    #[error("mqtt.{key} is {value}; it must be {expected}")]
    Range {
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let seconds = self.keep_alive.as_secs();
        let packet_ids = u32::from(self.outbox.inflight) + u32::from(self.max_retained_topics);
        let range = |ok: bool, key, value: &dyn std::fmt::Debug, expected| {
            let error = || SettingsError::Range { key, value: format!("{value:?}"), expected };
            if ok { Ok(()) } else { Err(error()) }
        };
        let whole = self.keep_alive.subsec_nanos() == 0 && (1..=65_535).contains(&seconds);
        range(whole, "keep_alive", &self.keep_alive, "1 to 65535 whole seconds")?;
        range(!self.client_id.is_empty(), "client_id", &self.client_id, "a name unique at the broker")?;
        range(self.outbox.inflight >= 1, "inflight", &self.outbox.inflight, "at least 1")?;
        range(self.max_retained_topics >= 1, "max_retained_topics", &self.max_retained_topics, "at least 1")?;
        range(packet_ids < 65_535, "inflight", &self.outbox.inflight, "below 65535 less the retained topics")?;
        let payload = self.outbox.max_payload_bytes;
        range(payload <= MAX_PAYLOAD_BYTES, "max_payload_bytes", &payload, "below what MQTT allows (268 MB)")?;
        let backoff = !self.retry_min.is_zero() && self.retry_min <= self.retry_max;
        range(backoff, "retry_min", &self.retry_min, "above zero and at most mqtt.retry_max")?;
        range(!self.connect_timeout.is_zero(), "connect_timeout", &self.connect_timeout, "above zero")?;
        range(status_message(self, OFFLINE).check(0x40).is_ok(), "status_topic", &self.status_topic, "a plain topic")
    }

    /// The broker as the user wrote it, for logs.
    pub(super) fn address(&self) -> String {
        let bracketed = self.host.contains(':') && !self.host.starts_with('[');
        if bracketed { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub(super) fn options(&self) -> MqttOptions {
        // rumqttc joins host and port with a colon, so an IPv6 address needs its brackets.
        let address = self.address();
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let mut options = MqttOptions::new(self.client_id.as_str(), host, self.port);
        options.set_keep_alive(self.keep_alive);
        options.set_clean_session(true);
        options.set_inflight(self.outbox.inflight.saturating_add(self.max_retained_topics));
        options.set_max_packet_size(MAX_INCOMING_BYTES, self.outbox.max_payload_bytes + 70_000);
        options.set_last_will(LastWill::new(self.status_topic.as_ref(), OFFLINE, QoS::AtLeastOnce, true));
        options
    }
}
