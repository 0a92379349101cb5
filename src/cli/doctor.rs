//! `edgewatt doctor`: what this machine has, and what makes the rest work.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use tracing::subscriber::NoSubscriber;

use crate::meter::survey::{Finding, State, survey};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the kernel shows its devices
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    sysfs: PathBuf,
    /// Where the device files are
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    dev: PathBuf,
}

/// Shows all findings; success when there is a sensor that can be read or used.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // What the meters would log stands in the findings.
    let findings = tracing::subscriber::with_default(NoSubscriber::default(), || {
        survey(&args.sysfs, &args.dev, std::thread::sleep)
    });
    let mut out = io::stdout();
    writeln!(out, "power meters")?;
    for finding in &findings {
        show(&mut out, finding)?;
    }
    writeln!(out, "  estimate: always there, but no measurement: CPU time times a guess")?;
    writeln!(out, "    use: estimate = {{ watts_per_core = 2.0, idle_watts = 2.5 }}")?;
    let works = |finding: &Finding| !matches!(finding.state, State::Not { .. });
    Ok(if findings.iter().any(works) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let Finding { what, state, detail, config } = finding;
    match state {
        State::Readable { watts: Some(watts) } => writeln!(out, "  {what}: readable, {watts:.3} W now")?,
        State::Readable { watts: None } => writeln!(out, "  {what}: readable")?,
        State::Usable => writeln!(out, "  {what}: can be used")?,
        State::Not { reason } => writeln!(out, "  {what}: no: {reason}")?,
    }
    for line in detail {
        writeln!(out, "    {line}")?;
    }
    config.iter().try_for_each(|config| writeln!(out, "    use: {config}"))
}
