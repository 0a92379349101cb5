//! What there is to read for `edgewatt init`: the model, an Edge Impulse export, and the files next to the model.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::ask::Asker;
use super::{Args, write};
use crate::engine::plan;
use crate::load::labels;
use crate::model::{self, ModelSummary};
use crate::propose::edge_impulse::export::{self, Export};
use crate::propose::{Facts, Labels, Project, Proposal, Stream, WakeWord, propose};
use crate::text::counted;

/// The names of files with labels; `{}` is the name of the model's file without its ending.
const LABEL_FILES: [&str; 16] = [
    "{}-labels.txt",
    "{}_labels.txt",
    "{}.labels.txt",
    "{}.labels",
    "{}.txt",
    "labels_{}.txt",
    "labels.txt",
    "labelmap.txt",
    "label_map.txt",
    "classes.txt",
    "class_names.txt",
    "labels.csv",
    "{}_class_map.csv",
    "labels.json",
    "labelmap.pbtxt",
    "label_map.pbtxt",
];
/// The most of a recording that is read for its columns.
const MOST_OF_RECORDING: u64 = 64 << 10;
/// So many bytes tell text from samples.
const MOST_OF_TEXT: u64 = 512;
/// The most of a JSON file or a header.
const MOST_TEXT: u64 = 16 << 20;

/// What was read.
pub(super) struct Material {
    /// What is run of the model.
    summary: ModelSummary,
    stem: String,
    /// Where the model is, or will be.
    path: PathBuf,
    /// The model's bytes, if they are in an archive and get a file.
    unpacked: Option<Vec<u8>>,
    project: Option<Project>,
    wake_word: Option<WakeWord>,
    pub(super) channels: Option<Vec<String>>,
    rate_hz: Option<f64>,
    window: Option<usize>,
    /// The folder of the configuration.
    folder: PathBuf,
}

impl Material {
    pub(super) fn read(args: &Args) -> anyhow::Result<Self> {
        let path = &args.model;
        let bytes = model::read_file(path).with_context(|| format!("cannot read {}", path.display()))?;
        let stem = path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
        let mut project = args.edge_impulse.as_deref().map(project_of).transpose()?;
        let is_archive = bytes.starts_with(b"PK");
        let (model, unpacked) = if is_archive {
            let Export { project: own, model } =
                export::read(&bytes).map_err(|why| anyhow!("{}: {why}", path.display()))?;
            project = project.or(Some(own));
            (model.with_context(|| no_model(path))?, true)
        } else {
            (bytes, false)
        };
        let summary = ModelSummary::from_bytes(&model).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let signature = plan::signature(&summary, None).map_err(|why| anyhow!("{}: {why}", path.display()))?.cloned();
        let summary = signature.and_then(|signature| summary.entered(&signature)).unwrap_or(summary);
        let json = path.with_extension("json");
        let wake_word = text_of(&json).ok().and_then(|text| WakeWord::read(&write::file_name(&json), &text));
        Ok(Self {
            summary,
            stem,
            path: path.clone(),
            unpacked: unpacked.then_some(model),
            project,
            wake_word,
            channels: args.channels.clone(),
            rate_hz: args.rate,
            window: args.window.map(|samples| samples as usize),
            folder: PathBuf::new(),
        })
    }

    /// Returns the name of the pipeline.
    pub(super) fn name(&self) -> String {
        self.facts(&|_, _| None).name()
    }

    /// Sets where the configuration will be, and with it where a model from an archive will be.
    pub(super) fn place(&mut self, output: &Path) -> anyhow::Result<()> {
        self.folder = write::folder(output)?;
        if self.unpacked.is_some() {
            self.path = self.folder.join(format!("{}.tflite", self.name()));
        }
        Ok(())
    }

    /// Returns the model's file, as the configuration is to name it.
    pub(super) fn model_path(&self) -> String {
        write::relative(&self.path, &self.folder)
    }

    /// Returns what the model is, in a line.
    pub(super) fn describe(&self) -> String {
        let shown = |tensor: &model::TensorSummary| format!("{} {:?}", tensor.element, tensor.shape_signature);
        let main = &self.summary.main;
        let inputs: Vec<String> = main.inputs.iter().map(shown).collect();
        let outputs: Vec<String> = main.outputs.iter().map(|output| shown(&output.tensor)).collect();
        let state = if self.summary.stateful { ", with a state" } else { "" };
        format!("{}: {} -> {}{state}", write::file_name(&self.path), inputs.join(", "), outputs.join(", "))
    }

    pub(super) fn names_axes(&self) -> bool {
        self.project.as_ref().is_some_and(|project| !project.axis_names.is_empty())
    }

    pub(super) fn propose(&self) -> Result<Proposal, String> {
        propose(&self.facts(&|output, scores| self.labels(output, scores)))
    }

    fn facts<'a>(&'a self, labels: &'a dyn Fn(usize, usize) -> Option<Labels>) -> Facts<'a> {
        Facts {
            summary: &self.summary,
            stem: &self.stem,
            labels,
            wake_word: self.wake_word.as_ref(),
            project: self.project.as_ref(),
            channels: self.channels.as_deref(),
            rate_hz: self.rate_hz,
            window: self.window,
        }
    }

