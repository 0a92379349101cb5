//! What Home Assistant finds on the broker, said by the real binary over a real mosquitto.

use edgewatt_support::daemon::Setup;
use edgewatt_support::mosquitto::Mosquitto;
use nix::sys::signal::Signal;
use serde_json::Value;

const TOPIC: &str = "homeassistant/device/demo/config";

fn payload(line: &str) -> Value {
    serde_json::from_str(line.strip_prefix(TOPIC).unwrap()).unwrap()
}

#[test]
fn home_assistant_finds_the_node_and_forgets_what_is_gone() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("#");
    let setup = || {
        Setup::demo(broker.port)
            .with_keys("[mqtt]", "discovery = true")
            .at_speed("20.0")
            .with("interval_s = 10.0", "interval_s = 1.0")
    };
    let at_first = setup();
    let daemon = at_first.start(&[]);
    let described = |line: &str| line.starts_with(TOPIC);
    let mut lines = subscriber.until(described);
    let first = payload(lines.last().unwrap());
    let components = first["cmps"].as_object().unwrap();
    assert_eq!(first["dev"]["ids"], "edgewatt_demo");
    // Every topic that an entity looks at is one that the node publishes on, and its template names a field of it.
    lines.extend(subscriber.until(|line| line.contains("/metrics ")));
    let seen: Vec<(&str, Value)> = lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(topic, json)| Some((topic, serde_json::from_str(json).ok()?)))
        .collect();
    for (key, component) in components {
        let topic = component["stat_t"].as_str().unwrap();
        let message =
            seen.iter().rev().find(|(of, _)| *of == topic).unwrap_or_else(|| panic!("{key}: nothing on {topic}"));
        let template = component["val_tpl"].as_str().unwrap().replace("(value_json | default({}))", "value_json");
        let field: String = template
            .split("value_json.")
            .nth(1)
            .unwrap()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        assert!(message.1.get(&field).is_some(), "{key}: no {field} in {}", message.1);
    }

    // Started anew, it wants to hear everything again.
    broker.publish("homeassistant/status", "offline");
    broker.publish("homeassistant/status", "online");
    let again = subscriber.until(described);
    assert!(again.iter().any(|line| line == "homeassistant/status online"), "only then: {again:?}");
    assert_eq!(payload(again.last().unwrap()), first);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);

    let later = setup().with("pipelines.shoulder", "pipelines.arm");
    let daemon = later.start(&[]);
    let removes = |line: &str| described(line) && payload(line)["cmps"]["shoulder_score"].is_object();
    let lines = subscriber.until(removes);
    let changed = payload(lines.last().unwrap());
    assert_eq!(changed["cmps"]["shoulder_score"], serde_json::json!({ "p": "sensor" }));
    assert_eq!(changed["cmps"]["arm_score"]["p"], "sensor");
    assert_eq!(changed["cmps"]["power_guess_power"], first["cmps"]["power_guess_power"]);

    // While it runs, too.
    let later = later.with("pipelines.arm", "pipelines.leg");
    later.config();
    daemon.signal(Signal::SIGHUP);
    let lines = subscriber.until(|line| described(line) && payload(line)["cmps"]["leg_score"].is_object());
    let reloaded = payload(lines.last().unwrap());
    assert_eq!(reloaded["cmps"]["arm_score"], serde_json::json!({ "p": "sensor" }));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

/// Runs the daemon until it has made a prediction, and returns what is retained afterwards, as topics.
fn retained_after(broker: &Mosquitto, setup: &Setup) -> Vec<String> {
    let mut subscriber = broker.subscribe("edgewatt/#");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let topic = |line: String| line.split(' ').next().unwrap().to_owned();
    let mut topics: Vec<String> = broker.subscribe("#").retained().into_iter().map(topic).collect();
    topics.retain(|topic| topic.starts_with("edgewatt/") || topic.starts_with("homeassistant/"));
    topics.sort();
    topics
}

