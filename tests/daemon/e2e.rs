//! The whole of it: the real binary, real files, a real broker, and what a real `mosquitto_sub` received.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::root;
use edgewatt_support::wire::{Wire, correct, json_file};
use nix::sys::signal::Signal;
use serde_json::Value;

const OFFLINE: &str = "edgewatt/demo/status offline";

fn subscribe(broker: &Mosquitto) -> Subscriber {
    Subscriber::at_qos(broker.port, "edgewatt/#", 1)
}

fn until_offline(subscriber: &mut Subscriber) -> Wire {
    Wire::new(subscriber.until(|line| line == OFFLINE))
}

/// Runs to the end of the recording with a subscriber there from before the start.
fn run_once(setup: impl Fn(u16) -> Setup) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let ended = setup(broker.port).run_once().expect(0);
    (ended, until_offline(&mut subscriber))
}

/// The first lines of the demo's recording.
fn recording(samples: usize) -> String {
    let text = std::fs::read_to_string(root().join("models/shoulder_recording.csv")).unwrap();
    text.split_inclusive('\n').take(1 + samples).collect()
}

/// `seq` from 0 without a gap or a repetition.
#[track_caller]
fn assert_complete(wire: &Wire, count: u64) {
    assert_eq!(wire.seqs(), Vec::from_iter(0..count));
}

#[test]
fn every_model_and_delegate_reaches_the_accuracy_of_the_model_card_over_mqtt() {
    let card = json_file(&root().join("models/metrics.json"));
    for model in ["fp32", "int8", "pruned_int8"] {
        for delegate in ["xnnpack", "cpu"] {
            let (ended, wire) = run_once(|port| {
                Setup::demo(port)
                    .at_speed("\"max\"")
                    .with("shoulder_int8.tflite\"", &format!("shoulder_{model}.tflite\""))
                    .with("delegate = \"xnnpack\" ", &format!("delegate = \"{delegate}\" "))
            });
            let of_model = &card["recording"][model];
            let expected = if delegate == "cpu" { &of_model["builtin_kernels"] } else { of_model };
            let predictions = wire.predictions();
            let what = format!("{model} by {delegate}");
            assert_eq!(correct(&predictions, "raw_label"), expected["correct"], "{what}");
            assert_eq!(correct(&predictions, "label"), expected["smooth3"]["correct"], "{what}, smooth = 3");
            assert_eq!(
                ended.summary_after(" own labels in "),
                expected["smooth3"]["correct"],
                "{what}: {}",
                ended.stdout
            );

            assert_eq!(ended.summary(" predictions in "), card["recording"]["windows"]);
            assert_complete(&wire, ended.summary(" predictions in "));
            let boots: BTreeSet<String> = predictions.iter().map(|p| p["boot"].to_string()).collect();
            assert_eq!(boots.len(), 1, "{boots:?}");
            assert_eq!((ended.summary(" undelivered"), ended.summary(" reconnects")), (0, 0), "{}", ended.stdout);
        }
    }
}

#[test]
fn topics_and_retained_messages_say_what_runs_and_how_it_ended() {
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = Setup::demo(broker.port).at_speed("20.0").with("interval_s = 10.0", "interval_s = 0.5");
    let daemon = setup.start(&[]);
    let mut seen = 0;
    let mut lines = subscriber.until(|line| {
        seen += usize::from(line.contains("/metrics "));
        seen == 3
    });
    let running = Wire::new(broker.subscribe("edgewatt/demo/#").retained());
    assert_eq!(running.texts("demo/status"), ["online"]);
    assert_eq!(running.json("shoulder/status")[0]["state"], "running");

    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    lines.extend(subscriber.until(|line| line == OFFLINE));
    let wire = Wire::new(lines);
    check_metrics(&wire.json("/metrics"));

    let retained = Wire::new(broker.subscribe("edgewatt/demo/#").retained());
    let topics: Vec<&str> = retained.0.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected = ["info", "p/shoulder/state", "p/shoulder/status", "power/guess", "status"];
    assert_eq!(topics, expected.map(|t| format!("edgewatt/demo/{t}")));
    assert_eq!(retained.texts("demo/status"), ["offline"]);
    assert_eq!(retained.json("shoulder/status")[0]["state"], "stopped");
    check_info(&retained.json("/info")[0]);

    // The state is a prediction, word for word; while the label stays the same it may be a second old.
    let predictions = wire.predictions();
    let (state, last) = (&retained.json("/state")[0], predictions.last().unwrap());
    assert!(predictions.contains(state), "{state}");
    assert_eq!(state["label"], last["label"]);
    assert!(last["time_ms"].as_u64().unwrap() - state["time_ms"].as_u64().unwrap() <= 1100, "{state} {last}");
}

