//! Times of records: numbers of a unit, and dates and times as ISO 8601 and RFC 3339 write them. Pure.

use std::borrow::Cow;

use super::number::{Decimal, number};
use super::reject::Reject;
use crate::schema::choice;

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

const SECOND_NS: i64 = 1_000_000_000;
const MINUTE_NS: i64 = 60 * SECOND_NS;
const HOUR_NS: i64 = 60 * MINUTE_NS;
const DAY_NS: i64 = 24 * HOUR_NS;

impl TimeUnit {
    const ALL: [Self; 4] = [Self::S, Self::Ms, Self::Us, Self::Ns];

    /// Returns the number of nanoseconds in this unit.
    pub fn ns(self) -> f64 {
        self.whole_ns() as f64
    }

    fn whole_ns(self) -> i64 {
        match self {
            Self::S => SECOND_NS,
            Self::Ms => 1_000_000,
            Self::Us => 1_000,
            Self::Ns => 1,
        }
    }

    /// Returns the unit in which a step is as long as it should be, if it is far off in this one; both in nanoseconds.
    pub(crate) fn that_fits(self, step_ns: f64, period_ns: f64) -> Option<Self> {
        let is_near = |unit: &Self| (0.5..=2.0).contains(&(step_ns / self.ns() * unit.ns() / period_ns));
        Self::ALL.into_iter().filter(|unit| *unit != self).find(is_near)
    }

    /// Returns in words the unit above the second in which a step is as long as it should be; the step is as it is in this one.
    pub(crate) fn longer_that_fits(self, step_ns: f64, period_ns: f64) -> Option<&'static str> {
        let units = [(MINUTE_NS, "minutes"), (HOUR_NS, "hours"), (DAY_NS, "days, as dates in a spreadsheet are")];
        let is_near = |ns: i64| (0.5..=2.0).contains(&(step_ns / self.ns() * ns as f64 / period_ns));
        units.into_iter().find(|(ns, _)| is_near(*ns)).map(|(_, name)| name)
    }

    /// Returns the unit in which a number is a time of our days, counted from 1970.
    fn of_our_days(number: f64) -> Option<Self> {
        let years = |unit: &Self| number * unit.ns() / (365.25 * DAY_NS as f64);
        Self::ALL.into_iter().find(|unit| (30.0..130.0).contains(&years(unit)))
    }
}

/// Parses the time of a record, in nanoseconds: a number of `unit`, or a date and time.
pub(crate) fn time(text: &[u8], unit: TimeUnit, decimal: Decimal) -> Result<i64, Reject> {
    if let Some(whole) = whole_number(text) {
        return time_of_whole(whole, unit);
    }
    match number::<f64>(text, decimal) {
        Ok(number) => time_of_number(number, unit),
        Err(reason) => date_time(text).ok_or(reason)?,
    }
}

/// Returns a time that is a whole number of `unit`, in nanoseconds.
pub(crate) fn time_of_whole(whole: i64, unit: TimeUnit) -> Result<i64, Reject> {
    whole.checked_mul(unit.whole_ns()).ok_or(Reject::TimeRange)
}

/// Returns a time that is a number of `unit`, in nanoseconds.
pub(crate) fn time_of_number(number: f64, unit: TimeUnit) -> Result<i64, Reject> {
    let ns = number * unit.ns();
    if !ns.is_finite() && !number.is_finite() {
        return Err(Reject::NotFinite);
    }
    if ns.abs() >= i64::MAX as f64 {
        return Err(Reject::TimeRange);
    }
    Ok(ns.round() as i64)
}

