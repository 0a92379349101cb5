//! The tail of an inference: power that stays above the resting power after it ended, and how long.
//!
//! Pure. The time since the last inference is divided into bins; each pause between inferences gives one value a bin, its
//! power above the idle power that was known when it began. Only sums are kept. Clock governors, drivers that put a
//! device to sleep later, and voltage regulators make such tails.

/// Where the bins start, in seconds after the last inference; none of the last one belongs to a tail.
const STARTS_S: [f64; BINS + 1] = [0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const BINS: usize = 9;
/// Power settles after this time at the earliest: clocks and voltages fall within milliseconds.
const GUARD_S: f64 = STARTS_S[1];
/// No tail is longer.
pub(crate) const TAIL_MAX_S: f64 = STARTS_S[BINS];
/// Pauses that are remembered.
const MEMORY: f64 = 60.0;
/// A bin that fewer pauses reached says too little.
const PAUSES_MIN: f64 = 6.0;
/// A bin that this fraction of the pauses reach must be known before power is said to rest.
const USUAL: f64 = 0.5;
/// Power this many standard uncertainties above rest belongs to a tail.
const ABOVE: f64 = 2.5;
/// Power this many standard uncertainties above rest is a tail for certain: it is not by chance that it was seen.
const CERTAIN: f64 = 5.0;
/// Less than this fraction of idle power is no tail.
const NOTICEABLE: f64 = 1e-6;
/// The tail has ended where power is less than this fraction of what it last was.
const ENDED: f64 = 0.5;
/// Bins after the end of the tail whose uncertainty counts: a tail may go on unseen.
const UNSEEN_BINS: usize = 2;

/// Sums over the pauses that reached a bin, of the joules above rest and the seconds of each in it.
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    pauses: f64,
    /// The fraction of the last pauses that reached it.
    reached: f64,
    time_s: f64,
    joules: f64,
    time_squared: f64,
    both: f64,
    joules_squared: f64,
    /// Squared standard uncertainty of the resting power, which all pauses of a time have in common.
    rest_variance: f64,
}

/// Watts above rest in a bin: standard uncertainties of the scatter and of the resting power.
#[derive(Debug, Clone, Copy)]
struct Above {
    watts: f64,
    scatter_w: f64,
    rest_w: f64,
}

impl Above {
    fn u_w(self) -> f64 {
        self.scatter_w.hypot(self.rest_w)
    }
}

impl Bin {
    fn add(&mut self, Part { time_s, joules }: Part, rest_u_w: f64) {
        let keep = 1.0 - 1.0 / MEMORY;
        let added = [1.0, time_s, joules, time_s.powi(2), time_s * joules, joules.powi(2), rest_u_w.powi(2)];
        let Self { pauses, time_s, joules, time_squared, both, joules_squared, rest_variance, .. } = self;
        let sums = [pauses, time_s, joules, time_squared, both, joules_squared, rest_variance];
        for (sum, added) in sums.into_iter().zip(added) {
            *sum = keep * *sum + added;
        }
    }

    fn above(&self) -> Option<Above> {
        let count = self.pauses;
        (count >= PAUSES_MIN * (1.0 - PAUSES_MIN / 2.0 / MEMORY)).then(|| {
            let watts = self.joules / self.time_s;
            let rest = self.joules_squared - 2.0 * watts * self.both + watts.powi(2) * self.time_squared;
            let variance = rest.max(0.0) / self.time_s.powi(2) * count / (count - 1.0);
            Above { watts, scatter_w: variance.sqrt(), rest_w: (self.rest_variance / count).sqrt() }
        })
    }

    /// Returns the seconds in it of a pause, those that do not reach it included.
    fn mean_s(&self) -> f64 {
        self.reached * self.time_s / self.pauses
    }
}

/// The part of a pause in one bin: joules above rest.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    time_s: f64,
    joules: f64,
}

/// What is known of where the tail ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rest {
    /// Too few pauses so far.
    Unknown,
    /// Power rests from this bin on.
    From(usize),
    /// In the longest pauses it is still above what it was before any inference ran: by so much at their ends.
    Unsettled { watts: f64, u_w: f64 },
}

/// The tail that follows each group of inferences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TailEnergy {
    pub joules: f64,
    pub u_j: f64,
    pub length_s: f64,
}

