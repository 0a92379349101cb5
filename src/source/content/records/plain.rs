//! Lines of CSV whose fields stand without quotes, which most are: read in one pass. Pure.
//!
//! What is unusual, and each line that will be rejected, is left to the general way (`fields`), which gives the same for
//! every line that is read here.

use super::fields::Delimiter;
use super::number::{Decimal, number};
use super::time::{TimeUnit, is_of_clock, time, time_of_number, time_of_whole};

/// So many digits never overflow 64 bits.
const MOST_DIGITS: usize = 18;
/// Up to here an f64 holds every whole number, as it holds [`POWERS`]: their quotient is rounded once, as it should be.
const MOST_EXACT: u64 = 1 << 53;
const POWERS: [f64; MOST_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];
/// What a product with one of these has instead of the quotient may be wrong in the last two bits.
const RECIPROCALS: [f64; MOST_DIGITS + 1] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15, 1e-16, 1e-17,
    1e-18,
];
/// The bits of an f64 that an f32 has no room for; around half of them, the last two bits decide how it is rounded.
const CUT_BITS: u64 = (1 << 29) - 1;
const NEAR_HALF: std::ops::Range<u64> = (1 << 28) - 4..(1 << 28) + 4;

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
    line: &'a [u8],
    /// Where the next field begins; behind the end of the line after the last one.
    at: usize,
}

/// A number as its digits: a whole number, the last `fraction` digits of it from behind the mark.
#[derive(Debug, Clone, Copy)]
struct Digits {
    whole_number: u64,
    fraction: usize,
    is_negative: bool,
    has_mark: bool,
}

impl Digits {
    /// Returns the number, rounded once; `None` if it has too many digits to do that simply.
    fn as_f64(self) -> Option<f64> {
        let value = self.whole_number as i64 as f64 / POWERS[self.fraction];
        (self.whole_number <= MOST_EXACT).then_some(if self.is_negative { -value } else { value })
    }

    /// The same, by a product, which takes a third of the time.
    fn as_f32(self) -> Option<f32> {
        let value = self.whole_number as i64 as f64 * RECIPROCALS[self.fraction];
        let is_sure = self.whole_number <= MOST_EXACT && !NEAR_HALF.contains(&(value.to_bits() & CUT_BITS));
        // Without a jump: signs cannot be foreseen.
        is_sure.then_some(f32::from_bits((value as f32).to_bits() | u32::from(self.is_negative) << 31))
    }
}

impl<'a> PlainFields<'a> {
    /// `line` is with or without its newline.
    pub(super) fn new(dialect: Dialect, mut line: &'a [u8]) -> Option<Self> {
        while let [start @ .., b'\n' | b'\r'] = line {
            line = start;
        }
        let ends_with_semicolon = dialect.delimiter != b';' && line.trim_ascii_end().ends_with(b";");
        (!ends_with_semicolon).then_some(Self { dialect, line, at: 0 })
    }

    /// Returns whether there are no further fields.
    pub(super) fn is_at_end(&self) -> bool {
        self.at > self.line.len()
    }

