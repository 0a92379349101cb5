//! Where the log goes: the journal when systemd started us, else text on standard error.

use anyhow::Context;
use nix::sys::stat::fstat;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::publish::mqtt::broker;
use crate::view::has_colour;
use crate::view::logs::LogOutput;

const VARIABLE: &str = "EDGEWATT_LOG";

/// Starts logging; `quiet` is for commands whose output is what matters.
pub(crate) fn start(verbose: u8, quiet: bool) -> anyhow::Result<()> {
    let level = match (verbose, quiet) {
        (0, true) => format!("warn,{}", broker::LOG_FILTER),
        (0, false) => format!("info,{}", broker::LOG_FILTER),
        (1, _) => format!("info,edgewatt=debug,{}", broker::LOG_FILTER),
        _ => "trace".to_owned(),
    };
    let directives = std::env::var(VARIABLE).unwrap_or(level);
    let filter: Targets = directives
        .parse()
        .with_context(|| format!("{VARIABLE}=\"{directives}\" is not a filter; write a level such as debug"))?;
    let registry = tracing_subscriber::registry().with(filter);
    // If the journal cannot be reached, the log goes to standard error, which systemd reads as well.
    let journal = if stderr_is_journal() { tracing_journald::layer().ok() } else { None };
    if let Some(journal) = journal {
        registry.with(journal).init();
    } else {
        let text = tracing_subscriber::fmt::layer()
            .with_writer(LogOutput)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && has_colour())
            // Otherwise it reports a failed write to the same place, and panics when that fails too.
            .log_internal_errors(false);
        registry.with(text).init();
    }
    Ok(())
}

/// Returns whether standard error is connected to the journal: systemd names that stream's device and inode.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}
