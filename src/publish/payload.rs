//! The payloads: JSON objects with the schema version in `v`. Pure encoders.
//!
//! Times are wall-clock milliseconds since 1970, converted here from the monotonic clock. An unknown value is null or
//! left out, never zero.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::correct::Truth;
use crate::decision::{Fields, Presentation, ScoreMeaning, write_object};
use crate::energy::{EnergyEstimate, SavedEnergy};
use crate::engine::parity::Agreement;
use crate::engine::{Proof, TensorInfo};
use crate::infer::stage_times::LatencySummary;
use crate::meter::{MeterInfo, Scope};
use crate::units::MonoTime;

pub const SCHEMA_VERSION: u32 = 1;

/// Both clocks, read together, to convert monotonic time to wall time.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    mono: MonoTime,
    since_1970: Duration,
}

impl Clocks {
    /// Reads both clocks.
    pub fn now() -> Self {
        // A clock before 1970 is not set; such times are published as 1970.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { mono: MonoTime::now(), since_1970 }
    }

    /// Returns the wall-clock milliseconds since 1970 of a moment in the past.
    pub fn wall_ms(&self, moment: MonoTime) -> u64 {
        let then = self.since_1970.saturating_sub(self.mono.since(moment));
        u64::try_from(then.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What every message carries.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Envelope<'a> {
    pub v: u32,
    /// Differs at each start of the daemon; `seq` counts from 0 within it.
    pub boot: &'a str,
    pub time_ms: u64,
}

/// One decision, but for what its kind says of the verdict.
#[derive(Debug)]
pub struct Prediction<'a> {
    pub envelope: Envelope<'a>,
    pub seq: u64,
    /// The stream's own time of the window's last sample, in seconds.
    pub stream_s: Option<f64>,
    /// From the arrival of the window's last sample to the end of the invoke.
    pub latency_us: f64,
    pub invoke_us: f64,
    /// Windows that went through the model together in that time.
    pub batch: u32,
}

/// Appends a prediction to `json`; `verdict` adds the fields of the verdict.
///
/// # Errors
/// As `verdict`.
pub fn encode_prediction(
    json: &mut Vec<u8>,
    prediction: &Prediction<'_>,
    verdict: impl FnOnce(&mut Fields<'_, '_>) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    let Prediction { envelope: Envelope { v, boot, time_ms }, seq, stream_s, latency_us, invoke_us, batch } =
        prediction;
    write_object(json, |fields| {
        fields.add("v", v)?;
        fields.add("boot", boot)?;
        fields.add("time_ms", time_ms)?;
        fields.add("seq", seq)?;
        verdict(fields)?;
        if let Some(stream_s) = stream_s {
            fields.add("stream_s", stream_s)?;
        }
        fields.add("latency_us", latency_us)?;
        fields.add("invoke_us", invoke_us)?;
        if *batch > 1 {
            fields.add("batch", batch)?;
            fields.add("invoke_per_window_us", &(invoke_us / f64::from(*batch)))?;
        }
        Ok(())
    })
}

/// Returns how many bytes a prediction has at most, of verdicts that are published like this.
pub fn most_prediction_bytes(boot: &str, presentation: &dyn Presentation) -> usize {
    let longest = f64::from_bits(0x8000_0000_0000_0001);
    let prediction = Prediction {
        envelope: Envelope { v: SCHEMA_VERSION, boot, time_ms: u64::MAX },
        seq: u64::MAX,
        stream_s: Some(longest),
        latency_us: longest,
        invoke_us: longest,
        batch: u32::MAX,
    };
    let mut json = Vec::new();
    // An error leaves it shorter, and none can occur: there are no fields of a verdict.
    let _ = encode_prediction(&mut json, &prediction, |_| Ok(()));
    json.len() + presentation.most_bytes()
}

/// Which delegate was asked for and which one runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DelegateState {
    pub requested: String,
    pub active: String,
    /// Why the active one is not the requested one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(flatten)]
    pub proof: DelegateProof,
}

impl fmt::Display for DelegateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} in a {}", self.active, self.proof.isolation)?;
        if let Some(library) = &self.proof.library {
            write!(f, ", {}", library.display())?;
        }
        if let Some(delegation) = &self.proof.engine.delegation {
            write!(f, "; {delegation}")?;
        }
        if let Some(litert) = &self.proof.engine.litert {
            write!(f, "; {litert}")?;
        }
        self.proof.parity.map_or(Ok(()), |parity| write!(f, "; {parity}"))
    }
}

