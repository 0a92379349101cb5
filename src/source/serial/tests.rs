//! Ports as boards use them, on pseudo-terminals: what is sent is what comes, and what is lost is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgewatt_support::serial::Board;

use super::*;
use crate::source::sink::frame_ring;
use crate::source::{FrameReader, Gap, Pieces, Presence, Reject, SinkSettings, Source, SourceStats};
use crate::stop::Stop;

const CSV: &str = "records = { columns = ['n', 'x'], channels = ['n', 'x'] }";
const PACKETS: &str =
    "packets = { header = ['seq: u16le'], sample = ['n: u32le', 'x: i16le'], crc = 'crc16-modbus', sequence = 'seq' }";
/// What comes first, until the port is read.
const HELLO: f32 = -1.0;

fn serial(port: &Path, keys: &str) -> Result<Serial, String> {
    let text = format!("serial = {{ port = {:?}, {keys} }}", port.display().to_string());
    let mut source: Source = toml::from_str(&text).map_err(|error| error.to_string())?;
    let mut checker = Checker::new(Path::new(""));
    source.check(&Key::new(&["source"]), &mut checker);
    let Source::Serial(serial) = source else { panic!("{source:?}") };
    let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(serial)).map_err(|problems| problems.into_iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// A source that reads a port, with its reading end.
struct Rig {
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
    reader: FrameReader,
    thread: JoinHandle<Result<(), String>>,
    /// The gap before the greeting, until another frame comes.
    gap: Option<Gap>,
}

impl Rig {
    fn new(serial: &Serial, frames: usize) -> Self {
        let source = serial.open(OpenOptions::default()).unwrap();
        let settings = SinkSettings { spec: serial.spec(), frames, frames_per_block: 1, when_full: WhenFull::Drop };
        let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
        let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
        let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
        Self { stop, stats, reader, thread, gap: None }
    }

    fn samples(&self) -> u64 {
        self.stats.samples.load(Ordering::Relaxed)
    }

    fn trouble(&self) -> String {
        self.stats.remarks().trouble.unwrap_or_default()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {}", self.trouble());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The frames that are there now, without those of the greeting.
    fn frames(&mut self) -> Vec<(Vec<f32>, Option<Gap>)> {
        let mut all = Vec::new();
        while let Some(frame) = self.reader.pop(
            1,
            |_, _| false,
            |frames| match frames.values {
                Pieces::F32(a, b) => ([a, b].concat(), frames.first.gap),
                other => panic!("{other:?}"),
            },
        ) {
            all.push(frame);
        }
        self.gap = all.iter().find_map(|(_, gap)| *gap).or(self.gap);
        all.retain(|(values, _)| values[1] != HELLO);
        if let Some(first) = all.first_mut() {
            first.1 = self.gap.take();
        }
        all
    }

    fn end(self) -> Result<(), String> {
        self.stop.request();
        self.thread.join().unwrap()
    }
}

/// Sends lines until the port is read.
fn greet(board: &mut Board, rig: &Rig) {
    let before = rig.samples();
    board.send_until(b"0,-1\n", || rig.samples() > before);
}

fn numbers(frames: &[(Vec<f32>, Option<Gap>)]) -> Vec<f32> {
    frames.iter().map(|(values, _)| values[0]).collect()
}

#[test]
fn lines_come_as_they_were_sent_and_other_text_is_counted() {
    let mut board = Board::new();
    let mut rig = Rig::new(&serial(&board.port(), CSV).unwrap(), 4096);
    greet(&mut board, &rig);
    let begun = rig.stats.rejected();
    for piece in
        ["1,10\r\n2,", "20\r", "\n3,30\n", "\0\0\n", "ets Jun  8 2016 00:22:57\r\n", "4,4", "0\r\n5,\n6,60\r\n"]
    {
        board.send(piece.as_bytes());
        std::thread::sleep(Duration::from_millis(3));
    }
    rig.wait("the last line", |rig| rig.stats.rejected() == begun + 3);
    rig.wait("its sample", |rig| !rig.reader.is_empty());
    board.send(b"7,70\n");
    let mut frames = Vec::new();
    while numbers(&frames).last() != Some(&7.0) {
        frames.extend(rig.frames());
    }
    let expected = [1.0, 2.0, 3.0, 4.0, 6.0, 7.0];
    assert_eq!(
        frames.iter().map(|(values, _)| values.clone()).collect::<Vec<_>>(),
        expected.map(|n| vec![n, 10.0 * n])
    );
    assert_eq!(rig.stats.rejects(Reject::Partial), 1, "the first line was perhaps cut");
    rig.end().unwrap();
}

/// A packet of [`PACKETS`].
fn packet(number: u32, x: i16) -> Vec<u8> {
    let content = [&(number as u16).to_le_bytes()[..], &number.to_le_bytes(), &x.to_le_bytes()].concat();
    let sum = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(&content);
    [cobs::encode_vec(&[&content[..], &sum.to_le_bytes()].concat()), vec![0]].concat()
}

/// Sends packets with numbers from `number` on until the port is read; returns the next number.
fn greet_by_packets(board: &mut Board, rig: &Rig, mut number: u32) -> u32 {
    let before = rig.samples();
    let next = || {
        number += 1;
        packet(number - 1, -1)
    };
    board.send_until_each(next, || rig.samples() > before);
    number
}

#[test]
fn a_flood_of_packets_loses_nothing_that_is_not_counted() {
    const PACKETS_SENT: u32 = 30_000;
    // As many bytes as 921,600 baud carry in four seconds.
    for (frames, keeps_up) in [(8192, true), (64, false)] {
        let mut board = Board::new();
        let mut rig = Rig::new(&serial(&board.port(), &format!("baud = 921600, {PACKETS}")).unwrap(), frames);
        let first = greet_by_packets(&mut board, &rig, 0);
        let sender = std::thread::spawn(move || {
            for number in first..first + PACKETS_SENT {
                board.send(&packet(number, 7));
            }
            board
        });
        let mut got = Vec::new();
        let ends =
            |rig: &Rig| rig.samples() + rig.stats.overflow.load(Ordering::Relaxed) >= u64::from(first + PACKETS_SENT);
        // The greeting was not all read, so the last packet shows the end.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !sender.is_finished() || !rig.reader.is_empty() || (keeps_up && got.len() < PACKETS_SENT as usize) {
            assert!(Instant::now() < deadline, "{} of {PACKETS_SENT}", got.len());
            if keeps_up || sender.is_finished() {
                got.extend(rig.frames());
            }
            std::thread::yield_now();
            if ends(&rig) && rig.reader.is_empty() {
                break;
            }
        }
        let _board = sender.join().unwrap();
        let numbers: Vec<u32> = got.iter().map(|(values, _)| values[0] as u32).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "none twice");
        let overflow = rig.stats.overflow.load(Ordering::Relaxed);
        assert_eq!(rig.stats.lost.load(Ordering::Relaxed), 0);
        assert_eq!(rig.stats.rejected(), rig.stats.rejects(Reject::Partial));
        if keeps_up {
            assert_eq!(numbers, Vec::from_iter(first..first + PACKETS_SENT));
            assert_eq!(overflow, 0);
        } else {
            assert!(overflow > 0, "a ring of 64 frames is full");
        }
        rig.end().unwrap();
    }
}

