//! The RAPL meter: perf events if they are permitted, otherwise the powercap zones.
//!
//! Owns the choice between them, which is made again whenever the meter is lost, and one cumulative energy over both.

use std::path::Path;
use std::time::Duration;

use super::perf::Perf;
use super::powercap::Powercap;
use super::survey::{Machine, Surveyed};
use super::{Meter, MeterError, MeterInfo, MeterKind, Reading, Surroundings};
use crate::schema::{Checker, Key, choice, table};
use crate::units::Joules;

/// The interfaces to the processor's counters, the better one first: perf's counters are finer and never wrap unnoticed.
const INTERFACES: [Interface; 2] = [Interface::Perf, Interface::Powercap];

choice! {
    /// How the processor's counters are read.
    pub enum Interface {
        Perf = "perf",
        Powercap = "powercap",
    }
}

table! {
    /// The energy counters of Intel and AMD processors.
    pub struct RaplKeys {
        /// How the counters are read.
        pub interface: Option<Interface>, otherwise("\"perf\" (perf events) if they are permitted, else \"powercap\""),
            example("\"powercap\"");
    }
}

impl MeterKind for RaplKeys {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        Box::new(Rapl::new(name, &surroundings.sysfs, self.interface))
    }
}

/// Returns the processor's counters, or why there are none.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    vec![Surveyed::meter("rapl".to_owned(), "rapl = {}".to_owned(), Rapl::new("rapl", machine.sysfs, None))]
}

/// Energy of the processor, by the best interface that can be read.
pub struct Rapl {
    info: MeterInfo,
    perf: Perf,
    powercap: Powercap,
    only: Option<Interface>,
    active: Option<Interface>,
    /// Why a better interface than the active one may not be used.
    note: Option<MeterError>,
    /// Added to the joules of the active interface, so that the sum never decreases; `None` until its first reading.
    before: Option<Joules>,
    joules: Joules,
}

impl Rapl {
    /// Creates a RAPL meter under the sysfs root `root`, normally `/sys`; it uses the interface `only` if one is named.
    pub fn new(name: &str, root: &Path, only: Option<Interface>) -> Self {
        let powercap = Powercap::new(name, root);
        Self {
            info: powercap.info().clone(),
            perf: Perf::new(name, root),
            powercap,
            only,
            active: None,
            note: None,
            before: None,
            joules: Joules(0.0),
        }
    }

    fn interface(&mut self, interface: Interface) -> &mut dyn Meter {
        match interface {
            Interface::Perf => &mut self.perf,
            Interface::Powercap => &mut self.powercap,
        }
    }

    /// Reads the first interface that can be read, and makes it the active one.
    ///
    /// # Errors
    /// Why none can be read, or that the one that can be read is still learned.
    fn choose(&mut self) -> Result<Reading, MeterError> {
        let mut failure: Option<MeterError> = None;
        let only = self.only;
        for interface in INTERFACES.into_iter().filter(|interface| only.is_none_or(|only| only == *interface)) {
            match self.interface(interface).read() {
                result @ (Ok(_) | Err(MeterError::NotYet { .. })) => {
                    self.note = failure.filter(|error| matches!(error, MeterError::Denied { .. }));
                    (self.active, self.before) = (Some(interface), None);
                    return result;
                }
                Err(error) => failure = Some(more_useful(failure, error)),
            }
        }
        Err(failure.unwrap_or(MeterError::Rebaselined { reason: "no interface to RAPL is left".to_owned() }))
    }

    /// Takes over what the active interface says of itself.
    fn renew_info(&mut self) {
        let info = match self.active {
            Some(Interface::Perf) => self.perf.info(),
            Some(Interface::Powercap) => self.powercap.info(),
            None => return,
        };
        let (ours, notes) = (&self.info.detail, usize::from(self.note.is_some()));
        let is_told = ours.len() == info.detail.len() + notes && ours.starts_with(&info.detail);
        if info.scope != self.info.scope || !is_told {
            self.info = info.clone();
            self.info.detail.extend(self.note.as_ref().map(|error| format!("perf events would be finer: {error}")));
        }
    }
}

