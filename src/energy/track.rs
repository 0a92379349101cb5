//! One meter and what the pipelines did under it: readings become stretches, stretches fill the window.
//!
//! Pure. A reading waits here until it is known what ran at its time. A stretch is *quiet* when nothing ran in it, nor
//! just before, and enough such stretches follow each other; the others are *active*. From the quiet ones idle power is
//! learned, from the active ones the energy above idle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Settings;
use super::bout::Calibrated;
use super::figure::{self, EnergyEstimate};
use super::idle::{Idle, IdlePower, Quiet};
use super::share::Fit;
use super::spans::{Spans, Work};
use super::sums::{Seen, Stretch, Sums};
use crate::engine::span::BusySpan;
use crate::meter::{Accuracy, MeterError, MeterInfo, Reading, Resolution, Scope};
use crate::units::{Joules, MonoTime, duration_ns};

/// Readings that wait for the inferences that run at their time.
const HELD_MAX: usize = 4096;
/// Power settles after an inference: clocks and voltages fall within milliseconds.
const GUARD: Duration = Duration::from_millis(20);
/// Quiet stretches that follow each other for less than this are not worth two more edges.
const QUIET_MIN_S: f64 = 0.05;
/// So much quiet time makes one observation of the idle power; less, when this much time has passed over it.
const OBSERVATION_S: f64 = 1.0;
const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(60);
/// A stretch of the fit that shares energy is at least this long, and so many updates of the counter.
const FIT_STRETCH_S: f64 = 0.1;
const FIT_STRETCH_UPDATES: f64 = 20.0;
/// Sets of active delegates whose idle power is remembered.
const IDLES_MAX: usize = 16;
/// Runs without a loss that one window may consist of.
const RUNS_MAX: usize = 64;
/// The time of others is in ticks of 10 ms, each of which may be counted at either edge.
const OTHERS_NOISE_S: f64 = 0.02;
/// After so many observations in a row that were not like those before, idle power is learned anew.
const UNLIKE_MAX: u32 = 10;
/// What other programs may use beyond what they used when idle power was measured.
pub const OTHER_CORES_MAX: f64 = 0.02;

/// One meter and what the pipelines did under it.
#[derive(Debug)]
pub(crate) struct MeterState {
    pub info: MeterInfo,
    pub accuracy: Accuracy,
    pub spans: Vec<Spans>,
    /// By pipeline, for its delegate that is active.
    pub calibrated: Vec<Option<Calibrated>>,
    held: VecDeque<Held>,
    /// The last settled reading; none until a first one, and after an error until the next.
    edge: Option<Edge>,
    /// Why this window has no figure.
    void: Option<String>,
    /// Why part of this window was not metered, or the meter is not read.
    pub lost: Option<String>,
    /// What ended before this moment, the first reading after a loss, was not metered.
    metered_from: MonoTime,
    pub window: Window,
    /// Stretches that are quiet, but not yet for long enough, or an inference may follow too soon.
    candidates: VecDeque<(Stretch, OtherTime)>,
    is_quiet: bool,
    last_busy: Option<MonoTime>,
    observation: Option<Observation>,
    snapshot_variance: Option<f64>,
    /// Observations in a row that were not taken, since other programs did not do what they did in those before.
    unlike: u32,
    delegates: String,
    idles: BTreeMap<String, Idle>,
}

/// A reading that waits.
#[derive(Debug, Clone, Copy)]
struct Held {
    time: MonoTime,
    joules: Joules,
    watts: Option<f64>,
    other_s: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    held: Held,
    seen: Seen,
}

/// Quiet stretches that become one observation of the idle power.
#[derive(Debug)]
struct Observation {
    start: MonoTime,
    sums: Sums,
    others: OtherTime,
}

/// Processor time of other programs since boot, before and after a stretch.
#[derive(Debug, Clone, Copy)]
struct OtherTime {
    before_s: Option<f64>,
    after_s: Option<f64>,
}

impl OtherTime {
    fn used_s(self) -> Option<f64> {
        self.after_s.zip(self.before_s).map(|(after, before)| after - before)
    }
}

/// What was seen since the last figures that ended a window.
#[derive(Debug)]
pub(crate) struct Window {
    /// From a first reading to a last without a loss between.
    pub runs: Vec<(MonoTime, MonoTime)>,
    pub all: Sums,
    pub active: Sums,
    /// From the first active stretch to the end of the last.
    active_bounds: Option<(MonoTime, MonoTime)>,
    pub works: Vec<Work>,
    pub other_s: Option<f64>,
    pub fit: Fit,
    fit_stretch: (f64, f64, Vec<f64>),
}

