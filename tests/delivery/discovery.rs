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
        let template = component["val_tpl"].as_str().unwrap();
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
