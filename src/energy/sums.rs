//! The sums over the stretches between readings, and what energy and standard uncertainty follow from them.
//!
//! Pure; the formulae and their reasons are in docs/energy.md. One [`Sums`] holds a set of stretches in runs without a
//! break, in constant memory: all of a window, its active part, or the quiet part that idle power is learned from.

use std::fmt;

use crate::meter::Resolution;
use crate::units::MonoTime;

/// Fewer snapshots than this tell too little of their own scatter.
const SNAPSHOTS_MIN: f64 = 12.0;
/// Snapshots that must fall on inferences, where they tell inference from pause, and where it is a matter of luck.
const HITS_MIN: f64 = 12.0;
const LUCKY_HITS_MIN: f64 = 30.0;
/// Squared contrast of being busy below which a single snapshot, dated a little wrongly, would make the line.
const SPREAD_MIN: f64 = 1.0;
/// What an inference adds at most, in parts of the mean power, where it is not seen.
const ADDED_MAX: f64 = 4.0;
/// The part of their scatter that being busy must explain for snapshots to tell inference from pause.
const EXPLAINED_MIN: f64 = 0.9;

/// A reading as the sums see it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Seen {
    /// Watts of a snapshot; none for a counter.
    pub watts: Option<f64>,
    /// The busy part of the time that the reading looks back on: a counter's period or a snapshot's conversion.
    pub busy: f64,
    /// Inferences in that time.
    pub inferences: f64,
}

/// What lies between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    pub start: MonoTime,
    pub end: MonoTime,
    pub joules: f64,
    /// Busy seconds of all pipelines, at most as long as the stretch.
    pub busy_s: f64,
    pub from: Seen,
    pub to: Seen,
}

impl Stretch {
    pub(crate) fn time_s(&self) -> f64 {
        self.end.since(self.start).as_secs_f64()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    pub time_s: f64,
    pub joules: f64,
    pub busy_s: f64,
    /// Squared weights of the snapshots but the last, and half the stretch before that.
    weights_squared: f64,
    half_s: f64,
    edges: Edges,
    /// The end of the stretch added last.
    tail: Option<(MonoTime, Seen)>,
    snapshots: Snapshots,
    /// Snapshots expected on inferences.
    hits: f64,
    /// Time of snapshots that saw an inference, if only in part.
    pub touched_s: f64,
    /// Squared steps of the snapshots' busy part from each to the next.
    steps_squared: f64,
    /// Busy seconds as the snapshots weigh them.
    busy_seen_s: f64,
}

/// Sums over the first and last readings of runs.
#[derive(Debug, Clone, Copy, Default)]
struct Edges {
    count: f64,
    busy: f64,
    busy_squared: f64,
    /// Busy squared per inference: how lumpy the power is within the period.
    lumps: f64,
    /// Busy at last readings less busy at first ones.
    rise: f64,
}

/// Sums for the regression of watts on busy.
#[derive(Debug, Clone, Copy, Default)]
struct Snapshots {
    count: f64,
    busy: f64,
    busy_squared: f64,
    watts: f64,
    watts_squared: f64,
    both: f64,
}

/// Why the readings don't tell the energy well.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Gap {
    /// There is none.
    TooFewReadings { count: f64 },
    /// What was seen says little of the inferences: an energy with that much left open.
    TooFewHits { hits: f64, count: f64, energy: Energy },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewReadings { count } => {
                write!(f, "{count:.0} snapshots of the sensor are too few: read it more often")
            }
            Self::TooFewHits { hits, count, .. } => write!(
                f,
                "about {hits:.0} of {count:.0} snapshots of the sensor fell on inferences, too few to tell their energy: \
                 the model is too short or too rare for it"
            ),
        }
    }
}

/// An energy with its standard uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Energy {
    pub joules: f64,
    pub u_j: f64,
}

impl Edges {
    fn add(&mut self, seen: Seen, sign: f64) {
        self.count += 1.0;
        self.busy += seen.busy;
        self.busy_squared += seen.busy.powi(2);
        self.lumps += seen.busy.powi(2) / seen.inferences.max(1.0);
        self.rise += sign * seen.busy;
    }
}

