//! The command line, with one file for each subcommand. Owns the arguments, the texts in the terminal and the exit codes.

mod bench;
mod calibrate;
mod check;
mod doctor;
mod engine_process;
mod health;
mod init;
mod inspect;
mod learn;
mod logging;
mod migrate;
mod manual;
mod online;
mod record;
mod run;
mod support;
mod schema;
mod setup_sensors;
mod signals;
mod watch;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::engine::process::SUBCOMMAND;
use crate::sys::stderr;
use crate::text::escaped;

/// Exit code for a configuration that cannot be used: sysexits' EX_CONFIG. The unit excludes it from restarts.
const EX_CONFIG: u8 = 78;
/// Exit code for what may pass by itself: sysexits' EX_TEMPFAIL. systemd tries again.
const EX_TEMPFAIL: u8 = 75;

const DEFAULT_CONFIG: &str = "/etc/edgewatt/edgewatt.toml";

#[derive(Debug, Parser)]
#[command(
    name = "edgewatt",
    version,
    about = "Runs TensorFlow Lite on sensor streams; publishes predictions, latency and energy per inference over MQTT",
    after_help = "\
First steps:
  edgewatt doctor                          see what this machine has and what is missing
  edgewatt inspect model.tflite            see the inputs, outputs and operators of a model
  edgewatt init --model model.tflite       write a configuration for it, and try it
  edgewatt check -c edgewatt.toml          check that the configuration works on this machine
  edgewatt run -c edgewatt.toml --watch    run it, and see the published messages
  edgewatt record -c edgewatt.toml         record what the source delivers, to play it again
  edgewatt learn -c edgewatt.toml -r FILE  learn the threshold of an anomaly from a recording of normal data
  edgewatt calibrate -c edgewatt.toml      measure the energy of models that run too briefly or too rarely
  edgewatt bench -c edgewatt.toml          measure what delegates, threads and batches buy
  edgewatt health -c edgewatt.toml         see whether the daemon runs and works
  edgewatt support -c edgewatt.toml        write an archive for a bug report

Environment:
  EDGEWATT_LOG       log filter, such as `debug` or `edgewatt::source=trace`; overrides -v
  EDGEWATT_RUNTIME   the TensorFlow Lite library, if runtime.library is not set
  STATE_DIRECTORY    the folder for calibrations and stored messages, if node.state_dir is not set; systemd sets it

