//! An Edge Impulse project as it is exported: what is known of its blocks, and the pipeline that does the same.
//!
//! Owns which parameter of an export is which key. The forms of an export are in files of their own: the headers of a C++
//! library (`header`), JSON of the studio's API (`json`), and the archive that has them (`export`).

pub mod export;
mod header;
mod json;

use serde_json::Value as Json;

use super::inputs::{Fitting, names};
use super::outputs::Wish;
use super::{Confidence, Facts, Part, Stream, number, quoted};
use crate::features::edge_impulse::Processing;
use crate::schema::expanded::Family;
use crate::schema::{Form, KeyDoc};
use crate::text::{counted, listed};

/// Slices of a window in continuous mode, as the SDK has it if nothing else is set.
const USUAL_SLICES: usize = 4;

/// What is known of a project. Everything may be missing, because exports differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Project {
    pub name: Option<String>,
    pub blocks: Vec<Block>,
    pub labels: Vec<String>,
    /// The rate of the data, in Hz.
    pub rate_hz: Option<f64>,
    /// Samples in a window, and values in a sample.
    pub samples: Option<usize>,
    pub axes: Option<usize>,
    /// The names of the axes.
    pub axis_names: Vec<String>,
    pub is_sound: bool,
    /// Samples from one window to the next, or into how many slices a window is cut.
    pub hop: Option<usize>,
    pub slices: Option<usize>,
    pub calibration: Option<Calibration>,
    /// The lowest score of a class that counts.
    pub threshold: Option<f64>,
    pub has_anomaly: bool,
    /// What of the export is not used, and why.
    pub notes: Vec<String>,
}

/// A processing block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// As edgewatt calls it, such as `spectral_analysis`.
    pub kind: String,
    /// The axes that it takes; `None`: all.
    pub axes: Option<Vec<usize>>,
    /// All parameters by the names of edgewatt's keys, `version` among them.
    pub keys: Vec<(String, Json)>,
    /// The number of its features.
    pub features: Option<usize>,
    /// The mean and the variance of each feature in the training data.
    pub scaler: Option<(Vec<f64>, Vec<f64>)>,
}

/// The performance calibration of a project.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    pub average_ms: f64,
    pub threshold: f64,
    pub suppression_ms: f64,
    /// A bit for each label that may be decided.
    pub flags: u64,
}

impl Project {
    /// Reads the text of one file of an export, by its name.
    ///
    /// # Errors
    /// It is of no form that is read, or it says something that cannot be used.
    pub fn read(name: &str, text: &str) -> Result<Self, String> {
        match name.rsplit('.').next().unwrap_or_default() {
            "json" => json::project(text),
            _ => header::project(&[text]),
        }
        .map_err(|why| format!("{name}: {why}"))
    }

    /// Returns the pipeline's part up to the model's input.
    ///
    /// # Errors
    /// The export does not say how long a window is, or has a block that edgewatt does not have.
    pub(super) fn fitting(&self, facts: &Facts<'_>, notes: &mut Vec<String>) -> Result<Fitting, String> {
        let samples = facts.window.or(self.samples).ok_or(
            "the export does not say how many samples a window has; say it with --window SAMPLES: the window size of the \
             impulse, times its frequency",
        )?;
        let (hop, hop_why) = self.hop(samples);
        let stream = self.stream(facts)?;
        let known = |about, value: String, why: &str| Part::new(about, value, Confidence::Known, why);
        let mut parts = vec![known("input", stream.in_words(), "the project's sensor and its frequency")];
        parts.push(known("window", format!("{}, hop {hop}", counted(samples, "sample")), hop_why));
        let mut features = vec![self.feature()?];
        let kinds: Vec<&str> = self.blocks.iter().map(|block| block.kind.as_str()).collect();
        let mut what = format!("Edge Impulse's {}", kinds.join(" and "));
        if let Some(scaler) = self.scaler()? {
            features.push(scaler);
            what.push_str(", standardized");
        }
        parts.push(known("features", what, "the processing blocks of the project, with its parameters and versions"));
        notes.extend(self.notes.iter().cloned());
        if matches!(stream, Stream::Numbers { .. }) {
            notes.push(
                "the source must give the units of the training data; Edge Impulse has acceleration in m/s2".into(),
            );
        }
        if self.has_anomaly {
            notes.push(
                "the project also has anomaly detection, which is not in the model: docs/decide.md, \"Clusters\""
                    .into(),
            );
        }
        Ok(Fitting { stream, samples, hop, frontend: Vec::new(), features, decision: Some(Wish::Classes), parts })
    }

