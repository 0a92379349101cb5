//! Power from a current through a shunt resistor, for chips that measure the voltages across and behind it.
//!
//! Pure. Power is always voltage times current, computed here: the chips' own power and current registers are coarser
//! and depend on a calibration that a driver may have set for another shunt.

use super::Scale;
use super::plausible::{Limits, Shown};
use crate::units::Watts;

/// The largest offset of an INA219's shunt voltage, at its widest range (datasheet SBOS448G, 7.5: 200 uV at PGA /8).
pub(crate) const OFFSET_VOLTS: f64 = 200e-6;

/// Scale error of an INA219 and similar chips: 0.5 % in current and 0.5 % in voltage (SBOS448G, 7.5).
pub(crate) const GAIN_ERROR: f64 = 0.01;

/// Returns the errors of scale of a chip with a shunt that may be off by the fraction `shunt_tolerance`.
pub(crate) fn scale(shunt_tolerance: f64) -> Scale {
    Scale { gain_error: Some(GAIN_ERROR + shunt_tolerance), offset_w: 0.0 }
}

/// Returns the shunt as a part of `MeterInfo::basis`.
pub(crate) fn basis(shunt_ohms: f64) -> Vec<String> {
    vec![format!("shunt {shunt_ohms} Ohm")]
}

/// What flows to the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Flow {
    pub volts: f64,
    pub amperes: f64,
    pub watts: Watts,
}

impl Flow {
    /// Returns the flow of `amperes` at `volts`.
    ///
    /// A current backwards within the offset cannot be distinguished from no current, and counts as none.
    ///
    /// # Errors
    /// What was expected, if this is not a measurement of what flows to the load.
    pub(crate) fn new(amperes: f64, volts: f64, limits: &Limits) -> Result<Self, &'static str> {
        let shown = Shown { watts: volts * amperes, volts: Some(volts), amperes: Some(amperes) };
        let watts = limits.judge(&shown).map_err(|fault| fault.expected)?;
        Ok(Self { volts, amperes: amperes.max(0.0), watts })
    }

    /// Returns the step of power if current and voltage come in steps of `amperes` and `volts`.
    pub(crate) fn quantum(&self, amperes: f64, volts: f64) -> Watts {
        Watts((self.volts * amperes).hypot(self.amperes * volts))
    }
}

/// Returns the flow for `shunt_volts` across `shunt_ohms` and `bus_volts` behind them.
///
/// # Errors
/// Those of [`Flow::new`]. The ends of the ranges are left to the caller, who knows the registers.
pub(crate) fn flow(shunt_volts: f64, shunt_ohms: f64, bus_volts: f64) -> Result<Flow, &'static str> {
    let limits = Limits { offset_amperes: OFFSET_VOLTS / shunt_ohms, ..Limits::default() };
    Flow::new(shunt_volts / shunt_ohms, bus_volts, &limits)
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
        assert!(flow(-0.01, 0.1, 5.0).unwrap_err().contains("wired backwards"));
        assert!(flow(0.01, 0.1, -1.0).is_err());
        assert!(flow(0.3, 1e-5, 26.0).unwrap_err().contains("less than 10 kW"), "780 kW");
    }
}