fn check_info(info: &Value) {
    let sha256: String = info["pipelines"]["shoulder"]["model_sha256"].as_str().unwrap().into();
    let card = json_file(&root().join("models/metrics.json"));
    assert_eq!(sha256, card["recording"]["int8"]["sha256"]);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["node"], "demo");
    let hash = info["config_sha256"].as_str().unwrap();
    assert!(hash.len() >= 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
    assert!(info["runtime"].as_str().unwrap().contains("libtensorflowlite_c.so"), "{info}");
    let pipeline = &info["pipelines"]["shoulder"];
    assert_eq!(pipeline["delegate"]["requested"], "xnnpack");
    assert_eq!(pipeline["delegate"]["active"], "xnnpack");
    assert_eq!(pipeline["inputs"][0]["element"], "int8");
    assert_eq!(pipeline["inputs"][0]["shape"], serde_json::json!([1, 200, 1, 6]));
    assert_eq!(info["meters"][0]["kind"], "estimate");
}

fn check_metrics(all: &[Value]) {
    let of_run = &all[..all.len() - 1];
    for metrics in of_run.iter().filter(|m| m["predictions_per_s"].as_f64().unwrap() > 0.0) {
        for stage in ["source", "features", "invoke", "publish", "end_to_end"] {
            let [p50, p90, p99, max] =
                ["p50", "p90", "p99", "max"].map(|p| metrics["latency_us"][stage][p].as_f64().unwrap());
            assert!(0.0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= max, "{stage}: {metrics}");
        }
        let (end_to_end, invoke) = (&metrics["latency_us"]["end_to_end"], &metrics["latency_us"]["invoke"]);
        assert!(end_to_end["max"].as_f64() > invoke["p50"].as_f64(), "{metrics}");
    }
    let (last, counts) = (all.last().unwrap(), &all.last().unwrap()["counts"]);
    assert_eq!(counts["predictions"], counts["windows"]);
    for kind in ["rejects", "drops"] {
        assert!(counts[kind].as_object().unwrap().values().all(|n| n == 0), "{counts}");
    }
    assert!(last["process"]["cpu_s"].as_f64().unwrap() > 0.0 && last["process"]["rss_mib"].as_f64().unwrap() > 1.0);
    let estimated: Vec<&Value> = all.iter().filter(|m| m["energy"][0]["status"] == "estimated").collect();
    assert!(!estimated.is_empty(), "{all:?}");
    for metrics in estimated {
        let figure = &metrics["energy"][0];
        assert_eq!((&figure["meter"], &figure["kind"]), (&"guess".into(), &"estimate".into()));
        assert_eq!(figure["scope"], "process");
        let gross_j = figure["energy_j"].as_f64().unwrap() / figure["inferences"].as_f64().unwrap();
        assert!((figure["gross_j"].as_f64().unwrap() / gross_j - 1.0).abs() < 1e-9, "{figure}");
        // 2.5 W while idle and 2 W for each of the cores at most.
        let mean_w = figure["mean_w"].as_f64().unwrap();
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!((2.49..2.51 + 2.0 * cores).contains(&mean_w), "{figure}");
    }
}

#[test]
fn without_a_meter_energy_is_unavailable_and_says_what_to_do() {
    let (_, wire) = run_once(|port| {
        Setup::demo(port)
            .at_speed("\"max\"")
            .with("[power.meters.guess]", "")
            .with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", "")
    });
    let metrics = wire.metrics();
    let figure = &metrics["energy"][0];
    assert_eq!(figure["status"], "unavailable");
    assert_eq!((&figure["gross_j"], &figure["energy_j"]), (&Value::Null, &Value::Null));
    assert!(figure["reason"].as_str().unwrap().contains("[power.meters.NAME]"), "{figure}");
}

