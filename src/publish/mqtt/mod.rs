//! MQTT: a client that keeps each message until the broker has acknowledged it, within bounds.
//!
//! `client` connects, sends and reconnects; `handle` is what the rest of the daemon holds of it. `outbox`, `retained`
//! and `store` keep what is not delivered yet; `codec` makes bytes of packets, and `transport` carries them. Leaves to
//! the caller what is published. One future on the async thread, and the `store` thread.

pub mod broker;
mod client;
pub mod codec;
pub mod connection;
mod handle;
pub mod outbox;
mod pace;
mod port;
mod queues;
pub mod retained;
mod settings;
mod speaks;
pub mod store;
mod tls;
mod too_large;
pub mod transport;

pub(crate) use client::limits_text;
pub use client::{MqttClient, Received};
pub use codec::Version;
pub use handle::{ClientState, ClientStatus, Handle, Stats, Warnings};
pub use outbox::WhenFull;
pub use settings::{Settings, SettingsError};
pub use tls::check_files;
pub use transport::Endpoint;

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
