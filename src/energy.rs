//! The join: busy spans of the engines and readings of the meters become energy per inference.
//!
//! Owns the window and the status of every figure. Pure: spans, readings and their times are passed in; it reads no
//! clock and no file, and takes its input on the meter thread. Each tick gives it the spans first, then the reading made,
//! then asks for figures; a span that ends after the last reading waits for the next one.

use std::collections::VecDeque;

use serde::Serialize;

use crate::engine::span::BusySpan;
use crate::meter::{MeterError, MeterInfo, Reading, Scope};
use crate::units::{Joules, MonoTime, Watts};

/// Spans that wait for a reading, for each pair of pipeline and meter: 160 KiB at most, whatever the rate.
///
/// Beyond it neighbours are merged; only of a merged span that crosses a reading is the count shared out by time.
const PENDING_MAX: usize = 4096;

/// How far a figure can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The meter's joules over the window, all of them this pipeline's.
    Measured,
    /// Measured joules shared among the pipelines that were busy, by their busy time.
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
pub struct Figure {
    /// The meter's name in the configuration.
    pub meter: Option<String>,
    pub kind: Option<&'static str>,
    pub scope: Option<Scope>,
    pub status: Status,
    pub reason: Option<String>,
    /// Joules per inference, idle power included: `energy_j / inferences`.
    pub gross_j: Option<f64>,
    /// This pipeline's joules in the window.
    pub energy_j: Option<f64>,
    /// Inferences that ended in the window.
    pub inferences: Option<u64>,
    /// The window in seconds, from one reading of the meter to another.
    pub window_s: Option<f64>,
    /// The part of the window that this pipeline's engine was busy.
    pub busy_fraction: Option<f64>,
    /// Mean power of all that the meter covers.
    pub mean_w: Option<f64>,
}

/// Joins the busy spans of several pipelines with the readings of several meters.
#[derive(Debug)]
pub struct Join {
    pipeline_count: usize,
    tracks: Vec<Track>,
}

impl Join {
    /// A join for `pipeline_count` pipelines and the meters `meters`, both known by their index from here on.
    pub fn new(pipeline_count: usize, meters: Vec<MeterInfo>) -> Self {
        let tracks = meters.into_iter().map(|info| Track::new(info, pipeline_count)).collect();
        Self { pipeline_count, tracks }
    }

    /// Takes a busy span; those of one pipeline come in the order of time.
    ///
    /// A span that comes after a reading which covers it, as one that was running then, counts in the window after.
    pub fn absorb(&mut self, pipeline: usize, span: BusySpan) {
        for track in &mut self.tracks {
            track.absorb(pipeline, span);
        }
    }

    /// Takes a reading of a meter, or why there was none.
    pub fn reading(&mut self, meter: usize, reading: Result<Reading, MeterError>) {
        if let Some(track) = self.tracks.get_mut(meter) {
            track.reading(reading);
        }
    }

    /// Closes the window of every meter at its last reading: the figures by pipeline, then by meter.
    pub fn figures(&mut self) -> Vec<Vec<Figure>> {
        if self.tracks.is_empty() {
            return vec![vec![Figure::no_meter()]; self.pipeline_count];
        }
        let mut figures: Vec<Vec<Figure>> =
            (0..self.pipeline_count).map(|_| Vec::with_capacity(self.tracks.len())).collect();
        for track in &mut self.tracks {
            for (of_pipeline, figure) in figures.iter_mut().zip(track.figures()) {
                of_pipeline.push(figure);
            }
        }
        figures
    }
}

impl Figure {
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
            energy_j: None,
            inferences: None,
            window_s: None,
            busy_fraction: None,
            mean_w: None,
        }
    }

    fn unavailable(info: &MeterInfo, reason: &str) -> Self {
        Self {
            meter: Some(info.name.clone()),
            kind: Some(info.kind),
            scope: Some(info.scope),
            reason: Some(reason.to_owned()),
            ..Self::no_meter()
        }
    }
}

