//! Meters that misbehave, under the real binary: what is then published of them, and that they come back by themselves.
//!
//! `power.sysfs` points the daemon at a fake tree, whose counters a thread moves at a known power.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use edgewatt_support::counters::{Counter, Mover, Tree};
use edgewatt_support::daemon::{Daemon, without_root_s_rights};
use edgewatt_support::meters::{Watch, number, setup};
use edgewatt_support::mosquitto::Mosquitto;
use nix::errno::Errno;
use serde_json::Value;

/// Of a 32-bit counter of 61.035 uJ, and where it then is at zero again.
const RANGE_UJ: u64 = 262_143_328_850;
const WRAP_UJ: u64 = RANGE_UJ + 61;

fn detail(info: &Value, meter: &str) -> String {
    let meters = info["meters"].as_array().unwrap();
    let found = meters.iter().find(|found| found["name"] == meter).unwrap_or_else(|| panic!("no {meter} in {info}"));
    found["detail"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// A file of this machine whose reads end with `errno`, as attributes of a device do whose driver refuses.
fn file_that_gives(errno: Errno, candidates: &[&'static str]) -> &'static str {
    let gives = |path: &&&str| {
        let error = File::open(path).and_then(|mut file| file.read(&mut [0; 32])).err();
        error.and_then(|error| error.raw_os_error()) == Some(errno as i32)
    };
    candidates.iter().find(gives).unwrap_or_else(|| panic!("none of {candidates:?} gives {errno} here"))
}

#[test]
fn absent_denied_refused_and_silent_meters_say_why_and_come_back_when_mended() {
    let tree = Tree::new(&[
        ("class/hwmon/hwmon1/name", "ina231\n"),
        ("class/hwmon/hwmon2/name", "ltc2945\n"),
        // A sensor whose value never changes, and of which nothing is known, is taken for a slow one.
        ("class/hwmon/hwmon2/update_interval", "35\n"),
        ("class/hwmon/hwmon3/name", "sbrmi\n"),
        ("class/hwmon/hwmon3/update_interval", "35\n"),
        ("class/hwmon/hwmon3/power1_input", "0\n"),
    ]);
    let einval = file_that_gives(Errno::EINVAL, &["/sys/class/net/lo/speed", "/proc/self/attr/keycreate"]);
    symlink(einval, tree.path("class/hwmon/hwmon1/power1_input")).unwrap();
    let eio = file_that_gives(Errno::EIO, &["/proc/self/mem"]);
    symlink(eio, tree.path("class/hwmon/hwmon2/power1_input")).unwrap();
    tree.zone("intel-rapl:0", "package-0", 0);
    let energy = tree.path("class/powercap/intel-rapl:0/energy_uj");
    let mover = Mover::start(vec![Counter::new(&energy, 5.0, 1_000_000, None)]);
    fs::set_permissions(&energy, Permissions::from_mode(0o000)).unwrap();

    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    let chips = [("gone", "ina226"), ("refused", "ina231"), ("broken", "ltc2945"), ("silent", "sbrmi")];
    let mut meters = "package.rapl = {}\n".to_owned();
    chips.iter().for_each(|(name, chip)| writeln!(meters, "{name}.hwmon = {{ chip = \"{chip}\" }}").unwrap());
    let setup = setup(broker.port, &tree, 100, &meters);
    let daemon = Daemon::start(without_root_s_rights(setup.command("run", &[])));

    watch.unavailable("package", 0, &["energy_uj: permission denied; ", "CVE-2020-8694", "chmod g+r"]);
    watch.unavailable("gone", 0, &["class/hwmon: no chip \"ina226\"; found: ina231", "load its driver"]);
    watch.unavailable("refused", 0, &["hwmon1/power1_input: Invalid argument (os error 22)"]);
    watch.unavailable("broken", 0, &["hwmon2/power1_input: Input/output error (os error 5)"]);
    let silent =
        watch.figure("silent", 0, |figure| figure["reason"].as_str().is_some_and(|r| r.contains("not change")));
    assert_eq!((&silent["status"], &silent["gross_j"]), (&"unavailable".into(), &Value::Null));

    let from = watch.mark();
    fs::set_permissions(&energy, Permissions::from_mode(0o444)).unwrap();
    tree.write("class/hwmon/hwmon9/power1_input", "2250000\n");
    tree.write("class/hwmon/hwmon9/name", "ina226\n");
    for chip in ["hwmon1", "hwmon2"] {
        tree.remove(&format!("class/hwmon/{chip}/power1_input"));
        tree.write(&format!("class/hwmon/{chip}/power1_input"), "4500000\n");
    }
    tree.write("class/hwmon/hwmon3/power1_input", "1250000");
    let package = watch.known("package", from, 5.0, &mover);
    assert_eq!((&package["kind"], &package["scope"]), (&"rapl".into(), &"package".into()));
    // It never failed, so its silence is in the window too.
    let mean_w = number(&watch.known_at_all("silent", from), "mean_w");
    assert!(mean_w > 0.0 && mean_w <= 1.25 + 1e-6, "{mean_w}");
    for (name, watts) in [("gone", 2.25), ("refused", 4.5), ("broken", 4.5)] {
        let figure = watch.known_exactly(name, from, watts);
        assert_eq!((&figure["kind"], &figure["scope"]), (&"hwmon".into(), &"board".into()));
    }
    watch.stop(daemon).says(&["readings are back meter=\"package\"", "readings are back meter=\"refused\""]);
}

#[test]
fn a_counter_wraps_unseen_stands_still_and_goes_on() {
    const WATTS: f64 = 8.0;
    let tree = Tree::new(&[]);
    // A wrap two seconds from now.
    let start_uj = RANGE_UJ - 16_000_000;
    tree.zone("intel-rapl:0", "package-0", start_uj);
    let energy = tree.path("class/powercap/intel-rapl:0/energy_uj");
    let mover = Mover::start(vec![Counter::new(&energy, WATTS, start_uj, Some(WRAP_UJ))]);

    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    let setup = setup(broker.port, &tree, 100, "package.rapl.interface = \"powercap\"");
    let daemon = setup.start(&[]);
    watch.known("package", 0, WATTS, &mover);
    let from = watch.mark();
    watch.power("package", from, |_| mover.wraps() == 1);
    let from = watch.mark();
    watch.known("package", from, WATTS, &mover);
    watch.power("package", watch.mark(), |_| true);

    // Nothing shows the wrap: the total grows on at the counter's power, and no figure is missing.
    let messages = watch.of_meter("package");
    assert!(messages.len() > 10, "{messages:?}");
    let slack_s = mover.lag().as_secs_f64() + 0.003;
    let mut first = None;
    for message in &messages {
        if let Some(reason) = message["reason"].as_str() {
            // A machine that stands still for a while moves no counter either.
            let is_still = reason.contains("stood still") || reason.contains("stuck");
            assert!(
                reason.contains("no reading yet") || is_still && mover.lag() > Duration::from_millis(20),
                "{message}"
            );
            first = None;
            continue;
        }
        let first = *first.get_or_insert(message);
        let grown_j = number(message, "energy_j") - number(first, "energy_j");
        let expected_j = WATTS * (number(message, "time_ms") - number(first, "time_ms")) / 1e3;
        assert!((grown_j - expected_j).abs() < WATTS * slack_s, "{grown_j} J, not {expected_j}: {message}");
    }

    mover.halt(true);
    watch.unavailable("package", from, &["energy_uj: stuck, no change in ", "virtual machines"]);
    let from = watch.mark();
    mover.halt(false);
    watch.known("package", from, WATTS, &mover);
    watch.stop(daemon).says(&["stuck, no change in", "readings are back"]);
}

#[test]
fn a_wrap_of_unknown_range_and_an_unplugged_meter_cost_only_their_own_windows() {
    const WATTS: f64 = 8.0;
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl:0", "package-0", 900_000_000);
    tree.remove("class/powercap/intel-rapl:0/max_energy_range_uj");
    let ina219 = |number: u32, watts: &str| {
        let chip = format!("class/hwmon/hwmon{number}");
        tree.write(&format!("{chip}/shunt_resistor"), "10000\n");
        tree.write(&format!("{chip}/in1_input"), "5000\n");
        tree.write(&format!("{chip}/curr1_input"), "600\n");
        tree.write(&format!("{chip}/power1_input"), watts);
        tree.write(&format!("{chip}/name"), "ina219\n");
    };
    ina219(0, "3000000\n");
    let energy = tree.path("class/powercap/intel-rapl:0/energy_uj");
    // Zero again after 2.5 s.
    let mover = Mover::start(vec![Counter::new(&energy, WATTS, 900_000_000, Some(920_000_000))]);

    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    // Slow enough for each reading, and each error, to be on the topic before the next.
    let setup = setup(broker.port, &tree, 200, "package.rapl = {}\nboard.hwmon = { chip = \"ina219\" }");
    let mut daemon = setup.start(&[]);
    let info = watch.find("/info", 0, |_| true);
    assert_has(
        &detail(&info, "package"),
        &["package-0 (intel-rapl:0), range unknown: the energy across a wrap is lost"],
    );
    let mend = format!("echo 100000 | sudo tee {}", tree.path("class/hwmon/hwmon0/shunt_resistor").display());
    assert_has(&detail(&info, "board"), &["shunt 10000 uOhm; that is the kernel's default", &mend]);
    daemon.in_log("the shunt's warning", |log| {
        log.lines().find(|line| line.contains("WARN") && line.contains("ten times") && line.contains(&mend)).map(|_| ())
    });
    watch.known("package", 0, WATTS, &mover);
    let board = watch.power("board", 0, |message| message["reason"].is_null());
    assert_eq!((&board["voltage_v"], &board["current_a"]), (&5.0.into(), &0.6.into()));
    watch.known_exactly("board", 0, 3.0);

    // A window goes on without the stretch that was lost, or begins after it.
    watch.power("package", 0, |message| {
        let reason = message["reason"].as_str().unwrap_or_default();
        reason.contains("energy since the last reading is unknown: package-0")
            && reason.contains("the counter went back")
    });
    let from = watch.mark();
    watch.known("package", from, WATTS, &mover);

    drop(mover);
    // The kernel refuses to read a file whose device is gone; here it has nothing in it then.
    tree.write("class/powercap/intel-rapl:0/energy_uj", "");
    tree.write("class/hwmon/hwmon0/power1_input", "");
    tree.remove("class/powercap");
    tree.remove("class/hwmon/hwmon0");
    watch.unavailable("package", from, &["class/powercap: the kernel shows no powercap zones; run: sudo modprobe"]);
    watch.unavailable("board", from, &["class/hwmon: no chip \"ina219\"; found: none"]);
    let from = watch.mark();
    ina219(4, "1500000\n");
    tree.zone("intel-rapl:0", "package-0", 7);
    let mover = Mover::start(vec![Counter::new(&energy, 2.0, 7, Some(WRAP_UJ))]);
    watch.known("package", from, 2.0, &mover);
    watch.known_exactly("board", from, 1.5);
    // In each of the three lives of the package's counter.
    let total: Vec<f64> = watch.of_meter("package").iter().filter_map(|message| message["energy_j"].as_f64()).collect();
    assert!(total.is_sorted(), "a total never falls: {total:?}");
    let ended = watch.stop(daemon);
    assert_eq!(ended.stderr.matches("ten times").count(), 1, "it is warned once:\n{}", ended.stderr);
}

#[test]
fn each_joule_of_two_packages_with_mirrored_dies_counts_once() {
    let tree = Tree::new(&[]);
    let zones = [
        ("intel-rapl:0", "package-0-die-0", 5.0),
        ("intel-rapl:0:0", "dram", 1.0),
        ("intel-rapl:0:1", "core", 3.0),
        ("intel-rapl:2", "package-1-die-0", 7.0),
        ("intel-rapl:2:0", "dram", 2.0),
    ];
    let mut counters = Vec::new();
    for (id, name, watts) in zones {
        tree.zone(id, name, 1_000_000);
        let energy = tree.path(&format!("class/powercap/{id}/energy_uj"));
        counters.push(Counter::new(&energy, watts, 1_000_000, Some(WRAP_UJ)));
    }
    // The same registers by another name: what moves one moves the other.
    let mirrors = [
        ("intel-rapl:1", "package-0-die-1", "intel-rapl:0"),
        ("intel-rapl:1:0", "dram", "intel-rapl:0:0"),
        ("intel-rapl:3", "package-1-die-1", "intel-rapl:2"),
        ("intel-rapl-mmio:0", "package-0", "intel-rapl:0"),
        ("intel-rapl-mmio:0:0", "dram", "intel-rapl:0:0"),
    ];
    for (id, name, of) in mirrors {
        tree.zone(id, name, 0);
        mirror(&tree, id, of);
    }
    let mover = Mover::start(counters);
    let (info, figure) = observe(&tree, 15.0, &mover);
    let detail = detail(&info, "package");
    assert_has(
        &detail,
        &[
            "package-0-die-0 (intel-rapl:0); ",
            "dram (intel-rapl:0:0); ",
            "package-1-die-0 (intel-rapl:2); ",
            "dram (intel-rapl:2:0); ",
            "left out: core (intel-rapl:0:1), inside its package",
            "left out: package-0 (intel-rapl-mmio:0), the same counter through MMIO",
            "left out: package-0-die-1 (intel-rapl:1), mirrors another die",
            "left out: dram (intel-rapl:1:0), mirrors another die",
            "left out: package-1-die-1 (intel-rapl:3), mirrors another die",
        ],
    );
    assert_eq!(detail.matches("left out").count(), mirrors.len() + 1, "{detail}");
    assert_eq!(figure["scope"], "package");
}

#[test]
fn psys_counts_alone_and_once() {
    let tree = Tree::new(&[]);
    let zones = [("intel-rapl:0", "package-0", 5.0), ("intel-rapl:0:0", "dram", 1.0), ("intel-rapl:1", "psys", 11.0)];
    let mut counters = Vec::new();
    for (id, name, watts) in zones {
        tree.zone(id, name, 0);
        let energy = tree.path(&format!("class/powercap/{id}/energy_uj"));
        counters.push(Counter::new(&energy, watts, 0, Some(WRAP_UJ)));
    }
    for (id, name, of) in
        [("intel-rapl-mmio:0", "package-0", "intel-rapl:0"), ("intel-rapl-mmio:1", "psys", "intel-rapl:1")]
    {
        tree.zone(id, name, 0);
        mirror(&tree, id, of);
    }
    let mover = Mover::start(counters);
    let (info, figure) = observe(&tree, 11.0, &mover);
    let detail = detail(&info, "package");
    assert!(detail.starts_with("psys (intel-rapl:1); left out"), "{detail}");
    assert_has(
        &detail,
        &[
            "left out: package-0 (intel-rapl:0), inside psys",
            "left out: dram (intel-rapl:0:0), inside psys",
            "left out: package-0 (intel-rapl-mmio:0), the same counter through MMIO",
            "left out: psys (intel-rapl-mmio:1), the same counter through MMIO",
        ],
    );
    assert_eq!(figure["scope"], "platform");
}

/// Makes a zone's counter another name of the file of the zone `of`.
fn mirror(tree: &Tree, id: &str, of: &str) {
    let counter = |id: &str| tree.path(&format!("class/powercap/{id}/energy_uj"));
    fs::remove_file(counter(id)).unwrap();
    fs::hard_link(counter(of), counter(id)).unwrap();
}

/// What a run says of the RAPL meter, and a figure of it, which must show `watts`.
fn observe(tree: &Tree, watts: f64, mover: &Mover) -> (Value, Value) {
    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    let setup = setup(broker.port, tree, 100, "package.rapl = {}");
    let daemon = setup.start(&[]);
    let info = watch.find("/info", 0, |_| true);
    let figure = watch.known("package", 0, watts, mover);
    watch.stop(daemon);
    (info, figure)
}

/// Ten thousandths of a watt in each row of the trace, which has one row every quarter of a second.
///
/// Made up, not recorded: what DeepEdgeBench's logs of a Raspberry Pi 4's 5 V supply say in the mean of idling (2.65 W)
/// and of MobileNetV2 int8 back to back (3.54 W, 127 ms, 452 mJ an inference gross and 114 mJ net), with a ripple that
/// cancels out. One second idle, 45 inferences in 5.75 s, one second idle.
fn pi4_running_mobilenet() -> Vec<u64> {
    let idle = [26_500, 26_731, 26_500, 26_269, 26_500];
    let ripple = [0, 417, -417, 153, -153, 608, -608, 89, -89, 311, -311, 0];
    let busy = (0..24).map(|row| (35_400 + ripple[row % 12]) as u64);
    idle.into_iter().chain(busy).chain(idle).collect()
}

/// Two columns, with the time since 1970 as loggers have it.
fn two_columns(watts: &[u64]) -> String {
    let row = |(index, watts): (usize, &u64)| {
        let cs = 160_024_320_010 + 25 * index as u64;
        format!("{}.{:02},{}.{:04}\n", cs / 100, cs % 100, watts / 10_000, watts % 10_000)
    };
    watts.iter().enumerate().map(row).collect()
}

/// The joules up to each row of a two-column trace of seconds and watts, by trapezoids in whole numbers.
fn exact_joules(rows: &str) -> Vec<f64> {
    let number = |text: &str, decimals: usize| -> u64 {
        let (whole, fraction) = text.split_once('.').unwrap();
        assert_eq!(fraction.len(), decimals, "{text}");
        format!("{whole}{fraction}").parse().unwrap()
    };
    let columns = |row: &str| row.split_once(',').map(|(time, watts)| (number(time, 2), number(watts, 4))).unwrap();
    let rows: Vec<(u64, u64)> = rows.lines().map(columns).collect();
    let mut total = 0;
    let mut joules = vec![0.0];
    for pair in rows.windows(2) {
        // Hundredths of a second by two powers in ten thousandths: half millionths of a joule.
        total += (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1);
        joules.push(format!("{}.{}e-6", total / 2, total % 2 * 5).parse().unwrap());
    }
    joules
}

#[test]
fn a_published_experiment_replayed_agrees_with_exact_arithmetic_to_the_last_digit_in_every_run() {
    let rows = two_columns(&pi4_running_mobilenet());
    let exact = exact_joules(&rows);
    // 2 s at 2.65 W, 5.75 s at 3.54 W, and between them twice a quarter of a second at their mean.
    assert_eq!(exact.last(), Some(&27.2025));
    let start = || {
        let broker = Mosquitto::running();
        let watch = Watch::of(&broker);
        let columns = "{ path = \"power.csv\", time = \"time_s\", watts = \"power_w\" }";
        // Windows at the pace of the inferences.
        let setup = setup(broker.port, &Tree::new(&[]), 20, &format!("trace.replay = {columns}"));
        let setup = setup.with("speed = 40.0 ", "speed = 7.826 ");
        setup.write("power.csv", format!("time_s,power_w\n{rows}").as_bytes());
        let daemon = setup.start(&[]);
        (broker, watch, setup, daemon)
    };
    for (broker, mut watch, _setup, daemon) in [start(), start()] {
        let figure = watch.known_at_all("trace", 0);
        assert!((2.6..3.7).contains(&number(&figure, "mean_w")), "{figure}");
        watch.power("trace", 0, |message| message["energy_j"].as_f64() > Some(27.2024));
        watch.stop(daemon);
        let published = watch.joules_of("trace");
        assert!(published.len() > 10 && published.is_sorted(), "{published:?}");
        for joules in published {
            assert!(exact.iter().any(|row| row.to_bits() == joules.to_bits()), "{joules} J are those of no row");
        }
        let last = broker.subscribe("edgewatt/demo/power/trace").retained();
        assert_has(&last[0], &["\"energy_j\":27.2025,"]);
    }
}
