//! Emulated chips, which do what their datasheets say: asleep after a reset, values in counts of the range that was set,
//! data-ready bits that reading clears, numbers of registers that count up or do not, banks. The test owns the truth.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::Bus;

/// Accelerations in g, then rates in deg/s.
pub(crate) type Truth = [f64; 6];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mpu6050,
    Lsm6ds3,
    Adxl345,
    Lis3dh,
    Icm20948,
}

impl Kind {
    /// The kind that the name of an example ends with.
    pub(crate) fn of(file: &str) -> Self {
        let kinds = [Self::Mpu6050, Self::Lsm6ds3, Self::Adxl345, Self::Lis3dh, Self::Icm20948];
        kinds.into_iter().find(|kind| file.contains(&format!("{kind:?}").to_lowercase())).unwrap()
    }

    fn identity(self) -> (u8, u8) {
        match self {
            Self::Mpu6050 => (0x75, 0x68),
            Self::Lsm6ds3 => (0x0f, 0x69),
            Self::Adxl345 => (0x00, 0xe5),
            Self::Lis3dh => (0x0f, 0x33),
            Self::Icm20948 => (0x00, 0xea),
        }
    }
}

/// A chip that several can hold: the source that reads it, and the test.
#[derive(Clone)]
pub(crate) struct Virtual(pub(crate) Arc<Mutex<State>>);

pub(crate) struct State {
    kind: Kind,
    banks: [[u8; 128]; 4],
    bank: usize,
    /// What it is going to measure.
    pub(crate) truth: VecDeque<Truth>,
    /// A look at the data-ready bit finds something every second time.
    looks: u32,
    pub(crate) gone: bool,
    /// Errors that the next transfers give.
    pub(crate) errors: VecDeque<i32>,
    pub(crate) writes: usize,
    /// What the data registers have does not wait for a look.
    pub(crate) runs_free: bool,
}

impl Virtual {
    pub(crate) fn new(kind: Kind, truth: impl IntoIterator<Item = Truth>) -> Self {
        let state = State {
            kind,
            banks: [[0; 128]; 4],
            bank: 0,
            truth: truth.into_iter().collect(),
            looks: 0,
            gone: false,
            errors: VecDeque::new(),
            writes: 0,
            runs_free: false,
        };
        let chip = Self(Arc::new(Mutex::new(state)));
        chip.lock().reset();
        chip
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A transfer on SPI, with what the first byte says.
    pub(crate) fn spi(&self, first: u8, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock();
        if state.gone {
            // Nothing drives the line.
            bytes.fill(0xff);
            return Ok(());
        }
        // Bit 6 makes the number of the register count up (ADXL345 and LIS3DH).
        let counts = first & 0x40 != 0;
        match first & 0x80 != 0 {
            true => state.read(first & 0x3f, counts, bytes),
            false => state.write(first & 0x3f, counts, bytes),
        }
        Ok(())
    }
}

impl Bus for Virtual {
    fn read(&mut self, register: u8, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock();
        let counts = state.answers_on_i2c(register)?;
        state.read(register & 0x7f, counts, bytes);
        Ok(())
    }

    fn write(&mut self, register: u8, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let counts = state.answers_on_i2c(register)?;
        state.write(register & 0x7f, counts, bytes);
        Ok(())
    }
}

impl State {
    /// The supply has dropped, or a reset was written.
    pub(crate) fn reset(&mut self) {
        self.banks = [[0; 128]; 4];
        self.bank = 0;
        let (register, value) = self.kind.identity();
        self.banks[0][usize::from(register)] = value;
        match self.kind {
            Kind::Mpu6050 => self.banks[0][0x6b] = 0x40,
            Kind::Lsm6ds3 => self.banks[0][0x12] = 0x04,
            Kind::Adxl345 => self.banks[0][0x2c] = 0x0a,
            Kind::Lis3dh => self.banks[0][0x20] = 0x07,
            Kind::Icm20948 => {
                self.banks[0][0x06] = 0x41;
                self.banks[2][0x01] = 0x01;
                self.banks[2][0x14] = 0x01;
            }
        }
    }

    /// Another chip than the one that is expected.
    pub(crate) fn identify_as(&mut self, value: u8) {
        let (register, _) = self.kind.identity();
        self.banks[0][usize::from(register)] = value;
    }

