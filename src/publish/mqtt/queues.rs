//! What is to be sent, and which message is next: the outbox, the retained topics, and how a stop changes the order.
//!
//! Pure, except that it reads the clock for the pace. Guarded by the lock in `handle`.

use tokio::time::Instant;

use super::dropped::{Cause, DroppedTopics};
use super::outbox::{Outbox, Pushed, Reason};
use super::pace::Pace;
use super::retained::Retained;
use crate::mqtt::codec::{Code, Limits, Outgoing};
use crate::publish::message::Message;

/// Bytes of a packet besides its topic and payload: fixed header, lengths, packet id and MQTT 5's properties.
const HEADER_BYTES: usize = 80;
/// A message that has waited longer than this belongs to a backlog.
const BACKLOG_MS: u64 = 1_000;

/// See the module's doc.
#[derive(Debug)]
pub(crate) struct Queues {
    pub outbox: Outbox,
    pub retained: Retained,
    pub connected: bool,
    /// Only the status is still sent.
    pub status_only: bool,
    pub stop: Option<Stop>,
    pub dropped: DroppedTopics,
    /// A suspected message is in flight: nothing else is sent.
    alone: bool,
    /// How many messages the broker has acknowledged on this connection.
    acknowledged: usize,
    /// Something has left the outbox on this connection.
    progressed: bool,
}

/// When a stop ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// Until then queued messages are sent; after it `offline` only.
    pub flush_until: Instant,
    pub deadline: Instant,
}

/// The moment at which messages are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Pings sent on this connection.
    pub round: u32,
    pub now_ms: u64,
}

impl Queues {
    pub(crate) fn new(outbox: Outbox, retained: Retained) -> Self {
        Self {
            outbox,
            retained,
            connected: false,
            status_only: false,
            stop: None,
            dropped: DroppedTopics::default(),
            alone: false,
            acknowledged: 0,
            progressed: false,
        }
    }

    /// Takes a message: a retained one replaces the value of its topic, any other one goes into the outbox.
    pub(crate) fn push(&mut self, message: Message, now_ms: u64) -> Pushed {
        let (topic, bytes) = (message.topic.clone(), message.payload.len());
        let pushed = if message.retain { self.retained.set(message) } else { self.outbox.push(message, now_ms) };
        if pushed == Pushed::Refused(Reason::Oversize) {
            self.dropped.add(&topic, bytes, Cause::QueueLimit(self.outbox.most_payload_bytes(&topic)));
        }
        pushed
    }

    /// Returns the next message to send, or `None` if there is none or the limits allow no more. Drops messages over
    /// which the broker would close the connection. The pace applies to a backlog only: a client that is up to date
    /// does not flood the broker.
    pub(crate) fn next_to_send(&mut self, turn: Turn, limits: &Limits, pace: &mut Pace) -> Option<Outgoing<'_>> {
        // Checked before each message: the one that is next now was behind another one before.
        let dropped = &mut self.dropped;
        self.outbox
            .drop_larger(largest_message(limits), |message| dropped.add_for_broker(message, limits.packet_bytes));
        let in_flight = self.in_flight();
        if in_flight >= usize::from(limits.inflight) || self.alone && !self.status_only {
            return None;
        }
        let retained_suspect = self.retained.can_send(true);
        let next = self.outbox.next(turn.now_ms);
        let alone = retained_suspect || next.is_some_and(|next| next.suspected);
        if self.retained.can_send(false) && (!alone || self.status_only || self.retained.status_is_due()) {
            let (packet_id, message) = self.retained.next_to_send(turn.round, false)?;
            return Some(outgoing(packet_id, message));
        }
        if self.status_only || alone && in_flight > 0 {
            return None;
        }
        if retained_suspect {
            self.alone = true;
            let (packet_id, message) = self.retained.next_to_send(turn.round, true)?;
            return Some(outgoing(packet_id, message));
        }
        let next = next?;
        let late = next.stored || next.waited_ms > BACKLOG_MS;
        if late && !pace.take(Instant::now()) {
            return None;
        }
        self.alone = alone;
        let (packet_id, message) = self.outbox.next_to_send(turn.round)?;
        Some(Outgoing {
            // The rest of its time, but never 0: some brokers read that as "at once", others as "never".
            expiry_s: u32::try_from(next.left_ms.div_ceil(1000).max(1)).ok(),
            waited_ms: (next.waited_ms > BACKLOG_MS).then_some(next.waited_ms),
            ..outgoing(packet_id, message)
        })
    }

    /// Drops retained values that the broker does not allow.
    pub(crate) fn drop_larger_retained(&mut self, limits: &Limits) {
        let dropped = &mut self.dropped;
        self.retained
            .drop_larger(largest_message(limits), |message| dropped.add_for_broker(message, limits.packet_bytes));
    }

    fn in_flight(&self) -> usize {
        self.outbox.unacked() + self.retained.unacked()
    }

    /// Notes that the connection is lost. `by_broker`: the broker has ended it, perhaps because of a message. Returns whether
    /// something has left the outbox on this connection.
    ///
    /// A message that was in flight at several such ends in a row is sent alone, right after the status. If the broker then
    /// ends the connection again, the message is dropped: otherwise nothing behind it would ever be delivered. A broker that
    /// takes a few messages and then crashes takes this one, as the first.
    pub(crate) fn rewind(&mut self, by_broker: bool) -> bool {
        // A broker that does not even acknowledge the status takes no message at all.
        let blamed = by_broker && self.acknowledged > 0;
        if blamed
            && self.acknowledged == 1
            && self.alone
            && self.in_flight() == 1
            && let Some(message) = self.outbox.drop_suspect().or_else(|| self.retained.drop_suspect())
        {
            self.dropped.add(&message.topic, message.size_bytes(), Cause::ConnectionEnds);
            self.progressed = true;
        }
        self.outbox.rewind(blamed);
        self.retained.rewind(blamed);
        (self.connected, self.alone, self.acknowledged) = (false, false, 0);
        std::mem::take(&mut self.progressed)
    }

    /// Notes an acknowledgement. The two ranges of ids do not overlap; an id that is not in use is ignored.
    pub(crate) fn on_puback(&mut self, packet_id: u16, refused: Option<Code>) {
        if let Some(code) = refused
            && let Some(message) = self.outbox.with_id(packet_id).or_else(|| self.retained.with_id(packet_id))
        {
            self.dropped.add(&message.topic, message.size_bytes(), Cause::Refused(code));
        }
        self.acknowledged += 1;
        if self.outbox.on_puback(packet_id, refused.is_some()) {
            self.progressed = true;
        } else {
            self.retained.on_puback(packet_id, refused.is_some());
        }
        self.alone &= self.in_flight() > 0;
    }

    pub(crate) fn oldest_round(&self) -> Option<u32> {
        self.outbox.oldest_round().into_iter().chain(self.retained.oldest_round()).min()
    }
}

/// Returns how many bytes of topic and payload a broker with these limits accepts.
fn largest_message(limits: &Limits) -> usize {
    (limits.packet_bytes as usize).saturating_sub(HEADER_BYTES)
}

fn outgoing(packet_id: u16, message: &Message) -> Outgoing<'_> {
    Outgoing {
        topic: &message.topic,
        payload: &message.payload,
        qos: message.qos,
        retain: message.retain,
        packet_id,
        expiry_s: None,
        waited_ms: None,
    }
}
