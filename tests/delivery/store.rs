//! What the real binary keeps on disk: through crashes, stops, full disks and folders that vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::dice::Dice;
use edgewatt_support::mosquitto::{Mosquitto, free_port};
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Windows of the demo's recording.
const WINDOWS: u64 = 491;
const COMMIT_MS: u64 = 250;
const RUNNING: &str = "by xnnpack in a thread";

/// The demo with a store in that folder.
fn setup(port: u16, state: &Path, keys: &str) -> Setup {
    let path = state.join("outbox.db");
    let store = format!("store = {{ path = \"{}\", commit_ms = {COMMIT_MS}{keys} }} ", path.display());
    Setup::demo(port).with("store = { enabled = false } ", &store)
}

fn wall_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Boot, seq and time of each prediction.
fn predictions(lines: &[String]) -> Vec<(String, u64, u64)> {
    let of_line = |line: &String| {
        let (_, json) = line.split_once("/prediction ")?;
        let json: Value = serde_json::from_str(json).unwrap();
        let number = |key: &str| json[key].as_u64().unwrap();
        Some((json["boot"].as_str().unwrap().to_owned(), number("seq"), number("time_ms")))
    };
    lines.iter().filter_map(of_line).collect()
}

/// How late a thread is that wants to write and sync a page in a folder each 25 ms: what the machine and its disk add to
/// anybody's plans.
struct Lateness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, u64)>>,
}

