//! The estimates that follow from busy spans and readings, with all times passed in.

use std::time::Duration;

use super::*;
use crate::engine::span::BusySpan;
use crate::meter::{Accuracy, MeterError, MeterInfo, Reading, Resolution, Scale, Scope};
use crate::units::{Joules, MonoTime, Watts};

mod calibrated;
mod net;
mod others;
mod properties;
mod tail;

const MS: u64 = 1_000_000;

fn span_ns(start: u64, end: u64) -> BusySpan {
    BusySpan { start: MonoTime(start), end: MonoTime(end), busy_ns: end - start, inferences: 1 }
}

fn span(start_ms: u64, end_ms: u64) -> BusySpan {
    span_ns(start_ms * MS, end_ms * MS)
}

fn info(estimated: bool) -> MeterInfo {
    let kind = if estimated { "estimate" } else { "rapl" };
    MeterInfo {
        name: "package".to_owned(),
        kind,
        scope: Scope::Package,
        estimated,
        detail: Vec::new(),
        basis: Vec::new(),
    }
}

fn new_attribution(pipeline_count: usize) -> Attribution {
    Attribution::new(pipeline_count, vec![info(false)], EACH)
}

/// Every window ends at the next estimates.
const EACH: Settings = Settings { target_rel: f64::INFINITY, window_max: Duration::ZERO, idle: None, idle_error: 0.0 };

fn accuracy() -> Accuracy {
    let resolution = Resolution::Counter { update: Duration::from_millis(1), quantum: Joules(61e-6) };
    Accuracy { resolution, scale: Scale::UNKNOWN }
}

/// Reads the meter; no inference runs then but those that were added.
fn read_ns(attribution: &mut Attribution, meter: usize, time: u64, joules: f64) {
    for pipeline in 0..attribution.meters[meter].spans.len() {
        attribution.set_known_until(pipeline, MonoTime(time));
    }
    read_while_running(attribution, meter, time, joules);
}

/// Reads the meter while it is not known what runs.
fn read_while_running(attribution: &mut Attribution, meter: usize, time: u64, joules: f64) {
    let (time, joules) = (MonoTime(time), Joules(joules));
    let reading =
        Reading { time, joules, power: None, volts: None, amperes: None, scope: Scope::Package, accuracy: accuracy() };
    attribution.add_reading(meter, Ok(reading));
}

fn read(attribution: &mut Attribution, ms: u64, joules: f64) {
    read_ns(attribution, 0, ms * MS, joules);
}

fn lose(attribution: &mut Attribution, reason: &str) {
    attribution.add_reading(0, Err(MeterError::Rebaselined { reason: reason.to_owned() }));
}

/// The estimates of the one meter, by pipeline, when nothing runs any more.
fn close(attribution: &mut Attribution) -> Vec<EnergyEstimate> {
    attribution.finish();
    attribution.estimates().into_iter().map(|mut estimates| estimates.remove(0)).collect()
}

fn reason(estimate: &EnergyEstimate) -> &str {
    assert_eq!((estimate.status, estimate.gross_j), (Status::Unavailable, None));
    estimate.reason.as_deref().unwrap()
}

