use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::meter::shared::SharedMeters;
use crate::meter::tree::Tree;
use crate::sys::cpu::Children;

const PERIOD: Duration = Duration::from_millis(100);

fn meters(text: &str) -> BTreeMap<String, MeterConfig> {
    toml::from_str(text).unwrap()
}

/// The sum called `board`, with what it adds up looked up, or the problems, one a line.
fn resolved(text: &str) -> Result<MeterConfig, String> {
    let meters = meters(text);
    let (key, mut checker) = (Key::new(&["m", "board"]), Checker::new(Path::new("")));
    let mut sum = meters["board"].clone();
    sum.check(&key, &mut checker);
    let surroundings = Surroundings::without_node(Path::new("/sys"), PERIOD);
    sum.resolve(&key, |name| meters.get(name).cloned(), &surroundings, &mut checker);
    let shown = |problems: Vec<crate::schema::Problem>| {
        problems.iter().map(|problem| format!("{}: {}\n", problem.key, problem.message)).collect()
    };
    checker.finish(Some(sum)).map_err(shown)
}

const RAILS: &str = "cpu.hwmon = { chip = 'ina3221', channel = 1, scope = 'device' }\n\
                     gpu.hwmon = { chip = 'ina3221', channel = 2, scope = 'device' }\n\
                     whole.hwmon = { chip = 'ina219' }\n\
                     package.rapl = {}\n\
                     again.rapl = { interface = 'powercap' }\n\
                     same.hwmon = { chip = 'ina3221', channel = 1, scope = 'device' }\n\
                     guess.estimate = { watts_per_core = 1.0, idle_watts = 1.0 }\n\
                     other.sum.of = ['cpu', 'gpu']\n";

#[test]
fn parts_that_are_unknown_or_overlap_are_refused() {
    assert!(resolved(&format!("{RAILS}board.sum.of = ['cpu', 'gpu', 'package']")).is_ok());
    for (sum, words) in [
        ("of = ['cpu']", "m.board.sum.of: name two meters or more"),
        ("of = ['cpu', 'gpu', 'cpu']", "m.board.sum.of.2: cpu is named twice"),
        ("of = ['cpu', 'npu']", "m.board.sum.of.1: there is no power.meters.npu"),
        ("of = ['cpu', 'other']", "m.board.sum.of.1: other is a sum itself"),
        ("of = ['cpu', 'board']", "m.board.sum.of.1: board is a sum itself"),
        ("of = ['cpu', 'whole']", "m.board.sum.of.1: whole covers the board, which includes"),
        ("of = ['cpu', 'guess']", "m.board.sum.of.1: guess covers the process"),
        ("of = ['cpu', 'gpu', 'same']", "m.board.sum.of.2: same and cpu measure the same"),
        ("of = ['package', 'again']", "m.board.sum.of.1: again and package measure the same"),
        ("of = ['cpu', 'gpu'], efficiency_error = 0.1", "m.board.sum.efficiency_error: it is the error of"),
        ("of = ['cpu', 'gpu'], scope = 'process'", "m.board.sum.scope: a sensor cannot cover the process"),
    ] {
        let problems = resolved(&format!("{RAILS}board.sum = {{ {sum} }}")).unwrap_err();
        assert!(problems.contains(words), "{words} in: {problems}");
    }
}

fn rail(tree: &Tree, number: u32, watts: &str) {
    tree.write(&format!("class/hwmon/hwmon0/power{number}_input"), watts);
}

#[test]
fn rails_add_up_and_each_is_read_once_for_both() {
    let tree = Tree::new(&[("class/hwmon/hwmon0/name", "ina3221\n")]);
    rail(&tree, 1, "2000000\n");
    rail(&tree, 2, "3000000\n");
    let sum = resolved(&format!("{RAILS}board.sum = {{ of = ['cpu', 'gpu'] }}")).unwrap();
    let surroundings = Surroundings {
        sysfs: tree.root().to_owned(),
        period: Duration::from_secs(3600),
        children: Children::default(),
        node: None,
        shared: SharedMeters::default(),
        corrections: BTreeMap::new(),
    };
    let MeterConfig::SumKeys(keys) = &sum else { panic!("{sum:?}") };
    let mut board = sum.kind().build("board", &surroundings);
    let mut cpu = surroundings.shared.reader("cpu", &keys.of.meters[0], &surroundings);
    let first = board.read().unwrap();
    assert_eq!((first.power, first.joules, first.scope), (Some(Watts(5.0)), Joules(0.0), Scope::Board));
    // The rail itself is not read again: it shows what the sum has seen.
    rail(&tree, 1, "7000000\n");
    assert_eq!(cpu.read().unwrap().power, Some(Watts(2.0)));
    // Until both have a new conversion, there is no new reading.
    let mut second = board.read().unwrap();
    while second.time == first.time {
        second = board.read().unwrap();
    }
    assert_eq!(second.power, Some(Watts(10.0)));
    // Between 5 and 10 W; on a busy machine, the parts are read at other times than the sum.
    let watts = second.joules.0 / second.time.since(first.time).as_secs_f64();
    assert!((2.5..20.0).contains(&watts), "{second:?} {first:?}");
    assert_eq!(board.info().detail[0], "the sum of cpu and gpu");
    assert_eq!(board.info().basis, ["cpu: hwmon of the device", "gpu: hwmon of the device"]);
    assert!(sum.kind().is_sensed() && sum.kind().can_calibrate());

    rail(&tree, 2, "garbage\n");
    let error = board.read().unwrap_err().to_string();
    assert!(error.contains("gpu: ") && error.contains("read \"garbage\""), "{error}");
    rail(&tree, 2, "3000000\n");
    let after = board.read().unwrap();
    assert_eq!(after.joules, second.joules, "the energy between is not made up");
}

