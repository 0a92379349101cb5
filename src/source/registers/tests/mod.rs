//! Sources on emulated chips, with the files of examples/sources/ as they are.

pub(crate) mod chips;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::chip::Chip;
use super::*;
use crate::source::sink::frame_ring;
use crate::source::{
    FrameProducer, FrameReader, Gap, Pieces, SinkSettings, Source, SourceError, SourceStats, WhenFull, spi,
};
use crate::stop::Stop;
use crate::units::MonoTime;

use chips::{Kind, State, Truth};

pub(crate) use chips::Virtual;

const G: f64 = 9.80665;
/// A test that waits for longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);

fn examples() -> Vec<(String, Source)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/sources");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_ours = ["i2c-", "spi-"].iter().any(|bus| name.starts_with(bus));
        is_ours.then(|| (name, source(&std::fs::read_to_string(&path).unwrap())))
    };
    files.filter_map(named).collect()
}

fn source(text: &str) -> Source {
    let file: toml::Table = toml::from_str(text).unwrap();
    let pipelines = file["pipelines"].as_table().unwrap();
    let (_, pipeline) = pipelines.iter().next().unwrap();
    pipeline["source"].clone().try_into().unwrap()
}

fn example(name: &str) -> Source {
    examples().into_iter().find(|(file, _)| file == name).unwrap().1
}

fn registers(source: &Source) -> Registers {
    match source {
        Source::I2c(i2c) => i2c.registers(),
        Source::Spi(spi) => spi.registers(),
        other => panic!("{other:?}"),
    }
}

/// The way to an emulated chip.
struct To {
    source: Source,
    chip: Virtual,
}

impl Connect for To {
    fn name(&self) -> String {
        "chip".to_owned()
    }

    fn open(&self) -> Result<Box<dyn Bus>, SourceError> {
        Ok(match &self.source {
            Source::Spi(spi) => spi::tests::emulated(spi, self.chip.clone()),
            _ => Box::new(self.chip.clone()),
        })
    }

    fn explain(&self, error: &std::io::Error) -> String {
        error.to_string()
    }
}

/// A source that runs, with its reading end.
struct Rig {
    chip: Virtual,
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
    reader: FrameReader,
    thread: JoinHandle<Result<(), String>>,
    /// Times and values of the frames so far, and the gap before each.
    frames: Vec<(i64, Vec<f32>, Option<Gap>)>,
}

impl Rig {
    fn start(source: &Source, registers: Registers, chip: Virtual) -> Self {
        let settings =
            SinkSettings { spec: registers.spec(), frames: 4096, frames_per_block: 1, when_full: WhenFull::Drop };
        let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
        let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
        let connect = Box::new(To { source: source.clone(), chip: chip.clone() });
        let source = Box::new(RegisterSource::new(connect, registers).unwrap());
        let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
        Self { chip, stop, stats, reader, thread, frames: Vec::new() }
    }

    fn of(name: &str, truth: impl IntoIterator<Item = Truth>) -> Self {
        let source = example(name);
        Self::start(&source, registers(&source), Virtual::new(Kind::of(name), truth))
    }

    /// Waits until something holds, and collects frames meanwhile.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = MonoTime::now() + DEADLINE;
        loop {
            let frames = &mut self.frames;
            let add = |part: crate::source::Frames<'_>| {
                let Pieces::F32(first, second) = part.values else { panic!("{part:?}") };
                frames.push((part.first.stream_ns.unwrap(), [first, second].concat(), part.first.gap));
            };
            if self.reader.pop(1, |_, _| false, add).is_some() {
                continue;
            }
            if holds(self) {
                return;
            }
            assert!(MonoTime::now() < deadline, "{what}: {:?}, {} frames", self.stats.remarks(), self.frames.len());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn frames(&mut self, count: usize) {
        self.until("frames", |rig| rig.frames.len() >= count);
    }

    fn trouble(&mut self, part: &str) {
        let says = |rig: &Self| rig.stats.remarks().trouble.is_some_and(|trouble| trouble.contains(part));
        self.until(part, says);
    }

    fn chip<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.chip.lock())
    }

    fn end(self) -> Vec<(i64, Vec<f32>, Option<Gap>)> {
        self.stop.request();
        self.thread.join().unwrap().unwrap();
        self.frames
    }
}

/// Motion of both signs over most of the ranges of 4 g and 500 deg/s, with no two samples alike.
fn motion(count: usize) -> Vec<Truth> {
    let at = |n: usize, axis: usize| ((n * 37 + axis * 101) % 997) as f64 / 499.0 - 0.998;
    (0..count).map(|n| std::array::from_fn(|axis| at(n, axis) * if axis < 3 { 3.9 } else { 480.0 })).collect()
}

