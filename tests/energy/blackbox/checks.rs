//! The simulated machine itself: sums against sums by hand, and what its meters show.

use edgewatt_support::simulated::activity::{Activity, Kind};
use edgewatt_support::simulated::meter::{Counter, Held, Sensor};
use edgewatt_support::simulated::power::{Ledger, Power};
use edgewatt_support::simulated::{Description, Machine, Shown};
use tempfile::TempDir;

fn close_to(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

/// An activity with some inferences and programs, and its ledger.
fn machine(power: &Power) -> (TempDir, Activity, Ledger) {
    let folder = TempDir::new().unwrap();
    let activity = Activity::create(&folder.path().join("activity")).unwrap();
    for index in 0..5 {
        activity.during(Kind::Program, || std::thread::sleep(std::time::Duration::from_millis(1)));
        if index == 2 {
            activity.begin_load();
        }
        activity.during(Kind::Inference, || std::thread::sleep(std::time::Duration::from_millis(2)));
    }
    let ledger = Ledger::new(power.clone(), &activity);
    (folder, activity, ledger)
}

#[test]
fn energy_is_the_sum_over_all_that_ran() {
    let power = Power {
        idle_w: 3.0,
        inference_w: 2.0,
        tail_w: 0.5,
        tail_s: 0.0005,
        program_w: 0.9,
        step_w: 0.25,
        step_s: 0.001,
    };
    let (_folder, activity, ledger) = machine(&power);
    let spans = |kind| (0..).map_while(|index| activity.span(kind, index)).collect::<Vec<_>>();
    let (inferences, programs) = (spans(Kind::Inference), spans(Kind::Program));
    assert_eq!((inferences.len(), programs.len()), (5, 5));
    let (started, loaded) = (activity.started(), activity.loaded().unwrap());
    let end = inferences[4].1 + 1_000_000;
    for time in (started..end).step_by(100_000) {
        let busy = |spans: &[(u64, u64)]| {
            spans.iter().map(|(from, to)| time.min(*to).saturating_sub(*from)).sum::<u64>() as f64 / 1e9
        };
        // Programs work between the inferences for longer than a tail lasts.
        let tails = inferences.iter().map(|(_, end)| time.saturating_sub(*end).min(500_000)).sum::<u64>() as f64 / 1e9;
        let step_s = time.saturating_sub(loaded + 1_000_000) as f64 / 1e9;
        let joules = 3.0 * (time - started) as f64 / 1e9
            + 2.0 * busy(&inferences)
            + 0.5 * tails
            + 0.9 * busy(&programs)
            + 0.25 * step_s;
        assert!((ledger.joules(time) - joules).abs() < 1e-6, "{} {joules}", ledger.joules(time));
        let whole = inferences.iter().filter(|(_, to)| *to <= time).count() as f64;
        let part = inferences.iter().find(|(from, to)| (*from..*to).contains(&time));
        let part = part.map_or(0.0, |(from, to)| (time - from) as f64 / (to - from) as f64);
        assert!(close_to(ledger.inferences.before(time).count, whole + part));
    }
}

#[test]
fn a_running_inference_counts_before_it_has_ended() {
    let folder = TempDir::new().unwrap();
    let activity = Activity::create(&folder.path().join("activity")).unwrap();
    let power = Power { inference_w: 1.0, ..Power::default() };
    let mut ledger = Ledger::new(power, &activity);
    for _ in 0..2 {
        activity.during(Kind::Inference, || {
            ledger.update(&activity);
            let now = edgewatt::units::MonoTime::now().0;
            assert!(close_to(ledger.joules(now + 1_000_000_000) - ledger.joules(now), 1.0));
        });
        ledger.update(&activity);
        let now = edgewatt::units::MonoTime::now().0;
        assert!(close_to(ledger.joules(now + 1_000_000_000), ledger.joules(now)));
    }
}

#[test]
fn a_counter_shows_steps_wraps_stalls_and_resets() {
    let power = Power { idle_w: 1000.0, ..Power::default() };
    let (_folder, activity, ledger) = machine(&power);
    let loaded = activity.loaded().unwrap();
    let at = |s: f64| loaded + (s * 1e9) as u64;
    let counter = Counter { refresh_s: 0.1, step_j: 1.0, start_j: 7.0, range_j: 3000.0, ..Counter::default() };
    let shown = |counter: &Counter, s: f64| counter.shown_uj(&ledger, at(s)) as f64 / 1e6;
    for s in [0.5, 1.234, 2.9, 5.6] {
        let truth = (7.0 + ledger.joules(at(s))) % 3000.0;
        let behind = (truth - shown(&counter, s)).rem_euclid(3000.0);
        assert!((0.0..112.0).contains(&behind), "{behind}");
        assert!(close_to(shown(&counter, s).fract(), 0.0));
    }
    // From one update to the next it shows the same value.
    let values: std::collections::BTreeSet<u64> =
        (0..1000).map(|ms| counter.shown_uj(&ledger, at(0.001 * f64::from(ms)))).collect();
    assert!((10..=12).contains(&values.len()), "{values:?}");
    let stalls = Counter { refresh_s: 0.001, stalls_s: vec![(1.0, 1.5)], ..counter.clone() };
    assert!(
        close_to(shown(&stalls, 1.01), shown(&stalls, 1.49)) && shown(&stalls, 1.51) - shown(&stalls, 1.49) > 400.0
    );
    let reset = Counter { refresh_s: 0.001, reset_s: Some(2.0), ..counter };
    assert!(shown(&reset, 1.9) > 1000.0 && (shown(&reset, 2.5) - 500.0).abs() < 5.0, "{}", shown(&reset, 2.5));
}

#[test]
fn a_sensor_shows_the_mean_of_its_last_conversion() {
    let power = Power { idle_w: 3.0, ..Power::default() };
    let (_folder, activity, ledger) = machine(&power);
    let at = |s: f64| activity.loaded().unwrap() + (s * 1e9) as u64;
    let quiet = Sensor { noise_w: 0.0, ..Sensor::default() };
    let shown = |sensor: &Sensor, s: f64| sensor.shown_w(&ledger, at(s), &mut Held::default());
    assert!(close_to(shown(&quiet, 1.0), 3.0));
    assert!(close_to(shown(&Sensor { gain: 1.02, ..quiet.clone() }, 1.0), 3.06));
    assert!(close_to(shown(&Sensor { most_w: Some(2.5), ..quiet.clone() }, 1.0), 2.5));
    assert!(close_to(shown(&Sensor { fixed_w: Some(9.0), ..quiet.clone() }, 1.0), 9.0));
    let noisy = Sensor { noise_w: 0.1, ..quiet.clone() };
    let values: Vec<f64> = (0..4000).map(|index| shown(&noisy, 1.0 + 0.002 * f64::from(index))).collect();
    let mean_w = values.iter().sum::<f64>() / 4000.0;
    let scatter_w = (values.iter().map(|w| (w - mean_w).powi(2)).sum::<f64>() / 4000.0).sqrt();
    assert!((mean_w - 3.0).abs() < 0.01 && (scatter_w - 0.1).abs() < 0.01, "{mean_w} {scatter_w}");
    let frozen = Sensor { frozen_s: Some((1.0, 2.0)), ..noisy.clone() };
    assert!((0..9).all(|index| close_to(shown(&frozen, 1.01 + 0.1 * f64::from(index)), shown(&frozen, 1.01))));
    assert!(!close_to(shown(&frozen, 2.1), shown(&frozen, 1.01)));
    let (kept, mut held) = (Sensor { held_s: 0.5, ..noisy }, Held::default());
    let values = [1.0, 1.2, 1.499, 1.501].map(|s| kept.shown_w(&ledger, at(s), &mut held));
    assert!(close_to(values[0], values[2]) && !close_to(values[0], values[3]), "{values:?}");
}

#[test]
fn the_files_of_the_machine_have_the_units_of_the_kernel() {
    let power = Power { idle_w: 2.5, ..Power::default() };
    let (folder, activity, ledger) = machine(&power);
    let meter = edgewatt_support::simulated::meter::Meter::Sensor(Sensor { noise_w: 0.0, ..Sensor::default() });
    let description =
        Description { activity: folder.path().join("activity"), sysfs: folder.path().to_owned(), power, meter };
    let file = folder.path().join("machine.json");
    std::fs::write(&file, serde_json::to_vec(&description).unwrap()).unwrap();
    let (_, mut machine) = Machine::open(&file).unwrap();
    let now = activity.loaded().unwrap() + 1_000_000_000;
    let reads = activity.reads().len();
    assert_eq!(machine.text(Shown::Power, now, 0.0), "2500000\n");
    assert_eq!(machine.text(Shown::Current, now, 0.0), "500\n");
    assert_eq!(activity.reads()[reads..], [now]);
    let ticks = (100.0 * (1.5 + ledger.programs.before(now).busy_s)) as u64;
    assert!(machine.text(Shown::Stat, now, 1.5).starts_with(&format!("cpu  {ticks} 0 0 ")));
    assert_eq!(Shown::of("power1_input"), Some(Shown::Power));
    assert_eq!(Shown::of("name"), None);
}
