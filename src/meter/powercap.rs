//! Processor energy from the kernel's powercap zones, one of the two interfaces of the RAPL meter.
//!
//! Owns the choice of zones, so that nothing is counted twice, and their sum; leaves wraps to `counter`. Files stay open
//! and a read does not allocate. Sources: `Documentation/power/powercap/powercap.rst`; zone names and the
//! counter's range: `drivers/powercap/intel_rapl_common.c`, which also drives AMD processors under the same names.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::counter::{self, Counter, Lost, Total};
use super::sysfs::{self, Attribute};
use super::{Meter, MeterError, MeterInfo, Reading, Scope, midpoint};
use crate::units::MonoTime;

/// Energy of the processor packages and their memory, or of the whole platform if the processor counts that.
#[derive(Debug)]
pub struct Powercap {
    info: MeterInfo,
    class: PathBuf,
    /// Empty while the meter is absent.
    zones: Vec<Zone>,
    /// Zones that are stuck although others change, such as a `dram` zone that the processor does not really have.
    dead: Vec<String>,
    total: Total,
}

#[derive(Debug)]
struct Zone {
    found: Found,
    energy: Attribute,
    counter: Counter,
    raw_uj: u64,
}

/// A zone as the tree shows it.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// The folder's name, such as `intel-rapl:0:1`.
    id: String,
    name: String,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The whole platform, packages and memory included.
    Psys,
    Package,
    /// Memory, which its package does not include.
    Dram,
    /// Inside a package: core, uncore.
    Inside,
}

impl Powercap {
    /// Creates a meter under the sysfs root `root`, normally `/sys`; the first read looks for the zones.
    pub fn new(name: &str, root: &Path) -> Self {
        let info = MeterInfo {
            name: name.to_owned(),
            kind: "rapl",
            scope: Scope::Package,
            estimated: false,
            detail: Vec::new(),
        };
        Self { info, class: root.join("class/powercap"), zones: Vec::new(), dead: Vec::new(), total: Total::default() }
    }

    fn read_with(&mut self, mut clock: impl FnMut() -> MonoTime) -> Result<Reading, MeterError> {
        if self.zones.is_empty() {
            self.discover()?;
        }
        let before = clock();
        let read = self.zones.iter_mut().try_for_each(|zone| {
            zone.raw_uj = zone.energy.read("cumulative microjoules")?;
            Ok(())
        });
        if let Err(error) = read {
            self.close();
            return Err(error);
        }
        self.advance(midpoint(before, clock()))
    }

    fn advance(&mut self, now: MonoTime) -> Result<Reading, MeterError> {
        let sum = counter::sum(now, self.zones.iter_mut().map(|zone| (&mut zone.counter, zone.raw_uj)));
        let reading = self.total.reading(now, sum, self.info.scope);
        reading.map_err(|(index, reason)| self.loss(index, reason))
    }

    fn loss(&mut self, index: usize, reason: Lost) -> MeterError {
        let Some(zone) = self.zones.get(index) else {
            return MeterError::Rebaselined { reason: reason.to_string() };
        };
        let (path, zone) = (zone.energy.path().to_owned(), zone.found.clone());
        match reason {
            Lost::Stuck { for_s } if zone.role == Role::Package => MeterError::Stuck {
                path,
                seconds: for_s,
                fix: "virtual machines often show a constant value; meter the host, or use another meter".to_owned(),
            },
            Lost::Stuck { for_s } => {
                self.close();
                let reason =
                    format!("{} ({}) did not change for {for_s:.1} s and is left out from now on", zone.name, zone.id);
                tracing::warn!(meter = self.info.name, "{reason}");
                self.dead.push(zone.id);
                MeterError::Rebaselined { reason }
            }
            _ => MeterError::Rebaselined { reason: format!("{} ({}): {reason}", zone.name, zone.id) },
        }
    }

    fn close(&mut self) {
        self.zones.clear();
        self.total.interrupted();
    }

