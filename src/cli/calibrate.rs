//! `edgewatt calibrate`: measures the energy per inference above idle in runs back to back, and saves it for the daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::{ConfigArg, check, signals};
use crate::energy::OTHER_CORES_MAX;
use crate::load::meters::MeterContext;
use crate::load::state_dir;
use crate::measure::back_to_back::{CalibrateError, Plan};
use crate::measure::calibrate::{Calibration, Calibrator};
use crate::measure::calibrations::{CalibrationEntry, Calibrations, MeterIdentity, can_calibrate};
use crate::measure::phases::{PhaseEnergy, Phases};
use crate::units::Joules;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Calibrate only this pipeline; can be given several times
    #[arg(short, long = "pipeline", value_name = "NAME")]
    pipelines: Vec<String>,
    /// Number of runs (bouts) for each pipeline; the result is their median
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(5..=1000))]
    bouts: u16,
    /// Length of a run in seconds; longer if a meter needs it
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    bout_s: Duration,
    /// Length in seconds of the idle intervals before, between and after the runs; longer if a meter needs it
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    quiet_s: Duration,
    /// Measure the steps around an inference, too: front ends and features, and the decision; each takes as long again
    #[arg(long)]
    phases: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.1 to 600".into())
    }
}

/// The JSON form.
#[derive(Default, Serialize)]
struct Output {
    calibrations: Vec<Of<CalibrationEntry>>,
    refused: Vec<Of<Refused>>,
    /// Null if nothing was saved.
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
    /// `None`: the pipeline was refused as a whole.
    meter: Option<MeterIdentity>,
    reason: String,
}

