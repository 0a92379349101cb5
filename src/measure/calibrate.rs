//! Calibration: runs an engine back to back in bouts, with quiet stretches between them, under the meters.
//!
//! Owns when what runs, and the reading meanwhile, on the meters' own thread at their usual pace; leaves what follows from
//! it to `energy::bout` and where it is kept to `calibrations`. Blocks for as long as it takes; a stop ends it soon.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::calibrations::{Calibrations, Entry, Subject, Under, can_calibrate};
use crate::config::{Config, Pipeline, Power, SourceKind};
use crate::energy::bout::{self, BOUTS_MIN, Bout, Trace, length_min};
use crate::engine::{Engine, EngineError};
use crate::load::engines::{BuildError, BuiltEngine};
use crate::load::{Prepared, PreparedPipeline, meters, state_dir, windows};
use crate::meter::sampler;
use crate::publish::payload::DelegateState;
use crate::stop::{Stop, Waited};
use crate::sys::cpu::{Children, Others};
use crate::units::{MonoTime, WallTime};

/// Caches are warm, buffers are there and a device is awake after this.
const WARM_UP: Duration = Duration::from_millis(200);
/// Two more than are needed, since a meter may lose a reading.
pub(crate) const BOUTS: usize = BOUTS_MIN + 2;
/// Inferences in a bout at least, however long they take.
const INFERENCES_MIN: u64 = 10;

/// How many bouts of which length; what a meter needs more is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub bouts: usize,
    pub bout: Duration,
    /// Before, between and after them.
    pub quiet: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { bouts: BOUTS, bout: Duration::from_secs(2), quiet: Duration::from_secs(2) }
    }
}

/// What the bouts of one pipeline have shown.
pub(crate) struct Calibration {
    pub pipeline: String,
    pub state: DelegateState,
    pub batch: usize,
    pub inferences_per_s: f64,
    pub busy_ns: f64,
    /// Cores that other programs used in the bouts beyond those between them.
    pub other_cores: Option<f64>,
    /// By meter: what to keep, or why there is no figure.
    pub results: Vec<(Under, Result<Entry, String>)>,
}

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CalibrateError {
    #[error("stopped before it was done")]
    Stopped,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    NoEngine(String),
    #[error("cannot start the meter thread: {0}")]
    Io(#[from] io::Error),
}

/// Calibrates one pipeline under the meters of `power` that `wanted` holds for; `starting` is told how long it takes.
pub(crate) fn calibrate(
    (pipeline, prepared): (&Pipeline, &mut PreparedPipeline),
    power: &Power,
    children: &Children,
    plan: Plan,
    (stop, starting): (&Stop, impl FnOnce(&[Under], Duration)),
) -> Result<Calibration, CalibrateError> {
    let input = recorded(pipeline, prepared).unwrap_or_default();
    let built = built(prepared, &input)?;
    fill(&mut *built.engine, &input)?;
    let power =
        Power { meters: power.meters.iter().filter(|meter| can_calibrate(meter)).cloned().collect(), ..power.clone() };
    let reading = Reading::start(&power, children)?;
    let plan = reading.lengthened(plan, power.sample_period);
    let whole = (plan.bout + plan.quiet) * u32::try_from(plan.bouts).unwrap_or(u32::MAX) + plan.quiet + WARM_UP;
    starting(&reading.meters, whole);
    let done = run(&mut *built.engine, plan, stop, children);
    // A stateful model begins its stream as if nothing had been.
    let reset = built.engine.reset();
    let (meters, traces) = reading.finish();
    let Done { bouts, other_cores } = done?;
    reset?;
    let state = built.state.clone();
    let subject = Subject::new(&prepared.builder, &state);
    let inferences = bouts.iter().map(|bout| bout.inferences).sum::<u64>() as f64;
    let total_s = |of: &dyn Fn(&Bout) -> Duration| bouts.iter().map(|bout| of(bout).as_secs_f64()).sum::<f64>();
    let inferences_per_s = inferences / total_s(&|bout| bout.end.since(bout.start));
    let busy_ns = 1e9 * total_s(&|bout| bout.busy) / inferences;
    let entry = |(meter, trace): (Under, Trace)| {
        let net = match bout::net(&trace, &bouts, plan.quiet) {
            Ok(net) => net,
            Err(refusal) => {
                let reason =
                    trace.last_loss().filter(|_| trace.last().is_none()).map_or(refusal.to_string(), str::to_owned);
                return (meter, Err(reason));
            }
        };
        let entry = Entry {
            subject: subject.clone(),
            meter: meter.clone(),
            time_ms: WallTime::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bouts: net.bouts,
            net_j: net.net_j,
            u_j: net.u_j,
            expanded_j: 2.0 * net.u_j,
            idle_w: net.idle_w,
            gross_w: net.gross_w,
            inferences_per_s,
            busy_ns,
            other_cores,
        };
        (meter, Ok(entry))
    };
    let results = meters.into_iter().zip(traces).map(entry).collect();
    let pipeline = pipeline.name.clone();
    Ok(Calibration { pipeline, state, batch: subject.batch, inferences_per_s, busy_ns, other_cores, results })
}

/// What came of a pipeline's calibration, to be logged and told.
pub(crate) struct Outcome {
    pub pipeline: String,
    pub text: String,
}

/// Calibrates what none is kept of, or all of it `anew`, as far as that goes; before each pipeline it `comes_further`.
pub(crate) fn at_start(
    config: &Config,
    prepared: &mut Prepared,
    anew: bool,
    stop: &Stop,
    comes_further: impl Fn(),
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let folder = state_dir::folder(config.state_dir.as_deref());
    let kept = Calibrations::read_or_none(&folder);
    let children = prepared.tools.launcher.children.clone();
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        comes_further();
        let Some(built) = &prepared.built else { continue };
        let name = &pipeline.name;
        if built.place.is_none() {
            outcomes.push(refused(
                name,
                &"its delegate is known once the stream has given windows; `edgewatt calibrate` does not wait for them",
            ));
            continue;
        }
        let subject = Subject::new(&prepared.builder, &built.state);
        let known = |meter: &Under| !anew && kept.find(&subject, meter).is_some();
        let meters = missing(&config.power, &children, known);
        if meters.is_empty() {
            continue;
        }
        let power = Power { meters, ..config.power.clone() };
        let starting = |meters: &[Under], time: Duration| {
            let names: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
            let seconds = time.as_secs_f64();
            tracing::info!(
                pipeline = name,
                "calibrating by {} for {seconds:.0} s before any source starts",
                names.join(", ")
            );
        };
        match calibrate((pipeline, prepared), &power, &children, Plan::default(), (stop, starting)) {
            Ok(calibration) => outcomes.extend(keep(&folder, &calibration)),
            Err(CalibrateError::Stopped) => break,
            Err(failure) => outcomes.push(refused(name, &failure)),
        }
    }
    outcomes
}

