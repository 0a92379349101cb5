//! The replay meter: plays a recorded trace of watts or joules at its own pace, starting at the first read.
//!
//! Owns the trace, which is read once and summed once, in integers: a total is the number nearest to the exact sum of the
//! values in the file, and does not depend on when it is read. A reading is the latest row whose time has come, at that
//! row's time. After the last row, that row is returned again, so that no window gets energy that was not recorded.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::survey::{Machine, Surveyed};
use super::{
    Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings, check_scope,
    sysfs,
};
use crate::schema::{Checker, Key, choice, table};
use crate::source::records::fields::{ColumnError, Delimiter, Fields, column};
use crate::source::records::line_reader::{Line, LineReader};
use crate::source::records::{Decimal, Kind, MOST_TEXT_ROWS, Skipper, TimeUnit, is_utf16, time};
use crate::text::counted;
use crate::units::{Joules, MonoTime, Watts};

/// A step longer than this many median steps is a gap, in which the power is unknown.
const GAP_STEPS: u32 = 5;

/// Decimals that are kept: seconds, watts and joules are counted in billionths.
const DECIMALS: usize = 9;
const BILLION: i128 = 1_000_000_000;

const NUMBER: &str = "a finite number";

/// Lines that begin with this are skipped.
const COMMENT: &str = "#";

table! {
    /// A recorded trace of power or energy, by the names of its columns. Write either `watts` or `joules`.
    pub struct ReplayKeys {
        /// The trace: a CSV file with a header.
        pub path: PathBuf, example("\"power.csv\"");
        /// The column of the time: numbers, or dates and times as in ISO 8601.
        pub time: String, example("\"time_s\"");
        /// The unit of the time column, if it has numbers.
        pub time_unit: TimeUnit = TimeUnit::S;
        /// What separates the values of a line; " " is any number of spaces and tabs.
        pub delimiter: Delimiter = Delimiter::Comma;
        /// The decimal mark of numbers.
        pub decimal: Decimal = Decimal::Point;
        /// The column of power, in watts or in `unit`.
        pub watts: Option<String>, otherwise("none"), example("\"power_w\"");
        /// The column of cumulative energy, in joules or in `unit`, instead of `watts`.
        pub joules: Option<String>, otherwise("none"), example("\"energy_j\"");
        /// The unit of the values.
        pub unit: Option<ValueUnit>, otherwise("\"W\" for `watts`, \"J\" for `joules`"), example("\"mW\"");
        /// What the trace covers: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl MeterKind for ReplayKeys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
        self.path = checker.path(&self.path);
        if self.watts.is_some() == self.joules.is_some() {
            checker.problem(key, "name the column with what was metered: either watts or joules");
        } else if let Some(unit) = self.unit.filter(|unit| unit.is_power() != self.watts.is_some()) {
            let (column, units) = match self.watts {
                Some(_) => ("watts", "\"W\", \"mW\", \"uW\" or \"kW\""),
                None => ("joules", "\"J\", \"mJ\", \"uJ\", \"kJ\", \"mWh\", \"Wh\" or \"kWh\""),
            };
            let message = format!("{:?} is not a unit of `{column}`; write {units}", unit.name());
            checker.problem(&key.child("unit"), message);
        }
    }

    fn build(&self, name: &str, _: &Surroundings) -> Box<dyn Meter> {
        let value = match (&self.watts, &self.joules) {
            (Some(column), _) => Value::Watts(column.clone()),
            (None, column) => Value::Joules(column.clone().unwrap_or_default()),
        };
        let (time_unit, delimiter, decimal) = (self.time_unit, self.delimiter, self.decimal);
        let scale = self.unit.map_or((1, 1), ValueUnit::scale);
        let columns = Columns { time: self.time.clone(), time_unit, value, scale, delimiter, decimal };
        Box::new(Replay::new(name, &self.path, columns, self.scope))
    }

    fn is_sensed(&self) -> bool {
        false
    }
}

/// Returns nothing: a trace is not a part of the machine.
pub fn survey(_: &Machine<'_>) -> Vec<Surveyed> {
    Vec::new()
}

choice! {
    /// The unit of a trace's values.
    pub enum ValueUnit {
        Watt = "W",
        Milliwatt = "mW",
        Microwatt = "uW",
        Kilowatt = "kW",
        Joule = "J",
        Millijoule = "mJ",
        Microjoule = "uJ",
        Kilojoule = "kJ",
        MilliwattHour = "mWh",
        WattHour = "Wh",
        KilowattHour = "kWh",
    }
}

impl ValueUnit {
    fn is_power(self) -> bool {
        matches!(self, Self::Watt | Self::Milliwatt | Self::Microwatt | Self::Kilowatt)
    }

