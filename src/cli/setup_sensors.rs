//! `edgewatt setup-sensors`: does as root what reading the configured sensors needs.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{ConfigArg, DEFAULT_CONFIG, EX_CONFIG};
use crate::config::Document;
use crate::sys;
use crate::sys::Machine;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Set up again what is set up already, such as a buffer that gives nothing any more
    #[arg(long)]
    restart: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = &args.config.config;
    if path == Path::new(DEFAULT_CONFIG) && !path.exists() {
        writeln!(io::stdout(), "{} does not exist: no sensor is configured", path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = match Document::read(path).and_then(|document| document.parse(sys::hostname().as_deref())) {
        Ok(config) => config,
        Err(error) => {
            super::print_error(&error.into());
            return Ok(ExitCode::from(EX_CONFIG));
        }
    };
    let mut failed = false;
    for pipeline in &config.pipelines {
        let Some(result) = pipeline.source.kind().set_up(&Machine::this(), args.restart) else { continue };
        let said = match &result {
            Ok(said) => said.clone(),
            Err(error) => format!("failed: {error}"),
        };
        writeln!(io::stdout(), "pipelines.{}.source: {said}", pipeline.name)?;
        failed |= result.is_err();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
