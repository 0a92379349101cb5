//! `edgewatt run`: loads the configuration and runs the daemon until it is stopped.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use signal_hook::consts::SIGHUP;

use super::{ConfigArg, EX_CONFIG, EX_TEMPFAIL, check};
use crate::daemon::health::HealthBoard;
use crate::daemon::health_socket::HealthSocket;
use crate::daemon::{self, Delivered, Outcome, RunOptions, Service};
use crate::source::STANDARD_INPUT;
use crate::sys::trouble::Trouble;
use crate::units::MonoTime;
use crate::view::{self, Mode};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Exit when all sources have ended and all messages are delivered; then print a summary
    #[arg(long)]
    once: bool,
    /// Show what is published: a full-screen view in a terminal, else plain lines; q or Ctrl-C stops the daemon
    #[arg(long)]
    pub watch: bool,
    /// Print the summary of --once, or why the configuration cannot be used, as one JSON object; docs/json.md describes it
    #[arg(long, requires = "once", conflicts_with = "watch")]
    json: bool,
    /// Calibrate every pipeline before any source starts, even if a calibration is saved
    #[arg(long)]
    calibrate: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // First, because it feeds the watchdog: after a restart to calibrate, systemd already watches this process.
    let service = Service::start()?;
    let health = HealthBoard::new(MonoTime::now());
    // Early, so that a start that takes long is seen. Kept until the end.
    let _socket = HealthSocket::start(&args.config.config, health.clone(), service.hang_detector())
        .inspect_err(|reason| tracing::warn!("`edgewatt health` cannot see this daemon: {reason}"));
    // Read now: once an upgrade has replaced the file, the kernel gives no path that could be started.
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    // Loading takes seconds with some devices, and by default the signal would end the program.
    let reload = Arc::<AtomicBool>::default();
    signal_hook::flag::register(SIGHUP, reload.clone())?;
    let (config, prepared) = match check::load(&args.config, args.json)? {
        Ok(loaded) => loaded,
        Err(unusable) => {
            let is_lasting = unusable.trouble == Trouble::Lasting;
            return Ok(ExitCode::from(if is_lasting { EX_CONFIG } else { EX_TEMPFAIL }));
        }
    };
    if args.once
        && let Some((name, why)) =
            config.pipelines.iter().find_map(|p| p.source.kind().endless().map(|why| (&p.name, why)))
    {
        bail!("--once would never end: pipeline {name} {why}");
    }
    // What is typed goes to the source then, and there are no keys for the full-screen view.
    let reads_keyboard = io::stdin().is_terminal()
        && config
            .pipelines
            .iter()
            .any(|pipeline| pipeline.source.kind().exclusive().iter().any(|taken| taken.resource == STANDARD_INPUT));
    let stop = Arc::<AtomicBool>::default();
    let (config_file, calibrate, stopped) = (args.config.config.clone(), args.calibrate, stop.clone());
    let options = RunOptions { once: args.once, config: config_file, calibrate, reload, stop, health };
    let mut viewer = None;
    let summary = daemon::run(config, prepared, options, service, |started| {
        if args.watch {
            let mode = if reads_keyboard { Mode::Lines } else { Mode::choose() };
            match view::start(mode, started) {
                Ok(shown) => viewer = Some(shown),
                Err(error) => tracing::warn!("--watch shows nothing: cannot start a thread: {error}"),
            }
        }
    })?;
    // Waits until everything is shown and the terminal is restored.
    drop(viewer);
    if summary.restart_to_calibrate && !stopped.load(Ordering::Relaxed) {
        return Err(restart_to_calibrate(&program));
    }
    if args.once || args.watch {
        let mut out = io::stdout();
        let printed = if args.json {
            serde_json::to_string(&summary.to_json(super::JSON_VERSION))
                .map_err(io::Error::from)
                .and_then(|json| writeln!(out, "{json}"))
        } else {
            writeln!(out, "{summary}")
        };
        // Who has closed the terminal of a view does not want it.
        if args.once {
            printed?;
        }
    }
    match &summary.delivered {
        Some(delivered @ Delivered { undelivered, kept, .. }) => {
            let some = |count: u64| (count > 0).then_some(count);
            tracing::info!(
                undelivered,
                kept = some(*kept as u64),
                dropped = some(delivered.dropped_count()),
                "stopped"
            );
        }
        None => tracing::info!("stopped"),
    }
    // A daemon that was asked to stop has done so, even if the broker is away; a single run has to predict
    // something, and to deliver everything.
    let is_success = match summary.outcome {
        Outcome::Complete => true,
        Outcome::Undelivered | Outcome::NoPrediction => !args.once,
        Outcome::Failed => false,
    };
    if !is_success && let Some(why) = summary.shortfall() {
        tracing::error!("the exit code is 1: {why}");
    }
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Replaces this process by a daemon that calibrates first; its id stays the same. Returns only if that fails.
fn restart_to_calibrate(program: &Path) -> anyhow::Error {
    tracing::info!("restarting to calibrate");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let calibrate = OsString::from("--calibrate");
    if !arguments.contains(&calibrate) {
        arguments.push(calibrate);
    }
    // By its path, so that people and scripts find it by its name.
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context("cannot restart to calibrate; start the daemon again")
}