#[test]
fn a_signal_ends_it_in_order_with_everything_delivered() {
    let start = |signal| {
        let broker = Mosquitto::running();
        let subscriber = subscribe(&broker);
        let setup = Setup::demo(broker.port);
        let daemon = setup.start(&[]);
        (signal, (broker, setup), subscriber, daemon)
    };
    // Both wait for the recording's own pace: the first window takes 4 s.
    for (signal, _kept, mut subscriber, daemon) in [Signal::SIGTERM, Signal::SIGINT].map(start) {
        let mut lines = subscriber.until(|line| line.contains("/prediction "));
        let begun = Instant::now();
        daemon.signal(signal);
        let ended = daemon.wait().expect(0);
        assert!(begun.elapsed() < Duration::from_secs(5), "{signal}: {:?}", begun.elapsed());
        ended.says(&["stopping", "stopped undelivered=0"]);
        lines.extend(subscriber.until(|line| line == OFFLINE));
        let wire = Wire::new(lines);
        assert_complete(&wire, wire.metrics()["counts"]["predictions"].as_u64().unwrap());
        assert!(!wire.seqs().is_empty());
    }
}

#[test]
fn a_killed_daemon_is_declared_offline_by_its_last_will() {
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = Setup::demo(broker.port).at_speed("20.0");
    let daemon = setup.start(&[]);
    let before = subscriber.until(|line| line.contains("/prediction "));
    assert!(!before.contains(&OFFLINE.to_owned()));
    daemon.signal(Signal::SIGKILL);
    until_offline(&mut subscriber);
    assert_eq!(daemon.wait().status.code(), None);
    assert_eq!(broker.subscribe("edgewatt/demo/status").retained(), [OFFLINE]);
}

/// Also ends the thread of a test that fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// In 64ths, so that every sum is exact.
fn recorded_watts(row: u32) -> f64 {
    f64::from(160 + (row * 37) % 128) / 64.0
}

#[test]
fn a_recorded_power_trace_is_accounted_for_to_the_last_digit() {
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = Setup::demo(broker.port)
        .at_speed("20.0")
        .with("interval_s = 10.0", "interval_s = 0.5")
        .with("[power.meters.guess]", "[power]\nsample_ms = 10\ninterval_s = 0.2\n[power.meters.trace]")
        .with(
            "estimate = { watts_per_core = 2.0, idle_watts = 2.5 }",
            "replay = { path = \"power.csv\", time = \"t\", time_unit = \"ms\", watts = \"p\" }",
        );
    // Every row a sixteenth of a second.
    let rows: String = (0..32).map(|row| format!("{},{}\n", 62.5 * f64::from(row), recorded_watts(row))).collect();
    setup.write("power.csv", format!("t,p\n{rows}").as_bytes());
    let total_j: f64 = (1..32).map(|row| (recorded_watts(row - 1) + recorded_watts(row)) / 32.0).sum();
    let daemon = setup.start(&[]);
    let all_played = |line: &str| line.contains("/power/trace ") && line.contains(&format!("\"energy_j\":{total_j},"));
    let lines = subscriber.until(all_played);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let wire = Wire::new(lines);
    let power = wire.json("/power/trace");
    assert!(power.len() >= 5, "{power:?}");
    let joules: Vec<f64> = power.iter().map(|message| message["energy_j"].as_f64().unwrap()).collect();
    assert!(joules.is_sorted(), "{joules:?}");
    for message in &power {
        assert_eq!((&message["kind"], &message["scope"]), (&"replay".into(), &"board".into()));
        assert_eq!((&message["reason"], &message["voltage_v"]), (&Value::Null, &Value::Null));
        assert!((2.5..4.5).contains(&message["power_w"].as_f64().unwrap()), "{message}");
    }
    // A window of the join ends at rows.
    let metrics = wire.json("/metrics");
    let windows: Vec<f64> = metrics.iter().filter_map(|m| m["energy"][0]["window_s"].as_f64()).collect();
    assert!(windows.len() >= 2 && windows.iter().all(|window_s| (window_s * 16.0).fract() == 0.0), "{windows:?}");
}