    pub(crate) fn get(&self, bank: usize, register: usize) -> u8 {
        self.banks[bank][register]
    }

    /// Returns whether the number of the register counts up.
    fn answers_on_i2c(&mut self, register: u8) -> io::Result<bool> {
        let errno = if self.gone { Some(nix::libc::EREMOTEIO) } else { self.errors.pop_front() };
        match errno {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(match self.kind {
                Kind::Lis3dh => register & 0x80 != 0,
                Kind::Lsm6ds3 => self.banks[0][0x12] & 0x04 != 0,
                Kind::Mpu6050 | Kind::Adxl345 | Kind::Icm20948 => true,
            }),
        }
    }

    fn is_awake(&self) -> bool {
        let bank = &self.banks[0];
        match self.kind {
            Kind::Mpu6050 => bank[0x6b] & 0x40 == 0,
            Kind::Lsm6ds3 => bank[0x10] >> 4 != 0 && bank[0x11] >> 4 != 0,
            Kind::Adxl345 => bank[0x2d] & 0x08 != 0,
            Kind::Lis3dh => bank[0x20] >> 4 != 0 && bank[0x20] & 7 == 7,
            Kind::Icm20948 => bank[0x06] & 0x40 == 0,
        }
    }

    /// The register and the bits that say that new values are there, and the registers with the values.
    fn status(&self) -> (usize, u8, std::ops::Range<usize>) {
        match self.kind {
            Kind::Mpu6050 => (0x3a, 0x01, 0x3b..0x49),
            Kind::Lsm6ds3 => (0x1e, 0x03, 0x22..0x2e),
            Kind::Adxl345 => (0x30, 0x80, 0x32..0x38),
            Kind::Lis3dh => (0x27, 0x08, 0x28..0x2e),
            Kind::Icm20948 => (0x1a, 0x01, 0x2d..0x39),
        }
    }

    /// How often it measures, as it was set up.
    pub(crate) fn rate_hz(&self) -> f64 {
        let bank = &self.banks[0];
        match self.kind {
            Kind::Mpu6050 => {
                let base = if (1..=6).contains(&(bank[0x1a] & 7)) { 1000.0 } else { 8000.0 };
                base / (1.0 + f64::from(bank[0x19]))
            }
            // 12.5 Hz is 1; each step doubles it. 104 Hz is a name for 8 * 13 Hz.
            Kind::Lsm6ds3 => 13.0 * f64::from(1u32 << (bank[0x10] >> 4) >> 1),
            Kind::Adxl345 => 3200.0 / f64::from(1u32 << (15 - (bank[0x2c] & 15))),
            Kind::Lis3dh => [0.0, 1.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0][usize::from(bank[0x20] >> 4)],
            Kind::Icm20948 => {
                let [high, low] = [self.banks[2][0x10], self.banks[2][0x11]];
                let accel = u16::from_be_bytes([high & 0x0f, low]);
                assert_eq!(u16::from(self.banks[2][0x00]), accel, "accelerometer and gyroscope at one rate");
                1125.0 / (1.0 + f64::from(accel))
            }
        }
    }

    /// Counts for 1 g and for 1 deg/s, as it was set up.
    fn sensitivity(&self) -> (f64, f64) {
        let (bank, usr2) = (&self.banks[0], &self.banks[2]);
        let two_bits = |value: u8, shift: u32| usize::from(value >> shift & 3);
        let (accel, gyro) = ([16384.0, 8192.0, 4096.0, 2048.0], [131.0, 65.5, 32.8, 16.4]);
        match self.kind {
            Kind::Mpu6050 => (accel[two_bits(bank[0x1c], 3)], gyro[two_bits(bank[0x1b], 3)]),
            Kind::Icm20948 => (accel[two_bits(usr2[0x14], 1)], gyro[two_bits(usr2[0x01], 1)]),
            Kind::Lsm6ds3 => {
                let mg = [0.061, 0.488, 0.122, 0.244][two_bits(bank[0x10], 2)];
                let mdps = [8.75, 17.5, 35.0, 70.0][two_bits(bank[0x11], 2)];
                (1000.0 / mg, 1000.0 / mdps)
            }
            Kind::Adxl345 => {
                let range = bank[0x31] & 3;
                (if bank[0x31] & 0x08 != 0 { 256.0 } else { f64::from(256u16 >> range) }, 1.0)
            }
            Kind::Lis3dh => {
                let fine = bank[0x23] & 0x08 != 0;
                let mg = if fine { [1.0, 2.0, 4.0, 12.0] } else { [4.0, 8.0, 16.0, 48.0] };
                (1000.0 / mg[two_bits(bank[0x23], 4)], 1.0)
            }
        }
    }

