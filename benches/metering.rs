//! Measures the CPU time of the daemon's meter thread when it reads a meter of a fake tree 1,000 times a second.
//!
//! `cargo bench --bench metering [-- SECONDS]`; prints per cent of one core. For comparison, another thread wakes as often at
//! the same time and does nothing: its time is the kernel's cost of waking, which is high on virtual machines. The results
//! are medians over the seconds. As a test (`cargo test`) it runs for one second and checks no limit.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgewatt::stop::{Stop, Waited};
use edgewatt::units::MonoTime;

use edgewatt_support::counters::{Counter, Mover, Tree};
use edgewatt_support::daemon::{Setup, wait_until};

const PERIOD: Duration = Duration::from_millis(1);
/// The limit: per cent of a core that metering may take in addition to waking.
const LIMIT: f64 = 1.0;
const COUNTER: &str = "class/powercap/intel-rapl:0/energy_uj";

/// A processor package as on Intel's laptops, and an INA219 with the kernel's driver.
fn tree() -> Tree {
    let tree = Tree::new(&[
        ("class/hwmon/hwmon0/name", "ina219\n"),
        ("class/hwmon/hwmon0/power1_input", "2500000\n"),
        ("class/hwmon/hwmon0/in1_input", "5000\n"),
        ("class/hwmon/hwmon0/curr1_input", "500\n"),
    ]);
    tree.zone("intel-rapl:0", "package-0", 0);
    tree
}

/// A thread that does nothing but wake each period.
struct Waker {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
    task: PathBuf,
}

impl Waker {
    fn start() -> Self {
        let stop = Arc::new(Stop::new().unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            sender.send(std::fs::canonicalize("/proc/thread-self").unwrap()).unwrap();
            let mut next = MonoTime::now();
            while until.sleep_until(next).unwrap() != Waited::Stopped {
                next = next + PERIOD;
            }
        });
        Self { stop, thread, task: receiver.recv().unwrap() }
    }

    fn end(self) {
        self.stop.request();
        self.thread.join().unwrap();
    }
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

/// Returns the thread's time on a processor, and how often it waited.
fn spent(task: &Path) -> (Duration, u64) {
    let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap();
    let nanos = read("schedstat").split(' ').next().unwrap().parse().unwrap();
    let status = read("status");
    let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    (Duration::from_nanos(nanos), switches.trim().parse().unwrap())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns what metering takes in addition to waking, in per cent of a core.
fn measure(name: &str, meter: &str, seconds: usize) -> f64 {
    let tree = tree();
    let counter = Counter::new(&tree.path(COUNTER), 5.0, 0, None);
    let mover = Mover::start(vec![counter]);
    // There is no broker at this address, which does not affect the meter thread.
    let setup = Setup::demo(1)
        .with(
            "[power.meters.guess]",
            &format!("[power]\nsysfs = \"{}\"\nsample_ms = 1\nidle_s = 0.0", tree.root().display()),
        )
        .with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", &format!("[power.meters]\n{meter}"));
    let daemon = setup.start(&[]);
    let task = thread_named("meter", daemon.pid());
    let waker = Waker::start();
    std::thread::sleep(Duration::from_secs(1));
    let (mut metering, mut waking, mut itself, mut wakes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..seconds {
        let (begun, before) = (Instant::now(), [&task, &waker.task].map(|task| spent(task)));
        std::thread::sleep(Duration::from_secs(1));
        let (took, after) = (begun.elapsed().as_secs_f64(), [&task, &waker.task].map(|task| spent(task)));
        let of = |index: usize| {
            let (spent, woken) = (after[index].0 - before[index].0, after[index].1 - before[index].1);
            (spent.as_secs_f64() / took * 100.0, woken as f64)
        };
        let ((all, woken), (bare, bare_woken)) = (of(0), of(1));
        metering.push(all);
        waking.push(bare * woken / bare_woken);
        itself.push(all - bare * woken / bare_woken);
        wakes.push(woken / took);
    }
    waker.end();
    drop(mover);
    assert!(!daemon.log().contains("no reading"), "{}", daemon.log());
    let [metering, waking, itself, wakes] = [metering, waking, itself, wakes].map(median);
    println!("{name:18} {wakes:7.0} {metering:11.2} % {waking:8.2} % {itself:8.2} %");
    itself
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo passes this flag to a benchmark that runs as one.
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let asked = arguments.iter().find_map(|argument| argument.parse().ok());
    let seconds = asked.unwrap_or(if is_bench { 10 } else { 1 });
    println!("of one core          wakes/s  meter thread  only waking  metering");
    let itself = [
        measure("rapl, one zone", "package.rapl = {}", seconds),
        measure("hwmon, three files", "board.hwmon = { chip = \"ina219\" }", seconds),
    ];
    assert!(
        !is_bench || itself.iter().all(|itself| *itself < LIMIT),
        "metering must take less than {LIMIT} % of a core beyond waking"
    );
}