#[test]
fn energy_is_what_the_counters_of_the_machine_say() {
    const WATTS: f64 = 5.0;
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = Setup::demo(broker.port)
        .at_speed("40.0")
        .with("interval_s = 10.0", "interval_s = 0.8")
        .with(
            "[power.meters.guess]",
            "[power]\nsysfs = \"sys\"\nsample_ms = 20\nidle_s = 0.0\n[power.meters.package]\nrapl = {}\n[power.meters.rail]",
        )
        .with(
            "estimate = { watts_per_core = 2.0, idle_watts = 2.5 }",
            "hwmon = { chip = \"ina219\", scope = \"device\" }",
        );
    let tree = setup.dir.path().join("sys/class");
    let write = |file: &str, text: &str| {
        let path = tree.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("hwmon/hwmon0/name", "ina219\n");
    write("hwmon/hwmon0/power1_input", "2500000\n");
    write("powercap/intel-rapl:0/name", "package-0\n");
    write("powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
    // Always as many digits, written over the old ones: a reader never finds half a number.
    let digits = |uj: u64| format!("{uj:012}\n");
    write("powercap/intel-rapl:0/energy_uj", &digits(7_000_000));
    let counter = std::fs::File::options().write(true).open(tree.join("powercap/intel-rapl:0/energy_uj")).unwrap();

    let done = AtomicBool::new(false);
    let (lines, latest) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let (begun, mut last, mut latest) = (Instant::now(), Duration::ZERO, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let now = begun.elapsed();
                let uj = 7_000_000 + (WATTS * now.as_secs_f64() * 1e6) as u64;
                counter.write_all_at(digits(uj).as_bytes(), 0).unwrap();
                latest = latest.max(begun.elapsed() - last);
                last = now;
                std::thread::sleep(Duration::from_millis(1));
            }
            latest
        });
        let counted = SetAtEnd(&done);
        let daemon = setup.start(&[]);
        let mut measured = 0;
        let lines = subscriber.until(|line| {
            // Other programs on this machine, and inferences too short for the sensor, make figures `attributed`.
            let known = line.matches("\"measured\"").count() + line.matches("\"attributed\"").count();
            measured += usize::from(line.contains("/metrics ") && known == 2);
            measured == 3
        });
        daemon.signal(Signal::SIGTERM);
        daemon.wait().expect(0);
        drop(counted);
        (lines, counting.join().unwrap())
    });

    let all = Wire::new(lines).json("/metrics");
    let figures = |index: usize| {
        let of_meter = all.iter().map(move |m| &m["energy"][index]);
        of_meter.filter(|f| f["status"] != "unavailable").collect::<Vec<_>>()
    };
    let value = |figure: &Value, key: &str| figure[key].as_f64().unwrap_or_else(|| panic!("{key}: {figure}"));
    assert!(figures(0).len() >= 3 && figures(1).len() >= 3, "{all:?}");
    for (figure, name, scope) in figures(0)
        .into_iter()
        .map(|f| (f, "package", "package"))
        .chain(figures(1).into_iter().map(|f| (f, "rail", "device")))
    {
        assert_eq!((&figure["meter"], &figure["scope"]), (&name.into(), &scope.into()));
        assert!(value(figure, "gross_expanded_j") > 0.0, "{figure}");
        assert!(figure["status"] == "measured" || figure["reason"].is_string(), "{figure}");
        let gross_j = value(figure, "energy_j") / value(figure, "inferences");
        assert!((value(figure, "gross_j") / gross_j - 1.0).abs() < 1e-9, "{figure}");
        let busy = value(figure, "busy_fraction");
        assert!(busy > 0.0 && busy < 1.0, "{figure}");
    }
    for figure in figures(0) {
        // At either edge the counter is at most one pause of the counting thread behind.
        let (joules, expected) = (value(figure, "energy_j"), WATTS * value(figure, "window_s"));
        let tolerance = WATTS * (latest.as_secs_f64() + 0.002);
        assert!((joules - expected).abs() < tolerance, "{joules} J, not {expected} +- {tolerance}: {figure}");
    }
    for figure in figures(1) {
        let (joules, expected) = (value(figure, "energy_j"), 2.5 * value(figure, "window_s"));
        assert!((joules / expected - 1.0).abs() < 1e-6, "{joules} J, not {expected}: {figure}");
        assert!((value(figure, "mean_w") - 2.5).abs() < 1e-6, "{figure}");
    }
    // Forty times real time and a hop of a second: forty inferences a second.
    let inferences: f64 = figures(1).iter().map(|f| value(f, "inferences")).sum();
    let seconds: f64 = figures(1).iter().map(|f| value(f, "window_s")).sum();
    assert!((20.0..60.0).contains(&(inferences / seconds)), "{inferences} in {seconds} s");
}

