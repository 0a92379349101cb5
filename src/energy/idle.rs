//! Idle power as one meter measures it: everything is loaded and no inference is running.
//!
//! Pure. Idle intervals give observations. Between them idle power drifts; how much is learned from their scatter. Each
//! hypothesis (idle power is a random walk of some rate, or follows a trend that is one) is a Kalman filter (Harvey,
//! Forecasting, Structural Time Series Models, 2.2 and 4.1). They are weighted by how well they predicted.

use std::time::Duration;

use crate::units::MonoTime;

/// Rates of a random walk, each 16 times the one before, as relative variance per second: 0.008 % to 2 % in a minute.
const WALKS: usize = 5;
const WALK_STEP: f64 = 16.0;
const WALK_MIN_PER_S: f64 = 1e-10;
/// Rates of a trend's random walk, each 64 times the one before: 0.01 % to 0.5 % in a minute.
const TRENDS: usize = 3;
const TREND_STEP: f64 = 64.0;
const TREND_MIN_PER_S3: f64 = 1e-13;
/// Number of past observations that determine the rate: conditions change over a day.
const MEMORY: f64 = 100.0;
/// Weight of what one observation says about the rates: no machine drifts exactly as a hypothesis assumes.
const TRUST: f64 = 0.75;
/// For the same reason, the variance of a forecast is this factor larger than the hypothesis says.
const HYPOTHESIS_ERROR: f64 = 1.2;
/// Fewer observations than this say too little about the drift.
pub(crate) const OBSERVATIONS_MIN: u32 = 8;
/// So many observations in a row show power at rest.
const RESTED_MIN: u32 = 3;
/// An observation that is off the prediction by more than this many standard uncertainties is not drift.
const STEP: f64 = 4.0;
/// Observations before which a step is not told from drift.
const STEP_AFTER: u32 = 4;
/// The probability that the expanded uncertainty leaves out.
const OUTSIDE: f64 = 0.05;

/// Idle power over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IdlePower {
    pub watts: f64,
    /// Standard uncertainty in watts, `drift_w` included; 0 for the power of a model.
    pub u_w: f64,
    /// The part of `u_w` that is due to drift since idle power was last observed.
    pub drift_w: f64,
    /// Time since it was last observed; `None` for a power from the configuration.
    pub age: Option<Duration>,
    /// How long it has been observed.
    pub watched: Duration,
    /// Whether it was observed when no inference can have had an effect any more.
    pub rested: bool,
}

impl IdlePower {
    /// Whether the meter has measured it, so that it is not from the configuration.
    pub(crate) fn is_measured(self) -> bool {
        self.age.is_some()
    }
}

/// A step of idle power from one level to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub from_w: f64,
    pub to_w: f64,
}

/// Mean power over idle intervals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Observation {
    /// The middle of the intervals.
    pub time: MonoTime,
    pub watts: f64,
    /// Standard uncertainty of `watts`.
    pub u_w: f64,
    /// Seconds of the intervals.
    pub time_s: f64,
    /// Whether no inference can have had an effect any more.
    pub rested: bool,
    /// Processor cores that other programs kept busy meanwhile.
    pub other_cores: Option<f64>,
}

/// Idle power, learned from idle intervals.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdleModel {
    last: Option<MonoTime>,
    observations: u32,
    hypotheses: Vec<Hypothesis>,
    other_cores: Option<f64>,
    watched_s: f64,
    /// The last so many observations were made when no inference could have had an effect any more.
    rested: u32,
    /// The last observation, if it was far off the prediction.
    missed: Option<Miss>,
}

#[derive(Debug, Clone, Copy)]
struct Miss {
    observation: Observation,
    predicted_w: f64,
}

/// A Kalman filter of level and slope; a random walk of the level if the slope and its walk are zero.
#[derive(Debug, Clone, Copy)]
struct Hypothesis {
    walk_w2_per_s: f64,
    trend_w2_per_s3: f64,
    level: f64,
    slope: f64,
    /// Variances of level and slope, and their covariance.
    level_var: f64,
    slope_var: f64,
    both_var: f64,
    log_weight: f64,
}

