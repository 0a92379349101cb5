//! The meter on a fake register file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::meter::tree::Tree;
use crate::units::Joules;

const PERIOD: Duration = Duration::from_millis(100);
const CYCLE_MS: u64 = 69;

/// A chip that answers as long as it is there.
#[derive(Default)]
struct Words {
    words: [u16; 6],
    /// Errors that the next transfers give.
    errors: VecDeque<i32>,
    gone: bool,
    transfers: usize,
    /// A chip that was set up ends no conversion by itself.
    is_slow: bool,
    is_set_up: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Words>>);

impl Fake {
    /// 5.000 V and 60 mV across the shunt: 0.6 A through 0.1 Ohm.
    fn new() -> Self {
        let fake = Self::default();
        fake.set(Register::ShuntVoltage, 6_000);
        fake.convert();
        fake
    }

    fn set(&self, register: Register, word: u16) {
        self.0.lock().unwrap().words[register as usize] = word;
    }

    fn get(&self, register: Register) -> u16 {
        self.0.lock().unwrap().words[register as usize]
    }

    /// A conversion has ended at 5.000 V.
    fn convert(&self) {
        self.set(Register::BusVoltage, 1250 << 3 | 0b10);
    }

    fn fail(&self, errors: &[i32]) {
        self.0.lock().unwrap().errors.extend(errors);
    }

    fn unplug(&self, gone: bool) {
        self.0.lock().unwrap().gone = gone;
    }

    fn access<T>(&self, with: impl FnOnce(&mut Words) -> T) -> io::Result<T> {
        let mut words = self.0.lock().unwrap();
        words.transfers += 1;
        let error = if words.gone { Some(EREMOTEIO) } else { words.errors.pop_front() };
        error.map_or_else(|| Ok(with(&mut words)), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl Registers for Fake {
    fn read(&mut self, register: Register) -> io::Result<u16> {
        self.access(|chip| {
            let bus = &mut chip.words[Register::BusVoltage as usize];
            match register {
                Register::Power => *bus &= !0b10,
                Register::BusVoltage if std::mem::take(&mut chip.is_set_up) && !chip.is_slow => *bus |= 0b10,
                _ => {}
            }
            chip.words[register as usize]
        })
    }

    fn write(&mut self, register: Register, word: u16) -> io::Result<()> {
        self.access(|chip| {
            chip.is_set_up |= register == Register::Configuration;
            chip.words[register as usize] = word;
        })
    }
}

fn chip() -> Chip {
    Chip { bus: 1, address: 0x40, shunt_ohms: 0.1, shunt_tolerance: 0.01, setup: Setup::new(0.320, 16.0, 128) }
}

fn meter(tree: &Tree) -> Ina219 {
    Ina219::new("board", tree.root(), chip(), Scope::Board, PERIOD)
}

fn read(meter: &mut Ina219, fake: &Fake, ms: u64) -> Result<Reading, MeterError> {
    meter.read_with(|_, _| Ok(Box::new(fake.clone())), || MonoTime(ms * 1_000_000))
}

fn close_to(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn voltage_times_current_is_integrated() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    let first = read(&mut meter, &fake, 1000).unwrap();
    assert!(close_to(first.power.unwrap().0, 3.0) && close_to(first.amperes.unwrap(), 0.6));
    assert_eq!((first.joules, first.volts, first.scope), (Joules(0.0), Some(5.0), Scope::Board));
    let back_ms = 1000 - first.time.0 / 1_000_000;
    assert!(back_ms.abs_diff(CYCLE_MS / 2) <= 1, "dated back to the middle of when it may have ended: {back_ms}");
    fake.set(Register::ShuntVoltage, 10_000);
    fake.convert();
    assert!(close_to(read(&mut meter, &fake, 1100).unwrap().joules.0, 0.4));
}

#[test]
fn a_conversion_counts_once_and_is_dated_between_the_looks_that_it_ended_between() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    let first = read(&mut meter, &fake, 1000).unwrap();
    assert_eq!(read(&mut meter, &fake, 1020).unwrap(), first, "nothing has ended since");
    fake.set(Register::ShuntVoltage, 10_000);
    fake.convert();
    let second = read(&mut meter, &fake, 1040).unwrap();
    assert_eq!((second.time, second.power.unwrap().0.round()), (MonoTime(1_030_000_000), 5.0));
    fake.set(Register::BusVoltage, 1250 << 3 | 0b01);
    assert!(read(&mut meter, &fake, 1060).is_err(), "an overflow counts whether new or not");
}

#[test]
fn the_set_up_is_written_and_read_back() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    fake.set(Register::Calibration, 4096);
    let mut meter = meter(&tree);
    read(&mut meter, &fake, 0).unwrap();
    assert_eq!((fake.get(Register::Configuration), fake.get(Register::Calibration)), (0x19ff, 0));
    let detail = meter.info().detail.join("; ");
    for part in
        ["INA219 at 0x40 on /dev/i2c-1, configuration 0x19ff", "up to 3.200 A; 128 averages, measures 99 %", "15 Hz"]
    {
        assert!(detail.contains(part), "{part} in {detail}");
    }
}

#[test]
fn a_chip_that_does_not_keep_its_set_up_is_refused() {
    struct Deaf(Fake);
    impl Registers for Deaf {
        fn read(&mut self, register: Register) -> io::Result<u16> {
            self.0.read(register)
        }
        fn write(&mut self, _: Register, _: u16) -> io::Result<()> {
            Ok(())
        }
    }
    let tree = Tree::new(&[]);
    let error = meter(&tree).read_with(|_, _| Ok(Box::new(Deaf(Fake::new()))), MonoTime::default).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/dev/i2c-1 0x40 register 0x00 (Configuration): read \"0x0000, not 0x19ff\", expected what was written; another \
         chip is at this address, or the bus lines are disturbed"
    );
}

