//! Build and run: the only module that knows every other.

mod meters;
mod prepare;
mod serve;
mod summary;
mod threads;

pub use meters::build as build_meters;
pub use prepare::{Prepared, PreparedPipeline, prepare};
pub use serve::{RunOptions, run};
pub use summary::{Outcome, PipelineSummary, Summary};