    fn discover(&mut self) -> Result<(), MeterError> {
        let (found, unreadable) = list(&self.class).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.no_class(),
            _ => sysfs::classify(&self.class, error, sysfs::LIST_FIX),
        })?;
        let (is_empty, counted) = (found.is_empty(), found.len() + unreadable.len());
        let (chosen, mut left_out) = choose(found, &self.dead);
        if let (true, Some((id, error))) = (chosen.is_empty(), unreadable.into_iter().next()) {
            return Err(self.unreadable(&id, error));
        }
        if chosen.is_empty() {
            return Err(match (counted, is_empty) {
                (0, _) => self.absent("the folder has no zone of a processor"),
                _ if self.dead.is_empty() => self.absent("there is no package, dram or psys zone"),
                _ => self.absent("no package, dram or psys zone counts; their values stand still"),
            });
        }
        let zones = chosen.into_iter().map(|found| self.open(found)).collect::<Result<Vec<_>, _>>()?;
        let zones = without_mirrors(zones, &mut left_out)?;
        let psys = zones.iter().any(|zone| zone.found.role == Role::Psys);
        self.info.scope = if psys { Scope::Platform } else { Scope::Package };
        self.info.detail = zones.iter().map(Zone::describe).chain(left_out).collect();
        self.zones = zones;
        Ok(())
    }

    fn open(&self, found: Found) -> Result<Zone, MeterError> {
        let folder = self.class.join(&found.id);
        let path = folder.join("energy_uj");
        let fix = permission_fix(&path);
        let energy = Attribute::open(path, &fix)?;
        let max_uj = sysfs::text(&folder.join("max_energy_range_uj")).and_then(|text| text.parse().ok());
        Ok(Zone { found, energy, counter: Counter::rapl(max_uj), raw_uj: 0 })
    }

    /// Returns the error for a folder of zones that is not there.
    fn no_class(&self) -> MeterError {
        let root = self.class.ancestors().nth(2).unwrap_or(&self.class);
        let wrong_root = |reason: &str| MeterError::Absent {
            path: root.to_owned(),
            reason: reason.to_owned(),
            fix: "set power.sysfs to the folder where sysfs is mounted, normally /sys".to_owned(),
        };
        if !root.exists() {
            wrong_root("there is no such folder")
        } else if !root.join("class").exists() {
            wrong_root("this is not sysfs, it has no folder class")
        } else {
            self.absent("the kernel shows no powercap zones")
        }
    }

    /// Returns the error for zones that are listed and cannot be looked into.
    fn unreadable(&self, id: &str, error: io::Error) -> MeterError {
        let path = self.class.join(id);
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => MeterError::Absent {
                path,
                reason: "the zone is listed, but leads nowhere: a container hides /sys/devices/virtual/powercap"
                    .to_owned(),
                fix: "run edgewatt outside of the container, or start this one with --security-opt \
                      systempaths=unconfined (Docker) or --security-opt unmask=/sys/devices/virtual/powercap (Podman)"
                    .to_owned(),
            },
            _ => sysfs::classify(&path, error, "give this user permission to read the zones"),
        }
    }

    fn absent(&self, reason: &str) -> MeterError {
        MeterError::Absent {
            path: self.class.clone(),
            reason: reason.to_owned(),
            fix: "run: sudo modprobe intel_rapl_msr; ARM boards and most virtual machines have no RAPL, use an hwmon meter there"
                .to_owned(),
        }
    }
}

impl Meter for Powercap {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        self.read_with(MonoTime::now)
    }
}

impl Zone {
    fn describe(&self) -> String {
        let range = if self.counter.has_range() { "" } else { ", range unknown: the energy across a wrap is lost" };
        format!("{} ({}){range}", self.found.name, self.found.id)
    }
}

/// Since CVE-2020-8694 only root may read the counters, because a fast reader can spy on other programs.
fn permission_fix(energy: &Path) -> String {
    format!(
        "only root may read it since CVE-2020-8694; for now: chgrp edgewatt {path} && chmod g+r {path}; permanently, in \
         /etc/udev/rules.d/70-edgewatt-rapl.rules: SUBSYSTEM==\"powercap\", KERNEL==\"*-rapl*:*\", ACTION==\"add\", \
         RUN+=\"/bin/chgrp edgewatt /sys%p/energy_uj\", RUN+=\"/bin/chmod g+r /sys%p/energy_uj\"",
        path = energy.display()
    )
}

