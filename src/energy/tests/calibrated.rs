//! Net energy from a calibration, where the window cannot tell it, and only there.

use super::*;
use crate::energy::Calibrated;
use crate::units::WallTime;

/// 2026-12-31 23:59 UTC.
const AT: WallTime = WallTime(1_798_761_599_000);

/// Of inferences that take a millisecond.
fn known() -> Option<Calibrated> {
    Some(Calibrated { net_j: 1e-3, u_j: 5e-5, busy_s: 1e-3, time: AT })
}

/// Ten seconds at 2 W, with an inference of a millisecond in each, as long as `settings` has it.
fn rare(settings: Settings, calibrated: Option<Calibrated>) -> EnergyEstimate {
    let mut attribution = Attribution::new(1, vec![info(false)], settings);
    attribution.set_calibrated(0, 0, calibrated);
    read(&mut attribution, 0, 0.0);
    for second in 1..=10 {
        attribution.add_span(0, span(second * 1000 - 500, second * 1000 - 499));
        read(&mut attribution, second * 1000, 2.0 * second as f64);
    }
    close(&mut attribution).remove(0)
}

#[test]
fn it_replaces_net_if_idle_power_is_unknown_or_net_is_below_its_uncertainty() {
    let at_two_watts = Settings { idle: Some(Watts(2.0)), ..EACH };
    for (settings, lack) in [
        (EACH, "too little idle time so far to know idle power"),
        (at_two_watts, "inferences are too short or too rare for this meter"),
    ] {
        let estimate = rare(settings, known());
        assert_eq!((estimate.status, estimate.net_j, estimate.net_u_j), (Status::Attributed, Some(1e-3), Some(5e-5)));
        assert_eq!((estimate.net_expanded_j, estimate.calibrated_at), (Some(1e-4), Some(AT)));
        let told = format!("net from the calibration of 2026-12-31 23:59 UTC: {lack}");
        assert_eq!(estimate.reason.as_deref(), Some(told.as_str()));
        let without = rare(settings, None);
        assert_eq!((without.status, without.calibrated_at), (Status::Measured, None));
        assert!(!without.reason.as_ref().unwrap().contains("calibration"), "{without:?}");
        // All else is as it was.
        let EnergyEstimate { status, reason, net_j, net_u_j, net_expanded_j, calibrated_at, .. } = estimate.clone();
        let EnergyEstimate { net_statistical_j, net_systematic_j, can_improve, .. } = estimate;
        let same = EnergyEstimate {
            status,
            reason,
            net_j,
            net_u_j,
            net_expanded_j,
            net_statistical_j,
            net_systematic_j,
            calibrated_at,
            can_improve,
            ..without.clone()
        };
        assert_eq!(same, estimate);
    }
    let written = serde_json::to_value(rare(EACH, known())).unwrap();
    assert_eq!(written["calibrated_at_ms"], 1_798_761_599_000u64);
}

#[test]
fn it_replaces_net_if_a_sensor_saw_too_little() {
    let resolution = Resolution::Sampled { conversion: Duration::from_micros(532), quantum: Watts(0.002) };
    for (readings, gross) in [(100u64, true), (8, false)] {
        let mut attribution = new_attribution(1);
        attribution.set_calibrated(0, 0, known());
        for tick in 0..readings {
            let (time, joules) = (MonoTime(tick * 100 * MS), Joules(0.2 * tick as f64));
            let (power, accuracy) = (Some(Watts(2.0)), Accuracy { resolution, scale: Scale::UNKNOWN });
            let (volts, amperes, scope) = (None, None, Scope::Board);
            attribution.add_span(0, span_ns(tick * 100 * MS + 50 * MS, tick * 100 * MS + 51 * MS));
            attribution.add_reading(0, Ok(Reading { time, joules, power, volts, amperes, scope, accuracy }));
        }
        let estimate = close(&mut attribution).remove(0);
        let reason = estimate.reason.as_ref().unwrap();
        assert_eq!((estimate.status, estimate.net_j), (Status::Attributed, Some(1e-3)), "{estimate:?}");
        assert_eq!(estimate.gross_j.is_some(), gross, "{estimate:?}");
        assert!(reason.contains("net from the calibration of 2026-12-31 23:59 UTC: "), "{reason}");
        assert!(reason.contains("snapshots of the sensor"), "{reason}");
    }
}

