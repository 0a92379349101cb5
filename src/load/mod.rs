//! Loads and checks everything that a configuration names: files, the runtime, models, delegates, shapes, labels.

pub mod cells;
mod chain;
pub mod engines;
mod fit;
pub mod inspect;
pub(crate) mod labels;
pub mod learn;
pub(crate) mod metadata;
pub mod meters;
pub mod mqtt;
pub mod recording;
pub mod rewrite;
pub mod state_dir;
pub mod trial;
pub(crate) mod truth;
pub mod windows;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::engines::{BuiltEngine, EngineBuilder, EngineContext, ModelFile, reasons};
use self::metadata::FromMetadata;
use self::recording::Survey;
use crate::config::{BuiltGate, Config, Document, Key, Pipeline, Problem, Shapes};
use crate::decision::{ModelOutputs, Origins, Presentation, ScoreMeaning};
use crate::engine::parity::DecidedOn;
use crate::engine::process::Launcher;
use crate::engine::{self, EngineError, Runtime, TensorInfo};
use crate::gate::Gate;
use crate::infer::input::InputStage;
use crate::infer::{RecentWindows, Stages};
use crate::model::{self, OutputValues};
use crate::publish::payload::most_prediction_bytes;
use crate::source::{SinkSettings, WhenFull};
use crate::stream::StreamSpec;
use crate::sys;
use crate::sys::Machine;
use crate::sys::cpu::Children;
use crate::sys::trouble::Trouble;
use crate::text::{counted, figure, hex};

/// Everything that a configuration names, loaded and ready to run.
pub struct Prepared {
    pub engine_context: EngineContext,
    pub pipelines: Vec<PreparedPipeline>,
}

pub struct PreparedPipeline {
    pub stages: Stages,
    /// The size and type of the ring between source and pipeline.
    pub sink: SinkSettings,
    /// How verdicts are published.
    pub presentation: Arc<dyn Presentation>,
    /// What the scores are taken for, if the decision is on scores.
    pub scores: Option<ScoreMeaning>,
    /// The classes, if the decision is on classes.
    pub labels: Vec<String>,
    /// What was read, and from where: labels, and what the model's metadata says.
    pub notes: Vec<String>,
    /// The most bytes of a prediction's payload.
    pub prediction_bytes: usize,
    /// About settings that work, but may not be what the user wants.
    pub warnings: Vec<String>,
    /// What the recording has that it plays.
    pub recording: Option<String>,
    pub builder: Arc<EngineBuilder>,
    /// `None`: the engine that already runs can stay.
    pub built: Option<BuiltEngine>,
    pub tensors: Arc<Tensors>,
    /// What a threshold that is learnt now counts for.
    pub origins: Origins,
}

/// The inputs and outputs of a model.
#[derive(Debug)]
pub struct Tensors {
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
}

/// A pipeline of the running daemon with its engine, which a reload may keep.
pub struct RunningEngine {
    pub config: Pipeline,
    /// Its stream has ended.
    pub ended: bool,
    pub labels: Vec<String>,
    pub builder: Arc<EngineBuilder>,
    pub tensors: Arc<Tensors>,
    /// Frees the engine. Returns when its device is free again.
    pub release: Box<dyn Fn() + Send>,
}

/// All problems for which a configuration cannot be used, each with its line and column.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Unusable {
    text: String,
    /// Whether the same configuration may be usable later.
    pub trouble: Trouble,
}

impl Unusable {
    pub fn new(document: &Document, problems: &[Problem]) -> Self {
        let text = document.refusal(problems).to_string();
        // The one that lasts longest: until it is over, the others need not be.
        Self { text, trouble: problems.iter().map(|problem| problem.trouble).max().unwrap_or(Trouble::Lasting) }
    }

    fn of_file(error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        Self { trouble: Trouble::of_message(&text), text }
    }
}

/// Reads a configuration and loads everything that it names.
///
/// `program` is the path of this binary, which also runs the child processes that try delegates and models.
pub fn load(path: &Path, program: &Path) -> Result<(Config, Prepared), Unusable> {
    load_with(path, |config, document| {
        let library = config.runtime_library.as_deref();
        let context = engine_context(library, program).map_err(|problem| Unusable::new(document, &[problem]))?;
        Ok((context, Vec::new()))
    })
}

