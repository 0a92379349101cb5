//! Processor energy from the RAPL events of perf, which the kernel widens to 64 bits so that they never wrap.
//!
//! Owns the choice of events, so that nothing is counted twice; `sys::perf` opens them. Sources:
//! `arch/x86/events/rapl.c` (events, scale, unit), `Documentation/ABI/testing/sysfs-bus-event_source-devices-events`;
//! who may count: `perf_allow_cpu` in `include/linux/perf_event.h`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::counter::{Counter, Lost};
use super::domains::{PlatformCheck, judge_memory};
use super::total::{NoReading, RefreshLine, Total};
use super::{Meter, MeterError, MeterInfo, Reading, Scope, midpoint, sysfs};
use crate::sys::perf::EventCounter;
use crate::units::MonoTime;

const PSYS: &str = "energy-psys";
const PACKAGE: &str = "energy-pkg";
const MEMORY: &str = "energy-ram";

/// An open event; the kernel's, or a fake one in tests.
trait Count: Send {
    fn count(&self) -> io::Result<u64>;
}

impl Count for EventCounter {
    fn count(&self) -> io::Result<u64> {
        self.read()
    }
}

/// Energy of the processor packages and their memory, or of the whole platform if the processor counts that.
pub struct Perf {
    info: MeterInfo,
    root: PathBuf,
    source: PathBuf,
    /// Empty while the meter is absent.
    events: Vec<Event>,
    /// Events that do not change although others do.
    dead: Vec<&'static str>,
    total: Total,
    /// The packages inside of psys, if that is counted.
    packages: Vec<Event>,
    platform: PlatformCheck,
    refresh_line: RefreshLine,
}

struct Event {
    name: &'static str,
    cpu: u32,
    counter: Counter,
    count: Box<dyn Count>,
    joules_a_count: f64,
    raw_uj: u64,
}

/// An event as sysfs describes it.
#[derive(Debug, Clone, Copy)]
struct Described {
    kind: u32,
    config: u64,
    joules_a_count: f64,
}

impl Perf {
    /// Creates a meter on the events under the sysfs root `root`, normally `/sys`; the first read looks for them.
    pub fn new(name: &str, root: &Path) -> Self {
        let (name, detail) = (name.to_owned(), Vec::new());
        Self {
            info: MeterInfo { name, kind: "rapl", scope: Scope::Package, estimated: false, detail, basis: Vec::new() },
            root: root.to_owned(),
            source: root.join("bus/event_source/devices/power"),
            events: Vec::new(),
            dead: Vec::new(),
            total: Total::default(),
            packages: Vec::new(),
            platform: PlatformCheck::default(),
            refresh_line: RefreshLine::default(),
        }
    }

    fn read_with(
        &mut self,
        open: impl Fn(u32, u64, u32) -> io::Result<Box<dyn Count>>,
        mut clock: impl FnMut() -> MonoTime,
    ) -> Result<Reading, MeterError> {
        if self.events.is_empty() {
            self.discover(open)?;
        }
        let before = clock();
        if let Err(error) = self.events.iter_mut().try_for_each(|event| event.read(&self.source)) {
            self.close();
            return Err(error);
        }
        let now = midpoint(before, clock());
        self.compare_platform(now)?;
        self.judge_memory()?;
        let counters = self.events.iter_mut().map(|event| (&mut event.counter, event.raw_uj));
        let reading = self.total.read(now, self.info.scope, counters);
        let lines = self.events.len() + usize::from(!self.has_memory());
        let named = self.events.iter().map(|event| (event.name, &event.counter));
        self.refresh_line.renew(now, &mut self.info.detail, lines, named);
        reading.map_err(|reason| self.no_reading(reason))
    }

    /// Gives psys up if it counts less than its packages. A package that cannot be read is not compared any more.
    fn compare_platform(&mut self, now: MonoTime) -> Result<(), MeterError> {
        let Some(psys) = self.events.first().filter(|_| !self.packages.is_empty()) else { return Ok(()) };
        if self.packages.iter_mut().any(|package| package.read(&self.source).is_err()) {
            self.packages.clear();
            return Ok(());
        }
        let packages_uj = self.packages.iter().map(|package| package.raw_uj).sum();
        let (period, _) = psys.counter.learned();
        let compared = self.platform.compare(now, psys.raw_uj, packages_uj, period);
        compared.map_err(|too_little| self.leave_out(PSYS, &too_little.to_string()))
    }

