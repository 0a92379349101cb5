//! Identities of what the daemon runs. Pure data.

/// A pipeline, as long as the daemon runs: one that a reload starts gets a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId(pub u32);

impl PipelineId {
    /// Returns the id of the pipeline that is started after so many others.
    pub fn nth(started_before: usize) -> Self {
        Self(u32::try_from(started_before).unwrap_or(u32::MAX))
    }
}
