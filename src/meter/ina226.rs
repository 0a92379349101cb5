//! The INA226, read directly over `/dev/i2c-N`: its keys, its registers and what their bits mean.
//!
//! Source: Texas Instruments, INA226 data sheet SBOS547B, 5.5 (electrical characteristics) and 7.1 (register maps).

use std::time::Duration;

use super::ina::{
    Bus, Chip, ChipKeys, Errors, Fault, Identity, Look, Model, Place, Plan, Register, Sample, Setting, Timing, keys,
};
use super::survey::{Machine, Surveyed};
use super::{MeterError, Scope, Surroundings};
use crate::schema::table;

table! {
    /// An INA226 that no kernel driver uses, read directly over /dev/i2c-N. It measures up to 36 V, and 81.92 mV across the shunt.
    pub struct Ina226Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's two address pins set.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x4f");
        /// The shunt resistor on the board. A resistor of 0.002 Ohm is marked R002.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.002");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl ChipKeys for Ina226Keys {
    const MODEL: &Model = &MODEL;

    fn place(&self) -> Place {
        Place { bus: self.bus, address: self.address }
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn chip(&self, _: &Surroundings) -> Box<dyn Chip> {
        Box::new(Ina226(self.clone()))
    }
}

/// Returns the chips that the kernel knows but has no driver for.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    keys::known(machine, &MODEL, ", shunt_ohms = 0.002")
}

const CONFIGURATION: Register = Register::new(0x00, "Configuration");
const SHUNT_VOLTAGE: Register = Register::new(0x01, "ShuntVoltage");
const BUS_VOLTAGE: Register = Register::new(0x02, "BusVoltage");
const CALIBRATION: Register = Register::new(0x05, "Calibration");
/// Reading it clears its conversion-ready bit.
const MASK_ENABLE: Register = Register::new(0x06, "MaskEnable");

const MODEL: Model = Model {
    kind: "ina226",
    name: "INA226",
    addresses: [0x40, 0x4f],
    ready: ("CVRF", MASK_ENABLE),
    identity: Some(Identity {
        manufacturer: Register::new(0xfe, "ManufacturerId"),
        die: Register::new(0xff, "DieId"),
        die_id: 0x226,
        expected: "0x5449 and 0x226., the manufacturer and the die of an INA226",
    }),
    below_end: "less than the end of the range, 81.92 mV and 36 V; use a smaller shunt or another chip",
    has_iio: true,
};

const OVERFLOW: Fault = Fault {
    register: MASK_ENABLE,
    flag: "OVF",
    expected: "no overflow (OVF); another program has calibrated the chip, only one may use it",
};

/// Bits 14 to 12 of the configuration, which always are so.
const FIXED_BITS: u16 = 0x4000;
const READY: u16 = 1 << 3;
const OVF: u16 = 1 << 2;

const SHUNT_STEP_VOLTS: f64 = 2.5e-6;
const BUS_STEP_VOLTS: f64 = 1.25e-3;

/// The largest errors at 25 degrees (5.5): gains of 0.1 % each, offsets of 10 uV and 7.5 mV.
const GAIN_ERROR: f64 = 0.001 + 0.001;
const SHUNT_OFFSET_VOLTS: f64 = 10e-6;
const BUS_OFFSET_VOLTS: f64 = 7.5e-3;
/// A shunt voltage backwards up to this is none: the offset, and what 36 V add to it with a rejection of 126 dB (5.5).
const NONE_VOLTS: f64 = 30e-6;

/// Converts the shunt voltage register to volts: two's complement.
fn shunt_volts(word: u16) -> f64 {
    f64::from(word.cast_signed()) * SHUNT_STEP_VOLTS
}

/// Converts the bus voltage register to volts. Bit 15 is always 0.
fn bus_volts(word: u16) -> f64 {
    f64::from(word & 0x7fff) * BUS_STEP_VOLTS
}

/// The chip of one meter.
#[derive(Debug)]
struct Ina226(Ina226Keys);

