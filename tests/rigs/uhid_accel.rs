//! Plugs in an accelerometer that this program is: a HID sensor by /dev/uhid, which the kernel's hid-sensor-accel-3d reads.
//!
//! `uhid_accel RATE_HZ FIRST FILE` sends sample FIRST, then the next one, and so on, RATE_HZ in a second, until SIGTERM or
//! SIGINT, which unplugs it. Sample `n` has x = n, y = 3 * n and z = -1 - n, each cut to 16 bits. FILE holds the number of
//! the last sample that was sent. Needs root.
//!
//! Source: `Documentation/hid/uhid.rst` and `hid-sensor.rst`; the usages are those of the HID Usage Tables, page 0x20.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;

/// The kinds of `struct uhid_event`.
const DESTROY: u32 = 1;
const GET_REPORT: u32 = 9;
const GET_REPORT_REPLY: u32 = 10;
const CREATE2: u32 = 11;
const INPUT2: u32 = 12;
const SET_REPORT: u32 = 13;
const SET_REPORT_REPLY: u32 = 14;
/// The largest event is the one that creates the device.
const EVENT_BYTES: usize = 4 + 128 + 64 + 64 + 2 + 2 + 4 * 4 + 4096;

const REPORT: u8 = 1;
const FEATURE: u8 = 0;

/// What the device says that it is: an accelerometer with three axes of 16 bits, in thousandths of g.
const DESCRIPTOR: &[u8] = &[
    0x05, 0x20, 0x09, 0x73, 0xa1, 0x00, 0x85, REPORT, // Sensors, Accelerometer 3D, a physical collection
    0x0a, 0x16, 0x03, 0x15, 0x00, 0x25, 0x05, 0x75, 0x08, 0x95, 0x01, 0xa1, 0x02, // Reporting State: one of
    0x0a, 0x40, 0x08, 0x0a, 0x41, 0x08, 0x0a, 0x42, 0x08, 0x0a, 0x43, 0x08, 0x0a, 0x44, 0x08, 0x0a, 0x45, 0x08, 0xb1,
    0x00, 0xc0, 0x0a, 0x19, 0x03, 0x15, 0x00, 0x25, 0x05, 0x75, 0x08, 0x95, 0x01, 0xa1,
    0x02, // Power State: one of
    0x0a, 0x50, 0x08, 0x0a, 0x51, 0x08, 0x0a, 0x52, 0x08, 0x0a, 0x53, 0x08, 0x0a, 0x54, 0x08, 0x0a, 0x55, 0x08, 0xb1,
    0x00, 0xc0, 0x0a, 0x0e, 0x03, 0x15, 0x00, 0x27, 0xff, 0xff, 0xff, 0x7f, 0x75, 0x20, 0x95, 0x01, 0x55, 0x00, 0xb1,
    0x02, // Interval, ms
    0x0a, 0x53, 0x04, 0x16, 0x00, 0x80, 0x26, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x01, 0x55, 0x0d, 0x81,
    0x02, // X, 10^-3
    0x0a, 0x54, 0x04, 0x16, 0x00, 0x80, 0x26, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x01, 0x55, 0x0d, 0x81, 0x02, // Y
    0x0a, 0x55, 0x04, 0x16, 0x00, 0x80, 0x26, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x01, 0x55, 0x0d, 0x81, 0x02, // Z
    0xc0,
];

fn event(kind: u32) -> Vec<u8> {
    kind.to_ne_bytes().to_vec()
}

fn create() -> Vec<u8> {
    let mut bytes = event(CREATE2);
    let mut name = b"edgewatt test accelerometer".to_vec();
    name.resize(128 + 64 + 64, 0);
    bytes.extend(name);
    let length = u16::try_from(DESCRIPTOR.len()).unwrap_or(0);
    bytes.extend(length.to_ne_bytes());
    // On USB, of a vendor that does not exist.
    bytes.extend(3u16.to_ne_bytes());
    for number in [0xfff0u32, 1, 0, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(DESCRIPTOR);
    bytes.resize(EVENT_BYTES, 0);
    bytes
}

/// The report of a sample, after its number.
fn sample(n: u64) -> [u8; 7] {
    let n = n as i16;
    let mut report = [REPORT; 7];
    for (axis, value) in [n, n.wrapping_mul(3), !n].into_iter().enumerate() {
        report[1 + axis * 2..3 + axis * 2].copy_from_slice(&value.to_le_bytes());
    }
    report
}

/// What the kernel has set, and what it may ask for.
struct State {
    features: [u8; 7],
    input: [u8; 7],
}

/// Answers what the kernel asks, until the device is gone.
fn answer(mut uhid: File, state: &Mutex<State>) -> anyhow::Result<()> {
    let mut bytes = vec![0; EVENT_BYTES];
    loop {
        let length = uhid.read(&mut bytes)?;
        let asked = bytes.get(..length).unwrap_or_default();
        let (Some(kind), Some(id)) = (asked.first_chunk::<4>(), asked.get(4..8)) else { continue };
        let mut reply = match u32::from_ne_bytes(*kind) {
            GET_REPORT => {
                let state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let report = if asked.get(9) == Some(&FEATURE) { state.features } else { state.input };
                let mut reply = event(GET_REPORT_REPLY);
                reply.extend(id);
                reply.extend(0u16.to_ne_bytes());
                reply.extend(7u16.to_ne_bytes());
                reply.extend(report);
                reply
            }
            SET_REPORT => {
                let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let (Some(&FEATURE), Some(report)) = (asked.get(9), asked.get(12..19)) {
                    state.features.copy_from_slice(report);
                }
                let mut reply = event(SET_REPORT_REPLY);
                reply.extend(id);
                reply.extend(0u16.to_ne_bytes());
                reply
            }
            _ => continue,
        };
        reply.resize(EVENT_BYTES, 0);
        uhid.write_all(&reply)?;
    }
}

fn main() -> anyhow::Result<()> {
    let [rate, first, path] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().ok().context("RATE_HZ FIRST FILE")?;
    let period = Duration::try_from_secs_f64(1.0 / rate.parse::<f64>()?)?;
    let mut n: u64 = first.parse()?;
    let sent = File::create(path)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut uhid = OpenOptions::new().read(true).write(true).open("/dev/uhid").context("/dev/uhid")?;
    uhid.write_all(&create())?;
    let mut features = [0; 7];
    features[0] = REPORT;
    let state = Arc::new(Mutex::new(State { features, input: sample(n) }));
    let (events, shared) = (uhid.try_clone()?, state.clone());
    std::thread::spawn(move || answer(events, &shared));

    let mut input = event(INPUT2);
    input.extend(7u16.to_ne_bytes());
    input.resize(EVENT_BYTES, 0);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let report = sample(n);
        state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).input = report;
        input[6..13].copy_from_slice(&report);
        uhid.write_all(&input)?;
        sent.write_all_at(format!("{n:20}\n").as_bytes(), 0)?;
        n += 1;
        due += period;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let mut destroy = event(DESTROY);
    destroy.resize(EVENT_BYTES, 0);
    uhid.write_all(&destroy)?;
    Ok(())
}
