//! What a line of text holds: the keys, and their check.
//!
//! `parser` turns a line, CSV or JSON, into a sample and checks each channel; `reader` finds the records among what else is
//! in a file or stream. Lines are untrusted: whatever they contain, the result is a sample or a reason to reject it.
//! Allocates nothing for a record once the buffers have grown to the longest one.

pub mod fields;
mod header;
mod json;
pub mod line_reader;
mod number;
pub(crate) mod pace;
mod parser;
mod plain;
mod reader;
mod reject;
#[cfg(test)]
mod tests;
mod time;

use std::collections::BTreeMap;

use self::fields::{ColumnError, Delimiter, column};
use super::{ContentKind, Decoder};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, choice, table};
use crate::source::TruthLabels;
use crate::stream::{Content, SampleType, Shape, StreamSpec};

pub use header::HeaderError;
pub use number::Decimal;
pub use pace::EqualTimes;
pub use parser::{Record, RecordParser};
pub(crate) use reader::{Kind, MOST_TEXT_ROWS, Skipper, is_utf16};
pub use reader::{Next, RecordReader};
pub use reject::Reject;
pub(crate) use reject::shown;
pub use time::TimeUnit;
pub(crate) use time::{time, time_of_number, time_of_whole};

/// Far above any real use.
const MAX_CHANNELS: usize = 4096;
const MAX_SKIPPED: usize = 100_000;

choice! {
    /// How text holds records.
    #[derive(Default)]
    pub enum Format {
        #[default]
        Csv = "csv",
        /// One JSON object a line.
        Ndjson = "ndjson",
        /// JSON objects on any number of lines, one after the other or in one array.
        Json = "json",
    }
}

table! {
    /// What one line of text holds. Each line is one sample of all channels.
    pub struct Records {
        /// The columns that the model gets, in the order in which it wants them. In JSON, a name that begins with `/` is a
        /// JSON pointer: "/accel/x".
        pub channels: Vec<String>, example("[\"ax\", \"ay\", \"az\"]");
        /// The form of the text: "csv", "ndjson" for one JSON object a line, or "json" for objects on any number of lines, one
        /// after the other or in one array.
        pub format: Format = Format::Csv;
        /// Whether the first line of CSV names the columns; if not, `columns` must name them.
        pub header: Option<bool>, otherwise("`true`, unless `columns` is written"), example("true");
        /// The names of all columns of CSV without a header, in order.
        pub columns: Option<Vec<String>>, otherwise("those of the first line"), example("[\"time_s\", \"ax\", \"ay\", \"az\"]");
        /// What separates the values of a line of CSV; " " is any number of spaces and tabs.
        pub delimiter: Delimiter = Delimiter::Comma;
        /// The decimal mark of numbers in CSV and in strings of JSON.
        pub decimal: Decimal = Decimal::Point;
        /// Lines that begin with this are skipped; with "", none are. If such a line names all columns in use, it is the header.
        pub comment: String = "#".to_owned();
        /// The number of lines to skip at the beginning of the file or stream.
        pub skip_lines: usize = 0, range(0, MAX_SKIPPED);
        /// The nominal number of samples in a second. It sets the pace of a recording without a time column, the longest
        /// step in time that is not a gap, and the size of the buffer.
        pub rate_hz: Option<f64>, range(1e-6, 1e9), unit("Hz"), otherwise("unknown"), example("50.0");
        /// The column with the stream's own time: numbers, or dates and times as in ISO 8601. Without it no gap in time can be
        /// seen.
        pub time: Option<String>, otherwise("none"), example("\"time_s\"");
        /// The unit of the time column, if it has numbers.
        pub time_unit: TimeUnit = TimeUnit::S;
        /// What is done with a record that has the time of the record before: "gap" starts a new window, "spread" counts it
        /// one period of `rate_hz` later, "refuse" rejects it.
        pub equal_times: EqualTimes = EqualTimes::Gap;
        /// The column with the true label, which is published with each prediction.
        pub truth: Option<String>, otherwise("none"), example("\"exercise\"");
        /// The column of CSV that names a gap before a record, as `edgewatt record` writes it: "overflow", "interrupted",
        /// "overrun" or "reconnect"; empty if there is none. No window spans a gap.
        pub gap: Option<String>, otherwise("none"), example("\"gap\"");
        /// The lowest and the highest value of a channel. Samples outside are rejected and counted.
        pub limits: BTreeMap<String, [f32; 2]> = BTreeMap::new(), otherwise("none"), example("{ ax = [-16.0, 16.0] }");
    }
}

