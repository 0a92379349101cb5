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

/// The async thread's last sign of life.
#[derive(Debug)]
struct Pulse {
    /// None before the daemon serves: how long a start may take is for the unit to say, in TimeoutStartSec.
    at: Option<MonoTime>,
    /// What hangs and does not come back by itself.
    hung: Option<String>,
    stopping: bool,
}

/// The daemon as systemd sees it.
pub struct Service {
    pulse: Arc<Mutex<Pulse>>,
    /// The unit's WatchdogSec.
    period: Option<Duration>,
    status: String,
}

impl Service {
    /// Starts to feed the watchdog, if there is one.
    pub fn start() -> anyhow::Result<Self> {
        let pulse = Arc::new(Mutex::new(Pulse { at: None, hung: None, stopping: false }));
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
    pub fn limit(&self) -> Duration {
        limit(self.period.unwrap_or(PERIOD))
    }

    /// The async thread is alive; `hung` is what hangs.
    pub fn pulse(&self, hung: Option<String>) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.at = Some(MonoTime::now());
        pulse.hung = hung;
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Until it is ready again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
        }
    }

    /// From here on nothing is watched any more.
    pub fn stopping(&self) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        tell(&[NotifyState::Stopping]);
    }

    /// The line that `systemctl status` shows.
    pub fn status(&mut self, line: String) {
        if line != self.status {
            tell(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }
}

/// A line for `systemctl status` before anything runs.
pub fn starting(what: &str) {
    tell(&[NotifyState::Status(what)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd does not hear");
    }
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
                    tell(&[NotifyState::Status(&format!("hangs: {reason}"))]);
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
    if pulse.at.is_some_and(|at| now.since(at) > limit) {
        return Err(format!("the thread that delivers has not come round for {} s", limit.as_secs_f64()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_while_there_is_a_pulse_and_nothing_hangs() {
        let second = Duration::from_secs(1);
        let mut pulse = Pulse { at: None, hung: None, stopping: false };
        assert_eq!(verdict(&pulse, MonoTime(0) + 900 * second, 15 * second), Ok(()));
        pulse.at = Some(MonoTime(0) + 5 * second);
        assert_eq!(verdict(&pulse, MonoTime(0) + 20 * second, 15 * second), Ok(()));
        let silent = verdict(&pulse, MonoTime(0) + 21 * second, 15 * second).unwrap_err();
        assert!(silent.contains("delivers") && silent.contains("15 s"), "{silent}");
        pulse.hung = Some("an inference".into());
        assert_eq!(verdict(&pulse, MonoTime(0) + 5 * second, 15 * second), Err("an inference".into()));
    }
}
