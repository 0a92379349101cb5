//! MQTT: a client that keeps each message until the broker has acknowledged it, within bounds.
//!
//! `client` connects, sends and reconnects; `handle` is what the rest of the daemon holds of it. `outbox`, `retained`
//! and `store` keep what is not delivered yet. Leaves to the room `mqtt` the connection itself, and to the caller what is
//! published. One future on the async thread, and the `store` thread.

pub mod broker;
mod client;
mod dropped;
mod handle;
pub mod outbox;
mod pace;
mod queues;
pub mod retained;
mod settings;
pub mod store;

pub(crate) use client::limits_text;
pub use client::{MqttClient, Received};
pub use handle::{ClientState, ClientStatus, Handle, Stats, Warnings};
pub use outbox::WhenFull;
pub use settings::{Settings, SettingsError};

use super::message::{Bytes, Class, Message, Qos};

const ONLINE: &str = "online";
pub(crate) const OFFLINE: &str = "offline";

fn status_message(settings: &Settings, payload: &'static str) -> Message {
    Message {
        topic: settings.status_topic.clone(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        retain: true,
        class: Class::State,
        marks: None,
    }
}
