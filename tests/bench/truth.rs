//! A bench of a simulated machine, 1,000 times: do its intervals hold the truth, are real differences found, and are equal cells
//! left equal? `cargo test --release --test bench truth:: -- --nocapture` prints what comes of it.

use std::time::Duration;

use edgewatt::measure::bench::compare::compare;
use edgewatt::measure::bench::fill;
use edgewatt::measure::bench::report::{CellReport, Report};
use edgewatt::measure::bench::rounds::{Plan, run};
use edgewatt::measure::bench::statistics::Estimate;

use crate::simulated_lab::{Noise, SimulatedLab, Truth};

/// Few in an ordinary test, because it is not optimised; `make bench-truth` runs a thousand.
fn runs() -> u64 {
    std::env::var("EDGEWATT_BENCHES").map_or(40, |count| count.parse().unwrap())
}

const CELL: Truth = Truth { step_s: 4e-3, added_w: 2.0, draw_w: 0.3 };
const NOISE: Noise = Noise { step: 0.05, turn: 0.01, drift: 0.02, lasts_s: 1.0, disturbed: 0.0 };

/// With energy a turn takes longer, because a meter needs it.
fn plan(has_energy: bool) -> Plan {
    let seconds = Duration::from_secs_f64;
    if has_energy {
        Plan { rounds: 9, run: seconds(1.0), idle: seconds(2.0), warm_up: seconds(0.05) }
    } else {
        Plan { rounds: 15, run: seconds(0.1), idle: Duration::ZERO, warm_up: seconds(0.02) }
    }
}

fn bench(cells: &[Truth], noise: Noise, has_energy: bool, seed: u64) -> Report {
    let plan = plan(has_energy);
    // Loading and the last step of a run take time, too.
    let lasts_s = plan.total(cells.len()).as_secs_f64() + 0.02 * (plan.rounds * cells.len()) as f64;
    let mut lab = SimulatedLab::new(cells.to_vec(), Noise { lasts_s, ..noise }, seed);
    let batches: Vec<Option<usize>> = cells.iter().map(|_| Some(1)).collect();
    let seen = run(&mut lab, &batches, &plan, |_| {});
    let meters = if has_energy { vec![lab.metered()] } else { Vec::new() };
    let mut reports: Vec<CellReport> = (0..cells.len()).map(blank).collect();
    let baseline = fill(&mut reports, &seen, &plan, &meters);
    Report { baseline, cells: reports, ..crate::program::empty_report() }
}

fn blank(index: usize) -> CellReport {
    CellReport { name: format!("cell {index}"), ..crate::program::empty_cell() }
}

fn holds(estimate: Estimate, truth: f64) -> bool {
    estimate.low.unwrap() <= truth && truth <= estimate.high.unwrap()
}

/// Counts in how many of the benches something holds, and says so.
fn count(what: &str, holds: impl Fn(u64) -> bool) -> f64 {
    let part = (0..runs()).filter(|seed| holds(*seed)).count() as f64 / runs() as f64;
    println!("{what}: {:.1} %", 100.0 * part);
    part
}

/// The scatter of a part that is 95 % in truth.
fn scatter() -> f64 {
    2.0 * (0.95 * 0.05 / runs() as f64).sqrt()
}

#[test]
fn intervals_hold_the_true_time() {
    let estimates: Vec<(Estimate, Estimate)> = (0..runs())
        .map(|seed| {
            let report = bench(&[CELL, CELL], NOISE, false, seed);
            let speed = report.cells[0].speed.clone().unwrap();
            (speed.p50_ms, speed.windows_per_s)
        })
        .collect();
    // A step's mean is above its median: e^(s^2/2) of a log-normal distribution.
    let mean_s = CELL.step_s * (NOISE.step.powi(2) / 2.0).exp();
    let p50 = count("p50 in its interval", |seed| holds(estimates[seed as usize].0, 1e3 * CELL.step_s));
    let rate = count("windows per second in their interval", |seed| holds(estimates[seed as usize].1, 1.0 / mean_s));
    for part in [p50, rate] {
        assert!((0.93 - scatter()..=0.98 + scatter()).contains(&part), "{part}");
    }
}

#[test]
fn energy_lies_within_its_uncertainty() {
    let net_mj = 1e3 * CELL.added_w * CELL.step_s * (NOISE.step.powi(2) / 2.0).exp();
    let energies: Vec<_> =
        (0..runs()).map(|seed| bench(&[CELL], NOISE, true, seed).cells[0].energy["package"].clone()).collect();
    let inside = count("net energy within its uncertainty", |seed| {
        let energy = &energies[seed as usize];
        assert_eq!((energy.status.as_str(), &energy.reason), ("measured", &None));
        let net = energy.net_mj.unwrap();
        (net.value - net_mj).abs() <= net.expanded.unwrap()
    });
    assert!((0.93 - scatter()..=0.995 + scatter()).contains(&inside), "{inside}");
    let draw =
        count("idle draw in its interval", |seed| holds(energies[seed as usize].idle_draw_w.unwrap(), CELL.draw_w));
    assert!((0.93 - scatter()..=0.995 + scatter()).contains(&draw), "{draw}");
}

#[test]
fn a_slowdown_of_3_percent_is_found_and_equal_cells_stay_equal() {
    let slow = Truth { step_s: 1.03 * CELL.step_s, ..CELL };
    // With one turn of 20 slowed down by something else, fewer differences are found, and no more that are none.
    for (noise, what, least) in [(NOISE, "quiet", 0.95), (Noise { disturbed: 0.05, ..NOISE }, "disturbed", 0.75)] {
        let is_real = |cells: &[Truth], seed: u64| {
            let against = bench(cells, noise, false, seed).cells[1].against_baseline.clone().unwrap();
            let time = against.time.unwrap();
            time.is_real() && (cells[0].step_s == cells[1].step_s || time.ratio > 1.0)
        };
        let found = count(&format!("{what}: a cell that is 3 % slower is found"), |seed| is_real(&[CELL, slow], seed));
        assert!(found >= least - scatter(), "{found}");
        let wrong = count(&format!("{what}: an equal cell is called different"), |seed| is_real(&[CELL, CELL], seed));
        assert!(wrong <= 0.05 + scatter(), "{wrong}");
        let is_worse = |before: Truth, after: Truth, seed: u64| {
            let [before, after] =
                [(before, 0), (after, 1)].map(|(cell, more)| bench(&[cell], noise, false, 2 * seed + more));
            compare(&before, &after, 1.0).regressions().next().is_some()
        };
        let found = count(&format!("{what}: compare finds 3 %"), |seed| is_worse(CELL, slow, seed));
        assert!(found >= least - scatter(), "{found}");
        let wrong = count(&format!("{what}: compare finds a regression in nothing"), |seed| is_worse(CELL, CELL, seed));
        assert!(wrong <= 0.05 + scatter(), "{wrong}");
    }
}

#[test]
fn many_equal_cells_together_are_called_different_as_seldom_as_two() {
    let cells = [CELL; 6];
    let wrong = count("one of six equal cells is called different", |seed| {
        let report = bench(&cells, NOISE, false, seed);
        report.cells.iter().filter_map(|cell| cell.against_baseline.as_ref()?.time).any(|time| time.is_real())
    });
    assert!(wrong <= 0.05 + scatter(), "{wrong}");
}
