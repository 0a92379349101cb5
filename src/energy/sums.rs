//! Sums over the intervals between readings, and the energy and standard uncertainty that follow from them.
//!
//! Pure; the formulae and their reasons are in docs/energy.md. One [`Sums`] covers a set of intervals in constant memory:
//! all of a window, its active part, or the idle part that idle power is learned from. Intervals that follow each other
//! without a break make a segment.

use std::fmt;

use crate::meter::Resolution;
use crate::units::MonoTime;

/// Fewer snapshots than this say too little about their own scatter.
const SNAPSHOTS_MIN: f64 = 12.0;
/// Snapshots that must fall on inferences: if they can tell inference from pause, and if that is a matter of luck.
const HITS_MIN: f64 = 12.0;
const LUCKY_HITS_MIN: f64 = 30.0;
/// Below this squared spread of the busy fraction, one snapshot with a slightly wrong time would determine the slope.
const SPREAD_MIN: f64 = 1.0;
/// Most power that an inference may add, as a multiple of the mean power, if no snapshot shows it.
const ADDED_MAX: f64 = 4.0;
/// The fraction of their scatter that the busy fraction must explain for snapshots to tell inference from pause.
const EXPLAINED_MIN: f64 = 0.9;

/// What a reading covers of the time before it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LookBack {
    /// Watts of a snapshot; `None` for a counter.
    pub watts: Option<f64>,
    /// Busy fraction of the time that the reading looks back on: a counter's update period or a snapshot's conversion.
    pub busy: f64,
    /// Inferences in that time.
    pub inferences: f64,
    /// The length of that time.
    pub span_s: f64,
    /// The step of a counter's value; 0 for a snapshot.
    pub quantum_j: f64,
    /// For an inference that runs at the reading, the part done times the part to do; the sum over the pipelines.
    pub cut: f64,
}

/// The time between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub start: MonoTime,
    pub end: MonoTime,
    pub joules: f64,
    /// Busy seconds of all pipelines, at most the length of the interval.
    pub busy_s: f64,
    /// Processor seconds of other programs, as the kernel counted them.
    pub other_s: Option<f64>,
    pub from: LookBack,
    pub to: LookBack,
}

impl Interval {
    pub(crate) fn time_s(&self) -> f64 {
        self.end.since(self.start).as_secs_f64()
    }
}

/// Sums over intervals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    pub time_s: f64,
    pub joules: f64,
    pub busy_s: f64,
    /// Processor seconds of other programs where they are known, and seconds where they are not.
    other_s: f64,
    other_unknown_s: f64,
    /// Squared weights of all snapshots but the last, and half of the interval before the last.
    weights_squared: f64,
    half_s: f64,
    edges: Edges,
    /// The end of the last interval that was added.
    tail: Option<(MonoTime, LookBack)>,
    snapshots: Snapshots,
    /// Snapshots expected on inferences.
    hits: f64,
    /// Seconds that belong to snapshots with at least a part of an inference in them.
    pub touched_s: f64,
    /// Squared steps of the busy fraction from each snapshot to the next, times the squared length of the conversion.
    steps_s2: f64,
    /// Busy seconds as weighted by the snapshots.
    busy_seen_s: f64,
}

/// Sums over the first and last readings of segments. A counter's value is as old as its span at most; squares of it stand
/// before the other factors.
#[derive(Debug, Clone, Copy, Default)]
struct Edges {
    count: f64,
    spans_s2: f64,
    busy_s2: f64,
    busy_squared_s2: f64,
    /// Squared busy fractions, less the more evenly the power is spread within the span: how far its part may be off.
    lumps_s2: f64,
    quanta_j2: f64,
    /// Spans at the last readings minus those at the first ones, and the same of the busy parts of them.
    lag_s: f64,
    rise_s: f64,
    cuts: f64,
}

/// Sums for the regression of watts on the busy fraction.
#[derive(Debug, Clone, Copy, Default)]
struct Snapshots {
    count: f64,
    busy: f64,
    busy_squared: f64,
    watts: f64,
    watts_squared: f64,
    both: f64,
}

