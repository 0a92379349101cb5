//! Carries out what is asked of the daemon, and answers. Signals, MQTT commands and a view in this process ask. Runs on the
//! async thread.

use std::time::Instant;

use signal_hook::consts::SIGHUP;

use super::action::Action;
use super::phase::DrainFor;
use super::state::Daemon;
use crate::config::{Broker, Document};
use crate::measure::calibrations::can_calibrate;
use crate::publish::mqtt::Received;
use crate::sys;

impl Daemon {
    /// Carries an action out. Returns the answer for whoever asked; the error says why it is refused.
    fn perform(&mut self, action: Action) -> Result<String, String> {
        match action {
            Action::Stop => {
                self.stop_requests.add(Instant::now());
                self.stop(DrainFor::Stop);
                Ok("the daemon is stopping".to_owned())
            }
            Action::Reload if self.phase.is_stopping() => Err("the daemon is stopping".to_owned()),
            Action::Reload => {
                self.reload();
                Ok("reading the configuration again".to_owned())
            }
            Action::Pause(name) => self.set_paused(&name, true),
            Action::Resume(name) => self.set_paused(&name, false),
            Action::SetDelegate { pipeline, delegate } => self.set_delegate(&pipeline, &delegate),
            Action::Calibrate => self.calibrate(),
        }
    }

    /// Performs what a view in this process asks for, and answers with an event.
    pub(crate) fn action_received(&mut self, action: Action) {
        let verb = action.to_string();
        let result = self.perform(action);
        self.answer("in this terminal", &verb, result);
    }

    fn answer(&self, place: &str, verb: &str, result: Result<String, String>) {
        let (event, answer) = match result {
            Ok(answer) => ("command", format!("{verb}: {answer}")),
            Err(reason) => ("command_refused", format!("{verb}: {reason}")),
        };
        tracing::info!("{event} {place}: {answer}");
        self.context.node_publisher.event(event, None, answer);
    }

    /// Performs what a signal asks for.
    ///
    /// # Errors
    /// A second signal to stop ends the daemon at once, unless it comes together with the first.
    pub(crate) fn signal_received(&mut self, signal: i32) -> anyhow::Result<()> {
        let action = if signal == SIGHUP { Action::Reload } else { Action::Stop };
        if action == Action::Stop {
            if self.stop_requests.is_impatient(Instant::now()) {
                anyhow::bail!("stopped by a second signal; queued messages are lost");
            }
            if self.phase.stops_for() != Some(DrainFor::Stop) {
                tracing::info!(signal, "stopping");
            }
        }
        // A signal has no answer; a reload that comes during a stop has no effect.
        let _ = self.perform(action);
        Ok(())
    }

    /// Performs what a message on `cmd/VERB` asks for, and answers with an event.
    pub(crate) fn command_received(&mut self, verb: &str, message: &Received) {
        let result = Action::parse(verb, &message.payload, message.retained).and_then(|action| self.perform(action));
        self.answer("over MQTT", verb, result);
    }

    /// A calibration needs an idle machine and all engines, which only a start has: drains, and starts again.
    fn calibrate(&mut self) -> Result<String, String> {
        if self.phase.is_stopping() {
            return Err("the daemon is stopping".into());
        }
        if self.options.once || self.config.mqtt.broker == Broker::Embedded {
            return Err("calibrate is not available with --once or with the embedded broker".into());
        }
        if !self.config.power.meters.iter().any(can_calibrate) {
            return Err("no configured meter can calibrate".into());
        }
        let file = Document::read(&self.options.config);
        file.and_then(|file| file.parse(sys::hostname().as_deref()))
            .map_err(|error| format!("the daemon could not start again: {error}"))?;
        self.stop(DrainFor::Calibrate);
        Ok("sources stop, each model runs back to back for 20 to 40 s, then the daemon starts again".to_owned())
    }

    fn set_paused(&mut self, name: &str, paused: bool) -> Result<String, String> {
        let Some(pipeline) = self.pipelines.iter_mut().find(|pipeline| pipeline.config.name == name) else {
            return Err(format!("there is no pipeline {name:?}"));
        };
        pipeline.set_paused(&self.context.node_publisher, paused)
    }
}
