//! Energy figures from outside: the real binary on a simulated machine, and what a subscriber receives.
//!
//! The machine's power follows from what truly ran: a delegate notes when each inference starts and ends, and the
//! program that writes the samples notes when it works. A preloaded library answers each read of the meter, and of
//! `/proc/stat`, with the value of that moment. Both are in `edgewatt_support::simulated`. So the truth is known for
//! any window, however slow or busy the machine is that runs the test. Nothing here knows how the figures come about:
//! only configuration, files of sysfs and messages.
//!
//! `make energy-blackbox` runs every class and prints a table. `EDGEWATT_CLASS=INA219` runs the classes with that in
//! their names, `EDGEWATT_RUNS=3` repeats each with other rhythms, `EDGEWATT_LOAD_S=60` sets the length,
//! `EDGEWATT_SHOW=1` prints every figure. In every second run the delegate is in a thread of the daemon.

mod checks;
mod classes;
mod place;
mod run;
mod score;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use classes::Class;
use score::Score;

/// A figure that is marked `measured` is false if it is off by more than this, in expanded uncertainties U.
const FALSE_U: f64 = 8.0;
/// At least this part of the figures that are marked `measured` is within U of the truth.
const INSIDE: f64 = 0.93;
/// In the short form, a figure with a larger error in the number of its inferences is left out. If the machine is busy,
/// an inference at the edge of a window waits for the processor, and another part of it counts.
const MISCOUNTED_WHEN_BUSY: f64 = 0.01;
/// The daemon's processes sleep most of the time.
const AT_ONCE: usize = 8;

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Does `work` for each item, some at a time.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?)))
                {
                    let result = work(item);
                    results.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs each class with each seed, and prints the table.
fn scores(classes: &[Class], seeds: Range<u64>, load_s: f64, miscounted: f64) -> Vec<Score> {
    let items: Vec<(usize, u64)> = seeds.flat_map(|seed| (0..classes.len()).map(move |class| (class, seed))).collect();
    let done = in_parallel(&items, |(class, seed)| (*class, run::run(&classes[*class], *seed, load_s)));
    let mut scores: Vec<Score> = classes.iter().map(|_| Score::default()).collect();
    for (class, run) in &done {
        scores[*class].add(&classes[*class], run, miscounted);
        if run.figures.is_empty() {
            eprintln!("{}: no closed figure; the log:\n{}", classes[*class].name, run.log);
        }
    }
    eprintln!("{}", Score::HEAD);
    for (class, score) in classes.iter().zip(&scores) {
        eprintln!("{}", score.row(class.name));
    }
    scores
}

/// Returns what is wrong with the figures of a class that are marked `measured`.
fn faults(class: &Class, score: &Score) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, tally) in [("gross", &score.gross), ("net", &score.net)] {
        if tally.worst() > FALSE_U {
            faults.push(format!("{}: {name} is measured, and off by {:.1} U", class.name, tally.worst()));
        }
    }
    faults
}

/// Returns the same, and the classes of which too few figures are right, apart from two standard errors of the sample.
fn all_faults(class: &Class, score: &Score) -> Vec<String> {
    let mut faults = faults(class, score);
    for (name, tally) in [("gross", &score.gross), ("net", &score.net)] {
        let count = tally.count() as f64;
        let least = count * INSIDE - 2.0 * (count * INSIDE * (1.0 - INSIDE)).sqrt();
        if (tally.inside() as f64) < least {
            faults.push(format!("{}: {name} is measured, and {} of {count} are right", class.name, tally.inside()));
        }
    }
    faults
}

