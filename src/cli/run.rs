//! `edgewatt run`

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use signal_hook::consts::SIGHUP;

use super::{ConfigArg, check, watch};
use crate::app::{self, Outcome, RunOptions, Service};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// End when every source has ended, after everything is delivered, with a summary
    #[arg(long)]
    once: bool,
    /// Show in the terminal what a subscriber sees
    #[arg(long)]
    pub watch: bool,
    /// Before any source starts, calibrate what power.calibrate_at_start would, and what is calibrated already
    #[arg(long)]
    calibrate: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // From here on the watchdog is fed: to calibrate, the daemon starts anew in a process that systemd watches already.
    let service = Service::start()?;
    // To prepare takes seconds with some devices, and the signal's default is to end the program.
    let reload = Arc::<AtomicBool>::default();
    signal_hook::flag::register(SIGHUP, reload.clone())?;
    let (config, prepared) = match check::load(&args.config)? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    if args.once
        && let Some(endless) = config.pipelines.iter().find(|p| p.source.is_endless())
    {
        bail!("--once never ends: pipeline {} plays its recording in a loop; set loop = false", endless.name);
    }
    let options = RunOptions { once: args.once, config: args.config.config.clone(), calibrate: args.calibrate, reload };
    let mut viewer = None;
    let summary = app::run(config, prepared, options, service, |reach, topics| {
        if args.watch {
            viewer = Some(watch::spawn(reach.clone(), topics.filter()));
        }
    })?;
    if let Some(viewer) = viewer {
        viewer.finish();
    }
    if summary.calibrate {
        return Err(start_anew());
    }
    if args.once || args.watch {
        let mut out = io::stdout();
        writeln!(out, "{summary}")?;
    }
    if summary.kept > 0 {
        tracing::info!(undelivered = summary.undelivered, kept = summary.kept, "stopped");
    } else {
        tracing::info!(undelivered = summary.undelivered, "stopped");
    }
    // A daemon that was told to stop has done so, whatever the broker's state; a single run is done when delivered.
    Ok(match summary.outcome {
        Outcome::Complete => ExitCode::SUCCESS,
        Outcome::Undelivered if !args.once => ExitCode::SUCCESS,
        Outcome::Undelivered | Outcome::Failed => ExitCode::FAILURE,
    })
}

/// Becomes a daemon that calibrates first: the same process to whoever started it. Returns only what went wrong.
fn start_anew() -> anyhow::Error {
    tracing::info!("starting anew, to calibrate");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let calibrate = OsString::from("--calibrate");
    if !arguments.contains(&calibrate) {
        arguments.push(calibrate);
    }
    // By this path also where an upgrade has replaced the file.
    let error = Command::new("/proc/self/exe").args(arguments).exec();
    anyhow::Error::new(error).context("cannot start anew; whoever watches the daemon has to")
}
