//! The description of this node for Home Assistant, which then shows it without configuration: one device, its entities.
//!
//! Pure: pipelines and meters in, JSON out. The format is Home Assistant's MQTT device discovery
//! (home-assistant.io/integrations/mqtt, "Device discovery payload"). Ids are made only of names in the configuration, so
//! they stay the same across restarts, reloads and other models. Templates give `None` for a value that is not known:
//! Home Assistant ignores an empty text, and would go on to show the value before.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::topic::NodeTopics;
use crate::decision::Entity;
use crate::text::id;

/// What there is to describe.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub id: &'a str,
    pub topics: &'a NodeTopics,
    /// The pipelines, each with what is shown of its decision.
    pub pipelines: Vec<(&'a str, Vec<Entity>)>,
    /// Those of the pipelines that have a gate.
    pub gated: Vec<&'a str>,
    pub meters: Vec<&'a str>,
    /// Seconds between two metrics messages.
    pub metrics_s: f64,
}

/// Whose entity it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    Pipeline(&'a str),
    Meter(&'a str),
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipeline(name) => write!(f, "pipeline `{name}`"),
            Self::Meter(name) => write!(f, "meter `{name}`"),
        }
    }
}

/// One entity of the description.
#[derive(Debug, Clone, PartialEq)]
pub struct Component<'a> {
    pub owner: Owner<'a>,
    /// Its id within the node.
    pub key: String,
    pub description: Value,
}

/// Two entities of a node that would have the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash<'a> {
    pub key: String,
    pub first: Owner<'a>,
    pub second: Owner<'a>,
}

/// Returns the topic of the node's description, under the prefix, normally `homeassistant`.
pub fn topic(prefix: &str, node: &str) -> String {
    topic_of_id(prefix, &id(node))
}

/// Returns the topic on which earlier versions described the node, if it is another one. Nodes shared it whose names
/// differ only in characters other than letters, digits and `-`.
pub fn old_topic(prefix: &str, node: &str) -> Option<String> {
    let old_id: String = node.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    (old_id != id(node)).then(|| topic_of_id(prefix, &old_id))
}

fn topic_of_id(prefix: &str, id: &str) -> String {
    format!("{prefix}/device/{id}/config")
}

/// Returns the topic on which Home Assistant publishes that it has started.
pub fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

/// Returns the description; an entry with nothing but its platform for each of `gone` removes that entity.
pub fn payload(node: &Node<'_>, gone: &[(String, String)]) -> Value {
    let mut listed: Map<String, Value> = components(node).into_iter().map(|c| (c.key, c.description)).collect();
    for (key, platform) in gone {
        listed.entry(key.clone()).or_insert_with(|| json!({ "p": platform }));
    }
    json!({
        "dev": {
            "ids": format!("edgewatt_{}", id(node.id)),
            "name": device_name(node.id),
            "mf": "edgewatt",
            "sw": env!("CARGO_PKG_VERSION"),
        },
        "o": { "name": "edgewatt", "sw": env!("CARGO_PKG_VERSION") },
        "qos": 1,
        "cmps": listed,
    })
}

fn device_name(node: &str) -> String {
    format!("edgewatt {node}")
}

/// Returns the entities of the node.
fn components<'a>(node: &Node<'a>) -> Vec<Component<'a>> {
    let pipelines = node.pipelines.iter().flat_map(|(name, decided)| pipeline(node, name, decided));
    pipelines.chain(node.meters.iter().flat_map(|name| meter(node, name))).collect()
}

/// Returns the first two entities of the node that would have the same id.
pub fn clash<'a>(node: &Node<'a>) -> Option<Clash<'a>> {
    let mut seen: BTreeMap<String, Owner<'_>> = BTreeMap::new();
    components(node).into_iter().find_map(|component| {
        let first = seen.insert(component.key.clone(), component.owner)?;
        Some(Clash { key: component.key, first, second: component.owner })
    })
}

/// Returns the entities of an earlier description with their platforms; empty if it is not a description.
pub fn described(payload: &Value) -> BTreeMap<String, String> {
    let listed = payload["cmps"].as_object();
    let platform = |(key, component): (&String, &Value)| Some((key.clone(), component["p"].as_str()?.to_owned()));
    listed.into_iter().flatten().filter_map(platform).collect()
}