/// What must come of a sample, by the names and units of the channels.
fn expected(spec: &StreamSpec, truth: &Truth) -> Vec<f64> {
    let channel = |name: &String| {
        let axis = ["ax", "ay", "az", "gx", "gy", "gz"].iter().position(|known| known == name).unwrap();
        truth[axis] * if axis < 3 { G } else { 1.0 }
    };
    spec.names.iter().map(channel).collect()
}

fn assert_same(name: &str, registers: &Registers, read: &[(i64, Vec<f32>, Option<Gap>)], truth: &[Truth]) {
    let spec = registers.spec();
    assert_eq!(read.len(), truth.len(), "{name}");
    for ((_, values, _), truth) in read.iter().zip(truth) {
        for ((value, expected), channel) in values.iter().zip(expected(&spec, truth)).zip(&spec.names) {
            // Half a step of the chip, and the last digit of the scale. A LIS3DH has steps of 16 counts.
            let coarse = if name.contains("lis3dh") { 16.0 } else { 1.0 };
            let step = registers.scales.get(&channel[..1]).unwrap_or(&registers.scale) * coarse;
            let most = 0.501 * step + expected.abs() * 1e-5;
            assert!((f64::from(*value) - expected).abs() <= most, "{name}, {channel}: {value}, not {expected}");
        }
    }
}

