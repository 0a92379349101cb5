//! How a pipeline starts: its source is opened, the rings are made, and the two threads begin.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Notify;

use super::gate::GateWatch;
use super::progress::ProgressWatch;
use super::supervisor::{EngineSupervisor, Supervised};
use super::threads::ThreadContext;
use super::{AfterEnd, PipelineHandle, progress_counts};
use crate::config::Pipeline;
use crate::daemon::event::{DaemonEvent, EventSender};
use crate::daemon::summary::EnergyTotal;
use crate::energy::Savings;
use crate::engine::span::SpanSender;
use crate::ids::PipelineId;
use crate::infer::doubts::{DoubtCounts, Doubts};
use crate::infer::mailbox::{InferMailbox, InferSender};
use crate::infer::stage_times::{PipelineStats, StageTimesMailbox};
use crate::infer::{DecisionTx, Infer, InferChannels};
use crate::load::PreparedPipeline;
use crate::measure::calibrations::EngineIdentity;
use crate::mqtt::NodeConnection;
use crate::publish::message::Qos;
use crate::publish::publisher::{DecisionRoute, NodePublisher, PipelinePublisher, PublishLatency, PublisherHistory};
use crate::ring::block_ring;
use crate::source::sink::frame_ring;
use crate::source::{OpenOptions, TruthLabels, WhenFull};
use crate::stop::Stop;
use crate::sys::cpu::Children;
use crate::units::MonoTime;

/// Decisions that wait to be encoded; the async thread takes them within milliseconds.
const DECISIONS: usize = 1024;

/// What all pipelines of a daemon share.
pub(crate) struct PipelineContext {
    /// Notified when there are new decisions.
    pub decisions: Arc<Notify>,
    pub events: EventSender,
    pub node_publisher: NodePublisher,
    pub publish_latency: PublishLatency,
    pub once: bool,
    /// The processes whose processor time counts as the daemon's.
    pub children: Children,
    /// How the node connects to its broker, for sources that subscribe there.
    pub broker: NodeConnection,
    /// No source starts before, so that idle power can be measured.
    pub idle_until: MonoTime,
}

/// What a pipeline continues from an ended one of the same name.
#[derive(Default)]
pub(crate) struct CarriedOver {
    pub(super) publisher: PublisherHistory,
    pub(super) energy: EnergyTotal,
    pub(super) savings: Savings,
}

/// A pipeline that starts after another has ended.
pub(crate) struct Replacement {
    pub config: Pipeline,
    pub prepared: PreparedPipeline,
}

