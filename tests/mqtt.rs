//! Delivery against real and scripted brokers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common {
    pub mod fake_broker;
    pub mod mosquitto;
}

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::fake_broker::{FakeBroker, Mood};
use common::mosquitto::{Mosquitto, free_port};
use edgewatt::publish::mqtt::connection::Reach;
use edgewatt::publish::mqtt::transport::Endpoint;
use edgewatt::publish::mqtt::wire::Version;
use edgewatt::publish::mqtt::{Handle, Link, LinkState, Settings};
use edgewatt::publish::outbox::{Class, Limits, Marks, Message, Policy, Pushed, Qos, Reason};
use edgewatt::units::MonoTime;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(port: u16) -> Settings {
    Settings {
        reach: Reach {
            endpoint: Endpoint { host: "127.0.0.1".into(), port, tls: None, websocket: None },
            version: Version::Five,
            login: None,
            client_id: "edgewatt-test".into(),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        },
        status_topic: "t/status".into(),
        drain_per_s: None,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(50),
        outbox: Limits {
            max_messages: 10_000,
            max_bytes: 10_000_000,
            max_stored_bytes: 0,
            max_age_ms: u64::MAX,
            max_payload_bytes: 100_000,
            inflight: 64,
            policy: Policy::DropOldest,
        },
        max_retained_topics: 16,
    }
}

/// After a loss, time enough to bring a broker and its subscriber back before the link returns.
fn patient(port: u16) -> Settings {
    let pause = Duration::from_secs(4);
    Settings { retry_min: pause, retry_max: pause, ..settings(port) }
}

fn alive(keep_alive: Duration, mut settings: Settings) -> Settings {
    settings.reach.keep_alive = keep_alive;
    settings
}

/// What an older broker is spoken to with.
fn three(mut settings: Settings) -> Settings {
    settings.reach.version = Version::Three;
    settings
}

fn prediction(number: usize) -> Message {
    Message {
        topic: "t/prediction".into(),
        payload: format!("{number:06}").into_bytes().into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        class: Class::Prediction,
        marks: Some(Marks { pipeline: 0, arrival: MonoTime::now(), invoke_end: MonoTime::now() }),
    }
}

fn state(text: &str) -> Message {
    let payload = text.to_owned().into_bytes().into();
    Message { topic: "t/state".into(), payload, retain: true, class: Class::State, marks: None, ..prediction(0) }
}

