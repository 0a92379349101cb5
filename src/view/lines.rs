//! The plain lines that are written where there is no terminal: without colour, and for the node of this process at most 80
//! columns wide. For the nodes of a broker, each line has a time and the node's name. Pure.

use super::model::{Change, Decision, Model, Pipeline, STAGES};
use super::words::{self, clock, micros, number};
use crate::text::{cut, plain, width, wrap};

/// No line about the node of this process is wider.
const COLUMNS: usize = 80;

/// How lines are written, and what was written before, so that a header is written once.
#[derive(Debug)]
pub(crate) struct Lines {
    has_header: bool,
    columns: usize,
    /// There can be several nodes: their names and the time are in each line.
    names_nodes: bool,
}

impl Lines {
    /// Returns lines about the node of this process.
    pub(crate) fn of_this_node() -> Self {
        Self { has_header: false, columns: COLUMNS, names_nodes: false }
    }

    /// Returns lines about the nodes of a broker, which are broken at that many columns.
    pub(crate) fn of_nodes(columns: usize) -> Self {
        Self { has_header: false, columns, names_nodes: true }
    }

    /// Returns the lines about what a message has changed in the model.
    pub(crate) fn of(&mut self, model: &Model, change: &Change, topic: &str) -> Vec<String> {
        match change {
            Change::None => Vec::new(),
            Change::Unreadable => self.sentence("", &format!("{}: not JSON", plain(topic))),
            Change::Online(prefix) => match model.nodes.get(prefix) {
                Some(node) => {
                    let presence = if node.online == Some(false) { "offline" } else { "online" };
                    self.sentence(&self.time(node.seen_ms), &format!("{} is {presence}", node.name))
                }
                None => Vec::new(),
            },
            Change::Event(prefix) => {
                let Some(node) = model.nodes.get(prefix) else { return Vec::new() };
                let Some(event) = node.events.back() else { return Vec::new() };
                let of = if self.names_nodes { format!("{}: ", node.name) } else { String::new() };
                let about = event.pipeline.as_ref().map_or(String::new(), |pipeline| format!(" {pipeline}"));
                self.sentence(&clock(event.time_ms), &format!("{of}event {}{about}: {}", event.event, event.message))
            }
            Change::Prediction(prefix, name) => {
                let Some(pipeline) = pipeline(model, prefix, name) else { return Vec::new() };
                let Some(decision) = &pipeline.decision else { return Vec::new() };
                let mut lines = Vec::new();
                if !self.has_header {
                    self.has_header = true;
                    let columns = ["time UTC", "number", "pipeline", "decision", "score", "truth", "latency"];
                    lines.push(row(columns.map(str::to_owned)));
                }
                lines.extend(prediction(self.name_of(model, prefix, name), pipeline, decision));
                lines
            }
            Change::PipelineStatus(prefix, name) => {
                let Some(pipeline) = pipeline(model, prefix, name) else { return Vec::new() };
                let state = pipeline.state.as_deref().unwrap_or("in an unknown state");
                let reason = pipeline.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                let time = self.time(pipeline.status_ms);
                self.sentence(&time, &format!("{} is {state}{reason}", self.name_of(model, prefix, name)))
            }
            Change::Metrics(prefix, name) => self.metrics(model, prefix, name).unwrap_or_default(),
        }
    }

    /// Returns the time in words, if lines have one.
    fn time(&self, time_ms: u64) -> String {
        if self.names_nodes { clock(time_ms) } else { String::new() }
    }

    /// Returns the pipeline's name, with that of its node if there can be several.
    fn name_of(&self, model: &Model, prefix: &str, name: &str) -> String {
        match model.nodes.get(prefix) {
            Some(node) if self.names_nodes => format!("{}/{name}", node.name),
            _ => name.to_owned(),
        }
    }

    /// Returns a text that is broken into lines; the later ones are indented.
    fn sentence(&self, first: &str, text: &str) -> Vec<String> {
        let first = if first.is_empty() { String::new() } else { format!("{first} ") };
        let indent = " ".repeat(first.len().max(2));
        let lines = wrap(text, self.columns - indent.len()).into_iter().enumerate();
        lines
            .map(|(place, line)| if place == 0 { format!("{first}{line}") } else { format!("{indent}{line}") })
            .collect()
    }

