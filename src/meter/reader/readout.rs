//! What an instrument has told so far, as readings.
//!
//! Pure: values come with the time at which their line came. A value of power is the mean over `mean`, and nothing says
//! when in the time before its line that ended, so it is dated back by half of it. Values since the last reading make one
//! snapshot, their mean: an instrument can be faster than the meters are read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::super::integral::Integral;
use super::super::plausible::{MOST_VOLTS, MOST_WATTS};
use super::super::{Accuracy, MeterError, Reading, Resolution, Scale, Scope};
use super::content::Values;
use crate::text::{counted, plain};
use crate::units::{Joules, MonoTime, Watts, duration_ns};

/// An instrument that tells nothing for so many periods is silent; at least for this time, so that a busy machine does not
/// make it so.
const SILENT_PERIODS: u32 = 5;
const SILENT_MIN: Duration = Duration::from_millis(500);

/// What is known of an instrument.
#[derive(Debug, Clone)]
pub(super) struct Instrument {
    /// The program, port or topic, for errors.
    pub place: String,
    /// How often it measures.
    pub period: Duration,
    /// The time over which it averages power.
    pub mean: Duration,
    /// By how much power may be off: a current that flows backwards counts as none up to this power.
    pub offset: Watts,
    pub scope: Scope,
    /// Its cumulative energy is used, not its power.
    pub counts: bool,
}

impl Instrument {
    fn silence(&self) -> Duration {
        (self.period * SILENT_PERIODS).max(SILENT_MIN)
    }
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Readout {
    instrument: Instrument,
    started: MonoTime,
    /// When the last usable line came.
    heard: Option<MonoTime>,
    block: Option<Block>,
    counter: Option<Counter>,
    /// Joules that the counter has counted since the start.
    counted: f64,
    /// The smallest steps of the values so far.
    steps: Steps,
    /// Why the energy since the last reading is not known.
    refused: Option<String>,
    misread: Option<Misread>,
    /// Why there are no lines now.
    trouble: Option<String>,
    power: Integral,
    last: Option<Reading>,
}

/// The values of power since the last reading.
#[derive(Debug, Clone, Copy)]
struct Block {
    count: u32,
    watts: f64,
    first: MonoTime,
    last: MonoTime,
    volts: Option<f64>,
    amperes: Option<f64>,
}

/// The newest value of a counter.
#[derive(Debug, Clone, Copy)]
struct Counter {
    joules: f64,
    /// When the first line with it came.
    at: MonoTime,
    /// The time since the line before, at which it was not yet there.
    gap: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Steps {
    power: f64,
    voltage: f64,
    current: f64,
    energy: f64,
}

/// The last line that was not understood, and the number of them.
#[derive(Debug)]
struct Misread {
    count: u64,
    line: String,
    expected: String,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read {:?}, expected {} ({} so far)", self.line, self.expected, counted(self.count, "such line"))
    }
}

impl Readout {
    /// Starts at `now`; the meters are read every `poll`.
    pub(super) fn new(instrument: Instrument, poll: Duration, now: MonoTime) -> Self {
        let power = Integral::new(poll.max(instrument.period));
        Self {
            instrument,
            started: now,
            heard: None,
            block: None,
            counter: None,
            counted: 0.0,
            steps: Steps { power: f64::MAX, voltage: f64::MAX, current: f64::MAX, energy: f64::MAX },
            refused: None,
            misread: None,
            trouble: None,
            power,
            last: None,
        }
    }

    /// Takes the values of a line that came at `arrival`.
    pub(super) fn take(&mut self, values: &Values, arrival: MonoTime) {
        self.trouble = None;
        let before = self.heard.replace(arrival);
        let step = |smallest: &mut f64, value: Option<super::content::Value>| {
            *smallest = value.map_or(*smallest, |value| smallest.min(value.step));
        };
        step(&mut self.steps.power, values.power);
        step(&mut self.steps.voltage, values.voltage);
        step(&mut self.steps.current, values.current);
        step(&mut self.steps.energy, values.energy);
        let taken = self.flow(values).and_then(|flow| {
            self.count(values, before, arrival)?;
            Ok(flow)
        });
        match taken {
            Ok(flow) => self.add(flow, before, arrival),
            Err(reason) => self.refuse(reason),
        }
    }

