//! Plots as SVG: axes, marks and lines, each plot a file of its own.
//!
//! Owns the drawing. Lines and marks differ in shape as well as in colour, so that a plot can be read in grey.

use std::fmt::Write as _;

const WIDTH: f64 = 480.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Colours that people with any colour vision tell apart (Okabe and Ito, Color Universal Design), without the light yellow.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9"];
const DASHES: [&str; 4] = ["", "7 3", "2 3", "8 3 2 3"];

/// An axis from one value to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    title: String,
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// Returns a logarithmic axis that holds the values above 0; `None` if there are none.
    pub(super) fn log(title: &str, values: impl Iterator<Item = f64>) -> Option<Self> {
        let values = values.filter(|value| *value > 0.0 && value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        // Some room on both sides.
        low.is_finite().then(|| Self { title: title.to_owned(), low: low / 1.25, high: high * 1.25, is_log: true })
    }

    /// Returns where a value is on the axis, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        match self.is_log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
        .clamp(0.0, 1.0)
    }

    /// Returns the values with a mark: 1, 2 and 5 in each decade, or only 1 if there are many decades; equal steps if that gives
    /// fewer than three.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let from = self.low.log10().floor() as i32;
        let to = self.high.log10().ceil() as i32;
        let all = (from..=to).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        let found: Vec<f64> = all.filter(|value| (self.low..=self.high).contains(value)).collect();
        if found.len() > 2 { found } else { self.equal_steps() }
    }

    /// Returns multiples of 1, 2 or 5 times a power of ten, five at most.
    fn equal_steps(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0].into_iter().find(|unit| unit * power >= rough).unwrap_or(10.0);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|multiple| multiple as f64 * step).collect()
    }
}

/// A plot that is being drawn.
pub(super) struct Plot {
    x: Axis,
    y: Option<Axis>,
    height: f64,
    body: String,
}

impl Plot {
    pub(super) fn new(x: Axis, y: Axis) -> Self {
        let mut plot = Self { x, y: Some(y), height: 330.0, body: String::new() };
        plot.draw_axes();
        plot
    }

    /// Returns a plot with so many rows, one below the other, instead of an axis.
    pub(super) fn of_rows(x: Axis, rows: usize) -> Self {
        let mut plot = Self { x, y: None, height: TOP + BOTTOM + ROW * rows as f64, body: String::new() };
        plot.draw_axes();
        plot
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * self.x.part(value)
    }

    fn at_y(&self, value: f64) -> f64 {
        let part = self.y.as_ref().map_or(0.0, |y| y.part(value));
        self.height - BOTTOM - (self.height - TOP - BOTTOM) * part
    }

    fn draw_axes(&mut self) {
        let (bottom, right) = (self.height - BOTTOM, WIDTH - RIGHT);
        for value in self.x.ticks() {
            let x = self.at_x(value);
            self.line([x, TOP, x, bottom], "#ddd", 1.0, "");
            self.text(x, bottom + 17.0, "middle", &tick(value));
        }
        for value in self.y.as_ref().map(Axis::ticks).unwrap_or_default() {
            let y = self.at_y(value);
            self.line([LEFT, y, right, y], "#ddd", 1.0, "");
            self.text(LEFT - 6.0, y + 4.0, "end", &tick(value));
        }
        self.line([LEFT, bottom, right, bottom], "#333", 1.0, "");
        self.line([LEFT, TOP, LEFT, bottom], "#333", 1.0, "");
        let title = self.x.title.clone();
        self.text((LEFT + right) / 2.0, self.height - 10.0, "middle", &title);
        if let Some(title) = self.y.as_ref().map(|y| escaped(&y.title)) {
            let middle = (TOP + bottom) / 2.0;
            let _ = write!(
                self.body,
                "<text x=\"14\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle:.1})\">{title}</text>"
            );
        }
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: f64, dash: &str) {
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let _ = write!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>"
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        let _ = write!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }

