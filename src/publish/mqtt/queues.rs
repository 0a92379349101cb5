//! What is to be sent, and which message is next: the outbox, the retained topics, and how a stop changes the order.
//!
//! Pure, except that it reads the clock for the pace. Guarded by the lock in `handle`.

use tokio::time::Instant;

use super::outbox::{Outbox, Pushed, Reason};
use super::pace::Pace;
use super::retained::Retained;
use super::too_large::{SizeLimit, TooLarge};
use crate::mqtt::codec::{Limits, Outgoing};
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
    pub too_large: TooLarge,
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
        Self { outbox, retained, connected: false, status_only: false, stop: None, too_large: TooLarge::default() }
    }

    /// Takes a message: a retained one replaces the value of its topic, any other one goes into the outbox.
    pub(crate) fn push(&mut self, message: Message, now_ms: u64) -> Pushed {
        let (topic, bytes) = (message.topic.clone(), message.payload.len());
        let pushed = if message.retain { self.retained.set(message) } else { self.outbox.push(message, now_ms) };
        if pushed == Pushed::Refused(Reason::Oversize) {
            self.too_large.add(&topic, bytes, SizeLimit::Queue(self.outbox.most_payload_bytes(&topic)));
        }
        pushed
    }

    /// Returns the next message to send, or `None` if there is none or the limits allow no more. Drops messages over
    /// which the broker would close the connection. The pace applies to a backlog only: a client that is up to date
    /// does not flood the broker.
    pub(crate) fn next_to_send(&mut self, turn: Turn, limits: &Limits, pace: &mut Pace) -> Option<Outgoing<'_>> {
        // Checked before each message: the one that is next now was behind another one before.
        let too_large = &mut self.too_large;
        self.outbox
            .drop_larger(largest_message(limits), |message| too_large.add_for_broker(message, limits.packet_bytes));
        if self.outbox.unacked() + self.retained.unacked() >= usize::from(limits.inflight) {
            return None;
        }
        if self.retained.can_send() {
            let (packet_id, message) = self.retained.next_to_send(turn.round)?;
            return Some(outgoing(packet_id, message));
        }
        let next = self.outbox.next(turn.now_ms).filter(|_| !self.status_only)?;
        let late = next.stored || next.waited_ms > BACKLOG_MS;
        if late && !pace.take(Instant::now()) {
            return None;
        }
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
        let too_large = &mut self.too_large;
        self.retained
            .drop_larger(largest_message(limits), |message| too_large.add_for_broker(message, limits.packet_bytes));
    }

    /// Notes that the connection is lost.
    pub(crate) fn rewind(&mut self) {
        self.connected = false;
        self.outbox.rewind();
        self.retained.rewind();
    }

    /// Notes an acknowledgement. The two ranges of ids do not overlap; an id that is not in use is ignored.
    pub(crate) fn on_puback(&mut self, packet_id: u16, refused: bool) {
        if !self.outbox.on_puback(packet_id, refused) {
            self.retained.on_puback(packet_id, refused);
        }
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
