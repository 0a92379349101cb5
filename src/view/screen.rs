//! Draws the model at any size: what matters most is kept where there is little room. Pure.
//!
//! `plan` shares the rows among the sections; each section draws itself into the rows that it gets. Colour is an addition
//! only: everything is also said by words or shapes.

mod panels;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};

use super::model::Model;
use super::ui::{Overlay, Shown, Ui};
use super::words::{ago, clock};
use crate::text::{cut, width, wrap};

/// Two panels fit beside each other from this width on.
const WIDE: u16 = 72;
/// A node is silent after this time without a message.
const SILENT_MS: u64 = 15_000;
/// The column in which rows begin that have a name before them.
const GUTTER: usize = 11;

/// How the screen looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub colour: bool,
}

impl Look {
    fn colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn title(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// For what is right, wrong, or neither.
    fn right(self, right: Option<bool>) -> Style {
        self.colour(match right {
            Some(true) => Color::Green,
            Some(false) => Color::Red,
            None => Color::Cyan,
        })
    }

    fn state(self, state: &str) -> Style {
        self.colour(match state {
            "running" | "online" => Color::Green,
            "failed" => Color::Red,
            "degraded" | "paused" | "offline" => Color::Yellow,
            _ => Color::Reset,
        })
    }
}

/// What is drawn, and when.
pub(crate) struct Scene<'a> {
    pub model: &'a Model,
    pub ui: &'a Ui,
    pub look: Look,
    pub now_ms: u64,
    /// What there is to say of the way to the messages.
    pub link: Option<&'a str>,
}

/// A part of the screen to write on; what does not fit is cut.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    look: Look,
}

impl Canvas<'_> {
    fn width(&self) -> usize {
        usize::from(self.area.width)
    }

    fn height(&self) -> usize {
        usize::from(self.area.height)
    }

    /// Writes a text; returns the column after it.
    fn text(&mut self, x: usize, y: usize, text: &str, style: Style) -> usize {
        if y >= self.height() || x >= self.width() {
            return x;
        }
        let text = cut(text, self.width() - x);
        let place = |at: u16, by: usize| at.saturating_add(u16::try_from(by).unwrap_or(u16::MAX));
        // What was there before leaves no trace.
        let style = Style::reset().patch(style);
        let (end, _) = self.buffer.set_stringn(place(self.area.x, x), place(self.area.y, y), text, usize::MAX, style);
        usize::from(end.saturating_sub(self.area.x))
    }

    /// Writes a text that ends before column `end`.
    fn right(&mut self, end: usize, y: usize, text: &str, style: Style) {
        self.text(end.saturating_sub(width(text)), y, text, style);
    }

    /// Draws a line with a title.
    fn rule(&mut self, y: usize, title: &str) -> usize {
        let line = "─".repeat(self.width());
        self.text(0, y, &line, self.look.quiet());
        self.text(1, y, &format!(" {title} "), self.look.title())
    }

    fn part(&mut self, x: usize, y: usize, columns: usize, rows: usize) -> Canvas<'_> {
        let at = |base: u16, by: usize| base.saturating_add(u16::try_from(by).unwrap_or(u16::MAX));
        let wanted = Rect::new(
            at(self.area.x, x),
            at(self.area.y, y),
            u16::try_from(columns).unwrap_or(u16::MAX),
            u16::try_from(rows).unwrap_or(u16::MAX),
        );
        Canvas { area: wanted.intersection(self.area), buffer: self.buffer, look: self.look }
    }
}

/// A part of the screen, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Nodes,
    Decision,
    History,
    Energy,
    Power,
    Latency,
    Delegate,
    Events,
}

const ORDER: [Section; 8] = [
    Section::Nodes,
    Section::Decision,
    Section::History,
    Section::Energy,
    Section::Power,
    Section::Latency,
    Section::Delegate,
    Section::Events,
];

