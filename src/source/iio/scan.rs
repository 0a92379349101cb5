//! What a record of an IIO buffer holds, and how its numbers are read. Pure.
//!
//! Source: `Documentation/ABI/testing/sysfs-bus-iio` (the `_type` and `_index` files) and `iio_compute_scan_bytes` in
//! `drivers/iio/industrialio-buffer.c` (where each element begins).

use std::str::FromStr;

use crate::source::field::{Meaning, bits, sign_extended};

/// How an element of a record is stored, such as `le:s12/16>>4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ElementType {
    pub(super) big_endian: bool,
    pub(super) meaning: Meaning,
    /// The bits of the number. Those above it hold anything.
    pub(super) real_bits: u32,
    pub(super) storage_bits: u32,
    /// The numbers of the element, such as 4 of a quaternion.
    pub(super) repeat: usize,
    /// The bits below the number.
    pub(super) shift: u32,
}

impl ElementType {
    /// Returns the bytes of one of its numbers.
    pub(super) fn number_bytes(&self) -> usize {
        self.storage_bits as usize / 8
    }

    /// Returns the bytes of the element.
    fn bytes(&self) -> usize {
        self.number_bytes() * self.repeat
    }

    /// Returns the bits of the number that begins with `bytes`, without those around it; 0 if there are too few bytes.
    fn bits(&self, bytes: &[u8]) -> u64 {
        let bytes = bytes.get(..self.number_bytes()).unwrap_or_default();
        bits(bytes, self.big_endian) >> self.shift & (u64::MAX >> (64 - self.real_bits))
    }

    /// Returns the number that begins with `bytes`.
    pub(super) fn decode(&self, bytes: &[u8]) -> f64 {
        self.meaning.number(self.bits(bytes), self.real_bits)
    }

    /// Returns the number that begins with `bytes` as a signed one, which a time is.
    pub(super) fn decode_integer(&self, bytes: &[u8]) -> i64 {
        sign_extended(self.bits(bytes), self.real_bits)
    }
}

impl FromStr for ElementType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = parse(text.trim());
        let is_valid = |kind: &Self| {
            let fits = kind.real_bits >= 1 && kind.shift.saturating_add(kind.real_bits) <= kind.storage_bits;
            let is_float = kind.meaning == Meaning::Float;
            let is_whole = !is_float || (kind.real_bits == kind.storage_bits && kind.real_bits >= 32);
            [8, 16, 32, 64].contains(&kind.storage_bits) && fits && is_whole && (1..=64).contains(&kind.repeat)
        };
        parsed
            .filter(is_valid)
            .ok_or_else(|| format!("{text:?} is not a type of numbers that edgewatt knows, such as le:s16/16>>0"))
    }
}

fn parse(text: &str) -> Option<ElementType> {
    let (order, rest) = text.split_once(':')?;
    let big_endian = match order {
        "be" => true,
        "le" => false,
        _ => return None,
    };
    let (rest, shift) = rest.split_once(">>").unwrap_or((rest, "0"));
    let (real, storage) = rest.split_once('/')?;
    let meaning = match real.chars().next()? {
        's' => Meaning::Signed,
        'u' => Meaning::Unsigned,
        'f' => Meaning::Float,
        _ => return None,
    };
    let (storage, repeat) = storage.split_once('X').unwrap_or((storage, "1"));
    let whole = |digits: &str| digits.parse::<u32>().ok();
    Some(ElementType {
        big_endian,
        meaning,
        real_bits: whole(real.get(1..)?)?,
        storage_bits: whole(storage)?,
        repeat: usize::try_from(whole(repeat)?).ok()?,
        shift: whole(shift)?,
    })
}

/// A channel whose elements are in the records of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) channel: String,
    pub(super) index: u32,
    pub(super) kind: ElementType,
}

