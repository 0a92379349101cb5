//! One pipeline as the async thread sees it: its publisher, and the care for its engine.
//!
//! Owns what happens when an engine fails: it is made again at once, then after growing pauses, and when it has failed
//! too often the next delegate takes over. Making blocks, so it is done on threads of its own.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::engines::{EngineMaker, Made, Refusal, Unmade, reasons};
use super::prepare::{PreparedPipeline, Tensors};
use super::summary::{EnergyTotal, PipelineSummary};
use super::threads::{self, Told};
use crate::config::{Pipeline, WhenBufferFull};
use crate::engine::span::SpanSender;
use crate::engine::{Engine, EngineError};
use crate::metrics::{Exchange, PipelineStats};
use crate::pipeline::{Command, Control, Infer, Links, NewStages, Report};
use crate::publish::outbox::Qos;
use crate::publish::payload::{DelegateState, PipelineState};
use crate::publish::publisher::{HandOver, PipelinePublisher, Progress, Speaker, Totals, Way};
use crate::ring::{FrameTx, frame_ring};
use crate::source::{self, SourceStats, Wake};
use crate::stop::Stop;

/// Decisions that wait to be encoded; the async thread takes them off within milliseconds.
const DECISIONS: usize = 1024;
/// Pause before the second start in a row of a delegate; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What the threads of every pipeline are given alike.
pub struct Shared {
    pub notify: Arc<Notify>,
    pub told: UnboundedSender<Told>,
    pub speaker: Speaker,
    pub hand_over: HandOver,
    pub once: bool,
}

/// What a pipeline that starts has from one of the same name that has ended.
pub struct Inheritance {
    seq: u64,
    stats: Arc<PipelineStats>,
    source_stats: Arc<SourceStats>,
    progress: Progress,
    energy: EnergyTotal,
}

/// What comes after the end of a pipeline.
pub enum Afterwards {
    Nothing,
    /// It is no longer in the configuration.
    Removed,
    /// It has another source now.
    Another(Box<(Pipeline, PreparedPipeline)>),
}

/// A pipeline that runs, or has ended and is kept for its figures.
pub struct Running {
    pub id: usize,
    pub config: Pipeline,
    pub publisher: PipelinePublisher,
    pub exchange: Arc<Exchange>,
    pub wake: Arc<Wake>,
    pub stop: Arc<Stop>,
    pub energy: EnergyTotal,
    pub error: Option<String>,
    pub infer_ended: bool,
    /// Its source can be opened anew.
    pub acquire_ended: bool,
    pub afterwards: Afterwards,
    pub maker: Arc<EngineMaker>,
    pub tensors: Arc<Tensors>,
    control: Arc<Control>,
    told: UnboundedSender<Told>,
    care: Care,
}

/// The care for an engine.
struct Care {
    /// The delegate in use among the pipeline's; `None`: the reference, until the one at `waiting` can be compared.
    place: Option<usize>,
    waiting: usize,
    /// The delegate in use has worked since it was turned to.
    has_worked: bool,
    failures: VecDeque<Instant>,
    refusals: Vec<Refusal>,
    /// Told apart from what was ordered before a reload.
    order: u64,
    /// An engine is being made in the place of one that failed or was freed.
    mending: bool,
    /// When the engine failed that is being replaced.
    failed: Option<Instant>,
    /// What becomes true when the infer thread has changed.
    coming: Option<DelegateState>,
    /// Who waits until the engine in use is gone.
    release: Option<mpsc::Sender<()>>,
}

impl Care {
    fn new(made: &Made) -> Self {
        Self {
            place: made.place,
            waiting: made.waiting,
            has_worked: true,
            failures: VecDeque::new(),
            refusals: Vec::new(),
            order: 0,
            mending: false,
            failed: None,
            coming: None,
            release: None,
        }
    }
}

/// An engine that was ordered, or why there is none.
pub struct Delivery {
    pub order: u64,
    place: usize,
    result: Result<Made, Unmade>,
    /// Why the delegates before it are not used.
    refusals: Vec<Refusal>,
}