/// Why the readings are not enough to tell the energy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Insufficient {
    /// There is no energy at all.
    Readings { count: f64 },
    /// Too few snapshots fell on inferences; `energy` has an uncertainty that is wide enough to allow for that.
    Hits { hits: f64, count: f64, energy: Energy },
}

impl fmt::Display for Insufficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Readings { count } => {
                write!(f, "{count:.0} snapshots of the sensor are too few; read it more often")
            }
            Self::Hits { hits, count, .. } => write!(
                f,
                "about {hits:.0} of {count:.0} snapshots of the sensor fell on inferences, too few to tell their energy: \
                 inferences are too short or too rare for this sensor"
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
    fn add(&mut self, look_back: LookBack, sign: f64) {
        let LookBack { busy, inferences, span_s, quantum_j, cut, .. } = look_back;
        let span_s2 = span_s.powi(2);
        self.count += 1.0;
        self.spans_s2 += span_s2;
        self.busy_s2 += span_s2 * busy;
        self.busy_squared_s2 += span_s2 * busy.powi(2);
        // One that runs all of the span has another power there than its mean: up to twice as much, or none.
        let runs_all = busy > 0.99 && inferences > 0.0 && inferences < 1.0;
        let evenness = if runs_all { 3.0 - 2.0 * inferences } else { inferences.max(1.0) };
        self.lumps_s2 += span_s2 * busy.powi(2) / evenness;
        self.quanta_j2 += quantum_j.powi(2);
        self.lag_s += sign * span_s;
        self.rise_s += sign * span_s * busy;
        self.cuts += cut;
    }
}

/// Watts against the busy fraction: its spread, the slope, and the squares of watts with and without what the slope explains.
struct Regression {
    spread: f64,
    slope_w: f64,
    scatter: f64,
    rest: f64,
}

impl Snapshots {
    fn regression(&self) -> Regression {
        let Self { count, busy, busy_squared, watts, watts_squared, both } = *self;
        let spread = busy_squared - busy.powi(2) / count;
        let joint = both - busy * watts / count;
        let scatter = (watts_squared - watts.powi(2) / count).max(0.0);
        let slope_w = if spread > SPREAD_MIN { joint / spread } else { 0.0 };
        Regression { spread, slope_w, scatter, rest: (scatter - slope_w * joint).max(0.0) }
    }

    fn add(&mut self, look_back: LookBack) {
        let Some(watts) = look_back.watts else { return };
        self.count += 1.0;
        self.busy += look_back.busy;
        self.busy_squared += look_back.busy.powi(2);
        self.watts += watts;
        self.watts_squared += watts.powi(2);
        self.both += watts * look_back.busy;
    }
}

impl Sums {
    /// Adds an interval, which follows the last one without a break or starts a new segment.
    pub(crate) fn add(&mut self, interval: &Interval) {
        let time_s = interval.time_s();
        let half_s = time_s / 2.0;
        if self.tail.is_some_and(|(end, _)| end == interval.start) {
            self.weights_squared += (self.half_s + half_s).powi(2);
        } else {
            if let Some((_, tail)) = self.tail {
                self.edges.add(tail, 1.0);
            }
            self.weights_squared += self.half_s.powi(2) + half_s.powi(2);
            self.edges.add(interval.from, -1.0);
            self.snapshots.add(interval.from);
        }
        (self.tail, self.half_s) = (Some((interval.end, interval.to)), half_s);
        self.snapshots.add(interval.to);
        let busy = (interval.busy_s / time_s).min(1.0);
        self.time_s += time_s;
        self.joules += interval.joules;
        self.busy_s += interval.busy_s;
        match interval.other_s {
            Some(other_s) => self.other_s += other_s,
            None => self.other_unknown_s += time_s,
        }
        self.hits += busy;
        let touched = |look_back: LookBack| if look_back.busy > 0.0 { 0.5 } else { 0.0 };
        self.touched_s += time_s * (touched(interval.from) + touched(interval.to));
        self.steps_s2 += (interval.to.span_s * (interval.to.busy - interval.from.busy)).powi(2);
        self.busy_seen_s += time_s * (interval.from.busy + interval.to.busy) / 2.0;
    }