impl PipelineHandle {
    /// Starts the threads of a pipeline.
    pub(crate) fn start(
        id: PipelineId,
        Replacement { config, prepared }: Replacement,
        spans: Option<SpanSender>,
        carried_over: Option<CarriedOver>,
        context: &PipelineContext,
    ) -> anyhow::Result<Self> {
        let name = config.name.clone();
        for note in &prepared.notes {
            tracing::info!(pipeline = name, "{note}");
        }
        if let Some(recording) = &prepared.recording {
            tracing::debug!(pipeline = name, "{recording}");
        }
        for warning in &prepared.warnings {
            tracing::warn!(pipeline = name, "{warning}");
        }
        let CarriedOver { publisher: history, energy, mut savings } = carried_over.unwrap_or_default();
        let hold = prepared.sink.when_full == WhenFull::Wait;
        let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
        let stats = history.source_stats.clone();
        // What a recording names was looked at when it was loaded.
        let live = config.source.kind().recording().is_none();
        let labels = TruthLabels {
            labels: prepared.labels.clone(),
            pipeline: if live { name.clone() } else { String::new() },
            stats,
            found: None,
        };
        let options = OpenOptions {
            labels,
            once: context.once,
            children: context.children.clone(),
            pipeline: name.clone(),
            node: Some(context.broker.clone()),
        };
        let source = config.source.kind().open(options)?;
        let (sink, samples) = frame_ring(&prepared.sink, &name, stop.clone(), history.source_stats.clone());
        let wake = samples.wake.clone();
        let (route, decisions) = route(&config, &prepared);
        let doubts = doubts(&config, &prepared, &history.stats);
        let built = prepared.built.context("a pipeline that starts has no engine")?;
        let (stage_times, mailbox) = (Arc::<StageTimesMailbox>::default(), Arc::<InferMailbox>::default());
        let infer = InferSender::new(mailbox.clone(), wake.clone());
        let first_seq = history.decision_count();
        let events = context.events.clone();
        let channels = InferChannels {
            samples,
            decisions,
            publisher: context.decisions.clone(),
            spans,
            stats: history.stats.clone(),
            stage_times: stage_times.clone(),
            stop: stop.clone(),
            hold,
            mailbox,
            send_event: Box::new(move |event| _ = events.send(DaemonEvent::Infer(id, event))),
        };
        context.publish_latency.add(id);
        let publisher = PipelinePublisher {
            id,
            topics: context.node_publisher.topics.pipeline(&name),
            route,
            next: VecDeque::new(),
            hold,
            stats: history.stats,
            source_stats: history.source_stats,
            publish_latency: context.publish_latency.clone(),
            progress: history.progress,
            delegate: built.state.clone(),
            name: name.clone(),
        };
        let supervised =
            Supervised { pipeline: id, name: name.clone(), infer: infer.clone(), events: context.events.clone() };
        let begin = context.idle_until.max(MonoTime::now());
        // No figure of this pipeline is of an engine before.
        savings.engine_changed(publisher.stats.gate.skipped(), MonoTime::default());
        let engine = EngineIdentity::new(&prepared.builder, &built.state);
        let watch = ProgressWatch::new(&config, progress_counts(&publisher), begin);
        let handle = Self {
            id,
            after_end: AfterEnd::Keep,
            publisher,
            supervisor: EngineSupervisor::new(supervised, prepared.builder, prepared.tensors, &built),
            infer,
            stage_times,
            wake,
            stop: stop.clone(),
            energy,
            engine,
            savings,
            saved: Vec::new(),
            gate: GateWatch::default(),
            never_opened: None,
            acquire_ended: false,
            infer_ended: false,
            error: None,
            nothing_predicted: None,
            labels: prepared.labels,
            notes: prepared.notes,
            watch,
            stalled: None,
            doubts,
            doubt: None,
            dropped: None,
            last_interval: None,
            config,
        };
        if let Some(scores) = handle.scores() {
            tracing::info!(pipeline = handle.name(), "{scores}");
        }
        handle.publish_delegate(&context.node_publisher);
        handle.supervisor.request_windows();
        let realtime = handle.config.realtime.clone();
        let thread = ThreadContext { pipeline: id, name, realtime, events: context.events.clone() };
        let infer = Infer::new(channels, prepared.stages, built.engine, first_seq);
        thread.clone().spawn_infer(infer).context("cannot start the infer thread")?;
        thread.spawn_acquire(source, sink, context.idle_until, stop).context("cannot start the acquire thread")?;
        Ok(handle)
    }
}

/// Watches what these stages will count.
pub(super) fn doubts(config: &Pipeline, prepared: &PreparedPipeline, stats: &PipelineStats) -> Doubts {
    let inputs = prepared.tensors.inputs.clone();
    Doubts::new(prepared.scores.clone(), inputs, config.batch.max, DoubtCounts::of(stats))
}

/// Makes the ring for the decisions of these stages: the publisher's end with what it has to know, and the infer thread's.
pub(super) fn route(config: &Pipeline, prepared: &PreparedPipeline) -> (DecisionRoute, DecisionTx) {
    let most_values = prepared.stages.decider.most_values();
    let (sender, decisions) = block_ring(DECISIONS, DECISIONS * most_values);
    let route = DecisionRoute {
        decisions,
        presentation: prepared.presentation.clone(),
        qos: if config.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
    };
    (route, sender)
}