impl Running {
    /// Starts the threads of a pipeline.
    pub fn start(
        id: usize,
        config: Pipeline,
        prepared: PreparedPipeline,
        spans: Option<SpanSender>,
        inherited: Option<Inheritance>,
        shared: &Shared,
    ) -> anyhow::Result<Self> {
        let name = config.name.clone();
        let inherited = inherited.unwrap_or_else(|| Inheritance {
            seq: 0,
            stats: Arc::default(),
            source_stats: Arc::default(),
            progress: Progress::default(),
            energy: EnergyTotal::default(),
        });
        let hold = config.source.when_full == WhenBufferFull::Wait;
        let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
        let source = source::open(&config.source, prepared.labels.clone(), shared.once)?;
        let stats = inherited.source_stats.clone();
        let (feed, intake) = source::feed(&config.source, &name, stop.clone(), stats);
        let wake = intake.wake.clone();
        let (way, decisions) = way(&config, &prepared);
        let made = prepared.made.context("a pipeline that starts has no engine")?;
        let (exchange, control) = (Arc::<Exchange>::default(), Arc::<Control>::default());
        shared.hand_over.add(id);
        let publisher = PipelinePublisher {
            id,
            topics: shared.speaker.topics.pipeline(&name),
            way,
            next: VecDeque::new(),
            hold,
            stats: inherited.stats.clone(),
            source_stats: inherited.source_stats,
            hand_over: shared.hand_over.clone(),
            progress: inherited.progress,
            delegate: made.state.clone(),
            name: name.clone(),
        };
        let told = shared.told.clone();
        let links = Links {
            intake,
            decisions,
            publisher: shared.notify.clone(),
            spans,
            stats: inherited.stats,
            exchange: exchange.clone(),
            stop: stop.clone(),
            hold,
            control: control.clone(),
            // Nobody listens any more only when the daemon has given up waiting.
            report: Box::new(move |report| _ = told.send(Told::Infer(id, report))),
        };
        let running = Self {
            id,
            publisher,
            exchange,
            wake,
            stop,
            energy: inherited.energy,
            error: None,
            infer_ended: false,
            acquire_ended: false,
            afterwards: Afterwards::Nothing,
            maker: prepared.maker,
            tensors: prepared.tensors,
            control,
            told: shared.told.clone(),
            care: Care::new(&made),
            config,
        };
        running.say_delegate(&shared.speaker);
        running.want_windows();
        let infer = Infer::new(links, prepared.stages, made.engine, inherited.seq);
        threads::infer(id, &name, infer, shared.told.clone()).context("cannot start the infer thread")?;
        threads::acquire(id, &name, source, feed, shared.told.clone()).context("cannot start the acquire thread")?;
        Ok(running)
    }

    pub fn tell(&self, command: Command) {
        self.control.tell(command);
        self.wake.reader();
    }

    /// Whether the engine in use is the one that the configuration asks for, as far as that can be by now, and stays.
    pub fn is_as_asked(&self) -> bool {
        let first = self.care.place.unwrap_or(self.care.waiting) == 0;
        first && !self.care.mending && self.error.is_none() && matches!(self.afterwards, Afterwards::Nothing)
    }

    /// Gives the running pipeline other stages; its source stays.
    pub fn change(&mut self, config: Pipeline, prepared: PreparedPipeline) {
        let (way, decisions) = way(&config, &prepared);
        self.publisher.next.push_back(way);
        let engine = prepared.made.map(|made| {
            let order = self.care.order + 1;
            self.care = Care { order, coming: Some(made.state.clone()), ..Care::new(&made) };
            made.engine
        });
        self.maker = prepared.maker;
        self.tensors = prepared.tensors;
        self.config = config;
        self.tell(Command::Stages(Box::new(NewStages { stages: prepared.stages, engine, decisions })));
        self.want_windows();
    }

    /// Frees the engine for another that needs the same device; tells `done`.
    pub fn release(&mut self, done: mpsc::Sender<()>) {
        if self.infer_ended {
            return;
        }
        self.care.release = Some(done);
        self.care.mending = true;
        self.tell(Command::Release);
    }

    /// Makes the engine anew that was freed in vain.
    pub fn take_back(&mut self) {
        if self.care.mending && self.care.failures.is_empty() {
            let refusals = std::mem::take(&mut self.care.refusals);
            self.order(self.care.place.unwrap_or(self.care.waiting), Duration::ZERO, None, None, refusals);
        }
    }

