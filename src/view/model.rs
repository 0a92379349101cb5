//! The state of the view, made from messages: nodes, pipelines, meters, events. Pure; the time is passed in.
//!
//! Messages are untrusted: whatever is missing stays unknown, text is cleaned and cut, and everything kept is bounded.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::publish::payload::drop_in_words;
use crate::text::plain;

const MAX_NODES: usize = 64;
const MAX_PIPELINES: usize = 64;
const MAX_METERS: usize = 32;
const MAX_FIGURES: usize = 32;
const MAX_VALUES: usize = 64;
const MAX_DELEGATES: usize = 32;
const MAX_LOSSES: usize = 32;
/// As many as the widest terminals have columns.
const MAX_HISTORY: usize = 512;
const MAX_MOMENTS: usize = 2048;
const MAX_POWER: usize = 2048;
pub(crate) const MAX_EVENTS: usize = 100;

/// The stages whose latency is published, in the order of a sample's way.
pub(crate) const STAGES: [&str; 5] = ["source", "features", "invoke", "publish", "end_to_end"];

/// All that the view knows.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// By the topic before the node's own part, such as `edgewatt/demo`.
    pub nodes: BTreeMap<String, Node>,
    /// Messages that the view could not read.
    pub unreadable: u64,
    /// Messages that did not reach the view, because it was too slow.
    pub missed: u64,
}

/// One node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub name: String,
    /// `None` until it is known; a view in the daemon's process does not get it.
    pub online: Option<bool>,
    /// The delegates in the configuration, apart from `cpu` and `xnnpack`.
    pub delegates: Vec<String>,
    pub pipelines: BTreeMap<String, Pipeline>,
    pub meters: BTreeMap<String, Meter>,
    /// The latest is last.
    pub events: VecDeque<Event>,
    /// Answers to commands so far.
    pub answers: usize,
    /// The newest time in a message, in milliseconds since 1970, by the node's clock.
    pub time_ms: u64,
    /// When the latest message arrived, by the clock of the view.
    pub seen_ms: u64,
    /// Messages that were not delivered, by what and why.
    pub undelivered: Vec<(String, u64)>,
    pub process: Process,
}

/// The daemon as a process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub cpu_s: Option<f64>,
    pub rss_mib: Option<f64>,
    pub soc_temperature_c: Option<f64>,
    pub clock_mhz: Option<f64>,
    /// What slows the processor down.
    pub throttled: Vec<String>,
}

/// One pipeline.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    pub state: Option<String>,
    pub reason: Option<String>,
    pub delegate: Option<Delegate>,
    pub decision: Option<Decision>,
    /// The latest is last.
    pub history: VecDeque<Past>,
    /// Decisions that agree with the truth, and decisions whose truth is known.
    pub right: u64,
    pub known: u64,
    /// A score below 0 or above 1 was seen, so scores are values and not shares.
    pub is_measure: bool,
    /// When inferences were made: the time of the window's last sample.
    pub moments: VecDeque<u64>,
    pub metrics: Option<Metrics>,
    /// `None` without a gate, and before anything is known of it.
    pub gate: Option<Gate>,
    /// When the state and the metrics were published, by the node's clock.
    pub status_ms: u64,
    pub metrics_ms: u64,
    boot: String,
    seq: Option<u64>,
    /// The latest decision came on the topic `state` alone.
    is_from_state: bool,
    /// Predictions whose number never came.
    pub missing: u64,
}

/// The latest decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    pub verdict: Verdict,
    pub truth: Option<String>,
    pub seq: Option<u64>,
    pub latency_us: Option<f64>,
    pub time_ms: u64,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// No label: the score is below the threshold. Several can hold at once; the others are in `also`.
    Label { label: Option<String>, score: Option<f64>, also: Vec<String> },
    /// Named values; outputs without names are numbered.
    Values(Vec<(String, Option<f64>)>),
}

/// A decision in the history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Past {
    pub label: Option<String>,
    /// The score, or the first value.
    pub value: Option<f64>,
    /// Whether it agrees with the truth, if that is known.
    pub right: Option<bool>,
}