/// Parses a whole number exactly, which an f64 could not hold for nanoseconds since 1970.
fn whole_number(text: &[u8]) -> Option<i64> {
    if text.first() == Some(&b'-') && text.len() > 15 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    if text.is_empty() || text.len() > 18 {
        return if text.len() == 19 { std::str::from_utf8(text).ok()?.parse().ok() } else { None };
    }
    text.iter().try_fold(0i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// Says why a text is not a time, and what would be right.
pub(super) fn explain(text: &str, unit: TimeUnit, decimal: Decimal, reason: Reject) -> Cow<'static, str> {
    let number = text.parse::<f64>().ok();
    if let Some(other) = decimal.that_fits(text) {
        return format!("is not a time; set records.decimal = {:?}", other.name()).into();
    }
    if number.is_some() && is_date_without_signs(text) {
        return "is a date and time without signs, which is not read; write it as 20210304T120000".into();
    }
    match reason {
        Reject::TimeRange => match number.and_then(TimeUnit::of_our_days).filter(|right| *right != unit) {
            Some(right) => {
                let (unit, right) = (unit.name(), right.name());
                format!("is too large for a time in {unit}; set records.time_unit = \"{right}\"").into()
            }
            None => "is outside of the times from 1677 to 2262; check records.time_unit".into(),
        },
        _ => format!(
            "is not a time: write a number of {unit} (records.time_unit) or a date and time such as \
             2021-03-04T12:00:00.5Z",
            unit = unit.name()
        )
        .into(),
    }
}

/// Returns whether a text is digits such as `20210304120000`.
fn is_date_without_signs(text: &str) -> bool {
    let digits = text.split_once('.').map_or(text, |(digits, _)| digits);
    let with_sign = digits.get(..8).zip(digits.get(8..)).map(|(date, time)| format!("{date}T{time}"));
    digits.len() >= 12 && with_sign.is_some_and(|text| matches!(date_time(text.as_bytes()), Some(Ok(_))))
}

/// Returns whether a text that is a time is a date or a time of day, and not a number.
pub(super) fn is_of_clock(text: &[u8]) -> bool {
    text.contains(&b':') || date(&mut &text[..]).is_some()
}

/// Parses a date and time such as `2021-03-04T12:00:00.5+01:00`, a date, or a time of day. Without a zone it is taken as
/// UTC; without a date, it is counted from midnight. `Some(Err)`: no such time can be held.
fn date_time(text: &[u8]) -> Option<Result<i64, Reject>> {
    let mut rest = text;
    let days = date(&mut rest);
    let mut since_midnight = 0;
    if days.is_none() || !rest.is_empty() {
        if days.is_some() {
            let separator = rest.iter().take_while(|byte| **byte == b' ').count();
            match rest.first() {
                Some(b'T' | b't' | b'_') => rest = &rest[1..],
                _ if separator > 0 => rest = &rest[separator..],
                _ => return None,
            }
        }
        since_midnight = time_of_day(&mut rest, days.is_some())? - zone(rest)?;
    }
    let days = days.unwrap_or(0);
    Some(days.checked_mul(DAY_NS).and_then(|ns| ns.checked_add(since_midnight)).ok_or(Reject::TimeRange))
}

/// Takes a date off the front, year first. Returns the days since 1970-01-01.
fn date(rest: &mut &[u8]) -> Option<i64> {
    let mut text = *rest;
    let year = digits(&mut text, 4)?;
    let separator = text.first().copied().filter(|byte| matches!(byte, b'-' | b'/' | b'.'));
    let take = |text: &mut &[u8]| {
        if separator.is_some() {
            let (first, after) = text.split_first()?;
            if Some(*first) != separator {
                return None;
            }
            *text = after;
        }
        if separator.is_some() { one_or_two_digits(text) } else { digits(text, 2) }
    };
    let (month, day) = (take(&mut text)?, take(&mut text)?);
    // Without separators, a date alone would be a number.
    if separator.is_none() && !matches!(text.first(), Some(b'T' | b't')) {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month - 1).ok()?;
    if !(1..=*lengths.get(index)?).contains(&day) {
        return None;
    }
    // Leap days before that year, counted from year 1.
    let leap_days = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let in_year: i64 = lengths[..index].iter().sum();
    *rest = text;
    Some((year - 1970) * 365 + leap_days(year) - leap_days(1970) + in_year + day - 1)
}

/// Takes a time of day off the front. Returns the nanoseconds since midnight. Without a date before it, it must have
/// colons: hours, minutes and seconds, hours and minutes, or minutes and seconds with a fraction.
fn time_of_day(rest: &mut &[u8], after_date: bool) -> Option<i64> {
    let mut text = *rest;
    let mut hour = one_or_two_digits(&mut text)?;
    let with_colons = text.first() == Some(&b':');
    let part = |text: &mut &[u8]| {
        let mut after = *text;
        if with_colons {
            after = after.strip_prefix(b":")?;
        }
        let value = digits(&mut after, 2)?;
        *text = after;
        Some(value)
    };
    // Without colons, all parts have two digits.
    if !with_colons && (!after_date || rest.len() - text.len() != 2) {
        return None;
    }
    let mut minute = part(&mut text)?;
    let second = part(&mut text);
    let has_fraction = matches!(text.first(), Some(b'.' | b','));
    let second = match second {
        Some(second) => second,
        // In `01:02.5` the last part has the fraction, so it is seconds; spreadsheets write such times.
        None if has_fraction && with_colons && !after_date => {
            let second = minute;
            (hour, minute) = (hour / 60, hour % 60);
            second
        }
        None if has_fraction => return None,
        None => 0,
    };
    // A leap second is the second 60.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut fraction = 0;
    if let Some((b'.' | b',', after)) = text.split_first() {
        let count = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        let mut unit = SECOND_NS;
        for byte in &after[..count] {
            unit /= 10;
            fraction += unit * i64::from(byte - b'0');
        }
        text = &after[count..];
    }
    *rest = text;
    Some(hour * HOUR_NS + minute * MINUTE_NS + second * SECOND_NS + fraction)
}

/// Parses the zone at the end of a time. Returns how far it is ahead of UTC, in nanoseconds.
fn zone(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii_start();
    let sign = match text.first() {
        None => return Some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) if [&b"z"[..], b"utc", b"gmt"].iter().any(|name| text.eq_ignore_ascii_case(name)) => return Some(0),
        Some(_) => return None,
    };
    let mut text = &text[1..];
    let hours = digits(&mut text, 2)?;
    let text = text.strip_prefix(b":").unwrap_or(text);
    let minutes = match text.len() {
        0 => 0,
        2 => digits(&mut &text[..], 2)?,
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * HOUR_NS + minutes * MINUTE_NS))
}