impl IdleModel {
    /// Updates the model with the next observation. Two in a row that are far off to the same side are a step, which is
    /// returned: the model starts again from these two.
    pub(crate) fn observe(&mut self, observation: Observation) -> Option<Step> {
        // A first one waits for the next: if the model followed at once, it would take a step for fast drift.
        let miss = self.miss(&observation);
        let before = std::mem::replace(&mut self.missed, miss);
        let same_side = |(before, now): &(Miss, Miss)| (before.off_w() > 0.0) == (now.off_w() > 0.0);
        let Some((before, _)) = before.zip(miss).filter(same_side) else {
            if let Some(before) = before {
                self.update(before.observation);
            }
            if miss.is_none() {
                self.update(observation);
            }
            return None;
        };
        *self = Self { rested: self.rested.saturating_sub(1), ..Self::default() };
        let apart_w = (before.observation.watts - observation.watts).abs();
        if apart_w < STEP * before.observation.u_w.hypot(observation.u_w) {
            self.update(before.observation);
        }
        self.update(observation);
        Some(Step { from_w: before.predicted_w, to_w: observation.watts })
    }

    /// Returns by how much `observation` is off, if that is far more than is to be expected.
    fn miss(&self, observation: &Observation) -> Option<Miss> {
        let predicted = self.predict(observation.time, observation.time).filter(|_| self.observations >= STEP_AFTER)?;
        let miss = Miss { observation: *observation, predicted_w: predicted.watts };
        (miss.off_w().abs() > STEP * predicted.u_w.hypot(observation.u_w)).then_some(miss)
    }

    /// Returns whether idle power may just have made a step: the last observation, or the unfinished one, is far off.
    pub(crate) fn may_have_stepped(&self, unfinished: Option<Observation>) -> bool {
        self.missed.is_some() || unfinished.is_some_and(|unfinished| self.miss(&unfinished).is_some())
    }

    fn update(&mut self, observation: Observation) {
        self.watched_s += observation.time_s;
        self.rested = if observation.rested { self.rested.saturating_add(1) } else { 0 };
        let noise = observation.u_w.powi(2).max((1e-6 * observation.watts).powi(2)).max(1e-18);
        self.other_cores = match (self.other_cores, observation.other_cores) {
            (Some(before), Some(now)) => Some(before + 0.1 * (now - before)),
            (before, now) => before.or(now),
        };
        self.observations = self.observations.saturating_add(1);
        let Some(last) = self.last.replace(observation.time) else {
            self.hypotheses = Hypothesis::all(observation.watts, noise);
            return;
        };
        let elapsed_s = observation.time.since(last).as_secs_f64();
        for hypothesis in &mut self.hypotheses {
            hypothesis.observe(observation.watts, noise, elapsed_s);
        }
        let best = self.hypotheses.iter().map(|hypothesis| hypothesis.log_weight).fold(f64::MIN, f64::max);
        for hypothesis in &mut self.hypotheses {
            hypothesis.log_weight -= best;
        }
    }

    /// Returns the mean idle power between two times, if it has been observed often enough.
    pub(crate) fn between(&self, from: MonoTime, to: MonoTime) -> Option<IdlePower> {
        self.predict(from, to).filter(|_| self.observations >= OBSERVATIONS_MIN)
    }

    /// Returns idle power at `time` to compare with, if it was observed while no inference had an effect.
    pub(crate) fn at_rest(&self, time: MonoTime) -> Option<IdlePower> {
        self.predict(time, time).filter(|idle| idle.rested)
    }

