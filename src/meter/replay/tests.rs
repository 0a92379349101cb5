//! Traces, and their exact sums.

use proptest::prelude::*;

use super::super::tree::Tree;
use super::*;

fn columns(value: Value) -> Columns {
    let (delimiter, decimal) = (Delimiter::Comma, Decimal::Point);
    Columns { time: "time_s".to_owned(), time_unit: TimeUnit::S, value, scale: (1, 1), delimiter, decimal }
}

fn watts() -> Columns {
    columns(Value::Watts("power_w".to_owned()))
}

fn meter(tree: &Tree, columns: Columns) -> Replay {
    Replay::new("trace", &tree.path("trace.csv"), columns, Scope::Board)
}

fn trace(text: &str) -> Tree {
    Tree::new(&[("trace.csv", text)])
}

fn ms(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

#[test]
fn a_reading_is_the_latest_row_at_its_own_time() {
    let tree = trace("what,time_s,power_w\nx,100.0,2\nx,100.5,4\n\nx,\"101.0\",6\nx,102,6\n");
    let mut meter = meter(&tree, watts());
    let first = meter.read_at(ms(7000)).unwrap();
    assert_eq!((first.time, first.joules, first.power), (ms(7000), Joules(0.0), Some(Watts(2.0))));
    assert_eq!(meter.read_at(ms(7499)).unwrap(), first);
    let third = meter.read_at(ms(8600)).unwrap();
    assert_eq!((third.time, third.joules, third.power), (ms(8000), Joules(4.0), Some(Watts(6.0))));
    let last = meter.read_at(ms(9000)).unwrap();
    assert_eq!((last.time, last.joules, last.scope), (ms(9000), Joules(10.0), Scope::Board));
    assert_eq!(meter.read_at(ms(900_000)).unwrap(), last, "nothing is made up after the end");
    let detail = meter.info().detail.join("; ");
    assert!(detail.ends_with("trace.csv: 4 rows, 2.000 s, 10 J"), "{detail}");
}

#[test]
fn joules_count_from_the_first_row() {
    let tree = trace("time_s,energy_j\n0,70.5\n1,73\n4,73\n");
    let mut meter = meter(&tree, columns(Value::Joules("energy_j".to_owned())));
    assert_eq!(meter.read_at(ms(0)).unwrap().power, None);
    let second = meter.read_at(ms(1500)).unwrap();
    assert_eq!((second.time, second.joules, second.power), (ms(1000), Joules(2.5), Some(Watts(2.5))));
    assert_eq!(meter.read_at(ms(4000)).unwrap().power, Some(Watts(0.0)));
}

/// A made-up trace of a 5 V supply at 4 Hz: its total in exact integers, and the same bits however it is read.
#[test]
fn the_total_is_exact_and_the_same_bits_whenever_it_is_read() {
    let power_64ths = |i: u64| 160 + (i * 37) % 128;
    let rows: String = (0..4000).map(|i| format!("{},{}\n", i as f64 / 4.0, power_64ths(i) as f64 / 64.0)).collect();
    let tree = trace(&format!("time_s,power_w\n{rows}"));
    // Trapezoids: 1/4 s times half the sum of two 64ths of a watt.
    let total_512ths: u64 = (1..4000).map(|i| power_64ths(i - 1) + power_64ths(i)).sum();
    let run = |step_ms: u64| {
        let mut meter = meter(&tree, watts());
        let readings = (0..).map(|i| meter.read_at(ms(5000 + i * step_ms)).unwrap());
        let readings: Vec<_> = readings.take(usize::try_from(1_000_000 / step_ms + 2).unwrap()).collect();
        assert!(readings.windows(2).all(|pair| pair[0].joules <= pair[1].joules && pair[0].time <= pair[1].time));
        readings.last().unwrap().joules.0
    };
    for step_ms in [7, 100, 250, 999] {
        assert_eq!(run(step_ms).to_bits(), (total_512ths as f64 / 512.0).to_bits());
    }
}

#[test]
fn numbers_are_kept_to_the_billionth() {
    for (text, expected) in [
        ("0", 0),
        ("2.65", 2_650_000_000),
        ("+.5", 500_000_000),
        ("7.", 7_000_000_000),
        ("-0.1", -100_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("1700000000000000000", 1_700_000_000_000_000_000_000_000_000),
        ("0.0000000004999", 0),
        ("0.0000000005", 1),
        ("3.5e-3", 3_500_000),
        ("9E-10", 1),
        ("4e-10", 0),
        ("9e-11", 0),
        ("9e-300", 0),
        ("1.25e3", 1_250_000_000_000),
    ] {
        assert_eq!(billionths(text), Some(expected), "{text}");
    }
    for text in ["", "-", ".", "e3", "1e", "1,5", "0x10", "+-1", "1.2.3", "nan", "inf", "1e400", "1 2"] {
        assert_eq!(billionths(text), None, "{text}");
    }
}

proptest! {
    /// Every decimal of nine places that a number can have, against integers.
    #[test]
    fn a_sum_is_the_number_nearest_to_the_exact_one(
        rows in prop::collection::vec((1u64..3_000_000_000, 0u64..20_000_000_000), 2..60),
        epoch_s in 0u64..2_000_000_000,
    ) {
        let nano = |n: u64| format!("{}.{:09}", n / 1_000_000_000, n % 1_000_000_000);
        let (mut now, mut exact, mut text) = (epoch_s * 1_000_000_000, 0u128, "time_s,power_w\n".to_owned());
        for (index, (step, watts)) in rows.iter().enumerate() {
            // The largest step is not a gap for the others.
            let step = 600_000_000 + step / 1000;
            now += step;
            if index > 0 {
                exact += u128::from(rows[index - 1].1 + watts) * u128::from(step);
            }
            text += &format!("{},{}\n", nano(now), nano(*watts));
        }
        let tree = trace(&text);
        let mut meter = meter(&tree, watts());
        meter.read_at(ms(0)).unwrap();
        // Half attojoules to joules, as a decimal of 19 places.
        let expected: f64 = format!("{}e-19", exact * 5).parse().unwrap();
        prop_assert_eq!(meter.read_at(ms(1_000_000)).unwrap().joules.0.to_bits(), expected.to_bits());
    }
}

#[test]
fn a_gap_in_the_powers_is_not_joined_over() {
    let tree = trace("time_s,power_w\n0,2\n1,2\n2,2\n3,2\n9,2\n10,2\n");
    let mut meter = meter(&tree, watts());
    assert_eq!(meter.read_at(ms(0)).unwrap().joules, Joules(0.0));
    assert_eq!(meter.read_at(ms(8999)).unwrap().joules, Joules(6.0));
    let error = meter.read_at(ms(9000)).unwrap_err();
    assert!(matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("a gap before 9.000 s"));
    assert_eq!(meter.read_at(ms(10_000)).unwrap().joules, Joules(8.0));
}

#[test]
fn units_other_than_watts_and_joules_are_exact() {
    let played = |unit: ValueUnit, value: Value, rows: &str| {
        let tree = trace(rows);
        let mut meter = meter(&tree, Columns { scale: unit.scale(), ..columns(value) });
        meter.read_at(ms(0)).unwrap();
        meter.read_at(ms(1000)).unwrap().joules.0
    };
    let watts =
        |unit, value: &str| played(unit, Value::Watts("p".to_owned()), &format!("time_s,p\n0,{value}\n1,{value}\n"));
    assert_eq!(watts(ValueUnit::Milliwatt, "2500"), 2.5);
    assert_eq!(watts(ValueUnit::Microwatt, "2500004"), 2.500004);
    assert_eq!(watts(ValueUnit::Kilowatt, "0.0012"), 1.2);
    let joules =
        |unit, value: &str| played(unit, Value::Joules("e".to_owned()), &format!("time_s,e\n0,0\n1,{value}\n"));
    assert_eq!(joules(ValueUnit::WattHour, "0.001"), 3.6);
    assert_eq!(joules(ValueUnit::KilowattHour, "0.000001"), 3.6);
    assert_eq!(joules(ValueUnit::MilliwattHour, "0.1"), 0.36);
    assert_eq!(joules(ValueUnit::Microjoule, "1500000.4"), 1.5000004);
}

#[test]
fn units_of_time_other_than_seconds() {
    let tree = trace("t,p\n1700000000000,1\n1700000000250,1\n");
    let columns = columns(Value::Watts("p".to_owned()));
    let mut meter = meter(&tree, Columns { time: "t".to_owned(), time_unit: TimeUnit::Ms, ..columns });
    meter.read_at(ms(0)).unwrap();
    assert_eq!(meter.read_at(ms(250)).unwrap().joules, Joules(0.25));
}

#[test]
fn each_fault_of_a_trace_is_named_with_its_line() {
    for (text, part) in [
        ("", "trace.csv: read \"\", expected a header and two rows or more"),
        ("time_s,power_w\n0,1\n", "trace.csv: read \"\", expected a header and two rows"),
        ("time_s,watts\n0,1\n", "trace.csv:1: no column `power_w`; found: time_s, watts"),
        ("time_s,power_w\n0,1\n1,\n", "trace.csv:3: read \"\", expected a finite number"),
        ("time_s,power_w\n0,1\n1\n", "trace.csv:3: read \"\", expected a finite number"),
        ("time_s,power_w\n0,1\n1,inf\n", "trace.csv:3: read \"inf\", expected a finite number"),
        ("time_s,power_w\n0,1\n1,-0.1\n", "trace.csv:3: read \"-0.1\", expected watts of 0 or more"),
        ("time_s,power_w\n0,1\n\n0,1\n", "trace.csv:4: read \"0\", expected a time after that"),
        (
            "time_s,power_w,power_w\n0,1,2\n",
            "trace.csv:1: column `power_w` is there twice, as column 2 and as column 3",
        ),
        ("time_s;power_w\n0;1\n", "trace.csv:1: no column `time_s`; found: time_s;power_w"),
        ("\u{feff}# by hand\ntime_s,power_w\ns,W\n0,1\n\n1,x\n", "trace.csv:6: read \"x\", expected a finite"),
        ("time_s,power_w\n0,1\n1,\"2,5\"\n", "trace.csv:3: read \"2,5\", expected a finite number"),
        ("time_s,power_w\n5,1\n4,1\n", "trace.csv:3: read \"4\", expected a time after that"),
        ("time_s,power_w\nnan,1\n", "trace.csv:2: read \"nan\", expected a finite time"),
        ("time_s,power_w\n0,1\n1,1e10\n", "trace.csv:3: read \"1e10\", expected a finite number"),
    ] {
        let error = meter(&trace(text), watts()).read_at(ms(0)).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
    let tree = trace("time_s,energy_j\n0,2\n1,1\n");
    let error = meter(&tree, columns(Value::Joules("energy_j".to_owned()))).read_at(ms(0)).unwrap_err().to_string();
    assert!(error.contains("trace.csv:3: read \"1\", expected cumulative joules"), "{error}");
}

#[test]
fn a_file_that_is_not_there_or_none_is_an_error_and_a_mended_one_is_played() {
    let tree = Tree::new(&[]);
    let mut meter = meter(&tree, watts());
    assert!(meter.read_at(ms(0)).unwrap_err().to_string().contains("trace.csv: no such file"));
    std::fs::create_dir(tree.path("trace.csv")).unwrap();
    assert!(meter.read_at(ms(0)).unwrap_err().to_string().contains("trace.csv: not a regular file"));
    tree.remove("trace.csv");
    tree.write("trace.csv", "time_s,power_w\n0,1\n1,1\n");
    assert_eq!(meter.read_at(ms(500)).unwrap().time, ms(500));
}