/// Returns the one of two errors that the user can fix, or both in one.
fn more_useful(first: Option<MeterError>, second: MeterError) -> MeterError {
    match (first, second) {
        (Some(MeterError::Denied { path, fix }), second @ MeterError::Denied { .. }) => {
            MeterError::Denied { path, fix: format!("{fix}; or {second}") }
        }
        (Some(first @ MeterError::Denied { .. }), _) => first,
        (_, second) => second,
    }
}

impl Meter for Rapl {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let result = match self.active {
            Some(interface) => self.interface(interface).read(),
            None => self.choose(),
        };
        match &result {
            // The interface still works.
            Ok(_) | Err(MeterError::NotYet { .. } | MeterError::Rebaselined { .. } | MeterError::Stuck { .. }) => {}
            Err(_) => self.active = None,
        }
        self.renew_info();
        let mut reading = result?;
        let before = *self.before.get_or_insert(self.joules - reading.joules);
        reading.joules = before + reading.joules;
        self.joules = reading.joules;
        Ok(reading)
    }

    fn learning_pace(&self) -> Option<Duration> {
        match self.active? {
            Interface::Perf => self.perf.learning_pace(),
            Interface::Powercap => self.powercap.learning_pace(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const WITHOUT: &str = "without memory: there is no dram zone that counts";

    fn read(meter: &mut Rapl) -> Result<Reading, MeterError> {
        meter.powercap.assume_learned();
        meter.read()
    }

    #[test]
    fn without_events_it_is_powercap_and_comes_back_with_what_it_had() {
        let tree = Tree::new(&[]);
        tree.zone("intel-rapl:0", "package-0", 1_000_000);
        let mut meter = Rapl::new("package", tree.root(), None);
        assert_eq!(read(&mut meter).unwrap().joules, Joules(0.0));
        assert_eq!(meter.info().detail, ["package-0 (intel-rapl:0)", WITHOUT]);
        std::thread::sleep(Duration::from_millis(5));
        tree.energy("intel-rapl:0", 3_000_000);
        assert_eq!(read(&mut meter).unwrap().joules, Joules(2.0));
        tree.energy("intel-rapl:0", 1);
        tree.write("class/powercap/intel-rapl:0/energy_uj", "?\n");
        assert!(matches!(read(&mut meter), Err(MeterError::Invalid { .. })));
        tree.energy("intel-rapl:0", 7);
        assert_eq!(read(&mut meter).unwrap().joules, Joules(2.0));
    }

    #[test]
    fn a_better_interface_that_is_denied_is_named_in_the_detail() {
        let tree = Tree::new(&[]);
        tree.zone("intel-rapl:0", "package-0", 1_000_000);
        let mut meter = Rapl::new("package", tree.root(), None);
        read(&mut meter).unwrap();
        meter.note = Some(MeterError::Denied { path: "/p".into(), fix: "allow it".to_owned() });
        for _ in 0..2 {
            read(&mut meter).unwrap();
            let finer = "perf events would be finer: /p: permission denied; allow it";
            assert_eq!(meter.info().detail, ["package-0 (intel-rapl:0)", WITHOUT, finer]);
        }
        meter.note = None;
        read(&mut meter).unwrap();
        assert_eq!(meter.info().detail, ["package-0 (intel-rapl:0)", WITHOUT]);
    }

    #[test]
    fn an_interface_that_is_named_is_the_only_one() {
        let tree = Tree::new(&[]);
        tree.zone("intel-rapl:0", "package-0", 1_000_000);
        let error = Rapl::new("package", tree.root(), Some(Interface::Perf)).read().unwrap_err();
        assert!(error.to_string().contains("no RAPL events"), "{error}");
        assert!(read(&mut Rapl::new("package", tree.root(), Some(Interface::Powercap))).is_ok());
    }

    #[test]
    fn the_error_that_can_be_fixed_is_returned() {
        let absent = || MeterError::Absent { path: "/a".into(), reason: "none".to_owned(), fix: "load it".to_owned() };
        let denied = |path: &str| MeterError::Denied { path: path.into(), fix: "allow it".to_owned() };
        assert_eq!(more_useful(Some(denied("/p")), absent()).to_string(), "/p: permission denied; allow it");
        assert_eq!(more_useful(Some(absent()), denied("/c")).to_string(), "/c: permission denied; allow it");
        assert_eq!(
            more_useful(Some(denied("/p")), denied("/c")).to_string(),
            "/p: permission denied; allow it; or /c: permission denied; allow it"
        );
    }
}
