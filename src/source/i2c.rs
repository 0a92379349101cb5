//! A chip on an I2C bus, read by its registers through `/dev/i2c-N`.
//!
//! Owns how the bus is found, and what its errors mean. Leaves to `registers` how the chip is set up and read, and to
//! `sys::i2c` the calls of the kernel.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::libc::EBUSY;
use serde::Deserialize;
use serde::de::{Error, Unexpected, Visitor};

use super::registers::chip::{is_hanging, is_no_answer};
use super::registers::{Bus, Connect, RegisterSource, registers_table};
use super::{
    Buffer, Exclusive, FrameProducer, OpenOptions, SourceError, SourceKind, Survey, WhenFull, registers::chip::Chip,
};
use crate::schema::{Checker, Form, Key, Value, table};
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::sys::folder::{names, text};
use crate::sys::i2c::{BUS_FIX, BurstBy, RULE};
use crate::sys::permission::permit;

/// The addresses that chips can have; the others have a special meaning on the bus.
const ADDRESSES: [u8; 2] = [0x08, 0x77];
/// The clock of a bus in the standard and the fast mode, and the fastest that small computers have.
const STANDARD_HZ: f64 = 100e3;
const FAST_HZ: f64 = 400e3;
const FASTEST_HZ: f64 = 1e6;
/// A byte and its acknowledgement.
const BITS_PER_BYTE: usize = 9;
/// Start, repeated start and stop.
const MARKS_PER_READ: usize = 3;
/// The address, the register, and the address again.
const BYTES_BEFORE: usize = 3;

registers_table! {
    /// Reads a chip on an I2C bus by its registers: it is set up by what `init` writes, and then read at a steady rate. Use a
    /// kernel driver and `source.iio` instead where the chip has an interrupt wire and a high rate.
    pub struct I2c {
        /// The bus: the number N of /dev/i2c-N, the path of another device file, or what the name of its adapter begins with,
        /// as `i2cdetect -l` shows it.
        pub bus: BusName = BusName::Number(1), limits("1, `\"/dev/i2c-1\"`, or `\"MCP2221\"`");
        /// The chip's address of 7 bits, which `i2cdetect -y 1` shows.
        pub address: u8, limits("0x08 to 0x77"), example("0x68");
    }
}

/// Which bus a chip is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusName {
    Number(u8),
    Path(PathBuf),
    /// What the adapter's name begins with.
    Adapter(String),
}

impl Value for BusName {
    fn type_name() -> String {
        "integer or string".to_owned()
    }
    fn form() -> Form {
        Form::Any(vec![Form::Integer { low: 0, high: 0xff }, Form::Text])
    }
    fn to_toml(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Path(path) => format!("{:?}", path.display().to_string()),
            Self::Adapter(name) => format!("{name:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for BusName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BusVisitor;
        impl Visitor<'_> for BusVisitor {
            type Value = BusName;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the number of a bus, a path, or the name of an adapter")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<BusName, E> {
                let bus = u8::try_from(number).map(BusName::Number);
                bus.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<BusName, E> {
                Ok(match text.starts_with('/') {
                    true => BusName::Path(text.into()),
                    false => BusName::Adapter(text.to_owned()),
                })
            }
        }
        deserializer.deserialize_any(BusVisitor)
    }
}

impl I2c {
    fn chip(&self, machine: &Machine<'_>) -> I2cChip {
        let (sysfs, dev) = (machine.sysfs.to_owned(), machine.dev.to_owned());
        I2cChip { bus: self.bus.clone(), address: self.address, sysfs, dev }
    }

    /// Returns the part of the time in which a bus with this clock is busy.
    fn load(&self, clock_hz: f64) -> f64 {
        let (bytes, transfers) = self.registers().read_for_frame();
        let bits = (bytes + transfers * BYTES_BEFORE) * BITS_PER_BYTE + transfers * MARKS_PER_READ;
        bits as f64 / clock_hz * self.rate_hz
    }
}

