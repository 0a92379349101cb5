//! A `[pipelines.NAME]` table: the keys that belong to no kind, and the checks between the kinds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::chain::{ChainedModel, ChainedModelKeys, ChainedShapes};
use super::delegates::{self, Delegate};
use super::steps::{MAX_SAMPLES, blamed, sha256, window_shape};
use crate::decision::Decision;
use crate::engine::parity::ParityLimits;
use crate::features::{self, Feature};
use crate::frontend::{self, Frontend};
use crate::gate::{self, Gate};
use crate::infer::Batch;
use crate::infer::input::WindowSettings;
use crate::mqtt::access::check_qos;
use crate::schema::expanded::{Table, from_nothing};
use crate::schema::{Checker, Key, Value, milliseconds, table};
use crate::source::Source;
use crate::stream::{Mismatch, Shape, ShapePath, StreamSpec};
use crate::text::figure;

const MAX_BATCH: usize = 4096;
/// The highest processor number in the C library's mask (cpu_set(3)).
const MAX_CPU: usize = 1023;
/// Steps of this many sample periods still belong to one window, unless `max_gap_ms` says otherwise.
const DEFAULT_GAP_PERIODS: f64 = 3.0;
const MIB: f64 = 1_048_576.0;
const CLASSES_ONLY: &str = "only a decision on classes uses it; remove it";
const GATED_CHAIN: &str = "with `models`, a gate would spare the last model only: those before it must see the whole stream; \
     leave out the gate or models";
const LABELS_ONLY: &str = "only a decision that takes its classes from model.labels uses it; remove it";

table! {
    /// A pipeline, under a name that you choose: from a source through a model to decisions. The name is a level of its
    /// topics.
    pub struct PipelineKeys {
        /// Where the samples come from.
        pub source: Source;
        /// A gate before the model.
        pub gate: Option<Gate>;
        /// Transforms of the stream before windows are cut.
        pub frontend: Vec<Frontend> = Vec::new();
        /// How windows are cut from the stream.
        pub window: Window;
        /// Transforms of each window.
        pub features: Vec<Feature> = Vec::new();
        /// The model.
        pub model: Model;
        /// Models that run before `model`, each on what the one before it gives: a chain.
        pub models: Vec<ChainedModelKeys> = Vec::new();
        /// The delegate that runs the model: "cpu", "xnnpack", or a name from [delegates].
        pub delegate: String = "xnnpack".to_owned();
        /// The delegates to try, in order, when that one does not work. With none, the start fails then.
        pub fallback: Vec<String> = Vec::new();
        /// How a delegate is compared with the reference before it takes over.
        pub parity: Option<ParityKeys>;
        /// How many windows go through the model together.
        pub batch: BatchKeys;
        /// What is made of the model's outputs.
        pub decision: Decision;
        /// What is published.
        pub publish: Publish;
        /// How the pipeline's threads are scheduled.
        pub realtime: Realtime;
    }
}

table! {
    /// How windows are cut from the stream.
    pub struct Window {
        /// The number of samples in a window.
        pub samples: usize, range(1, MAX_SAMPLES), example("200");
        /// The number of samples from the start of one window to the start of the next.
        pub hop: usize, range(1, MAX_SAMPLES), example("50");
        /// The longest step in the stream's time that is not a gap. A gap empties the window.
        pub max_gap_ms: Option<f64>, range(0.001, 86_400_000.0), unit("ms"), otherwise("3 sample periods"), example("60.0");
    }
}

