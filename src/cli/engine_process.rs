//! `edgewatt engine-process`: the child process that runs a model for the daemon. Hidden from `--help`.

use std::process::ExitCode;

use crate::engine::process::child;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    task: String,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    ExitCode::from(child::run(&args.task))
}
