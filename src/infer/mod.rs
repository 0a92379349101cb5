//! The infer thread of one pipeline: samples in, decisions out.
//!
//! Owns the order of the stages (gate, window, features, engine, decision), the gathering of windows into batches, and the
//! timing of each stage. Between two windows it does not allocate, lock or log. It waits only for samples, and for
//! another engine after one has failed; the daemon's supervisor builds that engine. Stages change between two windows.

mod batch;
pub mod chained;
pub mod doubts;
mod gated;
pub mod input;
pub mod mailbox;
mod recent;
mod saturation;
pub mod stage_times;
pub mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

pub use self::batch::Batch;
use self::batch::{PendingBatch, PendingWindow};
pub use self::chained::ChainCut;
pub use self::gated::{GateState, GateStats};
use self::input::{GateSeen, InputEvent, InputStage, WhichWindow, Window};
use self::mailbox::{InferCommand, InferEvent, InferMailbox, NewStages};
pub use self::recent::RecentWindows;
pub use self::saturation::Saturation;
use self::stage_times::{PipelineStats, StageTimes, StageTimesMailbox};
use crate::decision::{Decider, EngineOutputs, Verdict};
use crate::engine::span::{BusySpan, SpanSender};
use crate::engine::{Engine, EngineError};
use crate::features::Chain;
use crate::ring::BlockTx;
use crate::source::{FrameReader, Gap};
use crate::stop::Stop;
use crate::units::MonoTime;

/// One decision, without its values.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// Counts up by one for each decision that is for publishing; a decision that publish had no room for leaves a gap.
    pub seq: u64,
    pub verdict: Verdict,
    /// Index of the true class of the window's last sample among the labels.
    pub truth: Option<u16>,
    /// The stream's own time of the last sample.
    pub stream_ns: Option<i64>,
    /// When the last sample arrived.
    pub arrival: MonoTime,
    pub invoke_start: MonoTime,
    pub invoke_end: MonoTime,
    /// Windows that went through the model together.
    pub batch: u32,
}

/// The writing end of the ring of decisions, with the values that go with each.
pub type DecisionTx = BlockTx<Decision, f32>;

/// Everything that connects the infer thread with other threads.
pub struct InferChannels {
    pub samples: FrameReader,
    pub decisions: DecisionTx,
    /// Notified when there are new decisions.
    pub publisher: Arc<Notify>,
    /// Receives when the engine was busy; `None` if there is no meter.
    pub spans: Option<SpanSender>,
    pub stats: Arc<PipelineStats>,
    pub stage_times: Arc<StageTimesMailbox>,
    pub stop: Arc<Stop>,
    /// The source can be held back: a full ring of decisions holds it back instead of dropping decisions.
    pub hold: bool,
    pub mailbox: Arc<InferMailbox>,
    /// Sends an event to the daemon's async thread.
    pub send_event: Box<dyn Fn(InferEvent) + Send>,
}

/// How long a held pipeline sleeps before it checks again whether its ring of decisions has room.
const HOLD: Duration = Duration::from_micros(500);

/// While more samples wait, the publisher is notified of decisions this often. To wake it for each decision would cost
/// more than all other work besides the invoke.
const NOTIFY_EVERY: Duration = Duration::from_millis(1);

/// How long a thread without an engine sleeps before it checks again whether it must stop.
const WITHOUT_ENGINE: Duration = Duration::from_millis(20);

/// The stages of one pipeline, without its engine.
pub struct Stages {
    pub input: InputStage,
    pub features: Chain,
    pub decider: Box<dyn Decider>,
    pub batch: Batch,
    /// Only verdicts with a class are for publishing.
    pub events_only: bool,
    /// The features of the latest windows, if a delegate may have to be compared on them.
    pub recent: Option<RecentWindows>,
}

/// The infer thread's state.
pub struct Infer {
    channels: InferChannels,
    stages: Stages,
    /// `None` while the thread waits for another one.
    engine: Option<Box<dyn Engine>>,
    /// The values that go with a verdict.
    values: Vec<f32>,
    /// The windows whose features are in the engine's input.
    batch: PendingBatch,
    times: StageTimes,
    /// Time in models of the chain since the last decision.
    models_busy: Duration,
    seq: u64,
    publisher_notified_at: MonoTime,
    /// There was a decision since the publisher was last notified.
    has_unpublished: bool,
    windows_requested: bool,
    /// A model of the chain has failed, which ends the thread.
    chain_failed: Option<EngineError>,
}

