//! The infer thread of one pipeline: samples in, decisions out.
//!
//! Owns the order of the stages (window, features, engine, decision), the gathering of windows into batches, and the
//! measuring of each stage. Between two windows nothing is allocated, locked or logged; the only waiting is for samples,
//! and for another engine where one has failed: who makes that one is not known here. Stages change between two windows.

pub mod input;
pub mod stage_times;
pub mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use self::input::{InputEvent, InputStage, Window};
use self::stage_times::{PipelineStats, StageTimes, StageTimesMailbox};
use crate::config::Batch;
use crate::decision::{Decider, Verdict};
use crate::engine::span::{BusySpan, SpanSender};
use crate::engine::{Engine, EngineError};
use crate::features::Chain;
use crate::ring::BlockTx;
use crate::source::{FrameHeader, FrameReader, Gap};
use crate::stop::Stop;
use crate::units::{MonoTime, duration_ns};

/// What is known of one decision besides its values.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// Counts up by one for each decision; one that publish had no room for leaves a hole.
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
}

/// The writing end of the ring of decisions, with the values that go with each.
pub type DecisionTx = BlockTx<Decision, f32>;

/// What connects the infer thread with the rest.
pub struct Links {
    pub intake: FrameReader,
    pub decisions: DecisionTx,
    /// DaemonEvent of each decision.
    pub publisher: Arc<Notify>,
    /// Where no meter runs, nobody wants to know when the engine was busy.
    pub spans: Option<SpanSender>,
    pub stats: Arc<PipelineStats>,
    pub exchange: Arc<StageTimesMailbox>,
    pub stop: Arc<Stop>,
    /// The source can be held back, so that a full ring of decisions holds it back instead of dropping them.
    pub hold: bool,
    pub control: Arc<Control>,
    /// DaemonEvent of what happens outside the order of things.
    pub report: Box<dyn Fn(InferEvent) + Send>,
}

/// What the infer thread tells; what it hands back is freed by whoever hears it, for that may take long.
pub enum InferEvent {
    /// The windows that the engine had taken are counted as lost; the thread waits for another engine.
    EngineFailed { engine: Box<dyn Engine>, error: EngineError },
    /// There are other stages or another engine in their place from now on.
    Changed { engine: Option<Box<dyn Engine>>, stages: Option<Box<Stages>> },
    /// The engine that was to be given back, if there was one.
    Released(Option<Box<dyn Engine>>),
    /// The recent windows' features that were asked for, one after the other.
    Windows(Vec<f32>),
}

/// What the infer thread is told, between two windows.
pub enum InferCommand {
    Engine(Box<dyn Engine>),
    Stages(Box<NewStages>),
    Spans(Option<SpanSender>),
    /// Give the engine back, and wait for another.
    Release,
    /// InferEvent the recent windows as soon as there are as many as are kept.
    Windows,
    /// There will be no other engine.
    GiveUp(EngineError),
}

/// Stages for those of a running pipeline; the samples of the window that is being filled go over.
pub struct NewStages {
    pub stages: Stages,
    /// `None`: the one that runs goes on.
    pub engine: Option<Box<dyn Engine>>,
    pub decisions: DecisionTx,
}

/// The way to tell an infer thread something.
#[derive(Default)]
pub struct Control {
    pending: AtomicBool,
    commands: Mutex<VecDeque<InferCommand>>,
}

impl Control {
    /// Wake the thread afterwards.
    pub fn tell(&self, command: InferCommand) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.pending.store(true, Ordering::Release);
    }

    fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    fn next(&self) -> Option<InferCommand> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let command = commands.pop_front();
        self.pending.store(!commands.is_empty(), Ordering::Release);
        command
    }

    /// Frees what a thread that has ended was told too late, above all a ring that would seem to be in use for ever.
    pub fn clear(&self) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// How long a held pipeline sleeps until it looks again whether decisions were taken off its ring.
const HOLD: Duration = Duration::from_micros(500);

/// While there are more samples to work on the publisher is told of decisions this often: to wake it for each one costs
/// more than the rest of what we do beside the invoke.
const TELL_EVERY: Duration = Duration::from_millis(1);

/// How long a thread without an engine sleeps until it looks again whether it is to stop.
const WITHOUT_ENGINE: Duration = Duration::from_millis(20);

/// The stages of one pipeline but for its engine.
pub struct Stages {
    pub input: InputStage,
    pub features: Chain,
    pub decider: Box<dyn Decider>,
    pub batch: Batch,
    /// The latest windows' features, where a delegate may have to be compared on them.
    pub recent: Option<Recent>,
}

/// The features of the latest windows, as many as fit.
pub struct Recent {
    values: Vec<f32>,
    width: usize,
    /// Windows seen so far.
    seen: usize,
}

impl Recent {
    pub fn new(windows: usize, width: usize) -> Self {
        Self { values: vec![0.0; windows * width], width, seen: 0 }
    }

    fn push(&mut self, features: impl Iterator<Item = f32>) {
        let windows = self.values.len() / self.width;
        let start = self.seen % windows * self.width;
        self.values[start..start + self.width].iter_mut().zip(features).for_each(|(kept, value)| *kept = value);
        self.seen += 1;
    }

