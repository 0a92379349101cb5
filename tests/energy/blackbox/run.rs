//! One run of the real binary on a simulated machine.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgewatt::units::MonoTime;
use edgewatt_support::daemon::{Daemon, Setup};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::plugin::{simulated_machine, test_delegate};
use edgewatt_support::root;
use edgewatt_support::simulated::activity::{Activity, Kind};
use edgewatt_support::simulated::meter::uniform;
use edgewatt_support::simulated::power::Ledger;
use edgewatt_support::simulated::{DESCRIPTION, Description};
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::classes::Class;

/// Eight observations of idle power are needed, of a second each; then it is not known for long.
const IDLE_S: f64 = 12.0;
/// A seed with which the delegate runs in a thread of the daemon. With the next seed it runs in a separate process.
pub(crate) const IN_A_THREAD: u64 = 1;
const WINDOW_MAX_S: f64 = 5.0;
const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];
/// A calibration takes about 30 s, 56 s with a sensor, and 10 min with a meter that is refreshed once a second.
const CALIBRATION_PATIENCE: Duration = Duration::from_secs(1200);

/// What was published of a machine, and what truly happened.
pub(crate) struct Run {
    /// Each closed figure with the time of its message, in ns of CLOCK_MONOTONIC.
    pub figures: Vec<(Value, u64)>,
    pub truth: Ledger,
    /// When the meter was read.
    pub reads: Vec<u64>,
    pub log: String,
}

/// A machine of a class, ready to be switched on.
struct Rig {
    setup: Setup,
    activity: Arc<Activity>,
    description: Description,
}

impl Rig {
    fn new(class: &Class, port: u16, isolation: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("edgewatt.toml"), config(class, port, isolation)).unwrap();
        let setup = Setup::of(&folder.path().join("edgewatt.toml"));
        let (sysfs, file) = (setup.dir.path().join("sys"), setup.dir.path().join("activity"));
        for (name, content) in class.driver.files() {
            let path = sysfs.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let activity = Arc::new(Activity::create(&file).unwrap());
        let description = Description { activity: file, sysfs, power: class.power.clone(), meter: class.meter.clone() };
        setup.write("machine.json", &serde_json::to_vec(&description).unwrap());
        let paths = [("SYSFS", &description.sysfs), ("ACTIVITY", &description.activity)];
        let setup = paths.iter().fold(setup, |setup, (name, path)| setup.with(name, &path.display().to_string()));
        Self { setup, activity, description }
    }

    fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let mut command = self.setup.command(subcommand, args);
        command.env("LD_PRELOAD", simulated_machine()).env(DESCRIPTION, self.setup.dir.path().join("machine.json"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn truth(&self) -> Ledger {
        Ledger::new(self.description.power.clone(), &self.activity)
    }
}

fn config(class: &Class, port: u16, isolation: &str) -> String {
    let (sample_ms, meter, busy_us) = (class.sample_ms, class.driver.config(), (class.inference_s * 1e6) as u64);
    let model = root().join("tests/models/labelled.tflite");
    let mut text = format!(
        "node.id = \"demo\"\nmqtt = {{ broker = \"mqtt://127.0.0.1:{port}\", store.enabled = false }}\n\
         metrics.interval_s = 1.0\n\n[power]\nsysfs = \"SYSFS\"\nsample_ms = {sample_ms}\ninterval_s = 0\n\
         idle_s = {IDLE_S:?}\nwindow_max_s = {WINDOW_MAX_S:?}\nmeters.m.{meter}\n"
    );
    write!(
        text,
        "\n[delegates.device]\nisolation = \"{isolation}\"\nexternal.library = {:?}\n\
         external.options = {{ activity = \"ACTIVITY\", busy_us = \"{busy_us}\", spread_percent = \"20\" }}\n\
         \n[pipelines.p]\nwindow = {{ samples = 1, hop = 1 }}\nmodel.path = {model:?}\ndelegate = \"device\"\n\
         decision.raw = {{}}\nparity.windows = 0\n\
         source.lines = {{ from = \"stdin\", records = {{ channels = {CHANNELS:?}, columns = {CHANNELS:?} }} }}\n",
        test_delegate()
    )
    .unwrap();
    text
}

/// Runs the daemon with a load of so many seconds. Each seed has its own rhythm.
pub(crate) fn run(class: &Class, seed: u64, load_s: f64) -> Run {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/demo/p/p/metrics");
    let rig = Rig::new(class, broker.port, if seed % 2 == IN_A_THREAD { "thread" } else { "process" });
    let mut child = rig.command("run", &[]).spawn().unwrap();
    let input = child.stdin.take().unwrap();
    let daemon = Daemon::adopt(child);
    let done = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let (class, activity, done) = (class.clone(), Arc::clone(&rig.activity), Arc::clone(&done));
        move || feed(&class, seed, &activity, input, &done)
    });
    let end = Instant::now() + Duration::from_secs_f64(IDLE_S + load_s);
    let mut lines = Vec::new();
    while Instant::now() < end {
        lines.extend(subscriber.rest(Duration::from_millis(100)));
    }
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait();
    done.store(true, Ordering::Relaxed);
    feeder.join().unwrap();
    lines.extend(subscriber.rest(Duration::from_secs(2)));
    let ended = ended.expect(0);
    Run { figures: closed(&Wire::new(lines)), truth: rig.truth(), reads: rig.activity.reads(), log: ended.stderr }
}