    /// Corrects what an interval that was added says of inferences.
    pub(crate) fn revise(&mut self, before: &Interval, after: &Interval) {
        let (mut old, mut new) = (Self::default(), Self::default());
        old.add(before);
        new.add(after);
        self.busy_s += new.busy_s - old.busy_s;
        self.hits += new.hits - old.hits;
        self.touched_s += new.touched_s - old.touched_s;
        self.steps_s2 += new.steps_s2 - old.steps_s2;
        self.busy_seen_s += new.busy_seen_s - old.busy_seen_s;
        // The reading at its start belongs to the interval before, if there is one: only the end is corrected.
        let (mut old, mut new) = (Snapshots::default(), Snapshots::default());
        old.add(before.to);
        new.add(after.to);
        self.snapshots.busy += new.busy - old.busy;
        self.snapshots.busy_squared += new.busy_squared - old.busy_squared;
        self.snapshots.both += new.both - old.both;
        if let Some((_, tail)) = self.tail.as_mut().filter(|(end, _)| *end == after.end) {
            *tail = after.to;
        }
    }

    /// Returns the processor seconds of other programs, if they are known all the time.
    pub(crate) fn other_s(&self) -> Option<f64> {
        (self.other_unknown_s == 0.0).then_some(self.other_s)
    }

    /// Returns the number of first and last readings of segments.
    pub(crate) fn edge_count(&self) -> f64 {
        self.all_edges().count
    }

    /// Returns the standard uncertainty of the number of inferences, as their energy counts them: that of one which runs at
    /// an edge need not be spread evenly over its time. The most uneven is all of it at one end.
    pub(crate) fn cut_u(&self) -> f64 {
        (self.all_edges().cuts / 3.0).sqrt()
    }

    fn all_edges(&self) -> Edges {
        let mut edges = self.edges;
        if let Some((_, tail)) = self.tail {
            edges.add(tail, 1.0);
        }
        edges
    }

    fn squared_weights(&self) -> f64 {
        self.weights_squared + self.half_s.powi(2)
    }

    /// Returns the power of an inference above `idle_w`, of which `tails_j` is not.
    fn added_w(&self, idle_w: f64, tails_j: f64) -> f64 {
        let added_j = self.joules - idle_w * self.time_s - tails_j;
        if self.busy_s > 0.0 { (added_j / self.busy_s).max(0.0) } else { 0.0 }
    }

    /// Returns the energy, or why the readings cannot tell it; `tails_j` of it came after inferences.
    pub(crate) fn energy(
        &self,
        resolution: Resolution,
        idle_w: Option<f64>,
        tails_j: f64,
    ) -> Result<Energy, Insufficient> {
        match resolution {
            Resolution::Counter { .. } => Ok(self.counted(idle_w, tails_j)),
            Resolution::Sampled { .. } => self.sampled(idle_w, tails_j),
            Resolution::Model { .. } => Ok(Energy { joules: self.joules, u_j: 0.0 }),
        }
    }

    /// A counter shows its value at its last update: at each edge, the energy of up to one update period is missing.
    fn counted(&self, idle_w: Option<f64>, tails_j: f64) -> Energy {
        let edges = self.all_edges();
        let (base_w, added_w) = match idle_w {
            Some(idle_w) => (idle_w, self.added_w(idle_w, tails_j)),
            None => (self.joules / self.time_s, 0.0),
        };
        let squares = base_w.powi(2) * edges.spans_s2
            + 2.0 * base_w * added_w * edges.busy_s2
            + added_w.powi(2) * (edges.busy_squared_s2 + edges.lumps_s2);
        // Without idle power, the power at the edges only has a bound: as if all of the energy were the inferences'.
        let unknown_j = match idle_w {
            None if self.busy_s > 0.0 => self.joules / self.busy_s * edges.rise_s / 2.0,
            _ => 0.0,
        };
        let variance = squares / 12.0 + edges.quanta_j2 / 12.0 + unknown_j.powi(2) / 3.0;
        let missing_j = (base_w * edges.lag_s + added_w * edges.rise_s) / 2.0;
        Energy { joules: self.joules + missing_j, u_j: variance.sqrt() }
    }

