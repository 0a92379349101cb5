//! Examines what this machine has of what edgewatt needs, for `edgewatt doctor`; changes nothing.
//!
//! Each part is a list of findings; a finding that is not ok says how to fix it, if that is known. Something that does not exist is *absent*.
//! It is *broken* if the configuration names it, or if it exists and does not work.

mod delegates;
mod devices;
mod host;
mod node;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tracing::subscriber::NoSubscriber;

use crate::config::{Config, Document, Pipeline};
use crate::engine::{EngineError, Runtime};
use crate::load::meters::MeterContext;
use crate::meter::survey::{self, survey};
use crate::meter::{Device, Meter, MeterError, learn};
use crate::source::survey::{Presence, Survey};
use crate::sys;
use crate::sys::Machine;
use crate::sys::cpu::Children;

/// A part of the examination, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
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
pub enum State {
    Ok,
    /// It does not exist, and nothing asks for it.
    Absent,
    /// It does not work, or it does not exist although the configuration names it.
    Broken,
}

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub part: Part,
    /// Such as `ina219 on i2c-1`.
    pub what: String,
    pub state: State,
    pub says: String,
    /// More to know, one item a line.
    pub detail: Vec<String>,
    /// What makes it work, or work better.
    pub fix: Option<String>,
    /// The line of configuration that uses it.
    pub config: Option<String>,
}

impl Finding {
    pub fn new(part: Part, state: State, what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { part, what: what.into(), state, says: says.into(), detail: Vec::new(), fix: None, config: None }
    }

    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    pub fn detail(self, detail: Vec<String>) -> Self {
        Self { detail, ..self }
    }
}

/// The folders of the kernel's devices and of their device files, normally `/sys` and `/dev`.
#[derive(Debug, Clone)]
pub struct Roots {
    pub sysfs: PathBuf,
    pub dev: PathBuf,
}

/// Examines the configuration at `path`, and returns it if it is valid; `named` is whether the user asked for that file.
pub fn configuration(path: &Path, named: bool) -> (Finding, Option<Config>) {
    let of = |state, says: String| Finding::new(Part::Configuration, state, path.display().to_string(), says);
    if !named && !path.exists() {
        let absent = of(State::Absent, "no such file, so it is not known what you want to use".into());
        return (absent.fix("name yours with -c FILE, or start from a copy of config/edgewatt.toml"), None);
    }
    match Document::read(path).and_then(|document| document.parse(sys::hostname().as_deref())) {
        Ok(config) => {
            let pipelines: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            let says = format!("node {}, pipelines {}", config.node_id, pipelines.join(", "));
            let more = format!("edgewatt check -c {} also loads the models and delegates", path.display());
            let fragments = config.files.iter().skip(1).map(|file| format!("with the fragment {}", file.display()));
            (of(State::Ok, says).detail(fragments.chain([more]).collect()), Some(config))
        }
        Err(error) => {
            let text = error.to_string();
            let mut lines = text.lines().map(str::to_owned);
            let says = lines.next().unwrap_or_default();
            let fix = format!("change that line, then run: edgewatt check -c {}", path.display());
            (of(State::Broken, says).detail(lines.collect()).fix(fix), None)
        }
    }
}

/// Returns the findings of one part; the caller examines the configuration and the broker.
pub fn examine(part: Part, roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    match part {
        Part::Configuration | Part::Broker => Vec::new(),
        Part::Runtime => vec![runtime(config)],
        Part::Delegates => delegates::examine(roots, config),
        Part::Meters => meters(roots, config),
        Part::Sensors => {
            let configured =
                config.into_iter().flat_map(|config| &config.pipelines).map(|pipeline| source(roots, pipeline));
            devices::sensors(roots).into_iter().chain(configured).collect()
        }
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
        Err(EngineError::RuntimeNotFound { looked }) => broken("no library found".into())
            .detail(looked.iter().map(|path| format!("not at {}", path.display())).collect())
            .fix("install edgewatt's package, or run: make runtime; or name a library in runtime.library or $EDGEWATT_RUNTIME"),
        Err(EngineError::RuntimeUnusable { path, reason }) => broken(format!("{}: {reason}", path.display()))
            .fix("name a libtensorflowlite_c.so for this architecture in runtime.library; make runtime fetches one"),
        Err(error) => broken(error.to_string()),
    }
}

/// Returns the meters that could be used, then those that the configuration names.
fn meters(roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = surveyed_meters(roots).into_iter().map(surveyed).collect();
    // What the meters would log is in the findings.
    findings.extend(tracing::subscriber::with_default(NoSubscriber::default(), || {
        config.into_iter().flat_map(|config| configured(roots, config)).collect::<Vec<_>>()
    }));
    findings
}