    /// Gives up the events of memory if one takes more than memory can.
    fn judge_memory(&mut self) -> Result<(), MeterError> {
        let judged = self.events.iter().filter(|event| event.name == MEMORY).try_for_each(|memory| {
            let package = self.events.iter().find(|event| event.name == PACKAGE && event.cpu == memory.cpu);
            judge_memory(&memory.counter, package.map(|package| &package.counter))
        });
        judged.map_err(|too_much| self.leave_out(MEMORY, &too_much.to_string()))
    }

    fn no_reading(&mut self, reason: NoReading) -> MeterError {
        if let NoReading::Lost(index, Lost::Stuck { for_s }) = reason
            && let Some(event) = self.events.get(index)
        {
            return match event.name {
                PACKAGE => MeterError::Stuck {
                    path: event.place(&self.source),
                    seconds: for_s,
                    fix: "virtual machines often show a constant value; meter the host, or use another meter"
                        .to_owned(),
                },
                name => self.leave_out(name, &format!("it did not change for {for_s:.1} s")),
            };
        }
        let place = |event: &Event| format!("{} of CPU {}: ", event.name, event.cpu);
        reason.error(|index| self.events.get(index).map(place).unwrap_or_default())
    }

    /// Gives an event up, and returns why; the next reading opens events without it.
    fn leave_out(&mut self, name: &'static str, why: &str) -> MeterError {
        self.close();
        self.dead.push(name);
        let reason = format!("{name} is left out from now on: {why}");
        tracing::warn!(meter = self.info.name, "{reason}");
        MeterError::Rebaselined { reason }
    }

    fn close(&mut self) {
        self.events.clear();
        self.packages.clear();
        self.refresh_line = RefreshLine::default();
        self.total.interrupted();
        self.platform = PlatformCheck::default();
    }

    /// Whether the energy of memory is among what is counted.
    fn has_memory(&self) -> bool {
        self.events.iter().any(|event| [PSYS, MEMORY].contains(&event.name))
    }

    fn discover(&mut self, open: impl Fn(u32, u64, u32) -> io::Result<Box<dyn Count>>) -> Result<(), MeterError> {
        let source = &self.source;
        let has = |name: &str| !self.dead.contains(&name) && source.join("events").join(name).exists();
        let cpus = self.cpus(source)?;
        let open_each = |name: &'static str, cpus: &[u32]| -> Result<Vec<Event>, MeterError> {
            let Described { kind, config, joules_a_count } = describe(source, name)?;
            let open = |&cpu: &u32| {
                let count = open(kind, config, cpu).map_err(|error| failed(place(source, name, cpu), error))?;
                Ok(Event { name, cpu, counter: Counter::perf(), count, joules_a_count, raw_uj: 0 })
            };
            cpus.iter().map(open).collect()
        };
        let (mut events, mut packages) = (Vec::new(), Vec::new());
        if has(PSYS) {
            // It covers all packages, on whichever CPU it is opened.
            events = open_each(PSYS, cpus.get(..1).unwrap_or_default())?;
            // They are only compared with it.
            packages = if has(PACKAGE) { open_each(PACKAGE, &cpus).unwrap_or_default() } else { Vec::new() };
        } else {
            for name in [PACKAGE, MEMORY].into_iter().filter(|name| has(name)) {
                events.extend(open_each(name, &cpus)?);
            }
        }
        if events.is_empty() {
            return Err(absent(source, "there is no event energy-pkg, energy-ram or energy-psys"));
        }
        let is_platform = events.iter().any(|event| event.name == PSYS);
        self.info.scope = if is_platform { Scope::Platform } else { Scope::Package };
        self.info.detail =
            events.iter().map(|event| format!("perf event {} of CPU {}", event.name, event.cpu)).collect();
        (self.events, self.packages) = (events, packages);
        if !self.has_memory() {
            self.info.detail.push("without memory: there is no event energy-ram that counts".to_owned());
        }
        Ok(())
    }

    /// Returns one CPU of each package: those on which the events count.
    fn cpus(&self, source: &Path) -> Result<Vec<u32>, MeterError> {
        let path = source.join("cpumask");
        let text = sysfs::text(&path).ok_or_else(|| absent(source, "the kernel shows no RAPL events"))?;
        let cpus = list(&text).ok_or(MeterError::Invalid { path, text, expected: "a list of CPUs, such as 0,24" })?;
        let package =
            |cpu| sysfs::text(&self.root.join(format!("devices/system/cpu/cpu{cpu}/topology/physical_package_id")));
        let mut packages: Vec<_> = cpus.iter().map(package).collect();
        packages.sort();
        packages.dedup();
        if packages.len() < cpus.len() {
            // Some processors show the same counter in each die, and here that looks like counts with different starts.
            return Err(absent(
                source,
                "several dies of a package have counters, which may be the same counter; only powercap can tell",
            ));
        }
        Ok(cpus)
    }
}

