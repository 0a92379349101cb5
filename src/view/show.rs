//! The loop of the view: messages into the model, keys into actions, and a picture of it at most ten times a second.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::lines::Lines;
use super::logs;
use super::model::{Event, Model};
use super::screen::{Look, Scene};
use super::terminal::{self, Terminal};
use super::ui::{Request, Ui, Wish};
use crate::text::plain;
use crate::units::WallTime;

/// Time between two pictures.
const PICTURE: Duration = Duration::from_millis(100);
/// How long a key or a message may wait.
const WAIT: Duration = Duration::from_millis(40);
/// The version of the lines of JSON.
const JSON_VERSION: u32 = 1;
/// Wider than any line: where there is no terminal, lines are not broken.
const UNLIMITED: usize = 1 << 20;
/// Messages that are taken before keys have their turn again.
const BATCH: usize = 2000;

/// What a feed has.
pub(crate) enum Fed {
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    /// What there is to say of the way to the messages; nothing if all is well.
    Link(Option<String>),
    Nothing,
    /// Nothing will come any more.
    End(anyhow::Result<()>),
}

/// Where messages come from.
pub(crate) trait Feed {
    /// Returns what is there, without waiting.
    fn next(&mut self) -> Fed;

    /// Returns how many messages were lost because the view was too slow.
    fn missed(&self) -> u64 {
        0
    }
}

/// Where the wishes of the person go.
pub(crate) trait Actions {
    /// Asks something of the node whose topics begin with `prefix`. The error says why that is not possible.
    fn ask(&mut self, prefix: &str, request: Request) -> Result<(), String>;

    /// The person wants to end. Returns whether the view ends at once; else it shows how the daemon stops.
    fn quit(&mut self) -> bool;
}

/// How to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Screen,
    /// Plain lines about the node of this process.
    Lines,
    /// Plain lines about the nodes of a broker.
    NodeLines,
    /// Each message as a line of JSON.
    Json,
}

impl Mode {
    /// Returns the full-screen view if there is a terminal for it.
    pub(crate) fn choose() -> Self {
        if terminal::is_there() { Self::Screen } else { Self::Lines }
    }
}

/// Why a view has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The feed has ended, or `finish` was set and all is shown.
    Finished,
    Quit,
}

/// Shows until the feed ends, the person wants to end, or `finish` is set and nothing more is there to show.
///
/// # Errors
/// The output cannot be written, or the feed has failed.
pub(crate) fn show(
    mode: Mode,
    feed: &mut impl Feed,
    actions: &mut impl Actions,
    finish: &AtomicBool,
) -> anyhow::Result<Ended> {
    match mode {
        Mode::Lines => {
            let (mut model, mut lines) = (Model::default(), Lines::of_this_node());
            write(feed, finish, |topic, payload| lines_of(&mut model, &mut lines, topic, payload))
        }
        Mode::NodeLines => {
            let columns = terminal::output_columns().unwrap_or(UNLIMITED);
            let (mut model, mut lines) = (Model::default(), Lines::of_nodes(columns));
            write(feed, finish, |topic, payload| lines_of(&mut model, &mut lines, topic, payload))
        }
        Mode::Json => write(feed, finish, |topic, payload| vec![json_line(topic, payload, WallTime::now().0)]),
        Mode::Screen => {
            let mut view = View {
                model: Model::default(),
                ui: Ui::default(),
                look: Look { colour: terminal::has_colour() },
                link: None,
                terminal: Terminal::take()?,
                drawn: None,
            };
            view.run(feed, actions, finish)
        }
    }
}

fn lines_of(model: &mut Model, lines: &mut Lines, topic: &str, payload: &[u8]) -> Vec<String> {
    let change = model.take(topic, payload, WallTime::now().0);
    lines.of(model, &change, topic)
}

/// Returns a message as one line of JSON; docs/json.md describes its fields.
fn json_line(topic: &str, payload: &[u8], received_ms: u64) -> String {
    let payload = serde_json::from_slice(payload).unwrap_or_else(|_| json!(String::from_utf8_lossy(payload)));
    json!({ "v": JSON_VERSION, "received_ms": received_ms, "topic": topic, "payload": payload }).to_string()
}

