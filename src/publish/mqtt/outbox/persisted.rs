//! The outbox as the store sees it: what to write, what was written, what to read back, and what a file holds.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Outbox;
use super::limits::{Limits, Reason, WhenFull};
use super::queue::{Entry, HeadLimits, Persisted, QueueId, Segment, stored_bytes};
use crate::publish::message::{Bytes, Message, Qos};

/// This many delivered messages are deleted without waiting for others to be written.
const DELETES_AT_ONCE: usize = 256;
/// Wall times before this one, in 2024, come from a clock that was not set.
const PLAUSIBLE_MS: u64 = 1_704_067_200_000;

/// Whether the outbox has a store that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is none.
    Off,
    /// What it holds is not known yet.
    Opening,
    Up,
    /// It can be read, but not written: the disk is full, for example.
    ReadOnly,
    /// It fails; what is parked cannot be read.
    Down,
}

/// What the store has yet to do. Deletes stay here until they are done.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deletes: Vec<(QueueId, u64)>,
    cuts: Vec<(QueueId, u64, u64)>,
    /// How many deletes and cuts the store is working on.
    taken: (usize, usize),
    /// The file may have, or lack, what failed to be written.
    reset: bool,
    /// No file has had an id from here on.
    new_from: u64,
}

/// A message as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub queue: QueueId,
    pub id: u64,
    /// When it was produced: milliseconds since 1970, by the clock of that run.
    pub time_ms: u64,
    pub topic: Arc<str>,
    pub payload: Bytes,
}

/// First and last id; `None`: no id.
pub(crate) type IdRange = Option<(u64, u64)>;

/// What one transaction does.
#[derive(Debug, Default)]
pub struct Work {
    /// Before all else, everything outside these ids is deleted.
    pub reset: Option<Vec<(QueueId, IdRange)>>,
    pub inserts: Vec<Row>,
    pub deletes: Vec<(QueueId, u64)>,
    /// Queue, first and last id to delete.
    pub cuts: Vec<(QueueId, u64, u64)>,
    /// There is more than fits into one transaction.
    pub more: bool,
}

impl Work {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.reset.is_none() && self.inserts.is_empty() && self.deletes.is_empty() && self.cuts.is_empty()
    }
}

/// What to read: all messages of a queue from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    pub queue: QueueId,
    pub first: u64,
    pub last: u64,
}

/// What a file of an earlier run holds; filled in the order of ids.
#[derive(Debug)]
pub struct Inventory {
    head_limits: HeadLimits,
    now_ms: u64,
    parked: [VecDeque<Segment>; QueueId::ALL.len()],
    lost: [u64; QueueId::ALL.len()],
    next_id: u64,
}

impl Inventory {
    /// Notes a message, with the size of its topic and payload.
    pub fn add(&mut self, queue: QueueId, id: u64, time_ms: u64, size_bytes: usize) {
        // An impossible time means that the clock was not set, then or now.
        let born_ms = if (PLAUSIBLE_MS..self.now_ms).contains(&time_ms) { time_ms } else { self.now_ms };
        self.head_limits.park(&mut self.parked[queue as usize], id, born_ms, stored_bytes(size_bytes));
        self.reserve(id + 1);
    }

    /// Notes that the file has lost this many messages.
    pub fn lose(&mut self, queue: QueueId, count: u64) {
        self.lost[queue as usize] += count;
    }

    /// Notes that ids below `next_id` were used.
    pub fn reserve(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Returns how many messages the file holds.
    pub fn found(&self) -> u64 {
        self.parked.iter().flatten().map(|segment| segment.count).sum()
    }

    /// Returns how many messages the file has lost.
    pub fn lost(&self) -> u64 {
        self.lost.iter().sum()
    }
}

impl Outbox {
    /// Announces a store; until its content is known, nothing is sent that it may have stored.
    pub fn await_store(&mut self) {
        self.mode = Mode::Opening;
    }

    /// Notes that there is no store any more.
    pub fn without_store(&mut self) {
        self.store_failed();
        self.mode = Mode::Off;
    }

    /// Notes that the store fails: everything in memory stays there. Whether the last work was written is unknown.
    pub fn store_failed(&mut self) {
        self.mode = Mode::Down;
        self.pending.taken = (0, 0);
        self.pending.reset = true;
        self.unacked.iter_mut().flatten().for_each(|entry| entry.persisted = Persisted::No);
        self.queues.iter_mut().for_each(|queue| queue.forget_stored());
    }

