use proptest::prelude::*;

use super::*;
use crate::energy::Calibrated;
use crate::meter::{Accuracy, Scale, Scope};
use crate::units::{WallTime, Watts};

const IDLE: Duration = Duration::from_secs(2);
const COUNTER: Resolution = Resolution::Counter { update: Duration::from_millis(1), quantum: Joules(61e-6) };
const SENSOR: Resolution = Resolution::Sampled { conversion: Duration::from_millis(4), quantum: Watts(0.002) };

fn at(seconds: f64) -> MonoTime {
    MonoTime((seconds * 1e9).round() as u64)
}

fn reading(resolution: Resolution, seconds: f64, joules: f64, watts: f64) -> Reading {
    let accuracy = Accuracy { resolution, scale: Scale::UNKNOWN };
    let (time, joules, power) = (at(seconds), Joules(joules), Some(Watts(watts)));
    Reading { time, joules, power, volts: None, amperes: None, scope: Scope::Board, accuracy }
}

/// Runs of two seconds and a thousand inferences, each after and before two idle seconds.
fn runs(count: u64) -> Vec<Run> {
    let run = |index: u64| {
        let start = at(2.0 + 4.0 * index as f64);
        Run { start, end: start + IDLE, busy: IDLE, inferences: 1000 }
    };
    (0..count).map(run).collect()
}

/// Read each 20 ms, at a power that `added` gives for each run on top of `idle_w`, in truth without any noise.
fn trace(resolution: Resolution, idle_w: f64, added_w: &[f64]) -> Trace {
    let mut trace = Trace::default();
    let mut joules = 0.0;
    for step in 0..=200 * added_w.len() + 100 {
        let seconds = 0.02 * step as f64;
        let (index, is_run) = ((step.saturating_sub(1)) / 200, (step.saturating_sub(1)) % 200 >= 100);
        let added = added_w.get(index).copied().filter(|_| is_run).unwrap_or(0.0);
        joules += if step == 0 { 0.0 } else { 0.02 * (idle_w + added) };
        trace.add(at(seconds), Ok(reading(resolution, seconds, joules, idle_w + added)));
    }
    trace
}

#[test]
fn the_power_of_a_run_less_idle_power_over_its_inferences() {
    for resolution in [COUNTER, SENSOR] {
        let net = net_energy(&trace(resolution, 3.0, &[0.5; 5]), &runs(5), IDLE).unwrap();
        assert!((net.net_j - 1e-3).abs() < 1e-9, "{net:?}");
        assert!((net.gross_w - 3.5).abs() < 1e-9 && (net.idle_w - 3.0).abs() < 1e-9 && net.runs == 5, "{net:?}");
    }
}

#[test]
fn where_nothing_scatters_the_uncertainty_is_the_resolutions() {
    let counter = net_energy(&trace(COUNTER, 3.0, &[0.5; 5]), &runs(5), IDLE).unwrap();
    // A pair of edges at 3 W each: of the 2 s of a run, and of two idle intervals of 0.9 s, of which each counts half.
    let edges = |time_s: f64| ((1e-3f64 * 3.0).powi(2) + 61e-6f64.powi(2)) / 6.0 / time_s.powi(2);
    let u_w = (edges(2.0) + (edges(0.9) + edges(0.88)) / 4.0).sqrt() * MEDIAN / 5f64.sqrt();
    assert!((counter.u_j / (u_w * 2e-3) - 1.0).abs() < 0.02, "{counter:?} {u_w}");
    let sensor = net_energy(&trace(SENSOR, 3.0, &[0.5; 5]), &runs(5), IDLE).unwrap();
    let (rounding_w, lumps_w): (f64, f64) = (0.776 / 2.0 * 0.002, 0.5 * 1e-3 / 3f64.sqrt());
    assert!((sensor.u_j / (rounding_w.hypot(lumps_w) * 2e-3) - 1.0).abs() < 1e-3, "no noise: {sensor:?}");
}

#[test]
fn one_disturbed_run_widens_the_uncertainty_and_hardly_moves_the_value() {
    let steady = net_energy(&trace(COUNTER, 3.0, &[0.5; 5]), &runs(5), IDLE).unwrap();
    let disturbed = net_energy(&trace(COUNTER, 3.0, &[0.5, 0.5, 0.7, 0.5, 0.5]), &runs(5), IDLE).unwrap();
    assert!((disturbed.net_j - steady.net_j).abs() < 1e-9, "{disturbed:?}");
    assert!(disturbed.u_j > 10.0 * steady.u_j, "{disturbed:?} {steady:?}");
}

