//! The daemon and a real broker with a network between them that does what networks do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Daemon, Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::proxy::{Mode, Proxy};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const CONNECTED: &str = "connected to the MQTT broker";
/// Without it: the ring that it gets its spans from is touched page by page, which would look as if memory grew.
const METER: &str = "[power.meters.guess]\nestimate = { watts_per_core = 2.0, idle_watts = 2.5 }\n";
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A daemon that reaches its broker through the proxy, and a subscriber that has its own way.
struct Rig {
    _state: TempDir,
    broker: Mosquitto,
    proxy: Proxy,
    subscriber: Subscriber,
    daemon: Daemon,
}

/// Half of each delay between attempts is sure.
struct Retry {
    min_ms: u64,
    max_ms: u64,
}

impl Retry {
    /// The most attempts in that time; a connection that lasts 5 s starts the delays anew.
    fn most_attempts(&self, time: Duration) -> usize {
        let (mut attempts, mut sure_ms, mut delay_ms) = (1, 0, self.min_ms);
        while delay_ms < self.max_ms {
            (attempts, sure_ms, delay_ms) = (attempts + 1, sure_ms + delay_ms / 2, (delay_ms * 2).min(self.max_ms));
        }
        let rounds = 1 + usize::try_from(time.as_secs() / 5).unwrap();
        let rest_ms = u64::try_from(time.as_millis()).unwrap().saturating_sub(sure_ms);
        rounds * attempts + usize::try_from(rest_ms / (self.max_ms / 2)).unwrap() + 1
    }
}

impl Rig {
    fn start(speed: &str, version: &str, retry: &Retry) -> Self {
        let broker = Mosquitto::running();
        let proxy = Proxy::before(broker.port);
        let subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
        let state = TempDir::new().unwrap();
        let store = format!("store = {{ path = \"{}\" }} ", state.path().join("outbox.db").display());
        let keys = format!(
            "version = \"{version}\"\nkeep_alive_s = {}\nconnect_timeout_s = 2\nstop_timeout_s = 60.0\n\
             retry_min_ms = {}\nretry_max_ms = {}",
            KEEP_ALIVE.as_secs(),
            retry.min_ms,
            retry.max_ms
        );
        let setup = Setup::demo(proxy.port)
            .at_speed(speed)
            .with(METER, "")
            .with("store = { enabled = false } ", &store)
            .with("interval_s = 10.0", "interval_s = 1.0")
            .with_keys("[pipelines.shoulder.source.replay]", "loop = true")
            .with_keys("[mqtt]", &keys);
        let mut daemon = setup.start(&[]);
        daemon.in_log("the connection", |log| log.contains(CONNECTED).then_some(()));
        Self { _state: state, broker, proxy, subscriber, daemon }
    }

    fn connections(&self) -> usize {
        self.daemon.log().matches(CONNECTED).count()
    }

    fn passes(&self, bytes: u64) {
        wait_until(|| format!("{bytes} bytes to the broker\n{}", self.daemon.log()), || self.proxy.brought() > bytes);
    }

    /// Through the proxy again, then the end.
    fn recovers(self) {
        let before = self.connections();
        self.proxy.set(Mode::Pass);
        wait_until(|| "the way back".into(), || self.connections() > before);
        self.passes(2_000);
        self.ends();
    }

    /// Stops the daemon: all that it has produced must have come, and in order.
    fn ends(self) {
        let Self { broker, mut subscriber, daemon, .. } = self;
        daemon.signal(Signal::SIGTERM);
        daemon.wait().expect(0).says(&["undelivered=0"]);
        broker.publish("edgewatt/end", "1");
        let lines = subscriber.until(|line| line == "edgewatt/end 1");
        let status = lines.iter().rfind(|line| line.starts_with("edgewatt/demo/status "));
        assert_eq!(status.map(String::as_str), Some("edgewatt/demo/status offline"));
        let metrics = lines.iter().rfind(|line| line.contains("/metrics ")).expect("no metrics came");
        let metrics: Value = serde_json::from_str(metrics.split_once(' ').unwrap().1).unwrap();
        let produced = metrics["counts"]["predictions"].as_u64().unwrap();
        let seqs: Vec<u64> = lines.iter().filter_map(|line| seq(line)).collect();
        let mut known = BTreeSet::new();
        let first: Vec<u64> = seqs.iter().copied().filter(|seq| known.insert(*seq)).collect();
        assert!(first.iter().copied().eq(0..produced), "of {produced}: {first:?}");
        println!("{produced} predictions: 0 lost, {} twice, 0 out of order without those", seqs.len() - first.len());
    }
}