/// Like [`load`], with the context and the engines of a running daemon.
pub fn load_with(
    path: &Path,
    running: impl FnOnce(&Config, &Document) -> Result<(EngineContext, Vec<RunningEngine>), Unusable>,
) -> Result<(Config, Prepared), Unusable> {
    let document = Document::read(path).map_err(Unusable::of_file)?;
    let config = document.parse(sys::hostname().as_deref()).map_err(Unusable::of_file)?;
    for fragment in config.files.iter().skip(1) {
        tracing::debug!("the configuration has the fragment {}", fragment.display());
    }
    let (context, running) = running(&config, &document)?;
    let prepared = prepare(&config, &context, &running).map_err(|problems| Unusable::new(&document, &problems))?;
    Ok((config, prepared))
}

/// Loads everything for a configuration that is in no file, because a running daemon has changed it.
///
/// # Errors
/// All problems, each with its key.
pub fn load_changed(config: &Config, context: &EngineContext, running: &[RunningEngine]) -> Result<Prepared, String> {
    let in_words = |problem: Problem| format!("{}: {}", problem.key, problem.message);
    prepare(config, context, running)
        .map_err(|problems| problems.into_iter().map(in_words).collect::<Vec<_>>().join("; "))
}

/// Loads the runtime, and returns what engines are built with.
pub fn engine_context(library: Option<&Path>, program: &Path) -> Result<EngineContext, Problem> {
    let unusable = |error: EngineError| of_engine(Key::new(&["runtime", "library"]), &error);
    let runtime = Runtime::load(library).map_err(unusable)?;
    tracing::info!(library = %runtime.path.display(), version = runtime.version, "TensorFlow Lite");
    let launcher = Arc::new(Launcher {
        program: program.to_owned(),
        runtime: runtime.path.clone(),
        children: Children::default(),
    });
    Ok(EngineContext { runtime, launcher })
}

/// Returns the problem with the value at `key` for which an engine cannot be built.
fn of_engine(key: Key, error: &EngineError) -> Problem {
    Problem::new(key, error).that_may_pass(error.trouble())
}

/// Loads and checks all pipelines. `running` are the engines that may stay.
///
/// # Errors
/// All problems that were found, not only the first.
pub fn prepare(config: &Config, context: &EngineContext, running: &[RunningEngine]) -> Result<Prepared, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut drafts = Vec::new();
    for pipeline in &config.pipelines {
        let key = pipeline.key().child("source");
        let mut survey = None;
        match pipeline.source.kind().check_access() {
            Err(error) => problems.push(Problem::new(key, &error).that_may_pass(error.trouble())),
            Ok(()) => match recording::survey(pipeline).transpose() {
                Err(problem) => problems.push(Problem::new(key.child(pipeline.source.name()), problem)),
                Ok(found) => survey = found,
            },
        }
        match Draft::new(context, pipeline, survey) {
            Ok(draft) => drafts.push(draft),
            Err(problem) => problems.push(problem),
        }
    }
    // Building engines takes long and may need a device that is in use, so it is only done if all else is right.
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut pipelines = Vec::new();
    for draft in drafts {
        let running = running.iter().find(|running| running.config.name == draft.pipeline.name);
        let pipeline = draft.pipeline;
        match draft.finish(running) {
            Ok(mut prepared) => {
                prepared.warnings.extend(mqtt::size_warning(
                    config,
                    pipeline,
                    prepared.prediction_bytes,
                    prepared.labels.len(),
                ));
                pipelines.push(prepared);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(Prepared { engine_context: context.clone(), pipelines }) } else { Err(problems) }
}

/// A pipeline whose files are read, but which has no engine yet.
struct Draft<'a> {
    pipeline: &'a Pipeline,
    shapes: Shapes,
    chained: chain::Chained,
    labels: Vec<String>,
    /// How many labels there are, and where they are from, if the decision takes them from a file.
    labels_read: Option<String>,
    notes: Vec<String>,
    warnings: Vec<String>,
    builder: EngineBuilder,
    /// At least one of its delegates must be compared with the reference.
    compares: bool,
    /// What its recording has.
    survey: Option<Survey>,
}

