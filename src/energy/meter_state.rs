//! The state of one meter: its readings become intervals, and intervals fill the window and the model of idle power.
//!
//! Pure; called on the meter thread. A reading waits until it is known which inferences were running at its time. The
//! interval between two readings is *idle* if no inference ran in it or shortly before, and if enough such intervals
//! follow each other; all others are *active*. Idle intervals teach idle power; active ones hold the energy above it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::calibrated::Calibrated;
use super::idle::{IdleModel, IdlePower, Observation};
use super::others::{CoreFit, CorePower, Excess, ticks_u_s};
use super::settings::Settings;
use super::spans::{Spans, Work};
use super::sums::{Interval, LookBack, Sums};
use super::tail::{Rest, TAIL_MAX_S, Tail};
use super::window::Window;
use crate::engine::span::BusySpan;
use crate::meter::{Accuracy, MeterError, MeterInfo, Reading, Resolution, Scale, Scope};
use crate::units::{Joules, MonoTime, duration_ns};

/// Most readings that wait for inferences running at their time.
const WAITING_MAX: usize = 4096;
/// So many readings, none of them older than this, wait for one at which no inference runs: a window had better end there, since
/// the energy of an inference need not be spread evenly over its time.
const BETWEEN_MAX: usize = 8;
const BETWEEN_AGE_MAX: Duration = Duration::from_secs(2);
/// Idle power at the start of a pause is computed again after this time.
const REST_AGE_MAX: Duration = Duration::from_secs(1);
/// Consecutive idle intervals shorter than this in total count as active: they are not worth two more edges.
const IDLE_MIN_S: f64 = 0.05;
/// This much idle time makes one observation of idle power; less does once the intervals span the maximum age.
const OBSERVATION_S: f64 = 1.0;
const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(60);
/// An unfinished observation says something from this length on.
const UNFINISHED_MIN_S: f64 = 0.1;
/// Sets of active delegates whose idle power is remembered.
const IDLE_MODELS_MAX: usize = 16;
/// Intervals that are remembered in case that an inference ran in them: ten seconds at 100 readings a second.
const RECENT_MAX: usize = 1024;
/// Most segments, separated by losses of the meter, in one window.
const SEGMENTS_MAX: usize = 64;
/// After this many consecutive observations with a different load from other programs, idle power is learned again from
/// the start.
const DIFFERING_MAX: u32 = 10;
/// Cores that other programs may use beyond what they used while idle power was measured.
pub const OTHER_CORES_MAX: f64 = 0.02;

mod late;

use late::Recent;

/// One meter and what the pipelines did while it was read.
#[derive(Debug)]
pub(crate) struct MeterState {
    pub info: MeterInfo,
    pub accuracy: Accuracy,
    /// By pipeline.
    pub spans: Vec<Spans>,
    /// By pipeline, for its active delegate.
    pub calibrated: Vec<Option<Calibrated>>,
    waiting: VecDeque<WaitingReading>,
    /// The last reading that was counted; `None` before the first one, and after an error until the next.
    last: Option<CountedReading>,
    /// Why this window has no estimate.
    void_reason: Option<String>,
    /// Why part of this window was not metered, or why the meter is not read.
    pub lost_reason: Option<String>,
    /// The first reading after a loss; work that ended before it was not metered.
    metered_from: MonoTime,
    pub window: Window,
    /// Intervals without inferences that may still turn out to be active: too short in total, or an inference may follow.
    candidates: VecDeque<Interval>,
    is_idle: bool,
    last_busy: Option<MonoTime>,
    pub tail: Tail,
    /// The last intervals that were counted.
    recent: VecDeque<Recent>,
    /// The model of idle power before the first observation since an inference, and when that began.
    before_pause: Option<(MonoTime, IdleModel)>,
    /// Idle power from the configuration in watts, with its standard uncertainty.
    pub given_idle_w: Option<(f64, f64)>,
    /// Idle power with its standard uncertainty, as computed at a time.
    rest: Option<(MonoTime, f64, f64)>,
    idle_sums: Option<IdleSums>,
    snapshot_variance: Option<f64>,
    core_fit: CoreFit,
    /// Consecutive observations that were rejected because other programs behaved differently.
    differing_observations: u32,
    delegates: String,
    /// By set of delegates.
    idle_models: BTreeMap<String, IdleModel>,
}

