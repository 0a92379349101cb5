//! Turns a line of CSV or a JSON object into a sample, and checks each channel.

use std::ops::ControlFlow;

use super::fields::Fields;
use super::header::{self, HeaderError};
use super::json::{JsonRecord, JsonTime, Tree};
use super::number::{self, number};
use super::pace::{Pace, Times};
use super::plain::{Dialect, PlainFields};
use super::reject::{Reject, shown};
use super::time::{self, time, time_of_number, time_of_whole};
use super::{Format, Records, Role};
use crate::source::truth::{TruthLabels, TruthReader, TruthSeen};
use crate::source::{FrameSink, Gap};
use crate::units::MonoTime;

/// Steps in time after which it is known whether the stream and its nominal rate agree.
const PACE_STEPS: usize = 64;

/// A sample's time and true class; its values are in [`RecordParser::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub stream_ns: Option<i64>,
    /// Index into the model's labels; `None` if the record has no label or an unknown one.
    pub truth: Option<u16>,
}

/// Reads records by the names of their columns.
pub struct RecordParser {
    records: Records,
    /// Lowest and highest value of each channel.
    limits: Vec<[f32; 2]>,
    truth: TruthReader,
    /// One role for each CSV column; empty until the header was read.
    roles: Vec<Role>,
    values: Vec<f32>,
    /// `None`: no line can be read as plain fields.
    pub(super) plain: Option<Dialect>,
    fields: Fields,
    tree: Tree,
    seen: Vec<bool>,
    times: Times,
    pace: Pace,
    pace_is_judged: bool,
    /// The last time was a date or a time of day, which has no unit.
    has_clock_times: bool,
    /// What the last record says of a gap before it.
    pub(super) gap: Option<Gap>,
}

impl RecordParser {
    /// `labels` are the classes that the truth column may name.
    pub fn new(records: Records, labels: impl Into<TruthLabels>) -> Self {
        let limit = |channel| records.limits.get(channel).copied().unwrap_or([f32::MIN, f32::MAX]);
        let tree = Tree::new(records.used_roles());
        let role =
            |name: &String| records.used_roles().find(|(used, _)| used == name).map_or(Role::Unused, |(_, role)| role);
        Self {
            limits: records.channels.iter().map(limit).collect(),
            values: vec![0.0; records.channels.len()],
            truth: TruthReader::new(labels.into()),
            roles: records.columns.iter().flatten().map(role).collect(),
            plain: Dialect::new(records.delimiter, records.decimal),
            fields: Fields::new(records.delimiter),
            seen: vec![false; tree.len()],
            tree,
            times: Times::new(records.equal_times, records.rate_hz),
            pace: Pace::new(PACE_STEPS),
            pace_is_judged: false,
            has_clock_times: false,
            gap: None,
            records,
        }
    }

    /// Looks at the pace of more steps than it does while it runs.
    pub(crate) fn with_pace(mut self, steps: usize) -> Self {
        self.pace = Pace::new(steps);
        self.pace_is_judged = true;
        self
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// The first line of each stream names the columns.
    pub fn wants_header(&self) -> bool {
        self.records.has_header()
    }

    /// Returns the values of the last sample, one for each channel.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Gives the last sample to the pipeline, with the gap that it names before it.
    pub(crate) fn give(&self, record: Record, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        if let Some(gap) = self.gap {
            sink.cut(gap);
        }
        sink.take(record, &self.values, arrival)
    }

    /// Returns what the truth column has named so far.
    pub fn truth_seen(&self) -> &TruthSeen {
        &self.truth.seen
    }

    /// Another stream begins, with times of its own.
    pub(crate) fn restart(&mut self) {
        self.times.restart();
        self.pace.restart();
    }

    /// Returns the steps in time of the first records.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Returns in words how the stream's time and its nominal rate contradict each other.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let unit = (!self.has_clock_times).then_some(self.records.time_unit);
        self.pace.contradiction("records", self.records.rate_hz, unit)
    }

    /// Returns a contradiction when enough of the stream has come to know of it; once.
    pub(crate) fn take_contradiction(&mut self) -> Option<String> {
        if self.pace_is_judged || !self.pace.is_full() {
            return None;
        }
        self.pace_is_judged = true;
        self.contradiction()
    }

    /// Learns the columns from a header line.
    ///
    /// # Errors
    /// A column in use is missing, or is there twice.
    pub fn header(&mut self, line: &[u8]) -> Result<(), HeaderError> {
        self.roles = header::roles(&self.records, line)?;
        Ok(())
    }