    /// Notes that the store can be read, but not written. What is read from now on is deleted by the reset, once the store
    /// can be written again. Whether the last work was written is unknown.
    pub fn store_is_read_only(&mut self) {
        self.store_failed();
        self.mode = Mode::ReadOnly;
    }

    /// Returns whether the file may have a message that is still to be delivered.
    pub fn needs_file(&self) -> bool {
        let waiting = QueueId::STORED.into_iter().flat_map(|id| self.queues[id as usize].entries());
        let mut in_memory = waiting.chain(self.unacked.iter().flatten());
        let parked = self.queues.iter().any(|queue| !queue.parked.is_empty());
        parked || in_memory.any(|entry| entry.sequence < self.pending.new_from)
    }

    /// Returns whether what is parked can be read.
    pub(super) fn can_read_store(&self) -> bool {
        matches!(self.mode, Mode::Up | Mode::ReadOnly)
    }

    /// Notes that the store works again, on the same file.
    pub fn store_is_back(&mut self) {
        self.mode = Mode::Up;
    }

    /// Returns an empty inventory, to be filled from a file that the outbox does not know.
    pub fn inventory(&self, now_ms: u64) -> Inventory {
        Inventory {
            head_limits: self.head_limits,
            now_ms,
            parked: Default::default(),
            lost: Default::default(),
            next_id: 0,
        }
    }

    /// Notes that the store works, on a file that holds this. What it had in another file is lost.
    pub fn adopt(&mut self, inventory: Inventory) {
        self.store_failed();
        self.mode = Mode::Up;
        // Ours come after all that the file has.
        let shift = inventory.next_id;
        self.pending = Pending { new_from: shift, ..Pending::default() };
        self.next_sequence += shift;
        let waiting = self.queues.iter_mut().flat_map(|queue| queue.entries_mut());
        let in_flight = self.unacked.iter_mut().flatten().chain(&mut self.unwritten);
        waiting.chain(in_flight).for_each(|entry| entry.sequence += shift);
        self.stats.recovered += inventory.found() + inventory.lost();
        for ((id, parked), lost) in QueueId::ALL.into_iter().zip(inventory.parked).zip(inventory.lost) {
            let lost_before = self.queue(id).replace_parked(parked);
            self.queue(id).forget_stored();
            self.stats.drops.add_many(id.class(), Reason::Store, lost + lost_before);
        }
        self.make_store_room([0; QueueId::ALL.len()]);
    }

    /// Returns when the store has to be written to, if the messages are not delivered by then.
    pub fn store_due_ms(&self, wait_ms: u64) -> Option<u64> {
        let waiting = QueueId::STORED.into_iter().flat_map(|id| self.queues[id as usize].entries());
        let in_memory = waiting.chain(self.unacked.iter().flatten()).filter(|entry| entry.persisted == Persisted::No);
        in_memory.map(|entry| entry.born_ms + wait_ms).min()
    }

    /// Returns what to write now. Once one message has been in memory alone for `wait_ms`, all are written, and delivered
    /// ones deleted; deletes alone are returned only if `deletes`. To be followed by [`Outbox::stored`],
    /// [`Outbox::store_is_read_only`] or [`Outbox::store_failed`].
    pub fn take(&mut self, now_ms: u64, wait_ms: u64, deletes: bool) -> Work {
        let mut work = Work::default();
        if self.mode != Mode::Up {
            return work;
        }
        if self.pending.reset || self.store_due_ms(wait_ms).is_some_and(|due_ms| due_ms <= now_ms) {
            self.take_messages(&mut work);
        }
        if deletes || work.reset.is_some() || !work.inserts.is_empty() || self.pending.deletes.len() >= DELETES_AT_ONCE
        {
            work.deletes = self.pending.deletes.clone();
            work.cuts = self.pending.cuts.clone();
            self.pending.taken = (work.deletes.len(), work.cuts.len());
        }
        work
    }