    /// Ends the pipeline: what has arrived is decided, for at most `patience`.
    pub fn end(&mut self, afterwards: Afterwards, patience: Duration) {
        self.afterwards = afterwards;
        self.stop.request();
        let (stop, wake) = (self.stop.clone(), self.wake.clone());
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            stop.overdue();
            wake.reader();
        });
    }

    /// What a pipeline of the same name goes on with.
    pub fn bequeath(self) -> Inheritance {
        let stats = self.publisher.stats;
        Inheritance {
            // Each decision was counted as one of the two.
            seq: stats.predictions.load(Ordering::Relaxed) + stats.dropped.load(Ordering::Relaxed),
            stats,
            source_stats: self.publisher.source_stats,
            progress: self.publisher.progress,
            energy: self.energy,
        }
    }

    /// A thread of this pipeline has ended; `stopping`: it was told to.
    pub fn ended(&mut self, speaker: &Speaker, ended: threads::Ended, stopping: bool) {
        let name = &self.publisher.name;
        match ended.stage {
            threads::Stage::Acquire => self.acquire_ended = true,
            threads::Stage::Infer => {
                self.infer_ended = true;
                self.control.clear();
            }
        }
        if let Some(error) = ended.error {
            let stage = if ended.stage == threads::Stage::Acquire { "source" } else { "engine" };
            tracing::error!(pipeline = name, "{stage}: {error}");
            let reason = format!("{stage}: {error}");
            self.publisher.status(speaker, PipelineState::Failed, Some(&reason));
            speaker.event("failed", Some(name), reason.clone());
            self.error.get_or_insert(reason);
        }
        if self.infer_ended && self.error.is_none() {
            let stopped = stopping || self.stop.is_requested();
            let state = if stopped { PipelineState::Stopped } else { PipelineState::Ended };
            if !stopped {
                tracing::info!(pipeline = name, "the stream has ended");
            }
            let removed = matches!(self.afterwards, Afterwards::Removed);
            self.publisher.status(speaker, state, removed.then_some("it is no longer in the configuration"));
        }
    }

    /// Hears what the infer thread tells; whether what is published of the node has changed.
    pub fn heard(&mut self, speaker: &Speaker, report: Report) -> bool {
        match report {
            Report::EngineFailed { engine, error } => {
                self.engine_failed(speaker, engine, &error);
                true
            }
            Report::Released(engine) => {
                let waiting = self.care.release.take();
                tokio::task::spawn_blocking(move || {
                    drop(engine);
                    // Whoever asked may have lost patience.
                    waiting.map(|waiting| waiting.send(()))
                });
                false
            }
            Report::Windows(windows) => {
                let refusals = std::mem::take(&mut self.care.refusals);
                self.order(self.care.waiting, Duration::ZERO, Some(windows), None, refusals);
                false
            }
            Report::Changed { engine, stages } => {
                // To free them may take long.
                tokio::task::spawn_blocking(move || drop((engine, stages)));
                let Some(state) = self.care.coming.take() else { return false };
                self.publisher.delegate = state;
                self.say_delegate(speaker);
                if let Some(failed) = self.care.failed.take() {
                    let (active, ms) = (&self.publisher.delegate.active, failed.elapsed().as_secs_f64() * 1e3);
                    tracing::info!(
                        pipeline = self.publisher.name,
                        delegate = active,
                        "an engine again after {ms:.1} ms"
                    );
                    let message = format!("{active} runs {ms:.1} ms after the failure");
                    speaker.event("recovered", Some(&self.publisher.name), message);
                }
                true
            }
        }
    }

    fn engine_failed(&mut self, speaker: &Speaker, engine: Box<dyn Engine>, error: &EngineError) {
        let name = &self.publisher.name;
        let active = &self.publisher.delegate.active;
        tracing::error!(pipeline = name, delegate = active, "{error}");
        speaker.event("engine_failed", Some(name), format!("{active}: {error}"));
        self.care.mending = true;
        self.care.failed = Some(Instant::now());
        let place = self.care.place.unwrap_or(self.care.waiting);
        self.mend(speaker, place, error.to_string(), Some(engine));
    }

    /// Orders the same delegate again, or the next one when it has failed too often.
    fn mend(&mut self, speaker: &Speaker, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = &self.maker.delegates[place];
        let now = Instant::now();
        let failures = &mut self.care.failures;
        failures.push_back(now);
        failures.retain(|failure| now - *failure <= delegate.restarts.per);
        let (count, max) = (failures.len(), delegate.restarts.max as usize);
        if count > max || !self.care.has_worked {
            let often = if count > 1 { format!("{reason}; it failed {count} times") } else { reason };
            return self.demote(speaker, place, often, old);
        }
        let doublings = u32::try_from(count.saturating_sub(2)).unwrap_or(u32::MAX).min(16);
        let delay = if count == 1 { Duration::ZERO } else { (BACKOFF * (1 << doublings)).min(BACKOFF_MAX) };
        let told = format!("{}: {reason}; it is started again ({count} of {max})", delegate.name);
        self.publisher.status(speaker, PipelineState::Degraded, Some(&told));
        let refusals = std::mem::take(&mut self.care.refusals);
        self.order(place, delay, None, old, refusals);
    }

    /// Turns to the delegate behind the one at `place`.
    fn demote(&mut self, speaker: &Speaker, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = self.maker.delegates[place].name.clone();
        self.care.refusals.push(Refusal { delegate, reason });
        self.care.failures.clear();
        self.care.has_worked = false;
        let told = reasons(&self.care.refusals).unwrap_or_default();
        if place + 1 == self.maker.delegates.len() {
            tokio::task::spawn_blocking(move || drop(old));
            self.tell(Command::GiveUp(EngineError::Refused(told)));
            return;
        }
        self.publisher.status(speaker, PipelineState::Degraded, Some(&told));
        let refusals = std::mem::take(&mut self.care.refusals);
        self.order(place + 1, Duration::ZERO, None, old, refusals);
    }

    /// Has an engine made; `old` is freed first, since a device may not let itself be opened twice.
    fn order(
        &mut self,
        place: usize,
        delay: Duration,
        windows: Option<Vec<f32>>,
        old: Option<Box<dyn Engine>>,
        refusals: Vec<Refusal>,
    ) {
        self.care.order += 1;
        let (id, order, maker, told) = (self.id, self.care.order, self.maker.clone(), self.told.clone());
        tokio::task::spawn_blocking(move || {
            drop(old);
            std::thread::sleep(delay);
            let result = match maker.make(place, windows, &refusals) {
                Err(Unmade::NoWindows) => maker.make_reference(place, &refusals).map_err(Unmade::Failed),
                result => result,
            };
            let _ = told.send(Told::Made(id, Box::new(Delivery { order, place, result, refusals })));
        });
    }

    /// An engine that was ordered has come, or has not.
    pub fn delivered(&mut self, speaker: &Speaker, delivery: Delivery) {
        let Delivery { order, place, result, refusals } = delivery;
        if order != self.care.order || self.infer_ended {
            // Freed on a thread that may block.
            tokio::task::spawn_blocking(move || drop(result));
            return;
        }
        self.care.refusals = refusals;
        let result = result.and_then(|made| match self.fits(&made) {
            Ok(()) => Ok(made),
            Err(error) => Err(Unmade::Failed(error)),
        });
        match result {
            Ok(made) => {
                self.care.place = made.place;
                self.care.waiting = made.waiting;
                self.care.has_worked = true;
                self.care.mending = false;
                self.care.coming = Some(made.state);
                self.tell(Command::Engine(made.engine));
                self.want_windows();
            }
            Err(Unmade::Disagrees(agreement)) => {
                let reason = Unmade::Disagrees(agreement).reason();
                let delegate = &self.maker.delegates[place].name;
                speaker.event("parity_refused", Some(&self.publisher.name), format!("{delegate}: {reason}"));
                self.demote(speaker, place, reason, None);
            }
            Err(unmade) => self.mend(speaker, place, unmade.reason(), None),
        }
    }

    /// The decider goes on as it is, so the outputs must be as long as before.
    fn fits(&self, made: &Made) -> Result<(), EngineError> {
        let lengths = |outputs: &[crate::engine::TensorInfo]| outputs.iter().map(|o| o.len()).collect::<Vec<_>>();
        let (ours, theirs) = (lengths(&self.tensors.outputs), lengths(&made.outputs));
        if ours == theirs {
            return Ok(());
        }
        Err(EngineError::Mismatch(format!("its outputs have {theirs:?} values where {ours:?} were before")))
    }

    fn want_windows(&self) {
        if self.care.place.is_none() {
            self.tell(Command::Windows);
        }
    }

    /// Says which delegate runs, and everything that is not as it was asked for.
    fn say_delegate(&self, speaker: &Speaker) {
        let name = &self.publisher.name;
        let DelegateState { requested, active, reason, warnings, .. } = &self.publisher.delegate;
        let state = if reason.is_some() { PipelineState::Degraded } else { PipelineState::Running };
        self.publisher.status(speaker, state, reason.as_deref());
        match reason {
            Some(reason) => {
                tracing::warn!(
                    pipeline = name,
                    requested,
                    active,
                    "another delegate runs than was asked for: {reason}"
                );
                speaker.event("fallback", Some(name), format!("{active} runs, {requested} was asked for; {reason}"));
            }
            None => tracing::info!(pipeline = name, "{}", self.publisher.delegate),
        }
        for warning in warnings {
            tracing::warn!(pipeline = name, delegate = active, "{warning}");
            speaker.event("delegate_warning", Some(name), format!("{active}: {warning}"));
        }
    }

    pub fn summary(self, wall_s: f64) -> PipelineSummary {
        let Totals { stages, end_to_end, known, right } = &self.publisher.progress.totals;
        PipelineSummary {
            counts: self.publisher.counts(),
            wall_s,
            right: *right,
            known: *known,
            invoke_us: stages.invoke.summary(),
            end_to_end_us: end_to_end.summary(),
            energy: self.energy,
            error: self.error,
            name: self.publisher.name,
        }
    }
}

/// The way of a pipeline's decisions out of its infer thread.
fn way(config: &Pipeline, prepared: &PreparedPipeline) -> (Way, FrameTx<crate::pipeline::Decision>) {
    let (decisions_tx, decisions) = frame_ring(DECISIONS, prepared.stages.decider.width());
    let way = Way {
        decisions,
        vocabulary: prepared.vocabulary(config),
        publish_scores: config.publish_scores,
        qos: if config.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
    };
    (way, decisions_tx)
}
