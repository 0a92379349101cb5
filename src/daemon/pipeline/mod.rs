//! One pipeline as the async thread sees it.
//!
//! Owns the change and the end of a pipeline's threads, and its published status. Leaves the start to `start`, its engine to
//! `supervisor`, what counts as progress to `progress`, and why there is none to `stall`. Runs on the async thread.

mod figures;
mod gate;
mod progress;
mod stall;
mod start;
mod supervisor;
pub(crate) mod threads;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use self::figures::IntervalFigures;
use self::gate::GateWatch;
use self::progress::ProgressWatch;
use self::stall::{Counts, Stall, without_prediction};
pub(crate) use self::start::{CarriedOver, PipelineContext, Replacement};
use self::start::{doubts, route};
use self::supervisor::{EngineSupervisor, StatusUpdate, discard};
use super::event::{EngineReady, Stage, ThreadEnd};
use super::health::PipelineHealth;
use super::summary::{EnergyTotal, PipelineSummary};
use crate::config::Pipeline;
use crate::decision::ScoreMeaning;
use crate::energy::{EnergyEstimate, SavedEnergy, Savings};
use crate::engine::span::SpanSender;
use crate::ids::PipelineId;
use crate::infer::doubts::{DoubtCounts, Doubts};
use crate::infer::mailbox::{InferCommand, InferEvent, InferSender, NewStages};
use crate::infer::stage_times::{StageTimes, StageTimesMailbox};
use crate::load::engines::EngineBuilder;
use crate::load::{RunningEngine, Tensors};
use crate::measure::calibrations::EngineIdentity;
use crate::publish::payload::{DelegateState, PipelineState};
use crate::publish::publisher::{
    Condition, Drained, GateReport, IntervalReport, NodeFigures, NodePublisher, PipelinePublisher, Totals,
};
use crate::source::{Gap, Wake};
use crate::stop::Stop;
use crate::units::MonoTime;

/// How long the daemon may take to end a process that is past its deadline.
const AFTER_DEADLINE: Duration = Duration::from_secs(2);

/// What a reload does once a pipeline has ended.
pub(crate) enum AfterEnd {
    /// Nothing: the pipeline is kept for its figures.
    Keep,
    /// Remove it: it is no longer in the configuration.
    Remove,
    /// Start this one in its place.
    Replace(Box<Replacement>),
}

/// A pipeline that runs, or that has ended and is kept for its figures.
pub(crate) struct PipelineHandle {
    pub id: PipelineId,
    pub config: Pipeline,
    pub after_end: AfterEnd,
    labels: Vec<String>,
    notes: Vec<String>,
    publisher: PipelinePublisher,
    supervisor: EngineSupervisor,
    infer: InferSender,
    stage_times: Arc<StageTimesMailbox>,
    wake: Arc<Wake>,
    stop: Arc<Stop>,
    energy: EnergyTotal,
    /// The engine whose energy is known.
    engine: EngineIdentity,
    /// What its gate has saved so far, and as it was last published.
    savings: Savings,
    saved: Vec<SavedEnergy>,
    gate: GateWatch,
    /// Why its gate has let no window pass in the whole stream.
    never_opened: Option<String>,
    acquire_ended: bool,
    infer_ended: bool,
    /// Why it has failed.
    error: Option<String>,
    /// Why it has ended without a prediction.
    nothing_predicted: Option<String>,
    watch: ProgressWatch,
    /// Why it makes no progress, and in words.
    stalled: Option<(Stall, String)>,
    doubts: Doubts,
    /// Why its decisions are not to be trusted.
    doubt: Option<String>,
    /// Why predictions do not reach the broker although it is connected.
    dropped: Option<String>,
    last_interval: Option<IntervalFigures>,
}

impl PipelineHandle {
    pub(crate) fn name(&self) -> &str {
        &self.publisher.name
    }

    /// Returns the delegate that runs, and what is known of it.
    pub(crate) fn delegate(&self) -> &DelegateState {
        &self.publisher.delegate
    }

    pub(crate) fn builder(&self) -> &EngineBuilder {
        self.supervisor.builder()
    }

    pub(crate) fn tensors(&self) -> &Tensors {
        self.supervisor.tensors()
    }

