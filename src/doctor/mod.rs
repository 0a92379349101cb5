//! What this machine has of what edgewatt needs, for `edgewatt doctor`: looks, and changes nothing.
//!
//! Each part is a list of findings, each with what makes it work where it does not. A thing that is not there is
//! *absent*, unless the configuration names it: that, and what is there and does not work, is *broken*.

mod delegates;
mod devices;
mod host;
mod node;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tracing::subscriber::NoSubscriber;

use crate::config::{Config, Document, MeterKind};
use crate::engine::{EngineError, Runtime};
use crate::meter::ina219::BUS_MEND;
use crate::meter::survey::{self, survey};
use crate::sys;
use crate::sys::cpu::Children;

const I2C_RULE: &str = "SUBSYSTEM==\"i2c-dev\", MODE=\"0660\", GROUP=\"i2c\"; run first: groupadd --system i2c";

/// What is looked at, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    Configuration,
    Runtime,
    Delegates,
    Meters,
    Sensors,
    Broker,
    Clock,
    State,
    Service,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Ok,
    /// It is not there, and nothing asks for it.
    Absent,
    /// It does not work, or is not there though the configuration names it.
    Broken,
}

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub part: Part,
    /// Such as `ina219 on i2c-1`.
    pub what: String,
    pub state: State,
    pub says: String,
    /// More to know, one thing a line.
    pub detail: Vec<String>,
    /// What makes it work, or work better.
    pub mend: Option<String>,
    /// The line of configuration that uses it.
    pub config: Option<String>,
}

impl Finding {
    pub(crate) fn new(part: Part, state: State, what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { part, what: what.into(), state, says: says.into(), detail: Vec::new(), mend: None, config: None }
    }

    pub(crate) fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }

    pub(crate) fn detail(self, detail: Vec<String>) -> Self {
        Self { detail, ..self }
    }
}

/// Where the kernel shows its devices, and where their files are; normally `/sys` and `/dev`.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub sysfs: PathBuf,
    pub dev: PathBuf,
}

/// The configuration at `path`; `named`: somebody has asked for that one.
pub(crate) fn configuration(path: &Path, named: bool) -> (Finding, Option<Config>) {
    let of = |state, says: String| Finding::new(Part::Configuration, state, path.display().to_string(), says);
    if !named && !path.exists() {
        let absent = of(State::Absent, "there is none, so nothing is known of what you want to use".into());
        return (absent.mend("name yours with -c FILE, or begin with a copy of config/edgewatt.toml"), None);
    }
    match Document::read(path).and_then(|document| document.parse(sys::hostname().as_deref())) {
        Ok(config) => {
            let pipelines: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            let says = format!("node {}, pipelines {}", config.node_id, pipelines.join(", "));
            let more = format!("edgewatt check -c {} also loads the models and delegates", path.display());
            (of(State::Ok, says).detail(vec![more]), Some(config))
        }
        Err(error) => {
            let text = error.to_string();
            let mut lines = text.lines().map(str::to_owned);
            let says = lines.next().unwrap_or_default();
            let mend = format!("change the line that it names, then: edgewatt check -c {}", path.display());
            (of(State::Broken, says).detail(lines.collect()).mend(mend), None)
        }
    }
}

/// The findings of one part but the configuration and the broker, which are the caller's.
pub(crate) fn examine(part: Part, roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    match part {
        Part::Configuration | Part::Broker => Vec::new(),
        Part::Runtime => vec![runtime(config)],
        Part::Delegates => delegates::examine(roots, config),
        Part::Meters => meters(roots, config),
        Part::Sensors => devices::sensors(roots),
        Part::Clock => vec![host::clock()],
        Part::State => host::state(roots, config),
        Part::Service => vec![host::service()],
    }
}

