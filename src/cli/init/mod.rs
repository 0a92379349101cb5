//! `edgewatt init`: writes a configuration for a model, from what the model, the files next to it and the machine tell.
//!
//! Owns the order of the steps. What a model needs is in `crate::propose`; here are what is read (`material`), what the
//! machine has (`find`), the questions (`ask`), the tests of the result (`trial`), the files (`write`) and the report.

mod ask;
mod find;
mod material;
mod report;
mod trial;
mod write;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::ask::Asker;
use self::material::Material;
use self::report::Report;
use self::trial::Draft;
use crate::doctor::Roots;
use crate::propose::source::{self, Found, Origin, SourceText};
use crate::propose::{Proposal, Stream, recording};

/// Exit code for a file that was written and has something to fill in.
const OPEN: u8 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model: a .tflite file, or the ZIP file of an Edge Impulse deployment that has one
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Where the data comes from, such as alsa, iio, serial or lines; if wanted with its card, device, port, path or topic:
    /// serial=/dev/ttyUSB0, replay=recording.csv
    #[arg(long, value_name = "KIND[=WHERE]")]
    source: Option<String>,
    /// The export of the Edge Impulse project that the model is of: the ZIP file of the C++ library, one of its headers, or
    /// JSON of the studio's API
    #[arg(long, value_name = "FILE")]
    edge_impulse: Option<PathBuf>,
    /// The names of the channels, in the order of the training
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    channels: Option<Vec<String>>,
    /// The number of samples in a second
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,
    /// The number of samples in a window, for a model that leaves it open
    #[arg(long, value_name = "SAMPLES", value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    window: Option<u32>,
    /// The broker's address, or "none"; without it, mqtt://127.0.0.1:1883 if a broker answers there
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<String>,
    /// The file to write; default: the name of the pipeline with .toml, in the current folder
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Ask nothing, and take what is proposed
    #[arg(short, long)]
    yes: bool,
    /// Ask nothing, and print one JSON object; docs/json.md describes its fields
    #[arg(long)]
    json: bool,
    /// The folder of sysfs
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    sysfs: PathBuf,
    /// The folder of the device files
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    dev: PathBuf,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "write a number, such as 50".to_owned())?;
    if (1e-6..=1e9).contains(&rate) { Ok(rate) } else { Err("it must be from 0.000001 to 1000000000".to_owned()) }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match init(args) {
        Ok(report) => {
            report.print(args.json)?;
            Ok(if report.open.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(OPEN) })
        }
        Err(error) if args.json => {
            report::print_error(&error)?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether these are the arguments of an `init` that is to print JSON; they may be wrong.
pub(crate) fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<OsString> = args.collect();
    let command = args.iter().find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    command.is_some_and(|command| command == "init") && args.iter().any(|arg| arg == "--json")
}

/// Prints what is wrong with the arguments as JSON. A failure to print is ignored: the same is on standard error.
pub(crate) fn print_wrong_arguments(error: &clap::Error) {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let _ = report::print_error(&anyhow::anyhow!("{}", first.trim_start_matches("error: ")));
}

/// Takes all steps.
fn init(args: &Args) -> anyhow::Result<Report> {
    let mut material = Material::read(args)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.toml", material.name())));
    write::check_free(&output)?;
    material.place(&output)?;
    let mut asker = Asker::of_terminal(args.yes || args.json);
    let roots = Roots { sysfs: args.sysfs.clone(), dev: args.dev.clone() };
    let (proposal, source) = proposed(args, &mut material, &roots, &output, asker.as_mut())?;
    let new_files = material.new_files(&proposal)?;
    let meters = find::meters(&roots);
    let draft = Draft {
        proposal: &proposal,
        source: &source,
        material: &material,
        meters: &meters,
        broker: args.broker.as_deref(),
        output: &output,
    };
    // What is checked names these files, so they must exist before the configuration does.
    let mut written = write::Written::default();
    for (path, content) in &new_files {
        written.add(path, content)?;
    }
    let tried = draft.tried()?;
    written.add(&output, tried.text.as_bytes())?;
    Ok(Report::new(&material, proposal, source, tried, written.keep()))
}

/// Proposes the pipeline and its source; asks for what cannot be known, if there is somebody to ask.
fn proposed(
    args: &Args,
    material: &mut Material,
    roots: &Roots,
    output: &Path,
    mut asker: Option<&mut Asker<'_>>,
) -> anyhow::Result<(Proposal, SourceText)> {
    let failed = |why: String| anyhow::anyhow!("{}: {why}", args.model.display());
    let mut proposal = material.propose().map_err(failed)?;
    let sensors = find::sensors(roots);
    let fitting = find::fitting(&sensors, &proposal.stream);
    let mut given = args.source.clone();
    if let (None, Some(asker)) = (&given, asker.as_deref_mut()) {
        given = asker.source(&proposal.stream, &fitting)?;
    }
    let split = given.as_deref().map(|given| match given.split_once('=') {
        Some((kind, place)) => (kind.trim(), Some(place.trim()).filter(|place| !place.is_empty())),
        None => (given.trim(), None),
    });
    let named = split.and_then(|(kind, place)| Some(write::as_named(kind, place?, output)));
    let given = split.map(|(kind, _)| (kind, named.as_deref()));
    let columns = match (split, &proposal.stream) {
        (Some(("replay", Some(path))), Stream::Numbers { channels, .. }) => {
            let named = material.channels.as_deref();
            let read = material::first_lines(Path::new(path));
            let read = read.map(|text| recording::columns(&text, channels.len(), named)).transpose();
            read.map_err(|why| anyhow::anyhow!("--channels: {why}"))?.flatten()
        }
        (Some(("replay", Some(path))), _) if material::is_text(Path::new(path)) => {
            let stream = proposal.stream.in_words();
            anyhow::bail!("--source: {path} is a file of text, and the model takes {stream}")
        }
        _ => None,
    };
    if let Some(columns) = &columns {
        material.channels.get_or_insert_with(|| columns.channels.clone());
    }
    let has_own_names = fitting.iter().any(|found| found.kind == "iio" && given.is_none_or(|(kind, _)| kind == "iio"));
    let is_text = given.is_some_and(|(kind, _)| !matches!(kind, "iio" | "hwmon" | "i2c" | "spi" | "alsa"));
    if let (Some(asker), true, false) = (asker.as_deref_mut(), is_text && columns.is_none(), has_own_names) {
        material.ask_channels(&proposal.stream, asker)?;
    }
    let is_named = material.channels.is_some() || material.names_axes();
    proposal = material.propose().map_err(failed)?;
    let found: Option<&Found> = match given {
        Some((kind, _)) => fitting.iter().copied().find(|found| found.kind == kind),
        None => fitting.first().copied(),
    };
    let origin = Origin { given, found, columns: columns.as_ref(), is_named };
    let mut text = source::write(&proposal.stream, &origin).map_err(|why| anyhow::anyhow!("--source: {why}"))?;
    if let (Some((kind, None)), Some(asker)) = (given, asker) {
        let answered = asker.place(kind, &text.open)?.map(|place| write::as_named(kind, &place, output));
        if let Some(place) = answered {
            let origin = Origin { given: Some((kind, Some(&place))), ..origin };
            text = source::write(&proposal.stream, &origin).map_err(|why| anyhow::anyhow!("--source: {why}"))?;
        }
    }
    text.notes.extend(find::others(&fitting, &text));
    text.notes.extend(material.refused_labels(&proposal));
    Ok((proposal, text))
}