#[test]
fn a_measured_estimate_and_its_wire_form() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 1000, 10.0);
    for start in [1000, 1200, 1500] {
        attribution.add_span(0, span(start, start + 100));
    }
    read(&mut attribution, 1400, 12.0);
    attribution.add_span(0, span(1700, 1800));
    read(&mut attribution, 2000, 16.0);
    let mut written = serde_json::to_value(close(&mut attribution).remove(0)).unwrap();
    let written = written.as_object_mut().unwrap();
    // A period of 1 ms at 6 W at either edge, and the quantum.
    let u_j = (2.0 * (6e-3f64.powi(2) + 61e-6f64.powi(2)) / 12.0).sqrt() / 4.0;
    for (key, factor) in [("gross_u_j", 1.0), ("gross_expanded_j", 2.0), ("gross_statistical_j", 1.0)] {
        let value = written.remove(key).unwrap().as_f64().unwrap();
        assert!((value / u_j / factor - 1.0).abs() < 1e-9, "{key} {value}");
    }
    assert_eq!(
        serde_json::Value::Object(std::mem::take(written)),
        serde_json::json!({
            "meter": "package", "kind": "rapl", "scope": "package", "status": "measured", "closed": true,
            "gross_j": 1.5, "energy_j": 6.0, "inferences": 4.0, "window_s": 1.0, "busy_fraction": 0.4, "mean_w": 6.0,
            "reason": "no net energy: too little idle time so far to know idle power", "systematic_rel": null,
            "net_j": null, "net_u_j": null, "net_expanded_j": null, "net_statistical_j": null, "net_systematic_j": null,
            "gross_systematic_j": null, "uncertainty": "statistical only",
            "tail_j": null, "tail_u_j": null, "tail_s": null,
            "idle_w": null, "idle_u_w": null, "idle_drift_w": null, "idle_age_s": null,
        })
    );
}

#[test]
fn a_span_across_the_edge_counts_by_the_part_of_its_time() {
    let mut attribution = new_attribution(1);
    attribution.add_span(0, span(900, 1100));
    read(&mut attribution, 1000, 0.0);
    attribution.add_span(0, span(1900, 2300));
    read(&mut attribution, 2000, 4.0);
    read(&mut attribution, 3000, 7.0);
    attribution.finish();
    let estimate = attribution.estimates().remove(0).remove(0);
    assert_eq!((estimate.inferences, estimate.busy_fraction, estimate.window_s), (Some(1.5), Some(0.25), Some(2.0)));
    assert!((estimate.gross_j.unwrap() - 7.0 / 1.5).abs() < 1e-6, "{estimate:?}");
}

#[test]
fn a_reading_waits_for_the_inference_that_runs_at_its_time() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(500, 700));
    // One has begun at 900 ms, and takes far longer than the one before.
    attribution.set_known_until(0, MonoTime(900 * MS));
    for second in 1..=20 {
        read_while_running(&mut attribution, 0, second * 1000 * MS, second as f64);
    }
    assert!(reason(&attribution.estimates()[0][0]).contains("waiting for running inferences"));
    attribution.add_span(0, span(900, 19_500));
    attribution.set_known_until(0, MonoTime(20_000 * MS));
    let estimate = attribution.estimates().remove(0).remove(0);
    assert!((estimate.inferences.unwrap() - 2.0).abs() < 1e-9, "{estimate:?}");
    assert_eq!(estimate.window, [(MonoTime(0), MonoTime(20_000 * MS))]);
    assert!((estimate.busy_fraction.unwrap() - 0.94).abs() < 1e-9, "{estimate:?}");
}

#[test]
fn an_inference_that_does_not_end_is_waited_for_no_longer_than_a_minute() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(100, 110));
    attribution.set_known_until(0, MonoTime(500 * MS));
    for second in 1..=61 {
        read_while_running(&mut attribution, 0, second * 1000 * MS, second as f64);
        let is_counted = attribution.meters[0].window.all.time_s > 0.0;
        assert_eq!(is_counted, second == 61, "{second}");
    }
}

#[test]
fn a_window_ends_at_a_reading_between_inferences_if_there_is_one() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    for (start, end) in [(100, 200), (350, 450), (550, 750), (750, 2000)] {
        attribution.add_span(0, span(start, end));
    }
    for tick in 1..=6 {
        read(&mut attribution, tick * 100 + 10, tick as f64);
    }
    let estimate = attribution.estimates().remove(0).remove(0);
    assert_eq!(estimate.window, [(MonoTime(0), MonoTime(510 * MS))], "not at 610 ms");
    for tick in 7..=20 {
        read(&mut attribution, tick * 100 + 10, tick as f64);
    }
    let estimate = attribution.estimates().remove(0).remove(0);
    assert_eq!(estimate.window, [(MonoTime(510 * MS), MonoTime(2_010 * MS))]);
}