/// Returns what each kind of meter finds on the machine. It takes a second if there is something to read.
pub fn surveyed_meters(roots: &Roots) -> Vec<survey::Finding> {
    let machine = Machine { sysfs: &roots.sysfs, dev: &roots.dev };
    // What the meters would log is in the findings.
    tracing::subscriber::with_default(NoSubscriber::default(), || survey(&machine, std::thread::sleep))
}

/// Returns whether the source of a pipeline can be read.
fn source(roots: &Roots, pipeline: &Pipeline) -> Finding {
    let what = format!("pipelines.{}.source", pipeline.name);
    let survey = pipeline.source.kind().survey(&Machine { sysfs: &roots.sysfs, dev: &roots.dev });
    of_survey(Part::Sensors, what, pipeline.source.name(), survey)
}

/// Returns what a survey of a source or a meter of that kind has found.
fn of_survey(part: Part, what: String, kind: &str, survey: Survey) -> Finding {
    let says = format!("{kind}: {}", survey.says);
    let finding = match (survey.presence, survey.node) {
        (Presence::Ready, Some(node)) => node::finding(part, what, &says, &node.path, &node.rule),
        (Presence::Ready, None) => Finding::new(part, State::Ok, what, says),
        (Presence::Absent | Presence::Broken, _) => Finding::new(part, State::Broken, what, says),
    };
    let fix = survey.fix.or(finding.fix.clone());
    Finding { detail: survey.detail, fix, ..finding }
}

fn surveyed(found: survey::Finding) -> Finding {
    let (state, says) = match found.state {
        survey::State::Readable { watts: Some(watts) } => (State::Ok, format!("readable, {watts:.3} W now")),
        survey::State::Readable { watts: None } => (State::Ok, "readable".into()),
        survey::State::Usable { says } => (State::Ok, says.into()),
        survey::State::Absent { reason } => (State::Absent, reason),
        survey::State::Broken { reason } => (State::Broken, reason),
    };
    let finding = Finding::new(Part::Meters, state, found.what, says).detail(found.detail);
    Finding { fix: found.fix, config: found.config, ..finding }
}

/// Reads each configured meter; for a chip that reading would configure, checks only whether its bus can be used.
fn configured(roots: &Roots, config: &Config) -> Vec<Finding> {
    let mut power = config.power.clone();
    let mut devices = Vec::new();
    power.meters.retain(|meter| {
        let device = meter.kind.kind().device(&roots.dev);
        let is_read = device.is_none();
        devices.extend(device.map(|device| examined(&meter.name, &device)));
        is_read
    });
    let machine = Machine { sysfs: &roots.sysfs, dev: &roots.dev };
    let mut examined_only = Vec::new();
    power.meters.retain(|meter| {
        let survey = config.power.examine(meter, &machine);
        let is_read = survey.is_none();
        let what = format!("power.meters.{}", meter.name);
        examined_only.extend(survey.map(|survey| of_survey(Part::Meters, what, meter.kind.name(), survey)));
        is_read
    });
    let context = MeterContext::new(config, Children::default());
    let mut meters = crate::load::meters::build(&power, &context);
    let mut learning: Vec<&mut dyn Meter> = Vec::new();
    for meter in &mut meters {
        learning.push(meter.as_mut());
    }
    let first = learn(&mut learning, std::thread::sleep);
    let may_work = |result: &Result<_, _>| matches!(result, Ok(_) | Err(MeterError::NotYet { .. }));
    if first.iter().any(|result| matches!(result, Err(MeterError::NotYet { .. }))) {
        // Long enough to call a counter stuck that has not changed so far.
        std::thread::sleep(survey::BETWEEN);
    } else if first.iter().any(Result::is_ok) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let finding = |(meter, first): (&mut Box<dyn Meter>, Result<_, _>)| {
        let what = format!("power.meters.{}", meter.info().name);
        let finding = |state, says: String| Finding::new(Part::Meters, state, what.clone(), says);
        match if may_work(&first) { meter.read() } else { first } {
            Ok(_) => finding(State::Ok, format!("{} works", meter.info().kind)).detail(meter.info().detail.clone()),
            Err(error) => Finding { fix: error.fix().map(str::to_owned), ..finding(State::Broken, error.reason()) },
        }
    };
    devices.into_iter().chain(examined_only).chain(meters.iter_mut().zip(first).map(finding)).collect()
}

fn examined(meter: &str, device: &Device) -> Finding {
    let there = device.path.exists();
    let says = if there { device.says } else { device.says_absent };
    let finding = node::finding(Part::Meters, format!("power.meters.{meter}"), says, &device.path, device.rule);
    if there { finding } else { finding.fix(device.fix_absent) }
}
