//! What goes wrong around the daemon, and what it then does: stated behaviour and exit codes, and never a panic, which
//! the daemon's helper looks for in everything that it runs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt, full_disk};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber, free_port};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const OFFLINE: &str = "edgewatt/demo/status offline";
const WINDOWS: u64 = 491;
/// Damaged copies of each model.
const DAMAGED: usize = 150;

/// Long enough to bring a broker and its subscriber back before the daemon tries again: half of it is sure.
const PATIENT: &str = "retry_min_ms = 4000\nretry_max_ms = 4000";

/// Waits for the next attempt to connect to have failed; there are two seconds until another one.
fn wait_for_refusal(daemon: &mut Daemon) {
    let before = daemon.log().matches("retrying in").count();
    daemon.in_log("another attempt to connect", |log| (log.matches("retrying in").count() > before).then_some(()));
}

fn seqs_seen(wires: &[&Wire]) -> BTreeSet<u64> {
    wires.iter().flat_map(|wire| wire.seqs()).collect()
}

#[test]
fn without_a_broker_the_run_goes_on_and_everything_arrives_later_in_order() {
    let mut broker = Mosquitto::absent();
    let setup = Setup::demo(broker.port).at_speed("\"max\"").with_keys("[mqtt]", PATIENT);
    let mut daemon = Daemon::start(setup.command("run", &["-v"]));
    daemon.in_log("the end of the stream", |log| log.contains("the stream has ended").then_some(()));
    wait_for_refusal(&mut daemon);
    broker.start();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let last = format!("\"seq\":{}", WINDOWS - 1);
    let wire = Wire::new(subscriber.until(|line| line.contains("/prediction ") && line.contains(&last)));
    assert_eq!(wire.seqs(), Vec::from_iter(0..WINDOWS));
    assert_eq!(wire.0[0], ("edgewatt/demo/status".into(), "online".into()), "the status comes first");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["Connection refused", "491 messages waiting", "undelivered=0"]);
    subscriber.until(|line| line == OFFLINE);
}

#[test]
fn a_broker_that_is_killed_and_comes_back_costs_no_prediction() {
    let mut broker = Mosquitto::running();
    let mut before = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("100.0").with_keys("[mqtt]", PATIENT);
    let mut daemon = setup.start(&["--once"]);
    let mut first = before.until(|line| line.contains("\"seq\":100,"));
    broker.kill();
    daemon.in_log("the loss of the broker", |log| log.contains("retrying in").then_some(()));
    first.extend(before.rest(Duration::from_millis(200)));
    broker.start();
    let mut after = broker.subscribe("edgewatt/#");
    let ended = daemon.wait().expect(0);
    let (first, second) = (Wire::new(first), Wire::new(after.until(|line| line == OFFLINE)));
    assert_eq!(second.0[0], ("edgewatt/demo/status".into(), "online".into()));
    assert_eq!(seqs_seen(&[&first, &second]), BTreeSet::from_iter(0..WINDOWS));
    assert!(second.seqs().is_sorted());
    assert_eq!(second.json("/event")[0]["event"], "reconnected");
    assert_eq!((ended.summary(" undelivered"), ended.summary(" reconnect")), (0, 1), "{}", ended.stdout);
}