#[test]
fn a_part_of_an_inference_makes_no_estimate() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(900, 1100));
    read(&mut attribution, 1000, 1.0);
    let estimate = close(&mut attribution).remove(0);
    assert!(reason(&estimate).contains("no whole inference") && estimate.inferences == Some(0.5), "{estimate:?}");
}

#[test]
fn an_inference_that_was_not_waited_for_is_counted_afterwards() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(100, 110));
    for second in 1..=4 {
        read(&mut attribution, second * 1000, second as f64);
    }
    attribution.add_span(0, span(1500, 4500));
    read(&mut attribution, 5000, 5.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.status, estimate.inferences, estimate.window_s), (Status::Measured, Some(2.0), Some(5.0)));
    assert!((estimate.busy_fraction.unwrap() - 3.01 / 5.0).abs() < 1e-9, "{estimate:?}");
}

#[test]
fn of_a_late_inference_only_the_part_in_the_window_counts() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(100, 110));
    read(&mut attribution, 1000, 1.0);
    read(&mut attribution, 2000, 2.0);
    assert_eq!(close(&mut attribution)[0].inferences, Some(1.0));
    read(&mut attribution, 3000, 3.0);
    attribution.add_span(0, span(1000, 5000));
    read(&mut attribution, 6000, 6.0);
    let estimate = close(&mut attribution).remove(0);
    assert!(reason(&estimate).contains("no whole inference") && estimate.inferences == Some(0.75), "{estimate:?}");
}

#[test]
fn a_late_inference_takes_back_what_was_learned_of_idle_power_meanwhile() {
    let mut attribution = new_attribution(1);
    rest(&mut attribution);
    let mut joules = 20.0;
    attribution.add_span(0, span(10_010, 10_020));
    // It draws 5 W from 11 s to 19 s, and until 19 s it is not known that it runs.
    for tick in 101..=250u64 {
        joules += if (110..190).contains(&(tick - 1)) { 0.5 } else { 0.2 };
        if tick == 191 {
            attribution.add_span(0, span(11_000, 19_000));
        }
        read(&mut attribution, tick * 100, joules);
    }
    let estimate = close(&mut attribution).remove(0);
    assert!((estimate.idle_w.unwrap() - 2.0).abs() < 0.02, "{estimate:?}");
    assert_eq!(estimate.inferences, Some(2.0));
    assert!((estimate.net_j.unwrap() - 12.0).abs() <= estimate.net_expanded_j.unwrap(), "{estimate:?}");
}

#[test]
fn at_the_end_the_last_window_is_closed() {
    let settings = Settings { target_rel: 0.0, window_max: Duration::from_secs(60), idle: None, idle_error: 0.0 };
    let mut attribution = Attribution::new(1, vec![info(false)], settings);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(100, 200));
    read(&mut attribution, 1000, 1.0);
    assert!(!close(&mut attribution)[0].closed);
    read(&mut attribution, 2000, 2.0);
    attribution.end();
    let estimate = attribution.estimates().remove(0).remove(0);
    assert_eq!((estimate.closed, estimate.energy_j), (true, Some(2.0)));
}

#[test]
fn a_trace_is_replayed_and_not_measured() {
    let mut attribution = new_attribution(1);
    let accuracy = Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN };
    for second in 0..3u64 {
        let (time, joules) = (MonoTime(second * 1000 * MS), Joules(second as f64));
        attribution.add_span(0, span(second * 1000 + 100, second * 1000 + 200));
        let scope = Scope::Board;
        attribution
            .add_reading(0, Ok(Reading { time, joules, power: None, volts: None, amperes: None, scope, accuracy }));
    }
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.status, estimate.gross_j, estimate.gross_u_j), (Status::Replayed, Some(1.0), None));
}

