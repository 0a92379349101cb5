//! Judging delegates, and what a pipeline asks of them: isolation, parity, batches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Check;
use crate::config::Key;
use crate::config::checked::{
    Batch, Decision, Delegate, DelegateKind, Isolation, Parity, ParityLimits, ProcessLimits, Restarts, Source,
    SourceKind,
};
use crate::config::raw;

const BUILT_IN: [&str; 2] = ["cpu", "xnnpack"];
const START: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(2);
const RESTARTS: Restarts = Restarts { max: 5, per: Duration::from_secs(60) };
const MEMORY_MIB: u64 = 4096;
const MAX_BATCH: usize = 4096;
const MIB: f64 = 1_048_576.0;

impl Check {
    pub(super) fn delegate_entry(&mut self, name: &str, raw: &raw::Delegate) {
        let key = Key::new(&["delegates", name]);
        if BUILT_IN.contains(&name) {
            self.problem(&key, format!("`{name}` is built in; choose another name for a delegate of your own"));
        }
        self.topic_level(&key, name);
        let kinds = [raw.cpu.is_some(), raw.xnnpack.is_some(), raw.external.is_some(), raw.litert.is_some()];
        if kinds.into_iter().filter(|kind| *kind).count() != 1 {
            self.problem(&key, "write exactly one of cpu, xnnpack, external and litert");
        }
        let threads =
            [("cpu", raw.cpu.as_ref().map(|c| c.threads)), ("xnnpack", raw.xnnpack.as_ref().map(|x| x.threads))];
        for (kind, threads) in threads {
            if let Some(threads) = threads {
                self.within(&key.child(kind).child("threads"), threads, 1, 256);
            }
        }
        let external = raw.external.as_ref().map(|e| ("external", &e.library));
        let litert = raw.litert.as_ref().map(|l| ("litert", &l.library));
        for (kind, library) in external.into_iter().chain(litert) {
            if library.as_os_str().is_empty() {
                let key = key.child(kind).child("library");
                self.problem(&key, "name a file, or a library that ldconfig knows");
            }
        }
        if raw.litert.as_ref().is_some_and(|litert| litert.accelerators.is_empty()) {
            let key = key.child("litert").child("accelerators");
            self.problem(&key, "name one or more of \"cpu\", \"gpu\" and \"npu\"");
        }
        if let Some(s) = raw.start_timeout_s {
            self.within(&key.child("start_timeout_s"), s, 1.0, 86_400.0);
        }
        if let Some(ms) = raw.deadline_ms {
            self.within(&key.child("deadline_ms"), ms, 1.0, 600_000.0);
        }
        if let Some(mib) = raw.memory_mib {
            self.within(&key.child("memory_mib"), mib, 64, 1 << 20);
        }
        if let Some(restarts) = raw.restarts {
            self.within(&key.child("restarts").child("max"), restarts.max, 0, 1000);
            self.within(&key.child("restarts").child("per_s"), restarts.per_s, 1.0, 86_400.0);
        }
        if place(raw) == Isolation::Thread {
            let unused = [
                ("start_timeout_s", raw.start_timeout_s.is_some()),
                ("deadline_ms", raw.deadline_ms.is_some()),
                ("memory_mib", raw.memory_mib.is_some()),
                ("writable", raw.writable.is_some()),
            ];
            for (name, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
                self.problem(&key.child(name), "it limits a process; write isolation = \"process\"");
            }
        }
    }

    /// The delegate that a pipeline names, if there is one.
    pub(super) fn delegate(
        &mut self,
        key: &Key,
        name: &str,
        delegates: &BTreeMap<String, raw::Delegate>,
    ) -> Option<Delegate> {
        if let Some(delegate) = Delegate::built_in(name) {
            return Some(delegate);
        }
        match delegates.get(name) {
            Some(raw) => Some(Delegate {
                name: name.to_owned(),
                kind: self.kind(raw)?,
                process: (place(raw) == Isolation::Process).then(|| self.limits(raw)),
                restarts: raw.restarts.map_or(RESTARTS, |restarts| Restarts {
                    max: restarts.max,
                    per: Duration::try_from_secs_f64(restarts.per_s).unwrap_or_default(),
                }),
            }),
            None => {
                let known: Vec<&str> = BUILT_IN.into_iter().chain(delegates.keys().map(String::as_str)).collect();
                self.problem(key, format!("there is no delegate `{name}`; there are {}", known.join(", ")));
                None
            }
        }
    }

