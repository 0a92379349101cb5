//! What other programs do: told apart from our own work, and no reason to stop learning idle power.

use super::*;

const SETTINGS: Settings =
    Settings { target_rel: 0.05, window_max: Duration::from_secs(60), idle: None, idle_error: 0.0 };

/// Ten readings a second; an inference of `busy_ms` each second from the 40th on. `other_s` tells the processor time of
/// others at a time in seconds, when ours is known. The last closed estimate.
fn after(seconds: u64, busy_ms: u64, other_s: impl Fn(f64, f64) -> f64) -> EnergyEstimate {
    let mut attribution = Attribution::new(1, vec![info(false)], SETTINGS);
    let (mut joules, mut ours_s, mut last) = (0.0, 0.0, None);
    for tick in 1..=10 * seconds {
        let now_s = tick as f64 / 10.0;
        joules += 0.3;
        if now_s > 40.0 && tick % 10 == 5 {
            attribution.add_span(0, span(tick * 100 - 99, tick * 100 - 99 + busy_ms));
            joules += busy_ms as f64 / 1e3 * 5.0;
            ours_s += busy_ms as f64 / 1e3;
        }
        attribution.set_other_cpu_time(Some(Duration::from_secs_f64(other_s(now_s, ours_s))));
        read(&mut attribution, tick * 100, joules);
        if tick % 100 == 0 {
            last = attribution.estimates().remove(0).pop().filter(|estimate| estimate.closed).or(last);
        }
    }
    last.unwrap()
}

#[test]
fn a_load_that_comes_and_stays_is_part_of_idle_power_then() {
    for rise_s in [1.5, 30.0] {
        let estimate = after(300, 20, |now_s, _| 0.05 * (now_s - rise_s).max(0.0));
        assert_eq!((estimate.status, &estimate.reason), (Status::Measured, &None), "rise at {rise_s} s");
        assert!(estimate.net_j.is_some() && estimate.idle_age_s.unwrap() < 5.0, "{estimate:?}");
    }
}

#[test]
fn the_kernels_ticks_are_no_other_programs() {
    for busy_ms in [3, 7, 15, 35, 55, 95] {
        // The kernel counts whole ticks of everybody, we know our own time exactly.
        let ticks = |_: f64, ours_s: f64| ((1000.0 + ours_s) * 100.0).floor() / 100.0 - ours_s;
        let estimate = after(300, busy_ms, ticks);
        assert!(estimate.reason.as_deref().is_none_or(|reason| !reason.contains("other programs")), "{estimate:?}");
    }
}

/// A reading each 10 ms and an inference of 10 ms and 50 mJ each 100 ms for a minute; others work in the tick `phase` of
/// each ten, and draw `core_w` then.
fn in_step(phase: u64, core_w: f64) -> EnergyEstimate {
    let mut attribution = Attribution::new(1, vec![info(false)], SETTINGS);
    let (mut joules, mut other_s) = (0.0, 100.0);
    let mut estimate = None;
    for tick in 1..=6000u64 {
        let is_busy = tick % 10 == phase;
        other_s += if is_busy { 0.01 } else { 0.0 };
        joules += 0.03 + if is_busy { 0.01 * core_w } else { 0.0 };
        if tick % 10 == 1 && tick > 2000 {
            attribution.add_span(0, span(tick * 10 - 10, tick * 10));
            joules += 0.05;
        }
        attribution.set_other_cpu_time(Some(Duration::from_secs_f64(other_s)));
        read(&mut attribution, tick * 10, joules);
        if tick % 1000 == 0 {
            estimate = attribution.estimates().remove(0).pop();
        }
    }
    estimate.unwrap()
}

#[test]
fn a_program_in_step_with_the_inferences_is_not_part_of_a_measured_net() {
    for (phase, core_w) in (0..10).flat_map(|phase| [(phase, 0.0), (phase, 3.0), (phase, 30.0)]) {
        let estimate = in_step(phase, core_w);
        let (off_j, u_j) = (estimate.net_j.unwrap() - 0.05, estimate.net_expanded_j.unwrap());
        assert!(off_j.abs() <= u_j, "{phase} {core_w}: {estimate:?}");
        assert_eq!(estimate.status, Status::Attributed);
        assert!(estimate.reason.is_some());
    }
}

#[test]
fn idle_power_goes_over_to_an_attribution_of_the_same_meter() {
    let learn = |attribution: &mut Attribution, from_ms: u64| {
        for tick in 0..200u64 {
            read(attribution, from_ms + tick * 100, tick as f64 * 0.3);
        }
    };
    let mut before = Attribution::new(1, vec![info(false)], SETTINGS);
    learn(&mut before, 0);
    let estimate_after = |same: bool| {
        let mut attribution = Attribution::new(2, vec![info(false)], SETTINGS);
        attribution.inherit_idle_power(&before, |name| same && name == "package");
        read(&mut attribution, 21_000, 0.0);
        attribution.add_span(0, span(21_000, 22_000));
        read(&mut attribution, 22_000, 8.0);
        close(&mut attribution).remove(0)
    };
    assert!((estimate_after(true).net_j.unwrap() - 5.0).abs() < 0.1);
    assert_eq!(estimate_after(false).net_j, None);
}

#[test]
fn other_programs_never_use_less_than_nothing() {
    // Others work at first, and then no more; idle power comes from the configuration.
    let settings = Settings { idle: Some(Watts(2.0)), ..SETTINGS };
    let mut attribution = Attribution::new(1, vec![info(false)], settings);
    let mut reasons = Vec::new();
    for tick in 1..=200u64 {
        let now_s = tick as f64 / 10.0;
        if tick > 20 && tick % 10 == 5 {
            attribution.add_span(0, span(tick * 100 - 99, tick * 100 - 89));
        }
        attribution.set_other_cpu_time(Some(Duration::from_secs_f64(now_s.min(2.0))));
        read(&mut attribution, tick * 100, now_s * 3.0);
        if tick > 25 && tick % 10 == 0 {
            reasons.extend(attribution.estimates().remove(0).pop().and_then(|estimate| estimate.reason));
        }
    }
    assert!(reasons.iter().all(|reason| !reason.contains("other programs used -")), "{reasons:?}");
}