/// Which delegate runs, and the proof.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Delegate {
    pub requested: String,
    pub active: String,
    pub reason: Option<String>,
    pub warnings: Vec<String>,
    pub isolation: Option<String>,
    pub library: Option<String>,
    pub nodes_total: Option<u64>,
    pub nodes_delegated: Option<u64>,
    pub partitions: Option<u64>,
    /// Operators that stay on the runtime's own kernels.
    pub on_cpu: Vec<(String, u64)>,
    pub fully_accelerated: Option<bool>,
    pub parity: Option<Parity>,
}

/// The comparison with the runtime's own kernels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parity {
    pub windows: u64,
    pub difference: Option<f64>,
    pub tolerance: Option<f64>,
    pub top1: Option<f64>,
}

/// The figures of one interval.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metrics {
    pub interval_s: Option<f64>,
    pub predictions_per_s: Option<f64>,
    /// By stage, as in [`STAGES`]: p50 and p99.
    pub latency_us: [Option<(f64, f64)>; 5],
    /// The node has no broker, so nothing is sent.
    pub no_broker: bool,
    pub energy: Vec<Energy>,
    pub samples: Option<u64>,
    pub predictions: Option<u64>,
    /// What was lost since the start, in words, and how often.
    pub lost: Vec<(String, u64)>,
}

/// Whether windows go to the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Gate {
    pub open: bool,
    pub level: Option<f64>,
    pub threshold: Option<f64>,
}

/// The energy of an inference by one meter.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Energy {
    pub status: Status,
    pub meter: Option<String>,
    pub kind: Option<String>,
    pub scope: Option<String>,
    pub reason: Option<String>,
    pub gross_j: Option<f64>,
    pub gross_expanded_j: Option<f64>,
    pub net_j: Option<f64>,
    pub net_expanded_j: Option<f64>,
    pub mean_w: Option<f64>,
    pub idle_w: Option<f64>,
    pub window_s: Option<f64>,
}

/// How a figure was obtained; the best is first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Measured,
    Attributed,
    Replayed,
    Estimated,
    #[default]
    Unavailable,
}

/// One meter.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub estimated: bool,
    pub power_w: Option<f64>,
    pub reason: Option<String>,
    /// Time in milliseconds and mean power since the one before; no power while the meter is away.
    pub readings: VecDeque<(u64, Option<f64>)>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub time_ms: u64,
    pub event: String,
    pub pipeline: Option<String>,
    pub message: String,
}

/// What a topic is about.
enum About<'a> {
    Status,
    Info,
    Event,
    Meter(&'a str),
    Pipeline(&'a str, &'a str),
}

/// Splits a topic into the node's prefix and what the message is about; `None` if it is not for people. Names are free: a
/// meter can be called `event`, and a node `power`.
fn split<'a>(topic: &'a str, message: Option<&Value>) -> Option<(&'a str, About<'a>)> {
    let (rest, kind) = topic.rsplit_once('/')?;
    let Some(message) = message else {
        return (kind == "status").then_some((rest, About::Status));
    };
    if let Some((before, name)) = rest.rsplit_once('/') {
        if let Some(node) = before.strip_suffix("/p")
            && matches!(kind, "status" | "prediction" | "state" | "metrics")
        {
            return Some((node, About::Pipeline(name, kind)));
        }
        let is_reading = message.get("power_w").is_some();
        if name == "power" && is_reading {
            return Some((before, About::Meter(kind)));
        }
    }
    match kind {
        "event" if message["event"].is_string() => Some((rest, About::Event)),
        "info" if message["pipelines"].is_object() => Some((rest, About::Info)),
        _ => None,
    }
}

/// What a message was, for who writes it as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing for people, or nothing new.
    None,
    Unreadable,
    Online(String),
    Prediction(String, String),
    Metrics(String, String),
    PipelineStatus(String, String),
    Event(String),
}