/// Evidence of which delegate is active.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DelegateProof {
    /// `process` or `thread`.
    pub isolation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library_version: Option<String>,
    #[serde(flatten)]
    pub engine: Proof,
    /// How well its outputs agree with the reference's; absent if they were not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Agreement>,
}

/// Figures of one pipeline over the last interval.
#[derive(Debug, Serialize)]
pub struct Metrics<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    /// Length of the interval.
    pub interval_s: f64,
    pub state: PipelineState,
    /// As in the pipeline's status.
    pub predicting: bool,
    /// Another delegate runs than was asked for.
    pub fallback: bool,
    pub delegate: &'a DelegateState,
    pub predictions_per_s: f64,
    pub latency_us: Latencies,
    /// Absent without a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate<'a>>,
    /// Since the start of the daemon.
    pub counts: &'a Counts,
    /// Of the node, all pipelines together; null without a broker.
    pub delivery: Option<&'a Delivery>,
    pub energy: &'a [EnergyEstimate],
    /// Absent while no true class is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<Truth>,
    pub process: &'a Process,
}

/// The gate of a pipeline.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Gate<'a> {
    /// Its kind in the configuration.
    pub kind: &'static str,
    #[serde(flatten)]
    pub passage: Passage,
    /// How often it has opened, since the start of the daemon.
    pub openings: u64,
    /// The level of the last block, and the highest in the interval; null if no block has ended.
    pub level: Option<f64>,
    pub highest: Option<f64>,
    pub threshold: f64,
    pub release: f64,
    /// What the skipped inferences would have taken, by each meter.
    pub saved: &'a [SavedEnergy],
}

/// Whether windows go to the model.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Passage {
    pub open: bool,
    /// Null if no block has ended yet.
    pub since_ms: Option<u64>,
}

/// Takes the place of the latest prediction when the gate has closed: nothing is known of what is true now.
#[derive(Debug, Serialize)]
pub struct NoPrediction<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    pub gate: &'static str,
}

/// Figures of the node as a whole.
#[derive(Debug, Serialize)]
pub struct NodeMetrics<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    /// Length of the interval.
    pub interval_s: f64,
    pub delivery: Option<&'a Delivery>,
    pub process: &'a Process,
}

/// Each null when nothing was recorded in the interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latencies {
    pub source: Option<LatencySummary>,
    /// Of the models before the last one, for a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<LatencySummary>,
    pub features: Option<LatencySummary>,
    /// Of the whole batch, and the part of one window.
    pub invoke: Option<LatencySummary>,
    pub invoke_per_window: Option<LatencySummary>,
    pub publish: Option<LatencySummary>,
    pub end_to_end: Option<LatencySummary>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub samples: u64,
    pub windows: u64,
    /// Windows that a closed gate has skipped.
    pub gated: u64,
    pub predictions: u64,
    /// Samples whose true class is not a label.
    pub unknown_truth: u64,
    pub rejects: BTreeMap<&'static str, u64>,
    pub gaps: BTreeMap<&'static str, u64>,
    pub drops: BTreeMap<&'static str, u64>,
    /// Windows whose outputs are not numbers, or not what they are taken for.
    pub output_faults: BTreeMap<&'static str, u64>,
    /// Values that did not fit into the model's quantised input.
    pub input_saturated: u64,
    /// Values that did not fit into the inputs of the models before the last one.
    pub chain_input_saturated: u64,
}

/// The reason under which samples are counted that a pause discards.
pub(super) const SOURCE_PAUSED: &str = "source_paused";

/// Returns in words what was dropped if it is counted under this name.
pub fn drop_in_words(name: &str) -> &str {
    match name {
        "source_overflow" => "samples that came too fast",
        "source_lost" => "samples that the device lost",
        "source_unmatched" => "samples that were not joined",
        SOURCE_PAUSED => "samples while paused",
        "undecided_at_stop" => "samples at the stop",
        "inference_failed" => "windows whose inference failed",
        "decision_overflow" => "decisions that came too fast",
        other => other,
    }
}

/// Readings of one meter, independent of any inference; null: not measured, or the meter cannot be read.
#[derive(Debug, Serialize)]
pub struct Power<'a> {
    /// Its time is the reading's.
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    pub kind: &'static str,
    pub scope: Scope,
    pub estimated: bool,
    /// The mean since the last message; the first one is the momentary value.
    pub power_w: Option<f64>,
    pub voltage_v: Option<f64>,
    pub current_a: Option<f64>,
    /// Since the daemon opened the meter.
    pub energy_j: Option<f64>,
    /// Why there is no reading.
    pub reason: Option<&'a str>,
}

