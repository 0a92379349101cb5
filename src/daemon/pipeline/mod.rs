//! One pipeline as the async thread sees it: its publisher, and the engine_supervisor for its engine.
//!
//! Owns the start, the change and the end of a pipeline's threads, and what is said of its delegate. What happens when
//! an engine fails is in `engine_supervisor`: it is made again at once, then after growing pauses, and when it has failed too often
//! the next delegate takes over. Making blocks, so it is done on threads of its own.

pub(crate) mod progress;
mod supervisor;
pub(crate) mod threads;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use self::progress::{Figures, Watch};
pub(crate) use self::supervisor::EngineReady;
use self::supervisor::EngineSupervisor;
use self::threads::DaemonEvent;
use super::summary::{EnergyTotal, PipelineSummary};
use crate::config::{Pipeline, WhenBufferFull};
use crate::engine::span::SpanSender;
use crate::infer::stage_times::{PipelineStats, StageTimesMailbox};
use crate::infer::{Control, Infer, InferCommand, InferEvent, Links, NewStages};
use crate::load::engines::EngineBuilder;
use crate::load::{PreparedPipeline, Tensors};
use crate::publish::outbox::Qos;
use crate::publish::payload::{DelegateState, PipelineState};
use crate::publish::publisher::{DecisionRoute, NodePublisher, PipelinePublisher, Progress, PublishLatency, Totals};
use crate::ring::{FrameTx, frame_ring};
use crate::source::{self, SourceStats, Wake};
use crate::stop::Stop;
use crate::units::MonoTime;

/// Decisions that wait to be encoded; the async thread takes them off within milliseconds.
const DECISIONS: usize = 1024;

/// What the threads of every pipeline are given alike.
pub(crate) struct Shared {
    pub notify: Arc<Notify>,
    pub told: UnboundedSender<DaemonEvent>,
    pub node_publisher: NodePublisher,
    pub publish_latency: PublishLatency,
    pub once: bool,
    /// No source starts before, so that idle power can be measured.
    pub quiet_until: MonoTime,
}

/// What a pipeline that starts has from one of the same name that has ended.
pub(crate) struct CarriedOver {
    stats: Arc<PipelineStats>,
    source_stats: Arc<SourceStats>,
    progress: Progress,
    energy: EnergyTotal,
}

/// What comes after the end of a pipeline.
pub(crate) enum Afterwards {
    Nothing,
    /// It is no longer in the configuration.
    Removed,
    /// It has another source now.
    Another(Box<(Pipeline, PreparedPipeline)>),
}

/// A pipeline that runs, or has ended and is kept for its figures.
pub(crate) struct Running {
    pub id: usize,
    pub config: Pipeline,
    pub publisher: PipelinePublisher,
    pub exchange: Arc<StageTimesMailbox>,
    pub wake: Arc<Wake>,
    pub stop: Arc<Stop>,
    pub energy: EnergyTotal,
    pub error: Option<String>,
    pub infer_ended: bool,
    /// Its source can be opened anew.
    pub acquire_ended: bool,
    pub afterwards: Afterwards,
    pub builder: Arc<EngineBuilder>,
    pub tensors: Arc<Tensors>,
    pub labels: Vec<String>,
    pub(super) watch: Watch,
    /// Why it makes no progress, apart from what its delegate has.
    pub(super) trouble: Option<String>,
    /// Of the last interval.
    pub figures: Option<Figures>,
    control: Arc<Control>,
    told: UnboundedSender<DaemonEvent>,
    engine_supervisor: EngineSupervisor,
}