/// Calibrates the pipelines, and shows and saves the results. Returns success if every meter gave a result for every
/// pipeline and all were saved.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = signals::stop()?;
    let (config, mut prepared) = match check::load(&args.config, false)? {
        Ok(loaded) => loaded,
        Err(unusable) => return Ok(check::refusal(&unusable)),
    };
    let is_unknown = |name: &&String| !config.pipelines.iter().any(|pipeline| pipeline.name == **name);
    if let Some(name) = args.pipelines.iter().find(is_unknown) {
        let known: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let _ = writeln!(io::stderr(), "edgewatt: there is no pipeline {name}; the pipelines are {}", known.join(", "));
        return Ok(ExitCode::from(2));
    }
    if !config.power.meters.iter().any(can_calibrate) {
        bail!("no meter of this configuration can calibrate; `edgewatt doctor` lists the meters of this machine");
    }
    let folder = state_dir::folder(config.state_dir.as_deref());
    let plan = Plan { runs: usize::from(args.bouts), run: args.bout_s, idle: args.quiet_s };
    let context = MeterContext::new(&config, prepared.engine_context.launcher.children.clone());
    let (mut output, mut saved) = (Output::default(), Ok(()));
    let calibrator = Calibrator { power: &config.power, context: &context, plan, phases: args.phases, stop: &stop };
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        let name = &pipeline.name;
        if !args.pipelines.is_empty() && !args.pipelines.contains(name) {
            continue;
        }
        let starting = |meters: &[MeterIdentity], time: Duration| {
            let meters: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
            let _ =
                writeln!(io::stderr(), "calibrating {name} by {} for {:.0} s", meters.join(", "), time.as_secs_f64());
        };
        match calibrator.calibrate(pipeline, prepared, starting) {
            Ok(calibration) => {
                if !args.json {
                    show(&mut io::stdout(), &calibration)?;
                }
                // After a failure to save, the other pipelines are still calibrated and shown.
                saved = saved.and(save(&mut output, &folder, calibration));
            }
            Err(CalibrateError::Stopped) => bail!(CalibrateError::Stopped),
            Err(failure) => {
                if !args.json {
                    writeln!(io::stdout(), "{name}: not calibrated: {failure}")?;
                }
                let refused = Refused { meter: None, reason: failure.to_string() };
                output.refused.push(Of { pipeline: name.clone(), what: refused });
            }
        }
    }
    let mut out = io::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &output)?;
        writeln!(out)?;
    } else if let Some(path) = &output.kept_in {
        writeln!(out, "saved in {}", path.display())?;
    }
    saved?;
    Ok(if output.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Saves the results that are usable, and adds all of them to `output`.
fn save(output: &mut Output, folder: &Path, calibration: Calibration) -> anyhow::Result<()> {
    let Calibration { pipeline, results, .. } = calibration;
    let mut entries = Vec::new();
    for (meter, result) in results {
        match result {
            Ok(entry) => entries.push(entry),
            Err(reason) => {
                let what = Refused { meter: Some(meter), reason };
                output.refused.push(Of { pipeline: pipeline.clone(), what });
            }
        }
    }
    let saved = if entries.is_empty() { Ok(None) } else { Calibrations::add(folder, &entries).map(Some) };
    output.calibrations.extend(entries.into_iter().map(|what| Of { pipeline: pipeline.clone(), what }));
    if let Some(path) = saved.with_context(|| format!("cannot save the calibration of {pipeline}"))? {
        output.kept_in = Some(path);
    }
    Ok(())
}

fn show(out: &mut impl Write, calibration: &Calibration) -> io::Result<()> {
    let Calibration { pipeline, state, batch, inferences_per_s, busy_ns, other_cores, results } = calibration;
    writeln!(out, "{pipeline} {state}")?;
    writeln!(out, "  batch {batch}, {inferences_per_s:.1} inferences/s, {:.2} us each", busy_ns / 1e3)?;
    if let Some(cores) = other_cores.filter(|cores| cores.abs() > OTHER_CORES_MAX) {
        let than = if cores > 0.0 {
            "more during the runs than between them: the result includes their energy"
        } else {
            "less during the runs than between them: net energy is too low by that amount"
        };
        writeln!(out, "  warning: other programs used {:.2} cores {than}", cores.abs())?;
    }
    let row = |cells: [&str; 8]| {
        let [meter, kind, scope, net, expanded, gross, idle, runs] = cells;
        format!("  {meter:<12} {kind:<8} {scope:<9} {net:>12} {expanded:>12} {gross:>9} {idle:>9} {runs:>5}")
    };
    let header = ["meter", "kind", "scope", "net/mJ", "+- U/mJ", "run/W", "idle/W", "runs"];
    if results.iter().any(|(_, result)| result.is_ok()) {
        writeln!(out, "{}", row(header))?;
    }
    for (MeterIdentity { name, kind, scope, .. }, result) in results {
        match result {
            Ok(entry) => {
                let (net, expanded) = (Joules(entry.net_j).in_mj(), Joules(entry.expanded_j).in_mj());
                let (gross, idle) = (format!("{:.3}", entry.gross_w), format!("{:.3}", entry.idle_w));
                let cells = [name.as_str(), kind, scope, &net, &expanded, &gross, &idle, &entry.runs.to_string()];
                writeln!(out, "{}", row(cells))?;
                entry.phases.iter().try_for_each(|phases| show_phases(out, name, phases))?;
            }
            Err(reason) => writeln!(out, "  {name}: no result: {reason}")?,
        }
    }
    Ok(())
}

/// Shows the steps around an inference, as a meter has seen them.
fn show_phases(out: &mut impl Write, meter: &str, phases: &Phases) -> io::Result<()> {
    let Phases { features, decision, publishing } = phases;
    for (step, energy) in [("front ends and features", features), ("decision", decision), ("publishing", publishing)] {
        let PhaseEnergy { net_j, expanded_j, reason, .. } = energy;
        match net_j.zip(*expanded_j) {
            Some((net_j, expanded_j)) => {
                let (net, expanded) = (Joules(net_j).in_mj(), Joules(expanded_j).in_mj());
                writeln!(out, "  {meter}: {step}: {net} +- {expanded} mJ net per window")?;
            }
            None => writeln!(out, "  {meter}: {step}: no figure: {}", reason.as_deref().unwrap_or("not measured"))?,
        }
    }
    Ok(())
}