table! {
    /// The model.
    pub struct Model {
        /// The model file, a .tflite file.
        pub path: PathBuf, example("\"model.tflite\"");
        /// The SHA-256 of the model file. A file with another one is refused.
        pub sha256: Option<String>, otherwise("any"), limits("64 hex digits"),
            example("\"0000000000000000000000000000000000000000000000000000000000000000\"");
        /// The largest size of the model file.
        pub max_mib: Option<f64>, range(0.001, 1e6), unit("MiB"), otherwise("no limit"), example("16.0");
        /// The file with the labels: one label a line, in the order of the scores, or another form that docs/your-model.md
        /// lists. `classify` needs labels.
        pub labels: Option<PathBuf>, otherwise("those in the model's metadata"), example("\"labels.txt\"");
        /// Whether the labels and the normalisation of the input are taken from the model's own metadata where the
        /// configuration has none.
        pub metadata: bool = true;
        /// The signature to run, of a model that has several. Without the key it is "serving_default", or the only one that
        /// changes no variables.
        pub signature: Option<String>, otherwise("the only one, or \"serving_default\""), example("\"infer\"");
        /// For each input that holds a state, the output that gives its next value, by their names in the model. A state
        /// starts as 0, and is 0 again after a gap.
        pub state: BTreeMap<String, String> = BTreeMap::new(), otherwise("none"), example("{ state_in = \"state_out\" }");
        /// For a model with several inputs: the channels of the window that each input gets, by its name in the model. The name
        /// of a source of a join stands for all its channels. An input with room for fewer samples gets the last ones.
        pub inputs: BTreeMap<String, Vec<String>> = BTreeMap::new(), otherwise("one input gets the window"),
            example("{ motion = [\"imu\"], temperature = [\"temp.c\"] }");
    }
}

table! {
    /// Before a delegate takes over, real windows go through it and through the runtime's own kernels, and it is refused if
    /// they differ by more than this. Without this table, external and litert delegates are compared like this if they can
    /// be. With this table, all delegates are compared, and what cannot be compared is refused.
    pub struct ParityKeys {
        /// The number of windows to compare; 0 compares nothing.
        pub windows: usize = 32, range(0, 100_000);
        /// The largest difference of an output, as a part of the reference's largest output.
        pub tolerance: f32 = 0.1, range(0.0, 1.0);
        /// The smallest part of the windows in which the highest score must be the same one.
        pub top1: Option<f32>, range(0.0, 1.0), otherwise("0.95 with classify, else none"), example("0.95");
        /// The file with lines of the same records from which the windows are taken.
        pub recording: Option<PathBuf>, otherwise("the replayed recording, else the running stream"),
            example("\"windows.csv\"");
        /// The model that a model for one delegate was compiled from. The reference runs it.
        pub reference_model: Option<PathBuf>, otherwise("the model"), example("\"model.tflite\"");
    }
}

table! {
    /// Windows that go through the model together.
    pub struct BatchKeys {
        /// The most windows in a batch.
        pub max: usize = 1, range(1, MAX_BATCH);
        /// The longest time that the first window waits for more. A batch of one window does not wait.
        pub wait_ms: f64 = 0.0, range(0.0, 60_000.0), unit("ms");
    }
}

table! {
    /// What is published.
    pub struct Publish {
        /// Whether the score of every class is published.
        pub scores: bool = false;
        /// The number of classes whose scores are published, the highest first, instead of every class. It keeps the messages
        /// of a model with thousands of classes small.
        pub top_k: Option<usize>, range(1, 1000), otherwise("as `scores` says"), example("10");
        /// The quality of service of this pipeline's predictions.
        pub qos: Option<u8>, otherwise("mqtt.qos"), limits("0 (at most once) or 1 (at least once)"), example("1");
    }
}

table! {
    /// Real-time scheduling for the two threads of a pipeline, if the kernel permits it; else there is a warning in the log.
    /// See docs/realtime.md.
    pub struct Realtime {
        /// The priority of SCHED_FIFO, above every ordinary program.
        pub priority: Option<u8>, range(1, 99), otherwise("scheduled as ordinary programs are"), example("50");
        /// The processors to run on, numbered from 0.
        pub cpus: Vec<usize> = Vec::new(), otherwise("all"), example("[2, 3]");
    }
}