    /// Snapshots depend on what they happen to fall on; as it is known when inferences ran, regression corrects for that.
    fn sampled(&self, idle_w: Option<f64>, tails_j: f64) -> Result<Energy, Insufficient> {
        let count = self.snapshots.count;
        if count < SNAPSHOTS_MIN {
            return Err(Insufficient::Readings { count });
        }
        let Regression { spread, slope_w, scatter, rest } = self.snapshots.regression();
        let explained = if scatter > 0.0 { 1.0 - rest / scatter } else { 1.0 };
        let hits_min = if explained < EXPLAINED_MIN { LUCKY_HITS_MIN } else { HITS_MIN };
        if self.busy_s > 0.0 && self.hits < hits_min {
            let open_j = ADDED_MAX * self.joules / self.time_s * self.busy_s / 3f64.sqrt();
            let noise = scatter / (count - 1.0) * self.squared_weights();
            let energy = Energy { joules: self.joules, u_j: noise.sqrt().hypot(open_j) };
            return Err(Insufficient::Hits { hits: self.hits, count, energy });
        }
        // Two parameters are estimated from the data; few degrees of freedom make the tails of the result longer.
        let freedom = count - 2.0;
        let noise = rest / freedom * freedom / (freedom - 2.0);
        let excess_s = self.busy_seen_s - self.busy_s;
        let mut variance = noise * self.squared_weights();
        let step_w = self.added_w(idle_w.unwrap_or(0.0), tails_j).min(ADDED_MAX * self.joules / self.time_s);
        if slope_w == 0.0 {
            // Almost no snapshot fell between inferences, or almost none on them: what they missed is unknown.
            variance += (excess_s * step_w).powi(2) / 3.0;
        } else {
            variance += excess_s.powi(2) * noise / spread;
        }
        // The end of a conversion is known to within half of one, c^2/12; the trapezoid over a step takes the mean of two.
        // The scatter shows this if there are many steps; with few, it is luck.
        variance = variance.max(step_w.powi(2) / 24.0 * self.steps_s2);
        Ok(Energy { joules: self.joules - slope_w * excess_s, u_j: variance.sqrt() })
    }

    /// Returns the variance of a single snapshot that inferences do not explain.
    pub(crate) fn unexplained_variance(&self) -> Option<f64> {
        (self.snapshots.count >= 3.0).then(|| self.snapshots.regression().rest / (self.snapshots.count - 2.0))
    }

    /// Returns the variance of a single snapshot while nothing runs.
    pub(crate) fn snapshot_variance(&self) -> Option<f64> {
        (self.snapshots.count >= 3.0).then(|| self.snapshots.regression().scatter / (self.snapshots.count - 1.0))
    }

    /// Returns the standard uncertainty of the mean power of idle intervals.
    pub(crate) fn idle_u_w(&self, resolution: Resolution, snapshot_variance: f64) -> f64 {
        match resolution {
            Resolution::Counter { .. } => self.counted(Some(self.joules / self.time_s), 0.0).u_j / self.time_s,
            Resolution::Sampled { .. } => (snapshot_variance * self.squared_weights()).sqrt() / self.time_s,
            Resolution::Model { .. } => 0.0,
        }
    }
}

/// Returns the uncertainty that rounding to whole quanta leaves in a mean of snapshots that scatter with `variance`.
///
/// The error is at most half a quantum; it is scaled such that k = 2 covers 95 % of it if there is no other error. Two
/// neighbouring values scatter by at most a quarter of a squared quantum; of half a squared quantum, a twelfth is due to
/// rounding, and the rest is noise that smooths the steps (Widrow and Kollar, Quantization Noise, 2008: the first harmonic
/// of the rounding error under Gaussian noise). Between the two it is a straight line.
pub(crate) fn rounding_w(resolution: Resolution, variance: f64) -> f64 {
    let Resolution::Sampled { quantum, .. } = resolution else { return 0.0 };
    if quantum.0 <= 0.0 {
        return 0.0;
    }
    let scatter = variance / quantum.0.powi(2);
    let noise = (5.0 / 3.0 * (scatter - 0.25)).max(0.0);
    0.95 / 4.0 * quantum.0 * (-2.0 * std::f64::consts::PI.powi(2) * noise).exp()
}