    /// Notes a line that is not understood; returns how many there were.
    pub(super) fn misread(&mut self, line: &[u8], expected: String) -> u64 {
        let count = self.misread.as_ref().map_or(0, |misread| misread.count) + 1;
        let line = plain(String::from_utf8_lossy(line).trim());
        self.misread = Some(Misread { count, line, expected });
        count
    }

    /// Notes why there are no lines now.
    pub(super) fn fail(&mut self, reason: String) {
        self.trouble = Some(reason);
    }

    /// Returns the power, if the line has it, with voltage and current.
    ///
    /// # Errors
    /// A value cannot be right.
    fn flow(&self, values: &Values) -> Result<Flow, String> {
        let number = |value: Option<super::content::Value>| value.map(|value| value.number);
        let (volts, amperes) = (number(values.voltage), number(values.current));
        if let Some(volts) = volts.filter(|volts| !(0.0..=MOST_VOLTS).contains(volts)) {
            return Err(format!("read {volts} V, expected 0 to {MOST_VOLTS} V"));
        }
        let product = volts.zip(amperes).map(|(volts, amperes)| volts * amperes);
        for watts in [number(values.power), product].into_iter().flatten() {
            if watts < -self.instrument.offset.0 {
                return Err(format!("read {watts} W, expected 0 or more; check whether it is wired backwards"));
            }
            if watts > MOST_WATTS {
                return Err(format!("read {watts} W, expected at most {MOST_WATTS} W; check units"));
            }
        }
        let watts = number(values.power).or(product).map(|watts| watts.max(0.0));
        Ok(Flow { watts, volts, amperes })
    }

    /// Takes the counter's value.
    ///
    /// # Errors
    /// The energy since the value before is not known.
    fn count(&mut self, values: &Values, before: Option<MonoTime>, arrival: MonoTime) -> Result<(), String> {
        let Some(value) = values.energy.filter(|_| self.instrument.counts) else { return Ok(()) };
        let joules = value.number;
        let gap = before.map_or(self.instrument.period, |before| arrival.since(before));
        let Some(last) = self.counter.replace(Counter { joules, at: arrival, gap }) else { return Ok(()) };
        let grown = joules - last.joules;
        if grown == 0.0 {
            self.counter = Some(last);
            return Ok(());
        }
        if grown < 0.0 {
            return Err(format!("the counter went back from {} J to {joules} J", last.joules));
        }
        // What it counted may have come within a period less.
        let time_s = arrival.since(last.at).as_secs_f64() + self.instrument.period.as_secs_f64();
        if grown > MOST_WATTS * time_s + self.steps.energy {
            return Err(format!("the counter grew by {grown} J in {time_s:.1} s, which is more than {MOST_WATTS} W"));
        }
        self.counted += grown;
        Ok(())
    }

    /// Adds the power of a line.
    fn add(&mut self, flow: Flow, before: Option<MonoTime>, arrival: MonoTime) {
        let gap = before.map_or(Duration::ZERO, |before| arrival.since(before));
        if !self.instrument.counts && gap > self.instrument.silence() && self.last.is_some() {
            self.refuse(format!("{:.1} s passed between two lines", gap.as_secs_f64()));
        }
        let Some(watts) = flow.watts else { return };
        let block = self.block.get_or_insert(Block {
            count: 0,
            watts: 0.0,
            first: arrival,
            last: arrival,
            volts: None,
            amperes: None,
        });
        block.count += 1;
        block.watts += watts;
        (block.last, block.volts, block.amperes) = (arrival, flow.volts, flow.amperes);
    }

    fn refuse(&mut self, reason: String) {
        self.refused = Some(reason);
        self.block = None;
    }

    /// Returns the reading at `now`: a new one, or the last one again if nothing new was told.
    ///
    /// # Errors
    /// [`MeterError::Failed`] if a value cannot be right, no line can be read, or none comes; at the start
    /// [`MeterError::Rebaselined`] until the first one comes.
    pub(super) fn read(&mut self, now: MonoTime) -> Result<Reading, MeterError> {
        if let Some(reason) = self.refused.take() {
            self.interrupt();
            return Err(self.failed(reason));
        }
        let is_silent = self.heard.is_none_or(|heard| now.since(heard) > self.instrument.silence());
        let new = match () {
            () if is_silent => None,
            () if self.instrument.counts => self.counter_reading(),
            () => self.snapshot()?,
        };
        if let Some(reading) = new.or(self.last.filter(|_| !is_silent)) {
            self.last = Some(reading);
            return Ok(reading);
        }
        self.interrupt();
        Err(self.absence(now))
    }