/// The id of a zone whose name cannot be read, and why.
type Unreadable = (String, io::Error);

/// Returns all RAPL zones in `class`, sorted by their numbers, and those whose name cannot be read.
fn list(class: &Path) -> io::Result<(Vec<Found>, Vec<Unreadable>)> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let is_zone = |id: &String| id.split_once(':').is_some_and(|(control, _)| control.contains("-rapl"));
    for id in sysfs::names(class)?.into_iter().filter(is_zone) {
        match std::fs::read_to_string(class.join(&id).join("name")) {
            Ok(name) => {
                let name = name.trim_end().to_owned();
                found.push(Found { role: role(&name), id, name });
            }
            Err(error) => unreadable.push((id, error)),
        }
    }
    // Zone numbers are hexadecimal (`dev_set_name` in `drivers/powercap/powercap_sys.c`).
    found.sort_by_cached_key(|zone| {
        zone.id.split(':').skip(1).map(|number| u32::from_str_radix(number, 16).unwrap_or(u32::MAX)).collect::<Vec<_>>()
    });
    unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((found, unreadable))
}

fn role(name: &str) -> Role {
    match name.split('-').next() {
        Some("psys") => Role::Psys,
        Some("package") => Role::Package,
        Some("dram") => Role::Dram,
        _ => Role::Inside,
    }
}

/// Returns the zones whose sum is the machine's energy with each joule counted once, and a line for each zone left out.
fn choose(mut found: Vec<Found>, dead: &[String]) -> (Vec<Found>, Vec<String>) {
    let mut left_out = Vec::new();
    let mut keep = |found: &mut Vec<Found>, why: &str, fits: &dyn Fn(&Found) -> bool| {
        found.retain(|zone| {
            let fits = fits(zone);
            if !fits {
                left_out.push(format!("left out: {} ({}), {why}", zone.name, zone.id));
            }
            fits
        });
    };
    keep(&mut found, "inside its package", &|zone| zone.role != Role::Inside);
    keep(&mut found, "does not count", &|zone| !dead.contains(&zone.id));
    if found.iter().any(|zone| !is_mmio(&zone.id)) {
        keep(&mut found, "the same counter through MMIO", &|zone| !is_mmio(&zone.id));
    }
    if let Some(psys) = found.iter().find(|zone| zone.role == Role::Psys).map(|zone| zone.id.clone()) {
        keep(&mut found, "inside psys", &|zone| zone.id == psys);
    }
    let packages: Vec<Found> = found.iter().filter(|zone| zone.role == Role::Package).cloned().collect();
    keep(&mut found, "a second zone of the same name", &|zone| {
        zone.role != Role::Package
            || packages.iter().find(|first| first.name == zone.name).is_some_and(|first| first.id == zone.id)
    });
    let packages: Vec<String> = found.iter().map(|zone| zone.id.clone()).collect();
    keep(&mut found, "its package is left out", &|zone| {
        zone.role != Role::Dram || packages.iter().any(|package| package == parent(&zone.id))
    });
    (found, left_out)
}

fn is_mmio(id: &str) -> bool {
    id.split(':').next().is_some_and(|control| control.ends_with("-mmio"))
}

fn parent(id: &str) -> &str {
    id.rsplit_once(':').map_or("", |(parent, _)| parent)
}

