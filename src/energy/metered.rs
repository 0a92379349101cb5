//! From the window of one meter to the estimates of its pipelines: gross and net energy, status and reason.
//!
//! Pure. A value that is not known is `None`, never zero, and the reason says why. The method: docs/energy.md.

use std::time::Duration;

use super::calibrated::Calibrated;
use super::estimate::{EnergyEstimate, Parts, Status};
use super::fit::FittedPowers;
use super::idle::{IdlePower, Step};
use super::meter_state::{MeterState, OTHER_CORES_MAX};
use super::others::Excess;
use super::settings::Settings;
use super::spans::Work;
use super::sums::{Energy, Insufficient, rounding_w};
use super::tail::Rest;
use super::window::Window;
use crate::meter::{Accuracy, Resolution};
use crate::text::counted;

/// Other programs may have taken at most this fraction of net energy.
const OTHERS_MAX: f64 = 0.25;
/// No longer part of the window than this must have passed since idle power was last observed; of a short window, no more
/// seconds than these, which an observation takes.
const IDLE_AGE_MAX: f64 = 0.15;
const IDLE_AGE_MAX_S: f64 = 1.5;
/// Idle power that was observed less than this ago was rounded by the sensor in the same way as now.
const IDLE_FRESH: Duration = Duration::from_secs(2);

/// Returns one estimate a pipeline, and starts a new window unless this one should still grow.
pub(crate) fn estimates(meter: &mut MeterState, settings: &Settings) -> Vec<EnergyEstimate> {
    let reason = meter.no_estimate_reason();
    let has_estimate = reason.is_none();
    let mut estimates = match reason {
        Some(reason) => all_unavailable(meter, reason),
        None => of_window(meter, settings),
    };
    let is_full = meter.window.all.time_s >= settings.window_max.as_secs_f64();
    if !has_estimate || is_full || estimates.iter().all(|estimate| estimate.is_good_enough(settings)) {
        meter.start_window();
        estimates.iter_mut().for_each(|estimate| estimate.closed = true);
    }
    estimates
}

fn all_unavailable(meter: &MeterState, reason: &str) -> Vec<EnergyEstimate> {
    vec![EnergyEstimate::unavailable(&meter.info, reason); meter.spans.len()]
}

fn of_window(meter: &MeterState, settings: &Settings) -> Vec<EnergyEstimate> {
    let all = &meter.window.all;
    if all.time_s <= 0.0 {
        let reason = if meter.is_waiting() {
            "waiting for running inferences to end before counting the readings"
        } else {
            "no reading of the meter in the window; read it more often than metrics are published"
        };
        return all_unavailable(meter, reason);
    }
    if all.joules <= 0.0 {
        let reason =
            format!("the meter's value did not change in {:.1} s; check that it is connected to the load", all.time_s);
        return all_unavailable(meter, &reason);
    }
    let metered = Metered::new(meter, settings);
    (0..meter.spans.len()).map(|pipeline| metered.estimate(pipeline)).collect()
}

/// What one meter measured in a window.
struct Metered<'a> {
    meter: &'a MeterState,
    idle: Option<IdlePower>,
    gross: Result<Energy, Insufficient>,
    /// Energy above idle.
    net: Option<Result<Energy, Insufficient>>,
    /// What other programs did while inferences ran, beyond what they did otherwise.
    others: Excess,
    busy_s: f64,
    active: Vec<usize>,
    powers: Option<FittedPowers>,
}

/// A pipeline's share of the energy above idle, as a fraction with its standard uncertainty.
#[derive(Clone, Copy)]
struct Share {
    fraction: f64,
    u_fraction: f64,
    fitted: bool,
}

