//! Calibration: runs an engine back to back several times, with idle intervals between the runs, under the meters.
//!
//! Leaves the schedule to `back_to_back`, the readings to `metering`, the result to `energy`, and the file to
//! `calibrations`. Blocks until it is done; a stop ends it soon.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::back_to_back::{CalibrateError, Done, Plan, Rates, Work, run_back_to_back};
use super::calibrations::{CalibrationEntry, Calibrations, EngineIdentity, MeterIdentity, can_calibrate};
use super::metering::Metering;
use super::phases::{PhaseRuns, Steps};
use crate::config::{Config, Pipeline, Power};
use crate::energy::runs::{Trace, net_energy};
use crate::engine::span::BusySpan;
use crate::engine::{Engine, EngineError, width};
use crate::load::engines::BuildError;
use crate::load::meters::{self, MeterContext};
use crate::load::{Prepared, PreparedPipeline, state_dir, windows};
use crate::meter::Scale;
use crate::publish::payload::DelegateState;
use crate::stop::Stop;
use crate::units::{MonoTime, WallTime};

const OF_A_CHAIN: &str = "it has several models, and a calibration runs only the last one; its energy is only known from \
     the meters while it runs";

/// The calibration of one pipeline.
pub struct Calibration {
    pub pipeline: String,
    pub state: DelegateState,
    pub batch: usize,
    pub inferences_per_s: f64,
    pub busy_ns: f64,
    /// Processor cores that other programs used during the runs, less those that they used between the runs.
    pub other_cores: Option<f64>,
    /// By meter: the result, or why there is none.
    pub results: Vec<(MeterIdentity, Result<CalibrationEntry, String>)>,
}

/// Calibrates pipelines one after the other.
pub struct Calibrator<'a> {
    /// Its meters that can calibrate are used.
    pub power: &'a Power,
    /// With the processes of engines, whose processor time counts as ours.
    pub context: &'a MeterContext,
    pub plan: Plan,
    /// Whether the steps around an inference are measured, too. Their state is then another one than before.
    pub phases: bool,
    pub stop: &'a Stop,
}

impl Calibrator<'_> {
    /// Calibrates one pipeline. Calls `starting` with the meters and the time that it will take.
    pub fn calibrate(
        &self,
        pipeline: &Pipeline,
        prepared: &mut PreparedPipeline,
        starting: impl FnOnce(&[MeterIdentity], Duration),
    ) -> Result<Calibration, CalibrateError> {
        if !pipeline.models.is_empty() {
            return Err(CalibrateError::NoEngine(OF_A_CHAIN.to_owned()));
        }
        let input = recorded(pipeline, prepared).unwrap_or_default();
        build_configured(prepared, &input)?;
        let PreparedPipeline { stages, builder, built, .. } = prepared;
        let built = built.as_mut().ok_or_else(no_engine)?;
        fill(&mut *built.engine, &input)?;
        let mut steps = if self.phases { Some(Steps::new(pipeline, stages)?) } else { None };
        let meters = self.power.meters.iter().filter(|meter| can_calibrate(meter)).cloned().collect();
        let power = Power { meters, ..self.power.clone() };
        let metering = Metering::start(&power, self.context, self.stop)?;
        let least = metering.length_min(power.sample_period);
        let plan = Plan { run: self.plan.run.max(least), idle: self.plan.idle.max(least), ..self.plan };
        starting(&metering.meters(), plan.total() * (1 + steps.as_ref().map_or(0, Steps::count)));
        let done = self.runs(&mut *built.engine, steps.as_mut(), plan);
        // A stateful model must not keep state of the calibration when its stream starts.
        let reset = built.engine.reset();
        let traces = metering.finish();
        let (done, phase_runs) = done?;
        reset?;
        let state = built.state.clone();
        let engine = EngineIdentity::new(builder, &state);
        let (batch, rates) = (engine.batch, Rates::of(&done.runs));
        let result = |(meter, trace): (MeterIdentity, Trace)| {
            let entry = entry(&engine, &meter, &trace, plan, &done, rates);
            let with_phases = |entry: CalibrationEntry| {
                let scale = trace.last().map_or(Scale::UNKNOWN, |reading| reading.accuracy.scale);
                let phases = phase_runs.as_ref().map(|runs| runs.energies(&trace, plan.idle, scale));
                CalibrationEntry { phases, ..entry }
            };
            let entry = entry.map(with_phases);
            (meter, entry)
        };
        let results = traces.into_iter().map(result).collect();
        let Rates { inferences_per_s, busy_ns } = rates;
        let (pipeline, other_cores) = (pipeline.name.clone(), done.other_cores);
        Ok(Calibration { pipeline, state, batch, inferences_per_s, busy_ns, other_cores, results })
    }

    /// Carries out the runs of inferences, and those of the steps around them.
    fn runs(
        &self,
        engine: &mut dyn Engine,
        steps: Option<&mut Steps<'_>>,
        plan: Plan,
    ) -> Result<(Done, Option<PhaseRuns>), CalibrateError> {
        let back_to_back = |work: Work<'_>| run_back_to_back(work, plan, self.stop, &self.context.children);
        let windows = engine.batch() as u64;
        let mut invoke = || {
            let start = MonoTime::now();
            engine.invoke()?;
            Ok(Duration::from_nanos(BusySpan::of(engine, [start, MonoTime::now()], 0).busy_ns))
        };
        let done = back_to_back(Work { step: &mut invoke, windows })?;
        let of_steps = steps.map(|steps| steps.run(engine, |work| back_to_back(work).map(|done| done.runs)));
        Ok((done, of_steps.transpose()?))
    }
}