#[test]
fn what_ran_before_the_first_reading_is_not_metered() {
    let mut attribution = new_attribution(1);
    attribution.add_span(0, span(0, 500));
    read(&mut attribution, 1000, 5.0);
    attribution.add_span(0, span(990, 999));
    attribution.add_span(0, span(1400, 1500));
    read(&mut attribution, 2000, 6.0);
    assert_eq!(close(&mut attribution)[0].inferences, Some(1.0));
}

#[test]
fn busy_pipelines_share_by_busy_time() {
    let mut attribution = new_attribution(3);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(0, 300));
    attribution.add_span(1, span(300, 350));
    attribution.add_span(1, span(400, 450));
    read(&mut attribution, 1000, 8.0);
    let estimates = close(&mut attribution);
    let rounded = |joules: Option<f64>| joules.map(|joules| (joules * 1e9).round() / 1e9);
    let shown: Vec<_> = estimates.iter().map(|f| (f.status, rounded(f.energy_j), rounded(f.gross_j))).collect();
    assert_eq!(
        shown,
        [
            (Status::Attributed, Some(6.0), Some(6.0)),
            (Status::Attributed, Some(2.0), Some(1.0)),
            (Status::Unavailable, None, None)
        ]
    );
    assert!(estimates.iter().all(|f| f.mean_w == Some(8.0)));
    read(&mut attribution, 2000, 9.0);
    attribution.add_span(0, span(2100, 2200));
    read(&mut attribution, 3000, 10.0);
    assert_eq!(close(&mut attribution)[0].status, Status::Measured, "alone again");
}

#[test]
fn an_estimate_says_so_alone_and_shared() {
    let mut attribution = Attribution::new(2, vec![info(true)], EACH);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(0, 300));
    read(&mut attribution, 1000, 8.0);
    assert_eq!(close(&mut attribution)[0].status, Status::Estimated);
    attribution.add_span(0, span(1000, 1300));
    attribution.add_span(1, span(1000, 1300));
    read(&mut attribution, 2000, 16.0);
    let estimate = close(&mut attribution).remove(1);
    assert_eq!((estimate.status, estimate.gross_j), (Status::Estimated, Some(4.0)));
    assert!(estimate.reason.unwrap().contains("shared"));
}

#[test]
fn without_inferences_the_energy_is_known_and_gross_is_null() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    read(&mut attribution, 1000, 2.0);
    let estimate = close(&mut attribution).remove(0);
    assert!(reason(&estimate).contains("no inference in the window"));
    assert_eq!((estimate.energy_j, estimate.inferences, estimate.mean_w), (Some(2.0), Some(0.0), Some(2.0)));
}

#[test]
fn a_loss_takes_its_interval_out_of_the_window_and_nothing_else() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(490, 500));
    read(&mut attribution, 500, 1.0);
    lose(&mut attribution, "the counter jumped");
    // The first is not metered, of the second the half after the meter was back.
    attribution.add_span(0, span(700, 800));
    attribution.add_span(0, span(950, 1050));
    read(&mut attribution, 1000, 9.0);
    attribution.add_span(0, span(1060, 1070));
    read(&mut attribution, 1500, 11.0);
    read(&mut attribution, 1600, 11.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.status, estimate.energy_j, estimate.inferences), (Status::Measured, Some(3.0), Some(2.5)));
    assert!((estimate.window_s.unwrap() - 1.1).abs() < 1e-9 && estimate.window.len() == 2, "{estimate:?}");
    let reason = estimate.reason.unwrap();
    assert!(reason.starts_with("0.5 s of the window were not metered: ") && reason.contains("the counter jumped"));
    attribution.add_span(0, span(1600, 1700));
    read(&mut attribution, 2000, 12.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.inferences, estimate.window_s, estimate.gross_j), (Some(1.0), Some(0.4), Some(1.0)));
    assert!(!estimate.reason.unwrap().contains("not metered"), "the loss was in the window before");
}

