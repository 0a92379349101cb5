//! The source `mqtt` against a real mosquitto: every value that a sensor publishes reaches the model once, and what is lost or
//! refused is counted and said.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Daemon, Setup, edgewatt, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber, command, free_port};
use edgewatt_support::proxy::Proxy;
use edgewatt_support::wire::Wire;
use edgewatt_support::{root, runtime_library};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::security::{Authority, private, tls_listener, with_a_user};

const NDJSON: &str = "topic = \"s/x\"\nrecords = { channels = [\"x\"], format = \"ndjson\" }";

/// A node whose pipeline publishes the negated values of windows of `samples`.
fn node(port: u16, mqtt: &str, samples: usize, source: &str) -> Setup {
    let text = format!(
        "node.id = 'n'\nruntime.library = {:?}\nmetrics.interval_s = 0.2\n[mqtt]\n{mqtt}\nbroker = 'mqtt://127.0.0.1:{port}'\n\
         retry_min_ms = 20\nretry_max_ms = 200\n\n[pipelines.p]\nwindow = {{ samples = {samples}, hop = {samples} }}\n\
         model.path = {:?}\ndecision.raw = {{}}\n\n[pipelines.p.source.mqtt]\n{source}\n",
        runtime_library(),
        root().join("tests/models/open_input.tflite")
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Setup::of(file.path())
}

/// A daemon with the folder of its configuration.
struct Node {
    daemon: Daemon,
    setup: Setup,
}

impl Node {
    fn start(setup: Setup) -> Self {
        Self { daemon: setup.start(&[]), setup }
    }
}

/// A daemon whose source has its subscription.
fn subscribed(setup: Setup) -> Node {
    let node = Node::start(setup);
    subscriptions(&node.daemon, 1);
    node
}

/// Waits until the source has subscribed so often.
fn subscriptions(daemon: &Daemon, count: usize) {
    wait_until(
        || format!("subscription {count} in:\n{}", daemon.log()),
        || daemon.log().matches("subscribed to ").count() >= count,
    );
}

/// Publishes each line as a message, in order, by one client.
fn publish_lines(port: u16, topic: &str, more: &[&str], lines: impl IntoIterator<Item = String>) {
    let port = port.to_string();
    let mut client = command("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-l"])
        .args(more)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    assert!(client.wait().unwrap().success(), "mosquitto_pub failed");
}

/// Publishes bytes as one message.
fn publish_bytes(port: u16, topic: &str, bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let port = port.to_string();
    let client = command("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", "1", "-f"])
        .arg(file.path())
        .status();
    assert!(client.unwrap().success(), "mosquitto_pub failed");
}

fn json_lines(values: impl IntoIterator<Item = usize>) -> Vec<String> {
    values.into_iter().map(|n| format!("{{\"x\": {n}}}")).collect()
}

/// The values that went into the model, as the predictions show them.
fn values(wire: &Wire) -> Vec<f64> {
    let of = |prediction: &Value| -> Vec<f64> {
        let outputs = prediction["outputs"].as_array().unwrap();
        outputs.iter().flat_map(|output| output.as_array().unwrap()).map(|value| -value.as_f64().unwrap()).collect()
    };
    wire.predictions().iter().flat_map(of).collect()
}

/// Receives until `count` predictions are there.
fn predictions(subscriber: &mut Subscriber, count: usize) -> Wire {
    let mut seen = 0;
    Wire::new(subscriber.until(|line| {
        seen += usize::from(line.contains("/prediction "));
        seen == count
    }))
}

/// Receives until the pipeline's status is in that state for a reason with these words.
fn status(subscriber: &mut Subscriber, state: &str, words: &str) -> Vec<String> {
    subscriber.until(|line| {
        line.starts_with("edgewatt/n/p/p/status ") && line.contains(&format!("\"{state}\"")) && line.contains(words)
    })
}

/// Receives until metrics of the pipeline have what `holds` says.
fn metrics(subscriber: &mut Subscriber, holds: impl Fn(&Value) -> bool) -> Value {
    let parse =
        |line: &str| -> Option<Value> { serde_json::from_str(line.strip_prefix("edgewatt/n/p/p/metrics ")?).ok() };
    let lines = subscriber.until(|line| parse(line).is_some_and(|metrics| holds(&metrics)));
    parse(lines.last().unwrap()).unwrap()
}

