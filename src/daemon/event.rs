//! What other threads tell the async thread. A leaf: it imports neither senders nor receivers.

use std::sync::mpsc;

use tokio::sync::mpsc::UnboundedSender;

use crate::config::Config;
use crate::ids::PipelineId;
use crate::infer::mailbox::InferEvent;
use crate::load::Prepared;
use crate::load::engines::{BuildError, BuiltEngine};

/// The way to the async thread. A send fails only after the daemon has given up waiting for the sender.
pub(crate) type EventSender = UnboundedSender<DaemonEvent>;

/// Something that the async thread has to react to.
pub(crate) enum DaemonEvent {
    ThreadEnded(ThreadEnd),
    Infer(PipelineId, InferEvent),
    EngineReady(PipelineId, Box<EngineReady>),
    /// A reload needs the device of that pipeline's engine; the sender is told when the engine is gone.
    ReleaseEngine(PipelineId, mpsc::Sender<()>),
    /// Another configuration was loaded; the error says what is wrong with it.
    Reloaded(Cause, Box<Result<Reloaded, String>>),
}

/// Why another configuration is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file is to be read again.
    Reload,
    /// A pipeline is to have another delegate.
    SetDelegate { pipeline: String, delegate: String },
}

/// A thread of a pipeline that has ended.
#[derive(Debug)]
pub(crate) struct ThreadEnd {
    pub pipeline: PipelineId,
    pub stage: Stage,
    /// Why it ended early.
    pub error: Option<String>,
}

/// A thread of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Acquire,
    Infer,
}

/// The result of a build that an engine supervisor has ordered.
pub(crate) struct EngineReady {
    /// The number of the order.
    pub order: u64,
    /// The delegate's place in the pipeline's list.
    pub place: usize,
    pub result: Result<BuiltEngine, BuildError>,
}

/// Another configuration, with everything loaded that it needs.
pub(crate) struct Reloaded {
    pub config: Config,
    pub prepared: Prepared,
}
