//! What of a session was taken already, so that a message that the broker sends again is not taken twice. Pure.
//!
//! A broker sends a message again, with its flag for that, if the connection ended before it had the acknowledgement.

use std::hash::{BuildHasher, RandomState};

/// Messages that are remembered: more than brokers send before they wait for acknowledgements.
const REMEMBERED: usize = 1024;

/// The latest messages that were acknowledged.
#[derive(Debug)]
pub(super) struct Delivered {
    hasher: RandomState,
    /// Packet id and hash of each; a ring.
    messages: Vec<(u16, u64)>,
    next: usize,
}

impl Delivered {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), messages: Vec::with_capacity(REMEMBERED), next: 0 }
    }

    fn hash(&self, topic: &str, payload: &[u8]) -> u64 {
        self.hasher.hash_one((topic, payload))
    }

    /// Notes a message that is taken.
    pub(super) fn note(&mut self, packet_id: u16, topic: &str, payload: &[u8]) {
        let message = (packet_id, self.hash(topic, payload));
        match self.messages.get_mut(self.next) {
            Some(oldest) => *oldest = message,
            None => self.messages.push(message),
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Returns whether a message that the broker sends again was taken before. An id stands for the latest message that had
    /// it.
    pub(super) fn has(&self, packet_id: u16, topic: &str, payload: &[u8]) -> bool {
        let (old, new) = self.messages.split_at(self.next.min(self.messages.len()));
        // In a ring that is full, the newest ones are before `next`.
        let latest = old.iter().rev().chain(new.iter().rev()).find(|(id, _)| *id == packet_id);
        latest.is_some_and(|(_, hash)| *hash == self.hash(topic, payload))
    }

    /// Another session begins.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_message_of_an_id_is_known() {
        let mut delivered = Delivered::new();
        assert!(!delivered.has(1, "t", b"1"));
        delivered.note(1, "t", b"1");
        assert!(delivered.has(1, "t", b"1"));
        assert!(!delivered.has(1, "t", b"2") && !delivered.has(2, "t", b"1") && !delivered.has(1, "u", b"1"));
        delivered.note(1, "t", b"2");
        assert!(delivered.has(1, "t", b"2") && !delivered.has(1, "t", b"1"));
        delivered.clear();
        assert!(!delivered.has(1, "t", b"2"));
    }

    #[test]
    fn old_messages_are_forgotten_and_the_memory_is_bounded() {
        let mut delivered = Delivered::new();
        for id in 0..3000u16 {
            delivered.note(id, "t", &id.to_be_bytes());
            if id > 2000 {
                delivered.note(7, "t", &id.to_be_bytes());
                assert!(delivered.has(7, "t", &id.to_be_bytes()));
                assert!(!delivered.has(7, "t", &(id - 1).to_be_bytes()));
            }
        }
        assert_eq!(delivered.messages.len(), REMEMBERED);
        assert!(delivered.has(2999, "t", &2999u16.to_be_bytes()) && !delivered.has(100, "t", &100u16.to_be_bytes()));
    }
}
