//! `edgewatt record`: writes what a pipeline's source delivers into files that `source.replay` plays.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use nix::libc::SIGXFSZ;

use super::health::{Asked, ask};
use super::{ConfigArg, EX_CONFIG, signals};
use crate::config::{Config, Document, Pipeline};
use crate::load;
use crate::load::mqtt::{connect_options, node_connection};
use crate::record::session::{self, Ended, Input, Limits, Progress};
use crate::record::{About, AtEnd, Format, Recording, Target};
use crate::source::recording::manifest::{FrameTimes, Manifest};
use crate::source::{FoundNames, OpenOptions, TruthLabels};
use crate::sys::cpu::Children;
use crate::sys::{Machine, hostname};
use crate::text::{counted, escaped, figure};
use crate::units::{MonoTime, WallTime};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The pipeline whose source is recorded; it can be left out if there is only one
    #[arg(short, long, value_name = "NAME")]
    pipeline: Option<String>,
    /// End so many seconds after the first sample
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// End when the data has so many bytes; k, M and G stand for a thousand, a million and a thousand million
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    bytes: Option<u64>,
    /// A folder, or the name of the recording; its ending can name the format: walk.csv
    #[arg(short, long, default_value = ".", value_name = "PATH")]
    output: PathBuf,
    /// How the data is written; by default what fits the stream best
    #[arg(short, long, value_enum)]
    format: Option<DataFormat>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// How the data is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DataFormat {
    /// One line for each sample of all channels, with its times, its true class and the gap before it
    Csv,
    /// Sound of 16 bits; times and gaps are in NAME.blocks.csv
    Wav,
    /// The samples as they are; times and gaps are in NAME.blocks.csv
    Raw,
}

