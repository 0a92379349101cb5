//! Virtual chips for the tests of all kinds, and what these have in common, tested with an INA219.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use nix::libc::{EIO, EREMOTEIO};

use super::*;
use crate::meter::ina219::Ina219;
use crate::meter::tree::Tree;

pub(in crate::meter) const PERIOD: Duration = Duration::from_millis(100);

/// Which flag tells of a conversion.
#[derive(Clone, Copy)]
pub(in crate::meter) struct Flag {
    pub register: u8,
    pub ready: u16,
    /// The register that clears it when it is read, and what is cleared.
    pub cleared_by: u8,
    pub clears: u16,
}

impl Flag {
    /// Returns a flag that is cleared when its register is read.
    pub(in crate::meter) fn at(register: u8, ready: u16) -> Self {
        Self { register, ready, cleared_by: register, clears: ready }
    }
}

/// The registers of a chip that responds as long as it is there.
#[derive(Clone)]
pub(in crate::meter) struct Virtual(Arc<Mutex<State>>);

struct State {
    registers: BTreeMap<u8, Vec<u8>>,
    flag: Flag,
    /// Errors that the next transfers give.
    errors: VecDeque<i32>,
    is_gone: bool,
    /// It keeps nothing that is written.
    is_deaf: bool,
    /// After its configuration it ends no conversion by itself.
    is_slow: bool,
    /// How often the flag is still read until the first conversion after the configuration has ended.
    converts_in: u32,
    transfers: usize,
}