/// A pipeline, checked and ready to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    pub name: String,
    pub source: Source,
    pub gate: Option<Gate>,
    pub frontend: Vec<Frontend>,
    /// The models that run before `model`, in order.
    pub models: Vec<ChainedModel>,
    pub window: WindowSettings,
    pub features: Vec<Feature>,
    pub model: PathBuf,
    pub labels: Option<PathBuf>,
    /// The signature to run; `None`: see [`crate::engine::plan::signature`].
    pub signature: Option<String>,
    /// For each input that holds a state, the output that gives its next value.
    pub states: BTreeMap<String, String>,
    /// For each of several inputs, the channels that it gets; none: one input gets the window.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Labels and normalisation are taken from the model's metadata where the configuration has none.
    pub model_metadata: bool,
    /// The SHA-256 that the model file must have, in lower-case hex.
    pub model_sha256: Option<String>,
    /// The most bytes that the model file may have.
    pub model_max_bytes: Option<u64>,
    /// The requested one, then those to fall back to, in order.
    pub delegates: Vec<Delegate>,
    pub parity: Parity,
    pub batch: Batch,
    pub decision: Decision,
    /// The number of classes whose scores are published at most, if scores are published.
    pub publish_scores: Option<usize>,
    pub qos: u8,
    pub realtime: Realtime,
}

/// How a delegate is compared with the runtime's own kernels before it takes over.
#[derive(Debug, Clone, PartialEq)]
pub struct Parity {
    /// The limits that a delegate must meet; `None`: nothing is compared.
    pub limits: Option<ParityLimits>,
    /// The file has a `parity` table: built-in delegates are compared too, and what cannot be compared is refused.
    pub demanded: bool,
    /// The recording from which the windows are taken; `None`: from the running stream.
    pub recording: Option<PathBuf>,
    /// The model that the reference runs, if the pipeline's model runs on the delegate only.
    pub reference_model: Option<PathBuf>,
}

impl Pipeline {
    /// Returns the key of this pipeline's table, for errors found after the check.
    pub fn key(&self) -> Key {
        Key::new(&["pipelines", &self.name])
    }

    /// Returns whether the threads and the source of `other` can stay for this pipeline. All other differences are passed to
    /// the infer thread as new stages.
    pub fn goes_on_with(&self, other: &Self) -> bool {
        // Each new field has to be named here, so that its side is decided.
        let Self {
            source,
            realtime,
            name: _,
            gate: _,
            frontend: _,
            models: _,
            window: _,
            features: _,
            model: _,
            labels: _,
            signature: _,
            states: _,
            inputs: _,
            model_metadata: _,
            model_sha256: _,
            model_max_bytes: _,
            delegates: _,
            parity: _,
            batch: _,
            decision: _,
            publish_scores: _,
            qos: _,
        } = self;
        *source == other.source && *realtime == other.realtime
    }

    /// Follows the stream's shape from the source to the model's input.
    ///
    /// # Errors
    /// The key of the step that does not accept the shape before it, and why.
    pub fn shapes(&self) -> Result<Shapes, (Key, String)> {
        let key = self.key();
        let source = self.source.kind().spec();
        let mut path = ShapePath::new(&format!("source.{}", self.source.name()), source.frame.clone());
        let at = |list: &str, name: &str, index: usize, mismatch: Mismatch, path: &ShapePath| {
            blamed(key.child(list).child(index).child(name), &mismatch, path)
        };
        let stage = self.gate.as_ref().map(|gate| gate.kind().build(&source)).transpose();
        let stage = stage.map_err(|mismatch| self.at_gate(mismatch))?;
        if let Some(gate) = &self.gate {
            path.then(format!("gate.{}", gate.name()), source.frame.clone());
        }
        let built = frontend::Chain::new(&self.frontend, &source, |index, spec| {
            path.then(format!("frontend.{}", self.frontend[index].name()), spec.frame.clone());
        });
        let (frontends, stream) =
            built.map_err(|(index, mismatch)| at("frontend", self.frontend[index].name(), index, mismatch, &path))?;
        let (mut models, mut stream) = (Vec::with_capacity(self.models.len()), stream);
        for (index, model) in self.models.iter().enumerate() {
            let (shapes, output) = model.follow(&key.child("models").child(index), &stream, &mut path)?;
            models.push(shapes);
            stream = output;
        }
        let window = window_shape(&stream, self.window.samples)
            .map_err(|message| (key.child("window").child("samples"), message))?;
        path.then("window", window.clone());
        let gate = match stage {
            Some(stage) => {
                let kept = self.kept_windows(&stream).map_err(|mismatch| self.at_gate(mismatch))?;
                Some(BuiltGate { stage, kept })
            }
            None => None,
        };
        let built = features::Chain::new(&self.features, &window, &stream, |index, shape| {
            path.then(format!("features.{}", self.features[index].name()), shape.clone());
        });
        let features =
            built.map_err(|(index, mismatch)| at("features", self.features[index].name(), index, mismatch, &path))?;
        Ok(Shapes { source, gate, frontends, models, stream, features, path })
    }

