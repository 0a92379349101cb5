//! What a configuration for a model should say: the stream that it needs, front ends, window, features, decision; each part
//! with its reason, and how sure it is.
//!
//! Owns what is known of models and their files: the table of input shapes (`inputs`), which decision fits which outputs
//! (`outputs`), how a source is written (`source`), the exports of Edge Impulse (`edge_impulse`), and the text of the file
//! (`file`). Pure: reading files, looking at the machine and asking the user are left to `cli::init`.

pub mod wake_word;
pub mod edge_impulse;
pub mod file;
mod inputs;
mod outputs;
pub mod recording;
pub mod source;

use serde::Serialize;

pub use self::edge_impulse::Project;
use self::inputs::Fitting;
pub use self::wake_word::WakeWord;
use crate::engine::edge_tpu;
use crate::model::{ElementType, ModelSummary, Quantization, TensorSummary};
use crate::text::counted;

/// How sure a part of a proposal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The model, a file that belongs to it, or the user says so.
    Known,
    /// Models of this shape are mostly so.
    Guessed,
    /// Nothing tells it; the user must look at it.
    Unknown,
}

impl Confidence {
    /// Returns the word for it in the file and on the terminal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Guessed => "guessed",
            Self::Unknown => "unknown",
        }
    }
}

/// One part of a proposal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// What it is about, such as `window`.
    pub about: &'static str,
    /// What the file says, as TOML or in words.
    pub value: String,
    pub reason: String,
    pub confidence: Confidence,
}

impl Part {
    pub fn new(
        about: &'static str,
        value: impl Into<String>,
        confidence: Confidence,
        reason: impl Into<String>,
    ) -> Self {
        Self { about, value: value.into(), reason: reason.into(), confidence }
    }
}

/// What a source must give.
#[derive(Debug, Clone, PartialEq)]
pub enum Stream {
    /// Samples of one channel, -32768 to 32767.
    Sound { rate_hz: f64 },
    /// Frames of several numbers.
    Numbers { channels: Vec<String>, rate_hz: Option<f64> },
    /// Bytes of pictures; 1 channel is grey, 3 are RGB.
    Pictures { width: usize, height: usize, channels: usize },
}

impl Stream {
    /// Returns it in words.
    pub fn in_words(&self) -> String {
        let at = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!(" at {rate} Hz"));
        match self {
            Self::Sound { rate_hz } => format!("sound{}", at(Some(*rate_hz))),
            Self::Numbers { channels, rate_hz } => format!("{}{}", counted(channels.len(), "channel"), at(*rate_hz)),
            Self::Pictures { width, height, channels } => format!("pictures of {width} x {height} x {channels}"),
        }
    }
}

/// The labels that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// The model carries them.
    InModel,
    /// This file next to it has as many as the model has scores; the path is as the configuration is to name it.
    File { path: String, why: String },
}

/// What is known before a proposal.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The description of what is run: its main subgraph is that of the signature.
    pub summary: &'a ModelSummary,
    /// The name of the model's file without its ending.
    pub stem: &'a str,
    /// The labels for an output of so many scores, if there are any.
    pub labels: &'a dyn Fn(usize, usize) -> Option<Labels>,
    pub wake_word: Option<&'a WakeWord>,
    pub project: Option<&'a Project>,
    /// The names of the channels that the user gave.
    pub channels: Option<&'a [String]>,
    /// The rate that the user gave.
    pub rate_hz: Option<f64>,
    /// The number of samples in a window that the user gave.
    pub window: Option<usize>,
}

/// The most bytes of the name of a pipeline that is made of a file's name.
const MOST_NAME: usize = 40;

impl Facts<'_> {
    /// Returns the name of the pipeline.
    pub fn name(&self) -> String {
        let name = self.project.and_then(|project| project.name.as_deref()).unwrap_or(self.stem);
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        // Several such characters in a row become one.
        let parts: Vec<&str> = name.split('_').filter(|part| !part.is_empty()).collect();
        let name = parts.join("_");
        // It becomes a level of topics, and part of the names of files.
        let short = name[..name.len().min(MOST_NAME)].trim_end_matches(['_', '-']);
        if short.is_empty() { "model".to_owned() } else { short.to_owned() }
    }
}