#[test]
fn what_a_full_queue_drops_is_counted_exactly() {
    const QUEUE: u64 = 100;
    let bounded = |port, policy: &str| {
        let keys =
            format!("{PATIENT}\nstop_timeout_s = 0.5\nqueue = {{ messages = {QUEUE}, when_full = \"{policy}\" }}");
        Setup::demo(port)
            .at_speed("\"max\"")
            .with("interval_s = 10.0", "interval_s = 3600.0")
            .with_keys("[mqtt]", &keys)
    };
    // Produced: the predictions, the last metrics of node and pipeline, and the event that tells of the drops.
    let lost = WINDOWS - QUEUE;
    // Of those three there are few, so that predictions make room for them.
    let dropped = format!("prediction.full {}", lost + 3);
    for policy in ["drop_oldest", "drop_newest"] {
        let ended = bounded(free_port(), policy).run_once().expect(1);
        assert_eq!(ended.summary(" predictions in "), WINDOWS);
        assert_eq!(ended.summary(" undelivered"), QUEUE, "{}", ended.stdout);
        // The summary is wrapped.
        let words: Vec<&str> = ended.stdout.split_whitespace().collect();
        assert!(words.join(" ").ends_with(&format!("dropped: {dropped}")), "{policy}, not {dropped}: {}", ended.stdout);
        ended.says(&["has not taken all messages in time undelivered=100"]);
    }

    // The same as a subscriber sees it, once there is a broker.
    let mut broker = Mosquitto::absent();
    let setup = bounded(broker.port, "drop_oldest");
    let mut daemon = Daemon::start(setup.command("run", &["-v"]));
    daemon.in_log("the end of the stream", |log| log.contains("the stream has ended").then_some(()));
    wait_for_refusal(&mut daemon);
    broker.start();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let mut lines = subscriber.until(|line| line.contains("\"seq\":490,"));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    lines.extend(subscriber.until(|line| line == OFFLINE));
    let wire = Wire::new(lines);
    assert_eq!(wire.seqs(), Vec::from_iter(lost..WINDOWS));
    assert_eq!(wire.metrics()["delivery"]["drops"], json!({ "prediction.full": lost }));
    assert_eq!(wire.json("/event")[0]["event"], "drops");
}

#[test]
fn inference_never_waits_for_a_broker_that_stands_still() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let setup = Setup::demo(broker.port).at_speed("20.0");
    let daemon = setup.start(&[]);
    let mut lines = subscriber.until(|line| line.contains("\"seq\":20,"));
    let (pid, stopped, pause) = (Pid::from_raw(broker.pid()), wall_ms(), Duration::from_secs(3));
    kill(pid, Signal::SIGSTOP).unwrap();
    // The length of the stand-still is what is tested.
    std::thread::sleep(pause);
    kill(pid, Signal::SIGCONT).unwrap();
    let resumed = wall_ms();
    lines.extend(subscriber.until(|line| {
        let message = line.split_once("/prediction ").map(|(_, json)| serde_json::from_str::<Value>(json).unwrap());
        message.is_some_and(|p| p["time_ms"].as_u64().unwrap() > resumed)
    }));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["undelivered=0"]);
    lines.extend(subscriber.until(|line| line == OFFLINE));
    let wire = Wire::new(lines);
    let count = wire.metrics()["counts"]["predictions"].as_u64().unwrap();
    assert_eq!(wire.seqs(), Vec::from_iter(0..count), "nothing is lost, repeated or out of order");
    let in_pause =
        wire.predictions().iter().filter(|p| (stopped..resumed).contains(&p["time_ms"].as_u64().unwrap())).count();
    // Twenty windows a second; where exercises change, a few seconds of the recording give none.
    assert!(in_pause > 30, "{in_pause} decisions while the broker stood still");
    assert!(wire.predictions().iter().all(|p| p["latency_us"].as_f64().unwrap() < 1e6), "a decision waited");
}

fn wall_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_model_cut_short_at_any_kilobyte_is_refused() {
    for name in ["shoulder_int8", "shoulder_fp32", "shoulder_pruned_int8"] {
        let model = std::fs::read(root().join(format!("models/{name}.tflite"))).unwrap();
        for length in (0..model.len()).step_by(1024).chain([1, 4, 8, model.len() - 1]) {
            let setup = Setup::demo(1);
            let cut = setup.write("cut.tflite", &model[..length]);
            let path = root().join("models/shoulder_int8.tflite");
            let setup = setup.with(&path.display().to_string(), &cut.display().to_string());
            let ended = setup.check();
            assert_eq!(ended.status.code(), Some(78), "{name} at {length}: {} {}", ended.status, ended.stderr);
            ended.says(&["pipelines.shoulder.model.path: ", "cut.tflite: "]);
        }
    }
}