#[test]
fn a_port_that_is_unplugged_is_opened_again_under_its_name() {
    let mut board = Board::unplugged();
    let serial = serial(&board.port(), PACKETS).unwrap();
    serial.check_access().unwrap();
    let mut rig = Rig::new(&serial, 4096);
    rig.wait("the absence", |rig| rig.trouble().contains("there is no such port; plug it in"));
    let mut number = 0;
    for round in 0..3 {
        board.plug();
        number = greet_by_packets(&mut board, &rig, number);
        for _ in 0..50 {
            board.send(&packet(number, 7));
            number += 1;
        }
        let mut frames = Vec::new();
        while frames.len() < 50 {
            frames.extend(rig.frames());
        }
        assert_eq!(numbers(&frames), Vec::from_iter((number - 50..number).map(|n| n as f32)), "round {round}");
        assert_eq!(frames[0].1, Some(Gap::Reconnect), "round {round}");
        assert_eq!(rig.trouble(), "", "it is back");
        // Inside a packet.
        board.send(&packet(number, 9)[..4]);
        number += 1;
        board.unplug();
        rig.wait("the absence", |rig| {
            rig.trouble().contains("it was unplugged") || rig.trouble().contains("no such port")
        });
    }
    assert_eq!(rig.stats.lost.load(Ordering::Relaxed), 0, "what was sent meanwhile was not lost by the device");
    assert!(rig.frames().is_empty());
    rig.end().unwrap();
}

