//! Binary packets of one fixed layout, as microcontrollers send them: framed by COBS, mostly with a checksum.
//!
//! Owns the keys and their check. `field` says where the numbers are, `layout` where the fields of a packet are, `decoder`
//! finds packets in bytes. Packets are untrusted: whatever they contain, the result is samples or a reason to reject it.

mod checksum;
mod decoder;
mod layout;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::layout::Layout;
use super::{ContentKind, Decoder};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, table};
use crate::source::TruthLabels;
use crate::source::records::TimeUnit;
use crate::stream::{Content, SampleType, Shape, StreamSpec};

pub use checksum::{ByteOrder, Checksum};
pub use decoder::PacketDecoder;

/// Far above any real use.
const MAX_SAMPLES: usize = 4096;
const MAX_PACKET_BYTES: usize = 16 * 1024;

table! {
    /// Binary packets. Each is framed by COBS, so that it has no byte 0, and ends with a byte 0. A packet has the fields of
    /// `header`, then one or more samples, then the checksum.
    pub struct Packets {
        /// The fields of one sample, in the order in which they are sent, each "NAME: TYPE". Types are u8, i8, u16le, i16le,
        /// u24le, i24le, u32le, i32le, u64le, i64le, f32le and f64le, or with "be" for the high byte first. "skip: 2" passes
        /// over two bytes.
        pub sample: Vec<String>, example("[\"ax: i16le\", \"ay: i16le\", \"az: i16le\"]");
        /// The checksum over all bytes before it; docs/sources.md tells them apart.
        pub crc: Checksum, example("\"crc16-modbus\"");
        /// Which byte of the checksum is sent first: "le" for the low one, "be" for the high one.
        pub crc_order: ByteOrder = ByteOrder::Little;
        /// The fields before the first sample, such as a time.
        pub header: Vec<String> = Vec::new(), otherwise("none"), example("[\"sequence: u16le\", \"time: u32le\"]");
        /// The number of samples in a packet, one after the other.
        pub samples_per_packet: usize = 1, range(1, MAX_SAMPLES);
        /// The fields that the model gets, in the order in which it wants them.
        pub channels: Option<Vec<String>>, otherwise("all fields of `sample` except the time and the sequence"),
            example("[\"az\", \"ax\"]");
        /// The number that each channel is multiplied with.
        pub scale: f64 = 1.0;
        /// Other such numbers for single channels.
        pub scales: BTreeMap<String, f64> = BTreeMap::new(), otherwise("none"), example("{ az = 0.001 }");
        /// The nominal number of samples in a second. It sets the longest step in time that is not a gap, and the size of the
        /// buffer.
        pub rate_hz: Option<f64>, range(1e-6, 1e9), unit("Hz"), otherwise("unknown"), example("100.0");
        /// The field with the device's own time. In `header`, it is the time of the first sample. An integer that starts again
        /// from 0 after its highest value goes on without a gap. Without it no gap in time can be seen.
        pub time: Option<String>, otherwise("none"), example("\"time\"");
        /// The unit of that field: `micros()` of an Arduino is "us", `millis()` is "ms".
        pub time_unit: Option<TimeUnit>, otherwise("none; `time` needs it"), example("\"us\"");
        /// The integer that is one higher in each packet. It shows which packets are missing, and which came twice.
        pub sequence: Option<String>, otherwise("none"), example("\"sequence\"");
    }
}

impl ContentKind for Packets {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        let layout = match Layout::new(self) {
            Ok(layout) => layout,
            Err((name, message)) => return checker.problem(&key.child(name), message),
        };
        if layout.packet_bytes > MAX_PACKET_BYTES {
            let message = format!("a packet would have {} bytes; the limit is {MAX_PACKET_BYTES}", layout.packet_bytes);
            checker.problem(&key.child("samples_per_packet"), message);
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            checker.problem(&key.child("scale"), format!("{} is not a scale; write a number other than 0", self.scale));
        }
        for (name, scale) in &self.scales {
            let key = key.child("scales").child(name);
            if !layout.names.contains(name) {
                let channels = layout.names.join(", ");
                checker.problem(&key, format!("there is no channel of that name; channels are {channels}"));
            }
            if !scale.is_finite() || *scale == 0.0 {
                checker.problem(&key, format!("{scale} is not a scale; write a number other than 0"));
            }
        }
        match (&self.time, self.time_unit) {
            (Some(_), None) => {
                let message = "say in which unit the time is: time_unit = \"us\" for micros(), \"ms\" for millis()";
                checker.problem(&key.child("time"), message);
            }
            (None, Some(_)) => {
                checker.problem(&key.child("time_unit"), "no field has the time; name it with time, or leave this out");
            }
            _ => {}
        }
        if self.samples_per_packet > 1 && layout.time_of_packet.is_some() && self.rate_hz.is_none() {
            let message = "the packet has one time for several samples; write rate_hz, so that each gets its own";
            checker.problem(&key.child("rate_hz"), message);
        }
    }

    fn spec(&self) -> StreamSpec {
        let names = Layout::new(self).map(|layout| layout.names).unwrap_or_default();
        StreamSpec {
            frame: Shape::new([names.len()]),
            sample: SampleType::F32,
            rate_hz: self.rate_hz,
            names,
            units: Vec::new(),
            content: Content::Samples,
        }
    }

    fn decoder(&self, _labels: TruthLabels) -> Decoder {
        // Its check has refused a layout that cannot be used; the empty one rejects every packet.
        Decoder::Packets(Box::new(PacketDecoder::new(self, Layout::new(self).unwrap_or_default())))
    }

    fn has_time(&self) -> bool {
        self.time.is_some()
    }

    fn frames_per_block(&self) -> usize {
        self.samples_per_packet
    }
}
