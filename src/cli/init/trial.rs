//! Tries what `edgewatt init` is about to write: the configuration is parsed and loaded as `edgewatt check` does it, and the
//! broker is asked as `check --online` does.
//!
//! What is open is what `check` refuses, so the two agree.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::find::Meters;
use super::material::Material;
use crate::cli::online;
use crate::config::{Config, Document};
use crate::load::{self, Unusable, trial};
use crate::propose::file::{Surroundings, render};
use crate::propose::source::{SourceText, stand_in};
use crate::propose::{Confidence, Open, Part as Proposed, Proposal};
use crate::schema::{Part, parts};
use crate::source::Presence;
use crate::sys::{Machine, hostname};

/// Where a broker of this machine answers.
const LOCAL_BROKER: &str = "mqtt://127.0.0.1:1883";
const LOCAL_PORT: u16 = 1883;
const KNOCK: Duration = Duration::from_millis(300);

/// The configuration before it is written.
pub(super) struct Draft<'a> {
    pub proposal: &'a Proposal,
    pub source: &'a SourceText,
    pub material: &'a Material,
    pub meters: &'a Meters,
    /// The address that was given.
    pub broker: Option<&'a str>,
    /// The file that is to be written.
    pub output: &'a Path,
}

/// How a step has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ok,
    Failed,
    /// It could not be tried.
    Skipped,
}

/// One step of the trial.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub step: &'static str,
    pub state: State,
    pub says: String,
    /// More to know, one item a line.
    pub detail: Vec<String>,
}

/// What must be filled in, or does not work here, before the file runs: what `check` says of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OpenPoint {
    pub key: Option<String>,
    pub line: Option<usize>,
    pub message: String,
}

/// The text that is to be written, and what was found with it.
pub(super) struct Tried {
    pub text: String,
    pub steps: Vec<Step>,
    pub open: Vec<OpenPoint>,
    pub broker: Proposed,
}

