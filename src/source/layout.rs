//! Where the values of a frame stand among bytes, and what they become.
//!
//! Leaves to `field` how a field is written, and to each source where its bytes come from. Pure; allocates nothing after it
//! is built.

use std::collections::BTreeMap;

use super::field::{Field, Kind, parse};
use crate::schema::{Checker, Key};

/// Far above any real use.
const MAX_BYTES: usize = 4096;

/// Fields that follow each other without gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldLayout {
    channels: Vec<Channel>,
    bytes: usize,
}

/// One value: where it stands and what it becomes.
#[derive(Debug, Clone, PartialEq)]
struct Channel {
    name: String,
    offset: usize,
    kind: Kind,
    scale: f64,
    add: f64,
}

impl FieldLayout {
    /// Reads the fields, each as [`parse`] wants it.
    ///
    /// # Errors
    /// The index of the field that is wrong, and why.
    pub fn parse(texts: &[String]) -> Result<Self, (usize, String)> {
        let (mut channels, mut bytes) = (Vec::<Channel>::new(), 0_usize);
        for (index, text) in texts.iter().enumerate() {
            let field = parse(text).map_err(|message| (index, message))?;
            let offset = bytes;
            bytes += field.bytes();
            if bytes > MAX_BYTES {
                return Err((index, format!("with this field there are {bytes} bytes; the limit is {MAX_BYTES}")));
            }
            let Field::Number { name, kind } = field else { continue };
            if channels.iter().any(|channel| channel.name == name) {
                return Err((index, format!("two fields are called `{name}`; give each a name of its own")));
            }
            channels.push(Channel { name, offset, kind, scale: 1.0, add: 0.0 });
        }
        match channels.is_empty() {
            true => Err((0, "there is no field for the model; write one such as \"ax: i16be\"".to_owned())),
            false => Ok(Self { channels, bytes }),
        }
    }

    /// Scales the values: `value * scale + offset`. A key of `scales` and `offsets` is the name of a channel, or what the
    /// names of several begin with; the longest one that fits counts. Channels without one have `scale`, and no offset.
    #[must_use]
    pub fn scaled(mut self, scale: f64, scales: &BTreeMap<String, f64>, offsets: &BTreeMap<String, f64>) -> Self {
        for channel in &mut self.channels {
            channel.scale = of(scales, &channel.name).copied().unwrap_or(scale);
            channel.add = of(offsets, &channel.name).copied().unwrap_or(0.0);
        }
        self
    }

    /// Returns the names of the channels, in the order of the values.
    pub fn names(&self) -> Vec<String> {
        self.channels.iter().map(|channel| channel.name.clone()).collect()
    }

    /// Returns what `units` says for each channel; nothing if it says nothing.
    pub fn units(&self, units: &BTreeMap<String, String>) -> Vec<String> {
        match units.is_empty() {
            true => Vec::new(),
            false => {
                self.channels.iter().map(|channel| of(units, &channel.name).cloned().unwrap_or_default()).collect()
            }
        }
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Returns the number of bytes of one frame.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts the values of one frame into `values`, one for each channel. Bytes that are missing leave values as they are.
    pub fn decode(&self, bytes: &[u8], values: &mut [f32]) {
        for (channel, value) in self.channels.iter().zip(values) {
            if let Some(bytes) = bytes.get(channel.offset..channel.offset + channel.kind.bytes) {
                *value = (channel.kind.number(channel.kind.bits(bytes)) * channel.scale + channel.add) as f32;
            }
        }
    }

    /// Reports each key of `map`, a table at `key`, that has no effect: no channel's name begins with it, or all of these have
    /// a longer key.
    pub fn check_names<T>(&self, map: &BTreeMap<String, T>, key: &Key, checker: &mut Checker) {
        for name in map.keys() {
            let mut begun = self.channels.iter().filter(|channel| channel.name.starts_with(name.as_str())).peekable();
            let problem = if begun.peek().is_none() {
                let names = self.names().join(", ");
                format!("no channel has a name that begins with `{name}`; the channels are {names}")
            } else if begun.all(|channel| longest(map, &channel.name).is_some_and(|(longest, _)| longest != name)) {
                format!("all channels whose names begin with `{name}` have a longer key here; leave it out")
            } else {
                continue;
            };
            checker.problem(&key.child(name), problem);
        }
    }
}

/// Returns the value whose key is the longest beginning of `name`.
fn of<'m, T>(map: &'m BTreeMap<String, T>, name: &str) -> Option<&'m T> {
    longest(map, name).map(|(_, value)| value)
}

