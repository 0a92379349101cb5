//! The source with fake devices: files for sysfs, and a FIFO for the character device.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nix::sys::stat::Mode as FileMode;
use nix::unistd::mkfifo;

use super::super::sink::frame_ring;
use super::super::{FrameReader, Gap, Pieces, Presence, Reject, SinkSettings, Source, SourceStats};
use super::*;
use crate::meter::tree::Tree;
use crate::stop::Stop;
use crate::units::MonoTime;

pub(super) const DEVICE: &str = "devices/platform/HID-SENSOR-200073.1.auto/iio:device0";
const PARENT: &str = "devices/platform/HID-SENSOR-200073.1.auto";

/// Writes the device as hid-sensor-accel-3d shows it, under a number.
fn plug(tree: &Tree, number: u32, enable: &str) {
    let folder = format!("{PARENT}/iio:device{number}");
    let mut files = vec![
        ("name".to_owned(), "accel_3d"),
        ("in_accel_scale".into(), "0.5"),
        ("in_accel_sampling_frequency".into(), "100.000000"),
        ("current_timestamp_clock".into(), "realtime"),
        ("buffer/length".into(), "2"),
        ("buffer/watermark".into(), "1"),
        ("trigger/current_trigger".into(), "accel_3d-dev0"),
        ("scan_elements/in_timestamp_en".into(), "1"),
        ("scan_elements/in_timestamp_index".into(), "3"),
        ("scan_elements/in_timestamp_type".into(), "le:s64/64>>0"),
        ("buffer/enable".into(), enable),
    ];
    for (index, axis) in ["x", "y", "z"].into_iter().enumerate() {
        files.push((format!("in_accel_{axis}_raw"), ["100", "-200", "300"][index]));
        files.push((format!("scan_elements/in_accel_{axis}_en"), "1"));
        files.push((format!("scan_elements/in_accel_{axis}_index"), ["0", "1", "2"][index]));
        files.push((format!("scan_elements/in_accel_{axis}_type"), "le:s16/32>>0"));
    }
    for (file, text) in files {
        tree.write(&format!("{folder}/{file}"), &format!("{text}\n"));
    }
    tree.write("bus/iio/devices/x", "");
    tree.link(&format!("bus/iio/devices/iio:device{number}"), &format!("../../../{folder}"));
}

fn unplug(tree: &Tree, number: u32) {
    tree.remove(&format!("bus/iio/devices/iio:device{number}"));
    tree.remove(&format!("{PARENT}/iio:device{number}"));
}

/// An accelerometer whose buffer is off.
pub(super) fn accelerometer() -> Tree {
    let tree = Tree::new(&[(&format!("{PARENT}/trigger0/name"), "accel_3d-dev0\n"), ("dev/x", "")]);
    plug(&tree, 0, "0");
    tree.link("bus/iio/devices/trigger0", &format!("../../../{PARENT}/trigger0"));
    tree
}

pub(super) fn iio(text: &str) -> Result<Iio, Vec<String>> {
    let text = format!("iio = {{ device = 'accel_3d', channels = ['accel_x', 'accel_z'], rate_hz = 100.0, {text} }}");
    parsed(&text)
}

fn parsed(text: &str) -> Result<Iio, Vec<String>> {
    let mut source: Source = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
    let mut checker = Checker::new(Path::new(""));
    source.check(&Key::new(&["source"]), &mut checker);
    let Source::Iio(iio) = source else { panic!("{source:?}") };
    let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(iio)).map_err(|problems| problems.into_iter().map(shown).collect())
}

/// The writing end of a FIFO that stands for the character device.
fn char_device(tree: &Tree, number: u32) -> File {
    let path = tree.path(&format!("dev/iio:device{number}"));
    mkfifo(&path, FileMode::S_IRWXU).unwrap();
    // Both ends, so that opening does not wait.
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap()
}

