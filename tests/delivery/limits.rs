//! Brokers that cannot do everything, a client id that two clients have, and signals that come twice.

use std::time::Duration;

use edgewatt::mqtt::codec::Version;
use edgewatt::publish::message::{Class, Message, Qos};
use edgewatt::publish::mqtt::outbox::Reason;
use edgewatt::publish::mqtt::{ClientState, Settings};
use edgewatt_support::daemon::{Setup, wait_until};
use edgewatt_support::link::{Rig, prediction, settings, state, three};
use edgewatt_support::mosquitto::Mosquitto;
use nix::sys::signal::Signal;

fn limited(config: &str) -> Mosquitto {
    Mosquitto::configured(|_| format!("allow_anonymous true\n{config}\n"))
}

fn warnings(rig: &Rig) -> String {
    rig.handle.status().borrow().warnings.text().unwrap_or_default()
}

fn last_error(rig: &Rig) -> String {
    rig.handle.status().borrow().last_error.as_deref().unwrap_or_default().to_owned()
}

/// A message arrives over a connection with these settings, a stop delivers, and the state warns.
fn works(broker: &Mosquitto, settings: Settings, warning: &str) {
    let mut subscriber = Subscribed::to(broker);
    let rig = Rig::new(settings);
    rig.handle.publish(state("here"));
    rig.publish(0..300);
    subscriber.until("t/prediction 000299");
    assert!(warnings(&rig).contains(warning), "{}", warnings(&rig));
    rig.wait_until_empty();
    assert_eq!(rig.drain(Duration::from_secs(10)), 0);
    subscriber.until("t/status offline");
    assert_eq!(rig.handle.stats().reconnects, 0);
}