#[test]
fn energy_across_a_loss_is_in_no_later_window() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    read(&mut attribution, 500, 1.0);
    lose(&mut attribution, "unplugged");
    assert!(reason(&close(&mut attribution)[0]).contains("unplugged"));
    read(&mut attribution, 5000, 50.0);
    assert!(reason(&close(&mut attribution)[0]).contains("unplugged"));
    attribution.add_span(0, span(5100, 5200));
    read(&mut attribution, 6000, 52.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.window_s, estimate.energy_j), (Some(1.0), Some(2.0)));
}

#[test]
fn a_meter_that_stays_away_keeps_its_reason() {
    let mut attribution = new_attribution(1);
    assert!(reason(&close(&mut attribution)[0]).contains("not been read yet"));
    lose(&mut attribution, "gone");
    for _ in 0..3 {
        assert!(reason(&close(&mut attribution)[0]).contains("gone"));
    }
    read(&mut attribution, 1000, 0.0);
    assert!(reason(&close(&mut attribution)[0]).contains("gone"), "the meter came back within the window");
    assert!(reason(&close(&mut attribution)[0]).contains("no reading of the meter"));
}

#[test]
fn a_window_without_reading_waits_for_the_next() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    close(&mut attribution);
    attribution.add_span(0, span(100, 200));
    assert!(reason(&close(&mut attribution)[0]).contains("read it more often"));
    read(&mut attribution, 1000, 2.0);
    assert_eq!(close(&mut attribution)[0].inferences, Some(1.0));
}

#[test]
fn energy_that_does_not_move_gives_no_estimate() {
    for joules in [5.0, 4.0] {
        let mut attribution = new_attribution(1);
        read(&mut attribution, 0, 5.0);
        close(&mut attribution);
        attribution.add_span(0, span(100, 200));
        read(&mut attribution, 1000, joules);
        assert!(reason(&close(&mut attribution)[0]).contains("did not change in 1.0 s"));
    }
}

#[test]
fn no_meter_says_what_to_add() {
    let estimates = Attribution::new(2, Vec::new(), EACH).estimates();
    assert_eq!(estimates.len(), 2);
    assert!(reason(&estimates[1][0]).contains("add [power.meters.NAME]"));
    assert_eq!(serde_json::to_value(&estimates[0][0]).unwrap()["gross_j"], serde_json::Value::Null);
}

#[test]
fn each_meter_has_its_own_window() {
    let mut attribution = Attribution::new(1, vec![info(false), info(true)], EACH);
    read_ns(&mut attribution, 0, 0, 0.0);
    read_ns(&mut attribution, 1, 50 * MS, 0.0);
    attribution.add_span(0, span(20, 40));
    attribution.add_span(0, span(960, 980));
    attribution.add_span(0, span(1010, 1030));
    read_ns(&mut attribution, 0, 1000 * MS, 4.0);
    read_ns(&mut attribution, 1, 1050 * MS, 8.0);
    attribution.finish();
    let estimates = attribution.estimates().remove(0);
    assert_eq!((estimates[0].inferences, estimates[0].gross_j), (Some(2.0), Some(2.0)));
    assert_eq!((estimates[1].inferences, estimates[1].gross_j), (Some(2.0), Some(4.0)));
}

