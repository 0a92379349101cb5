//! Notifies systemd: that the daemon is ready, reloads or stops, what it does, and that it is alive.
//!
//! Outside a service of `Type=notify` all of this does nothing. If the unit sets WatchdogSec, a thread of its own feeds the
//! watchdog for as long as the async thread is alive and no thread hangs. Before it stops feeding it logs why, because a
//! thread that hangs cannot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;

use crate::units::MonoTime;

/// Without a watchdog, a thread that takes this long is still reported.
const PERIOD: Duration = Duration::from_secs(30);
/// A startup that makes no progress for this long hangs. The unit's TimeoutStartSec says the same, but does not apply after
/// the daemon has restarted itself to calibrate.
const STARTUP: Duration = Duration::from_secs(900);
/// Limit of a status line; systemd takes no message beyond 4096 bytes.
const STATUS_BYTES: usize = 2000;

/// What the watchdog thread knows of the daemon.
#[derive(Debug)]
struct Pulse {
    /// When the async thread was last alive; `None` before the daemon runs.
    at: Option<MonoTime>,
    /// When the startup has last made progress.
    started: MonoTime,
    /// What hangs and does not recover by itself.
    hung: Option<String>,
    stopping: bool,
}

/// The way to systemd.
pub struct Service {
    pulse: Arc<Mutex<Pulse>>,
    /// The unit's WatchdogSec.
    period: Option<Duration>,
    status: String,
}

impl Service {
    /// Starts to feed the watchdog if there is one.
    pub fn start() -> anyhow::Result<Self> {
        let pulse = Pulse { at: None, started: MonoTime::now(), hung: None, stopping: false };
        let pulse = Arc::new(Mutex::new(pulse));
        let period = sd_notify::watchdog_enabled().filter(|period| !period.is_zero());
        if let Some(period) = period {
            let pulse = pulse.clone();
            std::thread::Builder::new()
                .name("watchdog".into())
                .spawn(move || feed(&pulse, period))
                .context("cannot start the watchdog's thread")?;
        }
        Ok(Self { pulse, period, status: String::new() })
    }

    /// Returns after what time a thread counts as hanging; systemd acts after as much time again.
    pub fn limit(&self) -> Duration {
        limit(self.period.unwrap_or(PERIOD))
    }

    /// Returns a function that returns what hangs, by the rules of the watchdog, also if there is none.
    pub fn hang_detector(&self) -> impl Fn() -> Option<String> + Send + use<> {
        let (pulse, limit) = (self.pulse.clone(), self.limit());
        move || {
            let pulse = pulse.lock().unwrap_or_else(PoisonError::into_inner);
            if pulse.stopping { None } else { verdict(&pulse, MonoTime::now(), limit).err() }
        }
    }

    /// Notes that the async thread is alive; `hung` is what hangs.
    pub fn alive(&self, hung: Option<String>) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.at = Some(MonoTime::now());
        pulse.hung = hung;
    }

    /// Returns a function to call whenever the startup has made progress.
    pub fn progress_reporter(&self) -> impl Fn() + Send + use<> {
        let pulse = self.pulse.clone();
        move || pulse.lock().unwrap_or_else(PoisonError::into_inner).started = MonoTime::now()
    }

    pub fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// The daemon reloads, until it is ready again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot notify systemd of the reload"),
        }
    }

    /// The daemon restarts itself, which systemd sees as a reload. Other limits bound the time that it takes.
    pub fn restarting(&self) {
        {
            let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
            (pulse.at, pulse.started, pulse.hung) = (None, MonoTime::now(), None);
        }
        self.reloading();
    }

    /// The daemon stops, and is no longer watched. It ends within `most`, for which systemd waits even if the unit's
    /// TimeoutStopSec is shorter.
    pub fn stopping(&self, most: Duration) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        notify(&[NotifyState::Stopping]);
        if let Ok(most) = u32::try_from(most.as_micros()) {
            notify(&[NotifyState::ExtendTimeoutUsec(most)]);
        }
    }

    /// Sets the line that `systemctl status` shows.
    pub fn set_status(&mut self, line: String) {
        if line != self.status {
            notify(&[NotifyState::Status(&fit(&line))]);
            self.status = line;
        }
    }
}

