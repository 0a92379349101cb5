//! The latest value of each retained topic, and whether the broker has it.
//!
//! A retained topic holds what is true now, so a value that is replaced before it could be sent is not sent: an outage
//! costs one message for each topic. After every (re)connect all of them are sent again, `status` first, the others
//! in the order in which they first appeared. Pure: no I/O, no clock, no thread.

use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::{self, Drops, Pushed, Reason, SUSPECTED_AFTER};
use crate::publish::message::{Bytes, Class, Message, Qos};

/// Figures of the retained topics: totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Values replaced by a newer one before they were sent.
    pub superseded: u64,
    /// Values refused.
    pub drops: Drops,
}

#[derive(Debug)]
struct Slot {
    message: Message,
    /// To be sent once the one before is acknowledged.
    due: bool,
    /// The round in which the value was sent that is not yet acknowledged.
    sent_in_round: Option<u32>,
    /// How many connections in a row the broker has ended while the value was in flight.
    losses: u8,
    /// The broker ends the connection over this value: it is not sent again.
    set_aside: bool,
}

impl Slot {
    fn new(message: Message) -> Self {
        Self { message, due: true, sent_in_round: None, losses: 0, set_aside: false }
    }

    fn is_suspected(&self) -> bool {
        self.losses >= SUSPECTED_AFTER
    }

    fn can_send(&self, suspected: bool) -> bool {
        self.due && self.sent_in_round.is_none() && self.is_suspected() == suspected
    }
}

/// See the module's doc.
#[derive(Debug)]
pub struct Retained {
    slots: Vec<Slot>,
    index: HashMap<Arc<str>, usize>,
    due_count: usize,
    first_packet_id: u16,
    max_topics: u16,
    max_payload_bytes: usize,
    stats: Stats,
}

impl Retained {
    /// Returns one with `status` alone, which is always sent first; each topic's packet id is `first_packet_id` plus its
    /// place.
    pub fn new(status: Message, first_packet_id: u16, max_topics: u16, max_payload_bytes: usize) -> Self {
        Self {
            index: HashMap::from([(status.topic.clone(), 0)]),
            slots: vec![Slot::new(status)],
            due_count: 1,
            first_packet_id,
            max_topics,
            max_payload_bytes,
            stats: Stats::default(),
        }
    }

    /// Sets the latest value of a topic; refused with [`Reason::Full`] if that would be one topic too many.
    pub fn set(&mut self, message: Message) -> Pushed {
        if let Err(reason) = outbox::check(&message, self.max_payload_bytes) {
            return self.refuse(message.class, reason);
        }
        if let Some(slot) = self.index.get(&message.topic).and_then(|place| self.slots.get_mut(*place)) {
            if slot.set_aside && slot.message.payload == message.payload {
                return self.refuse(message.class, Reason::Refused);
            }
            // Another value may be as bad: it is still suspected.
            slot.set_aside = false;
            slot.message = message;
            self.stats.superseded += u64::from(slot.due);
            self.due_count += usize::from(!slot.due);
            slot.due = true;
            return Pushed::Queued;
        }
        let new = Slot::new(message);
        let place = if self.slots.len() < usize::from(self.max_topics) {
            self.slots.len()
        } else if let Some(place) = self.slots.iter().position(is_emptied) {
            place
        } else {
            return self.refuse(new.message.class, Reason::Full);
        };
        self.index.insert(new.message.topic.clone(), place);
        self.due_count += 1;
        match self.slots.get_mut(place) {
            Some(slot) => _ = self.index.remove(&std::mem::replace(slot, new).message.topic),
            None => self.slots.push(new),
        }
        Pushed::Queued
    }

    /// Returns whether the broker has the latest value of that topic.
    pub fn has(&self, topic: &str) -> bool {
        self.index
            .get(topic)
            .and_then(|place| self.slots.get(*place))
            .is_some_and(|slot| is_settled(slot) && !slot.set_aside)
    }

    /// Returns the beginning of the topics of this node, which is that of `status`.
    pub fn prefix(&self) -> &str {
        let status = self.slots.first().map_or("", |slot| slot.message.topic.as_ref());
        status.rfind('/').map_or("", |slash| &status[..=slash])
    }

    /// Sets the payload of `status`.
    pub fn set_status(&mut self, payload: &'static str) {
        if let Some(slot) = self.slots.first_mut() {
            slot.message.payload = Bytes::from_static(payload.as_bytes());
            self.due_count += usize::from(!slot.due);
            slot.due = true;
        }
    }

    fn refuse(&mut self, class: Class, reason: Reason) -> Pushed {
        self.stats.drops.add(class, reason);
        Pushed::Refused(reason)
    }

