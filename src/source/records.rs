//! Turns a line of text, CSV or NDJSON, into a sample, and checks each channel.
//!
//! Lines are untrusted: whatever they contain, the result is a sample or a reason to reject it. Allocates nothing for a
//! line once the buffers have grown to the longest one.

use std::collections::BTreeMap;
use std::fmt;

use fast_float2::FastFloat;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::fields::Fields;
use super::truth::{TruthLabels, TruthReader, TruthSeen};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{SampleType, Shape, StreamSpec};

/// Far above any real use.
const MAX_CHANNELS: usize = 4096;

choice! {
    /// How a line of text holds a record.
    #[derive(Default)]
    pub enum Format {
        #[default]
        Csv = "csv",
        /// One JSON object a line.
        Ndjson = "ndjson",
    }
}

choice! {
    /// The unit of a column of time.
    #[derive(Default)]
    pub enum TimeUnit {
        #[default]
        S = "s",
        Ms = "ms",
        Us = "us",
        Ns = "ns",
    }
}

impl TimeUnit {
    /// Returns the number of nanoseconds in this unit.
    pub fn ns(self) -> f64 {
        match self {
            Self::S => 1e9,
            Self::Ms => 1e6,
            Self::Us => 1e3,
            Self::Ns => 1.0,
        }
    }
}

table! {
    /// What one line of text holds. Each line is one sample of all channels.
    pub struct Records {
        /// The columns that the model gets, in the order in which it wants them.
        pub channels: Vec<String>, example("[\"ax\", \"ay\", \"az\"]");
        /// The form of a line: "csv", or "ndjson" for one JSON object a line.
        pub format: Format = Format::Csv;
        /// Whether the first line of CSV names the columns; if not, `columns` must name them.
        pub header: Option<bool>, otherwise("`true`, unless `columns` is written"), example("true");
        /// The names of all columns of CSV without a header, in order.
        pub columns: Option<Vec<String>>, otherwise("those of the first line"), example("[\"time_s\", \"ax\", \"ay\", \"az\"]");
        /// The nominal number of samples in a second. It sets the pace of a recording without a time column, the longest
        /// step in time that is not a gap, and the size of the buffer.
        pub rate_hz: Option<f64>, range(1e-6, 1e9), unit("Hz"), otherwise("unknown"), example("50.0");
        /// The column with the stream's own time. Without it no gap in time can be seen.
        pub time: Option<String>, otherwise("none"), example("\"time_s\"");
        /// The unit of the time column.
        pub time_unit: TimeUnit = TimeUnit::S;
        /// The column with the true label, which is published beside each prediction.
        pub truth: Option<String>, otherwise("none"), example("\"exercise\"");
        /// The lowest and the highest value of a channel. Samples outside are rejected and counted.
        pub limits: BTreeMap<String, [f32; 2]> = BTreeMap::new(), otherwise("none"), example("{ ax = [-16.0, 16.0] }");
    }
}

impl Records {
    /// Returns the columns in use: the channels, the time and the truth.
    fn used(&self) -> impl Iterator<Item = &String> {
        self.channels.iter().chain(&self.time).chain(&self.truth)
    }

    pub fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        let count = self.channels.len();
        if count == 0 || count > MAX_CHANNELS {
            checker.problem(&key.child("channels"), format!("name 1 to {MAX_CHANNELS} columns; there are {count}"));
        }
        let mut names: Vec<&String> = self.used().collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            checker.problem(key, format!("column `{}` is used twice in channels, time and truth", twice[0]));
        }
        for (name, [low, high]) in &self.limits {
            let key = key.child("limits").child(name);
            if !self.channels.contains(name) {
                let channels = self.channels.join(", ");
                checker.problem(&key, format!("there is no channel of that name; channels are {channels}"));
            }
            if low.partial_cmp(high) != Some(std::cmp::Ordering::Less) {
                checker.problem(&key, format!("[{low}, {high}] is empty; write [lowest, highest]"));
            }
        }
        self.check_columns(key, checker);
    }

    /// Checks where the names of the columns come from.
    fn check_columns(&self, key: &Key, checker: &mut Checker) {
        match (&self.columns, self.format) {
            (_, Format::Ndjson) if self.header.is_some() => {
                let message = "NDJSON has no header: each line names its own fields; leave header out";
                checker.problem(&key.child("header"), message);
            }
            (Some(_), Format::Ndjson) => {
                checker.problem(&key.child("columns"), "NDJSON names its own fields; leave columns out");
            }
            (Some(_), Format::Csv) if self.has_header() => {
                let message = "the header names the columns; leave columns out or set header = false";
                checker.problem(&key.child("columns"), message);
            }
            (Some(columns), Format::Csv) => {
                for name in self.used() {
                    if !columns.contains(name) {
                        checker.problem(&key.child("columns"), format!("`{name}` is used but not among the columns"));
                    }
                }
            }
            (None, Format::Csv) if !self.has_header() => {
                checker.problem(key, "lines without a header need columns = [\"...\"], all of them in order");
            }
            (None, _) => {}
        }
    }

    /// Returns whether the first line names the columns.
    pub fn has_header(&self) -> bool {
        self.format == Format::Csv && self.header.unwrap_or(self.columns.is_none())
    }

    /// Returns the stream that is made from such lines.
    pub fn spec(&self) -> StreamSpec {
        StreamSpec {
            frame: Shape::new([self.channels.len()]),
            sample: SampleType::F32,
            rate_hz: self.rate_hz,
            names: self.channels.clone(),
            units: Vec::new(),
        }
    }
}

