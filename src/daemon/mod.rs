//! The running service: builds what was loaded, runs it, and drains it at the end.

pub mod control;
mod discovery;
mod event_loop;
mod metering;
mod pipeline;
mod power;
mod reload;
mod summary;
mod systemd;

pub use event_loop::{RunOptions, run};
pub use summary::{Outcome, PipelineSummary, Summary};
pub use systemd::Service;