    /// Returns whether `next_to_send` would return a message.
    pub fn can_send(&self, suspected: bool) -> bool {
        self.due_count > 0 && self.slots.iter().any(|slot| slot.can_send(suspected))
    }

    /// Returns whether `status` is the next to send.
    pub fn status_is_due(&self) -> bool {
        self.slots.first().is_some_and(|slot| slot.can_send(false))
    }

    /// Returns the number of values sent and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.slots.iter().filter(|slot| slot.sent_in_round.is_some()).count()
    }

    /// Drops values that are due and larger than the broker allows; calls `dropped` with each.
    pub fn drop_larger(&mut self, max_bytes: usize, mut dropped: impl FnMut(&Message)) {
        if self.due_count == 0 {
            return;
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.due && slot.message.size_bytes() > max_bytes) {
            slot.due = false;
            self.due_count -= 1;
            dropped(&slot.message);
            self.stats.drops.add(slot.message.class, Reason::Oversize);
        }
    }

    /// Takes the next value to send and its packet id (0 for QoS 0); one at a time for each topic. `suspected`: of those
    /// that may be why the broker ends connections, otherwise of the others.
    pub fn next_to_send(&mut self, round: u32, suspected: bool) -> Option<(u16, &Message)> {
        if self.due_count == 0 {
            return None;
        }
        let place = self.slots.iter().position(|slot| slot.can_send(suspected))?;
        let slot = self.slots.get_mut(place)?;
        slot.due = false;
        self.due_count -= 1;
        if slot.message.qos == Qos::AtMostOnce {
            return Some((0, &slot.message));
        }
        slot.sent_in_round = Some(round);
        let packet_id = self.first_packet_id.checked_add(u16::try_from(place).ok()?)?;
        Some((packet_id, &slot.message))
    }

    /// Notes an acknowledgement, as a drop if it was `refused`; returns false if that packet id is not in use.
    pub fn on_puback(&mut self, packet_id: u16, refused: bool) -> bool {
        let place = packet_id.checked_sub(self.first_packet_id).map(usize::from);
        let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) else { return false };
        let was_out = slot.sent_in_round.take().is_some();
        slot.losses = 0;
        if refused && was_out {
            self.stats.drops.add(slot.message.class, Reason::Refused);
        }
        was_out
    }

    /// Returns the value in flight that has this packet id.
    pub fn with_id(&self, packet_id: u16) -> Option<&Message> {
        let place = usize::from(packet_id.checked_sub(self.first_packet_id)?);
        self.slots.get(place).filter(|slot| slot.sent_in_round.is_some()).map(|slot| &slot.message)
    }

    /// Sets the suspected value aside that is in flight, as refused: the broker has ended the connection again. To be
    /// followed by [`Retained::rewind`].
    pub fn drop_suspect(&mut self) -> Option<Message> {
        let slot = self.slots.iter_mut().find(|slot| slot.sent_in_round.is_some() && slot.is_suspected())?;
        slot.set_aside = true;
        slot.sent_in_round = None;
        self.stats.drops.add(slot.message.class, Reason::Refused);
        Some(slot.message.clone())
    }

    /// Notes that the connection is lost: everything has to be sent again, but no topic is emptied again. Somebody else
    /// may use it by now. `blamed`: what is in flight may be the reason, except for `status`, with which each connection
    /// begins.
    pub fn rewind(&mut self, blamed: bool) {
        for slot in self.slots.iter_mut().skip(1).filter(|slot| slot.sent_in_round.is_some()) {
            slot.losses = if blamed { slot.losses.saturating_add(1) } else { 0 };
        }
        for slot in self.slots.iter_mut().filter(|slot| !is_emptied(slot) && !slot.set_aside) {
            slot.due = true;
            slot.sent_in_round = None;
        }
        self.due_count = self.slots.iter().filter(|slot| slot.due).count();
    }

    /// Returns the `round` in which the longest unacknowledged value was sent.
    pub fn oldest_round(&self) -> Option<u32> {
        self.slots.iter().filter_map(|slot| slot.sent_in_round).min()
    }

    /// Returns whether the broker has the latest `status`.
    pub fn status_is_settled(&self) -> bool {
        self.slots.first().is_some_and(is_settled)
    }

    /// Returns whether the broker has the latest value of every topic.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(is_settled)
    }

    /// Returns the figures as of now.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }
}

fn is_settled(slot: &Slot) -> bool {
    !slot.due && slot.sent_in_round.is_none()
}