impl Draft<'_> {
    fn text(&self, proposal: &Proposal, source: &SourceText, broker: &Proposed) -> String {
        render(
            proposal,
            &Surroundings {
                model: self.material.describe(),
                model_path: self.material.model_path(),
                labels_path: self.material.labels_path(proposal),
                source,
                broker: broker.clone(),
                meters: self.meters.used.clone(),
                other_meters: self.meters.others.clone(),
            },
        )
    }

    /// Tries everything.
    ///
    /// # Errors
    /// The text is not what `check` can read, which is a mistake in edgewatt or in what was given.
    pub(super) fn tried(&self) -> anyhow::Result<Tried> {
        let mut steps = vec![step("model", State::Ok, self.material.describe())];
        let broker = self.broker(&mut steps)?;
        let text = self.text(self.proposal, self.source, &broker);
        let document = Document::new(self.output, text.clone());
        let (mut open, config) = match document.parse(hostname().as_deref()) {
            Ok(config) if self.proposal.open.is_empty() => (Vec::new(), config),
            Ok(_) => (self.expected(&[])?, self.stand_in(&broker)?),
            Err(error) => (self.expected(&parts(&error.to_string()))?, self.stand_in(&broker)?),
        };
        steps.push(match open.is_empty() {
            true => step("configuration", State::Ok, "every key is one that edgewatt reads".into()),
            false => step(
                "configuration",
                State::Skipped,
                "something is to be filled in; the rest is tried without it".into(),
            ),
        });
        let refused = self.load(&config, &document, open.is_empty(), &mut steps)?;
        open.extend(refused);
        self.meters.used.iter().for_each(|(name, _)| steps.push(step("meter", State::Ok, format!("{name} was read"))));
        Ok(Tried { text, steps, open, broker })
    }

    /// Returns the problems as open points, if each is about a key that was left open.
    fn expected(&self, problems: &[Part]) -> anyhow::Result<Vec<OpenPoint>> {
        let all: Vec<&Open> = self.source.open.iter().chain(&self.proposal.open).collect();
        let mut points = Vec::new();
        for problem in problems {
            let point = point(problem);
            let below = format!("pipelines.{}.", self.proposal.name);
            let key = point.key.as_deref().and_then(|key| key.strip_prefix(&below));
            let Some(open) = all.iter().find(|open| key.is_some_and(|key| key.starts_with(&open.key))) else {
                bail!("no configuration can be written: {}", problem.message);
            };
            points.push(OpenPoint { message: format!("{}; for example {}", open.what, open.example), ..point });
        }
        // `check` names these when no key is missing.
        let is_named = |open: &&&Open| points.iter().any(|point| ends_with(point.key.as_deref(), &open.key));
        let hidden: Vec<OpenPoint> = all
            .iter()
            .filter(|open| !is_named(open))
            .map(|open| OpenPoint {
                key: Some(format!("pipelines.{}.{}", self.proposal.name, open.key)),
                line: None,
                message: format!("{}; for example {}", open.what, open.example),
            })
            .collect();
        points.extend(hidden);
        Ok(points)
    }

    /// Returns the configuration with a source that can be opened, and values for what is open, to try the rest.
    fn stand_in(&self, broker: &Proposed) -> anyhow::Result<Config> {
        let source = stand_in(&self.proposal.stream).map_err(anyhow::Error::msg)?;
        let source = if self.source.open.is_empty() { self.source.clone() } else { source };
        let text = self.text(&self.proposal.for_trial(), &source, broker);
        Document::new(self.output, text).parse(hostname().as_deref()).context("no configuration can be written")
    }

    /// Loads the model and what else the configuration names, as `check` does. Returns what `check` would refuse.
    fn load(
        &self,
        config: &Config,
        document: &Document,
        is_whole: bool,
        steps: &mut Vec<Step>,
    ) -> anyhow::Result<Vec<OpenPoint>> {
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let context = match load::engine_context(config.runtime_library.as_deref(), &program) {
            Ok(context) => context,
            Err(problem) => {
                let refused = Unusable::new(document, &[problem]).to_string();
                steps.push(step("runtime", State::Failed, refused.clone()));
                return Ok(parts(&refused).iter().map(point).collect());
            }
        };
        let runtime = &context.runtime;
        steps.push(step("runtime", State::Ok, format!("{}, {}", runtime.version, runtime.path.display())));
        let mut prepared = match load::prepare(config, &context, &[]) {
            Ok(prepared) => prepared,
            Err(problems) => {
                let refused: Vec<OpenPoint> =
                    parts(&Unusable::new(document, &problems).to_string()).iter().map(point).collect();
                steps.extend(refused.iter().map(|point| step("pipeline", State::Failed, point.message.clone())));
                return Ok(refused);
            }
        };
        for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
            let mut detail: Vec<String> = prepared.notes.iter().chain(&prepared.recording).cloned().collect();
            detail.extend(prepared.built.iter().map(|built| built.state.to_string()));
            detail.extend(prepared.scores.iter().map(ToString::to_string));
            let mut warnings = prepared.warnings.clone();
            warnings.extend(trial::doubts(pipeline, prepared).unwrap_or_else(|error| Some(error.to_string())));
            detail.extend(warnings.into_iter().map(|warning| format!("warning: {warning}")));
            let says = prepared.builder.path.to_string();
            steps.push(Step { step: "pipeline", state: State::Ok, says, detail });
            if is_whole {
                steps.extend(subscriptions(config)?);
                let survey = pipeline.source.kind().survey(&Machine::this());
                let state = if survey.presence == Presence::Ready { State::Ok } else { State::Failed };
                steps.push(Step { step: "source", state, says: survey.says, detail: survey.fix.into_iter().collect() });
            }
        }
        Ok(Vec::new())
    }

    /// Chooses the broker: the one that was given, or one that answers on this machine.
    fn broker(&self, steps: &mut Vec<Step>) -> anyhow::Result<Proposed> {
        let of = |address: &str, confidence, why: String| Proposed::new("broker", address, confidence, why);
        if let Some(address) = self.broker {
            let chosen = of(address, Confidence::Known, "as you said".into());
            let document = Document::new(self.output, self.trial_text(&chosen)?);
            // An address that is not one is refused here, with the reason.
            let config = document.parse(hostname().as_deref()).map_err(|error| {
                let found = parts(&error.to_string());
                match found.iter().find(|part| part.key.as_deref().is_some_and(|key| key.starts_with("mqtt"))) {
                    Some(part) => anyhow::anyhow!("--broker: {}", part.message),
                    None => anyhow::anyhow!(
                        "no configuration can be written: {}",
                        found.first().map_or("", |part| part.message.as_str())
                    ),
                }
            })?;
            steps.extend(ask(&config)?);
            return Ok(chosen);
        }
        // A source that subscribes needs one, also if it does not answer now.
        let is_needed = self.source.kind == "mqtt";
        let none = |why: String| match is_needed {
            true => {
                let why = format!("the source needs a broker, and {why}: write the address of yours");
                of(LOCAL_BROKER, Confidence::Unknown, why)
            }
            false => {
                let why = format!("{why}, so nothing is published; for a broker: \"mqtt://HOST:1883\"");
                of("none", Confidence::Guessed, why)
            }
        };
        let address = SocketAddr::from(([127, 0, 0, 1], LOCAL_PORT));
        if TcpStream::connect_timeout(&address, KNOCK).is_err() {
            steps.push(step("broker", State::Skipped, format!("none answers at {LOCAL_BROKER}")));
            return Ok(none(format!("no broker answers at {LOCAL_BROKER}")));
        }
        let found = of(LOCAL_BROKER, Confidence::Known, "a broker answers there".into());
        let config = Document::new(self.output, self.trial_text(&found)?)
            .parse(hostname().as_deref())
            .context("no configuration can be written")?;
        let asked = ask(&config)?;
        let failed = asked.as_ref().filter(|step| step.state == State::Failed).map(|step| step.says.clone());
        steps.extend(asked);
        Ok(failed.map_or(found, |why| none(format!("the broker at {LOCAL_BROKER} does not take messages: {why}"))))
    }

    fn trial_text(&self, broker: &Proposed) -> anyhow::Result<String> {
        let source = stand_in(&self.proposal.stream).map_err(anyhow::Error::msg)?;
        Ok(self.text(&self.proposal.for_trial(), &source, broker))
    }
}