/// Where the elements of a record are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScanLayout {
    /// Each element with the byte at which it begins, in the order of the record.
    places: Vec<(Element, usize)>,
    pub(super) record_bytes: usize,
}

impl ScanLayout {
    /// Returns the layout of records that hold these elements, whose order is that of their indices. Each element is
    /// aligned to its own size, and the record to that of its largest one.
    pub(super) fn new(mut elements: Vec<Element>) -> Self {
        elements.sort_by_key(|element| element.index);
        let (mut end, mut largest) = (0usize, 1);
        let mut places = Vec::with_capacity(elements.len());
        for element in elements {
            let bytes = element.kind.bytes();
            let alignment = bytes.next_power_of_two();
            let begin = end.next_multiple_of(alignment);
            end = begin + bytes;
            largest = alignment.max(largest);
            places.push((element, begin));
        }
        Self { places, record_bytes: end.next_multiple_of(largest) }
    }

    /// Returns the type of a channel, and the byte of the record at which it begins.
    pub(super) fn find(&self, channel: &str) -> Option<(ElementType, usize)> {
        let place = self.places.iter().find(|(element, _)| element.channel == channel);
        place.map(|(element, begin)| (element.kind, *begin))
    }

    /// Returns the names of the channels in the order of the record.
    pub(super) fn channels(&self) -> Vec<&str> {
        self.places.iter().map(|(element, _)| element.channel.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(channel: &str, index: u32, kind: &str) -> Element {
        Element { channel: channel.to_owned(), index, kind: kind.parse().unwrap() }
    }

    #[test]
    fn types_of_real_drivers_are_read_and_nonsense_is_refused() {
        let kind: ElementType = "le:s12/16>>4\n".parse().unwrap();
        assert_eq!((kind.real_bits, kind.storage_bits, kind.shift, kind.repeat), (12, 16, 4, 1));
        let quaternion: ElementType = "le:s32/32X4>>0".parse().unwrap();
        assert_eq!((quaternion.repeat, quaternion.bytes()), (4, 16));
        for text in ["be:u24/32>>8", "le:s64/64>>0", "le:u8/8>>0", "le:f32/32>>0", "be:s16/16"] {
            assert!(text.parse::<ElementType>().is_ok(), "{text}");
        }
        let nonsense =
            ["", "le", "xe:s16/16>>0", "le:q16/16>>0", "le:s17/16>>0", "le:s16/16>>1", "le:s16/24>>0", "le:s0/8>>0"];
        for text in nonsense.into_iter().chain(["le:s16/16X0>>0", "le:f16/16>>0", "le:s-1/16>>0", "le:s99999999999/8"])
        {
            assert!(text.parse::<ElementType>().unwrap_err().contains("such as le:s16/16"), "{text}");
        }
    }

    #[test]
    fn the_record_of_an_accelerometer_with_a_time_has_its_padding() {
        // As hid-sensor-accel-3d has it: 3 x 4 bytes, 4 of padding, 8 of time.
        let layout = ScanLayout::new(vec![
            element("timestamp", 3, "le:s64/64>>0"),
            element("accel_z", 2, "le:s16/32>>0"),
            element("accel_x", 0, "le:s16/32>>0"),
            element("accel_y", 1, "le:s16/32>>0"),
        ]);
        assert_eq!(layout.channels(), ["accel_x", "accel_y", "accel_z", "timestamp"]);
        assert_eq!((layout.record_bytes, layout.find("timestamp").unwrap().1), (24, 16));
        // The upper half of x holds y.
        let (kind, begin) = layout.find("accel_x").unwrap();
        assert_eq!((begin, kind.decode(&[0xfe, 0xff, 0x34, 0x12])), (0, -2.0));
        assert_eq!(layout.find("accel_w"), None);
    }

    #[test]
    fn elements_of_other_sizes_are_aligned_to_their_own() {
        let layout = ScanLayout::new(vec![
            element("a", 0, "le:u8/8>>0"),
            element("rot_quaternion", 1, "le:s32/32X4>>0"),
            element("b", 5, "be:s16/16>>0"),
        ]);
        assert_eq!(layout.find("rot_quaternion").unwrap().1, 16);
        assert_eq!((layout.find("b").unwrap().1, layout.record_bytes), (32, 48));
        assert_eq!(ScanLayout::new(Vec::new()).record_bytes, 0);
        let six = (0..6).map(|index| element(&format!("c{index}"), index, "be:s16/16>>0")).collect();
        assert_eq!(ScanLayout::new(six).record_bytes, 12, "without a time there is no padding");
    }

    /// The number at a place of a record, by taking its bits one by one.
    fn model(kind: &ElementType, bytes: &[u8]) -> i128 {
        let storage = kind.storage_bits as usize;
        let bit = |place: usize| {
            let (byte, bit) = (place / 8, place % 8);
            let byte = if kind.big_endian { storage / 8 - 1 - byte } else { byte };
            i128::from(bytes[byte] >> bit & 1)
        };
        let (real, shift) = (kind.real_bits as usize, kind.shift as usize);
        let unsigned: i128 = (0..real).map(|place| bit(shift + place) << place).sum();
        let is_negative = kind.meaning == Meaning::Signed && bit(shift + real - 1) == 1;
        if is_negative { unsigned - (1 << real) } else { unsigned }
    }

    /// Any type as the kernel writes it.
    fn types() -> impl Strategy<Value = String> {
        (prop::sample::select(vec![8u32, 16, 32, 64]), any::<bool>(), any::<bool>(), 1usize..5)
            .prop_flat_map(|(storage, big, signed, repeat)| {
                (1..=storage).prop_flat_map(move |real| {
                    (0..=storage - real).prop_map(move |shift| {
                        let repeat = if repeat == 1 { String::new() } else { format!("X{repeat}") };
                        let (order, sign) = (if big { "be" } else { "le" }, if signed { "s" } else { "u" });
                        format!("{order}:{sign}{real}/{storage}{repeat}>>{shift}")
                    })
                })
            })
            .boxed()
    }

    proptest! {
        #[test]
        fn every_type_at_every_place_is_the_number_of_its_bits(
            kinds in prop::collection::vec(types(), 1..7),
            rubbish in prop::collection::vec(any::<u8>(), 600),
            has_time in any::<bool>(),
        ) {
            let mut elements: Vec<Element> = kinds.iter().enumerate()
                .map(|(index, kind)| element(&format!("c{index}"), index as u32 * 2, kind)).collect();
            if has_time {
                elements.push(element("timestamp", 99, "le:s64/64>>0"));
            }
            let layout = ScanLayout::new(elements.clone());
            let mut end = 0;
            for element in &elements {
                let (kind, begin) = layout.find(&element.channel).unwrap();
                prop_assert!(begin >= end && begin - end < kind.bytes().next_power_of_two(), "the least padding");
                prop_assert_eq!(begin % kind.bytes().next_power_of_two(), 0);
                end = begin + kind.bytes();
                for part in 0..kind.repeat {
                    let bytes = &rubbish[begin + part * kind.number_bytes()..];
                    let expected = model(&kind, bytes);
                    prop_assert_eq!(kind.decode(bytes), expected as f64);
                    if kind.meaning == Meaning::Signed {
                        prop_assert_eq!(i128::from(kind.decode_integer(bytes)), expected);
                    }
                }
            }
            prop_assert!(layout.record_bytes >= end);
            if has_time {
                prop_assert_eq!(layout.record_bytes % 8, 0);
            }
        }

        #[test]
        fn no_text_makes_the_reading_of_a_type_panic(text in "\\PC{0,20}") {
            if let Ok(kind) = text.parse::<ElementType>() {
                kind.decode(&[0xff; 8]);
                kind.decode(&[]);
            }
        }
    }
}
