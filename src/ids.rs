//! Identities of what the daemon runs. Pure data.

/// Identifies a pipeline while the daemon runs. A pipeline that a reload starts gets a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId(pub u32);

impl PipelineId {
    /// Returns the id of the pipeline that is started after that many others.
    pub fn nth(started_before: usize) -> Self {
        Self(u32::try_from(started_before).unwrap_or(u32::MAX))
    }
}