/// A key that only the user can fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Below the pipeline, such as `source.serial.port`.
    pub key: String,
    /// What to write there.
    pub what: String,
    /// How it looks, as a line of TOML.
    pub example: String,
}

impl Open {
    pub fn new(key: impl Into<String>, what: impl Into<String>, example: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), example: example.into() }
    }
}

/// What a pipeline for the model should say, but for its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The pipeline's name.
    pub name: String,
    pub stream: Stream,
    pub samples: usize,
    pub hop: usize,
    /// The elements of `frontend` and of `features`, as TOML.
    pub frontend: Vec<String>,
    pub features: Vec<String>,
    /// The kind and the keys of the decision.
    pub decision: (&'static str, String),
    /// The labels, if the decision takes them; `Some(None)`: there are none.
    pub labels: Option<Option<Labels>>,
    /// The number of scores that get labels.
    pub scores: usize,
    /// Other keys below `model`, as lines of TOML.
    pub model: Vec<String>,
    /// The delegate that the model needs, with the keys of its table.
    pub delegate: Option<(&'static str, String)>,
    /// What of it only a later step can fill in.
    pub open: Vec<Open>,
    pub parts: Vec<Part>,
    /// What else the user should know, one item a line.
    pub notes: Vec<String>,
}

impl Proposal {
    /// Returns the same with values in place of what only a later step can fill in, so that the rest can be checked.
    pub fn for_trial(&self) -> Self {
        let mut trial = self.clone();
        if let Some(at) = self.decision.1.find("threshold = {") {
            trial.decision.1.replace_range(at.., "threshold = 1.0");
        }
        trial
    }

    /// Returns the part about `about`.
    pub fn part(&self, about: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.about == about)
    }
}

/// Proposes a pipeline.
///
/// # Errors
/// Nothing can be proposed for the model; the message says why, and what would be right.
pub fn propose(facts: &Facts<'_>) -> Result<Proposal, String> {
    let summary = facts.summary;
    let states = outputs::states(&summary.main)?;
    let input = fed(summary, &states)?;
    let mut notes = Vec::new();
    let fitting = match facts.project {
        Some(project) if !project.blocks.is_empty() => project.fitting(facts, &mut notes)?,
        _ => inputs::fit(input, facts)?,
    };
    let Fitting { stream, samples, hop, frontend, mut features, decision, mut parts } = fitting;
    let (metadata, misfit) = normalization(summary, input, &stream, frontend.is_empty());
    notes.extend(misfit);
    if let Some(values) = &metadata {
        // The program does it itself, and a second scale would be one too many.
        features.retain(|feature| !feature.starts_with("{ scale"));
        parts.retain(|part| part.about != "features");
        parts.push(Part::new("features", format!("{values}, from the model's metadata"), Confidence::Known, {
            "edgewatt does this by itself, so nothing is written; model.metadata = false turns it off"
        }));
    } else if !parts.iter().any(|part| part.about == "features") {
        parts.push(unchanged(input, &stream));
    }
    let decided = outputs::decide(facts, input, decision, hop, &states)?;
    notes.extend(decided.notes);
    parts.extend(decided.parts);
    let mut model = Vec::new();
    if !states.is_empty() {
        let pairs: Vec<String> = states.iter().map(|(from, to)| format!("{} = {}", quoted(from), quoted(to))).collect();
        let pairs = format!("{{ {} }}", pairs.join(", "));
        parts.push(Part::new("state", pairs.clone(), Confidence::Guessed, {
            "an input and an output have the same shape and names that go together, so the output is the next state"
        }));
        model.push(format!("state = {pairs}"));
    }
    let delegate = delegate(summary, &mut parts);
    Ok(Proposal {
        name: facts.name(),
        stream,
        samples,
        hop,
        frontend,
        features,
        decision: decided.decision,
        labels: decided.labels,
        scores: decided.scores,
        model,
        delegate,
        open: decided.open,
        parts,
        notes,
    })
}

