use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::content::{Quantities, Value, Values};
use super::*;
use crate::meter::{Accuracy, MeterConfig, Resolution, Scale, Scope};
use crate::schema::Checker;
use crate::units::{Joules, Watts};

const SECOND: Duration = Duration::from_secs(1);
const SIMPLE: &str = "command = ['meter'], column = { power = 1 }, period_s = 1.0";

fn keys(reader: &str) -> ReaderKeys {
    let meters: BTreeMap<String, MeterConfig> = toml::from_str(&format!("x.reader = {{ {reader} }}")).unwrap();
    match meters.into_values().next() {
        Some(MeterConfig::ReaderKeys(keys)) => keys,
        other => panic!("{other:?}"),
    }
}

/// The problems that the check finds, one a line.
fn problems(reader: &str) -> String {
    let mut checker = Checker::new(Path::new("/etc/edgewatt"));
    MeterConfig::ReaderKeys(keys(reader)).check(&Key::new(&["x"]), &mut checker);
    let problems = checker.finish(Some(())).err().unwrap_or_default();
    problems.iter().map(|problem| format!("{}: {}\n", problem.key, problem.message)).collect()
}

#[test]
fn what_is_missing_or_too_much_is_said() {
    assert_eq!(problems(SIMPLE), "");
    for (reader, words) in [
        ("column = { power = 1 }, period_s = 1.0", "x.reader: say where the values come from: exactly one of command"),
        (&format!("{SIMPLE}, path = '/dev/ttyS0'"), "exactly one of command, path and mqtt"),
        (
            "command = ['meter'], period_s = 1.0",
            "x.reader: say where in a line the values are: exactly one of json and",
        ),
        (&format!("{SIMPLE}, json = {{ power = '/p' }}"), "exactly one of json and column"),
        ("command = ['m'], column = { voltage = 1 }, period_s = 1.0", "x.reader.column: name the place of power"),
        (
            "command = ['m'], json = { power = 'ENERGY' }, period_s = 1.0",
            "x.reader.json.power: `ENERGY` is not a JSON pointer",
        ),
        ("command = ['m'], column = { power = 0 }, period_s = 1.0", "x.reader.column.power: 0 is out of range"),
        ("command = [], column = { power = 1 }, period_s = 1.0", "x.reader.command: name the program"),
        ("command = ['m', '|', 'x'], column = { power = 1 }, period_s = 1.0", "x.reader.command.1: `|` is for a shell"),
        (&format!("{SIMPLE}, query = 'MEAS?'"), "x.reader.query: it is written to a serial port only"),
        (&format!("{SIMPLE}, decimal = ','"), "x.reader.delimiter: numbers with a decimal comma cannot be told"),
        (&format!("{SIMPLE}, mean_s = 2.0"), "x.reader.mean_s: it is longer than period_s"),
        (&format!("{SIMPLE}, efficiency_error = 0.1"), "x.reader.efficiency_error: it is the error of efficiency"),
        (&format!("{SIMPLE}, efficiency = 1.1"), "x.reader.efficiency: 1.1 is out of range"),
        (&format!("{SIMPLE}, scope = 'platform'"), "x.reader.scope: a sensor cannot cover the platform"),
        ("mqtt = { topic = 'a/#/b' }, json = { power = '/p' }, period_s = 1.0", "x.reader.mqtt.topic: "),
        (
            "mqtt = { topic = 'a', user = 'u' }, json = { power = '/p' }, period_s = 1.0",
            "x.reader.mqtt.user: it is for another",
        ),
    ] {
        let problems = problems(reader);
        assert!(problems.contains(words), "{words} in: {problems}");
    }
}

fn readout(settings: &str) -> Readout {
    Readout::new(keys(settings).instrument(Watts(0.2)), Duration::from_millis(100), ms(0))
}