impl Window {
    fn new(pipeline_count: usize) -> Self {
        Self {
            runs: Vec::new(),
            all: Sums::default(),
            active: Sums::default(),
            active_bounds: None,
            works: vec![Work::default(); pipeline_count],
            other_s: Some(0.0),
            fit: Fit::new(pipeline_count),
            fit_stretch: (0.0, 0.0, vec![0.0; pipeline_count]),
        }
    }

    fn add(&mut self, stretch: &Stretch, works: &[Work], other_s: Option<f64>, resolution: Resolution) {
        match self.runs.last_mut() {
            Some((_, end)) if *end == stretch.start => *end = stretch.end,
            _ => self.runs.push((stretch.start, stretch.end)),
        }
        self.all.add(stretch);
        self.other_s = self.other_s.zip(other_s).map(|(sum, other_s)| sum + other_s);
        for (sum, work) in self.works.iter_mut().zip(works) {
            sum.add(*work);
        }
        self.add_to_fit(stretch, works, resolution);
    }

    fn activate(&mut self, stretch: &Stretch) {
        let from = self.active_bounds.map_or(stretch.start, |(from, _)| from);
        self.active_bounds = Some((from, stretch.end));
        self.active.add(stretch);
    }

    /// The time within the window that was lost.
    pub(crate) fn unmetered_s(&self) -> f64 {
        self.runs.iter().zip(self.runs.iter().skip(1)).map(|(run, next)| next.0.since(run.1).as_secs_f64()).sum()
    }

    fn add_to_fit(&mut self, stretch: &Stretch, works: &[Work], resolution: Resolution) {
        let (time_s, joules, busy_s) = &mut self.fit_stretch;
        *time_s += stretch.time_s();
        *joules += stretch.joules;
        for (sum, work) in busy_s.iter_mut().zip(works) {
            *sum += work.busy_s;
        }
        if *time_s >= FIT_STRETCH_S.max(FIT_STRETCH_UPDATES * resolution.look_back().as_secs_f64()) {
            self.fit.add(*time_s, *joules, busy_s);
            (*time_s, *joules) = (0.0, 0.0);
            busy_s.fill(0.0);
        }
    }
}

impl MeterState {
    pub(crate) fn new(info: MeterInfo, pipeline_count: usize) -> Self {
        Self {
            info,
            accuracy: Accuracy { resolution: Resolution::Model { idle: None }, systematic_rel: None },
            spans: (0..pipeline_count).map(|_| Spans::default()).collect(),
            calibrated: vec![None; pipeline_count],
            held: VecDeque::new(),
            edge: None,
            void: None,
            lost: None,
            metered_from: MonoTime::default(),
            window: Window::new(pipeline_count),
            candidates: VecDeque::new(),
            is_quiet: false,
            last_busy: None,
            observation: None,
            snapshot_variance: None,
            unlike: 0,
            delegates: String::new(),
            idles: BTreeMap::new(),
        }
    }

    /// An inference that took so long that it was not waited for makes its window void, and idle power seen meanwhile.
    pub(crate) fn absorb(&mut self, pipeline: usize, span: BusySpan) {
        let settled = self.edge.map(|edge| edge.held.time);
        let in_window = |run: &(MonoTime, MonoTime)| span.start < run.1 && span.end > run.0;
        if settled.is_some_and(|settled| span.start < settled && span.start >= self.metered_from)
            || self.window.runs.iter().any(in_window)
        {
            self.idles.remove(&self.delegates);
            self.restart("an inference took far longer than those before it");
        }
        if let Some(spans) = self.spans.get_mut(pipeline) {
            spans.push(span, self.metered_from);
        }
        if let Some(first) = self.held.front() {
            self.settle(first.time, false);
        }
    }

