//! What the inferences would have taken that a gate has saved: a figure that was computed, never measured.
//!
//! Each skipped window counts with the net energy of an inference as it was last known for the engine. Pure: counts, figures
//! and times are passed in. The method: docs/energy.md.

use serde::Serialize;

use super::estimate::{EnergyEstimate, Status};
use crate::units::MonoTime;

/// The energy that skipped windows would have taken, by one meter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SavedEnergy {
    /// The meter's name in the configuration.
    pub meter: Option<String>,
    /// [`Status::Estimated`] or [`Status::Unavailable`]: what did not happen cannot be measured.
    pub status: Status,
    /// The status of the figures that it was computed from; of several, the least certain one.
    pub from: Option<Status>,
    pub reason: Option<String>,
    /// Joules above idle power of `inferences` inferences.
    pub energy_j: Option<f64>,
    /// Standard uncertainty of `energy_j`, and expanded with k = 2.
    pub energy_u_j: Option<f64>,
    pub energy_expanded_j: Option<f64>,
    /// Skipped windows that `energy_j` covers, and those for which no net energy was known.
    pub inferences: u64,
    pub unknown: u64,
    /// Net energy of an inference as it counts now, its standard uncertainty, and seconds since its window ended.
    pub net_j: Option<f64>,
    pub net_u_j: Option<f64>,
    pub net_age_s: Option<f64>,
}

/// Adds up what a pipeline's gate has saved, by meter.
#[derive(Debug, Default)]
pub struct Savings {
    ledgers: Vec<Ledger>,
    /// Windows that were skipped until now.
    skipped: u64,
    /// Figures of windows that began before are of another engine.
    engine_since: MonoTime,
}

/// The sums of one meter.
#[derive(Debug)]
struct Ledger {
    meter: Option<String>,
    known: Option<Known>,
    joules: f64,
    /// `None`: a figure without an uncertainty is in the sum.
    u_j: Option<f64>,
    inferences: u64,
    unknown: u64,
    from: Option<Status>,
    /// Why the last figure has no net energy.
    lack: Option<String>,
}

/// Net energy of an inference, as it was last known.
#[derive(Debug, Clone, Copy)]
struct Known {
    net_j: f64,
    u_j: Option<f64>,
    status: Status,
    at: MonoTime,
}

impl Savings {
    /// Takes the windows that were skipped since the start, and the figures of the interval that ends now, one for each meter.
    /// Returns what is saved so far, in the order of the figures.
    pub fn note(&mut self, skipped: u64, figures: &[EnergyEstimate], now: MonoTime) -> Vec<SavedEnergy> {
        for figure in figures {
            let since = self.engine_since;
            self.ledger(&figure.meter).learn(figure, since, now);
        }
        self.count(skipped);
        let of = |figure: &EnergyEstimate| self.ledgers.iter().find(|ledger| ledger.meter == figure.meter);
        figures.iter().filter_map(of).map(|ledger| ledger.saved(now)).collect()
    }

    /// Another engine runs from now on: what is known of the one before does not count for it.
    pub fn engine_changed(&mut self, skipped: u64, now: MonoTime) {
        self.count(skipped);
        self.engine_since = now;
        self.ledgers.iter_mut().for_each(|ledger| (ledger.known, ledger.lack) = (None, None));
    }

    fn count(&mut self, skipped: u64) {
        let new = skipped.saturating_sub(self.skipped);
        self.skipped = self.skipped.max(skipped);
        self.ledgers.iter_mut().for_each(|ledger| ledger.count(new));
    }

    fn ledger(&mut self, meter: &Option<String>) -> &mut Ledger {
        let place = self.ledgers.iter().position(|ledger| ledger.meter == *meter).unwrap_or_else(|| {
            // Nothing is known of what was skipped before there was this meter.
            self.ledgers.push(Ledger::new(meter.clone(), self.skipped));
            self.ledgers.len() - 1
        });
        &mut self.ledgers[place]
    }
}

impl Ledger {
    fn new(meter: Option<String>, unknown: u64) -> Self {
        Self { meter, known: None, joules: 0.0, u_j: Some(0.0), inferences: 0, unknown, from: None, lack: None }
    }

    /// Learns net energy from a figure, if it has one of the engine that is in use since then.
    fn learn(&mut self, figure: &EnergyEstimate, since: MonoTime, now: MonoTime) {
        let begin = figure.window.first().map(|segment| segment.0);
        let is_current = figure.calibrated_at.is_some() || begin.is_some_and(|begin| begin >= since);
        match figure.net_j.filter(|_| figure.status != Status::Unavailable && is_current) {
            Some(net_j) => {
                let at = figure.window.last().map_or(now, |segment| segment.1);
                self.known = Some(Known { net_j, u_j: figure.net_u_j, status: figure.status, at });
            }
            None => self.lack.clone_from(&figure.reason),
        }
    }

    /// Adds skipped windows. All have the error of the same figure, and figures of one meter have errors in common, such as
    /// that of idle power: so uncertainties add up, and do not average out.
    fn count(&mut self, windows: u64) {
        let Some(known) = self.known else {
            self.unknown += windows;
            return;
        };
        if windows == 0 {
            return;
        }
        self.inferences += windows;
        self.joules += windows as f64 * known.net_j;
        self.u_j = self.u_j.zip(known.u_j).map(|(sum, u_j)| sum + windows as f64 * u_j);
        self.from = self.from.max(Some(known.status));
    }

