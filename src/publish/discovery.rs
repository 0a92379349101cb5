//! What Home Assistant is told of this node, so that it shows it without being configured: one device, its entities.
//!
//! Pure: pipelines and meters in, JSON out. The format is Home Assistant's MQTT device discovery
//! (home-assistant.io/integrations/mqtt, "Device discovery payload"). Ids are made of the configuration's names alone, so
//! they stay the same over restarts, reloads and models.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::topic::NodeTopics;

/// What a pipeline decides, which says what there is to show of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Class,
    /// The names of the values.
    Values(Vec<String>),
    /// Lists of numbers, which Home Assistant has no entity for.
    Outputs,
}

/// What the node has.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub id: &'a str,
    pub topics: &'a NodeTopics,
    pub pipelines: Vec<(&'a str, Kind)>,
    pub meters: Vec<&'a str>,
    /// Between two metrics messages, in seconds.
    pub metrics_s: f64,
}

/// An id of letters, digits, `-` and `_`, which is all that Home Assistant allows in its topics.
pub(crate) fn id(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// Where the node's device is described, under the prefix, normally `homeassistant`.
pub(crate) fn topic(prefix: &str, node: &str) -> String {
    format!("{prefix}/device/{}/config", id(node))
}

/// Where Home Assistant says that it is there.
pub(crate) fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

/// The description, with an entry of its kind alone for each of `gone`, which removes it from Home Assistant.
pub(crate) fn payload(node: &Node<'_>, gone: &[(String, String)]) -> Value {
    let mut components = Map::new();
    for (name, kind) in &node.pipelines {
        components.extend(pipeline(node, name, kind));
    }
    for name in &node.meters {
        components.extend(meter(node, name));
    }
    for (key, platform) in gone {
        components.entry(key.clone()).or_insert_with(|| json!({ "p": platform }));
    }
    json!({
        "dev": {
            "ids": format!("edgewatt_{}", id(node.id)),
            "name": format!("edgewatt {}", node.id),
            "mf": "edgewatt",
            "sw": env!("CARGO_PKG_VERSION"),
        },
        "o": { "name": "edgewatt", "sw": env!("CARGO_PKG_VERSION") },
        "qos": 1,
        "cmps": components,
    })
}

/// The entities of an earlier description, each with its kind; nothing of what is no description.
pub(crate) fn components(payload: &Value) -> BTreeMap<String, String> {
    let listed = payload["cmps"].as_object();
    let platform = |(key, component): (&String, &Value)| Some((key.clone(), component["p"].as_str()?.to_owned()));
    listed.into_iter().flatten().filter_map(platform).collect()
}

/// What of the `before` ones the description `now` has no more.
pub(crate) fn gone(before: &BTreeMap<String, String>, now: &Value) -> Vec<(String, String)> {
    let is_gone = |(key, _): &(&String, &String)| now["cmps"].get(key.as_str()).is_none();
    before.iter().filter(is_gone).map(|(key, platform)| (key.clone(), platform.clone())).collect()
}

/// One entity: its key, and what it is.
fn entity(node: &Node<'_>, of: &str, thing: &str, rest: Value) -> (String, Value) {
    let key = format!("{}_{}", id(of), id(thing));
    let mut component = json!({ "p": "sensor", "uniq_id": format!("edgewatt_{}_{key}", id(node.id)) });
    merge(&mut component, rest);
    (key, component)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn pipeline(node: &Node<'_>, name: &str, kind: &Kind) -> Vec<(String, Value)> {
    let topics = node.topics.pipeline(name);
    let is_at_work = "{{ 'online' if value_json.state in ['running', 'degraded'] else 'offline' }}";
    let available = json!([
        { "t": node.topics.status.as_ref() },
        { "t": topics.status.as_ref(), "val_tpl": is_at_work },
    ]);
    // Figures of a pipeline that says nothing any more are no figures.
    let expire_s = (3.0 * node.metrics_s).ceil().max(10.0) as u64;
    let shown = |thing: &str, rest: Value| {
        let mut all = json!({ "name": format!("{name} {thing}"), "avty": available, "avty_mode": "all" });
        merge(&mut all, rest);
        entity(node, name, thing, all)
    };
    let decided = |template: String| json!({ "stat_t": topics.state.as_ref(), "val_tpl": template });
    let measured = |template: &str, unit: Option<&str>, rest: Value| {
        let mut all = json!({
            "stat_t": topics.metrics.as_ref(), "val_tpl": template, "exp_aft": expire_s, "stat_cla": "measurement",
        });
        if let Some(unit) = unit {
            merge(&mut all, json!({ "unit_of_meas": unit }));
        }
        merge(&mut all, rest);
        all
    };
    let mut entities = match kind {
        Kind::Class => vec![
            shown("prediction", decided("{{ value_json.label }}".into())),
            shown("score", {
                let mut score = decided("{{ value_json.score }}".into());
                merge(&mut score, json!({ "stat_cla": "measurement", "sug_dsp_prc": 2 }));
                score
            }),
        ],
        Kind::Values(names) => names
            .iter()
            .map(|value| {
                let template = format!("{{{{ value_json['values'][{}] }}}}", json!(value));
                let mut all = decided(template);
                merge(&mut all, json!({ "name": format!("{name} {value}"), "stat_cla": "measurement" }));
                // A value may be called as a figure is, such as latency.
                shown(&format!("value {value}"), all)
            })
            .collect(),
        Kind::Outputs => Vec::new(),
    };
    let precise = |places: u64| json!({ "sug_dsp_prc": places, "ent_cat": "diagnostic" });
    entities.extend([
        shown("inference rate", measured("{{ value_json.predictions_per_s }}", Some("1/s"), precise(2))),
        shown("latency", measured("{{ (value_json.latency_us.end_to_end or {}).p50 }}", Some("µs"), precise(0))),
        // No class: Home Assistant's energy is one that only grows.
        shown(
            "energy per inference",
            measured("{{ (value_json.energy | first | default({})).gross_j }}", Some("J"), precise(4)),
        ),
        shown("delegate", json!({
            "stat_t": topics.status.as_ref(), "val_tpl": "{{ value_json.delegate.active }}", "ent_cat": "diagnostic",
        })),
    ]);
    // Shown whatever the pipeline's own state is: it says why it does not work.
    entities.push(entity(
        node,
        name,
        "status",
        json!({
            "name": format!("{name} status"), "avty": [{ "t": node.topics.status.as_ref() }],
            "stat_t": topics.status.as_ref(), "val_tpl": "{{ value_json.state }}", "ent_cat": "diagnostic",
        }),
    ));
    entities
}

fn meter(node: &Node<'_>, name: &str) -> [(String, Value); 2] {
    let topic = node.topics.power(name);
    let available = json!([
        { "t": node.topics.status.as_ref() },
        { "t": topic.as_ref(), "val_tpl": "{{ 'online' if value_json.energy_j is not none else 'offline' }}" },
    ]);
    // Meters have names of their own, which may be those of pipelines.
    let of = format!("power {name}");
    let shown = |thing: &str, field: &str, unit: &str, state_class: &str| {
        entity(
            node,
            &of,
            thing,
            json!({
                "name": format!("{name} {thing}"), "avty": available, "avty_mode": "all", "stat_t": topic.as_ref(),
                "val_tpl": format!("{{{{ value_json.{field} }}}}"), "dev_cla": thing, "stat_cla": state_class,
                "unit_of_meas": unit, "sug_dsp_prc": 2,
            }),
        )
    };
    [shown("power", "power_w", "W", "measurement"), shown("energy", "energy_j", "J", "total_increasing")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<'a>(topics: &'a NodeTopics, pipelines: Vec<(&'a str, Kind)>) -> Node<'a> {
        Node { id: "porch.1", topics, pipelines, meters: vec!["board"], metrics_s: 10.0 }
    }

    #[test]
    fn every_entity_has_an_id_of_its_own_that_comes_from_names_alone() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        // Two that are called as figures of a pipeline are.
        let values = Kind::Values(["temperature_c", "it's", "status", "latency"].map(str::to_owned).to_vec());
        let payload =
            payload(&node(&topics, vec![("arm", Kind::Class), ("oven", values), ("raw", Kind::Outputs)]), &[]);
        assert_eq!(topic("homeassistant", "porch.1"), "homeassistant/device/porch_1/config");
        let components = payload["cmps"].as_object().unwrap();
        let mut ids: Vec<&str> = components.values().map(|c| c["uniq_id"].as_str().unwrap()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), count), (count, 7 + 9 + 5 + 2));
        assert!(ids.iter().all(|id| id.starts_with("edgewatt_porch_1_")), "{ids:?}");
        assert_eq!(components["arm_prediction"]["val_tpl"], "{{ value_json.label }}");
        assert_eq!(components["oven_value_it_s"]["val_tpl"], "{{ value_json['values'][\"it's\"] }}");
        assert_eq!(components["oven_value_it_s"]["name"], "oven it's");
        let energy = &components["power_board_energy"];
        assert_eq!((&energy["dev_cla"], &energy["stat_cla"]), (&"energy".into(), &"total_increasing".into()));
        assert_eq!((&energy["unit_of_meas"], &energy["stat_t"]), (&"J".into(), &"edgewatt/porch.1/power/board".into()));
        for component in components.values() {
            assert_eq!(component["avty"][0]["t"], "edgewatt/porch.1/status", "{component}");
        }
    }

    #[test]
    fn what_is_gone_is_taken_off() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        let before = payload(&node(&topics, vec![("arm", Kind::Class), ("leg", Kind::Class)]), &[]);
        let known = components(&before);
        let now = payload(&node(&topics, vec![("arm", Kind::Class)]), &[]);
        let gone = gone(&known, &now);
        assert!(gone.len() == 7 && gone.iter().all(|(key, _)| key.starts_with("leg_")), "{gone:?}");
        let told = payload(&node(&topics, vec![("arm", Kind::Class)]), &gone);
        assert_eq!(told["cmps"]["leg_prediction"], json!({ "p": "sensor" }));
        assert_eq!(told["cmps"]["arm_prediction"], before["cmps"]["arm_prediction"]);
        assert!(components(&json!("no description")).is_empty() && components(&Value::Null).is_empty());
    }
}
