//! Finds packets in bytes, checks them, and makes samples of them.
//!
//! Owns the framing, the checksum, and what is counted as rejected or missing. `sequence` judges the packets' numbers, `clock`
//! reads their times. After bytes that are damaged or missing,
//! the next byte 0 begins a packet again. Any split of the same bytes gives the same samples. Allocates nothing after it
//! is built.

use std::fmt::Display;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;

use super::Packets;
use super::checksum::{Algorithm, ByteOrder, Checksum};
use super::clock::DeviceClock;
use super::layout::PacketLayout;
use super::sequence::{Place, Sequence};
use crate::source::records::pace::Pace;
use crate::source::records::{Record, shown};
use crate::source::{FrameSink, Gap, Reject};
use crate::units::MonoTime;

/// So many bytes are read at once, unless packets are longer.
const READ_BYTES: usize = 64 * 1024;
/// A block of COBS has at most so many bytes, of which the first counts the others.
const LONGEST_BLOCK: usize = 255;
/// Steps in time after which it is known whether the device's clock and the nominal rate agree.
const PACE_STEPS: usize = 64;

/// Cuts bytes into packets, and packets into samples.
pub struct PacketDecoder {
    buffer: Vec<u8>,
    /// The frame that is not complete yet; what was searched for its end.
    start: usize,
    searched: usize,
    end: usize,
    /// Inside a frame that is too long for a packet.
    skipping: bool,
    /// The bytes before the first end of a frame are the rest of a packet whose beginning was not read.
    is_midway: bool,
    longest_frame: usize,
    packet: Vec<u8>,
    content: PacketContent,
}

/// What packets hold, and what was in the last one.
struct PacketContent {
    layout: PacketLayout,
    checksum: Checksum,
    order: ByteOrder,
    algorithm: Algorithm,
    /// Of all samples of the packet.
    values: Vec<f32>,
    /// One for each sample, or one for the packet, in nanoseconds.
    times: Vec<i64>,
    sequence: Sequence,
    /// Packets that were damaged since the last one with a number: their own numbers are among the missing ones.
    damaged: u64,
    clock: DeviceClock,
    pace: Pace,
    pace_is_judged: bool,
    rate_hz: Option<f64>,
}

/// Why a packet is rejected.
enum Fault {
    /// It is not a packet of this layout.
    Length,
    Checksum {
        computed: u32,
        received: u32,
    },
    /// It came before, or too late.
    Number {
        number: u64,
        place: Place,
    },
    Time(Reject),
    /// The channel's place.
    NotFinite(usize),
}

impl PacketDecoder {
    /// `packets` was checked, and `layout` is its layout.
    pub(super) fn new(packets: &Packets, layout: PacketLayout) -> Self {
        let longest_frame = layout.packet_bytes + layout.packet_bytes / (LONGEST_BLOCK - 1) + 1;
        let algorithm = packets.crc.algorithm();
        Self {
            buffer: vec![0; READ_BYTES.max(2 * longest_frame)],
            start: 0,
            searched: 0,
            end: 0,
            skipping: false,
            is_midway: false,
            longest_frame,
            packet: Vec::with_capacity(longest_frame),
            content: PacketContent {
                values: vec![0.0; layout.samples * layout.channels.len()],
                times: Vec::with_capacity(layout.samples),
                clock: DeviceClock::new(packets.time_unit.unwrap_or_default()),
                layout,
                checksum: packets.crc,
                order: packets.crc_order,
                algorithm,
                sequence: Sequence::default(),
                damaged: 0,
                pace: Pace::new(PACE_STEPS),
                pace_is_judged: false,
                rate_hz: packets.rate_hz,
            },
        }
    }

    /// Another stream begins; `is_midway`: perhaps inside a packet. Returns the number of bytes that were left.
    pub(crate) fn restart(&mut self, is_midway: bool) -> usize {
        self.content.restart();
        let left = self.begin_message();
        self.is_midway = is_midway;
        left
    }

    /// A message begins, with whole packets. Returns the number of bytes that were left.
    pub(crate) fn begin_message(&mut self) -> usize {
        let left = if self.skipping { self.longest_frame } else { self.end - self.start };
        (self.start, self.searched, self.end) = (0, 0, 0);
        (self.skipping, self.is_midway) = (false, false);
        left
    }

