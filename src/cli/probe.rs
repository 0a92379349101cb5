//! `edgewatt probe-model`: the child that tries a model for its parent; not for people.

use std::process::ExitCode;

use crate::engine::probe::{Task, run_child};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_parser = parse)]
    task: Task,
}

fn parse(json: &str) -> Result<Task, String> {
    serde_json::from_str(json).map_err(|e| e.to_string())
}

pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(run_child(&args.task))
}
