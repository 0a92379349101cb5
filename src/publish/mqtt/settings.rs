//! The settings of the client, checked before it is built. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::outbox::{self, Limits};
use super::{OFFLINE, status_message};
use crate::mqtt::ConnectOptions;

/// Largest MQTT packet, less room for topic and header.
const MAX_PAYLOAD_BYTES: usize = 268_435_455 - 70_000;

/// Everything the client needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    pub connect: ConnectOptions,
    /// Topic of `online` and `offline`, retained, QoS 1, last will.
    pub status_topic: Arc<str>,
    /// First delay before a reconnect; it doubles from there.
    pub retry_min: Duration,
    /// Longest delay before a reconnect.
    pub retry_max: Duration,
    /// Bounds of the outbox.
    pub outbox: Limits,
    /// Most messages of a backlog that are sent in a second.
    pub drain_per_s: Option<u32>,
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
        /// What is allowed.
        expected: &'static str,
    },
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let seconds = self.connect.keep_alive.as_secs();
        let packet_ids = u32::from(self.outbox.inflight) + u32::from(self.max_retained_topics);
        let range = |ok: bool, key, value: &dyn std::fmt::Debug, expected| {
            let error = || SettingsError::Range { key, value: format!("{value:?}"), expected };
            if ok { Ok(()) } else { Err(error()) }
        };
        let whole = self.connect.keep_alive.subsec_nanos() == 0 && (1..=65_535).contains(&seconds);
        range(whole, "keep_alive", &self.connect.keep_alive, "1 to 65535 whole seconds")?;
        range(!self.connect.client_id.is_empty(), "client_id", &self.connect.client_id, "a name unique at the broker")?;
        range(self.outbox.inflight >= 1, "inflight", &self.outbox.inflight, "at least 1")?;
        range(self.max_retained_topics >= 1, "max_retained_topics", &self.max_retained_topics, "at least 1")?;
        range(packet_ids < 65_535, "inflight", &self.outbox.inflight, "below 65535 less the retained topics")?;
        let payload = self.outbox.max_payload_bytes;
        range(payload <= MAX_PAYLOAD_BYTES, "max_payload_bytes", &payload, "below what MQTT allows (268 MB)")?;
        let backoff = !self.retry_min.is_zero() && self.retry_min <= self.retry_max;
        range(backoff, "retry_min", &self.retry_min, "above zero and at most mqtt.retry_max")?;
        range(!self.connect.connect_timeout.is_zero(), "connect_timeout", &self.connect.connect_timeout, "above zero")?;
        range(
            outbox::check(&status_message(self, OFFLINE), 0x40).is_ok(),
            "status_topic",
            &self.status_topic,
            "a plain topic",
        )
    }
}
