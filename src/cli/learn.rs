//! `edgewatt learn`: learns the threshold of a decision from a recording of normal data.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};

use super::record::chosen;
use super::{ConfigArg, EX_CONFIG};
use crate::config::{Document, Pipeline};
use crate::decision::{Learning, Learnt};
use crate::load::learn::{RecordedScores, scores};
use crate::load::{self, PreparedPipeline, Unusable, state_dir};
use crate::sys::hostname;
use crate::text::escaped;
use crate::units::WallTime;

/// Windows above the threshold that a recording should have, so that the threshold is not that of one odd window.
const LEAST_ABOVE: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The pipeline whose threshold is learnt; it can be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// The recording of normal data, in a form that the pipeline's source can replay
    #[arg(short, long, value_name = "FILE")]
    recording: PathBuf,
    /// The part of the recording's windows that must not be above the threshold
    #[arg(short, long, default_value_t = 0.999, value_name = "PART", value_parser = part)]
    quantile: f64,
}

fn part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| "write a number, such as 0.999".to_owned())?;
    if (0.5..=1.0).contains(&part) { Ok(part) } else { Err("it must be from 0.5 to 1".to_owned()) }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let document = Document::read(&args.config.config);
    let read = document.and_then(|document| Ok((document.parse(hostname().as_deref())?, document)));
    let (mut config, document) = match read {
        Ok(read) => read,
        Err(problems) => return unusable(&problems),
    };
    let mut pipeline = match chosen(&config, args.pipeline.as_deref()) {
        Ok(pipeline) => pipeline.clone(),
        Err(why) => {
            let _ = writeln!(io::stderr(), "edgewatt: {}", escaped(&why));
            return Ok(ExitCode::from(2));
        }
    };
    let Some(learning) = pipeline.decision.kind().learning() else {
        bail!(
            "{}: nothing is learnt; write threshold = {{ learnt = \"FILE\" }} in decision.anomaly",
            pipeline.key().child("decision")
        );
    };
    pipeline.decision = learning.decision.clone();
    config.pipelines = vec![pipeline];
    let program = std::env::current_exe().context("cannot find this program")?;
    let context = load::engine_context(config.runtime_library.as_deref(), &program);
    let prepared = context.map_err(|problem| vec![problem]).and_then(|context| load::prepare(&config, &context, &[]));
    let mut prepared = match prepared {
        Ok(prepared) => prepared,
        Err(problems) => return unusable(&Unusable::new(&document, &problems)),
    };
    let (Some(pipeline), Some(prepared)) = (config.pipelines.first(), prepared.pipelines.first_mut()) else {
        bail!("the pipeline was not loaded");
    };
    learn(args, pipeline, prepared, &learning)
}

fn unusable(problems: &dyn std::fmt::Display) -> anyhow::Result<ExitCode> {
    let _ = writeln!(io::stderr(), "{problems}");
    Ok(ExitCode::from(EX_CONFIG))
}

fn learn(
    args: &Args,
    pipeline: &Pipeline,
    prepared: &mut PreparedPipeline,
    learning: &Learning,
) -> anyhow::Result<ExitCode> {
    let found = scores(&args.recording, pipeline, prepared).map_err(|why| anyhow!(why))?;
    let threshold = found.quantile(args.quantile);
    show(&found, args.quantile, threshold)?;
    let windows = found.sorted.len() as u64;
    let time = WallTime::now();
    let learnt = Learnt::new(threshold, args.quantile, windows, prepared.origins.clone(), &learning.score_keys, time);
    let mut bytes = serde_json::to_vec_pretty(&learnt)?;
    bytes.push(b'\n');
    let file = &learning.file;
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        bail!("{} is not the name of a file", file.display());
    };
    let path = state_dir::put(folder, name, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(io::stdout(), "written to {}; the daemon uses it after a reload", path.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how the scores are distributed, and what that threshold means.
fn show(found: &RecordedScores, quantile: f64, threshold: f32) -> io::Result<()> {
    let mut out = io::stdout();
    let windows = found.sorted.len();
    writeln!(out, "{}", found.says)?;
    writeln!(out, "{windows} windows have a score:")?;
    for (name, part) in
        [("lowest", 0.0), ("half", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("99.9 %", 0.999), ("highest", 1.0)]
    {
        writeln!(out, "  {name:<8} {}", found.quantile(part))?;
    }
    let above = found.sorted.iter().filter(|score| **score >= threshold).count();
    writeln!(out, "threshold {threshold}, the quantile {quantile}: {above} of these windows reach it")?;
    for warning in &found.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if found.faults > 0 {
        writeln!(out, "warning: {} windows have no score, because the model gave no numbers", found.faults)?;
    }
    let wanted = LEAST_ABOVE / (1.0 - quantile);
    if quantile < 1.0 && (windows as f64) < wanted {
        writeln!(
            out,
            "warning: {windows} windows are few for the quantile {quantile}: the threshold depends on the {} highest \
             scores; record at least {wanted:.0} windows",
            above.max(1)
        )?;
    }
    Ok(())
}