impl Model {
    /// Takes a message that arrived at `now_ms`. Returns what changed.
    pub(crate) fn take(&mut self, topic: &str, payload: &[u8], now_ms: u64) -> Change {
        if payload.is_empty() {
            self.forget(topic);
            return Change::None;
        }
        let presence = match payload {
            b"online" => Some(true),
            b"offline" => Some(false),
            _ => None,
        };
        let message = match presence {
            Some(_) => None,
            None => match serde_json::from_slice::<Value>(payload) {
                Ok(message) => Some(message),
                Err(_) => {
                    self.unreadable += 1;
                    return Change::Unreadable;
                }
            },
        };
        let Some((prefix, about)) = split(topic, message.as_ref()) else { return Change::None };
        let Some(node) = self.node(prefix, now_ms) else { return Change::None };
        let Some(message) = message else {
            node.online = presence;
            return Change::Online(prefix.to_owned());
        };
        let time_ms = message["time_ms"].as_u64().unwrap_or(now_ms);
        node.time_ms = node.time_ms.max(time_ms);
        match about {
            About::Status => Change::None,
            About::Info => {
                node.info(&message);
                Change::None
            }
            About::Event => {
                node.event(Event {
                    time_ms,
                    event: text(&message["event"]).unwrap_or_default(),
                    pipeline: text(&message["pipeline"]),
                    message: text(&message["message"]).unwrap_or_default(),
                });
                Change::Event(prefix.to_owned())
            }
            About::Meter(name) => {
                node.reading(name, &message, time_ms);
                Change::None
            }
            About::Pipeline(name, kind) => node.of_pipeline(prefix, name, kind, &message, time_ms),
        }
    }

    /// A retained message was removed: what it was about is no longer there.
    fn forget(&mut self, topic: &str) {
        let Some((rest, kind)) = topic.rsplit_once('/') else { return };
        if kind == "status" && self.nodes.remove(rest).is_some() {
            return;
        }
        let Some((before, name)) = rest.rsplit_once('/') else { return };
        if let Some(node) = before.strip_suffix("/p").and_then(|prefix| self.nodes.get_mut(prefix)) {
            node.pipelines.remove(name);
        } else if name == "power"
            && let Some(node) = self.nodes.get_mut(before)
        {
            node.meters.remove(kind);
        }
    }

    /// Returns the node, which is new if it was never heard of; `None` if there are too many.
    fn node(&mut self, prefix: &str, now_ms: u64) -> Option<&mut Node> {
        if !self.nodes.contains_key(prefix) {
            if self.nodes.len() >= MAX_NODES {
                return None;
            }
            let name = plain(prefix.rsplit('/').next().unwrap_or(prefix));
            self.nodes.insert(prefix.to_owned(), Node { name, ..Node::default() });
        }
        let node = self.nodes.get_mut(prefix)?;
        node.seen_ms = now_ms;
        Some(node)
    }
}

impl Node {
    pub(crate) fn event(&mut self, event: Event) {
        self.answers += usize::from(event.is_answer());
        push(&mut self.events, event, MAX_EVENTS);
    }

    fn info(&mut self, message: &Value) {
        let names = message["delegates"].as_array().into_iter().flatten();
        self.delegates = names.filter_map(text).take(MAX_DELEGATES).collect();
        for (name, pipeline) in message["pipelines"].as_object().into_iter().flatten() {
            if let Some(known) = entry(&mut self.pipelines, name, MAX_PIPELINES) {
                known.delegate = delegate(&pipeline["delegate"]).or(known.delegate.take());
            }
        }
        // Pipelines that a reload has removed.
        if let Some(now) = message["pipelines"].as_object() {
            self.pipelines.retain(|name, _| now.contains_key(name));
        }
    }

    fn reading(&mut self, name: &str, message: &Value, time_ms: u64) {
        let Some(meter) = entry(&mut self.meters, name, MAX_METERS) else { return };
        meter.estimated = message["estimated"].as_bool().unwrap_or(false);
        meter.power_w = message["power_w"].as_f64();
        meter.reason = text(&message["reason"]);
        if meter.readings.back().is_none_or(|(last, _)| *last < time_ms) {
            push(&mut meter.readings, (time_ms, meter.power_w), MAX_POWER);
        }
    }