impl Infer {
    /// `seq` is the number of the first decision.
    pub fn new(channels: InferChannels, stages: Stages, engine: Box<dyn Engine>, seq: u64) -> Self {
        Self {
            values: Vec::with_capacity(stages.decider.most_values()),
            batch: PendingBatch::new(stages.batch, stages.decider.features_wanted()),
            channels,
            stages,
            engine: Some(engine),
            times: StageTimes::default(),
            models_busy: Duration::ZERO,
            seq,
            publisher_notified_at: MonoTime::now(),
            has_unpublished: false,
            windows_requested: false,
            chain_failed: None,
        }
    }

    /// Runs until the source has ended and its last sample is used.
    ///
    /// # Errors
    /// The engine has failed and there will be no other.
    pub fn run(mut self) -> Result<(), EngineError> {
        self.channels.samples.wake.reader_is_this_thread();
        let result = loop {
            // Check before the ring is emptied: samples that were pushed before the end are never missed.
            let ended = self.channels.samples.is_abandoned();
            if let Err(error) = self.apply_commands() {
                break Err(error);
            }
            self.drain();
            if let Some(error) = self.chain_failed.take() {
                break Err(error);
            }
            self.channels.stage_times.serve(&mut self.times);
            if self.channels.stop.is_overdue() {
                break Ok(());
            }
            if ended && self.engine.is_some() {
                self.infer();
            }
            if ended && self.channels.samples.is_empty() && self.stages.input.is_empty() && self.batch.is_empty() {
                break Ok(());
            }
            self.sleep();
        };
        self.forget_kept();
        let (samples, windows) = (self.channels.samples.len() as u64, self.batch.len() as u64);
        self.channels.stats.undecided.fetch_add(samples, Ordering::Relaxed);
        self.channels.stats.lost.fetch_add(windows, Ordering::Relaxed);
        self.channels.stage_times.finish(&mut self.times);
        // Drop first, notify second: the publisher must find the ring abandoned when it wakes.
        drop(self.channels.decisions);
        self.channels.publisher.notify_one();
        result
    }

    /// Sleeps until there may be something to do.
    fn sleep(&self) {
        match self.batch.due() {
            // The wake-up that came with the command may already have ended another sleep.
            _ if self.channels.mailbox.is_pending() => {}
            _ if self.engine.is_none() => std::thread::park_timeout(WITHOUT_ENGINE),
            // The wake-up at the end of the stream may have come while this thread was held: check for the end again.
            _ if self.channels.samples.is_abandoned() => {}
            _ if self.channels.samples.want(self.stages.input.frames_wanted()) => {}
            Some(due) => std::thread::park_timeout(due.since(MonoTime::now())),
            None => std::thread::park(),
        }
    }

    /// Processes all samples that have arrived, if there is an engine.
    pub fn drain(&mut self) {
        while self.engine.is_some() {
            let InputEvent { gap, gate, full } = match self.step() {
                Ok(Some(event)) => event,
                Ok(None) => {
                    if self.batch.due().is_some_and(|due| MonoTime::now() >= due) {
                        self.infer();
                    }
                    break;
                }
                Err(error) => {
                    self.chain_failed = Some(error);
                    return;
                }
            };
            if let Some(gap) = gap {
                self.gap(gap);
            }
            if let Some(seen) = gate {
                self.gate_seen(seen);
            }
            if full {
                self.take_window();
                self.channels.samples.room_made();
                self.channels.stage_times.serve(&mut self.times);
                if self.channels.stop.is_overdue() || self.channels.mailbox.is_pending() {
                    return;
                }
            }
        }
        self.channels.samples.room_made();
        self.notify_publisher(MonoTime::now());
    }

    /// Takes frames of the source, which runs the models of the chain.
    fn step(&mut self) -> Result<Option<InputEvent>, EngineError> {
        if !self.stages.input.has_chain() {
            return self.stages.input.step(&mut self.channels.samples);
        }
        if let Some(spans) = &self.channels.spans {
            spans.started(MonoTime::now());
        }
        let event = self.stages.input.step(&mut self.channels.samples);
        self.take_runs();
        if let Some(spans) = &self.channels.spans {
            spans.ended();
        }
        event
    }

    /// Accounts for the runs of the models of the chain.
    fn take_runs(&mut self) {
        let saturated = self.stages.input.take_saturated() as u64;
        if saturated > 0 {
            self.channels.stats.chain_saturated.fetch_add(saturated, Ordering::Relaxed);
        }
        for run in self.stages.input.runs() {
            self.models_busy += run.end.since(run.start);
            if let Some(spans) = &mut self.channels.spans {
                spans.send(run);
            }
        }
    }

    /// Starts over after a gap: what came before it says nothing about what comes after it.
    fn gap(&mut self, gap: Gap) {
        self.channels.stats.count_gap(gap);
        self.forget_kept();
        self.infer();
        self.stages.decider.reset();
        self.reset_engine();
    }