impl Running {
    /// Starts the threads of a pipeline.
    pub(crate) fn start(
        id: usize,
        config: Pipeline,
        prepared: PreparedPipeline,
        spans: Option<SpanSender>,
        carried_over: Option<CarriedOver>,
        shared: &Shared,
    ) -> anyhow::Result<Self> {
        let name = config.name.clone();
        let carried_over = carried_over.unwrap_or_else(|| CarriedOver {
            stats: Arc::default(),
            source_stats: Arc::default(),
            progress: Progress::default(),
            energy: EnergyTotal::default(),
        });
        // Each decision was counted as one of the two.
        let decided = [&carried_over.stats.predictions, &carried_over.stats.dropped];
        let seq = decided.into_iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let hold = config.source.when_full == WhenBufferFull::Wait;
        let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
        let source = source::open(&config.source, prepared.labels.clone(), shared.once)?;
        let stats = carried_over.source_stats.clone();
        let (feed, intake) = source::feed(&config.source, &name, stop.clone(), stats);
        let wake = intake.wake.clone();
        let (route, decisions) = route(&config, &prepared);
        let built = prepared.built.context("a pipeline that starts has no engine")?;
        let (exchange, control) = (Arc::<StageTimesMailbox>::default(), Arc::<Control>::default());
        shared.publish_latency.add(id);
        let publisher = PipelinePublisher {
            id,
            topics: shared.node_publisher.topics.pipeline(&name),
            route,
            next: VecDeque::new(),
            hold,
            stats: carried_over.stats.clone(),
            source_stats: carried_over.source_stats,
            publish_latency: shared.publish_latency.clone(),
            progress: carried_over.progress,
            delegate: built.state.clone(),
            name: name.clone(),
        };
        let told = shared.told.clone();
        let links = Links {
            intake,
            decisions,
            publisher: shared.notify.clone(),
            spans,
            stats: carried_over.stats,
            exchange: exchange.clone(),
            stop: stop.clone(),
            hold,
            control: control.clone(),
            // Nobody listens any more only when the daemon has given up waiting.
            report: Box::new(move |report| _ = told.send(DaemonEvent::Infer(id, report))),
        };
        let running = Self {
            id,
            publisher,
            exchange,
            wake,
            stop: stop.clone(),
            energy: carried_over.energy,
            error: None,
            infer_ended: false,
            acquire_ended: false,
            afterwards: Afterwards::Nothing,
            builder: prepared.builder,
            tensors: prepared.tensors,
            labels: prepared.labels,
            watch: Watch::new(&config.source, shared.quiet_until.max(MonoTime::now())),
            trouble: None,
            figures: None,
            control,
            told: shared.told.clone(),
            engine_supervisor: EngineSupervisor::new(&built),
            config,
        };
        running.say_delegate(&shared.node_publisher);
        running.want_windows();
        let infer = Infer::new(links, prepared.stages, built.engine, seq);
        let realtime = running.config.realtime.clone();
        threads::infer(id, &name, infer, realtime.clone(), shared.told.clone())
            .context("cannot start the infer thread")?;
        let begin = threads::Begin { at: shared.quiet_until, stop };
        threads::acquire(id, &name, source, feed, begin, realtime, shared.told.clone())
            .context("cannot start the acquire thread")?;
        Ok(running)
    }

    pub(crate) fn tell(&self, command: InferCommand) {
        self.control.tell(command);
        self.wake.reader();
    }

    /// Whether the engine in use is the one that the configuration asks for, as far as that can be by now, and stays.
    pub(crate) fn is_as_asked(&self) -> bool {
        let first = self.engine_supervisor.place.unwrap_or(self.engine_supervisor.waiting) == 0;
        first
            && !self.engine_supervisor.mending
            && self.error.is_none()
            && matches!(self.afterwards, Afterwards::Nothing)
    }

    /// Gives the running pipeline other stages; its source stays.
    pub(crate) fn change(&mut self, config: Pipeline, prepared: PreparedPipeline) {
        let (route, decisions) = route(&config, &prepared);
        self.publisher.next.push_back(route);
        let engine = prepared.built.map(|built| {
            let order = self.engine_supervisor.order + 1;
            self.engine_supervisor =
                EngineSupervisor { order, coming: Some(built.state.clone()), ..EngineSupervisor::new(&built) };
            built.engine
        });
        self.builder = prepared.builder;
        self.tensors = prepared.tensors;
        self.labels = prepared.labels;
        self.config = config;
        self.tell(InferCommand::Stages(Box::new(NewStages { stages: prepared.stages, engine, decisions })));
        self.want_windows();
    }

    /// Throws its samples away, or does so no more; what is said of it.
    pub(crate) fn pause(&mut self, node_publisher: &NodePublisher, paused: bool) -> Result<String, String> {
        if self.infer_ended || self.acquire_ended || self.error.is_some() {
            return Err(format!("pipeline {} has ended", self.config.name));
        }
        if self.publisher.source_stats.paused.swap(paused, Ordering::Relaxed) == paused {
            let how = if paused { "paused already" } else { "not paused" };
            return Err(format!("pipeline {} is {how}", self.config.name));
        }
        self.say_state(node_publisher);
        Ok(format!("pipeline {} {}", self.config.name, if paused { "is paused" } else { "goes on" }))
    }

