//! What is published of the energy of one pipeline by one meter: the figure, and how it follows from a window.
//!
//! Pure. Nothing unknown is a number here: it is none, and the reason says why.

use std::time::Duration;

use serde::Serialize;

use super::Settings;
use super::bout::Calibrated;
use super::idle::IdlePower;
use super::share::Powers;
use super::spans::Work;
use super::sums::{Energy, Gap, rounding_w};
use super::track::{MeterState, OTHER_CORES_MAX};
use crate::meter::{Resolution, Scope};
use crate::units::{MonoTime, WallTime};

/// Idle power that was seen so shortly ago is rounded as it was then.
const IDLE_FRESH: Duration = Duration::from_secs(2);

/// How far a figure can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The meter's joules over the window, all of them this pipeline's.
    Measured,
    /// Measured joules of which a part is not seen to be this pipeline's: shared among busy pipelines, other programs
    /// were busy, or the sensor hit too few inferences; or net from a calibration.
    Attributed,
    /// The joules come from a model of the machine, not from a sensor.
    Estimated,
    /// There is no figure; the reason says why and what to do.
    Unavailable,
}

impl Status {
    /// As it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Attributed => "attributed",
            Self::Estimated => "estimated",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Energy of one pipeline by one meter over one window; what is not known is none, never zero.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnergyEstimate {
    /// The meter's name in the configuration.
    pub meter: Option<String>,
    pub kind: Option<&'static str>,
    pub scope: Option<Scope>,
    pub status: Status,
    pub reason: Option<String>,
    /// Joules per inference, idle power included: `energy_j / inferences`.
    pub gross_j: Option<f64>,
    /// Standard uncertainty of `gross_j`, and expanded with k = 2.
    pub gross_u_j: Option<f64>,
    pub gross_expanded_j: Option<f64>,
    /// Joules per inference above idle power; below zero only within its uncertainty.
    pub net_j: Option<f64>,
    pub net_u_j: Option<f64>,
    pub net_expanded_j: Option<f64>,
    /// When the calibration was made that net is from; absent where it is from this window.
    #[serde(skip_serializing_if = "Option::is_none", rename = "calibrated_at_ms")]
    pub calibrated_at: Option<WallTime>,
    /// The meter's error of scale as a part of the value, which is in none of the uncertainties above.
    pub systematic_rel: Option<f64>,
    /// This pipeline's joules in the window.
    pub energy_j: Option<f64>,
    /// Inferences in the window; one across its edge counts by the part of its time inside.
    pub inferences: Option<f64>,
    /// The window in seconds, from one reading of the meter to another.
    pub window_s: Option<f64>,
    /// The readings that bound the window, and the losses in it: metered is from the first of a pair to the second.
    #[serde(skip)]
    pub window: Vec<(MonoTime, MonoTime)>,
    /// In a longer window the meter could tell what it does not tell yet.
    #[serde(skip)]
    pub can_improve: bool,
    /// The window ends here; an open one grows and is in the next figure again.
    pub closed: bool,
    /// The part of the window that this pipeline's engine was busy.
    pub busy_fraction: Option<f64>,
    /// Mean power of all that the meter covers.
    pub mean_w: Option<f64>,
    pub idle_w: Option<f64>,
    /// Standard uncertainty of `idle_w`, drift included.
    pub idle_u_w: Option<f64>,
    /// How far idle power may have drifted since it was last seen, as a standard uncertainty.
    pub idle_drift_w: Option<f64>,
    /// Since idle power was last seen; none where it is from the configuration.
    pub idle_age_s: Option<f64>,
}

impl EnergyEstimate {
    /// The figure of a machine without a configured meter.
    pub fn no_meter() -> Self {
        let reason = "no meter is configured; add [power.meters.NAME] with rapl = {}, hwmon = { chip = \"ina219\" }, or \
                      estimate = { watts_per_core = 2.0, idle_watts = 2.5 }";
        Self {
            meter: None,
            kind: None,
            scope: None,
            status: Status::Unavailable,
            reason: Some(reason.to_owned()),
            gross_j: None,
            gross_u_j: None,
            gross_expanded_j: None,
            net_j: None,
            net_u_j: None,
            net_expanded_j: None,
            calibrated_at: None,
            systematic_rel: None,
            energy_j: None,
            inferences: None,
            window_s: None,
            window: Vec::new(),
            can_improve: false,
            closed: true,
            busy_fraction: None,
            mean_w: None,
            idle_w: None,
            idle_u_w: None,
            idle_drift_w: None,
            idle_age_s: None,
        }
    }

