//! What `edgewatt init` prints: what it proposes and why, what it has tried, what is open, and the next command.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;

use super::material::Material;
use super::trial::{OpenPoint, State, Step, Tried};
use crate::cli::JSON_VERSION;
use crate::propose::source::SourceText;
use crate::propose::{Part, Proposal};
use crate::text::escaped;

/// The result of a run.
pub(super) struct Report {
    model: String,
    file: PathBuf,
    parts: Vec<Part>,
    notes: Vec<String>,
    steps: Vec<Step>,
    pub(super) open: Vec<OpenPoint>,
    written: Vec<PathBuf>,
}

impl Report {
    pub(super) fn new(
        material: &Material,
        proposal: Proposal,
        source: SourceText,
        tried: Tried,
        written: Vec<PathBuf>,
    ) -> Self {
        let mut parts = vec![source.part];
        parts.extend(proposal.parts);
        parts.push(tried.broker);
        let notes = proposal.notes.into_iter().chain(source.notes).collect();
        // The configuration is the last file.
        let file = written.last().cloned().unwrap_or_default();
        Self { model: material.describe(), file, parts, notes, steps: tried.steps, open: tried.open, written }
    }

    pub(super) fn print(&self, as_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if as_json {
            return writeln!(out, "{}", self.json());
        }
        let mut text = Vec::new();
        self.write(&mut text)?;
        // Names come from files of others.
        out.write_all(escaped(&String::from_utf8_lossy(&text)).as_bytes())
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "v": JSON_VERSION, "model": self.model, "file": self.file, "written": self.written, "runs": self.open.is_empty(),
            "proposed": self.parts, "notes": self.notes, "steps": self.steps, "open": self.open, "error": null,
        })
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}\n\nproposed", self.model)?;
        for Part { about, value, reason, confidence } in &self.parts {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(out, "  {about:<9} {}", crate::text::cut(&value, 100))?;
            writeln!(out, "            {}: {reason}", confidence.word())?;
        }
        writeln!(out, "\ntried")?;
        for Step { step, state, says, detail } in &self.steps {
            let state = match state {
                State::Ok => "ok",
                State::Failed => "FAILED",
                State::Skipped => "-",
            };
            writeln!(out, "  {state:<7} {step}: {says}")?;
            detail.iter().try_for_each(|line| writeln!(out, "          {line}"))?;
        }
        list(out, "to know", &self.notes)?;
        let point = |point: &OpenPoint| match &point.key {
            Some(key) => format!("{key}: {}", point.message),
            None => point.message.clone(),
        };
        list(out, "to fill in or to fix", &self.open.iter().map(point).collect::<Vec<_>>())?;
        let file = self.file.display();
        writeln!(
            out,
            "\nwrote {}",
            self.written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        )?;
        match self.open.is_empty() {
            true => writeln!(out, "next: edgewatt run -c {file} --watch"),
            false => writeln!(out, "next: change that in {file}, then run: edgewatt check -c {file}"),
        }
    }
}

fn list(out: &mut impl Write, title: &str, items: &[String]) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    items.iter().try_for_each(|item| writeln!(out, "  - {item}"))
}

/// Prints why nothing was written, as JSON.
pub(super) fn print_error(error: &anyhow::Error) -> io::Result<()> {
    writeln!(io::stdout(), "{}", json!({ "v": JSON_VERSION, "error": format!("{error:#}"), "written": [] }))
}
