//! `edgewatt bench compare`: two benches before and after a change.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::not_negative;
use crate::measure::bench::compare::compare;
use crate::measure::bench::report::Report;
use crate::report::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The JSON of the bench before the change
    before: PathBuf,
    /// The JSON of the bench after it
    after: PathBuf,
    /// A change by fewer hundredths is no regression, even if it is beyond the noise
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = not_negative)]
    least: f64,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let comparison = compare(&read(&args.before)?, &read(&args.after)?, 1.0 + args.least / 100.0);
    let mut out = io::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &comparison)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table::comparison(&comparison))?;
    }
    let is_good = comparison.regressions().next().is_none() && !comparison.cells.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let json = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Report::read(&json).with_context(|| path.display().to_string())
}
