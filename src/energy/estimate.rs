//! What is published of the energy of one pipeline by one meter.

use serde::Serialize;

use super::calibrated::Calibrated;
use super::settings::Settings;
use crate::meter::{MeterInfo, Scale, Scope};
use crate::units::{MonoTime, WallTime};

/// How the energy was obtained; the most certain is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The meter's joules over the window; all of them belong to this pipeline.
    Measured,
    /// Measured joules that are not certain to be all this pipeline's: shared among busy pipelines, other programs were
    /// busy, or too few snapshots of the sensor fell on inferences; or net energy is from a calibration.
    Attributed,
    /// The joules of a recorded trace, of which it is not known how they were measured.
    Replayed,
    /// The joules come from a model of the machine, not from a sensor.
    Estimated,
    /// There is no estimate; the reason says why and what to do.
    Unavailable,
}

impl Status {
    /// Returns the name that is published.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Attributed => "attributed",
            Self::Replayed => "replayed",
            Self::Estimated => "estimated",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What the uncertainties of an estimate include.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Includes {
    /// All that is known to matter: the readings, idle power, and the meter's errors of scale.
    #[serde(rename = "combined")]
    Scale,
    /// Not the meter's errors of scale, of which nothing is known.
    #[serde(rename = "statistical only")]
    NoScale,
}

/// The parts of a standard uncertainty, in joules per inference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub statistical_j: f64,
    /// `None` if nothing is known of the meter's errors of scale.
    pub systematic_j: Option<f64>,
}

/// The uncertainties of a value as they are published; all `None` if they are not known.
#[derive(Debug, Default)]
struct Uncertainties {
    u_j: Option<f64>,
    expanded_j: Option<f64>,
    statistical_j: Option<f64>,
    systematic_j: Option<f64>,
    includes: Option<Includes>,
}

impl Uncertainties {
    fn of(parts: Option<Parts>) -> Self {
        let Some(Parts { statistical_j, systematic_j }) = parts else { return Self::default() };
        let u_j = statistical_j.hypot(systematic_j.unwrap_or(0.0));
        Self {
            u_j: Some(u_j),
            expanded_j: Some(2.0 * u_j),
            statistical_j: Some(statistical_j),
            systematic_j,
            includes: Some(if systematic_j.is_some() { Includes::Scale } else { Includes::NoScale }),
        }
    }
}

/// Energy of one pipeline by one meter over one window; a value that is not known is `None`, never zero.
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
    /// Combined standard uncertainty of `gross_j`, and expanded with k = 2.
    pub gross_u_j: Option<f64>,
    pub gross_expanded_j: Option<f64>,
    /// The parts of `gross_u_j`, added in squares: what a longer window reduces, and the meter's errors of scale, if they are
    /// known.
    pub gross_statistical_j: Option<f64>,
    pub gross_systematic_j: Option<f64>,
    /// Joules per inference above idle power; negative only within its uncertainty.
    pub net_j: Option<f64>,
    pub net_u_j: Option<f64>,
    pub net_expanded_j: Option<f64>,
    pub net_statistical_j: Option<f64>,
    pub net_systematic_j: Option<f64>,
    /// Joules per inference that follow it until power rests, which net energy includes, and their standard uncertainty.
    pub tail_j: Option<f64>,
    pub tail_u_j: Option<f64>,
    /// Seconds from the end of an inference until power rests.
    pub tail_s: Option<f64>,
    /// Time of the calibration that net energy is from; absent if it is from this window.
    #[serde(skip_serializing_if = "Option::is_none", rename = "calibrated_at_ms")]
    pub calibrated_at: Option<WallTime>,
    /// What the uncertainties include; `None` if there are none.
    pub uncertainty: Option<Includes>,
    /// By how much the meter's gain may be off, as a fraction of the value; it is in the systematic parts.
    pub systematic_rel: Option<f64>,
    /// This pipeline's joules in the window.
    pub energy_j: Option<f64>,
    /// Inferences in the window; one across its edge counts by the fraction of its time inside.
    pub inferences: Option<f64>,
    /// The window in seconds, from one reading of the meter to another.
    pub window_s: Option<f64>,
    /// First and last reading of each metered segment of the window.
    #[serde(skip)]
    pub window: Vec<(MonoTime, MonoTime)>,
    /// Whether a longer window could tell what this one cannot tell yet.
    #[serde(skip)]
    pub can_improve: bool,
    /// Whether the window ends here; an open window grows and is included in the next estimate.
    pub closed: bool,
    /// Fraction of the window in which this pipeline's engine was busy.
    pub busy_fraction: Option<f64>,
    /// Mean power of everything that the meter covers.
    pub mean_w: Option<f64>,
    pub idle_w: Option<f64>,
    /// Standard uncertainty of `idle_w`, drift included.
    pub idle_u_w: Option<f64>,
    /// How far idle power may have drifted since it was last observed, as a standard uncertainty.
    pub idle_drift_w: Option<f64>,
    /// Seconds since idle power was last observed; `None` if it is from the configuration.
    pub idle_age_s: Option<f64>,
}