const SAMPLES: usize = 6000;

/// What must be the same whichever way the samples came.
fn essence(wire: &Wire) -> Vec<String> {
    let keys = ["seq", "label", "raw_label", "score", "truth", "stream_s"];
    wire.predictions().iter().map(|p| keys.map(|key| p[key].to_string()).join(" ")).collect()
}

fn ndjson(csv: &str) -> String {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let object = |line: &str| {
        let quoted = |name: &str, value: &str| match name {
            "exercise" => format!("\"{name}\":\"{value}\""),
            _ => format!("\"{name}\":{value}"),
        };
        let fields: Vec<String> = names.iter().zip(line.split(',')).map(|(name, value)| quoted(name, value)).collect();
        format!("{{{}}}\n", fields.join(","))
    };
    lines.map(object).collect()
}

/// The demo with its recording's lines from elsewhere.
fn lines_setup(port: u16, from: &str, format: &str) -> Setup {
    let path = root().join("models/shoulder_recording.csv");
    Setup::demo(port)
        .with("source.replay", "source.lines")
        .with(&format!("path = \"{}\"\n", path.display()), &format!("from = {from}\n"))
        .with("speed = 1.0 ", "# ")
        .with_keys("[pipelines.shoulder.source.lines.records]", &format!("format = \"{format}\""))
}