    fn hop(&self, samples: usize) -> (usize, &'static str) {
        match (self.hop, self.slices) {
            (Some(hop), _) => (hop.max(1), "the window of the impulse and its increase"),
            (None, Some(slices)) => {
                ((samples / slices.max(1)).max(1), "the window of the impulse, in the SDK's slices")
            }
            (None, None) => {
                ((samples / USUAL_SLICES).max(1), "the window of the impulse; a quarter of it is new, as in the SDK")
            }
        }
    }

    fn stream(&self, facts: &Facts<'_>) -> Result<Stream, String> {
        let rate_hz = facts.rate_hz.or(self.rate_hz);
        if self.is_sound {
            let missing = "the export does not say the rate of the sound; say it with --rate HZ";
            return Ok(Stream::Sound { rate_hz: rate_hz.ok_or(missing)? });
        }
        let most = self.blocks.iter().flat_map(|block| block.axes.iter().flatten()).max().map(|axis| axis + 1);
        let named = Some(self.axis_names.len()).filter(|named| *named > 0);
        let given = facts.channels.map(<[String]>::len);
        let count = self.axes.or(named).or(given).or(most).ok_or(
            "the export does not say how many axes a sample has; say it with --channels NAMES, separated by commas",
        )?;
        let named = (self.axis_names.len() == count).then_some(self.axis_names.as_slice());
        Ok(Stream::Numbers { channels: names(count, facts.channels.or(named))?, rate_hz })
    }

    /// Returns the feature with the blocks, as TOML.
    fn feature(&self) -> Result<String, String> {
        let blocks = self.blocks.iter().map(Block::toml).collect::<Result<Vec<_>, _>>()?;
        let rate = self.rate_hz.map_or_else(String::new, |rate| format!("rate_hz = {}, ", number(rate)));
        Ok(format!("{{ edge_impulse = {{ {rate}blocks = [\n    {},\n  ] }} }}", blocks.join(",\n    ")))
    }

    /// Returns the feature that standardizes the features of all blocks, as TOML, if one of them has such values.
    fn scaler(&self) -> Result<Option<String>, String> {
        if self.blocks.iter().all(|block| block.scaler.is_none()) {
            return Ok(None);
        }
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for block in &self.blocks {
            match (&block.scaler, block.features) {
                (Some((means, vars)), _) => {
                    mean.extend(means);
                    std.extend(vars.iter().map(|var| var.sqrt()));
                }
                (None, Some(features)) => {
                    mean.resize(mean.len() + features, 0.0);
                    std.resize(std.len() + features, 1.0);
                }
                (None, None) => {
                    return Err(format!(
                        "the data normalization of one block is there, and the number of features of the other block, {}, is not; \
                         export the C++ library again",
                        block.kind
                    ));
                }
            }
        }
        let list = |values: Vec<f64>| values.into_iter().map(number).collect::<Vec<_>>().join(", ");
        // A feature that never changed has no deviation, and the scaler of the training then divides by 1.
        let std = std.into_iter().map(|std| if std > 0.0 { std } else { 1.0 }).collect();
        Ok(Some(format!("{{ standardize = {{ mean = [{}], std = [{}] }} }}", list(mean), list(std))))
    }

    /// Returns the decision that the project's own post-processing stands for: its kind, its keys as TOML, and why.
    pub(super) fn decision(&self, hop: usize) -> Option<(&'static str, String, String)> {
        let Some(Calibration { average_ms, threshold, suppression_ms, flags }) = &self.calibration else {
            let threshold = self.threshold?;
            let keys = format!("threshold = {}", number(threshold));
            return Some(("classify", keys, "the project's threshold".into()));
        };
        let hop_ms = 1000.0 * hop as f64 / self.rate_hz?;
        let smooth = ((average_ms / hop_ms) as usize).max(1);
        let mut keys = format!("windows = 1, same = 1, smooth = {smooth}, threshold = {}", number(*threshold));
        let allowed: Vec<String> =
            (0..).zip(&self.labels).filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, label)| quoted(label)).collect();
        if !allowed.is_empty() {
            let suppress = number(suppression_ms / 1000.0);
            keys.push_str(&format!(", suppress_s = {suppress}, allow = [{}]", allowed.join(", ")));
        }
        Some(("consensus", keys, "the project's performance calibration".into()))
    }
}