    /// Returns the key that the gate's mismatch is about, and the message.
    fn at_gate(&self, mismatch: Mismatch) -> (Key, String) {
        let gate = self.key().child("gate");
        let kind = self.gate.as_ref().map_or(gate.clone(), |kind| gate.child(kind.name()));
        (mismatch.key.map_or_else(|| kind.clone(), |below| kind.child(below)), mismatch.message)
    }

    /// Returns how many windows of `stream` a closed gate keeps.
    fn kept_windows(&self, stream: &StreamSpec) -> Result<usize, Mismatch> {
        let preroll_s = self.gate.as_ref().map_or(0.0, |gate| gate.kind().preroll_s());
        if preroll_s == 0.0 {
            return Ok(0);
        }
        let at = |message: String| Mismatch::at("preroll_s", message);
        let rate_hz = stream.rate_hz.ok_or_else(|| at("the rate behind the front ends is not known".to_owned()))?;
        let windows = (preroll_s * rate_hz / self.window.hop as f64).ceil() as usize;
        let values = windows.saturating_mul(stream.frame.repeated(self.window.samples).values());
        if values > MAX_SAMPLES {
            return Err(at(format!(
                "{windows} windows of it have {values} values; the limit is {MAX_SAMPLES}: write a shorter time, or a larger \
                 window.hop"
            )));
        }
        Ok(windows)
    }

    /// Returns the keys that the features depend on, as TOML: the names of the channels, and all from the front ends on. The
    /// source may be another one: a recording has the same features.
    pub fn feature_keys(&self) -> String {
        let Self { frontend, models, window, features, inputs, model_metadata, .. } = self;
        let models: String = models.iter().map(ChainedModel::feature_keys).collect();
        format!(
            "channels = {}, frontend = {}, {models}samples = {}, features = {}, inputs = {}, metadata = {model_metadata}",
            self.source.kind().spec().names.to_toml(),
            frontend.to_toml(),
            window.samples,
            features.to_toml(),
            inputs.to_toml()
        )
    }

    /// Returns the number of the source's frames that the first window needs.
    pub fn frames_of_first_window(&self) -> usize {
        self.frames_for(self.window.samples)
    }

    /// Returns the number of the source's frames that a window and a hop need.
    pub fn frames_of_window(&self) -> usize {
        self.frames_for(self.window.samples.saturating_add(self.window.hop))
    }

    /// Returns the number of the source's frames that `frames` after the front ends need; `frames` itself if the front
    /// ends do not take the stream, which [`Pipeline::shapes`] reports.
    fn frames_for(&self, frames: usize) -> usize {
        let chain = frontend::Chain::new(&self.frontend, &self.source.kind().spec(), |_, _| ());
        let frames =
            self.models.iter().rev().fold(frames, |frames, model| model.cut.frames_wanted(frames, model.cut.samples));
        chain.map_or(frames, |(chain, _)| chain.frames_wanted(frames))
    }
}

/// A gate, and how many of the windows that it skips are kept.
pub struct BuiltGate {
    pub stage: Box<dyn gate::Stage>,
    pub kept: usize,
}

