//! `edgewatt bench`: measures what a model, a delegate, threads and a batch cost, and shows it.

mod compare;
mod progress;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::record::chosen;
use super::{DEFAULT_CONFIG, EX_CONFIG, signals};
use crate::config::{Config, Delegate, Document, Meter, Pipeline};
use crate::load;
use crate::load::meters::MeterContext;
use crate::measure::bench::matrix::Matrix;
use crate::measure::bench::recommend::{Recommendation, Wanted, recommend, toml};
use crate::measure::bench::report::Report;
use crate::measure::bench::rounds::Plan;
use crate::measure::bench::{self, BenchError, Means, Subject, WindowsFrom};
use crate::report::{csv, html, table};
use crate::sys::hostname;
use crate::text::escaped;
use progress::Bar;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The models; in a pipeline, each replaces the pipeline's own model. Without any: that model
    models: Vec<PathBuf>,
    /// The configuration with the pipeline, the delegates and the meters. Without it and with MODEL: the models by themselves,
    /// without meters
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pipeline in which the models run; it can be left out if there is only one
    #[arg(short, long, value_name = "NAME", conflicts_with = "bare")]
    pipeline: Option<String>,
    /// Run the models by themselves, and take only meters and delegates from the configuration
    #[arg(long, requires = "models")]
    bare: bool,
    /// Play this recording; by default the one that the pipeline has
    #[arg(short, long, value_name = "FILE", group = "what")]
    recording: Option<PathBuf>,
    /// Read the windows from a text file: one a line, values separated by commas; the index of the true class may follow
    #[arg(long, value_name = "FILE", group = "what")]
    windows: Option<PathBuf>,
    /// Use random windows
    #[arg(long, group = "what")]
    random: bool,
    /// Delegates to try: names of the configuration, cpu, xnnpack; by default those of the pipeline and both of these
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    delegates: Vec<String>,
    /// Numbers of threads to try, for delegates that have them
    #[arg(short, long, value_name = "NUMBERS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Vec<u16>,
    /// Numbers of windows that go through together
    #[arg(short, long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1", value_parser = batch)]
    batches: Vec<usize>,
    /// The model whose answers others are compared with, on the runtime's own kernels; by default the first one
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// How often each cell has its turn
    #[arg(long, value_name = "NUMBER", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long a turn runs, at least; a meter may need longer
    #[arg(long, value_name = "SECONDS", default_value = "0.2", value_parser = seconds)]
    run_s: Duration,
    /// How long nothing runs before and after a run, for idle power; by default 2, or as long as a meter needs
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_s: Option<Duration>,
    /// Take as little time as gives an answer: 9 rounds of 0.1 s
    #[arg(long, conflicts_with_all = ["rounds", "run_s"])]
    quick: bool,
    /// Time the operators of each cell, after the rounds
    #[arg(long)]
    profile: bool,
    /// Say which cell to use at --rate, and print the lines of the configuration for it
    #[arg(long, requires = "rate")]
    recommend: bool,
    /// Windows per second that are wanted
    #[arg(long, value_name = "NUMBER", value_parser = positive, requires = "recommend")]
    rate: Option<f64>,
    /// The longest time from a full window to its result, in 99 of 100 cases
    #[arg(long, value_name = "MS", value_parser = positive, requires = "recommend")]
    p99_ms: Option<f64>,
    /// By how many hundredths of the windows fewer may be right than with the best cell; without true classes, by how many
    /// results may differ from the reference's
    #[arg(long, value_name = "PERCENT", value_parser = not_negative, requires = "recommend")]
    accuracy_loss: Option<f64>,
    /// Print the results as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print the results as CSV
    #[arg(long)]
    csv: bool,
    /// Write a page with plots into this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write results to share into this file: machine, kernel, runtime, models, delegates and figures; no other names
    #[arg(long, value_name = "FILE")]
    share: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Compare two benches of the same cells: exits with 1 if one became slower or takes more energy, beyond the noise
    Compare(compare::Args),
}

/// The warm-up of a turn.
const WARM_UP: Duration = Duration::from_millis(100);
/// The idle intervals for a meter with a sensor.
const IDLE: Duration = Duration::from_secs(2);
const QUICK_ROUNDS: usize = 9;
const QUICK_RUN: Duration = Duration::from_millis(100);
const QUICK_WARM_UP: Duration = Duration::from_millis(30);
const BATCH_MAX: usize = 4096;

fn batch(text: &str) -> Result<usize, String> {
    let batch: usize = text.parse().map_err(|_| "write whole numbers, such as 1,8,32".to_owned())?;
    if (1..=BATCH_MAX).contains(&batch) { Ok(batch) } else { Err(format!("it must be from 1 to {BATCH_MAX}")) }
}

