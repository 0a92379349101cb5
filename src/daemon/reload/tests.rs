//! Every key that is declared is changed once: the plan has a step for it, or refuses it by its name.
//!
//! Keys that belong to no kind are listed here with another value. The keys of kinds come from their declarations alone, and
//! so do the values to try: a new kind needs no edit here.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::plan::{PresentPipeline, Step, plan, restart_only};
use crate::config::{Config, Document, Root};
use crate::schema::expanded::Table as _;
use crate::schema::{Children, FamilyDoc, KeyDoc, KindDoc, TableDoc};

/// Switches on what can be switched on.
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

[power.meters.board]
gain_error = 0.01
reference = { gain = 1.0, date = "2026-11-30", what = "a bench supply" }
hwmon.chip = "ina219"
[power.meters.cpu.hwmon]
chip = "ina3221"
channel = 1
scope = "device"
[power.meters.gpu.hwmon]
chip = "ina3221"
channel = 2
scope = "device"
[power.meters.soc.hwmon]
chip = "ina3221"
channel = 3
scope = "device"

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
model = { path = "model.tflite", labels = "labels.txt" }
batch = { max = 4 }
decision.classify = {}

[pipelines.other]
delegate = "xnnpack"
source.lines = { from = "stdin", records = { channels = ["ax", "ay"], rate_hz = 50.0 } }
window = { samples = 200, hop = 50 }
model = { path = "model.tflite" }
decision.raw = {}
"#;

/// A key that belongs to no kind, and a value that [`BASE`] does not have.
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
    ("mqtt.max_qos", "0"),
    ("mqtt.retain", "false"),
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
    ("power.idle_watts_error", "0.03"),
    ("power.meters.board.gain_error", "0.02"),
    ("power.meters.board.offset_error_w", "0.01"),
    ("power.meters.board.reference.gain", "1.01"),
    ("power.meters.board.reference.offset_w", "0.01"),
    ("power.meters.board.reference.date", "'2026-12-01'"),
    ("power.meters.board.reference.what", "'another supply'"),
    ("power.target_rel", "0.06"),
    ("power.window_max_s", "59.0"),
    ("power.calibrate_at_start", "true"),
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
    ("pipelines.shoulder.window.samples", "199"),
    ("pipelines.shoulder.window.hop", "49"),
    ("pipelines.shoulder.window.max_gap_ms", "61.0"),
    ("pipelines.shoulder.model.path", "'other.tflite'"),
    ("pipelines.shoulder.model.sha256", "'b973abb09c1a00c9dce49d79374744d7ea9ea0c8512ae809b1e3034da5062ae5'"),
    ("pipelines.shoulder.model.max_mib", "64"),
    ("pipelines.shoulder.model.labels", "'other.txt'"),
    ("pipelines.shoulder.model.signature", "'infer'"),
    ("pipelines.shoulder.model.state", "{ a = 'b' }"),
    ("pipelines.shoulder.model.inputs", "{ a = ['ax'] }"),
    ("pipelines.shoulder.model.metadata", "false"),
    ("pipelines.shoulder.models.0.path", "'other.tflite'"),
    ("pipelines.shoulder.models.0.sha256", "'b973abb09c1a00c9dce49d79374744d7ea9ea0c8512ae809b1e3034da5062ae5'"),
    ("pipelines.shoulder.models.0.window.samples", "5"),
    ("pipelines.shoulder.models.0.window.hop", "3"),
    ("pipelines.shoulder.models.0.features.0", "{ detrend = {} }"),
    ("pipelines.shoulder.models.0.output", "[4, 2]"),
    ("pipelines.shoulder.models.0.delegate", "'cpu'"),
    ("pipelines.shoulder.publish.scores", "true"),
    ("pipelines.shoulder.publish.top_k", "10"),
    ("pipelines.shoulder.publish.qos", "0"),
];

/// A model that runs before that of [`BASE`], and gives a stream like that of its source.
const MODELS: &str = "[{ path = 'first.tflite', window = { samples = 4, hop = 2 }, output = [2, 2] }]";
/// Where the kinds of features stand a second time.
const FEATURES_OF_MODELS: &str = "pipelines.shoulder.models.0.features.0";

/// The names in [`BASE`], by the table that they are below of.
const NAMES: [(&str, &str); 3] = [("power.meters", "board"), ("delegates", "tpu"), ("pipelines", "shoulder")];
/// Keys for classes only, without which [`BASE`] takes every decision.
const FOR_CLASSES: [&str; 2] = ["pipelines.shoulder.source.replay.records.truth", "pipelines.shoulder.model.labels"];

fn base() -> Table {
    toml::from_str(BASE).unwrap()
}

fn value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}")).unwrap_or_else(|e| panic!("{text}: {e}"))["value"].clone()
}

