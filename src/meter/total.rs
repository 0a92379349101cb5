//! The counters of one meter together: their sum, and when it is a reading.
//!
//! Pure. A reading is given only if the counters were refreshed, with the largest age that its value can have. Nothing is given
//! until it is known how they behave.

use std::time::Duration;

use super::counter::{Counter, Learned, Lost, Step};
use super::refresh::LEARNING_MAX;
use super::{Accuracy, MeterError, Reading, Resolution, Scale, Scope};
use crate::units::{Joules, MonoTime};

/// A meter whose other counters are learned does not wait longer for one that has not changed yet.
const OTHERS_WAIT: Duration = Duration::from_secs(1);

/// How often the line on the refreshes is renewed at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Why the counters of a meter give no reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NoReading {
    /// It is not known yet how they behave.
    Learning,
    /// They were not refreshed since they were found, or since a loss.
    Waiting,
    /// The energy of the counter with this index is unknown.
    Lost(usize, Lost),
}

impl NoReading {
    /// Returns the error; `place` returns what the counter with that index is called.
    pub fn error(self, place: impl FnOnce(usize) -> String) -> MeterError {
        match self {
            Self::Learning => {
                MeterError::NotYet { reason: "learning how often the counter is refreshed, and in what steps" }
            }
            Self::Waiting => MeterError::NotYet { reason: "the counter has not been refreshed yet" },
            Self::Lost(index, reason) => MeterError::Rebaselined { reason: format!("{}{reason}", place(index)) },
        }
    }
}

/// The energy that the counters of one meter have shown since it was opened.
#[derive(Debug, Default)]
pub struct Total {
    joules: Joules,
    /// The last reading since the counters were found, and since a loss.
    last: Option<Reading>,
    /// Whether a change is known how old it is: the counters were learned.
    is_learned: bool,
    /// What the counters have shown since the last reading.
    pending_uj: u64,
}

/// What all counters of a meter say together.
#[derive(Default)]
struct Together {
    watts: f64,
    /// Power of those that were refreshed now.
    fresh_watts: f64,
    is_fresh: bool,
    /// The largest ages, weighted by power, and the largest of all.
    joules_late: f64,
    age_max: Duration,
    quanta_squared: f64,
    learning: u32,
    counted: u32,
    /// How long the longest of them has been learned.
    learned_for: Duration,
}

impl Together {
    fn add(&mut self, counter: &Counter, is_fresh: bool) {
        let age = counter.refresh().age_max();
        let watts = counter.mean_watts();
        self.watts += watts;
        if is_fresh {
            self.fresh_watts += watts;
            self.is_fresh = true;
        }
        self.joules_late += watts * age.as_secs_f64();
        self.quanta_squared += counter.quantum().powi(2);
        self.learned_for = self.learned_for.max(counter.refresh().learned_for());
        if counter.refresh().has_changed() {
            self.counted += 1;
            self.age_max = self.age_max.max(age);
            self.learning += u32::from(counter.refresh().is_learning());
        } else if counter.refresh().learned_for() < OTHERS_WAIT {
            self.learning += 1;
        }
    }

    fn is_learned(&self) -> bool {
        (self.learning == 0 && self.counted > 0) || self.learned_for >= LEARNING_MAX
    }

    /// Whether those that were refreshed have most of the power. What the others have not shown yet is little.
    fn counts(&self) -> bool {
        self.is_fresh && self.fresh_watts * 2.0 >= self.watts
    }

    /// Energy that is late is the sum over the counters; as an age of the sum, each counts by its power.
    fn accuracy(&self) -> Accuracy {
        let late_s = if self.watts > 0.0 { self.joules_late / self.watts } else { self.age_max.as_secs_f64() };
        let update = Duration::try_from_secs_f64(late_s).unwrap_or(self.age_max);
        let quantum = Joules(self.quanta_squared.sqrt());
        // No vendor states the error of scale.
        Accuracy { resolution: Resolution::Counter { update, quantum }, scale: Scale::UNKNOWN }
    }
}

impl Total {
    /// Returns the reading that follows from the values of all counters read at `now`; the reading before, if they were not
    /// refreshed since.
    ///
    /// Every counter is stepped, also after a loss, so that the next values have a fresh base in each.
    ///
    /// # Errors
    /// [`NoReading`]; after it, the next reading is a new baseline.
    pub fn read<'a>(
        &mut self,
        now: MonoTime,
        scope: Scope,
        counters: impl Iterator<Item = (&'a mut Counter, u64)>,
    ) -> Result<Reading, NoReading> {
        let (mut together, mut lost, mut is_first) = (Together::default(), None, false);
        for (index, (counter, raw_uj)) in counters.enumerate() {
            let step = counter.step(now, raw_uj);
            match step {
                Step::First => is_first = true,
                Step::Same => {}
                Step::Normal { uj } | Step::Wrapped { uj } => self.pending_uj += uj,
                Step::Lost(reason) => lost = lost.or(Some(NoReading::Lost(index, reason))),
            }
            together.add(counter, !matches!(step, Step::Same | Step::Lost(_)));
        }
        self.is_learned |= together.is_learned();
        let refused = lost.or((!self.is_learned).then_some(NoReading::Learning));
        if is_first || refused.is_some() {
            (self.last, self.pending_uj) = (None, 0);
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if !together.counts() {
            return self.last.ok_or(NoReading::Waiting);
        }
        let joules = Joules(self.pending_uj as f64 / 1e6);
        self.pending_uj = 0;
        let power = self.last.and_then(|last| joules.per(now.since(last.time)));
        self.joules = self.joules + joules;
        let accuracy = together.accuracy();
        let reading = Reading { time: now, joules: self.joules, power, volts: None, amperes: None, scope, accuracy };
        self.last = Some(reading);
        Ok(reading)
    }

    /// Returns how soon the counters must be read again while they are learned.
    pub fn pace<'a>(&self, counters: impl Iterator<Item = &'a Counter>) -> Option<Duration> {
        counters.filter_map(Counter::pace).min().filter(|_| !self.is_learned)
    }

