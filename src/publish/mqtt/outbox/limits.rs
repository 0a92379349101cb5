//! The bounds of the outbox, why a message is dropped, and the figures of both. Pure data.

use crate::publish::message::{Class, Message};

/// Why a message was dropped instead of delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bound in messages, bytes or retained topics was reached.
    Full,
    /// The payload is larger than the limit; a broker would cut the connection over it again and again.
    Oversize,
    /// The topic is empty, too long, or holds a wildcard or NUL, over which a broker cuts the connection.
    Topic,
    /// The broker has answered that it does not take it (MQTT 5).
    Refused,
    /// It waited longer than it may.
    Expired,
    /// It was in the store, and the store cannot give it back.
    Store,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 6] = [Self::Full, Self::Oversize, Self::Topic, Self::Refused, Self::Expired, Self::Store];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Oversize => "oversize",
            Self::Topic => "topic",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Store => "store",
        }
    }
}

/// Whether a broker could take it: a sound topic, and a payload of at most `max_payload_bytes`.
pub fn check(message: &Message, max_payload_bytes: usize) -> Result<(), Reason> {
    let topic = message.topic.as_bytes();
    if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.iter().any(|b| matches!(b, b'+' | b'#' | 0)) {
        return Err(Reason::Topic);
    }
    if message.payload.len() > max_payload_bytes { Err(Reason::Oversize) } else { Ok(()) }
}

/// Which message goes when the outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The oldest that is not yet handed over: what is recent counts.
    #[default]
    DropOldest,
    /// The one that comes: what is queued stays.
    DropNewest,
}

/// The bounds of the outbox.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Messages held in memory, those handed over included; a tenth more while what is stored is read back.
    pub max_messages: usize,
    /// Bytes of topics and payloads held in memory, likewise.
    pub max_bytes: usize,
    /// Bytes that messages take in the store, of its pages.
    pub max_stored_bytes: u64,
    /// How long a message may wait.
    pub max_age_ms: u64,
    /// Largest payload accepted.
    pub max_payload_bytes: usize,
    /// Messages handed over and not yet acknowledged; packet ids are `1..=inflight`.
    pub inflight: u16,
    /// What gives way when it is full.
    pub policy: Policy,
}

/// What became of a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is queued, or it is the latest value of its retained topic.
    Queued,
    /// It is queued, and so many older ones were dropped for it ([`Reason::Full`]).
    Displaced(usize),
    /// It was dropped itself.
    Refused(Reason),
}

/// Dropped messages by class and reason, since start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops([[u64; Reason::ALL.len()]; Class::ALL.len()]);

impl Drops {
    /// Counts one.
    pub fn add(&mut self, class: Class, reason: Reason) {
        self.add_many(class, reason, 1);
    }

    /// Counts so many.
    pub fn add_many(&mut self, class: Class, reason: Reason, count: u64) {
        self.0[class as usize][reason as usize] += count;
    }

    /// The count of one class and reason.
    pub fn get(&self, class: Class, reason: Reason) -> u64 {
        self.0[class as usize][reason as usize]
    }

    /// The count over everything.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// The sum of both counts.
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (to, from) in sum.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *to += from;
        }
        sum
    }
}

/// The outbox in figures: totals since start, but for those marked "now".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages pushed.
    pub produced: u64,
    /// Messages found in the store that this run did not put there.
    pub recovered: u64,
    /// QoS 1 messages acknowledged.
    pub acked: u64,
    /// QoS 0 messages written to the socket.
    pub written: u64,
    /// Hand-overs after a first one: possible duplicates at the subscriber.
    pub resent: u64,
    /// Now: messages waiting, in memory or in the store alone.
    pub queued: u64,
    /// Now: messages handed over and not yet acknowledged or written.
    pub handed: u64,
    /// Now: bytes of topics and payloads held in memory.
    pub bytes: u64,
    /// Now: messages that are in the store, in memory as well or not.
    pub stored: u64,
    /// Now: bytes that they take there.
    pub stored_bytes: u64,
    /// Messages dropped.
    pub drops: Drops,
}
