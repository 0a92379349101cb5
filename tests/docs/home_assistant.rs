//! Home Assistant's templates of our entities, rendered with the examples of docs/mqtt.md, with whatever can be null or
//! absent in them, and with an empty message: each gives a value or `None`, and no warning.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use edgewatt::config::{Config, ConfigError, Document};
use edgewatt::publish::discovery;
use edgewatt::publish::topic::NodeTopics;
use edgewatt_support::{program, root};
use serde_json::{Value, json};

/// Names with everything that a template could stumble over.
const NAMES: [&str; 7] = ["plain", "it's", "a\"b", "{{x}}", "{%if", "客厅", "items"];

/// A node with a pipeline of each decision that has entities of its own, and meters of those names.
fn described(meters: &[&str]) -> Value {
    let decisions = [
        ("classes", "decision.classify = {}\ngate.level = { threshold = 1.0, block_s = 5.0 }".to_owned()),
        ("level", "decision.threshold = { above = 0.5 }".to_owned()),
        ("it's-values", regress(&NAMES)),
        ("outputs", "decision.raw = {}".to_owned()),
        ("sounds", format!("decision.multi_label = {{ allow = {} }}", json!(NAMES))),
        ("agreed", "decision.consensus = {}".to_owned()),
        ("pump", "decision.anomaly = { threshold = 0.5, names = [\"it's\", \"a\\\"b\"] }".to_owned()),
        ("word", "decision.wake_word = { word = \"okay nabu\", cutoff = 0.85 }".to_owned()),
    ];
    let config = parse(&decisions, meters, "discovery = true").unwrap_or_else(|e| panic!("{e}"));
    discovery::payload(&config.described(&NodeTopics::new("edgewatt", "demo")), &[])
}

fn regress(names: &[&str]) -> String {
    format!("decision.regress = {{ names = {} }}", json!(names))
}

fn parse(pipelines: &[(&str, String)], meters: &[&str], mqtt: &str) -> Result<Config, ConfigError> {
    let (labels, model) = (root().join("models/labels.txt"), root().join("models/shoulder_int8.tflite"));
    let mut text = format!("[node]\nid = \"demo\"\n[mqtt]\nbroker = \"mqtt://localhost\"\n{mqtt}\n");
    for meter in meters {
        text += &format!("[power.meters.{}]\nestimate = {{ watts_per_core = 1.0, idle_watts = 1.0 }}\n", json!(meter));
    }
    for (name, decision) in pipelines {
        let needs_labels = ["classify", "multi_label", "consensus"].iter().any(|kind| decision.contains(kind));
        let labels = if needs_labels { format!("model.labels = {}\n", json!(labels)) } else { String::new() };
        text += &format!(
            "[pipelines.{}]\nwindow = {{ samples = 1, hop = 1 }}\n{decision}\nmodel.path = {}\n{labels}\
             source.replay = {{ path = \"d.csv\", records = {{ channels = [\"x\"], rate_hz = 1.0 }} }}\n",
            json!(name),
            json!(model),
        );
    }
    Document::new("c.toml", text).parse(None)
}

#[test]
fn names_that_would_take_each_other_s_place_in_home_assistant_are_refused_with_both() {
    let clash = [("a", regress(&["b_status"])), ("a_value_b", regress(&["x"]))];
    let refused = parse(&clash, &[], "discovery = true").unwrap_err().to_string();
    let told = ["pipelines.a_value_b", "pipeline `a` and pipeline `a_value_b`", "`a_value_b_status`"];
    assert!(told.iter().all(|part| refused.contains(part)), "{refused}");
    parse(&clash, &[], "discovery = false").unwrap();
    let own = ["status", "latency", "delegate", "score"];
    parse(&own.map(|name| (name, regress(&own))), &own, "discovery = true").unwrap();
}

/// The example of a section of docs/mqtt.md.
fn example(section: &str) -> Value {
    let page = std::fs::read_to_string(root().join("docs/mqtt.md")).unwrap();
    let (_, rest) = page.split_once(&format!("\n## `{section}`")).unwrap_or_else(|| panic!("no {section}"));
    let (_, rest) = rest.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split("```").next().unwrap()).unwrap()
}

