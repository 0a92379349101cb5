//! Every key of config/edgewatt.toml is changed once: the plan has a step for it, or refuses it by its name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::{Table, Value};

use super::plan::{PresentPipeline, Step, plan, restart_only};
use crate::config::{Config, Document};

/// Uses what there is of each kind, and switches on what can be switched on.
const BASE: &str = r#"
[node]
id = "porch"
state_dir = "/var/lib/edgewatt"

[mqtt]
broker = "mqtts://broker.lan"
user = "porch"
password_file = "password"
cert_file = "node.pem"
key_file = "node.key"
discovery = true

[mqtt.store]
path = "outbox.db"

[power]
idle_s = 12.0

[power.meters.package.rapl]
interface = "powercap"
[power.meters.board.hwmon]
chip = "ina219"
[power.meters.adc.iio]
chip = "ina219"
shunt_ohms = 0.1
[power.meters.chip.ina219]
bus = 1
address = 0x40
shunt_ohms = 0.1
[power.meters.rails.pmic]
[power.meters.trace.replay]
path = "power.csv"
time = "time_s"
watts = "power_w"
[power.meters.guess.estimate]
watts_per_core = 2.0
idle_watts = 2.5

[delegates.reference.cpu]
threads = 1
[delegates.fast.xnnpack]
threads = 1
[delegates.tpu.external]
library = "libedgetpu.so.1"
[delegates.tpu.restarts]
max = 5
per_s = 60.0
[delegates.lite.litert]
library = "libLiteRt.so"
accelerators = ["npu", "cpu"]

[pipelines.shoulder]
delegate = "tpu"
fallback = ["lite", "fast", "reference"]
source.replay.path = "recording.csv"
source.replay.records = { channels = ["ax", "ay"], rate_hz = 50.0, time = "time_s", truth = "exercise" }
window = { samples = 200, hop = 50 }
features = [{ standardize = { mean = [0.0, 0.0], std = [1.0, 1.0] } }]
model = { path = "model.tflite", labels = "labels.txt" }
batch = { max = 4 }
decision.classify = {}

[pipelines.other]
delegate = "xnnpack"
source.lines = { from = "stdin", records = { channels = ["ax", "ay"], rate_hz = 50.0 } }
window = { samples = 200, hop = 50 }
features = [{ scale = { factor = [1.0, 1.0] } }]
model = { path = "model.tflite" }
decision.regress = { names = ["temperature_c"] }
"#;

