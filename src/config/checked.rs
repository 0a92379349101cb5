//! The configuration, judged and ready to use: what [`super::check`] makes of what the user wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Key;

pub use super::raw::{
    Accelerator, Format, From, Isolation, RaplInterface, Realtime, Scope, Scores, Speed, WhenBufferFull, WhenFull,
    XnnpackFlag,
};
pub(crate) use super::raw::{Hwmon, Iio};

/// In place of a library's path: the runtime that the binary is linked with (cargo feature `tflitec`).
pub const LINKED_RUNTIME: &str = "linked";

/// A configuration that can be run, as far as can be told without touching anything outside it.
#[derive(Debug, Clone)]
pub struct Config {
    /// SHA-256 of the file's text, shortened.
    pub hash: String,
    pub node_id: String,
    /// Where the daemon keeps what outlives it; `None`: where systemd says, else in `/var/lib`.
    pub state_dir: Option<PathBuf>,
    /// Its memory is to stay in RAM.
    pub lock_memory: bool,
    /// A path, or [`LINKED_RUNTIME`].
    pub runtime_library: Option<PathBuf>,
    pub mqtt: Mqtt,
    pub metrics_interval: Duration,
    pub power: Power,
    pub pipelines: Vec<Pipeline>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    pub broker: Broker,
    pub version: MqttVersion,
    /// User, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub alpn: Vec<String>,
    /// Messages in a second at most.
    pub drain_per_s: Option<u32>,
    /// Commands are heard on `cmd/#`.
    pub commands: bool,
    /// Home Assistant's prefix, where it is to be told of this node.
    pub discovery: Option<String>,
    pub client_id: String,
    pub base_topic: String,
    pub qos: u8,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    pub inflight: u16,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub stop_timeout: Duration,
    pub queue_messages: usize,
    pub queue_bytes: usize,
    pub when_full: WhenFull,
    /// How long a message may wait.
    pub max_age: Duration,
    /// What keeps messages on disk; `None`: nothing does.
    pub store: Option<Store>,
}

/// The file that keeps what the broker has not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// `None`: in the state directory.
    pub path: Option<PathBuf>,
    /// How long a message may be in memory alone.
    pub commit: Duration,
    pub max_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1
    Three,
    Five,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broker {
    Embedded,
    At(Address),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// The path of the WebSocket that carries MQTT.
    pub websocket: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Power {
    pub sysfs: PathBuf,
    pub sample_period: Duration,
    /// Between two messages on `power/METER`; `None`: there are none.
    pub interval: Option<Duration>,
    /// Watts; measured where none.
    pub idle: Option<f64>,
    /// No source starts before this time at the daemon's start, in which idle power is measured.
    pub quiet: Duration,
    /// Relative expanded uncertainty at which a window is long enough.
    pub target_rel: f64,
    pub window_max: Duration,
    /// What no calibration is kept of is calibrated before any source starts.
    pub calibrate_at_start: bool,
    pub meters: Vec<Meter>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Meter {
    pub name: String,
    pub kind: MeterKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum MeterKind {
    /// `None`: perf events where they are permitted, else powercap.
    Rapl(Option<RaplInterface>),
    Hwmon(Hwmon),
    Ina219(Ina219),
    Iio(Iio),
    /// The power chip of a Raspberry Pi 5.
    Pmic,
    Replay(Trace),
    Estimate {
        watts_per_core: f64,
        idle_watts: f64,
    },
}

/// An INA219 that edgewatt itself drives.
#[derive(Debug, Clone, PartialEq)]
pub struct Ina219 {
    pub bus: u8,
    pub address: u16,
    pub shunt_ohms: f64,
    /// `None`: as much as the chip can measure across that shunt.
    pub max_amperes: Option<f64>,
    pub max_volts: f64,
    /// `None`: as many as fit between two readings.
    pub averages: Option<u16>,
    pub shunt_tolerance: f64,
    pub scope: Scope,
}

/// A recording of power.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub path: PathBuf,
    /// The column of the time.
    pub time: String,
    /// Nanoseconds in one unit of the time column.
    pub time_unit_ns: f64,
    pub value: TraceValue,
    pub scope: Scope,
}

/// The column with what was metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceValue {
    Watts(String),
    Joules(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    pub name: String,
    pub source: Source,
    pub window: Window,
    pub features: Vec<Feature>,
    pub model: PathBuf,
    pub labels: Option<PathBuf>,
    /// The SHA-256 that the model file must have, in lower-case hex.
    pub model_sha256: Option<String>,
    /// The most bytes that the model file may have.
    pub model_max_bytes: Option<u64>,
    /// The one that was asked for, then those to fall back to, in order.
    pub delegates: Vec<Delegate>,
    pub parity: Parity,
    pub batch: Batch,
    pub decision: Decision,
    pub publish_scores: bool,
    pub qos: u8,
    pub realtime: Realtime,
}

impl Meter {
    /// Whether it has a sensor, and of this machine as it is now.
    pub fn is_sensed(&self) -> bool {
        !matches!(self.kind, MeterKind::Estimate { .. } | MeterKind::Replay(_))
    }
}

impl Pipeline {
    /// The key of this pipeline's table, for errors found after the check.
    pub fn key(&self) -> Key {
        Key::new(&["pipelines", &self.name])
    }

    /// Whether threads that work for `other` can go on for this one: with its source, scheduled as it asks for.
    pub fn goes_on_with(&self, other: &Self) -> bool {
        self.source == other.source && self.realtime == other.realtime
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub kind: SourceKind,
    pub records: Records,
    pub buffer_samples: usize,
    pub when_full: WhenBufferFull,
}

impl Source {
    /// It starts over whenever it ends.
    pub fn is_endless(&self) -> bool {
        matches!(&self.kind, SourceKind::Replay(replay) if replay.repeat)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    Replay(Replay),
    Lines(From),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub path: PathBuf,
    pub speed: Speed,
    pub repeat: bool,
}

/// What one line of text holds, with a limit for every channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    pub format: Format,
    /// The first line names the columns.
    pub header: bool,
    /// Names of the columns where no header gives them.
    pub columns: Vec<String>,
    pub channels: Vec<String>,
    /// Lowest and highest value accepted, per channel.
    pub limits: Vec<[f32; 2]>,
    pub rate_hz: Option<f64>,
    pub time: Option<String>,
    /// Nanoseconds in one unit of the time column.
    pub time_unit_ns: f64,
    pub truth: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub samples: usize,
    pub hop: usize,
    /// Longest step of the stream's time within a window; `None` when the stream has no time.
    pub max_gap: Option<Duration>,
}

/// A transform with one value for each channel.
#[derive(Debug, Clone, PartialEq)]
pub enum Feature {
    Standardize { mean: Vec<f32>, std: Vec<f32> },
    Scale { factor: Vec<f32>, offset: Vec<f32> },
    Detrend,
}

/// A delegate by the name under which the pipeline asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegate {
    pub name: String,
    pub kind: DelegateKind,
    /// What keeps it in a process of its own; `None`: it runs on the infer thread.
    pub process: Option<ProcessLimits>,
    pub restarts: Restarts,
}

/// The limits of a delegate's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Until its first inference is done, which may compile the model for a device.
    pub start: Duration,
    /// Of one inference after that.
    pub deadline: Duration,
    /// Of its address space.
    pub memory_bytes: u64,
    /// Folders and files that it may write to, besides devices and temporary files.
    pub writable: Vec<PathBuf>,
}

/// How often a delegate that fails is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts {
    pub max: u32,
    pub per: Duration,
}

