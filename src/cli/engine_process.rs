//! `edgewatt engine-process`: the child that runs a model for its parent; not for people.

use std::process::ExitCode;

use crate::engine::process::child;

#[derive(Debug, clap::Args)]
pub struct Args {
    task: String,
}

pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(child::run(&args.task))
}