    /// Takes the next field as text.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let rest = self.line.get(self.at..)?;
        let length = match memchr::memchr2(self.dialect.delimiter, b'"', rest) {
            Some(at) if rest[at] == b'"' => return None,
            Some(at) => at,
            None => rest.len(),
        };
        self.at += length + 1;
        rest.get(..length)
    }

    /// Takes the next field as a value of a channel.
    pub(super) fn value(&mut self) -> Option<f32> {
        let begun = self.at;
        let text = match self.number() {
            Some(digits) => match digits.as_f32() {
                Some(value) => return Some(value),
                None => self.taken(begun),
            },
            None => self.text()?,
        };
        number(text, self.dialect.decimal).ok()
    }

    /// Takes the next field as a time, in nanoseconds, and whether it is a date or a time of day.
    pub(super) fn time(&mut self, unit: TimeUnit) -> Option<(i64, bool)> {
        let begun = self.at;
        let Some(digits) = self.number() else {
            let text = self.text()?;
            return Some((time(text, unit, self.dialect.decimal).ok()?, is_of_clock(text)));
        };
        let ns = match digits.as_f64() {
            Some(number) if digits.has_mark => time_of_number(number, unit),
            _ if !digits.has_mark && !digits.is_negative => time_of_whole(digits.whole_number as i64, unit),
            _ => time(self.taken(begun), unit, self.dialect.decimal),
        };
        Some((ns.ok()?, false))
    }

    /// Returns the field that was taken last, and began there.
    fn taken(&self, begun: usize) -> &'a [u8] {
        self.line.get(begun..self.at - 1).unwrap_or_default()
    }

    /// Takes the next field if it is a number without anything unusual.
    #[inline(always)]
    fn number(&mut self) -> Option<Digits> {
        let is_negative = *self.line.get(self.at)? == b'-';
        let begun = self.at + usize::from(is_negative);
        let (end, whole_number, mark) = match self.few_digits(begun) {
            Some(found) => found,
            None => self.digits(begun),
        };
        let is_at_end = self.line.get(end).is_none_or(|byte| *byte == self.dialect.delimiter);
        let is_plain =
            mark.unwrap_or(end) > begun && mark.is_none_or(|mark| mark + 1 < end) && end - begun <= MOST_DIGITS;
        if !(is_at_end && is_plain) {
            return None;
        }
        self.at = end + 1;
        let fraction = mark.map_or(0, |mark| end - mark - 1);
        Some(Digits { whole_number, fraction, is_negative, has_mark: mark.is_some() })
    }

    /// Returns where the digits end that begin at `begun`, the whole number that they are, and the place of the mark among
    /// them. `None`: they do not end within eight bytes.
    ///
    /// The eight bytes are looked at together: numbers have varying lengths, and a jump for each digit would often be
    /// foreseen wrongly.
    #[inline(always)]
    fn few_digits(&self, begun: usize) -> Option<(usize, u64, Option<usize>)> {
        let word = self.word(begun)?;
        let others = others(word);
        let whole = others.trailing_zeros() as usize / 8;
        let behind = others & others.wrapping_sub(1);
        if whole == 8 {
            return None;
        }
        if (word >> (8 * whole)) as u8 != self.dialect.mark {
            return Some((begun + whole, number_of(word, whole), None));
        }
        let end = behind.trailing_zeros() as usize / 8;
        if end == 8 {
            return None;
        }
        // Without the mark.
        let before = (1 << (8 * whole)) - 1;
        let digits = (word & before) | ((word >> 8) & !before);
        Some((begun + end, number_of(digits, end - 1), Some(begun + whole)))
    }

    /// Returns eight bytes from `at` on, the first in the lowest bits; zeros behind the end of the line.
    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        let rest = self.line.get(at..)?;
        if let Some(bytes) = rest.first_chunk() {
            return Some(u64::from_le_bytes(*bytes));
        }
        Some(match self.line.last_chunk() {
            Some(bytes) if !rest.is_empty() => u64::from_le_bytes(*bytes) >> (64 - 8 * rest.len()),
            _ => rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
        })
    }

    /// As [`Self::few_digits`], of any number of digits.
    fn digits(&self, begun: usize) -> (usize, u64, Option<usize>) {
        let (mut end, mut whole_number, mut mark) = (begun, 0u64, None);
        while let Some(byte) = self.line.get(end) {
            match byte.wrapping_sub(b'0') {
                // More digits than fit are not used.
                digit @ ..10 => whole_number = whole_number.wrapping_mul(10).wrapping_add(u64::from(digit)),
                _ if *byte == self.dialect.mark && mark.is_none() => mark = Some(end),
                _ => break,
            }
            end += 1;
        }
        (end, whole_number, mark)
    }
}

/// Returns a word in which the highest bit of a byte is set if the same byte of `word` is not a digit.
fn others(word: u64) -> u64 {
    const HIGHEST: u64 = 0x8080_8080_8080_8080;
    let from_0 = (word | HIGHEST) - 0x3030_3030_3030_3030;
    let above_9 = (word & !HIGHEST) + 0x4646_4646_4646_4646;
    (!from_0 | above_9 | word) & HIGHEST
}

/// Returns the number that the first `count` bytes are, all of them digits; fewer than eight.
///
/// Neighbours are joined to pairs, pairs to fours, and these to the whole (D. Lemire, Number Parsing at a Gigabyte per
/// Second).
fn number_of(word: u64, count: usize) -> u64 {
    const PAIRS: u64 = 0x0000_00FF_0000_00FF;
    // There is no shift by all 64 bits.
    let digits = if count == 0 { 0 } else { word << (64 - 8 * count) } & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let first = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let second = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    first.wrapping_add(second) >> 32
}
