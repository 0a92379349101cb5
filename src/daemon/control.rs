//! What may be asked of the daemon over MQTT: little, and nothing that changes a path, a model or the broker.
//!
//! Pure but for a warning: a message in, a command or the reason why it is none out. `serve` carries it out and answers on `event`.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// More than any command needs.
const MAX_BYTES: usize = 1024;

/// More than people and their scripts ask for.
const MAX_PER_S: u32 = 20;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the configuration file again, as SIGHUP does.
    Reload,
    /// Throw the samples of that pipeline away until it is resumed.
    Pause(String),
    Resume(String),
    /// Calibrate all pipelines anew, which takes the daemon to start anew.
    Calibrate,
}

/// What a command is about.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    pipeline: Option<String>,
}

impl Action {
    /// The command in a message on `cmd/VERB`; `retained`: the broker has kept it from before.
    pub(crate) fn parse(verb: &str, payload: &[u8], retained: bool) -> Result<Self, String> {
        if retained {
            return Err("it is retained, so it would be done again at each connection: publish it without".into());
        }
        if payload.len() > MAX_BYTES {
            return Err(format!("it has {} bytes; {MAX_BYTES} are the most", payload.len()));
        }
        let arguments: Arguments = match payload.trim_ascii() {
            [] => Arguments::default(),
            json => serde_json::from_slice(json).map_err(|error| format!("its payload: {error}"))?,
        };
        let named = |command: fn(String) -> Self| {
            let needed = || "it needs a payload such as {\"pipeline\": \"shoulder\"}".to_owned();
            arguments.pipeline.clone().map(command).ok_or_else(needed)
        };
        match verb {
            "reload" | "calibrate" if arguments.pipeline.is_some() => {
                Err("it is for all of the node: no pipeline".into())
            }
            "reload" => Ok(Self::Reload),
            "calibrate" => Ok(Self::Calibrate),
            "pause" => named(Self::Pause),
            "resume" => named(Self::Resume),
            _ => Err("there is no such command; there are reload, pause, resume and calibrate".into()),
        }
    }
}

/// How many commands are still heard: each is answered, and a flood of answers would hold up what matters.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    since: Option<Instant>,
    taken: u32,
}

impl Allowance {
    /// Whether one more is heard at `now`; the first one in a second that is not is logged.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), taken: 0 };
        }
        self.taken = self.taken.saturating_add(1);
        if self.taken == MAX_PER_S + 1 {
            tracing::warn!("more than {MAX_PER_S} commands in a second over MQTT: the rest is not heard");
        }
        self.taken <= MAX_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_heard_in_each_second() {
        let (mut allowance, begun) = (Allowance::default(), Instant::now());
        for second in 0..3 {
            let heard = (0..100).filter(|n| allowance.take(begun + Duration::from_millis(second * 1000 + n)));
            assert_eq!(heard.count(), 20);
        }
    }

    #[test]
    fn commands_are_strictly_what_they_are() {
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