/// One meter and what the pipelines did under it.
#[derive(Debug)]
struct Track {
    info: MeterInfo,
    /// None until a first reading, and after an error until the next one.
    window: Option<Window>,
    /// Why this window has no figure, though the meter may read again.
    broken: Option<String>,
    /// What ended before this moment, the first reading after a loss, was not metered.
    metered_from: MonoTime,
    shares: Vec<Share>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    start: (MonoTime, Joules),
    end: (MonoTime, Joules),
}

/// One pipeline under one meter.
#[derive(Debug, Default)]
struct Share {
    pending: VecDeque<Pending>,
    inferences: u64,
    busy_ns: u64,
}

impl Track {
    fn new(info: MeterInfo, pipeline_count: usize) -> Self {
        Self {
            info,
            window: None,
            broken: None,
            metered_from: MonoTime::default(),
            shares: (0..pipeline_count).map(|_| Share::default()).collect(),
        }
    }

    fn absorb(&mut self, pipeline: usize, span: BusySpan) {
        let mut pending = Pending::from(span);
        if pending.end <= self.metered_from {
            return;
        }
        pending.take_before(self.metered_from);
        if let Some(share) = self.shares.get_mut(pipeline) {
            share.push(pending);
        }
    }

    fn reading(&mut self, reading: Result<Reading, MeterError>) {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                self.broken = Some(error.to_string());
                self.window = None;
                return;
            }
        };
        self.info.scope = reading.scope;
        let now = (reading.time, reading.joules);
        for share in &mut self.shares {
            share.settle(reading.time);
        }
        match &mut self.window {
            Some(window) => window.end = now,
            None => {
                self.window = Some(Window { start: now, end: now });
                self.metered_from = reading.time;
                self.shares.iter_mut().for_each(Share::reset);
            }
        }
    }

    /// One figure a pipeline; the next window starts where this one ends.
    fn figures(&mut self) -> Vec<Figure> {
        let figures = match (&self.broken, &self.window) {
            (Some(reason), _) => self.all_unavailable(reason),
            (None, Some(window)) => self.of_window(window),
            (None, None) => self.all_unavailable("the meter was not read yet"),
        };
        if let Some(window) = &mut self.window {
            self.broken = None;
            window.start = window.end;
        }
        self.shares.iter_mut().for_each(Share::reset);
        figures
    }

    fn all_unavailable(&self, reason: &str) -> Vec<Figure> {
        vec![Figure::unavailable(&self.info, reason); self.shares.len()]
    }

    fn of_window(&self, window: &Window) -> Vec<Figure> {
        let ((start, from), (end, to)) = (window.start, window.end);
        let length = end.since(start);
        let Some(power) = (to - from).per(length) else {
            return self.all_unavailable(
                "no reading of the meter in the window; read it more often than metrics are published",
            );
        };
        if power.0 <= 0.0 {
            let reason = format!(
                "the meter did not move in {:.1} s: is it connected to what it measures?",
                length.as_secs_f64()
            );
            return self.all_unavailable(&reason);
        }
        let busy_ns: u64 = self.shares.iter().map(|share| share.busy_ns).sum();
        let metered = Metered { joules: to - from, window_s: length.as_secs_f64(), power, busy_ns };
        self.shares.iter().map(|share| share.figure(&self.info, &metered)).collect()
    }
}

/// What one meter saw in a window, and all pipelines' busy time in it.
struct Metered {
    joules: Joules,
    window_s: f64,
    power: Watts,
    busy_ns: u64,
}

impl Share {
    fn push(&mut self, pending: Pending) {
        if self.pending.len() >= PENDING_MAX {
            self.merge_neighbours();
        }
        self.pending.push_back(pending);
    }

    /// Halves the pending spans, whose number is [`PENDING_MAX`] and so even.
    fn merge_neighbours(&mut self) {
        let half = self.pending.len() / 2;
        for index in 0..half {
            let (first, second) = (self.pending.get(2 * index).copied(), self.pending.get(2 * index + 1).copied());
            if let (Some(first), Some(second), Some(slot)) = (first, second, self.pending.get_mut(index)) {
                *slot = first.merged(second);
            }
        }
        self.pending.truncate(half);
    }

