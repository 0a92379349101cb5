//! The link against a scripted broker: what real ones do too seldom for a test.

use std::collections::BTreeSet;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edgewatt::mqtt::codec::Version;
use edgewatt::publish::message::{Class, Message};
use edgewatt::publish::mqtt::outbox::{Pushed, Reason};
use edgewatt::publish::mqtt::{ClientState, Settings};
use edgewatt_support::fake_broker::{FakeBroker, Mood, Seen};
use edgewatt_support::link::{PATIENCE, Rig, alive, patient, prediction, settings, state, state_of};

/// Of each crash test.
const PREDICTIONS: usize = 20_000;

#[test]
fn crashes_of_a_broker_without_sessions_lose_nothing() {
    crashes(Version::Five, false);
}

#[test]
fn crashes_of_a_broker_that_claims_a_session_lose_nothing() {
    crashes(Version::Five, true);
}

#[test]
fn crashes_of_an_older_broker_without_sessions_lose_nothing() {
    crashes(Version::Three, false);
}

#[test]
fn crashes_of_an_older_broker_that_claims_a_session_lose_nothing() {
    crashes(Version::Three, true);
}

fn crashes(version: Version, session_present: bool) {
    let broker = FakeBroker::start(Mood::Crashes { after: 300, session_present });
    let mut settings = Settings { retry_min: Duration::from_millis(1), ..settings(broker.port) };
    settings.connect.version = version;
    settings.outbox.max_messages = PREDICTIONS;
    let rig = Rig::new(settings);
    for n in 0..PREDICTIONS {
        assert_eq!(rig.handle.publish(prediction(n)), Pushed::Queued);
        if n % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    rig.wait_until_empty();
    let seen = seen(&broker);
    let lost = (0..PREDICTIONS).filter(|n| !seen.kept.contains(&format!("{n:06}"))).count();
    let arrived: Vec<usize> = seen.arrived.iter().filter_map(|payload| payload.parse().ok()).collect();
    let mut known = BTreeSet::new();
    let first: Vec<usize> = arrived.iter().copied().filter(|n| known.insert(*n)).collect();
    let late = first.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let stats = rig.handle.stats();
    println!(
        "MQTT {}, session present: {session_present}: {PREDICTIONS} predictions over {} connections: {lost} lost, {} \
         twice, {late} out of order without those",
        version.name(),
        seen.connections,
        arrived.len() - first.len()
    );
    assert_eq!((lost, late, seen.collisions), (0, 0, 0));
    assert!(seen.connections > PREDICTIONS / 300, "{}", seen.connections);
    assert_eq!(stats.outbox.acked, PREDICTIONS as u64);
    // What was under way at a crash is counted as sent, though the broker has not seen it.
    assert!(stats.outbox.resent >= (arrived.len() - first.len()) as u64, "{}", stats.outbox.resent);
    assert_eq!(stats.reconnects + 1, seen.connections as u64);
    assert_eq!(rig.handed.load(Ordering::Relaxed), PREDICTIONS as u64, "told once each");
}

/// The short form of `make flaps`: the pause before a reconnect must not grow while messages arrive.
#[test]
fn a_link_that_flaps_is_used_whenever_it_is_up() {
    let minutes = std::env::var("EDGEWATT_FLAPS_MINUTES").ok().map(|minutes| minutes.parse::<u64>().unwrap());
    let (up_s, queue, seconds) = minutes.map_or((2, 2_400, 24), |minutes| (5, 10_000, minutes * 60));
    let away = Duration::from_millis(300);
    let broker = FakeBroker::start(Mood::Flaps { up: Duration::from_secs(up_s), away });
    let (retry_min, retry_max) = (Duration::from_millis(500), Duration::from_secs(30));
    let mut settings = Settings { retry_min, retry_max, ..settings(broker.port) };
    settings.outbox.max_messages = queue;
    let rig = Rig::new(settings);
    let (begun, mut produced) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        // 800 a second.
        while produced * 5 < begun.elapsed().as_millis() as usize * 4 {
            rig.handle.publish(prediction(produced));
            produced += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    rig.wait_until_empty();
    let (seen, stats) = (seen(&broker), rig.handle.stats());
    let lost = (0..produced).filter(|n| !seen.kept.contains(&format!("{n:06}"))).count();
    let mut known = BTreeSet::new();
    let first: Vec<usize> = seen.arrived.iter().filter_map(|n| n.parse().ok()).filter(|n| known.insert(*n)).collect();
    let late = first.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let (connections, dropped) = (seen.connections, stats.outbox.drops.total());
    println!("{produced} messages, {connections} connections: {dropped} dropped, {lost} lost, {late} out of order");
    assert_eq!((dropped, lost, late), (0, 0, 0));
    assert!(connections > 3, "{connections}");
}

/// Each connection makes progress, so the pause does not grow; it is there all the same.
#[test]
fn a_broker_that_takes_one_message_and_closes_is_not_stormed() {
    let broker = FakeBroker::start(Mood::TakesOne);
    let mut slow = settings(broker.port);
    (slow.retry_min, slow.retry_max) = (Duration::from_millis(40), Duration::from_secs(600));
    let begun = Instant::now();
    let rig = Rig::loaded(slow, (0..30).map(prediction));
    rig.wait_until_empty();
    let (attempts, passed) = (seen(&broker).connections, begun.elapsed());
    assert!(passed >= Duration::from_millis(20) * (attempts as u32 - 1), "{attempts} attempts in {passed:?}");
    assert!((30..=34).contains(&attempts), "{attempts} attempts for 30 messages");
    assert_eq!(rig.handle.stats().outbox.acked, 30);
}

/// It takes a few messages and crashes at the next one, whichever that is: none of them is to blame.
#[test]
fn no_message_is_blamed_for_a_broker_that_crashes_all_the_time() {
    for (after, version) in [(2, Version::Three), (3, Version::Five), (40, Version::Three)] {
        let broker = FakeBroker::start(Mood::Crashes { after, session_present: false });
        let mut settings = Settings { retry_min: Duration::from_millis(1), ..settings(broker.port) };
        settings.connect.version = version;
        let count = if after < 10 { 40 } else { 150 };
        let rig = Rig::loaded(settings, (0..count).map(prediction).chain([state("one"), state_of("t/two", "two")]));
        rig.wait_until_empty();
        let stats = rig.handle.stats();
        assert_eq!((stats.outbox.acked, stats.outbox.drops.total()), (count as u64, 0), "after {after}");
        assert_eq!(stats.retained.drops.total(), 0);
    }
}

fn seen(broker: &FakeBroker) -> MutexGuard<'_, Seen> {
    broker.seen.lock().unwrap()
}

#[test]
fn a_link_that_is_dead_or_deaf_is_noticed_within_two_keep_alives() {
    // A dead link before a second ping goes out, a deaf one before a third.
    for (mood, cause, pings) in
        [(Mood::Silent, "does not answer pings", 1), (Mood::NeverAcks, "does not acknowledge", 2)]
    {
        let broker = FakeBroker::start(mood);
        let rig = Rig::new(alive(Duration::from_secs(1), patient(broker.port)));
        rig.wait_for(ClientState::Connected);
        rig.publish(0..1);
        rig.wait_for(ClientState::Waiting);
        let error = rig.handle.status().borrow().last_error.clone().unwrap();
        assert!(error.contains(cause), "{error}");
        let sent = seen(&broker).pings;
        assert!(sent <= pings, "{sent} pings");
        assert_eq!(rig.handle.stats().outbox.queued, 1, "kept for the next connection");
    }
}

#[test]
fn a_broker_that_takes_no_more_data_is_left_within_two_keep_alives() {
    let broker = FakeBroker::start(Mood::Clogged);
    let mut settings = alive(Duration::from_secs(1), patient(broker.port));
    settings.connect.connect_timeout = Duration::from_secs(60);
    let large = |_| Message { payload: vec![b'x'; 100_000].into(), ..prediction(0) };
    // More than the sockets of both sides hold.
    let rig = Rig::loaded(settings, (0..64).map(large));
    rig.wait_for(ClientState::Waiting);
    let error = rig.handle.status().borrow().last_error.clone().unwrap();
    assert!(error.contains("takes no more data"), "{error}");
    assert_eq!(rig.handle.stats().outbox.queued, 64, "kept for the next connection");
}

#[test]
fn what_a_broker_allows_at_once_is_never_exceeded() {
    let broker = FakeBroker::start(Mood::Strict { receive_max: 5, packet_bytes: 1_000 });
    let rig = Rig::loaded(settings(broker.port), [state("one"), state_of("t/other", "two")]);
    rig.publish(0..500);
    rig.wait("500 predictions, the status and two states", |_| seen(&broker).kept.len() == 503);
    let seen = seen(&broker);
    assert_eq!((seen.most_unacked, seen.collisions, seen.connections), (5, 0, 1));
}

#[test]
fn a_message_above_the_brokers_limit_is_dropped_wherever_it_stands_in_the_queue() {
    let broker = FakeBroker::start(Mood::Strict { receive_max: 20, packet_bytes: 1_000 });
    let mut messages: Vec<Message> = (0..9).map(prediction).collect();
    for place in [4, 5, 9] {
        messages.insert(place, Message { payload: vec![b'x'; 1_000].into(), ..prediction(0) });
    }
    let rig = Rig::loaded(settings(broker.port), messages);
    rig.wait_until_empty();
    let outbox = rig.handle.stats().outbox;
    assert_eq!((outbox.acked, outbox.drops.get(Class::Prediction, Reason::Oversize)), (9, 3));
    let seen = seen(&broker);
    assert_eq!((seen.oversize, seen.connections), (0, 1));
}

#[test]
fn what_a_broker_refuses_is_counted_and_not_sent_again() {
    let broker = FakeBroker::start(Mood::Refuses);
    let rig = Rig::loaded(settings(broker.port), (0..600).map(prediction));
    rig.wait_until_empty();
    rig.publish(600..601);
    rig.wait_until_empty();
    let (outbox, seen) = (rig.handle.stats().outbox, seen(&broker));
    let refused = outbox.drops.get(Class::Prediction, Reason::Refused);
    assert_eq!((refused, outbox.acked + refused), (200, 601));
    assert_eq!((seen.refused, seen.arrived.len(), seen.connections), (200, 602, 1), "each sent once, and the status");
    assert_eq!(outbox.resent, 0);
}

#[test]
fn a_goodbye_comes_after_the_last_acknowledgement() {
    for version in [Version::Three, Version::Five] {
        let broker = FakeBroker::start(Mood::Strict { receive_max: 40, packet_bytes: 1_000 });
        let mut settings = settings(broker.port);
        settings.connect.version = version;
        let rig = Rig::loaded(settings, (0..300).map(prediction));
        assert_eq!(rig.drain(PATIENCE), 0);
        rig.wait_for(ClientState::Stopped(0));
        rig.wait("the goodbye", |_| seen(&broker).unacked_at_goodbye.is_some());
        let seen = seen(&broker);
        assert_eq!((seen.unacked_at_goodbye, seen.arrived.last().map(String::as_str)), (Some(0), Some("offline")));
        assert_eq!(seen.kept.len(), 302, "300 predictions, online, offline");
    }
}

#[test]
fn a_broker_that_cuts_every_connection_is_not_stormed() {
    let broker = FakeBroker::start(Mood::Crashes { after: 0, session_present: false });
    let begun = Instant::now();
    let mut slow = settings(broker.port);
    (slow.retry_min, slow.retry_max) = (Duration::from_millis(40), Duration::from_millis(320));
    let rig = Rig::new(slow);
    rig.publish(0..10);
    rig.wait("attempts", |_| seen(&broker).connections >= 8);
    let (attempts, passed) = (seen(&broker).connections, begun.elapsed());
    // Of each delay, which doubles from 40 ms to 320, half is sure.
    let sure_ms: u64 = (1..attempts).map(|attempt| (20 << (attempt - 1).min(3)) as u64).sum();
    assert!(passed >= Duration::from_millis(sure_ms), "{attempts} attempts in {passed:?}");
    // At the moment of an attempt, the messages may be on their way.
    let outbox = rig.handle.stats().outbox;
    assert_eq!((outbox.queued + outbox.in_flight, outbox.acked), (10, 0));
}
