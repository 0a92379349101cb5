//! The running service: builds what was loaded, runs it, and drains it at the end.
//!
//! One async thread runs the daemon (`event_loop`); each pipeline has two threads of its own, and the meters have one. What
//! may be asked of the daemon is an `action`, which `control` carries out; what other threads report arrives as an `event`;
//! what changes at a reload is decided by `reload::plan`. A separate thread answers how the daemon is
//! (`health_socket`). `pipeline` has all that concerns one pipeline.

mod action;
mod control;
mod discovery;
mod event;
mod event_loop;
pub mod health;
pub mod health_socket;
mod meter_readings;
mod metering;
mod phase;
mod pipeline;
mod rate_limit;
mod reload;
mod retained_topics;
mod report;
mod shutdown;
mod startup;
mod state;
mod summary;
mod systemd;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use tokio::sync::mpsc::unbounded_channel;

use self::health::HealthBoard;
use self::startup::Calibrated;
use self::state::Daemon;
use crate::config::Config;
use crate::load::Prepared;
use crate::publish::bus::Bus;
use crate::publish::publisher::NodePublisher;
use crate::publish::topic::NodeTopics;
use crate::sys;

pub use action::{Action, ActionSender};
pub use summary::{Delivered, Outcome, PipelineSummary, Summary};
pub use systemd::Service;

#[derive(Debug, Clone)]
pub struct RunOptions {
    /// End when every source has ended.
    pub once: bool,
    /// The file that a reload reads again.
    pub config: PathBuf,
    /// Calibrate before any source starts, even if there is a calibration.
    pub calibrate: bool,
    /// SIGHUP came while the program was starting.
    pub reload: Arc<AtomicBool>,
    /// Becomes true with the first SIGTERM or SIGINT that the daemon receives.
    pub stop: Arc<AtomicBool>,
    /// Where the daemon writes how it is.
    pub health: HealthBoard,
}

/// A daemon that has started, for who wants to see what it publishes and to act on it.
#[derive(Clone)]
pub struct Started {
    pub bus: Bus,
    pub topics: NodeTopics,
    pub actions: ActionSender,
}

/// Runs until a signal comes or, with `once`, all sources have ended. Calls `started` before the first message.
pub fn run(
    config: Config,
    prepared: Prepared,
    options: RunOptions,
    service: Service,
    started: impl FnOnce(&Started),
) -> anyhow::Result<Summary> {
    let connect = startup::connect_options(&config)?;
    if config.lock_memory
        && let Err(refused) = sys::rt::lock_memory()
    {
        tracing::warn!("{refused}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let summary = runtime.block_on(async {
        // Before anything else runs: from here on a signal ends the daemon in order.
        let mut signals = startup::listen_for_signals(&options)?;
        let calibrated = startup::calibrate(config, prepared, &mut signals, &options, service.progress_reporter());
        let Some(Calibrated { config, prepared, outcomes }) = calibrated.await? else {
            return Ok(Summary::nothing_done());
        };
        let delivery = startup::start_delivery(&config, &options.config, connect)?;
        let (sender, actions) = unbounded_channel();
        let (mut daemon, inputs) = Daemon::start(config, prepared, options, service, delivery, signals, actions)?;
        let NodePublisher { bus, topics, .. } = daemon.context.node_publisher.clone();
        started(&Started { bus, topics, actions: ActionSender(sender) });
        daemon.begin(outcomes);
        daemon.run(inputs).await?;
        anyhow::Ok(daemon.drain().await)
    });
    // A name resolver that hangs must not delay the end.
    runtime.shutdown_background();
    summary
}