#[test]
fn what_is_measured_stays() {
    let mut attribution = new_attribution(1);
    attribution.set_calibrated(0, 0, known());
    rest(&mut attribution);
    for tick in 1..=20 {
        let start = 10_000 + tick * 100 - 80;
        attribution.add_span(0, span(start, start + 50));
        read(&mut attribution, 10_000 + tick * 100, 20.0 + 0.35 * tick as f64);
    }
    let estimate = close(&mut attribution).remove(0);
    assert_eq!(estimate.calibrated_at, None, "{estimate:?}");
    assert!((estimate.net_j.unwrap() - 0.15).abs() < 1e-3, "{estimate:?}");
}

#[test]
fn what_is_known_less_well_than_by_the_window_does_not_replace_it() {
    let at_two_watts = Settings { idle: Some(Watts(2.0)), ..EACH };
    let vague = known().map(|known| Calibrated { net_j: 0.1, u_j: 0.04, ..known });
    assert_eq!(rare(at_two_watts, vague).calibrated_at, None);
    // An inference takes a hundred times as long as in the calibration runs.
    let quick = known().map(|known| Calibrated { busy_s: 1e-5, ..known });
    assert_eq!(rare(at_two_watts, quick).calibrated_at, None);
    let estimate = rare(EACH, quick);
    assert!(estimate.net_expanded_j.unwrap() > 0.05, "any value is better than none: {estimate:?}");
    assert!(estimate.reason.unwrap().contains("an inference took 100.0 times as long as in the calibration"));
}

#[test]
fn windows_grow_as_without_it() {
    let closes = |calibrated: Option<Calibrated>, idle: Option<Watts>| {
        let settings = Settings { target_rel: 0.05, window_max: Duration::from_secs(8), idle, idle_error: 0.0 };
        let mut attribution = Attribution::new(1, vec![info(false)], settings);
        attribution.set_calibrated(0, 0, calibrated);
        read(&mut attribution, 0, 0.0);
        let closed = (1..=10).find(|second| {
            attribution.add_span(0, span(second * 1000 - 500, second * 1000 - 499));
            read(&mut attribution, second * 1000, 2.0 * *second as f64);
            close(&mut attribution).remove(0).closed
        });
        closed.unwrap()
    };
    for idle in [None, Some(Watts(2.0))] {
        assert_eq!(closes(known(), idle), closes(None, idle));
    }
    assert_eq!(closes(known(), Some(Watts(2.0))), 8, "a longer window may measure it");
}

#[test]
fn it_is_of_one_pipeline_and_one_meter_and_can_be_taken_back() {
    let mut attribution = Attribution::new(2, vec![info(false), info(false)], EACH);
    attribution.set_calibrated(1, 0, known());
    attribution.set_calibrated(0, 1, known());
    attribution.set_calibrated(0, 1, None);
    attribution.set_calibrated(7, 7, known());
    for meter in 0..2 {
        read_ns(&mut attribution, meter, 0, 0.0);
    }
    for pipeline in 0..2 {
        attribution.add_span(pipeline, span(100, 101));
    }
    for meter in 0..2 {
        read_ns(&mut attribution, meter, 1000 * MS, 2.0);
    }
    attribution.finish();
    let calibrated: Vec<Vec<bool>> = attribution
        .estimates()
        .iter()
        .map(|estimates| estimates.iter().map(|estimate| estimate.calibrated_at.is_some()).collect())
        .collect();
    assert_eq!(calibrated, [[false, false], [true, false]]);
}