/// Returns whether a description is of the node of that name, by the device's name and the topics of its entities.
pub fn is_of(payload: &Value, node: &str, topics: &NodeTopics) -> bool {
    let is_ours = |component: &Value| component["avty"][0]["t"].as_str().is_none_or(|topic| *topic == *topics.status);
    payload["dev"]["name"] == device_name(node)
        && payload["cmps"].as_object().is_some_and(|listed| listed.values().all(is_ours))
}

/// Returns the entities of `before` that the description `now` does not have.
pub fn gone(before: &BTreeMap<String, String>, now: &Value) -> Vec<(String, String)> {
    let is_gone = |(key, _): &(&String, &String)| now["cmps"].get(key.as_str()).is_none();
    before.iter().filter(is_gone).map(|(key, platform)| (key.clone(), platform.clone())).collect()
}

/// Makes all templates bear a message that is not JSON: a topic that is emptied has one, with nothing in it.
fn bear_empty(description: &mut Value) {
    match description {
        Value::String(text) if text.contains("{{") => *text = text.replace("value_json", "(value_json | default({}))"),
        Value::Array(items) => items.iter_mut().for_each(bear_empty),
        Value::Object(fields) => {
            let templates = |(name, _): &(&String, &mut Value)| name.ends_with("_tpl") || *name == "avty";
            fields.iter_mut().filter(templates).for_each(|(_, value)| bear_empty(value));
        }
        _ => {}
    }
}