fn runtime(config: Option<&Config>) -> Finding {
    const WHAT: &str = "TensorFlow Lite";
    let broken = |says: String| Finding::new(Part::Runtime, State::Broken, WHAT, says);
    match Runtime::load(config.and_then(|config| config.runtime_library.as_deref())) {
        Ok(runtime) => {
            Finding::new(Part::Runtime, State::Ok, WHAT, format!("{}, {}", runtime.version, runtime.path.display()))
        }
        Err(EngineError::RuntimeNotFound { looked }) => broken("no library was found".into())
            .detail(looked.iter().map(|path| format!("not at {}", path.display())).collect())
            .mend("install edgewatt's package, or: make runtime; or name one in runtime.library or $EDGEWATT_RUNTIME"),
        Err(EngineError::RuntimeUnusable { path, reason }) => broken(format!("{}: {reason}", path.display()))
            .mend("name a libtensorflowlite_c.so for this architecture in runtime.library; make runtime fetches one"),
        Err(error) => broken(error.to_string()),
    }
}

/// Those that could be used, then those that the configuration names.
fn meters(roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    // What the meters would log stands in the findings.
    tracing::subscriber::with_default(NoSubscriber::default(), || {
        let found = survey(&roots.sysfs, &roots.dev, std::thread::sleep);
        let mut findings: Vec<Finding> = found.into_iter().map(surveyed).collect();
        let says = "always there, but no measurement: CPU time times a guess";
        let estimate = Finding::new(Part::Meters, State::Ok, "estimate", says);
        let config_line = "estimate = { watts_per_core = 2.0, idle_watts = 2.5 }".to_owned();
        findings.push(Finding { config: Some(config_line), ..estimate });
        findings.extend(config.into_iter().flat_map(|config| configured(roots, config)));
        findings
    })
}

fn surveyed(found: survey::Finding) -> Finding {
    let (state, says) = match found.state {
        survey::State::Readable { watts: Some(watts) } => (State::Ok, format!("readable, {watts:.3} W now")),
        survey::State::Readable { watts: None } => (State::Ok, "readable".into()),
        survey::State::Usable => (State::Ok, "can be used".into()),
        survey::State::Absent { reason } => (State::Absent, reason),
        survey::State::Broken { reason } => (State::Broken, reason),
    };
    let finding = Finding::new(Part::Meters, state, found.what, says).detail(found.detail);
    Finding { mend: found.mend, config: found.config, ..finding }
}

/// A reading of each configured meter; of a chip that reading would set up, whether its bus can be used.
fn configured(roots: &Roots, config: &Config) -> Vec<Finding> {
    let mut power = config.power.clone();
    let mut buses = Vec::new();
    power.meters.retain(|meter| {
        let MeterKind::Ina219(ina219) = &meter.kind else { return true };
        buses.push(bus(roots, &meter.name, ina219.bus));
        false
    });
    let mut meters = crate::load::meters::build(&power, &Children::default());
    let first: Vec<_> = meters.iter_mut().map(|meter| meter.read()).collect();
    if first.iter().any(Result::is_ok) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let finding = |(meter, first): (&mut Box<dyn crate::meter::Meter>, Result<_, _>)| {
        let what = format!("power.meters.{}", meter.info().name);
        let finding = |state, says: String| Finding::new(Part::Meters, state, what.clone(), says);
        match first.and_then(|_: crate::meter::Reading| meter.read()) {
            Ok(_) => finding(State::Ok, format!("{} works", meter.info().kind)).detail(meter.info().detail.clone()),
            Err(error) => Finding { mend: error.mend().map(str::to_owned), ..finding(State::Broken, error.reason()) },
        }
    };
    buses.into_iter().chain(meters.iter_mut().zip(first).map(finding)).collect()
}

fn bus(roots: &Roots, meter: &str, number: u8) -> Finding {
    let path = roots.dev.join(format!("i2c-{number}"));
    let there = path.exists();
    let says = "its bus is there; what answers on it was not asked";
    let says = if there { says } else { "no such bus" };
    let finding = node::finding(Part::Meters, format!("power.meters.{meter}"), says, &path, I2C_RULE);
    if there { finding } else { finding.mend(BUS_MEND) }
}