#[test]
fn bytes_without_the_end_of_a_line_are_a_question_for_the_baud_until_one_ends() {
    let mut board = Board::new();
    let rig = Rig::new(&serial(&board.port(), CSV).unwrap(), 4096);
    let asks = |rig: &Rig| {
        rig.trouble().contains("4096 bytes have come without the end of a line or packet; is baud = 115200")
    };
    board.send_until(&[0x80; 64], || asks(&rig));
    greet(&mut board, &rig);
    rig.wait("no more question", |rig| rig.trouble().is_empty());
    rig.end().unwrap();
}

#[test]
fn a_port_in_use_says_by_whom_and_a_file_is_refused() {
    let board = Board::new();
    let serial_of = |port: &Path| serial(port, CSV).unwrap();
    let taken = serial::open(&board.port(), &serial_of(&board.port()).settings()).unwrap();
    let rig = Rig::new(&serial_of(&board.port()), 16);
    let us = format!("(process {})", std::process::id());
    rig.wait("who uses it", |rig| rig.trouble().contains("it is in use by") && rig.trouble().contains(&us));
    drop(taken);
    rig.end().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("port");
    std::fs::write(&file, "1,2\n").unwrap();
    let refusal = serial_of(&file).check_access().unwrap_err().to_string();
    assert!(refusal.ends_with("port: it is not a serial port"), "{refusal}");
    let rig = Rig::new(&serial_of(Path::new("/dev/null")), 16);
    rig.wait("the reason", |rig| rig.trouble().ends_with("/dev/null: it is not a serial port"));
    rig.end().unwrap();
}

#[test]
fn a_port_is_examined_without_opening_it() {
    let tree = crate::meter::tree::Tree::new(&[
        ("dev/ttyUSB0", ""),
        ("dev/ttyS0", ""),
        ("sys/class/tty/ttyS0/type", "0\n"),
        ("dev/serial/by-path/x", ""),
    ]);
    let (sysfs, dev) = (tree.path("sys"), tree.path("dev"));
    let machine = Machine { sysfs: &sysfs, dev: &dev };
    std::os::unix::fs::symlink("../../ttyUSB0", dev.join("serial/by-path/usb-0:1")).unwrap();
    let proc = Path::new("/proc");

    let absent = survey(Path::new("/dev/ttyACM0"), &machine, proc);
    assert_eq!((absent.presence, absent.says.as_str()), (Presence::Absent, "there is no /dev/ttyACM0"));
    let fix = absent.fix.unwrap();
    assert!(
        fix.starts_with("plug it in, or name the port that is there: ") && fix.ends_with("serial/by-path/usb-0:1"),
        "{fix}"
    );
    let broken = survey(Path::new("/dev/ttyUSB0"), &machine, proc);
    assert_eq!((broken.presence, broken.says.as_str()), (Presence::Broken, "/dev/ttyUSB0 is not a serial port"));

    let board = Board::new();
    let ready = survey(&board.port(), &machine, proc);
    let device = board.device();
    assert_eq!(
        (ready.presence, ready.node.map(|node| node.path)),
        (Presence::Ready, Some(device.clone())),
        "{}",
        ready.says
    );
    let _open = File::open(&device).unwrap();
    let used = survey(&board.port(), &machine, proc);
    assert_eq!(used.presence, Presence::Broken);
    assert!(used.says.contains(&format!("is in use by {}", by(&holders(proc, &device)[0]))), "{}", used.says);

    let running = tempfile::tempdir().unwrap();
    std::fs::create_dir(running.path().join("12")).unwrap();
    std::fs::write(running.path().join("12/comm"), "ModemManager\n").unwrap();
    let said = advice(Path::new("/dev/ttyUSB0"), "ttyUSB0", &machine, running.path()).join("\n");
    assert!(said.contains("use port = \"") && said.contains("usb-0:1") && !said.contains("ModemManager"), "{said}");
    let said = advice(Path::new("/dev/serial/by-id/x"), "ttyACM0", &machine, running.path()).join("\n");
    assert!(said.starts_with("ModemManager runs") && said.contains("ID_MM_DEVICE_IGNORE"), "{said}");
}