    fn take_messages(&mut self, work: &mut Work) {
        let reset = std::mem::take(&mut self.pending.reset);
        let limit = transaction_bytes(&self.limits);
        // What the file may have must come with the reset, which deletes it.
        let first_new = if reset { self.pending.new_from } else { 0 };
        let due_now = |due: &[&mut Entry]| {
            let old = due.partition_point(|entry| entry.sequence < first_new);
            fitting(due, limit.max(due[..old].iter().map(|entry| entry.stored_bytes()).sum()))
        };
        let needs = QueueId::ALL.map(|id| if id.is_stored() { due_now(&self.unpersisted(id)).0 } else { 0 });
        self.make_store_room(needs);
        let mut new_from = self.pending.new_from;
        for id in QueueId::STORED {
            let room = self.limits.max_stored_bytes.saturating_sub(self.stored_bytes());
            let due = self.unpersisted(id);
            let (mut bytes, mut count) = due_now(&due);
            work.more |= count < due.len();
            if bytes > room {
                // What remains stays in memory, and there is nothing more to do before there is room.
                (bytes, count) = fitting(&due, room);
                (bytes, count) = if bytes > room { (0, 0) } else { (bytes, count) };
                work.more = false;
            }
            for entry in due.into_iter().take(count) {
                entry.persisted = Persisted::Writing;
                new_from = new_from.max(entry.sequence + 1);
                work.inserts.push(row(id, entry));
            }
            let queue = self.queue(id);
            queue.stored += count as u64;
            queue.stored_bytes += bytes;
        }
        self.pending.new_from = new_from;
        if reset {
            let range = |segments: &VecDeque<Segment>| Some((segments.front()?.first, segments.back()?.last));
            let ranges = QueueId::STORED.map(|id| (id, range(&self.queue(id).parked)));
            work.reset = Some(ranges.to_vec());
        }
    }

    /// Returns the messages that are in memory alone, in order.
    fn unpersisted(&mut self, id: QueueId) -> Vec<&mut Entry> {
        let in_flight = self.unacked.iter_mut().flatten().filter(|entry| entry.queue() == id);
        let all = in_flight.chain(self.queues[id as usize].entries_mut());
        let mut unpersisted: Vec<&mut Entry> = all.filter(|entry| entry.persisted == Persisted::No).collect();
        unpersisted.sort_unstable_by_key(|entry| entry.sequence);
        unpersisted
    }

    /// Notes that the work last taken is done.
    pub fn stored(&mut self) {
        let waiting = self.queues.iter_mut().flat_map(|queue| queue.entries_mut());
        for entry in waiting.chain(self.unacked.iter_mut().flatten()) {
            if entry.persisted == Persisted::Writing {
                entry.persisted = Persisted::Yes;
            }
        }
        let (deletes, cuts) = std::mem::take(&mut self.pending.taken);
        self.pending.deletes.drain(..deletes);
        self.pending.cuts.drain(..cuts);
        let limits = self.head_limits;
        self.bytes -= QueueId::STORED.map(|id| self.queue(id).park(&limits)).iter().sum::<usize>();
    }

    /// Returns what has to be read so that messages can be sent.
    pub fn wanted_page(&self) -> Option<PageRequest> {
        let of_queue = |queue: QueueId| {
            let segment = self.queues[queue as usize].wanted(&self.head_limits)?;
            Some(PageRequest { queue, first: segment.first, last: segment.last })
        };
        QueueId::STORED.into_iter().filter(|_| self.can_read_store()).find_map(of_queue)
    }