/// Publishes a message, as `check --online` does.
fn ask(config: &Config) -> anyhow::Result<Option<Step>> {
    let Ok(options) = online::to_try(config) else { return Ok(None) };
    let mut detail = Vec::new();
    let asked = online::connect_and_publish(config, &options, online::list_into(&mut detail))?;
    let address = options.address();
    Ok(Some(match asked {
        Ok(()) => Step { step: "broker", state: State::Ok, says: format!("{address} accepts messages"), detail },
        Err(why) => Step { step: "broker", state: State::Failed, says: format!("{address}: {why}"), detail },
    }))
}

/// Tries what the source subscribes to, as `check --online` does.
fn subscriptions(config: &Config) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for online::Subscribed { subscription, options, .. } in online::subscriptions(config) {
        let Ok(options) = options else { continue };
        let mut detail = Vec::new();
        let asked = online::connect_and_subscribe(&subscription, &options, online::list_into(&mut detail))?;
        let (state, says) = match asked {
            Ok(()) => (State::Ok, format!("it may subscribe to {}", subscription.topic)),
            Err(why) => (State::Failed, why),
        };
        steps.push(Step { step: "source", state, says, detail });
    }
    Ok(steps)
}

fn step(step: &'static str, state: State, says: String) -> Step {
    Step { step, state, says, detail: Vec::new() }
}

fn point(problem: &Part) -> OpenPoint {
    OpenPoint { key: problem.key.clone(), line: problem.line, message: problem.message.clone() }
}

fn ends_with(key: Option<&str>, end: &str) -> bool {
    key.is_some_and(|key| key.ends_with(end))
}
