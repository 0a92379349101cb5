//! Where the window of a figure was.
//!
//! A message does not say that, only how long the window was, and how many inferences were in it and how long they
//! took, to parts of one. But the machine knows when its meter was read: a window goes from one reading to another,
//! which are spread at random, and as a rule the next window begins where the last one ended.

use edgewatt_support::simulated::power::Sums;
use serde_json::Value;

use super::run::Run;

/// A window ends so long before its message at most: the longest wait for an inference, and the time between messages.
const SENT_WITHIN_NS: u64 = 6_000_000_000;
/// A reading's time is known from outside to so much.
const READ_TOLERANCE_NS: u64 = 300_000;
/// A reading may have been dated back by one of so many parts of what is possible.
const STEPS: u64 = 20;
/// A place with other inferences than the figure has is not believed.
pub(crate) const COUNT_TOLERANCE: f64 = 0.3;
/// What it costs that a window does not follow the one before it.
const APART: f64 = 0.5;
/// The daemon's view of an inference includes the delegate's, so it may be shorter by no more than this part.
const SHORTER: f64 = 0.005;

/// A time at which a window may have been.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub from: u64,
    pub to: u64,
    pub cost: f64,
    /// How many more or fewer inferences the figure has than there were.
    pub miscounted: f64,
    /// How much longer the daemon says that an inference took than it truly did.
    overhead_s: f64,
}

/// Finds the window of each figure. Readings may have been dated back by up to `slack_s`.
pub(crate) fn places(run: &Run, slack_s: f64) -> Vec<Option<Place>> {
    let first = cheapest(run, slack_s, None);
    // What the daemon adds to each inference is much the same in one run, so it tells windows of as many apart.
    let mut overheads: Vec<f64> = first.iter().flatten().map(|place| place.overhead_s).collect();
    overheads.sort_by(f64::total_cmp);
    match overheads.get(overheads.len() / 2) {
        Some(median_s) => cheapest(run, slack_s, Some(*median_s)),
        None => first,
    }
}

/// Returns the cheapest way through the candidates of all windows.
fn cheapest(run: &Run, slack_s: f64, overhead_s: Option<f64>) -> Vec<Option<Place>> {
    let candidates: Vec<Vec<Place>> =
        run.figures.iter().map(|(figure, sent)| candidates(run, figure, *sent, slack_s, overhead_s)).collect();
    let slack_ns = (slack_s * 1e9) as u64 + READ_TOLERANCE_NS;
    // For each candidate the cost of the cheapest way to it, and the candidate before it on that way.
    let mut ways: Vec<Vec<(f64, Option<usize>)>> = Vec::new();
    let mut before: Option<usize> = None;
    for (index, places) in candidates.iter().enumerate() {
        let way = |place: &Place| {
            let Some(previous) = before else { return (place.cost, None) };
            let joined = candidates[previous].iter().zip(&ways[previous]).enumerate().map(|(at, (last, (cost, _)))| {
                let apart = if last.to.abs_diff(place.from) <= slack_ns { 0.0 } else { APART };
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
        let end = || (0..ways[index].len()).min_by(|a, b| ways[index][*a].0.total_cmp(&ways[index][*b].0)).unwrap();
        let at = next.unwrap_or_else(end);
        found[index] = Some(candidates[index][at]);
        next = ways[index][at].1;
    }
    found
}

/// Returns where the window of `figure` may have been, one place for each reading at which it may have ended.
fn candidates(run: &Run, figure: &Value, sent: u64, slack_s: f64, overhead_s: Option<f64>) -> Vec<Place> {
    let number = |name: &str| figure[name].as_f64();
    let (Some(window_s), Some(inferences), Some(busy)) =
        (number("window_s"), number("inferences"), number("busy_fraction"))
    else {
        return Vec::new();
    };
    let (window_ns, slack_ns) = ((window_s * 1e9) as u64, (slack_s * 1e9) as u64);
    let place = |to: u64, dated: f64| {
        let from = to.saturating_sub(window_ns);
        let from_read = nearest(&run.reads, from, slack_ns);
        let ran = ran(run, from, to);
        let longer_s = busy * window_s - ran.busy_s;
        let miscounted = (ran.count - inferences).abs();
        if from_read > READ_TOLERANCE_NS || miscounted > COUNT_TOLERANCE || longer_s < -SHORTER * ran.busy_s {
            return None;
        }
        let unexpected_s = overhead_s.map_or(0.0, |overhead_s| (longer_s - overhead_s * ran.count).abs());
        let cost = miscounted
            + 2.0 * unexpected_s / ran.busy_s.max(1e-6)
            + 0.1 * (dated + from_read as f64 / READ_TOLERANCE_NS as f64);
        Some(Place { from, to, cost, miscounted, overhead_s: longer_s / ran.count.max(1e-6) })
    };
    let ends = run.reads.iter().filter(|to| (sent.saturating_sub(SENT_WITHIN_NS)..sent + 100_000_000).contains(to));
    let steps = if slack_ns == 0 { 1 } else { STEPS };
    let best = |read: &u64| {
        let dated = (0..steps).filter_map(|step| place(read - slack_ns * step / steps, step as f64 / steps as f64));
        dated.min_by(|a, b| a.cost.total_cmp(&b.cost))
    };
    ends.filter_map(best).collect()
}

/// Returns how far `time` is from the nearest reading, if that was dated back by up to `slack_ns`.
fn nearest(reads: &[u64], time: u64, slack_ns: u64) -> u64 {
    let index = reads.partition_point(|read| *read < time);
    let after = reads.get(index).map_or(u64::MAX, |read| (read - time).saturating_sub(slack_ns));
    let before = index.checked_sub(1).map_or(u64::MAX, |index| time - reads[index]);
    after.min(before)
}

/// Returns what ran in a window.
pub(crate) fn ran(run: &Run, from: u64, to: u64) -> Sums {
    run.truth.inferences.before(to) - run.truth.inferences.before(from)
}