fn longest<'m, T>(map: &'m BTreeMap<String, T>, name: &str) -> Option<(&'m String, &'m T)> {
    map.iter().filter(|(key, _)| name.starts_with(key.as_str())).max_by_key(|(key, _)| key.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(lines: &[&str]) -> Result<FieldLayout, (usize, String)> {
        FieldLayout::parse(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    fn values(lines: &[&str], bytes: &[u8]) -> Vec<f32> {
        let layout = layout(lines).unwrap();
        let mut values = vec![0.0; layout.channels()];
        layout.decode(bytes, &mut values);
        values
    }

    #[test]
    fn fields_follow_each_other_without_gaps() {
        let bytes = [0x80, 0x01, 0x02, 0x03];
        assert_eq!(values(&["a: u8", "skip: 2", "b: i8"], &bytes), [128.0, 3.0]);
        assert_eq!(values(&["a: i16be >> 4", "b: i16le"], &bytes), [-2048.0, 770.0]);
        assert_eq!(values(&["a: u8", "b: u32be"], &bytes), [128.0, 0.0], "what is missing is not made up");
    }

    #[test]
    fn the_longest_beginning_of_a_name_counts() {
        let map = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let layout = layout(&["ax: i8", "ay: i8", "gx: i8", "t: i8"]).unwrap();
        let units = [("a", "g"), ("g", "deg/s")].map(|(name, unit)| (name.to_owned(), unit.to_owned())).into();
        assert_eq!(layout.units(&units), ["g", "g", "deg/s", ""]);
        assert_eq!(layout.units(&BTreeMap::new()), [""; 0]);
        let layout = layout.scaled(4.0, &map(&[("a", 2.0), ("ay", 0.5)]), &map(&[("t", 36.5)]));
        let mut values = [0.0; 4];
        layout.decode(&[1, 2, 3, 4], &mut values);
        assert_eq!(values, [2.0, 1.0, 12.0, 52.5]);
        let mut checker = Checker::new(std::path::Path::new(""));
        layout.check_names(&map(&[("a", 1.0), ("b", 1.0)]), &Key::new(&["scale"]), &mut checker);
        let problems = checker.finish(Some(())).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key.to_string(), "scale.b");
        let mut checker = Checker::new(std::path::Path::new(""));
        layout.check_names(
            &map(&[("a", 1.0), ("ax", 2.0), ("ay", 3.0), ("g", 4.0)]),
            &Key::new(&["scale"]),
            &mut checker,
        );
        let problems = checker.finish(Some(())).unwrap_err();
        assert_eq!((problems.len(), problems[0].key.to_string().as_str()), (1, "scale.a"));
        assert!(problems[0].message.contains("have a longer key here"), "{}", problems[0].message);
    }

    #[test]
    fn what_is_not_a_field_is_refused_with_its_place() {
        for (text, part) in [
            ("ax i16be", "write \"NAME: TYPE\""),
            ("ax: i16", "does not say which byte comes first"),
            ("x: u8", "two fields are called `x`"),
            ("skip: 4096", "there are 4097 bytes; the limit is 4096"),
        ] {
            let (index, message) = layout(&["x: i8", text]).unwrap_err();
            assert!(index == 1 && message.contains(part), "{text}: {message}");
        }
        assert!(layout(&[]).is_err() && layout(&["skip: 4"]).is_err());
    }

    proptest! {
        #[test]
        fn a_number_is_what_was_written(number: i32, scale in 1e-6f64..1e3, is_big: bool) {
            let bytes = if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
            let order = if is_big { "be" } else { "le" };
            let of = |bits: usize| {
                let start = if is_big { 4 - bits / 8 } else { 0 };
                let layout = layout(&[&format!("skip: {}", start.max(1)), &format!("x: i{bits}{order}")]).unwrap();
                let layout = layout.scaled(scale, &BTreeMap::new(), &BTreeMap::new());
                let mut value = [0.0];
                let shifted: Vec<u8> = if start == 0 { [&[0][..], &bytes].concat() } else { bytes.to_vec() };
                layout.decode(&shifted, &mut value);
                value[0]
            };
            prop_assert_eq!(of(32), (f64::from(number) * scale) as f32);
            prop_assert_eq!(of(16), (f64::from(number as i16) * scale) as f32);
            prop_assert_eq!(of(24), (f64::from(number << 8 >> 8) * scale) as f32);
        }
    }
}
