//! What the numbers of packets say: how many are missing, which came twice or late, and when the board has started again. Pure.

use std::hash::{DefaultHasher, Hasher as _};

/// A packet that is behind the last one by at most so many may have come late or twice; one that is further behind begins the
/// count again.
const LATE_PACKETS: u64 = 16;
/// More than the last packet and those that may be late; a power of two, so that numbers that wrap keep their places.
const REMEMBERED: usize = 32;
/// After so many repeats in order, from 0 on, the board has started again and sends the same bytes as before.
const REPEATS: u64 = 2;

/// Where a packet stands among those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It follows the last one, or is the first.
    Next,
    /// It follows after so many that did not come.
    After { missing: u64 },
    /// It came before, with the same bytes.
    Repeat,
    /// It was missing, and comes too late.
    Late { last: u64 },
    /// It has the number of the last one, and other bytes.
    SameNumber,
    /// The board has started again.
    Restart,
}

/// The numbers of the packets of one stream.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// `None` before the first packet.
    last: Option<u64>,
    /// The last numbers, each at its place, with the hash of the packet's bytes; without one if it is missing.
    recent: [Option<(u64, Option<u64>)>; REMEMBERED],
    /// So many packets in order, from 0 on, came again.
    again: u64,
}

impl Sequence {
    /// Takes the number of a packet, whose highest value is `highest`, with the packet's bytes.
    pub(super) fn place(&mut self, number: u64, highest: u64, bytes: &[u8]) -> Place {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        let hash = hasher.finish();
        let place = self.of(number, highest, hash);
        match place {
            Place::Repeat | Place::Late { .. } | Place::SameNumber => {
                self.again = if number == self.again { number + 1 } else { u64::from(number == 0) };
                return place;
            }
            Place::Restart => *self = Self::default(),
            Place::After { missing } => {
                // Only the last ones can still be late.
                for back in 1..=missing.min(REMEMBERED as u64) {
                    let number = number.wrapping_sub(back) & highest;
                    self.recent[slot(number)] = Some((number, None));
                }
            }
            Place::Next => {}
        }
        self.again = 0;
        self.recent[slot(number)] = Some((number, Some(hash)));
        self.last = Some(number);
        place
    }

    fn of(&self, number: u64, highest: u64, hash: u64) -> Place {
        let Some(last) = self.last else { return Place::Next };
        let (ahead, behind) = (number.wrapping_sub(last) & highest, last.wrapping_sub(number) & highest);
        if self.again >= REPEATS && number == self.again {
            return Place::Restart;
        }
        if behind <= LATE_PACKETS {
            return match self.recent[slot(number)] {
                Some((known, Some(before))) if known == number && before == hash => Place::Repeat,
                Some((known, None)) if known == number => Place::Late { last },
                _ if behind == 0 => Place::SameNumber,
                // Nothing of that number was missing, so it is counted again.
                _ => Place::Restart,
            };
        }
        // A count that comes to its beginning from far away starts again; from close to its highest value, it has wrapped.
        let is_beginning =
            if number == 0 { ahead > LATE_PACKETS } else { number <= LATE_PACKETS && ahead > highest / 4 };
        match ahead {
            1 => Place::Next,
            _ if is_beginning || ahead > highest / 2 => Place::Restart,
            _ => Place::After { missing: ahead - 1 },
        }
    }
}

fn slot(number: u64) -> usize {
    (number % REMEMBERED as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use Place::{After, Late, Next, Repeat, Restart, SameNumber};

    /// The places of packets of numbers with 8 bits, each with its content.
    fn places(sequence: &mut Sequence, packets: impl IntoIterator<Item = (u64, u8)>) -> Vec<Place> {
        packets.into_iter().map(|(number, content)| sequence.place(number, 0xff, &[number as u8, content])).collect()
    }

    fn all(numbers: &[u64]) -> Vec<Place> {
        places(&mut Sequence::default(), numbers.iter().map(|number| (*number, 0)))
    }

    #[test]
    fn missing_late_and_repeated_packets_are_told_apart() {
        assert_eq!(all(&[254, 255, 0, 1]), [Next; 4]);
        assert_eq!(all(&[7, 8, 8, 7, 9]), [Next, Next, Repeat, Repeat, Next]);
        assert_eq!(
            all(&[1, 4, 3, 2, 3, 5]),
            [Next, After { missing: 2 }, Late { last: 4 }, Late { last: 4 }, Late { last: 4 }, Next]
        );
        assert_eq!(all(&[250, 2, 255]), [Next, After { missing: 7 }, Late { last: 2 }]);
        let mut sequence = Sequence::default();
        assert_eq!(places(&mut sequence, [(3, 0), (3, 1), (4, 0)]), [Next, SameNumber, Next]);
    }

    #[test]
    fn a_board_that_starts_again_soon_loses_no_packet() {
        for sent in 2..=LATE_PACKETS + 1 {
            let mut sequence = Sequence::default();
            places(&mut sequence, (0..sent).map(|n| (n, 0)));
            let expected: Vec<Place> = [Restart].into_iter().chain((1..sent + 5).map(|_| Next)).collect();
            assert_eq!(places(&mut sequence, (0..sent + 5).map(|n| (n, 1))), expected, "after {sent}");
        }
        // It was joined while it ran, so that its first numbers were not seen.
        let mut sequence = Sequence::default();
        places(&mut sequence, (5..9).map(|n| (n, 0)));
        assert_eq!(places(&mut sequence, (0..3).map(|n| (n, 0))), [Restart, Next, Next]);
    }

    #[test]
    fn a_board_that_sends_the_same_bytes_again_loses_two_packets() {
        for sent in 2..=LATE_PACKETS + 1 {
            let mut sequence = Sequence::default();
            places(&mut sequence, (0..sent).map(|n| (n, 0)));
            assert_eq!(places(&mut sequence, (0..4).map(|n| (n, 0))), [Repeat, Repeat, Restart, Next], "after {sent}");
        }
        // A message that was sent twice, with packets from the middle.
        assert_eq!(all(&[0, 1, 2, 3, 4, 1, 2, 3, 4, 5])[5..], [Repeat, Repeat, Repeat, Repeat, Next]);
    }

    #[test]
    fn a_count_from_far_away_starts_again_and_one_close_to_its_end_wraps() {
        assert_eq!(all(&[100, 0, 1]), [Next, Restart, Next]);
        assert_eq!(all(&[100, 3]), [Next, Restart], "its first packets were lost in the text of its start");
        assert_eq!(all(&[230, 4]), [Next, After { missing: 29 }]);
        assert_eq!(all(&[200, 150]), [Next, Restart]);
    }
}