#[test]
fn lines_from_anywhere_give_the_predictions_of_the_replay() {
    let csv = recording(SAMPLES);
    let (_, replayed) = run_once(|port| Setup::demo(port).at_speed("\"max\"").recording(csv.as_bytes()));
    let expected = essence(&replayed);
    assert!(expected.len() > 80, "{}", expected.len());
    for (format, text) in [("csv", csv.clone()), ("ndjson", ndjson(&csv))] {
        for from in ["\"stdin\"", "{ fifo = \"in\" }", "{ socket = \"in\" }"] {
            let broker = Mosquitto::running();
            let mut subscriber = subscribe(&broker);
            let setup = lines_setup(broker.port, from, format);
            let path = setup.dir.path().join("in");
            if from.contains("fifo") {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            let mut command = setup.command("run", &["--once"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let stdin = child.stdin.take().unwrap();
            let daemon = Daemon::adopt(child);
            if from.contains("stdin") {
                feed(stdin, text.clone());
            } else if from.contains("socket") {
                wait_until(
                    || format!("{path:?}: {}", daemon.log()),
                    || {
                        UnixStream::connect(&path).is_ok_and(|s| {
                            feed(s, text.clone());
                            true
                        })
                    },
                );
            } else {
                let (path, text) = (path.clone(), text.clone());
                std::thread::spawn(move || feed(std::fs::File::options().write(true).open(path).unwrap(), text));
            }
            let ended = daemon.wait().expect(0);
            assert_eq!(ended.summary(" samples, "), SAMPLES as u64, "{from} {format}");
            assert_eq!(essence(&until_offline(&mut subscriber)), expected, "{from} {format}");
            assert!(!from.contains("socket") || !path.exists(), "the socket file is left behind");
        }
    }
}

/// The file of a socket is there a moment before somebody listens.
fn connect(path: &Path) -> UnixStream {
    let mut stream = None;
    wait_until(
        || format!("a listener at {path:?}"),
        || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        },
    );
    stream.unwrap()
}

#[test]
fn neither_a_bad_writer_nor_a_second_daemon_spoils_the_socket() {
    let csv = recording(SAMPLES);
    let (_, replayed) = run_once(|port| Setup::demo(port).at_speed("\"max\"").recording(csv.as_bytes()));
    let expected = essence(&replayed);

    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = lines_setup(broker.port, "{ socket = \"in\" }", "csv");
    let path = setup.dir.path().join("in");
    let mut daemon = setup.start(&[]);
    wait_until(|| format!("{path:?}"), || path.exists());
    let write = |text: &str| connect(&path).write_all(text.as_bytes()).unwrap();
    write("hello\n");
    daemon.in_log("the refusal of the writer", |log| log.contains("a writer is refused").then_some(()));
    setup.start(&["--once"]).wait().expect(1).says(&["another edgewatt listens on it"]);
    write(&csv);
    let last = format!("\"seq\":{},", expected.len() - 1);
    let mut lines = subscriber.until(|line| line.contains("/prediction ") && line.contains(&last));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    lines.extend(subscriber.until(|line| line == OFFLINE));
    let wire = Wire::new(lines);
    assert_eq!(essence(&wire), expected);
    assert_eq!(wire.metrics()["counts"]["rejects"]["header"], 1);
}

/// Writes from a thread of its own: the daemon may take it slowly.
fn feed(mut to: impl Write + Send + 'static, text: String) {
    std::thread::spawn(move || {
        // A daemon that ended early shows in its exit code.
        let _ = to.write_all(text.as_bytes());
    });
}

/// One that says nothing comes first, and its connection stays.
#[test]
fn writers_that_give_nothing_do_not_hold_up_a_good_one() {
    let csv = recording(SAMPLES);
    let broker = Mosquitto::running();
    let mut subscriber = subscribe(&broker);
    let setup = lines_setup(broker.port, "{ socket = \"in\" }", "csv");
    let path = setup.dir.path().join("in");
    let daemon = setup.start(&[]);
    let open = |text: &str| {
        let mut stream = connect(&path);
        // It may have been refused by then.
        let _ = stream.write_all(text.as_bytes());
        stream
    };
    let (header, _) = csv.split_at(csv.find('\n').unwrap() + 1);
    // Silent, half a line, a header alone; then many with garbage.
    let stay: Vec<UnixStream> = ["", "time_s,a", header].into_iter().map(open).collect();
    let garbage: Vec<UnixStream> = (0..80).map(|_| open("\u{0}garbage\n")).collect();
    let good = open(&csv);
    subscriber.until(|line| line.contains("/prediction "));
    drop((stay, garbage, good));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["makes way for one that waits"]);
}

#[cfg(feature = "embedded-broker")]
mod embedded {
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// The demo with the broker inside.
    fn with_embedded_broker(recording: &str) -> Setup {
        Setup::demo(1).with("\"mqtt://127.0.0.1:1\"", "\"embedded\"").recording(recording.as_bytes())
    }

    #[test]
    fn the_embedded_broker_says_its_port_and_serves_a_real_subscriber() {
        // Another test's broker may have it now and give it back at any time; then there is nothing to tell.
        let taken = TcpListener::bind(("127.0.0.1", 1883));
        let setup = with_embedded_broker(&recording(20_000)).at_speed("20.0");
        let mut daemon = setup.start(&[]);
        let port: u16 = daemon.in_log("the broker's port", |log| {
            let (_, behind) = log.split_once("embedded MQTT broker listens on 127.0.0.1:")?;
            behind.split_once('\n')?.0.trim().parse().ok()
        });
        assert!((1883..1983).contains(&port) && (taken.is_err() || port != 1883), "{port}");
        let file = setup.dir.path().join("state/embedded-broker-password");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let password = std::fs::read_to_string(&file).unwrap();
        // Another user of the machine, who has no password or not the right one, can neither command nor listen.
        let publishes = |login: &[&str]| {
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "edgewatt/demo/cmd/pause", "-m", ""]);
            command.args(login).stderr(Stdio::null()).status().unwrap().success()
        };
        assert!(!publishes(&["-i", "edgewatt-demo"]) && !publishes(&["-u", "edgewatt", "-P", "wrong"]));
        assert!(!publishes(&["-u", "root", "-P", &password]));
        let login = ["-u", "edgewatt", "-P", &password];
        let mut subscriber = Subscriber::logged_in(port, "edgewatt/demo/#", 0, &login, "ready", &[]);
        let mut count = 0;
        let wire = Wire::new(subscriber.until(|line| {
            count += usize::from(line.contains("/prediction "));
            count == 20
        }));
        let seqs = wire.seqs();
        assert_eq!(seqs, Vec::from_iter(seqs[0]..seqs[0] + 20));
        daemon.signal(Signal::SIGINT);
        daemon.wait().expect(0).says(&["stopped undelivered=0"]);
    }
}