/// A link on a thread of its own; it ends without a word, as at a crash, unless it was drained.
struct Rig {
    handle: Handle,
    handed: Arc<AtomicU64>,
    crash: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn new(settings: Settings) -> Self {
        let handed = Arc::new(AtomicU64::new(0));
        let count = handed.clone();
        let link = Link::new(settings, move |marks, now| {
            assert!(now >= marks.invoke_end);
            count.fetch_add(1, Ordering::Relaxed);
        });
        let link = link.unwrap();
        let handle = link.handle();
        let (crash, crashed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! { _ = link.run() => {}, _ = crashed => {} }
            });
        });
        Self { handle, handed, crash: Some(crash), thread: Some(thread) }
    }

    fn publish(&self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| assert_eq!(self.handle.publish(prediction(n)), Pushed::Queued));
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&Handle) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.handle) {
            let status = self.handle.status().borrow().clone();
            assert!(Instant::now() < deadline, "waited in vain for {what}: {status:?} {:?}", self.handle.stats());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn wait_for(&self, state: LinkState) {
        self.wait("a state", |handle| handle.status().borrow().state == state);
    }

    fn wait_until_empty(&self) {
        self.wait("an empty outbox", |handle| {
            let outbox = handle.stats().outbox;
            outbox.queued + outbox.handed == 0
        });
    }

    fn drain(&self, within: Duration) -> usize {
        runtime().block_on(self.handle.drain(within))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.crash.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the link's thread panicked");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn predictions(lines: &[String]) -> Vec<usize> {
    lines.iter().filter_map(|line| line.strip_prefix("t/prediction ")).map(|n| n.parse().unwrap()).collect()
}

fn ends_with(number: usize) -> impl FnMut(&str) -> bool {
    move |line| line == format!("t/prediction {number:06}")
}

#[test]
fn what_was_queued_while_the_broker_was_absent_arrives_in_order() {
    let mut broker = Mosquitto::absent();
    let rig = Rig::new(patient(broker.port));
    rig.wait_for(LinkState::Waiting);
    let cause = rig.handle.status().borrow().last_error.clone().unwrap();
    assert!(cause.contains("refused"), "{cause}");
    rig.publish(0..1_000);
    broker.start();
    let mut subscriber = broker.subscribe("t/#");
    let lines = subscriber.until(ends_with(999));
    assert_eq!(lines[0], "t/status online", "the status comes first");
    assert_eq!(predictions(&lines), Vec::from_iter(0..1_000));
    rig.wait_until_empty();
    assert_eq!(rig.handed.load(Ordering::Relaxed), 1_000);
    assert_eq!(rig.handle.stats().outbox.resent, 0);
}

#[test]
fn a_broker_killed_in_mid_stream_loses_nothing_that_it_had_not_acknowledged() {
    let mut broker = Mosquitto::running();
    let mut before = broker.subscribe("t/#");
    let rig = Rig::new(patient(broker.port));
    rig.handle.publish(state("old"));
    let publisher = {
        let handle = rig.handle.clone();
        std::thread::spawn(move || {
            for n in 0..4_000 {
                handle.publish(prediction(n));
                if n % 4 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        })
    };
    rig.wait("acks", |handle| handle.stats().outbox.acked >= 500);
    broker.kill();
    rig.wait_for(LinkState::Waiting);
    rig.handle.publish(state("new"));
    broker.start();
    let mut after = broker.subscribe("t/#");
    publisher.join().unwrap();
    let first = predictions(&before.rest(Duration::from_millis(200)));
    let lines = after.until(ends_with(3_999));
    assert_eq!(lines[..2], ["t/status online", "t/state new"], "retained messages come before the queue");
    let second = predictions(&lines);
    assert!(second.is_sorted());
    let received: BTreeSet<usize> = first.iter().chain(&second).copied().collect();
    assert_eq!(received.len(), 4_000, "lost: {:?}", (0..4_000).find(|n| !received.contains(n)));
    rig.wait_until_empty();
    let stats = rig.handle.stats();
    assert_eq!((stats.outbox.acked, stats.reconnects), (4_000, 1));
    assert!(stats.outbox.resent <= 64);
    assert_eq!(rig.handed.load(Ordering::Relaxed), 4_000, "told once each, resent or not");
}

#[test]
fn a_stop_sends_what_is_queued_then_offline() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("t/#");
    let rig = Rig::new(settings(broker.port));
    rig.handle.publish(state("last"));
    rig.publish(0..3_000);
    assert_eq!(rig.drain(Duration::from_secs(10)), 0);
    let lines = subscriber.until(|line| line == "t/status offline");
    assert_eq!(predictions(&lines), Vec::from_iter(0..3_000));
    assert!(lines.contains(&"t/status online".into()));
    assert_eq!(rig.handle.status().borrow().state, LinkState::Stopped(0));
    assert_eq!(broker.subscribe("t/#").retained(), ["t/state last", "t/status offline"]);
}

#[test]
fn a_stop_without_a_broker_ends_in_time_and_tells_what_is_left() {
    let rig = Rig::new(settings(free_port()));
    rig.publish(0..7);
    let begun = Instant::now();
    assert_eq!(rig.drain(Duration::from_millis(400)), 7);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let idle = Rig::new(settings(free_port()));
    idle.wait_for(LinkState::Waiting);
    let begun = Instant::now();
    assert_eq!(idle.drain(PATIENCE), 0);
    assert!(begun.elapsed() < Duration::from_secs(2), "nothing to send is nothing to wait for");
}

#[test]
fn the_last_will_says_offline_for_a_link_that_dies() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("t/#");
    let rig = Rig::new(settings(broker.port));
    subscriber.until(|line| line == "t/status online");
    drop(rig);
    subscriber.until(|line| line == "t/status offline");
}

#[test]
fn an_oversize_message_is_refused_and_the_link_does_not_notice() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("t/#");
    let rig = Rig::new(settings(broker.port));
    let sized = |bytes| Message { payload: vec![b'x'; bytes].into(), ..prediction(0) };
    assert_eq!(rig.handle.publish(sized(100_001)), Pushed::Refused(Reason::Oversize));
    assert_eq!(rig.handle.publish(sized(100_000)), Pushed::Queued);
    rig.publish(1..2);
    let lines = subscriber.until(ends_with(1));
    assert!(lines.iter().any(|line| line.len() == "t/prediction ".len() + 100_000));
    let stats = rig.handle.stats();
    assert_eq!((stats.reconnects, stats.outbox.drops.get(Class::Prediction, Reason::Oversize)), (0, 1));
}