#[test]
fn each_example_gives_what_its_chip_measured() {
    let examples = examples();
    assert_eq!(examples.len(), 6, "{:?}", examples.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for (name, source) in examples {
        let registers = registers(&source);
        let truth = motion(60);
        let mut rig = Rig::start(&source, registers.clone(), Virtual::new(Kind::of(&name), truth.clone()));
        rig.frames(truth.len());
        let rate_hz = rig.chip(|chip| chip.rate_hz());
        assert!((registers.rate_hz / rate_hz - 1.0).abs() < 0.001, "{name} is set to {rate_hz} Hz");
        assert_eq!(rig.stats.remarks().trouble, None, "{name}");
        let spec = registers.spec();
        let units = |name: &String| if name.starts_with('a') { "m/s2" } else { "deg/s" };
        if !spec.units.is_empty() {
            assert_eq!(spec.units, spec.names.iter().map(units).collect::<Vec<_>>(), "{name}");
        }
        let read = rig.end();
        assert_same(&name, &registers, &read, &truth);
        assert!(read.windows(2).all(|pair| pair[0].0 < pair[1].0), "{name}: times go on");
        assert!(read.iter().all(|(_, _, gap)| gap.is_none()), "{name}");
    }
}

#[test]
fn without_a_ready_bit_the_registers_are_read_by_the_clock() {
    let source = example("i2c-mpu6050");
    let registers = Registers { ready: None, ..registers(&source) };
    let (truth, chip) = (motion(50), Virtual::new(Kind::Mpu6050, motion(50)));
    chip.lock().runs_free = true;
    let mut rig = Rig::start(&source, registers.clone(), chip);
    rig.frames(50);
    let mut read = rig.end();
    read.truncate(50);
    assert_same("mpu6050", &registers, &read, &truth);
    let span_ns = read[49].0 - read[0].0;
    // On a machine without time it may be more.
    assert!(span_ns > 480_000_000, "49 periods of 10 ms took {span_ns} ns");
}

#[test]
fn another_chip_and_none_are_told_by_what_was_read() {
    for (value, part) in [
        (
            0x33,
            "register 0x75 has 0x33, not one of 0x68, 0x70, 0x71, 0x72, 0x73, 0x98: another chip is there; if its \
                registers are the same, add this value to check.values",
        ),
        (0xff, "register 0x75 has 0xff, not one of 0x68, 0x70, 0x71, 0x72, 0x73, 0x98: nothing seems to be connected"),
    ] {
        let source = example("i2c-mpu6050");
        let chip = Virtual::new(Kind::Mpu6050, []);
        chip.lock().identify_as(value);
        let mut rig = Rig::start(&source, registers(&source), chip);
        rig.trouble(part);
        assert_eq!(rig.chip(|chip| chip.writes), 0, "nothing is written to it");
        rig.end();
    }
    let mut rig = Rig::of("spi-adxl345", []);
    rig.chip(|chip| chip.gone = true);
    rig.trouble("register 0x00 has 0xff, not 0xe5: nothing seems to be connected, or the chip has no supply");
    rig.end();
}

#[test]
fn a_chip_that_comes_back_is_set_up_again() {
    let mut rig = Rig::of("i2c-lis3dh", motion(20));
    rig.frames(20);
    rig.chip(|chip| {
        chip.gone = true;
        chip.truth = motion(40).split_off(20).into();
    });
    rig.trouble("chip: register 0x27: Remote I/O error");
    rig.chip(|chip| {
        chip.reset();
        chip.gone = false;
    });
    rig.frames(40);
    let read = rig.end();
    let registers = registers(&example("i2c-lis3dh"));
    assert_same("lis3dh", &registers, &read, &motion(40));
    let gaps: Vec<_> = read.iter().map(|(_, _, gap)| *gap).collect();
    assert_eq!(gaps[20], Some(Gap::Reconnect));
    assert_eq!(gaps.iter().flatten().count(), 1);
}

#[test]
fn a_chip_that_was_reset_is_noticed_and_set_up_again() {
    // Without a ready bit: a chip that sleeps has the same registers for ever.
    let source = example("i2c-icm20948");
    let chip = Virtual::new(Kind::Icm20948, motion(10));
    let mut rig = Rig::start(&source, Registers { ready: None, ..registers(&source) }, chip);
    rig.chip(|chip| chip.runs_free = true);
    rig.frames(10);
    rig.chip(State::reset);
    rig.until("a new set-up", |rig| rig.chip(|chip| chip.get(0, 0x06) == 1 && chip.get(2, 0x14) == 0x1b));
    rig.until("a gap", |rig| rig.frames.iter().any(|(_, _, gap)| *gap == Some(Gap::Reconnect)));
    rig.end();
    // With one: it has nothing new.
    let mut rig = Rig::of("i2c-adxl345", motion(10));
    rig.frames(10);
    rig.chip(State::reset);
    // What is noticed first depends on when it was compared.
    rig.until("trouble", |rig| {
        rig.stats.remarks().trouble.is_some_and(|trouble| {
            trouble.contains("register 0x2d has 0x00, not 0x08")
                || trouble.contains("the bits 0x80 of register 0x30 showed no new")
        })
    });
    rig.end();
}

#[test]
fn a_reset_is_told_by_what_was_read() {
    let source = example("i2c-icm20948");
    let registers = registers(&source);
    let to = To { source, chip: Virtual::new(Kind::Icm20948, []) };
    let mut bus = to.open().unwrap();
    let mut chip = Chip::new(&to, bus.as_mut(), &registers);
    assert!(chip.set_up(|_| Ok(true)).unwrap());
    chip.verify().unwrap();
    to.chip.lock().reset();
    assert_eq!(
        chip.verify().unwrap_err().to_string(),
        "chip: register 0x06 has 0x41, not 0x01: the chip was reset, or another program writes to it; it is set up again"
    );
}

#[test]
fn a_register_is_verified_by_what_was_written_last_to_it() {
    let registers = registers(&example("i2c-mpu6050"));
    let init = vec![
        Step::Write(vec![0x10, 1, 2, 3]),
        Step::Write(vec![0x11, 4]),
        Step::Pause(1.0),
        Step::Write(vec![0x20, 5, 6]),
        Step::Pause(1.0),
    ];
    let verified = |verify| {
        let registers = Registers { init: init.clone(), verify, ..registers.clone() };
        registers.verified().map(|(register, values)| (register, values.to_vec()))
    };
    assert_eq!(verified(None), Some((0x20, vec![5, 6])));
    for (register, value) in [(0x10, 1), (0x11, 4), (0x12, 3), (0x20, 5), (0x21, 6)] {
        assert_eq!(verified(Some(register)), Some((register, vec![value])));
    }
    assert_eq!((verified(Some(0x0f)), verified(Some(0x13)), verified(Some(0xff))), (None, None, None));
}

#[test]
fn a_chip_left_in_another_bank_is_found() {
    let source = example("i2c-icm20948");
    let mut chip = Virtual::new(Kind::Icm20948, motion(5));
    Bus::write(&mut chip, 0x7f, &[0x20]).unwrap();
    let mut rig = Rig::start(&source, registers(&source), chip);
    rig.frames(5);
    rig.end();
}

#[test]
fn a_disturbed_transfer_is_tried_again() {
    use nix::libc::{EAGAIN, EIO, EREMOTEIO, ETIMEDOUT};
    let truth = motion(30);
    let mut rig = Rig::of("i2c-mpu6050", truth.clone());
    rig.frames(5);
    rig.chip(|chip| chip.errors.extend([EREMOTEIO, EAGAIN]));
    rig.frames(15);
    rig.chip(|chip| chip.errors.extend([EIO, EREMOTEIO]));
    rig.frames(30);
    assert_eq!(rig.stats.remarks().trouble, None);
    rig.chip(|chip| chip.errors.extend([ETIMEDOUT; 10_000]));
    rig.trouble("Connection timed out");
    let read = rig.end();
    assert_same("mpu6050", &registers(&example("i2c-mpu6050")), &read, &truth);
}

#[test]
fn a_chip_that_does_not_keep_its_set_up_or_says_nothing_is_in_trouble() {
    let source = example("i2c-mpu6050");
    // A bit that clears itself.
    let mut registers = registers(&source);
    registers.init = vec![Step::Write(vec![0x6b, 0x80])];
    let mut rig = Rig::start(&source, registers.clone(), Virtual::new(Kind::Mpu6050, motion(1)));
    rig.trouble("register 0x6b has 0x40, not 0x80: the chip does not keep it; name a register in verify that it keeps");
    rig.end();
    registers.init.clear();
    let mut rig = Rig::start(&source, registers, Virtual::new(Kind::Mpu6050, motion(1)));
    rig.trouble("the bits 0x01 of register 0x3a showed no new frame for 1.");
    rig.end();
}

#[test]
fn a_stop_ends_a_pause_of_the_set_up() {
    let source = example("i2c-mpu6050");
    let registers = Registers { init: vec![Step::Pause(10_000.0)], ..registers(&source) };
    let rig = Rig::start(&source, registers, Virtual::new(Kind::Mpu6050, []));
    rig.stop.request();
    assert_eq!(rig.end(), []);
}

#[test]
fn missed_frames_are_counted_and_do_not_cut_the_stream() {
    let (sink, reader) = {
        let spec = registers(&example("i2c-lis3dh")).spec();
        let settings = SinkSettings { spec, frames: 16, frames_per_block: 1, when_full: WhenFull::Drop };
        frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default())
    };
    sink.missed(3);
    assert_eq!(reader.stats.lost.load(Ordering::Relaxed), 3);
}