/// The use of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Channel(usize),
    Time,
    Truth,
    Gap,
    Unused,
}

impl ContentKind for Records {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        Self::check(self, key, checker);
    }

    fn spec(&self) -> StreamSpec {
        Self::spec(self)
    }

    fn decoder(&self, labels: TruthLabels) -> Decoder {
        Decoder::text(RecordParser::new(self.clone(), labels))
    }

    fn records(&self) -> Option<&Records> {
        Some(self)
    }

    fn least_bytes_per_second(&self) -> Option<f64> {
        // A digit, and what is between it and the next one.
        const LEAST_BYTES: usize = 2;
        let values = self.columns.as_ref().map_or(self.used().count(), Vec::len);
        Some((values * LEAST_BYTES) as f64 * self.rate_hz?)
    }
}

impl Records {
    /// Returns the columns in use: the channels, the time and the truth.
    fn used(&self) -> impl Iterator<Item = &String> {
        self.channels.iter().chain(&self.time).chain(&self.truth).chain(&self.gap)
    }

    /// Returns the columns in use with their use.
    fn used_roles(&self) -> impl Iterator<Item = (&str, Role)> {
        let channels = self.channels.iter().enumerate().map(|(channel, name)| (name.as_str(), Role::Channel(channel)));
        let time = self.time.iter().map(|name| (name.as_str(), Role::Time));
        let truth = self.truth.iter().map(|name| (name.as_str(), Role::Truth));
        channels.chain(time).chain(truth).chain(self.gap.iter().map(|name| (name.as_str(), Role::Gap)))
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
            checker.problem(key, format!("column `{}` is used twice in channels, time, truth and gap", twice[0]));
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
        self.check_dialect(key, checker);
    }

    /// Checks where the names of the columns come from.
    fn check_columns(&self, key: &Key, checker: &mut Checker) {
        match (&self.columns, self.format) {
            (_, Format::Ndjson | Format::Json) if self.header.is_some() => {
                let message = "JSON has no header: each object names its own fields; leave header out";
                checker.problem(&key.child("header"), message);
            }
            (Some(_), Format::Ndjson | Format::Json) => {
                checker.problem(&key.child("columns"), "JSON names its own fields; leave columns out");
            }
            (Some(_), Format::Csv) if self.has_header() => {
                let message = "the header names the columns; leave columns out or set header = false";
                checker.problem(&key.child("columns"), message);
            }
            (Some(columns), Format::Csv) => {
                for name in self.used() {
                    match column(columns, name) {
                        Ok(_) => {}
                        Err(ColumnError::Missing) => {
                            checker
                                .problem(&key.child("columns"), format!("`{name}` is used but not among the columns"));
                        }
                        Err(ColumnError::Twice(first, second)) => {
                            let message = format!(
                                "`{name}` is used, and is there twice, as column {first} and as column {second}"
                            );
                            checker.problem(&key.child("columns"), message);
                        }
                    }
                }
            }
            (None, Format::Csv) if !self.has_header() => {
                checker.problem(key, "lines without a header need columns = [\"...\"], all of them in order");
            }
            (None, _) => {}
        }
    }

    /// Checks the keys that say how text is cut and how times are taken.
    fn check_dialect(&self, key: &Key, checker: &mut Checker) {
        if self.format != Format::Csv && self.delimiter != Delimiter::Comma {
            checker.problem(&key.child("delimiter"), "JSON has no delimiter; leave it out");
        }
        if self.format != Format::Csv && self.gap.is_some() {
            checker.problem(&key.child("gap"), "only CSV has a column of gaps; leave it out");
        }
        if self.equal_times != EqualTimes::Gap {
            let equal_times = key.child("equal_times");
            if self.time.is_none() {
                checker.problem(&equal_times, "the stream has no time; name its column in records.time");
            }
            if self.equal_times == EqualTimes::Spread && self.rate_hz.is_none() {
                checker.problem(&equal_times, "to spread equal times, set records.rate_hz");
            }
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
            content: Content::Samples,
        }
    }
}
