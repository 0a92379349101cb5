//! The powercap zones on fake trees.

use super::super::tree::Tree;
use super::*;
use crate::meter::Resolution;
use crate::units::{Joules, Watts};

fn at(seconds: f64) -> MonoTime {
    MonoTime((seconds * 1e9) as u64)
}

fn read(meter: &mut Powercap, seconds: f64) -> Result<Reading, MeterError> {
    meter.total.assume_learned();
    meter.read_with(|| at(seconds))
}

fn joules(meter: &mut Powercap, seconds: f64) -> f64 {
    read(meter, seconds).unwrap().joules.0
}

fn laptop() -> Tree {
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl:0", "package-0", 1_000_000);
    tree.zone("intel-rapl:0:0", "core", 2_000_000);
    tree.zone("intel-rapl:0:1", "uncore", 3_000_000);
    tree.zone("intel-rapl:0:2", "dram", 4_000_000);
    tree.zone("intel-rapl-mmio:0", "package-0", 1_000_000);
    tree.write("class/powercap/intel-rapl/enabled", "1\n");
    tree
}

fn chosen(tree: &Tree) -> Vec<String> {
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    meter.zones.iter().map(|zone| zone.found.id.clone()).collect()
}

#[test]
fn each_reason_for_no_zone_has_its_own_words() {
    let refusal = |tree: &Tree| Powercap::new("package", tree.root()).read().unwrap_err().to_string();
    let tree = Tree::new(&[("class/powercap/intel-rapl/enabled", "1\n")]);
    assert!(refusal(&tree).contains("no zone of a processor") && refusal(&tree).contains("modprobe"));
    // In a container the links lead nowhere.
    tree.link("class/powercap/intel-rapl:0", "../../devices/virtual/powercap/intel-rapl/intel-rapl:0");
    let container = refusal(&tree);
    assert!(container.contains("intel-rapl:0: the zone is listed, but leads nowhere"), "{container}");
    assert!(container.contains("container") && !container.contains("modprobe"), "{container}");
    tree.write("class/powercap/intel-rapl:1", "a file");
    assert!(refusal(&tree).contains("leads nowhere"));
    // One that is there counts, whatever the others are.
    tree.zone("intel-rapl:2", "package-1", 1);
    assert!(read(&mut Powercap::new("package", tree.root()), 0.0).is_ok());
    let tree = Tree::new(&[("class/powercap/intel-rapl:0/name", "core\n")]);
    assert!(refusal(&tree).contains("no package, dram or psys zone"));
    assert!(refusal(&Tree::new(&[("class/hwmon/x", "")])).contains("the kernel shows no powercap zones"));
    assert!(refusal(&Tree::new(&[("x", "")])).contains("this is not sysfs, it has no folder class; set power.sysfs"));
    let missing = Powercap::new("package", Path::new("/nowhere/sys")).read().unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/sys: there is no such folder"), "{missing}");
}

#[test]
fn package_and_dram_are_summed_and_nothing_inside_or_twice() {
    let tree = laptop();
    let mut meter = Powercap::new("package", tree.root());
    let first = read(&mut meter, 10.0).unwrap();
    assert_eq!((first.joules, first.power, first.scope), (Joules(0.0), None, Scope::Package));
    for (id, energy_uj) in [
        ("intel-rapl:0", 6_000_000),
        ("intel-rapl:0:0", 90_000_000),
        ("intel-rapl:0:1", 90_000_000),
        ("intel-rapl:0:2", 5_000_000),
        ("intel-rapl-mmio:0", 6_000_000),
    ] {
        tree.energy(id, energy_uj);
    }
    let second = read(&mut meter, 12.0).unwrap();
    assert_eq!((second.joules, second.power), (Joules(6.0), Some(Watts(3.0))));
    let detail = meter.info().detail.join("; ");
    for part in
        ["package-0 (intel-rapl:0)", "left out: core (intel-rapl:0:0), inside", "intel-rapl-mmio:0), the same counter"]
    {
        assert!(detail.contains(part), "{part:?} in {detail}");
    }
}

#[test]
fn psys_counts_alone() {
    let tree = laptop();
    tree.zone("intel-rapl:1", "psys", 7);
    let mut meter = Powercap::new("package", tree.root());
    assert_eq!(read(&mut meter, 0.0).unwrap().scope, Scope::Platform);
    tree.energy("intel-rapl:0", 9_000_000);
    tree.energy("intel-rapl:1", 20_000_007);
    assert_eq!(joules(&mut meter, 1.0), 20.0);
}

#[test]
fn mmio_counts_where_it_is_all_there_is() {
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl-mmio:0", "package-0", 5);
    assert_eq!(chosen(&tree), ["intel-rapl-mmio:0"]);
}