fn ms(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

fn power(watts: f64) -> Values {
    Quantities { power: Some(Value { number: watts, step: 0.1 }), ..Values::default() }
}

fn energy(joules: f64) -> Values {
    Quantities { energy: Some(Value { number: joules, step: 3.6 }), ..Values::default() }
}

#[test]
fn a_value_is_dated_back_by_half_its_mean_and_counts_once() {
    let mut readout = readout(SIMPLE);
    let error = readout.read(ms(900)).unwrap_err().to_string();
    assert!(error.contains("waiting for a value from program meter"), "{error}");
    readout.take(&power(3.0), ms(1000));
    let first = readout.read(ms(1050)).unwrap();
    assert_eq!((first.time, first.joules, first.power), (ms(500), Joules(0.0), Some(Watts(3.0))));
    let resolution = Resolution::Sampled { conversion: SECOND, quantum: Watts(0.1) };
    assert_eq!(first.accuracy, Accuracy { resolution, scale: Scale::UNKNOWN });
    assert_eq!(readout.read(ms(1150)).unwrap(), first, "nothing new was told");
    readout.take(&power(5.0), ms(2000));
    let second = readout.read(ms(2010)).unwrap();
    assert_eq!((second.time, second.joules), (ms(1500), Joules(4.0)));
}

#[test]
fn an_instrument_that_is_faster_than_the_readings_gives_means() {
    let fast = "command = ['m'], column = { voltage = 1, current = 2 }, period_s = 0.01";
    let mut readout = readout(fast);
    let step = |number, step| Some(Value { number, step });
    let flow = |amperes| Quantities { voltage: step(5.0, 0.01), current: step(amperes, 0.001), ..Values::default() };
    for (line, amperes) in [0.4, 0.6, 0.8].into_iter().enumerate() {
        readout.take(&flow(amperes), ms(10 + 10 * line as u64));
    }
    let reading = readout.read(ms(35)).unwrap();
    assert!((reading.power.unwrap().0 - 3.0).abs() < 1e-12 && reading.amperes == Some(0.8), "{reading:?}");
    assert_eq!(reading.time, ms(25));
    let Resolution::Sampled { conversion, quantum } = reading.accuracy.resolution else { panic!("{reading:?}") };
    assert_eq!(conversion, Duration::from_millis(30));
    assert!((quantum.0 - (5.0 * 0.001f64).hypot(0.8 * 0.01)).abs() < 1e-12);
    // A packet: its lines come at once.
    (0..4).for_each(|_| readout.take(&flow(0.2), ms(70)));
    let packet = readout.read(ms(75)).unwrap();
    assert_eq!(packet.accuracy.resolution.look_back(), Duration::from_millis(40));
    assert_eq!(packet.accuracy.scale, Scale::UNKNOWN);
}

#[test]
fn silence_ends_the_readings_and_what_follows_is_a_new_start() {
    let mut readout = readout(SIMPLE);
    readout.take(&power(3.0), ms(1000));
    assert!(readout.read(ms(1100)).is_ok() && readout.read(ms(6000)).is_ok());
    let error = readout.read(ms(6001)).unwrap_err().to_string();
    assert_eq!(error, "program meter: it has told nothing for 5.0 s; period_s = 1 says how often it does");
    readout.fail("it ended with exit code 3".to_owned());
    assert_eq!(readout.read(ms(7000)).unwrap_err().to_string(), "program meter: it ended with exit code 3");
    readout.take(&power(3.0), ms(9000));
    assert_eq!(readout.read(ms(9100)).unwrap().joules, Joules(0.0), "the energy between is not made up");
    readout.take(&power(3.0), ms(10_000));
    assert_eq!(readout.read(ms(10_100)).unwrap().joules, Joules(3.0));
}

#[test]
fn a_silence_between_two_readings_is_seen() {
    let mut readout = readout(SIMPLE);
    readout.take(&power(3.0), ms(1000));
    readout.read(ms(1100)).unwrap();
    readout.take(&power(3.0), ms(8000));
    let error = readout.read(ms(8100)).unwrap_err().to_string();
    assert!(error.contains("7.0 s passed between two lines"), "{error}");
}

#[test]
fn a_line_that_is_not_understood_is_shown_and_ends_nothing() {
    let mut readout = readout(SIMPLE);
    assert_eq!(readout.misread(b"booting\n", "a number of W".to_owned()), 1);
    let error = readout.read(ms(100)).unwrap_err().to_string();
    assert_eq!(error, "program meter: read \"booting\", expected a number of W (1 such line so far)");
    readout.take(&power(3.0), ms(1000));
    assert!(readout.read(ms(1100)).is_ok());
    assert_eq!(readout.misread(b"busy\n", "a number of W".to_owned()), 2);
    assert!(readout.read(ms(1200)).is_ok());
    let error = readout.read(ms(9000)).unwrap_err().to_string();
    assert!(error.contains("read \"busy\"") && error.contains("2 such lines so far"), "{error}");
}

#[test]
fn a_value_that_cannot_be_right_is_refused_and_loses_its_time() {
    let flow = |volts, amperes| Quantities {
        voltage: Some(Value { number: volts, step: 0.1 }),
        current: Some(Value { number: amperes, step: 0.1 }),
        ..Values::default()
    };
    for (values, words) in [
        (power(-3.0), "read -3 W, expected 0 or more; check whether it is wired backwards"),
        (power(4_294_967.0), "read 4294967 W, expected at most 10000 W; check units"),
        (flow(5.0, -0.6), "read -3 W, expected 0 or more"),
        (flow(2000.0, 0.1), "read 2000 V, expected 0 to 1000 V"),
    ] {
        let mut readout = readout(SIMPLE);
        readout.take(&power(3.0), ms(1000));
        readout.read(ms(1100)).unwrap();
        readout.take(&values, ms(2000));
        let error = readout.read(ms(2100)).unwrap_err().to_string();
        assert!(error.contains(words), "{words} in {error}");
        readout.take(&power(3.0), ms(3000));
        assert_eq!(readout.read(ms(3100)).unwrap().joules, Joules(0.0));
        // Within the offset it is none.
        readout.take(&power(-0.1), ms(4000));
        assert_eq!(readout.read(ms(4100)).unwrap().power, Some(Watts(0.0)));
    }
}

#[test]
fn a_counter_counts_when_it_changes() {
    let mut readout = readout("command = ['m'], json = { energy = '/e' }, period_s = 1.0");
    readout.take(&energy(7200.0), ms(1000));
    let first = readout.read(ms(1100)).unwrap();
    assert_eq!((first.time, first.joules, first.power), (ms(1000), Joules(0.0), None));
    assert_eq!(first.accuracy.resolution, Resolution::Counter { update: SECOND, quantum: Joules(3.6) });
    readout.take(&energy(7200.0), ms(2000));
    assert_eq!(readout.read(ms(2100)).unwrap(), first, "it has not changed");
    readout.take(&energy(7207.2), ms(4000));
    let second = readout.read(ms(4100)).unwrap();
    assert!((second.joules.0 - 7.2).abs() < 1e-9 && (second.power.unwrap().0 - 2.4).abs() < 1e-9, "{second:?}");
    let Resolution::Counter { update, .. } = second.accuracy.resolution else { panic!("{second:?}") };
    assert_eq!((second.time, update), (ms(4000), 2 * SECOND));
    readout.take(&energy(3.6), ms(5000));
    let error = readout.read(ms(5100)).unwrap_err().to_string();
    assert!(error.contains("the counter went back from 7207.2 J to 3.6 J"), "{error}");
    readout.take(&energy(10.8), ms(6000));
    let after = readout.read(ms(6100)).unwrap();
    readout.take(&energy(14.4), ms(7000));
    assert!((readout.read(ms(7100)).unwrap().joules.0 - after.joules.0 - 3.6).abs() < 1e-9);
    readout.take(&energy(1e9), ms(8000));
    assert!(readout.read(ms(8100)).unwrap_err().to_string().contains("more than 10000 W"));
}

/// The meter of the keys, with the time between readings that the daemon has by default.
fn meter(reader: &str) -> Box<dyn Meter> {
    Surroundings::without_node(Path::new("/sys"), Duration::from_millis(100))
        .build("plug", &MeterConfig::ReaderKeys(keys(reader)))
}

/// Reads until `holds`; returns that result.
fn wait(
    meter: &mut dyn Meter,
    what: &str,
    holds: impl Fn(&Result<Reading, MeterError>) -> bool,
) -> Result<Reading, MeterError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let result = meter.read();
        if holds(&result) {
            return result;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}: {result:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_program_is_read_while_it_runs_and_ends_with_the_meter() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    // It starts a child, which must not outlive the meter.
    let script = format!(
        "sleep 1000 & echo $! > {}; echo volts amps; while :; do echo 5.00 0.600; sleep 0.02; done",
        pid.display()
    );
    let mut meter = meter(&format!(
        "command = ['sh', '-c', '{script}'], column = {{ voltage = 1, current = 2 }}, delimiter = ' ', period_s = 0.02"
    ));
    let first = wait(meter.as_mut(), "a reading", Result::is_ok).unwrap();
    assert!((first.power.unwrap().0 - 3.0).abs() < 1e-9 && first.volts == Some(5.0), "{first:?}");
    let grown = |result: &Result<Reading, MeterError>| result.as_ref().is_ok_and(|reading| reading.joules.0 > 0.0);
    let second = wait(meter.as_mut(), "energy", grown).unwrap();
    let seconds = second.time.since(first.time).as_secs_f64();
    assert!((second.joules.0 / seconds - 3.0).abs() < 1e-6, "{second:?}");
    assert!(meter.info().detail.join("; ").contains("program sh tells power every 0.02 s"), "{:?}", meter.info());
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    drop(meter);
    let is_gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_gone() {
        assert!(Instant::now() < deadline, "the program's own child outlives the meter");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_program_that_ends_after_its_answer_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let script = format!(
        "n=$(cat {0} 2>/dev/null || echo 0); n=$((n+1)); echo $n > {0}; printf \"{{\\n \\\"total\\\": $n.0\\n}}\\n\"",
        count.display()
    );
    let mut meter =
        meter(&format!("command = [\"sh\", \"-c\", {script:?}], json = {{ energy = '/total' }}, period_s = 0.05"));
    let grown = |result: &Result<Reading, MeterError>| result.as_ref().is_ok_and(|reading| reading.joules.0 >= 2.0);
    let reading = wait(meter.as_mut(), "two more answers", grown).unwrap();
    assert_eq!(reading.joules.0.fract(), 0.0, "{reading:?}");
    let Resolution::Counter { quantum, .. } = reading.accuracy.resolution else { panic!("{reading:?}") };
    assert!((quantum.0 - 0.1).abs() < 1e-12, "{quantum:?}");
}

#[test]
fn a_program_that_is_missing_or_fails_says_so() {
    let says = |reader: &str, words: &str| {
        let mut meter = meter(reader);
        let has = |result: &Result<Reading, MeterError>| {
            result.as_ref().is_err_and(|error| error.to_string().contains(words))
        };
        wait(meter.as_mut(), words, has).unwrap_err();
    };
    let of = |command: &str| format!("command = {command}, column = {{ power = 1 }}, period_s = 0.05");
    says(&of("['no-such-meter']"), "program no-such-meter: there is no program `no-such-meter` in PATH");
    says(
        &of("['sh', '-c', 'echo out of order >&2; exit 3']"),
        "it ended with exit code 3; its last line on standard error: out",
    );
    says(&of("['true']"), "it ended, and printed nothing that is understood");
    says("mqtt = { topic = 'plug' }, json = { power = '/apower' }, period_s = 1.0", "the node has no MQTT broker");
}

#[test]
fn a_fifo_is_read_from_one_writer_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watts");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut meter =
        meter(&format!("path = '{}', column = {{ power = 1 }}, units.power = 'mW', period_s = 10.0", path.display()));
    meter.read().unwrap_err();
    for milliwatts in ["2500", "4000 mW"] {
        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(format!("{milliwatts}\n").as_bytes()).unwrap();
        drop(writer);
        let watts = Watts(milliwatts[..4].parse::<f64>().unwrap() / 1e3);
        let shows =
            |result: &Result<Reading, MeterError>| result.as_ref().is_ok_and(|reading| reading.power == Some(watts));
        wait(meter.as_mut(), milliwatts, shows).unwrap();
    }
}

/// The examples of docs/energy.md, by the name of their meter.
fn documented() -> BTreeMap<String, MeterConfig> {
    let text = include_str!("../../../docs/energy.md");
    let (_, section) = text.split_once("### Instruments of your own").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let blocks = section.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let meters = blocks.flat_map(|block| {
        let document: BTreeMap<String, BTreeMap<String, BTreeMap<String, toml::Table>>> =
            toml::from_str(block).unwrap();
        document["power"]["meters"].clone()
    });
    let kind = |(name, mut keys): (String, toml::Table)| {
        // These are not of the kind.
        for key in ["gain_error", "offset_error_w"] {
            keys.remove(key);
        }
        (name, keys.try_into().unwrap())
    };
    meters.map(kind).collect()
}

#[test]
fn the_documented_instruments_are_understood() {
    let meters = documented();
    let parse = |name: &str, line: &str| {
        let mut meter = meters.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", meters.keys())).clone();
        let mut checker = Checker::new(Path::new("/etc/edgewatt"));
        meter.check(&Key::new(&["power", "meters", name]), &mut checker);
        checker.finish(Some(())).unwrap();
        let MeterConfig::ReaderKeys(keys) = meter else { panic!("{name}") };
        keys.content().values(line.as_bytes()).unwrap()
    };
    let is = |value: Option<Value>, number: f64, step: f64| {
        let value = value.unwrap();
        assert!((value.number - number).abs() < 1e-6 && (value.step / step - 1.0).abs() < 1e-6, "{value:?}");
    };
    let shelly = "{\"id\":0,\"output\":true,\"apower\":4.3,\"voltage\":231.2,\"current\":0.041,\
                  \"aenergy\":{\"total\":1250.417,\"by_minute\":[71.2,70.9,71.0]},\"temperature\":{\"tC\":38.1}}";
    for name in ["shelly", "shelly_asked"] {
        let values = parse(name, shelly);
        is(values.energy, 1250.417 * 3600.0, 3.6);
        is(values.power, 4.3, 0.1);
    }
    let tasmota = "{\"Time\":\"2026-11-30T19:00:00\",\"ENERGY\":{\"Total\":12.34567,\"Power\":5,\"Voltage\":230,\"Current\":0.05}}";
    is(parse("tasmota", tasmota).energy, 12.34567 * 3.6e6, 36.0);
    let fnirsi = parse("usb", "1657568326.775 0 5.08123 0.61011 1.184 1.031 30.500 0.000000 0.000001");
    is(fnirsi.voltage, 5.08123, 1e-5);
    is(fnirsi.current, 0.61011, 1e-5);
    is(parse("usb_c", "0.25,5.0812,0.6101,3.1001").power, 3.1001, 1e-4);
    let bench = parse("bench", "+5.001000E+00;+6.120000E-01");
    is(bench.voltage, 5.001, 1e-6);
    is(bench.current, 0.612, 1e-7);
    is(parse("ups", "23").power, 23.0, 1.0);
}

#[test]
fn a_documented_sum_has_its_parts() {
    let meters = documented();
    let MeterConfig::SumKeys(sum) = &meters["board"] else { panic!("{meters:?}") };
    assert_eq!(sum.of.names, ["cpu", "gpu", "soc"]);
    for (name, label) in [("cpu", "VDD_CPU"), ("gpu", "VDD_GPU"), ("soc", "VDD_SOC")] {
        let MeterConfig::HwmonKeys(rail) = &meters[name] else { panic!("{name}") };
        assert_eq!((rail.label.as_deref(), rail.scope), (Some(label), Scope::Device));
    }
}

#[test]
fn nothing_is_started_to_examine_a_reader() {
    let machine = Machine { sysfs: Path::new("/sys"), dev: Path::new("/dev") };
    let says = |reader: &str| keys(reader).examine(&machine).unwrap().says;
    assert!(says("command = ['sh'], column = { power = 1 }, period_s = 1.0").ends_with("/sh can be started"));
    assert!(says(SIMPLE).contains("there is no program `meter`"));
    assert!(says("path = '/nowhere/tty', column = { power = 1 }, period_s = 1.0").contains("there is no /nowhere/tty"));
    let topic = "mqtt = { topic = 'plug', broker = 'mqtt://h' }, json = { power = '/p' }, period_s = 1.0";
    assert_eq!(says(topic), "subscribes to plug at the broker h:1883; `edgewatt doctor broker` tries it");
}
