//! How a source is written that gives a stream: which key says where it reads, and what its lines or bytes hold.
//!
//! Which keys a kind needs comes from the kind's own declaration, so what is left open is what `edgewatt check` misses.

use super::recording::Columns;
use super::{Confidence, Open, Part, Stream, number, quoted, toml_list};
use crate::schema::expanded::Family;
use crate::schema::{Children, KeyDoc};
use crate::source::Source;
use crate::text::{self, counted};

/// Channels of an example whose names are written out.
const SHOWN: usize = 8;

/// What a kind reads, as far as it can be said.
enum Content {
    /// Lines of text only.
    Records,
    /// Bytes only.
    Bytes,
    /// Either.
    Any,
    /// The kind has keys of its own.
    Own,
}

/// A kind of source, and the key that says where it reads, with its value if the user names none.
struct Kind {
    name: &'static str,
    place: &'static str,
    usual: Option<&'static str>,
    content: Content,
}

const fn kind(name: &'static str, place: &'static str, usual: Option<&'static str>, content: Content) -> Kind {
    Kind { name, place, usual, content }
}

const KINDS: [Kind; 12] = [
    kind("lines", "from", Some("stdin"), Content::Records),
    kind("raw", "from", Some("stdin"), Content::Bytes),
    kind("udp", "listen", Some("127.0.0.1:5005"), Content::Any),
    kind("exec", "command", None, Content::Any),
    kind("serial", "port", None, Content::Any),
    kind("mqtt", "topic", None, Content::Any),
    kind("replay", "path", None, Content::Any),
    kind("alsa", "card", None, Content::Own),
    kind("iio", "device", None, Content::Own),
    kind("hwmon", "chip", None, Content::Own),
    kind("i2c", "bus", None, Content::Own),
    kind("spi", "device", None, Content::Own),
];

/// A source that the machine has: its kind, the keys that name it, as TOML, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub kind: String,
    pub keys: Vec<(String, toml::Value)>,
    pub what: String,
}

/// The source in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceText {
    /// Empty: none can be proposed.
    pub kind: &'static str,
    /// The keys of its table, as TOML.
    pub lines: Vec<String>,
    pub open: Vec<Open>,
    pub part: Part,
    pub notes: Vec<String>,
}

/// What the user or the machine says of the source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The kind, and where it reads: `--source KIND=WHERE`.
    pub given: Option<(&'a str, Option<&'a str>)>,
    pub found: Option<&'a Found>,
    /// The columns of the recording that is to be replayed.
    pub columns: Option<&'a Columns>,
    /// The user has named the channels.
    pub is_named: bool,
}

/// Returns the kinds that can be proposed.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// Writes the source of a stream.
///
/// # Errors
/// The kind cannot be proposed, or cannot give this stream.
pub fn write(stream: &Stream, origin: &Origin<'_>) -> Result<SourceText, String> {
    let (name, place, confidence, why) = match (origin.given, origin.found) {
        (Some((name, place)), found) => {
            let found = found.filter(|found| found.kind == name);
            let why = found.filter(|_| place.is_none()).map_or_else(|| "as you said".to_owned(), |f| f.what.clone());
            (name, place, Confidence::Known, why)
        }
        (None, Some(found)) => (found.kind.as_str(), None, Confidence::Guessed, found.what.clone()),
        (None, None) => return Ok(nothing(stream)),
    };
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| match name {
        "join" => "a join of several sources is to be written by hand: docs/sources.md".to_owned(),
        _ => format!("there is no source {name}; there are {}", kinds().collect::<Vec<_>>().join(", ")),
    })?;
    let mut writer = Writer { kind, stream, lines: Vec::new(), notes: Vec::new() };
    let found = origin.found.filter(|found| found.kind == name);
    writer.place(place, found)?;
    writer.content(place, origin, found)?;
    if matches!(kind.name, "i2c" | "spi") {
        writer.notes.push("examples/sources has files with all keys for common chips".into());
    }
    let (lines, notes) = (writer.lines, writer.notes);
    let open = missing(kind.name, &lines);
    let value = format!("{}{}", kind.name, place.map_or_else(String::new, |place| format!(" {place}")));
    Ok(SourceText { kind: kind.name, lines, open, part: Part::new("source", value, confidence, why), notes })
}

