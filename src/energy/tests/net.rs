//! Net energy, and the idle power that it is measured against.

use super::*;

#[test]
fn net_is_what_is_above_idle() {
    let mut attribution = new_attribution(1);
    rest(&mut attribution);
    let estimate = close_after_load(&mut attribution);
    let reason = "idle power was last seen 2.6 s before the end of a window of 12.0 s: it may have changed since";
    assert_eq!((estimate.status, estimate.reason.as_deref()), (Status::Attributed, Some(reason)));
    assert!(estimate.inferences == Some(20.0) && (estimate.busy_fraction.unwrap() - 1.0 / 12.0).abs() < 1e-9);
    assert!(
        (estimate.gross_j.unwrap() - 1.35).abs() < 1e-9 && (estimate.net_j.unwrap() - 0.15).abs() < 1e-3,
        "{estimate:?}"
    );
    let (u, expanded) = (estimate.net_u_j.unwrap(), estimate.net_expanded_j.unwrap());
    assert!(expanded == 2.0 * u && u > estimate.gross_u_j.unwrap() && expanded < 0.002, "{estimate:?}");
    assert!(
        (estimate.idle_w.unwrap() - 2.0).abs() < 1e-3 && estimate.idle_u_w.unwrap() >= estimate.idle_drift_w.unwrap()
    );
    assert!((2.0..3.0).contains(&estimate.idle_age_s.unwrap()), "{estimate:?}");
}

/// Inferences of 50 ms and 0.15 J each 100 ms, for 2 s, and the end of the window.
fn close_after_load(attribution: &mut Attribution) -> EnergyEstimate {
    for tick in 1..=20 {
        let start = 10_000 + tick * 100 - 80;
        attribution.add_span(0, span(start, start + 50));
        read(attribution, 10_000 + tick * 100, 20.0 + 0.2 * tick as f64 + 0.15 * tick as f64);
    }
    close(attribution).remove(0)
}

/// Idle power may be another one since the first inference, and nothing would show it.
#[test]
fn net_is_not_measured_if_power_was_not_seen_at_rest_in_the_window() {
    let mut attribution = new_attribution(1);
    rest(&mut attribution);
    close(&mut attribution);
    let estimate = close_after_load(&mut attribution);
    assert_eq!(estimate.status, Status::Attributed);
    assert_eq!(
        estimate.reason.unwrap(),
        "idle power was last seen 3 s ago, not in the window: it may have changed since"
    );
    assert!((estimate.net_j.unwrap() - 0.15).abs() < 1e-3);
}

/// Readings that wait for the end of an inference are discarded as those that were counted.
#[test]
fn what_was_metered_since_the_end_of_the_range_is_in_no_figure() {
    let mut attribution = new_attribution(1);
    read(&mut attribution, 0, 0.0);
    attribution.add_span(0, span(100, 200));
    read(&mut attribution, 1000, 2.0);
    attribution.add_span(0, span(1900, 2100));
    read(&mut attribution, 2000, 4.0);
    let reason = "at the end of the range".to_owned();
    attribution.add_reading(0, Err(MeterError::Overrange { reason, since: MonoTime(1_500 * MS) }));
    read(&mut attribution, 3000, 6.0);
    let estimate = close(&mut attribution).remove(0);
    assert_eq!(estimate.reason.as_deref(), Some("at the end of the range"), "{estimate:?}");
    assert_eq!((estimate.status, estimate.gross_j), (Status::Unavailable, None));
}

#[test]
fn without_idle_time_there_is_no_net_and_a_configured_idle_power_gives_one() {
    for idle in [None, Some(Watts(2.0))] {
        let mut attribution = Attribution::new(1, vec![info(false)], Settings { idle, ..EACH });
        read(&mut attribution, 0, 0.0);
        attribution.add_span(0, span(0, 1000));
        read(&mut attribution, 1000, 5.0);
        let estimate = close(&mut attribution).remove(0);
        assert_eq!(estimate.status, Status::Measured);
        match idle {
            None => assert!(estimate.net_j.is_none() && estimate.reason.unwrap().contains("too little idle time")),
            Some(_) => {
                // With the 1.5 mJ that the counter, 0.5 ms late on average, does not show yet.
                assert!((estimate.net_j.unwrap() - 3.0015).abs() < 1e-9, "{estimate:?}");
                assert_eq!((estimate.idle_w, estimate.idle_u_w, estimate.idle_age_s), (Some(2.0), None, None));
            }
        }
    }
}

#[test]
fn idle_power_is_kept_for_each_set_of_delegates() {
    let mut attribution = new_attribution(1);
    attribution.set_delegates("tpu");
    rest(&mut attribution);
    close(&mut attribution);
    let idle_w = |attribution: &mut Attribution, from_ms: u64, joules: f64| {
        attribution.add_span(0, span(from_ms + 10, from_ms + 90));
        read(attribution, from_ms + 100, joules);
        close(attribution).remove(0).idle_w
    };
    assert!(idle_w(&mut attribution, 10_000, 21.0).is_some());
    attribution.set_delegates("cpu");
    assert_eq!(idle_w(&mut attribution, 10_100, 22.0), None);
    attribution.set_delegates("tpu");
    assert!(idle_w(&mut attribution, 10_200, 23.0).is_some());
}
