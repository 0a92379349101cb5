//! What follows an inference, and idle power that changes: in net with its uncertainty, or not called measured.

use super::*;
use crate::energy::tail::{Rest, Tail};

const SETTINGS: Settings =
    Settings { target_rel: 0.0, window_max: Duration::from_secs(60), idle: None, idle_error: 0.0 };

/// A machine at `watts(seconds, seconds since the last inference)`, read each 10 ms; from 20 s to 80 s, an inference of
/// 10 ms at 5 W more each `period_ms`. The last estimate.
fn after(period_ms: u64, watts: impl Fn(f64, f64) -> f64) -> EnergyEstimate {
    after_with(SETTINGS, period_ms, watts)
}

fn after_with(settings: Settings, period_ms: u64, watts: impl Fn(f64, f64) -> f64) -> EnergyEstimate {
    let mut attribution = Attribution::new(1, vec![info(false)], settings);
    let (mut joules, mut last_end_ms) = (0.0, None);
    let mut estimate = None;
    for tick in 1..=8000u64 {
        let now_ms = tick * 10;
        let is_busy = now_ms > 20_000 && now_ms % period_ms == 0;
        let since_s = last_end_ms.map_or(f64::INFINITY, |end: u64| (now_ms - 10 - end) as f64 / 1e3);
        joules += 0.01 * (watts(now_ms as f64 / 1e3, since_s) + if is_busy { 5.0 } else { 0.0 });
        if is_busy {
            attribution.add_span(0, span(now_ms - 10, now_ms));
            last_end_ms = Some(now_ms);
        }
        read(&mut attribution, now_ms, joules);
        if tick % 1000 == 0 {
            estimate = attribution.estimates().remove(0).pop();
        }
    }
    estimate.unwrap()
}

#[test]
fn a_tail_is_part_of_net_and_a_figure_of_its_own() {
    let estimate = after(1000, |_, since_s| if since_s < 0.2 { 3.5 } else { 3.0 });
    assert_eq!((estimate.status, &estimate.reason), (Status::Measured, &None));
    let (net_j, u_j) = (estimate.net_j.unwrap(), estimate.net_expanded_j.unwrap());
    // The tail of the last one comes after the end.
    assert!((net_j - 0.05 - 0.1 * 59.0 / 60.0).abs() <= u_j && u_j < 0.03, "{estimate:?}");
    let (tail_j, tail_u_j) = (estimate.tail_j.unwrap(), estimate.tail_u_j.unwrap());
    assert!((tail_j - 0.1 * 59.0 / 60.0).abs() <= 2.0 * tail_u_j && tail_u_j < 0.01, "{estimate:?}");
    assert!((0.2..=0.5).contains(&estimate.tail_s.unwrap()), "{estimate:?}");
}

#[test]
fn without_a_tail_there_is_none() {
    let estimate = after(1000, |_, _| 3.0);
    assert_eq!((estimate.status, estimate.tail_s), (Status::Measured, Some(0.02)));
    assert!(estimate.tail_j.unwrap().abs() <= 2.0 * estimate.tail_u_j.unwrap() && estimate.tail_u_j.unwrap() < 1e-3);
}

#[test]
fn a_tail_that_outlasts_the_pauses_cannot_be_told_from_idle_power() {
    let estimate = after(200, |_, since_s| if since_s < 1.0 { 3.5 } else { 3.0 });
    assert_eq!((estimate.status, estimate.tail_j), (Status::Attributed, None));
    assert!(
        estimate.reason.as_ref().unwrap().contains("between inferences, power stays 0.500 W above"),
        "{estimate:?}"
    );
    // All of it is the inferences', or none.
    let (net_j, u_j) = (estimate.net_j.unwrap(), estimate.net_expanded_j.unwrap());
    assert!((net_j - 0.145).abs() <= u_j && (net_j - 0.05).abs() <= u_j, "{estimate:?}");
}

