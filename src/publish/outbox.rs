//! The outbox: messages on their way to the broker, in order, bounded, until the broker has them.
//!
//! Owns the bounds, the drop policy, the packet ids and the count of everything that comes and goes. Leaves the
//! connection to `mqtt` and the latest value of retained topics to `retained`. Pure: no I/O, no clock, no thread.
//!
//! At every moment: produced = acked + written + queued + handed + dropped.

use std::collections::VecDeque;
use std::sync::Arc;

pub use bytes::Bytes;

use crate::units::MonoTime;

/// How hard delivery is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// QoS 0: gone once it is written to the socket.
    AtMostOnce,
    /// QoS 1: kept until the broker acknowledges it.
    AtLeastOnce,
}

/// What a message is about; drops are counted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One decision.
    Prediction,
    /// Status, info, the latest decision: what a newcomer wants to see at once.
    State,
    /// Periodic figures of a pipeline or a meter.
    Metrics,
    /// Something that happened: fallback, reload, drops.
    Event,
}

impl Class {
    /// Every class, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Prediction, Self::State, Self::Metrics, Self::Event];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::State => "state",
            Self::Metrics => "metrics",
            Self::Event => "event",
        }
    }
}

/// Why a message was dropped instead of delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bound in messages, bytes or retained topics was reached.
    Full,
    /// The payload is larger than the limit; a broker would cut the connection over it again and again.
    Oversize,
    /// The topic is empty, too long, or holds a wildcard or NUL, over which a broker cuts the connection.
    Topic,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Full, Self::Oversize, Self::Topic];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Oversize => "oversize",
            Self::Topic => "topic",
        }
    }
}

/// Where the latency of a decision counts from, for when its message is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Place of the pipeline whose decision it is.
    pub pipeline: usize,
    /// Arrival of the window's last sample.
    pub arrival: MonoTime,
    /// End of the model's invoke.
    pub invoke_end: MonoTime,
}

/// A message ready to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// Full topic, without wildcards.
    pub topic: Arc<str>,
    /// Encoded payload.
    pub payload: Bytes,
    /// Delivery guarantee.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// What it is counted as.
    pub class: Class,
    /// Moments for latency accounting; taken at the first hand-over.
    pub marks: Option<Marks>,
}

impl Message {
    fn size_bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    /// Whether a broker could take it: a sound topic, and a payload of at most `max_payload_bytes`.
    pub fn check(&self, max_payload_bytes: usize) -> Result<(), Reason> {
        let topic = self.topic.as_bytes();
        if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.iter().any(|b| matches!(b, b'+' | b'#' | 0))
        {
            return Err(Reason::Topic);
        }
        if self.payload.len() > max_payload_bytes { Err(Reason::Oversize) } else { Ok(()) }
    }
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
    /// Messages held, those handed over included.
    pub max_messages: usize,
    /// Bytes of topics and payloads held, those handed over included.
    pub max_bytes: usize,
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
        self.0[class as usize][reason as usize] += 1;
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

/// The outbox in figures: totals since start, but for `queued`, `handed` and `bytes`, which are as of now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages pushed.
    pub produced: u64,
    /// QoS 1 messages acknowledged.
    pub acked: u64,
    /// QoS 0 messages written to the socket.
    pub written: u64,
    /// Hand-overs after a first one: possible duplicates at the subscriber.
    pub resent: u64,
    /// Messages waiting.
    pub queued: u64,
    /// Messages handed over and not yet acknowledged or written.
    pub handed: u64,
    /// Bytes of topics and payloads held.
    pub bytes: u64,
    /// Messages dropped.
    pub drops: Drops,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    sequence: u64,
    resent: bool,
    round: u32,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    waiting: VecDeque<Entry>,
    /// QoS 1 messages handed over, at their packet id - 1.
    unacked: Vec<Option<Entry>>,
    free_ids: VecDeque<u16>,
    /// QoS 0 messages handed over since the last `on_written`.
    unwritten: Vec<Entry>,
    /// Packet ids handed over since the last `on_written`.
    fresh_ids: Vec<u16>,
    bytes: usize,
    stats: Stats,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(limits: Limits) -> Self {
        let inflight = limits.inflight;
        Self {
            waiting: VecDeque::new(),
            unacked: (0..inflight).map(|_| None).collect(),
            free_ids: (1..=inflight).collect(),
            unwritten: Vec::with_capacity(usize::from(inflight)),
            fresh_ids: Vec::with_capacity(usize::from(inflight)),
            bytes: 0,
            stats: Stats::default(),
            limits,
        }
    }