    fn unavailable(track: &MeterState, reason: &str) -> Self {
        Self {
            meter: Some(track.info.name.clone()),
            kind: Some(track.info.kind),
            scope: Some(track.info.scope),
            reason: Some(reason.to_owned()),
            closed: false,
            ..Self::no_meter()
        }
    }

    /// With net energy from a calibration, where an inference takes `busy_s` now.
    fn with_net(self, calibrated: Calibrated, busy_s: f64) -> Self {
        let u_j = calibrated.u_at_j(busy_s);
        Self {
            status: if self.status == Status::Estimated { self.status } else { Status::Attributed },
            can_improve: self.can_improve || self.net_j.is_some(),
            net_j: Some(calibrated.net_j),
            net_u_j: Some(u_j),
            net_expanded_j: Some(2.0 * u_j),
            calibrated_at: Some(calibrated.time),
            ..self
        }
    }

    /// Whether a longer window would be of no use.
    pub fn is_good_enough(&self, settings: &Settings) -> bool {
        if self.status == Status::Estimated || self.inferences == Some(0.0) {
            return true;
        }
        if self.can_improve {
            return false;
        }
        // A longer window changes nothing of a net from a calibration.
        let (value, expanded) = match self.net_j.filter(|_| self.calibrated_at.is_none()) {
            Some(net_j) => (Some(net_j), self.net_expanded_j),
            None => (self.gross_j, self.gross_expanded_j),
        };
        value.zip(expanded).is_some_and(|(value, expanded)| expanded <= settings.target_rel * value.abs())
    }
}

pub(crate) fn all_unavailable(track: &MeterState, reason: &str) -> Vec<EnergyEstimate> {
    vec![EnergyEstimate::unavailable(track, reason); track.spans.len()]
}

pub(crate) fn of_window(track: &MeterState, settings: &Settings) -> Vec<EnergyEstimate> {
    let all = &track.window.all;
    if all.time_s <= 0.0 {
        let reason = if track.is_waiting() {
            "the readings wait for the inferences that run"
        } else {
            "no reading of the meter in the window; read it more often than metrics are published"
        };
        return all_unavailable(track, reason);
    }
    if all.joules <= 0.0 {
        let reason = format!("the meter did not move in {:.1} s: is it connected to what it measures?", all.time_s);
        return all_unavailable(track, &reason);
    }
    let metered = Metered::new(track, settings);
    (0..track.spans.len()).map(|pipeline| metered.figure(pipeline)).collect()
}

/// What one meter saw in a window.
struct Metered<'a> {
    track: &'a MeterState,
    idle: Option<IdlePower>,
    gross: Result<Energy, Gap>,
    /// Energy above idle.
    net: Option<Result<Energy, Gap>>,
    busy_s: f64,
    active: Vec<usize>,
    powers: Option<Powers>,
}

/// A pipeline's part of the energy above idle in joules, with its standard uncertainty.
#[derive(Clone, Copy)]
struct Part {
    share: f64,
    u_share: f64,
    fitted: bool,
}

impl<'a> Metered<'a> {
    fn new(track: &'a MeterState, settings: &Settings) -> Self {
        let window = &track.window;
        let resolution = track.accuracy.resolution;
        let idle = track.idle(settings);
        let idle_w = idle.map(|idle| idle.watts);
        let rounding = rounding_w(resolution, track.snapshot_variance().unwrap_or(0.0));
        // What other programs did beyond their usual, at a power that is not known but for its order.
        let others_w = track.other_cores().map_or(0.0, |cores| cores.abs() * window.all.joules / window.all.time_s);
        let others_u_j = others_w * window.all.time_s / 3f64.sqrt();
        let gross = window.all.energy(resolution, idle_w).map(|energy| with(energy, rounding * window.all.time_s));
        // They may have been busy at one edge only, of which a counter shows up to a period too little.
        let mean_w = window.all.joules / window.all.time_s;
        let edge_s = match resolution {
            Resolution::Counter { update, .. } if others_w > 0.0 => update.as_secs_f64(),
            _ => 0.0,
        };
        let gross = gross.map(|energy| with(energy, mean_w * edge_s / 3f64.sqrt()));
        let net = idle.map(|idle| {
            let time_s = window.active.time_s;
            window.active.energy(resolution, idle_w).map(|energy| {
                // Where nothing runs the rounding is the same as when idle was measured just before; elsewhere another.
                let is_fresh = idle.age.is_some_and(|age| age < IDLE_FRESH);
                let rounded_s = if is_fresh { window.active.touched_s } else { time_s };
                let energy = with(energy, rounding * rounded_s);
                let energy = with(with(energy, idle.u_w * time_s), others_u_j);
                Energy { joules: energy.joules - idle.watts * time_s, ..energy }
            })
        });
        let active: Vec<usize> =
            (0..window.works.len()).filter(|index| window.works.get(*index).is_some_and(|w| w.busy_s > 0.0)).collect();
        let powers = idle.filter(|_| active.len() > 1).and_then(|idle| window.fit.solve(idle.watts, &active));
        let busy_s = window.works.iter().map(|work| work.busy_s).sum();
        Self { track, idle, gross, net, busy_s, active, powers }
    }

