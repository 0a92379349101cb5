//! The configuration as the user wrote it: shapes and types only, nothing judged yet, no I/O.
//!
//! Enums are externally tagged and every table refuses unknown keys, so that an error has a position.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Root {
    #[serde(default)]
    pub node: Node,
    #[serde(default)]
    pub runtime: Runtime,
    pub mqtt: Mqtt,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub power: Power,
    #[serde(default)]
    pub delegates: BTreeMap<String, Delegate>,
    pub pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub id: Option<String>,
    pub state_dir: Option<PathBuf>,
    #[serde(default)]
    pub lock_memory: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runtime {
    pub library: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mqtt {
    pub broker: String,
    #[serde(default = "defaults::mqtt_version")]
    pub version: String,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub allow_plaintext_password: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub alpn: Vec<String>,
    pub drain_per_s: Option<u32>,
    #[serde(default)]
    pub commands: bool,
    #[serde(default)]
    pub discovery: bool,
    #[serde(default = "defaults::discovery_prefix")]
    pub discovery_prefix: String,
    pub client_id: Option<String>,
    #[serde(default = "defaults::base_topic")]
    pub base_topic: String,
    #[serde(default = "defaults::qos")]
    pub qos: u8,
    #[serde(default = "defaults::keep_alive_s")]
    pub keep_alive_s: u16,
    #[serde(default = "defaults::connect_timeout_s")]
    pub connect_timeout_s: u64,
    #[serde(default = "defaults::inflight")]
    pub inflight: u16,
    #[serde(default = "defaults::retry_min_ms")]
    pub retry_min_ms: u64,
    #[serde(default = "defaults::retry_max_ms")]
    pub retry_max_ms: u64,
    #[serde(default = "defaults::stop_timeout_s")]
    pub stop_timeout_s: f64,
    #[serde(default)]
    pub queue: Queue,
    #[serde(default)]
    pub store: Store,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Queue {
    pub messages: usize,
    pub kib: usize,
    pub when_full: WhenFull,
    pub max_age_h: f64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { messages: 10_000, kib: 8 * 1024, when_full: WhenFull::DropOldest, max_age_h: 72.0 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    pub enabled: bool,
    pub path: Option<PathBuf>,
    pub commit_ms: u64,
    pub mib: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { enabled: true, path: None, commit_ms: 250, mib: 64 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    DropOldest,
    DropNewest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    pub interval_s: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { interval_s: 10.0 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Power {
    pub sysfs: PathBuf,
    pub sample_ms: u64,
    pub interval_s: f64,
    pub idle_watts: Option<f64>,
    pub idle_s: Option<f64>,
    pub target_rel: f64,
    pub window_max_s: f64,
    pub calibrate_at_start: bool,
    pub meters: BTreeMap<String, Meter>,
}

impl Default for Power {
    fn default() -> Self {
        Self {
            sysfs: PathBuf::from("/sys"),
            sample_ms: 100,
            interval_s: 1.0,
            idle_watts: None,
            idle_s: None,
            target_rel: 0.05,
            window_max_s: 60.0,
            calibrate_at_start: false,
            meters: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Meter {
    Rapl(Rapl),
    Hwmon(Hwmon),
    Ina219(Ina219),
    Iio(Iio),
    Pmic(Pmic),
    Replay(Trace),
    Estimate(Estimate),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rapl {
    pub interface: Option<RaplInterface>,
}

/// How the processor's counters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaplInterface {
    Perf,
    Powercap,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hwmon {
    pub chip: String,
    pub device: Option<String>,
    pub channel: Option<u32>,
    pub label: Option<String>,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ina219 {
    pub bus: u8,
    #[serde(default = "defaults::ina219_address")]
    pub address: u16,
    pub shunt_ohms: f64,
    pub max_amperes: Option<f64>,
    #[serde(default = "defaults::max_volts")]
    pub max_volts: f64,
    pub averages: Option<u16>,
    #[serde(default = "defaults::shunt_tolerance")]
    pub shunt_tolerance: f64,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iio {
    pub chip: String,
    pub device: Option<String>,
    pub shunt_ohms: f64,
    #[serde(default = "defaults::shunt_tolerance")]
    pub shunt_tolerance: f64,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pmic {}

/// A recording of power, with one of `watts` and `joules`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    pub path: PathBuf,
    pub time: String,
    #[serde(default)]
    pub time_unit: TimeUnit,
    pub watts: Option<String>,
    pub joules: Option<String>,
    #[serde(default)]
    pub scope: Scope,
}

/// What a power sensor's supply feeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Board,
    Device,
    Package,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Estimate {
    pub watts_per_core: f64,
    pub idle_watts: f64,
}

/// One kind, and how it is kept apart from the daemon.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delegate {
    pub cpu: Option<Threads>,
    pub xnnpack: Option<Xnnpack>,
    pub external: Option<External>,
    pub litert: Option<Litert>,
    pub isolation: Option<Isolation>,
    pub start_timeout_s: Option<f64>,
    pub deadline_ms: Option<f64>,
    pub restarts: Option<Restarts>,
    pub memory_mib: Option<u64>,
    pub writable: Option<Vec<PathBuf>>,
}

/// Where a delegate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    Process,
    Thread,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restarts {
    pub max: u32,
    #[serde(default = "defaults::restarts_per_s")]
    pub per_s: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Xnnpack {
    #[serde(default = "defaults::threads")]
    pub threads: u16,
    #[serde(default)]
    pub flags: Vec<XnnpackFlag>,
}

/// What XNNPACK may do beyond its defaults, by the names of its own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XnnpackFlag {
    ForceFp16,
    DynamicFullyConnected,
    VariableOperators,
    TransientIndirectionBuffer,
    EnableLatestOperators,
    EnableSubgraphReshaping,
}

impl XnnpackFlag {
    /// `TFLITE_XNNPACK_DELEGATE_FLAG_...` of TensorFlow Lite 2.17's `xnnpack_delegate.h`.
    pub fn bit(self) -> u32 {
        match self {
            Self::ForceFp16 => 0x04,
            Self::DynamicFullyConnected => 0x08,
            Self::VariableOperators => 0x10,
            Self::TransientIndirectionBuffer => 0x20,
            Self::EnableLatestOperators => 0x40,
            Self::EnableSubgraphReshaping => 0x80,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Litert {
    pub library: PathBuf,
    pub accelerators: Vec<Accelerator>,
}

/// Hardware that LiteRT runs a model on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    Cpu,
    Gpu,
    Npu,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct External {
    pub library: PathBuf,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Threads {
    #[serde(default = "defaults::threads")]
    pub threads: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pipeline {
    pub source: Source,
    pub window: Window,
    #[serde(default)]
    pub features: Vec<Feature>,
    pub model: Model,
    #[serde(default = "defaults::delegate")]
    pub delegate: String,
    #[serde(default)]
    pub fallback: Vec<String>,
    pub parity: Option<Parity>,
    #[serde(default)]
    pub batch: Batch,
    pub decision: Decision,
    #[serde(default)]
    pub publish: Publish,
    #[serde(default)]
    pub realtime: Realtime,
}

/// How the threads of a pipeline are scheduled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Realtime {
    pub priority: Option<u8>,
    pub cpus: Vec<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Source {
    Replay(Replay),
    Lines(Lines),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    pub path: PathBuf,
    #[serde(default = "defaults::speed")]
    pub speed: Speed,
    #[serde(default, rename = "loop")]
    pub repeat: bool,
    pub records: Records,
    #[serde(default)]
    pub buffer: Buffer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lines {
    pub from: From,
    pub records: Records,
    #[serde(default)]
    pub buffer: Buffer,
}

/// What one line of text holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    #[serde(default)]
    pub format: Format,
    pub header: Option<bool>,
    pub columns: Option<Vec<String>>,
    pub channels: Vec<String>,
    pub rate_hz: Option<f64>,
    pub time: Option<String>,
    #[serde(default)]
    pub time_unit: TimeUnit,
    pub truth: Option<String>,
    #[serde(default)]
    pub limits: BTreeMap<String, [f32; 2]>,
}

/// The ring between a source and its pipeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Buffer {
    pub samples: usize,
    pub when_full: Option<WhenBufferFull>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { samples: 4096, when_full: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum From {
    Stdin,
    Fifo(PathBuf),
    Socket(PathBuf),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Csv,
    Ndjson,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TimeUnit {
    #[default]
    S,
    Ms,
    Us,
    Ns,
}

impl TimeUnit {
    /// Nanoseconds in one.
    pub(crate) fn ns(self) -> f64 {
        match self {
            Self::S => 1e9,
            Self::Ms => 1e6,
            Self::Us => 1e3,
            Self::Ns => 1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenBufferFull {
    Wait,
    Drop,
}

/// A factor of real time, or as fast as can be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    Times(f64),
    Max,
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpeedVisitor;
        impl Visitor<'_> for SpeedVisitor {
            type Value = Speed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a factor of real time above 0, such as 1.0, or \"max\"")
            }
            fn visit_f64<E: Error>(self, factor: f64) -> Result<Speed, E> {
                if factor > 0.0 && factor.is_finite() {
                    Ok(Speed::Times(factor))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(factor), &self))
                }
            }
            fn visit_i64<E: Error>(self, factor: i64) -> Result<Speed, E> {
                self.visit_f64(factor as f64)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Speed, E> {
                if text == "max" {
                    Ok(Speed::Max)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
        }
        deserializer.deserialize_any(SpeedVisitor)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    pub samples: usize,
    pub hop: usize,
    pub max_gap_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Feature {
    Standardize(Standardize),
    Scale(Scale),
    Detrend,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Standardize {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    pub factor: Vec<f32>,
    #[serde(default = "defaults::offset")]
    pub offset: Vec<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub path: PathBuf,
    pub labels: Option<PathBuf>,
    pub sha256: Option<String>,
    pub max_mib: Option<f64>,
}

/// How a delegate is compared with the reference before it takes over.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parity {
    #[serde(default = "defaults::parity_windows")]
    pub windows: usize,
    #[serde(default = "defaults::parity_tolerance")]
    pub tolerance: f32,
    pub top1: Option<f32>,
    pub recording: Option<PathBuf>,
    pub reference_model: Option<PathBuf>,
}

/// Windows that go through the model together.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    pub max: usize,
    #[serde(default)]
    pub wait_ms: f64,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max: 1, wait_ms: 0.0 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Decision {
    Classify(Classify),
    Regress(Regress),
    Raw(RawOutputs),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Classify {
    #[serde(default)]
    pub output: usize,
    pub scores: Option<Scores>,
    #[serde(default)]
    pub threshold: f32,
    #[serde(default = "defaults::smooth")]
    pub smooth: usize,
    #[serde(default)]
    pub hysteresis: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    Probabilities,
    Logits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Regress {
    #[serde(default)]
    pub output: usize,
    pub names: Vec<String>,
    #[serde(default = "defaults::smooth")]
    pub smooth: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOutputs {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Publish {
    pub scores: bool,
    pub qos: Option<u8>,
}

pub(super) mod defaults {
    use super::Speed;

    pub(crate) fn base_topic() -> String {
        "edgewatt".into()
    }
    pub(crate) fn qos() -> u8 {
        1
    }
    pub(crate) fn keep_alive_s() -> u16 {
        30
    }
    pub(crate) fn connect_timeout_s() -> u64 {
        5
    }
    pub(crate) fn inflight() -> u16 {
        256
    }
    pub(crate) fn retry_min_ms() -> u64 {
        500
    }
    pub(crate) fn retry_max_ms() -> u64 {
        30_000
    }
    pub(crate) fn stop_timeout_s() -> f64 {
        5.0
    }
    pub(crate) fn ina219_address() -> u16 {
        0x40
    }
    pub(crate) fn discovery_prefix() -> String {
        "homeassistant".into()
    }
    pub(crate) fn mqtt_version() -> String {
        "5".into()
    }
    pub(crate) fn shunt_tolerance() -> f64 {
        0.01
    }
    pub(crate) fn max_volts() -> f64 {
        16.0
    }
    pub(crate) fn threads() -> u16 {
        1
    }
    pub(crate) fn restarts_per_s() -> f64 {
        60.0
    }
    pub(crate) fn parity_windows() -> usize {
        32
    }
    pub(crate) fn parity_tolerance() -> f32 {
        0.1
    }
    pub(crate) fn delegate() -> String {
        "xnnpack".into()
    }
    pub(crate) fn speed() -> Speed {
        Speed::Times(1.0)
    }
    pub(crate) fn offset() -> Vec<f32> {
        vec![0.0]
    }
    pub(crate) fn smooth() -> usize {
        1
    }
}