/// Takes two digits off the front, or one if no second follows.
fn one_or_two_digits(text: &mut &[u8]) -> Option<i64> {
    digits(text, 2).or_else(|| digits(text, 1))
}

/// Takes so many digits off the front.
fn digits(text: &mut &[u8], count: usize) -> Option<i64> {
    let (first, after) = text.split_at_checked(count)?;
    let value =
        first.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))?;
    *text = after;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ns(text: &str) -> Result<i64, Reject> {
        time(text.as_bytes(), TimeUnit::S, Decimal::Point)
    }

    #[test]
    fn dates_and_times_are_read_in_every_usual_form() {
        // 2021-03-04T12:00:00Z, as `date +%s` says.
        let noon = 1_614_859_200 * SECOND_NS;
        for (text, expected) in [
            ("2021-03-04T12:00:00Z", noon),
            ("2021-03-04T12:00:00.000Z", noon),
            ("2021-03-04T12:00:00", noon),
            ("2021-03-04 12:00", noon),
            ("2021-03-04  12:00:00", noon),
            ("2021/03/04 12:00:00", noon),
            ("20210304T120000Z", noon),
            ("2021-03-04 12:00:00.123456789", noon + 123_456_789),
            ("2021-03-04 12:00:00,5", noon + SECOND_NS / 2),
            ("2021-03-04T12:00:00.1234567899Z", noon + 123_456_789),
            ("2021-03-04t13:30:00+01:30", noon),
            ("2021-03-04T13:00:00+01", noon),
            ("2021-03-04T13:00:00+0100", noon),
            ("2021-03-04 07:00:00 -05:00", noon),
            ("2021-03-04 12:00:00 UTC", noon),
            ("2021-03-04", noon - 12 * HOUR_NS),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.5Z", -SECOND_NS / 2),
            ("2000-02-29T00:00:00Z", 951_782_400 * SECOND_NS),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * SECOND_NS),
            ("12:00:00.25", 12 * HOUR_NS + SECOND_NS / 4),
            ("0:00:01.500000", SECOND_NS * 3 / 2),
            ("9:00", 9 * HOUR_NS),
            ("01:02.5", MINUTE_NS + SECOND_NS * 5 / 2),
            ("59:59,9", HOUR_NS - SECOND_NS / 10),
            ("75:00.0", HOUR_NS + 15 * MINUTE_NS),
            ("2021/3/4 12:00:00", noon),
            ("2021-3-4 9:00", noon - 3 * HOUR_NS),
        ] {
            assert_eq!(ns(text), Ok(expected), "{text}");
        }
        for text in [
            "2021-13-04T12:00:00Z",
            "2021-02-29",
            "2021-03-04T24:00:00",
            "2021-03-04T12:60:00",
            "2021-03-04 12:00.5",
            "20210304T90000",
            "20210304T1200.5",
            "2021-3-44",
            "04.03.2021 12:00:00",
            "2021-03-04T12:00:00+25",
            "2021-03-04T12:00:00 CET",
            "2021-03-04T",
            "2021-03-04T12",
            "20210304 120000",
            "noon",
            "12",
            "2021-03/04",
            "12:00:00.",
            "-",
            "2021-03-0412:00",
        ] {
            assert!(text == "12" || ns(text) == Err(Reject::Malformed), "{text}: {:?}", ns(text));
        }
        assert_eq!(ns("0001-01-01T00:00:00Z"), Err(Reject::TimeRange));
        assert_eq!(ns(""), Err(Reject::Missing));
    }

    #[test]
    fn whole_numbers_are_exact() {
        let at = |text: &str, unit| time(text.as_bytes(), unit, Decimal::Point);
        assert_eq!(at("1717971234567890123", TimeUnit::Ns), Ok(1_717_971_234_567_890_123));
        assert_eq!(at("-1717971234567890123", TimeUnit::Ns), Ok(-1_717_971_234_567_890_123));
        assert_eq!(at("1717971234567", TimeUnit::Ms), Ok(1_717_971_234_567_000_000));
        assert_eq!(at("1717971234567", TimeUnit::S), Err(Reject::TimeRange));
        assert_eq!(at("-1.5", TimeUnit::S), Ok(-1_500_000_000));
        assert_eq!(at("9999999999999999999", TimeUnit::Ns), Err(Reject::TimeRange));
        assert_eq!(at("1e300", TimeUnit::S), Err(Reject::TimeRange));
        assert_eq!(at("inf", TimeUnit::S), Err(Reject::NotFinite));
    }

    #[test]
    fn a_time_in_another_unit_names_that_unit() {
        let said = |text: &str| explain(text, TimeUnit::S, Decimal::Point, Reject::TimeRange);
        assert!(said("1717971234567").ends_with("set records.time_unit = \"ms\""), "{}", said("1717971234567"));
        assert!(said("1717971234567890123").ends_with("\"ns\""));
        assert!(said("1e300").contains("1677 to 2262"));
        assert!(said("20210304120000").contains("write it as 20210304T120000"), "{}", said("20210304120000"));
        assert!(said("20211304120000").contains("1677 to 2262"), "there is no month 13");
        assert_eq!(TimeUnit::Ms.that_fits(1e5, 1e8), Some(TimeUnit::S), "0.1 in ms, at 10 Hz");
        assert_eq!(TimeUnit::S.that_fits(2e7, 1e8), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..40), date in "[0-9T:.+Z -]{0,30}") {
            let _ = time(&text, TimeUnit::Ns, Decimal::Comma);
            let _ = time(date.as_bytes(), TimeUnit::S, Decimal::Point);
        }

        #[test]
        fn each_day_follows_the_one_before(year in 1700i64..2250, month in 1i64..13, day in 1i64..29) {
            let days = |y: i64, m: i64, d: i64| date(&mut format!("{y:04}-{m:02}-{d:02}").as_bytes());
            prop_assert_eq!(days(year, month, day).unwrap() + 1, days(year, month, day + 1)
                .or_else(|| days(year, month + 1, 1)).unwrap_or_else(|| days(year + 1, 1, 1).unwrap()));
        }
    }
}
