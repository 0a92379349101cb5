//! `edgewatt calibrate` and what the daemon makes of it, on a machine whose counter this test drives.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Daemon, Setup};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::runtime_library;
use edgewatt_support::wire::{Wire, json_file};
use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

const IDLE_W: f64 = 5.0;
/// What each second of processor time of the program in question takes.
const WATTS_PER_CORE: f64 = 8.0;

/// Of a bout, and between two: long enough for the counter that this test drives, however late it writes.
const BOUT_S: f64 = 1.8;
const QUIET_S: f64 = 1.8;

/// A package's counter that counts idle power, and the processor time of one program.
struct Machine {
    pid: Arc<AtomicI32>,
    done: Arc<AtomicBool>,
    begun: Instant,
    /// When, and what processor time there was.
    thread: Option<JoinHandle<Vec<(f64, f64)>>>,
}

impl Machine {
    fn new(setup: &Setup) -> Self {
        let zone = setup.dir.path().join("sys/class/powercap/intel-rapl:0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("name"), "package-0\n").unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), "262143328850\n").unwrap();
        let counter = zone.join("energy_uj");
        // Always as many digits, written over the old ones: a reader never finds half a number.
        let digits = |joules: f64| format!("{:012}\n", (joules * 1e6) as u64);
        std::fs::write(&counter, digits(7.0)).unwrap();
        let counter = std::fs::File::options().write(true).open(counter).unwrap();
        let (pid, done) = (Arc::<AtomicI32>::default(), Arc::<AtomicBool>::default());
        let (of, until) = (pid.clone(), done.clone());
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let (mut cpu_s, mut seen) = (0.0, Vec::new());
            while !until.load(Ordering::Relaxed) {
                let pid = of.load(Ordering::Relaxed);
                let clock =
                    Some(pid).filter(|pid| *pid != 0).and_then(|pid| clock_getcpuclockid(Pid::from_raw(pid)).ok());
                if let Some(time) = clock.and_then(|clock| clock_gettime(clock).ok()) {
                    cpu_s = Duration::from(time).as_secs_f64();
                }
                let now_s = begun.elapsed().as_secs_f64();
                counter.write_all_at(digits(7.0 + IDLE_W * now_s + WATTS_PER_CORE * cpu_s).as_bytes(), 0).unwrap();
                seen.push((now_s, cpu_s));
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { pid, done, begun, thread: Some(thread) }
    }

    fn follows(&self, daemon: &Daemon) {
        self.pid.store(i32::try_from(daemon.pid()).unwrap(), Ordering::Relaxed);
    }

    /// Processor seconds of the five bouts of a program that has just ended, beyond what it uses between them.
    fn cpu_in_bouts(mut self) -> f64 {
        let end_s = self.begun.elapsed().as_secs_f64();
        self.done.store(true, Ordering::Relaxed);
        let seen = self.thread.take().unwrap().join().unwrap();
        let at = |before_end_s: f64| seen[seen.partition_point(|(now_s, _)| *now_s < end_s - before_end_s)];
        // Between the middles of the first quiet stretch and of the last lie seven bouts and as many quiet stretches.
        let [first, last] = [7.0 * (BOUT_S + QUIET_S) + QUIET_S / 2.0, QUIET_S / 2.0].map(at);
        let [from, to] = [0.85 * QUIET_S, 0.25 * QUIET_S].map(at);
        let quiet_cores = (to.1 - from.1) / (to.0 - from.0);
        last.1 - first.1 - quiet_cores * (last.0 - first.0)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// The demo with that counter, read each 5 ms.
fn metered(port: u16, state: &str, power: &str) -> Setup {
    let meter = format!("[power]\nsysfs = \"sys\"\nsample_ms = 5\n{power}\n[power.meters.package]");
    Setup::demo(port)
        .with("[power.meters.guess]", &meter)
        .with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", "rapl = {}")
        .with_keys("[node]", &format!("state_dir = \"{state}\""))
}

fn calibrate(setup: &Setup, args: &[&str]) -> Daemon {
    let (bout_s, quiet_s) = (BOUT_S.to_string(), QUIET_S.to_string());
    let args = [&["--bout-s", &bout_s, "--quiet-s", &quiet_s], args].concat();
    Daemon::start(setup.command("calibrate", &args))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key}: {value}"))
}

/// The first two figures of the daemon that tell gross energy.
fn figures(setup: &Setup, broker: &Mosquitto) -> Vec<Value> {
    let mut subscriber = broker.subscribe("edgewatt/#");
    let daemon = setup.start(&[]);
    let mut told = 0;
    let lines = subscriber.until(|line| {
        told += usize::from(line.contains("/metrics ") && !line.contains("\"gross_j\":null"));
        told == 2
    });
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let metrics = Wire::new(lines).json("/metrics");
    metrics.iter().map(|m| m["energy"][0].clone()).filter(|figure| !figure["gross_j"].is_null()).collect()
}

#[test]
fn net_is_what_the_bouts_took_and_the_daemon_says_where_it_has_it_from() {
    let broker = Mosquitto::running();
    let setup = metered(broker.port, "state", &format!("idle_s = 0.0\nidle_watts = {IDLE_W}"))
        .at_speed("8.0")
        .with("interval_s = 10.0", "interval_s = 1.0");
    let machine = Machine::new(&setup);
    let daemon = calibrate(&setup, &["--json"]);
    machine.follows(&daemon);
    let ended = daemon.wait().expect(0);
    // With the warm-up.
    let total_s = 7.0 * (BOUT_S + QUIET_S) + QUIET_S + 0.2;
    ended.says(&[&format!("calibrating shoulder by package for {total_s:.0} s\n")]);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let (entry, file) = (&told["calibrations"][0], setup.dir.path().join("state/calibrations.json"));
    assert_eq!((&told["refused"], &told["kept_in"]), (&serde_json::json!([]), &serde_json::json!(file)));

    let (net_j, expanded_j) = (number(entry, "net_j"), number(entry, "expanded_j"));
    let truth_j = WATTS_PER_CORE * machine.cpu_in_bouts() / (number(entry, "inferences_per_s") * 7.0 * BOUT_S);
    // Where the bouts began is not known to this test, so it knows the truth no better than to 2 %.
    assert!((net_j - truth_j).abs() < expanded_j + 0.02 * truth_j, "{net_j} +- {expanded_j}, truly {truth_j}: {entry}");
    assert!(expanded_j < 0.5 * net_j, "{entry}");
    let busy_j = WATTS_PER_CORE * number(entry, "busy_ns") / 1e9;
    // It waits for a processor where others have it.
    assert!(net_j < busy_j * 1.05 + expanded_j, "{net_j} +- {expanded_j}, at most {busy_j}");
    assert!((number(entry, "idle_w") - IDLE_W).abs() < 0.5 && number(entry, "gross_w") > IDLE_W + 1.0, "{entry}");
    assert_eq!(
        (&entry["bouts"], &entry["meter"]["kind"], &entry["subject"]["batch"]),
        (&7.into(), &"rapl".into(), &1.into())
    );
    let kept = &json_file(&file)["entries"][0];
    assert_eq!((&kept["net_j"], &kept["subject"]), (&entry["net_j"], &entry["subject"]));

    // At eight inferences a second no counter tells what one takes.
    let _machine = Machine::new(&setup);
    for figure in figures(&setup, &broker) {
        let reason = figure["reason"].as_str().unwrap();
        assert_eq!((&figure["status"], &figure["net_j"]), (&"attributed".into(), &entry["net_j"]), "{figure}");
        assert!(reason.contains("net from the calibration of 2"), "{figure}");
        assert!(reason.contains("UTC: inferences are too short or too rare for this meter"), "{figure}");
        assert_eq!(figure["calibrated_at_ms"], entry["time_ms"]);
        assert!(number(&figure, "net_expanded_j") >= expanded_j, "{figure}");
    }
    for (change, to) in
        [("\"state\"", "\"elsewhere\""), ("[pipelines.shoulder]\n", "[pipelines.shoulder]\nbatch.max = 2\n")]
    {
        let other =
            metered(broker.port, "state", "idle_s = 0.0").at_speed("8.0").with("interval_s = 10.0", "interval_s = 1.0");
        let other = other.with(change, to);
        std::fs::create_dir(other.dir.path().join("state")).unwrap();
        std::fs::copy(&file, other.dir.path().join("state/calibrations.json")).unwrap();
        let _machine = Machine::new(&other);
        for figure in figures(&other, &broker) {
            let reason = figure["reason"].as_str().unwrap_or("");
            assert!(!reason.contains("calibration") && figure.get("calibrated_at_ms").is_none(), "{figure}");
        }
    }
}

#[test]
fn the_steps_around_an_inference_have_their_own_figures_or_say_why_not() {
    let setup = metered(1, "state", "");
    let machine = Machine::new(&setup);
    let daemon = calibrate(&setup, &["--json", "--phases", "--bouts", "5"]);
    machine.follows(&daemon);
    let ended = daemon.wait_at_most(Duration::from_secs(240)).expect(0);
    let total_s = 3.0 * (5.0 * (BOUT_S + QUIET_S) + QUIET_S + 0.2);
    ended.says(&[&format!("calibrating shoulder by package for {total_s:.0} s\n")]);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let phases = &told["calibrations"][0]["phases"];
    for step in ["features", "decision"] {
        let energy = &phases[step];
        let (net_j, expanded_j) = (number(energy, "net_j"), number(energy, "expanded_j"));
        // It waits for a processor where others have it.
        let busy_j = WATTS_PER_CORE * number(energy, "busy_ns") / 1e9;
        assert!(net_j > expanded_j && net_j < busy_j * 1.05 + expanded_j, "{step}: at most {busy_j}: {energy}");
    }
    assert!(phases["publishing"]["net_j"].is_null(), "{phases}");
    assert!(phases["publishing"]["reason"].as_str().unwrap().contains("no connection to the broker"), "{phases}");
    let kept = &json_file(&setup.dir.path().join("state/calibrations.json"))["entries"][0];
    assert_eq!(&kept["phases"], phases);
}

#[test]
fn a_command_over_mqtt_has_the_daemon_calibrate_and_start_anew() {
    let broker = Mosquitto::running();
    let setup = metered(broker.port, "state", "idle_s = 0.0").at_speed("8.0").with_keys("[mqtt]", "commands = true");
    let machine = Machine::new(&setup);
    let mut subscriber = broker.subscribe("edgewatt/#");
    let command = setup.command("run", &[]);
    let program = setup.dir.path().join("edgewatt");
    std::fs::copy(command.get_program(), &program).unwrap();
    let mut copied = Command::new(&program);
    copied.args(command.get_args()).env("EDGEWATT_RUNTIME", runtime_library()).env_remove("EDGEWATT_LOG");
    let daemon = Daemon::start(copied);
    machine.follows(&daemon);
    let boots = |lines: Vec<String>| -> Vec<Value> {
        Wire::new(lines).json("/prediction").iter().map(|prediction| prediction["boot"].clone()).collect()
    };
    let before = boots(subscriber.until(|line| line.contains("/prediction ")));
    // As an upgrade does.
    let newer = setup.dir.path().join("newer");
    std::fs::copy(&program, &newer).unwrap();
    std::fs::rename(newer, &program).unwrap();
    broker.publish("edgewatt/demo/cmd/calibrate", "");
    let mut lines = subscriber.until(|line| line == "edgewatt/demo/status offline");
    let file = setup.dir.path().join("state/calibrations.json");
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(180), "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    lines.extend(subscriber.until(|line| line.contains("\"event\":\"calibrated\"")));
    assert!(
        lines.iter().any(|line| line.contains("\"event\":\"command\"") && line.contains("sources stop")),
        "{lines:?}"
    );
    assert!(lines.last().unwrap().contains("calibrated by package: "), "{lines:?}");
    let entries = json_file(&file)["entries"].clone();
    assert_eq!((entries.as_array().unwrap().len(), &entries[0]["bouts"]), (1, &7.into()), "{entries}");
    let after = boots(subscriber.until(|line| line.contains("/prediction ")));
    assert_ne!(before.first(), after.first(), "it has started anew");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", daemon.pid())).unwrap();
    assert_eq!(name, "edgewatt\n", "pgrep finds it");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["restarting to calibrate"]);
}

