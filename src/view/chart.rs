//! Bars of block characters: a share of a row, and columns over time. Pure.

/// Eighths of a row, from the bottom.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Eighths of a column, from the left.
const PARTS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Returns a bar from the left that fills this share of the columns.
pub(crate) fn bar(share: f64, columns: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    let full = "█".repeat((eighths / 8).min(columns));
    match (PARTS.get(eighths % 8), eighths % 8) {
        (Some(part), 1..) => format!("{full}{part}"),
        _ => full,
    }
}

/// Returns a thin bar from the left that fills this share of the columns.
pub(crate) fn thin_bar(share: f64, columns: usize) -> String {
    let halves = (share.clamp(0.0, 1.0) * columns as f64 * 2.0).round() as usize;
    format!("{}{}", "━".repeat((halves / 2).min(columns)), if halves % 2 == 1 { "╸" } else { "" })
}

/// Returns columns of that many rows, the top one first. A share of 0 still shows a line, an unknown value shows nothing.
pub(crate) fn columns(shares: &[Option<f64>], rows: usize) -> Vec<String> {
    let eighths = |share: f64| ((share.clamp(0.0, 1.0) * rows as f64 * 8.0).round() as usize).max(1);
    let heights: Vec<usize> = shares.iter().map(|share| share.map_or(0, eighths)).collect();
    let row = |row: usize| {
        let below = (rows - 1 - row) * 8;
        heights.iter().map(|height| EIGHTHS[height.saturating_sub(below).min(8)]).collect()
    };
    (0..rows).map(row).collect()
}

/// Returns the bounds of an axis for these values: from zero, unless they are close together and far from zero.
pub(crate) fn axis(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.filter(|value| value.is_finite()).fold(None, |bounds: Option<(f64, f64)>, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })?;
    let step = step((high - low).max(high.abs() * 0.02).max(1e-3) / 2.0);
    let top = (high / step).ceil() * step;
    let bottom = (low / step).floor() * step;
    let from_zero = low >= 0.0 && low < 0.5 * high;
    let bottom = if from_zero { 0.0 } else { bottom };
    Some((bottom, if top > bottom { top } else { bottom + step }))
}

/// Returns 1, 2 or 5 times a power of ten, not below `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * 0.999);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_their_share() {
        assert_eq!([0.0, 0.5, 1.0, 7.0, -1.0, f64::NAN].map(|share| bar(share, 3)), ["", "█▌", "███", "███", "", ""]);
        assert_eq!([0.0, 0.5, 1.0, f64::NAN].map(|share| thin_bar(share, 3)), ["", "━╸", "━━━", ""]);
        assert_eq!(columns(&[Some(0.0), None, Some(0.5), Some(1.0)], 2), ["   █", "▁ ██"]);
    }

    #[test]
    fn an_axis_has_round_ends_around_the_values() {
        let of = |values: &[f64]| axis(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0.1, 3.7]), Some((0.0, 4.0)));
        let (low, high) = of(&[2.5, 2.58]).unwrap();
        assert!(low <= 2.5 && high >= 2.58 && high - low < 0.3, "{low} {high}");
        for values in [&[0.0, 0.0][..], &[-3.0, 5.0], &[1e9], &[7.0, f64::NAN]] {
            let (low, high) = of(values).unwrap();
            assert!(low < high && values.iter().all(|v| v.is_nan() || (low..=high).contains(v)), "{values:?}");
        }
    }
}