fn refused(pipeline: &str, reason: &dyn fmt::Display) -> Outcome {
    tracing::warn!(pipeline, "not calibrated: {reason}");
    Outcome { pipeline: pipeline.to_owned(), text: format!("not calibrated: {reason}") }
}

/// The meters that can calibrate and of which nothing is `known`.
fn missing(power: &Power, children: &Children, known: impl Fn(&Under) -> bool) -> Vec<crate::config::Meter> {
    let configured = power.meters.iter().filter(|meter| can_calibrate(meter)).cloned();
    let all = Power { meters: configured.collect(), ..power.clone() };
    let mut built = meters::build(&all, children);
    let known = built.iter_mut().map(|meter| {
        // It knows its scope once it was read; that it cannot be, the calibration will say.
        let _ = meter.read();
        known(&Under::new(meter.info()))
    });
    let known: Vec<bool> = known.collect();
    all.meters.into_iter().zip(known).filter(|(_, known)| !known).map(|(meter, _)| meter).collect()
}

fn keep(folder: &std::path::Path, calibration: &Calibration) -> Vec<Outcome> {
    let pipeline = &calibration.pipeline;
    let outcome = |(meter, result): &(Under, Result<Entry, String>)| match result {
        Ok(entry) => {
            let (meter, net_j, expanded_j) = (&meter.name, entry.net_j, entry.expanded_j);
            let text = format!("calibrated by {meter}: {net_j:.3e} +- {expanded_j:.1e} J net an inference");
            tracing::info!(pipeline, "{text}");
            Outcome { pipeline: pipeline.clone(), text }
        }
        Err(reason) => refused(pipeline, &format_args!("by {}: {reason}", meter.name)),
    };
    let mut outcomes: Vec<Outcome> = calibration.results.iter().map(outcome).collect();
    let entries: Vec<Entry> =
        calibration.results.iter().filter_map(|(_, result)| result.as_ref().ok()).cloned().collect();
    if !entries.is_empty()
        && let Err(error) = Calibrations::keep(folder, &entries)
    {
        tracing::warn!(pipeline, "the calibration is not kept: {error}");
        outcomes.push(Outcome { pipeline: pipeline.clone(), text: format!("the calibration is not kept: {error}") });
    }
    outcomes
}

/// The engine that the daemon would run once its stream has given windows: they are not waited for.
fn built<'a>(prepared: &'a mut PreparedPipeline, input: &[f32]) -> Result<&'a mut BuiltEngine, CalibrateError> {
    let none = || CalibrateError::NoEngine("it has no engine".to_owned());
    let built = prepared.built.as_ref().ok_or_else(none)?;
    if built.place.is_none() {
        let (samples, channels) = prepared.builder.window;
        let window = if input.is_empty() { vec![0.0; samples * channels] } else { input.to_vec() };
        let asked_for = prepared.builder.build(built.waiting, Some(window), &built.refusals);
        prepared.built = Some(asked_for.map_err(|unmade: BuildError| CalibrateError::NoEngine(unmade.reason()))?);
    }
    prepared.built.as_mut().ok_or_else(none)
}