fn reading(ms: u64, joules: f64, watts: f64, resolution: Resolution, scale: Scale) -> Reading {
    let (time, power) = (MonoTime(ms * 1_000_000), Some(Watts(watts)));
    let accuracy = Accuracy { resolution, scale };
    let (joules, scope) = (Joules(joules), Scope::Device);
    Reading { time, joules, power, volts: Some(5.0), amperes: None, scope, accuracy }
}

fn total(readings: &[Reading]) -> PartsSum {
    let mut total = PartsSum { interval: Duration::from_secs(1), ..PartsSum::default() };
    readings.iter().for_each(|reading| total.add(reading));
    total
}

#[test]
fn the_coarsest_part_and_the_largest_gain_count() {
    let sampled = |ms, quantum| Resolution::Sampled { conversion: Duration::from_millis(ms), quantum: Watts(quantum) };
    let counter = |ms, quantum| Resolution::Counter { update: Duration::from_millis(ms), quantum: Joules(quantum) };
    let scale = |gain, offset_w| Scale { gain_error: gain, offset_w };
    let sensors = total(&[
        reading(1000, 0.0, 2.0, sampled(10, 0.03), scale(Some(0.01), 0.1)),
        reading(1004, 0.0, 3.0, sampled(30, 0.04), scale(Some(0.02), 0.2)),
    ]);
    let Accuracy { resolution, scale: together } = sensors.accuracy();
    let Resolution::Sampled { conversion, quantum } = resolution else { panic!("{resolution:?}") };
    assert_eq!(
        (sensors.power, sensors.middle(), conversion),
        (Some(5.0), MonoTime(1_002_000_000), Duration::from_millis(34))
    );
    assert!((quantum.0 - 0.05).abs() < 1e-12 && (together.offset_w - 0.3).abs() < 1e-12, "{quantum:?} {together:?}");
    assert_eq!(together.gain_error, Some(0.02));

    let counters = total(&[
        reading(1000, 0.0, 2.0, counter(1, 3e-5), scale(Some(0.01), 0.0)),
        reading(1000, 0.0, 3.0, counter(5, 4e-5), Scale::UNKNOWN),
    ]);
    let Accuracy { resolution, scale: together } = counters.accuracy();
    let Resolution::Counter { update, quantum } = resolution else { panic!("{resolution:?}") };
    assert!(update == Duration::from_millis(5) && (quantum.0 - 5e-5).abs() < 1e-15, "{resolution:?}");
    assert_eq!(together.gain_error, None);

    let mixed = total(&[
        reading(1000, 0.0, 2.0, counter(1, 0.4), Scale::UNKNOWN),
        reading(1000, 0.0, 3.0, sampled(10, 0.3), Scale::UNKNOWN),
    ]);
    let Resolution::Sampled { quantum, .. } = mixed.accuracy().resolution else { panic!("{mixed:?}") };
    assert!((quantum.0 - 0.5).abs() < 1e-12, "{quantum:?}");
    let model = |idle| Resolution::Model { idle };
    let with_model = |idle, other| {
        total(&[reading(1000, 0.0, 2.0, model(idle), Scale::UNKNOWN), reading(1000, 0.0, 3.0, other, Scale::UNKNOWN)])
            .accuracy()
            .resolution
    };
    assert_eq!(with_model(Some(Watts(1.0)), model(Some(Watts(2.0)))), model(Some(Watts(3.0))));
    assert_eq!(with_model(Some(Watts(1.0)), sampled(10, 0.3)), model(None));
}
