//! A meter that a sum reads, too, and that must be read once for both; and what the meters of one chip share.
//!
//! Whoever comes first in a round of readings reads the meter; the others of that round get the same result. So the order
//! in which meters are read does not matter, and all parts of a sum are read one right after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ina::Place;
use super::ina3221::Channels;
use super::{Meter, MeterConfig, MeterError, MeterInfo, Reading, Surroundings};
use crate::units::MonoTime;

/// The meters that have more than one reader, by name.
#[derive(Debug, Clone, Default)]
pub struct SharedMeters {
    meters: Arc<Mutex<BTreeMap<String, Arc<Mutex<Cell>>>>>,
    /// What the meters of a chip with several channels share.
    channels: Arc<Mutex<BTreeMap<Place, Arc<Channels>>>>,
}

impl SharedMeters {
    /// Returns what the meters of an INA3221 share.
    pub(super) fn channels(&self, place: Place) -> Arc<Channels> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(place).or_default().clone()
    }

    /// Returns a reader of the meter called `name`, which is built if no other reader has done so.
    pub(crate) fn reader(&self, name: &str, kind: &MeterConfig, surroundings: &Surroundings) -> SharedMeter {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || Arc::new(Mutex::new(Cell::new(surroundings.build(name, kind))));
        let cell = meters.entry(name.to_owned()).or_insert_with(build).clone();
        let info = lock(&cell).meter.info().clone();
        SharedMeter { cell, info, seen: 0, period: surroundings.period }
    }
}

/// The meter and its last result.
struct Cell {
    meter: Box<dyn Meter>,
    /// How often it was read.
    reads: u64,
    read_at: MonoTime,
    last: Option<Result<Reading, MeterError>>,
}

impl Cell {
    fn new(meter: Box<dyn Meter>) -> Self {
        Self { meter, reads: 0, read_at: MonoTime::default(), last: None }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell").field("info", self.meter.info()).finish_non_exhaustive()
    }
}

fn lock(cell: &Mutex<Cell>) -> MutexGuard<'_, Cell> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the readers of a meter.
#[derive(Debug)]
pub(crate) struct SharedMeter {
    cell: Arc<Mutex<Cell>>,
    info: MeterInfo,
    /// How often the meter had been read when this reader took its last result.
    seen: u64,
    /// The time between two rounds.
    period: Duration,
}

impl SharedMeter {
    fn read_at(&mut self, now: MonoTime) -> Result<Reading, MeterError> {
        let mut cell = lock(&self.cell);
        // A result that is older is one of an earlier round, in which this reader was not.
        let is_new = cell.reads > self.seen && now.since(cell.read_at) < self.period;
        if !is_new {
            let result = cell.meter.read();
            (cell.reads, cell.read_at, cell.last) = (cell.reads + 1, now, Some(result));
        }
        self.seen = cell.reads;
        if self.info != *cell.meter.info() {
            self.info.clone_from(cell.meter.info());
        }
        match &cell.last {
            Some(Ok(reading)) => Ok(*reading),
            Some(Err(error)) => Err(copied(error)),
            None => Err(MeterError::Rebaselined { reason: "it has not been read yet".to_owned() }),
        }
    }
}

impl Meter for SharedMeter {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_at(MonoTime::now())
    }

    fn learning_pace(&self) -> Option<Duration> {
        lock(&self.cell).meter.learning_pace()
    }
}

/// Returns the same error once more.
fn copied(error: &MeterError) -> MeterError {
    match error {
        MeterError::Absent { path, reason, fix } => {
            MeterError::Absent { path: path.clone(), reason: reason.clone(), fix: fix.clone() }
        }
        MeterError::Ambiguous { path, reason, fix } => {
            MeterError::Ambiguous { path: path.clone(), reason: reason.clone(), fix: fix.clone() }
        }
        MeterError::Taken { path, reason, fix } => {
            MeterError::Taken { path: path.clone(), reason: reason.clone(), fix: fix.clone() }
        }
        MeterError::Denied { path, fix } => MeterError::Denied { path: path.clone(), fix: fix.clone() },
        MeterError::Invalid { path, text, expected } => {
            MeterError::Invalid { path: path.clone(), text: text.clone(), expected }
        }
        MeterError::Failed { path, source } => {
            let again = source.raw_os_error().map(io::Error::from_raw_os_error);
            let again = again.unwrap_or_else(|| io::Error::new(source.kind(), source.to_string()));
            MeterError::Failed { path: path.clone(), source: again }
        }
        MeterError::Stuck { path, seconds, fix } => {
            MeterError::Stuck { path: path.clone(), seconds: *seconds, fix: fix.clone() }
        }
        MeterError::Overrange { reason, since } => MeterError::Overrange { reason: reason.clone(), since: *since },
        MeterError::Rebaselined { reason } => MeterError::Rebaselined { reason: reason.clone() },
        MeterError::NotYet { reason } => MeterError::NotYet { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Accuracy, Resolution, Scale, Scope};
    use crate::units::Joules;

    const PERIOD: Duration = Duration::from_millis(100);

    /// Counts how often it is read; fails each third time.
    struct Counting {
        info: MeterInfo,
        reads: u64,
    }

    impl Meter for Counting {
        fn info(&self) -> &MeterInfo {
            &self.info
        }

        fn read(&mut self) -> Result<Reading, MeterError> {
            self.reads += 1;
            self.info.detail = vec![format!("read {}", self.reads)];
            if self.reads.is_multiple_of(3) {
                return Err(MeterError::Failed { path: "/x".into(), source: io::Error::from_raw_os_error(5) });
            }
            let accuracy = Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN };
            let joules = Joules(self.reads as f64);
            let (power, volts, amperes) = (None, None, None);
            Ok(Reading { time: MonoTime(self.reads), joules, power, volts, amperes, scope: Scope::Device, accuracy })
        }
    }

    fn readers() -> [SharedMeter; 2] {
        let (name, kind, scope) = ("x".to_owned(), "hwmon", Scope::Device);
        let info = MeterInfo { name, kind, scope, estimated: false, detail: Vec::new(), basis: Vec::new() };
        let cell = Arc::new(Mutex::new(Cell::new(Box::new(Counting { info: info.clone(), reads: 0 }))));
        [0, 1].map(|_| SharedMeter { cell: cell.clone(), info: info.clone(), seen: 0, period: PERIOD })
    }

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn each_round_reads_the_meter_once_whoever_comes_first() {
        let [mut first, mut second] = readers();
        let joules = |reader: &mut SharedMeter, at| reader.read_at(at).unwrap().joules.0;
        assert_eq!((joules(&mut first, ms(100)), joules(&mut second, ms(100))), (1.0, 1.0));
        assert_eq!((joules(&mut second, ms(200)), joules(&mut first, ms(200))), (2.0, 2.0));
        let errors = [first.read_at(ms(300)).unwrap_err(), second.read_at(ms(300)).unwrap_err()];
        assert_eq!(errors[0].to_string(), errors[1].to_string());
        assert!(errors[0].to_string().contains("/x: Input/output error"), "{}", errors[0]);
        assert_eq!(second.info().detail, ["read 3"]);
    }

    #[test]
    fn a_reader_that_pauses_gets_no_old_result() {
        let [mut first, mut second] = readers();
        assert_eq!(first.read_at(ms(100)).unwrap().joules.0, 1.0);
        assert_eq!(second.read_at(ms(5000)).unwrap().joules.0, 2.0, "the result of the first round is too old");
    }
}
