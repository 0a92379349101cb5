//! The configurations of docs/fleet, as they are but for ports and folders, on real brokers and with the real daemon.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use edgewatt::mqtt::codec::{Incoming, Session, Version};
use edgewatt::mqtt::connection::{ConnectOptions, Connection, Will};
use edgewatt::mqtt::transport::{Endpoint, Tls};
use edgewatt::publish::message::Qos;
use edgewatt_support::daemon::{Daemon, PATIENCE, Setup, wait_until};
use edgewatt_support::link::publish;
use edgewatt_support::mosquitto::{Mosquitto, Subscriber, command, free_port};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

const USERS: [&str; 5] = ["site7", "porch", "attic", "telemetry", "operator"];
const PASSWORD: &str = "change-me";

/// A file of docs/fleet; each `old` must be in it.
fn documented(name: &str, replacements: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(root().join("docs/fleet").join(name)).unwrap();
    for (old, new) in replacements {
        assert!(text.contains(old), "docs/fleet/{name} has no {old}");
        text = text.replace(old, new);
    }
    text
}

/// What lies in /etc/mosquitto on a real machine: who may do what, certificates and a certificate authority.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("edgewatt.acl"), documented("edgewatt.acl", &[])).unwrap();
        std::fs::write(at("edgewatt.passwd"), "").unwrap();
        for user in USERS {
            let made = command("mosquitto_passwd").arg("-b").arg(at("edgewatt.passwd")).args([user, PASSWORD]).status();
            assert!(made.unwrap().success());
        }
        std::fs::write(at("password"), PASSWORD).unwrap();
        std::fs::set_permissions(at("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "the fleet's authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let broker = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(at("upstream-ca.pem"), issuer.pem()).unwrap();
        std::fs::write(at("broker.pem"), broker.pem()).unwrap();
        std::fs::write(at("broker.key"), key.serialize_pem()).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// One of the documented brokers with its own folder for what it keeps.
    fn broker(&self, name: &str, port: u16, replacements: &[(&str, &str)]) -> Mosquitto {
        let kept = TempDir::new().unwrap();
        let (etc, var) = (self.path(""), format!("{}/", kept.path().display()));
        let all = [&[("/etc/mosquitto/", etc.as_str()), ("/var/lib/mosquitto/", &var)], replacements].concat();
        // It would become the user mosquitto, who may not read a test's folder.
        let mut broker = Mosquitto::exactly(port, kept, &format!("user root\n{}", documented(name, &all)));
        broker.start();
        broker
    }
}

/// The broker of a fleet.
struct Upstream {
    files: Files,
    broker: Mosquitto,
    tls_port: u16,
}

impl Upstream {
    fn new() -> Self {
        let (files, port, tls_port) = (Files::new(), free_port(), free_port());
        let (plain, tls) = (format!("listener {port} 127.0.0.1"), format!("listener {tls_port} 127.0.0.1"));
        let broker =
            files.broker("upstream.conf", port, &[("listener 1883 127.0.0.1", &plain), ("listener 8883", &tls)]);
        Self { files, broker, tls_port }
    }

    /// The documented gateway, which hands on to this one.
    fn gateway(&self) -> Mosquitto {
        let port = free_port();
        let (listener, upstream) = (format!("listener {port} 127.0.0.1"), format!("127.0.0.1:{}", self.tls_port));
        let quick = ("restart_timeout 2 60", "restart_timeout 1 1");
        let ours = [("listener 1883", listener.as_str()), ("broker.example:8883", &upstream), quick];
        self.files.broker("gateway.conf", port, &ours)
    }

    fn subscribe(&self, topic: &str, more: &[&str]) -> Subscriber {
        let login = ["-u", "telemetry", "-P", PASSWORD];
        Subscriber::logged_in(self.broker.port, topic, 1, &login, "edgewatt/telemetry/ready", more)
    }

    fn publish_as(&self, user: &str, topic: &str, payload: &str) {
        let port = self.broker.port.to_string();
        let told = command("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-u", user, "-P", PASSWORD, "-q", "1", "-t", topic, "-m", payload])
            .status();
        assert!(told.unwrap().success());
    }

    /// As a node reaches it.
    fn reach(&self, user: &str, client_id: &str) -> ConnectOptions {
        let tls = Tls { ca_file: Some(self.files.path("upstream-ca.pem").into()), ..Tls::default() };
        ConnectOptions {
            endpoint: Endpoint { host: "127.0.0.1".into(), port: self.tls_port, tls: Some(tls), websocket: None },
            version: Version::Five,
            login: Some((user.into(), self.files.path("password").into())),
            client_id: client_id.into(),
            keep_alive: Duration::from_secs(30),
            connect_timeout: PATIENCE,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session: Session::default(),
        }
    }

    /// The demo as the node `porch`, at that broker with that user.
    fn node(&self, broker: &str, user: &str, keys: &str) -> Setup {
        let login = format!("user = \"{user}\"\npassword_file = \"{}\"\n{keys}", self.files.path("password"));
        let ca = format!("ca_file = \"{}\"", self.files.path("upstream-ca.pem"));
        let setup = Setup::demo(0).with("mqtt://127.0.0.1:0", broker).with("id = \"demo\"", "id = \"porch\"");
        setup.with_keys("[mqtt]", &if broker.starts_with("mqtts") { format!("{login}\n{ca}") } else { login })
    }

    fn direct_node(&self, user: &str, keys: &str) -> Setup {
        self.node(&format!("mqtts://127.0.0.1:{}", self.tls_port), user, keys)
    }
}