/// Shares the rows among the sections: each step raises one to a height, the most important first. A step that does not
/// fit is passed over, unless the section can use less.
fn plan(columns: u16, rows: usize, pipelines: usize, has_power: bool) -> [usize; 8] {
    use Section::{Decision, Delegate, Energy, Events, History, Latency, Nodes, Power};
    let wide = columns >= WIDE;
    let several = pipelines > 1;
    // Section, height, and whether less than that is of use.
    let steps: &[(Section, usize, bool)] = &[
        (Decision, 2, true),
        (Energy, 1, true),
        (Latency, 1, true),
        (Delegate, if wide { 0 } else { 1 }, true),
        (Events, 1, true),
        (History, 2, true),
        (Nodes, usize::from(several), true),
        (Energy, 2, true),
        (Latency, 2, true),
        (Delegate, if wide { 0 } else { 2 }, true),
        (Energy, 3, true),
        (Power, if has_power { 4 } else { 0 }, false),
        (Events, 2, true),
        (Decision, 3, true),
        (Latency, 6, !wide),
        (Energy, 4, true),
        (Power, if has_power { 5 } else { 0 }, true),
        (Delegate, if wide { 0 } else { 4 }, true),
        (Events, 4, true),
        (Decision, 5, false),
        (Energy, 5, true),
        (Nodes, if several { pipelines.min(6) + 1 } else { 0 }, false),
        (Events, 6, true),
        (History, 3, true),
        (Power, if has_power { 8 } else { 0 }, true),
        (Latency, 8, true),
        (Nodes, if several { pipelines + 1 } else { 0 }, true),
        (Events, 12, true),
        (Power, if has_power { 12 } else { 0 }, true),
        (Events, rows, true),
    ];
    let mut heights = [0; 8];
    let mut left = rows;
    for (section, height, may_be_less) in steps {
        let Some(at) = ORDER.iter().position(|known| known == section) else { continue };
        let wanted = height.saturating_sub(heights[at]);
        if wanted <= left || *may_be_less {
            let given = wanted.min(left);
            heights[at] += given;
            left -= given;
        }
    }
    heights
}

/// Draws everything.
pub(crate) fn draw(buffer: &mut Buffer, scene: &Scene<'_>) {
    let area = buffer.area;
    buffer.reset();
    let mut canvas = Canvas { buffer, area, look: scene.look };
    let (columns, rows) = (canvas.width(), canvas.height());
    if rows < 4 || columns < 20 {
        canvas.text(0, 0, "too small", scene.look.strong());
        return;
    }
    match scene.ui.shown(scene.model) {
        None => waiting(&mut canvas, scene),
        Some(shown) => {
            header(&mut canvas, scene, &shown);
            let heights = plan(area.width, rows - 2, shown.count, !shown.node.meters.is_empty());
            let mut y = 1;
            for (section, height) in ORDER.into_iter().zip(heights) {
                if height > 0 {
                    draw_section(&mut canvas.part(0, y, columns, height), section, scene, &shown);
                }
                y += height;
            }
        }
    }
    footer(&mut canvas, scene);
    match &scene.ui.overlay {
        Overlay::None => {}
        Overlay::Help => boxed(&mut canvas, "Help", &HELP, None),
        Overlay::Delegates(place) => {
            if let Some(shown) = scene.ui.shown(scene.model) {
                let active = shown.pipeline.delegate.as_ref().map(|delegate| delegate.active.as_str());
                let names = Ui::delegates(shown.node).into_iter().enumerate().map(|(at, name)| {
                    let mark = if at == *place { "›" } else { " " };
                    let now = if Some(name) == active { "  in use" } else { "" };
                    format!("{mark} {name}{now}")
                });
                let mut lines: Vec<String> = names.collect();
                lines.extend([String::new(), "Enter: use it  d: next  Esc: back".to_owned()]);
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                boxed(&mut canvas, &format!("Run {} by", shown.name), &lines, Some(*place));
            }
        }
    }
}

const HELP: [&str; 14] = [
    "q        quit; in the daemon's own view also stop the daemon",
    "p        pause the pipeline, or go on",
    "d        choose the delegate that runs the model",
    "← → Tab  another pipeline or node",
    "?        this help",
    "",
    "net      energy that an inference adds to idle",
    "gross    energy with its share of idle power",
    "±        the true value is inside, in 95 of 100 cases",
    "half in  half of the answers took at most this long",
    "waiting  a sample waits until its window is taken",
    "sending  from the answer to the MQTT connection",
    "",
    "Times of the day are UTC.",
];

fn draw_section(canvas: &mut Canvas<'_>, section: Section, scene: &Scene<'_>, shown: &Shown<'_>) {
    match section {
        Section::Nodes => panels::nodes(canvas, scene, shown),
        Section::Decision => panels::decision(canvas, shown.pipeline),
        Section::History => panels::history(canvas, shown.pipeline),
        Section::Energy => panels::energy(canvas, shown.pipeline),
        Section::Power => panels::power(canvas, shown.node, shown.pipeline),
        Section::Latency if canvas.area.width >= WIDE => {
            let (columns, rows) = (canvas.width(), canvas.height());
            let left = if columns >= 120 { columns / 2 } else { 42.min(columns / 2 + 2) };
            panels::latency(&mut canvas.part(0, 0, left - 1, rows), shown.pipeline);
            panels::delegate(&mut canvas.part(left, 0, columns - left, rows), shown.pipeline);
        }
        Section::Latency => panels::latency(canvas, shown.pipeline),
        Section::Delegate => panels::delegate(canvas, shown.pipeline),
        Section::Events => panels::events(canvas, scene, shown),
    }
}

