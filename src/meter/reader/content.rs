//! What a line from an instrument holds: its values, each with the step of its last digit.
//!
//! Pure. JSON by pointers (RFC 6901), or columns counted from 1.

use serde_json::Value as Json;

use super::keys::Units;
use crate::source::records::Decimal;
use crate::source::records::fields::{Delimiter, Fields};

/// The quantities that a line may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Quantities<T> {
    pub power: T,
    pub voltage: T,
    pub current: T,
    pub energy: T,
}

impl<T> Quantities<T> {
    fn try_map<U, E>(&self, mut to: impl FnMut(&T) -> Result<U, E>) -> Result<Quantities<U>, E> {
        Ok(Quantities {
            power: to(&self.power)?,
            voltage: to(&self.voltage)?,
            current: to(&self.current)?,
            energy: to(&self.energy)?,
        })
    }
}

/// A value in watts, volts, amperes or joules, and the step of its last digit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    pub number: f64,
    pub step: f64,
}

/// The values of one line.
pub(super) type Values = Quantities<Option<Value>>;

/// Where in a line the values are.
#[derive(Debug)]
pub(super) enum Places {
    Json(Quantities<Option<String>>),
    /// Columns from 1.
    Columns(Quantities<Option<u16>>, Fields),
}

/// How a line becomes values.
#[derive(Debug)]
pub(super) struct Content {
    places: Places,
    units: Units,
    decimal: Decimal,
}

impl Content {
    pub(super) fn of_json(pointers: Quantities<Option<String>>, units: Units, decimal: Decimal) -> Self {
        Self { places: Places::Json(pointers), units, decimal }
    }

    pub(super) fn of_columns(
        columns: Quantities<Option<u16>>,
        delimiter: Delimiter,
        units: Units,
        decimal: Decimal,
    ) -> Self {
        Self { places: Places::Columns(columns, Fields::new(delimiter)), units, decimal }
    }

    /// Whether a line is a JSON object, which may stand on several lines.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.places, Places::Json(_))
    }

    /// Returns the values of a line.
    ///
    /// # Errors
    /// What was expected, in words.
    pub(super) fn values(&mut self, line: &[u8]) -> Result<Values, String> {
        let Self { places, units, decimal } = self;
        let found = match places {
            Places::Json(pointers) => {
                let json: Json = serde_json::from_slice(line).map_err(|_| "a JSON object".to_owned())?;
                pointers.try_map(|pointer| pointer.as_ref().map(|pointer| at_pointer(&json, pointer)).transpose())?
            }
            Places::Columns(columns, fields) => {
                let count = fields.split(line.trim_ascii());
                columns.try_map(|column| {
                    column.map(|column| at_column(line.trim_ascii(), fields, count, column)).transpose()
                })?
            }
        };
        let number = |text: Option<Text>, unit: (&'static str, f64)| {
            text.map(|Text { place, text }| {
                let value = number(&text, unit.0, *decimal);
                let Value { number, step } =
                    value.ok_or_else(|| format!("a number of {} at {place}, which has {text:?}", unit.0))?;
                Ok::<_, String>(Value { number: number * unit.1, step: step * unit.1 })
            })
            .transpose()
        };
        Ok(Quantities {
            power: number(found.power, units.power.written())?,
            voltage: number(found.voltage, units.voltage.written())?,
            current: number(found.current, units.current.written())?,
            energy: number(found.energy, units.energy.written())?,
        })
    }
}

/// The text of a number, and where it was.
struct Text {
    place: String,
    text: String,
}

fn at_pointer(json: &Json, pointer: &str) -> Result<Text, String> {
    let text = match json.pointer(pointer) {
        Some(Json::Number(number)) => number.to_string(),
        Some(Json::String(text)) => text.clone(),
        Some(_) => return Err(format!("a number at {pointer}")),
        None => return Err(format!("a JSON object with {pointer}")),
    };
    Ok(Text { place: pointer.to_owned(), text })
}