#[test]
fn without_a_broker_watch_shows_predictions_beside_the_truth() {
    let broker = "\"mqtt://127.0.0.1:1\"";
    let setup = Setup::demo(1).with(broker, "\"none\"").recording(recording(2000).as_bytes()).at_speed("20.0");
    let ended = setup.start(&["--once", "--watch"]).wait().expect(0);
    let shown: Vec<&str> = ended.stdout.lines().filter(|line| line.contains(" #")).collect();
    let count = ended.summary(" predictions in ");
    assert_eq!(shown.len() as u64, count, "{}", ended.stdout);
    assert!(count > 20, "{}", ended.stdout);
    for (seq, line) in shown.iter().enumerate() {
        assert!(line.contains(&format!(" #{seq} shoulder ")) && line.ends_with("s"), "#{seq}: {}", ended.stdout);
        assert!(line.contains(" = ") || line.contains(" ! "), "{line}");
    }
    assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
    let parts = ["demo is online", "Estimated, not measured: ", "By meter guess", "demo is offline", "delivery: none"];
    for part in parts {
        assert!(ended.stdout.contains(part), "`{part}` is missing in:\n{}", ended.stdout);
    }
}

#[test]
fn programs_get_a_summary_or_each_mistake_with_its_place_as_json() {
    let setup = || Setup::demo(1).with("\"mqtt://127.0.0.1:1\"", "\"none\"").recording(recording(2000).as_bytes());
    let ended = setup().at_speed("\"max\"").start(&["--once", "--json"]).wait().expect(0);
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&summary["v"], &summary["outcome"], &summary["delivery"]),
        (&1.into(), &"complete".into(), &Value::Null)
    );
    let pipeline = &summary["pipelines"][0];
    assert_eq!((&pipeline["name"], &pipeline["counts"]["samples"]), (&"shoulder".into(), &2000.into()));
    assert!(pipeline["known"].as_u64() > Some(20) && pipeline["invoke_us"]["p99"].is_f64(), "{pipeline}");
    assert!(!ended.stderr.contains("\nINFO: "), "what the runtime says is in the log: {}", ended.stderr);

    let checked: Value =
        serde_json::from_str(&Daemon::start(setup().command("check", &["--json"])).wait().expect(0).stdout).unwrap();
    assert_eq!((&checked["ok"], &checked["node"]), (&true.into(), &"demo".into()));
    assert_eq!(checked["pipelines"][0]["delegate"]["active"], "xnnpack");
    let wrong = setup().with("smooth = 3", "smooth = 0").with("hop = 50", "hop = 0");
    for (subcommand, args) in [("check", &["--json"][..]), ("run", &["--once", "--json"])] {
        let refused = Daemon::start(wrong.command(subcommand, args)).wait().expect(78);
        let refused: Value = serde_json::from_str(&refused.stdout).unwrap();
        assert_eq!(refused["ok"], false);
        let problems = refused["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 2, "{refused}");
        assert!(problems.iter().all(|problem| problem["file"].as_str().unwrap().ends_with("/edgewatt.toml")));
        assert_eq!(problems[0]["key"], "pipelines.shoulder.decision.classify.smooth");
        assert!(problems[0]["line"].is_u64() && problems[0]["column"].is_u64() && problems[0]["message"].is_string());
    }
}

#[test]
fn watch_writes_messages_as_json_or_as_lines_with_time_and_node() {
    let broker = Mosquitto::running();
    broker.publish_retained("edgewatt/porch/status", "online");
    broker.publish_retained("edgewatt/porch/p/arm/status", r#"{"v":1,"time_ms":1000,"state":"running","reason":null}"#);
    let address = format!("mqtt://127.0.0.1:{}", broker.port);
    let first_lines = |option: &str| {
        let mut child = edgewatt(&["watch", "--broker", &address, option]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines: Vec<String> = Vec::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.len() < 2 {
            lines.push(reader.next().unwrap().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.sort();
        lines
    };
    let mut messages: Vec<Value> =
        first_lines("--json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    messages.sort_by_key(|message| message["topic"].as_str().unwrap().len());
    assert_eq!((&messages[0]["v"], &messages[0]["payload"]), (&1.into(), &"online".into()));
    assert_eq!(messages[1]["topic"], "edgewatt/porch/p/arm/status");
    assert_eq!(messages[1]["payload"]["state"], "running");
    let lines = first_lines("--lines");
    assert!(lines.iter().any(|line| line == "00:00:01 porch/arm is running"), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with(" porch is online")), "{lines:?}");
}