    /// Returns the labels for an output: those of the project, of the model, or of a file next to it that has as many.
    fn labels(&self, output: usize, scores: usize) -> Option<Labels> {
        if self.project.as_ref().is_some_and(|project| project.labels.len() == scores) {
            let why = "the labels of the project".to_owned();
            return Some(Labels::File { path: self.labels_name(), why });
        }
        if let Ok(Some(_)) = labels::carried(&self.summary, output) {
            return Some(Labels::InModel);
        }
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let fits = |path: &PathBuf| {
            let read = path.is_file().then(|| labels::from_file(path, Some(scores)).ok()).flatten();
            read.is_some_and(|labels| labels.names.len() == scores)
        };
        let path = LABEL_FILES.iter().map(|name| beside.join(name.replace("{}", &self.stem))).find(fits)?;
        let why = format!("the file is next to the model and has as many labels as the model has scores, {scores}");
        Some(Labels::File { path: write::relative(&path, &self.folder), why })
    }

    /// Returns why a file with labels next to the model is not used, although there are no other labels.
    pub(super) fn refused_labels(&self, proposal: &Proposal) -> Vec<String> {
        if !matches!(proposal.labels, Some(None)) {
            return Vec::new();
        }
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let refused = |name: &&str| {
            let path = beside.join(name.replace("{}", &self.stem));
            let why = match labels::from_file(&path, Some(proposal.scores)) {
                _ if !path.is_file() => return None,
                Ok(labels) => {
                    let (labels, scores) = (counted(labels.names.len(), "label"), counted(proposal.scores, "score"));
                    format!("it has {labels}, and the model has {scores}")
                }
                Err(why) => why.to_string(),
            };
            Some(format!("{} is not used: {why}", write::file_name(&path)))
        };
        LABEL_FILES.iter().filter_map(refused).collect()
    }

    fn labels_name(&self) -> String {
        format!("{}-labels.txt", self.name())
    }

    /// Returns the files that the configuration needs and that are to be written next to it.
    pub(super) fn new_files(&self, proposal: &Proposal) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        if let Some(model) = &self.unpacked {
            files.push((self.path.clone(), model.clone()));
        }
        let labels =
            self.project.as_ref().map(|project| &project.labels).filter(|labels| labels.len() == proposal.scores);
        let names = match (&proposal.labels, labels) {
            (Some(Some(Labels::File { path, .. })), Some(labels)) if *path == self.labels_name() => {
                Some(labels.clone())
            }
            (Some(None), _) => Some((0..proposal.scores).map(|class| format!("class {class}")).collect()),
            _ => None,
        };
        if let Some(names) = names {
            if let Some(bad) = names.iter().find(|name| name.contains('\n') || name.trim().is_empty()) {
                bail!("the label {bad:?} of the project is not a line of text; rename it in the studio");
            }
            files.push((self.folder.join(self.labels_name()), format!("{}\n", names.join("\n")).into_bytes()));
        }
        Ok(files)
    }

    /// Returns the file with labels that the configuration is to name.
    pub(super) fn labels_path(&self, proposal: &Proposal) -> Option<String> {
        match &proposal.labels {
            Some(None) => Some(self.labels_name()),
            Some(Some(Labels::File { path, .. })) => Some(path.clone()),
            Some(Some(Labels::InModel)) | None => None,
        }
    }

    /// Asks for the names and the rate of the channels, where they are not known.
    pub(super) fn ask_channels(&mut self, stream: &Stream, asker: &mut Asker<'_>) -> anyhow::Result<()> {
        let Stream::Numbers { channels, rate_hz } = stream else { return Ok(()) };
        if self.channels.is_none() && !self.names_axes() {
            self.channels = asker.channels(channels)?;
        }
        if rate_hz.is_none() {
            self.rate_hz = asker.rate()?;
        }
        Ok(())
    }
}

/// Reads an export: an archive, a header, or JSON.
fn project_of(path: &Path) -> anyhow::Result<Project> {
    let bytes = model::read_file(path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.starts_with(b"PK") {
        return Ok(export::read(&bytes).map_err(|why| anyhow!("{}: {why}", path.display()))?.project);
    }
    Project::read(&path.display().to_string(), &String::from_utf8_lossy(&bytes)).map_err(|why| anyhow!(why))
}

fn no_model(path: &Path) -> String {
    format!(
        "{}: there is no TensorFlow Lite file in it, because the network was compiled to C++ code (EON). Download \"TensorFlow \
         Lite (int8 quantized)\" from the project's dashboard, and run: edgewatt init --model FILE.tflite --edge-impulse {}",
        path.display(),
        path.display()
    )
}

fn text_of(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns whether a file begins as text does, and is no manifest of a recording.
pub(super) fn is_text(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST_OF_TEXT).read_to_end(&mut start));
    let is_printable = |byte: &u8| (b' '..=b'~').contains(byte) || byte.is_ascii_whitespace();
    read.is_ok() && !start.is_empty() && start.iter().all(is_printable) && !start.starts_with(b"{")
}

/// Returns the first whole lines of a recording.
pub(super) fn first_lines(path: &Path) -> Option<String> {
    let file = BufReader::new(File::open(path).ok()?.take(MOST_OF_RECORDING));
    let lines: Vec<String> = file.lines().map_while(Result::ok).take(crate::propose::recording::LINES).collect();
    Some(lines.join("\n"))
}