    fn predict(&self, from: MonoTime, to: MonoTime) -> Option<IdlePower> {
        let last = self.last?;
        let age = to.since(last);
        let (before_s, after_s) = (signed_s(last, from), signed_s(last, to));
        let ahead_s = (before_s + after_s) / 2.0;
        // The variance of a random walk that is known at one time, averaged over an interval before, around or after it.
        let length_s = after_s - before_s;
        let walked_s = if before_s >= 0.0 {
            before_s + length_s / 3.0
        } else if after_s <= 0.0 {
            -after_s + length_s / 3.0
        } else {
            after_s.max(-before_s) / 3.0
        };
        let total: f64 = self.hypotheses.iter().map(Hypothesis::weight).sum();
        let mean = |of: &dyn Fn(&Hypothesis) -> f64| {
            self.hypotheses.iter().map(|hypothesis| hypothesis.weight() * of(hypothesis)).sum::<f64>() / total
        };
        let watts = mean(&|hypothesis| hypothesis.level + hypothesis.slope * ahead_s);
        let drift = |hypothesis: &Hypothesis| hypothesis.drift(walked_s, ahead_s);
        // The mixture has longer tails than a normal distribution: find the interval that holds 95 %, and take half of it as u.
        let outside = |half_w: f64| {
            mean(&|hypothesis| {
                let off = hypothesis.level + hypothesis.slope * ahead_s - watts;
                let sigma = (hypothesis.level_var + drift(hypothesis)).sqrt();
                upper_tail((half_w - off) / sigma) + upper_tail((half_w + off) / sigma)
            })
        };
        let widest = mean(&|hypothesis| {
            let off = hypothesis.level + hypothesis.slope * ahead_s - watts;
            hypothesis.level_var + drift(hypothesis) + off.powi(2)
        });
        let (mut low, mut high) = (0.0, 10.0 * widest.sqrt());
        for _ in 0..40 {
            let half_w = (low + high) / 2.0;
            if outside(half_w) > OUTSIDE { low = half_w } else { high = half_w }
        }
        let u_w = high / 2.0;
        let standing = mean(&|hypothesis| hypothesis.level_var);
        let drift_w = (u_w.powi(2) - standing).max(0.0).sqrt();
        let watched = Duration::from_secs_f64(self.watched_s);
        Some(IdlePower { watts, u_w, drift_w, age: Some(age), watched, rested: self.rested >= RESTED_MIN })
    }

    /// Returns the cores that other programs kept busy while idle power was measured.
    pub(crate) fn other_cores(&self) -> Option<f64> {
        self.other_cores
    }
}

impl Miss {
    fn off_w(&self) -> f64 {
        self.observation.watts - self.predicted_w
    }
}

impl Hypothesis {
    fn all(watts: f64, noise: f64) -> Vec<Self> {
        let still = Self {
            walk_w2_per_s: 0.0,
            trend_w2_per_s3: 0.0,
            level: watts,
            slope: 0.0,
            level_var: noise,
            slope_var: 0.0,
            both_var: 0.0,
            log_weight: 0.0,
        };
        let square = watts.powi(2);
        let walks = (0..WALKS)
            .map(|step| Self { walk_w2_per_s: square * WALK_MIN_PER_S * WALK_STEP.powi(step as i32), ..still });
        let trends = (0..TRENDS).map(|step| {
            let trend_w2_per_s3 = square * TREND_MIN_PER_S3 * TREND_STEP.powi(step as i32);
            // As if it had already walked for a minute.
            Self { trend_w2_per_s3, slope_var: 60.0 * trend_w2_per_s3, ..still }
        });
        walks.chain(trends).collect()
    }

    fn weight(&self) -> f64 {
        self.log_weight.exp()
    }

    /// Returns the variance to add to that of the level.
    fn drift(&self, walked_s: f64, ahead_s: f64) -> f64 {
        let trend = 2.0 * ahead_s * self.both_var + ahead_s.powi(2) * self.slope_var;
        HYPOTHESIS_ERROR
            * (self.walk_w2_per_s * walked_s + trend.max(0.0) + self.trend_w2_per_s3 * ahead_s.abs().powi(3) / 3.0)
    }