/// Returns one entity: `of` and `thing` are ids.
fn component<'a>(node: &Node<'_>, owner: Owner<'a>, of: &str, thing: &str, rest: Value) -> Component<'a> {
    let key = format!("{of}_{thing}");
    let mut description = json!({ "p": "sensor", "uniq_id": format!("edgewatt_{}_{key}", id(node.id)) });
    merge(&mut description, rest);
    bear_empty(&mut description);
    Component { owner, key, description }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// Returns a template for a part of the message, `None` if the message does not have it or has null.
fn value(of: &str) -> String {
    format!("{{{{ {of} | default(none) }}}}")
}

fn pipeline<'a>(node: &Node<'_>, name: &'a str, decided: &[Entity]) -> Vec<Component<'a>> {
    let topics = node.topics.pipeline(name);
    let available = |when: &str| {
        json!([
            { "t": node.topics.status.as_ref() },
            { "t": topics.status.as_ref(), "val_tpl": format!("{{{{ 'online' if {when} else 'offline' }}}}") },
        ])
    };
    // A decision from before a pause or a silence is not what is true now.
    let if_predicting = available("value_json.predicting | default(false)");
    let if_at_work = available("value_json.state in ['running', 'degraded']");
    let shown = |thing: &str, available: &Value, rest: Value| {
        let mut all = json!({
            "name": format!("{name} {}", thing.replace('_', " ")), "avty": available, "avty_mode": "all",
        });
        merge(&mut all, rest);
        component(node, Owner::Pipeline(name), &id(name), thing, all)
    };
    let of_decision = decided.iter().map(|entity| {
        let mut all = json!({ "stat_t": topics.state.as_ref(), "val_tpl": entity.template });
        if let Some(shown) = &entity.name {
            merge(&mut all, json!({ "name": format!("{name} {shown}") }));
        }
        if entity.is_measurement {
            merge(&mut all, json!({ "stat_cla": "measurement" }));
        }
        if let Some(precision) = entity.precision {
            merge(&mut all, json!({ "sug_dsp_prc": precision }));
        }
        if let Some(unit) = entity.unit {
            merge(&mut all, json!({ "unit_of_meas": unit }));
        }
        if let Some(class) = entity.device_class {
            merge(&mut all, json!({ "dev_cla": class }));
        }
        if entity.is_binary {
            merge(&mut all, json!({ "p": "binary_sensor" }));
        }
        if !entity.events.is_empty() {
            // Not from the retained topic, whose message Home Assistant gets again when it connects.
            merge(&mut all, json!({ "p": "event", "stat_t": topics.prediction.as_ref(), "evt_typ": entity.events }));
        }
        shown(&entity.id, &if_predicting, all)
    });
    // Figures expire if a pipeline publishes no new ones.
    let expire_s = (3.0 * node.metrics_s).ceil().max(10.0) as u64;
    let measured = |template: String, unit: &str, places: u64| {
        json!({
            "stat_t": topics.metrics.as_ref(), "val_tpl": template, "exp_aft": expire_s, "stat_cla": "measurement",
            "unit_of_meas": unit, "sug_dsp_prc": places, "ent_cat": "diagnostic",
        })
    };
    let mut all: Vec<Component<'_>> = of_decision.collect();
    let latency = "((value_json.latency_us | default({}, true)).end_to_end | default({}, true)).p50";
    all.extend([
        shown("inference_rate", &if_at_work, measured(value("value_json.predictions_per_s"), "1/s", 2)),
        shown("latency", &if_at_work, measured(value(latency), "µs", 0)),
    ]);
    // An energy by each meter; the first has the plain name.
    let by_meter = |thing: &str, list: &str, field: &str, attributes: &str| {
        let of = |(place, meter): (usize, Option<&str>)| {
            let of_meter =
                meter.map_or(String::new(), |meter| format!(" | selectattr('meter', 'eq', {})", json!(meter)));
            let figure = format!("({list} | default([], true){of_meter} | first | default({{}}))");
            // No class: in Home Assistant an energy must only grow.
            let mut rest = measured(value(&format!("{figure}.{field}")), "J", 4);
            merge(
                &mut rest,
                json!({
                    "json_attr_t": topics.metrics.as_ref(), "json_attr_tpl": attributes.replace("FIGURE", &figure),
                }),
            );
            match meter {
                Some(meter) if place > 0 => {
                    merge(&mut rest, json!({ "name": format!("{name} {} by {meter}", thing.replace('_', " ")) }));
                    shown(&format!("{thing}_{}", id(meter)), &if_at_work, rest)
                }
                _ => shown(thing, &if_at_work, rest),
            }
        };
        let meters: Vec<Option<&str>> =
            if node.meters.is_empty() { vec![None] } else { node.meters.iter().copied().map(Some).collect() };
        meters.into_iter().enumerate().map(of).collect::<Vec<Component<'_>>>()
    };
    let attributes = "{% set f = FIGURE %}{{ {'status': f.status | default(none), \
         'estimated': f.status | default(none) == 'estimated', 'reason': f.reason | default(none), \
         'uncertainty_j': f.gross_expanded_j | default(none), 'includes': f.uncertainty | default(none), \
         'meter': f.meter | default(none), 'scope': f.scope | default(none)} | tojson }}";
    all.extend(by_meter("energy_per_inference", "value_json.energy", "gross_j", attributes));
    if node.gated.contains(&name) {
        let is_open = "{% set open = (value_json.gate | default({}, true)).open | default(none) %}\
             {{ none if open is none else ('ON' if open else 'OFF') }}";
        let open = json!({ "p": "binary_sensor", "stat_t": topics.status.as_ref(), "val_tpl": is_open });
        all.push(shown("gate", &if_at_work, open));
        // Its unit is that of the stream, which is not known here.
        let level = json!({
            "stat_t": topics.metrics.as_ref(), "val_tpl": value("(value_json.gate | default({}, true)).highest"),
            "exp_aft": expire_s, "stat_cla": "measurement", "sug_dsp_prc": 1, "ent_cat": "diagnostic",
        });
        all.push(shown("highest_level", &if_at_work, level));
        let skipped = json!({
            "stat_t": topics.metrics.as_ref(), "val_tpl": value("(value_json.counts | default({}, true)).gated"),
            "exp_aft": expire_s, "stat_cla": "total_increasing", "sug_dsp_prc": 0, "ent_cat": "diagnostic",
        });
        all.push(shown("inferences_skipped", &if_at_work, skipped));
        let attributes = "{% set f = FIGURE %}{{ {'status': f.status | default(none), \
             'estimated': f.status | default(none) == 'estimated', 'from': f['from'] | default(none), \
             'meter': f.meter | default(none), 'reason': f.reason | default(none)} | tojson }}";
        all.extend(by_meter("energy_saved", "(value_json.gate | default({}, true)).saved", "energy_j", attributes));
    }
    let delegate = json!({
        "stat_t": topics.status.as_ref(), "val_tpl": value("(value_json.delegate | default({}, true)).active"), "ent_cat": "diagnostic",
    });
    all.push(shown("delegate", &if_at_work, delegate));
    // Available in every state of the pipeline: it shows why the pipeline does not work.
    all.push(component(
        node,
        Owner::Pipeline(name),
        &id(name),
        "status",
        json!({
            "name": format!("{name} status"), "avty": [{ "t": node.topics.status.as_ref() }],
            "stat_t": topics.status.as_ref(), "val_tpl": value("value_json.state"), "ent_cat": "diagnostic",
            "json_attr_t": topics.status.as_ref(),
            "json_attr_tpl": "{{ {'reason': value_json.reason | default(none)} | tojson }}",
        }),
    ));
    all
}

fn meter<'a>(node: &Node<'_>, name: &'a str) -> [Component<'a>; 2] {
    let topic = node.topics.power(name);
    let available = json!([
        { "t": node.topics.status.as_ref() },
        {
            "t": topic.as_ref(),
            "val_tpl": "{{ 'online' if value_json.energy_j | default(none) is not none else 'offline' }}",
        },
    ]);
    // A meter may have the same name as a pipeline.
    let of = format!("power_{}", id(name));
    let shown = |thing: &str, field: &str, unit: &str, state_class: &str| {
        component(
            node,
            Owner::Meter(name),
            &of,
            thing,
            json!({
                "name": format!("{name} {thing}"), "avty": available, "avty_mode": "all", "stat_t": topic.as_ref(),
                "val_tpl": value(&format!("value_json.{field}")), "dev_cla": thing, "stat_cla": state_class,
                "unit_of_meas": unit, "sug_dsp_prc": 2, "json_attr_t": topic.as_ref(),
                "json_attr_tpl": "{{ {'estimated': value_json.estimated | default(none), \
                    'reason': value_json.reason | default(none), 'kind': value_json.kind | default(none), \
                    'scope': value_json.scope | default(none)} | tojson }}",
            }),
        )
    };
    [shown("power", "power_w", "W", "measurement"), shown("energy", "energy_j", "J", "total_increasing")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::DecisionKind;
    use crate::decision::classify::Classify;
    use crate::decision::regress::Regress;

    fn class() -> Vec<Entity> {
        Classify { output: 0, scores: None, threshold: 0.0, smooth: 1, hysteresis: 0.0 }.entities()
    }

    fn node<'a>(topics: &'a NodeTopics, pipelines: Vec<(&'a str, Vec<Entity>)>) -> Node<'a> {
        Node { id: "porch.1", topics, pipelines, gated: Vec::new(), meters: vec!["board"], metrics_s: 10.0 }
    }

    #[test]
    fn every_entity_has_an_id_of_its_own_that_comes_from_names_alone() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        // Two that are called as figures of a pipeline are.
        let names = ["temperature_c", "it's", "status", "latency"].map(str::to_owned).to_vec();
        let values = Regress { output: 0, names, smooth: 1 }.entities();
        let payload = payload(&node(&topics, vec![("arm", class()), ("oven", values), ("raw", Vec::new())]), &[]);
        assert_eq!(topic("homeassistant", "porch.1"), "homeassistant/device/porch_1-x2850d6a3/config");
        let components = payload["cmps"].as_object().unwrap();
        let mut ids: Vec<&str> = components.values().map(|c| c["uniq_id"].as_str().unwrap()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), count), (count, 7 + 9 + 5 + 2));
        assert!(ids.iter().all(|id| id.starts_with("edgewatt_porch_1-x2850d6a3_")), "{ids:?}");
        assert_eq!(components["arm_prediction"]["val_tpl"], "{{ (value_json | default({})).label | default(none) }}");
        let quoted = &components["oven_value_it_s-x24ceef1c"];
        assert_eq!(
            quoted["val_tpl"],
            "{{ ((value_json | default({})).get('values') or {}).get(\"it's\") | default(none) }}"
        );
        assert_eq!(quoted["name"], "oven it's");
        let energy = &components["power_board_energy"];
        assert_eq!((&energy["dev_cla"], &energy["stat_cla"]), (&"energy".into(), &"total_increasing".into()));
        assert_eq!((&energy["unit_of_meas"], &energy["stat_t"]), (&"J".into(), &"edgewatt/porch.1/power/board".into()));
        for component in components.values() {
            assert_eq!(component["avty"][0]["t"], "edgewatt/porch.1/status", "{component}");
        }
    }

    #[test]
    fn every_energy_says_if_it_is_estimated_and_why_and_that_of_a_pipeline_has_its_status() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        let node = Node { gated: vec!["arm"], meters: vec!["board", "guess"], ..node(&topics, vec![("arm", class())]) };
        let payload = payload(&node, &[]);
        let mut seen = BTreeMap::new();
        for (key, entity) in payload["cmps"].as_object().unwrap() {
            if !matches!(entity["unit_of_meas"].as_str(), Some("J" | "W")) {
                continue;
            }
            assert_eq!(entity["json_attr_t"], entity["stat_t"], "{key}");
            let attributes = entity["json_attr_tpl"].as_str().unwrap();
            let is_of_pipeline = entity["stat_t"] == "edgewatt/porch.1/p/arm/metrics";
            let wanted: &[&str] =
                if is_of_pipeline { &["status", "estimated", "reason"] } else { &["estimated", "reason"] };
            for name in wanted {
                assert!(attributes.contains(&format!("'{name}': ")), "{key} has no {name}: {attributes}");
            }
            *seen.entry(is_of_pipeline).or_insert(0) += 1;
        }
        assert_eq!(
            seen,
            BTreeMap::from([(true, 4), (false, 4)]),
            "per inference and saved, by two meters; two of each meter"
        );
    }

    #[test]
    fn two_nodes_and_their_entities_have_ids_of_their_own_whatever_their_names_are() {
        let topics = ["客厅", "卧室"].map(|name| NodeTopics::new("edgewatt", name));
        let described = |id, topics| {
            let pipelines = vec![("温度", Vec::new()), ("湿度", class()), ("a.b", class()), ("a_b", class())];
            payload(
                &Node { id, topics, pipelines, gated: Vec::new(), meters: vec!["a.b", "a_b"], metrics_s: 10.0 },
                &[],
            )
        };
        let (first, second) = (described("客厅", &topics[0]), described("卧室", &topics[1]));
        assert_ne!(topic("homeassistant", "客厅"), topic("homeassistant", "卧室"));
        assert_ne!(first["dev"]["ids"], second["dev"]["ids"]);
        let count = first["cmps"].as_object().unwrap().len();
        assert_eq!(count, 6 + 3 * 8 + 2 * 2, "{first}");
        assert!(old_topic("homeassistant", "porch_1").is_none());
        assert_eq!(old_topic("homeassistant", "porch.1").unwrap(), topic("homeassistant", "porch_1"));
        assert!(is_of(&first, "客厅", &topics[0]));
        assert!(!is_of(&first, "卧室", &topics[1]) && !is_of(&Value::Null, "客厅", &topics[0]));
        // The same name below another base topic is another node.
        assert!(!is_of(&first, "客厅", &NodeTopics::new("edgewatt/site", "客厅")));
    }

    #[test]
    fn names_that_join_to_one_id_are_found() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        let values = |name: &str| Regress { output: 0, names: vec![name.to_owned()], smooth: 1 }.entities();
        let pipelines = vec![("a", values("b_status")), ("a_value_b", values("x"))];
        let found = clash(&node(&topics, pipelines)).unwrap();
        let (first, second) = (Owner::Pipeline("a"), Owner::Pipeline("a_value_b"));
        assert_eq!(found, Clash { key: "a_value_b_status".into(), first, second });
        let pipelines = vec![("power_x_value", Vec::new()), ("power_x", values("power"))];
        let found = clash(&Node { meters: vec!["x_value"], ..node(&topics, pipelines) }).unwrap();
        assert_eq!((found.first, found.second), (Owner::Pipeline("power_x"), Owner::Meter("x_value")));
        let same = vec!["status", "latency", "delegate", "score", "prediction"];
        let pipelines = same.iter().map(|name| (*name, values(name))).collect();
        assert_eq!(clash(&Node { meters: same, ..node(&topics, pipelines) }), None);
    }

    #[test]
    fn what_is_gone_is_taken_off() {
        let topics = NodeTopics::new("edgewatt", "porch.1");
        let before = payload(&node(&topics, vec![("arm", class()), ("leg", class())]), &[]);
        let known = described(&before);
        let now = payload(&node(&topics, vec![("arm", class())]), &[]);
        let gone = gone(&known, &now);
        assert!(gone.len() == 7 && gone.iter().all(|(key, _)| key.starts_with("leg_")), "{gone:?}");
        let told = payload(&node(&topics, vec![("arm", class())]), &gone);
        assert_eq!(told["cmps"]["leg_prediction"], json!({ "p": "sensor" }));
        assert_eq!(told["cmps"]["arm_prediction"], before["cmps"]["arm_prediction"]);
        assert!(described(&json!("no description")).is_empty() && described(&Value::Null).is_empty());
    }
}