    pub(crate) fn is_midway(&self) -> bool {
        self.is_midway
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `from`.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.searched, self.end) = (self.searched - self.start, self.end - self.start);
        self.start = 0;
        let count = loop {
            match from.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count)
    }

    /// Feeds the samples of all packets whose end was read.
    pub(crate) fn feed(&mut self, name: &dyn Display, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        while let Some(length) = memchr::memchr(0, &self.buffer[self.searched..self.end]) {
            let frame = (self.start, self.searched + length);
            (self.start, self.searched) = (frame.1 + 1, frame.1 + 1);
            let was_skipping = std::mem::take(&mut self.skipping);
            if std::mem::take(&mut self.is_midway) {
                if was_skipping || frame.0 < frame.1 {
                    sink.joined_midway();
                }
            } else if was_skipping || frame.1 - frame.0 > self.longest_frame {
                self.too_long(name, arrival, sink)?;
            } else if frame.0 < frame.1 {
                self.frame(frame, name, arrival, sink)?;
            }
        }
        self.searched = self.end;
        if self.end - self.start > self.longest_frame {
            (self.start, self.skipping) = (self.end, true);
        }
        self.content.judge_pace(sink);
        ControlFlow::Continue(())
    }

    /// Feeds the packet after which the message ends without a byte 0.
    pub(crate) fn feed_last(&mut self, name: &dyn Display, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        let frame = (self.start, self.end);
        if self.skipping {
            self.too_long(name, arrival, sink)
        } else if frame.0 < frame.1 {
            self.frame(frame, name, arrival, sink)
        } else {
            ControlFlow::Continue(())
        }
    }

    fn too_long(&mut self, name: &dyn Display, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        self.content.is_damaged(sink);
        let (bytes, packet) = (self.longest_frame, self.content.layout.packet_bytes);
        sink.reject(Reject::TooLong, arrival, || {
            format!("{name}: more than {bytes} bytes without a byte 0; a packet has {packet} bytes; are they framed by COBS?")
        })
    }

    fn frame(
        &mut self,
        (start, end): (usize, usize),
        name: &dyn Display,
        arrival: MonoTime,
        sink: &mut FrameSink,
    ) -> ControlFlow<()> {
        let frame = &self.buffer[start..end];
        if !unstuff(frame, &mut self.packet) {
            self.content.is_damaged(sink);
            return sink.reject(Reject::Malformed, arrival, || format!("{name}: not framed by COBS: {}", shown(frame)));
        }
        let Err(fault) = self.content.read(&self.packet, sink) else {
            return self.content.give(arrival, sink);
        };
        match fault {
            Fault::Length | Fault::Checksum { .. } => self.content.is_damaged(sink),
            Fault::Time(_) | Fault::NotFinite(_) => self.content.is_missing(sink),
            Fault::Number { .. } => {}
        }
        let content = &self.content;
        let explain = || format!("{name}: {}", content.explain(&self.packet, &fault));
        if matches!(fault, Fault::Number { .. }) {
            // Those before and after it follow each other.
            sink.pass_over(fault.reason(), arrival, explain);
            return ControlFlow::Continue(());
        }
        sink.reject(fault.reason(), arrival, explain)
    }
}

impl Fault {
    fn reason(&self) -> Reject {
        match self {
            Self::Length => Reject::Malformed,
            Self::Checksum { .. } => Reject::Checksum,
            Self::Number { .. } => Reject::Duplicate,
            Self::Time(reason) => *reason,
            Self::NotFinite(_) => Reject::NotFinite,
        }
    }
}

impl PacketContent {
    fn restart(&mut self) {
        self.sequence = Sequence::default();
        self.damaged = 0;
        self.clock.restart();
        self.pace.restart();
    }