    fn of_pipeline(&mut self, prefix: &str, name: &str, kind: &str, message: &Value, time_ms: u64) -> Change {
        let ids = (prefix.to_owned(), plain(name));
        if kind == "metrics" {
            self.undelivered = losses(&message["delivery"]["drops"], |name| format!("messages ({name})"));
            let of_process = |name: &str| message["process"][name].as_f64();
            self.process = Process {
                cpu_s: of_process("cpu_s"),
                rss_mib: of_process("rss_mib"),
                soc_temperature_c: of_process("soc_temperature_c"),
                clock_mhz: of_process("clock_mhz"),
                throttled: message["process"]["throttled"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(text)
                    .take(8)
                    .collect(),
            };
        }
        let Some(pipeline) = entry(&mut self.pipelines, name, MAX_PIPELINES) else { return Change::None };
        pipeline.delegate = delegate(&message["delegate"]).or(pipeline.delegate.take());
        match kind {
            "status" => {
                pipeline.state = text(&message["state"]);
                pipeline.reason = text(&message["reason"]);
                pipeline.status_ms = time_ms;
                pipeline.gate = gate(&message["gate"], pipeline.gate.take());
                Change::PipelineStatus(ids.0, ids.1)
            }
            "metrics" => {
                pipeline.metrics = Some(metrics(message));
                pipeline.gate = gate(&message["gate"], pipeline.gate.take());
                pipeline.metrics_ms = time_ms;
                Change::Metrics(ids.0, ids.1)
            }
            // The gate has closed: what was decided last is not what is true now.
            "state" if message["gate"].is_string() => {
                pipeline.decision = None;
                Change::None
            }
            _ if pipeline.decision(message, time_ms, kind == "state") => Change::Prediction(ids.0, ids.1),
            _ => Change::None,
        }
    }
}

impl Pipeline {
    /// Takes a prediction; returns whether it is new. The same one comes twice: on `prediction` and on `state`, and
    /// again if it was sent again. The broker keeps a state: what came after it was not for this view.
    fn decision(&mut self, message: &Value, time_ms: u64, is_state: bool) -> bool {
        let (boot, seq) = (text(&message["boot"]).unwrap_or_default(), message["seq"].as_u64());
        if boot == self.boot
            && let (Some(seq), Some(last)) = (seq, self.seq)
        {
            if seq <= last {
                return false;
            }
            if !self.is_from_state {
                self.missing = self.missing.saturating_add(seq - last - 1);
            }
        }
        (self.boot, self.seq, self.is_from_state) = (boot, seq, is_state);
        let verdict = verdict(message);
        let truth = text(&message["truth"]);
        let (label, value) = match &verdict {
            Verdict::Label { label, score, .. } => (label.clone(), *score),
            Verdict::Values(values) => (None, values.first().and_then(|(_, value)| *value)),
        };
        let right = truth.as_ref().map(|truth| label.as_ref() == Some(truth));
        if let Some(right) = right {
            self.known += 1;
            self.right += u64::from(right);
        }
        self.is_measure |= value.is_some_and(|value| !(0.0..=1.0).contains(&value));
        push(&mut self.history, Past { label, value, right }, MAX_HISTORY);
        push(&mut self.moments, time_ms, MAX_MOMENTS);
        let latency_us = message["latency_us"].as_f64();
        self.decision = Some(Decision { verdict, truth, seq, latency_us, time_ms });
        true
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state.as_deref() == Some("paused")
    }

    /// Returns the share of right decisions in percent, if any truth is known.
    pub(crate) fn right_percent(&self) -> Option<f64> {
        (self.known > 0).then(|| 100.0 * self.right as f64 / self.known as f64)
    }

    /// Returns the figure to show: the one with the best status; of several, one with net energy.
    pub(crate) fn best_energy(&self) -> Option<&Energy> {
        let figures = self.metrics.as_ref()?.energy.iter();
        figures.min_by_key(|figure| (figure.status, figure.net_j.is_none(), figure.gross_j.is_none()))
    }
}

impl Event {
    /// Returns whether it answers a command.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.event.as_str(), "command" | "command_refused")
    }
}

impl Delegate {
    pub(crate) fn is_requested(&self) -> bool {
        self.active == self.requested
    }
}