    /// Returns whether a line names all columns in use, each once.
    pub(super) fn is_header(&self, line: &[u8]) -> bool {
        header::roles(&self.records, line).is_ok()
    }

    /// Learns the columns again if a line that was rejected is a header; another recording begins then.
    pub(super) fn takes_header_again(&mut self, line: &[u8]) -> bool {
        let first = self.records.channels.first().map_or(&b""[..], |name| name.as_bytes());
        let is_possible = self.wants_header() && memchr::memmem::find(line, first).is_some();
        let is_header = is_possible && self.header(line).is_ok();
        if is_header {
            self.restart();
        }
        is_header
    }

    /// Reads a line, with or without its newline; [`RecordParser::values`] then returns its values.
    pub fn parse(&mut self, line: &[u8]) -> Result<Record, Reject> {
        let mut record = self.parse_line(line)?;
        if let Some(ns) = record.stream_ns {
            self.pace.note(ns);
            record.stream_ns = Some(self.times.next(ns).ok_or(Reject::EqualTime)?);
        }
        Ok(record)
    }

    /// Reads a line, without what depends on the lines before.
    fn parse_line(&mut self, line: &[u8]) -> Result<Record, Reject> {
        let record = match self.records.format {
            Format::Csv => match self.parse_plain(line) {
                Some(record) => record,
                None => self.parse_csv(line)?,
            },
            Format::Ndjson | Format::Json => self.parse_json(line).map_err(|error| error.reason())?,
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

    /// Reads a line of plain fields; `None`: it may be another one, or none that is accepted.
    fn parse_plain(&mut self, line: &[u8]) -> Option<Record> {
        let mut fields = PlainFields::new(self.plain?, line)?;
        let (mut time, mut truth) = (None, None);
        for role in &self.roles {
            match role {
                Role::Channel(channel) => self.values[*channel] = fields.value()?,
                Role::Time => time = Some(fields.time(self.records.time_unit)?),
                Role::Truth => truth = Some(fields.text()?),
                Role::Gap if fields.text()?.is_empty() => {}
                Role::Gap => return None,
                Role::Unused => _ = fields.text()?,
            }
        }
        if !fields.is_at_end() {
            return None;
        }
        self.gap = None;
        if let Some((_, is_of_clock)) = time
            && !self.pace.is_full()
        {
            self.has_clock_times = is_of_clock;
        }
        Some(Record {
            stream_ns: time.map(|(ns, _)| ns),
            // Not before the line is known to be a record: it counts.
            truth: truth.and_then(|name| self.truth.class(name)),
        })
    }

    fn parse_csv(&mut self, line: &[u8]) -> Result<Record, Reject> {
        let count = self.fields.split(line);
        if count < self.roles.len() {
            return Err(Reject::Missing);
        }
        // Some writers end each line with a delimiter.
        if (self.roles.len()..count).any(|extra| !self.fields.get(line, extra).is_empty()) {
            return Err(Reject::Malformed);
        }
        let Records { decimal, time_unit, .. } = self.records;
        let mut record = Record { stream_ns: None, truth: None };
        self.gap = None;
        for (column, role) in self.roles.iter().enumerate() {
            match role {
                Role::Unused => {}
                Role::Channel(channel) => self.values[*channel] = number(self.fields.get(line, column), decimal)?,
                Role::Time => {
                    let text = self.fields.get(line, column);
                    record.stream_ns = Some(time(text, time_unit, decimal)?);
                    if !self.pace.is_full() {
                        self.has_clock_times = time::is_of_clock(text);
                    }
                }
                Role::Truth => {
                    let text = self.fields.get(line, column);
                    record.truth = match text.contains(&b'"') {
                        true => self.truth.class(self.fields.text(line, column).as_bytes()),
                        false => self.truth.class(text),
                    };
                }
                Role::Gap => match self.fields.get(line, column) {
                    b"" => {}
                    name => self.gap = Some(Gap::named(name).ok_or(Reject::Malformed)?),
                },
            }
        }
        Ok(record)
    }

    fn parse_json(&mut self, line: &[u8]) -> Result<Record, JsonFault> {
        let mut read = JsonRecord {
            tree: &self.tree,
            channels: &self.records.channels,
            decimal: self.records.decimal,
            values: &mut self.values,
            seen: &mut self.seen,
            time: None,
            escaped_time: None,
            truth: None,
        };
        read.read(line).map_err(JsonFault::Json)?;
        let JsonRecord { time: written, escaped_time, truth, .. } = read;
        if self.values.iter().any(|v| v.is_nan()) {
            return Err(JsonFault::Missing);
        }
        let Records { decimal, time_unit, .. } = self.records;
        let of_text = |text: &str| time(text.trim().as_bytes(), time_unit, decimal);
        let stream_ns = match (written, &escaped_time) {
            _ if self.records.time.is_none() => None,
            (Some(JsonTime::Whole(whole)), _) => Some(time_of_whole(whole, time_unit)),
            (Some(JsonTime::Number(number)), _) => Some(time_of_number(number, time_unit)),
            (Some(JsonTime::Text(text)), _) => Some(of_text(text)),
            (None, Some(text)) => Some(of_text(text)),
            (None, None) => return Err(JsonFault::Missing),
        };
        let stream_ns = stream_ns.transpose().map_err(|reason| {
            let text = match written {
                Some(JsonTime::Whole(whole)) => whole.to_string(),
                Some(JsonTime::Number(number)) => number.to_string(),
                Some(JsonTime::Text(text)) => text.to_owned(),
                None => escaped_time.clone().unwrap_or_default(),
            };
            JsonFault::Time(reason, text)
        })?;
        if !self.pace.is_full() {
            self.has_clock_times = match (written, &escaped_time) {
                (Some(JsonTime::Text(text)), _) => time::is_of_clock(text.as_bytes()),
                (None, Some(text)) => time::is_of_clock(text.as_bytes()),
                _ => false,
            };
        }
        let truth = truth.and_then(|text| self.truth.class(text.as_bytes()));
        Ok(Record { stream_ns, truth })
    }

    /// Returns whether the columns in use have text and none has a number, or what looks like one: a row of units below the
    /// header.
    pub(super) fn is_row_of_text(&mut self, line: &[u8]) -> bool {
        let (count, mut texts) = (self.fields.split(line), 0);
        for (column, role) in self.roles.iter().enumerate() {
            if matches!(role, Role::Truth | Role::Gap | Role::Unused) {
                continue;
            }
            let text = self.fields.get(line, column);
            match text.first() {
                None => {}
                Some(byte) if byte.is_ascii_digit() || b"+-.,".contains(byte) => return false,
                // Not finite, but numbers.
                Some(_) if number::<f32>(text, self.records.decimal).is_ok() => return false,
                Some(_) => texts += 1,
            }
        }
        texts > 0 && count >= self.roles.len()
    }

    /// Says in words why this line was rejected: the column, the text, and what would be right.
    pub(crate) fn explain(&mut self, line: &[u8], reason: Reject) -> String {
        let line = line.trim_ascii_end();
        match reason {
            Reject::TooLong => "the line is longer than 64 KiB".to_owned(),
            Reject::Unterminated => format!("the stream ended inside the line {}", shown(line)),
            Reject::Header => "the header cannot be used".to_owned(),
            Reject::EqualTime => "it has the time of the record before (records.equal_times = \"refuse\")".to_owned(),
            Reject::OutOfRange | Reject::NotFinite if self.values_at_fault().is_some() => {
                self.values_at_fault().unwrap_or_default()
            }
            _ if line.contains(&0) => "it has NUL bytes; is the text UTF-16? Save it as UTF-8".to_owned(),
            _ if self.records.format == Format::Csv => self.explain_csv(line),
            _ => self.explain_json(line),
        }
    }

    /// Says which of the values just read is not finite or outside its limits.
    fn values_at_fault(&self) -> Option<String> {
        let (value, (name, [low, high])) = self
            .values
            .iter()
            .zip(self.records.channels.iter().zip(&self.limits))
            .find(|(value, (_, [low, high]))| !value.is_finite() || *value < low || *value > high)?;
        Some(if value.is_finite() {
            format!("column `{name}`: {value} is outside of its limits, {low} to {high} (records.limits)")
        } else {
            format!("column `{name}`: the value is not a finite number of 32 bits")
        })
    }

    fn explain_csv(&mut self, line: &[u8]) -> String {
        let count = self.fields.split(line);
        let extra = (self.roles.len()..count).any(|extra| !self.fields.get(line, extra).is_empty());
        if count < self.roles.len() || extra {
            return header::explain_count(&self.records, line, count, self.roles.len());
        }
        let Records { decimal, time_unit, .. } = self.records;
        for (column, role) in self.roles.iter().enumerate() {
            let bytes = self.fields.get(line, column);
            let text = String::from_utf8_lossy(bytes);
            let (reason, why) = match role {
                Role::Channel(_) => (number::<f32>(bytes, decimal).err(), number::explain(&text, decimal)),
                Role::Time => {
                    let reason = time(bytes, time_unit, decimal).err();
                    (reason, time::explain(&text, time_unit, decimal, reason.unwrap_or(Reject::Malformed)).into_owned())
                }
                Role::Gap if bytes.is_empty() || Gap::named(bytes).is_some() => continue,
                Role::Gap => (Some(Reject::Malformed), "is not a gap; leave it empty where there is none".to_owned()),
                Role::Truth | Role::Unused => continue,
            };
            let Some(reason) = reason else { continue };
            let name = self.name(*role);
            let names_itself = self.records.used().any(|name| *name == text);
            return match reason {
                Reject::Missing => format!("column `{name}` is empty"),
                _ if names_itself && !self.records.has_header() => format!(
                    "column `{name}`: {} {why}; the line is a header, and is passed over: check that records.columns has its \
                     names, in its order",
                    shown(bytes)
                ),
                _ => format!("column `{name}`: {} {why}", shown(bytes)),
            };
        }
        format!("the line is not a record: {}", shown(line))
    }

    fn name(&self, role: Role) -> &str {
        let name = match role {
            Role::Channel(channel) => self.records.channels.get(channel),
            Role::Time => self.records.time.as_ref(),
            Role::Truth => self.records.truth.as_ref(),
            Role::Gap => self.records.gap.as_ref(),
            Role::Unused => None,
        };
        name.map_or("", String::as_str)
    }

    fn explain_json(&mut self, line: &[u8]) -> String {
        let fault = self.parse_json(line).err();
        match fault {
            Some(JsonFault::Json(error)) => {
                let text = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let text = text.strip_suffix(&place).unwrap_or(&text);
                let has = |word: &[u8]| memchr::memmem::find(line, word).is_some();
                let hint = match self.records.format {
                    _ if error.is_syntax() && (has(b"NaN") || has(b"Infinity")) => "; JSON has no NaN and no Infinity",
                    Format::Json if line.trim_ascii_start().first() == Some(&b'[') => {
                        "; for arrays of numbers, write one array a line and set records.format = \"ndjson\""
                    }
                    Format::Json => "",
                    _ if error.is_eof() => "; for objects on several lines set records.format = \"json\"",
                    _ if text.starts_with("trailing") => {
                        "; for objects with commas between them, or several on a line, set records.format = \"json\""
                    }
                    _ => "",
                };
                if error.is_data() {
                    format!("{text}{hint}")
                } else {
                    format!("not JSON: {text}{hint}: {}", shown(line))
                }
            }
            Some(JsonFault::Time(reason, text)) => {
                let Records { time_unit, decimal, .. } = self.records;
                let (name, why) = (self.name(Role::Time), time::explain(&text, time_unit, decimal, reason));
                format!("column `{name}`: {} {why}", shown(text.as_bytes()))
            }
            Some(JsonFault::Missing) | None => {
                let missing = self.records.channels.iter().zip(&self.values).find(|(_, value)| value.is_nan());
                let name = missing.map_or_else(|| self.name(Role::Time), |(name, _)| name);
                let is_array = line.trim_ascii_start().first() == Some(&b'[');
                let hint = if is_array && self.records.format == Format::Ndjson {
                    "; for an array of objects set records.format = \"json\""
                } else if name.contains('.') && !is_array {
                    "; a field inside another one is named as in \"/accel/x\""
                } else if has_array_of_objects(line) {
                    "; if the records are in an array inside this object, write that array alone"
                } else {
                    ""
                };
                let what = if is_array { "array" } else { "object" };
                format!("the {what} has no field `{name}`{hint}: {}", shown(line))
            }
        }
    }
}

fn has_array_of_objects(json: &[u8]) -> bool {
    let mut before = None;
    let mut bytes = json.iter().filter(|byte| !byte.is_ascii_whitespace());
    bytes.any(|byte| before.replace(byte) == Some(&b'[') && *byte == b'{')
}

/// Why a JSON object is not a record.
enum JsonFault {
    Json(serde_json::Error),
    Missing,
    /// With the text of the time.
    Time(Reject, String),
}

impl JsonFault {
    fn reason(&self) -> Reject {
        match self {
            Self::Json(_) => Reject::Malformed,
            Self::Missing => Reject::Missing,
            Self::Time(reason, _) => *reason,
        }
    }
}
