//! One pipeline as the async thread sees it: its publisher, and the care for its engine.
//!
//! Owns the start, the change and the end of a pipeline's threads, and what is said of its delegate. What happens when
//! an engine fails is in `care`: it is made again at once, then after growing pauses, and when it has failed too often
//! the next delegate takes over. Making blocks, so it is done on threads of its own.

mod care;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use self::care::Care;
pub use self::care::Delivery;
use super::engines::EngineMaker;
use super::health::{Figures, Watch};
use super::prepare::{PreparedPipeline, Tensors};
use super::summary::{EnergyTotal, PipelineSummary};
use super::threads::{self, Told};
use crate::config::{Pipeline, WhenBufferFull};
use crate::engine::span::SpanSender;
use crate::metrics::{Exchange, PipelineStats};
use crate::pipeline::{Command, Control, Infer, Links, NewStages, Report};
use crate::publish::outbox::Qos;
use crate::publish::payload::{DelegateState, PipelineState};
use crate::publish::publisher::{HandOver, PipelinePublisher, Progress, Speaker, Totals, Way};
use crate::ring::{FrameTx, frame_ring};
use crate::source::{self, SourceStats, Wake};
use crate::stop::Stop;
use crate::units::MonoTime;

/// Decisions that wait to be encoded; the async thread takes them off within milliseconds.
const DECISIONS: usize = 1024;

/// What the threads of every pipeline are given alike.
pub struct Shared {
    pub notify: Arc<Notify>,
    pub told: UnboundedSender<Told>,
    pub speaker: Speaker,
    pub hand_over: HandOver,
    pub once: bool,
    /// No source starts before, so that idle power can be measured.
    pub quiet_until: MonoTime,
}

/// What a pipeline that starts has from one of the same name that has ended.
pub struct Inheritance {
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
    pub labels: Vec<String>,
    pub(super) watch: Watch,
    /// Why it makes no progress, apart from what its delegate has.
    pub(super) trouble: Option<String>,
    /// Of the last interval.
    pub figures: Option<Figures>,
    control: Arc<Control>,
    told: UnboundedSender<Told>,
    care: Care,
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
            stats: Arc::default(),
            source_stats: Arc::default(),
            progress: Progress::default(),
            energy: EnergyTotal::default(),
        });
        // Each decision was counted as one of the two.
        let decided = [&inherited.stats.predictions, &inherited.stats.dropped];
        let seq = decided.into_iter().map(|count| count.load(Ordering::Relaxed)).sum();
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
            stop: stop.clone(),
            energy: inherited.energy,
            error: None,
            infer_ended: false,
            acquire_ended: false,
            afterwards: Afterwards::Nothing,
            maker: prepared.maker,
            tensors: prepared.tensors,
            labels: prepared.labels,
            watch: Watch::new(&config.source, shared.quiet_until.max(MonoTime::now())),
            trouble: None,
            figures: None,
            control,
            told: shared.told.clone(),
            care: Care::new(&made),
            config,
        };
        running.say_delegate(&shared.speaker);
        running.want_windows();
        let infer = Infer::new(links, prepared.stages, made.engine, seq);
        let realtime = running.config.realtime.clone();
        threads::infer(id, &name, infer, realtime.clone(), shared.told.clone())
            .context("cannot start the infer thread")?;
        let begin = threads::Begin { at: shared.quiet_until, stop };
        threads::acquire(id, &name, source, feed, begin, realtime, shared.told.clone())
            .context("cannot start the acquire thread")?;
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
        self.labels = prepared.labels;
        self.config = config;
        self.tell(Command::Stages(Box::new(NewStages { stages: prepared.stages, engine, decisions })));
        self.want_windows();
    }

    /// Throws its samples away, or does so no more; what is said of it.
    pub fn pause(&mut self, speaker: &Speaker, paused: bool) -> Result<String, String> {
        if self.infer_ended || self.acquire_ended || self.error.is_some() {
            return Err(format!("pipeline {} has ended", self.config.name));
        }
        if self.publisher.source_stats.paused.swap(paused, Ordering::Relaxed) == paused {
            let how = if paused { "paused already" } else { "not paused" };
            return Err(format!("pipeline {} is {how}", self.config.name));
        }
        self.say_state(speaker);
        Ok(format!("pipeline {} {}", self.config.name, if paused { "is paused" } else { "goes on" }))
    }

    /// Ends the pipeline: what has arrived is decided, for at most `patience`.
    pub fn end(&mut self, afterwards: Afterwards, patience: Duration) {
        self.afterwards = afterwards;
        self.stop.request();
        // Without an engine nothing will be decided.
        let patience = if self.care.released { Duration::ZERO } else { patience };
        let (stop, wake) = (self.stop.clone(), self.wake.clone());
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            stop.overdue();
            wake.reader();
        });
    }

    /// What a pipeline of the same name goes on with.
    pub fn bequeath(self) -> Inheritance {
        Inheritance {
            stats: self.publisher.stats,
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
            // Nobody works on what a source still gives.
            self.stop.request();
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
                // Asked for by stages that have gone since.
                if self.care.place.is_none() && !self.care.mending {
                    self.order(self.care.waiting, Duration::ZERO, Some(windows), None);
                }
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

    /// Why it is not as it should be.
    pub(super) fn reason(&self) -> Option<String> {
        let delegate = self.care.lack.as_deref().or(self.publisher.delegate.reason.as_deref());
        let reasons: Vec<&str> = delegate.into_iter().chain(self.trouble.as_deref()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Says whether it works as it should.
    pub(super) fn say_state(&self, speaker: &Speaker) {
        let reason = self.reason();
        let state = if reason.is_some() { PipelineState::Degraded } else { PipelineState::Running };
        self.publisher.status(speaker, state, reason.as_deref());
    }

    /// Says which delegate runs, and everything that is not as it was asked for.
    fn say_delegate(&self, speaker: &Speaker) {
        let name = &self.publisher.name;
        let DelegateState { requested, active, reason, warnings, .. } = &self.publisher.delegate;
        self.say_state(speaker);
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