impl<'a> Draft<'a> {
    fn new(context: &EngineContext, pipeline: &'a Pipeline, survey: Option<Survey>) -> Result<Self, Problem> {
        let key = pipeline.key();
        let decision = pipeline.decision.kind();
        let model = read_model(pipeline)?;
        let FromMetadata { feature, done, mut notes, mut warnings } = metadata::of(pipeline, &model);
        let mut labels_read = None;
        let labels = match decision.needs_labels() {
            true => {
                let labels_key = key.child("model");
                let labels_key = if pipeline.labels.is_some() { labels_key.child("labels") } else { labels_key };
                let labels = labels::of(pipeline, &model).map_err(|e| Problem::new(labels_key, e))?;
                notes.push(format!("labels: {}", labels.read));
                warnings.extend(labels.warnings.into_iter().map(|warning| format!("labels: {warning}")));
                labels_read = Some(labels.read);
                labels.names
            }
            false => Vec::new(),
        };
        let labels = decision.classes(labels);
        let source = pipeline.source.kind();
        if let Some((recording, records)) = source.recording().zip(source.records()) {
            warnings.extend(truth::check(recording, records, &labels));
        }
        // What a model of the chain gives is checked before the next one is fitted to it.
        let chained = chain::build(context, pipeline)?;
        notes.extend(chained.notes.iter().cloned());
        warnings.extend(chained.warnings.iter().cloned());
        let mut fitted = fit::model(pipeline, feature, model)?;
        notes.extend(done.filter(|_| fitted.warning.is_none()));
        warnings.extend(fitted.warning);
        let (mut builder, compares) = builder(context, pipeline, &mut fitted.shapes, fitted.model)?;
        builder.chain.clone_from(&chained.sha256);
        let shapes = fitted.shapes;
        Ok(Self { pipeline, shapes, chained, labels, labels_read, notes, warnings, builder, compares, survey })
    }

    fn finish(self, running: Option<&RunningEngine>) -> Result<PreparedPipeline, Problem> {
        let Self { pipeline, shapes, chained, labels, labels_read, mut notes, mut warnings, builder, compares, survey } =
            self;
        let (key, batch) = (pipeline.key(), pipeline.batch);
        let goes_on = |running: &&RunningEngine| {
            let same_truth = !pipeline.source.has_truth() || running.labels == labels;
            let same_stream = pipeline.goes_on_with(&running.config) && same_truth;
            let ended = running.ended && (running.config != *pipeline || running.labels != labels);
            same_stream && !ended && running.builder.is_same(&builder)
        };
        let (builder, built, tensors) = match running.filter(goes_on) {
            Some(running) => (running.builder.clone(), None, running.tensors.clone()),
            None => {
                let built = build(&builder, pipeline, running)?;
                let tensors = Tensors { inputs: built.inputs.clone(), outputs: built.outputs.clone() };
                (Arc::new(builder), Some(built), Arc::new(tensors))
            }
        };
        engine::check_input(&tensors.inputs, batch.max, &shapes.path)
            .map_err(|e| Problem::new(key.child("window"), e))?;
        let (inputs, outputs) = (one_row(&tensors.inputs, batch.max), one_row(&tensors.outputs, batch.max));
        let (values, features) = (output_values(&builder), shapes.input().values());
        let origins = Origins {
            model_sha256: builder.model.sha256.clone(),
            features_sha256: chain::features_digest(pipeline, &chained.sha256),
        };
        let model = ModelOutputs {
            outputs: &outputs,
            classes: &labels,
            values: &values,
            inputs: &inputs,
            features,
            origins: &origins,
        };
        let decision = pipeline.decision.kind();
        let decider = decision.build(&model).map_err(|error| {
            // It is not about labels if the output itself is not usable.
            let read = labels_read.filter(|_| model.output(decision.output()).is_ok());
            let labels = read.map_or_else(String::new, |read| format!(" ({read})"));
            Problem::new(key.child("decision"), format!("{error}{labels}"))
        })?;
        let presentation = decision.presentation(&model, pipeline.publish_scores);
        // Without a recording, the last windows of the stream are kept to compare on.
        let recent = pipeline.parity.limits.filter(|_| compares && pipeline.parity.recording.is_none());
        let recent = recent.map(|limits| RecentWindows::new(limits.windows, features));
        let sink = sink(pipeline, &shapes.source);
        let scores = decision.scores(&model);
        warnings
            .extend(pipeline.source.kind().survey(&Machine::this()).warning().map(|what| format!("source: {what}")));
        warnings.extend(buffer_warning(&sink, built.as_ref()));
        warnings.extend(decision.warnings(&model));
        warnings.extend(survey.iter().flat_map(Survey::warnings).map(|warning| format!("the recording: {warning}")));
        let recording = survey.map(|survey| survey.in_words());
        // The id of a boot has 8 digits.
        let prediction_bytes = most_prediction_bytes("00000000", &*presentation);
        let bytes = shapes.features.is_empty();
        let mut input = InputStage::new(shapes.frontends, chained.stages, &shapes.stream, &pipeline.window, bytes);
        if let Some((gate, BuiltGate { stage, kept })) = pipeline.gate.as_ref().zip(shapes.gate) {
            notes.push(gate_note(gate, &shapes.source, kept));
            warnings.extend(gate_warning(gate, pipeline.window.hop, &shapes.stream));
            input = input.with_gate(stage, kept);
        }
        let events_only = decision.events_only();
        let stages = Stages { input, features: shapes.features, decider, batch, events_only, recent };
        Ok(PreparedPipeline {
            stages,
            sink,
            presentation,
            scores,
            labels,
            notes,
            prediction_bytes,
            warnings,
            recording,
            builder,
            built,
            tensors,
            origins,
        })
    }
}

