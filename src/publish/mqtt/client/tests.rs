//! The client against a broker that a test scripts byte by byte.

use std::io::{Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::mqtt::losses::GOOD_CONNECTION;
use crate::mqtt::transport::{Endpoint, Transport};
use crate::mqtt::{ConnectOptions, Session, Version};
use crate::publish::bus::{Bus, RetainedLimits};
use crate::publish::message::{Class, Message, Qos};
use crate::publish::mqtt::outbox::{self, Limits as Bounds, WhenFull};

const PATIENCE: Duration = Duration::from_secs(20);
/// CONNACK of 3.1.1.
const WELCOME: [u8; 4] = [0x20, 2, 0, 0];

/// Settings for a broker on the loopback, with short pauses and room for every message.
pub(crate) fn settings(port: u16, version: Version) -> Settings {
    Settings {
        connect: ConnectOptions {
            endpoint: Endpoint { host: "127.0.0.1".into(), port, tls: None, websocket: None },
            version,
            login: None,
            client_id: "edgewatt-test".into(),
            keep_alive: Duration::from_secs(30),
            connect_timeout: PATIENCE,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session: Session::default(),
        },
        status_topic: "t/status".into(),
        drain_per_s: None,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(50),
        outbox: Bounds {
            max_messages: 10_000,
            max_bytes: 10_000_000,
            max_stored_bytes: 0,
            max_age_ms: u64::MAX,
            max_payload_bytes: 100_000,
            inflight: 64,
            when_full: WhenFull::DropOldest,
        },
        max_retained_topics: 16,
    }
}

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        qos: Qos::AtLeastOnce,
        retain: false,
        class: Class::Prediction,
        marks: None,
    }
}

/// The broker's end of a connection, and the client.
struct Broker {
    listener: TcpListener,
    client: tokio::task::JoinHandle<usize>,
    handle: Handle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.client.abort();
    }
}

impl Broker {
    async fn new(version: Version, change: impl FnOnce(&mut MqttClient)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = MqttClient::new(settings(port, version), |_, _| {}).unwrap();
        change(&mut client);
        let handle = client.handle();
        Self { listener, client: tokio::spawn(client.run()), handle }
    }

    /// The next connection, its login answered so.
    async fn accept(&self, welcome: &[u8]) -> TcpStream {
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        assert_eq!(packet(&mut stream).await.0 >> 4, 1);
        stream.write_all(welcome).await.unwrap();
        stream
    }
}

/// The first byte and the body of the next packet.
async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let first = stream.read_u8().await.unwrap();
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = stream.read_u8().await.unwrap();
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (first, body)
    };
    timeout(PATIENCE, read).await.unwrap()
}

/// The next packet of that kind.
async fn packet_of(kind: u8, stream: &mut TcpStream) -> Vec<u8> {
    loop {
        let (first, body) = packet(stream).await;
        if first >> 4 == kind {
            return body;
        }
    }
}

/// Acknowledges publishes until one on `topic` has come, which is given whole, and not acknowledged.
async fn publish_on(topic: &str, stream: &mut TcpStream) -> Vec<u8> {
    loop {
        let body = packet_of(3, stream).await;
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        if body[2..].starts_with(topic.as_bytes()) {
            return body;
        }
        stream.write_all(&[0x40, 2, body[2 + length], body[3 + length]]).await.unwrap();
    }
}

#[tokio::test]
async fn a_web_socket_is_asked_for_by_an_address_of_version_six_and_no_secret_is_told() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let endpoint = Endpoint {
        host: "::1".into(),
        port: listener.local_addr().unwrap().port(),
        tls: None,
        websocket: Some("/mqtt?token=s3cret".into()),
    };
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 256];
        let count = stream.read(&mut asked).await.unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        (String::from_utf8_lossy(&asked[..count]).into_owned(), stream)
    };
    let dial = Transport::dial(&endpoint, Instant::now() + PATIENCE, |_, _, _| {});
    let (dialed, (asked, _stream)) = timeout(PATIENCE, async { tokio::join!(dial, refuse) }).await.unwrap();
    assert!(asked.starts_with("GET /mqtt?token=s3cret HTTP/1.1"), "{asked}");
    let refused = dialed.err().unwrap().to_string();
    assert!(refused.contains("ws://[::1]:") && refused.contains("404") && !refused.contains("s3cret"), "{refused}");
}