    /// Clears the state that a stateful model keeps from earlier windows.
    fn reset_engine(&mut self) {
        if let Some(engine) = &mut self.engine
            && let Err(error) = engine.reset()
        {
            self.engine_failed(error);
        }
    }

    /// Tells other threads what the gate has seen.
    fn gate_seen(&mut self, seen: GateSeen) {
        let is_change = self.channels.stats.gate.state().open != seen.open;
        if is_change {
            // What has passed the gate is decided before it is told that it is closed.
            self.infer();
        }
        self.channels.stats.gate.note(seen);
        if is_change {
            self.channels.publisher.notify_one();
        }
    }

    /// Gives the full window to the engine, or skips it if the gate is closed.
    fn take_window(&mut self) {
        self.channels.stats.windows.fetch_add(1, Ordering::Relaxed);
        if !self.stages.input.is_open() {
            let forgotten = self.stages.input.skip();
            return self.channels.stats.gate.count_skipped(usize::from(forgotten));
        }
        if self.stages.input.take_skipped() {
            self.gate_opened();
        }
        self.use_window(WhichWindow::Current);
        self.stages.input.advance();
    }

    /// Starts over, as after a gap, with the skipped windows that are kept.
    fn gate_opened(&mut self) {
        self.infer();
        self.stages.decider.reset();
        self.reset_engine();
        for index in 0..self.stages.input.kept() {
            self.use_window(WhichWindow::Kept(index));
            self.channels.stage_times.serve(&mut self.times);
        }
        self.stages.input.forget_kept();
    }

    /// Counts the windows that are kept as skipped: they will not go to the model.
    fn forget_kept(&mut self) {
        let forgotten = self.stages.input.forget_kept();
        self.channels.stats.gate.count_skipped(forgotten);
    }

    /// Puts a window into the batch, and runs the engine when the batch is full.
    fn use_window(&mut self, which: WhichWindow) {
        let Some((window, last)) = self.stages.input.chosen(which) else { return };
        let taken = MonoTime::now();
        // The engine may have failed in the reset that a gap before this window's only sample caused.
        let Some(engine) = &mut self.engine else {
            self.channels.stats.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.channels.stats.filled.fetch_add(1, Ordering::Relaxed);
        let (row, recent) = (self.batch.len(), &mut self.stages.recent);
        let filled = match window {
            Window::F32(window) => {
                let features = self.stages.features.apply(window);
                recent.iter_mut().for_each(|recent| recent.push(features.iter().copied()));
                self.batch.keep(features.iter().copied());
                let filled = engine.set_input(row, features);
                count_saturated(&self.channels.stats, &filled, features.iter().copied());
                filled
            }
            Window::U8(window) => {
                recent.iter_mut().for_each(|recent| recent.push(window.iter().map(|byte| f32::from(*byte))));
                self.batch.keep(window.iter().map(|byte| f32::from(*byte)));
                let filled = engine.set_input_bytes(row, window);
                count_saturated(&self.channels.stats, &filled, window.iter().map(|byte| f32::from(*byte)));
                filled
            }
        };
        if let Some(recent) = recent
            && self.windows_requested
            && recent.is_full()
        {
            self.windows_requested = false;
            (self.channels.send_event)(InferEvent::Windows(recent.values().to_vec()));
        }
        self.batch.push(PendingWindow { last, taken, filled: MonoTime::now() });
        match filled {
            Err(error) => self.engine_failed(error),
            Ok(_) if self.batch.is_full() => self.infer(),
            Ok(_) => {}
        }
    }

    /// Runs the engine on the batch and decides on each of its windows, in order.
    fn infer(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        if self.batch.is_empty() {
            return;
        }
        let invoke_start = MonoTime::now();
        if let Some(spans) = &self.channels.spans {
            spans.started(invoke_start);
        }
        let invoked = engine.invoke();
        let invoke_end = MonoTime::now();
        let busy = invoke_end.since(invoke_start);
        let inferences = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        if let Some(spans) = &mut self.channels.spans {
            if invoked.is_ok() {
                spans.send(BusySpan::of(engine.as_ref(), [invoke_start, invoke_end], inferences));
            }
            spans.ended();
        }
        if let Err(error) = invoked {
            return self.engine_failed(error);
        }
        for row in 0..self.batch.len() {
            let PendingWindow { last, taken, filled } = self.batch.window(row);
            let Some(engine) = &mut self.engine else { return };
            let mut outputs = EngineOutputs {
                engine: engine.as_mut(),
                row,
                features: self.batch.features(row),
                time_ns: last.time_ns(),
            };
            let verdict = self.stages.decider.decide(&mut outputs, &mut self.values);
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(error) => {
                    self.batch.remove_first(row);
                    return self.engine_failed(error);
                }
            };
            if let Some(fault) = verdict.fault {
                self.channels.stats.count_fault(fault);
            }
            self.times.source.record(taken.since(last.arrival));
            let models = std::mem::take(&mut self.models_busy);
            if !models.is_zero() {
                self.times.models.record(models);
            }
            self.times.features.record(filled.since(taken));
            self.times.invoke.record(busy);
            self.times.invoke_per_window.record(busy / inferences);
            self.decided(Decision {
                seq: self.seq,
                verdict,
                truth: last.truth,
                stream_ns: last.stream_ns,
                arrival: last.arrival,
                invoke_start,
                invoke_end,
                batch: inferences,
            });
        }
        self.batch.clear();
    }