    /// Draws a line through points, in the style of a series.
    pub(super) fn curve(&mut self, series: usize, points: &[(f64, f64)]) {
        let shown: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.at_x(*x), self.at_y(*y))).collect();
        let dash = DASHES[series / COLOURS.len() % DASHES.len()];
        let dash = if dash.is_empty() { DASHES[series % DASHES.len()] } else { dash };
        let _ = write!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
            shown.join(" "),
            colour(series)
        );
    }

    /// Draws the line of a front: thin and grey, in steps.
    pub(super) fn steps(&mut self, points: &[(f64, f64)]) {
        for pair in points.windows(2) {
            let [(x1, y1), (x2, y2)] = [pair[0], pair[1]].map(|(x, y)| (self.at_x(x), self.at_y(y)));
            self.line([x1, y1, x2, y1], "#777", 1.2, "4 3");
            self.line([x2, y1, x2, y2], "#777", 1.2, "4 3");
        }
    }

    /// Draws a mark with its number, and bars over the intervals in both directions.
    pub(super) fn mark(&mut self, series: usize, at: (f64, f64), x: Option<(f64, f64)>, y: Option<(f64, f64)>) {
        let (left, top) = (self.at_x(at.0), self.at_y(at.1));
        if let Some((low, high)) = x {
            let (low, high) = (self.at_x(low), self.at_x(high));
            self.line([low, top, high, top], colour(series), 1.5, "");
        }
        if let Some((low, high)) = y {
            let (low, high) = (self.at_y(low), self.at_y(high));
            self.line([left, low, left, high], colour(series), 1.5, "");
        }
        let fill = colour(series);
        let shape = match series % 4 {
            0 => format!("<circle cx=\"{left:.1}\" cy=\"{top:.1}\" r=\"5\" fill=\"{fill}\"/>"),
            1 => format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" fill=\"{fill}\"/>",
                left - 4.5,
                top - 4.5
            ),
            2 => format!("<path d=\"M{left:.1} {:.1}l5.5 10h-11z\" fill=\"{fill}\"/>", top - 6.0),
            _ => format!("<path d=\"M{left:.1} {:.1}l6 6-6 6-6-6z\" fill=\"{fill}\"/>", top - 6.0),
        };
        self.body.push_str(&shape);
        self.text(left + 8.0, top - 6.0, "start", &(series + 1).to_string());
    }

    /// Draws the number of a curve beside one of its points.
    pub(super) fn label(&mut self, series: usize, at: (f64, f64)) {
        let (x, y) = (self.at_x(at.0), self.at_y(at.1));
        self.text(x - 4.0, y - 5.0, "end", &(series + 1).to_string());
    }

    /// Draws how often each class of values came, as a shape on a row, with lines at some of the values.
    pub(super) fn distribution(&mut self, row: usize, classes: &[(f64, u64)], marks: &[f64]) {
        let base = TOP + ROW * (row as f64 + 1.0) - 4.0;
        let most = classes.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1) as f64;
        for (bound, count) in classes {
            let lower = bound / 10f64.powf(1.0 / 20.0);
            let (left, right) = (self.at_x(lower), self.at_x(*bound));
            let height = (ROW - 10.0) * *count as f64 / most;
            let _ = write!(
                self.body,
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\" fill-opacity=\"0.55\"/>",
                base - height,
                (right - left).max(0.8),
                colour(row)
            );
        }
        for value in marks {
            let x = self.at_x(*value);
            self.line([x, base - ROW + 12.0, x, base], "#111", 1.4, "");
        }
        self.line([LEFT, base, WIDTH - RIGHT, base], "#bbb", 0.8, "");
        self.text(LEFT - 8.0, base - 3.0, "end", &(row + 1).to_string());
    }

    /// Returns the plot as a file.
    pub(super) fn svg(self, title: &str) -> String {
        let (height, body) = (self.height, self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#111\"><title>{}</title>\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>{body}</svg>",
            escaped(title)
        )
    }
}

/// The height of a row.
const ROW: f64 = 34.0;

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// Returns the text of a tick without needless zeros.
fn tick(value: f64) -> String {
    match value {
        1e6.. => return format!("{}M", tick(value / 1e6)),
        1e4.. => return format!("{}k", tick(value / 1e3)),
        ..1e-4 => return format!("{value:e}"),
        _ => {}
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns text as HTML and SVG have it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let axis = Axis::log("t", [0.03, 0.4].into_iter()).unwrap();
        assert_eq!(axis.ticks().into_iter().map(tick).collect::<Vec<_>>(), ["0.05", "0.1", "0.2", "0.5"]);
        let narrow = Axis::log("t", [0.028, 0.031].into_iter()).unwrap();
        assert_eq!(narrow.ticks().into_iter().map(tick).collect::<Vec<_>>(), ["0.025", "0.03", "0.035"]);
        let wide = Axis::log("t", [0.001, 1000.0].into_iter()).unwrap();
        assert_eq!(wide.ticks().len(), 7);
        assert_eq!(Axis::log("t", [0.0, f64::NAN].into_iter()), None);
    }

    #[test]
    fn names_cannot_end_a_tag() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
