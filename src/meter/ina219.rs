//! The INA219, read directly over `/dev/i2c-N`: its keys, its registers and what their bits mean.
//!
//! Source: Texas Instruments, INA219 datasheet SBOS448G, 8.6 (register maps), table 5 (conversion times) and the
//! worked example of SBOS448F, table 3.

use std::time::Duration;

use super::ina::{Bus, Chip, ChipKeys, Errors, Fault, Look, Model, Place, Plan, Register, Sample, Setting, keys};
use super::survey::{Machine, Surveyed};
use super::{MeterError, Scope, Surroundings, shunt};
use crate::schema::{Checker, Key, table};

/// The highest bus voltage that the chip withstands.
const BUS_VOLTS: f64 = 26.0;

table! {
    /// An INA219 that no kernel driver uses, read directly over /dev/i2c-N.
    pub struct Ina219Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's two address pins set.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x4f");
        /// The shunt resistor on the board. A resistor of 0.1 Ohm is marked R100.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.1");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// The highest current, which chooses the chip's range.
        pub max_amperes: Option<f64>, unit("A"), otherwise("the widest range, 0.32 V across the shunt"), example("2.0");
        /// The highest bus voltage, which chooses the range of 16 V or 32 V. The chip withstands 26 V.
        pub max_volts: f64 = 16.0, range(0.1, BUS_VOLTS), unit("V");
        /// The number of conversions that are averaged in one reading.
        pub averages: Option<u16>, otherwise("as many as fit between two readings"),
            limits("1, 2, 4, 8, 16, 32, 64 or 128"), example("64");
        /// What the sensor's supply feeds: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl ChipKeys for Ina219Keys {
    const MODEL: &Model = &MODEL;

    fn place(&self) -> Place {
        Place { bus: self.bus, address: self.address }
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn check_own(&self, key: &Key, checker: &mut Checker) {
        let [.., widest] = SHUNT_RANGES_VOLTS;
        keys::check_amperes(self.max_amperes, self.shunt_ohms, widest, key, checker);
        if let Some(averages) = self.averages.filter(|averages| !AVERAGES.contains(averages)) {
            let message = format!("{averages} is not offered; use 1, 2, 4, 8, 16, 32, 64 or 128");
            checker.problem(&key.child("averages"), message);
        }
    }

    fn chip(&self, _: &Surroundings) -> Box<dyn Chip> {
        Box::new(Ina219::new(self.clone()))
    }
}

/// Returns the I2C buses on which an INA219 can be read directly.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    keys::buses(machine)
}

const CONFIGURATION: Register = Register::new(0, "Configuration");
const SHUNT_VOLTAGE: Register = Register::new(1, "ShuntVoltage");
const BUS_VOLTAGE: Register = Register::new(2, "BusVoltage");
/// Reading it clears the bus voltage register's conversion-ready bit.
const POWER: Register = Register::new(3, "Power");
const CALIBRATION: Register = Register::new(5, "Calibration");

const MODEL: Model = Model {
    kind: "ina219",
    name: "INA219",
    addresses: [0x40, 0x4f],
    ready: ("CNVR", BUS_VOLTAGE),
    identity: None,
    below_end: "less than the end of the range; raise max_amperes or max_volts",
    has_iio: true,
};

const OVERFLOW: Fault = Fault {
    register: BUS_VOLTAGE,
    flag: "OVF",
    expected: "no overflow (OVF); another program has calibrated the chip, only one may use it",
};

/// Numbers of 12-bit conversions that the chip can average.
const AVERAGES: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Conversion times of [`AVERAGES`], in microseconds.
const CONVERSION_US: [u64; 8] = [532, 1_060, 2_130, 4_260, 8_510, 17_020, 34_050, 68_100];

/// The shunt ranges of PGA /1, /2, /4 and /8, in volts.
const SHUNT_RANGES_VOLTS: [f64; 4] = [0.040, 0.080, 0.160, 0.320];

const BUS_RANGES_VOLTS: [f64; 2] = [16.0, 32.0];

const SHUNT_STEP_VOLTS: f64 = 10e-6;
const BUS_STEP_VOLTS: f64 = 4e-3;

const MODE_SHUNT_AND_BUS_CONTINUOUS: u16 = 0b111;
const TWELVE_BITS: u16 = 0b0011;

/// The configuration of the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setup {
    /// Index into the shunt ranges, which is the PGA's code.
    gain: u16,
    wide_bus: bool,
    /// Index into [`AVERAGES`].
    averaging: u16,
}