#[derive(Debug, Clone, Copy)]
struct WaitingReading {
    time: MonoTime,
    joules: Joules,
    watts: Option<f64>,
    /// How far back the value looks, and its step if it is a counter's.
    look_back: Duration,
    quantum_j: f64,
    other_s: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct CountedReading {
    reading: WaitingReading,
    look_back: LookBack,
}

/// Idle intervals that together become one observation of idle power.
#[derive(Debug)]
struct IdleSums {
    start: MonoTime,
    sums: Sums,
    /// No inference can have had an effect in any of the intervals.
    rested: bool,
}

impl MeterState {
    pub(crate) fn new(info: MeterInfo, pipeline_count: usize) -> Self {
        Self {
            info,
            accuracy: Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN },
            spans: (0..pipeline_count).map(|_| Spans::default()).collect(),
            calibrated: vec![None; pipeline_count],
            waiting: VecDeque::new(),
            last: None,
            void_reason: None,
            lost_reason: None,
            metered_from: MonoTime::default(),
            window: Window::new(pipeline_count),
            candidates: VecDeque::new(),
            is_idle: false,
            last_busy: None,
            tail: Tail::default(),
            given_idle_w: None,
            recent: VecDeque::new(),
            before_pause: None,
            rest: None,
            idle_sums: None,
            snapshot_variance: None,
            core_fit: CoreFit::default(),
            differing_observations: 0,
            delegates: String::new(),
            idle_models: BTreeMap::new(),
        }
    }

    /// Adds a busy span of a pipeline.
    ///
    /// If the inference took too long to be waited for, its part before the last reading is counted now. The window becomes
    /// void if those readings are too long ago.
    pub(crate) fn add_span(&mut self, pipeline: usize, span: BusySpan) {
        let counted_until = self.last.map(|last| last.reading.time);
        let is_in_segment = |segment: &(MonoTime, MonoTime)| span.start < segment.1 && span.end > segment.0;
        let is_late = counted_until.is_some_and(|until| span.start < until && span.start >= self.metered_from)
            || self.window.segments.iter().any(is_in_segment);
        let can_count = counted_until.is_some() && self.remembers(span.start);
        if is_late && !can_count {
            self.idle_models.remove(&self.delegates);
            self.restart("an inference took far longer than those before it");
        }
        if let Some(spans) = self.spans.get_mut(pipeline) {
            spans.push(span, self.metered_from);
        }
        if let Some(until) = counted_until.filter(|_| is_late && can_count) {
            self.count_late(pipeline, span, until);
        }
        self.settle_waiting();
    }

    /// Notes until when all work of a pipeline was added.
    pub(crate) fn set_known_until(&mut self, pipeline: usize, until: MonoTime) {
        if let Some(spans) = self.spans.get_mut(pipeline) {
            spans.set_known_until(until);
        }
        self.settle_waiting();
    }