/// How a delegate is compared with the runtime's own kernels before it takes over.
#[derive(Debug, Clone, PartialEq)]
pub struct Parity {
    /// What a delegate must pass; `None`: nothing is compared.
    pub limits: Option<ParityLimits>,
    /// The user asked for it: built-in delegates are compared too, and what cannot be compared is refused.
    pub demanded: bool,
    /// Where the windows come from; `None`: from the running stream.
    pub recording: Option<PathBuf>,
    /// The model that the reference runs, where the delegate's own runs on the delegate only.
    pub reference_model: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParityLimits {
    pub windows: usize,
    /// Largest difference of an output from the reference, as a share of the reference's largest output.
    pub tolerance: f32,
    /// Least share of windows with the same largest value in the output that is decided on.
    pub top1: Option<f32>,
}

/// Windows that go through the model together, and how long the first waits for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub max: usize,
    pub wait: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DelegateKind {
    Cpu {
        threads: u16,
    },
    Xnnpack {
        threads: u16,
        flags: Vec<XnnpackFlag>,
    },
    /// A library with `tflite_plugin_create_delegate`, such as an NPU's vendor ships.
    External {
        library: PathBuf,
        options: BTreeMap<String, String>,
    },
    /// LiteRT's compiled models, which is a runtime of its own.
    Litert {
        library: PathBuf,
        accelerators: Vec<Accelerator>,
    },
}

impl DelegateKind {
    /// The library that it is loaded from, where it does not come with the runtime.
    pub fn library(&self) -> Option<&Path> {
        match self {
            Self::External { library, .. } | Self::Litert { library, .. } => Some(library),
            Self::Cpu { .. } | Self::Xnnpack { .. } => None,
        }
    }

    /// It comes with the runtime, and is trusted as the runtime is.
    pub fn is_built_in(&self) -> bool {
        matches!(self, Self::Cpu { .. } | Self::Xnnpack { .. })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Classify(Classify),
    Regress(Regress),
    Raw,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Classify {
    pub output: usize,
    /// What the output holds; `None`: told from the model's last operator.
    pub scores: Option<Scores>,
    pub threshold: f32,
    pub smooth: usize,
    pub hysteresis: f32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regress {
    pub output: usize,
    pub names: Vec<String>,
    pub smooth: usize,
}

/// Something wrong with the value at a key, and what would be right.
#[derive(Debug)]
pub struct Problem {
    pub key: Key,
    pub message: String,
    /// Another time it may be none, with the same configuration: a device comes late.
    pub may_pass: bool,
}

impl Problem {
    pub fn new(key: Key, message: impl std::fmt::Display) -> Self {
        Self { key, message: message.to_string(), may_pass: false }
    }
}
