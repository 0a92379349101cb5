//! Signals that ask a subcommand to stop.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::stop::{Stop, StopRequests};

/// Returns a stop that the first SIGINT or SIGTERM requests; a later one ends the program at once.
pub(crate) fn stop() -> anyhow::Result<Arc<Stop>> {
    let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
    let requested = stop.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut requests = StopRequests::default();
        for signal in signals.forever() {
            let now = Instant::now();
            if requests.is_impatient(now) {
                let _ = emulate_default_handler(signal);
            }
            requests.add(now);
            requested.request();
        }
    })?;
    Ok(stop)
}