impl SourceKind for I2c {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let [lowest, highest] = ADDRESSES;
        if !(lowest..=highest).contains(&self.address) {
            let message = format!(
                "{:#04x} is not an address that a chip can have; they are {lowest:#04x} to {highest:#04x}, without the bit \
                 for reading and writing",
                self.address
            );
            checker.problem(&key.child("address"), message);
        }
        if self.bus == BusName::Adapter(String::new()) {
            checker.problem(&key.child("bus"), "write the number of the bus, such as 1");
        }
        self.registers().check(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
        let load = self.load(FASTEST_HZ);
        if load > 1.0 {
            let message = format!(
                "a bus of 1 MHz can do {:.0} frames of these registers in a second at most, one of 100 kHz {:.0}",
                self.rate_hz / load,
                self.rate_hz / self.load(STANDARD_HZ)
            );
            checker.problem(&key.child("rate_hz"), message);
        }
    }

    fn spec(&self) -> StreamSpec {
        self.registers().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, _options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let chip = self.chip(&Machine::this());
        Ok(Box::new(RegisterSource::new(Box::new(chip), self.registers())?))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        // Whatever is wrong, the source waits until it is right.
        Ok(())
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        let (chip, registers) = (self.chip(machine), self.registers());
        let path = match chip.path() {
            Ok(path) => path,
            Err(reason) => return Survey::absent(reason).fix(BUS_FIX),
        };
        let bus = match crate::sys::i2c::I2c::open(&path, self.address.into()) {
            Ok(bus) => bus,
            Err(error) => return chip.not_there(&path, &error),
        };
        let mut detail = vec![match bus.burst_by() {
            BurstBy::Transaction => "the registers are read in one transaction".to_owned(),
            BurstBy::Blocks => "the bus knows only SMBus: registers are read in blocks of 32 bytes".to_owned(),
            BurstBy::Bytes => "the bus knows only single bytes: the values of a frame may be of two moments".to_owned(),
        }];
        detail.push(format!(
            "{} frames a second keep a bus of 100 kHz busy for {:.0} % of the time, one of 400 kHz for {:.0} %",
            self.rate_hz,
            self.load(STANDARD_HZ) * 100.0,
            self.load(FAST_HZ) * 100.0
        ));
        let says = format!("{} at {:#04x}", path.display(), self.address);
        let clock_hz = chip.clock_hz(&path);
        if let Some(clock_hz) = clock_hz.filter(|clock_hz| self.load(*clock_hz) > 1.0) {
            let most = self.rate_hz / self.load(clock_hz);
            return Survey::broken(format!(
                "{says}: the bus has {clock_hz} Hz, which is enough for {most:.0} frames a second"
            ))
            .fix("lower rate_hz; or on a Raspberry Pi: dtparam=i2c_arm_baudrate=400000 in /boot/firmware/config.txt")
            .detail(detail);
        }
        let mut bus: Box<dyn Bus> = Box::new(bus);
        // It is one transfer that writes nothing, so it hardly disturbs a daemon that reads the chip.
        let answered = Chip::new(&chip, bus.as_mut(), &registers).compare_identity();
        match (answered, &registers.check) {
            (Err(SourceError::Device { reason, .. }), _) if reason.contains(NO_ANSWER) => {
                Survey::absent(format!("{says}: {reason}")).detail(detail)
            }
            (Err(SourceError::Device { reason, .. }), _) => Survey::broken(format!("{says}: {reason}")).detail(detail),
            (Err(error), _) => Survey::broken(error.to_string()).detail(detail),
            (Ok(()), Some(check)) => {
                let says = format!("the chip answers on {says}, register {:#04x} is right", check.register);
                Survey::ready(says).detail(detail).node(path, RULE)
            }
            (Ok(()), None) => {
                let says = format!("{says}: the bus is there; without `check`, the chip was not asked");
                Survey::ready(says).detail(detail).node(path, RULE)
            }
        }
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        let bus = match &self.bus {
            BusName::Number(number) => format!("/dev/i2c-{number}"),
            BusName::Path(path) => path.display().to_string(),
            BusName::Adapter(name) => name.clone(),
        };
        vec![Exclusive::new(format!("I2C {bus} {:#04x}", self.address), "address")]
    }

    fn has_time(&self) -> bool {
        true
    }

