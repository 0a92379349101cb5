//! The calibrations in the state directory, by model, delegate and meter.
//!
//! Owns the file `calibrations.json`, and what must be the same for an entry to count. The file has its own types here, so
//! that the configuration's types can change. The file is read at the start and at each reload; if it cannot be read, that
//! is logged and not fatal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::phases::Phases;
use crate::config::Meter;
use crate::energy::Calibrated;
use crate::engine::DelegateKind;
use crate::load::engines::{EngineBuilder, REFERENCE};
use crate::load::state_dir;
use crate::meter::MeterInfo;
use crate::publish::payload::DelegateState;
use crate::units::WallTime;

const FILE: &str = "calibrations.json";
/// The version of the file's format. Increase it with a change that an older edgewatt would misread.
const VERSION: u32 = 1;

/// The engine that was calibrated. An entry counts only for an engine with the same values in all fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineIdentity {
    pub model_sha256: String,
    /// The delegate's name in the configuration, and what it is.
    pub delegate: String,
    pub kind: DelegateIdentity,
    pub isolation: String,
    pub library_version: Option<String>,
    pub runtime_version: String,
    pub batch: usize,
    /// The signature that is run, if that is not the file's first subgraph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The shape of the input for one window, if the file leaves it open: the work depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_shape: Option<Vec<i32>>,
    /// The SHA-256 of the models that run before it: their runs are a part of its inferences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// Which part of the model the delegate was observed to run, as it is published.
    pub proof: serde_json::Value,
}

/// What a delegate is, with its threads and options: the kind's name, which version 1 of the file begins with a capital, and
/// the keys that the kind gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegateIdentity(BTreeMap<String, serde_json::Value>);

/// Identifies a meter. The same kind with the same name covers the same part of the machine; `basis` says what its joules
/// depend on, and an entry without it counts only for a meter without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterIdentity {
    pub name: String,
    pub kind: String,
    pub scope: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub basis: Vec<String>,
}

/// One calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEntry {
    #[serde(rename = "subject")]
    pub engine: EngineIdentity,
    pub meter: MeterIdentity,
    pub time_ms: WallTime,
    /// The version of edgewatt.
    pub version: String,
    #[serde(rename = "bouts")]
    pub runs: usize,
    /// Joules per inference above idle power, with its standard uncertainty without the meter's errors of scale.
    pub net_j: f64,
    pub u_j: f64,
    /// By how much the meter's gain may be off, as a fraction; `None` if nothing is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systematic_rel: Option<f64>,
    /// Expanded uncertainty with k = 2, errors of scale included if they are known.
    pub expanded_j: f64,
    pub idle_w: f64,
    /// Mean power during the runs.
    pub gross_w: f64,
    pub inferences_per_s: f64,
    /// Time of one inference inside invoke.
    pub busy_ns: f64,
    /// Processor cores that other programs used during the runs, less those that they used between the runs; null if unknown.
    pub other_cores: Option<f64>,
    /// The steps around the inference, if they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

impl CalibrationEntry {
    /// Returns whether its values are possible.
    fn is_sound(&self) -> bool {
        [self.net_j, self.u_j, self.busy_ns].iter().all(|value| value.is_finite() && *value > 0.0)
    }
}

/// Why calibrations cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationsError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is not changed, because a newer edgewatt may be able to use it.
    #[error("{}: {reason}; move it away, and calibrate again", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// The whole file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    v: u32,
    entries: Vec<CalibrationEntry>,
}

/// The part of a file that holds its version.
#[derive(Debug, Deserialize)]
struct Version {
    v: u32,
}

/// All calibrations of a state directory.
#[derive(Debug, Default)]
pub struct Calibrations(Vec<CalibrationEntry>);