#[test]
fn memory_is_bounded_and_no_inference_lost_while_readings_are_missing() {
    let mut attribution = new_attribution(1);
    read_ns(&mut attribution, 0, 0, 0.0);
    let count = 100_000u32;
    for index in 0..u64::from(count) {
        attribution.add_span(0, span_ns(index * 10_000, index * 10_000 + 3_000));
    }
    let (pending, bytes) = attribution.meters[0].spans[0].pending_bytes();
    assert!(pending <= spans::PENDING_MAX && bytes <= 160 << 10, "{pending} {bytes}");
    let (mut total, mut busy_s) = (0.0, 0.0);
    for tenth in 1..=10 {
        read_ns(&mut attribution, 0, tenth * 100 * MS, tenth as f64);
        let estimate = close(&mut attribution).remove(0);
        let inferences = estimate.inferences.unwrap();
        assert!((inferences - f64::from(count) / 10.0).abs() < 1.0, "{inferences}");
        total += inferences;
        busy_s += estimate.busy_fraction.unwrap() * estimate.window_s.unwrap();
    }
    assert!((total - f64::from(count)).abs() < 1e-6, "{total}");
    assert!((busy_s - 0.3).abs() < 1e-9, "{busy_s}");
}

/// Ten idle seconds at 2 W, which tells idle power, read each 100 ms from 0 on.
fn rest(attribution: &mut Attribution) {
    for tick in 0..=100 {
        read(attribution, tick * 100, 0.2 * tick as f64);
    }
    attribution.finish();
}

#[test]
fn a_window_grows_until_its_uncertainty_is_small_or_it_is_long() {
    let grown = |target_rel: f64| {
        let mut attribution = Attribution::new(
            1,
            vec![info(false)],
            Settings { target_rel, window_max: Duration::from_secs(5), idle: None, idle_error: 0.0 },
        );
        read(&mut attribution, 0, 0.0);
        let closed = (1..=10).find(|second| {
            attribution.add_span(0, span(second * 1000 - 1000, second * 1000));
            read(&mut attribution, second * 1000, *second as f64);
            let estimate = close(&mut attribution).remove(0);
            assert_eq!(estimate.window_s, Some(*second as f64));
            estimate.closed
        });
        closed.unwrap()
    };
    assert_eq!((grown(0.1), grown(0.0004), grown(1e-6)), (1, 3, 5));
}

#[test]
fn pipelines_that_differ_are_shared_by_a_fit_over_intervals() {
    let mut attribution = new_attribution(2);
    rest(&mut attribution);
    close(&mut attribution);
    let mut joules = 20.0;
    for tick in 1..=100u64 {
        let (start, a_ms, b_ms) = (9_900 + tick * 100, 10 + tick * 7 % 60, 10 + tick * 11 % 80);
        attribution.add_span(0, span(start, start + a_ms));
        attribution.add_span(1, span(start, start + b_ms));
        joules += 0.2 + 0.001 * (5 * a_ms + b_ms) as f64;
        read(&mut attribution, start + 100, joules);
    }
    let estimates = close(&mut attribution);
    for (estimate, watts) in estimates.iter().zip([5.0, 1.0]) {
        assert_eq!(estimate.status, Status::Attributed);
        assert!(estimate.reason.as_ref().unwrap().contains("by a fit over"), "{estimate:?}");
        let busy_s = estimate.busy_fraction.unwrap() * estimate.window_s.unwrap();
        let found = estimate.net_j.unwrap() * estimate.inferences.unwrap() / busy_s;
        assert!((found - watts).abs() < 0.05, "{found} W, not {watts}: {estimate:?}");
        assert!(estimate.net_expanded_j.unwrap() > 0.0);
    }
    let total: f64 = estimates.iter().filter_map(|estimate| estimate.energy_j).sum();
    assert!((total - (joules - 20.0)).abs() < 0.01, "{total}");
}