/// A subscriber at a broker that may retain nothing, so it cannot wait for what is retained.
struct Subscribed {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Subscribed {
    fn to(broker: &Mosquitto) -> Self {
        use std::io::BufRead;
        let port = broker.port.to_string();
        let mut child = edgewatt_support::mosquitto::command("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-v", "-t", "t/#", "-t", "ready"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let subscribed = Self { child, lines };
        wait_until(
            || "the subscription".into(),
            || {
                let port = port.as_str();
                let mut told = edgewatt_support::mosquitto::command("mosquitto_pub");
                told.args(["-h", "127.0.0.1", "-p", port, "-t", "ready", "-m", "1"]).status().unwrap();
                subscribed.lines.recv_timeout(Duration::from_millis(100)).is_ok()
            },
        );
        subscribed
    }

    fn until(&mut self, last: &str) {
        while self.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("waited in vain for {last}"))
            != last
        {}
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_broker_that_keeps_no_retained_messages_is_adapted_to() {
    let broker = limited("retain_available false");
    works(&broker, settings(broker.port), "no message is retained");
    // The older version has no word for it, so there is a key.
    let unknowing = Rig::new(three(settings(broker.port)));
    unknowing.wait_for(ClientState::Waiting);
    assert!(last_error(&unknowing).contains("mqtt.retain = false"), "{}", last_error(&unknowing));
    drop(unknowing);
    let mut told = three(settings(broker.port));
    told.connect.retain = false;
    works(&broker, told, "no message is retained");
}

#[test]
fn a_broker_with_qos_0_only_is_adapted_to() {
    let broker = limited("max_qos 0");
    works(&broker, settings(broker.port), "all messages have QoS 0");
    let mut told = three(settings(broker.port));
    told.connect.max_qos = Qos::AtMostOnce;
    works(&broker, told, "all messages have QoS 0");
    let both = limited("max_qos 0\nretain_available false");
    works(&both, settings(both.port), "all messages have QoS 0");
}

#[test]
fn check_online_says_what_a_broker_does_not_do() {
    let broker = limited("retain_available false\nmax_qos 0\nmax_packet_size 400");
    let online = |keys: &str| {
        let setup = Setup::demo(broker.port).with_keys("[mqtt]", keys);
        edgewatt_support::daemon::Daemon::start(setup.command("check", &["--online"])).wait()
    };
    let five = online("").expect(0);
    for words in ["no message is retained", "all messages have QoS 0", "packets of at most 400 bytes"] {
        assert!(five.stdout.contains(words), "{words} in {}", five.stdout);
    }
    let three = online("version = \"3.1.1\"").expect(1);
    assert!(three.stdout.contains("mqtt.max_qos = 0"), "{}", three.stdout);
    online("version = \"3.1.1\"\nretain = false\nmax_qos = 0").expect(0);
}

#[test]
fn two_clients_with_one_id_are_suspected() {
    let broker = limited("");
    for version in [Version::Three, Version::Five] {
        let with = || {
            let mut settings = settings(broker.port);
            settings.connect.version = version;
            Rig::new(settings)
        };
        let (one, _other) = (with(), with());
        let words = "does another client use the client id edgewatt-test?";
        one.wait(words, |_| last_error(&one).contains(words) && warnings(&one).contains(words));
    }
}

#[test]
fn messages_that_the_broker_does_not_take_are_named() {
    let broker = limited("max_packet_size 400");
    let rig = Rig::new(settings(broker.port));
    rig.wait_for(ClientState::Connected);
    let sized =
        |topic: &str, bytes| Message { topic: topic.into(), payload: vec![b'x'; bytes].into(), ..prediction(0) };
    rig.handle.publish(Message { retain: true, ..sized("t/info", 700) });
    rig.handle.publish(sized("t/large", 600));
    rig.handle.publish(sized("t/small", 60));
    let named = "too large for the broker, which takes 400 bytes: t/info (706 bytes), t/large (607 bytes)";
    let named = named.replace("t/", "");
    rig.wait(&named, |_| warnings(&rig) == named);
    rig.wait_until_empty();
    assert_eq!(rig.handle.stats().reconnects, 0);

    let ended = Setup::demo(broker.port).at_speed("\"max\"").run_once().expect(1);
    ended.says(&["edgewatt/demo/info has ", "takes packets of at most 400: it is dropped and never arrives"]);
    let summary = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(summary.contains("too large for the broker, which takes 400 bytes: info ("), "{summary}");
}

fn sized(number: usize, bytes: usize) -> Message {
    Message { payload: format!("{number:0bytes$}").into_bytes().into(), ..prediction(0) }
}

/// In MQTT 5 the broker says so; in 3.1.1 it only ends the connection over a packet that is too large.
#[test]
fn a_size_that_the_broker_does_not_take_stops_no_other_message() {
    for (version, limit) in [(Version::Five, "message_size_limit 1000"), (Version::Three, "max_packet_size 1000")] {
        let broker = limited(limit);
        let mut subscriber = broker.subscribe("t/prediction");
        let mut settings = settings(broker.port);
        settings.connect.version = version;
        let large = |n: usize| [10, 11, 150].contains(&n);
        let messages = (0..200).map(|n| sized(n, if large(n) { 1_500 } else { 6 }));
        let info = Message { topic: "t/info".into(), retain: true, class: Class::State, ..sized(0, 1_500) };
        let rig = Rig::loaded(settings, messages.chain([info]));
        rig.wait_until_empty();
        rig.wait("the state", |handle| handle.stats().retained.drops.total() == 1);
        let (stats, warnings) = (rig.handle.stats(), warnings(&rig));
        assert_eq!((stats.outbox.acked, stats.outbox.drops.get(Class::Prediction, Reason::Refused)), (197, 3));
        assert_eq!(stats.outbox.drops.total(), 3);
        assert_eq!(stats.retained.drops.get(Class::State, Reason::Refused), 1);
        let is_five = version == Version::Five;
        assert_eq!(stats.reconnects == 0, is_five, "{}", stats.reconnects);
        let cause =
            if is_five { "refused by the broker (packet_too_large)" } else { "the broker ends the connection over it" };
        assert!(warnings.contains(cause) && warnings.contains("info (1506 bytes)"), "{warnings}");
        assert!(warnings.contains("prediction (1512 bytes)"), "{warnings}");
        let mut lines = subscriber.until(|line| line == "t/prediction 000199");
        let expected: Vec<String> = (0..200).filter(|n| !large(*n)).map(|n| format!("t/prediction {n:06}")).collect();
        let mut known = std::collections::BTreeSet::new();
        lines.retain(|line| known.insert(line.clone()));
        assert_eq!(lines, expected, "each arrives, in order");
    }
}

/// A pipeline of which no prediction arrives is not well, although there is a connection.
#[test]
fn predictions_that_the_broker_does_not_take_degrade_the_pipeline() {
    let broker = limited("max_packet_size 250");
    let setup = Setup::demo(broker.port);
    let mut daemon = setup.start(&[]);
    let log = "edgewatt/demo/p/shoulder/prediction has ";
    daemon.in_log("the limit", |text| text.contains(log).then_some(()));
    let degraded = "degraded: its predictions are dropped: too large for the broker, which takes 250 bytes";
    daemon.in_log("the state", |text| text.contains(degraded).then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&["stopped undelivered=0 dropped="]);

    let ended = Setup::demo(broker.port).at_speed("\"max\"").run_once().expect(1);
    ended.says(&[log, "takes packets of at most 250"]);
    let summary = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(summary.contains("prediction.oversize") && summary.contains("p/shoulder/prediction ("), "{summary}");
}

/// More of them than the broker has in flight at once: they must not hold up what follows.
#[test]
fn commands_that_are_too_large_are_passed_over() {
    let broker = limited("");
    let setup = Setup::demo(broker.port).with_keys("[mqtt]", "commands = true");
    let large = setup.dir.path().join("large");
    std::fs::write(&large, vec![b'x'; 300_000]).unwrap();
    let mut subscriber = broker.subscribe("edgewatt/demo/#");
    let mut daemon = setup.start(&[]);
    daemon.in_log("a connection", |log| log.contains("connected to the MQTT broker").then_some(()));
    let port = broker.port.to_string();
    for _ in 0..25 {
        let mut publish = edgewatt_support::mosquitto::command("mosquitto_pub");
        publish.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "edgewatt/demo/cmd/pause", "-f"]).arg(&large);
        assert!(publish.status().unwrap().success());
    }
    broker.publish("edgewatt/demo/cmd/pause", r#"{"pipeline":"shoulder"}"#);
    subscriber.until(|line| line.starts_with("edgewatt/demo/p/shoulder/status ") && line.contains("\"paused\""));
    daemon.in_log("the refusal", |log| log.contains("refused: a command is smaller").then_some(()));
}

#[test]
fn a_signal_that_comes_twice_at_once_loses_nothing() {
    let broker = limited("");
    let mut subscriber = broker.subscribe("edgewatt/demo/#");
    let pairs = [
        [Signal::SIGTERM, Signal::SIGTERM],
        [Signal::SIGINT, Signal::SIGINT],
        [Signal::SIGINT, Signal::SIGTERM],
        [Signal::SIGTERM, Signal::SIGHUP],
        [Signal::SIGHUP, Signal::SIGTERM],
    ];
    let setup = Setup::demo(broker.port);
    for round in 0..10 {
        let mut daemon = setup.start(&[]);
        daemon.in_log("a connection", |log| log.contains("connected to the MQTT broker").then_some(()));
        subscriber.until(|line| line.starts_with("edgewatt/demo/p/shoulder/prediction "));
        // One after the other, some with time for the first to be handled.
        for signal in pairs[round % pairs.len()] {
            daemon.signal(signal);
            std::thread::sleep(Duration::from_millis(if round < 5 { 0 } else { 2 }));
        }
        let ended = daemon.wait().expect(0);
        assert!(!ended.stderr.contains("second signal") && ended.stderr.contains("stopped"), "{}", ended.stderr);
        let lines = subscriber.until(|line| line == "edgewatt/demo/status offline");
        let stopped =
            |line: &String| line.starts_with("edgewatt/demo/p/shoulder/status ") && line.contains("\"stopped\"");
        assert!(lines.iter().any(stopped), "{lines:?}");
    }
}
