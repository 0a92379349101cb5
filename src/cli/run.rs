//! `edgewatt run`

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use signal_hook::consts::SIGHUP;

use super::{ConfigArg, EX_CONFIG, check, watch};
use crate::daemon::{self, Outcome, RunOptions, Service};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // From here on the watchdog is fed: to calibrate, the daemon starts anew in a process that systemd watches already.
    let service = Service::start()?;
    // Asked for now: of a file that an upgrade has replaced the kernel tells no path that could be started.
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    // To prepare takes seconds with some devices, and the signal's default is to end the program.
    let reload = Arc::<AtomicBool>::default();
    signal_hook::flag::register(SIGHUP, reload.clone())?;
    let (config, prepared) = match check::load(&args.config)? {
        Ok(loaded) => loaded,
        Err(unusable) if unusable.may_pass => return Ok(ExitCode::FAILURE),
        Err(_) => return Ok(ExitCode::from(EX_CONFIG)),
    };
    if args.once
        && let Some(endless) = config.pipelines.iter().find(|p| p.source.is_endless())
    {
        bail!("--once never ends: pipeline {} plays its recording in a loop; set loop = false", endless.name);
    }
    let stop = Arc::<AtomicBool>::default();
    let (config_file, calibrate, told) = (args.config.config.clone(), args.calibrate, stop.clone());
    let options = RunOptions { once: args.once, config: config_file, calibrate, reload, stop };
    let mut viewer = None;
    let summary = daemon::run(config, prepared, options, service, |reach, topics| {
        if args.watch {
            viewer = Some(watch::spawn(reach.clone(), topics.filter()));
        }
    })?;
    if let Some(viewer) = viewer {
        viewer.finish();
    }
    if summary.calibrate && !told.load(Ordering::Relaxed) {
        return Err(start_anew(&program));
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
fn start_anew(program: &Path) -> anyhow::Error {
    tracing::info!("starting anew, to calibrate");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let calibrate = OsString::from("--calibrate");
    if !arguments.contains(&calibrate) {
        arguments.push(calibrate);
    }
    // Under the name that it has, by which people and scripts find it.
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context("cannot start anew; whoever watches the daemon has to")
}