impl State {
    fn word(&self, register: u8) -> u16 {
        self.registers.get(&register).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn set(&mut self, register: u8, word: u16) {
        self.registers.insert(register, word.to_be_bytes().to_vec());
    }

    fn convert(&mut self) {
        let Flag { register, ready, .. } = self.flag;
        self.set(register, self.word(register) | ready);
    }

    fn access<T>(&mut self, with: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        self.transfers += 1;
        let error = if self.is_gone { Some(EREMOTEIO) } else { self.errors.pop_front() };
        error.map_or_else(|| Ok(with(self)), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl Virtual {
    pub(in crate::meter) fn new(flag: Flag, words: &[(u8, u16)]) -> Self {
        let (registers, errors) = (BTreeMap::new(), VecDeque::new());
        let (is_gone, is_deaf, is_slow, converts_in, transfers) = (false, false, false, 0, 0);
        let state = State { registers, flag, errors, is_gone, is_deaf, is_slow, converts_in, transfers };
        let chip = Self(Arc::new(Mutex::new(state)));
        words.iter().for_each(|(register, word)| chip.set(*register, *word));
        chip
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    pub(in crate::meter) fn set(&self, register: u8, word: u16) {
        self.with(|chip| chip.set(register, word));
    }

    pub(in crate::meter) fn set_bits(&self, register: u8, bits: u16) {
        self.with(|chip| chip.set(register, chip.word(register) | bits));
    }

    pub(in crate::meter) fn set_bytes(&self, register: u8, bytes: &[u8]) {
        self.with(|chip| chip.registers.insert(register, bytes.to_vec()));
    }

    pub(in crate::meter) fn word(&self, register: u8) -> u16 {
        self.with(|chip| chip.word(register))
    }

    /// A conversion has ended.
    pub(in crate::meter) fn convert(&self) {
        self.with(State::convert);
    }

    fn fail(&self, errors: &[i32]) {
        self.with(|chip| chip.errors.extend(errors));
    }

    fn unplug(&self, is_gone: bool) {
        self.with(|chip| chip.is_gone = is_gone);
    }
}

impl Registers for Virtual {
    fn read(&mut self, address: u8, bytes: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().access(|chip| {
            let Flag { register, cleared_by, clears, .. } = chip.flag;
            if address == register && chip.converts_in > 0 {
                chip.converts_in -= 1;
                if chip.converts_in == 0 && !chip.is_slow {
                    chip.convert();
                }
            }
            let found = chip.registers.get(&address).cloned().unwrap_or_default();
            bytes.iter_mut().zip(found.iter().chain(std::iter::repeat(&0))).for_each(|(byte, found)| *byte = *found);
            if address == cleared_by {
                chip.set(register, chip.word(register) & !clears);
            }
        })
    }

    fn write(&mut self, address: u8, word: u16) -> io::Result<()> {
        self.0.lock().unwrap().access(|chip| {
            // The flag is read once to discard what ended before.
            chip.converts_in = 2;
            if !chip.is_deaf {
                chip.set(address, word);
            }
        })
    }
}

pub(in crate::meter) fn close_to(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// Returns a meter on a chip that no driver has.
pub(in crate::meter) fn new_meter(chip: impl Chip + 'static) -> Ina {
    meter_at(chip, Path::new("/nowhere"))
}

fn meter_at(chip: impl Chip + 'static, sysfs: &Path) -> Ina {
    let surroundings = Surroundings::without_node(sysfs, PERIOD);
    Ina::new("board", Box::new(chip), Place { bus: 1, address: 0x40 }, Scope::Board, &surroundings)
}

/// Reads the meter at `ms`, whether a conversion has ended or not.
pub(in crate::meter) fn read(meter: &mut Ina, chip: &Virtual, ms: u64) -> Result<Reading, MeterError> {
    meter.read_with(|_, _| Ok(Box::new(chip.clone())), || MonoTime(ms * 1_000_000))
}

/// Reads the meter after a conversion.
pub(in crate::meter) fn read_new(meter: &mut Ina, chip: &Virtual, ms: u64) -> Result<Reading, MeterError> {
    chip.convert();
    read(meter, chip, ms)
}

/// Reads the meter after a conversion, which must fail with that `part` in the error.
pub(in crate::meter) fn assert_fails(meter: &mut Ina, chip: &Virtual, ms: u64, part: &str) {
    let error = read_new(meter, chip, ms).unwrap_err().to_string();
    assert!(error.contains(part), "{part} in {error}");
}

pub(in crate::meter) fn detail(meter: &Ina) -> String {
    meter.info().detail.join("; ")
}

const CONFIGURATION: u8 = 0;
const SHUNT: u8 = 1;
const BUS: u8 = 2;
const POWER: u8 = 3;
const CALIBRATION: u8 = 5;
const READY: u16 = 0b10;
const CYCLE_MS: u64 = 69;

/// 5.000 V and 60 mV across the shunt: 0.6 A through 0.1 Ohm.
fn ina219() -> Virtual {
    let flag = Flag { register: BUS, ready: READY, cleared_by: POWER, clears: READY };
    Virtual::new(flag, &[(SHUNT, 6_000), (BUS, 1250 << 3)])
}

fn chip() -> Ina219 {
    Ina219::new(toml::from_str("bus = 1\nshunt_ohms = 0.1").unwrap())
}

fn meter() -> Ina {
    new_meter(chip())
}

#[test]
fn voltage_times_current_is_integrated() {
    let (mut meter, chip) = (meter(), ina219());
    let first = read(&mut meter, &chip, 1000).unwrap();
    assert!(close_to(first.power.unwrap().0, 3.0) && close_to(first.amperes.unwrap(), 0.6));
    assert_eq!((first.joules, first.volts, first.scope), (Joules(0.0), Some(5.0), Scope::Board));
    let back_ms = 1000 - first.time.0 / 1_000_000;
    assert!(back_ms.abs_diff(CYCLE_MS / 2) <= 1, "dated back to the middle of when it may have ended: {back_ms}");
    chip.set(SHUNT, 10_000);
    assert!(close_to(read_new(&mut meter, &chip, 1100).unwrap().joules.0, 0.4));
}

#[test]
fn a_conversion_counts_once_and_is_dated_between_the_looks_that_it_ended_between() {
    let (mut meter, chip) = (meter(), ina219());
    let first = read(&mut meter, &chip, 1000).unwrap();
    assert_eq!(read(&mut meter, &chip, 1020).unwrap(), first, "nothing has ended since");
    chip.set(SHUNT, 10_000);
    let second = read_new(&mut meter, &chip, 1040).unwrap();
    assert_eq!((second.time, second.power.unwrap().0.round()), (MonoTime(1_030_000_000), 5.0));
    chip.set_bits(BUS, 0b01);
    assert!(read(&mut meter, &chip, 1060).is_err(), "an overflow counts whether new or not");
}

#[test]
fn the_set_up_is_written_and_read_back() {
    let (mut meter, chip) = (meter(), ina219());
    chip.set(CALIBRATION, 4096);
    read(&mut meter, &chip, 0).unwrap();
    assert_eq!((chip.word(CONFIGURATION), chip.word(CALIBRATION)), (0x19ff, 0));
    let detail = detail(&meter);
    for part in
        ["INA219 at 0x40 on /dev/i2c-1, configuration 0x19ff", "up to 3.200 A; 128 averages, measures 99 %", "15 Hz"]
    {
        assert!(detail.contains(part), "{part} in {detail}");
    }
}

#[test]
fn a_chip_that_does_not_keep_its_set_up_is_refused() {
    let chip = ina219();
    chip.with(|chip| chip.is_deaf = true);
    assert_eq!(
        read(&mut meter(), &chip, 0).unwrap_err().to_string(),
        "/dev/i2c-1 0x40 register 0x00 (Configuration): read \"0x0000, not 0x19ff\", expected what was written; another \
         chip is at this address, or the bus lines are disturbed"
    );
}

#[test]
fn a_reset_chip_is_noticed_and_set_up_again() {
    let (mut meter, chip) = (meter(), ina219());
    read(&mut meter, &chip, 0).unwrap();
    chip.set(CONFIGURATION, 0x399f);
    assert!(read_new(&mut meter, &chip, 900).is_err_and(|error| matches!(error, MeterError::Rebaselined { .. })));
    let error = read_new(&mut meter, &chip, 1000).unwrap_err();
    assert!(error.to_string().contains("0x399f, not 0x19ff") && error.to_string().contains("reset"), "{error}");
    let again = read(&mut meter, &chip, 1100).unwrap();
    assert_eq!((again.joules, chip.word(CONFIGURATION)), (Joules(0.0), 0x19ff));
}

#[test]
fn the_driver_of_the_kernel_is_respected() {
    let tree = Tree::new(&[("bus/i2c/devices/1-0040/name", "ina219\n")]);
    let (mut meter, chip) = (meter_at(chip(), tree.root()), ina219());
    let (hwmon, iio) = (
        "hwmon = { chip = \"ina219\", device = \"1-0040\" }",
        "iio = { chip = \"ina219\", device = \"1-0040\", shunt_ohms = 0.1 }",
    );
    for (driver, fix) in [
        ("ina2xx_adc", iio.to_owned()),
        ("ina2xx", hwmon.to_owned()),
        ("other", format!("{hwmon}, or with the driver ina2xx_adc: {iio}")),
    ] {
        tree.link("bus/i2c/devices/1-0040/driver", &format!("../../../bus/i2c/drivers/{driver}"));
        let error = read(&mut meter, &chip, 0).unwrap_err();
        assert!(matches!(error, MeterError::Taken { .. }));
        let end =
            format!("1-0040/driver: the kernel's driver {driver} uses the chip; read it through the kernel: {fix}");
        assert!(error.to_string().ends_with(&end), "{error}");
        tree.remove("bus/i2c/devices/1-0040/driver");
    }
    assert_eq!(chip.with(|chip| chip.transfers), 0);
    read(&mut meter, &chip, 100).unwrap();
}

#[test]
fn each_refusal_of_the_bus_says_what_to_do() {
    for (errno, part) in [
        (nix::libc::ENOENT, "/dev/i2c-1: no such bus; load the I2C user interface: sudo modprobe i2c-dev"),
        (nix::libc::EACCES, "/dev/i2c-1: permission denied; "),
        (EBUSY, "a kernel driver uses the chip; read it through the kernel: hwmon = { chip = \"ina219\", device"),
        (nix::libc::EINVAL, "/dev/i2c-1: Invalid argument"),
    ] {
        let open = |_: &Path, _| Err(io::Error::from_raw_os_error(errno));
        let error = meter().read_with(open, MonoTime::default).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_disturbed_transfer_is_tried_again_and_counted() {
    let (mut meter, chip) = (meter(), ina219());
    read(&mut meter, &chip, 0).unwrap();
    chip.fail(&[EREMOTEIO, EIO]);
    read(&mut meter, &chip, 100).unwrap();
    assert_eq!(meter.retries, 2);
    chip.fail(&[nix::libc::EINVAL]);
    let error = read(&mut meter, &chip, 200).unwrap_err();
    assert!(matches!(error, MeterError::Failed { .. }));
    assert!(error.to_string().contains("register 0x02 (BusVoltage): Invalid argument"), "{error}");
}

#[test]
fn unplugged_and_back() {
    let (mut meter, chip) = (meter(), ina219());
    read(&mut meter, &chip, 1000).unwrap();
    assert!(close_to(read_new(&mut meter, &chip, 1100).unwrap().joules.0, 0.3));
    chip.unplug(true);
    let error = read(&mut meter, &chip, 1200).unwrap_err();
    assert!(matches!(error, MeterError::Absent { .. }));
    assert!(error.to_string().contains("no response in 3 tries: ") && error.to_string().contains("i2cdetect -y 1"));
    assert!(matches!(read(&mut meter, &chip, 1300), Err(MeterError::Absent { .. })));
    chip.unplug(false);
    chip.set(CONFIGURATION, 0x399f);
    assert!(close_to(read(&mut meter, &chip, 60_000).unwrap().joules.0, 0.3), "what was not seen is not made up");
    assert!(close_to(read_new(&mut meter, &chip, 60_100).unwrap().joules.0, 0.6));
    assert_eq!(chip.word(CONFIGURATION), 0x19ff);
}

#[test]
fn what_is_no_measurement_is_an_error_and_not_joined_over() {
    for (shunt, bus, part) in [
        (6_000, 1250 << 3 | 0b01, "register 0x02 (BusVoltage): read \"OVF\", expected no overflow"),
        (32_000, 1250 << 3, "\"320.00 mV across the shunt at 5.000 V\", expected less than the end of the range"),
        (6_000, 4000 << 3, "at 16.000 V\", expected less than the end"),
        (u16::MAX - 999, 1250 << 3, "\"-10.00 mV across the shunt at 5.000 V\", expected 0 or more"),
    ] {
        let (mut meter, chip) = (meter(), ina219());
        read(&mut meter, &chip, 1000).unwrap();
        chip.set(SHUNT, shunt);
        chip.set(BUS, bus);
        assert_fails(&mut meter, &chip, 1100, part);
        chip.set(SHUNT, 6_000);
        chip.set(BUS, 1250 << 3);
        // After a value at the end of the range, nothing counts for 10 s.
        assert_eq!(read_new(&mut meter, &chip, 11_200).unwrap().joules, Joules(0.0));
        assert!(close_to(read_new(&mut meter, &chip, 11_300).unwrap().joules.0, 0.3));
    }
}

/// A value that does not change although others did is held back, and then refused.
#[test]
fn a_frozen_value_is_held_back_and_refused() {
    let (mut meter, chip) = (meter(), ina219());
    for index in 0..100 {
        chip.set(SHUNT, 6_000 + (index * 7919 % 101) as u16);
        read_new(&mut meter, &chip, index * 100).unwrap();
    }
    chip.set(SHUNT, 6_050);
    let first = read_new(&mut meter, &chip, 10_000).unwrap();
    assert_eq!(read_new(&mut meter, &chip, 11_000).unwrap(), first);
    assert_fails(
        &mut meter,
        &chip,
        13_000,
        "has shown exactly 60.50 mV across the shunt at 5.000 V for 3.0 s; before,",
    );
    chip.set(SHUNT, 6_051);
    assert!(read_new(&mut meter, &chip, 13_100).is_err(), "it counts from the next conversion on");
    let again = read_new(&mut meter, &chip, 13_200).unwrap();
    assert_eq!(again.joules, first.joules, "the energy of that time is not known");
}

#[test]
fn without_new_conversions_it_is_stuck() {
    let (mut meter, chip) = (meter(), ina219());
    read(&mut meter, &chip, 0).unwrap();
    let before = [300, 600, 900].map(|ms| read(&mut meter, &chip, ms).unwrap());
    assert!(close_to(before[2].power.unwrap().0, 3.0), "a conversion may be read twice");
    for ms in [1200, 1300, 1700, 30_000] {
        let error = read(&mut meter, &chip, ms).unwrap_err();
        assert!(matches!(error, MeterError::Stuck { .. }) && error.to_string().contains("(CNVR)"), "{ms}: {error}");
    }
    let after = read_new(&mut meter, &chip, 60_000).unwrap();
    assert_eq!(after.joules, before[2].joules, "what was not seen is not made up");
}

/// The registers then hold what was measured before, with other ranges or by another program, or nothing.
#[test]
fn what_was_measured_before_the_set_up_is_no_reading() {
    let (mut meter, chip) = (meter(), ina219());
    chip.with(|chip| chip.is_slow = true);
    for ms in [0, 50] {
        let error = read(&mut meter, &chip, ms).unwrap_err();
        assert!(
            matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("just configured"),
            "{error}"
        );
    }
    assert_eq!(read_new(&mut meter, &chip, 100).unwrap().joules, Joules(0.0));
    chip.set(CONFIGURATION, 0x399f);
    assert!(read(&mut meter, &chip, 1100).unwrap_err().to_string().contains("0x399f, not 0x19ff"));
    for ms in [1200, 2000] {
        assert!(matches!(read(&mut meter, &chip, ms), Err(MeterError::Rebaselined { .. })), "{ms}");
    }
    assert!(matches!(read(&mut meter, &chip, 2200), Err(MeterError::Stuck { .. })), "it never measures");
}

#[test]
fn an_offset_of_the_voltage_is_a_part_of_the_power() {
    let errors = Errors { gain: 0.012, offset_amperes: 0.005, offset_volts: 0.0075 };
    let scale = errors.scale(12.0);
    assert!(close_to(scale.gain_error.unwrap(), 0.012_625) && close_to(scale.offset_w, 0.06), "{scale:?}");
    assert!(close_to(errors.scale(0.0).gain_error.unwrap(), 1.012), "a power of nothing may be off by all of it");
}
