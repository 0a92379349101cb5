//! Lines of CSV whose fields stand without quotes, which most are: read in one pass. Pure.
//!
//! What is unusual, and each line that will be rejected, is left to the general way (`fields`), which gives the same for
//! every line that is read here.

use super::fields::Delimiter;
use super::number::{Decimal, number};
use super::time::{TimeUnit, is_of_clock, time, time_of_number, time_of_whole};

/// So many digits never overflow 64 bits.
const MOST_DIGITS: usize = 18;
/// Up to here an f64 holds every whole number, and powers of ten up to [`MOST_DIGITS`] anyway: a quotient of two such
/// numbers is rounded once, as a parser of decimal numbers rounds it.
const MOST_EXACT: u64 = 1 << 53;
const POWERS: [f64; MOST_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];
/// The bits of an f64 that an f32 has no room for, and their value half-way between two f32.
const CUT_BITS: u64 = (1 << 29) - 1;
const HALF_WAY: u64 = 1 << 28;

/// What separates fields, and the decimal mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    delimiter: u8,
    decimal: Decimal,
    mark: u8,
}

impl Dialect {
    /// Returns `None` for lines that all have to go the general way.
    pub(super) fn new(delimiter: Delimiter, decimal: Decimal) -> Option<Self> {
        let mark = match decimal {
            Decimal::Point => b'.',
            Decimal::Comma => b',',
        };
        let delimiter = match delimiter {
            Delimiter::Comma => b',',
            Delimiter::Semicolon => b';',
            Delimiter::Tab => b'\t',
            Delimiter::Bar => b'|',
            Delimiter::Blank => return None,
        };
        (delimiter != mark).then_some(Self { delimiter, decimal, mark })
    }
}

/// The fields of a line, from left to right. `None`, from any of its methods: the line has to go the general way.
pub(super) struct PlainFields<'a> {
    dialect: Dialect,
    /// What follows the last delimiter; `None` after the last field.
    rest: Option<&'a [u8]>,
}

/// A field that is to be a number.
enum Digits<'a> {
    /// All `digits` as one whole number, the last `fraction` of them after the mark.
    Plain { text: &'a [u8], is_negative: bool, digits: u64, fraction: usize, has_mark: bool },
    Other(&'a [u8]),
}

impl<'a> PlainFields<'a> {
    /// `line` is with or without its newline.
    pub(super) fn new(dialect: Dialect, mut line: &'a [u8]) -> Option<Self> {
        while let [start @ .., b'\n' | b'\r'] = line {
            line = start;
        }
        let ends_with_semicolon = dialect.delimiter != b';' && line.trim_ascii_end().ends_with(b";");
        (!ends_with_semicolon).then_some(Self { dialect, rest: Some(line) })
    }

    /// Returns whether there are no further fields.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_none()
    }

    /// Takes the field up to `end`, the place of a delimiter or the end of the line.
    fn take(&mut self, rest: &'a [u8], end: usize) -> &'a [u8] {
        self.rest = rest.get(end + 1..);
        &rest[..end]
    }

    /// Takes the next field as text.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let end = match memchr::memchr2(self.dialect.delimiter, b'"', rest) {
            Some(at) if rest[at] == b'"' => return None,
            Some(at) => at,
            None => rest.len(),
        };
        Some(self.take(rest, end))
    }

    /// Takes the next field as a value of a channel.
    pub(super) fn value(&mut self) -> Option<f32> {
        match self.digits()? {
            Digits::Plain { text, is_negative, digits, fraction, .. } => {
                let exact = quotient(is_negative, digits, fraction)
                    .filter(|exact| exact.to_bits() & CUT_BITS != HALF_WAY)
                    .map(|exact| exact as f32);
                exact.or_else(|| self.number(text))
            }
            Digits::Other(text) => self.number(text),
        }
    }

    /// Takes the next field as a time, in nanoseconds, and whether it is a date or a time of day.
    pub(super) fn time(&mut self, unit: TimeUnit) -> Option<(i64, bool)> {
        let parsed = match self.digits()? {
            Digits::Plain { is_negative: false, has_mark: false, digits, .. } => {
                time_of_whole(i64::try_from(digits).ok()?, unit)
            }
            Digits::Plain { text, is_negative, digits, fraction, has_mark: true } => {
                match quotient(is_negative, digits, fraction) {
                    Some(number) => time_of_number(number, unit),
                    None => time(text, unit, self.dialect.decimal),
                }
            }
            Digits::Plain { text, .. } => time(text, unit, self.dialect.decimal),
            Digits::Other(text) => return Some((time(text, unit, self.dialect.decimal).ok()?, is_of_clock(text))),
        };
        Some((parsed.ok()?, false))
    }

    fn number(&self, text: &[u8]) -> Option<f32> {
        number(text, self.dialect.decimal).ok()
    }

    /// Takes the next field, which is to be a number.
    fn digits(&mut self) -> Option<Digits<'a>> {
        let rest = self.rest?;
        let is_negative = rest.first() == Some(&b'-');
        let (mut at, mut digits) = (usize::from(is_negative), 0);
        let begun = at;
        take_digits(rest, &mut at, &mut digits);
        let whole = at - begun;
        let has_mark = rest.get(at) == Some(&self.dialect.mark);
        let mut fraction = 0;
        if has_mark {
            at += 1;
            let begun = at;
            take_digits(rest, &mut at, &mut digits);
            fraction = at - begun;
        }
        let is_at_end = rest.get(at).is_none_or(|byte| *byte == self.dialect.delimiter);
        let is_plain = whole > 0 && has_mark == (fraction > 0) && whole + fraction <= MOST_DIGITS;
        if is_at_end && is_plain {
            let text = self.take(rest, at);
            return Some(Digits::Plain { text, is_negative, digits, fraction, has_mark });
        }
        self.text().map(Digits::Other)
    }
}

/// Takes digits from `at` on, and appends them to the whole number `digits`.
fn take_digits(text: &[u8], at: &mut usize, digits: &mut u64) {
    while let Some(digit) = text.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        // More digits than fit are not used.
        *digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        *at += 1;
    }
}

/// Returns the number, rounded once; `None` if it has more digits than that is possible for.
fn quotient(is_negative: bool, digits: u64, fraction: usize) -> Option<f64> {
    let number = digits as f64 / POWERS[fraction];
    (digits <= MOST_EXACT).then_some(if is_negative { -number } else { number })
}
