//! What a chip's file says of its chip.

use std::time::Duration;

use super::super::Scale;
use super::super::plausible::Limits;
use super::bus::{Bus, Register};
use crate::meter::MeterError;

/// A chip that measures a current and a voltage.
pub(crate) trait Chip: Send {
    fn model(&self) -> &'static Model;

    /// Returns the shunt; `None` if it is in the chip.
    fn shunt_ohms(&self) -> Option<f64>;

    /// Returns the register of the current or of the shunt voltage.
    fn current(&self) -> Register;

    /// Chooses the configuration, whose conversions fill the `period` between two reads.
    fn plan(&mut self, period: Duration) -> Plan;

    /// Reads the flags and clears them.
    ///
    /// # Errors
    /// Those of the bus.
    fn look(&mut self, bus: &mut Bus<'_>) -> Result<Look, MeterError>;

    /// Reads what the last conversion has measured; follows [`Chip::look`].
    ///
    /// # Errors
    /// Those of the bus.
    fn sample(&mut self, bus: &mut Bus<'_>) -> Result<Sample, MeterError>;
}

/// What all chips of one kind have in common.
#[derive(Debug)]
pub(crate) struct Model {
    /// The kind of the meter, which is also the kernel's name of the chip.
    pub kind: &'static str,
    pub name: &'static str,
    /// The lowest and the highest address that its pins can set.
    pub addresses: [u16; 2],
    /// The flag of a completed conversion, and its register.
    pub ready: (&'static str, Register),
    pub identity: Option<Identity>,
    /// What was expected instead of a value at the end of the range.
    pub below_end: &'static str,
    /// Whether the kernel's driver `ina2xx-adc` of IIO knows the chip, too (`drivers/iio/adc/ina2xx-adc.c`).
    pub has_iio: bool,
}

/// The registers by which a chip is recognized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub manufacturer: Register,
    pub die: Register,
    /// The die register without its lowest four bits, which are the revision.
    pub die_id: u16,
    pub expected: &'static str,
}

/// A register that is written when the chip is configured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting {
    pub register: Register,
    pub word: u16,
    /// Whether it is read back now and then. A register that clears its flags when it is read is not.
    pub is_verified: bool,
}

impl Setting {
    pub(crate) const fn new(register: Register, word: u16) -> Self {
        Self { register, word, is_verified: true }
    }
}

/// A configuration, and what follows from it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are written.
    pub settings: Vec<Setting>,
    /// The time from one completed conversion to the next, with all averages.
    pub cycle: Duration,
    pub averages: u16,
    /// The fraction of the time in which the current is measured.
    pub seen: f64,
    /// `None` if the shunt is in the chip.
    pub shunt_ohms: Option<f64>,
    /// The steps of current and voltage.
    pub step_amperes: f64,
    pub step_volts: f64,
    /// The largest values that can be measured.
    pub end_amperes: f64,
    pub end_volts: f64,
    /// A current backwards up to this is none.
    pub none_amperes: f64,
    pub errors: Errors,
    /// The chip's own counter of energy, if it has one.
    pub counter: Option<CounterPlan>,
}

impl Plan {
    /// Returns the limits of sign and size; the ends of the range are judged in steps.
    pub(crate) fn limits(&self) -> Limits {
        Limits { offset_amperes: self.none_amperes, ..Limits::default() }
    }

    /// Whether a value is at the end of its range, where it is clipped.
    pub(crate) fn is_at_end(&self, sample: &Sample) -> bool {
        sample.amperes.abs() > self.end_amperes - self.step_amperes / 2.0
            || sample.volts > self.end_volts - self.step_volts / 2.0
    }

    /// Returns the values as text, for an error.
    pub(crate) fn show(&self, Sample { amperes, volts, .. }: &Sample) -> String {
        match self.shunt_ohms {
            Some(ohms) => format!("{:.2} mV across the shunt at {volts:.3} V", amperes * ohms * 1e3),
            None => format!("{amperes:.4} A at {volts:.3} V"),
        }
    }
}

/// The largest errors by the data sheet, and those of the shunt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Errors {
    /// The gains of current and voltage and the tolerance of the shunt, added up, as a fraction.
    pub gain: f64,
    pub offset_amperes: f64,
    pub offset_volts: f64,
}

impl Errors {
    /// Returns the errors of a power at `volts`: an offset of the voltage is a part of it, whatever the current.
    pub(crate) fn scale(&self, volts: f64) -> Scale {
        let of_offset = if self.offset_volts > 0.0 { self.offset_volts / volts.max(self.offset_volts) } else { 0.0 };
        Scale { gain_error: Some(self.gain + of_offset), offset_w: self.offset_amperes * volts }
    }
}

/// The counter of energy in a chip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CounterPlan {
    /// How often the chip adds to it.
    pub update: Duration,
    pub joules_a_step: f64,
    pub bits: u32,
    /// The most power that the chip can measure.
    pub most_watts: f64,
}

/// What the flags of a chip say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Look {
    /// Whether a conversion has ended since the last look.
    pub has_converted: bool,
    pub fault: Option<Fault>,
}

/// A flag that says that the values are not a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fault {
    pub register: Register,
    pub flag: &'static str,
    pub expected: &'static str,
}

/// What a conversion has measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub amperes: f64,
    pub volts: f64,
    /// The register of the current or of the shunt voltage, in steps.
    pub raw: i64,
    /// The chip's counter of energy, in steps.
    pub counter: Option<u64>,
}
