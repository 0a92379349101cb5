//! The registers of an INA219: what their bits mean. Pure.
//!
//! Source: Texas Instruments, INA219 datasheet SBOS448G, 8.6 (register maps), table 5 (conversion times) and the
//! worked example of SBOS448F, table 3.

use std::time::Duration;

/// A register by its pointer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Register {
    Configuration = 0,
    ShuntVoltage = 1,
    BusVoltage = 2,
    /// Reading it clears the bus voltage register's conversion-ready bit.
    Power = 3,
    Calibration = 5,
}

/// Numbers of 12-bit conversions that the chip can average.
pub const AVERAGES: [u16; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Conversion times of [`AVERAGES`], in microseconds.
const CONVERSION_US: [u64; 8] = [532, 1_060, 2_130, 4_260, 8_510, 17_020, 34_050, 68_100];

/// The shunt ranges of PGA /1, /2, /4 and /8, in volts.
const SHUNT_RANGES_VOLTS: [f64; 4] = [0.040, 0.080, 0.160, 0.320];

const BUS_RANGES_VOLTS: [f64; 2] = [16.0, 32.0];

pub(crate) const SHUNT_STEP_VOLTS: f64 = 10e-6;
pub(crate) const BUS_STEP_VOLTS: f64 = 4e-3;

const MODE_SHUNT_AND_BUS_CONTINUOUS: u16 = 0b111;
const TWELVE_BITS: u16 = 0b0011;

/// The configuration of the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
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
    pub fn new(shunt_volts: f64, bus_volts: f64, averages: u16) -> Self {
        let code = |place: usize| u16::try_from(place).unwrap_or(0);
        // A range that is asked for exactly, such as 0.1 Ohm times 3.2 A, must not fail because of rounding.
        let holds = |range: &f64, volts: f64| *range >= volts - SHUNT_STEP_VOLTS / 2.0;
        let widest = SHUNT_RANGES_VOLTS.len() - 1;
        let gain = SHUNT_RANGES_VOLTS.iter().position(|range| holds(range, shunt_volts)).unwrap_or(widest);
        let averaging = AVERAGES.iter().rposition(|&count| count <= averages).unwrap_or(0);
        Self { gain: code(gain), wide_bus: !holds(&BUS_RANGES_VOLTS[0], bus_volts), averaging: code(averaging) }
    }

    /// Returns the most averages whose conversions end within `period`, so that most of the time between reads is measured.
    pub fn averages_within(period: Duration) -> u16 {
        let fits = |(_, us): &(&u16, &u64)| Duration::from_micros(**us + CONVERSION_US[0]) <= period;
        AVERAGES.iter().zip(&CONVERSION_US).rfind(fits).map_or(1, |(averages, _)| *averages)
    }

    /// Returns the configuration register: BRNG, PG, BADC, SADC, MODE.
    pub fn word(self) -> u16 {
        let shunt = if self.averaging == 0 { TWELVE_BITS } else { 0b1000 | self.averaging };
        u16::from(self.wide_bus) << 13 | self.gain << 11 | TWELVE_BITS << 7 | shunt << 3 | MODE_SHUNT_AND_BUS_CONTINUOUS
    }

    /// Returns the time for one conversion of the shunt voltage and one of the bus voltage, which the chip does in turn.
    pub fn cycle(self) -> Duration {
        let shunt_us = CONVERSION_US.get(usize::from(self.averaging)).copied().unwrap_or(CONVERSION_US[0]);
        Duration::from_micros(shunt_us + CONVERSION_US[0])
    }

    /// Returns the fraction of the time in which the current is measured.
    pub fn seen(self) -> f64 {
        1.0 - CONVERSION_US[0] as f64 / 1e6 / self.cycle().as_secs_f64()
    }

    pub fn averages(self) -> u16 {
        AVERAGES.get(usize::from(self.averaging)).copied().unwrap_or(1)
    }

    /// Returns the largest shunt voltage that can be measured.
    pub fn shunt_range_volts(self) -> f64 {
        SHUNT_RANGES_VOLTS.get(usize::from(self.gain)).copied().unwrap_or_default()
    }

    fn bus_range_volts(self) -> f64 {
        BUS_RANGES_VOLTS[usize::from(self.wide_bus)]
    }

    /// Whether a voltage is at the end of its range, where it is clipped.
    pub fn is_over_range(self, shunt_volts: f64, bus: Bus) -> bool {
        shunt_volts.abs() > self.shunt_range_volts() - SHUNT_STEP_VOLTS / 2.0
            || bus.volts > self.bus_range_volts() - BUS_STEP_VOLTS / 2.0
    }
}

/// Converts the shunt voltage register to volts: steps of 10 uV, in two's complement.
pub(crate) fn shunt_volts(word: u16) -> f64 {
    f64::from(word.cast_signed()) * SHUNT_STEP_VOLTS
}

/// The bus voltage register.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bus {
    pub volts: f64,
    /// CNVR: a conversion has ended since the power register was last read.
    pub ready: bool,
    /// OVF: the chip's own arithmetic overflowed.
    pub overflow: bool,
}

/// Converts the bus voltage register: steps of 4 mV above three bits, of which two are flags.
pub(crate) fn bus(word: u16) -> Bus {
    Bus { volts: f64::from(word >> 3) * BUS_STEP_VOLTS, ready: word & 0b10 != 0, overflow: word & 0b01 != 0 }
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
        assert_eq!(bus(0b011), Bus { volts: 0.0, ready: true, overflow: true });
        assert_eq!(bus(0b100), Bus { volts: 0.0, ready: false, overflow: false });
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
        let setup = Setup::new(0.040, 16.0, 1);
        let volts = |volts| Bus { volts, ready: true, overflow: false };
        assert!(!setup.is_over_range(shunt_volts(0x0f9f), volts(15.996)));
        assert!(setup.is_over_range(shunt_volts(0x0fa0), volts(5.0)));
        assert!(setup.is_over_range(shunt_volts(0xf060), volts(5.0)));
        assert!(setup.is_over_range(0.0, volts(16.0)));
    }
}
