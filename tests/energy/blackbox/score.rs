//! Compares published figures with the truth.

use std::collections::BTreeMap;
use std::fmt;

use edgewatt_support::simulated::meter::Meter;
use edgewatt_support::simulated::power::Sums;
use serde_json::Value;

use super::classes::Class;
use super::run::Run;

/// A window ends so long before its message at most: the longest wait for an inference, and the time between messages.
const SENT_WITHIN_NS: u64 = 6_000_000_000;
/// A reading's time is known from outside to so much.
const READ_TOLERANCE_NS: u64 = 300_000;
/// Most places that are kept for one window.
const PLACES_MAX: usize = 64;
/// A place that costs more than this is not believed.
const COST_MAX: f64 = 0.3;

/// A time at which a window may have been.
#[derive(Debug, Clone, Copy)]
struct Place {
    from: u64,
    to: u64,
    cost: f64,
}

/// Finds the window of each figure.
///
/// A message does not say where its window was, only how long it was and how many inferences were in it, to a part of
/// one. But the machine knows when its meter was read, a window goes from one reading to another, and as a rule the next
/// window begins where the last one ended. Readings are spread at random, so one place fits.
fn places(run: &Run, slack_s: f64) -> Vec<Option<Place>> {
    let candidates: Vec<Vec<Place>> =
        run.figures.iter().map(|(figure, sent)| candidates(run, figure, *sent, slack_s)).collect();
    let slack_ns = (slack_s * 1e9) as u64 + READ_TOLERANCE_NS;
    // The cheapest way through the candidates, in which a window that does not follow the one before it costs more.
    let mut ways: Vec<Vec<(f64, Option<usize>)>> = Vec::new();
    let mut before: Option<usize> = None;
    for (index, places) in candidates.iter().enumerate() {
        let way = |place: &Place| {
            let Some(previous) = before else { return (place.cost, None) };
            let joined = candidates[previous].iter().zip(&ways[previous]).enumerate().map(|(at, (last, (cost, _)))| {
                let apart = if last.to.abs_diff(place.from) <= slack_ns { 0.0 } else { 0.2 };
                (cost + apart + place.cost, Some(at))
            });
            joined.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((place.cost, None))
        };
        ways.push(places.iter().map(way).collect());
        if !places.is_empty() {
            before = Some(index);
        }
    }
    let mut found = vec![None; candidates.len()];
    let mut next = None;
    for index in (0..candidates.len()).rev().filter(|index| !candidates[*index].is_empty()) {
        let cheapest =
            || (0..ways[index].len()).min_by(|a, b| ways[index][*a].0.total_cmp(&ways[index][*b].0)).unwrap();
        let at = next.unwrap_or_else(cheapest);
        found[index] = Some(candidates[index][at]);
        next = ways[index][at].1;
    }
    found
}

/// Returns where the window of `figure` may have been. Readings may have been dated back by up to `slack_s`.
fn candidates(run: &Run, figure: &Value, sent: u64, slack_s: f64) -> Vec<Place> {
    let (Some(window_s), Some(inferences)) = (figure["window_s"].as_f64(), figure["inferences"].as_f64()) else {
        return Vec::new();
    };
    let window_ns = (window_s * 1e9) as u64;
    let slack_ns = (slack_s * 1e9) as u64;
    let steps = if slack_ns == 0 { 1 } else { 20 };
    let ends = run.reads.iter().filter(|to| (sent.saturating_sub(SENT_WITHIN_NS)..sent + 100_000_000).contains(to));
    let mut places = Vec::new();
    for (read, step) in ends.flat_map(|read| (0..steps).map(move |step| (*read, step))) {
        let to = read - slack_ns * step / steps;
        let from = to.saturating_sub(window_ns);
        let from_read = nearest(&run.reads, from, slack_ns);
        if from_read > READ_TOLERANCE_NS {
            continue;
        }
        let ran = ran(run, from, to);
        let cost = (ran.count - inferences).abs() + 0.1 * from_read as f64 / READ_TOLERANCE_NS as f64;
        if cost < COST_MAX {
            places.push(Place { from, to, cost });
        }
    }
    places.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    places.truncate(PLACES_MAX);
    places
}

/// Returns how far `time` is from the nearest reading, if that was dated back by up to `slack_ns`.
fn nearest(reads: &[u64], time: u64, slack_ns: u64) -> u64 {
    let index = reads.partition_point(|read| *read < time);
    let after = reads.get(index).map_or(u64::MAX, |read| (read - time).saturating_sub(slack_ns));
    let before = index.checked_sub(1).map_or(u64::MAX, |index| time - reads[index]);
    after.min(before)
}

fn ran(run: &Run, from: u64, to: u64) -> Sums {
    run.truth.inferences.before(to) - run.truth.inferences.before(from)
}

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

    pub(crate) fn add(&mut self, class: &Class, run: &Run) {
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
            let Some(place) = place else { continue };
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
