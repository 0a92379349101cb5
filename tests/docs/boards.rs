//! The sketches of examples/boards/, compiled for this machine, send to a serial port what their configurations read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::serial::Board;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;

use crate::examples::source;

const CHANNELS: usize = 3;

/// What a sketch sends for so many samples.
fn sent_by(sketch: &str, samples: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("sketch");
    let path = root().join("examples/boards").join(sketch).join(sketch).with_extension("ino");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-x", "c++"]).arg("-include");
    compiler.arg(root().join("tests/docs/arduino/Arduino.h")).arg(path).arg("-o").arg(&program);
    assert!(compiler.status().unwrap().success(), "{sketch} does not compile");
    let output = Command::new(program).arg(samples.to_string()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Runs an example on a port to which `greeting` is sent until it is read, then what the sketch sends. `greeting` gets the
/// number of a sample, and its stream is older or newer than the sketch's, so that no window has samples of both.
fn values_arrive(example: &str, sketch: &str, window: usize, greeting: impl Fn(usize) -> Vec<u8>) {
    const WINDOWS: usize = 4;
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let mut board = Board::new();
    let setup = source(example);
    let text = std::fs::read_to_string(setup.config()).unwrap();
    let port = text.lines().find_map(|line| line.strip_prefix("port = ")).unwrap();
    let setup = setup
        .with(port, &format!("{:?}", board.port().display().to_string()))
        .with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port));
    let daemon = setup.start(&[]);
    let mut number = 0;
    let mut lines = Vec::new();
    let mut greetings = 0;
    board.send_until_each(
        || {
            number += 10;
            (number - 10..number).flat_map(&greeting).collect()
        },
        || {
            lines.extend(subscriber.rest(Duration::from_millis(20)));
            greetings = Wire::new(lines.clone()).predictions().len();
            greetings > 0
        },
    );
    // All of the greeting is read before the sketch begins.
    board.send(&sent_by(sketch, WINDOWS * window));
    let last = ((WINDOWS * window * CHANNELS - 1) % 1024).to_string();
    lines.extend(subscriber.until(|line| line.contains("/prediction ") && line.contains(&format!("-{last}.0]]"))));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let values = |prediction: &serde_json::Value| -> Vec<i64> {
        prediction["outputs"][0].as_array().unwrap().iter().map(|value| -value.as_f64().unwrap() as i64).collect()
    };
    let all: Vec<Vec<i64>> = Wire::new(lines).predictions().iter().map(values).collect();
    // The greeting has no other value than this.
    let of_sketch: Vec<i64> =
        all.into_iter().filter(|window| window.iter().any(|value| *value != 1023)).flatten().collect();
    let expected: Vec<i64> = (0..WINDOWS * window * CHANNELS).map(|value| (value % 1024) as i64).collect();
    assert_eq!(of_sketch, expected);
}

#[test]
fn the_sketch_that_prints_lines_is_read() {
    // Later than the sketch's clock: time goes back when it begins.
    let greeting = |n: usize| format!("{},1023,1023,1023\r\n", 5_000_000 + 20 * n).into_bytes();
    values_arrive("arduino-usb.toml", "arduino_lines", 50, greeting);
}

#[test]
fn the_sketch_that_sends_packets_is_read() {
    let greeting = |n: usize| {
        let time = (5000 * n) as u32;
        let number = (40_000 + n) as u16;
        let content = [&number.to_le_bytes()[..], &time.to_le_bytes(), &[0xff, 0x03, 0xff, 0x03, 0xff, 0x03]].concat();
        framed(&content)
    };
    values_arrive("serial-packets.toml", "arduino_packets", 100, greeting);
}

/// The frame around a packet's content, as `crc` and `cobs` make it.
fn framed(content: &[u8]) -> Vec<u8> {
    let sum = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(content);
    let mut frame = cobs::encode_vec(&[content, &sum.to_le_bytes()].concat());
    frame.push(0);
    frame
}

/// Plain C, which boards other than Arduinos can use.
#[test]
fn the_header_frames_packets_of_any_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let code = "#include <stdio.h>\n#include \"edgewatt_packet.h\"\nstatic uint8_t content[2000], frame[EDGEWATT_FRAME_BYTES(2000)];\n\
                int main(void) { size_t length = fread(content, 1, sizeof content, stdin);\n\
                fwrite(frame, 1, edgewatt_frame(content, length, frame), stdout); return 0; }\n";
    std::fs::write(path("frame.c"), code).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined", "-I"]);
    compiler.arg(root().join("examples/boards/arduino_packets")).arg(path("frame.c")).arg("-o").arg(path("frame"));
    assert!(compiler.status().unwrap().success());
    let run = |content: &[u8], name: &Path| {
        std::fs::write(name, content).unwrap();
        let output = Command::new(path("frame")).stdin(std::fs::File::open(name).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for length in [0, 1, 2, 12, 100, 250, 251, 252, 253, 254, 255, 300, 505, 506, 507, 508, 509, 1000, 2000] {
        for content in [vec![0; length], vec![1; length], (0..length).map(|at| (at * 7 % 256) as u8).collect()] {
            assert_eq!(run(&content, &path("content")), framed(&content), "{length} bytes");
        }
    }
}