#[test]
fn a_net_below_its_uncertainty_is_refused() {
    for added_w in [0.0, -0.5, 1e-5] {
        let error = net_energy(&trace(COUNTER, 3.0, &[added_w; 5]), &runs(5), IDLE).unwrap_err();
        assert!(matches!(error, NetError::Uncertain { .. }), "{error}");
    }
    let error = NetError::Uncertain { net_j: 1.234e-6, expanded_j: 5.6e-6 }.to_string();
    assert!(error.contains("net energy is 0.00123 mJ per inference") && error.contains("0.00560 mJ"), "{error}");
}

#[test]
fn a_run_with_a_loss_or_too_few_readings_is_left_out() {
    let mut lost = trace(COUNTER, 3.0, &[0.5; 6]);
    let reason = "a suspend".to_owned();
    lost.losses.push((at(8.0), MeterError::Rebaselined { reason }.to_string()));
    assert_eq!(
        net_energy(&lost, &runs(6), IDLE).unwrap().runs,
        5,
        "the idle interval from 8 s to 10 s serves the second one"
    );
    let error = net_energy(&lost, &runs(5), IDLE).unwrap_err().to_string();
    assert!(error.starts_with("4 of 5 runs") && error.contains("a suspend"), "{error}");

    let mut sparse = trace(SENSOR, 3.0, &[0.5; 5]);
    let mut index = 0;
    sparse.readings.retain(|_| {
        index += 1;
        index % 15 == 0
    });
    let error = net_energy(&sparse, &runs(5), IDLE).unwrap_err().to_string();
    assert!(error.starts_with("0 of 5 runs") && error.contains("3 readings"), "{error}");
    let error = net_energy(&Trace::default(), &runs(5), IDLE).unwrap_err().to_string();
    assert!(error.contains("0 readings"), "{error}");
}

/// Seven runs at 3 W and 2 W more, and what `tail_w` gives for the time after each, read each 20 ms by a counter.
fn net_with_tail(tail_w: impl Fn(f64) -> f64) -> Result<NetEnergy, NetError> {
    let (mut trace, mut joules) = (Trace::default(), 0.0);
    for step in 0..=30_000u32 {
        let seconds = f64::from(step) * 1e-3;
        let in_cycle_s = (seconds - 2.0).rem_euclid(4.0);
        let added_w = match seconds {
            ..2.0 => 0.0,
            _ if in_cycle_s < 2.0 => 2.0,
            _ => tail_w(in_cycle_s - 2.0),
        };
        if step % 20 == 0 {
            trace.add(at(seconds), Ok(reading(COUNTER, seconds, joules, 0.0)));
        }
        joules += 1e-3 * (3.0 + added_w);
    }
    net_energy(&trace, &runs(7), IDLE)
}

#[test]
fn idle_power_is_taken_after_a_tail() {
    let none = net_with_tail(|_| 0.0).unwrap();
    for net in [net_with_tail(|s| if s < 1.0 { 0.4 } else { 0.0 }), net_with_tail(|s| 0.4 * (-s / 0.2).exp())] {
        let net = net.unwrap();
        assert!((net.net_j - 0.004).abs() < 2.0 * net.u_j && net.u_j < 4e-5, "{net:?}");
        assert!((net.idle_w - 3.0).abs() < 0.01 && none.u_j < net.u_j, "{net:?} {none:?}");
    }
}

#[test]
fn a_tail_that_lasts_as_long_as_the_idle_intervals_is_refused() {
    let error = net_with_tail(|s| 0.4 * (-s / 1.5).exp()).unwrap_err();
    assert_eq!(error, NetError::NotAtRest { for_s: 2.0 });
    assert!(error.to_string().contains("2.0 s after a run: idle intervals must be longer (--quiet-s"), "{error}");
}

#[test]
fn the_shortest_length_holds_enough() {
    for (resolution, period_ms) in [(COUNTER, 1), (COUNTER, 100), (SENSOR, 1), (SENSOR, 100)] {
        let period = Duration::from_millis(period_ms);
        let length = length_min(resolution, period);
        let mut trace = Trace::default();
        // The latest that readings can be in their periods, one after the other.
        let (mut start, mut joules) = (MonoTime(0), 0.0);
        let mut runs = Vec::new();
        for run in 0..5 {
            start = at(length.as_secs_f64() * (1.0 + 2.0 * f64::from(run)));
            runs.push(Run { start, end: start + length, busy: length, inferences: 1 });
        }
        let step = period.max(resolution.look_back()).as_secs_f64();
        let mut seconds = 0.3 * step;
        while at(seconds) < start + 2 * length {
            let is_run = runs.iter().any(|run| (run.start..=run.end).contains(&at(seconds)));
            let watts = if is_run { 4.0 } else { 3.0 };
            joules += watts * step;
            trace.add(at(seconds), Ok(reading(resolution, seconds, joules, watts)));
            seconds += step;
        }
        assert_eq!(
            net_energy(&trace, &runs, length).map(|net| net.runs),
            Ok(5),
            "{resolution:?} {period:?} {length:?}"
        );
    }
}