#[test]
fn each_package_and_each_die_counts_once() {
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl:0", "package-0-die-0", 111);
    tree.zone("intel-rapl:0:0", "dram", 5);
    tree.zone("intel-rapl:1", "package-0-die-1", 111);
    tree.zone("intel-rapl:1:0", "dram", 5);
    tree.zone("intel-rapl:2", "package-1-die-0", 111);
    tree.zone("intel-rapl:3", "package-1-die-1", 222);
    tree.zone("intel-rapl:a", "package-2", 333);
    tree.zone("intel-rapl:b", "package-2", 333);
    tree.zone("intel-rapl:c", "package-3", 333);
    assert_eq!(
        chosen(&tree),
        ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:2", "intel-rapl:3", "intel-rapl:a", "intel-rapl:c"]
    );
}

#[test]
fn a_wrap_of_one_zone_does_not_show_in_the_sum() {
    let tree = laptop();
    tree.energy("intel-rapl:0", 262_143_000_000);
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    tree.energy("intel-rapl:0", 671_089);
    tree.energy("intel-rapl:0:2", 4_500_000);
    // 328,850 to the highest value, one unit of 61 to zero, 671,089 from there, and 500,000 of dram.
    assert!((joules(&mut meter, 1.0) - 1.5).abs() < 1e-9);
}

#[test]
fn a_missing_range_re_baselines_at_a_wrap_and_says_so() {
    let tree = laptop();
    tree.remove("class/powercap/intel-rapl:0/max_energy_range_uj");
    tree.energy("intel-rapl:0", 900_000_000);
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    assert!(
        meter
            .info()
            .detail
            .contains(&"package-0 (intel-rapl:0), range unknown: the energy across a wrap is lost".to_owned())
    );
    tree.energy("intel-rapl:0", 5);
    let error = read(&mut meter, 0.9).unwrap_err();
    assert!(matches!(error, MeterError::Rebaselined { .. }), "{error}");
    assert!(error.to_string().contains("package-0 (intel-rapl:0): the counter went back from 900000000 uJ to 5 uJ"));
    tree.energy("intel-rapl:0", 2_000_005);
    tree.energy("intel-rapl:0:2", 5_000_000);
    assert_eq!(joules(&mut meter, 1.5), 3.0);
}

#[test]
fn a_constant_package_is_stuck_not_zero_joules() {
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl:0", "package-0", 0);
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    assert_eq!(joules(&mut meter, 4.9), 0.0);
    for seconds in [5.0, 6.0, 400.0] {
        let error = read(&mut meter, seconds).unwrap_err();
        assert!(matches!(error, MeterError::Stuck { .. }), "{error}");
        assert!(error.to_string().contains("intel-rapl:0/energy_uj: stuck"), "{error}");
    }
    tree.energy("intel-rapl:0", 10);
    assert_eq!(joules(&mut meter, 401.0), 0.0, "what was counted meanwhile is unknown");
    tree.energy("intel-rapl:0", 20);
    assert_eq!(joules(&mut meter, 402.0), 0.00001, "it counts again");
}

#[test]
fn a_constant_dram_is_left_out_and_the_rest_goes_on() {
    let tree = laptop();
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    tree.energy("intel-rapl:0", 2_000_000);
    let error = read(&mut meter, 5.0).unwrap_err().to_string();
    assert!(error.contains("dram (intel-rapl:0:2) is left out from now on: it did not change for 5.0 s"), "{error}");
    assert_eq!(joules(&mut meter, 6.0), 0.0);
    tree.energy("intel-rapl:0", 5_000_000);
    assert_eq!(joules(&mut meter, 7.0), 3.0);
    assert!(meter.info().detail.contains(&"without memory: there is no dram zone that counts".to_owned()));
    assert!(meter.info().detail.contains(&"left out: dram (intel-rapl:0:2), does not count".to_owned()));
}

#[test]
fn a_constant_psys_gives_way_to_the_packages() {
    let tree = laptop();
    tree.zone("intel-rapl:1", "psys", 0);
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    assert!(matches!(read(&mut meter, 5.0), Err(MeterError::Rebaselined { .. })));
    assert_eq!(read(&mut meter, 6.0).unwrap().scope, Scope::Package);
}

#[test]
fn a_psys_that_counts_less_than_its_package_gives_way_to_it() {
    let tree = laptop();
    tree.zone("intel-rapl:1", "psys", 0);
    let mut meter = Powercap::new("package", tree.root());
    assert_eq!(read(&mut meter, 0.0).unwrap().scope, Scope::Platform);
    tree.energy("intel-rapl:0", 21_000_000);
    tree.energy("intel-rapl:1", 5_000_000);
    let error = read(&mut meter, 2.0).unwrap_err().to_string();
    assert!(
        error.contains("psys (intel-rapl:1) is left out from now on: it counted 5.0 J in 2.0 s, less than the 20.0 J"),
        "{error}"
    );
    assert_eq!((read(&mut meter, 3.0).unwrap().scope, meter.info().scope), (Scope::Package, Scope::Package));
    assert!(
        meter.info().detail.contains(&"left out: psys (intel-rapl:1), counts less than the packages in it".to_owned())
    );
}

