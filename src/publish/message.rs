//! A message, and what it is about. Pure data.

use std::sync::Arc;

pub use bytes::Bytes;

use crate::ids::PipelineId;
pub use crate::mqtt::Qos;
use crate::units::MonoTime;

/// What a message is about; drops are counted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One decision.
    Prediction,
    /// Status, info, the latest decision: what a new subscriber wants to see at once.
    State,
    /// Periodic figures of a pipeline or a meter.
    Metrics,
    /// Something that happened: fallback, reload, drops.
    Event,
}

impl Class {
    /// Every class, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Prediction, Self::State, Self::Metrics, Self::Event];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::State => "state",
            Self::Metrics => "metrics",
            Self::Event => "event",
        }
    }
}

/// The times from which the latency of a decision is measured when its message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    pub pipeline: PipelineId,
    /// Arrival of the window's last sample.
    pub arrival: MonoTime,
    /// End of the model's invoke.
    pub invoke_end: MonoTime,
}

/// A message to be published. A clone shares topic and payload.
#[derive(Debug, Clone)]
pub struct Message {
    /// Full topic, without wildcards.
    pub topic: Arc<str>,
    /// Encoded payload.
    pub payload: Bytes,
    /// Delivery guarantee.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// What it is counted as.
    pub class: Class,
    /// Times for the latency of a decision; used when it is first sent.
    pub marks: Option<Marks>,
}

impl Message {
    /// Returns the bytes of topic and payload.
    pub fn size_bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}