/// Stops a daemon in order.
fn end(node: Node) -> Setup {
    node.daemon.signal(Signal::SIGTERM);
    node.daemon.wait().expect(0);
    node.setup
}

fn counts(range: std::ops::Range<usize>) -> Vec<f64> {
    range.map(|n| n as f64).collect()
}

#[test]
fn every_value_reaches_the_model_once_with_both_versions_and_qualities() {
    for version in ["3.1.1", "5"] {
        for qos in ["0", "1"] {
            let broker = Mosquitto::running();
            let mut subscriber = broker.subscribe("edgewatt/#");
            let setup = node(broker.port, &format!("version = '{version}'"), 10, &format!("qos = {qos}\n{NDJSON}"));
            let running = subscribed(setup);
            publish_lines(broker.port, "s/x", &["-q", qos], json_lines(0..500));
            let wire = predictions(&mut subscriber, 50);
            assert_eq!(values(&wire), counts(0..500), "MQTT {version}, QoS {qos}");
            end(running);
        }
    }
}

#[test]
fn what_boards_and_gateways_send_is_read() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let mut run = |samples: usize, source: &str, publish: &dyn Fn(), expected: &[f64]| {
        let running = subscribed(node(broker.port, "", samples, source));
        publish();
        assert_eq!(values(&predictions(&mut subscriber, 1)), expected, "{source}");
        end(running);
    };
    // Zigbee2MQTT.
    run(
        2,
        "topic = \"zigbee2mqtt/sensor\"\nrecords = { channels = [\"temperature\", \"humidity\"], format = \"ndjson\" }",
        &|| {
            let topic = "zigbee2mqtt/sensor";
            broker.publish(topic, "{\"battery\":100,\"humidity\":48.5,\"linkquality\":120,\"temperature\":21.25}");
            broker.publish(topic, "{\"battery\":100,\"linkquality\":96}");
            broker.publish(topic, "{\"humidity\":49,\"temperature\":21.5}");
        },
        &[21.25, 48.5, 21.5, 49.0],
    );
    // Tasmota, with its time without a zone.
    run(
        2,
        "topic = \"tele/+/SENSOR\"\nrecords = { channels = [\"/BME280/Temperature\"], format = \"ndjson\", time = \"Time\", \
         rate_hz = 0.1 }",
        &|| {
            for (second, value) in [(0, 20.5), (10, 20.75)] {
                let payload = format!(
                    "{{\"Time\":\"2026-11-28T10:00:{second:02}\",\"BME280\":{{\"Temperature\":{value},\"Humidity\":40.1}},\
                     \"TempUnit\":\"C\"}}"
                );
                broker.publish("tele/kitchen/SENSOR", &payload);
            }
        },
        &[20.5, 20.75],
    );
    // ESPHome: a number on a topic of its own.
    run(
        2,
        "topic = \"esp/sensor/current/state\"\nrecords = { channels = [\"v\"], columns = [\"v\"] }",
        &|| ["23.5", "nan", "-0.25"].into_iter().for_each(|text| broker.publish("esp/sensor/current/state", text)),
        &[23.5, -0.25],
    );
    // Several records in a message: lines, and a JSON array.
    run(
        4,
        "topic = \"b/+\"\nrecords = { channels = [\"/a/x\", \"/a/y\"], format = \"json\" }",
        &|| {
            broker.publish("b/1", "[{\"a\":{\"x\":1,\"y\":2}},\n {\"a\":{\"x\":3,\"y\":4}}]");
            broker.publish("b/2", "{\"a\":{\"x\":5,\"y\":6}}\n{\"a\":{\"x\":7,\"y\":8}}\n");
        },
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    );
    // A board that sends raw samples in blocks; an odd byte is counted.
    let bytes: Vec<u8> = [-32768i16, 1, -2, 3].into_iter().flat_map(i16::to_le_bytes).collect();
    run(
        4,
        "topic = \"esp32/pcm\"\nbytes = { format = \"s16le\", rate_hz = 100.0 }",
        &|| {
            publish_bytes(broker.port, "esp32/pcm", &bytes[..2]);
            publish_bytes(broker.port, "esp32/pcm", &[&bytes[2..6], b"x"].concat());
            publish_bytes(broker.port, "esp32/pcm", &bytes[6..]);
        },
        &[-32768.0, 1.0, -2.0, 3.0],
    );
}

