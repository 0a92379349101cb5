//! What a run has done, for the person who started it. Pure.

use std::fmt;

use serde_json::{Value, json};

use crate::energy::{EnergyEstimate, SavedEnergy, Status};
use crate::infer::stage_times::LatencySummary;
use crate::publish::payload::{Counts, Delivery, drop_in_words, nonzero};
use crate::text::{counted, figure, wrap};
use crate::units::Joules;

/// No line is wider.
const COLUMNS: usize = 80;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All decisions are delivered.
    Complete,
    /// Something was dropped, or not delivered in time.
    Undelivered,
    /// A stream has ended without a prediction.
    NoPrediction,
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

impl Summary {
    /// Returns the summary as an object of that version; docs/json.md describes its fields.
    pub fn to_json(&self, version: u32) -> Value {
        let outcome = match self.outcome {
            Outcome::Complete => "complete",
            Outcome::Undelivered => "undelivered",
            Outcome::NoPrediction => "no_prediction",
            Outcome::Failed => "failed",
        };
        let delivery = self.delivered.as_ref().map(|delivered| {
            let Delivered { undelivered, kept, figures, dropped } = delivered;
            json!({
                "undelivered": undelivered, "kept": kept, "reconnects": figures.reconnects, "resent": figures.resent,
                "drops": figures.drops, "too_large": dropped,
            })
        });
        let pipelines: Vec<Value> = self.pipelines.iter().map(PipelineSummary::to_json).collect();
        json!({ "v": version, "outcome": outcome, "pipelines": pipelines, "delivery": delivery })
    }
}

impl Summary {
    /// Says why the run has not decided and delivered everything; `None`: it has.
    pub fn shortfall(&self) -> Option<String> {
        let of_pipelines = self.pipelines.iter().flat_map(|pipeline| {
            pipeline.shortfall().into_iter().map(move |why| format!("pipeline {} {why}", pipeline.name))
        });
        let of_broker = self.delivered.iter().flat_map(Delivered::shortfall);
        let causes: Vec<String> = of_pipelines.chain(of_broker).collect();
        (!causes.is_empty()).then(|| causes.join("; "))
    }
}

impl PipelineSummary {
    fn shortfall(&self) -> Vec<String> {
        let failed = self.error.iter().map(|error| format!("failed: {error}"));
        let silent = self.nothing_predicted.iter().map(|reason| format!("made no prediction: {reason}"));
        let drops = self.counts.drops.iter().filter(|(_, count)| **count > 0).map(|(name, count)| {
            let fix = match *name {
                "source_overflow" => {
                    ": if its source can wait, write buffer.when_full = \"wait\" for it, else make its buffer larger"
                }
                _ => "",
            };
            format!("dropped {count} {} ({name}){fix}", drop_in_words(name))
        });
        failed.chain(silent).chain(drops).collect()
    }

    fn to_json(&self) -> Value {
        let per_s = self.counts.predictions as f64 / self.wall_s;
        json!({
            "name": self.name, "error": self.error, "nothing_predicted": self.nothing_predicted, "wall_s": self.wall_s, "predictions_per_s": per_s,
            "counts": self.counts, "right": self.right, "known": self.known, "invoke_us": self.invoke_us,
            "end_to_end_us": self.end_to_end_us, "energy": self.energy.to_json(),
            "gate": self.gate.as_ref().map(GateSummary::to_json),
        })
    }
}

impl EnergyTotal {
    fn to_json(&self) -> Value {
        let Some(figure) = &self.figure else {
            return json!({ "status": Status::Unavailable.name(), "reason": self.last_reason });
        };
        let inferences = self.inferences + self.open.1;
        json!({
            "status": figure.status.name(), "meter": figure.meter, "inferences": inferences,
            "gross_j": (self.joules + self.open.0) / inferences,
            "net_j": figure.net_j, "net_expanded_j": figure.net_expanded_j, "reason": figure.reason,
        })
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
    /// Which messages were too large for the broker or the queue, or were not taken by the broker.
    pub dropped: Option<String>,
}

impl Delivered {
    /// Returns whether the broker has taken all messages.
    pub fn is_complete(&self) -> bool {
        self.shortfall().is_empty()
    }