fn verdict(message: &Value) -> Verdict {
    let number = |(name, value): (String, &Value)| (name, value.as_f64());
    if let Some(values) = message["values"].as_object() {
        let values = values.iter().take(MAX_VALUES).map(|(name, value)| number((plain(name), value)));
        return Verdict::Values(values.collect());
    }
    if let Some(outputs) = message["outputs"].as_array() {
        let named = outputs.iter().enumerate().flat_map(|(output, values)| {
            let values = values.as_array().into_iter().flatten().enumerate();
            values.map(move |(place, value)| (format!("output {output}[{place}]"), value))
        });
        return Verdict::Values(named.take(MAX_VALUES).map(number).collect());
    }
    let label = text(&message["label"]);
    let labels = message["labels"].as_object().into_iter().flatten().map(|(name, _)| plain(name));
    let also = labels.filter(|name| label.as_ref() != Some(name)).take(MAX_VALUES).collect();
    Verdict::Label { label, score: message["score"].as_f64(), also }
}

fn metrics(message: &Value) -> Metrics {
    let latency = |stage: &str| {
        let latency = &message["latency_us"][stage];
        Some((latency["p50"].as_f64()?, latency["p99"].as_f64()?))
    };
    let counts = &message["counts"];
    let mut lost = losses(&counts["drops"], |name| drop_in_words(name).to_owned());
    lost.extend(losses(&counts["rejects"], |name| format!("rejected ({name})")));
    lost.extend(losses(&counts["gaps"], |name| format!("gaps ({name})")));
    Metrics {
        interval_s: message["interval_s"].as_f64(),
        predictions_per_s: message["predictions_per_s"].as_f64(),
        latency_us: STAGES.map(latency),
        no_broker: message.get("delivery").is_some_and(Value::is_null),
        energy: message["energy"].as_array().into_iter().flatten().take(MAX_FIGURES).map(energy).collect(),
        samples: counts["samples"].as_u64(),
        predictions: counts["predictions"].as_u64(),
        lost,
    }
}

/// Returns what a message says of the gate, with what was known before and it does not say.
fn gate(gate: &Value, before: Option<Gate>) -> Option<Gate> {
    let open = gate["open"].as_bool()?;
    let before = before.unwrap_or_default();
    let number = |name: &str| gate[name].as_f64();
    Some(Gate { open, level: number("level").or(before.level), threshold: number("threshold").or(before.threshold) })
}

/// Returns the counts that are not zero, each with a name that `name` makes.
fn losses(counts: &Value, name: impl Fn(&str) -> String) -> Vec<(String, u64)> {
    let counts = counts.as_object().into_iter().flatten();
    let nonzero = counts.filter_map(|(key, n)| Some((key, n.as_u64()?))).filter(|(_, n)| *n > 0);
    nonzero.take(MAX_LOSSES).map(|(key, n)| (name(&plain(key)), n)).collect()
}

fn energy(figure: &Value) -> Energy {
    Energy {
        status: match figure["status"].as_str() {
            Some("measured") => Status::Measured,
            Some("attributed") => Status::Attributed,
            Some("replayed") => Status::Replayed,
            Some("estimated") => Status::Estimated,
            _ => Status::Unavailable,
        },
        meter: text(&figure["meter"]),
        kind: text(&figure["kind"]),
        scope: text(&figure["scope"]),
        reason: text(&figure["reason"]),
        gross_j: figure["gross_j"].as_f64(),
        gross_expanded_j: figure["gross_expanded_j"].as_f64(),
        net_j: figure["net_j"].as_f64(),
        net_expanded_j: figure["net_expanded_j"].as_f64(),
        mean_w: figure["mean_w"].as_f64(),
        idle_w: figure["idle_w"].as_f64(),
        window_s: figure["window_s"].as_f64(),
    }
}

fn delegate(value: &Value) -> Option<Delegate> {
    let active = text(&value["active"])?;
    let on_cpu = value["on_cpu"].as_object().into_iter().flatten();
    let parity = &value["parity"];
    Some(Delegate {
        requested: text(&value["requested"]).unwrap_or_else(|| active.clone()),
        active,
        reason: text(&value["reason"]),
        warnings: value["warnings"].as_array().into_iter().flatten().filter_map(text).take(8).collect(),
        isolation: text(&value["isolation"]),
        library: text(&value["library"]),
        nodes_total: value["nodes_total"].as_u64(),
        nodes_delegated: value["nodes_delegated"].as_u64(),
        partitions: value["partitions"].as_u64(),
        on_cpu: on_cpu.filter_map(|(name, n)| Some((plain(name), n.as_u64()?))).take(MAX_VALUES).collect(),
        fully_accelerated: value["fully_accelerated"].as_bool(),
        parity: parity["windows"].as_u64().map(|windows| Parity {
            windows,
            difference: parity["difference"].as_f64(),
            tolerance: parity["tolerance"].as_f64(),
            top1: parity["top1"].as_f64(),
        }),
    })
}

