//! `edgewatt check`, and the loading that `run` shares with it.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;

use super::{ConfigArg, EX_CONFIG};
use crate::app::{self, Prepared};
use crate::config::{Config, Document};
use crate::sys;

pub fn check(args: &ConfigArg) -> anyhow::Result<ExitCode> {
    let (config, prepared) = match load(args)? {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let mut out = io::stdout();
    writeln!(out, "{}: ok", args.config.display())?;
    writeln!(out, "  runtime {}", prepared.runtime.path.display())?;
    for (pipeline, prepared) in config.pipelines.iter().zip(&prepared.pipelines) {
        let engine = &prepared.stages.engine;
        let input = &engine.inputs()[0];
        let outputs: Vec<String> = engine.outputs().iter().map(|o| format!("{:?} {}", o.shape, o.element)).collect();
        writeln!(
            out,
            "  pipeline {}: {} {:?} {} -> {} by {}",
            pipeline.name,
            pipeline.model.display(),
            input.shape,
            input.element,
            outputs.join(", "),
            prepared.delegate.active,
        )?;
        if let Some(reason) = &prepared.delegate.reason {
            writeln!(out, "    {} was asked for; {reason}", prepared.delegate.requested)?;
        }
    }
    for mut meter in app::build_meters(&config.power) {
        let read = meter.read();
        let info = meter.info();
        match read {
            Ok(_) => writeln!(out, "  meter {}: {}", info.name, info.detail.join("; "))?,
            // Not a fault of the configuration: a meter may be plugged in later.
            Err(error) => writeln!(out, "  meter {}: no reading now: {error}", info.name)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a configuration and all that it names; problems are shown and become the exit code.
pub fn load(args: &ConfigArg) -> anyhow::Result<Result<(Config, Prepared), ExitCode>> {
    let mut err = io::stderr();
    let document = match Document::read(&args.config) {
        Ok(document) => document,
        Err(error) => return refuse(&mut err, &error.to_string()),
    };
    let config = match document.parse(sys::hostname().as_deref()) {
        Ok(config) => config,
        Err(error) => return refuse(&mut err, &error.to_string()),
    };
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    match app::prepare(&config, Some(&program)) {
        Ok(prepared) => Ok(Ok((config, prepared))),
        Err(problems) => {
            let shown: Vec<String> = problems.iter().map(|p| document.show(&p.key, &p.message)).collect();
            refuse(&mut err, &shown.join("\n"))
        }
    }
}

fn refuse<T>(err: &mut impl Write, message: &str) -> anyhow::Result<Result<T, ExitCode>> {
    // The exit code must come through even where standard error is a full disk.
    let _ = writeln!(err, "{message}");
    Ok(Err(ExitCode::from(EX_CONFIG)))
}