    /// What part of the energy above idle is this pipeline's.
    fn part(&self, pipeline: usize, busy_s: f64) -> Option<Part> {
        if self.busy_s <= busy_s {
            return Some(Part { share: 1.0, u_share: 0.0, fitted: false });
        }
        let at = self.active.iter().position(|active| *active == pipeline)?;
        if let Some(powers) = &self.powers {
            let busy = |index: usize| self.active.get(index).and_then(|p| self.track.window.works.get(*p));
            let total: f64 =
                powers.watts.iter().enumerate().map(|(i, w)| w * busy(i).map_or(0.0, |work| work.busy_s)).sum();
            let (watts, u_w) = powers.watts.get(at).zip(powers.u_w.get(at))?;
            if total > 0.0 {
                return Some(Part { share: watts * busy_s / total, u_share: u_w * busy_s / total, fitted: true });
            }
        }
        // Nothing is known but the bounds: none of the energy, or all of it.
        let share = busy_s / self.busy_s;
        Some(Part { share, u_share: share.max(1.0 - share) / 3f64.sqrt(), fitted: false })
    }

    fn figure(&self, pipeline: usize) -> EnergyEstimate {
        let (track, window) = (self.track, &self.track.window);
        let work = window.works.get(pipeline).copied().unwrap_or_default();
        let base = EnergyEstimate {
            reason: None,
            inferences: Some(work.inferences),
            window_s: Some(window.all.time_s),
            window: window.runs.clone(),
            busy_fraction: Some((work.busy_s / window.all.time_s).min(1.0)),
            mean_w: Some(window.all.joules / window.all.time_s),
            systematic_rel: track.accuracy.systematic_rel,
            idle_w: self.idle.map(|idle| idle.watts),
            idle_u_w: self.idle.filter(|idle| idle.age.is_some()).map(|idle| idle.u_w),
            idle_drift_w: self.idle.filter(|idle| idle.age.is_some()).map(|idle| idle.drift_w),
            idle_age_s: self.idle.and_then(|idle| idle.age).map(|age| age.as_secs_f64()),
            ..EnergyEstimate::unavailable(track, "")
        };
        let refused = |reason: &str| EnergyEstimate { reason: Some(reason.to_owned()), ..base.clone() };
        let alone = self.busy_s <= work.busy_s;
        let known = match &self.gross {
            Ok(gross) | Err(Gap::TooFewHits { energy: gross, .. }) => gross,
            Err(_) if work.inferences <= 0.0 => return refused("no inference in the window"),
            Err(gap) => {
                let (reason, busy_s) = (gap.to_string(), work.busy_s / work.inferences);
                let figure = EnergyEstimate { can_improve: true, ..refused(&reason) };
                return match self.calibrated(pipeline, work, None) {
                    Some(calibrated) if work.inferences >= 1.0 => {
                        let reason = Some(calibrated.reason(&reason, busy_s));
                        EnergyEstimate { reason, ..figure.with_net(calibrated, busy_s) }
                    }
                    _ => figure,
                };
            }
        };
        if work.inferences <= 0.0 {
            let energy_j = alone.then_some(window.all.joules);
            return EnergyEstimate { energy_j, ..refused("no inference in the window") };
        }
        if work.inferences < 1.0 {
            return EnergyEstimate { can_improve: true, ..refused("no whole inference in the window") };
        }
        let Some(part) = self.part(pipeline, work.busy_s) else {
            return refused("other pipelines were busy and this one's busy time is unknown");
        };
        let figure = EnergyEstimate { systematic_rel: track.accuracy.systematic_rel, ..base };
        self.with_energy(figure, pipeline, *known, part, work)
    }

    /// What bouts have shown of this pipeline's model, unless `net` of it is known better.
    fn calibrated(&self, pipeline: usize, work: Work, net: Option<Energy>) -> Option<Calibrated> {
        let calibrated = self.track.calibrated.get(pipeline).copied().flatten()?;
        let u_j = calibrated.u_at_j(work.busy_s / work.inferences) * work.inferences;
        net.is_none_or(|net| u_j < net.u_j).then_some(calibrated)
    }