#[tokio::test]
async fn a_message_that_is_too_large_for_us_is_passed_over() {
    let broker = Broker::new(Version::Three, |_| {}).await;
    let mut stream = broker.accept(&WELCOME).await;
    // 300,000 bytes, retained: it would be there again on each new connection.
    let large = [&[0x31, 0xE0, 0xA7, 0x12][..], &[0; 300_000]].concat();
    stream.write_all(&large).await.unwrap();
    broker.handle.publish(message("t/after", b"1"));
    publish_on("t/after", &mut stream).await;
    stream.write_all(&large).await.unwrap();
    broker.handle.publish(message("t/later", b"1"));
    publish_on("t/later", &mut stream).await;
    assert_eq!(broker.handle.stats().reconnects, 0);
}

#[tokio::test]
async fn a_broker_that_never_stops_talking_hears_pings() {
    let broker =
        Broker::new(Version::Three, |client| client.settings.connect.keep_alive = Duration::from_secs(1)).await;
    let mut stream = broker.accept(&WELCOME).await.into_std().unwrap();
    // From a thread of its own, so that there is always more to be read.
    let talked = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        // Of QoS 0, so there is nothing for us to answer.
        let chunk = [0x30, 6, 0, 3, b't', b'/', b'x', b'1'].repeat(10_000);
        std::thread::spawn(move || while writer.write_all(&chunk).is_ok() {});
        let (mut seen, mut bytes) = (Vec::new(), [0; 1024]);
        while !seen.ends_with(&[0xC0, 0]) {
            let count = stream.read(&mut bytes).expect("no ping");
            assert!(count > 0, "it gave up");
            seen.extend_from_slice(&bytes[..count]);
        }
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    talked.await.unwrap();
}

/// Over a slow line a ping, and its answer, wait behind what was sent before.
#[tokio::test]
async fn acks_are_as_good_as_answers_to_pings() {
    let broker =
        Broker::new(Version::Three, |client| client.settings.connect.keep_alive = Duration::from_secs(3)).await;
    let mut stream = broker.accept(&WELCOME).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        broker.handle.publish(message("t/a", b"1"));
        let body = publish_on("t/a", &mut stream).await;
        sleep(Duration::from_millis(100)).await;
        stream.write_all(&[0x40, 2, body[5], body[6]]).await.unwrap();
    }
    assert_eq!(broker.handle.status().borrow().last_error, None);
    // Then it is silent, and noticed as ever.
    let mut status = broker.handle.status();
    let lost = status.wait_for(|status| status.last_error.is_some());
    timeout(PATIENCE, lost).await.expect("it is not noticed").unwrap();
}

#[tokio::test]
async fn a_link_that_is_dead_is_noticed_while_it_takes_no_data() {
    let broker = Broker::new(Version::Three, |client| {
        client.settings.connect.keep_alive = Duration::from_secs(1);
        client.settings.connect.connect_timeout = Duration::from_secs(600);
        client.settings.outbox.inflight = 64;
    })
    .await;
    let _unread = broker.accept(&WELCOME).await;
    // More than the sockets on both ends take: 6.4 MB.
    let large = vec![b'x'; 100_000];
    for _ in 0..64 {
        broker.handle.publish(message("t/large", &large));
    }
    let mut status = broker.handle.status();
    let lost = status.wait_for(|status| status.state == ClientState::Waiting);
    timeout(PATIENCE, lost).await.expect("it is not noticed").unwrap();
}

