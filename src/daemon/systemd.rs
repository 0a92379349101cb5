//! What systemd is told: that the daemon is ready, reloads or stops, what it does, and that it is alive.
//!
//! Outside a service of `Type=notify` all of this does nothing. Where the unit sets WatchdogSec, a thread of its own
//! feeds the watchdog for as long as the async thread gives signs of life and knows of no thread that hangs; it says why
//! before it stops feeding, since whoever hangs cannot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;

use crate::units::MonoTime;

/// Without a watchdog, what takes this long still counts as hanging, to be told of.
const PERIOD: Duration = Duration::from_secs(30);
/// A start that comes no further for this long hangs. The unit's TimeoutStartSec says the same, but not where the
/// daemon has started anew to calibrate.
const START: Duration = Duration::from_secs(900);
/// Of a status line; systemd takes no message beyond 4096 bytes.
const STATUS_BYTES: usize = 2000;

/// The async thread's last sign of life.
#[derive(Debug)]
struct Pulse {
    /// None before the daemon serves.
    at: Option<MonoTime>,
    /// When the start has last come further.
    started: MonoTime,
    /// What hangs and does not come back by itself.
    hung: Option<String>,
    stopping: bool,
}

/// The daemon as systemd sees it.
pub(crate) struct Service {
    pulse: Arc<Mutex<Pulse>>,
    /// The unit's WatchdogSec.
    period: Option<Duration>,
    status: String,
}

impl Service {
    /// Starts to feed the watchdog, if there is one.
    pub(crate) fn start() -> anyhow::Result<Self> {
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

    /// What takes longer than this hangs: then there is as much time again until systemd acts.
    pub(crate) fn limit(&self) -> Duration {
        limit(self.period.unwrap_or(PERIOD))
    }

    /// The async thread is alive; `hung` is what hangs.
    pub(crate) fn pulse(&self, hung: Option<String>) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.at = Some(MonoTime::now());
        pulse.hung = hung;
    }

    /// To be called when the start has come further.
    pub(crate) fn comes_further(&self) -> impl Fn() + Send + use<> {
        let pulse = self.pulse.clone();
        move || pulse.lock().unwrap_or_else(PoisonError::into_inner).started = MonoTime::now()
    }

    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Until it is ready again.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
        }
    }

    /// As [`Service::reloading`]; what it takes to end and to start is bounded elsewhere.
    pub(crate) fn starting_anew(&self) {
        {
            let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
            (pulse.at, pulse.started, pulse.hung) = (None, MonoTime::now(), None);
        }
        self.reloading();
    }

    /// From here on nothing is watched any more.
    /// It ends within `most`, for which systemd waits also where the unit's TimeoutStopSec is shorter.
    pub(crate) fn stopping(&self, most: Duration) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        tell(&[NotifyState::Stopping]);
        if let Ok(most) = u32::try_from(most.as_micros()) {
            tell(&[NotifyState::ExtendTimeoutUsec(most)]);
        }
    }

    /// The line that `systemctl status` shows.
    pub(crate) fn status(&mut self, line: String) {
        if line != self.status {
            tell(&[NotifyState::Status(&fit(&line))]);
            self.status = line;
        }
    }
}

/// A line for `systemctl status` before anything runs.
pub(crate) fn starting(what: &str) {
    tell(&[NotifyState::Status(what)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd does not hear");
    }
}

/// What systemd takes for one line: a line feed would begin the next assignment, and a message that is too long is
/// not heard at all.
fn fit(line: &str) -> String {
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= STATUS_BYTES).last();
    line[..end.unwrap_or(0)].replace(char::is_control, " ")
}

fn limit(period: Duration) -> Duration {
    period / 2
}

/// Until the daemon stops.
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
                    tracing::warn!("what had hung goes on; the watchdog is fed again");
                }
                tell(&[NotifyState::Watchdog]);
            }
            Err(reason) => {
                if withheld.as_ref() != Some(&reason) {
                    let seconds = period.as_secs_f64();
                    tracing::error!(
                        "{reason}; the watchdog is not fed: systemd restarts the daemon within {seconds} s"
                    );
                    tell(&[NotifyState::Status(&fit(&format!("hangs: {reason}")))]);
                }
                withheld = Some(reason);
            }
        }
        std::thread::sleep(period / 8);
    }
}

/// Whether the daemon can go on; else what hangs.
fn verdict(pulse: &Pulse, now: MonoTime, limit: Duration) -> Result<(), String> {
    if let Some(hung) = &pulse.hung {
        return Err(hung.clone());
    }
    match pulse.at {
        Some(at) if now.since(at) > limit => {
            Err(format!("the thread that delivers has not come round for {} s", limit.as_secs_f64()))
        }
        None if now.since(pulse.started) > START => {
            Err(format!("the start has not come further for {} s", START.as_secs_f64()))
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
        assert!(hangs.is_err_and(|hangs| hangs.contains("the start") && hangs.contains("900 s")));
        pulse.at = Some(MonoTime(0) + 5 * second);
        assert_eq!(verdict(&pulse, MonoTime(0) + 20 * second, 15 * second), Ok(()));
        let silent = verdict(&pulse, MonoTime(0) + 21 * second, 15 * second).unwrap_err();
        assert!(silent.contains("delivers") && silent.contains("15 s"), "{silent}");
        pulse.hung = Some("an inference".into());
        assert_eq!(verdict(&pulse, MonoTime(0) + 5 * second, 15 * second), Err("an inference".into()));
    }
}
