//! The files of examples/ as they are, but for ports and paths: the configurations check, the sensor feeds a daemon, and
//! the subscribers print what a real broker carried.

use std::os::unix::process::CommandExt;
use std::process::Command;

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::wire::Wire;
use edgewatt_support::{program, root};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A program of examples/ in a process group of its own, which ends with the test.
struct Program(Daemon);

impl Program {
    fn start(mut command: Command) -> Self {
        command.process_group(0);
        Self(Daemon::start(command))
    }

    /// Waits for a line that the program prints and `find` accepts.
    fn line(&self, what: &str, find: impl Fn(&str) -> bool) -> String {
        let found = || self.0.stdout().lines().find(|line| find(line)).map(str::to_owned);
        wait_until(|| format!("{what} in:\n{}\n{}", self.0.stdout(), self.0.log()), || found().is_some());
        found().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.pid().cast_signed()), Signal::SIGTERM);
    }
}

/// The Python that `make test` gives paho-mqtt, or else the machine's.
fn python() -> Command {
    let venv = program().ancestors().nth(2).unwrap().join("venv/bin/python");
    if venv.exists() { Command::new(venv) } else { Command::new("python3") }
}

/// A configuration of examples/ with absolute paths to the models.
fn setup(path: &str) -> Setup {
    let models = root().join("models");
    let path = root().join("examples").join(path);
    let setup = Setup::of(&path);
    let names_models = std::fs::read_to_string(&path).unwrap().contains("../../models/");
    if names_models { setup.with("../../models/", &format!("{}/", models.display())) } else { setup }
}

#[test]
fn every_configuration_checks() {
    let ok = |setup: Setup| {
        let ended = setup.check().expect(0);
        assert!(ended.stdout.starts_with(&format!("{}: ok\n", setup.config().display())), "{}", ended.stdout);
        assert!(ended.stdout.contains("[1, 200, 1, 6] int8 -> [1, 7] int8\n"), "{}", ended.stdout);
    };
    ok(setup("sensor/edgewatt.toml"));
    let devices = std::fs::read_dir(root().join("examples/devices")).unwrap();
    let devices: Vec<String> = devices.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(devices.len(), 5, "{devices:?}");
    for device in devices {
        // The service's own folder need not be here.
        ok(setup(&format!("devices/{device}")).with("/run/edgewatt/", ""));
    }
}

#[test]
fn the_wake_word_checks() {
    let runtime = root().join("runtime").display().to_string();
    for name in ["recording", "microphone"] {
        let setup = Setup::of(&root().join(format!("examples/wake-word/{name}.toml"))).with("../../runtime", &runtime);
        let speech = std::fs::read(edgewatt_support::sound::golden("speech.wav")).unwrap();
        setup.write("recording.wav", &speech);
        let ended = setup.check().expect(0);
        assert!(ended.stdout.contains("[1, 3, 40] int8 -> [1, 1] uint8"), "{}", ended.stdout);
    }
}

/// The model is fetched as the page shows it, so most machines that run this test do not have it.
#[test]
fn the_spoken_words_check_and_are_found_where_their_model_is() {
    let folder = root().join("examples/spoken-words");
    let model = folder.join("tflite_micro_speech.tflite");
    for name in ["recording", "microphone"] {
        let setup = Setup::of(&folder.join(format!("{name}.toml")));
        std::fs::copy(folder.join("labels.txt"), setup.dir.path().join("labels.txt")).unwrap();
        setup.write("recording.wav", &std::fs::read(edgewatt_support::sound::golden("speech.wav")).unwrap());
        if !model.exists() {
            let ended = setup.check().expect(78);
            ended.says(&["pipelines.words.model.path: cannot read"]);
            assert_eq!(ended.stderr.matches("pipelines.").count(), 1, "{}", ended.stderr);
            continue;
        }
        std::fs::copy(&model, setup.dir.path().join("tflite_micro_speech.tflite")).unwrap();
        let ended = setup.check().expect(0);
        assert!(ended.stdout.contains("[1, 49, 40, 1] int8 -> [1, 4] int8"), "{}", ended.stdout);
        if name == "recording" {
            let play =
                "espeak-ng -v en-us -s 130 --stdout yes | sox -t wav - -r 16000 -b 16 -c 1 recording.wav pad 1 1.5";
            let made = Command::new("sh").args(["-c", play]).current_dir(setup.dir.path()).status().unwrap();
            assert!(made.success());
            let setup = setup.with("mqtt://127.0.0.1", "none");
            let ended = setup.start(&["--once", "--watch"]).wait().expect(0);
            let labels: Vec<&str> = ended.stdout.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
            assert!(labels.contains(&"yes") && !labels.contains(&"no"), "{}", ended.stdout);
        }
    }
}

