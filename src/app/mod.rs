//! Build and run: the only module that knows every other.

mod engines;
mod inspect;
mod meters;
mod power;
mod prepare;
mod reload;
mod running;
mod serve;
mod summary;
mod threads;
mod windows;

pub use engines::{EngineMaker, Made, Tools};
pub use inspect::{Tried, try_delegate};
pub use meters::build as build_meters;
pub use prepare::{Prepared, PreparedPipeline, Tensors, load, prepare, tools};
pub use serve::{RunOptions, run};
pub use summary::{Outcome, PipelineSummary, Summary};
