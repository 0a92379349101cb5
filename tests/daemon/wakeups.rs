//! A live stream wakes the threads of its pipeline a few times a window, and not for each of its samples. The kernel
//! counts that; nothing here is timed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use edgewatt_support::daemon::Setup;
use edgewatt_support::rig::recorded_values;
use nix::fcntl::OFlag;

/// Samples from window to window.
const HOP: usize = 100;
const WINDOWS: usize = 40;
/// Before it is counted, the source has learned how regular the stream is.
const FIRST: usize = 10;

/// How often the pipeline's two threads have waited.
fn waits(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let of_pipeline = tasks.filter(|task| {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        name.starts_with("acq-") || name.starts_with("infer-")
    });
    of_pipeline
        .map(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            count.trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn a_stream_without_a_nominal_rate_wakes_for_windows_and_not_for_lines() {
    let demo = edgewatt_support::root().join("models/shoulder_recording.csv");
    let setup = Setup::demo(1)
        .with("\"mqtt://127.0.0.1:1\"", "\"none\"")
        .with("source.replay", "source.lines")
        .with(&format!("path = \"{}\"\n", demo.display()), "from = { fifo = \"samples\" }\n")
        .with("speed = 1.0 ", "# ")
        .with("rate_hz = 50.0\n", "")
        .with("hop = 50", &format!("hop = {HOP}, max_gap_ms = 1000"));
    let path = setup.dir.path().join("samples");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let daemon = setup.start(&[]);
    // A daemon that has ended makes a write fail, and not wait.
    let mut fifo = File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    fifo.write_all(b"time_s,ax,ay,az,wx,wy,wz,exercise\n").unwrap();
    let (begun, mut before) = (Instant::now(), 0);
    for (n, values) in recorded_values().iter().cycle().take(WINDOWS * HOP).enumerate() {
        let due = begun + Duration::from_millis(n as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        writeln!(fifo, "{}.{:03},{values}", n / 1000, n % 1000).unwrap();
        if n == FIRST * HOP {
            before = waits(daemon.pid());
        }
    }
    let wakes = (waits(daemon.pid()) - before) as f64 / (WINDOWS - FIRST) as f64;
    println!("{wakes:.1} wake-ups a window");
    // Three on a machine that has time; on a busy one lines come late, and the thread wakes to find them not there.
    assert!((1.0..HOP as f64 / 4.0).contains(&wakes), "{wakes} wake-ups a window");
}