/// The model that each file of examples/sources/ is checked with, if it is not the one with an open input.
const MODELS: [(&str, &str); 2] =
    [("two-inputs.toml", "motion_and_temperature"), ("edge-impulse-motion.toml", "edge_impulse")];

/// A configuration of examples/sources with a model next to it that takes windows of any length.
pub(crate) fn source(name: &str) -> Setup {
    let folder = root().join("examples/sources");
    let setup = Setup::of(&folder.join(name));
    for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "toml") {
            std::fs::copy(&path, setup.dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let model = MODELS.iter().find(|(of, _)| *of == name).map_or("open_input", |(_, model)| model);
    let model = root().join("tests/models").join(model).with_extension("tflite");
    std::fs::copy(model, setup.dir.path().join("model.tflite")).unwrap();
    let text = std::fs::read_to_string(setup.config()).unwrap();
    for fifo in text.split("fifo = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = setup.dir.path().join(fifo);
        if !path.exists() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
    }
    setup
}

/// Puts a script in place of a program, into the folder `bin` of the configuration.
fn program_in(setup: &Setup, name: &str, script: &str) {
    let bin = setup.dir.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(bin.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// A command whose PATH begins with the folder `bin` of the configuration.
fn with_programs(setup: &Setup, subcommand: &str, args: &[&str]) -> Command {
    let mut command = setup.command(subcommand, args);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", setup.dir.path().join("bin").display()));
    command
}

#[test]
fn every_source_checks() {
    let folder = root().join("examples/sources");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        let setup = source(&name);
        // Not on every machine that runs this test.
        for program in ["arecord", "ffmpeg", "rpicam-vid"] {
            program_in(&setup, program, "exit 1");
        }
        let ended = Daemon::start(with_programs(&setup, "check", &[])).wait().expect(0);
        assert!(ended.stdout.contains(": ok\n"), "{name}: {}", ended.stdout);
        let text = std::fs::read_to_string(setup.config()).unwrap();
        assert!(text.contains("docs/sources.md"), "{name} does not say where it is explained");
        let is_source = |line: &&str| line.starts_with("source.") || line.starts_with('[') && line.contains(".source");
        let source = text.lines().skip_while(|line| !is_source(line)).take_while(|line| !line.is_empty());
        let lines = source.filter(|line| !line.starts_with(['#', '['])).count();
        assert!((1..10).contains(&lines), "{name}: {lines} keys for the source");
    }
}

#[test]
fn the_edge_impulse_example_fits_its_model_and_a_wrong_number_is_shown() {
    let ended = source("edge-impulse-motion.toml").check().expect(0);
    assert!(ended.stdout.contains("[1, 39] int8 -> [1, 3] int8\n"), "{}", ended.stdout);
    let wrong = source("edge-impulse-motion.toml").with("fft_length = 16", "fft_length = 32");
    let ended = wrong.check().expect(78);
    let shown = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("is [1, 39]") && shown.contains("it gets [1, 63]"), "{shown}");
    assert!(shown.contains("window [125, 3] -> features.edge_impulse [63]"), "{shown}");
}

/// The values of the windows that a configuration of examples/sources publishes until there are so many.
fn source_values(setup: Setup, count: usize) -> Vec<f64> {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = setup.with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port));
    let daemon = Daemon::start(with_programs(&setup, "run", &[]));
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    while values.len() < count {
        lines.extend(subscriber.until(|line| line.contains("/prediction ")));
        let predictions = Wire::new(lines.clone()).predictions();
        let outputs = predictions.iter().flat_map(|p| p["outputs"][0].as_array().unwrap());
        values = outputs.map(|value| -value.as_f64().unwrap()).collect();
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    values
}