fn is_retained(lines: &[String], line: &str) -> bool {
    lines.iter().any(|retained| retained == line)
}

#[test]
fn a_gateway_hands_on_everything_whatever_restarts_meanwhile() {
    let mut upstream = Upstream::new();
    let mut gateway = upstream.gateway();
    let mut store = upstream.subscribe("edgewatt/site7/#", &["-c", "-i", "store"]);
    let setup = upstream
        .node(&format!("mqtt://127.0.0.1:{}", gateway.port), "porch", "commands = true\nretry_max_ms = 500")
        .at_speed("50.0")
        .with("interval_s = 10.0", "interval_s = 1.0");
    let daemon = setup.start(&["--once"]);
    let mut lines = store.until(|line| line.contains(r#""seq":60,"#));

    // The upstream broker is away for some hundred predictions, and the gateway itself restarts in that time.
    upstream.broker.stop();
    std::thread::sleep(Duration::from_secs(2));
    gateway.stop();
    gateway.start();
    std::thread::sleep(Duration::from_secs(1));
    upstream.broker.start();
    upstream.publish_as("operator", "edgewatt/site7/porch/cmd/dance", "");
    let ended = daemon.wait().expect(0);
    let made = ended.summary(" predictions");
    lines.extend(store.until(|line| line.contains(&format!(r#""seq":{},"#, made - 1))));
    lines.extend(store.rest(Duration::from_secs(2)));

    let wire = Wire::new(lines);
    let seqs = wire.seqs();
    // When its bridge comes back, mosquitto lets new messages overtake the last of its queue: the order is not asked for.
    let seen: BTreeSet<u64> = seqs.iter().copied().collect();
    let lost: Vec<u64> = (0..made).filter(|seq| !seen.contains(seq)).collect();
    assert!(lost.is_empty(), "of {made} are lost: {lost:?}");
    // What the node had in flight to the gateway, and the gateway to upstream.
    assert!(seqs.len() - seen.len() <= 256 + 200, "{} came twice", seqs.len() - seen.len());
    assert_eq!(wire.metrics()["counts"]["predictions"], made);
    assert!(wire.texts("/event").iter().any(|event| event.contains("dance")), "{:?}", wire.texts("/event"));

    // What is retained is so upstream too.
    let retained = upstream.subscribe("edgewatt/site7/#", &[]).retained();
    assert!(is_retained(&retained, "edgewatt/site7/porch/status offline"), "{retained:?}");
    assert!(is_retained(&retained, "edgewatt/site7/bridge 1"), "{retained:?}");
    assert_eq!(retained.iter().filter(|line| line.contains("/p/shoulder/state ")).count(), 1, "{retained:?}");
}

#[test]
fn a_last_will_goes_through_the_gateway_and_the_gateway_has_one_of_its_own() {
    let upstream = Upstream::new();
    let mut gateway = upstream.gateway();
    let mut store = upstream.subscribe("edgewatt/site7/#", &[]);
    let broker = format!("mqtt://127.0.0.1:{}", gateway.port);
    let setup = upstream.node(&broker, "porch", "");
    let daemon = setup.start(&[]);
    store.until(|line| line == "edgewatt/site7/porch/status online");
    daemon.signal(Signal::SIGKILL);
    store.until(|line| line == "edgewatt/site7/porch/status offline");
    let again = setup.start(&[]);
    store.until(|line| line == "edgewatt/site7/porch/status online");
    gateway.kill();
    store.until(|line| line == "edgewatt/site7/bridge 0");
    // Nobody is left who could say otherwise.
    let retained = upstream.subscribe("edgewatt/site7/#", &[]).retained();
    assert!(is_retained(&retained, "edgewatt/site7/porch/status online"), "{retained:?}");
    drop(again);
}

#[test]
fn consumers_of_a_group_split_a_stream_with_nothing_twice() {
    let upstream = Upstream::new();
    let topic = "$share/store/edgewatt/+/p/+/prediction";
    let mut consumers = [upstream.subscribe(topic, &[]), upstream.subscribe(topic, &[])];
    let ended = upstream.direct_node("porch", "").at_speed("\"max\"").run_once().expect(0);
    let made = ended.summary(" predictions");
    let parts = consumers.each_mut().map(|consumer| Wire::new(consumer.rest(Duration::from_secs(2))).seqs());
    let mut all = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..made).collect::<Vec<_>>(), "lost or twice");
    assert!(parts.iter().all(|part| part.len() > 50), "{:?}", parts.map(|part| part.len()));
}

#[test]
fn a_node_writes_its_own_tree_alone_hears_its_own_commands_and_takes_nobody_s_place() {
    let upstream = Upstream::new();
    let mut store = upstream.subscribe("#", &[]);
    let work = async {
        let open = async |user: &str, id: &str, will| {
            let until = Instant::now() + PATIENCE;
            Connection::open(&upstream.reach(user, id), will, until, |_, _, _| {}).await.unwrap()
        };
        let mut porch = open("porch", "edgewatt-porch", None).await;
        for own in ["edgewatt/porch/event", "edgewatt/porch/p/x/prediction", "homeassistant/device/porch/config"] {
            assert_eq!(publish(&mut porch, own).await, None, "{own}");
        }
        for other in ["edgewatt/attic/event", "edgewatt/porch2/event", "edgewatt", "else", "homeassistant/status"] {
            assert!(publish(&mut porch, other).await.is_some(), "{other}");
        }
        // As the client that porch is, with a last will in its tree; gone without a word.
        let will = Will { topic: "edgewatt/porch/status", payload: b"offline" };
        let mut attic = open("attic", "edgewatt-porch", Some(will)).await;
        assert_eq!(publish(&mut attic, "edgewatt/attic/event").await, None);
        drop(attic);
        assert_eq!(publish(&mut porch, "edgewatt/porch/event").await, None, "thrown out");

        porch.subscribe("#", 9).unwrap();
        assert_eq!(publish(&mut porch, "edgewatt/porch/event").await, None);
        for (user, topic) in [
            ("attic", "edgewatt/attic/event"),
            ("operator", "edgewatt/attic/cmd/reload"),
            ("attic", "edgewatt/porch/cmd/reload"),
            ("telemetry", "edgewatt/porch/cmd/reload"),
            ("operator", "edgewatt/porch/event"),
            ("operator", "edgewatt/porch/cmd/pause"),
        ] {
            upstream.publish_as(user, topic, user);
        }
        let heard = loop {
            if let Incoming::Message { topic, payload, .. } = porch.read().await.unwrap() {
                break (topic, payload);
            }
        };
        assert_eq!((heard.0.as_str(), heard.1.as_ref()), ("edgewatt/porch/cmd/pause", &b"operator"[..]));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() });
    let lines = store.until(|line| line == "edgewatt/porch/cmd/pause operator");
    assert!(!lines.iter().any(|line| line.contains("offline")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.as_str() == "edgewatt/attic/event attic").count(), 1, "{lines:?}");
}

/// A value by its path, with `[0]` for a place in a list.
fn at_path<'a>(json: &'a Value, path: &str, separator: char) -> Option<&'a Value> {
    path.split(separator).try_fold(json, |value, step| {
        match step.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(place) => value.get(place.parse::<usize>().unwrap()),
            None => value.get(step),
        }
    })
}