    pub(crate) fn reading(&mut self, reading: Result<Reading, MeterError>, other_s: Option<f64>) {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => return self.lose(error.to_string()),
        };
        self.info.scope = reading.scope;
        self.accuracy = reading.accuracy;
        let watts = match reading.accuracy.resolution {
            Resolution::Sampled { .. } => reading.power.map(|power| power.0),
            _ => None,
        };
        let held = Held { time: reading.time, joules: reading.joules, watts, other_s };
        if self.edge.is_none() && self.held.is_empty() {
            self.metered_from = held.time;
            for spans in &mut self.spans {
                spans.take_until(held.time);
            }
            self.edge = Some(Edge { held, seen: Seen { watts, ..Seen::default() } });
            return;
        }
        self.held.push_back(held);
        self.settle(held.time, self.held.len() > HELD_MAX);
    }

    /// Turns the readings into stretches of which it is known what ran until then; all of them when `forced`.
    pub(crate) fn settle(&mut self, now: MonoTime, forced: bool) {
        while let Some(first) = self.held.front() {
            if !forced && !self.spans.iter().all(|spans| spans.is_settled(first.time, now)) {
                return;
            }
            if let Some(first) = self.held.pop_front() {
                self.advance(first);
            }
        }
    }

    fn advance(&mut self, held: Held) {
        let Some(Edge { held: before, seen: from }) = self.edge else { return };
        let time = held.time.since(before.time);
        if time.is_zero() {
            return;
        }
        // Split where the new reading begins to look back, to know what it saw.
        let look_back = self.accuracy.resolution.look_back().min(time);
        let look_from = MonoTime(held.time.0.saturating_sub(duration_ns(look_back)));
        let mut recent = Work::default();
        let works: Vec<Work> = self
            .spans
            .iter_mut()
            .map(|spans| {
                let mut work = spans.take_until(look_from);
                let late = spans.take_until(held.time);
                recent.add(late);
                work.add(late);
                work
            })
            .collect();
        let seen = Seen {
            watts: held.watts,
            busy: (recent.busy_s / look_back.as_secs_f64().max(1e-9)).min(1.0),
            inferences: recent.inferences,
        };
        let (time_s, busy_s) = (time.as_secs_f64(), works.iter().map(|work| work.busy_s).sum::<f64>());
        let joules = (held.joules - before.joules).0;
        let (start, end, busy_s) = (before.time, held.time, busy_s.min(time_s));
        let stretch = Stretch { start, end, joules, busy_s, from, to: seen };
        let others = OtherTime { before_s: before.other_s, after_s: held.other_s };
        self.edge = Some(Edge { held, seen });
        self.window.add(&stretch, &works, others.used_s(), self.accuracy.resolution);
        self.sort(&stretch, others);
    }

    /// Puts a stretch to the active ones, or to those that idle power is learned from.
    fn sort(&mut self, stretch: &Stretch, others: OtherTime) {
        let guard = GUARD + self.accuracy.resolution.look_back();
        let ran = stretch.busy_s > 0.0;
        if ran || self.last_busy.is_some_and(|last| stretch.start < last + guard) {
            if ran {
                self.last_busy = Some(self.last_end(stretch.end));
            }
            self.end_quiet();
            self.window.activate(stretch);
            return;
        }
        self.candidates.push_back((*stretch, others));
        self.is_quiet |= self.candidates.iter().map(|(stretch, _)| stretch.time_s()).sum::<f64>() >= QUIET_MIN_S;
        // A conversion may have ended somewhat after the time that its reading is dated.
        let ahead = self.accuracy.resolution.look_back();
        while self.is_quiet
            && let Some((first, others)) = self.candidates.front().copied()
            && first.end + ahead <= stretch.end
        {
            self.candidates.pop_front();
            self.observe(&first, others);
        }
    }

    /// When the last inference before `end` was over.
    fn last_end(&self, end: MonoTime) -> MonoTime {
        self.spans.iter().map(|spans| spans.last_taken().min(end)).max().unwrap_or(end)
    }

    /// What was quiet for too short a time is active.
    fn end_quiet(&mut self) {
        self.is_quiet = false;
        for (stretch, _) in std::mem::take(&mut self.candidates) {
            self.window.activate(&stretch);
        }
    }

    fn observe(&mut self, stretch: &Stretch, others: OtherTime) {
        let observation =
            self.observation.get_or_insert_with(|| Observation { start: stretch.start, sums: Sums::default(), others });
        observation.sums.add(stretch);
        observation.others.after_s = others.after_s;
        let age = stretch.end.since(observation.start);
        if observation.sums.time_s >= OBSERVATION_S || age > OBSERVATION_AGE_MAX {
            self.conclude(stretch.end);
        }
    }

    /// Makes the quiet stretches so far an observation of the idle power.
    fn conclude(&mut self, end: MonoTime) {
        let Some(Observation { start, sums, others }) = self.observation.take() else { return };
        let resolution = self.accuracy.resolution;
        if let Some(variance) = sums.snapshot_variance() {
            let known = self.snapshot_variance.unwrap_or(variance);
            self.snapshot_variance = Some(known + 0.2 * (variance - known));
        }
        // Busy stretches between the quiet ones included: when in a tick others ran is not known.
        let age_s = end.since(start).as_secs_f64();
        let other_cores = others.used_s().map(|other_s| other_s / age_s);
        let u_w = match (resolution, self.snapshot_variance) {
            (Resolution::Sampled { .. }, None) => return,
            (_, variance) => sums.quiet_u_w(resolution, variance.unwrap_or(0.0)),
        };
        let time = start + end.since(start) / 2;
        let quiet = Quiet { time, watts: sums.joules / sums.time_s, u_w, other_cores };
        if self.idles.len() >= IDLES_MAX && !self.idles.contains_key(&self.delegates) {
            self.idles.pop_first();
        }
        let idle = self.idles.entry(self.delegates.clone()).or_default();
        let other = OTHER_CORES_MAX + OTHERS_NOISE_S / age_s;
        let differs = |before: f64| other_cores.is_some_and(|now| (now - before).abs() > other);
        if !idle.other_cores().is_some_and(differs) {
            self.unlike = 0;
            idle.observe(quiet);
            return;
        }
        // For a moment others do more or less than before; when that stays, the machine idles otherwise now.
        self.unlike += 1;
        if self.unlike >= UNLIKE_MAX {
            self.unlike = 0;
            *idle = Idle::default();
            idle.observe(quiet);
        }
    }

    /// What is known of the idle power in the active part of the window.
    pub(crate) fn idle(&self, settings: &Settings) -> Option<IdlePower> {
        let modelled = match self.accuracy.resolution {
            Resolution::Model { idle } => idle,
            _ => None,
        };
        if let Some(watts) = modelled.or(settings.idle) {
            return Some(IdlePower { watts: watts.0, u_w: 0.0, drift_w: 0.0, age: None });
        }
        let bounds = self.window.runs.first().zip(self.window.runs.last()).map(|(first, last)| (first.0, last.1));
        let (from, to) = self.window.active_bounds.or(bounds)?;
        self.idles.get(&self.delegates)?.between(from, to)
    }

    /// Cores that others kept busy in the window beyond those while idle power was measured; none where they are unknown or
    /// not metered.
    pub(crate) fn other_cores(&self) -> Option<f64> {
        if self.info.scope == Scope::Process {
            return None;
        }
        let quiet = self.idles.get(&self.delegates).and_then(Idle::other_cores).unwrap_or(0.0);
        self.window.other_s.map(|other_s| other_s / self.window.all.time_s - quiet)
    }

    /// Takes over what another track of the same meter has learned of idle power.
    pub(crate) fn inherit(&mut self, other: &Self) {
        self.idles.clone_from(&other.idles);
        self.snapshot_variance = other.snapshot_variance;
    }

    /// Readings wait until it is known what ran at their time.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn snapshot_variance(&self) -> Option<f64> {
        self.snapshot_variance
    }

    /// Tells which delegates are active: idle power differs with them, so the window starts anew.
    pub(crate) fn delegates(&mut self, active: &str) {
        if self.delegates == active {
            return;
        }
        self.delegates = active.to_owned();
        self.restart("the active delegates changed in the window");
    }

    /// Gives up what was seen since the last figures, and goes on from the last reading.
    fn restart(&mut self, reason: &str) {
        (self.observation, self.is_quiet) = (None, false);
        self.candidates.clear();
        if self.window.all.time_s > 0.0 {
            self.void = Some(reason.to_owned());
            self.window = Window::new(self.spans.len());
        }
    }

    /// Ends the run of readings; what was metered before stays in the window, which goes on with the next reading.
    fn lose(&mut self, reason: String) {
        self.lost = Some(reason);
        self.edge = None;
        self.held.clear();
        self.end_quiet();
        if self.window.runs.len() >= RUNS_MAX {
            self.restart(&format!("the meter was lost {RUNS_MAX} times in the window"));
        }
    }

    /// One figure a pipeline; the next window starts here unless this one has still to grow.
    pub(crate) fn figures(&mut self, settings: &Settings) -> Vec<EnergyEstimate> {
        let nothing = self.window.runs.is_empty();
        let reason = match (&self.void, &self.lost) {
            (Some(reason), _) => Some(reason.as_str()),
            (None, Some(reason)) if nothing || self.edge.is_none() => Some(reason.as_str()),
            (None, None) if self.edge.is_none() => Some("the meter was not read yet"),
            _ => None,
        };
        let mut figures = match reason {
            Some(reason) => figure::all_unavailable(self, reason),
            None => figure::of_window(self, settings),
        };
        let full = self.window.all.time_s >= settings.window_max.as_secs_f64();
        if reason.is_some() || full || figures.iter().all(|figure| figure.is_good_enough(settings)) {
            self.window = Window::new(self.spans.len());
            self.void = None;
            self.lost.take_if(|_| self.edge.is_some());
            figures.iter_mut().for_each(|figure| figure.closed = true);
        }
        figures
    }
}