#[test]
fn the_modbus_example_reads_registers_by_mbpoll() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // Answers each request for two registers: a count, and 40000.
    std::thread::spawn(move || {
        let mut count = 0u16;
        for mut stream in server.incoming().map_while(Result::ok) {
            let mut request = [0; 12];
            while std::io::Read::read_exact(&mut stream, &mut request).is_ok() {
                assert_eq!(
                    request[6..],
                    [1, 3, 0, 0, 0, 2],
                    "slave 1, holding registers, from the first one, two of them"
                );
                count += 1;
                let mut answer = [&request[..4], &[0, 7, 1, 3, 4]].concat();
                answer.extend([count.to_be_bytes(), 40_000u16.to_be_bytes()].concat());
                std::io::Write::write_all(&mut stream, &answer).unwrap();
            }
        }
    });
    let setup = source("exec-modbus.toml")
        .with("plc.lan -p 502", &format!("127.0.0.1 -p {port}"))
        .with("-l 500", "-l 20")
        .with("rate_hz = 2.0", "rate_hz = 50.0");
    let values = source_values(setup, 16);
    let expected: Vec<f64> = (0..8).flat_map(|n| [values[0] + f64::from(n), 40_000.0]).collect();
    assert_eq!(values[..16], expected);
}

#[test]
fn the_can_example_reads_what_candump_writes() {
    let setup = source("exec-can.toml");
    // The kernel of a machine for tests may have no CAN, so this is a log as candump -L writes it.
    let frames = "[ \"$*\" = '-L can0,123:7FF' ] || exit 9\n\
                  echo '(1345212884.318850) can0 123#0A00FF7F'; echo '(1345212884.328850) can0 123#0B00FFFF'\n\
                  echo 'read: Network is down'\n\
                  echo '(1345212884.338850) can0 123#00801122334455'; echo '(1345212884.348850) can0 123#0D000180'\n\
                  exec sleep 1000";
    program_in(&setup, "candump", frames);
    assert_eq!(source_values(setup, 8), [10.0, 32767.0, 11.0, -1.0, -32768.0, 8721.0, 13.0, -32767.0]);
}

/// Runs an example with a real broker, publishes the messages, and returns the values of the first window.
fn first_window(name: &str, topic: &str, messages: &[String]) -> Vec<f64> {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = source(name).with("mqtt://127.0.0.1", &format!("mqtt://127.0.0.1:{}", broker.port));
    let mut daemon = setup.start(&[]);
    daemon.in_log("the subscription", |log| log.contains("subscribed to ").then_some(()));
    messages.iter().for_each(|message| broker.publish(topic, message));
    let wire = Wire::new(subscriber.until(|line| line.contains("/prediction ")));
    let outputs = wire.predictions()[0]["outputs"].as_array().unwrap().clone();
    outputs.iter().flat_map(|output| output.as_array().unwrap()).map(|value| -value.as_f64().unwrap()).collect()
}

#[test]
fn an_esp32_and_a_zigbee_sensor_feed_their_examples() {
    let samples = |n: usize| [n as f64, n as f64 + 0.25, n as f64 + 0.5];
    let message = |[x, y, z]: [f64; 3]| format!("{{\"x\": {x}, \"y\": {y}, \"z\": {z}}}");
    let messages: Vec<String> = (1..=100).map(samples).map(message).collect();
    let window = first_window("esp32-mqtt.toml", "sensors/esp32/accel", &messages);
    assert_eq!(window, (1..=100).flat_map(samples).collect::<Vec<_>>());

    let climate = |n: usize| format!("{{\"battery\":100,\"humidity\":{n}.5,\"linkquality\":9,\"temperature\":{n}.25}}");
    let messages: Vec<String> = (1..=24).map(climate).collect();
    let window = first_window("zigbee2mqtt.toml", "zigbee2mqtt/living room", &messages);
    let expected: Vec<f64> = (1..=24).flat_map(|n| [f64::from(n) + 0.25, f64::from(n) + 0.5]).collect();
    assert_eq!(window, expected);
}

