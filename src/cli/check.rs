//! `edgewatt check`, and the loading of a configuration that `run` and `calibrate` share with it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::inspect::shown;
use super::online::Subscribed;
use super::{ConfigArg, EX_CONFIG, EX_TEMPFAIL, JSON_VERSION, online};
use crate::config::{Config, Pipeline};
use crate::engine::TensorInfo;
use crate::engine::plan::dimension_names;
use crate::load::meters::MeterContext;
use crate::load::mqtt::connect_options;
use crate::load::{self, Prepared, PreparedPipeline, Unusable};
use crate::mqtt::{ConnectOptions, check_files};
use crate::schema::{Part, parts};
use crate::secret::Password;
use crate::source::survey::Presence;
use crate::sys::Machine;
use crate::sys::trouble::Trouble;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Also test the broker: host name, TCP, TLS, login, and whether a message on BASE/NODE/check comes back
    #[arg(long)]
    online: bool,
    /// Print one JSON object, also if the configuration cannot be used; docs/json.md describes its fields
    #[arg(long, conflicts_with = "online")]
    json: bool,
}

pub(crate) fn check(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, mut prepared) = match load(&args.config, args.json)? {
        Ok(loaded) => loaded,
        Err(unusable) => return Ok(refusal(&unusable)),
    };
    let wrong = BrokerFiles::wrong(&config);
    if args.json {
        writeln!(io::stdout(), "{}", loaded_json(&config, &mut prepared, &wrong))?;
    } else {
        print(&args.config.config, &config, &mut prepared, &wrong)?;
    }
    let reached = !args.online || online::run(&config)?;
    Ok(match () {
        () if wrong != BrokerFiles::default() => ExitCode::from(EX_CONFIG),
        () if reached => ExitCode::SUCCESS,
        () => ExitCode::FAILURE,
    })
}