impl Setup {
    /// Chooses the narrowest ranges that hold `shunt_volts` and `bus_volts`, otherwise the widest, and at most `averages` of
    /// the shunt voltage.
    ///
    /// The bus voltage is one 12-bit conversion: with 9 bits it would come in steps of 0.6 % of 5 V, and it takes time
    /// from the current only where that is averaged little (11 % at 8, 1 % at 128).
    fn new(shunt_volts: f64, bus_volts: f64, averages: u16) -> Self {
        let code = |place: usize| u16::try_from(place).unwrap_or(0);
        // A range that is asked for exactly, such as 0.1 Ohm times 3.2 A, must not fail because of rounding.
        let holds = |range: &f64, volts: f64| *range >= volts - SHUNT_STEP_VOLTS / 2.0;
        let widest = SHUNT_RANGES_VOLTS.len() - 1;
        let gain = SHUNT_RANGES_VOLTS.iter().position(|range| holds(range, shunt_volts)).unwrap_or(widest);
        let averaging = AVERAGES.iter().rposition(|&count| count <= averages).unwrap_or(0);
        Self { gain: code(gain), wide_bus: !holds(&BUS_RANGES_VOLTS[0], bus_volts), averaging: code(averaging) }
    }

    /// Returns the most averages whose conversions end within `period`, so that most of the time between reads is measured.
    fn averages_within(period: Duration) -> u16 {
        let fits = |(_, us): &(&u16, &u64)| Duration::from_micros(**us + CONVERSION_US[0]) <= period;
        AVERAGES.iter().zip(&CONVERSION_US).rfind(fits).map_or(1, |(averages, _)| *averages)
    }

    /// Returns the configuration register: BRNG, PG, BADC, SADC, MODE.
    fn word(self) -> u16 {
        let shunt = if self.averaging == 0 { TWELVE_BITS } else { 0b1000 | self.averaging };
        u16::from(self.wide_bus) << 13 | self.gain << 11 | TWELVE_BITS << 7 | shunt << 3 | MODE_SHUNT_AND_BUS_CONTINUOUS
    }

    /// Returns the time for one conversion of the shunt voltage and one of the bus voltage, which the chip does in turn.
    fn cycle(self) -> Duration {
        let shunt_us = CONVERSION_US.get(usize::from(self.averaging)).copied().unwrap_or(CONVERSION_US[0]);
        Duration::from_micros(shunt_us + CONVERSION_US[0])
    }

    /// Returns the fraction of the time in which the current is measured.
    fn seen(self) -> f64 {
        1.0 - CONVERSION_US[0] as f64 / 1e6 / self.cycle().as_secs_f64()
    }

    fn averages(self) -> u16 {
        AVERAGES.get(usize::from(self.averaging)).copied().unwrap_or(1)
    }

    /// Returns the largest shunt voltage that can be measured.
    fn shunt_range_volts(self) -> f64 {
        SHUNT_RANGES_VOLTS.get(usize::from(self.gain)).copied().unwrap_or_default()
    }

    fn bus_range_volts(self) -> f64 {
        BUS_RANGES_VOLTS[usize::from(self.wide_bus)]
    }
}

/// Converts the shunt voltage register to volts: steps of 10 uV, in two's complement.
fn shunt_volts(word: u16) -> f64 {
    f64::from(word.cast_signed()) * SHUNT_STEP_VOLTS
}

/// The bus voltage register.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct BusVoltage {
    volts: f64,
    /// CNVR: a conversion has ended since the power register was last read.
    ready: bool,
    /// OVF: the chip's own arithmetic overflowed.
    overflow: bool,
}

/// Converts the bus voltage register: steps of 4 mV above three bits, of which two are flags.
fn bus(word: u16) -> BusVoltage {
    BusVoltage { volts: f64::from(word >> 3) * BUS_STEP_VOLTS, ready: word & 0b10 != 0, overflow: word & 0b01 != 0 }
}

/// The chip of one meter.
#[derive(Debug)]
pub(super) struct Ina219 {
    keys: Ina219Keys,
    /// What was last read with the flags.
    bus: BusVoltage,
}

impl Ina219 {
    pub(super) fn new(keys: Ina219Keys) -> Self {
        Self { keys, bus: BusVoltage::default() }
    }
}