fn positive(text: &str) -> Result<f64, String> {
    let value = not_negative(text)?;
    if value > 0.0 { Ok(value) } else { Err("it must be above 0".to_owned()) }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "write a number, such as 10".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("it must not be negative".to_owned()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = positive(text)?;
    if (0.01..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("it must be from 0.01 to 3600".to_owned())
    }
}

/// What the arguments and the configuration say.
struct Setup {
    config: Option<Config>,
    pipeline: Option<Pipeline>,
    files: Vec<PathBuf>,
    windows: WindowsFrom,
    delegates: Vec<Delegate>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Command::Compare(args)) = &args.command {
        return compare::run(args);
    }
    let config = match read_config(args)? {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let setup = match setup(args, config) {
        Ok(setup) => setup,
        Err(why) => {
            let _ = writeln!(io::stderr(), "edgewatt: {}", escaped(&why));
            return Ok(ExitCode::from(2));
        }
    };
    let report = match measured(args, &setup) {
        Err(error) if matches!(error.downcast_ref(), Some(BenchError::Stopped)) => bail!("{error}"),
        other => other?,
    };
    let wanted = args.rate.map(|rate| Wanted { rate, p99_ms: args.p99_ms, accuracy_loss: args.accuracy_loss });
    let recommendation = wanted.map(|wanted| recommend(&report, &wanted));
    show(args, &setup, &report, recommendation.as_ref())?;
    let is_whole =
        report.cells.iter().all(|cell| cell.failure.is_none()) && report.plan.rounds_done >= report.plan.rounds;
    let is_found = recommendation.is_none_or(|recommendation| recommendation.best.is_some());
    Ok(if is_whole && is_found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the configuration, if there is to be one.
fn read_config(args: &Args) -> anyhow::Result<Result<Option<Config>, ExitCode>> {
    let path = match &args.config {
        Some(path) => path.as_path(),
        None if args.models.is_empty() => Path::new(DEFAULT_CONFIG),
        None => return Ok(Ok(None)),
    };
    let config = Document::read(path).and_then(|document| document.parse(hostname().as_deref()));
    Ok(match config {
        Ok(config) => Ok(Some(config)),
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            Err(ExitCode::from(EX_CONFIG))
        }
    })
}

fn setup(args: &Args, config: Option<Config>) -> Result<Setup, String> {
    let pipeline = match &config {
        Some(config) if !args.bare => Some(chosen(config, args.pipeline.as_deref())?.clone()),
        _ => None,
    };
    let files = match (&pipeline, args.models.is_empty()) {
        (Some(pipeline), true) => vec![pipeline.model.clone()],
        _ => args.models.clone(),
    };
    let windows = windows(args, pipeline.as_ref())?;
    let delegates = delegates(args, config.as_ref(), pipeline.as_ref())?;
    Ok(Setup { config, pipeline, files, windows, delegates })
}

fn windows(args: &Args, pipeline: Option<&Pipeline>) -> Result<WindowsFrom, String> {
    let own = pipeline.and_then(|pipeline| pipeline.source.kind().recording().or(pipeline.parity.recording.as_deref()));
    match (&args.recording, &args.windows, args.random) {
        (Some(path), ..) if pipeline.is_some() => Ok(WindowsFrom::Recording(path.clone())),
        (Some(_), ..) => Err("--recording needs a pipeline to play it through; use --windows FILE".to_owned()),
        (_, Some(path), _) => Ok(WindowsFrom::Text(path.clone())),
        (_, _, true) => Ok(WindowsFrom::Random),
        _ => match own {
            Some(path) => Ok(WindowsFrom::Recording(path.to_owned())),
            None if pipeline.is_some() => {
                Err("the pipeline has no recording: make one with `edgewatt record`, and name it with \
                 --recording FILE; or use --random"
                    .to_owned())
            }
            None => Err("name real windows with --windows FILE, or use --random".to_owned()),
        },
    }
}

/// Returns the delegates to try, each once.
fn delegates(args: &Args, config: Option<&Config>, pipeline: Option<&Pipeline>) -> Result<Vec<Delegate>, String> {
    let named = |name: &str| {
        let own = config.and_then(|config| config.delegates.get(name)).cloned();
        own.or_else(|| Delegate::built_in(name)).ok_or_else(|| {
            let known = config.map_or_else(
                || "cpu, xnnpack".to_owned(),
                |config| config.delegate_names().collect::<Vec<_>>().join(", "),
            );
            format!("there is no delegate {name}; there are {known}")
        })
    };
    let mut delegates: Vec<Delegate> = match args.delegates.as_slice() {
        [] => pipeline.map_or_else(Vec::new, |pipeline| pipeline.delegates.clone()),
        names => names.iter().map(|name| named(name)).collect::<Result<_, _>>()?,
    };
    if args.delegates.is_empty() {
        delegates.extend(["xnnpack", "cpu"].iter().filter_map(|name| Delegate::built_in(name)));
    }
    let mut seen = std::collections::BTreeSet::new();
    delegates.retain(|delegate| seen.insert(delegate.name.clone()));
    Ok(delegates)
}

/// Returns the names of the files, as short as they are different.
fn names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stems: Vec<String> = files.iter().map(stem).collect();
    let is_once = |name: &String| stems.iter().filter(|stem| *stem == name).count() == 1;
    files
        .iter()
        .zip(&stems)
        .map(|(file, stem)| if is_once(stem) { stem.clone() } else { file.display().to_string() })
        .collect()
}

fn measured(args: &Args, setup: &Setup) -> anyhow::Result<Report> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let library = setup.config.as_ref().and_then(|config| config.runtime_library.as_deref());
    let context = load::engine_context(library, &program).map_err(|problem| anyhow!("{}", problem.message))?;
    let power = setup.config.as_ref().filter(|config| !config.power.meters.is_empty());
    let meters = power.map(|config| (&config.power, MeterContext::new(config, context.launcher.children.clone())));
    let no_meter = match (&setup.config, power) {
        (_, Some(_)) => None,
        (Some(_), None) => {
            Some("the configuration has no meter; `edgewatt doctor` lists those of this machine".to_owned())
        }
        (None, None) => Some("no configuration with a meter was named: use -c FILE with --bare".to_owned()),
    };
    let stop = signals::stop()?;
    let plan = Plan {
        rounds: if args.quick { QUICK_ROUNDS } else { args.rounds.into() },
        run: if args.quick { QUICK_RUN } else { args.run_s },
        idle: args.idle_s.unwrap_or(if power.is_some_and(|config| config.power.meters.iter().any(is_sensed)) {
            IDLE
        } else {
            Duration::ZERO
        }),
        warm_up: if args.quick { QUICK_WARM_UP } else { WARM_UP },
    };
    let means = Means {
        power: meters.as_ref().map(|(power, context)| (*power, context)),
        no_meter,
        plan,
        is_quick: args.quick,
        profile: args.profile,
        stop: &stop,
    };
    let subject = Subject {
        context: &context,
        pipeline: setup.pipeline.as_ref(),
        files: setup.files.clone(),
        windows: setup.windows.clone(),
        reference: args.reference.clone(),
    };
    let mut batches = args.batches.clone();
    batches.sort_unstable();
    batches.dedup();
    let matrix = Matrix {
        models: names(&setup.files),
        delegates: setup.delegates.clone(),
        threads: args.threads.clone(),
        batches,
    };
    let mut bar = Bar::new();
    let report = bench::run(&subject, &matrix, &means, |progress| bar.show(progress));
    bar.clear();
    Ok(report?)
}