    /// Returns the unit in watts or joules, as a numerator and a denominator.
    fn scale(self) -> (i128, i128) {
        match self {
            Self::Watt | Self::Joule => (1, 1),
            Self::Milliwatt | Self::Millijoule => (1, 1_000),
            Self::Microwatt | Self::Microjoule => (1, 1_000_000),
            Self::Kilowatt | Self::Kilojoule => (1_000, 1),
            Self::MilliwattHour => (3_600, 1_000),
            Self::WattHour => (3_600, 1),
            Self::KilowattHour => (3_600_000, 1),
        }
    }
}

/// The columns of a trace, by the names in its first line.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    pub time: String,
    pub time_unit: TimeUnit,
    pub value: Value,
    /// The numerator and the denominator of the value's unit in watts or joules.
    pub scale: (i128, i128),
    pub delimiter: Delimiter,
    pub decimal: Decimal,
}

/// The column with the measured values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Power at the row's time, integrated along straight lines.
    Watts(String),
    /// Cumulative energy.
    Joules(String),
}

/// A trace and how far it was played.
#[derive(Debug)]
pub struct Replay {
    info: MeterInfo,
    path: PathBuf,
    columns: Columns,
    playing: Option<Playing>,
}

#[derive(Debug)]
struct Playing {
    rows: Vec<Row>,
    start: MonoTime,
    /// The row of the latest reading.
    place: usize,
}

/// The time since the first row, and billionths of a watt or joule.
type Sample = (Duration, i64);

#[derive(Debug, Clone, Copy)]
struct Row {
    /// Since the first row.
    at: Duration,
    joules: Joules,
    power: Option<Watts>,
    /// Whether the power between the previous row and this one is unknown.
    after_gap: bool,
}

impl Replay {
    /// Creates a meter that plays the CSV file `path`, which the first read loads; `scope` is what was measured.
    pub fn new(name: &str, path: &Path, columns: Columns, scope: Scope) -> Self {
        let info = MeterInfo {
            name: name.to_owned(),
            kind: "replay",
            scope,
            estimated: false,
            detail: Vec::new(),
            basis: Vec::new(),
        };
        Self { info, path: path.to_owned(), columns, playing: None }
    }

    /// Returns the reading at `now`; the first call starts the trace. [`Meter::read`] with the time as an argument.
    pub fn read_at(&mut self, now: MonoTime) -> Result<Reading, MeterError> {
        let playing = match &mut self.playing {
            Some(playing) => playing,
            empty => {
                let rows = load(&self.path, &self.columns)?;
                let last = rows.last().copied();
                self.info.detail = vec![format!(
                    "{}: {}, {:.3} s, {} J",
                    self.path.display(),
                    counted(rows.len(), "row"),
                    last.map_or(0.0, |row| row.at.as_secs_f64()),
                    last.map_or(0.0, |row| row.joules.0)
                )];
                empty.insert(Playing { rows, start: now, place: 0 })
            }
        };
        let elapsed = now.since(playing.start);
        let place = playing.rows.partition_point(|row| row.at <= elapsed).saturating_sub(1);
        let passed = playing.rows.get(playing.place + 1..=place).unwrap_or_default();
        let gap = passed.iter().any(|row| row.after_gap);
        playing.place = playing.place.max(place);
        let Some(row) = playing.rows.get(playing.place) else { return Err(empty_trace(&self.path)) };
        if gap {
            let reason = format!("{} has a gap before {:.3} s", self.path.display(), row.at.as_secs_f64());
            return Err(MeterError::Rebaselined { reason });
        }
        Ok(Reading {
            time: playing.start + row.at,
            joules: row.joules,
            power: row.power,
            volts: None,
            amperes: None,
            scope: self.info.scope,
            // A trace does not tell how it was measured.
            accuracy: Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN },
        })
    }
}

impl Meter for Replay {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_at(MonoTime::now())
    }
}

