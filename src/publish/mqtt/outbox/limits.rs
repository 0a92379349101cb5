//! The bounds of the outbox, why a message is dropped, and the figures of both. Pure data.

use crate::publish::message::{Class, Message};
use crate::schema::choice;

/// Why a message was dropped instead of delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bound in messages, bytes or retained topics was reached.
    Full,
    /// The payload is larger than the limit; the broker would close the connection each time it is sent.
    Oversize,
    /// The topic is empty, too long, or has a wildcard or NUL; the broker would close the connection.
    Topic,
    /// The broker has refused it (MQTT 5).
    Refused,
    /// It waited longer than it may.
    Expired,
    /// It was in the store and cannot be read back.
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

/// Checks that a broker could accept a message: a valid topic, and a payload of at most `max_payload_bytes`.
pub fn check(message: &Message, max_payload_bytes: usize) -> Result<(), Reason> {
    let topic = message.topic.as_bytes();
    if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.iter().any(|b| matches!(b, b'+' | b'#' | 0)) {
        return Err(Reason::Topic);
    }
    if message.payload.len() > max_payload_bytes { Err(Reason::Oversize) } else { Ok(()) }
}

choice! {
    /// Which message is dropped when the outbox is full.
    #[derive(Default)]
    pub enum WhenFull {
        /// The oldest that is not yet sent: recent messages matter more.
        #[default]
        DropOldest = "drop_oldest",
        /// The new one: what is queued stays.
        DropNewest = "drop_newest",
    }
}

/// The bounds of the outbox.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Messages in memory, those in flight included; a tenth more while stored messages are read back.
    pub max_messages: usize,
    /// Bytes of topics and payloads in memory, likewise.
    pub max_bytes: usize,
    /// Bytes of pages that messages may take in the store.
    pub max_stored_bytes: u64,
    /// How long a message may wait.
    pub max_age_ms: u64,
    /// Largest payload accepted.
    pub max_payload_bytes: usize,
    /// Messages sent and not yet acknowledged; packet ids are `1..=inflight`.
    pub inflight: u16,
    pub when_full: WhenFull,
}

impl Limits {
    /// Checks that a broker could accept a message and that memory could hold it.
    pub fn check(&self, message: &Message) -> Result<(), Reason> {
        check(message, self.max_payload_bytes)?;
        if message.size_bytes() > self.max_bytes { Err(Reason::Oversize) } else { Ok(()) }
    }
}

/// What happened to a message that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is queued, or it is the latest value of its retained topic.
    Queued,
    /// It is queued, and this many older ones were dropped for it ([`Reason::Full`]).
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

    /// Counts this many.
    pub fn add_many(&mut self, class: Class, reason: Reason, count: u64) {
        self.0[class as usize][reason as usize] += count;
    }

    /// Returns the count of one class and reason.
    pub fn get(&self, class: Class, reason: Reason) -> u64 {
        self.0[class as usize][reason as usize]
    }

    /// Returns the count of all drops.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// Returns the sum of both counts.
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (to, from) in sum.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *to += from;
        }
        sum
    }
}

/// Figures of the outbox: totals since the start, except those marked "now".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages pushed.
    pub produced: u64,
    /// Messages of an earlier run, found in the store.
    pub recovered: u64,
    /// QoS 1 messages acknowledged.
    pub acked: u64,
    /// QoS 0 messages written to the socket.
    pub written: u64,
    /// Messages sent again: possible duplicates at the subscriber.
    pub resent: u64,
    /// Now: messages waiting, in memory or in the store alone.
    pub queued: u64,
    /// Now: messages sent and not yet acknowledged or written.
    pub in_flight: u64,
    /// Now: bytes of topics and payloads held in memory.
    pub bytes: u64,
    /// Now: messages in the store, whether or not in memory as well.
    pub stored: u64,
    /// Now: bytes that they take there.
    pub stored_bytes: u64,
    /// Messages dropped.
    pub drops: Drops,
}