    fn is_full(&self) -> bool {
        self.seen * self.width >= self.values.len()
    }
}

/// A window that waits for its batch to go through.
#[derive(Clone, Copy)]
struct Row {
    last: FrameHeader,
    taken: MonoTime,
    filled: MonoTime,
}

/// Everything that the infer thread works with.
pub struct Infer {
    links: Links,
    stages: Stages,
    /// `None` while the thread waits for another one.
    engine: Option<Box<dyn Engine>>,
    /// The values that go with a verdict.
    values: Vec<f32>,
    /// The windows whose features are in the engine's input.
    rows: Vec<Row>,
    times: StageTimes,
    seq: u64,
    /// When the publisher was last told, and whether there was a decision since.
    told: MonoTime,
    untold: bool,
    windows_wanted: bool,
}

impl Infer {
    /// `seq` is that of the first decision.
    pub fn new(links: Links, stages: Stages, engine: Box<dyn Engine>, seq: u64) -> Self {
        Self {
            values: Vec::with_capacity(stages.decider.most_values()),
            rows: Vec::with_capacity(stages.batch.max),
            links,
            stages,
            engine: Some(engine),
            times: StageTimes::default(),
            seq,
            told: MonoTime::now(),
            untold: false,
            windows_wanted: false,
        }
    }

    /// Works until the source has ended and its last sample is used, or there is no engine any more.
    pub fn run(mut self) -> Result<(), EngineError> {
        self.links.intake.wake.reader_is_this_thread();
        let result = loop {
            // Asked before the ring is emptied: samples pushed before the end are never overlooked.
            let ended = self.links.intake.is_abandoned();
            if let Err(error) = self.apply_commands() {
                break Err(error);
            }
            self.drain();
            self.links.exchange.serve(&mut self.times);
            if self.links.stop.is_overdue() {
                break Ok(());
            }
            if ended && self.engine.is_some() {
                self.infer();
            }
            if ended && self.links.intake.is_empty() && self.rows.is_empty() {
                break Ok(());
            }
            self.sleep();
        };
        let (left, rows) = (self.links.intake.len() as u64, self.rows.len() as u64);
        self.links.stats.undecided.fetch_add(left, Ordering::Relaxed);
        self.links.stats.lost.fetch_add(rows, Ordering::Relaxed);
        self.links.exchange.finish(&mut self.times);
        // The publisher finds the ring abandoned only when it looks after that.
        drop(self.links.decisions);
        self.links.publisher.notify_one();
        result
    }

    /// Until there may be something to do.
    fn sleep(&self) {
        match self.rows.first() {
            // What wakes for a command may have been spent on something else.
            _ if self.links.control.is_pending() => {}
            _ if self.engine.is_none() => std::thread::park_timeout(WITHOUT_ENGINE),
            // Its wake-up may have been spent while this thread was held: the end of the stream is asked for again.
            _ if self.links.intake.is_abandoned() => {}
            Some(first) => {
                let due = first.taken + self.stages.batch.wait;
                std::thread::park_timeout(due.since(MonoTime::now()));
            }
            None => std::thread::park(),
        }
    }

    /// Uses all samples that have arrived, if there is an engine.
    pub fn drain(&mut self) {
        while self.engine.is_some() {
            let Some(InputEvent { gap, full }) = self.stages.input.step(&mut self.links.intake) else {
                if self.rows.first().is_some_and(|row| MonoTime::now().since(row.taken) >= self.stages.batch.wait) {
                    self.infer();
                }
                break;
            };
            if let Some(gap) = gap {
                self.gap(gap);
            }
            if let Some(last) = full {
                self.take_window(last);
                self.links.intake.room_made();
                self.links.exchange.serve(&mut self.times);
                if self.links.stop.is_overdue() || self.links.control.is_pending() {
                    return;
                }
            }
        }
        self.links.intake.room_made();
        self.tell_publisher(MonoTime::now());
    }

    /// What was before a gap has nothing to do with what comes after it.
    fn gap(&mut self, gap: Gap) {
        self.links.stats.count_gap(gap);
        self.infer();
        self.stages.decider.reset();
        self.reset_engine();
    }

    /// The model forgets the windows before.
    fn reset_engine(&mut self) {
        if let Some(engine) = &mut self.engine
            && let Err(error) = engine.reset()
        {
            self.engine_failed(error);
        }
    }