impl Event {
    fn read(&mut self, source: &Path) -> Result<(), MeterError> {
        let count = self.count.count().map_err(|error| failed(self.place(source), error))?;
        self.raw_uj = (count as f64 * self.joules_a_count * 1e6) as u64;
        Ok(())
    }

    fn place(&self, source: &Path) -> PathBuf {
        place(source, self.name, self.cpu)
    }
}

fn place(source: &Path, name: &str, cpu: u32) -> PathBuf {
    PathBuf::from(format!("{} of CPU {cpu}", source.join("events").join(name).display()))
}

fn absent(source: &Path, reason: &str) -> MeterError {
    MeterError::Absent {
        path: source.to_owned(),
        reason: reason.to_owned(),
        fix: "run: sudo modprobe rapl; ARM boards and most virtual machines have no RAPL".to_owned(),
    }
}

fn failed(path: PathBuf, error: io::Error) -> MeterError {
    let fix = "counting for the whole machine needs CAP_PERFMON: for the service, add the drop-in examples/perf.conf \
               (docs/energy.md); otherwise run sudo setcap cap_perfmon=ep on the binary, or, for all users, sysctl \
               kernel.perf_event_paranoid=0";
    match error.kind() {
        io::ErrorKind::PermissionDenied => MeterError::Denied { path, fix: fix.to_owned() },
        _ => MeterError::Failed { path, source: error },
    }
}

/// Reads the files of an event: `event=0x02`, its scale and its unit.
fn describe(source: &Path, name: &str) -> Result<Described, MeterError> {
    let read = |path: PathBuf| match sysfs::text(&path) {
        Some(text) => Ok((path, text)),
        None => Err(absent(&path, "it cannot be read")),
    };
    let invalid = |(path, text): (PathBuf, String), expected| MeterError::Invalid { path, text, expected };
    let kind = read(source.join("type"))?;
    let kind = kind.1.parse().map_err(|_| invalid(kind, "the number of an event source"))?;
    let events = source.join("events");
    let event = read(events.join(name))?;
    let config = event.1.strip_prefix("event=0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let config = config.ok_or_else(|| invalid(event, "an event such as event=0x02"))?;
    let unit = read(events.join(format!("{name}.unit")))?;
    if unit.1 != "Joules" {
        return Err(invalid(unit, "Joules"));
    }
    let scale = read(events.join(format!("{name}.scale")))?;
    let joules_a_count = scale.1.parse().ok().filter(|scale: &f64| scale.is_normal() && *scale > 0.0);
    let joules_a_count = joules_a_count.ok_or_else(|| invalid(scale, "joules of one count, above 0"))?;
    Ok(Described { kind, config, joules_a_count })
}

/// Parses a list of CPUs such as `0,24` or `0-1`; `None` if it is empty or not a list.
fn list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse().ok()?..=last.parse::<u32>().ok()?.min(1 << 16));
    }
    (!cpus.is_empty()).then_some(cpus)
}