fn of_node(node: &str, pipeline: &str, discovery: &[&str]) -> Vec<String> {
    let own = ["info", &format!("p/{pipeline}/state"), &format!("p/{pipeline}/status"), "power/guess", "status"]
        .map(|topic| format!("edgewatt/{node}/{topic}"));
    own.into_iter().chain(discovery.iter().map(|topic| (*topic).to_owned())).collect()
}

#[test]
fn what_a_node_no_longer_makes_is_gone_from_the_broker() {
    let broker = Mosquitto::running();
    let mut setup = Setup::demo(broker.port).with_keys("[mqtt]", "discovery = true").at_speed("20.0");
    let home = "homeassistant/device/demo/config";
    assert_eq!(retained_after(&broker, &setup), of_node("demo", "shoulder", &[home]));
    // Another pipeline, and Home Assistant is no longer told.
    setup = setup.with("discovery = true", "discovery = false").with("pipelines.shoulder", "pipelines.arm");
    assert_eq!(retained_after(&broker, &setup), of_node("demo", "arm", &[]));
    setup = setup.with("discovery = false", "discovery = true");
    assert_eq!(retained_after(&broker, &setup), of_node("demo", "arm", &[home]));
    // Another name of the node; the entities of the old one go.
    setup = setup.with("id = \"demo\"", "id = \"porch\"");
    assert_eq!(retained_after(&broker, &setup), of_node("porch", "arm", &["homeassistant/device/porch/config"]));
    // A machine that has the old name now keeps what is its own, also while it is off.
    broker.publish_retained("edgewatt/porch/info", "{\"boot\":\"of another machine\"}");
    setup = setup.with("id = \"porch\"", "id = \"attic\"");
    let both = retained_after(&broker, &setup);
    assert!(both.contains(&"edgewatt/porch/info".to_owned()), "{both:?}");
    assert!(both.contains(&"homeassistant/device/porch/config".to_owned()), "{both:?}");
}

#[test]
fn a_reload_that_removes_a_pipeline_removes_its_topics() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("20.0");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/p/shoulder/state "));
    let setup = setup.with("pipelines.shoulder", "pipelines.arm");
    setup.config();
    daemon.signal(Signal::SIGHUP);
    subscriber.until(|line| line == "edgewatt/demo/p/shoulder/state (null)");
    subscriber.until(|line| line.contains("/p/arm/state "));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    let retained = broker.subscribe("#").retained();
    assert!(!retained.iter().any(|line| line.contains("/p/shoulder/")), "{retained:?}");
}

#[test]
fn a_description_that_an_earlier_version_left_is_removed_once_and_another_node_s_is_not() {
    let broker = Mosquitto::running();
    let old = |node: &str| {
        let status = format!("edgewatt/{node}/status");
        let entity = serde_json::json!({ "p": "sensor", "avty": [{ "t": status }] });
        serde_json::json!({ "dev": { "name": format!("edgewatt {node}") }, "cmps": { "x_status": entity } }).to_string()
    };
    let topic = "homeassistant/device/porch_1/config";
    for (described, stays) in [("porch.1", false), ("porch 1", true), ("porch_1", true)] {
        broker.publish_retained(topic, &old(described));
        let setup = Setup::demo(broker.port)
            .with_keys("[mqtt]", "discovery = true")
            .with("id = \"demo\"", "id = \"porch.1\"")
            .at_speed("20.0");
        let retained = retained_after(&broker, &setup);
        assert_eq!(retained.iter().any(|retained| retained == topic), stays, "{described}: {retained:?}");
        assert!(retained.iter().any(|retained| retained.starts_with("homeassistant/device/porch_1-x")), "{retained:?}");
    }
}

#[test]
fn nothing_is_said_unless_it_is_asked_for() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("#");
    let setup = Setup::demo(broker.port);
    let daemon = setup.start(&[]);
    let lines = subscriber.until(|line| line.contains("/prediction "));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    assert!(!lines.iter().any(|line| line.starts_with("homeassistant/")), "{lines:?}");
}