    /// Moves what was done until `time` from the pending spans into this window.
    fn settle(&mut self, time: MonoTime) {
        while let Some(first) = self.pending.front_mut() {
            if first.end > time {
                let (inferences, busy_ns) = first.take_before(time);
                self.inferences += inferences;
                self.busy_ns += busy_ns;
                return;
            }
            self.inferences += first.inferences;
            self.busy_ns += first.busy_ns;
            self.pending.pop_front();
        }
    }

    fn reset(&mut self) {
        self.inferences = 0;
        self.busy_ns = 0;
    }

    fn figure(&self, info: &MeterInfo, metered: &Metered) -> Figure {
        let alone = metered.busy_ns == self.busy_ns;
        // Without busy time of its own among busy others, a pipeline's part of the energy is unknown rather than nothing.
        let part = match (alone, self.busy_ns) {
            (true, _) => Some(1.0),
            (false, 0) => None,
            (false, busy_ns) => Some(busy_ns as f64 / metered.busy_ns as f64),
        };
        let energy_j = part.map(|part| metered.joules.0 * part);
        let gross_j = energy_j.filter(|_| self.inferences > 0).map(|energy_j| energy_j / self.inferences as f64);
        let (status, reason) = match (gross_j, info.estimated, alone) {
            (None, _, _) if self.inferences == 0 => (Status::Unavailable, Some("no inference ended in the window")),
            (None, _, _) => {
                (Status::Unavailable, Some("other pipelines were busy and this one's busy time is unknown"))
            }
            (_, true, true) => (Status::Estimated, None),
            (_, true, false) => (Status::Estimated, Some("shared with other pipelines by busy time")),
            (_, false, true) => (Status::Measured, None),
            (_, false, false) => (Status::Attributed, Some("shared with other pipelines by busy time")),
        };
        Figure {
            meter: Some(info.name.clone()),
            kind: Some(info.kind),
            scope: Some(info.scope),
            status,
            reason: reason.map(str::to_owned),
            gross_j,
            energy_j,
            inferences: Some(self.inferences),
            window_s: Some(metered.window_s),
            // A span that was still running at the edge brings its time with its end, one window late.
            busy_fraction: Some((self.busy_ns as f64 / 1e9 / metered.window_s).min(1.0)),
            mean_w: Some(metered.power.0),
        }
    }
}

/// Work that no reading has covered yet.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pending {
    start: MonoTime,
    end: MonoTime,
    busy_ns: u64,
    inferences: u64,
    /// True when the inferences ended all along the span, not at its end.
    merged: bool,
}

impl From<BusySpan> for Pending {
    fn from(span: BusySpan) -> Self {
        Self {
            start: span.start,
            end: span.end,
            busy_ns: span.busy_ns,
            inferences: u64::from(span.inferences),
            merged: false,
        }
    }
}

impl Pending {
    fn merged(self, later: Self) -> Self {
        Self {
            start: self.start,
            end: later.end,
            busy_ns: self.busy_ns + later.busy_ns,
            inferences: self.inferences + later.inferences,
            merged: true,
        }
    }

    /// Cuts off what lies before `time`, which is before the end: its inferences and busy time.
    fn take_before(&mut self, time: MonoTime) -> (u64, u64) {
        let length_ns = self.end.0.saturating_sub(self.start.0);
        let part_ns = time.0.saturating_sub(self.start.0).min(length_ns);
        if part_ns == 0 {
            return (0, 0);
        }
        let part_of = |total: u64| {
            u64::try_from(u128::from(total) * u128::from(part_ns) / u128::from(length_ns)).unwrap_or(total)
        };
        let busy_ns = part_of(self.busy_ns);
        let inferences = if self.merged { part_of(self.inferences) } else { 0 };
        self.start = time;
        self.busy_ns -= busy_ns;
        self.inferences -= inferences;
        (inferences, busy_ns)
    }
}

#[cfg(test)]
mod tests;