#[test]
fn the_recordings_are_played_to_their_end() {
    for (name, windows, samples) in [("wav.toml", 9, 8000), ("recording.toml", 10, 300)] {
        let setup = source(name).with("mqtt://127.0.0.1", "none");
        let ended = setup.start(&["--once"]).wait().expect(0);
        assert!(ended.stdout.contains(&format!(": {windows} predictions")), "{name}: {}", ended.stdout);
        assert!(ended.stdout.contains(&format!("read {samples} samples, in {windows} windows")), "{}", ended.stdout);
    }
}

#[test]
fn the_sensor_feeds_a_daemon() {
    const SAMPLES: u64 = 700;
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup =
        setup("sensor/edgewatt.toml").with("mqtt://127.0.0.1:1883", &format!("mqtt://127.0.0.1:{}", broker.port));
    let daemon = setup.start(&["--once"]);

    let mut sensor = python();
    sensor.arg(root().join("examples/sensor/sensor.py")).arg(setup.dir.path().join("sensor.sock"));
    sensor.args(["--rate", "1000", "--samples", &SAMPLES.to_string()]);
    let sensor = Program::start(sensor);
    let ended = daemon.wait().expect(0);
    assert_eq!(ended.summary(" samples, "), SAMPLES, "{}\n{}", ended.stdout, sensor.0.log());
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/porch/status offline"));
    assert_eq!(wire.seqs(), Vec::from_iter(0..(SAMPLES - 200) / 50 + 1));
    assert!(wire.predictions().iter().all(|prediction| prediction["label"].is_string()));
}

/// Starts the demo and a subscriber of examples/, and checks that what it prints is what was published.
fn subscriber_prints(start: impl Fn(u16) -> Command, label: fn(&str) -> Option<&str>, has_energy: fn(&str) -> bool) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let printed = Program::start(start(broker.port));
    let setup = Setup::demo(broker.port)
        .at_speed("40.0")
        .with_keys("[pipelines.shoulder.source.replay]", "loop = true")
        .with("interval_s = 10.0", "interval_s = 0.5");
    let daemon = setup.start(&[]);
    let first = printed.line("a label", |line| label(line).is_some());
    printed.line("energy", has_energy);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/demo/status offline"));
    let published: Vec<_> = wire.predictions().iter().map(|p| p["label"].as_str().unwrap().to_owned()).collect();
    let label = label(&first).unwrap();
    assert!(first.starts_with("demo/shoulder") && published.iter().any(|known| known == label), "{first}");
}

#[test]
fn the_shell_subscriber_prints_label_score_and_energy() {
    let start = |port: u16| {
        let mut command = Command::new(root().join("examples/subscriber/subscriber.sh"));
        command.args(["127.0.0.1", &port.to_string()]);
        command
    };
    fn label(line: &str) -> Option<&str> {
        line.split_once(" label=")?.1.split_once(" score=0.").map(|(label, _)| label)
    }
    subscriber_prints(start, label, |line| line.contains(" energy_j=0.") && line.ends_with("(estimated)"));
}

#[test]
fn the_python_subscriber_prints_label_score_and_energy() {
    let imports = python().args(["-c", "import paho.mqtt"]).output().unwrap();
    if !imports.status.success() {
        eprintln!("skipped: paho-mqtt is not installed; `make test` installs it");
        return;
    }
    let start = |port: u16| {
        let mut command = python();
        command.arg(root().join("examples/subscriber/subscriber.py")).args(["127.0.0.1", &port.to_string()]);
        command
    };
    fn label(line: &str) -> Option<&str> {
        line.split_once("demo/shoulder: ")?.1.split_once(" 0.").map(|(label, _)| label)
    }
    subscriber_prints(start, label, |line| line.contains(" mJ (estimated by guess)"));
}
