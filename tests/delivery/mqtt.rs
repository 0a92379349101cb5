//! The link against real brokers.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edgewatt::publish::message::{Class, Message};
use edgewatt::publish::mqtt::outbox::{Pushed, Reason};
use edgewatt::publish::mqtt::{ClientState, MqttClient, Settings};
use edgewatt_support::link::{PATIENCE, Rig, alive, patient, prediction, settings, state};
use edgewatt_support::mosquitto::{Mosquitto, free_port};

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
    rig.wait_for(ClientState::Waiting);
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
    rig.wait_for(ClientState::Waiting);
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
    assert_eq!(rig.handle.status().borrow().state, ClientState::Stopped(0));
    assert_eq!(broker.subscribe("t/#").retained(), ["t/state last", "t/status offline"]);
}

#[test]
fn a_stop_without_a_broker_ends_in_time_and_tells_what_is_left() {
    let rig = Rig::new(settings(free_port()));
    rig.publish(0..7);
    let begun = Instant::now();
    assert_eq!(rig.drain(Duration::from_millis(400)), 7);
    assert!(begun.elapsed() < PATIENCE / 4);
    let idle = Rig::new(settings(free_port()));
    idle.wait_for(ClientState::Waiting);
    let begun = Instant::now();
    assert_eq!(idle.drain(PATIENCE), 0);
    assert!(begun.elapsed() < PATIENCE / 4, "nothing to send is nothing to wait for");
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
    rig.wait_for(ClientState::Waiting);
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
fn settings_that_cannot_work_are_refused_with_the_reason() {
    let wrong = alive(Duration::from_millis(1_500), settings(1));
    let error = MqttClient::new(wrong, |_, _| {}).err().unwrap().to_string();
    assert_eq!(error, "mqtt.keep_alive is 1.5s; it must be 1 to 65535 whole seconds");
    let wrong = Settings { status_topic: "a/#".into(), ..settings(1) };
    assert!(MqttClient::new(wrong, |_, _| {}).is_err());
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
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let password = edgewatt::secret::Password::read(&file).unwrap();
    let address = edgewatt::publish::mqtt::broker::start(first, "porch", &password).unwrap();
    drop(taken);
    assert!(address.ip().is_loopback() && address.port() > first);
    let login = ["-u", "porch", "-P", "s3cret"];
    let subscribe =
        || edgewatt_support::mosquitto::Subscriber::logged_in(address.port(), "t/#", 0, &login, "ready", &[]);
    let mut subscriber = subscribe();
    let mut settings = edgewatt_support::link::three(settings(address.port()));
    settings.connect.login = Some(("porch".into(), file.clone()));
    let rig = Rig::new(settings);
    rig.handle.publish(state("here"));
    rig.publish(0..500);
    assert_eq!(predictions(&subscriber.until(ends_with(499))), Vec::from_iter(0..500));
    assert_eq!(subscribe().retained(), ["t/state here", "t/status online"]);
    assert_eq!(rig.drain(PATIENCE), 0);
    subscriber.until(|line| line == "t/status offline");
}

#[cfg(not(feature = "embedded-broker"))]
#[test]
fn without_the_embedded_broker_the_error_says_what_to_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "s3cret").unwrap();
    let password = edgewatt::secret::Password::read(file.path()).unwrap();
    let error = edgewatt::publish::mqtt::broker::start(1883, "porch", &password).unwrap_err().to_string();
    assert!(error.contains("mosquitto") && error.contains("--features embedded-broker"), "{error}");
}