#[test]
fn no_figure_that_is_called_measured_is_false() {
    let classes: Vec<Class> = classes::all().into_iter().filter(|class| class.in_short_form).collect();
    let scores = scores(&classes, run::IN_A_THREAD..run::IN_A_THREAD + 1, 12.0, MISCOUNTED_WHEN_BUSY);
    let faults: Vec<String> = classes.iter().zip(&scores).flat_map(|(class, score)| faults(class, score)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // Without a figure that was compared, nothing was shown.
    assert!(scores.iter().any(|score| score.placed > 0), "no figure was compared");
    for (class, score) in classes.iter().zip(&scores) {
        assert!(score.closed > 0, "{}: no figure", class.name);
    }
}

/// The classes whose names contain `EDGEWATT_CLASS`.
fn selected() -> Vec<Class> {
    let part = std::env::var("EDGEWATT_CLASS").unwrap_or_default();
    let classes: Vec<Class> = classes::all().into_iter().filter(|class| class.name.contains(&part)).collect();
    assert!(!classes.is_empty(), "EDGEWATT_CLASS={part}: no class has that in its name");
    classes
}

#[test]
#[ignore = "takes some minutes: make energy-blackbox"]
fn figures_that_are_called_measured_are_true_in_each_class() {
    let classes = selected();
    let (runs, load_s) = (setting("EDGEWATT_RUNS", 2.0) as u64, setting("EDGEWATT_LOAD_S", 45.0));
    let scores = scores(&classes, 0..runs, load_s, place::COUNT_TOLERANCE);
    let faults: Vec<String> = classes.iter().zip(&scores).flat_map(|(class, score)| all_faults(class, score)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // With enough windows that are found, the others cannot hide what is wrong.
    for (class, score) in classes.iter().zip(&scores) {
        assert!(
            score.placed * 10 >= score.measured * 8,
            "{}: {} of {} placed",
            class.name,
            score.placed,
            score.measured
        );
    }
}

#[test]
#[ignore = "takes some minutes: make energy-blackbox"]
fn a_calibration_is_right_or_refused_in_each_class() {
    let classes: Vec<Class> = selected().into_iter().filter(|class| class.is_calibrated).collect();
    let calibrations = in_parallel(&classes, run::calibrate);
    let mut faults = Vec::new();
    eprintln!("| class | net, mJ | U, mJ | truly, mJ | error/U |\n|---|---|---|---|---|");
    for (class, calibration) in classes.iter().zip(&calibrations) {
        let (least_j, most_j) = calibration.truth_j;
        let Some(entry) = &calibration.entry else {
            eprintln!("| {} | refused | | {:.3} | |", class.name, 1e3 * most_j);
            continue;
        };
        let (net_j, expanded_j) = (entry["net_j"].as_f64().unwrap(), entry["expanded_j"].as_f64().unwrap());
        let error = (net_j - net_j.clamp(least_j, most_j)) / expanded_j;
        let [net, expanded, truth] = [net_j, expanded_j, most_j].map(|joules| 1e3 * joules);
        eprintln!("| {} | {net:.3} | {expanded:.3} | {truth:.3} | {error:+.2} |", class.name);
        // One of a hundred is between once and twice its expanded uncertainty away.
        if error.abs() > 1.5 {
            faults.push(format!("{}: {net} mJ +- {expanded}, truly {truth}", class.name));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_bench_measures_the_energy_that_is_true() {
    let is_plain = |class: &Class| ["counter, 1 ms", "INA219"].contains(&class.name);
    let classes: Vec<Class> = classes::all().into_iter().filter(is_plain).collect();
    assert_eq!(classes.len(), 2);
    for (class, found) in classes.iter().zip(in_parallel(&classes, run::bench)) {
        let energy = found.entry.unwrap();
        assert_eq!(energy["status"], "measured", "{}: {energy:#}", class.name);
        let [net_mj, expanded] = ["value", "expanded"].map(|key| energy["net_mj"][key].as_f64().unwrap());
        let (least_j, most_j) = found.truth_j;
        let off_mj = (1e3 * least_j - net_mj).max(net_mj - 1e3 * most_j);
        assert!(off_mj <= expanded && expanded < 0.2 * net_mj, "{}: {off_mj} mJ off: {energy:#}", class.name);
    }
}
