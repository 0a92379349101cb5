//! The estimate meter: joules from a linear model of the processor, for machines without a sensor.
//!
//! It covers neither other processes nor an accelerator; its energy is always published as `estimated`.

use std::time::Duration;

use super::survey::{Finding, Machine, State, Surveyed};
use super::{Accuracy, Meter, MeterError, MeterInfo, MeterKind, Reading, Resolution, Scale, Scope, Surroundings};
use crate::schema::{Checker, Key, table};
use crate::sys::cpu::Children;
use crate::units::{Joules, MonoTime, Watts, process_cpu_time};

table! {
    /// No measurement: processor time times assumed watts. Every figure says so.
    pub struct EstimateKeys {
        /// The power that one busy core adds.
        pub watts_per_core: f64, range(0.0, 1000.0), unit("W"), example("2.0");
        /// The power of the idle machine.
        pub idle_watts: f64, range(0.0, 10_000.0), unit("W"), example("2.5");
    }
}

impl MeterKind for EstimateKeys {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        let children = surroundings.children.clone();
        Box::new(Estimate::new(name, Watts(self.watts_per_core), Watts(self.idle_watts), children))
    }

    fn is_sensed(&self) -> bool {
        false
    }
}

/// Returns the one meter that every machine has.
pub fn survey(_: &Machine<'_>) -> Vec<Surveyed> {
    let says = "always available, but no measurement: CPU time times assumed watts";
    let estimate = Finding::new("estimate", State::Usable { says });
    let config = Some("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }".to_owned());
    vec![Surveyed::Finding(Finding { config, ..estimate })]
}

/// Processor time of this process times watts per core, plus idle watts times the wall time.
#[derive(Debug)]
pub struct Estimate {
    info: MeterInfo,
    core: Watts,
    idle: Watts,
    children: Children,
    last: Option<(MonoTime, Duration)>,
    joules: Joules,
}

impl Estimate {
    /// Creates the model: `core` is what one busy core adds, `idle` what the machine draws while nothing runs.
    pub fn new(name: &str, core: Watts, idle: Watts, children: Children) -> Self {
        let info = MeterInfo {
            name: name.to_owned(),
            kind: "estimate",
            scope: Scope::Process,
            estimated: true,
            detail: vec![format!("process CPU time x {} W per core + {} W idle", core.0, idle.0)],
            basis: Vec::new(),
        };
        Self { info, core, idle, children, last: None, joules: Joules(0.0) }
    }

    /// Returns the reading at `now`; the process has used `cpu` of processor time so far.
    fn step(&mut self, now: MonoTime, cpu: Duration) -> Reading {
        let last = self.last.replace((now, cpu));
        let power = last.and_then(|(then, cpu_then)| {
            let wall = now.since(then);
            let joules = self.core.over(cpu.saturating_sub(cpu_then)) + self.idle.over(wall);
            self.joules = self.joules + joules;
            joules.per(wall)
        });
        let accuracy = Accuracy { resolution: Resolution::Model { idle: Some(self.idle) }, scale: Scale::UNKNOWN };
        Reading { time: now, joules: self.joules, power, volts: None, amperes: None, scope: self.info.scope, accuracy }
    }
}

impl Meter for Estimate {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        Ok(self.step(MonoTime::now(), process_cpu_time() + self.children.cpu_time()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_cpu_time_add_up() {
        let mut meter = Estimate::new("model", Watts(2.0), Watts(3.0), Children::default());
        let at = |s: u64| MonoTime(s * 1_000_000_000);
        let first = meter.step(at(10), Duration::from_secs(7));
        assert_eq!((first.joules, first.power), (Joules(0.0), None));
        let second = meter.step(at(14), Duration::from_secs(8));
        assert_eq!((second.joules, second.power), (Joules(14.0), Some(Watts(3.5))));
        let third = meter.step(at(15), Duration::from_secs(10));
        assert_eq!(third.joules, Joules(21.0));
        assert!(meter.info().estimated);
    }

    #[test]
    fn real_clocks_give_at_least_the_idle_energy() {
        let mut meter = Estimate::new("model", Watts(2.0), Watts(3.0), Children::default());
        let first = meter.read().unwrap();
        let second = meter.read().unwrap();
        let idle = Watts(3.0).over(second.time.since(first.time));
        assert!(second.joules.0 >= idle.0 && second.time >= first.time);
    }
}