#[test]
fn what_cannot_be_read_from_its_middle_is_refused() {
    let port = Path::new("/dev/ttyUSB0");
    for (keys, expected) in [
        ("records = { channels = ['x'] }", "source.serial.records: a board writes a header only when it starts"),
        ("records = { channels = ['x'], format = 'json' }", "source.serial.records.format: the port may be opened"),
        ("records = { channels = ['x'], columns = ['x'], skip_lines = 3 }", "source.serial.records.skip_lines: "),
        ("bytes = { format = 's16le' }", "source.serial.bytes: nothing shows where a frame begins"),
        ("bytes = { format = 'u8' }, data_bits = 7", "source.serial.data_bits: only text"),
        ("bytes = { format = 'u8' }, flow_control = 'software'", "source.serial.flow_control: the bytes XON"),
        ("bytes = { format = 'u8' }, baud = 0", "source.serial.baud: 0 is out of range"),
    ] {
        let refusal = serial(port, keys).unwrap_err();
        assert!(refusal.contains(expected), "{keys}: {refusal}");
    }
    assert!(serial(Path::new("COM3"), CSV).unwrap_err().contains("write it as \"/dev/ttyUSB0\""));
    let held_back = serial(port, &format!("flow_control = 'hardware', parity = 'odd', stop_bits = 2, {CSV}")).unwrap();
    assert_eq!((held_back.buffer().1, held_back.settings().odd_parity), (WhenFull::Wait, Some(true)));
    assert_eq!(serial(port, "bytes = { format = 'u8' }").unwrap().buffer().1, WhenFull::Drop);
}

#[test]
fn a_port_too_slow_for_its_content_is_refused_with_the_numbers() {
    let refusal = |keys: &str| serial(Path::new("/dev/ttyUSB0"), keys).err().unwrap_or_default();
    let packets = PACKETS.replace("sequence = 'seq'", "sequence = 'seq', rate_hz = 1000.0");
    // 10 bytes, with one of COBS and the byte 0.
    assert_eq!(
        refusal(&packets),
        "source.serial.baud: at 115200 baud a port carries 11520 bytes in a second, of 10 bits each; packets.rate_hz needs at \
         least 12000 bytes in a second, which is 120000 baud; write 230400, here and on the board (a board that is a USB \
         device itself takes any)"
    );
    assert_eq!(refusal(&format!("{packets}, baud = 120000")), "");
    let lines = CSV.replace("channels =", "rate_hz = 1000.0, channels =");
    assert!(
        refusal(&format!("{lines}, baud = 38400, parity = 'even'")).contains("of 11 bits each; records.rate_hz needs")
    );
    assert_eq!(refusal(&format!("{lines}, baud = 40000")), "");
}
