//! The calibrations that are kept in the state directory: of which model by which delegate under which meter.
//!
//! Owns the file and what must be the same for an entry to count. It is read at the start, and again at a reload; a file
//! that cannot be read is said and never fatal.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{DelegateKind, Meter, MeterKind};
use crate::energy::bout::Calibrated;
use crate::engine::Proof;
use crate::load::engines::{EngineBuilder, REFERENCE};
use crate::load::state_dir;
use crate::meter::{MeterInfo, Scope};
use crate::publish::payload::DelegateState;
use crate::units::WallTime;

const FILE: &str = "calibrations.json";
/// Of the file's form.
const VERSION: u32 = 1;

/// What runs: an entry counts only where all of this is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Subject {
    pub model_sha256: String,
    /// Its name in the configuration, and what it is, threads and options included.
    pub delegate: String,
    pub kind: DelegateKind,
    pub isolation: String,
    pub library_version: Option<String>,
    pub runtime_version: String,
    pub batch: usize,
    /// What it was seen to take of the model.
    pub proof: Proof,
}

/// The meter: the same kind under the same name covers the same part of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Under {
    pub name: String,
    pub kind: String,
    pub scope: Scope,
}

/// One calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub subject: Subject,
    pub meter: Under,
    pub time_ms: WallTime,
    /// Of edgewatt.
    pub version: String,
    pub bouts: usize,
    /// Joules per inference above idle power, with its standard uncertainty, and expanded with k = 2.
    pub net_j: f64,
    pub u_j: f64,
    pub expanded_j: f64,
    pub idle_w: f64,
    /// Mean power in the bouts.
    pub gross_w: f64,
    pub inferences_per_s: f64,
    /// Of one inference, inside invoke.
    pub busy_ns: f64,
    /// Processor cores that other programs used in the bouts beyond those between them; null where unknown.
    pub other_cores: Option<f64>,
}

impl Entry {
    fn is_sound(&self) -> bool {
        [self.net_j, self.u_j, self.busy_ns].iter().all(|value| value.is_finite() && *value > 0.0)
    }
}

/// Why the kept calibrations cannot be used, or one not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is left as it is: it may be of use to a newer edgewatt, or to whoever mends it.
    #[error("{}: {reason}; move it away, and calibrate again", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// The file as it stands.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    v: u32,
    entries: Vec<Entry>,
}

/// Only of what version a file is.
#[derive(Debug, Deserialize)]
struct Version {
    v: u32,
}

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Calibrations(Vec<Entry>);

impl Subject {
    /// What `builder` has made that is in that state.
    pub(crate) fn new(builder: &EngineBuilder, state: &DelegateState) -> Self {
        let built = builder.delegates.iter().find(|delegate| delegate.name == state.active);
        let (model, kind) = match built {
            Some(delegate) => (&builder.model, delegate.kind.clone()),
            None => (builder.reference_file(), REFERENCE),
        };
        Self {
            model_sha256: model.sha256.clone(),
            delegate: state.active.clone(),
            kind,
            isolation: state.proof.isolation.to_owned(),
            library_version: state.proof.library_version.clone(),
            runtime_version: builder.tools.runtime.version.clone(),
            batch: builder.batch,
            proof: state.proof.engine.clone(),
        }
    }
}

impl Under {
    pub(crate) fn new(info: &MeterInfo) -> Self {
        Self { name: info.name.clone(), kind: info.kind.to_owned(), scope: info.scope }
    }
}

impl Entry {
    /// For the join.
    pub(crate) fn calibrated(&self) -> Calibrated {
        Calibrated { net_j: self.net_j, u_j: self.u_j, busy_s: self.busy_ns / 1e9, time: self.time_ms }
    }
}

/// Whether a meter can calibrate: it has a sensor that sees all.
pub(crate) fn can_calibrate(meter: &Meter) -> bool {
    meter.is_sensed() && meter.kind != MeterKind::Pmic
}

