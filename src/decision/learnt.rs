//! A threshold: a number, or learnt from the scores of normal data.
//!
//! Owns the file that `edgewatt learn` writes, and what must be the same for its threshold to count. Only the check of the
//! configuration reads the file, so that a reload notices another threshold.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::EngineError;
use crate::schema::{Checker, Form, Key, Value};
use crate::sys::file;
use crate::text::hex;
use crate::units::WallTime;

/// The version of the file's format. Increase it with a change that an older edgewatt would misread.
const VERSION: u32 = 1;
const MAX_BYTES: u64 = 1 << 20;

/// What a threshold is learnt with; it counts for nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origins {
    pub model_sha256: String,
    /// Of the keys that the features depend on.
    pub features_sha256: String,
}

/// A threshold that was learnt, as it is in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    v: u32,
    pub threshold: f32,
    /// The part of the scores that was not above the threshold.
    pub quantile: f64,
    /// Windows that had a score.
    pub windows: u64,
    #[serde(flatten)]
    pub origins: Origins,
    /// Of the decision's keys that its scores depend on.
    score_sha256: String,
    pub time_ms: WallTime,
    /// The version of edgewatt.
    version: String,
}

impl Learnt {
    /// `score_keys` are the decision's keys that its scores depend on.
    pub fn new(
        threshold: f32,
        quantile: f64,
        windows: u64,
        origins: Origins,
        score_keys: &str,
        time: WallTime,
    ) -> Self {
        Self {
            v: VERSION,
            threshold,
            quantile,
            windows,
            origins,
            score_sha256: sha256(score_keys),
            time_ms: time,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: String| format!("{}: {why}", path.display());
        let made = |e: std::io::Error| failed(format!("{e}; `edgewatt learn` makes this file"));
        let bytes = file::read(path, MAX_BYTES).map_err(made)?;
        let again = |e: serde_json::Error| failed(format!("{e}; run `edgewatt learn` again"));
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(again)?;
        if json["v"] != VERSION {
            let message = format!(
                "the file is version {}, and this edgewatt reads version {VERSION}; run `edgewatt learn` again",
                json["v"]
            );
            return Err(failed(message));
        }
        let learnt: Self = serde_json::from_value(json).map_err(again)?;
        if !learnt.threshold.is_finite() {
            return Err(failed("its threshold is not a finite number; run `edgewatt learn` again".to_owned()));
        }
        Ok(learnt)
    }

    /// # Errors
    /// It was learnt with something else.
    fn check(&self, origins: &Origins, score_keys: &str) -> Result<(), String> {
        let other = if self.origins.model_sha256 != origins.model_sha256 {
            "another model"
        } else if self.origins.features_sha256 != origins.features_sha256 {
            "other channels, front ends, features or windows"
        } else if self.score_sha256 != sha256(score_keys) {
            "other keys of the decision that its scores depend on"
        } else {
            return Ok(());
        };
        Err(format!("it was learnt with {other}; run `edgewatt learn` again"))
    }
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// A threshold as it is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    Value(f32),
    Learnt {
        path: PathBuf,
        /// What the check of the configuration has found there.
        found: Result<Box<Learnt>, String>,
    },
}

impl Limit {
    pub(super) fn check(&mut self, key: &Key, checker: &mut Checker) {
        match self {
            Self::Value(value) if !value.is_finite() => {
                checker.problem(key, format!("{value} is not a number to compare with"));
            }
            Self::Value(_) => {}
            Self::Learnt { path, found } => {
                *path = checker.path(path);
                *found = Learnt::read(path).map(Box::new);
            }
        }
    }

    /// Returns the threshold.
    ///
    /// # Errors
    /// It was learnt with something else, or was not learnt.
    pub(super) fn value(&self, origins: &Origins, score_keys: &str) -> Result<f32, EngineError> {
        match self {
            Self::Value(value) => Ok(*value),
            Self::Learnt { path, found } => {
                let learnt =
                    found.as_ref().map_err(|why| EngineError::Mismatch(format!("threshold.learnt = {why}")))?;
                learnt
                    .check(origins, score_keys)
                    .map_err(|why| EngineError::Mismatch(format!("threshold.learnt = {}: {why}", path.display())))?;
                Ok(learnt.threshold)
            }
        }
    }
}

impl Value for Limit {
    fn type_name() -> String {
        "number or table".to_owned()
    }
    fn form() -> Form {
        Form::Any(vec![Form::Number, Form::Keyed("learnt", Box::new(Form::Text))])
    }
    fn to_toml(&self) -> String {
        match self {
            Self::Value(value) => value.to_toml(),
            Self::Learnt { path, .. } => format!("{{ learnt = {} }}", path.to_toml()),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As an enum, because a struct is also read from a list.
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Named {
            Learnt(PathBuf),
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number or { learnt = \"FILE\" }")]
        enum Written {
            Number(f32),
            Named(Named),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(value) => Self::Value(value),
            Written::Named(Named::Learnt(path)) => Self::Learnt { path, found: Err("it was not read".to_owned()) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        Origins { model_sha256: "m".into(), features_sha256: "f".into() }
    }

    fn read(text: &str) -> Result<f32, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.json"), text).unwrap();
        let mut limit = Limit::Learnt { path: "t.json".into(), found: Err(String::new()) };
        limit.check(&Key::new(&["threshold"]), &mut Checker::new(folder.path()));
        let value = limit.value(&origins(), "keys");
        value.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "DIR"))
    }

    #[test]
    fn a_threshold_is_used_for_what_it_was_learnt_with_only() {
        let learnt = Learnt::new(0.1, 0.999, 5000, origins(), "keys", WallTime(0));
        let text = serde_json::to_string(&learnt).unwrap();
        assert_eq!(read(&text), Ok(0.1));
        for (old, new, why) in [
            ("\"m\"", "\"n\"", "t.json: it was learnt with another model; run `edgewatt learn` again"),
            ("\"f\"", "\"g\"", "it was learnt with other channels, front ends, features or windows; run"),
            (&sha256("keys")[..], "0", "it was learnt with other keys of the decision"),
            ("\"v\":1", "\"v\":2", "DIR/t.json: the file is version 2, and this edgewatt reads version 1; run"),
            ("0.1,", "null,", "DIR/t.json: invalid type: null"),
            ("{", "", "DIR/t.json: "),
        ] {
            assert!(text.contains(old), "{old} is not in {text}");
            let error = read(&text.replacen(old, new, 1)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_what_makes_it() {
        let mut limit = Limit::Learnt { path: "t.json".into(), found: Err(String::new()) };
        limit.check(&Key::new(&["threshold"]), &mut Checker::new(Path::new("/nowhere")));
        let error = limit.value(&origins(), "keys").unwrap_err().to_string();
        assert!(error.contains("/nowhere/t.json: No such file") && error.contains("`edgewatt learn` makes"), "{error}");
    }
}
