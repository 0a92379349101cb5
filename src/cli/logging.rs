//! Where the log goes: the journal when systemd started us, else text on standard error.

use anyhow::Context;
use nix::sys::stat::fstat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::publish::broker;

const VARIABLE: &str = "EDGEWATT_LOG";

/// Starts logging; `quiet` is for commands whose output is what matters.
pub(crate) fn start(verbose: u8, quiet: bool) -> anyhow::Result<()> {
    let level = match (verbose, quiet) {
        (0, true) => format!("warn,{}", broker::LOG_FILTER),
        (0, false) => format!("info,{}", broker::LOG_FILTER),
        (1, _) => format!("info,edgewatt=debug,{}", broker::LOG_FILTER),
        _ => "trace".to_owned(),
    };
    let filter = match std::env::var(VARIABLE) {
        Ok(directives) => EnvFilter::try_new(&directives)
            .with_context(|| format!("{VARIABLE}=\"{directives}\" is no filter; write a level such as debug"))?,
        Err(_) => EnvFilter::new(level),
    };
    let registry = tracing_subscriber::registry().with(filter);
    // A journal that cannot be reached is no reason not to run: systemd takes the text as well.
    let journal = if stderr_is_journal() { tracing_journald::layer().ok() } else { None };
    if let Some(journal) = journal {
        registry.with(journal).init();
    } else {
        let text = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            // It would report a write that fails to the same place, and panic when that fails too.
            .log_internal_errors(false);
        registry.with(text).init();
    }
    Ok(())
}

/// systemd names the device and inode of the stream that it connected to the journal.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}