/// Returns cleaned text; `None` if it is not a string.
fn text(value: &Value) -> Option<String> {
    value.as_str().map(plain)
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// Returns the value of that name, which is new if it is not there; `None` if there are too many.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str, most: usize) -> Option<&'a mut T> {
    let name = plain(name);
    if map.len() >= most && !map.contains_key(&name) {
        return None;
    }
    Some(map.entry(name).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(messages: &[(&str, &str)]) -> Model {
        let mut model = Model::default();
        for (topic, payload) in messages {
            model.take(topic, payload.as_bytes(), 1000);
        }
        model
    }

    fn prediction(seq: u64, label: &str, truth: &str) -> String {
        format!(r#"{{"boot":"b","time_ms":{seq},"seq":{seq},"label":"{label}","score":0.5,"truth":"{truth}"}}"#)
    }

    #[test]
    fn predictions_are_counted_once_and_losses_are_noticed() {
        let mut model = Model::default();
        for (topic, seq, new) in [("prediction", 0, true), ("state", 0, false), ("prediction", 3, true)] {
            let payload = prediction(seq, "a", if seq == 0 { "a" } else { "b" });
            let change = model.take(&format!("e/n/p/arm/{topic}"), payload.as_bytes(), 5);
            assert_eq!(change != Change::None, new, "{topic} {seq}");
        }
        let pipeline = &model.nodes["e/n"].pipelines["arm"];
        assert_eq!((pipeline.right, pipeline.known, pipeline.missing), (1, 2, 2));
        assert_eq!(pipeline.right_percent(), Some(50.0));
        // What came after a state that the broker has kept was not for this view.
        for (topic, seq) in [("state", 10), ("prediction", 20)] {
            model.take(&format!("e/n/p/leg/{topic}"), prediction(seq, "a", "a").as_bytes(), 5);
        }
        assert_eq!(model.nodes["e/n"].pipelines["leg"].missing, 0);
        // A new start counts from 0 again.
        let restarted = prediction(0, "a", "a").replace("\"b\",\"time", "\"c\",\"time");
        assert_ne!(model.take("e/n/p/arm/prediction", restarted.as_bytes(), 5), Change::None);
        assert_eq!(model.nodes["e/n"].pipelines["arm"].missing, 2);
    }

    #[test]
    fn a_meter_and_a_node_may_have_any_name() {
        for name in ["status", "metrics", "event", "info", "prediction", "board"] {
            let model = taken(&[(&format!("e/n/power/{name}"), r#"{"power_w":2.5,"time_ms":7}"#)]);
            assert_eq!(model.nodes["e/n"].meters[name].power_w, Some(2.5), "{name}");
        }
        let model = taken(&[
            ("e/power/status", "online"),
            ("e/power/event", r#"{"event":"drops","message":"m"}"#),
            ("e/power/info", r#"{"pipelines":{}}"#),
            ("e/power/p/p/metrics", "{}"),
        ]);
        let node = &model.nodes["e/power"];
        assert_eq!((node.online, node.events.len(), node.pipelines.len()), (Some(true), 1, 1));
        assert_eq!(model.nodes.len(), 1);
    }

    #[test]
    fn hostile_messages_stay_bounded_and_harmless() {
        let mut model = Model::default();
        for payload in ["{}", "[]", "null", "7", "\"x\"", r#"{"label":[1],"score":"x","truth":7,"seq":-1}"#, "{", ""] {
            for kind in
                ["p/x/prediction", "p/x/metrics", "p/x/status", "p/x/state", "power/m", "info", "event", "status"]
            {
                model.take(&format!("e/n/{kind}"), payload.as_bytes(), 0);
            }
        }
        assert!(model.unreadable > 0);
        for n in 0..2000_u64 {
            model.take(&format!("e/n{n}/status"), b"online", n);
            model.take(&format!("e/n/p/{n}/status"), b"{}", n);
            model.take(&format!("e/n/power/{n}"), br#"{"power_w":1}"#, n);
            model.take("e/n/event", br#"{"event":"x"}"#, n);
            model.take("e/n/p/x/prediction", prediction(n + 1, "a", "a").as_bytes(), n);
        }
        let node = &model.nodes["e/n"];
        assert_eq!(model.nodes.len(), MAX_NODES);
        assert_eq!((node.pipelines.len(), node.meters.len()), (MAX_PIPELINES, MAX_METERS));
        assert_eq!((node.events.len(), node.pipelines["x"].history.len()), (MAX_EVENTS, MAX_HISTORY));

        let long = format!(r#"{{"event":"\u001b[2J\u202e","message":"{}"}}"#, "x".repeat(100_000));
        model.take("e/n/event", long.as_bytes(), 0);
        let event = model.nodes["e/n"].events.back().unwrap();
        assert_eq!(event.event, "?[2J?");
        assert!(event.message.len() < 1000);
    }

    #[test]
    fn the_best_figure_is_shown() {
        let payload = r#"{"energy":[{"status":"estimated","net_j":1},{"status":"measured","gross_j":2},
            {"status":"measured","net_j":3},{"status":"unavailable"},{"status":7}]}"#;
        let model = taken(&[("e/n/p/x/metrics", payload)]);
        assert_eq!(model.nodes["e/n"].pipelines["x"].best_energy().unwrap().net_j, Some(3.0));
    }

    #[test]
    fn a_closed_gate_takes_the_decision_away() {
        let mut model = taken(&[
            ("e/n/p/x/metrics", r#"{"gate":{"open":true,"level":612.0,"threshold":500.0}}"#),
            ("e/n/p/x/prediction", &prediction(1, "a", "a")),
        ]);
        let open = Gate { open: true, level: Some(612.0), threshold: Some(500.0) };
        assert_eq!(model.nodes["e/n"].pipelines["x"].gate, Some(open.clone()));
        model.take("e/n/p/x/state", br#"{"gate":"closed"}"#, 5);
        model.take("e/n/p/x/status", br#"{"state":"running","gate":{"open":false,"since_ms":7}}"#, 5);
        let pipeline = &model.nodes["e/n"].pipelines["x"];
        assert_eq!((&pipeline.decision, pipeline.history.len()), (&None, 1));
        assert_eq!(pipeline.gate, Some(Gate { open: false, ..open }));
        model.take("e/n/p/x/status", br#"{"state":"running"}"#, 5);
        assert_eq!(model.nodes["e/n"].pipelines["x"].gate, None, "a reload has taken it away");
    }

    #[test]
    fn every_kind_of_decision_is_read() {
        let of = |payload: &str| {
            let model = taken(&[("e/n/p/x/prediction", payload)]);
            let pipeline = &model.nodes["e/n"].pipelines["x"];
            (pipeline.decision.clone().unwrap().verdict, pipeline.is_measure)
        };
        let label =
            |label: Option<&str>, score| Verdict::Label { label: label.map(str::to_owned), score, also: Vec::new() };
        assert_eq!(of(r#"{"label":null,"score":0.2}"#), (label(None, Some(0.2)), false));
        assert_eq!(of(r#"{"label":"high","score":17.5}"#), (label(Some("high"), Some(17.5)), true));
        let several = Verdict::Label { label: Some("b".into()), score: Some(0.9), also: vec!["a".into(), "c".into()] };
        let message = r#"{"label":"b","score":0.9,"labels":{"b":0.9,"c":0.7,"a":0.6},"started":["b"]}"#;
        assert_eq!(of(message), (several.clone(), false));
        assert_eq!(crate::view::words::verdict(&several), "b, a, c");
        let values = |values: &[(&str, f64)]| {
            Verdict::Values(values.iter().map(|(name, value)| ((*name).to_owned(), Some(*value))).collect())
        };
        assert_eq!(of(r#"{"values":{"t":0.5}}"#), (values(&[("t", 0.5)]), false));
        let outputs = values(&[("output 0[0]", 1.0), ("output 0[1]", 2.0), ("output 1[0]", 3.0)]);
        assert_eq!(of(r#"{"outputs":[[1,2],[3]]}"#), (outputs, false));
    }
}