/// Where `key` stands; what is around it is made if it is missing. A number is an element of an array.
fn place<'a>(root: &'a mut Table, key: &str) -> &'a mut Value {
    let mut segments = key.split('.');
    let first = segments.next().unwrap();
    let nothing = || Value::Table(Table::new());
    segments.fold(root.entry(first).or_insert_with(nothing), |at, segment| match segment.parse::<usize>() {
        Ok(index) => {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            let elements = at.as_array_mut().unwrap();
            elements.resize(elements.len().max(index + 1), nothing());
            &mut elements[index]
        }
        Err(_) => at.as_table_mut().unwrap_or_else(|| panic!("{key}")).entry(segment).or_insert_with(nothing),
    })
}

/// Sets a key, or takes it out.
fn set(root: &mut Table, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        *place(root, key) = value;
    } else {
        let (table, key) = key.rsplit_once('.').unwrap();
        place(root, table).as_table_mut().unwrap().remove(key);
    }
}

fn with(root: &Table, key: &str, value: Option<Value>) -> Table {
    let mut root = root.clone();
    set(&mut root, key, value);
    root
}

fn parse(root: &Table) -> Result<Config, String> {
    let document = Document::new("/etc/edgewatt/edgewatt.toml", root.to_string());
    document.parse(Some("host")).map_err(|error| error.to_string())
}

fn config(root: &Table) -> Config {
    parse(root).unwrap_or_else(|error| panic!("{error}"))
}

/// The file in which `key` is changed.
fn base_for(key: &str) -> Table {
    let models = is_below(key, "pipelines.shoulder.models").then(|| value(MODELS));
    models.map_or_else(base, |models| with(&base(), "pipelines.shoulder.models", Some(models)))
}

fn changed(key: &str, text: &str) -> Config {
    config(&with(&base_for(key), key, Some(value(text))))
}

fn steps(old: &Config, new: &Config) -> Vec<Step> {
    let present = |config| PresentPipeline { config, is_live: true, new_labels: false, new_engine: false };
    plan(old, new, &old.pipelines.iter().map(present).collect::<Vec<_>>())
}

/// What the declarations say.
#[derive(Default)]
struct Declared {
    /// The keys that belong to no kind.
    keys: BTreeSet<String>,
    families: Vec<Place>,
}

/// A place where one kind of a family stands.
struct Place {
    key: String,
    family: FamilyDoc,
}

impl Declared {
    fn find() -> Self {
        let mut declared = Self::default();
        declared.table("", &Root::doc());
        // Every file that this program reads has the same version.
        declared.keys.remove("version");
        declared
    }

    fn table(&mut self, at: &str, table: &TableDoc) {
        for key in &table.keys {
            let name = if at.is_empty() { key.key.to_owned() } else { format!("{at}.{}", key.key) };
            match &key.children {
                Children::None => _ = self.keys.insert(name),
                below => self.below(name, below),
            }
        }
        self.families.extend(table.kinds.clone().map(|family| Place { key: at.to_owned(), family }));
    }

    fn below(&mut self, at: String, children: &Children) {
        match children {
            Children::None => _ = self.keys.insert(at),
            Children::Table(table) => self.table(&at, table),
            Children::Family(family) => self.families.push(Place { key: at, family: family.clone() }),
            Children::Named(below) => {
                let name = NAMES.iter().find(|(table, _)| *table == at).unwrap_or_else(|| panic!("no name for {at}")).1;
                self.below(format!("{at}.{name}"), below);
            }
            Children::List(below) => self.below(format!("{at}.0"), below),
        }
    }

    /// Whether `key` is declared, or is below of what is declared.
    fn has(&self, key: &str) -> bool {
        let mut all = self.keys.iter().chain(self.families.iter().map(|place| &place.key));
        all.any(|declared| key == declared || is_below(key, declared))
    }
}

fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

/// A key of a kind, with the keys of its tables.
fn keys_of_kind(at: &str, table: &TableDoc) -> Vec<(String, KeyDoc)> {
    let key_and_below = |doc: &KeyDoc| {
        let key = format!("{at}.{}", doc.key);
        match &doc.children {
            Children::Table(below) => keys_of_kind(&key, below),
            _ => vec![(key, doc.clone())],
        }
    };
    // Of kinds below it, the first one: another source has the keys of the others.
    let kind = table.kinds.iter().flat_map(|family| family.kinds.first());
    let of_kind = |kind: &KindDoc| keys_of_kind(&format!("{at}.{}", kind.name), &kind.table);
    table.keys.iter().flat_map(key_and_below).chain(kind.flat_map(of_kind)).collect()
}