impl From<DataFormat> for Format {
    fn from(format: DataFormat) -> Self {
        match format {
            DataFormat::Csv => Self::Csv,
            DataFormat::Wav => Self::Wav,
            DataFormat::Raw => Self::Raw,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 60".to_owned())?;
    if !(0.001..=1e9).contains(&seconds) {
        return Err("it must be from 0.001 to 1000000000".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "write a whole number of bytes, such as 10M".to_owned())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // By default, the kernel would end this program where a file may not grow; then writing fails instead.
    signal_hook::flag::register(SIGXFSZ, Arc::<AtomicBool>::default())?;
    let stop = signals::stop()?;
    let read = Document::read(&args.config.config).and_then(|document| {
        let hash = document.hash();
        Ok((hash, document.for_sources().parse(hostname().as_deref())?))
    });
    let (config_hash, config) = match read {
        Ok(read) => read,
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            return Ok(ExitCode::from(EX_CONFIG));
        }
    };
    let pipeline = match chosen(&config, args.pipeline.as_deref()) {
        Ok(pipeline) => pipeline,
        Err(why) => {
            let _ = writeln!(io::stderr(), "edgewatt: {}", escaped(&why));
            return Ok(ExitCode::from(2));
        }
    };
    if let Some(why) = taken_by_daemon(&args.config.config, pipeline) {
        bail!("{why}");
    }
    let source = pipeline.source.kind();
    let spec = source.spec();
    let wanted = args.format.map(Format::from).or_else(|| Target::format(&args.output));
    let format = Format::choose(wanted, &spec, pipeline.source.has_truth())?;
    let target = Target::new(&args.output, &pipeline.name, format, WallTime::now());
    if let Some(remark) = target.remark(&args.output, format) {
        say(&remark);
    }
    if let Some(warning) = source.survey(&Machine::this()).warning() {
        say(&format!("warning: {warning}"));
    }
    let settings = load::sink(pipeline, &spec);
    let (names, stats) = (Arc::<FoundNames>::default(), Arc::default());
    let labels = TruthLabels {
        labels: Vec::new(),
        pipeline: pipeline.name.clone(),
        stats: Arc::clone(&stats),
        found: Some(names.clone()),
    };
    let node = node_connection(&config.mqtt, connect_options(&config.mqtt));
    let options = OpenOptions {
        labels,
        // What can end, such as a program, ends the recording.
        once: source.endless().is_none(),
        children: Children::default(),
        pipeline: pipeline.name.clone(),
        node: Some(node),
    };
    let opened = source.open(options);
    let opened = opened.with_context(|| format!("cannot open the source of {}", pipeline.name))?;
    let about = About {
        pipeline: pipeline.name.clone(),
        source: pipeline.source.name().to_owned(),
        config: args.config.config.clone(),
        config_hash,
        has_time: source.has_time(),
        has_truth: pipeline.source.has_truth(),
        most_block_frames: settings.frames,
        spec,
    };
    let mut recording = Recording::begin(target, format, about, args.force)?;
    let limits = Limits { time: args.seconds, bytes: args.bytes };
    let mut shown = Shown::new(limits);
    let input = Input { source: opened, settings, names, stats };
    let (ended, at_end) =
        session::record(&mut recording, input, limits, &stop, &pipeline.name, |progress| shown.show(progress))?;
    shown.end();
    end(recording, ended, at_end)
}

/// Completes the recording, and says what came of it.
fn end(recording: Recording, ended: Ended, at_end: AtEnd) -> anyhow::Result<ExitCode> {
    let target = recording.target().clone();
    let why = match &ended {
        Ended::SourceFailed(why) => Some(why.clone()),
        Ended::Failed(error) => Some(error.to_string()),
        Ended::Time | Ended::Bytes | Ended::Stopped | Ended::SourceEnded => None,
    };
    let rejected: u64 = at_end.rejected.iter().map(|(_, count)| count).sum();
    // After an error of the disk, what is in memory is forgotten: what is there now is what is in the files.
    if recording.size().0 == 0 {
        recording.discard();
        let reason = why.unwrap_or_else(|| match rejected {
            0 => "the source gave no sample".to_owned(),
            rejected => format!("the source gave no sample; {rejected} rejected, and the log says why"),
        });
        bail!("nothing was recorded: {reason}");
    }
    let manifest = recording.finish(at_end).map_err(|error| match &why {
        Some(why) => anyhow::anyhow!("{why}; then: {error}; {} says what is known", target.manifest.display()),
        None => error.into(),
    })?;
    let end = if matches!(ended, Ended::SourceEnded) { "; the source has ended" } else { "" };
    writeln!(io::stdout(), "{}{end}", summary(&target.manifest, &manifest))?;
    match why {
        Some(why) => bail!("the recording ended early, and what was recorded is good: {why}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

pub(super) fn chosen<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Pipeline, String> {
    let names = || config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.pipelines.as_slice()) {
        (None, [only]) => Ok(only),
        (None, []) => Err("the configuration has no pipeline".to_owned()),
        (None, _) => Err(format!("name the pipeline with --pipeline; the pipelines are {}", names())),
        (Some(name), pipelines) => pipelines
            .iter()
            .find(|pipeline| pipeline.name == name)
            .ok_or_else(|| format!("there is no pipeline {name}; the pipelines are {}", names())),
    }
}

/// Says why the source cannot be read now: the daemon has it, and only one can.
fn taken_by_daemon(config: &Path, pipeline: &Pipeline) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let taken = pipeline.source.kind().exclusive();
    let resource =
        taken.first().map(|taken| taken.resource.as_str()).filter(|name| *name != crate::source::STANDARD_INPUT)?;
    match ask(config, PATIENCE) {
        Asked::Answered(_) | Asked::Silent { .. } => Some(format!(
            "the daemon with this configuration runs, and only one program can read {resource}; stop it first, for example: \
             sudo systemctl stop edgewatt"
        )),
        Asked::NoSocket { .. } | Asked::Stale { .. } | Asked::Denied { .. } | Asked::Strange { .. } => None,
    }
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "edgewatt: {}", escaped(line));
}

/// Returns in one line what was recorded.
fn summary(path: &Path, manifest: &Manifest) -> String {
    let length = |ns: fn(&FrameTimes) -> Option<i64>| {
        let (first, last) = (manifest.first.as_ref().and_then(ns)?, manifest.last.as_ref().and_then(ns)?);
        Some(last.saturating_sub(first) as f64 / 1e9)
    };
    // A file comes faster than its time goes; and the time of a loop goes back.
    let seconds = [length(|times| times.stream_ns), length(|times| Some(times.arrived_ns))];
    let seconds = seconds.into_iter().flatten().fold(0.0, f64::max);
    let count = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    let some = |count: u64, said: String| if count > 0 { format!(", {said}") } else { String::new() };
    let (gaps, rejected, lost) = (count(&manifest.gaps.counts), count(&manifest.rejected), count(&manifest.dropped));
    format!(
        "{}: {}, {} s, {} of {}{}{}{}",
        path.display(),
        counted(manifest.frames, "sample"),
        figure(seconds),
        counted(manifest.data.bytes, "byte"),
        manifest.data.format,
        some(gaps, counted(gaps, "gap")),
        some(rejected, format!("{rejected} rejected")),
        some(lost, format!("{} lost", counted(lost, "sample"))),
    )
}

/// The line that says how far the recording is.
struct Shown {
    limits: Limits,
    is_terminal: bool,
    last: Option<MonoTime>,
    width: usize,
}

impl Shown {
    fn new(limits: Limits) -> Self {
        Self { limits, is_terminal: io::stderr().is_terminal(), last: None, width: 0 }
    }

    fn show(&mut self, progress: &Progress) {
        let each = Duration::from_millis(if self.is_terminal { 500 } else { 10_000 });
        let now = MonoTime::now();
        if self.last.is_some_and(|last| now.since(last) < each) {
            return;
        }
        // A log needs no line before there is something to say.
        let is_first = self.last.replace(now).is_none();
        if is_first && !self.is_terminal {
            return;
        }
        let line = self.line(progress);
        if self.is_terminal {
            let width = self.width.max(line.len());
            self.width = line.len();
            let _ = write!(io::stderr(), "\r{line:<width$}");
        } else {
            say(&line);
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let Progress { frames, bytes, time, time_left, trouble } = progress;
        if *frames == 0 {
            let trouble = trouble.as_ref().map_or(String::new(), |trouble| format!(": {}", escaped(trouble)));
            return format!("waiting for the first sample{trouble}");
        }
        let left = match (time_left, self.limits.bytes) {
            (Some(left), _) => format!(", {:.0} s left", left.as_secs_f64().ceil()),
            (None, Some(most)) => format!(" of {most}"),
            (None, None) => ", Ctrl-C ends it".to_owned(),
        };
        let trouble = trouble.as_ref().map_or(String::new(), |trouble| format!("; {}", escaped(trouble)));
        let samples = counted(*frames, "sample");
        format!("{samples}, {:.0} s, {bytes} bytes{left}{trouble}", time.as_secs_f64())
    }

    /// Leaves the line.
    fn end(&self) {
        if self.is_terminal && self.width > 0 {
            let _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_and_seconds_are_read() {
        assert_eq!(["12", "3k", "2M", "1G"].map(bytes), [Ok(12), Ok(3_000), Ok(2_000_000), Ok(1_000_000_000)]);
        for wrong in ["0", "", "k", "-1", "1.5M", "99999999999999999999G", "1\u{b5}"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("x").is_err());
    }
}