#[test]
fn a_command_to_calibrate_is_refused_where_the_daemon_could_not_start_anew() {
    let broker = Mosquitto::running();
    let setup = metered(broker.port, "state", "idle_s = 0.0").at_speed("8.0").with_keys("[mqtt]", "commands = true");
    let _machine = Machine::new(&setup);
    let mut subscriber = broker.subscribe("edgewatt/#");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    setup.with("hop = 50", "hop = 0").config();
    broker.publish("edgewatt/demo/cmd/calibrate", "");
    subscriber.until(|line| line.contains("\"command_refused\"") && line.contains("could not start again"));
    subscriber.until(|line| line.contains("/prediction "));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

/// By a broker that no longer answers the daemon is held at its end.
#[test]
fn a_signal_before_the_start_anew_ends_the_daemon() {
    let broker = Mosquitto::running();
    let setup = metered(broker.port, "state", "idle_s = 0.0")
        .at_speed("8.0")
        .with_keys("[mqtt]", "commands = true\nstop_timeout_s = 10.0");
    let _machine = Machine::new(&setup);
    let mut subscriber = broker.subscribe("edgewatt/#");
    let mut daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    broker.publish("edgewatt/demo/cmd/calibrate", "");
    daemon.in_log("the answer", |log| log.contains("command over MQTT").then_some(()));
    nix::sys::signal::kill(Pid::from_raw(broker.pid()), Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait().expect(0);
    assert!(!ended.stderr.contains("restarting to calibrate"), "{}", ended.stderr);
}

#[test]
fn a_meter_that_sees_nothing_of_the_model_gives_no_figure() {
    let setup = metered(1, "state", "");
    let _machine = Machine::new(&setup);
    let ended = calibrate(&setup, &["--json"]).wait();
    let told: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr));
    if let Some(entry) = told["calibrations"].get(0) {
        // Once in many times nothing looks like something, and then like very little.
        assert!(number(entry, "net_j") < 2.0 * number(entry, "expanded_j"), "{entry}");
        return;
    }
    assert!(ended.status.code() == Some(1) && told["kept_in"].is_null(), "{told}");
    let refused = &told["refused"][0];
    assert_eq!((&refused["pipeline"], &refused["meter"]["name"]), (&"shoulder".into(), &"package".into()));
    assert!(refused["reason"].as_str().unwrap().contains("less than its expanded uncertainty of "), "{refused}");
    assert!(!setup.dir.path().join("state").exists());
}

