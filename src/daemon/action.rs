//! What may be asked of the daemon, how a command over MQTT says it, and how a view in this process sends it.
//!
//! No action changes a path, a model or the broker. A leaf: it imports nothing of the daemon.

use std::fmt;

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

/// More than any command needs.
const MAX_BYTES: usize = 1024;

/// Something that the daemon can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Stop,
    /// Read the configuration file again.
    Reload,
    /// Discard the samples of that pipeline until it is resumed.
    Pause(String),
    Resume(String),
    /// Run that pipeline's model by another delegate, until the configuration is read again.
    SetDelegate {
        pipeline: String,
        delegate: String,
    },
    /// Calibrate all pipelines, for which the daemon has to start again.
    Calibrate,
}

/// In the words of the commands over MQTT.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Reload => "reload",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::SetDelegate { .. } => "delegate",
            Self::Calibrate => "calibrate",
        })
    }
}

/// The way for a view in this process to ask the daemon for something; cheap to clone. The daemon answers with an event
/// `command` or `command_refused`.
#[derive(Debug, Clone)]
pub struct ActionSender(pub(super) UnboundedSender<Action>);

impl ActionSender {
    /// Asks for an action. Has no effect once the daemon has ended.
    pub fn send(&self, action: Action) {
        let _ = self.0.send(action);
    }
}

/// The payload of a command.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    pipeline: Option<String>,
    delegate: Option<String>,
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
        if verb != "delegate" && arguments.delegate.is_some() {
            return Err("only the command delegate takes a delegate".into());
        }
        match verb {
            "reload" | "calibrate" if arguments.pipeline.is_some() => {
                Err("the command is for the whole node and takes no pipeline".into())
            }
            "reload" => Ok(Self::Reload),
            "calibrate" => Ok(Self::Calibrate),
            "pause" => named(Self::Pause),
            "resume" => named(Self::Resume),
            "delegate" => {
                match (arguments.pipeline, arguments.delegate) {
                    (Some(pipeline), Some(delegate)) => Ok(Self::SetDelegate { pipeline, delegate }),
                    _ => Err("the command needs a payload such as {\"pipeline\": \"shoulder\", \"delegate\": \"cpu\"}"
                        .into()),
                }
            }
            _ => Err("no such command; the commands are reload, pause, resume, delegate and calibrate".into()),
        }
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
        let chosen = Action::SetDelegate { pipeline: "arm".into(), delegate: "tpu".into() };
        assert_eq!(parse("delegate", r#"{"pipeline":"arm","delegate":"tpu"}"#), Ok(chosen));
        for (verb, payload, word) in [
            ("pause", r#"{"pipeline":"arm","delegate":"cpu"}"#, "only the command delegate"),
            ("delegate", r#"{"pipeline":"arm"}"#, "needs a payload"),
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