    /// Queues a message, or says why not; whatever is dropped is counted.
    pub fn push(&mut self, message: Message) -> Pushed {
        let sequence = self.stats.produced;
        self.stats.produced += 1;
        let size = message.size_bytes();
        if let Err(reason) = message.check(self.limits.max_payload_bytes) {
            return self.refuse(message.class, reason);
        }
        if size > self.limits.max_bytes {
            return self.refuse(message.class, Reason::Oversize);
        }
        let mut displaced = 0;
        while self.len() >= self.limits.max_messages || self.bytes + size > self.limits.max_bytes {
            // What is handed over cannot be taken back, so with nothing waiting the new one must go.
            let oldest = match self.limits.policy {
                Policy::DropOldest => self.waiting.pop_front(),
                Policy::DropNewest => None,
            };
            let Some(oldest) = oldest else {
                return self.refuse(message.class, Reason::Full);
            };
            self.bytes -= oldest.message.size_bytes();
            self.stats.drops.add(oldest.message.class, Reason::Full);
            displaced += 1;
        }
        self.bytes += size;
        self.waiting.push_back(Entry { message, sequence, resent: false, round: 0 });
        if displaced == 0 { Pushed::Queued } else { Pushed::Displaced(displaced) }
    }

    fn refuse(&mut self, class: Class, reason: Reason) -> Pushed {
        self.stats.drops.add(class, reason);
        Pushed::Refused(reason)
    }

    /// Whether so many further messages may not fit; by bytes, if they are no larger than those held.
    pub fn is_crowded(&self, messages: usize) -> bool {
        let held = self.len();
        let mean_bytes = self.bytes / held.max(1);
        held + messages > self.limits.max_messages || self.bytes + messages * mean_bytes > self.limits.max_bytes
    }

    /// Whether `next_to_send` would return a message.
    pub fn can_send(&self) -> bool {
        self.waiting.front().is_some_and(|entry| self.has_room(entry.message.qos))
    }

    fn has_room(&self, qos: Qos) -> bool {
        match qos {
            Qos::AtLeastOnce => !self.free_ids.is_empty(),
            Qos::AtMostOnce => self.unwritten.len() < usize::from(self.limits.inflight),
        }
    }

    /// Takes the next message in order and its packet id (0 for QoS 0), as handed over from now on.
    ///
    /// `round` is the caller's measure of time for [`Outbox::oldest_round`]. `None`: nothing waits, or `inflight`
    /// messages are out. An id is given out again only after its ack, so ids cannot collide in whatever order the
    /// acks come.
    pub fn next_to_send(&mut self, round: u32) -> Option<(u16, &Message)> {
        if !self.can_send() {
            return None;
        }
        let mut entry = self.waiting.pop_front()?;
        entry.round = round;
        self.stats.resent += u64::from(entry.resent);
        entry.resent = true;
        if entry.message.qos == Qos::AtMostOnce {
            self.unwritten.push(entry);
            return self.unwritten.last().map(|entry| (0, &entry.message));
        }
        let packet_id = self.free_ids.pop_front()?;
        self.fresh_ids.push(packet_id);
        let slot = self.unacked.get_mut(usize::from(packet_id) - 1)?;
        Some((packet_id, &slot.insert(entry).message))
    }

    /// Everything handed over so far is on the socket: retires QoS 0, and collects the marks of first hand-overs.
    pub fn on_written(&mut self, marks: &mut Vec<Marks>) {
        for mut entry in self.unwritten.drain(..) {
            self.bytes -= entry.message.size_bytes();
            self.stats.written += 1;
            marks.extend(entry.message.marks.take());
        }
        for packet_id in self.fresh_ids.drain(..) {
            let slot = self.unacked.get_mut(usize::from(packet_id) - 1);
            marks.extend(slot.and_then(Option::as_mut).and_then(|entry| entry.message.marks.take()));
        }
    }

    /// Retires an acknowledged message; false when that packet id is not out.
    pub fn on_puback(&mut self, packet_id: u16) -> bool {
        let slot = usize::from(packet_id).checked_sub(1).and_then(|index| self.unacked.get_mut(index));
        let Some(entry) = slot.and_then(Option::take) else {
            return false;
        };
        self.bytes -= entry.message.size_bytes();
        self.stats.acked += 1;
        self.free_ids.push_back(packet_id);
        true
    }

    /// The connection is gone: everything handed over and not retired goes back to the front, in order.
    pub fn rewind(&mut self) {
        let unacked = self.unacked.iter_mut().filter_map(Option::take);
        let mut back: Vec<Entry> = self.unwritten.drain(..).chain(unacked).collect();
        back.sort_unstable_by_key(|entry| entry.sequence);
        for entry in back.into_iter().rev() {
            self.waiting.push_front(entry);
        }
        self.fresh_ids.clear();
        self.free_ids = (1..=self.limits.inflight).collect();
    }

    /// The `round` in which the longest unacknowledged message was handed over.
    pub fn oldest_round(&self) -> Option<u32> {
        self.unacked.iter().flatten().map(|entry| entry.round).min()
    }

    fn handed(&self) -> usize {
        usize::from(self.limits.inflight) - self.free_ids.len() + self.unwritten.len()
    }

    /// Messages held: waiting and handed over.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.handed()
    }

    /// Whether nothing waits and nothing is out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The figures as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.waiting.len() as u64,
            handed: self.handed() as u64,
            bytes: self.bytes as u64,
            ..self.stats.clone()
        }
    }
}

#[cfg(test)]
mod tests;