/// Returns a source that can always be opened, with which the rest of the pipeline can be checked.
pub fn stand_in(stream: &Stream) -> Result<SourceText, String> {
    let kind = if matches!(stream, Stream::Numbers { .. }) { "lines" } else { "raw" };
    write(stream, &Origin { given: Some((kind, None)), ..Origin::default() })
}

fn nothing(stream: &Stream) -> SourceText {
    let (missing, example) = match stream {
        Stream::Sound { rate_hz } => {
            ("no microphone was found", format!("source.alsa = {{ card = \"Device\", rate_hz = {rate_hz:.0} }}"))
        }
        Stream::Numbers { channels, .. } => {
            let names = if channels.len() > SHOWN { "[...]".to_owned() } else { toml_list(channels) };
            let records = format!("records = {{ channels = {names}, columns = {names} }}");
            ("no sensor that fits was found", format!("source.lines = {{ from = \"stdin\", {records} }}"))
        }
        Stream::Pictures { .. } => {
            ("no camera was found", "source.exec = { command = [\"rpicam-vid\", ...], bytes = ... }".into())
        }
    };
    let what = format!("the source that gives {}; edgewatt init --source KIND writes it", stream.in_words());
    SourceText {
        kind: "",
        lines: Vec::new(),
        open: vec![Open::new("source", what, example)],
        part: Part::new("source", "to fill in", Confidence::Unknown, format!("{missing}, and --source names none")),
        notes: Vec::new(),
    }
}

/// Returns the keys that the kind requires and the lines do not have.
fn missing(kind: &'static str, lines: &[String]) -> Vec<Open> {
    let kinds = Source::doc().kinds;
    let keys = kinds.iter().find(|doc| doc.name == kind).map(|doc| doc.table.keys.as_slice()).unwrap_or_default();
    let is_written = |doc: &&KeyDoc| lines.iter().any(|line| line.split([' ', '.', '=']).next() == Some(doc.key));
    let open = |doc: &KeyDoc| {
        let first = doc.text.split_once(". ").map_or(doc.text.as_str(), |(first, _)| first).trim_end_matches('.');
        let example = doc.example.map_or_else(|| table_example(doc), str::to_owned);
        Open::new(format!("source.{kind}.{}", doc.key), lower(first), format!("{} = {example}", doc.key))
    };
    keys.iter().filter(|doc| doc.required && !is_written(doc)).map(open).collect()
}

/// Returns the required keys of the table below a key, each with its example.
fn table_example(doc: &KeyDoc) -> String {
    let Children::Table(table) = &doc.children else { return "...".into() };
    let keys = table.keys.iter().filter(|key| key.required);
    let keys: Vec<String> = keys.map(|key| format!("{} = {}", key.key, key.example.unwrap_or("..."))).collect();
    format!("{{ {} }}", keys.join(", "))
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

struct Writer<'a> {
    kind: &'static Kind,
    stream: &'a Stream,
    lines: Vec<String>,
    notes: Vec<String>,
}

