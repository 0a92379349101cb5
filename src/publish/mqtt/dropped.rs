//! Which messages were dropped because of what they are: too large for the broker or for the daemon's own queue, or not taken
//! by the broker. Pure.

use std::fmt;
use std::sync::Arc;

use super::outbox::SUSPECTED_AFTER;
use crate::mqtt::codec::Code;
use crate::publish::message::Message;

/// Topics that are remembered; further ones are only counted, as drops.
const MAX_TOPICS: usize = 64;
/// Topics that a text names.
const NAMED: usize = 4;

/// The first message of each topic that was dropped for each cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DroppedTopics {
    messages: Vec<DroppedMessage>,
}

/// A message that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DroppedMessage {
    pub topic: Arc<str>,
    /// Bytes of what the limit is for; otherwise of topic and payload.
    pub bytes: usize,
    pub cause: Cause,
    logged: bool,
}

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The largest packet that the broker takes, of topic and payload, in bytes.
    BrokerLimit(u32),
    /// The largest payload that the daemon queues, in bytes.
    QueueLimit(usize),
    /// The broker answers with this code.
    Refused(Code),
    /// The broker ends the connection each time.
    ConnectionEnds,
}

impl DroppedTopics {
    /// Notes a dropped message.
    pub(crate) fn add(&mut self, topic: &Arc<str>, bytes: usize, cause: Cause) {
        let is_known = |known: &DroppedMessage| known.topic == *topic && known.cause == cause;
        if self.messages.len() < MAX_TOPICS && !self.messages.iter().any(is_known) {
            self.messages.push(DroppedMessage { topic: topic.clone(), bytes, cause, logged: false });
        }
    }

    /// Notes a message that is larger than the broker's largest packet.
    pub(crate) fn add_for_broker(&mut self, message: &Message, packet_bytes: u32) {
        self.add(&message.topic, message.size_bytes(), Cause::BrokerLimit(packet_bytes));
    }

    /// Forgets what another broker did not take: one with another limit, or one that refused a message.
    pub(crate) fn forget_others(&mut self, packet_bytes: u32) {
        self.messages.retain(|message| match message.cause {
            Cause::BrokerLimit(bytes) => bytes == packet_bytes,
            Cause::Refused(_) => !message.logged,
            Cause::QueueLimit(_) | Cause::ConnectionEnds => true,
        });
    }

    /// Returns those that were added since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<DroppedMessage> {
        let mut new = self.messages.clone();
        new.retain(|message| !message.logged);
        self.messages.iter_mut().for_each(|message| message.logged = true);
        new
    }

    /// Returns why messages on that topic are dropped; `None` if none was.
    pub(crate) fn text_of_topic(&self, topic: &str) -> Option<String> {
        let message = self.messages.iter().find(|message| *message.topic == *topic)?;
        Some(format!("{} ({} bytes)", message.cause, message.bytes))
    }

    /// Returns a text that names them; `None` if there are none. Topics below `prefix` are named without it.
    pub(crate) fn text(&self, prefix: &str) -> Option<String> {
        let mut causes: Vec<Cause> = Vec::new();
        for message in &self.messages {
            if !causes.contains(&message.cause) {
                causes.push(message.cause);
            }
        }
        let texts: Vec<String> = causes.into_iter().map(|cause| self.text_of(cause, prefix)).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn text_of(&self, cause: Cause, prefix: &str) -> String {
        let messages: Vec<&DroppedMessage> = self.messages.iter().filter(|message| message.cause == cause).collect();
        let name = |message: &&DroppedMessage| {
            let topic = message.topic.strip_prefix(prefix).unwrap_or(&message.topic);
            format!("{topic} ({} bytes)", message.bytes)
        };
        let mut names: Vec<String> = messages.iter().take(NAMED).map(name).collect();
        if messages.len() > NAMED {
            names.push(format!("{} more", messages.len() - NAMED));
        }
        format!("{cause}: {}", names.join(", "))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokerLimit(bytes) => write!(f, "too large for the broker, which takes {bytes} bytes"),
            Self::QueueLimit(bytes) => write!(f, "too large for edgewatt's queue, which takes {bytes} bytes"),
            Self::Refused(code) => write!(f, "refused by the broker ({code})"),
            Self::ConnectionEnds => f.write_str("dropped, because the broker ends the connection over it"),
        }
    }
}

impl fmt::Display for DroppedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NEVER: &str = "it is dropped and never arrives, as everything on this topic that is as large";
        let Self { topic, bytes, cause, .. } = self;
        match cause {
            Cause::BrokerLimit(most) => write!(
                f,
                "{topic} has {bytes} bytes with its topic, and the MQTT broker takes packets of at most {most}: {NEVER}; \
                 raise the limit of the broker (mosquitto: max_packet_size)"
            ),
            Cause::QueueLimit(most) => write!(
                f,
                "{topic} has {bytes} bytes, and edgewatt queues payloads of at most {most}: {NEVER}; publish.top_k makes \
                 messages with many scores smaller"
            ),
            Cause::Refused(code) => write!(
                f,
                "the MQTT broker refuses {topic}, {bytes} bytes with its topic ({code}: {}); what it refuses is dropped and \
                 counted as refused",
                code.words()
            ),
            Cause::ConnectionEnds => write!(
                f,
                "the MQTT broker ended the connection {} times in a row while {topic}, {bytes} bytes with its topic, was on \
                 its way, the last time with nothing else: this message is dropped and counted as refused; does the broker \
                 limit the size of messages (mosquitto: max_packet_size), or who may publish there? Only MQTT 5 can say \
                 so (mqtt.version = \"5\")",
                SUSPECTED_AFTER + 1
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_is_told_once_and_a_text_names_a_few() {
        let mut large = DroppedTopics::default();
        let add =
            |large: &mut DroppedTopics, topic: &str, bytes| large.add(&topic.into(), bytes, Cause::BrokerLimit(400));
        assert_eq!(large.text("n/"), None);
        add(&mut large, "n/info", 506);
        add(&mut large, "n/info", 606);
        assert_eq!(large.take_new().len(), 1);
        assert_eq!(
            large.text("n/").as_deref(),
            Some("too large for the broker, which takes 400 bytes: info (506 bytes)")
        );
        (0..9).for_each(|n| add(&mut large, &format!("n/{n}"), 503));
        assert_eq!((large.take_new().len(), large.take_new().len()), (9, 0));
        assert!(large.text("n/").is_some_and(|text| text.ends_with("2 (503 bytes), 6 more")), "{:?}", large.text("n/"));
        (0..99).for_each(|n| add(&mut large, &format!("m/{n}"), 503));
        assert_eq!(large.messages.len(), MAX_TOPICS);
        large.forget_others(400);
        assert_eq!(
            (large.messages.len(), large.take_new().len()),
            (MAX_TOPICS, MAX_TOPICS - 10),
            "what was not logged is"
        );
        large.forget_others(4000);
        assert_eq!(large.text("n/"), None);
        large.add(&"n/p".into(), 300_000, Cause::QueueLimit(262_144));
        add(&mut large, "n/info", 506);
        assert_eq!(
            large.text("n/").as_deref(),
            Some(
                "too large for edgewatt's queue, which takes 262144 bytes: p (300000 bytes); \
                 too large for the broker, which takes 400 bytes: info (506 bytes)"
            )
        );
        large.forget_others(4000);
        assert!(large.text("n/").is_some_and(|text| !text.contains("broker")), "no broker has changed our own limit");
    }
}