    /// Returns how many messages were dropped instead of delivered.
    pub fn dropped_count(&self) -> u64 {
        self.figures.drops.values().sum()
    }

    fn shortfall(&self) -> Vec<String> {
        let some = |count: usize, what: &str| (count > 0).then(|| format!("{count} messages {what}"));
        let undelivered = some(self.undelivered, "were not taken by the broker in time, and are lost");
        let kept = some(self.kept, "were not taken by the broker in time, and are kept for the next start");
        let has_drops = self.dropped_count() > 0;
        let dropped = has_drops.then(|| {
            let named = self.dropped.as_ref().map_or(String::new(), |text| format!("; {text}"));
            format!("messages were dropped: {}{named}", nonzero(&self.figures.drops))
        });
        [undelivered, kept, dropped].into_iter().flatten().collect()
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
    /// `None` without a gate.
    pub gate: Option<GateSummary>,
    pub error: Option<String>,
    /// Why its stream has ended without a prediction.
    pub nothing_predicted: Option<String>,
}

/// What a gate has done in the whole run.
#[derive(Debug)]
pub struct GateSummary {
    pub openings: u64,
    /// The highest level of a block; `None` if no block has ended.
    pub highest: Option<f64>,
    pub threshold: f64,
    /// Why it has let no window of the stream pass.
    pub never_opened: Option<String>,
    /// By each meter.
    pub saved: Vec<SavedEnergy>,
}

impl GateSummary {
    fn to_json(&self) -> Value {
        let Self { openings, highest, threshold, never_opened, saved } = self;
        json!({
            "openings": openings, "highest": highest, "threshold": threshold, "never_opened": never_opened, "saved": saved,
        })
    }

    /// Returns what is to be said of it, as sentences.
    fn in_words(&self, counts: &Counts) -> Vec<String> {
        let highest = self.highest.map_or("not known".to_owned(), figure);
        let opened = if self.openings == 1 { "once".to_owned() } else { format!("{} times", self.openings) };
        let skipped = format!("skipped {} of {}", counts.gated, counted(counts.windows, "window"));
        let first = match &self.never_opened {
            Some(reason) => reason.clone(),
            None => format!(
                "gate: {skipped}; it opened {opened}; the highest level was {highest}, its threshold is {}",
                figure(self.threshold)
            ),
        };
        // As the energy of inferences: by the first meter.
        let saved = self.saved.first().filter(|_| counts.gated > 0).map(|saved| match (saved.energy_j, saved.from) {
            (Some(joules), Some(from)) => {
                let expanded = saved.energy_expanded_j.map_or(String::new(), |j| format!(" ± {}", Joules(j).in_mj()));
                let (by, from) = (saved.meter.as_deref().unwrap_or("no meter"), from.name());
                let windows = counted(saved.inferences, "inference");
                let joules = Joules(joules).in_mj();
                let note = saved.reason.as_ref().map_or(String::new(), |reason| format!("; {reason}"));
                format!("saved: {joules}{expanded} mJ, estimated for {windows} from {from} net energy by {by}{note}")
            }
            _ => format!("saved: not known: {}", saved.reason.as_deref().unwrap_or("no metrics were due")),
        });
        std::iter::once(first).chain(saved).collect()
    }
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

impl fmt::Display for EnergyTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(figure) = &self.figure else {
            return write!(f, "not known: {}", self.last_reason.as_deref().unwrap_or("no metrics were due"));
        };
        let inferences = self.inferences + self.open.1;
        let (status, meter) = (figure.status.name(), figure.meter.as_deref().unwrap_or("no meter"));
        write!(f, "{status} by {meter} over {}: ", counted(inferences.round(), "inference"))?;
        let gross = Joules((self.joules + self.open.0) / inferences);
        write!(f, "{} mJ for each, idle power included (gross)", gross.in_mj())?;
        let Some(net_j) = figure.net_j else { return Ok(()) };
        let expanded = figure.net_expanded_j.map_or(String::new(), |j| format!(" ± {}", Joules(j).in_mj()));
        write!(f, "; {}{expanded} mJ more than idle (net), in the last window", Joules(net_j).in_mj())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pipeline in &self.pipelines {
            writeln!(f, "{pipeline}")?;
        }
        let delivery = match &self.delivered {
            Some(delivered) => format!("delivery: {delivered}"),
            None => "delivery: none, because mqtt.broker is \"none\"".to_owned(),
        };
        f.write_str(&wrapped("", &delivery).join("\n"))
    }
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} undelivered, ", self.undelivered)?;
        if self.kept > 0 {
            write!(f, "{} kept for the next start, ", self.kept)?;
        }
        let Delivery { reconnects, resent, drops, .. } = &self.figures;
        write!(f, "{}, {resent} sent again; dropped: {}", counted(*reconnects, "reconnect"), nonzero(drops))?;
        self.dropped.as_ref().map_or(Ok(()), |text| write!(f, "; {text}"))
    }
}