#[test]
fn what_takes_longer_now_is_less_certain() {
    let calibrated = Calibrated { net_j: 2e-3, u_j: 1e-4, busy_s: 1e-3, time: WallTime(1_798_761_599_000) };
    assert_eq!(calibrated.u_at_j(1e-3), 1e-4);
    assert!(2.0 * calibrated.u_at_j(2e-3) > 2e-3, "the same power for twice the time is within it");
    assert_eq!(calibrated.reason("too rare", 1.1e-3), "net from the calibration of 2026-12-31 23:59 UTC: too rare");
    assert!(calibrated.reason("too rare", 3e-3).contains("took 3.0 times as long"));
}

#[test]
fn a_median_is_in_the_middle() {
    assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 3.0, 2.0])), (2.0, 2.5));
}

proptest! {
    /// Twice the joules are twice the figure; more idle power changes idle power alone; the order of runs says nothing.
    #[test]
    fn the_figure_follows_the_joules(
        idle_w in 0.5f64..10.0,
        added_w in prop::collection::vec(0.5f64..0.6, 5..9),
        more_w in 0.1f64..5.0,
        factor in 1.1f64..4.0,
    ) {
        let count = added_w.len();
        let of = |idle_w: f64, added_w: &[f64]| net_energy(&trace(SENSOR, idle_w, added_w), &runs(count as u64), IDLE).unwrap();
        let plain = of(idle_w, &added_w);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * b.abs();
        let more = of(idle_w + more_w, &added_w);
        prop_assert!(near(more.net_j, plain.net_j) && near(more.u_j, plain.u_j), "{more:?} {plain:?}");
        prop_assert!(near(more.idle_w, plain.idle_w + more_w) && near(more.gross_w, plain.gross_w + more_w));
        let scaled: Vec<f64> = added_w.iter().map(|w| w * factor).collect();
        prop_assert!(near(of(idle_w * factor, &scaled).net_j, factor * plain.net_j));
        let mut sorted = added_w.clone();
        sorted.sort_by(f64::total_cmp);
        prop_assert!(near(of(idle_w, &sorted).net_j, plain.net_j) && near(of(idle_w, &sorted).u_j, plain.u_j));
        prop_assert!(plain.u_j > 0.0 && 2.0 * plain.u_j <= plain.net_j);
    }
}

#[test]
fn a_slow_counter_is_judged_by_the_ages_and_the_spacing_of_its_readings() {
    let mut trace = Trace::default();
    for (seconds, update_ms) in [(0.0, 30), (1.0, 40), (2.05, 30), (2.05, 500), (3.0, 40)] {
        assert_eq!(trace.spacing().is_some(), seconds > 2.05 || (seconds == 2.05 && update_ms == 500));
        let resolution = Resolution::Counter { update: Duration::from_millis(update_ms), quantum: Joules(61e-6) };
        trace.add(at(seconds), Ok(reading(resolution, seconds, seconds, 1.0)));
    }
    assert_eq!(trace.spacing(), Some(Duration::from_millis(950)), "a reading that was repeated does not count");
    let Some(Resolution::Counter { update, .. }) = trace.resolution() else { panic!("it is a counter") };
    assert!((update.as_secs_f64() - 0.035_36).abs() < 1e-4, "{update:?}");
    assert!(length_min(trace.resolution().unwrap(), Duration::from_millis(950)) > Duration::from_secs(7));
}

#[test]
fn students_factors_are_those_of_tables() {
    for (freedom, table) in [(1.0, 12.706), (2.0, 4.303), (3.0, 3.182), (4.0, 2.776), (9.0, 2.262), (29.0, 2.045)] {
        assert!((student(freedom) / table - 1.0).abs() < 0.012, "{freedom}: {}", student(freedom));
    }
    assert!((student(f64::INFINITY) - 1.96).abs() < 1e-3);
}