#[test]
fn what_cannot_be_kept_is_shown_and_is_an_error() {
    let setup = metered(1, "edgewatt.toml/state", "");
    let machine = Machine::new(&setup);
    let daemon = calibrate(&setup, &["--pipeline", "shoulder"]);
    machine.follows(&daemon);
    let ended = daemon.wait().expect(1);
    assert!(ended.stdout.contains("  package      rapl     package "), "{}", ended.stdout);
    ended.says(&["cannot save the calibration of shoulder: ", "edgewatt.toml/state/calibrations.json: "]);
}

#[test]
fn a_signal_ends_it_in_order_before_anything_is_kept() {
    let setup = metered(1, "state", "calibrate_at_start = true");
    let _machine = Machine::new(&setup);
    let stopped = |subcommand: &str, signal: Signal, code: i32, told: &str| {
        let mut daemon = Daemon::start(setup.command(subcommand, &[]));
        let begun = daemon.in_log("its beginning", |log| log.contains(told).then(Instant::now));
        daemon.signal(signal);
        let ended = daemon.wait().expect(code);
        assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
        ended
    };
    let told = "calibrating shoulder by package for 30 s";
    stopped("calibrate", Signal::SIGINT, 1, told).says(&["edgewatt: stopped before it was done"]);
    let told = "calibrating by package for 30 s before any source starts";
    stopped("run", Signal::SIGTERM, 0, told).says(&["stopping"]);
    assert!(!setup.dir.path().join("state").exists());
}

#[test]
fn what_cannot_be_calibrated_is_said_before_anything_runs() {
    let refused = |setup: &Setup, args: &[&str], code: i32, part: &str| {
        Daemon::start(setup.command("calibrate", args)).wait().expect(code).says(&[part]);
    };
    let demo = Setup::demo(1);
    refused(&demo, &[], 1, "no meter of this configuration can calibrate; `edgewatt doctor` lists");
    refused(&demo, &["--pipeline", "knee"], 2, "there is no pipeline knee; the pipelines are shoulder");
    refused(&demo, &["--bouts", "4"], 2, "4 is not in 5..=1000");
    refused(&demo, &["--bout-s", "0"], 2, "must be from 0.1 to 600");
    refused(&demo.with("\"xnnpack\" ", "\"npu\" "), &[], 78, "pipelines.shoulder.delegate");
    assert!(!Path::new("state").exists());
}