    fn endless(&self) -> Option<&'static str> {
        Some("reads a chip, which has no end; start it without --once, or use the source lines or replay")
    }
}

/// What an error says if no chip answered.
const NO_ANSWER: &str = "no answer";

/// The way to a chip on an I2C bus.
struct I2cChip {
    bus: BusName,
    address: u8,
    sysfs: PathBuf,
    dev: PathBuf,
}

impl I2cChip {
    /// Returns the device file of the bus.
    ///
    /// # Errors
    /// There is no adapter of that name; the text lists those that there are.
    fn path(&self) -> Result<PathBuf, String> {
        match &self.bus {
            BusName::Number(number) => Ok(self.dev.join(format!("i2c-{number}"))),
            BusName::Path(path) => Ok(path.clone()),
            BusName::Adapter(wanted) => {
                let folder = self.sysfs.join("bus/i2c/devices");
                let adapters = names(&folder).into_iter().filter(|name| name.starts_with("i2c-"));
                let named = adapters.filter_map(|bus| Some((text(&folder.join(&bus).join("name"))?, bus)));
                let (mut found, all): (Vec<_>, Vec<_>) = (Vec::new(), named.collect::<Vec<_>>());
                found.extend(all.iter().filter(|(name, _)| name.starts_with(wanted)));
                match found.as_slice() {
                    [(_, bus)] => Ok(self.dev.join(bus)),
                    [] => Err(format!("no adapter has a name that begins with `{wanted}`; there are {}", listed(&all))),
                    several => {
                        let several: Vec<_> = several.iter().map(|one| (*one).clone()).collect();
                        Err(format!("several adapters have names that begin with `{wanted}`: {}", listed(&several)))
                    }
                }
            }
        }
    }

    /// Returns the number of a bus in sysfs, such as the `1` of `/dev/i2c-1`.
    fn number(path: &Path) -> Option<String> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.file_name()?.to_str()?.strip_prefix("i2c-").map(str::to_owned)
    }

    /// Returns the kernel driver that has the chip, and what to do.
    fn driver(&self, path: &Path) -> String {
        let device = Self::number(path).map(|number| format!("{number}-{:04x}", self.address));
        let link = device.as_ref().map(|device| self.sysfs.join("bus/i2c/devices").join(device).join("driver"));
        let driver = link.and_then(|link| std::fs::read_link(link).ok());
        match (device, driver.as_deref().and_then(Path::file_name)) {
            (Some(device), Some(driver)) => format!(
                "the kernel's driver {0} has the chip; read it through the kernel with source.iio, or run: echo {device} | sudo tee \
                 /sys/bus/i2c/drivers/{0}/unbind, and remove its dtoverlay from /boot/firmware/config.txt",
                driver.to_string_lossy()
            ),
            _ => "a kernel driver has the chip; read it through the kernel with source.iio".to_owned(),
        }
    }

    /// Returns why the bus cannot be opened.
    fn refusal(&self, path: &Path, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::NotFound => format!("no such bus; {BUS_FIX}"),
            ErrorKind::PermissionDenied => format!("permission denied; {}", permit(path, RULE)),
            _ if error.raw_os_error() == Some(EBUSY) => self.driver(path),
            _ => error.to_string(),
        }
    }

    fn not_there(&self, path: &Path, error: &io::Error) -> Survey {
        let shown = path.display();
        match error.kind() {
            ErrorKind::NotFound => Survey::absent(format!("{shown}: no such bus")).fix(BUS_FIX),
            ErrorKind::PermissionDenied => {
                Survey::broken(format!("{shown}: permission denied")).fix(permit(path, RULE))
            }
            _ => Survey::broken(format!("{shown}: {}", self.refusal(path, error))),
        }
    }

    /// Returns the clock of the bus, if the machine's device tree has it.
    fn clock_hz(&self, path: &Path) -> Option<f64> {
        let bus = format!("i2c-{}", Self::number(path)?);
        let file = self.sysfs.join("bus/i2c/devices").join(bus).join("of_node/clock-frequency");
        let bytes: [u8; 4] = std::fs::read(file).ok()?.try_into().ok()?;
        Some(f64::from(u32::from_be_bytes(bytes))).filter(|clock_hz| *clock_hz > 0.0)
    }
}