/// The message, and the message with each of its parts null, and without each of them.
fn variants(message: &Value) -> Vec<Value> {
    fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(fields) => {
                fields.iter().map(|(key, inner)| (key.replace('~', "~0").replace('/', "~1"), inner)).collect()
            }
            Value::Array(items) => items.iter().enumerate().map(|(place, inner)| (place.to_string(), inner)).collect(),
            _ => Vec::new(),
        };
        for (key, inner) in inner {
            let path = format!("{path}/{key}");
            paths(inner, &path, found);
            found.push(path);
        }
    }
    let mut all = Vec::new();
    paths(message, "", &mut all);
    let without = all.iter().filter_map(|path| {
        let (parent, key) = path.rsplit_once('/')?;
        let mut message = message.clone();
        let key = key.replace("~1", "/").replace("~0", "~");
        message.pointer_mut(parent)?.as_object_mut()?.remove(&key)?;
        Some(message)
    });
    let null = all.iter().filter_map(|path| {
        let mut message = message.clone();
        *message.pointer_mut(path)? = Value::Null;
        Some(message)
    });
    std::iter::once(message.clone()).chain(without).chain(null).collect()
}

/// What a pipeline or a meter publishes on a topic.
fn messages(topic: &str) -> Vec<Value> {
    let mut all = match topic.rsplit('/').next().unwrap() {
        "metrics" => {
            let mut message = example("p/<pipeline>/metrics");
            // The names are others.
            for (place, name) in NAMES.iter().enumerate().take(2) {
                message["energy"][place]["meter"] = json!(name);
            }
            let saved = |name: &str| json!({ "meter": name, "status": "estimated", "from": "measured", "reason": null, "energy_j": 1.5 });
            message["gate"] = json!({ "open": true, "highest": 612.0, "saved": [saved(NAMES[0]), saved(NAMES[1])] });
            let mut silent = message.clone();
            silent["energy"] = json!([]);
            vec![message, silent]
        }
        "status" => {
            let mut message = example("p/<pipeline>/status");
            message["gate"] = json!({ "open": false, "since_ms": 7 });
            vec![message]
        }
        "state" if topic.contains("values") => {
            let values: serde_json::Map<String, Value> =
                NAMES.iter().map(|name| ((*name).to_owned(), json!(1.5))).collect();
            vec![json!({ "v": 1, "values": values })]
        }
        "state" | "prediction" if topic.contains("sounds") => vec![json!({
            "time_ms": 7, "label": "it's", "score": 0.9, "labels": { "it's": 0.9, "{{x}}": 0.8 }, "started": ["it's"],
        })],
        "state" | "prediction" if topic.contains("pump") => vec![json!({
            "time_ms": 7, "label": "a\"b", "score": 0.9, "changed": true, "threshold": 0.5,
        })],
        "state" | "prediction" => vec![example("p/<pipeline>/prediction"), json!({ "v": 1, "gate": "closed" })],
        _ => vec![example("power/<meter>")],
    };
    all = all.iter().flat_map(variants).collect();
    // A topic that is emptied: nothing is JSON, so that there is no `value_json`.
    all.push(Value::Null);
    all
}