impl fmt::Display for PipelineSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        let rate = c.predictions as f64 / self.wall_s;
        let title = format!(
            "{}: {} in {:.1} s, {rate:.1} a second",
            self.name,
            counted(c.predictions, "prediction"),
            self.wall_s
        );
        let mut lines = wrapped("", &title);
        let mut add = |line: String| lines.extend(wrapped("  ", &line));
        add(format!("read {}, in {}", counted(c.samples, "sample"), counted(c.windows, "window")));
        if let Some(error) = &self.error {
            add(format!("failed: {error}"));
        }
        if let Some(reason) = &self.nothing_predicted {
            add(format!("no prediction: {reason}"));
        }
        if self.known > 0 {
            let percent = 100.0 * self.right as f64 / self.known as f64;
            add(format!("agrees with the recording's own labels in {} of {} ({percent:.1} %)", self.right, self.known));
        }
        if c.unknown_truth > 0 {
            add(format!("the true class of {} samples is not a label", c.unknown_truth));
        }
        for (what, latency) in [("the model", self.invoke_us), ("from sample to message", self.end_to_end_us)] {
            if let Some(l) = latency {
                add(format!(
                    "{what}: half within {:.0} us, 99 % within {:.0} us, longest {:.0} us",
                    l.p50, l.p99, l.max
                ));
            }
        }
        add(format!("energy: {}", self.energy));
        self.gate.iter().flat_map(|gate| gate.in_words(c)).for_each(&mut add);
        let (rejected, gaps, dropped) = (nonzero(&c.rejects), nonzero(&c.gaps), nonzero(&c.drops));
        add(format!("rejected: {rejected}; gaps: {gaps}; dropped: {dropped}"));
        if c.output_faults.values().any(|count| *count > 0) {
            add(format!("windows with doubtful outputs: {}", nonzero(&c.output_faults)));
        }
        if c.chain_input_saturated > 0 {
            let cut = c.chain_input_saturated;
            add(format!("values that did not fit into the inputs of the models before the last one: {cut}"));
        }
        if c.input_saturated > 0 {
            add(format!("values that did not fit into the model's input: {}", c.input_saturated));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// Returns a sentence as lines that fit into a terminal; those after the first are indented further.
fn wrapped(indent: &str, text: &str) -> Vec<String> {
    let lines = wrap(text, COLUMNS - indent.len() - 2).into_iter().enumerate();
    lines
        .map(|(place, line)| if place == 0 { format!("{indent}{line}") } else { format!("{indent}  {line}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::Savings;
    use crate::units::MonoTime;

    #[test]
    fn a_summary_fits_into_a_terminal() {
        let counts = |names: &[&'static str]| names.iter().map(|name| (*name, 123_456_789)).collect();
        let latency = LatencySummary { p50: 1.2e6, p90: 1.3e6, p99: 1.4e6, max: 1.5e6 };
        let pipeline = PipelineSummary {
            name: "a-name-of-a-pipeline-that-is-quite-long".to_owned(),
            counts: Counts {
                samples: u64::MAX,
                windows: u64::MAX,
                gated: u64::MAX,
                predictions: u64::MAX,
                unknown_truth: u64::MAX,
                rejects: counts(&["malformed", "not_finite", "out_of_range"]),
                gaps: counts(&["time_jump"]),
                drops: counts(&["source_overflow", "source_paused"]),
                output_faults: counts(&["nan", "not_a_probability"]),
                input_saturated: u64::MAX,
                chain_input_saturated: u64::MAX,
            },
            wall_s: 86_400.0,
            right: 98,
            known: 124,
            invoke_us: Some(latency),
            end_to_end_us: Some(latency),
            energy: EnergyTotal { last_reason: Some("a reason ".repeat(30)), ..EnergyTotal::default() },
            gate: Some(GateSummary {
                openings: u64::MAX,
                highest: Some(32768.0),
                threshold: 500.0,
                never_opened: None,
                saved: Savings::default().note(u64::MAX, &[EnergyEstimate::no_meter()], MonoTime(0)),
            }),
            nothing_predicted: Some("`text,without,a,blank`".repeat(8)),
            error: Some("/a/path/without/a/blank".repeat(8)),
        };
        let delivered = Some(Delivered { undelivered: 7, kept: 3, figures: Delivery::default(), dropped: None });
        let summary = Summary { pipelines: vec![pipeline], delivered, ..Summary::nothing_done() };
        let text = summary.to_string();
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.contains("energy: not known: a reason") && text.contains("98 of 124 (79.0 %)"), "{text}");
        assert!(text.contains("\ndelivery: 7 undelivered, 3 kept for the next start"), "{text}");
    }

    #[test]
    fn whatever_makes_a_single_run_fail_is_said() {
        let pipeline = || PipelineSummary {
            name: "imu".to_owned(),
            counts: Counts {
                samples: 10,
                windows: 1,
                gated: 0,
                predictions: 1,
                unknown_truth: 0,
                rejects: [("malformed", 3)].into(),
                gaps: [("overflow", 1)].into(),
                drops: [("source_overflow", 0), ("source_lost", 0)].into(),
                output_faults: Default::default(),
                input_saturated: 0,
                chain_input_saturated: 0,
            },
            wall_s: 1.0,
            right: 0,
            known: 0,
            invoke_us: None,
            end_to_end_us: None,
            energy: EnergyTotal::default(),
            gate: None,
            nothing_predicted: None,
            error: None,
        };
        let delivered = || Delivered { undelivered: 0, kept: 0, figures: Delivery::default(), dropped: None };
        let said = |pipeline: PipelineSummary, delivered: Delivered| {
            let pipelines = vec![pipeline];
            Summary { pipelines, delivered: Some(delivered), ..Summary::nothing_done() }.shortfall().unwrap_or_default()
        };
        assert_eq!(said(pipeline(), delivered()), "", "what a source sent wrong is no fault of the run");
        let mut dropped = pipeline();
        dropped.counts.drops.insert("source_overflow", 12);
        let text = said(dropped, delivered());
        let words = "pipeline imu dropped 12 samples that came too fast (source_overflow): if its source can wait, write \
                     buffer.when_full = \"wait\"";
        assert!(text.starts_with(words), "{text}");
        let failed = PipelineSummary { error: Some("source: gone".into()), ..pipeline() };
        assert_eq!(said(failed, delivered()), "pipeline imu failed: source: gone");
        let silent = PipelineSummary { nothing_predicted: Some("no record has come".into()), ..pipeline() };
        assert_eq!(said(silent, delivered()), "pipeline imu made no prediction: no record has come");
        let lost = Delivered { undelivered: 2, ..delivered() };
        assert!(!lost.is_complete());
        assert_eq!(said(pipeline(), lost), "2 messages were not taken by the broker in time, and are lost");
        let full = Delivery { drops: [("prediction.full".to_owned(), 3)].into(), ..Delivery::default() };
        let full = Delivered { figures: full, dropped: Some("the topic x has 900 bytes".into()), ..delivered() };
        let text = said(pipeline(), full);
        assert_eq!(text, "messages were dropped: prediction.full 3; the topic x has 900 bytes");
    }
}