/// Returns the adapters with their names.
fn listed(adapters: &[(String, String)]) -> String {
    match adapters {
        [] => "none".to_owned(),
        _ => adapters.iter().map(|(name, bus)| format!("{bus} `{name}`")).collect::<Vec<_>>().join(", "),
    }
}

impl Connect for I2cChip {
    fn name(&self) -> String {
        let bus = match &self.bus {
            BusName::Number(number) => self.dev.join(format!("i2c-{number}")).display().to_string(),
            BusName::Path(path) => path.display().to_string(),
            BusName::Adapter(name) => name.clone(),
        };
        format!("{bus} {:#04x}", self.address)
    }

    fn open(&self) -> Result<Box<dyn Bus>, SourceError> {
        let refused = |reason| SourceError::Device { name: self.name(), reason };
        let path = self.path().map_err(refused)?;
        let opened = crate::sys::i2c::I2c::open(&path, self.address.into());
        Ok(Box::new(opened.map_err(|error| refused(self.refusal(&path, &error)))?))
    }

    fn explain(&self, error: &io::Error) -> String {
        let number = self.path().ok().as_deref().and_then(Self::number).unwrap_or_else(|| "1".to_owned());
        if is_no_answer(error) {
            return format!(
                "{NO_ANSWER} ({error}): check wiring, supply and address; i2cdetect -y {number} lists the chips that answer"
            );
        }
        if is_hanging(error) {
            return format!(
                "the bus hangs ({error}): a chip holds a line low, or a pull-up resistor is missing; switch the chips' \
                 supply off and on"
            );
        }
        error.to_string()
    }
}

impl Bus for crate::sys::i2c::I2c {
    fn read(&mut self, register: u8, bytes: &mut [u8]) -> io::Result<()> {
        Self::read(self, register, bytes)
    }