#[test]
fn a_reset_chip_is_noticed_and_set_up_again() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    read(&mut meter, &fake, 0).unwrap();
    fake.set(Register::Configuration, 0x399f);
    fake.convert();
    assert!(read(&mut meter, &fake, 900).is_err_and(|error| matches!(error, MeterError::Rebaselined { .. })));
    fake.convert();
    let error = read(&mut meter, &fake, 1000).unwrap_err();
    assert!(error.to_string().contains("0x399f, not 0x19ff") && error.to_string().contains("reset"), "{error}");
    let again = read(&mut meter, &fake, 1100).unwrap();
    assert_eq!((again.joules, fake.get(Register::Configuration)), (Joules(0.0), 0x19ff));
}

#[test]
fn the_driver_of_the_kernel_is_respected() {
    let (tree, fake) = (Tree::new(&[("bus/i2c/devices/1-0040/name", "ina219\n")]), Fake::new());
    let mut meter = meter(&tree);
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
        let error = read(&mut meter, &fake, 0).unwrap_err();
        assert!(matches!(error, MeterError::Taken { .. }));
        let end =
            format!("1-0040/driver: the kernel's driver {driver} uses the chip; read it through the kernel: {fix}");
        assert!(error.to_string().ends_with(&end), "{error}");
        tree.remove("bus/i2c/devices/1-0040/driver");
    }
    assert_eq!(fake.0.lock().unwrap().transfers, 0);
    read(&mut meter, &fake, 100).unwrap();
}

#[test]
fn each_refusal_of_the_bus_says_what_to_do() {
    let tree = Tree::new(&[]);
    for (errno, part) in [
        (nix::libc::ENOENT, "/dev/i2c-1: no such bus; load the I2C user interface: sudo modprobe i2c-dev"),
        (nix::libc::EACCES, "/dev/i2c-1: permission denied; "),
        (EBUSY, "a kernel driver uses the chip; read it through the kernel: hwmon = { chip = \"ina219\", device"),
        (nix::libc::EINVAL, "/dev/i2c-1: Invalid argument"),
    ] {
        let open = |_: &Path, _| Err(io::Error::from_raw_os_error(errno));
        let error = meter(&tree).read_with(open, MonoTime::default).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_disturbed_transfer_is_tried_again_and_counted() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    read(&mut meter, &fake, 0).unwrap();
    fake.fail(&[EREMOTEIO, EIO]);
    read(&mut meter, &fake, 100).unwrap();
    assert_eq!(meter.retries, 2);
    fake.fail(&[nix::libc::EINVAL]);
    let error = read(&mut meter, &fake, 200).unwrap_err();
    assert!(matches!(error, MeterError::Failed { .. }));
    assert!(error.to_string().contains("register 0x02 (BusVoltage): Invalid argument"), "{error}");
}

#[test]
fn unplugged_and_back() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    read(&mut meter, &fake, 1000).unwrap();
    fake.convert();
    assert!(close_to(read(&mut meter, &fake, 1100).unwrap().joules.0, 0.3));
    fake.unplug(true);
    let error = read(&mut meter, &fake, 1200).unwrap_err();
    assert!(matches!(error, MeterError::Absent { .. }));
    assert!(error.to_string().contains("no response in 3 tries: ") && error.to_string().contains("i2cdetect -y 1"));
    assert!(matches!(read(&mut meter, &fake, 1300), Err(MeterError::Absent { .. })));
    fake.unplug(false);
    fake.set(Register::Configuration, 0x399f);
    fake.convert();
    assert!(close_to(read(&mut meter, &fake, 60_000).unwrap().joules.0, 0.3), "what was not seen is not made up");
    fake.convert();
    assert!(close_to(read(&mut meter, &fake, 60_100).unwrap().joules.0, 0.6));
    assert_eq!(fake.get(Register::Configuration), 0x19ff);
}

