//! What may be asked of the daemon, and who may ask for it.
//!
//! Owns [`Action`] and the one place that carries actions out and answers. Signals and MQTT commands send actions; a command
//! changes no path, no model and no broker. Runs on the async thread.

use serde::Deserialize;
use signal_hook::consts::SIGHUP;

use super::phase::DrainFor;
use super::state::Daemon;
use crate::config::{Broker, Document};
use crate::measure::calibrations::can_calibrate;
use crate::publish::mqtt::Received;
use crate::sys;

/// More than any command needs.
const MAX_BYTES: usize = 1024;

/// Something that the daemon can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Stop,
    /// Read the configuration file again.
    Reload,
    /// Discard the samples of that pipeline until it is resumed.
    Pause(String),
    Resume(String),
    /// Calibrate all pipelines, for which the daemon has to start again.
    Calibrate,
}

/// The payload of a command.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    pipeline: Option<String>,
}

impl Action {
    /// Parses a message on `cmd/VERB`. `retained`: the broker has kept it from an earlier time. The error says why it is
    /// refused.
    pub(crate) fn parse(verb: &str, payload: &[u8], retained: bool) -> Result<Self, String> {
        if retained {
            return Err("retained commands are refused, because they would run again on every reconnect".into());
        }
        if payload.len() > MAX_BYTES {
            return Err(format!("payload is {} bytes; the limit is {MAX_BYTES}", payload.len()));
        }
        let arguments: Arguments = match payload.trim_ascii() {
            [] => Arguments::default(),
            json => serde_json::from_slice(json).map_err(|error| format!("invalid payload: {error}"))?,
        };
        let named = |command: fn(String) -> Self| {
            let needed = || "the command needs a payload such as {\"pipeline\": \"shoulder\"}".to_owned();
            arguments.pipeline.clone().map(command).ok_or_else(needed)
        };
        match verb {
            "reload" | "calibrate" if arguments.pipeline.is_some() => {
                Err("the command is for the whole node and takes no pipeline".into())
            }
            "reload" => Ok(Self::Reload),
            "calibrate" => Ok(Self::Calibrate),
            "pause" => named(Self::Pause),
            "resume" => named(Self::Resume),
            _ => Err("no such command; the commands are reload, pause, resume and calibrate".into()),
        }
    }
}

impl Daemon {
    /// Carries an action out. Returns the answer for whoever asked; the error says why it is refused.
    fn perform(&mut self, action: Action) -> Result<String, String> {
        match action {
            Action::Stop => {
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
            Action::Calibrate => self.calibrate(),
        }
    }

    /// Performs what a signal asks for.
    ///
    /// # Errors
    /// A second signal to stop ends the daemon at once.
    pub(crate) fn signal_received(&mut self, signal: i32) -> anyhow::Result<()> {
        let action = if signal == SIGHUP { Action::Reload } else { Action::Stop };
        if action == Action::Stop {
            if self.phase.stops_for() == Some(DrainFor::Stop) {
                anyhow::bail!("stopped by a second signal; queued messages are lost");
            }
            tracing::info!(signal, "stopping");
        }
        // A signal has no answer; a reload that comes during a stop has no effect.
        let _ = self.perform(action);
        Ok(())
    }

    /// Performs what a message on `cmd/VERB` asks for, and answers with an event.
    pub(crate) fn command_received(&mut self, verb: &str, message: &Received) {
        let result = Action::parse(verb, &message.payload, message.retained).and_then(|action| self.perform(action));
        let (event, answer) = match result {
            Ok(answer) => ("command", format!("{verb}: {answer}")),
            Err(reason) => ("command_refused", format!("{verb}: {reason}")),
        };
        tracing::info!("{event} over MQTT: {answer}");
        self.context.node_publisher.event(event, None, answer);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed_strictly() {
        let parse = |verb: &str, payload: &str| Action::parse(verb, payload.as_bytes(), false);
        assert_eq!(parse("reload", ""), Ok(Action::Reload));
        assert_eq!(parse("reload", " {}\n"), Ok(Action::Reload));
        assert_eq!(parse("calibrate", ""), Ok(Action::Calibrate));
        assert_eq!(parse("pause", r#"{"pipeline":"arm"}"#), Ok(Action::Pause("arm".into())));
        assert_eq!(parse("resume", r#"{"pipeline":"arm"}"#), Ok(Action::Resume("arm".into())));
        for (verb, payload, word) in [
            ("pause", "", "needs a payload"),
            ("pause", "arm", "payload"),
            ("pause", r#"{"pipeline":7}"#, "invalid type"),
            ("pause", r#"{"pipeline":"arm","model":"/tmp/x"}"#, "unknown field `model`"),
            ("reload", r#"{"pipeline":"arm"}"#, "no pipeline"),
            ("calibrate", r#"{"pipeline":"arm"}"#, "no pipeline"),
            ("stop", "", "no such command"),
            ("reboot", "", "no such command"),
            ("pause/arm", "", "no such command"),
        ] {
            let reason = parse(verb, payload).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
        assert!(Action::parse("reload", b"", true).unwrap_err().contains("retained"));
        assert!(Action::parse("reload", &[b' '; 2000], false).unwrap_err().contains("2000 bytes"));
    }
}