    /// Ends the pipeline: what has arrived is decided, for at most `patience`.
    pub(crate) fn end(&mut self, afterwards: Afterwards, patience: Duration) {
        self.afterwards = afterwards;
        self.stop.request();
        // Without an engine nothing will be decided.
        let patience = if self.engine_supervisor.released { Duration::ZERO } else { patience };
        let (stop, wake) = (self.stop.clone(), self.wake.clone());
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            stop.overdue();
            wake.reader();
        });
    }

    /// What a pipeline of the same name goes on with.
    pub(crate) fn carry_over(self) -> CarriedOver {
        CarriedOver {
            stats: self.publisher.stats,
            source_stats: self.publisher.source_stats,
            progress: self.publisher.progress,
            energy: self.energy,
        }
    }

    /// A thread of this pipeline has ended; `stopping`: it was told to.
    pub(crate) fn ended(&mut self, node_publisher: &NodePublisher, ended: threads::Ended, stopping: bool) {
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
            self.publisher.status(node_publisher, PipelineState::Failed, Some(&reason));
            node_publisher.event("failed", Some(name), reason.clone());
            self.error.get_or_insert(reason);
        }
        if self.infer_ended && self.error.is_none() {
            let stopped = stopping || self.stop.is_requested();
            let state = if stopped { PipelineState::Stopped } else { PipelineState::Ended };
            if !stopped {
                tracing::info!(pipeline = name, "the stream has ended");
            }
            let removed = matches!(self.afterwards, Afterwards::Removed);
            self.publisher.status(node_publisher, state, removed.then_some("it is no longer in the configuration"));
        }
    }

    /// Hears what the infer thread tells; whether what is published of the node has changed.
    pub(crate) fn heard(&mut self, node_publisher: &NodePublisher, report: InferEvent) -> bool {
        match report {
            InferEvent::EngineFailed { engine, error } => {
                self.engine_failed(node_publisher, engine, &error);
                true
            }
            InferEvent::Released(engine) => {
                let waiting = self.engine_supervisor.release.take();
                tokio::task::spawn_blocking(move || {
                    drop(engine);
                    // Whoever asked may have lost patience.
                    waiting.map(|waiting| waiting.send(()))
                });
                false
            }
            InferEvent::Windows(windows) => {
                // Asked for by stages that have gone since.
                if self.engine_supervisor.place.is_none() && !self.engine_supervisor.mending {
                    self.order(self.engine_supervisor.waiting, Duration::ZERO, Some(windows), None);
                }
                false
            }
            InferEvent::Changed { engine, stages } => {
                // To free them may take long.
                tokio::task::spawn_blocking(move || drop((engine, stages)));
                let Some(state) = self.engine_supervisor.coming.take() else { return false };
                self.publisher.delegate = state;
                self.say_delegate(node_publisher);
                if let Some(failed) = self.engine_supervisor.failed.take() {
                    let (active, ms) = (&self.publisher.delegate.active, failed.elapsed().as_secs_f64() * 1e3);
                    tracing::info!(
                        pipeline = self.publisher.name,
                        delegate = active,
                        "an engine again after {ms:.1} ms"
                    );
                    let message = format!("{active} runs {ms:.1} ms after the failure");
                    node_publisher.event("recovered", Some(&self.publisher.name), message);
                }
                true
            }
        }
    }

    /// Why it is not as it should be.
    pub(super) fn reason(&self) -> Option<String> {
        let delegate = self.engine_supervisor.lack.as_deref().or(self.publisher.delegate.reason.as_deref());
        let reasons: Vec<&str> = delegate.into_iter().chain(self.trouble.as_deref()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Says whether it works as it should.
    pub(super) fn say_state(&self, node_publisher: &NodePublisher) {
        let reason = self.reason();
        let state = if reason.is_some() { PipelineState::Degraded } else { PipelineState::Running };
        self.publisher.status(node_publisher, state, reason.as_deref());
    }

    /// Says which delegate runs, and everything that is not as it was asked for.
    fn say_delegate(&self, node_publisher: &NodePublisher) {
        let name = &self.publisher.name;
        let DelegateState { requested, active, reason, warnings, .. } = &self.publisher.delegate;
        self.say_state(node_publisher);
        match reason {
            Some(reason) => {
                tracing::warn!(
                    pipeline = name,
                    requested,
                    active,
                    "another delegate runs than was asked for: {reason}"
                );
                node_publisher.event(
                    "fallback",
                    Some(name),
                    format!("{active} runs, {requested} was asked for; {reason}"),
                );
            }
            None => tracing::info!(pipeline = name, "{}", self.publisher.delegate),
        }
        for warning in warnings {
            tracing::warn!(pipeline = name, delegate = active, "{warning}");
            node_publisher.event("delegate_warning", Some(name), format!("{active}: {warning}"));
        }
    }

    pub(crate) fn summary(self, wall_s: f64) -> PipelineSummary {
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
fn route(config: &Pipeline, prepared: &PreparedPipeline) -> (DecisionRoute, FrameTx<crate::infer::Decision>) {
    let (decisions_tx, decisions) = frame_ring(DECISIONS, prepared.stages.decider.width());
    let route = DecisionRoute {
        decisions,
        vocabulary: prepared.vocabulary(config),
        publish_scores: config.publish_scores,
        qos: if config.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
    };
    (route, decisions_tx)
}
