//! One queue of the outbox, in order: what is sent next, in memory (`head`); what only the store has (`parked`); what came
//! last, in memory until it is stored (`tail`). Nothing is parked and nothing is in the tail where all fits into the head.

use std::collections::VecDeque;

use super::message::{Class, Message, Qos};

/// The store's unit of space.
pub const PAGE_BYTES: u64 = 4096;
/// Of a page, what its own bookkeeping leaves.
const USABLE_BYTES: u64 = 4040;
/// Of a message in the store, beside topic and payload: id, time, lengths, pointer.
const ROW_BYTES: u64 = 28;
/// Messages that came this far apart are not parked together, so that age can be judged by a segment.
const SEGMENT_MS: u64 = 600_000;

/// Which queue a message waits in; in the order in which queues are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueId {
    /// Events of QoS 1.
    Event,
    /// Predictions of QoS 1.
    Prediction,
    /// All of QoS 0, which is never stored.
    Fleeting,
    /// Metrics of QoS 1.
    Metrics,
}

impl QueueId {
    pub const ALL: [Self; 4] = [Self::Event, Self::Prediction, Self::Fleeting, Self::Metrics];
    /// Those that the store has a table for.
    pub const STORED: [Self; 3] = [Self::Event, Self::Prediction, Self::Metrics];

    pub fn of(message: &Message) -> Self {
        match (message.qos, message.class) {
            (Qos::AtMostOnce, _) => Self::Fleeting,
            (_, Class::Prediction) => Self::Prediction,
            (_, Class::Metrics) => Self::Metrics,
            (_, Class::Event | Class::State) => Self::Event,
        }
    }

    pub fn is_stored(self) -> bool {
        self != Self::Fleeting
    }

    /// What a message that comes back from the store is counted as.
    pub fn class(self) -> Class {
        match self {
            Self::Event => Class::Event,
            Self::Prediction | Self::Fleeting => Class::Prediction,
            Self::Metrics => Class::Metrics,
        }
    }

    /// Of eight: what the queue is sure of when room is short. What one does not use, others may.
    fn share(self) -> u64 {
        match self {
            Self::Event | Self::Metrics => 1,
            Self::Prediction => 4,
            Self::Fleeting => 2,
        }
    }

    /// How far over its share a queue is that uses so much; to be compared with others only.
    pub fn weigh(self, used: u64) -> u64 {
        used * 8 / self.share()
    }
}

/// Bytes of the store's pages that a message of that size takes, as if all were of its size.
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
    ControlFlow,
    Yes,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub message: Message,
    /// The order of arrival, and the id in the store.
    pub sequence: u64,
    pub born_ms: u64,
    pub resent: bool,
    pub round: u32,
    pub kept: Persisted,
}

impl Entry {
    pub(crate) fn queue(&self) -> QueueId {
        QueueId::of(&self.message)
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        stored_bytes(self.message.size_bytes())
    }
}

/// A run of messages that only the store has: all that it has from `first` to `last`.
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

/// How much a queue holds in memory of what the store has, and how much is parked together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub messages: usize,
    pub bytes: usize,
}

impl Keep {
    /// Adds a message behind all others that are parked.
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
    /// Of topics and payloads that wait in memory.
    pub bytes: usize,
    head_bytes: usize,
    parked_count: u64,
    /// Messages in the store: parked, waiting in memory as well, or handed over.
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

    /// Takes back what was handed over; to be called with the latest first.
    pub(crate) fn give_back(&mut self, entry: Entry) {
        self.bytes += entry.message.size_bytes();
        if self.parked.back().is_some_and(|segment| entry.sequence > segment.last) {
            self.tail.push_front(entry);
        } else {
            self.head_bytes += entry.message.size_bytes();
            self.head.push_front(entry);
        }
    }

    /// The next to be sent. What is parked holds up what came later, unless the store is out of reach.
    pub(crate) fn front(&self, reach: bool) -> Option<&Entry> {
        let behind = || if self.parked.is_empty() || !reach { self.tail.front() } else { None };
        self.head.front().or_else(behind)
    }

    pub(crate) fn pop_front(&mut self, reach: bool) -> Option<Entry> {
        if self.head.is_empty() && (!reach || self.parked.is_empty()) {
            return self.pop_tail_front();
        }
        let entry = self.head.pop_front()?;
        self.head_bytes -= entry.message.size_bytes();
        self.bytes -= entry.message.size_bytes();
        Some(entry)
    }

    fn pop_tail_front(&mut self) -> Option<Entry> {
        let entry = self.tail.pop_front()?;
        self.bytes -= entry.message.size_bytes();
        Some(entry)
    }

    /// The last one in memory.
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

    /// Leaves to the store alone what it has and what is not soon to be sent; the bytes of memory that this frees.
    pub(crate) fn park(&mut self, keep: &Keep) -> usize {
        let before = self.bytes;
        if self.parked.is_empty() {
            let mut bytes = 0;
            let over = self.head.iter().enumerate().position(|(place, entry)| {
                bytes += entry.message.size_bytes();
                place > 0 && (place >= keep.messages || bytes > keep.bytes)
            });
            let Some(place) = over.filter(|place| self.head[*place].kept == Persisted::Yes) else { return 0 };
            let mut later = self.head.split_off(place);
            self.head_bytes -= later.iter().map(|entry| entry.message.size_bytes()).sum::<usize>();
            later.append(&mut self.tail);
            self.tail = later;
        }
        while self.tail.front().is_some_and(|entry| entry.kept == Persisted::Yes) {
            let Some(entry) = self.pop_tail_front() else { break };
            keep.park(&mut self.parked, entry.sequence, entry.born_ms, entry.stored_bytes());
            self.parked_count += 1;
        }
        before - self.bytes
    }

    /// The segment to be read next, when the head runs low.
    pub(crate) fn wanted(&self, keep: &Keep) -> Option<&Segment> {
        let low = self.head.len() <= keep.messages / 2 && self.head_bytes <= keep.bytes / 2;
        if low { self.parked.front() } else { None }
    }

    /// Has the first segment in memory again.
    pub(crate) fn unpark(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            self.bytes += entry.message.size_bytes();
            self.head_bytes += entry.message.size_bytes();
            self.head.push_back(entry);
        }
        self.pop_segment(false);
    }

    /// Takes the oldest segment away, or the newest.
    pub(crate) fn pop_segment(&mut self, newest: bool) -> Option<Segment> {
        let segment = if newest { self.parked.pop_back() } else { self.parked.pop_front() }?;
        self.parked_count -= segment.count;
        if self.parked.is_empty() {
            self.head_bytes += self.tail.iter().map(|entry| entry.message.size_bytes()).sum::<usize>();
            self.head.append(&mut self.tail);
        }
        Some(segment)
    }

    /// What is parked from now on comes before everything in memory; how many were parked before.
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

    /// Nothing in memory is in the store any more.
    pub(crate) fn forget_stored(&mut self) {
        self.entries_mut().for_each(|entry| entry.kept = Persisted::No);
        self.stored = self.parked_count;
        self.stored_bytes = self.parked.iter().map(|segment| segment.bytes).sum();
    }
}