impl Chip for Ina219 {
    fn model(&self) -> &'static Model {
        &MODEL
    }

    fn shunt_ohms(&self) -> Option<f64> {
        Some(self.keys.shunt_ohms)
    }

    fn current(&self) -> Register {
        SHUNT_VOLTAGE
    }

    fn plan(&mut self, period: Duration) -> Plan {
        let Ina219Keys { shunt_ohms, shunt_tolerance, max_amperes, max_volts, averages, .. } = self.keys;
        let averages = averages.unwrap_or_else(|| Setup::averages_within(period));
        let setup = Setup::new(max_amperes.unwrap_or(f64::INFINITY) * shunt_ohms, max_volts, averages);
        Plan {
            // Without a calibration the chip computes nothing itself, so an overflow shows that another program uses it.
            settings: vec![Setting::new(CALIBRATION, 0), Setting::new(CONFIGURATION, setup.word())],
            cycle: setup.cycle(),
            averages: setup.averages(),
            seen: setup.seen(),
            shunt_ohms: Some(shunt_ohms),
            step_amperes: SHUNT_STEP_VOLTS / shunt_ohms,
            step_volts: BUS_STEP_VOLTS,
            end_amperes: setup.shunt_range_volts() / shunt_ohms,
            end_volts: setup.bus_range_volts(),
            none_amperes: shunt::OFFSET_VOLTS / shunt_ohms,
            errors: Errors { gain: shunt::GAIN_ERROR + shunt_tolerance, offset_amperes: 0.0, offset_volts: 0.0 },
            counter: None,
        }
    }

    fn look(&mut self, chip: &mut Bus<'_>) -> Result<Look, MeterError> {
        self.bus = bus(chip.word(BUS_VOLTAGE)?);
        if self.bus.ready {
            chip.word(POWER)?;
        }
        Ok(Look { has_converted: self.bus.ready, fault: self.bus.overflow.then_some(OVERFLOW) })
    }

    fn sample(&mut self, chip: &mut Bus<'_>) -> Result<Sample, MeterError> {
        let word = chip.word(SHUNT_VOLTAGE)?;
        let amperes = shunt_volts(word) / self.keys.shunt_ohms;
        Ok(Sample { amperes, volts: self.bus.volts, raw: word.cast_signed().into(), counter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::shunt;

    fn close_to(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    /// 10 A at 12 V through 2 mOhm, at 40 mV and 16 V: registers 0x019F, 0x07D0, 0x5D98 are 20 mV, 11.98 V, 119.8 W.
    #[test]
    fn the_datasheets_example_comes_out() {
        assert_eq!(Setup::new(0.040, 16.0, 1).word(), 0x019f);
        assert!(close_to(shunt_volts(0x07d0), 0.020));
        let bus = bus(0x5d98);
        assert!(close_to(bus.volts, 11.98) && !bus.ready && !bus.overflow);
        let flow = shunt::flow(shunt_volts(0x07d0), 0.002, bus.volts).unwrap();
        assert!(close_to(flow.amperes, 10.0) && close_to(flow.watts.0, 119.8));
    }

    /// The register's reset value, and the datasheet's ends of the shunt ranges (tables of 8.6.3.1).
    #[test]
    fn the_datasheets_words_are_understood() {
        assert_eq!(Setup::new(0.320, 26.0, 1).word(), 0x399f);
        for (word, volts) in [(0x7d00, 0.320), (0x8300, -0.320), (0x0fa0, 0.040), (0xf060, -0.040), (0xffff, -10e-6)] {
            assert!(close_to(shunt_volts(word), volts), "{word:#06x}");
        }
        assert!(close_to(bus(0x1f40 << 3).volts, 32.0));
        assert_eq!(bus(0b011), BusVoltage { volts: 0.0, ready: true, overflow: true });
        assert_eq!(bus(0b100), BusVoltage { volts: 0.0, ready: false, overflow: false });
    }

    #[test]
    fn the_narrowest_range_that_holds_is_chosen() {
        let word = |shunt_volts, bus_volts, averages| Setup::new(shunt_volts, bus_volts, averages).word();
        assert_eq!(word(0.041, 16.0, 1), 0x099f);
        assert_eq!(word(0.1 * 0.4, 16.1, 1), 0x219f, "a product that rounds up is no wider");
        assert_eq!(word(f64::INFINITY, 5.0, 1), 0x199f);
        assert_eq!(word(0.040, 16.0, 8), 0x01df);
        assert_eq!(word(0.040, 16.0, 128), 0x01ff);
        assert_eq!(word(0.040, 16.0, 0), 0x019f);
    }

    #[test]
    fn averages_fill_the_time_between_two_reads() {
        let averages = |us| Setup::averages_within(Duration::from_micros(us));
        assert_eq!([100, 1_064, 1_592, 5_000, 68_631, 68_632, 1_000_000].map(averages), [1, 1, 2, 8, 64, 128, 128]);
        let setup = Setup::new(0.1, 5.0, 8);
        assert_eq!((setup.averages(), setup.cycle()), (8, Duration::from_micros(4_792)));
        assert!(close_to((setup.seen() * 1e3).round(), 889.0));
    }

    #[test]
    fn the_end_of_a_range_is_no_measurement() {
        let keys: Ina219Keys = toml::from_str("bus = 1\nshunt_ohms = 0.1\nmax_amperes = 0.4").unwrap();
        let plan = Ina219::new(keys).plan(Duration::from_millis(1));
        let is_at_end = |word, volts| {
            let amperes = shunt_volts(word) / 0.1;
            plan.is_at_end(&Sample { amperes, volts, raw: 0, counter: None })
        };
        assert!(!is_at_end(0x0f9f, 15.996));
        assert!(is_at_end(0x0fa0, 5.0) && is_at_end(0xf060, 5.0) && is_at_end(0, 16.0));
    }
}
