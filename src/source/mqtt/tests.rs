//! The keys: what is refused, and what is right.

use std::path::Path;

use super::*;
use crate::config::Document;
use crate::schema::Problem;
use crate::source::Source;

/// The problems with a source of these keys, a line each.
fn problems(keys: &str) -> String {
    let mut source: Source = toml::from_str(&format!("mqtt = {{ {keys} }}")).unwrap();
    let mut checker = Checker::new(Path::new("/etc/edgewatt"));
    source.check(&Key::new(&["source"]), &mut checker);
    let shown = |problem: Problem| format!("{}: {}", problem.key, problem.message);
    checker
        .finish(Some(()))
        .map_or_else(|all| all.into_iter().map(shown).collect::<Vec<_>>().join("\n"), |()| "".into())
}

const RECORDS: &str = "topic = \"s\", records = { channels = [\"x\"], format = \"ndjson\" }";

#[test]
fn each_mistake_is_told_with_what_is_right() {
    assert_eq!(problems(RECORDS), "");
    for (keys, words) in [
        ("topic = \"a/#/b\", bytes = { format = \"s16le\" }".to_owned(), "source.mqtt.topic: `a/#/b`: `#` is the last"),
        (format!("{RECORDS}, qos = 2"), "source.mqtt.qos: 2 is not supported"),
        (
            format!("{RECORDS}, qos = 0, session = \"persistent\""),
            "source.mqtt.session: a session keeps messages of QoS 1",
        ),
        (format!("{RECORDS}, user = \"u\""), "source.mqtt.user: it is for another broker; write its address in broker"),
        (format!("{RECORDS}, version = \"5\""), "source.mqtt.version: it is for another broker"),
        (format!("{RECORDS}, broker = \"none\""), "source.mqtt.broker: write the address of a broker"),
        (format!("{RECORDS}, broker = \"embedded\""), "source.mqtt.broker: write the address of a broker"),
        (format!("{RECORDS}, broker = \"http://h\""), "source.mqtt.broker: `http://h`: this scheme"),
        (format!("{RECORDS}, broker = \"mqtt://h\", ca_file = \"c\""), "source.mqtt.ca_file: it is for TLS only"),
        (
            format!("{RECORDS}, broker = \"mqtt://h\", user = \"u\""),
            "source.mqtt.user: the password is missing: write it",
        ),
        (
            format!("{RECORDS}, broker = \"mqtt://h\", password_file = \"p\""),
            "source.mqtt.password_file: password_file needs source.mqtt.user",
        ),
        (
            format!("{RECORDS}, broker = \"mqtt://h\", user = \"u\", password_file = \"p\""),
            "source.mqtt.broker: the password would be sent to h without encryption",
        ),
        (format!("{RECORDS}, client_id = \"$X\""), "source.mqtt.client_id: `$X` is taken as it is written"),
        (
            "topic = \"s\", records = { channels = [\"x\"] }".to_owned(),
            "source.mqtt.records: messages have no header; name all columns",
        ),
        (
            "topic = \"s\", max_kib = 1, bytes = { format = \"s16le\", channels = 513 }".to_owned(),
            "source.mqtt.max_kib: a frame has 1026 bytes; raise max_kib",
        ),
    ] {
        assert!(problems(&keys).contains(words), "{words} in: {}", problems(&keys));
    }
}

/// The problems of a whole configuration with this source.
fn refusal(mqtt: &str, source: &str) -> String {
    let text = format!(
        "node.id = 'porch'\n[mqtt]\n{mqtt}\n[pipelines.p]\nwindow = {{ samples = 1, hop = 1 }}\nmodel.path = 'm.tflite'\n\
         decision.raw = {{}}\n[pipelines.p.source]\nmqtt = {{ {source} }}\n"
    );
    let parsed = Document::new("f.toml", text).parse(None);
    parsed.map_or_else(|error| error.to_string(), |_| String::new())
}

#[test]
fn a_node_does_not_subscribe_to_what_it_publishes() {
    const HOME: &str = "broker = 'mqtt://h'";
    let records = "records = { channels = [\"x\"], format = \"ndjson\" }";
    let of = |mqtt: &str, topic: &str| refusal(mqtt, &format!("topic = \"{topic}\", {records}"));
    for topic in ["#", "+/+/status", "edgewatt/#", "edgewatt/porch/p/p/prediction", "$share/g/edgewatt/+/p/+/state"] {
        let refused = of(HOME, topic);
        let words = "matches topics that this node itself publishes (edgewatt/porch/#)";
        assert!(refused.contains("pipelines.p.source.mqtt.topic: ") && refused.contains(words), "{topic}: {refused}");
    }
    for topic in ["edgewatt/cellar/p/mic/prediction", "tele/+/SENSOR", "homeassistant/#", "zigbee2mqtt/+"] {
        assert_eq!(of(HOME, topic), "", "{topic}");
    }
    let announced = of("broker = 'mqtt://h'\ndiscovery = true", "homeassistant/#");
    assert!(announced.contains("(homeassistant/"), "{announced}");
    let other = of("broker = 'mqtt://h'\nbase_topic = 'b'", "edgewatt/porch/#");
    assert_eq!(other, "");

    let nowhere = of("broker = 'none'", "s");
    assert!(nowhere.contains("there is no broker to subscribe to; write its address in broker"), "{nowhere}");
    let elsewhere = refusal("broker = 'none'", &format!("topic = \"s\", broker = \"mqtt://h\", {records}"));
    assert_eq!(elsewhere, "");
    let twin = refusal(HOME, &format!("topic = \"s\", client_id = \"edgewatt-porch\", {records}"));
    assert!(twin.contains("the node itself connects with this client id"), "{twin}");
}

#[test]
fn errors_name_the_keys_of_this_source() {
    let said = "it refused the login: user or password is wrong; check mqtt.user and mqtt.password_file".to_owned();
    let source = |keys: &str| {
        let source: Source = toml::from_str(&format!("mqtt = {{ {RECORDS}{keys} }}")).unwrap();
        source.kind().subscriptions().remove(0).subscription
    };
    assert_eq!(source("").in_its_words(said.clone()), said, "the node's login");
    let other = source(", broker = \"mqtt://h\"").in_its_words(said);
    assert!(other.ends_with("check source.mqtt.user and source.mqtt.password_file"), "{other}");
    let id = "set node.id or mqtt.client_id; no answer in time (mqtt.connect_timeout_s)".to_owned();
    let expected = "set node.id or source.mqtt.client_id; no answer in time (mqtt.connect_timeout_s)";
    assert_eq!(source("").in_its_words(id), expected);
}
