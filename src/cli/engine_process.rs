//! `edgewatt engine-process`: the child process that runs a model for the daemon. Hidden from `--help`.

use std::process::ExitCode;

use crate::engine::process::{Task, child};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_parser = parse)]
    task: Task,
}

fn parse(json: &str) -> Result<Task, String> {
    serde_json::from_str(json).map_err(|e| e.to_string())
}

pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(child::run(&args.task))
}