    /// Puts the full window into the batch, and the batch through the engine when it is full.
    fn take_window(&mut self, last: FrameHeader) {
        let Some(window) = self.stages.input.window() else { return };
        let taken = MonoTime::now();
        self.links.stats.windows.fetch_add(1, Ordering::Relaxed);
        // Lost in the reset that the gap before this window's only sample made.
        let Some(engine) = &mut self.engine else {
            self.links.stats.lost.fetch_add(1, Ordering::Relaxed);
            return self.stages.input.advance();
        };
        let (row, recent) = (self.rows.len(), &mut self.stages.recent);
        let filled = match window {
            Window::F32(window) => {
                let features = self.stages.features.apply(window);
                recent.iter_mut().for_each(|recent| recent.push(features.iter().copied()));
                engine.set_input(row, features)
            }
            Window::U8(window) => {
                recent.iter_mut().for_each(|recent| recent.push(window.iter().map(|byte| f32::from(*byte))));
                engine.set_input_bytes(row, window)
            }
        };
        self.stages.input.advance();
        if let Some(recent) = &mut self.stages.recent {
            if self.windows_wanted && recent.is_full() {
                self.windows_wanted = false;
                (self.links.report)(InferEvent::Windows(recent.values.clone()));
            }
        }
        self.rows.push(Row { last, taken, filled: MonoTime::now() });
        match filled {
            Err(error) => self.engine_failed(error),
            Ok(()) if self.rows.len() == self.stages.batch.max => self.infer(),
            Ok(()) => {}
        }
    }

    /// Takes the batch through the engine and decides on each of its windows, in order.
    fn infer(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        if self.rows.is_empty() {
            return;
        }
        let invoke_start = MonoTime::now();
        let invoked = engine.invoke();
        let invoke_end = MonoTime::now();
        if let Err(error) = invoked {
            return self.engine_failed(error);
        }
        let busy = invoke_end.since(invoke_start);
        if let Some(spans) = &mut self.links.spans {
            let inferences = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
            spans.send(BusySpan { start: invoke_start, end: invoke_end, busy_ns: duration_ns(busy), inferences });
        }
        for row in 0..self.rows.len() {
            let Row { last, taken, filled } = self.rows[row];
            let Some(engine) = &mut self.engine else { return };
            let mut outputs = |output: usize, values: &mut [f32]| engine.output(output, row, values);
            let verdict = self.stages.decider.decide(&mut outputs, &mut self.values);
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(error) => {
                    self.rows.drain(..row);
                    return self.engine_failed(error);
                }
            };
            self.times.source.record(taken.since(last.arrival));
            self.times.features.record(filled.since(taken));
            self.times.invoke.record(busy);
            self.decided(Decision {
                seq: self.seq,
                verdict,
                truth: last.truth,
                stream_ns: last.stream_ns,
                arrival: last.arrival,
                invoke_start,
                invoke_end,
            });
        }
        self.rows.clear();
    }

    /// Hands a decision and the values beside it to the publisher.
    fn decided(&mut self, decision: Decision) {
        self.seq += 1;
        while self.links.hold && self.links.decisions.is_full(self.values.len()) && !self.links.stop.is_overdue() {
            self.links.publisher.notify_one();
            // Held, but alive.
            self.links.exchange.serve(&mut self.times);
            std::thread::park_timeout(HOLD);
        }
        let stats = &self.links.stats;
        if self.links.decisions.push(decision, &self.values) {
            stats.predictions.fetch_add(1, Ordering::Relaxed);
            self.untold = true;
            if decision.invoke_end.since(self.told) >= TELL_EVERY {
                self.tell_publisher(decision.invoke_end);
            }
        } else {
            stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The windows in the engine are lost with it.
    fn engine_failed(&mut self, error: EngineError) {
        self.links.stats.lost.fetch_add(self.rows.len() as u64, Ordering::Relaxed);
        self.rows.clear();
        if let Some(engine) = self.engine.take() {
            (self.links.report)(InferEvent::EngineFailed { engine, error });
        }
    }

    /// Does what it was told since it last looked; an error is that there will be no engine.
    fn apply_commands(&mut self) -> Result<(), EngineError> {
        while self.links.control.is_pending() {
            let Some(command) = self.links.control.next() else { break };
            self.infer();
            match command {
                InferCommand::Engine(engine) => {
                    let engine = self.engine.replace(engine);
                    (self.links.report)(InferEvent::Changed { engine, stages: None });
                }
                InferCommand::Stages(new) => self.change(*new),
                InferCommand::Spans(spans) => self.links.spans = spans,
                InferCommand::Release => (self.links.report)(InferEvent::Released(self.engine.take())),
                InferCommand::Windows => match &self.stages.recent {
                    Some(recent) if recent.is_full() => (self.links.report)(InferEvent::Windows(recent.values.clone())),
                    recent => self.windows_wanted = recent.is_some(),
                },
                InferCommand::GiveUp(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn change(&mut self, new: NewStages) {
        let NewStages { mut stages, engine, decisions } = new;
        stages.input.continue_from(&self.stages.input);
        self.values = Vec::with_capacity(stages.decider.most_values());
        self.rows = Vec::with_capacity(stages.batch.max);
        self.windows_wanted = false;
        let stages = std::mem::replace(&mut self.stages, stages);
        let engine = match engine {
            Some(engine) => self.engine.replace(engine),
            None => {
                self.reset_engine();
                None
            }
        };
        // The publisher goes on to the new ring when it finds this one abandoned and empty.
        self.links.decisions = decisions;
        self.links.publisher.notify_one();
        (self.links.report)(InferEvent::Changed { engine, stages: Some(Box::new(stages)) });
    }

    fn tell_publisher(&mut self, now: MonoTime) {
        if std::mem::take(&mut self.untold) {
            self.told = now;
            self.links.publisher.notify_one();
        }
    }
}
