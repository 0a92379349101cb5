//! `edgewatt engine-process`: the child process that runs a model for the daemon. Hidden from `--help`.

use std::process::ExitCode;

use crate::engine::process::child;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An older daemon, whose program was replaced while it ran, gives its task here.
    task: Option<String>,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    ExitCode::from(child::run(args.task.as_deref()))
}
