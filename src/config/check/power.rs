//! Judging the meters.

use std::time::Duration;

use super::super::checked::{Ina219, Meter, MeterKind, Power, Trace, TraceValue};
use super::super::{Key, raw};
use super::Check;

/// What an INA219 can be told to average (datasheet SBOS448G, table 5).
const INA219_AVERAGES: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// The largest shunt voltage that it can measure.
const INA219_SHUNT_VOLTS: f64 = 0.32;
/// What it withstands.
const INA219_BUS_VOLTS: f64 = 26.0;
/// What its two address pins can set.
const INA219_ADDRESSES: [u16; 2] = [0x40, 0x4f];
/// The time without inference at the start that idle power is measured in, where a sensor is configured.
const IDLE_TIME: Duration = Duration::from_secs(12);

impl Check {
    pub(super) fn power(&mut self, power: raw::Power) -> Power {
        let key = Key::new(&["power"]);
        self.within(&key.child("sample_ms"), power.sample_ms, 1, 60_000);
        let mut meters = Vec::new();
        for (name, meter) in power.meters {
            let key = key.child("meters").child(&name);
            self.topic_level(&key, &name);
            if let Some(kind) = self.meter(&key, meter) {
                meters.push(Meter { name, kind });
            }
        }
        let idle = power.idle_watts.map(|watts| self.within(&key.child("idle_watts"), watts, 0.0, 10_000.0));
        let quiet = match power.idle_s {
            Some(seconds) => self.seconds(&key.child("idle_s"), seconds, 0.0, 3600.0),
            None if idle.is_none() && meters.iter().any(Meter::is_sensed) => IDLE_TIME,
            None => Duration::ZERO,
        };
        let interval_key = key.child("interval_s");
        let interval =
            (power.interval_s != 0.0).then(|| self.seconds(&interval_key, power.interval_s, 0.001, 86_400.0));
        Power {
            sysfs: self.folder.join(power.sysfs),
            sample_period: Duration::from_millis(power.sample_ms),
            interval,
            idle,
            quiet,
            configured_quiet: power.idle_s.map(|_| quiet),
            target_rel: self.within(&key.child("target_rel"), power.target_rel, 0.001, 1.0),
            window_max: self.seconds(&key.child("window_max_s"), power.window_max_s, 0.1, 3600.0),
            calibrate_at_start: power.calibrate_at_start,
            meters,
        }
    }

    fn meter(&mut self, key: &Key, meter: raw::Meter) -> Option<MeterKind> {
        Some(match meter {
            raw::Meter::Rapl(raw::Rapl { interface }) => MeterKind::Rapl(interface),
            raw::Meter::Hwmon(hwmon) => MeterKind::Hwmon(hwmon),
            raw::Meter::Ina219(raw) => MeterKind::Ina219(self.ina219(&key.child("ina219"), &raw)),
            raw::Meter::Iio(iio) => {
                let key = key.child("iio");
                self.within(&key.child("shunt_ohms"), iio.shunt_ohms, 1e-5, 100.0);
                self.tolerance(&key, iio.shunt_tolerance);
                MeterKind::Iio(iio)
            }
            raw::Meter::Pmic(raw::Pmic {}) => MeterKind::Pmic,
            raw::Meter::Replay(trace) => MeterKind::Replay(self.trace(&key.child("replay"), trace)?),
            raw::Meter::Estimate(estimate) => {
                let key = key.child("estimate");
                self.within(&key.child("watts_per_core"), estimate.watts_per_core, 0.0, 1000.0);
                self.within(&key.child("idle_watts"), estimate.idle_watts, 0.0, 10_000.0);
                MeterKind::Estimate { watts_per_core: estimate.watts_per_core, idle_watts: estimate.idle_watts }
            }
        })
    }

    fn ina219(&mut self, key: &Key, raw: &raw::Ina219) -> Ina219 {
        let [lowest, highest] = INA219_ADDRESSES;
        if !(lowest..=highest).contains(&raw.address) {
            let message =
                format!("{:#04x} is no address of an INA219; they are {lowest:#04x} to {highest:#04x}", raw.address);
            self.problem(&key.child("address"), message);
        }
        let shunt_ohms = self.within(&key.child("shunt_ohms"), raw.shunt_ohms, 1e-5, 100.0);
        self.within(&key.child("max_volts"), raw.max_volts, 0.1, INA219_BUS_VOLTS);
        // In whole microamperes, as 0.32 / 0.1 is a little less than 3.2.
        let most_amperes = (INA219_SHUNT_VOLTS / shunt_ohms * 1e6).round() / 1e6;
        if let Some(amperes) = raw.max_amperes.filter(|amperes| !(1e-6..=most_amperes).contains(amperes)) {
            let message = format!(
                "{amperes} is out of range; the chip measures {INA219_SHUNT_VOLTS} V across the shunt, here {most_amperes} A"
            );
            self.problem(&key.child("max_amperes"), message);
        }
        if let Some(averages) = raw.averages.filter(|averages| !INA219_AVERAGES.contains(averages)) {
            self.problem(
                &key.child("averages"),
                format!("{averages} is not offered; use 1, 2, 4, 8, 16, 32, 64 or 128"),
            );
        }
        Ina219 {
            bus: raw.bus,
            address: raw.address,
            shunt_ohms,
            max_amperes: raw.max_amperes,
            max_volts: raw.max_volts,
            averages: raw.averages,
            shunt_tolerance: self.tolerance(key, raw.shunt_tolerance),
            scope: raw.scope,
        }
    }

    fn tolerance(&mut self, key: &Key, part: f64) -> f64 {
        self.within(&key.child("shunt_tolerance"), part, 0.0, 0.5)
    }

    fn trace(&mut self, key: &Key, raw: raw::Trace) -> Option<Trace> {
        let value = match (raw.watts, raw.joules) {
            (Some(watts), None) => TraceValue::Watts(watts),
            (None, Some(joules)) => TraceValue::Joules(joules),
            _ => {
                self.problem(key, "name the column with what was metered: either watts or joules");
                return None;
            }
        };
        let (path, time_unit_ns) = (self.folder.join(raw.path), raw.time_unit.ns());
        Some(Trace { path, time: raw.time, time_unit_ns, value, scope: raw.scope })
    }
}
