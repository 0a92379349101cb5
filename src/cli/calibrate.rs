//! `edgewatt calibrate`: what an inference takes above idle, from bouts back to back, kept for the daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::{ConfigArg, EX_CONFIG, check};
use crate::energy::OTHER_CORES_MAX;
use crate::load::state_dir;
use crate::measure::calibrate::{self, CalibrateError, Calibration, Plan};
use crate::measure::calibrations::{Calibrations, Entry, Under, can_calibrate};
use crate::stop::Stop;
use crate::units::Joules;

/// Other programs that use more than this in the bouts are named.

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Only this pipeline; can be given several times
    #[arg(short, long = "pipeline", value_name = "NAME")]
    pipelines: Vec<String>,
    /// Bouts for each pipeline; their median counts
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(5..=1000))]
    bouts: u16,
    /// Seconds that a bout takes, or more where a meter needs it
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    bout_s: Duration,
    /// Seconds of quiet before, between and after the bouts, or more where a meter needs it
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    quiet_s: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not from 0.1 to 600".into())
    }
}

/// The JSON form.
#[derive(Default, Serialize)]
struct DaemonEvent {
    calibrations: Vec<Of<Entry>>,
    refused: Vec<Of<Refused>>,
    /// Null where nothing was kept.
    kept_in: Option<PathBuf>,
}

#[derive(Serialize)]
struct Of<T> {
    pipeline: String,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
struct Refused {
    /// None: by no meter.
    meter: Option<Under>,
    reason: String,
}

/// Shows and keeps what each pipeline's bouts have shown; success when each has a figure by every meter, and it is kept.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = stopped_by_signals()?;
    let (config, mut prepared) = match check::load(&args.config)? {
        Ok(loaded) => loaded,
        Err(_) => return Ok(ExitCode::from(EX_CONFIG)),
    };
    let is_known = |name: &&String| !config.pipelines.iter().any(|pipeline| pipeline.name == **name);
    if let Some(name) = args.pipelines.iter().find(is_known) {
        let known: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let _ = writeln!(io::stderr(), "edgewatt: there is no pipeline {name}; there are {}", known.join(", "));
        return Ok(ExitCode::from(2));
    }
    if !config.power.meters.iter().any(can_calibrate) {
        bail!("no meter of this configuration can calibrate; `edgewatt doctor` shows what this machine has");
    }
    let folder = state_dir::folder(config.state_dir.as_deref());
    let plan = Plan { bouts: usize::from(args.bouts), bout: args.bout_s, quiet: args.quiet_s };
    let children = prepared.tools.launcher.children.clone();
    let (mut told, mut kept) = (DaemonEvent::default(), Ok(()));
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        let name = &pipeline.name;
        if !args.pipelines.is_empty() && !args.pipelines.contains(name) {
            continue;
        }
        let starting = |meters: &[Under], time: Duration| {
            let meters: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
            let _ =
                writeln!(io::stderr(), "calibrating {name} by {} for {:.0} s", meters.join(", "), time.as_secs_f64());
        };
        match calibrate::calibrate((pipeline, prepared), &config.power, &children, plan, (&stop, starting)) {
            Ok(calibration) => {
                if !args.json {
                    show(&mut io::stdout(), &calibration)?;
                }
                // What comes after it is calibrated all the same, and shown.
                kept = kept.and(keep(&mut told, &folder, calibration));
            }
            Err(CalibrateError::Stopped) => bail!(CalibrateError::Stopped),
            Err(failure) => {
                if !args.json {
                    writeln!(io::stdout(), "{name}: not calibrated: {failure}")?;
                }
                let refused = Refused { meter: None, reason: failure.to_string() };
                told.refused.push(Of { pipeline: name.clone(), what: refused });
            }
        }
    }
    let mut out = io::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &told)?;
        writeln!(out)?;
    } else if let Some(path) = &told.kept_in {
        writeln!(out, "kept in {}", path.display())?;
    }
    kept?;
    Ok(if told.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first SIGINT or SIGTERM ends the bouts in order, the second the program.
fn stopped_by_signals() -> anyhow::Result<Arc<Stop>> {
    let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
    let told = stop.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if told.is_requested() {
                let _ = emulate_default_handler(signal);
            }
            told.request();
        }
    })?;
    Ok(stop)
}

fn keep(told: &mut DaemonEvent, folder: &Path, calibration: Calibration) -> anyhow::Result<()> {
    let Calibration { pipeline, results, .. } = calibration;
    let mut entries = Vec::new();
    for (meter, result) in results {
        match result {
            Ok(entry) => entries.push(entry),
            Err(reason) => {
                let what = Refused { meter: Some(meter), reason };
                told.refused.push(Of { pipeline: pipeline.clone(), what });
            }
        }
    }
    let kept = if entries.is_empty() { Ok(None) } else { Calibrations::keep(folder, &entries).map(Some) };
    told.calibrations.extend(entries.into_iter().map(|what| Of { pipeline: pipeline.clone(), what }));
    if let Some(path) = kept.with_context(|| format!("the calibration of {pipeline} is not kept"))? {
        told.kept_in = Some(path);
    }
    Ok(())
}

fn show(out: &mut impl Write, calibration: &Calibration) -> io::Result<()> {
    let Calibration { pipeline, state, batch, inferences_per_s, busy_ns, other_cores, results } = calibration;
    writeln!(out, "{pipeline} {state}")?;
    writeln!(out, "  batch {batch}, {inferences_per_s:.1} inferences/s, {:.2} us each", busy_ns / 1e3)?;
    if let Some(cores) = other_cores.filter(|cores| cores.abs() > OTHER_CORES_MAX) {
        let than =
            if cores > 0.0 { "more in the bouts than between them" } else { "less in the bouts than between them" };
        writeln!(out, "  warning: other programs used {:.2} cores {than}: their energy is in it", cores.abs())?;
    }
    let row = |cells: [&str; 8]| {
        let [meter, kind, scope, net, expanded, gross, idle, bouts] = cells;
        format!("  {meter:<12} {kind:<8} {scope:<9} {net:>12} {expanded:>12} {gross:>9} {idle:>9} {bouts:>5}")
    };
    let header = ["meter", "kind", "scope", "net/mJ", "+- U/mJ", "bout/W", "idle/W", "bouts"];
    if results.iter().any(|(_, result)| result.is_ok()) {
        writeln!(out, "{}", row(header))?;
    }
    for (Under { name, kind, scope }, result) in results {
        match result {
            Ok(entry) => {
                let (net, expanded) = (Joules(entry.net_j).in_mj(), Joules(entry.expanded_j).in_mj());
                let (gross, idle) = (format!("{:.3}", entry.gross_w), format!("{:.3}", entry.idle_w));
                let cells = [name, kind, scope.name(), &net, &expanded, &gross, &idle, &entry.bouts.to_string()];
                writeln!(out, "{}", row(cells))?;
            }
            Err(reason) => writeln!(out, "  {name}: no figure: {reason}")?,
        }
    }
    Ok(())
}