impl Lateness {
    fn watch(folder: &Path) -> Self {
        let (stop, mut file) = (Arc::<AtomicBool>::default(), fs::File::create(folder.join("lateness")).unwrap());
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let planned_ms = wall_ms() + 25;
                std::thread::sleep(Duration::from_millis(25));
                file.write_all(&[0; 4096]).unwrap();
                file.sync_data().unwrap();
                seen.push((planned_ms, wall_ms().saturating_sub(planned_ms)));
            }
            seen
        });
        Self { stop, thread }
    }

    /// The moments of plans, and how many milliseconds late they were done.
    fn end(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// `make kills` is the long form.
#[test]
fn a_daemon_killed_at_any_moment_loses_what_it_had_in_memory_alone_and_starts_again() {
    let kills: u64 = std::env::var("EDGEWATT_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let (broker, dead, state) = (Mosquitto::running(), free_port(), tempfile::TempDir::new().unwrap());
    let mut subscriber = broker.subscribe("edgewatt/#");
    let start = |port| {
        let setup = setup(port, state.path(), "").at_speed("25.0");
        let mut daemon = Daemon::start(setup.command("run", &["-v"]));
        daemon.in_log("the start", |log| log.contains(RUNNING).then_some(()));
        daemon
    };
    // When each prediction comes after the first one: the recording has gaps.
    let daemon = start(broker.port);
    let mut lines = subscriber.until(|line| line.contains("/prediction ") && line.contains("\"seq\":100,"));
    let whole = predictions(&lines);
    let after_first_ms = |seq: u64| Some(whole.get(usize::try_from(seq).ok()?)?.2 - whole[0].2);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let mut killed_ms = Vec::new();
    let lateness = Lateness::watch(state.path());
    let seed = wall_ms() | 1;
    let mut dice = Dice(seed);
    for kill in 0..kills {
        // Away in two of three runs, so that there is something that only the disk has.
        let port = if dice.roll(3) == 0 { broker.port } else { dead };
        let daemon = start(port);
        std::thread::sleep(Duration::from_millis(dice.roll(1_500) as u64));
        daemon.signal(Signal::SIGKILL);
        killed_ms.push((wall_ms(), port == dead));
        let ended = daemon.wait();
        assert!(ended.status.code().is_none(), "run {kill} ended before it was killed: {}", ended.stderr);
        assert!(!ended.stderr.contains("memory only"), "run {kill}, seed {seed}: {}", ended.stderr);
        lines.extend(subscriber.rest(Duration::from_millis(1)));
    }
    let lateness = lateness.end();
    // A last run delivers what is left.
    let ended = setup(broker.port, state.path(), "").at_speed("\"max\"").run_once().expect(0);
    assert_eq!(ended.summary(" undelivered"), 0);
    lines.extend(subscriber.until(|line| line == "edgewatt/demo/status offline"));

    let (mut boots, mut of_boot) = (Vec::new(), BTreeMap::<String, BTreeMap<u64, u64>>::new());
    let mut twice = 0;
    for (boot, seq, time_ms) in predictions(&lines) {
        let seqs = of_boot.entry(boot.clone()).or_default();
        let next = seqs.last_key_value().map_or(0, |(last, _)| last + 1);
        twice += u64::from(seqs.contains_key(&seq));
        assert!(seqs.contains_key(&seq) || seq == next, "{boot} lacks {next}..{seq}, seed {seed}");
        if seqs.insert(seq, time_ms).is_none() && boots.last() != Some(&boot) {
            assert!(!boots.contains(&boot), "predictions of {boot} after those of a later run, seed {seed}");
            boots.push(boot);
        }
    }
    assert_eq!(of_boot[boots.last().unwrap()].len() as u64, WINDOWS, "the last run was not killed");
    // What a kill cost: how old the oldest of the lost predictions was, and how late the machine was meanwhile. A run that is
    // killed before its first prediction has left nothing.
    let mut lost_ms: Vec<(u64, u64)> = of_boot
        .values()
        .filter_map(|seqs| {
            let (first, last) = (*seqs.first_key_value()?.1, seqs.last_key_value()?);
            let (killed, away) = killed_ms.iter().find(|(killed, _)| killed >= last.1)?;
            // A run that a busy machine has let live longer than that first one tells nothing.
            let oldest = first + after_first_ms(last.0 + 1)?;
            let meanwhile =
                lateness.iter().filter(|(planned, late)| planned <= killed && planned + late + 1_000 >= oldest);
            away.then_some((killed.saturating_sub(oldest), meanwhile.map(|(_, late)| *late).max()?))
        })
        .collect();
    lost_ms.sort_unstable();
    println!(
        "{kills} kills: {} runs with predictions, {} predictions, {twice} twice, none missing in between; age of the oldest \
         one lost, and how late another writer was meanwhile, ms: {lost_ms:?}",
        of_boot.len(),
        of_boot.values().map(BTreeMap::len).sum::<usize>()
    );
    // A round waits for the one before, so that a slow disk counts twice.
    let most = |late: u64| COMMIT_MS + 2 * late + 50;
    assert!(lost_ms.iter().all(|(lost, late)| *lost <= most(*late)), "{lost_ms:?}, seed {seed}");
}

#[test]
fn what_a_stop_cannot_deliver_is_kept_for_the_next_start() {
    let state = tempfile::TempDir::new().unwrap();
    let ended = setup(free_port(), state.path(), "")
        .at_speed("\"max\"")
        .with_keys("[mqtt]", "stop_timeout_s = 20.0")
        .run_once()
        .expect(1);
    assert_eq!(ended.summary(" undelivered"), 0, "{}", ended.stdout);
    let kept = ended.summary(" kept for the next start");
    // At least one message of metrics comes with the predictions.
    assert!(kept > WINDOWS, "{}", ended.stdout);
    ended.says(&["the next start sends those that are kept", &format!("kept={kept}")]);

    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = setup(broker.port, state.path(), "").at_speed("\"max\"").run_once().expect(0);
    ended.says(&[&format!("{kept} messages of an earlier run")]);
    let lines = subscriber.until(|line| line == "edgewatt/demo/status offline");
    let received: Vec<u64> = predictions(&lines).iter().map(|(_, seq, _)| *seq).collect();
    assert!(received.iter().copied().eq((0..WINDOWS).chain(0..WINDOWS)), "{received:?}");
    let boots: BTreeSet<String> = predictions(&lines).into_iter().map(|(boot, ..)| boot).collect();
    assert_eq!(boots.len(), 2);
    let delivery = &Wire::new(lines).metrics()["delivery"];
    assert_eq!((&delivery["recovered"], &delivery["store"]), (&kept.into(), &"working".into()), "{delivery}");
    let again = setup(broker.port, state.path(), "").at_speed("\"max\"").run_once().expect(0);
    assert!(!again.stderr.contains("earlier run"), "{}", again.stderr);
}

#[test]
fn a_store_that_fails_is_told_and_stops_no_inference() {
    let (broker, parent) = (Mosquitto::running(), tempfile::TempDir::new().unwrap());
    let state = parent.path().join("state");
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = setup(broker.port, &state, "").at_speed("20.0").with("interval_s = 10.0", "interval_s = 0.3");
    let mut daemon = Daemon::start(setup.command("run", &["-v"]));
    daemon.in_log("the start", |log| log.contains(RUNNING).then_some(()));
    subscriber.until(|line| line.contains("\"store\":\"working\""));
    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "in its place").unwrap();
    let lines = subscriber.until(|line| line.contains("\"store\":\"failing\""));
    assert!(lines.iter().any(|line| line.contains("/event ") && line.contains("kept in memory only")), "{lines:?}");
    // A second failure in a row is not told again.
    std::thread::sleep(Duration::from_millis(1_500));
    let seen = predictions(&subscriber.rest(Duration::from_millis(1))).len();
    assert!(seen >= 10, "{seen} predictions in 1.5 s");
    fs::remove_file(&state).unwrap();
    let lines = subscriber.until(|line| line.contains("\"store\":\"working\""));
    assert!(lines.iter().any(|line| line.contains("/event ") && line.contains("kept on disk again")), "{lines:?}");
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait().expect(0);
    assert_eq!(ended.stderr.matches("messages are kept in memory only").count(), 1, "{}", ended.stderr);
    ended.says(&["messages are kept on disk again"]);
}

/// From there on a write fails with EFBIG, which SQLite reports as an input/output error.
fn limit_files(daemon: &Daemon, bytes: &str) {
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--pid={}", daemon.pid())).arg(format!("--fsize={bytes}:"));
    assert!(prlimit.status().unwrap().success());
}

#[test]
fn a_write_that_the_kernel_refuses_is_no_end() {
    let state = tempfile::TempDir::new().unwrap();
    let setup = setup(free_port(), state.path(), "").at_speed("100.0");
    let mut daemon = Daemon::start(setup.command("run", &["-v"]));
    daemon.in_log("the start", |log| log.contains(RUNNING).then_some(()));
    limit_files(&daemon, "100000");
    daemon.in_log("the failure", |log| log.contains("messages are kept in memory only").then_some(()));
    limit_files(&daemon, "unlimited");
    daemon.in_log("the way back", |log| log.contains("messages are kept on disk again").then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["disk I/O error", "undelivered=0 kept="]);
}

#[test]
fn what_a_file_has_that_cannot_be_written_is_sent_in_order() {
    let (mut broker, state) = (Mosquitto::absent(), tempfile::TempDir::new().unwrap());
    // Memory for a part of the messages only.
    let setup = setup(broker.port, state.path(), "")
        .at_speed("100.0")
        .with("interval_s = 10.0", "interval_s = 1.0")
        .with_keys("[mqtt]", "queue = { messages = 480 }");
    let mut daemon = Daemon::start(setup.command("run", &["-v"]));
    let log = state.path().join("outbox.db-wal");
    let bytes = || fs::metadata(&log).map_or(0, |log| log.len());
    wait_until(|| format!("{} bytes are in the log", bytes()), || bytes() > 200_000);
    limit_files(&daemon, "1");
    daemon.in_log("the failure", |log| log.contains("it cannot be written").then_some(()));
    daemon.signal(Signal::SIGSTOP);
    broker.start();
    let mut subscriber = broker.subscribe("edgewatt/#");
    daemon.signal(Signal::SIGCONT);
    let is_last = |line: &str| predictions(&[line.to_owned()]).iter().any(|(_, seq, _)| *seq == WINDOWS - 1);
    let seqs: Vec<u64> = predictions(&subscriber.until(is_last)).iter().map(|(_, seq, _)| *seq).collect();
    assert!(seqs.iter().copied().eq(0..WINDOWS), "{seqs:?}");
    subscriber.until(|line| line.contains("\"store\":\"failing\"") && line.contains("it cannot be written"));
    limit_files(&daemon, "unlimited");
    subscriber.until(|line| line.contains("\"store\":\"working\""));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["messages are kept on disk again"]);
}