impl EngineIdentity {
    /// Returns the identity of the engine in `state`, which `builder` has built.
    pub fn new(builder: &EngineBuilder, state: &DelegateState) -> Self {
        let built = builder.delegates.iter().find(|delegate| delegate.name == state.active);
        let (model, kind) = match built {
            Some(delegate) => (&builder.model, DelegateIdentity::new(&delegate.kind)),
            None => (builder.reference_file(), DelegateIdentity::new(&REFERENCE)),
        };
        Self {
            model_sha256: model.sha256.clone(),
            delegate: state.active.clone(),
            kind,
            isolation: state.proof.isolation.to_owned(),
            library_version: state.proof.library_version.clone(),
            runtime_version: builder.context.runtime.version.clone(),
            batch: model.plan.batch,
            signature: model.plan.signature.clone(),
            input_shape: model.chosen_shape(),
            chain: builder.chain.clone(),
            // A map with strings as keys can always be encoded.
            proof: serde_json::to_value(&state.proof.engine).unwrap_or_default(),
        }
    }
}

impl DelegateIdentity {
    fn new(kind: &DelegateKind) -> Self {
        let name = kind.name();
        let (first, rest) = name.split_at_checked(1).unwrap_or((name, ""));
        // Only a library's path can have no JSON, and its engine was started with that same JSON.
        Self([(first.to_uppercase() + rest, kind.kind().keys().unwrap_or_default())].into())
    }
}

impl MeterIdentity {
    pub fn new(info: &MeterInfo) -> Self {
        let MeterInfo { name, kind, scope, basis, .. } = info;
        Self { name: name.clone(), kind: (*kind).to_owned(), scope: scope.name().to_owned(), basis: basis.clone() }
    }
}

impl CalibrationEntry {
    /// Returns the part that the attribution of energy uses.
    pub fn calibrated(&self) -> Calibrated {
        Calibrated { net_j: self.net_j, u_j: self.u_j, busy_s: self.busy_ns / 1e9, time: self.time_ms }
    }
}

/// Returns whether a meter can calibrate: it needs a sensor that sees the whole machine.
pub fn can_calibrate(meter: &Meter) -> bool {
    meter.kind.kind().can_calibrate()
}

