//! `edgewatt schema`: prints the JSON Schema of the configuration.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::json_schema;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the schema of a fragment in conf.d, in which no key is required
    #[arg(long)]
    fragment: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(json_schema(args.fragment).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