    /// Reads a packet: its values are then in `values`, and its time is that of the clock. Counts what is missing before it.
    fn read(&mut self, packet: &[u8], sink: &mut FrameSink) -> Result<(), Fault> {
        let PacketLayout { packet_bytes, header_bytes, sample_bytes, .. } = self.layout;
        if packet.len() != packet_bytes {
            return Err(Fault::Length);
        }
        let (content, sum) = packet.split_at(packet_bytes.saturating_sub(self.checksum.bytes()));
        if let Some(computed) = self.algorithm.of(content) {
            let received = self.order.number(sum);
            if computed != received {
                return Err(Fault::Checksum { computed, received });
            }
        }
        self.count(content, sink)?;
        let samples = || content.get(header_bytes..).unwrap_or_default().chunks_exact(sample_bytes.max(1));
        for (sample, values) in samples().zip(self.values.chunks_exact_mut(self.layout.channels.len().max(1))) {
            for (channel, (value, number)) in values.iter_mut().zip(&self.layout.channels).enumerate() {
                let bits = number.bits(sample).ok_or(Fault::Length)?;
                *value = (number.kind.number(bits) * number.scale) as f32;
                if !value.is_finite() {
                    return Err(Fault::NotFinite(channel));
                }
            }
        }
        self.times.clear();
        if let Some(time) = self.layout.time_of_packet {
            self.times.push(self.clock.read(&time, content).map_err(Fault::Time)?);
        } else if let Some(time) = self.layout.time_of_sample {
            for sample in samples() {
                self.times.push(self.clock.read(&time, sample).map_err(Fault::Time)?);
            }
        }
        Ok(())
    }

    /// Compares the packet's number with those before it.
    fn count(&mut self, content: &[u8], sink: &mut FrameSink) -> Result<(), Fault> {
        let Some((field, number)) = self.layout.sequence.and_then(|field| Some((field, field.bits(content)?))) else {
            return Ok(());
        };
        let place = self.sequence.place(number, u64::MAX >> (64 - field.kind.width()), content);
        match place {
            Place::Next => {}
            Place::After { missing } => {
                // A damaged packet is counted already.
                let lost = missing.saturating_sub(self.damaged);
                sink.cut(Gap::Interrupted);
                if lost > 0 {
                    sink.lost(lost.saturating_mul(self.layout.samples as u64));
                }
            }
            Place::Restart => {
                self.clock.restart();
                self.pace.restart();
                sink.cut(Gap::Interrupted);
            }
            Place::SameNumber => {
                // A board that starts again after one packet, or one that does not count.
                sink.cut(Gap::Interrupted);
                return Err(Fault::Number { number, place });
            }
            Place::Repeat | Place::Late { .. } => return Err(Fault::Number { number, place }),
        }
        self.damaged = 0;
        Ok(())
    }

    /// A packet came whose number cannot be read.
    fn is_damaged(&mut self, sink: &mut FrameSink) {
        self.damaged = self.damaged.saturating_add(1);
        self.is_missing(sink);
    }

    /// A packet is missing. Where each has many samples and there is no time, only this shows it.
    fn is_missing(&self, sink: &mut FrameSink) {
        if self.layout.samples > 1 && self.layout.time_of_packet.is_none() && self.layout.time_of_sample.is_none() {
            sink.cut(Gap::Interrupted);
        }
    }

    /// Feeds the samples that were read last.
    fn give(&mut self, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        let samples = self.layout.samples;
        let has_one_time = self.layout.time_of_sample.is_none();
        if !self.pace.is_full() {
            let of_each = if has_one_time { i64::try_from(samples).unwrap_or(i64::MAX) } else { 1 };
            self.times.iter().for_each(|ns| self.pace.note(ns / of_each.max(1)));
        }
        if samples > 1 && has_one_time {
            return sink.frames(&self.values, arrival, self.times.first().copied());
        }
        for (sample, values) in self.values.chunks_exact(self.layout.channels.len().max(1)).enumerate() {
            let record = Record { stream_ns: self.times.get(sample).copied(), truth: None };
            sink.take(record, values, arrival)?;
        }
        ControlFlow::Continue(())
    }

    /// Logs once, when enough of the stream has come, that the device's clock and the nominal rate contradict each other.
    fn judge_pace(&mut self, sink: &mut FrameSink) {
        if !self.pace_is_judged && self.pace.is_full() {
            self.pace_is_judged = true;
            let contradiction = self.pace.contradiction("packets", self.rate_hz, Some(self.clock.unit));
            contradiction.into_iter().for_each(|contradiction| sink.contradicts_itself(contradiction));
        }
    }