#[test]
fn a_broker_that_goes_and_comes_back_is_a_reason_and_a_gap() {
    let mut broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    // The node's own connection is to another broker, so that what it says is seen meanwhile.
    let mut sensors = Mosquitto::running();
    let source = format!("broker = \"mqtt://127.0.0.1:{}\"\n{NDJSON}", sensors.port);
    let running = subscribed(node(broker.port, "", 10, &source));
    // The last five fill no window.
    publish_lines(sensors.port, "s/x", &["-q", "1"], json_lines(0..25));
    assert_eq!(values(&predictions(&mut subscriber, 2)), counts(0..20));

    sensors.kill();
    status(&mut subscriber, "degraded", "source: no connection to the MQTT broker 127.0.0.1");
    sensors.start();
    status(&mut subscriber, "degraded", "again, but no message has come on s/x since");
    subscriptions(&running.daemon, 2);
    publish_lines(sensors.port, "s/x", &["-q", "1"], json_lines(100..120));
    let wire = predictions(&mut subscriber, 2);
    assert_eq!(values(&wire), counts(100..120), "no window spans the gap");
    let told = metrics(&mut subscriber, |metrics| metrics["counts"]["gaps"]["reconnect"] != 0);
    assert_eq!(told["counts"]["gaps"]["reconnect"], 1, "{told}");
    end(running);
    broker.stop();
}

#[test]
fn a_session_that_is_kept_loses_and_repeats_nothing_when_connections_break() {
    const MESSAGES: usize = 2000;
    const CHUNK: usize = 250;
    for version in ["3.1.1", "5"] {
        let broker = Mosquitto::running();
        let mut subscriber = broker.subscribe("edgewatt/#");
        let proxy = Proxy::before(broker.port);
        let source = format!(
            "broker = \"mqtt://127.0.0.1:{}\"\nversion = \"{version}\"\nsession = \"persistent\"\n{NDJSON}",
            proxy.port
        );
        let running = subscribed(node(broker.port, "", 1, &source));
        for begin in (0..MESSAGES).step_by(CHUNK) {
            let port = broker.port;
            let lines = json_lines(begin..begin + CHUNK);
            let sensor = std::thread::spawn(move || publish_lines(port, "s/x", &["-q", "1"], lines));
            let first = predictions(&mut subscriber, 1);
            proxy.cut();
            let rest = predictions(&mut subscriber, CHUNK - 1);
            sensor.join().unwrap();
            let all = [values(&first), values(&rest)].concat();
            assert_eq!(all, counts(begin..begin + CHUNK), "MQTT {version}");
        }
        let told = metrics(&mut subscriber, |metrics| metrics["counts"]["samples"] == MESSAGES);
        assert!(told["counts"]["gaps"]["reconnect"] != 0, "{told}");
        assert!(proxy.accepted() > 2, "{} connections", proxy.accepted());
        // While the daemon is off, the broker goes on keeping them.
        end(running);
        publish_lines(broker.port, "s/x", &["-q", "1"], json_lines(0..50));
        let running = subscribed(node(broker.port, "", 1, &source));
        assert_eq!(values(&predictions(&mut subscriber, 50)), counts(0..50), "MQTT {version}");
        end(running);
    }
}

/// The next packet of a client, whose length is below 128.
fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).unwrap();
    [&head[..], &body].concat()
}

/// A PUBLISH of QoS 1 on `s/x`.
fn publish_packet(id: u8, repeated: bool, payload: &str) -> Vec<u8> {
    let length = u8::try_from(2 + 3 + 2 + payload.len()).unwrap();
    [&[0x32 | u8::from(repeated) << 3, length, 0, 3], &b"s/x"[..], &[0, id], payload.as_bytes()].concat()
}