fn header(canvas: &mut Canvas<'_>, scene: &Scene<'_>, shown: &Shown<'_>) {
    let look = scene.look;
    let silent_ms = scene.now_ms.saturating_sub(shown.node.seen_ms);
    let time = if silent_ms >= SILENT_MS {
        format!("last message {} ", ago(silent_ms))
    } else {
        format!("{} UTC ", clock(shown.node.time_ms))
    };
    let end = canvas.width().saturating_sub(width(&time) + 1);
    canvas.right(canvas.width(), 0, &time, look.quiet());
    let left = &mut canvas.part(0, 0, end, 1);
    let mut x = left.text(1, 0, &shown.node.name, look.strong());
    x = left.text(x, 0, " › ", look.quiet());
    x = left.text(x, 0, shown.name, look.strong());
    let (state, reason) = if shown.node.online == Some(false) {
        ("offline", None)
    } else if scene.ui.stopping {
        ("stopping", None)
    } else {
        (shown.pipeline.state.as_deref().unwrap_or(""), shown.pipeline.reason.as_deref())
    };
    x = left.text(x + 2, 0, state, look.state(state).add_modifier(Modifier::BOLD));
    if let Some(reason) = reason {
        left.text(x, 0, &format!(": {reason}"), Style::new());
    }
}

fn footer(canvas: &mut Canvas<'_>, scene: &Scene<'_>) {
    let y = canvas.height() - 1;
    let (columns, look) = (canvas.width(), scene.look);
    if let Some(text) = scene.ui.notice().or(scene.link) {
        canvas.text(1, y, text, look.colour(Color::Yellow).add_modifier(Modifier::BOLD));
        return;
    }
    let shown = scene.ui.shown(scene.model);
    let pause = if shown.is_some_and(|shown| shown.pipeline.is_paused()) { "go on" } else { "pause" };
    let several = shown.is_some_and(|shown| shown.count > 1);
    let mut keys = vec![("q", "quit"), ("p", pause), ("d", "delegate")];
    if several {
        keys.push(("←→", "pipeline"));
    }
    keys.push(("?", "help"));
    let mut x = 1;
    for (key, what) in keys {
        if x + width(key) + 1 + width(what) > columns {
            break;
        }
        x = canvas.text(x, y, key, look.strong());
        x = canvas.text(x + 1, y, what, look.quiet()) + 3;
    }
}

fn waiting(canvas: &mut Canvas<'_>, scene: &Scene<'_>) {
    canvas.text(1, 0, "edgewatt", scene.look.strong());
    let columns = canvas.width() - 2;
    for (row, line) in wrap("Waiting for the first message.", columns).iter().enumerate() {
        canvas.text(1, 2 + row, line, Style::new());
    }
}

/// Draws a box in the middle.
fn boxed(canvas: &mut Canvas<'_>, title: &str, lines: &[&str], chosen: Option<usize>) {
    let wide = lines.iter().map(|line| width(line)).chain([width(title) + 2]).max().unwrap_or(0);
    let (columns, rows) = ((wide + 4).min(canvas.width()), (lines.len() + 2).min(canvas.height()));
    let (x, y) = ((canvas.width() - columns) / 2, (canvas.height() - rows) / 2);
    let frame = canvas.look.title();
    let mut part = canvas.part(x, y, columns, rows);
    let inner = columns.saturating_sub(2);
    part.text(0, 0, &format!("╭{}╮", "─".repeat(inner)), frame);
    part.text(2, 0, &format!(" {title} "), frame);
    for row in 1..rows.saturating_sub(1) {
        part.text(0, row, &format!("│{}│", " ".repeat(inner)), frame);
        let style = if chosen == Some(row - 1) { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if let Some(line) = lines.get(row - 1) {
            part.text(2, row, &cut(line, columns.saturating_sub(4)), style);
        }
    }
    part.text(0, rows.saturating_sub(1), &format!("╰{}╯", "─".repeat(inner)), frame);
}

#[cfg(test)]
mod tests;
