//! `edgewatt check`, and the loading of a configuration that `run` and `calibrate` share with it.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;

use super::inspect::shown;
use super::{ConfigArg, EX_CONFIG, online};
use crate::config::Config;
use crate::engine::plan::dimension_names;
use crate::load::mqtt::connect_options;
use crate::load::{self, Prepared, PreparedPipeline, Unusable};
use crate::publish::mqtt::check_files;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Also test the broker: host name, TCP, TLS, login, and whether a message on BASE/NODE/check comes back
    #[arg(long)]
    online: bool,
}

pub(crate) fn check(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, mut prepared) = match load(&args.config)? {
        Ok(loaded) => loaded,
        Err(_) => return Ok(ExitCode::from(EX_CONFIG)),
    };
    let mut out = io::stdout();
    writeln!(out, "{}: ok", args.config.config.display())?;
    for file in &config.files {
        writeln!(out, "  read {}", file.display())?;
    }
    let runtime = &prepared.engine_context.runtime;
    writeln!(out, "  runtime {}, version {}", runtime.path.display(), runtime.version)?;
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        let input = &prepared.tensors.inputs[0];
        let outputs = prepared.tensors.outputs.iter().map(|o| format!("{:?} {}", o.shape, o.element));
        writeln!(
            out,
            "  pipeline {}: {} {:?} {} -> {}",
            pipeline.name,
            pipeline.model.display(),
            input.shape,
            input.element,
            outputs.collect::<Vec<_>>().join(", "),
        )?;
        writeln!(out, "    {}", prepared.builder.path)?;
        describe_plan(prepared, &mut out)?;
        describe_outputs(prepared, &mut out)?;
        for note in prepared.notes.iter().chain(&prepared.recording) {
            writeln!(out, "    {note}")?;
        }
        writeln!(out, "    a prediction has at most {} bytes", prepared.prediction_bytes)?;
        for warning in &prepared.warnings {
            writeln!(out, "    warning: {warning}")?;
        }
        match load::trial::doubts(pipeline, prepared) {
            Ok(None) => {}
            Ok(Some(reason)) => writeln!(out, "    warning: on windows of the recording: {reason}")?,
            Err(error) => writeln!(out, "    warning: it fails on windows of the recording: {error}")?,
        }
        let Some(built) = &prepared.built else { continue };
        writeln!(out, "    {}", built.state)?;
        if let Some(reason) = &built.state.reason {
            writeln!(out, "    requested: {}; {reason}", built.state.requested)?;
        }
        for warning in &built.state.warnings {
            writeln!(out, "    warning: {warning}")?;
        }
    }
    for mut meter in load::meters::build(&config.power, &prepared.engine_context.launcher.children) {
        let read = meter.read();
        let info = meter.info();
        match read {
            Ok(_) => writeln!(out, "  meter {}: {}", info.name, info.detail.join("; "))?,
            // The configuration can be right all the same: a meter may be plugged in later.
            Err(error) => writeln!(out, "  meter {}: no reading now: {error}", info.name)?,
        }
    }
    let files = tls_files(&config);
    if let Err(reason) = &files {
        writeln!(out, "  broker: TLS: {reason}")?;
    }
    let reached = !args.online || online::run(&config)?;
    Ok(if reached && files.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the certificates and the key for the broker.
fn tls_files(config: &Config) -> Result<(), String> {
    let tls = connect_options(&config.mqtt).and_then(|options| options.endpoint.tls);
    tls.as_ref().map_or(Ok(()), check_files)
}

/// Writes what each dimension of the model's input holds, and what of the model is run.
fn describe_plan(prepared: &PreparedPipeline, out: &mut impl Write) -> io::Result<()> {
    let builder = &prepared.builder;
    let (plan, input, path) = (&builder.model.plan, &prepared.tensors.inputs[0], &builder.path);
    let dims = dimension_names(&input.shape, plan.batch, path.after("window").unwrap_or(path.last()), path.last());
    writeln!(out, "    input {}: {}", shown(&input.name), dims.join(", "))?;
    if let Some(signature) = &plan.signature {
        writeln!(out, "    signature {}", shown(signature))?;
    }
    let main = &builder.model.summary.main;
    for state in &plan.states {
        let (input, output) = (&main.inputs[state.input], &main.outputs[state.output].tensor);
        writeln!(out, "    state {}, which is 0 at first, then what {} was", shown(&input.name), shown(&output.name))?;
    }
    Ok(())
}

/// Writes what each output of the model holds, and what the decision takes its scores for.
fn describe_outputs(prepared: &PreparedPipeline, out: &mut impl Write) -> io::Result<()> {
    let told = prepared.builder.model.summary.main.outputs.iter().map(|output| &output.values);
    for (index, (output, told)) in prepared.tensors.outputs.iter().zip(told).enumerate() {
        match &prepared.scores {
            Some(scores) if scores.output == index => writeln!(out, "    {scores}")?,
            _ => writeln!(out, "    output {index} `{}`: {told}", output.name)?,
        }
    }
    Ok(())
}

/// Loads a configuration and all that it names. Prints the problems if it cannot be used.
pub(crate) fn load(args: &ConfigArg) -> anyhow::Result<Result<(Config, Prepared), Unusable>> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    // The exit code must be right even if standard error is a full disk.
    Ok(load::load(&args.config, &program).inspect_err(|problems| _ = writeln!(io::stderr(), "{problems}")))
}
