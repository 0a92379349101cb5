//! The keys and the checks of the delegates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schema::{Checker, Children, Key, Value, milliseconds};

const BUILT_IN: [&str; 2] = ["cpu", "xnnpack"];
const START: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(2);
const RESTARTS: Restarts = Restarts { max: 5, per: Duration::from_secs(60) };
const MEMORY_MIB: u64 = 4096;

/// One kind, and how it is kept apart from the daemon.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDelegate {
    pub cpu: Option<Threads>,
    pub xnnpack: Option<RawXnnpack>,
    pub external: Option<RawExternal>,
    pub litert: Option<RawLitert>,
    pub isolation: Option<Isolation>,
    pub start_timeout_s: Option<f64>,
    pub deadline_ms: Option<f64>,
    pub restarts: Option<RawRestarts>,
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
pub struct RawRestarts {
    pub max: u32,
    #[serde(default = "restarts_per_s")]
    pub per_s: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawXnnpack {
    #[serde(default = "threads")]
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

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLitert {
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

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExternal {
    pub library: PathBuf,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threads {
    #[serde(default = "threads")]
    pub threads: u16,
}

impl Value for RawDelegate {
    fn type_name() -> String {
        "table".to_owned()
    }
    fn children() -> Children {
        Children::None
    }
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

pub fn check_entry(name: &str, raw: &RawDelegate, checker: &mut Checker) {
    let key = Key::new(&["delegates", name]);
    if BUILT_IN.contains(&name) {
        checker.problem(&key, format!("`{name}` is built in; choose another name for a delegate of your own"));
    }
    checker.topic_level(&key, name);
    let kinds = [raw.cpu.is_some(), raw.xnnpack.is_some(), raw.external.is_some(), raw.litert.is_some()];
    if kinds.into_iter().filter(|kind| *kind).count() != 1 {
        checker.problem(&key, "write exactly one of cpu, xnnpack, external and litert");
    }
    let threads = [("cpu", raw.cpu.as_ref().map(|c| c.threads)), ("xnnpack", raw.xnnpack.as_ref().map(|x| x.threads))];
    for (kind, threads) in threads {
        if let Some(threads) = threads {
            checker.within(&key.child(kind).child("threads"), threads, 1, 256);
        }
    }
    let external = raw.external.as_ref().map(|e| ("external", &e.library));
    let litert = raw.litert.as_ref().map(|l| ("litert", &l.library));
    for (kind, library) in external.into_iter().chain(litert) {
        if library.as_os_str().is_empty() {
            let key = key.child(kind).child("library");
            checker.problem(&key, "name a file, or a library that ldconfig knows");
        }
    }
    if raw.litert.as_ref().is_some_and(|litert| litert.accelerators.is_empty()) {
        let key = key.child("litert").child("accelerators");
        checker.problem(&key, "name one or more of \"cpu\", \"gpu\" and \"npu\"");
    }
    if let Some(s) = raw.start_timeout_s {
        checker.within(&key.child("start_timeout_s"), s, 1.0, 86_400.0);
    }
    if let Some(ms) = raw.deadline_ms {
        checker.within(&key.child("deadline_ms"), ms, 1.0, 600_000.0);
    }
    if let Some(mib) = raw.memory_mib {
        checker.within(&key.child("memory_mib"), mib, 64, 1 << 20);
    }
    if let Some(restarts) = raw.restarts {
        checker.within(&key.child("restarts").child("max"), restarts.max, 0, 1000);
        checker.within(&key.child("restarts").child("per_s"), restarts.per_s, 1.0, 86_400.0);
    }
    if place(raw) == Isolation::Thread {
        let unused = [
            ("start_timeout_s", raw.start_timeout_s.is_some()),
            ("deadline_ms", raw.deadline_ms.is_some()),
            ("memory_mib", raw.memory_mib.is_some()),
            ("writable", raw.writable.is_some()),
        ];
        for (name, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
            checker.problem(&key.child(name), "it limits a process; write isolation = \"process\"");
        }
    }
}

/// The delegate that a pipeline names, if there is one.
pub fn find(
    key: &Key,
    name: &str,
    delegates: &BTreeMap<String, RawDelegate>,
    checker: &mut Checker,
) -> Option<Delegate> {
    if let Some(delegate) = Delegate::built_in(name) {
        return Some(delegate);
    }
    match delegates.get(name) {
        Some(raw) => Some(Delegate {
            name: name.to_owned(),
            kind: kind(raw, checker)?,
            process: (place(raw) == Isolation::Process).then(|| limits(raw, checker)),
            restarts: raw.restarts.map_or(RESTARTS, |restarts| Restarts {
                max: restarts.max,
                per: Duration::try_from_secs_f64(restarts.per_s).unwrap_or_default(),
            }),
        }),
        None => {
            let known: Vec<&str> = BUILT_IN.into_iter().chain(delegates.keys().map(String::as_str)).collect();
            checker.problem(key, format!("there is no delegate `{name}`; there are {}", known.join(", ")));
            None
        }
    }
}

/// `None` where the entry's own check has found none.
fn kind(raw: &RawDelegate, checker: &Checker) -> Option<DelegateKind> {
    if let Some(cpu) = &raw.cpu {
        Some(DelegateKind::Cpu { threads: cpu.threads })
    } else if let Some(xnnpack) = &raw.xnnpack {
        Some(DelegateKind::Xnnpack { threads: xnnpack.threads, flags: xnnpack.flags.clone() })
    } else if let Some(external) = &raw.external {
        let (library, options) = (checker.library(&external.library), external.options.clone());
        Some(DelegateKind::External { library, options })
    } else {
        let litert = raw.litert.as_ref()?;
        let (library, accelerators) = (checker.library(&litert.library), litert.accelerators.clone());
        Some(DelegateKind::Litert { library, accelerators })
    }
}

fn limits(raw: &RawDelegate, checker: &Checker) -> ProcessLimits {
    ProcessLimits {
        start: raw.start_timeout_s.map_or(START, |s| milliseconds(s * 1e3)),
        deadline: raw.deadline_ms.map_or(DEADLINE, milliseconds),
        memory_bytes: raw.memory_mib.unwrap_or(MEMORY_MIB) << 20,
        writable: raw.writable.iter().flatten().map(|path| checker.path(path)).collect(),
    }
}

impl Delegate {
    /// One that needs no entry in the configuration.
    pub fn built_in(name: &str) -> Option<Self> {
        let kind = match name {
            "cpu" => DelegateKind::Cpu { threads: 1 },
            "xnnpack" => DelegateKind::Xnnpack { threads: 1, flags: Vec::new() },
            _ => return None,
        };
        Some(Self { name: name.to_owned(), kind, process: None, restarts: RESTARTS })
    }
}

fn place(raw: &RawDelegate) -> Isolation {
    let vendor = raw.external.is_some() || raw.litert.is_some();
    raw.isolation.unwrap_or(if vendor { Isolation::Process } else { Isolation::Thread })
}

fn threads() -> u16 {
    1
}
fn restarts_per_s() -> f64 {
    60.0
}