impl Writer<'_> {
    /// Writes where the source reads.
    fn place(&mut self, place: Option<&str>, found: Option<&Found>) -> Result<(), String> {
        let key = self.kind.place;
        if place.is_none()
            && let Some(value) = found.and_then(|found| found.keys.iter().find(|(name, _)| name == key))
        {
            self.lines.push(format!("{key} = {}", value.1));
            return Ok(());
        }
        let value = match (key, place.or(self.kind.usual)) {
            ("command", None) => return self.command(),
            (_, None) => return Ok(()),
            ("from", Some("stdin")) => quoted("stdin"),
            ("from", Some(path)) => {
                let how = if path.ends_with(".sock") { "socket" } else { "fifo" };
                format!("{{ {how} = {} }}", quoted(path))
            }
            ("command", Some(line)) => text::command_list(line),
            ("bus", Some(number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => number.to_owned(),
            (_, Some(value)) => quoted(value),
        };
        self.lines.push(format!("{key} = {value}"));
        if self.kind.name == "replay" {
            self.lines.push("speed = \"max\"".into());
            self.notes.push("as fast as it can be played; speed = 1.0 plays it in real time".into());
        }
        Ok(())
    }

    /// Writes the program that gives sound or pictures; for numbers, only the user knows it.
    fn command(&mut self) -> Result<(), String> {
        let command = match self.stream {
            Stream::Numbers { .. } => return Ok(()),
            Stream::Sound { rate_hz } => format!("arecord -q -t raw -f S16_LE -r {rate_hz:.0} -c 1"),
            Stream::Pictures { width, height, channels: 3 } if width.is_multiple_of(2) && height.is_multiple_of(2) => {
                self.notes.push(
                    "rpicam-vid is of Raspberry Pi OS (package rpicam-apps); for another camera, use ffmpeg: docs/sources.md. If \
                     the picture is slanted, choose a width that is a multiple of 64"
                        .into(),
                );
                format!(
                    "rpicam-vid --nopreview --timeout 0 --width {width} --height {height} --framerate 5 --codec yuv420 --flush \
                     --output -"
                )
            }
            Stream::Pictures { width, height, channels } => {
                let format = if *channels == 1 { "gray" } else { "rgb24" };
                format!(
                    "ffmpeg -nostdin -loglevel warning -f v4l2 -i /dev/video0 -vf fps=5,scale={width}:{height} -pix_fmt {format} \
                     -f rawvideo -"
                )
            }
        };
        self.lines.push(format!("command = {}", text::command_list(&command)));
        Ok(())
    }

    /// Writes what the source reads.
    fn content(&mut self, place: Option<&str>, origin: &Origin<'_>, found: Option<&Found>) -> Result<(), String> {
        let name = self.kind.name;
        let ends = |ending: &str| place.is_some_and(|place| place.to_lowercase().ends_with(ending));
        match (&self.kind.content, self.stream) {
            (Content::Own, _) => self.own(found),
            // The manifest of a recording says all of it.
            _ if name == "replay" && ends(".json") => {}
            (_, Stream::Sound { rate_hz }) if name == "replay" && (place.is_none() || ends(".wav")) => {
                self.lines.push(format!("wav = {{ select = [0], rate_hz = {} }}", number(*rate_hz)));
            }
            (_, Stream::Numbers { .. }) if name == "replay" && ends(".wav") => self.lines.push("wav = {}".into()),
            (Content::Records, Stream::Pictures { .. }) => {
                return Err(format!("source {name} reads lines of text, which hold no pictures; use exec, raw or udp"));
            }
            (Content::Records, _) | (Content::Any, Stream::Numbers { .. }) => self.records(origin),
            (Content::Bytes, _) | (Content::Any, _) => self.bytes(),
        }
        Ok(())
    }

    fn records(&mut self, origin: &Origin<'_>) {
        let sound = ["sound".to_owned()];
        let (channels, rate_hz) = match self.stream {
            Stream::Numbers { channels, rate_hz } => (channels.as_slice(), *rate_hz),
            Stream::Sound { rate_hz } => (&sound[..], Some(*rate_hz)),
            Stream::Pictures { .. } => (&[][..], None),
        };
        let columns = origin.columns.filter(|_| self.kind.name == "replay");
        let channels = columns.map_or(channels, |columns| columns.channels.as_slice());
        self.lines.push(format!("records.channels = {}", toml_list(channels)));
        match (self.kind.name, columns) {
            ("mqtt", _) => self.lines.push("records.format = \"ndjson\"".into()),
            ("replay", _) => {}
            // Without a header, the values stand in this order.
            _ => self.lines.push(format!("records.columns = {}", toml_list(channels))),
        }
        let mut text = |key: &str, value: Option<&str>| {
            self.lines.extend(value.map(|value| format!("records.{key} = {}", quoted(value))));
        };
        text("delimiter", columns.and_then(|columns| columns.delimiter));
        text("decimal", columns.filter(|columns| columns.has_decimal_comma).map(|_| ","));
        text("time", columns.and_then(|columns| columns.time.as_deref()));
        text("time_unit", columns.and_then(|columns| columns.time_unit));
        text("truth", columns.and_then(|columns| columns.truth.as_deref()));
        match rate_hz.or(columns.and_then(|columns| columns.rate_hz)) {
            Some(rate) => self.lines.push(format!("records.rate_hz = {}", number(rate))),
            None => self.lines.push("# records.rate_hz = 50.0".into()),
        }
        if columns.is_none() && !origin.is_named && self.kind.name != "replay" {
            let count = counted(channels.len(), "channel");
            self.notes
                .push(format!("the names of the {count} are not known; their order must be that of the training"));
        }
    }

    fn bytes(&mut self) {
        let bytes = match self.stream {
            Stream::Sound { rate_hz } => format!("format = \"s16le\", rate_hz = {}", number(*rate_hz)),
            Stream::Numbers { channels, rate_hz } => {
                let rate = rate_hz.map_or_else(String::new, |rate| format!(", rate_hz = {}", number(rate)));
                format!("format = \"f32le\", channels = {}{rate}", channels.len())
            }
            Stream::Pictures { width, height, channels } => {
                let is_rpicam = self.lines.iter().any(|line| line.contains("rpicam-vid"));
                let format = match channels {
                    1 => "\"gray\"",
                    _ if is_rpicam => "\"yuv420p\", range = \"full\"",
                    _ => "\"rgb24\"",
                };
                let rate = if self.kind.name == "exec" { ", rate_hz = 5.0" } else { "" };
                format!("format = {format}, width = {width}, height = {height}{rate}")
            }
        };
        self.lines.push(format!("bytes = {{ {bytes} }}"));
    }

    /// Writes the keys of kinds that say themselves what they read.
    fn own(&mut self, found: Option<&Found>) {
        let (wanted, rate_hz) = match self.stream {
            Stream::Sound { rate_hz } => (1, Some(*rate_hz)),
            Stream::Numbers { channels, rate_hz } => (channels.len(), *rate_hz),
            Stream::Pictures { .. } => (0, None),
        };
        if self.kind.name == "alsa" {
            self.lines.push(format!("rate_hz = {:.0}", rate_hz.unwrap_or(16000.0)));
            if wanted > 1 {
                self.lines.push(format!("channels = {wanted}"));
            }
            return;
        }
        let key = |name: &str| found.and_then(|found| found.keys.iter().find(|(key, _)| key == name)).map(|(_, v)| v);
        if let Some(channels) = key("channels").and_then(toml::Value::as_array).filter(|list| list.len() >= wanted) {
            let wanted: Vec<String> = channels.iter().take(wanted).map(ToString::to_string).collect();
            self.lines.push(format!("channels = [{}]", wanted.join(", ")));
        }
        let is_other = |name: &str| !matches!(name, "channels" | "rate_hz") && name != self.kind.place;
        let others = found.into_iter().flat_map(|found| &found.keys).filter(|(name, _)| is_other(name));
        let others: Vec<String> = others.map(|(name, value)| format!("{name} = {value}")).collect();
        let own = key("rate_hz").and_then(toml::Value::as_float);
        self.lines.extend(rate_hz.or(own).map(|rate| format!("rate_hz = {}", number(rate))));
        self.lines.extend(others);
    }
}