#[test]
fn what_the_broker_sends_again_is_taken_if_it_was_not_taken_before() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let source =
        format!("broker = \"mqtt://127.0.0.1:{port}\"\nversion = \"3.1.1\"\nsession = \"persistent\"\n{NDJSON}");
    let running = Node::start(node(broker.port, "", 1, &source));
    listener.set_nonblocking(true).unwrap();
    let accept = |resumed: u8| {
        let mut accepted = None;
        wait_until(
            || format!("a connection in:\n{}", running.daemon.log()),
            || {
                accepted = listener.accept().ok();
                accepted.is_some()
            },
        );
        let (mut stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let connect = packet(&mut stream);
        assert_eq!((connect[0], connect[9] & 2), (0x10, 0), "the session is to be kept");
        stream.write_all(&[0x20, 2, resumed, 0]).unwrap();
        assert_eq!(packet(&mut stream)[0], 0x82);
        stream.write_all(&[0x90, 3, 0, 1, 1]).unwrap();
        stream
    };
    let mut first = accept(0);
    first.write_all(&publish_packet(5, false, "{\"x\": 1}")).unwrap();
    assert_eq!(packet(&mut first), [0x40, 2, 0, 5]);
    drop(first);
    // It did not get the acknowledgement; and a message was lost on its way.
    let mut second = accept(1);
    second.write_all(&publish_packet(5, true, "{\"x\": 1}")).unwrap();
    second.write_all(&publish_packet(6, true, "{\"x\": 2}")).unwrap();
    // Another message that has the first one's id.
    second.write_all(&publish_packet(5, false, "{\"x\": 1}")).unwrap();
    second.write_all(&publish_packet(7, false, "{\"x\": 3}")).unwrap();
    for id in [5, 6, 5, 7] {
        assert_eq!(packet(&mut second), [0x40, 2, 0, id], "each is acknowledged");
    }
    assert_eq!(values(&predictions(&mut subscriber, 4)), [1.0, 2.0, 1.0, 3.0]);
    end(running);
}

#[test]
fn what_the_broker_kept_from_before_is_counted_and_used_only_if_asked_for() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    for topic in ["s/a", "s/b"] {
        broker.publish_retained(topic, "{\"x\": 1}");
    }
    for version in ["3.1.1", "5"] {
        let source = "topic = \"s/+\"\nrecords = { channels = [\"x\"], format = \"ndjson\" }";
        let of = |more: &str| node(broker.port, &format!("version = '{version}'"), 2, &format!("{more}\n{source}"));
        let running = subscribed(of(""));
        let told = metrics(&mut subscriber, |metrics| metrics["counts"]["rejects"]["retained"] == 2);
        assert_eq!(told["counts"]["samples"], 0, "{told}");
        // One that is published as retained now is new.
        broker.publish_retained("s/a", "{\"x\": 1}");
        broker.publish("s/b", "{\"x\": 5}");
        assert_eq!(values(&predictions(&mut subscriber, 1)), [1.0, 5.0], "MQTT {version}");
        end(running);
        let running = subscribed(of("retained = true"));
        assert_eq!(values(&predictions(&mut subscriber, 1)), [1.0, 1.0], "MQTT {version}");
        end(running);
    }
}

