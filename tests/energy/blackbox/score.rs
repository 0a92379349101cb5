//! Compares published figures with the truth.

use std::collections::BTreeMap;
use std::fmt;

use edgewatt_support::simulated::meter::Meter;
use serde_json::Value;

use super::classes::Class;
use super::place::{Place, places, ran};
use super::run::Run;

/// The figures of one kind, gross or net, that are marked `measured`.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How far each was from the truth, in its expanded uncertainties.
    errors: Vec<f64>,
}

impl Tally {
    pub(crate) fn count(&self) -> usize {
        self.errors.len()
    }

    pub(crate) fn inside(&self) -> usize {
        self.errors.iter().filter(|error| error.abs() <= 1.0).count()
    }

    /// Returns the largest error.
    pub(crate) fn worst(&self) -> f64 {
        self.errors.iter().map(|error| error.abs()).fold(0.0, f64::max)
    }

    fn bias(&self) -> f64 {
        self.errors.iter().sum::<f64>() / self.count() as f64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.errors.is_empty() {
            return write!(f, "- | - | -");
        }
        let inside = 100.0 * self.inside() as f64 / self.count() as f64;
        write!(f, "{inside:.0} | {:.2} | {:+.2}", self.worst(), self.bias())
    }
}

/// What the runs of a class gave.
#[derive(Debug, Default)]
pub(crate) struct Score {
    /// Of windows that ended after the start of the load.
    pub closed: usize,
    /// Figures with a value and a window whose place is known.
    pub placed: usize,
    pub measured: usize,
    pub gross: Tally,
    pub net: Tally,
    /// Why figures are not `measured`, without numbers.
    reasons: BTreeMap<String, usize>,
}

impl Score {
    /// The head of a table whose rows are [`Score::row`].
    pub(crate) const HEAD: &str = "| class | figures | placed | measured, % | gross inside, % | worst/U | bias/U | \
        net inside, % | worst/U | bias/U | most frequent reason |\n|---|---|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn row(&self, name: &str) -> String {
        let measured = 100.0 * self.measured as f64 / self.closed.max(1) as f64;
        let reason = self.reasons.iter().max_by_key(|(_, count)| **count).map_or("", |(reason, _)| reason);
        let Self { closed, placed, gross, net, .. } = self;
        format!("| {name} | {closed} | {placed} | {measured:.0} | {gross} | {net} | {reason} |")
    }

    /// Adds the figures of a run, apart from those that have more than `miscounted` inferences too many or too few.
    pub(crate) fn add(&mut self, class: &Class, run: &Run, miscounted: f64) {
        for ((figure, sent), place) in run.figures.iter().zip(places(run, slack_s(class))) {
            if run.truth.load_s(*sent).is_none_or(|load_s| load_s < 0.0) {
                continue;
            }
            self.closed += 1;
            if figure["status"] != "measured" {
                let letters = |c: &char| !c.is_ascii_digit();
                let reason: String = figure["reason"].as_str().unwrap_or("").chars().filter(letters).take(80).collect();
                *self.reasons.entry(format!("{}: {reason}", figure["status"].as_str().unwrap_or(""))).or_default() += 1;
                continue;
            }
            self.measured += 1;
            let Some(place) = place.filter(|place| place.miscounted <= miscounted) else { continue };
            self.placed += 1;
            self.compare(class, run, figure, place);
        }
    }

    fn compare(&mut self, class: &Class, run: &Run, figure: &Value, place: Place) {
        let ran = ran(run, place.from, place.to);
        // A figure that says so does not claim to know the meter's scale.
        let is_statistical = figure["uncertainty"].as_str().is_some_and(|text| text.contains("statistical"));
        let scale = if is_statistical { gain(&class.meter) } else { 1.0 };
        let gross_j = scale * (run.truth.joules(place.to) - run.truth.joules(place.from)) / ran.count;
        let net_j = scale * run.truth.caused(ran) / ran.count;
        let pairs = [(&mut self.gross, "gross", gross_j), (&mut self.net, "net", net_j)];
        for (tally, name, truth_j) in pairs {
            if let Some(value_j) = figure[format!("{name}_j")].as_f64() {
                // A value that is `measured` has an uncertainty; one without is as wrong as can be.
                let expanded_j = figure[format!("{name}_expanded_j")].as_f64().unwrap_or(0.0);
                tally.errors.push((value_j - truth_j) / expanded_j.max(f64::MIN_POSITIVE));
            }
        }
        if std::env::var_os("EDGEWATT_SHOW").is_some() {
            let (name, count, cost) = (class.name, ran.count, place.cost);
            eprintln!("{name}: truly {gross_j} J gross, {net_j} J net, {count} inferences (cost {cost:.3}): {figure}");
        }
    }
}

/// How far a reading may be dated back: a value is a mean over the past, and may have been there before it was read.
fn slack_s(class: &Class) -> f64 {
    match &class.meter {
        Meter::Counter(_) => 0.0,
        Meter::Sensor(sensor) => sensor.mean_s.max(sensor.cycle_s).max(sensor.held_s),
    }
}

fn gain(meter: &Meter) -> f64 {
    match meter {
        Meter::Counter(counter) => counter.gain,
        Meter::Sensor(sensor) => sensor.gain,
    }
}