/// Features of a window of the pipeline's recording, where it plays one.
fn recorded(pipeline: &Pipeline, prepared: &PreparedPipeline) -> Option<Vec<f32>> {
    let SourceKind::Replay(replay) = &pipeline.source.kind else { return None };
    let (records, features) = (&pipeline.source.records, &prepared.stages.features);
    let windows = windows::recorded(&replay.path, records, pipeline.window, features, 1);
    windows.inspect_err(|error| tracing::debug!("zeros instead of a recorded window: {error}")).ok()
}

/// The same window in every row; zeros where there is none.
fn fill(engine: &mut dyn Engine, window: &[f32]) -> Result<(), EngineError> {
    let rows = engine.batch();
    let zeros = vec![0.0; engine.inputs().first().map_or(0, |input| input.len() / rows.max(1))];
    let window = if window.is_empty() { &zeros } else { window };
    (0..rows).try_for_each(|row| engine.set_input(row, window))
}

/// The meters while they are read.
struct Reading {
    meters: Vec<Under>,
    traces: Arc<Mutex<Vec<Trace>>>,
    stop: Arc<Stop>,
    thread: JoinHandle<io::Result<()>>,
}

impl Reading {
    fn start(power: &Power, children: &Children) -> io::Result<Self> {
        let mut meters = meters::build(power, children);
        let mut traces = Vec::new();
        for meter in &mut meters {
            let mut trace = Trace::default();
            trace.take(MonoTime::now(), meter.read());
            traces.push(trace);
        }
        let under = meters.iter().map(|meter| Under::new(meter.info())).collect();
        let (traces, stop, period) = (Arc::new(Mutex::new(traces)), Arc::new(Stop::new()?), power.sample_period);
        let (shared, until) = (traces.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("meter".into()).spawn(move || {
            sampler::run(&mut meters, period, &until, |meter, reading| {
                let mut traces = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(trace) = traces.get_mut(meter) {
                    trace.take(MonoTime::now(), reading);
                }
            })
        })?;
        Ok(Self { meters: under, traces, stop, thread })
    }

    /// The plan with bouts and quiet stretches as long as the meters need them.
    fn lengthened(&self, plan: Plan, period: Duration) -> Plan {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        let readings = traces.iter().filter_map(Trace::last);
        let least = readings.map(|reading| length_min(reading.accuracy.resolution, period)).max().unwrap_or_default();
        Plan { bout: plan.bout.max(least), quiet: plan.quiet.max(least), ..plan }
    }

    fn finish(self) -> (Vec<Under>, Vec<Trace>) {
        self.stop.request();
        // Whatever it has ended with, what was read stands; too little of it is refused.
        match self.thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the meter thread failed"),
            Err(_) => tracing::error!("the meter thread panicked"),
        }
        (self.meters, std::mem::take(&mut *self.traces.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct Done {
    bouts: Vec<Bout>,
    other_cores: Option<f64>,
}

fn run(engine: &mut dyn Engine, plan: Plan, stop: &Stop, children: &Children) -> Result<Done, CalibrateError> {
    let others = Others::new(children.clone());
    // Processor time of others and time passed: quiet, and in bouts.
    let mut used = [(Some(Duration::ZERO), Duration::ZERO); 2];
    let mut bouts = Vec::with_capacity(plan.bouts);
    bout_of(engine, WARM_UP, 1, stop)?;
    for index in 0..=2 * plan.bouts {
        let (begun, before) = (MonoTime::now(), others.cpu_time());
        if index % 2 == 1 {
            bouts.push(bout_of(engine, plan.bout, INFERENCES_MIN, stop)?);
        } else if stop.sleep_until(begun + plan.quiet)? == Waited::Stopped {
            return Err(CalibrateError::Stopped);
        }
        let (cpu, time) = &mut used[index % 2];
        let now = others.cpu_time();
        *cpu = cpu.zip(now.zip(before)).map(|(sum, (now, before))| sum + now.saturating_sub(before));
        *time += MonoTime::now().since(begun);
    }
    let [quiet, busy] = used.map(|(cpu, time)| cpu.map(|cpu| cpu.as_secs_f64() / time.as_secs_f64()));
    Ok(Done { bouts, other_cores: busy.zip(quiet).map(|(busy, quiet)| busy - quiet) })
}

fn bout_of(engine: &mut dyn Engine, length: Duration, invokes_min: u64, stop: &Stop) -> Result<Bout, CalibrateError> {
    let start = MonoTime::now();
    let (until, batch) = (start + length, engine.batch() as u64);
    let (mut busy, mut invokes) = (Duration::ZERO, 0);
    loop {
        if stop.is_requested() {
            return Err(CalibrateError::Stopped);
        }
        let before = MonoTime::now();
        engine.invoke()?;
        let end = MonoTime::now();
        busy += end.since(before);
        invokes += 1;
        if end >= until && invokes >= invokes_min {
            return Ok(Bout { start, end, busy, inferences: invokes * batch });
        }
    }
}
