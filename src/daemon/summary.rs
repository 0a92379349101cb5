//! What a run has done, for the person who started it. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::energy::{EnergyEstimate, Status};
use crate::infer::stage_times::LatencySummary;
use crate::publish::payload::{Counts, Delivery};
use crate::units::Joules;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All decisions are delivered.
    Complete,
    /// Something was dropped, or not delivered in time.
    Undelivered,
    /// A pipeline failed.
    Failed,
}

#[derive(Debug)]
pub struct Summary {
    pub outcome: Outcome,
    pub pipelines: Vec<PipelineSummary>,
    /// What the broker has taken; `None`: there is no broker.
    pub delivered: Option<Delivered>,
    /// The daemon has to be started again with [`RunOptions::calibrate`](super::RunOptions::calibrate).
    pub restart_to_calibrate: bool,
}

impl Summary {
    /// Returns the summary of a run that ended before any pipeline had started.
    pub fn nothing_done() -> Self {
        Self { outcome: Outcome::Complete, pipelines: Vec::new(), delivered: None, restart_to_calibrate: false }
    }
}

/// What has come of the messages to the broker.
#[derive(Debug)]
pub struct Delivered {
    /// Messages that the broker has not acknowledged and that are lost.
    pub undelivered: usize,
    /// Messages that the broker has not acknowledged and that the next start sends.
    pub kept: usize,
    pub figures: Delivery,
}

impl Delivered {
    /// Returns whether the broker has taken all messages.
    pub fn is_complete(&self) -> bool {
        self.undelivered + self.kept == 0 && self.figures.drops.values().sum::<u64>() == 0
    }
}

#[derive(Debug)]
pub struct PipelineSummary {
    pub name: String,
    pub counts: Counts,
    pub wall_s: f64,
    /// Decisions that agree with the stream's own labels, and decisions with such a label.
    pub right: u64,
    pub known: u64,
    pub invoke_us: Option<LatencySummary>,
    pub end_to_end_us: Option<LatencySummary>,
    pub energy: EnergyTotal,
    pub error: Option<String>,
}

/// Energy over the whole run by the first meter, as far as it has estimates.
#[derive(Debug, Default)]
pub struct EnergyTotal {
    joules: f64,
    inferences: f64,
    /// Joules and inferences of a window that still grows; its next estimate holds them again.
    open: (f64, f64),
    /// The last estimate with a value, for meter and status.
    figure: Option<EnergyEstimate>,
    last_reason: Option<String>,
}

impl EnergyTotal {
    pub fn add(&mut self, figure: &EnergyEstimate) {
        match (figure.energy_j, figure.inferences) {
            (Some(joules), Some(inferences)) if figure.status != Status::Unavailable && inferences > 0.0 => {
                self.open = (joules, inferences);
                self.figure = Some(figure.clone());
            }
            _ => self.last_reason.clone_from(&figure.reason),
        }
        if figure.closed {
            let (joules, inferences) = std::mem::take(&mut self.open);
            self.joules += joules;
            self.inferences += inferences;
        }
    }
}

/// Net energy of the last window, in words.
fn net(figure: &EnergyEstimate) -> String {
    let Some(net_j) = figure.net_j else { return String::new() };
    let expanded = figure.net_expanded_j.map_or(String::new(), |j| format!(" +- {}", Joules(j).in_mj()));
    format!(", {}{expanded} mJ net in the last window", Joules(net_j).in_mj())
}

impl fmt::Display for EnergyTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.figure {
            Some(figure) => write!(
                f,
                "{} mJ gross{} an inference, {} by {} over {:.0} inferences",
                Joules((self.joules + self.open.0) / (self.inferences + self.open.1)).in_mj(),
                net(figure),
                figure.status.name(),
                figure.meter.as_deref().unwrap_or("no meter"),
                self.inferences + self.open.1
            ),
            None => write!(f, "unavailable: {}", self.last_reason.as_deref().unwrap_or("no metrics were due")),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pipeline in &self.pipelines {
            writeln!(f, "{pipeline}")?;
        }
        match &self.delivered {
            Some(delivered) => write!(f, "delivery: {delivered}"),
            None => f.write_str("delivery: none, because mqtt.broker is \"none\""),
        }
    }
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} undelivered, ", self.undelivered)?;
        if self.kept > 0 {
            write!(f, "{} kept for the next start, ", self.kept)?;
        }
        let Delivery { reconnects, resent, drops, .. } = &self.figures;
        write!(f, "{reconnects} reconnects, {resent} sent again; dropped: {}", nonzero(drops))
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
        write!(f, "  rejected: {}; gaps: {}; dropped: {}", nonzero(&c.rejects), nonzero(&c.gaps), nonzero(&c.drops))
    }
}

/// The counts that are not zero, or "none".
fn nonzero<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let shown: Vec<String> = counts.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