    /// Takes the rows that were read; missing ones are lost, and those that no broker would take are dropped.
    pub fn page(&mut self, request: PageRequest, rows: Vec<Row>) {
        let PageRequest { queue: id, first, last } = request;
        let segment = self.queues[id as usize].parked.front();
        // It may have been dropped meanwhile.
        let Some(segment) = segment.filter(|segment| (segment.first, segment.last) == (first, last)) else { return };
        let (segment, count) = (segment.clone(), rows.len() as u64);
        // The reset keeps only what is parked then.
        let persisted = if self.pending.reset { Persisted::No } else { Persisted::Yes };
        let mut entries: Vec<Entry> = rows.into_iter().map(|row| entry(row, &segment, persisted)).collect();
        // Another program may have changed the file, and the limits may have changed since.
        entries.retain(|entry| {
            let checked = self.limits.check(&entry.message);
            if let Err(reason) = checked {
                self.stats.drops.add(id.class(), reason);
                self.pending.deletes.push((id, entry.sequence));
            }
            checked.is_ok()
        });
        let stored = entries.iter().filter(|entry| entry.persisted == Persisted::Yes);
        let (stays, costs) = stored.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.stored_bytes()));
        let bytes = entries.iter().map(|entry| entry.message.size_bytes()).sum::<usize>();
        self.bytes += bytes;
        let queue = self.queue(id);
        queue.unpark(entries.into_iter());
        queue.stored = queue.stored.saturating_sub(segment.count) + stays;
        queue.stored_bytes = queue.stored_bytes.saturating_sub(segment.bytes) + costs;
        let lost = segment.count.saturating_sub(count);
        self.stats.drops.add_many(id.class(), Reason::Store, lost);
        // More rows than expected: another program wrote into the file.
        self.stats.recovered += count.saturating_sub(segment.count);
    }

    /// Has the store delete a message.
    pub(super) fn unstore(&mut self, entry: &Entry) {
        let id = entry.queue();
        let queue = self.queue(id);
        if entry.persisted != Persisted::No {
            queue.stored -= 1;
            queue.stored_bytes -= entry.stored_bytes();
        } else {
            // It may be there since before the store failed; a reset spares it only among those that are parked.
            let parked = queue.parked.front().zip(queue.parked.back());
            if parked.is_none_or(|(front, back)| !(front.first..=back.last).contains(&entry.sequence)) {
                return;
            }
        }
        self.pending.deletes.push((id, entry.sequence));
    }

    pub(super) fn drop_segment(&mut self, id: QueueId, newest: bool, reason: Reason) {
        let queue = self.queue(id);
        let Some(segment) = queue.pop_segment(newest) else { return };
        queue.stored -= segment.count;
        queue.stored_bytes -= segment.bytes;
        self.stats.drops.add_many(id.class(), reason, segment.count);
        self.pending.cuts.push((id, segment.first, segment.last));
    }

    /// Drops stored messages, by `when_full`, until `needs` fit or nothing more can be dropped.
    fn make_store_room(&mut self, needs: [u64; QueueId::ALL.len()]) {
        while self.stored_bytes() + needs.iter().sum::<u64>() > self.limits.max_stored_bytes {
            let has_some = |id: &QueueId| {
                let queue = &self.queues[*id as usize];
                let head = queue.head.front().is_some_and(|entry| entry.persisted == Persisted::Yes);
                !queue.parked.is_empty() || head && self.limits.when_full == WhenFull::DropOldest
            };
            let new = |id: QueueId| needs[id as usize];
            let weigh = |id: &QueueId| id.weigh(self.queues[*id as usize].stored_bytes + new(*id));
            let newest = self.limits.when_full == WhenFull::DropNewest;
            let candidates = QueueId::STORED.into_iter().filter(|id| has_some(id) || newest && new(*id) > 0);
            let Some(victim) = candidates.max_by_key(weigh) else { return };
            if newest && new(victim) > 0 {
                // The new ones stay in memory, until that is full.
                return;
            }
            let queue = self.queue(victim);
            if !newest && queue.head.front().is_some_and(|entry| entry.persisted == Persisted::Yes) {
                let Some(entry) = queue.pop_front(true) else { return };
                self.drop_entry(entry, Reason::Full);
            } else {
                self.drop_segment(victim, newest, Reason::Full);
            }
        }
    }
}

/// Returns the bytes to write at once, so that SQLite's log stays small.
fn transaction_bytes(limits: &Limits) -> u64 {
    limits.max_stored_bytes / 32
}

/// Returns the bytes and the number of the first entries that fit into `limit`; one at least.
fn fitting(due: &[&mut Entry], limit: u64) -> (u64, usize) {
    let (mut total, mut count) = (0, 0);
    for entry in due {
        let bytes = entry.stored_bytes();
        if count > 0 && total + bytes > limit {
            break;
        }
        total += bytes;
        count += 1;
    }
    (total, count)
}

fn row(queue: QueueId, entry: &Entry) -> Row {
    Row {
        queue,
        id: entry.sequence,
        time_ms: entry.born_ms,
        topic: entry.message.topic.clone(),
        payload: entry.message.payload.clone(),
    }
}

fn entry(row: Row, segment: &Segment, persisted: Persisted) -> Entry {
    Entry {
        message: Message {
            topic: row.topic,
            payload: row.payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            class: row.queue.class(),
            marks: None,
        },
        sequence: row.id,
        born_ms: row.time_ms.clamp(segment.oldest_ms, segment.newest_ms),
        resent: false,
        losses: 0,
        round: 0,
        persisted,
    }
}