    fn saved(&self, now: MonoTime) -> SavedEnergy {
        let is_known = self.inferences > 0;
        let u_j = self.u_j.filter(|_| is_known);
        let lack = self.lack.as_deref().unwrap_or("no inference was metered yet");
        let reason = match (is_known, self.unknown) {
            (true, 0) => None,
            (true, unknown) => {
                let all = unknown + self.inferences;
                Some(format!("{unknown} of {all} skipped windows are not included: no net energy was known then"))
            }
            (false, 0) => Some("no window was skipped yet".to_owned()),
            (false, _) => Some(format!("no net energy of an inference is known for this engine: {lack}")),
        };
        SavedEnergy {
            meter: self.meter.clone(),
            status: if is_known { Status::Estimated } else { Status::Unavailable },
            from: self.from,
            reason,
            energy_j: is_known.then_some(self.joules),
            energy_u_j: u_j,
            energy_expanded_j: u_j.map(|u_j| 2.0 * u_j),
            inferences: self.inferences,
            unknown: self.unknown,
            net_j: self.known.map(|known| known.net_j),
            net_u_j: self.known.and_then(|known| known.u_j),
            net_age_s: self.known.map(|known| now.since(known.at).as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> MonoTime {
        MonoTime(0) + Duration::from_secs(seconds)
    }

    fn figure(status: Status, net: Option<(f64, Option<f64>)>, window: (u64, u64)) -> EnergyEstimate {
        EnergyEstimate {
            meter: Some("board".into()),
            status,
            reason: (status == Status::Unavailable).then(|| "no inference in the window".to_owned()),
            net_j: net.map(|(net_j, _)| net_j),
            net_u_j: net.and_then(|(_, u_j)| u_j),
            window: vec![(at(window.0), at(window.1))],
            ..EnergyEstimate::no_meter()
        }
    }

    fn unknown(window: (u64, u64)) -> EnergyEstimate {
        figure(Status::Unavailable, None, window)
    }

    #[test]
    fn each_skipped_window_counts_with_the_figure_of_its_time_and_uncertainties_add_up() {
        let mut savings = Savings::default();
        let before = &savings.note(3, &[unknown((0, 10))], at(10))[0];
        assert_eq!((before.status, before.energy_j, before.unknown), (Status::Unavailable, None, 3));
        let reason = "no net energy of an inference is known for this engine: no inference in the window";
        assert_eq!(before.reason.as_deref(), Some(reason));
        savings.note(7, &[figure(Status::Measured, Some((0.5, Some(0.125))), (10, 20))], at(20));
        let after = savings.note(107, &[unknown((20, 30))], at(32)).remove(0);
        // 4 and 100 windows of 0.5 J, and each with an uncertainty of 0.125 J.
        assert_eq!((after.status, after.from), (Status::Estimated, Some(Status::Measured)));
        assert_eq!((after.energy_j, after.energy_u_j, after.energy_expanded_j), (Some(52.0), Some(13.0), Some(26.0)));
        assert_eq!((after.inferences, after.unknown, after.net_age_s), (104, 3, Some(12.0)));
        assert!(after.reason.unwrap().starts_with("3 of 107 skipped windows are not included"));
        let last = savings.note(109, &[figure(Status::Attributed, Some((-0.25, None)), (30, 40))], at(40)).remove(0);
        assert_eq!((last.energy_j, last.energy_u_j, last.from), (Some(51.5), None, Some(Status::Attributed)));
    }

    #[test]
    fn another_engine_counts_with_its_own_figure_and_the_sum_goes_on() {
        let mut savings = Savings::default();
        savings.note(10, &[figure(Status::Measured, Some((1.0, Some(0.5))), (0, 10))], at(10));
        savings.engine_changed(12, at(15));
        // This window began with the engine before.
        let old = savings.note(14, &[figure(Status::Measured, Some((9.0, Some(9.0))), (10, 20))], at(20)).remove(0);
        assert_eq!((old.energy_j, old.unknown, old.net_j), (Some(12.0), 2, None));
        let new = savings.note(15, &[figure(Status::Measured, Some((2.0, Some(0.5))), (15, 30))], at(30)).remove(0);
        assert_eq!((new.energy_j, new.energy_u_j, new.inferences, new.unknown), (Some(14.0), Some(6.5), 13, 2));
    }

    #[test]
    fn without_a_skipped_window_nothing_is_saved_and_without_a_meter_nothing_is_known() {
        let mut savings = Savings::default();
        let none = savings.note(0, &[figure(Status::Measured, Some((1.0, None)), (0, 10))], at(10)).remove(0);
        assert_eq!((none.energy_j, none.reason.as_deref()), (None, Some("no window was skipped yet")));
        let no_meter = savings.note(5, &[EnergyEstimate::no_meter()], at(20)).remove(0);
        assert_eq!((no_meter.meter, no_meter.energy_j, no_meter.unknown), (None, None, 5));
        assert!(no_meter.reason.unwrap().contains("no meter is configured"));
        // A meter that comes later knows nothing of what was skipped before.
        let later = EnergyEstimate { meter: Some("new".into()), ..unknown((20, 30)) };
        assert_eq!(savings.note(6, &[later], at(30))[0].unknown, 6);
    }
}