/// A key of config/edgewatt.toml, and a value that [`BASE`] does not have.
const CHANGES: &[(&str, &str)] = &[
    ("node.id", "'hall'"),
    ("node.state_dir", "'/srv/edgewatt'"),
    ("node.lock_memory", "true"),
    ("runtime.library", "'libtensorflowlite_c.so'"),
    ("mqtt.broker", "'mqtts://other.lan'"),
    ("mqtt.version", "'3.1.1'"),
    ("mqtt.user", "'hall'"),
    ("mqtt.password_file", "'other'"),
    ("mqtt.allow_plaintext_password", "true"),
    ("mqtt.ca_file", "'ca.pem'"),
    ("mqtt.cert_file", "'other.pem'"),
    ("mqtt.key_file", "'other.key'"),
    ("mqtt.alpn", "['mqtt']"),
    ("mqtt.drain_per_s", "1000"),
    ("mqtt.commands", "true"),
    ("mqtt.discovery", "false"),
    ("mqtt.discovery_prefix", "'ha'"),
    ("mqtt.client_id", "'other'"),
    ("mqtt.base_topic", "'other'"),
    ("mqtt.qos", "0"),
    ("mqtt.keep_alive_s", "31"),
    ("mqtt.connect_timeout_s", "6"),
    ("mqtt.inflight", "255"),
    ("mqtt.retry_min_ms", "501"),
    ("mqtt.retry_max_ms", "30001"),
    ("mqtt.stop_timeout_s", "6.0"),
    ("mqtt.queue.messages", "9999"),
    ("mqtt.queue.kib", "8191"),
    ("mqtt.queue.when_full", "'drop_newest'"),
    ("mqtt.queue.max_age_h", "71.0"),
    ("mqtt.store.enabled", "false"),
    ("mqtt.store.path", "'other.db'"),
    ("mqtt.store.commit_ms", "251"),
    ("mqtt.store.mib", "63"),
    ("metrics.interval_s", "9.0"),
    ("power.sysfs", "'/tmp/sys'"),
    ("power.sample_ms", "99"),
    ("power.interval_s", "0.0"),
    ("power.idle_s", "11.0"),
    ("power.idle_watts", "2.5"),
    ("power.target_rel", "0.06"),
    ("power.window_max_s", "59.0"),
    ("power.calibrate_at_start", "true"),
    ("power.meters.package.rapl.interface", "'perf'"),
    ("power.meters.board.hwmon.chip", "'ina226'"),
    ("power.meters.board.hwmon.device", "'1-0041'"),
    ("power.meters.board.hwmon.channel", "2"),
    ("power.meters.board.hwmon.label", "'VDD'"),
    ("power.meters.board.hwmon.scope", "'device'"),
    ("power.meters.adc.iio.chip", "'ina226'"),
    ("power.meters.adc.iio.device", "'1-0041'"),
    ("power.meters.adc.iio.shunt_ohms", "0.2"),
    ("power.meters.adc.iio.shunt_tolerance", "0.02"),
    ("power.meters.adc.iio.scope", "'device'"),
    ("power.meters.chip.ina219.bus", "2"),
    ("power.meters.chip.ina219.address", "0x41"),
    ("power.meters.chip.ina219.shunt_ohms", "0.2"),
    ("power.meters.chip.ina219.shunt_tolerance", "0.02"),
    ("power.meters.chip.ina219.max_amperes", "1.0"),
    ("power.meters.chip.ina219.max_volts", "26.0"),
    ("power.meters.chip.ina219.averages", "32"),
    ("power.meters.chip.ina219.scope", "'device'"),
    ("power.meters.trace.replay.path", "'other.csv'"),
    ("power.meters.trace.replay.time", "'t'"),
    ("power.meters.trace.replay.time_unit", "'ms'"),
    ("power.meters.trace.replay.watts", "'w'"),
    ("power.meters.trace.replay.joules", "'energy_j'"),
    ("power.meters.trace.replay.scope", "'device'"),
    ("power.meters.guess.estimate.watts_per_core", "3.0"),
    ("power.meters.guess.estimate.idle_watts", "3.0"),
    ("delegates.reference.cpu.threads", "2"),
    ("delegates.fast.xnnpack.threads", "2"),
    ("delegates.fast.xnnpack.flags", "['force_fp16']"),
    ("delegates.tpu.external.library", "'libother.so'"),
    ("delegates.tpu.external.options", "{ device = 'usb' }"),
    ("delegates.lite.litert.library", "'libother.so'"),
    ("delegates.lite.litert.accelerators", "['gpu']"),
    ("delegates.tpu.isolation", "'thread'"),
    ("delegates.tpu.start_timeout_s", "61.0"),
    ("delegates.tpu.deadline_ms", "2001.0"),
    ("delegates.tpu.memory_mib", "4095"),
    ("delegates.tpu.writable", "['/tmp']"),
    ("delegates.tpu.restarts.max", "4"),
    ("delegates.tpu.restarts.per_s", "61.0"),
    ("pipelines.shoulder.delegate", "'cpu'"),
    ("pipelines.shoulder.fallback", "['fast']"),
    ("pipelines.shoulder.parity.windows", "31"),
    ("pipelines.shoulder.parity.tolerance", "0.2"),
    ("pipelines.shoulder.parity.top1", "0.9"),
    ("pipelines.shoulder.parity.recording", "'windows.csv'"),
    ("pipelines.shoulder.parity.reference_model", "'reference.tflite'"),
    ("pipelines.shoulder.batch.max", "2"),
    ("pipelines.shoulder.batch.wait_ms", "1.0"),
    ("pipelines.shoulder.realtime.priority", "50"),
    ("pipelines.shoulder.realtime.cpus", "[0]"),
    ("pipelines.shoulder.source.replay.path", "'other.csv'"),
    ("pipelines.shoulder.source.replay.speed", "2.0"),
    ("pipelines.shoulder.source.replay.loop", "true"),
    ("pipelines.shoulder.source.lines.from", "{ fifo = 'samples' }"),
    ("pipelines.shoulder.source.replay.records.channels", "['ay', 'ax']"),
    ("pipelines.shoulder.source.replay.records.format", "'ndjson'"),
    ("pipelines.shoulder.source.replay.records.header", "false"),
    ("pipelines.shoulder.source.replay.records.columns", "['time_s', 'ax', 'ay', 'exercise']"),
    ("pipelines.shoulder.source.replay.records.rate_hz", "51.0"),
    ("pipelines.shoulder.source.replay.records.time", "'t'"),
    ("pipelines.shoulder.source.replay.records.time_unit", "'ms'"),
    ("pipelines.shoulder.source.replay.records.truth", "'label'"),
    ("pipelines.shoulder.source.replay.records.limits", "{ ax = [-16.0, 16.0] }"),
    ("pipelines.shoulder.source.replay.buffer.samples", "4095"),
    ("pipelines.shoulder.source.replay.buffer.when_full", "'wait'"),
    ("pipelines.shoulder.window.samples", "199"),
    ("pipelines.shoulder.window.hop", "49"),
    ("pipelines.shoulder.window.max_gap_ms", "61.0"),
    ("pipelines.shoulder.features.standardize.mean", "[1.0, 0.0]"),
    ("pipelines.shoulder.features.standardize.std", "[2.0, 1.0]"),
    ("pipelines.shoulder.features.scale.factor", "[2.0, 1.0]"),
    ("pipelines.shoulder.features.scale.offset", "[1.0, 0.0]"),
    ("pipelines.shoulder.model.path", "'other.tflite'"),
    ("pipelines.shoulder.model.sha256", "'b973abb09c1a00c9dce49d79374744d7ea9ea0c8512ae809b1e3034da5062ae5'"),
    ("pipelines.shoulder.model.max_mib", "64"),
    ("pipelines.shoulder.model.labels", "'other.txt'"),
    ("pipelines.shoulder.decision.classify.output", "1"),
    ("pipelines.shoulder.decision.classify.scores", "'logits'"),
    ("pipelines.shoulder.decision.classify.threshold", "0.1"),
    ("pipelines.shoulder.decision.classify.smooth", "2"),
    ("pipelines.shoulder.decision.classify.hysteresis", "0.1"),
    ("pipelines.shoulder.decision.regress.output", "1"),
    ("pipelines.shoulder.decision.regress.names", "['humidity']"),
    ("pipelines.shoulder.decision.regress.smooth", "2"),
    ("pipelines.shoulder.publish.scores", "true"),
    ("pipelines.shoulder.publish.qos", "0"),
];

