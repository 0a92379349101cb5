//! What a finished run has done, for the person who started it.

use std::fmt;

use crate::energy::{Figure, Status};
use crate::metrics::LatencySummary;
use crate::publish::payload::Counts;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All that was decided is delivered.
    Complete,
    /// Messages were left when the time for delivery was over.
    Undelivered,
    /// A pipeline failed.
    Failed,
}

#[derive(Debug)]
pub struct Summary {
    pub outcome: Outcome,
    pub pipelines: Vec<PipelineSummary>,
    /// Messages that the broker has not acknowledged.
    pub undelivered: usize,
    pub reconnects: u64,
}

#[derive(Debug)]
pub struct PipelineSummary {
    pub name: String,
    pub counts: Counts,
    pub wall_s: f64,
    /// Decisions that agree with the stream's own labels, of those that have one.
    pub right: u64,
    pub known: u64,
    pub invoke_us: Option<LatencySummary>,
    pub end_to_end_us: Option<LatencySummary>,
    pub energy: EnergyTotal,
    pub error: Option<String>,
}

/// Energy over the whole run by the first meter, as far as its figures reach.
#[derive(Debug, Default)]
pub struct EnergyTotal {
    joules: f64,
    inferences: u64,
    status: Option<Status>,
    last_reason: Option<String>,
}

impl EnergyTotal {
    pub fn add(&mut self, figure: &Figure) {
        match (figure.energy_j, figure.inferences) {
            (Some(joules), Some(inferences)) if figure.status != Status::Unavailable && inferences > 0 => {
                self.joules += joules;
                self.inferences += inferences;
                self.status = Some(figure.status);
            }
            _ => self.last_reason.clone_from(&figure.reason),
        }
    }
}

impl fmt::Display for EnergyTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(
                f,
                "{:.3} mJ an inference gross, {} over {} inferences",
                self.joules / self.inferences as f64 * 1e3,
                status_name(status),
                self.inferences
            ),
            None => write!(
                f,
                "unavailable: {}",
                self.last_reason.as_deref().unwrap_or("the run was too short for a reading")
            ),
        }
    }
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Measured => "measured",
        Status::Attributed => "attributed",
        Status::Estimated => "estimated",
        Status::Unavailable => "unavailable",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pipeline in &self.pipelines {
            writeln!(f, "{pipeline}")?;
        }
        write!(f, "delivery: {} undelivered, {} reconnects", self.undelivered, self.reconnects)
    }
}

impl fmt::Display for PipelineSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "{}: {} samples, {} windows, {} predictions in {:.2} s ({:.1} /s)",
            self.name,
            c.samples,
            c.windows,
            c.predictions,
            self.wall_s,
            c.predictions as f64 / self.wall_s
        )?;
        if let Some(error) = &self.error {
            writeln!(f, "  failed: {error}")?;
        }
        if self.known > 0 {
            let percent = 100.0 * self.right as f64 / self.known as f64;
            writeln!(
                f,
                "  agrees with the recording's own labels in {} of {} ({percent:.1} %)",
                self.right, self.known
            )?;
        }
        for (what, latency) in [("invoke", self.invoke_us), ("end to end", self.end_to_end_us)] {
            if let Some(l) = latency {
                writeln!(f, "  {what}: p50 {:.1} us, p99 {:.1} us, max {:.1} us", l.p50, l.p99, l.max)?;
            }
        }
        writeln!(f, "  energy: {}", self.energy)?;
        let nonzero = |counts: &std::collections::BTreeMap<&'static str, u64>| {
            let shown: Vec<String> =
                counts.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
        };
        write!(f, "  rejected: {}; gaps: {}; dropped: {}", nonzero(&c.rejects), nonzero(&c.gaps), nonzero(&c.drops))
    }
}
