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
use crate::schema::{Checker, Key, table};
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
        /// The column of power, in watts.
        pub watts: Option<String>, otherwise("none"), example("\"power_w\"");
        /// The column of cumulative energy, in joules, instead of `watts`.
        pub joules: Option<String>, otherwise("none"), example("\"energy_j\"");
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
        }
    }

    fn build(&self, name: &str, _: &Surroundings) -> Box<dyn Meter> {
        let value = match (&self.watts, &self.joules) {
            (Some(column), _) => Value::Watts(column.clone()),
            (None, column) => Value::Joules(column.clone().unwrap_or_default()),
        };
        let (time_unit, delimiter, decimal) = (self.time_unit, self.delimiter, self.decimal);
        let columns = Columns { time: self.time.clone(), time_unit, value, delimiter, decimal };
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

/// The columns of a trace, by the names in its first line.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    pub time: String,
    pub time_unit: TimeUnit,
    pub value: Value,
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
        let info = MeterInfo { name: name.to_owned(), kind: "replay", scope, estimated: false, detail: Vec::new() };
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
        let number = i64::try_from(lines.billionths(value, NUMBER)?).map_err(|_| lines.invalid(value, NUMBER))?;
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

    fn billionths(&self, column: usize, expected: &'static str) -> Result<i128, MeterError> {
        self.number(column).ok_or_else(|| self.invalid(column, expected))
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
mod tests {
    use proptest::prelude::*;

    use super::super::tree::Tree;
    use super::*;

    fn columns(value: Value) -> Columns {
        let (delimiter, decimal) = (Delimiter::Comma, Decimal::Point);
        Columns { time: "time_s".to_owned(), time_unit: TimeUnit::S, value, delimiter, decimal }
    }

    fn watts() -> Columns {
        columns(Value::Watts("power_w".to_owned()))
    }

    fn meter(tree: &Tree, columns: Columns) -> Replay {
        Replay::new("trace", &tree.path("trace.csv"), columns, Scope::Board)
    }

    fn trace(text: &str) -> Tree {
        Tree::new(&[("trace.csv", text)])
    }

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn a_reading_is_the_latest_row_at_its_own_time() {
        let tree = trace("what,time_s,power_w\nx,100.0,2\nx,100.5,4\n\nx,\"101.0\",6\nx,102,6\n");
        let mut meter = meter(&tree, watts());
        let first = meter.read_at(ms(7000)).unwrap();
        assert_eq!((first.time, first.joules, first.power), (ms(7000), Joules(0.0), Some(Watts(2.0))));
        assert_eq!(meter.read_at(ms(7499)).unwrap(), first);
        let third = meter.read_at(ms(8600)).unwrap();
        assert_eq!((third.time, third.joules, third.power), (ms(8000), Joules(4.0), Some(Watts(6.0))));
        let last = meter.read_at(ms(9000)).unwrap();
        assert_eq!((last.time, last.joules, last.scope), (ms(9000), Joules(10.0), Scope::Board));
        assert_eq!(meter.read_at(ms(900_000)).unwrap(), last, "nothing is made up after the end");
        let detail = meter.info().detail.join("; ");
        assert!(detail.ends_with("trace.csv: 4 rows, 2.000 s, 10 J"), "{detail}");
    }

    #[test]
    fn joules_count_from_the_first_row() {
        let tree = trace("time_s,energy_j\n0,70.5\n1,73\n4,73\n");
        let mut meter = meter(&tree, columns(Value::Joules("energy_j".to_owned())));
        assert_eq!(meter.read_at(ms(0)).unwrap().power, None);
        let second = meter.read_at(ms(1500)).unwrap();
        assert_eq!((second.time, second.joules, second.power), (ms(1000), Joules(2.5), Some(Watts(2.5))));
        assert_eq!(meter.read_at(ms(4000)).unwrap().power, Some(Watts(0.0)));
    }

    /// A made-up trace of a 5 V supply at 4 Hz: its total in exact integers, and the same bits however it is read.
    #[test]
    fn the_total_is_exact_and_the_same_bits_whenever_it_is_read() {
        let power_64ths = |i: u64| 160 + (i * 37) % 128;
        let rows: String =
            (0..4000).map(|i| format!("{},{}\n", i as f64 / 4.0, power_64ths(i) as f64 / 64.0)).collect();
        let tree = trace(&format!("time_s,power_w\n{rows}"));
        // Trapezoids: 1/4 s times half the sum of two 64ths of a watt.
        let total_512ths: u64 = (1..4000).map(|i| power_64ths(i - 1) + power_64ths(i)).sum();
        let run = |step_ms: u64| {
            let mut meter = meter(&tree, watts());
            let readings = (0..).map(|i| meter.read_at(ms(5000 + i * step_ms)).unwrap());
            let readings: Vec<_> = readings.take(usize::try_from(1_000_000 / step_ms + 2).unwrap()).collect();
            assert!(readings.windows(2).all(|pair| pair[0].joules <= pair[1].joules && pair[0].time <= pair[1].time));
            readings.last().unwrap().joules.0
        };
        for step_ms in [7, 100, 250, 999] {
            assert_eq!(run(step_ms).to_bits(), (total_512ths as f64 / 512.0).to_bits());
        }
    }

    #[test]
    fn numbers_are_kept_to_the_billionth() {
        for (text, expected) in [
            ("0", 0),
            ("2.65", 2_650_000_000),
            ("+.5", 500_000_000),
            ("7.", 7_000_000_000),
            ("-0.1", -100_000_000),
            ("1700000000.123456789", 1_700_000_000_123_456_789),
            ("1700000000000000000", 1_700_000_000_000_000_000_000_000_000),
            ("0.0000000004999", 0),
            ("0.0000000005", 1),
            ("3.5e-3", 3_500_000),
            ("9E-10", 1),
            ("4e-10", 0),
            ("9e-11", 0),
            ("9e-300", 0),
            ("1.25e3", 1_250_000_000_000),
        ] {
            assert_eq!(billionths(text), Some(expected), "{text}");
        }
        for text in ["", "-", ".", "e3", "1e", "1,5", "0x10", "+-1", "1.2.3", "nan", "inf", "1e400", "1 2"] {
            assert_eq!(billionths(text), None, "{text}");
        }
    }

    proptest! {
        /// Every decimal of nine places that a number can have, against integers.
        #[test]
        fn a_sum_is_the_number_nearest_to_the_exact_one(
            rows in prop::collection::vec((1u64..3_000_000_000, 0u64..20_000_000_000), 2..60),
            epoch_s in 0u64..2_000_000_000,
        ) {
            let nano = |n: u64| format!("{}.{:09}", n / 1_000_000_000, n % 1_000_000_000);
            let (mut now, mut exact, mut text) = (epoch_s * 1_000_000_000, 0u128, "time_s,power_w\n".to_owned());
            for (index, (step, watts)) in rows.iter().enumerate() {
                // The largest step is no gap for the others.
                let step = 600_000_000 + step / 1000;
                now += step;
                if index > 0 {
                    exact += u128::from(rows[index - 1].1 + watts) * u128::from(step);
                }
                text += &format!("{},{}\n", nano(now), nano(*watts));
            }
            let tree = trace(&text);
            let mut meter = meter(&tree, watts());
            meter.read_at(ms(0)).unwrap();
            // Half attojoules to joules, as a decimal of 19 places.
            let expected: f64 = format!("{}e-19", exact * 5).parse().unwrap();
            prop_assert_eq!(meter.read_at(ms(1_000_000)).unwrap().joules.0.to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn a_gap_in_the_powers_is_not_joined_over() {
        let tree = trace("time_s,power_w\n0,2\n1,2\n2,2\n3,2\n9,2\n10,2\n");
        let mut meter = meter(&tree, watts());
        assert_eq!(meter.read_at(ms(0)).unwrap().joules, Joules(0.0));
        assert_eq!(meter.read_at(ms(8999)).unwrap().joules, Joules(6.0));
        let error = meter.read_at(ms(9000)).unwrap_err();
        assert!(matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("a gap before 9.000 s"));
        assert_eq!(meter.read_at(ms(10_000)).unwrap().joules, Joules(8.0));
    }

    #[test]
    fn units_of_time_other_than_seconds() {
        let tree = trace("t,p\n1700000000000,1\n1700000000250,1\n");
        let columns = columns(Value::Watts("p".to_owned()));
        let mut meter = meter(&tree, Columns { time: "t".to_owned(), time_unit: TimeUnit::Ms, ..columns });
        meter.read_at(ms(0)).unwrap();
        assert_eq!(meter.read_at(ms(250)).unwrap().joules, Joules(0.25));
    }

    #[test]
    fn each_fault_of_a_trace_is_named_with_its_line() {
        for (text, part) in [
            ("", "trace.csv: read \"\", expected a header and two rows or more"),
            ("time_s,power_w\n0,1\n", "trace.csv: read \"\", expected a header and two rows"),
            ("time_s,watts\n0,1\n", "trace.csv:1: no column `power_w`; found: time_s, watts"),
            ("time_s,power_w\n0,1\n1,\n", "trace.csv:3: read \"\", expected a finite number"),
            ("time_s,power_w\n0,1\n1\n", "trace.csv:3: read \"\", expected a finite number"),
            ("time_s,power_w\n0,1\n1,inf\n", "trace.csv:3: read \"inf\", expected a finite number"),
            ("time_s,power_w\n0,1\n1,-0.1\n", "trace.csv:3: read \"-0.1\", expected watts of 0 or more"),
            ("time_s,power_w\n0,1\n\n0,1\n", "trace.csv:4: read \"0\", expected a time after that"),
            (
                "time_s,power_w,power_w\n0,1,2\n",
                "trace.csv:1: column `power_w` is there twice, as column 2 and as column 3",
            ),
            ("time_s;power_w\n0;1\n", "trace.csv:1: no column `time_s`; found: time_s;power_w"),
            ("\u{feff}# by hand\ntime_s,power_w\ns,W\n0,1\n\n1,x\n", "trace.csv:6: read \"x\", expected a finite"),
            ("time_s,power_w\n0,1\n1,\"2,5\"\n", "trace.csv:3: read \"2,5\", expected a finite number"),
            ("time_s,power_w\n5,1\n4,1\n", "trace.csv:3: read \"4\", expected a time after that"),
            ("time_s,power_w\nnan,1\n", "trace.csv:2: read \"nan\", expected a finite time"),
            ("time_s,power_w\n0,1\n1,1e10\n", "trace.csv:3: read \"1e10\", expected a finite number"),
        ] {
            let error = meter(&trace(text), watts()).read_at(ms(0)).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in {error}");
        }
        let tree = trace("time_s,energy_j\n0,2\n1,1\n");
        let error = meter(&tree, columns(Value::Joules("energy_j".to_owned()))).read_at(ms(0)).unwrap_err().to_string();
        assert!(error.contains("trace.csv:3: read \"1\", expected cumulative joules"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_or_none_is_an_error_and_a_mended_one_is_played() {
        let tree = Tree::new(&[]);
        let mut meter = meter(&tree, watts());
        assert!(meter.read_at(ms(0)).unwrap_err().to_string().contains("trace.csv: no such file"));
        std::fs::create_dir(tree.path("trace.csv")).unwrap();
        assert!(meter.read_at(ms(0)).unwrap_err().to_string().contains("trace.csv: not a regular file"));
        tree.remove("trace.csv");
        tree.write("trace.csv", "time_s,power_w\n0,1\n1,1\n");
        assert_eq!(meter.read_at(ms(500)).unwrap().time, ms(500));
    }
}
