//! `edgewatt probe-model`: the child that tries a model for its parent; not for people.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::DelegateKind;
use crate::engine::probe::{Task, run_child};

#[derive(Debug, clap::Args)]
pub struct Args {
    library: PathBuf,
    model: PathBuf,
    #[arg(long)]
    xnnpack: bool,
    #[arg(long)]
    threads: u16,
    #[arg(long)]
    batch: usize,
}

pub fn run(args: Args) -> ExitCode {
    let Args { library, model, xnnpack, threads, batch } = args;
    let delegate = if xnnpack { DelegateKind::Xnnpack { threads } } else { DelegateKind::Cpu { threads } };
    ExitCode::from(run_child(&Task { library, model, delegate, batch }))
}