/// Power against the time since the last inference.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    bins: [Bin; BINS],
    /// Pauses so far, as far as they are remembered.
    pauses_seen: f64,
    pause: [Part; BINS],
    /// Idle power when the pause began, with its standard uncertainty.
    rest: Option<(f64, f64)>,
    state: Rest,
    /// What may be left of a tail that was seen to fall, but not to rest for long.
    left_w: f64,
    /// The power above rest from which a tail fell that was there for certain; 0 if none was.
    fallen_w: f64,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            bins: [Bin::default(); BINS],
            pauses_seen: 0.0,
            pause: [Part::default(); BINS],
            rest: None,
            state: Rest::Unknown,
            left_w: 0.0,
            fallen_w: 0.0,
        }
    }
}

impl Tail {
    /// Starts a pause at the idle power `rest` and its standard uncertainty, and counts the one before.
    pub(crate) fn start_pause(&mut self, rest: Option<(f64, f64)>) {
        if let Some((_, u_w)) = self.rest {
            self.pauses_seen = (self.pauses_seen + 1.0).min(MEMORY);
            for (bin, part) in self.bins.iter_mut().zip(&self.pause) {
                let reached = if part.time_s > 0.0 { 1.0 } else { 0.0 };
                bin.reached += (reached - bin.reached) / self.pauses_seen;
                if part.time_s > 0.0 {
                    bin.add(*part, u_w);
                }
            }
            self.judge();
        }
        (self.pause, self.rest) = ([Part::default(); BINS], rest);
    }

    /// Adds an interval without inferences that starts `age_s` after the last one.
    pub(crate) fn add(&mut self, age_s: f64, time_s: f64, joules: f64) {
        let (Some((rest_w, _)), Some(part)) = (self.rest, self.pause.get_mut(bin_of(age_s))) else { return };
        part.time_s += time_s;
        part.joules += joules - rest_w * time_s;
    }

    /// Forgets the pause that is not over: an inference ran in it.
    pub(crate) fn drop_pause(&mut self) {
        self.pause = [Part::default(); BINS];
    }

    /// Forgets the pauses so far, but not where the tail ends: idle power has changed.
    pub(crate) fn forget_pauses(&mut self) {
        let state = if matches!(self.state, Rest::From(_)) { self.state } else { Rest::Unknown };
        *self = Self { state, fallen_w: self.fallen_w, ..Self::default() };
    }

    /// Decides where power rests.
    fn judge(&mut self) {
        let known = |index: usize| self.bins.get(index).and_then(Bin::above).map(|above| (index, above));
        let Some((last, _)) = (1..BINS).rev().find_map(known) else { return };
        // Once it has been seen at rest, all bins above it are a step of idle power, which idle power follows by itself.
        let (rest, settled) = match self.state {
            Rest::From(index) => (self.mean_from(index), Some(index)),
            Rest::Unknown | Rest::Unsettled { .. } => (Above { watts: 0.0, scatter_w: 0.0, rest_w: 0.0 }, None),
        };
        let is_open = |bin: &Bin| bin.reached >= USUAL && bin.above().is_none();
        if settled.is_none() && self.bins.iter().any(is_open) {
            return;
        }
        let above_rest = |above: Above| Above {
            watts: above.watts - rest.watts,
            scatter_w: above.scatter_w.hypot(rest.scatter_w),
            rest_w: if settled.is_some() { 0.0 } else { above.rest_w },
        };
        let known = |index: usize| known(index).map(|(index, above)| (index, above_rest(above)));
        let least_w = NOTICEABLE * self.rest.map_or(0.0, |(watts, _)| watts);
        let is_above = |above: Above| above.watts > (ABOVE * above.u_w()).max(least_w);
        let highest = (1..=last).rev().filter_map(known).find(|(_, above)| is_above(*above));
        self.left_w = 0.0;
        // What few pauses reached is not known to be at rest.
        let known_from = |end: usize| (1..=end).rev().take_while(|index| known(*index).is_some()).last().unwrap_or(end);
        let Some((highest, above)) = highest else {
            // To scatter is not to rest. Where power is above rest right after an inference, or has a tail that was longer, it
            // must be seen that it falls.
            let end = known_from(last);
            let rests = match settled {
                Some(before) => (end..before).filter_map(known).all(|(_, above)| {
                    self.fallen_w == 0.0 || above.watts + ABOVE * above.u_w() < ENDED * self.fallen_w
                }),
                None => {
                    let later = self.mean_from(1);
                    let has_fallen = |first: Above| later.watts + ABOVE * later.scatter_w < ENDED * first.watts;
                    self.bins[0].above().filter(|first| is_above(*first)).is_none_or(has_fallen)
                }
            };
            if rests {
                self.state = Rest::From(end);
            }
            return;
        };
        // The tail has ended where power is far below that for certain. It falls slowly: leave out one bin more.
        let limit_w = ENDED * above.watts;
        let mut later = (highest + 1..=last).filter_map(known);
        if highest + 1 >= last
            && let Some((_, before)) = known(highest - 1)
        {
            // Idle power is learned from one bin alone, so the rest of the tail cannot be seen: as if it fell on and on.
            self.left_w = (above.watts / before.watts.max(above.watts)) * above.watts;
        }
        let fallen = later.find(|(_, later)| later.watts + ABOVE * later.scatter_w < limit_w);
        self.state = match (fallen, settled) {
            (Some((index, _)), _) => Rest::From(known_from(last).max((index + 1).min(last))),
            (None, Some(before)) => Rest::From((highest + 1).max(before).min(BINS)),
            (None, None) => Rest::Unsettled { watts: above.watts, u_w: above.u_w() },
        };
        if matches!(self.state, Rest::From(_)) && above.watts > CERTAIN * above.u_w() {
            self.fallen_w = above.watts;
        }
    }

