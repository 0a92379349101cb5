//! The meters of the configuration, built and not read yet.

use std::path::Path;
use std::time::Duration;

use crate::config::{self, MeterKind, Power, RaplInterface, TraceValue};
use crate::meter::estimate::Estimate;
use crate::meter::hwmon::{self, Hwmon};
use crate::meter::iio::{self, Iio};
use crate::meter::ina219::{self, Ina219};
use crate::meter::pmic::Pmic;
use crate::meter::rapl::{Interface, Rapl};
use crate::meter::replay::{self, Replay};
use crate::meter::{Meter, Scope};
use crate::sys::cpu::Children;
use crate::units::Watts;

/// The meters of the configuration, none of them read yet; an estimate counts the time of `children`, too.
pub(crate) fn build(power: &Power, children: &Children) -> Vec<Box<dyn Meter>> {
    power.meters.iter().map(|meter| build_one(power, meter, children)).collect()
}

fn build_one(power: &Power, meter: &config::Meter, children: &Children) -> Box<dyn Meter> {
    let (name, sysfs, period) = (&meter.name, &power.sysfs, power.sample_period);
    match &meter.kind {
        MeterKind::Rapl(interface) => {
            let way = interface.map(|interface| match interface {
                RaplInterface::Perf => Interface::Perf,
                RaplInterface::Powercap => Interface::Powercap,
            });
            Box::new(Rapl::new(name, sysfs, way))
        }
        MeterKind::Hwmon(config) => {
            let selector = hwmon::Selector {
                chip: config.chip.clone(),
                device: config.device.clone(),
                channel: config.channel,
                label: config.label.clone(),
            };
            Box::new(Hwmon::new(name, sysfs, selector, scope(config.scope), period))
        }
        MeterKind::Ina219(config) => {
            Box::new(Ina219::new(name, sysfs, chip(config, period), scope(config.scope), period))
        }
        MeterKind::Iio(config) => {
            let selector = iio::Selector {
                chip: config.chip.clone(),
                device: config.device.clone(),
                shunt_ohms: config.shunt_ohms,
                shunt_tolerance: config.shunt_tolerance,
            };
            Box::new(Iio::new(name, sysfs, selector, scope(config.scope), period))
        }
        MeterKind::Pmic => Box::new(Pmic::new(name, Path::new("/dev/vcio"), period)),
        MeterKind::Replay(trace) => {
            let value = match &trace.value {
                TraceValue::Watts(column) => replay::Value::Watts(column.clone()),
                TraceValue::Joules(column) => replay::Value::Joules(column.clone()),
            };
            let columns = replay::Columns { time: trace.time.clone(), time_unit_ns: trace.time_unit_ns, value };
            Box::new(Replay::new(name, &trace.path, columns, scope(trace.scope)))
        }
        MeterKind::Estimate { watts_per_core, idle_watts } => {
            Box::new(Estimate::new(name, Watts(*watts_per_core), Watts(*idle_watts), children.clone()))
        }
    }
}

fn chip(config: &config::Ina219, period: Duration) -> ina219::Chip {
    let config::Ina219 { bus, address, shunt_ohms, shunt_tolerance, max_amperes, max_volts, averages, .. } = *config;
    let averages = averages.unwrap_or_else(|| ina219::Setup::averages_within(period));
    let shunt_volts = max_amperes.unwrap_or(f64::INFINITY) * shunt_ohms;
    let setup = ina219::Setup::new(shunt_volts, max_volts, averages);
    ina219::Chip { bus, address, shunt_ohms, shunt_tolerance, setup }
}

fn scope(scope: config::Scope) -> Scope {
    match scope {
        config::Scope::Board => Scope::Board,
        config::Scope::Device => Scope::Device,
        config::Scope::Package => Scope::Package,
    }
}