    fn metrics(&self, model: &Model, prefix: &str, name: &str) -> Option<Vec<String>> {
        let node = model.nodes.get(prefix)?;
        let pipeline = node.pipelines.get(name)?;
        let metrics = pipeline.metrics.as_ref()?;
        let rate = metrics.predictions_per_s.map_or("-".to_owned(), number);
        let seconds = metrics.interval_s.map_or("-".to_owned(), number);
        let time = if self.names_nodes { format!("{} ", clock(pipeline.metrics_ms)) } else { String::new() };
        let name = self.name_of(model, prefix, name);
        let title = format!("--- {time}{name}: {rate} predictions a second in the last {seconds} s ");
        let mut lines =
            vec![cut(&format!("{title}{}", "-".repeat(COLUMNS.saturating_sub(width(&title)))), self.columns)];
        let mut block = |name: &str, text: &str| {
            let wrapped = wrap(text, self.columns - 12).into_iter().enumerate();
            lines.extend(wrapped.map(|(place, line)| format!("  {:<10}{line}", if place == 0 { name } else { "" })));
        };
        if let Some(percent) = pipeline.right_percent() {
            block("right", &format!("{percent:.1} % right of {} shown here", pipeline.known));
        }
        let of = |pick: fn(&(f64, f64)) -> f64| {
            let known =
                (0..STAGES.len()).filter_map(|place| Some((place, metrics.latency_us[place].as_ref().map(pick)?)));
            known.map(|(place, us)| format!("{} {}", words::stage(place), micros(us))).collect::<Vec<_>>().join(", ")
        };
        if metrics.latency_us.iter().any(Option::is_some) {
            block("half in", &of(|(p50, _)| *p50));
            block("99 % in", &of(|(_, p99)| *p99));
        }
        if let Some(gate) = &pipeline.gate {
            block("gate", words::gate(gate).trim_start_matches("gate "));
        }
        for figure in &metrics.energy {
            words::energy(figure)
                .iter()
                .enumerate()
                .for_each(|(place, text)| block(if place == 0 { "energy" } else { "" }, text));
        }
        if let Some(delegate) = &pipeline.delegate {
            block("delegate", &words::delegate(delegate).join("; "));
        }
        let lost = words::lost(node, pipeline).unwrap_or("nothing".to_owned());
        block("lost", &lost);
        let process = &node.process;
        let cpu = process.cpu_s.map(|s| format!("{} s of processor time since the start", number(s)));
        let rss = process.rss_mib.map(|mib| format!("{} MiB of memory", number(mib)));
        let soc = process.soc_temperature_c.map(|celsius| format!("processor at {celsius:.1} °C"));
        let clock = process.clock_mhz.map(|mhz| format!("{mhz:.0} MHz"));
        let slow = (!process.throttled.is_empty()).then(|| process.throttled.join(", "));
        block("daemon", &[cpu, rss, soc, clock, slow].into_iter().flatten().collect::<Vec<_>>().join(", "));
        Some(lines)
    }
}

fn pipeline<'a>(model: &'a Model, prefix: &str, name: &str) -> Option<&'a Pipeline> {
    model.nodes.get(prefix)?.pipelines.get(name)
}

/// Returns a row of the table of predictions.
fn row([time, seq, name, decision, score, truth, latency]: [String; 7]) -> String {
    let columns = [
        pad(&time, 8),
        left(&seq, 7),
        long(&name, 14),
        pad(&decision, 12),
        left(&score, 6),
        pad(&truth, 14),
        left(&latency, 11),
    ];
    columns.join(" ").trim_end().to_owned()
}

fn pad(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(&text))))
}

/// As [`pad`], but with the name of a node it is not cut: the names may begin alike.
fn long(text: &str, columns: usize) -> String {
    if text.contains('/') && width(text) > columns { text.to_owned() } else { pad(text, columns) }
}

fn left(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(&text))))
}