/// Renders templates, each with a message. `None`, and says so, if Jinja is not installed.
fn render(templates: &[(String, Value)]) -> Option<Vec<(String, Vec<String>)>> {
    let python = program().ancestors().nth(2).unwrap().join("venv/bin/python");
    let has_jinja = Command::new(&python).args(["-c", "import jinja2"]).stderr(Stdio::null()).status();
    if !has_jinja.is_ok_and(|status| status.success()) {
        eprintln!("skipped: Jinja is not installed; `make test` installs it");
        return None;
    }
    let mut child = Command::new(python)
        .arg(root().join("tests/docs/templates.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "templates": templates }).to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn each_template_gives_a_value_or_none_for_whatever_is_published() {
    let (mut asked, mut seen) = (Vec::new(), BTreeSet::new());
    for meters in [&[][..], &NAMES[..1], &NAMES[..2]] {
        let description = described(meters);
        for (key, entity) in description["cmps"].as_object().unwrap() {
            let mut ask = |what: &str, topic: &Value, template: &Value| {
                let (topic, template) = (topic.as_str().unwrap(), template.as_str().unwrap());
                if !seen.insert((topic.to_owned(), template.to_owned())) {
                    return;
                }
                let numeric = entity.get("stat_cla").is_some();
                for message in messages(topic) {
                    asked.push((format!("{key} {what}"), numeric, (template.to_owned(), message)));
                }
            };
            ask("value", &entity["stat_t"], &entity["val_tpl"]);
            for available in entity["avty"].as_array().unwrap().iter().skip(1) {
                ask("available", &available["t"], &available["val_tpl"]);
            }
            if entity.get("json_attr_t").is_some() {
                ask("attributes", &entity["json_attr_t"], &entity["json_attr_tpl"]);
            }
        }
    }
    let templates: Vec<(String, Value)> = asked.iter().map(|(_, _, asked)| asked.clone()).collect();
    let Some(rendered) = render(&templates) else { return };
    let mut values = 0;
    for ((what, numeric, (template, message)), (text, warnings)) in asked.iter().zip(rendered) {
        let shown = format!("{what}: {template} gives {text:?} for {message}");
        assert!(warnings.is_empty(), "{shown}: {warnings:?}");
        match what.rsplit(' ').next().unwrap() {
            "available" => assert!(text == "online" || text == "offline", "{shown}"),
            "attributes" => assert!(serde_json::from_str::<Value>(&text).is_ok_and(|json| json.is_object()), "{shown}"),
            _ if text == "None" => {}
            _ => {
                values += 1;
                assert!(if *numeric { text.parse::<f64>().is_ok() } else { !text.is_empty() }, "{shown}");
            }
        }
    }
    assert!(asked.len() > 1000 && values > asked.len() / 4, "{values} values of {}", asked.len());
}

#[test]
fn a_closed_gate_makes_a_decision_unknown_and_is_a_binary_sensor() {
    let description = described(&NAMES[..1]);
    let entity = |key: &str| &description["cmps"][key];
    let gate = entity("classes_gate");
    assert_eq!((&gate["p"], &gate["name"]), (&"binary_sensor".into(), &"classes gate".into()));
    // An energy that can fall has no class in Home Assistant; a count that only grows has one.
    let saved = entity("classes_energy_saved");
    assert!(saved.get("dev_cla").is_none() && saved["stat_cla"] == "measurement" && saved["unit_of_meas"] == "J");
    assert_eq!(entity("classes_inferences_skipped")["stat_cla"], "total_increasing");
    assert!(description["cmps"].get("outputs_gate").is_none(), "it has no gate");
    let closed = json!({ "v": 1, "gate": "closed" });
    let Some(text) = rendered(entity("classes_prediction"), "/val_tpl", &closed) else { return };
    assert_eq!(text, "None");
    let is_open = |open: Value| rendered(gate, "/val_tpl", &json!({ "gate": { "open": open } })).unwrap();
    assert_eq!([json!(true), json!(false), Value::Null].map(is_open), ["ON", "OFF", "None"]);
}

#[test]
fn a_detection_is_an_event_and_a_window_without_one_is_none() {
    let description = described(&[]);
    let entity = &description["cmps"]["word_heard"];
    assert_eq!(entity["p"], "event");
    assert_eq!(entity["evt_typ"], json!(["okay nabu"]));
    let heard = json!({ "time_ms": 7, "label": "okay nabu", "score": 0.9 });
    let Some(text) = rendered(entity, "/val_tpl", &heard) else { return };
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event, json!({ "event_type": "okay nabu", "score": 0.9, "time_ms": 7 }));
    let nothing = json!({ "time_ms": 7, "label": null, "score": 0.9 });
    assert_eq!(rendered(entity, "/val_tpl", &nothing).unwrap(), "None");
}

#[test]
fn what_several_labels_a_consensus_and_an_anomaly_tell_becomes_binary_sensors_and_events() {
    let description = described(&[]);
    let entity = |key: &str| &description["cmps"][key];
    let label = |name: &str| {
        let named = description["cmps"].as_object().unwrap().values().find(|e| e["name"] == format!("sounds {name}"));
        named.unwrap()
    };
    assert_eq!(
        (&entity("pump_anomaly")["p"], &entity("pump_anomaly")["dev_cla"]),
        (&json!("binary_sensor"), &json!("problem"))
    );
    assert_eq!(
        (&entity("pump_change")["p"], &entity("pump_change")["evt_typ"]),
        (&json!("event"), &json!(["it's", "a\"b"]))
    );
    assert_eq!(label("it's")["p"], "binary_sensor");
    assert_eq!(entity("sounds_detected")["evt_typ"], json!(["detected"]));
    let sounds = json!({ "label": "it's", "labels": { "it's": 0.9, "{{x}}": 0.8 }, "started": ["{{x}}"] });
    let (silent, fault) = (json!({ "label": null, "labels": {} }), json!({ "label": null, "labels": null }));
    let alarm = json!({ "label": "a\"b", "score": 0.75, "changed": true, "threshold": 0.5, "time_ms": 7 });
    let decided = json!({ "label": "yes", "score": 0.9, "changed": true, "time_ms": 7 });
    for (entity, message, wanted) in [
        (label("it's"), &sounds, "ON"),
        (label("{{x}}"), &sounds, "ON"),
        (label("客厅"), &sounds, "OFF"),
        (label("it's"), &silent, "OFF"),
        (label("it's"), &fault, "None"),
        (entity("pump_anomaly"), &alarm, "ON"),
        (entity("pump_anomaly"), &json!({ "label": "it's" }), "OFF"),
        (entity("pump_anomaly"), &json!({ "label": null }), "None"),
        (entity("pump_change"), &json!({ "label": "a\"b" }), "None"),
        (entity("agreed_decided"), &json!({ "label": "uncertain", "changed": true }), "None"),
        (entity("agreed_decided"), &json!({ "label": "yes" }), "None"),
        (entity("sounds_detected"), &silent, "None"),
    ] {
        let Some(text) = rendered(entity, "/val_tpl", message) else { return };
        assert_eq!(text, wanted, "{} {message}", entity["name"]);
    }
    for (entity, message, wanted) in [
        (entity("pump_change"), &alarm, json!({ "event_type": "a\"b", "score": 0.75, "threshold": 0.5, "time_ms": 7 })),
        (
            entity("agreed_decided"),
            &decided,
            json!({ "event_type": "decided", "label": "yes", "score": 0.9, "time_ms": 7 }),
        ),
        (
            entity("sounds_detected"),
            &sounds,
            json!({ "event_type": "detected", "labels": sounds["labels"], "started": ["{{x}}"], "time_ms": null }),
        ),
    ] {
        let text = rendered(entity, "/val_tpl", message).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), wanted);
    }
}

