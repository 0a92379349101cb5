//! The INA228, read directly over `/dev/i2c-N`: its keys, its registers and what their bits mean.
//!
//! The chip counts energy itself, from every conversion, whatever is averaged and however often it is read. So its joules are those
//! of that counter. It has no sign, so that the chip is also set to tell of any conversion with a current backwards, or at the end of
//! the range. Source: Texas Instruments, INA228 data sheet SLYS021A, 6.5 (electrical characteristics), 7.3.2 (energy is added
//! to in each conversion cycle), 7.6 (register maps) and 8.1.2 (units).

use std::time::Duration;

use super::ina::{
    AVERAGES, Bus, Chip, ChipKeys, CounterPlan, Errors, Fault, Identity, Look, Model, Place, Plan, Register, SLOWEST,
    Sample, Setting, keys,
};
use super::survey::{Machine, Surveyed};
use super::{MeterError, Scope, Surroundings};
use crate::schema::{Checker, Key, table};

table! {
    /// An INA228 that no kernel driver uses, read directly over /dev/i2c-N. It counts energy itself. It measures up to 85 V, and
    /// 163.84 or 40.96 mV across the shunt.
    pub struct Ina228Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's two address pins set.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x4f");
        /// The shunt resistor on the board. A resistor of 0.015 Ohm is marked R015.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.015");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// The highest current, also for a moment, which chooses the chip's range.
        pub max_amperes: Option<f64>, unit("A"), otherwise("the wider range, 163.84 mV across the shunt"), example("2.5");
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl ChipKeys for Ina228Keys {
    const MODEL: &Model = &MODEL;

    fn place(&self) -> Place {
        Place { bus: self.bus, address: self.address }
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn check_own(&self, key: &Key, checker: &mut Checker) {
        keys::check_amperes(self.max_amperes, self.shunt_ohms, WIDE.end_volts(), key, checker);
    }

    fn chip(&self, _: &Surroundings) -> Box<dyn Chip> {
        Box::new(Ina228(self.clone()))
    }
}

/// Returns the chips that the kernel knows but has no driver for.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    keys::known(machine, &MODEL, ", shunt_ohms = 0.015")
}

const CONFIGURATION: Register = Register::new(0x00, "Configuration");
const ADC_CONFIGURATION: Register = Register::new(0x01, "AdcConfiguration");
const SHUNT_CALIBRATION: Register = Register::new(0x02, "ShuntCalibration");
const SHUNT_VOLTAGE: Register = Register::new(0x04, "ShuntVoltage");
const BUS_VOLTAGE: Register = Register::new(0x05, "BusVoltage");
const ENERGY: Register = Register::new(0x09, "Energy");
/// Reading it clears its flags.
const DIAGNOSIS: Register = Register::new(0x0b, "DiagnosisAndAlert");
const SHUNT_OVER_LIMIT: Register = Register::new(0x0c, "ShuntOverLimit");
const SHUNT_UNDER_LIMIT: Register = Register::new(0x0d, "ShuntUnderLimit");

const MODEL: Model = Model {
    kind: "ina228",
    name: "INA228",
    addresses: [0x40, 0x4f],
    ready: ("CNVRF", DIAGNOSIS),
    identity: Some(Identity {
        manufacturer: Register::new(0x3e, "ManufacturerId"),
        die: Register::new(0x3f, "DeviceId"),
        die_id: 0x228,
        expected: "0x5449 and 0x228., the manufacturer and the device of an INA228",
    }),
    below_end: "less than the end of the range; raise max_amperes, or use a smaller shunt",
    has_iio: false,
};

/// ALATCH: flags stay until they are read.
const LATCH: u16 = 1 << 15;
const READY: u16 = 1 << 1;

/// Flags that say that the energy since the last look is not that of the load.
const FAULTS: [(u16, Fault); 3] = [
    (
        1 << 9,
        Fault {
            register: DIAGNOSIS,
            flag: "MATHOF",
            expected: "no overflow (MATHOF); another program has calibrated the chip, only one may use it",
        },
    ),
    (
        1 << 6,
        Fault {
            register: DIAGNOSIS,
            flag: "SHNTOL",
            expected: "no conversion at the end of the range (SHNTOL); raise max_amperes, or use a smaller shunt",
        },
    ),
    (
        1 << 5,
        Fault {
            register: DIAGNOSIS,
            flag: "SHNTUL",
            expected: "no current backwards (SHNTUL), whose energy the chip adds; check whether the shunt is wired backwards",
        },
    ),
];
const NOT_LATCHED: Fault = Fault {
    register: DIAGNOSIS,
    flag: "ALATCH is 0",
    expected: "1, which was written; the chip was reset, or another program writes to it",
};

const BUS_STEP_VOLTS: f64 = 195.3125e-6;
const BUS_END_VOLTS: f64 = 85.0;
/// The largest number of steps of the shunt voltage.
const SHUNT_STEPS: i32 = 0x7ffff;
/// The limits of the shunt voltage come in so many of its steps.
const LIMIT_STEPS: f64 = 16.0;
/// A conversion beyond this, in steps of the limit, is at the end of the range: 0.05 % below it.
const OVER_LIMIT: u16 = 0x7ff0;

/// SHUNT_CAL for a current in steps of the shunt voltage's: 13107.2e6 x CURRENT_LSB x R, times 4 in the narrow range (8.1.2),
/// is this for every shunt and both ranges. So nothing is rounded.
const CALIBRATION: u16 = 4096;
/// A step of energy is so many steps of the current, in joules for amperes: 16 x 3.2 (8.1.2).
const ENERGY_STEPS: f64 = 16.0 * 3.2;
const ENERGY_BITS: u32 = 40;

/// The modes and codes of the ADC: shunt and bus voltages continuously, 84 us for the bus voltage, 1052 us for the shunt voltage;
/// the temperature is not converted. The offset holds from 280 us on (6.5).
const ADC: u16 = 0xb << 12 | 1 << 9 | 5 << 6 | 5 << 3;
const SHUNT_TIME: Duration = Duration::from_micros(1_052);
const UPDATE: Duration = Duration::from_micros(1_052 + 84);

/// The largest errors (6.5): gains of 0.05 % of the shunt voltage and 0.1 % of the bus voltage, 1 % of the clock by which energy is
/// counted. The offset of the bus voltage is that of its relative with 16 bits (INA238-Q1, SLYS023A, 6.5).
const GAIN_ERROR: f64 = 0.0005 + 0.001 + 0.01;
const SHUNT_OFFSET_VOLTS: f64 = 1e-6;
const BUS_OFFSET_VOLTS: f64 = 5e-3;
/// A mean shunt voltage backwards up to this is none: the offset, and what 85 V add to it with a rejection of 154 dB (6.5).
const NONE_VOLTS: f64 = 5e-6;
/// A single conversion may be off by this, because of its noise.
const NOISE_VOLTS: f64 = 50e-6;

/// A range of the shunt voltage.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    /// ADCRANGE, as it is in the configuration register.
    bits: u16,
    step_volts: f64,
}