impl Block {
    /// Returns the block as TOML, with the keys that differ from their defaults.
    fn toml(&self) -> Result<String, String> {
        let kinds = Processing::doc().kinds;
        let Some(kind) = kinds.iter().find(|kind| kind.name == self.kind) else {
            return Err(format!(
                "the project has a block {}, which edgewatt does not have; it has {}",
                self.kind,
                listed(Processing::NAMES)
            ));
        };
        if !self.keys.iter().any(|(name, _)| name == "version") {
            return Err(format!(
                "the export does not say the version of the block {} (implementationVersion), which changes its numbers; export \
                 the C++ library again",
                self.kind
            ));
        }
        let mut keys = Vec::new();
        for (name, value) in &self.keys {
            let Some(doc) = kind.table.keys.iter().find(|doc| doc.key == name) else { continue };
            let value = value_toml(doc, value).map_err(|why| format!("the block {}: {name}: {why}", self.kind))?;
            if doc.default.as_ref() != Some(&value) || name == "version" {
                keys.push(format!("{name} = {value}"));
            }
        }
        let axes = self.axes.as_ref().map_or_else(String::new, |axes| format!("axes = {axes:?}, "));
        Ok(format!("{{ {axes}{} = {{ {} }} }}", self.kind, keys.join(", ")))
    }

    /// Returns in words the parameters that edgewatt has no key for.
    fn unused(&self) -> Vec<&str> {
        let kinds = Processing::doc().kinds;
        let kind = kinds.iter().find(|kind| kind.name == self.kind);
        let is_used = |name: &str| kind.is_some_and(|kind| kind.table.keys.iter().any(|doc| doc.key == name));
        self.keys.iter().map(|(name, _)| name.as_str()).filter(|name| !is_used(name)).collect()
    }
}

/// Returns a parameter as TOML of the key's type.
fn value_toml(doc: &KeyDoc, value: &Json) -> Result<String, String> {
    // JSON of the studio has numbers and truth values as text, too.
    let text = match value {
        Json::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let wrong = |what: &str| format!("{} is not {what}", value);
    match &doc.form {
        Form::Number | Form::Positive => text.parse().map(number).map_err(|_| wrong("a number")),
        Form::Integer { .. } => {
            let whole = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
            whole.map(|number| (number as i64).to_string()).ok_or_else(|| wrong("a whole number"))
        }
        Form::Boolean => match text.as_str() {
            "true" | "1" => Ok("true".into()),
            "false" | "0" => Ok("false".into()),
            _ => Err(wrong("true or false")),
        },
        _ => Ok(quoted(&text)),
    }
}

/// Returns the name of edgewatt's key for a parameter: `fft-length` is `fft_length`.
fn key_of(parameter: &str) -> String {
    match parameter {
        "implementationVersion" => "version".to_owned(),
        other => other.replace('-', "_"),
    }
}

/// Puts the blocks in: pictures need none, and what is not used is noted.
fn with_blocks(mut project: Project, blocks: Vec<Block>) -> Project {
    for block in blocks {
        if block.kind == "image" {
            project.notes.push("the block `image` needs nothing here: pictures go to the model as they are".into());
            continue;
        }
        let unused = block.unused();
        if !unused.is_empty() {
            let (kind, which) = (&block.kind, unused.join(", "));
            let parameters = counted(unused.len(), "parameter");
            project.notes.push(format!("{parameters} of the block {kind} have no meaning here: {which}"));
        }
        project.is_sound |= matches!(block.kind.as_str(), "mfe" | "mfcc") && project.axes.is_none_or(|axes| axes == 1);
        project.blocks.push(block);
    }
    project
}

#[cfg(test)]
mod tests;