    fn observe(&mut self, watts: f64, noise: f64, elapsed_s: f64) {
        self.level += self.slope * elapsed_s;
        self.level_var += 2.0 * elapsed_s * self.both_var
            + elapsed_s.powi(2) * self.slope_var
            + self.walk_w2_per_s * elapsed_s
            + self.trend_w2_per_s3 * elapsed_s.powi(3) / 3.0;
        self.both_var += elapsed_s * self.slope_var + self.trend_w2_per_s3 * elapsed_s.powi(2) / 2.0;
        self.slope_var += self.trend_w2_per_s3 * elapsed_s;
        let (surprise, expected) = (watts - self.level, self.level_var + noise);
        self.log_weight =
            self.log_weight * (1.0 - 1.0 / MEMORY) - TRUST * (expected.ln() + surprise.powi(2) / expected) / 2.0;
        let (gain, slope_gain) = (self.level_var / expected, self.both_var / expected);
        self.level += gain * surprise;
        self.slope += slope_gain * surprise;
        self.slope_var -= slope_gain * self.both_var;
        self.both_var *= 1.0 - gain;
        self.level_var *= 1.0 - gain;
    }
}

/// Returns the seconds from `origin` to `time`, negative if `time` is earlier.
fn signed_s(origin: MonoTime, time: MonoTime) -> f64 {
    time.since(origin).as_secs_f64() - origin.since(time).as_secs_f64()
}

/// Returns the fraction of a normal distribution above `z` standard deviations (Abramowitz and Stegun, 26.2.17; to 1e-7).
fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let sum =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> MonoTime {
        MonoTime((seconds * 1e9) as u64)
    }

    fn observe(idle: &mut IdleModel, seconds: f64, watts: f64) {
        idle.observe(Observation {
            time: at(seconds),
            watts,
            u_w: 0.001,
            time_s: 1.0,
            rested: true,
            other_cores: None,
        });
    }

    #[test]
    fn many_observations_of_a_constant_make_it_certain_and_age_makes_it_less_so() {
        let mut idle = IdleModel::default();
        assert_eq!(idle.between(at(0.0), at(1.0)), None);
        for second in 0..60 {
            observe(&mut idle, f64::from(second), 3.0 + if second % 2 == 0 { 0.001 } else { -0.001 });
        }
        let fresh = idle.between(at(59.0), at(60.0)).unwrap();
        assert!((fresh.watts - 3.0).abs() < 3e-4 && fresh.u_w < 6e-4, "{fresh:?}");
        let old = idle.between(at(659.0), at(660.0)).unwrap();
        assert!(old.u_w > 3.0 * fresh.u_w && old.drift_w > 2.0 * fresh.drift_w, "{old:?}");
        assert_eq!(old.age, Some(Duration::from_secs(601)));
    }

    #[test]
    fn scatter_beyond_the_noise_is_drift() {
        let (mut still, mut wanders) = (IdleModel::default(), IdleModel::default());
        let mut level = 3.0;
        for second in 0..60 {
            observe(&mut still, f64::from(second), 3.0);
            level += if second * second % 7 < 3 { 0.01 } else { -0.01 };
            observe(&mut wanders, f64::from(second), level);
        }
        let drift_w = |idle: &IdleModel| idle.between(at(89.0), at(90.0)).unwrap().drift_w;
        assert!(drift_w(&wanders) > 5.0 * drift_w(&still), "{} {}", drift_w(&wanders), drift_w(&still));
        assert!((0.02..0.3).contains(&drift_w(&wanders)), "{}", drift_w(&wanders));
    }

    #[test]
    fn a_trend_is_followed() {
        let mut idle = IdleModel::default();
        for second in 0..60 {
            observe(&mut idle, f64::from(second), 3.0 + 0.002 * f64::from(second));
        }
        let later = idle.between(at(68.0), at(70.0)).unwrap();
        assert!((later.watts - 3.138).abs() < 0.005, "{later:?}");
    }

    #[test]
    fn tails_of_the_normal_distribution() {
        assert!((upper_tail(0.0) - 0.5).abs() < 1e-6 && (upper_tail(2.0) - 0.022_750).abs() < 1e-6);
        assert!((upper_tail(-1.0) - 0.841_345).abs() < 1e-6);
    }
}