/// The stages between source and model, and the shapes between them.
pub struct Shapes {
    /// The stream of the source.
    pub source: StreamSpec,
    pub gate: Option<BuiltGate>,
    pub frontends: frontend::Chain,
    /// The stages of the models that run before the last one.
    pub models: Vec<ChainedShapes>,
    /// The stream after the front ends and these models.
    pub stream: StreamSpec,
    pub features: features::Chain,
    pub path: ShapePath,
}

impl Shapes {
    /// Returns the shape of what goes into the model.
    pub fn input(&self) -> &Shape {
        self.path.last()
    }
}

/// What the pipelines of one file share.
pub struct Common<'a> {
    pub delegates: &'a BTreeMap<String, Delegate>,
    /// The quality of service of pipelines that name none.
    pub qos: u8,
}

impl PipelineKeys {
    /// Checks the table of the pipeline `name`.
    pub fn checked(self, name: String, common: &Common<'_>, checker: &mut Checker) -> Pipeline {
        let key = Key::new(&["pipelines", &name]);
        checker.topic_level(&key, &name);
        let at = |name: &str| key.child(name);
        self.check_classes(&key, checker);
        let Self {
            mut source,
            mut gate,
            mut frontend,
            models,
            window,
            mut features,
            model,
            parity,
            batch,
            mut decision,
            ..
        } = self;
        source.check(&at("source"), checker);
        gate.iter_mut().for_each(|kind| kind.check(&at("gate"), checker));
        frontend.iter_mut().enumerate().for_each(|(i, kind)| kind.check(&at("frontend").child(i), checker));
        let models = models.into_iter().enumerate();
        let models: Vec<ChainedModel> =
            models.filter_map(|(i, model)| model.checked(&at("models").child(i), checker)).collect();
        if gate.is_some() && !models.is_empty() {
            checker.problem(&at("gate"), GATED_CHAIN);
        }
        features.iter_mut().enumerate().for_each(|(i, kind)| kind.check(&at("features").child(i), checker));
        decision.check(&at("decision"), checker);
        let window = window.checked(&at("window"), &source, checker);
        let mut wanted: Vec<Delegate> = Vec::new();
        wanted.extend(delegates::find(&at("delegate"), &self.delegate, common.delegates, checker));
        for (i, name) in self.fallback.iter().enumerate() {
            let key = at("fallback").child(i);
            if wanted.iter().any(|delegate| delegate.name == *name) {
                checker.problem(&key, format!("`{name}` is listed twice; name each delegate once"));
            }
            wanted.extend(delegates::find(&key, name, common.delegates, checker));
        }
        model.check_ranges(&at("model"), checker);
        self.publish.check_ranges(&at("publish"), checker);
        let qos = self.publish.qos.unwrap_or(common.qos);
        check_qos(&at("publish").child("qos"), qos, checker);
        self.realtime.check(&at("realtime"), checker);
        let pipeline = Pipeline {
            name,
            window,
            batch: batch.checked(&at("batch"), checker),
            parity: ParityKeys::checked(parity, &at("parity"), &source, &decision, checker),
            source,
            gate,
            frontend,
            models,
            features,
            decision,
            model_max_bytes: model.max_mib.map(|mib| (mib * MIB) as u64),
            model_sha256: model.sha256.as_deref().map(|digest| sha256(&at("model").child("sha256"), digest, checker)),
            labels: model.labels.map(|path| checker.path(&path)),
            model_metadata: model.metadata,
            model: checker.path(&model.path),
            signature: model.signature,
            states: model.state,
            inputs: model.inputs,
            delegates: wanted,
            publish_scores: self.publish.top_k.or(self.publish.scores.then_some(usize::MAX)),
            qos,
            realtime: self.realtime,
        };
        if !checker.has_problems()
            && let Err((key, message)) = pipeline.shapes()
        {
            checker.problem(&key, message);
        }
        pipeline
    }

