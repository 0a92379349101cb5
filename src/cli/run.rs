//! `edgewatt run`

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use signal_hook::consts::SIGHUP;

use super::{ConfigArg, check, watch};
use crate::app::{self, Outcome, RunOptions};

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
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
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
    let options = RunOptions { once: args.once, config: args.config.config.clone(), reload };
    let mut viewer = None;
    let summary = app::run(config, prepared, options, |reach, topics| {
        if args.watch {
            viewer = Some(watch::spawn(reach.clone(), topics.filter()));
        }
    })?;
    if let Some(viewer) = viewer {
        viewer.finish();
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