    /// Whether the first value may still come.
    pub(super) fn is_starting(&self, now: MonoTime) -> bool {
        self.heard.is_none() && self.trouble.is_none() && now.since(self.started) <= self.instrument.silence()
    }

    /// Forgets what the next reading would follow.
    fn interrupt(&mut self) {
        self.power.interrupt();
        (self.last, self.block) = (None, None);
    }

    /// Returns the mean of the values since the last reading.
    fn snapshot(&mut self) -> Result<Option<Reading>, MeterError> {
        let Some(block) = self.block.take() else { return Ok(None) };
        let mean = self.instrument.mean;
        let watts = Watts(block.watts / f64::from(block.count));
        let time = MonoTime(block.last.0.saturating_sub(duration_ns(mean) / 2));
        let joules = self.power.add(time, watts).inspect_err(|_| self.last = None)?;
        // Lines of a packet come at once.
        let conversion = (block.last.since(block.first) + mean).max(mean * block.count);
        let quantum = Watts(self.power_step(&block));
        Ok(Some(self.reading(time, joules, Some(watts), Some(block), Resolution::Sampled { conversion, quantum })))
    }

    /// Returns the step of power: its own, or that of the product of voltage and current.
    fn power_step(&self, block: &Block) -> f64 {
        let Steps { power, voltage, current, .. } = self.steps;
        match (block.volts, block.amperes) {
            _ if power < f64::MAX => power,
            (Some(volts), Some(amperes)) => (volts * current).hypot(amperes * voltage),
            _ => 0.0,
        }
    }

    /// Returns the counter's value if it is new, or if there is no reading that it follows.
    fn counter_reading(&mut self) -> Option<Reading> {
        let counter = self.counter?;
        let (time, gap) = match self.last {
            Some(last) if counter.at <= last.time => return None,
            Some(_) => (counter.at, counter.gap),
            // The line before this one had the same value, which was then at most a period old.
            None => (self.heard?, Duration::ZERO),
        };
        let joules = Joules(self.counted);
        let block = self.block.take();
        let shown = block.map(|block| Watts(block.watts / f64::from(block.count)));
        let mean = self.last.and_then(|last| (joules - last.joules).per(time.since(last.time)));
        let update = self.instrument.period.max(gap);
        let resolution = Resolution::Counter { update, quantum: Joules(self.steps.energy) };
        Some(self.reading(time, joules, shown.or(mean), block, resolution))
    }

    fn reading(
        &self,
        time: MonoTime,
        joules: Joules,
        power: Option<Watts>,
        block: Option<Block>,
        resolution: Resolution,
    ) -> Reading {
        let (accuracy, scope) = (Accuracy { resolution, scale: Scale::UNKNOWN }, self.instrument.scope);
        let (volts, amperes) = block.map_or((None, None), |block| (block.volts, block.amperes));
        Reading { time, joules, power, volts, amperes, scope, accuracy }
    }

    fn failed(&self, reason: String) -> MeterError {
        MeterError::Failed { path: PathBuf::from(&self.instrument.place), source: io::Error::other(reason) }
    }

    /// Returns why there is no reading.
    fn absence(&self, now: MonoTime) -> MeterError {
        let Instrument { place, period, .. } = &self.instrument;
        let quiet = now.since(self.heard.unwrap_or(self.started));
        let period_s = period.as_secs_f64();
        match (&self.trouble, &self.misread) {
            (Some(trouble), _) => self.failed(trouble.clone()),
            (None, Some(misread)) if self.heard.is_none() || quiet > self.instrument.silence() => {
                self.failed(misread.to_string())
            }
            _ if quiet > self.instrument.silence() => {
                let quiet_s = quiet.as_secs_f64();
                self.failed(format!(
                    "it has told nothing for {quiet_s:.1} s; period_s = {period_s} says how often it does"
                ))
            }
            _ => MeterError::Rebaselined { reason: format!("waiting for a value from {place}") },
        }
    }
}

/// What one line says of power.
#[derive(Debug, Clone, Copy)]
struct Flow {
    watts: Option<f64>,
    volts: Option<f64>,
    amperes: Option<f64>,
}
