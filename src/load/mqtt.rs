//! What the configuration says of MQTT, as the client, the outbox and the store take it.

use anyhow::Context;

use super::state_dir::{self, STORE_FILE};
use crate::config::{Broker, Config, Mqtt, MqttVersion, WhenFull};
use crate::publish::mqtt::connection::ConnectOptions;
use crate::publish::mqtt::transport::{Endpoint, Tls};
use crate::publish::mqtt::wire::Version;
use crate::publish::mqtt::{Handle, Settings};
use crate::publish::outbox::{Limits, Policy};
use crate::publish::store::{self, Store};
use crate::publish::topic::NodeTopics;

/// The port that MQTT has by custom, where the embedded broker tries first.
pub(crate) const MQTT_PORT: u16 = 1883;
/// Largest payload: no prediction of ours comes near, and brokers refuse more.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Two of the node, one of each meter and two of each pipeline, those included that a reload adds.
const RETAINED_TOPICS: u16 = 2 + 2 * 511;

/// The way to the broker of the configuration; for the embedded one, which is nowhere yet, as if it were here.
pub(crate) fn reach(mqtt: &Mqtt) -> ConnectOptions {
    let tls = Tls { ca_file: mqtt.ca_file.clone(), client: mqtt.identity.clone(), alpn: mqtt.alpn.clone() };
    let endpoint = match &mqtt.broker {
        Broker::Embedded => Endpoint { host: "127.0.0.1".into(), port: MQTT_PORT, tls: None, websocket: None },
        Broker::At(address) => {
            let endpoint = Endpoint::new(address);
            Endpoint { tls: endpoint.tls.is_some().then_some(tls), ..endpoint }
        }
    };
    ConnectOptions {
        endpoint,
        version: match mqtt.version {
            MqttVersion::Three => Version::Three,
            MqttVersion::Five => Version::Five,
        },
        login: mqtt.login.clone(),
        client_id: mqtt.client_id.clone(),
        keep_alive: mqtt.keep_alive,
        connect_timeout: mqtt.connect_timeout,
    }
}

pub(crate) fn settings(mqtt: &Mqtt, reach: ConnectOptions, topics: &NodeTopics) -> Settings {
    Settings {
        reach,
        drain_per_s: mqtt.drain_per_s,
        status_topic: topics.status.clone(),
        retry_min: mqtt.retry_min,
        retry_max: mqtt.retry_max,
        outbox: Limits {
            max_stored_bytes: mqtt.store.as_ref().map_or(0, |store| store::payload_bytes(store.max_bytes)),
            max_age_ms: u64::try_from(mqtt.max_age.as_millis()).unwrap_or(u64::MAX),
            max_messages: mqtt.queue_messages,
            max_bytes: mqtt.queue_bytes,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            inflight: mqtt.inflight,
            policy: match mqtt.when_full {
                WhenFull::DropOldest => Policy::DropOldest,
                WhenFull::DropNewest => Policy::DropNewest,
            },
        },
        max_retained_topics: RETAINED_TOPICS,
    }
}

/// What keeps on disk what that link has not delivered, where the configuration has it.
pub(crate) fn store(config: &Config, link: Handle) -> anyhow::Result<Option<Store>> {
    let Some(wanted) = &config.mqtt.store else { return Ok(None) };
    let default = || state_dir::folder(config.state_dir.as_deref()).join(STORE_FILE);
    let path = wanted.path.clone().unwrap_or_else(default);
    let settings = store::Settings { path, commit: wanted.commit, max_bytes: wanted.max_bytes };
    Ok(Some(Store::start(settings, link).context("cannot start the store's thread")?))
}