const WIDE: Range = Range { bits: 0, step_volts: 312.5e-9 };
const NARROW: Range = Range { bits: 1 << 4, step_volts: 78.125e-9 };

impl Range {
    /// Returns the narrowest range that holds `volts`.
    fn for_volts(volts: f64) -> Self {
        if volts <= NARROW.end_volts() + NARROW.step_volts / 2.0 { NARROW } else { WIDE }
    }

    fn end_volts(self) -> f64 {
        f64::from(SHUNT_STEPS + 1) * self.step_volts
    }

    /// Returns the limit below which a conversion has a current backwards, in two's complement.
    fn under_limit(self) -> u16 {
        (-NOISE_VOLTS / (self.step_volts * LIMIT_STEPS)).round() as i16 as u16
    }
}

/// Converts the shunt voltage register to steps: 20 bits in two's complement above four.
fn shunt_steps([high, middle, low]: [u8; 3]) -> i32 {
    i32::from_be_bytes([high, middle, low, 0]) >> 12
}

/// Converts the bus voltage register to volts: 20 bits above four, which are never negative.
fn bus_volts([high, middle, low]: [u8; 3]) -> f64 {
    f64::from(u32::from_be_bytes([0, high, middle, low]) >> 4) * BUS_STEP_VOLTS
}