impl Calibrations {
    /// Reads the calibrations of that folder; there are none if there is no file.
    pub fn read(folder: &Path) -> Result<Self, CalibrationsError> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(CalibrationsError::Io { path, source }),
        };
        let unreadable = |reason: String| CalibrationsError::Unreadable { path: path.clone(), reason };
        let Version { v } = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if v != VERSION {
            return Err(unreadable(format!("the file is version {v}, and this edgewatt reads version {VERSION}")));
        }
        let file: File = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        match file.entries.iter().find(|entry| !entry.is_sound()) {
            Some(entry) => Err(unreadable(format!(
                "the entry of {} by {} has impossible values",
                entry.engine.delegate, entry.meter.name
            ))),
            None => Ok(Self(file.entries)),
        }
    }

    /// Like [`read`](Self::read), but logs an error and then returns no calibrations.
    pub fn read_or_none(folder: &Path) -> Self {
        Self::read(folder).unwrap_or_else(|error| {
            tracing::warn!("cannot use the calibrations: {error}");
            Self::default()
        })
    }

    /// Returns the calibration of that engine under that meter.
    pub fn find(&self, engine: &EngineIdentity, meter: &MeterIdentity) -> Option<&CalibrationEntry> {
        self.0.iter().find(|entry| entry.engine == *engine && entry.meter == *meter)
    }

    /// Adds entries to those in that folder, in place of older ones of the same engine and meter. Returns the file's path.
    pub fn add(folder: &Path, entries: &[CalibrationEntry]) -> Result<PathBuf, CalibrationsError> {
        let path = folder.join(FILE);
        let failed = |source: io::Error| CalibrationsError::Io { path, source };
        // `edgewatt calibrate` may run at the same time as the daemon, and neither must overwrite the other's entries.
        let _lock = match state_dir::lock(folder) {
            Ok(lock) => lock,
            Err(error) => return Err(failed(error)),
        };
        let Self(mut all) = Self::read(folder)?;
        for entry in entries {
            all.retain(|older| older.engine != entry.engine || older.meter != entry.meter);
            all.push(entry.clone());
        }
        let bytes = match serde_json::to_vec_pretty(&File { v: VERSION, entries: all }) {
            Ok(bytes) => bytes,
            Err(error) => return Err(failed(error.into())),
        };
        state_dir::put(folder, FILE, &bytes).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::phases::PhaseEnergy;
    use super::*;
    use crate::engine::delegate::xnnpack::{Xnnpack, XnnpackFlag};

    fn entry(threads: u16, meter: &str, net_j: f64) -> CalibrationEntry {
        CalibrationEntry {
            engine: EngineIdentity {
                model_sha256: "b973".into(),
                delegate: "fast".into(),
                kind: DelegateIdentity::new(&DelegateKind::Xnnpack(Xnnpack { threads, flags: Vec::new() })),
                isolation: "thread".into(),
                library_version: None,
                runtime_version: "2.17.1".into(),
                batch: 1,
                signature: None,
                input_shape: None,
                chain: Vec::new(),
                proof: serde_json::json!({"nodes_total": 9, "nodes_delegated": 9, "partitions": 1, "on_cpu": {}}),
            },
            meter: MeterIdentity {
                name: meter.into(),
                kind: "rapl".into(),
                scope: "package".into(),
                basis: Vec::new(),
            },
            time_ms: WallTime(1_798_761_599_000),
            version: "0.1.0".into(),
            runs: 5,
            net_j,
            u_j: net_j / 20.0,
            systematic_rel: None,
            expanded_j: net_j / 10.0,
            idle_w: 3.0,
            gross_w: 5.0,
            inferences_per_s: 30_000.0,
            busy_ns: 33_000.5,
            other_cores: None,
            phases: None,
        }
    }

    fn net_j(folder: &Path, like: &CalibrationEntry) -> Option<f64> {
        let kept = Calibrations::read(folder).unwrap();
        kept.find(&like.engine, &like.meter).map(|entry| entry.net_j)
    }

    #[test]
    fn an_entry_is_found_for_the_same_engine_and_meter_only() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (entry(1, "package", 1e-4), entry(1, "board", 2e-4));
        Calibrations::add(dir.path(), &[one.clone(), other.clone()]).unwrap();
        Calibrations::add(dir.path(), &[entry(1, "package", 3e-4), entry(2, "package", 4e-4)]).unwrap();
        assert_eq!((net_j(dir.path(), &one), net_j(dir.path(), &other)), (Some(3e-4), Some(2e-4)));
        assert_eq!(net_j(dir.path(), &entry(2, "package", 0.0)), Some(4e-4));
        assert_eq!(Calibrations::read(dir.path()).unwrap().0.len(), 3, "an older one of the same is gone");

        let differs = |change: &dyn Fn(&mut CalibrationEntry)| {
            let mut like = one.clone();
            change(&mut like);
            net_j(dir.path(), &like)
        };
        assert_eq!(differs(&|like| like.engine.model_sha256 = "0000".into()), None);
        assert_eq!(differs(&|like| like.engine.delegate = "xnnpack".into()), None);
        assert_eq!(differs(&|like| like.engine.kind = DelegateIdentity::new(&REFERENCE)), None);
        assert_eq!(differs(&|like| like.engine.batch = 8), None);
        assert_eq!(differs(&|like| like.engine.signature = Some("infer".into())), None);
        assert_eq!(differs(&|like| like.engine.input_shape = Some(vec![1, 1280])), None);
        assert_eq!(differs(&|like| like.engine.proof = serde_json::json!({})), None);
        assert_eq!(differs(&|like| like.engine.runtime_version = "2.18.0".into()), None);
        assert_eq!(differs(&|like| like.meter.scope = "platform".into()), None);
        assert_eq!(differs(&|like| like.meter.kind = "hwmon".into()), None);
        assert_eq!(differs(&|like| like.meter.basis = vec!["shunt 0.1 Ohm".into()]), None);
    }

    /// As edgewatt 0.1 has written it.
    const VERSION_1: &str = r#"{"v": 1, "entries": [{
        "subject": {
            "model_sha256": "b973", "delegate": "fast",
            "kind": {"Xnnpack": {"threads": 2, "flags": ["force_fp16"]}},
            "isolation": "thread", "library_version": null, "runtime_version": "2.17.1", "batch": 1,
            "proof": {"nodes_total": 9, "nodes_delegated": 8, "partitions": 1, "on_cpu": {"SOFTMAX": 1}}
        },
        "meter": {"name": "package", "kind": "rapl", "scope": "package"},
        "time_ms": 1798761599000, "version": "0.1.0", "bouts": 7, "net_j": 0.0001, "u_j": 0.000005,
        "expanded_j": 0.00001, "idle_w": 3.0, "gross_w": 5.0, "inferences_per_s": 30000.0, "busy_ns": 33000.5,
        "other_cores": null
    }]}"#;

    #[test]
    fn a_file_of_the_first_version_is_read_and_its_entry_found_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), VERSION_1).unwrap();
        let kind = DelegateKind::Xnnpack(Xnnpack { threads: 2, flags: vec![XnnpackFlag::ForceFp16] });
        let proof = crate::engine::Proof {
            delegation: Some(crate::engine::Delegation {
                nodes_total: 9,
                nodes_delegated: 8,
                partitions: 1,
                on_cpu: [("SOFTMAX".to_owned(), 1)].into(),
            }),
            litert: None,
        };
        let mut like = entry(2, "package", 0.0);
        like.engine.kind = DelegateIdentity::new(&kind);
        like.engine.proof = serde_json::to_value(&proof).unwrap();
        assert_eq!(net_j(dir.path(), &like), Some(1e-4));
        // Whether its comparison was the same is not known.
        let mut corrected = like.clone();
        corrected.meter.basis = vec!["1.01 x power +0 W".into()];
        assert_eq!(net_j(dir.path(), &corrected), None);

        // What is written today has the same form.
        let path = Calibrations::add(dir.path(), &[]).unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&std::fs::read_to_string(path).unwrap()), json(VERSION_1));
    }

    #[test]
    fn the_steps_around_an_inference_are_kept_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let known = PhaseEnergy {
            net_j: Some(2e-6),
            u_j: Some(1e-7),
            expanded_j: Some(2e-7),
            busy_ns: Some(900.0),
            reason: None,
        };
        let none = PhaseEnergy { reason: Some("why".into()), ..PhaseEnergy::default() };
        let phases = Phases { features: known, decision: none.clone(), publishing: none };
        let entry = CalibrationEntry { phases: Some(phases), ..entry(1, "package", 1e-4) };
        Calibrations::add(dir.path(), std::slice::from_ref(&entry)).unwrap();
        assert_eq!(Calibrations::read(dir.path()).unwrap().0, [entry]);
    }

    #[test]
    fn concurrent_writers_lose_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for keeper in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    for own in 0..10 {
                        Calibrations::add(dir, &[entry(keeper * 10 + own, "package", 1e-4)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(Calibrations::read(dir.path()).unwrap().0.len(), 40);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_reported_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(Calibrations::read(dir.path()).unwrap().0.is_empty());
        for (text, part) in [
            ("{\"v\": 1, \"entries\"", "EOF"),
            ("{\"v\": 1, \"entries\": [{\"net_j\": 1.0}]}", "missing field"),
            ("{\"v\": 2, \"more\": true}", "the file is version 2, and this edgewatt reads version 1"),
            ("\u{0}\u{1}", "expected value"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = Calibrations::read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("calibrations.json"), "{message}");
            assert!(Calibrations::add(dir.path(), &[entry(1, "package", 1e-4)]).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(Calibrations::read_or_none(dir.path()).0.is_empty());
        }
    }

    #[test]
    fn a_write_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = Calibrations::add(&file.join("sub"), &[]).unwrap_err().to_string();
        assert!(message.contains("file/sub/calibrations.json: "), "{message}");
    }
}