/// Values to try, from what the declaration says: those that it names, and others of the same type.
fn candidates(doc: &KeyDoc) -> Vec<Value> {
    let range = doc.range.iter().flat_map(|(low, high)| [low.as_str(), high]);
    let named = doc.example.into_iter().chain(doc.default.as_deref()).chain(doc.choices.iter().map(String::as_str));
    let mut named: Vec<Value> = named.chain(range).map(value).collect();
    named.extend(doc.choices.iter().map(|choice| Value::Array(vec![value(choice)])));
    named.iter().cloned().chain(named.iter().flat_map(others)).collect()
}

fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Boolean(is) => vec![Value::Boolean(!is)],
        Value::Integer(number) => vec![Value::Integer(number + 1), Value::Integer(number * 2)],
        Value::Float(number) => vec![Value::Float(number + 1.0), Value::Float(number / 2.0)],
        Value::String(text) => vec![Value::String(format!("{text}2"))],
        Value::Array(elements) => {
            let other = elements.iter().flat_map(|element| others(element).into_iter().take(1)).collect();
            let longer = elements.iter().cloned().chain(elements.last().into_iter().flat_map(others)).collect();
            let all =
                [Value::Array(other), Value::Array(longer), Value::Array(elements.iter().rev().cloned().collect())];
            // Of a single element, each other value: the first one may be invalid.
            let single = elements.iter().take(usize::from(elements.len() == 1)).flat_map(others);
            all.into_iter().chain(single.map(|other| Value::Array(vec![other]))).collect()
        }
        Value::Table(table) => {
            let one = |(key, value): (&String, &Value)| {
                others(value).into_iter().map(|other| (key.clone(), other)).collect::<Vec<_>>()
            };
            let with_one = |(key, other)| Value::Table(table.clone().into_iter().chain([(key, other)]).collect());
            table.iter().flat_map(one).map(with_one).collect()
        }
        Value::Datetime(_) => vec![],
    }
}

const SPECTRA: &str = "{ stft = { convention = 'librosa', frame_length = 512, hop_length = 160 } }";
const MEL_BANDS: &str = "{ log_mel = {} }";

/// Where the kind can stand: a front end that takes only what another one gives stands behind it.
fn place_of(at: &str, kind: &str) -> String {
    match (at.strip_suffix(".frontend.0"), kind) {
        (Some(pipeline), "log_mel") => format!("{pipeline}.frontend.1"),
        (Some(pipeline), "mfcc") => format!("{pipeline}.frontend.2"),
        _ => at.to_owned(),
    }
}

/// A valid file with this kind: its required keys, and others if it does not stand without them.
fn with_kind(at: &str, kind: &str, keys: &[(String, KeyDoc)]) -> Table {
    // A kind may take what the other pipeline has.
    let alone = with(&base(), "pipelines.other", None);
    let without_classes = FOR_CLASSES.iter().fold(alone.clone(), |root, key| with(&root, key, None));
    // What works on sound takes nothing else.
    let microphone = value("{ alsa = { card = 'Device', rate_hz = 16000 } }");
    let long = with(&without_classes, "pipelines.shoulder.window", Some(value("{ samples = 4096, hop = 2048 }")));
    let sound = with(&long, "pipelines.shoulder.source", Some(microphone));
    let spectra = with(&sound, "pipelines.shoulder.frontend.0", Some(value(SPECTRA)));
    let mel_bands = with(&spectra, "pipelines.shoulder.frontend.1", Some(value(MEL_BANDS)));
    let mut refusal = String::new();
    for base in [alone, without_classes, sound, spectra, mel_bands] {
        let mut root = with(&base, at, Some(value(&format!("{{ {kind} = {{}} }}"))));
        for (key, doc) in keys.iter().filter(|(_, doc)| doc.required) {
            let example = doc.example.unwrap_or_else(|| panic!("{key} must be written and has no example"));
            set(&mut root, key, Some(value(example)));
        }
        let mut optional = keys.iter().filter_map(|(key, doc)| Some((key, value(doc.example?))));
        let more = optional.by_ref().map(|(key, value)| with(&root, key, Some(value)));
        for root in std::iter::once(root.clone()).chain(more) {
            match parse(&root) {
                Ok(_) => return root,
                Err(error) => refusal = error,
            }
        }
    }
    panic!("no valid file with {at}.{kind} was found by the examples of its keys: {refusal}")
}

/// The file as it is, then with each other key of the kind taken out or written, for a key that needs that.
fn surroundings(root: &Table, key: &str, keys: &[(String, KeyDoc)]) -> Vec<Table> {
    let others = keys.iter().filter(|(other, _)| other != key);
    let changes = others.flat_map(|(other, doc)| [(other, None), (other, doc.example.map(value))]);
    std::iter::once(root.clone()).chain(changes.map(|(other, value)| with(root, other, value))).collect()
}