/// Why a line is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Not CSV with the right number of columns, not a JSON object, or a value that is not a number.
    Malformed,
    /// A channel or the time is missing.
    Missing,
    /// NaN or infinite.
    NotFinite,
    /// Outside the channel's limits.
    OutOfRange,
    /// Longer than [`super::line_reader::MAX_LINE_BYTES`].
    TooLong,
    /// The stream ended inside the line.
    Unterminated,
    /// A writer's first line does not name the columns in use.
    Header,
}

impl Reject {
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Missing,
        Self::NotFinite,
        Self::OutOfRange,
        Self::TooLong,
        Self::Unterminated,
        Self::Header,
    ];

    /// Returns the name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::NotFinite => "not_finite",
            Self::OutOfRange => "out_of_range",
            Self::TooLong => "too_long",
            Self::Unterminated => "unterminated",
            Self::Header => "header",
        }
    }
}

/// A header that does not name every column in use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the header has no column {missing}; it has {found}")]
pub struct HeaderError {
    pub missing: String,
    pub found: String,
}

/// A sample's time and true class; its values are in [`RecordParser::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub stream_ns: Option<i64>,
    /// Index into the model's labels; `None` if the record has no label or an unknown one.
    pub truth: Option<u16>,
}

/// The use of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Channel(usize),
    Time,
    Truth,
    Unused,
}

pub struct RecordParser {
    records: Records,
    /// Lowest and highest value of each channel.
    limits: Vec<[f32; 2]>,
    time_unit_ns: f64,
    truth: TruthReader,
    /// One role for each CSV column; empty until the header was read.
    roles: Vec<Role>,
    values: Vec<f32>,
    fields: Fields,
}

impl RecordParser {
    /// `labels` are the classes that the truth column may name.
    pub fn new(records: Records, labels: impl Into<TruthLabels>) -> Self {
        let limit = |channel| records.limits.get(channel).copied().unwrap_or([f32::MIN, f32::MAX]);
        let mut parser = Self {
            limits: records.channels.iter().map(limit).collect(),
            time_unit_ns: records.time_unit.ns(),
            values: vec![0.0; records.channels.len()],
            truth: TruthReader::new(labels.into()),
            roles: Vec::new(),
            fields: Fields::default(),
            records,
        };
        parser.roles = parser.records.columns.iter().flatten().map(|name| parser.role(name)).collect();
        parser
    }

    /// The first line of each stream names the columns.
    pub fn wants_header(&self) -> bool {
        self.records.has_header()
    }

    /// Returns the values of the last sample, one for each channel.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns what the truth column has named so far.
    pub fn truth_seen(&self) -> &TruthSeen {
        &self.truth.seen
    }