    /// Gives readings from the next one on, without learning.
    #[cfg(test)]
    pub(super) fn assume_learned(&mut self) {
        self.is_learned = true;
    }

    /// Notes that the counters are gone: the next reading is the first one of the counters that are found then.
    pub(super) fn interrupted(&mut self) {
        *self = Self { joules: self.joules, ..Self::default() };
    }
}

/// The line of `info.detail` on how often the counters of a meter are refreshed.
#[derive(Debug, Default)]
pub(crate) struct RefreshLine {
    told: Vec<Learned>,
    told_at: Option<MonoTime>,
}

impl RefreshLine {
    /// Puts the line behind the first `keep` lines, if something new was learned at `now`; each counter has a name.
    pub(crate) fn renew<'a>(
        &mut self,
        now: MonoTime,
        detail: &mut Vec<String>,
        keep: usize,
        counters: impl Iterator<Item = (&'a str, &'a Counter)> + Clone,
    ) {
        let is_too_soon = self.told_at.is_some_and(|at| now.since(at) < TOLD_EVERY);
        let is_told = |(told, (_, counter)): (&Learned, (_, &Counter))| is_like(*told, counter.learned());
        if is_too_soon
            || (self.told.len() == counters.clone().count() && self.told.iter().zip(counters.clone()).all(is_told))
        {
            return;
        }
        let line = describe(counters.clone());
        self.told_at = line.is_some().then_some(now);
        self.told = counters.map(|(_, counter)| counter.learned()).collect();
        detail.truncate(keep);
        detail.extend(line);
    }
}

/// Whether two refreshes are the same, apart from jitter.
fn is_like(a: Learned, b: Learned) -> bool {
    let is_same_period = match (a.0, b.0) {
        (Some(a), Some(b)) => a < b.mul_f64(1.5) && b < a.mul_f64(1.5),
        (a, b) => a.is_none() && b.is_none(),
    };
    is_same_period && a.1 == b.1
}

/// Returns one line on how often counters are refreshed, each with its name; `None` until one is learned.
fn describe<'a>(counters: impl Iterator<Item = (&'a str, &'a Counter)>) -> Option<String> {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, counter) in counters {
        let Some(text) = counter.describe() else { continue };
        match told.iter_mut().find(|(known, _)| *known == text) {
            Some((_, names)) => names.push(name),
            None => told.push((text, vec![name])),
        }
    }
    match told.as_slice() {
        [] => None,
        [(text, _)] => Some(format!("refreshed {text}")),
        several => {
            let each = several.iter().map(|(text, names)| format!("{} {text}", names.join(" and ")));
            Some(format!("refreshed: {}", each.collect::<Vec<_>>().join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads counters of 4 W and 1 W, refreshed each 100 ms in turn, every 10 ms.
    #[test]
    fn several_counters_give_a_reading_if_most_of_the_power_was_refreshed() {
        let mut counters = [Counter::hwmon(), Counter::hwmon()];
        let mut total = Total::default();
        let mut readings: Vec<Reading> = Vec::new();
        for tick in 0..1000u64 {
            let raw = [tick / 10 * 400_000, (tick + 5) / 10 * 100_000];
            let reading = total.read(MonoTime(tick * 10_000_000), Scope::Package, counters.iter_mut().zip(raw));
            if let Ok(reading) = reading
                && readings.last().is_none_or(|last| last.time < reading.time)
            {
                readings.push(reading);
            }
        }
        let (first, last) = (readings.first().unwrap(), readings.last().unwrap());
        let watts = (last.joules - first.joules).per(last.time.since(first.time)).unwrap();
        assert!((watts.0 - 5.0).abs() < 1e-9, "{watts:?}");
        assert!(readings.windows(2).all(|pair| pair[1].time.since(pair[0].time) == Duration::from_millis(100)));
        let Resolution::Counter { update, quantum } = last.accuracy.resolution else { panic!("{last:?}") };
        // 10 ms of 4 W, and 60 ms of 1 W, are 100 mJ of 5 W.
        assert!((update.as_secs_f64() - 0.02).abs() < 0.003, "{update:?}");
        assert!((quantum.0 - 0.4f64.hypot(0.1)).abs() < 1e-6, "{quantum:?}");
    }
}
