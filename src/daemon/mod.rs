//! The running service: builds what was loaded, runs it, and drains it at the end.

pub(crate) mod control;
mod discovery;
mod event_loop;
mod metering;
mod pipeline;
mod power;
mod reload;
mod summary;
mod systemd;

pub(crate) use event_loop::{RunOptions, run};
pub(crate) use summary::Outcome;
pub(crate) use systemd::Service;