#[tokio::test]
async fn a_message_that_waited_tells_so_and_lives_only_as_long_as_it_may() {
    let broker = Broker::new(Version::Five, |client| {
        let mut queues = client.shared.queues();
        queues.outbox = Outbox::new(Bounds { max_age_ms: 3_600_000, ..client.settings.outbox.clone() });
        let now_ms = client.shared.clock.now_ms();
        for (topic, age_ms) in [("t/gone", 3_600_001), ("t/old", 1_500_000), ("t/new", 0)] {
            queues.outbox.push(message(topic, b"1"), now_ms - age_ms);
        }
    })
    .await;
    let mut stream = broker.accept(&[0x20, 3, 0, 0, 0]).await;
    let old = publish_on("t/", &mut stream).await;
    assert!(old[2..].starts_with(b"t/status"), "a retained message never expires");
    assert!(!old.contains(&2) || expiry_s(&old).is_none(), "{old:?}");
    stream.write_all(&[0x40, 2, old[10], old[11]]).await.unwrap();
    let old = publish_on("t/", &mut stream).await;
    assert!(old[2..].starts_with(b"t/old"));
    assert!((2_090..=2_100).contains(&expiry_s(&old).unwrap()), "{:?}", expiry_s(&old));
    let text = String::from_utf8_lossy(&old).into_owned();
    let waited = text.split_once("waited_ms\0").unwrap().1;
    assert!(waited[1..].starts_with("150"), "{waited}");
    let new = publish_on("t/new", &mut stream).await;
    assert!((3_590..=3_600).contains(&expiry_s(&new).unwrap()));
    assert!(!String::from_utf8_lossy(&new).contains("waited_ms"));
    assert_eq!(broker.handle.stats().outbox.drops.get(Class::Prediction, outbox::Reason::Expired), 1);
}

/// The message expiry of a PUBLISH of ours, whose properties begin with the payload format.
fn expiry_s(body: &[u8]) -> Option<u32> {
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let properties = &body[2 + topic + 2 + 1..];
    match properties {
        [1, 1, 2, expiry @ ..] => Some(u32::from_be_bytes(expiry[..4].try_into().unwrap())),
        _ => None,
    }
}

/// Ten a second, and predictions that come faster.
#[tokio::test]
async fn the_pace_holds_back_a_backlog_and_nothing_else() {
    let broker = Broker::new(Version::Three, |client| {
        client.pace = Pace::new(Some(10));
        let now_ms = client.shared.clock.now_ms();
        let mut queues = client.shared.queues();
        for _ in 0..3 {
            queues.outbox.push(message("t/old", b"1"), now_ms - 60_000);
        }
    })
    .await;
    let mut stream = broker.accept(&WELCOME).await;
    let begun = Instant::now();
    for _ in 0..3 {
        publish_on("t/old", &mut stream).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    // At the pace they would take a minute.
    for _ in 0..600 {
        broker.handle.publish(message("t/new", b"1"));
        let body = publish_on("t/new", &mut stream).await;
        stream.write_all(&[0x40, 2, body[7], body[8]]).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn while_the_pace_holds_back_nothing_spins() {
    let broker = Broker::new(Version::Five, |client| {
        client.pace = Pace::new(Some(10));
        let now_ms = client.shared.clock.now_ms();
        let mut queues = client.shared.queues();
        for _ in 0..100 {
            queues.outbox.push(message("t/old", b"1"), now_ms - 60_000);
        }
    })
    .await;
    // It takes three at once: the status, one of the backlog, and a state that comes while the next of the backlog waits.
    let mut stream = broker.accept(&[0x20, 6, 0, 0, 3, 0x21, 0, 3]).await;
    packet_of(3, &mut stream).await;
    packet_of(3, &mut stream).await;
    broker.handle.publish(Message { retain: true, ..message("t/state", b"1") });
    packet_of(3, &mut stream).await;
    // Everything here runs on this thread.
    let used = || Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = used();
    sleep(Duration::from_secs(1)).await;
    let used = used() - before;
    assert!(used < Duration::from_millis(300), "{used:?} of processor time in a second of waiting");
}

#[test]
fn a_silent_broker_is_spared_although_each_attempt_takes_long() {
    // The attempt takes as long as a good connection lasts, and is none.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings(listener.local_addr().unwrap().port(), Version::Three);
        settings.connect.connect_timeout = GOOD_CONNECTION + Duration::from_millis(50);
        settings.retry_min = Duration::from_millis(500);
        settings.retry_max = Duration::from_secs(60);
        let client = MqttClient::new(settings, |_, _| {}).unwrap();
        let task = tokio::spawn(client.run());
        let mut at = Vec::new();
        while at.len() < 3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let accepted = Instant::now();
            // The port is examined once, after the first attempt.
            let mut greeting = [0; 64];
            let count = stream.read(&mut greeting).await.unwrap();
            if String::from_utf8_lossy(&greeting[..count]).contains("edgewatt-test") {
                at.push((accepted, stream));
            }
        }
        task.abort();
        let pause = at[2].0.duration_since(at[1].0) - GOOD_CONNECTION;
        assert!(pause > Duration::from_millis(540), "the second pause is the doubled one, not {pause:?}");
    });
}