    /// Hands a decision and its values to the publisher, if it is for publishing.
    fn decided(&mut self, decision: Decision) {
        if self.stages.events_only && decision.verdict.class.is_none() {
            return self.channels.stats.count_unpublished(decision.invoke_end);
        }
        self.seq += 1;
        while self.channels.hold
            && self.channels.decisions.is_full(self.values.len())
            && !self.channels.stop.is_overdue()
        {
            self.channels.publisher.notify_one();
            // The supervisor must see that this thread is alive while it is held.
            self.channels.stage_times.serve(&mut self.times);
            std::thread::park_timeout(HOLD);
        }
        let stats = &self.channels.stats;
        if self.channels.decisions.push(decision, &self.values) {
            stats.predictions.fetch_add(1, Ordering::Relaxed);
            self.has_unpublished = true;
            if decision.invoke_end.since(self.publisher_notified_at) >= NOTIFY_EVERY {
                self.notify_publisher(decision.invoke_end);
            }
        } else {
            stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives the failed engine up; the windows in it are lost and counted.
    fn engine_failed(&mut self, error: EngineError) {
        self.channels.stats.lost.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        self.batch.clear();
        if let Some(engine) = self.engine.take() {
            (self.channels.send_event)(InferEvent::EngineFailed { engine, error });
        }
    }

    /// Carries out the commands that have arrived.
    ///
    /// # Errors
    /// The engine's error where the command is to give up: there will be no other engine.
    fn apply_commands(&mut self) -> Result<(), EngineError> {
        while self.channels.mailbox.is_pending() {
            let Some(command) = self.channels.mailbox.next() else { break };
            self.infer();
            match command {
                InferCommand::Engine(engine) => {
                    let engine = self.engine.replace(engine);
                    (self.channels.send_event)(InferEvent::Changed { engine, stages: None });
                }
                InferCommand::Stages(new) => self.change_stages(*new),
                InferCommand::Spans(spans) => self.channels.spans = spans,
                InferCommand::Release => (self.channels.send_event)(InferEvent::Released(self.engine.take())),
                InferCommand::Windows => match &self.stages.recent {
                    Some(recent) if recent.is_full() => {
                        (self.channels.send_event)(InferEvent::Windows(recent.values().to_vec()))
                    }
                    recent => self.windows_requested = recent.is_some(),
                },
                InferCommand::GiveUp(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn change_stages(&mut self, new: NewStages) {
        let NewStages { mut stages, engine, decisions } = new;
        self.forget_kept();
        stages.input.continue_from(&self.stages.input);
        self.channels.stats.gate.restart(stages.input.is_open());
        self.values = Vec::with_capacity(stages.decider.most_values());
        self.batch = PendingBatch::new(stages.batch, stages.decider.features_wanted());
        self.windows_requested = false;
        let stages = std::mem::replace(&mut self.stages, stages);
        let engine = match engine {
            Some(engine) => self.engine.replace(engine),
            None => {
                self.reset_engine();
                None
            }
        };
        // The publisher changes to the new ring when it finds the old one abandoned and empty.
        self.channels.decisions = decisions;
        self.channels.publisher.notify_one();
        (self.channels.send_event)(InferEvent::Changed { engine, stages: Some(Box::new(stages)) });
    }

    fn notify_publisher(&mut self, now: MonoTime) {
        if std::mem::take(&mut self.has_unpublished) {
            self.publisher_notified_at = now;
            self.channels.publisher.notify_one();
        }
    }
}

/// Counts the values of a window that did not fit into the engine's input.
fn count_saturated(stats: &PipelineStats, filled: &Result<usize, EngineError>, window: impl Iterator<Item = f32>) {
    if let Ok(outside @ 1..) = filled {
        stats.saturation.add(*outside, window);
    }
}