impl<'a> Metered<'a> {
    fn new(meter: &'a MeterState, settings: &Settings) -> Self {
        let window = &meter.window;
        let resolution = meter.accuracy.resolution;
        let idle = meter.idle_power(settings);
        let idle_w = idle.map(|idle| idle.watts);
        // Noise that a value showed at rest need not be there at the power of the window.
        let variances = [meter.snapshot_variance(), window.all.unexplained_variance()];
        let rounding = rounding_w(resolution, variances.into_iter().flatten().reduce(f64::min).unwrap_or(0.0));
        let others = meter.others(idle.is_some_and(IdlePower::is_measured)).unwrap_or_default();
        let tails_j = meter.tail.joules() * window.pauses;
        let gross =
            window.all.energy(resolution, idle_w, tails_j).map(|energy| with(energy, rounding * window.all.time_s));
        // They may have been busy at one edge only, where a counter lags by up to one update period.
        let mean_w = window.all.joules / window.all.time_s;
        let edge_s = match resolution {
            Resolution::Counter { update, .. } => update.as_secs_f64(),
            _ => 0.0,
        };
        let edge_cores = match window.all.other_s() {
            Some(other_s) if other_s > 0.0 => (other_s / window.all.time_s).clamp(0.25, 1.0).sqrt(),
            _ => 0.0,
        };
        let edge_j = Excess::core_max_w(mean_w, meter.core_power()) * edge_cores * edge_s / 3f64.sqrt();
        let inferences = window.works.iter().map(|work| work.inferences).sum::<f64>().max(1.0);
        let added_j = (window.all.joules - idle_w.unwrap_or(0.0) * window.all.time_s - tails_j).max(0.0);
        let cut_j = added_j / inferences * window.all.cut_u();
        let gross = gross.map(|energy| with(with(energy, edge_j), cut_j));
        let net = idle.map(|idle| {
            let time_s = window.active.time_s;
            window.active.energy(resolution, idle_w, tails_j).map(|energy| {
                // While nothing runs, rounding is the same as when idle power was measured just before; otherwise it differs.
                let is_fresh = idle.age.is_some_and(|age| age < IDLE_FRESH);
                let rounded_s = if is_fresh { window.active.touched_s } else { time_s };
                let energy = with(energy, rounding * rounded_s);
                let energy = with(with(energy, idle.u_w * time_s), others.u_j);
                let energy = with(with(energy, meter.tail.unseen_j() * window.pauses), cut_j);
                // Idle power may be the one or the other: take the mean, and a rectangle from one to the other.
                let other_w = other_idle_w(meter, idle);
                let energy = with(energy, other_w.abs() * time_s / 12f64.sqrt());
                let joules = energy.joules - (idle.watts + other_w / 2.0) * time_s - others.joules;
                Energy { joules, ..energy }
            })
        });
        let active: Vec<usize> =
            (0..window.works.len()).filter(|index| window.works.get(*index).is_some_and(|w| w.busy_s > 0.0)).collect();
        let powers = idle.filter(|_| active.len() > 1).and_then(|idle| window.fit.solve(idle.watts, &active));
        let busy_s = window.works.iter().map(|work| work.busy_s).sum();
        Self { meter, idle, gross, net, others, busy_s, active, powers }
    }

    /// Returns the pipeline's share of the energy above idle; `None` if nothing is known of it.
    fn share(&self, pipeline: usize, busy_s: f64) -> Option<Share> {
        if self.busy_s <= busy_s {
            return Some(Share { fraction: 1.0, u_fraction: 0.0, fitted: false });
        }
        let at = self.active.iter().position(|active| *active == pipeline)?;
        if let Some(powers) = &self.powers {
            let busy = |index: usize| self.active.get(index).and_then(|p| self.meter.window.works.get(*p));
            let total: f64 =
                powers.watts.iter().enumerate().map(|(i, w)| w * busy(i).map_or(0.0, |work| work.busy_s)).sum();
            let (watts, u_w) = powers.watts.get(at).zip(powers.u_w.get(at))?;
            if total > 0.0 {
                return Some(Share {
                    fraction: watts * busy_s / total,
                    u_fraction: u_w * busy_s / total,
                    fitted: true,
                });
            }
        }
        // Only the bounds are known: none of the energy, or all of it.
        let fraction = busy_s / self.busy_s;
        Some(Share { fraction, u_fraction: fraction.max(1.0 - fraction) / 3f64.sqrt(), fitted: false })
    }

