//! The outbox: messages on their way to the broker, in order and bounded, until they are acknowledged.
//!
//! Owns the bounds, the drop policy, the packet ids and the count of everything that comes and goes. Leaves the
//! connection to `client`, the file to `store` and the latest value of retained topics to `retained`. Pure: no I/O, no
//! clock, no thread.
//!
//! At every moment: produced + recovered = acked + written + queued + in flight + dropped.

use std::collections::VecDeque;

use crate::publish::message::{Class, Marks, Message, Qos};

mod limits;
mod persisted;
mod queue;

pub use limits::{Drops, Limits, Pushed, Reason, Stats, WhenFull, check};
pub use persisted::{Inventory, PageRequest, Row, Work};
use persisted::{Mode, Pending};
use queue::{Entry, HeadLimits, Persisted, Queue};
pub use queue::{PAGE_BYTES, QueueId};

/// How long a store that is being opened may hold up new messages; it may have earlier ones.
const OPENING_MS: u64 = 30_000;

/// A message that was in flight when the broker ended so many connections in a row is suspected to be the reason.
pub(super) const SUSPECTED_AFTER: u8 = 3;

/// How long the next message has waited, how much longer it may wait, whether it was stored, and whether it is suspected
/// to be why the broker ends connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub waited_ms: u64,
    pub left_ms: u64,
    pub stored: bool,
    pub suspected: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    head_limits: HeadLimits,
    queues: [Queue; QueueId::ALL.len()],
    /// QoS 1 messages in flight, at their packet id - 1.
    unacked: Vec<Option<Entry>>,
    free_ids: VecDeque<u16>,
    /// QoS 0 messages sent since the last `on_written`.
    unwritten: Vec<Entry>,
    /// Packet ids used since the last `on_written`.
    fresh_ids: Vec<u16>,
    /// Bytes of topics and payloads in memory.
    bytes: usize,
    next_sequence: u64,
    mode: Mode,
    /// When the outbox first waited for the store to open.
    opening_ms: Option<u64>,
    pending: Pending,
    stats: Stats,
}

impl Outbox {
    /// Returns an empty outbox without a store.
    pub fn new(limits: Limits) -> Self {
        let inflight = limits.inflight;
        Self {
            head_limits: HeadLimits {
                messages: (limits.max_messages / 16).clamp(1, 512),
                bytes: limits.max_bytes / 16,
            },
            queues: Default::default(),
            unacked: (0..inflight).map(|_| None).collect(),
            free_ids: (1..=inflight).collect(),
            unwritten: Vec::with_capacity(usize::from(inflight)),
            fresh_ids: Vec::with_capacity(usize::from(inflight)),
            bytes: 0,
            next_sequence: 0,
            mode: Mode::Off,
            opening_ms: None,
            pending: Pending::default(),
            stats: Stats::default(),
            limits,
        }
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        &mut self.queues[id as usize]
    }

    /// Queues a message, or returns why not; drops are counted. `now_ms` never goes back.
    pub fn push(&mut self, message: Message, now_ms: u64) -> Pushed {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.stats.produced += 1;
        let (id, size) = (QueueId::of(&message), message.size_bytes());
        if let Err(reason) = self.limits.check(&message) {
            return self.refuse(message.class, reason);
        }
        self.expire_queue(id, now_ms);
        let mut displaced = 0;
        loop {
            let by_bytes = self.bytes + size > self.limits.max_bytes;
            if !by_bytes && self.held() < self.limits.max_messages {
                break;
            }
            if !self.make_room(id, size, by_bytes) {
                return self.refuse(message.class, Reason::Full);
            }
            displaced += 1;
        }
        self.bytes += size;
        let entry =
            Entry { message, sequence, born_ms: now_ms, resent: false, losses: 0, round: 0, persisted: Persisted::No };
        self.queue(id).push(entry);
        if displaced == 0 { Pushed::Queued } else { Pushed::Displaced(displaced) }
    }

    /// Returns the most bytes that the payload of a message on `topic` may have.
    pub fn most_payload_bytes(&self, topic: &str) -> usize {
        self.limits.max_payload_bytes.min(self.limits.max_bytes.saturating_sub(topic.len()))
    }

    fn refuse(&mut self, class: Class, reason: Reason) -> Pushed {
        self.stats.drops.add(class, reason);
        Pushed::Refused(reason)
    }