impl Snapshots {
    fn add(&mut self, seen: Seen) {
        let Some(watts) = seen.watts else { return };
        self.count += 1.0;
        self.busy += seen.busy;
        self.busy_squared += seen.busy.powi(2);
        self.watts += watts;
        self.watts_squared += watts.powi(2);
        self.both += watts * seen.busy;
    }
}

impl Sums {
    /// Adds a stretch, which goes on from the one added last or starts a new run.
    pub(crate) fn add(&mut self, stretch: &Stretch) {
        let time_s = stretch.time_s();
        let half_s = time_s / 2.0;
        if self.tail.is_some_and(|(end, _)| end == stretch.start) {
            self.weights_squared += (self.half_s + half_s).powi(2);
        } else {
            if let Some((_, tail)) = self.tail {
                self.edges.add(tail, 1.0);
            }
            self.weights_squared += self.half_s.powi(2) + half_s.powi(2);
            self.edges.add(stretch.from, -1.0);
            self.snapshots.add(stretch.from);
        }
        (self.tail, self.half_s) = (Some((stretch.end, stretch.to)), half_s);
        self.snapshots.add(stretch.to);
        let busy = (stretch.busy_s / time_s).min(1.0);
        self.time_s += time_s;
        self.joules += stretch.joules;
        self.busy_s += stretch.busy_s;
        self.hits += busy;
        let touched = |seen: Seen| if seen.busy > 0.0 { 0.5 } else { 0.0 };
        self.touched_s += time_s * (touched(stretch.from) + touched(stretch.to));
        self.steps_squared += (stretch.to.busy - stretch.from.busy).powi(2);
        self.busy_seen_s += time_s * (stretch.from.busy + stretch.to.busy) / 2.0;
    }

    fn squared_weights(&self) -> f64 {
        self.weights_squared + self.half_s.powi(2)
    }

    /// The power of an inference above `idle_w`.
    fn added_w(&self, idle_w: f64) -> f64 {
        if self.busy_s > 0.0 { ((self.joules - idle_w * self.time_s) / self.busy_s).max(0.0) } else { 0.0 }
    }

    /// The energy, or why the readings don't tell it.
    pub(crate) fn energy(&self, resolution: Resolution, idle_w: Option<f64>) -> Result<Energy, Gap> {
        match resolution {
            Resolution::Counter { update, quantum } => Ok(self.counted(update.as_secs_f64(), quantum.0, idle_w)),
            Resolution::Sampled { conversion, .. } => self.sampled(conversion.as_secs_f64(), idle_w),
            Resolution::Model { .. } => Ok(Energy { joules: self.joules, u_j: 0.0 }),
        }
    }

    /// A counter shows what it was at its last update: at each edge the energy of up to a period is missing.
    fn counted(&self, update_s: f64, quantum_j: f64, idle_w: Option<f64>) -> Energy {
        let mut edges = self.edges;
        if let Some((_, tail)) = self.tail {
            edges.add(tail, 1.0);
        }
        let (base_w, added_w) = match idle_w {
            Some(idle_w) => (idle_w, self.added_w(idle_w)),
            None => (self.joules / self.time_s, 0.0),
        };
        let squares = base_w.powi(2) * edges.count
            + 2.0 * base_w * added_w * edges.busy
            + added_w.powi(2) * (edges.busy_squared + edges.lumps);
        // Without idle power the power at the edges is only bounded: by all of the energy being the inferences'.
        let unknown_j = match idle_w {
            None if self.busy_s > 0.0 => self.joules / self.busy_s * edges.rise * update_s / 2.0,
            _ => 0.0,
        };
        let variance =
            update_s.powi(2) * squares / 12.0 + edges.count * quantum_j.powi(2) / 12.0 + unknown_j.powi(2) / 3.0;
        Energy { joules: self.joules + added_w * edges.rise * update_s / 2.0, u_j: variance.sqrt() }
    }

