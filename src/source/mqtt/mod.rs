//! Messages of an MQTT broker: the keys, and their check.
//!
//! `subscriber` is the connection, on the acquire thread; `delivered` knows what was taken already. Leaves the login, TLS and
//! the packets to the room `mqtt`, and what a message holds to `content`.

mod delivered;
mod subscriber;

use self::subscriber::{Subscriber, Wanted};
use super::{
    Buffer, Content, ContentKind, FrameProducer, OpenOptions, SourceError, SourceKind, SourceSubscription, Survey,
    WhenFull, content,
};
use crate::mqtt::access::check_qos;
use crate::mqtt::subscription::{OtherBroker, table_with_broker};
use crate::mqtt::{Qos, Session, Subscription, check_files, filter};
use crate::schema::{Checker, Key, choice, table};
use crate::source::Exclusive;
use crate::stream::StreamSpec;
use crate::sys::Machine;

/// How long a broker keeps a session without a connection, in MQTT 5.
const SESSION_KEPT_S: u32 = 24 * 3600;
const MAX_KIB: usize = 64 * 1024;
/// A packet has a topic, a header and properties besides its payload.
const AROUND_PAYLOAD: usize = 128 * 1024;

choice! {
    /// What a broker keeps of a subscription while there is no connection.
    #[derive(Default)]
    pub enum Kept {
        /// Nothing.
        #[default]
        Clean = "clean",
        /// The subscription, and messages of QoS 1.
        Persistent = "persistent",
    }
}

table_with_broker! {
    /// Subscribes to a topic of an MQTT broker. A message has one record or several, or one frame of raw samples or several,
    /// each complete. There is no header: CSV needs `records.columns`.
    pub struct Mqtt {
        /// The topic, or a filter with `+` for one level and `#` for all that follow. All topics that it matches feed this
        /// pipeline.
        pub topic: String, example("\"sensors/esp32/accel\"");
        /// The highest quality of service with which messages come: 0 for at most once, 1 for at least once. A message comes
        /// with no higher one than it was published with.
        pub qos: u8 = 1, limits("0 (at most once) or 1 (at least once)");
    } and {
        /// The client identifier, which must be unique at the broker.
        pub client_id: Option<String>, otherwise("that of [mqtt] with the name of the pipeline"),
            example("\"edgewatt-porch-vibration\"");
        /// What the broker keeps while there is no connection: "clean" for nothing, or "persistent" for messages of QoS 1, as
        /// many as the broker is set to keep. With MQTT 5 it keeps them for a day.
        pub session: Kept = Kept::Clean;
        /// Whether a message is used that the broker had kept (retained) when edgewatt subscribes. It may be days old. If not,
        /// it is counted.
        pub retained: bool = false;
        /// The largest message. Larger ones are not read, and counted.
        pub max_kib: usize = 256, range(1, MAX_KIB), unit("KiB");
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
        family pub content: Content;
    }
}

impl Mqtt {
    fn max_bytes(&self) -> usize {
        self.max_kib.saturating_mul(1024)
    }

    fn subscribes(&self) -> Subscription {
        let kept_s = (self.session == Kept::Persistent).then_some(SESSION_KEPT_S);
        let packet_bytes = u32::try_from(self.max_bytes().saturating_add(AROUND_PAYLOAD)).unwrap_or(u32::MAX);
        Subscription {
            topic: self.topic.clone(),
            qos: if self.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            other: self.broker_keys().other_broker(),
            client_id: self.client_id.clone(),
            table: "source.mqtt",
            // A broker that knew the limit would drop larger messages itself, which nobody could count.
            session: Session { kept_s, packet_bytes },
        }
    }
}

impl SourceKind for Mqtt {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if let Err(message) = filter::check(&self.topic) {
            checker.problem(&key.child("topic"), message);
        }
        check_qos(&key.child("qos"), self.qos, checker);
        if self.client_id.as_deref() == Some("") {
            checker.problem(&key.child("client_id"), "it is empty; leave it out");
        }
        if let Some(client_id) = &self.client_id {
            checker.is_placeholder(&key.child("client_id"), client_id);
        }
        if self.session == Kept::Persistent && self.qos == 0 {
            let message = "a session keeps messages of QoS 1 only; set qos = 1, or leave session out";
            checker.problem(&key.child("session"), message);
        }
        self.resolve_files(checker);
        self.broker_keys().check(key, checker);
        content::check_messages(&self.content, key, checker, "messages");
        self.content.check(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
        // Sizes that are out of range may be too large to be counted.
        if let Content::Bytes(bytes) = &self.content
            && !checker.has_problems()
            && bytes.frame_bytes() > self.max_bytes()
        {
            let message = format!("a frame has {} bytes; raise max_kib", bytes.frame_bytes());
            checker.problem(&key.child("max_kib"), message);
        }
    }

    fn spec(&self) -> StreamSpec {
        self.content.kind().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // Who holds the broker back loses the connection, because no ping is sent meanwhile.
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let decoder = self.content.kind().decoder(options.labels);
        let subscription = self.subscribes();
        let node = options.node.ok_or(SourceError::NoBroker)?;
        let connect = subscription.connect_options(&node, &options.pipeline).ok_or(SourceError::NoBroker)?;
        let wanted = Wanted { retained: self.retained, has_time: self.has_time(), max_bytes: self.max_bytes() };
        Ok(Box::new(Subscriber::new(subscription, wanted, connect, node.retry, decoder)))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        survey(&self.topic, self.broker_keys().other_broker())
    }

    fn subscriptions(&self) -> Vec<SourceSubscription> {
        vec![SourceSubscription { key: Vec::new(), part: None, subscription: self.subscribes() }]
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        let of_client = |id: &String| Exclusive::new(format!("MQTT client {id}"), "client_id");
        self.client_id.iter().map(of_client).collect()
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(self.content.kind())
    }

    fn endless(&self) -> Option<&'static str> {
        Some("receives messages, which have no end; start it without --once, or use the source lines or replay")
    }
}

/// Returns what is known of a subscription without a connection; `other`: at a broker that is not the node's.
pub(crate) fn survey(topic: &str, other: Option<OtherBroker>) -> Survey {
    let place = match other {
        Some(OtherBroker { endpoint, .. }) => {
            if let Some(Err(reason)) = endpoint.tls.as_ref().map(check_files) {
                return Survey::broken(format!("TLS: {reason}")).fix("correct the file, or name another in ca_file");
            }
            format!("the broker {}", endpoint.address())
        }
        None => "the broker of [mqtt]".to_owned(),
    };
    Survey::ready(format!("subscribes to {topic} at {place}; `edgewatt doctor broker` tries it"))
}

#[cfg(test)]
mod tests;
