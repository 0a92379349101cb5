//! The INA3221, read directly over `/dev/i2c-N`: its keys, its registers and what their bits mean. A meter reads one of its three
//! channels.
//!
//! The meters of one chip share what the chip has once: the set of its channels that are converted, and the flag of a completed
//! conversion, which is cleared by whoever reads it. Source: Texas Instruments, INA3221 data sheet SBOS576B, 7.5 (electrical
//! characteristics) and 8.6 (register maps).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use super::ina::{
    Bus, Chip, ChipKeys, Errors, Identity, Look, Model, Place, Plan, Register, Sample, Setting, Timing, keys,
};
use super::survey::{Machine, Surveyed};
use super::{MeterError, Scope, Surroundings};
use crate::schema::table;

table! {
    /// One channel of an INA3221 that no kernel driver uses, read directly over /dev/i2c-N. It measures up to 26 V, and 163.8 mV
    /// across the shunt. Each channel is a meter, and the kind `sum` adds them up.
    pub struct Ina3221Keys {
        /// The number N of the bus /dev/i2c-N.
        pub bus: u8, limits("0 to 255"), example("1");
        /// The address on the bus, which the chip's address pin sets.
        pub address: u16 = 0x40, shown("0x40"), limits("0x40 to 0x43");
        /// The channel.
        pub channel: u8, range(1, 3), example("1");
        /// The shunt resistor of the channel. A resistor of 0.1 Ohm is marked R100.
        pub shunt_ohms: f64, range(1e-5, 10.0), unit("Ohm"), example("0.1");
        /// The largest error of the shunt, as a part of its resistance.
        pub shunt_tolerance: f64 = 0.01, range(0.0, 0.5);
        /// What the channel's supply feeds: one device or rail, the processor's package, or the board.
        pub scope: Scope = Scope::Device, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

impl ChipKeys for Ina3221Keys {
    const MODEL: &Model = &MODEL;

    fn place(&self) -> Place {
        Place { bus: self.bus, address: self.address }
    }

    fn channel(&self) -> Option<u8> {
        Some(self.channel)
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn chip(&self, surroundings: &Surroundings) -> Box<dyn Chip> {
        Box::new(Ina3221::new(self.clone(), surroundings.shared.channels(self.place())))
    }
}

/// Returns the chips that the kernel knows but has no driver for.
pub fn survey(machine: &Machine<'_>) -> Vec<Surveyed> {
    keys::known(machine, &MODEL, ", channel = 1, shunt_ohms = 0.1")
}

const CONFIGURATION: Register = Register::new(0x00, "Configuration");
/// The shunt voltages of the channels, each followed by the bus voltage.
const SHUNT_VOLTAGES: [Register; 3] =
    [Register::new(0x01, "ShuntVoltage1"), Register::new(0x03, "ShuntVoltage2"), Register::new(0x05, "ShuntVoltage3")];
const BUS_VOLTAGES: [Register; 3] =
    [Register::new(0x02, "BusVoltage1"), Register::new(0x04, "BusVoltage2"), Register::new(0x06, "BusVoltage3")];
/// Reading it clears its conversion-ready bit.
const MASK_ENABLE: Register = Register::new(0x0f, "MaskEnable");

const MODEL: Model = Model {
    kind: "ina3221",
    name: "INA3221",
    addresses: [0x40, 0x43],
    ready: ("CVRF", MASK_ENABLE),
    identity: Some(Identity {
        manufacturer: Register::new(0xfe, "ManufacturerId"),
        die: Register::new(0xff, "DieId"),
        die_id: 0x322,
        expected: "0x5449 and 0x322., the manufacturer and the die of an INA3221",
    }),
    below_end: "less than the end of the range, 163.8 mV and 26 V; use a smaller shunt or another chip",
    has_iio: false,
};

const READY: u16 = 1 << 0;

const SHUNT_STEP_VOLTS: f64 = 40e-6;
const BUS_STEP_VOLTS: f64 = 8e-3;

/// The largest errors at 25 degrees (7.5): gains of 0.25 % each, offsets of 80 uV and 16 mV.
const GAIN_ERROR: f64 = 0.0025 + 0.0025;
const SHUNT_OFFSET_VOLTS: f64 = 80e-6;
const BUS_OFFSET_VOLTS: f64 = 16e-3;
/// A shunt voltage backwards up to this is none: the offset, and what 26 V add to it with a rejection of 110 dB (7.5).
const NONE_VOLTS: f64 = 160e-6;

/// Converts a shunt voltage register to steps: two's complement above three bits.
fn shunt_steps(word: u16) -> i16 {
    word.cast_signed() >> 3
}

/// Converts a bus voltage register to volts: two's complement above three bits.
fn bus_volts(word: u16) -> f64 {
    f64::from(word.cast_signed() >> 3) * BUS_STEP_VOLTS
}

/// What the meters of one chip share.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// Bits 14 to 12 of the configuration: the channels that have a meter.
    enabled: AtomicU16,
    /// How often the flag of a completed conversion was found.
    conversions: AtomicU64,
}

impl Channels {
    /// Returns the channels that have a meter.
    fn enabled(&self) -> u16 {
        self.enabled.load(Ordering::Relaxed)
    }
}

/// One channel of a chip.
#[derive(Debug)]
struct Ina3221 {
    keys: Ina3221Keys,
    channels: Arc<Channels>,
    /// The conversions that were found when this meter last looked.
    seen: u64,
}

impl Ina3221 {
    fn new(keys: Ina3221Keys, channels: Arc<Channels>) -> Self {
        channels.enabled.fetch_or(1 << (15 - keys.channel.clamp(1, 3)), Ordering::Relaxed);
        Self { keys, channels, seen: 0 }
    }

    fn registers(&self) -> [Register; 2] {
        let index = usize::from(self.keys.channel.clamp(1, 3) - 1);
        [SHUNT_VOLTAGES, BUS_VOLTAGES].map(|registers| registers[index])
    }
}

impl Chip for Ina3221 {
    fn model(&self) -> &'static Model {
        &MODEL
    }

    fn shunt_ohms(&self) -> Option<f64> {
        Some(self.keys.shunt_ohms)
    }

    fn current(&self) -> Register {
        self.registers()[0]
    }

    fn plan(&mut self, period: Duration) -> Plan {
        let Ina3221Keys { shunt_ohms, shunt_tolerance, .. } = self.keys;
        let enabled = self.channels.enabled();
        let timing = Timing::within(period, enabled.count_ones());
        Plan {
            settings: vec![Setting::new(CONFIGURATION, enabled | timing.bits())],
            cycle: timing.cycle(),
            averages: timing.averages(),
            seen: timing.seen(),
            shunt_ohms: Some(shunt_ohms),
            step_amperes: SHUNT_STEP_VOLTS / shunt_ohms,
            step_volts: BUS_STEP_VOLTS,
            end_amperes: f64::from(shunt_steps(0x7fff)) * SHUNT_STEP_VOLTS / shunt_ohms,
            end_volts: 26.0,
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
        if bus.word(MASK_ENABLE)? & READY != 0 {
            self.channels.conversions.fetch_add(1, Ordering::Relaxed);
        }
        let conversions = self.channels.conversions.load(Ordering::Relaxed);
        let has_converted = std::mem::replace(&mut self.seen, conversions) != conversions;
        Ok(Look { has_converted, fault: None })
    }

    fn sample(&mut self, bus: &mut Bus<'_>) -> Result<Sample, MeterError> {
        let [shunt, voltage] = self.registers();
        let steps = shunt_steps(bus.word(shunt)?);
        let volts = bus_volts(bus.word(voltage)?);
        let amperes = f64::from(steps) * SHUNT_STEP_VOLTS / self.keys.shunt_ohms;
        Ok(Sample { amperes, volts, raw: steps.into(), counter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::ina::tests::{Flag, PERIOD, Virtual, assert_fails, close_to, detail, new_meter, read, read_new};
    use crate::meter::{Exclusive, MeterKind};

    /// 12 V with 80 mV on channel 1, 5 V with 40 mV on channel 2, and nothing on channel 3.
    fn registers() -> Virtual {
        let chip = [(0x00, 0x7127), (0xfe, 0x5449), (0xff, 0x3220)];
        let channels = [(0x01, 2_000 << 3), (0x02, 1_500 << 3), (0x03, 1_000 << 3), (0x04, 625 << 3)];
        Virtual::new(Flag::at(0x0f, READY), &[&chip[..], &channels].concat())
    }

    fn channel(channel: u8, channels: &Arc<Channels>) -> Ina3221 {
        let keys = toml::from_str(&format!("bus = 1\nchannel = {channel}\nshunt_ohms = 0.1")).unwrap();
        Ina3221::new(keys, channels.clone())
    }

    /// SBOS576B, 8.6: the ends of the ranges and the reset value of the configuration.
    #[test]
    fn the_data_sheets_words_are_understood() {
        for (word, steps) in [(0x7ff8, 4095), (0x8000, -4096), (0xfff8, -1), (2_000 << 3, 2_000)] {
            assert_eq!(shunt_steps(word), steps);
        }
        assert!(
            close_to(f64::from(shunt_steps(0x7ff8)) * SHUNT_STEP_VOLTS, 0.1638) && close_to(bus_volts(0x7ff8), 32.76)
        );
        let channels = Arc::default();
        let mut all = [1, 2, 3].map(|number| channel(number, &channels));
        assert_eq!(all[2].plan(PERIOD).settings[0].word & 0x7000, 0x7127 & 0x7000);
    }

    #[test]
    fn one_channel_alone_has_all_conversions() {
        let registers = registers();
        let mut meter = new_meter(channel(2, &Arc::default())).channel(Some(2));
        let reading = read(&mut meter, &registers, 0).unwrap();
        assert!(close_to(reading.power.unwrap().0, 2.0) && close_to(reading.volts.unwrap(), 5.0), "{reading:?}");
        let scale = reading.accuracy.scale;
        let is_right = close_to(scale.gain_error.unwrap(), 0.015 + 0.016 / 5.0) && close_to(scale.offset_w, 0.004);
        assert!(is_right, "{scale:?}");
        assert_eq!(registers.word(0x00), 0x2627);
        let detail = detail(&meter);
        assert!(detail.contains("INA3221 at 0x40 on /dev/i2c-1, channel 2, configuration 0x2627"), "{detail}");
        assert!(detail.contains("up to 1.638 A; 64 averages, measures 89 % of the time"), "{detail}");
    }

    /// Each reading of the flag clears it; both meters must see each conversion once.
    #[test]
    fn two_channels_of_one_chip_are_two_meters() {
        let (registers, channels) = (registers(), Arc::default());
        let chips = [1, 2].map(|number| channel(number, &channels));
        let mut meters = chips.map(new_meter);
        for (meter, watts) in meters.iter_mut().zip([9.6, 2.0]) {
            let reading = read(meter, &registers, 0).unwrap();
            assert!(close_to(reading.power.unwrap().0, watts), "{reading:?}");
        }
        assert_eq!(registers.word(0x00) & 0x7000, 0x6000, "only these channels are converted");
        let first = meters.each_mut().map(|meter| read(meter, &registers, 10).unwrap());
        let mut before = meters.each_mut().map(|meter| read(meter, &registers, 20).unwrap());
        assert_eq!(first, before, "nothing has ended since");
        for index in 1..=30 {
            registers.convert();
            let now = meters.each_mut().map(|meter| read(meter, &registers, 100 * index).unwrap());
            assert!(now.iter().zip(before).all(|(now, before)| now.time > before.time), "{index}");
            before = now;
        }
        let joules = meters.each_mut().map(|meter| read_new(meter, &registers, 3_100).unwrap().joules.0);
        assert!((joules[0] / joules[1] - 4.8).abs() < 1e-9 && joules[1] > 5.9, "{joules:?}");
    }

    #[test]
    fn a_reset_a_standstill_and_bad_values_are_noticed_by_each_meter() {
        let (registers, channels) = (registers(), Arc::default());
        let chips = [1, 2].map(|number| channel(number, &channels));
        let [mut first, mut second] = chips.map(new_meter);
        read(&mut first, &registers, 0).unwrap();
        read(&mut second, &registers, 0).unwrap();
        registers.set(0x03, 0x7ff8);
        read_new(&mut first, &registers, 100).unwrap();
        assert_fails(
            &mut second,
            &registers,
            100,
            "(ShuntVoltage2): read \"163.80 mV across the shunt at 5.000 V\", expected",
        );
        registers.set(0x03, 0xff00);
        assert_fails(&mut second, &registers, 200, "\"-1.28 mV across the shunt at 5.000 V\", expected 0 or more");
        registers.set(0x03, 0xfff0);
        assert_eq!(read_new(&mut second, &registers, 10_300).unwrap().power.unwrap().0, 0.0, "-80 uV are the offset");
        read_new(&mut second, &registers, 10_700).unwrap();
        registers.set(0x00, 0x7127);
        assert_fails(&mut first, &registers, 11_000, "read \"0x7127, not 0x6");
        read(&mut first, &registers, 11_100).unwrap();
        read(&mut second, &registers, 11_100).unwrap();
        for meter in [&mut first, &mut second] {
            let stuck = read(meter, &registers, 12_200).unwrap_err().to_string();
            assert!(stuck.contains("register 0x0f (MaskEnable): stuck"), "{stuck}");
        }
    }

    #[test]
    fn a_channel_has_one_meter_and_its_chip_no_other_reader() {
        let taken = |channel| {
            let keys: Ina3221Keys = toml::from_str(&format!("bus = 1\nchannel = {channel}\nshunt_ohms = 0.1")).unwrap();
            keys.exclusive().remove(0)
        };
        assert!(taken(1).overlaps(&taken(1)) && !taken(1).overlaps(&taken(2)));
        assert!(taken(1).overlaps(&Exclusive::new("I2C /dev/i2c-1 0x40", "address")), "the source i2c, or an INA219");
    }

    #[test]
    fn another_chip_is_refused() {
        let registers = registers();
        registers.set(0xff, 0x2260);
        let mut meter = new_meter(channel(1, &Arc::default()));
        assert_fails(&mut meter, &registers, 0, "an INA226: use the kind ina226\", expected 0x5449 and 0x322.");
    }
}