    /// Snapshots see what they happen to fall on; as it is known when inferences ran, the luck is taken out by regression.
    fn sampled(&self, conversion_s: f64, idle_w: Option<f64>) -> Result<Energy, Gap> {
        let Snapshots { count, busy, busy_squared, watts, watts_squared, both } = self.snapshots;
        if count < SNAPSHOTS_MIN {
            return Err(Gap::TooFewReadings { count });
        }
        let spread = busy_squared - busy.powi(2) / count;
        let joint = both - busy * watts / count;
        let scatter = (watts_squared - watts.powi(2) / count).max(0.0);
        let slope_w = if spread > SPREAD_MIN { joint / spread } else { 0.0 };
        let rest = (scatter - slope_w * joint).max(0.0);
        let explained = if scatter > 0.0 { 1.0 - rest / scatter } else { 1.0 };
        let hits_min = if explained < EXPLAINED_MIN { LUCKY_HITS_MIN } else { HITS_MIN };
        if self.busy_s > 0.0 && self.hits < hits_min {
            let open_j = ADDED_MAX * self.joules / self.time_s * self.busy_s / 3f64.sqrt();
            let noise = scatter / (count - 1.0) * self.squared_weights();
            let energy = Energy { joules: self.joules, u_j: noise.sqrt().hypot(open_j) };
            return Err(Gap::TooFewHits { hits: self.hits, count, energy });
        }
        // Two parameters are taken from the data; few degrees of freedom make the tails of the result longer.
        let freedom = count - 2.0;
        let noise = rest / freedom * freedom / (freedom - 2.0);
        let excess_s = self.busy_seen_s - self.busy_s;
        let mut variance = noise * self.squared_weights();
        let step_w = self.added_w(idle_w.unwrap_or(0.0)).min(ADDED_MAX * self.joules / self.time_s);
        if slope_w == 0.0 {
            // Hardly a snapshot fell between inferences, or hardly one on them: what they missed is not seen.
            variance += (excess_s * step_w).powi(2) / 3.0;
        } else {
            variance += excess_s.powi(2) * noise / spread;
        }
        // When a conversion ended is known to half of one, c^2/12; the trapezoid over a step takes the mean of two. Where
        // steps are many the scatter tells of that; few are luck.
        variance = variance.max((step_w * conversion_s).powi(2) / 24.0 * self.steps_squared);
        Ok(Energy { joules: self.joules - slope_w * excess_s, u_j: variance.sqrt() })
    }

    /// The variance of a single snapshot where nothing runs.
    pub(crate) fn snapshot_variance(&self) -> Option<f64> {
        let Snapshots { count, watts, watts_squared, .. } = self.snapshots;
        (count >= 3.0).then(|| (watts_squared - watts.powi(2) / count).max(0.0) / (count - 1.0))
    }

    /// The standard uncertainty of the mean power of a set of stretches without inference.
    pub(crate) fn quiet_u_w(&self, resolution: Resolution, snapshot_variance: f64) -> f64 {
        match resolution {
            Resolution::Counter { update, quantum } => {
                let mean_w = self.joules / self.time_s;
                self.counted(update.as_secs_f64(), quantum.0, Some(mean_w)).u_j / self.time_s
            }
            Resolution::Sampled { .. } => (snapshot_variance * self.squared_weights()).sqrt() / self.time_s,
            Resolution::Model { .. } => 0.0,
        }
    }
}

/// The uncertainty that rounding to whole quanta leaves in a mean of snapshots that scatter with `variance`.
///
/// It is bounded by half a quantum, so it enters such that k = 2 covers 95 % of it where it is all there is. Two values
/// side by side scatter by a quarter of a squared quantum at most; of half a quantum squared a twelfth is the rounding's, and
/// the rest noise that blurs the steps away (Widrow and Kollar, Quantization Noise, 2008: the first harmonic of the rounding
/// error under Gaussian noise). Between the two a straight line.
pub(crate) fn rounding_w(resolution: Resolution, variance: f64) -> f64 {
    let Resolution::Sampled { quantum, .. } = resolution else { return 0.0 };
    if quantum.0 <= 0.0 {
        return 0.0;
    }
    let scatter = variance / quantum.0.powi(2);
    let noise = (5.0 / 3.0 * (scatter - 0.25)).max(0.0);
    0.95 / 4.0 * quantum.0 * (-2.0 * std::f64::consts::PI.powi(2) * noise).exp()
}
