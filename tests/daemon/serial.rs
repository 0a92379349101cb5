//! A board on a serial port and the real program: garbage, unplugging and another device under the same name give no wrong
//! value, none twice, and a state with the reason.

use std::path::Path;
use std::time::Duration;

use edgewatt_support::daemon::{Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::root;
use edgewatt_support::serial::Board;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::Value;

const WINDOW: u32 = 10;

fn setup(board: &Board, broker: &Mosquitto, content: &str) -> Setup {
    let text = format!(
        "mqtt.broker = \"mqtt://127.0.0.1:{}\"\nmetrics.interval_s = 0.5\n[pipelines.board]\nmodel.path = \"{}\"\n\
         window = {{ samples = {WINDOW}, hop = {WINDOW} }}\ndecision.raw = {{}}\n[pipelines.board.source.serial]\n\
         port = {:?}\n{content}\n",
        broker.port,
        root().join("tests/models/open_input.tflite").display(),
        board.port().display().to_string(),
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgewatt.toml");
    std::fs::write(&path, text).unwrap();
    Setup::of(Path::new(&path))
}

const PACKETS: &str =
    "packets = { header = ['sequence: u16be'], sample = ['n: u32be'], crc = 'crc32', sequence = 'sequence' }";

fn packet(number: u32) -> Vec<u8> {
    let content = [&(number as u16).to_be_bytes()[..], &number.to_be_bytes()].concat();
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&content);
    [cobs::encode_vec(&[&content[..], &sum.to_le_bytes()].concat()), vec![0]].concat()
}

/// Messages so far; more come with each look.
struct Messages {
    subscriber: Subscriber,
    lines: Vec<String>,
}

impl Messages {
    fn wire(&mut self) -> Wire {
        self.lines.extend(self.subscriber.rest(Duration::from_millis(10)));
        Wire::new(self.lines.clone())
    }

    /// The values of each window.
    fn windows(&mut self) -> Vec<Vec<u32>> {
        let window = |prediction: &Value| -> Vec<u32> {
            prediction["outputs"][0].as_array().unwrap().iter().map(|value| -value.as_f64().unwrap() as u32).collect()
        };
        self.wire().predictions().iter().map(window).collect()
    }

    /// Waits until the last state of the pipeline is this one, with this in its reason.
    fn state(&mut self, state: &str, reason: &str) {
        let is_so = |messages: &mut Self| {
            let last = messages.wire().json("/p/board/status").pop();
            last.is_some_and(|last| {
                last["state"] == state && last["reason"].as_str().unwrap_or_default().contains(reason)
            })
        };
        wait_until(|| format!("{state}: {reason}"), || is_so(self));
    }
}

#[test]
fn packets_are_whole_and_single_whatever_happens_to_the_port() {
    let broker = Mosquitto::running();
    let mut messages = Messages { subscriber: broker.subscribe("edgewatt/#"), lines: Vec::new() };
    let mut board = Board::unplugged();
    let setup = setup(&board, &broker, PACKETS);
    let checked = setup.check().expect(0);
    let said = checked.stdout + &checked.stderr;
    assert!(said.contains("source: there is no ") && said.contains("; the source waits for it; plug it in"), "{said}");
    let daemon = setup.start(&[]);
    messages.state("degraded", "there is no such port; plug it in");

    let mut number = 0;
    for _ in 0..3 {
        board.plug();
        let before = messages.windows().len();
        // Numbers go on, so that each value is sent once.
        let ten = || {
            number += WINDOW;
            (number - WINDOW..number).flat_map(packet).collect()
        };
        board.send_until_each(ten, || messages.windows().len() > before);
        messages.state("running", "");
        board.send(b"\0ets Jun  8 2016\r\n");
        board.send(&packet(number)[1..]);
        board.send(&(number + 3..number + 40).flat_map(packet).collect::<Vec<_>>());
        board.send(&packet(number + 39));
        number += 40;
        // Three are missing; of the 37 others, the last 7 fill no window.
        let last = number - 8;
        wait_until(|| format!("{last}"), || messages.windows().last().is_some_and(|window| window.contains(&last)));
        board.send(&packet(number)[..5]);
        number += 1;
        board.unplug();
        messages.state("degraded", "");
    }
    // A gap is counted with the first sample behind it; the first one is that before the port was there.
    board.plug();
    let before = messages.windows().len();
    let ten = || {
        number += WINDOW;
        (number - WINDOW..number).flat_map(packet).collect()
    };
    board.send_until_each(ten, || messages.windows().len() > before);
    wait_until(|| "the fourth gap".into(), || messages.wire().metrics()["counts"]["gaps"]["reconnect"] == 4);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["the source is away: ", "the source is back after "]);

    let windows = messages.windows();
    for window in &windows {
        assert!(window.iter().zip(window.iter().skip(1)).all(|(a, b)| a + 1 == *b), "a gap in {window:?}");
    }
    let all: Vec<u32> = windows.concat();
    assert!(all.is_sorted_by(|a, b| a < b), "none twice: {all:?}");
    let counts = messages.wire().metrics()["counts"].clone();
    assert_eq!(counts["rejects"]["duplicate"], 3, "{counts}");
    assert_eq!(counts["drops"]["source_lost"], 6, "one of each three is counted as damaged: {counts}");
    assert_eq!(counts["rejects"]["too_long"], 3, "text, with the end of a packet: {counts}");
    assert!(counts["rejects"]["unterminated"].as_u64().unwrap() <= 3, "{counts}");
}
