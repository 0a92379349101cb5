//! The meters of the configuration, built and not read yet.

use crate::config::{self, Power};
use crate::meter::corrected::Corrected;
use crate::meter::{Meter, Surroundings};
use crate::sys::cpu::Children;

/// Returns the meters of the configuration; an estimate counts the processor time of `children`, too.
pub fn build(power: &Power, children: &Children) -> Vec<Box<dyn Meter>> {
    let surroundings =
        Surroundings { sysfs: power.sysfs.clone(), period: power.sample_period, children: children.clone() };
    let build = |meter: &config::Meter| {
        Corrected::of(meter.kind.kind().build(&meter.name, &surroundings), meter.corrections.clone())
    };
    power.meters.iter().map(build).collect()
}