fn print(file: &Path, config: &Config, prepared: &mut Prepared, wrong: &BrokerFiles) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{}: ok", file.display())?;
    for file in &config.files {
        writeln!(out, "  read {}", file.display())?;
    }
    let runtime = &prepared.engine_context.runtime;
    writeln!(out, "  runtime {}, version {}", runtime.path.display(), runtime.version)?;
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        let shown = |tensor: &TensorInfo| format!("{:?} {}", tensor.shape, tensor.element);
        let inputs: Vec<String> = prepared.tensors.inputs.iter().map(shown).collect();
        let outputs = prepared.tensors.outputs.iter().map(shown);
        writeln!(
            out,
            "  pipeline {}: {} {} -> {}",
            pipeline.name,
            pipeline.model.display(),
            inputs.join(", "),
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
        if let Some(warning) = trial(pipeline, prepared) {
            writeln!(out, "    warning: {warning}")?;
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
    for meter in meters(config, prepared) {
        match meter.reading {
            Ok(()) => writeln!(out, "  meter {}: {}", meter.name, meter.detail.join("; "))?,
            // The configuration can be right all the same: a meter may be plugged in later.
            Err(error) => writeln!(out, "  meter {}: no reading now: {error}", meter.name)?,
        }
    }
    if let Some(reason) = &wrong.tls {
        writeln!(out, "  broker: TLS: {reason}")?;
    }
    for reason in &wrong.others {
        writeln!(out, "  {reason}")?;
    }
    Ok(())
}

/// Runs the model on windows of the recording, if there is one. Returns what there is to warn of.
fn trial(pipeline: &Pipeline, prepared: &mut PreparedPipeline) -> Option<String> {
    match load::trial::doubts(pipeline, prepared) {
        Ok(None) => None,
        Ok(Some(reason)) => Some(format!("on windows of the recording: {reason}")),
        Err(error) => Some(format!("it fails on windows of the recording: {error}")),
    }
}

/// What one reading of a meter has shown.
struct MeterCheck {
    name: String,
    kind: &'static str,
    detail: Vec<String>,
    reading: Result<(), String>,
}

fn meters(config: &Config, prepared: &Prepared) -> Vec<MeterCheck> {
    let context = MeterContext::new(config, prepared.engine_context.launcher.children.clone());
    let meters = load::meters::build(&config.power, &context);
    let checked = meters.into_iter().zip(&config.power.meters).map(|(mut meter, configured)| {
        let reading = match config.power.examine(configured, &Machine::this()) {
            Some(survey) if survey.presence == Presence::Ready => Ok(()),
            Some(survey) => Err(survey.fix.map_or(survey.says.clone(), |fix| format!("{}; {fix}", survey.says))),
            None => meter.read().map(|_| ()).map_err(|error| error.to_string()),
        };
        let info = meter.info();
        MeterCheck { name: info.name.clone(), kind: info.kind, detail: info.detail.clone(), reading }
    });
    checked.collect()
}

/// Returns the exit code for what a person has to see to. What is missing is no less wrong for being missing now.
pub(crate) fn refusal(unusable: &Unusable) -> ExitCode {
    ExitCode::from(if unusable.trouble == Trouble::Machine { EX_TEMPFAIL } else { EX_CONFIG })
}

/// Returns what was loaded, as `check --json` prints it.
fn loaded_json(config: &Config, prepared: &mut Prepared, wrong: &BrokerFiles) -> Value {
    let pipeline = |(pipeline, prepared): (&Pipeline, &mut PreparedPipeline)| {
        let mut warnings = prepared.warnings.clone();
        warnings.extend(trial(pipeline, prepared));
        json!({
            "name": pipeline.name, "model": pipeline.model, "inputs": prepared.tensors.inputs,
            "outputs": prepared.tensors.outputs, "path": prepared.builder.path.to_string(),
            "notes": prepared.notes.iter().chain(&prepared.recording).collect::<Vec<_>>(),
            "prediction_bytes": prepared.prediction_bytes, "warnings": warnings,
            "delegate": prepared.built.as_ref().map(|built| &built.state),
        })
    };
    let pipelines: Vec<Value> = config.pipelines.iter().zip(&mut prepared.pipelines).map(pipeline).collect();
    let meter = |meter: MeterCheck| {
        let error = meter.reading.err();
        json!({ "name": meter.name, "kind": meter.kind, "detail": meter.detail, "error": error })
    };
    let meters: Vec<Value> = meters(config, prepared).into_iter().map(meter).collect();
    let runtime = &prepared.engine_context.runtime;
    json!({
        "v": JSON_VERSION, "ok": true, "node": config.node_id, "files": config.files,
        "runtime": { "path": runtime.path, "version": runtime.version }, "pipelines": pipelines, "meters": meters,
        "tls_error": wrong.tls, "broker_errors": wrong.others, "problems": [],
    })
}

/// Returns why a configuration cannot be used, as `check --json` and `run --once --json` print it.
fn refused_json(problems: &Unusable) -> Value {
    let problem = |part: Part| {
        json!({
            "file": part.file, "line": part.line, "column": part.column, "key": part.key, "message": part.message,
        })
    };
    let problems: Vec<Value> = parts(&problems.to_string()).into_iter().map(problem).collect();
    json!({ "v": JSON_VERSION, "ok": false, "problems": problems })
}

/// What is wrong with the files for the connections to brokers.
#[derive(Default, PartialEq)]
struct BrokerFiles {
    /// Certificates and key for the node's broker.
    tls: Option<String>,
    /// Its password; and all for the brokers of sources and meters, each with who connects.
    others: Vec<String>,
}

impl BrokerFiles {
    fn wrong(config: &Config) -> Self {
        let node = connect_options(&config.mqtt);
        let tls = node.as_ref().and_then(wrong_tls);
        let password = node.as_ref().and_then(wrong_password).map(|reason| format!("broker: login: {reason}"));
        let own = online::subscriptions(config).filter(|subscribed| subscribed.subscription.other.is_some());
        let of_others = own.flat_map(|Subscribed { user, options, .. }| {
            let options = options.ok();
            let reasons = options.map_or([None, None], |options| [wrong_tls(&options), wrong_password(&options)]);
            reasons.into_iter().flatten().map(move |reason| format!("{user}: {reason}"))
        });
        Self { tls, others: password.into_iter().chain(of_others).collect() }
    }
}

fn wrong_tls(options: &ConnectOptions) -> Option<String> {
    options.endpoint.tls.as_ref().and_then(|tls| check_files(tls).err())
}

/// Reads the password. One that this user may not read is left to the daemon's user.
fn wrong_password(options: &ConnectOptions) -> Option<String> {
    let (_, file) = options.login.as_ref()?;
    Password::read(file).err().filter(|error| !error.is_denied()).map(|error| error.to_string())
}

/// Writes what each dimension of the model's input holds, and what of the model is run.
fn describe_plan(prepared: &PreparedPipeline, out: &mut impl Write) -> io::Result<()> {
    let builder = &prepared.builder;
    let (plan, path) = (&builder.model.plan, &builder.path);
    match prepared.tensors.inputs.as_slice() {
        [input] => {
            let window = path.after("window").unwrap_or(path.last());
            let dims = dimension_names(&input.shape, plan.batch, window, path.last());
            writeln!(out, "    input {}: {}", shown(&input.name), dims.join(", "))?;
        }
        several => {
            for input in several {
                writeln!(
                    out,
                    "    input {}: {:?}, {} values of the window",
                    shown(&input.name),
                    input.shape,
                    input.len()
                )?;
            }
        }
    }
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

/// Loads a configuration and all that it names. Prints the problems if it cannot be used; `as_json`: on standard output.
pub(crate) fn load(args: &ConfigArg, as_json: bool) -> anyhow::Result<Result<(Config, Prepared), Unusable>> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    Ok(load::load(&args.config, &program).inspect_err(|problems| {
        // The exit code must be right even if the output is a full disk.
        let _ = if as_json {
            writeln!(io::stdout(), "{}", refused_json(problems))
        } else {
            writeln!(io::stderr(), "{problems}")
        };
    }))
}