#[tokio::test]
async fn the_broker_and_a_subscriber_in_this_process_get_the_same_messages_in_order() {
    let broker = Broker::new(Version::Three, |_| {}).await;
    let bus = Bus::new(RetainedLimits { topics: 4, payload_bytes: 100 });
    bus.add(broker.handle.clone());
    let mut subscription = bus.subscribe(8);
    let mut stream = broker.accept(&WELCOME).await;
    for payload in [b"1", b"2", b"3"] {
        bus.publish(&message("t/a", payload));
    }
    for payload in [b"1", b"2", b"3"] {
        assert!(publish_on("t/a", &mut stream).await.ends_with(payload));
        assert_eq!(subscription.try_next().map(|message| message.payload), Some(Bytes::from_static(payload)));
    }
    bus.publish(&Message { retain: true, ..message("t/state", b"4") });
    assert!(publish_on("t/state", &mut stream).await.ends_with(b"4"));
    assert_eq!(bus.subscribe(0).try_next().map(|message| message.payload), Some(Bytes::from_static(b"4")));
}

#[tokio::test]
async fn a_session_that_is_taken_over_names_the_client_id_at_once() {
    let broker = Broker::new(Version::Five, |_| {}).await;
    let mut stream = broker.accept(&[0x20, 3, 0, 0, 0]).await;
    stream.write_all(&[0xE0, 2, 0x8E, 0]).await.unwrap();
    let mut status = broker.handle.status();
    let lost = status.wait_for(|status| status.last_error.is_some());
    let error = timeout(PATIENCE, lost).await.unwrap().unwrap().last_error.clone().unwrap();
    assert!(error.contains("another client has connected with the same client id"), "{error}");
    assert!(error.contains("does another client use the client id edgewatt-test?"), "{error}");
}

/// A broker that refuses the last will, whatever it is called for, is asked again with one that it allows.
#[tokio::test]
async fn a_last_will_that_is_refused_is_announced_more_modestly() {
    let broker = Broker::new(Version::Five, |_| {}).await;
    for (refusal, flags) in [(0x9A, 0x2E), (0x9B, 0x0E), (0, 0x06)] {
        let (mut stream, _) = timeout(PATIENCE, broker.listener.accept()).await.unwrap().unwrap();
        let (_, login) = packet(&mut stream).await;
        assert_eq!(login[7], flags, "will, its QoS and whether it is retained");
        stream.write_all(&[0x20, 3, 0, refusal, 0]).await.unwrap();
        if refusal == 0 {
            // Status, with QoS 0 and not retained, without anything to wait for.
            let (first, body) = packet(&mut stream).await;
            assert_eq!((first, body[2..].starts_with(b"t/status")), (0x30, true));
        }
    }
    assert_eq!(broker.handle.status().borrow().last_error, None);
}