fn at_column(line: &[u8], fields: &Fields, count: usize, column: u16) -> Result<Text, String> {
    let index = usize::from(column).checked_sub(1).filter(|index| *index < count);
    let index = index.ok_or_else(|| format!("at least {column} columns, and not {count}"))?;
    Ok(Text { place: format!("column {column}"), text: fields.text(line, index).into_owned() })
}

/// Returns a number in its unit, which may stand behind it; `None` if the text is something else.
fn number(text: &str, unit: &str, decimal: Decimal) -> Option<Value> {
    let text = text.trim();
    // Of another unit the number would mean something else, so only that one may stand there.
    let digits = text.strip_suffix(unit).filter(|digits| digits.ends_with(|c: char| c.is_ascii_digit() || c == ' '));
    let digits = digits.unwrap_or(text).trim_end();
    let digits = match decimal {
        Decimal::Point => digits.to_owned(),
        Decimal::Comma if digits.contains('.') => return None,
        Decimal::Comma => digits.replace(',', "."),
    };
    let number = digits.parse().ok().filter(|number: &f64| number.is_finite())?;
    Some(Value { number, step: step(&digits) })
}

/// Returns the step of the last digit of a number, such as 0.01 of `1.23` and 0.1 of `1.23e1`.
fn step(digits: &str) -> f64 {
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let exponent: i32 = exponent.parse().unwrap_or(0);
    10f64.powi(exponent.saturating_sub(i32::try_from(decimals).unwrap_or(i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Value as _;

    fn units() -> Units {
        Units::missing().unwrap()
    }

    #[test]
    fn a_number_has_the_step_of_its_last_digit_and_its_own_unit_only() {
        for (text, expected) in [
            ("12.34", Some((12.34, 0.01))),
            (" +5 ", Some((5.0, 1.0))),
            ("1.2340E+01", Some((12.34, 0.001))),
            ("-0.5", Some((-0.5, 0.1))),
            ("12.3W", Some((12.3, 0.1))),
            ("12.3 W", Some((12.3, 0.1))),
            ("12.3 mW", None),
            ("12,3", None),
            ("W", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
        ] {
            let found = number(text, "W", Decimal::Point);
            match (found, expected) {
                (Some(found), Some((value, step))) => {
                    assert!((found.number - value).abs() < 1e-9 && (found.step / step - 1.0).abs() < 1e-9, "{text}");
                }
                (found, expected) => assert_eq!((found, expected), (None, None), "{text}"),
            }
        }
        assert_eq!(number("12,5", "W", Decimal::Comma).unwrap(), Value { number: 12.5, step: 0.1 });
        assert_eq!(number("1.234,5", "W", Decimal::Comma), None);
    }

    #[test]
    fn a_line_that_lacks_a_value_says_what_was_expected() {
        let pointers = Quantities { power: Some("/apower".to_owned()), ..Quantities::default() };
        let mut json = Content::of_json(pointers, units(), Decimal::Point);
        for (line, expected) in [
            ("online", "a JSON object"),
            ("{\"id\":0}", "a JSON object with /apower"),
            ("{\"apower\":null}", "a number at /apower"),
            ("{\"apower\":\"on\"}", "a number of W at /apower, which has \"on\""),
        ] {
            assert_eq!(json.values(line.as_bytes()).unwrap_err(), expected);
        }
        let columns = Quantities { voltage: Some(1), current: Some(3), ..Quantities::default() };
        let mut csv = Content::of_columns(columns, Delimiter::Comma, units(), Decimal::Point);
        assert_eq!(csv.values(b"5.0,1\r\n").unwrap_err(), "at least 3 columns, and not 2");
        assert_eq!(csv.values(b"5.0,x,A\n").unwrap_err(), "a number of A at column 3, which has \"A\"");
        let values = csv.values(b"5.01,x,0.250\r\n").unwrap();
        assert_eq!(values.voltage.unwrap(), Value { number: 5.01, step: 0.01 });
        assert_eq!((values.current.unwrap().number, values.power), (0.25, None));
    }
}
