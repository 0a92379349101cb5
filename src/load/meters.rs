//! The meters of the configuration, built and not read yet.

use crate::config::Power;
use crate::meter::{Meter, Surroundings};
use crate::sys::cpu::Children;

/// Returns the meters of the configuration; an estimate counts the processor time of `children`, too.
pub fn build(power: &Power, children: &Children) -> Vec<Box<dyn Meter>> {
    let surroundings =
        Surroundings { sysfs: power.sysfs.clone(), period: power.sample_period, children: children.clone() };
    power.meters.iter().map(|meter| meter.kind.kind().build(&meter.name, &surroundings)).collect()
}