    /// Learns the columns from a header line.
    pub fn header(&mut self, line: &[u8]) -> Result<(), HeaderError> {
        let count = self.fields.split(line);
        let names: Vec<String> =
            (0..count).map(|i| String::from_utf8_lossy(self.fields.get(i)).trim().to_owned()).collect();
        let missing: Vec<String> =
            self.records.used().filter(|name| !names.contains(name)).map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(HeaderError { missing: missing.join(", "), found });
        }
        self.roles = names.iter().map(|name| self.role(name)).collect();
        Ok(())
    }

    /// Reads a line, with or without its newline; [`RecordParser::values`] then returns its values.
    pub fn parse(&mut self, line: &[u8]) -> Result<Record, Reject> {
        let record = match self.records.format {
            Format::Csv => self.parse_csv(line)?,
            Format::Ndjson => self.parse_json(line)?,
        };
        for (value, [low, high]) in self.values.iter().zip(&self.limits) {
            if !value.is_finite() {
                return Err(Reject::NotFinite);
            }
            if value < low || value > high {
                return Err(Reject::OutOfRange);
            }
        }
        Ok(record)
    }

    fn role(&self, name: &str) -> Role {
        if let Some(channel) = self.records.channels.iter().position(|c| c == name) {
            Role::Channel(channel)
        } else if self.records.time.as_deref() == Some(name) {
            Role::Time
        } else if self.records.truth.as_deref() == Some(name) {
            Role::Truth
        } else {
            Role::Unused
        }
    }

    fn parse_csv(&mut self, line: &[u8]) -> Result<Record, Reject> {
        let count = self.fields.split(line);
        if count < self.roles.len() {
            return Err(Reject::Missing);
        }
        if count > self.roles.len() {
            return Err(Reject::Malformed);
        }
        let mut record = Record { stream_ns: None, truth: None };
        for column in 0..count {
            let role = self.roles[column];
            if role == Role::Unused {
                continue;
            }
            let text = self.fields.get(column).trim_ascii();
            match role {
                Role::Channel(channel) => self.values[channel] = number(text)?,
                Role::Time => record.stream_ns = Some(nanoseconds(number(text)?, self.time_unit_ns)?),
                Role::Truth => record.truth = self.truth.class(text),
                Role::Unused => {}
            }
        }
        Ok(record)
    }

    fn parse_json(&mut self, line: &[u8]) -> Result<Record, Reject> {
        // NaN marks channels that are missing in the object; a JSON number is never NaN.
        self.values.fill(f32::NAN);
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let seed = JsonRecord { records: &self.records, truth: &mut self.truth, values: &mut self.values };
        let (time, truth) = seed.deserialize(&mut deserializer).map_err(|_| Reject::Malformed)?;
        deserializer.end().map_err(|_| Reject::Malformed)?;
        if self.values.iter().any(|v| v.is_nan()) || (self.records.time.is_some() && time.is_none()) {
            return Err(Reject::Missing);
        }
        let stream_ns = time.map(|t| nanoseconds(t, self.time_unit_ns)).transpose()?;
        Ok(Record { stream_ns, truth })
    }
}

fn number<T: FastFloat>(text: &[u8]) -> Result<T, Reject> {
    if text.is_empty() {
        return Err(Reject::Missing);
    }
    fast_float2::parse(text).map_err(|_| Reject::Malformed)
}

fn nanoseconds(time: f64, unit_ns: f64) -> Result<i64, Reject> {
    let ns = time * unit_ns;
    if !ns.is_finite() {
        return Err(Reject::NotFinite);
    }
    if ns.abs() >= i64::MAX as f64 {
        return Err(Reject::OutOfRange);
    }
    Ok(ns.round() as i64)
}

/// Reads one JSON object straight into the parser's buffers.
struct JsonRecord<'a> {
    records: &'a Records,
    truth: &'a mut TruthReader,
    values: &'a mut [f32],
}

impl<'de> DeserializeSeed<'de> for JsonRecord<'_> {
    type Value = (Option<f64>, Option<u16>);
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for JsonRecord<'_> {
    type Value = (Option<f64>, Option<u16>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a number for each channel")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut time, mut truth) = (None, None);
        while let Some(name) = map.next_key_seed(Text)? {
            if let Some(channel) = self.records.channels.iter().position(|c| *c == *name) {
                let value: f64 = map.next_value()?;
                if !self.values[channel].is_nan() {
                    return Err(A::Error::custom("a channel is named twice"));
                }
                self.values[channel] = value as f32;
            } else if self.records.time.as_deref() == Some(&*name) {
                time = Some(map.next_value()?);
            } else if self.records.truth.as_deref() == Some(&*name) {
                let text = map.next_value_seed(Truth)?;
                truth = text.and_then(|text| self.truth.class(text.as_bytes()));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((time, truth))
    }
}

/// A string; borrowed from the line if it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(text.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.to_owned().into())
    }
}

/// The true class as text; a null does not name a class.
struct Truth;