    /// Puts the next truth into the registers, in counts.
    fn measure(&mut self) {
        let Some(truth) = self.truth.pop_front() else { return };
        let (accel, gyro) = self.sensitivity();
        let counts = |value: f64, per_unit: f64| (value * per_unit).round() as i16;
        let [a, g] = [0, 3]
            .map(|first| [0, 1, 2].map(|axis| counts(truth[first + axis], if first == 0 { accel } else { gyro })));
        let (status, bits, values) = self.status();
        let words: Vec<i16> = match self.kind {
            Kind::Mpu6050 => [&a[..], &[-1234], &g].concat(),
            Kind::Lsm6ds3 => [g, a].concat(),
            Kind::Adxl345 => a.to_vec(),
            Kind::Lis3dh => {
                let shift = if self.banks[0][0x23] & 0x08 != 0 { 4 } else { 6 };
                a.map(|count| count << shift).to_vec()
            }
            Kind::Icm20948 => [a, g].concat(),
        };
        let is_big = matches!(self.kind, Kind::Mpu6050 | Kind::Icm20948);
        let bytes = words.iter().flat_map(|word| if is_big { word.to_be_bytes() } else { word.to_le_bytes() });
        for (register, byte) in values.zip(bytes) {
            self.banks[0][register] = byte;
        }
        let is_told = match self.kind {
            Kind::Mpu6050 => self.banks[0][0x38] & 1 != 0,
            Kind::Icm20948 => self.banks[0][0x11] & 1 != 0,
            Kind::Lsm6ds3 | Kind::Adxl345 | Kind::Lis3dh => true,
        };
        if is_told {
            self.banks[0][status] |= bits;
        }
    }

    fn read(&mut self, register: u8, counts: bool, bytes: &mut [u8]) {
        let (status, bits, values) = self.status();
        let first = usize::from(register);
        if self.bank == 0 && first == status {
            self.looks += 1;
            let is_old = self.banks[0][status] & bits == 0;
            if is_old && self.looks.is_multiple_of(2) && self.is_awake() {
                self.measure();
            }
        } else if self.bank == 0 && values.contains(&first) && self.runs_free && self.is_awake() {
            self.measure();
        }
        for (byte, offset) in bytes.iter_mut().zip(0..) {
            let register = if counts { first + offset } else { first };
            *byte = if register == 0x7f && self.kind == Kind::Icm20948 {
                (self.bank as u8) << 4
            } else {
                self.banks[self.bank][register]
            };
        }
        let clears = match self.kind {
            Kind::Mpu6050 => first == status || self.banks[0][0x37] & 0x10 != 0,
            Kind::Icm20948 => first == status || self.banks[0][0x0f] & 0x10 != 0,
            Kind::Lsm6ds3 | Kind::Adxl345 | Kind::Lis3dh => values.contains(&first),
        };
        if clears && self.bank == 0 {
            self.banks[0][status] &= !bits;
        }
    }

    fn write(&mut self, register: u8, counts: bool, bytes: &[u8]) {
        self.writes += 1;
        for (byte, offset) in bytes.iter().zip(0..) {
            let register = if counts { usize::from(register) + offset } else { usize::from(register) };
            match (self.kind, register, *byte) {
                (Kind::Icm20948, 0x7f, bank) => self.bank = usize::from(bank >> 4 & 3),
                (Kind::Mpu6050, 0x6b, value) if value & 0x80 != 0 => self.reset(),
                (Kind::Icm20948, 0x06, value) if value & 0x80 != 0 && self.bank == 0 => self.reset(),
                (Kind::Lsm6ds3, 0x12, value) if value & 0x01 != 0 => self.reset(),
                (_, _, value) => self.banks[self.bank][register] = value,
            }
        }
    }
}