/// Returns what the gate does, for people.
fn gate_note(gate: &Gate, source: &StreamSpec, kept: usize) -> String {
    let kept = match kept {
        0 => String::new(),
        kept => format!("; then the last {} that it has skipped go to the model first", counted(kept, "window")),
    };
    format!("gate.{}{kept}", gate.kind().in_words(source))
}

/// Returns a warning if the gate can be open between the ends of two windows only; `stream` is what windows are cut from.
fn gate_warning(gate: &Gate, hop: usize, stream: &StreamSpec) -> Option<String> {
    let hop_s = hop as f64 / stream.rate_hz?;
    let hold_s = gate.kind().hold_s();
    (hold_s < hop_s).then(|| {
        let [hop, hold] = [hop_s, hold_s].map(figure);
        format!(
            "gate.{}: a window ends every {hop} s, and the gate closes {hold} s after the last loud block: what is loud between \
             two ends may be missed; set hold_s to at least {hop}",
            gate.name()
        )
    })
}

/// Returns the size and type of the ring between the pipeline's source, which gives the stream `spec`, and its infer thread.
pub fn sink(pipeline: &Pipeline, spec: &StreamSpec) -> SinkSettings {
    let source = pipeline.source.kind();
    SinkSettings {
        spec: spec.clone(),
        frames: source.buffer().0.frames(spec, pipeline.frames_of_window()),
        frames_per_block: source.frames_per_block(),
        when_full: pipeline.source.when_full(),
    }
}

/// Returns a warning if the source's buffer is too small for the time that an inference takes.
fn buffer_warning(sink: &SinkSettings, built: Option<&BuiltEngine>) -> Option<String> {
    let invoke = built.and_then(|built| built.invoke);
    let (Some(rate_hz), Some(invoke), WhenFull::Drop) = (sink.spec.rate_hz, invoke, sink.when_full) else {
        return None;
    };
    let frames = sink.frames;
    let held = Duration::from_secs_f64(frames as f64 / rate_hz);
    (held < invoke).then(|| {
        format!(
            "the source's buffer holds {frames} samples, which is {held:.1?} of the stream; one inference takes \
             {invoke:.1?}, so samples will be dropped: raise buffer.seconds"
        )
    })
}

/// Builds the engine of a pipeline. If it has a running engine, only the requested delegate is accepted.
fn build(
    builder: &EngineBuilder,
    pipeline: &Pipeline,
    running: Option<&RunningEngine>,
) -> Result<BuiltEngine, Problem> {
    let key = pipeline.key();
    if let Some(running) = running.filter(|running| !running.ended && running.builder.shares_device_with(builder)) {
        (running.release)();
    }
    // If a built-in delegate fails, the fault is in the model.
    let built_in = builder.is_built_in();
    let built = builder.build_first().map_err(|error| {
        match error {
            EngineError::Window(_) => Problem::new(key.child("window"), error),
            _ if built_in => of_engine(key.child("model").child("path"), &error),
            // Its device may be plugged in, or its driver loaded, after the daemon starts.
            _ => of_engine(key.child("delegate"), &error).that_may_pass(Trouble::Absent),
        }
    })?;
    match (running, reasons(&built.refusals)) {
        (Some(_), Some(reasons)) => Err(Problem::new(key.child("delegate"), reasons)),
        _ => Ok(built),
    }
}