/// What has to be changed with a key, so that the file stays valid: empty values remove a key.
const WITH_IT: &[(&str, &str, &str)] = &[
    ("power.meters.trace.replay.joules", "power.meters.trace.replay.watts", ""),
    (
        "pipelines.shoulder.source.replay.records.header",
        "pipelines.shoulder.source.replay.records.columns",
        "['time_s', 'ax', 'ay', 'exercise']",
    ),
    ("pipelines.shoulder.source.replay.records.columns", "pipelines.shoulder.source.replay.records.header", "false"),
];

/// Where [`BASE`] has a key of edgewatt.toml: alternatives are in its other pipeline.
fn place(key: &str) -> String {
    let other = ["source.lines", "decision.regress", "features.scale"];
    let pipeline = key.strip_prefix("pipelines.shoulder.").filter(|rest| other.iter().any(|o| rest.starts_with(o)));
    pipeline.map_or(key.to_owned(), |rest| format!("pipelines.other.{rest}"))
}

fn set(root: &mut Table, key: &str, value: &str) {
    let key = place(key);
    let mut segments: Vec<&str> = key.split('.').collect();
    let last = segments.pop().unwrap();
    let mut table = root;
    for segment in segments {
        table = match table.entry(segment).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table,
            // Of the features there is one.
            Value::Array(array) => array[0].as_table_mut().unwrap(),
            other => panic!("{key}: {other}"),
        };
    }
    if value.is_empty() {
        table.remove(last).unwrap();
    } else {
        let parsed: Table = toml::from_str(&format!("value = {value}")).unwrap();
        table.insert(last.to_owned(), parsed["value"].clone());
    }
}

fn config(root: &Table) -> Config {
    let document = Document { path: PathBuf::from("/etc/edgewatt/edgewatt.toml"), text: root.to_string() };
    document.parse(Some("host")).unwrap_or_else(|error| panic!("{error}"))
}

fn changed(key: &str, value: &str) -> Config {
    let mut root: Table = toml::from_str(BASE).unwrap();
    set(&mut root, key, value);
    for (_, other, value) in WITH_IT.iter().filter(|(with, _, _)| *with == key) {
        set(&mut root, other, value);
    }
    config(&root)
}

fn steps(old: &Config, new: &Config) -> Vec<Step> {
    let present = |config| PresentPipeline { config, is_live: true, new_labels: false, new_engine: false };
    plan(old, new, &old.pipelines.iter().map(present).collect::<Vec<_>>())
}

/// The keys of config/edgewatt.toml, those that are commented out included.
fn reference_keys() -> BTreeSet<String> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in include_str!("../../../config/edgewatt.toml").lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap().trim_start_matches('[').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