    fn with_energy(
        &self,
        base: EnergyEstimate,
        pipeline: usize,
        gross: Energy,
        part: Part,
        work: Work,
    ) -> EnergyEstimate {
        // The part of the idle energy that falls to this pipeline.
        let busy_share = work.busy_s / self.busy_s.max(f64::MIN_POSITIVE);
        let inferences = work.inferences;
        let alone = part.share == 1.0 && part.u_share == 0.0;
        let net = match &self.net {
            Some(Ok(net)) => Some(Energy {
                joules: net.joules * part.share,
                u_j: (net.u_j * part.share).hypot(net.joules * part.u_share),
            }),
            _ => None,
        };
        let gross = match (&self.net, net) {
            _ if alone => gross,
            (Some(Ok(all_net)), Some(net)) => Energy {
                joules: net.joules + (gross.joules - all_net.joules) * busy_share,
                u_j: (gross.u_j * busy_share).hypot(all_net.joules * part.u_share),
            },
            _ => Energy {
                joules: gross.joules * part.share,
                u_j: (gross.u_j * part.share).hypot(gross.joules * part.u_share),
            },
        };
        let lack = self.lack(net);
        let calibrated = lack.as_ref().and_then(|_| self.calibrated(pipeline, work, net));
        let (status, mut reasons) = self.status(alone, part.fitted);
        reasons.extend(lack.and_then(|lack| match (calibrated, net) {
            (Some(calibrated), _) => Some(calibrated.reason(&lack, work.busy_s / inferences)),
            (None, None) => Some(format!("no net figure: {lack}")),
            (None, Some(_)) => (status == Status::Measured).then(|| format!("net is below its uncertainty: {lack}")),
        }));
        let known = |u_j: f64| (!self.track.accuracy.resolution.is_model()).then_some(u_j / inferences);
        let figure = EnergyEstimate {
            status,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            can_improve: self.gross.is_err() || matches!(self.net, Some(Err(_))),
            gross_j: Some(gross.joules / inferences),
            gross_u_j: known(gross.u_j),
            gross_expanded_j: known(2.0 * gross.u_j),
            net_j: net.map(|net| net.joules / inferences),
            net_u_j: net.and_then(|net| known(net.u_j)),
            net_expanded_j: net.and_then(|net| known(2.0 * net.u_j)),
            energy_j: Some(gross.joules),
            ..base
        };
        match calibrated {
            Some(calibrated) => figure.with_net(calibrated, work.busy_s / inferences),
            None => figure,
        }
    }

    /// Why the window does not tell net energy.
    fn lack(&self, net: Option<Energy>) -> Option<String> {
        match (&self.net, net) {
            (None, _) => Some("too little quiet time yet to know idle power".to_owned()),
            (Some(Err(gap)), _) => Some(gap.to_string()),
            (_, Some(net)) if net.joules.abs() < 2.0 * net.u_j => {
                Some("the model is too short or too rare for this meter".to_owned())
            }
            _ => None,
        }
    }

    fn status(&self, alone: bool, fitted: bool) -> (Status, Vec<String>) {
        let mut reasons = Vec::new();
        let others = self.track.other_cores().filter(|cores| cores.abs() > OTHER_CORES_MAX);
        if let Some(cores) = &others {
            let known = self.idle.is_some_and(|idle| idle.age.is_some());
            reasons.push(match (known, *cores > 0.0) {
                (false, _) => format!("other programs used {cores:.2} cores: their energy is in it"),
                (true, true) => format!(
                    "other programs used {cores:.2} cores more than when idle power was measured: their energy is in it"
                ),
                (true, false) => format!(
                    "other programs used {:.2} cores less than when idle power was measured: net is too small by that",
                    -cores
                ),
            });
        }
        if !alone && fitted {
            let stretches = self.powers.as_ref().map_or(0, |powers| powers.stretches);
            reasons.push(format!("shared with other pipelines by a fit over {stretches} stretches"));
        } else if !alone {
            reasons.push("shared with other pipelines by busy time".to_owned());
        }
        if let (Some(lost), unmetered_s @ 0.001..) = (&self.track.lost, self.track.window.unmetered_s()) {
            reasons.push(format!("{unmetered_s:.1} s within the window were not metered: {lost}"));
        }
        let status = match (self.track.info.estimated, alone && others.is_none() && self.gross.is_ok()) {
            (true, _) => Status::Estimated,
            (false, true) => Status::Measured,
            (false, false) => Status::Attributed,
        };
        if let (Err(gap), None | Some(Ok(_))) = (&self.gross, &self.net) {
            reasons.push(gap.to_string());
        }
        (status, reasons)
    }
}

fn with(energy: Energy, u_j: f64) -> Energy {
    Energy { u_j: energy.u_j.hypot(u_j), ..energy }
}