    /// Drops one message in memory for a new one of that queue; returns false if the new one itself must be dropped.
    ///
    /// It comes from the queue that is furthest over its share, the new one counted.
    fn make_room(&mut self, queue: QueueId, size: usize, by_bytes: bool) -> bool {
        let weigh = |id: QueueId| {
            let (used, new) = match (&self.queues[id as usize], by_bytes) {
                (queue, true) => (queue.bytes, size),
                (queue, false) => (queue.in_memory(), 1),
            };
            id.weigh((used + if id == queue { new } else { 0 }) as u64)
        };
        // Messages in flight cannot be taken back.
        let has_some = |id: &QueueId| *id == queue || self.queues[*id as usize].in_memory() > 0;
        let Some(victim) = QueueId::ALL.into_iter().filter(has_some).max_by_key(|id| weigh(*id)) else { return false };
        // Else all that a store has which cannot be written would be read and dropped, page after page.
        let spares_head = self.mode == Mode::ReadOnly;
        let dropped = match self.limits.when_full {
            WhenFull::DropOldest if spares_head => self.queue(victim).pop_sparing_head(),
            WhenFull::DropOldest => self.queue(victim).pop_front(false),
            WhenFull::DropNewest if victim == queue => None,
            WhenFull::DropNewest => self.queue(victim).pop_back(),
        };
        dropped.map(|entry| self.drop_entry(entry, Reason::Full)).is_some()
    }

    fn drop_entry(&mut self, entry: Entry, reason: Reason) {
        self.stats.drops.add(entry.message.class, reason);
        self.retire(entry);
    }

    /// Removes a message, from here and from the store.
    fn retire(&mut self, entry: Entry) {
        self.bytes -= entry.message.size_bytes();
        self.unstore(&entry);
    }

