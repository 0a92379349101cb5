//! The text of the configuration: one pipeline, each part with a comment that says why.

use std::fmt::Write as _;

use super::source::SourceText;
use super::{Confidence, Open, Part, Proposal, Stream, quoted};
use crate::text::{escaped, wrap};

/// The longest line of a comment.
const WIDTH: usize = 118;

/// What goes into the file besides the proposal.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// What the model is, in a line.
    pub model: String,
    /// The paths of the model and of its labels, as the configuration names them.
    pub model_path: String,
    pub labels_path: Option<String>,
    pub source: &'a SourceText,
    /// The broker's address or "none", and why.
    pub broker: Part,
    /// Meters to use: the name, and the line of its table.
    pub meters: Vec<(String, String)>,
    /// What else could measure energy, one item a line.
    pub other_meters: Vec<String>,
}

/// Returns the text of the configuration.
pub fn render(proposal: &Proposal, around: &Surroundings<'_>) -> String {
    let mut out = String::new();
    let name = &proposal.name;
    comment(&mut out, &format!("For {}. Written by edgewatt init; docs/init.md explains it.", around.model));
    comment(&mut out, {
        "(known): the model, its files or you say so; (guessed): models of this shape are mostly so; (unknown): look at it"
    });
    out.push_str("version = 1\n\n[mqtt]\n");
    let Part { value, reason, confidence, .. } = &around.broker;
    sure(&mut out, *confidence, reason);
    let _ = writeln!(out, "broker = {}\n\n[pipelines.{name}]", quoted(value));
    open_lines(&mut out, &around.source.open, &["source"], "");
    pipeline(&mut out, proposal);
    let _ = writeln!(out, "\n[pipelines.{name}.model]\npath = {}", quoted(&around.model_path));
    part(&mut out, proposal, "labels");
    if let Some(labels) = &around.labels_path {
        let _ = writeln!(out, "labels = {}", quoted(labels));
    }
    for line in &proposal.model {
        part(&mut out, proposal, "state");
        let _ = writeln!(out, "{line}");
    }
    source(&mut out, name, around.source, &proposal.stream);
    if let Some((delegate, keys)) = &proposal.delegate {
        let _ = writeln!(out, "\n[delegates.{delegate}]\n{keys}");
    }
    meters(&mut out, around);
    out
}

fn pipeline(out: &mut String, proposal: &Proposal) {
    if !proposal.frontend.is_empty() {
        part(out, proposal, "frontend");
        list(out, "frontend", &proposal.frontend);
    }
    part(out, proposal, "window");
    let _ = writeln!(out, "window = {{ samples = {}, hop = {} }}", proposal.samples, proposal.hop);
    if !proposal.features.is_empty() || proposal.frontend.is_empty() {
        part(out, proposal, "features");
    }
    if !proposal.features.is_empty() {
        list(out, "features", &proposal.features);
    }
    part(out, proposal, "decision");
    proposal.open.iter().for_each(|open| comment(out, &format!("TO FILL IN: {}", open.what)));
    let (kind, keys) = &proposal.decision;
    let keys = if keys.is_empty() { "{}".to_owned() } else { format!("{{ {keys} }}") };
    let _ = writeln!(out, "decision.{kind} = {keys}");
    if let Some((delegate, _)) = &proposal.delegate {
        part(out, proposal, "delegate");
        let _ = writeln!(out, "delegate = {}", quoted(delegate));
    }
}

/// Writes a list: one element a line if there are several or it is long.
fn list(out: &mut String, key: &str, elements: &[String]) {
    match elements {
        [one] if one.len() + key.len() < WIDTH => {
            let _ = writeln!(out, "{key} = [{one}]");
        }
        several => {
            let _ = writeln!(out, "{key} = [\n  {},\n]", several.join(",\n  "));
        }
    }
}

fn source(out: &mut String, name: &str, source: &SourceText, stream: &Stream) {
    if source.kind.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n[pipelines.{name}.source.{}]", source.kind);
    sure(
        out,
        source.part.confidence,
        &format!("the model needs {}; the source: {}", stream.in_words(), source.part.reason),
    );
    open_lines(out, &source.open, &[], &format!("source.{}.", source.kind));
    source.notes.iter().for_each(|note| comment(out, note));
    source.lines.iter().for_each(|line| {
        let _ = writeln!(out, "{line}");
    });
}

/// Writes the open keys as comments: those that `only` names, or all if it names none.
fn open_lines(out: &mut String, open: &[Open], only: &[&str], below: &str) {
    let is_wanted = |open: &&Open| match only {
        [] => open.key.starts_with(below) && !below.is_empty(),
        only => only.contains(&open.key.as_str()),
    };
    for open in open.iter().filter(is_wanted) {
        comment(out, &format!("TO FILL IN: {}. For example:", open.what));
        let _ = writeln!(out, "# {}", open.example);
    }
}

fn meters(out: &mut String, around: &Surroundings<'_>) {
    for (name, line) in &around.meters {
        let _ = writeln!(out, "\n[power.meters.{name}]\n{line}");
    }
    if !around.other_meters.is_empty() {
        out.push('\n');
        around.other_meters.iter().for_each(|line| comment(out, line));
    }
}

/// Writes why a part is as it is.
fn part(out: &mut String, proposal: &Proposal, about: &str) {
    if let Some(part) = proposal.part(about) {
        let nothing = if part.value == "none" { "no features: " } else { "" };
        sure(out, part.confidence, &format!("{nothing}{}", part.reason));
    }
}

fn sure(out: &mut String, confidence: Confidence, text: &str) {
    comment(out, &format!("({}) {text}", confidence.word()));
}

/// Writes a comment on as many lines as it needs; what comes from a file cannot end it early.
fn comment(out: &mut String, text: &str) {
    for line in wrap(&escaped(text), WIDTH - 2) {
        let _ = writeln!(out, "# {}", line.trim_end());
    }
}