#[test]
fn logins_and_certificates_are_those_of_mqtt_or_its_own_and_refusals_say_what_to_do() {
    let folder = TempDir::new().unwrap();
    let password = |name: &str, text: &str| {
        let path = folder.path().join(name);
        private(&path, text);
        path
    };
    let (right, wrong) = (password("right", "s3cret\n"), password("wrong", "guess\n"));
    let broker = with_a_user("topic readwrite #");
    let login = |file: &Path| format!("user = 'edge'\npassword_file = {file:?}");
    let ours = ["-u", "edge", "-P", "s3cret"];
    let mut subscriber = Subscriber::logged_in(broker.port, "edgewatt/#", 0, &ours, "ready", &[]);
    let publish = |port: u16| publish_lines(port, "s/x", &[&["-q", "1"], &ours[..]].concat(), json_lines(0..2));

    // As the node logs in.
    let running = subscribed(node(broker.port, &login(&right), 2, NDJSON));
    publish(broker.port);
    assert_eq!(values(&predictions(&mut subscriber, 1)), [0.0, 1.0]);
    end(running);

    // To another broker, over TLS.
    let authority = Authority::new("our authority");
    let pair = authority.sign("good", &["localhost"], |_| {});
    let tls = free_port();
    let sensors = Mosquitto::configured(|_| tls_listener(tls, &authority, &pair, ""));
    let other = |ca: &Path| format!("broker = \"mqtts://localhost:{tls}\"\nca_file = {ca:?}\n{NDJSON}");
    let running = subscribed(node(broker.port, &login(&right), 2, &other(&authority.ca())));
    publish_lines(sensors.port, "s/x", &["-q", "1"], json_lines(5..7));
    assert_eq!(values(&predictions(&mut subscriber, 1)), [5.0, 6.0]);
    end(running);
    let stranger = Authority::new("their authority");
    let running = Node::start(node(broker.port, &login(&right), 2, &other(&stranger.ca())));
    let lines = status(&mut subscriber, "degraded", "no connection to the MQTT broker localhost");
    assert!(lines.last().unwrap().contains("certificate"), "{lines:?}");
    end(running);

    // A wrong password for another broker; the key is the source's.
    let elsewhere = format!("broker = \"mqtt://127.0.0.1:{}\"\n{}\n{NDJSON}", broker.port, login(&wrong));
    let setup = node(broker.port, &login(&right), 2, &elsewhere);
    let running = Node::start(setup);
    let words =
        "it refused the login: this client may not connect; check source.mqtt.user and source.mqtt.password_file";
    let alike = |line: &str| line.contains("check source.mqtt.user and source.mqtt.password_file");
    let lines = status(&mut subscriber, "degraded", "it refused the login");
    assert!(alike(lines.last().unwrap()), "{words} in {lines:?}");
    let setup = end(running);
    let checked = Daemon::start(setup.command("check", &["--online"])).wait().expect(1);
    let part = checked.stdout.split("source of pipeline p").nth(1).expect(&checked.stdout);
    assert!(part.contains("failed: it refused the login") && alike(part), "{}", checked.stdout);
}

/// A broker that refuses subscriptions in words; mosquitto's own ACL files do so in silence.
fn refusing() -> Option<Mosquitto> {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let plugin = libraries.map(|folder| folder.join("mosquitto_dynamic_security.so")).find(|path| path.exists())?;
    Some(Mosquitto::configured(|dir| {
        let rules = dir.join("rules.json");
        let text = "{\"defaultACLAccess\": {\"publishClientSend\": true, \"publishClientReceive\": true, \
                    \"subscribe\": false, \"unsubscribe\": true}}";
        std::fs::write(&rules, text).unwrap();
        format!("allow_anonymous true\nplugin {}\nplugin_opt_config_file {}\n", plugin.display(), rules.display())
    }))
}

#[test]
fn a_refused_subscription_is_a_reason_and_a_granted_one_is_shown() {
    let broker = Mosquitto::running();
    let sensors = refusing().expect("mosquitto's package has the plugin");
    let mut subscriber = broker.subscribe("edgewatt/#");
    for version in ["3.1.1", "5"] {
        let source = format!("broker = \"mqtt://127.0.0.1:{}\"\nversion = \"{version}\"\n{NDJSON}", sensors.port);
        let setup = node(broker.port, "", 2, &source);
        let running = Node::start(setup);
        status(&mut subscriber, "degraded", "it refuses the subscription to s/x; allow this user to subscribe");
        let setup = end(running);
        let checked = Daemon::start(setup.command("check", &["--online"])).wait().expect(1);
        assert!(checked.stdout.contains("failed: it refuses the subscription to s/x"), "{}", checked.stdout);
        let mut doctor = edgewatt(&["doctor", "broker", "--config"]);
        doctor.arg(setup.config());
        let examined = Daemon::start(doctor).wait().expect(1);
        assert!(examined.stdout.contains("BROKEN  pipelines.p.source: it refuses"), "{}", examined.stdout);
    }
    let setup = node(broker.port, "", 2, NDJSON);
    let checked = Daemon::start(setup.command("check", &["--online"])).wait().expect(0);
    assert!(checked.stdout.contains("s/x, granted"), "{}", checked.stdout);
}