impl EnergyEstimate {
    /// Returns the estimate for a machine without a configured meter.
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
            gross_statistical_j: None,
            gross_systematic_j: None,
            net_j: None,
            net_u_j: None,
            net_expanded_j: None,
            net_statistical_j: None,
            net_systematic_j: None,
            uncertainty: None,
            tail_j: None,
            tail_u_j: None,
            tail_s: None,
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

    pub(super) fn unavailable(meter: &MeterInfo, reason: &str) -> Self {
        Self {
            meter: Some(meter.name.clone()),
            kind: Some(meter.kind),
            scope: Some(meter.scope),
            reason: Some(reason.to_owned()),
            closed: false,
            ..Self::no_meter()
        }
    }

    /// Sets gross energy, and its uncertainty if it is known.
    pub(super) fn with_gross(self, gross_j: f64, u: Option<Parts>) -> Self {
        let Uncertainties { u_j, expanded_j, statistical_j, systematic_j, includes } = Uncertainties::of(u);
        Self {
            gross_j: Some(gross_j),
            gross_u_j: u_j,
            gross_expanded_j: expanded_j,
            gross_statistical_j: statistical_j,
            gross_systematic_j: systematic_j,
            uncertainty: includes,
            ..self
        }
    }

    /// Sets net energy, and its uncertainty if it is known.
    pub(super) fn with_net(self, net_j: f64, u: Option<Parts>) -> Self {
        let Uncertainties { u_j, expanded_j, statistical_j, systematic_j, includes } = Uncertainties::of(u);
        Self {
            net_j: Some(net_j),
            net_u_j: u_j,
            net_expanded_j: expanded_j,
            net_statistical_j: statistical_j,
            net_systematic_j: systematic_j,
            uncertainty: includes.or(self.uncertainty),
            ..self
        }
    }

    /// Replaces net energy by that of a calibration; an inference takes `busy_s` now.
    pub(super) fn with_calibrated(self, calibrated: Calibrated, busy_s: f64, scale: Scale) -> Self {
        let u = Parts { statistical_j: calibrated.u_at_j(busy_s), systematic_j: scale.u_of_gain(calibrated.net_j) };
        let estimate = Self {
            status: if self.status == Status::Estimated { self.status } else { Status::Attributed },
            can_improve: self.can_improve || self.net_j.is_some(),
            calibrated_at: Some(calibrated.time),
            ..self
        };
        estimate.with_net(calibrated.net_j, Some(u))
    }

    /// Whether the window needs to grow no further.
    pub fn is_good_enough(&self, settings: &Settings) -> bool {
        if self.status == Status::Estimated || self.inferences == Some(0.0) {
            return true;
        }
        if self.can_improve {
            return false;
        }
        // A longer window does not change net energy from a calibration.
        // Nor the meter's errors of scale.
        let (value, u_j) = match self.net_j.filter(|_| self.calibrated_at.is_none()) {
            Some(net_j) => (Some(net_j), self.net_statistical_j),
            None => (self.gross_j, self.gross_statistical_j),
        };
        value.zip(u_j).is_some_and(|(value, u_j)| 2.0 * u_j <= settings.target_rel * value.abs())
    }
}
