//! Commands to the infer thread, and the events that it sends back.
//!
//! The async thread puts commands into the mailbox and wakes the infer thread, which carries them out between two windows.
//! An empty mailbox costs the infer thread one atomic load a window.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{DecisionTx, Stages};
use crate::engine::span::SpanSender;
use crate::engine::{Engine, EngineError};
use crate::source::Wake;

/// What the infer thread is asked to do.
pub enum InferCommand {
    /// Use this engine.
    Engine(Box<dyn Engine>),
    Stages(Box<NewStages>),
    /// Send the engine's busy spans here; `None` if there is no meter.
    Spans(Option<SpanSender>),
    /// Give the engine back, and wait for another.
    Release,
    /// Send the features of the recent windows as soon as there are enough of them.
    Windows,
    /// There will be no other engine: end with this error.
    GiveUp(EngineError),
}

/// New stages for a running pipeline; the samples of the window that is being filled are kept.
pub struct NewStages {
    pub stages: Stages,
    /// `None`: the present engine stays.
    pub engine: Option<Box<dyn Engine>>,
    pub decisions: DecisionTx,
}

/// What the infer thread reports. The receiver frees what is handed back, because that may take long.
pub enum InferEvent {
    /// The windows in the engine are counted as lost; the thread waits for another engine.
    EngineFailed { engine: Box<dyn Engine>, error: EngineError },
    /// New stages or a new engine are in use; these are the old ones.
    Changed { engine: Option<Box<dyn Engine>>, stages: Option<Box<Stages>> },
    /// The engine that had to be given back, if there was one.
    Released(Option<Box<dyn Engine>>),
    /// The features of the recent windows, one window after the other.
    Windows(Vec<f32>),
}

/// Commands that the infer thread has not yet carried out.
#[derive(Default)]
pub struct InferMailbox {
    pending: AtomicBool,
    commands: Mutex<VecDeque<InferCommand>>,
}

impl InferMailbox {
    fn push(&self, command: InferCommand) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.pending.store(true, Ordering::Release);
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    pub(super) fn next(&self) -> Option<InferCommand> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let command = commands.pop_front();
        self.pending.store(!commands.is_empty(), Ordering::Release);
        command
    }
}

/// The sending side of an infer thread's mailbox: puts a command in and wakes the thread.
#[derive(Clone)]
pub struct InferSender {
    mailbox: Arc<InferMailbox>,
    wake: Arc<Wake>,
}

impl InferSender {
    pub fn new(mailbox: Arc<InferMailbox>, wake: Arc<Wake>) -> Self {
        Self { mailbox, wake }
    }

    pub fn send(&self, command: InferCommand) {
        self.mailbox.push(command);
        self.wake.reader();
    }

    /// Frees the commands that came too late for a thread that has ended. One of them may hold a ring, whose other end
    /// would wait for it without end.
    pub fn clear(&self) {
        self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