/// Delivery to the broker: totals since the start of the daemon, except those marked "now".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Messages to be delivered; those of retained topics are not counted here.
    pub produced: u64,
    /// Now: messages that wait or are not yet acknowledged.
    pub queued: u64,
    pub delivered: u64,
    /// Sent again after a reconnect: possible duplicates.
    pub resent: u64,
    pub reconnects: u64,
    /// Messages of an earlier run, found in the store.
    pub recovered: u64,
    /// Now: messages in the store, and the space that they take.
    pub stored: u64,
    pub stored_kib: u64,
    /// Whether messages are kept on disk: `off`, `working` or `failing`.
    pub store: &'static str,
    /// Why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_error: Option<String>,
    /// Messages dropped, by class and reason, as `prediction.full`; `state` counts those of retained topics.
    pub drops: BTreeMap<String, u64>,
}

/// Returns the counts that are not zero, such as `full 3, expired 1`, or "none".
pub fn nonzero<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let shown: Vec<String> = counts.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// The daemon as a process; null: the kernel does not provide the value.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    pub cpu_s: f64,
    pub rss_mib: Option<f64>,
    pub soc_temperature_c: Option<f64>,
    /// Mean clock of the processors since the last message, and the highest that they can have, in MHz.
    pub clock_mhz: Option<f64>,
    pub clock_max_mhz: Option<f64>,
    /// What slowed the processors down since the last message.
    pub throttled: Option<Vec<&'static str>>,
}

/// What runs here: published retained at each start.
#[derive(Debug, Serialize)]
pub struct Info<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    pub version: &'static str,
    pub node: &'a str,
    pub config_sha256: &'a str,
    pub runtime: String,
    pub runtime_version: &'a str,
    pub pipelines: BTreeMap<&'a str, PipelineInfo<'a>>,
    /// The delegates that a pipeline may be switched to.
    pub delegates: Vec<&'a str>,
    pub meters: &'a [MeterInfo],
}

#[derive(Debug, Serialize)]
pub struct PipelineInfo<'a> {
    pub model: String,
    pub model_sha256: &'a str,
    pub inputs: &'a [TensorInfo],
    pub outputs: &'a [TensorInfo],
    /// What the scores are taken for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<&'a ScoreMeaning>,
    pub delegate: &'a DelegateState,
    /// What was read, and from where, as `check` says it.
    pub notes: &'a [String],
}

/// Whether a pipeline works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    Running,
    /// It works, but not with the requested delegate; or it waits for its engine to restart.
    Degraded,
    /// Its samples are discarded, by command.
    Paused,
    /// The source has ended, and all its samples are processed.
    Ended,
    /// The daemon is stopping.
    Stopped,
    Failed,
}

#[derive(Debug, Serialize)]
pub struct PipelineStatus<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    pub state: PipelineState,
    /// Predictions can come: it is at work, has an engine, and its source gives samples.
    pub predicting: bool,
    pub reason: Option<&'a str>,
    /// Absent without a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Passage>,
    pub delegate: &'a DelegateState,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(flatten)]
    pub envelope: Envelope<'a>,
    pub event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<&'a str>,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_reads_as_documented() {
        let clocks = Clocks { mono: MonoTime(5_000_000_000), since_1970: Duration::from_secs(1_000_000) };
        let prediction = Prediction {
            envelope: Envelope { v: SCHEMA_VERSION, boot: "b007", time_ms: clocks.wall_ms(MonoTime(4_750_000_000)) },
            seq: 7,
            stream_s: Some(1.5),
            latency_us: 12.5,
            invoke_us: 10.0,
            batch: 1,
        };
        let encoded = |prediction: &Prediction<'_>| {
            let mut json = Vec::new();
            encode_prediction(&mut json, prediction, |fields| fields.add("label", &None::<&str>)).unwrap();
            String::from_utf8(json).unwrap()
        };
        assert_eq!(
            encoded(&prediction),
            r#"{"v":1,"boot":"b007","time_ms":999999750,"seq":7,"label":null,"stream_s":1.5,"latency_us":12.5,"invoke_us":10.0}"#
        );
        let together = encoded(&Prediction { batch: 8, ..prediction });
        assert!(together.ends_with(r#""invoke_us":10.0,"batch":8,"invoke_per_window_us":1.25}"#), "{together}");
    }
}