fn seq(line: &str) -> Option<u64> {
    let (_, json) = line.split_once("/prediction ")?;
    serde_json::from_str::<Value>(json).unwrap()["seq"].as_u64()
}

/// Trouble until some attempts were in vain, with `causes` in the log; then none any more.
fn trouble(mode: Mode, version: &str, cut: bool, causes: &[&str]) {
    let retry = Retry { min_ms: 50, max_ms: 400 };
    let rig = Rig::start("20.0", version, &retry);
    rig.passes(2_000);
    let (before, begun) = (rig.proxy.accepted(), Instant::now());
    rig.proxy.set(mode);
    if cut {
        rig.proxy.cut();
    }
    // All but a reset take the time that the daemon gives them.
    let enough = before + if mode == Mode::Reset { 15 } else { 5 };
    wait_until(|| format!("attempts\n{}", rig.daemon.log()), || rig.proxy.accepted() >= enough);
    let (attempts, passed) = (rig.proxy.accepted() - before, begun.elapsed());
    println!("{mode:?}: {attempts} attempts in {passed:.1?}");
    assert!(attempts <= retry.most_attempts(passed), "{attempts} attempts in {passed:?}");
    let log = rig.daemon.log();
    for cause in causes {
        assert!(log.contains(cause), "`{cause}` is missing in:\n{log}");
    }
    if mode == Mode::BlackHole {
        let noticed = rig.proxy.given_up().unwrap().duration_since(begun);
        println!("the half-open link was left after {noticed:.1?}, at a keep-alive of {KEEP_ALIVE:?}");
        // Room for a machine that stalls; tests/delivery/scripted_broker.rs counts the pings.
        assert!(noticed < 2 * KEEP_ALIVE + Duration::from_secs(10), "{noticed:?}");
    }
    rig.recovers();
}

#[test]
fn a_network_that_resets_is_recovered_from_without_a_storm() {
    trouble(Mode::Reset, "5", true, &["Connection reset by peer"]);
}

#[test]
fn a_network_that_swallows_everything_is_noticed_and_recovered_from() {
    trouble(Mode::BlackHole, "5", false, &["it does not answer pings", "it does not answer the login"]);
}

#[test]
fn a_network_that_drips_is_noticed_and_recovered_from() {
    trouble(Mode::Drip, "3.1.1", false, &["it does not answer pings", "it does not answer the login"]);
}

#[test]
fn a_broker_that_never_answers_a_login_is_recovered_from() {
    trouble(Mode::NoConnack, "5", true, &["it does not answer the login"]);
}

/// Memory of the process's own, and all that is resident.
fn memory_kib(daemon: &Daemon) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (of("RssAnon:"), of("VmRSS:"))
}

#[test]
fn two_hundred_flaps_cost_no_memory() {
    const FLAPS: usize = 200;
    let rig = Rig::start("200.0", "5", &Retry { min_ms: 10, max_ms: 20 });
    // A backlog larger than any between two flaps, and all that comes once a second.
    rig.proxy.set(Mode::Reset);
    rig.proxy.cut();
    std::thread::sleep(Duration::from_secs(3));
    rig.proxy.set(Mode::Pass);
    let (begun, before) = (Instant::now(), rig.proxy.accepted());
    let mut memory = Vec::new();
    for flap in 1..=FLAPS {
        rig.passes(4_000);
        if flap % 20 == 0 {
            memory.push(memory_kib(&rig.daemon));
        }
        rig.proxy.cut();
    }
    rig.passes(4_000);
    let (attempts, passed) = (rig.proxy.accepted() - before, begun.elapsed());
    println!(
        "{FLAPS} flaps in {passed:.1?}, {attempts} attempts; after every 20, RssAnon and VmRSS in KiB: {memory:?}"
    );
    assert!(attempts < 2 * FLAPS, "{attempts} attempts");
    let ((first, _), (last, _)) = (memory[0], memory[memory.len() - 1]);
    assert!(last <= first + 256, "{first} KiB after 20 flaps, {last} KiB after {FLAPS}");
    rig.ends();
}