impl Chip for Ina226 {
    fn model(&self) -> &'static Model {
        &MODEL
    }

    fn shunt_ohms(&self) -> Option<f64> {
        Some(self.0.shunt_ohms)
    }

    fn current(&self) -> Register {
        SHUNT_VOLTAGE
    }

    fn plan(&mut self, period: Duration) -> Plan {
        let Ina226Keys { shunt_ohms, shunt_tolerance, .. } = self.0;
        let timing = Timing::within(period, 1);
        Plan {
            // Without a calibration the chip computes nothing itself, so an overflow shows that another program uses it.
            settings: vec![Setting::new(CALIBRATION, 0), Setting::new(CONFIGURATION, FIXED_BITS | timing.bits())],
            cycle: timing.cycle(),
            averages: timing.averages(),
            seen: timing.seen(),
            shunt_ohms: Some(shunt_ohms),
            step_amperes: SHUNT_STEP_VOLTS / shunt_ohms,
            step_volts: BUS_STEP_VOLTS,
            end_amperes: shunt_volts(0x7fff) / shunt_ohms,
            end_volts: 36.0,
            none_amperes: NONE_VOLTS / shunt_ohms,
            errors: Errors {
                gain: GAIN_ERROR + shunt_tolerance,
                offset_amperes: SHUNT_OFFSET_VOLTS / shunt_ohms,
                offset_volts: BUS_OFFSET_VOLTS,
            },
            counter: None,
        }
    }

    fn look(&mut self, bus: &mut Bus<'_>) -> Result<Look, MeterError> {
        let flags = bus.word(MASK_ENABLE)?;
        Ok(Look { has_converted: flags & READY != 0, fault: (flags & OVF != 0).then_some(OVERFLOW) })
    }

    fn sample(&mut self, bus: &mut Bus<'_>) -> Result<Sample, MeterError> {
        let word = bus.word(SHUNT_VOLTAGE)?;
        let volts = bus_volts(bus.word(BUS_VOLTAGE)?);
        let amperes = shunt_volts(word) / self.0.shunt_ohms;
        Ok(Sample { amperes, volts, raw: word.cast_signed().into(), counter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::ina::tests::{Flag, PERIOD, Virtual, assert_fails, close_to, detail, new_meter, read, read_new};

    fn chip() -> Ina226 {
        Ina226(toml::from_str("bus = 1\nshunt_ohms = 0.002").unwrap())
    }

    /// 12 V, and 10 A through 2 mOhm.
    fn registers() -> Virtual {
        let words = [(0x00, 0x4127), (0x01, 8_000), (0x02, 9_600), (0x05, 7), (0xfe, 0x5449), (0xff, 0x2260)];
        Virtual::new(Flag::at(0x06, READY), &words)
    }

    /// SBOS547B: the reset values of the registers, the ends of the ranges, and the example of 7.5 (11.98 V, 20 mV).
    #[test]
    fn the_data_sheets_words_are_understood() {
        for (word, volts) in [(0x7fff, 0.081_917_5), (0x8000, -0.081_92), (0x1f40, 0.020), (0xffff, -2.5e-6)] {
            assert!(close_to(shunt_volts(word), volts), "{word:#06x}");
        }
        assert!(close_to(bus_volts(0x2570), 11.98) && close_to(bus_volts(0x7fff), 40.958_75));
        // After a reset: 1 average, 1.1 ms each, continuously. We convert the bus voltage faster.
        assert_eq!(FIXED_BITS | 0b100 << 6 | 0b100 << 3 | 0b111, 0x4127);
        let plan = chip().plan(PERIOD);
        assert_eq!(plan.settings[1], Setting::new(CONFIGURATION, 0x4000 | 0b011 << 9 | 0b100 << 3 | 0b111));
        assert!(close_to(plan.end_amperes, 40.958_75));
    }

    #[test]
    fn voltage_times_current_is_integrated_with_the_errors_of_the_data_sheet() {
        let (mut meter, registers) = (new_meter(chip()), registers());
        let reading = read(&mut meter, &registers, 1_000).unwrap();
        assert!(close_to(reading.power.unwrap().0, 120.0) && close_to(reading.volts.unwrap(), 12.0), "{reading:?}");
        let scale = reading.accuracy.scale;
        let is_right = close_to(scale.gain_error.unwrap(), 0.012 + 0.0075 / 12.0) && close_to(scale.offset_w, 0.06);
        assert!(is_right, "{scale:?}");
        assert!(close_to(read_new(&mut meter, &registers, 1_100).unwrap().joules.0, 12.0));
        assert_eq!((registers.word(0x00), registers.word(0x05)), (0x4627, 0));
        let detail = detail(&meter);
        assert!(detail.contains("INA226 at 0x40 on /dev/i2c-1, configuration 0x4627"), "{detail}");
        assert!(detail.contains("shunt 0.002 Ohm, up to 40.959 A; 64 averages, measures 89 % of the time"), "{detail}");
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        let (mut meter, registers) = (new_meter(chip()), registers());
        read(&mut meter, &registers, 0).unwrap();
        let end = "(ShuntVoltage): read \"81.92 mV across the shunt at 12.000 V\", expected less than the end";
        for (ms, register, word, part) in [
            (100, 0x01, 0x7fff, end),
            (20_000, 0x01, 0x8000, "expected less than the end"),
            (40_000, 0x02, 28_800, "at 36.000 V\", expected less than the end"),
            (60_000, 0x01, 0xff00, "\"-0.64 mV across the shunt at 12.000 V\", expected 0 or more"),
        ] {
            registers.set(register, word);
            assert_fails(&mut meter, &registers, ms, part);
            registers.set(0x01, 8_000);
            registers.set(0x02, 9_600);
            read_new(&mut meter, &registers, ms + 10_100).unwrap();
        }
        registers.set(0x01, 0xfffc);
        assert_eq!(read_new(&mut meter, &registers, 70_200).unwrap().power.unwrap().0, 0.0, "-10 uV are the offset");
        registers.set_bits(0x06, OVF);
        assert_fails(&mut meter, &registers, 70_300, "register 0x06 (MaskEnable): read \"OVF\", expected no overflow");
    }

    #[test]
    fn a_reset_and_a_standstill_are_noticed() {
        let (mut meter, registers) = (new_meter(chip()), registers());
        read(&mut meter, &registers, 0).unwrap();
        registers.set(0x00, 0x4127);
        assert_fails(&mut meter, &registers, 1000, "read \"0x4127, not 0x4627\", expected what was written");
        read(&mut meter, &registers, 1100).unwrap();
        let stuck = read(&mut meter, &registers, 2200).unwrap_err().to_string();
        assert!(stuck.contains("register 0x06 (MaskEnable): stuck") && stuck.contains("(CVRF)"), "{stuck}");
    }

    #[test]
    fn another_chip_is_refused_and_named() {
        for (words, part) in [
            (vec![(0xfe, 0x5449), (0xff, 0x2270)], "0x5449 and 0x2270; an INA260: use the kind ina260"),
            (vec![(0x3e, 0x5449), (0x3f, 0x2281)], "0x0000 and 0x0000; an INA228: use the kind ina228"),
            (vec![(0xfe, 0x5449), (0xff, 0x3220)], "0x5449 and 0x3220; an INA3221: use the kind ina3221"),
            (vec![(0xfe, 0x5449), (0xff, 0x1234)], "0x5449 and 0x1234; another chip of Texas Instruments"),
            (vec![(0xff, 0x2260)], "0x0000 and 0x2260; a chip that does not tell its type, such as an INA219"),
        ] {
            let registers = Virtual::new(Flag::at(0x06, READY), &words);
            let error = read(&mut new_meter(chip()), &registers, 0).unwrap_err().to_string();
            assert!(error.contains("register 0xff (DieId)") && error.contains(part), "{part} in {error}");
            assert_eq!(registers.word(0x00), 0, "nothing is written to it");
        }
    }
}