/// The valid files that have one of the key's values each, or none; a value that is the default is no other file.
fn with_each_value(root: &Table, key: &str, doc: &KeyDoc) -> Vec<Config> {
    let values = std::iter::once(None).chain(candidates(doc).into_iter().map(Some));
    let configs = values.filter_map(|value| parse(&with(root, key, value)).ok());
    let shown = |mut config: Config| {
        config.hash.clear();
        (format!("{config:?}"), config)
    };
    configs.map(shown).collect::<BTreeMap<String, Config>>().into_values().collect()
}

/// Whether a step tells the first of the files from another; none is refused.
fn are_told_apart(configs: &[Config], key: &str) -> bool {
    let Some((first, others)) = configs.split_first() else { return false };
    for other in others {
        assert_eq!(restart_only(first, other), [], "{key}");
    }
    others.iter().any(|other| !steps(first, other).is_empty())
}

/// Whether two values of the key, with all else the same, are told apart by a step. Where each value needs another key,
/// as a format needs its columns, that key differs too.
fn takes_effect(surroundings: &[Table], key: &str, doc: &KeyDoc) -> bool {
    let mut files = Vec::new();
    for root in surroundings {
        let configs = with_each_value(root, key, doc);
        if are_told_apart(&configs, key) {
            return true;
        }
        files.push(configs);
    }
    files.iter().all(|configs| configs.len() < 2) && are_told_apart(&files.concat(), key)
}

#[test]
fn each_key_of_each_kind_takes_effect() {
    let mut tried = 0;
    let families = Declared::find().families.into_iter().filter(|place| place.key != FEATURES_OF_MODELS);
    for Place { key: at, family } in families {
        let mut files: Vec<(&str, Config)> = Vec::new();
        for kind in &family.kinds {
            let at = place_of(&at, kind.name);
            let mut keys = keys_of_kind(&format!("{at}.{}", kind.name), &kind.table);
            // Tables of which every key may be left out are not in the file yet.
            keys.sort_by_key(|(_, doc)| !doc.required);
            let root = with_kind(&at, kind.name, &keys);
            // The values of these keys depend on each other, or on the stream's rate, so examples alone find no second file.
            let tried_by_key = if ["edge_impulse", "reader"].contains(&kind.name) { &[][..] } else { &keys[..] };
            for (key, doc) in tried_by_key {
                let surroundings = surroundings(&root, key, &keys);
                assert!(takes_effect(&surroundings, key, doc), "{key} is ignored");
                tried += 1;
            }
            let file = config(&root);
            for (other, before) in &files {
                assert_eq!(restart_only(before, &file), [], "{at}: {other} to {}", kind.name);
                assert!(!steps(before, &file).is_empty(), "{at}: {other} to {} is ignored", kind.name);
            }
            files.push((kind.name, file));
        }
    }
    assert!(tried > 50, "only {tried} keys were tried");
}

#[test]
fn each_key_of_no_kind_takes_effect_or_is_refused_by_its_name() {
    let declared = Declared::find();
    let is_tried = |key: &String| CHANGES.iter().any(|(tried, _)| tried == key || is_below(tried, key));
    let forgotten: Vec<&String> = declared.keys.iter().filter(|key| !is_tried(key)).collect();
    assert_eq!(forgotten, [""; 0], "declared, and not changed here");
    let unknown: Vec<&str> = CHANGES.iter().map(|(key, _)| *key).filter(|key| !declared.has(key)).collect();
    assert_eq!(unknown, [""; 0], "changed here, and not declared");

    let old = config(&base());
    assert_eq!((steps(&old, &old), restart_only(&old, &old)), (vec![], vec![]));
    for (key, value) in CHANGES {
        let old = config(&base_for(key));
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
    let old = config(&base());
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
    assert_eq!(steps(&old, &changed("power.meters.board.hwmon.channel", "2")), [Step::RestartMeters]);
    is("pipelines.shoulder.window.hop", Step::ChangeStages(shoulder()));
    is("pipelines.shoulder.publish.qos", Step::ChangeStages(shoulder()));
    is("delegates.tpu.restarts.max", Step::ChangeStages(shoulder()));
    is("pipelines.shoulder.realtime.priority", Step::ReplacePipeline(shoulder()));
    let buffer = changed("pipelines.shoulder.source.replay.buffer.samples", "4095");
    assert_eq!(steps(&old, &buffer), [Step::ReplacePipeline(shoulder())]);
}

#[test]
fn a_default_that_follows_from_the_meters_is_not_refused() {
    let mut root = with(&base(), "power.idle_s", None);
    let sensed = config(&root);
    root["power"].as_table_mut().unwrap().remove("meters");
    let without = config(&root);
    assert_ne!(sensed.power.quiet, without.power.quiet);
    assert_eq!(restart_only(&sensed, &without), []);
    assert_eq!(steps(&sensed, &without), [Step::RestartMeters]);
}

#[test]
fn pipelines_are_removed_before_others_change_and_files_count_as_changes() {
    let old = config(&base());
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