fn problems(change: &str, to: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/sources/i2c-mpu6050.toml");
    let text = std::fs::read_to_string(folder).unwrap();
    assert!(text.contains(change), "{change}");
    let mut source = source(&text.replace(change, to));
    let mut checker = Checker::new(std::path::Path::new(""));
    source.check(&Key::new(&["source"]), &mut checker);
    let problems = checker.finish(Some(())).err().unwrap_or_default();
    problems.into_iter().map(|problem| format!("{}: {}\n", problem.key, problem.message)).collect()
}

#[test]
fn each_mistake_is_told_with_what_is_right() {
    assert_eq!(problems("0x68", "0x68"), "");
    for (change, to, part) in [
        ("address = 0x68", "address = 0xD0", "source.i2c.address: 0xd0 is not an address that a chip can have"),
        ("address = 0x68", "address = 0x68\nbus = \"\"", "source.i2c.bus: write the number of the bus, such as 1"),
        ("values = [0x68,", "values = [", ""),
        ("[0x1A, 3]", "[0x1A]", "source.i2c.init.4: write a register and its value"),
        ("pause_ms = 50", "pause_ms = 60000", "source.i2c.init.3: 60000 ms is out of range; it must be at most 10000"),
        ("\"az: i16be\"", "\"az: i17be\"", "source.i2c.burst.layout.2: `i17be` is not a type of number"),
        (
            "\"skip: 2\"",
            "\"skip: 300\"",
            "source.i2c.burst.layout: these are 312 bytes, more than a chip has registers",
        ),
        ("{ a = 0.0011971,", "{ b = 0.0011971,", "source.i2c.scales.b: no channel has a name that begins with `b`"),
        ("rate_hz = 100.0", "scale = 0.0\nrate_hz = 100.0", "source.i2c.scale: 0 is not a scale"),
        ("a = \"m/s2\"", "c = \"m/s2\"", "source.i2c.units.c: no channel has a name that begins with `c`"),
        ("rate_hz = 100.0", "rate_hz = 8000.0", "source.i2c.rate_hz: a bus of 1 MHz can do"),
        (
            "rate_hz = 100.0",
            "verify = 0x22\nrate_hz = 100.0",
            "source.i2c.verify: init writes nothing to register 0x22",
        ),
        ("mask = 0x01", "mask = 0", "source.i2c.ready.mask: 0 is out of range; it must be from 1 to 255"),
    ] {
        let problems = problems(change, to);
        assert!(problems.contains(part), "{to}: {problems}");
    }
}
