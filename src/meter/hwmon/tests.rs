//! The hwmon meter on fake trees.

use super::super::tree::Tree;
use super::channels::{Channel, candidates, channels};
use super::driver::{shunt, shunt_micro_ohms};
use super::*;
use crate::units::Joules;

const PERIOD: Duration = Duration::from_millis(100);

fn ina219() -> Tree {
    let tree = Tree::new(&[
        ("class/hwmon/hwmon0/name", "cpu_thermal\n"),
        ("class/hwmon/hwmon0/temp1_input", "48000\n"),
        ("class/hwmon/hwmon3/name", "ina219\n"),
        ("class/hwmon/hwmon3/in0_input", "6\n"),
        ("class/hwmon/hwmon3/in1_input", "5000\n"),
        ("class/hwmon/hwmon3/curr1_input", "600\n"),
        ("class/hwmon/hwmon3/power1_input", "3000000\n"),
        ("class/hwmon/hwmon3/power1_crit", "1\n"),
        ("class/hwmon/hwmon3/shunt_resistor", "10000\n"),
    ]);
    tree.link("class/hwmon/hwmon3/device", "../../../1-0040");
    tree
}

fn chip(chip: &str) -> HwmonKeys {
    HwmonKeys { chip: chip.to_owned(), device: None, channel: None, label: None, scope: Scope::Board }
}

fn meter(tree: &Tree, selector: HwmonKeys) -> Hwmon {
    Hwmon::new("board", tree.root(), selector, PERIOD)
}

fn read(meter: &mut Hwmon, ms: u64) -> Result<Reading, MeterError> {
    meter.total.assume_learned();
    meter.read_with(|| MonoTime((1000 + ms) * 1_000_000))
}