/// The broker has removed the topic's value.
fn is_emptied(slot: &Slot) -> bool {
    slot.message.payload.is_empty() && is_settled(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, payload: &'static str) -> Message {
        Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::State,
            marks: None,
        }
    }

    fn retained() -> Retained {
        Retained::new(message("status", "online"), 65, 3, 100)
    }

    fn hand_all(retained: &mut Retained) -> Vec<(u16, String)> {
        let mut sent = Vec::new();
        while let Some((id, m)) = retained.next_to_send(0, false) {
            sent.push((id, format!("{}={}", m.topic, String::from_utf8_lossy(&m.payload))));
        }
        sent
    }

    #[test]
    fn after_a_rewind_everything_is_sent_again_status_first() {
        let mut retained = retained();
        retained.set(message("b", "1"));
        retained.set(message("a", "1"));
        let all = [(65, "status=online".into()), (66, "b=1".into()), (67, "a=1".into())];
        assert_eq!(hand_all(&mut retained), all);
        assert!([67, 65, 66].into_iter().all(|id| retained.on_puback(id, false)));
        assert!(retained.is_settled());
        retained.rewind(false);
        assert_eq!(hand_all(&mut retained), all);
    }

    #[test]
    fn a_topic_has_one_value_out_at_a_time_and_only_the_latest_follows() {
        let mut retained = retained();
        hand_all(&mut retained);
        retained.set(message("a", "1"));
        assert_eq!(hand_all(&mut retained), [(66, "a=1".into())]);
        retained.set(message("a", "2"));
        retained.set(message("a", "3"));
        assert_eq!(hand_all(&mut retained), []);
        assert!(retained.on_puback(66, false) && !retained.on_puback(66, false));
        assert_eq!(hand_all(&mut retained), [(66, "a=3".into())]);
        assert_eq!(retained.stats().superseded, 1);
    }

    #[test]
    fn topics_are_bounded_and_refusals_counted() {
        let mut retained = retained();
        retained.set(message("a", "1"));
        retained.set(message("b", "1"));
        assert_eq!(retained.set(message("c", "")), Pushed::Refused(Reason::Full));
        assert_eq!(retained.set(message("a/#", "")), Pushed::Refused(Reason::Topic));
        assert_eq!(retained.set(message("a", "x")), Pushed::Queued);
        assert_eq!(retained.stats().drops.total(), 2);
    }

    #[test]
    fn a_topic_is_emptied_once_and_makes_room_for_another() {
        let mut retained = retained();
        retained.set(message("a", "1"));
        retained.set(message("b", "1"));
        retained.set(message("a", ""));
        retained.rewind(false);
        assert_eq!(hand_all(&mut retained), [(65, "status=online".into()), (66, "a=".into()), (67, "b=1".into())]);
        assert!(!retained.has("a"), "not confirmed yet");
        assert!([65, 66, 67].into_iter().all(|id| retained.on_puback(id, false)));
        assert!(retained.has("a") && !retained.has("never seen"));
        retained.rewind(false);
        assert_eq!(hand_all(&mut retained), [(65, "status=online".into()), (67, "b=1".into())]);
        assert_eq!(retained.set(message("c", "1")), Pushed::Queued);
        assert_eq!(hand_all(&mut retained), [(66, "c=1".into())]);
        assert_eq!(retained.set(message("d", "1")), Pushed::Refused(Reason::Full));
        assert!(!retained.has("a"));
    }

    /// Sends all, ends the connection, and returns what was sent.
    fn end(retained: &mut Retained, suspected: bool) -> Vec<u16> {
        let sent = std::iter::from_fn(|| retained.next_to_send(0, suspected).map(|(id, _)| id)).collect();
        retained.rewind(true);
        sent
    }

    #[test]
    fn a_value_over_which_the_broker_ends_connections_is_set_aside_until_it_changes() {
        let mut retained = retained();
        retained.set(message("a", "1"));
        for _ in 0..SUSPECTED_AFTER {
            assert_eq!(end(&mut retained, false), [65, 66]);
        }
        assert_eq!(end(&mut retained, false), [65], "the status is never suspected");
        assert_eq!(retained.next_to_send(0, true).map(|(id, _)| id), Some(66));
        assert_eq!(retained.drop_suspect().map(|message| message.topic.to_string()), Some("a".into()));
        retained.rewind(true);
        assert!(!retained.can_send(true) && !retained.has("a"));
        assert_eq!(retained.set(message("a", "1")), Pushed::Refused(Reason::Refused));
        assert_eq!(retained.set(message("a", "2")), Pushed::Queued);
        assert_eq!(retained.next_to_send(0, true).map(|(id, _)| id), Some(66), "alone again");
        assert!(retained.on_puback(66, false));
        assert_eq!(end(&mut retained, false), [65]);
        assert_eq!(end(&mut retained, false), [65, 66], "cleared");
        assert_eq!(retained.stats().drops.get(Class::State, Reason::Refused), 2);
    }
}