/// Loads the whole trace and sums it.
fn load(path: &Path, columns: &Columns) -> Result<Vec<Row>, MeterError> {
    let open = |error| sysfs::classify(path, error, "give this user permission to read it");
    if !std::fs::metadata(path).map_err(open)?.is_file() {
        return Err(MeterError::Failed { path: path.to_owned(), source: io::Error::other("not a regular file") });
    }
    let mut lines = Lines::new(path, File::open(path).map_err(open)?, columns);
    let (time, value) = lines.header(columns)?;
    let mut samples: Vec<Sample> = Vec::new();
    let (mut first, mut text_rows) = (None, 0);
    while lines.next()? {
        if samples.is_empty() && text_rows < MOST_TEXT_ROWS && lines.is_text(time, value) {
            text_rows += 1;
            continue;
        }
        let raw_time = lines.time(time, columns.time_unit)?;
        let since_first = raw_time - *first.get_or_insert(raw_time);
        let at = u64::try_from(since_first / BILLION).ok();
        let after = samples.last().copied();
        // Nanoseconds are all that is kept, so rows closer than that have the same time.
        let at = at.map(Duration::from_nanos).filter(|at| after.is_none_or(|(before, _)| before < *at));
        let Some(at) = at else { return Err(lines.invalid(time, "a time after that of the line before")) };
        let number = lines.value(value, columns.scale)?;
        let expected = match columns.value {
            Value::Watts(_) if number < 0 => Some("watts of 0 or more"),
            Value::Joules(_) if after.is_some_and(|(_, before)| number < before) => {
                Some("cumulative joules, not less than in the line before")
            }
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(lines.invalid(value, expected));
        }
        samples.push((at, number));
    }
    if samples.len() < 2 {
        return Err(empty_trace(path));
    }
    Ok(match columns.value {
        Value::Watts(_) => integrate(&samples),
        Value::Joules(_) => subtract_first(&samples),
    })
}

/// Integrates by trapezoids: with billionths of a watt and nanoseconds, each is a whole number of half attojoules.
fn integrate(samples: &[Sample]) -> Vec<Row> {
    let mut steps: Vec<Duration> = samples.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    let middle = steps.len() / 2;
    let max_step = *steps.select_nth_unstable(middle).1 * GAP_STEPS;
    let mut half_attojoules = 0;
    let mut before = samples.first().copied();
    let row = |&(at, watts): &Sample| {
        let (then, watts_then) = before.replace((at, watts)).unwrap_or((at, watts));
        let step = at - then;
        let after_gap = step > max_step;
        if !after_gap {
            // Two powers make less than 2^64, and so does the time from first to last.
            let both = u128::from(watts_then.unsigned_abs()) + u128::from(watts.unsigned_abs());
            half_attojoules += both * step.as_nanos();
        }
        let joules = Joules(nearest(&format!("{}.{}e-18", half_attojoules / 2, half_attojoules % 2 * 5)));
        Row { at, joules, power: Some(Watts(nearest(&format!("{watts}e-9")))), after_gap }
    };
    samples.iter().map(row).collect()
}

fn subtract_first(samples: &[Sample]) -> Vec<Row> {
    let first = samples.first().map_or(0, |(_, joules)| *joules);
    let since = |joules: i64, before: i64| Joules(nearest(&format!("{}e-9", joules.abs_diff(before))));
    let mut before: Option<Sample> = None;
    let row = |&(at, joules): &Sample| {
        let power = before.replace((at, joules)).and_then(|(then, before)| since(joules, before).per(at - then));
        Row { at, joules: since(joules, first), power, after_gap: false }
    };
    samples.iter().map(row).collect()
}

/// Returns the number nearest to a decimal text, as the standard library's parser rounds; the callers pass decimals only.
fn nearest(decimal: &str) -> f64 {
    decimal.parse().unwrap_or(f64::NAN)
}

/// Parses a decimal number in billionths, rounded half up; `None` if `text` is not a number, or too large.
fn billionths(text: &str) -> Option<i128> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let magnitude = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    let digits = format!("0{whole}{fraction}");
    if whole.len() + fraction.len() == 0 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // So many digits count billionths; a number that is far smaller has none of them.
    let wanted = (1 + whole.len() + DECIMALS).saturating_add_signed(exponent.into());
    let (kept, dropped) = digits.split_at(wanted.min(digits.len()));
    let zeros = "0".repeat(wanted - kept.len());
    let rounded = i128::from(dropped.starts_with(|digit| digit >= '5'));
    let count: i128 = format!("0{kept}{zeros}").parse().ok()?;
    Some(if number.starts_with('-') { -(count + rounded) } else { count + rounded })
}

/// Returns whether a text is how programs write a number that is not finite.
fn is_not_finite(text: &[u8]) -> bool {
    [&b"nan"[..], b"inf", b"infinity"].iter().any(|name| text.eq_ignore_ascii_case(name))
}

fn empty_trace(path: &Path) -> MeterError {
    MeterError::Invalid { path: path.to_owned(), text: String::new(), expected: "a header and two rows or more" }
}

