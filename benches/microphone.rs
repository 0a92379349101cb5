//! Measures the CPU time that the acquire thread needs for a second of sound: 16,000 samples of one channel, in blocks as
//! the source `alsa` reads them, for a wake word's window of 480 and hop of 160 samples.
//!
//! `cargo bench --bench microphone [-- SECONDS]`; prints per cent of one core. The sound comes from the real libasound, whose
//! `null` and `file` plugins give it as fast as it is taken, so reading, converting, the clock and the hand-over to the
//! pipeline are in it, and waking 50 times a second is not: another thread wakes as often and does nothing, and its time is
//! shown, too. As a test (`cargo test`) it runs for one second and checks no limit.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use edgewatt::stop::{Stop, Waited};
use edgewatt::units::MonoTime;

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::root;
use serde_json::Value;

const RATE_HZ: u64 = 16_000;
/// The default of `period_s`.
const PERIOD: Duration = Duration::from_millis(20);
/// The limit, in per cent of a core.
const LIMIT: f64 = 0.3;

fn setup(port: u16) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgewatt.toml");
    let text = format!(
        "node.id = \"mic\"\nmqtt.broker = \"mqtt://127.0.0.1:{port}\"\nmetrics.interval_s = 0.5\n[pipelines.p]\n\
         source.alsa = {{ card = \"plug:sound\", rate_hz = {RATE_HZ}, buffer = {{ seconds = 60.0, when_full = \"wait\" }} }}\n\
         window = {{ samples = 480, hop = 160 }}\nmodel.path = {:?}\ndecision.raw = {{}}\n",
        root().join("tests/models/open_input.tflite")
    );
    std::fs::write(&path, text).unwrap();
    let setup = Setup::of(&path);
    let sound: Vec<u8> = (0..RATE_HZ * 60).flat_map(|n| ((n % 30_000) as i16).to_le_bytes()).collect();
    let sound = setup.write("sound.raw", &sound);
    let card = format!(
        "</usr/share/alsa/alsa.conf>\npcm.sound {{\n type file\n slave.pcm \"null\"\n file /dev/null\n infile {sound:?}\n \
         format raw\n}}\n"
    );
    setup.write("asound.conf", card.as_bytes());
    setup
}

/// Waits for a thread of the process `pid`, and returns its folder.
fn thread_named(name: &str, pid: u32) -> PathBuf {
    let find = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| task.path());
        let is_named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c.trim_end() == name);
        tasks.filter(is_named).last()
    };
    wait_until(|| format!("the thread {name}"), || find().is_some());
    find().unwrap()
}

/// Returns the thread's time on a processor.
fn spent(task: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Returns the CPU time of a thread that wakes each period for so many seconds, in per cent of a core.
fn waking(seconds: u32) -> f64 {
    let thread = std::thread::spawn(move || {
        let (stop, task) = (Stop::new().unwrap(), std::fs::canonicalize("/proc/thread-self").unwrap());
        let (before, mut next) = (spent(&task), MonoTime::now());
        for _ in 0..seconds * 50 {
            next = next + PERIOD;
            assert_eq!(stop.sleep_until(next).unwrap(), Waited::Ready);
        }
        spent(&task) - before
    });
    thread.join().unwrap().as_secs_f64() / f64::from(seconds) * 100.0
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo passes this flag to a benchmark that runs as one.
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let asked = arguments.iter().find_map(|argument| argument.parse().ok());
    let seconds: u32 = asked.unwrap_or(if is_bench { 10 } else { 1 });

    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/mic/p/p/metrics", 0);
    let setup = setup(broker.port);
    let mut command = setup.command("run", &[]);
    command.env("ALSA_CONFIG_PATH", setup.dir.path().join("asound.conf"));
    let daemon = Daemon::start(command);
    let task = thread_named("acq-p", daemon.pid());
    // What the source has counted, and the thread's time then.
    let mut count = || {
        let mut samples = 0;
        subscriber.until(|line| {
            let payload: Option<Value> = line.split_once(' ').and_then(|(_, text)| serde_json::from_str(text).ok());
            samples = payload.and_then(|metrics| metrics["counts"]["samples"].as_u64()).unwrap_or(0);
            samples > 0
        });
        (samples, spent(&task))
    };
    let before = count();
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let after = count();
    drop(daemon);
    let sound_s = (after.0 - before.0) as f64 / RATE_HZ as f64;
    let reading = (after.1 - before.1).as_secs_f64() / sound_s * 100.0;
    println!("{sound_s:.0} s of sound at {RATE_HZ} Hz: reading it takes {reading:.3} % of a core");
    let waking = waking(seconds);
    println!("waking 50 times a second, and nothing else, takes {waking:.3} %");
    assert!(!is_bench || reading < LIMIT, "more than {LIMIT} %");
}
