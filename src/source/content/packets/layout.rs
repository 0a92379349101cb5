//! Where the fields of a packet are: its header, its samples and its checksum. Pure.

use super::Packets;
use crate::source::field::{Field, Kind, Meaning, parse};

/// One number in a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number {
    /// From the beginning of the packet, or of the sample.
    pub(super) offset: usize,
    pub(super) kind: Kind,
    pub(super) scale: f64,
}

/// Where everything is in a packet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PacketLayout {
    /// The names of the channels.
    pub(super) names: Vec<String>,
    /// The channels of a sample, in the order of the names.
    pub(super) channels: Vec<Number>,
    pub(super) samples: usize,
    pub(super) header_bytes: usize,
    pub(super) sample_bytes: usize,
    /// With the checksum.
    pub(super) packet_bytes: usize,
    pub(super) time_of_packet: Option<Number>,
    pub(super) time_of_sample: Option<Number>,
    pub(super) sequence: Option<Number>,
}

/// The key at fault, and why.
type Fault = (&'static str, String);

impl Number {
    /// Returns the bits of the number in `part`, which is a packet or a sample; `None` if it ends before.
    pub(super) fn bits(&self, part: &[u8]) -> Option<u64> {
        part.get(self.offset..self.offset.checked_add(self.kind.bytes)?).map(|bytes| self.kind.bits(bytes))
    }
}

/// The fields of one part of a packet.
struct Fields {
    key: &'static str,
    fields: Vec<Field>,
}

impl Fields {
    fn parse(key: &'static str, texts: &[String]) -> Result<Self, Fault> {
        let fields: Result<Vec<Field>, String> = texts.iter().map(|text| parse(text)).collect();
        Ok(Self { key, fields: fields.map_err(|message| (key, message))? })
    }

    fn bytes(&self) -> usize {
        self.fields.iter().map(Field::bytes).sum()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter_map(Field::name)
    }

    /// Returns the field of that name.
    fn find(&self, name: &str) -> Option<Number> {
        let mut offset = 0;
        for field in &self.fields {
            if let Field::Number { name: own, kind } = field
                && own == name
            {
                return Some(Number { offset, kind: *kind, scale: 1.0 });
            }
            offset += field.bytes();
        }
        None
    }
}

impl PacketLayout {
    /// Reads the fields of `header` and `sample`.
    ///
    /// # Errors
    /// A field is not written as it must be, or what the other keys name is not a field.
    pub(super) fn new(packets: &Packets) -> Result<Self, Fault> {
        let header = Fields::parse("header", &packets.header)?;
        let sample = Fields::parse("sample", &packets.sample)?;
        let all = || header.names().chain(sample.names());
        for fields in [&header, &sample] {
            let twice = fields.names().find(|name| all().filter(|other| other == name).count() > 1);
            if let Some(name) = twice {
                return Err((fields.key, format!("two fields are called `{name}`; give each a name of its own")));
            }
        }
        let fields = || all().collect::<Vec<_>>().join(", ");
        let names = match &packets.channels {
            Some(names) => names.clone(),
            None => {
                let is_other =
                    |name: &&str| [&packets.time, &packets.sequence].iter().any(|key| key.as_deref() == Some(*name));
                sample.names().filter(|name| !is_other(name)).map(str::to_owned).collect()
            }
        };
        if names.is_empty() {
            let key = if packets.channels.is_some() { "channels" } else { "sample" };
            return Err((key, "a sample needs a field for the model, such as \"ax: i16le\"".to_owned()));
        }
        if let Some((_, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(("channels", format!("`{name}` is named twice")));
        }
        let number = |key: &'static str, name: &str| {
            let found = header.find(name).map(|number| (number, true));
            let found = found.or_else(|| sample.find(name).map(|number| (number, false)));
            found.ok_or_else(|| (key, format!("there is no field `{name}`; the fields are {}", fields())))
        };
        let mut channels = Vec::with_capacity(names.len());
        for name in &names {
            let (number, in_header) = number("channels", name)?;
            if in_header {
                let message =
                    format!("`{name}` is a field of the header; move it to sample, since each sample needs a value");
                return Err(("channels", message));
            }
            channels.push(Number { scale: packets.scales.get(name).copied().unwrap_or(packets.scale), ..number });
        }
        let time = packets.time.as_deref().map(|name| number("time", name)).transpose()?;
        if time.is_some_and(|(time, _)| time.kind.meaning == Meaning::Float && time.kind.bytes == 4) {
            let message =
                "a number of 32 bits with a fraction has too few digits for a time; send an integer, or f64le";
            return Err(("time", message.to_owned()));
        }
        let sequence = packets.sequence.as_deref().map(|name| number("sequence", name)).transpose()?;
        if sequence.is_some_and(|(sequence, _)| sequence.kind.meaning != Meaning::Unsigned) {
            return Err(("sequence", "packets are counted with integers without a sign, such as u16le".to_owned()));
        }
        if sequence.is_some_and(|(_, in_header)| !in_header) && packets.samples_per_packet > 1 {
            return Err(("sequence", "it counts packets, not samples; move its field to header".to_owned()));
        }
        for (key, number) in [("time", time), ("sequence", sequence)] {
            if number.is_some_and(|(number, _)| number.kind.shift > 0) {
                return Err((key, "it is read with all its bits; leave `>>` out of its field".to_owned()));
            }
        }
        if packets.time.is_some() && packets.time == packets.sequence {
            return Err(("sequence", "it names the field of the time; leave it out, or name another field".to_owned()));
        }
        let (header_bytes, sample_bytes) = (header.bytes(), sample.bytes());
        let time_in = |in_header: bool| time.filter(|(_, is)| *is == in_header).map(|(number, _)| number);
        // With one sample a packet, the sample begins where the header ends.
        let from_packet = |(number, in_header): (Number, bool)| match in_header {
            true => number,
            false => Number { offset: header_bytes + number.offset, ..number },
        };
        Ok(Self {
            names,
            channels,
            samples: packets.samples_per_packet,
            header_bytes,
            sample_bytes,
            packet_bytes: header_bytes
                .saturating_add(sample_bytes.saturating_mul(packets.samples_per_packet))
                .saturating_add(packets.crc.bytes()),
            time_of_packet: time_in(true),
            time_of_sample: time_in(false),
            sequence: sequence.map(from_packet),
        })
    }
}