/// The record of sample `n`, with rubbish where the kernel leaves it.
fn record(n: i64) -> [u8; 24] {
    let mut bytes = [0xa5; 24];
    for (axis, value) in [n as i16, 7, -(n as i16)].into_iter().enumerate() {
        bytes[axis * 4..axis * 4 + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes[16..].copy_from_slice(&(1_000_000_000 + n * 10_000_000).to_le_bytes());
    bytes
}

/// The source on a fake machine, with its reading end.
struct Rig {
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
    reader: FrameReader,
    thread: JoinHandle<Result<(), String>>,
    deadline: MonoTime,
}

/// A frame: its values, its time and the gap before it.
type Seen = (Vec<f32>, Option<i64>, Option<Gap>);

impl Rig {
    fn start(keys: &Iio, tree: &Tree) -> Self {
        let settings = SinkSettings { spec: keys.spec(), frames: 4096, frames_per_block: 1, when_full: WhenFull::Drop };
        let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
        let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
        let source = Box::new(IioSource::new(keys, tree.root(), &tree.path("dev")));
        let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
        Self { stop, stats, reader, thread, deadline: MonoTime::now() + Duration::from_secs(60) }
    }

    fn next(&mut self) -> Option<Seen> {
        self.reader.pop(
            1,
            |_, _| false,
            |frames| match frames.values {
                Pieces::F32(first, second) => ([first, second].concat(), frames.first.stream_ns, frames.first.gap),
                other => panic!("{other:?}"),
            },
        )
    }

    fn wait<T>(&mut self, what: &str, mut find: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            assert!(MonoTime::now() < self.deadline, "waited in vain for {what}; {:?}", self.stats.remarks());
            std::thread::yield_now();
        }
    }

    fn trouble(&mut self, part: &str) -> String {
        self.wait(part, |rig| rig.stats.remarks().trouble.filter(|trouble| trouble.contains(part)))
    }

    fn end(self) -> Arc<SourceStats> {
        self.stop.request();
        self.thread.join().unwrap().unwrap();
        self.stats
    }
}

#[test]
fn samples_of_a_buffer_arrive_once_and_in_order_and_a_device_that_comes_back_is_found() {
    let tree = accelerometer();
    tree.write(&format!("{DEVICE}/buffer/enable"), "1\n");
    let mut device = char_device(&tree, 0);
    let mut rig = Rig::start(&iio("").unwrap(), &tree);
    // What is there before it is read is old, so write until one is taken.
    let mut n = 0;
    let first = rig.wait("the first sample", |rig| {
        device.write_all(&record(n)).unwrap();
        n += 1;
        std::thread::sleep(Duration::from_millis(1));
        rig.next()
    });
    let mut seen = vec![first];
    let more = n + 500;
    for n in n..more {
        device.write_all(&record(n)).unwrap();
    }
    while seen.last().unwrap().0[0] < (more - 1) as f32 * 0.5 {
        let next = rig.wait("the last sample", Rig::next);
        seen.push(next);
    }
    let begin = (seen[0].0[0] * 2.0) as i64;
    let expected: Vec<Seen> = (begin..more)
        .map(|n| (vec![n as f32 * 0.5, n as f32 * -0.5], Some(1_000_000_000 + n * 10_000_000), None))
        .collect();
    assert_eq!(seen, expected);

    // It is removed, and comes back with another number.
    unplug(&tree, 0);
    drop(device);
    rig.trouble("there is no IIO device accel_3d; found: none");
    plug(&tree, 3, "1");
    let mut device = char_device(&tree, 3);
    let (values, _, gap) = rig.wait("a sample of the device that came back", |rig| {
        device.write_all(&record(9)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        rig.next()
    });
    assert_eq!((values, gap), (vec![4.5, -4.5], Some(Gap::Reconnect)));
    let stats = rig.end();
    assert_eq!((stats.lost.load(Ordering::Relaxed), stats.rejected()), (0, 0));
    assert_eq!(stats.remarks().trouble, None);
}

#[test]
fn a_buffer_whose_records_change_is_opened_again() {
    let tree = accelerometer();
    tree.write(&format!("{DEVICE}/buffer/enable"), "1\n");
    let mut device = char_device(&tree, 0);
    let mut rig = Rig::start(&iio("mode = 'buffer'").unwrap(), &tree);
    rig.wait("a sample", |rig| {
        device.write_all(&record(1)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        rig.next()
    });
    device.write_all(&[0; 10]).unwrap();
    rig.trouble("bytes are not whole records of 24: its channels were changed");
    rig.end();
}

#[test]
fn a_buffer_that_is_off_is_set_up_in_the_order_that_the_kernel_accepts() {
    let tree = accelerometer();
    let mut device = char_device(&tree, 0);
    let mut rig = Rig::start(&iio("watermark = 5, mode = 'buffer'").unwrap(), &tree);
    let holds = |file: &str| std::fs::read_to_string(tree.path(&format!("{DEVICE}/{file}"))).unwrap();
    rig.wait("the buffer", |_| (holds("buffer/enable") == "1").then_some(()));
    for (file, text) in [
        ("scan_elements/in_accel_x_en", "1\n"),
        ("scan_elements/in_accel_y_en", "0"),
        ("scan_elements/in_timestamp_en", "1\n"),
        ("current_timestamp_clock", "monotonic"),
        ("buffer/length", "256"),
        ("buffer/watermark", "5"),
        ("trigger/current_trigger", "accel_3d-dev0\n"),
    ] {
        assert_eq!(holds(file), text, "{file}");
    }
    // Without y: two elements, then the time.
    let mut record = [0; 16];
    record[..2].copy_from_slice(&8i16.to_le_bytes());
    record[4..6].copy_from_slice(&(-2i16).to_le_bytes());
    let (values, ..) = rig.wait("a sample", |rig| {
        device.write_all(&record).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        rig.next()
    });
    assert_eq!(values, [4.0, -1.0]);
    rig.end();
}

#[test]
fn without_a_buffer_it_is_polled_and_what_is_garbage_or_gone_is_said() {
    let tree = accelerometer();
    tree.remove(&format!("{DEVICE}/buffer"));
    let mut rig = Rig::start(&iio("").unwrap(), &tree);
    let (values, time, _) = rig.wait("a sample", Rig::next);
    assert_eq!(values, [50.0, 150.0]);
    let now = i64::try_from(MonoTime::now().0).unwrap();
    assert!(time.is_some_and(|time| time <= now && time > now - 60_000_000_000), "{time:?}");

    tree.write(&format!("{DEVICE}/in_accel_z_raw"), "N/A\n");
    rig.trouble("in_accel_z_raw: it holds \"N/A\"");
    assert!(rig.stats.rejects(Reject::Malformed) >= 4);
    tree.write(&format!("{DEVICE}/in_accel_z_raw"), "302\n");
    rig.wait("a good sample", |rig| rig.next().filter(|(values, ..)| values[1] == 151.0));

    unplug(&tree, 0);
    plug(&tree, 7, "0");
    tree.remove(&format!("{PARENT}/iio:device7/buffer"));
    tree.write(&format!("{PARENT}/iio:device7/in_accel_x_raw"), "2\n");
    // The old file stays readable here, where the kernel says ENODEV; nothing shows the loss, so it is not looked for.
    rig.end();
    let mut rig = Rig::start(&iio("mode = 'poll'").unwrap(), &tree);
    assert_eq!(rig.wait("a sample", Rig::next).0, [1.0, 150.0]);
    rig.end();
}

#[test]
fn polling_ends_when_the_buffer_is_switched_on() {
    let tree = accelerometer();
    // It cannot be opened, so that it is polled.
    let mut rig = Rig::start(&iio("").unwrap(), &tree);
    assert_eq!(rig.wait("a polled sample", Rig::next).0, [50.0, 150.0]);
    let mut device = char_device(&tree, 0);
    tree.write(&format!("{DEVICE}/buffer/enable"), "1\n");
    rig.wait("a sample of the buffer", |rig| {
        device.write_all(&record(6)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        rig.next().filter(|(values, ..)| *values == [3.0, -3.0])
    });
    rig.end();
}

fn survey(tree: &Tree, keys: &str) -> Survey {
    iio(keys).unwrap().survey(&Machine { sysfs: tree.root(), dev: &tree.path("dev") })
}

#[test]
fn the_survey_says_what_there_is_and_what_is_missing() {
    let tree = accelerometer();
    let found = survey(&tree, "");
    assert_eq!(found.presence, Presence::Ready);
    assert!(found.says.contains("accel_3d (iio:device0): polled, one number at a time, because"), "{found:?}");
    assert!(found.says.contains("dev/iio:device0: No such file"), "{found:?}");
    let broken = survey(&tree, "mode = 'buffer'");
    assert_eq!(broken.presence, Presence::Broken);
    drop(char_device(&tree, 0));
    let found = survey(&tree, "mode = 'buffer'");
    assert_eq!(
        (found.presence, found.says.as_str()),
        (Presence::Ready, "accel_3d (iio:device0): read from its buffer")
    );
    assert_eq!(found.warning(), None);
    let detail = found.detail.join("\n");
    for part in
        ["channels: accel_x accel_y accel_z", "parent HID-SENSOR-200073.1.auto", "buffer off, trigger accel_3d-dev0"]
    {
        assert!(detail.contains(part), "{detail}");
    }
    tree.write(&format!("{DEVICE}/in_accel_sampling_frequency"), "10\n");
    assert!(survey(&tree, "").detail.join("\n").contains("in_accel_sampling_frequency is 10 now, and rate_hz is 100"));
    // On, but without z.
    tree.write(&format!("{DEVICE}/buffer/enable"), "1\n");
    tree.write(&format!("{DEVICE}/scan_elements/in_accel_z_en"), "0\n");
    let found = survey(&tree, "");
    assert!(found.warning().is_some_and(|said| said.contains("on without accel_z") && said.contains("setup-sensors")));

    plug(&tree, 1, "0");
    let found = survey(&tree, "");
    assert_eq!(found.presence, Presence::Broken);
    assert!(
        found.says.contains("several IIO devices are called accel_3d: accel_3d (HID-SENSOR-200073.1.auto)"),
        "{found:?}"
    );
    tree.write(&format!("{PARENT}/iio:device1/label"), "lid\n");
    assert_eq!(survey(&tree, "label = 'lid'").presence, Presence::Ready);
    let absent = survey(&tree, "parent = 'i2c-1/1-0068'");
    assert_eq!(absent.presence, Presence::Absent);
    assert!(
        absent.says.contains("there is no IIO device accel_3d at i2c-1/1-0068; found: accel_3d (HID-"),
        "{absent:?}"
    );
}

#[test]
fn the_set_up_is_done_once_and_says_what_it_did() {
    let tree = accelerometer();
    drop(char_device(&tree, 0));
    let dev = tree.path("dev");
    let machine = Machine { sysfs: tree.root(), dev: &dev };
    let set_up = |keys: &str, restart| iio(keys).unwrap().set_up(&machine, restart).unwrap().map_err(|e| e.to_string());
    let said = set_up("watermark = 3", false).unwrap();
    assert_eq!(said, "accel_3d (iio:device0): its buffer is on, for accel_x accel_z, with a watermark of 3");
    assert!(set_up("watermark = 3", false).unwrap().contains("on already"));
    assert!(set_up("watermark = 4", false).unwrap().contains("a watermark of 4"));
    assert!(set_up("watermark = 4", true).unwrap().contains("a watermark of 4"));
    assert!(set_up("mode = 'poll'", false).unwrap().contains("its buffer was switched off"));
    assert!(set_up("mode = 'poll'", false).unwrap().contains("its buffer is off"));
    // There is no such trigger, and no way to make it.
    assert!(set_up("trigger = 'mine'", false).unwrap_err().contains("run sudo modprobe iio-trig-hrtimer"));
    let triggers = "kernel/config/iio/triggers/hrtimer";
    tree.write(&format!("{triggers}/x"), "");
    let error = set_up("trigger = 'mine'", false).unwrap_err();
    assert!(error.contains("hrtimer/mine was made, but no trigger came of it"), "{error}");
    assert!(tree.path(&format!("{triggers}/mine")).is_dir());
    // With the kernel, the folder makes the trigger.
    tree.write("bus/iio/devices/trigger5/name", "mine\n");
    tree.write("bus/iio/devices/trigger5/sampling_frequency", "1\n");
    set_up("trigger = 'mine'", false).unwrap();
    let read = |file: &str| std::fs::read_to_string(tree.path(file)).unwrap();
    assert_eq!(read("bus/iio/devices/trigger5/sampling_frequency"), "100");
    assert_eq!(read(&format!("{DEVICE}/trigger/current_trigger")), "mine");
    // The nearest of the rates that it takes.
    tree.write(&format!("{DEVICE}/trigger/current_trigger"), "accel_3d-dev0\n");
    tree.write(&format!("{DEVICE}/buffer/enable"), "0\n");
    tree.write(&format!("{DEVICE}/in_accel_sampling_frequency"), "12.5\n");
    tree.write(&format!("{DEVICE}/in_accel_sampling_frequency_available"), "12.5 26 52 119\n");
    let said = set_up("", false).unwrap();
    assert!(said.contains("in_accel_sampling_frequency is 119, the nearest to 100 that it takes"), "{said}");
    assert!(set_up("", false).unwrap().contains("on already"));
    unplug(&tree, 0);
    assert!(set_up("", false).unwrap().contains("there is no IIO device accel_3d; found: none; a udev rule"));
}

#[test]
fn keys_that_cannot_be_right_are_refused_with_what_is_right() {
    for (keys, part) in [
        ("mode = 'poll', watermark = 3", "source.iio.watermark: it belongs to the buffer"),
        ("mode = 'poll', trigger = 'x'", "source.iio.trigger: it belongs to the buffer"),
        ("trigger = '../x'", "source.iio.trigger: this is not the name of a trigger"),
    ] {
        let problems = iio(keys).unwrap_err().join("\n");
        assert!(problems.contains(part), "{problems}");
    }
    let of =
        |channels: &str| parsed(&format!("iio = {{ device = '', channels = {channels}, rate_hz = 1.0 }}")).unwrap_err();
    assert!(of("[]").join("\n").contains("source.iio.channels: name at least one channel"));
    assert!(of("['a', 'a']").join("\n").contains("`a` is named twice"));
    assert!(of("['a', 'a[0]']").join("\n").contains("`a[0]` is named twice"));
    assert!(of("['in_accel_x_raw']").join("\n").contains("source.iio.channels: write `accel_x`"));
    assert!(of("['a']").join("\n").contains("source.iio.device: write the name of the chip"));
    let iio = iio("").unwrap();
    let spec = iio.spec();
    assert_eq!((spec.frame.dims(), spec.units.as_slice()), (&[2][..], &["m/s2".to_owned(), "m/s2".into()][..]));
}

#[test]
fn a_parent_or_label_that_names_nothing_is_refused() {
    for (keys, part) in [
        ("parent = ''", "source.iio.parent: this is not the name of a device"),
        ("parent = '/'", "source.iio.parent: "),
        ("parent = '../1-0068'", "source.iio.parent: "),
        ("label = ''", "source.iio.label: it is empty; leave it out"),
    ] {
        let text = format!("iio = {{ device = 'a', channels = ['b'], rate_hz = 1.0, {keys} }}");
        let problems = parsed(&text).unwrap_err().join("\n");
        assert!(problems.contains(part), "{keys}: {problems}");
    }
}

#[test]
fn two_names_of_one_device_share_it() {
    let source = |keys: &str| {
        let text = format!("iio = {{ device = 'a', channels = ['b'], rate_hz = 1.0, {keys} }}");
        toml::from_str::<Source>(&text).unwrap()
    };
    for (one, other, is_shared) in [
        ("", "", true),
        ("", "parent = '1-0068'", true),
        ("label = 'base'", "", true),
        ("parent = '1-0068'", "parent = 'i2c-1/1-0068'", true),
        ("parent = '1-0068'", "parent = '1-0069'", false),
        ("label = 'base'", "label = 'arm'", false),
        ("", "mode = 'poll'", false),
    ] {
        let (one, other) = (source(one), source(other));
        assert_eq!((one.shares_with(&other), other.shares_with(&one)), (is_shared, is_shared), "{one:?}, {other:?}");
    }
}

#[test]
fn a_wake_up_serves_the_samples_of_20_ms_and_the_kernel_keeps_those_of_2_s() {
    let of = |rate: f64, keys: &str| {
        let text = format!("iio = {{ device = 'a', channels = ['count'], rate_hz = {rate:?}, {keys} }}");
        let tree =
            Tree::new(&[("bus/iio/devices/iio:device0/name", "a"), ("bus/iio/devices/iio:device0/in_count_raw", "1")]);
        let iio = parsed(&text).unwrap();
        let plan = iio.plan(&devices(tree.root())[0]).unwrap();
        let wanted = iio.buffer_for(&plan);
        (wanted.watermark, wanted.length)
    };
    assert_eq!(of(1000.0, ""), (20, 2048));
    assert_eq!(of(100.0, ""), (2, 256));
    assert_eq!(of(1.0, ""), (1, 128));
    assert_eq!(of(100_000.0, ""), (64, 32_768));
    assert_eq!(of(1.0, "watermark = 4000"), (4000, 8192));
}

/// What 1 kHz with 6 channels costs the reading thread. By hand, because it takes 10 s and another program can disturb it:
/// `cargo test --release --lib -- --ignored --nocapture the_cost_of`.
#[test]
#[ignore = "measures for 10 s"]
fn the_cost_of_1_khz_with_6_channels() {
    const SECONDS: usize = 10;
    let tree = accelerometer();
    tree.write(&format!("{DEVICE}/buffer/enable"), "1\n");
    let names: Vec<String> =
        ["accel", "anglvel"].iter().flat_map(|kind| ["x", "y", "z"].map(|axis| format!("{kind}_{axis}"))).collect();
    for (index, name) in names.iter().enumerate() {
        for (what, text) in [("en", "1"), ("index", &index.to_string()), ("type", "be:s16/16>>0")] {
            tree.write(&format!("{DEVICE}/scan_elements/in_{name}_{what}"), text);
        }
    }
    tree.write(&format!("{DEVICE}/scan_elements/in_timestamp_index"), "9");
    let mut device = char_device(&tree, 0);
    let keys = parsed(&format!("iio = {{ device = 'accel_3d', rate_hz = 1000.0, channels = {names:?} }}")).unwrap();
    let watermark = keys.buffer_for(&keys.plan(&devices(tree.root())[0]).unwrap()).watermark;
    let mut rig = Rig::start(&keys, &tree);
    rig.reader.want(100);
    let mut n = 0i64;
    let mut write = |samples: usize| {
        let mut bytes = Vec::new();
        for _ in 0..samples {
            // 6 x 2 bytes, 4 of padding, the time.
            bytes.extend([0x12; 16]);
            bytes.extend((n * 1_000_000).to_le_bytes());
            n += 1;
        }
        device.write_all(&bytes).unwrap();
    };
    rig.wait("a sample", |rig| {
        write(watermark);
        std::thread::sleep(Duration::from_millis(1));
        rig.next()
    });
    let thread = acquire_thread();
    let (cpu, wakes) = usage(&thread);
    let begun = Instant::now();
    let mut due = begun;
    let mut received = 0;
    for _ in 0..SECONDS * 1000 / watermark {
        write(watermark);
        due += Duration::from_millis(watermark as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        while rig.next().is_some() {
            received += 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let (cpu, wakes) = (usage(&thread).0 - cpu, usage(&thread).1 - wakes);
    println!(
        "{received} samples of 6 channels in {took:.2} s: {:.3} % of a core, {:.1} wake-ups a second, {:.2} us a sample",
        100.0 * cpu / took,
        wakes / took,
        1e6 * cpu / f64::from(received),
    );
    rig.end();
    assert!(cpu / took < 0.01, "{cpu} s of {took} s");
}

/// The thread of this process that was started last.
fn acquire_thread() -> PathBuf {
    let tasks = crate::sys::folder::names(Path::new("/proc/self/task"));
    let last = tasks.iter().filter_map(|task| task.parse::<u32>().ok()).max().unwrap();
    PathBuf::from(format!("/proc/self/task/{last}"))
}

/// The processor time of a thread in seconds, and how often it was woken.
fn usage(thread: &Path) -> (f64, f64) {
    let ran = std::fs::read_to_string(thread.join("schedstat")).unwrap();
    let status = std::fs::read_to_string(thread.join("status")).unwrap();
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    (ran.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9, waits.trim().parse().unwrap())
}
