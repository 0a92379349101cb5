//! One queue of the outbox, in three parts that follow each other: `head` in memory, which is sent next; `parked`, which
//! only the store has; `tail` in memory, which is not stored yet. If everything fits into the head, the other two are empty.

use std::collections::VecDeque;

use crate::publish::message::{Class, Message, Qos};

/// The store's unit of space.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a page that are left for rows.
const USABLE_BYTES: u64 = 4040;
/// Bytes of a row besides topic and payload: id, time, lengths, pointer, checksum.
const ROW_BYTES: u64 = 35;
/// Messages this far apart go into different segments, so that a whole segment can expire.
const SEGMENT_MS: u64 = 600_000;

/// The queue that a message waits in, in the order in which queues are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueId {
    /// Events of QoS 1.
    Event,
    /// Predictions of QoS 1.
    Prediction,
    /// All messages of QoS 0, which are never stored.
    Qos0,
    /// Metrics of QoS 1.
    Metrics,
}

impl QueueId {
    pub const ALL: [Self; 4] = [Self::Event, Self::Prediction, Self::Qos0, Self::Metrics];
    /// Those that the store has a table for.
    pub const STORED: [Self; 3] = [Self::Event, Self::Prediction, Self::Metrics];

    pub fn of(message: &Message) -> Self {
        match (message.qos, message.class) {
            (Qos::AtMostOnce, _) => Self::Qos0,
            (_, Class::Prediction) => Self::Prediction,
            (_, Class::Metrics) => Self::Metrics,
            (_, Class::Event | Class::State) => Self::Event,
        }
    }

    pub fn is_stored(self) -> bool {
        self != Self::Qos0
    }

    /// Returns the class of messages that are read back from the store.
    pub fn class(self) -> Class {
        match self {
            Self::Event => Class::Event,
            Self::Prediction | Self::Qos0 => Class::Prediction,
            Self::Metrics => Class::Metrics,
        }
    }

    /// Returns the eighths of the room that the queue is sure of; other queues may use what it leaves.
    fn share(self) -> u64 {
        match self {
            Self::Event | Self::Metrics => 1,
            Self::Prediction => 4,
            Self::Qos0 => 2,
        }
    }

    /// Returns how far over its share a queue is that uses this much; for comparison between queues only.
    pub fn weigh(self, used: u64) -> u64 {
        used * 8 / self.share()
    }
}

/// Returns the bytes of pages that a message of this size takes, as if all messages were of its size.
pub(crate) fn stored_bytes(size_bytes: usize) -> u64 {
    let row = size_bytes as u64 + ROW_BYTES;
    match USABLE_BYTES / row {
        0 => (row / USABLE_BYTES + 2) * PAGE_BYTES,
        rows => PAGE_BYTES.div_ceil(rows),
    }
}

/// Whether the store has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persisted {
    No,
    /// It is being written.
    Writing,
    Yes,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub message: Message,
    /// The order of arrival, and the id in the store.
    pub sequence: u64,
    pub born_ms: u64,
    pub resent: bool,
    /// How many connections in a row the broker has ended while the message was in flight.
    pub losses: u8,
    pub round: u32,
    pub persisted: Persisted,
}

impl Entry {
    pub(crate) fn queue(&self) -> QueueId {
        QueueId::of(&self.message)
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        stored_bytes(self.message.size_bytes())
    }
}

/// Messages that only the store has: all of its ids from `first` to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// As [`stored_bytes`] counts.
    pub bytes: u64,
    pub oldest_ms: u64,
    pub newest_ms: u64,
}

/// How much of what is stored a queue keeps in memory; half of it goes into one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub messages: usize,
    pub bytes: usize,
}

impl HeadLimits {
    /// Adds a message behind all others in `parked`.
    pub(crate) fn park(&self, parked: &mut VecDeque<Segment>, id: u64, born_ms: u64, bytes: u64) {
        let (most, most_bytes) = (self.messages.div_ceil(2) as u64, self.bytes as u64 / 2);
        if let Some(back) = parked.back_mut()
            && back.count < most
            && back.bytes + bytes <= most_bytes
            && born_ms.abs_diff(back.oldest_ms) < SEGMENT_MS
        {
            back.last = id;
            back.count += 1;
            back.bytes += bytes;
            back.oldest_ms = back.oldest_ms.min(born_ms);
            back.newest_ms = back.newest_ms.max(born_ms);
            return;
        }
        parked.push_back(Segment { first: id, last: id, count: 1, bytes, oldest_ms: born_ms, newest_ms: born_ms });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub head: VecDeque<Entry>,
    pub parked: VecDeque<Segment>,
    pub tail: VecDeque<Entry>,
    /// Bytes of topics and payloads that wait in memory.
    pub bytes: usize,
    head_bytes: usize,
    parked_count: u64,
    /// Messages in the store: parked, also in memory, or in flight.
    pub stored: u64,
    pub stored_bytes: u64,
}

impl Queue {
    pub(crate) fn in_memory(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.in_memory() as u64 + self.parked_count
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.size_bytes();
        if self.parked.is_empty() && self.tail.is_empty() {
            self.head_bytes += entry.message.size_bytes();
            self.head.push_back(entry);
        } else {
            self.tail.push_back(entry);
        }
    }