impl Calibrations {
    /// Those kept in that folder; none where there is no file.
    pub(crate) fn read(folder: &Path) -> Result<Self, KeepError> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(KeepError::Io { path, source }),
        };
        let unreadable = |reason: String| KeepError::Unreadable { path: path.clone(), reason };
        let Version { v } = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if v != VERSION {
            return Err(unreadable(format!("it is of version {v}, and this edgewatt knows version {VERSION}")));
        }
        let file: File = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        match file.entries.iter().find(|entry| !entry.is_sound()) {
            Some(entry) => Err(unreadable(format!(
                "the entry of {} by {} has no possible figures",
                entry.subject.delegate, entry.meter.name
            ))),
            None => Ok(Self(file.entries)),
        }
    }

    /// As [`read`](Self::read); what is wrong with the file is logged, and there are none then.
    pub(crate) fn read_or_none(folder: &Path) -> Self {
        Self::read(folder).unwrap_or_else(|error| {
            tracing::warn!("no calibrations: {error}");
            Self::default()
        })
    }

    pub(crate) fn find(&self, subject: &Subject, meter: &Under) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.subject == *subject && entry.meter == *meter)
    }

    /// Adds entries to those kept in that folder, in the place of older ones of the same; where they are.
    pub(crate) fn keep(folder: &Path, entries: &[Entry]) -> Result<PathBuf, KeepError> {
        let path = folder.join(FILE);
        let failed = |source: io::Error| KeepError::Io { path, source };
        // `edgewatt calibrate` may run beside the daemon: neither may put back what the other has replaced.
        let _lock = match state_dir::lock(folder) {
            Ok(lock) => lock,
            Err(error) => return Err(failed(error)),
        };
        let Self(mut kept) = Self::read(folder)?;
        for entry in entries {
            kept.retain(|older| older.subject != entry.subject || older.meter != entry.meter);
            kept.push(entry.clone());
        }
        let bytes = match serde_json::to_vec_pretty(&File { v: VERSION, entries: kept }) {
            Ok(bytes) => bytes,
            Err(error) => return Err(failed(error.into())),
        };
        state_dir::put(folder, FILE, &bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Delegation;

    fn entry(threads: u16, meter: &str, net_j: f64) -> Entry {
        let delegation = Delegation { nodes_total: 9, nodes_delegated: 9, partitions: 1, ..Delegation::default() };
        Entry {
            subject: Subject {
                model_sha256: "b973".into(),
                delegate: "fast".into(),
                kind: DelegateKind::Xnnpack { threads, flags: Vec::new() },
                isolation: "thread".into(),
                library_version: None,
                runtime_version: "2.17.1".into(),
                batch: 1,
                proof: Proof { delegation: Some(delegation), litert: None },
            },
            meter: Under { name: meter.into(), kind: "rapl".into(), scope: Scope::Package },
            time_ms: WallTime(1_798_761_599_000),
            version: "0.1.0".into(),
            bouts: 5,
            net_j,
            u_j: net_j / 20.0,
            expanded_j: net_j / 10.0,
            idle_w: 3.0,
            gross_w: 5.0,
            inferences_per_s: 30_000.0,
            busy_ns: 33_000.5,
            other_cores: None,
        }
    }

    fn net_j(folder: &Path, like: &Entry) -> Option<f64> {
        let kept = Calibrations::read(folder).unwrap();
        kept.find(&like.subject, &like.meter).map(|entry| entry.net_j)
    }

    #[test]
    fn what_is_kept_comes_back_for_the_same_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (entry(1, "package", 1e-4), entry(1, "board", 2e-4));
        Calibrations::keep(dir.path(), &[one.clone(), other.clone()]).unwrap();
        Calibrations::keep(dir.path(), &[entry(1, "package", 3e-4), entry(2, "package", 4e-4)]).unwrap();
        assert_eq!((net_j(dir.path(), &one), net_j(dir.path(), &other)), (Some(3e-4), Some(2e-4)));
        assert_eq!(net_j(dir.path(), &entry(2, "package", 0.0)), Some(4e-4));
        assert_eq!(Calibrations::read(dir.path()).unwrap().0.len(), 3, "an older one of the same is gone");

        let differs = |change: &dyn Fn(&mut Entry)| {
            let mut like = one.clone();
            change(&mut like);
            net_j(dir.path(), &like)
        };
        assert_eq!(differs(&|like| like.subject.model_sha256 = "0000".into()), None);
        assert_eq!(differs(&|like| like.subject.delegate = "xnnpack".into()), None);
        assert_eq!(differs(&|like| like.subject.kind = DelegateKind::Cpu { threads: 1 }), None);
        assert_eq!(differs(&|like| like.subject.batch = 8), None);
        assert_eq!(differs(&|like| like.subject.proof.delegation = None), None);
        assert_eq!(differs(&|like| like.subject.runtime_version = "2.18.0".into()), None);
        assert_eq!(differs(&|like| like.meter.scope = Scope::Platform), None);
        assert_eq!(differs(&|like| like.meter.kind = "hwmon".into()), None);
    }

    #[test]
    fn those_that_keep_at_the_same_time_lose_none() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for keeper in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    for own in 0..10 {
                        Calibrations::keep(dir, &[entry(keeper * 10 + own, "package", 1e-4)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(Calibrations::read(dir.path()).unwrap().0.len(), 40);
    }

    #[test]
    fn a_file_that_is_no_such_file_is_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(Calibrations::read(dir.path()).unwrap().0.is_empty());
        for (text, part) in [
            ("{\"v\": 1, \"entries\"", "EOF"),
            ("{\"v\": 1, \"entries\": [{\"net_j\": 1.0}]}", "missing field"),
            ("{\"v\": 2, \"more\": true}", "it is of version 2, and this edgewatt knows version 1"),
            ("\u{0}\u{1}", "expected value"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = Calibrations::read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("calibrations.json"), "{message}");
            assert!(Calibrations::keep(dir.path(), &[entry(1, "package", 1e-4)]).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(Calibrations::read_or_none(dir.path()).0.is_empty());
        }
    }

    #[test]
    fn where_nothing_can_be_written_the_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = Calibrations::keep(&file.join("sub"), &[]).unwrap_err().to_string();
        assert!(message.contains("file/sub/calibrations.json: "), "{message}");
    }
}