/// Refreshed once a second, as QEMU's virtual counter is: the first reading is given when it is learned, and each one
/// after a change.
#[test]
fn a_slow_counter_gives_a_reading_when_it_is_refreshed() {
    let tree = laptop();
    tree.remove("class/powercap/intel-rapl:0:2");
    let mut meter = Powercap::new("package", tree.root());
    let (mut now, mut readings) = (0.35, Vec::new());
    while now < 12.0 {
        tree.energy("intel-rapl:0", 1_000_000 + 5_000_000 * now as u64);
        match meter.read_with(|| at(now)) {
            Ok(reading) => readings.push(reading),
            Err(error) => assert!(matches!(error, MeterError::NotYet { .. }) && now < 4.4, "{error} at {now}"),
        }
        now += meter.learning_pace().map_or(0.1, |pace| pace.as_secs_f64());
    }
    readings.dedup_by_key(|reading| reading.time);
    assert!((8..=10).contains(&readings.len()), "{readings:#?}");
    for pair in readings.windows(2) {
        assert!((pair[1].joules.0 - pair[0].joules.0 - 5.0).abs() < 1e-6);
        let Resolution::Counter { update, quantum } = pair[1].accuracy.resolution else { panic!("{pair:?}") };
        assert!(update <= Duration::from_millis(101), "known to the time between two reads: {update:?}");
        assert_eq!(quantum, Joules(5.0));
    }
    let line = meter.info().detail.last().unwrap();
    assert!(line.starts_with("refreshed every 1.") && line.ends_with(" s in steps of 5 J"), "{line}");
}

#[test]
fn absent_says_where_it_looked_and_what_to_do() {
    let mut tree = Tree::new(&[("class/hwmon/x", "")]);
    for _ in 0..2 {
        let error = Powercap::new("package", tree.root()).read().unwrap_err();
        assert!(matches!(error, MeterError::Absent { .. }));
        let message = error.to_string();
        assert!(message.contains("class/powercap") && message.contains("modprobe intel_rapl_msr"), "{message}");
        tree = Tree::new(&[("class/powercap/dtpm/enabled", "1"), ("class/powercap/dtpm:0/name", "soc")]);
    }
}

#[test]
fn garbage_is_shown_and_the_meter_comes_back_by_itself() {
    let tree = laptop();
    let mut meter = Powercap::new("package", tree.root());
    read(&mut meter, 0.0).unwrap();
    tree.energy("intel-rapl:0", 3_000_000);
    assert_eq!(joules(&mut meter, 0.5), 2.0);
    tree.write("class/powercap/intel-rapl:0/energy_uj", "<busy>\n");
    let error = read(&mut meter, 1.0).unwrap_err();
    assert!(matches!(&error, MeterError::Invalid { text, .. } if text == "<busy>"), "{error}");
    tree.energy("intel-rapl:0", 77_000_000);
    let back = read(&mut meter, 1.5).unwrap();
    assert_eq!((back.joules, back.power), (Joules(2.0), None), "what was lost is not made up");
    tree.energy("intel-rapl:0", 78_000_000);
    assert_eq!(joules(&mut meter, 2.0), 3.0);
}

#[test]
fn a_denied_counter_names_its_fix() {
    let path = Path::new("/sys/class/powercap/intel-rapl:0/energy_uj");
    let error = sysfs::classify(path, ErrorKind::PermissionDenied.into(), &permission_fix(path));
    assert!(matches!(error, MeterError::Denied { .. }));
    let message = error.to_string();
    for part in
        ["CVE-2020-8694", "chgrp edgewatt /sys/class/powercap/intel-rapl:0/energy_uj &&", "SUBSYSTEM==\"powercap\""]
    {
        assert!(message.contains(part), "{part:?} in {message}");
    }
}

#[test]
fn the_time_is_halfway_through_the_read() {
    let tree = laptop();
    let mut meter = Powercap::new("package", tree.root());
    meter.total.assume_learned();
    let mut times = [at(1.0), at(1.5)].into_iter();
    assert_eq!(meter.read_with(|| times.next().unwrap()).unwrap().time, at(1.25));
}

/// A Xeon 6767P whose memory shows 200 W next to a package of 190 W, while that of the other package shows 6 W.
#[test]
fn papi_635_memory_that_takes_more_than_its_package_is_left_out() {
    let tree = Tree::new(&[]);
    for (id, name) in [
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:1:0", "dram"),
    ] {
        tree.zone(id, name, 0);
    }
    let mut meter = Powercap::new("package", tree.root());
    let mut error = None;
    for tenth in 0..200u64 {
        for (id, watts) in
            [("intel-rapl:0", 190), ("intel-rapl:0:0", 200), ("intel-rapl:1", 243), ("intel-rapl:1:0", 6)]
        {
            tree.energy(id, watts * tenth * 100_000);
        }
        error = error.or(read(&mut meter, 0.1 * tenth as f64).err());
    }
    let error = error.unwrap().to_string();
    assert!(error.contains("dram (intel-rapl:0:0) is left out from now on: it shows 200 W, more than its"), "{error}");
    let detail = meter.info().detail.join("; ");
    assert!(detail.contains("left out: dram (intel-rapl:0:0), counts more than memory takes"), "{detail}");
    assert!(detail.contains("dram (intel-rapl:1:0); "), "{detail}");
}