fn close_to(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn power_is_integrated_between_the_readings() {
    let tree = ina219();
    let mut meter = meter(&tree, chip("ina219"));
    let first = read(&mut meter, 1000).unwrap();
    assert_eq!((first.joules, first.power), (Joules(0.0), Some(Watts(3.0))));
    assert_eq!((first.volts, first.amperes, first.scope), (Some(5.0), Some(0.6), Scope::Board));
    tree.write("class/hwmon/hwmon3/power1_input", "5000000\n");
    assert!(close_to(read(&mut meter, 1100).unwrap().joules.0, 0.4));
    tree.write("class/hwmon/hwmon3/power1_input", "1000000\n");
    assert!(close_to(read(&mut meter, 1300).unwrap().joules.0, 1.0));
}

#[test]
fn the_shunt_and_its_default_are_told() {
    let tree = ina219();
    let mut meter = meter(&tree, chip("ina219"));
    read(&mut meter, 0).unwrap();
    let detail = meter.info().detail.join("; ");
    assert!(detail.contains("ina219 1-0040") && detail.contains("hwmon3: power1_input"), "{detail}");
    assert!(detail.contains("shunt 10000 uOhm; that is the kernel's default"), "{detail}");
    tree.write("class/hwmon/hwmon3/shunt_resistor", "100000\n");
    let folder = tree.path("class/hwmon/hwmon3");
    assert_eq!(shunt_micro_ohms(&folder, 1), Some(100_000));
    assert_eq!(shunt(&folder, 100_000), "shunt 100000 uOhm");
}

#[test]
fn without_power_it_is_voltage_times_current() {
    let tree = ina219();
    tree.remove("class/hwmon/hwmon3/power1_input");
    let mut meter = meter(&tree, HwmonKeys { device: Some("1-0040".to_owned()), ..chip("ina219") });
    read(&mut meter, 0).unwrap();
    let second = read(&mut meter, 100).unwrap();
    assert!(close_to(second.joules.0, 0.3) && close_to(second.power.unwrap().0, 3.0));
}

#[test]
fn a_long_gap_re_baselines_and_says_so() {
    let tree = ina219();
    let mut meter = meter(&tree, chip("ina219"));
    read(&mut meter, 0).unwrap();
    assert!(close_to(read(&mut meter, 500).unwrap().joules.0, 1.5));
    let error = read(&mut meter, 1001).unwrap_err();
    assert!(matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("0.5 s passed"), "{error}");
    assert!(close_to(read(&mut meter, 1101).unwrap().joules.0, 1.8));
}

#[test]
fn after_a_gap_the_reading_before_it_is_not_given_again() {
    let tree = ina219();
    tree.write("class/hwmon/hwmon3/update_interval", "140\n");
    let mut meter = meter(&tree, chip("ina219"));
    read(&mut meter, 0).unwrap();
    assert!(matches!(read(&mut meter, 2000), Err(MeterError::Rebaselined { .. })));
    assert!(matches!(read(&mut meter, 2010), Err(MeterError::NotYet { .. })), "the conversion was counted before");
    assert!(close_to(read(&mut meter, 2300).unwrap().joules.0, 0.9), "from 1.93 s to 2.23 s");
}

#[test]
fn current_that_flows_backwards_is_no_power() {
    let tree = ina219();
    tree.remove("class/hwmon/hwmon3/power1_input");
    tree.write("class/hwmon/hwmon3/shunt_resistor", "100000\n");
    tree.write("class/hwmon/hwmon3/curr1_input", "-7\n");
    let mut meter = meter(&tree, chip("ina219"));
    let error = read(&mut meter, 0).unwrap_err().to_string();
    assert!(error.contains("curr1_input") && error.contains("-0.007 A") && error.contains("shunt"), "{error}");
}

#[test]
fn an_absent_chip_lists_what_there_is() {
    let tree = ina219();
    let error = read(&mut meter(&tree, chip("ina226")), 0).unwrap_err();
    assert!(matches!(error, MeterError::Absent { .. }));
    let message = error.to_string();
    assert!(
        message.contains("no chip \"ina226\"; found: cpu_thermal (no device, hwmon0), ina219 (1-0040, hwmon3)"),
        "{message}"
    );
    let error =
        read(&mut meter(&tree, HwmonKeys { device: Some("1-0041".to_owned()), ..chip("ina219") }), 0).unwrap_err();
    assert!(error.to_string().contains("no chip \"ina219\" at 1-0041"), "{error}");
    let error = read(&mut meter(&tree, chip("cpu_thermal")), 0).unwrap_err();
    assert!(error.to_string().contains("does not measure energy"), "{error}");
    let error = read(&mut meter(&Tree::new(&[]), chip("ina219")), 0).unwrap_err();
    assert!(error.to_string().contains("found: none"), "{error}");
}

#[test]
fn two_chips_of_one_name_need_the_device() {
    let tree = ina219();
    tree.write("class/hwmon/hwmon4/name", "ina219\n");
    tree.write("class/hwmon/hwmon4/power1_input", "8000000\n");
    tree.link("class/hwmon/hwmon4/device", "../../../1-0041");
    let error = read(&mut meter(&tree, chip("ina219")), 0).unwrap_err();
    assert!(matches!(error, MeterError::Ambiguous { .. }));
    assert!(error.to_string().contains("ina219 (1-0040, hwmon3), ina219 (1-0041, hwmon4)"), "{error}");
    let mut second = meter(&tree, HwmonKeys { device: Some("1-0041".to_owned()), ..chip("ina219") });
    assert_eq!(read(&mut second, 0).unwrap().power, Some(Watts(8.0)));
}

#[test]
fn a_current_backwards_is_no_consumption() {
    let tree = ina219();
    tree.write("class/hwmon/hwmon3/shunt_resistor", "100000\n");
    let mut meter = meter(&tree, chip("ina219"));
    // The power register has no sign.
    tree.write("class/hwmon/hwmon3/curr1_input", "-600\n");
    let error = read(&mut meter, 0).unwrap_err().to_string();
    assert!(error.contains("curr1_input") && error.contains("-0.6 A") && error.contains("wired backwards"), "{error}");
    // What the last digits do is noise.
    tree.write("class/hwmon/hwmon3/curr1_input", "-2\n");
    assert_eq!(read(&mut meter, 100).unwrap().power, Some(Watts(0.0)));
    tree.write("class/hwmon/hwmon3/curr1_input", "600\n");
    assert_eq!(read(&mut meter, 200).unwrap().power, Some(Watts(3.0)));
}

#[test]
fn shunt_voltages_and_sums_are_no_channels() {
    let folder = "class/hwmon/hwmon1/";
    let tree = Tree::new(&[]);
    let values = [
        ("name", "ina3221"),
        ("in1_input", "5000"),
        ("in1_label", "VDD_IN"),
        ("in2_input", "5000"),
        ("in3_input", "5000"),
        ("in4_input", "25"),
        ("in7_input", "50"),
        ("in7_label", "sum of shunt voltages"),
        ("curr1_input", "500"),
        ("curr2_input", "400"),
        ("curr3_input", "100"),
        ("curr4_input", "1000"),
    ];
    values.iter().for_each(|(file, value)| tree.write(&format!("{folder}{file}"), value));
    let of = |channel| HwmonKeys { channel: Some(channel), ..chip("ina3221") };
    assert_eq!(meter(&tree, of(2)).read().unwrap().power, Some(Watts(2.0)));
    let error = meter(&tree, of(4)).read().unwrap_err().to_string();
    assert!(error.contains("no channel 4") && error.contains("voltages across the shunts"), "{error}");
    assert_eq!(
        candidates(tree.root()).iter().map(|keys| keys.channel).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
}

#[test]
fn voltage_and_current_of_one_supply_belong_together() {
    let found = |values: &[(&str, &str)]| {
        let tree = Tree::new(&[]);
        values.iter().for_each(|(file, value)| tree.write(file, value));
        let of = |channel: Channel| {
            let value = channel.power.or(channel.amperes).unwrap();
            format!("{value} {}", channel.volts.unwrap_or_default())
        };
        channels(tree.root()).unwrap().into_iter().map(of).collect::<Vec<_>>()
    };
    // A PMBus chip without a sensor of the input current.
    let pmbus = [
        ("in1_input", "12000"),
        ("in1_label", "vin"),
        ("in2_input", "1000"),
        ("in2_label", "vout1"),
        ("curr1_input", "5000"),
        ("curr1_label", "iout1"),
    ];
    assert_eq!(found(&pmbus), ["curr1_input in2_input"]);
    assert_eq!(found(&pmbus[..2]), Vec::<String>::new());
    assert_eq!(found(&[pmbus[0], pmbus[1], pmbus[4], pmbus[5]]), Vec::<String>::new());
    // A power supply whose numbers are shifted.
    let supply = [
        ("in1_input", "12000"),
        ("in1_label", "v_out +12v"),
        ("in2_input", "5000"),
        ("in2_label", "v_out +5v"),
        ("power1_input", "9"),
        ("power1_label", "power total"),
        ("power2_input", "5"),
        ("power2_label", "power +12v"),
        ("power3_input", "4"),
        ("power3_label", "power +5v"),
    ];
    assert_eq!(found(&supply), ["power1_input ", "power2_input in1_input", "power3_input in2_input"]);
    // Labels of one side only, or of one's own: the number decides.
    let own = [
        ("in1_input", "5"),
        ("in1_label", "VDD_IN"),
        ("curr1_input", "5"),
        ("in2_input", "5"),
        ("in2_label", "Core"),
        ("curr2_input", "5"),
        ("curr2_label", "CPU"),
    ];
    assert_eq!(found(&own), ["curr1_input in1_input", "curr2_input in2_input"]);
}

#[test]
fn several_channels_need_the_label() {
    let tree = Tree::new(&[("class/hwmon/hwmon0/name", "ina3221\n")]);
    for (number, label, ma) in [(1, "VDD_IN", "1000"), (2, "VDD_CPU", "200"), (3, "VDD_SOC", "300")] {
        tree.write(&format!("class/hwmon/hwmon0/in{number}_input"), "5000\n");
        tree.write(&format!("class/hwmon/hwmon0/in{number}_label"), label);
        tree.write(&format!("class/hwmon/hwmon0/curr{number}_input"), ma);
    }
    tree.write("class/hwmon/hwmon0/in4_input", "10\n");
    let error = read(&mut meter(&tree, chip("ina3221")), 0).unwrap_err();
    assert!(matches!(error, MeterError::Ambiguous { .. }));
    assert!(error.to_string().contains("curr1 (label VDD_IN), curr2 (label VDD_CPU)"), "{error}");
    let cpu = HwmonKeys { label: Some("VDD_CPU".to_owned()), ..chip("ina3221") };
    assert!(close_to(read(&mut meter(&tree, cpu), 0).unwrap().power.unwrap().0, 1.0));
    let soc = HwmonKeys { channel: Some(3), ..chip("ina3221") };
    assert!(close_to(read(&mut meter(&tree, soc), 0).unwrap().power.unwrap().0, 1.5));
    let gpu = HwmonKeys { label: Some("GPU".to_owned()), ..chip("ina3221") };
    let error = read(&mut meter(&tree, gpu), 0).unwrap_err();
    assert!(error.to_string().contains("no such channel; found: curr1 (label VDD_IN)"), "{error}");
}

#[test]
fn a_cumulative_counter_and_a_mean_come_before_a_snapshot() {
    let tree = Tree::new(&[
        ("class/hwmon/hwmon0/name", "gpu\n"),
        ("class/hwmon/hwmon0/power1_input", "9000000\n"),
        ("class/hwmon/hwmon0/power1_average", "4000000\n"),
        ("class/hwmon/hwmon0/power1_average_interval", "50\n"),
    ]);
    tree.write("class/hwmon/hwmon0/in2_input", "900\n");
    tree.write("class/hwmon/hwmon0/curr2_input", "100\n");
    assert_eq!(read(&mut meter(&tree, chip("gpu")), 0).unwrap().power, Some(Watts(4.0)));
    tree.write("class/hwmon/hwmon0/energy1_input", "5000000\n");
    let mut meter = meter(&tree, chip("gpu"));
    assert_eq!(read(&mut meter, 0).unwrap().power, None);
    tree.write("class/hwmon/hwmon0/energy1_input", "7000000\n");
    let second = read(&mut meter, 10_000).unwrap();
    assert_eq!((second.joules, second.power), (Joules(2.0), Some(Watts(0.2))));
    tree.write("class/hwmon/hwmon0/energy1_input", "100\n");
    assert!(matches!(read(&mut meter, 20_000), Err(MeterError::Rebaselined { .. })));
    tree.write("class/hwmon/hwmon0/energy1_input", "1000100\n");
    assert_eq!(read(&mut meter, 30_000).unwrap().joules, Joules(3.0));
}

/// A file that was removed stays readable here where the kernel says ENODEV, so the loss is shown by an empty one.
#[test]
fn unplugged_and_back_under_another_number() {
    let tree = ina219();
    let mut meter = meter(&tree, chip("ina219"));
    read(&mut meter, 0).unwrap();
    read(&mut meter, 100).unwrap();
    tree.write("class/hwmon/hwmon3/power1_input", "");
    tree.remove("class/hwmon/hwmon3");
    assert!(matches!(read(&mut meter, 200), Err(MeterError::Invalid { .. })));
    let error = read(&mut meter, 300).unwrap_err();
    assert!(error.to_string().contains("found: cpu_thermal"), "{error}");
    tree.write("class/hwmon/hwmon7/name", "ina219\n");
    tree.write("class/hwmon/hwmon7/power1_input", "2000000\n");
    assert!(close_to(read(&mut meter, 60_000).unwrap().joules.0, 0.3), "what was not seen is not made up");
    assert!(close_to(read(&mut meter, 60_100).unwrap().joules.0, 0.5));
}

/// Reads every `step_ms` from `from_ms` on, with what `value` gives for `power1_input` at each read.
fn observe(
    meter: &mut Hwmon,
    tree: &Tree,
    from_ms: u64,
    reads: u64,
    value: impl Fn(u64) -> i64,
) -> Vec<Result<Reading, MeterError>> {
    let one = |index: u64| {
        tree.write("class/hwmon/hwmon0/power1_input", &format!("{}\n", value(index)));
        read(meter, from_ms + index * 100)
    };
    (0..reads).map(one).collect()
}

fn chip_of(files: &[(&str, &str)]) -> Tree {
    let tree = Tree::new(&[]);
    files.iter().for_each(|(file, text)| tree.write(&format!("class/hwmon/hwmon0/{file}"), text));
    tree
}

fn noisy(index: u64) -> i64 {
    3_000_000 + (index as i64 * 7919) % 100_003
}

#[test]
fn how_long_a_conversion_takes_is_what_the_driver_shows() {
    let told = |name: &str, files: &[(&str, &str)]| {
        let tree = chip_of(&[("name", name), ("power1_input", "3000000")]);
        files.iter().for_each(|(file, text)| tree.write(&format!("class/hwmon/hwmon0/{file}"), text));
        let mut meter = meter(&tree, chip(name));
        let reading = read(&mut meter, 1000);
        let conversion = reading.ok().and_then(|reading| match reading.accuracy.resolution {
            Resolution::Sampled { conversion, .. } => Some(conversion.as_secs_f64() * 1e3),
            _ => None,
        });
        let _ = read(&mut meter, 1100);
        (conversion, meter.info().detail.last().unwrap().clone())
    };
    assert_eq!(told("ina219", &[]), (Some(0.532), "one conversion takes 0.5 ms (as known of this chip)".to_owned()));
    let ina226 = told("ina226", &[("update_interval", "141\n")]);
    assert_eq!(ina226, (Some(141.0), "one conversion takes 141 ms (update_interval)".to_owned()));
    let average = [("power1_average", "3000000"), ("power1_average_interval", "1000\n")];
    let told_average = told("power_meter", &average);
    assert_eq!(told_average, (Some(1000.0), "one conversion takes 1.0 s (power_average_interval)".to_owned()));
    assert_eq!(told("power_meter", &average[..1]).0, None, "it is learned");
}

#[test]
fn an_average_over_a_second_gives_a_reading_a_second() {
    let tree = chip_of(&[("name", "power_meter"), ("power1_average", "3000000"), ("power1_average_interval", "1000")]);
    tree.write("class/hwmon/hwmon0/power1_accuracy", "97.5%\n");
    let mut meter = meter(&tree, chip("power_meter"));
    let mut times = Vec::new();
    for index in 0..200 {
        tree.write("class/hwmon/hwmon0/power1_average", &format!("{}\n", noisy(index)));
        let reading = read(&mut meter, 1000 + index * 100).unwrap();
        assert_eq!(reading.accuracy.scale.gain_error, Some(0.025));
        times.push(reading.time);
    }
    times.dedup();
    assert!((20..=26).contains(&times.len()), "{}", times.len());
}

#[test]
fn a_changed_setting_of_the_driver_is_adopted() {
    let tree = chip_of(&[("name", "ina226"), ("power1_input", "3000000"), ("update_interval", "2")]);
    let mut meter = meter(&tree, chip("ina226"));
    observe(&mut meter, &tree, 1000, 10, noisy);
    tree.write("class/hwmon/hwmon0/update_interval", "1126\n");
    observe(&mut meter, &tree, 2000, 120, noisy);
    assert!(meter.info().detail.last().unwrap().starts_with("one conversion takes 1.1 s"), "{:?}", meter.info().detail);
}

#[test]
fn a_frozen_sensor_is_named_and_its_energy_is_lost() {
    let tree = chip_of(&[("name", "ina219"), ("power1_input", "0")]);
    let mut meter = meter(&tree, chip("ina219"));
    let before = observe(&mut meter, &tree, 1000, 100, noisy).pop().unwrap().unwrap();
    let frozen = observe(&mut meter, &tree, 11_000, 60, |_| 3_000_000);
    assert_eq!(frozen[15].as_ref().unwrap().time, frozen[0].as_ref().unwrap().time, "held back");
    let error = frozen[59].as_ref().unwrap_err().to_string();
    assert!(error.contains("the sensor has shown exactly 3.000 W for 5.9 s; before, it changed every "), "{error}");
    let after = observe(&mut meter, &tree, 17_000, 2, |index| noisy(index + 1));
    let lost = after[0].as_ref().unwrap().joules.0 - before.joules.0;
    assert!(lost < 0.31, "{lost} J of the time in which it was frozen");
}

#[test]
fn a_constant_sensor_stays_a_sensor() {
    let tree = chip_of(&[("name", "ina219"), ("power1_input", "0")]);
    let readings = observe(&mut meter(&tree, chip("ina219")), &tree, 1000, 100, |_| 2_500_000);
    let (first, last) = (readings[0].as_ref().unwrap(), readings[99].as_ref().unwrap());
    assert!(close_to(last.joules.0 - first.joules.0, 2.5 * 9.9), "it never showed noise");
}

#[test]
fn the_end_of_a_range_is_refused() {
    // 320 mV across 0.1 Ohm.
    let tree = chip_of(&[("name", "ina219"), ("power1_input", "16000000"), ("shunt_resistor", "100000")]);
    tree.write("class/hwmon/hwmon0/curr1_input", "3200\n");
    tree.write("class/hwmon/hwmon0/in1_input", "5000\n");
    let mut clipped = meter(&tree, chip("ina219"));
    let error = read(&mut clipped, 0).unwrap_err().to_string();
    assert!(error.contains("curr1_input: read \"3.2 A\"") && error.contains("end of its range"), "{error}");
    tree.write("class/hwmon/hwmon0/curr1_input", "3000\n");
    tree.write("class/hwmon/hwmon0/power1_input", "15000000\n");
    assert_eq!(read(&mut clipped, 100).unwrap().power, Some(Watts(15.0)));
}

#[test]
fn a_plateau_of_an_unknown_range_is_refused_and_its_time_lost() {
    let tree = chip_of(&[("name", "ltc2990"), ("power1_input", "0"), ("update_interval", "1")]);
    let mut meter = meter(&tree, chip("ltc2990"));
    let value = |index: u64| if index % 4 < 2 { 4_096_000 } else { noisy(index) };
    let readings = observe(&mut meter, &tree, 1000, 200, value);
    let refused = readings.iter().filter(|reading| reading.is_err()).count();
    assert!(refused > 60, "{refused}");
    let error = readings.iter().rev().find_map(|reading| reading.as_ref().err()).unwrap().to_string();
    assert!(error.contains("power1_input: read \"4.096 W\"") && error.contains("end of its range"), "{error}");
}

/// A battery shows what flows into it while it is charged.
#[test]
fn nut_2960_a_charging_battery_is_no_load() {
    let tree = chip_of(&[("name", "BAT0"), ("power1_input", "20000000"), ("update_interval", "1")]);
    tree.write("class/hwmon/hwmon0/device/type", "Battery\n");
    tree.write("class/hwmon/hwmon0/device/status", "Charging\n");
    let mut meter = meter(&tree, chip("BAT0"));
    let error = read(&mut meter, 0).unwrap_err().to_string();
    assert!(error.contains("device/status: read \"Charging\", expected Discharging"), "{error}");
    tree.write("class/hwmon/hwmon0/device/status", "Discharging\n");
    assert!(read(&mut meter, 500).is_err(), "it is read once a second");
    assert_eq!(read(&mut meter, 1500).unwrap().power, Some(Watts(20.0)));
    tree.write("class/hwmon/hwmon0/device/status", "Full\n");
    assert!(read(&mut meter, 3000).is_err());
}

#[test]
fn an_unknown_sensor_is_learned_first() {
    let tree = chip_of(&[("name", "other"), ("power1_input", "0")]);
    let mut meter = meter(&tree, chip("other"));
    let readings = observe(&mut meter, &tree, 1000, 60, noisy);
    assert!(matches!(readings[0], Err(MeterError::NotYet { .. })));
    assert!(readings[40..].iter().all(Result::is_ok));
    assert!(meter.info().detail.last().unwrap().contains("as its values show"), "{:?}", meter.info().detail);
}