impl<'de> DeserializeSeed<'de> for Truth {
    type Value = Option<std::borrow::Cow<'de, str>>;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Truth {
    type Value = Option<std::borrow::Cow<'de, str>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a class")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(text.into()))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned().into()))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(if value { "true" } else { "false" }.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(format: Format) -> Records {
        Records {
            format,
            header: None,
            columns: None,
            channels: vec!["x".into(), "y".into()],
            limits: BTreeMap::from([("x".to_owned(), [-10.0, 10.0])]),
            rate_hz: None,
            time: Some("t".into()),
            time_unit: TimeUnit::S,
            truth: Some("what".into()),
        }
    }

    fn csv() -> RecordParser {
        let mut parser = RecordParser::new(records(Format::Csv), vec!["up".into(), "down".into()]);
        parser.header(b"t, y ,x,what,more\r\n").unwrap();
        parser
    }

    #[test]
    fn a_csv_line_is_read_by_its_header() {
        let mut p = csv();
        let record = p.parse(b"1.5,2e1, -3.25,down,ignored\r\n").unwrap();
        assert_eq!(record, Record { stream_ns: Some(1_500_000_000), truth: Some(1) });
        assert_eq!(p.values(), [-3.25, 20.0]);
        assert_eq!(p.parse(b"2,1,\"4\",\"up\",\"a,b\"").unwrap().truth, Some(0));
        assert_eq!(p.parse(b"2,1,4,sideways,").unwrap().truth, None);
    }

    #[test]
    fn every_bad_csv_line_has_its_reason() {
        let mut p = csv();
        for (line, reason) in [
            (&b"1,2,3"[..], Reject::Missing),
            (b"", Reject::Missing),
            (b"1,2,,up,", Reject::Missing),
            (b"1,2,3,up,,", Reject::Malformed),
            (b"1,2,three,up,", Reject::Malformed),
            (b"1,2,\xff,up,", Reject::Malformed),
            (b"1,nan,3,up,", Reject::NotFinite),
            (b"1,2,-inf,up,", Reject::NotFinite),
            (b"1,2,1e39,up,", Reject::NotFinite),
            (b"nan,2,3,up,", Reject::NotFinite),
            (b"1,2,10.5,up,", Reject::OutOfRange),
            (b"1e30,2,3,up,", Reject::OutOfRange),
        ] {
            assert_eq!(p.parse(line), Err(reason), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_header_must_name_every_column_in_use() {
        let mut p = csv();
        let error = p.header(b"t,x\n").unwrap_err();
        assert_eq!(error, HeaderError { missing: "`y`, `what`".into(), found: "t, x".into() });
    }

    #[test]
    fn a_json_line_is_read_by_its_names() {
        let mut p = RecordParser::new(records(Format::Ndjson), vec!["up".into(), "down".into()]);
        let record = p.parse(br#"{"y": 1, "more": [1, {}], "x": -2.5, "what": "d\u006fwn", "t": 0.25}"#).unwrap();
        assert_eq!(record, Record { stream_ns: Some(250_000_000), truth: Some(1) });
        assert_eq!(p.values(), [-2.5, 1.0]);
        for truth in ["null", "3", "-1.5", "true", "\"sideways\""] {
            let line = format!(r#"{{"x": 1, "y": 1, "t": 0, "what": {truth}}}"#);
            assert_eq!(p.parse(line.as_bytes()).unwrap().truth, None, "{line}");
        }
        for (line, reason) in [
            (r#"{"y": 1, "t": 0}"#, Reject::Missing),
            (r#"{"y": 1, "x": 2}"#, Reject::Missing),
            (r#"{"y": 1, "x": null, "t": 0}"#, Reject::Malformed),
            (r#"{"y": 1, "x": 2, "x": 3, "t": 0}"#, Reject::Malformed),
            (r#"{"y": 1, "x": 11, "t": 0}"#, Reject::OutOfRange),
            (r#"{"y": 1e39, "x": 1, "t": 0}"#, Reject::NotFinite),
            (r#"{"y": 1, "x": 1, "t": 0} {"#, Reject::Malformed),
            ("[1, 2]", Reject::Malformed),
            ("", Reject::Malformed),
        ] {
            assert_eq!(p.parse(line.as_bytes()), Err(reason), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = csv().parse(&line);
            let _ = RecordParser::new(records(Format::Ndjson), Vec::new()).parse(&line);
        }

        #[test]
        fn every_number_comes_through(x in -10f32..10.0, y in any::<f32>().prop_filter("finite", |v| v.is_finite())) {
            let mut p = csv();
            p.parse(format!("0,{y},{x},,\n").as_bytes()).unwrap();
            prop_assert_eq!(p.values(), [x, y]);
        }
    }
}