    /// Checks that no key for classes is set if the decision has no classes, because it would have no effect.
    fn check_classes(&self, key: &Key, checker: &mut Checker) {
        let decision = self.decision.kind();
        if !decision.has_classes()
            && let Some(truth) = self.source.kind().truth()
        {
            let source = key.child("source").child(self.source.name());
            checker.problem(&truth.iter().fold(source, |key, name| key.child(name)), CLASSES_ONLY);
        }
        if !decision.needs_labels() {
            if self.model.labels.is_some() {
                checker.problem(&key.child("model").child("labels"), LABELS_ONLY);
            }
            if self.publish.scores {
                checker.problem(&key.child("publish").child("scores"), LABELS_ONLY);
            }
            if self.publish.top_k.is_some() {
                checker.problem(&key.child("publish").child("top_k"), LABELS_ONLY);
            }
        }
    }
}

impl Window {
    fn checked(self, key: &Key, source: &Source, checker: &mut Checker) -> WindowSettings {
        self.check_ranges(key, checker);
        let gap_key = key.child("max_gap_ms");
        let max_gap_ms = match (self.max_gap_ms, source.kind().has_time(), source.kind().spec().rate_hz) {
            (Some(_), false, _) => {
                let message = "gaps are found by the stream's own time only; name its column in records.time";
                checker.problem(&gap_key, message);
                None
            }
            (Some(ms), true, _) => Some(ms),
            (None, true, Some(rate)) => Some(DEFAULT_GAP_PERIODS * 1e3 / rate),
            (None, true, None) => {
                let message = "set max_gap_ms; or set rate_hz at the source, and a gap is more than 3 sample periods";
                checker.problem(key, message);
                None
            }
            (None, false, _) => None,
        };
        if let Some((gap_ms, longest)) = max_gap_ms.zip(source.kind().longest_step())
            && milliseconds(gap_ms) > longest
        {
            let longest_ms = longest.as_secs_f64() * 1e3;
            let what = if self.max_gap_ms.is_some() { "max_gap_ms" } else { "3 sample periods" };
            let message = format!(
                "the stream's clock starts again too soon: it shows no step of more than {} ms, and a gap is one of more than \
                 {} ms ({what}); send the time with more bits, or set a smaller max_gap_ms",
                figure(longest_ms),
                figure(gap_ms)
            );
            checker.problem(if self.max_gap_ms.is_some() { &gap_key } else { key }, message);
        }
        WindowSettings { samples: self.samples, hop: self.hop, max_gap: max_gap_ms.map(milliseconds) }
    }
}

impl ParityKeys {
    fn checked(keys: Option<Self>, key: &Key, source: &Source, decision: &Decision, checker: &mut Checker) -> Parity {
        let demanded = keys.as_ref().is_some_and(|keys| keys.windows > 0);
        // Every key has a default.
        let Some(keys) = keys.or_else(from_nothing::<Self>) else {
            return Parity { limits: None, demanded: false, recording: None, reference_model: None };
        };
        keys.check_ranges(key, checker);
        let top1 = keys.top1.or(decision.kind().least_agreement());
        let limits = ParityLimits { windows: keys.windows, tolerance: keys.tolerance, top1 };
        // A replayed recording can be read before the start; a live stream cannot.
        let replayed = source.kind().recording().map(ToOwned::to_owned);
        Parity {
            limits: (keys.windows > 0).then_some(limits),
            demanded,
            recording: keys.recording.map(|path| checker.path(&path)).or(replayed),
            reference_model: keys.reference_model.map(|path| checker.path(&path)),
        }
    }
}

impl BatchKeys {
    fn checked(self, key: &Key, checker: &mut Checker) -> Batch {
        self.check_ranges(key, checker);
        Batch { max: self.max, wait: milliseconds(self.wait_ms) }
    }
}

impl Realtime {
    fn check(&self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        for (i, cpu) in self.cpus.iter().enumerate() {
            checker.within(&key.child("cpus").child(i), *cpu, 0, MAX_CPU);
        }
    }
}