fn is_sensed(meter: &Meter) -> bool {
    meter.kind.kind().is_sensed()
}

fn show(args: &Args, setup: &Setup, report: &Report, recommendation: Option<&Recommendation>) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let write = |path: &PathBuf, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &args.html {
        write(path, &html::page(report))?;
    }
    if let Some(path) = &args.share {
        write(path, &format!("{}\n", serde_json::to_string_pretty(&report.to_share())?))?;
    }
    if args.json {
        let mut json = serde_json::to_value(report)?;
        if let (Some(recommendation), Some(json)) = (recommendation, json.as_object_mut()) {
            json.insert("recommendation".to_owned(), serde_json::to_value(recommendation)?);
        }
        serde_json::to_writer_pretty(&mut out, &json)?;
        writeln!(out)?;
        return Ok(());
    }
    if args.csv {
        write!(out, "{}", csv::csv(report))?;
        return Ok(());
    }
    write!(out, "{}", table::report(report))?;
    if report.plan.rounds_done < report.plan.rounds {
        writeln!(out, "stopped early: {} of {} rounds are whole", report.plan.rounds_done, report.plan.rounds)?;
    }
    write!(out, "{}", table::profiles(report))?;
    if let Some(recommendation) = recommendation {
        write!(out, "\n{}", table::recommendation(recommendation))?;
        let best = report.cells.iter().find(|cell| Some(&cell.name) == recommendation.best.as_ref());
        let file = best
            .and_then(|cell| setup.files.iter().zip(names(&setup.files)).find(|(_, name)| *name == cell.model.name));
        if let Some((cell, (file, _))) = best.zip(file) {
            let pipeline = setup.pipeline.as_ref().map_or("NAME", |pipeline| pipeline.name.as_str());
            write!(out, "\n{}", toml(cell, pipeline, &file.display().to_string(), recommendation.rate))?;
        }
    }
    for (path, what) in [(&args.html, "the page"), (&args.share, "what to share")] {
        if let Some(path) = path {
            writeln!(out, "{what} is in {}", path.display())?;
        }
    }
    Ok(())
}