/// The values of an entity's templates for one message.
fn rendered(entity: &Value, template: &str, message: &Value) -> Option<String> {
    let template = entity.pointer(template).and_then(Value::as_str).unwrap().to_owned();
    Some(render(&[(template, message.clone())])?.remove(0).0)
}

#[test]
fn entities_show_the_meter_that_they_are_of_and_no_prediction_of_a_pipeline_that_makes_none() {
    let description = described(&NAMES[..2]);
    let entities = &description["cmps"];
    let message = messages("/metrics").remove(0);
    let second = "classes_energy_per_inference";
    let all = entities.as_object().unwrap();
    let other = all.keys().find(|key| key.starts_with("classes_energy_per_inference_")).unwrap();
    for (key, place) in [(second, 1), (other.as_str(), 0)] {
        // The meters are in the order of their names: `it's` comes before `plain`.
        let Some(text) = rendered(&entities[key], "/val_tpl", &message) else { return };
        assert_eq!(text.parse::<f64>().unwrap(), message["energy"][place]["gross_j"].as_f64().unwrap(), "{key}");
        let attributes: Value =
            serde_json::from_str(&rendered(&entities[key], "/json_attr_tpl", &message).unwrap()).unwrap();
        assert_eq!(attributes["meter"], message["energy"][place]["meter"]);
        assert_eq!(attributes["estimated"], message["energy"][place]["status"] == "estimated");
        for field in ["status", "reason"] {
            assert_eq!(attributes[field], message["energy"][place][field], "{key}");
        }
    }
    for (predicting, state, shown) in
        [(true, "degraded", "online"), (false, "degraded", "offline"), (false, "paused", "offline")]
    {
        let status = json!({ "predicting": predicting, "state": state });
        assert_eq!(rendered(&entities["classes_prediction"], "/avty/1/val_tpl", &status).unwrap(), shown);
    }
}