#[test]
fn what_is_no_measurement_is_an_error_and_not_joined_over() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    for (shunt, bus, part) in [
        (6_000, 1250 << 3 | 0b11, "register 0x02 (BusVoltage): read \"OVF\", expected no overflow"),
        (
            32_000,
            1250 << 3 | 0b10,
            "\"320.00 mV across the shunt at 5.000 V\", expected less than the end of the range",
        ),
        (6_000, 4000 << 3 | 0b10, "at 16.000 V\", expected less than the end"),
        (u16::MAX - 999, 1250 << 3 | 0b10, "\"-10.00 mV across the shunt at 5.000 V\", expected 0 or more"),
    ] {
        let mut meter = meter(&tree);
        read(&mut meter, &fake, 1000).unwrap();
        fake.set(Register::ShuntVoltage, shunt);
        fake.set(Register::BusVoltage, bus);
        let error = read(&mut meter, &fake, 1100).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in {error}");
        fake.set(Register::ShuntVoltage, 6_000);
        fake.convert();
        assert_eq!(read(&mut meter, &fake, 1200).unwrap().joules, Joules(0.0));
        fake.convert();
        assert!(close_to(read(&mut meter, &fake, 1300).unwrap().joules.0, 0.3));
    }
}

#[test]
fn without_new_conversions_it_is_stuck() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    let mut meter = meter(&tree);
    read(&mut meter, &fake, 0).unwrap();
    let before = [300, 600, 900].map(|ms| read(&mut meter, &fake, ms).unwrap());
    assert!(close_to(before[2].power.unwrap().0, 3.0), "a conversion may be read twice");
    for ms in [1200, 1300, 1700, 30_000] {
        let error = read(&mut meter, &fake, ms).unwrap_err();
        assert!(matches!(error, MeterError::Stuck { .. }) && error.to_string().contains("(CNVR)"), "{ms}: {error}");
    }
    fake.convert();
    assert_eq!(read(&mut meter, &fake, 60_000).unwrap().joules, before[2].joules, "what was not seen is not made up");
}

/// The registers then hold what was measured before, with other ranges or by another program, or nothing.
#[test]
fn what_was_measured_before_the_set_up_is_no_reading() {
    let (tree, fake) = (Tree::new(&[]), Fake::new());
    fake.0.lock().unwrap().is_slow = true;
    let mut meter = meter(&tree);
    for ms in [0, 50] {
        let error = read(&mut meter, &fake, ms).unwrap_err();
        assert!(
            matches!(error, MeterError::Rebaselined { .. }) && error.to_string().contains("just configured"),
            "{error}"
        );
    }
    fake.convert();
    assert_eq!(read(&mut meter, &fake, 100).unwrap().joules, Joules(0.0));
    fake.set(Register::Configuration, 0x399f);
    assert!(read(&mut meter, &fake, 1100).unwrap_err().to_string().contains("0x399f, not 0x19ff"));
    for ms in [1200, 2000] {
        assert!(matches!(read(&mut meter, &fake, ms), Err(MeterError::Rebaselined { .. })), "{ms}");
    }
    assert!(matches!(read(&mut meter, &fake, 2200), Err(MeterError::Stuck { .. })), "it never measures");
}