/// Returns the builder of this pipeline's engines, and whether it compares any delegate with the reference.
fn builder(
    context: &EngineContext,
    pipeline: &Pipeline,
    shapes: &mut Shapes,
    model: ModelFile,
) -> Result<(EngineBuilder, bool), Problem> {
    let key = pipeline.key();
    if pipeline.batch.max > 1 && model.summary.stateful {
        let why = "the model keeps state from one window to the next, so windows must go through it one at a time";
        return Err(Problem::new(key.child("batch"), why));
    }
    let reference_key = key.child("parity").child("reference_model");
    let read = |path: &PathBuf| {
        let (bytes, sha256) = read_bytes(path)?;
        fit::reference(pipeline, ModelFile::new(path, bytes, sha256)?, &shapes.path)
    };
    let reference_model = pipeline.parity.reference_model.as_ref().map(read).transpose();
    let reference_model = reference_model.map_err(|e| Problem::new(reference_key, e))?;
    let mut builder = EngineBuilder {
        context: context.clone(),
        model,
        reference_model,
        delegates: pipeline.delegates.clone(),
        path: shapes.path.clone(),
        parity: pipeline.parity.clone(),
        decided: DecidedOn { output: pipeline.decision.kind().output(), boundary: None },
        recorded: None,
        chain: Vec::new(),
        reference: Mutex::default(),
    };
    builder.decided.boundary = pipeline.decision.kind().boundary(&output_values(&builder));
    let compares = builder.delegates.iter().any(|delegate| builder.is_compared(&delegate.kind));
    if compares && !builder.has_reference() {
        let why = "the runtime's own kernels cannot run this model, so there is nothing to compare with; set \
                   reference_model = \"FILE.tflite\" to the model that it was compiled from";
        return Err(Problem::new(key.child("parity"), why));
    }
    if let (true, Some(limits), Some(path)) = (compares, pipeline.parity.limits, &pipeline.parity.recording) {
        let width = shapes.input().values();
        let models = chain::build(context, pipeline)?.stages;
        let windows = windows::recorded(path, pipeline, &[], models, &mut shapes.features, width, limits.windows);
        builder.recorded = Some(windows.map_err(|e| Problem::new(key.child("parity"), e))?.values);
    }
    Ok((builder, compares))
}

fn read_model(pipeline: &Pipeline) -> Result<ModelFile, Problem> {
    let (path, key) = (&pipeline.model, pipeline.key().child("model"));
    if let (Some(max), Ok(file)) = (pipeline.model_max_bytes, std::fs::metadata(path))
        && file.len() > max
    {
        let message = format!("{} has {} bytes; the limit is {max}", path.display(), file.len());
        return Err(Problem::new(key.child("max_mib"), message));
    }
    let (bytes, sha256) = read_pinned(path, pipeline.model_sha256.as_deref(), &key)?;
    let file = ModelFile::new(path, bytes, sha256).map_err(|e| Problem::new(key.child("path"), e))?;
    file.entered(pipeline.signature.as_deref()).map_err(|e| Problem::new(key.child("signature"), e))
}

/// Reads a model's file, whose table is at `key`. Returns its bytes and their SHA-256, which must be `pinned` if that is given.
fn read_pinned(path: &Path, pinned: Option<&str>, key: &Key) -> Result<(Vec<u8>, String), Problem> {
    let (bytes, sha256) = read_bytes(path).map_err(|e| Problem::new(key.child("path"), e))?;
    if let Some(pinned) = pinned.filter(|pinned| *pinned != sha256) {
        let other =
            if model::is_tflite(&bytes) { String::new() } else { format!("; {}", model::describe_other(&bytes)) };
        let message = format!("{} has the SHA-256 {sha256}, not {pinned}{other}", path.display());
        return Err(Problem::new(key.child("sha256"), message));
    }
    Ok((bytes, sha256))
}

/// Reads a file. Returns its bytes and their SHA-256.
fn read_bytes(path: &Path) -> Result<(Vec<u8>, String), String> {
    let bytes = model::read_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok((bytes, sha256))
}

/// Returns inputs or outputs with the shapes that they have for one window of a batch.
fn one_row(tensors: &[TensorInfo], batch: usize) -> Vec<TensorInfo> {
    let mut rows = tensors.to_vec();
    if batch > 1 {
        rows.iter_mut().filter_map(|row| row.shape.first_mut()).for_each(|first| *first = 1);
    }
    rows
}

/// Returns for each output what its values are as scores. Of a model that was compiled for a device, the one that it was
/// compiled from may tell more.
fn output_values(builder: &EngineBuilder) -> Vec<OutputValues> {
    let values = |model: &ModelFile| model.summary.main.outputs.iter().map(|output| output.values.clone()).collect();
    let mut told: Vec<OutputValues> = values(&builder.model);
    if let Some(reference) = &builder.reference_model {
        for (told, reference) in told.iter_mut().zip(values(reference)) {
            if told.meaning.is_none() && reference.meaning.is_some() {
                *told = reference;
            }
        }
    }
    told
}
