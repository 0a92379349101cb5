//! What a sensor can have measured: one rule of sign, range and size for all sensors of power.
//!
//! Pure: values are passed in. A value that breaks the rule is refused with what was expected instead. Values at the end of a
//! range that no one has told are found by `snapshots`.

use crate::units::Watts;

/// More than a supply that such sensors measure; a driver shows 0xffffffff mW if the chip does not respond.
pub(crate) const MOST_WATTS: f64 = 10_000.0;
pub(crate) const MOST_VOLTS: f64 = 1_000.0;

/// Within so much of the end of the range, the value is at the end.
const END: f64 = 0.999;

/// What a sensor shows at one time, in watts, volts and amperes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shown {
    pub watts: f64,
    pub volts: Option<f64>,
    pub amperes: Option<f64>,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Implausible {
    pub quantity: Quantity,
    pub expected: &'static str,
    /// The true value may be larger.
    pub is_overrange: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    Power,
    Voltage,
    Current,
}

impl Quantity {
    /// Returns the value with its unit.
    pub(crate) fn show(self, shown: &Shown) -> String {
        match self {
            Self::Power => format!("{} W", shown.watts),
            Self::Voltage => format!("{} V", shown.volts.unwrap_or(f64::NAN)),
            Self::Current => format!("{} A", shown.amperes.unwrap_or(f64::NAN)),
        }
    }
}

/// What a sensor can show at most, and by how much its zero may be off.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Limits {
    /// A current backwards up to this is none.
    pub offset_amperes: f64,
    /// The ends of its ranges, as far as they are known.
    pub end_amperes: Option<f64>,
    pub end_volts: Option<f64>,
}

const BACKWARDS: &str = "0 or more; check whether the shunt is wired backwards, or a battery is being charged";
const AT_THE_END: &str = "less than that: it is at the end of its range, so the true value may be larger; use a smaller shunt or another sensor";

impl Limits {
    /// Returns the power that flows to the load. A current backwards within the offset counts as none.
    ///
    /// # Errors
    /// [`Implausible`]: the value is not a measurement of what flows to the load.
    pub(crate) fn judge(&self, shown: &Shown) -> Result<Watts, Implausible> {
        let fault = |quantity, expected| Err(Implausible { quantity, expected, is_overrange: false });
        let at_the_end = |quantity| Err(Implausible { quantity, expected: AT_THE_END, is_overrange: true });
        let is_beyond =
            |value: Option<f64>, most: f64| value.is_some_and(|value| value.is_nan() || value.abs() >= most);
        if is_beyond(Some(shown.watts), MOST_WATTS) {
            return fault(Quantity::Power, "less than 10 kW; the driver shows a value that was not measured");
        }
        if is_beyond(shown.volts, MOST_VOLTS) {
            return fault(Quantity::Voltage, "less than 1 kV; the driver shows a value that was not measured");
        }
        if is_beyond(shown.amperes, self.end_amperes.map_or(f64::INFINITY, |end| end * END)) {
            return at_the_end(Quantity::Current);
        }
        if is_beyond(shown.volts, self.end_volts.map_or(f64::INFINITY, |end| end * END)) {
            return at_the_end(Quantity::Voltage);
        }
        // A chip's power can be without a sign; its current has one.
        if shown.amperes.is_some_and(|amperes| amperes < -self.offset_amperes) {
            return fault(Quantity::Current, BACKWARDS);
        }
        if shown.volts.is_some_and(|volts| volts < 0.0) {
            return fault(Quantity::Voltage, BACKWARDS);
        }
        if shown.watts < -self.offset_amperes * shown.volts.unwrap_or(1.0) {
            return fault(Quantity::Power, BACKWARDS);
        }
        let flows = shown.amperes.is_none_or(|amperes| amperes >= 0.0);
        Ok(Watts(if flows { shown.watts.max(0.0) } else { 0.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INA219: Limits = Limits { offset_amperes: 0.002, end_amperes: Some(3.2), end_volts: Some(32.0) };

    fn judged(watts: f64, volts: f64, amperes: f64) -> Result<f64, String> {
        let shown = Shown { watts, volts: Some(volts), amperes: Some(amperes) };
        let text = |fault: Implausible| format!("{}, expected {}", fault.quantity.show(&shown), fault.expected);
        INA219.judge(&shown).map(|watts| watts.0).map_err(text)
    }

    #[test]
    fn what_flows_to_the_load_is_taken() {
        assert_eq!(judged(3.0, 5.0, 0.6), Ok(3.0));
        assert_eq!(Limits::default().judge(&Shown { watts: 7.0, volts: None, amperes: None }), Ok(Watts(7.0)));
    }

    /// A rail without load, whose current is off by the chip's offset, stays a meter.
    #[test]
    fn open_mmc_50_a_rail_at_minus_1_ma_is_no_power() {
        assert_eq!(judged(-0.005, 5.0, -0.001), Ok(0.0));
        assert_eq!(judged(0.01, 5.0, -0.002), Ok(0.0));
    }

    #[test]
    fn a_current_backwards_is_refused_though_the_power_has_no_sign() {
        let error = judged(3.0, 5.0, -0.6).unwrap_err();
        assert!(error.starts_with("-0.6 A, expected 0 or more") && error.contains("wired backwards"), "{error}");
        assert!(judged(-3.0, 5.0, 0.0).unwrap_err().starts_with("-3 W, expected 0 or more"));
        assert!(judged(0.0, -1.0, 0.0).unwrap_err().starts_with("-1 V, expected 0 or more"));
    }

    /// A driver that shows 32 bits of ones, in milliwatts, for a chip that does not respond.
    #[test]
    fn lm_sensors_460_ffffffff_mw_are_no_power() {
        let error = judged(4_294_967.295, 5.0, 0.6).unwrap_err();
        assert!(error.starts_with("4294967.295 W, expected less than 10 kW"), "{error}");
        assert!(judged(1.0, 65_535.0, 0.1).unwrap_err().contains("less than 1 kV"));
        assert!(judged(f64::NAN, 5.0, 0.1).is_err());
    }

    #[test]
    fn the_end_of_a_range_is_no_value() {
        assert!(judged(16.0, 5.0, 3.2).unwrap_err().starts_with("3.2 A, expected less than that: it is at the end"));
        assert!(judged(16.0, 32.0, 0.5).unwrap_err().starts_with("32 V, expected less than that"));
        assert!(judged(-16.0, 5.0, -3.2).is_err());
        assert_eq!(judged(15.5, 5.0, 3.1), Ok(15.5));
    }
}
