//! The latest readings of the meters, for the `power/METER` topics, by default once a second.
//!
//! The meter thread notes each reading here; the async thread takes what is new and publishes it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::meter::{MeterError, MeterInfo, Reading};
use crate::publish::payload::Power;
use crate::publish::publisher::NodePublisher;
use crate::units::{Joules, MonoTime, Watts};

/// The latest reading of every meter, shared by the two threads.
#[derive(Debug, Clone)]
pub(crate) struct MeterReadings(Arc<Mutex<Vec<Latest>>>);

/// The latest reading of one meter.
#[derive(Debug, Clone)]
struct Latest {
    /// The meter's description of itself.
    info: MeterInfo,
    /// That has changed since it was last asked for.
    has_new_info: bool,
    now: Option<Result<Reading, String>>,
    /// Where the interval of the next message begins; `None` before the first reading, and after an error.
    from: Option<(MonoTime, Joules)>,
    /// There was a reading or an error since the last message.
    is_new: bool,
}

/// What is new of one meter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewReading {
    /// The meter's place among the meters.
    pub meter: usize,
    /// The reading and the mean power since the last message, or why there is none.
    pub reading: Result<(Reading, Option<Watts>), String>,
}

impl MeterReadings {
    pub(crate) fn new(infos: &[MeterInfo]) -> Self {
        let latest =
            |info: &MeterInfo| Latest { info: info.clone(), has_new_info: false, now: None, from: None, is_new: false };
        Self(Arc::new(Mutex::new(infos.iter().map(latest).collect())))
    }

    /// Notes a reading, or why there is none, and the meter's description.
    pub(crate) fn note(&self, meter: usize, info: &MeterInfo, result: &Result<Reading, MeterError>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = all.get_mut(meter) else { return };
        if latest.info != *info {
            latest.info.clone_from(info);
            latest.has_new_info = true;
        }
        match result {
            Ok(reading) => {
                latest.is_new |= !matches!(&latest.now, Some(Ok(before)) if before.time == reading.time);
                latest.from.get_or_insert((reading.time, reading.joules));
                latest.now = Some(Ok(*reading));
            }
            Err(error) => {
                latest.is_new = true;
                latest.from = None;
                latest.now = Some(Err(error.to_string()));
            }
        }
    }

    /// Returns the descriptions of the meters if one has changed since the last call.
    pub(crate) fn take_new_infos(&self) -> Option<Vec<MeterInfo>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = all.iter().any(|latest| latest.has_new_info);
        all.iter_mut().for_each(|latest| latest.has_new_info = false);
        is_new.then(|| all.iter().map(|latest| latest.info.clone()).collect())
    }

    /// Returns when each meter was last read, or why it could not be; `None` if that was not tried yet.
    pub(crate) fn latest(&self) -> Vec<Option<Result<MonoTime, String>>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|latest| latest.now.clone().map(|now| now.map(|reading| reading.time))).collect()
    }

    /// Returns what is new since the last call, by meter.
    pub(crate) fn take(&self) -> Vec<NewReading> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |(meter, latest): (usize, &mut Latest)| {
            if !std::mem::take(&mut latest.is_new) {
                return None;
            }
            let reading = latest.now.clone()?.map(|reading| {
                let from = latest.from.replace((reading.time, reading.joules));
                let mean = from.and_then(|(then, joules)| (reading.joules - joules).per(reading.time.since(then)));
                (reading, mean.or(reading.power))
            });
            Some(NewReading { meter, reading })
        };
        all.iter_mut().enumerate().filter_map(new).collect()
    }
}

