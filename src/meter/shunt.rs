//! A current through a shunt resistor, for the chips that give the voltages across and behind it.
//!
//! Pure. Power is always voltage times current, computed here: the chips' own power and current registers are coarser
//! and depend on a calibration that a driver may have set for another shunt.

use crate::units::Watts;

/// The largest offset of an INA219's shunt voltage, at its widest range (datasheet SBOS448G, 7.5: 200 uV at PGA /8).
const OFFSET_VOLTS: f64 = 200e-6;

/// How far an INA219 and its kin may be off in scale: 0.5 % in current and 0.5 % in voltage (SBOS448G, 7.5).
pub(crate) const GAIN_ERROR_REL: f64 = 0.01;

/// What flows to the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Flow {
    pub volts: f64,
    pub amperes: f64,
    pub watts: Watts,
}

impl Flow {
    /// The steps in which the power comes, where current and voltage come in steps of `amperes` and `volts`.
    pub(crate) fn quantum(&self, amperes: f64, volts: f64) -> Watts {
        Watts((self.volts * amperes).hypot(self.amperes * volts))
    }
}

/// The flow that `shunt_volts` across `shunt_ohms` and `bus_volts` behind them stand for; `None` where it runs
/// backwards by more than the chip's offset.
///
/// A voltage below zero within the offset cannot be told from no current, which it is then.
pub(crate) fn flow(shunt_volts: f64, shunt_ohms: f64, bus_volts: f64) -> Option<Flow> {
    if shunt_volts < -OFFSET_VOLTS || bus_volts < 0.0 {
        return None;
    }
    let amperes = shunt_volts.max(0.0) / shunt_ohms;
    Some(Flow { volts: bus_volts, amperes, watts: Watts(bus_volts * amperes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_voltage_times_current() {
        let flow = flow(0.06, 0.1, 5.0).unwrap();
        assert!((flow.amperes - 0.6).abs() < 1e-12 && (flow.watts.0 - 3.0).abs() < 1e-12, "{flow:?}");
        assert_eq!(flow.volts, 5.0);
    }

    #[test]
    fn an_offset_is_no_current_and_a_real_current_backwards_is_none() {
        assert_eq!(flow(-150e-6, 0.1, 5.0).unwrap().watts, Watts(0.0));
        assert_eq!(flow(-0.01, 0.1, 5.0), None);
        assert_eq!(flow(0.01, 0.1, -1.0), None);
    }
}
