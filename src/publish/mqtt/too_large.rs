//! Which messages were dropped because of their size, too large for the broker or for the daemon's own queue. Pure.

use std::fmt;
use std::sync::Arc;

use crate::publish::message::Message;

/// Topics that are remembered; further ones are only counted, as drops.
const MAX_TOPICS: usize = 64;
/// Topics that a text names.
const NAMED: usize = 4;

/// The first message of each topic that was too large.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TooLarge {
    messages: Vec<LargeMessage>,
    /// How many of them are logged.
    logged: usize,
}

/// A message that was dropped because of its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LargeMessage {
    pub topic: Arc<str>,
    /// Bytes of what the limit is for.
    pub bytes: usize,
    pub limit: SizeLimit,
}

/// What a message was too large for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizeLimit {
    /// The largest packet that the broker takes, of topic and payload, in bytes.
    Broker(u32),
    /// The largest payload that the daemon queues, in bytes.
    Queue(usize),
}

impl TooLarge {
    /// Notes a dropped message.
    pub(crate) fn add(&mut self, topic: &Arc<str>, bytes: usize, limit: SizeLimit) {
        let is_known = |known: &LargeMessage| known.topic == *topic && known.limit == limit;
        if self.messages.len() < MAX_TOPICS && !self.messages.iter().any(is_known) {
            self.messages.push(LargeMessage { topic: topic.clone(), bytes, limit });
        }
    }

    /// Notes a message that is larger than the broker's largest packet.
    pub(crate) fn add_for_broker(&mut self, message: &Message, packet_bytes: u32) {
        self.add(&message.topic, message.size_bytes(), SizeLimit::Broker(packet_bytes));
    }

    /// Forgets those that were too large for another limit of a broker.
    pub(crate) fn forget_others(&mut self, packet_bytes: u32) {
        let other = |limit| matches!(limit, SizeLimit::Broker(bytes) if bytes != packet_bytes);
        self.messages.retain(|message| !other(message.limit));
        self.logged = self.messages.len();
    }

    /// Returns those that were added since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<LargeMessage> {
        let new = self.messages.get(self.logged..).unwrap_or_default().to_vec();
        self.logged = self.messages.len();
        new
    }

    /// Returns a text that names them; `None` if there are none. Topics below `prefix` are named without it.
    pub(crate) fn text(&self, prefix: &str) -> Option<String> {
        let mut limits: Vec<SizeLimit> = Vec::new();
        for message in &self.messages {
            if !limits.contains(&message.limit) {
                limits.push(message.limit);
            }
        }
        let texts: Vec<String> = limits.into_iter().map(|limit| self.text_of(limit, prefix)).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn text_of(&self, limit: SizeLimit, prefix: &str) -> String {
        let messages: Vec<&LargeMessage> = self.messages.iter().filter(|message| message.limit == limit).collect();
        let name = |message: &&LargeMessage| {
            let topic = message.topic.strip_prefix(prefix).unwrap_or(&message.topic);
            format!("{topic} ({} bytes)", message.bytes)
        };
        let mut names: Vec<String> = messages.iter().take(NAMED).map(name).collect();
        if messages.len() > NAMED {
            names.push(format!("{} more", messages.len() - NAMED));
        }
        let what = match limit {
            SizeLimit::Broker(bytes) => format!("the broker, which takes {bytes} bytes"),
            SizeLimit::Queue(bytes) => format!("edgewatt's queue, which takes {bytes} bytes"),
        };
        format!("too large for {what}: {}", names.join(", "))
    }
}

impl fmt::Display for LargeMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, bytes, limit } = self;
        match limit {
            SizeLimit::Broker(most) => {
                write!(
                    f,
                    "{topic} has {bytes} bytes with its topic, and the MQTT broker takes packets of at most {most}"
                )?;
            }
            SizeLimit::Queue(most) => {
                write!(f, "{topic} has {bytes} bytes, and edgewatt queues payloads of at most {most}")?;
            }
        }
        f.write_str(": it is dropped and never arrives, as everything on this topic that is as large; ")?;
        match limit {
            SizeLimit::Broker(_) => f.write_str("raise the limit of the broker (mosquitto: max_packet_size)"),
            SizeLimit::Queue(_) => f.write_str("publish.top_k makes messages with many scores smaller"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn each_topic_is_told_once_and_a_text_names_a_few() {
        let mut large = TooLarge::default();
        let add = |large: &mut TooLarge, topic: &str, bytes| large.add(&topic.into(), bytes, SizeLimit::Broker(400));
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
        assert_eq!((large.messages.len(), large.take_new()), (MAX_TOPICS, Vec::new()));
        large.forget_others(4000);
        assert_eq!(large.text("n/"), None);
        large.add(&"n/p".into(), 300_000, SizeLimit::Queue(262_144));
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