impl Meter for Perf {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let open = |kind, config, cpu| Ok(Box::new(EventCounter::open(kind, config, cpu)?) as Box<dyn Count>);
        self.read_with(open, MonoTime::now)
    }

    fn learning_pace(&self) -> Option<Duration> {
        self.total.pace(self.events.iter().map(|event| &event.counter))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::tree::Tree;
    use super::*;
    use crate::units::{Joules, Watts};

    const COUNTS_A_JOULE: f64 = 4_294_967_296.0;

    /// Joules of event 2 on CPU 0 and 24, and of event 3 and 5, by which all counts are told apart.
    #[derive(Clone, Default)]
    struct Fake(Arc<[AtomicU64; 4]>);

    struct FakeCount(Fake, usize);

    impl Count for FakeCount {
        fn count(&self) -> io::Result<u64> {
            match self.0.0[self.1].load(Ordering::Relaxed) {
                u64::MAX => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(count),
            }
        }
    }

    impl Fake {
        fn joules(&self, index: usize, joules: f64) {
            self.0[index].store((joules * COUNTS_A_JOULE) as u64, Ordering::Relaxed);
        }

        fn open(&self, kind: u32, config: u64, cpu: u32) -> io::Result<Box<dyn Count>> {
            assert_eq!(kind, 24);
            let index = match (config, cpu) {
                (2, 0) => 0,
                (2, 24) => 1,
                (3, _) => 2,
                (5, 0) => 3,
                other => panic!("{other:?}"),
            };
            Ok(Box::new(FakeCount(self.clone(), index)))
        }
    }

    fn tree(events: &[(&str, &str)], cpus: &str) -> Tree {
        let source = "bus/event_source/devices/power";
        let tree = Tree::new(&[("devices/system/cpu/cpu0/topology/physical_package_id", "0\n")]);
        tree.write("devices/system/cpu/cpu24/topology/physical_package_id", "1\n");
        tree.write(&format!("{source}/type"), "24\n");
        tree.write(&format!("{source}/cpumask"), &format!("{cpus}\n"));
        for (name, event) in events {
            tree.write(&format!("{source}/events/{name}"), event);
            tree.write(&format!("{source}/events/{name}.unit"), "Joules");
            tree.write(&format!("{source}/events/{name}.scale"), "2.3283064365386962890625e-10");
        }
        tree
    }

    const PKG: (&str, &str) = ("energy-pkg", "event=0x02");
    const RAM: (&str, &str) = ("energy-ram", "event=0x03");
    const CORES: (&str, &str) = ("energy-cores", "event=0x01");
    const PLATFORM: (&str, &str) = ("energy-psys", "event=0x05");

    fn read(meter: &mut Perf, fake: &Fake, ms: u64) -> Result<Reading, MeterError> {
        meter.total.assume_learned();
        meter.read_with(|kind, config, cpu| fake.open(kind, config, cpu), || MonoTime(ms * 1_000_000))
    }

    #[test]
    fn packages_and_memory_are_summed_and_nothing_inside() {
        let (tree, fake) = (tree(&[CORES, PKG], "0,24"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        assert_eq!(read(&mut meter, &fake, 1000).unwrap().joules, Joules(0.0));
        fake.joules(0, 3.0);
        fake.joules(1, 5.0);
        let second = read(&mut meter, &fake, 2000).unwrap();
        assert_eq!((second.joules, second.power, second.scope), (Joules(8.0), Some(Watts(8.0)), Scope::Package));
        assert_eq!(
            meter.info().detail,
            [
                "perf event energy-pkg of CPU 0",
                "perf event energy-pkg of CPU 24",
                "without memory: there is no event energy-ram that counts"
            ]
        );
        let laptop = self::tree(&[PKG, RAM], "0");
        let mut meter = Perf::new("package", laptop.root());
        read(&mut meter, &fake, 0).unwrap();
        fake.joules(0, 4.0);
        fake.joules(2, 0.5);
        assert_eq!(read(&mut meter, &fake, 1000).unwrap().joules, Joules(1.5));
    }

    #[test]
    fn psys_counts_alone_and_once_and_gives_way_when_it_stands_still() {
        let (tree, fake) = (tree(&[PKG, PLATFORM], "0,24"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        assert_eq!(read(&mut meter, &fake, 0).unwrap().scope, Scope::Platform);
        fake.joules(0, 9.0);
        fake.joules(3, 20.0);
        assert_eq!(read(&mut meter, &fake, 500).unwrap().joules, Joules(20.0));
        let error = read(&mut meter, &fake, 6000).unwrap_err().to_string();
        assert!(error.contains("energy-psys is left out from now on: it did not change for 5.5 s"), "{error}");
        assert_eq!(read(&mut meter, &fake, 6100).unwrap().scope, Scope::Package);
    }

    #[test]
    fn psys_gives_way_to_packages_that_count_more() {
        let (tree, fake) = (tree(&[PKG, PLATFORM], "0,24"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        read(&mut meter, &fake, 0).unwrap();
        fake.joules(0, 9.0);
        fake.joules(1, 8.0);
        fake.joules(3, 10.0);
        let error = read(&mut meter, &fake, 2000).unwrap_err().to_string();
        assert!(
            error.contains("energy-psys is left out from now on: it counted 10.0 J in 2.0 s, less than the 17.0 J")
        );
        assert_eq!(read(&mut meter, &fake, 2100).unwrap().scope, Scope::Package);
    }

    /// A processor whose memory the kernel reads in the wrong unit (PAPI 635).
    #[test]
    fn memory_that_takes_more_than_its_package_is_left_out() {
        let (tree, fake) = (tree(&[PKG, RAM], "0"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        let error = (0..200u32).find_map(|tenth| {
            let seconds = f64::from(tenth) / 10.0;
            fake.joules(0, 20.0 * seconds);
            fake.joules(2, 200.0 * seconds);
            read(&mut meter, &fake, u64::from(tenth) * 100).err().map(|error| error.to_string())
        });
        let error = error.unwrap();
        assert!(error.contains("energy-ram is left out from now on: it shows 200 W, more than its package"), "{error}");
        read(&mut meter, &fake, 20_000).unwrap();
        assert_eq!(meter.info().detail.len(), 2, "{:?}", meter.info());
    }

    #[test]
    fn a_constant_package_is_stuck_and_a_long_gap_is_none() {
        let (tree, fake) = (tree(&[PKG], "0"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        read(&mut meter, &fake, 0).unwrap();
        fake.joules(0, 9e5);
        assert_eq!(read(&mut meter, &fake, 3_600_000).unwrap().joules, Joules(9e5));
        let error = read(&mut meter, &fake, 3_606_000).unwrap_err();
        assert!(matches!(error, MeterError::Stuck { .. }), "{error}");
        assert!(error.to_string().contains("power/events/energy-pkg of CPU 0: stuck"), "{error}");
    }

    #[test]
    fn an_event_that_is_lost_is_opened_again() {
        let (tree, fake) = (tree(&[PKG], "0"), Fake::default());
        let mut meter = Perf::new("package", tree.root());
        read(&mut meter, &fake, 0).unwrap();
        fake.joules(0, 1.0);
        read(&mut meter, &fake, 500).unwrap();
        fake.0[0].store(u64::MAX, Ordering::Relaxed);
        assert!(matches!(read(&mut meter, &fake, 600), Err(MeterError::Failed { .. })));
        fake.joules(0, 0.25);
        let back = read(&mut meter, &fake, 700).unwrap();
        assert_eq!((back.joules, back.power), (Joules(1.0), None));
        fake.joules(0, 0.5);
        assert_eq!(read(&mut meter, &fake, 800).unwrap().joules, Joules(1.25));
    }

    #[test]
    fn each_refusal_says_why() {
        let fake = Fake::default();
        let error = |tree: &Tree| read(&mut Perf::new("package", tree.root()), &fake, 0).unwrap_err().to_string();
        assert!(
            error(&Tree::new(&[])).contains("devices/power: the kernel shows no RAPL events; run: sudo modprobe rapl")
        );
        assert!(error(&tree(&[CORES], "0")).contains("there is no event energy-pkg"));
        assert!(error(&tree(&[PKG], "zero")).contains("cpumask: read \"zero\", expected a list of CPUs"));
        assert!(
            error(&tree(&[("energy-pkg", "umask=1")], "0")).contains("energy-pkg: read \"umask=1\", expected an event")
        );
        let odd = tree(&[PKG], "0");
        odd.write("bus/event_source/devices/power/events/energy-pkg.unit", "Watts");
        assert!(error(&odd).contains("energy-pkg.unit: read \"Watts\", expected Joules"));
        let denied = tree(&[PKG], "0");
        let refuse = |_, _, _| Err(io::ErrorKind::PermissionDenied.into());
        let error = Perf::new("package", denied.root()).read_with(refuse, MonoTime::default).unwrap_err();
        assert!(matches!(error, MeterError::Denied { .. }));
        assert!(error.to_string().contains("CAP_PERFMON") && error.to_string().contains("perf_event_paranoid=0"));
    }

    #[test]
    fn dies_of_one_package_are_left_to_powercap() {
        let tree = tree(&[PKG], "0,24");
        tree.write("devices/system/cpu/cpu24/topology/physical_package_id", "0\n");
        let error = read(&mut Perf::new("package", tree.root()), &Fake::default(), 0).unwrap_err();
        assert!(
            matches!(error, MeterError::Absent { .. }) && error.to_string().contains("powercap can tell"),
            "{error}"
        );
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(list("0"), Some(vec![0]));
        assert_eq!(list("0,24-25"), Some(vec![0, 24, 25]));
        assert_eq!((list(""), list("0-"), list("a")), (None, None, None));
    }
}
