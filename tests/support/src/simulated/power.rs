//! What the machine draws: its energy up to any moment, from what truly ran.

use serde::{Deserialize, Serialize};

use super::activity::{Activity, Kind};

/// What each thing that runs adds to idle power.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Power {
    pub idle_w: f64,
    /// While an inference runs.
    pub inference_w: f64,
    /// For `tail_s` after an inference, unless the next one begins before.
    pub tail_w: f64,
    pub tail_s: f64,
    /// While the program next to the inferences works, on one core.
    pub program_w: f64,
    /// From `step_s` after the start of the load on, whatever runs.
    pub step_w: f64,
    pub step_s: f64,
}

/// The spans of one kind, so that sums up to any moment cost no more than a search.
#[derive(Debug)]
pub struct Timeline {
    kind: Kind,
    tail_ns: u64,
    ended: Vec<Ended>,
    /// When a span began that has not ended yet.
    running: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    start: u64,
    end: u64,
    /// Sums up to the start, in ns.
    busy_before: u64,
    tail_before: u64,
}

/// What has run up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// One that is running counts by the part of its time, once it has ended.
    pub count: f64,
    pub busy_s: f64,
    pub tail_s: f64,
}

impl std::ops::Sub for Sums {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            count: self.count - before.count,
            busy_s: self.busy_s - before.busy_s,
            tail_s: self.tail_s - before.tail_s,
        }
    }
}

impl Timeline {
    pub fn new(kind: Kind, tail_s: f64) -> Self {
        Self { kind, tail_ns: (tail_s * 1e9) as u64, ended: Vec::new(), running: None }
    }

    /// Takes in what has run since the last time.
    pub fn update(&mut self, activity: &Activity) {
        self.running = None;
        while let Some((start, end)) = activity.span(self.kind, self.ended.len()) {
            if end == 0 {
                self.running = Some(start);
                return;
            }
            self.push(start, end);
        }
    }

    fn push(&mut self, start: u64, end: u64) {
        let (busy_before, tail_before) = self.ended.last().map_or((0, 0), |last| {
            let tail = start.saturating_sub(last.end).min(self.tail_ns);
            (last.busy_before + (last.end - last.start), last.tail_before + tail)
        });
        self.ended.push(Ended { start, end, busy_before, tail_before });
    }

    /// Returns what had run before `time`.
    pub fn before(&self, time: u64) -> Sums {
        let index = self.ended.partition_point(|span| span.start <= time);
        let Some(last) = index.checked_sub(1).and_then(|index| self.ended.get(index)) else {
            let busy_ns = self.running.map_or(0, |start| time.saturating_sub(start));
            return Sums { busy_s: busy_ns as f64 / 1e9, ..Sums::default() };
        };
        let (long_ns, passed_ns) = (last.end - last.start, time.min(last.end) - last.start);
        let running = self.running.filter(|start| *start < time);
        let running_ns = running.map_or(0, |start| time - start);
        let tail_ns = running.unwrap_or(time).saturating_sub(last.end).min(self.tail_ns);
        Sums {
            count: (index - 1) as f64 + passed_ns as f64 / long_ns.max(1) as f64,
            busy_s: (last.busy_before + passed_ns + running_ns) as f64 / 1e9,
            tail_s: (last.tail_before + tail_ns) as f64 / 1e9,
        }
    }
}

/// The machine's energy.
#[derive(Debug)]
pub struct Ledger {
    power: Power,
    started: u64,
    loaded: Option<u64>,
    pub inferences: Timeline,
    pub programs: Timeline,
}

impl Ledger {
    pub fn new(power: Power, activity: &Activity) -> Self {
        let inferences = Timeline::new(Kind::Inference, power.tail_s);
        let programs = Timeline::new(Kind::Program, 0.0);
        let mut ledger = Self { power, started: activity.started(), loaded: None, inferences, programs };
        ledger.update(activity);
        ledger
    }

    pub fn update(&mut self, activity: &Activity) {
        self.loaded = activity.loaded();
        self.inferences.update(activity);
        self.programs.update(activity);
    }

    /// Returns the seconds since the load began; negative before.
    pub fn load_s(&self, time: u64) -> Option<f64> {
        self.loaded.map(|loaded| seconds(time) - seconds(loaded))
    }

    /// Returns the joules from the machine's start to `time`.
    pub fn joules(&self, time: u64) -> f64 {
        let power = &self.power;
        let step_s = self.load_s(time).map_or(0.0, |load_s| (load_s - power.step_s).max(0.0));
        power.idle_w * (time.saturating_sub(self.started) as f64 / 1e9)
            + power.step_w * step_s
            + power.program_w * self.programs.before(time).busy_s
            + self.caused(self.inferences.before(time))
    }

    /// Returns the joules that inferences cause, their tails included.
    pub fn caused(&self, inferences: Sums) -> f64 {
        self.power.inference_w * inferences.busy_s + self.power.tail_w * inferences.tail_s
    }

    /// Returns the mean power from `from` to `to`.
    pub fn mean_w(&self, from: u64, to: u64) -> f64 {
        (self.joules(to) - self.joules(from)) / (seconds(to) - seconds(from))
    }
}

fn seconds(time: u64) -> f64 {
    time as f64 / 1e9
}