#[test]
fn two_daemons_do_not_share_a_file() {
    let (broker, state) = (Mosquitto::running(), tempfile::TempDir::new().unwrap());
    let setup = setup(broker.port, state.path(), "").at_speed("10.0");
    let mut first = setup.start(&[]);
    first.in_log("the start", |log| log.contains(RUNNING).then_some(()));
    wait_until(|| "the file".into(), || state.path().join("outbox.db").exists());
    let mut second = setup.start(&[]);
    second.in_log("the refusal", |log| log.contains("another process has it open").then_some(()));
    first.signal(Signal::SIGKILL);
    first.wait();
    second.in_log("the way back", |log| log.contains("messages are kept on disk again").then_some(()));
}

/// Bytes that a folder's disk has been told to write, by everybody: for a disk that nobody else uses.
fn disk_bytes(folder: &Path) -> Option<u64> {
    let dev = fs::metadata(folder).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(6)?.parse::<u64>().ok().map(|sectors| sectors * 512)
}

/// `make wear`: the figures of docs/delivery.md. EDGEWATT_WEAR_DIR is a folder on a disk that nobody else writes to.
#[test]
#[ignore = "a measurement, of minutes"]
fn wear() {
    let seconds = 60;
    let folder = std::env::var("EDGEWATT_WEAR_DIR").unwrap_or("/var/tmp".into());
    let written = |daemon: &Daemon| -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
    };
    let broker = Mosquitto::running();
    for (what, port, commit_ms) in [
        ("healthy", broker.port, 250),
        ("outage", free_port(), 250),
        ("outage", free_port(), 1_000),
        ("outage", free_port(), 5_000),
    ] {
        let state = tempfile::TempDir::new_in(&folder).unwrap();
        let setup = setup(port, state.path(), "")
            .with(&format!("commit_ms = {COMMIT_MS}"), &format!("commit_ms = {commit_ms}"))
            .at_speed("10.0")
            .with("interval_s = 10.0", "interval_s = 3600.0")
            .with("speed = 10.0", "loop = true\nspeed = 10.0");
        let mut daemon = Daemon::start(setup.command("run", &["-v"]));
        daemon.in_log("the start", |log| log.contains(RUNNING).then_some(()));
        std::thread::sleep(Duration::from_secs(10));
        let before = (written(&daemon), disk_bytes(state.path()));
        std::thread::sleep(Duration::from_secs(seconds));
        let after = (written(&daemon), disk_bytes(state.path()));
        let predictions = 10 * seconds;
        let disk = after.1.zip(before.1).map(|(after, before)| (after - before) / predictions);
        println!(
            "{what}, commit_ms = {commit_ms}: {} B a prediction by the daemon, {disk:?} B by the disk",
            (after.0 - before.0) / predictions
        );
    }
}