/// Publishes what is new of each meter. The messages are retained, so that an outage costs one message a meter.
pub(crate) fn publish(node_publisher: &NodePublisher, infos: &[MeterInfo], new: Vec<NewReading>) {
    for NewReading { meter, reading } in new {
        let Some(info) = infos.get(meter) else { continue };
        let (time, scope) = reading.as_ref().map_or((MonoTime::now(), info.scope), |(r, _)| (r.time, r.scope));
        let known = reading.as_ref().ok();
        let payload = Power {
            envelope: node_publisher.envelope(time),
            kind: info.kind,
            scope,
            estimated: info.estimated,
            power_w: known.and_then(|(_, mean)| *mean).map(|mean| mean.0),
            voltage_v: known.and_then(|(reading, _)| reading.volts),
            current_a: known.and_then(|(reading, _)| reading.amperes),
            energy_j: known.map(|(reading, _)| reading.joules.0),
            reason: reading.as_ref().err().map(String::as_str),
        };
        node_publisher.retain(&node_publisher.topics.power(&info.name), &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Accuracy, Resolution, Scale, Scope};

    fn reading(ms: u64, joules: f64) -> Result<Reading, MeterError> {
        let time = MonoTime(ms * 1_000_000);
        let power = Some(Watts(7.0));
        let accuracy = Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN };
        Ok(Reading {
            time,
            joules: Joules(joules),
            power,
            volts: Some(5.0),
            amperes: None,
            scope: Scope::Board,
            accuracy,
        })
    }

    fn info(scope: Scope) -> MeterInfo {
        MeterInfo { name: "m".to_owned(), kind: "rapl", scope, estimated: false, detail: Vec::new(), basis: Vec::new() }
    }

    #[test]
    fn what_a_meter_says_of_itself_is_told_when_it_changes() {
        let latest = MeterReadings::new(&[info(Scope::Board), info(Scope::Platform)]);
        latest.note(1, &info(Scope::Platform), &reading(1000, 0.0));
        assert_eq!(latest.take_new_infos(), None);
        latest.note(1, &info(Scope::Package), &reading(2000, 0.0));
        assert_eq!(latest.take_new_infos(), Some(vec![info(Scope::Board), info(Scope::Package)]));
        assert_eq!(latest.take_new_infos(), None);
    }

    fn mean(latest: &MeterReadings) -> Option<Watts> {
        latest.take().pop().unwrap().reading.unwrap().1
    }

    #[test]
    fn the_power_is_the_mean_since_the_last_message() {
        let latest = MeterReadings::new(&[info(Scope::Board), info(Scope::Board)]);
        assert_eq!(latest.take(), []);
        latest.note(1, &info(Scope::Board), &reading(1000, 0.0));
        let new = latest.take();
        assert_eq!((new[0].meter, new[0].reading.as_ref().unwrap().1), (1, Some(Watts(7.0))));
        latest.note(1, &info(Scope::Board), &reading(1500, 4.0));
        latest.note(1, &info(Scope::Board), &reading(2000, 5.0));
        assert_eq!(mean(&latest), Some(Watts(5.0)));
        latest.note(1, &info(Scope::Board), &reading(3000, 8.0));
        assert_eq!(mean(&latest), Some(Watts(3.0)));
        latest.note(1, &info(Scope::Board), &reading(3000, 8.0));
        assert_eq!(latest.take(), [], "nothing new");
    }

    #[test]
    fn an_error_is_published_and_no_mean_spans_it() {
        let latest = MeterReadings::new(&[info(Scope::Board)]);
        latest.note(0, &info(Scope::Board), &reading(0, 0.0));
        latest.take();
        latest.note(0, &info(Scope::Board), &reading(500, 100.0));
        latest.note(0, &info(Scope::Board), &Err(MeterError::Rebaselined { reason: "a gap".to_owned() }));
        latest.note(0, &info(Scope::Board), &reading(1000, 100.0));
        latest.note(0, &info(Scope::Board), &reading(2000, 102.0));
        assert_eq!(mean(&latest), Some(Watts(2.0)));
        latest.note(0, &info(Scope::Board), &Err(MeterError::Rebaselined { reason: "a gap".to_owned() }));
        assert!(latest.take()[0].reading.as_ref().unwrap_err().contains("a gap"));
        assert_eq!(latest.take(), []);
    }
}