/// Numbers that look random and are the same in every run (Knuth's MMIX generator, its upper half).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn a_damaged_model_is_taken_or_refused_and_never_ends_the_program() {
    let mut numbers = Numbers(2026);
    let (mut taken, mut refused) = (0, 0);
    for name in ["shoulder_int8", "shoulder_fp32"] {
        let model = std::fs::read(root().join(format!("models/{name}.tflite"))).unwrap();
        for round in 0..DAMAGED {
            let mut damaged = model.clone();
            let places: Vec<usize> = (0..1 + round % 4).map(|_| numbers.below(model.len())).collect();
            for place in &places {
                damaged[*place] ^= 1 << numbers.below(8);
            }
            let setup = Setup::demo(1);
            let file = setup.write("damaged.tflite", &damaged);
            let path = root().join("models/shoulder_int8.tflite");
            let ended = setup.with(&path.display().to_string(), &file.display().to_string()).check();
            match ended.status.code() {
                Some(0) => taken += 1,
                Some(78) => refused += 1,
                _ => panic!("{name} with bits flipped at {places:?}: {}\n{}", ended.status, ended.stderr),
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused: the damage is too harmless or too great");
}

#[test]
fn bad_records_are_counted_by_reason_and_the_stream_goes_on() {
    let text = std::fs::read_to_string(root().join("models/shoulder_recording.csv")).unwrap();
    let mut lines = text.split_inclusive('\n');
    let header = lines.next().unwrap();
    let good: Vec<&str> = lines.take(600).collect();
    let long = format!("1.0,{},0,0,0,0,0,PEN\n", "1".repeat(70_000));
    let bad: [(&str, &[u8]); 16] = [
        ("time_range", b"1717971234567,0,0,0,0,0,0,PEN\n"),
        ("malformed", b"1.0,abc,0,0,0,0,0,PEN\n"),
        ("malformed", b"1.0,0,0,0,0,0,0,PEN,extra\n"),
        ("malformed", b"1.0,\xff\xfe,0,0,0,0,0,PEN\n"),
        ("malformed", b"1.0,0x10,0,0,0,0,0,PEN\n"),
        ("malformed", b"later,0,0,0,0,0,0,PEN\n"),
        ("missing", b"1.0,0,0,0,0,0\n"),
        ("missing", b"1.0,,0,0,0,0,0,PEN\n"),
        ("not_finite", b"1.0,NaN,0,0,0,0,0,PEN\n"),
        ("not_finite", b"1.0,0,inf,0,0,0,0,PEN\n"),
        ("not_finite", b"1.0,0,0,0,0,0,-infinity,PEN\n"),
        ("not_finite", b"1.0,1e39,0,0,0,0,0,PEN\n"),
        ("not_finite", b"NaN,0,0,0,0,0,0,PEN\n"),
        ("out_of_range", b"1.0,16.1,0,0,0,0,0,PEN\n"),
        ("out_of_range", b"1.0,-99,0,0,0,0,0,PEN\n"),
        ("too_long", long.as_bytes()),
    ];
    let mut bytes = header.as_bytes().to_vec();
    for (index, line) in good.iter().enumerate() {
        bytes.extend(line.as_bytes());
        if index % 37 == 36 {
            bytes.extend(bad[index / 37].1);
        }
    }
    assert_eq!(good.len() / 37, bad.len());
    // The last line lacks its newline and counts all the same.
    assert_eq!(bytes.pop(), Some(b'\n'));

    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let setup = Setup::demo(broker.port).at_speed("\"max\"").recording(&bytes);
    let setup = setup.with_keys("[pipelines.shoulder.source.replay.records]", "limits = { ax = [-16.0, 16.0] }");
    let ended = setup.run_once().expect(0);
    let wire = Wire::new(subscriber.until(|line| line == OFFLINE));
    let counts = &wire.metrics()["counts"];
    let expected = json!({
        "malformed": 5, "missing": 2, "not_finite": 5, "out_of_range": 2, "time_range": 1, "equal_time": 0, "too_long": 1,
        "unterminated": 0, "header": 0, "checksum": 0, "duplicate": 0, "partial": 0, "retained": 0, "empty": 0
    });
    assert_eq!(counts["rejects"], expected);
    assert_eq!(counts["samples"], 600);
    assert_eq!(wire.seqs(), Vec::from_iter(0..(600 - 200) / 50 + 1), "the windows of a stream without the bad lines");
    ended.says(&[
        "record rejected: ",
        "recording.csv:39: column `time_s`: `1717971234567` is too large",
        "reason=\"not_finite\"",
    ]);
    assert!(ended.stderr.matches("record rejected").count() <= expected.as_object().unwrap().len(), "{}", ended.stderr);
}

/// A single run that reads these rows from standard input and fails, and what it has published.
fn fails_on(rows: &str) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let demo = root().join("models/shoulder_recording.csv");
    let setup = Setup::demo(broker.port)
        .with("source.replay", "source.lines")
        .with(&format!("path = \"{}\"\n", demo.display()), "from = \"stdin\"\n")
        .with("speed = 1.0 ", "# ");
    let mut command = setup.command("run", &["--once"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let daemon = Daemon::adopt(child);
    stdin.write_all(format!("time_s,ax,ay,az,wx,wy,wz,exercise\n{rows}").as_bytes()).unwrap();
    drop(stdin);
    let ended = daemon.wait().expect(1);
    (ended, Wire::new(subscriber.until(|line| line == OFFLINE)))
}

#[test]
fn a_line_that_the_writer_did_not_finish_is_rejected() {
    let (ended, wire) = fails_on("0.00,1,2,3,4,5,6,PEN\n0.02,1,2,3,4,5,6");
    assert_eq!(ended.summary(" sample, "), 1, "no window was filled");
    assert_eq!(wire.metrics()["counts"]["rejects"]["unterminated"], 1);
}

#[test]
fn a_recording_that_cannot_be_played_is_refused_with_its_path() {
    let ends = |setup: Setup, code: i32, parts: &[&str]| {
        setup.check().expect(78).says(parts);
        setup.run_once().expect(code).says(parts);
    };
    let refused = |setup: Setup, parts: &[&str]| ends(setup, 78, parts);
    let setup = Setup::demo(1);
    let folder = setup.dir.path().to_owned();
    refused(setup.plays(&folder), &["pipelines.shoulder.source: ", &folder.display().to_string()]);
    // Its disk may be mounted late.
    ends(Setup::demo(1).plays(Path::new("/nowhere/r.csv")), 75, &["/nowhere/r.csv: No such file"]);
    refused(Setup::demo(1).recording(b""), &["recording.csv:1: there is no header: the text is empty"]);
    refused(
        Setup::demo(1).recording(b"time_s,ax,ay,az,wx,wy,exercise\n"),
        &["recording.csv:1: the header has no column `wz`; it has time_s, ax, ay, az, wx, wy, exercise"],
    );
    refused(
        Setup::demo(1).recording(&[0xff; 100_000]),
        &["recording.csv:1: the first line is longer than 64 KiB, so it is not a header"],
    );
}

#[test]
fn a_recording_that_fills_no_window_is_refused() {
    let header = "time_s,ax,ay,az,wx,wy,wz,exercise\n";
    let short = format!("{header}0.00,1,2,3,4,5,6,PEN\n");
    for (text, words) in
        [(header, "there is a header and no record below it"), (&short, "it has 1 sample, and a window needs 200")]
    {
        let setup = Setup::demo(1).at_speed("\"max\"").recording(text.as_bytes());
        setup.check().expect(78).says(&["recording.csv: ", words]);
        setup.run_once().expect(78).says(&["recording.csv: ", words]);
    }
}

#[test]
fn a_single_run_without_a_prediction_fails_and_says_why() {
    let (ended, wire) = fails_on(&"04.03.2021 12:00,1,2,3,4,5,6,PEN\n".repeat(300));
    let words = "all 300 records were rejected; standard input:2: column `time_s`: `04.03.2021 12:00` is not a time";
    ended.says(&["the stream has ended without a prediction: ", words]);
    let status = wire.json("/p/shoulder/status").pop().unwrap();
    assert_eq!(status["state"], "ended");
    assert!(status["reason"].as_str().unwrap().contains(words), "{status}");
}

#[test]
fn a_full_disk_for_the_log_stops_nothing() {
    let run = |port, args: &[&str], stdout: Stdio| {
        let setup = Setup::demo(port).at_speed("\"max\"");
        let mut command = setup.command("run", args);
        command.env("EDGEWATT_LOG", "trace").stderr(full_disk()).stdout(stdout);
        Daemon::spawn(command).wait()
    };
    let complete = |subscriber: &mut Subscriber| {
        let wire = Wire::new(subscriber.until(|line| line == OFFLINE));
        assert_eq!(wire.seqs(), Vec::from_iter(0..WINDOWS));
    };
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let ended = run(broker.port, &["--once"], Stdio::piped()).expect(0);
    assert_eq!(ended.summary(" predictions in "), WINDOWS);
    complete(&mut subscriber);

    // A summary that nobody can read is a failure, but only after everything was delivered.
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    run(broker.port, &["--once"], full_disk().into()).expect(1);
    complete(&mut subscriber);

    // A configuration that is refused has no other way to say so than its exit code.
    let setup = Setup::demo(1).with("interval_s = 10.0", "interval_s = 0.0");
    let mut command = setup.command("check", &[]);
    command.stderr(full_disk()).stdout(full_disk());
    Daemon::spawn(command).wait().expect(78);
}

#[test]
fn a_reader_that_went_away_stops_the_daemon_in_order_and_panics_nothing() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let setup = Setup::demo(broker.port).at_speed("100.0");
    let mut command = setup.command("run", &["--watch"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Like `| head -n 1`.
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "demo is online\n");
    let daemon = Daemon::adopt(child);
    // Nobody sees the daemon any more, so it does not stay behind; everything is delivered.
    daemon.wait().expect(0).says(&["nobody reads what --watch writes any more: stopping"]);
    let lines = subscriber.until(|line| line == OFFLINE);
    let wire = Wire::new(lines);
    let count = wire.metrics()["counts"]["predictions"].as_u64().unwrap();
    assert_eq!(wire.seqs(), Vec::from_iter(0..count));

    let model = root().join("models/shoulder_int8.tflite").display().to_string();
    for args in [&["inspect", &model][..], &["inspect", "--json", &model], &["completions", "bash"], &["--help"]] {
        for stdout in [closed_pipe(), full_disk().into()] {
            let mut command = edgewatt(args);
            command.stdout(stdout).stderr(Stdio::piped());
            let ended = Daemon::spawn(command).wait();
            assert!(ended.status.code().is_some(), "{args:?}: {}", ended.status);
        }
    }
}

/// The writing end of a pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_runtime_that_is_missing_or_none_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.so");
    std::fs::write(&text, "no library\n").unwrap();
    let libm = format!("/lib/{}-linux-gnu/libm.so.6", std::env::consts::ARCH);
    let setup = Setup::demo(1);
    let mut unusable =
        vec!["/nowhere/lib.so".to_owned(), text.display().to_string(), folder.path().display().to_string()];
    // A sound library that holds nothing of TensorFlow Lite.
    unusable.extend(Some(libm).filter(|path| Path::new(path).exists()));
    for path in &unusable {
        // A library that is not there may come: a disk is mounted late.
        let run = if Path::new(path).is_file() { 78 } else { 75 };
        for (subcommand, code) in [("check", 78), ("run", run)] {
            let mut command = setup.command(subcommand, &[]);
            command.env("EDGEWATT_RUNTIME", path);
            Daemon::start(command).wait().expect(code).says(&[path, "make runtime"]);
        }
        let setup = Setup::demo(1).with("[metrics]", &format!("[runtime]\nlibrary = \"{path}\"\n[metrics]"));
        setup.check().expect(78).says(&[path, "runtime.library: ", "make runtime"]);
    }
}

#[test]
fn a_stop_without_a_broker_ends_within_its_time() {
    let setup = Setup::demo(free_port()).at_speed("\"max\"").with_keys("[mqtt]", "stop_timeout_s = 0.5");
    let mut daemon = setup.start(&[]);
    daemon.in_log("the end of the stream", |log| log.contains("the stream has ended").then_some(()));
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["undelivered=49"]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_stop_does_not_wait_for_all_that_has_piled_up() {
    let csv = std::fs::read_to_string(root().join("models/shoulder_recording.csv")).unwrap();
    let (header, rows) = csv.split_once('\n').unwrap();
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let records = "[pipelines.shoulder.source.replay.records]";
    let setup = Setup::demo(broker.port)
        .at_speed("\"max\"")
        .recording(format!("{header}\n{}", rows.repeat(12)).as_bytes())
        .with("hop = 50", "hop = 1")
        .with("delegate = \"xnnpack\" ", "delegate = \"cpu\" ")
        .with_keys("[mqtt]", "stop_timeout_s = 1.0")
        .with(records, &format!("[pipelines.shoulder.source.replay.buffer]\nsamples = 400000\n\n{records}"));
    let daemon = setup.start(&[]);
    let mut lines = subscriber.until(|line| line.contains("\"seq\":20000,"));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    lines.extend(subscriber.until(|line| line == OFFLINE));
    let counts = &Wire::new(lines).metrics()["counts"];
    assert!(counts["drops"]["undecided_at_stop"].as_u64().unwrap() > 0, "{counts}");
}