#[test]
fn large_messages_are_read_and_larger_ones_counted() {
    const RECORDS: usize = 30_000;
    // It sends so many messages before it waits for acknowledgements.
    let broker = Mosquitto::configured(|_| "allow_anonymous true\nmax_inflight_messages 4\n".to_owned());
    let mut subscriber = broker.subscribe("edgewatt/#");
    for version in ["3.1.1", "5"] {
        let source = format!("max_kib = 512\nbuffer = {{ samples = 60000 }}\n{NDJSON}");
        let running = subscribed(node(broker.port, &format!("version = '{version}'"), 1000, &source));
        let lines = |numbers: std::ops::Range<usize>| json_lines(numbers).join("\n").into_bytes();
        let large = lines(0..RECORDS);
        assert!((300_000..512 * 1024).contains(&large.len()), "{}", large.len());
        publish_bytes(broker.port, "s/x", &large);
        assert_eq!(values(&predictions(&mut subscriber, 30)), counts(0..RECORDS), "MQTT {version}");
        for _ in 0..12 {
            publish_bytes(broker.port, "s/x", &vec![b'1'; 600 * 1024]);
            publish_bytes(broker.port, "s/x", &vec![b'1'; 900 * 1024]);
        }
        publish_bytes(broker.port, "s/x", &lines(0..1000));
        assert_eq!(values(&predictions(&mut subscriber, 1)), counts(0..1000), "MQTT {version}");
        let told = metrics(&mut subscriber, |metrics| metrics["counts"]["samples"] == RECORDS + 1000);
        assert_eq!(told["counts"]["rejects"]["too_long"], 24, "{told}");
        end(running);
    }
}

#[test]
fn a_flood_is_dropped_and_counted_and_the_connection_lives() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/n/p/p/metrics");
    let source = "topic = \"s/x\"\nqos = 0\nbuffer = { samples = 16 }\nbytes = { format = \"s16le\" }";
    let running = subscribed(node(broker.port, "keep_alive_s = 2", 1, source));
    // A broker ends a connection that is silent for one and a half times the keep-alive time.
    let until = Instant::now() + Duration::from_secs(6);
    let port = broker.port;
    let floods: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                let mut sent = 0;
                while Instant::now() < until {
                    publish_lines(port, "s/x", &["-q", "0"], std::iter::repeat_n("x".repeat(2000), 2000));
                    sent += 2000 * 1000u64;
                }
                sent
            })
        })
        .collect();
    let sent: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    let told = metrics(&mut subscriber, |metrics| {
        let count = |value: &Value| value.as_u64().unwrap();
        count(&metrics["counts"]["samples"]) + count(&metrics["counts"]["drops"]["source_overflow"]) == sent
    });
    assert!(told["counts"]["drops"]["source_overflow"].as_u64().unwrap() > 0, "{told}");
    assert!(told["process"]["rss_mib"].as_f64().unwrap() < 150.0, "{told}");
    assert!(!running.daemon.log().contains("no connection"), "{}", running.daemon.log());
    end(running);
}

#[test]
fn a_reload_changes_the_topic_and_a_session_of_the_old_one_is_ended() {
    for session in ["clean", "persistent"] {
        let broker = Mosquitto::running();
        let mut subscriber = broker.subscribe("edgewatt/#");
        let setup = node(broker.port, "", 2, &format!("session = \"{session}\"\n{NDJSON}"));
        let Node { daemon, setup } = subscribed(setup);
        publish_lines(broker.port, "s/x", &["-q", "1"], json_lines(0..2));
        assert_eq!(values(&predictions(&mut subscriber, 1)), [0.0, 1.0]);
        let setup = setup.with("topic = \"s/x\"", "topic = \"s/y\"");
        setup.config();
        daemon.signal(Signal::SIGHUP);
        let running = Node { daemon, setup };
        wait_until(
            || format!("the new topic in:\n{}", running.daemon.log()),
            || running.daemon.log().contains("subscribed to s/y"),
        );
        publish_lines(broker.port, "s/x", &["-q", "1"], json_lines(10..12));
        if session == "persistent" {
            subscriptions(&running.daemon, 3);
        }
        publish_lines(broker.port, "s/y", &["-q", "1"], json_lines(20..22));
        assert_eq!(values(&predictions(&mut subscriber, 1)), [20.0, 21.0], "{session}");
        end(running);
    }
}