    fn estimate(&self, pipeline: usize) -> EnergyEstimate {
        let (meter, window) = (self.meter, &self.meter.window);
        let work = window.works.get(pipeline).copied().unwrap_or_default();
        let measured_idle = self.idle.filter(|idle| idle.is_measured());
        let base = EnergyEstimate {
            reason: None,
            inferences: Some(work.inferences),
            window_s: Some(window.all.time_s),
            window: window.segments.clone(),
            busy_fraction: Some((work.busy_s / window.all.time_s).min(1.0)),
            mean_w: Some(window.all.joules / window.all.time_s),
            systematic_rel: meter.accuracy.scale.gain_error,
            idle_w: self.idle.map(|idle| idle.watts),
            idle_u_w: measured_idle.map(|idle| idle.u_w),
            idle_drift_w: measured_idle.map(|idle| idle.drift_w),
            idle_age_s: self.idle.and_then(|idle| idle.age).map(|age| age.as_secs_f64()),
            ..EnergyEstimate::unavailable(&meter.info, "")
        };
        let unavailable = |reason: &str| EnergyEstimate { reason: Some(reason.to_owned()), ..base.clone() };
        let alone = self.busy_s <= work.busy_s;
        let known = match &self.gross {
            Ok(gross) | Err(Insufficient::Hits { energy: gross, .. }) => gross,
            Err(_) if work.inferences <= 0.0 => return unavailable("no inference in the window"),
            Err(gap) => {
                let (reason, busy_s) = (gap.to_string(), work.busy_s / work.inferences);
                let estimate = EnergyEstimate { can_improve: true, ..unavailable(&reason) };
                return match self.calibrated(pipeline, work, None) {
                    Some(calibrated) if work.inferences >= 1.0 => {
                        let reason = Some(calibrated.reason(&reason, busy_s));
                        EnergyEstimate { reason, ..estimate.with_calibrated(calibrated, busy_s, meter.accuracy.scale) }
                    }
                    _ => estimate,
                };
            }
        };
        if work.inferences <= 0.0 {
            let energy_j = alone.then_some(window.all.joules);
            return EnergyEstimate { energy_j, ..unavailable("no inference in the window") };
        }
        if work.inferences < 1.0 {
            return EnergyEstimate { can_improve: true, ..unavailable("no whole inference in the window") };
        }
        let Some(share) = self.share(pipeline, work.busy_s) else {
            return unavailable("other pipelines were busy and the busy time of this one is unknown");
        };
        let estimate = EnergyEstimate { systematic_rel: meter.accuracy.scale.gain_error, ..base };
        self.with_energy(estimate, pipeline, *known, share, work)
    }

    /// Returns the calibration of this pipeline's model, unless the window's own `net` is more certain.
    fn calibrated(&self, pipeline: usize, work: Work, net: Option<Energy>) -> Option<Calibrated> {
        let calibrated = self.meter.calibrated.get(pipeline).copied().flatten()?;
        let u_j = calibrated.u_at_j(work.busy_s / work.inferences) * work.inferences;
        net.is_none_or(|net| u_j < net.u_j).then_some(calibrated)
    }