#[test]
fn other_programs_make_it_attributed_and_are_named() {
    let mut attribution = new_attribution(1);
    attribution.set_other_cpu_time(Some(Duration::from_secs(100)));
    rest(&mut attribution);
    close(&mut attribution);
    attribution.add_span(0, span(10_100, 10_200));
    attribution.set_other_cpu_time(Some(Duration::from_millis(100_300)));
    read(&mut attribution, 11_000, 25.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!(estimate.status, Status::Attributed);
    let reason = estimate.reason.unwrap();
    // The last 0.1 s of the idle time may have been before an inference, so it counts as active.
    assert!(reason.contains("other programs used 0.27 cores more while inferences ran"), "{reason}");
}

#[test]
fn snapshots_that_hit_no_inference_leave_its_energy_open() {
    let resolution = Resolution::Sampled { conversion: Duration::from_micros(532), quantum: Watts(0.002) };
    let mut attribution = new_attribution(1);
    for tick in 0..100u64 {
        let (time, joules) = (MonoTime(tick * 100 * MS), Joules(0.2 * tick as f64));
        let (power, accuracy) =
            (Some(Watts(2.0)), Accuracy { resolution, scale: Scale { gain_error: Some(0.01), offset_w: 0.0 } });
        attribution.add_span(0, span_ns(tick * 100 * MS + 50 * MS, tick * 100 * MS + 51 * MS));
        attribution.add_reading(
            0,
            Ok(Reading { time, joules, power, volts: None, amperes: None, scope: Scope::Board, accuracy }),
        );
    }
    let estimate = close(&mut attribution).remove(0);
    assert_eq!((estimate.status, estimate.net_j), (Status::Attributed, None));
    assert!(estimate.reason.as_ref().unwrap().contains("about 1 of 100 snapshots of the sensor fell on inferences"));
    // What an inference of 1 ms may add is left open: four times 2 W.
    let open_j = 8.0 * 0.001 / 3f64.sqrt();
    assert!((estimate.gross_u_j.unwrap() / open_j - 1.0).abs() < 0.05, "{estimate:?}");
    assert_eq!(estimate.systematic_rel, Some(0.01));
}

#[test]
fn errors_of_scale_are_in_the_uncertainty_and_no_longer_window_is_awaited_for_them() {
    let settings =
        Settings { target_rel: 0.01, window_max: Duration::from_secs(3600), idle: Some(Watts(2.0)), idle_error: 0.0 };
    let estimate = |scale: Scale| {
        let mut attribution = Attribution::new(1, vec![info(false)], settings);
        for second in 0..=20u64 {
            let accuracy = Accuracy { scale, ..accuracy() };
            let (time, joules) = (MonoTime(second * 1000 * MS), Joules(3.0 * second as f64));
            let scope = Scope::Package;
            let reading = Reading { time, joules, power: None, volts: None, amperes: None, scope, accuracy };
            attribution.add_span(0, span(second * 1000 + 100, second * 1000 + 600));
            attribution.add_reading(0, Ok(reading));
        }
        close(&mut attribution).remove(0)
    };
    let unknown = estimate(Scale::UNKNOWN);
    assert_eq!((unknown.uncertainty, unknown.gross_systematic_j), (Some(Includes::NoScale), None));
    assert_eq!(unknown.gross_u_j, unknown.gross_statistical_j);
    let known = estimate(Scale { gain_error: Some(0.05), offset_w: 0.1 });
    assert!(known.closed && known.uncertainty == Some(Includes::Scale), "{known:?}");
    // 3 J an inference, of which 5 % and 0.1 W in a second may be wrong.
    let gross_j = (0.15f64).hypot(0.1) / 3f64.sqrt();
    assert!((known.gross_systematic_j.unwrap() / gross_j - 1.0).abs() < 0.01, "{known:?}");
    let (statistical_j, systematic_j) = (known.net_statistical_j.unwrap(), known.net_systematic_j.unwrap());
    assert!((known.net_u_j.unwrap() - statistical_j.hypot(systematic_j)).abs() < 1e-12, "{known:?}");
    assert_eq!(known.net_expanded_j, known.net_u_j.map(|u_j| 2.0 * u_j));
    // Another meter has given idle power, so the offset does not cancel in net.
    assert!(systematic_j > 0.05 / 3f64.sqrt(), "{known:?}");
}