/// Sets the line that `systemctl status` shows before anything runs.
pub(crate) fn set_starting_status(what: &str) {
    notify(&[NotifyState::Status(what)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Makes a line that systemd accepts: a line feed would begin the next assignment, and a message that is too long would be
/// ignored.
fn fit(line: &str) -> String {
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= STATUS_BYTES).last();
    line[..end.unwrap_or(0)].replace(char::is_control, " ")
}

fn limit(period: Duration) -> Duration {
    period / 2
}

/// Feeds the watchdog until the daemon stops.
fn feed(pulse: &Mutex<Pulse>, period: Duration) {
    let mut withheld: Option<String> = None;
    loop {
        let verdict = {
            let pulse = pulse.lock().unwrap_or_else(PoisonError::into_inner);
            if pulse.stopping {
                return;
            }
            verdict(&pulse, MonoTime::now(), limit(period))
        };
        match verdict {
            Ok(()) => {
                if withheld.take().is_some() {
                    tracing::warn!("what hung has recovered; the watchdog is fed again");
                }
                notify(&[NotifyState::Watchdog]);
            }
            Err(reason) => {
                if withheld.as_ref() != Some(&reason) {
                    let seconds = period.as_secs_f64();
                    tracing::error!(
                        "{reason}; the watchdog is not fed: systemd restarts the daemon within {seconds} s"
                    );
                    notify(&[NotifyState::Status(&fit(&format!("hangs: {reason}")))]);
                }
                withheld = Some(reason);
            }
        }
        std::thread::sleep(period / 8);
    }
}

/// Returns whether the watchdog may be fed.
///
/// # Errors
/// What hangs.
fn verdict(pulse: &Pulse, now: MonoTime, limit: Duration) -> Result<(), String> {
    if let Some(hung) = &pulse.hung {
        return Err(hung.clone());
    }
    match pulse.at {
        Some(at) if now.since(at) > limit => {
            Err(format!("the thread that delivers has not responded for {} s", limit.as_secs_f64()))
        }
        None if now.since(pulse.started) > STARTUP => {
            Err(format!("startup has made no progress for {} s", STARTUP.as_secs_f64()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_that_systemd_takes() {
        assert_eq!(fit("a: by cpu, degraded: it said\nMAINPID=1"), "a: by cpu, degraded: it said MAINPID=1");
        assert_eq!(fit(&"\u{e9}".repeat(3000)).len(), STATUS_BYTES);
        assert_eq!(fit(&format!("{}\u{e9}", "x".repeat(STATUS_BYTES - 1))), "x".repeat(STATUS_BYTES - 1));
    }

    #[test]
    fn the_watchdog_is_fed_while_there_is_a_pulse_and_nothing_hangs() {
        let second = Duration::from_secs(1);
        let mut pulse = Pulse { at: None, started: MonoTime(0), hung: None, stopping: false };
        assert_eq!(verdict(&pulse, MonoTime(0) + 900 * second, 15 * second), Ok(()));
        let hangs = verdict(&pulse, MonoTime(0) + 901 * second, 15 * second);
        assert!(hangs.is_err_and(|hangs| hangs.contains("startup") && hangs.contains("900 s")));
        pulse.at = Some(MonoTime(0) + 5 * second);
        assert_eq!(verdict(&pulse, MonoTime(0) + 20 * second, 15 * second), Ok(()));
        let silent = verdict(&pulse, MonoTime(0) + 21 * second, 15 * second).unwrap_err();
        assert!(silent.contains("delivers") && silent.contains("15 s"), "{silent}");
        pulse.hung = Some("an inference".into());
        assert_eq!(verdict(&pulse, MonoTime(0) + 5 * second, 15 * second), Err("an inference".into()));
    }
}