    fn with_energy(
        &self,
        base: EnergyEstimate,
        pipeline: usize,
        gross: Energy,
        share: Share,
        work: Work,
    ) -> EnergyEstimate {
        // The fraction of the idle energy that is charged to this pipeline.
        let busy_share = work.busy_s / self.busy_s.max(f64::MIN_POSITIVE);
        let inferences = work.inferences;
        let alone = share.fraction == 1.0 && share.u_fraction == 0.0;
        let net = match &self.net {
            Some(Ok(net)) => Some(Energy {
                joules: net.joules * share.fraction,
                u_j: (net.u_j * share.fraction).hypot(net.joules * share.u_fraction),
            }),
            _ => None,
        };
        let gross = match (&self.net, net) {
            _ if alone => gross,
            (Some(Ok(all_net)), Some(net)) => Energy {
                joules: net.joules + (gross.joules - all_net.joules) * busy_share,
                u_j: (gross.u_j * busy_share).hypot(all_net.joules * share.u_fraction),
            },
            _ => Energy {
                joules: gross.joules * share.fraction,
                u_j: (gross.u_j * share.fraction).hypot(gross.joules * share.u_fraction),
            },
        };
        let lack = self.lack(net);
        let calibrated = lack.as_ref().and_then(|_| self.calibrated(pipeline, work, net));
        let (status, mut reasons) = self.status(alone, share.fitted);
        reasons.extend(lack.and_then(|lack| match (calibrated, net) {
            (Some(calibrated), _) => Some(calibrated.reason(&lack, work.busy_s / inferences)),
            (None, None) => Some(format!("no net energy: {lack}")),
            (None, Some(_)) => {
                (status == Status::Measured).then(|| format!("net energy is below its uncertainty: {lack}"))
            }
        }));
        // Of several pipelines, it is not known whose tail it is.
        let tail = self.meter.tail.energy().filter(|_| alone && self.meter.window.pauses > 0.0);
        let pauses = self.meter.window.pauses / inferences;
        let Accuracy { resolution, scale } = self.meter.accuracy;
        let parts = |u_j: f64, systematic_j: Option<f64>| {
            let per_inference = Parts {
                statistical_j: u_j / inferences,
                systematic_j: systematic_j.map(|systematic_j| systematic_j / inferences),
            };
            (!resolution.is_model()).then_some(per_inference)
        };
        let all = &self.meter.window.all;
        let gross_systematic_j = scale.u_j(gross.joules, all.time_s * gross.joules / all.joules);
        let estimate = EnergyEstimate {
            status,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            can_improve: self.gross.is_err()
                || matches!(self.net, Some(Err(_)))
                || (self.meter.window.pauses > 0.0
                    && self.idle.and_then(|idle| idle.age).is_some_and(|age| !self.is_idle_recent(age))),
            tail_j: tail.map(|tail| tail.joules * pauses),
            tail_u_j: tail.map(|tail| tail.u_j * pauses),
            tail_s: tail.map(|tail| tail.length_s),
            energy_j: Some(gross.joules),
            ..base
        };
        let estimate = estimate.with_gross(gross.joules / inferences, parts(gross.u_j, gross_systematic_j));
        let estimate = match net {
            Some(net) => {
                // An offset cancels if the same meter has measured idle power.
                let is_same_meter = self.idle.is_some_and(IdlePower::is_measured);
                let offset_s = if is_same_meter { 0.0 } else { self.meter.window.active.time_s * share.fraction };
                estimate.with_net(net.joules / inferences, parts(net.u_j, scale.u_j(net.joules, offset_s)))
            }
            None => estimate,
        };
        match calibrated {
            Some(calibrated) => estimate.with_calibrated(calibrated, work.busy_s / inferences, scale),
            None => estimate,
        }
    }

    /// Returns why the window cannot tell net energy.
    fn lack(&self, net: Option<Energy>) -> Option<String> {
        match (&self.net, net) {
            (None, _) => Some("too little idle time so far to know idle power".to_owned()),
            (Some(Err(gap)), _) => Some(gap.to_string()),
            (_, Some(net)) if net.joules.abs() < 2.0 * net.u_j => {
                Some("inferences are too short or too rare for this meter".to_owned())
            }
            _ => None,
        }
    }

    /// Returns what other programs did, if it matters.
    fn others_reason(&self) -> Option<String> {
        let Excess { cores, ticks_cores, most_j, core_w, .. } = self.others;
        let net_j = self.net.as_ref().and_then(|net| net.as_ref().ok()).map(|net| net.joules.abs());
        let is_much = cores.abs() > OTHER_CORES_MAX + ticks_cores;
        if !is_much && net_j.is_none_or(|net_j| most_j <= OTHERS_MAX * net_j) {
            return None;
        }
        // Idle power that was measured here includes what others did then; only what differs from it counts.
        let measured = self.idle.is_some_and(IdlePower::is_measured);
        Some(match (measured, core_w) {
            (false, None) => format!("other programs used {cores:.2} cores; their energy is included"),
            (true, None) if cores > 0.0 => format!(
                "other programs used {cores:.2} cores more while inferences ran than between them; their energy is included"
            ),
            (true, None) => format!(
                "other programs used {:.2} cores less while inferences ran than between them; net energy is too low by that \
                 amount",
                -cores
            ),
            (_, Some(core_w)) => format!(
                "other programs used {:.2} cores {} while inferences ran than between them; net energy is corrected for that \
                 at {core_w:.2} W a core",
                cores.abs(),
                if cores > 0.0 { "more" } else { "less" },
            ),
        })
    }