/// Pairs of the name in Prometheus and the path in our messages.
fn exported(yaml: &str) -> Vec<(String, String)> {
    let after = |text: &str, key: &str| {
        let (_, rest) = text.split_once(key)?;
        Some(rest.trim_start().split([',', '\n']).next()?.trim_matches('"').to_owned())
    };
    let pairs = yaml.split("prom_name:").skip(1);
    pairs.map(|rest| (after(rest, "").unwrap(), after(rest, "mqtt_name:").unwrap())).collect()
}

fn scrape(port: u16) -> String {
    let mut page = String::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return page };
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// The values of a series of that sensor, one for each set of its other labels.
fn scraped(page: &str, name: &str, sensor: &str, label: &str) -> Vec<f64> {
    let is_it = |line: &&str| {
        let of_sensor = line.contains(&format!(r#"sensor="{sensor}""#));
        line.starts_with(&format!("{name}{{")) && of_sensor && line.contains(label)
    };
    let value = |line: &str| line.split_once("} ")?.1.split(' ').next()?.parse().ok();
    page.lines().filter(is_it).map(|line| value(line).unwrap()).collect()
}

fn exporter(upstream: &Upstream, folder: &Path, file: &str) -> (Daemon, u16) {
    let (broker, port) = (format!("tcp://127.0.0.1:{}", upstream.broker.port), free_port());
    let config = folder.join(file);
    std::fs::write(&config, documented(file, &[("tcp://127.0.0.1:1883", &broker)])).unwrap();
    let mut exporter = command("prometheus-mqtt-exporter");
    exporter.args(["-listen-address", "127.0.0.1", "-listen-port", &port.to_string(), "-config"]).arg(config);
    exporter.env("MQTT2PROM_MQTT_USER", "telemetry").env("MQTT2PROM_MQTT_PASSWORD", PASSWORD);
    let exporter = Daemon::start(exporter);
    wait_until(|| exporter.log(), || scrape(port).contains("\nmqtt2prometheus_connected 1\n"));
    (exporter, port)
}

/// Compares each series of an exporter's file with the message that it comes from. Returns how many have a value, and how
/// many are not known.
fn compare(page: &str, file: &str, sensor: &str, message: &Value) -> (u32, u32) {
    let (mut known, mut unknown) = (0, 0);
    for (name, path) in exported(&documented(file, &[])) {
        let expected = match at_path(message, &path, '/') {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::Bool(value)) => Some(f64::from(u8::from(*value))),
            Some(Value::String(text)) => {
                let codes = [("running", 3), ("stopped", 0), ("ended", 0), ("estimated", 1)];
                Some(f64::from(codes.iter().find(|(name, _)| name == text).unwrap_or_else(|| panic!("{text}")).1))
            }
            None if !path.contains("/drops/") && !path.starts_with("energy/") => panic!("{path} is not in {message}"),
            Some(Value::Null) | None => None,
            other => panic!("{path} is {other:?}"),
        };
        let place = path.split(['[', ']']).nth(1).map_or(String::new(), |place| format!(r#"meter="{place}""#));
        let found = scraped(page, &name, sensor, &place);
        let same = found.first().zip(expected).is_none_or(|(a, b)| (a - b).abs() <= 1e-12 * b.abs());
        let once = found.len() == usize::from(expected.is_some());
        assert!(same && once, "{name} of {path}: {found:?}, not {expected:?} in {page}");
        if expected.is_some() { known += 1 } else { unknown += 1 }
    }
    (known, unknown)
}

#[test]
fn prometheus_sees_the_figures_of_a_metrics_message_and_no_zero_for_what_is_unknown() {
    let upstream = Upstream::new();
    let folder = TempDir::new().unwrap();
    let [pipelines, nodes, status] =
        ["", "-nodes", "-status"].map(|name| format!("prometheus-mqtt-exporter{name}.yaml"));
    let (exporter_of_pipelines, port) = exporter(&upstream, folder.path(), &pipelines);
    let (exporter_of_nodes, nodes_port) = exporter(&upstream, folder.path(), &nodes);
    let (exporter_of_status, status_port) = exporter(&upstream, folder.path(), &status);
    let mut store = upstream.subscribe("edgewatt/#", &[]);
    let second = "[power.meters.guess]\nestimate = { watts_per_core = 3.0, idle_watts = 2.5 }\n[power.meters.other]";
    let setup = upstream
        .direct_node("site7", "base_topic = \"edgewatt/site7\"")
        .with("[power.meters.guess]", second)
        .at_speed("\"max\"");
    let daemon = setup.start(&["--once"]);
    let is_online = |value: f64| scraped(&scrape(status_port), "edgewatt_online", "site7/porch", "") == [value];
    let made = daemon.wait().expect(0).summary(" predictions");
    let lines = store.until(|line| line == "edgewatt/site7/porch/status offline");
    wait_until(|| format!("{}\n{}", exporter_of_status.log(), scrape(status_port)), || is_online(0.0));

    let (pipeline, node) = ("site7/porch/p/shoulder", "site7/porch");
    let last = |topic: &str| -> Value {
        let start = format!("edgewatt/{topic} ");
        serde_json::from_str(lines.iter().rev().find_map(|line| line.strip_prefix(&start)).unwrap()).unwrap()
    };
    let (of_pipeline, of_node) = (last(&format!("{pipeline}/metrics")), last(&format!("{node}/node_metrics")));
    assert_eq!(of_pipeline["counts"]["predictions"], made);
    assert_eq!((&of_node["process"], &of_node["delivery"]), (&of_pipeline["process"], &of_pipeline["delivery"]));
    let is_there = || scraped(&scrape(port), "edgewatt_predictions_total", pipeline, "") == [made as f64];
    wait_until(|| format!("{}\n{}", exporter_of_pipelines.log(), scrape(port)), is_there);
    let delivered = of_node["delivery"]["delivered"].as_f64().unwrap();
    let is_there = || scraped(&scrape(nodes_port), "edgewatt_delivered_total", node, "") == [delivered];
    wait_until(|| format!("{}\n{}", exporter_of_nodes.log(), scrape(nodes_port)), is_there);

    let (known, unknown) = compare(&scrape(port), &pipelines, pipeline, &of_pipeline);
    assert!(known >= 14 && unknown >= 12, "{known} known, {unknown} unknown");
    let (known, unknown) = compare(&scrape(nodes_port), &nodes, node, &of_node);
    assert!(known >= 5 && unknown >= 2, "{known} known, {unknown} unknown");
    [of_pipeline, of_node].iter().enumerate().for_each(|(place, message)| telegraf_names_what_is_there(place, message));
    // Another node that is there.
    upstream.publish_as("site7", "edgewatt/site7/attic/status", "online");
    let other = || scraped(&scrape(status_port), "edgewatt_online", "site7/attic", "") == [1.0];
    wait_until(|| format!("{}\n{}", exporter_of_status.log(), scrape(status_port)), other);
}

/// Telegraf itself is not in Debian.
fn telegraf_names_what_is_there(place: usize, message: &Value) {
    let config: toml::Table = documented("telegraf.conf", &[]).parse().unwrap();
    let input = &config["inputs"]["mqtt_consumer"][place];
    for metric in input["json_v2"].as_array().unwrap() {
        assert!(message[metric["timestamp_path"].as_str().unwrap()].is_u64());
        for object in metric["object"].as_array().unwrap() {
            let found = &message[object["path"].as_str().unwrap()];
            assert!(found.is_object() || found.is_array(), "{object}");
            let keys = ["tags", "included_keys"].iter().filter_map(|list| object.get(list)?.as_array()).flatten();
            for key in keys {
                assert!(found[0].get(key.as_str().unwrap()).is_some(), "{key} is not in {found}");
            }
        }
    }
}