    fn write(&mut self, register: u8, bytes: &[u8]) -> io::Result<()> {
        Self::write(self, register, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::tree::Tree;
    use crate::source::{Presence, Source};

    fn i2c(keys: &str) -> I2c {
        let text = format!(
            "i2c = {{ address = 0x68, rate_hz = 100.0, burst = {{ register = 0x3B, layout = ['ax: i16be'] }}, {keys} }}"
        );
        match toml::from_str(&text).unwrap() {
            Source::I2c(i2c) => i2c,
            other => panic!("{other:?}"),
        }
    }

    fn survey(tree: &Tree, keys: &str) -> Survey {
        i2c(keys).survey(&Machine { sysfs: &tree.path("sys"), dev: &tree.path("dev") })
    }

    fn tree() -> Tree {
        Tree::new(&[
            ("sys/bus/i2c/devices/i2c-1/name", "bcm2835 (i2c@7e804000)\n"),
            ("sys/bus/i2c/devices/i2c-7/name", "MCP2221 usb-i2c bridge\n"),
            ("sys/bus/i2c/devices/1-0068/name", "mpu6050\n"),
        ])
    }

    #[test]
    fn a_bus_is_found_by_number_path_and_the_name_of_its_adapter() {
        let tree = tree();
        let path = |keys: &str| {
            let (sysfs, dev) = (tree.path("sys"), tree.path("dev"));
            let chip = i2c(keys).chip(&Machine { sysfs: &sysfs, dev: &dev });
            chip.path().map(|path| path.strip_prefix(tree.root()).unwrap_or(&path).display().to_string())
        };
        assert_eq!(path("").unwrap(), "dev/i2c-1");
        assert_eq!(path("bus = 3").unwrap(), "dev/i2c-3");
        assert_eq!(path("bus = '/dev/i2c-pins'").unwrap(), "/dev/i2c-pins");
        assert_eq!(path("bus = 'MCP2221'").unwrap(), "dev/i2c-7");
        let none = path("bus = 'CH341'").unwrap_err();
        assert_eq!(
            none,
            "no adapter has a name that begins with `CH341`; there are i2c-1 `bcm2835 (i2c@7e804000)`, i2c-7 `MCP2221 usb-i2c \
             bridge`"
        );
        tree.write("sys/bus/i2c/devices/i2c-8/name", "MCP2221 usb-i2c bridge\n");
        assert!(
            path("bus = 'MCP'").unwrap_err().starts_with("several adapters have names that begin with `MCP`: i2c-7")
        );
    }

    #[test]
    fn the_survey_tells_absent_from_broken_and_says_what_to_do() {
        let tree = tree();
        let found = survey(&tree, "");
        assert_eq!((found.presence, found.fix.as_deref()), (Presence::Absent, Some(BUS_FIX)));
        assert!(found.says.ends_with("dev/i2c-1: no such bus"), "{}", found.says);
        let found = survey(&tree, "bus = 'CH341'");
        assert_eq!((found.presence, found.fix.as_deref()), (Presence::Absent, Some(BUS_FIX)));
        // A file that is not a bus.
        tree.write("dev/i2c-1", "");
        let found = survey(&tree, "");
        assert_eq!(found.presence, Presence::Broken);
        assert!(found.says.ends_with("dev/i2c-1: Inappropriate ioctl for device (os error 25)"), "{}", found.says);
    }

    #[test]
    fn a_driver_that_has_the_chip_is_named_with_the_way_out() {
        let tree = tree();
        let (sysfs, dev) = (tree.path("sys"), tree.path("dev"));
        let chip = i2c("").chip(&Machine { sysfs: &sysfs, dev: &dev });
        let busy = io::Error::from_raw_os_error(EBUSY);
        let path = chip.path().unwrap();
        assert!(chip.refusal(&path, &busy).starts_with("a kernel driver has the chip; read it through the kernel"));
        tree.link("sys/bus/i2c/devices/1-0068/driver", "../../../bus/i2c/drivers/inv-mpu6050-i2c");
        let said = chip.refusal(&path, &busy);
        assert!(said.contains("the kernel's driver inv-mpu6050-i2c has the chip; read it through"), "{said}");
        assert!(said.contains("echo 1-0068 | sudo tee /sys/bus/i2c/drivers/inv-mpu6050-i2c/unbind"), "{said}");
    }

    #[test]
    fn each_error_of_the_bus_says_what_to_do() {
        let chip = i2c("").chip(&Machine::this());
        let said = |errno: i32| chip.explain(&io::Error::from_raw_os_error(errno));
        for errno in [nix::libc::EREMOTEIO, nix::libc::ENXIO, nix::libc::EIO] {
            assert!(said(errno).contains("i2cdetect -y 1 lists the chips that answer"), "{}", said(errno));
        }
        assert!(said(nix::libc::ETIMEDOUT).starts_with("the bus hangs"), "{}", said(nix::libc::ETIMEDOUT));
        assert_eq!(said(nix::libc::EINVAL), "Invalid argument (os error 22)");
        assert_eq!(chip.name(), "/dev/i2c-1 0x68");
    }

    #[test]
    fn the_clock_of_the_bus_limits_the_rate() {
        let tree = tree();
        let clock = |hz: u32| {
            let path = tree.path("sys/bus/i2c/devices/i2c-1/of_node/clock-frequency");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, hz.to_be_bytes()).unwrap();
        };
        let (sysfs, dev) = (tree.path("sys"), tree.path("dev"));
        let source = i2c("");
        let chip = source.chip(&Machine { sysfs: &sysfs, dev: &dev });
        let path = chip.path().unwrap();
        assert_eq!(chip.clock_hz(&path), None);
        clock(400_000);
        assert_eq!(chip.clock_hz(&path), Some(400e3));
        // Two bytes: 5 bytes with their acknowledgements and 3 marks.
        assert!((source.load(100e3) - 48.0 * 100.0 / 100e3).abs() < 1e-12);
        // Two looks of 4 bytes more.
        let ready = i2c("ready = { register = 0x3A, mask = 1 }");
        assert!((ready.load(100e3) - (48.0 + 2.0 * 39.0) * 100.0 / 100e3).abs() < 1e-12);
    }
}