    /// Drops messages that have waited too long, and gives up a store that does not open, as on a disk that hangs.
    pub fn expire(&mut self, now_ms: u64) {
        QueueId::ALL.into_iter().for_each(|id| self.expire_queue(id, now_ms));
        if self.mode == Mode::Opening {
            let since_ms = *self.opening_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) > OPENING_MS {
                self.store_failed();
            }
        }
    }

    fn expire_queue(&mut self, id: QueueId, now_ms: u64) {
        let max_age_ms = self.limits.max_age_ms;
        let is_old = |born_ms: u64| now_ms.saturating_sub(born_ms) > max_age_ms;
        loop {
            let queue = self.queue(id);
            if queue.front(true).is_some_and(|entry| is_old(entry.born_ms)) {
                let Some(entry) = queue.pop_front(true) else { return };
                self.drop_entry(entry, Reason::Expired);
            } else if queue.head.is_empty() && queue.parked.front().is_some_and(|segment| is_old(segment.newest_ms)) {
                self.drop_segment(id, false, Reason::Expired);
            } else {
                return;
            }
        }
    }

    /// Returns whether this many further messages may not fit; by bytes, if they are no larger than those held.
    pub fn is_crowded(&self, messages: usize) -> bool {
        let held = self.held();
        let mean_bytes = self.bytes / held.max(1);
        held + messages > self.limits.max_messages
            || self.bytes + messages * mean_bytes > self.limits.max_bytes
            || self.mode != Mode::Off && self.stored_bytes() > self.limits.max_stored_bytes / 8 * 7
    }

    /// Drops the next messages as long as they are larger than the broker allows; calls `dropped` with each.
    pub fn drop_larger(&mut self, max_bytes: usize, mut dropped: impl FnMut(&Message)) {
        let can_read_store = self.can_read_store();
        for id in QueueId::ALL {
            let is_larger = |entry: &Entry| entry.message.size_bytes() > max_bytes;
            while self.queue(id).front(can_read_store).is_some_and(is_larger) {
                let Some(entry) = self.queue(id).pop_front(can_read_store) else { return };
                dropped(&entry.message);
                self.drop_entry(entry, Reason::Oversize);
            }
        }
    }

    /// Returns the number of QoS 1 messages sent and not acknowledged.
    pub fn unacked(&self) -> usize {
        usize::from(self.limits.inflight) - self.free_ids.len()
    }

    /// Returns whether `next_to_send` would return a message.
    pub fn can_send(&self) -> bool {
        self.next_queue().is_some()
    }

    /// Returns how long the message has waited that `next_to_send` would return.
    pub fn next(&self, now_ms: u64) -> Option<Next> {
        let entry = self.queues[self.next_queue()? as usize].front(self.can_read_store())?;
        let waited_ms = now_ms.saturating_sub(entry.born_ms);
        let left_ms = self.limits.max_age_ms.saturating_sub(waited_ms);
        let suspected = entry.losses >= SUSPECTED_AFTER;
        Some(Next { waited_ms, left_ms, stored: entry.persisted != Persisted::No, suspected })
    }

    fn next_queue(&self) -> Option<QueueId> {
        let is_ready = |id: &QueueId| {
            // Messages of an earlier run go first, once they are known.
            let opening = self.mode == Mode::Opening && id.is_stored();
            let has_room = match id {
                QueueId::Qos0 => self.unwritten.len() < usize::from(self.limits.inflight),
                _ => !self.free_ids.is_empty(),
            };
            has_room && !opening && self.queues[*id as usize].front(self.can_read_store()).is_some()
        };
        let is_suspected = |id: &QueueId| {
            let front = self.queues[*id as usize].front(self.can_read_store());
            front.is_some_and(|entry| entry.losses >= SUSPECTED_AFTER)
        };
        // A suspected message is to be the first of a connection.
        let suspected = QueueId::ALL.into_iter().find(|id| is_suspected(id) && is_ready(id));
        suspected.or_else(|| QueueId::ALL.into_iter().find(is_ready))
    }

    /// Takes the next message in order and its packet id (0 for QoS 0); it is in flight from now on.
    ///
    /// `round` is the caller's measure of time for [`Outbox::oldest_round`]. `None`: nothing waits, or `inflight`
    /// messages are in flight, or the next one is still to be read from the store. An id is used again only after its
    /// acknowledgement, so ids cannot collide in whatever order those come.
    pub fn next_to_send(&mut self, round: u32) -> Option<(u16, &Message)> {
        let id = self.next_queue()?;
        let can_read_store = self.can_read_store();
        let mut entry = self.queue(id).pop_front(can_read_store)?;
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

    /// Notes that everything sent so far is on the socket: removes QoS 0, and collects the marks of what was sent for the
    /// first time.
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

    /// Removes an acknowledged message, as a drop if it was `refused`; returns false if that packet id is not in use.
    pub fn on_puback(&mut self, packet_id: u16, refused: bool) -> bool {
        let slot = usize::from(packet_id).checked_sub(1).and_then(|index| self.unacked.get_mut(index));
        let Some(entry) = slot.and_then(Option::take) else {
            return false;
        };
        if refused {
            self.drop_entry(entry, Reason::Refused);
        } else {
            self.stats.acked += 1;
            self.retire(entry);
        }
        self.free_ids.push_back(packet_id);
        true
    }

    /// Returns the message in flight that has this packet id.
    pub fn with_id(&self, packet_id: u16) -> Option<&Message> {
        let slot = self.unacked.get(usize::from(packet_id).checked_sub(1)?)?;
        slot.as_ref().map(|entry| &entry.message)
    }

    /// Drops the suspected message that is in flight, as refused: the broker has ended the connection again. To be followed
    /// by [`Outbox::rewind`].
    pub fn drop_suspect(&mut self) -> Option<Message> {
        let is_suspect = |entry: &mut Entry| entry.losses >= SUSPECTED_AFTER;
        let entry = self.unacked.iter_mut().find_map(|slot| slot.take_if(is_suspect))?;
        let message = entry.message.clone();
        self.drop_entry(entry, Reason::Refused);
        Some(message)
    }

    /// Notes that the connection is lost: everything in flight goes back to the front, in order. `blamed`: it may be the
    /// reason.
    pub fn rewind(&mut self, blamed: bool) {
        for entry in self.unacked.iter_mut().flatten() {
            entry.losses = if blamed { entry.losses.saturating_add(1) } else { 0 };
        }
        let unacked = self.unacked.iter_mut().filter_map(Option::take);
        let mut back: Vec<Entry> = self.unwritten.drain(..).chain(unacked).collect();
        back.sort_unstable_by_key(|entry| entry.sequence);
        for entry in back.into_iter().rev() {
            self.queue(entry.queue()).give_back(entry);
        }
        self.fresh_ids.clear();
        self.free_ids = (1..=self.limits.inflight).collect();
    }

    /// Returns the `round` in which the longest unacknowledged message was sent.
    pub fn oldest_round(&self) -> Option<u32> {
        self.unacked.iter().flatten().map(|entry| entry.round).min()
    }

    fn in_flight(&self) -> usize {
        self.unacked() + self.unwritten.len()
    }

    /// Returns the number of messages that wait in memory.
    pub fn in_memory(&self) -> usize {
        self.queues.iter().map(Queue::in_memory).sum()
    }

    fn held(&self) -> usize {
        self.in_memory() + self.in_flight()
    }

    fn waiting(&self) -> u64 {
        self.queues.iter().map(Queue::waiting).sum()
    }

    fn stored_bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.stored_bytes).sum()
    }

    /// Returns the number of messages held: waiting, in memory or in the store alone, and in flight.
    pub fn len(&self) -> usize {
        usize::try_from(self.waiting()).unwrap_or(usize::MAX).saturating_add(self.in_flight())
    }

    /// Returns whether nothing waits and nothing is in flight; false while the content of the store is unknown.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.mode != Mode::Opening
    }

    /// Returns the figures as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            queued: self.waiting(),
            in_flight: self.in_flight() as u64,
            bytes: self.bytes as u64,
            stored: self.queues.iter().map(|queue| queue.stored).sum(),
            stored_bytes: self.stored_bytes(),
            ..self.stats.clone()
        }
    }
}

#[cfg(test)]
mod tests;