#[test]
fn the_bound_of_the_queue_holds_and_drops_are_counted() {
    let mut broker = Mosquitto::absent();
    let mut bounded = patient(broker.port);
    bounded.outbox.max_messages = 100;
    let rig = Rig::new(bounded);
    rig.wait_for(LinkState::Waiting);
    let displaced = (0..1_000).filter(|n| rig.handle.publish(prediction(*n)) == Pushed::Displaced(1)).count();
    assert_eq!(displaced, 900);
    broker.start();
    let mut subscriber = broker.subscribe("t/#");
    assert_eq!(predictions(&subscriber.until(ends_with(999))), Vec::from_iter(900..1_000));
    rig.wait_until_empty();
    let outbox = rig.handle.stats().outbox;
    assert_eq!((outbox.produced, outbox.acked), (1_000, 100));
    assert_eq!(outbox.drops.get(Class::Prediction, Reason::Full), 900);
}

#[test]
fn a_broker_that_crashes_and_acks_out_of_order_loses_nothing() {
    let of = |port| Settings { retry_min: Duration::from_millis(1), ..settings(port) };
    crashes(of);
    crashes(|port| three(of(port)));
}

fn crashes(settings: impl Fn(u16) -> Settings) {
    let broker = FakeBroker::start(Mood::Crashes(300));
    let rig = Rig::new(settings(broker.port));
    for n in 0..10_000 {
        rig.handle.publish(prediction(n));
        if n % 32 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    rig.wait_until_empty();
    let seen = broker.seen.lock().unwrap();
    let lost = (0..10_000).filter(|n| !seen.kept.contains(&format!("{n:06}"))).count();
    assert_eq!(lost, 0);
    assert!(seen.connections > 30, "{}", seen.connections);
    let mut known = BTreeSet::new();
    let first: Vec<&String> =
        seen.arrived.iter().filter(|p| p.parse::<usize>().is_ok()).filter(|p| known.insert(p.as_str())).collect();
    assert!(first.is_sorted(), "first deliveries out of order");
    let stats = rig.handle.stats();
    println!("{} connections, {} resent, {} acked, 0 lost", seen.connections, stats.outbox.resent, stats.outbox.acked);
    assert_eq!(stats.outbox.acked, 10_000);
    assert_eq!(stats.reconnects + 1, seen.connections as u64);
    assert_eq!(rig.handed.load(Ordering::Relaxed), 10_000);
}

#[test]
fn a_link_that_is_dead_or_deaf_is_noticed_within_two_keep_alives() {
    for (mood, cause) in [(Mood::Silent, "does not answer pings"), (Mood::NeverAcks, "does not acknowledge")] {
        let broker = FakeBroker::start(mood);
        let rig = Rig::new(alive(Duration::from_secs(1), patient(broker.port)));
        rig.wait_for(LinkState::Connected);
        let begun = Instant::now();
        rig.publish(0..1);
        rig.wait_for(LinkState::Waiting);
        assert!(begun.elapsed() < Duration::from_millis(2_300), "{:?}", begun.elapsed());
        let error = rig.handle.status().borrow().last_error.clone().unwrap();
        assert!(error.contains(cause), "{error}");
        assert_eq!(rig.handle.stats().outbox.queued, 1, "kept for the next connection");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_reason() {
    let wrong = alive(Duration::from_millis(1_500), settings(1));
    let error = Link::new(wrong, |_, _| {}).err().unwrap().to_string();
    assert_eq!(error, "mqtt.keep_alive is 1.5s; it must be 1 to 65535 whole seconds");
    let wrong = Settings { status_topic: "a/#".into(), ..settings(1) };
    assert!(Link::new(wrong, |_, _| {}).is_err());
}

#[cfg(feature = "embedded-broker")]
#[test]
fn the_embedded_broker_takes_the_next_port_and_serves_a_real_subscriber() {
    let (taken, first) = loop {
        let port = free_port();
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            break (listener, port);
        }
    };
    let address = edgewatt::publish::broker::start(first).unwrap();
    drop(taken);
    assert!(address.ip().is_loopback() && address.port() > first);
    let mut subscriber = common::mosquitto::Subscriber::connect(address.port(), "t/#");
    let rig = Rig::new(three(settings(address.port())));
    rig.handle.publish(state("here"));
    rig.publish(0..500);
    assert_eq!(predictions(&subscriber.until(ends_with(499))), Vec::from_iter(0..500));
    let retained = common::mosquitto::Subscriber::connect(address.port(), "t/#").retained();
    assert_eq!(retained, ["t/state here", "t/status online"]);
    assert_eq!(rig.drain(PATIENCE), 0);
    subscriber.until(|line| line == "t/status offline");
}

#[cfg(not(feature = "embedded-broker"))]
#[test]
fn without_the_embedded_broker_the_error_says_what_to_do() {
    let error = edgewatt::publish::broker::start(1883).unwrap_err().to_string();
    assert!(error.contains("mosquitto") && error.contains("--features embedded-broker"), "{error}");
}
