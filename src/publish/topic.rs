//! The topics of one node: `BASE/NODE/...`.

use std::sync::Arc;

/// Topics that belong to the node as a whole.
#[derive(Debug, Clone)]
pub struct NodeTopics {
    prefix: String,
    pub status: Arc<str>,
    pub info: Arc<str>,
    pub event: Arc<str>,
    pub metrics: Arc<str>,
}

/// Topics of one pipeline.
#[derive(Debug, Clone)]
pub struct PipelineTopics {
    pub status: Arc<str>,
    pub prediction: Arc<str>,
    pub state: Arc<str>,
    pub metrics: Arc<str>,
}

impl NodeTopics {
    /// Returns the topics under `BASE/NODE`.
    pub fn new(base: &str, node: &str) -> Self {
        let prefix = format!("{base}/{node}");
        let topic = |name: &str| format!("{prefix}/{name}").into();
        Self {
            status: topic("status"),
            info: topic("info"),
            event: topic("event"),
            metrics: topic("node_metrics"),
            prefix,
        }
    }

    /// Returns the topic of the info of the node with that topic of its status.
    pub fn info_beside(status: &str) -> String {
        format!("{}/info", status.strip_suffix("/status").unwrap_or(status))
    }

    /// Returns the filter for everything that the node publishes.
    pub fn filter(&self) -> String {
        format!("{}/#", self.prefix)
    }

    /// Returns the prefix of the command topics.
    pub fn commands(&self) -> String {
        format!("{}/cmd/", self.prefix)
    }

    /// Returns the topic on which `check --online` tests publishing.
    pub fn check(&self) -> Arc<str> {
        format!("{}/check", self.prefix).into()
    }

    /// Returns the topic of a meter.
    pub fn power(&self, meter: &str) -> Arc<str> {
        format!("{}/power/{meter}", self.prefix).into()
    }

    /// Returns the topics of a pipeline.
    pub fn pipeline(&self, name: &str) -> PipelineTopics {
        let topic = |kind: &str| format!("{}/p/{name}/{kind}", self.prefix).into();
        PipelineTopics {
            status: topic("status"),
            prediction: topic("prediction"),
            state: topic("state"),
            metrics: topic("metrics"),
        }
    }
}