    pub(crate) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns what was read for it, and from where.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns what its scores are taken for, if it decides on scores.
    pub(crate) fn scores(&self) -> Option<&ScoreMeaning> {
        self.doubts.scores()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Returns whether its infer thread has ended, so that it takes no more samples.
    pub(crate) fn infer_has_ended(&self) -> bool {
        self.infer_ended
    }

    /// Returns whether all its decisions are published and none will follow.
    pub(crate) fn has_ended(&self) -> bool {
        self.infer_ended && self.publisher.has_ended()
    }

    /// Returns whether it has ended for a reload, and its source can be opened again.
    pub(crate) fn is_to_be_reaped(&self) -> bool {
        self.has_ended() && self.acquire_ended && !matches!(self.after_end, AfterEnd::Keep)
    }

    /// Returns its engine for a reload to keep, if it is the one that the configuration asks for and will stay.
    pub(crate) fn running_engine(&self, release: Box<dyn Fn() + Send>) -> Option<RunningEngine> {
        let stays = self.error.is_none() && matches!(self.after_end, AfterEnd::Keep);
        (stays && self.supervisor.is_as_configured()).then(|| RunningEngine {
            config: self.config.clone(),
            ended: self.infer_ended,
            labels: self.labels.clone(),
            builder: self.supervisor.builder().clone(),
            tensors: self.supervisor.tensors().clone(),
            release,
        })
    }

    /// Sends busy spans to a meter thread that has started again.
    pub(crate) fn send_spans_to(&self, spans: Option<SpanSender>) {
        self.infer.send(InferCommand::Spans(spans));
    }

    /// Gives the running pipeline new stages; its source continues.
    pub(crate) fn change_stages(&mut self, Replacement { config, prepared }: Replacement) {
        let (route, decisions) = route(&config, &prepared);
        self.publisher.add_route(route);
        self.doubts = doubts(&config, &prepared, &self.publisher.stats);
        for warning in &prepared.warnings {
            tracing::warn!(pipeline = config.name, "{warning}");
        }
        if let Some(scores) = self.scores() {
            tracing::info!(pipeline = config.name, "{scores}");
        }
        self.supervisor.replace(prepared.builder, prepared.tensors, prepared.built.as_ref());
        self.labels = prepared.labels;
        self.notes = prepared.notes;
        self.config = config;
        self.watch.set_window(&self.config);
        let engine = prepared.built.map(|built| built.engine);
        self.infer.send(InferCommand::Stages(Box::new(NewStages { stages: prepared.stages, engine, decisions })));
        self.supervisor.request_windows();
    }

    /// Discards the samples of the source, or uses them again. Returns the answer for whoever asked.
    pub(crate) fn set_paused(&mut self, node_publisher: &NodePublisher, paused: bool) -> Result<String, String> {
        let name = &self.config.name;
        if self.infer_ended || self.acquire_ended || self.error.is_some() {
            return Err(format!("pipeline {name} has ended"));
        }
        if !self.publisher.set_paused(paused) {
            return Err(format!("pipeline {name} is {}", if paused { "paused already" } else { "not paused" }));
        }
        self.publish_status(node_publisher);
        Ok(format!("pipeline {name} is {}", if paused { "paused" } else { "resumed" }))
    }

    /// Stops the source; what has arrived is decided.
    pub(crate) fn request_stop(&self) {
        self.stop.request();
    }

    /// Has the samples that are still undecided given up.
    pub(crate) fn give_up_samples(&self) {
        self.stop.overdue();
        self.wake.reader();
    }

    /// Ends the pipeline: what has arrived is decided, for at most `patience`.
    pub(crate) fn end(&mut self, after_end: AfterEnd, patience: Duration) {
        self.after_end = after_end;
        self.stop.request();
        // Without an engine there is nothing to wait for.
        let patience = if self.supervisor.is_released() { Duration::ZERO } else { patience };
        let (stop, wake) = (self.stop.clone(), self.wake.clone());
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            stop.overdue();
            wake.reader();
        });
    }

    /// Returns what a pipeline of the same name continues.
    pub(crate) fn carry_over(self) -> CarriedOver {
        CarriedOver { publisher: self.publisher.into_history(), energy: self.energy, savings: self.savings }
    }

    /// A thread of this pipeline has ended; `stopping`: the daemon has stopped it.
    pub(crate) fn thread_ended(&mut self, node_publisher: &NodePublisher, end: ThreadEnd, stopping: bool) {
        let name = &self.publisher.name;
        let stage = match end.stage {
            Stage::Acquire => {
                self.acquire_ended = true;
                "source"
            }
            Stage::Infer => {
                self.infer_ended = true;
                self.infer.clear();
                "engine"
            }
        };
        if let Some(error) = end.error {
            // What the source still gives would not be used.
            self.stop.request();
            let reason = format!("{stage}: {error}");
            tracing::error!(pipeline = name, "{reason}");
            node_publisher.event("failed", Some(name), reason.clone());
            self.error.get_or_insert(reason.clone());
            self.publisher.status(node_publisher, self.condition(), Some(&reason));
        }
        // The source's thread can end after it, which changes nothing.
        if matches!(end.stage, Stage::Infer) && self.error.is_none() {
            self.check_doubts(node_publisher, true, MonoTime::now());
            let name = &self.publisher.name;
            let stopped = stopping || self.stop.is_requested();
            let state = if stopped { PipelineState::Stopped } else { PipelineState::Ended };
            let condition = Condition { state, predicting: false, gate: self.gate_state() };
            let never_opened = self.never_opened().filter(|_| !stopped);
            if let Some(reason) = never_opened {
                tracing::warn!(pipeline = name, "the stream has ended without a prediction: {reason}");
                self.never_opened = Some(reason);
            } else if !stopped && self.publisher.prediction_count() == 0 {
                let remarks = self.publisher.source_stats.remarks();
                let samples = self.config.frames_of_first_window();
                let reason = without_prediction(progress_counts(&self.publisher), &remarks, samples);
                tracing::warn!(pipeline = name, "the stream has ended without a prediction: {reason}");
                self.nothing_predicted = Some(reason);
            } else if !stopped {
                tracing::info!(pipeline = name, "the stream has ended");
            }
            let removed = matches!(self.after_end, AfterEnd::Remove).then_some("it is no longer in the configuration");
            let reason = removed.map(str::to_owned).or_else(|| self.why_ended());
            self.publisher.status(node_publisher, condition, reason.as_deref());
        }
    }

    /// Reacts to an event of the infer thread. Returns whether the node's published info has changed.
    pub(crate) fn infer_event(&mut self, node_publisher: &NodePublisher, event: InferEvent) -> bool {
        match event {
            InferEvent::EngineFailed { engine, error } => {
                let active = &self.publisher.delegate.active;
                let update = self.supervisor.engine_failed(node_publisher, active, engine, &error);
                self.publish_if_needed(node_publisher, update);
                true
            }
            InferEvent::Released(engine) => {
                self.supervisor.released(engine);
                false
            }
            InferEvent::Windows(windows) => {
                self.supervisor.windows_received(windows);
                false
            }
            InferEvent::Changed { engine, stages } => {
                // To free them may take long.
                tokio::task::spawn_blocking(move || drop((engine, stages)));
                let Some(switch) = self.supervisor.take_switch() else { return false };
                let engine = EngineIdentity::new(self.supervisor.builder(), &switch.state);
                if engine != self.engine {
                    self.savings.engine_changed(self.publisher.stats.gate.skipped(), MonoTime::now());
                    self.engine = engine;
                }
                self.publisher.delegate = switch.state;
                self.publish_delegate(node_publisher);
                if let Some(failed_at) = switch.failed_at {
                    let (name, active) = (&self.publisher.name, &self.publisher.delegate.active);
                    let ms = failed_at.elapsed().as_secs_f64() * 1e3;
                    tracing::info!(pipeline = name, delegate = active, "engine restarted after {ms:.1} ms");
                    let message = format!("{active} runs {ms:.1} ms after the failure");
                    node_publisher.event("recovered", Some(name), message);
                }
                true
            }
        }
    }

    /// An engine that the supervisor has ordered is ready, or could not be built.
    pub(crate) fn engine_ready(&mut self, node_publisher: &NodePublisher, ready: EngineReady) {
        if self.infer_ended {
            return discard(ready.result);
        }
        let update = self.supervisor.engine_ready(node_publisher, ready);
        self.publish_if_needed(node_publisher, update);
    }

    /// Frees the engine for another that needs the same device; tells `waiter` when it is gone.
    pub(crate) fn release_engine(&mut self, waiter: mpsc::Sender<()>) {
        if !self.infer_ended {
            self.supervisor.release(waiter);
        }
    }

    /// Builds the engine again that was freed for a reload that failed.
    pub(crate) fn take_engine_back(&mut self) {
        self.supervisor.take_back();
    }

    /// Checks whether the pipeline makes progress, and publishes a change. Returns what hangs if an inference has taken
    /// longer than `limit` and than its delegate's process may take: that does not recover by itself.
    pub(crate) fn check_progress(
        &mut self,
        node_publisher: &NodePublisher,
        now: MonoTime,
        limit: Duration,
    ) -> Option<String> {
        if self.infer_ended {
            return None;
        }
        let limit = self.supervisor.deadline().map_or(limit, |deadline| limit.max(deadline + AFTER_DEADLINE));
        let answered = self.stage_times.is_served();
        let overdue = self.watch.note_answer(answered, now);
        let counts = progress_counts(&self.publisher);
        // Do not ask again while an answer is missing; it comes with the next window, or with a wake-up.
        let is_at_work = answered && self.watch.has_new_windows(&counts);
        if answered {
            self.stage_times.ask(|| ());
        }
        if !is_at_work {
            self.wake.reader();
        }
        let hung = (overdue > limit).then(|| {
            let (name, active) = (&self.publisher.name, &self.publisher.delegate.active);
            format!("pipeline {name}: an inference by {active} has not come back for {:.0} s", limit.as_secs_f64())
        });
        // An inference may also hang in a pipeline that is to end, whose status is published already.
        if self.error.is_some() || !matches!(self.after_end, AfterEnd::Keep) {
            return hung;
        }
        self.check_doubts(node_publisher, false, now);
        let excused = self.acquire_ended || self.publisher.is_paused() || self.wake.writer_waits();
        // Without an engine, no window is filled.
        if self.supervisor.reason().is_some() {
            self.watch.excuse_windows();
        }
        if let Some(contradiction) = self.watch.note_arrivals(counts, excused, now) {
            tracing::warn!(pipeline = self.publisher.name, "{contradiction}");
        }
        let stall = self.watch.note(counts, excused, now);
        let trouble = self.publisher.source_stats.remarks().trouble.filter(|_| !excused);
        let stall = hung.clone().map(Stall::Hung).or(trouble.map(Stall::Source)).or(stall);
        self.set_stalled(node_publisher, stall);
        hung
    }

    /// Publishes if there is a reason not to trust the decisions, or none any more.
    fn check_doubts(&mut self, node_publisher: &NodePublisher, ended: bool, now: MonoTime) {
        self.doubts.note(DoubtCounts::of(&self.publisher.stats), ended, now);
        let doubt = self.doubts.reason();
        if doubt == self.doubt {
            return;
        }
        self.report(node_publisher, doubt.as_ref(), "its inputs and outputs are as they should be again");
        self.doubt = doubt;
        self.publish_status(node_publisher);
    }

    /// Returns the topic of the predictions.
    pub(crate) fn prediction_topic(&self) -> &str {
        &self.publisher.topics.prediction
    }

    /// Publishes whether predictions are dropped instead of delivered, and why.
    pub(crate) fn set_dropped(&mut self, node_publisher: &NodePublisher, why: Option<String>) {
        let dropped = why.map(|why| format!("its predictions are dropped: {why}"));
        if dropped == self.dropped {
            return;
        }
        self.report(node_publisher, dropped.as_ref(), "its predictions are no longer dropped");
        self.dropped = dropped;
        self.publish_status(node_publisher);
    }

    /// Logs and publishes an event: why the pipeline is degraded, or, without a reason, in what it has recovered.
    fn report(&self, node_publisher: &NodePublisher, reason: Option<&String>, recovered: &str) {
        let name = &self.publisher.name;
        match reason {
            Some(reason) => {
                tracing::warn!(pipeline = name, "degraded: {reason}");
                node_publisher.event("degraded", Some(name), reason.clone());
            }
            None => {
                tracing::info!(pipeline = name, "{recovered}");
                node_publisher.event("recovered", Some(name), recovered.to_owned());
            }
        }
    }

    /// Publishes a change of what stalls the pipeline; other counts of the same cause are none.
    fn set_stalled(&mut self, node_publisher: &NodePublisher, stalled: Option<Stall>) {
        let is_same = match (&stalled, &self.stalled) {
            (Some(now), Some((before, _))) => now.is_like(before),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        let stalled = stalled.map(|stall| {
            let words = stall.in_words(&self.publisher.source_stats.remarks());
            (stall, words)
        });
        let name = &self.publisher.name;
        match &stalled {
            Some((_, reason)) => {
                tracing::warn!(pipeline = name, "degraded: {reason}");
                node_publisher.event("degraded", Some(name), reason.clone());
            }
            None => {
                tracing::info!(pipeline = name, "it makes progress again");
                node_publisher.event("recovered", Some(name), "it makes progress again".into());
            }
        }
        self.stalled = stalled;
        self.publish_status(node_publisher);
    }

    /// Encodes what has been decided, at most a batch. `may_hold`: the source may be held back while the broker is slow.
    pub(crate) fn publish_decisions(&mut self, node_publisher: &NodePublisher, may_hold: bool) -> Drained {
        // Before the ring is read, so that what was decided before a change is published before it.
        let gate = self.gate_state();
        let drained = self.publisher.drain(node_publisher, may_hold);
        if drained == Drained::Empty && !self.infer_ended {
            self.follow_gate(node_publisher, gate);
        }
        drained
    }

    /// Returns the stage times since the last call; waits at most `patience` for an infer thread that is inside an inference.
    pub(crate) async fn take_stage_times(&self, patience: Duration) -> StageTimes {
        let patience = if self.infer_ended { Duration::ZERO } else { patience };
        self.stage_times.take(|| self.wake.reader(), patience).await
    }

    /// Publishes the figures of an interval; `delivery` and `process` are the node's.
    pub(crate) fn publish_metrics(
        &mut self,
        node_publisher: &NodePublisher,
        interval: Duration,
        stages: &StageTimes,
        energy: &[EnergyEstimate],
        node: &NodeFigures<'_>,
    ) {
        if let Some(first) = energy.first() {
            self.energy.add(first);
        }
        self.saved = self.savings.note(self.publisher.stats.gate.skipped(), energy, MonoTime::now());
        let condition = self.condition();
        let gate = self.config.gate.as_ref().zip(condition.gate);
        let gate =
            gate.map(|(gate, state)| GateReport { name: gate.name(), kind: gate.kind(), state, saved: &self.saved });
        let report = IntervalReport { length: interval, stages, energy, condition, gate };
        let per_s = self.publisher.metrics(node_publisher, &report, node);
        self.last_interval = Some(IntervalFigures::new(per_s, energy.first()));
    }

    /// Returns what is to be said of a stream that has ended.
    fn why_ended(&self) -> Option<String> {
        let reasons: Vec<&str> = [&self.nothing_predicted, &self.never_opened, &self.doubt]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Returns why the pipeline does not work as configured.
    fn degraded(&self) -> Option<String> {
        let delegate = self.supervisor.reason().or(self.publisher.delegate.reason.as_deref());
        let stalled = self.stalled.as_ref().map(|(_, words)| words.as_str());
        let reasons = delegate.into_iter().chain(stalled).chain(self.doubt.as_deref());
        let reasons: Vec<&str> = reasons.chain(self.dropped.as_deref()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Returns the pipeline's state, and whether predictions can come.
    fn condition(&self) -> Condition {
        let state = if self.error.is_some() {
            PipelineState::Failed
        } else if self.infer_ended && self.stop.is_requested() {
            PipelineState::Stopped
        } else if self.infer_ended {
            PipelineState::Ended
        } else if self.publisher.is_paused() {
            PipelineState::Paused
        } else if self.degraded().is_some() {
            PipelineState::Degraded
        } else {
            PipelineState::Running
        };
        let at_work = matches!(state, PipelineState::Running | PipelineState::Degraded);
        let predicting = at_work && self.stalled.is_none() && self.supervisor.has_engine();
        Condition { state, predicting, gate: self.gate_state() }
    }

    /// Returns how the pipeline is, as far as it is known without asking its threads.
    pub(crate) fn health(&self, now: MonoTime) -> PipelineHealth {
        let Condition { state, .. } = self.condition();
        let reason = match state {
            PipelineState::Failed => self.error.clone(),
            PipelineState::Stopped => self.doubt.clone(),
            PipelineState::Ended => self.why_ended(),
            PipelineState::Running | PipelineState::Degraded | PipelineState::Paused => self.degraded(),
        };
        PipelineHealth {
            name: self.publisher.name.clone(),
            state,
            reason,
            delegate: Some(self.publisher.delegate.active.clone()),
            gate_open: self.gate_state().map(|gate| gate.open),
            predictions: self.publisher.prediction_count(),
            last_prediction_s: self.publisher.last_prediction().map(|at| now.since(at).as_secs_f64()),
        }
    }

    fn publish_if_needed(&self, node_publisher: &NodePublisher, update: StatusUpdate) {
        if update == StatusUpdate::Needed {
            self.publish_status(node_publisher);
        }
    }

    /// Publishes whether the pipeline works as configured.
    fn publish_status(&self, node_publisher: &NodePublisher) {
        self.publisher.status(node_publisher, self.condition(), self.degraded().as_deref());
    }

    /// Publishes which delegate runs, and everything about it that is not as configured.
    fn publish_delegate(&self, node_publisher: &NodePublisher) {
        let name = &self.publisher.name;
        let DelegateState { requested, active, reason, warnings, .. } = &self.publisher.delegate;
        self.publish_status(node_publisher);
        match reason {
            Some(reason) => {
                tracing::warn!(
                    pipeline = name,
                    requested,
                    active,
                    "another delegate runs than was asked for: {reason}"
                );
                let message = format!("{active} runs, {requested} was asked for; {reason}");
                node_publisher.event("fallback", Some(name), message);
            }
            None => tracing::info!(pipeline = name, "{}", self.publisher.delegate),
        }
        for warning in warnings {
            tracing::warn!(pipeline = name, delegate = active, "{warning}");
            node_publisher.event("delegate_warning", Some(name), format!("{active}: {warning}"));
        }
    }

    /// Returns what the pipeline has done in the whole run, which took `wall_s` seconds.
    pub(crate) fn into_summary(self, wall_s: f64) -> PipelineSummary {
        let Totals { stages, end_to_end, known, right } = self.publisher.totals();
        let gate = self.gate_summary();
        PipelineSummary {
            counts: self.publisher.counts(),
            wall_s,
            right: *right,
            known: *known,
            invoke_us: stages.invoke.summary(),
            end_to_end_us: end_to_end.summary(),
            energy: self.energy,
            gate,
            error: self.error,
            nothing_predicted: self.nothing_predicted,
            name: self.publisher.name,
        }
    }
}

/// Returns the counts that tell whether there is progress.
fn progress_counts(publisher: &PipelinePublisher) -> Counts {
    Counts {
        samples: publisher.samples_received(),
        rejected: publisher.source_stats.rejected(),
        unmatched: publisher.source_stats.unmatched.load(Ordering::Relaxed),
        while_paused: publisher.source_stats.while_paused.load(Ordering::Relaxed),
        windows: publisher.stats.windows.load(Ordering::Relaxed),
        gaps: Gap::ALL.iter().map(|gap| publisher.stats.gaps(*gap)).sum(),
        time_jumps: publisher.stats.gaps(Gap::TimeJump),
        time_back: publisher.stats.gaps(Gap::TimeBack),
        time_still: publisher.source_stats.time_still.load(Ordering::Relaxed),
    }
}

/// In a few words, for `systemctl status`.
impl fmt::Display for PipelineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.publisher.name)?;
        if let Some(error) = &self.error {
            return write!(f, "failed: {error}");
        }
        if self.infer_ended {
            return write!(f, "ended");
        }
        if self.publisher.is_paused() {
            write!(f, "paused, ")?;
        }
        if self.gate_state().is_some_and(|gate| !gate.open) {
            write!(f, "gate closed, ")?;
        }
        let active = &self.publisher.delegate.active;
        match &self.last_interval {
            Some(figures) => figures.write(f, active)?,
            None => write!(f, "by {active}")?,
        }
        self.degraded().map_or(Ok(()), |reason| write!(f, ", degraded: {reason}"))
    }
}
