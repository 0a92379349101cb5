//! Numbers as text, with a point or a comma. Allocates nothing.

use fast_float2::FastFloat;

use super::reject::Reject;
use crate::schema::choice;

choice! {
    /// The decimal mark of numbers.
    #[derive(Default)]
    pub enum Decimal {
        #[default]
        Point = ".",
        Comma = ",",
    }
}

impl Decimal {
    /// Returns the other decimal mark if `text` is a number with that one only.
    pub(super) fn that_fits(self, text: &str) -> Option<Self> {
        let other = match self {
            Self::Point => Self::Comma,
            Self::Comma => Self::Point,
        };
        let is_number = |decimal| number::<f64>(text.as_bytes(), decimal).is_ok();
        (!is_number(self) && is_number(other)).then_some(other)
    }
}

/// A number with more characters is not read if it has a decimal comma.
const MAX_WITH_COMMA: usize = 64;

/// Parses a number without blanks around it.
pub(super) fn number<T: FastFloat>(text: &[u8], decimal: Decimal) -> Result<T, Reject> {
    if text.is_empty() {
        return Err(Reject::Missing);
    }
    let parsed = match decimal {
        Decimal::Point => fast_float2::parse(text),
        Decimal::Comma => {
            let mut point = [0; MAX_WITH_COMMA];
            let Some(room) = point.get_mut(..text.len()) else { return Err(Reject::Malformed) };
            for (to, from) in room.iter_mut().zip(text) {
                *to = match from {
                    b'.' => return Err(Reject::Malformed),
                    b',' => b'.',
                    other => *other,
                };
            }
            fast_float2::parse(room)
        }
    };
    parsed.map_err(|_| Reject::Malformed)
}

/// Says why a text is not a number, as far as that can be guessed.
pub(super) fn explain(text: &str, decimal: Decimal) -> String {
    let hint = if let Some(other) = decimal.that_fits(text) {
        format!("; set records.decimal = {:?}", other.name())
    } else if is_number(&text.replace([',', '.', '\'', '\u{2019}', '_', ' '], ""), decimal) {
        "; write it without marks between the thousands".to_owned()
    } else if is_number(text.trim_end_matches(|c: char| !c.is_ascii_digit()), decimal) {
        "; write it without its unit".to_owned()
    } else {
        match text.chars().find(|c| !c.is_ascii() && *c != char::REPLACEMENT_CHARACTER) {
            Some(odd) => format!("; it has the character U+{:04X}, which is not ASCII", u32::from(odd)),
            None => String::new(),
        }
    };
    format!("is not a number{hint}")
}

fn is_number(text: &str, decimal: Decimal) -> bool {
    number::<f64>(text.as_bytes(), decimal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_is_a_decimal_mark_if_it_is_said() {
        let parse = |text: &str, decimal| number::<f64>(text.as_bytes(), decimal);
        assert_eq!(parse("-0,5e1", Decimal::Comma), Ok(-5.0));
        assert_eq!(parse("7", Decimal::Comma), Ok(7.0));
        for text in ["1.234,5", "0.5", "1,2,3", &"1".repeat(70)] {
            assert_eq!(parse(text, Decimal::Comma), Err(Reject::Malformed), "{text}");
        }
        assert_eq!(parse("0,5", Decimal::Point), Err(Reject::Malformed));
        assert_eq!(parse("", Decimal::Comma), Err(Reject::Missing));
    }

    #[test]
    fn what_is_not_a_number_is_said_with_what_would_be_right() {
        assert_eq!(explain("0,5", Decimal::Point), "is not a number; set records.decimal = \",\"");
        assert_eq!(explain("0.5", Decimal::Comma), "is not a number; set records.decimal = \".\"");
        assert_eq!(explain("9.81 m/s", Decimal::Point), "is not a number; write it without its unit");
        assert_eq!(explain("three", Decimal::Point), "is not a number");
        let thousands = "is not a number; write it without marks between the thousands";
        assert_eq!(explain("1,234.5", Decimal::Point), thousands);
        assert_eq!(explain("1.234,5", Decimal::Comma), thousands);
        assert_eq!(
            explain("\u{2212}5", Decimal::Point),
            "is not a number; it has the character U+2212, which is not ASCII"
        );
    }
}
