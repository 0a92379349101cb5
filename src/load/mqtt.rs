//! Turns the `[mqtt]` table into the settings of the client, the outbox and the store.

use anyhow::Context;

use super::state_dir;
use crate::config::{Broker, Config, Mqtt, Pipeline};
use crate::mqtt::{ConnectOptions, Endpoint, NodeConnection, Session, Tls};
use crate::publish::bus::RetainedLimits;
use crate::publish::mqtt::outbox::Limits;
use crate::publish::mqtt::store::{self, Store};
use crate::publish::mqtt::{Handle, Settings};
use crate::publish::topic::NodeTopics;
use crate::text::counted;

/// The usual port of MQTT, which the embedded broker tries first.
pub const MQTT_PORT: u16 = 1883;
/// Largest payload; predictions are far smaller, and brokers refuse larger ones.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Most retained topics: two of the node, one of each meter and two of each pipeline, with those that a reload adds.
const RETAINED_TOPICS: u16 = 2 + 2 * 511;

/// The limit of retained topics on the bus: the same as the client's.
pub const RETAINED: RetainedLimits =
    RetainedLimits { topics: RETAINED_TOPICS as usize, payload_bytes: MAX_PAYLOAD_BYTES };

/// Returns how to connect to the configured broker; for the embedded one, its usual address. `None`: there is no broker.
pub fn connect_options(mqtt: &Mqtt) -> Option<ConnectOptions> {
    let tls = Tls { ca_file: mqtt.ca_file.clone(), client: mqtt.identity.clone(), alpn: mqtt.alpn.clone() };
    let endpoint = match &mqtt.broker {
        Broker::None => return None,
        Broker::Embedded => Endpoint { host: "127.0.0.1".into(), port: MQTT_PORT, tls: None, websocket: None },
        Broker::At(endpoint) => Endpoint { tls: endpoint.tls.is_some().then_some(tls), ..endpoint.clone() },
    };
    Some(ConnectOptions {
        endpoint,
        version: mqtt.version,
        login: mqtt.login.clone(),
        client_id: mqtt.client_id.clone(),
        keep_alive: mqtt.keep_alive,
        connect_timeout: mqtt.connect_timeout,
        max_qos: mqtt.max_qos,
        retain: mqtt.retain,
        session: Session::default(),
    })
}

/// Returns how the node connects, for sources that subscribe; `broker`: to its broker.
pub fn node_connection(mqtt: &Mqtt, broker: Option<ConnectOptions>) -> NodeConnection {
    NodeConnection {
        broker,
        client_id: mqtt.client_id.clone(),
        keep_alive: mqtt.keep_alive,
        connect_timeout: mqtt.connect_timeout,
        retry: (mqtt.retry_min, mqtt.retry_max),
    }
}

/// Returns the settings of the client.
pub fn settings(mqtt: &Mqtt, connect: ConnectOptions, topics: &NodeTopics) -> Settings {
    Settings {
        connect,
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
            when_full: mqtt.when_full,
        },
        max_retained_topics: RETAINED_TOPICS,
    }
}

/// Returns a warning if a prediction, which has at most `prediction_bytes`, can be too large to be published. `classes` is the
/// number of the pipeline's labels.
pub(crate) fn size_warning(
    config: &Config,
    pipeline: &Pipeline,
    prediction_bytes: usize,
    classes: usize,
) -> Option<String> {
    connect_options(&config.mqtt)?;
    let topic = NodeTopics::new(&config.mqtt.base_topic, &config.node_id).pipeline(&pipeline.name).prediction;
    let queue = config.mqtt.queue_bytes.saturating_sub(topic.len());
    let (limit, of) = match queue < MAX_PAYLOAD_BYTES {
        true => (queue, "mqtt.queue.kib"),
        false => (MAX_PAYLOAD_BYTES, "a message"),
    };
    if prediction_bytes <= limit {
        return None;
    }
    let (what, help) = match pipeline.publish_scores {
        Some(count) => {
            let what = format!("publish.scores with {}", counted(count.min(classes), "label"));
            (what, "publish.top_k = 10 publishes the best scores only")
        }
        None => (format!("decision.{}", pipeline.decision.name()), "another decision publishes less"),
    };
    let raise = if of == "a message" { "" } else { ", or raise mqtt.queue.kib" };
    Some(format!(
        "{what} makes predictions of up to {} kB ({prediction_bytes} bytes); the limit of {of} is {limit} bytes, and larger \
         ones are dropped: {help}{raise}",
        prediction_bytes.div_ceil(1000)
    ))
}

/// Starts the store of a client, if the configuration has one.
pub fn start_store(config: &Config, mqtt: Handle) -> anyhow::Result<Option<Store>> {
    let Some(wanted) = &config.mqtt.store else { return Ok(None) };
    let path = state_dir::store_file(wanted.path.as_deref(), &state_dir::folder(config.state_dir.as_deref()));
    let settings = store::Settings { path, commit: wanted.commit, max_bytes: wanted.max_bytes };
    Ok(Some(Store::start(settings, mqtt).context("cannot start the store's thread")?))
}