    /// `None` where the entry's own check has found none.
    fn kind(&self, raw: &raw::Delegate) -> Option<DelegateKind> {
        if let Some(cpu) = &raw.cpu {
            Some(DelegateKind::Cpu { threads: cpu.threads })
        } else if let Some(xnnpack) = &raw.xnnpack {
            Some(DelegateKind::Xnnpack { threads: xnnpack.threads, flags: xnnpack.flags.clone() })
        } else if let Some(external) = &raw.external {
            let (library, options) = (self.library(&external.library), external.options.clone());
            Some(DelegateKind::External { library, options })
        } else {
            let litert = raw.litert.as_ref()?;
            let (library, accelerators) = (self.library(&litert.library), litert.accelerators.clone());
            Some(DelegateKind::Litert { library, accelerators })
        }
    }

    /// A bare name is looked up by the dynamic linker, as programs name libraries.
    fn library(&self, library: &Path) -> PathBuf {
        match library.components().count() {
            1 => library.to_owned(),
            _ => self.folder.join(library),
        }
    }

    fn limits(&self, raw: &raw::Delegate) -> ProcessLimits {
        ProcessLimits {
            start: raw.start_timeout_s.map_or(START, |s| milliseconds(s * 1e3)),
            deadline: raw.deadline_ms.map_or(DEADLINE, milliseconds),
            memory_bytes: raw.memory_mib.unwrap_or(MEMORY_MIB) << 20,
            writable: raw.writable.iter().flatten().map(|path| self.folder.join(path)).collect(),
        }
    }

    pub(super) fn parity(
        &mut self,
        key: &Key,
        raw: Option<raw::Parity>,
        source: &Source,
        decision: &Decision,
    ) -> Parity {
        let demanded = raw.as_ref().is_some_and(|raw| raw.windows > 0);
        let raw = raw.unwrap_or(raw::Parity {
            windows: raw::defaults::parity_windows(),
            tolerance: raw::defaults::parity_tolerance(),
            top1: None,
            recording: None,
            reference_model: None,
        });
        self.within(&key.child("windows"), raw.windows, 0, 100_000);
        self.within(&key.child("tolerance"), raw.tolerance, 0.0, 1.0);
        if let Some(top1) = raw.top1 {
            self.within(&key.child("top1"), top1, 0.0, 1.0);
        }
        // A recording is there to be played; of a stream there is only what comes.
        let replayed = match &source.kind {
            SourceKind::Replay(replay) => Some(replay.path.clone()),
            SourceKind::Lines(_) => None,
        };
        let top1 = raw.top1.or(matches!(decision, Decision::Classify(_)).then_some(TOP1));
        Parity {
            limits: (raw.windows > 0).then_some(ParityLimits { windows: raw.windows, tolerance: raw.tolerance, top1 }),
            demanded,
            recording: raw.recording.map(|path| self.folder.join(path)).or(replayed),
            reference_model: raw.reference_model.map(|path| self.folder.join(path)),
        }
    }

    pub(super) fn batch(&mut self, key: &Key, raw: raw::Batch) -> Batch {
        self.within(&key.child("max"), raw.max, 1, MAX_BATCH);
        self.within(&key.child("wait_ms"), raw.wait_ms, 0.0, 60_000.0);
        if raw.max == 1 && raw.wait_ms > 0.0 {
            self.problem(&key.child("wait_ms"), "a batch of one waits for nothing; set max above 1");
        }
        Batch { max: raw.max, wait: milliseconds(raw.wait_ms) }
    }

    pub(super) fn max_bytes(&mut self, key: &Key, mib: f64) -> u64 {
        self.within(key, mib, 0.001, 1e6);
        (mib * MIB) as u64
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

/// Least share of windows in which a class must stay what it is.
const TOP1: f32 = 0.95;

fn place(raw: &raw::Delegate) -> Isolation {
    let vendor = raw.external.is_some() || raw.litert.is_some();
    raw.isolation.unwrap_or(if vendor { Isolation::Process } else { Isolation::Thread })
}

fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}