/// Returns the calibration of `engine` by one meter, or why there is none.
fn entry(
    engine: &EngineIdentity,
    meter: &MeterIdentity,
    trace: &Trace,
    plan: Plan,
    done: &Done,
    Rates { inferences_per_s, busy_ns }: Rates,
) -> Result<CalibrationEntry, String> {
    let net = net_energy(trace, &done.runs, plan.idle).map_err(|refusal| {
        // If there is no reading at all, the reason is why the meter could not be read.
        trace.last_loss().filter(|_| trace.last().is_none()).map_or(refusal.to_string(), str::to_owned)
    })?;
    let scale = trace.last().map_or(Scale::UNKNOWN, |reading| reading.accuracy.scale);
    Ok(CalibrationEntry {
        engine: engine.clone(),
        meter: meter.clone(),
        time_ms: WallTime::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runs: net.runs,
        net_j: net.net_j,
        u_j: net.u_j,
        expanded_j: 2.0 * net.u_j.hypot(scale.u_of_gain(net.net_j).unwrap_or(0.0)),
        systematic_rel: scale.gain_error,
        idle_w: net.idle_w,
        gross_w: net.gross_w,
        inferences_per_s,
        busy_ns,
        other_cores: done.other_cores,
        phases: None,
    })
}

/// The outcome of a pipeline's calibration by one meter, as text.
pub struct Outcome {
    pub pipeline: String,
    pub text: String,
}