#[test]
fn idle_power_from_the_configuration_is_compared_with_what_the_pauses_show() {
    let settings = |watts: f64| Settings { idle: Some(Watts(watts)), ..SETTINGS };
    let tail = |_: f64, since_s: f64| if since_s < 0.2 { 3.5 } else { 3.0 };
    let right = after_with(settings(3.0), 1000, tail);
    assert_eq!((right.status, &right.reason), (Status::Measured, &None));
    assert!((right.net_j.unwrap() - 0.15).abs() < 0.003, "{right:?}");
    let wrong = after_with(settings(2.97), 1000, tail);
    assert_eq!(wrong.status, Status::Attributed);
    assert!(wrong.reason.as_ref().unwrap().contains("power stays 0.030 W above idle power"), "{wrong:?}");
    assert!((wrong.net_j.unwrap() - 0.15).abs() <= wrong.net_expanded_j.unwrap(), "{wrong:?}");
}

#[test]
fn a_step_of_idle_power_is_named_and_then_followed() {
    let at_45_s = |now_s: f64, _: f64| if now_s > 45.0 { 3.3 } else { 3.0 };
    let estimate = after(1000, at_45_s);
    assert_eq!(estimate.status, Status::Attributed, "the window has the step in it");
    assert!(estimate.reason.as_ref().unwrap().starts_with("idle power changed from 3.00 W to 3.30 W"), "{estimate:?}");
    assert!((estimate.net_j.unwrap() - 0.05).abs() <= estimate.net_expanded_j.unwrap(), "{estimate:?}");
    assert!((estimate.idle_w.unwrap() - 3.3).abs() < 0.01, "{estimate:?}");
}

#[test]
fn idle_power_that_was_not_seen_for_longer_than_it_was_watched_is_not_relied_on() {
    let estimate = after(10, |_, _| 3.0);
    assert_eq!(estimate.status, Status::Attributed);
    let reason = estimate.reason.unwrap();
    assert!(reason.starts_with("idle power was last seen ") && reason.contains("watched for"), "{reason}");
}

/// The state after pauses that have these watts above rest from 0, 0.02, 0.05, 0.1 and 0.2 s on, as far as they last.
fn state_after(pauses: &[&[f64]]) -> Rest {
    const BINS_S: [(f64, f64); 5] = [(0.0, 0.02), (0.02, 0.03), (0.05, 0.05), (0.1, 0.1), (0.2, 0.3)];
    let (mut tail, rest) = (Tail::default(), Some((3.0, 1e-3)));
    for pause in pauses {
        tail.start_pause(rest);
        for ((age_s, time_s), watts) in BINS_S.into_iter().zip(*pause) {
            tail.add(age_s, time_s, (3.0 + watts) * time_s);
        }
    }
    tail.start_pause(rest);
    tail.state()
}

#[test]
fn to_scatter_is_not_to_rest() {
    let scattering = |later: f64| [0.5, later];
    let pauses: Vec<[f64; 2]> = (0..6).map(|pause| scattering(if pause % 2 == 0 { 0.0 } else { 0.7 })).collect();
    let pauses: Vec<&[f64]> = pauses.iter().map(|pause| &pause[..]).collect();
    assert_eq!(state_after(&pauses), Rest::Unknown, "above rest at first, and later perhaps");
    let falling: &[f64] = &[0.5, 0.0];
    assert_eq!(state_after(&[falling; 8]), Rest::From(1));
}

#[test]
fn what_most_pauses_reach_must_be_known_first() {
    let (short, long): (&[f64], &[f64]) = (&[0.0, 0.0], &[0.0, 0.0, 0.3, 0.3]);
    assert_eq!(state_after(&[short, long, long, long, long, long]), Rest::Unknown);
    assert!(matches!(state_after(&[long; 6]), Rest::Unsettled { .. }));
}

#[test]
fn a_tail_that_was_seen_to_fall_is_not_forgotten_when_the_rest_scatters() {
    let quiet: &[f64] = &[0.5, 0.5, 0.5, 0.0, 0.0];
    let settled = state_after(&[quiet; 7]);
    assert_eq!(settled, Rest::From(4));
    let mut pauses = vec![quiet; 7];
    pauses.extend([&[0.5, 0.5, 0.5, 0.0, 9.0][..], &[0.5, 0.5, 0.5, 0.0, -9.0]]);
    assert_eq!(state_after(&pauses), settled);
}
