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
    let other = match decimal {
        Decimal::Point => Decimal::Comma,
        Decimal::Comma => Decimal::Point,
    };
    let hint = if number::<f64>(text.as_bytes(), other).is_ok() {
        format!("; set records.decimal = {:?}", other.name())
    } else {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        match number::<f64>(digits.as_bytes(), decimal) {
            Ok(_) => "; write it without its unit".to_owned(),
            Err(_) => String::new(),
        }
    };
    format!("is not a number{hint}")
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
    }
}