#[test]
fn each_key_takes_effect_or_is_refused_by_its_name() {
    let tried: BTreeSet<String> = CHANGES.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(tried, reference_keys(), "a key of config/edgewatt.toml is not tried here, or the other way round");

    let old = config(&toml::from_str(BASE).unwrap());
    assert_eq!((steps(&old, &old), restart_only(&old, &old)), (vec![], vec![]));
    for (key, value) in CHANGES {
        let new = changed(key, value);
        let refused: Vec<String> = restart_only(&old, &new).iter().map(ToString::to_string).collect();
        let steps = steps(&old, &new);
        let starts_with = |tables: &[&str]| tables.iter().any(|table| key.starts_with(table));
        let only_a_restart = starts_with(&["node.", "runtime.", "mqtt."]) && *key != "mqtt.qos"
            || ["power.idle_s", "power.calibrate_at_start"].contains(key);
        if only_a_restart {
            assert!(refused.contains(&(*key).to_owned()), "{key}: {refused:?}");
            // The client's id is made of the node's.
            assert!(refused.len() == 1 || *key == "node.id", "{key}: {refused:?}");
            assert_eq!(steps, [], "{key}");
        } else {
            assert_eq!(refused, [""; 0], "{key}");
            assert!(!steps.is_empty(), "{key} is ignored");
        }
    }
}

#[test]
fn a_step_does_what_the_key_needs_and_no_more() {
    let old = config(&toml::from_str(BASE).unwrap());
    let is = |key: &str, step: Step| {
        let value = CHANGES.iter().find(|(changed, _)| *changed == key).unwrap().1;
        assert_eq!(steps(&old, &changed(key, value)), [step], "{key}");
    };
    let shoulder = || "shoulder".to_owned();
    is("metrics.interval_s", Step::SetMetricsInterval);
    is("power.interval_s", Step::SetPowerInterval);
    is("power.target_rel", Step::SetPowerSettings);
    is("power.idle_watts", Step::SetPowerSettings);
    is("power.sample_ms", Step::RestartMeters);
    is("power.meters.board.hwmon.channel", Step::RestartMeters);
    is("pipelines.shoulder.window.hop", Step::ChangeStages(shoulder()));
    is("pipelines.shoulder.publish.qos", Step::ChangeStages(shoulder()));
    is("delegates.tpu.restarts.max", Step::ChangeStages(shoulder()));
    is("pipelines.shoulder.realtime.priority", Step::ReplacePipeline(shoulder()));
    is("pipelines.shoulder.source.replay.buffer.samples", Step::ReplacePipeline(shoulder()));
}

#[test]
fn a_default_that_follows_from_the_meters_is_not_refused() {
    let mut root: Table = toml::from_str(BASE).unwrap();
    set(&mut root, "power.idle_s", "");
    let sensed = config(&root);
    root["power"].as_table_mut().unwrap().remove("meters");
    let without = config(&root);
    assert_ne!(sensed.power.quiet, without.power.quiet);
    assert_eq!(restart_only(&sensed, &without), []);
    assert_eq!(steps(&sensed, &without), [Step::RestartMeters]);
}

#[test]
fn pipelines_are_removed_before_others_change_and_files_count_as_changes() {
    let old = config(&toml::from_str(BASE).unwrap());
    let mut new = old.clone();
    new.pipelines.retain(|pipeline| pipeline.name == "shoulder");
    new.pipelines.push(crate::config::Pipeline { name: "third".into(), ..old.pipelines[0].clone() });
    let (removed, added) = (Step::RemovePipeline("other".into()), Step::AddPipeline("third".into()));
    assert_eq!(steps(&old, &new), [removed, added]);

    let shoulder = old.pipelines.iter().find(|pipeline| pipeline.name == "shoulder").unwrap();
    let only = Config { pipelines: vec![shoulder.clone()], ..old.clone() };
    let of = |is_live, new_labels, new_engine| {
        plan(&only, &only, &[PresentPipeline { config: shoulder, is_live, new_labels, new_engine }])
    };
    assert_eq!(of(true, false, false), []);
    assert_eq!(of(false, false, false), [], "its stream has ended, and nothing is to be done again");
    assert_eq!(of(true, false, true), [Step::ChangeStages("shoulder".into())]);
    assert_eq!(of(false, false, true), [Step::ReplacePipeline("shoulder".into())]);
    // The source names the true labels by the list that has changed.
    assert_eq!(of(true, true, false), [Step::ReplacePipeline("shoulder".into())]);
}