    /// Says in words why a packet was rejected, and what would be right.
    fn explain(&self, packet: &[u8], fault: &Fault) -> String {
        match fault {
            Fault::Length => {
                let (bytes, expected) = (packet.len(), self.layout.packet_bytes);
                let is_whole = packet
                    .split_at_checked(bytes.saturating_sub(self.checksum.bytes()))
                    .is_some_and(|(content, sum)| self.algorithm.of(content) == Some(self.order.number(sum)));
                let hint = if is_whole {
                    "; its checksum is right, so header, sample or samples_per_packet must be wrong".to_owned()
                } else {
                    format!(": {}", shown(packet))
                };
                format!("a packet has {bytes} bytes, not the {expected} of packets.header, sample and crc{hint}")
            }
            Fault::Checksum { computed, received } => {
                let digits = 2 * self.checksum.bytes();
                let hint = self.checksum_that_fits(packet).map_or_else(String::new, |(checksum, order)| {
                    let (checksum, order) = (checksum.name(), order.name());
                    format!("; it would be right with packets.crc = \"{checksum}\" and crc_order = \"{order}\"")
                });
                format!("the checksum is 0x{received:0digits$x}, but that of the bytes is 0x{computed:0digits$x}{hint}")
            }
            Fault::Number { number, place: Place::Late { last } } => {
                format!("the packet {number} came late, after the packet {last}; it is counted as lost, too")
            }
            Fault::Number { number, place: Place::SameNumber } => format!(
                "two packets in a row have the number {number}, and other bytes; packets.sequence must name a number that is \
                 one higher in each packet"
            ),
            Fault::Number { number, .. } => format!("the packet {number} came twice"),
            Fault::Time(_) => "its time is outside of what can be held; check packets.time and time_unit".to_owned(),
            Fault::NotFinite(channel) => {
                let name = self.layout.names.get(*channel).map_or("", String::as_str);
                format!("the value of `{name}` is not a finite number of 32 bits")
            }
        }
    }

    /// Returns another checksum with which the packet would be right.
    fn checksum_that_fits(&self, packet: &[u8]) -> Option<(Checksum, ByteOrder)> {
        let alike = Checksum::ALL.into_iter().filter(|other| other.bytes() == self.checksum.bytes());
        let (content, sum) = packet.split_at_checked(packet.len().checked_sub(self.checksum.bytes())?)?;
        let orders = |checksum| [ByteOrder::Little, ByteOrder::Big].map(|order| (checksum, order));
        let is_right =
            |(checksum, order): &(Checksum, ByteOrder)| checksum.algorithm().of(content) == Some(order.number(sum));
        alike.flat_map(orders).find(is_right)
    }
}

/// Undoes COBS: `frame` has no byte 0. Returns whether it is such a frame.
///
/// Source: S. Cheshire and M. Baker, Consistent Overhead Byte Stuffing, 1999.
fn unstuff(frame: &[u8], packet: &mut Vec<u8>) -> bool {
    packet.clear();
    let mut rest = frame;
    while let Some((length, after)) = rest.split_first() {
        let block = usize::from(*length).checked_sub(1).and_then(|length| after.split_at_checked(length));
        let Some((block, next)) = block else { return false };
        packet.extend_from_slice(block);
        // A longest block, and the last one, end without a zero.
        if block.len() + 1 < LONGEST_BLOCK && !next.is_empty() {
            packet.push(0);
        }
        rest = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_framed_comes_back(packet in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..1500)) {
            let mut back = Vec::new();
            prop_assert!(unstuff(&cobs::encode_vec(&packet), &mut back));
            prop_assert_eq!(back, packet);
        }

        #[test]
        fn any_bytes_are_taken_as_the_crate_cobs_takes_them(frame in prop::collection::vec(1u8..=255, 1..600)) {
            let mut packet = Vec::new();
            let is_frame = unstuff(&frame, &mut packet);
            prop_assert_eq!(is_frame.then_some(packet), cobs::decode_vec(&frame).ok());
        }
    }

    #[test]
    fn a_block_of_254_bytes_has_no_zero_after_it() {
        let mut packet = Vec::new();
        let ones = |count: usize| vec![1u8; count];
        assert!(unstuff(&[&[255][..], &ones(254), &[2, 7]].concat(), &mut packet));
        assert_eq!(packet, [ones(254), vec![7]].concat());
        assert!(unstuff(&[1, 1], &mut packet));
        assert_eq!(packet, [0]);
        assert!(!unstuff(&[3, 1], &mut packet), "its block runs past the end");
    }
}