/// Calibrates the pipelines that have no calibration, or with `again` all of them. Calls `progress` before each pipeline.
pub fn at_start(
    config: &Config,
    prepared: &mut Prepared,
    again: bool,
    stop: &Stop,
    progress: impl Fn(),
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let folder = state_dir::folder(config.state_dir.as_deref());
    let present = Calibrations::read_or_none(&folder);
    let context = MeterContext::new(config, prepared.engine_context.launcher.children.clone());
    for (pipeline, prepared) in config.pipelines.iter().zip(&mut prepared.pipelines) {
        progress();
        let Some(built) = &prepared.built else { continue };
        let name = &pipeline.name;
        if built.place.is_none() {
            outcomes.push(refused(
                name,
                &"its delegate waits for windows of the stream, to be compared first; use `edgewatt calibrate` instead",
            ));
            continue;
        }
        let engine = EngineIdentity::new(&prepared.builder, &built.state);
        let known = |meter: &MeterIdentity| !again && present.find(&engine, meter).is_some();
        let meters = missing(&config.power, &context, known);
        if meters.is_empty() {
            continue;
        }
        let power = Power { meters, ..config.power.clone() };
        let starting = |meters: &[MeterIdentity], time: Duration| {
            let names: Vec<&str> = meters.iter().map(|meter| meter.name.as_str()).collect();
            let seconds = time.as_secs_f64();
            tracing::info!(
                pipeline = name,
                "calibrating by {} for {seconds:.0} s before any source starts",
                names.join(", ")
            );
        };
        let calibrator = Calibrator { power: &power, context: &context, plan: Plan::default(), phases: false, stop };
        match calibrator.calibrate(pipeline, prepared, starting) {
            Ok(calibration) => outcomes.extend(save(&folder, &calibration)),
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

/// Returns the meters that can calibrate and whose calibration is not `known`.
fn missing(power: &Power, context: &MeterContext, known: impl Fn(&MeterIdentity) -> bool) -> Vec<crate::config::Meter> {
    let configured = power.meters.iter().filter(|meter| can_calibrate(meter)).cloned();
    let all = Power { meters: configured.collect(), ..power.clone() };
    let mut built = meters::build(&all, context);
    let known = built.iter_mut().map(|meter| {
        // A meter knows its scope only after a reading; the calibration will report why it cannot be read.
        let _ = meter.read();
        known(&MeterIdentity::new(meter.info()))
    });
    let known: Vec<bool> = known.collect();
    all.meters.into_iter().zip(known).filter(|(_, known)| !known).map(|(meter, _)| meter).collect()
}

/// Saves the results of a calibration. Returns them as text.
fn save(folder: &Path, calibration: &Calibration) -> Vec<Outcome> {
    let pipeline = &calibration.pipeline;
    let outcome = |(meter, result): &(MeterIdentity, Result<CalibrationEntry, String>)| match result {
        Ok(entry) => {
            let (meter, net_j, expanded_j) = (&meter.name, entry.net_j, entry.expanded_j);
            let text = format!("calibrated by {meter}: {net_j:.3e} +- {expanded_j:.1e} J net per inference");
            tracing::info!(pipeline, "{text}");
            Outcome { pipeline: pipeline.clone(), text }
        }
        Err(reason) => refused(pipeline, &format_args!("by {}: {reason}", meter.name)),
    };
    let mut outcomes: Vec<Outcome> = calibration.results.iter().map(outcome).collect();
    let entries: Vec<CalibrationEntry> =
        calibration.results.iter().filter_map(|(_, result)| result.as_ref().ok()).cloned().collect();
    if !entries.is_empty()
        && let Err(error) = Calibrations::add(folder, &entries)
    {
        let text = format!("cannot save the calibration: {error}");
        tracing::warn!(pipeline, "{text}");
        outcomes.push(Outcome { pipeline: pipeline.clone(), text });
    }
    outcomes
}

fn no_engine() -> CalibrateError {
    CalibrateError::NoEngine("the pipeline has no engine".to_owned())
}

/// Builds the engine that the configuration asks for, if that still waits for windows of the stream.
fn build_configured(prepared: &mut PreparedPipeline, input: &[f32]) -> Result<(), CalibrateError> {
    let built = prepared.built.as_ref().ok_or_else(no_engine)?;
    if built.place.is_none() {
        let values = prepared.builder.path.last().values();
        let window = if input.is_empty() { vec![0.0; values] } else { input.to_vec() };
        let configured = prepared.builder.build(built.waiting, Some(window), &built.refusals);
        prepared.built = Some(configured.map_err(|error: BuildError| CalibrateError::NoEngine(error.reason()))?);
    }
    Ok(())
}

/// Returns the features of a window of the pipeline's recording, if it replays one.
fn recorded(pipeline: &Pipeline, prepared: &mut PreparedPipeline) -> Option<Vec<f32>> {
    let (features, width) = (&mut prepared.stages.features, prepared.builder.path.last().values());
    let recording = pipeline.source.kind().recording()?;
    let windows = windows::recorded(recording, pipeline, &[], Vec::new(), features, width, 1);
    let windows = windows.inspect_err(|error| tracing::debug!("using zeros instead of a recorded window: {error}"));
    windows.ok().map(|windows| windows.values)
}

/// Puts the same window into every row; zeros if there is none.
fn fill(engine: &mut dyn Engine, window: &[f32]) -> Result<(), EngineError> {
    let rows = engine.batch();
    let zeros = vec![0.0; width(engine.inputs(), rows)];
    let window = if window.is_empty() { &zeros } else { window };
    (0..rows).try_for_each(|row| engine.set_input(row, window).map(drop))
}
