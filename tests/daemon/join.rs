//! Several sources in one window: two FIFOs and UDP with times of their own, jitter and pauses, and every value of every
//! window compared with what was sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, free_port};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use serde_json::Value;

/// Samples in a window, which do not overlap.
const WINDOW: usize = 4;

struct Rig {
    setup: Setup,
    broker: Mosquitto,
    udp: u16,
}

impl Rig {
    fn new(join: &str) -> Self {
        let (broker, udp) = (Mosquitto::running(), free_port());
        let file = tempfile::NamedTempFile::new().unwrap();
        let model = root().join("tests/models/open_input.tflite");
        let text = format!(
            "version = 1\n[node]\nid = \"n\"\n[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nstore.enabled = false\n\
             [metrics]\ninterval_s = 1.0\n[pipelines.p]\nwindow = {{ samples = {WINDOW}, hop = {WINDOW} }}\nmodel.path = \"{}\"\n\
             decision.raw = {{}}\n[pipelines.p.source.join]\n{join}\n",
            broker.port,
            model.display()
        );
        std::fs::write(file.path(), text.replace("PORT", &udp.to_string())).unwrap();
        let setup = Setup::of(file.path());
        for name in ["imu", "hum"] {
            nix::unistd::mkfifo(&setup.dir.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        Self { setup, broker, udp }
    }

    fn start(&self, args: &[&str]) -> Daemon {
        let daemon = self.setup.start(args);
        // From then on, nothing that is sent is lost.
        let is_bound = || UdpSocket::bind(("127.0.0.1", self.udp)).is_err();
        wait_until(|| format!("the port of the source in:\n{}", daemon.log()), is_bound);
        daemon
    }

    /// The writing end; waits for the reader.
    fn fifo(&self, name: &str) -> File {
        File::options().write(true).open(self.setup.dir.path().join(name)).unwrap()
    }
}

/// Sends datagrams with one line each.
struct Sender(UdpSocket, u16);

impl Sender {
    fn send(&self, line: &str) {
        self.0.send_to(line.as_bytes(), ("127.0.0.1", self.1)).unwrap();
    }
}

const JOIN: &str = "leader = \"imu\"\nwait_ms = 60000.0\n\
    followers.temp = { method = \"linear\", tolerance_ms = 150.0 }\nfollowers.hum = { method = \"hold\", tolerance_ms = 1100.0 }\n\
    sources.imu.lines = { from = { fifo = \"imu\" }, records = { channels = [\"x\", \"y\"], columns = [\"t\", \"x\", \"y\"], time = \"t\", rate_hz = 50.0 } }\n\
    sources.temp.udp = { listen = \"127.0.0.1:PORT\", records = { channels = [\"c\"], columns = [\"t\", \"c\"], time = \"t\", rate_hz = 10.0 } }\n\
    sources.hum.lines = { from = { fifo = \"hum\" }, records = { channels = [\"h\"], columns = [\"t\", \"h\"], time = \"t\", rate_hz = 1.0 } }";

#[test]
fn every_value_of_every_window_is_of_its_time_whatever_the_sources_do() {
    let rig = Rig::new(JOIN);
    let mut subscriber = rig.broker.subscribe("edgewatt/#");
    let daemon = rig.start(&["--once"]);
    let temp = Sender(UdpSocket::bind("127.0.0.1:0").unwrap(), rig.udp);
    let (mut imu, mut hum) = (rig.fifo("imu"), rig.fifo("hum"));
    // A datagram that comes before the socket is there is lost, and its samples would be waited for.
    let listens = format!(":{:04X} ", rig.udp);
    let sockets = || std::fs::read_to_string("/proc/net/udp").unwrap();
    wait_until(sockets, || sockets().contains(&listens));

    // Ten seconds of each, by the number of milliseconds. The temperature is silent from 3 s to 5 s.
    let imu_ms: Vec<u64> = (0..500).map(|n| 20 * n).collect();
    let temp_ms: Vec<u64> = (0..=100).map(|n| 100 * n).filter(|ms| *ms <= 3000 || *ms >= 5000).collect();
    let hum_ms: Vec<u64> = (0..=10).map(|n| 1000 * n).collect();
    // Sent in pieces of uneven size, each source now ahead and now behind.
    let mut sent = [0; 3];
    let mut step = 0;
    while sent != [imu_ms.len(), temp_ms.len(), hum_ms.len()] {
        step += 1;
        let piece = |sent: usize, of: usize, most: usize| (sent + 1 + step * 7919 % most).min(of);
        let next = piece(sent[0], imu_ms.len(), 40);
        let lines: String = imu_ms[sent[0]..next]
            .iter()
            .map(|ms| format!("{}.{:03},{},{}\n", ms / 1000, ms % 1000, ms, -(*ms as i64)))
            .collect();
        imu.write_all(lines.as_bytes()).unwrap();
        sent[0] = next;
        let next = piece(sent[1], temp_ms.len(), 9);
        for ms in &temp_ms[sent[1]..next] {
            temp.send(&format!("{}.{:03},{}", ms / 1000, ms % 1000, 2 * ms));
        }
        sent[1] = next;
        if step % 3 == 0 && sent[2] < hum_ms.len() {
            let ms = hum_ms[sent[2]];
            writeln!(hum, "{}.000,{}", ms / 1000, ms + 1).unwrap();
            sent[2] += 1;
        }
    }
    drop(imu);
    let ended = daemon.wait();
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/n/status offline"));
    // Something was dropped, which a single run tells by its exit code.
    let ended = ended.expect(1);

    // Without a second run of the rules: what must be there at each time.
    let has_temp = |ms: u64| ms <= 3000 || ms >= 5000;
    let value = |ms: u64| [ms as f64, -(ms as f64), (ms / 1000 * 1000 + 1) as f64, 2.0 * ms as f64];
    let joined: Vec<u64> = imu_ms.iter().copied().filter(|ms| has_temp(*ms)).collect();
    let mut windows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for stretch in joined.chunk_by(|a, b| b - a == 20) {
        for window in stretch.chunks_exact(WINDOW) {
            // First the channels of the leader, then those of the others by their names.
            let values = window.iter().flat_map(|ms| value(*ms)).map(|value| -value).collect();
            windows.insert(window[WINDOW - 1], values);
        }
    }
    let predictions = wire.predictions();
    assert_eq!(predictions.len(), windows.len(), "{}\n{}", ended.stdout, ended.stderr);
    for prediction in &predictions {
        let ms = (prediction["stream_s"].as_f64().unwrap() * 1000.0).round() as u64;
        let values: Vec<f64> =
            prediction["outputs"][0].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let expected = windows.remove(&ms).unwrap_or_else(|| panic!("no window ends at {ms} ms, or it came twice"));
        let differs = |(ours, wanted): (&f64, &f64)| (ours - wanted).abs() > 2e-3;
        assert!(
            !values.iter().zip(&expected).any(differs) && values.len() == expected.len(),
            "{ms}: {values:?} {expected:?}"
        );
    }
    let counts = &wire.metrics()["counts"];
    assert_eq!(counts["samples"], joined.len());
    assert_eq!(counts["drops"]["source_unmatched"], imu_ms.len() - joined.len(), "{counts}");
    assert_eq!(counts["gaps"]["unmatched"], 1, "{counts}");
    assert_eq!(counts["gaps"]["time_jump"], 0, "{counts}");
}

#[test]
fn a_source_that_comes_back_makes_a_gap_and_clocks_that_do_not_agree_are_told() {
    let rig = Rig::new(&JOIN.replace("wait_ms = 60000.0", "wait_ms = 300.0"));
    let mut subscriber = rig.broker.subscribe("edgewatt/#");
    let mut daemon = rig.start(&[]);
    let temp = Sender(UdpSocket::bind("127.0.0.1:0").unwrap(), rig.udp);
    let (mut imu, mut hum) = (rig.fifo("imu"), rig.fifo("hum"));
    let second = |imu: &mut File, hum: &mut File, s: u64| {
        writeln!(hum, "{s},{s}").unwrap();
        for n in 0..10 {
            temp.send(&format!("{s}.{n}00,1"));
        }
        let lines: String = (0..50).map(|n| format!("{s}.{:03},1,2\n", 20 * n)).collect();
        imu.write_all(lines.as_bytes()).unwrap();
    };
    second(&mut imu, &mut hum, 1);
    second(&mut imu, &mut hum, 2);
    subscriber.until(|line| line.starts_with("edgewatt/n/p/p/prediction "));
    let gaps = |line: &str, reason: &str| -> u64 {
        let Some(json) = line.strip_prefix("edgewatt/n/p/p/metrics ") else { return 0 };
        let metrics: Value = serde_json::from_str(json).unwrap();
        metrics["counts"]["gaps"][reason].as_u64().unwrap()
    };
    // Another writer continues: it may have left something out. If it comes so fast that nobody sees the first one go, again.
    let mut at = 3;
    loop {
        drop(hum);
        std::thread::sleep(std::time::Duration::from_millis(100));
        hum = rig.fifo("hum");
        second(&mut imu, &mut hum, at);
        second(&mut imu, &mut hum, at + 1);
        at += 2;
        let (mut seen, mut left) = (0, 3);
        subscriber.until(|line| {
            seen = seen.max(gaps(line, "interrupted"));
            left -= usize::from(line.contains("/metrics "));
            seen > 0 || left == 0
        });
        if seen > 0 {
            break;
        }
    }

    // The leader's board gets the time of the day from somewhere; the others do not.
    let far = daemon.in_log("the sources that do not match", |log| {
        let lines: String = (0..10).map(|n| format!("1700000000.{:03},1,2\n", 20 * n)).collect();
        imu.write_all(lines.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        log.lines().find(|line| line.contains("no frame was joined for")).map(str::to_owned)
    });
    assert!(
        far.contains("has no sample within") && far.contains("if the clocks do not agree, set source.join."),
        "{far}"
    );
    subscriber.until(|line| line.contains("edgewatt/n/p/p/status") && line.contains("if the clocks do not agree"));
    let threads: Vec<String> = std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    for name in ["acq-p", "src-imu", "src-temp", "src-hum"] {
        assert!(threads.iter().any(|thread| thread == name), "{threads:?}");
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn a_join_without_a_match_says_what_came_and_which_key_to_change() {
    let recording = |name: &str, more: &str| {
        format!(
            "sources.{name}.replay = {{ path = \"{name}\", speed = \"max\", records = {{ channels = [\"v\"], time = \"t\", \
             rate_hz = 50.0 }} }}\n{more}"
        )
    };
    let follow = "followers.temp.tolerance_ms = 20.0";
    let rig = Rig::new(&format!("leader = \"lead\"\n{}{}", recording("lead", ""), recording("temp", follow)));
    // Two seconds of each, one of them a hundred seconds later.
    for (name, from) in [("lead", 0), ("temp", 100)] {
        let line = |n: usize| format!("{}.{:03},{n}\n", from + n / 50, n % 50 * 20);
        rig.setup.write(name, format!("t,v\n{}", (0..100).map(line).collect::<String>()).as_bytes());
    }
    let ended = rig.setup.start(&["--once"]).wait().expect(1);
    let words = [
        "the exit code is 1: pipeline p made no prediction: 100 samples of the leader came, and none was joined",
        "temp has no sample within 20 ms of those of lead: the nearest is ",
        "raise source.join.followers.temp.tolerance_ms; if the clocks do not agree, set \
         source.join.followers.temp.offset_ms, or source.join.clock = \"arrival\"",
    ];
    for part in words {
        assert!(ended.stderr.contains(part), "{part} in:\n{}", ended.stderr);
    }
}

#[test]
fn a_model_with_two_inputs_gets_both_sensors() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let udp = free_port();
    let setup = Setup::of(&root().join("examples/sources/two-inputs.toml"))
        .with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port))
        .with("127.0.0.1:5010", &format!("127.0.0.1:{udp}"))
        .with("leader = ", "wait_ms = 60000.0\nleader = ")
        .with("version = 1", "version = 1\nnode.id = \"n\"\nmqtt.store.enabled = false");
    let model = root().join("tests/models/motion_and_temperature.tflite");
    std::fs::copy(model, setup.dir.path().join("model.tflite")).unwrap();
    nix::unistd::mkfifo(&setup.dir.path().join("imu"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let rig = Rig { setup, broker, udp };
    let daemon = rig.start(&["--once"]);
    let temp = Sender(UdpSocket::bind("127.0.0.1:0").unwrap(), rig.udp);
    let mut imu = rig.fifo("imu");
    // Half a degree a second, which the model's input can hold exactly.
    for s in 0..=4 {
        temp.send(&format!("{{\"t\": {s}, \"c\": {}}}", f64::from(s) / 2.0));
    }
    let lines: String = (0..200).map(|n| format!("{}.{:03},{n},{}\n", n / 50, n % 50 * 20, -n)).collect();
    imu.write_all(lines.as_bytes()).unwrap();
    drop(imu);
    daemon.wait().expect(0);
    let predictions = Wire::new(subscriber.until(|line| line == "edgewatt/n/status offline")).predictions();
    assert_eq!(predictions.len(), 50);
    for (window, prediction) in predictions.iter().enumerate() {
        let last = 4 * window + 3;
        let motion: Vec<f64> = (4 * window..=last).flat_map(|n| [-(n as f64), n as f64]).collect();
        let wanted = serde_json::json!([motion, [(last / 50) as f64 / 2.0]]);
        assert_eq!(prediction["outputs"], wanted, "{prediction}");
    }
}
