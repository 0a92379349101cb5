//! Processor energy from the kernel's powercap zones, one of the two interfaces of the RAPL meter.
//!
//! Owns the choice of zones, so that nothing is counted twice; leaves wraps, refreshes and the sum to `counter`. Files stay
//! open and a read does not allocate. Sources: `Documentation/power/powercap/powercap.rst`; zone names and the
//! counter's range: `drivers/powercap/intel_rapl_common.c`, which also drives AMD processors under the same names.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::counter::{Counter, Lost};
use super::domains::{PlatformCheck, judge_memory};
use super::sysfs::{self, Attribute};
use super::total::{NoReading, RefreshLine, Total};
use super::{Meter, MeterError, MeterInfo, Reading, Scope, midpoint};
use crate::units::MonoTime;

/// Why zones are given up.
const DOES_NOT_COUNT: &str = "does not count";
const TOO_LITTLE: &str = "counts less than the packages in it";
const TOO_MUCH: &str = "counts more than memory takes";

/// Energy of the processor packages and their memory, or of the whole platform if the processor counts that.
#[derive(Debug)]
pub struct Powercap {
    info: MeterInfo,
    class: PathBuf,
    /// Empty while the meter is absent.
    zones: Vec<Zone>,
    /// Zones that were given up, and why, such as a `dram` zone that the processor does not really have.
    dead: Vec<(String, &'static str)>,
    total: Total,
    /// The packages inside of psys, if that is counted.
    packages: Vec<Attribute>,
    platform: PlatformCheck,
    /// The lines of `info.detail` about the zones, without the one about their refreshes.
    zone_lines: usize,
    refresh_line: RefreshLine,
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
            basis: Vec::new(),
        };
        Self {
            info,
            class: root.join("class/powercap"),
            zones: Vec::new(),
            dead: Vec::new(),
            total: Total::default(),
            packages: Vec::new(),
            platform: PlatformCheck::default(),
            zone_lines: 0,
            refresh_line: RefreshLine::default(),
        }
    }

    /// Gives readings from the next one on, without learning.
    #[cfg(test)]
    pub(super) fn assume_learned(&mut self) {
        self.total.assume_learned();
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
        self.compare_platform(now)?;
        self.judge_memory()?;
        let counters = self.zones.iter_mut().map(|zone| (&mut zone.counter, zone.raw_uj));
        let reading = self.total.read(now, self.info.scope, counters);
        let named = self.zones.iter().map(|zone| (zone.found.name.as_str(), &zone.counter));
        self.refresh_line.renew(now, &mut self.info.detail, self.zone_lines, named);
        reading.map_err(|reason| self.no_reading(reason))
    }

    /// Gives psys up if it counts less than its packages. A package that cannot be read is not compared any more.
    fn compare_platform(&mut self, now: MonoTime) -> Result<(), MeterError> {
        let Some(psys) = self.zones.first().filter(|zone| zone.found.role == Role::Psys && !self.packages.is_empty())
        else {
            return Ok(());
        };
        let values = self.packages.iter().map(|package| package.read::<u64>("cumulative microjoules"));
        let Ok(packages_uj) = values.sum::<Result<u64, _>>() else {
            self.packages.clear();
            return Ok(());
        };
        let (period, _) = psys.counter.learned();
        let compared = self.platform.compare(now, psys.raw_uj, packages_uj, period);
        compared.map_err(|too_little| self.leave_out(0, TOO_LITTLE, &too_little.to_string()))
    }

    /// Gives up a memory zone that takes more than memory can.
    fn judge_memory(&mut self) -> Result<(), MeterError> {
        let judged = self.zones.iter().enumerate().filter(|(_, zone)| zone.found.role == Role::Dram).try_for_each(
            |(index, memory)| {
                let package = self.zones.iter().find(|package| package.found.id == parent(&memory.found.id));
                judge_memory(&memory.counter, package.map(|package| &package.counter)).map_err(|error| (index, error))
            },
        );
        judged.map_err(|(index, too_much)| self.leave_out(index, TOO_MUCH, &too_much.to_string()))
    }

    fn no_reading(&mut self, reason: NoReading) -> MeterError {
        if let NoReading::Lost(index, Lost::Stuck { for_s }) = reason
            && let Some(zone) = self.zones.get(index)
        {
            return match zone.found.role {
                Role::Package => MeterError::Stuck {
                    path: zone.energy.path().to_owned(),
                    seconds: for_s,
                    fix: "virtual machines often show a constant value; meter the host, or use another meter"
                        .to_owned(),
                },
                _ => self.leave_out(index, DOES_NOT_COUNT, &format!("it did not change for {for_s:.1} s")),
            };
        }
        reason.error(|index| self.zones.get(index).map(|zone| zone.called() + ": ").unwrap_or_default())
    }

    /// Gives a zone up, and returns why; the next reading looks for zones without it.
    fn leave_out(&mut self, index: usize, short: &'static str, why: &str) -> MeterError {
        let Some(zone) = self.zones.get(index) else { return MeterError::Rebaselined { reason: why.to_owned() } };
        let reason = format!("{} is left out from now on: {why}", zone.called());
        tracing::warn!(meter = self.info.name, "{reason}");
        self.dead.push((zone.found.id.clone(), short));
        self.close();
        MeterError::Rebaselined { reason }
    }

    fn close(&mut self) {
        self.zones.clear();
        self.packages.clear();
        self.refresh_line = RefreshLine::default();
        self.total.interrupted();
        self.platform = PlatformCheck::default();
    }

    fn discover(&mut self) -> Result<(), MeterError> {
        let (found, unreadable) = list(&self.class).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.no_class(),
            _ => sysfs::classify(&self.class, error, sysfs::LIST_FIX),
        })?;
        let (is_empty, counted) = (found.is_empty(), found.len() + unreadable.len());
        let (chosen, mut left_out) = choose(found.clone(), &self.dead);
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
        let psys = zones.iter().find(|zone| zone.found.role == Role::Psys).map(|zone| zone.found.id.clone());
        self.info.scope = if psys.is_some() { Scope::Platform } else { Scope::Package };
        let has_memory = psys.is_some() || zones.iter().any(|zone| zone.found.role == Role::Dram);
        let without = (!has_memory).then(|| "without memory: there is no dram zone that counts".to_owned());
        self.info.detail = zones.iter().map(Zone::describe).chain(without).chain(left_out).collect();
        self.zone_lines = self.info.detail.len();
        self.zones = zones;
        self.packages = psys.map(|psys| self.packages_in(found, psys)).unwrap_or_default();
        Ok(())
    }

    /// Returns the packages that are inside of `psys`, each once; none if they cannot be read, as they are only compared.
    fn packages_in(&self, found: Vec<Found>, psys: String) -> Vec<Attribute> {
        let (mut packages, _) = choose(found, &[(psys, TOO_LITTLE)]);
        packages.retain(|zone| zone.role == Role::Package);
        let opened = packages.into_iter().map(|found| self.open(found)).collect::<Result<Vec<_>, _>>();
        let packages = opened.and_then(|zones| without_mirrors(zones, &mut Vec::new())).unwrap_or_default();
        packages.into_iter().map(|zone| zone.energy).collect()
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

    fn learning_pace(&self) -> Option<Duration> {
        self.total.pace(self.zones.iter().map(|zone| &zone.counter))
    }
}

impl Zone {
    /// Such as `package-0 (intel-rapl:0)`.
    fn called(&self) -> String {
        format!("{} ({})", self.found.name, self.found.id)
    }

    fn describe(&self) -> String {
        let range = if self.counter.has_range() { "" } else { ", range unknown: the energy across a wrap is lost" };
        self.called() + range
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
fn choose(mut found: Vec<Found>, dead: &[(String, &str)]) -> (Vec<Found>, Vec<String>) {
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
    for (id, why) in dead {
        keep(&mut found, why, &|zone| zone.id != *id);
    }
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
mod tests;