/// Drops dies whose counter is that of another die of the same package, and their memory.
///
/// A value that lies between two readings of the other die can only be the same counter.
fn without_mirrors(mut zones: Vec<Zone>, left_out: &mut Vec<String>) -> Result<Vec<Zone>, MeterError> {
    let mut mirrors = Vec::new();
    for (index, zone) in zones.iter().enumerate() {
        let earlier = zones.iter().take(index).filter(|other| {
            let package = package_number(&zone.found.name);
            package.is_some() && package == package_number(&other.found.name) && !mirrors.contains(&other.found.id)
        });
        for other in earlier {
            let read = |zone: &Zone| zone.energy.read::<u64>("cumulative microjoules");
            let (before, between, after) = (read(other)?, read(zone)?, read(other)?);
            if (before..=after).contains(&between) {
                mirrors.push(zone.found.id.clone());
                break;
            }
        }
    }
    zones.retain(|zone| {
        let mirrored = mirrors.iter().any(|id| *id == zone.found.id || id == parent(&zone.found.id));
        if mirrored {
            left_out.push(format!("left out: {} ({}), mirrors another die", zone.found.name, zone.found.id));
        }
        !mirrored
    });
    Ok(zones)
}

/// Returns the N of `package-N-die-D`; `None` for any other name, so that only dies of one package are compared.
fn package_number(name: &str) -> Option<&str> {
    name.strip_prefix("package-")?.split_once("-die-").map(|(package, _)| package)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use crate::units::{Joules, Watts};

    fn at(seconds: f64) -> MonoTime {
        MonoTime((seconds * 1e9) as u64)
    }

    fn read(meter: &mut Powercap, seconds: f64) -> Result<Reading, MeterError> {
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
        assert!(Powercap::new("package", tree.root()).read().is_ok());
        let tree = Tree::new(&[("class/powercap/intel-rapl:0/name", "core\n")]);
        assert!(refusal(&tree).contains("no package, dram or psys zone"));
        assert!(refusal(&Tree::new(&[("class/hwmon/x", "")])).contains("the kernel shows no powercap zones"));
        assert!(
            refusal(&Tree::new(&[("x", "")])).contains("this is not sysfs, it has no folder class; set power.sysfs")
        );
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
        for part in [
            "package-0 (intel-rapl:0)",
            "left out: core (intel-rapl:0:0), inside",
            "intel-rapl-mmio:0), the same counter",
        ] {
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
        assert!(
            error.to_string().contains("package-0 (intel-rapl:0): the counter went back from 900000000 uJ to 5 uJ")
        );
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
        for seconds in [1.0, 2.0, 400.0] {
            let error = read(&mut meter, seconds).unwrap_err();
            assert!(matches!(error, MeterError::Stuck { .. }), "{error}");
            assert!(error.to_string().contains("intel-rapl:0/energy_uj: stuck"), "{error}");
        }
        tree.energy("intel-rapl:0", 10);
        assert_eq!(joules(&mut meter, 401.0), 0.00001, "it comes back when it counts again");
    }

    #[test]
    fn a_constant_dram_is_left_out_and_the_rest_goes_on() {
        let tree = laptop();
        let mut meter = Powercap::new("package", tree.root());
        read(&mut meter, 0.0).unwrap();
        tree.energy("intel-rapl:0", 2_000_000);
        let error = read(&mut meter, 1.0).unwrap_err();
        assert!(
            error.to_string().contains("dram (intel-rapl:0:2) did not change for 1.0 s and is left out"),
            "{error}"
        );
        assert_eq!(joules(&mut meter, 2.0), 0.0);
        tree.energy("intel-rapl:0", 5_000_000);
        assert_eq!(joules(&mut meter, 3.0), 3.0);
        assert!(meter.info().detail.contains(&"left out: dram (intel-rapl:0:2), does not count".to_owned()));
    }

    #[test]
    fn a_constant_psys_gives_way_to_the_packages() {
        let tree = laptop();
        tree.zone("intel-rapl:1", "psys", 0);
        let mut meter = Powercap::new("package", tree.root());
        read(&mut meter, 0.0).unwrap();
        assert!(matches!(read(&mut meter, 1.0), Err(MeterError::Rebaselined { .. })));
        assert_eq!(read(&mut meter, 2.0).unwrap().scope, Scope::Package);
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
        let mut times = [at(1.0), at(1.5)].into_iter();
        assert_eq!(meter.read_with(|| times.next().unwrap()).unwrap().time, at(1.25));
    }
}