    /// Puts an unacknowledged message back; to be called with the latest first.
    pub(crate) fn give_back(&mut self, entry: Entry) {
        self.bytes += entry.message.size_bytes();
        if self.parked.back().is_some_and(|segment| entry.sequence > segment.last) {
            self.tail.push_front(entry);
        } else {
            self.head_bytes += entry.message.size_bytes();
            self.head.push_front(entry);
        }
    }

    /// Returns the next message to send. Parked messages hold up later ones, unless the store cannot be read.
    pub(crate) fn front(&self, can_read_store: bool) -> Option<&Entry> {
        let behind = || if self.parked.is_empty() || !can_read_store { self.tail.front() } else { None };
        self.head.front().or_else(behind)
    }

    pub(crate) fn pop_front(&mut self, can_read_store: bool) -> Option<Entry> {
        if self.head.is_empty() && (!can_read_store || self.parked.is_empty()) {
            return self.pop_tail_front();
        }
        let entry = self.head.pop_front()?;
        self.head_bytes -= entry.message.size_bytes();
        self.bytes -= entry.message.size_bytes();
        Some(entry)
    }

    /// Takes the oldest message in memory that comes after the parked ones; if none does, the oldest in memory.
    pub(crate) fn pop_sparing_head(&mut self) -> Option<Entry> {
        if self.parked.is_empty() || self.tail.is_empty() { self.pop_front(false) } else { self.pop_tail_front() }
    }

    fn pop_tail_front(&mut self) -> Option<Entry> {
        let entry = self.tail.pop_front()?;
        self.bytes -= entry.message.size_bytes();
        Some(entry)
    }

    /// Takes the last message in memory.
    pub(crate) fn pop_back(&mut self) -> Option<Entry> {
        let entry = match self.tail.pop_back() {
            Some(entry) => entry,
            None => {
                let entry = self.head.pop_back()?;
                self.head_bytes -= entry.message.size_bytes();
                entry
            }
        };
        self.bytes -= entry.message.size_bytes();
        Some(entry)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.head.iter().chain(&self.tail)
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.head.iter_mut().chain(&mut self.tail)
    }

    /// Frees memory of messages that are stored and not sent soon. Returns the bytes that this frees.
    pub(crate) fn park(&mut self, limits: &HeadLimits) -> usize {
        let before = self.bytes;
        if self.parked.is_empty() {
            let mut bytes = 0;
            let over = self.head.iter().enumerate().position(|(place, entry)| {
                bytes += entry.message.size_bytes();
                place > 0 && (place >= limits.messages || bytes > limits.bytes)
            });
            let Some(place) = over.filter(|place| self.head[*place].persisted == Persisted::Yes) else { return 0 };
            let mut later = self.head.split_off(place);
            self.head_bytes -= later.iter().map(|entry| entry.message.size_bytes()).sum::<usize>();
            later.append(&mut self.tail);
            self.tail = later;
        }
        while self.tail.front().is_some_and(|entry| entry.persisted == Persisted::Yes) {
            let Some(entry) = self.pop_tail_front() else { break };
            limits.park(&mut self.parked, entry.sequence, entry.born_ms, entry.stored_bytes());
            self.parked_count += 1;
        }
        before - self.bytes
    }

    /// Returns the segment to read next, if the head runs low.
    pub(crate) fn wanted(&self, limits: &HeadLimits) -> Option<&Segment> {
        let low = self.head.len() <= limits.messages / 2 && self.head_bytes <= limits.bytes / 2;
        if low { self.parked.front() } else { None }
    }

    /// Takes the messages of the first segment back into memory.
    pub(crate) fn unpark(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            self.bytes += entry.message.size_bytes();
            self.head_bytes += entry.message.size_bytes();
            self.head.push_back(entry);
        }
        self.pop_segment(false);
    }

    /// Removes the oldest segment, or the newest.
    pub(crate) fn pop_segment(&mut self, newest: bool) -> Option<Segment> {
        let segment = if newest { self.parked.pop_back() } else { self.parked.pop_front() }?;
        self.parked_count -= segment.count;
        if self.parked.is_empty() {
            self.head_bytes += self.tail.iter().map(|entry| entry.message.size_bytes()).sum::<usize>();
            self.head.append(&mut self.tail);
        }
        Some(segment)
    }

    /// Replaces the parked segments by others, which come before everything in memory. Returns how many messages were
    /// parked before.
    pub(crate) fn replace_parked(&mut self, parked: VecDeque<Segment>) -> u64 {
        let count = |segments: &VecDeque<Segment>| segments.iter().map(|segment| segment.count).sum();
        let before = std::mem::replace(&mut self.parked_count, count(&parked));
        self.parked = parked;
        let tail = std::mem::take(&mut self.tail);
        self.head.extend(tail);
        if !self.parked.is_empty() {
            self.tail = std::mem::take(&mut self.head);
        }
        self.head_bytes = self.head.iter().map(|entry| entry.message.size_bytes()).sum();
        before
    }

    /// Notes that nothing in memory is in the store.
    pub(crate) fn forget_stored(&mut self) {
        self.entries_mut().for_each(|entry| entry.persisted = Persisted::No);
        self.stored = self.parked_count;
        self.stored_bytes = self.parked.iter().map(|segment| segment.bytes).sum();
    }
}