/// Converts the energy register to steps.
fn energy_steps([a, b, c, d, e]: [u8; 5]) -> u64 {
    u64::from_be_bytes([0, 0, 0, a, b, c, d, e])
}

/// The chip of one meter.
#[derive(Debug)]
struct Ina228(Ina228Keys);

impl Ina228 {
    fn range(&self) -> Range {
        Range::for_volts(self.0.max_amperes.unwrap_or(f64::INFINITY) * self.0.shunt_ohms)
    }
}

impl Chip for Ina228 {
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
        let (Ina228Keys { shunt_ohms, shunt_tolerance, .. }, range) = (&self.0, self.range());
        let fits = |averages: &u16| (UPDATE * u32::from(*averages)).mul_f64(SLOWEST) <= period;
        let code = AVERAGES.iter().rposition(fits).unwrap_or(0);
        let averages = AVERAGES.get(code).copied().unwrap_or(1);
        let step_amperes = range.step_volts / shunt_ohms;
        let end_amperes = f64::from(SHUNT_STEPS) * step_amperes;
        Plan {
            settings: vec![
                Setting::new(CONFIGURATION, range.bits),
                Setting::new(SHUNT_CALIBRATION, CALIBRATION),
                Setting::new(SHUNT_OVER_LIMIT, OVER_LIMIT),
                Setting::new(SHUNT_UNDER_LIMIT, range.under_limit()),
                Setting { is_verified: false, ..Setting::new(DIAGNOSIS, LATCH) },
                // Writing it starts a conversion, which also ends an old MATHOF.
                Setting::new(ADC_CONFIGURATION, ADC | code as u16),
            ],
            cycle: UPDATE * u32::from(averages),
            averages,
            seen: SHUNT_TIME.as_secs_f64() / UPDATE.as_secs_f64(),
            shunt_ohms: Some(*shunt_ohms),
            step_amperes,
            step_volts: BUS_STEP_VOLTS,
            end_amperes,
            end_volts: BUS_END_VOLTS,
            none_amperes: NONE_VOLTS / shunt_ohms,
            errors: Errors {
                gain: GAIN_ERROR + shunt_tolerance,
                offset_amperes: SHUNT_OFFSET_VOLTS / shunt_ohms,
                offset_volts: BUS_OFFSET_VOLTS,
            },
            counter: Some(CounterPlan {
                update: UPDATE,
                joules_a_step: ENERGY_STEPS * step_amperes,
                bits: ENERGY_BITS,
                most_watts: end_amperes * BUS_END_VOLTS,
            }),
        }
    }

    fn look(&mut self, bus: &mut Bus<'_>) -> Result<Look, MeterError> {
        let flags = bus.word(DIAGNOSIS)?;
        let fault = FAULTS.iter().find(|(flag, _)| flags & flag != 0).map(|(_, fault)| *fault);
        let fault = fault.or((flags & LATCH == 0).then_some(NOT_LATCHED));
        Ok(Look { has_converted: flags & READY != 0, fault })
    }

    fn sample(&mut self, bus: &mut Bus<'_>) -> Result<Sample, MeterError> {
        // The energy is in the middle of the three, whose mean time is that of the sample.
        let steps = shunt_steps(bus.bytes(SHUNT_VOLTAGE)?);
        let energy = energy_steps(bus.bytes(ENERGY)?);
        let volts = bus_volts(bus.bytes(BUS_VOLTAGE)?);
        let amperes = f64::from(steps) * self.range().step_volts / self.0.shunt_ohms;
        Ok(Sample { amperes, volts, raw: steps.into(), counter: Some(energy) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Resolution;
    use crate::meter::ina::tests::{Flag, PERIOD, Virtual, assert_fails, close_to, detail, new_meter, read, read_new};

    /// The shunt of the data sheet's example (8.2), with which 6 A are 97.2 mV.
    const OHMS: f64 = 0.0162;
    const JOULES_A_STEP: f64 = 51.2 * 312.5e-9 / OHMS;

    fn chip(more: &str) -> Ina228 {
        Ina228(toml::from_str(&format!("bus = 1\nshunt_ohms = {OHMS}\n{more}")).unwrap())
    }

    /// 48 V and 6 A.
    fn registers() -> Virtual {
        let words = [(0x01, 0xfb68), (0x02, 0x1000), (0x0b, 0x0001), (0x3e, 0x5449), (0x3f, 0x2281)];
        let flag = Flag { clears: 0x03fe, ..Flag::at(0x0b, READY) };
        let chip = Virtual::new(flag, &words);
        chip.set_bytes(0x04, &[0x4b, 0xf0, 0x00]);
        chip.set_bytes(0x05, &[0x3c, 0x00, 0x00]);
        chip
    }

    fn count(registers: &Virtual, steps: u64) {
        registers.set_bytes(0x09, &steps.to_be_bytes()[3..]);
    }

    /// SLYS021A, 8.2.2.5: 311040 steps are 97.2 mV, 245760 are 48 V, and 1061683200 steps of 976.5625 uJ are 1036800 J.
    #[test]
    fn the_data_sheets_words_are_understood() {
        assert!(close_to(f64::from(shunt_steps([0x4b, 0xf0, 0x00])) * WIDE.step_volts, 0.0972));
        assert!(close_to(bus_volts([0x3c, 0x00, 0x00]), 48.0));
        assert_eq!([[0x80, 0, 0], [0xff, 0xff, 0xff], [0, 0, 0x1f]].map(shunt_steps), [-0x80000, -1, 1]);
        assert_eq!(energy_steps([0, 0x3f, 0x48, 0, 0]), 1_061_683_200);
        assert!(close_to(ENERGY_STEPS * 10.0 / f64::from(1 << 19) * 1_061_683_200.0, 1_036_800.0));
        assert_eq!(ADC & 0x0fff, 0x368, "the other codes of the reset value FB68");
    }

    #[test]
    fn the_calibration_is_right_for_both_ranges() {
        for (range, factor) in [(WIDE, 1.0), (NARROW, 4.0)] {
            assert!(close_to(13107.2e6 * (range.step_volts / OHMS) * OHMS * factor, f64::from(CALIBRATION)));
        }
        assert_eq!(Range::for_volts(0.04096), NARROW);
        assert_eq!(Range::for_volts(0.04097), WIDE);
        assert_eq!([WIDE, NARROW].map(|range| range.under_limit().cast_signed()), [-10, -40]);
    }

    #[test]
    fn energy_is_the_chips_own_count() {
        let (mut meter, registers) = (new_meter(chip("")), registers());
        count(&registers, (1 << 40) - 10_000);
        let first = read(&mut meter, &registers, 0).unwrap();
        assert!(close_to(first.volts.unwrap(), 48.0) && close_to(first.amperes.unwrap(), 6.0), "{first:?}");
        assert_eq!((first.joules.0, first.power), (0.0, None));
        // 288 W for 100 ms; the counter wraps.
        count(&registers, (28.8 / JOULES_A_STEP) as u64 - 10_000);
        let second = read(&mut meter, &registers, 100).unwrap();
        assert!((second.joules.0 - 28.8).abs() < 1e-3, "also between two averages: {second:?}");
        assert!((second.power.unwrap().0 - 288.0).abs() < 0.02);
        let (time, scale) = (second.time.0, second.accuracy.scale);
        assert_eq!(time, 100_000_000, "it is not a mean of the past");
        let Resolution::Counter { update, quantum } = second.accuracy.resolution else { panic!("{second:?}") };
        assert!(update == Duration::from_micros(1_136) && close_to(quantum.0, JOULES_A_STEP));
        assert!(close_to(scale.gain_error.unwrap(), 0.0115 + 0.01 + 0.005 / 48.0), "{scale:?}");
        assert!(close_to(scale.offset_w, 1e-6 / OHMS * 48.0));
        let detail = detail(&meter);
        for part in [
            "INA228 at 0x40 on /dev/i2c-1, configuration 0xb36b",
            "up to 10.114 A; 64 averages, measures 93 % of the time",
            "energy is the chip's own count, every 1.1 ms in steps of 0.988 mJ",
        ] {
            assert!(detail.contains(part), "{part} in {detail}");
        }
    }

    #[test]
    fn the_narrow_range_is_chosen_and_written() {
        let (mut meter, registers) = (new_meter(chip("max_amperes = 2.5")), registers());
        let reading = read(&mut meter, &registers, 0).unwrap();
        assert!(close_to(reading.amperes.unwrap(), 1.5), "a quarter of the wide range: {reading:?}");
        let words = [0x00, 0x01, 0x02, 0x0c, 0x0d].map(|register| registers.word(register));
        assert_eq!(words, [0x0010, 0xb36b, 0x1000, 0x7ff0, 0xffd8]);
        assert_eq!(registers.word(0x0b) & LATCH, LATCH);
        let Resolution::Counter { quantum, .. } = reading.accuracy.resolution else { panic!("{reading:?}") };
        assert!(close_to(quantum.0, JOULES_A_STEP / 4.0));
    }

    /// What a single conversion has shown since the last reading counts, whatever the mean is.
    #[test]
    fn energy_that_is_not_that_of_the_load_is_refused() {
        let (mut meter, registers) = (new_meter(chip("")), registers());
        read(&mut meter, &registers, 0).unwrap();
        for (ms, bits, part) in [
            (100, 1 << 6, "register 0x0b (DiagnosisAndAlert): read \"SHNTOL\", expected no conversion at the end"),
            (200, 1 << 5, "read \"SHNTUL\", expected no current backwards"),
            (300, 1 << 9, "read \"MATHOF\", expected no overflow"),
        ] {
            registers.set_bits(0x0b, bits);
            count(&registers, ms * 100);
            assert_fails(&mut meter, &registers, ms, part);
            assert_eq!(read_new(&mut meter, &registers, ms + 50).unwrap().joules.0, 0.0, "it is a new start");
        }
        for (ms, bytes, part) in [
            (400, [0x7f, 0xff, 0xf0], "(ShuntVoltage): read \"163.84 mV across the shunt at 48.000 V\", expected less"),
            (500, [0xff, 0xf0, 0x00], "\"-0.08 mV across the shunt at 48.000 V\", expected 0 or more"),
        ] {
            registers.set_bytes(0x04, &bytes);
            assert_fails(&mut meter, &registers, ms, part);
        }
    }

    #[test]
    fn a_reset_and_a_standstill_are_noticed() {
        let (mut meter, registers) = (new_meter(chip("")), registers());
        count(&registers, 100_000);
        read(&mut meter, &registers, 0).unwrap();
        count(&registers, 3);
        assert_fails(&mut meter, &registers, 100, "so it was probably reset");
        registers.set(0x0b, 0x0001);
        assert_fails(&mut meter, &registers, 200, "read \"ALATCH is 0\", expected 1");
        registers.set(0x01, 0xfb68);
        assert_fails(&mut meter, &registers, 1_000, "register 0x01 (AdcConfiguration): read \"0xfb68, not 0xb36b\"");
        assert_eq!(read(&mut meter, &registers, 1_100).unwrap().joules.0, 0.0);
        let stuck = read(&mut meter, &registers, 2_200).unwrap_err().to_string();
        assert!(stuck.contains("register 0x0b (DiagnosisAndAlert): stuck") && stuck.contains("(CNVRF)"), "{stuck}");
    }

    #[test]
    fn another_chip_is_refused() {
        let registers = Virtual::new(Flag::at(0x06, 1 << 3), &[(0xfe, 0x5449), (0xff, 0x2260)]);
        assert_fails(
            &mut new_meter(chip("")),
            &registers,
            0,
            "register 0x3f (DeviceId): read \"0x0000 and 0x0000; an INA226",
        );
        assert_eq!(Ina228(chip("").0).plan(PERIOD).averages, 64);
    }
}