/// The lines of a trace that hold a row.
struct Lines<'a> {
    path: &'a Path,
    file: File,
    reader: LineReader,
    skipper: Skipper,
    /// The current line.
    line: Vec<u8>,
    fields: Fields,
    decimal: Decimal,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: File, columns: &Columns) -> Self {
        let (reader, skipper) = (LineReader::new(), Skipper::new(COMMENT, 0));
        let (line, fields) = (Vec::new(), Fields::new(columns.delimiter));
        Self { path, file, reader, skipper, line, fields, decimal: columns.decimal }
    }

    /// Returns the indices of the time and value columns from the first line.
    fn header(&mut self, columns: &Columns) -> Result<(usize, usize), MeterError> {
        if !self.next()? {
            return Err(empty_trace(self.path));
        }
        let count = self.fields.split(&self.line);
        let names: Vec<String> = (0..count).map(|index| self.fields.text(&self.line, index).into_owned()).collect();
        let (Value::Watts(value) | Value::Joules(value)) = &columns.value;
        let absent = |reason, fix: &str| MeterError::Absent { path: self.place(), reason, fix: fix.to_owned() };
        let place = |wanted: &str| {
            column(&names, wanted).map_err(|error| match error {
                ColumnError::Missing if is_utf16(&self.line) => {
                    absent("the text is UTF-16".to_owned(), "save it as UTF-8")
                }
                ColumnError::Missing => absent(
                    format!("no column `{wanted}`; found: {}", names.join(", ")),
                    "name one of these, or set delimiter",
                ),
                ColumnError::Twice(first, second) => absent(
                    format!("column `{wanted}` is there twice, as column {first} and as column {second}"),
                    "give them different names",
                ),
            })
        };
        Ok((place(&columns.time)?, place(value)?))
    }

    /// Goes to the next line that is not empty and no comment; returns false at the end.
    fn next(&mut self) -> Result<bool, MeterError> {
        loop {
            let line = match self.reader.next_line() {
                Line::More => {
                    let failed = |source| MeterError::Failed { path: self.path.to_owned(), source };
                    if self.reader.fill(&mut self.file).map_err(failed)? > 0 {
                        continue;
                    }
                    match self.reader.rest() {
                        Line::Complete(line) => line,
                        Line::TooLong => b"",
                        Line::More => return Ok(false),
                    }
                }
                Line::Complete(line) => line,
                Line::TooLong => {
                    let expected = "a line of at most 64 KiB";
                    return Err(MeterError::Invalid { path: self.place(), text: String::new(), expected });
                }
            };
            if let Kind::Content(line) = self.skipper.kind(line) {
                self.line.clear();
                self.line.extend_from_slice(line);
                self.fields.split(&self.line);
                return Ok(true);
            }
        }
    }

    fn text(&self, column: usize) -> &[u8] {
        self.fields.get(&self.line, column)
    }

    /// Returns the time in billionths of a nanosecond.
    fn time(&self, column: usize, unit: TimeUnit) -> Result<i128, MeterError> {
        let number = self.number(column).and_then(|number| number.checked_mul(unit.ns() as i128));
        let date = || time(self.text(column), unit, self.decimal).ok().map(|ns| i128::from(ns) * BILLION);
        number.or_else(date).ok_or_else(|| self.invalid(column, "a finite time"))
    }

    /// Returns the value in billionths of a watt or joule, rounded half up; `scale` is its unit.
    fn value(&self, column: usize, scale: (i128, i128)) -> Result<i64, MeterError> {
        let (numerator, denominator) = scale;
        let scaled = self.number(column).and_then(|number| number.checked_mul(numerator));
        let rounded = scaled.map(|scaled| (2 * scaled + denominator).div_euclid(2 * denominator));
        rounded.and_then(|rounded| i64::try_from(rounded).ok()).ok_or_else(|| self.invalid(column, NUMBER))
    }

    fn number(&self, column: usize) -> Option<i128> {
        let text = std::str::from_utf8(self.text(column)).ok()?;
        match self.decimal {
            Decimal::Point => billionths(text),
            Decimal::Comma if text.contains('.') => None,
            Decimal::Comma => billionths(&text.replace(',', ".")),
        }
    }

    /// Returns whether both columns have text that does not look like a number: a row of units.
    fn is_text(&self, time: usize, value: usize) -> bool {
        let is_text = |column| match self.text(column).first() {
            Some(byte) => !byte.is_ascii_digit() && !b"+-.,".contains(byte) && !is_not_finite(self.text(column)),
            None => false,
        };
        is_text(time) && is_text(value)
    }

    fn invalid(&self, column: usize, expected: &'static str) -> MeterError {
        let text = String::from_utf8_lossy(self.text(column)).into_owned();
        MeterError::Invalid { path: self.place(), text, expected }
    }

    /// Returns the file and the line.
    fn place(&self) -> PathBuf {
        PathBuf::from(format!("{}:{}", self.path.display(), self.reader.number()))
    }
}

#[cfg(test)]
mod tests;
