//! The INA260, read directly over `/dev/i2c-N`: its keys, its registers and what their bits mean.
//!
//! Source: Texas Instruments, INA260 data sheet SBOS656C, 7.5 (electrical characteristics) and 8.6 (register maps).

use std::time::Duration;

use super::ina::{
    Bus, Chip, ChipKeys, Errors, Identity, Look, Model, Place, Plan, Register, Sample, Setting, Timing, keys,
};
use super::survey::{Machine, Surveyed};
use super::{MeterError, Scope, Surroundings};
use crate::schema::table;

table! {
    /// An INA260 that no kernel driver uses, read directly over /dev/i2c-N. Its shunt is in the chip; it measures up to 15 A and 36 V.
    pub struct Ina260Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's two address pins set.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x4f");
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl ChipKeys for Ina260Keys {
    const MODEL: &Model = &MODEL;

    fn place(&self) -> Place {
        Place { bus: self.bus, address: self.address }
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn chip(&self, _: &Surroundings) -> Box<dyn Chip> {
        Box::new(Ina260)
    }
}

/// Returns the chips that the kernel knows but has no driver for.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    keys::known(machine, &MODEL, "")
}

const CONFIGURATION: Register = Register::new(0x00, "Configuration");
const CURRENT: Register = Register::new(0x01, "Current");
const BUS_VOLTAGE: Register = Register::new(0x02, "BusVoltage");
/// Reading it clears its conversion-ready bit.
const MASK_ENABLE: Register = Register::new(0x06, "MaskEnable");

const MODEL: Model = Model {
    kind: "ina260",
    name: "INA260",
    addresses: [0x40, 0x4f],
    ready: ("CVRF", MASK_ENABLE),
    identity: Some(Identity {
        manufacturer: Register::new(0xfe, "ManufacturerId"),
        die: Register::new(0xff, "DieId"),
        die_id: 0x227,
        expected: "0x5449 and 0x227., the manufacturer and the die of an INA260",
    }),
    below_end: "less than 15 A and 36 V, for which the chip is specified; use another chip",
    has_iio: false,
};

/// Bits 14 to 12 of the configuration, which always are so.
const FIXED_BITS: u16 = 0x6000;
const READY: u16 = 1 << 3;

const STEP_AMPERES: f64 = 1.25e-3;
const STEP_VOLTS: f64 = 1.25e-3;

/// The largest errors (7.5): 0.5 % of the current over temperature (0.15 % at 25 degrees), and 0.1 % of the voltage; offsets
/// of 5 mA and 7.5 mV.
const GAIN_ERROR: f64 = 0.005 + 0.001;
const OFFSET_AMPERES: f64 = 5e-3;
const OFFSET_VOLTS: f64 = 7.5e-3;
/// A current backwards up to this is none: the offset, and what 36 V add to it at up to 150 uA/V (7.5, common-mode rejection).
const NONE_AMPERES: f64 = 10.4e-3;

/// Converts the current register to amperes: two's complement.
fn amperes(word: u16) -> f64 {
    f64::from(word.cast_signed()) * STEP_AMPERES
}

/// Converts the bus voltage register to volts. Bit 15 is always 0.
fn volts(word: u16) -> f64 {
    f64::from(word & 0x7fff) * STEP_VOLTS
}

/// The chip of one meter.
#[derive(Debug)]
struct Ina260;

impl Chip for Ina260 {
    fn model(&self) -> &'static Model {
        &MODEL
    }

    fn shunt_ohms(&self) -> Option<f64> {
        None
    }

    fn current(&self) -> Register {
        CURRENT
    }

    fn plan(&mut self, period: Duration) -> Plan {
        let timing = Timing::within(period, 1);
        Plan {
            settings: vec![Setting::new(CONFIGURATION, FIXED_BITS | timing.bits())],
            cycle: timing.cycle(),
            averages: timing.averages(),
            seen: timing.seen(),
            shunt_ohms: None,
            step_amperes: STEP_AMPERES,
            step_volts: STEP_VOLTS,
            end_amperes: 15.0,
            end_volts: 36.0,
            none_amperes: NONE_AMPERES,
            errors: Errors { gain: GAIN_ERROR, offset_amperes: OFFSET_AMPERES, offset_volts: OFFSET_VOLTS },
            counter: None,
        }
    }

    fn look(&mut self, bus: &mut Bus<'_>) -> Result<Look, MeterError> {
        // OVF is about the chip's own power, which is not used.
        Ok(Look { has_converted: bus.word(MASK_ENABLE)? & READY != 0, fault: None })
    }

    fn sample(&mut self, bus: &mut Bus<'_>) -> Result<Sample, MeterError> {
        let word = bus.word(CURRENT)?;
        let volts = volts(bus.word(BUS_VOLTAGE)?);
        Ok(Sample { amperes: amperes(word), volts, raw: word.cast_signed().into(), counter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::ina::tests::{Flag, Virtual, assert_fails, close_to, detail, new_meter, read, read_new};

    /// 12 V and 10 A.
    fn registers() -> Virtual {
        let words = [(0x00, 0x6127), (0x01, 8_000), (0x02, 9_600), (0xfe, 0x5449), (0xff, 0x2270)];
        Virtual::new(Flag::at(0x06, READY), &words)
    }

    /// SBOS656C, 8.6: 10 A, 11.98 V, and the reset value of the configuration.
    #[test]
    fn the_data_sheets_words_are_understood() {
        assert!(close_to(amperes(0x1f40), 10.0) && close_to(amperes(0xe0c0), -10.0) && close_to(volts(0x2570), 11.98));
        assert_eq!(FIXED_BITS | 0b100 << 6 | 0b100 << 3 | 0b111, 0x6127);
    }

    #[test]
    fn current_and_voltage_are_the_chips_own() {
        let (mut meter, registers) = (new_meter(Ina260), registers());
        let reading = read(&mut meter, &registers, 0).unwrap();
        assert!(close_to(reading.power.unwrap().0, 120.0) && close_to(reading.amperes.unwrap(), 10.0), "{reading:?}");
        let scale = reading.accuracy.scale;
        let is_right = close_to(scale.gain_error.unwrap(), 0.006 + 0.0075 / 12.0) && close_to(scale.offset_w, 0.06);
        assert!(is_right, "{scale:?}");
        let [first, second] = [100, 200].map(|ms| read_new(&mut meter, &registers, ms).unwrap().joules.0);
        assert!(close_to(second - first, 12.0));
        assert_eq!(registers.word(0x00), 0x6627);
        let detail = detail(&meter);
        assert!(detail.contains("INA260 at 0x40 on /dev/i2c-1, configuration 0x6627; up to 15.000 A; 64"), "{detail}");
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        let (mut meter, registers) = (new_meter(Ina260), registers());
        read(&mut meter, &registers, 0).unwrap();
        for (ms, register, word, part) in [
            (100, 0x01, 12_000, "register 0x01 (Current): read \"15.0000 A at 12.000 V\", expected less than 15 A and"),
            (20_000, 0x01, 0xfff0, "read \"-0.0200 A at 12.000 V\", expected 0 or more"),
            (40_000, 0x02, 28_800, "at 36.000 V\", expected less than 15 A"),
        ] {
            registers.set(register, word);
            assert_fails(&mut meter, &registers, ms, part);
            registers.set(0x01, 8_000);
            registers.set(0x02, 9_600);
            read_new(&mut meter, &registers, ms + 10_100).unwrap();
        }
        registers.set(0x01, 0xfffc);
        assert_eq!(read_new(&mut meter, &registers, 50_200).unwrap().power.unwrap().0, 0.0, "-5 mA are the offset");
        registers.set(0x00, 0x6127);
        assert_fails(&mut meter, &registers, 51_300, "read \"0x6127, not 0x6627\", expected what was written");
    }

    #[test]
    fn another_chip_is_refused() {
        let registers = registers();
        registers.set(0xff, 0x2260);
        assert_fails(
            &mut new_meter(Ina260),
            &registers,
            0,
            "0x2260; an INA226: use the kind ina226\", expected 0x5449 and",
        );
    }
}