    /// Adds a reading, or the reason why there is none, with the processor seconds of other programs since boot.
    pub(crate) fn add_reading(&mut self, reading: Result<Reading, MeterError>, other_s: Option<f64>) {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                self.lose(error.to_string());
                if let MeterError::Overrange { since, reason } = error
                    && self.window.segments.last().is_some_and(|(_, end)| *end > since)
                {
                    self.restart(&reason);
                }
                return;
            }
        };
        self.info.scope = reading.scope;
        self.accuracy = reading.accuracy;
        let resolution = reading.accuracy.resolution;
        let (watts, quantum_j) = match resolution {
            Resolution::Sampled { .. } => (reading.power.map(|power| power.0), 0.0),
            Resolution::Counter { quantum, .. } => (None, quantum.0),
            Resolution::Model { .. } => (None, 0.0),
        };
        let Reading { time, joules, .. } = reading;
        let reading = WaitingReading { time, joules, watts, look_back: resolution.look_back(), quantum_j, other_s };
        if self.last.is_none() && self.waiting.is_empty() {
            self.metered_from = reading.time;
            for spans in &mut self.spans {
                spans.take_until(reading.time);
            }
            let span_s = reading.look_back.as_secs_f64();
            let look_back = LookBack { watts, span_s, quantum_j, ..LookBack::default() };
            self.last = Some(CountedReading { reading, look_back });
            return;
        }
        self.waiting.push_back(reading);
        self.settle(reading.time, self.waiting.len() > WAITING_MAX);
    }

    /// Counts the readings that need not wait any more at `now`; all of them if `forced`.
    pub(crate) fn settle(&mut self, now: MonoTime, forced: bool) {
        let count = if forced { self.waiting.len() } else { self.ready(now) };
        for _ in 0..count {
            if let Some(reading) = self.waiting.pop_front() {
                self.count(reading);
            }
        }
    }

    fn settle_waiting(&mut self) {
        if let Some(last) = self.waiting.back() {
            self.settle(last.time, false);
        }
    }

    /// Returns how many of the waiting readings can be counted at `now`.
    fn ready(&self, now: MonoTime) -> usize {
        let settled = self.settled(now);
        let runs = |reading: &WaitingReading| self.spans.iter().any(|spans| spans.runs_at(reading.time));
        if let Some(last) = self.waiting.iter().take(settled).rposition(|reading| !runs(reading)) {
            return last + 1;
        }
        let is_old = |reading: &&WaitingReading| now.since(reading.time) >= BETWEEN_AGE_MAX;
        let old = self.waiting.iter().take(settled).take_while(is_old).count();
        old.max(settled.saturating_sub(BETWEEN_MAX))
    }

    /// Returns of how many waiting readings it is known at `now` what ran before them.
    fn settled(&self, now: MonoTime) -> usize {
        let is_settled = |reading: &&WaitingReading| self.spans.iter().all(|spans| spans.is_settled(reading.time, now));
        self.waiting.iter().take_while(is_settled).count()
    }

    /// Makes an interval of the time from the last reading to this one.
    fn count(&mut self, reading: WaitingReading) {
        let Some(CountedReading { reading: before, look_back: from }) = self.last else { return };
        let time = reading.time.since(before.time);
        if time.is_zero() {
            return;
        }
        // Split at the time from which on the new reading looks back, to know which inferences its value includes.
        let look_back = reading.look_back.min(time);
        let look_from = MonoTime(reading.time.0.saturating_sub(duration_ns(look_back)));
        let mut recent = Work::default();
        let works: Vec<Work> = self
            .spans
            .iter_mut()
            .map(|spans| {
                let mut work = spans.take_until(look_from);
                let late = spans.take_until(reading.time);
                recent.add(late);
                work.add(late);
                work
            })
            .collect();
        let to = LookBack {
            watts: reading.watts,
            busy: (recent.busy_s / look_back.as_secs_f64().max(1e-9)).min(1.0),
            inferences: recent.inferences,
            span_s: look_back.as_secs_f64(),
            quantum_j: reading.quantum_j,
            cut: self.spans.iter().map(Spans::cut).sum(),
        };
        let (time_s, busy_s) = (time.as_secs_f64(), works.iter().map(|work| work.busy_s).sum::<f64>());
        let joules = (reading.joules - before.joules).0;
        let (start, end, busy_s) = (before.time, reading.time, busy_s.min(time_s));
        let other_s = reading.other_s.zip(before.other_s).map(|(after, before)| after - before);
        let interval = Interval { start, end, joules, busy_s, other_s, from, to };
        self.last = Some(CountedReading { reading, look_back: to });
        self.window.add(&interval, &works);
        self.remember(interval);
        self.classify(&interval);
    }

    /// Adds an interval to the active ones, or to those that idle power is learned from.
    fn classify(&mut self, interval: &Interval) {
        let ran = interval.busy_s > 0.0;
        let age_s = self.last_busy.map(|last| interval.start.since(last).as_secs_f64() - interval.from.span_s);
        if ran {
            self.before_pause = None;
            self.start_pause(interval.start);
            self.last_busy = Some(self.last_inference_end(interval.end));
        } else if let Some(age_s) = age_s {
            self.tail.add(age_s, interval.time_s(), interval.joules);
        }
        if ran || age_s.is_some_and(|age_s| age_s < self.tail.rest_from_s()) {
            self.end_idle();
            self.window.add_active(interval);
            return;
        }
        self.candidates.push_back(*interval);
        self.is_idle |= self.candidates.iter().map(Interval::time_s).sum::<f64>() >= IDLE_MIN_S;
        // A conversion may have ended a little after the time of its reading.
        let ahead = Duration::from_secs_f64(interval.to.span_s);
        while self.is_idle
            && let Some(first) = self.candidates.front().copied()
            && first.end + ahead <= interval.end
        {
            self.candidates.pop_front();
            self.mark_idle(first.start);
            self.add_idle(&first);
        }
    }

    /// Counts the pause that an inference ends.
    fn start_pause(&mut self, now: MonoTime) {
        if !self.tail.is_pause() && self.rest.is_some() {
            return;
        }
        self.window.pauses += if self.tail.is_pause() { 1.0 } else { 0.0 };
        if self.rest.is_none_or(|(at, ..)| now.since(at) >= REST_AGE_MAX) {
            let learned = || self.idle_models.get(&self.delegates).and_then(|model| model.at_rest(now));
            self.rest = match self.given_idle_w {
                _ if self.accuracy.resolution.is_model() => None,
                Some((watts, u_w)) => Some((now, watts, u_w)),
                None => learned().map(|idle| (now, idle.watts, idle.u_w)),
            };
        }
        self.tail.start_pause(self.rest.map(|(_, watts, u_w)| (watts, u_w)));
    }

    /// Returns when the last inference before `end` ended.
    fn last_inference_end(&self, end: MonoTime) -> MonoTime {
        self.spans.iter().map(|spans| spans.last_taken().min(end)).max().unwrap_or(end)
    }

    /// Ends the idle time; intervals that were idle for too short a time become active.
    fn end_idle(&mut self) {
        self.is_idle = false;
        for interval in self.candidates.drain(..) {
            self.window.add_active(&interval);
        }
    }

    fn add_idle(&mut self, interval: &Interval) {
        self.core_fit.add(interval);
        let age_s = self.last_busy.map_or(f64::INFINITY, |last| interval.start.since(last).as_secs_f64());
        let rested = age_s >= TAIL_MAX_S || matches!(self.tail.state(), Rest::From(_));
        self.window.rested_s += if rested { interval.time_s() } else { 0.0 };
        let idle_sums = self.idle_sums.get_or_insert_with(|| IdleSums {
            start: interval.start,
            sums: Sums::default(),
            rested: true,
        });
        idle_sums.rested &= rested;
        idle_sums.sums.add(interval);
        let age = interval.end.since(idle_sums.start);
        if idle_sums.sums.time_s >= OBSERVATION_S || age > OBSERVATION_AGE_MAX {
            self.observe_idle_power(interval.end);
        }
    }

    /// Makes one observation of idle power from the idle intervals collected so far.
    fn observe_idle_power(&mut self, end: MonoTime) {
        let Some(sums) = self.idle_sums.take() else { return };
        if let Some(variance) = sums.sums.snapshot_variance() {
            let known = self.snapshot_variance.unwrap_or(variance);
            self.snapshot_variance = Some(known + 0.2 * (variance - known));
        }
        let Some(observation) = self.observation(&sums, end) else { return };
        if self.idle_models.len() >= IDLE_MODELS_MAX && !self.idle_models.contains_key(&self.delegates) {
            self.idle_models.pop_first();
        }
        let model = self.idle_models.entry(self.delegates.clone()).or_default();
        self.before_pause.get_or_insert_with(|| (sums.start, model.clone()));
        let tolerance = OTHER_CORES_MAX + 2.0 * 2f64.sqrt() * ticks_u_s(sums.sums.edge_count()) / observation.time_s;
        let differs = |before: f64| observation.other_cores.is_some_and(|now| (now - before).abs() > tolerance);
        if !model.other_cores().is_some_and(differs) {
            self.differing_observations = 0;
            if let Some(step) = model.observe(observation) {
                self.rest = None;
                self.tail.forget_pauses();
                self.window.step = Some(step);
            }
            return;
        }
        // For a moment other programs do more or less than before; if that lasts, it belongs to idle power from now on.
        self.differing_observations += 1;
        if self.differing_observations >= DIFFERING_MAX {
            self.differing_observations = 0;
            *model = IdleModel::default();
            model.observe(observation);
            self.rest = None;
            self.tail.forget_pauses();
        }
    }

    /// Returns what idle intervals until `end` tell of idle power.
    fn observation(&self, idle: &IdleSums, end: MonoTime) -> Option<Observation> {
        let IdleSums { start, sums, rested } = idle;
        let resolution = self.accuracy.resolution;
        let u_w = match (resolution, self.snapshot_variance) {
            (Resolution::Sampled { .. }, None) => return None,
            (_, variance) => sums.idle_u_w(resolution, variance.unwrap_or(0.0)),
        };
        Some(Observation {
            time: *start + end.since(*start) / 2,
            watts: sums.joules / sums.time_s,
            u_w,
            time_s: sums.time_s,
            rested: *rested,
            other_cores: sums.other_s().map(|other_s| other_s / sums.time_s),
        })
    }

    /// Returns whether power was seen at rest in the window for long enough to tell if idle power is still what it was.
    pub(crate) fn has_rested(&self) -> bool {
        self.window.rested_s >= UNFINISHED_MIN_S
    }

    /// Returns whether idle power may have made a step since it was last observed.
    pub(crate) fn idle_may_have_stepped(&self) -> bool {
        let unfinished = self.idle_sums.as_ref().filter(|idle| idle.sums.time_s >= UNFINISHED_MIN_S);
        let unfinished = unfinished.and_then(|idle| self.observation(idle, idle.start));
        self.idle_models.get(&self.delegates).is_some_and(|model| model.may_have_stepped(unfinished))
    }

    /// Returns the idle power in the active part of the window, if it is known.
    pub(crate) fn idle_power(&self, settings: &Settings) -> Option<IdlePower> {
        let modelled = match self.accuracy.resolution {
            Resolution::Model { idle } => idle,
            _ => None,
        };
        if let Some((watts, u_w)) = modelled.map(|idle| (idle.0, 0.0)).or(settings.idle_w()) {
            let given = IdlePower { watts, u_w, drift_w: 0.0, age: None, watched: Duration::ZERO, rested: true };
            return Some(given);
        }
        let segments = &self.window.segments;
        let bounds = segments.first().zip(segments.last()).map(|(first, last)| (first.0, last.1));
        let (from, to) = self.window.active_bounds.or(bounds)?;
        self.idle_models.get(&self.delegates)?.between(from, to)
    }

    /// Returns what other programs did in the active part of the window beyond what is in idle power, of which `measured` says
    /// whether it includes theirs; `None` if that is unknown or if the meter does not cover them.
    pub(crate) fn others(&self, measured: bool) -> Option<Excess> {
        if self.info.scope == Scope::Process || self.window.active.time_s <= 0.0 {
            return None;
        }
        let Sums { time_s, joules, .. } = self.window.active;
        let idle = self.idle_models.get(&self.delegates).filter(|_| measured);
        let when_idle = idle.and_then(IdleModel::other_cores).unwrap_or(0.0);
        let while_active_s = self.window.active.other_s()?;
        let is_used = while_active_s > 0.0 || when_idle > 0.0;
        let other_s = while_active_s - when_idle * time_s;
        // Idle power that does not include theirs cannot have too much of it.
        let other_s = if measured { other_s } else { other_s.max(0.0) };
        let edges = self.window.active.edge_count();
        Some(Excess::new(other_s, time_s, edges, is_used, joules / time_s, self.core_power()))
    }

    /// Returns what a core of other programs takes, if that could be learned.
    pub(crate) fn core_power(&self) -> Option<CorePower> {
        self.core_fit.power()
    }

    /// Copies what the state of another instance of this meter has learned of idle power.
    pub(crate) fn inherit_idle_power(&mut self, other: &Self) {
        self.idle_models.clone_from(&other.idle_models);
        self.core_fit.clone_from(&other.core_fit);
        self.snapshot_variance = other.snapshot_variance;
    }

    /// Whether readings wait for inferences that may be running at their time.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn snapshot_variance(&self) -> Option<f64> {
        self.snapshot_variance
    }

    /// Sets which delegates are active: idle power depends on them, so a change starts a new window.
    pub(crate) fn set_delegates(&mut self, active: &str) {
        if self.delegates == active {
            return;
        }
        self.delegates = active.to_owned();
        (self.tail, self.rest, self.before_pause) = (Tail::default(), None, None);
        self.restart("the active delegates changed in the window");
    }

    /// Discards the window and the idle intervals collected so far, and continues from the last reading.
    fn restart(&mut self, reason: &str) {
        (self.idle_sums, self.is_idle) = (None, false);
        self.candidates.clear();
        if self.window.all.time_s > 0.0 {
            self.void_reason = Some(reason.to_owned());
            self.window = Window::new(self.spans.len());
        }
    }

    /// Ends the segment; the window keeps it, and continues with the next reading.
    fn lose(&mut self, reason: String) {
        self.lost_reason = Some(reason);
        if let Some(last) = self.waiting.back() {
            let known = self.settled(last.time);
            self.waiting.truncate(known);
            self.settle(MonoTime::default(), true);
        }
        self.last = None;
        self.end_idle();
        if self.window.segments.len() >= SEGMENTS_MAX {
            self.restart(&format!("the meter was lost {SEGMENTS_MAX} times in the window"));
        }
    }

    /// Returns why the window has no estimate, whatever is in it.
    pub(crate) fn no_estimate_reason(&self) -> Option<&str> {
        let is_empty = self.window.segments.is_empty();
        match (&self.void_reason, &self.lost_reason) {
            (Some(reason), _) => Some(reason),
            (None, Some(reason)) if is_empty || self.last.is_none() => Some(reason),
            (None, None) if self.last.is_none() => Some("the meter has not been read yet"),
            _ => None,
        }
    }

    /// Starts a new window at the last reading.
    pub(crate) fn start_window(&mut self) {
        self.window = Window::new(self.spans.len());
        self.void_reason = None;
        self.lost_reason.take_if(|_| self.last.is_some());
    }
}