Exit codes: 0 success, 1 a failure while running (or a run with --once that predicted nothing), 2 wrong arguments, 75 the start may succeed later (something is missing or busy, or memory is short), 78 the configuration cannot be used; init: 3 something is to be filled in."
)]
struct Cli {
    /// Log more: -v for details, -vv for everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pipelines of a configuration until SIGTERM or Ctrl-C
    Run(run::Args),
    /// Write a configuration for a model
    ///
    /// Reads the model, the files next to it and an Edge Impulse export, looks for sensors, meters and a broker as doctor
    /// does, and proposes source, window, front end, features and decision, each with its reason. Tries the result as check
    /// does, and with a broker as check --online does, then writes it. No file is overwritten. On a terminal it asks for what
    /// cannot be known. Exits with 0 if the file runs as it is, with 3 if something in it is to be filled in or does not work on
    /// this machine, and with 1 if no file was written.
    Init(init::Args),
    /// Check a configuration without running it
    ///
    /// Reads the configuration, loads the runtime and every model, and compares shapes, types, labels and files. Each
    /// problem is shown with its line and column. Nothing is published and no socket is opened, unless --online is given.
    Check(check::Args),
    /// Measure the net energy of models that run too briefly or too rarely to be measured while the daemon runs
    ///
    /// Runs the model of each pipeline back to back, several times, with idle intervals between the runs, while all meters
    /// with a sensor are read. Saves the median of the runs; the daemon uses it after its next start or reload. Sources are
    /// not opened and nothing is published. Stop the daemon and other busy programs first: they would add to the measured
    /// energy, and most devices can be opened only once. Exits with 1 if a result was refused or could not be saved.
    Calibrate(calibrate::Args),
    /// Measure what each choice of a model, a delegate, threads and a batch buys
    ///
    /// Every model runs with every delegate, number of threads and batch, on recorded windows: a cell each. Cells take turns in
    /// rounds, so that what the machine does meanwhile changes all of them alike. Shows times with the interval that holds them in
    /// 95 of 100 cases, throughput, energy by the meters of the configuration, memory, and how far answers agree with those of
    /// the first model on the runtime's own kernels, and with the true classes if the data has them. Differences from the first
    /// cell are called so only if the intervals say so. Ctrl-C keeps what is done. Stop the daemon and other busy programs
    /// first. Exits with 1 if a cell failed, if it was stopped early, or if no cell meets what --recommend wants.
    Bench(bench::Args),
    /// Record what the source of a pipeline delivers, to play it again with source.replay
    ///
    /// Runs the source as the daemon does, until the time or the bytes are over, the source ends, or Ctrl-C; no model and no
    /// broker are needed. Writes the data and, next to it, a manifest: FILE.json. `source.replay = { path = "FILE.json" }`
    /// plays it: the same samples, times, gaps and true classes, so the same windows. Data is CSV for numbers, WAV for sound
    /// of 16 bits, raw samples for all else. What was written stays usable when the disk is full or the program is killed:
    /// all but the last second. Exits with 1 if nothing was recorded, or not all that was asked for.
    Record(record::Args),
    /// Learn from a recording of normal data from which score on a window is abnormal
    ///
    /// Runs the recording through the pipeline, up to its decision's scores, prints how these are distributed, and writes the
    /// threshold into the file that decision.anomaly names with threshold = { learnt = "FILE" }. The file counts only for the
    /// same model, channels, front ends, features and scores; with others, the configuration is refused until you learn
    /// again. The source is not opened and nothing is published; a delegate's device must be free, so stop a daemon that uses
    /// it. Make the recording with edgewatt record, and leave it out of the model's training.
    Learn(learn::Args),
    /// Show what this machine has of what edgewatt needs, and how to fix what is missing
    ///
    /// Examines the configuration, the runtime, delegates, meters, sensors, the connection to the broker, the clock, the
    /// state folder and the service. Each finding is ok, absent or broken, with the command, rule or setting that fixes it.
    /// Absent: it is not there, and the configuration does not need it. Broken: it does not work, or the configuration names
    /// it and it is not there. Nothing is changed, but one message is published on BASE/NODE/check. Permissions are checked
    /// for the current user; to check them for the service, run: sudo -u edgewatt edgewatt doctor. Exits with 1 if a finding
    /// is broken.
    Doctor(doctor::Args),
    /// Say whether the daemon with this configuration runs and works
    ///
    /// Asks the daemon on a local socket; needs no broker and no systemd. Exits with 0 if it works, and with 1 if it does
    /// not run, starts, stops, hangs, or if a pipeline has failed. What works but not as configured is a warning: a
    /// fallback, a silent source, no connection to the broker. Use the user and the -c FILE of the daemon; root can ask the
    /// service, too.
    Health(health::Args),
    /// Bring a configuration and its fragments to the version that this edgewatt reads
    ///
    /// A configuration of an older version gets the new names of keys and its `version`; comments and layout stay. The old
    /// file is kept as FILE.bak-1, or with the next number that is free. Mode, owner and symbolic links stay. If a file
    /// cannot be migrated, none is changed. If a file or its folder is read-only, its new text is printed on standard
    /// output, and the exit code is 0. Everything else is said on standard error.
    Migrate(migrate::Args),
    /// Print a JSON Schema of the configuration, for editors and other tools
    ///
    /// It refuses unknown keys, wrong types and values out of range. `edgewatt check` finds more: what depends on several
    /// keys, and on the files that the configuration names.
    Schema(schema::Args),
    /// Set up in the kernel what reading the configured sensors needs; as root
    ///
    /// Switches the buffers of the IIO devices on that the configuration reads, with their channels, rate, trigger and clock,
    /// and those off that it polls. The daemon then needs no rights for that. Run it again after a change of these keys: a
    /// device that a program reads is left as it is, so stop the daemon first. The drop-in iio.conf runs it before each
    /// start of the service, and the rule iio.rules when a device is plugged in. Exits with 1 if something failed.
    SetupSensors(setup_sensors::Args),
    /// Show the contents of a model file: inputs, outputs, operators, weights, sparsity
    Inspect(inspect::Args),
    /// Write one archive for a bug report: what doctor finds, the configuration, the log, versions
    ///
    /// Holds: doctor's report, the daemon's health and info, the configuration, the service's last log lines, the versions
    /// of the system, and sizes and hashes of the models. Password files are not read; comments of the configuration, the
    /// names of MQTT user and client, the broker's host, and what looks like a secret are hidden. What cannot be had is a
    /// file that says why. Nothing is sent, except doctor's one message to the configured broker. Lists the content before
    /// it writes; look through the archive before you send it.
    Support(support::Args),
    /// Show what the nodes of a broker do: predictions, energy, latency, power and events
    ///
    /// In a terminal this is a full-screen view; else, and with --lines, plain lines, each with its time and node. Keys: q
    /// ends, p pauses the pipeline that is shown, d chooses its delegate, arrows or Tab show another pipeline or node, ? explains the
    /// words. A node takes commands only if its mqtt.commands is true. NO_COLOR turns colours off.
    Watch(watch::Args),
    #[command(name = SUBCOMMAND, hide = true)]
    EngineProcess(engine_process::Args),
    /// Print the completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Write the man pages and the completions into a folder, for packages
    #[command(hide = true)]
    Manual(manual::Args),
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration file; one named edgewatt.toml is read with its fragments, conf.d/*.toml next to it
    #[arg(short, long, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
}

/// The whole program; errors are printed here.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() && init::wants_json(std::env::args_os().skip(1)) {
            init::print_wrong_arguments(&error);
        }
        error.exit()
    });
    let quiet = !matches!(&cli.command, Command::Run(args) if !args.watch);
    if let Err(error) = logging::start(cli.verbose, quiet) {
        print_error(&error);
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Learn(args) => learn::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::SetupSensors(args) => setup_sensors::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Support(args) => support::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::EngineProcess(args) => Ok(engine_process::run(&args)),
        Command::Completions { shell } => completions(shell),
        Command::Manual(args) => manual::run(&args),
    };
    result.unwrap_or_else(|error| {
        if is_reader_gone(&error) {
            return ExitCode::from(READER_GONE);
        }
        print_error(&error);
        ExitCode::FAILURE
    })
}

/// The status of a program that SIGPIPE has ended, as a shell shows it.
const READER_GONE: u8 = 141;

/// Returns whether whoever read what is printed, such as `head`, has read enough. Pipes of another use have a context.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    let is_alone = error.chain().count() == 1;
    is_alone && error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the definition of the command line, from which its manual is made.
fn command() -> clap::Command {
    Cli::command()
}

/// Returns a completion script. It is made in memory, because the generator panics if it cannot write.
fn completion_script(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "edgewatt", &mut script);
    script
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(&completion_script(shell))?;
    Ok(ExitCode::SUCCESS)
}

/// The version of what `check --json` and `run --once --json` print.
const JSON_VERSION: u32 = 1;

/// Prints an error. A failure to print is ignored, because there is no other place to report it.
fn print_error(error: &anyhow::Error) {
    // A pipeline may still be building its engine, which captures standard error.
    let _ = stderr::write(format!("edgewatt: {}\n", escaped(&format!("{error:#}"))).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_read_enough_is_no_error_and_other_pipes_are() {
        let broken = || anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_reader_gone(&broken()));
        assert!(!is_reader_gone(&broken().context("health.sock")));
        assert!(!is_reader_gone(&io::Error::from(io::ErrorKind::NotFound).into()));
    }
}