    /// Returns the mean over a bin and all later ones.
    fn mean_from(&self, index: usize) -> Above {
        let bins = || self.bins.iter().skip(index).filter_map(|bin| bin.above().map(|above| (bin.time_s, above)));
        let time_s: f64 = bins().map(|(time_s, _)| time_s).sum::<f64>().max(f64::MIN_POSITIVE);
        Above {
            watts: bins().map(|(time_s, above)| time_s * above.watts).sum::<f64>() / time_s,
            scatter_w: bins().map(|(time_s, above)| (time_s * above.scatter_w).powi(2)).sum::<f64>().sqrt() / time_s,
            rest_w: 0.0,
        }
    }

    pub(crate) fn state(&self) -> Rest {
        self.state
    }

    /// Returns the seconds after an inference from which on power is idle power for certain.
    ///
    /// If idle power was not known before the first inference, it must be learned between them, and a tail cannot be told.
    pub(crate) fn rest_from_s(&self) -> f64 {
        match self.state {
            Rest::From(index) => STARTS_S.get(index).copied().unwrap_or(TAIL_MAX_S),
            Rest::Unknown if self.rest.is_none() => GUARD_S,
            Rest::Unknown | Rest::Unsettled { .. } => TAIL_MAX_S,
        }
    }

    /// Returns whether the time since the last inference is a pause that was metered and is longer than every settling.
    pub(crate) fn is_pause(&self) -> bool {
        self.pause.iter().skip(1).any(|part| part.time_s > 0.0)
    }

    /// Returns the joules after each group of inferences, as far as they are known.
    pub(crate) fn joules(&self) -> f64 {
        let joules = |bin: &Bin| bin.above().map_or(0.0, |above| above.watts * bin.mean_s());
        self.bins.iter().map(joules).sum()
    }

    /// Returns the tail after each group of inferences, if it is known where it ends and all of it is seen.
    pub(crate) fn energy(&self) -> Option<TailEnergy> {
        let Rest::From(end) = self.state else { return None };
        // Readings that are far apart show little of a short tail.
        self.bins.get(1).filter(|bin| bin.reached > 0.5)?;
        let (mut joules, mut variance, mut rest_j) = (0.0, 0.0, 0.0);
        for bin in self.bins.get(..end)?.iter().filter(|bin| bin.pauses > 0.0) {
            let Some(Above { watts, scatter_w, rest_w }) = bin.above() else { continue };
            joules += watts * bin.mean_s();
            variance += (scatter_w * bin.mean_s()).powi(2);
            rest_j += rest_w * bin.mean_s();
        }
        let length_s = STARTS_S.get(end).copied()?;
        Some(TailEnergy { joules, u_j: variance.sqrt().hypot(rest_j).hypot(self.unseen_j()), length_s })
    }

    /// Returns the standard uncertainty of the joules of a tail that goes on unseen after each group of inferences.
    pub(crate) fn unseen_j(&self) -> f64 {
        let Rest::From(end) = self.state else { return 0.0 };
        let bins = || self.bins.iter().skip(end).filter(|bin| bin.pauses >= 1.0);
        let scatter = |bin: &Bin| bin.above().map_or(0.0, |above| (above.scatter_w * bin.mean_s()).powi(2));
        // It is not counted, and raises idle power.
        let left_s = STARTS_S.get(end).copied().unwrap_or(0.0) + bins().next().map_or(0.0, Bin::mean_s);
        bins().take(UNSEEN_BINS).map(scatter).sum::<f64>().sqrt().hypot(self.left_w * left_s / 3f64.sqrt())
    }
}

fn bin_of(age_s: f64) -> usize {
    STARTS_S.partition_point(|start| *start <= age_s).saturating_sub(1)
}