/// Returns the input that gets the windows.
fn fed<'a>(summary: &'a ModelSummary, states: &[(String, String)]) -> Result<&'a TensorSummary, String> {
    let inputs: Vec<&TensorSummary> =
        summary.main.inputs.iter().filter(|input| !states.iter().any(|(name, _)| *name == input.name)).collect();
    match inputs.as_slice() {
        [input] => Ok(input),
        [] => Err("the model has no input for a window; edgewatt cannot feed it".into()),
        several => {
            let names: Vec<&str> = several.iter().map(|input| input.name.as_str()).collect();
            Err(format!(
                "the model has {} inputs ({}), and which channels go into which one cannot be known; write the file by hand, \
                 with model.inputs: docs/sources.md, \"Two sensors in one window\"",
                several.len(),
                names.join(", ")
            ))
        }
    }
}

/// Returns the normalisation that the model's metadata asks for, in words; or why it is not done.
fn normalization(
    summary: &ModelSummary,
    input: &TensorSummary,
    stream: &Stream,
    is_raw: bool,
) -> (Option<String>, Option<String>) {
    let index = summary.main.inputs.iter().position(|other| other.index == input.index);
    let metadata = index.and_then(|index| summary.model_metadata.inputs.get(index));
    let wanted = metadata.and_then(|metadata| metadata.normalization.as_ref()).filter(|wanted| !wanted.is_identity());
    let Some(wanted) = wanted else { return (None, None) };
    let few = |values: &[f32]| values.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let words = format!("(x - mean) / std with mean {}, std {}", few(&wanted.mean), few(&wanted.std));
    let channels = match stream {
        Stream::Numbers { channels, .. } if is_raw => channels.len(),
        Stream::Pictures { channels, .. } => *channels,
        _ => input.shape.last().and_then(|values| usize::try_from(*values).ok()).unwrap_or(1),
    };
    if wanted.is_usable() && wanted.fits(channels) {
        return (Some(words), None);
    }
    let misfit = format!(
        "the model's metadata asks for {words}, which cannot be done with {}: it must have one value a channel or one for \
         all, and no std of 0",
        counted(channels, "channel")
    );
    (None, Some(misfit))
}

/// Returns what is said of a window that goes to the model as it is.
fn unchanged(input: &TensorSummary, stream: &Stream) -> Part {
    let takes = range(input).map_or_else(String::new, |(low, high)| {
        format!("; its input takes values from {} to {}", crate::text::figure(low), crate::text::figure(high))
    });
    match (stream, is_integer(input)) {
        (Stream::Pictures { .. }, true) => {
            Part::new("features", "none", Confidence::Known, "bytes of pictures go into an integer input as they are")
        }
        _ => Part::new("features", "none", Confidence::Unknown, {
            format!(
                "whether the training changed the values (mean and standard deviation, a scale) is not in the model{takes}"
            )
        }),
    }
}

fn delegate(summary: &ModelSummary, parts: &mut Vec<Part>) -> Option<(&'static str, String)> {
    if edge_tpu::is_compiled(summary) {
        parts.push(Part::new("delegate", "tpu", Confidence::Known, "the model was compiled for the Coral Edge TPU"));
        return Some(("tpu", "external = { library = \"libedgetpu.so.1\" }".into()));
    }
    let why = "the fast code for the processor; it is the default, so nothing is written";
    parts.push(Part::new("delegate", "xnnpack", Confidence::Known, why));
    None
}

/// Returns the lowest and the highest value that a quantised tensor holds.
fn range(tensor: &TensorSummary) -> Option<(f64, f64)> {
    let Some(Quantization::PerTensor { scale, zero_point }) = tensor.quantization else { return None };
    let (low, high) = match tensor.element {
        ElementType::INT8 => (-128, 127),
        ElementType::UINT8 => (0, 255),
        ElementType::INT16 => (-32768, 32767),
        _ => return None,
    };
    let real = |stored: i64| f64::from(scale) * (stored - zero_point) as f64;
    Some((real(low), real(high)))
}

fn is_integer(tensor: &TensorSummary) -> bool {
    matches!(tensor.element, ElementType::INT8 | ElementType::UINT8)
}

/// Returns a text as TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Returns a list of texts as TOML.
pub fn toml_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// Returns a number as TOML writes a number that may have decimals.
pub fn number(value: f64) -> String {
    format!("{value:?}")
}
#[cfg(test)]
mod tests;
