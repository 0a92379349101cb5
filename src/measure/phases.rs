//! The energy of the steps around an inference: front ends and features before it, the decision after it.
//!
//! Each runs back to back by itself, between idle intervals, as inferences do in a calibration; `back_to_back` owns the runs.
//! Values of the stream are made up, because no source is opened.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::back_to_back::{CalibrateError, Rates, Work};
use crate::config::Pipeline;
use crate::decision::{Decider, EngineOutputs};
use crate::energy::runs::{Run, Trace, net_energy};
use crate::engine::{Engine, EngineError};
use crate::infer::Stages;
use crate::meter::Scale;
use crate::units::MonoTime;
use crate::{features, frontend};

/// So many windows are one step of a run, because a single one can take less time than to look at the clock.
const WINDOWS: u64 = 64;
/// Between the times of two windows, for decisions that count it.
const WINDOW_NS: i64 = 10_000_000;

const NO_FEATURES: &str = "the pipeline has neither front ends nor features";
const NO_PUBLISHING: &str = "only the daemon publishes: a calibration has no connection to the broker";

/// The energy of the steps around an inference, per window above idle power.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Front ends, features, and filling the model's input.
    pub features: PhaseEnergy,
    pub decision: PhaseEnergy,
    pub publishing: PhaseEnergy,
}

/// The energy of one step; without it, the reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseEnergy {
    pub net_j: Option<f64>,
    /// Its standard uncertainty without the meter's errors of scale.
    pub u_j: Option<f64>,
    /// Expanded uncertainty with k = 2, errors of scale included if they are known.
    pub expanded_j: Option<f64>,
    /// Time that it takes for a window.
    pub busy_ns: Option<f64>,
    pub reason: Option<String>,
}

/// The steps around the inference of one pipeline.
pub(super) struct Steps<'a> {
    frontends: frontend::Chain,
    /// Values of a frame of the source, and frames between two windows.
    frame_values: usize,
    hop: usize,
    /// A window before the features.
    window: Vec<f32>,
    features: &'a mut features::Chain,
    decider: &'a mut dyn Decider,
    /// The features of a window, for a decision that needs them.
    decided_on: Vec<f32>,
}

/// The runs of each step; `None` for a step that the pipeline does not have.
pub(super) struct PhaseRuns {
    features: Option<Vec<Run>>,
    decision: Vec<Run>,
}

impl<'a> Steps<'a> {
    /// Returns the steps of `pipeline`, which `stages` are of.
    pub(super) fn new(pipeline: &Pipeline, stages: &'a mut Stages) -> Result<Self, CalibrateError> {
        let shapes =
            pipeline.shapes().map_err(|(key, message)| CalibrateError::NoEngine(format!("{key}: {message}")))?;
        let Stages { features, decider, .. } = stages;
        let decided_on = vec![0.0; decider.features_wanted()];
        Ok(Self {
            frame_values: shapes.source.frame.values(),
            hop: pipeline.window.hop,
            window: made_up(pipeline.window.samples * shapes.stream.frame.values()),
            frontends: shapes.frontends,
            features,
            decider: &mut **decider,
            decided_on,
        })
    }

    /// Returns how many of them run.
    pub(super) fn count(&self) -> u32 {
        if self.has_features() { 2 } else { 1 }
    }

    fn has_features(&self) -> bool {
        !(self.frontends.is_empty() && self.features.is_empty())
    }

    /// Has each step run by `back_to_back`; `engine` has made an inference before.
    pub(super) fn run(
        &mut self,
        engine: &mut dyn Engine,
        mut back_to_back: impl FnMut(Work<'_>) -> Result<Vec<Run>, CalibrateError>,
    ) -> Result<PhaseRuns, CalibrateError> {
        let mut of = |step: &mut dyn FnMut() -> Result<(), EngineError>| {
            let mut timed = || {
                let start = MonoTime::now();
                (0..WINDOWS).try_for_each(|_| step())?;
                Ok(MonoTime::now().since(start))
            };
            back_to_back(Work { step: &mut timed, windows: WINDOWS })
        };
        let features = match self.has_features() {
            true => Some(of(&mut || self.make_features(engine))?),
            false => None,
        };
        let mut values = Vec::with_capacity(self.decider.most_values());
        let mut time_ns = 0;
        let decision = of(&mut || {
            time_ns += WINDOW_NS;
            let mut outputs = EngineOutputs { engine: &mut *engine, row: 0, features: &self.decided_on, time_ns };
            self.decider.decide(&mut outputs, &mut values).map(drop)
        })?;
        self.decider.reset();
        Ok(PhaseRuns { features, decision })
    }

    /// Does what a window needs before its inference: as many frames through the front ends as lie between two windows, the
    /// features, and the model's input.
    fn make_features(&mut self, engine: &mut dyn Engine) -> Result<(), EngineError> {
        let mut frames = if self.frontends.is_empty() { 0 } else { self.frontends.frames_wanted(self.hop) };
        while frames > 0 {
            let block = frames.min(frontend::BLOCK_FRAMES);
            let values = block * self.frame_values;
            self.frontends.process(|into| into.extend((0..values).map(made_up_value)));
            frames -= block;
        }
        engine.set_input(0, self.features.apply(&self.window)).map(drop)
    }
}

impl PhaseRuns {
    /// Returns the energy of each step as one meter's `trace` shows it.
    pub(super) fn energies(&self, trace: &Trace, idle: Duration, scale: Scale) -> Phases {
        let of = |runs: &[Run]| match net_energy(trace, runs, idle) {
            Ok(net) => PhaseEnergy {
                busy_ns: Some(Rates::of(runs).busy_ns),
                net_j: Some(net.net_j),
                u_j: Some(net.u_j),
                expanded_j: Some(2.0 * net.u_j.hypot(scale.u_of_gain(net.net_j).unwrap_or(0.0))),
                reason: None,
            },
            Err(refusal) => PhaseEnergy::none(&refusal.to_string()),
        };
        Phases {
            features: self.features.as_deref().map_or_else(|| PhaseEnergy::none(NO_FEATURES), of),
            decision: of(&self.decision),
            publishing: PhaseEnergy::none(NO_PUBLISHING),
        }
    }
}

impl PhaseEnergy {
    fn none(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::default() }
    }
}

/// Returns values without a pattern, such as a sensor gives.
fn made_up(values: usize) -> Vec<f32> {
    (0..values).map(made_up_value).collect()
}

fn made_up_value(index: usize) -> f32 {
    (index * 7919 % 2001) as f32 - 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_figure_says_why() {
        let runs = PhaseRuns { features: None, decision: Vec::new() };
        let Phases { features, decision, publishing } =
            runs.energies(&Trace::default(), Duration::from_secs(2), Scale::UNKNOWN);
        assert_eq!((features.net_j, features.reason.as_deref()), (None, Some(NO_FEATURES)));
        assert!(decision.net_j.is_none() && decision.reason.unwrap().contains("0 of 0 runs can be used"));
        assert_eq!(publishing.reason.as_deref(), Some(NO_PUBLISHING));
    }
}
