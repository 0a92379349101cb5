//! The command line: one file a subcommand. `Display` of what they return is for people.

mod calibrate;
mod check;
mod doctor;
mod engine_process;
mod inspect;
mod logging;
mod online;
mod run;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use crate::engine::process::SUBCOMMAND;

/// Exit code for a configuration that cannot be used: sysexits' EX_CONFIG, which systemd can be told not to restart.
const EX_CONFIG: u8 = 78;

const DEFAULT_CONFIG: &str = "/etc/edgewatt/edgewatt.toml";

#[derive(Debug, Parser)]
#[command(
    name = "edgewatt",
    version,
    about = "Runs TensorFlow Lite on sensor streams; publishes predictions, latency and energy per inference over MQTT",
    after_help = "\
First steps:
  edgewatt check -c edgewatt.toml          does the configuration work on this machine?
  edgewatt run -c edgewatt.toml --watch    run it and see what a subscriber sees
  edgewatt doctor                          what does this machine have, and what is missing?
  edgewatt calibrate -c edgewatt.toml      the net energy of models too short or too rare to measure
  edgewatt inspect model.tflite            what does this model want and hold?

Environment:
  EDGEWATT_LOG       what is logged, such as `debug` or `edgewatt::source=trace`; overrides -v
  EDGEWATT_RUNTIME   the TensorFlow Lite library to load, when runtime.library does not name one
  STATE_DIRECTORY    where calibrations are kept, when node.state_dir does not say; systemd sets it

Exit codes: 0 all is well, 1 something failed while running, 2 wrong arguments, 78 the configuration cannot be used."
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
    /// Find everything that is wrong with a configuration without running it
    ///
    /// Reads the configuration, loads the runtime and every model, and compares shapes, types, labels and files. Each
    /// problem is shown with its line and column. Nothing is published and no socket is opened, but with --online.
    Check(check::Args),
    /// Measure the net energy of each model in bouts, for when it runs too shortly or too rarely to be measured
    ///
    /// Runs each pipeline's model back to back in bouts, with quiet stretches between them, under each meter with a sensor,
    /// and keeps the median of the bouts for the daemon, which takes it up at its next start or reload. Sources are not
    /// opened and nothing is published. Stop the daemon first, and whatever else is busy: it would be in the figures, and a
    /// device that it has open cannot be opened twice. Exits with 1 when a figure was refused or could not be kept.
    Calibrate(calibrate::Args),
    /// Find what this machine has of what edgewatt needs, and what makes the rest work
    ///
    /// Looks at the configuration, the runtime, delegates, meters, sensors, the way to the broker, the clock, the state
    /// folder and the service. Each line is ok, absent or broken, with the command, rule or setting that fixes it. Absent
    /// is what is not there and nothing asks for; broken is what does not work, and what the configuration names and is
    /// not there. Nothing is changed, but a message on BASE/NODE/check goes to the broker. Permissions are those of the
    /// user who asks: sudo -u edgewatt edgewatt doctor asks for the service. Exits with 1 when a line is broken.
    Doctor(doctor::Args),
    /// Show what a model file holds: inputs, outputs, operators, weights, sparsity
    Inspect(inspect::Args),
    /// Subscribe to a broker and show predictions and metrics as they come
    Watch(watch::Args),
    #[command(name = SUBCOMMAND, hide = true)]
    EngineProcess(engine_process::Args),
    /// Print the completion script of a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// The configuration file
    #[arg(short, long, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
}

/// The whole program; errors are printed here.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = !matches!(&cli.command, Command::Run(args) if !args.watch);
    if let Err(error) = logging::start(cli.verbose, quiet) {
        complain(&error);
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::EngineProcess(args) => Ok(engine_process::run(&args)),
        Command::Completions { shell } => completions(shell),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

/// All that the command line takes, for its manual.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The generator panics where it cannot write, so it writes to memory.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "edgewatt", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Standard error may be a full disk: then there is nothing left to complain to.
fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "edgewatt: {error:#}");
}