fn prediction(name: String, pipeline: &Pipeline, decision: &Decision) -> Vec<String> {
    use super::model::Verdict::{Label, Values};
    let time = clock(decision.time_ms);
    let seq = decision.seq.map_or("-".to_owned(), |seq| format!("#{seq}"));
    let latency = decision.latency_us.map_or("-".to_owned(), micros);
    let verdict = words::verdict(&decision.verdict);
    let score = match &decision.verdict {
        Label { score: Some(score), .. } if pipeline.is_measure => words::value(*score),
        Label { score: Some(score), .. } => format!("{score:.2}"),
        _ => String::new(),
    };
    let right = pipeline.history.back().and_then(|past| past.right);
    let truth = match (&decision.truth, right) {
        (Some(truth), Some(true)) => format!("= {truth}"),
        (Some(truth), _) => format!("! {truth}"),
        (None, _) => String::new(),
    };
    if matches!(decision.verdict, Values(_)) {
        let before = format!("{} {} {} ", pad(&time, 8), left(&seq, 7), long(&name, 14));
        let room = COLUMNS.saturating_sub(width(&before) + 12).max(20);
        return vec![format!("{before}{} {}", pad(&verdict, room), left(&latency, 11)).trim_end().to_owned()];
    }
    vec![row([time, seq, name, verdict, score, truth, latency])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(messages: &[(&str, &str)]) -> String {
        let (mut model, mut lines) = (Model::default(), Lines::of_this_node());
        let mut text = String::new();
        for (topic, payload) in messages {
            let change = model.take(topic, payload.as_bytes(), 0);
            for line in lines.of(&model, &change, topic) {
                assert!(width(&line) <= COLUMNS && line == line.trim_end(), "{line}");
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    #[test]
    fn a_prediction_is_a_line_below_one_header() {
        let payload = |seq| {
            format!(r#"{{"time_ms":1000,"seq":{seq},"label":"curl","score":0.925,"truth":"press","latency_us":120.5}}"#)
        };
        let text = shown(&[("e/n/p/arm/prediction", &payload(7)), ("e/n/p/arm/prediction", &payload(8))]);
        assert_eq!(
            text,
            "time UTC  number pipeline       decision      score truth              latency\n\
             00:00:01      #7 arm            curl           0.93 ! press             120 us\n\
             00:00:01      #8 arm            curl           0.93 ! press             120 us\n"
        );
        let text = shown(&[("e/n/p/arm/prediction", r#"{"seq":1,"values":{"t":21.5,"h":0.4}}"#)]);
        assert!(text.contains("h 0.400  t 21.50"), "{text}");
    }

    #[test]
    fn lines_about_the_nodes_of_a_broker_say_when_and_which_node() {
        let (mut model, mut lines) = (Model::default(), Lines::of_nodes(1000));
        let reason = "a reason ".repeat(30);
        let messages = [
            ("e/porch/status", "online".to_owned()),
            ("e/porch/p/arm/status", format!(r#"{{"time_ms":1000,"state":"degraded","reason":"{reason}"}}"#)),
            ("e/a-long-name-of-a-node/p/arm/prediction", r#"{"time_ms":2000,"seq":1,"label":"curl"}"#.to_owned()),
            ("e/porch/event", r#"{"time_ms":3000,"event":"reload","message":"done"}"#.to_owned()),
            ("e/porch/p/arm/metrics", r#"{"time_ms":4000,"predictions_per_s":4.0,"interval_s":10}"#.to_owned()),
        ];
        let mut text = String::new();
        for (topic, payload) in &messages {
            let change = model.take(topic, payload.as_bytes(), 9000);
            text.extend(lines.of(&model, &change, topic).iter().map(|line| format!("{line}\n")));
        }
        for part in [
            "00:00:09 porch is online\n".to_owned(),
            format!("00:00:01 porch/arm is degraded: {}\n", reason.trim_end()),
            "a-long-name-of-a-node/arm curl".to_owned(),
            "00:00:03 porch: event reload: done\n".to_owned(),
            "--- 00:00:04 porch/arm: 4.00 predictions a second".to_owned(),
        ] {
            assert!(text.contains(&part), "{part} in\n{text}");
        }
    }

    #[test]
    fn metrics_are_a_block_that_says_what_is_unknown() {
        let payload = r#"{"predictions_per_s":4.0,"interval_s":10,"energy":[{"status":"unavailable","reason":"no meter"}],
            "latency_us":{"invoke":{"p50":300,"p99":400}},"counts":{"drops":{"source_paused":51}},"delegate":
            {"active":"cpu","requested":"npu","reason":"it is broken"}}"#;
        let text = shown(&[("e/n/p/arm/metrics", payload)]);
        for part in [
            "--- arm: 4.00 predictions a second",
            "half in   model 300 us",
            "energy    Not known: no meter",
            "cpu instead of npu; because it is broken",
            "lost      samples while paused: 51",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!shown(&[("e/n/p/arm/metrics", "{}")]).is_empty());
    }

    #[test]
    fn what_comes_in_cannot_control_the_terminal() {
        let long = "x".repeat(500);
        let text = shown(&[
            ("e/n\u{1b}[2J/event", "{\"event\":\"\\u001b[2J\",\"message\":\"x\"}"),
            ("e/n/event", &format!(r#"{{"event":"e","message":"{long}"}}"#)),
            (
                &format!("e/n/p/{long}/prediction"),
                &format!(r#"{{"seq":1,"label":"{long}","score":1e300,"truth":"{long}"}}"#),
            ),
            ("e/n/p/x/metrics", "{"),
            ("e/n/status", "online"),
        ]);
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("e/n/p/x/metrics: not JSON\n") && text.contains("n is online\n"), "{text}");
    }
}