/// Writes what `lines` makes of each message.
fn write(
    feed: &mut impl Feed,
    finish: &AtomicBool,
    mut lines: impl FnMut(&str, &[u8]) -> Vec<String>,
) -> anyhow::Result<Ended> {
    let mut out = BufWriter::new(io::stdout());
    let (mut missed, mut link) = (0, None);
    loop {
        // Read before the feed: what was there when the end was asked for is shown.
        let finishing = finish.load(Ordering::Relaxed);
        match feed.next() {
            Fed::Message { topic, payload } => {
                for line in lines(&topic, &payload) {
                    writeln!(out, "{line}")?;
                }
            }
            Fed::Link(text) if text == link => {}
            Fed::Link(text) => {
                if let Some(text) = &text {
                    tracing::warn!("{text}");
                }
                link = text;
            }
            Fed::End(result) => {
                out.flush()?;
                return result.map(|()| Ended::Finished);
            }
            Fed::Nothing => {
                if feed.missed() > missed {
                    tracing::warn!("messages not shown, because the output is too slow: {}", feed.missed() - missed);
                    missed = feed.missed();
                }
                out.flush()?;
                if finishing {
                    return Ok(Ended::Finished);
                }
                std::thread::sleep(WAIT);
            }
        }
    }
}

/// The full-screen view while it is shown.
struct View {
    model: Model,
    ui: Ui,
    look: Look,
    link: Option<String>,
    terminal: Terminal,
    /// When the last picture was drawn.
    drawn: Option<Instant>,
}

impl View {
    fn run(&mut self, feed: &mut impl Feed, actions: &mut impl Actions, finish: &AtomicBool) -> anyhow::Result<Ended> {
        let mut changed = true;
        loop {
            let finishing = finish.load(Ordering::Relaxed);
            let (took, ended) = self.take(feed);
            changed |= took;
            let now_ms = WallTime::now().0;
            changed |= self.warnings(now_ms) | self.ui.tick(&self.model, now_ms);
            // Without a message, the time since the last one is what changes.
            let is_due = |after| self.drawn.is_none_or(|drawn| drawn.elapsed() >= after);
            if (changed && is_due(PICTURE)) || is_due(Duration::from_secs(1)) || self.terminal.is_resized() {
                self.draw(now_ms)?;
                changed = false;
            }
            if let Some(result) = ended {
                return result.map(|()| Ended::Finished);
            }
            if finishing && !took {
                return Ok(Ended::Finished);
            }
            for key in self.terminal.keys(WAIT)? {
                changed = true;
                match self.ui.press(key, &self.model, now_ms) {
                    Some(Wish::Quit) => {
                        if actions.quit() {
                            return Ok(Ended::Quit);
                        }
                        self.ui.stopping = true;
                        self.ui.notify("stopping: what has arrived is still decided and sent".to_owned(), now_ms);
                    }
                    Some(Wish::Ask(prefix, request)) => {
                        if let Err(reason) = actions.ask(&prefix, request) {
                            self.ui.notify(reason, now_ms);
                        }
                    }
                    None => {}
                }
            }
        }
    }

    /// Takes what the feed has. Returns whether it had anything, and the result if it has ended.
    fn take(&mut self, feed: &mut impl Feed) -> (bool, Option<anyhow::Result<()>>) {
        let mut took = false;
        for _ in 0..BATCH {
            match feed.next() {
                Fed::Message { topic, payload } => {
                    self.model.take(&topic, &payload, WallTime::now().0);
                }
                Fed::Link(link) => self.link = link,
                Fed::Nothing => break,
                Fed::End(result) => return (true, Some(result)),
            }
            took = true;
        }
        self.model.missed = feed.missed();
        (took, None)
    }

    /// Shows warnings of the log as events of the only node.
    fn warnings(&mut self, now_ms: u64) -> bool {
        let warnings = logs::take_warnings();
        let any = !warnings.is_empty();
        if let Some(node) = self.model.nodes.values_mut().next() {
            for (is_error, message) in warnings {
                let event = if is_error { "error" } else { "warning" }.to_owned();
                let message = plain(&message);
                node.event(Event { time_ms: now_ms, event, pipeline: None, message });
            }
        }
        any
    }

    fn draw(&mut self, now_ms: u64) -> io::Result<()> {
        let Self { model, ui, look, link, terminal, drawn } = self;
        *drawn = Some(Instant::now());
        terminal.draw(&Scene { model, ui, look: *look, now_ms, link: link.as_deref() })
    }
}
