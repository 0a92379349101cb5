//! How the results of a bench are shown: as a table in the terminal, as CSV, and as a page with plots.
//!
//! Pure: reads a report and returns text.

pub mod csv;
pub mod html;
mod plot;
pub mod results;
pub mod table;

use crate::measure::bench::report::{CellReport, Energy, Expanded};
use crate::measure::bench::statistics::{Difference, Estimate};

/// Returns a number with three significant digits, without an exponent.
fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    let rounded = format!("{value:.*}", usize::try_from(digits).unwrap_or(0));
    // 9.996 has one digit more when it is rounded.
    if rounded.len() > 4
        && rounded.contains('.')
        && rounded.trim_start_matches('-').parse::<f64>().is_ok_and(|r| r >= 100.0)
    {
        return format!("{value:.0}");
    }
    rounded
}

/// Returns a value and its interval, such as `1.23 (1.20 to 1.26)`.
fn with_interval(of: Estimate) -> String {
    match (of.low, of.high) {
        (Some(low), Some(high)) => {
            let digits = decimals(of.value, (high - low) / 2.0);
            format!("{:.digits$} ({low:.digits$} to {high:.digits$})", of.value)
        }
        _ => number(of.value),
    }
}

/// Returns a value and the larger half of its interval, such as `1.23 ± 0.03`.
fn with_half(of: Estimate) -> String {
    match (of.low, of.high) {
        (Some(low), Some(high)) => plus_minus(of.value, (high - of.value).max(of.value - low)),
        _ => number(of.value),
    }
}

/// Returns energy with its expanded uncertainty, such as `1.23 ± 0.05`.
fn with_uncertainty(of: Expanded) -> String {
    match of.expanded {
        Some(expanded) => plus_minus(of.value, expanded),
        None => format!("{} (estimated)", number(of.value)),
    }
}

fn plus_minus(value: f64, u: f64) -> String {
    let digits = decimals(value, u);
    format!("{value:.digits$} ± {u:.digits$}")
}

/// Returns the decimals that show an uncertainty with two digits; no more than five digits of the value.
fn decimals(value: f64, u: f64) -> usize {
    let of = |value: f64, digits: i32| digits - 1 - value.abs().log10().floor() as i32;
    let wanted = if u > 0.0 { of(u, 2) } else { i32::MAX };
    let most = if value == 0.0 { wanted } else { of(value, 5) };
    usize::try_from(wanted.min(most).clamp(0, 9)).unwrap_or(0)
}

/// Returns in words how a cell differs from the baseline: a ratio, or that no difference shows.
fn difference(of: Difference) -> String {
    match (of.low, of.high) {
        (Some(low), Some(high)) => {
            let digits = decimals(of.ratio, (high - low) / 2.0);
            let interval = format!("{low:.digits$} to {high:.digits$}");
            match of.is_real() {
                true => format!("{:.digits$} times ({interval})", of.ratio),
                false => format!("no difference shows ({interval})"),
            }
        }
        _ => format!("{} times; more rounds are needed to tell if that is real", number(of.ratio)),
    }
}

/// Returns the cell's energy by that meter.
fn energy<'a>(cell: &'a CellReport, meter: Option<&str>) -> Option<&'a Energy> {
    meter.and_then(|meter| cell.energy.get(meter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 1.0, 0.012_345, 9.999, 99.96, 123.4, 12_345.6, -0.5, 1e-5].map(number);
        assert_eq!(plus_minus(0.013_9, 0.000_135), "0.01390 ± 0.00014");
        assert_eq!([plus_minus(34_564.2, 5779.4), plus_minus(2.0, 0.0)], ["34564 ± 5779", "2.0000 ± 0.0000"]);
        assert_eq!(shown, ["0", "1.00", "0.0123", "10.00", "100", "123", "12346", "-0.500", "0.0000100"]);
    }
}