    /// Returns why net energy is less certain than its uncertainty says.
    fn idle_reason(&self) -> Option<String> {
        let (Some(idle), Some(Ok(_))) = (self.idle, &self.net) else { return None };
        let meter = self.meter;
        if let Rest::Unsettled { watts, .. } = meter.tail.state() {
            return Some(format!(
                "between inferences, power stays {watts:.3} W above idle power: it is not known if they cause it"
            ));
        }
        let uncertain = idle.age.and_then(|age| self.learned_idle_reason(idle, age));
        let Window { pauses, all, active, .. } = &meter.window;
        let has_pauses = *pauses > 0.0 || meter.tail.is_pause() || active.time_s < all.time_s;
        let is_model = meter.accuracy.resolution.is_model();
        let is_unknown = meter.tail.state() == Rest::Unknown && has_pauses && !is_model;
        uncertain.or_else(|| {
            is_unknown.then(|| "too few pauses so far to know how long power lasts after an inference".to_owned())
        })
    }

    /// Returns whether idle power, last observed `age` ago, was seen in the window, and late enough in it.
    fn is_idle_recent(&self, age: Duration) -> bool {
        let age_max_s = IDLE_AGE_MAX_S.max(IDLE_AGE_MAX * self.meter.window.all.time_s);
        self.meter.has_rested() && age.as_secs_f64() <= age_max_s
    }

    /// Returns why learned idle power, last observed `age` ago, is not certain.
    fn learned_idle_reason(&self, idle: IdlePower, age: Duration) -> Option<String> {
        if !idle.rested {
            return Some("idle power was only seen between inferences, where it may be their tail".to_owned());
        }
        if age > idle.watched {
            let (age_s, watched_s) = (age.as_secs_f64(), idle.watched.as_secs_f64());
            return Some(format!(
                "idle power was last seen {age_s:.0} s ago and had been watched for {watched_s:.0} s"
            ));
        }
        if !self.meter.has_rested() {
            let age_s = age.as_secs_f64();
            return Some(format!(
                "idle power was last seen {age_s:.0} s ago, not in the window: it may have changed since"
            ));
        }
        if !self.is_idle_recent(age) {
            let (age_s, window_s) = (age.as_secs_f64(), self.meter.window.all.time_s);
            return Some(format!(
                "idle power was last seen {age_s:.1} s before the end of a window of {window_s:.1} s: it may have changed since"
            ));
        }
        if let Some(Step { from_w, to_w }) = self.meter.window.step {
            return Some(format!("idle power changed from {from_w:.2} W to {to_w:.2} W in the window"));
        }
        self.meter.idle_may_have_stepped().then(|| "idle power may just have changed".to_owned())
    }

    fn status(&self, alone: bool, fitted: bool) -> (Status, Vec<String>) {
        let mut reasons = Vec::new();
        reasons.extend(self.others_reason());
        reasons.extend(self.idle_reason());
        let is_certain = reasons.is_empty();
        if !alone && fitted {
            let intervals = self.powers.as_ref().map_or(0, |powers| powers.intervals);
            reasons.push(format!("shared with other pipelines by a fit over {}", counted(intervals, "interval")));
        } else if !alone {
            reasons.push("shared with other pipelines by busy time".to_owned());
        }
        if let (Some(lost), unmetered_s @ 0.001..) = (&self.meter.lost_reason, self.meter.window.unmetered_s()) {
            reasons.push(format!("{unmetered_s:.1} s of the window were not metered: {lost}"));
        }
        let status = match (self.meter.info.estimated, alone && is_certain && self.gross.is_ok()) {
            (true, _) => Status::Estimated,
            (false, true) if self.meter.accuracy.resolution.is_model() => Status::Replayed,
            (false, true) => Status::Measured,
            (false, false) => Status::Attributed,
        };
        if let (Err(gap), None | Some(Ok(_))) = (&self.gross, &self.net) {
            reasons.push(gap.to_string());
        }
        (status, reasons)
    }
}

/// Returns by how much idle power in the window may be another one than `idle`, which is known.
fn other_idle_w(meter: &MeterState, idle: IdlePower) -> f64 {
    let step_w = meter.window.step.filter(|_| idle.is_measured()).map_or(0.0, |step| step.from_w - step.to_w);
    match meter.tail.state() {
        Rest::Unsettled { watts, .. } => step_w + watts,
        _ => step_w,
    }
}

fn with(energy: Energy, u_j: f64) -> Energy {
    Energy { u_j: energy.u_j.hypot(u_j), ..energy }
}