/// The program that writes the samples. It works from the start, and writes once idle power has been watched.
fn feed(class: &Class, seed: u64, activity: &Activity, mut input: impl std::io::Write, done: &AtomicBool) {
    let begun = Instant::now();
    let mut next_s = 0.0;
    for index in 0.. {
        next_s += (0.7 + 0.6 * uniform(1_000_003 * seed + index)) / class.rate_hz;
        let late_s = begun.elapsed().as_secs_f64();
        next_s = next_s.max(late_s);
        std::thread::sleep(Duration::from_secs_f64(next_s - late_s));
        if done.load(Ordering::Relaxed) {
            return;
        }
        if class.program_s > 0.0 {
            let work = || std::thread::sleep(Duration::from_secs_f64(class.program_s));
            activity.during(Kind::Program, work);
        }
        if next_s > IDLE_S {
            if activity.loaded().is_none() {
                activity.begin_load();
            }
            // The daemon closes its input when it stops.
            let _ = input.write_all(b"0.1,0.2,0.3,0.4\n");
        }
    }
}

/// The closed figures in the order in which they were sent.
fn closed(wire: &Wire) -> Vec<(Value, u64)> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128;
    let offset_ns = since_1970 - i128::from(MonoTime::now().0);
    let of = |message: Value| {
        let sent = i128::from(message["time_ms"].as_u64().unwrap()) * 1_000_000 - offset_ns;
        let figure = message["energy"][0].clone();
        (figure["closed"] == true).then(|| (figure, u64::try_from(sent).unwrap()))
    };
    wire.json("/metrics").into_iter().filter_map(of).collect()
}

/// What `edgewatt calibrate` or `edgewatt bench` says of an inference.
pub(crate) struct Calibration {
    /// Without it the calibration was refused.
    pub entry: Option<Value>,
    /// The least and the most that an inference has truly caused: its tail belongs to it or not.
    pub truth_j: (f64, f64),
}

pub(crate) fn calibrate(class: &Class) -> Calibration {
    said(class, "calibrate", &["--json"], |told| told["calibrations"].get(0).cloned())
}

pub(crate) fn bench(class: &Class) -> Calibration {
    let args = ["--random", "-d", "device", "--rounds", "7", "--run-s", "1", "--json"];
    said(class, "bench", &args, |told| Some(told["cells"][0]["energy"]["m"].clone()))
}

fn said(class: &Class, subcommand: &str, args: &[&str], entry: impl Fn(&Value) -> Option<Value>) -> Calibration {
    let rig = Rig::new(class, 1, "process");
    let mut command = rig.command(subcommand, args);
    command.stdin(Stdio::null());
    let ended = Daemon::spawn(command).wait_at_most(CALIBRATION_PATIENCE);
    let told: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr));
    let truth = rig.truth();
    let ran = truth.inferences.before(u64::MAX);
    let alone_j = class.power.inference_w * ran.busy_s / ran.count;
    Calibration { entry: entry(&told), truth_j: (alone_j, truth.caused(ran) / ran.count) }
}
